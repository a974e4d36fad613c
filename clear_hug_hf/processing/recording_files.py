"""
Reader for recordings in files of any supported format.

The content decides the format, not the extension. WFDB records are read by [`~wfdb_format.read_record`], samples in
CSV and NumPy files here, and the formats of electrocardiographs and archives by `ecgdatakit`. Nothing that a file
contains is dropped silently: a file with two recordings, with samples that do not match their checksum, or without a
unit is refused. Names of patients stay in the file, and of their identifiers a digest is kept.
"""

from __future__ import annotations

import hashlib
import math
import os
import re
import warnings
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from .cardiosoft_format import read_cardiosoft
from .errors import InputError, import_library
from .leads import lead_and_sign
from .signal_report import check_amplitude
from .wfdb_format import existing_header, header_path
from .wfdb_format import read_record as read_wfdb_record


PARSERS = {
    "GE MUSE XML": "GEMuseXMLParser",
    "HL7 aECG": "HL7aECGParser",
    "DICOM": "DICOMWaveformParser",
    "SCP-ECG": "SCPECGParser",
    "Philips SierraECG": "SierraXMLParser",
    "ISHNE": "ISHNEHolterParser",
    "MFER": "MFERParser",
    "EDF": "EDFParser",
    "Mortara ELI XML": "MortaraEL250Parser",
    "AliveCor Kardia": "AliveCorKardiaParser",
}
"""Formats that `ecgdatakit` reads, with its class for each."""

RECORDING_SUFFIXES = (".xml", ".dcm", ".dicom", ".scp", ".mwf", ".edf")
"""Extensions that name a recording in a folder, even if it cannot be read."""
_POSSIBLE_SUFFIXES = ("", ".ecg", ".json", ".mfer", ".txt")  # of recordings and of much else
_ARRAY_SUFFIXES = (".csv", ".npy")
CARDIOSOFT = "GE CardioSoft XML"
ARRAYS = ("CSV", "NumPy")
"""Formats of samples without sampling rate and unit."""

_HEAD_BYTES = 4096
_XML_ROOTS = {
    "RestingECG": "GE MUSE XML",
    "AnnotatedECG": "HL7 aECG",
    "restingecgdata": "Philips SierraECG",
    "ECG": "Mortara ELI XML",
    "CardiologyXML": CARDIOSOFT,
}
_XML_ROOT = re.compile(
    r"\s*(?:<\?.*?\?>\s*|<!--.*?-->\s*|<!DOCTYPE[^>\[]*(?:\[.*?\]\s*)?>\s*)*<(?:[\w.-]+:)?([\w.-]+)", re.S
)
_NUMBER = re.compile(r"[-+]?(?:\d+\.?\d*|\.\d+)(?:e[-+]?\d+)?|nan", re.I)
_DEFLATED = b"1.2.840.10008.1.2.1.99\0"  # DICOM transfer syntax; its size in memory is unknown before inflation

# A typical range [mV] beyond these is no ECG: a QRS complex of 10 mV is extreme, and wander adds to it.
_ACCEPTED_MILLIVOLTS = (0.01, 15.0)

# What the warnings of `ecgdatakit` mean for the recording. All others concern what is not read here.
_REFUSALS = (
    (r"only the first is read|Additional rhythm|additional multiplex|redefine", "it contains several recordings"),
    (r"checksum|CRC", "its samples do not match their checksum"),
    (r"truncated|incomplete|shorter than the frame|no waveform data", "it is truncated"),
    (r"gaps between|expected \d+; frames are concatenated", "it has gaps"),
    (r"no sampling interval", "it states no sampling rate"),
)
_FAULT_16 = -32768
_SEX = {"M": "male", "F": "female"}


def read_recording(
    path: str | os.PathLike[str],
    sampling_rate: float | None = None,
    lead_names: Sequence[str] | None = None,
    unit: str | Sequence[str] | None = None,
) -> dict[str, Any]:
    """
    Read the recording in a file.

    Args:
        path (`str` or `Path`): Path of the file. The path of a WFDB record may have any of its extensions, or none.
        sampling_rate (`float`, *optional*): Sampling rate, if the file does not state it [Hz].
        lead_names (`Sequence[str]`, *optional*): Names of the leads, if the file does not state them.
        unit (`str` or `Sequence[str]`, *optional*): Unit of the samples, if the file does not state it.

    Returns:
        `dict`: `waveform` `(num_leads, num_samples)`, NaN for missing samples; `sampling_rate` [Hz], `lead_names` and
        `unit`, `None` if they are unknown; `record_id`; `metadata` with the `path` and, if the file states them,
        `format`, `recording_date`, `device`, `age`, `sex`, `filters` [Hz], `microvolts_per_step` and
        `other_channels`; and for formats with patients `patient_id`, a digest of the identifier in the file.

    Raises:
        FileNotFoundError: If the file does not exist.
        InputError: If the file is damaged, truncated, in an unsupported format or implausible.
        ImportError: If the library that reads the format is not installed.
    """
    kind = find_format(path)
    if kind is None:
        recording = read_wfdb_record(path)
    elif kind == CARDIOSOFT:
        content = read_cardiosoft(Path(path))
        recording = _describe(Path(path), kind, **content)
    elif kind in PARSERS:
        recording = _read_with_ecgdatakit(Path(path), kind)
    else:
        samples, names = _read_array(Path(path)) if kind == "NumPy" else _read_text(Path(path))
        recording = {
            "waveform": samples,
            "sampling_rate": None,
            "lead_names": names,
            "unit": None,
            "record_id": Path(path).name,
            "metadata": {"path": str(path), "format": kind},
        }
    stated = {"sampling_rate": sampling_rate, "lead_names": lead_names, "unit": unit}
    return recording | {name: value for name, value in stated.items() if recording[name] is None}


def find_format(path: str | os.PathLike[str]) -> str | None:
    """
    Find the format of a file from its content.

    Returns:
        `str`: A key of [`PARSERS`], [`CARDIOSOFT`], or one of [`ARRAYS`]; `None` for WFDB records and everything else.
    """
    header = _read_head(header_path(path))
    kind = _recognize((_read_head(path) or b"") if header is None else header)
    return None if kind == "CSV" and header is not None else kind


def existing_recording(path: Path) -> Path:
    """Path of the file of a recording, or of the header of a WFDB record; see [`read_recording`] for errors."""
    return existing_header(path) if find_format(path) is None else path


def is_recording_file(path: Path, arrays: bool = False) -> bool:
    """
    Whether a file in a folder is a recording in another format than WFDB, or is named like one.

    Args:
        path (`Path`): The file.
        arrays (`bool`, *optional*, defaults to `False`): Whether files of samples without a sampling rate count.
    """
    suffix = path.suffix.lower()
    if suffix in RECORDING_SUFFIXES:
        return True
    if suffix in _POSSIBLE_SUFFIXES or suffix[1:].isdigit():  # files of DICOM are often named by a UID
        return find_format(path) not in (None, *ARRAYS)
    return arrays and suffix in _ARRAY_SUFFIXES and find_format(path) in ARRAYS


def _read_head(path: str | os.PathLike[str]) -> bytes | None:
    """First bytes of a file, `None` if there is no such file."""
    try:
        with open(path, "rb") as file:
            return file.read(_HEAD_BYTES)
    except (OSError, ValueError):  # for example an invalid name; the reader of the format explains it
        return None


def _recognize(head: bytes) -> str | None:
    """The format of a file from its first bytes."""
    if head[128:132] == b"DICM":
        return "DICOM"
    if head.startswith(b"ISHNE1.0"):
        return "ISHNE"
    if head.startswith(b"0       ") and len(head) >= 256:
        return "EDF"
    if head.startswith(b"\x93NUMPY"):
        return "NumPy"
    if head[:1] == b"\x40" and head[2:6] == b"MFR ":
        return "MFER"
    # The first pointer of section 0 refers to itself, at byte 7.
    if len(head) >= 32 and head[8:10] == b"\0\0" and head[22:24] == b"\0\0" and head[28:32] == b"\7\0\0\0":
        return "SCP-ECG"
    text = _decode(head).lstrip()
    if text.startswith("{"):
        return "AliveCor Kardia" if '"recordedAt"' in text else None
    if text.startswith("<"):
        root = _XML_ROOT.match(text)
        return None if root is None else _XML_ROOTS.get(root[1])
    fields = _split(text.partition("\n")[0])
    if len(fields) > 1 and "\0" not in text and (_names_leads(fields) or all(map(_NUMBER.fullmatch, fields))):
        return "CSV"
    return None


def _split(line: str) -> list[str]:
    return [field.strip().strip('"') for field in re.split("[,;\t]", line.strip())]


def _decode(content: bytes) -> str:
    """Text in UTF-8, or in UTF-16 with its mark."""
    encoding = "utf-16" if content[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
    return content.decode(encoding, errors="replace")


def _names_leads(columns: Sequence[str]) -> bool:
    """Whether the first line of a table names leads, in any place; with a column of paths it lists recordings."""
    return "path" not in map(str.casefold, columns) and any(map(_standard_lead, columns))


def _standard_lead(name: str) -> str | None:
    with suppress(InputError):
        return lead_and_sign(name)[0]
    return None


def _read_text(path: Path) -> tuple[np.ndarray, list[str] | None]:
    """Samples of a table with a column per lead, and the names in its first line."""
    lines = [line for line in _decode(path.read_bytes()).splitlines() if line.strip()]
    fields = _split(lines[0])
    names = fields if _names_leads(fields) else None
    for name in names or ():
        try:
            lead_and_sign(name)
        except InputError as error:
            raise InputError(f"{path} has a column that is no lead: {error}") from None
    rows = [_split(line) for line in lines[1 if names else 0 :]]
    if wrong := [number for number, row in enumerate(rows) if len(row) != len(fields)]:
        raise InputError(f"{path} has {len(rows[wrong[0]])} samples in row {wrong[0] + 1}, not {len(fields)}")
    try:
        samples = np.array([[float(field or "nan") for field in row] for row in rows], dtype=np.float32)
    except ValueError:
        raise InputError(f"{path} contains a sample that is not a number: use a point for decimals") from None
    if not samples.size:
        raise InputError(f"{path} contains no samples")
    return np.ascontiguousarray(samples.T), names


def _read_array(path: Path) -> tuple[np.ndarray, None]:
    try:
        with path.open("rb") as file:
            read_header = (
                np.lib.format.read_array_header_1_0
                if np.lib.format.read_magic(file) == (1, 0)
                else np.lib.format.read_array_header_2_0
            )
            shape, _, dtype = read_header(file)
            # A damaged header may declare more than the memory holds.
            if dtype.kind not in "iuf" or math.prod(shape) * dtype.itemsize > path.stat().st_size - file.tell():
                raise ValueError
        samples = np.load(path, allow_pickle=False)
    except Exception as error:  # of the parser of the header
        raise InputError(f"{path} cannot be read as a NumPy array of numbers: it is damaged or truncated") from error
    if samples.ndim != 2:
        raise InputError(f"{path} must contain an array of shape (leads, samples), got {samples.shape}")
    return samples, None


def _read_with_ecgdatakit(path: Path, kind: str) -> dict[str, Any]:
    if kind == "DICOM":
        import_library("pydicom", f"reading {path}")
        if _DEFLATED in (_read_head(path) or b""):
            raise InputError(f"{path} is a deflated DICOM file: save it without compression")
    parser = import_library("ecgdatakit.parsing.parser", f"reading {path}").FileParser
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            record = parser.parse(path, units="mV")
        except Exception as error:
            # Errors with a cause repeat what the file contains, which may be a name.
            reason = "it is damaged or truncated" if error.__cause__ or not str(error) else str(error)
            reason = reason.replace(f" in {path}", "").replace(f"{path}: ", "").rstrip(".")
            raise InputError(f"{path} cannot be read as {kind}: {reason}") from None
    if record.file_format.parser != PARSERS[kind]:
        raise InputError(f"{path} cannot be read as {kind}: it is damaged or of another version")
    messages = [f"{warning.category.__name__} {warning.message}" for warning in caught]
    for pattern, reason in _REFUSALS:
        if any(re.search(pattern, message) for message in messages):
            raise InputError(f"{path} cannot be read as {kind}: {reason}")
    return _convert(record, path, kind)


def _convert(record: Any, path: Path, kind: str) -> dict[str, Any]:
    """Waveform and metadata of an `ecgdatakit.ECGRecord`."""
    leads, others = [], []
    for lead in record.leads:
        if lead.units == "mV" and not lead.is_raw:
            leads.append(lead)
        elif lead.units and not lead.is_raw:
            others.append(lead.label)
        else:
            raise InputError(f"{path} states no unit for lead {lead.label}: its samples cannot be converted to mV")
    if not leads:
        raise InputError(f"{path} contains no leads in a unit of voltage")
    sizes, rates = ({len(lead.samples) for lead in leads}, {_exact_rate(record, lead) for lead in leads})
    if len(sizes) > 1 or len(rates) > 1:
        what = "lengths" if len(sizes) > 1 else "sampling rates"
        raise InputError(f"{path} has leads of different {what}: export it with one")
    (rate,) = rates
    waveform = np.stack([lead.samples for lead in leads]).astype(np.float32)
    if kind == "ISHNE":
        # The lowest sample marks a fault of the lead.
        lowest = np.array([_FAULT_16 * lead.resolution / 1000 for lead in leads], dtype=np.float32)
        waveform[np.isclose(waveform, lowest[:, None])] = np.nan
    if kind == "Philips SierraECG":
        waveform = _without_calibration(waveform)
    patient, recording = record.patient, record.recording
    steps = {float(lead.resolution) for lead in leads if lead.resolution_unit == "uV"}
    filters = {name: getattr(recording.acquisition.filters, name) for name in ("highpass", "lowpass", "notch")}
    names = [lead.label for lead in leads]
    return _describe(
        path,
        kind,
        waveform=waveform,
        sampling_rate=rate,
        # A repeated name has a suffix.
        lead_names=[re.sub(r"_\d+$", "", name) if re.sub(r"_\d+$", "", name) in names else name for name in names],
        identifier=patient.patient_id,
        stated={
            "recording_date": None if recording.date is None else recording.date.isoformat(),
            "device": recording.device.model or None,
            "age": patient.age,
            "sex": _SEX.get(patient.sex),
            "filters": {name: value for name, value in filters.items() if value} or None,
            "microvolts_per_step": steps.pop() if len(steps) == 1 else None,
            "other_channels": others or None,
        },
    )


def _describe(
    path: Path,
    kind: str,
    waveform: np.ndarray,
    sampling_rate: float,
    lead_names: list[str],
    identifier: str,
    stated: dict[str, Any],
) -> dict[str, Any]:
    """The recording of [`read_recording`] from leads in mV, if they can be an ECG."""
    if not waveform.size or not sampling_rate > 0:
        raise InputError(f"{path} contains no {'sampling rate' if waveform.size else 'samples'}")
    try:
        check_amplitude(waveform, sampling_rate, ["mV"], _ACCEPTED_MILLIVOLTS)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    return {
        "waveform": waveform,
        "sampling_rate": sampling_rate,
        "lead_names": lead_names,
        "unit": "mV",
        "record_id": path.name,
        "patient_id": digest_patient(identifier),
        "metadata": {
            "path": str(path),
            "format": kind,
            **{key: value for key, value in stated.items() if value is not None},
        },
    }


def _without_calibration(waveform: np.ndarray) -> np.ndarray:
    """The leads without the pulse of 1 mV at their end, in which all of them are equal."""
    differs = np.flatnonzero((waveform != waveform[:1]).any(axis=0))
    return waveform[:, : differs[-1] + 1] if differs.size else waveform


def _exact_rate(record: Any, lead: Any) -> float:
    """Sampling rate of a lead [Hz], which `ecgdatakit` rounds."""
    metadata = record.raw_metadata
    rates = [metadata.get("exact_sampling_rates", {}).get(lead.label)]
    rates += [metadata.get("rhythm_time", {}).get("sampling_rate_exact")]
    rates += [group["sampling_frequency"] for group in metadata.get("multiplex_groups", [])]
    exact = next((rate for rate in rates if rate and round(rate) == lead.sampling_rate), lead.sampling_rate)
    # An interval of 3.3333 ms stands for 300 Hz.
    return float(lead.sampling_rate if abs(exact - lead.sampling_rate) < 1e-4 * exact else exact)


def digest_patient(identifier: str) -> str | None:
    """A digest of the identifier of a patient, the same for all their recordings; `None` without an identifier."""
    return hashlib.sha256(identifier.strip().encode()).hexdigest()[:16] if identifier.strip() else None
