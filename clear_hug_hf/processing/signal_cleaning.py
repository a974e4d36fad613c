"""
Cleaning of ECG signals: validation, repair of NaN and Inf, resampling, band-pass filtering and rescaling.

Each step is a function of arrays with time on the last axis. The settings of the feature extractor select and
configure the steps.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from fractions import Fraction
from functools import lru_cache
from typing import Any

import numpy as np
from scipy import signal as scipy_signal
from transformers.utils import logging

from .errors import InputError
from .leads import STANDARD_LEADS


logger = logging.get_logger(__name__)

MILLIVOLTS_PER_UNIT: dict[str, float] = {"mV": 1.0, "uV": 1e-3, "V": 1e3, "NU": 1.0}
"""Supported units. Values in normalized units (`NU`), which have no known scale, are not converted."""

_NEIGHBORS = 6  # samples on each side that are used for repair
_UNIT_ALIASES = {
    "MV": "mV",
    "MILLIVOLT": "mV",
    "UV": "uV",
    "\u039cV": "uV",  # upper case of the micro sign and of the Greek mu
    "MICROVOLT": "uV",
    "V": "V",
    "NU": "NU",
}


def canonical_unit(unit: str) -> str:
    """
    Standard spelling of a unit: `mV`, `uV`, `V` or `NU`.

    Raises:
        InputError: If the unit is unknown.
    """
    canonical = _UNIT_ALIASES.get(str(unit).strip().upper())
    if canonical is None:
        raise InputError(
            f"unknown unit {unit!r}: use one of {', '.join(MILLIVOLTS_PER_UNIT)} (NU: normalized, no unit)"
        )
    return canonical


def check_waveform(
    waveform: Any, lead_names: Sequence[str] | None, unit: str | Sequence[str] | None
) -> tuple[np.ndarray, list[str], list[str]]:
    """
    Validate a recording.

    Args:
        waveform (`np.ndarray` of shape `(num_leads, num_samples)`): Recording.
        lead_names (`Sequence[str]`): Name of each row.
        unit (`str` or `Sequence[str]`): Unit of all rows or of each.

    Returns:
        `tuple[np.ndarray, list[str], list[str]]`: Samples as float32, lead names, and canonical units of the leads.

    Raises:
        InputError: If an argument is missing or invalid.
    """
    array = np.asarray(waveform)
    if array.dtype.kind not in "fiu":
        raise InputError(f"the waveform must contain real numbers, got dtype {array.dtype}")
    if array.ndim != 2:
        raise InputError(f"the waveform must have shape (leads, samples), got {array.ndim} dimension(s)")
    if lead_names is None:
        raise InputError("lead_names is required: pass one name for each row of the waveform")
    names = [str(name) for name in lead_names]
    if len(names) != array.shape[0]:
        hint = "transpose it to (leads, samples)" if len(names) == array.shape[1] else "pass one name per row"
        raise InputError(f"the waveform has {array.shape[0]} rows but there are {len(names)} lead names: {hint}")
    if unit is None:
        raise InputError("unit is required: pass mV, uV, V or NU (normalized)")
    units = [unit] * len(names) if isinstance(unit, str) else list(unit)
    if len(units) != len(names):
        raise InputError(f"unit must be one unit, or one for each of the {len(names)} leads, got {len(units)}")
    return array.astype(np.float32, copy=False), names, [canonical_unit(lead_unit) for lead_unit in units]


def usable_leads(present: np.ndarray, finite: np.ndarray, max_non_finite: float) -> np.ndarray:
    """
    Select the leads with enough finite samples, and log a warning for the others.

    Args:
        present (`np.ndarray` of shape `(12,)`): True for recorded leads.
        finite (`np.ndarray` of shape `(12, num_samples)`): False for samples that are NaN or Inf.
        max_non_finite (`float`): Maximum fraction of NaN and Inf of a usable lead.

    Returns:
        `np.ndarray` of shape `(12,)`: True for usable leads.

    Raises:
        InputError: If no lead is usable.
    """
    unusable = present & (1.0 - finite.mean(axis=1) > max_non_finite)
    present = present & ~unusable
    percent = 100 * max_non_finite
    if not present.any():
        raise InputError(
            f"every lead is NaN or Inf in more than {percent:g} % of its samples: the recording contains no usable "
            "signal"
        )
    if unusable.any():
        names = ", ".join(np.array(STANDARD_LEADS)[unusable])
        logger.warning("more than %g %% of lead(s) %s are NaN or Inf: treated as missing", percent, names)
    return present


def repair_non_finite(signals: np.ndarray) -> np.ndarray:
    """
    Replace NaN and Inf, as in the code released by Pan et al. (2026): by the mean of the finite samples among the six
    samples on either side, or, if there are none, by linear interpolation. A lead without finite samples becomes zero.

    Args:
        signals (`np.ndarray` of shape `(..., num_samples)`): Signals, which are not modified.

    Returns:
        `np.ndarray`: Repaired copy, or the same array if all samples are finite.
    """
    finite = np.isfinite(signals)
    if finite.all():
        return signals
    repaired = np.array(signals)
    for index in np.argwhere(~finite.all(axis=-1)):
        lead = tuple(index)
        repaired[lead] = _repair_lead(repaired[lead], finite[lead])
    return repaired


def _repair_lead(lead: np.ndarray, finite: np.ndarray) -> np.ndarray:
    if not finite.any():
        return np.zeros_like(lead)
    kernel = np.ones(2 * _NEIGHBORS + 1)
    count = np.convolve(finite, kernel)[_NEIGHBORS:-_NEIGHBORS]
    total = np.convolve(np.where(finite, lead, 0.0), kernel)[_NEIGHBORS:-_NEIGHBORS]
    samples = np.arange(lead.size)
    line = np.interp(samples, samples[finite], lead[finite])
    # `count` is computed by convolution: comparing with 0.5 instead of 0 is robust to rounding.
    near = np.where(count > 0.5, total / np.maximum(count, 1.0), line)
    return np.where(finite, lead, near).astype(lead.dtype)


def resample(signals: np.ndarray, sampling_rate: float, target_rate: float) -> np.ndarray:
    """
    Resample along the last axis with a polyphase anti-aliasing filter. Equivalent to `scipy.signal.resample_poly` with
    `padtype="line"` up to rounding.

    Args:
        signals (`np.ndarray` of shape `(..., num_samples)`): Finite signals.
        sampling_rate (`float`): Sampling rate of the signals [Hz].
        target_rate (`float`): Target sampling rate [Hz].

    Returns:
        `np.ndarray` of shape `(..., ceil(num_samples * target_rate / sampling_rate))`.
    """
    if sampling_rate == target_rate:
        return signals
    up, down = rate_ratio(sampling_rate, target_rate)
    x = signals.reshape(-1, signals.shape[-1])
    if x.dtype.kind != "f":
        x = x.astype(np.float64)
    num_samples = x.shape[1]
    num_out = -(-num_samples * up // down)
    filters, reach = _polyphase_filters(up, down, x.dtype.str)
    # Extrapolate along the line through the first and last sample: zero padding would add a step at each end if the
    # baseline drifts.
    slope = (x[:, -1:] - x[:, :1]) / max(num_samples - 1, 1)

    def extrapolate(before: int, behind: int) -> tuple[np.ndarray, np.ndarray]:
        start = x[:, :1] - slope * np.arange(before, 0, -1, dtype=x.dtype)
        return start, x[:, -1:] + slope * np.arange(1, behind + 1, dtype=x.dtype)

    resampled = apply_polyphase(x, up, down, filters, reach, num_out, extrapolate)
    return resampled.reshape(*signals.shape[:-1], num_out)


def interpolate(signals: np.ndarray, num_samples: int) -> np.ndarray:
    """
    Resample along the last axis to `num_samples` by linear interpolation without an anti-aliasing filter. The first
    and the last sample are kept.
    """
    if signals.shape[-1] == num_samples:
        return signals
    places = np.linspace(0, signals.shape[-1] - 1, num_samples)
    below = np.minimum(places.astype(np.int64), max(signals.shape[-1] - 2, 0))
    weights = places - below
    above = np.minimum(below + 1, signals.shape[-1] - 1)
    return (signals[..., below] * (1 - weights) + signals[..., above] * weights).astype(signals.dtype)


def rate_ratio(sampling_rate: float, target_rate: float) -> tuple[int, int]:
    """The ratio of the target rate to the sampling rate in lowest terms."""
    ratio = Fraction(target_rate).limit_denominator(10_000) / Fraction(sampling_rate).limit_denominator(10_000)
    ratio = ratio.limit_denominator(10_000)
    return ratio.numerator, ratio.denominator


def apply_polyphase(
    x: np.ndarray,
    up: int,
    down: int,
    filters: np.ndarray,
    reach: int,
    num_out: int,
    extend: Callable[[int, int], tuple[np.ndarray, np.ndarray]],
) -> np.ndarray:
    """
    Resample rows by matrix products.

    The product of `width` input samples and a matrix is a block of output samples, which is several times faster than
    filtering tap by tap. Block `b` uses matrix `b % kinds` and starts `reach` samples before input sample
    `b * block * down // up`.

    Args:
        x (`np.ndarray` of shape `(rows, num_samples)`): Signals.
        up, down (`int`): Ratio of the rates.
        filters (`np.ndarray` of shape `(kinds, width, block)`): Matrices.
        reach (`int`): Input samples before a block that its matrix reads.
        num_out (`int`): Number of output samples.
        extend (`Callable`): Returns the given numbers of samples before and behind the signals.

    Returns:
        `np.ndarray` of shape `(rows, num_out)`.
    """
    kinds, width, block = filters.shape
    num_blocks = -(-num_out // block)
    starts = np.arange(num_blocks) * block * down // up
    before, after = extend(reach, max(int(starts[-1]) + width - reach - x.shape[1], 0))
    windows = np.lib.stride_tricks.sliding_window_view(np.concatenate([before, x, after], axis=1), width, axis=1)
    resampled = np.empty((len(x), num_blocks, block), dtype=x.dtype)
    step = kinds * -(-_BLOCKS_AT_ONCE // kinds)
    for first in range(0, num_blocks, step):
        for kind in range(kinds):
            part = slice(first + kind, first + step, kinds)
            resampled[:, part] = windows[:, starts[part]] @ filters[kind]
    return resampled.reshape(len(x), -1)[:, :num_out]


_BLOCKS_AT_ONCE = 2000  # limits memory: the samples of each block are copied
_BLOCK = 20  # output samples per matrix product: more multiply more zeros, fewer copy more samples


def block_grid(up: int, down: int, reach: int) -> tuple[np.ndarray, np.ndarray]:
    """
    Positions of the entries of the matrices of [`apply_polyphase`].

    Returns:
        `tuple[np.ndarray, np.ndarray]`: Input samples `(kinds, width, 1)` and output samples `(kinds, 1, block)`.
    """
    width = _BLOCK * down // up + 2 * reach + 1
    first = np.arange(up // math.gcd(up, _BLOCK))[:, None, None] * _BLOCK
    return first * down // up - reach + np.arange(width)[:, None], first + np.arange(_BLOCK)


@lru_cache(maxsize=8)
def _polyphase_filters(up: int, down: int, dtype: str) -> tuple[np.ndarray, int]:
    """Filter of `scipy.signal.resample_poly` as matrices, and its `reach`, see [`apply_polyphase`]."""
    factor = max(up, down)
    half = 10 * factor
    taps = scipy_signal.firwin(2 * half + 1, 1.0 / factor, window=("kaiser", 5.0)) * up
    reach = half // up + 1
    sample, out = block_grid(up, down, reach)
    tap = out * down - sample * up + half
    inside = (tap >= 0) & (tap <= 2 * half)
    return np.where(inside, taps[np.where(inside, tap, 0)], 0.0).astype(dtype), reach


@lru_cache(maxsize=64)
def _bandpass_filter(low: float, high: float, order: int, sampling_rate: float) -> tuple[np.ndarray, np.ndarray]:
    sections = scipy_signal.butter(order, (low, high), btype="bandpass", fs=sampling_rate, output="sos")
    return sections, scipy_signal.sosfilt_zi(sections)


def bandpass(signals: np.ndarray, sampling_rate: float, low: float, high: float, order: int = 5) -> np.ndarray:
    """
    Zero-phase Butterworth band-pass along the last axis.

    Args:
        signals (`np.ndarray` of shape `(..., num_samples)`): Finite signals.
        sampling_rate (`float`): Sampling rate [Hz]; more than twice `high`.
        low (`float`): Lower cutoff frequency [Hz].
        high (`float`): Upper cutoff frequency [Hz].
        order (`int`, *optional*, defaults to `5`): Order of the filter, which is applied forward and backward.

    Returns:
        `np.ndarray`: Filtered signals of the same shape and dtype.
    """
    # Equivalent to `scipy.signal.sosfiltfilt` with an odd extension of 3 s, which spends a third of its time on
    # computing the initial state (12 leads x 10 s).
    sections, initial = _bandpass_filter(low, high, order, sampling_rate)
    pad = min(3 * int(sampling_rate), signals.shape[-1] - 1)
    x = signals.reshape(-1, signals.shape[-1]).astype(np.float64)
    x = np.concatenate([2 * x[:, :1] - x[:, pad:0:-1], x, 2 * x[:, -1:] - x[:, -2 : -pad - 2 : -1]], axis=1)
    for _ in range(2):
        x, _ = scipy_signal.sosfilt(sections, x, axis=1, zi=initial[:, None, :] * x[None, :, :1])
        x = x[:, ::-1]
    return x[:, pad : x.shape[1] - pad].reshape(signals.shape).astype(signals.dtype, copy=False)


def rescale(signals: np.ndarray, limit: float = 3.0) -> np.ndarray:
    """
    Rescale a recording so that its minimum is `-limit` and its maximum is `limit`, as the code released by Pan et al.
    (2026) does for CPSC2018 and CSN. A constant recording becomes zero.

    Args:
        signals (`np.ndarray` of shape `(num_leads, num_samples)`): Recording.
        limit (`float`, *optional*, defaults to `3.0`): Half of the resulting range.
    """
    low, high = float(signals.min()), float(signals.max())
    if high <= low:
        return np.zeros_like(signals)
    return ((signals - low) * (2.0 * limit / (high - low)) - limit).astype(signals.dtype, copy=False)
