"""Feature extractor of encoders that read whole recordings at any scale."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Annotated, Any, ClassVar, Self

import numpy as np

from .feature_extraction_ecg import EcgFeatureExtractor
from .leads import STANDARD_LEADS
from .setting_checks import check_choice, check_lead_names


NORMALIZATIONS = ("none", "lead", "recording", "minmax")
# A lead that varies less, relative to its largest value, is constant but for rounding.
_CONSTANT = 1e-5


class EcgWaveformFeatureExtractor(EcgFeatureExtractor):
    """
    Converts recordings to signals for encoders that read all leads over time. Several systems share it, so that
    recordings that were prepared for one of them serve all.

    The leads are arranged by name, repaired and resampled, and each window is normalized. Missing leads are zero,
    which `lead_mask` marks, and so is the end of recordings that are shorter than the window, which `attention_mask`
    marks for each sample: an encoder with a token every `stride` samples reads `attention_mask[:, ::stride]`.

    Args:
        lead_names (`Sequence[str]`): Standard names of the leads that the model reads, in its order.
        normalize (`str`): Scale of a window, computed from its recorded samples of the leads that the model reads:

            - `"lead"`: the mean of each lead is subtracted, and the lead is divided by its standard deviation. Values
              are in standard deviations of the lead. This is the default, because some data sets are published in
              standard deviations of each lead instead of mV: only this makes them comparable with others. It loses
              amplitudes and their ratios between leads, such as the voltages of hypertrophy.
            - `"recording"`: one mean and one standard deviation of all leads. Values are in standard deviations of the
              window; ratios of amplitudes remain, and the unit does not matter if it is the same in all leads.
            - `"minmax"`: the minimum of all leads becomes 0 and the maximum 1, as in the code of MERL (Liu et al.,
              ICML 2024). Values are fractions of the range; a single artifact flattens all leads.
            - `"none"`: values remain in mV, or in normalized units for `NU`.
        kwargs: See [`EcgFeatureExtractor`].
    """

    model_input_names: ClassVar[list[str]] = ["input_values", "lead_mask", "attention_mask"]
    model_settings: ClassVar[tuple[str, ...]] = ("lead_names",)

    lead_names: Annotated[Sequence[str], check_lead_names] = STANDARD_LEADS
    normalize: Annotated[str, partial(check_choice, choices=NORMALIZATIONS)] = "lead"

    def check_settings(self) -> None:
        """See [`EcgFeatureExtractor.check_settings`]."""
        super().check_settings()
        self.lead_names = list(self.lead_names)

    def _clean(self, *args: Any) -> tuple[np.ndarray, np.ndarray]:
        """See [`EcgFeatureExtractor.clean`]. Also checks that the recording has at least one lead of the model."""
        signal, present = super()._clean(*args)
        self._require_any_lead(present)
        return signal, present

    def cut(
        self, signals: Sequence[np.ndarray], r_peaks: Sequence[np.ndarray], lead_masks: Sequence[np.ndarray]
    ) -> dict[str, np.ndarray]:
        """
        Select the leads of the model from windows of a cleaned signal, normalize them and pad them to equal length.

        Args:
            signals, r_peaks, lead_masks: See [`EcgFeatureExtractor.cut`]. Peaks are ignored.

        Returns:
            `dict[str, np.ndarray]`: `input_values` `(num_windows, num_leads, num_samples)` float32 in the unit of
            `normalize`, zero where missing; `lead_mask` `(num_windows, num_leads)` and `attention_mask`
            `(num_windows, num_samples)` bool, True for leads and samples that were recorded.
        """
        rows = self._lead_rows()
        lead_mask = np.stack(list(lead_masks)).astype(bool)[:, rows]
        input_values = np.zeros((len(signals), len(rows), self.window_samples), dtype=np.float32)
        attention_mask = np.zeros((len(signals), self.window_samples), dtype=bool)
        for index, signal in enumerate(signals):
            present = lead_mask[index]
            window = signal[rows, : self.window_samples][present]
            input_values[index, present, : window.shape[1]] = self._normalize(window)
            attention_mask[index, : window.shape[1]] = True
        return {"input_values": input_values, "lead_mask": lead_mask, "attention_mask": attention_mask}

    def normalize_window(self, signal: np.ndarray, lead_mask: np.ndarray) -> np.ndarray:
        """See [`EcgFeatureExtractor.normalize_window`]."""
        rows = [row for row in self._lead_rows() if lead_mask[row]]
        normalized = np.array(signal)
        normalized[rows] = self._normalize(signal[rows])
        return normalized

    @property
    def without_normalization(self) -> Self:
        """See [`EcgFeatureExtractor.without_normalization`]."""
        return self.replace(normalize="none")

    def _normalize(self, window: np.ndarray) -> np.ndarray:
        """Normalize the present leads of a window `(num_leads, num_samples)`. What is constant becomes zero."""
        if self.normalize == "none" or not window.size:
            return window
        values = window.astype(np.float64)
        axis = 1 if self.normalize == "lead" else None
        if self.normalize == "minmax":
            offset = values.min(axis=axis, keepdims=True)
            scale = values.max(axis=axis, keepdims=True) - offset
        else:
            offset, scale = values.mean(axis=axis, keepdims=True), values.std(axis=axis, keepdims=True)
        is_constant = scale <= _CONSTANT * np.abs(values).max(axis=axis, keepdims=True)
        return np.where(is_constant, 0.0, (values - offset) / np.where(is_constant, 1.0, scale))


EcgWaveformFeatureExtractor.register_for_auto_class()
