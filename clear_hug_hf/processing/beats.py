"""
Segmentation of recordings into beats: the tokenizer of Pan et al. (AAAI 2026, arXiv 2512.24002).

A beat extends halfway to the preceding and halfway to the following beat, in a window of fixed length centered on its
R peak. All leads share the R peaks of the recording.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def pad_peaks(r_peaks: Sequence[np.ndarray]) -> np.ndarray:
    """Stack arrays of peaks to `(num_recordings, max_peaks)`, padded with -1, with at least one column."""
    width = max([1, *(len(peaks) for peaks in r_peaks)])
    padded = np.full((len(r_peaks), width), -1, dtype=np.int64)
    for row, peaks in enumerate(r_peaks):
        padded[row, : len(peaks)] = peaks
    return padded


def group_beats(r_peaks: np.ndarray, num_samples: int, max_beats: int) -> list[tuple[np.ndarray, int, int]]:
    """
    Divide the beats of a window into groups of nearly equal size.

    Args:
        r_peaks (`np.ndarray`): R peaks of the window in ascending order [samples].
        num_samples (`int`): Length of the window.
        max_beats (`int`): Maximum number of beats of a group.

    Returns:
        `list[tuple[np.ndarray, int, int]]`: Indices of the beats of each group, and its start and end [samples],
        midway between two beats. A window without beats is one empty group.
    """
    groups = np.array_split(np.arange(len(r_peaks)), max(1, -(-len(r_peaks) // max_beats)))
    # Rounded up, so that even peaks at adjacent samples are in different groups.
    bounds = [(int(r_peaks[group[0] - 1]) + int(r_peaks[group[0]]) + 1) // 2 for group in groups[1:]]
    return list(zip(groups, [0, *bounds], [*bounds, num_samples], strict=True))


def describe_beats(
    beats: np.ndarray, beat_mask: np.ndarray, r_peaks: np.ndarray, sampling_rate: float = 100.0
) -> np.ndarray:
    """
    Compute the features of beats that normalization removes: the scale relative to the other beats of the lead and the
    adjacent RR intervals. They depend neither on the unit nor on the scale of a lead.

    Args:
        beats (`np.ndarray` of shape `(batch_size, num_leads, num_beats, beat_length)`): Output of [`cut_beats`].
        beat_mask (`np.ndarray` of shape `(batch_size, num_beats)`): True for beats that are present.
        r_peaks (`np.ndarray` of shape `(batch_size, max_peaks)`): All R peaks in ascending order [samples], padded
        with
            -1.
        sampling_rate (`float`, *optional*, defaults to `100.0`): Sampling rate of the peaks [Hz].

    Returns:
        `np.ndarray` of shape `(batch_size, num_leads, num_beats, 3)`, float32: the natural logarithm of the ratio of
        the standard deviation of the beat to the root mean square of these in its lead, between -3 and 3 (0 for a flat
        lead), and the preceding and following RR interval [s], at most 3 and 0 if there is none. Zero for missing
        beats.
    """
    num_beats = beats.shape[2]
    present = beat_mask[:, None, :]
    deviation = np.where(present, beats.std(axis=-1, dtype=np.float64), 0.0)
    count = np.maximum(beat_mask.sum(axis=1), 1)[:, None, None]
    lead_deviation = np.sqrt(np.square(deviation).sum(axis=2, keepdims=True) / count)
    with np.errstate(divide="ignore", invalid="ignore"):
        scale = np.where(present & (lead_deviation > 0), np.log(deviation / lead_deviation), 0.0).clip(-3, 3)

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
    Cut a batch of recordings into beats, vectorized over recordings, leads and beats.

    With R peaks `r_1 .. r_m`, beat `j` covers `[(r_{j-1} + r_j) // 2, (r_j + r_{j+1}) // 2)`. The first one starts
    half a window before its peak and the last one ends half a window after its peak, within the signal. Beats that are
    longer than the window are cut to its length, starting half a window before the peak. The peak is in the center of
    the window, except for a beat with more than half a window before its peak, which starts at the first sample of the
    window. Samples outside the beat are zero.

    Args:
        signals (`np.ndarray` of shape `(batch_size, num_leads, num_samples)`): Signals at `sampling_rate`.
        r_peaks (`np.ndarray` of shape `(batch_size, max_peaks)`): R peaks in ascending order [samples], padded with
        -1.
        num_beats (`int`, *optional*, defaults to `15`): Maximum number of beats; later ones are dropped.
        beat_length (`int`, *optional*, defaults to `96`): Window length [samples].
        sampling_rate (`float`, *optional*, defaults to `100.0`): Sampling rate of the signals [Hz].
        lengths (`np.ndarray` of shape `(batch_size,)`, *optional*): Number of samples before padding.

    Returns:
        `tuple[np.ndarray, np.ndarray, np.ndarray]`: Beats `(batch_size, num_leads, num_beats, beat_length)` in the
        dtype of the signals; a boolean mask `(batch_size, num_beats)`, True for beats that are present; and time ids
        `(batch_size, num_beats)`, the one-based second of each peak, 0 for missing beats and, as in the released
        tokenizer, for a peak at sample 0.
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

    # As in the released tokenizer, a beat with more than half a window before its peak starts at the first sample of
    # the window, so that its beginning is not cut off.
    sample = np.minimum(peaks - half, start)[:, :, None] + np.arange(beat_length)
    inside = mask[:, :, None] & (sample >= start[:, :, None]) & (sample < end[:, :, None])
    sample = np.where(inside, sample, 0).reshape(batch_size, 1, num_beats * beat_length)
    beats = np.take_along_axis(signals, sample, axis=2).reshape(batch_size, num_leads, num_beats, beat_length)
    beats *= inside[:, None]

    time_ids = np.where(peaks > 0, peaks // int(sampling_rate) + 1, 0)
    return beats, mask, time_ids
