"""
CLEAR and ECG-JEPA on the same recordings for the same compute, at tiny size, cross-validated by patient.

    clear-hug prepare PTB_XL --labels ptbxl_super --output-dir prepared/clear
    clear-hug prepare PTB_XL --labels ptbxl_super --system ecg_jepa --output-dir prepared/jepa
    python benchmarks/compare_systems.py --clear prepared/clear --jepa prepared/jepa --output runs/comparison

The recordings that both prepared folders have (folds 1 to 9) are divided into three folds by patient. For each fold,
an encoder of each system is pre-trained on the other two without labels for the same seconds: how many epochs that are
is measured first, in turn on one thread, and is then the same for all folds. Heads are trained on nine tenths of these
patients and chosen on the last tenth, and the fold is tested. The seed of a pre-training run is the number of its
fold; heads have three seeds each. The control of each system is its encoder without its weights. If interrupted, the
same command continues.

Writes `benchmarks/results/compare_systems.csv`: macro AUROC of each method with a 95 % bootstrap interval over
patients, the value of each seed, and paired differences.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch
from cross_validation import PROBE, fold_scores, path_of
from machine import REPOSITORY, describe_machine, write_csv
from transformers import set_seed
from transformers.utils import logging

from clear_hug_hf.data.prepared import load_prepared
from clear_hug_hf.data.splits import patient_folds
from clear_hug_hf.evaluation.metrics import bootstrap_interval
from clear_hug_hf.training.benchmark import RANDOM, BenchmarkArguments, Cell, Task, run_benchmark
from clear_hug_hf.training.cross_validation import fold_rows
from clear_hug_hf.training.pretraining import pretrain
from clear_hug_hf.training.recipes import read_recipe


NUM_FOLDS = 3
SEEDS = (0, 1, 2)
SYSTEMS = {"clear": "clear_hug", "jepa": "ecg_jepa"}
HEADS = {"clear": ("mean", "hug"), "jepa": ("mean",)}
# Name, system, whether the encoder is pre-trained, head.
METHODS = [
    ("CLEAR randomly initialized + mean", "clear", False, "mean"),
    ("CLEAR randomly initialized + HUG", "clear", False, "hug"),
    ("CLEAR + mean", "clear", True, "mean"),
    ("CLEAR + HUG", "clear", True, "hug"),
    ("ECG-JEPA randomly initialized + mean", "jepa", False, "mean"),
    ("ECG-JEPA + mean", "jepa", True, "mean"),
]
DIFFERENCES = [
    ("CLEAR + mean", "CLEAR randomly initialized + mean"),
    ("CLEAR + HUG", "CLEAR randomly initialized + HUG"),
    ("ECG-JEPA + mean", "ECG-JEPA randomly initialized + mean"),
    ("ECG-JEPA + mean", "CLEAR + mean"),
    ("ECG-JEPA + mean", "CLEAR + HUG"),
]


class Comparison:
    """What both systems share: recordings, folds, and how long they are pre-trained."""

    def __init__(self, folders: dict[str, Path], output: Path, seconds: float):
        self.output, self.seconds = output, seconds
        loaded = {name: load_prepared(folder) for name, folder in folders.items()}
        self.extractors = {name: extractor for name, (_, extractor) in loaded.items()}
        everything = {
            name: datasets.concatenate_datasets([sets[split] for split in ("train", "validation") if split in sets])
            for name, (sets, _) in loaded.items()
        }
        shared = set.intersection(*(set(rows["record_id"]) for rows in everything.values()))
        self.rows = {
            name: rows.select([place for place, record in enumerate(rows["record_id"]) if record in shared])
            for name, rows in everything.items()
        }
        first, *others = self.rows.values()
        if any(list(rows["record_id"]) != list(first["record_id"]) for rows in others):
            raise SystemExit("the two folders list the recordings in another order: prepare them from the same source")
        self.folds = patient_folds(first["record_id"], first["patient_id"], NUM_FOLDS)

    def epochs(self) -> dict[str, int]:
        """Epochs that take each system the same seconds, measured once."""
        path = self.output / "epoch_seconds.json"
        if not path.is_file():
            times = {name: [self._seconds_of_epoch(name, fold) for fold in range(2)] for name in SYSTEMS}
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(times, indent=2))
        return {
            name: max(1, round(self.seconds / min(seconds))) for name, seconds in json.loads(path.read_text()).items()
        }

    def _seconds_of_epoch(self, name: str, fold: int) -> float:
        recipe = read_recipe(system=SYSTEMS[name], num_train_epochs=1)
        with tempfile.TemporaryDirectory() as folder:
            result = pretrain(
                recipe.make_model(),
                self.rows[name].select(np.flatnonzero(self.folds != fold)),
                self.extractors[name],
                folder,
                None,
                recipe.training,
            )
        return float(result.history[-1]["seconds"])

    def folder_of(self, name: str, fold: int) -> Path:
        """Where the encoder of a system and fold is."""
        return self.output / "pretrained" / f"{name}-{fold}"

    def pretrain(self, name: str, fold: int) -> None:
        """Pre-train a system on all folds but one, unless it was done."""
        recipe = read_recipe(system=SYSTEMS[name], num_train_epochs=self.epochs()[name], seed=fold)
        set_seed(fold)
        rows = np.flatnonzero(self.folds != fold)
        result = pretrain(
            recipe.make_model(),
            self.rows[name].select(rows),
            self.extractors[name],
            self.folder_of(name, fold),
            None,
            recipe.training,
        )
        last = result.history[-1]
        print(f"{name}, fold {fold}: {last['epoch']} epochs, {last['seconds']:.0f} s, loss {last['train_loss']:.4f}")

    def task(self, name: str, fold: int) -> Task:
        """Train, validation and test recordings of a fold."""
        everything = self.rows[name]
        sets = {split: everything.select(rows) for split, rows in fold_rows(everything, self.folds, fold).items()}
        return Task(f"fold{fold}", sets, list(everything.features["labels"]), self.extractors[name])

    def probe(self, name: str, fold: int) -> None:
        """Train and test heads on a fold, and on the encoder without its weights."""
        models = {name: self.folder_of(name, fold) / "model", RANDOM: None}
        arguments = BenchmarkArguments(heads=list(HEADS[name]), fractions=[1.0], seeds=list(SEEDS), **PROBE)
        run_benchmark(
            [self.task(name, fold)], models, self.output / f"probes-{name}-{fold}", arguments, self.output / "features"
        )

    def summarize(self) -> list[dict[str, Any]]:
        """Rows of the results, for methods with complete results."""
        samples: dict[str, np.ndarray] = {}
        of_seeds: dict[str, np.ndarray] = {}
        for title, name, trained, head in METHODS:
            tasks = [self.task(name, fold) for fold in range(NUM_FOLDS)]
            model = name if trained else RANDOM
            paths = [
                [
                    path_of(self.output / f"probes-{name}-{fold}", Cell(task.name, 1.0, seed, model, "probe", head))
                    for seed in SEEDS
                ]
                for fold, task in enumerate(tasks)
            ]
            if (scores := fold_scores(tasks, paths)) is not None:
                samples[title] = scores.samples
                of_seeds[title] = np.mean(scores.by_run, axis=0)
        rows = [
            _row("macro AUROC", title, "", method_samples, of_seeds[title])
            for title, method_samples in samples.items()
        ]
        for first, second in DIFFERENCES:
            if first in samples and second in samples:
                between = of_seeds[first] - of_seeds[second]
                rows.append(_row("difference", first, second, samples[first] - samples[second], between))
        epochs = self.epochs()
        about = {"seconds": f"{self.seconds:g}", "epochs": " ".join(f"{name}={epochs[name]}" for name in SYSTEMS)}
        return [{**row, **about, **describe_machine("torch", "transformers", "scikit-learn")} for row in rows]


def _row(kind: str, method: str, minus: str, samples: np.ndarray, by_seed: np.ndarray) -> dict[str, Any]:
    interval = bootstrap_interval(samples)
    return {
        "what": kind,
        "method": method,
        "minus": minus,
        **{name: f"{value:.5f}" for name, value in interval.items() if value is not None},
        "seeds": " ".join(f"{value:.4f}" for value in by_seed),
    }


def main() -> int:
    """Run the requested parts and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clear", type=Path, required=True, metavar="DIR", help="prepared for CLEAR")
    parser.add_argument("--jepa", type=Path, required=True, metavar="DIR", help="the same, prepared for ECG-JEPA")
    parser.add_argument("--output", type=Path, default=Path("runs/comparison"), metavar="DIR", help="%(default)s")
    parser.add_argument("--seconds", type=float, default=300.0, metavar="S", help="of each pre-training (%(default)s)")
    parser.add_argument("--only", choices=("epochs", "pretraining", "probes", "summary"), help="one part")
    parser.add_argument("--folds", nargs="+", type=int, default=list(range(NUM_FOLDS)), metavar="N", help="folds")
    parser.add_argument("--systems", nargs="+", choices=tuple(SYSTEMS), default=list(SYSTEMS), help="which")
    parser.add_argument(
        "--results", type=Path, default=REPOSITORY / "benchmarks" / "results" / "compare_systems.csv", metavar="FILE"
    )
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    datasets.disable_progress_bars()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    comparison = Comparison({"clear": arguments.clear, "jepa": arguments.jepa}, arguments.output, arguments.seconds)
    parts = ("epochs", "pretraining", "probes") if arguments.only is None else (arguments.only,)
    if "epochs" in parts:
        print(f"epochs in {arguments.seconds:g} s: {comparison.epochs()}", flush=True)
    for part in parts:
        for fold in arguments.folds:
            for name in arguments.systems:
                if part == "pretraining":
                    comparison.pretrain(name, fold)
                elif part == "probes":
                    comparison.probe(name, fold)
    rows = comparison.summarize()
    if rows:
        write_csv(arguments.results, rows)
    for row in rows:
        minus = f" - {row['minus']}" if row["minus"] else ""
        print(f"{row['method']}{minus}: {row['value']} ({row['low']} to {row['high']}); seeds {row['seeds']}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
