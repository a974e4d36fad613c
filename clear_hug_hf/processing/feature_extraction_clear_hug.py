"""Feature extractor of CLEAR-HUG: any recording of the 12-lead ECG to beats."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from itertools import pairwise
from typing import Annotated, Any, ClassVar

import numpy as np

from .beats import cut_beats, describe_beats, pad_peaks
from .errors import InputError
from .feature_extraction_ecg import EcgFeatureExtractor, Part
from .leads import STANDARD_LEADS
from .setting_checks import MAX_WINDOW_SAMPLES, Flag, check_number


class ClearHugFeatureExtractor(EcgFeatureExtractor):
    """
    Turns recordings into the beats that [`ClearHugModel`] reads.

    A recording is put into 12 named leads, repaired, resampled, band-passed, searched for R peaks with all leads
    together, and cut into beats (paper section on tokenization; see `cut_beats`). The paper scales the recordings of
    CPSC2018 and CSN, too: `do_rescale=True`.

    Args:
        num_beats (`int`): Beats that the model reads at once. Of a window with more the first are kept; with
            `windows="all"` it gives several windows of consecutive beats, of equal size as nearly as possible. A
            window without any has an `attention_mask` that is all false, with `on_no_beats="mask"`.
        beat_length (`int`): Length of one beat's window [samples at `sampling_rate`].
        use_beat_features (`bool`): Also give `beat_features`, the scale of each beat and the RR intervals around it
            (see `describe_beats`), which a model with `use_beat_features` reads. Not in the paper.
        kwargs: Settings that [`EcgFeatureExtractor`] explains.
    """

    reads_beats: ClassVar[bool] = True
    model_settings: ClassVar[tuple[str, ...]] = ("num_beats", "beat_length", "use_beat_features")
    # Which axis of each feature counts the beats.
    _beat_axes: ClassVar[dict[str, int]] = {"input_values": 2, "attention_mask": 1, "time_ids": 1, "beat_features": 2}

    on_no_beats = "raise"
    do_bandpass = True
    num_beats: Annotated[int, partial(check_number, low=1, high=MAX_WINDOW_SAMPLES, whole=True)] = 15
    beat_length: Annotated[int, partial(check_number, low=2, high=MAX_WINDOW_SAMPLES, whole=True)] = 96
    use_beat_features: Flag = False

    def check_settings(self) -> None:
        """Refuse settings that do not fit together."""
        super().check_settings()
        if self.num_beats * self.beat_length > MAX_WINDOW_SAMPLES:
            raise InputError(
                f"num_beats={self.num_beats} of beat_length={self.beat_length} are more than the {MAX_WINDOW_SAMPLES} "
                "samples that the beats of a window may have: choose fewer or shorter beats"
            )

    @property
    def model_input_names(self) -> list[str]:
        """What a model gets."""
        names = ["input_values", "attention_mask", "time_ids", "lead_mask"]
        return [*names, "beat_features"] if self.use_beat_features else names

    def cut(
        self, signals: Sequence[np.ndarray], r_peaks: Sequence[np.ndarray], lead_masks: Sequence[np.ndarray]
    ) -> dict[str, np.ndarray]:
        """
        Cut windows of clean signal into beats at given peaks.

        Args:
            signals, r_peaks, lead_masks: As in [`EcgFeatureExtractor.cut`].

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
