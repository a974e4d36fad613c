"""
From R peaks to beats: the tokenizer of Pan et al., 2026 (section "Method", and the released one).

A beat reaches from halfway to the beat before it to halfway to the beat after it, and sits in a window of fixed length
with its R peak in the middle. All leads share the peaks of the recording.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def pad_peaks(r_peaks: Sequence[np.ndarray]) -> np.ndarray:
    """Stack peak lists of different lengths to `(num_recordings, longest)`, padded with -1 (at least one column)."""
    width = max([1, *(len(peaks) for peaks in r_peaks)])
    padded = np.full((len(r_peaks), width), -1, dtype=np.int64)
    for row, peaks in enumerate(r_peaks):
        padded[row, : len(peaks)] = peaks
    return padded


def describe_beats(
    beats: np.ndarray, beat_mask: np.ndarray, r_peaks: np.ndarray, sampling_rate: float = 100.0
) -> np.ndarray:
    """
    What is lost of a beat when it is normalized by itself: how large it is beside the other beats of its lead, and how
    far away its neighbors are. Neither depends on the unit, nor on how a whole lead was scaled.

    Args:
        beats (`np.ndarray` of shape `(batch_size, num_leads, num_beats, beat_length)`): As [`cut_beats`] gives them.
        beat_mask (`np.ndarray` of shape `(batch_size, num_beats)`): True for real beats.
        r_peaks (`np.ndarray` of shape `(batch_size, max_peaks)`): Ascending peaks [samples], padded with -1 at the
            end; also those after the last beat.
        sampling_rate (`float`, *optional*, defaults to `100.0`): Rate of the peaks [Hz].

    Returns:
        `np.ndarray` of shape `(batch_size, num_leads, num_beats, 3)`, float32: the natural logarithm of the beat's
        standard deviation over the root mean square of these in its lead, between -3 and 3 (0 for a flat lead); and
        the RR intervals before and after it [s], at most 3, 0 where there is no neighbor. All 0 for a missing beat.
    """
    num_beats = beats.shape[2]
    real = beat_mask[:, None, :]
    deviation = np.where(real, beats.std(axis=-1, dtype=np.float64), 0.0)
    count = np.maximum(beat_mask.sum(axis=1), 1)[:, None, None]
    usual = np.sqrt(np.square(deviation).sum(axis=2, keepdims=True) / count)
    with np.errstate(divide="ignore", invalid="ignore"):
        scale = np.where(real & (usual > 0), np.log(deviation / usual), 0.0).clip(-3, 3)

    peaks = np.full((len(beats), max(num_beats, r_peaks.shape[1]) + 1), -1, dtype=np.int64)
    peaks[:, : r_peaks.shape[1]] = r_peaks
    intervals = np.where(peaks[:, 1:] >= 0, np.diff(peaks, axis=1), 0) / sampling_rate
    after = intervals[:, :num_beats]
    before = np.concatenate([np.zeros((len(beats), 1)), after[:, :-1]], axis=1)
    rhythm = np.where(beat_mask[..., None], np.stack([before, after], axis=-1), 0.0).clip(0, 3)
    rhythm = np.broadcast_to(rhythm[:, None], (*scale.shape, 2))
    return np.concatenate([scale[..., None], rhythm], axis=-1).astype(np.float32)


def cut_beats(
    signals: np.ndarray,
    r_peaks: np.ndarray,
    num_beats: int = 15,
    beat_length: int = 96,
    sampling_rate: float = 100.0,
    lengths: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """
    Cut the beats of a batch of recordings, for all leads and beats at once.

    With peaks `r_1 .. r_m`, beat `j` covers `[(r_{j-1} + r_j) // 2, (r_j + r_{j+1}) // 2)`; the first begins half a
    window before its peak, the last ends half a window after, both inside the signal. A beat longer than the window
    is cut to the window's length from half a window before its peak. The peak falls on the middle of the window (one
    with more than half a window before it starts at the window's first sample instead). Samples outside a beat are
    zero.

    Args:
        signals (`np.ndarray` of shape `(batch_size, num_leads, num_samples)`): Signals at `sampling_rate`.
        r_peaks (`np.ndarray` of shape `(batch_size, max_peaks)`): Ascending peaks [samples], padded with -1 at the
            end.
        num_beats (`int`, *optional*, defaults to `15`): Beats kept, from the first.
        beat_length (`int`, *optional*, defaults to `96`): Length of a beat's window [samples].
        sampling_rate (`float`, *optional*, defaults to `100.0`): Rate of the signals [Hz], for the time ids.
        lengths (`np.ndarray` of shape `(batch_size,)`, *optional*): True number of samples where signals are padded.

    Returns:
        `tuple[np.ndarray, np.ndarray, np.ndarray]`: The beats `(batch_size, num_leads, num_beats, beat_length)` in the
        signals' dtype; a boolean mask `(batch_size, num_beats)`, true for real beats; and time ids
        `(batch_size, num_beats)`, the 1-based second of each peak, 0 for missing beats (and, as in the released
        tokenizer, for a peak on sample 0).
    """
    batch_size, num_leads, num_samples = signals.shape
    half = beat_length // 2
    length = np.full((batch_size, 1), num_samples) if lengths is None else np.asarray(lengths).reshape(-1, 1)

    peaks = np.full((batch_size, max(num_beats, r_peaks.shape[1]) + 1), -1, dtype=np.int64)
    peaks[:, : r_peaks.shape[1]] = r_peaks
    after = peaks[:, 1 : num_beats + 1]
    peaks = peaks[:, :num_beats]
    before = np.concatenate([np.full((batch_size, 1), -1), peaks[:, :-1]], axis=1)
    mask = peaks >= 0

    window_start = np.maximum(peaks - half, 0)
    start = np.where(before >= 0, (before + peaks) // 2, window_start)
    end = np.where(after >= 0, (peaks + after) // 2, np.minimum(peaks + half, length))
    lone = (before < 0) & (after < 0)
    end = np.where(lone, start + beat_length, end)
    too_long = end - start > beat_length
    start = np.where(too_long, window_start, start)
    end = np.where(too_long, window_start + beat_length, end)
    end = np.minimum(end, length)

    # The R peak sits in the middle of its window, except where more than half a window lies before it: such a beat
    # starts at the window's first sample, as in the released tokenizer, so that none of its head is lost.
    sample = np.minimum(peaks - half, start)[:, :, None] + np.arange(beat_length)
    inside = mask[:, :, None] & (sample >= start[:, :, None]) & (sample < end[:, :, None])
    sample = np.where(inside, sample, 0).reshape(batch_size, 1, num_beats * beat_length)
    beats = np.take_along_axis(signals, sample, axis=2).reshape(batch_size, num_leads, num_beats, beat_length)
    beats *= inside[:, None]

    time_ids = np.where(peaks > 0, peaks // int(sampling_rate) + 1, 0)
    return beats, mask, time_ids
