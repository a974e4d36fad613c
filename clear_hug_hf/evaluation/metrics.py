"""
Metrics of multi-label predictions with bootstrap intervals over patients.

All metrics take a weight per recording. A bootstrap sample of patients is a row of integer weights, so that all
samples of a label are computed in one pass over its sorted scores.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np

from ..processing.errors import InputError


# Bootstrap samples per chunk, to bound memory.
_CHUNK = 200


def weighted_auroc(labels: np.ndarray, scores: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """
    Area under the ROC curve for many weightings of the same recordings. Ties count half.

    Args:
        labels (`np.ndarray` of shape `(num_recordings,)`): 1 or 0.
        scores (`np.ndarray` of shape `(num_recordings,)`): Higher means more likely.
        weights (`np.ndarray` of shape `(num_weightings, num_recordings)`): At least 0.

    Returns:
        `np.ndarray` of shape `(num_weightings,)`: NaN where one class has no weight.
    """
    positive, negative = _class_weights_by_score(labels, scores, weights)
    below = np.cumsum(negative, axis=1) - negative
    won = (positive * (below + 0.5 * negative)).sum(axis=1)
    pairs = positive.sum(axis=1) * negative.sum(axis=1)
    return np.divide(won, pairs, out=np.full(len(weights), np.nan), where=pairs > 0)


def weighted_average_precision(labels: np.ndarray, scores: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """
    Average precision, the mean of the precision at each threshold weighted by the increase in recall; arguments and
    result as in [`weighted_auroc`].
    """
    positive, negative = _class_weights_by_score(labels, scores, weights)
    positive, negative = positive[:, ::-1], negative[:, ::-1]
    hits = np.cumsum(positive, axis=1)
    predicted = hits + np.cumsum(negative, axis=1)
    precision = np.divide(hits, predicted, out=np.zeros_like(hits), where=predicted > 0)
    total = hits[:, -1]
    summed = (precision * positive).sum(axis=1)
    both = (total > 0) & (negative.sum(axis=1) > 0)
    return np.divide(summed, total, out=np.full(len(weights), np.nan), where=both)


def _class_weights_by_score(
    labels: np.ndarray, scores: np.ndarray, weights: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Weights of positives and negatives at each distinct score, ascending."""
    order = np.argsort(scores, kind="stable")
    ordered = scores[order]
    first = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]]))
    weights = weights[:, order].astype(np.float64)
    is_positive = labels[order] > 0.5
    positive = np.add.reduceat(weights * is_positive, first, axis=1)
    return positive, np.add.reduceat(weights * ~is_positive, first, axis=1)


def weighted_f1(labels: np.ndarray, scores: np.ndarray, weights: np.ndarray, threshold: float = 0.5) -> np.ndarray:
    """
    F1 at a threshold; arguments and result as in [`weighted_auroc`].

    Without true positives it is 0, not undefined.
    """
    positive, predicted = labels > 0.5, scores >= threshold
    hits = weights @ (positive & predicted).astype(np.float64)
    wrong = weights @ (positive ^ predicted).astype(np.float64)
    both = (weights @ positive.astype(np.float64) > 0) & (weights @ (~positive).astype(np.float64) > 0)
    return np.divide(2 * hits, 2 * hits + wrong, out=np.full(len(weights), np.nan), where=both)


def weighted_calibration_error(labels: np.ndarray, scores: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """
    Expected calibration error of one label (Naeini et al., 2015): the mean absolute difference between the mean
    probability and the fraction of positives, over [`CALIBRATION_BINS`] bins of equal width; arguments and result as
    in [`weighted_auroc`], with probabilities as scores, and NaN only if all weights are zero.

    This estimate is biased upward by sampling noise in each bin: even a perfectly calibrated model has an error above
    0. [`evaluate_predictions`] removes the bias.
    """
    return np.abs(_calibration_gaps(labels, scores, weights)).sum(axis=1)


def _calibration_gaps(labels: np.ndarray, scores: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Contribution of each bin to the mean of probability minus label, `(num_weightings, CALIBRATION_BINS)`."""
    bins = np.minimum((scores * CALIBRATION_BINS).astype(np.int64), CALIBRATION_BINS - 1)
    in_bin = (bins[:, None] == np.arange(CALIBRATION_BINS)).astype(np.float64)
    gaps = weights @ (in_bin * (scores - (labels > 0.5))[:, None])
    total = weights.sum(axis=1, keepdims=True)
    return np.divide(gaps, total, out=np.full_like(gaps, np.nan), where=total > 0)


def _calibration_interval(gaps: np.ndarray, confidence: float) -> dict[str, float | None]:
    """
    The calibration error without its bias, averaged over labels, with its interval; see [`evaluate_predictions`].

    Args:
        gaps (`np.ndarray` of shape `(num_labels, 1 + num_samples, CALIBRATION_BINS)`): [`_calibration_gaps`] of the
            original recordings, followed by those of the bootstrap samples.
        confidence (`float`): Coverage of the interval.
    """

    def mean_error(gaps: np.ndarray) -> np.ndarray:
        return np.abs(gaps).sum(axis=2).mean(axis=0)

    observed, resampled = gaps[:, :1], gaps[:, 1:]
    raw = float(mean_error(observed)[0])
    resampled = resampled[:, ~np.isnan(resampled).any(axis=(0, 2))]
    # As in `_with_interval`.
    if 2 * resampled.shape[1] <= gaps.shape[1] - 1:
        return {"value": raw, "low": None, "high": None}
    noise = resampled - observed
    largest = float(np.quantile(mean_error(noise), (1 + confidence) / 2))
    if not raw:
        return {"value": 0.0, "low": 0.0, "high": largest}

    def error_with_quantile(quantile: float, low: float, high: float) -> float:
        """The true error for which this quantile of raw errors is the observed one, by bisection."""
        for _ in range(20):
            middle = (low + high) / 2
            is_low = np.quantile(mean_error(observed * (middle / raw) + noise), quantile) <= raw
            low, high = (middle, high) if is_low else (low, middle)
        return low

    # By the triangle inequality a raw error differs from the true one by at most the size of the noise, which bounds
    # the searches, and the lower end by the value. The upper end is at least the raw error, even if nearly all of the
    # noise is greater.
    value = 0.0 if np.median(mean_error(noise)) >= raw else error_with_quantile(0.5, 0.0, 2 * raw)
    return {
        "value": value,
        "low": min(max(0.0, raw - largest), value),
        "high": error_with_quantile((1 - confidence) / 2, max(value, raw), raw + largest),
    }


CALIBRATION_BINS = 15

METRICS = ("auroc", "average_precision", "f1", "calibration_error")
"""Metrics of [`evaluate_predictions`], for each label and as macro averages."""


def patient_weights(patient_ids: Sequence[str | None], num_samples: int, seed: int | Sequence[int] = 0) -> np.ndarray:
    """
    Number of times that each recording occurs in each bootstrap sample of patients.

    Args:
        patient_ids (`Sequence[str | None]`): Patient of each recording; without one it counts as a patient of its own.
        num_samples (`int`): Number of bootstrap samples.
        seed (`int` or `Sequence[int]`, *optional*, defaults to 0): Random seed.

    Returns:
        `np.ndarray` of shape `(num_samples, num_recordings)`, int64.
    """
    patient_of = patient_index(patient_ids)
    num_patients = int(patient_of.max()) + 1
    drawn = np.random.default_rng(seed).multinomial(num_patients, np.full(num_patients, 1 / num_patients), num_samples)
    return drawn[:, patient_of]


def bootstrap_weights(
    num_recordings: int, patient_ids: Sequence[str | None] | None, num_samples: int, seed: int | Sequence[int] = 0
) -> np.ndarray:
    """
    A row of ones for the original recordings, followed by the bootstrap samples of [`patient_weights`]. By default
    every recording is from a different patient.
    """
    original = np.ones((1, num_recordings), dtype=np.int64)
    patients = [None] * num_recordings if patient_ids is None else patient_ids
    return np.concatenate([original, patient_weights(patients, num_samples, seed)])


def patient_index(patient_ids: Sequence[str | None]) -> np.ndarray:
    """Index of the patient of each recording, from 0; without a patient id it counts as a patient of its own."""
    names = [f"\0{index}" if patient is None else str(patient) for index, patient in enumerate(patient_ids)]
    return np.unique(names, return_inverse=True)[1]


def macro_auroc(labels: np.ndarray, probabilities: np.ndarray) -> float:
    """
    Mean area under the ROC curve over labels with both classes present; NaN if there are none.

    Args:
        labels, probabilities: As in [`evaluate_predictions`]; probabilities may be any scores.
    """
    areas = np.array(
        [
            weighted_auroc(labels[known, column], probabilities[known, column], np.ones((1, int(known.sum()))))[0]
            for column, known in enumerate(~np.isnan(labels).T)
            if known.any()
        ]
    )
    areas = areas[~np.isnan(areas)]
    return float(areas.mean()) if len(areas) else float("nan")


def evaluate_predictions(
    labels: np.ndarray,
    probabilities: np.ndarray,
    label_names: Sequence[str],
    patient_ids: Sequence[str | None] | None = None,
    num_samples: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
    thresholds: Sequence[float] | None = None,
) -> dict[str, Any]:
    """
    Macro and per-label AUROC, average precision, F1 and calibration error with bootstrap intervals over patients.

    A label with only one class present has no metrics: it is listed in `excluded_labels` and excluded from the means.
    The intervals are percentiles over bootstrap samples of patients. A sample in which a label has only one class is
    excluded for that label and for the macro mean; if at most half of the samples remain, there is no interval.

    The raw calibration error is biased upward, and more so in bootstrap samples, so that their percentiles would lie
    above it. Its value and the upper end of its interval come from test inversion (Carpenter, Test inversion bootstrap
    confidence intervals, Journal of the Royal Statistical Society B, 1999): the true error for which half of the raw
    errors, or all but the lowest 2.5 %, exceed the observed one. A true error is represented by the observed gaps of
    the bins, multiplied by a factor, and the raw errors by these gaps plus the deviations of the bootstrap samples.
    The value is thus 0 if chance alone explains the raw error. The lower end is the raw error minus the upper quantile
    of the summed deviations, which bound its bias by the triangle inequality: that of test inversion is too high for
    small errors. The interval contains its value by construction. With `num_samples=0` the raw error is returned.

    Args:
        labels (`np.ndarray` of shape `(num_recordings, num_labels)`): 1, 0, or NaN if unknown.
        probabilities (`np.ndarray` of shape `(num_recordings, num_labels)`): Predictions, from 0 to 1.
        label_names (`Sequence[str]`): Name of each column.
        patient_ids (`Sequence[str | None]`, *optional*): Patient of each recording; by default all are different.
        num_samples (`int`, *optional*, defaults to 1000): Number of bootstrap samples; 0 gives no intervals, and the
            raw calibration error.
        confidence (`float`, *optional*, defaults to 0.95): Coverage of the intervals.
        seed (`int`, *optional*, defaults to 0): Seed of the bootstrap.
        thresholds (`Sequence[float]`, *optional*): Decision threshold of each label for F1; 0.5 by default. Select
            them on other recordings, for example with [`choose_thresholds`].

    Returns:
        `dict`: `macro_auroc`, `macro_average_precision`, `macro_f1` and `macro_calibration_error`, each
        `{"value", "low", "high"}`; `per_label`, with the same metrics, `threshold`, `num_positive` and `num_known` of
        each label; `excluded_labels`; `num_recordings`, `num_patients` and `num_samples`. Undefined values are `None`,
        so that the result can be written as JSON.

    Raises:
        InputError: If shapes differ, there are no recordings, a label is not 1, 0 or NaN, or a probability is not from
            0 to 1.
    """
    labels, probabilities = np.asarray(labels, dtype=np.float64), np.asarray(probabilities, dtype=np.float64)
    _check_predictions(labels, probabilities, label_names)
    thresholds = [0.5] * len(label_names) if thresholds is None else list(thresholds)
    if len(thresholds) != len(label_names):
        raise InputError(f"there are {len(thresholds)} thresholds for {len(label_names)} labels: pass one per label")
    if patient_ids is None:
        patient_ids = [None] * len(labels)
    weights = bootstrap_weights(len(labels), patient_ids, num_samples, seed)

    excluded_labels: list[str] = []
    per_label: dict[str, dict[str, Any]] = {}
    samples: dict[str, list[np.ndarray]] = {name: [] for name in METRICS if name != "calibration_error"}
    gaps: list[np.ndarray] = []
    for column, label in enumerate(label_names):
        known = ~np.isnan(labels[:, column])
        truth, scores = labels[known, column], probabilities[known, column]
        entry: dict[str, Any] = {
            "num_positive": int((truth > 0.5).sum()),
            "num_known": int(known.sum()),
            "threshold": float(thresholds[column]),
        }
        per_label[label] = entry
        if not 0 < entry["num_positive"] < entry["num_known"]:
            excluded_labels.append(label)
            entry.update(dict.fromkeys(METRICS))
            continue
        metrics: dict[str, Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]] = {
            "auroc": weighted_auroc,
            "average_precision": weighted_average_precision,
            "f1": partial(weighted_f1, threshold=thresholds[column]),
        }
        for name, metric in metrics.items():
            sampled = _in_chunks(metric, truth, scores, weights, known)
            entry[name] = bootstrap_interval(sampled, confidence)
            samples[name].append(sampled)
        gaps.append(_in_chunks(_calibration_gaps, truth, scores, weights, known))
        entry["calibration_error"] = _calibration_interval(gaps[-1][None], confidence)

    macro: dict[str, Any] = {f"macro_{name}": None for name in METRICS}
    if gaps:
        macro = {
            f"macro_{name}": bootstrap_interval(np.mean(sampled, axis=0), confidence)
            for name, sampled in samples.items()
        }
        macro["macro_calibration_error"] = _calibration_interval(np.stack(gaps), confidence)
    return {
        **macro,
        "per_label": per_label,
        "excluded_labels": excluded_labels,
        "num_recordings": len(labels),
        "num_patients": len(np.unique(patient_index(patient_ids))),
        "num_samples": num_samples,
    }


def _in_chunks(
    metric: Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray],
    truth: np.ndarray,
    scores: np.ndarray,
    weights: np.ndarray,
    known: np.ndarray,
) -> np.ndarray:
    """A metric of the labeled recordings for every row of weights, computed in chunks to bound memory."""
    chunks = [
        metric(truth, scores, weights[start : start + _CHUNK, known]) for start in range(0, len(weights), _CHUNK)
    ]
    return np.concatenate(chunks) if chunks else np.empty(0)


def _check_predictions(labels: np.ndarray, probabilities: np.ndarray, label_names: Sequence[str]) -> None:
    if labels.shape != probabilities.shape or labels.ndim != 2 or labels.shape[1] != len(label_names):
        raise InputError(
            f"the shapes of labels {labels.shape} and probabilities {probabilities.shape} and {len(label_names)} "
            "label names do not match: pass one row per recording and one column per label"
        )
    if not len(labels):
        raise InputError("there are no recordings to evaluate")
    if not np.isfinite(probabilities).all():
        rows = np.flatnonzero(~np.isfinite(probabilities).all(axis=1))
        raise InputError(
            f"the probabilities of {len(rows)} recording(s) are NaN or infinite, the first in row {rows[0]}: check "
            "the model and its inputs"
        )
    if probabilities.min() < 0 or probabilities.max() > 1:
        raise InputError(
            f"the probabilities range from {probabilities.min():g} to {probabilities.max():g}: pass probabilities "
            "from 0 to 1, not logits"
        )
    if invalid := [
        name
        for name, column in zip(label_names, labels.T, strict=True)
        if (np.isfinite(column) & (column != 0) & (column != 1)).any()
    ]:
        raise InputError(
            f"the label {invalid[0]!r} has values other than 1 and 0: these metrics support classification, not "
            "regression"
        )


def choose_thresholds(labels: np.ndarray, probabilities: np.ndarray) -> list[float | None]:
    """
    Select the threshold with the highest F1 for each label; the lowest one if several are equally good.

    Args:
        labels (`np.ndarray` of shape `(num_recordings, num_labels)`): 1, 0, or NaN if unknown. Use validation
            recordings: F1 is optimistic on the recordings on which thresholds are selected.
        probabilities (`np.ndarray` of shape `(num_recordings, num_labels)`): Predictions.

    Returns:
        `list[float | None]`: Thresholds halfway between two neighboring probabilities, so that rounding differences do
        not matter; `None` for labels with only one class present.
    """
    thresholds: list[float | None] = []
    for column, known in enumerate(~np.isnan(labels).T):
        truth, scores = labels[known, column] > 0.5, probabilities[known, column].astype(np.float64)
        if not 0 < truth.sum() < len(truth):
            thresholds.append(None)
            continue
        distinct, inverse = np.unique(scores, return_inverse=True)
        # Predicted positives and true positives with each distinct score as threshold.
        predicted = np.bincount(inverse, minlength=len(distinct))[::-1].cumsum()[::-1]
        hits = np.bincount(inverse, weights=truth, minlength=len(distinct))[::-1].cumsum()[::-1]
        best = int(np.argmax(2 * hits / (predicted + truth.sum())))
        below = distinct[best - 1] if best else 0.0
        thresholds.append(float((below + distinct[best]) / 2))
    return thresholds


def macro_auroc_interval(
    labels: np.ndarray,
    runs: Sequence[np.ndarray],
    others: Sequence[np.ndarray] = (),
    patient_ids: Sequence[str | None] | None = None,
    num_samples: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
) -> dict[str, float | None]:
    """
    Mean macro AUROC of several runs on the same recordings, or its paired difference from that of other runs.

    All runs are evaluated on the same bootstrap samples of patients, so that differences are paired. The interval
    covers the variation over patients, not over runs.

    Args:
        labels, patient_ids, num_samples, confidence, seed: As in [`evaluate_predictions`].
        runs (`Sequence[np.ndarray]`): Probabilities `(num_recordings, num_labels)` of each run, such as one per seed.
        others (`Sequence[np.ndarray]`, *optional*): Probabilities of the runs whose mean is subtracted.

    Returns:
        `dict`: `{"value", "low", "high"}`; the value is NaN if no label has both classes.
    """
    samples = macro_auroc_samples(labels, runs, patient_ids, num_samples, seed)
    if others:
        samples = samples - macro_auroc_samples(labels, others, patient_ids, num_samples, seed)
    return bootstrap_interval(samples, confidence)


def macro_auroc_samples(
    labels: np.ndarray,
    runs: Sequence[np.ndarray],
    patient_ids: Sequence[str | None] | None = None,
    num_samples: int = 1000,
    seed: int | Sequence[int] = 0,
) -> np.ndarray:
    """
    Mean macro AUROC of several runs on the original recordings, and on each bootstrap sample of their patients.

    Args:
        labels, runs, patient_ids, num_samples, seed: As in [`macro_auroc_interval`].

    Returns:
        `np.ndarray` of shape `(1 + num_samples,)`: NaN for samples in which a label has only one class.
    """
    weights = bootstrap_weights(len(labels), patient_ids, num_samples, seed)
    areas = []
    for column, known in enumerate(~np.isnan(labels).T):
        truth = labels[known, column]
        if 0 < (truth > 0.5).sum() < len(truth):
            areas.append(
                np.mean(
                    [_in_chunks(weighted_auroc, truth, run[known, column], weights, known) for run in runs], axis=0
                )
            )
    return np.mean(areas, axis=0) if areas else np.full(1 + num_samples, np.nan)


def bootstrap_interval(samples: np.ndarray, confidence: float = 0.95) -> dict[str, float | None]:
    """`{"value", "low", "high"}` of the result of [`macro_auroc_samples`], or of sums and differences of results."""
    return _with_interval(float(samples[0]), samples[1:], confidence)


def _with_interval(value: float, samples: np.ndarray, confidence: float) -> dict[str, float | None]:
    """A metric with the interval between percentiles of its bootstrap samples."""
    usable = samples[~np.isnan(samples)]
    # If most samples are undefined, the remaining ones are not representative.
    if 2 * len(usable) <= len(samples):
        return {"value": value, "low": None, "high": None}
    low, high = np.quantile(usable, [(1 - confidence) / 2, (1 + confidence) / 2])
    # The interval must contain its value, even if the samples are so skewed that their quantiles do not.
    return {"value": value, "low": min(float(low), value), "high": max(float(high), value)}
