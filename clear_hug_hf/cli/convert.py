"""`clear-hug convert`: released checkpoints to model folders."""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import Any

from .shared import EXIT_OK, add_verb, positive, quiet_libraries, say


def add(verbs: Any) -> None:
    """Add `convert` to the verbs of the command line."""
    parser = add_verb(
        verbs,
        "convert",
        run,
        "a released checkpoint to a model folder",
        "Convert a checkpoint that a paper's authors released into a folder that from_pretrained, finetune, predict\n"
        "and publish take, with the authors' preprocessing as far as it can be had, and a card that says what was\n"
        "converted. What the file holds and its sizes are read from its tensors, each of which must be used. A file\n"
        "that could run code is refused, not opened.\n\n"
        "  clear-hug   CLEAR pre-trained, or with a linear classifier, or with HUG: base and large are recognised\n\n"
        "examples:\n"
        "  clear-hug convert clear-hug checkpoint-99.pth converted/clear-base\n"
        "  clear-hug convert clear-hug hug_super.pth converted/hug-super --labels NORM MI STTC CD HYP\n"
        "  clear-hug finetune --data ptb-xl --model converted/clear-base --output runs/superclasses",
    )
    parser.add_argument("system", choices=("clear-hug",), metavar="SYSTEM", help="whose checkpoint it is: clear-hug")
    parser.add_argument("checkpoint", type=Path, metavar="CHECKPOINT", help="a .pth or .safetensors file")
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="new, or of an earlier conversion")
    parser.add_argument(
        "--labels",
        nargs="+",
        metavar="NAME",
        help="of a classifier, in the order of its outputs, which the file does not tell (default: LABEL_0 LABEL_1)",
    )
    parser.add_argument(
        "--cls-attention",
        choices=("reference_bias", "lead"),
        default="reference_bias",
        help="how summary tokens attend: as the released code runs, or as the paper says (default: %(default)s)",
    )
    parser.add_argument(
        "--num-attention-heads",
        type=positive,
        metavar="N",
        help="of the encoder, which the file does not tell (default: those of the released size of its width)",
    )
    parser.add_argument("--decoder-num-attention-heads", type=positive, metavar="N", help="of the decoder, likewise")


def run(arguments: argparse.Namespace) -> int:
    """Run `convert` and return the exit status."""
    from ..hub.convert_clear_hug import convert_to_folder
    from ..processing import InputError

    quiet_libraries()
    heads = ("num_attention_heads", "decoder_num_attention_heads")
    try:
        facts = convert_to_folder(
            arguments.checkpoint,
            arguments.folder,
            **{name: getattr(arguments, name) for name in heads},
            label_names=arguments.labels,
            cls_attention=arguments.cls_attention,
        )
    except InputError as error:
        message = re.sub(r"\bpass (decoder_)?num_attention_heads\b", _as_option, str(error))
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


def _as_option(argument: re.Match[str]) -> str:
    """What to give here for an argument of the function."""
    return f"give --{argument[0].removeprefix('pass ').replace('_', '-')}"
