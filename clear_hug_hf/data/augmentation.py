"""Recordings changed as recording them again would change them, for pre-training on few."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from ..processing.errors import InputError
from ..processing.recording_inputs import StoredWindow
from .collator import EcgCollator


# At strength 1.
_CROP = 0.4  # Most of a recording that a random window leaves out, as a share of its length.
_WANDER = 0.3  # Height of the baseline's wander [standard deviations of the lead].
_WANDER_BAND = (0.05, 0.5)  # Breathing and movement [Hz].
_BREATHING = 0.2  # By how much breathing changes amplitudes, as a share.
_BREATHING_BAND = (0.1, 0.4)  # 6 to 24 breaths a minute [Hz].
_DROPOUT = 0.1  # Share of the leads that are taken away.


def augment_recording(
    signal: np.ndarray,
    r_peaks: np.ndarray,
    lead_mask: np.ndarray,
    generator: np.random.Generator,
    sampling_rate: float = 100.0,
    strength: float = 1.0,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """
    A recording as it could have been: begun later and ended earlier, with a baseline that wanders in each lead, with
    amplitudes that follow the breathing in all leads together, and with electrodes that fell off. What a diagnosis is
    read from stays: waves are neither stretched nor turned over, and leads are not mixed.

    Args:
        signal (`np.ndarray` of shape `(num_leads, num_samples)`): Cleaned leads [any unit].
        r_peaks (`np.ndarray`): Ascending peaks [samples].
        lead_mask (`np.ndarray` of shape `(num_leads,)`): True where a lead is present.
        generator (`np.random.Generator`): Draws everything.
        sampling_rate (`float`, *optional*, defaults to `100.0`): [Hz].
        strength (`float`, *optional*, defaults to `1.0`): 0 changes nothing, 2 is twice as much.

    Returns:
        `tuple[np.ndarray, np.ndarray, np.ndarray]`: signal, peaks and lead mask. At least half of the present leads
        stay, and, where there were peaks, at least one.

    Raises:
        InputError: If the strength is not between 0 and 2.
    """
    check_strength(strength)
    # Everything is drawn, used or not: what follows does not depend on the recording.
    shares, where = generator.uniform(0, 1, 2), generator.uniform(0, 1, (2, signal.shape[0]))
    bands = [generator.uniform(*band) for band in (_WANDER_BAND, _BREATHING_BAND)]
    heights = generator.uniform(0, strength, (2, 1))
    dropped = generator.uniform(0, 1, signal.shape[0]) < _DROPOUT * strength

    num_samples = signal.shape[-1]
    length = num_samples - round(min(_CROP * strength, 0.8) * shares[0] * num_samples)
    start = round(shares[1] * (num_samples - length))
    inside = (r_peaks >= start) & (r_peaks < start + length)
    if inside.any() or not r_peaks.size:
        signal, r_peaks = signal[:, start : start + length], r_peaks[inside] - start

    seconds = np.arange(signal.shape[-1]) / sampling_rate
    wander = np.sin(2 * np.pi * (bands[0] * seconds + where[0][:, None]))
    breathing = 1 + _BREATHING * heights[1] * np.sin(2 * np.pi * (bands[1] * seconds + where[1, 0]))
    signal = signal * breathing + _WANDER * heights[0] * signal.std(axis=1, keepdims=True) * wander

    lead_mask = np.asarray(lead_mask, dtype=bool)
    kept = lead_mask & ~dropped
    if 2 * kept.sum() >= lead_mask.sum():
        lead_mask = kept
    return np.where(lead_mask[:, None], signal, 0.0).astype(np.float32), r_peaks, lead_mask


def check_strength(strength: float) -> None:
    """Refuse strengths of an augmentation that nobody means."""
    if not 0 <= strength <= 2:
        raise InputError(f"augmentation is {strength}: give a number from 0 (nothing changes) to 2; 1 is usual")


class AugmentingCollator(EcgCollator):
    """
    An [`EcgCollator`] that changes each recording by [`augment_recording`] where it gets seeds, as the pre-training
    loop gives them: every time anew, and the same after a restart. Without seeds recordings stay as they are, unless
    it is `random`.

    Args:
        feature_extractor ([`EcgFeatureExtractor`]): The one that the dataset was prepared with.
        label_names (`Sequence[str]`, *optional*, defaults to `()`): As [`EcgCollator`].
        augmentation (`float`, *optional*, defaults to `1.0`): Strength, from 0 to 2.
        random (`bool`, *optional*, defaults to `False`): Whether recordings without seeds are changed by draws from
            torch's own generator.
    """

    takes_seeds = True

    def __init__(
        self,
        feature_extractor: Any,
        label_names: Sequence[str] | None = (),
        *,
        augmentation: float = 1.0,
        random: bool = False,
    ):
        super().__init__(feature_extractor, label_names)
        check_strength(augmentation)
        self.augmentation = augmentation
        self.random = random

    def __call__(self, rows: Sequence[Mapping[str, Any]], seeds: np.ndarray | None = None) -> dict[str, torch.Tensor]:
        """
        Collate rows, as [`EcgCollator`] does.

        Args:
            rows (`Sequence[Mapping]`): Rows as [`prepare`] makes them.
            seeds (`np.ndarray` of shape `(batch_size,)`, *optional*): One for each recording.

        Returns:
            `dict[str, torch.Tensor]`: As [`EcgCollator`].

        Raises:
            InputError: As [`EcgCollator`].
        """
        windows = self._read(rows)
        if seeds is None and self.random:
            seeds = torch.randint(torch.iinfo(torch.int64).max, (len(rows),)).numpy()
        generators = None if seeds is None else [np.random.default_rng(int(seed) & (2**64 - 1)) for seed in seeds]
        return self._batch(self._cut(windows, generators), rows)

    def _cut(
        self, windows: Sequence[StoredWindow], generators: Sequence[np.random.Generator] | None = None
    ) -> dict[str, np.ndarray]:
        if generators is not None:
            rate = self.feature_extractor.sampling_rate
            windows = [
                StoredWindow(*augment_recording(*window, generator, rate, self.augmentation))
                for window, generator in zip(windows, generators, strict=True)
            ]
        return super()._cut(windows)
