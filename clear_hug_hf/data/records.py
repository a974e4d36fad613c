"""Recordings in memory and references to recordings on disk."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..processing.errors import InputError
from ..processing.recording_files import ARRAYS, existing_recording, find_format, is_recording_file, read_recording


@dataclass
class Recording:
    """
    A recording with its metadata and labels.

    Args:
        waveform (`np.ndarray` of shape `(num_leads, num_samples)`): Samples, float32 [`unit`].
        sampling_rate (`float`): Sampling rate [Hz].
        lead_names (`Sequence[str]`): Name of each row, as its source spells it.
        unit (`str` or `Sequence[str]`): `"mV"`, `"uV"`, `"V"` or `"NU"`, for all rows or for each.
        record_id (`str`): Id of the recording in its source.
        patient_id (`str`, *optional*): Id of the patient. All recordings of a patient are in the same split.
        labels (`Mapping[str, float]`, *optional*): Value of each label: 1 or 0 for classes, any number for regression,
            NaN if unknown; `None` for an unlabeled recording.
        split (`str`, *optional*): `"train"`, `"validation"` or `"test"` if the source has official splits.
        metadata (`dict`, *optional*): Other information from the source.
    """

    waveform: np.ndarray
    sampling_rate: float
    lead_names: Sequence[str]
    unit: str | Sequence[str]
    record_id: str
    patient_id: str | None = None
    labels: Mapping[str, float] | None = None
    split: str | None = None
    metadata: dict[str, Any] = field(default_factory=dict)

    def as_inputs(self) -> dict[str, Any]:
        """The recording as keyword arguments of a feature extractor: `fx(**recording.as_inputs())`."""
        return {
            "waveforms": self.waveform,
            "sampling_rate": self.sampling_rate,
            "lead_names": list(self.lead_names),
            "unit": self.unit if isinstance(self.unit, str) else list(self.unit),
        }

    def read(self) -> Recording:
        """The recording itself, so that recordings and [`RecordReference`]s can be mixed."""
        return self


@dataclass(frozen=True)
class RecordReference:
    """
    A recording on disk, with metadata and labels from the tables of its source; see [`Recording`] for the fields. It
    can be pickled.

    Args:
        path (`Path`): Path of the record, as in [`read_record`].
        description (`dict`, *optional*): Sampling rate, lead names and unit of a file that does not state them, as in
            [`read_record`].
    """

    path: Path
    record_id: str
    patient_id: str | None = None
    labels: Mapping[str, float] | None = None
    split: str | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)
    description: Mapping[str, Any] = field(default_factory=dict)

    def load(self) -> Recording:
        """Read the file, ignoring the tables of the source; sources with files of many recordings override this."""
        return read_record(self.path, **self.description)

    def read(self) -> Recording:
        """
        Read the recording; tables of the source take precedence over its file.

        Raises:
            FileNotFoundError, InputError: As [`read_record`].
        """
        recording = self.load()
        return replace(
            recording,
            record_id=self.record_id,
            patient_id=recording.patient_id if self.patient_id is None else self.patient_id,
            labels=self.labels,
            split=self.split,
            metadata={**recording.metadata, **self.metadata},
        )


class Rejected(NamedTuple):
    """A recording that could not be prepared, and why."""

    record_id: str
    reason: str


def read_record(
    path: str | Path,
    sampling_rate: float | None = None,
    lead_names: Sequence[str] | None = None,
    unit: str | Sequence[str] | None = None,
) -> Recording:
    """
    Read the recording in a file: a WFDB record, or one of the formats in the table of "File formats" in the guide
    to predictions. The content decides the format, not the extension.

    Args:
        path (`str` or `Path`): Path of the file. The path of a WFDB record may have any of its extensions, or none.
        sampling_rate (`float`, *optional*): Sampling rate, if the file does not state it [Hz].
        lead_names (`Sequence[str]`, *optional*): Names of the leads, if the file does not state them.
        unit (`str` or `Sequence[str]`, *optional*): Unit of the samples, if the file does not state it.

    Raises:
        FileNotFoundError, InputError, ImportError: As [`~processing.recording_files.read_recording`].
        InputError: If neither the file nor the arguments state the sampling rate, the lead names or the unit.
    """
    recording = read_recording(path, sampling_rate, lead_names, unit)
    if missing := [name for name in ("sampling_rate", "lead_names", "unit") if recording[name] is None]:
        raise InputError(
            f"{path} does not state its {' and '.join(missing)}: pass {'it' if len(missing) == 1 else 'them'}"
        )
    return Recording(**recording)


def read_patient(path: Path) -> str | None:
    """
    The patient whom the file of a recording states, as a digest: splits need patients before recordings are read.

    `None` for WFDB records and samples, which state none, and for files that cannot be read: what reads the recording
    reports the error.
    """
    with suppress(Exception):
        return read_recording(path).get("patient_id") if find_format(path) not in (None, *ARRAYS) else None
    return None


def find_records(path: str | Path, arrays: bool = False) -> list[Path]:
    """
    Find the recordings at a path.

    Args:
        path (`str` or `Path`): A recording, or a folder to search recursively.
        arrays (`bool`, *optional*, defaults to `False`): Whether CSV and NumPy files of samples in a folder count.

    Returns:
        `list[Path]`: Sorted headers of WFDB records and files in other formats, see [`read_record`].

    Raises:
        FileNotFoundError: If there is neither a record nor a folder at the path.
        InputError: If the folder contains no records.
    """
    # Unlike `Path`, `os.path` does not raise for names that no file can have.
    if not os.path.isdir(path):
        return [existing_recording(Path(path))]
    if not (files := sorted(walk_records(Path(path), arrays))):
        raise InputError(
            f"{path} contains no recordings: neither it nor its subfolders have a WFDB header (.hea) or a file in "
            "another supported format"
        )
    return files


def walk_records(folder: Path, arrays: bool = False) -> Iterator[Path]:
    """The files that [`find_records`] finds in a folder, in any order."""
    for parent, _, names in os.walk(folder):
        for name in names:
            path = Path(parent, name)
            if name.endswith(".hea") or is_recording_file(path, arrays):
                yield path


def record_name(path: Path) -> str:
    """Name of a recording: its path, for WFDB records without extension."""
    return str(path.with_suffix("") if path.suffix == ".hea" else path)


def describe_error(error: Exception) -> str:
    """One sentence for an error: its own where it is meant for users, else with its kind."""
    if isinstance(error, InputError | FileNotFoundError | ImportError):
        return str(error)
    return f"{type(error).__name__}: {error}".rstrip(": ")
