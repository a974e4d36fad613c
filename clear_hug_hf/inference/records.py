"""Files, recordings and pictures to what a model says of them, one after another."""

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
    apply_function,
    classify,
    default_function,
    find_contradictions,
    group_contributions,
    model_label_names,
    run_model,
)


@dataclass(frozen=True)
class WindowPrediction:
    """
    What a classifier says of one window.

    Args:
        place ([`WindowPlace`]): Where it is in the recording.
        probabilities (`np.ndarray` of shape `(num_labels,)`): Of the labels.
        notes (`dict[str, str]`): Labels that the window's heart rate contradicts, each with a sentence.
        heart_rate (`float`, *optional*): Of the window [beats per minute].
        contributions (`np.ndarray` of shape `(7, num_labels)`, *optional*, with a head over groups of leads):
            What each group adds to each logit, see [`group_contributions`].
    """

    place: WindowPlace
    probabilities: np.ndarray
    notes: dict[str, str]
    heart_rate: float | None = None
    contributions: np.ndarray | None = None


@dataclass(frozen=True)
class RecordPrediction:
    """
    What a classifier says of one recording or picture.

    Args:
        record_id (`str`): The recording's name, or the path it was read from.
        windows (`list[WindowPrediction]`): At least one, in order.
        probabilities (`np.ndarray` of shape `(num_labels,)`, *optional*): Of the recording; none with
            `aggregate="none"`.
        notes (`dict[str, str]`): Labels that its heart rate contradicts, each with a sentence.
        skipped (`list[tuple[float, float]]`): Start and end [s] of stretches that cannot be read.
        report ([`SignalReport`], *optional*): What else is known about a recording.
        page ([`FoundPage`], *optional*): The page of a picture.
    """

    record_id: str
    windows: list[WindowPrediction]
    probabilities: np.ndarray | None
    notes: dict[str, str]
    skipped: list[tuple[float, float]]
    report: SignalReport | None = None
    page: FoundPage | None = None


@dataclass(frozen=True)
class RecordEmbedding:
    """
    Vectors of one recording or picture.

    Args:
        record_id (`str`): The recording's name, or the path it was read from.
        places (`list[WindowPlace]`): Of the windows, in order.
        vectors (`np.ndarray` of shape `(num_windows, hidden_size)`, float32): The mean of the summary states of the
            leads that are there, which is what the `"mean"` head classifies, NaN where none has a beat; or, per lead,
            `(num_windows, num_leads, hidden_size)`, NaN for leads that are not there.
    """

    record_id: str
    places: list[WindowPlace]
    vectors: np.ndarray


def check_is_classifier(config: Any) -> None:
    """Refuse a model that predicts values."""
    if config.problem_type == "regression":
        raise InputError("the model predicts values, not labels: only classification models give probabilities")


def predict_records(
    model: PreTrainedModel,
    feature_extractor: EcgFeatureExtractor,
    inputs: Iterable[Any],
    *,
    windows: str = "all",
    on_no_beats: str | None = None,
    aggregate: str = "mean",
    batch_size: int = 1,
) -> Iterator[RecordPrediction | Rejected]:
    """
    Classify recordings and pictures, one after another: no more than one is in memory, and one that cannot be used
    does not stop the others.

    Args:
        model ([`PreTrainedModel`]): A classifier, on the device that it is on.
        feature_extractor ([`EcgFeatureExtractor`]): The model's.
        inputs (`Iterable`): [`RecordReference`]s, [`Recording`]s, paths, dicts, pictures and whatever else
            [`EcgFeatureExtractor.read_windows`] takes.
        windows, on_no_beats: As there. All beats of a window are read, whichever it is.
        aggregate (`str`, *optional*, defaults to `"mean"`): How to combine the windows, see [`aggregate_windows`].
        batch_size (`int`, *optional*, defaults to 1): Windows of one recording at a time. By themselves they give the
            same bits as everywhere else; more at once differ in the last digits.

    Yields:
        [`RecordPrediction`], or [`Rejected`] with the reason, for each input in order.

    Raises:
        InputError: If the model predicts values.
    """
    check_is_classifier(model.config)
    names, function = model_label_names(model.config), default_function(model.config)
    for record, found in _read_each(feature_extractor, inputs, windows, on_no_beats):
        if isinstance(found, Rejected):
            yield found
            continue
        logits, contributions = [], []
        for batch in found.batches(batch_size):
            with torch.no_grad():
                output = classify(model, _moved(batch, model.device))
                logits.append(output.logits.float().cpu().numpy())
                if (states := getattr(output, "group_states", None)) is not None:
                    contributions.append(group_contributions(model, states.float()).cpu().numpy())
        scores = apply_function(function, np.concatenate(logits))
        of_windows, of_recording = find_contradictions(found.report, names, scores, aggregate)
        rates = [None] * len(scores) if found.report is None else found.report.window_rates
        added = np.concatenate(contributions) if contributions else [None] * len(scores)
        yield RecordPrediction(
            record_id=record,
            windows=[
                WindowPrediction(*one) for one in zip(found.places, scores, of_windows, rates, added, strict=True)
            ],
            probabilities=aggregate_windows(scores, aggregate),
            notes=of_recording,
            skipped=found.skipped,
            report=found.report,
            page=found.page,
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
    Vectors of recordings, read as [`predict_records`] reads them.

    Args:
        model ([`PreTrainedModel`]): Any of this package; its encoder is used, on the device that it is on.
        feature_extractor, inputs, windows, batch_size: As in [`predict_records`].
        per_lead (`bool`, *optional*, defaults to `False`): Whether each lead gets a vector, instead of their mean.

    Yields:
        [`RecordEmbedding`], or [`Rejected`] with the reason, for each input in order. A window with more beats than
        the model holds is the mean over its parts.

    Raises:
        InputError: If vectors per lead are asked of a model that has one for all leads.
    """
    for record, found in _read_each(feature_extractor, inputs, windows):
        if isinstance(found, Rejected):
            yield found
            continue
        states, present = [], []
        for batch in found.batches(batch_size):
            with torch.no_grad():
                output = run_model(model.base_model, _moved(batch, model.device))
            states.append(output.lead_states.float().cpu().numpy())
            present.append(output.present_leads.cpu().numpy())
        if per_lead and states[0].shape[1] != len(model.config.lead_names):
            raise InputError(f"{model.config.model_type} has one vector for all leads of a page: leave out --per-lead")
        yield _embedding(record, found.places, np.concatenate(states), np.concatenate(present), per_lead)


def _embedding(
    record: str, places: list[WindowPlace], states: np.ndarray, present: np.ndarray, per_lead: bool
) -> RecordEmbedding:
    """Vectors of windows from the lead states `(num_parts, num_leads, hidden_size)` of their parts."""
    windows, vectors = [], []
    for window in dict.fromkeys(place.window for place in places):
        rows = [row for row, place in enumerate(places) if place.window == window]
        windows.append(WindowPlace(window, places[rows[0]].start, places[rows[-1]].end))
        leads, is_there = states[rows].mean(axis=0), np.logical_or.reduce(present[rows])
        # A window in which no lead has a beat has no mean.
        missing = np.full_like(leads, np.nan)
        if per_lead:
            vectors.append(np.where(is_there[:, None], leads, missing))
        else:
            vectors.append(leads[is_there].mean(axis=0) if is_there.any() else missing[0])
    return RecordEmbedding(record, windows, np.stack(vectors))


def _read_each(
    feature_extractor: EcgFeatureExtractor, inputs: Iterable[Any], windows: str, on_no_beats: str | None = None
) -> Iterator[tuple[str, RecordingWindows | Rejected]]:
    """Each input with its name, or why it cannot be used."""
    for number, one in enumerate(inputs):
        record = _name_of(one) or f"recording {number}"
        found: RecordingWindows | Rejected
        try:
            recording = one.read() if isinstance(one, RecordReference) else one
            found = feature_extractor.read_windows(recording, windows=windows, on_no_beats=on_no_beats, all_beats=True)
        except Exception as error:  # whatever is wrong with one, the others are read
            found = Rejected(record, describe_error(error).removeprefix(f"{record}: "))
        yield record, found


def _name_of(one: Any) -> str:
    if isinstance(one, (str, os.PathLike)):
        return str(one)
    return str((one.get("record_id") if isinstance(one, Mapping) else getattr(one, "record_id", None)) or "")


def _moved(batch: Mapping[str, torch.Tensor], device: torch.device) -> dict[str, torch.Tensor]:
    return {name: tensor.to(device) for name, tensor in batch.items()}
