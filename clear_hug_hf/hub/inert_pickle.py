"""
Read the tensors of files of torch.save that also contain objects of other libraries, without importing those.

A pickle names functions and classes and asks the reader to call them. This reader knows the few names that store
tensors and answers each of them with a class of its own. Every other name, whatever it is, becomes an [`Inert`] class:
it accepts all that a pickle may ask of it and does nothing.
"""

from __future__ import annotations

import io
import pickle
import struct
import sys
import zipfile
from collections.abc import Callable, Mapping
from typing import IO, Any

import torch


_STORAGES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
    "ComplexFloatStorage": torch.complex64,
    "ComplexDoubleStorage": torch.complex128,
}
# Pickles before the data in files before torch 1.6: a magic number, the protocol and the sizes of integers.
_MAGIC_NUMBER = 0x1950A86A20F9469CFC6C
_NUM_HEADERS = 3


def _ignore(*_: Any) -> None:
    pass


class Inert:
    """Takes the place of an object whose class is not imported. Does nothing, whatever it is asked."""

    def __new__(cls, *_: Any, **__: Any) -> Inert:
        return super().__new__(cls)

    def __init__(self, *_: Any, **__: Any) -> None:
        pass

    def __call__(self, *_: Any, **__: Any) -> Inert:
        return Inert()

    # Static, since a pickle may address a class as well as an instance.
    __setstate__ = __setitem__ = append = extend = add = update = staticmethod(_ignore)


class StoredTensor:
    """
    A tensor of a file that has not been read yet, so that the states of an optimizer are never read.

    Args:
        read_storage (`Callable[[], torch.Tensor]`): Reads the flat tensor of which it is a view.
        offset (`int`): First element of the view.
        shape, stride (`tuple[int, ...]`): Shape and strides of the view [elements].
    """

    # A pickle cannot change what this module does.
    __setstate__ = staticmethod(_ignore)

    def __init__(
        self,
        read_storage: Callable[[], torch.Tensor],
        offset: int,
        shape: tuple[int, ...],
        stride: tuple[int, ...],
        *_: Any,
    ):
        self.read_storage, self.offset, self.shape, self.stride = read_storage, offset, shape, stride

    def read(self) -> torch.Tensor:
        """The tensor, on the CPU."""
        return self.read_storage().as_strided(self.shape, self.stride, self.offset)


class _Parameter:
    """Takes the place of the function that makes a parameter of a tensor, and returns the tensor."""

    __setstate__ = staticmethod(_ignore)

    def __new__(cls, tensor: Any, *_: Any) -> Any:
        return tensor


class _Dictionary(dict[Any, Any]):
    """Takes the place of an `OrderedDict`, whose attributes are not restored."""

    __setstate__ = staticmethod(_ignore)


_KNOWN: Mapping[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): _Dictionary,
    ("torch._utils", "_rebuild_tensor"): StoredTensor,
    ("torch._utils", "_rebuild_tensor_v2"): StoredTensor,
    ("torch._utils", "_rebuild_parameter"): _Parameter,
    ("torch.storage", "UntypedStorage"): torch.uint8,
    **{(module, name): dtype for module in ("torch", "torch.cuda") for name, dtype in _STORAGES.items()},
}


class _InertUnpickler(pickle.Unpickler):
    """
    Unpickler that imports nothing.

    Args:
        file (`IO[bytes]`): The pickle.
        read_storage (`Callable[[str, torch.dtype, int], torch.Tensor]`): Reads a flat tensor by key, dtype and number
            of elements.
    """

    def __init__(self, file: IO[bytes], read_storage: Callable[[str, torch.dtype, int], torch.Tensor] | None = None):
        super().__init__(file, encoding="utf-8")
        self.read_storage = read_storage
        self.classes: dict[tuple[str, str], type[Inert]] = {}

    def find_class(self, module: str, name: str) -> Any:
        if (known := _KNOWN.get((module, name))) is not None:
            return known
        return self.classes.setdefault((module, name), type(name, (Inert,), {"__module__": module}))

    def persistent_load(self, pid: Any) -> Callable[[], torch.Tensor]:
        kind, dtype, key, _, count, *view = pid
        if kind != "storage" or not isinstance(dtype, torch.dtype) or self.read_storage is None:
            raise pickle.UnpicklingError("a stored object is not a tensor")
        read = self.read_storage
        start, stop = (view[0][1], view[0][1] + view[0][2]) if view and view[0] else (0, count)
        return lambda: read(key, dtype, count)[start:stop]


def read_inert(file: IO[bytes]) -> Any:
    """
    Read a file of torch.save without importing or calling anything that it names.

    Args:
        file (`IO[bytes]`): The file, which must stay open while tensors are read.

    Returns:
        The saved object, with a [`StoredTensor`] for each tensor and an [`Inert`] object for each foreign one.

    Raises:
        Exception: Of any kind, if the file is damaged or not of torch.save.
    """
    return _read_archive(file) if zipfile.is_zipfile(file) else _read_sequence(file)


def _read_archive(file: IO[bytes]) -> Any:
    archive = zipfile.ZipFile(file)
    [pickled] = [name for name in archive.namelist() if name.rpartition("/")[2] == "data.pkl"]
    folder = pickled.removesuffix("data.pkl")
    order = f"{folder}byteorder"
    is_little = order not in archive.namelist() or archive.read(order) == b"little"

    def read_storage(key: str, dtype: torch.dtype, count: int) -> torch.Tensor:
        return _as_tensor(archive.read(f"{folder}data/{key}"), dtype, count, is_little)

    return _InertUnpickler(io.BytesIO(archive.read(pickled)), read_storage).load()


def _read_sequence(file: IO[bytes]) -> Any:
    """Read a file before torch 1.6: pickles, and then the elements of each storage after their number."""
    file.seek(0)
    magic, _, system = [_InertUnpickler(file).load() for _ in range(_NUM_HEADERS)]
    if magic != _MAGIC_NUMBER:
        raise pickle.UnpicklingError("the magic number is wrong")
    item_sizes: dict[str, int] = {}
    places: dict[str, int] = {}

    def read_storage(key: str, dtype: torch.dtype, count: int) -> torch.Tensor:
        file.seek(places[key])
        return _as_tensor(file.read(count * dtype.itemsize), dtype, count, system["little_endian"])

    class Unpickler(_InertUnpickler):
        def persistent_load(self, pid: Any) -> Callable[[], torch.Tensor]:
            read = super().persistent_load(pid)
            item_sizes[pid[2]] = pid[1].itemsize
            return read

    saved = Unpickler(file, read_storage).load()
    for key in _InertUnpickler(file).load():
        (count,) = struct.unpack("<q", file.read(8))
        places[key] = file.tell()
        file.seek(count * item_sizes[key], io.SEEK_CUR)
    return saved


def _as_tensor(content: bytes, dtype: torch.dtype, count: int, is_little: bool) -> torch.Tensor:
    if len(content) != count * dtype.itemsize:
        raise pickle.UnpicklingError("a storage is incomplete")
    if not content:
        return torch.empty(0, dtype=dtype)
    tensor = torch.frombuffer(bytearray(content), dtype=dtype)
    if is_little != (sys.byteorder == "little"):
        tensor.untyped_storage().byteswap(dtype)
    return tensor


__all__ = ["Inert", "StoredTensor", "read_inert"]
