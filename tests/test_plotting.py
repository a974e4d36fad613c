"""Pictures hold what they claim to show, and refuse what they cannot show."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from clear_hug_hf.plotting import (
    plot_group_activations,
    plot_losses,
    plot_reconstruction,
    plot_recording,
    save_figure,
)
from clear_hug_hf.processing import STANDARD_LEADS, InputError, cut_beats


PEAKS = np.array([40, 120, 205, 290])


@pytest.fixture
def signal() -> np.ndarray:
    seconds = np.arange(400) / 100.0
    since = (seconds[:, None] - PEAKS / 100.0).T
    beats = np.exp(-0.5 * (since / 0.02) ** 2).sum(axis=0)
    return np.linspace(0.5, 1.5, 12)[:, None] * beats + np.random.default_rng(0).normal(0, 0.01, (12, 400))


def _texts(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.axes[0].texts]


def test_when_a_recording_is_drawn_then_the_leads_stand_in_the_clinical_order(signal: np.ndarray) -> None:
    figure = plot_recording(signal, PEAKS)
    leads = [text for text in _texts(figure) if text in STANDARD_LEADS]
    assert leads == ["I", "aVR", "V1", "V4", "II", "aVL", "V2", "V5", "III", "aVF", "V3", "V6", "II"]
    (markers,) = [line for line in figure.axes[0].lines if line.get_marker() == "v"]
    np.testing.assert_allclose(markers.get_xdata(), PEAKS / 100.0)


def test_when_rows_are_asked_for_then_all_leads_show_the_whole_time(signal: np.ndarray) -> None:
    figure = plot_recording(signal, layout="rows")
    assert [text for text in _texts(figure) if text in STANDARD_LEADS] == list(STANDARD_LEADS)
    traces = [line for line in figure.axes[0].lines if len(line.get_xdata()) == 400]
    assert len(traces) == 12
    np.testing.assert_allclose(np.ptp(traces[11].get_ydata()) / np.ptp(traces[0].get_ydata()), 3.0, rtol=0.1)


def test_when_a_lead_is_missing_then_the_picture_says_so(signal: np.ndarray) -> None:
    lead_mask = np.ones(12, dtype=bool)
    lead_mask[7] = False
    assert _texts(plot_recording(signal, lead_mask=lead_mask)).count("not recorded") == 1


def test_when_the_reconstruction_is_perfect_then_it_lies_on_the_recording(signal: np.ndarray) -> None:
    beats, _, _ = cut_beats(signal[None], PEAKS[None], num_beats=5)
    deviation = beats[0].std(axis=2, ddof=1, keepdims=True)
    normalised = (beats[0] - beats[0].mean(axis=2, keepdims=True)) / np.where(deviation > 0, deviation, 1.0)
    hidden = np.zeros((12, 5), dtype=bool)
    hidden[0, 1] = hidden[3, 2] = hidden[3, 4] = True  # there is no fifth beat
    figure = plot_reconstruction(signal, PEAKS, normalised, hidden)
    rebuilt = [
        segment
        for collection in figure.axes[0].collections
        if hasattr(collection, "get_segments")
        for segment in collection.get_segments()
    ]
    assert len(rebuilt) == 2
    recorded = [line for line in figure.axes[0].lines if len(line.get_xdata()) == 400]
    for segment, lead, beat in zip(rebuilt, (0, 3), (1, 2), strict=True):
        at = np.rint(segment[:, 0] * 100).astype(int)
        assert at[0] == (PEAKS[beat - 1] + PEAKS[beat]) // 2
        assert PEAKS[beat] in at
        np.testing.assert_allclose(segment[:, 1], recorded[lead].get_ydata()[at], atol=5e-4)


def test_when_activations_are_drawn_then_every_value_is_written() -> None:
    activations = np.array([[0.5, -1.25], [0.0, 2.0], [0.1, np.nan]])
    figure = plot_group_activations(activations, ["NORM", "MI", "HYP"], ["I + II", "all leads"])
    assert _texts(figure) == ["+0.50", "-1.25", "+0.00", "+2.00", "+0.10", "n/a"]
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["NORM", "MI", "HYP"]


def test_when_losses_are_drawn_then_missing_validation_is_left_out() -> None:
    rows = [{"epoch": epoch, "train_loss": 1 / epoch, "validation_loss": None} for epoch in (1, 2, 3)]
    assert len(plot_losses(rows).axes[0].lines) == 1


def test_when_a_figure_is_saved_then_it_is_a_picture_in_a_new_folder(signal: np.ndarray, tmp_path: Path) -> None:
    path = save_figure(plot_recording(signal, PEAKS, title="one"), tmp_path / "pictures" / "one.png")
    with Image.open(path) as image:
        assert min(image.size) > 400


def test_when_shapes_do_not_fit_then_they_are_refused(signal: np.ndarray) -> None:
    with pytest.raises(InputError, match="12 leads"):
        plot_recording(signal[0])
    with pytest.raises(InputError, match="layout"):
        plot_recording(signal, layout="round")
    with pytest.raises(InputError, match="do not belong"):
        plot_reconstruction(signal, PEAKS, np.zeros((12, 5, 96)), np.zeros((12, 4), dtype=bool))
    with pytest.raises(InputError, match="do not fit"):
        plot_group_activations(np.zeros((2, 7)), ["a"], list("abcdefg"))
