"""The papers' protocol: tasks x fractions of the labels x models x heads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ..training.arguments import BenchmarkArguments
from .shared import CacheArguments, output_dir_field, quiet_libraries, resumable, say, say_unused_devices


@dataclass(kw_only=True)
class RunArguments(CacheArguments):
    """Which models are tested on which tasks; [`BenchmarkArguments`] says how."""

    tasks: list[str] = field(
        metadata={
            "help": "Folders of `clear-hug prepare --labels`, called NAME or as the folder. The same NAME joins the "
            "same recordings prepared for different systems.",
            "metavar": "[NAME=]DIR",
        }
    )
    models: list[str] = field(
        metadata={
            "help": "Model folders or outputs of `pretrain`, called as the folder or NAME.",
            "metavar": "[NAME=]FOLDER",
        }
    )
    output_dir: Path = output_dir_field("runs/benchmark")
    labels: list[str] | None = field(
        default=None, metadata={"help": "Use only these labels of each task (default: all)."}
    )
    min_positives: int = field(
        default=1,
        metadata={"help": "Skip labels with fewer positive or negative training or test recordings.", "gt": 0},
    )
    control: bool = field(default=True, metadata={"help": "Also test the randomly initialized encoder."})
    resnet: bool = field(default=False, metadata={"help": "Also train a supervised 1-D ResNet."})


@dataclass(frozen=True)
class RunResult:
    """The files that a benchmark wrote."""

    table: Path
    results: Path


def benchmark(arguments: RunArguments, cells: BenchmarkArguments) -> RunResult:
    """
    Run the cells that the output folder does not have, and write the table of all.

    Raises:
        InputError: If names collide, a model does not fit a task, or the folder holds another benchmark.
    """
    from ..processing.errors import InputError
    from ..training.benchmark import RANDOM, RESNET, RUN, load_task, run_benchmark
    from ..utils.files import check_writable

    output = check_writable(arguments.output_dir, [RUN])
    task_folders = _named_folders(arguments.tasks, several=True)
    models: dict[str, Path | None] = {name: folders[0] for name, folders in _named_folders(arguments.models).items()}
    quiet_libraries()
    say_unused_devices("start others with CUDA_VISIBLE_DEVICES, --tasks and --output-dir of their own")
    if reserved := {RANDOM, RESNET} & models.keys():
        raise InputError(f"the name {min(reserved)!r} is taken by a control: give the model another, NAME=FOLDER")
    models |= {RANDOM: None} if arguments.control else {}
    models |= {RESNET: None} if arguments.resnet else {}
    tasks = [load_task(name, dirs, arguments.labels, arguments.min_positives) for name, dirs in task_folders.items()]
    for task in tasks:
        for note in task.notes:
            say(f"{task.name}: {note}")
    with resumable("with the missing cells"):
        run_benchmark(tasks, models, output, cells, arguments.cache_dir, say=say)
    return RunResult(output / "table.md", output / "results.csv")


def _named_folders(given: Sequence[str], several: bool = False) -> dict[str, list[Path]]:
    """Folders by name; with `several`, a name that is written out may have more than one."""
    from ..processing.errors import InputError

    named: dict[str, list[Path]] = {}
    for text in given:
        name, found, folder = text.partition("=")
        path = Path(folder if found else text)
        name = name if found else path.name
        if not name:
            raise InputError(f"{text!r} has no name: give NAME=FOLDER")
        if name in named and not (several and found):
            raise InputError(f"two folders are called {name!r}: give them names, NAME=FOLDER")
        named.setdefault(name, []).append(path)
    return named
