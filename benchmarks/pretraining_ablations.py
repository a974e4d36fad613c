"""
Ablations of CLEAR's pre-training: one change at a time, evaluated by probes on PTB-XL's fold 9.

`paper_ablations.py` repeats the ablation tables of the paper; this script compares settings of pre-training.

    for name in ptbxl cinc2011 challenge ludb; do for detector in multilead xqrs regular; do
        clear-hug prepare SOURCES/$name --extractor-settings detector=$detector \\
            --output-dir prepared/$detector/$name [--labels ptbxl_super for PTB-XL] \\
            [--split-fractions 1 0 0 for the others]
    done; done
    python benchmarks/pretraining_ablations.py --prepared prepared   # everything: hours on two cores
    python benchmarks/pretraining_ablations.py --prepared prepared --only paper augmented --seeds 0

Every variant is pre-trained on folds 1 to 8 of PTB-XL and all recordings of the other folders, without labels. Heads
for the five superclasses are trained on nine tenths of the patients of folds 1 to 8 with the encoder frozen, their
epoch is selected on the last tenth, and fold 9 is evaluated. Choices made from this table are made on fold 9: none of
its numbers is a test result. The seed is that of pre-training and head. If interrupted, the same command continues;
variants from earlier runs stay in the table.

Writes `benchmarks/results/pretraining_ablations.csv`: a row for each run (negative results included), means over seeds
with 95 % bootstrap intervals over patients, and paired differences from the paper's form.
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
from cross_validation import PROBE
from machine import REPOSITORY, describe_machine, write_csv
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


class Variant(NamedTuple):
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


VARIANTS = {
    "untrained": Variant("no pre-training", recipe={"num_train_epochs": 0}),
    BASELINE: Variant("the paper's form at tiny size, 25 epochs"),
    "released": Variant(
        "masks and embedding as the released code has them",
        {"cls_attention": "reference_bias", "beat_embedding": "conv"},
    ),
    "conv": Variant("beats embedded with their neighbors", {"beat_embedding": "conv"}),
    "masked_autoencoder": Variant("everything attends to everything", {"full_attention": True}),
    "features": Variant("scale and RR intervals kept", {"use_beat_features": True}),
    "untrained_features": Variant(
        "no pre-training, scale and RR kept", {"use_beat_features": True}, {"num_train_epochs": 0}
    ),
    "augmented": Variant("recordings augmented", recipe={"augmentation": 1.0}),
    "mask_50": Variant("half of the beats hidden", {"mask_ratio": 0.5}),
    "mask_65": Variant("65 % of the beats hidden", {"mask_ratio": 0.65}),
    "mask_90": Variant("90 % of the beats hidden", {"mask_ratio": 0.9}),
    "xqrs": Variant("beats of the paper's detector", detector="xqrs"),
    "regular": Variant("patches of 0.96 s in place of beats", detector="regular"),
    "wider": Variant(
        "width 192 in place of 128",
        {"hidden_size": 192, "intermediate_size": 384, "num_attention_heads": 6},
    ),
    "deeper": Variant("8 layers in place of 4", {"num_hidden_layers": 8}),
    "shallower": Variant("2 layers in place of 4", {"num_hidden_layers": 2}),
    "short": Variant("10 epochs", recipe={"num_train_epochs": 10}),
    "long": Variant("60 epochs", recipe={"num_train_epochs": 60}),
    "ptbxl_only": Variant("PTB-XL alone", sources=("ptbxl",)),
}


def run_variant(name: str, seed: int, prepared: Path, output: Path) -> None:
    """Pre-train and probe, unless it was done."""
    variant, folder = VARIANTS[name], output / f"{name}-{seed}"
    sets = [load_prepared(prepared / variant.detector / source) for source in variant.sources]
    rows = datasets.concatenate_datasets([select_labels(splits["train"], None) for splits, _ in sets])
    # The log was made before the decoder had the paper's rule for visible beats; decoder_rule.csv compares the two.
    fields = {"decoder_visible_attention": "all", **variant.model}
    options: dict[str, Any] = {"seed": seed, "config_overrides": fields, **variant.recipe}
    epochs = options.pop("num_train_epochs", None)
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
        result = pretrain(model, rows, extractor, folder, validation, recipe.training, collator=collator)
        facts = {
            "epochs": len(result.history),
            "seconds": result.history[-1]["seconds"],
            "train_loss": result.history[-1]["train_loss"],
            "validation_loss": result.history[-1]["validation_loss"],
        }
    facts |= {"recordings": len(rows), "parameters": model.base_model.num_parameters()}
    (folder / "variant.json").write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
    arguments = BenchmarkArguments(
        heads=list(HEADS), fractions=list(FRACTIONS), seeds=[seed], draw="stratified", **PROBE
    )
    run_benchmark([task_of(name, folder, prepared)], {name: folder / "model"}, folder / "probes", arguments)


def task_of(name: str, folder: Path, prepared: Path) -> Task:
    """The superclasses, cut as a variant's model reads them."""
    task = load_task("super", prepared / VARIANTS[name].detector / "ptbxl")
    task.feature_extractor, task.folder = load_feature_extractor(folder / "model"), None
    return task


def summarize(output: Path, prepared: Path) -> list[dict[str, Any]]:
    """Rows of the results, for variants with results."""
    rows: list[dict[str, Any]] = []
    samples: dict[tuple[str, float, str], np.ndarray] = {}
    by_seed: dict[tuple[str, float, str], dict[int, float]] = {}
    for name, variant in VARIANTS.items():
        folders = [path.parent for path in output.glob(f"{name}-[0-9]*/variant.json")]
        seeds = sorted(int(folder.name.rsplit("-", 1)[1]) for folder in folders)
        if not seeds:
            continue
        # Detectors may reject other recordings, so that labels are those of each variant's own fold 9.
        task = load_task("super", prepared / variant.detector / "ptbxl")
        for fraction in FRACTIONS:
            for head in HEADS:
                runs: dict[int, np.ndarray] = {}
                for seed in seeds:
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
                    seed: float(macro_auroc_samples(labels, [run], patients, 0)[0]) for seed, run in runs.items()
                }
                facts = [json.loads((output / f"{name}-{seed}" / "variant.json").read_text()) for seed in runs]
                rows.append(_row("macro AUROC", key, variant, samples[key], by_seed[key], facts))
    for (name, fraction, head), variant_samples in samples.items():
        baseline_samples = samples.get((BASELINE, fraction, head))
        if name == BASELINE or baseline_samples is None:
            continue
        if baseline_samples.shape == variant_samples.shape:
            values = by_seed[name, fraction, head]
            base = by_seed[BASELINE, fraction, head]
            seed_differences = {seed: value - base[seed] for seed, value in values.items() if seed in base}
            key = (name, fraction, head)
            rows.append(
                _row(
                    "difference from the paper's form",
                    key,
                    VARIANTS[name],
                    variant_samples - baseline_samples,
                    seed_differences,
                    [],
                )
            )
    return [{**row, **describe_machine("torch", "transformers", "scikit-learn")} for row in rows]


def earlier_rows(results: Path, variants: set[str]) -> list[dict[str, Any]]:
    """Rows of other variants in an earlier table, which are kept."""
    if not results.is_file():
        return []
    with results.open(newline="", encoding="utf-8") as file:
        return [row for row in csv.DictReader(file) if row["variant"] not in variants]


def _row(
    what: str,
    key: tuple[str, float, str],
    variant: Variant,
    samples: np.ndarray,
    by_seed: dict[int, float],
    facts: list[dict[str, Any]],
) -> dict[str, Any]:
    def mean(name: str, form: str) -> str:
        values = [run[name] for run in facts if run.get(name) is not None]
        return format(float(np.mean(values)), form) if values else ""

    name, fraction, head = key
    interval = bootstrap_interval(samples)
    return {
        "what": what,
        "variant": name,
        "about": variant.about,
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
    """Run the requested variants, and write the results of all that are complete."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prepared", type=Path, required=True, metavar="DIR", help="DETECTOR/SOURCE, see above")
    parser.add_argument(
        "--output", type=Path, default=Path("runs/pretraining_ablations"), metavar="DIR", help="%(default)s"
    )
    parser.add_argument("--only", nargs="*", choices=tuple(VARIANTS), default=list(VARIANTS), help="variants")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2], metavar="N", help="%(default)s")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), metavar="N", help="of torch")
    parser.add_argument(
        "--results", type=Path, default=REPOSITORY / "benchmarks" / "results" / "pretraining_ablations.csv"
    )
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    datasets.disable_progress_bars()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    for seed in arguments.seeds:
        for name in arguments.only:
            run_variant(name, seed, arguments.prepared, arguments.output)
            print(name, seed, flush=True)
    rows = summarize(arguments.output, arguments.prepared)
    if rows:
        earlier = earlier_rows(arguments.results, {row["variant"] for row in rows})
        order = {name: place for place, name in enumerate(VARIANTS)}
        table = sorted(
            rows + earlier, key=lambda row: (row["what"] != "macro AUROC", order.get(row["variant"], len(order)))
        )
        write_csv(arguments.results, table)
    for row in rows:
        print(
            f"{row['what']}: {row['trial']}, {row['head']}, {row['labels']}: {row['value']} ({row['low']} to "
            f"{row['high']}) {row['seeds']}"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
