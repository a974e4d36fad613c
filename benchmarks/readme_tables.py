"""
Renew the tables of the README from the files in `benchmarks/results`.

    python benchmarks/readme_tables.py           # rewrite the README
    python benchmarks/readme_tables.py --check   # exit status 1 if a table is stale
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
from collections.abc import Callable

from machine import REPOSITORY


RESULTS = REPOSITORY / "benchmarks" / "results"
Row = dict[str, str]


def _read(name: str) -> list[Row]:
    with (RESULTS / name).open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def _table(header: list[str], rows: list[list[str]]) -> str:
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def beat_detectors() -> str:
    """Accuracy and speed of the detectors on the recordings as they are, and with lead II gone."""
    rows = _read("beat_detectors.csv")
    noisy = {row["detector"]: row for row in rows if row["recordings"] == "lead II drowned in noise"}
    body = [
        [
            row["detector"],
            f"{float(row['f1']):.4f}",
            f"{row['records_right']} of {row['records']}",
            f"{float(row['ms_per_record']):.2f}",
            f"{float(noisy[row['detector']]['f1']):.3f}" if row["detector"] in noisy else "",
        ]
        for row in rows
        if row["recordings"] == "as recorded"
    ]
    header = ["detector", "F1 at 150 ms", "records wholly right", "ms a record", "F1, lead II drowned in noise"]
    return _table(header, body) + "\n\n" + _where(rows[0])


def preparation() -> str:
    """Time of each part of both pipelines."""
    rows = _read("preparation.csv")
    parts = list(dict.fromkeys(row["part"] for row in rows))
    body = []
    for pipeline in dict.fromkeys(row["pipeline"] for row in rows):
        times = {row["part"]: float(row["ms_per_record"]) for row in rows if row["pipeline"] == pipeline}
        body.append([pipeline, *(f"{times[part]:.2f}" for part in parts)])
    return _table(["pipeline", *parts], body) + "\n\n" + _where(rows[0])


def superclasses() -> str:
    """Macro AUROC of the demo on PTB-XL records: `metrics.json` of `clear-hug demo --data`, as it was written."""
    metrics = json.loads((RESULTS / "ptbxl_tiny_metrics.json").read_text(encoding="utf-8"))
    body = []
    for name, run in (("pre-trained encoder", "pretrained"), ("untrained encoder", "random_initialisation")):
        found = metrics[run]["validation"]
        labels = [f"{found['per_label'][label]['auroc']['value']:.3f}" for label in metrics["labels"]]
        body.append([name, _interval(found["macro_auroc"], ".3f"), *labels])
    body.append(["difference", _interval(metrics["difference_of_macro_auroc"]["validation"], "+.3f")])
    body[-1] += [""] * len(metrics["labels"])
    return _table(["HUG head on a", "macro AUROC (95 %)", *metrics["labels"]], body)


def _interval(metric: dict[str, float], form: str) -> str:
    return f"{metric['value']:{form}} ({metric['low']:{form}} to {metric['high']:{form}})"


def _where(row: Row) -> str:
    return f"*{row['cpu']}, one thread, {row['date']}; versions stand in the CSV.*"


TABLES: dict[str, Callable[[], str]] = {
    "superclasses": superclasses,
    "beat_detectors": beat_detectors,
    "preparation": preparation,
}


def renew(text: str) -> str:
    """The text with every marked table made anew."""
    for name, make in TABLES.items():
        first, last = f"<!-- {name} -->\n", f"<!-- end of {name} -->"
        before, found, rest = text.partition(first)
        _, ended, after = rest.partition(last)
        if not found or not ended:
            raise ValueError(f"README.md has no place marked for the table {name}")
        text = f"{before}{first}\n{make()}\n\n{last}{after}"
    return text


def main() -> int:
    """Rewrite or check the README."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="change nothing, exit with 1 if a table is stale")
    arguments = parser.parse_args()
    readme = REPOSITORY / "README.md"
    before = readme.read_text(encoding="utf-8")
    after = renew(before)
    if arguments.check:
        print("README.md is up to date" if after == before else "README.md is stale: run this without --check")
        return int(after != before)
    readme.write_text(after, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
