"""Sets that are not at hand, read from a few records written in exactly their published layouts."""

from __future__ import annotations

import pickle
import random
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from scipy.io import savemat

from clear_hug_hf.data.readers import guess_kind, open_source
from clear_hug_hf.data.records import Recording
from clear_hug_hf.processing import STANDARD_LEADS, InputError, arrange_leads


MakeRecordings = Callable[..., list[Recording]]
WriteRecord = Callable[[Path, Recording], Path]


# ---------------------------------------------------------------------------------------------------------- CPSC2018


def _write_cpsc2018(folder: Path) -> list[np.ndarray]:
    """Two folders of structs and a table with an empty cell per absent label, as the organizers published them."""
    rng = np.random.default_rng(0)
    waveforms = [rng.normal(size=(12, length)) for length in (3000, 4500, 5000)]
    people = [("Male", 74), ("Female", 49), ("Female", 20)]
    for index, (waveform, (sex, age)) in enumerate(zip(waveforms, people, strict=True), start=1):
        place = folder / ("TrainingSet1" if index < 3 else "TrainingSet2")
        place.mkdir(parents=True, exist_ok=True)
        savemat(place / f"A000{index}.mat", {"ECG": {"sex": sex, "age": float(age), "data": waveform}})
    (folder / "TrainingSet1" / "REFERENCE.csv").write_text(
        "Recording,First_label,Second_label,Third_label\nA0001,5,,\nA0002,2,8,\nA0003,1,,\n"
    )
    return waveforms


def test_when_cpsc2018_is_read_then_structs_and_numbers_become_recordings_with_labels(tmp_path: Path) -> None:
    waveforms = _write_cpsc2018(tmp_path)
    assert guess_kind(tmp_path) == "cpsc2018"
    source = open_source(None, tmp_path)
    assert source.label_names == ["AFIB", "VPC", "NORM", "1AVB", "CRBBB", "STE", "PAC", "CLBBB", "STD"]
    recordings = [pickle.loads(pickle.dumps(reference)).read() for reference in source]
    assert [recording.record_id for recording in recordings] == ["A0001", "A0002", "A0003"]
    for recording, waveform in zip(recordings, waveforms, strict=True):
        np.testing.assert_array_equal(recording.waveform, waveform.astype(np.float32))
        assert (recording.sampling_rate, recording.unit, tuple(recording.lead_names)) == (500.0, "mV", STANDARD_LEADS)
    present = [{name for name, value in (recording.labels or {}).items() if value} for recording in recordings]
    assert present == [{"CRBBB"}, {"AFIB", "STD"}, {"NORM"}]
    assert [recording.metadata["sex"] for recording in recordings] == ["male", "female", "female"]
    assert [recording.metadata["age"] for recording in recordings] == [74.0, 49.0, 20.0]


def test_when_cpsc2018_is_incomplete_then_each_recording_is_named(tmp_path: Path) -> None:
    _write_cpsc2018(tmp_path)
    (tmp_path / "TrainingSet1" / "A0001.mat").write_bytes(b"not MATLAB")
    (tmp_path / "TrainingSet1" / "A0002.mat").rename(tmp_path / "TrainingSet2" / "A0009.mat")
    savemat(tmp_path / "TrainingSet2" / "A0003.mat", {"ECG": {"data": np.zeros((5, 100))}})
    source = open_source("cpsc2018", tmp_path)
    assert [tuple(one) for one in source.excluded] == [("A0009", "it is not listed in REFERENCE.csv")]
    with pytest.raises(InputError, match=r"A0001\.mat has no struct ECG"):
        source[0].read()
    with pytest.raises(FileNotFoundError, match=r"A0002\.mat does not exist"):
        source[1].read()
    with pytest.raises(InputError, match=r"shape \(5, 100\): it must be 12 leads"):
        source[2].read()
    (tmp_path / "TrainingSet1" / "REFERENCE.csv").write_text(
        "Recording,First_label,Second_label,Third_label\nA0001,5,12,\n"
    )
    with pytest.raises(InputError, match=r"has the label 12 for A0001: labels of CPSC2018 are 1 to 9"):
        open_source("cpsc2018", tmp_path)
    (tmp_path / "TrainingSet1" / "REFERENCE.csv").unlink()
    with pytest.raises(FileNotFoundError, match=r"REFERENCE\.csv does not exist"):
        open_source("cpsc2018", tmp_path)


# ------------------------------------------------------------------------------------------------------ MIMIC-IV-ECG


def _write_mimic(folder: Path, recordings: list[Recording], write_record: WriteRecord) -> None:
    rows, measurements = [], []
    for index, recording in enumerate(recordings):
        subject, study = 10000032 + index // 2, 40689238 + index
        path = f"files/p{str(subject)[:4]}/p{subject}/s{study}/{study}"
        write_record(folder / path, recording)
        rows.append(f"{subject},{study},{study},2180-07-23 08:44:00,{path}")
        report = 'Sinus rhythm,"Possible inferior infarct, age undetermined",,Abnormal ECG'
        measurements.append(f"{subject},{study},6848296,2180-07-23 08:44:00,{report},0.005-150 Hz,659")
    (folder / "record_list.csv").write_text("\n".join(["subject_id,study_id,file_name,ecg_time,path", *rows]) + "\n")
    (folder / "machine_measurements.csv").write_text(
        "subject_id,study_id,cart_id,ecg_time,report_0,report_1,report_2,report_10,bandwidth,rr_interval\n"
        + "\n".join(measurements[1:])
        + "\n"
    )


def test_when_mimic_is_read_then_patients_reports_and_leads_by_name_come(
    tmp_path: Path, make_recordings: MakeRecordings, write_record: WriteRecord
) -> None:
    recordings = make_recordings(3, sampling_rate=500.0)
    swapped = ["I", "II", "III", "aVR", "aVF", "aVL", *STANDARD_LEADS[6:]]
    order = [STANDARD_LEADS.index(name) for name in swapped]
    expected = [recording.waveform.copy() for recording in recordings]
    for recording in recordings:
        recording.waveform, recording.lead_names = recording.waveform[order], swapped
    _write_mimic(tmp_path, recordings, write_record)
    assert guess_kind(tmp_path) == "mimic_iv_ecg"
    source = open_source(None, tmp_path)
    assert [reference.patient_id for reference in source] == ["10000032", "10000032", "10000033"]
    assert [reference.record_id for reference in source] == ["40689238", "40689239", "40689240"]
    report = "Sinus rhythm; Possible inferior infarct, age undetermined; Abnormal ECG"
    assert [reference.metadata.get("report") for reference in source] == [None, report, report]
    assert source[0].metadata["ecg_time"] == "2180-07-23 08:44:00"
    for reference, waveform in zip(source, expected, strict=True):
        recording = reference.read()
        assert (recording.sampling_rate, recording.unit) == (500.0, "mV")
        np.testing.assert_allclose(arrange_leads(recording.waveform, recording.lead_names)[0], waveform, atol=2e-3)


def test_when_mimic_is_partly_there_then_tables_and_records_are_named(
    tmp_path: Path, make_recordings: MakeRecordings, write_record: WriteRecord
) -> None:
    _write_mimic(tmp_path, make_recordings(2), write_record)
    (tmp_path / "machine_measurements.csv").unlink()
    next(tmp_path.rglob("40689239.hea")).unlink()
    source = open_source("mimic_iv_ecg", tmp_path)
    assert "report" not in source[1].metadata
    with pytest.raises(FileNotFoundError, match=r"40689239\.hea does not exist"):
        source[1].read()
    (tmp_path / "record_list.csv").write_text("subject_id,study_id\n1,2\n")
    with pytest.raises(InputError, match="has no column ecg_time, path: it is not the table of MIMIC-IV-ECG"):
        open_source("mimic_iv_ecg", tmp_path)


# ---------------------------------------------------------------------------------------------------------- CODE-15%

_EXAMS = (
    "exam_id,age,is_male,nn_predicted_age,1dAVb,RBBB,LBBB,SB,ST,AF,patient_id,death,timey,normal_ecg,trace_file\n"
    "1169160,38,True,40.16,False,True,False,False,False,True,523632,False,2.09,False,exams_part1.hdf5\n"
    "2873686,73,False,67.05,False,False,False,False,False,False,1724173,,,True,exams_part0.hdf5\n"
    "168405,67,True,79.62,True,False,False,False,False,False,51421,,,False,exams_part0.hdf5\n"
    "271011,41,False,69.75,False,False,False,False,True,False,1737282,,,False,exams_part13.hdf5\n"
)


def _write_code15(folder: Path) -> dict[str, np.ndarray]:
    """Two shards whose last row is zeros, of exams with 7 s and 10 s that are filled up with zeros on both sides."""
    h5py = pytest.importorskip("h5py")
    rng = np.random.default_rng(0)
    shards = {"exams_part0.hdf5": [(168405, 2800), (2873686, 4000)], "exams_part1.hdf5": [(1169160, 4096)]}
    waveforms = {}
    for name, exams in shards.items():
        tracings = np.zeros((len(exams) + 1, 4096, 12), dtype=np.float32)
        for row, (exam, length) in enumerate(exams):
            waveform = rng.normal(size=(length, 12)).astype(np.float32)
            waveform[0, :6] = 0.0  # zeros in some leads are signal
            waveform[length // 2] = 0.0
            start = (4096 - length) // 2
            tracings[row, start : start + length] = waveform
            waveforms[str(exam)] = waveform.T
        with h5py.File(folder / name, "w") as file:
            file["tracings"] = tracings
            file["exam_id"] = np.array([exam for exam, _ in exams] + [0])
    (folder / "exams.csv").write_text(_EXAMS)
    return waveforms


def test_when_code15_is_read_then_zeros_on_both_sides_go_and_labels_come(tmp_path: Path) -> None:
    waveforms = _write_code15(tmp_path)
    assert guess_kind(tmp_path) == "code15"
    source = open_source(None, tmp_path)
    assert source.label_names == ["1dAVb", "RBBB", "LBBB", "SB", "AF", "ST"]
    recordings = [pickle.loads(pickle.dumps(reference)).read() for reference in source]
    assert [recording.record_id for recording in recordings] == ["168405", "2873686", "1169160"]
    for recording in recordings:
        np.testing.assert_array_equal(recording.waveform, waveforms[recording.record_id])
        assert (recording.sampling_rate, recording.unit) == (400.0, "NU")
        assert arrange_leads(recording.waveform, recording.lead_names)[1].all()
    present = [{name for name, value in (recording.labels or {}).items() if value} for recording in recordings]
    assert present == [{"1dAVb"}, set(), {"RBBB", "AF"}]
    assert all(list(recording.labels or {}) == source.label_names for recording in recordings)
    assert [recording.patient_id for recording in recordings] == ["51421", "1724173", "523632"]
    assert [recording.metadata["sex"] for recording in recordings] == ["male", "female", "male"]
    ((record_id, reason),) = source.excluded
    assert (record_id, reason) == ("271011", "its shard exams_part13.hdf5 is missing")


def test_when_the_unit_of_code15_is_given_then_recordings_are_in_millivolts(tmp_path: Path) -> None:
    waveforms = _write_code15(tmp_path)
    recording = open_source("code15", tmp_path, millivolts_per_unit=0.1)[0].read()
    assert recording.unit == "mV"
    np.testing.assert_allclose(recording.waveform, 0.1 * waveforms[recording.record_id], rtol=1e-6)
    with pytest.raises(InputError, match="millivolts_per_unit is 0: it must be a positive number"):
        open_source("code15", tmp_path, millivolts_per_unit=0)


def test_when_code15_is_damaged_then_the_error_names_the_place(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    _write_code15(tmp_path)
    with h5py.File(tmp_path / "exams_part1.hdf5", "a") as file:
        file["tracings"][0] = 0.0
    with pytest.raises(InputError, match=r"all samples of exam 1169160 .* are zero"):
        open_source("code15", tmp_path)[2].read()
    (tmp_path / "exams_part0.hdf5").write_bytes(b"nothing")
    with pytest.raises(InputError, match=r"exams_part0\.hdf5 is not a shard of CODE-15%"):
        open_source("code15", tmp_path)
    for shard in tmp_path.glob("*.hdf5"):
        shard.unlink()
    with pytest.raises(InputError, match="has no exams_part"):
        open_source("code15", tmp_path)


def test_when_h5py_is_not_installed_then_its_name_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "exams.csv").write_text(_EXAMS)
    (tmp_path / "exams_part0.hdf5").touch()
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(ImportError, match=r"CODE-15% needs h5py, .*: pip install 'clear-hug-hf\[code15\]'"):
        open_source("code15", tmp_path)


# -------------------------------------------------------------------------------------------------------------- LUDB


def test_when_ludb_is_read_then_its_table_comes_as_metadata(shared: Path) -> None:
    source = open_source("ludb", shared / "data" / "ludb")
    assert [reference.record_id for reference in source][:5] == ["1", "3", "5", "7", "9"]
    recording = source[0].read()
    assert recording.waveform.shape == (12, 5000)
    assert (recording.patient_id, recording.metadata["sex"], recording.metadata["age"]) == ("1", "F", "51")
    assert recording.metadata["rhythms"] == "Sinus bradycardia"
    assert recording.metadata["hypertrophies"] == "Left ventricular overload; Left ventricular hypertrophy"


# ---------------------------------------------------------------------------------------------------- damaged tables


_ODD = [b"\0", b'"', b",", b"\n", b"\r", b"\xff", b"\xef\xbb\xbf", b"-", b"--5", b"1e999", b"nan", b"1_0", b" ", b""]
_ODD += ["\u0661".encode(), "\u00b2".encode(), b"9" * 5000, b"x" * 200_000, b"(" * 300, b"[{", b"/", b"..", b"a,b,c"]


def _write_layout(kind: str, folder: Path, recordings: list[Recording], write_record: WriteRecord) -> list[str]:
    """A small source of a kind; the names of its tables."""
    if kind == "cpsc2018":
        _write_cpsc2018(folder)
        return ["TrainingSet1/REFERENCE.csv"]
    if kind == "code15":
        _write_code15(folder)
        return ["exams.csv"]
    if kind == "mimic_iv_ecg":
        _write_mimic(folder, recordings, write_record)
        return ["record_list.csv", "machine_measurements.csv"]
    for number, recording in enumerate(recordings):
        write_record(folder / ("data" if kind == "ludb" else "records100") / str(number), recording)
    name, header, row = {
        "ludb": ("ludb.csv", "ID,Sex,Age,Rhythms", '{0},F,51,"Sinus\nrhythm"'),
        "ptbxl": (
            "ptbxl_database.csv",
            "ecg_id,patient_id,age,sex,scp_codes,strat_fold,filename_lr",
            "{0},{0}.0,60.0,0,\"{{'NORM': 100.0, 'SR': 0.0}}\",{0},records100/{0}",
        ),
        "csv": ("mine.csv", "path,patient_id,afib,age", "records100/{0}.hea,p{0},1,60"),
    }[kind]
    (folder / name).write_text("\n".join([header, *(row.format(number) for number in range(1, 4))]) + "\n")
    return [name]


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("kind", ["ptbxl", "cpsc2018", "code15", "mimic_iv_ecg", "ludb", "csv"])
def test_when_tables_are_mutated_then_they_are_read_or_refused_in_one_sentence(
    kind: str, tmp_path: Path, make_recordings: MakeRecordings, write_record: WriteRecord
) -> None:
    tables = _write_layout(kind, tmp_path, make_recordings(4), write_record)
    path = tmp_path / "mine.csv" if kind == "csv" else tmp_path
    options = {"label_columns": ["afib"]} if kind == "csv" else {"label_set": "ptbxl_super"} if kind == "ptbxl" else {}
    assert len(open_source(kind, path, **options))
    draw = random.Random(kind)
    refused = 0
    for _ in range(60):
        table = tmp_path / draw.choice(tables)
        original = data = table.read_bytes()
        for _ in range(draw.randint(1, 2)):
            place = draw.randrange(len(data))
            data = data[:place] + draw.choice(_ODD) + data[place + draw.choice((0, 1, 3, 50)) :]
        table.write_bytes(data)
        try:
            list(open_source(kind, path, **options))
        except (InputError, FileNotFoundError):
            refused += 1
        table.write_bytes(original)
    assert 10 < refused < 60
