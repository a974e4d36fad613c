"""Convert released HuBERT-ECG weights (Coppola et al., 2024) to models of this package."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from ..modeling.configuration_hubert_ecg import HubertEcgConfig
from ..modeling.modeling_hubert_ecg import (
    HubertEcgForPreTraining,
    HubertEcgForSequenceClassification,
    HubertEcgModel,
    HubertEcgPreTrainedModel,
)
from ..processing import InputError
from ..processing.feature_extraction_hubert_ecg import HubertEcgFeatureExtractor
from .checkpoints import (
    build_model,
    check_keys,
    count_layers,
    label_fields,
    load_state_dict,
    name_size,
    num_heads,
    tensor_shape,
)
from .converted import check_replaceable, save_converted


# Number of attention heads of the base size, by width. Tensor shapes do not reveal it.
ENCODER_HEADS = {768: 12}

PRETRAINED, ENCODER = "pre-trained HuBERT-ECG model", "pre-trained HuBERT-ECG encoder"
CLASSIFIER = "fine-tuned HuBERT-ECG classifier"
"""Kinds of files: with the parts of pre-training, the encoder alone, or with a classifier."""

STRIDES = (4, 2, 2, 2, 2)
"""Strides of the released convolutions, which shapes do not reveal."""

CONVOLUTIONS, LAYERS = "feature_extractor.conv_layers.", "encoder.layers."
POSITIONS, MASK = "encoder.pos_conv_embed.conv.", "masked_spec_embed"
PROJECTIONS, CODES = "final_proj.", "label_embedding."
ENCODER_KEYS = {
    f"{CONVOLUTIONS}0.layer_norm": "feature_encoder.norm",
    "feature_projection.layer_norm": "feature_projection.layer_norm",
    "feature_projection.projection": "feature_projection.projection",
    "encoder.layer_norm": "layer_norm",
}
LAYER_KEYS = (
    *(f"attention.{name}_proj" for name in ("q", "k", "v", "out")),
    "layer_norm",
    "feed_forward.intermediate_dense",
    "feed_forward.output_dense",
    "final_layer_norm",
)
# Norm and direction of the kernel of positions, before and after PyTorch's weight normalization was renewed.
KERNEL_KEYS = (
    ("weight_g", "weight_v"),
    ("parametrizations.weight.original0", "parametrizations.weight.original1"),
)
UNUSED = "parts of pre-training, which this model does not have"


def _find_kind(state_dict: Mapping[str, torch.Tensor]) -> tuple[str, str]:
    """The kind of a file and the prefix of its encoder, from its keys."""
    first = f"{CONVOLUTIONS}0.conv.weight"
    prefix = next((key.removesuffix(first) for key in state_dict if key.endswith(first)), "")
    if "classifier.weight" in state_dict:
        return CLASSIFIER, prefix
    has_parts = any(key.startswith((f"{prefix}{PROJECTIONS}", f"{prefix}{CODES}")) for key in state_dict)
    is_encoder = any(key.startswith(f"{prefix}{CONVOLUTIONS}") for key in state_dict) and not has_parts
    return (ENCODER if is_encoder else PRETRAINED), prefix


def find_unused(state_dict: Mapping[str, torch.Tensor]) -> dict[str, list[str]]:
    """Names of the tensors of a released file that no model of this package stores, by reason."""
    kind, prefix = _find_kind(state_dict)
    parts = tuple(f"{prefix}{name}" for name in (MASK, PROJECTIONS, CODES))
    names = [key for key in state_dict if kind != PRETRAINED and key.startswith(parts)]
    return {UNUSED: names} if names else {}


def _kernel_keys(state_dict: Mapping[str, torch.Tensor], prefix: str) -> tuple[str, str]:
    """Released names of norm and direction of the kernel of positions."""
    present = [keys for keys in KERNEL_KEYS if f"{prefix}{POSITIONS}{keys[1]}" in state_dict]
    norm, direction = (present or KERNEL_KEYS)[0]
    return f"{prefix}{POSITIONS}{norm}", f"{prefix}{POSITIONS}{direction}"


def _map_keys(state_dict: Mapping[str, torch.Tensor], kind: str, prefix: str) -> dict[str, tuple[str, ...]]:
    """Names in the model by released name; those that are not stored have none."""
    encoder = "" if kind == ENCODER else "hubert_ecg."
    linears = {f"{prefix}{old}": f"{encoder}{new}" for old, new in ENCODER_KEYS.items()}
    for index in range(count_layers(state_dict, f"{prefix}{LAYERS}")):
        linears |= {f"{prefix}{LAYERS}{index}.{name}": f"{encoder}layers.{index}.{name}" for name in LAYER_KEYS}
    if kind == CLASSIFIER:
        linears["classifier"] = "classifier"
    num_codebooks = max(1, *(count_layers(state_dict, f"{prefix}{name}") for name in (PROJECTIONS, CODES)))
    if kind == PRETRAINED:
        linears |= {f"{prefix}{PROJECTIONS}{index}": f"{PROJECTIONS}{index}" for index in range(num_codebooks)}
    names: dict[str, tuple[str, ...]] = {
        f"{old}.{suffix}": (f"{new}.{suffix}",) for old, new in linears.items() for suffix in ("weight", "bias")
    }
    for index in range(count_layers(state_dict, f"{prefix}{CONVOLUTIONS}")):
        names[f"{prefix}{CONVOLUTIONS}{index}.conv.weight"] = (
            f"{encoder}feature_encoder.convolutions.{index}.weight",
        )
    kernel = f"{encoder}pos_conv_embed.conv"
    names[f"{prefix}{POSITIONS}bias"] = (f"{kernel}.bias",)
    for index, old in enumerate(_kernel_keys(state_dict, prefix)):
        names[old] = (f"{kernel}.parametrizations.weight.original{index}",)
    if kind == PRETRAINED:
        names[f"{prefix}{MASK}"] = ("mask_embedding",)
        keys = [f"{CODES}{index}.weight" for index in range(num_codebooks)]
        names |= {f"{prefix}{key}": (key,) for key in keys}
    return names | {key: () for keys in find_unused(state_dict).values() for key in keys}


def _read_sizes(state_dict: Mapping[str, torch.Tensor], kind: str, prefix: str) -> dict[str, Any]:
    """Fields of the config from the shapes of the tensors."""
    shapes = [
        tensor_shape(state_dict, f"{prefix}{CONVOLUTIONS}{index}.conv.weight", 3)
        for index in range(count_layers(state_dict, f"{prefix}{CONVOLUTIONS}"))
    ]
    width = tensor_shape(state_dict, f"{prefix}feature_projection.projection.weight", 2)[0]
    direction = _kernel_keys(state_dict, prefix)[1]
    _, per_group, kernel = tensor_shape(state_dict, direction, 3)
    if width % per_group:
        raise InputError(
            f"{direction} has groups of {per_group} channels, which do not divide the width {width}: check that the "
            "file is the right one"
        )
    sizes: dict[str, Any] = {
        "conv_dim": [shape[0] for shape in shapes],
        "conv_kernel": [shape[2] for shape in shapes],
        "conv_stride": list(STRIDES),
        "hidden_size": width,
        "num_hidden_layers": count_layers(state_dict, f"{prefix}{LAYERS}"),
        "intermediate_size": tensor_shape(state_dict, f"{prefix}{LAYERS}0.feed_forward.intermediate_dense.weight", 2)[
            0
        ],
        "num_conv_pos_embeddings": kernel,
        "num_conv_pos_embedding_groups": width // per_group,
    }
    if kind == PRETRAINED:
        codebooks = [
            tensor_shape(state_dict, f"{prefix}{CODES}{index}.weight", 2)
            for index in range(count_layers(state_dict, f"{prefix}{CODES}"))
        ]
        sizes |= {"vocab_sizes": [count for count, _ in codebooks], "classifier_proj_size": codebooks[0][1]}
    return sizes


def convert_hubert_ecg_state_dict(
    state_dict: Mapping[str, torch.Tensor],
    *,
    num_attention_heads: int | None = None,
    label_names: Sequence[str] | None = None,
    **config_overrides: Any,
) -> HubertEcgPreTrainedModel:
    """
    Convert a released state dict to a model. Its keys determine whether it is the pre-trained model, a classifier or
    an encoder alone, and its shapes determine the sizes.

    Args:
        state_dict (`Mapping[str, torch.Tensor]`):
            The released tensors, see [`load_state_dict`].
        num_attention_heads (`int`, *optional*):
            Attention heads. Required unless the width is 768: shapes do not reveal it.
        label_names (`Sequence[str]`, *optional*):
            Labels of a classifier, in the order of its outputs; `LABEL_0`, `LABEL_1` and so on by default.
        config_overrides:
            Other fields of [`HubertEcgConfig`], such as `conv_stride`, which shapes do not reveal either.

    Returns:
        [`HubertEcgForPreTraining`], [`HubertEcgForSequenceClassification`] or [`HubertEcgModel`], in evaluation mode.
        It has every tensor but those that [`find_unused`] names.

    Raises:
        InputError: If the weights are of another architecture (missing or unexpected keys), sizes are inconsistent,
            the number of heads is unknown, the labels do not match, or a config field is unknown.

    Only the tensor names and shapes are taken from the released code.
    """
    kind, prefix = _find_kind(state_dict)
    names = _map_keys(state_dict, kind, prefix)
    check_keys(state_dict, names, kind)
    sizes = _read_sizes(state_dict, kind, prefix)
    width = sizes["hidden_size"]
    sizes["num_attention_heads"] = num_heads(width, num_attention_heads, ENCODER_HEADS, "num_attention_heads")
    count = None
    if kind == CLASSIFIER:
        count = tensor_shape(state_dict, "classifier.weight", 2)[0]
        sizes |= {"problem_type": "multi_label_classification", "num_labels": count}
    sizes |= label_fields(kind, kind == CLASSIFIER, label_names, count)
    model_class = {
        PRETRAINED: HubertEcgForPreTraining,
        CLASSIFIER: HubertEcgForSequenceClassification,
        ENCODER: HubertEcgModel,
    }[kind]
    return build_model(model_class, {**sizes, **config_overrides}, state_dict, names)


def convert_hubert_ecg_checkpoint(path: str | Path, **kwargs: Any) -> HubertEcgPreTrainedModel:
    """
    Convert a released file to a model.

    Args:
        path (`str` or `Path`):
            A `.safetensors` file, or a file of `torch.save`; see [`load_state_dict`].
        kwargs:
            See [`convert_hubert_ecg_state_dict`].

    Example:

    ```python
    >>> model = convert_hubert_ecg_checkpoint("model.safetensors")  # doctest: +SKIP
    >>> model.save_pretrained("hubert-ecg-base")  # doctest: +SKIP
    ```
    """
    return convert_hubert_ecg_state_dict(load_state_dict(path, entry="model_state_dict"), **kwargs)


def released_hubert_ecg_feature_extractor(config: HubertEcgConfig | None = None) -> HubertEcgFeatureExtractor:
    """
    The feature extractor with the original preprocessing of the released weights, which is the default one.

    Args:
        config ([`HubertEcgConfig`], *optional*):
            Config of the model, for its sampling rate and window; by default the released one.
    """
    config = HubertEcgConfig() if config is None else config
    return HubertEcgFeatureExtractor(
        sampling_rate=config.sampling_rate,
        window_seconds=config.num_samples / config.sampling_rate,
        decimation=config.decimation,
    )


def convert_hubert_ecg_to_folder(
    path: str | Path,
    folder: str | Path,
    *,
    num_attention_heads: int | None = None,
    label_names: Sequence[str] | None = None,
) -> dict[str, Any]:
    """
    Convert a released file to a model folder with a feature extractor, a `conversion.json` and a model card.

    Args:
        path, folder:
            As in [`convert_hubert_ecg_checkpoint`] and [`~hub.convert_clear_hug.convert_to_folder`].
        num_attention_heads, label_names:
            See [`convert_hubert_ecg_state_dict`].

    Returns:
        `dict`: Content of `conversion.json`, including `kind`, `sha256`, `num_tensors`, `unused_tensors`, the names of
        those that are not stored by reason, `size` (`"small"`, `"base"`, `"large"` or `None`) and `labels_known`
        (`None` without labels).

    Raises:
        FileNotFoundError: If the file does not exist.
        InputError: If the file cannot be converted, or the folder is not writable or contains other files.
    """
    path = Path(path)
    folder = check_replaceable(folder, path)
    state_dict = load_state_dict(path, entry="model_state_dict")
    model = convert_hubert_ecg_state_dict(state_dict, num_attention_heads=num_attention_heads, label_names=label_names)
    kind, _ = _find_kind(state_dict)
    facts: dict[str, Any] = {
        "system": "hubert-ecg",
        "kind": kind,
        "num_tensors": len(state_dict),
        "unused_tensors": find_unused(state_dict),
        "size": name_size(
            model.config,
            names=("hidden_size", "num_hidden_layers", "intermediate_size"),
            sizes=("small", "base", "large"),
        ),
        "labels_known": label_names is not None if kind == CLASSIFIER else None,
    }
    auto_class = {
        PRETRAINED: "AutoModelForPreTraining",
        CLASSIFIER: "AutoModelForSequenceClassification",
        ENCODER: "AutoModel",
    }[kind]
    return save_converted(path, folder, model, released_hubert_ecg_feature_extractor(model.config), auto_class, facts)


__all__ = [
    "convert_hubert_ecg_checkpoint",
    "convert_hubert_ecg_state_dict",
    "convert_hubert_ecg_to_folder",
    "find_unused",
    "released_hubert_ecg_feature_extractor",
]
