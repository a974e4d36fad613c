"""Augmentation of pages: it reports where it moves the page, and keeps within its limits."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from clear_hug_hf.processing import InputError
from clear_hug_hf.processing.ecg_paper import LAYOUTS, EcgPage, PaperStyle, draw_page
from clear_hug_hf.processing.page_augmentation import AUGMENTATIONS, augment_page


RATE = 250.0
SIZE = (256, 300)


def _page(layout: str = "3x4", image_size: tuple[int, int] | None = SIZE, style: PaperStyle | None = None) -> EcgPage:
    seconds = np.arange(2500) / RATE
    signals = np.stack([0.5 * np.sin(2 * np.pi * 0.7 * seconds + lead) for lead in range(12)])
    return draw_page(signals, RATE, layout=layout, image_size=image_size, style=style or PaperStyle())


def _seeded(seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


def _corners(height: int, width: int) -> np.ndarray:
    """Upper left, upper right, lower right, lower left corner of a picture, on the borders of its pixels."""
    return np.array([[0, 0], [width, 0], [width, height], [0, height]], dtype=float) - 0.5


def test_when_the_strength_is_zero_then_nothing_changes() -> None:
    page = _page()
    image, positions = augment_page(page.image, _seeded(0), 0.0, positions=page.positions)
    np.testing.assert_array_equal(image, page.image)
    np.testing.assert_array_equal(positions, page.positions)
    assert image is not page.image
    for name in AUGMENTATIONS:
        np.testing.assert_array_equal(augment_page(page.image, _seeded(0), 0.0, only=name), page.image)


def test_when_seeds_are_equal_then_pictures_are() -> None:
    page = _page()
    kept = page.image.copy()
    pictures = [augment_page(page.image, _seeded(seed)) for seed in range(30)]
    for seed, picture in enumerate(pictures):
        again, positions = augment_page(page.image, _seeded(seed), 1.0, positions=page.positions)
        np.testing.assert_array_equal(again, picture)
        assert positions.shape == page.positions.shape
        assert picture.shape == page.image.shape
        assert picture.dtype == np.uint8
    assert len({picture.tobytes() for picture in pictures}) > 25
    np.testing.assert_array_equal(page.image, kept)


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_when_one_kind_is_asked_for_then_it_is_done_and_grows_with_the_strength(name: str) -> None:
    page = _page()
    changes = []
    for strength in (0.5, 1.0):
        pictures = [augment_page(page.image, _seeded(seed), strength, only=name) for seed in range(12)]
        changes.append(np.mean([np.abs(picture.astype(int) - page.image).mean() for picture in pictures]))
    assert 0.0 < changes[0] < changes[1]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_when_a_page_is_moved_then_the_trace_is_at_the_moved_positions(layout: str) -> None:
    page = _page(layout, (500, 600), PaperStyle(grid=False, lead_names=False, page_text=False))
    for seed in range(6):
        image, positions = augment_page(page.image, _seeded(seed), 1.0, positions=page.positions, only="geometry")
        there = np.isfinite(page.positions[..., 0])
        assert (np.isfinite(positions[..., 0]) == there).all()
        assert np.abs(positions[there] - page.positions[there]).max() > 2.0
        x, y = np.rint(positions[there]).astype(int).T
        darkest = np.min([image[y + dy, x + dx].max(axis=-1) for dx in (-1, 0, 1) for dy in (-1, 0, 1)], axis=0)
        assert (darkest < 170).mean() > 0.99
        # At the old places there is mostly paper.
        old_x, old_y = np.rint(page.positions[there]).astype(int).T
        assert (image[old_y, old_x].max(axis=-1) < 170).mean() < 0.6


@pytest.mark.parametrize("size", [(256, 256), (336, 336), (200, 480)])
def test_when_a_page_is_moved_then_all_of_it_stays_in_the_frame_and_nothing_is_flipped(size: tuple[int, int]) -> None:
    image = np.full((*size, 3), 255, dtype=np.uint8)
    corners = _corners(*size)
    for seed in range(90):
        scale = (1.0, 1.6) if seed % 2 else None
        _, moved = augment_page(image, _seeded(seed), 1.0 + seed % 3 / 2, positions=corners, pixels_per_mm=scale)
        assert (moved >= corners[0] - 0.01).all()
        assert (moved <= corners[2] + 0.01).all()
        along, down = moved[1] - moved[0], moved[3] - moved[0]
        assert along[0] > 0.6 * size[1]
        assert down[1] > 0.6 * size[0]
        assert along[0] * down[1] - along[1] * down[0] > 0


@pytest.mark.parametrize("scale", [(1.0, 1.0), (1.0, 1.6)], ids=["true", "squashed"])
def test_when_a_page_is_rotated_then_by_at_most_five_degrees_and_without_stretching_the_paper(
    scale: tuple[float, float],
) -> None:
    image = np.full((150, 270, 3), 255, dtype=np.uint8)
    corners = _corners(150, 270)
    width, height = np.array([270, 150]) / scale
    given = None if scale == (1.0, 1.0) else scale
    angles = []
    for seed in range(120):
        moved = augment_page(image, _seeded(seed), 1.0, positions=corners, pixels_per_mm=given)[1] / scale
        along, down, beside = moved[1] - moved[0], moved[3] - moved[0], moved[2] - moved[3]
        if np.abs(along - beside).max() > 1e-2:
            continue  # perspective, too
        angles.append(np.degrees(np.arctan2(along[1], along[0])))
        assert along @ down == pytest.approx(0.0, abs=1.0)
        assert np.hypot(*along) / np.hypot(*down) == pytest.approx(width / height, rel=1e-3)
    assert np.abs(angles).max() <= 5.001
    assert min(angles) < -3.0
    assert max(angles) > 3.0
    assert 0.3 < np.mean(np.abs(angles) > 1e-3) < 0.7


def test_when_a_page_is_augmented_then_its_traces_can_still_be_read() -> None:
    page = _page(style=PaperStyle(lead_names=False, page_text=False))
    there = np.isfinite(page.positions[..., 0])
    for seed in range(40):
        image, positions = augment_page(page.image, _seeded(seed), 1.0, positions=page.positions)
        x, y = np.rint(positions[there]).astype(int).T
        gray = image.mean(axis=-1)
        on = np.min([gray[y + dy, x] for dy in (-1, 0, 1)], axis=0)
        off = gray[np.clip(y - 7, 0, SIZE[0] - 1), x]
        assert (off - on).mean() > 25


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image": np.zeros((100, 100), dtype=np.uint8)}, "(height, width, 3)"),
        ({"image": np.zeros((100, 100, 3))}, "uint8"),
        ({"strength": -0.1}, "between 0"),
        ({"strength": float("nan")}, "between 0"),
        ({"positions": np.zeros((12, 3))}, "last dimension"),
        ({"only": "flip"}, "choose one of creases, geometry"),
    ],
)
def test_when_a_page_cannot_be_augmented_then_the_error_explains_why(change: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as caught:
        augment_page(**{"image": np.zeros((100, 100, 3), dtype=np.uint8), "generator": _seeded(0), **change})
    assert message in str(caught.value)
