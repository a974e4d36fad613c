"""Feature extractor of ECG-CPC."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache, partial
from typing import Annotated, ClassVar

import numpy as np
from transformers.utils import logging

from .feature_extraction_ecg import EcgFeatureExtractor
from .setting_checks import check_choice, check_number
from .signal_cleaning import apply_polyphase, block_grid, rate_ratio


logger = logging.get_logger(__name__)

PREPROCESSING = ("evaluation", "pretraining")
# Windowed sinc: zero crossings on each side, entries of its table per crossing, cutoff frequency and window.
_ZERO_CROSSINGS = 50
_ENTRIES = 8192
_ROLLOFF = 0.9173473712608761
_BETA = 12.984585247040012
_WINDOWS_AT_ONCE = 64  # limits memory


class EcgCpcFeatureExtractor(EcgFeatureExtractor):
    """
    Converts recordings to signals for [`EcgCpcModel`].

    The 12 leads are arranged by name and resampled to 240 Hz by a windowed sinc, in mV, without filtering or
    normalization. Missing leads are zero, as in the recordings that the released weights were trained with. Recordings
    that are shorter than the window are padded with zeros, which `attention_mask` marks as missing.

    Args:
        conv_stride (`int`): Samples per token of the model.
        preprocessing (`str`): The authors describe two ways:

            - `"evaluation"`: code of their benchmark. NaN becomes zero. Each window is resampled on its own, without
              the samples before and behind it, if windows follow each other without overlap from the start of the
              recording; otherwise the whole recording is resampled. The benchmark uses windows of 2.5 s. (With
              `windows="all"`, a last window that ends with the recording may contain the border of two others.)
            - `"pretraining"`: code of their pre-training. NaN is interpolated linearly; at the start of a recording it
              becomes zero, and at its end the last value is repeated. Values are limited to `clip_limit`, and the
              whole recording is resampled. Pre-training uses windows of 10 s and no recordings below 240 Hz.
        clip_limit (`float`): Largest absolute value with `preprocessing="pretraining"` [mV].
        kwargs: See [`EcgFeatureExtractor`].
    """

    model_input_names: ClassVar[list[str]] = ["input_values", "attention_mask"]
    model_settings: ClassVar[tuple[str, ...]] = ("conv_stride",)
    missing_leads: ClassVar[str] = "zero, as in the recordings of pre-training"

    sampling_rate = 240.0
    window_seconds = 2.5
    conv_stride: int = 2
    preprocessing: Annotated[str, partial(check_choice, choices=PREPROCESSING)] = "evaluation"
    clip_limit: Annotated[float, partial(check_number, low=1e-3, high=1e6)] = 3.0

    def check_settings(self) -> None:
        """See [`EcgFeatureExtractor.check_settings`]."""
        super().check_settings()
        check_number("conv_stride", self.conv_stride, 1, self.window_samples, integer=True)

    def cut(
        self, signals: Sequence[np.ndarray], r_peaks: Sequence[np.ndarray], lead_masks: Sequence[np.ndarray]
    ) -> dict[str, np.ndarray]:
        """
        Pad windows of a cleaned signal.

        Args:
            signals, r_peaks, lead_masks: See [`EcgFeatureExtractor.cut`]. Peaks and masks are ignored.

        Returns:
            `dict[str, np.ndarray]`: `input_values` `(num_windows, 12, num_samples)` float32 [mV], zero where missing,
            and `attention_mask` `(num_windows, ceil(num_samples / conv_stride))` bool, True for recorded tokens.
        """
        input_values = np.zeros((len(signals), 12, self.window_samples), dtype=np.float32)
        attention_mask = np.zeros((len(signals), -(-self.window_samples // self.conv_stride)), dtype=bool)
        for index, signal in enumerate(signals):
            filled = min(signal.shape[-1], self.window_samples)
            input_values[index, :, :filled] = signal[:, :filled]
            attention_mask[index, : -(-filled // self.conv_stride)] = True
        return {"input_values": input_values, "attention_mask": attention_mask}

    def _repair(self, signal: np.ndarray) -> np.ndarray:
        if self.preprocessing == "evaluation":
            return np.where(np.isfinite(signal), signal, np.float32(0.0))
        repaired = np.array(signal)
        samples = np.arange(signal.shape[-1])
        for lead in repaired:
            finite = np.isfinite(lead)
            lead[:] = np.interp(samples, samples[finite], lead[finite], left=0.0) if finite.any() else 0.0
        return repaired

    def _transform(self, signal: np.ndarray, present: np.ndarray, rate: float) -> np.ndarray:
        if self.preprocessing == "pretraining":
            signal = signal.clip(-self.clip_limit, self.clip_limit)
        return super()._transform(signal, present, rate)

    def _resample(self, signal: np.ndarray, rate: float) -> np.ndarray:
        signal = signal.astype(np.float64)
        is_divided = self.windows == "first" or (
            self.windows == "all"
            and round((self.stride_seconds or self.window_seconds) * self.sampling_rate) % self.window_samples == 0
        )
        if self.preprocessing == "evaluation" and is_divided:
            resampled = self._resample_windows(signal, rate)
        else:
            resampled = resample_sinc(signal, rate, self.sampling_rate)
        return resampled.astype(np.float32)

    def _resample_windows(self, signal: np.ndarray, rate: float) -> np.ndarray:
        """Resample each window of leads `(12, num_samples)` on its own."""
        up, down = rate_ratio(rate, self.sampling_rate)
        size, (num_leads, num_samples) = self.window_samples, signal.shape
        num_out = num_samples * up // down
        num_windows, rest = divmod(num_out, size)
        resampled = np.empty((num_leads, num_out))
        width = np.arange(-(-size * down // up))
        for first in range(0, num_windows, _WINDOWS_AT_ONCE):
            last = min(first + _WINDOWS_AT_ONCE, num_windows)
            starts = np.arange(first, last) * size * down // up
            windows = resample_sinc(signal[:, starts[:, None] + width], rate, self.sampling_rate)[..., :size]
            resampled[:, first * size : last * size] = windows.reshape(num_leads, -1)
        if rest:
            window = resample_sinc(signal[:, num_windows * size * down // up :], rate, self.sampling_rate)
            resampled[:, num_windows * size :] = window[:, :rest]
        return resampled

    def _convert_peaks(self, r_peaks: np.ndarray, num_samples: int, rate: float) -> np.ndarray:
        up, down = rate_ratio(rate, self.sampling_rate)
        return np.minimum(super()._convert_peaks(r_peaks, num_samples, rate), num_samples * up // down - 1)


def resample_sinc(signals: np.ndarray, sampling_rate: float, target_rate: float) -> np.ndarray:
    """
    Resample along the last axis with a Kaiser-windowed sinc (Smith, "Digital Audio Resampling", 2002), as the authors
    do: the window reaches over 50 zero crossings of the sinc, which is read from a table of 8192 entries per crossing
    with linear interpolation. Samples before and behind the signals are zero.

    Args:
        signals (`np.ndarray` of shape `(..., num_samples)`): Finite signals in float64.
        sampling_rate (`float`): Sampling rate of the signals [Hz].
        target_rate (`float`): Target sampling rate [Hz].

    Returns:
        `np.ndarray` of shape `(..., floor(num_samples * target_rate / sampling_rate))`.
    """
    if sampling_rate == target_rate:
        return signals
    up, down = rate_ratio(sampling_rate, target_rate)
    x = signals.reshape(-1, signals.shape[-1])
    num_out = x.shape[1] * up // down
    filters, reach = _sinc_filters(up, down)

    def extend(before: int, behind: int) -> tuple[np.ndarray, np.ndarray]:
        return np.zeros((len(x), before)), np.zeros((len(x), behind))

    resampled = apply_polyphase(x, up, down, filters, reach, num_out, extend)
    return resampled.reshape(*signals.shape[:-1], num_out)


@lru_cache(maxsize=1)
def _sinc_table() -> np.ndarray:
    """The windowed sinc from its center to its last zero crossing."""
    count = _ZERO_CROSSINGS * _ENTRIES
    times = np.linspace(0, _ZERO_CROSSINGS, count + 1)
    return _ROLLOFF * np.sinc(_ROLLOFF * times) * np.kaiser(2 * count + 1, _BETA)[count:]


@lru_cache(maxsize=8)
def _sinc_filters(up: int, down: int) -> tuple[np.ndarray, int]:
    """The windowed sinc as matrices, and its `reach`, see [`apply_polyphase`]."""
    table = _sinc_table()
    scale = min(1.0, up / down)
    table = table * scale
    # Truncated: where the rate is lowered, the window is a little longer than its zero crossings.
    step = int(_ENTRIES * scale)
    reach = (len(table) - 1) // step + 2
    sample, out = block_grid(up, down, reach)
    before = out * down // up
    fraction = out * down % up / up
    is_left = sample <= before
    place = _ENTRIES * scale * np.where(is_left, fraction, 1.0 - fraction)
    entry = place.astype(np.int64)
    weight = place - entry
    entry = entry + step * np.where(is_left, before - sample, sample - before - 1)
    inside = entry < len(table) - 1
    entry = np.where(inside, entry, 0)
    return np.where(inside, table[entry] + weight * (table[entry + 1] - table[entry]), 0.0), reach


EcgCpcFeatureExtractor.register_for_auto_class()
