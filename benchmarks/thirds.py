"""What the cells of a method say when each third of the recordings is tested by models that never saw its patients."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from clear_hug_hf.evaluation.metrics import macro_auroc_samples
from clear_hug_hf.training.benchmark import CELLS, Cell, Task


# The committed results were made with these, before the defaults became the paper's batch of 256 and lowest rate.
PROBE: dict[str, Any] = {"probe_batch_size": 64, "probe_min_learning_rate": None}


class ThirdScores(NamedTuple):
    """
    Macro AUROC of a method over all thirds.

    Args:
        samples (`np.ndarray` of shape `(2001,)`): The mean over thirds and runs, then that of 2,000 bootstrap samples
            of patients.
        by_third (`list[float]`): Mean over the runs of each third.
        by_run (`list[list[float]]`): For each third the value of each of its runs.
    """

    samples: np.ndarray
    by_third: list[float]
    by_run: list[list[float]]


def path_of(folder: Path, cell: Cell) -> Path:
    """Where `run_benchmark` keeps the test probabilities of a cell."""
    return folder / CELLS / f"{cell.name}.npy"


def third_scores(tasks: Sequence[Task], paths: Sequence[Sequence[Path]]) -> ThirdScores | None:
    """
    Read the test probabilities of a method.

    Args:
        tasks (`Sequence[Task]`): One for each third.
        paths (`Sequence[Sequence[Path]]`): For each third the files of its runs, as `run_benchmark` writes them.

    Returns:
        [`ThirdScores`], or `None` where a file is missing.
    """
    if not all(path.is_file() for of_third in paths for path in of_third):
        return None
    of_thirds, by_run = [], []
    for fold, (task, of_third) in enumerate(zip(tasks, paths, strict=True)):
        runs = [np.load(path) for path in of_third]
        labels, patients = task.truth("test"), task.patient_ids("test")
        # The patients of the thirds are others, so that they are drawn apart.
        of_thirds.append(macro_auroc_samples(labels, runs, patients, 2000, seed=fold))
        by_run.append([float(macro_auroc_samples(labels, [run], patients, 0)[0]) for run in runs])
    return ThirdScores(np.mean(of_thirds, axis=0), [float(one[0]) for one in of_thirds], by_run)
