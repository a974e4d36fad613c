"""CODE-15%: exams in HDF5 shards, and a table with patients and six abnormalities."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from ...processing.errors import InputError, import_library
from ..records import Recording, RecordReference
from .base import Excluded, RecordSource, drop_missing, natural_key, parse_integers, read_table


SAMPLING_RATE = 400.0
LEAD_NAMES = ("DI", "DII", "DIII", "AVR", "AVL", "AVF", "V1", "V2", "V3", "V4", "V5", "V6")
TABLE, SHARDS = "exams.csv", "exams_part*.hdf5"
_COLUMNS = ("exam_id", "patient_id", "trace_file", "1dAVb", "RBBB", "LBBB", "SB", "ST", "AF")


def _import_h5py() -> Any:
    return import_library("h5py", "reading CODE-15%")


@lru_cache(maxsize=4)
def _open_shard(path: Path, process: int) -> Any:
    # Each process opens its own handle: HDF5 handles must not be shared with forked processes.
    return _import_h5py().File(path, "r")


def read_exam(path: Path, row: int, millivolts_per_unit: float | None = None) -> Recording:
    """
    Read one exam from a shard, without the zero padding on both sides to 4096 samples.

    Args:
        path (`Path`): The shard.
        row (`int`): Row of `tracings`, an array of shape `(num_exams, 4096, 12)`.
        millivolts_per_unit (`float`, *optional*): Size of one stored unit [mV]. Without it the unit of the recording
            is `"NU"`.

    Raises:
        InputError: If the shard cannot be read, or all samples are zero.
    """
    try:
        shard = _open_shard(path, os.getpid())
        tracing = np.asarray(shard["tracings"][row], dtype=np.float32)
        exam = str(int(shard["exam_id"][row]))
    except ImportError:
        raise
    except Exception as error:  # h5py raises many kinds of errors for damaged files
        raise InputError(f"row {row} of {path} cannot be read: {error}") from error
    if tracing.ndim != 2 or tracing.shape[1] != len(LEAD_NAMES):
        raise InputError(f"{path} has tracings of shape {tracing.shape}: they must be samples x 12 leads")
    nonzero = np.flatnonzero((tracing != 0).any(axis=1))
    if not nonzero.size:
        raise InputError(f"all samples of exam {exam} in {path} are zero: it has no signal")
    waveform = np.ascontiguousarray(tracing[nonzero[0] : nonzero[-1] + 1].T)
    return Recording(
        waveform=waveform if millivolts_per_unit is None else waveform * np.float32(millivolts_per_unit),
        sampling_rate=SAMPLING_RATE,
        lead_names=list(LEAD_NAMES),
        unit="NU" if millivolts_per_unit is None else "mV",
        record_id=exam,
        metadata={"path": str(path), "row": row},
    )


@dataclass(frozen=True)
class Code15Reference(RecordReference):
    """An exam in a shard."""

    row: int = 0
    millivolts_per_unit: float | None = None

    def load(self) -> Recording:
        return read_exam(self.path, self.row, self.millivolts_per_unit)


class Code15Source(RecordSource):
    """
    CODE-15%: `exams.csv` beside `exams_part0.hdf5`, `exams_part1.hdf5`, ... (all or some of them).

    Exams are ordered by shard and row. Exams in the table whose shard is missing are in `excluded`.

    Args:
        path (`str` or `Path`): The folder.
        label_set (`str`, *optional*, defaults to `"code15"`): The label set, or `None`.
        keep_unlabeled (`bool`, *optional*, defaults to `False`): Without effect: the label set excludes nothing.
        millivolts_per_unit (`float`, *optional*): Size of one stored unit [mV]. The description of the dataset
            contradicts itself (a scale of 1e-4 V, and a factor of 1000 to volts: 0.1 or 1 mV), so there is no default:
            without a number the unit of the recordings is `"NU"`. Models that normalize beats do not depend on it.

    Raises:
        ImportError: If h5py is not installed.
        FileNotFoundError: If the table is missing.
        InputError: If there are no shards, or a table or shard has another format.
    """

    kind = "code15"
    title = "CODE-15%"
    license = "CC BY 4.0"
    citation = "Ribeiro et al., CODE-15%: a large scale annotated dataset of 12-lead ECGs, Zenodo 4916206 (2021)"

    def __init__(
        self,
        path: str | Path,
        label_set: str | None = "code15",
        keep_unlabeled: bool = False,
        millivolts_per_unit: float | None = None,
    ):
        if millivolts_per_unit is not None and not millivolts_per_unit > 0:
            raise InputError(f"millivolts_per_unit is {millivolts_per_unit}: it must be a positive number [mV]")
        super().__init__(path, label_set, keep_unlabeled, millivolts_per_unit=millivolts_per_unit)
        self._millivolts_per_unit = millivolts_per_unit
        table = read_table(self.path / TABLE, _COLUMNS, "CODE-15%")
        self._table = {name: table[name].to_numpy() for name in table.columns if name in (*_COLUMNS, "age", "is_male")}
        self._shards = sorted(self.path.glob(SHARDS), key=lambda file: natural_key(file.name))
        if not self._shards:
            raise InputError(f"{self.path} has no {SHARDS}: unpack the shards beside {TABLE}")
        exams = parse_integers(self.path / TABLE, "exam_id", self._table["exam_id"])
        self.set_record_ids([str(exam) for exam in exams])
        table_rows = {exam: row for row, exam in enumerate(exams) if exam is not None}
        missing = dict(table_rows)
        # One entry per exam: shard, row in the shard, row in the table.
        self._exams: list[tuple[int, int, int]] = []
        for number, shard in enumerate(self._shards):
            for row, exam in enumerate(_exam_ids(shard)):
                # Shards end with a row of zeros that is not an exam.
                if exam in table_rows:
                    self._exams.append((number, row, table_rows[exam]))
                    missing.pop(exam, None)
                elif exam:
                    self.excluded.append(Excluded(str(exam), f"it is not listed in {TABLE}"))
        files = self._table["trace_file"]
        for exam, row in missing.items():
            self.excluded.append(Excluded(str(exam), f"its shard {files[row]} is missing"))
        self.set_record_ids([str(self._value("exam_id", row)) for _, _, row in self._exams])

    def _value(self, column: str, row: int) -> Any:
        value = self._table[column][row]
        return value.item() if isinstance(value, np.generic) else value

    def reference(self, index: int) -> RecordReference:
        shard, row, table_row = self._exams[index]
        names = () if self.label_set is None else self.label_set.names
        male = self._value("is_male", table_row) if "is_male" in self._table else None
        return Code15Reference(
            path=self._shards[shard],
            record_id=str(self._value("exam_id", table_row)),
            patient_id=str(self._value("patient_id", table_row)),
            labels=self.labels_of(name for name in names if _is_true(self._value(name, table_row))),
            metadata=drop_missing(
                {
                    "age": self._value("age", table_row) if "age" in self._table else None,
                    "sex": None if male is None else "male" if _is_true(male) else "female",
                }
            ),
            row=row,
            millivolts_per_unit=self._millivolts_per_unit,
        )


def _exam_ids(shard: Path) -> list[int]:
    h5py = _import_h5py()
    try:
        with h5py.File(shard, "r") as file:
            return [int(exam) for exam in file["exam_id"][:]]
    except Exception as error:  # h5py raises many kinds of errors for damaged files
        raise InputError(f"{shard} is not a shard of CODE-15%: {error}") from error


def _is_true(value: object) -> bool:
    return str(value).strip().lower() in ("true", "1", "1.0")
