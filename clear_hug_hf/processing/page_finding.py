"""
Localization of the ECG page in an image: its position, its orientation, and whether it shows an ECG.

A photograph may show a sheet on a table, and a scan a panel within a form, whereas models are trained on pages without
a margin. The brightest large quadrilateral, if any, is rectified.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from .ecg_paper import import_cv2
from .errors import InputError


WORKING_SIZE = 1000
"""Longer side of the downscaled image in which the page is located [px]."""
MIN_SHEET, MAX_SHEET = 0.2, 0.97
"""Minimum and maximum fraction of the image that a sheet covers. A larger one is the entire image."""
MIN_TRACE_WIDTH = 0.08
"""Minimum length of a trace segment, as a fraction of the page width. Text and lead names are shorter."""
MIN_COVERED = 0.5
"""Minimum fraction of the page width that traces cover."""
MAX_INK = 0.2
"""Maximum fraction of the page that ink covers. More indicates a texture."""
MIN_ASPECT = 1.15
"""Minimum ratio of height and width of a page that is rotated by 90 degrees."""


@dataclass(frozen=True)
class FoundPage:
    """
    Page of an image.

    Args:
        image (`np.ndarray` of shape `(height, width, 3)`): Rectified page, uint8 [RGB].
        corners (`np.ndarray` of shape `(4, 2)`): x and y of the upper left, upper right, lower right and lower left
            corner of the page in the image [px], float32.
        rotation (`int`): Clockwise rotation that was applied: 0, 90 or 270 [degrees].
        traces (`float`): Fraction of the page width that traces cover.
    """

    image: np.ndarray
    corners: np.ndarray
    rotation: int
    traces: float


def find_page(image: np.ndarray) -> FoundPage:
    """
    Locate the ECG page in an image and rectify it.

    A page in portrait orientation is rotated by 90 or 270 degrees such that most deflections point up. A page that is
    upside down is not recognized, since it cannot be distinguished from one with negative leads.

    Args:
        image (`np.ndarray` of shape `(height, width, 3)`): Image, uint8 [RGB].

    Raises:
        InputError: If no ECG page is found.
        ImportError: If OpenCV is not installed.
    """
    cv2 = import_cv2()
    height, width = image.shape[:2]
    scale = min(1.0, WORKING_SIZE / max(height, width))
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    corners = _find_sheet(cv2, cv2.resize(image, size, interpolation=cv2.INTER_AREA))
    if corners is None:
        corners = np.array([[0, 0], [width - 1, 0], [width - 1, height - 1], [0, height - 1]], dtype=np.float32)
        page = image
    else:
        corners = (corners + 0.5) / scale - 0.5
        page = _straighten(cv2, image, corners)
    rotation = 0
    if page.shape[0] > MIN_ASPECT * page.shape[1]:
        rotated = {90: np.ascontiguousarray(np.rot90(page, -1)), 270: np.ascontiguousarray(np.rot90(page, 1))}
        rotation = max(rotated, key=lambda angle: _upward_deflection(cv2, rotated[angle]))
        page = rotated[rotation]
        # A clockwise rotation by 90 degrees moves the lower left corner to the upper left.
        corners = np.roll(corners, 1 if rotation == 90 else -1, axis=0)
    traces = _check_traces(cv2, page)
    return FoundPage(page, corners.astype(np.float32), rotation, traces)


def _find_sheet(cv2: Any, small: np.ndarray) -> np.ndarray | None:
    """Corners of the brightest large quadrilateral in an image, if any."""
    # The minimum over the color channels separates white paper from colored surroundings.
    gray = small.min(axis=2)
    # Close the printing on the sheet, including a colored grid.
    side = max(3, round(max(gray.shape) * 0.03)) | 1
    filled = cv2.morphologyEx(gray, cv2.MORPH_CLOSE, cv2.getStructuringElement(cv2.MORPH_RECT, (side, side)))
    filled = cv2.GaussianBlur(filled, (5, 5), 0)
    _, bright = cv2.threshold(filled, 0, 255, cv2.THRESH_BINARY + cv2.THRESH_OTSU)
    inside, outside = filled[bright > 0], filled[bright == 0]
    # Without a background, there are no two levels of brightness.
    if not len(inside) or not len(outside) or float(inside.mean()) - float(outside.mean()) < 25:
        return None
    contours, _ = cv2.findContours(bright, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    largest = max(contours, key=cv2.contourArea)
    hull = cv2.convexHull(largest)
    area = float(cv2.contourArea(hull))
    if not MIN_SHEET < area / gray.size < MAX_SHEET:
        return None
    for tolerance in (0.01, 0.02, 0.03, 0.05):
        corners = cv2.approxPolyDP(hull, tolerance * cv2.arcLength(hull, True), True).reshape(-1, 2)
        if len(corners) == 4:
            break
    else:
        corners = cv2.boxPoints(cv2.minAreaRect(hull))
    corners = corners.astype(np.float32)
    # Reject quadrilaterals that do not match the area of the sheet.
    if not 0.9 < area / max(float(cv2.contourArea(corners)), 1.0) < 1.1:
        return None
    if float(cv2.contourArea(largest)) < 0.85 * area:
        return None
    return _sort_corners(corners)


def _sort_corners(corners: np.ndarray) -> np.ndarray:
    """Sort four corners clockwise, starting with the upper left one."""
    center = corners.mean(axis=0)
    angles = np.arctan2(corners[:, 1] - center[1], corners[:, 0] - center[0])
    ordered = corners[np.argsort(angles)]
    return np.roll(ordered, -int(np.argmin(ordered.sum(axis=1))), axis=0)


def _straighten(cv2: Any, image: np.ndarray, corners: np.ndarray) -> np.ndarray:
    upper_left, upper_right, lower_right, lower_left = corners
    width = max(np.linalg.norm(upper_right - upper_left), np.linalg.norm(lower_right - lower_left))
    height = max(np.linalg.norm(lower_left - upper_left), np.linalg.norm(lower_right - upper_right))
    columns, rows = max(2, round(float(width)) + 1), max(2, round(float(height)) + 1)
    target = np.array([[0, 0], [columns - 1, 0], [columns - 1, rows - 1], [0, rows - 1]], dtype=np.float32)
    matrix = cv2.getPerspectiveTransform(corners.astype(np.float32), target)
    return cv2.warpPerspective(image, matrix, (columns, rows), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)


def _ink(cv2: Any, page: np.ndarray) -> np.ndarray:
    """Mask of thin dark lines: traces and text, but not the grid, whose color is bright in one channel."""
    scale = WORKING_SIZE / page.shape[1]
    size = (WORKING_SIZE, max(1, round(page.shape[0] * scale)))
    value = cv2.resize(page, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR).max(axis=2)
    value = cv2.GaussianBlur(value, (5, 5), 0)  # suppresses noise
    kernel = cv2.getStructuringElement(cv2.MORPH_RECT, (21, 21))
    lines = cv2.morphologyEx(value, cv2.MORPH_BLACKHAT, kernel)
    # Thresholds relative to the darkest lines, for pale pens, blur and dim light. Faint lines count only if they are
    # connected to dark ones.
    darkest = float(np.quantile(lines, 0.998))
    faint = (lines > max(15.0, 0.25 * darkest)).astype(np.uint8)
    count, labels = cv2.connectedComponents(faint, connectivity=8)
    dark = np.zeros(count, dtype=bool)
    dark[np.unique(labels[lines > max(25.0, 0.5 * darkest)])] = True
    dark[0] = False
    return dark[labels].astype(np.uint8)


def _traces(cv2: Any, ink: np.ndarray) -> list[tuple[int, int, np.ndarray]]:
    """First and last column and mask of each trace segment."""
    joined = cv2.morphologyEx(ink, cv2.MORPH_CLOSE, cv2.getStructuringElement(cv2.MORPH_RECT, (7, 5)))
    count, labels, stats, _ = cv2.connectedComponentsWithStats(joined, connectivity=8)
    segments = []
    for label in range(1, count):
        left, top, width, height, area = stats[label]
        # Unlike blobs, lines cover a small part of their bounding box or are low.
        if width < MIN_TRACE_WIDTH * ink.shape[1] or area > max(0.5 * width * height, 12.0 * width):
            continue
        segments.append((left, left + width, labels[top : top + height, left : left + width] == label))
    return segments


def _check_traces(cv2: Any, page: np.ndarray) -> float:
    ink = _ink(cv2, page)
    ink_fraction = float(ink.mean())
    covered = np.zeros(ink.shape[1], dtype=bool)
    num_curved = 0
    for left, right, mask in _traces(cv2, ink):
        covered[left:right] = True
        # A ruled line is flat, whereas the height of a trace exceeds its line width.
        num_curved += mask.shape[0] > 8
    traces = float(covered.mean())
    if ink_fraction > MAX_INK:
        raise InputError(
            f"the image does not look like an ECG page: thin dark lines cover {ink_fraction:.0%} of it, like a texture"
        )
    if traces < MIN_COVERED or not num_curved:
        raise InputError(
            f"the image does not look like an ECG page: traces cover {traces:.0%} of its width instead of at least "
            f"{MIN_COVERED:.0%}; crop the image to the page, or take a sharper one"
        )
    return traces


def _upward_deflection(cv2: Any, page: np.ndarray) -> float:
    """
    Difference of upward and downward deflections of the traces [px at the working size]. P, R and T waves mostly point
    up.
    """
    total = 0.0
    for _, _, mask in _traces(cv2, _ink(cv2, page)):
        rows = np.arange(mask.shape[0])[:, None]
        counts = mask.sum(axis=0)
        # Center of the line in each column. Columns are empty where gaps were closed.
        centers = (mask * rows).sum(axis=0)[counts > 0] / counts[counts > 0]
        total += float((np.median(centers) - centers).sum()) / WORKING_SIZE
    return total
