"""Converters from released checkpoints, export to ONNX, model cards and publishing to the Hub."""

from importlib import import_module
from pkgutil import iter_modules
from typing import Any


def __getattr__(name: str) -> Any:
    """A function of a converter, from its own module on first use."""
    for module in (info.name for info in iter_modules(__path__) if info.name.startswith(("convert_", "checkpoints"))):
        converter = import_module(f".{module}", __name__)
        if name in converter.__all__:
            return getattr(converter, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
