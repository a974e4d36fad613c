"""
The protocol of the paper's Table 1: several tasks, with 1 %, 10 % and 100 % of the training recordings, macro AUROC.

What is here does not train: which recordings a fraction has, nearest neighbours, and tables of results.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.neighbors import NearestNeighbors

from ..data.label_sets import LABEL_SETS
from ..processing.errors import InputError
from ..systems import SYSTEMS
from .metrics import macro_auroc, patient_index


def random_subset(record_ids: Sequence[str], fraction: float, seed: int = 0) -> np.ndarray:
    """
    A share of the recordings, each as likely as any other, whatever its labels and patient: the paper's draw.

    A smaller fraction with the same seed is part of a larger one.

    Args:
        record_ids (`Sequence[str]`): Recording of each row; all rows of a recording are drawn together.
        fraction (`float`): Share of the recordings, above 0 up to 1, rounded down to whole recordings; at least one is
            taken.
        seed (`int`, *optional*, defaults to 0): Another seed draws other recordings.

    Returns:
        `np.ndarray` of shape `(num_rows,)`, int64: Positions, ascending.

    Raises:
        InputError: If the fraction is not a share, or there are no recordings.
    """
    _check_fraction(fraction, len(record_ids))
    recordings, recording_of = np.unique(np.asarray(record_ids, dtype=str), return_inverse=True)
    order = np.random.default_rng([seed, len(recordings)]).permutation(len(recordings))
    taken = order[: max(1, int(fraction * len(recordings) + 1e-9))]
    return np.flatnonzero(np.isin(recording_of, taken))


def _check_fraction(fraction: float, num_recordings: int) -> None:
    if not 0 < fraction <= 1:
        raise InputError(f"the fraction is {fraction:g}: give a share above 0 and up to 1")
    if not num_recordings:
        raise InputError("there are no recordings to draw from")


def stratified_subset(
    labels: np.ndarray, patient_ids: Sequence[str | None], fraction: float, seed: int = 0
) -> np.ndarray:
    """
    A share of the recordings in which each label is about as frequent as in all of them; whole patients only.

    Patients are drawn one by one, each time one with the label that is furthest behind its share. A smaller fraction
    with the same seed is part of a larger one. Result and errors are as in [`random_subset`].

    Args:
        labels (`np.ndarray` of shape `(num_recordings, num_labels)`): 1, 0, or NaN where unknown, which counts as 0.
        patient_ids (`Sequence[str | None]`): Patient of each recording; one without a patient stands alone.
        fraction (`float`): Share of the recordings, above 0 up to 1. At least one recording is taken; the last
            patient may exceed the share.
        seed (`int`, *optional*, defaults to 0): Another seed draws other patients.
    """
    _check_fraction(fraction, len(labels))
    if fraction == 1:
        return np.arange(len(labels))
    has = np.nan_to_num(np.asarray(labels, dtype=np.float64)) > 0.5
    # A recording without any label belongs to a group of its own, which keeps its share, too.
    has = np.concatenate([has, ~has.any(axis=1, keepdims=True)], axis=1)
    patient_of = patient_index(patient_ids)
    num_patients = int(patient_of.max()) + 1
    counts = np.zeros((num_patients, has.shape[1]))
    np.add.at(counts, patient_of, has)
    sizes = np.bincount(patient_of, minlength=num_patients)

    rng = np.random.default_rng([seed, len(labels)])
    order = rng.permutation(num_patients)
    waiting = [[patient for patient in order[::-1] if counts[patient, label]] for label in range(has.shape[1])]
    share = has.sum(axis=0) / len(labels)
    wanted = max(1, round(fraction * len(labels)))
    taken = np.zeros(num_patients, dtype=bool)
    found, num_found = np.zeros(has.shape[1]), 0
    while num_found < wanted:
        behind = share * (num_found + 1) - found
        for label in np.argsort(-behind, kind="stable"):
            while waiting[label] and taken[waiting[label][-1]]:
                waiting[label].pop()
            if waiting[label]:
                patient = waiting[label].pop()
                break
        taken[patient] = True
        found += counts[patient]
        num_found += int(sizes[patient])
    return np.flatnonzero(taken[patient_of])


def holdout_split(
    labels: np.ndarray, patient_ids: Sequence[str | None], fraction: float = 0.1, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """
    Recordings in two parts without a common patient, the second with a share of them; arguments and errors as in
    [`stratified_subset`].

    Returns:
        `tuple[np.ndarray, np.ndarray]`: Positions of the larger part and of the smaller one.
    """
    second = stratified_subset(labels, patient_ids, fraction, seed)
    first = np.setdiff1d(np.arange(len(labels)), second)
    if not len(first):
        raise InputError(f"a share of {fraction:g} of {len(labels)} recording(s) leaves none: there are too few")
    return first, second


NUM_NEIGHBORS = (1, 5, 10, 20, 50, 100)


def nearest_neighbor_scores(
    features: np.ndarray, labels: np.ndarray, queries: np.ndarray, num_neighbors: int
) -> np.ndarray:
    """
    Share of the nearest training recordings with each label, each weighted by its cosine similarity.

    Args:
        features (`np.ndarray` of shape `(num_training, width)`): Of the training recordings.
        labels (`np.ndarray` of shape `(num_training, num_labels)`): 1, 0, or NaN where unknown: then a neighbour does
            not count for that label.
        queries (`np.ndarray` of shape `(num_recordings, width)`): Features of the recordings to score.
        num_neighbors (`int`): At most this many.

    Returns:
        `np.ndarray` of shape `(num_recordings, num_labels)`: From 0 to 1.
    """
    mean, deviation = features.mean(axis=0), features.std(axis=0) + 1e-6
    search = NearestNeighbors(n_neighbors=min(num_neighbors, len(features)), metric="cosine", algorithm="brute")
    distances, nearest = search.fit((features - mean) / deviation).kneighbors((queries - mean) / deviation)
    # From 0 for opposite to 1 for equal directions: never negative.
    weights = 1 - distances[:, :, None] / 2
    known = ~np.isnan(labels)[nearest]
    votes = (weights * np.nan_to_num(labels)[nearest] * known).sum(axis=1)
    # Rounding may exceed 1 in the last digit.
    return np.clip(votes / np.maximum((weights * known).sum(axis=1), 1e-12), 0.0, 1.0)


def select_nearest_neighbors(
    features: np.ndarray,
    labels: np.ndarray,
    validation_features: np.ndarray,
    validation_labels: np.ndarray,
    queries: np.ndarray,
) -> tuple[int, np.ndarray]:
    """
    Scores by the number of neighbours of [`NUM_NEIGHBORS`] with the best macro AUROC on the validation recordings.

    Returns:
        `tuple[int, np.ndarray]`: That number, and the scores as in [`nearest_neighbor_scores`].
    """
    usable = [count for count in NUM_NEIGHBORS if count <= len(features)]
    scores = [
        macro_auroc(validation_labels, nearest_neighbor_scores(features, labels, validation_features, count))
        for count in usable
    ]
    best = usable[int(np.argmax(scores))]
    return best, nearest_neighbor_scores(features, labels, queries, best)


# ------------------------------------------------------------------------------------------------------------- tables


@dataclass(frozen=True)
class Published:
    """
    What was published of a task.

    Args:
        title (`str`): Of the task, as in the paper's Table 1.
        sizes (`tuple[int, int, int]`): Training, validation and test recordings (Liu et al., 2024, MERL).
        values (`Mapping[str, tuple[float, float, float]]`): Macro AUROC in percent with 1, 10 and 100 % of the
            training recordings, by method.
    """

    title: str
    sizes: tuple[int, int, int]
    values: Mapping[str, tuple[float, float, float]]


# Title and size of the tasks of the paper's Table 1, by label set.
_TASKS = {
    "ptbxl_sub": ("PTB-XL Sub", (17084, 2146, 2158)),
    "ptbxl_super": ("PTB-XL Super", (17084, 2146, 2158)),
    "ptbxl_form": ("PTB-XL Form", (7197, 901, 880)),
    "ptbxl_rhythm": ("PTB-XL Rhythm", (16832, 2100, 2098)),
    "cpsc9": ("CPSC2018", (4950, 551, 1376)),
    "csn_published": ("CSN", (16546, 1860, 4620)),
}
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
"""What the papers of all systems state of each task."""


def published_for(label_names: Sequence[str], sizes: Mapping[str, int]) -> Published | None:
    """
    What the paper says about a task, if its recordings are the same set: the same labels in the same order, and as
    many training, validation and test recordings.

    Args:
        label_names (`Sequence[str]`): Labels of the task.
        sizes (`Mapping[str, int]`): Recordings of the source by split, before any was rejected or a fraction drawn, as
            the published files count them.
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
    A Markdown table laid out as the paper's Table 1: a row per method, for each task a column per fraction.

    Args:
        rows (`Iterable[Mapping]`): Each with `method`, `task`, `fraction` (a share) and `macro_auroc`
            (`{"value", "low", "high"}`, shown in percent; `None` where there is none).
        published (`Mapping[str, Published]`): The paper's numbers by task, for tasks on the same recordings.
        fractions (`Sequence[float]`): Columns of each task.
    """
    rows = list(rows)
    tasks, methods = (list(dict.fromkeys(row[name] for row in rows)) for name in ("task", "method"))
    found = {(row["method"], row["task"], row["fraction"]): row["macro_auroc"] for row in rows}
    columns = [(task, fraction) for task in tasks for fraction in fractions]
    lines = [["method", *(f"{task} {100 * fraction:g}%" for task, fraction in columns)]]
    lines.append(["---", *["---:"] * len(columns)])
    for method in methods:
        lines.append([method, *(_percent(found.get((method, *column))) for column in columns)])
    paper = list(dict.fromkeys(method for one in published.values() for method in one.values))
    place = {0.01: 0, 0.1: 1, 1.0: 2}
    for method in paper:
        cells = [
            f"{published[task].values[method][place[fraction]]:.2f}" if task in published and fraction in place else ""
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
