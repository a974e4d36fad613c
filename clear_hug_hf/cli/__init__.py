"""
`clear-hug`: pre-train, fine-tune, evaluate and use ECG models from the command line.

What the user can mend is one sentence on stderr and exit status 2, with nothing written. Most libraries are imported
inside the verbs, so that `--help` is quick.
"""

from __future__ import annotations

import argparse
import os
import sys
import warnings
from collections.abc import Sequence
from typing import Any

from . import benchmark, convert, demo, embed, evaluate, export, finetune, predict, prepare, pretrain, publish, render
from .shared import EXIT_BAD_INPUT, EXIT_INTERRUPTED, EXIT_OK


_IN_ORDER = (prepare, pretrain, finetune, evaluate, predict, embed, benchmark, publish, convert, export, render, demo)
# A verb is called as its module.
_VERBS: dict[str, Any] = {module.__name__.rpartition(".")[2]: module for module in _IN_ORDER}


def main(argv: Sequence[str] | None = None) -> int:
    """
    Run the command line.

    Args:
        argv (`Sequence[str]`, *optional*): Arguments after the program's name; those of the process by default.

    Returns:
        `int`: Exit status: 0 all done, 1 some recordings could not be used, 2 bad input, 130 interrupted.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    arguments = _parser(words[:1]).parse_args(words)
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _show_warning
            return arguments.run(arguments)
    except KeyboardInterrupt:
        print("clear-hug: interrupted", file=sys.stderr)
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        # The reader of our output left, as `| head` does; Python must not complain when it closes the pipe.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_OK
    except Exception as error:
        message = _user_message(error)
        if message is None:
            raise
        print(f"clear-hug: error: {message}", file=sys.stderr)
        return EXIT_BAD_INPUT


def _show_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    """A warning as one sentence, without the line of code that Python would show."""
    print(f"clear-hug: warning: {message}", file=sys.stderr)


def _user_message(error: Exception) -> str | None:
    """One sentence for an error that the user can mend, `None` for one that is a fault of this program."""
    from ..processing.errors import InputError, missing_library

    if isinstance(error, ModuleNotFoundError) and (message := missing_library(error, "this command")) is not None:
        return message
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    if isinstance(error, InputError | FileNotFoundError | PermissionError | ImportError):
        return " ".join(str(error).split())
    return None


def _parser(asked: Sequence[str] = ()) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="clear-hug",
        description="ECG foundation models: from a recording to beats, representations and diagnoses.",
        epilog="examples:\n"
        "  clear-hug demo\n"
        "  clear-hug prepare downloads/ptb-xl --labels ptbxl_super --output ptb-xl\n"
        "  clear-hug pretrain --data ptb-xl --output runs/pretrained\n"
        "  clear-hug finetune --data ptb-xl --model runs/pretrained --output runs/superclasses\n"
        "  clear-hug evaluate --data ptb-xl --model runs/superclasses\n"
        "  clear-hug predict patient7.hea --model runs/superclasses\n"
        "  clear-hug embed ward3/ --model runs/pretrained --output embeddings.parquet\n"
        "  clear-hug benchmark --tasks ptb-xl --models runs/pretrained\n"
        "  clear-hug render patient7.hea page.png\n"
        "  clear-hug publish runs/superclasses you/ecg-superclasses --dry-run staged\n"
        "  clear-hug export runs/superclasses --output exported\n\n"
        "`clear-hug VERB --help` explains each verb.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    verbs = parser.add_subparsers(title="verbs", metavar="VERB", required=True)
    # Of a verb that is named, the others need not be built.
    for verb in [_VERBS[name] for name in asked if name in _VERBS] or _VERBS.values():
        verb.add(verbs)
    return parser
