"""Convert released HeartLang weights (Jin et al., ICLR 2025) to models of this package."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from ..modeling.configuration_heartlang import HeartLangConfig
from ..modeling.modeling_heartlang import (
    HeartLangForPreTraining,
    HeartLangForSequenceClassification,
    HeartLangPreTrainedModel,
    HeartLangTokenizerModel,
)
from ..processing import InputError
from ..processing.feature_extraction_heartlang import HeartLangFeatureExtractor
from .checkpoints import (
    build_model,
    check_keys,
    count_layers,
    fused_attention_sizes,
    label_fields,
    load_state_dict,
    name_size,
    tensor_shape,
)
from .converted import check_replaceable, save_converted


PRETRAINED, CLASSIFIER, TOKENIZER = "HeartLang pre-trained encoder", "HeartLang classifier", "HeartLang tokenizer"
"""Kinds of released files."""

# Numbers of attention heads of the released sizes, by width. Tensor shapes do not reveal them.
HEADS = {PRETRAINED: {768: 8}, CLASSIFIER: {768: 8}, TOKENIZER: {768: 2}}

BACKBONE = "backbone."
TOWER_KEYS = {
    "cls_token": "embeddings.cls_token",
    "pos_embed": "embeddings.position_embeddings",
    "token_embed.tokenConv.weight": "embeddings.beat_projection.weight",
    "spa_embed.embed.weight": "embeddings.lead_embeddings.weight",
    "tem_embed.embed.weight": "embeddings.time_embeddings.weight",
    "norm_layer.weight": "norm.weight",
    "norm_layer.bias": "norm.bias",
}
LAYERS = "transformer.layers."
LAYER_KEYS = {
    "0.norm": "attention_norm",
    "0.to_out.0": "attention.o_proj",
    "1.net.0": "feed_forward_norm",
    "1.net.1": "fc1",
    "1.net.4": "fc2",
}
PRETRAINING_KEYS = {
    "mask_token": "mask_token",
    "lm_head.weight": "code_head.weight",
    "lm_head.bias": "code_head.bias",
}
CLASSIFIER_KEYS = {"mlp_head.weight": "classifier.weight", "mlp_head.bias": "classifier.bias"}
TOKENIZER_KEYS = {
    **{
        f"{part}_task_layer.{index}.{suffix}": f"{part}r_projection.{index}.{suffix}"
        for part in ("encode", "decode")
        for index in (0, 2)
        for suffix in ("weight", "bias")
    },
    "quantize.embedding.weight": "codebook.weight",
}
AVERAGES = (
    "quantize.cluster_size",
    "quantize.embedding.cluster_size",
    "quantize.embedding.embed_avg",
    "quantize.embedding.initted",
)


def _find_kind(state_dict: Mapping[str, torch.Tensor]) -> str:
    """The kind of a file, from its keys."""
    if any(key.startswith(("quantize.", "encode_task_layer.", "decode_task_layer.")) for key in state_dict):
        return TOKENIZER
    return CLASSIFIER if any(key.startswith((BACKBONE, "mlp_head.")) for key in state_dict) else PRETRAINED


def find_unused(state_dict: Mapping[str, torch.Tensor]) -> dict[str, list[str]]:
    """Names of the tensors of a released file that no model of this package has, by reason."""
    kind = _find_kind(state_dict)
    unused: dict[str, list[str]] = {}
    if kind == CLASSIFIER:
        names = [f"{BACKBONE}{name}" for name in PRETRAINING_KEYS]
        unused["mask token and code head, which only pre-training reads"] = names
    elif kind == TOKENIZER:
        unused["mask tokens, which a tokenizer does not read"] = ["encoder.mask_token", "decoder.mask_token"]
        unused["statistics of its training, which nothing reads"] = list(AVERAGES)
    present = {reason: [name for name in names if name in state_dict] for reason, names in unused.items()}
    return {reason: names for reason, names in present.items() if names}


def _map_tower(state_dict: Mapping[str, torch.Tensor], prefix: str, target: str) -> dict[str, tuple[str, ...]]:
    """Target names of each tensor of one transformer; fused queries, keys and values have three."""
    names: dict[str, tuple[str, ...]] = {f"{prefix}{old}": (f"{target}{new}",) for old, new in TOWER_KEYS.items()}
    for index in range(count_layers(state_dict, f"{prefix}{LAYERS}")):
        layer, new_layer = f"{prefix}{LAYERS}{index}", f"{target}layers.{index}"
        names[f"{layer}.0.to_qkv.weight"] = tuple(f"{new_layer}.attention.{name}_proj.weight" for name in "qkv")
        for old, new in LAYER_KEYS.items():
            names |= {f"{layer}.{old}.{suffix}": (f"{new_layer}.{new}.{suffix}",) for suffix in ("weight", "bias")}
    return names


def _map_keys(state_dict: Mapping[str, torch.Tensor], kind: str) -> dict[str, tuple[str, ...]]:
    """Target names of each released tensor; those that are not used have none."""
    names: dict[str, tuple[str, ...]] = {name: () for unused in find_unused(state_dict).values() for name in unused}
    if kind == TOKENIZER:
        for tower in ("encoder.", "decoder."):
            names |= _map_tower(state_dict, tower, tower)
        return names | {old: (new,) for old, new in TOKENIZER_KEYS.items()}
    prefix, heads = (BACKBONE, CLASSIFIER_KEYS) if kind == CLASSIFIER else ("", PRETRAINING_KEYS)
    return names | _map_tower(state_dict, prefix, "heartlang.") | {old: (new,) for old, new in heads.items()}


def convert_heartlang_state_dict(
    state_dict: Mapping[str, torch.Tensor], *, num_attention_heads: int | None = None, **config_overrides: Any
) -> HeartLangPreTrainedModel:
    """
    Convert a released state dict to a model. Its keys determine whether it is a pre-trained encoder, a classifier or a
    tokenizer, and its shapes determine the sizes.

    Args:
        state_dict (`Mapping[str, torch.Tensor]`):
            The released tensors, see [`load_state_dict`].
        num_attention_heads (`int`, *optional*):
            Attention heads of the encoder, or of the tokenizer. Required unless the width is 768: shapes reveal only
            their number times their size.
        config_overrides:
            Other fields of [`HeartLangConfig`], such as `id2label` or `problem_type`.

    Returns:
        [`HeartLangForPreTraining`], [`HeartLangForSequenceClassification`] or [`HeartLangTokenizerModel`], in
        evaluation mode. It has every tensor but those that [`find_unused`] names.

    Raises:
        InputError: If the weights are of another architecture (missing or unexpected keys), sizes are inconsistent,
            the number of heads is unknown, the number of labels is wrong, or a config field is unknown.

    Only the tensor names are taken from the released code.
    """
    kind = _find_kind(state_dict)
    names = _map_keys(state_dict, kind)
    check_keys(state_dict, names, kind)

    prefix = {PRETRAINED: "", CLASSIFIER: BACKBONE, TOKENIZER: "encoder."}[kind]
    width, beat_length, _ = tensor_shape(state_dict, f"{prefix}token_embed.tokenConv.weight", 3)
    heads, head_dim = fused_attention_sizes(
        state_dict, f"{prefix}{LAYERS}0.0.to_qkv.weight", num_attention_heads, HEADS[kind], "num_attention_heads"
    )
    sizes: dict[str, Any] = {
        "num_beats": tensor_shape(state_dict, f"{prefix}pos_embed", 3)[1] - 1,
        "beat_length": beat_length,
        "hidden_size": width,
        "num_hidden_layers": count_layers(state_dict, f"{prefix}{LAYERS}"),
        "num_attention_heads": heads,
        "head_dim": head_dim,
        "intermediate_size": tensor_shape(state_dict, f"{prefix}{LAYERS}0.1.net.1.weight", 2)[0],
        "num_lead_embeddings": tensor_shape(state_dict, f"{prefix}spa_embed.embed.weight", 2)[0],
        "num_time_embeddings": tensor_shape(state_dict, f"{prefix}tem_embed.embed.weight", 2)[0],
        "released_pretraining": True,
    }
    model_class: type[HeartLangPreTrainedModel]
    if kind == PRETRAINED:
        model_class = HeartLangForPreTraining
        sizes["vocab_size"] = tensor_shape(state_dict, "lm_head.weight", 2)[0]
    elif kind == TOKENIZER:
        model_class = HeartLangTokenizerModel
        sizes["vocab_size"], sizes["code_dim"] = tensor_shape(state_dict, "quantize.embedding.weight", 2)
        sizes["decoder_num_hidden_layers"] = count_layers(state_dict, f"decoder.{LAYERS}")
    else:
        model_class = HeartLangForSequenceClassification
        num_labels = tensor_shape(state_dict, "mlp_head.weight", 2)[0]
        labels = config_overrides.get("id2label")
        if labels and len(labels) != num_labels:
            raise InputError(
                f"the classifier has {num_labels} labels but {len(labels)} names were passed: name each label, in the "
                "order of the outputs"
            )
        if not labels:
            sizes["num_labels"] = num_labels
    return build_model(model_class, {**sizes, **config_overrides}, state_dict, names)


def convert_heartlang_checkpoint(path: str | Path, **kwargs: Any) -> HeartLangPreTrainedModel:
    """
    Convert a released file to a model.

    Args:
        path (`str` or `Path`):
            See [`load_state_dict`].
        kwargs:
            See [`convert_heartlang_state_dict`].

    Example:

    ```python
    >>> model = convert_heartlang_checkpoint("checkpoint-200.pth")  # doctest: +SKIP
    >>> model.save_pretrained("heartlang")  # doctest: +SKIP
    ```
    """
    return convert_heartlang_state_dict(load_state_dict(path), **kwargs)


def released_heartlang_feature_extractor(config: HeartLangConfig | None = None) -> HeartLangFeatureExtractor:
    """
    The feature extractor with the preprocessing of the recordings that the released weights were pre-trained with,
    those of MIMIC-IV-ECG. Flat leads are not masked, and NaN are repaired, however many there are. For the same
    recordings of up to 15 s, resampled signals, peaks and beats are those of the released code, except for a recording
    without peaks, which raises an error instead of becoming all zeros.

    The authors prepare other data sets in other ways: see [`HeartLangFeatureExtractor`].

    Args:
        config ([`HeartLangConfig`], *optional*):
            Config of the model, for the number and length of its beats; by default the released one.
    """
    config = HeartLangConfig() if config is None else config
    return HeartLangFeatureExtractor(
        sampling_rate=config.sampling_rate,
        num_beats=config.num_beats,
        beat_length=config.beat_length,
        num_time_embeddings=config.num_time_embeddings,
        max_non_finite=1.0,
        do_mask_flat_leads=False,
    )


def convert_heartlang_to_folder(
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
            As in [`convert_heartlang_checkpoint`] and [`~hub.convert_clear_hug.convert_to_folder`].
        num_attention_heads:
            See [`convert_heartlang_state_dict`].
        label_names (`Sequence[str]`, *optional*):
            Label names of a classifier in the order of its outputs, which the file does not contain. Defaults to
            `LABEL_0`, `LABEL_1` and so on.

    Returns:
        `dict`: Content of `conversion.json`, including `kind`, `sha256`, `num_tensors`, `unused_tensors`, the names of
        those that are not used by reason, `size` (`"base"` or `None`) and `labels_known` (`None` without labels).

    Raises:
        FileNotFoundError: If the file does not exist.
        InputError: If the file cannot be converted, the labels do not match, or the folder is not writable or contains
            other files.
    """
    path = Path(path)
    folder = check_replaceable(folder, path)
    state_dict = load_state_dict(path)
    kind = _find_kind(state_dict)
    labels: dict[str, Any] = {"problem_type": "multi_label_classification"} if kind == CLASSIFIER else {}
    labels |= label_fields(kind, kind == CLASSIFIER, label_names)
    model = convert_heartlang_state_dict(state_dict, num_attention_heads=num_attention_heads, **labels)
    facts: dict[str, Any] = {
        "system": "heartlang",
        "kind": kind,
        "num_tensors": len(state_dict),
        "unused_tensors": find_unused(state_dict),
        "size": name_size(model.config),
        "labels_known": label_names is not None if kind == CLASSIFIER else None,
    }
    auto_class = {
        PRETRAINED: "AutoModelForPreTraining",
        CLASSIFIER: "AutoModelForSequenceClassification",
        TOKENIZER: "AutoModelForAudioTokenization",
    }[kind]
    return save_converted(path, folder, model, released_heartlang_feature_extractor(model.config), auto_class, facts)


__all__ = [
    "convert_heartlang_checkpoint",
    "convert_heartlang_state_dict",
    "convert_heartlang_to_folder",
    "find_unused",
    "released_heartlang_feature_extractor",
]
