"""Conversion of released checkpoints to model folders."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, make_dataclass
from pathlib import Path
from typing import Any

from ..processing.errors import InputError
from ..systems import SYSTEMS, Converter, load
from ..utils.arguments import Arguments
from .shared import quiet_libraries


CONVERTERS = {
    name.replace("_", "-"): system.converter for name, system in SYSTEMS.items() if system.converter is not None
}
"""Converters by system, spelled with hyphens as on the command line."""


def option_fields(converters: Mapping[str, Converter]) -> list[tuple[str, Any, Any]]:
    """Fields of all converters' options, for `make_dataclass`; the help names the systems that have the option."""
    option_fields = []
    for name in dict.fromkeys(name for converter in converters.values() for name in converter.options):
        systems: dict[str, list[str]] = {}
        for system, converter in converters.items():
            if name in converter.options:
                option = converter.options[name]
                systems.setdefault(option.help, []).append(system)
        is_common = [*converters] in systems.values()
        helps = [help if is_common else f"{', '.join(names)}: {help}" for help, names in systems.items()]
        kind: Any = list[str] if option.many else str if option.choices else int
        limits = {"choices": option.choices} if option.choices else {} if option.many else {"gt": 0}
        option_fields.append((name, kind | None, field(default=None, metadata={"help": "; ".join(helps), **limits})))
    return option_fields


_OPTIONS = option_fields(CONVERTERS)
_Options: Any = make_dataclass("_Options", _OPTIONS, bases=(Arguments,), kw_only=True)


@dataclass(kw_only=True)
class ConvertArguments(_Options):
    """Checkpoint to convert, its system, output folder, and settings that the checkpoint does not hold."""

    system: str = field(
        metadata={
            "help": f"System of the checkpoint: {', '.join(CONVERTERS)}.",
            "positional": True,
            "metavar": "SYSTEM",
            "choices": tuple(CONVERTERS),
        }
    )
    checkpoint: str = field(
        metadata={
            "help": "A .pth, .pt, .ckpt or .safetensors file, a zip archive with one of these, or "
            "hf://ORG/NAME[/FILE] on the Hub.",
            "positional": True,
            "metavar": "CHECKPOINT",
        }
    )
    folder: Path = field(
        metadata={
            "help": "Folder to write: a new one, or one of an earlier conversion.",
            "positional": True,
            "metavar": "FOLDER",
        }
    )


@dataclass(frozen=True)
class ConvertResult:
    """Facts of a conversion, as in `conversion.json`, and a text about the tensors of the checkpoint."""

    facts: dict[str, Any]
    tensors: str


def convert(arguments: ConvertArguments) -> ConvertResult:
    """
    Convert a checkpoint that a paper's authors released to a model folder.

    Raises:
        FileNotFoundError: If the checkpoint does not exist.
        InputError: If the checkpoint cannot be downloaded, is of another model or could run code, or an option is
            missing or unknown.
    """
    from ..hub.checkpoints import find_checkpoint
    from ..hub.model_card import tensor_counts

    quiet_libraries()
    converter = CONVERTERS[arguments.system]
    values = {name: value for name, *_ in _OPTIONS if (value := getattr(arguments, name)) is not None}
    if unknown := [name for name in values if name not in converter.options]:
        raise InputError(f"{arguments.system} has no option {_option(unknown[0])}: leave it out")
    try:
        keywords = {converter.options[name].keyword or name: value for name, value in values.items()}
        path = find_checkpoint(arguments.checkpoint, converter.weights.hub_files if converter.weights else ())
        facts = load(converter.function)(path, arguments.folder, **keywords)
        return ConvertResult(facts, tensor_counts(facts))
    except InputError as error:
        # The error names the argument of the function; the user needs the option.
        names = "|".join(converter.options) or "-"
        message = re.sub(rf"\bpass ({names})\b", lambda match: f"pass {_option(match[1])}", str(error))
        raise InputError(message) from error


def _option(name: str) -> str:
    """The command-line option of a field."""
    return f"--{name.replace('_', '-')}"
