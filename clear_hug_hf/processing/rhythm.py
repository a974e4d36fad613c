"""
Rhythm features: heart rate, variability, irregularity, early beats and pauses, from the R peaks of a window.

They are an extension of this package and not part of the papers, whose encoders read the shape of beats or patches and
know little about the time between beats. [`measure_rhythm`] measures RR intervals in physical units, following the
usual time-domain measures (Task Force of the European Society of Cardiology, Circulation 93, 1996).
[`rhythm_features`] turns the measures into values of order one, most of them logarithms or hinges, such as at the
limits of bradycardia and tachycardia (60 and 100/min), so that a linear map can read them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np


_SHORTEST, _LONGEST = 0.2, 3.0  # limits of RR intervals [s], 300 and 20/min
_RESOLUTION = 0.01  # fraction of an RR interval below which differences are rounding: one sample at 100 Hz and 60/min
_EARLY, _LATE = 0.85, 1.15  # relative to the median RR interval; healthy breathing rarely exceeds them
_VERY_EARLY, _VERY_LATE = 0.75, 1.4  # premature beats, and pauses or missed beats


class RhythmMeasures(NamedTuple):
    """
    Measures of the rhythm of a window. RR intervals are limited to 0.2 to 3 s. In a window with a single beat, or
    without any, its whole duration counts as the only interval; measures of variability are 0 if there are fewer
    intervals than they need.

    Args:
        num_beats (`int`): Number of R peaks.
        pause (`float`): Longest time without a beat, including those before the first and behind the last one [s].
        median_rr, mean_rr, shortest_rr, longest_rr (`float`): RR intervals [s].
        sdnn (`float`): Standard deviation of the RR intervals [s].
        rmssd (`float`): Root mean square of successive differences of RR intervals [s].
        median_difference (`float`): Median of the absolute successive differences [s], which single early beats and
            missed beats hardly change.
        median_deviation (`float`): Median absolute deviation of the RR intervals from their median [s].
        slow_deviation (`float`): Standard deviation of the RR intervals smoothed over three beats [s]: breathing.
        fast_deviation (`float`): Standard deviation of what smoothing removes [s]: fibrillation and ectopic beats.
        correlation, second_correlation (`float`): Autocorrelation of the RR intervals at one and at two beats, from -1
            to 1: positive if they vary with breathing, near 0 in atrial fibrillation, and negative, then positive in
            bigeminy.
        early, very_early, late, very_late (`float`): Fraction of the RR intervals below 0.85 and 0.75, and above 1.15
            and 1.4 of the median.
        alternating (`float`): Fraction of the successive differences whose sign differs from that of the one before.
        equal (`float`): Fraction of the successive differences of at most 2 % of the median RR interval.
    """

    num_beats: int
    pause: float
    median_rr: float
    mean_rr: float
    shortest_rr: float
    longest_rr: float
    sdnn: float = 0.0
    rmssd: float = 0.0
    median_difference: float = 0.0
    median_deviation: float = 0.0
    slow_deviation: float = 0.0
    fast_deviation: float = 0.0
    correlation: float = 0.0
    second_correlation: float = 0.0
    early: float = 0.0
    very_early: float = 0.0
    late: float = 0.0
    very_late: float = 0.0
    alternating: float = 0.0
    equal: float = 0.0


def measure_rhythm(r_peaks: np.ndarray, num_samples: int, sampling_rate: float) -> RhythmMeasures:
    """
    Measure the rhythm of a window.

    Args:
        r_peaks (`np.ndarray`): R peaks in ascending order [samples].
        num_samples (`int`): Length of the window.
        sampling_rate (`float`): Sampling rate [Hz].

    Returns:
        [`RhythmMeasures`]
    """
    peaks = np.asarray(r_peaks, dtype=np.float64)
    gaps = np.diff(peaks, prepend=0.0, append=float(num_samples)) / sampling_rate
    intervals = gaps[1:-1] if len(peaks) > 1 else np.array([num_samples / sampling_rate])
    intervals = intervals.clip(_SHORTEST, _LONGEST)
    median, mean = float(np.median(intervals)), float(intervals.mean())
    measures = RhythmMeasures(
        num_beats=len(peaks),
        pause=float(gaps.max()),
        median_rr=median,
        mean_rr=mean,
        shortest_rr=float(intervals.min()),
        longest_rr=float(intervals.max()),
    )
    if len(intervals) < 2:
        return measures
    differences, relative = np.diff(intervals), intervals / median
    centered = intervals - mean
    # Rounding to samples must not look like a correlation.
    variance = np.square(centered).mean() + (_RESOLUTION * mean) ** 2
    smooth = np.convolve(intervals, (0.25, 0.5, 0.25), mode="valid") if len(intervals) > 3 else intervals[:1]
    rest = intervals[1:-1] - smooth if len(intervals) > 3 else intervals[:1]
    signs = np.sign(np.where(np.abs(differences) > _RESOLUTION * median, differences, 0.0))
    return measures._replace(
        sdnn=float(intervals.std()),
        rmssd=float(np.sqrt(np.square(differences).mean())),
        median_difference=float(np.median(np.abs(differences))),
        median_deviation=float(np.median(np.abs(intervals - median))),
        slow_deviation=float(smooth.std()),
        fast_deviation=float(rest.std()),
        correlation=float((centered[1:] * centered[:-1]).sum() / (len(centered) * variance)),
        second_correlation=float((centered[2:] * centered[:-2]).sum() / (len(centered) * variance)),
        early=float((relative < _EARLY).mean()),
        very_early=float((relative < _VERY_EARLY).mean()),
        late=float((relative > _LATE).mean()),
        very_late=float((relative > _VERY_LATE).mean()),
        alternating=float((signs[1:] * signs[:-1] < 0).mean()) if len(signs) > 1 else 0.0,
        equal=float((np.abs(differences) <= 2 * _RESOLUTION * median).mean()),
    )


def _rate(measures: RhythmMeasures) -> float:
    return 60.0 / measures.median_rr


def _log_fraction(deviation: Callable[[RhythmMeasures], float]) -> Callable[[RhythmMeasures], float]:
    """The logarithm of a deviation as a fraction of the mean RR interval, 0 at 5 % and limited by rounding."""
    return lambda measures: float(np.log((deviation(measures) / measures.mean_rr + _RESOLUTION) / 0.06))


def _log_above(percent: float) -> Callable[[RhythmMeasures], float]:
    """The logarithm of the RMSSD as a multiple of a fraction of the mean RR interval, 0 below it."""
    limit = percent / 100 + _RESOLUTION
    return lambda measures: max(float(np.log((measures.rmssd / measures.mean_rr + _RESOLUTION) / limit)), 0.0)


_FEATURES: dict[str, Callable[[RhythmMeasures], float]] = {
    "log_rate": lambda measures: float(np.log2(_rate(measures) / 75)),
    "log_mean_rate": lambda measures: float(np.log2(60 / measures.mean_rr / 75)),
    "rate_below_50": lambda measures: max(50 - _rate(measures), 0.0) / 10,
    "rate_below_60": lambda measures: max(60 - _rate(measures), 0.0) / 10,
    "rate_below_70": lambda measures: max(70 - _rate(measures), 0.0) / 10,
    "rate_above_85": lambda measures: max(_rate(measures) - 85, 0.0) / 20,
    "rate_above_100": lambda measures: max(_rate(measures) - 100, 0.0) / 20,
    "rate_above_120": lambda measures: max(_rate(measures) - 120, 0.0) / 20,
    "log_sdnn": _log_fraction(lambda measures: measures.sdnn),
    "log_rmssd": _log_fraction(lambda measures: measures.rmssd),
    "log_median_difference": _log_fraction(lambda measures: measures.median_difference),
    "log_median_deviation": _log_fraction(lambda measures: measures.median_deviation),
    "log_slow_deviation": _log_fraction(lambda measures: measures.slow_deviation),
    "log_fast_deviation": _log_fraction(lambda measures: measures.fast_deviation),
    # Sinus arrhythmia lies between regular rhythms and fibrillation.
    "log_rmssd_above_4": _log_above(4),
    "log_rmssd_above_8": _log_above(8),
    "log_rmssd_above_15": _log_above(15),
    "rmssd": lambda measures: 5 * measures.rmssd / measures.mean_rr,
    "median_difference": lambda measures: 5 * measures.median_difference / measures.mean_rr,
    "range": lambda measures: (measures.longest_rr - measures.shortest_rr) / measures.median_rr,
    "correlation": lambda measures: 2 * measures.correlation,
    "second_correlation": lambda measures: 2 * measures.second_correlation,
    "early": lambda measures: 4 * measures.early,
    "very_early": lambda measures: 4 * measures.very_early,
    "late": lambda measures: 4 * measures.late,
    "very_late": lambda measures: 4 * measures.very_late,
    "alternating": lambda measures: 2 * measures.alternating,
    "equal": lambda measures: 2 * measures.equal,
    "log_pause": lambda measures: float(np.log2(measures.pause)),
    "few_beats": lambda measures: float(measures.num_beats < 3),
}

RHYTHM_FEATURES = tuple(_FEATURES)
"""
Names of the rhythm features. Configs name those that a classifier reads, so that saved classifiers keep theirs if
others are added.
"""


def rhythm_features(
    r_peaks: Sequence[np.ndarray],
    lengths: Sequence[int],
    sampling_rate: float,
    names: Sequence[str] = RHYTHM_FEATURES,
) -> np.ndarray:
    """
    Compute the rhythm features of windows.

    Args:
        r_peaks (`Sequence[np.ndarray]`): R peaks of each window in ascending order, also those that the model does not
            read [samples].
        lengths (`Sequence[int]`): Length of each window [samples].
        sampling_rate (`float`): Sampling rate [Hz].
        names (`Sequence[str]`, *optional*): Features to compute, of [`RHYTHM_FEATURES`]; all by default.

    Returns:
        `np.ndarray` of shape `(num_windows, len(names))`, float32.
    """
    measured = (measure_rhythm(peaks, length, sampling_rate) for peaks, length in zip(r_peaks, lengths, strict=True))
    rows = [[_FEATURES[name](measures) for name in names] for measures in measured]
    return np.array(rows, dtype=np.float32).reshape(len(rows), len(names))
