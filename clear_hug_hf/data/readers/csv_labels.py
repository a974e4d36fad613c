"""Custom recordings and labels in a CSV table with one row per recording."""

from __future__ import annotations

import math
import os
import re
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ...processing.errors import InputError
from ...processing.recording_files import digest_patient, find_format
from ...processing.wfdb_format import header_path
from ..records import RecordReference, read_patient
from .base import PROBLEM_TYPES, RecordSource, drop_missing, read_table, summarize_items


_SPLITS = {
    "train": "train",
    "training": "train",
    "validation": "validation",
    "valid": "validation",
    "val": "validation",
    "test": "test",
}
_BINARY = {"0": 0.0, "1": 1.0, "0.0": 0.0, "1.0": 1.0, "": math.nan}
# A column with more distinct integers is more likely an age or a measurement than a class.
_MAX_INTEGER_CLASSES = 50


class CsvSource(RecordSource):
    """
    Recordings and labels of a CSV table in the format of [`CSV_CONTRACT`].

    A class column becomes one label per class, 1 for the class of the recording and 0 for the others. Integer classes
    are sorted numerically, names alphabetically. Where the table has no patient, that of the file counts, as a
    digest.

    Args:
        path (`str` or `Path`): The table.
        label_set, keep_unlabeled (*optional*): As [`RecordSource`]; without a label set all rows are included.
        label_columns (`Sequence[str]`, *optional*): Label columns; none by default.
        problem_type (`str`, *optional*): One of [`PROBLEM_TYPES`]; detected from the values by default.
        path_column, record_column, patient_column, split_column (`str`, *optional*): Column names, if they are not
            `path`, `record_id`, `patient_id` and `split`.
        root (`str` or `Path`, *optional*): Folder that paths are relative to; that of the table by default.
        check_files (`bool`, *optional*, defaults to `True`): Whether missing recordings raise here, and not when they
            are read.
        sampling_rate, lead_names, unit (*optional*): Of files that do not state them, see [`read_record`].

    Raises:
        FileNotFoundError: If the table does not exist.
        InputError: If a column is missing, recordings do not exist, ids are not unique, or a value is invalid.

    Warns:
        UserWarning: If all rows have the same value of a label.
    """

    kind = "csv"

    def __init__(
        self,
        path: str | Path,
        label_set: str | None = None,
        keep_unlabeled: bool = False,
        label_columns: Sequence[str] | None = None,
        problem_type: str | None = None,
        path_column: str = "path",
        record_column: str | None = None,
        patient_column: str | None = None,
        split_column: str | None = None,
        root: str | Path | None = None,
        check_files: bool = True,
        sampling_rate: float | None = None,
        lead_names: Sequence[str] | None = None,
        unit: str | None = None,
    ):
        if problem_type is not None and problem_type not in PROBLEM_TYPES:
            raise InputError(f"unknown problem type {problem_type!r}: choose from {', '.join(PROBLEM_TYPES)}")
        super().__init__(path, label_set, keep_unlabeled)
        table = read_table(self.path, (), "your recordings", complete=True, dtype=str, keep_default_na=False)
        self._columns: dict[str, list[str]] = {
            str(name): [value.strip() for value in table[name]] for name in table.columns
        }
        columns = {"path": path_column, "record": record_column, "patient": patient_column, "split": split_column}
        self._role = self._choose_columns(columns)
        labels = [label_columns] if isinstance(label_columns, str) else list(dict.fromkeys(label_columns or ()))
        self._check_label_columns(labels)
        self._root = self.path.parent if root is None else Path(root)
        self._description = self.describe_files(sampling_rate, lead_names, unit)

        paths = self._columns[self._role["path"]]
        self.set_record_ids(
            self._columns[self._role["record"]] if "record" in self._role else _without_extension(paths)
        )
        self._check_present("record")
        if check_files:
            self._check_files(paths)
        self._splits = self._read_splits()
        self._labels: dict[str, list[float]] = {}
        if labels:
            self._labels, self.problem_type = self._read_labels(labels, problem_type)
            self.label_names = list(self._labels)
            self._warn_about_constant_labels()
        self.settings |= {
            "label_columns": labels,
            "problem_type": self.problem_type,
            "columns": self._role,
        }
        # A patient whom the table names in another row is the same one in the digest of a file.
        named = self._columns[self._role["patient"]] if "patient" in self._role else []
        self._names = {digest_patient(name): name for name in named if name}
        self._patients: dict[int, str | None] = {}
        self._metadata = [name for name in self._columns if name not in (*labels, *self._role.values())]

    def _choose_columns(self, columns: dict[str, str | None]) -> dict[str, str]:
        defaults = {"record": "record_id", "patient": "patient_id", "split": "split"}
        roles = {}
        for role, name in columns.items():
            if name is not None and name not in self._columns:
                hint = "; separate columns by commas, not semicolons" if ";" in "".join(self._columns) else ""
                raise InputError(
                    f"{self.path} has no {role} column {name!r}: its columns are {', '.join(self._columns)}{hint}"
                )
            if name is not None:
                roles[role] = name
            elif defaults[role] in self._columns:
                roles[role] = defaults[role]
        return roles

    def _check_label_columns(self, labels: list[str]) -> None:
        if unknown := [name for name in labels if name not in self._columns]:
            raise InputError(
                f"{self.path} has no label column {', '.join(map(repr, unknown))}: "
                f"its other columns are {', '.join(self.free_columns) or 'none'}"
            )
        if reserved := [name for name in labels if name in self._role.values()]:
            roles = {name: role for role, name in self._role.items()}
            raise InputError(
                f"the column {reserved[0]!r} of {self.path} cannot be a label: it is the {roles[reserved[0]]} column"
            )

    def _check_present(self, role: str) -> None:
        if role in self._role and "" in self._columns[self._role[role]]:
            row = self._columns[self._role[role]].index("")
            raise InputError(
                f"{self.path} has no {self._role[role]} in {_line(row)}: fill it in for every row or for none"
            )

    def _check_files(self, paths: list[str]) -> None:
        missing = [
            path or "an empty path"
            for path in paths
            if not path
            or not (os.path.isfile(header_path(self._root / path)) or find_format(self._root / path) is not None)
        ]
        if missing:
            raise InputError(
                f"{self.path} lists {summarize_items(missing, 'recording')} of {len(paths)} that do not exist: paths "
                f"are relative to {self._root}"
            )

    def _read_splits(self) -> list[str] | None:
        if "split" not in self._role or not any(self._columns[self._role["split"]]):
            return None
        self._check_present("split")
        splits = []
        for row, text in enumerate(self._columns[self._role["split"]]):
            split = _SPLITS.get(text.lower())
            if split is None:
                raise InputError(f"{self.path} has the split {text!r} in {_line(row)}: use train, validation or test")
            splits.append(split)
        return splits

    def _read_labels(self, columns: list[str], problem_type: str | None) -> tuple[dict[str, list[float]], str]:
        problem_type = problem_type or self._guess_problem_type(columns)
        if problem_type == "multi_label_classification":
            return {name: self._numbers(name, _BINARY) for name in columns}, problem_type
        if problem_type == "regression":
            return {name: self._numbers(name, None) for name in columns}, problem_type
        if len(columns) != 1:
            raise InputError(
                f"single-label classification needs one class column of {self.path}, not {', '.join(columns)}: name it"
            )
        values = self._columns[columns[0]]
        classes = sorted({value for value in values if value})
        if all(map(_is_integer, classes)):
            classes.sort(key=int)
        if len(classes) < 2:
            raise InputError(
                f"the column {columns[0]!r} of {self.path} has {len(classes)} class(es): there must be at least two"
            )
        return {
            name: [math.nan if not value else float(value == name) for value in values] for name in classes
        }, problem_type

    def _guess_problem_type(self, columns: list[str]) -> str:
        values = {name: [value for value in dict.fromkeys(self._columns[name]) if value] for name in columns}
        if all(value in _BINARY for distinct in values.values() for value in distinct):
            return "multi_label_classification"
        first = values[columns[0]]
        numeric = {
            name: [value for value in distinct if _to_number(value) is not None] for name, distinct in values.items()
        }
        if len(columns) == 1 and (not numeric[columns[0]] or all(map(_is_integer, first))):
            if numeric[columns[0]] and len(first) > _MAX_INTEGER_CLASSES:
                raise InputError(
                    f"the column {columns[0]!r} of {self.path} has {len(first)} different integers: set the problem "
                    "type to single_label_classification or regression"
                )
            return "single_label_classification"
        # Report columns with values other than 0 and 1 first.
        for name, distinct in sorted(values.items(), key=lambda column: all(value in _BINARY for value in column[1])):
            texts = [value for value in distinct if value not in numeric[name]]
            if texts or (distinct and all(map(_is_integer, distinct))):
                invalid = (texts or [value for value in distinct if value not in _BINARY] or distinct)[0]
                row = self._columns[name].index(invalid)
                raise InputError(
                    f"{self.path} has {invalid!r} in the label column {name!r}, {_line(row)}: use 1, 0 or nothing for "
                    "labels, or set the problem type if the columns are classes or regression targets"
                )
        return "regression"

    def _numbers(self, column: str, allowed: dict[str, float] | None) -> list[float]:
        numbers = []
        for row, text in enumerate(self._columns[column]):
            number = allowed.get(text) if allowed is not None else math.nan if not text else _to_number(text)
            if number is None:
                expected = "1, 0 or nothing" if allowed is not None else "a finite number or nothing"
                raise InputError(
                    f"{self.path} has {text!r} in the label column {column!r}, {_line(row)}: use {expected}"
                )
            numbers.append(number)
        return numbers

    def _warn_about_constant_labels(self) -> None:
        for name, values in self._labels.items():
            distinct = np.unique([value for value in values if not math.isnan(value)])
            if distinct.size < 2:
                reason = f"only the value {distinct[0]:g}" if distinct.size else "no value in any row"
                warnings.warn(f"the label {name!r} of {self.path} has {reason}: a model cannot learn it", stacklevel=4)

    @property
    def free_columns(self) -> list[str]:
        """`list[str]`: Columns that can be labels: all except path, record, patient and split."""
        return [name for name in self._columns if name not in self._role.values()]

    def _patient(self, index: int) -> str | None:
        if "patient" in self._role and (patient := self._columns[self._role["patient"]][index]):
            return patient
        if index not in self._patients:
            stated = read_patient(self._root / self._columns[self._role["path"]][index])
            self._patients[index] = self._names.get(stated, stated)
        return self._patients[index]

    def reference(self, index: int) -> RecordReference:
        metadata: dict[str, Any] = {name: self._columns[name][index] for name in self._metadata}
        return RecordReference(
            path=self._root / self._columns[self._role["path"]][index],
            record_id=self._record_ids[index],
            patient_id=self._patient(index),
            labels={name: values[index] for name, values in self._labels.items()} if self._labels else None,
            split=None if self._splits is None else self._splits[index],
            metadata=drop_missing(metadata),
            description=self._description,
        )


def _without_extension(paths: list[str]) -> list[str]:
    return [path[:-4] if path.lower().endswith((".hea", ".dat", ".mat")) else path for path in paths]


def _line(row: int) -> str:
    return f"line {row + 2}"


def _is_integer(text: str) -> bool:
    return re.fullmatch(r"-?[0-9]{1,18}", text) is not None


def _to_number(text: str) -> float | None:
    # `float` also accepts `1_000` and digits of other scripts.
    try:
        number = float(text) if text.isascii() and "_" not in text else math.nan
    except ValueError:
        return None
    return number if math.isfinite(number) else None
