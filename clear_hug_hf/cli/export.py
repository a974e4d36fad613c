"""`clear-hug export`: a fine-tuned model to ONNX."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from .shared import EXIT_OK, add_verb, quiet_libraries, say


def add(verbs: Any) -> None:
    """Add `export` to the verbs of the command line."""
    parser = add_verb(
        verbs,
        run,
        "a fine-tuned model to ONNX, for where torch is not installed",
        "Write a classifier as ONNX, with its config and preprocessing beside it, and say how far its logits are\n"
        "from those of the model. It takes batches of any size and runs in onnxruntime on CPUs, browsers and phones.\n"
        "Needs onnx, onnxscript and onnxruntime: pip install 'clear-hug-hf[export]'.\n\n"
        "examples:\n"
        "  clear-hug export runs/superclasses --output exported\n"
        "  clear-hug export hf://ORG/NAME --output exported --int8\n\n"
        "in Python:\n"
        "  extractor = transformers.AutoFeatureExtractor.from_pretrained('exported')\n"
        "  session = onnxruntime.InferenceSession('exported/model.onnx')\n"
        "  inputs = extractor(waveform, sampling_rate=500, lead_names=names, unit='mV', return_tensors='np')\n"
        "  logits = session.run(['logits'], dict(inputs))[0]",
    )
    parser.add_argument(
        "model", type=Path, metavar="FOLDER", help="a model folder, the output of a run, or hf://ORG/NAME"
    )
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help="folder to write")
    parser.add_argument(
        "--int8",
        action="store_true",
        help="also write model_int8.onnx, with matrix products in 8 bits (dynamic quantisation): a quarter of the "
        "size, and other logits, by how much is said",
    )


def run(arguments: argparse.Namespace) -> int:
    """Run `export` and return the exit status."""
    from ..hub.export import export_onnx

    quiet_libraries()
    done = export_onnx(arguments.model, arguments.output, int8=arguments.int8)
    say(f"{done.folder}:")
    for name, about in done.files.items():
        apart = about["largest_difference"]
        say(f"  {name:15s} {about['bytes'] / 1e6:6.1f} MB, logits within {apart:.1e} of the model's")
    return EXIT_OK
