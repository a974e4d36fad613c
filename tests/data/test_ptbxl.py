"""PTB-XL's tables become recordings with the labels that the protocol uses."""

from __future__ import annotations

import shutil
from pathlib import Path

import pandas as pd
import pytest

from clear_hug_hf.data.ptbxl import SUPERCLASSES, is_ptbxl, read_ptbxl
from clear_hug_hf.processing import InputError


def test_when_superclasses_are_read_then_they_equal_the_published_rows(shared: Path) -> None:
    expected = pd.read_csv(shared / "parity" / "ptbxl_labels" / "super_class.csv").set_index("ecg_id")
    references = read_ptbxl(shared / "data" / "ptbxl")
    assert sorted(int(reference.record_id) for reference in references) == sorted(expected.index)
    for reference in references:
        row = expected.loc[int(reference.record_id)]
        assert {label: int(label in (reference.labels or ())) for label in SUPERCLASSES} == {
            label: int(row[label]) for label in SUPERCLASSES
        }
        assert reference.metadata["fold"] == row["strat_fold"]
        assert reference.split == ("validation" if row["strat_fold"] == 9 else "train")


def test_when_a_real_reference_is_read_then_it_is_its_record(shared: Path) -> None:
    reference = read_ptbxl(shared / "data" / "ptbxl", folds=[9])[0]
    recording = reference.read()
    assert recording.waveform.shape == (12, 1000)
    assert recording.unit == "NU"
    assert f"{int(recording.record_id):05d}" in recording.metadata["path"]


def test_when_folds_are_asked_for_then_only_they_come(ptbxl_folder: Path) -> None:
    assert {reference.split for reference in read_ptbxl(ptbxl_folder)} == {"train", "validation", "test"}
    assert {reference.metadata["fold"] for reference in read_ptbxl(ptbxl_folder, folds=[9, 10])} == {9, 10}


def test_when_the_rate_is_not_at_hand_then_that_is_said(ptbxl_folder: Path) -> None:
    with pytest.raises(InputError, match="no records at 500 Hz"):
        read_ptbxl(ptbxl_folder, sampling_rate=500)
    with pytest.raises(InputError, match="not at 250 Hz"):
        read_ptbxl(ptbxl_folder, sampling_rate=250)


def test_when_a_table_is_missing_or_another_then_it_is_named(ptbxl_folder: Path, tmp_path: Path) -> None:
    assert is_ptbxl(ptbxl_folder)
    assert not is_ptbxl(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"ptbxl_database\.csv does not exist"):
        read_ptbxl(tmp_path)
    shutil.copy(ptbxl_folder / "scp_statements.csv", tmp_path)
    (tmp_path / "ptbxl_database.csv").write_text("ecg_id,strat_fold\n1,1\n")
    with pytest.raises(InputError, match="has no column patient_id, scp_codes"):
        read_ptbxl(tmp_path)
    (tmp_path / "ptbxl_database.csv").write_text(
        "ecg_id,patient_id,scp_codes,strat_fold,filename_lr\n5,1,oops {,1,records100/00000/a\n"
    )
    (tmp_path / "records100").mkdir()
    with pytest.raises(InputError, match="the scp_codes of record 5 cannot be read"):
        read_ptbxl(tmp_path)
