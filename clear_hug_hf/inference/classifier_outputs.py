"""
From the logits of a classifier to labels: their names, scores and thresholds, and what speaks for and against them.

This file is published beside the weights, with the pipeline, and imports nothing of the rest of the package.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np


_FUNCTION_OF_PROBLEM = {
    "multi_label_classification": "sigmoid",
    "single_label_classification": "softmax",
    "regression": "none",
}


def classify(model: Any, inputs: Mapping[str, Any]) -> Any:
    """
    Outputs of a classifier in evaluation mode.

    Raises:
        ValueError: If the model gives no logits.
    """
    output = run_model(model, inputs)
    if getattr(output, "logits", None) is None:
        raise ValueError(f"{type(model).__name__} gives no logits: load a model for sequence classification")
    return output


def run_model(model: Any, inputs: Mapping[str, Any]) -> Any:
    """Outputs of a model in evaluation mode, for inputs that are brought to its precision."""
    if model.training:  # one that was handed over in the middle of its training
        model.eval()
    return model(**{name: one.to(model.dtype) if one.is_floating_point() else one for name, one in inputs.items()})


def model_label_names(config: Any) -> list[str]:
    """Names of a model's outputs, in their order."""
    return [config.id2label[index] for index in range(len(config.id2label))]


def model_thresholds(config: Any) -> list[float]:
    """From which probability on each of a model's labels counts as found; 0.5 where none was chosen."""
    chosen = getattr(config, "label_thresholds", None) or {}
    return [float(chosen.get(name, 0.5)) for name in model_label_names(config)]


def default_function(config: Any) -> str:
    """What makes scores of a model's logits: `"sigmoid"`, `"softmax"`, or `"none"` for values."""
    return _FUNCTION_OF_PROBLEM.get(config.problem_type, "sigmoid")


def apply_function(function: str, logits: np.ndarray) -> np.ndarray:
    """Scores of logits `(num_windows, num_labels)` by a function as [`default_function`] names it."""
    if function == "sigmoid":
        small = np.exp(-np.abs(logits))
        return np.where(logits >= 0, 1 / (1 + small), small / (1 + small))
    if function == "softmax":
        exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
        return exponentials / exponentials.sum(axis=1, keepdims=True)
    return logits


def aggregate_windows(scores: np.ndarray, aggregate: str | None = None) -> np.ndarray | None:
    """
    Scores of a recording from those of its windows.

    Args:
        scores (`np.ndarray` of shape `(num_windows, ...)`): Of the windows.
        aggregate (`str`, *optional*, defaults to `"mean"`): `"mean"`, `"max"`, or `"none"`.

    Returns:
        `np.ndarray` of shape `(...)`; `None` with `"none"`.
    """
    if aggregate == "none":
        return None
    return scores.max(axis=0) if aggregate == "max" else scores.mean(axis=0)


def find_contradictions(
    report: Any, label_names: Sequence[str], window_scores: np.ndarray, aggregate: str | None = None
) -> tuple[list[dict[str, str]], dict[str, str]]:
    """
    Labels that the heart rate of one recording contradicts, each with a sentence, whether they are found or not.

    Args:
        report ([`SignalReport`], *optional*): Of the recording; without it nothing is contradicted.
        label_names (`Sequence[str]`): Names of the scores.
        window_scores (`np.ndarray` of shape `(num_windows, num_labels)`): Of the windows, in order.
        aggregate (`str`, *optional*): As in [`aggregate_windows`].

    Returns:
        `tuple[list[dict[str, str]], dict[str, str]]`: Of each window, by its own rate; and of the recording, by the
        rate of the whole or, with `aggregate="max"`, of the window with the highest score.
    """
    if report is None:
        return [{} for _ in window_scores], {}

    def by_rate_of(windows: Sequence[int | None]) -> dict[str, str]:
        told = {name: report.contradiction(name, window) for name, window in zip(label_names, windows, strict=True)}
        return {name: sentence for name, sentence in told.items() if sentence}

    highest = window_scores.argmax(axis=0).tolist() if aggregate == "max" else [None] * len(label_names)
    return [by_rate_of([row] * len(label_names)) for row in range(len(window_scores))], by_rate_of(highest)


def group_names(config: Any) -> list[str]:
    """Short names of the groups that a head over groups of leads reads, in the order of `group_states`."""
    groups = ["/".join(config.lead_names[lead] for lead in group) for group in config.lead_group_indices()]
    groups = [name if name != "V1/V2/V3/V4/V5/V6" else "V1-V6" for name in groups]
    pairs = [(first, second) for second in range(len(groups)) for first in range(second)]
    pairs.sort(key=lambda pair: (pair[1] - pair[0], pair))
    return [*groups, *(f"{groups[first]} + {groups[second]}" for first, second in pairs), "all leads"]


def group_contributions(model: Any, group_states: Any) -> Any:
    """
    What each group of leads adds to each logit.

    The feature that such a head classifies is the mean of its group states and the classifier is linear, so that the
    logit is exactly the sum of the groups' contributions and the classifier's bias (Pan et al., 2026, Figure 5).

    Args:
        model ([`PreTrainedModel`]): With a head over groups of leads.
        group_states (`torch.FloatTensor` of shape `(batch_size, 7, hidden_size)`): As the model gives them.

    Returns:
        `torch.FloatTensor` of shape `(batch_size, 7, num_labels)`.
    """
    present = (group_states != 0).any(dim=2).sum(dim=1).clamp(min=1)
    return group_states @ model.classifier.weight.T / present[:, None, None]
