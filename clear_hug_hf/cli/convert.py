"""`clear-hug convert`: released checkpoints to model folders."""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import Any

from .shared import EXIT_OK, add_verb, positive, quiet_libraries, say


# What may be said of a checkpoint beside its place, by system.
_OPTIONS = {
    "clear-hug": ("labels", "cls_attention", "num_attention_heads", "decoder_num_attention_heads"),
    "ecg-jepa": ("num_attention_heads", "predictor_num_attention_heads"),
}
_ALL_OPTIONS = tuple(dict.fromkeys(name for names in _OPTIONS.values() for name in names))


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
        "  clear-hug   CLEAR pre-trained, or with a linear classifier, or with HUG: base and large are recognised\n"
        "  ecg-jepa    the encoder of ECG-JEPA (Kim), or student, teacher and predictor\n\n"
        "examples:\n"
        "  clear-hug convert clear-hug checkpoint-99.pth converted/clear-base\n"
        "  clear-hug convert ecg-jepa multiblock_epoch100.pth converted/ecg-jepa-base\n"
        "  clear-hug convert clear-hug hug_super.pth converted/hug-super --labels NORM MI STTC CD HYP\n"
        "  clear-hug finetune --data ptb-xl --model converted/clear-base --output runs/superclasses",
    )
    parser.add_argument("system", choices=tuple(_OPTIONS), metavar="SYSTEM", help="whose checkpoint it is")
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
        help="of CLEAR: how summary tokens attend, as the released code runs, or as the paper says (default: "
        "reference_bias)",
    )
    parser.add_argument(
        "--num-attention-heads",
        type=positive,
        metavar="N",
        help="of the encoder, which the file does not tell (default: those of the released size of its width)",
    )
    parser.add_argument(
        "--decoder-num-attention-heads", type=positive, metavar="N", help="of CLEAR's decoder, likewise"
    )
    parser.add_argument(
        "--predictor-num-attention-heads", type=positive, metavar="N", help="of ECG-JEPA's predictor, likewise"
    )


def run(arguments: argparse.Namespace) -> int:
    """Run `convert` and return the exit status."""
    from ..hub import convert_ecg_jepa_to_folder, convert_to_folder
    from ..processing import InputError

    quiet_libraries()
    given = {name: value for name in _ALL_OPTIONS if (value := getattr(arguments, name)) is not None}
    if foreign := [name for name in given if name not in _OPTIONS[arguments.system]]:
        raise InputError(f"{arguments.system} takes no --{foreign[0].replace('_', '-')}: leave it out")
    if "labels" in given:
        given["label_names"] = given.pop("labels")
    convert: Any = {"clear-hug": convert_to_folder, "ecg-jepa": convert_ecg_jepa_to_folder}[arguments.system]
    try:
        facts = convert(arguments.checkpoint, arguments.folder, **given)
    except InputError as error:
        message = re.sub(r"\bpass (decoder_|predictor_)?num_attention_heads\b", _as_option, str(error))
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
