"""CODE-15%: exams in HDF5 shards, with a table of patients and six abnormalities."""

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
    # HDF5 handles must not be shared with forked processes, so that each process has its own.
    return _import_h5py().File(path, "r")


def read_exam(path: Path, row: int, millivolts_per_unit: float | None = None) -> Recording:
    """
    Read one exam from a shard, without the zeros that fill it up to 4096 samples on both sides.

    Args:
        path (`Path`): The shard.
        row (`int`): Row of `tracings`, an array of shape `(num_exams, 4096, 12)`.
        millivolts_per_unit (`float`, *optional*): Size of one stored unit [mV]. Without it the recording's unit is
            `"NU"`.

    Raises:
        InputError: If the shard cannot be read, or the exam is nothing but zeros.
    """
    try:
        shard = _open_shard(path, os.getpid())
        tracing = np.asarray(shard["tracings"][row], dtype=np.float32)
        exam = str(int(shard["exam_id"][row]))
    except ImportError:
        raise
    except Exception as error:  # h5py raises many kinds for files that are damaged
        raise InputError(f"{path} cannot be read at row {row}: {error}") from error
    if tracing.ndim != 2 or tracing.shape[1] != len(LEAD_NAMES):
        raise InputError(f"{path} has tracings of shape {tracing.shape}: they must be samples x 12 leads")
    recorded = np.flatnonzero((tracing != 0).any(axis=1))
    if not recorded.size:
        raise InputError(f"exam {exam} in {path} is nothing but zeros: there is no signal to read")
    waveform = np.ascontiguousarray(tracing[recorded[0] : recorded[-1] + 1].T)
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

    Exams come shard by shard in the order of the rows. Exams of the table whose shard is not there are in `excluded`.

    Args:
        path (`str` or `Path`): The folder.
        label_set (`str`, *optional*, defaults to `"code15"`): The label set, or `None`.
        keep_unlabeled (`bool`, *optional*, defaults to `False`): Without effect: the label set leaves nothing out.
        millivolts_per_unit (`float`, *optional*): Size of one stored unit [mV]. The set's description gives a scale of
            1e-4 V together with a factor of 1000 to volts, which contradict each other (0.1 or 1 mV), so that
            nothing is assumed: without a number the recordings' unit is `"NU"`. Models that normalise beats do not
            depend on it.

    Raises:
        ImportError: If h5py is not installed.
        FileNotFoundError: If the table is not there.
        InputError: If there are no shards, or a table or shard is another one.
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
        places = {exam: row for row, exam in enumerate(exams) if exam is not None}
        absent = dict(places)
        # One row per exam: shard, row in the shard, row in the table.
        self._exams: list[tuple[int, int, int]] = []
        for number, shard in enumerate(self._shards):
            for row, exam in enumerate(_exam_ids(shard)):
                # Shards end with a row of zeros that is no exam.
                if exam in places:
                    self._exams.append((number, row, places[exam]))
                    absent.pop(exam, None)
                elif exam:
                    self.excluded.append(Excluded(str(exam), f"{TABLE} does not list it"))
        files = self._table["trace_file"]
        for exam, row in absent.items():
            self.excluded.append(Excluded(str(exam), f"it is in none of the shards here, but in {files[row]}"))
        self.set_record_ids([str(self._value("exam_id", row)) for _, _, row in self._exams])

    def _value(self, column: str, row: int) -> Any:
        value = self._table[column][row]
        return value.item() if isinstance(value, np.generic) else value

    def reference(self, index: int) -> RecordReference:
        shard, row, place = self._exams[index]
        names = () if self.label_set is None else self.label_set.names
        male = self._value("is_male", place) if "is_male" in self._table else None
        return Code15Reference(
            path=self._shards[shard],
            record_id=str(self._value("exam_id", place)),
            patient_id=str(self._value("patient_id", place)),
            labels=self.labels_of(name for name in names if _is_true(self._value(name, place))),
            metadata=drop_missing(
                {
                    "age": self._value("age", place) if "age" in self._table else None,
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
    except Exception as error:  # h5py raises many kinds for files that are damaged
        raise InputError(f"{shard} is not a shard of CODE-15%: {error}") from error


def _is_true(value: object) -> bool:
    return str(value).strip().lower() in ("true", "1", "1.0")
