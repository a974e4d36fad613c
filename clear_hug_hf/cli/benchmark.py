"""`clear-hug benchmark`: the paper's protocol."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .shared import (
    EXIT_OK,
    add_cache_options,
    add_count_option,
    add_verb,
    cache_dir,
    quiet_libraries,
    resumable,
    say,
    say_unused_devices,
    seed,
)


def add(verbs: Any) -> None:
    """Add `benchmark` to the verbs of the command line."""
    from ..systems import head_types

    parser = add_verb(
        verbs,
        run,
        "the paper's protocol: tasks x shares of the labels x models x heads",
        "Train and test models on 1, 10 and 100 % of the training recordings of each task, with several seeds,\n"
        "beside the same encoder without its weights and, if asked for, a supervised ResNet. Shares are drawn at\n"
        "random, as in the paper, or by patient such that each label keeps its share (--draw stratified). The epoch\n"
        "is chosen on validation recordings, the test recordings are used once per cell; where a task has none its\n"
        "validation recordings are tested, and the epoch is chosen on a tenth of the training patients.\n\n"
        "Stopped or killed, the same command goes on with the cells that are missing. More tasks, models, fractions\n"
        "or seeds can be added: name them beside the former ones, since table and CSV hold what is asked for.\n\n"
        "Writes to the output folder: results.csv (a row per cell, with intervals), table.md (laid out as the\n"
        "paper's Table 1, with the paper's numbers where the recordings are the same, and differences to the\n"
        "controls), benchmark.json and cells/.\n\n"
        "examples:\n"
        "  clear-hug benchmark --tasks prepared/super prepared/rhythm --models mine=runs/pretrained\n"
        "  clear-hug benchmark --tasks super=prepared/first super=prepared/second \\\n"
        "      --models first=runs/first second=runs/second\n"
        "  clear-hug benchmark --tasks prepared/super --models mine=runs/pretrained --protocols knn probe \\\n"
        "      --heads mean weighted --fractions 10 100 --seeds 0 1 2 --resnet --output runs/benchmark",
    )
    parser.add_argument(
        "--tasks",
        nargs="+",
        required=True,
        metavar="[NAME=]DIR",
        help="folders of `clear-hug prepare --labels`, under the folder's name unless another is given; with the same "
        "NAME, the same recordings prepared for different systems",
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
        choices=head_types(),
        help="mean with probe is the linear probe (default: mean, and the models' usual one if all can have it)",
    )
    parser.add_argument(
        "--fractions",
        nargs="+",
        type=float,
        default=[1.0, 10.0, 100.0],
        metavar="PERCENT",
        help="of the training recordings (default: 1 10 100)",
    )
    parser.add_argument(
        "--draw",
        choices=("plain", "stratified"),
        default="plain",
        help="how these are drawn: at random, as in the paper, or by patient such that each label keeps its share, "
        "which gives more of the rare ones (default: %(default)s)",
    )
    parser.add_argument("--seeds", nargs="+", type=seed, default=[0, 1, 2], metavar="N", help="default: 0 1 2")
    parser.add_argument("--no-control", action="store_true", help="leave out the encoder without its weights")
    parser.add_argument("--resnet", action="store_true", help="train a supervised 1-D ResNet beside")
    parser.add_argument("--labels", nargs="+", metavar="NAME", help="only these labels of each task (default: all)")
    fewer = "leave out, by name, labels with fewer training or test recordings of a class"
    add_count_option(parser, "--min-positives", 1, fewer)
    add_count_option(parser, "--probe-batch-size", 256, "of a probe; the default is the paper's")
    for name, value in (("probe", 100), ("finetune", 20), ("reference", 10)):
        add_count_option(parser, f"--{name}-epochs", value)
    parser.add_argument(
        "--output", type=Path, default=Path("runs/benchmark"), metavar="DIR", help="default: %(default)s"
    )
    add_cache_options(parser)


def run(arguments: argparse.Namespace) -> int:
    """Run `benchmark` and return the exit status."""
    from ..processing import InputError
    from ..training.benchmark import RUN
    from ..utils.files import check_writable

    output = check_writable(arguments.output, [RUN])
    of_tasks = _named_folders(arguments.tasks, several=True)
    models: dict[str, Path | None] = {name: folders[0] for name, folders in _named_folders(arguments.models).items()}
    quiet_libraries()
    say_unused_devices("start others with CUDA_VISIBLE_DEVICES, --tasks and --output of their own")
    from ..training.benchmark import RANDOM, RESNET, BenchmarkArguments, load_task, recipes, run_benchmark, usual_heads

    if reserved := {RANDOM, RESNET} & models.keys():
        raise InputError(f"the name {min(reserved)!r} is taken by a control: give the model another, NAME=FOLDER")
    named = [folder for folder in models.values() if folder is not None]
    if not arguments.no_control:
        models[RANDOM] = None
    if arguments.resnet:
        models[RESNET] = None
    chosen = BenchmarkArguments(
        heads=tuple(dict.fromkeys(arguments.heads or usual_heads(named))),
        protocols=tuple(dict.fromkeys(arguments.protocols)),
        fractions=tuple(dict.fromkeys(percent / 100 for percent in arguments.fractions)),
        seeds=tuple(dict.fromkeys(arguments.seeds)),
        draw=arguments.draw,
        recipes=recipes(
            arguments.probe_epochs, arguments.finetune_epochs, arguments.reference_epochs, arguments.probe_batch_size
        ),
    )
    tasks = [load_task(name, folders, arguments.labels, arguments.min_positives) for name, folders in of_tasks.items()]
    for task in tasks:
        for note in task.notes:
            say(f"{task.name}: {note}")
    with resumable("with the cells that are missing"):
        run_benchmark(tasks, models, output, chosen, cache_dir(arguments), say=say)
    table = output / "table.md"
    say(f"\n{table.read_text(encoding='utf-8')}\nwritten: {output / 'results.csv'}, {table}")
    return EXIT_OK


def _named_folders(given: Sequence[str], several: bool = False) -> dict[str, list[Path]]:
    """Folders by name; with `several`, a name that is written out may have more than one."""
    from ..processing import InputError

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
