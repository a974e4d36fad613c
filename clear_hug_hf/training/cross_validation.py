"""
Cross-validation of fine-tuning by patient: what a recipe reaches on recordings that it neither trained on nor chose
anything by, and a model of all recordings that is trained as the folds were.
"""

from __future__ import annotations

import csv
import shutil
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import numpy as np
from accelerate import PartialState
from transformers import PreTrainedModel

from ..data.collator import EcgCollator
from ..data.splits import patient_keys, stratified_patient_folds
from ..evaluation.calibration import finite_logits
from ..evaluation.metrics import macro_auroc
from ..evaluation.predictions import Predictions, label_thresholds, predict
from ..evaluation.protocol import STRENGTHS, holdout_split, logistic_scores
from ..inference.classifier_outputs import model_label_names
from ..processing.errors import InputError
from ..utils.files import RunFolder, check_writable, write_csv
from .arguments import FinetuningArguments
from .features import EncodedDataset, dataset_labels, encode, known_labels, linear_features
from .finetuning import (
    CHECKPOINTS,
    LOG,
    Choice,
    FinetuningResult,
    check_datasets,
    finetune,
    is_precomputed,
    run_identity,
)
from .pretraining import FINETUNING_RUN, MODEL_FOLDER
from .processes import connect_processes


CROSS_VALIDATION_RUN, FOLDS, OUT_OF_FOLD = "cross_validation.json", "folds", "out_of_fold.csv"
"""Files of a cross-validated run: its mark, the folder of the runs of the folds, and the table of probabilities."""
_PROBABILITY, _LABEL = "probability of ", "label "


@dataclass
class OutOfFold:
    """
    Predictions of recordings by models that were neither trained nor chosen on them or on their patients.

    Args:
        predictions ([`Predictions`]): A row for each recording, with its labels.
        folds (`np.ndarray` of shape `(num_recordings,)`, int64): Fold of each recording, from 0.
    """

    predictions: Predictions
    folds: np.ndarray

    @property
    def logits(self) -> np.ndarray:
        """
        Logits of the probabilities, `(num_recordings, num_labels)`; see [`finite_logits`].
        """
        return finite_logits(self.predictions.probabilities)

    @property
    def macro_aurocs(self) -> list[float]:
        """Macro AUROC of each fold, NaN where no label has both classes."""
        labels, probabilities = self.predictions.labels, self.predictions.probabilities
        assert labels is not None
        return [macro_auroc(labels[self.folds == fold], probabilities[self.folds == fold]) for fold in self._numbers]

    @property
    def _numbers(self) -> range:
        return range(int(self.folds.max()) + 1)

    def save(self, path: str | Path) -> None:
        """Write a CSV table with the recording, patient and fold of each row, and its probabilities and labels."""
        predictions = self.predictions
        assert predictions.labels is not None
        parts = zip(
            predictions.record_ids,
            predictions.patient_ids,
            self.folds.tolist(),
            predictions.probabilities.tolist(),
            predictions.labels.tolist(),
            strict=True,
        )
        names = predictions.label_names
        rows = []
        for record, patient, fold, probabilities, labels in parts:
            row = {"record_id": record, "patient_id": patient, "fold": fold + 1}
            row |= {f"{_PROBABILITY}{name}": value for name, value in zip(names, probabilities, strict=True)}
            known = ("" if label != label else f"{label:g}" for label in labels)
            rows.append(row | {f"{_LABEL}{name}": value for name, value in zip(names, known, strict=True)})
        write_csv(path, rows)

    @classmethod
    def load(cls, path: str | Path) -> OutOfFold:
        """
        Read a table that `save` wrote.

        Raises:
            FileNotFoundError: If there is none.
            InputError: If it is another or a damaged table.
        """
        path = Path(path)
        try:
            with path.open(newline="", encoding="utf-8") as file:
                rows = list(csv.DictReader(file))
            names = [name.removeprefix(_PROBABILITY) for name in rows[0] if name.startswith(_PROBABILITY)]
            predictions = Predictions(
                label_names=names,
                record_ids=[row["record_id"] for row in rows],
                patient_ids=[row["patient_id"] or None for row in rows],
                probabilities=np.array(
                    [[row[f"{_PROBABILITY}{name}"] for name in names] for row in rows], dtype=np.float32
                ),
                labels=np.array([[row[f"{_LABEL}{name}"] or "nan" for name in names] for row in rows], np.float64),
            )
            return cls(predictions, np.array([int(row["fold"]) - 1 for row in rows], dtype=np.int64))
        except (ValueError, KeyError, IndexError, TypeError) as error:
            raise InputError(f"{path} is not a table of out-of-fold probabilities: repeat the run") from error


@dataclass
class CrossValidated:
    """
    Result of [`finetune_in_folds`].

    Args:
        result ([`FinetuningResult`]): The model of all recordings.
        out_of_fold ([`OutOfFold`]): Predictions of the models of the folds.
        choice ([`Choice`]): What the folds chose for the model of all recordings.
        by_fold (`list[int]` or `list[float]`): The best epoch of each fold, or the inverse strength of the penalty of
            its logistic regression.
    """

    result: FinetuningResult
    out_of_fold: OutOfFold
    choice: Choice
    by_fold: list[int] | list[float]


def finetune_in_folds(
    make_model: Callable[[], PreTrainedModel],
    recordings: datasets.Dataset,
    feature_extractor: Any,
    output_dir: str | Path | None = None,
    arguments: FinetuningArguments | None = None,
    num_folds: int = 5,
    *,
    cache_dir: str | Path | None = None,
    restart: bool = False,
    say: Callable[[str], None] = lambda text: None,
) -> CrossValidated:
    """
    Cross-validate a fine-tuning recipe by patient, then train on all recordings, or resume an interrupted run.

    A model is trained for each fold, on nine tenths of the recordings of the other folds; the last tenth of their
    patients chooses its epoch. It predicts its fold, so that no recording was used for the model that predicts it.
    The model of all recordings keeps the median of these epochs, and the thresholds with the best F1 on the
    predictions of all folds.

    A logistic regression of a fold is fitted to all recordings of the other folds, with the strength of the penalty
    that is best in a cross-validation of these recordings alone (see [`choose_strengths`]).

    Args:
        make_model (`Callable`): Makes the same new multi-label classifier in each call.
        recordings ([`datasets.Dataset`]): Prepared recordings with the model's labels.
        feature_extractor: As in [`finetune`].
        output_dir (`str` or `Path`, *optional*): Folder for what [`finetune`] writes of the model of all recordings,
            `out_of_fold.csv`, and `folds/` with what it writes of each fold. By default, nothing is written.
        arguments ([`FinetuningArguments`], *optional*): The recipe.
        num_folds (`int`, *optional*, defaults to 5): Number of folds, see [`stratified_patient_folds`].
        cache_dir, restart: As in [`finetune`].
        say (`Callable[[str], None]`, *optional*): Prints which fold is trained.

    Returns:
        [`CrossValidated`]

    Raises:
        InputError: As in [`finetune`]; or if there are fewer than two folds, or fewer patients than folds.
    """
    arguments = FinetuningArguments() if arguments is None else arguments
    connect_processes()
    model = make_model()
    label_names = model_label_names(model.config)
    check_datasets(recordings, None, label_names, arguments.allow_absent_labels)
    rows_of = split_folds(recordings, num_folds)
    if arguments.method == "logistic":
        for rows in rows_of:
            rows["train"] = np.union1d(rows["train"], rows.pop("validation"))

    def part(rows: dict[str, np.ndarray], split: str) -> datasets.Dataset | None:
        return recordings.select(rows[split]) if split in rows else None

    for rows in rows_of:
        check_datasets(
            recordings.select(rows["train"]), part(rows, "validation"), label_names, arguments.allow_absent_labels
        )
    if output_dir is not None:
        output_dir = check_writable(output_dir)
        identity = run_identity(model, recordings, None, label_names, arguments)
        _claim(output_dir, {**identity, "the number of folds": num_folds}, restart)
    encoded = None
    if is_precomputed(model, arguments):
        collator = EcgCollator(feature_extractor, label_names=label_names)
        model.to(PartialState().device)
        encoded = encode(model, recordings, collator, progress=not arguments.disable_tqdm, cache_dir=cache_dir)

    strengths: list[float] = []
    if arguments.method == "logistic":
        assert encoded is not None
        strengths = choose_strengths(encoded, recordings, rows_of)
    parts: list[Predictions] = []
    by_fold: list[Any] = []
    for fold, rows in enumerate(rows_of):
        say(f"fold {fold + 1} of {num_folds}")
        result = finetune(
            make_model(),
            recordings.select(rows["train"]),
            part(rows, "validation"),
            feature_extractor,
            None if output_dir is None else output_dir / FOLDS / str(fold + 1),
            arguments,
            choice=Choice({}, strength=strengths[fold]) if strengths else None,
            encoded=None
            if encoded is None
            else [encoded.select(rows[split].tolist()) for split in ("train", "validation") if split in rows],
        )
        by_fold.append(result.strength if strengths else result.best_epoch)
        parts.append(predict(result.model, recordings.select(rows["test"]), feature_extractor).by_recording())
    out_of_fold = _pool(parts, recordings["record_id"])
    if output_dir is not None and PartialState().is_main_process:
        out_of_fold.save(output_dir / OUT_OF_FOLD)
    thresholds = label_thresholds(out_of_fold.predictions)
    if strengths:
        choice = Choice(thresholds, strength=strengths[-1])
        say("all recordings")
    else:
        choice = Choice(thresholds, epoch=statistics.median_high(by_fold))
        say(f"all recordings, {choice.epoch} epoch(s)")
    result = finetune(
        make_model(),
        recordings,
        None,
        feature_extractor,
        output_dir,
        arguments,
        choice=choice,
        encoded=None if encoded is None else [encoded],
    )
    return CrossValidated(result, out_of_fold, choice, by_fold)


def choose_strengths(
    encoded: EncodedDataset, recordings: datasets.Dataset, rows_of: Sequence[dict[str, np.ndarray]]
) -> list[float]:
    """
    The strength of the logistic regression of each fold, and of that of all recordings: each is the best in a
    cross-validation by patient of the recordings that it is fitted to, without those that it predicts.
    """
    trained = [rows["train"] for rows in rows_of]
    return [
        _choose_strength(encoded.select(rows.tolist()), recordings.select(rows), len(rows_of))
        for rows in (*trained, np.arange(len(recordings)))
    ]


def _choose_strength(encoded: EncodedDataset, recordings: datasets.Dataset, num_folds: int) -> float:
    num_patients = len({*patient_keys(recordings["record_id"], recordings["patient_id"])})
    if num_patients < 2:
        return STRENGTHS[0]
    scores = []
    for rows in split_folds(recordings, min(num_folds, num_patients)):
        others = np.union1d(rows["train"], rows["validation"])
        train, test = (encoded.select(part.tolist()) for part in (others, rows["test"]))
        predict_fold = logistic_scores(linear_features(train), known_labels(train), linear_features(test))
        areas = [macro_auroc(known_labels(test), predict_fold(strength)[0]) for strength in STRENGTHS]
        # Without a label of both classes, a fold prefers none.
        scores.append(np.nan_to_num(areas, nan=0.5))
    return STRENGTHS[int(np.argmax(np.mean(scores, axis=0)))]


def _claim(output_dir: Path, identity: dict[str, Any], restart: bool) -> None:
    """Claim the folder for the cross-validated run, or with `restart` for a new one."""
    is_finetuned = (output_dir / FINETUNING_RUN).is_file()
    remedy = "choose another folder, or start over with --restart"
    others = () if restart and is_finetuned else (FINETUNING_RUN, MODEL_FOLDER, FOLDS)
    folder = RunFolder(output_dir, CROSS_VALIDATION_RUN, "cross-validated run", remedy, others)
    recorded = folder.open(identity, restart)
    PartialState().wait_for_everyone()
    if PartialState().is_main_process and recorded is None:
        _remove(output_dir, FOLDS, OUT_OF_FOLD, MODEL_FOLDER, CHECKPOINTS, LOG, FINETUNING_RUN)
        folder.claim(identity)
    PartialState().wait_for_everyone()


def _remove(output_dir: Path, *names: str) -> None:
    for path in (output_dir / name for name in names):
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def release(output_dir: Path, restart: bool) -> None:
    """
    Prepare a folder for a run without folds.

    Raises:
        InputError: If it holds a cross-validated run, unless the run starts over with `restart`.
    """
    if not (output_dir / CROSS_VALIDATION_RUN).is_file():
        return
    if not restart:
        raise InputError(
            f"{output_dir} contains a cross-validated run: continue it with --folds, choose another folder, or start "
            "over with --restart"
        )
    PartialState().wait_for_everyone()
    if PartialState().is_main_process:
        _remove(output_dir, FOLDS, OUT_OF_FOLD, CROSS_VALIDATION_RUN)
    PartialState().wait_for_everyone()


def _pool(parts: Sequence[Predictions], record_ids: Sequence[str]) -> OutOfFold:
    """The predictions of all folds, in the order of the recordings."""
    places = {record: place for place, record in enumerate(dict.fromkeys(record_ids))}
    order = np.argsort([places[record] for part in parts for record in part.record_ids])
    folds = np.repeat(np.arange(len(parts)), [len(part.record_ids) for part in parts])
    records, patients = (
        [row for part in parts for row in getattr(part, name)] for name in ("record_ids", "patient_ids")
    )
    probabilities, labels, contributions = (
        None if any(value is None for value in values) else np.concatenate(values)[order]
        for values in (
            [getattr(part, name) for part in parts] for name in ("probabilities", "labels", "contributions")
        )
    )
    assert probabilities is not None
    predictions = Predictions(
        label_names=parts[0].label_names,
        record_ids=[records[place] for place in order],
        patient_ids=[patients[place] for place in order],
        probabilities=probabilities,
        labels=labels,
        contributions=contributions,
    )
    return OutOfFold(predictions, folds[order])


# ------------------------------------------------------------------------------------------------------ rows of a fold


def split_folds(recordings: datasets.Dataset, num_folds: int) -> list[dict[str, np.ndarray]]:
    """
    Rows of a cross-validation of prepared recordings in folds of [`stratified_patient_folds`]: the result of
    [`fold_rows`] for each fold.
    """
    labels = dataset_labels(recordings, None).numpy()
    folds = stratified_patient_folds(recordings["record_id"], recordings["patient_id"], labels, num_folds)
    return [fold_rows(recordings, folds, fold) for fold in range(num_folds)]


def fold_rows(recordings: datasets.Dataset, folds: np.ndarray, fold: int) -> dict[str, np.ndarray]:
    """
    Rows of a cross-validation by patient that train, validate and test a fold.

    Args:
        recordings ([`datasets.Dataset`]): Prepared recordings with labels.
        folds (`np.ndarray` of shape `(num_recordings,)`): Fold of each row, from [`patient_folds`] or
            [`stratified_patient_folds`].
        fold (`int`): The one to test; also the seed that draws a tenth of the other patients for validation.

    Returns:
        `dict[str, np.ndarray]`: Indices of the `train`, `validation` and `test` rows.
    """
    others = np.flatnonzero(folds != fold)
    rows = hold_out(recordings.select(others), list(recordings.features["labels"]), seed=fold)
    return {
        "train": others[rows[0]],
        "validation": others[rows[1]],
        "test": np.flatnonzero(folds == fold),
    }


def hold_out(recordings: datasets.Dataset, label_names: Sequence[str], seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows of nine tenths of the recordings and of the last tenth, of other patients."""
    labels = dataset_labels(recordings, label_names).numpy()
    return holdout_split(labels, patient_keys(recordings["record_id"], recordings["patient_id"]), 0.1, seed)
