"""Files of released weights: read without running code from them, and held against what a model expects."""

from __future__ import annotations

import argparse
import re
import warnings
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from safetensors.torch import load_file

from ..processing import InputError


_PARALLEL = "module."
# How files of torch.save begin: those of today are zip archives, those of torch before 1.6 bare pickles.
_MAGIC = (b"PK\x03\x04", b"\x80")
_NAMED = 5


def summarize_names(names: Iterable[object]) -> str:
    """The first five names, and how many more there are."""
    listed = [str(name) for name in names]
    more = f" and {len(listed) - _NAMED} more" if len(listed) > _NAMED else ""
    return ", ".join(listed[:_NAMED]) + more


def load_state_dict(path: str | Path, entry: str = "model") -> dict[str, torch.Tensor]:
    """
    The tensors of a released file, on the CPU. Nothing in the file is run: beside tensors only plain values are read,
    among them the `argparse.Namespace` of a training script's options.

    Args:
        path (`str` or `Path`):
            A file of `torch.save` with `{entry: state_dict, ...}` or a state dict alone, or a `.safetensors` file.
        entry (`str`, *optional*, defaults to `"model"`):
            Where in a file with several things the state dict is; `"state_dict"` is tried as well.

    Returns:
        `dict[str, torch.Tensor]`: As they are in the file, in its order.

    Raises:
        FileNotFoundError: If there is no such file.
        InputError: If it cannot be read, is damaged or no checkpoint, holds what could run code, or holds no state
            dict or one with other things than tensors in it.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"the checkpoint {path} does not exist: check the path")
    if not path.is_file():
        raise InputError(f"{path} is a folder: name the checkpoint file in it")
    try:
        with path.open("rb") as file:
            start = file.read(4)
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}): check its permissions") from error
    if not start:
        raise InputError(f"{path} is empty: download it again")
    if path.suffix == ".safetensors":
        try:
            return load_file(path)
        except SafetensorError as error:
            raise InputError(f"{path} is no whole safetensors file ({error}): download it again") from error
    if not start.startswith(_MAGIC):
        raise InputError(f"{path} is not a checkpoint: name a file that torch.save wrote, or a .safetensors file")
    _check_sums(path)
    return _find_state_dict(_load_plain(path), path, entry)


def _check_sums(path: Path) -> None:
    """Refuse a zip archive whose bytes are not those that were put into it: torch reads them as they are."""
    try:
        with zipfile.ZipFile(path) as archive:
            # torch writes zeros where it is told to compute no checksums.
            damaged = archive.testzip() if any(entry.CRC for entry in archive.infolist()) else None
    except Exception:  # no archive, or one that the reader below says more of
        return
    if damaged is not None:
        raise InputError(f"{path} is damaged: the checksum of {damaged} in it is wrong; download it again")


def _load_plain(path: Path) -> object:
    try:
        with warnings.catch_warnings(), torch.serialization.safe_globals([argparse.Namespace]):
            warnings.simplefilter("ignore")  # on kinds of pickles that are refused below anyway
            return torch.load(path, map_location="cpu", weights_only=True)
    except MemoryError:
        raise
    except Exception as error:  # a damaged pickle may fail with anything
        fault = "is damaged or incomplete, or torch.save did not write it: download it again"
        not_opened = (
            "it is not opened because it could run code, so ask its authors for a file of the state dict alone"
        )
        if asked := re.search(r"GLOBAL (\S+)", str(error)):
            fault = f"holds more than tensors and plain values ({asked[1]}): {not_opened}"
        elif "TorchScript" in str(error):
            fault = f"is a TorchScript program: {not_opened}"
        raise InputError(f"{path} {fault}") from error


def _find_state_dict(checkpoint: object, path: Path, entry: str) -> dict[str, torch.Tensor]:
    if not isinstance(checkpoint, Mapping) or not checkpoint:
        raise InputError(
            f"{path} holds no state dict but {_a_kind(checkpoint)}: name a file with the weights of a model"
        )
    state_dict = next((checkpoint[name] for name in (entry, "state_dict") if name in checkpoint), checkpoint)
    values = state_dict.values() if isinstance(state_dict, Mapping) else ()
    is_tensor = [isinstance(value, torch.Tensor) for value in values]
    if not any(is_tensor):
        raise InputError(
            f"{path} holds no state dict, neither by itself nor under {entry!r}: its entries are "
            f"{summarize_names(map(repr, checkpoint))}"
        )
    if not all(is_tensor):
        others = [f"{key} ({_a_kind(value)})" for key, value in state_dict.items() if not torch.is_tensor(value)]
        raise InputError(f"the state dict in {path} holds what is no tensor: {summarize_names(others)}")
    odd = [
        key
        for key, value in state_dict.items()
        if value.is_meta or value.is_quantized or value.layout is not torch.strided
    ]
    if odd:
        raise InputError(f"{path} holds tensors that are sparse, quantized or without values: {summarize_names(odd)}")
    named = {str(key): value for key, value in state_dict.items()}
    if all(key.startswith(_PARALLEL) for key in named):
        # Saved from within DistributedDataParallel.
        named = {key.removeprefix(_PARALLEL): value for key, value in named.items()}
    return named


def _a_kind(value: object) -> str:
    return f"{'an empty' if isinstance(value, Mapping) and not value else 'a'} {type(value).__name__}"


def check_keys(state_dict: Mapping[str, torch.Tensor], expected: Iterable[str], kind: str) -> None:
    """
    Refuse a state dict that lacks a tensor or holds another one.

    Args:
        state_dict (`Mapping[str, torch.Tensor]`):
            What the file holds.
        expected (`Iterable[str]`):
            Every key that the model has under its released names, in the model's order.
        kind (`str`):
            What the model is called.

    Raises:
        InputError: Names the first keys of either side.
    """
    wanted = dict.fromkeys(expected)
    faults = []
    if missing := [key for key in wanted if key not in state_dict]:
        faults.append(f"it lacks {summarize_names(missing)}")
    if left := [key for key in state_dict if key not in wanted]:
        faults.append(f"it holds {summarize_names(left)}, which no such model has")
    if faults:
        raise InputError(
            f"the state dict is not that of a {kind}: {', and '.join(faults)}; check that the file is the right one "
            "and complete"
        )


def tensor_shape(state_dict: Mapping[str, torch.Tensor], key: str, dimensions: int) -> tuple[int, ...]:
    """
    The shape of a tensor from which sizes are read.

    Raises:
        InputError: If it has another number of dimensions, or an empty one.
    """
    shape = tuple(state_dict[key].shape)
    if len(shape) != dimensions or 0 in shape:
        raise InputError(
            f"{key} is {shape} and not of {dimensions} dimension(s): check that the file is the right one"
        )
    return shape


def num_heads(width: int, given: int | None, known: Mapping[int, int], argument: str) -> int:
    """
    Attention heads, which leave no trace in the shapes: those given, or those of a released width.

    Raises:
        InputError: If neither is there; it says to pass `argument`.
    """
    if given is not None:
        return given
    if width not in known:
        raise InputError(
            f"the number of attention heads cannot be read from a state dict, and width {width} is not a released "
            f"size: pass {argument}"
        )
    return known[width]


def count_layers(state_dict: Mapping[str, torch.Tensor], prefix: str) -> int:
    """How many layers there are whose keys begin with a prefix; at least one, so that what it lacks is told."""
    return max(1, len({key[len(prefix) :].split(".")[0] for key in state_dict if key.startswith(prefix)}))


def name_size(config: Any, prefixes: Sequence[str] = ("",)) -> str | None:
    """
    The released size, `"base"` or `"large"`, that a model has, if any.

    Args:
        config ([`EcgConfig`]): The model's.
        prefixes (`Sequence[str]`, *optional*): Of the fields that say how large each of its transformers is.
    """
    names = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
    for size in [one for one in ("base", "large") if one in config.presets]:
        preset = config.preset(size)
        if all(getattr(config, part + name) == getattr(preset, part + name) for part in prefixes for name in names):
            return size
    return None


def build_model(
    model_class: Any,
    fields: Mapping[str, Any],
    state_dict: Mapping[str, torch.Tensor],
    names: Mapping[str, Sequence[str]],
) -> Any:
    """
    A model with released tensors, in evaluation mode.

    Args:
        model_class (`type`): Of the model.
        fields (`Mapping[str, Any]`): Of its config.
        state_dict (`Mapping[str, torch.Tensor]`): The tensors under their released names.
        names (`Mapping[str, Sequence[str]]`): Where each goes in the model. One that goes to several places, as fused
            queries, keys and values do, is cut into as many parts of the same size.

    Raises:
        InputError: If a field is not one of the config's, or as [`fill_model`].
    """
    tensors: dict[str, torch.Tensor] = {}
    for old, targets in names.items():
        tensor = state_dict[old]
        if targets and (tensor.ndim == 0 or tensor.shape[0] % len(targets)):
            raise InputError(f"{old} is {tuple(tensor.shape)}, which cannot be cut into queries, keys and values")
        tensors |= zip(targets, tensor.chunk(len(targets)) if targets else (), strict=True)
    try:
        model = model_class(model_class.config_class(**fields))
    except (TypeError, ValueError, StrictDataclassError) as error:
        raise InputError(" ".join(str(error).split())) from error
    fill_model(model, tensors)
    return model.eval()


def fill_model(model: torch.nn.Module, tensors: Mapping[str, torch.Tensor]) -> None:
    """
    Copy tensors into a model, every one of its own.

    Args:
        model (`torch.nn.Module`):
            Keeps its dtype.
        tensors (`Mapping[str, torch.Tensor]`):
            Under the model's names.

    Raises:
        InputError: If a shape does not fit, or values are whole numbers, NaN or infinite.
    """
    own = model.state_dict()
    misfits = [
        f"{key} is {tuple(tensor.shape)} and not {tuple(own[key].shape)}"
        for key, tensor in tensors.items()
        if tensor.shape != own[key].shape
    ]
    if misfits:
        raise InputError(f"the shapes of the tensors do not fit together: {summarize_names(misfits)}")
    if bad := [key for key, tensor in tensors.items() if not (tensor.is_floating_point() and tensor.isfinite().all())]:
        raise InputError(
            f"the weights are whole numbers, NaN or infinite in {summarize_names(bad)}: take another checkpoint"
        )
    model.load_state_dict(dict(tensors))


__all__ = [
    "build_model",
    "check_keys",
    "count_layers",
    "fill_model",
    "load_state_dict",
    "name_size",
    "summarize_names",
    "num_heads",
    "tensor_shape",
]
