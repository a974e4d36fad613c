"""
Table 1 of Pan et al. (2026) at a size that one core computes in hours: all objectives, after equally long
pre-training.

    python benchmarks/table1.py --data PTB_XL --extra CINC2011 CHALLENGE LUDB --output runs/table1
    python benchmarks/table1.py --data PTB_XL --output runs/table1 --rows CPC SimCLR --steps benchmark table
    python benchmarks/table1.py --data PTB_XL --output runs/table1 --estimate

`--data` is PTB-XL as PhysioNet has it; `--extra` are further recordings for pre-training. The rows and all settings
are in `benchmarks/table1.yaml`. Rows whose objective or backbone is not installed are named and left out. If
interrupted, the same command continues, with the runs of pre-training at their last checkpoint and the benchmark with
the next cell.

All recordings of PTB-XL are divided into three folds by patient. For each fold, every encoder is pre-trained without
labels on the other two folds and the extra recordings, so that no encoder has seen a patient that it is tested on.
Each run takes the same seconds of one core (`--seconds`): the time of an epoch is measured once for a row, and the
number of epochs that fit is kept in its folder, so that a resumed run equals an uninterrupted one. With `--epochs`,
all rows have that many epochs instead. A recipe sets everything else, and the seed is the number of the fold.
Encoders in the output folder that are of another budget, recipe, recordings or number of folds are refused.

For each task and fold, encoders are tested by `clear-hug benchmark --folds 3`: nine tenths of the patients of the
other folds train with 1, 10 and 100 % of the recordings, and the last tenth chooses epochs and penalties. Frozen
encoders are tested by a linear probe, a logistic regression on the mean feature, and by a trained head with learned
attention. The rows with the best linear probes in validation are fully fine-tuned with all labels. The controls are
each encoder form with random weights, encoders that are trained on the labels from random weights, and, if aeon is
installed (`pip install 'clear-hug-hf[baselines]'`), a ridge regression on MiniRocket's features.

Writes to the output folder `table1.csv` (a line per method, task and fraction, with 95 % bootstrap intervals over
patients, averaged over folds, the paired difference from the random weights of the same form, and what pre-training
cost) and `table1.md`, grouped by backbone, with the paper's numbers in italics.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch
import yaml
from machine import REPOSITORY, describe_machine, write_csv
from table1_markdown import ATTENTION, LABEL_SETS, LINEAR, cost_table, task_table
from transformers import AutoModel, set_seed
from transformers.utils import logging

from clear_hug_hf.cli import main as clear_hug
from clear_hug_hf.data.prepared import MANIFEST, load_prepared, read_manifest, select_labels
from clear_hug_hf.data.splits import patient_folds
from clear_hug_hf.evaluation.metrics import bootstrap_interval
from clear_hug_hf.inference.digests import digest_of
from clear_hug_hf.processing import InputError
from clear_hug_hf.systems import SYSTEMS
from clear_hug_hf.training.benchmark import (
    CELLS,
    MINIROCKET,
    RANDOM,
    BenchmarkArguments,
    Cell,
    Model,
    Task,
    load_folds,
    random_controls,
    read_samples,
    run_benchmark,
    supervised_name,
)
from clear_hug_hf.training.folders import save_model_folder
from clear_hug_hf.training.pretraining import pretrain
from clear_hug_hf.training.recipes import Recipe, read_recipe
from clear_hug_hf.utils.files import write_json


STEPS = ("prepare", "pretrain", "benchmark", "table")
# Frozen encoders are tested by these protocols and heads.
FROZEN = (LINEAR, ATTENTION)
# What budgets and costs of pre-training are recorded with, as messages name it.
IDENTITY = {
    "budget": "a budget of",
    "recipe": "a recipe with the digest",
    "sources": "the recordings of",
    "folds": "a number of folds of",
}
# Batches whose epochs are timed to find how many epochs take the budget.
TIMED_BATCHES = 12
RECIPES = REPOSITORY / "scripts" / "recipes"


@dataclass(frozen=True)
class Row:
    """A row of the table, as the YAML file describes it."""

    name: str
    objective: str = ""
    backbone: str = ""
    recipe: str = ""
    options: dict[str, Any] = field(default_factory=dict)
    tokenizer: str = ""
    paper: str = ""

    @property
    def slug(self) -> str:
        """`str`: Name of the folder of the row."""
        return "".join(c if c.isalnum() else "-" for c in self.name.lower())

    @property
    def stages(self) -> list[Row]:
        """`list[Row]`: What is pre-trained one after the other; the last stage is the row itself."""
        if not self.tokenizer:
            return [self]
        first = Row(f"{self.name} tokenizer", self.tokenizer, self.backbone)
        return [first, self]

    def make_recipe(self, epochs: int = 1, seed: int = 0, tokenizer: Path | None = None) -> Recipe:
        """The recipe of pre-training."""
        path = RECIPES / (self.recipe or f"{self.objective}_tiny.yaml")
        settings = {"objective": self.objective, "system": self.backbone, "report_to": ["none"], "disable_tqdm": True}
        teacher = {} if tokenizer is None else {"tokenizer": str(tokenizer)}
        own = {"num_train_epochs": epochs, "seed": seed, **teacher, **self.options}
        return read_recipe(path if path.is_file() else None, **settings, **own)


@dataclass(frozen=True)
class Settings:
    """Settings of the table, from the YAML file and the command line."""

    folds: int
    tasks: list[str]
    fractions: list[float]
    seeds: list[int]
    min_positives: int
    seconds: float
    probe_epochs: int
    probe_batch_size: int
    finetune_epochs: int
    scratch_epochs: int
    finetuned_rows: int
    bootstrap_samples: int
    supervised: list[str]
    minirocket: bool
    epochs: int | None = None


# What `--smoke` changes: everything runs, but nothing is learned.
SMOKE: dict[str, Any] = {
    "folds": 2,
    "fractions": [1.0],
    "min_positives": 1,
    "epochs": 1,
    "probe_epochs": 2,
    "finetune_epochs": 1,
    "scratch_epochs": 1,
    "finetuned_rows": 1,
    "bootstrap_samples": 20,
    "minirocket": False,
}


class Table:
    """The steps from recordings to the table."""

    def __init__(self, arguments: argparse.Namespace):
        self.arguments, self.output = arguments, arguments.output
        self.prepared: Path = arguments.prepared or self.output / "prepared"
        described = yaml.safe_load(arguments.table.read_text(encoding="utf-8"))
        self.all_rows = [Row(**row) for row in described.pop("rows")]
        changes = dict(SMOKE) if arguments.smoke else {}
        for name in ("seconds", "epochs", "tasks"):
            if getattr(arguments, name) is not None:
                changes[name] = getattr(arguments, name)
        self.settings = replace(Settings(**described), **changes)
        if unknown := {*(arguments.rows or ())} - {row.name for row in self.all_rows}:
            raise SystemExit(f"there is no row {min(unknown)!r} in {arguments.table}")
        self.rows = []
        for row in self.all_rows:
            if row.objective and (arguments.rows is None or row.name in arguments.rows):
                try:
                    if row.backbone not in SYSTEMS:
                        raise InputError(f"there is no backbone {row.backbone!r}")
                    for stage in row.stages:
                        stage.make_recipe().make_config()
                    self.rows.append(row)
                except InputError as error:
                    if not arguments.worker:
                        print(f"{row.name} is left out: {error}", flush=True)
        if arguments.smoke and arguments.rows is None:
            self.rows = self.rows[:2]
        if not self.rows:
            raise SystemExit("no row is left")

    # -------------------------------------------------------------------------------------------------- recordings

    def prepared_name(self, backbone: str) -> str:
        """Folder of recordings prepared for a backbone; backbones with one feature extractor share it."""
        extractor = SYSTEMS[backbone].feature_extractor
        known = (row.backbone for row in self.all_rows if row.backbone in SYSTEMS)
        return next(name for name in known if SYSTEMS[name].feature_extractor is extractor)

    def prepare(self) -> None:
        """Prepare all recordings for all backbones, unless it was done."""
        for backbone in dict.fromkeys(self.prepared_name(row.backbone) for row in self.rows):
            options = {task: ["--labels", LABEL_SETS[task]] for task in self.settings.tasks}
            for name, labels in {"all": [], **options}.items():
                self._prepare(self.arguments.data, backbone, name, labels)
            for source in self.arguments.extra:
                self._prepare(source, backbone, f"extra-{source.name}", ["--split-fractions", "1", "0", "0"])

    def _prepare(self, source: Path, backbone: str, name: str, options: list[str]) -> None:
        folder = self.prepared / backbone / name
        if (folder / MANIFEST).is_file():
            return
        print(f"preparing {source} for {backbone}: {folder}", flush=True)
        clear_hug(["prepare", str(source), "--system", backbone, "--output-dir", str(folder), *options])
        # The status also says whether recordings were rejected.
        if not (folder / MANIFEST).is_file():
            raise SystemExit(f"{source} could not be prepared for {backbone}")

    def pretraining_recordings(self, backbone: str, fold: int) -> tuple[datasets.Dataset, Any]:
        """Recordings of all folds but one and the extra ones, without labels, and their feature extractor."""
        folder = self.prepared / self.prepared_name(backbone)
        sets, extractor = load_prepared(folder / "all")
        everything = datasets.concatenate_datasets([select_labels(rows, None) for rows in sets.values()])
        folds = patient_folds(everything["record_id"], everything["patient_id"], self.settings.folds)
        parts = [everything.select(np.flatnonzero(folds != fold))]
        for source in self.arguments.extra:
            extra, _ = load_prepared(folder / f"extra-{source.name}")
            parts += [select_labels(rows, None) for rows in extra.values()]
        return datasets.concatenate_datasets(parts), extractor

    def load_tasks(self) -> list[Task]:
        """
        The folds of all tasks, prepared for the backbones of the chosen rows and all others of the file that are
        prepared: the benchmark refuses a task whose recordings have changed, and these depend on all preparations.
        """
        needed = {self.prepared_name(row.backbone) for row in self.rows}
        known = [row.backbone for row in self.all_rows if row.backbone in SYSTEMS]
        tasks = []
        for name in self.settings.tasks:
            folders = [
                self.prepared / backbone / name
                for backbone in dict.fromkeys(map(self.prepared_name, known))
                if backbone in needed or (self.prepared / backbone / name / MANIFEST).is_file()
            ]
            if not folders:
                raise SystemExit(f"{name} is not prepared: add `prepare` to the steps")
            tasks += load_folds(name, folders, self.settings.folds, min_positives=self.settings.min_positives)
        return tasks

    # ------------------------------------------------------------------------------------------------- pre-training

    def folder(self, row: Row, fold: int | str) -> Path:
        """Where the encoder of a row and fold is; `{fold}` stands for the fold in a path of the benchmark."""
        return self.output / "pretrained" / row.slug / str(fold)

    def pretrain(self) -> None:
        """Pre-train what is missing, each run in a process of its own, whose memory is measured."""
        stages = [(row, stage) for row in self.rows for stage in row.stages]
        runs = [(row, stage, fold) for row, stage in stages for fold in range(self.settings.folds)]
        for number, (row, stage, fold) in enumerate(runs, start=1):
            path, epochs = self.folder(stage, fold) / "cost.json", self.epochs(row, stage)
            if not path.is_file():
                write_json(path, {**self._run_worker(row, stage, fold, epochs), **self.identity(row, stage)})
            facts = self._read(path, row, stage)
            print(
                f"[{number}/{len(runs)}] {stage.name}, fold {fold}: {facts['epochs']} epochs, "
                f"{facts['seconds']:.0f} s, {facts['peak_mb']:.0f} MB, loss {facts['loss']:.4f}",
                flush=True,
            )

    def epochs(self, row: Row, stage: Row) -> int:
        """Epochs of a stage, measured once unless they are set."""
        if self.settings.epochs is not None:
            return self.settings.epochs
        path = self.output / "pretrained" / stage.slug / "budget.json"
        if not path.is_file():
            per_epoch = self.seconds_per_epoch(row, stage)
            epochs = max(1, int(self.settings.seconds / len(row.stages) / per_epoch))
            path.parent.mkdir(parents=True, exist_ok=True)
            write_json(path, {"seconds_per_epoch": per_epoch, "epochs": epochs, **self.identity(row, stage)})
        return int(self._read(path, row, stage)["epochs"])

    def seconds_per_epoch(self, row: Row, stage: Row) -> float:
        """Measure the seconds of an epoch of a stage."""
        seconds = float(self._run_worker(row, stage, 0, 0)["seconds_per_epoch"])
        if seconds <= 0:
            raise SystemExit(f"an epoch of {stage.name} is too short to be measured: set --epochs")
        return seconds

    def identity(self, row: Row, stage: Row) -> dict[str, str]:
        """What the encoders of a stage depend on, besides the fold."""
        seconds, epochs = self.settings.seconds / len(row.stages), self.settings.epochs
        recipe = asdict(stage.make_recipe())
        return {
            "budget": f"{seconds:g} s" if epochs is None else f"{epochs} epochs",
            "recipe": digest_of(recipe)[:12],
            "sources": ", ".join(f"{name} ({count})" for name, count in self.sources(row.backbone).items()),
            "folds": str(self.settings.folds),
        }

    def sources(self, backbone: str) -> dict[str, int]:
        """Numbers of recordings of PTB-XL and the extra folders, by the names of the folders."""
        folder = self.prepared / self.prepared_name(backbone)
        names = {self.arguments.data.name: "all"} | {
            source.name: f"extra-{source.name}" for source in self.arguments.extra
        }
        manifests = {source: read_manifest(folder / name) for source, name in names.items()}
        return {
            source: sum(split["records"] for split in manifest["splits"].values())
            for source, manifest in manifests.items()
        }

    def _read(self, path: Path, row: Row, stage: Row) -> dict[str, Any]:
        """Read the budget or the cost of a stage, and refuse those of other settings."""
        facts: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        for name, expected in self.identity(row, stage).items():
            if (recorded := facts.get(name, "unknown")) != expected:
                raise SystemExit(
                    f"{path} is of {IDENTITY[name]} {recorded}, not {expected}: choose another output folder"
                )
        return facts

    def _run_worker(self, row: Row, stage: Row, fold: int, epochs: int) -> dict[str, Any]:
        with tempfile.TemporaryDirectory() as folder:
            result = Path(folder) / "result.json"
            job = {"row": row.name, "stage": stage.name, "fold": fold, "epochs": epochs, "result": str(result)}
            code = subprocess.run([sys.executable, *sys.argv, "--worker", json.dumps(job)], check=False).returncode
            if not code:
                facts: dict[str, Any] = json.loads(result.read_text(encoding="utf-8"))
                return facts
        raise SystemExit(f"pre-training of {stage.name}, fold {fold}, failed: fix the error and run the command again")

    def work(self, job: dict[str, Any]) -> None:
        """Pre-train one fold of a stage, or with zero epochs measure the seconds of an epoch."""
        row = next(row for row in self.rows if row.name == job["row"])
        stage = next(stage for stage in row.stages if stage.name == job["stage"])
        fold, epochs = job["fold"], job["epochs"]
        rows, extractor = self.pretraining_recordings(row.backbone, fold)
        tokenizer = None if stage == row.stages[0] else self.folder(row.stages[0], fold)

        def train(recordings: datasets.Dataset, epochs: int, folder: Path) -> dict[str, Any]:
            recipe = stage.make_recipe(epochs, fold, tokenizer)
            batch_size = min(recipe.training.train_batch_size, len(recordings))
            steps = epochs * (len(recordings) // batch_size)
            recipe.training = replace(recipe.training, train_batch_size=batch_size, save_steps=max(1, steps // 5))
            made = recipe.make_feature_extractor(extractor)
            set_seed(fold)
            model = recipe.make_model()
            collator = recipe.make_collator(model, made)
            result = pretrain(model, recordings, made, folder, None, recipe.training, collator=collator)
            encoder: Any = getattr(result.model, "published", result.model)
            return {**result.history[-1], "parameters": encoder.base_model.num_parameters()}

        if not epochs:
            batch_size = stage.make_recipe().training.train_batch_size
            timed = rows.select(range(min(len(rows), TIMED_BATCHES * batch_size)))
            seconds_of: dict[int, float] = {}
            # The first run also warms up, so that longer ones may be needed for a difference.
            for count in (1, 3, 9, 27):
                with tempfile.TemporaryDirectory() as folder:
                    started = time.process_time()
                    train(timed, count, Path(folder))
                    seconds_of[count] = time.process_time() - started
                if seconds_of[count] > seconds_of[1]:
                    break
            per_epoch = (seconds_of[count] - seconds_of[1]) / (count - 1)
            facts: dict[str, Any] = {"seconds_per_epoch": per_epoch * len(rows) / len(timed)}
        else:
            started = time.process_time()
            last = train(rows, epochs, self.folder(stage, fold))
            facts = {
                "recordings": len(rows),
                "epochs": epochs,
                "seconds": last["seconds"],
                "cpu_seconds_of_last_start": round(time.process_time() - started, 1),
                "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
                / (1024**2 if sys.platform == "darwin" else 1024),
                "loss": last["train_loss"],
                "parameters": last["parameters"],
            }
        write_json(job["result"], facts)

    # --------------------------------------------------------------------------------------------------- benchmark

    def frozen(self) -> dict[str, Model]:
        """The pre-trained encoders of all rows."""
        return {row.name: self.folder(row, "{fold}") for row in self.rows}

    def supervised(self) -> dict[str, Model]:
        """Configs of the encoders that are trained from random weights, those of the first rows of their backbones."""
        firsts = {row.backbone: row for row in reversed(self.rows)}
        names = [name for name in self.settings.supervised if name in firsts]
        return {supervised_name(name): firsts[name].make_recipe().make_config() for name in names}

    def baselines(self) -> dict[str, Model]:
        """MiniRocket, if it is wanted and can be run."""
        if not self.settings.minirocket:
            return {}
        if importlib.util.find_spec("aeon") is None:
            print("MiniRocket is left out: aeon is not installed (pip install 'clear-hug-hf[baselines]')", flush=True)
            return {}
        return {MINIROCKET: None}

    def cell_arguments(self, **changes: Any) -> BenchmarkArguments:
        """Cells of the benchmark, by default those of frozen encoders."""
        chosen = {
            "protocols": list(dict.fromkeys(protocol for protocol, _ in FROZEN)),
            "heads": [head for _, head in FROZEN if head],
            "fractions": self.settings.fractions,
            "seeds": self.settings.seeds,
            "draw": "stratified",
            # The table has its own intervals, over folds.
            "bootstrap_samples": 0,
        }
        names = ("probe_epochs", "probe_batch_size", "finetune_epochs", "scratch_epochs")
        return BenchmarkArguments(**{**chosen, **{name: getattr(self.settings, name) for name in names}, **changes})

    def parts(self, tasks: Sequence[Task]) -> Iterator[tuple[dict[str, Model], BenchmarkArguments]]:
        """Models and cells of each part of the benchmark; the last depends on the results of the first."""
        yield {**self.frozen(), RANDOM: None}, self.cell_arguments()
        yield {**self.supervised(), **self.baselines()}, self.cell_arguments()
        best = self.best_rows(tasks)
        changes = {"protocols": ["finetune"], "heads": ["mean"], "fractions": [max(self.settings.fractions)]}
        yield {row.name: self.folder(row, "{fold}") for row in best}, self.cell_arguments(**changes)

    def best_rows(self, tasks: Sequence[Task]) -> list[Row]:
        """The rows with the highest mean over tasks of the logistic regression on all labels, in validation."""
        largest = max(self.settings.fractions)
        scores = {}
        for row in self.rows:
            cells = self.cells(tasks, row.name, "logistic", "", [largest])
            aurocs = [
                json.loads((self.benchmark_folder / CELLS / f"{cell.name}.json").read_text(encoding="utf-8"))[
                    "validation_macro_auroc"
                ]
                for cell in cells
            ]
            scores[row.name] = float(np.mean([auroc for auroc in aurocs if auroc is not None] or [0.0]))
        order = sorted(self.rows, key=lambda row: -scores[row.name])
        return order[: self.settings.finetuned_rows]

    @property
    def benchmark_folder(self) -> Path:
        """`Path`: Output folder of the benchmark."""
        return self.output / "benchmark"

    def cells(
        self, tasks: Sequence[Task], model: str, protocol: str, head: str, fractions: Sequence[float]
    ) -> list[Cell]:
        """Cells of a method."""
        return [
            Cell(task.name, fraction, seed, model, protocol, head, task.fold)
            for task in tasks
            for fraction in fractions
            for seed in self.settings.seeds
        ]

    def benchmark(self) -> None:
        """Run the cells that are missing."""
        tasks = self.load_tasks()
        for name, notes in {task.name: task.notes for task in tasks}.items():
            print(f"{name}: {'; '.join(notes)}", flush=True)
        for models, arguments in self.parts(tasks):
            if models:
                run_benchmark(tasks, models, self.benchmark_folder, arguments, self.output / "features")

    def estimate(self) -> None:
        """Measure the cells of a task and fold, one row for each backbone, and print the seconds of the table."""
        task = self.load_tasks()[0]
        firsts = {row.backbone: row for row in reversed(self.rows)}
        times = len(self.settings.tasks) * self.settings.folds
        kinds: list[tuple[str, int, Model, BenchmarkArguments]] = []
        total = 0.0
        with tempfile.TemporaryDirectory() as scratch:
            for backbone, row in firsts.items():
                # Random weights take as long as trained ones, and each form also has a control.
                recipe, folder = row.make_recipe(), Path(scratch) / backbone
                prepared = load_prepared(self.prepared / self.prepared_name(backbone) / task.name)[1]
                encoder = AutoModel.from_config(recipe.make_config())
                save_model_folder(folder, encoder, recipe.make_feature_extractor(prepared))
                count = 1 + sum(other.backbone == backbone for other in self.rows)
                kinds.append((f"{backbone}, frozen", count, folder, self.cell_arguments()))
                changes = {"protocols": ["finetune"], "heads": ["mean"], "fractions": [max(self.settings.fractions)]}
                kinds.append((f"{backbone}, fine-tuned", 0, folder, self.cell_arguments(**changes)))
            for name, model in {**self.supervised(), **self.baselines()}.items():
                kinds.append((name, 1, model, self.cell_arguments()))
            finetuned = []
            for number, (kind, count, model, cells) in enumerate(kinds):
                name = kind if model is not None else MINIROCKET
                started = time.process_time()
                run_benchmark([task], {name: model}, Path(scratch) / str(number), cells, progress=False)
                seconds = time.process_time() - started
                total += seconds * count * times
                finetuned += [] if count else [seconds * times]
                print(
                    f"{kind}: {seconds:.1f} s for {task.title}, {count} x {seconds * times:.0f} s in all", flush=True
                )
        tuned = float(np.mean(finetuned)) * min(self.settings.finetuned_rows, len(self.rows))
        pretraining = sum(map(self.pretraining_seconds, self.rows)) * self.settings.folds
        print(
            f"fine-tuning of the best rows: {tuned:.0f} s; pre-training: {pretraining:.0f} s; in all "
            f"{(total + tuned + pretraining) / 3600:.1f} hours of one core",
            flush=True,
        )

    def pretraining_seconds(self, row: Row) -> float:
        """Seconds of the pre-training of a fold, measured if epochs are set."""
        if self.settings.epochs is None:
            return self.settings.seconds
        # What predicts codes cannot run before its tokenizer, so it counts as much.
        return self.seconds_per_epoch(row, row.stages[0]) * self.settings.epochs * len(row.stages)

    # ------------------------------------------------------------------------------------------------------- tables

    def write_table(self) -> None:
        """Write the CSV and the Markdown table of all finished methods."""
        tasks = self.load_tasks()
        cells: list[Cell] = []
        for models, arguments in self.parts(tasks):
            if models:
                results = run_benchmark(
                    tasks, models, self.benchmark_folder, arguments, self.output / "features", progress=False
                )
                cells += [
                    Cell(
                        **{name: row[name] for name in ("task", "seed", "model", "protocol", "head", "fold")},
                        fraction=float(row["fraction"]),
                    )
                    for row in results
                ]
        samples = read_samples(tasks, cells, self.benchmark_folder, self.settings.bootstrap_samples)
        controls = random_controls({**self.frozen(), RANDOM: None}, tasks)
        backbone_of = {row.name: row.backbone for row in self.rows}
        backbone_of |= {controls[row.name]: row.backbone for row in self.rows}
        backbone_of |= {supervised_name(row.backbone): row.backbone for row in self.rows}
        costs = {row.name: self.cost(row) for row in self.rows}
        paper = {row.name: row.paper for row in self.all_rows if row.paper}
        num_labels = {task.name: len(task.label_names) for task in tasks}
        lines = []
        for (method, task, fraction), values in samples.items():
            name, protocol, head = method
            difference: dict[str, float | None] = dict.fromkeys(("value", "low", "high"))
            control = ((controls.get(name, name), protocol, head), task, fraction)
            if control[0] != method and control in samples:
                difference = bootstrap_interval(values - samples[control])
            lines.append(
                {
                    "backbone": backbone_of.get(name, ""),
                    "method": name,
                    "protocol": protocol,
                    "head": head,
                    "task": task,
                    "labels": str(num_labels[task]),
                    "fraction": f"{fraction:g}",
                    **{key: _text(value) for key, value in bootstrap_interval(values).items()},
                    **{f"minus_random_{key}": _text(value) for key, value in difference.items()},
                    "paper": paper.get(name, ""),
                    **{
                        key: costs.get(name, {}).get(key, "") for key in ("epochs", "seconds", "peak_mb", "parameters")
                    },
                    **describe_machine("torch", "transformers", "scikit-learn", "aeon"),
                }
            )
        order = {name: place for place, name in enumerate(dict.fromkeys(backbone_of.values()))}
        lines.sort(key=lambda line: order.get(line["backbone"], len(order)))
        write_csv(self.arguments.results or self.output / "table1.csv", lines)
        text = self.markdown(lines)
        (self.output / "table1.md").write_text(text, encoding="utf-8")
        print(text, flush=True)

    def cost(self, row: Row) -> dict[str, str]:
        """What the pre-training of a row cost, of the fold that took the most; stages add up."""
        facts = [
            [self._read(self.folder(stage, fold) / "cost.json", row, stage) for stage in row.stages]
            for fold in range(self.settings.folds)
        ]
        return {
            "epochs": " + ".join(str(stage["epochs"]) for stage in facts[0]),
            # A run that was interrupted counts the seconds since its last start only.
            "seconds": f"{max(sum(stage['cpu_seconds_of_last_start'] for stage in stages) for stages in facts):.0f}",
            "peak_mb": f"{max(stage['peak_mb'] for stages in facts for stage in stages):.0f}",
            "parameters": str(facts[0][-1]["parameters"]),
        }

    def markdown(self, lines: Sequence[dict[str, Any]]) -> str:
        """The tables of all tasks, and of the costs."""
        settings = self.settings
        budget = (
            f"{settings.seconds:g} seconds of one core" if settings.epochs is None else f"{settings.epochs} epochs"
        )
        sections = [
            f"Macro AUROC [%] with 95 % bootstrap intervals over patients, averaged over {settings.folds} folds by "
            f"patient, after {budget} of pre-training for each fold. The columns are fractions of the labels. "
            "Networks that are trained as a whole, and MiniRocket, are in the columns of the linear probe. The fully "
            "fine-tuned rows are those with the best linear probes in validation. In italics: the paper's numbers, of "
            "other recordings, larger encoders and other protocols."
        ]
        for task in settings.tasks:
            count = next(line["labels"] for line in lines if line["task"] == task)
            sections += [f"### {task}: {count} labels", task_table(lines, task)]
        return "\n\n".join([*sections, "### Cost of pre-training", cost_table(lines)]) + "\n"


def _text(value: float | None) -> str:
    return "" if value is None or np.isnan(value) else f"{value:.5f}"


def main() -> int:
    """Read the command line, and run the steps; the status is 2 for an error of the user."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="PTB-XL")
    parser.add_argument("--extra", type=Path, nargs="*", default=[], metavar="DIR", help="more to pre-train on")
    parser.add_argument("--output", type=Path, default=Path("runs/table1"), metavar="DIR", help="%(default)s")
    parser.add_argument("--prepared", type=Path, metavar="DIR", help="prepared recordings (default: in the output)")
    parser.add_argument("--table", type=Path, default=Path(__file__).with_suffix(".yaml"), metavar="FILE", help="rows")
    parser.add_argument("--rows", nargs="+", metavar="NAME", help="of the file (default: all)")
    parser.add_argument("--tasks", nargs="+", choices=tuple(LABEL_SETS), help="(default: those of the file)")
    parser.add_argument("--steps", nargs="+", choices=STEPS, default=list(STEPS), help="(default: all)")
    parser.add_argument("--seconds", type=float, metavar="S", help="of each pre-training (default: the file's)")
    parser.add_argument("--epochs", type=int, metavar="N", help="of each pre-training, in place of seconds")
    parser.add_argument("--results", type=Path, metavar="FILE", help="CSV (default: table1.csv in the output)")
    parser.add_argument("--estimate", action="store_true", help="measure one cell of each kind and print the hours")
    parser.add_argument("--smoke", action="store_true", help="two rows, two folds and one epoch: about a minute")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    datasets.disable_progress_bars()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        return run(arguments)
    except InputError as error:
        print(" ".join(f"error: {error}".split()), file=sys.stderr)
        return 2


def run(arguments: argparse.Namespace) -> int:
    """Run the requested steps."""
    table = Table(arguments)
    if arguments.worker:
        table.work(json.loads(arguments.worker))
        return 0
    if "prepare" in arguments.steps:
        table.prepare()
    if arguments.estimate:
        table.estimate()
        return 0
    for name, step in (("pretrain", table.pretrain), ("benchmark", table.benchmark), ("table", table.write_table)):
        if name in arguments.steps:
            step()
    return 0


if __name__ == "__main__":
    sys.exit(main())
