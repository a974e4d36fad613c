"""Tables of one's own: every kind of label, and every way in which a table can be wrong."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clear_hug_hf.data.readers import CSV_CONTRACT, open_source
from clear_hug_hf.data.records import Recording
from clear_hug_hf.processing import InputError


WriteRecords = Callable[..., list[Recording]]
MakeTable = Callable[..., Path]


@pytest.fixture
def make_table(tmp_path: Path, write_records: WriteRecords) -> MakeTable:
    """Writes a table beside the records `a`, `b`, `c` and `d`, one line of text per row."""
    write_records(tmp_path / "records", "a", "b", "c", "d")

    def write(header: str, *rows: str, encoding: str = "utf-8") -> Path:
        table = tmp_path / "labels.csv"
        table.write_text("\n".join([header, *rows]) + "\n", encoding=encoding)
        return table

    return write


def _values(table: Path, **options: object) -> dict[str, list[float]]:
    source = open_source("csv", table, **options)
    return {name: [(reference.labels or {})[name] for reference in source] for name in source.label_names or ()}


def test_when_a_real_table_is_given_then_its_three_classes_come(shared: Path) -> None:
    folder = shared / "data" / "cinc2011"
    source = open_source("csv", folder / "quality.csv", path_column="record", label_columns=["acceptable"])
    assert (len(source), source.problem_type) == (934, "single_label_classification")
    assert source.label_names == ["-1", "0", "1"]
    rows = (folder / "quality.csv").read_text().splitlines()[1:]
    for reference, row in zip(source, rows, strict=True):
        name, value = row.split(",")
        assert reference.record_id == name
        assert reference.labels == {one: float(one == value) for one in ("-1", "0", "1")}
    assert source[0].read().waveform.shape == (12, 2500)


def test_when_the_example_of_the_contract_is_written_then_it_is_read_as_described(
    tmp_path: Path, write_records: WriteRecords
) -> None:
    lines = [line.strip() for line in CSV_CONTRACT.split("example")[1].splitlines()[1:] if line.strip()]
    (tmp_path / "labels.csv").write_text("\n".join(lines) + "\n")
    write_records(tmp_path, "ward3/0001", "ward3/0002", "ward5/0001")
    source = open_source(None, tmp_path / "labels.csv", label_columns=["afib", "lvh"])
    assert (source.problem_type, source.label_names) == ("multi_label_classification", ["afib", "lvh"])
    assert [reference.record_id for reference in source] == ["ward3/0001", "ward3/0002", "ward5/0001"]
    assert [reference.patient_id for reference in source] == ["p17", "p17", "p23"]
    assert [reference.split for reference in source] == ["train", "train", "test"]
    np.testing.assert_array_equal(
        [list((reference.labels or {}).values()) for reference in source], [[1, 0], [0, math.nan], [0, 1]]
    )
    recording = source[1].read()
    assert recording.record_id == "ward3/0002"
    assert math.isnan((recording.labels or {})["lvh"])


def test_when_classes_are_words_or_numbers_then_each_gets_a_column(make_table: MakeTable) -> None:
    table = make_table("path,rhythm,grade", "records/a,SR,10", "records/b,AFIB,9", "records/c,,9", "records/d,SR,")
    values = _values(table, label_columns=["rhythm"])
    assert list(values) == ["AFIB", "SR"]
    np.testing.assert_array_equal(values["SR"], [1, 0, math.nan, 1])
    np.testing.assert_array_equal(values["AFIB"], [0, 1, math.nan, 0])
    values = _values(table, label_columns=["grade"])
    assert list(values) == ["9", "10"]
    np.testing.assert_array_equal(values["9"], [0, 1, 1, math.nan])


def test_when_labels_are_numbers_then_they_are_kept(make_table: MakeTable) -> None:
    table = make_table("path,lvef,k", "records/a,55.5,4.1", "records/b,,3.9", "records/c,30,-1e-1", "records/d,41,4")
    source = open_source("csv", table, label_columns=["k", "lvef"])
    assert (source.problem_type, source.label_names) == ("regression", ["k", "lvef"])
    np.testing.assert_array_equal(
        [list((one.labels or {}).values()) for one in source], [[4.1, 55.5], [3.9, math.nan], [-0.1, 30], [4, 41]]
    )


def test_when_the_problem_type_is_given_then_it_decides(make_table: MakeTable) -> None:
    table = make_table("path,x", "records/a,0", "records/b,1", "records/c,1.0", "records/d,")
    assert list(_values(table, label_columns=["x"])) == ["x"]
    assert open_source("csv", table, label_columns=["x"]).problem_type == "multi_label_classification"
    source = open_source("csv", table, label_columns=["x"], problem_type="regression")
    assert source.problem_type == source.settings["problem_type"] == "regression"
    table = make_table("path,x", "records/a,0", "records/b,1", "records/c,1", "records/d,")
    assert list(_values(table, label_columns=["x"], problem_type="single_label_classification")) == ["0", "1"]


def test_when_there_are_no_label_columns_then_the_rest_is_metadata(make_table: MakeTable) -> None:
    table = make_table(
        "file,id,who,part,age", "records/a.hea,1,x,val,50", "records/b.dat,2,,training,", encoding="utf-8-sig"
    )
    source = open_source(
        "csv",
        table,
        path_column="file",
        record_column="id",
        patient_column="who",
        split_column="part",
    )
    assert source.label_names is source.problem_type is source[0].labels is None
    assert [one.record_id for one in source] == ["1", "2"]
    assert [one.patient_id for one in source] == ["x", None]
    assert [one.split for one in source] == ["validation", "train"]
    assert [dict(one.metadata) for one in source] == [{"age": "50"}, {}]
    assert source.settings["columns"] == {"path": "file", "record": "id", "patient": "who", "split": "part"}


def test_when_paths_are_below_a_root_then_it_is_used(make_table: MakeTable, tmp_path: Path) -> None:
    table = make_table("path", "a", str(tmp_path / "records" / "b"))
    source = open_source("csv", table, root=tmp_path / "records")
    assert [one.read().waveform.shape for one in source] == [(12, 1000)] * 2


def test_when_a_column_of_splits_is_empty_then_there_are_none(make_table: MakeTable) -> None:
    assert open_source("csv", make_table("path,split", "records/a,", "records/b,"))[0].split is None


def test_when_recordings_do_not_exist_then_all_are_counted_and_ten_are_named(make_table: MakeTable) -> None:
    table = make_table("path", "records/a", *(f"lost/{index}" for index in range(13)), "records/b")
    with pytest.raises(InputError, match=r"lists 13 recordings \(lost/0, .*lost/9, and 3 more\).*of 15") as caught:
        open_source("csv", table)
    assert "lost/10" not in str(caught.value)
    table = make_table("path,x", "records/a,1", ",2")
    with pytest.raises(InputError, match=r"1 recording \(an empty path\)"):
        open_source("csv", table)


def test_when_a_column_of_whole_numbers_is_no_class_then_it_must_be_declared(make_table: MakeTable) -> None:
    rows = [f"records/a,{index},{index}" for index in range(51)]
    table = make_table("path,record_id,age", *rows)
    with pytest.raises(InputError, match=r"'age' of .* has 51 different integers: set the problem type"):
        open_source("csv", table, label_columns=["age"])
    assert len(_values(table, label_columns=["age"], problem_type="single_label_classification")) == 51
    assert _values(table, label_columns=["age"], problem_type="regression") == {"age": [float(i) for i in range(51)]}


def test_when_a_label_never_changes_then_a_warning_names_it(make_table: MakeTable) -> None:
    table = make_table("path,x,y,z", "records/a,1,1,", "records/b,1,0,", "records/c,,0,")
    with pytest.warns(UserWarning, match="a model cannot learn it") as caught:
        source = open_source("csv", table, label_columns=["x", "y", "z"])
    texts = [str(one.message) for one in caught]
    assert len(texts) == 2
    assert "the label 'x'" in texts[0]
    assert "only the value 1" in texts[0]
    assert "the label 'z'" in texts[1]
    assert "no value in any row" in texts[1]
    assert source.label_names == ["x", "y", "z"]


FILE, LABEL, LABELS = {"path_column": "file"}, {"label_columns": ["x"]}, {"label_columns": ["x", "y"]}


@pytest.mark.parametrize(
    ("rows", "options", "message"),
    [
        # Columns.
        (["file,afib", "a,1"], {}, r"no path column 'path': its columns are file, afib$"),
        (["file,afib", "a,1"], {**FILE, "patient_column": "who"}, "no patient column 'who'"),
        (
            ["file,afib", "a,1"],
            {**FILE, "label_columns": ["lvh", "afib", "mi"]},
            "no label column 'lvh', 'mi': its other columns are afib",
        ),
        (["file,afib", "a,1"], {**FILE, "label_columns": ["file"]}, r"'file' of .* cannot be a label"),
        (["path;afib", "a;1"], {}, "separate columns by commas, not semicolons"),
        (["path,x,x", "a,1,0"], {}, "has the column 'x' twice"),
        # Rows.
        (["path"], {}, "has no recordings for csv"),
        (["path", "a", "b", "a.hea"], {}, r"duplicates: 1 record id \(records/a\)"),
        (["path,record_id", "a,1", "b,"], {}, "has no record_id in line 3"),
        (
            ["path,split", "a,train", "b,holdout"],
            {},
            "has the split 'holdout' in line 3: use train, validation or test",
        ),
        (["path,split", "a,train", "b,"], {}, "has no split in line 3: fill it in for every row or for none"),
        (["path,x", "a,1,extra"], {}, "3 fields in line 2 but 2 columns"),
        (["path,x", "a,1", "b"], {}, "1 fields in line 3 but 2 columns"),
        (["path,x", "a\0,1"], {}, "has a NUL character in line 2"),
        # Values.
        (
            ["path,x", "a,0", "b,1", "c,maybe"],
            LABEL,
            "has 'maybe' in the label column 'x', line 4: use 1, 0 or nothing",
        ),
        (["path,x", "a,0.5", "b,1", "c,NaN"], LABEL, "has 'NaN' in the label column 'x', line 4"),
        (["path,x,y", "a,0,1", "b,1,2", "c,0,0"], LABELS, "has '2' in the label column 'y', line 3"),
        (["path,x,y", "a,0,0.5", "b,1,0.1", "c,0,0"], LABELS, "in the label column 'x', line 2"),
        (["path,x", "a,a", "b,a", "c,"], LABEL, r"has 1 class\(es\): there must be at least two"),
        (["path,x", "a,\u0661", "b,0"], LABEL, "in the label column 'x'"),
        (["path,x", "a,1_0", "b,0.5"], LABEL, "has '1_0' in the label column 'x'"),
        (["path,x", "a,--5", "b,0.5"], LABEL, "has '--5' in the label column 'x'"),
        # Problems.
        (
            ["path,x", "a,1", "b,2"],
            {**LABEL, "problem_type": "multi_label_classification"},
            "has '2' .* line 3: use 1, 0",
        ),
        (
            ["path,x", "a,inf", "b,1"],
            {**LABEL, "problem_type": "regression"},
            "has 'inf' .* line 2: use a finite number",
        ),
        (
            ["path,x,y", "a,1,1"],
            {**LABELS, "problem_type": "single_label_classification"},
            "needs one class column",
        ),
        (["path,x", "a,1"], {"problem_type": "ranking"}, "unknown problem type 'ranking': choose from multi_label"),
    ],
)
def test_when_a_table_is_damaged_or_makes_no_sense_then_the_message_reports_where(
    make_table: MakeTable, rows: list[str], options: dict[str, Any], message: str
) -> None:
    table = make_table(rows[0], *(f"records/{row}" for row in rows[1:]))
    with pytest.raises(InputError, match=message):
        open_source("csv", table, **options)


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"", "cannot be read as a CSV table"), ("path,x\nrecords/a,\u00e4\n".encode("latin-1"), "save it as UTF-8")],
)
def test_when_a_file_is_no_table_then_that_is_reported(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "labels.csv").write_bytes(content)
    with pytest.raises(InputError, match=message):
        open_source("csv", tmp_path / "labels.csv")
