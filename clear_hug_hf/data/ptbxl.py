"""PTB-XL as published on PhysioNet (Wagner et al., 2020): a table, a folder of records per rate, official folds."""

from __future__ import annotations

import ast
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ..processing.errors import InputError
from .records import RecordReference


SUPERCLASSES = ("NORM", "MI", "STTC", "CD", "HYP")
"""The five diagnostic superclasses: normal, infarction, ST/T change, conduction disturbance, hypertrophy."""

TABLE, STATEMENTS = "ptbxl_database.csv", "scp_statements.csv"
_FILE_COLUMNS = {100: "filename_lr", 500: "filename_hr"}


def is_ptbxl(folder: str | Path) -> bool:
    """Whether a folder is laid out as PTB-XL."""
    return (Path(folder) / TABLE).is_file()


def fold_to_split(fold: int) -> str:
    """Official split of a fold: 1 to 8 train, 9 validation, 10 test."""
    if not 1 <= fold <= 10:
        raise InputError(f"the fold {fold} is not one of PTB-XL's folds 1 to 10")
    return "train" if fold <= 8 else "validation" if fold == 9 else "test"


def read_ptbxl(
    folder: str | Path, sampling_rate: int | None = None, folds: Iterable[int] | None = None
) -> list[RecordReference]:
    """
    The recordings of PTB-XL with their superclasses; samples are read when a recording is asked for.

    A recording has a superclass if any of its statements, at any likelihood, is a diagnostic one of that class. This
    gives the same labels as the files that MERL and CLEAR-HUG are evaluated on.

    Args:
        folder (`str` or `Path`): Holds `ptbxl_database.csv`, `scp_statements.csv` and the record folders.
        sampling_rate (`int`, *optional*): 100 or 500 [Hz]; by default the rate whose files the folder has, 100 first.
        folds (`Iterable[int]`, *optional*): Folds to read; by default all that the table has.

    Returns:
        `list[RecordReference]`: In the table's order, with `labels`, `patient_id`, `split`, and the fold, age and sex
        in `metadata`.

    Raises:
        FileNotFoundError: If a table is not there.
        InputError: If a table is not PTB-XL's, or the folder has no records of that rate.
    """
    import pandas as pd

    folder = Path(folder)
    for name in (TABLE, STATEMENTS):
        if not (folder / name).is_file():
            raise FileNotFoundError(f"{folder / name} does not exist: PTB-XL's folder holds it beside the records")
    table = pd.read_csv(folder / TABLE)
    statements = pd.read_csv(folder / STATEMENTS, index_col=0)
    for name, columns, wanted in (
        (TABLE, table.columns, {"ecg_id", "patient_id", "scp_codes", "strat_fold"}),
        (STATEMENTS, statements.columns, {"diagnostic", "diagnostic_class"}),
    ):
        if missing := sorted(wanted.difference(columns)):
            raise InputError(f"{folder / name} has no column {', '.join(missing)}: it is not PTB-XL's table")

    column = _choose_file_column(folder, list(table.columns), table, sampling_rate)
    superclass = statements.loc[statements["diagnostic"] == 1, "diagnostic_class"].to_dict()
    wanted_folds = None if folds is None else set(folds)
    references = []
    for row in table.to_dict("records"):
        fold = int(row["strat_fold"])
        if wanted_folds is not None and fold not in wanted_folds:
            continue
        try:
            codes = ast.literal_eval(row["scp_codes"])
            present = {superclass[code] for code in codes if code in superclass}
        except (ValueError, SyntaxError, TypeError):
            raise InputError(f"{folder / TABLE}: the scp_codes of record {row['ecg_id']} cannot be read") from None
        patient = row["patient_id"]
        references.append(
            RecordReference(
                path=folder / str(row[column]),
                record_id=str(row["ecg_id"]),
                patient_id=None if pd.isna(patient) else str(int(patient)),
                labels=tuple(label for label in SUPERCLASSES if label in present),
                split=fold_to_split(fold),
                metadata={"fold": fold, "age": row.get("age"), "sex": row.get("sex")},
            )
        )
    return references


def _choose_file_column(folder: Path, columns: list[str], table: Any, sampling_rate: int | None) -> str:
    rates = list(_FILE_COLUMNS) if sampling_rate is None else [sampling_rate]
    for rate in rates:
        column = _FILE_COLUMNS.get(rate)
        if column is None:
            raise InputError(f"PTB-XL is published at 100 and 500 Hz, not at {rate} Hz: ask for one of them")
        # The table lists both rates even where only one was downloaded.
        if column in columns and len(table) and (folder / str(table[column].iloc[0])).parent.parent.is_dir():
            return column
    asked = " or ".join(f"{rate} Hz" for rate in rates)
    raise InputError(f"{folder} has no records at {asked}: download records100 or records500 beside the tables")
