"""Calibration of a finished classifier on labeled recordings."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ..utils.arguments import Arguments
from .shared import (
    LABELED_HELP,
    load_on_device,
    max_samples_field,
    model_field,
    output_dir_field,
    read_source,
)


if TYPE_CHECKING:
    from ..data.records import Rejected
    from ..evaluation.calibration import CalibrationFit


# They have results of the model before it was calibrated.
_LEFT_OUT = ("metrics.json", "README.md", ".eval_results")
_RUN_RESULTS = ("validation", "test", "cross_validation", "macro_auroc_by_fold", "calibration")


@dataclass(kw_only=True)
class CalibrateArguments(Arguments):
    """Classifier to calibrate, the recordings, and the output folder."""

    model: Path = model_field("Output of `clear-hug finetune`")
    data: Path = field(metadata={"help": LABELED_HELP, "metavar": "DATA"})
    split: Literal["validation", "test"] = field(
        default="validation", metadata={"help": "Split to fit the calibration and the thresholds on."}
    )
    output_dir: Path = output_dir_field(help="Model folder to write: the same weights with another config.json.")
    max_samples: int | None = max_samples_field()


@dataclass(frozen=True)
class CalibrateResult:
    """The calibration, and the recordings that failed."""

    fit: CalibrationFit
    rejected: list[Rejected]


def calibrate(arguments: CalibrateArguments) -> CalibrateResult:
    """
    Fit a calibration and thresholds, and write them with a copy of the model.

    Raises:
        InputError: If the output folder exists, labels, split or recordings do not match the model, the model
            was trained on the split, or there are recordings of fewer than five patients.
    """
    import shutil

    from ..evaluation import calibration
    from ..inference.classifier_outputs import model_label_names
    from ..processing.errors import InputError
    from ..training.folders import CALIBRATION, METRICS, find_model_folder, load_classifier
    from ..training.provenance import find_facts
    from ..utils.files import atomic_folder, check_writable, write_json
    from .evaluate import predict_sources

    folder = find_model_folder(arguments.model)
    output = check_writable(arguments.output_dir, inputs=[arguments.data, folder])
    if output.exists() and any(output.iterdir()):
        raise InputError(f"{output} exists and is not empty: choose another folder")
    facts = find_facts(folder)
    if arguments.split == "validation" and "folds" in facts.get(METRICS, {}):
        raise InputError(
            f"{arguments.model} was trained with --folds, on the validation recordings, too: use --split test"
        )
    model, extractor = load_on_device(load_classifier, folder)
    names = model_label_names(model.config)
    sources = read_source(arguments.data, arguments.max_samples, label_columns=names)
    if missing := [name for name in names if name not in (sources.label_names or ())]:
        raise InputError(f"the recordings of {arguments.data} have no label {missing[0]!r}, which the model has")
    if arguments.split not in sources.splits:
        raise InputError(f"{arguments.data} has no {arguments.split} recordings: it has {', '.join(sources.splits)}")
    sources.splits = {arguments.split: sources.splits[arguments.split]}
    calibration.remove_calibration(model.config)
    predictions, labels, rejected = predict_sources(sources, model, extractor, names, batch_size=64)
    predictions.labels = labels
    fit = calibration.calibrate(model, predictions)
    if not fit.log_loss:
        raise InputError(
            f"the {arguments.split} recordings of {arguments.data} are of fewer than {calibration.NUM_FOLDS} "
            "patients: that is too few for a calibration"
        )
    with atomic_folder(output) as partial:
        shutil.copytree(
            folder, partial, dirs_exist_ok=True, ignore=shutil.ignore_patterns(*_LEFT_OUT, ".git", ".cache")
        )
        write_calibration(partial, model.config)
        for name, content in facts.items():
            write_json(partial / name, _without_results(content) if name == METRICS else content)
        about = {"split": arguments.split, "data": sources.about, **fit.to_dict()}
        write_json(partial / CALIBRATION, about)
    return CalibrateResult(fit, rejected)


def _without_results(metrics: dict[str, Any]) -> dict[str, Any]:
    """What `metrics.json` records of the training, without results, which a calibration changes."""
    kept = {name: value for name, value in metrics.items() if name not in ("macro_auroc_difference", "measured")}
    for run in ("pretrained", "random_initialization"):
        if run in kept:
            kept[run] = {name: value for name, value in kept[run].items() if name not in _RUN_RESULTS}
    return kept


def write_calibration(folder: Path, config: Any) -> None:
    """Replace calibration and thresholds in the `config.json` of a folder by those of a config, atomically."""
    import json

    from ..utils.files import write_json

    path = folder / "config.json"
    saved = json.loads(path.read_text(encoding="utf-8"))
    changed = {"label_calibration": config.label_calibration, "label_thresholds": config.label_thresholds}
    saved = {name: value for name, value in {**saved, **changed}.items() if name != "label_calibration" or value}
    write_json(path, dict(sorted(saved.items())))


def describe_calibration(fit: CalibrationFit) -> str:
    """A sentence about the choice."""
    if not fit.log_loss:
        return "no calibration: there are recordings of fewer than five patients"
    methods = {
        "none": "no calibration",
        "temperature": "one scale of all logits",
        "labels": "a scale and an offset of each label's logit",
    }
    losses = ", ".join(f"{methods[name]} {loss:.4f}" for name, loss in fit.log_loss.items())
    return f"calibration: {methods[fit.method]} (cross-validated log loss: {losses})"
