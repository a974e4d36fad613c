"""
Augmentation of images of ECG pages for training: distortions by cameras, scanners and folds.

Ranges and probabilities are our choice. Images are never flipped, cropped or stretched, since they represent time and
voltage.
"""

from __future__ import annotations

import math
from typing import overload

import numpy as np

from .ecg_paper import import_cv2
from .errors import InputError


# At strength 1.
_ROTATION = 5.0  # maximum angle in either direction [degrees]
_PERSPECTIVE = 0.05  # inward displacement of a corner [fraction of a side]
_MAX_CREASES = 3
_CREASE_DEPTH = 0.25  # [fraction of brightness]
_CREASE_RESOLUTION = 1000  # [px]
_SHADOW = 0.4  # [fraction of brightness]
_BRIGHTNESS = 0.2  # [fraction of white]
_CONTRAST = 0.2  # [fraction]
_HUE = 30.0  # in either direction [degrees]
_SATURATION = 0.3  # [fraction]
_BLUR = 1.5  # standard deviation [px] ...
_BLUR_FRACTION = 0.003  # ... but at most this fraction of the shorter side, to preserve the QRS on small pages
_NOISE = 12.0  # standard deviation [levels of 255]
_MIN_JPEG_QUALITY = 30

HIGH_PROBABILITY, LOW_PROBABILITY = 0.5, 0.2

AUGMENTATIONS: tuple[str, ...] = ("creases", "geometry", "shadow", "brightness", "hue", "blur", "noise", "jpeg")
"""All augmentations in the order of application. Rotation and perspective are combined in `"geometry"`."""


@overload
def augment_page(
    image: np.ndarray,
    generator: np.random.Generator,
    strength: float = ...,
    *,
    positions: None = ...,
    pixels_per_mm: tuple[float, float] | None = ...,
    only: str | None = ...,
) -> np.ndarray: ...


@overload
def augment_page(
    image: np.ndarray,
    generator: np.random.Generator,
    strength: float = ...,
    *,
    positions: np.ndarray,
    pixels_per_mm: tuple[float, float] | None = ...,
    only: str | None = ...,
) -> tuple[np.ndarray, np.ndarray]: ...


def augment_page(
    image: np.ndarray,
    generator: np.random.Generator,
    strength: float = 1.0,
    *,
    positions: np.ndarray | None = None,
    pixels_per_mm: tuple[float, float] | None = None,
    only: str | None = None,
) -> np.ndarray | tuple[np.ndarray, np.ndarray]:
    """
    Augment an image of a page as if it had been photographed or scanned.

    With probability 0.5 each: rotation by up to 5 degrees, brightness and contrast by up to 20 %, hue by up to 30
    degrees and saturation by up to 30 %, Gaussian blur of up to 1.5 px (or 0.3 % of the shorter side if that is less),
    noise, and JPEG compression. With probability 0.2 each: perspective, creases and shadows. The entire page remains
    within the image, whose size does not change: a transformed page is smaller and lies on a uniform background.

    Args:
        image (`np.ndarray` of shape `(height, width, 3)`): Page, uint8 [RGB]. Not modified.
        generator (`np.random.Generator`): Random generator.
        strength (`float`, *optional*, defaults to 1): Factor for all ranges, from 0 (no augmentation) to 2.
        positions (`np.ndarray` of shape `(..., 2)`, *optional*):
            x and y of points on the page [px], such as those of [`EcgPage`]; may contain NaN.
        pixels_per_mm (`tuple[float, float]`, *optional*):
            Horizontal and vertical scale of a page whose aspect ratio is not preserved, for undistorted rotation.
        only (`str`, *optional*): Apply this one of [`AUGMENTATIONS`] with probability 1, and no other.

    Returns:
        `np.ndarray`, or with positions `tuple[np.ndarray, np.ndarray]`: Augmented image, and transformed positions as
        float32.

    Raises:
        InputError: If an argument is invalid.
        ImportError: If OpenCV is not installed.
    """
    image = np.asarray(image)
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise InputError(
            f"the image must be uint8 of shape (height, width, 3), got {image.dtype} of shape {image.shape}"
        )
    if not 0.0 <= strength <= 2.0:
        raise InputError(f"strength must be between 0 (no augmentation) and 2, got {strength:g}")
    if positions is not None and np.shape(positions)[-1:] != (2,):
        raise InputError(f"positions must have x and y in the last dimension, got shape {np.shape(positions)}")
    if only is not None and only not in AUGMENTATIONS:
        raise InputError(f"unknown augmentation {only!r}: choose one of {', '.join(AUGMENTATIONS)}")

    transformed = None if positions is None else np.array(positions, dtype=np.float32)
    augmented = image.copy()
    if strength > 0.0:

        def is_selected(name: str, probability: float) -> bool:
            draw = generator.random()
            return draw < probability if only is None else name == only

        if is_selected("creases", LOW_PROBABILITY):
            augmented = _apply_light(augmented, _creases(augmented.shape[:2], generator, strength))
        rotate, tilt = is_selected("geometry", HIGH_PROBABILITY), is_selected("geometry", LOW_PROBABILITY)
        if rotate or tilt:
            matrix = _draw_homography(augmented.shape[:2], generator, strength, rotate, tilt, pixels_per_mm)
            augmented = _warp(augmented, matrix, generator)
            if transformed is not None:
                transformed = _transform(transformed, matrix)
        if is_selected("shadow", LOW_PROBABILITY):
            augmented = _apply_light(augmented, _shadow(augmented.shape[:2], generator, strength))
        functions = {"brightness": _brightness, "hue": _hue, "blur": _blur, "noise": _noise, "jpeg": _jpeg}
        for name, function in functions.items():
            if is_selected(name, HIGH_PROBABILITY):
                augmented = function(augmented, generator, strength)
    return augmented if transformed is None else (augmented, transformed)


def _draw_homography(
    shape: tuple[int, int],
    generator: np.random.Generator,
    strength: float,
    rotate: bool,
    tilt: bool,
    pixels_per_mm: tuple[float, float] | None,
) -> np.ndarray:
    """Draw a homography `(3, 3)` that keeps the entire page within the image."""
    cv2 = import_cv2()
    height, width = shape
    scale = np.array(pixels_per_mm or (1.0, 1.0), dtype=np.float64)
    # Outer corners of the corner pixels in mm.
    corners = np.array([[0, 0], [width, 0], [width, height], [0, height]], dtype=np.float64) / scale
    size = corners[2]
    target = corners.copy()
    if tilt:
        inward = np.array([[1, 1], [-1, 1], [-1, -1], [1, -1]])
        target += inward * size * generator.uniform(0.0, _PERSPECTIVE * strength, (4, 2))
    if rotate:
        angle = math.radians(_ROTATION * strength * generator.uniform(-1.0, 1.0))
        rotation = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
        target = (target - size / 2.0) @ rotation.T + size / 2.0
    # Scale to the image size, at a random position.
    low, high = target.min(axis=0), target.max(axis=0)
    factor = min(1.0, float((size / (high - low)).min()))
    margin = size - factor * (high - low)
    target = factor * (target - low) + margin * generator.uniform(0.0, 1.0, 2)
    matrix = cv2.getPerspectiveTransform(
        (corners * scale - 0.5).astype(np.float32), (target * scale - 0.5).astype(np.float32)
    )
    return np.asarray(matrix, dtype=np.float64)


def _warp(image: np.ndarray, matrix: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    cv2 = import_cv2()
    background = generator.uniform(40.0, 230.0) * generator.uniform(0.85, 1.0, 3)
    height, width = image.shape[:2]
    return cv2.warpPerspective(image, matrix, (width, height), borderValue=tuple(background))


def _transform(positions: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    points = positions.reshape(-1, 2).astype(np.float64)
    homogeneous = points @ matrix[:, :2].T + matrix[:, 2]
    return (homogeneous[:, :2] / homogeneous[:, 2:]).astype(np.float32).reshape(positions.shape)


def _apply_light(image: np.ndarray, light: np.ndarray) -> np.ndarray:
    """Multiply an image by a light field of any size."""
    cv2 = import_cv2()
    height, width = image.shape[:2]
    field = cv2.resize(light.astype(np.float32), (width, height), interpolation=cv2.INTER_LINEAR)
    return cv2.multiply(image, cv2.merge([field] * 3), dtype=cv2.CV_8U)


def _creases(shape: tuple[int, int], generator: np.random.Generator, strength: float) -> np.ndarray:
    """Light field of folds: dark lines with paper that is brighter on one side than on the other."""
    # Folds are smooth enough for a lower resolution than that of a large page.
    height, width = (min(side, _CREASE_RESOLUTION) for side in shape)
    x = np.arange(width, dtype=np.float32)[None, :] / width
    y = np.arange(height, dtype=np.float32)[:, None] / height
    light = np.ones((height, width), dtype=np.float32)
    for _ in range(int(generator.integers(1, _MAX_CREASES + 1))):
        # Folds are approximately parallel to the sides.
        angle = generator.integers(0, 2) * math.pi / 2 + generator.uniform(-0.2, 0.2)
        through = generator.uniform(0.15, 0.85, 2)
        distance = (x - through[0]) * math.cos(angle) + (y - through[1]) * math.sin(angle)
        depth = strength * _CREASE_DEPTH * generator.uniform(0.3, 1.0)
        narrow, wide = max(generator.uniform(0.001, 0.003), 0.5 / max(height, width)), generator.uniform(0.02, 0.08)
        light -= depth * np.exp(-0.5 * (distance / narrow) ** 2)
        light += 0.3 * depth * np.sign(distance) * np.exp(-np.abs(distance) / wide)
    return np.maximum(light, 0.1)


def _shadow(shape: tuple[int, int], generator: np.random.Generator, strength: float) -> np.ndarray:
    """Light field with a gradient or a shadow with a soft edge, at low resolution."""
    x, y = np.meshgrid(np.linspace(-0.5, 0.5, 32), np.linspace(-0.5, 0.5, 32))
    angle = generator.uniform(0.0, 2.0 * math.pi)
    along = x * math.cos(angle) + y * math.sin(angle) - generator.uniform(-0.3, 0.3)
    softness = generator.uniform(0.03, 0.4)
    depth = min(strength * _SHADOW * generator.uniform(0.25, 1.0), 0.9)
    return 1.0 - depth / (1.0 + np.exp(-along / softness))


def _brightness(image: np.ndarray, generator: np.random.Generator, strength: float) -> np.ndarray:
    brightness, contrast = strength * generator.uniform(-1.0, 1.0, 2) * (_BRIGHTNESS, _CONTRAST)
    levels = (np.arange(256) - 127.5) * (1.0 + contrast) + 127.5 + 255.0 * brightness
    return import_cv2().LUT(image, np.clip(np.rint(levels), 0, 255).astype(np.uint8))


def _hue(image: np.ndarray, generator: np.random.Generator, strength: float) -> np.ndarray:
    cv2 = import_cv2()
    shift, saturation = strength * generator.uniform(-1.0, 1.0, 2) * (_HUE, _SATURATION)
    levels = np.arange(256)
    hues = (levels + round(shift / 2.0)) % 180  # OpenCV has 180 hues
    table = np.stack([hues, levels * (1.0 + saturation), levels], axis=-1)
    hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV)
    hsv = cv2.LUT(hsv, np.clip(np.rint(table), 0, 255).astype(np.uint8)[None])
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)


def _blur(image: np.ndarray, generator: np.random.Generator, strength: float) -> np.ndarray:
    sigma = strength * min(_BLUR, _BLUR_FRACTION * min(image.shape[:2])) * generator.uniform(0.0, 1.0)
    return import_cv2().GaussianBlur(image, (0, 0), sigma) if sigma > 0.1 else image


def _noise(image: np.ndarray, generator: np.random.Generator, strength: float) -> np.ndarray:
    cv2 = import_cv2()
    noise = np.empty(image.shape, dtype=np.int16)
    # The generator of OpenCV is several times faster than that of NumPy, and reproducible when seeded.
    cv2.setRNGSeed(int(generator.integers(2**31)))
    cv2.randn(noise, 0.0, strength * _NOISE * generator.uniform(0.1, 1.0))
    return cv2.add(image, noise, dtype=cv2.CV_8U)


def _jpeg(image: np.ndarray, generator: np.random.Generator, strength: float) -> np.ndarray:
    cv2 = import_cv2()
    quality = max(round(95 - strength * (95 - _MIN_JPEG_QUALITY) * generator.uniform(0.0, 1.0)), 5)
    _, data = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])
    return np.ascontiguousarray(cv2.imdecode(data, cv2.IMREAD_COLOR)[..., ::-1])
