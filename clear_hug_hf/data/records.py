"""Recordings, and where they are on disk."""

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
    One recording with what is known about it.

    Args:
        waveform (`np.ndarray` of shape `(num_leads, num_samples)`): The samples, float32 [`unit`].
        sampling_rate (`float`): Rate of the samples [Hz].
        lead_names (`Sequence[str]`): Name of each row, as the source spells it.
        unit (`str` or `Sequence[str]`): `"mV"`, `"uV"`, `"V"` or `"NU"`, for all rows or for each.
        record_id (`str`): Name of the recording in its source.
        patient_id (`str`, *optional*): Whose recording it is; recordings of one patient stay on one side of a split.
        labels (`Mapping[str, float]`, *optional*): Value of each label: 1 or 0 for classes, any number for a
            regression, NaN where unknown; `None` where nobody labelled the recording.
        split (`str`, *optional*): `"train"`, `"validation"` or `"test"` where the source has official splits.
        metadata (`dict`, *optional*): Anything else that the source says.
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
    A recording that is still on disk, with what its source's tables say about it; the fields are those of
    [`Recording`]. It can be pickled.

    Args:
        path (`Path`): The record, as [`read_record`] takes it.
    """

    path: Path
    record_id: str
    patient_id: str | None = None
    labels: Mapping[str, float] | None = None
    split: str | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)

    def load(self) -> Recording:
        """The recording as its file alone tells it; sources in another format than WFDB override this."""
        return read_record(self.path)

    def read(self) -> Recording:
        """
        Read the samples; what the source's tables say goes before what the file says.

        Raises:
            FileNotFoundError, InputError: As [`read_record`] does.
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
    """The WFDB record at a path, as [`~processing.wfdb_format.read_record`] reads it, with its errors."""
    return Recording(**wfdb_format.read_record(path))


def find_records(path: str | Path) -> list[Path]:
    """
    The WFDB records at a path.

    Args:
        path (`str` or `Path`): One record, or a folder that is searched with all its subfolders.

    Returns:
        `list[Path]`: Header files, sorted.

    Raises:
        FileNotFoundError: If there is neither a record nor a folder at the path.
        InputError: If the folder holds no records.
    """
    # `os.path` takes names that no file can have for absent ones, `Path` has errors for them.
    folder = Path(path)
    if os.path.isdir(folder):
        headers = sorted(folder.rglob("*.hea"))
        if not headers:
            raise InputError(f"{path} holds no WFDB records: there is no .hea file in it or below")
        return headers
    return [existing_header(folder)]


def describe_error(error: Exception) -> str:
    """One sentence for an error: its own where it is meant for users, else with its kind."""
    if isinstance(error, InputError | FileNotFoundError | ImportError):
        return str(error)
    return f"{type(error).__name__}: {error}".rstrip(": ")
