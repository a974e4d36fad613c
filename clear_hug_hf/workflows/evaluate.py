"""Metrics of a classifier on labeled recordings, from its own source or another."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ..data.label_sets import LABEL_MAPS
from ..processing.errors import InputError
from ..utils.arguments import Arguments
from .shared import (
    LABELED_HELP,
    Sources,
    choose_labels,
    draw_roc_curves,
    load_on_device,
    max_samples_field,
    model_field,
    overwrite_field,
    prepare_splits,
    read_source,
    require_splits,
    say,
    seed_field,
)


if TYPE_CHECKING:
    import numpy as np

    from ..data.records import Rejected
    from ..evaluation.predictions import LabeledPredictions, Predictions


_PICTURE = "roc.png"


@dataclass(kw_only=True)
class EvaluateArguments(Arguments):
    """Model and recordings to evaluate, and the mapping of their labels."""

    data: Path = field(metadata={"help": LABELED_HELP, "metavar": "DATA"})
    model: Path = model_field("Output of `clear-hug finetune`")
    split: Literal["train", "validation", "test", "all"] | None = field(
        default=None,
        metadata={
            "help": "Split to evaluate (default: test, or validation if the data has no test recordings); a CSV table "
            "without splits is split as by `finetune`, and `all` is for a table of other patients."
        },
    )
    labels: list[str] | None = field(default=None, metadata={"help": "Labels to evaluate (default: all of the data)."})
    map: list[str] | None = field(
        default=None,
        metadata={
            "help": "Labels of the data, each with the model's label or labels (joined by +) of the same meaning; or "
            f"a predefined mapping: {', '.join(LABEL_MAPS)}.",
            "metavar": "DATA=MODEL",
        },
    )
    compare_with: Path | None = field(
        default=None,
        metadata={"help": "Labeled recordings from the source that the model was trained on.", "metavar": "DATA"},
    )
    output: Path | None = field(
        default=None, metadata={"help": "JSON file to write the metrics to.", "metavar": "FILE"}
    )
    pictures: Path | None = field(
        default=None, metadata={"help": "Folder for ROC curves with confusion matrices.", "metavar": "DIR"}
    )
    overwrite: bool = overwrite_field("any metrics or picture of the same name")
    batch_size: int = field(
        default=64,
        metadata={
            "help": "Rows of a prepared folder per batch; larger batches are faster on a GPU and change the last "
            "digits.",
            "gt": 0,
        },
    )
    max_samples: int | None = max_samples_field()
    seed: int = seed_field("Seed of the bootstrap.")


@dataclass(frozen=True)
class EvaluateResult:
    """
    Metrics as written to `output`, the labels and probabilities that they were computed from, those of
    `compare_with` (`reference`), files that were written, and recordings that failed.
    """

    metrics: dict[str, Any]
    predictions: LabeledPredictions
    reference: LabeledPredictions | None
    written: list[Path]
    rejected: list[Rejected]


def evaluate(
    arguments: EvaluateArguments,
    on_metrics: Callable[[dict[str, Any], LabeledPredictions], None] = lambda metrics, predictions: None,
) -> EvaluateResult:
    """
    Evaluate a classifier on labeled recordings.

    Args:
        arguments ([`EvaluateArguments`]): What is evaluated on what.
        on_metrics (`Callable`, *optional*): Receives the metrics and predictions before `compare_with` is read.

    Raises:
        InputError: If an output exists, or labels, splits or recordings do not match the model.
    """
    from ..evaluation.predictions import auroc_drop, compute_metrics
    from ..inference.classifier_outputs import model_label_names
    from ..training.folders import load_classifier
    from ..utils.files import check_file, check_picture_folder, write_json

    check_file(arguments.output, arguments.overwrite, (arguments.data, arguments.compare_with, arguments.model))
    check_picture_folder(arguments.pictures, [_PICTURE], arguments.overwrite)
    model, extractor = load_on_device(load_classifier, arguments.model)
    mapping = _label_mapping(arguments.map, model_label_names(model.config))
    predictions, rejected = _evaluate_source(arguments, arguments.data, model, extractor, mapping)
    metrics: dict[str, Any] = {
        "data": str(arguments.data),
        "split": predictions.split,
        "model": str(arguments.model),
        **compute_metrics(predictions, predictions.thresholds, arguments.seed),
    }
    if mapping is not None:
        metrics["mapping"] = {name: list(mapping[name]) for name in predictions.label_names}
    on_metrics(metrics, predictions)
    reference = None
    if arguments.compare_with is not None:
        reference, rejected_reference = _evaluate_source(
            arguments, arguments.compare_with, model, extractor, mapping, is_reference=True
        )
        rejected += rejected_reference
        metrics["loss"] = auroc_drop(predictions, reference, seed=arguments.seed)
        if not metrics["loss"]["labels"]:
            raise InputError(
                "no label has positive and negative recordings in both sources: there is nothing to compare"
            )
    written = []
    if arguments.pictures is not None:
        title = f"{describe_recordings(predictions)} of {arguments.data.name}"
        if draw_roc_curves(predictions, predictions.thresholds, title, arguments.pictures / _PICTURE):
            written.append(arguments.pictures / _PICTURE)
    if arguments.output is not None:
        write_json(arguments.output, metrics)
        written.append(arguments.output)
    return EvaluateResult(metrics, predictions, reference, written, rejected)


def describe_recordings(predictions: LabeledPredictions) -> str:
    """Number and split of the recordings that were evaluated."""
    split = "" if predictions.split == "all" else f"{predictions.split} "
    return f"{len(predictions.labels)} {split}recordings"


def _label_mapping(pairs: Sequence[str] | None, model_names: Sequence[str]) -> dict[str, tuple[str, ...]] | None:
    """Labels of the data, each with the labels of the model of the same meaning."""
    if pairs is None:
        return None
    known = ", ".join(model_names)
    mapping: dict[str, tuple[str, ...]] = {}
    for pair in pairs:
        if pair in LABEL_MAPS:
            # A model may have only some of the labels of a predefined mapping.
            mapping |= {name: targets for name, targets in LABEL_MAPS[pair].items() if set(targets) <= {*model_names}}
            continue
        label, separator, joined = pair.partition("=")
        if not separator:
            raise InputError(f"{pair!r} is not a mapping: use DATA=MODEL, or one of {', '.join(LABEL_MAPS)}")
        if not label:
            raise InputError(f"{pair!r} names no label of the data: use DATA=MODEL")
        mapping[label] = tuple(joined.split("+"))
        if unknown := [name for name in mapping[label] if name not in model_names]:
            raise InputError(f"the model has no label {unknown[0]!r}: its labels are {known}")
    if not mapping:
        raise InputError(f"the model has none of the labels of {', '.join(pairs)}: its labels are {known}")
    return mapping


def _evaluate_source(
    arguments: EvaluateArguments,
    data: Path,
    model: Any,
    extractor: Any,
    mapping: Mapping[str, tuple[str, ...]] | None,
    is_reference: bool = False,
) -> tuple[LabeledPredictions, list[Rejected]]:
    """Predict a source. The reference uses the model's label names, other sources those of the mapping."""
    from ..evaluation.predictions import map_predictions
    from ..inference.classifier_outputs import model_label_names, model_thresholds

    if mapping is None:
        mapping = {name: (name,) for name in model_label_names(model.config)}
    if arguments.labels is not None:
        choose_labels(arguments.labels, list(mapping), f"the model in {arguments.model}, or the mapping to it")
        mapping = {name: mapping[name] for name in arguments.labels}
    columns_of = {name: targets if is_reference else (name,) for name, targets in mapping.items()}
    wanted = list(dict.fromkeys(name for names in columns_of.values() for name in names))
    sources = read_source(data, arguments.max_samples, label_columns=wanted, allow_missing=True)
    choose_labels(None if is_reference else arguments.labels, sources.label_names, f"the recordings of {data}")
    available = sources.label_names or []
    known = [name for name in wanted if name in available]
    if arguments.labels is None and (unknown := [name for name in available if name not in wanted]):
        listed = ", ".join(unknown[:10]) + (f" and {len(unknown) - 10} more" if len(unknown) > 10 else "")
        say(f"labels of {data} that the model does not have are not evaluated: {listed}")
    mapped = [] if is_reference else [pair.partition("=")[0] for pair in arguments.map or () if "=" in pair]
    if absent := [name for name in mapped if name not in known and name in wanted]:
        raise InputError(f"the recordings of {data} have no label {absent[0]!r}: they have {', '.join(available)}")
    if not known:
        raise InputError(f"the recordings of {data} have none of the labels {', '.join(wanted)}")
    # The reference never includes recordings that the model was trained on.
    split = (None if is_reference else arguments.split) or ("test" if "test" in sources.splits else "validation")
    if split != "all":
        if split not in sources.splits:
            hint = "" if is_reference else "; choose another with --split"
            raise InputError(f"{data} has no {split} recordings: it has {', '.join(sources.splits)}{hint}")
        sources.splits = {split: sources.splits[split]}
    predictions, labels, rejected = predict_sources(sources, model, extractor, known, arguments.batch_size)
    mapping = {name: targets for name, targets in mapping.items() if set(columns_of[name]) <= set(known)}
    thresholds = model_thresholds(model.config)
    return map_predictions(predictions, labels, known, thresholds, mapping, is_reference, split), rejected


def predict_sources(
    sources: Sources, model: Any, extractor: Any, label_names: list[str], batch_size: int
) -> tuple[Predictions, np.ndarray, list[Rejected]]:
    """Predictions and labels, with a row per recording, and the recordings that failed."""
    import numpy as np
    from datasets import concatenate_datasets

    from ..data.prepared import select_labels
    from ..data.splits import group_by_recording
    from ..evaluation.predictions import predict, predict_recordings
    from ..training.features import dataset_labels

    if sources.prepared is None:
        records = [record for records in sources.splits.values() for record in records]
        predictions, used, rejected = predict_recordings(model, records, extractor, progress=True)
        require_splits({record.split for record in used}, rejected, *sources.splits)
        rows = [[(record.labels or {}).get(name, np.nan) for name in label_names] for record in used]
        labels = np.array(rows, dtype=float)
    else:
        sets, rejected = prepare_splits(sources, extractor, label_names)
        dataset = concatenate_datasets(list(sets.values()))
        predictions = predict(model, select_labels(dataset, None), extractor, batch_size, progress=True)
        labels = dataset_labels(dataset, label_names).numpy().astype(float)
    first_rows = group_by_recording(predictions.record_ids)[0]
    return predictions.by_recording(), labels[first_rows], rejected
