"""
How often `SignalReport` warns of real recordings, how often a heart rate contradicts cardiologists' labels, and what a
classifier loses on short recordings: what the limits in `processing/signal_report.py` rest on.

    OMP_NUM_THREADS=1 python benchmarks/signal_report.py
    OMP_NUM_THREADS=1 python benchmarks/signal_report.py --data ../shared/data --output table.csv

Warnings and refusals are counted on all recordings of a source; of CinC 2011 those that are acceptable and those that
are not are counted apart. Contradictions are counted among recordings with a label of brady- or tachycardia. Lengths:
macro AUROC of shipped models on the first seconds of PTB-XL's fold 9, which their thresholds were chosen on.
"""

from __future__ import annotations

import argparse
import csv
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from machine import REPOSITORY, describe_machine, write_csv
from transformers.utils import logging

from clear_hug_hf import ClearHugFeatureExtractor
from clear_hug_hf.data.preparation import prepare
from clear_hug_hf.data.readers import open_source
from clear_hug_hf.data.records import find_records, read_record
from clear_hug_hf.evaluation.metrics import evaluate_predictions
from clear_hug_hf.evaluation.predictions import predict
from clear_hug_hf.inference.classifier_outputs import model_label_names
from clear_hug_hf.processing import InputError, SignalReport
from clear_hug_hf.training.folders import load_classifier


KINDS = {
    "beats or seconds": ("the recording lasts", "no beat"),
    "heart rate": ("a heart rate",),
    "missing leads": ("leads are missing",),
    "clipped leads": ("are clipped",),
    "NaN": ("of the samples are NaN",),
    "amplitude": ("within 2 s",),
}
SECONDS = (1, 2, 3, 5, 7, 10)


def reports_of(folder: Path) -> Iterator[tuple[str, SignalReport | str, list[str]]]:
    """Name, report or reason of refusal, and labels of the header of each recording below a folder."""
    extractor = ClearHugFeatureExtractor(on_no_beats="mask")
    for header in find_records(folder):
        recording = read_record(header)
        codes = [line.split(":")[1] for line in recording.metadata["comments"] if line.strip("# ").startswith("Dx")]
        labels = [code.strip() for line in codes for code in line.split(",")]
        try:
            yield header.stem, extractor(**recording.as_inputs(), return_reports=True)["reports"][0], labels
        except InputError as error:
            yield header.stem, str(error), labels


def count_warnings(data: Path) -> list[dict[str, Any]]:
    """Rows of warnings by source, and of contradictions by label."""
    with (data / "cinc2011" / "quality.csv").open(newline="", encoding="utf-8") as file:
        acceptable = {row["record"]: row["acceptable"] for row in csv.DictReader(file)}
    names = {"1": "cinc2011, acceptable", "0": "cinc2011, not acceptable", "-1": "cinc2011, undecided"}
    ptbxl = {
        reference.path.stem: [name for name, value in (reference.labels or {}).items() if value]
        for reference in open_source("ptbxl", data / "ptbxl", label_set="ptbxl_rhythm", keep_unlabeled=True)
    }
    totals: Counter[str] = Counter()
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    labeled: Counter[str] = Counter()
    contradicted: Counter[str] = Counter()
    for folder in ("ludb", "challenge", "ptb", "ptbxl", "cinc2011"):
        for record, report, labels in reports_of(data / folder):
            source = names[acceptable[record]] if folder == "cinc2011" else folder
            totals[source] += 1
            if isinstance(report, str):
                counts[source]["refused"] += 1
                continue
            counts[source]["any warning"] += bool(report.warnings)
            for kind, parts in KINDS.items():
                counts[source][kind] += any(part in warning for warning in report.warnings for part in parts)
            for label in ptbxl.get(record, []) if folder == "ptbxl" else labels:
                if label in ("SBRAD", "STACH", "426177001", "426627000", "427084000"):
                    labeled[f"{folder} {label}"] += 1
                    contradicted[f"{folder} {label}"] += report.contradiction(label) is not None
    rows = [
        {"what": kind, "where": source, "count": counts[source][kind], "of": total, "auroc": ""}
        for source, total in totals.items()
        for kind in ("any warning", *KINDS, "refused")
    ]
    rows += [
        {"what": "contradiction", "where": label, "count": contradicted[label], "of": total, "auroc": ""}
        for label, total in labeled.items()
    ]
    return rows


def measure_lengths(data: Path) -> list[dict[str, Any]]:
    """Macro AUROC of shipped models on the first seconds of recordings."""
    rows = []
    for labels in ("super", "rhythm"):
        model, extractor = load_classifier(REPOSITORY / "model_cards" / f"clear-hug-small-ptbxl-{labels}")
        extractor.on_no_beats = "mask"
        source = open_source("ptbxl", data / "ptbxl", label_set=f"ptbxl_{labels}")
        recordings = [source.reference(index).read() for index in range(len(source))]
        names = model_label_names(model.config)
        recordings = [
            replace(recording, labels={name: (recording.labels or {})[name] for name in names})
            for recording in recordings
            if recording.split == "validation"
        ]
        for seconds in SECONDS:
            short = [
                replace(recording, waveform=recording.waveform[:, : round(seconds * recording.sampling_rate)])
                for recording in recordings
            ]
            dataset = prepare(short, extractor, names, progress=False).dataset
            predictions = predict(model, dataset, extractor)
            assert predictions.labels is not None
            scores = evaluate_predictions(
                predictions.labels,
                predictions.probabilities,
                predictions.label_names,
                predictions.patient_ids,
                num_samples=0,
            )
            rows.append(
                {
                    "what": f"first {seconds} s",
                    "where": f"ptbxl_{labels}, fold 9",
                    "count": len(predictions.record_ids),
                    "of": len(recordings),
                    "auroc": f"{scores['macro_auroc']['value']:.4f}",
                }
            )
    return rows


def main() -> int:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=REPOSITORY.parent / "shared" / "data", metavar="DIR")
    parser.add_argument("--output", type=Path, default=REPOSITORY / "benchmarks" / "results" / "signal_report.csv")
    arguments = parser.parse_args()
    logging.set_verbosity_error()
    rows = count_warnings(arguments.data) + measure_lengths(arguments.data)
    for row in rows:
        if row["count"]:
            print(f"{row['where']:28} {row['what']:18} {row['count']:5} of {row['of']:5}  {row['auroc']}")
    machine = describe_machine("scipy", "torch", "clear-hug-hf")
    write_csv(arguments.output, [row | machine for row in rows])
    return 0


if __name__ == "__main__":
    sys.exit(main())
