"""MIMIC-IV-ECG: 800,000 records in nested folders, a table that lists them, and a table of automatic reports."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from ...processing.errors import InputError
from ..records import RecordReference
from .base import RecordSource, drop_missing, read_table


TABLE, MEASUREMENTS = "record_list.csv", "machine_measurements.csv"
_CHUNK_ROWS = 50_000


class MimicIvEcgSource(RecordSource):
    """
    MIMIC-IV-ECG: `record_list.csv` beside `files/p1000/p10000032/s40689238/40689238.hea`, ...

    Recordings are in the order of the table, with patient and time, and the statements of the automatic report as one
    text in `metadata["report"]`. Their headers list aVF before aVL, which does not matter: leads are found by name.
    Records that were not downloaded raise when they are read.

    Args:
        path (`str` or `Path`): The folder with the table.
        label_set, keep_unlabeled (*optional*): As [`RecordSource`]; this source has no label set.
        reports (`bool`, *optional*, defaults to `True`): Whether to read the reports, if `machine_measurements.csv`
            exists.

    Raises:
        FileNotFoundError: If the table is missing.
        InputError: If a table has another format, or lists no records.
    """

    kind = "mimic_iv_ecg"
    title = "MIMIC-IV-ECG"
    license = "ODbL 1.0"
    citation = "Gow et al., MIMIC-IV-ECG: Diagnostic Electrocardiogram Matched Subset, version 1.0, PhysioNet (2023)"

    def __init__(
        self,
        path: str | Path,
        label_set: str | None = None,
        keep_unlabeled: bool = False,
        reports: bool = True,
    ):
        super().__init__(path, label_set, keep_unlabeled, reports=reports)
        columns = ("subject_id", "study_id", "ecg_time", "path")
        table = read_table(self.path / TABLE, columns, "MIMIC-IV-ECG", dtype=str, keep_default_na=False)
        self._columns = {name: table[name].to_list() for name in columns}
        self._reports = self._read_reports() if reports and (self.path / MEASUREMENTS).is_file() else {}
        self.set_record_ids(self._columns["study_id"])

    def _read_reports(self) -> Mapping[str, str]:
        import pandas as pd

        path = self.path / MEASUREMENTS
        header = read_table(path, ("study_id", "report_0"), "MIMIC-IV-ECG", nrows=0)
        # Sort report_0 to report_17 by number.
        columns = sorted(
            (name for name in header.columns if re.fullmatch(r"report_[0-9]{1,9}", name)),
            key=lambda name: int(name[7:]),
        )
        reports: dict[str, str] = {}
        used = ["study_id", *columns]
        try:
            for chunk in pd.read_csv(path, usecols=used, dtype=str, keep_default_na=False, chunksize=_CHUNK_ROWS):
                for study, *lines in chunk[used].fillna("").itertuples(index=False, name=None):
                    reports[study] = "; ".join(line.strip() for line in lines if line.strip())
        except (ValueError, OSError) as error:  # errors of pandas are ValueErrors
            raise InputError(f"{path} cannot be read as a CSV table: {' '.join(str(error).split())}") from error
        return reports

    def reference(self, index: int) -> RecordReference:
        subject, study, time, path = (column[index] for column in self._columns.values())
        return RecordReference(
            path=self.path / path,
            record_id=study,
            patient_id=subject,
            metadata=drop_missing({"ecg_time": time, "report": self._reports.get(study)}),
        )
