"""Predictions and embeddings of files, recordings and pictures, one after another."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel

from ..data.records import RecordReference, Rejected, describe_error
from ..processing.errors import InputError
from ..processing.feature_extraction_ecg import EcgFeatureExtractor
from ..processing.page_finding import FoundPage
from ..processing.recording_inputs import RecordingWindows, WindowPlace
from ..processing.signal_report import SignalReport
from .classifier_outputs import (
    aggregate_windows,
    classify,
    find_contradictions,
    group_contributions,
    label_scores,
    mean_distance,
    model_aggregate,
    model_label_names,
    run_model,
)


@dataclass(frozen=True)
class WindowPrediction:
    """
    Predictions for one window.

    Args:
        place ([`WindowPlace`]): Position of the window in the recording.
        probabilities (`np.ndarray` of shape `(num_labels,)`): Probabilities of the labels.
        notes (`dict[str, str]`): Labels that contradict the heart rate of the window, with explanations.
        heart_rate (`float`, *optional*): Heart rate of the window [beats per minute].
        contributions (`np.ndarray` of shape `(7, num_labels)`, *optional*, for heads that read lead groups):
            Contribution of each group to each logit, see [`group_contributions`].
        distance (`float`, *optional*): Distance from the training recordings, see [`Familiarity`].
    """

    place: WindowPlace
    probabilities: np.ndarray
    notes: dict[str, str]
    heart_rate: float | None = None
    contributions: np.ndarray | None = None
    distance: float | None = None


@dataclass(frozen=True)
class RecordPrediction:
    """
    Predictions for one recording or picture.

    Args:
        record_id (`str`): Name of the recording, or the path it was read from.
        windows (`list[WindowPrediction]`): At least one window, in order.
        probabilities (`np.ndarray` of shape `(num_labels,)`, *optional*): Probabilities of the recording; `None` with
            `aggregate="none"`.
        notes (`dict[str, str]`): Labels that contradict the heart rate of the recording, with explanations.
        skipped (`list[tuple[float, float]]`): Start and end [s] of intervals that cannot be read.
        report ([`SignalReport`], *optional*): Signal report of a recording.
        page ([`FoundPage`], *optional*): The page found in a picture.
        distance (`float`, *optional*): Mean distance of the windows from the training recordings, see [`Familiarity`].
    """

    record_id: str
    windows: list[WindowPrediction]
    probabilities: np.ndarray | None
    notes: dict[str, str]
    skipped: list[tuple[float, float]]
    report: SignalReport | None = None
    page: FoundPage | None = None
    distance: float | None = None


@dataclass(frozen=True)
class RecordEmbedding:
    """
    Embeddings of one recording or picture.

    Args:
        record_id (`str`): Name of the recording, or the path it was read from.
        places (`list[WindowPlace]`): Positions of the windows, in order.
        vectors (`np.ndarray` of shape `(num_windows, hidden_size)`, float32): Mean summary state of the present leads,
            which is the input of the `"mean"` head; NaN for windows without beats. With one vector per lead,
            `(num_windows, num_leads, hidden_size)`, NaN for missing leads.
    """

    record_id: str
    places: list[WindowPlace]
    vectors: np.ndarray


def check_is_classifier(config: Any) -> None:
    """Raise an [`InputError`] if the model is a regression model."""
    if config.problem_type == "regression":
        raise InputError("the model is a regression model and has no probabilities: use a classification model")


def predict_records(
    model: PreTrainedModel,
    feature_extractor: EcgFeatureExtractor,
    inputs: Iterable[Any],
    *,
    windows: str = "all",
    on_no_beats: str | None = None,
    aggregate: str | None = None,
    batch_size: int = 1,
) -> Iterator[RecordPrediction | Rejected]:
    """
    Classify recordings and pictures one after another. Only one is in memory at a time, and an unusable one does not
    stop the others.

    Args:
        model ([`PreTrainedModel`]): A classifier, on any device.
        feature_extractor ([`EcgFeatureExtractor`]): Feature extractor of the model.
        inputs (`Iterable`): [`RecordReference`]s, [`Recording`]s, paths, dicts, pictures and whatever else
            [`EcgFeatureExtractor.read_windows`] accepts.
        windows, on_no_beats: As in [`EcgFeatureExtractor.read_windows`]. All beats of each window are read.
        aggregate (`str`, *optional*): How to combine the windows, see [`aggregate_windows`]; by default as the model
            does, see [`model_aggregate`].
        batch_size (`int`, *optional*, defaults to 1): Number of windows of one recording in a batch. With 1 the result
            is bit-identical to that of the pipeline and the command line; larger batches differ in the last digits.

    Yields:
        [`RecordPrediction`], or [`Rejected`] with the reason, for each input in order.

    Raises:
        InputError: If the model is a regression model.
    """
    check_is_classifier(model.config)
    names = model_label_names(model.config)
    combination = aggregate or model_aggregate(model.config)
    for record_id, recording in _read_each(feature_extractor, inputs, windows, on_no_beats):
        if isinstance(recording, Rejected):
            yield recording
            continue
        logits, contributions = [], []
        distances: list[float | None] = []
        for batch in recording.batches(batch_size):
            with torch.no_grad():
                output = classify(model, _to_device(batch, model.device))
                logits.append(output.logits.float().cpu().numpy())
                if (states := getattr(output, "group_states", None)) is not None:
                    contributions.append(group_contributions(model, states.float()).cpu().numpy())
            distance = getattr(output, "distance", None)
            distances += [None] * len(output.logits) if distance is None else distance.tolist()
        scores = label_scores(model.config, np.concatenate(logits))
        window_notes, notes = find_contradictions(recording.report, names, scores, combination)
        rates = [None] * len(scores) if recording.report is None else recording.report.window_rates
        by_window = np.concatenate(contributions) if contributions else [None] * len(scores)
        yield RecordPrediction(
            record_id=record_id,
            windows=[
                WindowPrediction(*window)
                for window in zip(recording.places, scores, window_notes, rates, by_window, distances, strict=True)
            ],
            probabilities=aggregate_windows(scores, combination),
            notes=notes,
            skipped=recording.skipped,
            report=recording.report,
            page=recording.page,
            distance=mean_distance(distances),
        )


def embed_records(
    model: PreTrainedModel,
    feature_extractor: EcgFeatureExtractor,
    inputs: Iterable[Any],
    *,
    per_lead: bool = False,
    windows: str = "all",
    batch_size: int = 1,
) -> Iterator[RecordEmbedding | Rejected]:
    """
    Embed recordings and pictures, read as in [`predict_records`].

    Args:
        model ([`PreTrainedModel`]): Any model of this package, on any device. Only its encoder is used.
        feature_extractor, inputs, windows, batch_size: As in [`predict_records`].
        per_lead (`bool`, *optional*, defaults to `False`): Whether to return a vector per lead instead of their mean.

    Yields:
        [`RecordEmbedding`], or [`Rejected`] with the reason, for each input in order. If a window has more beats than
        the model reads at once, its embedding is the mean over its parts.

    Raises:
        InputError: If `per_lead` is set for a model without lead vectors.
    """
    for record_id, recording in _read_each(feature_extractor, inputs, windows):
        if isinstance(recording, Rejected):
            yield recording
            continue
        states, present = [], []
        for batch in recording.batches(batch_size):
            with torch.no_grad():
                output = run_model(model.base_model, _to_device(batch, model.device))
            states.append(output.lead_states.float().cpu().numpy())
            present.append(output.present_leads.cpu().numpy())
        if per_lead and states[0].shape[1] != len(model.config.lead_names):
            unit = "page" if hasattr(feature_extractor, "image_processor") else "recording"
            raise InputError(
                f"{model.config.model_type} has no vectors per lead, only one per {unit}: remove --per-lead"
            )
        yield _embedding(record_id, recording.places, np.concatenate(states), np.concatenate(present), per_lead)


def _embedding(
    record_id: str, places: list[WindowPlace], states: np.ndarray, present: np.ndarray, per_lead: bool
) -> RecordEmbedding:
    """Embeddings of windows from the lead states `(num_parts, num_leads, hidden_size)` of their parts."""
    windows, vectors = [], []
    for window in dict.fromkeys(place.window for place in places):
        rows = [row for row, place in enumerate(places) if place.window == window]
        windows.append(WindowPlace(window, places[rows[0]].start, places[rows[-1]].end))
        leads, is_present = states[rows].mean(axis=0), np.logical_or.reduce(present[rows])
        # In a window without beats no lead is present.
        missing = np.full_like(leads, np.nan)
        if per_lead:
            vectors.append(np.where(is_present[:, None], leads, missing))
        else:
            vectors.append(leads[is_present].mean(axis=0) if is_present.any() else missing[0])
    return RecordEmbedding(record_id, windows, np.stack(vectors))


def _read_each(
    feature_extractor: EcgFeatureExtractor, inputs: Iterable[Any], windows: str, on_no_beats: str | None = None
) -> Iterator[tuple[str, RecordingWindows | Rejected]]:
    """The id and the windows of each input, or the reason why it cannot be used."""
    for number, source in enumerate(inputs):
        record_id = _record_id(source) or f"recording {number}"
        result: RecordingWindows | Rejected
        try:
            recording = source.read() if isinstance(source, RecordReference) else source
            result = feature_extractor.read_windows(
                recording, windows=windows, on_no_beats=on_no_beats, all_beats=True
            )
        except Exception as error:  # an unusable recording must not stop the others
            result = Rejected(record_id, describe_error(error).removeprefix(f"{record_id}: "))
        yield record_id, result


def _record_id(source: Any) -> str:
    if isinstance(source, (str, os.PathLike)):
        return str(source)
    return str((source.get("record_id") if isinstance(source, Mapping) else getattr(source, "record_id", None)) or "")


def _to_device(batch: Mapping[str, torch.Tensor], device: torch.device) -> dict[str, torch.Tensor]:
    return {name: tensor.to(device) for name, tensor in batch.items()}
