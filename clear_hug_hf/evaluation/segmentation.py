"""
Scores of the waves that a model finds in every lead against those that were marked, with intervals over patients.

Classes of samples are whole numbers: places in [`WAVES`], or [`UNKNOWN`] where nobody marked anything. What is unknown
counts nowhere, neither for nor against a prediction.
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
"""Class of a sample that was not marked, as the models' losses leave it out."""
SHORTEST_WAVE_MS = 20.0
"""What is shorter is no wave of a heart, and what interrupts a wave for less does not divide it."""

# Bootstrap samples weighted at once where each needs a number per wave: bounds memory.
_CHUNK = 100


class WaveMatch(NamedTuple):
    """
    Marked and predicted waves of one kind in one lead.

    Args:
        onset_errors, offset_errors (`np.ndarray` of shape `(num_pairs,)`): Predicted minus marked [samples].
        missed (`int`): Marked waves without a predicted one.
        extra (`int`): Predicted waves without a marked one.
    """

    onset_errors: np.ndarray
    offset_errors: np.ndarray
    missed: int
    extra: int


def wave_intervals(classes: np.ndarray, wave: int, shortest: float = 0.0) -> np.ndarray:
    """
    First and last sample of every wave of a kind.

    Args:
        classes (`np.ndarray` of shape `(num_samples,)`): Class of every sample.
        wave (`int`): The kind, a place in [`WAVES`].
        shortest (`float`, *optional*, defaults to 0): Waves that less than this parts are one; then waves shorter than
            this are left out [samples].

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
    Pair marked and predicted waves of one kind that overlap, each at most once, so that they overlap most in all.

    A predicted wave that has no partner and lies by more than half where nothing is known is left out: it may be
    right.

    Args:
        marked, predicted (`np.ndarray` of shape `(num_samples,)`): Class of every sample; of marked ones [`UNKNOWN`]
            where nobody knows.
        wave (`int`): The kind, a place in [`WAVES`].
        shortest (`float`, *optional*, defaults to 0): As in [`wave_intervals`], for predicted waves [samples].
    """
    true, found = wave_intervals(marked, wave), wave_intervals(predicted, wave, shortest)
    start = np.maximum(true[:, None, 0], found[None, :, 0])
    overlap = np.maximum(np.minimum(true[:, None, 1], found[None, :, 1]) - start + 1, 0)
    rows, columns = linear_sum_assignment(overlap, maximize=True)
    pairs = overlap[rows, columns] > 0
    rows, columns = rows[pairs], columns[pairs]
    known = np.concatenate([[0], np.cumsum(np.asarray(marked) != UNKNOWN)])
    share = (known[found[:, 1] + 1] - known[found[:, 0]]) / (found[:, 1] + 1 - found[:, 0])
    counts = share >= 0.5
    counts[columns] = False
    errors = found[columns] - true[rows]
    return WaveMatch(errors[:, 0], errors[:, 1], len(true) - len(rows), int(counts.sum()))


def segmentation_samples(
    marked: np.ndarray,
    predicted: np.ndarray,
    sampling_rate: float,
    patient_ids: Sequence[str | None] | None = None,
    num_samples: int = 1000,
    seed: int = 0,
) -> dict[tuple[str, str], np.ndarray]:
    """
    Scores of predicted waves on the recordings as they are, and on each bootstrap sample of their patients.

    With the same recordings and seed all methods are scored on the same samples, so that differences are paired.
    [`~evaluation.metrics.bootstrap_interval`] makes intervals of the samples and of their differences.

    Args:
        marked, predicted (`np.ndarray` of shape `(num_recordings, num_leads, num_samples)`): As in [`match_waves`].
        sampling_rate (`float`): Their rate [Hz].
        patient_ids, num_samples, seed: As in [`~evaluation.metrics.evaluate_predictions`].

    Returns:
        `dict[tuple[str, str], np.ndarray]`: Under score and wave, arrays of shape `(1 + num_samples,)`, NaN where a
        score does not exist. `"f1"` of the samples of each class of [`WAVES`], and of `"mean"`, the mean of P, QRS and
        T. For each of these three, from waves paired by [`match_waves`]: `"sensitivity"` and `"ppv"` (positive
        predictive value), and of the pairs `"onset_mean"`, `"onset_sd"`, `"onset_median"` and the same of `"offset"`:
        mean and standard deviation of predicted minus marked, and median of its absolute value [ms].

    Raises:
        InputError: If shapes differ, there is nothing to score, the rate is not positive, or a class is not one of
            these.
    """
    marked, predicted = np.asarray(marked), np.asarray(predicted)
    _check(marked, predicted, sampling_rate, patient_ids)
    weights = bootstrap_weights(len(marked), patient_ids, num_samples, seed)

    result: dict[tuple[str, str], np.ndarray] = {}
    known = marked != UNKNOWN
    for wave, name in enumerate(WAVES):
        true, found = known & (marked == wave), known & (predicted == wave)
        hits, wrong = (true & found).sum(axis=(1, 2)), (true ^ found).sum(axis=(1, 2))
        result["f1", name] = _ratio(weights @ (2 * hits), weights @ (2 * hits + wrong))
    result["f1", "mean"] = np.mean([result["f1", name] for name in WAVES[1:]], axis=0)

    shortest = SHORTEST_WAVE_MS * sampling_rate / 1000
    for wave, name in enumerate(WAVES[1:], start=1):
        matches = [
            [match_waves(lead, guess, wave, shortest) for lead, guess in zip(*leads, strict=True)]
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
    Median of values that are each counted as often as their group, for many weightings.

    Args:
        values (`np.ndarray` of shape `(num_values,)`): Numbers.
        weights (`np.ndarray` of shape `(num_weightings, num_groups)`): Whole numbers, at least 0.
        groups (`np.ndarray` of shape `(num_values,)`): Group of each value.

    Returns:
        `np.ndarray` of shape `(num_weightings,)`: NaN where nothing has a weight.
    """
    order = np.argsort(values, kind="stable")
    ordered, groups = values[order], groups[order]
    medians = np.full(len(weights), np.nan)
    for start in range(0, len(weights), _CHUNK):
        count = np.cumsum(weights[start : start + _CHUNK, groups], axis=1)
        for row, total in enumerate(count[:, -1:].ravel() if count.shape[1] else ()):
            if total:
                # The two in the middle of all that are counted, which are one where their number is odd.
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
            f"marked {marked.shape} and predicted {predicted.shape} do not belong together: give a class for every "
            "sample of every lead of every recording in both"
        )
    if patient_ids is not None and len(patient_ids) != len(marked):
        raise InputError(f"there are {len(patient_ids)} patients for {len(marked)} recordings: name one for each")
    if not sampling_rate > 0:
        raise InputError(f"the sampling rate is {sampling_rate}: it must be a positive number [Hz]")
    if not (marked != UNKNOWN).any():
        raise InputError("no sample has a known class: there is nothing to score")
    for name, classes, allowed in (
        ("marked", marked[marked != UNKNOWN], f"0 to {len(WAVES) - 1}, or {UNKNOWN} where nobody knows"),
        ("predicted", predicted, f"0 to {len(WAVES) - 1}"),
    ):
        if not np.isin(classes, np.arange(len(WAVES))).all():
            raise InputError(f"a {name} class is none of {', '.join(WAVES)}: classes are {allowed}")
