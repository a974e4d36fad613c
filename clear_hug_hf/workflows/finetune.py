"""Fine-tuning of a classifier on labeled recordings, beside one from a randomly initialized encoder."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..systems import head_types
from ..training.arguments import FinetuningArguments
from .calibrate import describe_calibration, write_calibration
from .shared import (
    LABELED_HELP,
    CacheArguments,
    choose_labels,
    draw_first_prediction,
    draw_recording,
    draw_roc_curves,
    interval,
    is_main_process,
    max_samples_field,
    model_field,
    output_dir_field,
    prepare_splits,
    print_metrics,
    quiet_libraries,
    read_source,
    require_splits,
    resumable,
    say,
    say_unused_devices,
)


if TYPE_CHECKING:
    import datasets

    from ..data.records import Rejected
    from ..evaluation.predictions import Predictions


_CONTROL = "control"
CROSS_VALIDATION = "cross_validation"
"""Key of the metrics of the recordings of all folds, in place of those of a split."""
_CHOSEN = dict.fromkeys(("frozen", "full", "lora"), "best_epoch") | {"logistic": "strength"}
"""Field of a result that is chosen by validation, by method."""
_THRESHOLDS_OF = {"validation": "validation recordings", CROSS_VALIDATION: "recordings"}
_RUN_NAMES = {"pretrained": "pre-trained encoder", "random_initialization": "randomly initialized"}


@dataclass(kw_only=True)
class FinetuneArguments(CacheArguments):
    """Model, recordings and output of a fine-tuning run; [`FinetuningArguments`] holds its recipe."""

    data: Path = field(metadata={"help": LABELED_HELP, "metavar": "DATA"})
    model: Path = model_field("A model folder, the output of `clear-hug pretrain`")
    output_dir: Path = output_dir_field("runs/finetuned")
    labels: list[str] | None = field(
        default=None,
        metadata={"help": "Labels to train on (default: all; required for a CSV table).", "metavar": "NAME"},
    )
    head_type: str | None = field(
        default=None,
        metadata={
            "help": "Head of the classifier; mean on a frozen encoder is the linear probe (default: the usual head of "
            "the model's system).",
            "choices": head_types(),
        },
    )
    rhythm_features: bool = field(
        default=False,
        metadata={
            "help": "Also classify by the rhythm: a linear map from heart rate, variability, irregularity, early "
            "beats and pauses of the window, whose logits are added to those of the head. Not part of the "
            "papers."
        },
    )
    min_positives: int = field(
        default=1,
        metadata={
            "help": "Without --labels: skip labels with fewer than N positive or negative training recordings, in any "
            "fold.",
            "gt": 0,
        },
    )
    folds: int | None = field(
        default=None,
        metadata={
            "help": "Cross-validate by patient in N folds of the training and validation recordings, report the "
            "metrics of these predictions, and train on all recordings.",
            "ge": 2,
            "metavar": "N",
        },
    )
    control: bool = field(default=True, metadata={"help": "Also train the model from a randomly initialized encoder."})
    calibrate: bool = field(
        default=True,
        metadata={
            "help": "Calibrate the probabilities, by one scale of all logits or by a scale and an offset for each "
            "label, if the log loss on held-out recordings is lower for it in a cross-validation by patient."
        },
    )
    familiarity: bool = field(
        default=False,
        metadata={
            "help": "Also save what the encoder's features of the training recordings look like, so that predictions "
            "of recordings that are unlike them are marked."
        },
    )
    restart: bool = field(default=False, metadata={"help": "Start over if the output folder holds a run."})
    max_samples: int | None = max_samples_field()


@dataclass(frozen=True)
class FinetuneResult:
    """Metrics as in `metrics.json`, and the recordings that failed."""

    metrics: dict[str, Any]
    rejected: list[Rejected]


def finetune(arguments: FinetuneArguments, training: FinetuningArguments) -> FinetuneResult:
    """
    Fine-tune a model on the labeled recordings of a folder or table, and write it with its metrics and pictures.

    Raises:
        InputError: If the recordings, labels or head do not match the model, or the folder holds another run.
    """
    from ..processing.errors import InputError
    from ..training.cross_validation import CROSS_VALIDATION_RUN
    from ..training.finetuning import FINETUNING_RUN
    from ..training.folders import check_heads, find_model_folder
    from ..utils.files import check_writable

    marks = [FINETUNING_RUN, CROSS_VALIDATION_RUN]
    check_writable(arguments.output_dir, marks, [arguments.data, arguments.model])
    folder = find_model_folder(arguments.model)
    if training.method == "logistic":
        if arguments.head_type not in (None, "mean"):
            raise InputError(
                f"a logistic regression is solved for the head mean: leave out --head-type {arguments.head_type}"
            )
        arguments = replace(arguments, head_type="mean")
    if arguments.head_type is not None:
        check_heads(folder, [arguments.head_type])
    extractor, sets, label_names, about, rejected = _read_for_finetuning(arguments, folder)
    if arguments.familiarity:
        from ..training.familiarity import check_enough

        fitted = _fitted_recordings(sets, arguments.folds)
        check_enough(fitted["record_id"], fitted["patient_id"])
    with resumable("from the last epoch", arguments.restart):
        metrics = finetune_and_report(arguments, training, folder, extractor, sets, label_names, about)
    return FinetuneResult(metrics, rejected)


def _read_for_finetuning(
    arguments: FinetuneArguments, folder: Path
) -> tuple[Any, dict[str, datasets.Dataset], list[str], dict[str, Any], list[Rejected]]:
    """The feature extractor, the recordings by split, their labels and description, and those that failed."""
    from ..data.model_files import extractor_settings, load_feature_extractor
    from ..data.prepared import check_independent_labels, match_prepared
    from ..processing.rhythm import RHYTHM_FEATURES
    from ..training.finetuning import check_datasets
    from ..training.provenance import count_sets

    sources = read_source(arguments.data, arguments.max_samples, label_columns=arguments.labels or ())
    if sources.prepared is not None:
        check_independent_labels(sources.prepared)
    quiet_libraries()
    say_unused_devices("use all with `accelerate launch --num_processes {count} -m clear_hug_hf.cli finetune ...`")
    extractor = load_feature_extractor(folder)
    extractor = extractor.replace(rhythm_features=RHYTHM_FEATURES if arguments.rhythm_features else ())
    if sources.prepared is not None:
        before, extractor = extractor_settings(extractor), match_prepared(sources.prepared, extractor)
        after = extractor_settings(extractor)
        if changes := [f"{name}={value}" for name, value in after.items() if before[name] != value]:
            say(f"the classifier adopts the preprocessing of {arguments.data}: {', '.join(changes)}")
    label_names = choose_labels(
        None if sources.is_table else arguments.labels, sources.label_names, f"the recordings of {arguments.data}"
    )
    sets, rejected = prepare_splits(sources, extractor, label_names)
    require_splits(sets, rejected, "train", "validation")
    excluded_labels: list[str] = []
    if arguments.labels is None:
        sets, label_names, excluded_labels = drop_rare_labels(
            sets, label_names, arguments.min_positives, arguments.folds
        )
    check_datasets(sets["train"], sets["validation"], label_names, allow_absent_labels=arguments.folds is not None)
    about = {**sources.about, "sets": count_sets(sets)}
    if excluded_labels:
        about["excluded_labels"] = {"labels": excluded_labels, "fewer_than": arguments.min_positives}
    return extractor, sets, label_names, about, rejected


def drop_rare_labels(
    sets: dict[str, datasets.Dataset], label_names: list[str], min_positives: int = 1, num_folds: int | None = None
) -> tuple[dict[str, datasets.Dataset], list[str], list[str]]:
    """
    Drop labels with fewer than `min_positives` positive or negative training recordings, in any of the folds of a
    cross-validation, unless no label remains.

    Returns:
        `tuple`: The sets and the names of the labels that remain, and the names of those that were dropped.

    Raises:
        InputError: If `min_positives` is greater than 1 and no label remains.
    """
    from ..data.prepared import select_labels
    from ..processing.errors import InputError
    from ..training.cross_validation import split_folds
    from ..training.features import dataset_labels
    from ..training.finetuning import absent_labels

    rare: list[str] = []
    remaining = list(label_names)
    while remaining:
        trained = [sets["train"]]
        if num_folds is not None:
            recordings = select_labels(_all_labeled(sets), remaining)
            # Without a label, the others may have other folds.
            trained = [recordings.select(rows["train"]) for rows in split_folds(recordings, num_folds)]
        labels = [dataset_labels(dataset, remaining) for dataset in trained]
        new = {name for part in labels for name in absent_labels(part, remaining, min_positives)}
        if not new:
            break
        rare, remaining = rare + [name for name in remaining if name in new], [n for n in remaining if n not in new]
    rare.sort(key=label_names.index)
    if rare and not remaining and min_positives > 1:
        raise InputError(
            f"no label has {min_positives} positive and {min_positives} negative training recordings: lower "
            "--min-positives"
        )
    if not rare or not remaining:
        return sets, label_names, []
    say(f"skipped labels with fewer than {min_positives} positive or negative training recordings: {', '.join(rare)}")
    return {split: select_labels(dataset, remaining) for split, dataset in sets.items()}, remaining, rare


def _all_labeled(sets: dict[str, datasets.Dataset]) -> datasets.Dataset:
    """The recordings that a cross-validation divides: those for training and validation, never those for testing."""
    import datasets

    return datasets.concatenate_datasets([sets["train"], sets["validation"]])


def _fitted_recordings(sets: dict[str, datasets.Dataset], num_folds: int | None) -> datasets.Dataset:
    """The recordings that the saved model is trained on."""
    return sets["train"] if num_folds is None else _all_labeled(sets)


def finetune_and_report(
    arguments: FinetuneArguments,
    training: FinetuningArguments,
    folder: Path,
    extractor: Any,
    sets: dict[str, datasets.Dataset],
    label_names: list[str],
    about: dict[str, Any],
) -> dict[str, Any]:
    """Fine-tune the model in `folder` on sets that `about` describes; write and return its metrics, with pictures."""
    from copy import deepcopy

    from transformers import set_seed

    from ..evaluation.calibration import calibrated
    from ..evaluation.predictions import auroc_difference, compute_metrics, predict
    from ..inference.classifier_outputs import model_thresholds
    from ..training import finetuning, folders, provenance
    from ..training.cross_validation import FOLDS, OUT_OF_FOLD, release, split_folds
    from ..utils.files import write_json

    if arguments.folds is None:
        release(arguments.output_dir, arguments.restart)
        release(arguments.output_dir / _CONTROL, arguments.restart)

    overrides: dict[str, Any] = {"rhythm_features": extractor.rhythm_features}
    if arguments.head_type is not None:
        overrides["head_type"] = arguments.head_type

    def load() -> Any:
        set_seed(training.seed)
        return folders.load_for_finetuning(folder, label_names, **overrides)[0]

    def initialize() -> Any:
        set_seed(training.seed)
        return type(model)(deepcopy(config))

    pretrained, control = _RUN_NAMES
    model = load()
    config = deepcopy(model.config)
    makers = {pretrained: load, **({control: initialize} if arguments.control else {})}
    models = {name: model if name == pretrained else make() for name, make in makers.items()}
    chosen_by = "validation" if arguments.folds is None else CROSS_VALIDATION
    held_out = [chosen_by, *(["test"] if "test" in sets else [])]
    metrics: dict[str, Any] = {
        "data": about,
        "labels": label_names,
        "head": config.head_type,
        **({"rhythm_features": config.rhythm_features} if config.rhythm_features else {}),
        "recipe": finetuning.recipe_settings(training),
        **({} if arguments.folds is None else {"folds": arguments.folds}),
        "selected_by": _selected_by(training.method, arguments.folds),
    }
    predictions: dict[tuple[str, str], Any] = {}
    for name, make_model in makers.items():
        models[name], metrics[name], cross_validated = _train(
            name, models[name], make_model, arguments, training, extractor, sets, about
        )
        if name == pretrained:
            _set_familiarity(models[name], arguments, sets, extractor)
        calibration = _calibrate(name, models[name], arguments, sets["validation"], extractor, cross_validated)
        if calibration is not None:
            metrics[name]["calibration"] = calibration
        if cross_validated is not None:
            cross_validated = calibrated(cross_validated, models[name].config.label_calibration)
        for split in held_out:
            predictions[name, split] = (
                cross_validated
                if split == CROSS_VALIDATION
                else predict(models[name], sets[split], extractor).by_recording()
            )
            thresholds = model_thresholds(models[name].config)
            metrics[name][split] = compute_metrics(predictions[name, split], thresholds, training.seed)
    if arguments.control:
        metrics["macro_auroc_difference"] = {
            split: auroc_difference(predictions[pretrained, split], predictions[control, split], training.seed)
            for split in held_out
        }
    if not is_main_process():
        return metrics
    metrics |= {"encoder": provenance.describe_encoder(folder), "environment": provenance.describe_environment()}
    write_json(arguments.output_dir / folders.METRICS, metrics)
    pictures, split = arguments.output_dir / "pictures", held_out[-1]
    title = _title(metrics, split)
    drawn, drawn_by = sets.get(split), models[pretrained]
    if drawn is None:
        # A recording of the first fold, by the model that was not trained on it.
        recordings = _all_labeled(sets)
        assert arguments.folds is not None
        drawn = recordings.select(split_folds(recordings, arguments.folds)[0]["test"])
        drawn_by, _ = folders.load_classifier(arguments.output_dir / FOLDS / "1")
        # Calibration and thresholds are those of the predictions of all folds.
        for name in ("label_calibration", "label_thresholds"):
            setattr(drawn_by.config, name, getattr(models[pretrained].config, name))
    _draw_results(drawn_by, drawn, extractor, predictions[pretrained, split], title, pictures)
    _draw_reconstruction(folder, drawn, extractor, pictures / "reconstruction.png")
    _print_results(metrics, held_out)
    output = arguments.output_dir
    written = [output / "model", output / "metrics.json", pictures]
    written += [] if arguments.folds is None else [output / OUT_OF_FOLD]
    say(f"\nwritten: {', '.join(map(str, written))}")
    return metrics


def _selected_by(method: str, num_folds: int | None) -> str:
    """How a model is selected, and after a semicolon, which metrics are optimistic for it."""
    chosen = "strength of the penalty" if method == "logistic" else "epoch"
    if num_folds is None:
        return (
            f"best validation macro AUROC ({chosen}) and best validation F1 (thresholds); validation metrics are "
            "optimistic"
        )
    how = (
        "strength of the penalty with the best mean macro AUROC of the folds, for each fold of the other folds"
        if method == "logistic"
        else "median of the folds' epochs with the best macro AUROC, each on a tenth of the other folds"
    )
    return (
        f"{num_folds}-fold cross-validation by patient ({how}, and thresholds with the best F1 on the "
        "predictions of all folds); cross-validated F1 and calibration error are optimistic"
    )


def _title(metrics: dict[str, Any], split: str) -> str:
    """The recordings that metrics are of."""
    count = metrics["pretrained"][split]["num_recordings"]
    if split == CROSS_VALIDATION:
        return f"{count} recordings, cross-validated in {metrics['folds']} folds"
    return f"{count} {split} recordings"


def _train(
    name: str,
    model: Any,
    make_model: Callable[[], Any],
    arguments: FinetuneArguments,
    training: FinetuningArguments,
    extractor: Any,
    sets: dict[str, datasets.Dataset],
    about: dict[str, Any],
) -> tuple[Any, dict[str, Any], Any]:
    """
    Train the classifier of a run in its folder, or the same ones that `make_model` makes for the folds; returns it,
    what was chosen, and the predictions of the folds.
    """
    from ..training import cross_validation, finetuning

    head = f"fine-tuning the {model.config.head_type} head"
    verb = {
        "frozen": head,
        "full": "fine-tuning all weights",
        "lora": "fine-tuning the head and LoRA",
        "logistic": "fitting a logistic regression",
    }[training.method]
    splits = ["train"] if arguments.folds is None else ["train", "validation"]
    count = sum(about["sets"][split]["recordings"] for split in splits)
    folds = "" if arguments.folds is None else f" in {arguments.folds} folds, then on all"
    say(f"\n{verb} on {count} recordings{folds} ({_RUN_NAMES[name]})")
    output = arguments.output_dir if name == "pretrained" else arguments.output_dir / _CONTROL
    where: dict[str, Any] = {"cache_dir": arguments.cache_dir, "restart": arguments.restart}
    predictions = None
    if arguments.folds is None:
        result = finetuning.finetune(model, sets["train"], sets["validation"], extractor, output, training, **where)
        by_fold: dict[str, Any] = {}
    else:
        crossed = cross_validation.finetune_in_folds(
            make_model, _all_labeled(sets), extractor, output, training, arguments.folds, **where, say=say
        )
        result, predictions = crossed.result, crossed.out_of_fold.predictions
        areas = [None if area != area else area for area in crossed.out_of_fold.macro_aurocs]
        by_fold = {f"{_CHOSEN[training.method]}_by_fold": crossed.by_fold, "macro_auroc_by_fold": areas}
    if result.finished_before:
        say(f"{output} already holds this run: nothing was trained (--restart trains again)")
    name = _CHOSEN[training.method]
    return result.model, {name: getattr(result, name), **by_fold}, predictions


def _calibrate(
    name: str,
    model: Any,
    arguments: FinetuneArguments,
    validation: datasets.Dataset,
    extractor: Any,
    cross_validated: Predictions | None,
) -> dict[str, Any] | None:
    """Calibrate the classifier of a run on held-out predictions, also in its folder; returns what was chosen."""
    from ..evaluation.calibration import METHODS, calibrate, remove_calibration
    from ..evaluation.predictions import predict
    from ..training.pretraining import MODEL_FOLDER

    if not arguments.calibrate and model.config.label_calibration is None:
        return None
    # The folder of a finished run may have a calibration.
    remove_calibration(model.config)
    held_out = predict(model, validation, extractor).by_recording() if cross_validated is None else cross_validated
    fit = calibrate(model, held_out, METHODS if arguments.calibrate else METHODS[:1])
    if is_main_process():
        output = arguments.output_dir if name == "pretrained" else arguments.output_dir / _CONTROL
        write_calibration(output / MODEL_FOLDER, model.config)
    if not arguments.calibrate:
        return None
    say(f"{describe_calibration(fit)} ({_RUN_NAMES[name]})")
    return fit.to_dict()


def _set_familiarity(
    model: Any, arguments: FinetuneArguments, sets: dict[str, datasets.Dataset], extractor: Any
) -> None:
    """Let a classifier mark recordings that are unlike its training recordings, or not, and save it if it changes."""
    from ..data.collator import EcgCollator
    from ..inference.classifier_outputs import familiarity_threshold, model_label_names
    from ..training.familiarity import fit_familiarity, remove_familiarity
    from ..training.features import encode
    from ..training.folders import save_model_folder
    from ..training.pretraining import MODEL_FOLDER

    # The folder of a finished run may have it already.
    if arguments.familiarity == (model.config.familiarity is not None):
        return
    if arguments.familiarity:
        training = _fitted_recordings(sets, arguments.folds)
        collator = EcgCollator(extractor, label_names=model_label_names(model.config))
        encoded, held_out = (
            None if dataset is None else encode(model, dataset, collator, cache_dir=arguments.cache_dir)
            for dataset in (training, sets["validation"] if arguments.folds is None else None)
        )
        assert encoded is not None
        fit_familiarity(model, encoded, training["record_id"], training["patient_id"], held_out)
        say(f"unlike the training recordings: a distance above 1, {familiarity_threshold(model.config.familiarity)}")
    else:
        remove_familiarity(model)
    if is_main_process():
        save_model_folder(arguments.output_dir / MODEL_FOLDER, model, extractor)


def _draw_results(
    model: Any, dataset: datasets.Dataset, extractor: Any, evaluated: Any, title: str, pictures: Path
) -> None:
    """Draw a recording of a dataset and its prediction, and ROC curves and contributions of all predictions."""
    from ..evaluation.predictions import contributions_by_label, predict
    from ..inference.classifier_outputs import group_names, model_thresholds
    from ..plotting import plot_group_activations, save_figure

    draw_recording(dataset, pictures / "recording.png")
    # The picture shows the first window, so predict that window and not the recording.
    first = dataset.select([0])
    draw_first_prediction(model, first, predict(model, first, extractor), pictures / "prediction.png")
    draw_roc_curves(evaluated, model_thresholds(model.config), title, pictures / "roc.png")
    if evaluated.contributions is not None:
        figure = plot_group_activations(
            contributions_by_label(evaluated),
            evaluated.label_names,
            group_names(model.config),
            f"Contribution of leads to each label ({title}, mean with the label minus mean without)",
        )
        save_figure(figure, pictures / "group_activations.png")


def _draw_reconstruction(folder: Path, dataset: datasets.Dataset, extractor: Any, path: Path) -> None:
    """Draw a recording of a dataset as the pre-trained model in `folder` reconstructs it, if it has a decoder."""
    from ..systems import load, system_of
    from ..training import folders

    if folders.has_decoder(folder):
        decoder, _ = folders.load_pretrained(folder)
        if (picture := system_of(decoder).picture) is not None:
            load(picture)(decoder, dataset, extractor, path)


def _print_results(metrics: dict[str, Any], held_out: Sequence[str]) -> None:
    """Print the macro AUROC of each run, labels with uncertain thresholds, and a table of the last split."""
    for split in held_out:
        say(f"\nmacro AUROC on {_title(metrics, split)} (95 % interval over patients):")
        for name, title in _RUN_NAMES.items():
            if name in metrics:
                say(f"  {title:24s} {interval(metrics[name][split]['macro_auroc'])}")
        if "macro_auroc_difference" in metrics:
            say(f"  {'difference':24s} {interval(metrics['macro_auroc_difference'][split], sign=True)}")
        if split == "validation":
            say("  (optimistic: the epoch and the thresholds were chosen on these recordings)")
    per_label = metrics["pretrained"][held_out[0]]["per_label"]
    if rare := [name for name, metric in per_label.items() if metric["num_positive"] < 10]:
        say(f"\nuncertain thresholds, from fewer than 10 positive {_THRESHOLDS_OF[held_out[0]]}: {', '.join(rare)}")
    print_metrics(metrics["pretrained"][held_out[-1]])
