"""
What moves the probe: CLEAR pre-trained in many ways, one change at a time, judged on PTB-XL's fold 9.

    for name in ptbxl cinc2011 challenge ludb; do for detector in multilead xqrs regular; do
        clear-hug prepare SOURCES/$name --extractor-settings detector=$detector \\
            --output-dir prepared/$detector/$name [--labels ptbxl_super for PTB-XL] \\
            [--split-fractions 1 0 0 for the others]
    done; done
    python benchmarks/trials.py --prepared prepared --output runs/trials   # everything: hours on two cores
    python benchmarks/trials.py --prepared prepared --output runs/trials --only paper augmented --seeds 0

Every trial pre-trains on folds 1 to 8 of PTB-XL and all recordings of the other folders, without labels. Heads for the
five superclasses are trained on nine tenths of the patients of folds 1 to 8 with the encoder frozen, their epoch is
chosen on the last tenth, and fold 9 is tested: the choices that this table leads to are made on fold 9, and no number
in it is that of a test. The seed is that of pre-training and head. Stopped, the same command goes on; trials that were
run elsewhere before stay in the log.

Writes `benchmarks/results/trials.csv`: a row for each run (also of those that came to nothing), means over seeds with
95 % bootstrap intervals over patients, and paired differences from the paper's form.
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
from pathlib import Path
from typing import Any, NamedTuple

import datasets
import numpy as np
import torch
from machine import REPOSITORY, describe_machine, write_csv
from thirds import PROBE
from transformers import set_seed
from transformers.utils import logging

from clear_hug_hf.data.prepared import load_prepared, select_labels
from clear_hug_hf.evaluation.metrics import bootstrap_interval, macro_auroc_samples
from clear_hug_hf.training.benchmark import CELLS, BenchmarkArguments, Cell, Task, load_task, run_benchmark
from clear_hug_hf.training.folders import load_feature_extractor, save_model_folder
from clear_hug_hf.training.pretraining import pretrain
from clear_hug_hf.training.recipes import read_recipe


SOURCES = ("ptbxl", "cinc2011", "challenge", "ludb")
HEADS = ("mean", "hug")
FRACTIONS = (0.1, 1.0)
BASELINE = "paper"


class Trial(NamedTuple):
    """
    One way to pre-train.

    Args:
        about (`str`): What differs from the baseline.
        model, recipe (`dict`): Fields of the config and of the recipe that differ.
        detector (`str`): Whose beats.
        sources (`Sequence[str]`): Which recordings.
    """

    about: str
    model: dict[str, Any] = {}  # noqa: RUF012 (never changed)
    recipe: dict[str, Any] = {}  # noqa: RUF012
    detector: str = "multilead"
    sources: tuple[str, ...] = SOURCES


TRIALS = {
    "untrained": Trial("no pre-training", recipe={"num_train_epochs": 0}),
    BASELINE: Trial("the paper's form at tiny size, 25 epochs"),
    "released": Trial(
        "masks and embedding as the released code has them",
        {"cls_attention": "reference_bias", "beat_embedding": "conv"},
    ),
    "conv": Trial("beats embedded with their neighbours", {"beat_embedding": "conv"}),
    "masked_autoencoder": Trial("everything attends to everything", {"full_attention": True}),
    "features": Trial("scale and RR intervals kept", {"use_beat_features": True}),
    "untrained_features": Trial(
        "no pre-training, scale and RR kept", {"use_beat_features": True}, {"num_train_epochs": 0}
    ),
    "augmented": Trial("recordings augmented", recipe={"augmentation": 1.0}),
    "mask_50": Trial("half of the beats hidden", {"mask_ratio": 0.5}),
    "mask_65": Trial("65 % of the beats hidden", {"mask_ratio": 0.65}),
    "mask_90": Trial("90 % of the beats hidden", {"mask_ratio": 0.9}),
    "xqrs": Trial("beats of the paper's detector", detector="xqrs"),
    "regular": Trial("patches of 0.96 s in place of beats", detector="regular"),
    "wider": Trial(
        "width 192 in place of 128",
        {"hidden_size": 192, "intermediate_size": 384, "num_attention_heads": 6},
    ),
    "deeper": Trial("8 layers in place of 4", {"num_hidden_layers": 8}),
    "shallower": Trial("2 layers in place of 4", {"num_hidden_layers": 2}),
    "short": Trial("10 epochs", recipe={"num_train_epochs": 10}),
    "long": Trial("60 epochs", recipe={"num_train_epochs": 60}),
    "ptbxl_only": Trial("PTB-XL alone", sources=("ptbxl",)),
}


def run_trial(name: str, seed: int, prepared: Path, output: Path) -> None:
    """Pre-train and probe, or find that it was done."""
    trial, folder = TRIALS[name], output / f"{name}-{seed}"
    sets = [load_prepared(prepared / trial.detector / source) for source in trial.sources]
    rows = datasets.concatenate_datasets([select_labels(one["train"], None) for one, _ in sets])
    # The log was made before the decoder had the paper's rule for visible beats; decoder_rule.csv compares the two.
    fields = {"decoder_visible_attention": "all", **trial.model}
    options: dict[str, Any] = {"seed": seed, "config_overrides": fields, **trial.recipe}
    epochs = options.pop("epochs", None)
    recipe = read_recipe(**options)
    if epochs is not None:
        recipe.training.num_train_epochs = epochs  # A recipe has at least one.
    extractor = recipe.make_feature_extractor(sets[0][1])
    set_seed(seed)
    model = recipe.make_model()
    if not recipe.training.num_train_epochs:
        save_model_folder(folder / "model", model, extractor)
        facts = {"epochs": 0, "seconds": 0.0, "train_loss": None, "validation_loss": None}
    else:
        validation = select_labels(sets[0][0]["validation"], None)
        collator = recipe.make_collator(model, extractor)
        done = pretrain(model, rows, extractor, folder, validation, recipe.training, collator=collator)
        facts = {
            "epochs": len(done.history),
            "seconds": done.history[-1]["seconds"],
            "train_loss": done.history[-1]["train_loss"],
            "validation_loss": done.history[-1]["validation_loss"],
        }
    facts |= {"recordings": len(rows), "parameters": model.base_model.num_parameters()}
    (folder / "trial.json").write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
    arguments = BenchmarkArguments(
        heads=list(HEADS), fractions=list(FRACTIONS), seeds=[seed], draw="stratified", **PROBE
    )
    run_benchmark([task_of(name, folder, prepared)], {name: folder / "model"}, folder / "probes", arguments)


def task_of(name: str, folder: Path, prepared: Path) -> Task:
    """The superclasses, cut as a trial's model reads them."""
    task = load_task("super", prepared / TRIALS[name].detector / "ptbxl")
    task.feature_extractor, task.folder = load_feature_extractor(folder / "model"), None
    return task


def summarise(output: Path, prepared: Path) -> list[dict[str, Any]]:
    """Rows of the results, of the trials that are there."""
    rows: list[dict[str, Any]] = []
    samples: dict[tuple[str, float, str], np.ndarray] = {}
    by_seed: dict[tuple[str, float, str], dict[int, float]] = {}
    for name, trial in TRIALS.items():
        folders = [path.parent for path in output.glob(f"{name}-[0-9]*/trial.json")]
        found = sorted(int(folder.name.rsplit("-", 1)[1]) for folder in folders)
        if not found:
            continue
        # Detectors may reject other recordings, so that labels are those of each trial's own fold 9.
        task = load_task("super", prepared / trial.detector / "ptbxl")
        for fraction in FRACTIONS:
            for head in HEADS:
                runs: dict[int, np.ndarray] = {}
                for seed in found:
                    cell = Cell("super", fraction, seed, name, "probe", head)
                    path = output / f"{name}-{seed}" / "probes" / CELLS / f"{cell.name}.npy"
                    if path.is_file():
                        runs[seed] = np.load(path)
                if not runs:
                    continue
                labels, patients = task.truth("test"), task.patient_ids("test")
                key = (name, fraction, head)
                samples[key] = macro_auroc_samples(labels, list(runs.values()), patients, 2000)
                by_seed[key] = {
                    seed: float(macro_auroc_samples(labels, [one], patients, 0)[0]) for seed, one in runs.items()
                }
                facts = [json.loads((output / f"{name}-{seed}" / "trial.json").read_text()) for seed in runs]
                rows.append(_row("macro AUROC", key, trial, samples[key], by_seed[key], facts))
    for (name, fraction, head), one in samples.items():
        before = samples.get((BASELINE, fraction, head))
        if name == BASELINE or before is None:
            continue
        if before.shape == one.shape:
            seeds = by_seed[name, fraction, head]
            base = by_seed[BASELINE, fraction, head]
            between = {seed: value - base[seed] for seed, value in seeds.items() if seed in base}
            key = (name, fraction, head)
            rows.append(_row("difference from the paper's form", key, TRIALS[name], one - before, between, []))
    return [{**row, **describe_machine("torch", "transformers", "scikit-learn")} for row in rows]


def earlier_rows(results: Path, trials: set[str]) -> list[dict[str, Any]]:
    """Rows of other trials that the log holds: what was tried once stays in it."""
    if not results.is_file():
        return []
    with results.open(newline="", encoding="utf-8") as file:
        return [row for row in csv.DictReader(file) if row["trial"] not in trials]


def _row(
    what: str,
    key: tuple[str, float, str],
    trial: Trial,
    samples: np.ndarray,
    by_seed: dict[int, float],
    facts: list[dict[str, Any]],
) -> dict[str, Any]:
    def mean(name: str, form: str) -> str:
        values = [one[name] for one in facts if one.get(name) is not None]
        return format(float(np.mean(values)), form) if values else ""

    name, fraction, head = key
    interval = bootstrap_interval(samples)
    return {
        "what": what,
        "trial": name,
        "about": trial.about,
        "labels": f"{100 * fraction:g}%",
        "head": head,
        **{column: f"{value:.5f}" for column, value in interval.items() if value is not None},
        "seeds": " ".join(f"{seed}:{value:.4f}" for seed, value in by_seed.items()),
        "epochs": mean("epochs", ".0f"),
        "recordings": mean("recordings", ".0f"),
        "parameters": mean("parameters", ".0f"),
        "seconds": mean("seconds", ".0f"),
        "train_loss": mean("train_loss", ".4f"),
        "validation_loss": mean("validation_loss", ".4f"),
    }


def main() -> int:
    """Run the trials that are asked for, and write the results of all that are there."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prepared", type=Path, required=True, metavar="DIR", help="DETECTOR/SOURCE, see above")
    parser.add_argument("--output", type=Path, default=Path("runs/trials"), metavar="DIR", help="%(default)s")
    parser.add_argument("--only", nargs="*", choices=tuple(TRIALS), default=list(TRIALS), help="trials")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2], metavar="N", help="%(default)s")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), metavar="N", help="of torch")
    parser.add_argument("--results", type=Path, default=REPOSITORY / "benchmarks" / "results" / "trials.csv")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    datasets.disable_progress_bars()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    for seed in arguments.seeds:
        for name in arguments.only:
            run_trial(name, seed, arguments.prepared, arguments.output)
            print(name, seed, flush=True)
    rows = summarise(arguments.output, arguments.prepared)
    if rows:
        kept = earlier_rows(arguments.results, {row["trial"] for row in rows})
        order = {name: place for place, name in enumerate(TRIALS)}
        kept = sorted(rows + kept, key=lambda row: (row["what"] != "macro AUROC", order.get(row["trial"], len(order))))
        write_csv(arguments.results, kept)
    for row in rows:
        print(
            f"{row['what']}: {row['trial']}, {row['head']}, {row['labels']}: {row['value']} ({row['low']} to "
            f"{row['high']}) {row['seeds']}"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
