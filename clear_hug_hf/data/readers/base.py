"""Base class of all readers: references to recordings in a fixed order, with information about their dataset."""

from __future__ import annotations

import csv
import re
from abc import abstractmethod
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, overload

from ...processing.errors import InputError, import_library
from ..label_sets import LabelSet, get_label_set
from ..records import RecordReference


if TYPE_CHECKING:
    import pandas as pd

PROBLEM_TYPES = ("multi_label_classification", "single_label_classification", "regression")
"""Kinds of labels, with the names of transformers."""

_MAX_ITEMS = 10


class Excluded(NamedTuple):
    """A recording in the folder that the source excludes, with the reason."""

    record_id: str
    reason: str


class RecordSource(Sequence[RecordReference]):
    """
    Recordings on disk as a sequence of [`RecordReference`]s.

    The order is the same on every machine. Only tables are kept in memory; a reference reads its samples on demand.
    References can be pickled, so that other processes can read them.

    Args:
        path (`str` or `Path`): Path of the source.
        label_set (`str`, *optional*): Name of a label set for the codes of this source. Without it there are no
            labels.
        keep_unlabeled (`bool`, *optional*, defaults to `False`): Whether to include recordings that the benchmark of
            the label set excludes, with 0 for every label.

    Attributes:
        kind (`str`): Name of the reader in [`READERS`].
        title, license, citation (`str`): Of the published dataset, if it is one.
        label_names (`list[str]`, *optional*): Label names, in order.
        problem_type (`str`, *optional*): One of [`PROBLEM_TYPES`], if there are labels.
        settings (`dict`): All settings that determine the recordings and their labels.
        excluded (`list[Excluded]`): Recordings at the path that are not in the sequence, with reasons.

    Raises:
        InputError: If there are no recordings, a record id is not unique, or the label set does not apply.
        FileNotFoundError: If the path, or a required table, does not exist.
    """

    kind: ClassVar[str]
    title: str | None = None
    license: str | None = None
    citation: str | None = None

    def __init__(self, path: str | Path, label_set: str | None = None, keep_unlabeled: bool = False, **settings: Any):
        self.path = Path(path)
        if not self.path.exists():
            raise FileNotFoundError(f"{self.path} does not exist: check the path of the {self.title or 'recordings'}")
        self.label_set: LabelSet | None = None if label_set is None else get_label_set(label_set, self.kind)
        self.keep_unlabeled = keep_unlabeled
        self.label_names: list[str] | None = None if self.label_set is None else list(self.label_set.names)
        self.problem_type: str | None = None if self.label_set is None else "multi_label_classification"
        self.settings: dict[str, Any] = {
            "kind": self.kind,
            "label_set": label_set,
            "keep_unlabeled": keep_unlabeled,
            **settings,
        }
        self.excluded: list[Excluded] = []
        self._record_ids: Sequence[str] = ()

    def __len__(self) -> int:
        return len(self._record_ids)

    @abstractmethod
    def reference(self, index: int) -> RecordReference:
        """The recording at an index from 0 to `len(self) - 1`."""

    @overload
    def __getitem__(self, index: int) -> RecordReference: ...
    @overload
    def __getitem__(self, index: slice) -> list[RecordReference]: ...
    def __getitem__(self, index: int | slice) -> RecordReference | list[RecordReference]:
        if isinstance(index, slice):
            return [self.reference(position) for position in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        return self.reference(index % len(self))

    def is_excluded(self, record_id: str, codes: Iterable[str]) -> bool:
        """Whether the label set excludes a recording, which is then added to `excluded`."""
        if self.label_set is None or self.keep_unlabeled:
            return False
        reason = self.label_set.exclusion_reason(codes)
        if reason is not None:
            self.excluded.append(Excluded(record_id, reason))
        return reason is not None

    def labels_of(self, codes: Iterable[str]) -> dict[str, float] | None:
        """Labels of a recording with these codes, `None` without a label set."""
        return None if self.label_set is None else self.label_set.labels(codes)

    def describe_files(
        self, sampling_rate: float | None, lead_names: Sequence[str] | None, unit: str | None
    ) -> dict[str, Any]:
        """What is stated about files that do not state it themselves; added to the settings."""
        stated = {"sampling_rate": sampling_rate, "lead_names": lead_names, "unit": unit}
        description = {name: value for name, value in stated.items() if value is not None}
        self.settings |= description
        return description

    def set_record_ids(self, record_ids: Sequence[str]) -> None:
        """Set the ids of the recordings; raises if there are none or an id is not unique."""
        if not record_ids:
            reason = ""
            if self.excluded:
                reason = f"; all {len(self.excluded)} were excluded, the first because {self.excluded[0].reason}"
            raise InputError(f"{self.path} has no recordings for {self.kind}{reason}")
        duplicates = [record_id for record_id, count in Counter(record_ids).items() if count > 1]
        if duplicates:
            raise InputError(
                f"{self.path} has duplicates: {summarize_items(duplicates, 'record id')}; give every recording a "
                "unique id"
            )
        self._record_ids = record_ids


def summarize_items(items: Sequence[Any], noun: str) -> str:
    """The number of items with the first ten: "12 record ids (a, b, c, ... and 2 more)"."""
    listed = ", ".join(str(item)[:200] for item in items[:_MAX_ITEMS])
    more = f", and {len(items) - _MAX_ITEMS} more" if len(items) > _MAX_ITEMS else ""
    return f"{len(items)} {noun}{'' if len(items) == 1 else 's'} ({listed}{more})"


def read_table(path: Path, columns: Iterable[str], owner: str, complete: bool = False, **options: Any) -> pd.DataFrame:
    """
    Read a CSV table and check its columns.

    Args:
        path (`Path`): The table, in UTF-8.
        columns (`Iterable[str]`): Required columns.
        owner (`str`): The dataset of the table, for error messages.
        complete (`bool`, *optional*, defaults to `False`): Whether rows with fewer fields than the header are refused.
        options: Options of `pandas.read_csv`. With `dtype=str`, missing texts are empty.

    Raises:
        FileNotFoundError: If the table does not exist.
        InputError: If it cannot be read, the fields of a row do not match the header, or a column is missing or
            duplicate.
    """
    pd = import_library("pandas", f"reading the table {path}")
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist: it is part of {owner}")
    try:
        if options.get("nrows") != 0:
            _check_rows(path, complete)
        table = pd.read_csv(path, encoding="utf-8-sig", **options)
    except InputError:
        raise
    except (ValueError, OSError, OverflowError, csv.Error) as error:  # errors of pandas are ValueErrors
        hint = ": save it as UTF-8" if isinstance(error, UnicodeDecodeError) else ""
        raise InputError(f"{path} cannot be read as a CSV table: {' '.join(str(error).split())}{hint}") from error
    if options.get("dtype") is str:
        table = table.fillna("")
    if missing := [column for column in columns if column not in table.columns]:
        raise InputError(f"{path} has no column {', '.join(missing)}: it is not the table of {owner}")
    return table


def _check_rows(path: Path, complete: bool) -> None:
    """Refuse errors that pandas ignores: long rows, which shift all columns, and NULs, which truncate fields."""
    with path.open(encoding="utf-8-sig", newline="") as file:
        rows = csv.reader(file, strict=True)
        header = next(rows, [])
        if duplicates := [name for name, count in Counter(header).items() if count > 1 and name]:
            raise InputError(f"{path} has the column {duplicates[0]!r} twice: rename one of them")
        for row in rows:
            if row and (len(row) > len(header) or (complete and len(row) < len(header))):
                raise InputError(
                    f"{path} has {len(row)} fields in line {rows.line_num} but {len(header)} columns: put texts with "
                    "commas in quotes"
                )
            if any("\0" in field for field in row):
                raise InputError(f"{path} has a NUL character in line {rows.line_num}: it is not a text file")


def parse_integers(path: Path, column: str, values: Iterable[Any], missing: bool = False) -> list[int | None]:
    """
    Parse the values of a table column as integers, with `None` for missing ones if they are allowed.

    Raises:
        InputError: If a value is not an integer.
    """
    numbers: list[int | None] = []
    for row, value in enumerate(values):
        if missing and (value is None or value != value):
            numbers.append(None)
            continue
        try:
            number = int(value)
            if number != float(value):
                raise ValueError
        except (TypeError, ValueError, OverflowError):
            raise InputError(
                f"{path} has {str(value)[:40]!r} in the column {column!r}, row {row + 1}: it must be an integer"
            ) from None
        numbers.append(number)
    return numbers


def natural_key(name: str) -> tuple[tuple[int, int, str], ...]:
    """Sort key that puts `9` before `10` and is the same on every machine."""
    parts = re.split(r"([0-9]+)", name)
    return tuple((0, int(part), "") if index % 2 else (1, 0, part) for index, part in enumerate(parts) if part)


def drop_missing(values: Mapping[str, Any]) -> dict[str, Any]:
    """The values without `None`, NaN and empty texts."""
    return {name: value for name, value in values.items() if value is not None and value == value and value != ""}
