"""Beats equal the released tokenizer's, and follow the rule on signals made by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from clear_hug_hf.processing import cut_beats, pad_peaks
from clear_hug_hf.processing.beats import describe_beats


def test_when_peaks_are_given_then_beats_equal_the_released_ones_exactly(shared: Path) -> None:
    released = np.load(shared / "parity" / "official_beats_small.npz")
    beats, mask, time_ids = cut_beats(released["signals"], released["r_peaks"])
    np.testing.assert_array_equal(beats, released["beats"])
    # The released arrays repeat the mask and the time ids for every lead.
    np.testing.assert_array_equal(np.repeat(mask[:, None], 12, axis=1), released["real_beat"].astype(bool))
    np.testing.assert_array_equal(np.repeat(time_ids[:, None], 12, axis=1), released["time_ids"])


def _ramp(num_samples: int = 1000) -> np.ndarray:
    """A signal whose value is its sample number plus one, so that zero means "outside"."""
    return np.tile(np.arange(1.0, num_samples + 1), (1, 2, 1))


def test_when_beats_follow_each_other_then_each_reaches_halfway_to_its_neighbors() -> None:
    beats, mask, time_ids = cut_beats(_ramp(), np.array([[100, 170, 250]]), num_beats=4)
    assert mask.tolist() == [[True, True, True, False]]
    assert time_ids.tolist() == [[2, 2, 3, 0]]
    middle = beats[0, 0, 1]
    assert middle[48] == 171, "the R peak is in the middle of the window"
    covered = middle[middle > 0] - 1
    assert (covered[0], covered[-1]) == (135, 209)


def test_when_a_beat_is_longer_than_its_window_then_the_window_is_centered_on_the_peak() -> None:
    beats, _, _ = cut_beats(_ramp(), np.array([[100, 400, 900]]), num_beats=3)
    np.testing.assert_array_equal(beats[0, 1, 1], np.arange(353.0, 449.0))


def test_when_there_is_one_beat_then_it_fills_a_window_inside_the_signal() -> None:
    beats, _, _ = cut_beats(_ramp(1000), np.array([[500]]))
    np.testing.assert_array_equal(beats[0, 0, 0], np.arange(453.0, 549.0))
    beats, _, _ = cut_beats(_ramp(100), np.array([[80]]))
    np.testing.assert_array_equal(beats[0, 0, 0], np.r_[np.arange(33.0, 101.0), np.zeros(28)])


def test_when_a_recording_has_no_peaks_then_all_its_beats_are_missing() -> None:
    beats, mask, time_ids = cut_beats(_ramp(), pad_peaks([np.empty(0, dtype=np.int64)]))
    assert not beats.any()
    assert not mask.any()
    assert not time_ids.any()


def test_when_there_are_more_peaks_than_beats_then_the_first_ones_are_kept_and_the_next_one_ends_them() -> None:
    peaks = np.arange(30, 1000, 60)
    all_beats, _, _ = cut_beats(_ramp(), peaks[None], num_beats=len(peaks))
    first, mask, _ = cut_beats(_ramp(), peaks[None], num_beats=5)
    assert mask.all()
    np.testing.assert_array_equal(first, all_beats[:, :, :5])


def test_when_signals_are_padded_then_the_true_length_ends_the_last_beat() -> None:
    short = _ramp(300)
    padded = np.concatenate([short, np.full((1, 2, 700), 7.0)], axis=2)
    expected, _, _ = cut_beats(short, np.array([[120, 200, 280]]))
    got, _, _ = cut_beats(padded, np.array([[120, 200, 280]]), lengths=np.array([300]))
    np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize("seed", range(3))
def test_when_a_batch_is_cut_then_it_equals_its_recordings_cut_one_by_one(seed: int) -> None:
    rng = np.random.default_rng(seed)
    signals = rng.standard_normal((6, 12, 1000)).astype(np.float32)
    peaks = [np.sort(rng.choice(np.arange(1000), size=n, replace=False)) for n in (1, 3, 9, 15, 16, 30)]
    together = cut_beats(signals, pad_peaks(peaks))
    for row in range(6):
        alone = cut_beats(signals[row : row + 1], pad_peaks(peaks[row : row + 1]))
        for batch, single in zip(together, alone, strict=True):
            np.testing.assert_array_equal(batch[row], single[0])


def test_when_beats_are_described_then_scale_is_that_of_the_lead_and_intervals_are_seconds() -> None:
    rng = np.random.default_rng(0)
    signals = np.tile(rng.normal(size=(1, 1, 100)), (1, 2, 10))
    signals[:, 1, 300:400] *= 2  # The fourth of ten equal beats, in the second lead.
    peaks = np.arange(50, 1000, 100)[None]
    beats, mask, _ = cut_beats(signals, peaks, num_beats=12)
    result = describe_beats(beats, mask, peaks)
    np.testing.assert_allclose(result[0, 0, 1:9, 0], 0, atol=0.1)
    assert result[0, 1, 3, 0] - result[0, 1, 4, 0] == pytest.approx(np.log(2), abs=1e-5)
    assert result[0, :, 0, 1:].tolist() == [[0, 1], [0, 1]], "what came before the first beat is unknown"
    assert result[0, :, 1:9, 1:].tolist() == [[[1, 1]] * 8] * 2
    assert not result[0, :, 10:].any(), "missing beats have no features"
    scaled, _, _ = cut_beats(signals * np.array([7.0, 0.01])[:, None], peaks, num_beats=12)
    np.testing.assert_allclose(describe_beats(scaled, mask, peaks), result, atol=1e-5)


def test_when_beats_follow_that_are_not_kept_then_the_last_one_still_has_its_interval() -> None:
    peaks = np.array([[100, 180, 280, 400]])
    beats, mask, _ = cut_beats(_ramp(), peaks, num_beats=3)
    result = describe_beats(beats, mask, peaks)[0, 0, :, 1:]
    np.testing.assert_allclose(result, [[0, 0.8], [0.8, 1.0], [1.0, 1.2]], rtol=1e-6)


def test_when_a_lead_is_flat_then_its_scale_is_finite() -> None:
    peaks = np.array([[100, 200]])
    beats, mask, _ = cut_beats(np.zeros((1, 2, 400)), peaks, num_beats=3)
    assert np.isfinite(describe_beats(beats, mask, peaks)).all()
