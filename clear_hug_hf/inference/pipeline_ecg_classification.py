"""
The task "ecg-classification" of `transformers.pipeline`: labels and scores for recordings.

This file is published beside the weights, with `classifier_outputs.py`, and imports nothing else of the package. The
feature extractor reads recordings.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from numbers import Integral, Real
from typing import Any, ClassVar

import numpy as np
from transformers import AutoModelForImageClassification, AutoModelForSequenceClassification
from transformers.pipelines.base import ChunkPipeline
from transformers.utils import logging

from .classifier_outputs import (
    aggregate_windows,
    classify,
    default_function,
    familiarity_note,
    find_contradictions,
    label_scores,
    mean_distance,
    model_aggregate,
    model_label_names,
    model_thresholds,
)


logger = logging.get_logger(__name__)

TASK = "ecg-classification"
MODEL_CLASSES = (AutoModelForSequenceClassification, AutoModelForImageClassification)
"""Auto classes of the models that support the task: those that read recordings, and those that read pages."""

CHOICES: dict[str, tuple[str, ...]] = {
    "windows": ("first", "center", "all"),
    "on_no_beats": ("raise", "mask"),
    "aggregate": ("mean", "max", "none"),
    "function_to_apply": ("sigmoid", "softmax", "none"),
}
PREPROCESS_PARAMETERS = ("sampling_rate", "lead_names", "unit", "windows", "on_no_beats")
POSTPROCESS_PARAMETERS = ("top_k", "threshold", "function_to_apply", "aggregate", "return_report")

# Metadata that travels with each window through the pipeline: its index, start and end [s], and the skipped intervals,
# report and name of its recording.
_METADATA = ("window", "start", "end", "skipped", "report", "name", "is_last")


class EcgClassificationPipeline(ChunkPipeline):
    """
    Classify ECG recordings, or pictures of them.

    A recording is one of:

    - the path (`str` or `Path`) of a WFDB record, with or without `.hea`, `.dat` or `.mat`, or of a file in another
      format, such as MUSE XML or DICOM;
    - a dict with `"waveform"` (array or tensor of shape `(num_leads, num_samples)`), `"sampling_rate"` [Hz],
      `"lead_names"` and `"unit"` (`"mV"`, `"uV"`, `"V"` or `"NU"`), or an object with these as attributes;
    - an array or tensor of shape `(num_leads, num_samples)`, with the other three as arguments of the call;
    - a `wfdb.Record`, as `wfdb.rdrecord` reads it;
    - a pandas or polars `DataFrame` of samples, a column of numbers per lead, with `sampling_rate` and `unit` as
      arguments of the call;
    - a row of a prepared dataset (`clear_hug_hf.prepare`), which is already cleaned;
    - for a model that reads pages, the path of a picture, a `PIL.Image`, or an array `(height, width, 3)`.

    A list of recordings gives a list of results, and so does a `DataFrame` with a column `path` (relative to the
    working directory). An iterator or a dataset gives an iterator of results. Metadata of a recording takes precedence
    over arguments of the call.

    All parameters of [`EcgClassificationPipeline.__call__`] can also be set when the pipeline is created; arguments of
    the call take precedence. The usual pipeline parameters are supported: `batch_size` (number of windows, of one or
    several recordings), `num_workers` and `device`.

    Example:

    ```python
    >>> from transformers import pipeline

    >>> classify = pipeline("ecg-classification", model=folder, threshold="model")
    >>> classify("records100/00000/00001_lr")
    [{'label': 'NORM', 'score': 0.94}]
    ```
    """

    _load_processor: Any = False
    _load_image_processor: Any = False
    _load_video_processor: Any = False
    _load_feature_extractor: Any = True
    _load_tokenizer: Any = False
    _registered_impl: ClassVar[dict[str, Any]]

    model: Any
    feature_extractor: Any

    def __init__(self, model: Any, **kwargs: Any):
        if kwargs.get("feature_extractor") is None:
            raise ValueError("the feature extractor is missing: pass the one of the model as `feature_extractor=`")
        super().__init__(model=model, **kwargs)
        saved = getattr(self.model.config, "architectures", None) or ()
        if saved and type(self.model).__name__ not in saved and hasattr(self.model, "classifier"):
            raise ValueError(
                f"the weights are those of a {saved[0]}, so the head of {type(self.model).__name__} is untrained: "
                "fine-tune the model first"
            )
        # `pipeline` stores classes in this field, so that the config can be neither printed nor saved.
        # `save_pretrained` sets it again.
        vars(self.model.config).pop("custom_pipelines", None)

    def __call__(self, inputs: Any, **kwargs: Any) -> Any:  # type: ignore[override]
        """
        Classify recordings.

        Args:
            inputs: One or several recordings, see [`EcgClassificationPipeline`].
            sampling_rate (`float`, *optional*): Sampling rate of recordings without one [Hz].
            lead_names (`Sequence[str]`, *optional*): Lead names of recordings without them, one per row.
            unit (`str` or `Sequence[str]`, *optional*): Unit of recordings without one, for all rows or for each.
            windows (`str`, *optional*, defaults to `"all"`): Which windows to classify if a recording is longer than
                the feature extractor's window, or has more beats than the model reads at once: `"all"`, `"first"` or
                `"center"`. With `"all"`, windows without beats, or in which every lead is flat, are skipped with a
                warning.
            on_no_beats (`str`, *optional*): How to handle windows without beats: `"raise"` skips them, and raises if
                no other window is left; `"mask"` classifies them. Defaults to the feature extractor's setting.
            aggregate (`str`, *optional*): How to combine the scores of windows: `"mean"`, `"max"`, or `"none"` for
                results per window. By default as `config.window_aggregation` states for each label, or else
                `"mean"`.
            function_to_apply (`str`, *optional*): Function that turns logits into scores: `"sigmoid"`, `"softmax"` or
                `"none"`. By default it follows the problem type of the model. A sigmoid includes the calibration of
                the model, if `config.label_calibration` has one; `"none"` gives the logits as the model returns them.
            threshold (`float` or `str`, *optional*): Return only labels whose score is at least this, from 0 to 1.
                `"model"` uses `config.label_thresholds` (0.5 for labels without one).
            top_k (`int`, *optional*): Return at most this many labels.
            return_report (`bool`, *optional*, defaults to `False`): Whether to return the signal report, too. Its
                warnings are logged in any case.

        Returns:
            `list[dict]` for one recording: `{"label": str, "score": float}`, highest score first. If a recording has
            several windows, each entry also has `"windows"`, a list of `{"start": float, "end": float, "score":
            float}` [s]. With `aggregate="none"`, a list of windows, `{"start": float, "end": float, "labels":
            list[dict]}`. A predicted bradycardia or tachycardia that contradicts the heart rate has a `"note"` that
            explains it. With `return_report`, a dict with `"labels"` and `"report"`, a dict with heart rate and its
            variability, beats detected and read, missing, flat and clipped leads, amplitude and `"warnings"` (`None`
            for a picture; for a prepared row it describes the cleaned signal), and from a model with
            `config.familiarity` `"distance"`, the distance from its training recordings, and `"unfamiliar"`, a
            sentence if it is above 1 or `None`. The sentence is logged in any case.
            A list of recordings or a table of paths gives a list of these; an iterator or a dataset an iterator.

        Raises:
            FileNotFoundError: If there is no record at a path.
            ValueError: If a recording or a parameter is invalid.
            ImportError: If a recording is in a format that requires a library that is not installed.
        """
        batch_size = kwargs.get("batch_size", self._batch_size)
        if batch_size is not None and not (isinstance(batch_size, Integral) and int(batch_size) >= 1):
            raise ValueError(f"batch_size is {batch_size!r}: it must be an integer of at least 1")
        if hasattr(inputs, "columns") and hasattr(inputs, "to_numpy") and "path" in list(inputs.columns):
            inputs = _paths_of(inputs)
        if isinstance(inputs, (list, tuple)):
            # The base class would search nested lists for chat messages.
            if nested := [item for item in inputs if isinstance(item, (list, tuple))]:
                raise ValueError(
                    f"a {type(nested[0]).__name__} inside a list is not a recording: pass a flat list of recordings"
                )
            return super().__call__(list(inputs), **kwargs) if inputs else []
        if not self.feature_extractor.is_recording(inputs):
            return super().__call__((item for item in inputs), **kwargs)
        return super().__call__(inputs, **kwargs)

    def _sanitize_parameters(self, **parameters: Any) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        known = (*PREPROCESS_PARAMETERS, *POSTPROCESS_PARAMETERS)
        for name, value in parameters.items():
            if name not in known:
                raise ValueError(f"unknown parameter {name!r}: choose from {', '.join(known)}, batch_size")
            if value is not None:
                _check_parameter(name, value)
        return (
            {name: parameters[name] for name in PREPROCESS_PARAMETERS if name in parameters},
            {},
            {name: parameters[name] for name in POSTPROCESS_PARAMETERS if name in parameters},
        )

    def preprocess(  # type: ignore[override]
        self,
        inputs: Any,
        windows: str | None = None,
        on_no_beats: str | None = None,
        **description: Any,
    ) -> Iterator[dict[str, Any]]:
        """Model inputs of the windows of one recording, each with its start and end [s]."""
        recording = self.feature_extractor.read_windows(
            inputs, windows=windows, on_no_beats=on_no_beats, **description
        )
        shared = {
            "skipped": recording.skipped,
            "report": recording.report,
            "name": recording.name or "the recording",
        }
        for row, (features, place) in enumerate(zip(recording.batches(), recording.places, strict=True)):
            yield {**features, **shared, **place._asdict(), "is_last": row == len(recording.places) - 1}

    def _forward(self, model_inputs: dict[str, Any]) -> Any:  # type: ignore[override]
        metadata = {name: model_inputs.pop(name) for name in _METADATA}
        output = classify(self.model, model_inputs)
        distance = getattr(output, "distance", None)
        return {"logits": output.logits, **({} if distance is None else {"distance": distance}), **metadata}

    def postprocess(  # type: ignore[override]
        self,
        model_outputs: Sequence[Mapping[str, Any]],
        top_k: int | None = None,
        threshold: float | str | None = None,
        function_to_apply: str | None = None,
        aggregate: str | None = None,
        return_report: bool | None = None,
    ) -> list[dict[str, Any]] | dict[str, Any]:
        """The labels of one recording from the logits of its windows."""
        config = self.model.config
        function = function_to_apply or default_function(config)
        if threshold is not None and function == "none":
            raise ValueError("threshold requires scores from 0 to 1: remove it, or apply a sigmoid or softmax")
        names, report = model_label_names(config), model_outputs[0]["report"]
        window_scores = label_scores(
            config, np.stack([output["logits"][0].float().numpy() for output in model_outputs]), function
        )
        combination = aggregate or model_aggregate(config)
        recording_scores = aggregate_windows(window_scores, combination)
        window_notes, recording_notes = find_contradictions(report, names, window_scores, combination)
        thresholds = np.array(
            [threshold] * len(names) if isinstance(threshold, Real) else model_thresholds(config), dtype=np.float32
        )

        def to_labels(
            scores: np.ndarray, scores_by_window: np.ndarray | None, notes: Mapping[str, str]
        ) -> list[dict[str, Any]]:
            order = np.argsort(-scores, kind="stable")
            if threshold is not None:
                order = order[(scores >= thresholds)[order]]
            entries = []
            for label in order[:top_k].tolist():
                entry: dict[str, Any] = {"label": names[label], "score": float(scores[label])}
                if names[label] in notes and function != "none" and scores[label] >= thresholds[label]:
                    entry["note"] = notes[names[label]]
                if scores_by_window is not None:
                    entry["windows"] = [
                        {"start": output["start"], "end": output["end"], "score": float(score)}
                        for output, score in zip(model_outputs, scores_by_window[:, label], strict=True)
                    ]
                entries.append(entry)
            return entries

        if recording_scores is None:
            labels = [
                {"start": output["start"], "end": output["end"], "labels": to_labels(scores, None, notes)}
                for output, scores, notes in zip(model_outputs, window_scores, window_notes, strict=True)
            ]
        else:
            labels = to_labels(recording_scores, window_scores if len(model_outputs) > 1 else None, recording_notes)
        for warning in [] if report is None else report.warnings:
            logger.warning("%s: %s", model_outputs[0]["name"], warning)
        distance = mean_distance([output.get("distance") for output in model_outputs])
        if (note := familiarity_note(config, distance)) is not None:
            logger.warning("%s: %s", model_outputs[0]["name"], note)
        if not return_report:
            return labels
        familiarity = {} if distance is None else {"distance": distance, "unfamiliar": note}
        return {"labels": labels, "report": None if report is None else report.to_dict(), **familiarity}


# Registering the task sets this, too. It lets a pipeline that was loaded from a published folder be saved again.
EcgClassificationPipeline._registered_impl = {
    TASK: {"impl": EcgClassificationPipeline, "pt": MODEL_CLASSES, "type": "audio"}
}


def _paths_of(table: Any) -> list[Any]:
    paths = table["path"].to_list()
    for row, path in enumerate(paths):
        if not isinstance(path, (str, os.PathLike)) or not str(path):
            raise ValueError(
                f"row {row} of the table (counted from 0) has no path: fill in the column `path` in every row"
            )
    return paths


def _check_parameter(name: str, value: Any) -> None:
    if name in CHOICES and value not in CHOICES[name]:
        raise ValueError(f"{name} is {value!r}: choose one of {', '.join(map(repr, CHOICES[name]))}")
    if name == "top_k" and not (isinstance(value, Integral) and _is_number(value) and int(value) >= 1):
        raise ValueError(f"top_k is {value!r}: it must be an integer of at least 1, or None for all labels")
    if name == "return_report" and not isinstance(value, bool):
        raise ValueError(f"return_report is {value!r}: it must be True or False")
    if name == "threshold" and value != "model" and not (_is_number(value) and 0 <= value <= 1):
        raise ValueError(f'threshold is {value!r}: it must be a number from 0 to 1, or "model"')


def _is_number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)
