"""Pictures of ECG pages as pixels, whatever files they come in."""

from __future__ import annotations

import io
import os
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from .errors import InputError, import_library


MIN_PIXELS = 64
"""Shorter side below which nothing can be read off a page [px]."""
MAX_PIXELS = 100_000_000
"""Most pixels of a picture, three times a page at 600 dots per inch. More are refused before they are decoded."""


def load_page(source: Any) -> np.ndarray:
    """
    A picture as it was meant to be looked at.

    The orientation that a camera noted is applied, transparent parts are white, and pictures in gray, 16 bits, CMYK or
    with a palette become RGB; 16 bits are scaled, not cut.

    Args:
        source (`str`, `Path`, `bytes`, `PIL.Image.Image` or `np.ndarray`):
            A file, its content, a picture, or pixels: `(height, width)`, `(height, width, 1, 3 or 4)`, or with the
            colors first, as whole numbers up to 255 or 65535, or as shares from 0 to 1.

    Returns:
        `np.ndarray` of shape `(height, width, 3)`, uint8 [RGB].

    Raises:
        FileNotFoundError: If there is no such file.
        InputError: If it is no picture (a PDF, say), is cut short, animated, too small or too large.
        ImportError: If Pillow is not installed.
    """
    image_module, ops = import_pillow()
    if isinstance(source, image_module.Image):
        return _from_pillow(source, "the picture", ops, image_module)
    if isinstance(source, np.ndarray) or hasattr(source, "detach"):
        return _from_array(np.asarray(source))
    if isinstance(source, bytes | bytearray):
        name, content = "the picture", bytes(source)
    elif isinstance(source, str | os.PathLike):
        path = Path(source)
        if not path.is_file():
            raise FileNotFoundError(f"the picture {path} does not exist: check the path")
        name, content = str(path), path.read_bytes()
    else:
        raise InputError(f"a {type(source).__name__} is no picture: give a path, bytes, a PIL image or an array")
    if content[:5] == b"%PDF-":
        raise InputError(f"{name} is a PDF: save its page as PNG first, with `pdftoppm -r 200 -png FILE PAGE`, say")
    if not content:
        raise InputError(f"{name} is an empty file")
    with warnings.catch_warnings():
        # Pillow warns of large pictures at a limit of its own; ours is below.
        warnings.simplefilter("ignore", image_module.DecompressionBombWarning)
        try:
            picture = image_module.open(io.BytesIO(content))
        except image_module.DecompressionBombError as error:
            raise InputError(f"{name} is too large: {error}") from None
        except Exception as error:
            raise InputError(f"{name} is no picture that can be read: give a PNG or JPEG, say") from error
        return _from_pillow(picture, name, ops, image_module)


def _from_pillow(picture: Any, name: str, ops: Any, image_module: Any) -> np.ndarray:
    if getattr(picture, "n_frames", 1) > 1:
        raise InputError(f"{name} holds {picture.n_frames} pictures, as films and scans of several pages do: give one")
    _check_size(picture.width, picture.height, name)
    try:
        picture.load()
    except Exception as error:
        raise InputError(f"{name} is damaged or cut short: save or download it again ({error})") from error
    picture = ops.exif_transpose(picture)
    if picture.mode in ("I", "F") or picture.mode.startswith("I;"):
        return _from_array(np.asarray(picture))
    if picture.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in picture.info:
        picture = picture.convert("RGBA")
        paper = image_module.new("RGBA", picture.size, (255, 255, 255, 255))
        picture = image_module.alpha_composite(paper, picture)
    return np.asarray(picture.convert("RGB"))


def _from_array(pixels: np.ndarray) -> np.ndarray:
    if pixels.ndim == 3 and pixels.shape[0] in (1, 3, 4) and pixels.shape[2] not in (1, 3, 4):
        pixels = pixels.transpose(1, 2, 0)
    if pixels.ndim == 2:
        pixels = pixels[..., None]
    if pixels.ndim != 3 or pixels.shape[2] not in (1, 3, 4):
        raise InputError(f"an array of shape {pixels.shape} is no picture: give (height, width, 1, 3 or 4)")
    _check_size(pixels.shape[1], pixels.shape[0], "the picture")
    if pixels.dtype == bool:
        pixels = pixels.astype(np.uint8) * 255
    elif pixels.dtype.kind == "f":
        if not np.isfinite(pixels).all() or pixels.min() < 0 or pixels.max() > (255 if pixels.max() > 1 else 1):
            raise InputError("an array of decimals must hold finite shares from 0 to 1, or values up to 255")
        pixels = np.rint(pixels * (1 if pixels.max() > 1 else 255)).astype(np.uint8)
    elif pixels.dtype != np.uint8:
        low, high = int(pixels.min()), int(pixels.max())
        if pixels.dtype.kind not in "iu" or low < 0 or high > 65535:
            raise InputError(f"an array with values from {low} to {high} is no picture: give 0 to 255, or to 65535")
        wide = pixels.dtype.itemsize == 2 or high > 255
        pixels = np.rint(pixels / (257 if wide else 1)).astype(np.uint8)
    if pixels.shape[2] == 4:
        share = pixels[..., 3:].astype(np.float32) / 255
        pixels = np.rint(pixels[..., :3] * share + 255 * (1 - share)).astype(np.uint8)
    return np.ascontiguousarray(np.broadcast_to(pixels, (*pixels.shape[:2], 3)))


def _check_size(width: int, height: int, name: str) -> None:
    if min(width, height) < MIN_PIXELS:
        raise InputError(f"{name} has {width} x {height} px: a page needs at least {MIN_PIXELS} on each side")
    if width * height > MAX_PIXELS:
        raise InputError(
            f"{name} has {width} x {height} px, more than {MAX_PIXELS / 1e6:g} million: make it smaller first"
        )


def import_pillow() -> tuple[Any, Any]:
    return import_library("PIL.Image", "reading pictures"), import_library("PIL.ImageOps", "reading pictures")
