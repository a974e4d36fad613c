"""A model folder to the Hub, with a card made from the files of its run."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from ..utils.arguments import Arguments
from .shared import quiet_libraries, say


@dataclass(kw_only=True)
class PublishArguments(Arguments):
    """Which model is published, as what, and how."""

    folder: Path = field(
        metadata={
            "help": "A model folder, or the output folder of a run.",
            "positional": True,
            "metavar": "FOLDER",
        }
    )
    repo_id: str = field(
        metadata={
            "help": "The repository, which is created if it does not exist.",
            "positional": True,
            "metavar": "ORG/NAME",
        }
    )
    dry_run: Path | None = field(
        default=None,
        metadata={
            "help": "Write exactly what would be uploaded to DIR, name what is missing, and upload nothing.",
            "metavar": "DIR",
        },
    )
    license: str | None = field(
        default=None,
        metadata={"help": "License of the weights, as the Hub spells it: cc-by-4.0, apache-2.0, other ..."},
    )
    license_name: str | None = field(
        default=None, metadata={"help": "With --license other: name of the license.", "metavar": "TEXT"}
    )
    dataset: str | None = field(
        default=None,
        metadata={
            "help": "The test recordings on the Hub, for the metrics in .eval_results.",
            "metavar": "ORG/NAME",
        },
    )
    card: Path | None = field(
        default=None,
        metadata={"help": "A card of your own, instead of the one that is made.", "metavar": "FILE"},
    )
    dtype: Literal["float32", "float16", "bfloat16"] = field(
        default="float32",
        metadata={
            "help": "How weights are stored; 16 bits halve the download, and the model still computes in float32."
        },
    )
    private: bool = field(default=False, metadata={"help": "Make a new repository private."})
    revision: str | None = field(
        default=None,
        metadata={
            "help": "Branch to commit to, created if it does not exist (default: main).",
            "metavar": "BRANCH",
        },
    )
    create_pr: bool = field(default=False, metadata={"help": "Open a pull request instead of committing."})
    message: str | None = field(default=None, metadata={"help": "Message of the commit.", "metavar": "TEXT"})
    staged: Path | None = field(
        default=None,
        metadata={
            "help": "Where the repository is staged before it is uploaded (default: published/ORG/NAME).",
            "metavar": "DIR",
        },
    )


@dataclass(frozen=True)
class PublishResult:
    """The license that the card states, and the address of what was uploaded, if anything was."""

    license: str | None
    address: str | None


def publish(arguments: PublishArguments) -> PublishResult:
    """
    Stage a repository, print its files and what is missing, and upload it unless it is a dry run.

    Raises:
        FileNotFoundError: If there is no such model or card.
        InputError: If the model, the card or a name cannot be used, or the Hub refuses the upload.
    """
    from ..hub.publishing import check_repo_id, check_revision, stage, upload

    check_repo_id(arguments.repo_id)
    if arguments.revision is not None:
        check_revision(arguments.revision)
    quiet_libraries()
    staged = stage(
        arguments.folder,
        arguments.dry_run or arguments.staged or Path("published") / arguments.repo_id,
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
        return PublishResult(staged.license, None)
    address = upload(
        staged,
        arguments.repo_id,
        private=arguments.private,
        revision=arguments.revision,
        create_pr=arguments.create_pr,
        message=arguments.message,
    )
    return PublishResult(staged.license, address)


def _size(size: int) -> str:
    return f"{size / 1e6:.1f} MB" if size >= 1e6 else f"{size / 1e3:.1f} kB"
