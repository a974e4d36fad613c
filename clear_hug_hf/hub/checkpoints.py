"""Load released checkpoints without running their code, and copy their tensors into models."""

from __future__ import annotations

import argparse
import re
import shutil
import tempfile
import warnings
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import (
    EntryNotFoundError,
    HFValidationError,
    LocalEntryNotFoundError,
    StrictDataclassError,
)
from safetensors import SafetensorError
from safetensors.torch import load_file

from ..processing import InputError
from ..utils.files import file_digest
from .inert_pickle import StoredTensor, read_inert


_PARALLEL = "module."
# First bytes of files of torch.save: zip archives, or pickles before torch 1.6.
_MAGIC = (b"PK\x03\x04", b"\x80")
_SAFETENSORS = ".safetensors"
_CHECKPOINTS = (".ckpt", ".pth", ".pt", _SAFETENSORS)
# Names by which a zip archive of torch.save or TorchScript is known.
_TORCH_FILES = ("data.pkl", "constants.pkl")
_NAMED = 5


def summarize_names(names: Iterable[object]) -> str:
    """The first five names, and the number of others."""
    listed = [str(name) for name in names]
    more = f" and {len(listed) - _NAMED} more" if len(listed) > _NAMED else ""
    return ", ".join(listed[:_NAMED]) + more


def find_checkpoint(source: str | Path, hub_files: Sequence[str] = ()) -> Path:
    """
    The local path of a checkpoint, downloaded to the cache of Hugging Face if it is on the Hub. Only this one file is
    downloaded, and nothing of it is run.

    Args:
        source (`str` or `Path`): A path, or `hf://ORG/NAME[@REVISION]`, optionally followed by `/FILE`.
        hub_files (`Sequence[str]`, *optional*): Files to look for if none is named, in this order.

    Raises:
        InputError: If the name is invalid, or the file cannot be downloaded.
    """
    text = str(source)
    if not text.startswith("hf:"):
        return Path(source)
    # `Path` collapses the two slashes.
    organization, _, rest = text.removeprefix("hf:").lstrip("/").partition("/")
    name, _, file = rest.partition("/")
    name, at, revision = name.partition("@")
    address = f"hf://{organization}/{name}"
    if not organization or not name or (at and not revision):
        raise InputError(f"{text} is not a checkpoint on the Hub: use hf://ORG/NAME or hf://ORG/NAME/FILE")
    candidates = [file] if file else list(hub_files)
    if not candidates:
        raise InputError(f"{text} names no file: use {address}/FILE")
    reason = ""
    for candidate in candidates:
        try:
            return Path(hf_hub_download(f"{organization}/{name}", candidate, revision=revision or None))
        except HFValidationError as error:
            raise InputError(f"{text} is not a checkpoint on the Hub: use hf://ORG/NAME or hf://ORG/NAME/FILE") from (
                error
            )
        except LocalEntryNotFoundError as error:  # a subclass of the next one
            raise InputError(
                f"{address} is not cached, and the Hub cannot be reached: check the connection"
            ) from error
        except EntryNotFoundError:
            reason = f"it has no file {' or '.join(candidates)}: use {address}/FILE"
        except Exception as error:  # the types of errors of the Hub and of the network differ between versions
            message = next(iter(str(error).splitlines()), type(error).__name__)
            raise InputError(
                f"{address} cannot be downloaded: check the name and the connection ({message})"
            ) from error
    raise InputError(f"{address} cannot be converted, since {reason}")


def load_state_dict(path: str | Path, entry: str = "model", foreign: bool = False) -> dict[str, torch.Tensor]:
    """
    Load the tensors of a released file on the CPU, without running code from it: besides tensors, only plain values,
    NumPy numbers and the `argparse.Namespace` of a training script's options are unpickled.

    Args:
        path (`str` or `Path`):
            A file of `torch.save` with `{entry: state_dict, ...}` or a state dict, or a `.safetensors` file; or a zip
            archive that contains exactly one such file, which is read without unpacking the archive.
        entry (`str`, *optional*, defaults to `"model"`):
            Key of the state dict in a file with several entries; `"state_dict"` is tried as well.
        foreign (`bool`, *optional*, defaults to `False`):
            Also read files that contain objects of other libraries, such as the hyper-parameters of Lightning. These
            objects are neither imported nor called, and not returned. Otherwise such a file raises an error.

    Returns:
        `dict[str, torch.Tensor]`: The tensors, in the order of the file.

    Raises:
        FileNotFoundError: If the file does not exist.
        InputError: If it cannot be read, is damaged, is not a checkpoint, could run code, or has no valid state dict.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"the checkpoint {path} does not exist: check the path")
    if not path.is_file():
        raise InputError(f"{path} is a folder: name the checkpoint file in it")
    with open_checkpoint(path) as (unpacked, name):
        label = str(path) if unpacked == path else f"{name} in {path}"
        with unpacked.open("rb") as file:
            start = file.read(4)
            if not start:
                raise InputError(f"{label} is empty: download it again")
            if unpacked.suffix == _SAFETENSORS:
                try:
                    return load_file(unpacked)
                except SafetensorError as error:
                    raise InputError(
                        f"{label} is not a complete safetensors file ({error}): download it again"
                    ) from error
            if not start.startswith(_MAGIC):
                raise InputError(
                    f"{label} is not a checkpoint: name a file that torch.save wrote, or a .safetensors file"
                )
            can_map = _check_sums(unpacked, label)
            checkpoint = _load_plain(unpacked, label, can_map, (lambda: read_inert(file)) if foreign else None)
            return _find_state_dict(checkpoint, label, entry)


@contextmanager
def open_checkpoint(path: Path) -> Iterator[tuple[Path, str]]:
    """
    Unpack the only checkpoint in a zip archive to a temporary file. Other files are left where they are.

    Args:
        path (`Path`): The checkpoint or the archive.

    Yields:
        `tuple[Path, str]`: Path of the checkpoint, and its file name.

    Raises:
        InputError: If the file cannot be read, or the archive contains several checkpoints or is damaged.
    """
    try:
        path.open("rb").close()
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}): check its permissions") from error
    member = _find_member(path)
    if member is None:
        yield path, path.name
        return
    name = " ".join(member.filename.rpartition("/")[2].split())
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        # Names in an archive never become paths.
        unpacked = Path(folder, "checkpoint").with_suffix(Path(name).suffix)
        try:
            with zipfile.ZipFile(path) as archive, archive.open(member) as packed, unpacked.open("wb") as file:
                shutil.copyfileobj(packed, file)
        except Exception as error:  # a damaged or encrypted archive may fail with anything
            raise InputError(f"{name} in {path} cannot be unpacked ({error}): download it again") from error
        yield unpacked, name


def checkpoint_digest(path: Path) -> str:
    """SHA-256 hex digest of a checkpoint, or of the only checkpoint in a zip archive."""
    with open_checkpoint(path) as (unpacked, _):
        return file_digest(unpacked)


def _find_member(path: Path) -> zipfile.ZipInfo | None:
    """The only checkpoint in a zip archive, or `None` for other files, such as those of torch.save."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = [member for member in archive.infolist() if not member.is_dir()]
    except Exception:  # not an archive, or damaged, of which the reader of checkpoints reports
        return None
    if any(member.filename.rpartition("/")[2] in _TORCH_FILES for member in members):
        return None
    # macOS adds a file of attributes for each file.
    checkpoints = [
        member
        for member in members
        if member.filename.endswith(_CHECKPOINTS) and not member.filename.rpartition("/")[2].startswith("._")
    ]
    if len(checkpoints) > 1:
        names = summarize_names(member.filename for member in checkpoints)
        raise InputError(f"{path} contains {len(checkpoints)} checkpoints ({names}): unpack it and name one of them")
    return checkpoints[0] if checkpoints else None


def _check_sums(path: Path, label: str) -> bool:
    """
    Verify the checksums of a zip archive, which torch does not. Returns whether its tensors can be mapped instead of
    read, so that those of an optimizer need no memory.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
            # All checksums are zero if torch was configured not to compute them.
            damaged = archive.testzip() if any(entry.CRC for entry in entries) else None
    except Exception:  # not an archive, or one for which `torch.load` reports the error
        return False
    if damaged is not None:
        raise InputError(f"{label} is damaged: the checksum of {damaged} in it is wrong; download it again")
    return all(entry.compress_type == zipfile.ZIP_STORED for entry in entries)


def _load_plain(path: Path, label: str, can_map: bool, read_foreign: Callable[[], object] | None) -> object:
    """Load tensors and plain values, or if there are other objects, what `read_foreign` returns."""
    try:
        with warnings.catch_warnings(), torch.serialization.safe_globals([argparse.Namespace, *_numpy_scalars()]):
            warnings.simplefilter("ignore")  # about pickles that are refused below
            return torch.load(path, map_location="cpu", weights_only=True, mmap=can_map)
    except MemoryError:
        raise
    except Exception as error:  # a damaged pickle may fail with anything
        fault = "is damaged or incomplete, or torch.save did not write it: download it again"
        unsafe = "it is not loaded because it could run code, so ask its authors for a file with only the state dict"
        if "TorchScript" in str(error):
            fault = f"is a TorchScript program: {unsafe}"
        elif read_foreign is not None:
            try:
                return read_foreign()
            except MemoryError:
                raise
            except Exception:  # the message below tells it
                pass
        elif unpickled := re.search(r"GLOBAL (\S+)", str(error)):
            fault = f"contains other objects than tensors and plain values ({unpickled[1]}): {unsafe}"
        raise InputError(f"{label} {fault}") from error


def _numpy_scalars() -> list[Any]:
    """What unpickles a NumPy number or truth value, such as a metric beside the weights, and no other NumPy object."""
    scalar = np.float64(0).__reduce__()[0]
    return [
        (scalar, "numpy.core.multiarray.scalar"),
        (scalar, "numpy._core.multiarray.scalar"),
        np.dtype,
        *{type(np.dtype(code)) for code in "?" + np.typecodes["AllInteger"] + np.typecodes["Float"]},
    ]


def _find_state_dict(checkpoint: object, path: str, entry: str) -> dict[str, torch.Tensor]:
    if not isinstance(checkpoint, Mapping) or not checkpoint:
        raise InputError(
            f"{path} contains no state dict but {_describe_type(checkpoint)}: name a file with the weights of a model"
        )
    state_dict = next((checkpoint[name] for name in (entry, "state_dict") if name in checkpoint), checkpoint)
    if isinstance(state_dict, Mapping):
        state_dict = {key: _read_stored(value, path) for key, value in state_dict.items()}
    values = state_dict.values() if isinstance(state_dict, Mapping) else ()
    is_tensor = [isinstance(value, torch.Tensor) for value in values]
    if not any(is_tensor):
        raise InputError(
            f"{path} contains no state dict, neither at the top level nor under {entry!r}: its entries are "
            f"{summarize_names(map(repr, checkpoint))}"
        )
    if not all(is_tensor):
        others = [
            f"{key} ({_describe_type(value)})" for key, value in state_dict.items() if not torch.is_tensor(value)
        ]
        raise InputError(f"the state dict in {path} has values that are not tensors: {summarize_names(others)}")
    unsupported = [
        key
        for key, value in state_dict.items()
        if value.is_meta or value.is_quantized or value.layout is not torch.strided
    ]
    if unsupported:
        raise InputError(
            f"{path} contains sparse, quantized or meta tensors, which are not supported: "
            f"{summarize_names(unsupported)}"
        )
    named = {str(key): value for key, value in state_dict.items()}
    if all(key.startswith(_PARALLEL) for key in named):
        # Saved from DistributedDataParallel.
        named = {key.removeprefix(_PARALLEL): value for key, value in named.items()}
    return named


def _read_stored(value: object, path: str) -> object:
    if not isinstance(value, StoredTensor):
        return value
    try:
        return value.read()
    except MemoryError:
        raise
    except Exception as error:  # a damaged file may fail with anything
        raise InputError(f"{path} is damaged or incomplete: download it again") from error


def _describe_type(value: object) -> str:
    return f"{'an empty' if isinstance(value, Mapping) and not value else 'a'} {type(value).__name__}"


def check_keys(state_dict: Mapping[str, torch.Tensor], expected: Iterable[str], kind: str) -> None:
    """
    Check the keys of a state dict.

    Args:
        state_dict (`Mapping[str, torch.Tensor]`):
            The loaded state dict.
        expected (`Iterable[str]`):
            Released names of all tensors of the model, in order.
        kind (`str`):
            Name of the model.

    Raises:
        InputError: If a tensor is missing or unexpected.
    """
    required = dict.fromkeys(expected)
    faults = []
    if missing := [key for key in required if key not in state_dict]:
        faults.append(f"it lacks {summarize_names(missing)}")
    if unexpected := [key for key in state_dict if key not in required]:
        faults.append(f"it has the unexpected {summarize_names(unexpected)}")
    if faults:
        raise InputError(
            f"the state dict is not that of {with_article(kind)}: {', and '.join(faults)}; check that the file is the "
            "right one and complete"
        )


def label_fields(
    kind: str, is_classifier: bool, label_names: Sequence[str] | None, count: int | None = None
) -> dict[str, Any]:
    """
    The config field `id2label` of a converted model; empty without label names.

    Args:
        kind (`str`): Kind of the checkpoint, for messages.
        is_classifier (`bool`): Whether it contains a classifier.
        label_names (`Sequence[str]`, *optional*): Label names in the order of the outputs.
        count (`int`, *optional*): Number of outputs, if it is not checked elsewhere.

    Raises:
        InputError: If there is no classifier, the number of names differs from that of the outputs, or a name is empty
            or duplicate.
    """
    if label_names is None:
        return {}
    if not is_classifier:
        raise InputError(f"the file contains {with_article(kind)}, which has no labels: remove the label names")
    if count not in (None, len(label_names)):
        raise InputError(
            f"the classifier has {count} labels but {len(label_names)} names were passed: give each output of the "
            "classifier a unique name, in order"
        )
    if len(set(label_names)) != len(label_names) or not all(label_names):
        raise InputError("a label name is empty or duplicate: give each output of the classifier a unique name")
    return {"id2label": dict(enumerate(label_names))}


def with_article(kind: str) -> str:
    """A kind of checkpoint with its indefinite article."""
    return f"{'an' if kind[0] in 'AEIOaeio' else 'a'} {kind}"


def tensor_shape(state_dict: Mapping[str, torch.Tensor], key: str, dimensions: int) -> tuple[int, ...]:
    """
    The shape of a tensor that determines sizes of the model.

    Raises:
        InputError: If it has another number of dimensions, or an empty dimension.
    """
    shape = tuple(state_dict[key].shape)
    if len(shape) != dimensions or 0 in shape:
        raise InputError(
            f"{key} has the shape {shape} instead of {dimensions} nonempty dimension(s): check that the file is the "
            "right one"
        )
    return shape


def num_heads(width: int, num_attention_heads: int | None, released: Mapping[int, int], argument: str) -> int:
    """
    The number of attention heads, which tensor shapes do not reveal: as passed, or that of a released width.

    Raises:
        InputError: If it was not passed and the width was not released; the message names `argument`.
    """
    if num_attention_heads is not None:
        return num_attention_heads
    if width not in released:
        raise InputError(
            f"a state dict does not contain the number of attention heads, and the width {width} is not a released "
            f"size: pass {argument}"
        )
    return released[width]


def fused_attention_sizes(
    state_dict: Mapping[str, torch.Tensor], key: str, heads: int | None, released: Mapping[int, int], argument: str
) -> tuple[int, int]:
    """
    Number and size of the attention heads of a layer with fused queries, keys and values.

    Args:
        state_dict (`Mapping[str, torch.Tensor]`): Tensors by released name.
        key (`str`): Name of the fused weight, of shape `(3 * heads * size, width)`.
        heads (`int`, *optional*): Number of heads; by default that of the released width.
        released, argument: See [`num_heads`].

    Raises:
        InputError: If the number of heads is unknown or does not divide the rows.
    """
    features, width = tensor_shape(state_dict, key, 2)
    heads = num_heads(width, heads, released, argument)
    if not isinstance(heads, int) or heads < 1 or features % (3 * heads):
        raise InputError(
            f"{key} has {features} rows, which are not queries, keys and values of {heads} attention heads: check "
            f"that the file is the right one, or pass {argument}"
        )
    return heads, features // (3 * heads)


def count_layers(state_dict: Mapping[str, torch.Tensor], prefix: str) -> int:
    """Number of layers whose keys start with a prefix; at least one, so that missing keys are reported."""
    return max(1, len({key[len(prefix) :].split(".")[0] for key in state_dict if key.startswith(prefix)}))


def name_size(
    config: Any,
    prefixes: Sequence[str] = ("",),
    names: Sequence[str] = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size"),
    sizes: Sequence[str] = ("base", "large"),
) -> str | None:
    """
    The released size of a model: the name of the preset with the same sizes, or `None`.

    Args:
        config ([`EcgConfig`]): Config of the model.
        prefixes (`Sequence[str]`, *optional*): Prefixes of the size fields of each of its networks.
        names (`Sequence[str]`, *optional*): Size fields; by default those of a transformer.
        sizes (`Sequence[str]`, *optional*): Presets that were released.
    """
    for size in [size for size in sizes if size in config.presets]:
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
    Build a model with released tensors, in evaluation mode.

    Args:
        model_class (`type`): Model class.
        fields (`Mapping[str, Any]`): Fields of its config.
        state_dict (`Mapping[str, torch.Tensor]`): Tensors by released name.
        names (`Mapping[str, Sequence[str]]`): Names in the model by released name. A tensor with several names, such
            as fused queries, keys and values, is split into equal parts.

    Raises:
        InputError: If a config field is unknown; or as in [`fill_model`].
    """
    tensors: dict[str, torch.Tensor] = {}
    for old, targets in names.items():
        tensor = state_dict[old]
        if targets and (tensor.ndim == 0 or tensor.shape[0] % len(targets)):
            raise InputError(
                f"{old} has the shape {tuple(tensor.shape)}, which cannot be split into queries, keys and values: "
                "check that the file is the right one"
            )
        tensors |= zip(targets, tensor.chunk(len(targets)) if targets else (), strict=True)
    try:
        model = model_class(model_class.config_class(**fields))
    except (TypeError, ValueError, StrictDataclassError) as error:
        raise InputError(" ".join(str(error).split())) from error
    fill_model(model, tensors)
    return model.eval()


def fill_model(model: torch.nn.Module, tensors: Mapping[str, torch.Tensor]) -> None:
    """
    Copy tensors into a model, which keeps its dtype.

    Args:
        model (`torch.nn.Module`):
            The model.
        tensors (`Mapping[str, torch.Tensor]`):
            All tensors of its state dict.

    Raises:
        InputError: If a shape does not match, or values are integers, NaN or infinite.
    """
    current = model.state_dict()
    mismatches = [
        f"{key} is {tuple(tensor.shape)} instead of {tuple(current[key].shape)}"
        for key, tensor in tensors.items()
        if tensor.shape != current[key].shape
    ]
    if mismatches:
        raise InputError(f"the shapes of the tensors are inconsistent: {summarize_names(mismatches)}")
    invalid = [key for key, tensor in tensors.items() if not (tensor.is_floating_point() and tensor.isfinite().all())]
    if invalid:
        raise InputError(
            f"the weights are integers, NaN or infinite in {summarize_names(invalid)}: use another checkpoint"
        )
    model.load_state_dict(dict(tensors))


__all__ = [
    "build_model",
    "check_keys",
    "checkpoint_digest",
    "count_layers",
    "fill_model",
    "find_checkpoint",
    "fused_attention_sizes",
    "label_fields",
    "load_state_dict",
    "name_size",
    "open_checkpoint",
    "summarize_names",
    "num_heads",
    "tensor_shape",
    "with_article",
]
