"""
Cleaning of ECG signals: checks, repair of non-finite samples, resampling, band-pass, scaling.

Each step is one function of arrays with time on the last axis; which of them run, and with which numbers, is the
feature extractor's configuration.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
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
"""Known units. `NU` (normalized unit) is a signal scaled lead by lead: it has no millivolts and keeps its numbers."""

_NEIGHBORS = 6  # How far to look on each side of a sample that is repaired.
_UNIT_ALIASES = {
    "MV": "mV",
    "MILLIVOLT": "mV",
    "UV": "uV",
    "\u039cV": "uV",  # what the micro sign and the Greek mu become in upper case
    "MICROVOLT": "uV",
    "V": "V",
    "NU": "NU",
}


def canonical_unit(unit: str) -> str:
    """
    Standard spelling of a unit: `mV`, `uV`, `V` or `NU`.

    Raises:
        InputError: If the unit is not one of these.
    """
    text = str(unit).strip()
    known = _UNIT_ALIASES.get(text.upper())
    if known is None:
        raise InputError(
            f"unknown unit {unit!r}: use one of {', '.join(MILLIVOLTS_PER_UNIT)} (NU: normalized, no unit)"
        )
    return known


def check_waveform(
    waveform: Any, lead_names: Sequence[str] | None, unit: str | Sequence[str] | None
) -> tuple[np.ndarray, list[str], list[str]]:
    """
    A recording as it came, with a name and a unit for each row.

    Args:
        waveform (`np.ndarray` of shape `(num_leads, num_samples)`): Real numbers.
        lead_names (`Sequence[str]`): Name of each row.
        unit (`str` or `Sequence[str]`): Unit of all rows or of each.

    Returns:
        `tuple[np.ndarray, list[str], list[str]]`: The samples in float32, the names, and the units' standard spelling.

    Raises:
        InputError: If one of them is missing, or they do not fit.
    """
    array = np.asarray(waveform)
    if array.dtype.kind not in "fiu":
        raise InputError(f"the waveform has dtype {array.dtype}: pass real numbers")
    if array.ndim != 2:
        raise InputError(f"the waveform has {array.ndim} dimension(s): pass one of shape (leads, samples)")
    if lead_names is None:
        raise InputError("the lead names are missing: pass `lead_names=`, one for each row of the waveform")
    names = [str(name) for name in lead_names]
    if len(names) != array.shape[0]:
        hint = "transpose it to (leads, samples)" if len(names) == array.shape[1] else "give one name per row"
        raise InputError(f"the waveform has {array.shape[0]} rows but {len(names)} lead names were given: {hint}")
    if unit is None:
        raise InputError("the unit is missing: pass `unit=` as mV, uV, V or NU (normalized), it is never assumed")
    units = [unit] * len(names) if isinstance(unit, str) else list(unit)
    if len(units) != len(names):
        raise InputError(f"{len(units)} units were given for {len(names)} leads: give one for all or one each")
    return array.astype(np.float32, copy=False), names, [canonical_unit(one) for one in units]


def usable_leads(present: np.ndarray, finite: np.ndarray, max_non_finite: float) -> np.ndarray:
    """
    Which leads can be repaired; of the others a warning tells.

    Args:
        present (`np.ndarray` of shape `(12,)`): True where a lead was recorded.
        finite (`np.ndarray` of shape `(12, num_samples)`): Which samples are neither NaN nor Inf.
        max_non_finite (`float`): Share of the others up to which a lead is usable.

    Returns:
        `np.ndarray` of shape `(12,)`: True where a lead was recorded and is usable.

    Raises:
        InputError: If none is.
    """
    unusable = present & (1.0 - finite.mean(axis=1) > max_non_finite)
    present = present & ~unusable
    percent = 100 * max_non_finite
    if not present.any():
        raise InputError(
            f"every lead is NaN or Inf for more than {percent:g} % of its samples: the file holds no usable signal"
        )
    if unusable.any():
        names = ", ".join(np.array(STANDARD_LEADS)[unusable])
        logger.warning("more than %g %% of lead(s) %s is NaN or Inf: treated as missing", percent, names)
    return present


def repair_non_finite(signals: np.ndarray) -> np.ndarray:
    """
    Replace NaN and Inf by the mean of the finite samples near them (paper's released preprocessing, spec section 2).

    Each such sample becomes the mean of the finite ones among the six samples on either side; where there are none,
    the straight line between the two nearest finite samples. A lead without one finite sample becomes zeros.

    Args:
        signals (`np.ndarray` of shape `(..., num_samples)`): Signals, left as they are.

    Returns:
        `np.ndarray`: The same array if all is finite, else a repaired copy.
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
    # `count` is a sum of ones by convolution: compare against a half, not zero, so that rounding cannot matter.
    near = np.where(count > 0.5, total / np.maximum(count, 1.0), line)
    return np.where(finite, lead, near).astype(lead.dtype)


def resample(signals: np.ndarray, sampling_rate: float, target_rate: float) -> np.ndarray:
    """
    Resample along the last axis with a polyphase anti-aliasing filter: `scipy.signal.resample_poly` with
    `padtype="line"`, up to rounding.

    Args:
        signals (`np.ndarray` of shape `(..., num_samples)`): Finite signals at `sampling_rate`.
        sampling_rate (`float`): Present rate [Hz].
        target_rate (`float`): Wanted rate [Hz].

    Returns:
        `np.ndarray` of shape `(..., ceil(num_samples * target_rate / sampling_rate))`.
    """
    if sampling_rate == target_rate:
        return signals
    ratio = Fraction(target_rate).limit_denominator(10_000) / Fraction(sampling_rate).limit_denominator(10_000)
    ratio = ratio.limit_denominator(10_000)
    up, down = ratio.numerator, ratio.denominator
    x = signals.reshape(-1, signals.shape[-1])
    if x.dtype.kind != "f":
        x = x.astype(np.float64)
    num_samples = x.shape[1]
    num_out = -(-num_samples * up // down)
    num_blocks = -(-num_out // _BLOCK)
    filters, reach = _polyphase_filters(up, down, x.dtype.str)
    kinds, width, _ = filters.shape
    starts = np.arange(num_blocks) * _BLOCK * down // up

    # The ends continue on the line through the first and the last sample: zeros outside would put a step at each end
    # of a drifting baseline.
    slope = (x[:, -1:] - x[:, :1]) / max(num_samples - 1, 1)
    behind = max(int(starts[-1]) + width - reach - num_samples, 0)
    before = x[:, :1] - slope * np.arange(reach, 0, -1, dtype=x.dtype)
    after = x[:, -1:] + slope * np.arange(1, behind + 1, dtype=x.dtype)
    windows = np.lib.stride_tricks.sliding_window_view(np.concatenate([before, x, after], axis=1), width, axis=1)
    resampled = np.empty((len(x), num_blocks, _BLOCK), dtype=x.dtype)
    step = kinds * -(-_BLOCKS_AT_ONCE // kinds)
    for first in range(0, num_blocks, step):
        for kind in range(kinds):
            part = slice(first + kind, first + step, kinds)
            resampled[:, part] = windows[:, starts[part]] @ filters[kind]
    return resampled.reshape(len(x), -1)[:, :num_out].reshape(*signals.shape[:-1], num_out)


_BLOCKS_AT_ONCE = 2000  # Their samples are copied: those of a whole day would not fit in memory.
_BLOCK = 20  # Output samples of one matrix product: more would multiply more zeros, fewer would copy more samples.


@lru_cache(maxsize=8)
def _polyphase_filters(up: int, down: int, dtype: str) -> tuple[np.ndarray, int]:
    """
    The filter that `scipy.signal.resample_poly` designs, as one matrix per kind of block `(kinds, width, _BLOCK)`.

    A block is `width` input samples times its matrix: the same sums as tap by tap, several times faster. Block `b`
    takes the kind `b % kinds` and begins `reach`, the second value, before input sample `b * _BLOCK * down // up`.
    """
    factor = max(up, down)
    half = 10 * factor
    taps = scipy_signal.firwin(2 * half + 1, 1.0 / factor, window=("kaiser", 5.0)) * up
    reach = half // up + 1
    width = _BLOCK * down // up + 2 * reach + 1
    first = np.arange(up // math.gcd(up, _BLOCK))[:, None, None] * _BLOCK
    sample = first * down // up - reach + np.arange(width)[:, None]
    tap = (first + np.arange(_BLOCK)) * down - sample * up + half
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
        sampling_rate (`float`): Their rate [Hz]; more than twice `high`.
        low (`float`): Lower corner [Hz].
        high (`float`): Upper corner [Hz].
        order (`int`, *optional*, defaults to `5`): Order of the filter, run forwards and backwards.

    Returns:
        `np.ndarray`: Filtered signals of the same shape and dtype.
    """
    # The same as `scipy.signal.sosfiltfilt` with an odd extension of three seconds, which solves for the initial
    # state anew at every call: a third of its time at 12 leads x 10 s.
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
    Scale a whole recording so that its smallest sample is `-limit` and its largest `limit` (CPSC2018 and CSN in the
    paper's protocol, spec section 2). A recording without any variation is returned as zeros.

    Args:
        signals (`np.ndarray` of shape `(num_leads, num_samples)`): One recording.
        limit (`float`, *optional*, defaults to `3.0`): Half of the resulting range.
    """
    low, high = float(signals.min()), float(signals.max())
    if high <= low:
        return np.zeros_like(signals)
    return ((signals - low) * (2.0 * limit / (high - low)) - limit).astype(signals.dtype, copy=False)
