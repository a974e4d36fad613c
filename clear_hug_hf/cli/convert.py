"""`clear-hug convert`: released checkpoints to model folders."""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import Any

from .shared import EXIT_OK, add_verb, positive, quiet_libraries, say


def add(verbs: Any) -> None:
    """Add `convert` to the verbs of the command line."""
    from ..systems import SYSTEMS

    converters = {_word(name): one.converter for name, one in SYSTEMS.items() if one.converter is not None}
    width = max(map(len, converters))
    reads = "".join(f"  {name:{width}s}  {one.reads}\n" for name, one in converters.items())
    examples = "".join(f"  clear-hug convert {name} {one.example}\n" for name, one in converters.items())
    parser = add_verb(
        verbs,
        run,
        "a released checkpoint to a model folder",
        "Convert a checkpoint that a paper's authors released into a folder that from_pretrained, finetune, predict\n"
        "and publish take, with the authors' preprocessing as far as it can be had, and a card that says what was\n"
        "converted. What the file holds and its sizes are read from its tensors, each of which must be used. A file\n"
        f"that could run code is refused, not opened.\n\n{reads}\n"
        f"examples:\n{examples}"
        "  clear-hug finetune --data ptb-xl --model converted/NAME --output runs/superclasses",
    )
    parser.add_argument("system", choices=tuple(converters), metavar="SYSTEM", help="whose checkpoint it is")
    parser.add_argument("checkpoint", type=Path, metavar="CHECKPOINT", help="a .pth or .safetensors file")
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="new, or of an earlier conversion")
    options = {name: option for one in converters.values() for name, option in one.options.items()}
    for name, option in options.items():
        settings: dict[str, Any] = {"type": positive, "metavar": "N"}
        if option.choices:
            settings = {"choices": option.choices}
        elif option.many:
            settings = {"nargs": "+", "metavar": "NAME"}
        whose = [system for system, one in converters.items() if name in one.options]
        note = "" if len(whose) == len(converters) else f"of {', '.join(whose)}: "
        parser.add_argument(_option(name), dest=name, help=note + option.help, **settings)
    parser.set_defaults(options=tuple(options))


def run(arguments: argparse.Namespace) -> int:
    """Run `convert` and return the exit status."""
    from ..processing import InputError
    from ..systems import SYSTEMS, load

    quiet_libraries()
    converter = next(one.converter for name, one in SYSTEMS.items() if _word(name) == arguments.system)
    assert converter is not None
    given = {name: value for name in arguments.options if (value := getattr(arguments, name)) is not None}
    if foreign := [name for name in given if name not in converter.options]:
        raise InputError(f"{arguments.system} takes no {_option(foreign[0])}: leave it out")
    try:
        keywords = {converter.options[name].keyword or name: value for name, value in given.items()}
        facts = load(converter.function)(arguments.checkpoint, arguments.folder, **keywords)
    except InputError as error:
        # Where the function asks for an argument, the command line asks for its option.
        known = "|".join(arguments.options)
        message = re.sub(rf"\bpass ({known})\b", lambda found: f"give {_option(found[1])}", str(error))
        raise InputError(message) from error
    size = f", {facts['size']} size" if facts["size"] else ""
    say(
        f"{facts['kind']}{size}: {facts['num_tensors']} tensors, {facts['num_parameters'] / 1e6:.1f} M parameters, "
        "every tensor used"
    )
    if facts["labels_known"] is False:
        say("the file does not name its labels: they are LABEL_0, LABEL_1 ...; --labels names them")
    say(f"written: {arguments.folder}")
    return EXIT_OK


def _word(name: str) -> str:
    """A system as the command line writes it."""
    return name.replace("_", "-")


def _option(name: str) -> str:
    return f"--{_word(name)}"
