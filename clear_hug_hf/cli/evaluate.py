"""`clear-hug evaluate`: metrics of a fine-tuned model on labelled recordings."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .shared import (
    LABELLED_HELP,
    add_model_option,
    add_overwrite_option,
    add_verb,
    choose_labels,
    draw_roc_sheet,
    interval,
    load_on_device,
    positive,
    prepare_splits,
    print_metrics,
    read_source,
    report_rejected,
    require,
    say,
    seed,
)


if TYPE_CHECKING:
    from ..data.records import Rejected


_PICTURE = "roc.png"
_METRIC_NAMES = {
    "auroc": "AUROC",
    "average_precision": "average precision",
    "f1": "F1",
    "calibration_error": "calibration error",
}


def add(verbs: Any) -> None:
    """Add `evaluate` to the verbs of the command line."""
    from ..data.label_sets import LABEL_MAPS

    parser = add_verb(
        verbs,
        run,
        "metrics of a fine-tuned model on labelled recordings",
        "Macro and per-label AUROC, average precision, F1 at the model's thresholds and calibration error, with 95 %\n"
        "intervals over patients. Windows of one recording count once, with their mean probability. Labels of which\n"
        "only one class is present are named and left out.\n\n"
        "Recordings of another source may call their labels otherwise: --map says which label of the data is which\n"
        "of the model, or which several. With --compare-with, the same labels are evaluated on recordings of the\n"
        "model's own source, and the loss of AUROC is reported.\n\n"
        "examples:\n"
        "  clear-hug evaluate --data ptb-xl --model runs/superclasses\n"
        "  clear-hug evaluate --data ward.csv --model runs/ward --output ward_metrics.json --pictures pictures\n"
        "  clear-hug evaluate --data ward.csv --model runs/superclasses --map infarct=MI block=CD\n"
        "  clear-hug evaluate --data cpsc2018 --model runs/ptb-xl --map ptbxl-cpsc9 --compare-with ptb-xl",
    )
    parser.add_argument("--data", type=Path, required=True, metavar="DATA", help=LABELLED_HELP)
    add_model_option(parser, "output of `finetune`")
    parser.add_argument(
        "--split",
        choices=("train", "validation", "test", "all"),
        help="default: test, or validation where the data has no test recordings. A CSV table without splits is "
        "split as `finetune` splits it; `all` is for a table of other patients",
    )
    parser.add_argument("--labels", nargs="+", metavar="NAME", help="only these labels (default: all of the data)")
    parser.add_argument(
        "--map",
        nargs="+",
        metavar="DATA=MODEL",
        help="labels of the data and the model's label, or labels joined by +, that mean them; or a mapping by name: "
        + ", ".join(LABEL_MAPS),
    )
    parser.add_argument(
        "--compare-with", type=Path, metavar="DATA", help="labelled recordings of the source that the model is of"
    )
    parser.add_argument("--output", type=Path, metavar="FILE", help="write the metrics as JSON")
    parser.add_argument("--pictures", type=Path, metavar="DIR", help="draw ROC curves with confusion matrices")
    add_overwrite_option(parser, "metrics and picture")
    parser.add_argument("--limit", type=positive, metavar="N", help="use only the first N recordings of each split")
    parser.add_argument("--seed", type=seed, default=0, help="of the bootstrap (default: %(default)s)")


def run(arguments: argparse.Namespace) -> int:
    """Run `evaluate` and return the exit status."""
    from ..training.folders import load_classifier
    from ..utils.files import check_file, check_picture_folder, write_json

    read = (arguments.data, arguments.compare_with, arguments.model)
    check_file(arguments.output, arguments.overwrite, read)
    check_picture_folder(arguments.pictures, [_PICTURE], arguments.overwrite)
    model, extractor = load_on_device(load_classifier, arguments.model)

    from ..evaluation.predictions import compute_metrics
    from ..inference.classifier_outputs import model_label_names

    names = model_label_names(model.config)
    mapping = _label_mapping(arguments.map, names)
    found, rejected = _evaluated(arguments, arguments.data, model, extractor, mapping)
    metrics: dict[str, Any] = {
        "data": str(arguments.data),
        "split": found.split,
        "model": str(arguments.model),
        **compute_metrics(found, found.thresholds, arguments.seed),
    }
    if mapping is not None:
        metrics["mapping"] = {name: list(mapping[name]) for name in found.label_names}
    say(f"{metrics['num_recordings']} {found.split} recordings of {metrics['num_patients']} patients")
    if found.split in ("validation", "all", "train"):
        say("(of recordings that the model was trained or chosen on, the numbers are too good)")
    for name, title in _METRIC_NAMES.items():
        say(f"macro {title:18s} {interval(metrics[f'macro_{name}'])}")
    print_metrics(metrics)
    if arguments.compare_with is not None:
        own, more = _evaluated(arguments, arguments.compare_with, model, extractor, mapping, own=True)
        rejected += more
        metrics["loss"] = _print_loss(arguments, found, own)
    if arguments.pictures is not None:
        title = f"{metrics['num_recordings']} {found.split} recordings of {arguments.data.name}"
        path = arguments.pictures / _PICTURE
        if draw_roc_sheet(found, found.thresholds, title, path):
            say(f"\nwritten: {path}")
    if arguments.output is not None:
        write_json(arguments.output, metrics)
        say(f"\nwritten: {arguments.output}")
    return report_rejected(rejected)


def _label_mapping(given: Sequence[str] | None, names: Sequence[str]) -> dict[str, tuple[str, ...]] | None:
    """Labels of the data, each with the labels of the model that mean it."""
    from ..data.label_sets import LABEL_MAPS
    from ..processing import InputError
    from ..training.recipes import split_option

    if given is None:
        return None
    mapping: dict[str, tuple[str, ...]] = {}
    for text in given:
        if text in LABEL_MAPS:
            # A mapping by name is for a model with all labels: one with fewer is evaluated on what it has.
            mapping |= {k: v for k, v in LABEL_MAPS[text].items() if set(v) <= set(names)}
            continue
        try:
            label, of_model = split_option(text)
        except argparse.ArgumentTypeError:
            raise InputError(f"{text!r} is no mapping: give DATA=MODEL, or one of {', '.join(LABEL_MAPS)}") from None
        if not label:
            raise InputError(f"{text!r} names no label of the data: give DATA=MODEL")
        mapping[label] = tuple(of_model.split("+"))
        if unknown := [name for name in mapping[label] if name not in names]:
            raise InputError(f"the model has no label {unknown[0]!r}: it knows {', '.join(names)}")
    if not mapping:
        raise InputError(f"none of the labels of {', '.join(given)} is among the model's: it knows {', '.join(names)}")
    return mapping


def _evaluated(
    arguments: argparse.Namespace,
    data: Path,
    model: Any,
    extractor: Any,
    mapping: dict[str, tuple[str, ...]] | None,
    own: bool = False,
) -> tuple[Any, list[Rejected]]:
    """Labels and probabilities of a source; `own` if its labels are the model's, as those that are compared with."""
    import numpy as np
    from datasets import concatenate_datasets

    from ..data.prepared import select_labels
    from ..data.splits import group_by_recording
    from ..evaluation.predictions import map_predictions, predict, predict_recordings
    from ..inference.classifier_outputs import model_label_names, model_thresholds
    from ..processing import InputError
    from ..training.features import dataset_labels

    names = model_label_names(model.config)
    mapping = {name: (name,) for name in names} if mapping is None else mapping
    if arguments.labels is not None:
        choose_labels(arguments.labels, list(mapping), f"the model in {arguments.model}, or the mapping to it")
        mapping = {name: mapping[name] for name in arguments.labels}
    wanted = list(dict.fromkeys(name for of_model in mapping.values() for name in of_model)) if own else list(mapping)
    sources = read_source(data, arguments.limit, label_columns=wanted, known_only=True)
    choose_labels(None if own else arguments.labels, sources.label_names, f"the recordings of {data}")
    there = sources.label_names or []
    known = [name for name in wanted if name in there]
    if unknown := [name for name in there if name not in wanted and arguments.labels is None]:
        listed = ", ".join(unknown[:10]) + (f" and {len(unknown) - 10} more" if len(unknown) > 10 else "")
        say(f"labels of {data} that are not evaluated, since the model does not know them: {listed}")
    typed = [] if own else [text.partition("=")[0] for text in arguments.map or () if "=" in text]
    if absent := [name for name in typed if name not in known and name in wanted]:
        raise InputError(f"the recordings of {data} have no label {absent[0]!r}: they have {', '.join(there)}")
    if not known:
        raise InputError(f"the recordings of {data} have none of the labels {', '.join(wanted)}")
    # Of the model's own source never recordings that it was trained on.
    asked = None if own else arguments.split
    split = asked or ("test" if "test" in sources.splits else "validation")
    if split != "all" and split not in sources.splits:
        hint = "" if own else "; `--split` names others"
        raise InputError(f"{data} has no {split} recordings: it has {', '.join(sources.splits)}{hint}")
    if split != "all":
        sources.splits = {split: sources.splits[split]}
    if sources.prepared is None:
        records = [one for of_split in sources.splits.values() for one in of_split]
        found, used, rejected = predict_recordings(model, records, extractor, progress=True)
        require({one.split for one in used}, rejected, *sources.splits)
        truth = np.array([[(one.labels or {}).get(name, np.nan) for name in known] for one in used], dtype=float)
    else:
        sets, rejected = prepare_splits(sources, extractor, known)
        rows = concatenate_datasets(list(sets.values()))
        found = predict(model, select_labels(rows, None), extractor, progress=True)
        truth = dataset_labels(rows, known).numpy().astype(float)
    truth = truth[group_by_recording(found.record_ids)[0]]
    found = found.by_recording()
    mapping = {name: of_model for name, of_model in mapping.items() if set(of_model if own else (name,)) <= set(known)}
    thresholds = model_thresholds(model.config)
    return map_predictions(found, truth, known, thresholds, mapping, own, split), rejected


def _print_loss(arguments: argparse.Namespace, found: Any, own: Any) -> dict[str, Any]:
    """What is lost from the model's own source to another, over the labels that both have both classes of."""
    from ..evaluation.predictions import auroc_drop
    from ..processing import InputError

    loss = auroc_drop(found, own, seed=arguments.seed)
    if not loss["labels"]:
        raise InputError("no label has both classes in both sources: there is nothing to compare")
    say(f"\nof the labels {', '.join(loss['labels'])}, macro AUROC")
    say(f"  on {len(own.labels)} {own.split} recordings of {arguments.compare_with}: {interval(loss['own'])}")
    say(f"  on {len(found.labels)} {found.split} recordings of {arguments.data}: {interval(loss['other'])}")
    say(f"  lost: {interval(loss['lost'], sign=True)}")
    return loss
