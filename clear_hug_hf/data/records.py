"""Recordings in memory and references to recordings on disk."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..processing import wfdb_format
from ..processing.errors import InputError
from ..processing.wfdb_format import existing_header


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
    """

    path: Path
    record_id: str
    patient_id: str | None = None
    labels: Mapping[str, float] | None = None
    split: str | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)

    def load(self) -> Recording:
        """Read the file, ignoring the tables of the source; sources in other formats than WFDB override this."""
        return read_record(self.path)

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
            patient_id=self.patient_id,
            labels=self.labels,
            split=self.split,
            metadata={**recording.metadata, **self.metadata},
        )


class Rejected(NamedTuple):
    """A recording that could not be prepared, and why."""

    record_id: str
    reason: str


def read_record(path: str | Path) -> Recording:
    """Read the WFDB record at a path; arguments and errors as in [`~processing.wfdb_format.read_record`]."""
    return Recording(**wfdb_format.read_record(path))


def find_records(path: str | Path) -> list[Path]:
    """
    Find the WFDB records at a path.

    Args:
        path (`str` or `Path`): A record, or a folder to search recursively.

    Returns:
        `list[Path]`: Sorted header files.

    Raises:
        FileNotFoundError: If there is neither a record nor a folder at the path.
        InputError: If the folder contains no records.
    """
    # Unlike `Path`, `os.path` does not raise for names that no file can have.
    folder = Path(path)
    if os.path.isdir(folder):
        headers = sorted(folder.rglob("*.hea"))
        if not headers:
            raise InputError(f"{path} contains no WFDB records: neither it nor its subfolders have a .hea file")
        return headers
    return [existing_header(folder)]


def describe_error(error: Exception) -> str:
    """One sentence for an error: its own where it is meant for users, else with its kind."""
    if isinstance(error, InputError | FileNotFoundError | ImportError):
        return str(error)
    return f"{type(error).__name__}: {error}".rstrip(": ")
