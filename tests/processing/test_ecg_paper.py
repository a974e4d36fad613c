"""ECG paper: every sample at its place, and nothing on the page that is not in the recording."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clear_hug_hf.data.records import read_record
from clear_hug_hf.processing import STANDARD_LEADS, InputError, arrange_leads, ecg_paper
from clear_hug_hf.processing.ecg_paper import LAYOUTS, EcgPage, PaperStyle, draw_page, render_page


RATE = 250.0
BARE = PaperStyle(grid=False, lead_names=False, page_text=False, calibration_pulse=False)
COLUMNS = {"3x4": 4, "6x2": 2, "12x1": 1}
SIZES = [(224, 224), (336, 336), None]


def _sines(num_samples: int = 2500, rate: float = RATE) -> np.ndarray:
    seconds = np.arange(num_samples) / rate
    return np.stack([0.4 * np.sin(2 * np.pi * 0.7 * seconds + lead) for lead in range(12)])


def _ink(page: EcgPage) -> np.ndarray:
    """How dark each pixel is, 0 to 1."""
    return 1.0 - page.image.min(axis=2) / 255.0


def _around(ink: np.ndarray, position: np.ndarray) -> float:
    """The darkest of the pixels that touch a position, which must lie on the picture."""
    x, y = position
    assert -0.5 <= x <= ink.shape[1] - 0.5
    assert -0.5 <= y <= ink.shape[0] - 0.5
    rows, columns = (slice(max(int(np.floor(value)), 0), int(np.floor(value)) + 2) for value in (y, x))
    return float(ink[rows, columns].max())


# ------------------------------------------------------------------------------------------------------- the places


@pytest.mark.parametrize("layout", LAYOUTS)
def test_when_a_page_is_drawn_then_a_second_is_25_mm_and_a_millivolt_10_mm(layout: str) -> None:
    signals = np.zeros((12, 2500))
    signals[:, 1::2] = 1.0
    for size in ({"image_size": (256, 300)}, {"pixels_per_mm": 2.0}):
        page = draw_page(signals, RATE, layout=layout, **size)
        scale_x, scale_y = page.pixels_per_mm
        for lead in range(12):
            places = page.positions[lead][page.drawn[lead] & np.isfinite(page.positions[lead, :, 0])]
            np.testing.assert_allclose(np.diff(places[:, 0]), 25.0 * scale_x / RATE, atol=1e-3)
            np.testing.assert_allclose(np.abs(np.diff(places[:, 1])), 10.0 * scale_y, atol=1e-3)
            # 0 mV lies on a line of the grid, and the border of a pixel at -0.5.
            millimeters = (places[0, 1] + 0.5) / scale_y
            assert millimeters == pytest.approx(round(millimeters), abs=1e-3)
    fast = draw_page(signals, RATE, layout=layout, pixels_per_mm=2.0, paper_speed=50.0, gain=5.0)
    first = fast.positions[0, :2]
    np.testing.assert_allclose(first[1] - first[0], np.array([50.0 / RATE, -5.0]) * fast.pixels_per_mm, atol=1e-3)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_when_a_layout_is_drawn_then_each_lead_has_its_own_time_and_place(layout: str) -> None:
    page = draw_page(_sines(), RATE, layout=layout, image_size=(256, 256))
    columns = COLUMNS[layout]
    part = 2500 // columns
    for lead in range(12):
        column = lead * columns // 12
        there = np.isfinite(page.positions[lead, :, 0])
        np.testing.assert_array_equal(np.flatnonzero(there), np.arange(column * part, (column + 1) * part))
        # Time runs on from column to column, and a row's leads share a baseline.
        first, beside = page.positions[lead % (12 // columns), 0], page.positions[lead, column * part]
        assert beside[0] - first[0] == pytest.approx(column * part / RATE * 25.0 * page.pixels_per_mm[0], abs=1e-3)
    rows = [np.nanmean(page.positions[lead, :, 1]) for lead in range(12 // columns)]
    assert (np.diff(rows) > 0).all()
    if layout == "3x4":
        assert page.strip_positions is not None
        assert np.isfinite(page.strip_positions).all()
        assert page.strip_positions[:, 1].min() > np.nanmax(page.positions[..., 1])
        assert page.drawn[1].all()
    else:
        assert page.strip_positions is None
    assert page.drawn.sum() == (12 * part if layout != "3x4" else 11 * part + 2500)
    assert page.positions.dtype == np.float32


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_when_a_lead_has_a_spike_of_one_sample_then_it_is_at_its_position(
    layout: str, size: tuple[int, int] | None
) -> None:
    part = 2500 // COLUMNS[layout]
    for height in (1.0, -1.0):
        signals = np.zeros((12, 2500))
        for column in range(COLUMNS[layout]):
            # The other way than in the column beside it, whose first spike is one sample from the last here.
            signals[:, column * part + np.array([0, part // 3, part - 1])] = height * (-1) ** column
        page = draw_page(signals, RATE, layout=layout, image_size=size, style=BARE)
        ink = _ink(page)
        for lead in range(12):
            samples = np.flatnonzero((signals[lead] != 0) & np.isfinite(page.positions[lead, :, 0]))
            assert len(samples) == 3
            for sample in samples:
                tip = page.positions[lead, sample]
                assert _around(ink, tip) > 0.3
                halfway = tip + np.array([0.0, 5.0 * signals[lead, sample] * page.pixels_per_mm[1]])
                assert _around(ink, halfway) > 0.3
        if page.strip_positions is not None:
            assert min(_around(ink, tip) for tip in page.strip_positions[signals[1] != 0]) > 0.3


@pytest.mark.parametrize("size", [(224, 224), (400, 300), None])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_when_a_sine_is_drawn_then_the_middle_of_its_trace_is_at_the_positions(
    layout: str, size: tuple[int, int] | None
) -> None:
    page = draw_page(_sines(), RATE, layout=layout, image_size=size, style=BARE)
    ink = _ink(page)
    errors = []
    for lead in range(12):
        places = page.positions[lead][np.isfinite(page.positions[lead, :, 0])]
        top, bottom = int(places[:, 1].min()) - 3, int(places[:, 1].max()) + 4
        rows = np.arange(top, bottom)
        for column in range(int(places[0, 0]) + 3, int(places[-1, 0]) - 2):
            dark = ink[top:bottom, column]
            expected = np.interp(column, places[:, 0], places[:, 1])
            errors.append((dark * rows).sum() / dark.sum() - expected)
    assert np.abs(errors).max() < 0.6
    assert abs(np.mean(errors)) < 0.05


def test_when_nothing_but_a_trace_is_drawn_then_no_other_pixel_is_dark() -> None:
    page = draw_page(_sines(), RATE, layout="12x1", style=BARE)
    allowed = np.zeros(page.image.shape[:2], dtype=bool)
    places = np.rint(page.positions.reshape(-1, 2)).astype(int)
    for x in range(-3, 4):
        for y in range(-3, 4):
            allowed[places[:, 1] + y, places[:, 0] + x] = True
    assert not _ink(page)[~allowed].any()


def test_when_a_trace_leaves_the_page_then_its_positions_stay_true() -> None:
    signals = np.zeros((12, 2500))
    signals[0, 300:400] = 50.0
    signals[7, 1300:1400] = 1e6
    page = draw_page(signals, RATE, image_size=(256, 256), style=BARE)
    assert page.positions[0, 299, 1] - page.positions[0, 300, 1] == pytest.approx(
        500 * page.pixels_per_mm[1], rel=1e-4
    )
    # It is drawn up to the edge, and comes back.
    column = round(float(page.positions[0, 300, 0]))
    assert _ink(page)[: int(page.positions[0, 299, 1]), column].min() > 0.1
    assert _around(_ink(page), page.positions[0, 500]) > 0.3


# -------------------------------------------------------------------------------------------------------- the paper


def test_when_a_page_has_a_grid_then_its_lines_are_each_millimeter_and_each_five() -> None:
    blank = np.zeros((12, 2500), dtype=np.float32)
    page = draw_page(blank, RATE, np.zeros(12, dtype=bool), pixels_per_mm=10.0, style=PaperStyle(page_text=False))
    assert page.image.shape == (1500, 2700, 3)
    row = page.image[1503 // 2 + 3, :, 1].astype(int)
    darkness = 255 - row
    # Lines are centered on borders of pixels here.
    lines = darkness[10 - 1 :: 10][:200]
    assert (lines > 20).all()
    strong = np.flatnonzero(lines > 60)
    assert (np.diff(strong) == 5).all()
    assert (strong + 1)[0] % 5 == 0
    assert (darkness[5::10] == 0).all()


@pytest.mark.parametrize("scale", [0.9, 1.3, 3.7, 8.0])
def test_when_a_grid_is_coarse_or_fine_then_its_tone_is_the_share_that_its_lines_cover(scale: float) -> None:
    shares = ecg_paper._line_coverage(2000, scale, 0.3, 1.0, 0.1)
    assert shares.mean() == pytest.approx(0.1, rel=0.02)
    assert shares.max() <= 1.0


def test_when_a_page_begins_with_a_pulse_then_it_is_one_millivolt_and_a_fifth_of_a_second() -> None:
    style = PaperStyle(grid=False, lead_names=False, page_text=False)
    blank = np.zeros((12, 2500))
    page = draw_page(blank, RATE, np.zeros(12, dtype=bool), layout="12x1", pixels_per_mm=10.0, style=style)
    rows, columns = np.nonzero(_ink(page)[:290] > 0.5)  # above the second row's
    assert rows.max() - rows.min() == pytest.approx(100, abs=4)
    flat = np.bincount(columns, minlength=200)
    left, right = np.flatnonzero(flat > 50)[[0, -1]]
    assert right - left == pytest.approx(50, abs=4)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_when_a_lead_is_missing_then_only_its_name_is_there(layout: str) -> None:
    present = np.ones(12, dtype=bool)
    present[[1, 8]] = False
    signals, none, form = _sines(), np.zeros(12, dtype=bool), {"layout": layout, "image_size": (336, 336)}
    page = draw_page(np.where(present[:, None], signals, np.nan), RATE, present, **form)
    whole = draw_page(signals, RATE, **form)
    assert not page.drawn[~present].any()
    assert page.drawn[present].any(axis=1).all()
    if page.strip_positions is not None:
        assert np.isnan(page.strip_positions).all()
    gone = np.rint(whole.positions[8][np.isfinite(whole.positions[8, :, 0])]).astype(int)[20:-20]
    assert whole.image[gone[:, 1], gone[:, 0]].mean() < 128
    named = draw_page(signals, RATE, none, **form)
    np.testing.assert_array_equal(page.image[gone[:, 1], gone[:, 0]], named.image[gone[:, 1], gone[:, 0]])
    unnamed = draw_page(signals, RATE, none, style=PaperStyle(lead_names=False), **form)
    assert (named.image != unnamed.image).any()


def test_when_a_recording_is_short_then_the_rest_is_blank() -> None:
    page = draw_page(_sines(1000), RATE, image_size=(256, 256), style=BARE)  # 4 s
    assert page.positions.shape == (12, 1000, 2)
    assert page.drawn.any(axis=1).tolist() == [True] * 6 + [False] * 6
    np.testing.assert_array_equal(np.flatnonzero(np.isfinite(page.positions[4, :, 0])), np.arange(625, 1000))
    assert page.strip_positions is not None
    end = page.strip_positions[-1, 0]
    assert not _ink(page)[:, int(end) + 3 :].any()
    whole = draw_page(_sines(), RATE, image_size=(256, 256), style=BARE)
    np.testing.assert_array_equal(page.positions[:4], whole.positions[:4, :1000])


def test_when_a_page_is_squashed_then_all_of_it_is_there() -> None:
    styles = [PaperStyle(), *(PaperStyle.draw(np.random.default_rng(seed)) for seed in range(8))]
    for style in styles:
        for layout in LAYOUTS:
            page = draw_page(_sines(), RATE, layout=layout, image_size=(224, 300), style=style)
            assert page.image.shape == (224, 300, 3)
            assert page.image.dtype == np.uint8
            places = page.positions[np.isfinite(page.positions[..., 0])]
            assert (places.min(axis=0) >= 0).all()
            assert (places.max(axis=0) <= [299, 223]).all()
            assert page.pixels_per_mm[0] != page.pixels_per_mm[1]


def test_when_two_pages_are_drawn_then_the_first_is_not_changed() -> None:
    first = draw_page(_sines(), RATE, image_size=(256, 256))
    kept = first.image.copy()
    first.image[:10] = 0  # what is done to a page must not show on the next
    again = draw_page(_sines(), RATE, image_size=(256, 256))
    np.testing.assert_array_equal(again.image, kept)


def test_when_styles_are_drawn_then_seeds_decide_and_all_kinds_come() -> None:
    draws = [PaperStyle.draw(np.random.default_rng(seed)) for seed in range(300)]
    assert draws[7] == PaperStyle.draw(np.random.default_rng(7))
    assert len(set(draws)) == 300
    assert 0.05 < np.mean([not style.grid for style in draws]) < 0.17
    assert 0.13 < np.mean([len(set(style.major_color)) == 1 for style in draws]) < 0.28
    for style in draws:
        assert max(style.trace_color[:2]) <= 52
        assert min(style.paper_color) >= 230


def test_when_a_style_is_black_and_white_then_the_page_has_no_color() -> None:
    style = PaperStyle.draw(np.random.default_rng(3)).in_black_and_white()
    image = draw_page(_sines(), RATE, image_size=(256, 256), style=style).image
    assert (image == image[..., :1]).all()


# ---------------------------------------------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"layout": "4x3"}, "choose one of 3x4, 6x2, 12x1"),
        ({"image_size": (63, 256)}, "between 64 and"),
        ({"image_size": (256, 20_000)}, "between 64 and"),
        ({"image_size": (256, 256, 3)}, "height and width"),
        ({"image_size": (256.5, 256)}, "height and width"),
        ({"pixels_per_mm": 0.2}, "between 64 and"),
        ({"pixels_per_mm": 1e12}, "between 64 and"),
        ({"pixels_per_mm": float("nan")}, "must be positive"),
        ({"image_size": (256, 256), "pixels_per_mm": 8.0}, "one of them"),
        ({"paper_speed": 0.0}, "paper_speed"),
        ({"gain": "tall"}, "gain"),
        ({"sampling_rate": -1.0}, "sampling rate"),
        ({"lead_mask": np.ones(8)}, "(12,)"),
        ({"signals": np.zeros((8, 100))}, "12 leads"),
        ({"signals": np.zeros((12, 0))}, "12 leads"),
        ({"signals": np.zeros((12, 2501))}, "10.004 s"),
        ({"signals": np.full((12, 100), np.nan)}, "NaN or Inf"),
        ({"signals": np.full((12, 100), "a")}, "dtype"),
    ],
)
def test_when_a_page_cannot_be_drawn_then_the_error_explains_why(change: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as caught:
        draw_page(**{"signals": np.zeros((12, 100)), "sampling_rate": RATE, **change})
    assert message in str(caught.value)


@pytest.mark.parametrize(
    "change", [{"minor_color": (0, 0, 300)}, {"trace_width": 0.0}, {"margin_top": -1.0}, {"text_size": float("nan")}]
)
def test_when_a_style_is_impossible_then_it_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=next(iter(change))):
        PaperStyle(**change)


# ------------------------------------------------------------------------------------------------ recordings by name


def _known(**kwargs: Any) -> dict[str, Any]:
    return {"sampling_rate": RATE, "lead_names": STANDARD_LEADS, "unit": "mV", "image_size": (256, 256), **kwargs}


def test_when_leads_and_unit_differ_then_the_page_is_the_same() -> None:
    signals = _sines()
    expected = draw_page(signals.astype(np.float32), RATE, image_size=(256, 256))
    order = np.random.default_rng(0).permutation(12)
    names = [STANDARD_LEADS[lead].lower() for lead in order]
    for page in (
        render_page(signals[order], **_known(lead_names=names)),
        render_page(signals * 1000.0, **_known(unit="uV")),
        render_page(signals / 1000.0, **_known(unit=["V"] * 12)),
        render_page(signals / 0.2, **_known(unit="NU", millivolts_per_unit=0.2)),
    ):
        np.testing.assert_allclose(page.positions, expected.positions, atol=1e-3)
        assert np.abs(page.image.astype(int) - expected.image).mean() < 0.05


@pytest.mark.parametrize("unit", [{"unit": "mV"}, {"unit": "NU", "millivolts_per_unit": 1.0}], ids=["mV", "NU"])
def test_when_leads_are_absent_or_inverted_then_the_page_shows_what_leads_are_arranged_to(unit: dict) -> None:
    names = ["I", "-II", "V1"]
    signals = _sines()[[0, 1, 6]].astype(np.float32)
    arranged, present = arrange_leads(signals, names, derive=unit["unit"] != "NU")
    expected = draw_page(arranged, RATE, present, image_size=(256, 256))
    page = render_page(signals, **_known(lead_names=names, **unit))
    np.testing.assert_array_equal(page.positions, expected.positions)
    np.testing.assert_array_equal(page.image, expected.image)


def test_when_samples_are_nan_then_they_are_repaired_or_their_lead_is_missing() -> None:
    signals = _sines()
    signals[0, 100:110] = np.nan
    signals[9, 500:] = np.inf
    page = render_page(signals, **_known())
    assert np.isfinite(page.positions[0, :625]).all()
    assert np.flatnonzero(~page.drawn.any(axis=1)).tolist() == [9]


def test_when_a_recording_is_long_then_ten_seconds_from_the_start_are_drawn() -> None:
    signals = _sines(6000)
    page = render_page(signals, **_known(start_seconds=7.2))
    expected = draw_page(signals[:, 1800:4300].astype(np.float32), RATE, image_size=(256, 256))
    np.testing.assert_array_equal(page.positions, expected.positions)
    end = render_page(signals, **_known(start_seconds=22.0))
    assert end.positions.shape == (12, 500, 2)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"waveform": np.zeros(2500)}, "(leads, samples)"),
        ({"lead_names": ["I"]}, "one name per row"),
        ({"lead_names": [*STANDARD_LEADS[:11], "V9x"]}, "unknown lead name"),
        ({"unit": ["mV"]}, "one for each of the 12 leads, got 1"),
        ({"unit": "furlong"}, "unknown unit"),
        ({"sampling_rate": None}, "sampling rate"),
        ({"unit": "V"}, "the unit is probably mV instead of V"),
        ({"unit": "uV"}, "the unit is probably mV instead of uV"),
        ({"unit": "NU"}, "millivolts_per_unit must be set"),
        ({"millivolts_per_unit": 0.2}, "remove it"),
        ({"waveform": np.full((12, 2500), np.nan)}, "every lead"),
        ({"waveform": np.where(np.arange(2500) == 5, np.nan, _sines()), "do_repair": False}, "do_repair"),
        *[({"start_seconds": start}, "the duration of the recording (10 s)") for start in (10.0, -1.0, float("nan"))],
    ],
)
def test_when_a_recording_cannot_be_read_then_the_error_explains_why(change: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as caught:
        render_page(**{"waveform": _sines(), **_known(), **change})
    assert message in str(caught.value)


@pytest.mark.parametrize("record", ["ludb/data/11", "ptb/s0010_re", "challenge/A0001"])
def test_when_a_real_recording_is_drawn_then_its_trace_is_dark_all_along(shared: Path, record: str) -> None:
    if not (path := shared / "data" / record).with_suffix(".hea").is_file():
        pytest.skip(f"{record} is not among the shared recordings")
    inputs = read_record(path).as_inputs()
    waveform = inputs.pop("waveforms")
    for layout in LAYOUTS:
        page = render_page(waveform, **inputs, layout=layout)
        places = np.rint(page.positions[np.isfinite(page.positions[..., 0])]).astype(int)
        height, width = page.image.shape[:2]
        inside = (places >= 0).all(axis=1) & (places < [width, height]).all(axis=1)
        assert inside.mean() > 0.99
        assert np.quantile(page.image[places[inside, 1], places[inside, 0]].max(axis=1), 0.99) < 130
