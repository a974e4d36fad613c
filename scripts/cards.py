"""
Evaluate the classifiers under model_cards/ again and regenerate all cards. The weights do not change.

    python scripts/cards.py SOURCES [--runs DIR] [NAME ...]
    python scripts/cards.py --cards-only [NAME ...]

SOURCES contains the folder ptbxl, as PhysioNet publishes it. Each shipped classifier predicts fold 9 of PTB-XL, its
thresholds are selected there, and its randomly initialized control, whose weights are not shipped, is trained again
with the same seed. Then metrics.json, README.md and the thresholds in config.json are rewritten. Run it when a metric
or the preprocessing changes. `--cards-only` regenerates the cards from the files beside them, for a change of the
template. `scripts/weights.sh` trains the weights themselves.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from transformers import set_seed

from clear_hug_hf.cli import main as command
from clear_hug_hf.data.prepared import load_prepared, select_labels
from clear_hug_hf.evaluation.calibration import calibrate
from clear_hug_hf.evaluation.metrics import choose_thresholds
from clear_hug_hf.evaluation.predictions import auroc_difference, compute_metrics, predict
from clear_hug_hf.hub.model_card import read_card
from clear_hug_hf.hub.publishing import stage
from clear_hug_hf.inference.classifier_outputs import model_thresholds
from clear_hug_hf.training.finetuning import FinetuningArguments, finetune
from clear_hug_hf.training.folders import CARD, METRICS, load_classifier
from clear_hug_hf.training.provenance import describe_environment
from clear_hug_hf.utils.files import write_json


CARDS = Path(__file__).resolve().parents[1] / "model_cards"
ORG = "clear-hug-hf"
STORED_AS = "float16"


def measure(folder: Path, source: Path, prepared: Path, cache: Path) -> tuple[dict[str, Any], dict[str, float]]:
    """The metrics of a shipped classifier with fold 9 evaluated again, and its thresholds."""
    metrics: dict[str, Any] = json.loads((folder / METRICS).read_text(encoding="utf-8"))
    labels = metrics["data"]["label_set"]
    if command(["prepare", str(source), "--labels", labels, "--model", str(folder), "--output-dir", str(prepared)]):
        raise SystemExit(f"{source} could not be prepared for {folder.name}")
    sets, _ = load_prepared(prepared)
    sets = {split: select_labels(dataset, metrics["labels"]) for split, dataset in sets.items()}
    model, extractor = load_classifier(folder)
    recipe = FinetuningArguments(**metrics["recipe"])
    set_seed(recipe.seed)
    config = deepcopy(model.config)
    config.label_calibration = None
    control = type(model)(config)
    result = finetune(control, sets["train"], sets["validation"], extractor, None, recipe, cache_dir=cache)
    predictions, control_predictions = (
        predict(classifier, sets["validation"], extractor).by_recording() for classifier in (model, result.model)
    )
    before = metrics["random_initialization"]
    calibration = {}
    if "calibration" in before:
        fit = calibrate(result.model, control_predictions)
        control_predictions = predict(result.model, sets["validation"], extractor).by_recording()
        calibration = {"calibration": fit.to_dict()}
    assert predictions.labels is not None
    best_thresholds = choose_thresholds(predictions.labels, predictions.probabilities)
    thresholds = {
        name: threshold
        for name, threshold in zip(predictions.label_names, best_thresholds, strict=True)
        if threshold is not None
    }
    model.config.label_thresholds = thresholds
    metrics["pretrained"]["validation"] = compute_metrics(predictions, model_thresholds(model.config), recipe.seed)
    of_validation = compute_metrics(control_predictions, model_thresholds(result.model.config), recipe.seed)
    if result.best_epoch != before["best_epoch"]:
        print(
            f"{folder.name}: the control's best epoch is {result.best_epoch} and was {before['best_epoch']}",
            file=sys.stderr,
        )
    metrics["random_initialization"] = {"best_epoch": result.best_epoch, **calibration, "validation": of_validation}
    metrics["macro_auroc_difference"] = {"validation": auroc_difference(predictions, control_predictions, recipe.seed)}
    return {**metrics, "measured": {"weights": STORED_AS, "environment": describe_environment()}}, thresholds


def make_card(folder: Path, staged: Path) -> None:
    """Regenerate a card from the files beside it."""
    license = str(read_card(folder / CARD).data.to_dict()["license"])
    stage(folder, staged, f"{ORG}/{folder.name}", license=license, dtype=STORED_AS)
    shipped_weights, staged_weights = (load_file(parent / "model.safetensors") for parent in (folder, staged))
    # Scalars of older folders have the shape (1,) where they are saved now.
    same = (
        torch.equal(weight.flatten(), staged_weights[name].flatten())
        for name, weight in shipped_weights.items()
        if name in staged_weights
    )
    if shipped_weights.keys() != staged_weights.keys() or not all(same):
        raise SystemExit(f"{folder.name} would be published with other weights than it holds: nothing was changed")
    shutil.copyfile(staged / CARD, folder / CARD)


def main(words: list[str] | None = None) -> int:
    """Evaluate the classifiers, unless only the cards are requested, and regenerate the cards."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("places", nargs="*", metavar="SOURCES NAME", help="folder of ptbxl, and models (default: all)")
    parser.add_argument("--cards-only", action="store_true", help="regenerate the cards from the files beside them")
    parser.add_argument("--cards", type=Path, default=CARDS, metavar="DIR", help="default: %(default)s")
    parser.add_argument("--runs", type=Path, default=Path("runs/cards"), metavar="DIR", help="default: %(default)s")
    arguments = parser.parse_intermixed_args(words)
    known = sorted(path.parent.name for path in arguments.cards.glob("*/config.json"))
    names = arguments.places if arguments.cards_only else arguments.places[1:]
    if not arguments.cards_only and not arguments.places:
        parser.error("SOURCES is missing: name the folder that contains ptbxl, or use --cards-only")
    if unknown := [name for name in names if name not in known]:
        parser.error(f"unknown model {unknown[0]}: choose from {', '.join(known)}")
    for name in names or known:
        folder = arguments.cards / name
        if (folder / METRICS).is_file() and not arguments.cards_only:
            source, runs = Path(arguments.places[0]) / "ptbxl", arguments.runs
            metrics, thresholds = measure(folder, source, runs / "prepared" / name, runs / "features")
            config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
            write_json(folder / METRICS, metrics)
            write_json(folder / "config.json", {**config, "label_thresholds": thresholds})
        make_card(folder, arguments.runs / "staged" / name)
        print(f"wrote {folder / CARD}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
