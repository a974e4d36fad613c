"""LUDB: two hundred recordings with waves annotated by cardiologists, and a table of their findings."""

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

# Classes of samples: indices in `evaluation.segmentation.WAVES`, and the class that losses and metrics ignore.
_CLASSES = {"p": 1, "N": 2, "t": 3}
_UNKNOWN = -100
# Onset, peak, offset. If onset and peak of a QRS complex coincide, the onset is missing or follows the peak.
_WAVE = re.compile(r"\(([pNt])\)|([pNt])\(?\)")


class LudbSource(RecordSource):
    """
    LUDB: `ludb.csv` beside `data/1.hea`, `data/2.hea`, ...; texts of the table become `metadata`.

    Every recording is from a different patient. There is no label set.

    Args:
        path (`str` or `Path`): The folder with the table.
        label_set, keep_unlabeled (*optional*): As [`RecordSource`]; this source has no label set.

    Raises:
        FileNotFoundError: If the table is missing.
        InputError: If the table has another format, or there are no records in `data`.
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
        # A cell lists several findings on separate lines.
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
    Read the annotated waves of a record as a class for every sample of a signal at any sampling rate.

    Leads are annotated separately, from about their second to their second-last beat. Samples before the first or
    after the last annotated wave of a lead are unknown, and so are those between incomplete annotations. If the onset
    of a wave coincides with its peak, it may be missing or follow the peak; the wave then starts there.

    Args:
        path (`str` or `Path`): The record, with or without an extension.
        leads (`Sequence[str]`): Names of the leads, such as `"aVR"`, in any case.
        sampling_rate (`float`): Sampling rate of the signal [Hz]; it starts with the record.
        num_samples (`int`): Length of the signal. Annotations beyond it are ignored.

    Returns:
        `np.ndarray` of shape `(num_leads, num_samples)`, int64: 0 none, 1 P, 2 QRS, 3 T, -100 unknown. Onset and
        offset belong to the wave.

    Raises:
        FileNotFoundError: If the header or the annotations of a lead do not exist.
        InputError: If the header or the annotations cannot be read, or the rate or the length is not positive.
    """
    import wfdb

    if not (math.isfinite(sampling_rate) and sampling_rate > 0) or num_samples < 1:
        raise InputError(f"the signal has {num_samples} samples at {sampling_rate} Hz: both must be positive numbers")
    header = read_header(header_path(path))
    classes = np.full((len(leads), num_samples), _UNKNOWN, dtype=np.int64)
    for row, lead in zip(classes, leads, strict=True):
        file = header.path.with_suffix(f".{lead.lower()}")
        if not file.is_file():
            raise FileNotFoundError(f"{file} does not exist: it should contain the annotations of lead {lead}")
        try:
            annotation = wfdb.rdann(str(file.with_suffix("")), file.suffix[1:])
        except Exception as error:  # wfdb raises many kinds of errors for damaged files
            raise InputError(f"{file} cannot be read: {str(error).rstrip('.')}") from error
        # Other annotations become one character each, so that symbols and samples stay aligned.
        symbols = "".join(symbol if symbol in "()pNt" else "?" for symbol in annotation.symbol)
        positions = np.asarray(annotation.sample) * sampling_rate / header.sampling_rate
        previous_end, stop = -1, 0
        for wave in _WAVE.finditer(symbols):
            onset = wave.start() + max(wave[0].find("("), 0)
            first = math.ceil(positions[onset] - 1e-6)
            if previous_end == wave.start():
                row[stop:first] = 0
            previous_end, stop = wave.end(), math.floor(positions[wave.end() - 1] + 1e-6) + 1
            row[first:stop] = _CLASSES[wave[1] or wave[2]]
    return classes
