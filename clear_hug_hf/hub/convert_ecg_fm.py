"""Convert released ECG-FM weights (McKeen et al., JAMIA Open 2025) to models of this package."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from ..modeling.configuration_ecg_fm import EcgFmConfig
from ..modeling.modeling_ecg_fm import (
    EcgFmForPreTraining,
    EcgFmForSequenceClassification,
    EcgFmModel,
    EcgFmPreTrainedModel,
)
from ..processing import InputError
from ..processing.feature_extraction_ecg_fm import EcgFmFeatureExtractor
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


# Number of attention heads of the released size, by width. Tensor shapes do not reveal it.
ENCODER_HEADS = {768: 12}

PRETRAINED, ENCODER = "pre-trained ECG-FM model", "pre-trained ECG-FM encoder"
CLASSIFIER = "fine-tuned ECG-FM classifier"
"""Kinds of files: with the parts of pre-training, the encoder alone, or with a classifier."""

RELEASED_LABELS = (
    "Poor data quality",
    "Sinus rhythm",
    "Premature ventricular contraction",
    "Tachycardia",
    "Ventricular tachycardia",
    "Supraventricular tachycardia with aberrancy",
    "Atrial fibrillation",
    "Atrial flutter",
    "Bradycardia",
    "Accessory pathway conduction",
    "Atrioventricular block",
    "1st degree atrioventricular block",
    "Bifascicular block",
    "Right bundle branch block",
    "Left bundle branch block",
    "Infarction",
    "Electronic pacemaker",
)
"""Labels of the released classifier, in the order of its outputs."""

MAXIMUM_LABELS = (
    "Poor data quality",
    "Premature ventricular contraction",
    "Ventricular tachycardia",
    "Supraventricular tachycardia with aberrancy",
    "Electronic pacemaker",
)
"""Released labels whose score of a recording is the maximum over its windows; that of the others is the mean."""

ENCODER_KEYS = {
    "feature_extractor.conv_layers.0.2": "feature_encoder.norm",
    "layer_norm": "feature_projection.layer_norm",
    "post_extract_proj": "feature_projection.projection",
    "encoder.layer_norm": "layer_norm",
}
CONVOLUTIONS, POSITIONS, LAYERS = "feature_extractor.conv_layers.", "conv_pos.pos_conv.0.", "encoder.layers."
LAYER_KEYS = {
    **{f"self_attn.{name}_proj": f"attention.{name}_proj" for name in ("q", "k", "v", "out")},
    "self_attn_layer_norm": "layer_norm",
    "fc1": "feed_forward.intermediate_dense",
    "fc2": "feed_forward.output_dense",
    "final_layer_norm": "final_layer_norm",
}
# Norm and direction of the kernel, before and after the authors updated PyTorch's weight normalization.
KERNEL_KEYS = (
    ("weight_g", "weight_v"),
    ("parametrizations.weight.original0", "parametrizations.weight.original1"),
)
PRETRAINING_KEYS = {"mask_emb": "mask_embedding", "quantizer.vars": "quantizer.codevectors"}
PRETRAINING_LINEARS = ("quantizer.weight_proj", "project_q", "final_proj")


def _find_kind(state_dict: Mapping[str, torch.Tensor]) -> tuple[str, str]:
    """The kind of a file and the prefix of its encoder, from its keys."""
    if any(key.startswith(f"encoder.{CONVOLUTIONS}") for key in state_dict):
        return CLASSIFIER, "encoder."
    has_parts = any(key.startswith(("quantizer.", "project_q.", "final_proj.")) for key in state_dict)
    is_encoder = any(key.startswith(CONVOLUTIONS) for key in state_dict) and not has_parts
    return (ENCODER if is_encoder else PRETRAINED), ""


def _kernel_keys(state_dict: Mapping[str, torch.Tensor], prefix: str) -> tuple[str, str]:
    """Released names of norm and direction of the kernel of positions."""
    found = [keys for keys in KERNEL_KEYS if f"{prefix}{POSITIONS}{keys[1]}" in state_dict]
    norm, direction = (found or KERNEL_KEYS)[0]
    return f"{prefix}{POSITIONS}{norm}", f"{prefix}{POSITIONS}{direction}"


def _map_keys(state_dict: Mapping[str, torch.Tensor], kind: str, prefix: str) -> dict[str, tuple[str, ...]]:
    """Names in the model by released name."""
    encoder = "" if kind == ENCODER else "ecg_fm."
    named = {f"{prefix}{old}": f"{encoder}{new}" for old, new in ENCODER_KEYS.items()}
    for index in range(count_layers(state_dict, f"{prefix}{LAYERS}")):
        named |= {
            f"{prefix}{LAYERS}{index}.{old}": f"{encoder}layers.{index}.{new}" for old, new in LAYER_KEYS.items()
        }
    if kind == CLASSIFIER:
        named["proj"] = "classifier"
    if kind == PRETRAINED:
        named |= {name: name for name in PRETRAINING_LINEARS}
    names: dict[str, tuple[str, ...]] = {
        f"{old}.{suffix}": (f"{new}.{suffix}",) for old, new in named.items() for suffix in ("weight", "bias")
    }
    for index in range(count_layers(state_dict, f"{prefix}{CONVOLUTIONS}")):
        names[f"{prefix}{CONVOLUTIONS}{index}.0.weight"] = (f"{encoder}feature_encoder.convolutions.{index}.weight",)
    kernel = f"{encoder}pos_conv_embed.conv"
    names[f"{prefix}{POSITIONS}bias"] = (f"{kernel}.bias",)
    for index, old in enumerate(_kernel_keys(state_dict, prefix)):
        names[old] = (f"{kernel}.parametrizations.weight.original{index}",)
    if kind == PRETRAINED:
        names |= {old: (new,) for old, new in PRETRAINING_KEYS.items()}
    return names


def _read_sizes(state_dict: Mapping[str, torch.Tensor], kind: str, prefix: str) -> dict[str, Any]:
    """Fields of the config, and `num_leads`, from the shapes of the tensors."""
    shapes = [
        tensor_shape(state_dict, f"{prefix}{CONVOLUTIONS}{index}.0.weight", 3)
        for index in range(count_layers(state_dict, f"{prefix}{CONVOLUTIONS}"))
    ]
    width = tensor_shape(state_dict, f"{prefix}post_extract_proj.weight", 2)[0]
    direction = _kernel_keys(state_dict, prefix)[1]
    _, per_group, kernel = tensor_shape(state_dict, direction, 3)
    if width % per_group:
        raise InputError(
            f"{direction} has groups of {per_group} channels, which do not divide the width {width}: check that the "
            "file is the right one"
        )
    sizes: dict[str, Any] = {
        "num_leads": shapes[0][1],
        "conv_dim": [shape[0] for shape in shapes],
        "conv_kernel": [shape[2] for shape in shapes],
        "conv_stride": [2] * len(shapes),
        "hidden_size": width,
        "num_hidden_layers": count_layers(state_dict, f"{prefix}{LAYERS}"),
        "intermediate_size": tensor_shape(state_dict, f"{prefix}{LAYERS}0.fc1.weight", 2)[0],
        "num_conv_pos_embeddings": kernel,
        "num_conv_pos_embedding_groups": width // per_group,
    }
    if kind == PRETRAINED:
        _, num_codes, code_size = tensor_shape(state_dict, "quantizer.vars", 3)
        proj_codevector_dim, codevector_dim = tensor_shape(state_dict, "project_q.weight", 2)
        num_groups, rest = divmod(codevector_dim, code_size)
        if rest or num_groups == 0 or num_codes % num_groups:
            raise InputError(
                f"quantizer.vars has {num_codes} vectors of {code_size} numbers, which do not fit the "
                f"{codevector_dim} inputs of project_q: check that the file is the right one"
            )
        sizes |= {
            "num_codevector_groups": num_groups,
            "num_codevectors_per_group": num_codes // num_groups,
            "codevector_dim": codevector_dim,
            "proj_codevector_dim": proj_codevector_dim,
        }
    return sizes


def convert_ecg_fm_state_dict(
    state_dict: Mapping[str, torch.Tensor],
    *,
    num_attention_heads: int | None = None,
    label_names: Sequence[str] | None = None,
    **config_overrides: Any,
) -> EcgFmPreTrainedModel:
    """
    Convert a released state dict to a model. Its keys determine whether it is the pre-trained model, a classifier or
    an encoder alone, and its shapes determine the sizes. Every tensor is used.

    Args:
        state_dict (`Mapping[str, torch.Tensor]`):
            The released tensors, see [`load_state_dict`].
        num_attention_heads (`int`, *optional*):
            Attention heads. Required unless the width is 768: shapes do not reveal it.
        label_names (`Sequence[str]`, *optional*):
            Labels of a classifier, in the order of its outputs. Defaults to those of the released classifier if there
            are 17, and to `LABEL_0`, `LABEL_1` and so on otherwise.
        config_overrides:
            Other fields of [`EcgFmConfig`], such as `lead_names`, or `conv_stride`, which shapes do not reveal either.

    Returns:
        [`EcgFmForPreTraining`], [`EcgFmForSequenceClassification`] or [`EcgFmModel`], in evaluation mode.

    Raises:
        InputError: If the weights are of another architecture (missing or unexpected keys), sizes are inconsistent,
            the number of heads is unknown, the leads or labels do not match, or a config field is unknown.

    Only the tensor names and shapes are taken from the released code.
    """
    kind, prefix = _find_kind(state_dict)
    names = _map_keys(state_dict, kind, prefix)
    check_keys(state_dict, names, kind)
    sizes = _read_sizes(state_dict, kind, prefix)
    num_leads, width = sizes.pop("num_leads"), sizes["hidden_size"]
    sizes["num_attention_heads"] = num_heads(width, num_attention_heads, ENCODER_HEADS, "num_attention_heads")
    lead_names = config_overrides.get("lead_names") or EcgFmConfig().lead_names
    if len(lead_names) != num_leads:
        raise InputError(f"the model reads {num_leads} lead(s): pass lead_names with as many names")
    if kind == CLASSIFIER:
        count = tensor_shape(state_dict, "proj.weight", 2)[0]
        sizes |= {"problem_type": "multi_label_classification", "num_labels": count}
        if label_names is None and count == len(RELEASED_LABELS):
            label_names = RELEASED_LABELS
        if list(label_names or ()) == list(RELEASED_LABELS):
            sizes["window_aggregation"] = dict.fromkeys(MAXIMUM_LABELS, "max")
        sizes |= label_fields(kind, True, label_names, count)
    else:
        label_fields(kind, False, label_names)
    model_class = {
        PRETRAINED: EcgFmForPreTraining,
        CLASSIFIER: EcgFmForSequenceClassification,
        ENCODER: EcgFmModel,
    }[kind]
    return build_model(model_class, {**sizes, **config_overrides}, state_dict, names)


def convert_ecg_fm_checkpoint(path: str | Path, **kwargs: Any) -> EcgFmPreTrainedModel:
    """
    Convert a released file to a model.

    Args:
        path (`str` or `Path`):
            A file with `{"model": state_dict, ...}`, as released, or a state dict alone; see [`load_state_dict`].
        kwargs:
            See [`convert_ecg_fm_state_dict`].

    Example:

    ```python
    >>> model = convert_ecg_fm_checkpoint("mimic_iv_ecg_finetuned.pt")  # doctest: +SKIP
    >>> model.save_pretrained("ecg-fm-finetuned")  # doctest: +SKIP
    ```
    """
    return convert_ecg_fm_state_dict(load_state_dict(path), **kwargs)


def released_ecg_fm_feature_extractor(config: EcgFmConfig | None = None) -> EcgFmFeatureExtractor:
    """
    The feature extractor with the original preprocessing of the released weights, which is the default one.

    Args:
        config ([`EcgFmConfig`], *optional*):
            Config of the model, for its sampling rate and window; by default the released one.
    """
    config = EcgFmConfig() if config is None else config
    return EcgFmFeatureExtractor(
        sampling_rate=config.sampling_rate, window_seconds=config.num_samples / config.sampling_rate
    )


def convert_ecg_fm_to_folder(
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
            As in [`convert_ecg_fm_checkpoint`] and [`~hub.convert_clear_hug.convert_to_folder`].
        num_attention_heads, label_names:
            See [`convert_ecg_fm_state_dict`].

    Returns:
        `dict`: Content of `conversion.json`, including `kind`, `sha256`, `num_tensors` (all of them are used), `size`
        (`"base"` or `None`), `labels_known` (`None` without labels), and `labels`, `"released"` if they are the 17
        labels of the released classifier.

    Raises:
        FileNotFoundError: If the file does not exist.
        InputError: If the file cannot be converted, or the folder is not writable or contains other files.
    """
    path = Path(path)
    folder = check_replaceable(folder, path)
    state_dict = load_state_dict(path)
    model = convert_ecg_fm_state_dict(state_dict, num_attention_heads=num_attention_heads, label_names=label_names)
    kind, _ = _find_kind(state_dict)
    facts = {
        "system": "ecg-fm",
        "kind": kind,
        "num_tensors": len(state_dict),
        "size": name_size(model.config),
        "labels_known": "LABEL_0" not in (model.config.label2id or {}) if kind == CLASSIFIER else None,
        "labels": "released" if list(model.config.label2id or {}) == list(RELEASED_LABELS) else None,
    }
    auto_class = {
        PRETRAINED: "AutoModelForPreTraining",
        CLASSIFIER: "AutoModelForSequenceClassification",
        ENCODER: "AutoModel",
    }[kind]
    return save_converted(path, folder, model, released_ecg_fm_feature_extractor(model.config), auto_class, facts)


__all__ = [
    "RELEASED_LABELS",
    "convert_ecg_fm_checkpoint",
    "convert_ecg_fm_state_dict",
    "convert_ecg_fm_to_folder",
    "released_ecg_fm_feature_extractor",
]
