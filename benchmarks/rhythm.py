"""
Rhythm features beside an encoder, cross-validated by patient: which of the two knows the rhythm.

    python benchmarks/rhythm.py --data prepared/rhythm --challenge path/to/challenge

All recordings of a prepared folder, such as PTB-XL's folds 1 to 9 with the labels `ptbxl_rhythm`, are divided into
five folds by patient. In each fold, every label with at least 15 positive recordings gets

- a logistic regression on the mean feature of the frozen encoder;
- one on the rhythm features of `clear-hug finetune --rhythm-features`;
- one on both, and
- gradient boosted trees on seven measures of the RR intervals, as a baseline without an encoder.

Features are standardized on the training recordings. Nothing is chosen on tested patients: the penalty of each label
and, for both, how much smaller the features of the encoder are than those of the rhythm (a smaller feature is
penalized more) are those with the highest AUROC in four folds of the training patients. The list of rhythm features
was made while looking at all recordings.

With `--challenge`, the same is trained on all of these recordings and tested on those of the PhysioNet Challenges,
whose diagnoses are mapped to the labels. CPSC2018 does not label sinus rhythms, which are unknown there.

Writes `benchmarks/results/rhythm.csv`: AUROC, the mean over folds, with 95 % bootstrap intervals over patients, of
each label and as a mean over labels, and paired differences.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import datasets
import numpy as np
from machine import REPOSITORY, describe_machine, write_csv
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from clear_hug_hf.data.collator import EcgCollator
from clear_hug_hf.data.preparation import prepare
from clear_hug_hf.data.prepared import load_prepared
from clear_hug_hf.data.readers.challenge import ChallengeSource
from clear_hug_hf.data.splits import stratified_patient_folds
from clear_hug_hf.evaluation.metrics import bootstrap_interval
from clear_hug_hf.evaluation.protocol import mean_auroc_samples
from clear_hug_hf.modeling.modeling_ecg import masked_mean
from clear_hug_hf.processing.rhythm import RHYTHM_FEATURES, measure_rhythm
from clear_hug_hf.training.features import dataset_labels, dataset_rhythm, default_cache, encode
from clear_hug_hf.training.folders import load_encoder


NUM_FOLDS, NUM_INNER_FOLDS, NUM_BOOTSTRAP = 5, 4, 2000
MIN_POSITIVES, MIN_OTHER_POSITIVES, FREQUENT = 15, 8, 30
STRENGTHS = (0.01, 0.1, 1.0)
SCALES = (0.1, 0.3, 1.0)
RR_MEASURES = ("median_rr", "shortest_rr", "longest_rr", "sdnn", "rmssd", "median_difference", "num_beats")
METHODS = ("encoder", "rhythm", "both", "trees")


# Labels of PTB-XL by SNOMED code, and those that CPSC2018 has.
CODES = {"426177001": "SBRAD", "427084000": "STACH", "164889003": "AFIB", "427393009": "SARRH", "426783006": "SR"}
KNOWN_IN_CPSC2018 = ("AFIB",)


Row = dict[str, Any]


class Recordings(NamedTuple):
    """Features `(num_recordings, ...)`, labels `(num_recordings, num_labels)` and patients of all recordings."""

    encoder: np.ndarray
    rhythm: np.ndarray
    measures: np.ndarray
    labels: np.ndarray
    label_names: list[str]
    record_ids: list[str]
    patient_ids: list[str | None]


def read(data: Path, model_name: str, min_positives: int) -> Recordings:
    """Encode all recordings of a prepared folder, with the labels of which there are enough."""
    sets, extractor = load_prepared(data)
    rows = datasets.concatenate_datasets(list(sets.values()))
    counts = np.nansum(dataset_labels(rows, None).numpy(), axis=0)
    names = [name for name, count in zip(rows.features["labels"], counts, strict=True) if count >= min_positives]
    return describe(rows, extractor, model_name, names)


def read_challenge(path: Path, like: Path, model_name: str, label_names: list[str]) -> Recordings:
    """Recordings of the Challenges, prepared as a folder is, with its labels: NaN where they are not annotated."""
    _, extractor = load_prepared(like)
    source, records = ChallengeSource(path), []
    for index in range(len(source)):
        record = source.reference(index).read()
        codes = {CODES.get(code) for code in record.metadata["codes"]}
        names = KNOWN_IN_CPSC2018 if record.metadata["database"] == "CPSC2018" else CODES.values()
        record.labels = {name: float(name in codes) for name in names if name in label_names}
        records.append(record)
    rows, rejected = prepare(records, extractor, label_names, progress=False)
    print(f"{len(rows)} recordings of the Challenges, {len(rejected)} rejected")
    return describe(rows, extractor, model_name, label_names)


def describe(rows: datasets.Dataset, extractor: Any, model_name: str, label_names: list[str]) -> Recordings:
    """Features and labels of prepared rows."""
    model, _ = load_encoder(model_name)
    encoded = encode(model, rows, EcgCollator(extractor, label_names), cache_dir=default_cache()).columns
    lengths = [signal.shape[-1] for signal in rows.with_format("numpy")["signal"]]
    measured = [
        measure_rhythm(peaks, length, extractor.sampling_rate)._asdict()
        for peaks, length in zip(rows.with_format("numpy")["r_peaks"], lengths, strict=True)
    ]
    return Recordings(
        encoder=masked_mean(encoded["lead_states"], encoded["present"]).numpy().astype(np.float64),
        rhythm=dataset_rhythm(rows, extractor.replace(rhythm_features=RHYTHM_FEATURES)).numpy().astype(np.float64),
        measures=np.array([[measures[name] for name in RR_MEASURES] for measures in measured]),
        labels=encoded["labels"].numpy(),
        label_names=label_names,
        record_ids=list(rows["record_id"]),
        patient_ids=list(rows["patient_id"]),
    )


def join(first: Recordings, second: Recordings) -> Recordings:
    """The recordings of both, which have the same labels."""

    def stacked(name: str) -> np.ndarray:
        return np.concatenate([getattr(first, name), getattr(second, name)])

    return Recordings(
        encoder=stacked("encoder"),
        rhythm=stacked("rhythm"),
        measures=stacked("measures"),
        labels=stacked("labels"),
        label_names=first.label_names,
        record_ids=first.record_ids + second.record_ids,
        patient_ids=first.patient_ids + second.patient_ids,
    )


def folds_of(recordings: Recordings, selected: np.ndarray, num_folds: int, seed: int = 0) -> np.ndarray:
    """Folds of the selected recordings by patient, with each label in every one."""
    rows = np.flatnonzero(selected)
    record_ids = [recordings.record_ids[row] for row in rows]
    patient_ids = [recordings.patient_ids[row] for row in rows]
    return stratified_patient_folds(record_ids, patient_ids, recordings.labels[selected], num_folds, seed)


def standardize(features: np.ndarray, training: np.ndarray) -> np.ndarray:
    """Features with mean 0 and standard deviation 1 in the training recordings; constant ones become 0."""
    deviation = features[training].std(axis=0)
    centered = features - features[training].mean(axis=0)
    return np.divide(centered, deviation, out=np.zeros_like(centered), where=deviation > 1e-9)


def candidates(method: str, recordings: Recordings, training: np.ndarray) -> Iterator[tuple[np.ndarray, float]]:
    """Features and inverse penalties to choose from."""
    encoder, rhythm = (standardize(part, training) for part in (recordings.encoder, recordings.rhythm))
    inputs = {"encoder": [encoder], "rhythm": [rhythm]}.get(method) or [
        np.concatenate([scale * encoder, rhythm], axis=1) for scale in SCALES
    ]
    for features in inputs:
        for strength in STRENGTHS:
            yield features, strength


def fit_logistic(features: np.ndarray, truth: np.ndarray, training: np.ndarray, strength: float) -> np.ndarray:
    """Probabilities of all recordings."""
    model = LogisticRegression(C=strength, max_iter=2000)
    probabilities: np.ndarray = model.fit(features[training], truth[training]).predict_proba(features)[:, 1]
    return probabilities


def choose_and_fit(method: str, recordings: Recordings, column: int, training: np.ndarray, fold: int) -> np.ndarray:
    """Probabilities of a label for all recordings, by the penalty that is best in folds of the training patients."""
    truth = recordings.labels[:, column]
    inner = np.full(len(truth), -1)
    inner[training] = folds_of(recordings, training, NUM_INNER_FOLDS, seed=1 + fold)

    def score(features: np.ndarray, strength: float) -> float:
        scores = np.zeros(len(truth))
        for number in range(NUM_INNER_FOLDS):
            tested = inner == number
            scores[tested] = fit_logistic(features, truth, training & ~tested, strength)[tested]
        return float(roc_auc_score(truth[training], scores[training]))

    best = max(candidates(method, recordings, training), key=lambda candidate: score(*candidate))
    return fit_logistic(best[0], truth, training, best[1])


def predict_folds(method: str, recordings: Recordings, folds: np.ndarray, tested: Sequence[int]) -> np.ndarray:
    """Probabilities of all labels, of each recording of the tested folds by models of all others."""
    probabilities = np.zeros(recordings.labels.shape)
    for fold in tested:
        training = folds != fold
        for column, truth in enumerate(recordings.labels.T):
            if method == "trees":
                trees = HistGradientBoostingClassifier(max_depth=3, learning_rate=0.05, max_iter=150, random_state=0)
                trees.fit(recordings.measures[training], truth[training])
                scores = trees.predict_proba(recordings.measures)[:, 1]
            else:
                scores = choose_and_fit(method, recordings, column, training, fold)
            probabilities[~training, column] = scores[~training]
    return probabilities


def compare(recordings: Recordings, folds: np.ndarray, tested: Sequence[int], min_positives: int) -> Iterator[Row]:
    """Rows of the results: AUROC of each method and label in the tested folds, and paired differences."""
    found = {method: predict_folds(method, recordings, folds, tested) for method in METHODS}
    positives = np.nansum(recordings.labels[np.isin(folds, tested)], axis=0)
    everything = np.flatnonzero(positives >= min_positives).tolist()

    def samples(method: str, columns: list[int]) -> np.ndarray:
        def by_fold(values: np.ndarray) -> list[np.ndarray]:
            return [values[folds == fold][:, columns] for fold in tested]

        patients = [np.array(recordings.patient_ids, dtype=object)[folds == fold].tolist() for fold in tested]
        runs = [[part] for part in by_fold(found[method])]
        return mean_auroc_samples(by_fold(recordings.labels), runs, patients, NUM_BOOTSTRAP, range(len(tested)))

    groups = {"macro": everything}
    frequent = [column for column in everything if positives[column] >= FREQUENT]
    if frequent and frequent != everything:
        groups[f"macro of labels with {FREQUENT} or more"] = frequent
    for name, columns in {**groups, **{recordings.label_names[column]: [column] for column in everything}}.items():
        by_method = {method: samples(method, columns) for method in found}
        compared = [("both", "trees"), ("both", "encoder"), ("both", "rhythm"), ("rhythm", "trees")]
        for method, minus in [*((method, "") for method in found), *compared]:
            values = by_method[method] - by_method[minus] if minus else by_method[method]
            yield {
                "recordings": int(np.isin(folds, tested).sum()),
                "label": name,
                "positive": "" if name in groups else int(positives[columns[0]]),
                "method": method,
                "minus": minus,
                **{key: f"{value:.5f}" for key, value in bootstrap_interval(values).items() if value is not None},
            }


def main() -> int:
    """Run all methods and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="prepared, with labels of rhythms")
    parser.add_argument("--model", default="clear-hug-small", metavar="MODEL", help="encoder (%(default)s)")
    parser.add_argument("--challenge", type=Path, metavar="DIR", help="recordings of the Challenges, to test on")
    parser.add_argument("--results", type=Path, default=REPOSITORY / "benchmarks" / "results" / "rhythm.csv")
    arguments = parser.parse_args()
    datasets.disable_progress_bars()
    recordings = read(arguments.data, arguments.model, MIN_POSITIVES)
    folds = folds_of(recordings, np.ones(len(recordings.labels), dtype=bool), NUM_FOLDS)
    machine = describe_machine("torch", "transformers", "scikit-learn")
    results = {"PTB-XL": list(compare(recordings, folds, range(NUM_FOLDS), MIN_POSITIVES))}
    if arguments.challenge is not None:
        others = read_challenge(arguments.challenge, arguments.data, arguments.model, recordings.label_names)
        is_other = np.repeat([0, 1], [len(recordings.labels), len(others.labels)])
        results["Challenges"] = list(compare(join(recordings, others), is_other, [1], MIN_OTHER_POSITIVES))
    rows = [{"tested on": name, **row, **machine} for name, part in results.items() for row in part]
    write_csv(arguments.results, rows)
    for row in rows:
        minus = f" - {row['minus']}" if row["minus"] else ""
        interval = f"{row['value']} ({row['low']} to {row['high']})"
        print(f"{row['tested on']} {row['label']:6s} {row['method']}{minus}: {interval}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
