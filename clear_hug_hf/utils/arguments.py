"""
Settings as dataclasses, and the parser that turns their fields into options of a command line or a YAML file.

A field declares its help text, and the values it accepts, in its metadata:

- `help`: one sentence for the command line;
- `ge`, `gt`, `le`, `lt`: bounds of a number, or of each number in a list;
- `choices`: the values it accepts, where they are known only at run time (a `Literal` type says the others);
- `metavar`: what the help calls its value;
- `positional`: whether the command line takes it without its name;
- `option`: `False` if the command line does not have it.

Other keys, such as `nargs`, go to argparse as they are.
"""

from __future__ import annotations

import argparse
import copy
import difflib
import json
import operator
import types
import typing
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import MISSING, Field, dataclass, fields
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..processing.errors import InputError


_BOUNDS = {
    "ge": (operator.ge, "at least"),
    "gt": (operator.gt, "greater than"),
    "le": (operator.le, "at most"),
    "lt": (operator.lt, "less than"),
}
_OWN_METADATA = {*_BOUNDS, "positional", "option"}
_METAVARS = {int: "N", float: "X", str: "NAME", Path: "PATH"}


@dataclass
class Arguments:
    """
    Settings that check themselves: a subclass states the fields.

    Raises:
        InputError: If a value is outside its bounds or choices; the message names the field.
    """

    def __post_init__(self) -> None:
        hints = typing.get_type_hints(type(self))
        for setting in (one for one in fields(self) if one.init):
            kind, value = _without_none(hints[setting.name]), getattr(self, setting.name)
            item_kind = _item_kind(kind) or kind
            if item_kind is Path and value is not None:
                value = [Path(item) for item in value] if isinstance(value, list | tuple) else Path(value)
                setattr(self, setting.name, value)
            for item in value if isinstance(value, list | tuple) else (value,):
                if item is not None:
                    _check(setting, item, _choices(setting, item_kind))


def _check(setting: Field, value: Any, choices: Sequence[Any]) -> None:
    if choices and value not in choices:
        raise InputError(f"{setting.name} is {value!r}: choose from {', '.join(map(str, choices))}")
    for name, (holds, words) in _BOUNDS.items():
        bound = setting.metadata.get(name)
        if bound is not None and not holds(value, bound):
            raise InputError(f"{setting.name} is {value}: it must be {words} {bound}")


def _choices(setting: Field, item_kind: Any) -> tuple[Any, ...]:
    """The values that a field accepts, if they are known."""
    if typing.get_origin(item_kind) is typing.Literal:
        return typing.get_args(item_kind)
    return tuple(setting.metadata.get("choices", ()))


def nearest(name: str, known: Iterable[str]) -> str:
    """The end of a message about an unknown name: the known one that is most like it, or all of them."""
    known = list(known)
    matches = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f": did you mean {matches[0]!r}?" if matches else f": choose from {', '.join(known)}"


def _without_none(kind: Any) -> Any:
    """`X` for the type hint `X | None`."""
    if typing.get_origin(kind) in (types.UnionType, typing.Union):
        return next(part for part in typing.get_args(kind) if part is not types.NoneType)
    return kind


def _item_kind(kind: Any) -> Any:
    """`X` for the type hint `list[X]`, otherwise `None`."""
    return typing.get_args(kind)[0] if typing.get_origin(kind) is list else None


# ------------------------------------------------------------------------------------------------------ command line

if TYPE_CHECKING:
    from transformers import HfArgumentParser
else:
    # The file needs nothing else of transformers, whose import alone takes longer than `--help` may.
    _transformers = find_spec("transformers")
    _spec = spec_from_file_location("_hf_argparser", Path(_transformers.origin).with_name("hf_argparser.py"))
    _module = module_from_spec(_spec)
    _spec.loader.exec_module(_module)
    HfArgumentParser = _module.HfArgumentParser


class ArgumentParser(HfArgumentParser):
    """
    Options from the fields of dataclasses, each overridden by nothing, a YAML file (`--config`), then the words.

    Args:
        dataclass_types (`Sequence[type]`): Their fields become the options. Positional ones come first.
        **settings: As for `argparse.ArgumentParser`.
    """

    def __init__(self, dataclass_types: Sequence[Any], **settings: Any) -> None:
        settings.setdefault("formatter_class", argparse.RawDescriptionHelpFormatter)
        super().__init__(dataclass_types, allow_abbrev=False, **settings)
        self.add_argument(
            "--config",
            type=Path,
            metavar="FILE",
            default=argparse.SUPPRESS,
            help="a YAML file with values of the options below, by name; options on the command line override it",
        )
        required = [action for action in self._actions if action.required]
        words = [*(_usage(action) for action in required), "[options]"]
        self.usage = f"%(prog)s {' '.join(words)}"
        self._required = {action.dest: _usage(action).split()[0] for action in required}
        # A YAML file may hold some of them, and the words the others.
        for action in required:
            action.required, action.default = False, argparse.SUPPRESS

    def _add_dataclass_arguments(self, dtype: Any) -> None:
        """Add the fields that are options; those of the parent class without its dependence on argparse's defaults."""
        hints = typing.get_type_hints(dtype)
        group = self.add_argument_group(dtype._group) if hasattr(dtype, "_group") else self
        for setting in fields(dtype):
            if setting.init and setting.metadata.get("option", True):
                setting.type = hints[setting.name]
                self._parse_dataclass_field(group, setting)

    @staticmethod
    def _parse_dataclass_field(parser: Any, setting: Field) -> None:
        """
        An option as `HfArgumentParser` makes it, but: a truth value takes no word, so that it cannot swallow a
        positional one; a mapping is `NAME=VALUE ...`; defaults stay with the dataclass.
        """
        metadata = {name: value for name, value in setting.metadata.items() if name not in _OWN_METADATA}
        kind = _without_none(setting.type)
        item_kind = _item_kind(kind) or kind
        default = setting.default_factory() if setting.default_factory is not MISSING else setting.default
        if default not in (MISSING, None, "", [], {}) and not isinstance(default, bool):
            shown = " ".join(map(str, default)) if isinstance(default, list | tuple) else default
            metadata["help"] += f" (default: {shown})"
        if default is True:
            metadata["help"] += " (default: yes)"
        metadata["help"] = metadata["help"].replace("%", "%%")
        if not (choices := _choices(setting, item_kind)) and kind is not bool:
            metadata.setdefault("metavar", "NAME=VALUE" if typing.get_origin(kind) is dict else _METAVARS[item_kind])
        if setting.metadata.get("positional"):
            several: dict[str, Any] = {"nargs": "+"} if kind is not item_kind else {}
            parser.add_argument(setting.name, type=item_kind, **several, **metadata)
            return
        before = len(parser._actions)
        options = dict.fromkeys((f"--{setting.name}", f"--{setting.name.replace('_', '-')}"))
        if kind is bool:
            negations = (f"--no_{setting.name}", f"--no-{setting.name.replace('_', '-')}")
            parser.add_argument(*options, *negations, action=_Flag, **metadata)
        elif typing.get_origin(kind) is dict:
            parser.add_argument(*options, nargs="+", type=_name_and_value, action=_Pairs, **metadata)
        elif kind is not item_kind:
            several = {"nargs": "+", **metadata, "choices": choices or None}
            parser.add_argument(*options, type=str if choices else item_kind, **several)
        else:
            plain = copy.copy(setting)
            plain.metadata = types.MappingProxyType(metadata)
            HfArgumentParser._parse_dataclass_field(parser, plain)
        for action in parser._actions[before:]:
            action.default = argparse.SUPPRESS
            action.required = default is MISSING
            # Underscores are understood, and not shown.
            action.option_strings = [text for text in action.option_strings if "_" not in text]
            if default is False:
                action.option_strings = action.option_strings[:1]

    def parse(self, words: Sequence[str]) -> tuple[Any, ...]:
        """
        The dataclasses, from words of a command line and the YAML file that they may name.

        Raises:
            FileNotFoundError: If there is no such file.
            InputError: If an option is unknown (it names the nearest one) or missing, or a value does not fit.
        """
        values = self._values(words)
        return self._build(self._read(values.pop("config", None)), values)

    def read(self, path: Path | None, overrides: Mapping[str, Any]) -> tuple[Any, ...]:
        """The dataclasses, from a YAML file and what overrides it, by name; errors as [`ArgumentParser.parse`]."""
        return self._build(self._read(path), self._values(self._words(overrides, "the settings"), "the settings: "))

    def _read(self, path: Path | None) -> dict[str, Any]:
        return {} if path is None else self._values(self._words(_read_yaml(path), str(path)), f"{path}: ")

    def error(self, message: str) -> typing.NoReturn:
        """Raise what argparse would print with the usage."""
        raise InputError(message)

    def _values(self, words: Sequence[str], where: str = "") -> dict[str, Any]:
        """The values that are there, by name."""
        try:
            values, unknown = self.parse_known_args(words)
        except InputError as error:
            raise InputError(f"{where}{error}") from error
        if unknown:
            known = [text for action in self._actions for text in action.option_strings]
            option = unknown[0].partition("=")[0]
            if not option.startswith("-"):
                raise InputError(f"{where}there is no place for {option!r}: check the words before it")
            raise InputError(f"{where}there is no option {option}{nearest(option, known)}")
        return vars(values)

    def _words(self, settings: Mapping[str, Any], where: str) -> list[str]:
        """Values by name as words of a command line, which checks and converts them."""
        options = {action.dest: action for action in self._actions if action.option_strings}
        words: list[str] = []
        for name, value in settings.items():
            if (action := options.get(str(name).replace("-", "_"))) is None or name in ("help", "config"):
                known = [name for name in options if name not in ("help", "config")]
                raise InputError(f"{where} has an unknown field {name!r}{nearest(str(name), known)}")
            option = f"--{action.dest}"
            if isinstance(action, _Flag):
                if not isinstance(value, bool):
                    raise InputError(f"{where}: {name} is {value!r}: it must be true or false")
                words.append(option if value else f"--no_{action.dest}")
            elif isinstance(value, Mapping):
                words += [option, *(f"{key}={json.dumps(item)}" for key, item in value.items())] if value else []
            elif isinstance(value, list | tuple):
                words += [option, *map(str, value)]
            elif value is not None:
                # YAML takes the word `no` for a truth value.
                words.append(f"{option}={'no' if value is False else value}")
        return words

    def _build(self, values: dict[str, Any], overrides: dict[str, Any]) -> tuple[Any, ...]:
        for name, value in overrides.items():
            values[name] = {**values.get(name, {}), **value} if isinstance(value, dict) else value
        if missing := [shown for name, shown in self._required.items() if name not in values]:
            raise InputError(f"{missing[0]} is required: --help explains it")
        return tuple(
            kind(**{setting.name: values[setting.name] for setting in fields(kind) if setting.name in values})
            for kind in self.dataclass_types
        )


class _Flag(argparse.Action):
    """A truth value: `--name` or `--no-name`."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(nargs=0, **settings)

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        setattr(namespace, self.dest, not (option_string or "").startswith(("--no-", "--no_")))


class _Pairs(argparse.Action):
    """Collects the pairs of one option, given once or several times."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        setattr(namespace, self.dest, {**getattr(namespace, self.dest, {}), **dict(values)})


def _read_yaml(path: Path) -> dict[str, Any]:
    """The values of a YAML file by name."""
    import yaml

    if not path.is_file():
        raise FileNotFoundError(f"the settings {path} do not exist: check the path after --config")
    try:
        settings = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is not a YAML file: {' '.join(str(error).split())}") from error
    if not isinstance(settings, dict):
        raise InputError(f"{path} must hold lines of `name: value`")
    return settings


def _name_and_value(text: str) -> tuple[str, Any]:
    """The pair of a word `NAME=VALUE`, whose value is JSON, a list or mapping of YAML, or else a string."""
    import yaml

    name, separator, value = text.partition("=")
    if not separator:
        raise argparse.ArgumentTypeError(f"{text} is not of the form NAME=VALUE")
    try:
        return name, json.loads(value)
    except ValueError:
        if not value.startswith(("[", "{")):
            return name, value
    try:
        return name, yaml.safe_load(value)
    except yaml.YAMLError:
        raise argparse.ArgumentTypeError(f"{value} is no list or mapping") from None


def _usage(action: argparse.Action) -> str:
    """How the first line of the help shows an argument that is required."""
    metavar = str(action.metavar or action.dest.upper())
    value = f"{metavar} ..." if action.nargs == "+" else metavar
    return f"{action.option_strings[-1]} {value}" if action.option_strings else value
