"""Predictions of a model for a prepared dataset, their metrics, and contributions of lead groups."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import datasets
import numpy as np
import torch
from torch.utils.data import DataLoader
from tqdm.auto import tqdm
from transformers import PreTrainedModel

from ..data.collator import EcgCollator
from ..data.records import Recording, RecordReference, Rejected
from ..data.splits import group_by_recording
from ..inference.classifier_outputs import calibrate_logits, group_contributions, model_aggregate, model_label_names
from ..inference.records import check_is_classifier, predict_records
from ..processing.errors import InputError
from ..processing.feature_extraction_ecg import EcgFeatureExtractor
from .metrics import (
    bootstrap_interval,
    choose_thresholds,
    evaluate_predictions,
    macro_auroc,
    macro_auroc_interval,
    macro_auroc_samples,
)


@dataclass
class Predictions:
    """
    Predictions of a model, one row per row of the dataset.

    Args:
        label_names (`list[str]`): Labels of the model.
        record_ids (`list[str]`): Recording of each row.
        patient_ids (`list[str | None]`): Patient of each row, if known.
        probabilities (`np.ndarray` of shape `(num_rows, num_labels)`): Probabilities after the sigmoid or softmax.
        labels (`np.ndarray` of shape `(num_rows, num_labels)`, *optional*): True labels, if the dataset has them.
        contributions (`np.ndarray` of shape `(num_rows, 7, num_labels)`, *optional*): For heads that read lead groups,
            the contribution of each group to each logit (see [`group_contributions`]).
        num_windows (`np.ndarray` of shape `(num_rows,)`, *optional*): Number of windows of each row, more than one if
            it has more beats than the model reads at once. Defaults to one each.
        aggregate (`str` or `Sequence[str]`, *optional*, defaults to `"mean"`): How the model combines the windows of a
            recording, see [`model_aggregate`].
    """

    label_names: list[str]
    record_ids: list[str]
    patient_ids: list[str | None]
    probabilities: np.ndarray
    labels: np.ndarray | None = None
    contributions: np.ndarray | None = None
    num_windows: np.ndarray | None = None
    aggregate: str | Sequence[str] = "mean"

    def by_recording(self) -> Predictions:
        """
        Combine the windows of each recording. Rows are in the order of the first windows, with their labels.
        """
        first, recording_of = group_by_recording(self.record_ids)
        probabilities = mean_by_recording(self.probabilities, self.record_ids, self.num_windows)
        if not isinstance(self.aggregate, str) and len(first) < len(recording_of):
            highest = np.zeros_like(probabilities)
            np.maximum.at(highest, recording_of, self.probabilities)
            probabilities = np.where([choice == "max" for choice in self.aggregate], highest, probabilities)
        return Predictions(
            label_names=self.label_names,
            record_ids=[self.record_ids[row] for row in first],
            patient_ids=[self.patient_ids[row] for row in first],
            probabilities=probabilities,
            labels=None if self.labels is None else self.labels[first],
            contributions=None
            if self.contributions is None
            else mean_by_recording(self.contributions, self.record_ids, self.num_windows),
        )


def mean_by_recording(
    values: np.ndarray, record_ids: Sequence[str], num_windows: np.ndarray | None = None
) -> np.ndarray:
    """
    Mean over the rows of each recording, `(num_rows, ...)` to `(num_recordings, ...)`; see [`group_by_recording`].
    Rows are weighted by `num_windows`, so that the result is the mean over all windows.
    """
    first, recording_of = group_by_recording(record_ids)
    if len(first) == len(recording_of):
        return values
    sums = np.zeros((len(first), *values.shape[1:]))
    weights = np.ones(len(values)) if num_windows is None else num_windows
    shape = (-1, *[1] * (values.ndim - 1))
    np.add.at(sums, recording_of, values * weights.reshape(shape))
    return (sums / np.bincount(recording_of, weights).reshape(shape)).astype(values.dtype)


@torch.no_grad()
def predict(
    model: PreTrainedModel,
    dataset: datasets.Dataset,
    feature_extractor: EcgFeatureExtractor,
    batch_size: int = 64,
    progress: bool = False,
) -> Predictions:
    """
    Predict every row of a prepared dataset. All beats are read: a row with more beats than the model reads at once is
    divided into windows, whose probabilities and contributions are averaged, as in the pipeline.

    Args:
        model ([`PreTrainedModel`]): The classifier, on any device.
        dataset ([`datasets.Dataset`]): A prepared dataset. Its labels, if any, must be labels of the model.
        feature_extractor ([`EcgFeatureExtractor`]): Feature extractor of the model.
        batch_size (`int`, *optional*, defaults to `64`): Rows per batch.
        progress (`bool`, *optional*, defaults to `False`): Whether to show a progress bar.

    Returns:
        [`Predictions`]: `labels` has a column per label of the model, NaN for labels that the dataset lacks.

    Raises:
        InputError: If the dataset is empty or has a label that the model lacks, or the model is a regression model.
    """
    if not len(dataset):
        raise InputError("there are no recordings to predict")
    names = model_label_names(model.config)
    dataset_labels = list(dataset.features["labels"]) if "labels" in dataset.features else []
    if unknown := [name for name in dataset_labels if name not in names]:
        raise InputError(
            f"the recordings have the label {unknown[0]!r}, which the model lacks: its labels are {', '.join(names)}"
        )
    check_is_classifier(model.config)
    collator = EcgCollator(feature_extractor, label_names=dataset_labels, all_beats=True)
    loader = DataLoader(dataset.with_format("numpy"), batch_size=batch_size, collate_fn=collator)
    model.eval()
    probabilities, labels, contributions, counts = [], [], [], []
    for batch in tqdm(loader, desc="predict", unit="batch", disable=not progress):
        if dataset_labels:
            labels.append(batch.pop("labels").numpy())
        row_of_window = batch.pop("rows")
        counts.append(row_of_window.bincount().numpy())
        output = model(**{name: tensor.to(model.device) for name, tensor in batch.items()})
        logits = output.logits.float().cpu()
        if model.config.problem_type == "single_label_classification":
            scores = logits.softmax(dim=1)
        else:
            scores = torch.from_numpy(calibrate_logits(model.config, logits.numpy())).sigmoid()
        probabilities.append(collator.mean_by_row(scores, row_of_window).numpy())
        if (states := getattr(output, "group_states", None)) is not None:
            by_window = group_contributions(model, states.float()).cpu()
            contributions.append(collator.mean_by_row(by_window, row_of_window).numpy())

    truth = None
    if dataset_labels:
        truth = np.full((len(dataset), len(names)), np.nan)
        truth[:, [names.index(name) for name in dataset_labels]] = np.concatenate(labels)
    return Predictions(
        label_names=names,
        record_ids=list(dataset["record_id"]),
        patient_ids=list(dataset["patient_id"]),
        probabilities=np.concatenate(probabilities),
        labels=truth,
        contributions=np.concatenate(contributions) if contributions else None,
        num_windows=np.concatenate(counts),
        aggregate=model_aggregate(model.config),
    )


def predict_recordings(
    model: PreTrainedModel,
    records: Sequence[Recording | RecordReference],
    feature_extractor: EcgFeatureExtractor,
    progress: bool = False,
) -> tuple[Predictions, list[Recording | RecordReference], list[Rejected]]:
    """
    Predict recordings that are not prepared, like the command line and the pipeline, but only the windows that the
    feature extractor selects.

    Args:
        model, feature_extractor, progress: As in [`predict`].
        records (`Sequence[Recording | RecordReference]`): The recordings; references are read one at a time.

    Returns:
        `tuple`: [`Predictions`] without labels and contributions, one row per recording; the recordings of the rows;
        and the recordings that could not be used, with reasons.
    """
    used, results, rejected = [], [], []
    predictions = predict_records(model, feature_extractor, records, windows=feature_extractor.windows)
    for record, result in tqdm(
        zip(records, predictions, strict=True), "predict", len(records), unit="rec", disable=not progress
    ):
        if isinstance(result, Rejected):
            rejected.append(result)
        else:
            used.append(record)
            results.append(result)
    names = model_label_names(model.config)
    combined = Predictions(
        label_names=names,
        record_ids=[record.record_id for record in used],
        patient_ids=[record.patient_id for record in used],
        probabilities=np.stack([result.probabilities for result in results]) if results else np.empty((0, len(names))),
        num_windows=np.array([len(result.windows) for result in results]),
    )
    return combined, used, rejected


def compute_metrics(
    predictions: Predictions | LabeledPredictions, thresholds: Sequence[float], seed: int = 0
) -> dict[str, Any]:
    """
    Metrics of predictions for labeled recordings, as [`evaluate_predictions`] returns them.

    Args:
        predictions ([`Predictions`] or [`LabeledPredictions`]): One row per recording, with `labels`.
        thresholds (`Sequence[float]`): Decision threshold of each label, such as [`model_thresholds`].
        seed (`int`, *optional*, defaults to 0): Seed of the bootstrap.
    """
    assert predictions.labels is not None
    return evaluate_predictions(
        predictions.labels,
        predictions.probabilities,
        predictions.label_names,
        predictions.patient_ids,
        seed=seed,
        thresholds=thresholds,
    )


def label_thresholds(predictions: Predictions) -> dict[str, float]:
    """The threshold with the best F1 of each label with both classes, from predictions of labeled recordings."""
    assert predictions.labels is not None
    thresholds = choose_thresholds(predictions.labels, predictions.probabilities)
    return {
        name: threshold
        for name, threshold in zip(predictions.label_names, thresholds, strict=True)
        if threshold is not None
    }


def auroc_difference(predictions: Predictions, control: Predictions, seed: int = 0) -> dict[str, Any] | None:
    """
    Difference in macro AUROC of a model and a control on the same recordings, paired over patients: `{"value", "low",
    "high"}`, or `None` if no label has both classes.
    """
    assert predictions.labels is not None
    difference = macro_auroc_interval(
        predictions.labels,
        [predictions.probabilities],
        [control.probabilities],
        predictions.patient_ids,
        seed=seed,
    )
    return None if np.isnan(difference["value"] or 0.0) else difference


def contributions_by_label(predictions: Predictions) -> np.ndarray:
    """
    Importance of lead groups for labels: the mean contribution of each group to a label's logit over positive
    recordings, minus that over negative recordings.

    Args:
        predictions ([`Predictions`]): Predictions with `labels` and `contributions`.

    Returns:
        `np.ndarray` of shape `(num_labels, 7)` [logits]: NaN for labels with only one class present.

    Raises:
        InputError: If labels or contributions are missing.
    """
    if predictions.labels is None or predictions.contributions is None:
        raise InputError("group activations require labeled recordings and a model whose head reads lead groups")
    rows = []
    for column in range(len(predictions.label_names)):
        truth, values = predictions.labels[:, column], predictions.contributions[:, :, column]
        positive, negative = values[truth > 0.5], values[truth <= 0.5]
        missing = np.full(values.shape[1], np.nan)
        rows.append(positive.mean(axis=0) - negative.mean(axis=0) if len(positive) and len(negative) else missing)
    return np.stack(rows)


@dataclass
class LabeledPredictions:
    """
    Labels and probabilities for a set of labels that may differ from the model's.

    Args:
        label_names (`list[str]`): Labels of the data.
        labels (`np.ndarray` of shape `(num_rows, num_labels)`): 1, 0, or NaN if unknown.
        probabilities (`np.ndarray` of shape `(num_rows, num_labels)`): Probabilities of the labels.
        patient_ids (`list[str | None]`): Patient of each row, if known.
        thresholds (`list[float]`): Decision threshold of each label.
        split (`str`): Split of the recordings.
    """

    label_names: list[str]
    labels: np.ndarray
    probabilities: np.ndarray
    patient_ids: list[str | None]
    thresholds: list[float]
    split: str


def map_predictions(
    predictions: Predictions,
    truth: np.ndarray,
    truth_names: Sequence[str],
    thresholds: Sequence[float],
    mapping: Mapping[str, Sequence[str]],
    of_model: bool = False,
    split: str = "",
) -> LabeledPredictions:
    """
    Map the predictions of a model to the labels of another source.

    Args:
        predictions ([`Predictions`]): Predictions of the model.
        truth (`np.ndarray` of shape `(num_rows, len(truth_names))`): True labels of the rows: 1, 0, or NaN if unknown.
        truth_names (`Sequence[str]`): Names of the true labels.
        thresholds (`Sequence[float]`): Decision threshold of each label of the model.
        mapping (`Mapping[str, Sequence[str]]`): For each label of the source, the equivalent labels of the model. If
            there are several, the highest probability counts, rescaled such that each threshold becomes 0.5: the label
            is predicted if any of them is.
        of_model (`bool`, *optional*, defaults to `False`): Whether `truth` has the labels of the model instead of the
            source's. A row is then positive if any equivalent label is.
        split (`str`, *optional*): Split of the recordings.
    """
    probabilities, labels, mapped_thresholds = [], [], []
    for name, equivalents in mapping.items():
        columns = [predictions.label_names.index(equivalent) for equivalent in equivalents]
        scores = predictions.probabilities[:, columns].astype(np.float64)
        limits = np.array([thresholds[column] for column in columns], dtype=np.float64)
        if len(equivalents) > 1:
            scores, limits = _around_half(scores, limits), np.array([0.5])
        probabilities.append(scores.max(axis=1))
        mapped_thresholds.append(float(limits[0]))
        columns_of_truth = [
            truth[:, list(truth_names).index(label)] for label in (equivalents if of_model else (name,))
        ]
        # Unknown if no equivalent label is known to be positive and one is unknown.
        known = np.max([np.nan_to_num(column, nan=0.0) for column in columns_of_truth], axis=0)
        unknown = np.any([np.isnan(column) for column in columns_of_truth], axis=0) & (known < 0.5)
        labels.append(np.where(unknown, np.nan, known))
    return LabeledPredictions(
        label_names=list(mapping),
        labels=np.stack(labels, axis=1),
        probabilities=np.stack(probabilities, axis=1),
        patient_ids=predictions.patient_ids,
        thresholds=mapped_thresholds,
        split=split,
    )


def _around_half(probabilities: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
    """Probabilities rescaled piecewise linearly such that thresholds become 0.5; 0 and 1 are unchanged."""
    below = 0.5 * probabilities / np.maximum(thresholds, 1e-12)
    above = 0.5 + 0.5 * (probabilities - thresholds) / np.maximum(1 - thresholds, 1e-12)
    return np.clip(np.where(probabilities >= thresholds, above, below), 0.0, 1.0)


def auroc_drop(
    other: LabeledPredictions, own: LabeledPredictions, num_samples: int = 1000, seed: int = 0
) -> dict[str, Any]:
    """
    Drop in macro AUROC of a model from its own source to another source.

    Args:
        other ([`LabeledPredictions`]): Predictions on the other source.
        own ([`LabeledPredictions`]): Predictions on its own source, for patients that it was not trained on.
        num_samples, seed: As in [`evaluate_predictions`]; patients of both sources are resampled independently.

    Returns:
        `dict`: `labels`, those with both classes in both sources; `own`, `other` and `lost` (own minus other), each
        `{"value", "low", "high"}`; `per_label`, with the `own` and `other` AUROC of each label.
    """
    names = [
        name
        for name in other.label_names
        if name in own.label_names and all(_has_both_classes(predictions, name) for predictions in (other, own))
    ]
    result: dict[str, Any] = {"labels": names, "per_label": {}}
    if not names:
        return result
    samples = {}
    for number, (source, predictions) in enumerate((("own", own), ("other", other))):
        columns = [predictions.label_names.index(name) for name in names]
        labels, scores = predictions.labels[:, columns], predictions.probabilities[:, columns]
        patients = predictions.patient_ids
        samples[source] = macro_auroc_samples(labels, [scores], patients, num_samples, [seed, number])
        result[source] = bootstrap_interval(samples[source])
        for column, name in enumerate(names):
            area = macro_auroc(labels[:, [column]], scores[:, [column]])
            result["per_label"].setdefault(name, {})[source] = area
    result["lost"] = bootstrap_interval(samples["own"] - samples["other"])
    return result


def _has_both_classes(predictions: LabeledPredictions, name: str) -> bool:
    values = predictions.labels[:, predictions.label_names.index(name)]
    return bool((values == 1).any() and (values == 0).any())
