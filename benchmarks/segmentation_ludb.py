"""
P waves, QRS complexes and T waves in every lead of LUDB: ECG-JEPA fine-tuned, the same from random weights, and a
delineator without learning.

    python benchmarks/segmentation_ludb.py --ludb LUDB --model runs/pretrained/model --output runs/segmentation
    python benchmarks/segmentation_ludb.py --ludb LUDB --model ... --standardize   # an encoder of signals without unit

The recordings are divided into five folds by patient. For each fold, `EcgJepaForTokenClassification` is fine-tuned
whole on nine tenths of the other patients, from the encoder in `--model` and from random weights (the control: its
architecture, its signals, its recipe). The last tenth of these patients chooses the epoch and the learning rate (mean
F1 of P, QRS and T), and the fold is predicted: every recording once, by a model that never saw its patient. The
delineator is the discrete wavelet transform of neurokit2 in each lead, with the R peaks of this package's detector.
If interrupted, the same command continues with the fits that are missing.

LUDB marks the middle of each recording only: what lies before the first and after the last marked wave of a lead
counts nowhere, neither in training nor in the scores.

Writes `benchmarks/results/segmentation_ludb.csv`: for each method the F1 of the samples of each wave, how many waves
are found, and the errors of onsets and offsets, with 95 % bootstrap intervals over patients, and paired differences;
and `docs/pictures/segmentation.png`, a recording with the waves that the model found in it.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import neurokit2
import numpy as np
import torch
from machine import REPOSITORY, describe_machine, write_csv
from transformers import EvalPrediction, PrinterCallback, Trainer, TrainingArguments, set_seed
from transformers.utils import logging

from clear_hug_hf.data.readers import LudbSource
from clear_hug_hf.data.readers.ludb import read_waves
from clear_hug_hf.data.splits import patient_folds
from clear_hug_hf.evaluation.metrics import bootstrap_interval
from clear_hug_hf.evaluation.segmentation import UNKNOWN, WAVES, segmentation_samples
from clear_hug_hf.modeling.configuration_ecg_jepa import EcgJepaConfig
from clear_hug_hf.modeling.modeling_ecg_jepa import EcgJepaForTokenClassification
from clear_hug_hf.plotting import plot_segmentation, save_figure
from clear_hug_hf.processing.feature_extraction_ecg_jepa import EcgJepaFeatureExtractor
from clear_hug_hf.utils.files import atomic_file


NUM_FOLDS = 5
FINE_TUNED, CONTROL, DELINEATOR = "ECG-JEPA, pre-trained", "ECG-JEPA, random weights", "neurokit2, dwt"
FITS = {"pretrained": FINE_TUNED, "random": CONTROL}
DIFFERENCES = [(FINE_TUNED, CONTROL), (FINE_TUNED, DELINEATOR), (CONTROL, DELINEATOR)]
# A mean error may cancel, so that a difference of two says nothing.
COMPARED = ("f1", "sensitivity", "ppv", "onset_sd", "offset_sd", "onset_median", "offset_median")
UNITS = {"f1": "", "sensitivity": "", "ppv": ""}
SHOWN_LEADS = ("I", "II", "V2", "V5")


class Ludb:
    """The recordings as the model reads them, their classes, and their folds."""

    def __init__(self, folder: Path, extractor: EcgJepaFeatureExtractor, standardize: bool):
        source = LudbSource(folder)
        self.leads = list(extractor.lead_names)
        self.rate = extractor.sampling_rate
        recordings = [reference.read() for reference in source]
        inputs = [recording.as_inputs() for recording in recordings]
        raw = [extractor(**arguments, return_r_peaks=True) for arguments in inputs]
        self.r_peaks = [peaks[peaks >= 0] for peaks in (features["r_peaks"][0] for features in raw)]
        self.model_inputs = {
            name: np.concatenate([features[name] for features in raw]) for name in extractor.model_input_names
        }
        self.signals = self.model_inputs["input_values"]
        if standardize:
            filtered = np.concatenate(
                [extractor(**arguments, do_bandpass=True)["input_values"] for arguments in inputs]
            )
            deviation = filtered.std(axis=-1, keepdims=True)
            filtered -= filtered.mean(axis=-1, keepdims=True)
            self.model_inputs["input_values"] = np.divide(
                filtered, deviation, out=np.zeros_like(filtered), where=deviation > 0
            )
        self.record_ids = [recording.record_id for recording in recordings]
        self.patients = [recording.patient_id for recording in recordings]
        self.classes = np.stack(
            [read_waves(reference.path, self.leads, self.rate, self.signals.shape[-1]) for reference in source]
        )
        self.folds = patient_folds(self.record_ids, self.patients, NUM_FOLDS)

    def parts(self, fold: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Places of the recordings that train, that choose the epoch, and that are tested."""
        others = np.flatnonzero(self.folds != fold)
        names = [self.record_ids[place] for place in others]
        tenth = patient_folds(names, [self.patients[place] for place in others], 10, seed=1 + fold) == 0
        return others[~tenth], others[tenth], np.flatnonzero(self.folds == fold)


class Rows(torch.utils.data.Dataset[dict[str, np.ndarray]]):
    """Inputs and labels of some recordings."""

    def __init__(self, ludb: Ludb, places: np.ndarray):
        self.columns = {**ludb.model_inputs, "labels": ludb.classes}
        self.places = places

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        return {name: values[self.places[index]] for name, values in self.columns.items()}


def make_model(folder: Path, pretrained: bool) -> EcgJepaForTokenClassification:
    """The classifier of samples on the encoder of a folder, or on one like it with random weights."""
    fields: dict[str, Any] = {
        "id2label": dict(enumerate(WAVES)),
        "label2id": {name: place for place, name in enumerate(WAVES)},
        # The same numbers up to rounding, in less time.
        "attention_form": "sparse",
    }
    config = EcgJepaConfig.from_pretrained(folder)
    if config.attention_pattern == "full":
        del fields["attention_form"]
    if not pretrained:
        for name, value in fields.items():
            setattr(config, name, value)
        return EcgJepaForTokenClassification(config)
    both: Any = EcgJepaForTokenClassification.from_pretrained(folder, output_loading_info=True, **fields)
    model, loaded = both
    if missing := [name for name in loaded["missing_keys"] if not name.startswith("classifier.")]:
        raise SystemExit(f"{folder} does not hold the weights of an encoder: {missing[0]} is missing")
    return model


def digest(model: torch.nn.Module) -> str:
    """Short fingerprint of a model's weights."""
    digest = hashlib.sha256()
    for name, weights in model.state_dict().items():
        digest.update(name.encode())
        digest.update(weights.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


def wave_scores(prediction: EvalPrediction) -> dict[str, float]:
    """F1 of P, QRS and T, and their mean."""
    marked, predicted = np.asarray(prediction.label_ids), np.asarray(prediction.predictions)
    samples = segmentation_samples(marked, predicted, 250.0, num_samples=0)
    return {f"f1_{name}": float(samples["f1", name][0]) for name in ("P", "QRS", "T", "mean")}


def fit(ludb: Ludb, fold: int, kind: str, learning_rate: float, arguments: argparse.Namespace) -> None:
    """Fine-tune and predict a fold, unless it was done."""
    path = path_of(arguments.output, kind, fold, learning_rate)
    set_seed(fold)
    model = make_model(arguments.model, kind == "pretrained")
    settings = {name: getattr(arguments, name) for name in ("epochs", "batch_size", "standardize")}
    settings["start"] = digest(model)
    if path.is_file():
        if _read(path)[1]["settings"] != settings:
            raise SystemExit(f"{path} began with other weights or settings: remove it, or give another --output")
        return
    train, validation, test = ludb.parts(fold)
    # Not the clock's: what else runs beside this would count.
    start = time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(
            model=model,
            args=TrainingArguments(
                output_dir=folder,
                num_train_epochs=arguments.epochs,
                per_device_train_batch_size=arguments.batch_size,
                per_device_eval_batch_size=16,
                learning_rate=learning_rate,
                lr_scheduler_type="cosine",
                warmup_steps=0.1,
                weight_decay=0.05,
                eval_strategy="epoch",
                save_strategy="epoch",
                save_total_limit=1,
                save_only_model=True,
                load_best_model_at_end=True,
                metric_for_best_model="f1_mean",
                greater_is_better=True,
                label_names=["labels"],
                remove_unused_columns=False,
                logging_strategy="no",
                report_to=[],
                disable_tqdm=True,
                use_cpu=True,
                bf16=True,
                seed=fold,
            ),
            train_dataset=Rows(ludb, train),
            eval_dataset=Rows(ludb, validation),
            compute_metrics=wave_scores,
            preprocess_logits_for_metrics=lambda logits, labels: logits.argmax(dim=-1),
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train()
        curve = [entry["eval_f1_mean"] for entry in trainer.state.log_history if "eval_f1_mean" in entry]
        predicted = np.asarray(trainer.predict(Rows(ludb, test)).predictions)
    seconds = time.process_time() - start
    about = {
        "settings": settings,
        "learning_rate": learning_rate,
        "seconds": seconds,
        "epoch": int(np.argmax(curve)) + 1,
        "validation": max(curve),
        "curve": curve,
    }
    with atomic_file(path) as partial:
        np.savez_compressed(partial, places=test, predicted=predicted.astype(np.int8), about=json.dumps(about))
    print(
        f"{FITS[kind]}, fold {fold}, learning rate {learning_rate:g}: epoch {about['epoch']} of {len(curve)}, "
        f"validation F1 {max(curve):.4f}, "
        f"{seconds:.0f} s of the CPU",
        flush=True,
    )


def path_of(output: Path, kind: str, fold: int, learning_rate: float) -> Path:
    """Where a fit is kept."""
    return output / f"{kind}-{fold}-{learning_rate:g}.npz"


def _read(path: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    with np.load(path) as kept:
        return {name: kept[name] for name in ("places", "predicted")}, json.loads(str(kept["about"]))


def collect(ludb: Ludb, kind: str, arguments: argparse.Namespace) -> tuple[np.ndarray, list[dict[str, Any]]] | None:
    """
    Predictions of all recordings with the learning rate that was best on each fold's validation recordings, and how
    each fold was fitted; nothing where a fit is missing.
    """
    predicted, about = np.zeros(ludb.classes.shape, dtype=np.int8), []
    for fold in range(NUM_FOLDS):
        paths = [path_of(arguments.output, kind, fold, rate) for rate in arguments.learning_rates]
        if not all(path.is_file() for path in paths):
            return None
        fits = [_read(path) for path in paths]
        predictions, result = max(fits, key=lambda kept: kept[1]["validation"])
        predicted[predictions["places"]] = predictions["predicted"]
        about.append({**result, "seconds": sum(kept["seconds"] for _, kept in fits)})
    return predicted, about


def delineate(ludb: Ludb) -> np.ndarray:
    """What neurokit2's delineator makes of every lead: a class for every sample."""
    predicted = np.zeros(ludb.classes.shape, dtype=np.int8)
    failures = 0
    for place, peaks in enumerate(ludb.r_peaks):
        for lead, signal in enumerate(ludb.signals[place]):
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    cleaned = neurokit2.ecg_clean(signal.astype(np.float64), sampling_rate=ludb.rate)
                    _, waves = neurokit2.ecg_delineate(cleaned, peaks, sampling_rate=ludb.rate, method="dwt")
            except (ValueError, IndexError, ZeroDivisionError):  # what it raises where it finds too little
                failures += 1
                continue
            # Waves that overlap are an error of one of the two: the QRS complex is the surest.
            for wave, name in ((1, "P"), (3, "T"), (2, "R")):
                for first, last in paired(waves[f"ECG_{name}_Onsets"], waves[f"ECG_{name}_Offsets"]):
                    predicted[place, lead, first : last + 1] = wave
    if failures:
        print(f"{DELINEATOR}: nothing came of {failures} leads")
    return predicted


def paired(onsets: Any, offsets: Any) -> list[tuple[int, int]]:
    """Each onset with the offset that follows it before the next onset; the two lists may have gaps of their own."""
    starts, stops = (np.unique([int(edge) for edge in edges if np.isfinite(edge)]) for edges in (onsets, offsets))
    ends = [*starts[1:], np.inf]
    pairs = []
    for start, end in zip(starts, ends, strict=False):
        inside = stops[(stops > start) & (stops < end)]
        if len(inside):
            pairs.append((int(start), int(inside[0])))
    return pairs


def summarize(ludb: Ludb, predictions: dict[str, np.ndarray], about: dict[str, Any]) -> list[dict[str, Any]]:
    """Rows of the results."""
    samples = {
        name: segmentation_samples(ludb.classes, predicted, ludb.rate, ludb.patients, num_samples=2000)
        for name, predicted in predictions.items()
    }
    rows = [
        _row(score, wave, name, "", drawn)
        for name, scores in samples.items()
        for (score, wave), drawn in scores.items()
    ]
    for first, second in DIFFERENCES:
        if first in samples and second in samples:
            rows += [
                _row(score, wave, first, second, drawn - samples[second][score, wave])
                for (score, wave), drawn in samples[first].items()
                if score in COMPARED
            ]
    machine = describe_machine("torch", "transformers", "neurokit2", "scipy")
    return [{**row, **about, **machine} for row in rows]


def _row(score: str, wave: str, method: str, minus: str, samples: np.ndarray) -> dict[str, Any]:
    interval = bootstrap_interval(samples)
    values = {name: "" if interval[name] is None else f"{interval[name]:.5f}" for name in ("value", "low", "high")}
    return {"score": score, "unit": UNITS.get(score, "ms"), "wave": wave, "method": method, "minus": minus, **values}


def draw(ludb: Ludb, predicted: np.ndarray, record: str | None, path: Path) -> None:
    """A recording with what was found and what was marked: the one asked for, or that of median agreement."""
    scored = (ludb.classes != UNKNOWN) & ((ludb.classes > 0) | (predicted > 0))
    agreement = ((ludb.classes == predicted) & scored).sum(axis=(1, 2)) / scored.sum(axis=(1, 2))
    middle = int(np.argsort(agreement, kind="stable")[len(agreement) // 2])
    place = middle if record is None else ludb.record_ids.index(record)
    leads = [ludb.leads.index(lead) for lead in SHOWN_LEADS]
    figure = plot_segmentation(
        ludb.signals[place, leads],
        SHOWN_LEADS,
        ludb.rate,
        predicted[place, leads],
        ludb.classes[place, leads],
        title=f"LUDB {ludb.record_ids[place]}, held out: the waves that the fine-tuned model found, and those marked",
    )
    print(f"{save_figure(figure, path)}: recording {ludb.record_ids[place]}")


def main() -> int:
    """Run what is missing, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ludb", type=Path, required=True, metavar="DIR", help="folder with ludb.csv")
    parser.add_argument("--model", type=Path, required=True, metavar="FOLDER", help="a pre-trained ECG-JEPA")
    parser.add_argument("--output", type=Path, default=Path("runs/segmentation"), metavar="DIR", help="%(default)s")
    parser.add_argument(
        "--standardize",
        action="store_true",
        help="band-pass each lead and scale it to mean 0 and deviation 1, as recordings without a unit are: for an "
        "encoder that was pre-trained on such",
    )
    parser.add_argument("--epochs", type=int, default=16, metavar="N", help="of each fit (%(default)s)")
    parser.add_argument("--batch-size", type=int, default=4, metavar="N", help="%(default)s")
    parser.add_argument(
        "--learning-rates", nargs="+", type=float, default=[1e-3, 3e-3], metavar="X", help="to choose from %(default)s"
    )
    parser.add_argument("--only", choices=tuple(FITS), help="fits of one kind")
    parser.add_argument("--folds", nargs="+", type=int, default=list(range(NUM_FOLDS)), metavar="N", help="which")
    parser.add_argument("--record", metavar="ID", help="recording of the picture; by default that of median agreement")
    parser.add_argument(
        "--picture", type=Path, default=REPOSITORY / "docs" / "pictures" / "segmentation.png", metavar="FILE"
    )
    parser.add_argument(
        "--results", type=Path, default=REPOSITORY / "benchmarks" / "results" / "segmentation_ludb.csv", metavar="FILE"
    )
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    ludb = Ludb(arguments.ludb, EcgJepaFeatureExtractor.from_pretrained(arguments.model), arguments.standardize)
    for fold in arguments.folds:
        for kind in FITS if arguments.only is None else (arguments.only,):
            for learning_rate in arguments.learning_rates:
                fit(ludb, fold, kind, learning_rate, arguments)
    results = {name: collect(ludb, kind, arguments) for kind, name in FITS.items()}
    done = {name: result for name, result in results.items() if result is not None}
    if len(done) < len(FITS):
        print("some fits are missing: no results are written")
        return 0
    predictions = {**{name: predicted for name, (predicted, _) in done.items()}, DELINEATOR: delineate(ludb)}
    fits = [fit_result for _, kept in done.values() for fit_result in kept]
    about = {
        "records": len(ludb.patients),
        "leads": " ".join(ludb.leads),
        "recipe": f"epochs={arguments.epochs} batch_size={arguments.batch_size} standardize={arguments.standardize} "
        f"learning_rates={','.join(f'{rate:g}' for rate in arguments.learning_rates)}",
        "fit_cpu_seconds": f"{sum(fit_result['seconds'] for fit_result in fits):.0f}",
        "chosen": " ".join(
            f"{kind}={','.join('{epoch}@{learning_rate:g}'.format(**fit_result) for fit_result in done[name][1])}"
            for kind, name in FITS.items()
        ),
    }
    rows = summarize(ludb, predictions, about)
    write_csv(arguments.results, rows)
    for row in rows:
        minus = f" - {row['minus']}" if row["minus"] else ""
        print(f"{row['score']} {row['wave']}: {row['method']}{minus}: {row['value']} ({row['low']} to {row['high']})")
    draw(ludb, predictions[FINE_TUNED], arguments.record, arguments.picture)
    return 0


if __name__ == "__main__":
    sys.exit(main())
