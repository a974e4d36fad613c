"""
Trained heads and logistic regressions on the same frozen encoder and few recordings, cross-validated by patient.

    python benchmarks/frozen_heads.py prepared/super prepared/sub prepared/form prepared/rhythm

The training and validation recordings of each folder are divided into three folds, as `clear-hug finetune --folds 3`
does. Heads are trained with its default recipe on nine tenths of the other folds, and the last tenth chooses the
epoch; a regression is fitted to all of the other folds, and the strength of its penalty is chosen by these. The mean
head is also trained from the solution of a regression, with a fifth of the rate. The encoder reads each recording
once. Labels with fewer than five recordings in a fold's training part are left out.

Writes `benchmarks/results/frozen_heads.csv`: macro AUROC of the out-of-fold predictions with a 95 % interval over
patients, and the paired difference from the regression. Rows of other folders stay.
"""

from __future__ import annotations

import argparse
import csv
import sys
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch
from machine import REPOSITORY, describe_machine, write_csv
from transformers import set_seed
from transformers.utils import logging

from clear_hug_hf.data.collator import EcgCollator
from clear_hug_hf.data.prepared import load_prepared
from clear_hug_hf.evaluation.metrics import macro_auroc_interval
from clear_hug_hf.training.arguments import FinetuningArguments
from clear_hug_hf.training.cross_validation import choose_strengths, split_folds
from clear_hug_hf.training.features import EncodedDataset, default_cache, encode, identity_collator, known_labels
from clear_hug_hf.training.finetuning import HeadOnly, make_optimizer, solve_head, train_with_trainer
from clear_hug_hf.training.folders import find_model_folder, load_for_finetuning
from clear_hug_hf.workflows.finetune import drop_rare_labels


NUM_FOLDS = 3
LOGISTIC = "logistic regression"
# Head, whether it starts from a regression, and its rate.
TRAINED = {
    "mean head, trained": ("mean", False, None),
    "mean head, trained from the regression": ("mean", True, 1e-3),
    "HUG, trained": ("hug", False, None),
}


@torch.no_grad()
def predict(model: Any, encoded: EncodedDataset) -> np.ndarray:
    """Probabilities of a head for encoded recordings, `(num_recordings, num_labels)`."""
    head = HeadOnly(model).eval()
    return head(encoded.columns["lead_states"], encoded.columns["present"])["logits"].sigmoid().numpy()


class Recordings:
    """The recordings of a prepared folder with the features of an encoder, in folds."""

    def __init__(self, folder: Path, model: Path, cache: Path):
        sets, extractor = load_prepared(folder)
        names = list(sets["train"].features["labels"])
        sets, self.label_names, _ = drop_rare_labels(sets, names, 5, NUM_FOLDS)
        self.rows = datasets.concatenate_datasets([sets["train"], sets["validation"]])
        self.folds = split_folds(self.rows, NUM_FOLDS)
        self.model = model
        collator = EcgCollator(extractor, label_names=self.label_names)
        self.encoded = encode(self.new_model("mean", 0), self.rows, collator, cache_dir=cache)
        self.labels = known_labels(self.encoded)

    def new_model(self, head: str, seed: int) -> Any:
        """The encoder with a new head."""
        set_seed(seed)
        return load_for_finetuning(self.model, self.label_names, head_type=head)[0]

    def regress(self) -> tuple[np.ndarray, list[float]]:
        """Out-of-fold probabilities of logistic regressions, and their strengths."""
        parts = [{**rows, "train": np.union1d(rows["train"], rows["validation"])} for rows in self.folds]
        strengths = choose_strengths(self.encoded, self.rows, parts)
        probabilities = np.zeros_like(self.labels)
        for rows, strength in zip(parts, strengths, strict=False):
            model = self.new_model("mean", 0)
            solve_head(model, self.encoded.select(rows["train"].tolist()), strength)
            probabilities[rows["test"]] = predict(model, self.encoded.select(rows["test"].tolist()))
        return probabilities, strengths[:-1]

    def train(self, head: str, from_regression: bool, rate: float | None, seed: int) -> tuple[np.ndarray, list[int]]:
        """Out-of-fold probabilities of trained heads, and their epochs."""
        recipe = FinetuningArguments(head_learning_rate=rate, seed=seed, disable_tqdm=True)
        probabilities, epochs = np.zeros_like(self.labels), []
        for rows in self.folds:
            sets = [self.encoded.select(rows[split].tolist()) for split in ("train", "validation", "test")]
            model = self.new_model(head, seed)
            if from_regression:
                solve_head(model, sets[0], sets[1])
            optimizer = make_optimizer(model, recipe)
            best, _ = train_with_trainer(HeadOnly(model), sets[0], sets[1], identity_collator, optimizer, recipe)
            epochs.append(best)
            probabilities[rows["test"]] = predict(model, sets[2])
        return probabilities, epochs


def measure(folder: Path, model: Path, cache: Path, seeds: list[int]) -> list[dict[str, Any]]:
    """Rows of the results of a prepared folder."""
    recordings = Recordings(folder, model, cache)
    patients = list(recordings.rows["patient_id"])
    reference, strengths = recordings.regress()
    runs = {LOGISTIC: ([reference], [strengths])}
    for name, how in TRAINED.items():
        runs[name] = tuple(zip(*(recordings.train(*how, seed) for seed in seeds), strict=True))
    rows = []
    for name, (probabilities, chosen) in runs.items():
        row: dict[str, Any] = {"labels": folder.name, "method": name, "num_labels": len(recordings.label_names)}
        row |= {"recordings": len(recordings.rows), "folds": NUM_FOLDS}
        intervals = {"auroc": macro_auroc_interval(recordings.labels, probabilities, (), patients)}
        intervals["difference"] = macro_auroc_interval(recordings.labels, probabilities, [reference], patients)
        for kind, interval in intervals.items():
            row |= {f"{kind}_{part}": f"{value:.5f}" for part, value in interval.items()}
        row["chosen"] = " ".join(f"{value:g}" for run in chosen for value in run)
        print(", ".join(f"{row[key]}" for key in ("labels", "method", "auroc_value", "difference_value", "chosen")))
        rows.append(row | describe_machine("torch", "transformers", "scikit-learn"))
    return rows


def main() -> int:
    """Measure the named folders and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path, metavar="DIR", help="outputs of clear-hug prepare")
    parser.add_argument("--model", default="clear-hug-small", metavar="FOLDER", help="encoder (%(default)s)")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0], metavar="N", help="of trained heads (0)")
    parser.add_argument("--feature-cache", type=Path, default=default_cache(), metavar="DIR", help="%(default)s")
    parser.add_argument("--results", type=Path, default=REPOSITORY / "benchmarks" / "results" / "frozen_heads.csv")
    arguments = parser.parse_args()
    datasets.disable_progress_bars()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    model = find_model_folder(arguments.model)
    for folder in arguments.folders:
        rows = measure(folder, model, arguments.feature_cache, arguments.seeds)
        kept = []
        if arguments.results.is_file():
            with arguments.results.open(newline="", encoding="utf-8") as file:
                kept = [row for row in csv.DictReader(file) if row["labels"] != folder.name]
        write_csv(arguments.results, [*kept, *rows])
    return 0


if __name__ == "__main__":
    sys.exit(main())
