"""Feature extractor of ECG-FM."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np
from transformers.utils import logging

from .feature_extraction_ecg import EcgFeatureExtractor, Window
from .setting_checks import Flag
from .signal_cleaning import interpolate, rescale


logger = logging.get_logger(__name__)


class EcgFmFeatureExtractor(EcgFeatureExtractor):
    """
    Converts recordings to signals for [`EcgFmModel`], as its authors do.

    The 12 leads are arranged by name, repaired, and interpolated linearly to the sampling rate of the model, without a
    low-pass filter. Each lead of the whole recording is standardized: its mean is subtracted, and it is divided by its
    standard deviation. Then windows of 5 s are cut, of which a recording of 10 s has two. Missing and constant leads
    are zero, like the leads that pre-training masks. Recordings that are shorter than the window are padded with
    zeros, which `attention_mask` marks.

    Args:
        drop_remainder (`bool`): With `windows="all"`, omit what is left of a recording after the last full window,
            as the authors do. Otherwise the last window ends with the recording and overlaps the one before.
        kwargs: See [`EcgFeatureExtractor`]. The authors neither filter, which here precedes standardization, nor
            rescale, which follows it.
    """

    model_input_names: ClassVar[list[str]] = ["input_values", "attention_mask", "lead_mask"]
    missing_leads: ClassVar[str] = "zero, like the leads that pre-training masks"

    sampling_rate = 500.0
    window_seconds = 5.0
    drop_remainder: Flag = True

    @property
    def keeps_unit(self) -> bool:
        """Whether recordings keep their unit. Standardized ones do not."""
        return False

    def _transform(self, signal: np.ndarray, present: np.ndarray, rate: float) -> np.ndarray:
        """See [`EcgFeatureExtractor._transform`]. Also standardizes the leads, and rescales them after that."""
        signal = standardize(super()._transform(signal, present, rate))
        if self.do_rescale:
            signal[present] = rescale(signal[present], self.rescale_limit)
        return signal

    def _resample(self, signal: np.ndarray, rate: float) -> np.ndarray:
        """Interpolate linearly; the first and the last sample stay the first and the last."""
        return interpolate(signal, int(signal.shape[-1] * self.sampling_rate / rate))

    def split(self, signal: np.ndarray, r_peaks: np.ndarray) -> list[Window]:
        """See [`EcgFeatureExtractor.split`]; the last window is omitted if `drop_remainder` requires it."""
        windows = super().split(signal, r_peaks)
        if self.drop_remainder and self.windows == "all":
            stride = max(1, round((self.stride_seconds or self.window_seconds) * self.sampling_rate))
            if windows[-1].start % stride:
                windows.pop()
                logger.warning_once(
                    f"the rest of a recording after its last full window of {self.window_seconds:g} s is not read: "
                    "set drop_remainder=False to read it in a window that overlaps the one before"
                )
        return windows

    def cut(
        self, signals: Sequence[np.ndarray], r_peaks: Sequence[np.ndarray], lead_masks: Sequence[np.ndarray]
    ) -> dict[str, np.ndarray]:
        """
        Pad windows of a cleaned signal to equal length.

        Args:
            signals, r_peaks, lead_masks: See [`EcgFeatureExtractor.cut`]. Peaks are ignored.

        Returns:
            `dict[str, np.ndarray]`: `input_values` `(num_windows, 12, num_samples)` float32 [standard deviations of
            the lead], zero where missing; `attention_mask` `(num_windows, num_samples)` bool, True for samples of the
            recording, and `lead_mask` `(num_windows, 12)` bool, True for leads that are present.
        """
        input_values = np.zeros((len(signals), len(self.lead_names), self.window_samples), dtype=np.float32)
        attention_mask = np.zeros((len(signals), self.window_samples), dtype=bool)
        for index, signal in enumerate(signals):
            filled = min(signal.shape[-1], self.window_samples)
            input_values[index, :, :filled] = signal[:, :filled]
            attention_mask[index, :filled] = True
        lead_mask = np.stack(list(lead_masks)).astype(bool)
        return {"input_values": input_values, "attention_mask": attention_mask, "lead_mask": lead_mask}


def standardize(signal: np.ndarray) -> np.ndarray:
    """Leads `(num_leads, num_samples)` with mean 0 and (population) standard deviation 1, float32; 0 if constant."""
    centered = signal.astype(np.float64) - signal.mean(axis=1, keepdims=True, dtype=np.float64)
    deviation = centered.std(axis=1, keepdims=True)
    constant = np.ptp(signal, axis=1, keepdims=True) == 0
    return np.where(constant, 0.0, centered / np.where(constant, 1.0, deviation)).astype(np.float32)


EcgFmFeatureExtractor.register_for_auto_class()
