"""`clear-hug finetune`: a classifier from labelled recordings."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .shared import (
    LABELLED_HELP,
    add_cache_options,
    add_count_option,
    add_model_option,
    add_verb,
    cache_dir,
    choose_labels,
    draw_first_prediction,
    draw_recording,
    draw_roc_sheet,
    interval,
    is_main_process,
    positive,
    prepare_splits,
    print_metrics,
    quiet_libraries,
    read_source,
    report_rejected,
    require,
    resumable,
    say,
    say_unused_devices,
    seed,
)


if TYPE_CHECKING:
    import datasets


_RUN_NAMES = {"pretrained": "pre-trained encoder", "random_initialization": "untrained encoder"}


def add(verbs: Any) -> None:
    """Add `finetune` to the verbs of the command line."""
    parser = add_verb(
        verbs,
        run,
        "train a classifier on labelled recordings",
        "Put a new head on a pre-trained encoder and train it. The epoch with the best macro AUROC on the validation\n"
        "recordings is kept, and for each label the threshold with the best F1 there. Beside it, the same is done\n"
        "with an encoder that was never trained, which says what the pre-training was worth.\n\n"
        "Killed or interrupted, the same command goes on from the last epoch. What a frozen encoder makes of the\n"
        "recordings is computed once and kept, so that the next head on it trains in seconds.\n\n"
        "Writes to the output folder: model/, control/ (the untrained encoder's), finetuning_log.csv, metrics.json\n"
        "(metrics with 95 % intervals over patients, the control's beside them), and pictures/ (a recording with its\n"
        "beats, one with its predictions, ROC curves with confusion matrices, a reconstruction where the model has a\n"
        "decoder, and which groups of leads drive each label).\n\n"
        "examples:\n"
        "  clear-hug finetune --data ward.csv --labels stemi lbbb --model runs/pretrained --output runs/ward\n"
        "  clear-hug finetune --data ptb-xl --model runs/pretrained --output runs/superclasses\n"
        "  clear-hug finetune --data ptb-xl --model runs/pretrained --output runs/full --method full --epochs 20\n"
        "  clear-hug finetune --data ptb-xl --model runs/pretrained --output runs/mi --labels NORM MI --head mean",
    )
    parser.add_argument("--data", type=Path, required=True, metavar="DATA", help=LABELLED_HELP)
    add_model_option(parser, "a model folder, the output of `pretrain`")
    parser.add_argument(
        "--output", type=Path, default=Path("runs/finetuned"), metavar="DIR", help="default: %(default)s"
    )
    parser.add_argument(
        "--labels",
        nargs="+",
        metavar="NAME",
        help="labels to train (default: all of the data; needed for a CSV table)",
    )
    _add_finetuning_options(parser)
    parser.add_argument("--restart", action="store_true", help="start anew where the output folder holds a run")
    parser.add_argument("--limit", type=positive, metavar="N", help="use only the first N recordings of each split")
    parser.add_argument("--seed", type=seed, default=0, help="default: %(default)s")


def finetuning_defaults() -> dict[str, Any]:
    """What the options of fine-tuning are where none is given, for verbs that fine-tune without having them."""
    parser = argparse.ArgumentParser()
    _add_finetuning_options(parser)
    return vars(parser.parse_args([]))


def _add_finetuning_options(parser: argparse.ArgumentParser) -> None:
    from ..systems import head_types

    parser.add_argument(
        "--head",
        choices=head_types(),
        help="mean is the linear probe where the encoder is frozen (default: the usual one of the model's system)",
    )
    parser.add_argument(
        "--method",
        choices=("frozen", "full", "lora"),
        default="frozen",
        help="train the head alone, the whole model with lower rates for lower layers, or the head and low-rank "
        "updates of the encoder (default: %(default)s)",
    )
    add_count_option(parser, "--epochs", 60, "at most")
    add_count_option(parser, "--batch-size", 64)
    add_count_option(parser, "--patience", 10, "stop after N epochs without a better one")
    for name, shown in (
        ("head", "default: 0.005, the paper's; 0.001 where the encoder is trained"),
        ("encoder", "default: 0.0005; 0.002 for LoRA's updates"),
        ("min", "where the head's rate ends (default: 0; the paper: 1e-5)"),
    ):
        parser.add_argument(f"--{name}-learning-rate", type=float, metavar="RATE", help=shown)
    parser.add_argument(
        "--layer-decay",
        type=float,
        default=0.75,
        metavar="SHARE",
        help="with --method full: rate of a layer, as a share of that of the layer above it (default: %(default)s)",
    )
    add_count_option(parser, "--lora-rank", 8, "of LoRA's updates")
    parser.add_argument(
        "--augmentation",
        type=float,
        metavar="STRENGTH",
        help="with --method full or lora: how much training recordings are changed, from 0, not at all, to 2. Of "
        "signals window, baseline, breathing and leads change (default: 0); pages are bent, shaded and blurred as "
        "photographs are (default: 1)",
    )
    parser.add_argument(
        "--class-weights",
        choices=("none", "balanced"),
        default="none",
        help="balanced weighs rare labels up; their probabilities are then too high (default: %(default)s)",
    )
    add_count_option(
        parser,
        "--min-positives",
        1,
        "without --labels: leave out labels with fewer training recordings that have them, or that do not",
    )
    parser.add_argument(
        "--bf16", action="store_true", help="compute in bfloat16 where that is safe: faster where the processor has it"
    )
    parser.add_argument("--no-control", action="store_true", help="leave out the run with an untrained encoder")
    add_cache_options(parser)


def run(arguments: argparse.Namespace) -> int:
    """Run `finetune` and return the exit status."""
    from ..data.model_files import extractor_settings, load_feature_extractor
    from ..data.prepared import check_independent_labels, match_prepared
    from ..training.finetuning import FINETUNING_RUN, check_datasets
    from ..training.folders import check_heads, find_model_folder
    from ..training.provenance import count_sets
    from ..utils.files import check_writable

    output = check_writable(arguments.output, [FINETUNING_RUN], [arguments.data, arguments.model])
    folder = find_model_folder(arguments.model)
    _finetuning_arguments(arguments)
    if arguments.head is not None:
        check_heads(folder, [arguments.head])
    sources = read_source(arguments.data, arguments.limit, label_columns=arguments.labels or ())
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
        finetune_and_report(arguments, folder, extractor, sets, label_names, about, output)
    status = report_rejected(rejected)
    say(
        "\nnext:\n"
        f"  clear-hug predict RECORD... --model {output}\n"
        f"  clear-hug evaluate --data {arguments.data} --model {output} --pictures evaluation\n"
        f"  clear-hug publish {output} YOUR_NAME/{output.name} --dry-run staged"
    )
    return status


def leave_out_rare(
    sets: dict[str, datasets.Dataset], label_names: list[str], fewest: int = 1
) -> tuple[dict[str, datasets.Dataset], list[str], list[str]]:
    """
    Sets and labels without those that fewer than `fewest` training recordings have, or have not, where nobody asked
    for these by name; and the names of these.
    """
    from ..data.prepared import select_labels
    from ..processing import InputError
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


def _finetuning_arguments(options: argparse.Namespace) -> Any:
    """How to train, from the options that bear the names of its fields."""
    from dataclasses import fields

    from ..training.finetuning import FinetuningArguments

    names = {one.name for one in fields(FinetuningArguments)}
    return FinetuningArguments(**{name: value for name, value in vars(options).items() if name in names})


def finetune_and_report(
    arguments: argparse.Namespace,
    folder: Path,
    extractor: Any,
    sets: dict[str, datasets.Dataset],
    label_names: list[str],
    about: dict[str, Any],
    output: Path,
) -> None:
    """
    Fine-tune on the sets, which `about` describes, compare with an untrained encoder, write metrics and pictures; also
    for `demo`.
    """
    from copy import deepcopy

    from transformers import set_seed

    from ..evaluation.predictions import auroc_difference, compute_metrics, contributions_by_label, predict
    from ..inference.classifier_outputs import group_names, model_thresholds
    from ..plotting import plot_group_activations, save_figure
    from ..systems import load, system_of
    from ..training import finetuning, folders, provenance
    from ..utils.files import write_json

    recipe = _finetuning_arguments(arguments)
    set_seed(arguments.seed)
    chosen = {} if arguments.head is None else {"head_type": arguments.head}
    model, _ = folders.load_for_finetuning(folder, label_names, **chosen)
    head = model.config.head_type
    runs = {"pretrained": model}
    if not arguments.no_control:
        set_seed(arguments.seed)
        runs["random_initialization"] = type(model)(deepcopy(model.config))
    held_out = [split for split in ("validation", "test") if split in sets]
    metrics: dict[str, Any] = {
        "data": about,
        "labels": label_names,
        "head": head,
        "recipe": finetuning.settings(recipe),
        "selected_by": "the epoch with the best validation macro AUROC and thresholds with the best validation F1, in "
        "both runs: the validation numbers are somewhat too good, those of a test split are not",
    }
    predictions: dict[tuple[str, str], Any] = {}
    for name, run in runs.items():
        how = {"frozen": f"the {head} head", "full": "the whole model", "lora": "the head and LoRA"}
        count = about["sets"]["train"]["recordings"]
        say(f"\nfine-tuning {how[recipe.method]} on {count} recordings ({_RUN_NAMES[name]})")
        where = output if name == "pretrained" else output / "control"
        result = finetuning.finetune(
            run,
            sets["train"],
            sets["validation"],
            extractor,
            where,
            recipe,
            cache_dir=cache_dir(arguments),
            restart=arguments.restart,
        )
        if result.finished_before:
            say(f"{where} holds this run, finished: nothing was trained (--restart trains it anew)")
        runs[name] = result.model
        metrics[name] = {"best_epoch": result.best_epoch}
        for split in held_out:
            found = predictions[name, split] = predict(result.model, sets[split], extractor).by_recording()
            metrics[name][split] = compute_metrics(found, model_thresholds(result.model.config), arguments.seed)
    if not arguments.no_control:
        metrics["macro_auroc_difference"] = {
            split: auroc_difference(
                predictions["pretrained", split], predictions["random_initialization", split], arguments.seed
            )
            for split in held_out
        }
    if not is_main_process():
        return
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
        if not arguments.no_control:
            say(f"  {'difference':24s} {interval(metrics['macro_auroc_difference'][split], sign=True)}")
        if split == "validation":
            say("  (the epoch and the thresholds were chosen on these recordings: the numbers are somewhat too good)")
    few = [name for name, one in metrics["pretrained"]["validation"]["per_label"].items() if one["num_positive"] < 10]
    if few:
        say(f"\nfewer than 10 validation recordings with the label, so that its threshold is unsure: {', '.join(few)}")
    print_metrics(metrics["pretrained"][shown])
    say(f"\nwritten: {output / 'model'}, {output / 'metrics.json'}, {pictures}")
