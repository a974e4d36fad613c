"""Simulated recordings: seeded, split by patient, and true to their labels."""

from __future__ import annotations

import numpy as np
import pytest
from joblib import parallel_config

from clear_hug_hf import ClearHugFeatureExtractor
from clear_hug_hf.data.records import Recording
from clear_hug_hf.data.simulation import SIMULATED_LABELS, simulate_recordings
from clear_hug_hf.processing import InputError


@pytest.fixture(scope="module")
def simulated() -> list[Recording]:
    """A patient of each rhythm for training, and one for validation."""
    return simulate_recordings(num_patients=5, recordings_per_patient=2, seed=3)


def test_when_seeds_are_equal_then_recordings_are_whatever_the_workers(simulated: list[Recording]) -> None:
    with parallel_config(backend="multiprocessing"):  # whose processes import nothing anew
        again = simulate_recordings(num_patients=2, recordings_per_patient=2, seed=3, num_workers=2)
    for first, second in zip(simulated, again, strict=False):
        np.testing.assert_array_equal(first.waveform, second.waveform)
        assert (first.record_id, first.labels) == (second.record_id, second.labels)
    other = simulate_recordings(num_patients=1, recordings_per_patient=1, seed=4)[0]
    assert not np.array_equal(other.waveform, simulated[0].waveform)


def test_when_recordings_are_simulated_then_each_has_one_rhythm_and_ten_seconds(simulated: list[Recording]) -> None:
    assert len(simulated) == 10
    for recording in simulated:
        assert recording.waveform.shape == (12, 2500)
        assert np.isfinite(recording.waveform).all()
        labels = recording.labels or {}
        assert list(labels) == list(SIMULATED_LABELS)
        assert sum(labels[name] for name in SIMULATED_LABELS[:4]) == 1
    for name in SIMULATED_LABELS:
        assert {(recording.labels or {})[name] for recording in simulated} == {0.0, 1.0}


def test_when_recordings_are_of_one_patient_then_they_are_on_one_side(simulated: list[Recording]) -> None:
    sides: dict[str | None, set[str | None]] = {}
    for recording in simulated:
        sides.setdefault(recording.patient_id, set()).add(recording.split)
    assert all(len(side) == 1 for side in sides.values())
    assert {"train", "validation"} <= {side for sides_of in sides.values() for side in sides_of}


def test_when_beats_are_found_then_the_rates_are_those_of_the_labels(simulated: list[Recording]) -> None:
    extractor = ClearHugFeatureExtractor()
    for recording in simulated:
        features = extractor(**recording.as_inputs(), return_r_peaks=True)
        intervals = np.diff(features["r_peaks"][0][features["r_peaks"][0] >= 0]) / 100.0
        rate = 60.0 / intervals.mean()
        rhythm = next(name for name, value in (recording.labels or {}).items() if value)
        low, high = {"sinus bradycardia": (35, 62), "sinus tachycardia": (98, 150)}.get(rhythm, (55, 125))
        assert low < rate < high, recording.record_id
        if rhythm == "irregular rhythm":
            assert intervals.std() / intervals.mean() > 0.08
        else:
            assert intervals.std() / intervals.mean() < 0.08


def test_when_there_is_nothing_to_simulate_then_it_is_refused() -> None:
    with pytest.raises(InputError, match="must be at least 1"):
        simulate_recordings(num_patients=0)
