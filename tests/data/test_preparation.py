"""Preparation keeps every recording or says why not, and stores what the extractor would have given."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

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
    names = list(good[0].lead_names)
    bad = [
        replace(good[0], record_id="flat", waveform=np.zeros((12, 1000), np.float32)),
        replace(good[0], record_id="nan", waveform=np.full((12, 1000), np.nan, np.float32)),
        replace(good[0], record_id="short", waveform=good[0].waveform[:, :50]),
        replace(good[0], record_id="1-D", waveform=good[0].waveform[0]),
        replace(good[0], record_id="unknown lead", lead_names=[*names[:11], "Q7"]),
        replace(good[0], record_id="no unit", unit="furlong"),
        replace(good[0], record_id="no rate", sampling_rate=None),  # type: ignore[arg-type]
        RecordReference(tmp_path / "absent", "missing file"),
    ]
    records: list[Recording | RecordReference] = [good[0], *bad, *good[1:]]
    dataset, rejected = prepare(records, ClearHugFeatureExtractor(), progress=False)
    assert dataset["record_id"] == [recording.record_id for recording in good]
    assert [record_id for record_id, _ in rejected] == [record.record_id for record in bad]
    for (_, reason), part in zip(
        rejected,
        ["flat", "NaN", "0.5 s", "dimension", "Q7", "furlong", "sampling rate is missing", "does not exist"],
        strict=True,
    ):
        assert part in reason


def test_when_a_recording_is_noise_then_no_beat_is_invented(make_recordings: MakeRecordings) -> None:
    noise = np.zeros((12, 1000), np.float32)
    noise[:, 500] = 1e-3
    recording = replace(make_recordings(1)[0], waveform=noise)
    silent = ClearHugFeatureExtractor(on_no_beats="mask", do_bandpass=False)
    dataset, rejected = prepare([recording], silent, progress=False)
    beats = len(dataset[0]["r_peaks"]) if len(dataset) else 0
    assert (beats <= 1 and not rejected) or rejected


def test_when_a_recording_is_long_then_the_windows_asked_for_are_rows(make_recordings: MakeRecordings) -> None:
    recording = make_recordings(1)[0]
    long = replace(recording, waveform=np.tile(recording.waveform, (1, 3))[:, :2500])
    extractor = ClearHugFeatureExtractor()
    first, _ = prepare([long], extractor, progress=False)
    assert first["window_start"] == [0.0]
    windows, _ = prepare([long], extractor.replace(windows="all"), progress=False)
    assert windows["window_start"] == [0.0, 10.0, 15.0]
    assert all(min(row["r_peaks"]) >= 0 and max(row["r_peaks"]) < 1000 for row in windows)


def test_when_nobody_labelled_a_recording_then_its_labels_are_unknown(make_recordings: MakeRecordings) -> None:
    recording = replace(make_recordings(1)[0], labels=None)
    dataset, _ = prepare([recording], ClearHugFeatureExtractor(), LABELS, progress=False)
    assert all(math.isnan(value) for value in dataset[0]["labels"].values())


def test_when_a_label_is_not_named_then_preparation_stops(make_recordings: MakeRecordings) -> None:
    with pytest.raises(InputError, match="has the label 'inverted', which is not among fast"):
        prepare(make_recordings(1), ClearHugFeatureExtractor(), ["fast"], progress=False)


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
    without = [index for index, name in enumerate(recordings[0].lead_names) if name not in ("I", "II")]
    recordings[1] = replace(
        recordings[1],
        waveform=recordings[1].waveform[without],
        lead_names=[recordings[1].lead_names[index] for index in without],
    )
    dataset, rejected = prepare(recordings, ClearHugFeatureExtractor(detector="lead_ii"), progress=False)
    assert dataset["record_id"][:] == ["0-0", "2-0"]
    assert [record_id for record_id, _ in rejected] == ["1-0"]
    assert "this detector reads lead II" in rejected[0].reason


def test_when_some_labels_are_unknown_then_they_are_nan_and_the_others_kept(make_recordings: MakeRecordings) -> None:
    recording = replace(make_recordings(1)[0], labels={"inverted": 0.25})
    dataset, _ = prepare([recording], ClearHugFeatureExtractor(), LABELS, progress=False)
    assert math.isnan(dataset[0]["labels"]["fast"])
    assert dataset[0]["labels"]["inverted"] == 0.25


def test_when_a_recording_is_prepared_then_its_row_says_how_good_it_is(make_recordings: MakeRecordings) -> None:
    recording = make_recordings(1, sampling_rate=250.0)[0]
    recording.waveform[4] = 0.0
    recording.waveform[7, 100:105] = np.nan
    row = prepare([recording], ClearHugFeatureExtractor(), progress=False).dataset[0]
    assert row["flat_leads"] == ["aVL"]
    assert row["lead_mask"] == [index != 4 for index in range(12)]
    assert row["nan_share"] == pytest.approx(5 / recording.waveform.size)
    assert row["num_beats"] == len(row["r_peaks"]) > 5
    assert row["lead_names"] == list(recording.lead_names)
