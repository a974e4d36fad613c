"""Convert released ECG-CPC weights (Al-Masud et al., arXiv 2509.25095) to models of this package."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from ..modeling.configuration_ecg import STANDARD_LEAD_NAMES
from ..modeling.configuration_ecg_cpc import EcgCpcConfig
from ..modeling.modeling_ecg_cpc import EcgCpcForPreTraining, EcgCpcModel
from ..processing import InputError
from ..processing.feature_extraction_ecg_cpc import EcgCpcFeatureExtractor
from .checkpoints import (
    build_model,
    check_keys,
    checkpoint_digest,
    count_layers,
    load_state_dict,
    name_size,
    tensor_shape,
)
from .converted import check_replaceable, save_converted


# Digest of the released file, as a third party states it.
DIGESTS = {"bc253edc6ac279ce2caec86d3c3a21b740e43735ca03be1dc7c50e630b0ad4cf": "last_11597276.ckpt"}

ENCODER, PRETRAINED = "pre-trained ECG-CPC encoder", "pre-trained ECG-CPC model"
"""Kinds of files: the encoder alone, or with the projection of pre-training."""

CONVOLUTIONS, LAYERS = "ts_encoder.encoder.layers.", "ts_encoder.predictor.predictor.s4_layers."
NORMS, PROJECTION = "ts_encoder.predictor.predictor.norms.", "ts_encoder.head_ssl.proj.0.weight"
SYSTEM_KEYS = {
    "C": "output_weights",
    "B": "input_weights",
    "P": "left",
    "Q": "right",
    "w": "eigenvalues",
    "log_dt": "log_step",
}
TABLES = ("omega", "z")
UNUSED = {
    "omega": "tables of frequencies, which are computed and compared",
    "z": "tables of frequencies, which are computed and compared",
    "num_batches_tracked": "numbers of batches of pre-training, which no output depends on",
}
_TABLE_TOLERANCE = 1e-4


def _map_keys(state_dict: Mapping[str, torch.Tensor]) -> dict[str, tuple[str, ...]]:
    """Names in the pre-training model by released name; tensors that it does not use have none."""
    names: dict[str, tuple[str, ...]] = {}
    for index in range(count_layers(state_dict, CONVOLUTIONS)):
        old, new = f"{CONVOLUTIONS}{index}", f"ecg_cpc.convolutions.{index}"
        names[f"{old}.0.weight"] = (f"{new}.conv.weight",)
        names |= {
            f"{old}.1.{name}": (f"{new}.norm.{name}",) for name in ("weight", "bias", "running_mean", "running_var")
        }
        names[f"{old}.1.num_batches_tracked"] = ()
    for index in range(count_layers(state_dict, LAYERS)):
        old, new = f"{LAYERS}{index}", f"ecg_cpc.layers.{index}"
        names[f"{old}.D"] = (f"{new}.s4.skip",)
        names |= {f"{old}.kernel.kernel.{key}": (f"{new}.s4.kernel.{name}",) for key, name in SYSTEM_KEYS.items()}
        names |= {f"{old}.kernel.kernel.{table}": () for table in TABLES}
        for kind in ("weight", "bias"):
            names[f"{old}.output_linear.0.{kind}"] = (f"{new}.s4.output.{kind}",)
            names[f"{NORMS}{index}.{kind}"] = (f"{new}.norm.{kind}",)
    names[PROJECTION] = ("projection.weight",)
    return names


def _check_tables(state_dict: Mapping[str, torch.Tensor], prefix: str) -> int:
    """
    Compare the tables of a kernel with their formulas.

    Returns:
        `int`: Number of tokens for which the output weights are stored.
    """
    rows = tensor_shape(state_dict, f"{prefix}omega", 2)[0]
    length = 2 * (rows - 1)
    angles = torch.arange(rows, dtype=torch.float64) * (-2 * math.pi / max(length, 1))
    roots = torch.complex(angles.cos(), angles.sin())
    for table in TABLES:
        actual = state_dict[f"{prefix}{table}"]
        is_close = actual.shape == (rows, 2) and actual.is_floating_point()
        if is_close:
            stored = torch.view_as_complex(actual.double().contiguous())
            if table == "z":
                # Infinite at the last frequency.
                stored = torch.cat(((2 - stored[:-1]) / (2 + stored[:-1]), roots[-1:]))
            is_close = bool(((stored - roots).abs() <= _TABLE_TOLERANCE).all())
        if not is_close or length < 2:
            raise InputError(
                f"{prefix}{table} is not the table of the frequencies of {length} tokens: the layers are of another "
                "kind, or the file is damaged"
            )
    return length


def convert_ecg_cpc_state_dict(
    state_dict: Mapping[str, torch.Tensor], **config_overrides: Any
) -> EcgCpcModel | EcgCpcForPreTraining:
    """
    Convert a released state dict to a model: encoder and projection, or the encoder alone if there is no projection.
    Shapes determine the sizes. Tables of frequencies are computed and compared.

    Args:
        state_dict (`Mapping[str, torch.Tensor]`):
            The released tensors, see [`load_state_dict`].
        config_overrides:
            Other fields of [`EcgCpcConfig`], such as `lead_names`, `conv_stride` and `prediction_steps`, which shapes
            do not reveal; by default those of the released weights.

    Returns:
        [`EcgCpcModel`] or [`EcgCpcForPreTraining`], in evaluation mode.

    Raises:
        InputError: If the weights are of another architecture (missing or unexpected keys, inconsistent shapes), a
            table has other values, or leads do not match their number.

    Only the tensor names and shapes are taken from the released code.
    """
    names = _map_keys(state_dict)
    is_complete = PROJECTION in state_dict
    if not is_complete:
        del names[PROJECTION]
        names = {old: tuple(name.removeprefix("ecg_cpc.") for name in targets) for old, targets in names.items()}
    check_keys(state_dict, names, PRETRAINED if is_complete else ENCODER)
    width, num_leads, kernel_size = tensor_shape(state_dict, f"{CONVOLUTIONS}0.0.weight", 3)
    num_layers = count_layers(state_dict, LAYERS)
    lengths = {_check_tables(state_dict, f"{LAYERS}{index}.kernel.kernel.") for index in range(num_layers)}
    if len(lengths) > 1:
        raise InputError(f"the tables of the layers are of {sorted(lengths)} tokens: check that the file is complete")
    lead_names = config_overrides.pop("lead_names", STANDARD_LEAD_NAMES)
    if len(lead_names) != num_leads:
        raise InputError(f"the model reads {num_leads} lead(s): pass lead_names with as many names")
    sizes = {
        "lead_names": list(lead_names),
        "hidden_size": width,
        "num_convolutions": count_layers(state_dict, CONVOLUTIONS),
        "conv_kernel_size": kernel_size,
        "num_hidden_layers": num_layers,
        "state_size": 2 * tensor_shape(state_dict, f"{LAYERS}0.kernel.kernel.C", 4)[2],
        "kernel_length": lengths.pop(),
    }
    tensors = {key: _squeeze(key, tensor) for key, tensor in state_dict.items()}
    model_class = EcgCpcForPreTraining if is_complete else EcgCpcModel
    return build_model(model_class, {**sizes, **config_overrides}, tensors, names)


def _squeeze(key: str, tensor: torch.Tensor) -> torch.Tensor:
    """Remove the released dimensions of size 1: of several heads, and behind the bias of a convolution."""
    name = key.rpartition(".")[2]
    if name in ("C", "B", "P", "Q", "D"):
        return tensor.squeeze(0)
    return tensor.squeeze(-1) if key.endswith("output_linear.0.bias") else tensor


def convert_ecg_cpc_to_folder(path: str | Path, folder: str | Path) -> dict[str, Any]:
    """
    Convert a released file to a model folder with a feature extractor, a `conversion.json` and a model card.

    Args:
        path (`str` or `Path`):
            The released file, with the objects of other libraries that it contains, which are not imported; or the
            released zip archive.
        folder (`str` or `Path`):
            Output folder, see [`check_replaceable`].

    Returns:
        `dict`: Content of `conversion.json`, including `kind`, `sha256`, `num_tensors`, `unused_tensors` and
        `released_file`, the name of the released file with the same digest if it is known.

    Raises:
        FileNotFoundError: If the file does not exist.
        InputError: If the file cannot be converted, or the folder is not writable or contains other files.
    """
    path = Path(path)
    folder = check_replaceable(folder, path)
    state_dict = load_state_dict(path, entry="state_dict", foreign=True)
    model = convert_ecg_cpc_state_dict(state_dict)
    is_complete = isinstance(model, EcgCpcForPreTraining)
    unused: dict[str, list[str]] = {}
    for key, targets in _map_keys(state_dict).items():
        if not targets:
            unused.setdefault(UNUSED[key.rpartition(".")[2]], []).append(key)
    config: EcgCpcConfig = model.config
    sizes = ("hidden_size", "num_convolutions", "num_hidden_layers", "state_size", "kernel_length")
    facts = {
        "system": "ecg-cpc",
        "kind": PRETRAINED if is_complete else ENCODER,
        "num_tensors": len(state_dict),
        "unused_tensors": unused,
        "size": name_size(config, names=sizes, sizes=("base",)),
        "released_file": DIGESTS.get(checkpoint_digest(path)),
        "labels_known": None,
    }
    extractor = EcgCpcFeatureExtractor(sampling_rate=config.sampling_rate, conv_stride=config.conv_stride)
    auto_class = "AutoModelForPreTraining" if is_complete else "AutoModel"
    return save_converted(path, folder, model, extractor, auto_class, facts)


__all__ = ["convert_ecg_cpc_state_dict", "convert_ecg_cpc_to_folder"]
