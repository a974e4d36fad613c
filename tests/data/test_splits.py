"""No patient is ever on two sides, whatever the recordings and their order."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from clear_hug_hf.data.readers import open_source
from clear_hug_hf.data.records import RecordReference
from clear_hug_hf.data.splits import (
    assign_splits,
    check_patient_splits,
    group_by_recording,
    patient_folds,
    patient_key,
    patient_keys,
    random_splits,
    stratified_patient_folds,
)
from clear_hug_hf.processing import InputError


def _records(rng: np.random.Generator, num_records: int, num_patients: int) -> list[RecordReference]:
    """Recordings of few or many patients, some of them unknown, some named as recordings are."""
    names = [*(f"p{index}" for index in range(num_patients)), None, "r1", "r2"]
    return [
        RecordReference(Path(f"r{index}"), f"r{index}", patient_id=names[rng.integers(len(names))])
        for index in range(num_records)
    ]


@pytest.mark.parametrize("seed", range(25))
def test_when_recordings_are_split_at_random_then_patients_stay_together(seed: int) -> None:
    rng = np.random.default_rng(seed)
    records = _records(rng, int(rng.integers(1, 120)), int(rng.integers(1, 60)))
    fractions = dict(zip(("train", "validation", "test"), rng.dirichlet([3.0, 1.0, 1.0]).tolist(), strict=True))
    splits = random_splits(records, fractions, seed)
    check_patient_splits(records, splits)
    assert set(splits) == {record.record_id for record in records}
    sides: dict[str, set[str]] = {}
    for record in records:
        sides.setdefault(patient_key(record.record_id, record.patient_id), set()).add(splits[record.record_id])
    assert all(len(side) == 1 for side in sides.values())
    counts = Counter(side for (side,) in sides.values())
    for name, share in fractions.items():
        assert abs(counts[name] - share * len(sides)) <= (1 if len(sides) > 20 else 2) + (counts[name] == 1)
    if len(sides) >= 3:
        assert set(counts) == set(fractions)
    shuffled = [records[index] for index in rng.permutation(len(records))]
    assert random_splits(shuffled, fractions, seed) == splits


def test_when_the_seed_changes_then_the_split_does_and_stays_the_same_forever() -> None:
    records = _records(np.random.default_rng(0), 200, 100)
    assert random_splits(records, seed=1) != random_splits(records, seed=2)
    few = [RecordReference(Path(name), name, patient_id=name) for name in "abcdefghij"]
    splits = random_splits(few, seed=0)
    assert Counter(splits.values()) == {"train": 7, "test": 2, "validation": 1}
    held_out = {name: split for name, split in splits.items() if split != "train"}
    assert held_out == {"d": "test", "g": "test", "j": "validation"}


def test_when_patients_gain_recordings_then_no_patient_changes_sides() -> None:
    records = [RecordReference(Path("x"), f"{patient}", patient_id=f"p{patient}") for patient in range(30)]
    more = [RecordReference(Path("x"), f"{patient} again", patient_id=f"p{patient}") for patient in range(0, 30, 3)]
    before, after = random_splits(records), random_splits(records + more)
    assert {record: after[record] for record in before} == before
    check_patient_splits(records + more, after)


def test_when_a_patient_is_unknown_then_each_recording_is_its_own() -> None:
    records = [RecordReference(Path("x"), f"r{index}") for index in range(100)]
    assert Counter(random_splits(records).values()) == {"train": 70, "validation": 10, "test": 20}
    check_patient_splits(records, random_splits(records))
    assert patient_key("a", None) != patient_key("b", "record a")


def test_when_a_source_has_official_splits_then_they_are_used(shared: Path) -> None:
    source = open_source("ptbxl", shared / "data" / "ptbxl")
    splits = assign_splits(source)
    assert splits == {reference.record_id: reference.split for reference in source}
    random = assign_splits(source, {"train": 0.8, "validation": 0.2}, seed=3)
    check_patient_splits(source, random)
    assert set(random.values()) == {"train", "validation"}


def test_when_a_patient_is_on_two_sides_then_both_recordings_are_named() -> None:
    records = [
        RecordReference(Path("x"), "r1", patient_id="p", split="train"),
        RecordReference(Path("x"), "r2", patient_id="q", split="test"),
        RecordReference(Path("x"), "r3", patient_id="p", split="test"),
    ]
    with pytest.raises(InputError, match=r"patient p is in two splits \(recording r1 in train, r3 in test\)"):
        assign_splits(records)
    with pytest.raises(InputError, match="patient p is in two splits"):
        check_patient_splits(records, {record.record_id: str(record.split) for record in records})
    assert len(set(assign_splits(records, {"train": 0.5, "test": 0.5}).values())) == 2


def test_when_only_some_recordings_have_a_split_then_that_is_refused() -> None:
    records = [RecordReference(Path("x"), "r1", split="train"), RecordReference(Path("x"), "r2")]
    with pytest.raises(InputError, match="1 of 2 recordings have no split"):
        assign_splits(records)


@pytest.mark.parametrize("fractions", [{"train": 0.5}, {"train": 1.2, "test": -0.2}, {}, {"train": float("nan")}])
def test_when_shares_are_no_shares_then_they_are_refused(fractions: dict[str, float]) -> None:
    with pytest.raises(InputError, match="must be between 0 and 1 and sum to 1"):
        random_splits([RecordReference(Path("x"), "r1")], fractions)


def test_when_there_are_fewer_patients_than_splits_then_all_recordings_still_get_one() -> None:
    records = [RecordReference(Path("x"), "r1"), RecordReference(Path("x"), "r2")]
    assert set(random_splits(records)) == {"r1", "r2"}
    assert random_splits([]) == {}


def test_when_folds_are_drawn_then_patients_stay_together_and_folds_are_alike() -> None:
    rng = np.random.default_rng(0)
    patients = [f"p{index}" for index in rng.integers(0, 600, 2000)]
    records = [f"r{index}" for index in range(2000)]
    folds = patient_folds(records, patients, 5)
    assert folds.shape == (2000,)
    fold_of = dict(zip(patients, folds.tolist(), strict=True))
    assert folds.tolist() == [fold_of[patient] for patient in patients]
    counts = Counter(fold_of.values())
    assert set(counts) == set(range(5))
    # Binomial with 600 draws: a standard deviation is about ten patients.
    assert all(abs(count - len(fold_of) / 5) < 40 for count in counts.values())


def test_when_patients_come_or_go_then_no_patient_changes_folds() -> None:
    records, patients = [f"r{index}" for index in range(60)], [f"p{index // 2}" for index in range(60)]
    folds = patient_folds(records, patients, 4, seed=1)
    more = patient_folds(["x", *records, "y"], ["new", *patients, None], 4, seed=1)
    np.testing.assert_array_equal(more[1:-1], folds)
    np.testing.assert_array_equal(patient_folds(records[::-1], patients[::-1], 4, seed=1), folds[::-1])
    assert (patient_folds(records, patients, 4, seed=2) != folds).any()


def test_when_a_patient_is_unknown_then_its_recordings_have_folds_of_their_own() -> None:
    records = [f"r{index}" for index in range(400)]
    counts = Counter(patient_folds(records, [None] * 400, 2).tolist())
    assert min(counts[0], counts[1]) > 150


def test_when_recordings_have_several_windows_then_those_without_a_patient_stay_together() -> None:
    records, patients = ["a", "b", "a", "c", "b"], [None, "a", None, "a", "a"]
    keys = patient_keys(records, patients)
    assert [keys.index(key) for key in keys] == [0, 1, 0, 1, 1]
    first, recording_of = group_by_recording(records)
    assert (first.tolist(), recording_of.tolist()) == ([0, 1, 3], [0, 1, 0, 2, 1])


@pytest.mark.parametrize(("num_folds", "patients"), [(1, ["a", "b"]), (0, ["a", "b"]), (3, ["a", "b", "b"]), (2, [])])
def test_when_folds_make_no_sense_then_they_are_refused(num_folds: int, patients: list[str]) -> None:
    with pytest.raises(InputError, match="it must be at least 2 and at most the number of patients"):
        patient_folds([f"r{index}" for index in range(len(patients))], patients, num_folds)


@pytest.mark.parametrize("seed", range(5))
def test_when_folds_are_stratified_then_every_label_is_in_each_if_enough_patients_have_it(seed: int) -> None:
    rng = np.random.default_rng(seed)
    patients = rng.integers(0, 150, 300)
    # From a label of five patients to one that nearly all have; those of one patient differ.
    labels = (rng.random((300, 5)) < [0.01, 0.03, 0.1, 0.4, 0.97]).astype(float)
    labels[rng.choice(300, 5, replace=False), 0] = 1.0
    labels[rng.random(labels.shape) < 0.05] = np.nan
    names, ids = [f"r{index}" for index in range(300)], [f"p{patient}" for patient in patients]
    folds = stratified_patient_folds(names, ids, labels, 4, seed)
    assert all(len(set(folds[patients == patient])) == 1 for patient in set(patients))
    sizes = [len(set(patients[folds == fold])) for fold in range(4)]
    assert max(sizes) - min(sizes) <= 6
    for column in np.nan_to_num(labels).T:
        rare = column if column.mean() <= 0.5 else 1 - column
        counts = [len(set(patients[(folds == fold) & (rare > 0)])) for fold in range(4)]
        assert min(counts) >= 1
        assert max(counts) - min(counts) <= max(2, 0.25 * sum(counts) / 4)
    order = rng.permutation(300)
    shuffled = stratified_patient_folds([names[i] for i in order], [ids[i] for i in order], labels[order], 4, seed)
    assert shuffled.tolist() == folds[order].tolist()
