"""The papers' evaluation protocol: tasks x label fractions x models x heads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ..training.arguments import BenchmarkArguments
from .shared import CacheArguments, output_dir_field, quiet_libraries, resumable, say, say_unused_devices


@dataclass(kw_only=True)
class RunArguments(CacheArguments):
    """Tasks and models of a benchmark; [`BenchmarkArguments`] holds the settings of its cells."""

    tasks: list[str] = field(
        metadata={
            "help": "Folders from `clear-hug prepare --labels`, named NAME or after the folder; one NAME joins "
            "folders of the same recordings prepared for different systems.",
            "metavar": "[NAME=]DIR",
        }
    )
    models: list[str] = field(
        metadata={
            "help": "Model folders or outputs of `clear-hug pretrain`, named NAME or after the folder.",
            "metavar": "[NAME=]FOLDER",
        }
    )
    output_dir: Path = output_dir_field("runs/benchmark")
    labels: list[str] | None = field(default=None, metadata={"help": "Labels of each task to use (default: all)."})
    min_positives: int = field(
        default=1,
        metadata={"help": "Skip labels with fewer than N positive or negative training or test recordings.", "gt": 0},
    )
    control: bool = field(default=True, metadata={"help": "Also test the randomly initialized encoder."})
    resnet: bool = field(default=False, metadata={"help": "Also train a supervised 1-D ResNet."})


@dataclass(frozen=True)
class RunResult:
    """Files that a benchmark wrote."""

    table: Path
    results: Path


def benchmark(arguments: RunArguments, cells: BenchmarkArguments) -> RunResult:
    """
    Run the cells that are missing in the output folder, and write the table of all cells.

    Raises:
        InputError: If two names are equal, a model does not match a task, or the folder holds another benchmark.
    """
    from ..processing.errors import InputError
    from ..training.benchmark import RANDOM, RESNET, RUN, load_task, run_benchmark
    from ..training.folders import find_model_folder
    from ..utils.files import check_writable

    output = check_writable(arguments.output_dir, [RUN])
    task_folders = _named_folders(arguments.tasks, allow_repeats=True)
    models: dict[str, Path | None] = {name: folders[0] for name, folders in _named_folders(arguments.models).items()}
    for folder in models.values():
        find_model_folder(str(folder))
    quiet_libraries()
    say_unused_devices("run other tasks on the others with CUDA_VISIBLE_DEVICES, --tasks and --output-dir")
    if reserved := {RANDOM, RESNET} & models.keys():
        raise InputError(f"the name {min(reserved)!r} is reserved for a control: rename the model with NAME=FOLDER")
    models |= {RANDOM: None} if arguments.control else {}
    models |= {RESNET: None} if arguments.resnet else {}
    tasks = [load_task(name, dirs, arguments.labels, arguments.min_positives) for name, dirs in task_folders.items()]
    for task in tasks:
        for note in task.notes:
            say(f"{task.name}: {note}")
    with resumable("with the missing cells"):
        run_benchmark(tasks, models, output, cells, arguments.cache_dir, say=say)
    return RunResult(output / "table.md", output / "results.csv")


def _named_folders(texts: Sequence[str], allow_repeats: bool = False) -> dict[str, list[Path]]:
    """Folders by name from `FOLDER` or `NAME=FOLDER`; with `allow_repeats`, an explicit name may have several."""
    from ..processing.errors import InputError

    named: dict[str, list[Path]] = {}
    for text in texts:
        name, separator, folder = text.partition("=")
        path = Path(folder if separator else text)
        name = name if separator else path.name
        if not name:
            raise InputError(f"{text!r} has no name: write NAME=FOLDER")
        if name in named and not (allow_repeats and separator):
            raise InputError(f"two folders are named {name!r}: rename one with NAME=FOLDER")
        named.setdefault(name, []).append(path)
    return named
