"""
Views of a recording, for pre-training that compares two of them.

A view is a function of a window, a random generator, the sampling rate [Hz] and a strength, which returns a window.
The signal keeps its unit, R peaks move with it, and at strength 0 nothing changes; at strength 1 the changes are those
of each docstring. No view inverts a lead, mixes leads or reverses time, since these would change the diagnosis.

The views are those of contrastive learning on ECGs (Mehari and Strodthoff, 2022, arXiv 2103.12676; Kiyasseh et al.,
ICML 2021; Eldele et al., IJCAI 2021), except `crop`, `wander`, `breathing` and `drop_leads`, which are the parts of
[`augment_recording`].
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from typing import Any

import numpy as np
import torch

from ..processing.errors import InputError
from ..processing.recording_inputs import StoredWindow
from ..utils.arguments import nearest
from .augmentation import (
    BREATHING,
    BREATHING_BAND,
    CROP,
    DROPOUT,
    MAX_LOSS,
    WANDER,
    WANDER_BAND,
    AugmentingCollator,
    baseline_wander,
    breathing_gain,
    check_strength,
    crop_to,
    without_leads,
)


View = Callable[..., StoredWindow]
VIEWS: dict[str, View] = {}
"""Views by name."""

_MAINS = (50.0, 60.0)  # [Hz]
# Views that keep a part of the recording: it is then normalized as a recording of its own.
_KEEPING = ("crop", "crop_stretch", "first_half", "second_half")


def _view(view: View) -> View:
    """Register a view, which then leaves the recording as it is at strength 0 and returns float32."""

    @wraps(view)
    def registered(
        window: StoredWindow, generator: np.random.Generator, sampling_rate: float = 100.0, strength: float = 1.0
    ) -> StoredWindow:
        check_strength(strength)
        if strength == 0:
            return window
        changed = view(window, generator, sampling_rate, strength)
        return changed._replace(signal=changed.signal.astype(np.float32, copy=False))

    VIEWS[view.__name__] = registered
    return registered


# ---------------------------------------------------------------------------------------------------------- time


@_view
def crop(window: StoredWindow, generator: np.random.Generator, sampling_rate: float, strength: float) -> StoredWindow:
    """Keep 60 to 100 % of the recording, unless this would leave no R peak. Intervals are preserved."""
    loss, position = generator.uniform(0, 1, 2)
    return crop_to(window, min(CROP * strength, MAX_LOSS) * loss, position)


@_view
def crop_stretch(
    window: StoredWindow, generator: np.random.Generator, sampling_rate: float, strength: float
) -> StoredWindow:
    """
    Keep 50 to 100 % of the recording and stretch it to its previous length, as published (Mehari and Strodthoff).

    Heart rate and all intervals become up to two times slower, so that an encoder learns to be blind to rate and QT
    interval: `crop` does not stretch. Samples are spread evenly, in the published form at random places.
    """
    loss, position = generator.uniform(0, 1, 2)
    num_samples = window.signal.shape[-1]
    window = crop_to(window, min(0.5 * strength, MAX_LOSS) * loss, position)
    signal = window.signal
    places = np.linspace(0, signal.shape[-1] - 1, num_samples)
    before = np.minimum(places.astype(int), max(signal.shape[-1] - 2, 0))
    after = np.minimum(before + 1, signal.shape[-1] - 1)
    fraction = places - before
    stretched = signal[:, before] * (1 - fraction) + signal[:, after] * fraction
    factor = (num_samples - 1) / max(signal.shape[-1] - 1, 1)
    r_peaks = np.rint(window.r_peaks * factor).astype(window.r_peaks.dtype)
    return window._replace(signal=stretched, r_peaks=r_peaks)


@_view
def time_out(
    window: StoredWindow, generator: np.random.Generator, sampling_rate: float, strength: float
) -> StoredWindow:
    """Set 20 to 40 % of the time to zero in all leads, unless this would remove all R peaks."""
    share, position = generator.uniform(0, 1, 2)
    signal, r_peaks = window.signal.copy(), window.r_peaks
    length = round(min(strength * (0.2 + 0.2 * share), MAX_LOSS) * signal.shape[-1])
    start = round(position * (signal.shape[-1] - length))
    remaining = r_peaks[(r_peaks < start) | (r_peaks >= start + length)]
    if r_peaks.size and not remaining.size:
        return window
    signal[:, start : start + length] = 0
    return window._replace(signal=signal, r_peaks=remaining)


@_view
def permute(
    window: StoredWindow, generator: np.random.Generator, sampling_rate: float, strength: float
) -> StoredWindow:
    """Cut the recording at random places into two to five segments, in all leads alike, and shuffle them."""
    num_samples = window.signal.shape[-1]
    count = min(1 + round(strength * generator.uniform(1, 4)), num_samples)
    cuts = np.sort(generator.choice(num_samples - 1, count - 1, replace=False)) + 1
    edges = [0, *cuts.tolist(), num_samples]
    segments = [(edges[index], edges[index + 1]) for index in generator.permutation(count)]
    order = np.concatenate([np.arange(start, end) for start, end in segments])
    is_peak = np.zeros(num_samples, dtype=bool)
    is_peak[window.r_peaks] = True
    r_peaks = np.flatnonzero(is_peak[order]).astype(window.r_peaks.dtype)
    return window._replace(signal=window.signal[:, order], r_peaks=r_peaks)


@_view
def first_half(
    window: StoredWindow, generator: np.random.Generator, sampling_rate: float, strength: float
) -> StoredWindow:
    """Keep the first half, or a larger part at strengths below 1, unless this would leave no R peak."""
    return crop_to(window, 0.5 * min(strength, 1.0), 0.0)


@_view
def second_half(
    window: StoredWindow, generator: np.random.Generator, sampling_rate: float, strength: float
) -> StoredWindow:
    """Keep the second half, or a larger part at strengths below 1, unless this would leave no R peak."""
    return crop_to(window, 0.5 * min(strength, 1.0), 1.0)


# ----------------------------------------------------------------------------------------------------- amplitude


@_view
def jitter(
    window: StoredWindow, generator: np.random.Generator, sampling_rate: float, strength: float
) -> StoredWindow:
    """Add white noise of 0.005 to 0.1 standard deviations of each lead, log-uniform."""
    deviation = strength * np.exp(generator.uniform(np.log(0.005), np.log(0.1)))
    signal = window.signal
    noise = generator.standard_normal(signal.shape, dtype=np.float32)
    return window._replace(signal=signal + deviation * signal.std(axis=1, keepdims=True) * noise)


@_view
def scale_leads(
    window: StoredWindow, generator: np.random.Generator, sampling_rate: float, strength: float
) -> StoredWindow:
    """Multiply each lead by its own factor of 0.5 to 2, log-uniform."""
    factors = 2 ** (strength * generator.uniform(-1, 1, (len(window.signal), 1)))
    return window._replace(signal=window.signal * factors)


@_view
def wander(
    window: StoredWindow, generator: np.random.Generator, sampling_rate: float, strength: float
) -> StoredWindow:
    """Add baseline wander of 0.05 to 0.5 Hz and up to 0.3 standard deviations to each lead."""
    frequency, amplitude = generator.uniform(*WANDER_BAND), WANDER * generator.uniform(0, strength)
    signal, phases = window.signal, generator.uniform(0, 1, len(window.signal))
    return window._replace(signal=signal + baseline_wander(signal, sampling_rate, frequency, phases, amplitude))


@_view
def breathing(
    window: StoredWindow, generator: np.random.Generator, sampling_rate: float, strength: float
) -> StoredWindow:
    """Modulate the amplitude of all leads by up to 20 %, 6 to 24 times a minute."""
    frequency, amplitude = generator.uniform(*BREATHING_BAND), BREATHING * generator.uniform(0, strength)
    gain = breathing_gain(window.signal, sampling_rate, frequency, generator.uniform(), amplitude)
    return window._replace(signal=window.signal * gain)


@_view
def band_pass(
    window: StoredWindow, generator: np.random.Generator, sampling_rate: float, strength: float
) -> StoredWindow:
    """
    Filter as electrocardiographs do: a high-pass of 0.05 to 0.65 Hz and a low-pass of 40 to 25 Hz, both of second
    order and without delay. Below strength 1, a mean of filtered and unfiltered signal.
    """
    from scipy.signal import butter, sosfiltfilt

    signal, (low, high) = window.signal, generator.uniform(0, 1, 2)
    band = (0.05 + 0.6 * low, min(40 - 15 * high, 0.45 * sampling_rate))
    sections = butter(2, band, "bandpass", fs=sampling_rate, output="sos")
    filtered = sosfiltfilt(sections, signal, axis=1, padlen=min(signal.shape[-1] - 1, round(sampling_rate)))
    return window._replace(signal=signal + min(strength, 1.0) * (filtered - signal))


@_view
def mains(window: StoredWindow, generator: np.random.Generator, sampling_rate: float, strength: float) -> StoredWindow:
    """
    Add hum of 50 or 60 Hz with up to 0.1 standard deviations to each lead. Raises an [`InputError`] at sampling rates
    that cannot represent it.
    """
    if sampling_rate <= 2 * max(_MAINS):
        raise InputError(
            f"a sampling rate of {sampling_rate:g} Hz cannot represent mains hum of {max(_MAINS):g} Hz: omit the view"
        )
    signal, frequency, phase = window.signal, _MAINS[generator.integers(2)], generator.uniform()
    amplitudes = generator.uniform(0, 0.1 * strength, (len(signal), 1)) * signal.std(axis=1, keepdims=True)
    seconds = np.arange(signal.shape[-1]) / sampling_rate
    return window._replace(signal=signal + amplitudes * np.sin(2 * np.pi * (frequency * seconds + phase)))


# --------------------------------------------------------------------------------------------------------- leads


@_view
def drop_leads(
    window: StoredWindow, generator: np.random.Generator, sampling_rate: float, strength: float
) -> StoredWindow:
    """Drop each lead with a probability of 10 %, unless fewer than half of the present ones would remain."""
    dropped = generator.uniform(0, 1, len(window.lead_mask)) < DROPOUT * strength
    return _with_leads(window, without_leads(window.lead_mask, dropped))


@_view
def one_lead(
    window: StoredWindow, generator: np.random.Generator, sampling_rate: float, strength: float
) -> StoredWindow:
    """Keep one random lead of those that are present, at any strength."""
    present = np.flatnonzero(window.lead_mask)
    remaining = np.zeros(len(window.lead_mask), dtype=bool)
    if present.size:
        remaining[present[generator.integers(len(present))]] = True
    return _with_leads(window, remaining)


def _with_leads(window: StoredWindow, lead_mask: np.ndarray) -> StoredWindow:
    return window._replace(signal=np.where(lead_mask[:, None], window.signal, 0.0), lead_mask=lead_mask)


# ------------------------------------------------------------------------------------------------------- batches


def check_views(views: Sequence[Sequence[str]]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """
    The names of the views of both sides as tuples.

    Raises:
        InputError: If there are not two sides, or a view is unknown.
    """
    if len(views) != 2 or any(isinstance(names, str) for names in views):
        raise InputError("views must be two lists of names, those of the first and those of the second view")
    for name in (*views[0], *views[1]):
        if name not in VIEWS:
            raise InputError(f"there is no view {name!r}{nearest(name, VIEWS)}")
    return tuple(views[0]), tuple(views[1])


class ViewCollator(AugmentingCollator):
    """
    Collates two views of each recording into one batch of twice as many rows: the first views of all recordings, then
    their second views in the same order. Each view is drawn with a generator of its own, from the seed of the
    recording and the index of the view. Without seeds, as in validation, the seed is a hash of the `record_id`, so
    that the views are the same in every epoch.

    Leads that a view hides are missing for models that support missing leads, and zero for others. Where a feature
    extractor normalizes windows in a step of its own, it follows the views that keep a part of the recording and
    precedes the others.

    Args:
        feature_extractor ([`EcgFeatureExtractor`]): The one that the dataset was prepared with.
        label_names (`Sequence[str]`, *optional*, defaults to `()`): As [`EcgCollator`].
        views (`Sequence[Sequence[str]]`): Names of the [`VIEWS`] that make the first and the second view, in order.
        augmentation (`float`, *optional*, defaults to `1.0`): Strength of all views, from 0 to 2.
        with_groups (`bool`, *optional*, defaults to `False`): Whether the batch has `groups` `(batch_size,)`, a hash
            of each recording's `patient_id`. A recording without one is a group of its own.

    Raises:
        InputError: If a view is unknown, or the strength is not between 0 and 2.
    """

    def __init__(
        self,
        feature_extractor: Any,
        label_names: Sequence[str] | None = (),
        *,
        views: Sequence[Sequence[str]],
        augmentation: float = 1.0,
        with_groups: bool = False,
    ):
        # A scaled lead would be scaled back, and the rest of a lead grow where some of it is hidden.
        super().__init__(feature_extractor.without_normalization, label_names, augmentation=augmentation)
        self.normalize_window = feature_extractor.normalize_window
        self.views = check_views(views)
        self.with_groups = with_groups

    @property
    def columns(self) -> list[str]:
        """`list[str]`: As [`EcgCollator.columns`]."""
        return [*super().columns, "patient_id"] if self.with_groups else super().columns

    def __call__(self, rows: Sequence[Mapping[str, Any]], seeds: np.ndarray | None = None) -> dict[str, torch.Tensor]:
        """
        Collate both views of each row.

        Args:
            rows (`Sequence[Mapping]`): Rows of a prepared dataset.
            seeds (`np.ndarray` of shape `(batch_size,)`, *optional*): One seed per recording.

        Returns:
            `dict[str, torch.Tensor]`: As [`EcgCollator`] with `2 * batch_size` rows, and `groups` if requested.

        Raises:
            InputError: As [`EcgCollator`].
        """
        windows = self._read(rows)
        if seeds is None:
            numbers = [self.record_seed(row["record_id"]) for row in rows]
        else:
            numbers = [int(seed) for seed in seeds]
        drawn = [
            self.draw(window, number, view, normalizes=True)
            for view in (0, 1)
            for window, number in zip(windows, numbers, strict=True)
        ]
        batch = self._batch(self._cut(drawn), rows)
        if self.with_groups:
            batch["groups"] = torch.tensor([_group(row) for row in rows])
        return batch

    @staticmethod
    def record_seed(record_id: str) -> int:
        """The seed of a recording for which none is passed."""
        return _hash(record_id)

    def draw(self, window: StoredWindow, seed: int, view: int, normalizes: bool = False) -> StoredWindow:
        """
        Draw the first (`view` 0) or the second (1) view of a recording. With `normalizes`, what it keeps of the
        recording is normalized before other changes, if the feature extractor does so.
        """
        generator = np.random.default_rng([seed & (2**64 - 1), view])
        drawn, is_normalized = window, not normalizes
        for name in [*self.views[view], None]:
            if not is_normalized and name not in _KEEPING:
                drawn = drawn._replace(signal=self.normalize_window(drawn.signal, drawn.lead_mask))
                is_normalized = True
            if name is not None:
                drawn = VIEWS[name](drawn, generator, self.feature_extractor.sampling_rate, self.augmentation)
        if self.feature_extractor.missing_leads == "refused":
            drawn = drawn._replace(lead_mask=window.lead_mask)
        return drawn


def _hash(text: str) -> int:
    """A number from 0 to 2**63 - 1 that is the same in every process."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def _group(row: Mapping[str, Any]) -> int:
    """A number for the patient of a row, or for the row if the patient is unknown."""
    patient = row.get("patient_id")
    return _hash(f"record {row['record_id']}" if patient is None else f"patient {patient}")


__all__ = ["VIEWS", "View", "ViewCollator", "check_views"]
