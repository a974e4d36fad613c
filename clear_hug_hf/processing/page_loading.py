"""Loading of images of ECG pages."""

from __future__ import annotations

import io
import os
import warnings
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np

from .errors import InputError, import_library


MIN_PIXELS = 64
"""Minimum height and width of an image [px]."""
MAX_PIXELS = 100_000_000
"""Maximum number of pixels, three times a page at 600 dots per inch. Checked before decoding."""

PDF_DPI = 200
"""Resolution at which pages of PDF files are drawn [dots per inch]: that of scans."""
_POINTS_PER_INCH = 72


def load_page(source: Any) -> np.ndarray:
    """
    Load an image in RGB.

    Applies the EXIF orientation, replaces transparency by white, and converts grayscale, 16-bit, CMYK and palette
    images. The page of a PDF, with lines or a scan, is drawn at [`PDF_DPI`].

    Args:
        source (`str`, `Path`, `bytes`, `PIL.Image.Image` or `np.ndarray`):
            Path, file content, image, or pixels of shape `(height, width)`, `(height, width, 1, 3 or 4)` or
            `(1, 3 or 4, height, width)`: integers up to 255 or 65535, or floats from 0 to 1.

    Returns:
        `np.ndarray` of shape `(height, width, 3)`, uint8 [RGB].

    Raises:
        FileNotFoundError: If the file does not exist.
        InputError: If the image is in an unsupported format, damaged, animated, too small or too large, or a PDF of
            several pages or with a password.
        ImportError: If Pillow, or pypdfium2 for a PDF, is not installed.
    """
    image_module, ops = import_pillow()
    if isinstance(source, image_module.Image):
        return _from_pillow(source, "the image", ops, image_module)
    if isinstance(source, np.ndarray) or hasattr(source, "detach"):
        return _from_array(np.asarray(source))
    if isinstance(source, bytes | bytearray):
        name, content = "the image", bytes(source)
    elif isinstance(source, str | os.PathLike):
        path = Path(source)
        if not path.is_file():
            raise FileNotFoundError(f"the image {path} does not exist: check the path")
        name, content = str(path), path.read_bytes()
    else:
        raise InputError(f"images must be a path, bytes, a PIL image or an array, got {type(source).__name__}")
    if content[:5] == b"%PDF-":
        return _render_pdf(content, name)
    if not content:
        raise InputError(f"{name} is an empty file")
    with warnings.catch_warnings():
        # `MAX_PIXELS` is below the limit at which Pillow warns.
        warnings.simplefilter("ignore", image_module.DecompressionBombWarning)
        try:
            image = image_module.open(io.BytesIO(content))
        except image_module.DecompressionBombError as error:
            raise InputError(f"{name} is too large: {error}") from None
        except Exception as error:
            raise InputError(f"{name} is not a supported image: use PNG or JPEG, for example") from error
        return _from_pillow(image, name, ops, image_module)


def _render_pdf(content: bytes, name: str) -> np.ndarray:
    """Draw the page of a PDF. PDFium runs no scripts here and reads nothing outside of the file."""
    pdfium = import_library("pypdfium2", f"reading {name}")
    try:
        document = pdfium.PdfDocument(content)
    except pdfium.PdfiumError as error:
        raise InputError(f"{name} is a PDF that cannot be read: it is damaged, truncated or locked") from error
    with closing(document):
        if len(document) != 1:
            raise InputError(f"{name} must contain a single page, got {len(document)} pages: save that of the ECG")
        try:
            page = document[0]
            width, height = (round(length * PDF_DPI / _POINTS_PER_INCH) for length in page.get_size())
            _check_size(width, height, name)
            bitmap = page.render(scale=PDF_DPI / _POINTS_PER_INCH, rev_byteorder=True)
            return np.array(bitmap.to_numpy()[..., :3])
        except pdfium.PdfiumError as error:
            raise InputError(f"{name} is a PDF whose page cannot be drawn: it is damaged or truncated") from error


def _from_pillow(image: Any, name: str, ops: Any, image_module: Any) -> np.ndarray:
    if getattr(image, "n_frames", 1) > 1:
        raise InputError(f"{name} must contain a single image, got {image.n_frames} frames or pages")
    _check_size(image.width, image.height, name)
    try:
        image.load()
    except Exception as error:
        raise InputError(f"{name} is damaged or truncated: save or download it again ({error})") from error
    image = ops.exif_transpose(image)
    if image.mode in ("I", "F") or image.mode.startswith("I;"):
        return _from_array(np.asarray(image))
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
        background = image_module.new("RGBA", image.size, (255, 255, 255, 255))
        image = image_module.alpha_composite(background, image)
    return np.asarray(image.convert("RGB"))


def _from_array(pixels: np.ndarray) -> np.ndarray:
    if pixels.ndim == 3 and pixels.shape[0] in (1, 3, 4) and pixels.shape[2] not in (1, 3, 4):
        pixels = pixels.transpose(1, 2, 0)
    if pixels.ndim == 2:
        pixels = pixels[..., None]
    if pixels.ndim != 3 or pixels.shape[2] not in (1, 3, 4):
        raise InputError(f"an image array must have shape (height, width, 1, 3 or 4), got {pixels.shape}")
    _check_size(pixels.shape[1], pixels.shape[0], "the image")
    if pixels.dtype == bool:
        pixels = pixels.astype(np.uint8) * 255
    elif pixels.dtype.kind == "f":
        if not np.isfinite(pixels).all() or pixels.min() < 0 or pixels.max() > (255 if pixels.max() > 1 else 1):
            raise InputError("an image array of floats must contain finite values from 0 to 1 or from 0 to 255")
        pixels = np.rint(pixels * (1 if pixels.max() > 1 else 255)).astype(np.uint8)
    elif pixels.dtype != np.uint8:
        low, high = int(pixels.min()), int(pixels.max())
        if pixels.dtype.kind not in "iu" or low < 0 or high > 65535:
            raise InputError(f"an image array must contain values from 0 to 255 or 65535, got {low} to {high}")
        is_16_bit = pixels.dtype.itemsize == 2 or high > 255
        pixels = np.rint(pixels / (257 if is_16_bit else 1)).astype(np.uint8)
    if pixels.shape[2] == 4:
        alpha = pixels[..., 3:].astype(np.float32) / 255
        pixels = np.rint(pixels[..., :3] * alpha + 255 * (1 - alpha)).astype(np.uint8)
    return np.ascontiguousarray(np.broadcast_to(pixels, (*pixels.shape[:2], 3)))


def _check_size(width: int, height: int, name: str) -> None:
    if min(width, height) < MIN_PIXELS:
        raise InputError(f"{name} must be at least {MIN_PIXELS} px wide and high, got {width} x {height} px")
    if width * height > MAX_PIXELS:
        raise InputError(
            f"{name} must have at most {MAX_PIXELS / 1e6:g} million pixels, got {width} x {height} px: reduce its size"
        )


def import_pillow() -> tuple[Any, Any]:
    """Import the modules `Image` and `ImageOps` of Pillow, which is optional."""
    return import_library("PIL.Image", "reading pictures"), import_library("PIL.ImageOps", "reading pictures")
