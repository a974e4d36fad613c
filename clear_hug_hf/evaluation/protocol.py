"""
The protocol of Pan et al. (2026), Table 1: macro AUROC on several tasks with 1, 10 and 100% of the training
recordings.

This module selects the recordings of each fraction, classifies features by nearest neighbors and linear models, and
formats tables of results.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import expit
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import NearestNeighbors

from ..data.label_sets import LABEL_SETS
from ..processing.errors import InputError
from ..systems import SYSTEMS
from .metrics import macro_auroc, macro_auroc_samples, patient_index


def random_subset(record_ids: Sequence[str], fraction: float, seed: int = 0) -> np.ndarray:
    """
    Draw a random fraction of the recordings, regardless of labels and patients, as Pan et al. (2026) do.

    With the same seed, a smaller fraction is a subset of a larger one.

    Args:
        record_ids (`Sequence[str]`): Recording of each row; all rows of a recording are drawn together.
        fraction (`float`): Fraction of the recordings, above 0 up to 1, rounded down, but at least one recording.
        seed (`int`, *optional*, defaults to 0): Random seed.

    Returns:
        `np.ndarray` of shape `(num_rows,)`, int64: Ascending row indices.

    Raises:
        InputError: If the fraction is invalid, or there are no recordings.
    """
    _check_fraction(fraction, len(record_ids))
    recordings, recording_of = np.unique(np.asarray(record_ids, dtype=str), return_inverse=True)
    order = np.random.default_rng([seed, len(recordings)]).permutation(len(recordings))
    selected = order[: max(1, int(fraction * len(recordings) + 1e-9))]
    return np.flatnonzero(np.isin(recording_of, selected))


def _check_fraction(fraction: float, num_recordings: int) -> None:
    if not 0 < fraction <= 1:
        raise InputError(f"fraction is {fraction:g}: it must be above 0 and at most 1")
    if not num_recordings:
        raise InputError("there are no recordings to draw from")


def stratified_subset(
    labels: np.ndarray, patient_ids: Sequence[str | None], fraction: float, seed: int = 0
) -> np.ndarray:
    """
    Draw a fraction of the recordings by patient, stratified by label.

    Patients are drawn one by one, each time one with the label that is most underrepresented so far. With the same
    seed, a smaller fraction is a subset of a larger one. Result and errors are as in [`random_subset`].

    Args:
        labels (`np.ndarray` of shape `(num_recordings, num_labels)`): 1, 0, or NaN if unknown, which counts as 0.
        patient_ids (`Sequence[str | None]`): Patient of each recording; without one it counts as a patient of its own.
        fraction (`float`): Fraction of the recordings, above 0 up to 1, but at least one recording. The last patient
            may exceed it.
        seed (`int`, *optional*, defaults to 0): Random seed.
    """
    _check_fraction(fraction, len(labels))
    if fraction == 1:
        return np.arange(len(labels))
    positive = np.nan_to_num(np.asarray(labels, dtype=np.float64)) > 0.5
    # Recordings without any label form a stratum of their own.
    positive = np.concatenate([positive, ~positive.any(axis=1, keepdims=True)], axis=1)
    patient_of = patient_index(patient_ids)
    num_patients = int(patient_of.max()) + 1
    counts = np.zeros((num_patients, positive.shape[1]))
    np.add.at(counts, patient_of, positive)
    sizes = np.bincount(patient_of, minlength=num_patients)

    rng = np.random.default_rng([seed, len(labels)])
    order = rng.permutation(num_patients)
    remaining = [[patient for patient in order[::-1] if counts[patient, label]] for label in range(positive.shape[1])]
    prevalence = positive.sum(axis=0) / len(labels)
    target_size = max(1, round(fraction * len(labels)))
    selected = np.zeros(num_patients, dtype=bool)
    selected_counts, size = np.zeros(positive.shape[1]), 0
    while size < target_size:
        deficit = prevalence * (size + 1) - selected_counts
        for label in np.argsort(-deficit, kind="stable"):
            while remaining[label] and selected[remaining[label][-1]]:
                remaining[label].pop()
            if remaining[label]:
                patient = remaining[label].pop()
                break
        selected[patient] = True
        selected_counts += counts[patient]
        size += int(sizes[patient])
    return np.flatnonzero(selected[patient_of])


def holdout_split(
    labels: np.ndarray, patient_ids: Sequence[str | None], fraction: float = 0.1, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """
    Split recordings by patient into a larger part and a held-out fraction; arguments and errors as in
    [`stratified_subset`].

    Returns:
        `tuple[np.ndarray, np.ndarray]`: Row indices of the larger part and of the held-out part.
    """
    second = stratified_subset(labels, patient_ids, fraction, seed)
    first = np.setdiff1d(np.arange(len(labels)), second)
    if not len(first):
        raise InputError(f"holding out {fraction:g} of {len(labels)} recording(s) leaves none: use more patients")
    return first, second


NUM_NEIGHBORS = (1, 5, 10, 20, 50, 100)


def nearest_neighbor_scores(
    features: np.ndarray, labels: np.ndarray, queries: np.ndarray, num_neighbors: int
) -> np.ndarray:
    """
    Fraction of positives among the nearest training recordings, weighted by cosine similarity.

    Args:
        features (`np.ndarray` of shape `(num_training, width)`): Features of the training recordings.
        labels (`np.ndarray` of shape `(num_training, num_labels)`): 1, 0, or NaN if unknown: the neighbor then does
            not count for that label.
        queries (`np.ndarray` of shape `(num_recordings, width)`): Features of the recordings to score.
        num_neighbors (`int`): Maximum number of neighbors.

    Returns:
        `np.ndarray` of shape `(num_recordings, num_labels)`: From 0 to 1.
    """
    mean, deviation = features.mean(axis=0), features.std(axis=0) + 1e-6
    search = NearestNeighbors(n_neighbors=min(num_neighbors, len(features)), metric="cosine", algorithm="brute")
    distances, nearest = search.fit((features - mean) / deviation).kneighbors((queries - mean) / deviation)
    # From 0 for opposite to 1 for equal directions.
    weights = 1 - distances[:, :, None] / 2
    known = ~np.isnan(labels)[nearest]
    votes = (weights * np.nan_to_num(labels)[nearest] * known).sum(axis=1)
    # Rounding may exceed 1.
    return np.clip(votes / np.maximum((weights * known).sum(axis=1), 1e-12), 0.0, 1.0)


def select_nearest_neighbors(
    features: np.ndarray,
    labels: np.ndarray,
    validation_features: np.ndarray,
    validation_labels: np.ndarray,
    queries: np.ndarray,
) -> tuple[int, np.ndarray]:
    """
    Select the number of neighbors from [`NUM_NEIGHBORS`] by macro AUROC on the validation recordings.

    Returns:
        `tuple[int, np.ndarray]`: The number, and the scores of the queries as in [`nearest_neighbor_scores`].
    """
    usable = [count for count in NUM_NEIGHBORS if count <= len(features)]
    scores = [
        macro_auroc(validation_labels, nearest_neighbor_scores(features, labels, validation_features, count))
        for count in usable
    ]
    best = usable[int(np.argmax(scores))]
    return best, nearest_neighbor_scores(features, labels, queries, best)


STRENGTHS = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)
"""Inverse strengths of the penalty of a logistic regression, relative to the sum of the losses of the recordings."""
PENALTIES = (1e-3, 1e-2, 1e-1, 1.0, 10.0, 1e2, 1e3, 1e4, 1e5)
"""Strengths of the penalty of a ridge regression, relative to the sum of the squared errors of the recordings."""


def select_logistic(
    features: np.ndarray,
    labels: np.ndarray,
    validation_features: np.ndarray,
    validation_labels: np.ndarray,
    queries: np.ndarray,
) -> tuple[float, np.ndarray, np.ndarray]:
    """
    Classify by a logistic regression of each label on standardized features, with an L2 penalty. The labels share its
    inverse strength, which is chosen from [`STRENGTHS`] by macro AUROC on the validation recordings; among equal ones,
    the strongest penalty is.

    Args:
        features, labels, validation_features, queries: As in [`nearest_neighbor_scores`].
        validation_labels (`np.ndarray` of shape `(num_validation, num_labels)`): 1, 0, or NaN if unknown.

    Returns:
        `tuple[float, np.ndarray, np.ndarray]`: The inverse strength, and the probabilities of the validation
        recordings and of the queries, `(num_recordings, num_labels)`.
    """
    return _select(STRENGTHS, logistic_scores(features, labels, validation_features, queries), validation_labels)


def logistic_scores(
    features: np.ndarray, labels: np.ndarray, *others: np.ndarray
) -> Callable[[float], list[np.ndarray]]:
    """
    A function from the inverse strength of the penalty to the probabilities of `others`, features of recordings
    `(num_recordings, width)`; otherwise as in [`select_logistic`]. Each call starts from the weights of the last.
    """
    spans = _project(features, *others)
    fits = [_LogisticFit(spans, truth) for truth in labels.T]

    def scores(strength: float) -> list[np.ndarray]:
        return [np.stack(parts, axis=1) for parts in zip(*(fit(strength) for fit in fits), strict=True)]

    return scores


def fit_logistic(features: np.ndarray, labels: np.ndarray, strength: float) -> tuple[np.ndarray, np.ndarray]:
    """
    The logistic regressions of [`select_logistic`] with an inverse strength, as linear maps of features that are not
    standardized.

    Args:
        features (`np.ndarray` of shape `(num_recordings, width)`): Features.
        labels (`np.ndarray` of shape `(num_recordings, num_labels)`): 1, 0, or NaN if unknown.
        strength (`float`): Inverse strength of the penalty.

    Returns:
        `tuple[np.ndarray, np.ndarray]`: Weights `(num_labels, width)` and biases `(num_labels,)`. A label of a single
        class has no weights, and the bias of half a recording of the other class.
    """
    mean, scale = _standardization(features)
    inputs, basis = _span((features - mean) * scale)
    weights, biases = np.zeros((labels.shape[1], features.shape[1])), np.zeros(labels.shape[1])
    for column, truth in enumerate(labels.T):
        known = ~np.isnan(truth)
        positive = truth[known] > 0.5
        if positive.all() or not positive.any():
            biases[column] = np.log((positive.sum() + 0.5) / ((~positive).sum() + 0.5))
            continue
        # Newton's method converges to the last digits, so that the result is not that of a solver.
        model = LogisticRegression(C=strength, solver="newton-cholesky", tol=1e-9, max_iter=1000)
        model.fit(inputs[known], positive)
        weights[column] = model.coef_[0] @ basis * scale
        biases[column] = model.intercept_[0] - weights[column] @ mean
    return weights, biases


def select_ridge(
    features: np.ndarray,
    labels: np.ndarray,
    validation_features: np.ndarray,
    validation_labels: np.ndarray,
    queries: np.ndarray,
) -> tuple[float, np.ndarray, np.ndarray]:
    """
    Classify by a ridge regression of 1 and -1 on standardized features; arguments are as in [`select_logistic`].

    Returns:
        `tuple[float, np.ndarray, np.ndarray]`: The penalty, chosen from [`PENALTIES`] (among equal ones the
        strongest), and the scores of the validation recordings and of the queries, from 0 to 1: the logistic function
        of twice the regression, which keeps the order and makes 0 the threshold.
    """
    spans = _project(features, validation_features, queries)

    def scores(penalty: float) -> list[np.ndarray]:
        columns = [_fit_ridge(spans, truth, penalty) for truth in labels.T]
        return [expit(2 * np.stack(parts, axis=1)) for parts in zip(*columns, strict=True)]

    return _select(PENALTIES[::-1], scores, validation_labels)


def _project(features: np.ndarray, *others: np.ndarray) -> list[np.ndarray]:
    """
    Standardized features in the space that those of the training recordings span. A penalized linear model has no
    weights outside of it, so that nothing is lost, and few recordings need few weights.
    """
    mean, scale = _standardization(features)
    standardized = [(part - mean) * scale for part in (features, *others)]
    span, basis = _span(standardized[0])
    return [span, *(part @ basis.T for part in standardized[1:])]


def _standardization(features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What is subtracted from each feature, and by what the rest is multiplied."""
    mean, deviation = features.mean(axis=0, dtype=np.float64), features.std(axis=0, dtype=np.float64)
    # A feature that is constant in training says nothing, and must not blow up elsewhere.
    scale = np.divide(1.0, deviation, out=np.zeros_like(deviation), where=deviation > 1e-6 * np.abs(mean) + 1e-12)
    return mean, scale


def _span(standardized: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Coordinates of standardized features in the space that they span, and its orthonormal basis in rows."""
    left, lengths, right = np.linalg.svd(standardized, full_matrices=False)
    kept = lengths > 1e-10 * max(lengths[0], 1e-12)
    return left[:, kept] * lengths[kept], right[kept]


class _LogisticFit:
    """
    Fits a label on the first of the projected features, each time from the weights of the last, and returns its
    probabilities for the others.
    """

    def __init__(self, spans: Sequence[np.ndarray], truth: np.ndarray):
        known = ~np.isnan(truth)
        self.inputs, self.positive, self.others = spans[0][known], truth[known] > 0.5, spans[1:]
        self.model = LogisticRegression(tol=1e-6, max_iter=1000, warm_start=True)

    def __call__(self, strength: float) -> list[np.ndarray]:
        if self.positive.all() or not self.positive.any():
            # Without both classes there is nothing to fit.
            return [np.full(len(part), float(self.positive.any())) for part in self.others]
        self.model.set_params(C=strength).fit(self.inputs, self.positive)
        return [self.model.predict_proba(part)[:, 1] for part in self.others]


def _fit_ridge(spans: Sequence[np.ndarray], truth: np.ndarray, penalty: float) -> list[np.ndarray]:
    """Regression of a label for all but the first of the projected features, on which it is fitted."""
    known = ~np.isnan(truth)
    inputs, targets = spans[0][known], np.where(truth[known] > 0.5, 1.0, -1.0)
    if not len(targets):
        return [np.zeros(len(part)) for part in spans[1:]]
    center, offset = inputs.mean(axis=0), targets.mean()
    inputs, targets = inputs - center, targets - offset
    if known.all():
        # The projected features of all recordings are uncorrelated.
        weights = inputs.T @ targets / ((inputs**2).sum(axis=0) + penalty)
    else:
        weights = np.linalg.solve(inputs.T @ inputs + penalty * np.eye(inputs.shape[1]), inputs.T @ targets)
    return [(part - center) @ weights + offset for part in spans[1:]]


def _select(
    candidates: Sequence[float], scores: Callable[[float], list[np.ndarray]], validation_labels: np.ndarray
) -> tuple[float, np.ndarray, np.ndarray]:
    """The first of the candidates with the highest macro AUROC on the validation recordings, and its scores."""
    results = [scores(candidate) for candidate in candidates]
    best = int(np.argmax([macro_auroc(validation_labels, validation) for validation, _ in results]))
    validation, queries = results[best]
    return candidates[best], validation, queries


# ---------------------------------------------------------------------------------------------------- cross-validation


def mean_auroc_samples(
    labels: Sequence[np.ndarray],
    runs: Sequence[Sequence[np.ndarray]],
    patient_ids: Sequence[Sequence[str | None]],
    num_samples: int,
    seeds: Sequence[int],
) -> np.ndarray:
    """
    Mean over test sets of other patients, such as the folds of a cross-validation, of the macro AUROC of several runs,
    and of the same on bootstrap samples of the patients. Patients are resampled within each set.

    Args:
        labels (`Sequence[np.ndarray]`): Labels `(num_recordings, num_labels)` of each set.
        runs (`Sequence[Sequence[np.ndarray]]`): Probabilities of each run, for each set.
        patient_ids (`Sequence[Sequence[str | None]]`): Patient of each recording, for each set.
        num_samples (`int`): Number of bootstrap samples.
        seeds (`Sequence[int]`): Seed of the bootstrap of each set.

    Returns:
        `np.ndarray` of shape `(1 + num_samples,)`: As in [`macro_auroc_samples`].
    """
    parts = zip(labels, runs, patient_ids, seeds, strict=True)
    return np.mean([macro_auroc_samples(*part[:3], num_samples, seed=part[3]) for part in parts], axis=0)


# ------------------------------------------------------------------------------------------------------------- tables


@dataclass(frozen=True)
class Published:
    """
    Published results of a task.

    Args:
        title (`str`): Title of the task in Pan et al. (2026), Table 1.
        sizes (`tuple[int, int, int]`): Number of training, validation and test recordings (Liu et al., 2024, MERL).
        values (`Mapping[str, tuple[float, float, float]]`): Macro AUROC in percent with 1, 10 and 100% of the training
            recordings, by method.
    """

    title: str
    sizes: tuple[int, int, int]
    values: Mapping[str, tuple[float, float, float]]


# Titles and sizes of the tasks in Pan et al. (2026), Table 1, by label set.
_TASKS = {
    "ptbxl_sub": ("PTB-XL Sub", (17084, 2146, 2158)),
    "ptbxl_super": ("PTB-XL Super", (17084, 2146, 2158)),
    "ptbxl_form": ("PTB-XL Form", (7197, 901, 880)),
    "ptbxl_rhythm": ("PTB-XL Rhythm", (16832, 2100, 2098)),
    "cpsc9": ("CPSC2018", (4950, 551, 1376)),
    "csn_published": ("CSN", (16546, 1860, 4620)),
}
PAPER_FRACTIONS = {0.01: 0, 0.1: 1, 1.0: 2}
"""Positions of the fractions of the training recordings in [`Published`] values."""
PAPER: Mapping[str, Published] = {
    task: Published(
        title,
        sizes,
        {
            method: values[task]
            for system in SYSTEMS.values()
            for method, values in system.published.items()
            if task in values
        },
    )
    for task, (title, sizes) in _TASKS.items()
}
"""Published results of all systems by task."""


def published_for(label_names: Sequence[str], sizes: Mapping[str, int]) -> Published | None:
    """
    Published results of a task if its dataset is the same: the same labels in order, and the same number of training,
    validation and test recordings.

    Args:
        label_names (`Sequence[str]`): Labels of the task.
        sizes (`Mapping[str, int]`): Number of recordings in each split of the source, before any is rejected and
            before a fraction is drawn.
    """
    for name, published in PAPER.items():
        same_labels = tuple(label_names) == LABEL_SETS[name].names
        if same_labels and published.sizes == tuple(sizes.get(split) for split in ("train", "validation", "test")):
            return published
    return None


def protocol_table(
    rows: Iterable[Mapping[str, Any]], published: Mapping[str, Published], fractions: Sequence[float]
) -> str:
    """
    A Markdown table in the layout of Pan et al. (2026), Table 1: a row per method, and a column per task and fraction.

    Args:
        rows (`Iterable[Mapping]`): Results with `method`, `task`, `fraction` and `macro_auroc` (`{"value", "low",
            "high"}`, shown in percent, or `None`).
        published (`Mapping[str, Published]`): Published results by task, for tasks on the same recordings.
        fractions (`Sequence[float]`): Fractions of the columns.
    """
    rows = list(rows)
    tasks, methods = (list(dict.fromkeys(row[name] for row in rows)) for name in ("task", "method"))
    results = {(row["method"], row["task"], row["fraction"]): row["macro_auroc"] for row in rows}
    columns = [(task, fraction) for task in tasks for fraction in fractions]
    lines = [["method", *(f"{task} {100 * fraction:g}%" for task, fraction in columns)]]
    lines.append(["---", *["---:"] * len(columns)])
    for method in methods:
        lines.append([method, *(_percent(results.get((method, *column))) for column in columns)])
    for method in dict.fromkeys(method for task in published.values() for method in task.values):
        cells = [
            f"{published[task].values[method][PAPER_FRACTIONS[fraction]]:.2f}"
            if task in published and fraction in PAPER_FRACTIONS
            else ""
            for task, fraction in columns
        ]
        lines.append([f"*{method} (paper)*", *cells])
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _percent(metric: Mapping[str, float | None] | None) -> str:
    if metric is None or metric["value"] is None or np.isnan(metric["value"]):
        return ""
    if metric["low"] is None or metric["high"] is None:
        return f"{100 * metric['value']:.1f}"
    return f"{100 * metric['value']:.1f} ({100 * metric['low']:.1f} to {100 * metric['high']:.1f})"
