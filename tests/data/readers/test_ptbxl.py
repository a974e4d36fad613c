"""PTB-XL's tables become references with the labels, folds and files that were asked for."""

from __future__ import annotations

from pathlib import Path

import pytest

from clear_hug_hf.data.readers import open_source
from clear_hug_hf.data.readers.ptbxl import fold_to_split
from clear_hug_hf.processing import InputError


def test_when_a_real_reference_is_read_then_it_is_its_record(shared: Path) -> None:
    source = open_source("ptbxl", shared / "data" / "ptbxl", folds=[9])
    assert (len(source), source.label_names, source[0].labels) == (183, None, None)
    recording = source[0].read()
    assert recording.waveform.shape == (12, 1000)
    assert recording.unit == "NU"
    assert recording.split == "validation"
    assert recording.metadata["sex"] in ("male", "female")
    assert f"{int(recording.record_id):05d}" in recording.metadata["path"]


def test_when_folds_are_asked_for_then_only_they_come(ptbxl_folder: Path) -> None:
    assert {reference.split for reference in open_source("ptbxl", ptbxl_folder)} == {"train", "validation", "test"}
    some = open_source("ptbxl", ptbxl_folder, folds=[9, 10])
    assert {reference.metadata["fold"] for reference in some} == {9, 10}
    assert some.settings["folds"] == [9, 10]
    assert some.settings["sampling_rate"] == 100
    with pytest.raises(InputError, match="all 72 were excluded, the first because its fold 1 is not selected"):
        open_source("ptbxl", ptbxl_folder, folds=[])


def test_when_both_rates_are_there_then_the_asked_one_is_read(ptbxl_folder: Path, tmp_path: Path) -> None:
    table = (ptbxl_folder / "ptbxl_database.csv").read_text().splitlines()[:2]
    (tmp_path / "ptbxl_database.csv").write_text(f"{table[0]},filename_hr\n{table[1]},records500/00000/00000_hr\n")
    (tmp_path / "records100").mkdir()
    (tmp_path / "records500").mkdir()
    paths = {rate: open_source("ptbxl", tmp_path, sampling_rate=rate)[0].path for rate in (None, 100, 500)}
    assert paths[None] == paths[100] == tmp_path / "records100/00000/00000_lr"
    assert paths[500] == tmp_path / "records500/00000/00000_hr"


def test_when_the_rate_is_not_at_hand_then_that_is_reported(ptbxl_folder: Path) -> None:
    with pytest.raises(InputError, match="no records at 500 Hz"):
        open_source("ptbxl", ptbxl_folder, sampling_rate=500)
    with pytest.raises(InputError, match="not at 250 Hz"):
        open_source("ptbxl", ptbxl_folder, sampling_rate=250)


def test_when_records_without_labels_are_kept_then_all_their_labels_are_0(shared: Path) -> None:
    folder = shared / "data" / "ptbxl"
    usual = open_source("ptbxl", folder, label_set="ptbxl_form")
    everything = open_source("ptbxl", folder, label_set="ptbxl_form", keep_unlabeled=True)
    assert len(usual) + len(usual.excluded) == len(everything) == 1625
    assert {reason for _, reason in usual.excluded} == {"it has none of the labels of ptbxl_form"}
    excluded = {one.record_id for one in usual.excluded}
    for reference in everything:
        assert (sum((reference.labels or {}).values()) == 0) == (reference.record_id in excluded)


def test_when_the_table_is_missing_or_another_then_it_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"ptbxl_database\.csv does not exist"):
        open_source("ptbxl", tmp_path)
    table = tmp_path / "ptbxl_database.csv"
    table.write_text("ecg_id,strat_fold\n1,1\n")
    with pytest.raises(InputError, match="has no column patient_id, scp_codes"):
        open_source("ptbxl", tmp_path)
    table.write_text("ecg_id,patient_id,scp_codes,strat_fold,filename_lr\n5,1,oops {,1,records100/00000/a\n")
    (tmp_path / "records100").mkdir()
    with pytest.raises(InputError, match="the scp_codes of record 5 cannot be read"):
        open_source("ptbxl", tmp_path)


def test_when_a_fold_is_not_one_to_ten_then_it_is_refused() -> None:
    assert [fold_to_split(fold) for fold in (1, 8, 9, 10)] == ["train", "train", "validation", "test"]
    with pytest.raises(InputError, match="fold 11"):
        fold_to_split(11)
