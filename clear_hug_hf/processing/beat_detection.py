"""
R-peak detectors. The default reads all leads jointly.

`"multilead"` follows Pan and Tompkins (IEEE Trans. Biomed. Eng. 32, 1985): band-pass filter, energy, moving window,
adaptive threshold, refractory period and T-wave rule. It combines the leads before detection:

1. One FFT per lead applies a zero-phase band-pass of 8-20 Hz, where the QRS is most prominent (Elgendi et al.,
   BIOSIGNALS 2010), and resamples to about 100 Hz. The magnitude makes the result independent of the sign of a lead.
2. Each lead is divided by its typical peak and clipped at 1, so that neither the unit nor an artifact or a giant
   ectopic beat in one lead matters. The typical peak is the lower quartile over windows of 2 s within 10 s, so that it
   represents regular beats rather than the largest ones.
3. The leads are averaged. A lead has a higher weight if it is rarely high (a QRS is short, noise is not) and if its
   squared correlation with the average is high.
4. A window of 120 ms smooths the average. It is attenuated where the average of the 28-40 Hz band is similarly high,
   as in pacing spikes and white noise but not in a QRS, except in infants, in whom nothing else resembles a QRS.
5. Local maxima within 200 ms that reach 0.4 of the typical peak of the average are beats, unless they follow a beat
   within 360 ms and have less than half of its height (T waves). If the average is always high, it is noise.

The search for missed beats at half the threshold of Pan and Tompkins is omitted, since it found no further beats.
`benchmarks/beat_detectors.py` evaluates the detector on annotations by cardiologists.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from typing import Any

import numpy as np
from scipy import fft
from scipy.ndimage import correlate1d, maximum_filter1d

from .errors import InputError, import_library
from .leads import STANDARD_LEADS


MINIMUM_RATE = 50.0
"""Minimum sampling rate [Hz]: the QRS complex contains frequencies above 20 Hz."""

_RATE = 100  # sampling rate of the detector [Hz]
_QRS_BAND = (8.0, 20.0)  # [Hz]
_SPIKE_BAND = (28.0, 40.0)  # equally wide, for equal heights of spikes; below 40 Hz, where recordings may be filtered
_QRS_RATIO = (0.12, 0.45)  # spike band over QRS band at a beat: 0.24 in adults, at most 0.43 in PTB-XL and LUDB
_SPIKE_RATIO = 0.78  # lowest ratio of spikes and white noise
_MIN_QRS_HEIGHT = 0.2  # fraction of the typical peak that QRS-like maxima must reach for spikes to be attenuated
_MIN_DISTANCE = 8  # [samples at _RATE]
_RAMP_SECONDS = 0.5  # ramp from the end of a recording to its start, for circular filtering [s]
_BLOCK = 50  # peaks are computed over blocks of 0.5 s [samples at _RATE] ...
_WINDOW = 4  # ... and windows of 2 s, which contain a beat at 30/min or more; the quartile tolerates 25/min
_NEIGHBORHOOD = 17  # windows that span 10 s
_QUARTILE = 0.25
_MIN_MEDIAN_FRACTION = 0.4  # prevents a long pause from lowering the typical peak to the height of T waves
_MIN_MEAN = 0.06  # a lead that is high less often than with slow beats contains artifacts
_ROUNDING_ERROR = 1e-6  # peaks below this fraction of the range of a lead are ignored
_SMOOTHING = np.hanning(15)[1:-1] / np.hanning(15).sum()  # 120 ms at _RATE
_REFRACTORY = 20  # [samples at _RATE]
_THRESHOLD = 0.4
_T_WAVE_REACH = 36  # [samples at _RATE]
_T_WAVE_FRACTION = 0.5
_NOISE = 0.5  # 20th percentile over typical peak of the average: below 0.3 up to 220/min, 0.65 in noise
_CHUNK = 200_000  # samples filtered at once, which fit into the cache of a core


def _multilead(signals: np.ndarray, sampling_rate: float, present: np.ndarray) -> list[np.ndarray]:
    num_recordings, num_leads, num_samples = signals.shape
    chunk = max(1, _CHUNK // (num_leads * num_samples))
    peaks: list[np.ndarray] = []
    for start in range(0, num_recordings, chunk):
        part = slice(start, start + chunk)
        low, high, typical, step = _lead_magnitudes(signals[part], sampling_rate)
        typical = np.where(present[part, :, None], typical, 0.0)
        average = _average_leads(low, high, typical)
        rows, positions = _pick_beats(average)
        samples = np.minimum(np.rint(positions * step).astype(np.int64), num_samples - 1)
        peaks += np.split(samples, np.searchsorted(rows, np.arange(1, len(average))))
    return peaks


def _lead_magnitudes(signals: np.ndarray, sampling_rate: float) -> tuple[np.ndarray, np.ndarray, np.ndarray, float]:
    """Magnitudes of both bands at `_RATE` in full blocks, typical peaks of the QRS band by block, step in samples."""
    num_samples = signals.shape[-1]
    length = fft.next_fast_len(num_samples + math.ceil(_RAMP_SECONDS * sampling_rate), real=True)
    closed = np.empty((*signals.shape[:-1], length), dtype=np.float32)
    # Subtract the first sample before rounding to float32, so that a large offset does not cost precision.
    np.subtract(signals, signals[..., :1], out=closed[..., :num_samples], casting="same_kind")
    ramp = np.linspace(1.0, 0.0, length - num_samples, dtype=np.float32)
    np.multiply(closed[..., num_samples - 1 : num_samples], ramp, out=closed[..., num_samples:])
    lead_range = np.maximum(closed.max(axis=-1), -closed.min(axis=-1))

    new_length = round(length * _RATE / sampling_rate)
    step = length / new_length
    new_samples = min(math.ceil(num_samples / step), new_length)
    padded_samples = -(-new_samples // _BLOCK) * _BLOCK
    spectrum = fft.rfft(closed, axis=-1, overwrite_x=True)[..., : new_length // 2 + 1]
    magnitudes = []
    for band in (_QRS_BAND, _SPIKE_BAND):
        gain = _bandpass_gain(band, length, sampling_rate)[: new_length // 2 + 1]
        filtered = fft.irfft(spectrum * gain, new_length, axis=-1, overwrite_x=True)
        magnitude = np.empty((*signals.shape[:-1], padded_samples), dtype=np.float32)
        np.abs(filtered[..., :new_samples], out=magnitude[..., :new_samples])
        magnitude[..., new_samples:] = 0.0
        magnitudes.append(magnitude)
    typical = _typical_peaks(magnitudes[0])
    return *magnitudes, np.where(typical > _ROUNDING_ERROR * lead_range[..., None], typical, 0.0), step


@lru_cache(maxsize=16)
def _bandpass_gain(band: tuple[float, float], length: int, sampling_rate: float) -> np.ndarray:
    """Gain of a Butterworth band-pass filter of second order on each side, applied forward and backward."""
    frequencies = np.maximum(fft.rfftfreq(length, 1.0 / sampling_rate), 1e-6)
    gain = 1.0 / ((1.0 + (band[0] / frequencies) ** 4) * (1.0 + (frequencies / band[1]) ** 4))
    return gain.astype(np.float32)


def _typical_peaks(values: np.ndarray) -> np.ndarray:
    """Typical height of the peaks around each block `(..., num_blocks)`; `values` consist of full blocks."""
    num_blocks = values.shape[-1] // _BLOCK
    # Several times faster than a maximum over the last axis of a reshaped array.
    peaks = np.maximum.reduceat(values.reshape(-1), np.arange(0, values.size, _BLOCK))
    peaks = peaks.reshape(*values.shape[:-1], num_blocks)
    width = min(_WINDOW, num_blocks)
    num_windows = num_blocks - width + 1
    windows = peaks[..., :num_windows]
    for offset in range(1, width):
        windows = np.maximum(windows, peaks[..., offset : offset + num_windows])
    around = min(_NEIGHBORHOOD, num_windows)
    ranked = np.sort(np.lib.stride_tricks.sliding_window_view(windows, around, axis=-1), axis=-1)
    quartile, median = ranked[..., int(_QUARTILE * (around - 1))], ranked[..., (around - 1) // 2]
    typical = np.maximum(quartile, _MIN_MEDIAN_FRACTION * median)
    # Select the neighborhood whose center is closest to the block.
    center = (around + width - 1) // 2
    return typical[..., np.clip(np.arange(num_blocks) - center, 0, typical.shape[-1] - 1)]


def _average_leads(low: np.ndarray, high: np.ndarray, typical: np.ndarray) -> np.ndarray:
    """Weighted mean of the leads in units of their typical peaks, of shape `(num_recordings, num_samples)`."""
    inverse = np.zeros(typical.shape, dtype=np.float32)
    np.divide(1.0, typical, out=inverse, where=typical > 0, casting="same_kind")
    for magnitude in (low, high):
        blocks = magnitude.reshape(*typical.shape, _BLOCK)
        blocks *= inverse[..., None]
        np.minimum(magnitude, 1.0, out=magnitude)

    means = low.mean(axis=-1)
    weights = np.where(means > 0, np.maximum(means, _MIN_MEAN) ** -2.0, 0.0)
    average = _weighted_mean(weights, low)
    centered = average - average.mean(axis=-1, keepdims=True)
    covariance = np.matmul(low, centered[..., None])[..., 0]
    variance = np.einsum("blt,blt->bl", low, low) - means**2 * low.shape[-1]
    scale = variance * np.square(centered).sum(axis=-1, keepdims=True)
    weights *= np.divide(np.maximum(covariance, 0.0) ** 2, scale, out=np.zeros_like(scale), where=scale > 0)

    average = correlate1d(_weighted_mean(weights, low), _SMOOTHING, axis=-1, mode="constant")
    spikes = correlate1d(_weighted_mean(weights, high), _SMOOTHING, axis=-1, mode="constant")
    return _attenuate_spikes(average, spikes)


def _attenuate_spikes(average: np.ndarray, spikes: np.ndarray) -> np.ndarray:
    """Attenuate the average where the band above the QRS is similarly high, if enough QRS-like maxima remain."""
    ratio = np.divide(spikes, average, out=np.zeros_like(average), where=average > 0)
    highest = maximum_filter1d(average, 2 * _MIN_DISTANCE + 1, axis=-1, mode="constant")
    is_qrs_like = (average == highest) & (ratio > _QRS_RATIO[0]) & (ratio < _QRS_RATIO[1])
    # The QRS of infants is as narrow as a spike. Then only T waves remain, which are too low or too slow.
    remaining = _typical_peaks(np.where(is_qrs_like, average, np.float32(0.0)))
    has_qrs = np.repeat(remaining > _MIN_QRS_HEIGHT * _typical_peaks(average), _BLOCK, axis=-1)
    factor = np.clip((_SPIKE_RATIO - ratio) / (_SPIKE_RATIO - _QRS_RATIO[1]), 0.0, 1.0)
    return np.where(has_qrs, factor * average, average)


def _weighted_mean(weights: np.ndarray, magnitude: np.ndarray) -> np.ndarray:
    total = weights.sum(axis=-1, keepdims=True)
    normalized = np.divide(weights, total, out=np.zeros_like(weights), where=total > 0).astype(np.float32)
    return np.matmul(normalized[:, None, :], magnitude)[:, 0]


def _pick_beats(average: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Recording index and position of each beat, in order; positions are interpolated between samples."""
    typical = np.repeat(_typical_peaks(average), _BLOCK, axis=-1)
    sparse = average[:, :: len(_SMOOTHING) // 3]
    fifth = sparse.shape[-1] // 5
    quiet = np.partition(sparse, fifth, axis=-1)[:, fifth] < _NOISE * typical.mean(axis=-1)
    highest = maximum_filter1d(average, 2 * _REFRACTORY + 1, axis=-1, mode="constant")
    beats = (average == highest) & (average > 0) & (average >= _THRESHOLD * typical) & quiet[:, None]
    rows, columns = np.nonzero(beats)

    heights = average[rows, columns]
    since = np.where(np.diff(rows, prepend=-1) == 0, np.diff(columns, prepend=0), np.iinfo(np.int64).max)
    t_wave = (since <= _T_WAVE_REACH) & (heights < _T_WAVE_FRACTION * np.roll(heights, 1))
    # Equal heights within the refractory period belong to one plateau.
    keep = ~t_wave & (since > _REFRACTORY)
    rows, columns, heights = rows[keep], columns[keep], heights[keep]

    before = average[rows, np.maximum(columns - 1, 0)]
    after = average[rows, np.minimum(columns + 1, average.shape[-1] - 1)]
    # Vertex of the parabola through the maximum and its neighbors.
    curvature = before - 2.0 * heights + after
    shift = np.divide(before - after, 2.0 * curvature, out=np.zeros_like(curvature), where=curvature < 0)
    return rows, np.maximum(columns + np.clip(shift, -0.5, 0.5), 0.0)


def _find_xqrs(lead: np.ndarray, sampling_rate: float) -> np.ndarray:
    wfdb = import_library("wfdb.processing", "the detector 'xqrs'")
    return np.asarray(wfdb.xqrs_detect(sig=lead, fs=sampling_rate, verbose=False))


def _find_neurokit(lead: np.ndarray, sampling_rate: float) -> np.ndarray:
    neurokit2 = import_library("neurokit2", "the detector 'neurokit'")
    cleaned = neurokit2.ecg_clean(lead, sampling_rate=round(sampling_rate))
    return np.asarray(neurokit2.ecg_peaks(cleaned, sampling_rate=round(sampling_rate))[1]["ECG_R_Peaks"])


def _on_one_lead(
    signals: np.ndarray,
    sampling_rate: float,
    present: np.ndarray,
    lead_names: Sequence[str],
    find: Callable[[np.ndarray, float], np.ndarray],
) -> list[np.ndarray]:
    # Lead II first, then the others until one has a beat, as in the released tokenizer.
    order = sorted(range(len(lead_names)), key=lambda row: str(lead_names[row]).upper() != "II")
    all_peaks = []
    for recording, has_lead in zip(signals, present, strict=True):
        peaks = np.empty(0)
        for row in order:
            # The libraries raise errors or divide by zero on flat leads.
            if has_lead[row] and np.ptp(recording[row]) > 0:
                peaks = find(recording[row].astype(np.float64), sampling_rate)
            if peaks.size:
                break
        all_peaks.append(np.sort(peaks).astype(np.int64))
    return all_peaks


def _regular(signals: np.ndarray, sampling_rate: float, *_: Any) -> list[np.ndarray]:
    """Centers of consecutive segments of 0.96 s, independent of the signal, as a baseline for beat detection."""
    length = round(0.96 * sampling_rate)
    centers = np.arange(length // 2, signals.shape[-1] - length // 2 + 1, length, dtype=np.int64)
    return [centers if centers.size else np.array([signals.shape[-1] // 2], dtype=np.int64)] * len(signals)


DETECTORS: dict[str, Callable[[np.ndarray, float, np.ndarray, Sequence[str]], list[np.ndarray]]] = {
    "multilead": lambda signals, sampling_rate, present, _: _multilead(signals, sampling_rate, present),
    "xqrs": partial(_on_one_lead, find=_find_xqrs),
    "neurokit": partial(_on_one_lead, find=_find_neurokit),
    "regular": _regular,
}
"""
Detectors by name: `"multilead"` of this module, `"xqrs"` of wfdb, which Pan et al. (2026) use, and `"neurokit"` of
NeuroKit2. `"regular"` does not detect beats but divides a recording into segments of 0.96 s, as a baseline.
"""


def detect_r_peaks(
    signals: np.ndarray,
    sampling_rate: float = 100.0,
    detector: str = "multilead",
    lead_names: Sequence[str] = STANDARD_LEADS,
    lead_mask: np.ndarray | None = None,
) -> list[np.ndarray]:
    """
    Detect the R peaks of recordings. The result is empty for a recording without beats.

    The peaks of `"multilead"` are the maxima of the combined leads within the QRS complex, which are within a few ms
    of the R peaks of narrow beats. They do not depend on the order, sign, scale or offset of the leads.

    Args:
        signals (`np.ndarray` of shape `(num_recordings, num_leads, num_samples)` or `(num_leads, num_samples)`):
            Recordings of equal length in any unit, which may differ between leads. Samples that are not finite are
            interpolated linearly.
        sampling_rate (`float`, *optional*, defaults to `100.0`): Sampling rate [Hz], at least 50.
        detector (`str`, *optional*, defaults to `"multilead"`):
            One of [`DETECTORS`]. `"xqrs"` and `"neurokit"` read a single lead: lead II, or the first other lead with
            beats if it has none.
        lead_names (`Sequence[str]`, *optional*, defaults to the 12 standard leads): Names of the rows.
        lead_mask (`np.ndarray` of shape `(num_recordings, num_leads)` or `(num_leads,)`, *optional*):
            True for leads that are present; others are ignored. Leads that are flat or not finite are ignored anyway.

    Returns:
        `list[np.ndarray]`: R peaks of each recording in ascending order [samples], int64. Contains one array if
        `signals` is two-dimensional.

    Raises:
        InputError: If the detector is unknown, the sampling rate is below 50 Hz, or the shapes do not match.
        ImportError: If the library of the detector is not installed.
    """
    if detector not in DETECTORS:
        raise InputError(f"unknown beat detector {detector!r}: choose one of {', '.join(map(repr, DETECTORS))}")
    signals = np.asarray(signals)
    if signals.ndim == 2:
        signals = signals[None]
    if signals.ndim != 3 or signals.shape[-1] == 0:
        raise InputError(
            f"signals must be non-empty of shape (leads, samples) or (recordings, leads, samples), got {signals.shape}"
        )
    if not np.isfinite(sampling_rate) or sampling_rate < MINIMUM_RATE:
        raise InputError(f"sampling_rate must be at least {MINIMUM_RATE:g} Hz to detect beats, got {sampling_rate}")
    if len(lead_names) != signals.shape[1]:
        raise InputError(f"lead_names must have one name for each of the {signals.shape[1]} rows, got {lead_names}")
    present = np.ones(signals.shape[:2], dtype=bool)
    if lead_mask is not None:
        lead_mask = np.asarray(lead_mask, dtype=bool)
        if lead_mask.shape not in (present.shape, present.shape[1:]):
            raise InputError(
                f"lead_mask must have the shape {present.shape} or {present.shape[1:]}, got {lead_mask.shape}"
            )
        present &= lead_mask
    if not np.issubdtype(signals.dtype, np.floating):
        signals = signals.astype(np.float64)
    return DETECTORS[detector](_bridge_gaps(signals), float(sampling_rate), present, lead_names)


def _bridge_gaps(signals: np.ndarray) -> np.ndarray:
    """
    Interpolate samples that are not finite linearly, or replace them by zero in a lead without finite samples.

    `repair_non_finite` fills gaps with the mean of nearby samples, whose steps the detectors would mistake for beats.
    """
    finite = np.isfinite(signals)
    if finite.all():
        return signals
    signals = np.where(finite, signals, 0.0)
    samples = np.arange(signals.shape[-1])
    for recording, lead in np.argwhere(~finite.all(axis=-1) & finite.any(axis=-1)):
        known = finite[recording, lead]
        signals[recording, lead, ~known] = np.interp(samples[~known], samples[known], signals[recording, lead, known])
    return signals
