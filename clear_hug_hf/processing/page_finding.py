"""
Finding the ECG page in a picture: where the sheet is, which way up, and whether there is an ECG on it at all.

A photograph shows a sheet on a table, a scan a printed panel inside a letterhead. Models read what they were trained
on, a page from edge to edge: so the brightest large quadrilateral is straightened to a rectangle, if there is one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from .ecg_paper import import_cv2
from .errors import InputError


WORKING_SIZE = 1000
"""Longer side at which pages are looked for [px]."""
MIN_SHEET, MAX_SHEET = 0.2, 0.97
"""Share of a picture that a sheet inside it fills; what fills more is the picture itself."""
MIN_TRACE_WIDTH = 0.08
"""Shortest piece of a trace, as a share of the page's width: words and lead names are shorter."""
MIN_COVERED = 0.5
"""Share of the page's width over which there must be traces."""
MAX_INK = 0.2
"""Share of a page that ink can cover: more is a texture."""
MIN_ASPECT = 1.15
"""Height over width from which a page is taken to lie on its side."""


@dataclass(frozen=True)
class FoundPage:
    """
    The page of a picture.

    Args:
        image (`np.ndarray` of shape `(height, width, 3)`): The page from edge to edge, uint8 [RGB].
        corners (`np.ndarray` of shape `(4, 2)`): Where its upper left, upper right, lower right and lower left corners
            are in the picture, x and y [px], float32.
        rotation (`int`): By how much the picture was turned, clockwise: 0, 90 or 270 [degrees].
        traces (`float`): Share of the page's width over which there are traces.
    """

    image: np.ndarray
    corners: np.ndarray
    rotation: int
    traces: float


def find_page(image: np.ndarray) -> FoundPage:
    """
    Find the ECG page in a picture and straighten it.

    A page that lies on its side is turned such that its traces run from left to right, the way that most deflections
    point up. A page that stands on its head is not noticed: a picture does not tell it from one with negative leads.

    Args:
        image (`np.ndarray` of shape `(height, width, 3)`): The picture, uint8 [RGB].

    Raises:
        InputError: If there is nothing like an ECG page in it.
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
        turned = {90: np.ascontiguousarray(np.rot90(page, -1)), 270: np.ascontiguousarray(np.rot90(page, 1))}
        rotation = max(turned, key=lambda angle: _upwards(cv2, turned[angle]))
        page = turned[rotation]
        # Of a page turned clockwise by 90 degrees the upper left corner was the lower left one.
        corners = np.roll(corners, 1 if rotation == 90 else -1, axis=0)
    traces = _check_traces(cv2, page)
    return FoundPage(page, corners.astype(np.float32), rotation, traces)


def _find_sheet(cv2: Any, small: np.ndarray) -> np.ndarray | None:
    """Corners of the brightest large quadrilateral inside a picture, if there is one."""
    # Of the darkest color: white paper stands out from tinted frames and tables.
    gray = small.min(axis=2)
    # What is printed on the sheet is filled in; a grid of another color too.
    side = max(3, round(max(gray.shape) * 0.03)) | 1
    filled = cv2.morphologyEx(gray, cv2.MORPH_CLOSE, cv2.getStructuringElement(cv2.MORPH_RECT, (side, side)))
    filled = cv2.GaussianBlur(filled, (5, 5), 0)
    _, bright = cv2.threshold(filled, 0, 255, cv2.THRESH_BINARY + cv2.THRESH_OTSU)
    inside, outside = filled[bright > 0], filled[bright == 0]
    # A sheet without a table has no two kinds of brightness.
    if not len(inside) or not len(outside) or float(inside.mean()) - float(outside.mean()) < 25:
        return None
    contours, _ = cv2.findContours(bright, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    largest = max(contours, key=cv2.contourArea)
    hull = cv2.convexHull(largest)
    area = float(cv2.contourArea(hull))
    if not MIN_SHEET < area / gray.size < MAX_SHEET:
        return None
    for share in (0.01, 0.02, 0.03, 0.05):
        found = cv2.approxPolyDP(hull, share * cv2.arcLength(hull, True), True).reshape(-1, 2)
        if len(found) == 4:
            break
    else:
        found = cv2.boxPoints(cv2.minAreaRect(hull))
    found = found.astype(np.float32)
    # A quadrilateral that holds much besides the sheet, or lacks part of it, is none.
    if not 0.9 < area / max(float(cv2.contourArea(found)), 1.0) < 1.1:
        return None
    if float(cv2.contourArea(largest)) < 0.85 * area:
        return None
    return _in_order(found)


def _in_order(corners: np.ndarray) -> np.ndarray:
    """Four corners from the upper left one on, clockwise."""
    middle = corners.mean(axis=0)
    angles = np.arctan2(corners[:, 1] - middle[1], corners[:, 0] - middle[0])
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
    """Where there are thin dark lines: traces and writing, not the grid, whose color is bright in one channel."""
    scale = WORKING_SIZE / page.shape[1]
    size = (WORKING_SIZE, max(1, round(page.shape[0] * scale)))
    value = cv2.resize(page, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR).max(axis=2)
    value = cv2.GaussianBlur(value, (5, 5), 0)  # noise is no ink
    kernel = cv2.getStructuringElement(cv2.MORPH_RECT, (21, 21))
    lines = cv2.morphologyEx(value, cv2.MORPH_BLACKHAT, kernel)
    # Against what is darkest on this page: pale pens, blur and dim light are no reason to refuse one. Faint lines
    # count where they go on from dark ones.
    darkest = float(np.quantile(lines, 0.998))
    faint = (lines > max(15.0, 0.25 * darkest)).astype(np.uint8)
    count, places = cv2.connectedComponents(faint, connectivity=8)
    dark = np.zeros(count, dtype=bool)
    dark[np.unique(places[lines > max(25.0, 0.5 * darkest)])] = True
    dark[0] = False
    return dark[places].astype(np.uint8)


def _traces(cv2: Any, ink: np.ndarray) -> list[tuple[int, int, np.ndarray]]:
    """Pieces of traces: first and last column, and the mask of each."""
    joined = cv2.morphologyEx(ink, cv2.MORPH_CLOSE, cv2.getStructuringElement(cv2.MORPH_RECT, (7, 5)))
    count, places, stats, _ = cv2.connectedComponentsWithStats(joined, connectivity=8)
    found = []
    for number in range(1, count):
        left, top, width, height, area = stats[number]
        # Lines, not blots: a piece as wide as this one covers little of its box, or is low.
        if width < MIN_TRACE_WIDTH * ink.shape[1] or area > max(0.5 * width * height, 12.0 * width):
            continue
        found.append((left, left + width, places[top : top + height, left : left + width] == number))
    return found


def _check_traces(cv2: Any, page: np.ndarray) -> float:
    ink = _ink(cv2, page)
    share = float(ink.mean())
    covered = np.zeros(ink.shape[1], dtype=bool)
    wiggling = 0
    for left, right, mask in _traces(cv2, ink):
        covered[left:right] = True
        # A ruler's line is flat: a trace moves by more than its own width.
        wiggling += mask.shape[0] > 8
    traces = float(covered.mean())
    if share > MAX_INK:
        raise InputError(
            f"the picture does not look like an ECG page: thin dark lines cover {share:.0%} of it, as of a texture"
        )
    if traces < MIN_COVERED or not wiggling:
        raise InputError(
            f"the picture does not look like an ECG page: traces were found over {traces:.0%} of its width, and a "
            f"page has them over {MIN_COVERED:.0%} at least; cut the picture to the page, or take a sharper one"
        )
    return traces


def _upwards(cv2: Any, page: np.ndarray) -> float:
    """
    By how much the traces of a page reach further up than down [px at the working size]: P, R and T waves mostly
    point up.
    """
    total = 0.0
    for _, _, mask in _traces(cv2, _ink(cv2, page)):
        rows = np.arange(mask.shape[0])[:, None]
        counts = mask.sum(axis=0)
        # The middle of the line in each column; where columns are empty the trace was joined over a gap.
        middles = (mask * rows).sum(axis=0)[counts > 0] / counts[counts > 0]
        total += float((np.median(middles) - middles).sum()) / WORKING_SIZE
    return total
