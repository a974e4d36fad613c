"""Rhythm features are defined for any beats, and each moves with the rhythm that it is named after."""

from __future__ import annotations

import numpy as np
import pytest

from clear_hug_hf import ClearHugFeatureExtractor, EcgWaveformFeatureExtractor
from clear_hug_hf.processing import InputError
from clear_hug_hf.processing.rhythm import RHYTHM_FEATURES, measure_rhythm, rhythm_features


RATE, LENGTH = 100, 1000


def _peaks(intervals: np.ndarray, rate: int = RATE, seconds: float = 10) -> np.ndarray:
    """R peaks [samples] within so many seconds, the first after 0.2 s."""
    times = 0.2 + np.concatenate([[0.0], np.cumsum(intervals)])
    return np.rint(times[times < seconds] * rate).astype(np.int64)


def _regular(beats_per_minute: float) -> np.ndarray:
    return _peaks(np.full(60, 60 / beats_per_minute))


def _features(peaks: np.ndarray, length: int = LENGTH, rate: float = RATE) -> dict[str, float]:
    return dict(zip(RHYTHM_FEATURES, rhythm_features([peaks], [length], rate)[0].tolist(), strict=True))


BREATHING = 0.8 + 0.1 * np.sin(2 * np.pi * np.arange(150) / 5)
FIBRILLATION = np.random.default_rng(0).uniform(0.5, 1.1, 150)


@pytest.mark.parametrize("beats_per_minute", [30, 45, 55, 75, 110, 150, 240])
def test_when_a_rhythm_is_regular_then_the_rate_alone_departs_from_zero_variability(beats_per_minute: int) -> None:
    found = _features(_regular(beats_per_minute))
    assert 75 * 2 ** found["log_rate"] == pytest.approx(beats_per_minute, rel=0.02)
    # Peaks are rounded to samples.
    tolerance = 0.02 * beats_per_minute
    for limit in (50, 60, 70):
        assert 10 * found[f"rate_below_{limit}"] == pytest.approx(max(limit - beats_per_minute, 0), abs=tolerance)
    for limit in (85, 100, 120):
        assert 20 * found[f"rate_above_{limit}"] == pytest.approx(max(beats_per_minute - limit, 0), abs=tolerance)
    measured = measure_rhythm(_regular(beats_per_minute), LENGTH, RATE)
    assert measured.sdnn < 0.006
    assert not any(measured[measured._fields.index(name)] for name in ("early", "late", "very_early", "very_late"))


@pytest.mark.parametrize("count", [0, 1, 2, 3, 4])
def test_when_there_are_few_beats_then_the_features_are_defined_and_say_so(count: int) -> None:
    measured = measure_rhythm(np.arange(count) * 90 + 100, LENGTH, RATE)
    assert measured.num_beats == count
    assert measured.median_rr == pytest.approx(0.9 if count > 1 else 3.0)
    assert measured.pause == pytest.approx(10 if count == 0 else (LENGTH - 10 - 90 * count) / RATE)
    found = _features(np.arange(count) * 90 + 100)
    assert np.isfinite(list(found.values())).all()
    assert found["few_beats"] == (count < 3)


def test_when_peaks_are_arbitrary_then_features_are_of_order_one() -> None:
    rng = np.random.default_rng(0)
    lengths = rng.integers(1, 5000, 200)
    peaks = [np.flatnonzero(rng.random(length) < rng.uniform(0, 0.2)) for length in lengths]
    found = rhythm_features(peaks, lengths, RATE)
    assert found.shape == (200, len(RHYTHM_FEATURES))
    assert found.dtype == np.float32
    assert np.isfinite(found).all()
    assert np.abs(found).max() < 12


def test_when_the_rate_of_sampling_is_another_then_the_features_are_about_the_same() -> None:
    for intervals in (BREATHING, FIBRILLATION):
        slow, fast = _features(_peaks(intervals)), _features(_peaks(intervals, 500), 5 * LENGTH, 500)
        # Counts of nearly equal intervals depend on the rounding.
        continuous = [name for name in RHYTHM_FEATURES if name.startswith(("log", "rate"))]
        assert [slow[name] for name in continuous] == pytest.approx([fast[name] for name in continuous], abs=0.25)


def test_when_beats_are_missed_then_the_median_rate_stays_and_late_beats_are_counted() -> None:
    regular = _regular(75)
    missed = np.delete(regular, 5)
    assert _features(missed)["log_rate"] == pytest.approx(_features(regular)["log_rate"], abs=0.02)
    assert measure_rhythm(missed, LENGTH, RATE).very_late == pytest.approx(1 / (len(missed) - 1))
    assert measure_rhythm(missed, LENGTH, RATE).pause == pytest.approx(1.6)


def test_when_a_beat_is_early_then_it_is_counted_with_the_pause_behind_it() -> None:
    peaks = _regular(75)
    peaks[5] -= 30
    measured = measure_rhythm(peaks, LENGTH, RATE)
    share = 1 / (len(peaks) - 1)
    assert (measured.very_early, measured.late) == (pytest.approx(share), pytest.approx(share))
    assert measured.median_difference < 0.02 < measured.rmssd


def test_when_rhythms_differ_then_their_correlations_do() -> None:
    breathing, fibrillation, bigeminy = (
        measure_rhythm(_peaks(intervals, seconds=100), 10 * LENGTH, RATE)
        for intervals in (BREATHING, FIBRILLATION, np.tile([0.5, 1.1], 75))
    )
    assert bigeminy.correlation < -0.7
    assert bigeminy.second_correlation > 0.5
    assert bigeminy.alternating == 1
    assert breathing.correlation > 0.1 > fibrillation.correlation
    assert fibrillation.rmssd > 2 * breathing.rmssd
    of_breathing, of_fibrillation = (_features(_peaks(each)) for each in (BREATHING, FIBRILLATION))
    assert of_breathing["log_rmssd_above_8"] > 0 == of_breathing["log_rmssd_above_15"]
    assert of_fibrillation["log_rmssd_above_15"] > 0
    assert breathing.slow_deviation > breathing.fast_deviation
    assert fibrillation.slow_deviation < fibrillation.fast_deviation


def test_when_names_are_selected_then_columns_follow_them() -> None:
    names = ["log_pause", "log_rate"]
    peaks = [_regular(50), _regular(100), np.empty(0)]
    found, every = (rhythm_features(peaks, [LENGTH] * 3, RATE, *chosen) for chosen in ((names,), ()))
    np.testing.assert_array_equal(found, every[:, [RHYTHM_FEATURES.index(name) for name in names]])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rhythm_features": ["log_rate", "tempo"]}, "unknown rhythm feature 'tempo': choose from log_rate"),
        ({"rhythm_features": ["log_rate", "log_rate"]}, "rhythm_features must not contain duplicates"),
        ({"rhythm_features": "log_rate"}, "rhythm_features must be a list of names"),
        ({"rhythm_features": ["log_rate"], "detector": "regular"}, "require a detector of beats"),
    ],
)
def test_when_settings_are_wrong_then_they_are_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        ClearHugFeatureExtractor(**settings)


def test_when_no_features_are_set_then_nothing_is_saved_or_returned() -> None:
    extractor = ClearHugFeatureExtractor()
    assert "rhythm_features" not in extractor.to_dict()
    wanted = extractor.replace(rhythm_features=RHYTHM_FEATURES)
    assert wanted.to_dict()["rhythm_features"] == list(RHYTHM_FEATURES)
    assert wanted.replace(rhythm_features=()).to_dict() == extractor.to_dict()


@pytest.mark.parametrize("extractor_class", [ClearHugFeatureExtractor, EcgWaveformFeatureExtractor])
def test_when_a_window_has_more_beats_than_the_model_reads_then_the_rhythm_is_that_of_all(
    extractor_class: type[ClearHugFeatureExtractor],
) -> None:
    extractor = extractor_class(rhythm_features=RHYTHM_FEATURES)
    peaks = [_regular(60), _regular(170)]
    signals = [np.random.default_rng(0).normal(size=(12, LENGTH)).astype(np.float32)] * 2
    masks = [np.ones(12, dtype=bool)] * 2
    expected = rhythm_features(peaks, [LENGTH] * 2, RATE)
    features, _ = extractor.make_inputs(signals, peaks, masks)
    np.testing.assert_array_equal(features["rhythm"], expected)
    features, parts = extractor.make_inputs(signals, peaks, masks, all_beats=True)
    assert len(parts) == (3 if extractor.reads_beats else 2)
    np.testing.assert_array_equal(features["rhythm"], expected[[part.window for part in parts]])
