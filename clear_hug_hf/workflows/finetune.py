"""Fine-tuning of a classifier on labeled recordings, beside one from a randomly initialized encoder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..systems import head_types
from ..training.arguments import FinetuningArguments
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
    min_positives: int = field(
        default=1,
        metadata={
            "help": "Without --labels: skip labels with fewer than N positive or negative training recordings.",
            "gt": 0,
        },
    )
    control: bool = field(default=True, metadata={"help": "Also train the model from a randomly initialized encoder."})
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
    from ..training.finetuning import FINETUNING_RUN
    from ..training.folders import check_heads, find_model_folder
    from ..utils.files import check_writable

    check_writable(arguments.output_dir, [FINETUNING_RUN], [arguments.data, arguments.model])
    folder = find_model_folder(arguments.model)
    if arguments.head_type is not None:
        check_heads(folder, [arguments.head_type])
    extractor, sets, label_names, about, rejected = _read_for_finetuning(arguments, folder)
    with resumable("from the last epoch", arguments.restart):
        metrics = finetune_and_report(arguments, training, folder, extractor, sets, label_names, about)
    return FinetuneResult(metrics, rejected)


def _read_for_finetuning(
    arguments: FinetuneArguments, folder: Path
) -> tuple[Any, dict[str, datasets.Dataset], list[str], dict[str, Any], list[Rejected]]:
    """The feature extractor, the recordings by split, their labels and description, and those that failed."""
    from ..data.model_files import extractor_settings, load_feature_extractor
    from ..data.prepared import check_independent_labels, match_prepared
    from ..training.finetuning import check_datasets
    from ..training.provenance import count_sets

    sources = read_source(arguments.data, arguments.max_samples, label_columns=arguments.labels or ())
    if sources.prepared is not None:
        check_independent_labels(sources.prepared)
    quiet_libraries()
    say_unused_devices("use all with `accelerate launch --num_processes {count} -m clear_hug_hf.cli finetune ...`")
    extractor = load_feature_extractor(folder)
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
        sets, label_names, excluded_labels = drop_rare_labels(sets, label_names, arguments.min_positives)
    check_datasets(sets["train"], sets["validation"], label_names)
    about = {**sources.about, "sets": count_sets(sets)}
    if excluded_labels:
        about["excluded_labels"] = {"labels": excluded_labels, "fewer_than": arguments.min_positives}
    return extractor, sets, label_names, about, rejected


def drop_rare_labels(
    sets: dict[str, datasets.Dataset], label_names: list[str], min_positives: int = 1
) -> tuple[dict[str, datasets.Dataset], list[str], list[str]]:
    """
    Drop labels with fewer than `min_positives` positive or negative training recordings, unless no label remains.

    Returns:
        `tuple`: The sets and the names of the labels that remain, and the names of those that were dropped.

    Raises:
        InputError: If `min_positives` is greater than 1 and no label remains.
    """
    from ..data.prepared import select_labels
    from ..processing.errors import InputError
    from ..training.features import dataset_labels
    from ..training.finetuning import absent_labels

    rare = absent_labels(dataset_labels(sets["train"], label_names), label_names, min_positives)
    remaining = [name for name in label_names if name not in rare]
    if rare and not remaining and min_positives > 1:
        raise InputError(
            f"no label has {min_positives} positive and {min_positives} negative training recordings: lower "
            "--min-positives"
        )
    if not rare or not remaining:
        return sets, label_names, []
    say(f"skipped labels with fewer than {min_positives} positive or negative training recordings: {', '.join(rare)}")
    return {split: select_labels(dataset, remaining) for split, dataset in sets.items()}, remaining, rare


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

    from ..evaluation.predictions import auroc_difference, compute_metrics, predict
    from ..inference.classifier_outputs import model_thresholds
    from ..training import finetuning, folders, provenance
    from ..utils.files import write_json

    set_seed(training.seed)
    overrides = {} if arguments.head_type is None else {"head_type": arguments.head_type}
    model, _ = folders.load_for_finetuning(folder, label_names, **overrides)
    pretrained, control = _RUN_NAMES
    models = {pretrained: model}
    if arguments.control:
        set_seed(training.seed)
        models[control] = type(model)(deepcopy(model.config))
    held_out = [split for split in ("validation", "test") if split in sets]
    metrics: dict[str, Any] = {
        "data": about,
        "labels": label_names,
        "head": model.config.head_type,
        "recipe": finetuning.recipe_settings(training),
        "selected_by": "best validation macro AUROC (epoch) and best validation F1 (thresholds); validation metrics "
        "are optimistic",
    }
    predictions: dict[tuple[str, str], Any] = {}
    for name in models:
        models[name], best_epoch = _train(name, models[name], arguments, training, extractor, sets, about)
        metrics[name] = {"best_epoch": best_epoch}
        for split in held_out:
            predictions[name, split] = predict(models[name], sets[split], extractor).by_recording()
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
    title = f"{len(predictions[pretrained, split].record_ids)} {split} recordings"
    _draw_results(models[pretrained], sets[split], extractor, predictions[pretrained, split], title, pictures)
    _draw_reconstruction(folder, sets[split], extractor, pictures / "reconstruction.png")
    _print_results(metrics, held_out)
    say(f"\nwritten: {arguments.output_dir / 'model'}, {arguments.output_dir / 'metrics.json'}, {pictures}")
    return metrics


def _train(
    name: str,
    model: Any,
    arguments: FinetuneArguments,
    training: FinetuningArguments,
    extractor: Any,
    sets: dict[str, datasets.Dataset],
    about: dict[str, Any],
) -> tuple[Any, int]:
    """Train the classifier of a run in its folder; returns it as of its best epoch, and that epoch."""
    from ..training import finetuning

    head = f"the {model.config.head_type} head"
    trained_part = {"frozen": head, "full": "all weights", "lora": "the head and LoRA"}[training.method]
    count = about["sets"]["train"]["recordings"]
    say(f"\nfine-tuning {trained_part} on {count} recordings ({_RUN_NAMES[name]})")
    output = arguments.output_dir if name == "pretrained" else arguments.output_dir / "control"
    train, validation = sets["train"], sets["validation"]
    result = finetuning.finetune(
        model, train, validation, extractor, output, training, cache_dir=arguments.cache_dir, restart=arguments.restart
    )
    if result.finished_before:
        say(f"{output} already holds this run: nothing was trained (--restart trains again)")
    return result.model, result.best_epoch


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
        count = metrics["pretrained"][split]["num_recordings"]
        say(f"\nmacro AUROC on {count} {split} recordings (95 % interval over patients):")
        for name, title in _RUN_NAMES.items():
            if name in metrics:
                say(f"  {title:24s} {interval(metrics[name][split]['macro_auroc'])}")
        if "macro_auroc_difference" in metrics:
            say(f"  {'difference':24s} {interval(metrics['macro_auroc_difference'][split], sign=True)}")
        if split == "validation":
            say("  (optimistic: the epoch and the thresholds were chosen on these recordings)")
    per_label = metrics["pretrained"]["validation"]["per_label"]
    if rare := [name for name, metric in per_label.items() if metric["num_positive"] < 10]:
        say(f"\nuncertain thresholds, from fewer than 10 positive validation recordings: {', '.join(rare)}")
    print_metrics(metrics["pretrained"][held_out[-1]])
