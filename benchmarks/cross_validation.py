"""Scores of a method under 3-fold cross-validation by patient."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from clear_hug_hf.evaluation.metrics import macro_auroc_samples
from clear_hug_hf.evaluation.protocol import mean_auroc_samples
from clear_hug_hf.training.benchmark import CELLS, Cell, Task


# The committed results were made with these, before the defaults became the paper's batch of 256 and lowest rate.
PROBE: dict[str, Any] = {"probe_batch_size": 64, "probe_min_learning_rate": None}


class FoldScores(NamedTuple):
    """
    Macro AUROC of a method over all folds.

    Args:
        samples (`np.ndarray` of shape `(2001,)`): The mean over folds and runs, then that of 2,000 bootstrap samples
            of patients.
        by_fold (`list[float]`): Mean over the runs of each fold.
        by_run (`list[list[float]]`): For each fold the value of each of its runs.
    """

    samples: np.ndarray
    by_fold: list[float]
    by_run: list[list[float]]


def path_of(folder: Path, cell: Cell) -> Path:
    """File in which `run_benchmark` saves the test probabilities of a cell."""
    return folder / CELLS / f"{cell.name}.npy"


def fold_scores(tasks: Sequence[Task], paths: Sequence[Sequence[Path]]) -> FoldScores | None:
    """
    Read the test probabilities of a method.

    Args:
        tasks (`Sequence[Task]`): One for each fold.
        paths (`Sequence[Sequence[Path]]`): For each fold the files of its runs, as `run_benchmark` writes them.

    Returns:
        [`FoldScores`], or `None` where a file is missing.
    """
    if not all(path.is_file() for fold_paths in paths for path in fold_paths):
        return None
    labels, patients = [task.truth("test") for task in tasks], [task.patient_ids("test") for task in tasks]
    runs = [[np.load(path) for path in fold_paths] for fold_paths in paths]
    by_run = [
        [float(macro_auroc_samples(truth, [run], ids, 0)[0]) for run in fold_runs]
        for truth, ids, fold_runs in zip(labels, patients, runs, strict=True)
    ]
    samples = mean_auroc_samples(labels, runs, patients, 2000, range(len(tasks)))
    return FoldScores(samples, [float(np.mean(values)) for values in by_run], by_run)
