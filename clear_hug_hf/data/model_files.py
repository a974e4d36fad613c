"""
The JSON files of model folders and prepared folders: read here and nowhere else, so that a file that is damaged, or
anyone's, gives one sentence and never code, memory or an error of another library.
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
# Of a saved feature extractor: what only says how to load it.
_OF_LOADING = ("feature_extractor_type", "image_processor_type", "auto_map")


def read_json(path: str | Path) -> dict[str, Any]:
    """
    The object in a JSON file.

    Raises:
        InputError: If the file cannot be read, is no JSON, or holds something else than one object.
    """
    path = Path(path)
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise InputError(f"{path} cannot be loaded: it is larger than {_MAX_BYTES / 1e6:g} MB")
        found = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path} cannot be loaded: {error.strerror}") from error
    except RecursionError:
        raise InputError(f"{path} cannot be loaded: it is nested too deeply") from None
    except ValueError as error:
        raise InputError(f"{path} cannot be loaded: it is damaged, and no JSON ({_sentence(error)})") from error
    if not isinstance(found, dict):
        raise InputError(f"{path} cannot be loaded: it holds a {type(found).__name__}, and not an object with fields")
    return found


def load_config(folder: str | Path) -> PreTrainedConfig:
    """
    The config of a model folder.

    Raises:
        InputError: If it cannot be loaded, is no model's of this package, or a field has a value that it cannot have.
    """
    path = Path(folder) / CONFIG
    _check_kind(path, "model_type", tuple(SYSTEMS))
    with loading_errors(path):
        return AutoConfig.from_pretrained(folder, trust_remote_code=False)


def load_feature_extractor(folder: str | Path) -> Any:
    """
    The feature extractor of a model folder or a prepared folder.

    Raises:
        InputError: If it cannot be loaded, is none of this package, or a setting has a value that it cannot have.
    """
    path = Path(folder) / EXTRACTOR
    known = tuple(one.classes["AutoFeatureExtractor"].split(":")[1] for one in SYSTEMS.values())
    _check_kind(path, "feature_extractor_type", known)
    with loading_errors(path):
        return AutoFeatureExtractor.from_pretrained(folder, trust_remote_code=False)


def extractor_settings(feature_extractor: EcgFeatureExtractor) -> dict[str, Any]:
    """The settings of a feature extractor, as its saved file spells them, without what only says how to load it."""
    settings = json.loads(feature_extractor.to_json_string())
    return {name: value for name, value in settings.items() if name not in _OF_LOADING}


@contextmanager
def loading_errors(path: Path) -> Iterator[None]:
    """Whatever a library says of a file becomes an [`InputError`] that names the file, unless memory is short."""
    verbosity = transformers.logging.get_verbosity()
    # Libraries log what the error says.
    transformers.logging.set_verbosity_error()
    try:
        yield
    except MemoryError:
        raise
    except Exception as error:
        raise InputError(f"{path} cannot be loaded: {_sentence(error)}") from error
    finally:
        transformers.logging.set_verbosity(verbosity)


def _check_kind(path: Path, field: str, known: tuple[str, ...]) -> None:
    kind = read_json(path).get(field)
    # Of another kind transformers would ask on the terminal whether it may run the code beside the file.
    if not isinstance(kind, str) or kind not in known:
        raise InputError(
            f"{path} cannot be loaded: {field} is {str(kind)[:80]!r}, and this package has {', '.join(known)}"
        )


def _sentence(error: BaseException) -> str:
    """What an error says, in one line."""
    if isinstance(error, StrictDataclassError) and error.__cause__ is not None:
        return _sentence(error.__cause__)
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 500 else f"{text[:500]} ..."
