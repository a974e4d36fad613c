"""
The task "ecg-classification" of `transformers.pipeline`: from a recording to labels with scores.

This file is published beside the weights and imports nothing of the rest of the package.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from numbers import Integral, Real
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
from transformers import AutoModelForImageClassification, AutoModelForSequenceClassification
from transformers.feature_extraction_utils import BatchFeature
from transformers.pipelines.base import ChunkPipeline
from transformers.utils import logging


logger = logging.get_logger(__name__)

TASK = "ecg-classification"
MODEL_CLASSES = (AutoModelForSequenceClassification, AutoModelForImageClassification)
"""Auto classes of the models that serve the task: those that read recordings, and those that read pages."""

ACCEPTED = (
    'the path of a WFDB record, a dict with "waveform", "sampling_rate", "lead_names" and "unit", an array of shape '
    "(leads, samples), an object with these four as attributes, a wfdb.Record, a table with a column of numbers for "
    "each lead, a row of a prepared dataset, or several of these as a list, an iterator, a dataset, or a table with a "
    "column `path`"
)
CHOICES: dict[str, tuple[str, ...]] = {
    "windows": ("first", "center", "all"),
    "on_no_beats": ("raise", "mask"),
    "aggregate": ("mean", "max", "none"),
    "function_to_apply": ("sigmoid", "softmax", "none"),
}
PREPROCESS_PARAMETERS = ("sampling_rate", "lead_names", "unit", "windows", "on_no_beats")
POSTPROCESS_PARAMETERS = ("top_k", "threshold", "function_to_apply", "aggregate", "return_report")

_FIELDS = ("waveform", "sampling_rate", "lead_names", "unit")
_ROW_COLUMNS = ("signal", "signal_scale", "r_peaks", "lead_mask", "sampling_rate", "lead_names", "unit")
# Of each window: which of the stretches that are as long as the model's window it is of, and from where to where it
# reaches [s]; which stretches of the recording were left out, what else is known about it, and what to call it.
_PLACE = ("window", "start", "end", "skipped", "report", "name")
_PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".gif", ".webp", ".pdf")
_FUNCTION_OF_PROBLEM = {
    "multi_label_classification": "sigmoid",
    "single_label_classification": "softmax",
    "regression": "none",
}


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
        if _is_table(inputs) and "path" in list(inputs.columns):
            inputs = _paths_of(inputs)
        if isinstance(inputs, (list, tuple)):
            # Lists in a list would be searched for chat messages.
            if wrong := [item for item in inputs if isinstance(item, (list, tuple))]:
                raise ValueError(f"a {type(wrong[0]).__name__} in a list is no recording: give {ACCEPTED}")
            return super().__call__(list(inputs), **kwargs) if inputs else []
        if _is_many(inputs):
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
        if _is_picture(inputs):
            yield self._see_page(inputs)
            return
        if isinstance(inputs, Mapping) and "signal" in inputs and "waveform" not in inputs:
            features, places = self._cut_row(inputs, windows, on_no_beats)
            name = str(inputs.get("record_id") or "")
        else:
            recording, name = _as_recording(inputs, self.feature_extractor.read_record)
            for field, value in stated.items():
                if recording.get(field) is None:
                    recording[field] = value
            try:
                waveform = _checked_waveform(recording)
                features = self.feature_extractor(
                    waveform,
                    sampling_rate=recording.get("sampling_rate"),
                    lead_names=recording.get("lead_names"),
                    unit=recording.get("unit"),
                    windows=windows or "all",
                    on_no_beats=on_no_beats,
                    return_windows=True,
                    return_reports=True,
                    return_tensors="pt",
                )
            except ValueError as error:
                if name:
                    error.args = (f"{name}: {error}",)
                raise
            rate = float(recording["sampling_rate"])
            window_ids, starts, ends = (
                features.pop(field).tolist() for field in ("window_ids", "window_starts", "window_ends")
            )
            features.pop("recording_ids")
            skipped = [(start, end) for _, start, end in features.pop("skipped_windows").tolist()]
            (report,) = features.pop("reports")
            places = [
                {"window": window, "start": start / rate, "end": end / rate, "skipped": skipped, "report": report}
                for window, start, end in zip(window_ids, starts, ends, strict=True)
            ]
        for index, place in enumerate(places):
            yield {
                **{name: tensor[index : index + 1] for name, tensor in features.items()},
                **place,
                "name": name or "the recording",
                "is_last": index == len(places) - 1,
            }

    def _see_page(self, picture: Any) -> dict[str, Any]:
        """Inputs of the model from a picture of a page, which counts as one window."""
        name = str(picture) if isinstance(picture, (str, os.PathLike)) else "the picture"
        processor = getattr(self.feature_extractor, "image_processor", None)
        if processor is None:
            raise ValueError(
                f"{name} is a picture, and {type(self.model).__name__} reads recordings: use a model that reads pages "
                "(ECG-Scan), or give the samples"
            )
        try:
            features = processor(picture, return_tensors="pt")
        except ValueError as error:
            if name not in str(error):
                error.args = (f"{name}: {error}",)
            raise
        place = {"window": 0, "start": 0.0, "end": float(self.feature_extractor.window_seconds), "skipped": []}
        return {**features, **place, "report": None, "name": name, "is_last": True}

    def _cut_row(
        self, row: Mapping[str, Any], windows: str | None, on_no_beats: str | None
    ) -> tuple[BatchFeature, list[dict[str, Any]]]:
        """Inputs of the model from a row of a prepared dataset, and the places of its windows [s]."""
        if missing := [name for name in _ROW_COLUMNS if row.get(name) is None]:
            raise ValueError(
                f'a row with "signal" has no {missing[0]!r}: give a row as `clear_hug_hf.prepare` makes it'
            )
        extractor = self.feature_extractor
        if np.ndim(row["sampling_rate"]):
            raise ValueError(
                "a slice of a dataset is a dict of columns, not recordings: give the dataset, or `dataset.select(...)`"
            )
        rate = float(row["sampling_rate"])
        # The column is stored with 32 bits.
        if np.float32(rate) != np.float32(extractor.sampling_rate):
            raise ValueError(
                f"the row was prepared at {rate:g} Hz and the model works at {extractor.sampling_rate:g} Hz: prepare "
                "the dataset with the model's feature extractor"
            )
        signal = np.asarray(row["signal"], dtype=np.float32)
        scale = np.asarray(row["signal_scale"], dtype=np.float32)
        lead_mask = np.asarray(row["lead_mask"], dtype=bool)
        r_peaks = np.asarray(row["r_peaks"], dtype=np.int64)
        num_leads = 12  # of every prepared dataset; the extractor takes the model's own
        if signal.ndim != 2 or not signal.shape[0] == scale.size == lead_mask.size == num_leads:
            raise ValueError(
                f"the row's signal has shape {signal.shape}, {scale.size} scales and {lead_mask.size} entries in its "
                f"lead mask: give a row of {num_leads} leads as `clear_hug_hf.prepare` makes it"
            )
        outside = r_peaks.size and (r_peaks[0] < 0 or r_peaks[-1] >= signal.shape[1] or (np.diff(r_peaks) <= 0).any())
        if outside or not (np.isfinite(scale) & (scale > 0)).all():
            raise ValueError(
                "the row is damaged: its scales must be positive, and its R peaks ascend inside the signal; prepare "
                "the recording again"
            )
        if not r_peaks.size and (on_no_beats or extractor.on_no_beats) == "raise":
            raise ValueError('the row holds no beat: leave it out, or mark such rows with `on_no_beats="mask"`')
        cut = [signal * scale[:, None]], [r_peaks], [lead_mask]
        features, parts = extractor.cut_all(*cut)
        read = [r_peaks[(r_peaks >= start) & (r_peaks < stop)] for _, start, stop in parts]
        if windows not in (None, "all"):
            features, parts = extractor.cut(*cut), [(0, 0, signal.shape[1])]
            read = [extractor.read_peaks(r_peaks)]
        report = extractor.describe(
            cut[0][0][lead_mask],
            rate,
            [name for name, present in zip(row["lead_names"], lead_mask, strict=True) if present],
            row["unit"],
            lead_mask,
            None if extractor.detector == "regular" else r_peaks,
            read,
            windows=windows or "all",
        )
        places = [
            {"window": 0, "start": start / rate, "end": stop / rate, "skipped": [], "report": report}
            for _, start, stop in parts
        ]
        return BatchFeature(features, tensor_type="pt"), places

    def _forward(self, model_inputs: dict[str, Any]) -> Any:  # type: ignore[override]
        places = {name: model_inputs.pop(name) for name in (*_PLACE, "is_last")}
        if self.model.training:  # a model that was handed over in the middle of its training
            self.model.eval()
        inputs = {
            name: tensor.to(self.model.dtype) if tensor.is_floating_point() else tensor
            for name, tensor in model_inputs.items()
        }
        output = self.model(**inputs)
        if getattr(output, "logits", None) is None:
            raise ValueError(f"{type(self.model).__name__} gives no logits: load a model for sequence classification")
        # What a head of lead groups read, from which it can be said which leads spoke for a label.
        states = getattr(output, "group_states", None)
        return {"logits": output.logits, **({} if states is None else {"group_states": states}), **places}

    def score_windows(
        self,
        model_outputs: Sequence[Mapping[str, Any]],
        function_to_apply: str | None = None,
        aggregate: str | None = None,
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """
        Scores of one recording from what [`forward`] gives for each of its windows.

        Args:
            model_outputs (`Sequence[Mapping]`): Of the windows, in order.
            function_to_apply, aggregate: As in [`EcgClassificationPipeline.__call__`].

        Returns:
            `tuple[np.ndarray, np.ndarray | None]`: Of the windows `(num_windows, num_labels)`, and of the recording
            `(num_labels,)`, which has none with `aggregate="none"`.
        """
        function = function_to_apply or _FUNCTION_OF_PROBLEM.get(self.model.config.problem_type, "sigmoid")
        scores = _apply(function, np.stack([output["logits"][0].float().numpy() for output in model_outputs]))
        if aggregate == "none":
            return scores, None
        return scores, scores.max(axis=0) if aggregate == "max" else scores.mean(axis=0)

    def find_contradictions(
        self, model_outputs: Sequence[Mapping[str, Any]], window_scores: np.ndarray, aggregate: str | None = None
    ) -> tuple[list[dict[str, str]], dict[str, str]]:
        """
        Labels that the heart rate of one recording contradicts, each with a sentence, whether they are found or not.

        Args:
            model_outputs (`Sequence[Mapping]`): Of the windows, in order.
            window_scores (`np.ndarray` of shape `(num_windows, num_labels)`): Of [`score_windows`].
            aggregate: As in [`EcgClassificationPipeline.__call__`].

        Returns:
            `tuple[list[dict[str, str]], dict[str, str]]`: Of each window, by its own rate; and of the recording, by
            the rate of the whole or, with `aggregate="max"`, of the window with the highest score.
        """
        report = model_outputs[0]["report"]
        names = [self.model.config.id2label[index] for index in range(window_scores.shape[1])]
        if report is None:
            return [{} for _ in model_outputs], {}

        def by_rate_of(windows: Sequence[int | None]) -> dict[str, str]:
            told = {name: report.contradiction(name, window) for name, window in zip(names, windows, strict=True)}
            return {name: sentence for name, sentence in told.items() if sentence}

        highest = window_scores.argmax(axis=0).tolist() if aggregate == "max" else [None] * len(names)
        return [by_rate_of([row] * len(names)) for row in range(len(model_outputs))], by_rate_of(highest)

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
        function = function_to_apply or _FUNCTION_OF_PROBLEM.get(config.problem_type, "sigmoid")
        if threshold is not None and function == "none":
            raise ValueError("a threshold needs scores from 0 to 1: leave it out, or apply a sigmoid or a softmax")
        window_scores, recording_scores = self.score_windows(model_outputs, function, aggregate)
        names = [config.id2label[index] for index in range(window_scores.shape[1])]
        chosen = getattr(config, "label_thresholds", None) or {}
        limits = np.array(
            [threshold if isinstance(threshold, Real) else chosen.get(name, 0.5) for name in names], dtype=np.float32
        )

        notes_of_windows, notes = self.find_contradictions(model_outputs, window_scores, aggregate)

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
        report = model_outputs[0]["report"]
        for warning in [] if report is None else report.warnings:
            logger.warning("%s: %s", model_outputs[0]["name"], warning)
        if not return_report:
            return labels
        return {"labels": labels, "report": None if report is None else report.to_dict()}


# As registering the task does: a pipeline that was loaded from a published folder can be saved to another one, too.
EcgClassificationPipeline._registered_impl = {
    TASK: {"impl": EcgClassificationPipeline, "pt": MODEL_CLASSES, "type": "audio"}
}


def _is_picture(inputs: Any) -> bool:
    if isinstance(inputs, (str, os.PathLike)):
        return Path(inputs).suffix.lower() in _PICTURE_SUFFIXES
    if isinstance(inputs, np.ndarray) or hasattr(inputs, "detach"):
        return inputs.ndim == 3 and inputs.shape[-1] in (3, 4)
    return hasattr(inputs, "convert") and hasattr(inputs, "getexif")  # as PIL.Image has


def _is_many(inputs: Any) -> bool:
    """Whether this is an iterator or a dataset of recordings, not one recording."""
    one = isinstance(inputs, (str, bytes, bytearray, os.PathLike, Mapping, np.ndarray)) or _is_picture(inputs)
    one = one or hasattr(inputs, "detach") or all(hasattr(inputs, field) for field in _FIELDS) or _is_table(inputs)
    return not one and (
        isinstance(inputs, Iterable) or (hasattr(inputs, "__getitem__") and hasattr(inputs, "__len__"))
    )


def _is_table(inputs: Any) -> bool:
    """Whether this is a `DataFrame`, of pandas or another library."""
    return hasattr(inputs, "columns") and hasattr(inputs, "to_numpy")


def _paths_of(table: Any) -> list[Any]:
    paths = table["path"].to_list()
    for row, path in enumerate(paths):
        if not isinstance(path, (str, os.PathLike)) or not str(path):
            raise ValueError(
                f"row {row} of the table, counted from 0, has no path: fill the column `path` in every row"
            )
    return paths


def _samples_of(table: Any) -> dict[str, Any]:
    """A table of samples as a recording; columns without names of their own say no lead names."""
    names = list(table.columns)
    waveform = table.to_numpy().T
    if not names or waveform.dtype.kind not in "iuf":
        raise ValueError(
            "a table of one recording holds numbers only, one column per lead, and a table of several has a column "
            f"`path`; this one has {', '.join(map(str, names)) or 'no columns'}"
        )
    return {"waveform": waveform, "lead_names": names if _are_strings(names) else None}


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


def _as_recording(inputs: Any, read: Callable[[Any], dict[str, Any]]) -> tuple[dict[str, Any], str]:
    """What is known of a recording, and what to call it in an error."""
    if isinstance(inputs, (str, os.PathLike)):
        recording = read(Path(inputs))
        return {field: recording[field] for field in _FIELDS}, str(inputs)
    if isinstance(inputs, Mapping):
        if inputs.get("waveform") is None:
            keys = ", ".join(map(repr, inputs)) or "nothing"
            raise ValueError(f'a dict that holds {keys} and no "waveform" is no recording: give {ACCEPTED}')
        return {field: inputs.get(field) for field in _FIELDS}, ""
    if isinstance(inputs, np.ndarray) or hasattr(inputs, "detach"):
        return {"waveform": inputs}, ""
    if _is_table(inputs):
        return _samples_of(inputs), ""
    if hasattr(inputs, "record_name") and hasattr(inputs, "sig_name"):  # of wfdb
        inputs = _of_wfdb(inputs)
    if all(hasattr(inputs, field) for field in _FIELDS):
        return {field: getattr(inputs, field) for field in _FIELDS}, str(getattr(inputs, "record_id", None) or "")
    raise ValueError(f"{type(inputs).__name__} is no recording: give {ACCEPTED}")


def _checked_waveform(recording: Mapping[str, Any]) -> np.ndarray:
    """The samples as an array; whatever else the feature extractor would stumble over is refused."""
    waveform = recording["waveform"]
    if hasattr(waveform, "detach"):
        waveform = waveform.detach().cpu().float().numpy()
    try:
        waveform = np.asarray(waveform)
    except ValueError:
        raise ValueError(
            "the rows of the waveform are of different lengths: pass one of shape (leads, samples)"
        ) from None
    if waveform.ndim != 2:
        raise ValueError(
            f"the waveform has {waveform.ndim} dimension(s): pass one of shape (leads, samples), or a list of them"
        )
    rate: Any = recording.get("sampling_rate")
    names, unit = recording.get("lead_names"), recording.get("unit")
    if np.ndim(rate):
        raise ValueError("sampling_rate must be one number [Hz]")
    if names is not None and not _are_strings(names):
        raise ValueError("lead_names must be a list of names, one for each row of the waveform")
    if unit is not None and not isinstance(unit, str) and not _are_strings(unit):
        raise ValueError("unit must be one of mV, uV, V and NU, or a list of these with one for each row")
    return waveform


def _are_strings(values: Any) -> bool:
    if isinstance(values, str) or not isinstance(values, (Sequence, np.ndarray)):
        return False
    return all(isinstance(value, str) for value in values)


def _of_wfdb(record: Any) -> SimpleNamespace:
    """What a `wfdb.Record` holds: its physical samples, or the digital ones in the header's units."""
    samples = getattr(record, "p_signal", None)
    needed = ("d_signal", "adc_gain", "baseline", "fmt")
    if samples is None and all(getattr(record, name, None) is not None for name in needed):
        samples = record.dac()
    if samples is None:
        raise ValueError(
            f"the wfdb record {record.record_name or ''} holds no samples of one rate for all leads: read it with "
            "`wfdb.rdrecord(path)`, whose defaults give them"
        )
    return SimpleNamespace(
        waveform=np.ascontiguousarray(samples.T, dtype=np.float32),
        sampling_rate=record.fs,
        lead_names=record.sig_name,
        unit=record.units,
        record_id=record.record_name,
    )


def _apply(function: str, logits: np.ndarray) -> np.ndarray:
    """Scores of logits of shape `(num_windows, num_labels)`."""
    if function == "sigmoid":
        small = np.exp(-np.abs(logits))
        return np.where(logits >= 0, 1 / (1 + small), small / (1 + small))
    if function == "softmax":
        exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
        return exponentials / exponentials.sum(axis=1, keepdims=True)
    return logits
