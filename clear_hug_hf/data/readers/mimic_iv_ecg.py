"""MIMIC-IV-ECG: 800,000 records in nested folders, listed in a table, with the machine's report in another."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from ...processing.errors import InputError
from ..records import RecordReference
from .base import RecordSource, drop_missing, read_table


TABLE, MEASUREMENTS = "record_list.csv", "machine_measurements.csv"
_ROWS_AT_ONCE = 50_000


class MimicIvEcgSource(RecordSource):
    """
    MIMIC-IV-ECG: `record_list.csv` beside `files/p1000/p10000032/s40689238/40689238.hea`, ...

    Recordings come in the table's order with the patient, the time, and the machine's statements as one text in
    `metadata["report"]`. Their headers put aVF before aVL; leads are found by name, so nothing is to be done about
    it. A record that was not downloaded is named when it is read.

    Args:
        path (`str` or `Path`): The folder with the table.
        label_set, keep_unlabeled (*optional*): As [`RecordSource`]; this source has no label set.
        reports (`bool`, *optional*, defaults to `True`): Whether to read the statements, where
            `machine_measurements.csv` is there.

    Raises:
        FileNotFoundError: If the table is not there.
        InputError: If a table is another one, or lists no records.
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
        # report_0 to report_17; the columns are sorted by their number, whatever their order in the file.
        columns = sorted(
            (name for name in header.columns if re.fullmatch(r"report_[0-9]{1,9}", name)),
            key=lambda name: int(name[7:]),
        )
        reports: dict[str, str] = {}
        wanted = ["study_id", *columns]
        try:
            for chunk in pd.read_csv(path, usecols=wanted, dtype=str, keep_default_na=False, chunksize=_ROWS_AT_ONCE):
                for study, *lines in chunk[wanted].fillna("").itertuples(index=False, name=None):
                    reports[study] = "; ".join(line.strip() for line in lines if line.strip())
        except (ValueError, OSError) as error:  # pandas' own are ValueErrors
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
