"""
Postprocessing of classifier outputs: label names, scores, thresholds, contradictions and contributions of lead groups.

This file is published beside the weights, with the pipeline, and imports nothing else of the package.
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
    Run a classifier in evaluation mode.

    Raises:
        ValueError: If the model returns no logits.
    """
    output = run_model(model, inputs)
    if getattr(output, "logits", None) is None:
        raise ValueError(f"{type(model).__name__} returns no logits: load a sequence classification model")
    return output


def run_model(model: Any, inputs: Mapping[str, Any]) -> Any:
    """Run a model in evaluation mode on inputs cast to its dtype."""
    if model.training:  # the caller may pass a model in the middle of its training
        model.eval()
    return model(
        **{name: value.to(model.dtype) if value.is_floating_point() else value for name, value in inputs.items()}
    )


def model_label_names(config: Any) -> list[str]:
    """Label names of a model, in the order of its outputs."""
    return [config.id2label[index] for index in range(len(config.id2label))]


def model_thresholds(config: Any) -> list[float]:
    """Decision threshold of each label: its entry in `config.label_thresholds`, or 0.5."""
    thresholds = getattr(config, "label_thresholds", None) or {}
    return [float(thresholds.get(name, 0.5)) for name in model_label_names(config)]


def calibrate_logits(config: Any, logits: np.ndarray) -> np.ndarray:
    """
    Logits `(num_windows, num_labels)` after the model's `config.label_calibration`, if it has one: the scale and
    offset of each label, in the dtype of the logits. Only this function applies it.
    """
    calibration = getattr(config, "label_calibration", None)
    if not calibration:
        return logits
    pairs = [calibration.get(name, (1.0, 0.0)) for name in model_label_names(config)]
    scales, offsets = np.array(pairs, dtype=logits.dtype).T
    return scales * logits + offsets


def label_scores(config: Any, logits: np.ndarray, function: str | None = None) -> np.ndarray:
    """
    Scores of logits `(num_windows, num_labels)` by a function, by default that of [`default_function`]. A sigmoid
    gives calibrated probabilities.
    """
    function = function or default_function(config)
    return apply_function(function, calibrate_logits(config, logits) if function == "sigmoid" else logits)


def default_function(config: Any) -> str:
    """The function that turns a model's logits into scores: `"sigmoid"`, `"softmax"`, or `"none"` for regression."""
    return _FUNCTION_OF_PROBLEM.get(config.problem_type, "sigmoid")


def apply_function(function: str, logits: np.ndarray) -> np.ndarray:
    """Scores of logits `(num_windows, num_labels)`, by one of the functions of [`default_function`]."""
    if function == "sigmoid":
        small = np.exp(-np.abs(logits))
        return np.where(logits >= 0, 1 / (1 + small), small / (1 + small))
    if function == "softmax":
        exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
        return exponentials / exponentials.sum(axis=1, keepdims=True)
    return logits


def mean_distance(outputs: Sequence[Any]) -> float | None:
    """Mean over the windows of a recording of their distances from the training recordings, if the model has them."""
    return None if outputs[0] is None else float(np.mean([np.asarray(distance) for distance in outputs]))


def familiarity_note(config: Any, distance: float | None) -> str | None:
    """A sentence about a recording that is unlike the training recordings of a model; `None` for any other."""
    if distance is None or not distance > 1:
        return None
    return (
        f"unlike the recordings that the model was trained on (distance {distance:.2f}; above 1 is unlike, "
        f"{familiarity_threshold(config.familiarity)}): its probabilities may be wrong"
    )


def familiarity_threshold(familiarity: Mapping[str, int | float]) -> str:
    """Which recordings are as unlike the training recordings of a model: of a measurement, if there is one."""
    if "false_alarm_rate" not in familiarity:
        return "a threshold set for 1% of the training recordings"
    rate, count = (familiarity.get(name, 0) for name in ("false_alarm_rate", "num_recordings"))
    return f"as are {rate:.1%} of {count} recordings of the same source"


def model_aggregate(config: Any) -> str | list[str]:
    """
    How a model combines the scores of windows by default: `"mean"`, or a choice for each label if the config has a
    `window_aggregation`, by label name; labels without an entry use the mean.
    """
    chosen = getattr(config, "window_aggregation", None)
    return [chosen.get(name, "mean") for name in model_label_names(config)] if chosen else "mean"


def aggregate_windows(scores: np.ndarray, aggregate: str | Sequence[str] | None = None) -> np.ndarray | None:
    """
    Combine the scores of windows into those of the recording.

    Args:
        scores (`np.ndarray` of shape `(num_windows, ...)`): Scores of the windows.
        aggregate (`str` or `Sequence[str]`, *optional*, defaults to `"mean"`): `"mean"`, `"max"`, one of these for
            each label, or `"none"`.

    Returns:
        `np.ndarray` of shape `(...)`; `None` with `"none"`.
    """
    if aggregate == "none":
        return None
    if aggregate is None or isinstance(aggregate, str):
        return scores.max(axis=0) if aggregate == "max" else scores.mean(axis=0)
    return np.where([choice == "max" for choice in aggregate], scores.max(axis=0), scores.mean(axis=0))


def find_contradictions(
    report: Any,
    label_names: Sequence[str],
    window_scores: np.ndarray,
    aggregate: str | Sequence[str] | None = None,
) -> tuple[list[dict[str, str]], dict[str, str]]:
    """
    Find the labels that contradict the heart rate of a recording, whether they are predicted or not.

    Args:
        report ([`SignalReport`], *optional*): Report of the recording; without it there are no contradictions.
        label_names (`Sequence[str]`): Names of the scores.
        window_scores (`np.ndarray` of shape `(num_windows, num_labels)`): Scores of the windows, in order.
        aggregate (`str` or `Sequence[str]`, *optional*): As in [`aggregate_windows`].

    Returns:
        `tuple[list[dict[str, str]], dict[str, str]]`: Explanations by label, for each window by its own heart rate,
        and for the recording by its overall heart rate or, with `aggregate="max"`, that of the window with the highest
        score.
    """
    if report is None:
        return [{} for _ in window_scores], {}

    def contradictions(windows: Sequence[int | None]) -> dict[str, str]:
        notes = {name: report.contradiction(name, window) for name, window in zip(label_names, windows, strict=True)}
        return {name: note for name, note in notes.items() if note}

    choices = [aggregate] * len(label_names) if aggregate is None or isinstance(aggregate, str) else aggregate
    rows = window_scores.argmax(axis=0).tolist()
    decisive = [row if choice == "max" else None for row, choice in zip(rows, choices, strict=True)]
    return [contradictions([row] * len(label_names)) for row in range(len(window_scores))], contradictions(decisive)


def group_names(config: Any) -> list[str]:
    """Short names of the lead groups that a hierarchical head reads, in the order of `group_states`."""
    groups = ["/".join(config.lead_names[lead] for lead in group) for group in config.lead_group_indices()]
    groups = [name if name != "V1/V2/V3/V4/V5/V6" else "V1-V6" for name in groups]
    pairs = [(first, second) for second in range(len(groups)) for first in range(second)]
    pairs.sort(key=lambda pair: (pair[1] - pair[0], pair))
    return [*groups, *(f"{groups[first]} + {groups[second]}" for first, second in pairs), "all leads"]


def group_contributions(model: Any, group_states: Any) -> Any:
    """
    Contribution of each lead group to each logit.

    The head averages its group states and classifies the mean linearly, so each logit is exactly the sum of the group
    contributions and the classifier's bias (Pan et al., 2026, Figure 5) and, in classifiers that read rhythm features,
    of `model.rhythm_classifier(rhythm)`, which belongs to no group.

    Args:
        model ([`PreTrainedModel`]): A classifier whose head reads lead groups.
        group_states (`torch.FloatTensor` of shape `(batch_size, 7, hidden_size)`): `group_states` of its output.

    Returns:
        `torch.FloatTensor` of shape `(batch_size, 7, num_labels)`.
    """
    present = (group_states != 0).any(dim=2).sum(dim=1).clamp(min=1)
    return group_states @ model.classifier.weight.T / present[:, None, None]
