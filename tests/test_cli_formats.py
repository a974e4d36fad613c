"""The verbs on folders and tables of files in several formats."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from ecg_files import EIGHT, FAMILY, GIVEN, NUMBER, complete, write

from clear_hug_hf import STANDARD_LEADS, ClearHugFeatureExtractor, shipped_model
from clear_hug_hf.data.preparation import prepare
from clear_hug_hf.data.prepared import load_prepared
from clear_hug_hf.data.readers import guess_kind, open_source
from clear_hug_hf.data.records import Recording, find_records
from clear_hug_hf.data.splits import assign_splits
from clear_hug_hf.inference.inputs import find_pictures
from clear_hug_hf.processing import InputError, recording_files
from clear_hug_hf.workflows.shared import read_source


MODEL = ["--model", shipped_model("clear-hug-small-ptbxl-super")]
READ = {"a": "WFDB", "b.xml": "GE MUSE XML", "c/1.2.840": "DICOM", "c/d.json": "AliveCor Kardia", "e.edf": "EDF"}


@pytest.fixture(scope="module")
def recording(make_recordings: Callable[..., list[Recording]]) -> Recording:
    """A recording whose limb leads are those of its leads I and II."""
    (made,) = make_recordings(1, sampling_rate=500.0)
    made.waveform = complete({name: made.waveform[STANDARD_LEADS.index(name)] for name in EIGHT}).astype(np.float32)
    return made


@pytest.fixture(scope="module")
def mixed(
    recording: Recording, write_record: Callable[[Path, Recording], Path], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A folder of five formats, with a file that is truncated, one that is no ECG, and two that are no recordings."""
    folder = tmp_path_factory.mktemp("mixed")
    (folder / "c").mkdir()
    leads = {name: recording.waveform[STANDARD_LEADS.index(name)] for name in EIGHT}
    write_record(folder / "a", recording)
    for name, kind in READ.items():
        if kind != "WFDB":
            write(folder / name, kind, leads)
    path = write(folder / "short.scp", "SCP-ECG", leads)
    path.write_bytes(path.read_bytes()[:5000])
    (folder / "letter.xml").write_text(f"<letter>{GIVEN} {FAMILY}</letter>")
    (folder / "README.md").write_text("notes")
    broken = write(folder / "broken.xml", "GE CardioSoft XML", leads)
    broken.write_bytes(broken.read_bytes().replace(b",", b"," + b"9" * 400, 1))
    (folder / "table.csv").write_text("name,value\n1,2\n")
    np.save(folder / "samples.npy", recording.waveform)
    return folder


def test_when_a_folder_mixes_formats_then_all_are_predicted_and_the_rest_is_named(
    mixed: Path, capsys: pytest.CaptureFixture[str], status: Callable[..., int]
) -> None:
    assert guess_kind(mixed) == "wfdb"
    capsys.readouterr()
    assert status("predict", mixed, *MODEL, "--json") == 1
    captured = capsys.readouterr()
    records = [json.loads(line) for line in captured.out.splitlines()]
    assert [Path(record["record"]).relative_to(mixed).as_posix() for record in records] == list(READ)
    whole = [record["probabilities"] for record in records if not record["report"]["missing_leads"]]
    assert len(whole) == 4
    for probabilities in whole[1:]:
        assert probabilities == pytest.approx(whole[0], abs=1e-3)
    first, *named = captured.err.splitlines()
    assert first == "clear-hug: 3 recording(s) failed:"
    assert "broken.xml contains a sample that is not an integer" in named[0]
    assert "letter.xml is not in a supported format" in named[1]
    assert "short.scp cannot be read as SCP-ECG" in named[2]
    assert not any(name in captured.out + captured.err for name in (FAMILY, GIVEN, NUMBER))


def test_when_a_table_names_files_of_several_formats_then_they_are_embedded(
    mixed: Path, tmp_path: Path, status: Callable[..., int]
) -> None:
    table = tmp_path / "ward.csv"
    table.write_text("path\n" + "".join(f"{mixed / name}\n" for name in [*READ, "short.scp"]))
    output = tmp_path / "new.parquet"
    assert status("embed", table, *MODEL, "--output", output) == 1
    rows = pd.read_parquet(output).set_index("record_id")
    assert set(rows.index) == {str(mixed / name) for name in READ}
    vectors = np.stack(rows.loc[[str(mixed / name) for name in READ if name != "c/d.json"], "embedding"])
    np.testing.assert_allclose(vectors, vectors[[0]].repeat(4, 0), atol=0.01)
    with pytest.warns(UserWarning, match="a model cannot learn it"):
        source = open_source("csv", _with_label(table), label_columns=["afib"])
    assert len(source) == 6


def _with_label(table: Path) -> Path:
    path = table.with_name("labels.csv")
    pd.read_csv(table).assign(afib=1).to_csv(path, index=False)
    return path


def test_when_a_folder_mixes_formats_then_it_is_prepared_by_patient_and_the_rest_is_listed(
    mixed: Path, tmp_path: Path, status: Callable[..., int]
) -> None:
    output = tmp_path / "prepared"
    assert status("prepare", mixed, "--output-dir", output) == 1
    sets, _ = load_prepared(output)
    rows: list[dict[str, Any]] = [row for split in sets.values() for row in split]
    assert {row["record_id"] for row in rows} == set(READ)
    patients = {row["patient_id"] for row in rows if row["record_id"] != "a"}
    assert len(patients) == 1
    assert len({split for split, rows in sets.items() for row in rows if row["patient_id"] in patients}) == 1
    assert set(pd.read_csv(output / "rejected.csv")["record_id"]) == {"broken.xml", "letter.xml", "short.scp"}
    for path in output.rglob("*"):
        content = path.read_bytes() if path.is_file() else b""
        assert not any(name.encode() in content for name in (FAMILY, GIVEN, NUMBER)), path


def _write_patients(folder: Path, leads: dict[str, np.ndarray]) -> Path:
    """A table of 20 CardioSoft files of 5 patients, which only the files state."""
    short = {name: lead[:2000] for name, lead in leads.items()}
    for number in range(20):
        path = write(folder / f"{number}.xml", "GE CardioSoft XML", short)
        path.write_bytes(path.read_bytes().replace(NUMBER.encode(), f"p{number % 5}".encode()))
    table = folder / "table.csv"
    table.write_text("path,afib\n" + "".join(f"{number}.xml,{number % 2}\n" for number in range(20)))
    return table


def test_when_a_table_has_no_patients_then_those_of_the_files_are_in_one_split_and_in_the_rows(
    recording: Recording, tmp_path: Path, printed_by: Callable[..., str]
) -> None:
    table = _write_patients(tmp_path, {name: recording.waveform[STANDARD_LEADS.index(name)] for name in EIGHT})
    printed_by("prepare", table, "--labels", "afib", "--output-dir", tmp_path / "prepared")
    sets, _ = load_prepared(tmp_path / "prepared")
    prepared = {split: set(rows["patient_id"]) for split, rows in sets.items()}
    sources = read_source(table, None, label_columns=["afib"]), read_source(tmp_path, None, split_at_random=True)
    read = [{split: {row.patient_id for row in rows} for split, rows in each.splits.items()} for each in sources]
    for patients in (prepared, *read):
        assert len(patients) > 1
        assert sum(map(len, patients.values())) == len(set().union(*patients.values())) == 5
    table.write_text("path,split\n0.xml,train\n5.xml,test\n")
    with pytest.raises(InputError, match="is in two splits"):
        assign_splits(open_source("csv", table))
    # A patient whom the table names is not a second one where it does not.
    table.write_text("path,patient_id\n0.xml,p0\n5.xml,\n1.xml,\n")
    first, second, third = open_source("csv", table)
    assert first.patient_id == second.patient_id == "p0" != third.patient_id
    (row, *_) = prepare([replace(first, patient_id=None)], ClearHugFeatureExtractor()).dataset
    assert row["patient_id"] in set().union(*prepared.values())


def test_when_a_reader_fails_unexpectedly_then_the_other_recordings_of_the_folder_are_prepared(
    mixed: Path, tmp_path: Path, status: Callable[..., int], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(path: Path, kind: str) -> Any:
        raise OverflowError(kind)

    monkeypatch.setattr(recording_files, "_read_with_ecgdatakit", fail)
    assert status("prepare", mixed, "--output-dir", tmp_path / "prepared") == 1
    rejected = pd.read_csv(tmp_path / "prepared" / "rejected.csv").set_index("record_id")["reason"]
    assert rejected["b.xml"] == "OverflowError: GE MUSE XML"
    assert sum(len(rows) for rows in load_prepared(tmp_path / "prepared")[0].values()) == 1


def test_when_pictures_have_xml_beside_them_then_the_folder_is_one_of_pictures(mixed: Path, tmp_path: Path) -> None:
    for name in ("a.png", "b.jpg", "a.xml"):
        (tmp_path / name).write_text("<annotation/>")
    assert [path.name for path in find_pictures(tmp_path)] == ["a.png", "b.jpg"]
    (tmp_path / "b.xml").write_bytes((mixed / "b.xml").read_bytes())
    assert find_pictures(tmp_path) == []


def test_when_samples_are_named_then_the_command_line_states_the_rest(
    mixed: Path, recording: Recording, tmp_path: Path, printed_by: Callable[..., str], refused: Callable[..., str]
) -> None:
    message = refused("predict", mixed / "samples.npy", *MODEL)
    assert message.endswith("samples.npy does not state its sampling_rate and lead_names and unit: pass them")
    stated = ["--sampling-rate", "500", "--unit", "mV", "--lead-names", *STANDARD_LEADS]
    known = json.loads(printed_by("predict", mixed / "a", *MODEL, "--json"))["probabilities"]
    assert json.loads(printed_by("predict", mixed / "samples.npy", *MODEL, *stated, "--json"))[
        "probabilities"
    ] == pytest.approx(known, abs=1e-3)
    # With a sampling rate, arrays in a folder are recordings, too.
    only = tmp_path / "only"
    only.mkdir()
    table = pd.DataFrame(recording.waveform.T, columns=list(STANDARD_LEADS))
    table.to_csv(only / "samples.csv", index=False)
    np.save(only / "samples.npy", recording.waveform)
    assert [path.name for path in find_records(only, arrays=True)] == ["samples.csv", "samples.npy"]
    lines = printed_by("predict", only, *MODEL, *stated, "--json").splitlines()
    assert [json.loads(line)["probabilities"] for line in lines] == [pytest.approx(known, abs=1e-3)] * 2
    options = ["--reader-options", "sampling_rate=500", "unit=mV", f"lead_names={json.dumps(STANDARD_LEADS)}"]
    printed_by("prepare", only, "--output-dir", tmp_path / "prepared", *options)
    sets, _ = load_prepared(tmp_path / "prepared")
    assert sum(len(rows) for rows in sets.values()) == 2


def test_when_a_muse_file_is_drawn_then_no_lead_is_blank(
    mixed: Path, tmp_path: Path, printed_by: Callable[..., str]
) -> None:
    text = printed_by("render", mixed / "b.xml", tmp_path / "page.png", "--dpi", "50")
    assert "blank leads" not in text
