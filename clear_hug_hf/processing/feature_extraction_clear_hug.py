"""Feature extractor of CLEAR-HUG: any recording of the 12-lead ECG to beats."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, ClassVar

import numpy as np

from .beats import cut_beats, describe_beats, pad_peaks
from .errors import InputError
from .feature_extraction_ecg import EcgFeatureExtractor, Part
from .leads import STANDARD_LEADS
from .setting_checks import MAX_WINDOW_SAMPLES, check_flag, check_number


class ClearHugFeatureExtractor(EcgFeatureExtractor):
    """
    Turns recordings into the beats that [`ClearHugModel`] reads.

    A recording is put into 12 named leads, repaired, resampled, band-passed, searched for R peaks with all leads
    together, and cut into beats (paper section on tokenization; see `cut_beats`). Every number that changes the
    result is an argument here and is saved in `preprocessor_config.json`; each can be overridden for one call.

    Args:
        sampling_rate (`float`, *optional*, defaults to `100.0`): Rate that the model works at [Hz].
        num_beats (`int`, *optional*, defaults to `15`):
            Beats that the model reads at once. Of a window with more the first are kept; with `windows="all"` it gives
            several windows of consecutive beats, of equal size as nearly as possible.
        beat_length (`int`, *optional*, defaults to `96`): Length of one beat's window [samples at `sampling_rate`].
        window_seconds (`float`, *optional*, defaults to `10.0`): Length of the window that the model sees at once [s].
        windows (`str`, *optional*, defaults to `"first"`):
            Part of a longer recording that is used: `"first"`, `"center"`, or `"all"` for every window
            `stride_seconds` apart (the last one moved back so that it ends with the recording).
        stride_seconds (`float`, *optional*): Step between windows with `windows="all"` [s]; `window_seconds` by
            default.
        detector (`str`, *optional*, defaults to `"multilead"`): Name of the R-peak detector (see `detect_r_peaks`).
        on_no_beats (`str`, *optional*, defaults to `"raise"`):
            What happens to a window without any beat: `"raise"` an error, or `"mask"`, which gives a window whose
            `attention_mask` is all false. Beats are never invented.
        do_repair (`bool`, *optional*, defaults to `True`): Repair NaN and Inf from their neighbours; else refuse them.
        max_non_finite (`float`, *optional*, defaults to `0.2`):
            Share of NaN and Inf samples up to which a lead is repaired; a lead with more counts as missing.
            A window is left out if all leads are missing, or none changes for 0.5 s, in a larger share of it.
        do_derive_leads (`bool`, *optional*, defaults to `True`):
            Compute absent III, aVR, aVL and aVF from I and II (never for unit `NU`, where the identities do not hold).
        do_resample (`bool`, *optional*, defaults to `True`): Resample other rates; else refuse them.
        do_bandpass (`bool`, *optional*, defaults to `True`): Band-pass between `bandpass_low` and `bandpass_high`.
        bandpass_low (`float`, *optional*, defaults to `0.67`): Lower corner [Hz].
        bandpass_high (`float`, *optional*, defaults to `40.0`): Upper corner [Hz].
        bandpass_order (`int`, *optional*, defaults to `5`): Order of the Butterworth filter, run in both directions.
        do_rescale (`bool`, *optional*, defaults to `False`):
            Scale each recording to `[-rescale_limit, rescale_limit]`, as the paper does for CPSC2018 and CSN.
        rescale_limit (`float`, *optional*, defaults to `3.0`): Half of the range after scaling.
        do_mask_flat_leads (`bool`, *optional*, defaults to `True`):
            Count a lead without any variation (an electrode that fell off) as missing.
        min_seconds (`float`, *optional*, defaults to `1.0`): Shortest accepted recording [s].
        use_beat_features (`bool`, *optional*, defaults to `False`):
            Also give `beat_features`, the scale of each beat and the RR intervals around it (see `describe_beats`),
            which a model with `use_beat_features` reads. Not in the paper.
    """

    # Which axis of each feature counts the beats.
    _beat_axes: ClassVar[dict[str, int]] = {"input_values": 2, "attention_mask": 1, "time_ids": 1, "beat_features": 2}

    def __init__(
        self,
        sampling_rate: float = 100.0,
        num_beats: int = 15,
        beat_length: int = 96,
        window_seconds: float = 10.0,
        windows: str = "first",
        stride_seconds: float | None = None,
        detector: str = "multilead",
        on_no_beats: str = "raise",
        do_repair: bool = True,
        max_non_finite: float = 0.2,
        do_derive_leads: bool = True,
        do_resample: bool = True,
        do_bandpass: bool = True,
        bandpass_low: float = 0.67,
        bandpass_high: float = 40.0,
        bandpass_order: int = 5,
        do_rescale: bool = False,
        rescale_limit: float = 3.0,
        do_mask_flat_leads: bool = True,
        min_seconds: float = 1.0,
        use_beat_features: bool = False,
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
        self.num_beats = num_beats
        self.beat_length = beat_length
        self.use_beat_features = use_beat_features
        check_number("num_beats", num_beats, 1, MAX_WINDOW_SAMPLES, whole=True)
        check_number("beat_length", beat_length, 2, MAX_WINDOW_SAMPLES, whole=True)
        check_flag("use_beat_features", use_beat_features)
        if num_beats * beat_length > MAX_WINDOW_SAMPLES:
            raise InputError(
                f"num_beats={num_beats} of beat_length={beat_length} are more than the {MAX_WINDOW_SAMPLES} samples "
                "that the beats of a window may have: choose fewer or shorter beats"
            )

    @property
    def model_input_names(self) -> list[str]:
        """What a model gets."""
        names = ["input_values", "attention_mask", "time_ids", "lead_mask"]
        return [*names, "beat_features"] if self.use_beat_features else names

    @property
    def lead_names(self) -> tuple[str, ...]:
        """Names of the leads in the order of every output."""
        return STANDARD_LEADS

    def cut(
        self, signals: Sequence[np.ndarray], r_peaks: Sequence[np.ndarray], lead_masks: Sequence[np.ndarray]
    ) -> dict[str, np.ndarray]:
        """
        Cut windows of clean signal into beats at given peaks.

        Args:
            signals (`Sequence[np.ndarray]`): Windows `(12, num_samples)` at the model's rate, of any lengths.
            r_peaks (`Sequence[np.ndarray]`): Ascending peaks of each window [samples].
            lead_masks (`Sequence[np.ndarray]`): Lead masks `(12,)`.

        Returns:
            `dict[str, np.ndarray]`: `input_values` `(num_windows, 12, num_beats, beat_length)` float32,
            `attention_mask` `(num_windows, num_beats)` bool, `time_ids` `(num_windows, num_beats)` int64, `lead_mask`
            `(num_windows, 12)` bool and, with `use_beat_features`, `beat_features` `(num_windows, 12, num_beats, 3)`
            float32.
        """
        return self._cut(signals, r_peaks, lead_masks, self.num_beats)

    def cut_all(
        self, signals: Sequence[np.ndarray], r_peaks: Sequence[np.ndarray], lead_masks: Sequence[np.ndarray]
    ) -> tuple[dict[str, np.ndarray], list[Part]]:
        """
        As [`cut`], but no beat is left out: a window with more than `num_beats` gives several rows of consecutive
        beats, of equal size as nearly as possible, so that the last is no stub. Each beat is cut, timed and described
        among all beats of its window.

        Args:
            signals, r_peaks, lead_masks: As in [`cut`].

        Returns:
            `tuple[dict[str, np.ndarray], list[Part]]`: As [`cut`], and what each row covers: a part begins and ends
            midway between two beats, or with the window.
        """
        most = max(len(peaks) for peaks in r_peaks)
        if most <= self.num_beats:
            return super().cut_all(signals, r_peaks, lead_masks)
        features = self._cut(signals, r_peaks, lead_masks, most)
        parts, firsts, counts = [], [], []
        for window, (signal, peaks) in enumerate(zip(signals, r_peaks, strict=True)):
            groups = np.array_split(np.arange(len(peaks)), max(1, -(-len(peaks) // self.num_beats)))
            # Rounded up, so that even of two neighboring samples each is in its own part.
            bounds = [(int(peaks[group[0] - 1]) + int(peaks[group[0]]) + 1) // 2 for group in groups[1:]]
            edges = [0, *bounds, signal.shape[-1]]
            parts += [Part(window, *pair) for pair in pairwise(edges)]
            firsts += [int(group[0]) if group.size else 0 for group in groups]
            counts += [group.size for group in groups]
        real = np.arange(self.num_beats) < np.array(counts)[:, None]
        beats = np.where(real, np.array(firsts)[:, None] + np.arange(self.num_beats), 0)
        rows = np.array([part.window for part in parts])
        for name, axis in self._beat_axes.items():
            if name in features:
                array = features[name][rows]
                shape = [len(rows) if one == 0 else self.num_beats if one == axis else 1 for one in range(array.ndim)]
                array = np.take_along_axis(array, beats.reshape(shape), axis=axis)
                features[name] = array * real.reshape(shape).astype(array.dtype)
        features["lead_mask"] = features["lead_mask"][rows]
        return features, parts

    def _cut(
        self,
        signals: Sequence[np.ndarray],
        r_peaks: Sequence[np.ndarray],
        lead_masks: Sequence[np.ndarray],
        num_beats: int,
    ) -> dict[str, np.ndarray]:
        lengths = np.array([signal.shape[-1] for signal in signals])
        batch = np.zeros((len(signals), len(STANDARD_LEADS), int(lengths.max())), dtype=np.float32)
        for row, signal in enumerate(signals):
            batch[row, :, : signal.shape[-1]] = signal
        peaks = pad_peaks(r_peaks)
        beats, beat_mask, time_ids = cut_beats(batch, peaks, num_beats, self.beat_length, self.sampling_rate, lengths)
        features = {
            "input_values": beats,
            "attention_mask": beat_mask,
            "time_ids": time_ids,
            "lead_mask": np.stack(list(lead_masks)).astype(bool),
        }
        if self.use_beat_features:
            features["beat_features"] = describe_beats(beats, beat_mask, peaks, self.sampling_rate)
        return features

    def read_peaks(self, r_peaks: np.ndarray) -> np.ndarray:
        """The first `num_beats` of a window's peaks."""
        return r_peaks[: self.num_beats]

    def trim(self, features: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """As wide as the window with the most beats, instead of `num_beats`."""
        width = max(1, int(features["attention_mask"].sum(axis=1).max()))
        return {
            name: array.take(range(width), axis=self._beat_axes[name]) if name in self._beat_axes else array
            for name, array in features.items()
        }

    def row_length(self, row: Mapping[str, Any]) -> int:
        """Beats of a row that the model sees."""
        return min(len(row["r_peaks"]), self.num_beats)


ClearHugFeatureExtractor.register_for_auto_class()
