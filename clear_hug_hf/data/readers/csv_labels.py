"""Your own recordings and labels: a CSV table with one row per recording."""

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
from ...processing.wfdb_format import header_path
from ..records import RecordReference
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
# More whole numbers than this in one column are rather an age or a measurement than classes.
_MOST_INTEGER_CLASSES = 50


class CsvSource(RecordSource):
    """
    Recordings and labels of a CSV table; [`CSV_CONTRACT`] says what it must look like.

    Labels of several classes come as one value per class, 1 for the recording's class and 0 for the others. Classes
    are sorted: whole numbers by size, names by letter.

    Args:
        path (`str` or `Path`): The table.
        label_set, keep_unlabeled (*optional*): As [`RecordSource`]; without a label set all rows are kept.
        label_columns (`Sequence[str]`, *optional*): Columns with labels; none by default.
        problem_type (`str`, *optional*): One of [`PROBLEM_TYPES`]; found from the values by default.
        path_column, record_column, patient_column, split_column (`str`, *optional*): Names of the columns, where they
            are not `path`, `record_id`, `patient_id` and `split`. One that is named must be there.
        root (`str` or `Path`, *optional*): Folder that paths are relative to; the table's by default.
        check_files (`bool`, *optional*, defaults to `True`): Whether a recording that does not exist is refused here,
            not when it is read.

    Raises:
        FileNotFoundError: If there is no table.
        InputError: If the table is not as [`CSV_CONTRACT`] says: a column is missing, recordings do not exist (all
            are counted, the first ten named), ids are not unique, or a value makes no sense.

    Warns:
        UserWarning: If a label has the same value in all rows: nothing can be learnt about it.
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
    ):
        if problem_type is not None and problem_type not in PROBLEM_TYPES:
            raise InputError(f"there is no problem type {problem_type!r}: choose from {', '.join(PROBLEM_TYPES)}")
        super().__init__(path, label_set, keep_unlabeled)
        table = read_table(self.path, (), "your recordings", complete=True, dtype=str, keep_default_na=False)
        self._columns: dict[str, list[str]] = {
            str(name): [value.strip() for value in table[name]] for name in table.columns
        }
        named = {"path": path_column, "record": record_column, "patient": patient_column, "split": split_column}
        self._role = self._choose_columns(named)
        labels = [label_columns] if isinstance(label_columns, str) else list(dict.fromkeys(label_columns or ()))
        self._check_label_columns(labels)
        self._root = self.path.parent if root is None else Path(root)

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
            self._warn_of_constant_labels()
        self.settings |= {
            "label_columns": labels,
            "problem_type": self.problem_type,
            "columns": self._role,
        }
        self._metadata = [name for name in self._columns if name not in (*labels, *self._role.values())]

    def _choose_columns(self, named: dict[str, str | None]) -> dict[str, str]:
        usual = {"record": "record_id", "patient": "patient_id", "split": "split"}
        chosen = {}
        for role, name in named.items():
            if name is not None and name not in self._columns:
                hint = "; it looks separated by semicolons, not commas" if ";" in "".join(self._columns) else ""
                raise InputError(
                    f"{self.path} has no column {name!r} for the {role}: it has {', '.join(self._columns)}{hint}"
                )
            if name is not None:
                chosen[role] = name
            elif usual[role] in self._columns:
                chosen[role] = usual[role]
        return chosen

    def _check_label_columns(self, labels: list[str]) -> None:
        if unknown := [name for name in labels if name not in self._columns]:
            raise InputError(
                f"{self.path} has no label column {', '.join(map(repr, unknown))}: "
                f"its other columns are {', '.join(self.free_columns) or 'none'}"
            )
        if taken := [name for name in labels if name in self._role.values()]:
            raise InputError(f"the column {taken[0]!r} of {self.path} cannot be a label: it is what a row belongs to")

    def _check_present(self, role: str) -> None:
        if role in self._role and "" in self._columns[self._role[role]]:
            row = self._columns[self._role[role]].index("")
            raise InputError(f"{self.path} has no {self._role[role]} in {_line(row)}: fill it in every row or in none")

    def _check_files(self, paths: list[str]) -> None:
        missing = [
            path or "an empty path" for path in paths if not path or not os.path.isfile(header_path(self._root / path))
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

    def _read_labels(self, columns: list[str], asked: str | None) -> tuple[dict[str, list[float]], str]:
        problem_type = self._guess_problem_type(columns) if asked is None else asked
        if problem_type == "multi_label_classification":
            return {name: self._numbers(name, _BINARY) for name in columns}, problem_type
        if problem_type == "regression":
            return {name: self._numbers(name, None) for name in columns}, problem_type
        if len(columns) != 1:
            raise InputError(f"classes stand in one column of {self.path}, not in {', '.join(columns)}: name one")
        values = self._columns[columns[0]]
        present = sorted({value for value in values if value})
        if all(map(_is_whole, present)):
            present.sort(key=int)
        if len(present) < 2:
            raise InputError(
                f"the column {columns[0]!r} of {self.path} has {len(present)} class(es): there must be at least two"
            )
        return {
            one: [math.nan if not value else float(value == one) for value in values] for one in present
        }, problem_type

    def _guess_problem_type(self, columns: list[str]) -> str:
        values = {name: [value for value in dict.fromkeys(self._columns[name]) if value] for name in columns}
        if all(value in _BINARY for one in values.values() for value in one):
            return "multi_label_classification"
        only = values[columns[0]]
        numeric = {name: [value for value in one if _to_number(value) is not None] for name, one in values.items()}
        if len(columns) == 1 and (not numeric[columns[0]] or all(map(_is_whole, only))):
            if numeric[columns[0]] and len(only) > _MOST_INTEGER_CLASSES:
                raise InputError(
                    f"the column {columns[0]!r} of {self.path} has {len(only)} different whole numbers: "
                    "say whether they are classes (single_label_classification) or to be predicted (regression)"
                )
            return "single_label_classification"
        # A column with other values than 0 and 1 is named before one that is odd only beside it.
        for name, one in sorted(values.items(), key=lambda column: all(value in _BINARY for value in column[1])):
            texts = [value for value in one if value not in numeric[name]]
            if texts or (one and all(map(_is_whole, one))):
                odd = (texts or [value for value in one if value not in _BINARY] or one)[0]
                row = self._columns[name].index(odd)
                raise InputError(
                    f"{self.path} has {odd!r} in the label column {name!r}, {_line(row)}: use 1, 0 or nothing for "
                    "labels, or say the problem type if the columns are classes or numbers to be predicted"
                )
        return "regression"

    def _numbers(self, column: str, allowed: dict[str, float] | None) -> list[float]:
        numbers = []
        for row, text in enumerate(self._columns[column]):
            number = allowed.get(text) if allowed is not None else math.nan if not text else _to_number(text)
            if number is None:
                wanted = "1, 0 or nothing" if allowed is not None else "a finite number or nothing"
                raise InputError(
                    f"{self.path} has {text!r} in the label column {column!r}, {_line(row)}: use {wanted}"
                )
            numbers.append(number)
        return numbers

    def _warn_of_constant_labels(self) -> None:
        for name, values in self._labels.items():
            different = np.unique([value for value in values if not math.isnan(value)])
            if different.size < 2:
                what = f"only the value {different[0]:g}" if different.size else "no value in any row"
                warnings.warn(
                    f"the label {name!r} of {self.path} has {what}: nothing can be learnt about it", stacklevel=4
                )

    @property
    def free_columns(self) -> list[str]:
        """`list[str]`: Columns that could be labels: all but those that say what a row belongs to."""
        return [name for name in self._columns if name not in self._role.values()]

    def reference(self, index: int) -> RecordReference:
        metadata: dict[str, Any] = {name: self._columns[name][index] for name in self._metadata}
        patient = self._columns[self._role["patient"]][index] if "patient" in self._role else ""
        return RecordReference(
            path=self._root / self._columns[self._role["path"]][index],
            record_id=self._record_ids[index],
            patient_id=patient or None,
            labels={name: values[index] for name, values in self._labels.items()} if self._labels else None,
            split=None if self._splits is None else self._splits[index],
            metadata=drop_missing(metadata),
        )


def _without_extension(paths: list[str]) -> list[str]:
    return [path[:-4] if path.lower().endswith((".hea", ".dat", ".mat")) else path for path in paths]


def _line(row: int) -> str:
    return f"line {row + 2}"


def _is_whole(text: str) -> bool:
    return re.fullmatch(r"-?[0-9]{1,18}", text) is not None


def _to_number(text: str) -> float | None:
    # Python also reads `1_000` and digits of other scripts.
    try:
        number = float(text) if text.isascii() and "_" not in text else math.nan
    except ValueError:
        return None
    return number if math.isfinite(number) else None
