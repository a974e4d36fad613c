"""Probabilities of a model for a prepared dataset, and what each group of leads contributes to them."""

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
from ..inference.classifier_outputs import group_contributions, model_label_names
from ..inference.records import check_is_classifier, predict_records
from ..processing.errors import InputError
from ..processing.feature_extraction_ecg import EcgFeatureExtractor
from .metrics import (
    bootstrap_interval,
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
        patient_ids (`list[str | None]`): Patient of each row, where known.
        probabilities (`np.ndarray` of shape `(num_rows, num_labels)`): After the sigmoid or softmax.
        labels (`np.ndarray` of shape `(num_rows, num_labels)`, *optional*): The truth, where the dataset has it.
        contributions (`np.ndarray` of shape `(num_rows, 7, num_labels)`, *optional*): With a head over groups of
            leads, what each group adds to each logit (see [`group_contributions`]).
        num_windows (`np.ndarray` of shape `(num_rows,)`, *optional*): From how many windows each row was predicted;
            more than one where it has more beats than the model holds. One each by default.
    """

    label_names: list[str]
    record_ids: list[str]
    patient_ids: list[str | None]
    probabilities: np.ndarray
    labels: np.ndarray | None = None
    contributions: np.ndarray | None = None
    num_windows: np.ndarray | None = None

    def by_recording(self) -> Predictions:
        """
        The same with one row per recording, the mean over its windows, in the order of their first ones: windows of a
        recording are not recordings of other patients. Labels are those of the first window.
        """
        first, _ = group_by_recording(self.record_ids)
        return Predictions(
            label_names=self.label_names,
            record_ids=[self.record_ids[row] for row in first],
            patient_ids=[self.patient_ids[row] for row in first],
            probabilities=mean_by_recording(self.probabilities, self.record_ids, self.num_windows),
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
    Predict every row of a prepared dataset. All beats are read: a row with more than the model holds at once gives
    several windows, whose probabilities and contributions are averaged, as in the pipeline.

    Args:
        model ([`PreTrainedModel`]): Predicts on the device that it is on.
        dataset ([`datasets.Dataset`]): As `prepare` makes it. Its labels, if it has any, must be among the model's.
        feature_extractor ([`EcgFeatureExtractor`]): The model's.
        batch_size (`int`, *optional*, defaults to `64`): Rows at a time.
        progress (`bool`, *optional*, defaults to `False`): Whether to show a progress bar.

    Returns:
        [`Predictions`]: `labels` has a column per label of the model; those that the dataset lacks are NaN.

    Raises:
        InputError: If the dataset has a label that the model does not have, or has no rows.
    """
    if not len(dataset):
        raise InputError("there are no recordings to predict")
    names = model_label_names(model.config)
    has = list(dataset.features["labels"]) if "labels" in dataset.features else []
    if unknown := [name for name in has if name not in names]:
        raise InputError(
            f"the recordings have the label {unknown[0]!r} and the model does not: it knows {', '.join(names)}"
        )
    check_is_classifier(model.config)
    collator = EcgCollator(feature_extractor, label_names=has, all_beats=True)
    loader = DataLoader(dataset.with_format("numpy"), batch_size=batch_size, collate_fn=collator)
    model.eval()
    probabilities, labels, contributions, counts = [], [], [], []
    for batch in tqdm(loader, desc="predict", unit="batch", disable=not progress):
        if has:
            labels.append(batch.pop("labels").numpy())
        of = batch.pop("rows")
        counts.append(of.bincount().numpy())
        output = model(**{name: tensor.to(model.device) for name, tensor in batch.items()})
        logits = output.logits.float().cpu()
        one_of_many = model.config.problem_type == "single_label_classification"
        scores = logits.softmax(dim=1) if one_of_many else logits.sigmoid()
        probabilities.append(collator.mean_by_row(scores, of).numpy())
        if (states := getattr(output, "group_states", None)) is not None:
            added = group_contributions(model, states.float()).cpu()
            contributions.append(collator.mean_by_row(added, of).numpy())

    truth = None
    if has:
        truth = np.full((len(dataset), len(names)), np.nan)
        truth[:, [names.index(name) for name in has]] = np.concatenate(labels)
    return Predictions(
        label_names=names,
        record_ids=list(dataset["record_id"]),
        patient_ids=list(dataset["patient_id"]),
        probabilities=np.concatenate(probabilities),
        labels=truth,
        contributions=np.concatenate(contributions) if contributions else None,
        num_windows=np.concatenate(counts),
    )


def predict_recordings(
    model: PreTrainedModel,
    records: Sequence[Recording | RecordReference],
    feature_extractor: EcgFeatureExtractor,
    progress: bool = False,
) -> tuple[Predictions, list[Recording | RecordReference], list[Rejected]]:
    """
    Predict recordings from their samples, as the command line and the pipeline do, but only the windows that the
    extractor chooses.

    Args:
        model, feature_extractor, progress: As in [`predict`].
        records (`Sequence[Recording | RecordReference]`): The recordings; references are read here, one at a time.

    Returns:
        `tuple`: [`Predictions`] without labels and contributions, one row per recording; the recordings of its rows;
        and those that could not be used, with reasons.
    """
    used, found, rejected = [], [], []
    each = predict_records(model, feature_extractor, records, windows=feature_extractor.windows)
    for record, one in tqdm(
        zip(records, each, strict=True), "predict", len(records), unit="rec", disable=not progress
    ):
        if isinstance(one, Rejected):
            rejected.append(one)
        else:
            used.append(record)
            found.append(one)
    names = model_label_names(model.config)
    predictions = Predictions(
        label_names=names,
        record_ids=[record.record_id for record in used],
        patient_ids=[record.patient_id for record in used],
        probabilities=np.stack([one.probabilities for one in found]) if found else np.empty((0, len(names))),
        num_windows=np.array([len(one.windows) for one in found]),
    )
    return predictions, used, rejected


def compute_metrics(
    found: Predictions | LabeledPredictions, thresholds: Sequence[float], seed: int = 0
) -> dict[str, Any]:
    """
    Metrics of predictions for labelled recordings, one row per recording, as [`evaluate_predictions`] gives them.

    Args:
        found ([`Predictions`] or [`LabeledPredictions`]): With `labels`.
        thresholds (`Sequence[float]`): One for each label, such as [`model_thresholds`].
        seed (`int`, *optional*, defaults to 0): Seed of the bootstrap.
    """
    assert found.labels is not None
    return evaluate_predictions(
        found.labels, found.probabilities, found.label_names, found.patient_ids, seed=seed, thresholds=thresholds
    )


def auroc_difference(found: Predictions, control: Predictions, seed: int = 0) -> dict[str, Any] | None:
    """
    How much higher the macro AUROC of a model is than that of another on the same recordings, paired over patients:
    `{"value", "low", "high"}`, or `None` where no label has both classes.
    """
    assert found.labels is not None
    difference = macro_auroc_interval(
        found.labels, [found.probabilities], [control.probabilities], found.patient_ids, seed=seed
    )
    return None if np.isnan(difference["value"] or 0.0) else difference


def contributions_by_label(predictions: Predictions) -> np.ndarray:
    """
    Which groups drive which label: the mean contribution of each group to a label's logit over the recordings with the
    label, minus that over the recordings without it.

    Args:
        predictions ([`Predictions`]): With `labels` and `contributions`.

    Returns:
        `np.ndarray` of shape `(num_labels, 7)` [logits]: NaN for a label of which one class is absent.

    Raises:
        InputError: If labels or contributions are missing.
    """
    if predictions.labels is None or predictions.contributions is None:
        raise InputError("group activations need labelled recordings and a model with a head over groups of leads")
    rows = []
    for column in range(len(predictions.label_names)):
        truth, values = predictions.labels[:, column], predictions.contributions[:, :, column]
        with_label, without = values[truth > 0.5], values[truth <= 0.5]
        missing = np.full(values.shape[1], np.nan)
        rows.append(with_label.mean(axis=0) - without.mean(axis=0) if len(with_label) and len(without) else missing)
    return np.stack(rows)


@dataclass
class LabeledPredictions:
    """
    Labels and probabilities side by side, whoever named the labels.

    Args:
        label_names (`list[str]`): Labels of the data.
        labels (`np.ndarray` of shape `(num_rows, num_labels)`): 1, 0, or NaN where unknown.
        probabilities (`np.ndarray` of shape `(num_rows, num_labels)`): Of the model.
        patient_ids (`list[str | None]`): Patient of each row, where known.
        thresholds (`list[float]`): From which probability on a label counts as found.
        split (`str`): Which recordings these are.
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
    Probabilities for the labels of another source.

    Args:
        predictions ([`Predictions`]): Of the model.
        truth (`np.ndarray` of shape `(num_rows, len(truth_names))`): Labels of the rows: 1, 0, or NaN where unknown.
        truth_names (`Sequence[str]`): Their names.
        thresholds (`Sequence[float]`): The model's, one for each of its labels.
        mapping (`Mapping[str, Sequence[str]]`): For each label of the source those of the model that mean it. Of
            several the highest score counts: a probability, stretched such that its threshold is 0.5, so that the
            label is found where any member is.
        of_model (`bool`, *optional*, defaults to `False`): Whether `truth` has the model's labels, of which a row then
            needs any one, instead of the source's.
        split (`str`, *optional*): Which recordings these are.
    """
    probabilities, labels, chosen = [], [], []
    for name, members in mapping.items():
        columns = [predictions.label_names.index(member) for member in members]
        scores = predictions.probabilities[:, columns].astype(np.float64)
        limits = np.array([thresholds[column] for column in columns], dtype=np.float64)
        if len(members) > 1:
            scores, limits = _around_half(scores, limits), np.array([0.5])
        probabilities.append(scores.max(axis=1))
        chosen.append(float(limits[0]))
        sources = [truth[:, list(truth_names).index(one)] for one in (members if of_model else (name,))]
        # Unknown only where no member is known to be there and one is unknown.
        known = np.max([np.nan_to_num(one, nan=0.0) for one in sources], axis=0)
        unknown = np.any([np.isnan(one) for one in sources], axis=0) & (known < 0.5)
        labels.append(np.where(unknown, np.nan, known))
    return LabeledPredictions(
        label_names=list(mapping),
        labels=np.stack(labels, axis=1),
        probabilities=np.stack(probabilities, axis=1),
        patient_ids=predictions.patient_ids,
        thresholds=chosen,
        split=split,
    )


def _around_half(probabilities: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
    """Probabilities stretched below and above their thresholds, which become 0.5; 0 and 1 stay."""
    below = 0.5 * probabilities / np.maximum(thresholds, 1e-12)
    above = 0.5 + 0.5 * (probabilities - thresholds) / np.maximum(1 - thresholds, 1e-12)
    return np.clip(np.where(probabilities >= thresholds, above, below), 0.0, 1.0)


def auroc_drop(
    other: LabeledPredictions, own: LabeledPredictions, num_samples: int = 1000, seed: int = 0
) -> dict[str, Any]:
    """
    How much macro AUROC a model loses from recordings of its own source to those of another.

    Args:
        other ([`LabeledPredictions`]): On the other source.
        own ([`LabeledPredictions`]): On its own, of patients that it was not trained on.
        num_samples, seed: As in [`evaluate_predictions`]; the patients of both are drawn independently.

    Returns:
        `dict`: `labels`, those that have both classes in both; `own`, `other` and `lost` (own minus other), each
        `{"value", "low", "high"}`; `per_label`, with `own` and `other` AUROC of each.
    """
    names = [
        name for name in other.label_names if name in own.label_names and all(_both(one, name) for one in (other, own))
    ]
    result: dict[str, Any] = {"labels": names, "per_label": {}}
    if not names:
        return result
    samples = {}
    for number, (side, one) in enumerate((("own", own), ("other", other))):
        columns = [one.label_names.index(name) for name in names]
        labels, scores = one.labels[:, columns], one.probabilities[:, columns]
        samples[side] = macro_auroc_samples(labels, [scores], one.patient_ids, num_samples, [seed, number])
        result[side] = bootstrap_interval(samples[side])
        for column, name in enumerate(names):
            area = macro_auroc(labels[:, [column]], scores[:, [column]])
            result["per_label"].setdefault(name, {})[side] = area
    result["lost"] = bootstrap_interval(samples["own"] - samples["other"])
    return result


def _both(one: LabeledPredictions, name: str) -> bool:
    values = one.labels[:, one.label_names.index(name)]
    return bool((values == 1).any() and (values == 0).any())
