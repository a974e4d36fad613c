"""The metric module of the package loads into `evaluate` without a network and gives the package's numbers."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import evaluate
import numpy as np
import pytest

from clear_hug_hf.evaluation import METRIC_MODULE
from clear_hug_hf.evaluation.metrics import METRICS, evaluate_predictions
from clear_hug_hf.processing import InputError


@pytest.fixture
def metric(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The metric, loaded while no connection can be made."""

    def refuse(*_: Any, **__: Any) -> None:
        raise OSError("no network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(evaluate.config, "HF_MODULES_CACHE", str(tmp_path / "modules"))
    return evaluate.load(METRIC_MODULE, cache_dir=str(tmp_path / "cache"))


def test_when_batches_are_added_then_the_result_is_that_of_all_recordings(metric: Any) -> None:
    rng = np.random.default_rng(0)
    labels = (rng.random((80, 3)) < [0.4, 0.2, 0.0]).astype(float)
    labels[0, 0] = np.nan
    probabilities = np.clip(0.3 * labels.round() + 0.7 * rng.random((80, 3)), 0, 1)
    probabilities[0, 0] = 0.5
    patients = [str(index // 2) for index in range(80)]
    for start in range(0, 80, 32):
        metric.add_batch(predictions=probabilities[start : start + 32], references=labels[start : start + 32])
    arguments = {"label_names": ["a", "b", "c"], "patient_ids": patients, "thresholds": [0.6, 0.4, 0.5]}
    result = metric.compute(**arguments, num_samples=200)
    expected = evaluate_predictions(labels, probabilities, num_samples=200, **arguments)
    for name in METRICS:
        for part, suffix in (("value", ""), ("low", "_low"), ("high", "_high")):
            assert result[f"macro_{name}{suffix}"] == pytest.approx(expected[f"macro_{name}"][part])
    assert result["excluded_labels"] == ["c"]
    assert result["per_label"]["b"]["num_positive"] == labels[:, 1].sum()


def test_when_probabilities_are_nan_then_the_metric_refuses_them(metric: Any) -> None:
    with pytest.raises(InputError, match=r"probabilities of 1 recording\(s\) are NaN or infinite, the first in row 1"):
        metric.compute(predictions=[[0.1], [float("nan")]], references=[[0], [1]])
