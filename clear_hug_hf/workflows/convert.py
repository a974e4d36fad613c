"""Released checkpoints to model folders."""

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


CONVERTERS = {name.replace("_", "-"): one.converter for name, one in SYSTEMS.items() if one.converter is not None}
"""Converters by system, as the command line writes it."""


def option_fields(converters: Mapping[str, Converter]) -> list[tuple[str, Any, Any]]:
    """A field for each option of any converter, as `make_dataclass` takes it; the help says which systems have it."""
    made = []
    for name in dict.fromkeys(name for converter in converters.values() for name in converter.options):
        systems: dict[str, list[str]] = {}
        for system, converter in converters.items():
            if name in converter.options:
                option = converter.options[name]
                systems.setdefault(option.help, []).append(system)
        is_everywhere = [*converters] in systems.values()
        helps = [help if is_everywhere else f"{', '.join(names)}: {help}" for help, names in systems.items()]
        kind: Any = list[str] if option.many else str if option.choices else int
        limits = {"choices": option.choices} if option.choices else {} if option.many else {"gt": 0}
        made.append((name, kind | None, field(default=None, metadata={"help": "; ".join(helps), **limits})))
    return made


_OPTIONS = option_fields(CONVERTERS)
_Options: Any = make_dataclass("_Options", _OPTIONS, bases=(Arguments,), kw_only=True)


@dataclass(kw_only=True)
class ConvertArguments(_Options):
    """Whose checkpoint is converted, where the model goes, and what the checkpoint does not say."""

    system: str = field(
        metadata={
            "help": f"System of the checkpoint: {' or '.join(CONVERTERS)}.",
            "positional": True,
            "metavar": "SYSTEM",
            "choices": tuple(CONVERTERS),
        }
    )
    checkpoint: Path = field(
        metadata={"help": "A .pth or .safetensors file.", "positional": True, "metavar": "CHECKPOINT"}
    )
    folder: Path = field(
        metadata={"help": "New folder, or one of an earlier conversion.", "positional": True, "metavar": "FOLDER"}
    )


@dataclass(frozen=True)
class ConvertResult:
    """The facts of a conversion, as `conversion.json` holds them."""

    facts: dict[str, Any]


def convert(arguments: ConvertArguments) -> ConvertResult:
    """
    Write the model folder of a checkpoint that a paper's authors released.

    Raises:
        FileNotFoundError: If the checkpoint does not exist.
        InputError: If the checkpoint is another model's or could run code, or an option is missing or unknown.
    """
    quiet_libraries()
    converter = CONVERTERS[arguments.system]
    values = {name: value for name, *_ in _OPTIONS if (value := getattr(arguments, name)) is not None}
    if foreign := [name for name in values if name not in converter.options]:
        raise InputError(f"{arguments.system} has no option {_word(foreign[0])}: leave it out")
    try:
        keywords = {converter.options[name].keyword or name: value for name, value in values.items()}
        return ConvertResult(load(converter.function)(arguments.checkpoint, arguments.folder, **keywords))
    except InputError as error:
        # The function names its argument; the user needs the option.
        names = "|".join(name for name, *_ in _OPTIONS)
        message = re.sub(rf"\bpass ({names})\b", lambda match: f"pass {_word(match[1])}", str(error))
        raise InputError(message) from error


def _word(name: str) -> str:
    """An option as the command line writes it."""
    return f"--{name.replace('_', '-')}"
