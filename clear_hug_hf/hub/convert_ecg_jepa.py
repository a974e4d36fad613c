"""Convert released ECG-JEPA weights (Kim, arXiv 2410.08559) to models of this package."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from ..modeling.configuration_ecg_jepa import ECG_JEPA_LEAD_NAMES, EcgJepaConfig
from ..modeling.modeling_ecg_jepa import EcgJepaForPreTraining, EcgJepaModel, grid_positions
from ..processing import InputError
from ..processing.feature_extraction_ecg_jepa import EcgJepaFeatureExtractor
from ..utils.files import file_digest
from .checkpoints import (
    build_model,
    check_keys,
    count_layers,
    load_state_dict,
    name_size,
    num_heads,
    tensor_shape,
)
from .converted import check_replaceable, save_converted


# Numbers of attention heads of the released sizes, by width. Tensor shapes do not reveal them.
ENCODER_HEADS = {768: 16}
PREDICTOR_HEADS = {384: 12}

# Digest of the released multiblock_epoch100.pth, as several projects state it; that of the other file is unknown.
MULTI_BLOCK_SHA256 = "61334869f905a7d6de32bc573c60024eaf6efba7c35c0e45fc2ea7d52b6ff66e"

ENCODER, PRETRAINED = "pre-trained ECG-JEPA encoder", "pre-trained ECG-JEPA model"
"""Kinds of released files: the student alone, or student, teacher and predictor."""

STUDENT_PREFIX, TEACHER_PREFIX, PREDICTOR_PREFIX = "encoder.", "target_encoder.", "predictor."
ENCODER_KEYS = {"W_P": "embeddings.patch_projection", "norm": "norm"}
PREDICTOR_KEYS = {"predictor_embed": "embed", "predictor_norm": "norm", "predictor_proj": "prediction"}
LAYER_KEYS = {
    "norm1": "attention_norm",
    "attn.proj": "attention.o_proj",
    "norm2": "feed_forward_norm",
    "mlp.fc1": "fc1",
    "mlp.fc2": "fc2",
}
ENCODER_LAYERS, PREDICTOR_LAYERS = "encoder_blocks.blocks.", "predictor_blocks.blocks."
POSITIONS = "pos_embed"


def _find_kind(state_dict: Mapping[str, torch.Tensor]) -> str:
    """The kind of a file, from its keys."""
    prefixes = (STUDENT_PREFIX, TEACHER_PREFIX, PREDICTOR_PREFIX)
    return PRETRAINED if any(key.startswith(prefixes) for key in state_dict) else ENCODER


def _refuse_rope(state_dict: Mapping[str, torch.Tensor], prefix: str) -> None:
    has_encoder = {f"{prefix}W_P.weight", f"{prefix}norm.weight"} <= state_dict.keys()
    if has_encoder and f"{prefix}{POSITIONS}" not in state_dict:
        raise InputError(
            f"the state dict has an ECG-JEPA encoder without {prefix}{POSITIONS}: it is from the author's later "
            "branch, which uses rotary position embeddings (RoPE) and is another architecture; use a checkpoint of "
            "the released model"
        )


def _map_part(
    state_dict: Mapping[str, torch.Tensor], keys: Mapping[str, str], layers: str, prefix: str, target: str
) -> dict[str, tuple[str, ...]]:
    """Target names of each tensor of one network; fused queries, keys and values have three."""
    named = dict(keys)
    names: dict[str, tuple[str, ...]] = {}
    for index in range(count_layers(state_dict, f"{prefix}{layers}")):
        named |= {f"{layers}{index}.{old}": f"layers.{index}.{new}" for old, new in LAYER_KEYS.items()}
        names[f"{prefix}{layers}{index}.attn.qkv.weight"] = tuple(
            f"{target}layers.{index}.attention.{name}_proj.weight" for name in "qkv"
        )
    for old, new in named.items():
        names |= {f"{prefix}{old}.{suffix}": (f"{target}{new}.{suffix}",) for suffix in ("weight", "bias")}
    return names


def _map_keys(state_dict: Mapping[str, torch.Tensor], kind: str) -> dict[str, tuple[str, ...]]:
    """Target names of each released tensor; position tables have none, as they are computed."""
    encoders = {"": ""} if kind == ENCODER else {STUDENT_PREFIX: "ecg_jepa.", TEACHER_PREFIX: "teacher."}
    names: dict[str, tuple[str, ...]] = {}
    for prefix, target in encoders.items():
        names[f"{prefix}{POSITIONS}"] = ()
        names |= _map_part(state_dict, ENCODER_KEYS, ENCODER_LAYERS, prefix, target)
    if kind == PRETRAINED:
        names |= {f"{PREDICTOR_PREFIX}{POSITIONS}": (), f"{PREDICTOR_PREFIX}mask_token": ("predictor.mask_token",)}
        names |= _map_part(state_dict, PREDICTOR_KEYS, PREDICTOR_LAYERS, PREDICTOR_PREFIX, "predictor.")
    return names


def _check_positions(positions: torch.Tensor, key: str, num_leads: int, num_patches: int) -> None:
    width = positions.shape[1]
    expected = grid_positions(num_leads, num_patches, width).flatten(0, 1) if width % 4 == 0 else None
    if expected is None or not torch.equal(positions.float().cpu(), expected):
        raise InputError(
            f"{key} is not the fixed position table of {num_leads} lead(s) and {num_patches} times: the model has "
            "learned positions, which this package does not support, or other leads; in that case pass lead_names"
        )


def convert_ecg_jepa_state_dict(
    state_dict: Mapping[str, torch.Tensor],
    *,
    num_attention_heads: int | None = None,
    predictor_num_attention_heads: int | None = None,
    **config_overrides: Any,
) -> EcgJepaModel | EcgJepaForPreTraining:
    """
    Convert a released state dict to a model. Its keys determine whether it is the encoder alone or student, teacher
    and predictor, and its shapes determine the sizes. Every tensor is used, except the position tables, which are
    computed and compared.

    Args:
        state_dict (`Mapping[str, torch.Tensor]`):
            The released tensors, see [`load_state_dict`].
        num_attention_heads (`int`, *optional*):
            Attention heads of the encoder. Required unless the width is 768: shapes do not reveal it.
        predictor_num_attention_heads (`int`, *optional*):
            Attention heads of the predictor. Required for a pre-trained model unless the predictor's width is 384.
        config_overrides:
            Other fields of [`EcgJepaConfig`], such as `lead_names`.

    Returns:
        [`EcgJepaModel`] or [`EcgJepaForPreTraining`], in evaluation mode.

    Raises:
        InputError: If the weights are of another architecture (missing or unexpected keys, or the author's later
            branch), positions are not those of the model, sizes are inconsistent, a number of heads is unknown, or a
            config field is unknown.

    Only the tensor names and shapes are taken from the released code.
    """
    kind = _find_kind(state_dict)
    prefix = "" if kind == ENCODER else STUDENT_PREFIX
    _refuse_rope(state_dict, prefix)
    names = _map_keys(state_dict, kind)
    check_keys(state_dict, names, kind)

    num_positions, width = tensor_shape(state_dict, f"{prefix}{POSITIONS}", 2)
    patch_size = tensor_shape(state_dict, f"{prefix}W_P.weight", 2)[1]
    num_leads = len(config_overrides.get("lead_names") or ECG_JEPA_LEAD_NAMES)
    num_patches, rest = divmod(num_positions, num_leads)
    if rest:
        raise InputError(
            f"{prefix}{POSITIONS} has {num_positions} positions, which is not a multiple of {num_leads} leads: pass "
            "lead_names"
        )
    sizes: dict[str, Any] = {
        "num_samples": num_patches * patch_size,
        "patch_size": patch_size,
        "hidden_size": width,
        "num_hidden_layers": count_layers(state_dict, f"{prefix}{ENCODER_LAYERS}"),
        "num_attention_heads": num_heads(width, num_attention_heads, ENCODER_HEADS, "num_attention_heads"),
        "intermediate_size": tensor_shape(state_dict, f"{prefix}{ENCODER_LAYERS}0.mlp.fc1.weight", 2)[0],
    }
    if kind == PRETRAINED:
        predictor_width = tensor_shape(state_dict, f"{PREDICTOR_PREFIX}predictor_embed.weight", 2)[0]
        layers = f"{PREDICTOR_PREFIX}{PREDICTOR_LAYERS}"
        sizes |= {
            "predictor_hidden_size": predictor_width,
            "predictor_num_hidden_layers": count_layers(state_dict, layers),
            "predictor_num_attention_heads": num_heads(
                predictor_width, predictor_num_attention_heads, PREDICTOR_HEADS, "predictor_num_attention_heads"
            ),
            "predictor_intermediate_size": tensor_shape(state_dict, f"{layers}0.mlp.fc1.weight", 2)[0],
        }
    for key in names:
        if key.endswith(POSITIONS):
            tensor_shape(state_dict, key, 2)
            _check_positions(state_dict[key], key, 1 if key.startswith(PREDICTOR_PREFIX) else num_leads, num_patches)

    model_class = EcgJepaModel if kind == ENCODER else EcgJepaForPreTraining
    return build_model(model_class, {**sizes, **config_overrides}, state_dict, names)


def convert_ecg_jepa_checkpoint(path: str | Path, **kwargs: Any) -> EcgJepaModel | EcgJepaForPreTraining:
    """
    Convert a released file to a model.

    Args:
        path (`str` or `Path`):
            A file with `{"encoder": state_dict, ...}`, as released, or a state dict alone; see [`load_state_dict`].
        kwargs:
            See [`convert_ecg_jepa_state_dict`].

    Example:

    ```python
    >>> model = convert_ecg_jepa_checkpoint("multiblock_epoch100.pth")  # doctest: +SKIP
    >>> model.save_pretrained("ecg-jepa-base")  # doctest: +SKIP
    ```
    """
    return convert_ecg_jepa_state_dict(load_state_dict(path, entry="encoder"), **kwargs)


def released_ecg_jepa_feature_extractor(config: EcgJepaConfig | None = None) -> EcgJepaFeatureExtractor:
    """
    The feature extractor with the original preprocessing of the released weights: eight leads in mV with Fourier
    resampling, neither filtered nor normalized. Flat leads are not masked. NaN and Inf are repaired, however many
    there are; the released code excludes such recordings.

    A recording of ten seconds gives the released numbers. Of a longer one, the released code resamples only the first
    ten seconds, while this extractor resamples the whole recording first, which differs slightly at the ends.

    Args:
        config ([`EcgJepaConfig`], *optional*):
            Config of the model, for its leads, sampling rate and window; by default the released one.
    """
    config = EcgJepaConfig() if config is None else config
    return EcgJepaFeatureExtractor(
        sampling_rate=config.sampling_rate,
        lead_names=config.lead_names,
        patch_size=config.patch_size,
        window_seconds=config.num_samples / config.sampling_rate,
        resample_method="fft",
        max_non_finite=1.0,
        do_mask_flat_leads=False,
    )


def convert_ecg_jepa_to_folder(
    path: str | Path,
    folder: str | Path,
    *,
    num_attention_heads: int | None = None,
    predictor_num_attention_heads: int | None = None,
) -> dict[str, Any]:
    """
    Convert a released file to a model folder with a feature extractor, a `conversion.json` and a model card.

    Args:
        path, folder:
            As in [`convert_ecg_jepa_checkpoint`] and [`~hub.convert_clear_hug.convert_to_folder`].
        num_attention_heads, predictor_num_attention_heads:
            See [`convert_ecg_jepa_state_dict`].

    Returns:
        `dict`: Content of `conversion.json`, including `kind`, `sha256`, `num_tensors` (all of them are used), `size`
        (`"base"` or `None`) and `mask_type`, `"multi_block"` if the digest is that of the released file.

    Raises:
        FileNotFoundError: If the file does not exist.
        InputError: If the file cannot be converted, or the folder is not writable or contains other files.
    """
    path = Path(path)
    folder = check_replaceable(folder, path)
    state_dict = load_state_dict(path, entry="encoder")
    model = convert_ecg_jepa_state_dict(
        state_dict,
        num_attention_heads=num_attention_heads,
        predictor_num_attention_heads=predictor_num_attention_heads,
    )
    is_complete = isinstance(model, EcgJepaForPreTraining)
    facts = {
        "system": "ecg-jepa",
        "kind": PRETRAINED if is_complete else ENCODER,
        "num_tensors": len(state_dict),
        "size": name_size(model.config),
        "mask_type": "multi_block" if file_digest(path) == MULTI_BLOCK_SHA256 else None,
        "labels_known": None,
    }
    extractor = released_ecg_jepa_feature_extractor(model.config)
    auto_class = "AutoModelForPreTraining" if is_complete else "AutoModel"
    return save_converted(path, folder, model, extractor, auto_class, facts)


__all__ = [
    "convert_ecg_jepa_checkpoint",
    "convert_ecg_jepa_state_dict",
    "convert_ecg_jepa_to_folder",
    "released_ecg_jepa_feature_extractor",
]
