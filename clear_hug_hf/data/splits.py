"""Which recording is for training, validation and test, such that no patient is on two sides."""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from ..processing.errors import InputError
from .records import Recording, RecordReference


DEFAULT_FRACTIONS: Mapping[str, float] = {"train": 0.7, "validation": 0.1, "test": 0.2}
"""Shares of the patients in each split: those of the paper for sets without official splits."""


def assign_splits(
    records: Iterable[Recording | RecordReference],
    fractions: Mapping[str, float] | None = None,
    seed: int = 0,
) -> dict[str, str]:
    """
    Splits of recordings: the source's official ones, else random ones.

    Args:
        records (`Iterable[Recording | RecordReference]`): All recordings of a source, in any order.
        fractions (`Mapping[str, float]`, *optional*): Share of the patients in each split. Official splits are used
            where this is not given; [`DEFAULT_FRACTIONS`] where there are none.
        seed (`int`, *optional*, defaults to `0`): Seed of random splits.

    Returns:
        `dict[str, str]`: Split of each record id.

    Raises:
        InputError: If only some recordings have an official split, a patient has recordings in two of them, or the
            fractions are not shares of a whole.
    """
    records = list(records)
    if fractions is None:
        official = {record.record_id: record.split for record in records if record.split is not None}
        if official and len(official) < len(records):
            raise InputError(
                f"{len(records) - len(official)} of {len(records)} recordings have no split: "
                "give all of them one, or ask for random splits"
            )
        if official:
            check_patient_splits(records, official)
            return official
    return random_splits(records, DEFAULT_FRACTIONS if fractions is None else fractions, seed)


def random_splits(
    records: Iterable[Recording | RecordReference], fractions: Mapping[str, float] = DEFAULT_FRACTIONS, seed: int = 0
) -> dict[str, str]:
    """
    Random splits by patient; a recording whose patient is not known counts as one of its own.

    Patients are put in the order of a hash of seed and name and cut at the fractions. The result is the same for any
    order of the recordings and on any machine, and more recordings of known patients change nothing.

    Args:
        records (`Iterable[Recording | RecordReference]`): All recordings of a source.
        fractions (`Mapping[str, float]`, *optional*, defaults to 0.7, 0.1 and 0.2): Share of the patients in each
            split, in order. Every split with a share gets a patient if there are as many patients as splits.
        seed (`int`, *optional*, defaults to `0`): Another seed gives other splits.

    Returns:
        `dict[str, str]`: Split of each record id.

    Raises:
        InputError: If the fractions are negative or do not add up to 1.
    """
    if not all(0 <= share <= 1 for share in fractions.values()) or not math.isclose(
        sum(fractions.values()), 1.0, abs_tol=1e-6
    ):
        raise InputError(
            f"the shares {', '.join(f'{name} {share:g}' for name, share in fractions.items()) or 'given'} "
            "must be between 0 and 1 and add up to 1"
        )
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
    Folds of about as many patients each for cross-validation; all recordings of a patient are in one fold.

    A hash of seed and name decides, so that a patient is in the same fold in every dataset, whoever else is in it.

    Args:
        record_ids (`Sequence[str]`): Name of each recording.
        patient_ids (`Sequence[str | None]`): Patient of each recording; one without a patient counts as one of its
            own.
        num_folds (`int`): At least 2.
        seed (`int`, *optional*, defaults to `0`): Another seed gives other folds.

    Returns:
        `np.ndarray` of shape `(num_recordings,)`, int64: Fold of each recording, from 0.

    Raises:
        InputError: If there are fewer than two folds, or fewer patients than folds.
    """
    keys = patient_keys(record_ids, patient_ids)
    if num_folds < 2 or len(set(keys)) < num_folds:
        raise InputError(f"{num_folds} folds of {len(set(keys))} patient(s): give 2 or more, at most one per patient")
    return np.array([int.from_bytes(_hash(seed, key)[:8], "big") * num_folds >> 64 for key in keys], dtype=np.int64)


def patient_keys(record_ids: Sequence[str], patient_ids: Sequence[str | None]) -> list[str]:
    """
    Names of the patients of rows of a prepared dataset, as [`patient_key`] gives them: all windows of a recording
    without a patient belong together.
    """
    return [patient_key(record, patient) for record, patient in zip(record_ids, patient_ids, strict=True)]


def group_by_recording(record_ids: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """
    The recordings of rows of a prepared dataset, which may hold several windows of each.

    Args:
        record_ids (`Sequence[str]`): Recording of each row.

    Returns:
        `tuple[np.ndarray, np.ndarray]`: The first row of each recording, ascending, and the place of each row's
        recording among them, both int64.
    """
    place: dict[str, int] = {}
    recording_of = np.array([place.setdefault(record, len(place)) for record in record_ids], dtype=np.int64)
    return np.unique(recording_of, return_index=True)[1], recording_of


def patient_key(record_id: str, patient_id: str | None) -> str:
    """Name of a recording's patient that cannot be confused with that of a recording without one."""
    return f"record {record_id}" if patient_id is None else f"patient {patient_id}"


def check_patient_splits(records: Iterable[Recording | RecordReference], splits: Mapping[str, str]) -> None:
    """
    Make sure that no patient has recordings in two splits.

    Args:
        records (`Iterable[Recording | RecordReference]`): The recordings.
        splits (`Mapping[str, str]`): Split of each record id.

    Raises:
        InputError: If a patient is on two sides.
    """
    seen: dict[str, tuple[str, str]] = {}
    for record in records:
        split = splits[record.record_id]
        patient = patient_key(record.record_id, record.patient_id)
        first, where = seen.setdefault(patient, (record.record_id, split))
        if where != split:
            raise InputError(
                f"patient {record.patient_id} is on two sides: recording {first} is for {where}, {record.record_id} "
                f"for {split}; a model would be tested on patients that it knows"
            )


def _hash(seed: int, patient: str) -> bytes:
    return hashlib.sha256(f"{seed} {patient}".encode()).digest()


def _counts(total: int, fractions: Mapping[str, float]) -> dict[str, int]:
    """Whole numbers that add up to the total and are nearest to the shares (largest remainders first)."""
    exact = {name: total * share for name, share in fractions.items()}
    # A rounding error must not cost a patient: 10 * 0.7 is 7.
    counts = {name: math.floor(value + 1e-9) for name, value in exact.items()}
    for name in sorted(exact, key=lambda name: counts[name] - exact[name])[: total - sum(counts.values())]:
        counts[name] += 1
    wanted = [name for name, share in fractions.items() if share > 0]
    if total >= len(wanted):
        for name in wanted:
            if not counts[name]:
                counts[Counter(counts).most_common(1)[0][0]] -= 1
                counts[name] = 1
    return counts
