"""
Which recordings a classifier marks as unlike those that it was trained on, and how many false alarms there are.

    OMP_NUM_THREADS=1 python benchmarks/unfamiliar.py
    OMP_NUM_THREADS=1 python benchmarks/unfamiliar.py --data ../shared/data --output table.csv

Familiarity is fitted to the features of a shipped encoder on folds 1 to 8 of PTB-XL, with its threshold from a
cross-validation by patient. Then fold 9 is predicted as it is, which gives the false alarms, and with common mistakes:
noise, another sampling rate than the declared one, flat, shuffled and swapped leads, inverted and reversed signals;
and recordings of other sources. Of each recording the first window is read. A refused recording gets no prediction.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from machine import REPOSITORY, describe_machine, write_csv
from transformers.utils import logging

from clear_hug_hf.data.collator import EcgCollator
from clear_hug_hf.data.preparation import prepare
from clear_hug_hf.data.readers import open_source
from clear_hug_hf.data.records import Recording, RecordReference, Rejected, find_records
from clear_hug_hf.inference.records import predict_records
from clear_hug_hf.training.familiarity import fit_familiarity
from clear_hug_hf.training.features import encode
from clear_hug_hf.training.folders import load_classifier, shipped_model


MODEL = "clear-hug-small-ptbxl-super"
SOURCES = {"challenge": "PhysioNet/CinC Challenge 2020/2021", "ludb": "LUDB", "cinc2011": "CinC Challenge 2011"}


def _flat(count: int) -> Callable[[Recording, np.random.Generator], Recording]:
    def change(recording: Recording, rng: np.random.Generator) -> Recording:
        waveform = recording.waveform.copy()
        waveform[rng.choice(len(waveform), count, replace=False)] = 0.0
        return replace(recording, waveform=waveform)

    return change


def _swap_arms(recording: Recording, rng: np.random.Generator) -> Recording:
    """Electrodes of the right and left arm exchanged: I is inverted, II and III, aVR and aVL are exchanged."""
    rows = {name.upper(): row for row, name in enumerate(recording.lead_names)}
    waveform = recording.waveform.copy()
    waveform[rows["I"]] *= -1
    for first, second in (("II", "III"), ("AVR", "AVL")):
        waveform[[rows[first], rows[second]]] = waveform[[rows[second], rows[first]]]
    return replace(recording, waveform=waveform)


def _noise(recording: Recording, rng: np.random.Generator, size: float) -> np.ndarray:
    return np.asarray(rng.normal(0.0, size * recording.waveform.std(), recording.waveform.shape))


CHANGES: dict[str, Callable[[Recording, np.random.Generator], Recording]] = {
    "white noise only": lambda recording, rng: replace(recording, waveform=_noise(recording, rng, 1.0)),
    "white noise added, 0.7 of the signal": lambda recording, rng: replace(
        recording, waveform=recording.waveform + _noise(recording, rng, 0.7)
    ),
    "rate declared half": lambda recording, rng: replace(recording, sampling_rate=recording.sampling_rate / 2),
    "rate declared double": lambda recording, rng: replace(recording, sampling_rate=recording.sampling_rate * 2),
    "1 lead flat": _flat(1),
    "6 leads flat": _flat(6),
    "leads shuffled": lambda recording, rng: replace(
        recording, waveform=recording.waveform[rng.permutation(len(recording.waveform))]
    ),
    "arm electrodes swapped": _swap_arms,
    "inverted": lambda recording, rng: replace(recording, waveform=-recording.waveform),
    "reversed in time": lambda recording, rng: replace(recording, waveform=recording.waveform[:, ::-1].copy()),
}


def changed(references: Sequence[RecordReference], name: str | None) -> Iterator[Any]:
    """Recordings with a change of [`CHANGES`], the same one in every run."""
    for number, reference in enumerate(references):
        yield reference if name is None else CHANGES[name](reference.read(), np.random.default_rng([7, number]))


def measure(model: Any, extractor: Any, name: str, recordings: Any) -> dict[str, Any]:
    """How many of the recordings are refused, and of the others marked."""
    results = list(predict_records(model, extractor, recordings, windows="first", batch_size=1))
    distances = np.array([result.distance for result in results if not isinstance(result, Rejected)], dtype=float)
    return {
        "recordings": name,
        "count": len(results),
        "refused": len(results) - len(distances),
        "marked": int((distances > 1).sum()),
        "median_distance": f"{np.median(distances):.3f}" if len(distances) else "",
    }


def main() -> None:
    """Fit, predict and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=REPOSITORY.parent / "shared" / "data")
    parser.add_argument("--output", type=Path, default=REPOSITORY / "benchmarks" / "results" / "unfamiliar.csv")
    parser.add_argument("--cache", type=Path, default=None, help="folder that caches the features of the encoder")
    parser.add_argument("--limit", type=int, default=200, help="recordings of each other source")
    arguments = parser.parse_args()
    logging.set_verbosity_error()
    model, extractor = load_classifier(shipped_model(MODEL))
    source = list(open_source("ptbxl", arguments.data / "ptbxl", label_set="ptbxl_super", keep_unlabeled=True))
    splits = {split: [record for record in source if record.split == split] for split in ("train", "validation")}
    collator = EcgCollator(extractor, label_names=list(model.config.label2id))
    sets = {split: prepare(records, extractor, collator.label_names).dataset for split, records in splits.items()}
    encoded = {
        split: encode(model, dataset, collator, cache_dir=arguments.cache, progress=True)
        for split, dataset in sets.items()
    }
    train = sets["train"]
    fit_familiarity(model, encoded["train"], train["record_id"], train["patient_id"], encoded["validation"])
    facts = {"model": MODEL, **describe_machine("torch", "transformers", "clear-hug-hf")}
    rows = []
    for name in (None, *CHANGES):
        title = "fold 9" if name is None else f"fold 9, {name}"
        rows.append({**measure(model, extractor, title, changed(splits["validation"], name)), **facts})
        print(rows[-1], flush=True)
    for folder, title in SOURCES.items():
        records = [RecordReference(path, path.stem) for path in find_records(arguments.data / folder)]
        rows.append({**measure(model, extractor, title, records[: arguments.limit]), **facts})
        print(rows[-1], flush=True)
    write_csv(arguments.output, rows)


if __name__ == "__main__":
    main()
