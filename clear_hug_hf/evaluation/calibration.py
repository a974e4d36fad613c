"""Calibration of a classifier's probabilities on recordings that it was not trained on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from scipy.optimize import minimize, minimize_scalar
from scipy.special import expit, logit

from ..data.splits import patient_folds, patient_keys
from ..inference.classifier_outputs import apply_function
from ..processing.errors import InputError
from .predictions import Predictions, label_thresholds


METHODS = ("none", "temperature", "labels")
"""What a calibration may change, from simple to complex: nothing, one scale for all labels, or each label."""

MIN_COUNT = 10
"""A label with fewer positive or negative recordings has the shared scale."""
# The inverse variance of a label's offset, and of its scale relative to the shared one: a standard deviation of 0.5.
_PENALTY = 4.0
NUM_FOLDS = 5
"""Number of folds of the cross-validation, and smallest number of patients."""


class CalibrationFit(NamedTuple):
    """
    Result of [`fit_calibration`].

    Args:
        method (`str`): The one of [`METHODS`] with the lowest cross-validated log loss.
        calibration (`dict[str, list[float]]`, *optional*): Scale and offset of the logit of each label, for
            `config.label_calibration`; `None` with the method `"none"`.
        log_loss (`dict[str, float]`): Cross-validated log loss of each method, the mean over labels; empty with
            recordings of fewer than five patients, which are not calibrated.
        num_recordings (`int`): Number of recordings.
    """

    method: str
    calibration: dict[str, list[float]] | None
    log_loss: dict[str, float]
    num_recordings: int

    def to_dict(self) -> dict[str, Any]:
        """The choice as a dictionary for JSON, without the calibration, which the config has."""
        return {"method": self.method, "log_loss": self.log_loss, "num_recordings": self.num_recordings}


def fit_calibration(predictions: Predictions, methods: Sequence[str] = METHODS) -> CalibrationFit:
    """
    Choose and fit a calibration of independent labels.

    The methods are no calibration, one temperature for all labels (Guo et al., On calibration of modern neural
    networks, 2017), and a scale and an offset of the logit of each label (Platt, Probabilistic outputs for support
    vector machines, 1999). The one with the lowest log loss in a cross-validation by patient is chosen, the simpler
    one if they are equal. Unlike Platt's, the scales are shrunk toward the shared one and the offsets toward 0, so
    that few positive recordings change little, and labels with fewer than [`MIN_COUNT`] positive or negative
    recordings only have the shared scale.

    Args:
        predictions ([`Predictions`]): Uncalibrated predictions with labels, one row per recording, of recordings that
            the model was not trained on.
        methods (`Sequence[str]`, *optional*): Methods to choose from.

    Raises:
        InputError: If there are no labels.
    """
    if predictions.labels is None:
        raise InputError("a calibration requires labeled recordings")
    labels, logits = predictions.labels, finite_logits(predictions.probabilities)
    num_patients = len({*patient_keys(predictions.record_ids, predictions.patient_ids)})
    if num_patients < NUM_FOLDS:
        return CalibrationFit("none", None, {}, len(labels))
    fold_of = patient_folds(predictions.record_ids, predictions.patient_ids, NUM_FOLDS)
    losses = dict.fromkeys(methods, 0.0)
    for method in methods:
        by_recording = np.full(labels.shape, np.nan)
        for fold in range(NUM_FOLDS):
            held_out = fold_of == fold
            scales, offsets = _fit(method, labels[~held_out], logits[~held_out])
            by_recording[held_out] = _log_losses(labels[held_out], scales * logits[held_out] + offsets)
        known = ~np.isnan(by_recording)
        sums, counts = np.where(known, by_recording, 0.0).sum(axis=0), known.sum(axis=0)
        losses[method] = float((sums[counts > 0] / counts[counts > 0]).mean()) if known.any() else 0.0
    method = min(methods, key=lambda name: losses[name])
    calibration = None
    if method != "none":
        scales, offsets = _fit(method, labels, logits)
        calibration = {
            name: [float(scale), float(offset)]
            for name, scale, offset in zip(predictions.label_names, scales, offsets, strict=True)
        }
    return CalibrationFit(method, calibration, losses, len(labels))


def calibrate(model: Any, predictions: Predictions, methods: Sequence[str] = METHODS) -> CalibrationFit:
    """
    Fit a calibration, and set it and the thresholds with the best F1 after it in the config of a classifier. Labels
    with only one class keep their threshold, on the scale of the new calibration.

    Args:
        model ([`PreTrainedModel`]): A multi-label classifier without a calibration, see [`remove_calibration`].
        predictions ([`Predictions`]): As in [`fit_calibration`], of this model or, from a cross-validation, of models
            like it.
        methods (`Sequence[str]`, *optional*): Methods to choose from.

    Raises:
        InputError: If the model has exclusive classes or predicts numbers.
    """
    if model.config.problem_type not in (None, "multi_label_classification"):
        raise InputError(
            f"the model's problem_type is {model.config.problem_type!r}: only independent labels can be calibrated"
        )
    fit = fit_calibration(predictions, methods)
    model.config.label_calibration = fit.calibration
    model.config.label_thresholds = {
        **_calibrated_thresholds(model.config.label_thresholds or {}, fit.calibration or {}),
        **label_thresholds(calibrated(predictions, fit.calibration)),
    }
    return fit


def remove_calibration(config: Any) -> None:
    """Remove the calibration from a classifier's config; its thresholds become equal ones of uncalibrated scores."""
    inverse = {
        name: [1 / scale, -offset / scale] for name, (scale, offset) in (config.label_calibration or {}).items()
    }
    if config.label_thresholds is not None:
        config.label_thresholds = _calibrated_thresholds(config.label_thresholds, inverse)
    config.label_calibration = None


def _calibrated_thresholds(
    thresholds: Mapping[str, float], calibration: Mapping[str, list[float]]
) -> dict[str, float]:
    """Thresholds of calibrated probabilities that are equal to those of the probabilities before."""
    result = dict(thresholds)
    for name, threshold in thresholds.items():
        # Thresholds of 0 and 1 remain what they are: they accept every recording, or none.
        if name in calibration and 0 < threshold < 1:
            scale, offset = calibration[name]
            result[name] = float(expit(scale * logit(threshold) + offset))
    return result


def calibrated(predictions: Predictions, calibration: Mapping[str, list[float]] | None) -> Predictions:
    """
    Uncalibrated predictions with calibrated probabilities. The mean over the windows of a recording is calibrated,
    where a calibrated model averages the calibrated windows; for one window both are equal up to rounding.
    """
    if calibration is None:
        return predictions
    scales, offsets = np.array([calibration.get(name, [1.0, 0.0]) for name in predictions.label_names]).T
    logits = scales * finite_logits(predictions.probabilities) + offsets
    return replace(predictions, probabilities=apply_function("sigmoid", logits).astype(np.float32))


def finite_logits(probabilities: np.ndarray) -> np.ndarray:
    """
    Logits of probabilities in single precision, of any shape. Probabilities of 0 and 1 count as those next to them.
    """
    margin = float(np.finfo(np.float32).epsneg)
    return np.asarray(logit(np.clip(probabilities.astype(np.float64), margin, 1 - margin)))


def _log_losses(labels: np.ndarray, logits: np.ndarray) -> np.ndarray:
    """Log loss of each recording and label, NaN where the label is unknown."""
    return np.where(np.isnan(labels), np.nan, np.logaddexp(0.0, np.where(labels > 0.5, -logits, logits)))


def _fit(method: str, labels: np.ndarray, logits: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Scale and offset of each label, `(num_labels,)`."""
    scales, offsets = np.ones(labels.shape[1]), np.zeros(labels.shape[1])
    if method == "none":
        return scales, offsets
    scales[:] = shared = _fit_temperature(labels, logits)
    if method == "temperature":
        return scales, offsets
    for column, truth in enumerate(labels.T):
        known = ~np.isnan(truth)
        num_positive = int((truth[known] > 0.5).sum())
        if min(num_positive, int(known.sum()) - num_positive) >= MIN_COUNT:
            scales[column], offsets[column] = _fit_label(truth[known], logits[known, column], shared)
    return scales, offsets


def _fit_temperature(labels: np.ndarray, logits: np.ndarray) -> float:
    """The scale of all logits with the lowest log loss, shrunk toward 1."""

    def loss(log_scale: float) -> float:
        return float(np.nansum(_log_losses(labels, np.exp(log_scale) * logits)) + 0.5 * _PENALTY * log_scale**2)

    return float(np.exp(minimize_scalar(loss, bounds=(-3.0, 3.0), method="bounded").x))


def _fit_label(labels: np.ndarray, logits: np.ndarray, shared: float) -> tuple[float, float]:
    """Scale and offset of one label, shrunk toward the shared scale and 0."""

    def loss(parameters: np.ndarray) -> tuple[float, np.ndarray]:
        scale, offset = parameters
        changed = scale * logits + offset
        errors = apply_function("sigmoid", changed) - labels
        relative = scale / shared - 1
        penalty = 0.5 * _PENALTY * (relative**2 + offset**2)
        gradient = [errors @ logits + _PENALTY * relative / shared, errors.sum() + _PENALTY * offset]
        return float(_log_losses(labels, changed).sum() + penalty), np.array(gradient)

    # A calibration must not reverse the order of probabilities.
    bounds = [(0.05 * shared, None), (None, None)]
    scale, offset = minimize(loss, [shared, 0.0], jac=True, method="L-BFGS-B", bounds=bounds).x
    return float(scale), float(offset)
