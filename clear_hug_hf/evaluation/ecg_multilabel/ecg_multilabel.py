"""Metrics of multi-label ECG classifiers for the library `evaluate`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import datasets
import evaluate
import numpy as np

from clear_hug_hf.evaluation.metrics import METRICS, evaluate_predictions


_DESCRIPTION = """
Macro and per-label AUROC, average precision, F1 at thresholds and expected calibration error of multi-label
predictions, with bootstrap intervals over patients. Labels with only one class present are excluded.
"""

_INPUTS = """
Args:
    predictions (`list[list[float]]`): Probability of each label, one row per recording.
    references (`list[list[float]]`): 1, 0, or NaN if unknown, one row per recording.
    label_names (`list[str]`, *optional*): Name of each label; numbers from 0 by default.
    patient_ids (`list[str]`, *optional*): Patient of each recording; by default all are different.
    thresholds (`list[float]`, *optional*): Decision threshold of each label; 0.5 by default.
    num_samples (`int`, *optional*, defaults to 1000): Number of bootstrap samples; 0 gives no intervals.
    seed (`int`, *optional*, defaults to 0): Seed of the bootstrap.

Returns:
    `macro_auroc`, `macro_average_precision`, `macro_f1`, `macro_calibration_error`, each also with `_low` and `_high`
    (`None` without an interval); `per_label`; `excluded_labels`.

Examples:

    >>> import evaluate
    >>> from clear_hug_hf.evaluation import METRIC_MODULE
    >>> metric = evaluate.load(METRIC_MODULE)
    >>> result = metric.compute(predictions=[[0.9], [0.4], [0.6], [0.1]], references=[[1], [0], [1], [0]])
    >>> result["macro_auroc"]
    1.0
"""


class EcgMultilabel(evaluate.Metric):
    """See the description and inputs above."""

    def _info(self) -> evaluate.MetricInfo:
        rows = datasets.Sequence(datasets.Value("float64"))
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation="",
            inputs_description=_INPUTS,
            features=datasets.Features({"predictions": rows, "references": rows}),
        )

    def _compute(
        self,
        predictions: Sequence[Sequence[float]],
        references: Sequence[Sequence[float | None]],
        label_names: Sequence[str] | None = None,
        patient_ids: Sequence[str | None] | None = None,
        thresholds: Sequence[float] | None = None,
        num_samples: int = 1000,
        seed: int = 0,
    ) -> dict[str, Any]:
        labels, probabilities = np.array(references, dtype=np.float64), np.array(predictions, dtype=np.float64)
        if label_names is None:
            label_names = [str(number) for number in range(labels.shape[-1])]
        metrics = evaluate_predictions(
            labels, probabilities, label_names, patient_ids, num_samples, seed=seed, thresholds=thresholds
        )
        result: dict[str, Any] = {}
        for name in METRICS:
            for part, suffix in (("value", ""), ("low", "_low"), ("high", "_high")):
                result[f"macro_{name}{suffix}"] = (metrics[f"macro_{name}"] or {}).get(part)
        return {**result, "per_label": metrics["per_label"], "excluded_labels": metrics["excluded_labels"]}
