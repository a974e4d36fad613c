"""Convert released CLEAR-HUG weights to models and model folders of this package."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from ..modeling.modeling_clear_hug import (
    ClearHugForPreTraining,
    ClearHugForSequenceClassification,
    ClearHugPreTrainedModel,
)
from ..processing import InputError
from ..processing.feature_extraction_clear_hug import ClearHugFeatureExtractor
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


# Numbers of attention heads of the released sizes, by width. Tensor shapes do not reveal them.
ENCODER_HEADS = {768: 8, 1024: 16}
DECODER_HEADS = {512: 16, 1024: 16}

ENCODER_KEYS = {
    "cls_token": "embeddings.cls_token",
    "pos_embed": "embeddings.position_embeddings",
    "token_embed.tokenConv.weight": "embeddings.beat_projection.projection.weight",
    "spa_embed.embed.weight": "embeddings.lead_embeddings.weight",
    "tem_embed.embed.weight": "embeddings.time_embeddings.weight",
    "norm_layer.weight": "norm.weight",
    "norm_layer.bias": "norm.bias",
}
DECODER_KEYS = {
    "mask_token": "decoder.mask_token",
    "decoder_pos_embed": "decoder.position_embeddings",
    "decoder_embed.weight": "decoder.embed.weight",
    "decoder_embed.bias": "decoder.embed.bias",
    "decoder_norm.weight": "decoder.norm.weight",
    "decoder_norm.bias": "decoder.norm.bias",
    "decoder_pred.weight": "decoder.prediction.weight",
    "decoder_pred.bias": "decoder.prediction.bias",
}
CLASSIFIER_KEYS = {"mlp_head.weight": "classifier.weight", "mlp_head.bias": "classifier.bias"}
LAYER_KEYS = {
    "self_attn.out_proj": "attention.o_proj",
    "norm1": "attention_norm",
    "ff.0": "fc1",
    "ff.3": "fc2",
    "norm2": "feed_forward_norm",
}
HUG_KEYS = {
    **{f"moe.level1_experts.{index}.net.0": f"head.group_maps.{index}" for index in range(3)},
    **{f"moe.level2_experts.{index}.net.0": f"head.pair_maps.{index}" for index in range(3)},
    "moe.level3_expert.net.0": "head.all_maps.0",
}

PRETRAINED, LINEAR, HUG = "CLEAR pre-trained model", "CLEAR-linear classifier", "CLEAR-HUG classifier"
"""Kinds of released files."""

# HeartLang, the parent project, has the same names for embeddings but not for layers.
_HEARTLANG_EMBEDDING = re.compile(r"(?:\w+\.)?token_embed\.tokenConv\.weight")
_HEARTLANG_LAYER = re.compile(r"(?:\w+\.)?transformer\.layers\.\d+\.0\.to_qkv\.weight")


def _find_kind(state_dict: Mapping[str, torch.Tensor]) -> str:
    """The kind of a file, from its keys."""
    if not any(key.startswith(("backbone.", "mlp_head.")) for key in state_dict):
        return PRETRAINED
    return HUG if any(key.startswith("backbone.moe.") for key in state_dict) else LINEAR


def _refuse_heartlang(state_dict: Mapping[str, torch.Tensor]) -> None:
    if not all(any(map(key.fullmatch, state_dict)) for key in (_HEARTLANG_EMBEDDING, _HEARTLANG_LAYER)):
        return
    raise InputError(
        "this is a checkpoint of HeartLang, whose architecture differs from CLEAR-HUG: it has one summary token "
        "(cls_token) per recording instead of one per lead, packs the beats of all leads into one padded sequence "
        "with full attention, does not normalize beats, and its layers (transformer.layers) use pre-normalization, "
        "GELU, and queries, keys and values (to_qkv) without bias; convert it with `clear-hug convert heartlang`"
    )


def _map_layers(state_dict: Mapping[str, torch.Tensor], prefix: str, target: str) -> dict[str, tuple[str, ...]]:
    names: dict[str, tuple[str, ...]] = {}
    for index in range(count_layers(state_dict, prefix)):
        for suffix in ("weight", "bias"):
            names[f"{prefix}{index}.self_attn.in_proj_{suffix}"] = tuple(
                f"{target}.{index}.attention.{name}_proj.{suffix}" for name in "qkv"
            )
            for old, new in LAYER_KEYS.items():
                names[f"{prefix}{index}.{old}.{suffix}"] = (f"{target}.{index}.{new}.{suffix}",)
    return names


def _map_keys(state_dict: Mapping[str, torch.Tensor], kind: str, prefix: str) -> dict[str, tuple[str, ...]]:
    """Target names of each released tensor; fused queries, keys and values have three."""
    names: dict[str, tuple[str, ...]] = {f"{prefix}{old}": (f"clear_hug.{new}",) for old, new in ENCODER_KEYS.items()}
    names |= _map_layers(state_dict, f"{prefix}encoder_transformer.layers.", "clear_hug.layers")
    if kind == PRETRAINED:
        names |= {old: (new,) for old, new in DECODER_KEYS.items()}
        return names | _map_layers(state_dict, "decoder_transformer.layers.", "decoder.layers")
    for old, new in HUG_KEYS.items() if kind == HUG else ():
        names |= {f"{prefix}{old}.{suffix}": (f"{new}.{suffix}",) for suffix in ("weight", "bias")}
    return names | {old: (new,) for old, new in CLASSIFIER_KEYS.items()}


def convert_clear_hug_state_dict(
    state_dict: Mapping[str, torch.Tensor],
    *,
    num_attention_heads: int | None = None,
    decoder_num_attention_heads: int | None = None,
    cls_attention: str = "reference_bias",
    **config_overrides: Any,
) -> ClearHugPreTrainedModel:
    """
    Convert a released state dict to a model. Its keys determine whether it is a pre-trained model, or a classifier
    with a linear or HUG head, and its shapes determine the sizes. Every tensor is used.

    Args:
        state_dict (`Mapping[str, torch.Tensor]`):
            The released tensors, see [`load_state_dict`].
        num_attention_heads (`int`, *optional*):
            Attention heads of the encoder. Required unless the width is 768 or 1024: shapes do not reveal it.
        decoder_num_attention_heads (`int`, *optional*):
            Attention heads of the decoder. Required for a pre-trained model unless the decoder's width is 512 or 1024.
        cls_attention (`str`, *optional*, defaults to `"reference_bias"`):
            Attention of the summary tokens in the encoder: `"reference_bias"` as in the released code, or `"lead"` as
            in the paper.
        config_overrides:
            Other fields of [`ClearHugConfig`], such as `id2label` or `problem_type`.

    Returns:
        [`ClearHugForPreTraining`] or [`ClearHugForSequenceClassification`] with head `"mean"` or `"hug"`, in
        evaluation mode. Its `config.beat_embedding` is `"conv"` and its `config.decoder_visible_attention` `"all"`,
        as in the released code.

    Raises:
        InputError: If the weights are of another architecture (missing or unexpected keys, or HeartLang), sizes are
            inconsistent, a number of heads is unknown, the number of labels is wrong, or a config field is unknown.

    Only the tensor names are taken from the released code.
    """
    _refuse_heartlang(state_dict)
    kind = _find_kind(state_dict)
    prefix = "" if kind == PRETRAINED else "backbone."
    names = _map_keys(state_dict, kind, prefix)
    check_keys(state_dict, names, kind)

    layers, decoder_layers = f"{prefix}encoder_transformer.layers.", "decoder_transformer.layers."
    num_leads, width = tensor_shape(state_dict, f"{prefix}cls_token", 2)
    num_beats, rest = divmod(tensor_shape(state_dict, f"{prefix}pos_embed", 3)[1] - num_leads, num_leads)
    if rest or num_beats < 1:
        raise InputError(
            f"{prefix}pos_embed does not have the same number of beats for each of the {num_leads} leads: check that "
            "the file is the right one"
        )
    sizes: dict[str, Any] = {
        "num_beats": num_beats,
        "beat_length": tensor_shape(state_dict, f"{prefix}token_embed.tokenConv.weight", 3)[1],
        "hidden_size": width,
        "num_hidden_layers": count_layers(state_dict, layers),
        "num_attention_heads": num_heads(width, num_attention_heads, ENCODER_HEADS, "num_attention_heads"),
        "intermediate_size": tensor_shape(state_dict, f"{layers}0.ff.0.weight", 2)[0],
        "num_lead_embeddings": tensor_shape(state_dict, f"{prefix}spa_embed.embed.weight", 2)[0],
        "num_time_embeddings": tensor_shape(state_dict, f"{prefix}tem_embed.embed.weight", 2)[0],
        "beat_embedding": "conv",
        "cls_attention": cls_attention,
        "decoder_visible_attention": "all",
    }
    if num_leads != 12 and "lead_names" not in config_overrides:
        raise InputError(f"the state dict has {num_leads} leads instead of the 12 standard leads: pass lead_names")
    if kind == PRETRAINED:
        decoder_width = tensor_shape(state_dict, "decoder_embed.weight", 2)[0]
        sizes["decoder_hidden_size"] = decoder_width
        sizes["decoder_num_hidden_layers"] = count_layers(state_dict, decoder_layers)
        sizes["decoder_num_attention_heads"] = num_heads(
            decoder_width, decoder_num_attention_heads, DECODER_HEADS, "decoder_num_attention_heads"
        )
        sizes["decoder_intermediate_size"] = tensor_shape(state_dict, f"{decoder_layers}0.ff.0.weight", 2)[0]
    else:
        sizes["head_type"] = "hug" if kind == HUG else "mean"
        num_labels = tensor_shape(state_dict, "mlp_head.weight", 2)[0]
        if len(config_overrides.get("id2label") or range(num_labels)) != num_labels:
            raise InputError(
                f"the classifier has {num_labels} labels but {len(config_overrides['id2label'])} names were passed: "
                "name each label, in the order of the outputs"
            )
        if not config_overrides.get("id2label"):
            sizes["num_labels"] = num_labels

    model_class = ClearHugForPreTraining if kind == PRETRAINED else ClearHugForSequenceClassification
    return build_model(model_class, {**sizes, **config_overrides}, state_dict, names)


def convert_clear_hug_checkpoint(path: str | Path, **kwargs: Any) -> ClearHugPreTrainedModel:
    """
    Convert a released file to a model.

    Args:
        path (`str` or `Path`):
            See [`load_state_dict`].
        kwargs:
            See [`convert_clear_hug_state_dict`].

    Example:

    ```python
    >>> model = convert_clear_hug_checkpoint("checkpoint-99.pth")  # doctest: +SKIP
    >>> model.save_pretrained("clear-base")  # doctest: +SKIP
    ```
    """
    return convert_clear_hug_state_dict(load_state_dict(path), **kwargs)


def released_feature_extractor(num_beats: int = 15, beat_length: int = 96) -> ClearHugFeatureExtractor:
    """
    The feature extractor that comes closest to the original preprocessing of the released weights.

    Identical to the released code:

    - beats: for the same peaks, the windows, time ids and selection of the first 15 beats are identical;
    - leads: the 12 standard leads in order, found by name; flat leads are not masked (`do_mask_flat_leads`);
    - peaks: XQRS of `wfdb` on lead II at 100 Hz, after cleaning, and on the other leads in turn if it finds none
      (`detector`);
    - NaN and Inf: each lead is repaired, however many there are (`max_non_finite`), single samples by the same mean;
    - band-pass: zero-phase Butterworth filter of order 5 from 0.67 to 40 Hz.

    Different from the released code, without a setting to change it:

    - Resampling uses a polyphase filter instead of a Fourier transform, which assumes a periodic recording.
      Recordings at 100 Hz are not resampled by either.
    - The band-pass filter pads recordings by three seconds instead of a third of a second, which matters most in the
      first and last seconds. Together with resampling, XQRS finds different peaks in some recordings.
    - In a gap of several samples, samples that were already filled do not count as neighbors.
    - A recording without peaks is refused. The released code inserts 15 evenly spaced beats.
    - Missing beats are masked by `attention_mask`. The released code attends to their zero windows, as the model does
      when it is called without `attention_mask`.

    Settings that differ between datasets are left to the caller: `do_rescale=True` for CPSC2018 and CSN, and
    `do_bandpass=False` for PTB-XL and CPSC2018, which HeartLang does not filter. There is no setting for the five
    seconds of CPSC2018 that the released code pads to ten. Scaling hardly matters, as the model normalizes each beat.

    Args:
        num_beats (`int`, *optional*, defaults to 15):
            Beats per window.
        beat_length (`int`, *optional*, defaults to 96):
            Samples per beat.
    """
    return ClearHugFeatureExtractor(
        sampling_rate=100.0,
        num_beats=num_beats,
        beat_length=beat_length,
        window_seconds=10.0,
        windows="first",
        detector="xqrs",
        on_no_beats="raise",
        max_non_finite=1.0,
        bandpass_low=0.67,
        bandpass_high=40.0,
        bandpass_order=5,
        do_mask_flat_leads=False,
    )


def convert_to_folder(
    path: str | Path,
    folder: str | Path,
    *,
    num_attention_heads: int | None = None,
    decoder_num_attention_heads: int | None = None,
    label_names: Sequence[str] | None = None,
    cls_attention: str = "reference_bias",
) -> dict[str, Any]:
    """
    Convert a released file to a model folder with a feature extractor, a `conversion.json` and a model card.

    Args:
        path (`str` or `Path`):
            See [`load_state_dict`].
        folder (`str` or `Path`):
            Output folder. An earlier conversion is replaced; other files are refused.
        num_attention_heads, decoder_num_attention_heads, cls_attention:
            See [`convert_clear_hug_state_dict`].
        label_names (`Sequence[str]`, *optional*):
            Label names of a classifier in the order of its outputs, which the file does not contain. Defaults to
            `LABEL_0`, `LABEL_1` and so on.

    Returns:
        `dict`: Content of `conversion.json`: `system`, `kind`, `file` (its name), `sha256`, `num_tensors` (all of them
        are used), `size` (`"base"`, `"large"` or `None`), `num_parameters`, `num_attention_heads`, `cls_attention`,
        `beat_embedding`, `labels_known` (`None` without labels) and `versions`.

    Raises:
        FileNotFoundError: If the file does not exist.
        InputError: If the file cannot be converted, the labels do not match, or the folder is not writable or contains
            other files.

    Example:

    ```python
    >>> facts = convert_to_folder("checkpoint-99.pth", "clear-base")  # doctest: +SKIP
    >>> facts["kind"], facts["size"]  # doctest: +SKIP
    ('CLEAR pre-trained model', 'base')
    ```
    """
    path = Path(path)
    folder = check_replaceable(folder, path)
    state_dict = load_state_dict(path)
    kind = _find_kind(state_dict)
    labels: dict[str, Any] = {} if kind == PRETRAINED else {"problem_type": "multi_label_classification"}
    labels |= label_fields(kind, kind != PRETRAINED, label_names)
    model = convert_clear_hug_state_dict(
        state_dict,
        num_attention_heads=num_attention_heads,
        decoder_num_attention_heads=decoder_num_attention_heads,
        cls_attention=cls_attention,
        **labels,
    )
    config = model.config
    facts: dict[str, Any] = {
        "system": "clear-hug",
        "kind": kind,
        "num_tensors": len(state_dict),
        "size": name_size(config, ("", "decoder_") if kind == PRETRAINED else ("",)),
        "cls_attention": config.cls_attention,
        "beat_embedding": config.beat_embedding,
        "labels_known": None if kind == PRETRAINED else label_names is not None,
    }
    extractor = released_feature_extractor(config.num_beats, config.beat_length)
    auto_class = "AutoModelForPreTraining" if kind == PRETRAINED else "AutoModelForSequenceClassification"
    return save_converted(path, folder, model, extractor, auto_class, facts)


__all__ = [
    "convert_clear_hug_checkpoint",
    "convert_clear_hug_state_dict",
    "convert_to_folder",
    "released_feature_extractor",
]
