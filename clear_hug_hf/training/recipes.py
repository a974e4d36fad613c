"""
Pre-training recipes: a YAML file, each of whose fields the command line can override.

A recipe is flat: the fields of [`Recipe`] and those of [`PretrainingArguments`], side by side.
"""

from __future__ import annotations

import argparse
import difflib
import re
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub.errors import StrictDataclassError

from ..data.augmentation import AugmentingCollator
from ..data.model_files import extractor_settings, load_config
from ..processing.errors import InputError
from ..systems import DEFAULT_SYSTEM, SYSTEMS, Objective, load
from .folders import find_model_folder
from .pretraining import PretrainingArguments
from .teachers import add_signal_embeds, make_tokenizer


# Fields of a recipe that name pre-trained encoders.
_TEACHERS = ("signal_encoder", "vision", "text")
# What differs from the paper's recipe at tiny size: a few thousand recordings on two CPU cores.
TINY: dict[str, Any] = {"epochs": 25, "batch_size": 32, "learning_rate": 1e-3, "trackers": ["tensorboard"]}


@dataclass
class Recipe:
    """
    What is pre-trained, on what.

    Args:
        system (`str`, *optional*): Which models: one of `clear_hug_hf.systems`.
        size (`str`, *optional*, defaults to `"tiny"`): A preset of the system's config: `tiny`, and of `small`, `base`
            and `large` those that it has.
        model (`dict`, *optional*): Fields of the config that differ from the preset, such as `mask_ratio`.
        data (`list[str]`): Folders of recordings; the training splits of several are joined, and so are their
            validation splits.
        output (`str`, *optional*, defaults to `"runs/pretrained"`): Folder of the run.
        signal_encoder (`str`, *optional*): For models that read pages: folder of the pre-trained encoder of signals
            that pages are aligned with. It should not have seen the recordings that the result is to be tested on.
        vision (`str`, *optional*): For models that read pages: name or folder of a pre-trained vision backbone of
            transformers to start from; without it the preset's starts at random.
        text (`str`, *optional*): For models that read pages: name or folder of a pre-trained text encoder of
            transformers; without it a small one that reads bytes is trained.
        augmentation (`float`, *optional*): How much recordings are changed in training, from 0, not at all, to 2. Of
            signals window, baseline, breathing and leads change (0 by default, as in the papers); pages are bent,
            shaded and blurred as photographs are (1 by default).
        streaming (`bool`, *optional*, defaults to `False`): Read prepared folders as they are trained on, instead of
            through a copy in the cache of `datasets`: for sets larger than the free disk.
        limit (`int`, *optional*): Use only the first recordings of each split.
        training ([`PretrainingArguments`]): How.
    """

    system: str = DEFAULT_SYSTEM
    size: str = "tiny"
    model: dict[str, Any] = field(default_factory=dict)
    data: tuple[str, ...] = ()
    output: str = "runs/pretrained"
    signal_encoder: str | None = None
    vision: str | None = None
    text: str | None = None
    augmentation: float | None = None
    streaming: bool = False
    limit: int | None = None
    training: PretrainingArguments = field(default_factory=lambda: PretrainingArguments(**TINY))

    def __post_init__(self) -> None:
        if self.limit is not None and self.limit < 1:
            raise InputError(f"limit is {self.limit}: it must be positive")
        if self.augmentation is not None and not 0 <= self.augmentation <= 2:
            raise InputError(f"augmentation is {self.augmentation}: it must lie between 0 and 2")
        if self.system not in SYSTEMS:
            raise InputError(f"there is no system {self.system!r}{_nearest(self.system, SYSTEMS)}")
        if self.augmentation is None:
            self.augmentation = self.objective.augmentation
        for name in _TEACHERS:
            if getattr(self, name) is not None and name not in self.objective.teachers:
                raise InputError(f"{name} is for systems that align pages, not for {self.system}: leave it out")
        if self.objective.needs_full_batch and self.training.micro_batch_size is None:
            self.training.micro_batch_size = self.training.batch_size

    @property
    def objective(self) -> Objective:
        """How the system is pre-trained."""
        return SYSTEMS[self.system].objective

    def make_config(self) -> Any:
        """
        The model's config.

        Raises:
            InputError: If there is no such size, or a field or value is not one of the config's.
        """
        config_class = SYSTEMS[self.system].config
        known = [one.name for one in fields(config_class)]
        for name in self.model:
            if name not in known:
                raise InputError(f"the model has no field {name!r}{_nearest(name, known)}")
        try:
            return config_class.preset(self.size, **self.model)
        except (TypeError, ValueError, StrictDataclassError) as error:
            raise InputError(" ".join(str(error).split())) from error

    def make_feature_extractor(self, prepared_with: Any = None) -> Any:
        """
        The feature extractor of a new model: its `model_settings` follow the config where the preset or `model` names
        them.

        Args:
            prepared_with (*optional*): The one that recordings were prepared with, which decides everything else; a
                new one of the system by default.

        Raises:
            InputError: If it is of another system, or as in [`make_config`].
        """
        config, extractor_class = self.make_config(), SYSTEMS[self.system].feature_extractor
        extractor = extractor_class() if prepared_with is None else prepared_with
        if type(extractor) is not extractor_class:
            raise InputError(
                f"the recordings were prepared for another system than {self.system}: prepare them with "
                f"`clear-hug prepare --system {self.system}`"
            )
        known = extractor_settings(extractor)
        named = {**config.presets[self.size], **self.model}
        chosen = {name: getattr(config, name) for name in extractor_class.model_settings if name in named}
        return extractor_class(**{**known, **chosen}) if chosen else extractor

    def make_model(self) -> Any:
        """
        A new model, with pre-trained towers where they are named; set the seed before.

        Raises:
            InputError: As [`make_config`], or if there is nothing to align pages with, or a tower cannot be loaded.
        """
        config, model_class = self.make_config(), load(self.objective.model)
        if not self.objective.teachers:
            return model_class(config)
        if self.signal_encoder is None and config.signal_embed_dim is None:
            raise InputError(
                "pages are aligned with signals: name the folder of a pre-trained encoder of signals with "
                "--signal-encoder, such as `clear-hug pretrain` makes of the same recordings"
            )
        signal = None
        if self.signal_encoder is not None:
            signal = str(find_model_folder(self.signal_encoder))
            load_config(signal)
        try:
            return model_class.from_towers(config, vision=self.vision, signal=signal, text=self.text)
        except (OSError, ValueError, KeyError) as error:
            raise InputError(" ".join(str(error).split())) from error

    def make_collator(self, model: Any, feature_extractor: Any) -> Any:
        """What makes batches of rows for the model, where that is not the loop's own."""
        assert self.augmentation is not None
        collator = load(self.objective.collator)
        if not self.objective.teachers:
            if collator is AugmentingCollator and not self.augmentation:
                return None
            return collator(feature_extractor, augmentation=self.augmentation)
        return collator(
            feature_extractor,
            tokenizer=make_tokenizer(model.config, self.text),
            with_targets=True,
            with_signals=self.signal_encoder is not None,
            augmentation=self.augmentation,
        )

    def add_teachers(self, model: Any, sets: Mapping[str, Any], progress: bool = True) -> dict[str, Any]:
        """The recordings of each split with what teachers that stay as they are make of them, where there are any."""
        if self.signal_encoder is None:
            return dict(sets)
        return {
            split: add_signal_embeds(rows, model.base_model, self.signal_encoder, progress=progress)
            for split, rows in sets.items()
        }


_OWN = tuple(one.name for one in fields(Recipe) if one.name != "training")
_TRAINING = tuple(one.name for one in fields(PretrainingArguments))


def read_recipe(path: str | Path | None, overrides: Mapping[str, Any] | None = None) -> Recipe:
    """
    A recipe from a file and what overrides it.

    Args:
        path (`str` or `Path`, *optional*): A YAML file; without one, the tiny recipe.
        overrides (`Mapping`, *optional*): Fields by name, with values as YAML has them. Those of `model` are merged.

    Returns:
        [`Recipe`]

    Raises:
        FileNotFoundError: If there is no such file.
        InputError: If it is no YAML mapping, a field is unknown (with the nearest known one), or a value does not fit.
    """
    overrides = dict(overrides or {})
    given = dict(TINY) if path is None else _read(Path(path))
    where = "the recipe" if path is None else str(path)
    values = {**given, **overrides}
    known = (*_OWN, *_TRAINING)
    for name in values:
        if name not in known:
            raise InputError(f"{where} has an unknown field {name!r}{_nearest(str(name), known)}")
    fitted = [_fit(Recipe, "model", source.get("model") or {}, where) for source in (given, overrides)]
    values["model"] = {**fitted[0], **fitted[1]}
    own = {name: _fit(Recipe, name, value, where) for name, value in values.items() if name in _OWN}
    training = {
        name: _fit(PretrainingArguments, name, value, where) for name, value in values.items() if name in _TRAINING
    }
    return Recipe(**own, training=PretrainingArguments(**training))


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise FileNotFoundError(f"the recipe {path} does not exist: check the path, or leave out --config")
    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is not a YAML file: {' '.join(str(error).split())}") from error
    if not isinstance(found, dict):
        raise InputError(f"{path} is not a recipe: it must be lines of `field: value`")
    return found


def _nearest(name: str, known: typing.Iterable[str]) -> str:
    found = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f": did you mean {found[0]!r}?" if found else f": choose from {', '.join(known)}"


def _fit(owner: type, name: str, value: Any, where: str) -> Any:
    """A value as the type of its field has it; YAML takes 5e-4 for a word."""
    kinds = typing.get_type_hints(owner)[name]
    optional = isinstance(kinds, types.UnionType) and type(None) in typing.get_args(kinds)
    if value is None and optional:
        return None
    kind = next(one for one in typing.get_args(kinds) if one is not type(None)) if optional else kinds
    origin, inside = typing.get_origin(kind) or kind, typing.get_args(kind)
    try:
        if origin is tuple:
            if isinstance(value, str | int | float):
                value = [value]
            return tuple(_convert(inside[0], one) for one in value or ())
        return _convert(origin, value)
    except (TypeError, ValueError, OverflowError):
        raise InputError(f"{where}: {name} is {value!r}: give {_KINDS.get(origin, 'another value')}") from None


def _convert(kind: Any, value: Any) -> Any:
    if kind is str and value is False:
        return "no"  # what YAML takes for a truth value
    if kind is bool or isinstance(value, bool):
        if kind is not bool or not isinstance(value, bool):
            raise TypeError
        return value
    if kind is int:
        if isinstance(value, str) or float(value) != int(value):
            raise ValueError
        return int(value)
    if kind in (dict, str) and not isinstance(value, kind):
        raise TypeError
    return kind(value)


_KINDS = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    str: "a word",
    tuple: "a list",
    dict: "a list of `field: value`",
}


# ------------------------------------------------------------------------------------------------------ command line


def add_recipe_options(parser: argparse.ArgumentParser) -> None:
    """An option for every field of a recipe, with the text of its documentation as help."""
    parser.add_argument("--config", type=Path, metavar="FILE", help="a recipe (YAML); the options below override it")
    usual = Recipe()
    for owner, names, values in ((Recipe, _OWN, usual), (PretrainingArguments, _TRAINING, usual.training)):
        group = parser.add_argument_group(
            "what is trained" if owner is Recipe else "how it is trained (the defaults are those of the tiny recipe)"
        )
        help_of = _documentation(owner)
        for name in names:
            if name == "model":
                group.add_argument(
                    "--model-option",
                    dest="model",
                    action="append",
                    type=_option,
                    default=argparse.SUPPRESS,
                    metavar="NAME=VALUE",
                    help="a field of the model's config, such as mask_ratio=0.75; may be repeated",
                )
                continue
            kind = str(typing.get_type_hints(owner)[name])
            value = getattr(values, name)
            default = " ".join(map(str, value)) if isinstance(value, tuple) else value
            shown = "" if default in (None, "", False, True) else f" (default: {default})"
            settings: dict[str, Any] = {"action": argparse.BooleanOptionalAction}
            if "bool" not in kind:
                settings = {"type": str if "str" in kind else _value, "metavar": "VALUE"}
                settings |= {"nargs": "*"} if "tuple" in kind else {}
            group.add_argument(
                "--" + name.replace("_", "-"),
                default=argparse.SUPPRESS,
                help=(help_of[name].rstrip(".") + shown).replace("%", "%%"),
                **settings,
            )


def recipe_from_options(arguments: argparse.Namespace) -> Recipe:
    """The recipe that the options of [`add_recipe_options`] give."""
    given = {name: value for name, value in vars(arguments).items() if name in (*_OWN, *_TRAINING)}
    if "model" in given:
        given["model"] = dict(given["model"])
    return read_recipe(arguments.config, given)


def _value(text: str) -> Any:
    """A word or number, as a recipe would have it."""
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        return text
    return value if isinstance(value, int | float | None) and not isinstance(value, bool) else text


def split_option(text: str) -> tuple[str, str]:
    """Name and value of an option `NAME=VALUE`."""
    name, found, value = text.partition("=")
    if not found:
        raise argparse.ArgumentTypeError(f"{text} is not of the form NAME=VALUE")
    return name, value


def _option(text: str) -> tuple[str, Any]:
    name, value = split_option(text)
    try:
        return name, yaml.safe_load(value)
    except yaml.YAMLError:
        raise argparse.ArgumentTypeError(f"{value} is not a value as YAML has it") from None


def _documentation(owner: type) -> dict[str, str]:
    """The text of each argument in a class's docstring, without its type."""
    entries = re.findall(
        r"^        (\w+) \([^\n]*?\): (.*?)(?=^        \w+ \(|\Z|^    \w)", owner.__doc__ or "", re.M | re.S
    )
    return {name: " ".join(text.replace("`", "").split()) for name, text in entries}
