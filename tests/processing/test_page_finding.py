"""Pages are found in scans and photographs, and what is no page is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from clear_hug_hf.data.records import read_record
from clear_hug_hf.processing import LAYOUTS, InputError, PaperStyle, augment_page, find_page, load_page, render_page
from clear_hug_hf.processing.ecg_paper import import_cv2


SCANS = ("HB1", "MI1", "Normal1", "PMI1")


def _page(shared: Path, layout: str = "3x4", style: PaperStyle | None = None) -> np.ndarray:
    inputs = read_record(shared / "data" / "ptb" / "s0010_re").as_inputs()
    page = render_page(inputs.pop("waveforms"), **inputs, layout=layout, pixels_per_mm=4, style=style or PaperStyle())
    return page.image


@pytest.mark.parametrize("layout", LAYOUTS)
def test_when_a_page_fills_the_picture_then_it_stays_as_it_is(shared: Path, layout: str) -> None:
    page = _page(shared, layout)
    result = find_page(page)
    assert result.image.shape == page.shape
    assert np.array_equal(result.image, page)
    assert result.rotation == 0
    assert result.traces > 0.9


def test_when_a_page_lies_askew_on_a_table_then_its_corners_are_found_and_it_is_straightened(shared: Path) -> None:
    cv2 = import_cv2()
    page = _page(shared)
    height, width = page.shape[:2]
    corners = np.array([[180, 140], [1240, 90], [1290, 800], [120, 730]], dtype=np.float32)
    edges = np.array([[0, 0], [width - 1, 0], [width - 1, height - 1], [0, height - 1]], dtype=np.float32)
    matrix = cv2.getPerspectiveTransform(edges, corners)
    table = np.full((900, 1400, 3), (90, 70, 60), dtype=np.uint8)
    photograph = cv2.warpPerspective(page, matrix, (1400, 900), dst=table, borderMode=cv2.BORDER_TRANSPARENT)
    result = find_page(photograph)
    assert np.abs(result.corners - corners).max() < 12
    small = [cv2.resize(item, (270, 150), interpolation=cv2.INTER_AREA).astype(float) for item in (result.image, page)]
    assert np.corrcoef(small[0].ravel(), small[1].ravel())[0, 1] > 0.6, "the same traces at the same places"
    elsewhere = np.roll(small[1], 6, axis=0)
    assert np.corrcoef(small[0].ravel(), elsewhere.ravel())[0, 1] < 0.5


@pytest.mark.parametrize("name", SCANS)
def test_when_a_scan_has_a_letterhead_then_the_printed_panel_is_the_page(shared: Path, name: str) -> None:
    result = find_page(load_page(shared / "data" / "ecg_images" / f"{name}.jpg"))
    # The white panel inside the tinted frame, as it can be measured in the pictures.
    expected = np.array([[73, 289], [2171, 289], [2171, 1507], [73, 1507]])
    assert np.abs(result.corners - expected).max() < 12
    assert result.traces > 0.8


def test_when_a_picture_lies_on_its_side_then_traces_run_from_left_to_right_again(shared: Path) -> None:
    page = _page(shared)
    for quarter in (1, 3):
        result = find_page(np.ascontiguousarray(np.rot90(page, quarter)))
        assert result.rotation in (90, 270)
        assert result.image.shape == page.shape
        # Which way up is a guess, which holds for this recording.
        assert np.array_equal(result.image, page)
        assert result.corners[0].tolist() == ([0, page.shape[1] - 1] if quarter == 1 else [page.shape[0] - 1, 0])


def test_when_pages_are_photographed_in_every_style_then_nearly_all_are_found(shared: Path) -> None:
    refused = 0
    for seed in range(12):
        generator = np.random.default_rng(seed)
        page = _page(shared, LAYOUTS[seed % 3], PaperStyle.draw(generator))
        try:
            find_page(augment_page(page, generator))
        except InputError:
            refused += 1
    assert refused <= 1


def _not_pages() -> dict[str, np.ndarray]:
    cv2 = import_cv2()
    generator = np.random.default_rng(0)
    white = np.full((600, 800, 3), 255, dtype=np.uint8)
    text, ruled = white.copy(), white.copy()
    for line in range(19):
        cv2.putText(text, f"{line} No patient was harmed in this line", (20, 30 + 30 * line), 0, 0.9, (0, 0, 0), 2)
        cv2.line(ruled, (0, 15 + 30 * line), (799, 15 + 30 * line), (0, 0, 0), 1)
    noise = generator.integers(0, 256, (600, 800, 3)).astype(np.uint8)
    return {
        "white": white,
        "black": np.zeros_like(white),
        "noise": noise,
        "clouds": cv2.GaussianBlur(noise, (0, 0), 8),
        "a gradient": np.broadcast_to(np.linspace(0, 255, 800).astype(np.uint8)[None, :, None], white.shape).copy(),
        "a letter": text,
        "ruled paper": ruled,
    }


@pytest.mark.parametrize("name", ["white", "black", "noise", "clouds", "a gradient", "a letter", "ruled paper"])
def test_when_a_picture_is_no_page_then_it_is_refused(name: str) -> None:
    with pytest.raises(InputError, match="does not look like an ECG page"):
        find_page(_not_pages()[name])
