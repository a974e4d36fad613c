"""Model folders: written whole or not at all, and loaded with an error that says what is missing."""

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
"""Files that model cards are made from: of fine-tuning, of pre-training, and of a converted checkpoint."""
CARD = "README.md"
FOOTER = "<!-- made by clear-hug-hf -->"
"""In a card that no one wrote by hand, which may be made anew."""
_OF_IMAGES = "AutoModelForImageClassification"
SHIPPED = Path(__file__).resolve().parents[1] / "model_cards"
"""The models that come with this package."""
HUB = "hf://"
"""What the name of a model on the Hub begins with where a folder could be meant: `hf://ORG/NAME[@REVISION]`."""


def save_model_folder(
    folder: str | Path, model: PreTrainedModel, feature_extractor: Any, tokenizer: Any = None
) -> None:
    """
    Save a model with its feature extractor so that the folder is complete whenever it exists under its name.

    Args:
        folder (`str` or `Path`): Replaced if it exists.
        model ([`PreTrainedModel`]): Saved with its config and code.
        feature_extractor: Saved beside it.
        tokenizer (*optional*): Saved beside it, too.
    """
    with atomic_folder(folder) as partial:
        model.save_pretrained(partial)
        feature_extractor.save_pretrained(partial)
        if tokenizer is not None:
            tokenizer.save_pretrained(partial)


def shipped_models() -> dict[str, Path]:
    """The folders of the models that come with this package, by name."""
    return {path.parent.name: path.parent for path in sorted(SHIPPED.glob("*/config.json"))}


def shipped_model(name: str) -> Path:
    """
    The folder of a model that comes with this package, for `from_pretrained` and `pipeline`.

    Args:
        name (`str`): Such as `"clear-hug-small-ptbxl-super"`.

    Raises:
        InputError: If there is none of that name; the message lists those that there are.
    """
    folders = shipped_models()
    if name not in folders:
        raise InputError(f"no model {name!r} comes with this package: choose from {', '.join(folders)}")
    return folders[name]


def find_model_folder(path: str | Path) -> Path:
    """
    The folder that holds a model: the path itself, or `model` in it where it is the output folder of a run.

    Args:
        path (`str` or `Path`): A folder; or the name of a model that comes with this package; or
            `hf://ORG/NAME[@REVISION]`, a model on the Hub, which is downloaded into the cache of Hugging Face. Its
            code is not: this package's own is used.

    Raises:
        FileNotFoundError: If there is no such folder.
        InputError: If it holds no model, or a model without weights or feature extractor, or cannot be downloaded.
    """
    # A path of Python's joins the slashes of an address.
    if (text := str(path)).startswith("hf:"):
        return _download(text.removeprefix("hf:").lstrip("/"))
    path = Path(path)
    if not path.exists():
        if text in (shipped := shipped_models()):
            return shipped[text]
        raise FileNotFoundError(
            f"the model folder {path} does not exist: check the path, or name a shipped model: {', '.join(shipped)}"
        )
    if not path.is_dir():
        raise InputError(f"{path} is not a folder: name the folder that holds the model's config.json")
    folder = path if (path / "config.json").is_file() or not (path / "model").is_dir() else path / "model"
    if not (folder / "config.json").is_file():
        raise InputError(f"{folder} holds no model: there is no config.json in it")
    if not any((folder / name).is_file() for name in _WEIGHTS):
        raise InputError(f"{folder} holds no weights: there is no model.safetensors beside its config.json")
    if not (folder / "preprocessor_config.json").is_file():
        raise InputError(
            f"{folder} holds no feature extractor: there is no preprocessor_config.json, which says how recordings "
            "are cleaned for this model"
        )
    return folder


def _download(name: str) -> Path:
    repo_id, at, revision = name.partition("@")
    if not repo_id or (at and not revision):
        raise InputError(f"{HUB}{name} is no model on the Hub: give {HUB}ORG/NAME, or {HUB}ORG/NAME@REVISION")
    try:
        found = snapshot_download(repo_id, revision=revision or None, allow_patterns=["*.json", "*.safetensors"])
    except HFValidationError as error:
        raise InputError(f"{HUB}{name} is no model on the Hub: give {HUB}ORG/NAME") from error
    except LocalEntryNotFoundError as error:
        raise InputError(
            f"{HUB}{name} is not in the cache, and the Hub cannot be reached: check the connection"
        ) from error
    except Exception as error:  # of the Hub, or of the way there, of which each version has its own
        raise InputError(
            f"{HUB}{name} cannot be downloaded: check name and connection ({_first_line(error)})"
        ) from error
    folder = Path(found)
    if not (folder / "config.json").is_file():
        raise InputError(f"{HUB}{name} holds no model: there is no config.json in it")
    return find_model_folder(folder)


def _load(auto_class: Any, folder: Path, **kwargs: Any) -> tuple[Any, dict[str, Any]]:
    load_config(folder)
    index = folder / INDEX
    if index.is_file():
        files = read_json(index).get("weight_map")
        if not isinstance(files, dict) or any(Path(str(name)).name != name for name in files.values()):
            raise InputError(f"{index} cannot be loaded: it does not name the files of weights beside it")
    # Keys that are missing or left over are checked by the callers, whose errors say what to do.
    with loading_errors(index if index.is_file() else folder / WEIGHTS):
        model, info = auto_class.from_pretrained(
            folder, output_loading_info=True, trust_remote_code=False, use_safetensors=True, **kwargs
        )
    # A sum is not finite if one of its numbers is not; it is the quickest look at all of them.
    bad = [
        name
        for name, weight in model.state_dict().items()
        if weight.is_floating_point() and not weight.sum().isfinite() and not torch.isfinite(weight).all()
    ]
    if bad:
        raise InputError(f"the weights in {folder} are NaN or infinite in {bad[0]}: copy or download the folder again")
    return model, info


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)


def classifier_class(config: Any) -> Any:
    """The Auto class of a system's classifiers: of recordings, or of pictures of them."""
    served = getattr(config, "auto_map", None) or {}
    return AutoModelForImageClassification if _OF_IMAGES in served else AutoModelForSequenceClassification


def load_classifier(path: str | Path) -> tuple[Any, Any]:
    """
    A fine-tuned model and its feature extractor.

    Args:
        path (`str` or `Path`): A model folder, or the output folder of a run.

    Returns:
        `tuple`: The model, in evaluation mode, and the feature extractor.

    Raises:
        FileNotFoundError: If the folder does not exist.
        InputError: If it holds no whole fine-tuned model.
    """
    folder = find_model_folder(path)
    if names := [one for one in _architectures(folder) if one.endswith("ForTokenClassification")]:
        raise InputError(
            f"{folder} holds a classifier of samples ({names[0]}), not of recordings: fine-tune one with "
            "`clear-hug finetune`"
        )
    model, info = _load(classifier_class(load_config(folder)), folder)
    if info["missing_keys"]:
        raise InputError(
            f"{folder} holds no fine-tuned classifier ({len(info['missing_keys'])} weights are not in it): fine-tune "
            "it first with `clear-hug finetune`"
        )
    return model.eval(), load_feature_extractor(folder)


def load_pretrained(path: str | Path) -> tuple[Any, Any]:
    """
    A pre-trained model with its decoder, and its feature extractor; arguments and errors as in [`load_classifier`].
    """
    folder = find_model_folder(path)
    model, info = _load(AutoModelForPreTraining, folder)
    if info["missing_keys"]:
        raise InputError(f"{folder} holds no pre-trained model with a decoder: pre-train it with `clear-hug pretrain`")
    return model.eval(), load_feature_extractor(folder)


def holds_decoder(folder: Path) -> bool:
    """Whether a model folder holds a pre-trained model with its decoder."""
    return any("ForPreTraining" in name for name in _architectures(folder))


def _architectures(folder: Path) -> list[str]:
    return list(load_config(folder).architectures or ())


def load_model(path: str | Path) -> tuple[Any, Any, str]:
    """
    The model of a folder as the class that it was saved as, whole.

    Args:
        path (`str` or `Path`): A model folder, or the output folder of a run.

    Returns:
        `tuple`: The model, in evaluation mode, its feature extractor, and the name of the Auto class that loads it.

    Raises:
        FileNotFoundError: If the folder does not exist.
        InputError: If it holds no whole model, or weights that the model has no place for.
    """
    folder = find_model_folder(path)
    config = load_config(folder)
    architecture = next(iter(config.architectures or ()), None)
    served = {reference.split(".")[-1]: name for name, reference in (getattr(config, "auto_map", None) or {}).items()}
    if architecture not in served:
        raise InputError(
            f"config.json in {folder} names {architecture or 'no architecture'}, which is no model of this package: "
            "name a folder that `clear-hug` wrote"
        )
    model, info = _load(getattr(transformers, served[architecture]), folder)
    for kind, keys in (("it lacks", info["missing_keys"]), ("the model has no place for", info["unexpected_keys"])):
        if keys:
            named = ", ".join(sorted(keys)[:3]) + (f" and {len(keys) - 3} more" if len(keys) > 3 else "")
            raise InputError(f"{folder} does not hold a whole {architecture}: {kind} {named}")
    return model.eval(), load_feature_extractor(folder), served[architecture]


def load_encoder(path: str | Path) -> tuple[Any, Any]:
    """
    The encoder of any model folder, and its feature extractor; arguments and errors as in [`load_classifier`].
    """
    folder = find_model_folder(path)
    model, info = _load(AutoModel, folder)
    if info["missing_keys"]:
        raise InputError(f"{folder} holds no whole encoder ({len(info['missing_keys'])} weights are not in it)")
    return model.eval(), load_feature_extractor(folder)


def load_for_finetuning(path: str | Path, label_names: Sequence[str], **overrides: Any) -> tuple[Any, Any]:
    """
    A pre-trained encoder under a new head for some labels, and its feature extractor.

    Args:
        path (`str` or `Path`): A model folder, or the output folder of a run; pre-trained or fine-tuned.
        label_names (`Sequence[str]`): Labels of the new classifier.
        overrides: Fields of the config that differ, such as `head_type`.

    Returns:
        `tuple`: The model and the feature extractor. Set the seed before: the head is initialised here.

    Raises:
        FileNotFoundError: If the folder does not exist.
        InputError: If it holds no whole encoder, or a field is not one of the config's.
    """
    folder = find_model_folder(path)
    config = classifier_config(load_config(folder), label_names, **overrides)
    model, info = _load(classifier_class(config), folder, config=config, ignore_mismatched_sizes=True)
    prefix = f"{model.base_model_prefix}."
    lost = [*info["missing_keys"], *(str(one[0]) for one in info["mismatched_keys"])]
    if lost := [key for key in lost if key.startswith(prefix)]:
        raise InputError(
            f"{folder} holds no whole encoder: {lost[0]} and {len(lost) - 1} other weights are missing, or of another "
            "shape"
        )
    return model, load_feature_extractor(folder)


def check_heads(folder: Path, heads: Sequence[str]) -> None:
    """
    Refuse heads that the model of a folder cannot have.

    Raises:
        InputError: If there is one, with those that it can have.
    """
    config = load_config(folder)
    for head in heads:
        try:
            classifier_config(config, ["label"], head_type=head)
        except InputError as error:
            raise InputError(f"{config.model_type} has no head {head!r}: {error}") from error


def classifier_config(config: Any, label_names: Sequence[str], **overrides: Any) -> Any:
    """
    A copy of an encoder's config for a classifier of some labels.

    Raises:
        InputError: If a value does not fit the config.
    """
    fields = {
        **config.to_dict(),
        "id2label": dict(enumerate(label_names)),
        "label2id": {name: index for index, name in enumerate(label_names)},
        # Thresholds of another classifier say nothing about this one, and what it learnt neither.
        "label_thresholds": None,
        "problem_type": "multi_label_classification",
        **overrides,
    }
    try:
        return type(config).from_dict(fields)
    except (ValueError, StrictDataclassError) as error:
        raise InputError(" ".join(str(error).split())) from error
