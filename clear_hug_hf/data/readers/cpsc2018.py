"""CPSC2018 in its original layout: a MATLAB struct per recording, and a reference table."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ...processing.errors import InputError
from ...processing.leads import STANDARD_LEADS
from ..records import Recording, RecordReference
from .base import Excluded, RecordSource, drop_missing, read_table


SAMPLING_RATE = 500.0
TABLE = "REFERENCE.csv"
_LABEL_COLUMNS = ("First_label", "Second_label", "Third_label")
_CLASSES = range(1, 10)


def read_struct(path: Path) -> Recording:
    """
    Read one `.mat` file with a struct `ECG` of `sex`, `age` and `data` (12 leads x samples [mV], 500 Hz).

    Raises:
        FileNotFoundError: If the file does not exist.
        InputError: If it does not contain such a struct.
    """
    from scipy.io import loadmat

    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist: it is listed in {TABLE}")
    try:
        struct = loadmat(str(path))["ECG"][0, 0]
        waveform = np.ascontiguousarray(struct["data"], dtype=np.float32)
        person = _person(struct)
    except Exception as error:  # scipy raises many kinds of errors for damaged files
        raise InputError(f"{path} has no struct ECG with 12-lead data: {error}") from error
    if waveform.ndim != 2 or waveform.shape[0] != len(STANDARD_LEADS):
        raise InputError(f"{path} has data of shape {waveform.shape}: it must be 12 leads x samples")
    return Recording(
        waveform=waveform,
        sampling_rate=SAMPLING_RATE,
        lead_names=list(STANDARD_LEADS),
        unit="mV",
        record_id=path.stem,
        metadata={"path": str(path)} | person,
    )


def _person(struct: Any) -> dict[str, Any]:
    fields = struct.dtype.names
    sex = str(np.squeeze(struct["sex"])).strip().lower() if "sex" in fields else ""
    age = float(np.squeeze(struct["age"])) if "age" in fields and np.size(struct["age"]) == 1 else np.nan
    return drop_missing({"sex": sex if sex in ("male", "female") else None, "age": age if age >= 0 else None})


@dataclass(frozen=True)
class Cpsc2018Reference(RecordReference):
    """A recording in a `.mat` file with a struct."""

    def load(self) -> Recording:
        return read_struct(self.path)


class Cpsc2018Source(RecordSource):
    """
    CPSC2018 in its original layout: `A0001.mat`, ... in one folder or several (`TrainingSet1`, ...), and
    `REFERENCE.csv` with the columns `Recording`, `First_label`, `Second_label` and `Third_label`, numbers 1 to 9.

    Patients are unknown, so random splits treat every recording as a different patient.

    Args:
        path (`str` or `Path`): The folder; the table may be in a subfolder.
        label_set (`str`, *optional*, defaults to `"cpsc9"`): The label set, or `None`.
        keep_unlabeled (`bool`, *optional*, defaults to `False`): As [`RecordSource`].

    Raises:
        FileNotFoundError: If the table is missing.
        InputError: If the table has another format, a label is not 1 to 9, or there are no recordings.
    """

    kind = "cpsc2018"
    title = "CPSC2018"
    citation = (
        "Liu et al., An open access database for evaluating the algorithms of electrocardiogram rhythm and morphology "
        "abnormality detection, J Med Imaging Health Inform 8, 1368-1373 (2018)"
    )

    def __init__(self, path: str | Path, label_set: str | None = "cpsc9", keep_unlabeled: bool = False):
        super().__init__(path, label_set, keep_unlabeled)
        tables = find_tables(self.path)
        if not tables:
            raise FileNotFoundError(f"{self.path / TABLE} does not exist: it is part of CPSC2018")
        files = {file.stem: file for file in sorted(self.path.rglob("*.mat"), key=lambda file: file.as_posix())}
        self._records: list[tuple[Path, tuple[str, ...]]] = []
        listed: list[str] = []
        for table_path in tables:
            table = read_table(table_path, ("Recording", *_LABEL_COLUMNS), "CPSC2018")
            for row in table.to_dict("records"):
                name = str(row["Recording"])
                listed.append(name)
                codes = self._codes(table_path, name, [row[column] for column in _LABEL_COLUMNS])
                if not self.is_excluded(name, codes):
                    # A missing recording raises when it is read.
                    self._records.append((files.get(name, table_path.with_name(f"{name}.mat")), codes))
        for name in sorted(set(files).difference(listed)):
            self.excluded.append(Excluded(name, f"it is not listed in {TABLE}"))
        self.set_record_ids([file.stem for file, _ in self._records])

    @staticmethod
    def _codes(table: Path, name: str, values: list[float]) -> tuple[str, ...]:
        numbers = [value for value in values if value == value]
        if invalid := [value for value in numbers if value not in _CLASSES]:
            raise InputError(f"{table} has the label {str(invalid[0])[:40]} for {name}: labels of CPSC2018 are 1 to 9")
        return tuple(str(int(value)) for value in numbers)

    def reference(self, index: int) -> RecordReference:
        file, codes = self._records[index]
        return Cpsc2018Reference(path=file, record_id=file.stem, labels=self.labels_of(codes))


def find_tables(folder: Path) -> list[Path]:
    """The reference tables in a folder and its direct subfolders, sorted."""
    tables = [*folder.glob("*.csv"), *folder.glob("*/*.csv")]
    return sorted(table for table in tables if table.name.upper() == TABLE.upper())
