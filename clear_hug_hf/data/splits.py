"""Splits of recordings into training, validation and test sets without common patients."""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from ..processing.errors import InputError
from .records import Recording, RecordReference


DEFAULT_FRACTIONS: Mapping[str, float] = {"train": 0.7, "validation": 0.1, "test": 0.2}
"""Fraction of the patients in each split: that of Pan et al. (2026) for datasets without official splits."""


def assign_splits(
    records: Iterable[Recording | RecordReference],
    fractions: Mapping[str, float] | None = None,
    seed: int = 0,
) -> dict[str, str]:
    """
    Assign recordings to splits: the official ones of the source, or random ones.

    Args:
        records (`Iterable[Recording | RecordReference]`): All recordings of a source, in any order.
        fractions (`Mapping[str, float]`, *optional*): Fraction of the patients in each random split. By default
            official splits are used if there are any, and [`DEFAULT_FRACTIONS`] otherwise.
        seed (`int`, *optional*, defaults to `0`): Seed of random splits.

    Returns:
        `dict[str, str]`: Split of each record id.

    Raises:
        InputError: If only some recordings have an official split, a patient is in two official splits, or the
            fractions are invalid.
    """
    records = list(records)
    if fractions is None:
        official = {record.record_id: record.split for record in records if record.split is not None}
        if official and len(official) < len(records):
            raise InputError(
                f"{len(records) - len(official)} of {len(records)} recordings have no split: "
                "assign a split to all of them, or use random splits"
            )
        if official:
            check_patient_splits(records, official)
            return official
    return random_splits(records, DEFAULT_FRACTIONS if fractions is None else fractions, seed)


def random_splits(
    records: Iterable[Recording | RecordReference], fractions: Mapping[str, float] = DEFAULT_FRACTIONS, seed: int = 0
) -> dict[str, str]:
    """
    Assign recordings to random splits by patient. A recording without a patient id counts as a patient of its own.

    Patients are sorted by a hash of seed and id and divided by the fractions. The result does not depend on the order
    of the recordings or on the machine, and does not change when known patients get more recordings.

    Args:
        records (`Iterable[Recording | RecordReference]`): All recordings of a source.
        fractions (`Mapping[str, float]`, *optional*, defaults to 0.7, 0.1 and 0.2): Fraction of the patients in each
            split, in order. If there are as many patients as splits, every split with a positive fraction gets one.
        seed (`int`, *optional*, defaults to `0`): Random seed.

    Returns:
        `dict[str, str]`: Split of each record id.

    Raises:
        InputError: If the fractions are negative or do not sum to 1.
    """
    if not all(0 <= fraction <= 1 for fraction in fractions.values()) or not math.isclose(
        sum(fractions.values()), 1.0, abs_tol=1e-6
    ):
        values = ", ".join(f"{name} {fraction:g}" for name, fraction in fractions.items()) or "(none)"
        raise InputError(f"the split fractions {values} must be between 0 and 1 and sum to 1")
    patient_of = {record.record_id: patient_key(record.record_id, record.patient_id) for record in records}
    patients = sorted(set(patient_of.values()), key=lambda patient: (_hash(seed, patient), patient))
    split_of: dict[str, str] = {}
    start = 0
    for split, count in _counts(len(patients), fractions).items():
        split_of |= dict.fromkeys(patients[start : start + count], split)
        start += count
    return {record: split_of[patient] for record, patient in patient_of.items()}


def patient_folds(
    record_ids: Sequence[str], patient_ids: Sequence[str | None], num_folds: int, seed: int = 0
) -> np.ndarray:
    """
    Assign recordings to folds for cross-validation by patient, with about equally many patients in each.

    A hash of seed and id determines the fold, so that a patient is in the same fold in every dataset.

    Args:
        record_ids (`Sequence[str]`): Id of each recording.
        patient_ids (`Sequence[str | None]`): Patient of each recording; without one it counts as a patient of its own.
        num_folds (`int`): Number of folds, at least 2.
        seed (`int`, *optional*, defaults to `0`): Random seed.

    Returns:
        `np.ndarray` of shape `(num_recordings,)`, int64: Fold of each recording, from 0.

    Raises:
        InputError: If there are fewer than two folds, or fewer patients than folds.
    """
    keys = patient_keys(record_ids, patient_ids)
    _check_num_folds(num_folds, len(set(keys)))
    return np.array([int.from_bytes(_hash(seed, key)[:8], "big") * num_folds >> 64 for key in keys], dtype=np.int64)


def stratified_patient_folds(
    record_ids: Sequence[str], patient_ids: Sequence[str | None], labels: np.ndarray, num_folds: int, seed: int = 0
) -> np.ndarray:
    """
    Assign recordings to folds for cross-validation by patient, such that each label is in every fold if enough
    patients have it.

    The labels take turns, the rarest first; each of their patients joins the fold with the fewest patients of the
    label, as in iterative stratification (Sechidis, Tsoumakas and Vlahavas, "On the stratification of multi-label
    data", ECML PKDD 2011). Unlike theirs, the order of the labels is fixed, and ties depend on a hash of seed and
    patient instead of chance. The result does not depend on the order of the recordings. Of a label that most
    recordings have, those without it count.

    Args:
        record_ids, patient_ids, num_folds, seed: As in [`patient_folds`].
        labels (`np.ndarray` of shape `(num_recordings, num_labels)`): 1, 0, or NaN if unknown, which counts as 0.

    Returns:
        `np.ndarray` of shape `(num_recordings,)`, int64: Fold of each recording, from 0.

    Raises:
        InputError: As in [`patient_folds`].
    """
    keys = patient_keys(record_ids, patient_ids)
    patients = sorted(set(keys), key=lambda key: (_hash(seed, key), key))
    _check_num_folds(num_folds, len(patients))
    places = {patient: place for place, patient in enumerate(patients)}
    patient_of = np.array([places[key] for key in keys])
    is_rare = np.nan_to_num(np.asarray(labels, dtype=np.float64)) > 0.5
    is_rare = np.where(is_rare.mean(axis=0) > 0.5, ~is_rare, is_rare)
    # Patients without any label form a stratum of their own, which comes last.
    has = np.zeros((len(patients), is_rare.shape[1] + 1), dtype=bool)
    np.logical_or.at(has[:, :-1], patient_of, is_rare)
    has[:, -1] = ~has.any(axis=1)
    order = [*np.argsort(has[:, :-1].sum(axis=0), kind="stable"), is_rare.shape[1]]

    fold_of = np.full(len(patients), -1, dtype=np.int64)
    counts = np.zeros((num_folds, has.shape[1]), dtype=np.int64)
    sizes = np.zeros(num_folds, dtype=np.int64)
    for label in order:
        for patient in np.flatnonzero(has[:, label] & (fold_of < 0)):
            others = counts[:, has[patient]].sum(axis=1)
            fold = np.lexsort((sizes, others, counts[:, label]))[0]
            fold_of[patient] = fold
            counts[fold] += has[patient]
            sizes[fold] += 1
    return fold_of[patient_of]


def _check_num_folds(num_folds: int, num_patients: int) -> None:
    if num_folds < 2 or num_patients < num_folds:
        raise InputError(
            f"num_folds is {num_folds} for {num_patients} patient(s): it must be at least 2 and at most the number "
            "of patients"
        )


def patient_keys(record_ids: Sequence[str], patient_ids: Sequence[str | None]) -> list[str]:
    """
    Unique keys of the patients of dataset rows, see [`patient_key`]. All windows of a recording without a patient
    share a key.
    """
    return [patient_key(record, patient) for record, patient in zip(record_ids, patient_ids, strict=True)]


def group_by_recording(record_ids: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """
    Group the rows of a dataset, which may be several windows of one recording, by recording.

    Args:
        record_ids (`Sequence[str]`): Recording of each row.

    Returns:
        `tuple[np.ndarray, np.ndarray]`: The first row of each recording, ascending, and the index of the recording of
        each row, both int64.
    """
    indices: dict[str, int] = {}
    recording_of = np.array([indices.setdefault(record, len(indices)) for record in record_ids], dtype=np.int64)
    return np.unique(recording_of, return_index=True)[1], recording_of


def patient_key(record_id: str, patient_id: str | None) -> str:
    """A key of a recording's patient that never collides with the key of a recording without a patient."""
    return f"record {record_id}" if patient_id is None else f"patient {patient_id}"


def check_patient_splits(records: Iterable[Recording | RecordReference], splits: Mapping[str, str]) -> None:
    """
    Check that no patient has recordings in two splits.

    Args:
        records (`Iterable[Recording | RecordReference]`): The recordings.
        splits (`Mapping[str, str]`): Split of each record id.

    Raises:
        InputError: If a patient is in two splits.
    """
    split_of_patient: dict[str, tuple[str, str]] = {}
    for record in records:
        split = splits[record.record_id]
        patient = patient_key(record.record_id, record.patient_id)
        first_record, first_split = split_of_patient.setdefault(patient, (record.record_id, split))
        if first_split != split:
            raise InputError(
                f"patient {record.patient_id} is in two splits (recording {first_record} in {first_split}, "
                f"{record.record_id} in {split}): move all recordings of a patient to one split"
            )


def _hash(seed: int, patient: str) -> bytes:
    return hashlib.sha256(f"{seed} {patient}".encode()).digest()


def _counts(total: int, fractions: Mapping[str, float]) -> dict[str, int]:
    """Integers that sum to the total and are closest to the fractions (largest remainder method)."""
    exact = {name: total * fraction for name, fraction in fractions.items()}
    # Floating-point error must not lose a patient: 10 * 0.7 is 7.
    counts = {name: math.floor(value + 1e-9) for name, value in exact.items()}
    for name in sorted(exact, key=lambda name: counts[name] - exact[name])[: total - sum(counts.values())]:
        counts[name] += 1
    nonempty = [name for name, fraction in fractions.items() if fraction > 0]
    if total >= len(nonempty):
        for name in nonempty:
            if not counts[name]:
                counts[Counter(counts).most_common(1)[0][0]] -= 1
                counts[name] = 1
    return counts
