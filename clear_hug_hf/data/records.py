"""Recordings, and how they are read from WFDB files."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from ..processing.errors import InputError
from .wfdb_format import read_header, read_samples


# What a record may be called by, beside its bare name: its header, its signals, its annotations' usual neighbours.
_RECORD_SUFFIXES = (".hea", ".dat", ".mat")


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


def header_path(path: str | Path) -> Path:
    """The header file of a record that is named by its header, by a signal file, or without an extension."""
    path = Path(path)
    if path.suffix.lower() in _RECORD_SUFFIXES:
        return path.with_suffix(".hea")
    return Path(f"{path}.hea")


def read_record(path: str | Path) -> Recording:
    """
    Read a WFDB record: a header with `.dat` or `.mat` files beside it, in any format.

    Args:
        path (`str` or `Path`): The record with or without an extension (`.hea`, `.dat` or `.mat`).

    Returns:
        [`Recording`]: All leads of the record in the units of its header; samples marked as missing are NaN. The unit
        is one string where all leads share it. `metadata["comments"]` holds the comment lines of the header.

    Raises:
        FileNotFoundError: If there is no header file.
        InputError: If the header or a signal file is damaged, missing or truncated, or no rate is stated.
    """
    if os.path.isdir(path):
        raise InputError(f"{path} is a folder: name one record, or list the records in it with `find_records`")
    header = read_header(_existing_header(Path(path)))
    waveform = read_samples(header)
    units = [signal.unit for signal in header.signals]
    return Recording(
        waveform=waveform,
        sampling_rate=header.sampling_rate,
        lead_names=[signal.name for signal in header.signals],
        unit=units[0] if len(set(units)) == 1 else units,
        record_id=header.path.stem,
        metadata={"path": str(header.path), "comments": header.comments},
    )


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
    return [_existing_header(folder)]


def _existing_header(path: Path) -> Path:
    header = header_path(path)
    if os.path.isfile(header):
        return header
    if os.path.isfile(path) and path.suffix.lower() not in _RECORD_SUFFIXES:
        raise InputError(
            f"{path} is not in a format that can be read: records are WFDB (a .hea header with a .dat or .mat file "
            "beside it); convert it first"
        )
    raise FileNotFoundError(f"{header} does not exist: check the path of the record")
