"""What a user can mend: the one exception that every room raises for input, and libraries that are not installed."""

from __future__ import annotations

from importlib import import_module
from typing import Any


class InputError(ValueError):
    """
    A recording, a label, a folder or an option that cannot be used as it was given.

    The message is one sentence that says what was wrong and what to do. The command line prints it on stderr and exits
    with status 2; Python callers catch it as a `ValueError`.
    """


def import_library(name: str, remedy: str) -> Any:
    """A library that only some uses need, or a module of it; an `ImportError` says the remedy where it is missing."""
    try:
        return import_module(name)
    except ImportError as error:
        raise ImportError(remedy) from error
