"""
Score predicted waves in every lead against annotated ones, with intervals over patients.

Classes of samples are integers: indices in [`WAVES`], or [`UNKNOWN`] for samples that were not annotated, which are
ignored.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.optimize import linear_sum_assignment

from ..processing.errors import InputError
from .metrics import bootstrap_weights


WAVES = ("none", "P", "QRS", "T")
"""Classes of a sample."""
UNKNOWN = -100
"""Class of a sample that was not annotated; losses ignore it, too."""
SHORTEST_WAVE_MS = 20.0
"""Shorter waves and gaps are not physiological: waves are removed, and gaps closed."""

# Bootstrap samples per chunk, to bound memory.
_CHUNK = 100


class WaveMatch(NamedTuple):
    """
    Matched annotated and predicted waves of one kind in one lead.

    Args:
        onset_errors, offset_errors (`np.ndarray` of shape `(num_pairs,)`): Predicted minus annotated [samples].
        missed (`int`): Number of annotated waves without a match.
        extra (`int`): Number of predicted waves without a match.
    """

    onset_errors: np.ndarray
    offset_errors: np.ndarray
    missed: int
    extra: int


def wave_intervals(classes: np.ndarray, wave: int, shortest: float = 0.0) -> np.ndarray:
    """
    First and last sample of every wave of one kind.

    Args:
        classes (`np.ndarray` of shape `(num_samples,)`): Class of every sample.
        wave (`int`): The kind, an index in [`WAVES`].
        shortest (`float`, *optional*, defaults to 0): Shorter gaps between waves are closed, and then shorter waves
            are removed [samples].

    Returns:
        `np.ndarray` of shape `(num_waves, 2)`, int64, ascending.
    """
    edges = np.diff(np.concatenate([[False], np.asarray(classes) == wave, [False]]).astype(np.int8))
    first, last = np.flatnonzero(edges == 1), np.flatnonzero(edges == -1) - 1
    if len(first):
        apart = first[1:] - last[:-1] - 1 >= shortest
        first, last = first[np.concatenate([[True], apart])], last[np.concatenate([apart, [True]])]
    long = last - first + 1 >= shortest
    return np.stack([first[long], last[long]], axis=1)


def match_waves(marked: np.ndarray, predicted: np.ndarray, wave: int, shortest: float = 0.0) -> WaveMatch:
    """
    Match overlapping annotated and predicted waves of one kind, each at most once, with maximum total overlap.

    Predicted waves without a match that lie mostly in unknown samples are ignored: they may be right.

    Args:
        marked, predicted (`np.ndarray` of shape `(num_samples,)`): Annotated and predicted class of every sample;
            annotations may be [`UNKNOWN`].
        wave (`int`): The kind, an index in [`WAVES`].
        shortest (`float`, *optional*, defaults to 0): As in [`wave_intervals`], for predicted waves [samples].
    """
    true_waves, predicted_waves = wave_intervals(marked, wave), wave_intervals(predicted, wave, shortest)
    start = np.maximum(true_waves[:, None, 0], predicted_waves[None, :, 0])
    overlap = np.maximum(np.minimum(true_waves[:, None, 1], predicted_waves[None, :, 1]) - start + 1, 0)
    rows, columns = linear_sum_assignment(overlap, maximize=True)
    pairs = overlap[rows, columns] > 0
    rows, columns = rows[pairs], columns[pairs]
    known = np.concatenate([[0], np.cumsum(np.asarray(marked) != UNKNOWN)])
    lengths = predicted_waves[:, 1] + 1 - predicted_waves[:, 0]
    known_fraction = (known[predicted_waves[:, 1] + 1] - known[predicted_waves[:, 0]]) / lengths
    is_extra = known_fraction >= 0.5
    is_extra[columns] = False
    errors = predicted_waves[columns] - true_waves[rows]
    return WaveMatch(errors[:, 0], errors[:, 1], len(true_waves) - len(rows), int(is_extra.sum()))


def segmentation_samples(
    marked: np.ndarray,
    predicted: np.ndarray,
    sampling_rate: float,
    patient_ids: Sequence[str | None] | None = None,
    num_samples: int = 1000,
    seed: int = 0,
) -> dict[tuple[str, str], np.ndarray]:
    """
    Scores of predicted waves on the original recordings, and on each bootstrap sample of their patients.

    With the same recordings and seed, all methods are scored on the same samples, so that differences are paired.
    [`~evaluation.metrics.bootstrap_interval`] computes intervals of the samples and of their differences.

    Args:
        marked, predicted (`np.ndarray` of shape `(num_recordings, num_leads, num_samples)`): As in [`match_waves`].
        sampling_rate (`float`): Sampling rate [Hz].
        patient_ids, num_samples, seed: As in [`~evaluation.metrics.evaluate_predictions`].

    Returns:
        `dict[tuple[str, str], np.ndarray]`: Arrays of shape `(1 + num_samples,)` by score and wave, NaN if undefined.
        `"f1"` of samples for each class of [`WAVES`], and for `"mean"`, the mean of P, QRS and T. For each of these
        three, from the matches of [`match_waves`]: `"sensitivity"`, `"ppv"` (positive predictive value),
        `"onset_mean"`, `"onset_sd"` and `"onset_median"`, and the same for `"offset"`: mean and standard deviation of
        the error, predicted minus annotated, and median of its absolute value [ms].

    Raises:
        InputError: If shapes differ, no sample is annotated, the rate is not positive, or a class is invalid.
    """
    marked, predicted = np.asarray(marked), np.asarray(predicted)
    _check(marked, predicted, sampling_rate, patient_ids)
    weights = bootstrap_weights(len(marked), patient_ids, num_samples, seed)

    result: dict[tuple[str, str], np.ndarray] = {}
    known = marked != UNKNOWN
    for wave, name in enumerate(WAVES):
        is_true, is_predicted = known & (marked == wave), known & (predicted == wave)
        hits, wrong = (is_true & is_predicted).sum(axis=(1, 2)), (is_true ^ is_predicted).sum(axis=(1, 2))
        result["f1", name] = _ratio(weights @ (2 * hits), weights @ (2 * hits + wrong))
    result["f1", "mean"] = np.mean([result["f1", name] for name in WAVES[1:]], axis=0)

    shortest = SHORTEST_WAVE_MS * sampling_rate / 1000
    for wave, name in enumerate(WAVES[1:], start=1):
        matches = [
            [match_waves(*lead, wave, shortest) for lead in zip(*leads, strict=True)]
            for leads in zip(marked, predicted, strict=True)
        ]
        pairs = np.array([sum(len(lead.onset_errors) for lead in leads) for leads in matches])
        missed = np.array([sum(lead.missed for lead in leads) for leads in matches])
        extra = np.array([sum(lead.extra for lead in leads) for leads in matches])
        result["sensitivity", name] = _ratio(weights @ pairs, weights @ (pairs + missed))
        result["ppv", name] = _ratio(weights @ pairs, weights @ (pairs + extra))
        recordings = np.repeat(np.arange(len(matches)), pairs)
        for edge in ("onset", "offset"):
            errors = [getattr(lead, f"{edge}_errors") for leads in matches for lead in leads]
            milliseconds = np.concatenate(errors) * (1000 / sampling_rate)
            sums = [
                np.bincount(recordings, milliseconds**power, minlength=len(matches)).astype(float) for power in (1, 2)
            ]
            mean = _ratio(weights @ sums[0], weights @ pairs)
            variance = _ratio(weights @ sums[1], weights @ pairs) - mean**2
            result[f"{edge}_mean", name] = mean
            result[f"{edge}_sd", name] = np.sqrt(np.maximum(variance, 0.0))
            result[f"{edge}_median", name] = weighted_median(np.abs(milliseconds), weights, recordings)
    return result


def weighted_median(values: np.ndarray, weights: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """
    Median of values with integer weights per group, for many weightings.

    Args:
        values (`np.ndarray` of shape `(num_values,)`): Values.
        weights (`np.ndarray` of shape `(num_weightings, num_groups)`): Integers of at least 0.
        groups (`np.ndarray` of shape `(num_values,)`): Group of each value.

    Returns:
        `np.ndarray` of shape `(num_weightings,)`: NaN if all weights are 0.
    """
    order = np.argsort(values, kind="stable")
    ordered, groups = values[order], groups[order]
    medians = np.full(len(weights), np.nan)
    for start in range(0, len(weights), _CHUNK):
        count = np.cumsum(weights[start : start + _CHUNK, groups], axis=1)
        for row, total in enumerate(count[:, -1:].ravel() if count.shape[1] else ()):
            if total:
                # The two middle values, which are the same if the count is odd.
                middle = np.searchsorted(count[row], [(total - 1) // 2, total // 2], side="right")
                medians[start + row] = ordered[middle].mean()
    return medians


def _ratio(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    return np.divide(numerator, denominator, out=np.full(len(numerator), np.nan), where=denominator > 0)


def _check(
    marked: np.ndarray, predicted: np.ndarray, sampling_rate: float, patient_ids: Sequence[str | None] | None
) -> None:
    if marked.ndim != 3 or marked.shape != predicted.shape:
        raise InputError(
            f"the shapes of marked {marked.shape} and predicted {predicted.shape} do not match: both must be "
            "recordings x leads x samples"
        )
    if patient_ids is not None and len(patient_ids) != len(marked):
        raise InputError(f"there are {len(patient_ids)} patients for {len(marked)} recordings: pass one for each")
    if not sampling_rate > 0:
        raise InputError(f"the sampling rate is {sampling_rate}: it must be a positive number [Hz]")
    if not (marked != UNKNOWN).any():
        raise InputError("no sample is annotated: pass recordings with annotations")
    for name, classes, allowed in (
        ("marked", marked[marked != UNKNOWN], f"0 to {len(WAVES) - 1}, or {UNKNOWN} if unknown"),
        ("predicted", predicted, f"0 to {len(WAVES) - 1}"),
    ):
        if not np.isin(classes, np.arange(len(WAVES))).all():
            raise InputError(f"a {name} class is invalid: classes are {allowed} ({', '.join(WAVES)})")
