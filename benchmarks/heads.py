"""
The log of what was fine-tuned for the shipped classifiers, and which of it was shipped.

    python benchmarks/heads.py runs/weights/*-ptbxl-* runs/whole-*

Reads `metrics.json` of finished runs of `clear-hug finetune`. Choices were made on the validation recordings, so that
no number here is that of a test.

Writes `benchmarks/results/heads.csv`: macro AUROC on the validation recordings with 95 % intervals over patients, the
same of the untrained control, and the paired difference. Runs that are there already, of the same labels, encoder,
method and epochs, are replaced; others stay.
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
from pathlib import Path
from typing import Any

from machine import REPOSITORY, write_csv


KEY = ("labels", "encoder", "method", "head", "epochs")


def row_of(folder: Path) -> dict[str, Any]:
    """What a run reached."""
    metrics = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    pretraining = metrics["encoder"].get("pretraining.json") or {}
    changed = " ".join(f"{name}={value}" for name, value in pretraining.get("model", {}).items())
    recipe = metrics["recipe"]
    row = {
        "labels": metrics["data"]["label_set"],
        "encoder": f"{pretraining.get('system')} {pretraining.get('size')} {changed}".strip(),
        "method": recipe["method"],
        "head": metrics["head"],
        "epochs": recipe.get("num_train_epochs", ""),
        "num_labels": len(metrics["labels"]),
        "recordings": metrics["data"]["sets"]["validation"]["recordings"],
    }
    metrics_by_name = {
        "auroc": metrics["pretrained"]["validation"]["macro_auroc"],
        "control": metrics["random_initialization"]["validation"]["macro_auroc"],
        "difference": metrics["macro_auroc_difference"]["validation"],
    }
    for name, metric in metrics_by_name.items():
        row |= {f"{name}_{part}": f"{metric[part]:.7f}" for part in ("value", "low", "high")}
    where = metrics["environment"]
    versions = " ".join(f"{name}={version}" for name, version in sorted(where["versions"].items()))
    return row | {"device": where["device"], "versions": f"python={where['python']} {versions}", "date": where["date"]}


def main() -> int:
    """Add the named runs to the log."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path, metavar="DIR", help="outputs of clear-hug finetune")
    parser.add_argument("--results", type=Path, default=REPOSITORY / "benchmarks" / "results" / "heads.csv")
    arguments = parser.parse_args()
    logged: dict[tuple[str, ...], dict[str, Any]] = {}
    if arguments.results.is_file():
        with arguments.results.open(newline="", encoding="utf-8") as file:
            logged = {tuple(row[name] for name in KEY): dict(row) for row in csv.DictReader(file)}
    for folder in arguments.runs:
        row = row_of(folder)
        logged[tuple(str(row[name]) for name in KEY)] = row
        print(", ".join(str(row[name]) for name in (*KEY, "auroc_value", "control_value", "difference_value")))
    write_csv(arguments.results, [logged[key] for key in sorted(logged)])
    return 0


if __name__ == "__main__":
    sys.exit(main())
