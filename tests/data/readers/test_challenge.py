"""The Challenges' headers give age, sex, diagnoses and the database."""

from __future__ import annotations

import csv
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from scipy.io import savemat

from clear_hug_hf.data.readers import guess_kind, open_source
from clear_hug_hf.data.readers.challenge import database_of, read_comments
from clear_hug_hf.processing import InputError


def _index(shared: Path) -> dict[str, dict[str, str]]:
    with (shared / "data" / "challenge" / "index.csv").open(newline="") as file:
        return {row["record"]: row for row in csv.DictReader(file)}


def test_when_real_records_are_read_then_the_headers_agree_with_the_index(shared: Path) -> None:
    index = _index(shared)
    short = {"Chapman-Shaoxing-Ningbo": "Chapman-Ningbo"}
    source = open_source("challenge", shared / "data" / "challenge")
    assert [reference.record_id for reference in source] == sorted(index)
    for reference in source[::8]:
        row = index[reference.record_id]
        metadata = reference.read().metadata
        assert short.get(metadata["database"], metadata["database"]) == row["source"]
        assert ",".join(metadata["codes"]) == row["dx"]
        assert metadata.get("sex") == (row["sex"].lower() if row["sex"] in ("Male", "Female") else None)
        assert metadata.get("age") == (float(row["age"]) if row["age"] not in ("", "nan", "NaN") else None)


def test_when_the_nine_classes_are_asked_for_then_they_equal_the_index(shared: Path) -> None:
    index = {record: row for record, row in _index(shared).items() if row["cpsc9"]}
    source = open_source("challenge", shared / "data" / "challenge", label_set="cpsc9")
    assert [reference.record_id for reference in source] == sorted(index)
    assert len(source) + len(source.excluded) == 196
    assert set(source.label_names or ()) == set(Counter("|".join(row["cpsc9"] for row in index.values()).split("|")))
    for reference in source:
        present = {name for name, value in (reference.labels or {}).items() if value}
        assert present == set(index[reference.record_id]["cpsc9"].split("|"))


def test_when_databases_are_named_then_the_others_are_left_out(shared: Path) -> None:
    folder = shared / "data" / "challenge"
    georgia = open_source("challenge", folder, databases=["Georgia"])
    assert {reference.record_id[0] for reference in georgia} == {"E"}
    assert len(georgia.excluded) == 196 - len(georgia) == 152
    with pytest.raises(InputError, match="unknown database 'Georgian': choose from CPSC2018"):
        open_source("challenge", folder, databases=["Georgian"])


def test_when_a_label_set_fits_no_record_then_the_first_reason_is_reported(shared: Path, tmp_path: Path) -> None:
    for header in (shared / "data" / "challenge").glob("E*.hea"):
        (tmp_path / header.name).write_bytes(header.read_bytes())
    with pytest.raises(InputError, match="all 44 were excluded, the first because it is not part of CPSC2018"):
        open_source("challenge", tmp_path, label_set="cpsc9")


def _write(folder: Path, name: str, comments: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    samples = np.arange(12 * 50, dtype=np.int16).reshape(12, 50, order="F")
    savemat(folder / f"{name}.mat", {"val": samples}, format="4")
    leads = ("I", "II", "III", "aVR", "aVL", "aVF", "V1", "V2", "V3", "V4", "V5", "V6")
    lines = [f"{name} 12 500 50", *(f"{name}.mat 16+24 1000/mV 16 0 0 0 0 {lead}" for lead in leads)]
    (folder / f"{name}.hea").write_text("\n".join(lines) + f"\n{comments}")


def test_when_records_are_nested_then_they_are_found_by_name(tmp_path: Path) -> None:
    _write(tmp_path / "training" / "cpsc_2018" / "g1", "A0001", "# Age: 74\n# Sex: Male\n# Dx: 59118001\n")
    _write(tmp_path / "training" / "cpsc_2018" / "g2", "A0002", "#Age: NaN\n#Sex: Unknown\n#Dx: 426783006,59118001\n")
    _write(tmp_path / "training" / "ningbo" / "g1", "JS20000", "#Age: 12\n#Sex: F\n#Dx: 426783006\n")
    assert guess_kind(tmp_path) == "challenge"
    source = open_source("challenge", tmp_path, label_set="cpsc9")
    assert [reference.record_id for reference in source] == ["A0001", "A0002"]
    first, second = (reference.read() for reference in source)
    assert (first.metadata["age"], first.metadata["sex"]) == (74.0, "male")
    assert not {"age", "sex"} & second.metadata.keys()
    assert second.labels is not None
    assert (second.labels["NORM"], second.labels["CRBBB"], sum(second.labels.values())) == (1.0, 1.0, 2.0)
    np.testing.assert_allclose(first.waveform[1, :2], [0.001, 0.013], rtol=1e-6)


def test_when_a_header_has_no_diagnoses_then_it_is_left_out_with_that_reason(tmp_path: Path) -> None:
    _write(tmp_path, "A0001", "#Dx: 59118001\n")
    _write(tmp_path, "A0002", "#Age: 50\n")
    source = open_source("challenge", tmp_path, label_set="cpsc9")
    assert [one.record_id for one in source.excluded] == ["A0002"]
    assert "has no #Dx line" in source.excluded[0].reason
    assert len(open_source("challenge", tmp_path)) == 2


def test_when_comments_are_odd_then_only_their_content_is_taken() -> None:
    assert read_comments(["#Dx: 1, 2 ,", "#Age: -1", "#Sex: Unknown", "hello", "#Rx: x: y"]) == {"codes": ["1", "2"]}
    assert read_comments(["Age: 60.5", "Sex: f"]) == {"age": 60.5, "sex": "female"}
    found = [database_of(name) for name in ("HR00001", "S0001", "I0001", "X1", "JS")]
    assert found == ["PTB-XL", "PTB", "INCART", None, None]
