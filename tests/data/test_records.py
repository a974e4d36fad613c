"""Records become recordings with everything in the header, and paths are found or refused clearly."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from clear_hug_hf import ClearHugFeatureExtractor
from clear_hug_hf.data.records import Recording, RecordReference, find_records, read_record
from clear_hug_hf.processing import InputError


WriteRecords = Callable[..., list[Recording]]


@pytest.mark.parametrize("name", ["one", "one.hea", "one.dat", "patient.1"])
def test_when_a_record_is_named_in_any_way_then_it_is_read(
    tmp_path: Path, write_records: WriteRecords, name: str
) -> None:
    record_id = name.removesuffix(".hea").removesuffix(".dat")
    (written,) = write_records(tmp_path, record_id, sampling_rate=250.0)
    recording = read_record(tmp_path / name)
    np.testing.assert_allclose(recording.waveform, written.waveform, atol=5.1e-4)
    assert recording.waveform.dtype == np.float32
    assert (recording.sampling_rate, recording.unit, recording.record_id) == (250.0, "mV", record_id)
    assert list(recording.lead_names) == list(written.lead_names)


def test_when_units_differ_between_leads_then_each_is_kept(tmp_path: Path) -> None:
    np.zeros((100, 2), dtype="<i2").tofile(tmp_path / "one.dat")
    (tmp_path / "one.hea").write_text(
        "one 2 100 100\none.dat 16 1/uV 16 0 0 0 0 I\none.dat 16 1000/mV 16 0 0 0 0 II\n"
    )
    assert read_record(tmp_path / "one").unit == ["uV", "mV"]


@pytest.mark.parametrize("folder", ["ptbxl", "cinc2011", "challenge", "ludb", "ptb", "formats"])
def test_when_the_shared_records_are_read_then_all_fit_the_extractor(shared: Path, folder: str) -> None:
    extractor = ClearHugFeatureExtractor()
    headers = [path for path in find_records(shared / "data" / folder) if path.suffix == ".hea"]
    for header in headers:
        recording = read_record(header)
        assert recording.waveform.shape[0] == len(recording.lead_names) >= 12
    signal, lead_mask = extractor.clean(
        recording.waveform, recording.sampling_rate, recording.lead_names, recording.unit
    )
    assert signal.shape[0] == 12
    assert lead_mask.all()


def test_when_a_folder_is_searched_then_records_come_sorted_from_all_depths(
    tmp_path: Path, write_records: WriteRecords
) -> None:
    write_records(tmp_path, "b", "a/c", "a/b/d")
    found = [str(path.relative_to(tmp_path)) for path in find_records(tmp_path)]
    assert found == ["a/b/d.hea", "a/c.hea", "b.hea"]
    assert find_records(tmp_path / "b.dat") == [tmp_path / "b.hea"]


def test_when_there_is_nothing_to_find_then_that_is_reported(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="contains no recordings"):
        find_records(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"none\.hea does not exist"):
        find_records(tmp_path / "none")
    with pytest.raises(FileNotFoundError, match=r"none\.hea does not exist"):
        read_record(tmp_path / "none.dat")
    with pytest.raises(InputError, match="is a folder"):
        read_record(tmp_path)


@pytest.mark.parametrize("name", ["one.xml", "one.edf", "one"])
def test_when_a_file_is_in_another_format_then_the_formats_that_are_read_are_reported(
    tmp_path: Path, name: str
) -> None:
    (tmp_path / name).write_text("<ecg/>")
    for read in (read_record, find_records):
        with pytest.raises(InputError, match=rf"{name} is not in a supported format: convert it to WFDB"):
            read(tmp_path / name)


def test_when_a_reference_is_read_then_it_carries_the_values_of_the_table(
    tmp_path: Path, write_records: WriteRecords
) -> None:
    write_records(tmp_path, "one")
    recording = RecordReference(tmp_path / "one", "17", "p3", ("MI",), "train", {"age": 60}).read()
    assert (recording.record_id, recording.patient_id, recording.labels) == ("17", "p3", ("MI",))
    assert (recording.split, recording.metadata["age"]) == ("train", 60)
    assert recording.read() is recording
