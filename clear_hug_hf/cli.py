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
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any


if TYPE_CHECKING:
    import datasets

    from .data.preparation import Rejected
    from .data.records import Recording, RecordReference

EXIT_OK, EXIT_SOME_FAILED, EXIT_BAD_INPUT, EXIT_INTERRUPTED = 0, 1, 2, 130

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
        "  clear-hug predict patient7.hea --model runs/superclasses\n\n"
        "`clear-hug VERB --help` explains each verb.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    verbs = parser.add_subparsers(title="verbs", metavar="VERB", required=True)
    _add_prepare(verbs)
    _add_pretrain(verbs)
    _add_finetune(verbs)
    _add_evaluate(verbs)
    _add_predict(verbs)
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
    parser.add_argument("--seed", type=int, default=0, help="of drawn splits (default: %(default)s)")
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
        "recordings is kept. Beside it, the same is done with an encoder that was never trained, which says what the\n"
        "pre-training was worth.\n\n"
        "Writes to the output folder: model/, metrics.json (metrics with 95 % intervals over patients, the control's\n"
        "beside them), and pictures/ (a recording with its beats, a reconstruction where the model folder has a\n"
        "decoder, and which groups of leads drive each label).\n\n"
        "examples:\n"
        "  clear-hug finetune --data ptb-xl --model runs/pretrained --output runs/superclasses\n"
        "  clear-hug finetune --data ptb-xl --model runs/pretrained --output runs/full --train-encoder\n"
        "  clear-hug finetune --data ptb-xl --model runs/pretrained --output runs/mi --labels NORM MI --head mean",
    )
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help=_DATA_HELP)
    parser.add_argument(
        "--model", type=Path, required=True, metavar="FOLDER", help="a model folder or the output of `pretrain`"
    )
    parser.add_argument(
        "--output", type=Path, default=Path("runs/finetuned"), metavar="DIR", help="default: %(default)s"
    )
    parser.add_argument("--labels", nargs="+", metavar="NAME", help="labels to train (default: all of the data)")
    _add_finetuning_options(parser)
    parser.add_argument("--limit", type=_positive, metavar="N", help="use only the first N recordings of each split")
    parser.add_argument("--seed", type=int, default=0, help="default: %(default)s")


def _add_finetuning_options(parser: argparse.ArgumentParser) -> None:
    heads = ("hug", "mean", "weighted", "single_level")
    parser.add_argument("--head", choices=heads, default="hug", help="default: %(default)s")
    parser.add_argument("--train-encoder", action="store_true", help="train the whole model, not only the head")
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
        "--head-learning-rate",
        type=float,
        metavar="RATE",
        help="default: 0.005, the paper's; 0.001 with --train-encoder",
    )
    parser.add_argument("--no-control", action="store_true", help="leave out the run with an untrained encoder")


def _run_finetune(arguments: argparse.Namespace) -> int:
    from .training.folders import check_writable, find_model_folder, load_feature_extractor

    output = check_writable(arguments.output)
    folder = find_model_folder(arguments.model)
    sources = _read_source(arguments.data, arguments.limit)
    _quiet_libraries()
    extractor = load_feature_extractor(folder)
    label_names = _choose_labels(arguments.labels, sources.label_names, f"the recordings of {arguments.data}")
    sets, rejected = _prepare_splits(sources, extractor, label_names)
    _require(sets, rejected, "train", "validation")
    _finetune(arguments, folder, sets, label_names, output)
    _report_rejected(rejected)
    _say(f"\nnext: clear-hug predict RECORD... --model {output}")
    return EXIT_SOME_FAILED if rejected else EXIT_OK


def _finetune(
    arguments: argparse.Namespace,
    folder: Path,
    sets: dict[str, datasets.Dataset],
    label_names: list[str],
    output: Path,
) -> None:
    """Fine-tune, compare with an untrained encoder, write metrics and pictures; for `finetune` and `demo`."""
    from transformers import set_seed

    from .evaluation.metrics import evaluate_predictions, macro_auroc_difference
    from .evaluation.predictions import contributions_by_label, group_names, predict
    from .modeling import ClearHugForSequenceClassification
    from .plotting import plot_group_activations, save_figure
    from .training import finetuning, folders

    recipe = finetuning.FinetuningArguments(
        epochs=arguments.finetune_epochs,
        batch_size=arguments.finetune_batch_size,
        freeze_encoder=not arguments.train_encoder,
        head_learning_rate=arguments.head_learning_rate,
        seed=arguments.seed,
    )
    set_seed(arguments.seed)
    model, extractor = folders.load_for_finetuning(folder, label_names, head_type=arguments.head)
    runs = {"pretrained": model}
    if not arguments.no_control:
        set_seed(arguments.seed)
        runs["random_initialisation"] = ClearHugForSequenceClassification(model.config)
    held_out = [split for split in ("validation", "test") if split in sets]
    metrics: dict[str, Any] = {
        "data": str(arguments.data or "simulated"),
        "labels": label_names,
        "num_recordings": {split: len(dataset) for split, dataset in sets.items()},
        "head": arguments.head,
        "recipe": finetuning.settings(recipe),
        "chosen_by": "the epoch with the best validation macro AUROC, in both runs: the validation numbers are "
        "somewhat too good, those of a test split are not",
    }
    predictions: dict[tuple[str, str], Any] = {}
    for name, run in runs.items():
        _say(f"\nfine-tuning the {arguments.head} head on {len(sets['train'])} recordings ({_RUN_NAMES[name]})")
        where = output if name == "pretrained" else None
        result = finetuning.finetune(run, sets["train"], sets["validation"], extractor, where, recipe)
        metrics[name] = {"best_epoch": result.best_epoch}
        for split in held_out:
            found = predictions[name, split] = predict(result.model, sets[split], extractor)
            assert found.labels is not None
            metrics[name][split] = evaluate_predictions(
                found.labels, found.probabilities, found.label_names, found.patient_ids, seed=arguments.seed
            )
    if not arguments.no_control:
        metrics["difference_of_macro_auroc"] = {
            split: macro_auroc_difference(
                predictions["pretrained", split].labels,
                predictions["pretrained", split].probabilities,
                predictions["random_initialisation", split].probabilities,
                predictions["pretrained", split].patient_ids,
                seed=arguments.seed,
            )
            for split in held_out
        }
    if not _is_main_process():
        return
    folders.write_text(output / "metrics.json", json.dumps(metrics, indent=2) + "\n")

    shown, pictures = held_out[-1], output / "pictures"
    _draw_recording(sets[shown], pictures / "recording.png")
    found = predictions["pretrained", shown]
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
    _print_metrics(metrics["pretrained"][shown])
    _say(f"\nwritten: {output / 'model'}, {output / 'metrics.json'}, {pictures}")


_RUN_NAMES = {"pretrained": "pre-trained encoder", "random_initialisation": "untrained encoder"}


# ---------------------------------------------------------------------------------------------------------- evaluate


def _add_evaluate(verbs: Any) -> None:
    parser = _add_verb(
        verbs,
        "evaluate",
        _run_evaluate,
        "metrics of a fine-tuned model on labelled recordings",
        "Macro and per-label AUROC and average precision with 95 % intervals over patients. Labels of which only one\n"
        "class is present are named and left out.\n\n"
        "examples:\n"
        "  clear-hug evaluate --data ptb-xl --model runs/superclasses\n"
        "  clear-hug evaluate --data ptb-xl --model runs/superclasses --split test --output test_metrics.json",
    )
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help=_DATA_HELP)
    parser.add_argument("--model", type=Path, required=True, metavar="FOLDER", help="output of `finetune`")
    parser.add_argument(
        "--split",
        choices=("train", "validation", "test"),
        help="default: test, or validation where the data has no test recordings",
    )
    parser.add_argument("--labels", nargs="+", metavar="NAME", help="only these labels (default: all of the data)")
    parser.add_argument("--output", type=Path, metavar="FILE", help="write the metrics as JSON")
    parser.add_argument("--limit", type=_positive, metavar="N", help="use only the first N recordings of each split")
    parser.add_argument("--seed", type=int, default=0, help="of the bootstrap (default: %(default)s)")


def _run_evaluate(arguments: argparse.Namespace) -> int:
    from .training.folders import check_writable, load_classifier, write_text

    if arguments.output is not None:
        check_writable(arguments.output.parent)
    _quiet_libraries()
    model, extractor = load_classifier(arguments.model)
    _to_device(model)
    sources = _read_source(arguments.data, arguments.limit)
    split = arguments.split or ("test" if "test" in sources.splits else "validation")
    if split not in sources.splits:
        from .processing import InputError

        raise InputError(f"{arguments.data} has no {split} recordings: it has {', '.join(sources.splits)}")

    from .evaluation.metrics import evaluate_predictions
    from .evaluation.predictions import model_label_names, predict

    label_names = _choose_labels(arguments.labels, sources.label_names, f"the recordings of {arguments.data}")
    _choose_labels(label_names, model_label_names(model.config), f"the model in {arguments.model}")
    sources.splits = {split: sources.splits[split]}
    sets, rejected = _prepare_splits(sources, extractor, label_names)
    _require(sets, rejected, split)
    found = predict(model, sets[split], extractor, progress=True)
    columns = [found.label_names.index(name) for name in label_names]
    assert found.labels is not None
    metrics = {
        "data": str(arguments.data),
        "split": split,
        "model": str(arguments.model),
        **evaluate_predictions(
            found.labels[:, columns],
            found.probabilities[:, columns],
            label_names,
            found.patient_ids,
            seed=arguments.seed,
        ),
    }
    _say(f"{metrics['num_recordings']} {split} recordings of {metrics['num_patients']} patients")
    _say(f"macro AUROC {_interval(metrics['macro_auroc'])}")
    _print_metrics(metrics)
    if arguments.output is not None:
        write_text(arguments.output, json.dumps(metrics, indent=2) + "\n")
        _say(f"\nwritten: {arguments.output}")
    _report_rejected(rejected)
    return EXIT_SOME_FAILED if rejected else EXIT_OK


# ----------------------------------------------------------------------------------------------------------- predict


def _add_predict(verbs: Any) -> None:
    parser = _add_verb(
        verbs,
        "predict",
        _run_predict,
        "labels of recordings, with probabilities",
        "Predict WFDB records (.hea with .dat or .mat; any rate from 50 Hz, any order of leads). A recording longer\n"
        "than the model's window is predicted window by window. Exit status 1 if some records could not be used;\n"
        "they are named at the end.\n\n"
        "examples:\n"
        "  clear-hug predict patient7.hea --model runs/superclasses\n"
        "  clear-hug predict ward3/ extra/A0001 --model runs/superclasses --top-k 2\n"
        "  clear-hug predict ward3/ --model runs/superclasses --json > ward3.jsonl",
    )
    parser.add_argument("records", nargs="+", type=Path, metavar="RECORD", help="records, or folders of records")
    parser.add_argument("--model", type=Path, required=True, metavar="FOLDER", help="output of `finetune`")
    parser.add_argument("--json", action="store_true", help="one JSON object per record and line")
    parser.add_argument(
        "--threshold",
        type=_share,
        default=0.5,
        metavar="SHARE",
        help="from here on a label counts as found (default: %(default)s)",
    )
    parser.add_argument("--top-k", type=_positive, metavar="K", help="show only the K most probable labels")
    parser.add_argument("--labels", nargs="+", metavar="NAME", help="show only these labels")


def _run_predict(arguments: argparse.Namespace) -> int:
    from .training.folders import load_classifier

    _quiet_libraries()
    model, extractor = load_classifier(arguments.model)
    _to_device(model)

    from .data.preparation import Rejected, describe_error, prepare
    from .data.records import RecordReference, find_records
    from .evaluation.predictions import model_label_names, predict
    from .processing import InputError

    shown = _choose_labels(arguments.labels, model_label_names(model.config), f"the model in {arguments.model}")
    references: list[RecordReference] = []
    rejected: list[Rejected] = []
    for path in arguments.records:
        try:
            found = find_records(path)
        except (InputError, FileNotFoundError) as error:
            rejected.append(Rejected(str(path), describe_error(error)))
            continue
        references += [RecordReference(header, str(header.with_suffix(""))) for header in found]
    num_done = 0
    for start in range(0, len(references), _RECORDS_AT_ONCE):
        batch = references[start : start + _RECORDS_AT_ONCE]
        dataset, failed = prepare(batch, extractor, windows="all", progress=False)
        rejected += failed
        if len(dataset):
            predictions = predict(model, dataset, extractor)
            num_done += _print_predictions(arguments, dataset, predictions, shown)
    if not num_done:
        for record, reason in rejected:
            # Messages about files name them; those about signals do not.
            named = reason if record in reason else f"{record}: {reason}"
            print(f"clear-hug: error: {named}", file=sys.stderr)
        return EXIT_BAD_INPUT
    _report_rejected(rejected)
    return EXIT_SOME_FAILED if rejected else EXIT_OK


_RECORDS_AT_ONCE = 64


def _print_predictions(arguments: argparse.Namespace, dataset: datasets.Dataset, found: Any, shown: list[str]) -> int:
    """Print the windows of each record together; the number of records."""
    rows_of: dict[str, list[int]] = {}
    for row, record in enumerate(found.record_ids):
        rows_of.setdefault(record, []).append(row)
    columns = [found.label_names.index(name) for name in shown]
    for record, rows in rows_of.items():
        windows: list[dict[str, Any]] = []
        for row in rows:
            start = float(dataset[row]["window_start"])
            probabilities = {
                name: float(found.probabilities[row, column]) for name, column in zip(shown, columns, strict=True)
            }
            ranked = sorted(probabilities, key=lambda name: -probabilities[name])[: arguments.top_k]
            windows.append(
                {
                    "start": round(start, 3),
                    "end": round(start + len(dataset[row]["signal"][0]) / float(dataset[row]["sampling_rate"]), 3),
                    "found": [name for name in ranked if probabilities[name] >= arguments.threshold],
                    "probabilities": {name: round(probabilities[name], 6) for name in ranked},
                }
            )
        if arguments.json:
            print(json.dumps({"record": record, "windows": windows}), flush=True)
            continue
        seconds = windows[-1]["end"]
        if len(windows) == 1:
            _say(f"{record}  ({seconds:g} s)")
        else:
            _say(f"{record}  ({seconds:g} s, longer than the model's window: predicted in {len(windows)} windows)")
        for window in windows:
            if len(windows) > 1:
                _say(f"  {window['start']:g}-{window['end']:g} s")
            for name, probability in window["probabilities"].items():
                mark = "*" if probability >= arguments.threshold else " "
                _say(f"  {mark} {probability:6.1%}  {name}")
    return len(rows_of)


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
    parser.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    parser.set_defaults(
        head="hug",
        train_encoder=False,
        finetune_epochs=60,
        finetune_batch_size=64,
        head_learning_rate=None,
        no_control=False,
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
    _finetune(arguments, output / "pretrained" / "model", sets, sources.label_names, output)
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
    ):
        self.splits = splits
        self.label_names = label_names
        self.prepared = prepared
        self.extractor = extractor

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


def _read_source(folder: Path, limit: int | None, streamed: Sequence[str] = ()) -> _Sources:
    """What `--data` names: a prepared folder, PTB-XL with labels and folds, or any WFDB records, without labels."""
    from .data.prepared import is_prepared, load_prepared
    from .data.readers import open_source
    from .data.readers.ptbxl import TABLE
    from .data.records import RecordReference, find_records

    if not folder.exists():
        raise FileNotFoundError(f"the data folder {folder} does not exist: check the path")
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
        title=f"Recording {row['record_id']}, cleaned, with its {beats} beats",
    )
    save_figure(figure, path)


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
        f"Recording {row['record_id']}: {hidden.sum()} beats hidden, mean squared error {output.loss.item():.2f}",
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
    width = max(len(name) for name in metrics["per_label"])
    _say(f"\n  {'label':{width}s}  {'positive':>8s}  AUROC")
    for name, entry in metrics["per_label"].items():
        value = "left out: only one class is present" if entry["auroc"] is None else _interval(entry["auroc"])
        _say(f"  {name:{width}s}  {entry['num_positive']:8d}  {value}")


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
