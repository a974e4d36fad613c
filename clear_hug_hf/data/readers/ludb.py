"""LUDB: two hundred recordings whose waves cardiologists marked, with a table of what they saw."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ...processing.errors import InputError
from ...processing.wfdb_format import header_path, read_header
from ..records import RecordReference
from .base import RecordSource, drop_missing, natural_key, read_table


TABLE = "ludb.csv"

# Classes of samples: the places in `evaluation.segmentation.WAVES`, and what losses and scores there leave out.
_CLASSES = {"p": 1, "N": 2, "t": 3}
_UNKNOWN = -100
# Onset, peak, offset. Where the onset is the peak's own sample it is missing or follows the peak: some QRS complexes.
_WAVE = re.compile(r"\(([pNt])\)|([pNt])\(?\)")


class LudbSource(RecordSource):
    """
    LUDB: `ludb.csv` beside `data/1.hea`, `data/2.hea`, ...; the table's texts come as `metadata`.

    Every recording is another patient's. There is no label set.

    Args:
        path (`str` or `Path`): The folder with the table.
        label_set, keep_unlabeled (*optional*): As [`RecordSource`]; this source has no label set.

    Raises:
        FileNotFoundError: If the table is not there.
        InputError: If the table is another one, or there are no records in `data`.
    """

    kind = "ludb"
    title = "LUDB"
    license = "ODC-By 1.0"
    citation = (
        "Kalyakulina et al., LUDB: a new open-access validation tool for electrocardiogram delineation algorithms, "
        "IEEE Access 8, 186181-186190 (2020)"
    )

    def __init__(self, path: str | Path, label_set: str | None = None, keep_unlabeled: bool = False):
        super().__init__(path, label_set, keep_unlabeled)
        table = read_table(self.path / TABLE, ("ID",), "LUDB", dtype=str, keep_default_na=False)
        self._rows = {row["ID"].strip(): row for row in table.to_dict("records")}
        headers = (self.path / "data").glob("*.hea")
        self.set_record_ids(sorted((header.stem for header in headers), key=natural_key))

    def reference(self, index: int) -> RecordReference:
        name = self._record_ids[index]
        # Several findings of one kind stand on lines of their own inside a cell.
        texts = {
            re.sub(r"\W+", "_", str(column).strip().lower()): "; ".join(cell.split("\n")).strip("; ")
            for column, cell in self._rows.get(name, {}).items()
            if column != "ID"
        }
        return RecordReference(
            self.path / "data" / f"{name}.hea", record_id=name, patient_id=name, metadata=drop_missing(texts)
        )


def read_waves(path: str | Path, leads: Sequence[str], sampling_rate: float, num_samples: int) -> np.ndarray:
    """
    The marked waves of a record as a class for every sample of a signal at any rate.

    Each lead is marked by itself, from its second to its last beat but one or so: what lies before the first or after
    the last marked wave of a lead is unknown, and so is what lies between marks that make no wave. Seldom an onset is
    missing, or written after the peak, where the two fall together: such a wave begins there.

    Args:
        path (`str` or `Path`): The record, with or without an extension.
        leads (`Sequence[str]`): Names of the leads, such as `"aVR"`, in any case.
        sampling_rate (`float`): Rate of the signal [Hz]; its first sample is the record's.
        num_samples (`int`): Length of the signal. Marks beyond it are left out.

    Returns:
        `np.ndarray` of shape `(num_leads, num_samples)`, int64: 0 none, 1 P, 2 QRS, 3 T, -100 unknown. A sample
        belongs to a wave if its time lies between the onset and the offset or on one of them.

    Raises:
        FileNotFoundError: If the header or the marks of a lead do not exist.
        InputError: If the header or the marks cannot be read, or the rate or the length is not positive.
    """
    import wfdb

    if not (math.isfinite(sampling_rate) and sampling_rate > 0) or num_samples < 1:
        raise InputError(f"the signal has {num_samples} samples at {sampling_rate} Hz: both must be positive numbers")
    header = read_header(header_path(path))
    classes = np.full((len(leads), num_samples), _UNKNOWN, dtype=np.int64)
    for row, lead in zip(classes, leads, strict=True):
        marks = header.path.with_suffix(f".{lead.lower()}")
        if not marks.is_file():
            raise FileNotFoundError(f"{marks} does not exist: it should hold the marks of lead {lead}")
        try:
            annotation = wfdb.rdann(str(marks.with_suffix("")), marks.suffix[1:])
        except Exception as error:  # wfdb raises many kinds for files that are damaged
            raise InputError(f"{marks} cannot be read: {str(error).rstrip('.')}") from error
        # A mark of any other kind becomes one character, too, so that the text and the samples keep in step.
        symbols = "".join(symbol if symbol in "()pNt" else "?" for symbol in annotation.symbol)
        places = np.asarray(annotation.sample) * sampling_rate / header.sampling_rate
        read_until, stop = -1, 0
        for wave in _WAVE.finditer(symbols):
            onset = wave.start() + max(wave[0].find("("), 0)
            first = math.ceil(places[onset] - 1e-6)
            if read_until == wave.start():
                row[stop:first] = 0
            read_until, stop = wave.end(), math.floor(places[wave.end() - 1] + 1e-6) + 1
            row[first:stop] = _CLASSES[wave[1] or wave[2]]
    return classes
