"""Preparation keeps every recording or explains why not, and stores what the extractor would have given."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clear_hug_hf import ClearHugFeatureExtractor
from clear_hug_hf.data.preparation import prepare
from clear_hug_hf.data.records import Recording, RecordReference
from clear_hug_hf.processing import InputError
from clear_hug_hf.processing.beat_detection import DETECTORS


MakeRecordings = Callable[..., list[Recording]]
LABELS = ("fast", "inverted")


def test_when_recordings_are_prepared_then_the_rows_hold_them(make_recordings: MakeRecordings) -> None:
    recordings = make_recordings(5, sampling_rate=250.0)
    extractor = ClearHugFeatureExtractor()
    dataset, rejected = prepare(recordings, extractor, LABELS, progress=False)
    assert rejected == []
    assert dataset["record_id"] == [recording.record_id for recording in recordings]
    assert dataset["patient_id"] == ["p0", "p1", "p2", "p3", "p4"]
    assert list(dataset.features["labels"]) == list(LABELS)
    assert dataset["labels"][:3] == [
        {"fast": 1.0, "inverted": 1.0},
        {"fast": 0.0, "inverted": 0.0},
        {"fast": 1.0, "inverted": 0.0},
    ]
    for row, recording in zip(dataset, recordings, strict=True):
        signal, lead_mask = extractor.clean(
            recording.waveform, recording.sampling_rate, recording.lead_names, recording.unit
        )
        scale = np.array(row["signal_scale"])[:, None]
        assert np.abs(np.array(row["signal"]) * scale - signal).max() <= 0.51 * scale.max()
        assert row["lead_mask"] == lead_mask.tolist()
        assert row["r_peaks"] == extractor.detect([signal], [lead_mask])[0].tolist()
        assert (row["sampling_rate"], row["unit"], row["window_start"]) == (100.0, "mV", 0.0)


def test_when_recordings_are_scaled_to_a_range_then_they_have_no_unit(make_recordings: MakeRecordings) -> None:
    dataset, _ = prepare(make_recordings(1), ClearHugFeatureExtractor(do_rescale=True), LABELS, progress=False)
    assert dataset["unit"] == ["NU"]


def test_when_some_recordings_are_bad_then_they_are_listed_and_the_counts_add_up(
    make_recordings: MakeRecordings, tmp_path: Path
) -> None:
    good = make_recordings(4)
    changes: dict[str, dict[str, Any]] = {
        "all leads are flat": {"waveform": np.zeros((12, 1000), np.float32)},
        "0.5 s": {"waveform": good[0].waveform[:, :50]},
        "1 dimension": {"waveform": good[0].waveform[0]},
        "Q7": {"lead_names": [*good[0].lead_names[:11], "Q7"]},
        "furlong": {"unit": "furlong"},
        "sampling_rate is required": {"sampling_rate": None},
    }
    bad: list[Any] = [replace(good[0], record_id=reason, **change) for reason, change in changes.items()]
    bad.append(RecordReference(tmp_path / "absent", "does not exist"))
    dataset, rejected = prepare([good[0], *bad, *good[1:]], ClearHugFeatureExtractor(), progress=False)
    assert dataset["record_id"] == [recording.record_id for recording in good]
    assert [record_id for record_id, _ in rejected] == [record.record_id for record in bad]
    assert all(record_id in reason for record_id, reason in rejected)


def test_when_a_recording_is_long_then_the_windows_asked_for_are_rows(make_recordings: MakeRecordings) -> None:
    recording = make_recordings(1)[0]
    long = replace(recording, waveform=np.tile(recording.waveform, (1, 3))[:, :2500])
    extractor = ClearHugFeatureExtractor()
    first, _ = prepare([long], extractor, progress=False)
    assert first["window_start"] == [0.0]
    windows, _ = prepare([long], extractor.replace(windows="all"), progress=False)
    assert windows["window_start"] == [0.0, 10.0, 15.0]
    assert all(min(row["r_peaks"]) >= 0 and max(row["r_peaks"]) < 1000 for row in windows)


@pytest.mark.parametrize(
    ("labels", "expected"), [(None, [math.nan, math.nan]), ({"inverted": 0.25}, [math.nan, 0.25])]
)
def test_when_labels_are_unknown_then_they_are_nan_and_the_others_kept(
    make_recordings: MakeRecordings, labels: dict[str, float] | None, expected: list[float]
) -> None:
    recording = replace(make_recordings(1)[0], labels=labels)
    dataset, _ = prepare([recording], ClearHugFeatureExtractor(), LABELS, progress=False)
    np.testing.assert_array_equal(list(dataset[0]["labels"].values()), expected)
    if labels:
        with pytest.raises(InputError, match="has the label 'inverted', which is not one of fast"):
            prepare([recording], ClearHugFeatureExtractor(), ["fast"], progress=False)


def test_when_there_are_no_recordings_then_the_dataset_is_empty_and_without_labels() -> None:
    dataset, _ = prepare([], ClearHugFeatureExtractor(), progress=False)
    assert len(dataset) == 0
    assert "labels" not in dataset.features


def test_when_a_detector_fails_on_one_recording_then_only_that_one_is_rejected(
    make_recordings: MakeRecordings, monkeypatch: pytest.MonkeyPatch
) -> None:
    def find_on_lead_ii(signals: np.ndarray, rate: float, present: np.ndarray, names: list[str]) -> list[np.ndarray]:
        if not present[:, 1].all():
            raise InputError("this detector reads lead II")
        return DETECTORS["multilead"](signals, rate, present, names)

    monkeypatch.setitem(DETECTORS, "lead_ii", find_on_lead_ii)
    recordings = make_recordings(3, sampling_rate=250.0)
    recordings[1].waveform, recordings[1].lead_names = recordings[1].waveform[2:], recordings[1].lead_names[2:]
    dataset, rejected = prepare(recordings, ClearHugFeatureExtractor(detector="lead_ii"), progress=False)
    assert dataset["record_id"][:] == ["0-0", "2-0"]
    assert [record_id for record_id, _ in rejected] == ["1-0"]
    assert "this detector reads lead II" in rejected[0].reason


def test_when_a_recording_is_prepared_then_its_row_rates_its_quality(make_recordings: MakeRecordings) -> None:
    recording = make_recordings(1, sampling_rate=250.0)[0]
    recording.waveform[4] = 0.0
    recording.waveform[7, 100:105] = np.nan
    row = prepare([recording], ClearHugFeatureExtractor(), progress=False).dataset[0]
    assert row["flat_leads"] == ["aVL"]
    assert row["lead_mask"] == [index != 4 for index in range(12)]
    assert row["nan_share"] == pytest.approx(5 / recording.waveform.size)
    assert row["num_beats"] == len(row["r_peaks"]) > 5
    assert row["lead_names"] == list(recording.lead_names)
