"""The papers' evaluation protocol: tasks x label fractions x models x heads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from ..training.arguments import BenchmarkArguments
from .shared import CacheArguments, output_dir_field, quiet_libraries, resumable, say, say_unused_devices


if TYPE_CHECKING:
    from transformers import PreTrainedConfig


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
        default_factory=list,
        metadata={
            "help": "Model folders or outputs of `clear-hug pretrain`, named NAME or after the folder; with --folds, "
            "{fold} in a path is the number of the fold, from 0, for models that were pre-trained for each.",
            "metavar": "[NAME=]FOLDER",
        },
    )
    output_dir: Path = output_dir_field("runs/benchmark")
    labels: list[str] | None = field(default=None, metadata={"help": "Labels of each task to use (default: all)."})
    min_positives: int = field(
        default=1,
        metadata={"help": "Skip labels with fewer than N positive or negative training or test recordings.", "gt": 0},
    )
    folds: int | None = field(
        default=None,
        metadata={
            "help": "Cross-validate by patient in N folds of all recordings, whatever their splits.",
            "ge": 2,
            "metavar": "N",
        },
    )
    control: bool = field(
        default=True, metadata={"help": "Also test the encoder of each form of the models, randomly initialized."}
    )
    supervised: list[str] = field(
        default_factory=list,
        metadata={
            "help": "Also train encoders of these systems from random initialization on the labels, each with its "
            "mean head; SIZE is a preset of the config (default: the smallest).",
            "metavar": "SYSTEM[:SIZE]",
        },
    )
    resnet: bool = field(default=False, metadata={"help": "Also train a supervised 1-D ResNet."})
    minirocket: bool = field(
        default=False,
        metadata={"help": "Also train a ridge regression on the features of MiniRocket (needs aeon)."},
    )


@dataclass(frozen=True)
class RunResult:
    """Files that a benchmark wrote."""

    table: Path
    results: Path


def benchmark(arguments: RunArguments, cells: BenchmarkArguments) -> RunResult:
    """
    Run the cells that are missing in the output folder, and write the table of all cells.

    Raises:
        InputError: If two names are equal, there is nothing to test, a model does not match a task, or the folder
            holds another benchmark.
        ImportError: If aeon, which MiniRocket needs, is not installed.
    """
    from ..processing.errors import InputError, import_library
    from ..training.benchmark import (
        FOLD,
        MINIROCKET,
        RANDOM,
        RESNET,
        RUN,
        Model,
        load_folds,
        load_task,
        run_benchmark,
        supervised_name,
    )
    from ..training.folders import find_model_folder
    from ..utils.files import check_writable

    output = check_writable(arguments.output_dir, [RUN])
    task_folders = _named_folders(arguments.tasks, allow_repeats=True)
    models: dict[str, Model] = {name: folders[0] for name, folders in _named_folders(arguments.models).items()}
    for folder in models.values():
        if arguments.folds is None or FOLD not in str(folder):
            find_model_folder(str(folder))
    if arguments.minirocket:
        import_library("aeon", "MiniRocket")
    quiet_libraries()
    say_unused_devices("run other tasks on the others with CUDA_VISIBLE_DEVICES, --tasks and --output-dir")
    supervised = {supervised_name(text): _config(text) for text in arguments.supervised}
    if reserved := {RANDOM, RESNET, MINIROCKET, *supervised} & models.keys():
        raise InputError(f"the name {min(reserved)!r} is reserved for a control: rename the model with NAME=FOLDER")
    models |= {RANDOM: None} if arguments.control and (models or supervised) else {}
    models |= supervised
    models |= {RESNET: None} if arguments.resnet else {}
    models |= {MINIROCKET: None} if arguments.minirocket else {}
    if not models:
        raise InputError("there is nothing to test: set --models, --supervised, --resnet or --minirocket")
    tasks = []
    for name, dirs in task_folders.items():
        if arguments.folds is None:
            tasks.append(load_task(name, dirs, arguments.labels, arguments.min_positives))
        else:
            tasks += load_folds(name, dirs, arguments.folds, arguments.labels, arguments.min_positives)
    for name, notes in {task.name: task.notes for task in tasks}.items():
        for note in notes:
            say(f"{name}: {note}")
    with resumable("with the missing cells"):
        run_benchmark(tasks, models, output, cells, arguments.cache_dir, say=say)
    return RunResult(output / "table.md", output / "results.csv")


def _config(text: str) -> PreTrainedConfig:
    """The config of a system's encoder from `SYSTEM[:SIZE]`."""
    from ..processing.errors import InputError
    from ..systems import SYSTEMS
    from ..utils.arguments import nearest

    name, separator, size = text.partition(":")
    if name not in SYSTEMS:
        raise InputError(f"there is no system {name!r}{nearest(name, SYSTEMS)}")
    presets = SYSTEMS[name].config.presets
    if (size := size if separator else next(iter(presets))) not in presets:
        raise InputError(f"{name} has no size {size!r}: choose from {', '.join(presets)}")
    return SYSTEMS[name].config.preset(size)


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
