"""
Load the JSON files of model folders and prepared folders.

All of them are read here, so that damaged or untrusted files raise an [`InputError`] and never run code, exhaust
memory or surface an error of another library.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import transformers
from huggingface_hub.errors import StrictDataclassError
from transformers import AutoConfig, AutoFeatureExtractor, PreTrainedConfig

from ..processing.errors import InputError
from ..processing.feature_extraction_ecg import EcgFeatureExtractor
from ..systems import SYSTEMS


CONFIG, EXTRACTOR = "config.json", "preprocessor_config.json"
_MAX_BYTES = 256_000_000
# Fields of a saved feature extractor that only describe how to load it.
_LOADING_FIELDS = ("feature_extractor_type", "image_processor_type", "auto_map")


def read_json(path: str | Path) -> dict[str, Any]:
    """
    The object in a JSON file.

    Raises:
        InputError: If the file cannot be read, is not valid JSON, or does not contain an object.
    """
    path = Path(path)
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise InputError(f"{path} cannot be loaded: it is larger than {_MAX_BYTES / 1e6:g} MB")
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path} cannot be loaded: {error.strerror}") from error
    except RecursionError:
        raise InputError(f"{path} cannot be loaded: it is nested too deeply") from None
    except ValueError as error:
        raise InputError(f"{path} cannot be loaded: it is damaged, not valid JSON ({_one_line(error)})") from error
    if not isinstance(content, dict):
        raise InputError(f"{path} cannot be loaded: it contains a {type(content).__name__}, not a JSON object")
    return content


def load_config(folder: str | Path) -> PreTrainedConfig:
    """
    The config of a model folder.

    Raises:
        InputError: If it cannot be loaded, belongs to a model of another package, or has an invalid value.
    """
    path = Path(folder) / CONFIG
    _check_kind(path, "model_type", tuple(SYSTEMS))
    with loading_errors(path):
        return AutoConfig.from_pretrained(folder, trust_remote_code=False)


def load_feature_extractor(folder: str | Path) -> Any:
    """
    The feature extractor of a model folder or a prepared folder.

    Raises:
        InputError: If it cannot be loaded, belongs to another package, or has an invalid value.
    """
    path = Path(folder) / EXTRACTOR
    # Systems may share a class.
    known = tuple(dict.fromkeys(system.classes["AutoFeatureExtractor"].split(":")[1] for system in SYSTEMS.values()))
    _check_kind(path, "feature_extractor_type", known)
    with loading_errors(path):
        return AutoFeatureExtractor.from_pretrained(folder, trust_remote_code=False)


def extractor_settings(feature_extractor: EcgFeatureExtractor) -> dict[str, Any]:
    """The settings of a feature extractor, as saved, without the fields that only describe how to load it."""
    settings = json.loads(feature_extractor.to_json_string())
    return {name: value for name, value in settings.items() if name not in _LOADING_FIELDS}


@contextmanager
def loading_errors(path: Path) -> Iterator[None]:
    """Turn any error of a library, except `MemoryError`, into an [`InputError`] that names the file."""
    verbosity = transformers.logging.get_verbosity()
    # Libraries also log the message of the error.
    transformers.logging.set_verbosity_error()
    try:
        yield
    except MemoryError:
        raise
    except Exception as error:
        raise InputError(f"{path} cannot be loaded: {_one_line(error)}") from error
    finally:
        transformers.logging.set_verbosity(verbosity)


def _check_kind(path: Path, field: str, known: tuple[str, ...]) -> None:
    kind = read_json(path).get(field)
    # For other kinds transformers would ask on the terminal whether to run the code beside the file.
    if not isinstance(kind, str) or kind not in known:
        raise InputError(
            f"{path} cannot be loaded: {field} is {str(kind)[:80]!r}, but this package supports {', '.join(known)}"
        )


def _one_line(error: BaseException) -> str:
    """The message of an error in one line."""
    if isinstance(error, StrictDataclassError) and error.__cause__ is not None:
        return _one_line(error.__cause__)
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 500 else f"{text[:500]} ..."
