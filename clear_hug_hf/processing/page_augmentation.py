"""
What cameras, scanners and folds do to ECG pages, for training.

Ranges and probabilities are our own choice: how papers on such pages augment them is not known to us. Nothing is
flipped, cropped or stretched, since time and voltage are read from the picture.
"""

from __future__ import annotations

import math
from typing import overload

import numpy as np

from .ecg_paper import import_cv2
from .errors import InputError


# At strength 1.
_ROTATION = 5.0  # [degrees] either way
_PERSPECTIVE = 0.05  # how far a corner moves inwards [share of a side]
_CREASES = 3
_CREASE_DEPTH = 0.25  # [share of brightness]
_COARSE = 1000  # [px]
_SHADOW = 0.4  # [share of brightness]
_BRIGHTNESS = 0.2  # [share of white]
_CONTRAST = 0.2  # [share]
_HUE = 30.0  # [degrees of 360] either way
_SATURATION = 0.3  # [share]
_BLUR = 1.5  # standard deviation [px] ...
_BLUR_SHARE = 0.003  # ... but no more than this share of the shorter side, or small pages would lose their QRS
_NOISE = 12.0  # standard deviation [levels of 255]
_WORST_JPEG = 30  # quality

OFTEN, SELDOM = 0.5, 0.2

AUGMENTATIONS: tuple[str, ...] = ("creases", "geometry", "shadow", "brightness", "hue", "blur", "noise", "jpeg")
"""All kinds, in the order in which they are done; rotation and perspective are one movement, `"geometry"`."""


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
    A page as a camera or a scanner might have taken it.

    Each with probability 0.5: rotation by up to 5 degrees, brightness and contrast by up to 20 %, hue by up to 30
    degrees with saturation by up to 30 %, Gaussian blur of up to 1.5 px (0.3 % of the shorter side if that is less),
    pixel noise, JPEG; with 0.2: perspective, creases, shadows. The whole page stays inside the frame, which has the
    picture's size: a page that was moved is smaller and lies on a plain table.

    Args:
        image (`np.ndarray` of shape `(height, width, 3)`): The page, uint8 [RGB]; left as it is.
        generator (`np.random.Generator`): Where the changes are drawn from: equal states give equal pictures.
        strength (`float`, *optional*, defaults to 1): Scale of all ranges, from 0, which changes nothing, to 2.
        positions (`np.ndarray` of shape `(..., 2)`, *optional*):
            x and y of points on the page [px], as [`EcgPage`] holds them; NaN stays NaN.
        pixels_per_mm (`tuple[float, float]`, *optional*):
            Scales in x and y of a page that is squashed, so that the page is rotated before it is squashed.
        only (`str`, *optional*): One of [`AUGMENTATIONS`] to do alone, and always.

    Returns:
        `np.ndarray`, or with positions `tuple[np.ndarray, np.ndarray]`: The picture, and the moved positions, float32.

    Raises:
        InputError: If picture, strength or positions cannot be used.
        ImportError: If OpenCV is not installed.
    """
    image = np.asarray(image)
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise InputError(
            f"the picture has the shape {image.shape} and dtype {image.dtype}: give uint8 (height, width, 3)"
        )
    if not 0.0 <= strength <= 2.0:
        raise InputError(f"the strength is {strength:g}: it must be between 0, for no change, and 2")
    if positions is not None and np.shape(positions)[-1:] != (2,):
        raise InputError(f"the positions have the shape {np.shape(positions)}: give x and y in the last dimension")
    if only is not None and only not in AUGMENTATIONS:
        raise InputError(f"unknown augmentation {only!r}: choose one of {', '.join(AUGMENTATIONS)}")

    moved = None if positions is None else np.array(positions, dtype=np.float32)
    changed = image.copy()
    if strength > 0.0:

        def chosen(name: str, probability: float) -> bool:
            draw = generator.random()
            return draw < probability if only is None else name == only

        if chosen("creases", SELDOM):
            changed = _lit(changed, _creases(changed.shape[:2], generator, strength))
        rotated, tilted = chosen("geometry", OFTEN), chosen("geometry", SELDOM)
        if rotated or tilted:
            matrix = _draw_movement(changed.shape[:2], generator, strength, rotated, tilted, pixels_per_mm)
            changed = _warp(changed, matrix, generator)
            if moved is not None:
                moved = _move(moved, matrix)
        if chosen("shadow", SELDOM):
            changed = _lit(changed, _shadow(changed.shape[:2], generator, strength))
        changes = {"brightness": _brightness, "hue": _hue, "blur": _blur, "noise": _noise, "jpeg": _jpeg}
        for name, change in changes.items():
            if chosen(name, OFTEN):
                changed = change(changed, generator, strength)
    return changed if moved is None else (changed, moved)


def _draw_movement(
    shape: tuple[int, int],
    generator: np.random.Generator,
    strength: float,
    rotated: bool,
    tilted: bool,
    pixels_per_mm: tuple[float, float] | None,
) -> np.ndarray:
    """A random homography `(3, 3)` of pixels that keeps the whole page in the frame."""
    cv2 = import_cv2()
    height, width = shape
    scale = np.array(pixels_per_mm or (1.0, 1.0), dtype=np.float64)
    # Borders of pixels, not centers, in millimeters.
    corners = np.array([[0, 0], [width, 0], [width, height], [0, height]], dtype=np.float64) / scale
    size = corners[2]
    target = corners.copy()
    if tilted:
        inwards = np.array([[1, 1], [-1, 1], [-1, -1], [1, -1]])
        target += inwards * size * generator.uniform(0.0, _PERSPECTIVE * strength, (4, 2))
    if rotated:
        angle = math.radians(_ROTATION * strength * generator.uniform(-1.0, 1.0))
        turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
        target = (target - size / 2.0) @ turn.T + size / 2.0
    # The largest that fits into the frame, at a random place in it.
    low, high = target.min(axis=0), target.max(axis=0)
    factor = min(1.0, float((size / (high - low)).min()))
    room = size - factor * (high - low)
    target = factor * (target - low) + room * generator.uniform(0.0, 1.0, 2)
    matrix = cv2.getPerspectiveTransform(
        (corners * scale - 0.5).astype(np.float32), (target * scale - 0.5).astype(np.float32)
    )
    return np.asarray(matrix, dtype=np.float64)


def _warp(image: np.ndarray, matrix: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    cv2 = import_cv2()
    table = generator.uniform(40.0, 230.0) * generator.uniform(0.85, 1.0, 3)
    height, width = image.shape[:2]
    return cv2.warpPerspective(image, matrix, (width, height), borderValue=tuple(table))


def _move(positions: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    points = positions.reshape(-1, 2).astype(np.float64)
    moved = points @ matrix[:, :2].T + matrix[:, 2]
    return (moved[:, :2] / moved[:, 2:]).astype(np.float32).reshape(positions.shape)


def _lit(image: np.ndarray, light: np.ndarray) -> np.ndarray:
    """A picture under a light field of any size, 1 where it is as bright as before."""
    cv2 = import_cv2()
    height, width = image.shape[:2]
    field = cv2.resize(light.astype(np.float32), (width, height), interpolation=cv2.INTER_LINEAR)
    return cv2.multiply(image, cv2.merge([field] * 3), dtype=cv2.CV_8U)


def _creases(shape: tuple[int, int], generator: np.random.Generator, strength: float) -> np.ndarray:
    """Light field of folds: a dark line each, and paper that is brighter on one side of it than on the other."""
    # Folds are soft enough to be made coarser than a large page.
    height, width = (min(side, _COARSE) for side in shape)
    x = np.arange(width, dtype=np.float32)[None, :] / width
    y = np.arange(height, dtype=np.float32)[:, None] / height
    light = np.ones((height, width), dtype=np.float32)
    for _ in range(int(generator.integers(1, _CREASES + 1))):
        # Folds run roughly along the sides.
        angle = generator.integers(0, 2) * math.pi / 2 + generator.uniform(-0.2, 0.2)
        through = generator.uniform(0.15, 0.85, 2)
        distance = (x - through[0]) * math.cos(angle) + (y - through[1]) * math.sin(angle)
        depth = strength * _CREASE_DEPTH * generator.uniform(0.3, 1.0)
        narrow, wide = max(generator.uniform(0.001, 0.003), 0.5 / max(height, width)), generator.uniform(0.02, 0.08)
        light -= depth * np.exp(-0.5 * (distance / narrow) ** 2)
        light += 0.3 * depth * np.sign(distance) * np.exp(-np.abs(distance) / wide)
    return np.maximum(light, 0.1)


def _shadow(shape: tuple[int, int], generator: np.random.Generator, strength: float) -> np.ndarray:
    """Light field, coarse, that falls off to one side, or with a shadow that has a soft edge."""
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
    turn, saturation = strength * generator.uniform(-1.0, 1.0, 2) * (_HUE, _SATURATION)
    same = np.arange(256)
    table = np.stack([(same + round(turn / 2.0)) % 180, same * (1.0 + saturation), same], axis=-1)  # OpenCV: 180 hues
    hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV)
    hsv = cv2.LUT(hsv, np.clip(np.rint(table), 0, 255).astype(np.uint8)[None])
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)


def _blur(image: np.ndarray, generator: np.random.Generator, strength: float) -> np.ndarray:
    sigma = strength * min(_BLUR, _BLUR_SHARE * min(image.shape[:2])) * generator.uniform(0.0, 1.0)
    return import_cv2().GaussianBlur(image, (0, 0), sigma) if sigma > 0.1 else image


def _noise(image: np.ndarray, generator: np.random.Generator, strength: float) -> np.ndarray:
    cv2 = import_cv2()
    noise = np.empty(image.shape, dtype=np.int16)
    # OpenCV's own generator is several times faster than NumPy's; seeded, it draws the same everywhere.
    cv2.setRNGSeed(int(generator.integers(2**31)))
    cv2.randn(noise, 0.0, strength * _NOISE * generator.uniform(0.1, 1.0))
    return cv2.add(image, noise, dtype=cv2.CV_8U)


def _jpeg(image: np.ndarray, generator: np.random.Generator, strength: float) -> np.ndarray:
    cv2 = import_cv2()
    quality = max(round(95 - strength * (95 - _WORST_JPEG) * generator.uniform(0.0, 1.0)), 5)
    _, data = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])
    return np.ascontiguousarray(cv2.imdecode(data, cv2.IMREAD_COLOR)[..., ::-1])
