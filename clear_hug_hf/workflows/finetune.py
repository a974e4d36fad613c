"""A classifier from labeled recordings, beside one from a randomly initialized encoder."""

from __future__ import annotations

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
    draw_roc_sheet,
    interval,
    is_main_process,
    max_samples_field,
    model_field,
    output_dir_field,
    prepare_splits,
    print_metrics,
    quiet_libraries,
    read_source,
    require,
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
    """Which model is fine-tuned on which recordings; [`FinetuningArguments`] says how."""

    data: Path = field(metadata={"help": LABELED_HELP, "metavar": "DATA"})
    model: Path = model_field("A model folder, or the output of `pretrain`")
    output_dir: Path = output_dir_field("runs/finetuned")
    labels: list[str] | None = field(
        default=None,
        metadata={"help": "Labels to train (default: all; required for a CSV table).", "metavar": "NAME"},
    )
    head_type: str | None = field(
        default=None,
        metadata={
            "help": "mean is the linear probe if the encoder is frozen (default: the usual head of the model's "
            "system).",
            "choices": head_types(),
        },
    )
    min_positives: int = field(
        default=1,
        metadata={
            "help": "Without --labels: skip labels with fewer positive or negative training recordings.",
            "gt": 0,
        },
    )
    control: bool = field(
        default=True, metadata={"help": "Also train the same model from a randomly initialized encoder."}
    )
    restart: bool = field(default=False, metadata={"help": "Start over if the output folder holds a run."})
    max_samples: int | None = max_samples_field()


@dataclass(frozen=True)
class FinetuneResult:
    """What `metrics.json` holds, and the recordings that could not be used."""

    metrics: dict[str, Any]
    rejected: list[Rejected]


def finetune(arguments: FinetuneArguments, training: FinetuningArguments) -> FinetuneResult:
    """
    Fine-tune a model on the labeled recordings of a folder or table, and write it with its metrics and pictures.

    Raises:
        InputError: If the recordings, labels or head do not fit the model, or the folder holds another run.
    """
    from ..data.model_files import extractor_settings, load_feature_extractor
    from ..data.prepared import check_independent_labels, match_prepared
    from ..training.finetuning import FINETUNING_RUN, check_datasets
    from ..training.folders import check_heads, find_model_folder
    from ..training.provenance import count_sets
    from ..utils.files import check_writable

    check_writable(arguments.output_dir, [FINETUNING_RUN], [arguments.data, arguments.model])
    folder = find_model_folder(arguments.model)
    if arguments.head_type is not None:
        check_heads(folder, [arguments.head_type])
    sources = read_source(arguments.data, arguments.max_samples, label_columns=arguments.labels or ())
    if sources.prepared is not None:
        check_independent_labels(sources.prepared)
    quiet_libraries()
    say_unused_devices("`accelerate launch --num_processes {count} -m clear_hug_hf.cli finetune ...` uses all")
    extractor = load_feature_extractor(folder)
    if sources.prepared is not None:
        before, extractor = extractor_settings(extractor), match_prepared(sources.prepared, extractor)
        if taken := [f"{name}={one}" for name, one in extractor_settings(extractor).items() if before[name] != one]:
            say(f"the classifier reads recordings as {arguments.data} was prepared: with {', '.join(taken)}")
    label_names = choose_labels(
        None if sources.is_table else arguments.labels, sources.label_names, f"the recordings of {arguments.data}"
    )
    sets, rejected = prepare_splits(sources, extractor, label_names)
    require(sets, rejected, "train", "validation")
    excluded_labels: list[str] = []
    if arguments.labels is None:
        sets, label_names, excluded_labels = leave_out_rare(sets, label_names, arguments.min_positives)
    check_datasets(sets["train"], sets["validation"], label_names)
    with resumable("from the last epoch", arguments.restart):
        about = {**sources.about, "sets": count_sets(sets)}
        if excluded_labels:
            about["excluded_labels"] = {"labels": excluded_labels, "fewer_than": arguments.min_positives}
        metrics = finetune_and_report(arguments, training, folder, extractor, sets, label_names, about)
    return FinetuneResult(metrics, rejected)


def leave_out_rare(
    sets: dict[str, datasets.Dataset], label_names: list[str], fewest: int = 1
) -> tuple[dict[str, datasets.Dataset], list[str], list[str]]:
    """
    Sets and labels without those that fewer than `fewest` training recordings have, or have not, where nobody asked
    for these by name; and the names of these.
    """
    from ..data.prepared import select_labels
    from ..processing.errors import InputError
    from ..training.features import dataset_labels
    from ..training.finetuning import absent_labels

    rare = absent_labels(dataset_labels(sets["train"], label_names), label_names, fewest)
    kept = [name for name in label_names if name not in rare]
    if rare and not kept and fewest > 1:
        raise InputError(f"no label has {fewest} training recordings with and without it: ask for fewer")
    if not rare or not kept:
        return sets, label_names, []
    why = (
        "no training recording has them or all have"
        if fewest == 1
        else f"fewer than {fewest} training recordings have them, or have not"
    )
    say(f"left out, since {why}: {', '.join(rare)}")
    return {split: select_labels(dataset, kept) for split, dataset in sets.items()}, kept, rare


def finetune_and_report(
    arguments: FinetuneArguments,
    training: FinetuningArguments,
    folder: Path,
    extractor: Any,
    sets: dict[str, datasets.Dataset],
    label_names: list[str],
    about: dict[str, Any],
) -> dict[str, Any]:
    """
    Fine-tune on the sets, which `about` describes, compare with a randomly initialized encoder, write metrics and
    pictures; also for `demo`.
    """
    from copy import deepcopy

    from transformers import set_seed

    from ..evaluation.predictions import auroc_difference, compute_metrics, contributions_by_label, predict
    from ..inference.classifier_outputs import group_names, model_thresholds
    from ..plotting import plot_group_activations, save_figure
    from ..systems import load, system_of
    from ..training import finetuning, folders, provenance
    from ..utils.files import write_json

    output = arguments.output_dir
    set_seed(training.seed)
    chosen = {} if arguments.head_type is None else {"head_type": arguments.head_type}
    model, _ = folders.load_for_finetuning(folder, label_names, **chosen)
    head = model.config.head_type
    runs = {"pretrained": model}
    if arguments.control:
        set_seed(training.seed)
        runs["random_initialization"] = type(model)(deepcopy(model.config))
    held_out = [split for split in ("validation", "test") if split in sets]
    metrics: dict[str, Any] = {
        "data": about,
        "labels": label_names,
        "head": head,
        "recipe": finetuning.settings(training),
        "selected_by": "best validation macro AUROC (epoch) and best validation F1 (thresholds); validation metrics "
        "are optimistic",
    }
    predictions: dict[tuple[str, str], Any] = {}
    for name, run in runs.items():
        how = {"frozen": f"the {head} head", "full": "all weights", "lora": "the head and LoRA"}
        count = about["sets"]["train"]["recordings"]
        say(f"\nfine-tuning {how[training.method]} on {count} recordings ({_RUN_NAMES[name]})")
        where = output if name == "pretrained" else output / "control"
        result = finetuning.finetune(
            run,
            sets["train"],
            sets["validation"],
            extractor,
            where,
            training,
            cache_dir=arguments.cache_dir,
            restart=arguments.restart,
        )
        if result.finished_before:
            say(f"{where} holds this run, finished: nothing was trained (--restart trains it anew)")
        runs[name] = result.model
        metrics[name] = {"best_epoch": result.best_epoch}
        for split in held_out:
            found = predictions[name, split] = predict(result.model, sets[split], extractor).by_recording()
            metrics[name][split] = compute_metrics(found, model_thresholds(result.model.config), training.seed)
    if arguments.control:
        metrics["macro_auroc_difference"] = {
            split: auroc_difference(
                predictions["pretrained", split], predictions["random_initialization", split], training.seed
            )
            for split in held_out
        }
    if not is_main_process():
        return metrics
    metrics["encoder"] = provenance.describe_encoder(folder)
    metrics["environment"] = provenance.describe_environment()
    write_json(output / folders.METRICS, metrics)

    shown, pictures = held_out[-1], output / "pictures"
    model, found = runs["pretrained"], predictions["pretrained", shown]
    draw_recording(sets[shown], pictures / "recording.png")
    # Of its first window, as it is drawn, and not of the whole recording.
    first = sets[shown].select([0])
    draw_first_prediction(model, first, predict(model, first, extractor), pictures / "prediction.png")
    limits = model_thresholds(model.config)
    draw_roc_sheet(found, limits, f"{len(found.record_ids)} {shown} recordings", pictures / "roc.png")
    if found.contributions is not None:
        figure = plot_group_activations(
            contributions_by_label(found),
            label_names,
            group_names(model.config),
            f"Which leads drive each label ({len(found.record_ids)} {shown} recordings, with the label minus without)",
        )
        save_figure(figure, pictures / "group_activations.png")
    if folders.holds_decoder(folder):
        decoder, _ = folders.load_pretrained(folder)
        if (picture := system_of(decoder).objective.picture) is not None:
            load(picture)(decoder, sets[shown], extractor, pictures / "reconstruction.png")

    for split in held_out:
        count = metrics["pretrained"][split]["num_recordings"]
        say(f"\nmacro AUROC on {count} {split} recordings (95 % interval over patients):")
        for name in runs:
            say(f"  {_RUN_NAMES[name]:24s} {interval(metrics[name][split]['macro_auroc'])}")
        if arguments.control:
            say(f"  {'difference':24s} {interval(metrics['macro_auroc_difference'][split], sign=True)}")
        if split == "validation":
            say("  (the epoch and the thresholds were chosen on these recordings: the numbers are somewhat too good)")
    few = [name for name, one in metrics["pretrained"]["validation"]["per_label"].items() if one["num_positive"] < 10]
    if few:
        say(f"\nfewer than 10 validation recordings with the label, so that its threshold is unsure: {', '.join(few)}")
    print_metrics(metrics["pretrained"][shown])
    say(f"\nwritten: {output / 'model'}, {output / 'metrics.json'}, {pictures}")
    return metrics
