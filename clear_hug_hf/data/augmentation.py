"""Augmentations that imitate a second recording of the same heart, for pre-training on small datasets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from ..processing.errors import InputError
from ..processing.recording_inputs import StoredWindow
from .collator import EcgCollator


# At strength 1.
CROP = 0.4  # Largest fraction of a recording that is cropped.
WANDER = 0.3  # Largest amplitude of baseline wander [standard deviations of the lead].
WANDER_BAND = (0.05, 0.5)  # Breathing and movement [Hz].
BREATHING = 0.2  # Largest relative change of amplitude by breathing.
BREATHING_BAND = (0.1, 0.4)  # 6 to 24 breaths per minute [Hz].
DROPOUT = 0.1  # Probability of dropping a lead.
MAX_LOSS = 0.8  # Largest fraction of a recording that is lost at any strength.


def augment_recording(
    signal: np.ndarray,
    r_peaks: np.ndarray,
    lead_mask: np.ndarray,
    generator: np.random.Generator,
    sampling_rate: float = 100.0,
    strength: float = 1.0,
    drops_leads: bool = True,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """
    Augment a recording: crop it, add baseline wander to each lead, modulate the amplitude of all leads with breathing,
    and drop leads. Diagnostic features are preserved: waves are neither stretched nor inverted, and leads are not
    mixed.

    Args:
        signal (`np.ndarray` of shape `(num_leads, num_samples)`): Cleaned leads [any unit].
        r_peaks (`np.ndarray`): Ascending R peaks [samples].
        lead_mask (`np.ndarray` of shape `(num_leads,)`): True where a lead is present.
        generator (`np.random.Generator`): Source of all random numbers.
        sampling_rate (`float`, *optional*, defaults to `100.0`): Sampling rate [Hz].
        strength (`float`, *optional*, defaults to `1.0`): 0 changes nothing, 2 doubles the changes.
        drops_leads (`bool`, *optional*, defaults to `True`): Whether leads are dropped.

    Returns:
        `tuple[np.ndarray, np.ndarray, np.ndarray]`: Signal, R peaks and lead mask. At least half of the present leads
        and, if there were peaks, at least one peak remain.

    Raises:
        InputError: If the strength is not between 0 and 2.
    """
    check_strength(strength)
    # Always draw the same amount of random numbers, so that later draws do not depend on the recording.
    fractions, phases = generator.uniform(0, 1, 2), generator.uniform(0, 1, (2, signal.shape[0]))
    frequencies = [generator.uniform(*band) for band in (WANDER_BAND, BREATHING_BAND)]
    amplitudes = generator.uniform(0, strength, (2, 1))
    dropped = np.logical_and(generator.uniform(0, 1, signal.shape[0]) < DROPOUT * strength, drops_leads)
    window = StoredWindow(signal, r_peaks, lead_mask)
    signal, r_peaks, _ = crop_to(window, min(CROP * strength, MAX_LOSS) * fractions[0], fractions[1])
    baseline = baseline_wander(signal, sampling_rate, frequencies[0], phases[0], WANDER * amplitudes[0])
    signal = signal * breathing_gain(signal, sampling_rate, frequencies[1], phases[1, 0], BREATHING * amplitudes[1])
    lead_mask = without_leads(lead_mask, dropped)
    return np.where(lead_mask[:, None], signal + baseline, 0.0).astype(np.float32), r_peaks, lead_mask


def crop_to(window: StoredWindow, loss: float, position: float) -> StoredWindow:
    """
    Crop a recording by a fraction `loss` of its samples, `position` (0 to 1) of which before the crop. A crop that
    would leave no R peak is omitted.
    """
    signal, r_peaks, _ = window
    num_samples = signal.shape[-1]
    length = num_samples - round(loss * num_samples)
    start = round(position * (num_samples - length))
    inside = (r_peaks >= start) & (r_peaks < start + length)
    if r_peaks.size and not inside.any():
        return window
    return window._replace(signal=signal[:, start : start + length], r_peaks=r_peaks[inside] - start)


def baseline_wander(
    signal: np.ndarray, sampling_rate: float, frequency: float, phases: np.ndarray, amplitude: Any
) -> np.ndarray:
    """
    Baseline wander `(num_leads, num_samples)` of a frequency [Hz], with a phase [cycles] for each lead and an
    `amplitude` [standard deviations of the lead].
    """
    seconds = np.arange(signal.shape[-1]) / sampling_rate
    wander = np.sin(2 * np.pi * (frequency * seconds + phases[:, None]))
    result: np.ndarray = amplitude * signal.std(axis=1, keepdims=True) * wander
    return result


def breathing_gain(
    signal: np.ndarray, sampling_rate: float, frequency: float, phase: float, amplitude: Any
) -> np.ndarray:
    """Gain `(num_samples,)` of all leads that varies with breathing of a frequency [Hz] by at most `amplitude`."""
    seconds = np.arange(signal.shape[-1]) / sampling_rate
    gain: np.ndarray = 1 + amplitude * np.sin(2 * np.pi * (frequency * seconds + phase))
    return gain


def without_leads(lead_mask: np.ndarray, dropped: np.ndarray) -> np.ndarray:
    """The mask of leads without the `dropped` ones, unless fewer than half of the present leads would remain."""
    lead_mask = np.asarray(lead_mask, dtype=bool)
    remaining: np.ndarray = lead_mask & ~dropped
    return remaining if 2 * remaining.sum() >= lead_mask.sum() else lead_mask


def check_strength(strength: float) -> None:
    """Raise an [`InputError`] if the strength of an augmentation is not from 0 to 2."""
    if not 0 <= strength <= 2:
        raise InputError(f"augmentation is {strength}: it must be a number from 0 (off) to 2; 1 is the usual strength")


class AugmentingCollator(EcgCollator):
    """
    An [`EcgCollator`] that augments recordings with [`augment_recording`] if it is called with seeds. The pre-training
    loop passes new seeds in every epoch, and the same ones after a restart. Without seeds recordings are not
    augmented, unless `random` is set.

    Args:
        feature_extractor ([`EcgFeatureExtractor`]): The one that the dataset was prepared with.
        label_names (`Sequence[str]`, *optional*, defaults to `()`): As [`EcgCollator`].
        augmentation (`float`, *optional*, defaults to `1.0`): Strength, from 0 to 2.
        random (`bool`, *optional*, defaults to `False`): Whether to augment without seeds, too, with torch's global
            generator.
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
            rows (`Sequence[Mapping]`): Rows of a prepared dataset.
            seeds (`np.ndarray` of shape `(batch_size,)`, *optional*): One seed per recording.

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
            drops_leads = self.feature_extractor.missing_leads != "refused"
            windows = [
                StoredWindow(*augment_recording(*window, generator, rate, self.augmentation, drops_leads))
                for window, generator in zip(windows, generators, strict=True)
            ]
        return super()._cut(windows)
