"""Prediction of recordings and of pictures of ECG pages."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from .predict_pictures import PredictionPictures
from .predict_records import LabeledRecord, LabeledSpan
from .shared import (
    StatedArguments,
    choose_labels,
    is_main_process,
    load_on_device,
    model_field,
    overwrite_field,
    records_field,
    say,
)


if TYPE_CHECKING:
    import numpy as np

    from ..data.records import RecordReference
    from ..inference.records import RecordPrediction, Rejected


@dataclass(kw_only=True)
class PredictArguments(StatedArguments):
    """Recordings to predict, the model, its labels to show, and the outputs."""

    records: list[Path] = records_field(
        "Recordings, folders of them, CSV tables with a column `path`, pictures of pages, or folders of pictures."
    )
    model: Path = model_field("Output of `clear-hug finetune`")
    output: Path | None = field(
        default=None,
        metadata={
            "help": "CSV table to write instead of printing: a row per record (per window with --aggregate none), "
            "with the probability of each label and the labels predicted positive.",
            "metavar": "FILE",
        },
    )
    aggregate: Literal["mean", "max", "none"] | None = field(
        default=None,
        metadata={
            "help": "How the windows of a recording are combined; none reports each window (default: mean, or as the "
            "model's config states for each label)."
        },
    )
    pictures: Path | None = field(
        default=None,
        metadata={
            "help": "Folder for a picture of each record with its beats, labels and the contributing leads, or of "
            "each page as the model sees it.",
            "metavar": "DIR",
        },
    )
    overwrite: bool = overwrite_field("any table or picture of the same name")
    threshold: float | None = field(
        default=None,
        metadata={
            "help": "Probability from which a label is predicted positive (default: the model's threshold of each "
            "label, or 0.5).",
            "ge": 0.0,
            "le": 1.0,
            "metavar": "P",
        },
    )
    top_k: int | None = field(
        default=None, metadata={"help": "Show only the K most probable labels.", "gt": 0, "metavar": "K"}
    )
    labels: list[str] | None = field(default=None, metadata={"help": "Show only these labels."})


@dataclass(frozen=True)
class PredictResult:
    """Numbers of records and of rows of the table, and the records that failed."""

    num_records: int
    num_rows: int
    rejected: list[Rejected]


def predict(arguments: PredictArguments, on_record: Callable[[LabeledRecord], None] | None = None) -> PredictResult:
    """
    Predict the labels of recordings and pictures one by one.

    Args:
        arguments ([`PredictArguments`]): Inputs, model and outputs.
        on_record (`Callable[[LabeledRecord], None]`, *optional*): Called with each record as soon as it is predicted.

    Raises:
        InputError: If the output exists or is an input, or the model is not a classifier or does not have a label.
    """
    from tqdm.auto import tqdm

    from ..inference.classifier_outputs import (
        familiarity_note,
        model_aggregate,
        model_label_names,
        model_thresholds,
    )
    from ..inference.records import Rejected, check_is_classifier, predict_records
    from ..training.folders import load_classifier
    from ..utils.files import check_file, check_picture_folder, write_csv

    check_file(arguments.output, arguments.overwrite, [*arguments.records, arguments.model])
    check_picture_folder(arguments.pictures, overwrite=arguments.overwrite)
    model, extractor = load_on_device(load_classifier, arguments.model)
    check_is_classifier(model.config)
    names = model_label_names(model.config)
    shown_names = choose_labels(arguments.labels, names, f"the model in {arguments.model}")
    thresholds = dict(zip(names, model_thresholds(model.config), strict=True))
    if arguments.threshold is not None:
        thresholds = dict.fromkeys(names, arguments.threshold)
    inputs, rejected = _list_inputs(arguments)
    combination = arguments.aggregate or model_aggregate(model.config)
    pictures = None
    if arguments.pictures is not None:
        pictures = PredictionPictures(arguments.pictures, model, extractor, thresholds, combination)
    table: list[dict[str, Any]] = []
    num_records = 0
    predictions = predict_records(model, extractor, inputs, aggregate=arguments.aggregate)
    pairs = zip(inputs, predictions, strict=True)
    show_progress = arguments.output is not None and is_main_process()
    try:
        for source, prediction in tqdm(pairs, "predict", len(inputs), unit="rec", disable=not show_progress):
            if isinstance(prediction, Rejected):
                rejected.append(prediction)
                continue
            record = _label_record(prediction, thresholds, shown_names, arguments, combination)
            note = familiarity_note(model.config, prediction.distance)
            record = replace(record, distance=prediction.distance, unfamiliar=note)
            num_records += 1
            if arguments.output is not None:
                table += record.to_rows(shown_names)
            if on_record is not None:
                on_record(record)
            if pictures is not None:
                pictures.draw(source, prediction)
    except KeyboardInterrupt:
        if arguments.output is not None and table:
            write_csv(arguments.output, table)
            say(f"\nstopped: {arguments.output} contains the first {num_records} of {len(inputs)} record(s)")
        raise
    if arguments.output is not None and table:
        write_csv(arguments.output, table)
    return PredictResult(num_records, len(table), rejected)


def _list_inputs(arguments: PredictArguments) -> tuple[list[Path | RecordReference], list[Rejected]]:
    """Pictures and records at the paths, which the output must not replace, and the paths without any."""
    from ..inference.inputs import find_pictures, list_records
    from ..utils.files import check_file, check_picture_folder

    pages_of = {path: find_pictures(path) for path in arguments.records}
    pages = [page for pages in pages_of.values() for page in pages]
    paths = [path for path in arguments.records if not pages_of[path]]
    references, rejected = list_records(paths, arguments.stated)
    check_file(arguments.output, overwrite=True, inputs=(reference.path for reference in references))
    check_picture_folder(arguments.pictures, overwrite=True, inputs=pages)
    return [*pages, *references], rejected


def _label_record(
    prediction: RecordPrediction,
    thresholds: Mapping[str, float],
    shown_names: Sequence[str],
    arguments: PredictArguments,
    combination: str | list[str],
) -> LabeledRecord:
    """The labels to show, of a recording and of its windows."""

    def label_span(
        start: float, end: float, heart_rate: float | None, scores: np.ndarray, notes: Mapping[str, str]
    ) -> LabeledSpan:
        probabilities = {
            name: float(score) for name, score in zip(thresholds, scores, strict=True) if name in shown_names
        }
        ranked = sorted(probabilities, key=lambda name: -probabilities[name])[: arguments.top_k]
        positive = [name for name in ranked if probabilities[name] >= thresholds[name]]
        return LabeledSpan(
            start=round(start, 3),
            end=round(end, 3),
            heart_rate=None if heart_rate is None else round(heart_rate, 1),
            predicted_positive=positive,
            probabilities={name: probabilities[name] for name in ranked},
            notes={name: notes[name] for name in positive if name in notes},
        )

    windows = [
        label_span(window.place.start, window.place.end, window.heart_rate, window.probabilities, window.notes)
        for window in prediction.windows
    ]
    report, overall = prediction.report, None
    if prediction.probabilities is not None:
        start, end = windows[0].start, max(window.end for window in windows)
        heart_rate = None if report is None else report.heart_rate
        overall = label_span(start, end, heart_rate, prediction.probabilities, prediction.notes)
    return LabeledRecord(
        record_id=prediction.record_id,
        aggregate=combination if isinstance(combination, str) else "model",
        overall=overall,
        windows=windows,
        skipped=[{"start": round(start, 3), "end": round(end, 3)} for start, end in prediction.skipped],
        report=report,
        rotation=0 if prediction.page is None else prediction.page.rotation,
    )
