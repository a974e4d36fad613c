"""Pictures hold what they claim to show, and refuse what they cannot show."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.text import Text
from PIL import Image
from sklearn.metrics import roc_auc_score

from clear_hug_hf.evaluation.segmentation import UNKNOWN
from clear_hug_hf.modeling.modeling_clear_hug import normalize_beats
from clear_hug_hf.plotting import (
    plot_group_activations,
    plot_losses,
    plot_prediction,
    plot_reconstruction,
    plot_reconstructions,
    plot_recording,
    plot_roc_curves,
    plot_segmentation,
    plot_views,
    save_figure,
)
from clear_hug_hf.processing import STANDARD_LEADS, InputError, cut_beats


PEAKS = np.array([40, 120, 205, 290])
PAIRS = ["I/II/III + aVR/aVL/aVF", "aVR/aVL/aVF + V1-V6", "I/II/III + V1-V6"]
GROUPS = ["I/II/III", "aVR/aVL/aVF", "V1-V6", *PAIRS, "all leads"]
CHEST = np.array([lead.startswith("V") for lead in STANDARD_LEADS])
LABELS = ["NORM", "MI", "HYP"]
LEADS = ["II", "V1"]


@pytest.fixture
def signal() -> np.ndarray:
    seconds = np.arange(400) / 100.0
    since = (seconds[:, None] - PEAKS / 100.0).T
    beats = np.exp(-0.5 * (since / 0.02) ** 2).sum(axis=0)
    return np.linspace(0.5, 1.5, 12)[:, None] * beats + np.random.default_rng(0).normal(0, 0.01, (12, 400))


def _without(lead: str) -> np.ndarray:
    """The mask of a recording without a lead."""
    return np.array(STANDARD_LEADS) != lead


def _texts(figure: Figure, panel: int = 0) -> list[str]:
    return [text.get_text() for text in figure.axes[panel].texts]


def _bars(figure: Figure, panel: int) -> dict[str, float]:
    axes = figure.axes[panel]
    names = [label.get_text() for label in axes.get_yticklabels()]
    widths = [bar.get_width() for bar in axes.containers[0]]
    return {name.replace("\n", " "): float(width) for name, width in zip(names, widths, strict=True)}


def _tinted(figure: Figure) -> list[str]:
    """Names of the leads whose panels are tinted, from the names on the tint."""
    page = figure.axes[0]
    tints = [patch.get_bbox() for patch in page.patches if isinstance(patch, Rectangle)]
    return [
        text.get_text()
        for text in page.texts
        if text.get_text() in STANDARD_LEADS and any(tint.contains(*text.get_position()) for tint in tints)
    ]


def test_when_a_recording_is_drawn_then_the_leads_are_in_the_clinical_order(signal: np.ndarray) -> None:
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


def _in_millimetres(figure: Figure, length: float, height: float) -> tuple[float, float]:
    """A length [s] and a height [of the y axis] on the page when the picture is printed [mm]."""
    figure.draw_without_rendering()
    (x0, y0), (x1, y1) = figure.axes[0].transData.transform([(0.0, 0.0), (length, height)])
    return (x1 - x0) / figure.dpi * 25.4, (y1 - y0) / figure.dpi * 25.4


def _lead_height(figure: Figure, length: int) -> float:
    """From the lowest to the highest sample of the last row's trace [of the y axis]."""
    return float([np.ptp(line.get_ydata()) for line in figure.axes[0].lines if len(line.get_xdata()) == length][-1])


@pytest.mark.parametrize(("highest", "gain"), [(0.3, 10.0), (2.4, 10.0), (4.0, 5.0), (9.0, 2.5), (80.0, 2.5)])
@pytest.mark.parametrize("kind", ["clinical", "rows", "prediction"])
def test_when_a_page_is_drawn_then_millimetres_are_true_and_the_gain_is_written(
    signal: np.ndarray, highest: float, gain: float, kind: str
) -> None:
    # Tall complexes, each of some samples: a spike of one sample would not count.
    signal = np.round(signal) * highest / np.round(signal).max()
    if kind == "rows" and highest == 2.4:
        gain = 5.0  # its edges are nearer
    if kind == "prediction":
        figure = plot_prediction(signal, PEAKS, LABELS, np.array([0.9, 0.1, 0.1]))
    else:
        figure = plot_recording(signal, PEAKS, layout=kind)
    assert _in_millimetres(figure, 1.0, 0.0)[0] == pytest.approx(25.0)
    shown = signal[1] if kind != "rows" else signal[11]
    height = _in_millimetres(figure, 0.0, _lead_height(figure, 400))[1]
    assert height == pytest.approx(gain * np.ptp(shown))
    assert f"25 mm/s  {gain:g} mm/mV" in _texts(figure)


def test_when_a_page_is_drawn_then_its_boxes_are_a_fifth_of_a_second_and_half_a_millivolt(signal: np.ndarray) -> None:
    figure = plot_recording(signal)
    boxes = [collection for collection in figure.axes[0].collections if len(collection.get_segments()) > 10]
    across, down = ([segment[0] for segment in one.get_segments()] for one in boxes[2:4])  # of the coarse grid
    np.testing.assert_allclose(np.diff([x for x, _ in across]), 0.2)
    np.testing.assert_allclose(np.diff([y for _, y in down]), _lead_height(figure, 400) / np.ptp(signal[1]) * 0.5)
    assert 0.0 in [y for _, y in down], "the first baseline lies on a line"


def test_when_a_recording_is_long_or_short_then_its_boxes_stay_squares(signal: np.ndarray) -> None:
    for repeats in (1, 50):  # 4 s and 200 s
        figure = plot_recording(np.tile(signal, repeats))
        length, height = _in_millimetres(figure, 1.0, 25.0)
        assert length == pytest.approx(height)
        assert figure.get_figwidth() < 65.0


def test_when_a_recording_has_another_unit_then_the_page_is_the_same(signal: np.ndarray) -> None:
    expected = plot_recording(signal)
    for scale, unit in ((1000.0, "uV"), (0.001, "V")):
        figure = plot_recording(scale * signal, unit=unit)
        assert _lead_height(figure, 400) == pytest.approx(_lead_height(expected, 400))
        assert "25 mm/s  10 mm/mV" in _texts(figure)


@pytest.mark.parametrize(("scale", "gain"), [(1.0, 10), (4.0, 2), (1000.0, 0.01)])
def test_when_a_recording_has_no_unit_then_the_page_reports_it(signal: np.ndarray, scale: float, gain: float) -> None:
    figure = plot_recording(scale * signal, unit="NU")
    (text,) = [text for text in _texts(figure) if "mm/s" in text]
    assert text == f"25 mm/s  {gain:g} mm per unit   no unit (NU): heights are not millivolts"
    assert _lead_height(figure, 400) == pytest.approx(gain * scale * np.ptp(signal[1]))


def test_when_few_leads_were_recorded_then_each_has_a_row_and_others_are_not_drawn(signal: np.ndarray) -> None:
    for recorded in (["V1"], ["I", "II", "V5"]):
        figure = plot_recording(signal, PEAKS, np.isin(STANDARD_LEADS, recorded))
        texts = _texts(figure)
        assert [text for text in texts if text in STANDARD_LEADS] == recorded
        assert "not recorded" not in texts
        assert f"25 mm/s  10 mm/mV   only {', '.join(recorded)} recorded" in texts
        traces = [line.get_ydata() for line in figure.axes[0].lines if len(line.get_xdata()) == 400]
        for trace, lead in zip(traces, recorded, strict=True):
            assert np.corrcoef(trace, signal[STANDARD_LEADS.index(lead)])[0, 1] > 0.999999


@pytest.mark.parametrize(("missing", "strip"), [("V2", "II"), ("II", "I")])
def test_when_a_lead_is_missing_then_the_picture_reports_it_and_the_strip_shows_one_that_is_not(
    signal: np.ndarray, missing: str, strip: str
) -> None:
    figure = plot_recording(signal, PEAKS, _without(missing))
    assert [text for text in _texts(figure) if text in STANDARD_LEADS][-1] == strip
    assert _texts(figure).count("not recorded") == 1


def test_when_the_reconstruction_is_perfect_then_it_lies_on_the_recording(signal: np.ndarray) -> None:
    beats, _, _ = cut_beats(signal[None], PEAKS[None], num_beats=5)
    deviation = beats[0].std(axis=2, ddof=1, keepdims=True)
    normalized = (beats[0] - beats[0].mean(axis=2, keepdims=True)) / np.where(deviation > 0, deviation, 1.0)
    hidden = np.zeros((12, 5), dtype=bool)
    hidden[0, 1] = hidden[3, 2] = hidden[3, 4] = True  # there is no fifth beat
    figure = plot_reconstruction(signal, PEAKS, normalized, hidden)
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
    for drawn in (figure, plot_reconstruction(signal, PEAKS, normalized, hidden, _without("I"))):
        named = [text.get_text() for text in drawn.axes[0].get_legend().get_texts()]
        assert named == ["recorded", "reconstructed", "masked"]


def test_when_patches_are_reconstructed_then_each_lies_where_it_was_cut(signal: np.ndarray) -> None:
    patches = signal[:, :390].reshape(12, 13, 30)
    mean, variance = patches.mean(axis=2, keepdims=True), patches.var(axis=2, ddof=1, keepdims=True)
    normalized = np.concatenate([(patches - mean) / np.sqrt(variance + 1e-6), np.zeros((12, 1, 30))], axis=1)
    hidden = np.zeros((12, 14), dtype=bool)
    hidden[5, 3] = hidden[5, 13] = True  # the last one is incomplete
    axes = plot_reconstruction(signal, None, normalized, hidden).axes[0]
    collections = [one for one in axes.collections if hasattr(one, "get_segments")]
    (segment,) = (segment for collection in collections for segment in collection.get_segments())
    np.testing.assert_allclose(segment[:, 0] * 100, np.arange(90, 120))
    recorded = [line for line in axes.lines if len(line.get_xdata()) == 400]
    np.testing.assert_allclose(segment[:, 1], recorded[5].get_ydata()[90:120], atol=1e-6)


def test_when_several_models_are_compared_then_each_row_shows_the_models_loss(signal: np.ndarray) -> None:
    generator = np.random.default_rng(1)
    hidden = generator.random((12, 5)) < 0.6  # of five beats there are four
    lead_mask = _without("V4")
    made = {name: generator.normal(size=(12, 5, 96)) for name in ("CLEAR", "without view guidance")}
    figure = plot_reconstructions(signal, PEAKS, made, hidden, lead_mask=lead_mask, eps=1e-3)

    beats = cut_beats(signal[None], PEAKS[None], num_beats=5)[0]
    errors: dict[str, list[float]] = {name: [] for name in made}
    for lead, beat in zip(*np.nonzero(hidden), strict=True):
        if beat < 4 and lead_mask[lead]:
            window = beats[0, lead, beat]
            true = (window - window.mean()) / np.sqrt(window.var(ddof=1) + 1e-3)
            for name, output in made.items():
                errors[name].append(((output[lead, beat] - true) ** 2).mean())
    for axes, (name, values) in zip(figure.axes[::3], errors.items(), strict=True):
        shown = axes.get_ylabel().replace("\n", " ")
        assert shown == f"{name} mean squared error {np.mean(values):.3f}"


def test_when_the_models_loss_is_computed_then_it_is_the_one_shown(signal: np.ndarray) -> None:
    beats, beat_mask, _ = cut_beats(signal[None], PEAKS[None], num_beats=5)
    real = torch.from_numpy(beat_mask)[:, None].expand(1, 12, 5)
    target = normalize_beats(torch.from_numpy(beats), real, 1e-6)
    made = {"by 0.5": (target[0] + 0.5).numpy(), "exact": target[0].numpy()}
    figure = plot_reconstructions(signal, PEAKS, made, np.ones((12, 5), dtype=bool), leads=["V1"])
    assert [axes.get_ylabel().split()[-1] for axes in figure.axes] == ["0.250", "0.000"]


def test_when_leads_are_chosen_then_they_are_columns_and_a_missing_one_reports_it(signal: np.ndarray) -> None:
    made, hidden = {name: np.zeros((12, 4, 96)) for name in "abc"}, np.eye(12, 4, dtype=bool)
    figure = plot_reconstructions(signal, PEAKS, made, hidden, leads=["II", "V3"], lead_mask=_without("V3"))
    assert [axes.get_title() for axes in figure.axes] == ["II", "V3", "", "", "", ""]
    assert [_texts(figure, panel) for panel in range(6)] == [[], ["not recorded"]] * 3
    (recorded,) = [line for line in figure.axes[2].lines if len(line.get_xdata()) == 400]
    assert np.corrcoef(recorded.get_ydata(), signal[1])[0, 1] > 0.999999


def test_when_a_prediction_is_drawn_then_labels_are_ordered_by_probability_and_found_ones_are_bold(
    signal: np.ndarray,
) -> None:
    figure = plot_prediction(signal, PEAKS, LABELS, np.array([0.4, 0.7, 0.6]), np.array([0.4, 0.8, 0.5]))
    assert _bars(figure, 1) == {"MI": 0.7, "HYP": 0.6, "NORM": 0.4}
    axes = figure.axes[1]
    assert [label.get_fontweight() for label in axes.get_yticklabels()] == ["normal", "bold", "bold"]
    colors = [bar.get_facecolor() for bar in axes.containers[0]]
    assert colors[0] != colors[1] == colors[2]
    for lines in axes.collections:
        assert [segment[0, 0] for segment in lines.get_segments()] == [0.8, 0.5, 0.4]
    assert _texts(figure, 1) == ["0.70", "0.60", "0.40"]
    assert len(figure.axes) == 2
    leads = [text for text in _texts(figure) if text in STANDARD_LEADS]
    assert leads == [text for text in _texts(plot_recording(signal, PEAKS)) if text in STANDARD_LEADS]
    assert _tinted(figure) == []


def test_when_groups_contribute_then_those_of_the_label_found_are_shown_strongest_first(signal: np.ndarray) -> None:
    contributions = np.zeros((7, 3))
    contributions[:, 2] = [0.3, -0.1, 0.2, 0.9, -0.8, 0.0, 0.05]
    contributions[:, 1] = 5.0  # of the most probable label, which is below its threshold
    thresholds = np.array([0.5, 0.95, 0.5])
    figure = plot_prediction(signal, PEAKS, LABELS, np.array([0.55, 0.9, 0.6]), thresholds, contributions, GROUPS)
    order = [3, 4, 0, 2, 1, 6, 5]
    assert _bars(figure, 2) == {GROUPS[group]: contributions[group, 2] for group in order}
    assert list(_bars(figure, 2)) == [GROUPS[group] for group in order]
    assert figure.axes[2].get_title(loc="left") == "Contribution of each lead group to HYP"
    assert _texts(figure, 2)[:2] == ["+0.90", "-0.80"]


@pytest.mark.parametrize(
    ("added", "lead_mask", "leads"),
    [
        # Pairs and all leads may add more; a group that spoke against it does not count.
        ([0.5, -3.0, -3.0, 4.0, 4.0, 4.0, 4.0], None, ["I", "II", "III", "II"]),
        ([-3.0, 0.5, -3.0, 4.0, 4.0, 4.0, 4.0], None, ["aVR", "aVL", "aVF"]),
        ([-3.0, -3.0, 0.5, 4.0, 4.0, 4.0, 4.0], None, ["V1", "V4", "V2", "V5", "V3", "V6"]),
        ([0.0, 1.0, 0.5], _without("aVL"), ["aVR", "aVF"]),
        # Groups without a recorded lead do not count, nor what would be written as +0.00.
        ([0.9, 0.9, 0.1], CHEST, ["V1", "V4", "V2", "V5", "V3", "V6", "V1"]),
        ([0.9, 0.9, 0.004], CHEST, []),
    ],
)
def test_when_a_single_group_added_most_then_those_of_its_leads_that_were_recorded_are_tinted(
    signal: np.ndarray, added: list[float], lead_mask: np.ndarray | None, leads: list[str]
) -> None:
    contributions = np.column_stack([added, np.full((len(added), 2), 3.0)])
    figure = plot_prediction(
        signal, PEAKS, LABELS, np.array([0.9, 0.1, 0.1]), None, contributions, GROUPS[: len(added)], lead_mask
    )
    assert _tinted(figure) == leads
    (text,) = figure.axes[0].get_legend().get_texts()
    who = "single lead group that contributes most" if leads else "no single lead group contributes"
    assert text.get_text() == f"{who} to NORM"
    assert len(figure.axes[2].patches) - len(added) == bool(leads)


def test_when_no_label_is_found_and_no_group_added_then_the_page_reports_it(signal: np.ndarray) -> None:
    figure = plot_prediction(
        signal, None, LABELS, np.array([0.1, 0.4, 0.2]), None, np.full((7, 3), -1.0), GROUPS, title="Recording 7"
    )
    assert _tinted(figure) == []
    assert figure.axes[0].get_title(loc="left") == "Recording 7"
    assert figure.axes[0].get_legend().get_texts()[0].get_text() == "no single lead group contributes to MI"
    assert "lead group to MI\n(the most probable label; none reached" in figure.axes[2].get_title(loc="left")


def test_when_there_are_more_labels_than_shown_then_their_number_and_those_found_are_named(
    signal: np.ndarray,
) -> None:
    names = [f"label {index}" for index in range(38)]
    probabilities, thresholds = np.linspace(0.9, 0.1, 38), np.full(38, 0.6)
    thresholds[30] = 0.05
    figure = plot_prediction(signal, PEAKS, names, probabilities, thresholds, max_labels=20)
    assert list(_bars(figure, 1)) == names[:20]
    assert "18 less probable labels are not shown; positive among them: label 30" in figure.axes[1].get_xlabel()


def test_when_a_roc_sheet_is_drawn_then_dot_and_counts_are_those_at_the_threshold() -> None:
    truth = np.array([1, 1, 1, 0, 0, 0, 0, np.nan])
    scores = np.array([0.9, 0.4, 0.3, 0.8, 0.4, 0.2, 0.1, 1.0])
    figure = plot_roc_curves(truth[:, None], scores[:, None], ["MI"], np.array([0.4]))
    (axes,) = figure.axes
    # At or above 0.4: two of three with the label, two of four without it; the unknown one counts nowhere.
    assert _texts(figure) == ["TP\n2", "FP\n2", "FN\n1", "TN\n2"]
    (dot,) = [line for line in axes.lines if line.get_marker() == "o"]
    np.testing.assert_allclose([dot.get_xdata()[0], dot.get_ydata()[0]], [2 / 4, 2 / 3])
    area = roc_auc_score(truth[:7], scores[:7])
    assert axes.get_title() == f"MI\nAUROC {area:.3f}, threshold 0.40"


def test_when_a_label_has_one_class_then_it_is_named_and_has_no_panel() -> None:
    generator = np.random.default_rng(2)
    labels = (generator.random((60, 4)) < 0.5).astype(float)
    labels[:, 1] = 0.0
    labels[:, 3] = np.where(labels[:, 3] == 1, 1.0, np.nan)
    figure = plot_roc_curves(labels, generator.random((60, 4)), ["NORM", "MI", "HYP", "CD"], title="test")
    assert [axes.get_title().split("\n")[0] for axes in figure.axes] == ["NORM", "HYP"]
    assert figure.get_supxlabel() == "excluded, only one class present: MI, CD"
    assert figure.get_suptitle() == "test"


@pytest.mark.parametrize("quality", [-4.0, -1.0, 0.0, 1.0, 4.0])
def test_when_a_curve_is_good_or_bad_then_the_counts_do_not_cover_it(quality: float) -> None:
    generator = np.random.default_rng(3)
    labels = (generator.random((500, 1)) < 0.5).astype(float)
    figure = plot_roc_curves(labels, generator.normal(size=(500, 1)) + quality * labels, ["MI"])
    (axes,) = figure.axes
    x, y = max((line.get_data() for line in axes.lines), key=lambda data: len(data[0]))
    # Points along the curve, also between its corners.
    x, y = (np.concatenate([np.linspace(a, b, 50) for a, b in pairwise(v)]) for v in (x, y))
    for patch in axes.patches:
        box = patch.get_bbox()
        assert not ((x > box.x0) & (x < box.x1) & (y > box.y0) & (y < box.y1)).any()


@pytest.mark.parametrize("number", [1, 5, 40])
def test_when_there_are_few_or_many_labels_then_text_is_readable_and_panels_do_not_meet(number: int) -> None:
    labels = np.tile(np.array([[0.0], [1.0], [1.0]]), number)
    names = [f"a long name of a finding of number {index}" for index in range(number)]
    figure = plot_roc_curves(labels, np.array([[0.1], [0.2], [0.9]]) * np.ones(number), names)
    assert len(figure.axes) == number
    assert min(text.get_fontsize() for text in figure.findobj(Text) if text.get_text()) >= 8
    figure.draw_without_rendering()
    boxes = [axes.get_tightbbox() for axes in figure.axes]
    assert all(box.width > 200 and box.height > 200 for box in boxes)
    assert not any(first.overlaps(second) for index, first in enumerate(boxes) for second in boxes[:index])


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


@pytest.fixture
def waves() -> tuple[np.ndarray, np.ndarray]:
    """Found and marked classes of two leads at 100 Hz; a QRS complex is found late, a T wave not at all."""
    marked = np.zeros((2, 400), dtype=int)
    marked[:, :50] = marked[:, 350:] = UNKNOWN
    marked[:, 100:112], marked[:, 120:130], marked[0, 150:180] = 1, 2, 3
    found = np.where(marked == UNKNOWN, 0, marked)
    found[1, 120:133] = [0, 0, 0, *[2] * 10]
    found[0, 150:180] = 0
    return found, marked


def _spans(figure: Figure) -> list[tuple[float, float, float]]:
    """First and last time of every box, and its height, from the top left on."""
    boxes = [patch.get_bbox() for patch in figure.axes[0].patches if isinstance(patch, Rectangle)]
    return [(round(float(box.x0), 6), round(float(box.x1), 6), float(box.height)) for box in boxes]


def test_when_waves_are_drawn_then_every_found_and_marked_wave_has_its_box(signal, waves) -> None:
    found, marked = waves
    figure = plot_segmentation(signal[:2], LEADS, 100.0, found, marked)
    spans = _spans(figure)
    heights = sorted({height for _, _, height in spans})
    assert len(heights) == 2
    behind = sorted(span[:2] for span in spans if span[2] == heights[1])
    below = sorted(span[:2] for span in spans if span[2] == heights[0])
    assert behind == [(1.0, 1.12), (1.0, 1.12), (1.2, 1.3), (1.23, 1.33)]
    unmarked = [(0.0, 0.5), (0.0, 0.5), (3.5, 4.0), (3.5, 4.0)]
    assert below == sorted([*unmarked, *[(1.0, 1.12)] * 2, *[(1.2, 1.3)] * 2, (1.5, 1.8)])
    legend = [text.get_text() for text in figure.legends[0].get_texts()]
    assert legend[:3] == ["P predicted", "QRS predicted", "T predicted"]
    assert len(legend) == 7
    assert {"II", "V1"} <= set(_texts(figure))


def test_when_no_wave_is_marked_then_only_found_waves_are_drawn(signal, waves) -> None:
    figure = plot_segmentation(signal[:2], LEADS, 100.0, waves[0])
    assert len({height for _, _, height in _spans(figure)}) == 1
    assert len(figure.legends[0].get_texts()) == 3


def test_when_a_lead_drifts_away_then_its_trace_stays_in_its_row(signal, waves) -> None:
    high = signal[:2] + np.array([[0.0], [50.0]])
    for line in plot_segmentation(high, LEADS, 100.0, *waves).axes[0].lines[:2]:
        assert np.ptp(line.get_ydata()) < 2.6


REBUILT, HIDDEN, NO_WAVES = np.zeros((12, 5, 96)), np.ones((12, 5), dtype=bool), np.zeros((2, 400))
GIVEN: dict[Callable[..., Figure], dict[str, Any]] = {
    plot_recording: {},
    plot_prediction: {"r_peaks": PEAKS, "label_names": LABELS, "probabilities": np.array([0.1, 0.5, 0.9])},
    plot_reconstruction: {"r_peaks": PEAKS, "reconstruction": REBUILT, "bool_masked_pos": HIDDEN},
    plot_reconstructions: {"r_peaks": PEAKS, "reconstructions": {"CLEAR": REBUILT}, "bool_masked_pos": HIDDEN},
    plot_segmentation: {"signal": NO_WAVES, "lead_names": LEADS, "sampling_rate": 100.0, "predicted": NO_WAVES},
    plot_roc_curves: {"labels": np.eye(2)[:, :1], "probabilities": np.array([[0.8], [0.3]]), "label_names": ["MI"]},
    plot_group_activations: {"activations": np.zeros((2, 7)), "label_names": LABELS[:2], "group_names": GROUPS},
}
"""What each kind of picture is drawn of, beside the signal."""


@pytest.mark.parametrize(
    ("plot", "changes", "reason"),
    [
        (plot_recording, {"signal": np.zeros(400)}, "12 leads"),
        (plot_recording, {"layout": "round"}, "layout"),
        (plot_recording, {"unit": "mmHg"}, "unknown unit 'mmHg'"),
        (plot_prediction, {"probabilities": np.array([0.1, 0.5])}, "probabilities do not fit 3 labels"),
        (plot_prediction, {"probabilities": np.array([0.1, np.nan, 0.2])}, "probability of 'MI'"),
        (plot_prediction, {"probabilities": np.array([0.1, 1.5, 0.2])}, "probability of 'MI'"),
        (plot_prediction, {"probabilities": np.array([0.1, -0.1, 0.2])}, "probability of 'MI'"),
        (plot_prediction, {"thresholds": np.array([0.5])}, "thresholds do not match"),
        (plot_prediction, {"thresholds": np.array([0.5, 0.5, np.nan])}, "threshold of 'HYP' is NaN"),
        (plot_prediction, {"contributions": np.zeros((7, 3))}, "group_names"),
        (plot_prediction, {"contributions": np.zeros((3, 7)), "group_names": GROUPS}, "match 7 groups and 3 labels"),
        (plot_prediction, {"contributions": np.full((7, 3), np.nan), "group_names": GROUPS}, "finite"),
        (
            plot_prediction,
            {"contributions": np.zeros((1, 3)), "group_names": ["left"]},
            "'left' has the unknown lead 'left'",
        ),
        (plot_prediction, {"max_labels": 0}, "max_labels"),
        (plot_prediction, {"lead_mask": np.ones(3, dtype=bool)}, "lead mask"),
        (plot_reconstruction, {"bool_masked_pos": np.zeros((12, 4), dtype=bool)}, "do not match"),
        (plot_reconstructions, {"leads": ["II", "V9"]}, "unknown lead 'V9'"),
        (plot_reconstructions, {"reconstructions": {}}, "at least one reconstruction"),
        (plot_reconstructions, {"reconstructions": {"other": np.zeros((12, 4, 96))}}, "other: .* do not match"),
        (plot_reconstructions, {"bool_masked_pos": np.zeros((12, 5), dtype=bool)}, "no beat is masked"),
        (plot_segmentation, {"lead_names": ["I", "II", "V1"]}, "does not fit 3 leads"),
        (plot_segmentation, {"predicted": np.zeros((2, 399))}, "the predicted classes"),
        (plot_segmentation, {"marked": np.zeros((1, 400))}, "the marked classes"),
        (plot_segmentation, {"signal": np.full((2, 400), np.nan)}, "NaN or infinite"),
        (plot_segmentation, {"sampling_rate": 0.0}, "sampling rate is 0"),
        (plot_roc_curves, {"probabilities": np.array([[0.8]])}, "do not match"),
        (plot_roc_curves, {"label_names": ["MI", "CD"]}, "do not match"),
        (plot_roc_curves, {"probabilities": np.array([[0.8], [np.nan]])}, "probability of 'MI' in row 1 is nan"),
        (plot_roc_curves, {"labels": np.array([[1.0], [np.nan]])}, "no label has both classes"),
        (plot_roc_curves, {"labels": np.array([[2.0], [0.0]])}, "other than 1, 0 and NaN"),
        (plot_roc_curves, {"columns": 0}, "columns"),
        (plot_group_activations, {"label_names": ["a"]}, "do not fit"),
    ],
)
def test_when_a_picture_cannot_be_drawn_then_the_reason_is_given(
    plot: Callable[..., Figure], changes: dict[str, Any], reason: str, signal: np.ndarray
) -> None:
    of_signals = {"signal": signal} if "signal" in inspect.signature(plot).parameters else {}
    with pytest.raises(InputError, match=reason):
        plot(**{**of_signals, **GIVEN[plot], **changes})


# Views


def test_when_views_are_drawn_then_each_has_its_leads_and_peaks_at_the_scale_of_the_first(signal: np.ndarray) -> None:
    present = _without("V1")
    views = {"all": (signal, PEAKS, np.ones(12, dtype=bool)), "half": (signal[:, :200], PEAKS[:2], present)}
    figure = plot_views(views, 100.0, LEADS, columns=2)
    whole, half = figure.axes
    assert [axes.get_title(loc="left") for axes in (whole, half)] == ["all", "half"]
    assert whole.get_ylim() == half.get_ylim()
    *leads, peaks = half.lines
    assert peaks.get_xdata().tolist() == [0.4, 1.2]
    assert [line.get_xdata()[-1] for line in leads] == [1.99, 1.99]
    assert len({line.get_color() for line in leads}) == 2, "a missing lead is faint"
    for before, after in zip(whole.lines, leads, strict=False):
        change = before.get_ydata()[:200] - after.get_ydata()
        np.testing.assert_allclose(change, change[0])
    assert len(plot_views(dict.fromkeys("abcd", views["all"]), 100.0, LEADS).axes) == 6
    with pytest.raises(InputError, match="pass the 12 leads"):
        plot_views({"two": (signal[:2], PEAKS, np.ones(2, dtype=bool))})
