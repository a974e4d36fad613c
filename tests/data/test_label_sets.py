"""Labels equal the published columns, row for row."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from clear_hug_hf.data.label_sets import LABEL_SETS, get_label_set
from clear_hug_hf.data.readers import open_source
from clear_hug_hf.processing import InputError


def test_when_label_sets_are_counted_then_they_have_the_sizes_of_the_protocol() -> None:
    sizes = {name: len(one.names) for name, one in LABEL_SETS.items()}
    ptbxl = {"ptbxl_super": 5, "ptbxl_sub": 23, "ptbxl_form": 19, "ptbxl_rhythm": 12, "ptbxl_all": 71}
    assert sizes == {**ptbxl, "cpsc9": 9, "csn": 38, "csn_published": 38, "code15": 6}


@pytest.mark.parametrize("name", list(LABEL_SETS))
def test_when_a_label_set_is_looked_at_then_every_label_has_a_code_and_a_meaning(name: str) -> None:
    one = LABEL_SETS[name]
    assert len(set(one.names)) == len(one.names)
    assert {label for labels in one.codes.values() for label in labels} == set(one.names)
    assert list(one.descriptions) == list(one.names)
    assert all(one.descriptions.values())
    assert list(one.labels([])) == list(one.names)
    assert sum(one.labels(one.codes).values()) == len(one.names)


@pytest.mark.parametrize("name", ["super_class", "sub_class", "form", "rhythm"])
def test_when_ptbxl_labels_are_read_then_they_equal_the_published_rows_and_columns(shared: Path, name: str) -> None:
    published = pd.read_csv(shared / "parity" / "ptbxl_labels" / f"{name}.csv", dtype={"ecg_id": str})
    published = published.set_index("ecg_id")
    columns = [column for column in published.columns if column not in ("strat_fold", name, "split")]
    source = open_source("ptbxl", shared / "data" / "ptbxl", label_set=f"ptbxl_{name.removesuffix('_class')}")
    assert source.label_names == columns
    assert source.problem_type == "multi_label_classification"
    read = pd.DataFrame({one.record_id: dict(one.labels or {}) for one in source}).T
    assert sorted(read.index) == sorted(published.index)
    assert len(source) + len(source.excluded) == 1625
    pd.testing.assert_frame_equal(
        read.loc[published.index, columns].astype(int), published[columns], check_names=False
    )
    splits = {one.record_id: one.split for one in source}
    assert splits == published["split"].replace("val", "validation").to_dict()


def test_when_ptbxl_statements_are_compared_with_its_own_table_then_they_are_the_same(shared: Path) -> None:
    table = pd.read_csv(shared / "data" / "ptbxl" / "scp_statements.csv", index_col=0)
    diagnostic = table[table["diagnostic"] == 1]
    plain = {
        "super": diagnostic["diagnostic_class"],
        "sub": diagnostic["diagnostic_subclass"],
        "form": table[table["form"] == 1].index.to_series(),
        "rhythm": table[table["rhythm"] == 1].index.to_series(),
        "all": table.index.to_series(),
    }
    for name, expected in plain.items():
        found = {code: label for code, (label,) in LABEL_SETS[f"ptbxl_{name}"].codes.items()}
        assert found == {code: label.strip("_") for code, label in expected.items()}
    assert LABEL_SETS["ptbxl_all"].names == tuple(code.strip("_") for code in table.index)


def test_when_a_statement_has_likelihood_0_then_it_counts(tmp_path: Path) -> None:
    (tmp_path / "records100").mkdir()
    (tmp_path / "ptbxl_database.csv").write_text(
        "ecg_id,patient_id,scp_codes,strat_fold,filename_lr\n"
        "1,7.0,\"{'NORM': 0.0, 'SR': 0.0}\",1,records100/00000/00001_lr\n"
    )
    for name, label in (("ptbxl_rhythm", "SR"), ("ptbxl_super", "NORM")):
        (reference,) = open_source("ptbxl", tmp_path, label_set=name)
        assert (reference.labels or {})[label] == 1.0
        assert reference.patient_id == "7"


@pytest.mark.parametrize(
    ("codes", "meant", "published"),
    [
        ("426177001,164934002", {"TWC"}, {"TWC"}),
        ("164889003", {"AFIB"}, {"AFIB", "AF"}),
        ("164890007,39732003", {"AF", "ALS"}, {"AF", "ALS"}),
        ("270492004", {"1AVB"}, {"1AVB", "AVB", "VB"}),
        ("54016002", {"2AVB1"}, {"2AVB1", "2AVB", "AVB", "VB"}),
        ("428750005,251199005", {"STTC", "CCR"}, {"STTC", "CCR", "ST", "CR"}),
        ("426177001,251146004", None, {"SA"}),
        ("426177001", None, None),
        ("426783006,55827005", None, None),
    ],
)
def test_when_csn_codes_are_read_then_the_published_columns_take_parts_of_acronyms_for_labels(
    codes: str, meant: set[str] | None, published: set[str] | None
) -> None:
    for name, expected in (("csn", meant), ("csn_published", published)):
        one = LABEL_SETS[name]
        excluded = one.exclusion_reason(codes.split(",")) is not None
        assert excluded == (expected is None)
        if expected is not None:
            assert {label for label, value in one.labels(codes.split(",")).items() if value} == expected


# Recordings of Chapman-Shaoxing-Ningbo at hand, with the columns that are 1 in MERL's files; no one else is in them.
_MERL_CSN = {
    "JS00002": "TWC",
    "JS00666": "ST",
    "JS01560": "STTC ST",
    "JS07875": "SR",
    "JS13938": "AF ALS",
    "JS19852": "TWO TWC AF AQW",
    "JS20019": "APB TWC ST",
    "JS22627": "ALS",
    "JS23847": "RBBB",
    "JS24580": "SA",
    "JS27538": "TWO",
}
_MERL_CSN_LEFT_OUT = ("JS00004", "JS00011", "JS01048", "JS14622", "JS20052", "JS31542", "JS45542", "JS45551")


def test_when_real_csn_records_are_read_then_they_equal_merls_rows(shared: Path) -> None:
    source = open_source("challenge", shared / "data" / "challenge", label_set="csn_published")
    found = {one.record_id: {name for name, value in (one.labels or {}).items() if value} for one in source}
    assert {record: found[record] for record in _MERL_CSN} == {
        record: set(labels.split()) for record, labels in _MERL_CSN.items()
    }
    assert not set(_MERL_CSN_LEFT_OUT) & set(found)
    assert {record[:2] for record in found} == {"JS"}
    assert len(source) + len(source.excluded) == 196


def test_when_a_set_is_not_for_a_reader_then_those_that_are_get_named() -> None:
    assert get_label_set("cpsc9", "cpsc2018").name == "cpsc9"
    with pytest.raises(InputError, match="ptbxl recordings do not use the codes of 'csn': choose from ptbxl_super"):
        get_label_set("csn", "ptbxl")
    with pytest.raises(InputError, match="unknown label set 'nine'"):
        get_label_set("nine")
