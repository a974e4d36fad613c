"""
The task "ecg-classification" of `transformers.pipeline`: from a recording to labels with scores.

This file is published beside the weights, with its neighbour `classifier_outputs.py`, and imports nothing else of the
package: recordings are read by the feature extractor.
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
    apply_function,
    classify,
    default_function,
    find_contradictions,
    model_label_names,
    model_thresholds,
)


logger = logging.get_logger(__name__)

TASK = "ecg-classification"
MODEL_CLASSES = (AutoModelForSequenceClassification, AutoModelForImageClassification)
"""Auto classes of the models that serve the task: those that read recordings, and those that read pages."""

CHOICES: dict[str, tuple[str, ...]] = {
    "windows": ("first", "center", "all"),
    "on_no_beats": ("raise", "mask"),
    "aggregate": ("mean", "max", "none"),
    "function_to_apply": ("sigmoid", "softmax", "none"),
}
PREPROCESS_PARAMETERS = ("sampling_rate", "lead_names", "unit", "windows", "on_no_beats")
POSTPROCESS_PARAMETERS = ("top_k", "threshold", "function_to_apply", "aggregate", "return_report")

# Of each window: which of the stretches that are as long as the model's window it is of, and from where to where it
# reaches [s]; which stretches of the recording were left out, what else is known about it, and what to call it.
_PLACE = ("window", "start", "end", "skipped", "report", "name", "is_last")


class EcgClassificationPipeline(ChunkPipeline):
    """
    Labels of ECG recordings, or of pictures of them, with their scores, by a classifier and its feature extractor.

    A recording is one of:

    - the path (`str` or `Path`) of a WFDB record, with or without `.hea`, `.dat` or `.mat`;
    - a dict with `"waveform"` (array or tensor of shape `(num_leads, num_samples)`), `"sampling_rate"` [Hz],
      `"lead_names"` and `"unit"` (`"mV"`, `"uV"`, `"V"` or `"NU"`), or an object with these as attributes;
    - an array or tensor of shape `(num_leads, num_samples)`, with the other three as arguments of the call;
    - a `wfdb.Record`, as `wfdb.rdrecord` reads it;
    - a pandas or polars `DataFrame` of samples, a column of numbers per lead, with `sampling_rate` and `unit` as
      arguments of the call;
    - a row of a prepared dataset (`clear_hug_hf.prepare`), which is already cleaned;
    - for a model that reads pages, the path of a picture of one, a `PIL.Image`, or an array `(height, width, 3)`.

    A list of recordings gives a list of results, and so does a `DataFrame` with a column `path` (relative to the
    working directory); an iterator or a dataset gives an iterator of results. What a recording says of itself goes
    before the arguments of the call.

    Every parameter may be given when the pipeline is made or when it is called, the call's going first; besides those
    of every pipeline (`batch_size`: windows at a time, of one recording or of several; `num_workers`, `device`) they
    are those of [`EcgClassificationPipeline.__call__`].

    Example:

    ```python
    >>> from transformers import pipeline

    >>> classify = pipeline("ecg-classification", model=folder, threshold="model")
    >>> classify("records100/00000/00001_lr")
    [{'label': 'NORM', 'score': 0.94}]
    ```"""

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
            raise ValueError("the feature extractor is missing: pass the model's own as `feature_extractor=`")
        super().__init__(model=model, **kwargs)
        saved = getattr(self.model.config, "architectures", None) or ()
        if saved and type(self.model).__name__ not in saved and hasattr(self.model, "classifier"):
            raise ValueError(
                f"the weights are those of a {saved[0]}, to which {type(self.model).__name__} adds a head that was "
                "never trained: fine-tune it first"
            )
        # `pipeline` has put classes into this field, with which a config can be neither printed nor saved. The folder
        # gets it again from `save_pretrained`.
        vars(self.model.config).pop("custom_pipelines", None)

    def __call__(self, inputs: Any, **kwargs: Any) -> Any:  # type: ignore[override]
        """
        Classify recordings.

        Args:
            inputs: One recording or several, see [`EcgClassificationPipeline`].
            sampling_rate (`float`, *optional*): Rate of recordings that do not state theirs [Hz].
            lead_names (`Sequence[str]`, *optional*): Name of each row of recordings that do not state theirs.
            unit (`str` or `Sequence[str]`, *optional*): Unit of recordings that do not state theirs: of all rows, or
                of each.
            windows (`str`, *optional*, defaults to `"all"`): What is predicted of a recording that is longer than the
                feature extractor's window, or has more beats than the model holds: `"all"` windows, the `"first"` or
                the `"center"` one. A window of `"all"` that cannot be read, without any beat or with every lead flat,
                is left out with a warning.
            on_no_beats (`str`, *optional*): What happens to a window without any beat: with `"raise"` it is left out,
                and refused if there is no other; with `"mask"` it is read. The feature extractor's own choice by
                default.
            aggregate (`str`, *optional*, defaults to `"mean"`): How the scores of windows become the recording's:
                `"mean"`, `"max"`, or `"none"` for the windows' own.
            function_to_apply (`str`, *optional*): From logits to scores: `"sigmoid"`, `"softmax"` or `"none"`; by
                default what the problem type of the model asks for.
            threshold (`float` or `str`, *optional*): Keep the labels whose score reaches it, from 0 to 1; `"model"`
                for each label's own of `config.label_thresholds` (0.5 where it has none).
            top_k (`int`, *optional*): Keep at most as many labels.
            return_report (`bool`, *optional*, defaults to `False`): Whether to say what is known about the recording
                beside its labels. What is implausible about it is logged as a warning in any case.

        Returns:
            `list[dict]` for one recording: `{"label": str, "score": float}`, highest score first. For a recording of
            several windows each has also `"windows"`, a list of `{"start": float, "end": float, "score": float}` [s].
            With `aggregate="none"` a list of the windows, `{"start": float, "end": float, "labels": list[dict]}`.
            A label of bradycardia or tachycardia that is found and that the heart rate contradicts has a `"note"`, a
            sentence that says so. With `return_report` a dict: `"labels"`, the list, and `"report"`, a dict with heart
            rate and variability, beats found and read, leads missing, flat and clipped, amplitude and `"warnings"`
            (`None` for a picture; of a prepared row it describes the cleaned samples).
            A list of these for a list of recordings or a table of paths, an iterator for an iterator or a dataset.

        Raises:
            FileNotFoundError: If there is no record at a path.
            ValueError: If a recording or a parameter cannot be used; the message says which, why, and what to do.
            ImportError: If a record is in a format that only the package `wfdb` reads, and it is not installed.
        """
        batch_size = kwargs.get("batch_size", self._batch_size)
        if batch_size is not None and not (isinstance(batch_size, Integral) and int(batch_size) >= 1):
            raise ValueError(f"batch_size is {batch_size!r}: give a whole number of windows, at least 1")
        if hasattr(inputs, "columns") and hasattr(inputs, "to_numpy") and "path" in list(inputs.columns):
            inputs = _paths_of(inputs)
        if isinstance(inputs, (list, tuple)):
            # Lists in a list would be searched for chat messages.
            if wrong := [item for item in inputs if isinstance(item, (list, tuple))]:
                raise ValueError(
                    f"a {type(wrong[0]).__name__} in a list is no recording: list the recordings themselves"
                )
            return super().__call__(list(inputs), **kwargs) if inputs else []
        if not self.feature_extractor.is_recording(inputs):
            return super().__call__((item for item in inputs), **kwargs)
        return super().__call__(inputs, **kwargs)

    def _sanitize_parameters(self, **parameters: Any) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        known = (*PREPROCESS_PARAMETERS, *POSTPROCESS_PARAMETERS)
        for name, value in parameters.items():
            if name not in known:
                raise ValueError(f"there is no parameter {name!r}: choose from {', '.join(known)}, batch_size")
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
        **stated: Any,
    ) -> Iterator[dict[str, Any]]:
        """The windows of one recording as inputs of the model, each with its place [s]."""
        found = self.feature_extractor.read_windows(inputs, windows=windows, on_no_beats=on_no_beats, **stated)
        about = {"skipped": found.skipped, "report": found.report, "name": found.name or "the recording"}
        for row, (features, place) in enumerate(zip(found.batches(), found.places, strict=True)):
            yield {**features, **about, **place._asdict(), "is_last": row == len(found.places) - 1}

    def _forward(self, model_inputs: dict[str, Any]) -> Any:  # type: ignore[override]
        places = {name: model_inputs.pop(name) for name in _PLACE}
        return {"logits": classify(self.model, model_inputs).logits, **places}

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
            raise ValueError("a threshold needs scores from 0 to 1: leave it out, or apply a sigmoid or a softmax")
        names, report = model_label_names(config), model_outputs[0]["report"]
        window_scores = apply_function(
            function, np.stack([output["logits"][0].float().numpy() for output in model_outputs])
        )
        recording_scores = aggregate_windows(window_scores, aggregate)
        notes_of_windows, notes = find_contradictions(report, names, window_scores, aggregate)
        limits = np.array(
            [threshold] * len(names) if isinstance(threshold, Real) else model_thresholds(config), dtype=np.float32
        )

        def labels_of(
            scores: np.ndarray, of_windows: np.ndarray | None, notes: Mapping[str, str]
        ) -> list[dict[str, Any]]:
            order = np.argsort(-scores, kind="stable")
            if threshold is not None:
                order = order[(scores >= limits)[order]]
            found = []
            for label in order[:top_k].tolist():
                entry: dict[str, Any] = {"label": names[label], "score": float(scores[label])}
                if names[label] in notes and function != "none" and scores[label] >= limits[label]:
                    entry["note"] = notes[names[label]]
                if of_windows is not None:
                    entry["windows"] = [
                        {"start": output["start"], "end": output["end"], "score": float(score)}
                        for output, score in zip(model_outputs, of_windows[:, label], strict=True)
                    ]
                found.append(entry)
            return found

        if recording_scores is None:
            labels = [
                {"start": output["start"], "end": output["end"], "labels": labels_of(scores, None, own)}
                for output, scores, own in zip(model_outputs, window_scores, notes_of_windows, strict=True)
            ]
        else:
            labels = labels_of(recording_scores, window_scores if len(model_outputs) > 1 else None, notes)
        for warning in [] if report is None else report.warnings:
            logger.warning("%s: %s", model_outputs[0]["name"], warning)
        if not return_report:
            return labels
        return {"labels": labels, "report": None if report is None else report.to_dict()}


# As registering the task does: a pipeline that was loaded from a published folder can be saved to another one, too.
EcgClassificationPipeline._registered_impl = {
    TASK: {"impl": EcgClassificationPipeline, "pt": MODEL_CLASSES, "type": "audio"}
}


def _paths_of(table: Any) -> list[Any]:
    paths = table["path"].to_list()
    for row, path in enumerate(paths):
        if not isinstance(path, (str, os.PathLike)) or not str(path):
            raise ValueError(
                f"row {row} of the table, counted from 0, has no path: fill the column `path` in every row"
            )
    return paths


def _check_parameter(name: str, value: Any) -> None:
    if name in CHOICES and value not in CHOICES[name]:
        raise ValueError(f"{name} is {value!r}: choose one of {', '.join(map(repr, CHOICES[name]))}")
    if name == "top_k" and not (isinstance(value, Integral) and _is_number(value) and int(value) >= 1):
        raise ValueError(f"top_k is {value!r}: give the number of labels, at least 1, or None for all")
    if name == "return_report" and not isinstance(value, bool):
        raise ValueError(f"return_report is {value!r}: give True or False")
    if name == "threshold" and value != "model" and not (_is_number(value) and 0 <= value <= 1):
        raise ValueError(f'threshold is {value!r}: give a number from 0 to 1, or "model" for each label\'s own')


def _is_number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)
