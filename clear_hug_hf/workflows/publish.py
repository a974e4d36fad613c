"""Upload of a model folder to the Hub, with a card generated from the files of its run."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from ..utils.arguments import Arguments
from .shared import quiet_libraries, say


@dataclass(kw_only=True)
class PublishArguments(Arguments):
    """Model to publish, its repository, and the upload."""

    folder: Path = field(
        metadata={
            "help": "A model folder, or the output folder of a run.",
            "positional": True,
            "metavar": "FOLDER",
        }
    )
    repo_id: str = field(
        metadata={
            "help": "Repository on the Hub, created if it does not exist.",
            "positional": True,
            "metavar": "ORG/NAME",
        }
    )
    dry_run: Path | None = field(
        default=None,
        metadata={
            "help": "Write the files to DIR without uploading them, and list what is missing.",
            "metavar": "DIR",
        },
    )
    license: str | None = field(
        default=None,
        metadata={"help": "License of the weights, by its identifier on the Hub: cc-by-4.0, apache-2.0, other ..."},
    )
    license_name: str | None = field(
        default=None, metadata={"help": "With --license other: name of the license.", "metavar": "TEXT"}
    )
    dataset: str | None = field(
        default=None,
        metadata={
            "help": "Dataset of the test recordings on the Hub, for the metrics in .eval_results.",
            "metavar": "ORG/NAME",
        },
    )
    card: Path | None = field(
        default=None,
        metadata={"help": "Model card to use instead of the generated one.", "metavar": "FILE"},
    )
    dtype: Literal["float32", "float16", "bfloat16"] = field(
        default="float32",
        metadata={
            "help": "Data type of the stored weights; 16 bits halve the download, and the model computes in float32."
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
    message: str | None = field(default=None, metadata={"help": "Commit message.", "metavar": "TEXT"})
    staged: Path | None = field(
        default=None,
        metadata={
            "help": "Folder that the repository is staged in before the upload (default: published/ORG/NAME).",
            "metavar": "DIR",
        },
    )


@dataclass(frozen=True)
class PublishResult:
    """License on the card, and the address of the upload (`None` for a dry run)."""

    license: str | None
    address: str | None


def publish(arguments: PublishArguments) -> PublishResult:
    """
    Stage a repository, print its files and what is missing, and upload it unless `dry_run` is set.

    Raises:
        FileNotFoundError: If the model or card does not exist.
        InputError: If the model, the card or a name is invalid, or the Hub rejects the upload.
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
