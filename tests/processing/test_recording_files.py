"""Files in all formats: read by their content and completed by name, or refused with a sentence; names stay inside."""

from __future__ import annotations

import logging
import sys
import warnings
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import ecg_files
import numpy as np
import pytest
from ecg_files import EIGHT, FAMILY, GIVEN, NUMBER, RATE, WRITERS, complete, write

from clear_hug_hf import STANDARD_LEADS, ClearHugFeatureExtractor, read_record, shipped_model
from clear_hug_hf.data.readers import guess_kind
from clear_hug_hf.data.records import RecordReference
from clear_hug_hf.inference.records import RecordPrediction, predict_records
from clear_hug_hf.processing import InputError
from clear_hug_hf.processing.recording_files import PARSERS, find_format
from clear_hug_hf.training.folders import load_classifier


KINDS = [*WRITERS, "DICOM"]
XML = ["GE MUSE XML", "HL7 aECG", "Philips SierraECG", "Mortara ELI XML", "GE CardioSoft XML"]
BINARY = [kind for kind in KINDS if kind not in XML]
Leads = dict[str, np.ndarray]


@pytest.fixture(scope="module")
def leads(make_recordings: Callable[..., list[Any]]) -> Leads:
    """Eight leads [mV]."""
    (recording,) = make_recordings(1, sampling_rate=float(RATE))
    return {name: recording.waveform[STANDARD_LEADS.index(name)] for name in EIGHT}


@pytest.mark.parametrize("kind", KINDS)
def test_when_a_file_has_any_extension_then_its_content_decides(tmp_path: Path, kind: str, leads: Leads) -> None:
    twelve = dict(zip(STANDARD_LEADS, complete(leads), strict=True))
    for name, written in (("scan.png", leads), ("one", twelve), ("two.dat", twelve)):
        recording = read_record(write(tmp_path / name, kind, written))
        stored = [lead for lead in written if kind != "AliveCor Kardia" or not lead.startswith("V")]
        assert list(recording.lead_names) == stored
        for lead, samples in zip(recording.lead_names, recording.waveform, strict=True):
            np.testing.assert_allclose(samples, written[lead], atol=2.6e-3)
        assert (recording.sampling_rate, recording.unit, recording.waveform.dtype) == (RATE, "mV", np.float32)
        assert recording.metadata["format"] == kind
        assert recording.patient_id is not None
        assert recording.metadata.get("sex") in ("female", None)
        assert not {FAMILY, GIVEN, NUMBER} & set(" ".join(map(str, vars(recording).values())).split())


def test_when_all_formats_hold_one_recording_then_their_probabilities_agree(tmp_path: Path, leads: Leads) -> None:
    model, extractor = load_classifier(shipped_model("clear-hug-small-ptbxl-super"))
    whole = {"waveform": complete(leads), "sampling_rate": RATE, "lead_names": list(STANDARD_LEADS), "unit": "mV"}
    files = [write(tmp_path / str(number), kind, leads) for number, kind in enumerate(KINDS)]
    expected, *predictions = predict_records(model, extractor, [whole, *files])
    assert isinstance(expected, RecordPrediction)
    for kind, prediction in zip(KINDS, predictions, strict=True):
        assert isinstance(prediction, RecordPrediction)
        assert prediction.report is not None
        if kind == "AliveCor Kardia":
            assert prediction.report.missing_leads == [f"V{number}" for number in range(1, 7)]
        else:
            assert not prediction.report.missing_leads, "the limb leads are completed by name"
            np.testing.assert_allclose(prediction.probabilities, expected.probabilities, atol=1e-3, err_msg=kind)


def test_when_the_shared_muse_file_and_its_wfdb_twin_are_read_then_the_twin_is_five_times_too_large(
    shared: Path,
) -> None:
    muse, twin = (read_record(shared / "data/formats" / name) for name in ("muse-sinus.xml", "muse-sinus"))
    assert muse.metadata["microvolts_per_step"] == 4.88
    assert (muse.metadata["age"], muse.metadata["filters"]["notch"]) == (43, 60.0)
    rows = [list(twin.lead_names).index(name) for name in muse.lead_names]
    # The twin stores whole microvolts and declares 200 of them per mV.
    np.testing.assert_allclose(twin.waveform[rows], 5 * muse.waveform, atol=0.006)
    extractor = ClearHugFeatureExtractor(do_bandpass=False)
    completed, derived = (
        extractor.clean(recording.waveform, recording.sampling_rate, recording.lead_names, recording.unit)[0]
        for recording in (muse, twin)
    )
    np.testing.assert_allclose(derived, 5 * completed, atol=0.02)


def test_when_a_philips_file_ends_with_a_calibration_pulse_then_it_is_not_read(shared: Path) -> None:
    for name in ("129DYPRG.xml", "ad4d3d80-d165_1-04_orig.xml"):
        recording = read_record(shared / "data/formats" / name)
        one, two, three = recording.waveform[:3]
        assert 10 * RATE < recording.waveform.shape[1] < 11 * RATE
        np.testing.assert_allclose(three, two - one, atol=0.011)
    with pytest.raises(InputError, match=r"Files of type MortaraECG 1\.03 are unsupported"):
        read_record(shared / "data/formats/invalid-doc-type.xml")


def _refused(path: Path) -> str:
    with pytest.raises(InputError) as caught:
        read_record(path)
    message = str(caught.value)
    assert str(path) in message
    assert "\n" not in message
    assert not any(name in message for name in (FAMILY, GIVEN))
    return message


@pytest.mark.parametrize("kind", KINDS)
def test_when_a_file_is_truncated_then_it_is_refused(tmp_path: Path, kind: str, leads: Leads) -> None:
    path = write(tmp_path / "one", kind, leads)
    content = path.read_bytes()
    # ISHNE declares no length that its writers keep.
    path.write_bytes(content[: int(0.6 * len(content)) | 1])
    assert f"cannot be read as {kind}" in _refused(path) or kind == "GE CardioSoft XML"


@pytest.mark.parametrize("kind", KINDS)
def test_when_bytes_of_a_file_change_then_it_is_read_or_refused(tmp_path: Path, kind: str, leads: Leads) -> None:
    short = {name: lead[:1000] for name, lead in leads.items()}
    path = write(tmp_path / "one", kind, short)
    content, rng = path.read_bytes(), np.random.default_rng(0)
    for _ in range(15):
        changed = bytearray(content)
        for position in rng.integers(0, min(len(content), 1500), 3):
            changed[position] = rng.integers(256)
        path.write_bytes(changed)
        with suppress(InputError, FileNotFoundError):
            read_record(path)


ENTITY = '<!DOCTYPE x [<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;&a;"><!ENTITY c SYSTEM "file:///etc/passwd">]>'


@pytest.mark.parametrize("kind", XML)
def test_when_xml_declares_entities_then_it_is_refused(tmp_path: Path, kind: str, leads: Leads) -> None:
    text = WRITERS[kind](leads).decode("latin-1").replace('<!DOCTYPE RestingECG SYSTEM "restecg.dtd">', "")
    head, _, rest = text.partition("?>")
    for use in ("&b;", "&c;"):
        (tmp_path / "one.xml").write_text(f"{head}?>{ENTITY}{rest.replace(NUMBER, use)}")
        _refused(tmp_path / "one.xml")


def _make(leads: Leads) -> dict[str, tuple[bytes, str]]:
    large = {name: 20 * lead for name, lead in leads.items()}
    unknown = {"I": leads["I"], "Chest": leads["V1"]}
    cut = {**leads, "V6": leads["V6"][:-5]}
    return {
        "empty.xml": (b"", "is empty"),
        "page.xml": (b"<html><body>no ECG</body></html>", "is not in a supported format"),
        "words.txt": (b"Dear colleague, thank you", "is not in a supported format"),
        "two muse": (ecg_files.muse(leads, repeat=2), "it contains several recordings"),
        "two aecg": (ecg_files.aecg(leads, repeat=2), "it contains several recordings"),
        "two cardiosoft": (ecg_files.cardiosoft(leads, repeat=2), "contains 2 recordings"),
        "no cardiosoft": (ecg_files.cardiosoft(leads, repeat=0), "contains no StripData"),
        "muse unit": (ecg_files.muse(leads, unit="STEPS"), "states no unit for lead I"),
        "aecg unit": (ecg_files.aecg(leads, unit="steps"), "states no unit for lead I"),
        "scp unit": (ecg_files.scp(leads, multiplier=0), "states no unit for lead I"),
        "ishne unit": (ecg_files.ishne(leads, nanovolts=0), "states no unit for lead I"),
        "cardiosoft unit": (ecg_files.cardiosoft(leads, unit="none"), "states no resolution in uVperLsb"),
        "edf unit": (ecg_files.edf(leads, unit="mmHg"), "contains no leads in a unit of voltage"),
        "muse rate": (ecg_files.muse(leads, base="0"), "no valid SampleBase"),
        "aecg rate": (ecg_files.aecg(leads, interval="0"), "No usable time increment"),
        "mfer rate": (ecg_files.mfer(leads, with_rate=False), "it states no sampling rate"),
        "cardiosoft rate": (ecg_files.cardiosoft(leads, rate=""), "states no SampleRate"),
        "cardiosoft sample": (ecg_files.cardiosoft(leads).replace(b",", b"," + b"9" * 400, 1), "integer of 64 bits"),
        "cardiosoft lengths": (ecg_files.cardiosoft(cut), "leads of .* samples"),
        "lengths": (ecg_files.aecg(cut), "leads of different lengths"),
        "muse volts": (ecg_files.muse(large), "the largest lead spans .* mV within 2 s, but a QRS complex spans"),
        "checksum": (ecg_files.scp(leads)[:-3] + b"abc", "its samples do not match their checksum"),
    } | {"names": (ecg_files.mortara(unknown), "")}


@pytest.mark.parametrize(
    "name", [name for name in _make({name: np.zeros(RATE * 2) for name in EIGHT}) if name != "names"]
)
def test_when_a_file_lacks_what_a_recording_needs_then_a_sentence_names_it(
    tmp_path: Path, name: str, leads: Leads
) -> None:
    content, message = _make(leads)[name]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=message):
        read_record(tmp_path / name)
    _refused(tmp_path / name)


def test_when_a_qrs_has_20_mv_then_it_is_refused_in_every_format(tmp_path: Path, leads: Leads) -> None:
    for kind in KINDS:
        large = {name: lead * 20 / np.ptp(leads["I"]) for name, lead in leads.items()}
        assert "but a QRS complex spans" in _refused(write(tmp_path / "one", kind, large))


def test_when_leads_are_unknown_or_repeated_then_the_extractor_names_them(tmp_path: Path, leads: Leads) -> None:
    path = tmp_path / "one.xml"
    path.write_bytes(_make(leads)["names"][0])
    with pytest.raises(InputError, match="unknown lead name 'Chest'"):
        ClearHugFeatureExtractor().read_windows(path)
    path.write_bytes(ecg_files.aecg(leads).replace(b"MDC_ECG_LEAD_V6", b"MDC_ECG_LEAD_V5"))
    with pytest.raises(InputError, match="lead V5 is duplicated"):
        ClearHugFeatureExtractor().read_windows(path)


def test_when_an_electrocardiograph_wrote_the_dicom_file_then_its_samples_are_those_that_pydicom_decodes() -> None:
    pydicom = pytest.importorskip("pydicom")
    path = pydicom.data.get_testdata_file("waveform_ecg.dcm", download=False)
    recording = read_record(path)
    assert list(recording.lead_names) == list(STANDARD_LEADS)
    # The first group is the rhythm, in microvolts; the second is a median beat.
    microvolts = pydicom.dcmread(path).waveform_array(0)
    np.testing.assert_allclose(1000 * recording.waveform, microvolts.T, atol=0.01)
    limb = dict(zip(recording.lead_names, recording.waveform, strict=True))
    np.testing.assert_allclose(limb["II"] - limb["I"], limb["III"], atol=3e-3)


def test_when_dicom_pads_samples_then_they_are_missing(tmp_path: Path, leads: Leads) -> None:
    path = tmp_path / "one.dcm"
    spoiled = {name: lead.copy() for name, lead in leads.items()}
    spoiled["V2"][100:150] = -9.0
    ecg_files.dicom(spoiled, path, padding=-9000)
    waveform = read_record(path).waveform
    assert np.isnan(waveform[3, 100:150]).all()
    assert np.isnan(waveform).sum() == 50
    assert ClearHugFeatureExtractor().read_windows(path).report.nan_share == pytest.approx(50 / waveform.size)


@pytest.mark.parametrize("change", ["two", "deflated", "picture"])
def test_when_a_dicom_file_holds_anything_else_then_it_is_refused(tmp_path: Path, change: str, leads: Leads) -> None:
    path = tmp_path / "one.dcm"
    ecg_files.dicom(leads, path, repeat={"two": 2, "picture": 0}.get(change, 1))
    if change == "deflated":
        path.write_bytes(path.read_bytes().replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.1.2.1.99\0"))
    messages = {"two": "several recordings", "deflated": "deflated", "picture": "no usable Waveform"}
    assert messages[change] in _refused(path)


def test_when_ishne_marks_a_fault_then_its_samples_are_missing(tmp_path: Path, leads: Leads) -> None:
    spoiled = {name: lead.copy() for name, lead in leads.items()}
    spoiled["II"][:7] = -32.768
    path = write(tmp_path / "one", "ISHNE", spoiled)
    assert np.isnan(read_record(path).waveform).sum() == 7


@pytest.mark.parametrize("kind", KINDS)
def test_when_files_are_predicted_then_names_reach_neither_output_nor_log(
    tmp_path: Path, kind: str, leads: Leads, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        path = write(tmp_path / "one", kind, leads)
        windows = ClearHugFeatureExtractor().read_windows(RecordReference(path, "one").read())
        path.write_bytes(path.read_bytes()[:-200])
        message = _refused(path)
    written = capfd.readouterr()
    texts = [message, caplog.text, written.out, written.err, str(windows.report), *(str(each) for each in caught)]
    assert not any(name in text for name in (FAMILY, GIVEN, NUMBER) for text in texts)


@pytest.mark.parametrize("name", ["one.csv", "one.npy", "semicolons.txt", "bare.csv"])
def test_when_samples_come_as_a_table_or_an_array_then_the_user_states_the_rest(
    tmp_path: Path, name: str, leads: Leads
) -> None:
    path, samples = tmp_path / name, np.stack(list(leads.values()))
    if name == "one.npy":
        np.save(path, samples)
    else:
        mark = ";" if name == "semicolons.txt" else ","
        head = "" if name == "bare.csv" else mark.join(EIGHT) + "\n"
        path.write_text(head + "\n".join(mark.join(f"{value:.4f}" for value in row) for row in samples.T) + "\n")
    missing = "sampling_rate and " + ("lead_names and " if name in ("one.npy", "bare.csv") else "") + "unit"
    with pytest.raises(InputError, match=f"does not state its {missing}"):
        read_record(path)
    names = list(EIGHT) if "lead_names" in missing else None
    recording = read_record(path, sampling_rate=500.0, lead_names=names, unit="mV")
    np.testing.assert_allclose(recording.waveform, samples, atol=1e-4)
    assert list(recording.lead_names) == list(EIGHT)
    extractor = ClearHugFeatureExtractor()
    with pytest.raises(InputError, match="sampling_rate is required"):
        extractor.read_windows(path)
    windows = extractor.read_windows(path, sampling_rate=500.0, lead_names=names, unit="mV")
    assert not windows.report.missing_leads


def _declare(shape: str) -> bytes:
    """A NumPy file whose header declares a shape, with 16 bytes of samples."""
    header = f"{{'descr': '<f8', 'fortran_order': False, 'shape': {shape}}}\n".encode()
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + bytes(16)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("one.npy", b"\x93NUMPY\x01\x00", "damaged or truncated"),
        ("one.npy", _declare("(12, 1000000000000)"), "damaged or truncated"),
        ("one.npy", _declare("(" * 5000), "damaged or truncated"),
        ("one.csv", b"I,II\n1,2\n3\n", "1 samples in row 2"),
        ("one.csv", b"I,II\n1,2\n3,high\n", "not a number"),
        ("one.csv", b"I,II\n", "contains no samples"),
        ("one.csv", b"time,I,II\n0,1,2\n", "column that is no lead: unknown lead name 'time'"),
        ("one.csv", b"I,II,time\n1,2,0\n", "column that is no lead: unknown lead name 'time'"),
    ],
)
def test_when_samples_are_damaged_then_a_sentence_names_it(
    tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    (tmp_path / name).write_bytes(content)
    assert message in _refused(tmp_path / name)


@pytest.mark.parametrize("head", ["V1,path,note", "path,V1,note", "Path;V1", "path,I,II"])
def test_when_a_table_has_a_column_of_paths_then_it_is_no_table_of_samples(tmp_path: Path, head: str) -> None:
    (tmp_path / "one.csv").write_text(f"{head}\n1,a.hea,b\n")
    assert find_format(tmp_path / "one.csv") is None
    assert guess_kind(tmp_path / "one.csv") == "csv"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-be"])
def test_when_samples_are_in_utf_16_or_after_blank_lines_then_they_are_read(tmp_path: Path, encoding: str) -> None:
    mark = "\ufeff" if encoding == "utf-16-be" else ""
    for line in ("", "\n", "\r\n\n"):
        (tmp_path / "one.csv").write_bytes(f"{mark}{line}I,V1\n0.5,1\n\n-1,2\n".encode(encoding))
        recording = read_record(tmp_path / "one.csv", sampling_rate=500.0, unit="mV")
        np.testing.assert_array_equal(recording.waveform, np.array([[0.5, -1], [1, 2]], dtype=np.float32))
        assert list(recording.lead_names) == ["I", "V1"]


@pytest.mark.parametrize(("kind", "library"), [("GE MUSE XML", "ecgdatakit"), ("DICOM", "pydicom")])
def test_when_the_extra_is_not_installed_then_one_sentence_names_it(
    tmp_path: Path, kind: str, library: str, leads: Leads, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "one.xml", kind, leads)
    assert find_format(path) == kind
    monkeypatch.setitem(sys.modules, library, None)
    for name in [name for name in sys.modules if name.startswith(f"{library}.")]:
        monkeypatch.delitem(sys.modules, name)
    sentence = rf"reading .* needs {library}, which is not installed: pip install 'clear-hug-hf\[formats\]'"
    with pytest.raises(ImportError, match=sentence):
        read_record(path)


def test_when_the_parsers_are_listed_then_ecgdatakit_has_them() -> None:
    from ecgdatakit.parsing.parser import FileParser

    assert {parser.__name__ for parser in FileParser().parsers} >= set(PARSERS.values())
