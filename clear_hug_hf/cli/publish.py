"""`clear-hug publish`: a model folder to the Hub, with a card made from the files of its run."""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path
from typing import Any

from .shared import EXIT_OK, add_verb, quiet_libraries, say


def add(verbs: Any) -> None:
    """Add `publish` to the verbs of the command line."""
    parser = add_verb(
        verbs,
        run,
        "a model to the Hub, with its card",
        "Stage a repository on disk and upload it in one commit: weights as safetensors, the config with all Auto\n"
        "classes and label names, the preprocessing, the code of both, the pipeline of a classifier, and a model\n"
        "card made from the files of the run (data, splits, recipe, metrics with intervals, versions, licences,\n"
        "citations). The files that the card's numbers are from are published with it. What is missing is named.\n\n"
        "Needs a token that may write: `hf auth login`, or HF_TOKEN. Whatever goes wrong, the staged folder stays.\n\n"
        "examples:\n"
        "  clear-hug publish runs/superclasses you/ecg-superclasses --dry-run staged\n"
        "  clear-hug publish runs/superclasses you/ecg-superclasses --license cc-by-4.0 --private\n"
        "  clear-hug publish runs/superclasses you/ecg-superclasses --license cc-by-4.0 --dataset you/ptb-xl-super\n"
        "  clear-hug publish runs/pretrained/best you/ecg-encoder --license cc-by-4.0 --create-pr",
    )
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="a model folder, or the output folder of a run")
    parser.add_argument("repo_id", metavar="ORG/NAME", help="the repository; made if it is not there")
    parser.add_argument(
        "--dry-run",
        type=Path,
        metavar="DIR",
        help="write exactly what would be uploaded to DIR, say what is missing, and upload nothing",
    )
    parser.add_argument(
        "--license", metavar="NAME", help="of the weights, as the Hub spells it: cc-by-4.0, apache-2.0, other ..."
    )
    parser.add_argument("--license-name", metavar="TEXT", help="what it is called, with --license other")
    parser.add_argument(
        "--dataset",
        metavar="ORG/NAME",
        help="the tested recordings on the Hub, for which .eval_results states the metrics",
    )
    parser.add_argument(
        "--card", type=Path, metavar="FILE", help="a card of your own, instead of the one that is made"
    )
    parser.add_argument(
        "--dtype",
        choices=("float32", "float16", "bfloat16"),
        default="float32",
        help="how weights are stored; 16 bits take half the room, and the model still computes in float32 "
        "(default: %(default)s)",
    )
    parser.add_argument("--private", action="store_true", help="make a new repository private")
    parser.add_argument("--revision", metavar="BRANCH", help="branch to commit to, made if need be (default: main)")
    parser.add_argument("--create-pr", action="store_true", help="open a pull request instead of committing")
    parser.add_argument("--message", metavar="TEXT", help="of the commit")
    parser.add_argument(
        "--staged",
        type=Path,
        metavar="DIR",
        help="where the repository is staged before it is uploaded (default: published/ORG/NAME)",
    )


def run(arguments: argparse.Namespace) -> int:
    """Run `publish` and return the exit status."""
    from ..hub.publishing import check_repo_id, check_revision, stage, upload

    check_repo_id(arguments.repo_id)
    if arguments.revision is not None:
        check_revision(arguments.revision)
    quiet_libraries()
    where = arguments.dry_run or arguments.staged or Path("published") / arguments.repo_id
    staged = stage(
        arguments.folder,
        where,
        arguments.repo_id,
        license=arguments.license,
        license_name=arguments.license_name,
        dataset_id=arguments.dataset,
        card=arguments.card,
        dtype=arguments.dtype,
    )
    say(f"{staged.folder}:")
    width = max(map(len, staged.files))
    for name, size in staged.files.items():
        say(f"  {name:{width}s}  {_size(size):>9s}")
    for missing in staged.missing:
        say(f"missing: {missing}")
    if arguments.dry_run is not None:
        say(f"\nnothing was uploaded; to publish it:\n  {_command(arguments, staged.license)}")
        return EXIT_OK
    address = upload(
        staged,
        arguments.repo_id,
        private=arguments.private,
        revision=arguments.revision,
        create_pr=arguments.create_pr,
        message=arguments.message,
    )
    say(f"\npublished: {address}")
    return EXIT_OK


def _size(size: int) -> str:
    return f"{size / 1e6:.1f} MB" if size >= 1e6 else f"{size / 1e3:.1f} kB"


def _command(arguments: argparse.Namespace, license: str | None) -> str:
    words = ["clear-hug", "publish", str(arguments.folder), arguments.repo_id, "--license", license or "LICENCE"]
    for name in ("license_name", "dataset", "card", "revision", "message"):
        if (value := getattr(arguments, name)) is not None:
            words += [f"--{name.replace('_', '-')}", str(value)]
    if arguments.dtype != "float32":
        words += ["--dtype", arguments.dtype]
    words += [f"--{name.replace('_', '-')}" for name in ("private", "create_pr") if getattr(arguments, name)]
    return shlex.join(words)
