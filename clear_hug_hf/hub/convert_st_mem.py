"""Convert released ST-MEM weights (Na et al., ICLR 2024) to models of this package."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from ..modeling.configuration_st_mem import StMemConfig
from ..modeling.modeling_st_mem import (
    StMemForPreTraining,
    StMemForSequenceClassification,
    StMemModel,
    StMemPreTrainedModel,
    make_positions,
)
from ..processing import InputError
from ..processing.feature_extraction_st_mem import StMemFeatureExtractor
from .checkpoints import (
    build_model,
    check_keys,
    count_layers,
    fused_attention_sizes,
    label_fields,
    load_state_dict,
    name_size,
    summarize_names,
    tensor_shape,
)
from .converted import check_replaceable, save_converted


PRETRAINED, ENCODER, CLASSIFIER = "pre-trained ST-MEM model", "pre-trained ST-MEM encoder", "ST-MEM classifier"
"""Kinds of files: with the decoder of pre-training, the encoder alone, or with a classifier."""

# Numbers of attention heads of the released size, by width. Tensor shapes do not reveal them.
ENCODER_HEADS, DECODER_HEADS = {768: 12}, {256: 4}
POSITIONS_TOLERANCE = 1e-5
"""Distance from the formula up to which positions are fixed. Those of the released files were computed in float32."""

PATCHES = "to_patch_embedding."
PATCH_KEYS = {f"{PATCHES}1": "patch_norm", f"{PATCHES}2": "patch_projection", f"{PATCHES}3": "norm"}
LEADS, POSITIONS, DECODER_POSITIONS = "lead_embeddings.", "pos_embedding", "decoder_pos_embed"
LAYER_KEYS = {
    "attn.norm": "attention_norm",
    "attn.fn.to_out.0": "attention.o_proj",
    "ff.norm": "feed_forward_norm",
    "ff.fn.net.0": "fc1",
    "ff.fn.net.3": "fc2",
}
DECODER_KEYS = {
    "to_decoder_embedding": "decoder.embed",
    "decoder_norm": "decoder.norm",
    "decoder_head": "decoder.prediction",
}
COPIES = "copies of tensors of the encoder, to which they are equal"
FIXED = "fixed positions, which are computed"


def _find_kind(state_dict: Mapping[str, torch.Tensor]) -> tuple[str, str]:
    """The kind of a file and the prefix of its encoder, from its keys."""
    if any(key.startswith(("encoder.", "decoder_", "to_decoder_embedding.")) for key in state_dict):
        return PRETRAINED, "encoder."
    return (CLASSIFIER if any(key.startswith("head.") for key in state_dict) else ENCODER), ""


def _map_layers(state_dict: Mapping[str, torch.Tensor], prefix: str, target: str) -> dict[str, tuple[str, ...]]:
    names: dict[str, tuple[str, ...]] = {}
    for index in range(count_layers(state_dict, prefix)):
        for suffix in ("weight", "bias"):
            layer, new_layer = f"{prefix}{index}", f"{target}layers.{index}"
            names[f"{layer}.attn.fn.to_qkv.{suffix}"] = tuple(
                f"{new_layer}.attention.{name}_proj.{suffix}" for name in "qkv"
            )
            names |= {f"{layer}.{old}.{suffix}": (f"{new_layer}.{new}.{suffix}",) for old, new in LAYER_KEYS.items()}
    return names


def _map_keys(state_dict: Mapping[str, torch.Tensor], kind: str, prefix: str) -> dict[str, tuple[str, ...]]:
    """Names in the model by released name. Embeddings of leads are parts of one tensor; copies have no name."""
    target = "" if kind == ENCODER else "st_mem."
    embeddings = f"{target}embeddings."
    linears = {f"{prefix}{old}": f"{embeddings}{new}" for old, new in PATCH_KEYS.items()}
    linears[f"{prefix}norm"] = f"{target}norm"
    linears |= DECODER_KEYS if kind == PRETRAINED else {}
    linears |= {"head": "classifier"} if kind == CLASSIFIER else {}
    names: dict[str, tuple[str, ...]] = {
        f"{old}.{suffix}": (f"{new}.{suffix}",) for old, new in linears.items() for suffix in ("weight", "bias")
    }
    names[f"{prefix}{POSITIONS}"] = (f"{embeddings}positions.weight",)
    names[f"{prefix}sep_embedding"] = (f"{embeddings}separator",)
    leads = (f"{embeddings}lead_embeddings",)
    names |= dict.fromkeys(
        (f"{prefix}{LEADS}{index}" for index in range(count_layers(state_dict, f"{prefix}{LEADS}"))), leads
    )
    names |= _map_layers(state_dict, f"{prefix}block", target)
    if kind == PRETRAINED:
        names |= _map_layers(state_dict, "decoder_blocks.", "decoder.")
        names |= {"mask_embedding": ("decoder.mask_token",), DECODER_POSITIONS: ("decoder.positions.weight",)}
        names |= {f"{old}.{suffix}": () for old in PATCH_KEYS for suffix in ("weight", "bias")}
    return names


def _position_keys(kind: str, prefix: str) -> list[str]:
    return [f"{prefix}{POSITIONS}", *([DECODER_POSITIONS] if kind == PRETRAINED else [])]


def _has_fixed_positions(state_dict: Mapping[str, torch.Tensor], keys: Sequence[str]) -> bool:
    for key in keys:
        _, rows, width = tensor_shape(state_dict, key, 3)
        if rows < 3 or width % 2:
            raise InputError(
                f"{key} has {rows} positions of {width} numbers, but a lead has at least one patch between two "
                "separators, and an even width: check that the file is the right one"
            )
        table = state_dict[key][0].double()
        if (table - make_positions(rows - 2, width)).abs().max() > POSITIONS_TOLERANCE:
            return False
    return True


def find_unused(state_dict: Mapping[str, torch.Tensor]) -> dict[str, list[str]]:
    """Names of the tensors of a released file that no model of this package stores, by reason."""
    kind, prefix = _find_kind(state_dict)
    keys = _position_keys(kind, prefix)
    unused = {
        COPIES: [key for key in state_dict if kind == PRETRAINED and key.startswith(PATCHES)],
        FIXED: keys if _has_fixed_positions(state_dict, keys) else [],
    }
    return {reason: names for reason, names in unused.items() if names}


def _read_sizes(
    state_dict: Mapping[str, torch.Tensor], kind: str, prefix: str, heads: int | None, decoder_heads: int | None
) -> dict[str, Any]:
    """Fields of the config from the shapes of the tensors."""
    width, patch_size = tensor_shape(state_dict, f"{prefix}{PATCHES}2.weight", 2)
    num_attention_heads, head_dim = fused_attention_sizes(
        state_dict, f"{prefix}block0.attn.fn.to_qkv.weight", heads, ENCODER_HEADS, "num_attention_heads"
    )
    sizes: dict[str, Any] = {
        "num_samples": (tensor_shape(state_dict, f"{prefix}{POSITIONS}", 3)[1] - 2) * patch_size,
        "patch_size": patch_size,
        "hidden_size": width,
        "num_hidden_layers": count_layers(state_dict, f"{prefix}block"),
        "num_attention_heads": num_attention_heads,
        "head_dim": head_dim,
        "intermediate_size": tensor_shape(state_dict, f"{prefix}block0.ff.fn.net.0.weight", 2)[0],
    }
    if kind == PRETRAINED:
        key = "decoder_blocks.0.attn.fn.to_qkv.weight"
        num_attention_heads, decoder_head_dim = fused_attention_sizes(
            state_dict, key, decoder_heads, DECODER_HEADS, "decoder_num_attention_heads"
        )
        if decoder_head_dim != head_dim:
            raise InputError(
                f"the attention heads of the encoder have {head_dim} features and those of the decoder "
                f"{decoder_head_dim}, but they have the same size: pass num_attention_heads and "
                "decoder_num_attention_heads"
            )
        sizes |= {
            "decoder_hidden_size": tensor_shape(state_dict, key, 2)[1],
            "decoder_num_hidden_layers": count_layers(state_dict, "decoder_blocks."),
            "decoder_num_attention_heads": num_attention_heads,
            "decoder_intermediate_size": tensor_shape(state_dict, "decoder_blocks.0.ff.fn.net.0.weight", 2)[0],
        }
    return sizes


def _stack_leads(state_dict: Mapping[str, torch.Tensor], prefix: str) -> torch.Tensor:
    """Embeddings of all leads `(L, D)`."""
    keys = [f"{prefix}{LEADS}{index}" for index in range(count_layers(state_dict, f"{prefix}{LEADS}"))]
    if len({tensor_shape(state_dict, key, 1) for key in keys}) > 1:
        raise InputError(f"the shapes of the tensors are inconsistent: {summarize_names(keys)} differ")
    return torch.stack([state_dict[key] for key in keys])


def convert_st_mem_state_dict(
    state_dict: Mapping[str, torch.Tensor],
    *,
    num_attention_heads: int | None = None,
    decoder_num_attention_heads: int | None = None,
    **config_overrides: Any,
) -> StMemPreTrainedModel:
    """
    Convert a released state dict to a model. Its keys determine whether it is the pre-trained model with its decoder,
    the encoder alone, or a classifier, and its shapes determine the sizes. Positions that agree with the formula are
    computed; those that fine-tuning has changed become parameters (`learned_positions`).

    Args:
        state_dict (`Mapping[str, torch.Tensor]`):
            The released tensors, see [`load_state_dict`].
        num_attention_heads, decoder_num_attention_heads (`int`, *optional*):
            Attention heads of encoder and decoder. Required unless the widths are 768 and 256: shapes reveal only
            their number times their size.
        config_overrides:
            Other fields of [`StMemConfig`], such as `id2label`, or `lead_names` if there are other than twelve leads.

    Returns:
        [`StMemForPreTraining`], [`StMemModel`] or [`StMemForSequenceClassification`], in evaluation mode. It has every
        tensor but those that [`find_unused`] names.

    Raises:
        InputError: If the weights are of another architecture (missing or unexpected keys), sizes are inconsistent,
            copies of a tensor differ, the number of heads is unknown, the number of leads or labels is wrong, or a
            config field is unknown.

    Only the tensor names and shapes are taken from the released code.
    """
    kind, prefix = _find_kind(state_dict)
    names = _map_keys(state_dict, kind, prefix)
    check_keys(state_dict, names, kind)
    copies = [key for key, targets in names.items() if not targets]
    if differing := [key for key in copies if not state_dict[key].equal(state_dict[f"{prefix}{key}"])]:
        raise InputError(
            f"{summarize_names(differing)} differ from the same tensors of the encoder, of which they are copies: "
            "check that the file is complete"
        )
    sizes = _read_sizes(state_dict, kind, prefix, num_attention_heads, decoder_num_attention_heads)
    tensors = dict(state_dict)
    position_keys = _position_keys(kind, prefix)
    sizes["learned_positions"] = not _has_fixed_positions(state_dict, position_keys)
    for key in position_keys:
        tensors[key] = tensors[key][0]
        if not sizes["learned_positions"]:
            names[key] = ()
    leads = _stack_leads(state_dict, prefix)
    lead_names = config_overrides.get("lead_names") or StMemConfig().lead_names
    if len(lead_names) != len(leads):
        raise InputError(f"the model reads {len(leads)} lead(s): pass lead_names with as many names")
    targets = names[f"{prefix}{LEADS}0"]
    names = {key: new for key, new in names.items() if new != targets} | {LEADS: targets}
    tensors[LEADS] = leads
    if kind == PRETRAINED:
        tensors["mask_embedding"] = tensors["mask_embedding"].flatten()
    if kind == CLASSIFIER:
        num_labels = tensor_shape(state_dict, "head.weight", 2)[0]
        labels = config_overrides.get("id2label")
        if labels and len(labels) != num_labels:
            raise InputError(
                f"the classifier has {num_labels} labels but {len(labels)} names were passed: name each label, in the "
                "order of the outputs"
            )
        if not labels:
            sizes["num_labels"] = num_labels
    model_class = {
        PRETRAINED: StMemForPreTraining,
        ENCODER: StMemModel,
        CLASSIFIER: StMemForSequenceClassification,
    }[kind]
    return build_model(model_class, {**sizes, **config_overrides}, tensors, names)


def convert_st_mem_checkpoint(path: str | Path, **kwargs: Any) -> StMemPreTrainedModel:
    """
    Convert a released file to a model.

    Args:
        path (`str` or `Path`):
            A file with `{"model": state_dict, ...}`, as released, or a state dict alone; see [`load_state_dict`].
        kwargs:
            See [`convert_st_mem_state_dict`].

    Example:

    ```python
    >>> model = convert_st_mem_checkpoint("st_mem_vit_base_full.pth")  # doctest: +SKIP
    >>> model.save_pretrained("st-mem")  # doctest: +SKIP
    ```
    """
    return convert_st_mem_state_dict(load_state_dict(path), **kwargs)


def released_st_mem_feature_extractor(config: StMemConfig | None = None) -> StMemFeatureExtractor:
    """
    The feature extractor with the original preprocessing of the released weights. Leads that are recorded but flat are
    not masked, as the authors do not.

    Args:
        config ([`StMemConfig`], *optional*):
            Config of the model, for its sampling rate, window and patches; by default the released one.
    """
    config = StMemConfig() if config is None else config
    return StMemFeatureExtractor(
        sampling_rate=config.sampling_rate,
        window_seconds=config.num_samples / config.sampling_rate,
        patch_size=config.patch_size,
        do_mask_flat_leads=False,
    )


def convert_st_mem_to_folder(
    path: str | Path,
    folder: str | Path,
    *,
    num_attention_heads: int | None = None,
    decoder_num_attention_heads: int | None = None,
    label_names: Sequence[str] | None = None,
) -> dict[str, Any]:
    """
    Convert a released file to a model folder with a feature extractor, a `conversion.json` and a model card.

    Args:
        path, folder:
            As in [`convert_st_mem_checkpoint`] and [`~hub.convert_clear_hug.convert_to_folder`].
        num_attention_heads, decoder_num_attention_heads:
            See [`convert_st_mem_state_dict`].
        label_names (`Sequence[str]`, *optional*):
            Label names of a classifier in the order of its outputs, which the file does not contain. Defaults to
            `LABEL_0`, `LABEL_1` and so on.

    Returns:
        `dict`: Content of `conversion.json`, including `kind`, `sha256`, `num_tensors`, `unused_tensors`, the names of
        those that are not stored by reason, `size` (`"base"` or `None`) and `labels_known` (`None` without labels).

    Raises:
        FileNotFoundError: If the file does not exist.
        InputError: If the file cannot be converted, the labels do not match, or the folder is not writable or contains
            other files.
    """
    path = Path(path)
    folder = check_replaceable(folder, path)
    state_dict = load_state_dict(path)
    kind, _ = _find_kind(state_dict)
    labels = label_fields(kind, kind == CLASSIFIER, label_names)
    if kind != PRETRAINED and decoder_num_attention_heads is not None:
        raise InputError(f"{path} contains a {kind}, which has no decoder: remove decoder_num_attention_heads")
    model = convert_st_mem_state_dict(
        state_dict,
        num_attention_heads=num_attention_heads,
        decoder_num_attention_heads=decoder_num_attention_heads,
        **labels,
    )
    prefixes = ("", "decoder_") if kind == PRETRAINED else ("",)
    facts: dict[str, Any] = {
        "system": "st-mem",
        "kind": kind,
        "num_tensors": len(state_dict),
        "unused_tensors": find_unused(state_dict),
        "size": name_size(model.config, prefixes),
        "labels_known": label_names is not None if kind == CLASSIFIER else None,
    }
    auto_class = {
        PRETRAINED: "AutoModelForPreTraining",
        ENCODER: "AutoModel",
        CLASSIFIER: "AutoModelForSequenceClassification",
    }[kind]
    return save_converted(path, folder, model, released_st_mem_feature_extractor(model.config), auto_class, facts)


__all__ = [
    "convert_st_mem_checkpoint",
    "convert_st_mem_state_dict",
    "convert_st_mem_to_folder",
    "find_unused",
    "released_st_mem_feature_extractor",
]
