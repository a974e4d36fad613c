"""
`clear-hug`: pre-train, fine-tune, evaluate and use ECG models from the command line.

Each verb is a module of this folder, which is imported only when the verb is used. It defines `ARGUMENTS`, the
dataclasses whose fields are its options; `DESCRIPTION` and `EXAMPLES` for `--help`; and `run`, which takes instances
of the dataclasses and returns the exit status. An error that the user can fix prints one sentence on stderr, exits
with status 2, and writes nothing.
"""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Sequence
from importlib import import_module
from typing import Any


EXIT_OK, EXIT_BAD_INPUT, EXIT_INTERRUPTED = 0, 2, 130

VERBS = {
    "prepare": "turn recordings into a dataset for training",
    "pretrain": "pre-train an encoder on recordings without labels",
    "finetune": "train a classifier on labeled recordings",
    "calibrate": "calibrate the probabilities of a classifier",
    "evaluate": "measure a classifier on labeled recordings",
    "predict": "predict the labels of recordings or of pictures of ECGs",
    "embed": "turn recordings into vectors for search or another classifier",
    "benchmark": "compare models across tasks, label fractions and heads",
    "publish": "upload a model and its card to the Hub",
    "convert": "convert a released checkpoint to a model folder",
    "export": "export a classifier to ONNX",
    "render": "draw a recording as a paper ECG",
    "demo": "run the whole pipeline once, on simulated recordings or your own",
}
"""Summary of each verb, in the order in which a project uses them."""

_HELP = f"""\
usage: clear-hug VERB [options]

ECG foundation models: predict labels, extract embeddings, and train models of your own.

verbs:
{"".join(f"  {verb:10s} {summary}{chr(10)}" for verb, summary in VERBS.items())}
examples:
  clear-hug demo
  clear-hug prepare downloads/ptb-xl --labels ptbxl_super --output-dir ptb-xl
  clear-hug pretrain --data ptb-xl --output-dir runs/pretrained
  clear-hug finetune --data ptb-xl --model runs/pretrained --output-dir runs/superclasses
  clear-hug evaluate --data ptb-xl --model runs/superclasses
  clear-hug predict patient7.hea --model runs/superclasses
  clear-hug embed ward3/ --model runs/pretrained --output embeddings.parquet

`clear-hug VERB --help` explains a verb and its options; `--config FILE` reads options from YAML.
`clear-hug --version` prints the version.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """
    Run the command line.

    Args:
        argv (`Sequence[str]`, *optional*): Arguments after the program name (default: those of the process).

    Returns:
        `int`: Exit status: 0 for success, 1 if some recordings could not be used, 2 for bad input, 130 if interrupted.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _show_warning
            return _run(words)
    except KeyboardInterrupt:
        print("clear-hug: interrupted", file=sys.stderr)
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        # The reader closed the pipe, as `| head` does; keep Python from raising again when it flushes stdout at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_OK
    except Exception as error:
        message = _user_message(error)
        if message is None:
            raise
        print(f"clear-hug: error: {message}", file=sys.stderr)
        return EXIT_BAD_INPUT


def _run(words: Sequence[str]) -> int:
    if not words or words[0] in ("-h", "--help"):
        print(_HELP, end="", file=sys.stdout if words else sys.stderr)
        return EXIT_OK if words else EXIT_BAD_INPUT
    if words[0] == "--version":
        from .. import __version__

        print(f"clear-hug {__version__}")
        return EXIT_OK
    from ..utils.arguments import ArgumentParser, nearest

    if words[0] not in VERBS:
        from ..processing.errors import InputError

        raise InputError(f"unknown verb {words[0]!r}{nearest(words[0], VERBS)}")
    verb = import_module(f".{words[0]}", __name__)
    parser = ArgumentParser(
        verb.ARGUMENTS,
        prog=f"clear-hug {words[0]}",
        description=verb.DESCRIPTION,
        epilog=f"examples:\n{verb.EXAMPLES}",
    )
    return verb.run(*parser.parse(words[1:]))


def _show_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    """Print a warning as one sentence, without the line of code that Python would add."""
    print(f"clear-hug: warning: {message}", file=sys.stderr)


def _user_message(error: Exception) -> str | None:
    """One sentence for an error that the user can fix; `None` for a bug in this program."""
    from ..processing.errors import InputError, missing_library

    if isinstance(error, ModuleNotFoundError) and (message := missing_library(error.name, "this command")) is not None:
        return message
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    if isinstance(error, InputError | FileNotFoundError | PermissionError | ImportError):
        return " ".join(str(error).split())
    return None
