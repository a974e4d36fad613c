"""Released ECG-JEPA weights (Kim, arXiv 2410.08559) as models of this package."""

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


# Head counts leave no trace in the shapes: those of the released sizes, by width.
ENCODER_HEADS = {768: 16}
PREDICTOR_HEADS = {384: 12}

# Of the released multiblock_epoch100.pth, as several projects state it; that of the other file is not known.
MULTI_BLOCK_SHA256 = "61334869f905a7d6de32bc573c60024eaf6efba7c35c0e45fc2ea7d52b6ff66e"

ENCODER, PRETRAINED = "pre-trained ECG-JEPA encoder", "pre-trained ECG-JEPA model"
"""What a released file may hold: the student alone, or student, teacher and predictor."""

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
    """What the keys say that a file holds."""
    prefixes = (STUDENT_PREFIX, TEACHER_PREFIX, PREDICTOR_PREFIX)
    return PRETRAINED if any(key.startswith(prefixes) for key in state_dict) else ENCODER


def _refuse_rope(state_dict: Mapping[str, torch.Tensor], prefix: str) -> None:
    has_encoder = {f"{prefix}W_P.weight", f"{prefix}norm.weight"} <= state_dict.keys()
    if has_encoder and f"{prefix}{POSITIONS}" not in state_dict:
        raise InputError(
            f"the state dict has an ECG-JEPA encoder without {prefix}{POSITIONS}: it is of the author's later branch, "
            "which turns queries and keys by their positions (RoPE) in place of adding positions, and is another "
            "network; use a file of the released model"
        )


def _map_part(
    state_dict: Mapping[str, torch.Tensor], keys: Mapping[str, str], layers: str, prefix: str, target: str
) -> dict[str, tuple[str, ...]]:
    """Where each tensor of one of the networks goes; the fused queries, keys and values go to three places."""
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
    """Where each released tensor goes; positions are made anew and go nowhere."""
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
            f"{key} is not the fixed table of {num_leads} lead(s) and {num_patches} times: the model was trained with "
            "learned positions, which no model of this package has, or with other leads, then pass lead_names"
        )


def convert_ecg_jepa_state_dict(
    state_dict: Mapping[str, torch.Tensor],
    *,
    num_attention_heads: int | None = None,
    predictor_num_attention_heads: int | None = None,
    **config_overrides: Any,
) -> EcgJepaModel | EcgJepaForPreTraining:
    """
    A model with released weights. What the file holds is read from its keys: the encoder alone, as it was released,
    or student, teacher and predictor; sizes are read from the shapes. Every tensor is used, but the tables of
    positions are made anew after a check that they are equal.

    Args:
        state_dict (`Mapping[str, torch.Tensor]`):
            The released tensors, see [`load_state_dict`].
        num_attention_heads (`int`, *optional*):
            Heads of the encoder. They leave no trace in the shapes: needed unless the width is 768.
        predictor_num_attention_heads (`int`, *optional*):
            Heads of the predictor; needed for a pre-trained model unless its predictor's width is 384.
        config_overrides:
            Further fields of [`EcgJepaConfig`], such as `lead_names`.

    Returns:
        [`EcgJepaModel`] or [`EcgJepaForPreTraining`], in evaluation mode.

    Raises:
        InputError: If the weights are of another network (keys are missing or left over, or it is the author's later
            branch), positions are not those of the model, sizes contradict each other, a number of heads is unknown,
            or a field is not one of the config's.

    Source: the tensors' names and shapes; nothing else was taken from the released code.
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
            f"{prefix}{POSITIONS} holds {num_positions} positions, no whole number for each of {num_leads} leads: "
            "pass lead_names"
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
    A model with the weights of a released file.

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
    The feature extractor that prepares recordings as those of the released weights were: eight leads in mV by Fourier
    resampling, neither filtered nor normalised; a flat lead stays a lead, and NaN and Inf are repaired however many
    there are, where the released code leaves such recordings out.

    A recording of ten seconds gives the released numbers. Of a longer one, the released code resamples the first ten
    seconds alone, and this one all of it before they are taken, which shows at their ends.

    Args:
        config ([`EcgJepaConfig`], *optional*):
            Of the model, for its leads, rate and window; by default the released ones.

    Source: the released preparation, as far as it was described.
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
    A released file as a model folder, with a feature extractor, a `conversion.json` that says what it was made of, and
    a card that says the same to people.

    Args:
        path, folder:
            As in [`convert_ecg_jepa_checkpoint`] and [`~hub.convert_clear_hug.convert_to_folder`].
        num_attention_heads, predictor_num_attention_heads:
            See [`convert_ecg_jepa_state_dict`].

    Returns:
        `dict`: What stands in `conversion.json`: among others `kind`, `sha256`, `num_tensors` (all of them are used),
        `size` (`"base"` or `None`) and `mask_type`, `"multi_block"` where the file is the one that is known by its
        digest.

    Raises:
        FileNotFoundError: If there is no such file.
        InputError: If the file cannot be converted, or the folder cannot be written or holds anything else.
    """
    path = Path(path)
    folder = check_replaceable(folder, path)
    state_dict = load_state_dict(path, entry="encoder")
    model = convert_ecg_jepa_state_dict(
        state_dict,
        num_attention_heads=num_attention_heads,
        predictor_num_attention_heads=predictor_num_attention_heads,
    )
    whole = isinstance(model, EcgJepaForPreTraining)
    facts = {
        "system": "ecg-jepa",
        "kind": PRETRAINED if whole else ENCODER,
        "num_tensors": len(state_dict),
        "size": name_size(model.config),
        "mask_type": "multi_block" if file_digest(path) == MULTI_BLOCK_SHA256 else None,
        "labels_known": None,
        "license_note": "Their repository is under the MIT licence and says nothing of the weights",
    }
    extractor = released_ecg_jepa_feature_extractor(model.config)
    return save_converted(path, folder, model, extractor, "AutoModelForPreTraining" if whole else "AutoModel", facts)


__all__ = [
    "convert_ecg_jepa_checkpoint",
    "convert_ecg_jepa_state_dict",
    "convert_ecg_jepa_to_folder",
    "released_ecg_jepa_feature_extractor",
]
