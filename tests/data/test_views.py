"""Views are still recordings of the same heart, follow from their seeds alone, and come in pairs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import datasets
import numpy as np
import pytest
import torch

from clear_hug_hf import ClearHugFeatureExtractor, EcgFounderFeatureExtractor
from clear_hug_hf.data.collator import EcgCollator
from clear_hug_hf.data.preparation import prepare
from clear_hug_hf.data.records import Recording
from clear_hug_hf.data.views import VIEWS, ViewCollator
from clear_hug_hf.processing import InputError
from clear_hug_hf.processing.feature_extraction_ecg_waveform import EcgWaveformFeatureExtractor
from clear_hug_hf.processing.recording_inputs import StoredWindow


RATE = 250.0
PEAKS = np.arange(130, 2500, 200)
TIMES = ("crop", "crop_stretch", "time_out", "permute", "first_half", "second_half")
LEADS = ("drop_leads", "one_lead")


@pytest.fixture(scope="module")
def dataset(make_recordings: Callable[..., list[Recording]]) -> datasets.Dataset:
    return prepare(make_recordings(3, per_patient=2), ClearHugFeatureExtractor(), (), progress=False).dataset


def _window(leads: int = 12) -> StoredWindow:
    """R waves of 1 to 2 mV, equal in all beats of a lead; the last leads may be missing."""
    rng = np.random.default_rng(0)
    waves = np.exp(-0.5 * ((np.arange(2500) - PEAKS[:, None]) / 3) ** 2).sum(axis=0)
    signal = np.linspace(1, 2, 12)[:, None] * waves + rng.normal(0, 0.01, (12, 2500))
    present = np.arange(12) < leads
    return StoredWindow((signal * present[:, None]).astype(np.float32), PEAKS, present)


def _draw(name: str, seed: int, strength: float = 1.0, window: StoredWindow | None = None) -> StoredWindow:
    return VIEWS[name](_window() if window is None else window, np.random.default_rng(seed), RATE, strength)


@pytest.mark.parametrize("name", list(VIEWS))
def test_when_a_view_is_drawn_then_it_follows_from_the_seed_and_is_the_recording_at_strength_0(name: str) -> None:
    first, again, other = (_draw(name, seed) for seed in (3, 3, 4))
    same = _draw(name, 3, strength=0.0)
    for drawn, again_or_same, window in ((first, again, first), (same, _window(), same)):
        assert all(np.array_equal(a, b) for a, b in zip(drawn, again_or_same, strict=True))
        assert window.signal.dtype == np.float32
        assert (window.r_peaks.dtype, window.lead_mask.dtype) == (np.int64, bool)
    assert np.array_equal(first.signal, other.signal) == name.endswith("half")
    assert not all(np.array_equal(drawn.signal, same.signal) for drawn in (first, other))


@pytest.mark.parametrize("strength", [0.5, 2.0])
@pytest.mark.parametrize("name", list(VIEWS))
def test_when_a_view_is_drawn_then_peaks_are_on_peaks_upright_and_no_lead_is_mixed(name: str, strength: float) -> None:
    for seed in range(8):
        window = _draw(name, seed, strength, _window(leads=7))
        assert not window.signal[7:].any()
        assert not window.lead_mask[7:].any()
        assert window.signal.shape[1] >= 499
        assert np.array_equal(window.r_peaks, np.sort(window.r_peaks))
        leads = window.signal[window.lead_mask]
        # Every peak is the highest sample around it, wherever it has been moved to.
        for peak in window.r_peaks[(window.r_peaks > 20) & (window.r_peaks < window.signal.shape[1] - 20)]:
            tops = leads[:, peak - 20 : peak + 21].argmax(axis=1) - 20
            assert np.abs(tops).max() <= 3
        # A lead stays itself: without the others, it is the same.
        alone = _window(leads=7)
        alone.signal[1:7] = 0
        drawn = _draw(name, seed, strength, alone)
        np.testing.assert_allclose(drawn.signal[0], window.signal[0], atol=1e-6)


@pytest.mark.parametrize("name", TIMES)
def test_when_a_view_changes_time_then_all_leads_change_alike_and_samples_are_kept(name: str) -> None:
    ramp = np.arange(1, 2501, dtype=np.float32)
    window = _draw(name, 5, window=StoredWindow(np.stack([ramp, 2 * ramp]), PEAKS, np.ones(2, dtype=bool)))
    np.testing.assert_allclose(window.signal[1], 2 * window.signal[0])
    times = window.signal[0]
    kept = {
        "crop": 0.6 <= len(times) / 2500 <= 1 and np.array_equal(np.diff(times), np.ones(len(times) - 1)),
        "crop_stretch": len(times) == 2500 and 0.5 - 1e-3 <= np.diff(times).mean() <= 1,
        "time_out": 0.2 <= (times == 0).mean() <= 0.4 and np.array_equal(times[times > 0], ramp[times > 0]),
        "permute": np.array_equal(np.sort(times), ramp) and not np.array_equal(times, ramp),
        "first_half": np.array_equal(times, ramp[:1250]),
        "second_half": np.array_equal(times, ramp[1250:]),
    }
    assert kept[name]
    # The value at a peak is the time at which it was.
    tolerance = 1 if name == "crop_stretch" else 0
    assert len(window.r_peaks)
    assert all(np.abs(PEAKS + 1 - times[peak]).min() <= tolerance for peak in window.r_peaks)


@pytest.mark.parametrize("name", sorted(set(VIEWS) - set(TIMES) - set(LEADS)))
def test_when_a_view_changes_amplitudes_then_leads_stay_alike_their_own(name: str) -> None:
    window, drawn = _window(), _draw(name, 1)
    assert np.array_equal(drawn.r_peaks, PEAKS)
    for before, after in zip(window.signal, drawn.signal, strict=True):
        assert np.corrcoef(before, after)[0, 1] > 0.9
    gains = (drawn.signal * window.signal).sum(axis=1) / (window.signal**2).sum(axis=1)
    assert (gains > 0.45).all()
    assert (gains < 2.2).all()
    assert (np.ptp(gains) > 0.5) == (name == "scale_leads")


def test_when_a_view_would_leave_no_peak_then_the_recording_stays() -> None:
    late = _window()._replace(r_peaks=np.array([2400]))
    assert _draw("first_half", 0, window=late).signal is late.signal
    assert all(_draw("time_out", seed, window=late).r_peaks.tolist() == [2400] for seed in range(20))


@pytest.mark.parametrize(("name", "counts"), [("one_lead", {1}), ("drop_leads", {4, 5, 6})])
def test_when_leads_are_hidden_then_some_that_were_present_remain(name: str, counts: set[int]) -> None:
    masks = [_draw(name, seed, window=_window(leads=6)).lead_mask for seed in range(60)]
    assert {int(mask.sum()) for mask in masks} == counts
    assert np.any(masks, axis=0).sum() == 6


def test_when_the_rate_is_too_low_for_mains_then_it_is_refused() -> None:
    with pytest.raises(InputError, match="100 Hz cannot represent mains hum of 60 Hz: omit the view"):
        VIEWS["mains"](_window(), np.random.default_rng(0), 100.0, 1.0)


# Batches


VIEW_NAMES = (("crop", "jitter"), ("scale_leads",))


def _collator(extractor: Any = None, **settings: Any) -> ViewCollator:
    return ViewCollator(extractor or ClearHugFeatureExtractor(), **{"views": VIEW_NAMES, **settings})


def test_when_rows_are_collated_then_first_views_come_first_and_each_follows_from_its_seed(
    dataset: datasets.Dataset,
) -> None:
    rows, collator, seeds = [dataset[0], dataset[1], dataset[2]], _collator(), np.array([5, -6, 7])
    batch = collator(rows, seeds)
    assert len(batch["input_values"]) == 6
    for row in range(3):
        alone = collator([rows[row]], seeds[row : row + 1])
        width = alone["input_values"].shape[2]
        for view in (0, 1):
            assert torch.equal(batch["input_values"][3 * view + row, :, :width], alone["input_values"][view])
    # The second views are those of the other names and of their own random numbers.
    swapped = _collator(views=VIEW_NAMES[::-1])(rows, seeds)["input_values"]
    assert not torch.allclose(swapped[:3, :, :2], batch["input_values"][3:, :, :2])
    unchanged = _collator(augmentation=0.0)(rows, seeds)
    plain = EcgCollator(ClearHugFeatureExtractor(), ())(rows)
    assert all(torch.equal(unchanged[name], torch.cat((plain[name], plain[name]))) for name in plain)
    assert "groups" not in batch


def test_when_windows_are_normalized_then_views_change_what_the_model_reads(
    make_recordings: Callable[..., list[Recording]],
) -> None:
    extractor = EcgWaveformFeatureExtractor(lead_names=["V2", "I"])
    rows = list(prepare(make_recordings(3), extractor, (), progress=False).dataset)
    batch = ViewCollator(extractor, views=[["scale_leads"], []])(rows)
    scaled, unchanged = batch["input_values"].chunk(2)
    torch.testing.assert_close(unchanged, EcgCollator(extractor, ())(rows)["input_values"])
    torch.testing.assert_close(unchanged.std(dim=2, correction=0), torch.ones(3, 2))
    factors = scaled.std(dim=2, correction=0)
    torch.testing.assert_close(scaled, unchanged * factors[..., None])
    assert factors.min() > 0.5
    assert factors.max() < 2
    assert factors.log().abs().max() > 0.1
    # What is kept of a recording is normalized as one of its own.
    half, time_out = ViewCollator(extractor, views=[["first_half"], ["time_out"]])(rows)["input_values"].chunk(2)
    torch.testing.assert_close(half[..., :500].std(dim=2, correction=0), torch.ones(3, 2))
    assert time_out.std(dim=2).max() < 0.95


def test_when_there_are_no_seeds_then_the_views_are_those_of_the_record_every_time(dataset: datasets.Dataset) -> None:
    both, again = _collator()([dataset[0], dataset[1]]), _collator()([dataset[1], dataset[0]])
    for name, values in both.items():
        assert torch.equal(values, again[name][[1, 0, 3, 2]]), name
    other = _collator()([{**dataset[0], "record_id": "another"}, dataset[1]])["input_values"]
    assert not torch.equal(other[0, :, :2], both["input_values"][0, :, :2])


def test_when_groups_are_asked_for_then_they_are_the_patients_and_the_unknown_are_alone(
    dataset: datasets.Dataset,
) -> None:
    rows = [dataset[index] for index in range(4)]
    rows += [{**row, "patient_id": None} for row in rows[:2]]
    collator = _collator(with_groups=True)
    groups = collator(rows)["groups"]
    assert groups.dtype == torch.int64
    same = groups[:, None] == groups
    assert same.tolist() == [[i == j or {i, j} in ({0, 1}, {2, 3}) for j in range(6)] for i in range(6)]
    assert set(collator.columns) - set(_collator().columns) == {"patient_id"}


def test_when_a_model_needs_all_leads_then_hidden_ones_are_flat(
    make_recordings: Callable[..., list[Recording]],
) -> None:
    extractor = EcgFounderFeatureExtractor()
    assert extractor.missing_leads == "refused"
    rows = prepare(make_recordings(1), extractor, (), progress=False).dataset
    batch = _collator(extractor, views=(("one_lead",), ()))([rows[0]], np.array([1]))
    # A constant, since the extractor then subtracts the mean of all leads.
    assert (batch["input_values"].std(dim=2) > 1e-4).sum(dim=1).tolist() == [1, 12]


@pytest.mark.parametrize(
    ("views", "message"),
    [
        ((("crop",),), "two lists of names"),
        (("crop", "jitter"), "two lists of names"),
        ((("crop",), ("jiter",)), "there is no view 'jiter': did you mean 'jitter'"),
    ],
)
def test_when_views_make_no_sense_then_they_are_refused(views: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        _collator(views=views)
    with pytest.raises(InputError, match="augmentation is"):
        _collator(augmentation=3.0)
