"""Feature extractor of ECG-JEPA."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import Annotated, Any, ClassVar

import numpy as np
from scipy import signal as scipy_signal
from transformers.utils import logging

from .errors import InputError
from .feature_extraction_ecg import EcgFeatureExtractor
from .setting_checks import check_choice, check_lead_names, check_number


logger = logging.get_logger(__name__)

INDEPENDENT_LEADS = ("I", "II", "V1", "V2", "V3", "V4", "V5", "V6")
"""The eight leads from which the other four are derived, in the order of the released weights."""

RESAMPLE_METHODS = ("polyphase", "fft")


class EcgJepaFeatureExtractor(EcgFeatureExtractor):
    """
    Converts recordings to signals for [`EcgJepaModel`].

    The 12 leads are arranged by name, repaired and resampled. The leads of the model are selected, in mV, without
    filtering (which the released code does for fine-tuning only) or normalization. Recordings that are shorter than
    the window are padded with zeros, which `attention_mask` marks as missing.

    Args:
        lead_names (`Sequence[str]`): Standard names of the leads that the model reads, in its order.
        patch_size (`int`): Patch length [samples at `sampling_rate`]. Must divide the window length. Incomplete
        patches
            at the end of a recording are treated as missing.
        resample_method (`str`): `"polyphase"` extrapolates the recording linearly at its ends; `"fft"` assumes that it
            is periodic, like the training data of the released weights, which distorts the ends if the baseline
            drifts.
        kwargs: See [`EcgFeatureExtractor`].
    """

    model_input_names: ClassVar[list[str]] = ["input_values", "lead_mask", "attention_mask"]
    model_settings: ClassVar[tuple[str, ...]] = ("lead_names", "patch_size")

    sampling_rate = 250.0
    lead_names: Annotated[Sequence[str], check_lead_names] = INDEPENDENT_LEADS
    patch_size: int = 50
    resample_method: Annotated[str, partial(check_choice, choices=RESAMPLE_METHODS)] = "polyphase"

    def check_settings(self) -> None:
        """See [`EcgFeatureExtractor.check_settings`]."""
        super().check_settings()
        self.lead_names = list(self.lead_names)
        check_number("patch_size", self.patch_size, 1, self.window_samples, integer=True)
        if self.window_samples % self.patch_size:
            raise InputError(
                f"the window length of {self.window_samples} samples ({self.window_seconds:g} s at "
                f"{self.sampling_rate:g} Hz) must be divisible by patch_size={self.patch_size}"
            )

    @property
    def num_patches(self) -> int:
        """Number of patches per lead in a window."""
        return self.window_samples // self.patch_size

    def _clean(self, *args: Any) -> tuple[np.ndarray, np.ndarray]:
        """See [`EcgFeatureExtractor.clean`]. Also checks that the recording has at least one lead of the model."""
        signal, present = super()._clean(*args)
        self._require_any_lead(present)
        return signal, present

    def cut(
        self, signals: Sequence[np.ndarray], r_peaks: Sequence[np.ndarray], lead_masks: Sequence[np.ndarray]
    ) -> dict[str, np.ndarray]:
        """
        Select the leads of the model from windows of a cleaned signal.

        Args:
            signals, r_peaks, lead_masks: See [`EcgFeatureExtractor.cut`]. Peaks are ignored.

        Returns:
            `dict[str, np.ndarray]`: `input_values` `(num_windows, num_leads, num_samples)` float32 [mV], zero where
            missing; `lead_mask` `(num_windows, num_leads)` bool and `attention_mask` `(num_windows, num_patches)`
            bool, True for leads that are present and for complete patches.
        """
        rows = self._lead_rows()
        input_values = np.zeros((len(signals), len(rows), self.window_samples), dtype=np.float32)
        attention_mask = np.zeros((len(signals), self.num_patches), dtype=bool)
        for index, signal in enumerate(signals):
            filled = min(signal.shape[-1], self.window_samples) // self.patch_size
            input_values[index, :, : filled * self.patch_size] = signal[rows, : filled * self.patch_size]
            attention_mask[index, :filled] = True
        if not attention_mask.all():
            logger.warning_once(
                f"some recordings are shorter than {self.window_seconds:g} s: missing patches are masked, but the "
                "released weights were trained on full windows only"
            )
        lead_mask = np.stack(list(lead_masks)).astype(bool)[:, rows]
        return {"input_values": input_values, "lead_mask": lead_mask, "attention_mask": attention_mask}

    def _resample(self, signal: np.ndarray, rate: float) -> np.ndarray:
        if self.resample_method == "polyphase":
            return super()._resample(signal, rate)
        num_samples = math.ceil(signal.shape[-1] * self.sampling_rate / rate)
        return scipy_signal.resample(signal.astype(np.float64), num_samples, axis=-1).astype(np.float32)


EcgJepaFeatureExtractor.register_for_auto_class()
