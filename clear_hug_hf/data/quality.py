"""What a recording's samples say about themselves before anything is mended: flat leads, gaps, clipping."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from ..processing.leads import STANDARD_LEADS, lead_and_sign
from .records import Recording


CLIPPED_SECONDS = 0.02
"""A lead that rests at its own highest or lowest value for this long [s], and for three samples, is clipped there."""


class Quality(NamedTuple):
    """
    Quality of one recording, whole length, as it was recorded; leads beyond the 12 standard ones do not count.

    Args:
        flat_leads (`list[str]`): Leads that were recorded and do not vary, in the standard order and spelling.
        nan_share (`float`): Share of the samples that are NaN or Inf.
        clipped_share (`float`): Share of the samples that are clipped.
    """

    flat_leads: list[str]
    nan_share: float
    clipped_share: float


def recording_quality(recording: Recording) -> Quality:
    """
    Measure a recording.

    Args:
        recording ([`Recording`]): With lead names that the feature extractor knows.

    Returns:
        [`Quality`]: Its numbers.
    """
    names = [lead_and_sign(name)[0] for name in recording.lead_names]
    waveform = np.asarray(recording.waveform)
    if None in names:
        waveform = waveform[[name is not None for name in names]]
        names = [name for name in names if name is not None]
    highest, lowest = waveform.max(axis=1), waveform.min(axis=1)
    num_finite = waveform.size
    if not np.isfinite([highest, lowest]).all():
        finite = np.isfinite(waveform)
        num_finite = int(np.count_nonzero(finite))
        highest = np.where(finite, waveform, -np.inf).max(axis=1)
        lowest = np.where(finite, waveform, np.inf).min(axis=1)
    flat = highest <= lowest  # also a lead without one finite sample
    shortest = max(3, math.ceil(CLIPPED_SECONDS * recording.sampling_rate))
    clipped = sum(_num_in_runs(waveform, np.where(flat, np.nan, limit), shortest) for limit in (highest, lowest))
    return Quality(
        flat_leads=sorted((str(name) for name, one in zip(names, flat, strict=True) if one), key=STANDARD_LEADS.index),
        nan_share=1.0 - num_finite / waveform.size,
        clipped_share=clipped / waveform.size,
    )


def _num_in_runs(waveform: np.ndarray, values: np.ndarray, shortest: int) -> int:
    """Samples that equal their lead's value together with neighbours, at least `shortest` in a row."""
    places = np.flatnonzero(waveform == values[:, None])
    # A lead's last sample and the next lead's first are no neighbours.
    places += places // max(1, waveform.shape[1])
    if (places[shortest - 1 :] - places[: 1 - shortest] >= shortest).all():
        return 0  # nearly always
    lengths = np.diff(np.flatnonzero(np.diff(places, prepend=-2, append=-2) != 1))
    return int(lengths[lengths >= shortest].sum())
