"""Feature extractor of ECGFounder."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Annotated, ClassVar

import numpy as np
from scipy import ndimage
from scipy import signal as scipy_signal
from transformers.utils import logging

from .errors import InputError
from .feature_extraction_ecg import EcgFeatureExtractor, Window
from .leads import STANDARD_LEADS
from .setting_checks import check_choice, check_lead_names
from .signal_cleaning import interpolate


logger = logging.get_logger(__name__)

PREPROCESSING = ("fine_tuning", "evaluation", "paper")
_EPSILON = 1e-8
_MEDIAN_SECONDS = 0.4


class EcgFounderFeatureExtractor(EcgFeatureExtractor):
    """
    Converts recordings to signals for [`EcgFounderModel`].

    The leads are arranged by name, repaired, resampled to 500 Hz by linear interpolation and filtered. Each window is
    normalized by one mean and one standard deviation over all leads and samples; short recordings are padded with
    zeros. A recording that lacks a lead of the model is refused, since the released weights were not trained with
    missing leads.

    Args:
        lead_names (`Sequence[str]`): Standard names of the leads that the model reads, in its order.
        preprocessing (`str`): The authors describe three ways and do not say which one the released weights were
            trained with:

            - `"fine_tuning"`: code of their fine-tuning, which their documentation asks to follow. NaN and Inf become
              zero; notch filter at 50 Hz, band-pass filter from 0.67 to 40 Hz, and subtraction of a running median of
              0.4 s.
            - `"evaluation"`: code of their evaluation on PTB-XL. No filter. The whole recording, whatever its length,
              is normalized and then stretched or squeezed to the window by linear interpolation. If it is neither
              sampled at 500 Hz nor as long as the window, it is interpolated twice.
            - `"paper"`: text of the paper. High-pass filter at 0.5 Hz, low-pass filter at 50 Hz, and notch filters at
              50 and 60 Hz. Orders other than that of the low-pass filter (2) are not stated; 2 is used.
        kwargs: See [`EcgFeatureExtractor`].
    """

    model_input_names: ClassVar[list[str]] = ["input_values"]
    missing_leads: ClassVar[str] = "refused"
    model_settings: ClassVar[tuple[str, ...]] = ("lead_names",)

    sampling_rate = 500.0
    lead_names: Annotated[Sequence[str], check_lead_names] = STANDARD_LEADS
    preprocessing: Annotated[str, partial(check_choice, choices=PREPROCESSING)] = "fine_tuning"

    def check_settings(self) -> None:
        """See [`EcgFeatureExtractor.check_settings`]."""
        super().check_settings()
        self.lead_names = list(self.lead_names)
        if self.preprocessing != "evaluation" and self.sampling_rate <= 120:
            raise InputError(
                f"sampling_rate must be above 120 Hz for the filters of preprocessing={self.preprocessing!r}, got "
                f"{self.sampling_rate:g} Hz"
            )

    @property
    def keeps_unit(self) -> bool:
        """See [`EcgFeatureExtractor.keeps_unit`]."""
        return super().keeps_unit and self.preprocessing != "evaluation"

    def _repair(self, signal: np.ndarray) -> np.ndarray:
        if self.preprocessing == "fine_tuning":
            return np.nan_to_num(signal, nan=0.0, posinf=0.0, neginf=0.0)
        return super()._repair(signal)

    def _transform(self, signal: np.ndarray, present: np.ndarray, rate: float) -> np.ndarray:
        self._require_leads(present)
        num_samples = round(signal.shape[-1] * self.sampling_rate / rate)
        if self.preprocessing == "evaluation":
            signal = interpolate(self._normalize(signal), num_samples)
        else:
            signal = self._filter(interpolate(signal, num_samples).astype(np.float64)).astype(np.float32)
        return super()._transform(signal, present, self.sampling_rate)

    def _filter(self, signal: np.ndarray) -> np.ndarray:
        """Zero-phase filters along the last axis."""
        rate = self.sampling_rate
        if self.preprocessing == "paper":
            filters = [
                scipy_signal.butter(2, 0.5, "highpass", fs=rate),
                scipy_signal.butter(2, 50.0, "lowpass", fs=rate),
                scipy_signal.iirnotch(50.0, 30.0, fs=rate),
                scipy_signal.iirnotch(60.0, 30.0, fs=rate),
            ]
        else:
            filters = [
                scipy_signal.iirnotch(50.0, 30.0, fs=rate),
                scipy_signal.butter(4, (0.67, 40.0), "bandpass", fs=rate),
            ]
        for numerator, denominator in filters:
            signal = scipy_signal.filtfilt(numerator, denominator, signal)
        if self.preprocessing == "fine_tuning":
            width = int(_MEDIAN_SECONDS * rate) + 1
            width += 1 - width % 2
            signal = signal - ndimage.median_filter(signal, (1, width), mode="constant")
        return signal

    def _normalize(self, signal: np.ndarray) -> np.ndarray:
        """Normalize `(12, num_samples)` by one mean and standard deviation of the leads that the model reads."""
        values = signal[self._lead_rows()].astype(np.float64)
        return ((signal - values.mean()) / (values.std() + _EPSILON)).astype(np.float32)

    def split(self, signal: np.ndarray, r_peaks: np.ndarray) -> list[Window]:
        """See [`EcgFeatureExtractor.split`]. With `preprocessing="evaluation"`, the recording is a single window."""
        if self.preprocessing == "evaluation":
            return [Window(0, signal, r_peaks)]
        return super().split(signal, r_peaks)

    def cut(
        self, signals: Sequence[np.ndarray], r_peaks: Sequence[np.ndarray], lead_masks: Sequence[np.ndarray]
    ) -> dict[str, np.ndarray]:
        """
        Select the leads of the model from windows of a cleaned signal, and normalize them.

        Args:
            signals, r_peaks, lead_masks: See [`EcgFeatureExtractor.cut`]. Peaks are ignored.

        Returns:
            `dict[str, np.ndarray]`: `input_values` `(num_windows, num_leads, num_samples)` float32.
        """
        for lead_mask in lead_masks:
            self._require_leads(lead_mask)  # stored recordings may have been cleaned for other leads
        rows = self._lead_rows()
        input_values = np.zeros((len(signals), len(rows), self.window_samples), dtype=np.float32)
        for index, signal in enumerate(signals):
            if self.preprocessing == "evaluation":
                input_values[index] = interpolate(signal[rows], self.window_samples)
                continue
            values = self._normalize(signal)[rows, : self.window_samples]
            input_values[index, :, : values.shape[1]] = values
            if values.shape[1] < self.window_samples:
                logger.warning_once(
                    f"some recordings are shorter than {self.window_seconds:g} s and are padded with zeros, but the "
                    "released weights were trained on full windows only"
                )
        return {"input_values": input_values}


EcgFounderFeatureExtractor.register_for_auto_class()
