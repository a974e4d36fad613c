"""What a user can mend: the one exception that every room raises for input, and libraries that are not installed."""

from __future__ import annotations

from importlib import import_module
from typing import Any


OPTIONAL_LIBRARIES = {
    "PIL": ("pillow", "pages"),
    "accelerate": ("accelerate", "train"),
    "cv2": ("opencv-python-headless", "pages"),
    "datasets": ("datasets", "train"),
    "evaluate": ("evaluate", "train"),
    "h5py": ("h5py", "code15"),
    "jinja2": ("jinja2", "train"),
    "matplotlib": ("matplotlib", "plots"),
    "neurokit2": ("neurokit2", "beats"),
    "onnx": ("onnx", "export"),
    "onnxruntime": ("onnxruntime", "export"),
    "onnxscript": ("onnxscript", "export"),
    "pandas": ("pandas", "train"),
    "peft": ("peft", "lora"),
    "pyarrow": ("pyarrow", "embed"),
    "sklearn": ("scikit-learn", "train"),
    "tensorboard": ("tensorboard", "train"),
    "threadpoolctl": ("threadpoolctl", "train"),
}
"""Libraries that inference works without: the package to install, and the extra of this package that includes it."""


class InputError(ValueError):
    """
    A recording, a label, a folder or an option that cannot be used as it was given.

    The message is one sentence that says what was wrong and what to do. The command line prints it on stderr and exits
    with status 2; Python callers catch it as a `ValueError`.
    """


def import_library(name: str, use: str) -> Any:
    """
    A library that only some uses need, or a module of it.

    Raises:
        ImportError: If it is not installed; the message says what to install for this `use`.
    """
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        raise missing_library(error.name or name, use) from error


def missing_library(name: str, use: str) -> ImportError:
    """The error for a module that is not installed: one sentence that says what needs it and how to install it."""
    library = name.partition(".")[0]
    package, extra = OPTIONAL_LIBRARIES.get(library, (library, None))
    # A copy beside published weights works without this package.
    is_installed = __name__.startswith("clear_hug_hf.")
    remedy = f"'clear-hug-hf[{extra}]'" if extra and is_installed else package
    return ImportError(f"{use} needs {package}, which is not installed: pip install {remedy}", name=library)
