"""CLEAR-HUG's feature extractor: beats out, each once and in its true place."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from pulses import known, make_pulses

from clear_hug_hf import ClearHugFeatureExtractor


@pytest.fixture(scope="module")
def extractor() -> ClearHugFeatureExtractor:
    return ClearHugFeatureExtractor()


def test_when_one_recording_is_given_then_the_outputs_have_the_documented_shapes(extractor) -> None:
    features = extractor(make_pulses(), **known(), return_tensors="pt")
    assert {name: (tuple(value.shape), value.dtype) for name, value in features.items()} == {
        "input_values": ((1, 12, 15, 96), torch.float32),
        "attention_mask": ((1, 15), torch.bool),
        "time_ids": ((1, 15), torch.int64),
        "lead_mask": ((1, 12), torch.bool),
    }
    described = ClearHugFeatureExtractor(use_beat_features=True)
    assert set(described(make_pulses(), **known())) == set(described.model_input_names)
    assert features["attention_mask"].sum() == 12
    assert extractor.on_no_beats == "raise"
    # Each beat has its R peak in the middle of its window.
    beats = features["input_values"][0, 4, :12]
    assert (beats.argmax(dim=-1) - 48).abs().max() <= 1


def test_when_there_is_no_beat_then_none_is_invented(extractor) -> None:
    features = extractor(make_pulses(), **known(), r_peaks=np.empty(0, dtype=np.int64), on_no_beats="mask")
    assert not features["attention_mask"].any()
    assert not features["input_values"].any()


@pytest.mark.parametrize("heart_rate", [60.0, 96.0, 140.0, 210.0])
def test_when_the_heart_is_fast_then_windows_by_beats_hold_every_beat_once_and_in_its_true_place(
    heart_rate: float,
) -> None:
    waveform, given = make_pulses(heart_rate=heart_rate), {"windows": "all", "return_windows": True}
    result = ClearHugFeatureExtractor(use_beat_features=True)(waveform, **known(), **given, return_r_peaks=True)
    # A model that holds them all reads the same beats at once.
    whole = ClearHugFeatureExtractor(use_beat_features=True, num_beats=60)(waveform, **known(), **given)
    total = int(whole["attention_mask"].sum())
    assert total >= round(heart_rate / 6) - 2
    counts = result["attention_mask"].sum(axis=1)
    assert counts.sum() == total
    assert len(counts) == -(-total // 15)
    assert np.ptp(counts) <= 1
    for name, axis in {"input_values": 1, "time_ids": 0, "beat_features": 1}.items():
        rows = [row.take(range(count), axis=axis) for row, count in zip(result[name], counts, strict=True)]
        np.testing.assert_array_equal(np.concatenate(rows, axis=axis), whole[name][0].take(range(total), axis=axis))
        assert not any(
            row.take(range(count, 15), axis=axis).any() for row, count in zip(result[name], counts, strict=True)
        )
    # Windows follow one another, from between two beats to between two beats.
    starts, ends = result["window_starts"], result["window_ends"]
    assert (starts[0], ends[-1]) == (0, 5000)
    np.testing.assert_array_equal(starts[1:], ends[:-1])
    beats = [start + 5 * peaks[peaks >= 0] for start, peaks in zip(starts, result["r_peaks"], strict=True)]
    assert [len(item) for item in beats] == counts.tolist()
    assert (np.diff(np.concatenate(beats)) > 0).all()
    assert all(start < item[0] and item[-1] < end for start, item, end in zip(starts, beats, ends, strict=True))
