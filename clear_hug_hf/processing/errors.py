"""Errors that users can fix: invalid input and missing optional libraries."""

from __future__ import annotations

from importlib import import_module
from typing import Any


OPTIONAL_LIBRARIES = {
    "PIL": ("pillow", "pages"),
    "accelerate": ("accelerate", "train"),
    "aeon": ("aeon", "baselines"),
    "cv2": ("opencv-python-headless", "pages"),
    "datasets": ("datasets", "train"),
    "defusedxml": ("defusedxml", "formats"),
    "ecgdatakit": ("ecgdatakit", "formats"),
    "evaluate": ("evaluate", "train"),
    "h5py": ("h5py", "code15"),
    "jinja2": ("jinja2", "train"),
    "joblib": ("joblib", "beats"),
    "matplotlib": ("matplotlib", "plots"),
    "neurokit2": ("neurokit2", "beats"),
    "onnx": ("onnx", "export"),
    "onnxruntime": ("onnxruntime", "export"),
    "onnxscript": ("onnxscript", "export"),
    "pandas": ("pandas", "train"),
    "peft": ("peft", "lora"),
    "pyarrow": ("pyarrow", "embed"),
    "pydicom": ("pydicom", "formats"),
    "pypdfium2": ("pypdfium2", "pages"),
    "sklearn": ("scikit-learn", "train"),
    "tensorboard": ("tensorboard", "train"),
    "threadpoolctl": ("threadpoolctl", "train"),
    "wfdb": ("wfdb", None),
}
"""
Libraries that are imported lazily: the package on PyPI, and the extra of this package that includes it, or `None` if
it is a core dependency.
"""


class InputError(ValueError):
    """
    Invalid recording, label, folder or option.

    The message is one sentence that states the problem and its solution. The command line prints it to stderr and
    exits with status 2.
    """


def import_library(name: str, use: str, package: str | None = None) -> Any:
    """
    Import a module of an optional library, or a (relative) module that imports one.

    Raises:
        ImportError: If the library is not installed. The message names the `use` that requires it and what to install.
    """
    try:
        return import_module(name, package)
    except ModuleNotFoundError as error:
        if (message := missing_library(error.name, use)) is None:
            raise
        raise ImportError(message) from error


def missing_library(name: str | None, use: str) -> str | None:
    """Error message that names the `use` and what to install, or `None` for a module of another library."""
    library = str(name).partition(".")[0]
    if library not in OPTIONAL_LIBRARIES:
        return None
    package, extra = OPTIONAL_LIBRARIES[library]
    # A copy of this file that was published with weights works without this package.
    is_installed = __name__.startswith("clear_hug_hf.")
    remedy = f"'clear-hug-hf[{extra}]'" if extra and is_installed else package
    return f"{use} needs {package}, which is not installed: pip install {remedy}"
