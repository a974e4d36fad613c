"""Feature extractor of ECG-JEPA: any recording of the 12-lead ECG to the eight leads that the model reads."""

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
from .leads import STANDARD_LEADS
from .setting_checks import check_choice, check_list, check_number


logger = logging.get_logger(__name__)

INDEPENDENT_LEADS = ("I", "II", "V1", "V2", "V3", "V4", "V5", "V6")
"""The leads that the other four follow from, in the order of the released weights."""

RESAMPLE_METHODS = ("polyphase", "fft")


class EcgJepaFeatureExtractor(EcgFeatureExtractor):
    """
    Turns recordings into the signals that [`EcgJepaModel`] reads.

    A recording is put into 12 named leads, repaired and resampled; the model's leads are taken by name, in mV, neither
    filtered (the released code does so for fine-tuning only) nor normalized. A recording shorter than the window is
    followed by zeros that `attention_mask` marks as missing; the released weights were trained on whole windows only.

    Args:
        lead_names (`Sequence[str]`): Standard names of the leads that the model reads, in its order.
        patch_size (`int`): Length of the model's patches [samples at `sampling_rate`], of which a window has a whole
            number. A patch that a recording does not fill to its end is missing.
        resample_method (`str`): `"polyphase"` continues a recording on a line at its ends; `"fft"` takes it for
            periodic, as what the released weights were trained on was made, which bends the ends of a drifting
            recording.
        kwargs: Settings that [`EcgFeatureExtractor`] explains.
    """

    model_input_names: ClassVar[list[str]] = ["input_values", "lead_mask", "attention_mask"]
    model_settings: ClassVar[tuple[str, ...]] = ("lead_names", "patch_size")

    sampling_rate = 250.0
    lead_names: Annotated[Sequence[str], partial(check_list, kind=str)] = INDEPENDENT_LEADS
    patch_size: int = 50
    resample_method: Annotated[str, partial(check_choice, known=RESAMPLE_METHODS)] = "polyphase"

    def check_settings(self) -> None:
        """Refuse settings that do not fit together, and leads that cannot be."""
        super().check_settings()
        self.lead_names = list(self.lead_names)
        if not self.lead_names or len(set(self.lead_names)) != len(self.lead_names):
            raise InputError(f"lead_names must name at least one lead and each only once, got {self.lead_names}")
        if unknown := [name for name in self.lead_names if name not in STANDARD_LEADS]:
            raise InputError(f"lead_names holds {unknown[0]!r}: choose from {', '.join(STANDARD_LEADS)}")
        check_number("patch_size", self.patch_size, 1, self.window_samples, whole=True)
        if self.window_samples % self.patch_size:
            raise InputError(
                f"a window of {self.window_seconds:g} s has {self.window_samples} samples at {self.sampling_rate:g} "
                f"Hz, which is no whole number of patches of {self.patch_size}: choose another patch_size or "
                "window_seconds"
            )

    @property
    def num_patches(self) -> int:
        """Patches of one lead in a window."""
        return self.window_samples // self.patch_size

    def _clean(self, *args: Any) -> tuple[np.ndarray, np.ndarray]:
        """As [`EcgFeatureExtractor.clean`]; also refuses a recording that has none of the leads the model reads."""
        signal, present = super()._clean(*args)
        if not present[self._lead_rows()].any():
            found = ", ".join(np.array(STANDARD_LEADS)[present])
            raise InputError(
                f"the recording has lead(s) {found} and the model reads {', '.join(self.lead_names)}: at least one of "
                "these is needed"
            )
        return signal, present

    def cut(
        self, signals: Sequence[np.ndarray], r_peaks: Sequence[np.ndarray], lead_masks: Sequence[np.ndarray]
    ) -> dict[str, np.ndarray]:
        """
        Take the model's leads of windows of clean signal, and mark what is missing.

        Args:
            signals, r_peaks, lead_masks: As in [`EcgFeatureExtractor.cut`]; signals are read up to `window_seconds`,
                peaks not at all.

        Returns:
            `dict[str, np.ndarray]`: `input_values` `(num_windows, num_leads, num_samples)` float32 [mV], zero where
            there is nothing; `lead_mask` `(num_windows, num_leads)` bool and `attention_mask` `(num_windows,
            num_patches)` bool, true for leads that are present and patches that the recording fills.
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
                f"some recordings are shorter than {self.window_seconds:g} s: what they lack is masked, but the "
                "released weights were trained on whole windows only"
            )
        lead_mask = np.stack(list(lead_masks)).astype(bool)[:, rows]
        return {"input_values": input_values, "lead_mask": lead_mask, "attention_mask": attention_mask}

    def _lead_rows(self) -> list[int]:
        return [STANDARD_LEADS.index(name) for name in self.lead_names]

    def _resample(self, signal: np.ndarray, rate: float) -> np.ndarray:
        if self.resample_method == "polyphase":
            return super()._resample(signal, rate)
        num_samples = math.ceil(signal.shape[-1] * self.sampling_rate / rate)
        return scipy_signal.resample(signal.astype(np.float64), num_samples, axis=-1).astype(np.float32)


EcgJepaFeatureExtractor.register_for_auto_class()
