"""Model folders: written atomically, and loaded with errors that name what is missing."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError, StrictDataclassError
from transformers import (
    AutoModel,
    AutoModelForImageClassification,
    AutoModelForPreTraining,
    AutoModelForSequenceClassification,
    PreTrainedModel,
)

from ..data.model_files import load_config, load_feature_extractor, loading_errors, read_json
from ..processing.errors import InputError
from ..utils.files import atomic_folder


_WEIGHTS = (WEIGHTS, INDEX) = ("model.safetensors", "model.safetensors.index.json")
METRICS, PRETRAINING, CONVERSION = "metrics.json", "pretraining.json", "conversion.json"
"""Files with the facts of a model card: of fine-tuning, pre-training, and conversion of a checkpoint."""
CALIBRATION = "calibration.json"
"""The recordings by which `clear-hug calibrate` replaced calibration and thresholds after the training."""
CARD = "README.md"
FOOTER = "<!-- made by clear-hug-hf -->"
"""Marks a generated card, which may be replaced."""
_IMAGE_CLASSIFIER = "AutoModelForImageClassification"
SHIPPED = Path(__file__).resolve().parents[1] / "model_cards"
"""Folder of the models that this package ships."""
HUB = "hf://"
"""Prefix that distinguishes a model on the Hub, `hf://ORG/NAME[@REVISION]`, from a folder."""


def save_model_folder(
    folder: str | Path, model: PreTrainedModel, feature_extractor: Any, tokenizer: Any = None
) -> None:
    """
    Save a model with its feature extractor, atomically.

    Args:
        folder (`str` or `Path`): Folder to write, replaced if it exists.
        model ([`PreTrainedModel`]): Model to save with its config and code.
        feature_extractor: Its feature extractor.
        tokenizer (*optional*): Its tokenizer.
    """
    with atomic_folder(folder) as partial:
        model.save_pretrained(partial)
        feature_extractor.save_pretrained(partial)
        if tokenizer is not None:
            tokenizer.save_pretrained(partial)


def shipped_models() -> dict[str, Path]:
    """Folders of the models that this package ships, by name."""
    return {path.parent.name: path.parent for path in sorted(SHIPPED.glob("*/config.json"))}


def shipped_model(name: str) -> Path:
    """
    The folder of a model that this package ships, for `from_pretrained` and `pipeline`.

    Args:
        name (`str`): Name of the model, such as `"clear-hug-small-ptbxl-super"`.

    Raises:
        InputError: If no shipped model has this name; the message lists all names.
    """
    folders = shipped_models()
    if name not in folders:
        raise InputError(f"this package ships no model {name!r}: choose from {', '.join(folders)}")
    return folders[name]


def find_model_folder(path: str | Path) -> Path:
    """
    The folder of a model: the path itself, or its subfolder `model` if it is the output folder of a run.

    Args:
        path (`str` or `Path`): A folder, the name of a shipped model, or `hf://ORG/NAME[@REVISION]` for a model on the
            Hub. The latter is downloaded to the cache of Hugging Face, without its code: this package's is used.

    Raises:
        FileNotFoundError: If the folder does not exist.
        InputError: If it contains no model, the weights or the feature extractor are missing, or the download fails.
    """
    # `Path` collapses the two slashes.
    if (text := str(path)).startswith("hf:"):
        return _download(text.removeprefix("hf:").lstrip("/"))
    path = Path(path)
    if not path.exists():
        if text in (shipped := shipped_models()):
            return shipped[text]
        raise FileNotFoundError(
            f"the model folder {path} does not exist: check the path, or use a shipped model: {', '.join(shipped)}"
        )
    if not path.is_dir():
        raise InputError(f"{path} is not a folder: use the folder that contains the model's config.json")
    folder = path if (path / "config.json").is_file() or not (path / "model").is_dir() else path / "model"
    if not (folder / "config.json").is_file():
        raise InputError(f"{folder} contains no model: config.json is missing")
    if not any((folder / name).is_file() for name in _WEIGHTS):
        raise InputError(f"{folder} contains no weights: model.safetensors is missing")
    if not (folder / "preprocessor_config.json").is_file():
        raise InputError(
            f"{folder} contains no feature extractor: preprocessor_config.json, which defines the preprocessing, is "
            "missing"
        )
    return folder


def _download(name: str) -> Path:
    repo_id, at, revision = name.partition("@")
    if not repo_id or (at and not revision):
        raise InputError(f"{HUB}{name} is not a valid model name: use {HUB}ORG/NAME or {HUB}ORG/NAME@REVISION")
    try:
        path = snapshot_download(repo_id, revision=revision or None, allow_patterns=["*.json", "*.safetensors"])
    except HFValidationError as error:
        raise InputError(f"{HUB}{name} is not a valid model name: use {HUB}ORG/NAME") from error
    except LocalEntryNotFoundError as error:
        raise InputError(f"{HUB}{name} is not cached, and the Hub cannot be reached: check the connection") from error
    except Exception as error:  # the types of errors of the Hub and of the network differ between versions
        raise InputError(
            f"{HUB}{name} cannot be downloaded: check the name and the connection ({_first_line(error)})"
        ) from error
    if not (Path(path) / "config.json").is_file():
        raise InputError(f"{HUB}{name} contains no model: config.json is missing")
    return find_model_folder(path)


def _load(auto_class: Any, folder: Path, **kwargs: Any) -> tuple[Any, dict[str, Any]]:
    load_config(folder)
    index = folder / INDEX
    if index.is_file():
        files = read_json(index).get("weight_map")
        if not isinstance(files, dict) or any(Path(str(name)).name != name for name in files.values()):
            raise InputError(f"{index} cannot be loaded: it must name files of weights in the same folder")
    # Callers check missing and unexpected keys.
    with loading_errors(index if index.is_file() else folder / WEIGHTS):
        model, info = auto_class.from_pretrained(
            folder, output_loading_info=True, trust_remote_code=False, use_safetensors=True, **kwargs
        )
    # The sum is a fast check: it is not finite if a weight is not.
    bad = [
        name
        for name, weight in model.state_dict().items()
        if weight.is_floating_point() and not weight.sum().isfinite() and not torch.isfinite(weight).all()
    ]
    if bad:
        raise InputError(
            f"{bad[0]} in {folder} has weights that are NaN or infinite: copy or download the folder again"
        )
    return model, info


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)


def classifier_class(config: Any) -> Any:
    """The Auto class of a system's classifiers, of recordings or of pictures."""
    auto_map = getattr(config, "auto_map", None) or {}
    return AutoModelForImageClassification if _IMAGE_CLASSIFIER in auto_map else AutoModelForSequenceClassification


def load_classifier(path: str | Path) -> tuple[Any, Any]:
    """
    Load a fine-tuned model and its feature extractor.

    Args:
        path (`str` or `Path`): As in [`find_model_folder`].

    Returns:
        `tuple`: The model, in evaluation mode, and the feature extractor.

    Raises:
        FileNotFoundError: If the folder does not exist.
        InputError: If it contains no complete fine-tuned model.
    """
    folder = find_model_folder(path)
    if names := [name for name in _architectures(folder) if name.endswith("ForTokenClassification")]:
        raise InputError(
            f"{folder} contains a classifier of samples ({names[0]}), not of recordings: fine-tune one with "
            "`clear-hug finetune`"
        )
    model, info = _load(classifier_class(load_config(folder)), folder)
    if info["missing_keys"]:
        raise InputError(
            f"{folder} contains no fine-tuned classifier ({len(info['missing_keys'])} weights are missing): fine-tune "
            "one with `clear-hug finetune`"
        )
    return model.eval(), load_feature_extractor(folder)


def load_pretrained(path: str | Path) -> tuple[Any, Any]:
    """
    Load a pre-trained model with its decoder, and its feature extractor; arguments and errors as in
    [`load_classifier`].
    """
    folder = find_model_folder(path)
    model, info = _load(AutoModelForPreTraining, folder)
    if info["missing_keys"]:
        raise InputError(f"{folder} contains no pre-trained model with a decoder: train one with `clear-hug pretrain`")
    return model.eval(), load_feature_extractor(folder)


def has_decoder(folder: Path) -> bool:
    """Whether a model folder contains a pre-trained model with its decoder."""
    return any("ForPreTraining" in name for name in _architectures(folder))


def _architectures(folder: Path) -> list[str]:
    return list(load_config(folder).architectures or ())


def load_model(path: str | Path) -> tuple[Any, Any, str]:
    """
    Load the complete model of a folder as the class that it was saved as.

    Args:
        path (`str` or `Path`): As in [`find_model_folder`].

    Returns:
        `tuple`: The model, in evaluation mode, its feature extractor, and the name of the Auto class that loads it.

    Raises:
        FileNotFoundError: If the folder does not exist.
        InputError: If weights are missing or unexpected, or the class is unknown.
    """
    folder = find_model_folder(path)
    config = load_config(folder)
    architecture = next(iter(config.architectures or ()), None)
    auto_map = getattr(config, "auto_map", None) or {}
    auto_classes = {reference.split(".")[-1]: name for name, reference in auto_map.items()}
    if architecture not in auto_classes:
        raise InputError(
            f"config.json in {folder} names {architecture or 'no architecture'}, not a model of this package: "
            "use a folder that `clear-hug` wrote"
        )
    model, info = _load(getattr(transformers, auto_classes[architecture]), folder)
    for kind in ("missing", "unexpected"):
        if keys := info[f"{kind}_keys"]:
            listed = ", ".join(sorted(keys)[:3]) + (f" and {len(keys) - 3} more" if len(keys) > 3 else "")
            raise InputError(f"the weights in {folder} are not those of {architecture}: {kind} {listed}")
    return model.eval(), load_feature_extractor(folder), auto_classes[architecture]


def load_encoder(path: str | Path) -> tuple[Any, Any]:
    """
    Load the encoder of any model folder, and its feature extractor; arguments and errors as in [`load_classifier`].
    """
    folder = find_model_folder(path)
    model, info = _load(AutoModel, folder)
    if info["missing_keys"]:
        raise InputError(f"{folder} contains no complete encoder: {len(info['missing_keys'])} weights are missing")
    return model.eval(), load_feature_extractor(folder)


def load_for_finetuning(path: str | Path, label_names: Sequence[str], **overrides: Any) -> tuple[Any, Any]:
    """
    Load a pre-trained encoder with a new head, and its feature extractor. Set the seed first: it initializes the head.

    Args:
        path (`str` or `Path`): As in [`find_model_folder`]; the model may be pre-trained or fine-tuned.
        label_names (`Sequence[str]`): Labels of the new classifier.
        overrides: Fields of the config to override, such as `head_type`.

    Returns:
        `tuple`: The model and the feature extractor, which has the `rhythm_features` of the model.

    Raises:
        FileNotFoundError: If the folder does not exist.
        InputError: If it contains no complete encoder, or the config does not accept an override.
    """
    folder = find_model_folder(path)
    config = classifier_config(load_config(folder), label_names, **overrides)
    model, info = _load(classifier_class(config), folder, config=config, ignore_mismatched_sizes=True)
    prefix = f"{model.base_model_prefix}."
    not_loaded = [*info["missing_keys"], *(str(name) for name, *_ in info["mismatched_keys"])]
    if not_loaded := [name for name in not_loaded if name.startswith(prefix)]:
        raise InputError(
            f"{folder} contains no complete encoder: {not_loaded[0]} and {len(not_loaded) - 1} other weights are "
            "missing or have another shape"
        )
    return model, load_feature_extractor(folder).replace(rhythm_features=model.config.rhythm_features)


def check_heads(folder: Path, heads: Sequence[str]) -> None:
    """
    Check that the model of a folder supports heads.

    Raises:
        InputError: If it does not support one; the message lists those that it supports.
    """
    config = load_config(folder)
    for head in heads:
        try:
            classifier_config(config, ["label"], head_type=head)
        except InputError as error:
            raise InputError(f"{config.model_type} has no head {head!r}: {error}") from error


def classifier_config(config: Any, label_names: Sequence[str], **overrides: Any) -> Any:
    """
    A copy of an encoder's config for a classifier of these labels.

    Raises:
        InputError: If the config does not accept an override.
    """
    fields = {
        **{name: value for name, value in config.to_dict().items() if name != "window_aggregation"},
        "id2label": dict(enumerate(label_names)),
        "label2id": {name: index for index, name in enumerate(label_names)},
        # Thresholds, calibration, familiarity, problem type, rhythm features and combination of windows of an earlier
        # classifier do not apply to the new one.
        "label_thresholds": None,
        "label_calibration": None,
        "familiarity": None,
        "problem_type": "multi_label_classification",
        "rhythm_features": [],
        **overrides,
    }
    try:
        return type(config).from_dict(fields)
    except (ValueError, StrictDataclassError) as error:
        raise InputError(" ".join(str(error).split())) from error
