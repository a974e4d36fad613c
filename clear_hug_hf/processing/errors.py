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
    "joblib": ("joblib", "beats"),
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
    "wfdb": ("wfdb", None),
}
"""
Libraries that are imported where they are used: the package to install, and the extra of this package that includes
it; `None` where the package itself does.
"""


class InputError(ValueError):
    """
    A recording, a label, a folder or an option that cannot be used as it was given.

    The message is one sentence that says what was wrong and what to do. The command line prints it on stderr and exits
    with status 2; Python callers catch it as a `ValueError`.
    """


def import_library(name: str, use: str, package: str | None = None) -> Any:
    """
    A module of a library that only some uses need, or one, also relative to a package, that imports such a library.

    Raises:
        ImportError: If the library is not installed; the message says what to install for this `use`.
    """
    try:
        return import_module(name, package)
    except ModuleNotFoundError as error:
        if (message := missing_library(error, use)) is None:
            raise
        raise ImportError(message) from error


def missing_library(error: ModuleNotFoundError, use: str) -> str | None:
    """One sentence that says what to install for this `use`, `None` if the module is of none of these libraries."""
    library = str(error.name).partition(".")[0]
    if library not in OPTIONAL_LIBRARIES:
        return None
    package, extra = OPTIONAL_LIBRARIES[library]
    # A copy beside published weights works without this package.
    is_installed = __name__.startswith("clear_hug_hf.")
    remedy = f"'clear-hug-hf[{extra}]'" if extra and is_installed else package
    return f"{use} needs {package}, which is not installed: pip install {remedy}"
