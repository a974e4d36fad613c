"""Feature extractor of ST-MEM."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Annotated, ClassVar

import numpy as np
from scipy import signal as scipy_signal
from transformers.utils import logging

from .errors import InputError
from .feature_extraction_ecg import EcgFeatureExtractor, Window
from .setting_checks import MAX_SECONDS, Flag, check_number
from .signal_cleaning import rescale


logger = logging.get_logger(__name__)

MAX_CROPS = 1_000


class StMemFeatureExtractor(EcgFeatureExtractor):
    """
    Converts recordings to signals for [`StMemModel`] (Na et al., ICLR 2024), as its authors do.

    The 12 leads are arranged by name, repaired, divided into stretches of 10 s, and resampled by a Fourier transform
    of each stretch. Windows of 9 s are cut, and each is filtered by itself, with a high-pass and then a low-pass
    filter, and standardized: the mean of all leads and samples is subtracted, and it is divided by their standard
    deviation. Missing leads are left out of both, and of the model. Recordings that are shorter than the window are
    padded with zeros, which `attention_mask` marks as missing.

    With `windows="all"`, which predictions use, every stretch has three windows, from its start to its end, as in the
    evaluation of the authors, who average the logits of the windows; in the pipeline, `function_to_apply="none"`
    returns this mean. They train with windows at random places; `windows="first"` is the one at the start.

    Args:
        stretch_seconds (`float`): Length of the stretches [s].
        num_crops (`int`): Number of windows of a stretch with `windows="all"`, at equal distances. Ignored with
            `stride_seconds`, as are stretches.
        drop_remainder (`bool`): With `windows="all"`, omit what is left of a recording after the last full stretch, as
            the authors do. Otherwise the last stretch ends with the recording and overlaps the one before.
        patch_size (`int`): Patch length [samples at `sampling_rate`]. Must divide the window length. Incomplete
            patches at the end of a recording are treated as missing.
        kwargs: See [`EcgFeatureExtractor`]. `do_rescale` follows standardization.
    """

    model_input_names: ClassVar[list[str]] = ["input_values", "lead_mask", "attention_mask"]
    missing_leads: ClassVar[str] = "left out"
    model_settings: ClassVar[tuple[str, ...]] = ("patch_size",)

    sampling_rate = 250.0
    window_seconds = 9.0
    do_bandpass = True
    stretch_seconds: Annotated[float, partial(check_number, low=1, high=MAX_SECONDS)] = 10.0
    num_crops: Annotated[int, partial(check_number, low=1, high=MAX_CROPS, integer=True)] = 3
    drop_remainder: Flag = True
    patch_size: int = 75

    def check_settings(self) -> None:
        """See [`EcgFeatureExtractor.check_settings`]."""
        super().check_settings()
        check_number("patch_size", self.patch_size, 1, self.window_samples, integer=True)
        if self.window_samples % self.patch_size:
            raise InputError(
                f"the window length of {self.window_samples} samples ({self.window_seconds:g} s at "
                f"{self.sampling_rate:g} Hz) must be divisible by patch_size={self.patch_size}"
            )
        if self.stretch_seconds < self.window_seconds:
            raise InputError(
                f"stretch_seconds={self.stretch_seconds:g} must not be shorter than "
                f"window_seconds={self.window_seconds:g}: increase it"
            )

    @property
    def keeps_unit(self) -> bool:
        """Whether recordings keep their unit. They do: only windows are standardized."""
        return True

    @property
    def stretch_samples(self) -> int:
        """Length of a stretch [samples at `sampling_rate`]."""
        return round(self.stretch_seconds * self.sampling_rate)

    def _transform(self, signal: np.ndarray, present: np.ndarray, rate: float) -> np.ndarray:
        """See [`EcgFeatureExtractor._transform`]. Only resamples; windows are filtered when they are cut."""
        if rate == self.sampling_rate:
            return signal
        num_samples = int(signal.shape[-1] * self.sampling_rate / rate)
        stretch, parts = self.stretch_samples, []
        for start in range(0, num_samples, stretch):
            length = min(stretch, num_samples - start)
            # What is left at the end is resampled with what precedes it.
            first = max(0, min(start, num_samples - stretch))
            edges = [min(round(place * rate / self.sampling_rate), signal.shape[-1]) for place in (first, start)]
            stop = round((first + stretch) * rate / self.sampling_rate)
            piece = signal[:, edges[0] : min(stop, signal.shape[-1])]
            parts.append(scipy_signal.resample(piece, start + length - first, axis=-1)[:, start - first :])
        return np.concatenate(parts, axis=1).astype(np.float32, copy=False)

    def split(self, signal: np.ndarray, r_peaks: np.ndarray) -> list[Window]:
        """See [`EcgFeatureExtractor.split`]. With `windows="all"`, windows of each stretch."""
        num_samples, length = signal.shape[-1], self.window_samples
        if self.windows != "all" or self.stride_seconds is not None or num_samples <= length:
            return super().split(signal, r_peaks)
        stretch = min(self.stretch_samples, num_samples)
        first_places = list(range(0, num_samples - stretch + 1, stretch))
        if first_places[-1] + stretch < num_samples:
            if self.drop_remainder:
                logger.warning_once(
                    f"the rest of a recording after its last full stretch of {self.stretch_seconds:g} s is not read: "
                    "set drop_remainder=False to read it in a stretch that overlaps the one before"
                )
            else:
                first_places.append(num_samples - stretch)
        step = (stretch - length) // max(1, self.num_crops - 1)
        crops = [crop * step for crop in range(self.num_crops if step else 1)]
        windows = []
        for start in sorted({first + crop for first in first_places for crop in crops}):
            peaks = r_peaks[(r_peaks >= start) & (r_peaks < start + length)] - start
            windows.append(Window(start, signal[:, start : start + length], peaks))
        return windows

    def cut(
        self, signals: Sequence[np.ndarray], r_peaks: Sequence[np.ndarray], lead_masks: Sequence[np.ndarray]
    ) -> dict[str, np.ndarray]:
        """
        Filter and standardize windows of a cleaned signal, and pad them to equal length.

        Args:
            signals, r_peaks, lead_masks: See [`EcgFeatureExtractor.cut`]. Peaks are ignored.

        Returns:
            `dict[str, np.ndarray]`: `input_values` `(num_windows, 12, num_samples)` float32 [standard deviations of
            the window], zero where missing; `lead_mask` `(num_windows, 12)` bool and `attention_mask`
            `(num_windows, num_patches)` bool, True for leads that are present and for complete patches.
        """
        lead_mask = np.stack(list(lead_masks)).astype(bool)
        input_values = np.zeros((len(signals), len(self.lead_names), self.window_samples), dtype=np.float32)
        attention_mask = np.zeros((len(signals), self.window_samples // self.patch_size), dtype=bool)
        for row, signal in enumerate(signals):
            present = lead_mask[row]
            window = self._standardize(signal[present, : self.window_samples])
            filled = window.shape[-1] // self.patch_size
            input_values[row, present, : filled * self.patch_size] = window[:, : filled * self.patch_size]
            attention_mask[row, :filled] = True
        if not attention_mask.all():
            logger.warning_once(
                f"some recordings are shorter than {self.window_seconds:g} s: missing patches are masked, but the "
                "released weights were trained on full windows only"
            )
        return {"input_values": input_values, "lead_mask": lead_mask, "attention_mask": attention_mask}

    def _standardize(self, window: np.ndarray) -> np.ndarray:
        """Filter and standardize the present leads of a window. A constant window becomes zero."""
        if not window.size or np.ptp(window) == 0:
            return np.zeros_like(window)
        window = window.astype(np.float64)
        if self.do_bandpass:
            for cutoff, kind in ((self.bandpass_low, "highpass"), (self.bandpass_high, "lowpass")):
                sections = scipy_signal.butter(
                    self.bandpass_order, cutoff, btype=kind, fs=self.sampling_rate, output="sos"
                )
                pad = min(3 * (self.bandpass_order + 1), window.shape[-1] - 1)  # as long as that of scipy
                window = scipy_signal.sosfiltfilt(sections, window, axis=-1, padlen=pad)
        window = (window - window.mean()) / (window.std() or 1.0)
        return rescale(window, self.rescale_limit) if self.do_rescale else window


StMemFeatureExtractor.register_for_auto_class()
