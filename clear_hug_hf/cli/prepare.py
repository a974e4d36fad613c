"""`clear-hug prepare`: recordings in, a dataset for training out."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from .shared import (
    EXIT_OK,
    EXIT_SOME_FAILED,
    add_count_option,
    add_verb,
    positive,
    quiet_libraries,
    say,
    seed,
    share,
    system_options,
)


def add(verbs: Any) -> None:
    """Add `prepare` to the verbs of the command line."""
    from ..data.label_sets import LABEL_SETS
    from ..data.readers import CSV_CONTRACT, READERS
    from ..systems import DEFAULT_SYSTEM, SYSTEMS

    parser = add_verb(
        verbs,
        run,
        "recordings in, a dataset for training out",
        "Read, clean and search recordings once, and store them as Parquet shards that `datasets.load_dataset` reads\n"
        "and --data of the other verbs takes. Interrupted, killed or out of space, the same command resumes; the\n"
        "result is the same bytes for any number of processes.\n\n"
        "Writes to the output folder: data/*.parquet, README.md (the dataset card), manifest.json (settings, counts,\n"
        "checksums), preprocessor_config.json, rejected.csv (recordings that cannot be used, with the reason) and\n"
        "excluded.csv (those that the labels or options asked for leave out).\n\n"
        "examples:\n"
        "  clear-hug prepare downloads/ptb-xl --labels ptbxl_super --output ptb-xl --num-proc 8\n"
        "  clear-hug prepare downloads/challenge --labels cpsc9 --output cpsc --split-fractions 0.7 0.1 0.2\n"
        "  clear-hug prepare ward.csv --labels afib lvh --output ward --model runs/pretrained\n"
        "  clear-hug prepare downloads/mimic --output mimic --split-fractions 1 0 0 --shard-index 3 --num-shards 16",
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
    named: dict[str, Any] = {"action": "append", "default": [], "type": _option, "metavar": "NAME=VALUE"}
    parser.add_argument(
        "--option",
        **named,
        help="option of the reader, such as sampling_rate=500 for ptbxl; an unknown one names all",
    )
    parser.add_argument(
        "--model", type=Path, metavar="FOLDER", help="clean as this model needs it (default: as a new one)"
    )
    parser.add_argument(
        "--system",
        choices=tuple(SYSTEMS),
        help=f"without --model: clean as new models of this system need it (default: {DEFAULT_SYSTEM})",
    )
    parser.add_argument(
        "--setting",
        **named,
        help="setting of the feature extractor, such as millivolts_per_unit=0.1 for pages of normalised recordings",
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
        type=share,
        metavar=("TRAIN", "VALIDATION", "TEST"),
        help="draw splits by patient (default: the official ones; where there are none, 0.7 0.1 0.2)",
    )
    parser.add_argument("--seed", type=seed, default=0, help="of drawn splits (default: %(default)s)")
    add_count_option(parser, "--num-proc", 1, "processes side by side")
    add_count_option(
        parser,
        "--shard-size",
        1000,
        "recordings per file; at most this many per process are done again after a kill",
    )
    parser.add_argument("--shard-index", type=int, metavar="I", help="in a job array: number of this job, from 0")
    parser.add_argument("--num-shards", type=positive, metavar="N", help="in a job array: number of jobs")


def _option(text: str) -> tuple[str, Any]:
    from ..training.recipes import split_option

    name, value = split_option(text)
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value


def run(arguments: argparse.Namespace) -> int:
    """Run `prepare` and return the exit status."""
    from ..data.model_files import extractor_settings, load_feature_extractor
    from ..data.readers import guess_kind, open_source
    from ..data.sharding import prepare_shards
    from ..processing import InputError
    from ..systems import DEFAULT_SYSTEM, SYSTEMS, system_of

    if arguments.model is not None and arguments.system is not None:
        raise InputError("--model says how to clean, and so does --system: give one of them")
    options: dict[str, Any] = dict(arguments.option)
    kind = arguments.kind or guess_kind(arguments.source)
    if arguments.labels and kind == "csv":
        options["label_columns"] = arguments.labels
    elif arguments.labels:
        if len(arguments.labels) > 1:
            raise InputError(f"{len(arguments.labels)} label sets for {kind}: name one; columns are for CSV tables")
        options["label_set"] = arguments.labels[0]
    source = open_source(kind, arguments.source, **options)
    if source.problem_type == "single_label_classification" and options.get("problem_type") != source.problem_type:
        raise InputError(
            f"the column {source.settings['label_columns'][0]!r} of {arguments.source} holds classes, and training "
            "one class of several is not supported yet: make a column of 1 and 0 for each class (for a Trainer of "
            "your own, --option problem_type=single_label_classification prepares it)"
        )
    quiet_libraries()
    if arguments.model is None:
        extractor: Any = SYSTEMS[arguments.system or DEFAULT_SYSTEM].feature_extractor()
    else:
        from ..training.folders import find_model_folder

        extractor = load_feature_extractor(find_model_folder(arguments.model))
    chosen = {"windows": arguments.windows, "stride_seconds": arguments.stride_seconds}
    chosen = {name: value for name, value in chosen.items() if value is not None}
    known = extractor_settings(extractor)
    if unknown := [name for name, _ in arguments.setting if name not in known]:
        raise InputError(
            f"{type(extractor).__name__} has no setting {unknown[0]!r}: choose from {', '.join(sorted(known))}"
        )
    extractor = type(extractor)(**{**known, **dict(arguments.setting), **chosen})
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
        say(
            f"{arguments.output}: {outcome.num_done} of {outcome.num_planned} shards are there; the job that makes "
            "the last one finishes the dataset, and so does the same command without --shard-index"
        )
        return EXIT_OK
    if outcome.num_existing == outcome.num_planned:
        say(f"{arguments.output} was prepared before with the same settings: no recording was read")
    _print_prepared(outcome.manifest)
    of_system = system_options(system_of(extractor).name)
    say(f"\nnext: clear-hug pretrain{of_system} --data {arguments.output} --output runs/pretrained")
    return EXIT_SOME_FAILED if any(split["rejected"] for split in outcome.manifest["splits"].values()) else EXIT_OK


def _print_prepared(manifest: dict[str, Any]) -> None:
    columns = ("records", "kept", "rejected", "rows")
    say(f"  {'split':12s}" + "".join(f"{column:>10s}" for column in columns))
    for name, split in manifest["splits"].items():
        say(f"  {name:12s}" + "".join(f"{split[column]:10d}" for column in columns))
    if manifest["excluded"]:
        say(f"  {manifest['excluded']} recordings were left out by the labels or options: excluded.csv lists them")
    if any(split["rejected"] for split in manifest["splits"].values()):
        say("  rejected.csv says why recordings were rejected")
