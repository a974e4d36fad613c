"""Feature extractor of CLEAR-HUG."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Annotated, Any, ClassVar

import numpy as np

from .beats import cut_beats, describe_beats, group_beats, pad_peaks
from .errors import InputError
from .feature_extraction_ecg import EcgFeatureExtractor, Part
from .leads import STANDARD_LEADS
from .setting_checks import MAX_WINDOW_SAMPLES, Flag, check_number


class ClearHugFeatureExtractor(EcgFeatureExtractor):
    """
    Converts recordings to beats for [`ClearHugModel`].

    The 12 leads are arranged by name, repaired, resampled and band-pass filtered; R peaks are detected in all leads
    jointly, and the recording is cut into beats (Pan et al., 2026; see `cut_beats`). The paper also rescales the
    recordings of CPSC2018 and CSN: set `do_rescale=True`.

    Args:
        num_beats (`int`): Maximum number of beats per model input. Later beats of a window are dropped, or, with
            `windows="all"`, distributed over several inputs of nearly equal size. With `on_no_beats="mask"`, the
            `attention_mask` of a window without beats is all False.
        beat_length (`int`): Window length of a beat [samples at `sampling_rate`].
        use_beat_features (`bool`): Also return `beat_features`, the scale of each beat and the adjacent RR intervals
            (see `describe_beats`), for models with `use_beat_features`. Not part of the paper.
        kwargs: See [`EcgFeatureExtractor`].
    """

    reads_beats: ClassVar[bool] = True
    model_settings: ClassVar[tuple[str, ...]] = ("num_beats", "beat_length", "use_beat_features")
    # Axis of the beats in each feature.
    _beat_axes: ClassVar[dict[str, int]] = {"input_values": 2, "attention_mask": 1, "time_ids": 1, "beat_features": 2}

    on_no_beats = "raise"
    do_bandpass = True
    num_beats: Annotated[int, partial(check_number, low=1, high=MAX_WINDOW_SAMPLES, integer=True)] = 15
    beat_length: Annotated[int, partial(check_number, low=2, high=MAX_WINDOW_SAMPLES, integer=True)] = 96
    use_beat_features: Flag = False

    def check_settings(self) -> None:
        """See [`EcgFeatureExtractor.check_settings`]."""
        super().check_settings()
        if self.num_beats * self.beat_length > MAX_WINDOW_SAMPLES:
            raise InputError(
                f"num_beats={self.num_beats} times beat_length={self.beat_length} must be at most "
                f"{MAX_WINDOW_SAMPLES}: reduce one of them"
            )

    @property
    def model_input_names(self) -> list[str]:
        """Names of the model inputs."""
        names = ["input_values", "attention_mask", "time_ids", "lead_mask"]
        return [*names, "beat_features"] if self.use_beat_features else names

    def cut(
        self, signals: Sequence[np.ndarray], r_peaks: Sequence[np.ndarray], lead_masks: Sequence[np.ndarray]
    ) -> dict[str, np.ndarray]:
        """
        Cut windows of a cleaned signal into beats.

        Args:
            signals, r_peaks, lead_masks: See [`EcgFeatureExtractor.cut`].

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
        Like [`cut`], but without dropping beats: a window with more than `num_beats` beats results in several rows of
        consecutive beats, of nearly equal size. Times and features of the beats refer to the entire window.

        Args:
            signals, r_peaks, lead_masks: See [`EcgFeatureExtractor.cut`].

        Returns:
            `tuple[dict[str, np.ndarray], list[Part]]`: Model inputs, and the part of the window that each row covers.
            Parts are separated midway between two beats.
        """
        max_beats = max(len(peaks) for peaks in r_peaks)
        if max_beats <= self.num_beats:
            return super().cut_all(signals, r_peaks, lead_masks)
        features = self._cut(signals, r_peaks, lead_masks, max_beats)
        parts, firsts, counts = [], [], []
        for window, (signal, peaks) in enumerate(zip(signals, r_peaks, strict=True)):
            for group, start, stop in group_beats(peaks, signal.shape[-1], self.num_beats):
                parts.append(Part(window, start, stop))
                firsts.append(int(group[0]) if group.size else 0)
                counts.append(group.size)
        valid = np.arange(self.num_beats) < np.array(counts)[:, None]
        beats = np.where(valid, np.array(firsts)[:, None] + np.arange(self.num_beats), 0)
        rows = np.array([part.window for part in parts])
        for name, axis in self._beat_axes.items():
            if name in features:
                array = features[name][rows]
                shape = [len(rows), *[1] * (array.ndim - 1)]
                shape[axis] = self.num_beats
                array = np.take_along_axis(array, beats.reshape(shape), axis=axis)
                features[name] = array * valid.reshape(shape).astype(array.dtype)
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
        """Reduce the number of beats to the maximum in the batch."""
        width = max(1, int(features["attention_mask"].sum(axis=1).max()))
        return {
            name: array.take(range(width), axis=self._beat_axes[name]) if name in self._beat_axes else array
            for name, array in features.items()
        }

    def row_length(self, row: Mapping[str, Any]) -> int:
        """Number of beats of a row that the model reads."""
        return min(len(row["r_peaks"]), self.num_beats)


ClearHugFeatureExtractor.register_for_auto_class()
