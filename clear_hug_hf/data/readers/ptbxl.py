"""PTB-XL as published on PhysioNet: a table with official folds, and a folder of records per sampling rate."""

from __future__ import annotations

import ast
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ...processing.errors import InputError
from ..records import RecordReference
from .base import Excluded, RecordSource, drop_missing, parse_integers, read_table


TABLE = "ptbxl_database.csv"
_FILE_COLUMNS = {100: "filename_lr", 500: "filename_hr"}
_SEX: dict[Any, str] = {0: "male", 1: "female"}
_METADATA = ("age", "height", "weight", "recording_date", "device", "report", "validated_by_human")


def fold_to_split(fold: int) -> str:
    """The official split of a fold: 1 to 8 train, 9 validation, 10 test."""
    if not 1 <= fold <= 10:
        raise InputError(f"fold {fold} is not one of the folds 1 to 10 of PTB-XL")
    return "train" if fold <= 8 else "validation" if fold == 9 else "test"


class PtbXlSource(RecordSource):
    """
    PTB-XL: `ptbxl_database.csv` beside `records100` or `records500`.

    Recordings are in the order of the table, with the official split, and fold, statements, age and sex in `metadata`.

    Args:
        path (`str` or `Path`): The folder with the table.
        label_set (`str`, *optional*): `"ptbxl_super"`, `"ptbxl_sub"`, `"ptbxl_form"`, `"ptbxl_rhythm"` or
            `"ptbxl_all"`.
        keep_unlabeled (`bool`, *optional*, defaults to `False`): As [`RecordSource`].
        sampling_rate (`int`, *optional*): 100 or 500 [Hz]. Defaults to 100 if the folder has these records.
        folds (`Iterable[int]`, *optional*): Folds to read; all by default.

    Raises:
        FileNotFoundError: If the table is missing.
        InputError: If the table has another format, or there are no records with that sampling rate.
    """

    kind = "ptbxl"
    title = "PTB-XL"
    license = "CC BY 4.0"
    citation = "Wagner et al., PTB-XL, a large publicly available electrocardiography dataset, Sci Data 7, 154 (2020)"

    def __init__(
        self,
        path: str | Path,
        label_set: str | None = None,
        keep_unlabeled: bool = False,
        sampling_rate: int | None = None,
        folds: Iterable[int] | None = None,
    ):
        selected = None if folds is None else sorted(set(folds))
        super().__init__(path, label_set, keep_unlabeled, folds=selected)
        table = read_table(self.path / TABLE, ("ecg_id", "patient_id", "scp_codes", "strat_fold"), "PTB-XL")
        rate = _choose_rate(self.path, table.columns.to_list(), sampling_rate)
        self.settings["sampling_rate"] = rate
        self._references: list[RecordReference] = []
        ids, folds_of, patients = (
            parse_integers(self.path / TABLE, name, table[name], missing=name == "patient_id")
            for name in ("ecg_id", "strat_fold", "patient_id")
        )
        for row, number, fold, patient in zip(table.to_dict("records"), ids, folds_of, patients, strict=True):
            record_id = str(number)
            assert fold is not None
            if selected is not None and fold not in selected:
                self.excluded.append(Excluded(record_id, f"its fold {fold} is not selected"))
                continue
            codes = self._statements(record_id, row["scp_codes"])
            if self.is_excluded(record_id, codes):
                continue
            reference = RecordReference(
                path=self.path / str(row[_FILE_COLUMNS[rate]]),
                record_id=record_id,
                patient_id=None if patient is None else str(patient),
                labels=self.labels_of(codes),
                split=fold_to_split(fold),
                metadata={"fold": fold, "scp_codes": codes}
                | drop_missing({"sex": _SEX.get(row.get("sex"))} | {name: row.get(name) for name in _METADATA}),
            )
            self._references.append(reference)
        self.set_record_ids([reference.record_id for reference in self._references])

    def _statements(self, record_id: str, text: str) -> dict[str, float]:
        try:
            return {str(code): float(likelihood) for code, likelihood in ast.literal_eval(text).items()}
        except (ValueError, SyntaxError, TypeError, AttributeError, MemoryError, RecursionError, OverflowError):
            raise InputError(f"{self.path / TABLE}: the scp_codes of record {record_id} cannot be read") from None

    def reference(self, index: int) -> RecordReference:
        return self._references[index]


def _choose_rate(folder: Path, columns: list[str], sampling_rate: int | None) -> int:
    rates = list(_FILE_COLUMNS) if sampling_rate is None else [sampling_rate]
    for rate in rates:
        if rate not in _FILE_COLUMNS:
            raise InputError(f"PTB-XL is published at 100 and 500 Hz, not at {rate} Hz: choose one of them")
        # The table lists both rates, even if only one was downloaded.
        if _FILE_COLUMNS[rate] in columns and (folder / f"records{rate}").is_dir():
            return rate
    tried = " or ".join(f"{rate} Hz" for rate in rates)
    raise InputError(f"{folder} has no records at {tried}: download records100 or records500 beside the table")
