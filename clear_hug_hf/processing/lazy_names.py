"""Names of a package whose modules are imported when one of their names is first used."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from .errors import import_library


def lazy_names(package: str, modules: Mapping[str, str]) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """
    What a package defines as its `__getattr__` and `__dir__`.

    Args:
        package (`str`): Its `__name__`.
        modules (`Mapping[str, str]`): For each name, the module that defines it, with a leading dot if it is a module
            of the package. Names added later count, too.

    Returns:
        `tuple[Callable[[str], Any], Callable[[], list[str]]]`: Both functions. The first also imports the modules of
        the package by their own names.
    """

    def get(name: str) -> Any:
        if name in modules:
            return getattr(import_library(modules[name], f"{package}.{name}", package), name)
        if not name.startswith("_") and find_spec(f"{package}.{name}") is not None:
            return import_module(f"{package}.{name}")
        raise AttributeError(f"module {package!r} has no attribute {name!r}")

    def names() -> list[str]:
        return sorted({*vars(sys.modules[package]), *modules})

    return get, names
