"""
Baselines of the shipped recipe, cross-validated by patient: a ResNet, a masked autoencoder, random weights.

    python benchmarks/baselines.py --data prepared/multilead/ptbxl \\
        --extra prepared/multilead/{cinc2011,challenge,ludb} \\
        --recipe scripts/recipes/clear_small.yaml --output runs/baselines

As in `paper_ablations.py`, all recordings of PTB-XL (its folds 1 to 9) are divided into three folds by patient. For
each fold, encoders are pre-trained by the recipe on the other two and on all extra recordings; heads are trained, and
models fully fine-tuned, on nine tenths of the labeled patients and selected on the last tenth; and the fold is tested.
This is done with all labels and with a tenth of them. With a tenth, full fine-tuning and the ResNet also run for five
times the epochs, since an epoch is then only a few steps. The ResNet is trained on the same labels in the same run.
The seed of pre-training and of full fine-tuning is the number of the fold; heads and the ResNet have three seeds. If
interrupted, the same command continues.

What a visible beat sees in the decoder is compared in the same way (`benchmarks/results/decoder_rule.csv`):

    python benchmarks/baselines.py --data prepared/multilead/ptbxl \\
        --extra prepared/multilead/{cinc2011,challenge,ludb} \\
        --recipe scripts/recipes/clear_tiny.yaml --epochs 12 --variants clear paper_decoder \\
        --parts pretraining probes --output runs/decoder_rule --results benchmarks/results/decoder_rule.csv

Writes `benchmarks/results/baselines.csv`: macro AUROC with 95 % bootstrap intervals over patients, paired differences,
and the loss and the seconds of each pre-training.
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
from cross_validation import PROBE, fold_scores, path_of
from machine import REPOSITORY, describe_machine, write_csv
from paper_ablations import NUM_FOLDS, all_recordings, task_of_fold
from transformers import set_seed
from transformers.utils import logging

from clear_hug_hf.data.prepared import load_prepared, select_labels
from clear_hug_hf.evaluation.metrics import bootstrap_interval
from clear_hug_hf.training.benchmark import RANDOM, RESNET, BenchmarkArguments, Cell, run_benchmark
from clear_hug_hf.training.finetuning import FinetuningArguments
from clear_hug_hf.training.folders import load_feature_extractor
from clear_hug_hf.training.pretraining import EPOCH_LOG, pretrain
from clear_hug_hf.training.recipes import Recipe, read_recipe


SEEDS = (0, 1, 2)
FRACTIONS = (0.1, 1.0)
EPOCHS, RESNET_EPOCHS, TIMES = 12, 30, 5  # Full fine-tuning; the ResNet; the factor of both with few labels.
# The first was measured, and the shipped weights were pre-trained, with the released code's rule for visible beats.
VARIANTS: dict[str, dict[str, Any]] = {
    "clear": {"decoder_visible_attention": "all"},
    "masked_autoencoder": {"full_attention": True},
    "paper_decoder": {"decoder_visible_attention": "lead"},
}
_LONG, _LONG_RESNET = f", {TIMES * EPOCHS} epochs", f", {TIMES * RESNET_EPOCHS} epochs"
# Rows of the results: name, cells' model, protocol and head, and how many times as many epochs.
METHODS = [
    ("randomly initialized + mean", RANDOM, "probe", "mean", 1),
    ("randomly initialized + HUG", RANDOM, "probe", "hug", 1),
    ("masked autoencoder + mean", "masked_autoencoder", "probe", "mean", 1),
    ("masked autoencoder + HUG", "masked_autoencoder", "probe", "hug", 1),
    ("CLEAR + mean", "clear", "probe", "mean", 1),
    ("CLEAR + HUG", "clear", "probe", "hug", 1),
    ("CLEAR, decoder of equation 5 + mean", "paper_decoder", "probe", "mean", 1),
    ("CLEAR, decoder of equation 5 + HUG", "paper_decoder", "probe", "hug", 1),
    ("full fine-tuning from random weights", RANDOM, "finetune", "hug", 1),
    ("full fine-tuning from random weights" + _LONG, RANDOM, "finetune", "hug", TIMES),
    ("full fine-tuning from the masked autoencoder", "masked_autoencoder", "finetune", "hug", 1),
    ("full fine-tuning from the masked autoencoder" + _LONG, "masked_autoencoder", "finetune", "hug", TIMES),
    ("full fine-tuning from CLEAR", "clear", "finetune", "hug", 1),
    ("full fine-tuning from CLEAR" + _LONG, "clear", "finetune", "hug", TIMES),
    ("supervised ResNet", RESNET, "supervised", "", 1),
    ("supervised ResNet" + _LONG_RESNET, RESNET, "supervised", "", TIMES),
]
DIFFERENCES = [
    ("full fine-tuning from CLEAR", "supervised ResNet"),
    ("full fine-tuning from CLEAR" + _LONG, "supervised ResNet"),
    ("full fine-tuning from CLEAR" + _LONG, "supervised ResNet" + _LONG_RESNET),
    ("CLEAR + HUG", "supervised ResNet"),
    ("full fine-tuning from CLEAR", "full fine-tuning from random weights"),
    ("full fine-tuning from CLEAR" + _LONG, "full fine-tuning from random weights" + _LONG),
    ("full fine-tuning from CLEAR", "full fine-tuning from the masked autoencoder"),
    ("full fine-tuning from CLEAR" + _LONG, "full fine-tuning from the masked autoencoder" + _LONG),
    ("CLEAR + HUG", "randomly initialized + HUG"),
    ("CLEAR + HUG", "masked autoencoder + HUG"),
    ("CLEAR + HUG", "CLEAR + mean"),
    ("CLEAR, decoder of equation 5 + mean", "CLEAR + mean"),
    ("CLEAR, decoder of equation 5 + HUG", "CLEAR + HUG"),
]


def recipe_of(variant: str, fold: int, path: Path, epochs: int | None) -> Recipe:
    """How a variant is pre-trained."""
    options = {"seed": fold, "config_overrides": VARIANTS[variant]}
    return read_recipe(path, **(options if epochs is None else {**options, "num_train_epochs": epochs}))


def pretrain_variant(variant: str, fold: int, arguments: argparse.Namespace) -> Path:
    """Pre-train on all folds but one and the extra recordings, unless it was done."""
    everything, prepared_with, folds = all_recordings(arguments.data)
    recipe = recipe_of(variant, fold, arguments.recipe, arguments.epochs)
    parts = [select_labels(everything.select(np.flatnonzero(folds != fold)), None)]
    for folder in arguments.extra:
        sets, _ = load_prepared(folder)
        parts += [select_labels(split, None) for split in sets.values()]
    extractor = recipe.make_feature_extractor(prepared_with)
    set_seed(fold)
    model = recipe.make_model()
    folder = arguments.output / "pretrained" / f"{variant}-{fold}"
    rows = datasets.concatenate_datasets(parts)
    collator = recipe.make_collator(model, extractor)
    result = pretrain(model, rows, extractor, folder, None, recipe.training, collator=collator)
    print(f"{variant}, fold {fold}: loss {result.history[-1]['train_loss']:.4f} on {len(rows)} recordings", flush=True)
    return folder


def run_fold(fold: int, which: str, arguments: argparse.Namespace) -> None:
    """Train and test heads, fully fine-tuned models or the reference on a fold."""
    task = task_of_fold(fold, arguments.data)
    models: dict[str, Path | None] = {
        name: arguments.output / "pretrained" / f"{name}-{fold}" / "model" for name in arguments.variants
    }
    # What is cut of a row is the models' own.
    task.feature_extractor = load_feature_extractor(models[arguments.variants[0]])  # type: ignore[arg-type]
    for times in (1,) if which == "probes" else (1, TIMES):
        subsets: dict[str, Any] = {"fractions": list(FRACTIONS if times == 1 else FRACTIONS[:1]), "draw": "stratified"}
        full_finetuning = FinetuningArguments(
            method="full",
            num_train_epochs=times * EPOCHS,
            early_stopping_patience=times * EPOCHS,
            per_device_train_batch_size=32,
            augmentation=arguments.augmentation,
            bf16=True,
            allow_absent_labels=True,
            disable_tqdm=True,
        )
        benchmark_arguments = {
            "probes": BenchmarkArguments(heads=["mean", "hug"], **PROBE, **subsets, seeds=list(SEEDS)),
            "finetuning": BenchmarkArguments(
                heads=["hug"],
                protocols=["finetune"],
                **subsets,
                seeds=[fold],
            ),
            "reference": BenchmarkArguments(
                protocols=[],
                **subsets,
                seeds=list(SEEDS),
                reference_epochs=times * RESNET_EPOCHS,
            ),
        }[which]
        benchmark_arguments.recipes["finetune"] = full_finetuning
        tested = {RESNET: None} if which == "reference" else {**models, RANDOM: None}
        run_benchmark(
            [task], tested, cells_of(which, fold, times, arguments), benchmark_arguments, arguments.output / "features"
        )


def cells_of(which: str, fold: int, times: int, arguments: argparse.Namespace) -> Path:
    """Folder of the cells of a part and a fold."""
    return arguments.output / f"{which}-{fold}{'' if times == 1 else '-longer'}"


def summarize(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Rows of the results, for methods with complete results."""
    folders = {"probe": "probes", "finetune": "finetuning", "supervised": "reference"}
    tasks = [task_of_fold(fold, arguments.data) for fold in range(NUM_FOLDS)]
    samples: dict[tuple[str, float], np.ndarray] = {}
    by_fold: dict[tuple[str, float], list[float]] = {}
    for name, model, protocol, head, times in METHODS:
        for fraction in FRACTIONS:
            paths = [
                [
                    path_of(
                        cells_of(folders[protocol], fold, times, arguments),
                        Cell(task.name, fraction, seed, model, protocol, head),
                    )
                    for seed in ((fold,) if protocol == "finetune" else SEEDS)
                ]
                for fold, task in enumerate(tasks)
            ]
            if (scores := fold_scores(tasks, paths)) is not None:
                samples[name, fraction], by_fold[name, fraction] = scores.samples, scores.by_fold
    rows = [_row("macro AUROC", name, "", f, values, by_fold[name, f]) for (name, f), values in samples.items()]
    for first, second in DIFFERENCES:
        for fraction in FRACTIONS:
            if (first, fraction) in samples and (second, fraction) in samples:
                fold_differences = np.subtract(by_fold[first, fraction], by_fold[second, fraction])
                differences = samples[first, fraction] - samples[second, fraction]
                rows.append(_row("difference", first, second, fraction, differences, list(fold_differences)))
    rows += pretrainings(arguments)
    return [{**row, **describe_machine("torch", "transformers", "scikit-learn")} for row in rows]


def pretrainings(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """How each variant was pre-trained: its last training loss, and the seconds that it took."""
    rows = []
    for variant in VARIANTS:
        logs = [arguments.output / "pretrained" / f"{variant}-{fold}" / EPOCH_LOG for fold in range(NUM_FOLDS)]
        if not all(path.is_file() for path in logs):
            continue
        ends = []
        for path in logs:
            with path.open(newline="", encoding="utf-8") as file:
                ends.append(list(csv.DictReader(file))[-1])
        for what, column, form in (("pre-training loss", "train_loss", ".4f"), ("pre-training s", "seconds", ".0f")):
            values = [float(end[column]) for end in ends]
            rows.append(
                {
                    "what": what,
                    "method": variant,
                    "value": f"{np.mean(values):{form}}",
                    "folds": " ".join(f"{value:{form}}" for value in values),
                }
            )
    return rows


def _row(
    what: str, method: str, minus: str, fraction: float, samples: np.ndarray, by_fold: list[float]
) -> dict[str, Any]:
    return {
        "what": what,
        "method": method,
        "minus": minus,
        "labels": f"{100 * fraction:g}%",
        **{name: f"{value:.5f}" for name, value in bootstrap_interval(samples).items() if value is not None},
        "folds": " ".join(f"{value:.4f}" for value in by_fold),
    }


def main() -> int:
    """Run the requested parts and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="PTB-XL, prepared with ptbxl_super")
    parser.add_argument("--extra", type=Path, nargs="*", default=[], metavar="DIR", help="for pre-training, prepared")
    parser.add_argument("--recipe", type=Path, required=True, metavar="FILE", help="of pre-training")
    parser.add_argument("--epochs", type=int, metavar="N", help="of pre-training, in place of the recipe's")
    parser.add_argument("--output", type=Path, default=Path("runs/baselines"), metavar="DIR", help="%(default)s")
    parser.add_argument(
        "--augmentation", type=float, default=1.0, metavar="S", help="of full fine-tuning (%(default)s)"
    )
    parts = ("pretraining", "probes", "reference", "finetuning")
    parser.add_argument("--parts", nargs="*", choices=parts, default=list(parts), help="none: only the summary")
    parser.add_argument("--folds", nargs="+", type=int, default=list(range(NUM_FOLDS)), metavar="N", help="folds")
    parser.add_argument("--variants", nargs="+", choices=tuple(VARIANTS), default=list(VARIANTS)[:2], help="of CLEAR")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), metavar="N", help="of torch")
    parser.add_argument("--results", type=Path, default=REPOSITORY / "benchmarks" / "results" / "baselines.csv")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    datasets.disable_progress_bars()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    for part in arguments.parts:
        for fold in arguments.folds:
            if part == "pretraining":
                for variant in arguments.variants:
                    pretrain_variant(variant, fold, arguments)
            else:
                run_fold(fold, part, arguments)
    rows = summarize(arguments)
    if rows:
        write_csv(arguments.results, rows)
    for row in rows:
        minus = f" - {row['minus']}" if row.get("minus") else ""
        interval = f" ({row['low']} to {row['high']})" if "low" in row else ""
        print(f"{row['what']} {row.get('labels', '')} {row['method']}{minus}: {row['value']}{interval} {row['folds']}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
