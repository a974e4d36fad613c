"""Sources are opened by name or recognized by their layout, and behave as sequences of references."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from clear_hug_hf.cli import main
from clear_hug_hf.data.readers import READERS, guess_kind, open_source, reader_options
from clear_hug_hf.data.records import Recording
from clear_hug_hf.processing import InputError
from clear_hug_hf.training.provenance import describe_source


WriteRecords = Callable[..., list[Recording]]


@pytest.mark.parametrize(
    ("folder", "kind"),
    [("ptbxl", "ptbxl"), ("challenge", "challenge"), ("ludb", "ludb"), ("cinc2011", "wfdb"), ("ptb", "wfdb")],
)
def test_when_a_real_folder_is_opened_then_its_layout_is_recognized_and_read(
    shared: Path, folder: str, kind: str
) -> None:
    source = open_source(None, shared / "data" / folder)
    assert (guess_kind(shared / "data" / folder), source.kind) == (kind, kind)
    num_headers = len(list((shared / "data" / folder).rglob("*.hea")))
    assert len(source) + len(source.excluded) == num_headers
    reference = pickle.loads(pickle.dumps(source[len(source) // 2]))
    recording = reference.read()
    assert recording.waveform.dtype == np.float32
    assert len(recording.lead_names) == len(recording.waveform) >= 12
    assert recording.record_id == reference.record_id == source[len(source) // 2].record_id


def test_when_a_source_is_sliced_then_it_gives_those_references(shared: Path) -> None:
    source = open_source("ludb", shared / "data" / "ludb")
    ids = [reference.record_id for reference in source]
    assert [reference.record_id for reference in source[10:40:7]] == ids[10:40:7]
    assert source[-1].record_id == ids[-1]
    with pytest.raises(IndexError):
        source[len(source)]


def test_when_a_file_is_given_then_it_is_a_table_or_a_record(tmp_path: Path, write_records: WriteRecords) -> None:
    write_records(tmp_path, "one")
    header = tmp_path / "one.hea"
    (tmp_path / "labels.csv").write_text("path\none\n")
    assert guess_kind(tmp_path / "labels.csv") == "csv"
    assert guess_kind(header) == guess_kind(tmp_path / "one") == guess_kind(tmp_path) == "wfdb"
    assert [reference.record_id for reference in open_source(None, header)] == ["one"]


def test_when_nothing_is_there_then_the_error_names_what_would_be(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"contains no recordings: neither \.hea files"):
        guess_kind(tmp_path)
    with pytest.raises(InputError, match="contains no recordings"):
        open_source("wfdb", tmp_path)
    with pytest.raises(FileNotFoundError, match="nowhere does not exist"):
        guess_kind(tmp_path / "nowhere")


def test_when_a_reader_is_asked_for_then_it_is_that_of_the_kind() -> None:
    assert [reader.kind for reader in READERS.values()] == list(READERS)


@pytest.mark.parametrize("kind", list(READERS))
def test_when_the_path_does_not_exist_then_every_reader_names_it(tmp_path: Path, kind: str) -> None:
    with pytest.raises(FileNotFoundError, match=r"nowhere.* does not exist"):
        open_source(kind, tmp_path / "nowhere")


def test_when_kind_option_or_label_set_are_unknown_then_the_choices_are_named(tmp_path: Path, shared: Path) -> None:
    with pytest.raises(InputError, match="unknown reader 'dicom': choose from ptbxl"):
        open_source("dicom", tmp_path)
    with pytest.raises(InputError, match="wfdb has no option 'folds': choose from label_set"):
        open_source("wfdb", tmp_path, folds=[1])
    with pytest.raises(InputError, match="unknown label set 'all': choose from ptbxl_super"):
        open_source("ptbxl", shared / "data" / "ptbxl", label_set="all")
    with pytest.raises(InputError, match="ludb recordings do not use the codes of 'csn'"):
        open_source("ludb", shared / "data" / "ludb", label_set="csn")
    assert "sampling_rate" in reader_options("ptbxl")


def test_when_folders_are_patients_then_the_wfdb_reader_reports_it(
    tmp_path: Path, write_records: WriteRecords
) -> None:
    write_records(tmp_path, "patient001/b", "patient001/a", "patient002/a")
    references = list(open_source("wfdb", tmp_path, patient_folders=True))
    assert [reference.record_id for reference in references] == ["patient001/a", "patient001/b", "patient002/a"]
    assert [reference.patient_id for reference in references] == ["patient001", "patient001", "patient002"]
    assert [reference.patient_id for reference in open_source("wfdb", tmp_path)] == [None] * 3


def test_when_title_and_licence_of_a_folder_are_given_then_cards_have_them(
    tmp_path: Path, write_records: WriteRecords
) -> None:
    write_records(tmp_path / "ward", "a", "b", "c")
    stated = ["--reader-options", "title=Ward 3", "license=ODC-By 1.0", "citation=Us (2026)"]
    folder = tmp_path / "prepared"
    command = ["prepare", str(tmp_path / "ward"), "--split-fractions", "1", "0", "0", "--output-dir", str(folder)]
    assert main([*command, *stated]) == 0
    about = describe_source(folder)
    assert [about[name] for name in ("title", "license", "citation")] == ["Ward 3", "ODC-By 1.0", "Us (2026)"]
    card = (folder / "README.md").read_text()
    assert "Ward 3" in card
    assert "ODC-By 1.0" in card
