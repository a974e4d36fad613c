"""Feature extractor of ECG-JEPA: any recording of the 12-lead ECG to the eight leads that the model reads."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar

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
    filtered nor normalised. A recording shorter than the window is followed by zeros that `attention_mask` marks as
    missing; the released weights were trained on whole windows only. Every number that changes the result is an
    argument here and is saved in `preprocessor_config.json`; each can be overridden for one call.

    Args:
        sampling_rate (`float`, *optional*, defaults to `250.0`): Rate that the model works at [Hz].
        lead_names (`Sequence[str]`, *optional*, defaults to I, II and V1 to V6):
            Standard names of the leads that the model reads, in its order.
        patch_size (`int`, *optional*, defaults to `50`):
            Length of the model's patches [samples at `sampling_rate`]. A patch that a recording does not fill to its
            end is missing.
        window_seconds (`float`, *optional*, defaults to `10.0`):
            Length of the window that the model sees at once [s]; a whole number of patches.
        windows (`str`, *optional*, defaults to `"first"`):
            Part of a longer recording that is used: `"first"`, `"center"`, or `"all"` for every window
            `stride_seconds` apart (the last one moved back so that it ends with the recording).
        stride_seconds (`float`, *optional*): Step between windows with `windows="all"` [s]; `window_seconds` by
            default.
        resample_method (`str`, *optional*, defaults to `"polyphase"`):
            `"polyphase"` continues a recording on a line at its ends; `"fft"` takes it for periodic, as what the
            released weights were trained on was made, which bends the ends of a drifting recording.
        detector (`str`, *optional*, defaults to `"multilead"`):
            Name of the R-peak detector (see `detect_r_peaks`). The model reads no beats: they are searched where a
            data set is prepared, with `return_r_peaks`, and with `on_no_beats="raise"`.
        on_no_beats (`str`, *optional*, defaults to `"mask"`):
            What happens to a window without any beat: `"raise"` an error, or `"mask"`, which keeps it.
        do_repair (`bool`, *optional*, defaults to `True`): Repair NaN and Inf from their neighbours; else refuse them.
        max_non_finite (`float`, *optional*, defaults to `0.2`):
            Share of NaN and Inf samples up to which a lead is repaired; a lead with more counts as missing.
            A window is left out if all leads are missing, or none changes for 0.5 s, in a larger share of it.
        do_derive_leads (`bool`, *optional*, defaults to `True`):
            Compute absent III, aVR, aVL and aVF from I and II (never for unit `NU`, where the identities do not hold).
        do_resample (`bool`, *optional*, defaults to `True`): Resample other rates; else refuse them.
        do_bandpass (`bool`, *optional*, defaults to `False`):
            Band-pass between `bandpass_low` and `bandpass_high`; the released code does so for fine-tuning only.
        bandpass_low (`float`, *optional*, defaults to `0.67`): Lower corner [Hz].
        bandpass_high (`float`, *optional*, defaults to `40.0`): Upper corner [Hz].
        bandpass_order (`int`, *optional*, defaults to `5`): Order of the Butterworth filter, run in both directions.
        do_rescale (`bool`, *optional*, defaults to `False`):
            Scale each recording to `[-rescale_limit, rescale_limit]`.
        rescale_limit (`float`, *optional*, defaults to `3.0`): Half of the range after scaling.
        do_mask_flat_leads (`bool`, *optional*, defaults to `True`):
            Count a lead without any variation (an electrode that fell off) as missing.
        min_seconds (`float`, *optional*, defaults to `1.0`): Shortest accepted recording [s].
    """

    model_input_names: ClassVar[list[str]] = ["input_values", "lead_mask", "attention_mask"]
    reads_beats: ClassVar[bool] = False

    def __init__(
        self,
        sampling_rate: float = 250.0,
        lead_names: Sequence[str] = INDEPENDENT_LEADS,
        patch_size: int = 50,
        window_seconds: float = 10.0,
        windows: str = "first",
        stride_seconds: float | None = None,
        resample_method: str = "polyphase",
        detector: str = "multilead",
        on_no_beats: str = "mask",
        do_repair: bool = True,
        max_non_finite: float = 0.2,
        do_derive_leads: bool = True,
        do_resample: bool = True,
        do_bandpass: bool = False,
        bandpass_low: float = 0.67,
        bandpass_high: float = 40.0,
        bandpass_order: int = 5,
        do_rescale: bool = False,
        rescale_limit: float = 3.0,
        do_mask_flat_leads: bool = True,
        min_seconds: float = 1.0,
        **kwargs: Any,
    ):
        super().__init__(
            sampling_rate=sampling_rate,
            window_seconds=window_seconds,
            windows=windows,
            stride_seconds=stride_seconds,
            detector=detector,
            on_no_beats=on_no_beats,
            do_repair=do_repair,
            max_non_finite=max_non_finite,
            do_derive_leads=do_derive_leads,
            do_resample=do_resample,
            do_bandpass=do_bandpass,
            bandpass_low=bandpass_low,
            bandpass_high=bandpass_high,
            bandpass_order=bandpass_order,
            do_rescale=do_rescale,
            rescale_limit=rescale_limit,
            do_mask_flat_leads=do_mask_flat_leads,
            min_seconds=min_seconds,
            **kwargs,
        )
        check_list("lead_names", lead_names, str)
        self.lead_names = list(lead_names)
        self.patch_size = patch_size
        self.resample_method = resample_method
        if not self.lead_names or len(set(self.lead_names)) != len(self.lead_names):
            raise InputError(f"lead_names must name at least one lead and each only once, got {self.lead_names}")
        if unknown := [name for name in self.lead_names if name not in STANDARD_LEADS]:
            raise InputError(f"lead_names holds {unknown[0]!r}: choose from {', '.join(STANDARD_LEADS)}")
        check_choice("resample_method", resample_method, RESAMPLE_METHODS)
        check_number("patch_size", patch_size, 1, self.window_samples, whole=True)
        if self.window_samples % patch_size:
            raise InputError(
                f"a window of {window_seconds:g} s has {self.window_samples} samples at {sampling_rate:g} Hz, which "
                f"is no whole number of patches of {patch_size}: choose another patch_size or window_seconds"
            )

    @property
    def num_patches(self) -> int:
        """Patches of one lead in a window."""
        return self.window_samples // self.patch_size

    def clean(self, *args: Any, **kwargs: Any) -> tuple[np.ndarray, np.ndarray]:
        """
        One recording as 12 clean leads at the model's rate, whole length: arguments, result and errors as in
        [`EcgFeatureExtractor.clean`].

        Raises:
            InputError: Also if none of the leads that the model reads is there.
        """
        signal, present = super().clean(*args, **kwargs)
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
            signals (`Sequence[np.ndarray]`): Windows `(12, num_samples)` at the model's rate; what is longer than
                `window_seconds` is left out.
            r_peaks (`Sequence[np.ndarray]`): Not read.
            lead_masks (`Sequence[np.ndarray]`): Lead masks `(12,)`.

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
