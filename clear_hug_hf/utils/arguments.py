"""
Dataclasses of settings, and the parser that reads them from a command line or a YAML file.

The metadata of a field holds its help text and the values it accepts:

- `help`: one sentence for the command line;
- `ge`, `gt`, `le`, `lt`: bounds of a number, or of each number in a list;
- `choices`: accepted values that are known only at run time (a `Literal` type declares the others);
- `metavar`: placeholder of the value in the help;
- `positional`: whether the command line takes the value without the name of the field;
- `option`: `False` if the field is not an option;
- `aliases`: other names of the option, such as `--backbone`.

Other keys, such as `nargs`, are passed to argparse.
"""

from __future__ import annotations

import argparse
import copy
import difflib
import json
import operator
import shutil
import textwrap
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
_PRIVATE_METADATA = {*_BOUNDS, "positional", "option"}
_PYTHON_WORDS = {"True": True, "False": False, "None": None}
_METAVARS = {int: "N", float: "X", str: "NAME", Path: "PATH"}


@dataclass
class Arguments:
    """
    Base class of settings, which checks the fields that a subclass declares.

    Raises:
        InputError: If a value is outside its bounds or choices; the message names the field.
    """

    def __post_init__(self) -> None:
        hints = typing.get_type_hints(type(self))
        for setting in filter(lambda setting: setting.init, fields(self)):
            kind, value = _without_none(hints[setting.name]), getattr(self, setting.name)
            item_kind = _item_kind(kind) or kind
            if item_kind is Path and value is not None:
                value = [Path(item) for item in value] if isinstance(value, list | tuple) else Path(value)
                setattr(self, setting.name, value)
            for item in value if isinstance(value, list | tuple) else (value,):
                if item is not None:
                    _check(setting, item, _choices(setting, item_kind))


def _check(setting: Field, value: Any, choices: Sequence[Any]) -> None:
    """Raise `InputError` for a value outside the choices or bounds of its field."""
    if choices and value not in choices:
        raise InputError(f"{setting.name} is {value!r}: choose from {', '.join(map(str, choices))}")
    for name, (is_within, phrase) in _BOUNDS.items():
        bound = setting.metadata.get(name)
        if bound is not None and not is_within(value, bound):
            raise InputError(f"{setting.name} is {value}: it must be {phrase} {bound}")


def _choices(setting: Field, item_kind: Any) -> tuple[Any, ...]:
    """The values that a field accepts; empty if it accepts any."""
    if typing.get_origin(item_kind) is typing.Literal:
        return typing.get_args(item_kind)
    return tuple(setting.metadata.get("choices", ()))


def nearest(name: str, known: Iterable[str]) -> str:
    """The end of a message about an unknown name: the known names with the same word or most like it, or all."""
    bare = {text.strip("-").replace("_", "-"): text for text in known}
    name = name.strip("-").replace("_", "-")
    matches = [text for text in bare if name in text.split("-")]
    matches = matches or difflib.get_close_matches(name, bare, n=1, cutoff=0.6)
    if not matches:
        return f": choose from {', '.join(bare.values())}"
    return f": did you mean {' or '.join(repr(bare[match]) for match in matches[:3])}?"


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
    # Loaded by path: the module needs nothing else of transformers, whose import would slow `--help` down.
    _transformers = find_spec("transformers")
    _spec = spec_from_file_location("_hf_argparser", Path(_transformers.origin).with_name("hf_argparser.py"))
    _module = module_from_spec(_spec)
    _spec.loader.exec_module(_module)
    HfArgumentParser = _module.HfArgumentParser


class ArgumentParser(HfArgumentParser):
    """
    Parser whose options are the fields of dataclasses. The command line overrides a YAML file (`--config`), which
    overrides the defaults.

    Args:
        dataclass_types (`Sequence[type]`): Dataclasses to parse; positional fields must come first.
        **settings: Arguments of `argparse.ArgumentParser`.
    """

    def __init__(self, dataclass_types: Sequence[Any], **settings: Any) -> None:
        settings.setdefault("formatter_class", _HelpFormatter)
        super().__init__(dataclass_types, allow_abbrev=False, **settings)
        self.add_argument(
            "--config",
            type=Path,
            metavar="FILE",
            default=argparse.SUPPRESS,
            help="YAML file of options by name; options on the command line override it",
        )
        self._aliases = {
            alias.strip("-"): setting.name
            for dtype in self.dataclass_types
            for setting in fields(dtype)
            for alias in setting.metadata.get("aliases", ())
        }
        required = [action for action in self._actions if action.required]
        self.usage = f"%(prog)s {' '.join([*map(_usage, required), '[options]'])}"
        self._required = {action.dest: _usage(action).split()[0] for action in required}
        # The YAML file may provide them; `_build` checks that none is missing.
        for action in required:
            action.required, action.default = False, argparse.SUPPRESS

    def _add_dataclass_arguments(self, dtype: Any) -> None:
        """Add the fields that are options."""
        hints = typing.get_type_hints(dtype)
        group = self.add_argument_group(dtype._group) if hasattr(dtype, "_group") else self
        for setting in fields(dtype):
            if setting.init and setting.metadata.get("option", True):
                setting.type = hints[setting.name]
                self._parse_dataclass_field(group, setting)

    @staticmethod
    def _parse_dataclass_field(parser: Any, setting: Field) -> None:
        """
        Add an option as `HfArgumentParser` does, with these differences: a boolean takes no value, which could be a
        positional argument; a mapping is `NAME=VALUE ...`; a repeated list is extended; the dataclass sets defaults.
        """
        metadata = {name: value for name, value in setting.metadata.items() if name not in _PRIVATE_METADATA}
        kind = _without_none(setting.type)
        item_kind = _item_kind(kind) or kind
        default = setting.default_factory() if setting.default_factory is not MISSING else setting.default
        if default is not False and default not in (MISSING, None, "", [], {}):
            text = "yes" if default is True else default
            text = " ".join(map(str, default)) if isinstance(default, list | tuple) else text
            metadata["help"] = f"{metadata['help'].removesuffix('.')} (default: {text})."
        metadata["help"] = metadata["help"].replace("%", "%%")
        if not (choices := _choices(setting, item_kind)) and kind is not bool:
            metadata.setdefault("metavar", "NAME=VALUE" if typing.get_origin(kind) is dict else _METAVARS[item_kind])
        if setting.metadata.get("positional"):
            nargs: dict[str, Any] = {"nargs": "+"} if kind is not item_kind else {}
            parser.add_argument(setting.name, type=item_kind, **nargs, **metadata)
            return
        num_actions = len(parser._actions)
        options = dict.fromkeys((f"--{setting.name}", f"--{setting.name.replace('_', '-')}"))
        if kind is bool:
            negations = (f"--no_{setting.name}", f"--no-{setting.name.replace('_', '-')}")
            parser.add_argument(*options, *negations, action=_Flag, **metadata)
        elif typing.get_origin(kind) is dict:
            parser.add_argument(*options, nargs="+", type=_name_and_value, action=_Pairs, **metadata)
        elif kind is not item_kind:
            list_settings = {"nargs": "+", **metadata, "choices": choices or None}
            action = "extend" if list_settings["nargs"] == "+" else "store"
            parser.add_argument(*options, type=str if choices else item_kind, action=action, **list_settings)
        else:
            setting = copy.copy(setting)
            setting.metadata = types.MappingProxyType(metadata)
            HfArgumentParser._parse_dataclass_field(parser, setting)
        for action in parser._actions[num_actions:]:
            action.default = argparse.SUPPRESS
            action.required = default is MISSING
            # Options are also accepted with underscores; the help omits these.
            action.option_strings = [text for text in action.option_strings if "_" not in text]
            if default is False:
                action.option_strings = action.option_strings[:1]

    def parse(self, words: Sequence[str]) -> tuple[Any, ...]:
        """
        Instances of the dataclasses from a command line and the YAML file of its `--config`.

        Raises:
            FileNotFoundError: If the YAML file does not exist.
            InputError: If an option is unknown (the message names the most similar one) or missing, or a value is
                invalid.
        """
        values = self._parse_words(words)
        return self._build(self._read(values.pop("config", None)), values)

    def read(self, path: Path | None, overrides: Mapping[str, Any]) -> tuple[Any, ...]:
        """As [`ArgumentParser.parse`], from a YAML file and overrides by name; `None` restores the default."""
        values = self._read(path)
        overriding = self._parse_settings(overrides, "the settings")
        for name in [name for name, value in overrides.items() if value is None]:
            values.pop(name.replace("-", "_"), None)
        return self._build(values, overriding)

    def _read(self, path: Path | None) -> dict[str, Any]:
        return {} if path is None else self._parse_settings(_read_yaml(path), str(path))

    def error(self, message: str) -> typing.NoReturn:
        """Raise `InputError` where argparse would print the usage and exit."""
        raise InputError(message)

    def _parse_words(self, words: Sequence[str], prefix: str = "") -> dict[str, Any]:
        """Values by name of the arguments that were passed; messages begin with `prefix`."""
        try:
            values, unknown = self.parse_known_args(words)
        except InputError as error:
            raise InputError(f"{prefix}{error}") from error
        if unknown:
            options = [text for action in self._actions for text in action.option_strings if text.startswith("--")]
            option = unknown[0].partition("=")[0]
            if not option.startswith("-"):
                raise InputError(
                    f"{prefix}unexpected argument {unknown[0]!r}: positional arguments must come before the options"
                )
            raise InputError(f"{prefix}unknown option {option}{nearest(option, options)}")
        return vars(values)

    def _parse_settings(self, settings: Mapping[str, Any], source: str) -> dict[str, Any]:
        """Check and convert values by name, such as those of a YAML file, by parsing them as a command line."""
        options = {action.dest: action for action in self._actions if action.option_strings}
        for alias, name in self._aliases.items():
            options[alias] = options[name]
        words: list[str] = []
        empty: list[str] = []
        for name, value in settings.items():
            if (action := options.get(str(name).replace("-", "_"))) is None or name in ("help", "config"):
                known = [name for name in options if name not in ("help", "config")]
                raise InputError(f"{source} has an unknown field {name!r}{nearest(str(name), known)}")
            option = f"--{action.dest}"
            if isinstance(action, _Flag):
                if not isinstance(value, bool):
                    raise InputError(f"{source}: {name} is {value!r}: it must be true or false")
                words.append(option if value else f"--no_{action.dest}")
            elif isinstance(value, Mapping):
                words += [f"{option}={key}={json.dumps(item, default=str)}" for key, item in value.items()]
            elif isinstance(value, list | tuple):
                if invalid := [item for item in value if item is None or isinstance(item, bool)]:
                    raise InputError(f"{source}: {name} holds {invalid[0]}: put words such as no and null in quotes")
                # `--name=item` also takes an item that begins with a hyphen.
                words += [f"{option}={item}" for item in value] if action.nargs == "+" else [option, *map(str, value)]
                if not value and action.nargs == "+":
                    empty.append(action.dest)
            elif value is not None:
                # YAML reads the word `no` as false, and some write whole numbers with a point.
                whole = action.type is int and isinstance(value, float) and value.is_integer()
                words.append(f"{option}={'no' if value is False else int(value) if whole else value}")
        return self._parse_words(words, f"{source}: ") | {name: [] for name in empty}

    def _build(self, values: dict[str, Any], overrides: dict[str, Any]) -> tuple[Any, ...]:
        for name, value in overrides.items():
            values[name] = {**values.get(name, {}), **value} if isinstance(value, dict) else value
        if missing := [usage for name, usage in self._required.items() if name not in values]:
            raise InputError(f"{missing[0]} is required: --help explains it")
        return tuple(
            kind(**{setting.name: values[setting.name] for setting in fields(kind) if setting.name in values})
            for kind in self.dataclass_types
        )


class _HelpFormatter(argparse.RawDescriptionHelpFormatter):
    """Keeps the lines of descriptions, and wraps the help of options at 110 columns or the terminal's width."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=32, width=min(110, shutil.get_terminal_size((110, 24)).columns))

    def _format_action_invocation(self, action: argparse.Action) -> str:
        """The names of an option and once its values, of which many choices take several lines."""
        if not action.option_strings or action.nargs == 0:
            return super()._format_action_invocation(action)
        values = self._format_args(action, self._get_default_metavar_for_optional(action))
        text, width = f"{', '.join(action.option_strings)} {values}", self._width - self._current_indent
        if len(text) <= width:
            return text
        indent = " " * (self._current_indent + 4)
        return textwrap.fill(text.replace(",", ", ").replace(",  ", ", "), width, subsequent_indent=indent)


class _Flag(argparse.Action):
    """A boolean: `--name` or `--no-name`."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(nargs=0, **settings)

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        setattr(namespace, self.dest, not (option_string or "").startswith(("--no-", "--no_")))


class _Pairs(argparse.Action):
    """A mapping from pairs; an option that is repeated adds to it."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        setattr(namespace, self.dest, {**getattr(namespace, self.dest, {}), **dict(values)})


def _read_yaml(path: Path) -> dict[str, Any]:
    """Values of a YAML file by name."""
    import yaml

    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist: check the path after --config")
    try:
        settings = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is not a YAML file: {' '.join(str(error).split())}") from error
    if not isinstance(settings, dict):
        raise InputError(f"{path} must contain lines of `name: value`")
    return settings


def _name_and_value(text: str) -> tuple[str, Any]:
    """The pair `NAME=VALUE`, whose value is JSON, a list or mapping of YAML, or a string."""
    import yaml

    name, separator, value = text.partition("=")
    if not separator:
        raise argparse.ArgumentTypeError(f"{text} is not of the form NAME=VALUE")
    try:
        return name, _PYTHON_WORDS[value] if value in _PYTHON_WORDS else json.loads(value)
    except ValueError:
        if not value.startswith(("[", "{")):
            return name, value
    try:
        return name, yaml.safe_load(value)
    except yaml.YAMLError:
        raise argparse.ArgumentTypeError(f"{value} is not a list or mapping: put a text in double quotes") from None


def _usage(action: argparse.Action) -> str:
    """A required argument in the usage line."""
    metavar = str(action.metavar or action.dest.upper())
    value = f"{metavar} ..." if action.nargs == "+" else metavar
    return f"{action.option_strings[-1]} {value}" if action.option_strings else value
