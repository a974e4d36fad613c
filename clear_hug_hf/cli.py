"""
`clear-hug`: pre-train, fine-tune, evaluate and use ECG models from the command line.

What the user can mend is one sentence on stderr and exit status 2, with nothing written. Most libraries are imported
inside the verbs, so that `--help` is quick.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any


if TYPE_CHECKING:
    import datasets

    from .data.preparation import Rejected
    from .data.records import Recording, RecordReference

EXIT_OK, EXIT_SOME_FAILED, EXIT_BAD_INPUT, EXIT_INTERRUPTED = 0, 1, 2, 130

_LABELLED_HELP = (
    "output of `clear-hug prepare`; or a CSV table of records and labels, as `clear-hug prepare --help` explains it; "
    "or a folder of PTB-XL, where labels are the five diagnostic superclasses"
)
_DATA_HELP = (
    "output of `clear-hug prepare`; or a folder of PTB-XL: ptbxl_database.csv, scp_statements.csv and records100 or "
    "records500. Folds 1-8 train, 9 validates, 10 tests; labels are the five diagnostic superclasses"
)


def main(argv: Sequence[str] | None = None) -> int:
    """
    Run the command line.

    Args:
        argv (`Sequence[str]`, *optional*): Arguments after the program's name; those of the process by default.

    Returns:
        `int`: Exit status: 0 all done, 1 some recordings could not be used, 2 bad input, 130 interrupted.
    """
    arguments = _parser().parse_args(argv)
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _show_warning
            return arguments.run(arguments)
    except KeyboardInterrupt:
        print("clear-hug: interrupted", file=sys.stderr)
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        # The reader of our output left, as `| head` does; Python must not complain when it closes the pipe.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_OK
    except Exception as error:
        message = _user_message(error)
        if message is None:
            raise
        print(f"clear-hug: error: {message}", file=sys.stderr)
        return EXIT_BAD_INPUT


def _show_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    """A warning as one sentence, without the line of code that Python would show."""
    print(f"clear-hug: warning: {message}", file=sys.stderr)


def _user_message(error: Exception) -> str | None:
    """One sentence for an error that the user can mend, `None` for one that is a fault of this program."""
    from .processing.errors import InputError

    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    if isinstance(error, InputError | FileNotFoundError | PermissionError | ImportError):
        return " ".join(str(error).split())
    return None


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="clear-hug",
        description="ECG foundation models: from a recording to beats, representations and diagnoses.",
        epilog="examples:\n"
        "  clear-hug demo\n"
        "  clear-hug prepare downloads/ptb-xl --labels ptbxl_super --output ptb-xl\n"
        "  clear-hug pretrain --data ptb-xl --output runs/pretrained\n"
        "  clear-hug finetune --data ptb-xl --model runs/pretrained --output runs/superclasses\n"
        "  clear-hug evaluate --data ptb-xl --model runs/superclasses\n"
        "  clear-hug predict patient7.hea --model runs/superclasses\n"
        "  clear-hug benchmark --tasks ptb-xl --models clear=runs/pretrained\n\n"
        "`clear-hug VERB --help` explains each verb.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    verbs = parser.add_subparsers(title="verbs", metavar="VERB", required=True)
    _add_prepare(verbs)
    _add_pretrain(verbs)
    _add_finetune(verbs)
    _add_evaluate(verbs)
    _add_predict(verbs)
    _add_benchmark(verbs)
    _add_demo(verbs)
    return parser


def _add_verb(verbs: Any, name: str, run: Any, summary: str, description: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = verbs.add_parser(
        name, help=summary, description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.set_defaults(run=run)
    return parser


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a positive whole number")
    return value


def _seed(text: str) -> int:
    value = int(text)
    if not 0 <= value < 2**32:
        raise argparse.ArgumentTypeError(f"{text} is not a whole number from 0 to {2**32 - 1}")
    return value


def _share(text: str) -> float:
    value = float(text)
    if not 0.0 <= value <= 1.0:
        raise argparse.ArgumentTypeError(f"{text} is not between 0 and 1")
    return value


# ----------------------------------------------------------------------------------------------------------- prepare


def _add_prepare(verbs: Any) -> None:
    from .data.label_sets import LABEL_SETS
    from .data.readers import CSV_CONTRACT, READERS

    parser = _add_verb(
        verbs,
        "prepare",
        _run_prepare,
        "recordings in, a dataset for training out",
        "Read, clean and search recordings once, and store them as Parquet shards that `datasets.load_dataset` reads\n"
        "and --data of the other verbs takes. Interrupted, killed or out of space, the same command resumes; the\n"
        "result is the same bytes for any number of processes.\n\n"
        "Writes to the output folder: data/*.parquet, README.md (the dataset card), manifest.json (settings, counts,\n"
        "checksums), preprocessor_config.json, rejected.csv (recordings that cannot be used, with the reason) and\n"
        "left_out.csv (those that the labels or options asked for leave out).\n\n"
        "examples:\n"
        "  clear-hug prepare downloads/ptb-xl --labels ptbxl_super --output ptb-xl --num-proc 8\n"
        "  clear-hug prepare downloads/challenge --labels cpsc9 --output cpsc --split-fractions 0.7 0.1 0.2\n"
        "  clear-hug prepare ward.csv --labels afib lvh --output ward --model runs/pretrained\n"
        "  clear-hug prepare downloads/mimic --output mimic --windows all --shard-index 3 --num-shards 16",
    )
    parser.epilog = "your own recordings and labels:\n" + "".join(
        f"  {line}".rstrip() + "\n" for line in CSV_CONTRACT.splitlines()
    )
    parser.add_argument("source", type=Path, metavar="SOURCE", help="folder of recordings, one record, or a CSV table")
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help="new folder, or one to resume")
    parser.add_argument("--kind", choices=tuple(READERS), help="layout of the source (default: what it looks like)")
    parser.add_argument(
        "--labels",
        nargs="+",
        metavar="NAME",
        help=f"a label set ({', '.join(LABEL_SETS)}), or the label columns of a CSV table (default: no labels)",
    )
    parser.add_argument(
        "--option",
        action="append",
        default=[],
        type=_option,
        metavar="NAME=VALUE",
        help="option of the reader, such as sampling_rate=500 for ptbxl; an unknown one names all",
    )
    parser.add_argument(
        "--model", type=Path, metavar="FOLDER", help="clean as this model needs it (default: as a new one)"
    )
    parser.add_argument(
        "--windows",
        choices=("first", "center", "all"),
        help="part of a recording longer than the model's window (default: the model's own choice, usually first)",
    )
    parser.add_argument(
        "--stride-seconds",
        type=float,
        metavar="S",
        help="with --windows all: from one to the next (default: one window)",
    )
    parser.add_argument(
        "--split-fractions",
        nargs=3,
        type=_share,
        metavar=("TRAIN", "VALIDATION", "TEST"),
        help="draw splits by patient (default: the official ones; where there are none, 0.7 0.1 0.2)",
    )
    parser.add_argument("--seed", type=_seed, default=0, help="of drawn splits (default: %(default)s)")
    parser.add_argument(
        "--num-proc", type=_positive, default=1, metavar="N", help="processes side by side (default: %(default)s)"
    )
    parser.add_argument(
        "--shard-size",
        type=_positive,
        default=1000,
        metavar="N",
        help="recordings per file; at most this many per process are done again after a kill (default: %(default)s)",
    )
    parser.add_argument("--shard-index", type=int, metavar="I", help="in a job array: number of this job, from 0")
    parser.add_argument("--num-shards", type=_positive, metavar="N", help="in a job array: number of jobs")


def _option(text: str) -> tuple[str, Any]:
    from .training.recipes import split_option

    name, value = split_option(text)
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value


def _run_prepare(arguments: argparse.Namespace) -> int:
    from .data.readers import guess_kind, open_source
    from .data.sharding import extractor_settings, prepare_shards
    from .processing import ClearHugFeatureExtractor, InputError

    options: dict[str, Any] = dict(arguments.option)
    kind = arguments.kind or guess_kind(arguments.source)
    if arguments.labels and kind == "csv":
        options["label_columns"] = arguments.labels
    elif arguments.labels:
        if len(arguments.labels) > 1:
            raise InputError(f"{len(arguments.labels)} label sets for {kind}: name one; columns are for CSV tables")
        options["label_set"] = arguments.labels[0]
    source = open_source(kind, arguments.source, **options)
    _quiet_libraries()
    if arguments.model is None:
        extractor: Any = ClearHugFeatureExtractor()
    else:
        from .training.folders import find_model_folder, load_feature_extractor

        extractor = load_feature_extractor(find_model_folder(arguments.model))
    chosen = {"windows": arguments.windows, "stride_seconds": arguments.stride_seconds}
    chosen = {name: value for name, value in chosen.items() if value is not None}
    extractor = type(extractor)(**{**extractor_settings(extractor), **chosen})
    if arguments.stride_seconds is not None and extractor.windows != "all":
        raise InputError("--stride-seconds is the step between windows: give --windows all with it")
    fractions = arguments.split_fractions
    outcome = prepare_shards(
        source,
        arguments.output,
        extractor,
        num_proc=arguments.num_proc,
        shard_size=arguments.shard_size,
        split_fractions=fractions and dict(zip(("train", "validation", "test"), fractions, strict=True)),
        seed=arguments.seed,
        shard_index=arguments.shard_index,
        num_shards=arguments.num_shards,
    )
    if outcome.manifest is None:
        _say(
            f"{arguments.output}: {outcome.num_done} of {outcome.num_planned} shards are there; the job that makes "
            "the last one finishes the dataset, and so does the same command without --shard-index"
        )
        return EXIT_OK
    if outcome.num_found == outcome.num_planned:
        _say(f"{arguments.output} was prepared before with the same settings: no recording was read")
    _print_prepared(outcome.manifest)
    _say(f"\nnext: clear-hug pretrain --data {arguments.output} --output runs/pretrained")
    return EXIT_SOME_FAILED if any(split["rejected"] for split in outcome.manifest["splits"].values()) else EXIT_OK


def _print_prepared(manifest: dict[str, Any]) -> None:
    columns = ("records", "kept", "rejected", "rows")
    _say(f"  {'split':12s}" + "".join(f"{column:>10s}" for column in columns))
    for name, split in manifest["splits"].items():
        _say(f"  {name:12s}" + "".join(f"{split[column]:10d}" for column in columns))
    if manifest["left_out"]:
        _say(f"  {manifest['left_out']} recordings were left out by the labels or options: left_out.csv lists them")
    if any(split["rejected"] for split in manifest["splits"].values()):
        _say("  rejected.csv says why recordings were rejected")


# ---------------------------------------------------------------------------------------------------------- pretrain


def _add_pretrain(verbs: Any) -> None:
    from .training.recipes import add_recipe_options

    parser = _add_verb(
        verbs,
        "pretrain",
        _run_pretrain,
        "pre-train an encoder on recordings without labels",
        "Pre-train CLEAR: hide most beats of each recording and rebuild them from the same beat in the other leads\n"
        "and from the summary of their own lead. Without --config, the recipe for tiny size on a CPU.\n\n"
        "Killed or interrupted, the same command goes on from the last checkpoint, to the same weights.\n\n"
        "Writes to the output folder: model/ and best/ (from_pretrained folders: after the last epoch, and of the\n"
        "lowest validation loss), pretraining_log.csv, pretraining_steps.csv, tracking/, checkpoints/, and pictures/\n"
        "(the loss, a recording with its beats, a reconstruction).\n\n"
        "examples:\n"
        "  clear-hug pretrain --data ptb-xl --output runs/pretrained\n"
        "  clear-hug pretrain --data ptb-xl cinc2011 --epochs 100 --model-option mask_ratio=0.75\n"
        "  clear-hug pretrain --config scripts/recipes/clear_base_mimic.yaml --learning-rate 3e-4\n"
        "  accelerate launch scripts/pretrain.py --config scripts/recipes/clear_base_mimic.yaml",
    )
    parser.add_argument("--restart", action="store_true", help="start anew where the output folder has checkpoints")
    add_recipe_options(parser)


def _run_pretrain(arguments: argparse.Namespace) -> int:
    from .processing import InputError
    from .training.folders import check_writable
    from .training.recipes import recipe_from_options

    recipe = recipe_from_options(arguments)
    if not recipe.data:
        raise InputError("no recordings to pre-train on: name their folders with --data, or as `data` in the recipe")
    recipe.make_config()
    check_writable(recipe.output)
    _quiet_libraries()
    folders = [Path(folder) for folder in recipe.data]
    extractor, sets, rejected = _read_for_pretraining(recipe, folders)
    _require(sets, rejected, "train")
    try:
        _pretrain(recipe, extractor, sets, Path(recipe.output), arguments.restart)
    except KeyboardInterrupt:
        command = "the same command without --restart" if arguments.restart else "the same command"
        _say(f"\nstopped: {command} goes on from the last checkpoint")
        raise
    _report_rejected(rejected)
    _say(f"\nnext: clear-hug finetune --data {folders[0]} --model {recipe.output} --output runs/finetuned")
    # A launcher would stop the other processes of a run for the exit status of one.
    alone = int(os.environ.get("WORLD_SIZE", "1")) == 1
    return EXIT_SOME_FAILED if rejected and alone else EXIT_OK


def _read_for_pretraining(recipe: Any, folders: Sequence[Path]) -> tuple[Any, dict[str, Any], list[Rejected]]:
    """The feature extractor, the recordings of all folders by split, and those that cannot be used."""
    import datasets

    from .data.prepared import count_prepared
    from .processing import ClearHugFeatureExtractor, InputError

    streamed = ("train",) if recipe.streaming else ()
    all_sources = [_read_source(folder, recipe.limit, streamed) for folder in folders]
    for folder, sources in zip(folders, all_sources, strict=True):
        if recipe.streaming and sources.prepared is None:
            raise InputError(f"{folder} is not prepared, so it cannot be streamed: `clear-hug prepare` it first")
    extractor = next((one.extractor for one in all_sources if one.extractor), None) or ClearHugFeatureExtractor()
    parts: dict[str, list[Any]] = {}
    rejected: list[Rejected] = []
    for sources in all_sources:
        sets, failed = _prepare_splits(sources, extractor, None)
        rejected += failed
        for split, dataset in sets.items():
            parts.setdefault(split, []).append(dataset)
    if recipe.streaming and recipe.training.recordings_per_epoch is None:
        counts = [count_prepared(folder).get("train", 0) for folder in folders]
        recipe.training.recordings_per_epoch = sum(min(count, recipe.limit or count) for count in counts)
    return extractor, {split: datasets.concatenate_datasets(some) for split, some in parts.items()}, rejected


def _pretrain(recipe: Any, extractor: Any, sets: dict[str, Any], output: Path, restart: bool) -> None:
    """Pre-train on the sets and draw how it went; the same for `pretrain` and `demo`."""
    from transformers import set_seed

    from .plotting import plot_losses, save_figure
    from .training.pretraining import pretrain

    arguments = recipe.training
    set_seed(arguments.seed)
    model = recipe.make_model()
    count = arguments.recordings_per_epoch if recipe.streaming else len(sets["train"])
    _say(
        f"pre-training {recipe.system} {recipe.size} ({model.num_parameters() / 1e6:.1f} M parameters) on "
        f"{count} recordings, {arguments.epochs} epochs"
    )
    result = pretrain(model, sets["train"], extractor, output, sets.get("validation"), arguments, restart=restart)
    if result.resumed_from == result.history[-1]["step"]:
        _say(f"{output} holds this run, finished: nothing was trained (--restart trains it anew)")
    last = result.history[-1]
    held_out = f", {last['validation_loss']:.3f} held out" if last["validation_loss"] is not None else ""
    _say(f"loss of hidden beats: {last['train_loss']:.3f} in training{held_out} (1 is a flat line)")
    if not _is_main_process():
        return
    pictures = output / "pictures"
    save_figure(plot_losses(result.history, "Pre-training"), pictures / "pretraining_loss.png")
    shown = sets.get("validation") or (None if recipe.streaming else sets["train"])
    if shown is not None:
        _draw_recording(shown, pictures / "recording.png")
        _draw_reconstruction(result.model, shown, extractor, pictures / "reconstruction.png")


# ---------------------------------------------------------------------------------------------------------- finetune


def _add_finetune(verbs: Any) -> None:
    parser = _add_verb(
        verbs,
        "finetune",
        _run_finetune,
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
    parser.add_argument("--data", type=Path, required=True, metavar="DATA", help=_LABELLED_HELP)
    parser.add_argument(
        "--model", type=Path, required=True, metavar="FOLDER", help="a model folder or the output of `pretrain`"
    )
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
    parser.add_argument("--limit", type=_positive, metavar="N", help="use only the first N recordings of each split")
    parser.add_argument("--seed", type=_seed, default=0, help="default: %(default)s")


def _add_finetuning_options(parser: argparse.ArgumentParser) -> None:
    heads = ("hug", "mean", "weighted", "single_level")
    parser.add_argument(
        "--head",
        choices=heads,
        default="hug",
        help="mean is the linear probe where the encoder is frozen (default: %(default)s)",
    )
    parser.add_argument(
        "--method",
        choices=("frozen", "full", "lora"),
        default="frozen",
        help="train the head alone, the whole model with lower rates for lower layers, or the head and low-rank "
        "updates of the encoder (default: %(default)s)",
    )
    parser.add_argument(
        "--epochs",
        dest="finetune_epochs",
        type=_positive,
        default=60,
        metavar="N",
        help="at most (default: %(default)s)",
    )
    parser.add_argument(
        "--batch-size",
        dest="finetune_batch_size",
        type=_positive,
        default=64,
        metavar="N",
        help="default: %(default)s",
    )
    parser.add_argument(
        "--patience",
        type=_positive,
        default=10,
        metavar="N",
        help="stop after N epochs without a better one (default: %(default)s)",
    )
    parser.add_argument(
        "--head-learning-rate",
        type=float,
        metavar="RATE",
        help="default: 0.005, the paper's; 0.001 where the encoder is trained",
    )
    parser.add_argument(
        "--encoder-learning-rate", type=float, metavar="RATE", help="default: 0.0005; 0.002 for LoRA's updates"
    )
    parser.add_argument(
        "--layer-decay",
        type=float,
        default=0.75,
        metavar="SHARE",
        help="with --method full: rate of a layer, as a share of that of the layer above it (default: %(default)s)",
    )
    parser.add_argument(
        "--lora-rank", type=_positive, default=8, metavar="N", help="of LoRA's updates (default: %(default)s)"
    )
    parser.add_argument(
        "--class-weights",
        choices=("none", "balanced"),
        default="none",
        help="balanced weighs rare labels up; their probabilities are then too high (default: %(default)s)",
    )
    parser.add_argument("--no-control", action="store_true", help="leave out the run with an untrained encoder")
    _add_cache_options(parser)


def _add_cache_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--feature-cache",
        type=Path,
        metavar="DIR",
        help="where features of frozen encoders are kept (default: clear_hug_features in the cache of Hugging Face)",
    )
    parser.add_argument("--no-feature-cache", action="store_true", help="keep no features on disk")


def _cache_dir(arguments: argparse.Namespace) -> Path | None:
    from .training.features import default_cache

    if arguments.no_feature_cache:
        return None
    return arguments.feature_cache or default_cache()


def _run_finetune(arguments: argparse.Namespace) -> int:
    from .training.finetuning import check_datasets
    from .training.folders import check_writable, find_model_folder, load_feature_extractor

    output = check_writable(arguments.output)
    folder = find_model_folder(arguments.model)
    _finetuning_arguments(arguments)
    sources = _read_source(arguments.data, arguments.limit, label_columns=arguments.labels or ())
    _quiet_libraries()
    extractor = load_feature_extractor(folder)
    label_names = _choose_labels(
        None if sources.is_table else arguments.labels, sources.label_names, f"the recordings of {arguments.data}"
    )
    sets, rejected = _prepare_splits(sources, extractor, label_names)
    _require(sets, rejected, "train", "validation")
    if arguments.labels is None:
        sets, label_names = _leave_out_absent(sets, label_names)
    check_datasets(sets["train"], sets["validation"], label_names)
    try:
        _finetune(arguments, folder, sets, label_names, output)
    except KeyboardInterrupt:
        command = "the same command without --restart" if arguments.restart else "the same command"
        _say(f"\nstopped: {command} goes on from the last epoch")
        raise
    _report_rejected(rejected)
    _say(
        "\nnext:\n"
        f"  clear-hug predict RECORD... --model {output}\n"
        f"  clear-hug evaluate --data {arguments.data} --model {output} --pictures {output / 'pictures'}"
    )
    return EXIT_SOME_FAILED if rejected else EXIT_OK


def _leave_out_absent(
    sets: dict[str, datasets.Dataset], label_names: list[str]
) -> tuple[dict[str, datasets.Dataset], list[str]]:
    """Without labels of which the training recordings have one class only, where nobody asked for these by name."""
    from .data.prepared import keep_labels
    from .training.features import dataset_labels
    from .training.finetuning import absent_labels

    absent = absent_labels(dataset_labels(sets["train"], label_names), label_names)
    kept = [name for name in label_names if name not in absent]
    if not absent or not kept:
        return sets, label_names
    _say(f"left out, since no training recording has them or all have: {', '.join(absent)}")
    return {split: keep_labels(dataset, kept) for split, dataset in sets.items()}, kept


def _finetuning_arguments(arguments: argparse.Namespace) -> Any:
    from .training.finetuning import FinetuningArguments

    return FinetuningArguments(
        method=arguments.method,
        epochs=arguments.finetune_epochs,
        batch_size=arguments.finetune_batch_size,
        patience=arguments.patience,
        head_learning_rate=arguments.head_learning_rate,
        encoder_learning_rate=arguments.encoder_learning_rate,
        layer_decay=arguments.layer_decay,
        lora_rank=arguments.lora_rank,
        class_weights=arguments.class_weights,
        seed=arguments.seed,
    )


def _finetune(
    arguments: argparse.Namespace,
    folder: Path,
    sets: dict[str, datasets.Dataset],
    label_names: list[str],
    output: Path,
) -> None:
    """Fine-tune, compare with an untrained encoder, write metrics and pictures; for `finetune` and `demo`."""
    from copy import deepcopy

    from transformers import set_seed

    from .evaluation.metrics import evaluate_predictions, macro_auroc_interval
    from .evaluation.predictions import contributions_by_label, group_names, model_thresholds, predict
    from .modeling import ClearHugForSequenceClassification
    from .plotting import plot_group_activations, save_figure
    from .training import finetuning, folders

    recipe = _finetuning_arguments(arguments)
    set_seed(arguments.seed)
    model, extractor = folders.load_for_finetuning(folder, label_names, head_type=arguments.head)
    runs = {"pretrained": model}
    if not arguments.no_control:
        set_seed(arguments.seed)
        runs["random_initialisation"] = ClearHugForSequenceClassification(deepcopy(model.config))
    held_out = [split for split in ("validation", "test") if split in sets]
    metrics: dict[str, Any] = {
        "data": str(arguments.data or "simulated"),
        "labels": label_names,
        "num_recordings": {split: len(dataset) for split, dataset in sets.items()},
        "head": arguments.head,
        "recipe": finetuning.settings(recipe),
        "chosen_by": "the epoch with the best validation macro AUROC and thresholds with the best validation F1, in "
        "both runs: the validation numbers are somewhat too good, those of a test split are not",
    }
    predictions: dict[tuple[str, str], Any] = {}
    for name, run in runs.items():
        how = {"frozen": f"the {arguments.head} head", "full": "the whole model", "lora": "the head and LoRA"}
        _say(f"\nfine-tuning {how[recipe.method]} on {len(sets['train'])} recordings ({_RUN_NAMES[name]})")
        where = output if name == "pretrained" else output / "control"
        result = finetuning.finetune(
            run,
            sets["train"],
            sets["validation"],
            extractor,
            where,
            recipe,
            cache_dir=_cache_dir(arguments),
            restart=arguments.restart,
        )
        if result.finished_before:
            _say(f"{where} holds this run, finished: nothing was trained (--restart trains it anew)")
        runs[name] = result.model
        metrics[name] = {"best_epoch": result.best_epoch}
        for split in held_out:
            found = predictions[name, split] = predict(result.model, sets[split], extractor)
            assert found.labels is not None
            metrics[name][split] = evaluate_predictions(
                found.labels,
                found.probabilities,
                found.label_names,
                found.patient_ids,
                seed=arguments.seed,
                thresholds=model_thresholds(result.model.config),
            )
    if not arguments.no_control:
        metrics["difference_of_macro_auroc"] = {
            # Where no label has both classes there is no macro AUROC, and none of the difference.
            split: metrics["pretrained"][split]["macro_auroc"]
            and macro_auroc_interval(
                predictions["pretrained", split].labels,
                [predictions["pretrained", split].probabilities],
                [predictions["random_initialisation", split].probabilities],
                predictions["pretrained", split].patient_ids,
                seed=arguments.seed,
            )
            for split in held_out
        }
    if not _is_main_process():
        return
    folders.write_text(output / "metrics.json", json.dumps(metrics, indent=2) + "\n")

    shown, pictures = held_out[-1], output / "pictures"
    model, found = runs["pretrained"], predictions["pretrained", shown]
    _draw_recording(sets[shown], pictures / "recording.png")
    _draw_prediction(model, sets[shown], found, 0, pictures / "prediction.png")
    _draw_roc_sheet(model, found, f"{len(found.record_ids)} {shown} recordings", pictures / "roc.png")
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
        _draw_reconstruction(decoder, sets[shown], extractor, pictures / "reconstruction.png")

    for split in held_out:
        _say(f"\nmacro AUROC on {len(sets[split])} {split} recordings (95 % interval over patients):")
        for name in runs:
            _say(f"  {_RUN_NAMES[name]:24s} {_interval(metrics[name][split]['macro_auroc'])}")
        if not arguments.no_control:
            _say(f"  {'difference':24s} {_interval(metrics['difference_of_macro_auroc'][split], sign=True)}")
        if split == "validation":
            _say("  (the epoch and the thresholds were chosen on these recordings: the numbers are somewhat too good)")
    few = [name for name, one in metrics["pretrained"]["validation"]["per_label"].items() if one["num_positive"] < 10]
    if few:
        _say(
            f"\nfewer than 10 validation recordings with the label, so that its threshold is unsure: {', '.join(few)}"
        )
    _print_metrics(metrics["pretrained"][shown])
    _say(f"\nwritten: {output / 'model'}, {output / 'metrics.json'}, {pictures}")


_RUN_NAMES = {"pretrained": "pre-trained encoder", "random_initialisation": "untrained encoder"}


# ---------------------------------------------------------------------------------------------------------- evaluate


def _add_evaluate(verbs: Any) -> None:
    from .data.label_sets import LABEL_MAPS

    parser = _add_verb(
        verbs,
        "evaluate",
        _run_evaluate,
        "metrics of a fine-tuned model on labelled recordings",
        "Macro and per-label AUROC, average precision, F1 at the model's thresholds and calibration error, with 95 %\n"
        "intervals over patients. Labels of which only one class is present are named and left out.\n\n"
        "Recordings of another source may call their labels otherwise: --map says which label of the data is which\n"
        "of the model, or which several. With --compare-with, the same labels are evaluated on recordings of the\n"
        "model's own source, and the loss of AUROC is reported.\n\n"
        "examples:\n"
        "  clear-hug evaluate --data ptb-xl --model runs/superclasses\n"
        "  clear-hug evaluate --data ward.csv --model runs/ward --output ward_metrics.json --pictures pictures\n"
        "  clear-hug evaluate --data ward.csv --model runs/superclasses --map infarct=MI block=CD\n"
        "  clear-hug evaluate --data cpsc2018 --model runs/ptb-xl --map ptbxl-cpsc9 --compare-with ptb-xl",
    )
    parser.add_argument("--data", type=Path, required=True, metavar="DATA", help=_LABELLED_HELP)
    parser.add_argument("--model", type=Path, required=True, metavar="FOLDER", help="output of `finetune`")
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
    parser.add_argument("--limit", type=_positive, metavar="N", help="use only the first N recordings of each split")
    parser.add_argument("--seed", type=_seed, default=0, help="of the bootstrap (default: %(default)s)")


def _run_evaluate(arguments: argparse.Namespace) -> int:
    from .training.folders import check_writable, load_classifier, write_text

    _check_file(arguments.output)
    if arguments.pictures is not None:
        check_writable(arguments.pictures)
    _quiet_libraries()
    model, extractor = load_classifier(arguments.model)
    _to_device(model)

    from .evaluation.metrics import evaluate_predictions
    from .evaluation.predictions import model_label_names

    names = model_label_names(model.config)
    mapping = _label_mapping(arguments.map, names)
    found, rejected = _evaluated(arguments, arguments.data, model, extractor, mapping)
    metrics: dict[str, Any] = {
        "data": str(arguments.data),
        "split": found.split,
        "model": str(arguments.model),
        **evaluate_predictions(
            found.labels,
            found.probabilities,
            found.label_names,
            found.patient_ids,
            seed=arguments.seed,
            thresholds=found.thresholds,
        ),
    }
    if mapping is not None:
        metrics["mapping"] = {name: list(mapping[name]) for name in found.label_names}
    _say(f"{metrics['num_recordings']} {found.split} recordings of {metrics['num_patients']} patients")
    if found.split in ("validation", "all", "train"):
        _say("(of recordings that the model was trained or chosen on, the numbers are too good)")
    for name, title in _METRIC_NAMES.items():
        _say(f"macro {title:18s} {_interval(metrics[f'macro_{name}'])}")
    _print_metrics(metrics)
    if arguments.compare_with is not None:
        own, more = _evaluated(arguments, arguments.compare_with, model, extractor, mapping, own=True)
        rejected += more
        metrics["loss"] = _print_loss(arguments, found, own)
    if arguments.pictures is not None:
        title = f"{metrics['num_recordings']} {found.split} recordings of {arguments.data.name}"
        path = arguments.pictures / "roc.png"
        if _draw_roc_sheet(None, found, title, path):
            _say(f"\nwritten: {path}")
    if arguments.output is not None:
        write_text(arguments.output, json.dumps(metrics, indent=2) + "\n")
        _say(f"\nwritten: {arguments.output}")
    _report_rejected(rejected)
    return EXIT_SOME_FAILED if rejected else EXIT_OK


def _check_file(path: Path | None) -> None:
    """Refuse, before any work, a file that cannot be written."""
    from .processing import InputError
    from .training.folders import check_writable

    if path is None:
        return
    if path.is_dir():
        raise InputError(f"{path} is a folder: name a file")
    check_writable(path.parent)


_METRIC_NAMES = {
    "auroc": "AUROC",
    "average_precision": "average precision",
    "f1": "F1",
    "calibration_error": "calibration error",
}


def _label_mapping(given: Sequence[str] | None, names: Sequence[str]) -> dict[str, tuple[str, ...]] | None:
    """Labels of the data, each with the labels of the model that mean it."""
    from .data.label_sets import LABEL_MAPS
    from .processing import InputError
    from .training.recipes import split_option

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
    from datasets import concatenate_datasets

    from .data.prepared import keep_labels
    from .evaluation.predictions import map_predictions, model_label_names, model_thresholds, predict
    from .processing import InputError
    from .training.features import dataset_labels

    names = model_label_names(model.config)
    mapping = {name: (name,) for name in names} if mapping is None else mapping
    if arguments.labels is not None:
        _choose_labels(arguments.labels, list(mapping), f"the model in {arguments.model}, or the mapping to it")
        mapping = {name: mapping[name] for name in arguments.labels}
    wanted = list(dict.fromkeys(name for of_model in mapping.values() for name in of_model)) if own else list(mapping)
    sources = _read_source(data, arguments.limit, label_columns=wanted, known_only=True)
    if sources.label_names is None:
        _choose_labels(None, None, f"the recordings of {data}")
    known = [name for name in wanted if name in (sources.label_names or ())]
    if arguments.labels is not None and not own:
        _choose_labels(arguments.labels, sources.label_names, f"the recordings of {data}")
    if unknown := [name for name in sources.label_names or () if name not in wanted and arguments.labels is None]:
        listed = ", ".join(unknown[:10]) + (f" and {len(unknown) - 10} more" if len(unknown) > 10 else "")
        _say(f"labels of {data} that are not evaluated, since the model does not know them: {listed}")
    typed = [] if own else [text.partition("=")[0] for text in arguments.map or () if "=" in text]
    if absent := [name for name in typed if name not in known and name in wanted]:
        raise InputError(
            f"the recordings of {data} have no label {absent[0]!r}: they have {', '.join(sources.label_names or ())}"
        )
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
    sets, rejected = _prepare_splits(sources, extractor, known)
    _require(sets, rejected, *sources.splits)
    rows = concatenate_datasets(list(sets.values()))
    found = predict(model, keep_labels(rows, None), extractor, progress=True)
    truth = dataset_labels(rows, known).numpy().astype(float)
    mapping = {name: of_model for name, of_model in mapping.items() if set(of_model if own else (name,)) <= set(known)}
    thresholds = model_thresholds(model.config)
    return map_predictions(found, truth, known, thresholds, mapping, own, split), rejected


def _print_loss(arguments: argparse.Namespace, found: Any, own: Any) -> dict[str, Any]:
    """What is lost from the model's own source to another, over the labels that both have both classes of."""
    from .evaluation.predictions import auroc_loss
    from .processing import InputError

    loss = auroc_loss(found, own, seed=arguments.seed)
    if not loss["labels"]:
        raise InputError("no label has both classes in both sources: there is nothing to compare")
    _say(f"\nof the labels {', '.join(loss['labels'])}, macro AUROC")
    _say(f"  on {len(own.labels)} {own.split} recordings of {arguments.compare_with}: {_interval(loss['own'])}")
    _say(f"  on {len(found.labels)} {found.split} recordings of {arguments.data}: {_interval(loss['other'])}")
    _say(f"  lost: {_interval(loss['lost'], sign=True)}")
    return loss


# ----------------------------------------------------------------------------------------------------------- predict


def _add_predict(verbs: Any) -> None:
    parser = _add_verb(
        verbs,
        "predict",
        _run_predict,
        "labels of recordings, with probabilities",
        "Predict WFDB records (.hea with .dat or .mat; any rate from 50 Hz, any order of leads). A recording longer\n"
        "than the model's window is predicted window by window. A label counts as found from the threshold on that\n"
        "fine-tuning chose for it. Exit status 1 if some records could not be used; they are named at the end.\n\n"
        "examples:\n"
        "  clear-hug predict patient7.hea --model runs/superclasses --pictures pictures\n"
        "  clear-hug predict ward3/ extra/A0001 --model runs/superclasses --top-k 2\n"
        "  clear-hug predict ward.csv --model runs/ward --output predictions.csv\n"
        "  clear-hug predict ward3/ --model runs/superclasses --json > ward3.jsonl",
    )
    parser.add_argument(
        "records",
        nargs="+",
        type=Path,
        metavar="RECORD",
        help="records, folders of records, or CSV tables with a column `path`",
    )
    parser.add_argument("--model", type=Path, required=True, metavar="FOLDER", help="output of `finetune`")
    parser.add_argument("--json", action="store_true", help="one JSON object per record and line")
    parser.add_argument(
        "--output",
        type=Path,
        metavar="FILE",
        help="write a CSV table: a row per record and window, with the probability of each label, and what was found",
    )
    parser.add_argument(
        "--pictures",
        type=Path,
        metavar="DIR",
        help="draw each record with its beats, predictions and the leads behind them",
    )
    parser.add_argument(
        "--threshold",
        type=_share,
        metavar="SHARE",
        help="from here on any label counts as found (default: each label's own in the model, else 0.5)",
    )
    parser.add_argument("--top-k", type=_positive, metavar="K", help="show only the K most probable labels")
    parser.add_argument("--labels", nargs="+", metavar="NAME", help="show only these labels")


def _run_predict(arguments: argparse.Namespace) -> int:
    from .training.folders import check_writable, load_classifier, write_text

    _check_file(arguments.output)
    if arguments.pictures is not None:
        check_writable(arguments.pictures)
    _quiet_libraries()
    model, extractor = load_classifier(arguments.model)
    _to_device(model)

    from .data.preparation import prepare
    from .evaluation.predictions import model_label_names, model_thresholds, predict
    from .training.pretraining import as_csv

    names = model_label_names(model.config)
    shown = _choose_labels(arguments.labels, names, f"the model in {arguments.model}")
    thresholds = dict(zip(names, model_thresholds(model.config), strict=True))
    if arguments.threshold is not None:
        thresholds = dict.fromkeys(names, arguments.threshold)
    rejected: list[Rejected] = []
    references = _records_to_predict(arguments.records, rejected)
    table: list[dict[str, Any]] = []
    drawn: set[Path] = set()
    num_done = 0
    try:
        for batch in _in_batches(references, shown=arguments.output is not None):
            dataset, failed = prepare(batch, extractor, windows="all", progress=False)
            rejected += failed
            if not len(dataset):
                continue
            found = predict(model, dataset, extractor)
            records = _windows_by_record(dataset, found, shown, thresholds, arguments.top_k)
            num_done += len(records)
            for record, windows in records.items():
                if arguments.output is not None:
                    table += [_table_row(record, window, shown) for window in windows]
                else:
                    _print_record(record, windows, thresholds, arguments.json)
            if arguments.pictures is not None:
                for row, record in enumerate(found.record_ids):
                    place = f"_{float(dataset[row]['window_start']):g}s" if len(records[record]) > 1 else ""
                    path = arguments.pictures / f"{_file_name(record)}{place}.png"
                    while path in drawn:
                        path = path.with_name(f"{path.stem}+.png")
                    drawn.add(path)
                    _draw_prediction(model, dataset, found, row, path, thresholds)
    except KeyboardInterrupt:
        if table:
            write_text(arguments.output, as_csv(table))
            _say(f"\nstopped: {arguments.output} has the first {num_done} record(s) of {len(references)}")
        raise
    if not num_done:
        for record, reason in rejected:
            # Messages about files name them; those about signals do not.
            named = reason if record in reason else f"{record}: {reason}"
            print(f"clear-hug: error: {named}", file=sys.stderr)
        return EXIT_BAD_INPUT
    if arguments.output is not None:
        write_text(arguments.output, as_csv(table))
        _say(f"{num_done} record(s), {len(table)} window(s): {arguments.output}")
    if arguments.pictures is not None:
        print(f"pictures: {arguments.pictures}", file=sys.stderr)
    _report_rejected(rejected)
    return EXIT_SOME_FAILED if rejected else EXIT_OK


_RECORDS_AT_ONCE = 64


def _in_batches(references: Sequence[RecordReference], shown: bool) -> Iterator[Sequence[RecordReference]]:
    """References a batch at a time, with a bar over the records where nothing else is printed."""
    from tqdm.auto import tqdm

    with tqdm(total=len(references), desc="predict", unit="rec", disable=not (shown and _is_main_process())) as bar:
        for start in range(0, len(references), _RECORDS_AT_ONCE):
            batch = references[start : start + _RECORDS_AT_ONCE]
            yield batch
            bar.update(len(batch))


def _records_to_predict(paths: Sequence[Path], rejected: list[Rejected]) -> list[RecordReference]:
    """The records at paths, in folders and in tables; what is not there goes to `rejected`."""
    from .data.preparation import Rejected, describe_error
    from .data.readers import open_source
    from .data.records import RecordReference, find_records
    from .processing import InputError

    references: list[RecordReference] = []
    for path in paths:
        try:
            if path.suffix.lower() == ".csv":
                table = open_source("csv", path)
                references += [table.reference(index) for index in range(len(table))]
            else:
                references += [RecordReference(header, str(header.with_suffix(""))) for header in find_records(path)]
        except (InputError, FileNotFoundError) as error:
            rejected.append(Rejected(str(path), describe_error(error)))
    return references


def _windows_by_record(
    dataset: datasets.Dataset, found: Any, shown: list[str], thresholds: dict[str, float], top_k: int | None
) -> dict[str, list[dict[str, Any]]]:
    """Start and end of each record's windows, with the most probable labels and those that reach their thresholds."""
    columns = [found.label_names.index(name) for name in shown]
    records: dict[str, list[dict[str, Any]]] = {}
    starts, rates = dataset["window_start"], dataset["sampling_rate"]
    for row, record in enumerate(found.record_ids):
        probabilities = {
            name: float(found.probabilities[row, column]) for name, column in zip(shown, columns, strict=True)
        }
        ranked = sorted(probabilities, key=lambda name: -probabilities[name])[:top_k]
        start = float(starts[row])
        records.setdefault(record, []).append(
            {
                "start": round(start, 3),
                "end": round(start + len(dataset[row]["signal"][0]) / float(rates[row]), 3),
                "found": [name for name in ranked if probabilities[name] >= thresholds[name]],
                "probabilities": {name: round(probabilities[name], 6) for name in ranked},
            }
        )
    return records


def _table_row(record: str, window: dict[str, Any], shown: list[str]) -> dict[str, Any]:
    probabilities = window["probabilities"]
    row: dict[str, Any] = {
        "record_id": record,
        "start": window["start"],
        "end": window["end"],
        "found": "; ".join(window["found"]),
    }
    # A label may be called as one of these columns.
    taken = tuple(row)
    return row | {f"{name} (label)" if name in taken else name: probabilities.get(name, "") for name in shown}


def _print_record(record: str, windows: list[dict[str, Any]], thresholds: dict[str, float], as_json: bool) -> None:
    if as_json:
        print(json.dumps({"record": record, "windows": windows}), flush=True)
        return
    seconds = windows[-1]["end"]
    if len(windows) == 1:
        _say(f"{record}  ({seconds:g} s)")
    else:
        _say(f"{record}  ({seconds:g} s, longer than the model's window: predicted in {len(windows)} windows)")
    for window in windows:
        if len(windows) > 1:
            _say(f"  {window['start']:g}-{window['end']:g} s")
        for name, probability in window["probabilities"].items():
            mark = "*" if probability >= thresholds[name] else " "
            _say(f"  {mark} {probability:6.1%}  {name}")


def _file_name(record: str) -> str:
    """A record's id as the name of a file: the path's parts joined."""
    return "_".join(part for part in Path(record).parts if part not in ("/", "..", "."))


# --------------------------------------------------------------------------------------------------------- benchmark


def _add_benchmark(verbs: Any) -> None:
    parser = _add_verb(
        verbs,
        "benchmark",
        _run_benchmark,
        "the paper's protocol: tasks x shares of the labels x models x heads",
        "Train and test models on 1, 10 and 100 % of the training recordings of each task, with several seeds,\n"
        "beside the same encoder without its weights and, if asked for, a supervised ResNet. Shares are drawn by\n"
        "patient and keep the labels' frequencies. The epoch is chosen on validation recordings, the test recordings\n"
        "are used once per cell; where a task has none its validation recordings are tested, and the epoch is chosen\n"
        "on a tenth of the training patients.\n\n"
        "Stopped or killed, the same command goes on with the cells that are missing. More tasks, models, fractions\n"
        "or seeds can be added: name them beside the former ones, since table and CSV hold what is asked for.\n\n"
        "Writes to the output folder: results.csv (a row per cell, with intervals), table.md (laid out as the\n"
        "paper's Table 1, with the paper's numbers where the recordings are the same, and differences to the\n"
        "controls), benchmark.json and cells/.\n\n"
        "examples:\n"
        "  clear-hug benchmark --tasks prepared/super prepared/rhythm --models clear=runs/pretrained\n"
        "  clear-hug benchmark --tasks prepared/super --models clear=runs/pretrained --protocols knn probe \\\n"
        "      --heads mean hug --fractions 10 100 --seeds 0 1 2 --resnet --output runs/benchmark",
    )
    parser.add_argument(
        "--tasks",
        nargs="+",
        required=True,
        metavar="[NAME=]DIR",
        help="folders of `clear-hug prepare --labels`, under the folder's name unless another is given",
    )
    parser.add_argument(
        "--models",
        nargs="+",
        required=True,
        metavar="[NAME=]FOLDER",
        help="model folders or outputs of `pretrain`, under the folder's name unless another is given",
    )
    parser.add_argument(
        "--protocols",
        nargs="+",
        choices=("knn", "probe", "finetune", "lora"),
        default=["probe"],
        help="k nearest neighbours, head on the frozen encoder, whole model, LoRA (default: probe)",
    )
    parser.add_argument(
        "--heads",
        nargs="+",
        choices=("hug", "mean", "weighted", "single_level"),
        default=["mean", "hug"],
        help="mean with probe is the linear probe (default: mean hug)",
    )
    parser.add_argument(
        "--fractions",
        nargs="+",
        type=float,
        default=[1.0, 10.0, 100.0],
        metavar="PERCENT",
        help="of the training recordings (default: 1 10 100)",
    )
    parser.add_argument("--seeds", nargs="+", type=_seed, default=[0, 1, 2], metavar="N", help="default: 0 1 2")
    parser.add_argument("--no-control", action="store_true", help="leave out the encoder without its weights")
    parser.add_argument("--resnet", action="store_true", help="train a supervised 1-D ResNet beside")
    parser.add_argument("--labels", nargs="+", metavar="NAME", help="only these labels of each task (default: all)")
    parser.add_argument(
        "--min-positives",
        type=_positive,
        default=1,
        metavar="N",
        help="leave out, by name, labels with fewer training or test recordings of a class (default: %(default)s)",
    )
    for name, value in (("probe", 100), ("finetune", 20), ("reference", 10)):
        parser.add_argument(
            f"--{name}-epochs", type=_positive, default=value, metavar="N", help="default: %(default)s"
        )
    parser.add_argument(
        "--output", type=Path, default=Path("runs/benchmark"), metavar="DIR", help="default: %(default)s"
    )
    _add_cache_options(parser)


def _run_benchmark(arguments: argparse.Namespace) -> int:
    from .processing import InputError
    from .training.folders import check_writable

    output = check_writable(arguments.output)
    named = {what: _named_folders(getattr(arguments, what)) for what in ("tasks", "models")}
    _quiet_libraries()
    from .training.benchmark import RANDOM, RESNET, BenchmarkArguments, load_task, recipes, run_benchmark

    if reserved := {RANDOM, RESNET} & named["models"].keys():
        raise InputError(f"the name {min(reserved)!r} is taken by a control: give the model another, NAME=FOLDER")
    models: dict[str, Path | None] = dict(named["models"])
    if not arguments.no_control:
        models[RANDOM] = None
    if arguments.resnet:
        models[RESNET] = None
    chosen = BenchmarkArguments(
        heads=tuple(dict.fromkeys(arguments.heads)),
        protocols=tuple(dict.fromkeys(arguments.protocols)),
        fractions=tuple(dict.fromkeys(percent / 100 for percent in arguments.fractions)),
        seeds=tuple(dict.fromkeys(arguments.seeds)),
        recipes=recipes(arguments.probe_epochs, arguments.finetune_epochs, arguments.reference_epochs),
    )
    tasks = [
        load_task(name, folder, arguments.labels, arguments.min_positives) for name, folder in named["tasks"].items()
    ]
    for task in tasks:
        for note in task.notes:
            _say(f"{task.name}: {note}")
    try:
        run_benchmark(tasks, models, output, chosen, _cache_dir(arguments), say=_say)
    except KeyboardInterrupt:
        _say("\nstopped: the same command goes on with the cells that are missing")
        raise
    table = output / "table.md"
    _say(f"\n{table.read_text(encoding='utf-8')}\nwritten: {output / 'results.csv'}, {table}")
    return EXIT_OK


def _named_folders(given: Sequence[str]) -> dict[str, Path]:
    from .processing import InputError

    named: dict[str, Path] = {}
    for text in given:
        name, found, folder = text.partition("=")
        path = Path(folder if found else text)
        name = name if found else path.name
        if not name:
            raise InputError(f"{text!r} has no name: give NAME=FOLDER")
        if name in named:
            raise InputError(f"two folders are called {name!r}: give them names, NAME=FOLDER")
        named[name] = path
    return named


# -------------------------------------------------------------------------------------------------------------- demo


def _add_demo(verbs: Any) -> None:
    parser = _add_verb(
        verbs,
        "demo",
        _run_demo,
        "everything once, on simulated recordings or your own",
        "Simulate recordings with several rhythms (or read --data), pre-train a tiny CLEAR, fine-tune the HUG head,\n"
        "evaluate it on patients that it never saw beside an untrained encoder, and draw pictures. It downloads\n"
        "nothing.\n\n"
        "examples:\n"
        "  clear-hug demo\n"
        "  clear-hug demo --data ptb-xl --output runs/ptb-xl",
    )
    parser.add_argument("--data", type=Path, metavar="DIR", help=_DATA_HELP)
    parser.add_argument("--output", type=Path, default=Path("demo"), metavar="DIR", help="default: %(default)s")
    parser.add_argument(
        "--patients",
        type=_positive,
        default=80,
        help="simulated patients, three recordings each (default: %(default)s)",
    )
    parser.add_argument(
        "--epochs", type=_positive, default=25, metavar="N", help="of pre-training (default: %(default)s)"
    )
    parser.add_argument("--limit", type=_positive, metavar="N", help="use only the first N recordings of each split")
    parser.add_argument("--seed", type=_seed, default=0, help="default: %(default)s")
    parser.set_defaults(
        head="hug",
        method="frozen",
        finetune_epochs=60,
        finetune_batch_size=64,
        patience=10,
        head_learning_rate=None,
        encoder_learning_rate=None,
        layer_decay=0.75,
        lora_rank=8,
        class_weights="none",
        no_control=False,
        no_feature_cache=True,
        restart=True,
    )


def _run_demo(arguments: argparse.Namespace) -> int:
    from .training.folders import check_writable

    output = check_writable(arguments.output)
    if arguments.data is not None:
        sources = _read_source(arguments.data, arguments.limit)
    else:
        sources = _simulate(arguments.patients, arguments.limit, arguments.seed)
    _quiet_libraries()
    from .processing import ClearHugFeatureExtractor, InputError
    from .training.recipes import read_recipe

    recipe = read_recipe(None, {"epochs": arguments.epochs, "seed": arguments.seed, "trackers": []})
    if arguments.data is None:
        # A few hundred recordings make too few steps per epoch for larger batches.
        recipe.training.batch_size = 8

    if sources.label_names is None:
        raise InputError(f"{arguments.data} has no labels: the demo needs a PTB-XL folder, or no --data at all")
    extractor = sources.extractor or ClearHugFeatureExtractor()
    sets, rejected = _prepare_splits(sources, extractor, sources.label_names)
    _require(sets, rejected, "train", "validation")
    recipe.training.batch_size = min(recipe.training.batch_size, len(sets["train"]))
    _pretrain(recipe, extractor, sets, output / "pretrained", restart=True)
    sets, label_names = _leave_out_absent(sets, sources.label_names)
    _finetune(arguments, output / "pretrained" / "model", sets, label_names, output)
    _report_rejected(rejected)
    _say(
        "\nNext:\n"
        f"  look at {output / 'pictures'}\n"
        f"  clear-hug predict YOUR_RECORD.hea --model {output}\n"
        "  clear-hug demo --data PTB_XL_FOLDER --output runs/ptb-xl"
    )
    return EXIT_SOME_FAILED if rejected else EXIT_OK


def _simulate(patients: int, limit: int | None, seed: int) -> _Sources:
    from .data.simulation import SIMULATED_LABELS, simulate_recordings

    _say(f"simulating recordings of {patients} patients")
    recordings = simulate_recordings(patients, seed=seed, num_workers=min(os.cpu_count() or 1, 8))
    return _Sources.by_split(recordings, list(SIMULATED_LABELS), limit)


# ------------------------------------------------------------------------------------------------------------ shared


class _Sources:
    """
    Recordings by split, and the labels that they may have; or prepared datasets, their folder, and the feature
    extractor that they were prepared with.
    """

    def __init__(
        self,
        splits: dict[str, Any],
        label_names: list[str] | None,
        prepared: Path | None = None,
        extractor: Any = None,
        is_table: bool = False,
    ):
        self.splits = splits
        self.label_names = label_names
        self.prepared = prepared
        self.extractor = extractor
        self.is_table = is_table

    @classmethod
    def by_split(
        cls, recordings: Sequence[Recording | RecordReference], label_names: list[str] | None, limit: int | None
    ) -> _Sources:
        splits: dict[str, list[Any]] = {}
        for split in ("train", "validation", "test"):
            members = [recording for recording in recordings if recording.split == split][:limit]
            if members:
                splits[split] = members
        return cls(splits, label_names)


def _read_source(
    folder: Path,
    limit: int | None,
    streamed: Sequence[str] = (),
    label_columns: Sequence[str] | None = None,
    known_only: bool = False,
) -> _Sources:
    """
    What `--data` names: a prepared folder, PTB-XL with labels and folds, a CSV table (with `label_columns`, of which
    with `known_only` the table may lack some), or any WFDB records, without labels.
    """
    from .data.prepared import is_prepared, load_prepared
    from .data.readers import open_source
    from .data.readers.ptbxl import TABLE
    from .data.records import RecordReference, find_records

    if not folder.exists():
        raise FileNotFoundError(f"the data folder {folder} does not exist: check the path")
    if folder.suffix.lower() == ".csv" and label_columns is not None:
        return _read_table(folder, limit, label_columns, known_only)
    if is_prepared(folder):
        _quiet_libraries()
        sets, extractor = load_prepared(folder, streamed)
        label_names = list((next(iter(sets.values())).features or {}).get("labels") or ()) or None
        limited = {
            split: rows if limit is None else rows.take(min(limit, len(rows)) if split not in streamed else limit)
            for split, rows in sets.items()
        }
        return _Sources(limited, label_names, folder, extractor)
    if (folder / TABLE).is_file():
        source = open_source("ptbxl", folder, label_set="ptbxl_super", keep_unlabelled=True)
        return _Sources.by_split(source, source.label_names, limit)
    references = [
        RecordReference(path, str(path.relative_to(folder).with_suffix("")), split="train")
        for path in find_records(folder)
    ]
    return _Sources.by_split(references, None, limit)


def _read_table(path: Path, limit: int | None, label_columns: Sequence[str], known_only: bool) -> _Sources:
    from dataclasses import replace

    from .data.readers import CsvSource
    from .data.splits import assign_splits
    from .processing import InputError

    free = CsvSource(path).free_columns
    if known_only and label_columns:
        there = [name for name in label_columns if name in free]
        if not there:
            wanted = " or ".join(map(repr, label_columns))
            raise InputError(f"{path} has no column {wanted}: it has {', '.join(free) or 'no others'}")
        label_columns = there
    if not label_columns:
        raise InputError(
            f"which columns of {path} are labels? Name them with --labels; it has {', '.join(free) or 'no others'}"
        )
    source = CsvSource(path, label_columns=label_columns)
    if source.problem_type != "multi_label_classification":
        raise InputError(
            f"the columns {', '.join(label_columns)} of {path} hold classes or numbers: make a column of 1 and 0 for "
            "each label"
        )
    records: list[Any] = [source.reference(index) for index in range(len(source))]
    splits = assign_splits(records)
    if all(record.split is None for record in records):
        _say(
            f"{path} has no column `split`: 70 % of the patients are for training, 10 % for validation, 20 % for "
            "testing, always the same for this table"
        )
    if all(record.patient_id is None for record in records):
        _say(
            f"{path} has no column `patient_id`: each recording counts as a patient of its own; if patients repeat, "
            "the numbers are too good"
        )
    records = [replace(record, split=splits[record.record_id]) for record in records]
    found = _Sources.by_split(records, source.label_names, limit)
    found.is_table = True
    return found


def _choose_labels(asked: Sequence[str] | None, known: Sequence[str] | None, whose: str) -> list[str]:
    from .processing import InputError

    if known is None:
        raise InputError(
            f"there are no labels in {whose}: prepare them with labels, as `clear-hug prepare --help` says"
        )
    if asked is None:
        return list(known)
    if unknown := [name for name in asked if name not in known]:
        raise InputError(f"there is no label {unknown[0]!r} in {whose}: the labels are {', '.join(known)}")
    return list(dict.fromkeys(asked))


def _prepare_splits(
    sources: _Sources, extractor: Any, label_names: list[str] | None
) -> tuple[dict[str, datasets.Dataset], list[Rejected]]:
    """Prepare each split that is not prepared; labels that were not chosen are left out of the recordings."""
    from dataclasses import replace

    from .data.preparation import prepare
    from .data.prepared import check_prepared_for, keep_labels

    if sources.prepared is not None:
        check_prepared_for(sources.prepared, extractor)
        return {split: keep_labels(dataset, label_names) for split, dataset in sources.splits.items()}, []
    sets: dict[str, datasets.Dataset] = {}
    rejected: list[Rejected] = []
    for split, records in sources.splits.items():
        if label_names is not None:
            records = [
                replace(record, labels=record.labels and {name: record.labels[name] for name in label_names})
                for record in records
            ]
        dataset, failed = prepare(records, extractor, label_names, progress=_is_main_process())
        rejected += failed
        if len(dataset):
            sets[split] = dataset
    return sets, rejected


def _require(sets: dict[str, datasets.Dataset], rejected: Sequence[Rejected], *splits: str) -> None:
    from .processing import InputError

    for split in splits:
        if split not in sets:
            why = f"; recording {rejected[0].record_id}: {rejected[0].reason}" if rejected else ""
            raise InputError(f"there are no usable {split} recordings: check the data folder and its folds{why}")


def _draw_recording(dataset: datasets.Dataset, path: Path) -> None:
    import numpy as np

    from .plotting import plot_recording, save_figure

    row = dataset.with_format("numpy")[0]
    signal = row["signal"] * np.asarray(row["signal_scale"])[:, None]
    beats = len(row["r_peaks"])
    figure = plot_recording(
        signal,
        row["r_peaks"],
        row["lead_mask"],
        float(row["sampling_rate"]),
        unit=str(row["unit"]),
        title=f"Recording {_short(row['record_id'])}, cleaned, with its {beats} beats",
    )
    save_figure(figure, path)


def _draw_prediction(
    model: Any,
    dataset: datasets.Dataset,
    found: Any,
    index: int,
    path: Path,
    thresholds: dict[str, float] | None = None,
) -> None:
    import numpy as np

    from .evaluation.predictions import group_names, model_thresholds
    from .plotting import plot_prediction, save_figure

    row = dataset.with_format("numpy")[index]
    chosen = model_thresholds(model.config) if thresholds is None else [thresholds[one] for one in found.label_names]
    explained = found.contributions is not None
    figure = plot_prediction(
        row["signal"] * np.asarray(row["signal_scale"])[:, None],
        row["r_peaks"],
        found.label_names,
        found.probabilities[index],
        thresholds=chosen,
        contributions=found.contributions[index] if explained else None,
        group_names=group_names(model.config) if explained else None,
        lead_mask=row["lead_mask"],
        sampling_rate=float(row["sampling_rate"]),
        unit=str(row["unit"]),
        title=f"Recording {_short(row['record_id'])}",
    )
    save_figure(figure, path)


def _short(record: str) -> str:
    """The end of a record's id, which tells records apart when it is a long path."""
    return record if len(record) <= 40 else f"...{record[-37:]}"


def _draw_roc_sheet(model: Any, found: Any, title: str, path: Path) -> bool:
    """ROC curves of predictions with labels, at thresholds of the model or their own; whether there are any."""
    from .evaluation.predictions import model_thresholds
    from .plotting import plot_roc_sheet, save_figure

    if not any({0.0, 1.0} <= {*column} for column in found.labels.T):
        _say("\nno ROC curves: no label has both classes")
        return False
    thresholds = found.thresholds if model is None else model_thresholds(model.config)
    figure = plot_roc_sheet(found.labels, found.probabilities, found.label_names, thresholds=thresholds, title=title)
    save_figure(figure, path)
    return True


def _draw_reconstruction(model: Any, dataset: datasets.Dataset, extractor: Any, path: Path) -> None:
    import numpy as np
    import torch

    from .data.collator import BeatCollator
    from .plotting import plot_reconstruction, save_figure

    row = dataset.with_format("numpy")[0]
    batch = BeatCollator(extractor, label_names=())([row])
    with torch.no_grad():
        output = model(**{name: tensor.to(model.device) for name, tensor in batch.items()})
    hidden = output.masked_positions[0].cpu().numpy()
    figure = plot_reconstruction(
        row["signal"] * np.asarray(row["signal_scale"])[:, None],
        row["r_peaks"],
        output.reconstruction[0].float().cpu().numpy(),
        hidden,
        row["lead_mask"],
        float(row["sampling_rate"]),
        model.config.beat_norm_eps,
        f"Recording {_short(row['record_id'])}: {hidden.sum()} beats hidden, "
        f"mean squared error {output.loss.item():.2f}",
    )
    save_figure(figure, path)


def _interval(metric: dict[str, Any] | None, sign: bool = False) -> str:
    if metric is None:
        return "not defined: no label has both classes"
    form = "+.3f" if sign else ".3f"
    if metric["low"] is None:
        return f"{metric['value']:{form}}"
    return f"{metric['value']:{form}}  ({metric['low']:{form}} to {metric['high']:{form}})"


def _print_metrics(metrics: dict[str, Any]) -> None:
    width = max(5, *(len(name) for name in metrics["per_label"]))
    _say(f"\n  {'label':{width}s}  {'positive':>8s}  {'AUROC':24s}  {'avg. precision':24s}  F1 at threshold")
    for name, entry in metrics["per_label"].items():
        if entry["auroc"] is None:
            _say(f"  {name:{width}s}  {entry['num_positive']:8d}  left out: only one class is present")
            continue
        values = f"{_interval(entry['auroc']):24s}  {_interval(entry['average_precision']):24s}"
        at_threshold = f"{entry['f1']['value']:.3f} at {entry['threshold']:.2f}"
        _say(f"  {name:{width}s}  {entry['num_positive']:8d}  {values}  {at_threshold}")


def _report_rejected(rejected: Sequence[Rejected]) -> None:
    """Name the recordings that could not be used, the first ones if they are many."""
    if not rejected or not _is_main_process():
        return
    print(f"clear-hug: {len(rejected)} recording(s) could not be used:", file=sys.stderr)
    for record, reason in rejected[:_MOST_NAMED]:
        print(f"  {record}: {reason}", file=sys.stderr)
    if len(rejected) > _MOST_NAMED:
        print(f"  and {len(rejected) - _MOST_NAMED} more", file=sys.stderr)


_MOST_NAMED = 20


def _quiet_libraries() -> None:
    """Progress bars and notices of the libraries below would hide our own."""
    import datasets
    from transformers.utils import logging

    datasets.disable_progress_bars()
    logging.disable_progress_bar()
    logging.set_verbosity_error()


def _is_main_process() -> bool:
    """Whether this is the only process or the first of those that `accelerate launch` started."""
    return int(os.environ.get("RANK", "0")) == 0


def _to_device(model: Any) -> None:
    from accelerate import PartialState

    model.to(PartialState().device)


def _say(text: str) -> None:
    if _is_main_process():
        print(text, flush=True)


if __name__ == "__main__":
    sys.exit(main())
