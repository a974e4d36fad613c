"""Feature extractor of HuBERT-ECG."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Annotated, ClassVar

import numpy as np
from scipy import signal as scipy_signal
from transformers.utils import logging

from .errors import InputError
from .feature_extraction_ecg import EcgFeatureExtractor
from .setting_checks import check_choice, check_number
from .signal_cleaning import rescale


logger = logging.get_logger(__name__)

SHORT_RECORDINGS = ("refuse", "pad")
_EPSILON = 1e-8
_FILTER_SECONDS = 0.3


class HubertEcgFeatureExtractor(EcgFeatureExtractor):
    """
    Converts recordings to signals for [`HubertEcgModel`] (Coppola et al., 2024), as its authors do.

    The 12 leads are arranged by name, repaired, filtered at the sampling rate of the recording, and resampled to 500
    Hz by a Fourier transform. Each lead is scaled to the range from -1 to 1 over the whole recording. Then windows of
    5 s are cut, of which a recording of 10 s has two; their leads are put end to end, and decimated across the borders
    of the leads. A recording that lacks a lead is refused, since the released weights were not trained with missing
    leads.

    The band-pass filter has a linear phase, a length of 0.3 s and a Hamming window, and is applied forward and
    backward, so that `bandpass_order` is ignored; if half the sampling rate of a recording is not above
    `bandpass_high`, it is a high-pass filter.

    Args:
        decimation (`int`): Factor by which the leads, end to end, are decimated, with a Chebyshev filter of order 8
            forward and backward: 500 Hz become 100 Hz.
        short_recordings (`str`): Whether to `"refuse"` recordings that are shorter than the window or to `"pad"` them:
            as released, zeros follow every scaled lead, and `attention_mask` marks them. But the released network
            takes the number of valid values for a prefix, so that it reads some of the zeros, and not the last leads.
        kwargs: See [`EcgFeatureExtractor`]. `do_rescale` follows scaling.
    """

    model_input_names: ClassVar[list[str]] = ["input_values", "attention_mask"]
    missing_leads: ClassVar[str] = "refused"
    model_settings: ClassVar[tuple[str, ...]] = ("decimation",)

    sampling_rate = 500.0
    window_seconds = 5.0
    do_bandpass = True
    bandpass_low = 0.05
    bandpass_high = 47.0
    decimation: Annotated[int, partial(check_number, low=1, high=100, integer=True)] = 5
    short_recordings: Annotated[str, partial(check_choice, choices=SHORT_RECORDINGS)] = "refuse"

    @property
    def keeps_unit(self) -> bool:
        """Whether recordings keep their unit. Scaled ones do not."""
        return False

    def _transform(self, signal: np.ndarray, present: np.ndarray, rate: float) -> np.ndarray:
        """See [`EcgFeatureExtractor._transform`]. Filters before resampling, and scales the leads after it."""
        self._require_leads(present)
        num_samples = int(signal.shape[-1] * self.sampling_rate / rate)
        if num_samples < self.window_samples and self.short_recordings == "refuse":
            raise InputError(
                f"the recording is {signal.shape[-1] / rate:g} s long, but this model reads windows of "
                f'{self.window_seconds:g} s: use a longer one, or set short_recordings="pad", which hides the last '
                "leads"
            )
        if self.do_bandpass:
            signal = self._filter(signal, rate)
        if rate != self.sampling_rate:
            signal = scipy_signal.resample(signal, num_samples, axis=-1)
        signal = scale(signal)
        if self.do_rescale:
            signal[present] = rescale(signal[present], self.rescale_limit)
        return signal

    def _filter(self, signal: np.ndarray, rate: float) -> np.ndarray:
        """Zero-phase filter along the last axis, in float64."""
        is_bandpass = self.bandpass_high < rate / 2
        cutoff = (self.bandpass_low, self.bandpass_high) if is_bandpass else self.bandpass_low
        num_taps = int(_FILTER_SECONDS * rate) // 2 * 2 + 1
        taps = scipy_signal.firwin(num_taps, cutoff, pass_zero=False, fs=rate)
        return scipy_signal.filtfilt(taps, 1.0, signal.astype(np.float64))

    def cut(
        self, signals: Sequence[np.ndarray], r_peaks: Sequence[np.ndarray], lead_masks: Sequence[np.ndarray]
    ) -> dict[str, np.ndarray]:
        """
        Put the leads of windows of a cleaned signal end to end, and decimate them.

        Args:
            signals, r_peaks, lead_masks: See [`EcgFeatureExtractor.cut`]. Peaks are ignored.

        Returns:
            `dict[str, np.ndarray]`: `input_values` `(num_windows, num_values)` float32, 6000 values of the 12 leads
            with the default settings, and `attention_mask` `(num_windows, num_values)` bool, True for values of the
            recording.
        """
        for lead_mask in lead_masks:
            self._require_leads(lead_mask)  # stored recordings may have been cleaned for other leads
        shape = (len(signals), len(self.lead_names), self.window_samples)
        windows, recorded = np.zeros(shape), np.zeros(shape, dtype=bool)
        for index, signal in enumerate(signals):
            filled = min(signal.shape[-1], self.window_samples)
            windows[index, :, :filled] = signal[:, :filled]
            recorded[index, :, :filled] = True
        if not recorded.all():
            logger.warning_once(
                f"some recordings are shorter than {self.window_seconds:g} s and are padded as released, so that the "
                "model does not read their last leads"
            )
        end_to_end = (len(signals), -1)
        windows, recorded = windows.reshape(end_to_end), recorded.reshape(end_to_end)
        if self.decimation > 1 and len(signals):
            windows = scipy_signal.decimate(windows, self.decimation, axis=-1)
        return {
            "input_values": windows.astype(np.float32),
            "attention_mask": np.ascontiguousarray(recorded[:, :: self.decimation]),
        }


def scale(signal: np.ndarray) -> np.ndarray:
    """Leads `(num_leads, num_samples)` from -1 to 1, float32; -1 if constant."""
    signal = signal.astype(np.float64)
    low, high = signal.min(axis=1, keepdims=True), signal.max(axis=1, keepdims=True)
    return (2 * (signal - low) / (high - low + _EPSILON) - 1).astype(np.float32)


HubertEcgFeatureExtractor.register_for_auto_class()
