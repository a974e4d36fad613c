"""What every reader gives: references to recordings in a fixed order, and what is known about the set."""

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
"""What labels can be, under the names that transformers' models use."""

_MOST_NAMED = 10


class Excluded(NamedTuple):
    """A recording that is in the folder but not in the source, and why."""

    record_id: str
    reason: str


class RecordSource(Sequence[RecordReference]):
    """
    Recordings on disk as a sequence of [`RecordReference`]s.

    The order is the same on every machine. Tables are in memory, samples never: a reference reads them when asked.
    References can be pickled, so that other processes can read them.

    Args:
        path (`str` or `Path`): Where the source is.
        label_set (`str`, *optional*): Name of a label set for this source's codes. `None` gives no labels.
        keep_unlabeled (`bool`, *optional*, defaults to `False`): Whether recordings that the label set's benchmark
            leaves out are kept, with 0 for every label.

    Attributes:
        kind (`str`): Name of the reader in the registry.
        title, license, citation (`str`): Of the published set, where there is one.
        label_names (`list[str]`, *optional*): Labels of the recordings, in order.
        problem_type (`str`, *optional*): One of [`PROBLEM_TYPES`] where there are labels.
        settings (`dict`): Everything that decides which recordings come and with which labels.
        excluded (`list[Excluded]`): Recordings at the path that are not in the sequence, each with a reason.

    Raises:
        InputError: If there are no recordings, a record id appears twice, or the label set is not for this source.
        FileNotFoundError: If the path, or a table that the layout needs, does not exist.
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
            return [self.reference(one) for one in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        return self.reference(index % len(self))

    def is_excluded(self, record_id: str, codes: Iterable[str]) -> bool:
        """Whether the label set leaves a recording out, which is then noted in `excluded`."""
        if self.label_set is None or self.keep_unlabeled:
            return False
        reason = self.label_set.exclusion_reason(codes)
        if reason is not None:
            self.excluded.append(Excluded(record_id, reason))
        return reason is not None

    def labels_of(self, codes: Iterable[str]) -> dict[str, float] | None:
        """Labels of a recording with these codes, `None` where no label set was asked for."""
        return None if self.label_set is None else self.label_set.labels(codes)

    def set_record_ids(self, record_ids: Sequence[str]) -> None:
        """Say which recordings there are; refuse a source without any, and one where two have one id."""
        if not record_ids:
            reason = ""
            if self.excluded:
                reason = f"; all {len(self.excluded)} were left out, the first because {self.excluded[0].reason}"
            raise InputError(f"{self.path} has no recordings for {self.kind}{reason}")
        twice = [one for one, count in Counter(record_ids).items() if count > 1]
        if twice:
            raise InputError(
                f"{self.path} has duplicates: {summarize_items(twice, 'record id')}; give every recording a unique id"
            )
        self._record_ids = record_ids


def summarize_items(items: Sequence[Any], what: str) -> str:
    """A count with the first ten items: "12 record ids (a, b, c, ... and 2 more)"."""
    named = ", ".join(str(item)[:200] for item in items[:_MOST_NAMED])
    more = f", and {len(items) - _MOST_NAMED} more" if len(items) > _MOST_NAMED else ""
    return f"{len(items)} {what}{'' if len(items) == 1 else 's'} ({named}{more})"


def read_table(path: Path, columns: Iterable[str], whose: str, complete: bool = False, **options: Any) -> pd.DataFrame:
    """
    Read a CSV table and make sure that it is the right one.

    Args:
        path (`Path`): The table, in UTF-8.
        columns (`Iterable[str]`): Columns that must be there.
        whose (`str`): What the table belongs to, for errors.
        complete (`bool`, *optional*, defaults to `False`): Whether each row must have all fields, the last ones, too.
        options: Of `pandas.read_csv`. Texts (`dtype=str`) that are missing come as empty ones.

    Raises:
        FileNotFoundError: If the table does not exist.
        InputError: If it cannot be read, a row has other fields than the header, or a column is missing or there
            twice.
    """
    pd = import_library("pandas", f"reading the table {path}")
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist: {whose} comes with it")
    try:
        if options.get("nrows") != 0:
            _check_rows(path, complete)
        table = pd.read_csv(path, encoding="utf-8-sig", **options)
    except InputError:
        raise
    except (ValueError, OSError, OverflowError, csv.Error) as error:  # pandas' own are ValueErrors
        hint = ": save it as UTF-8" if isinstance(error, UnicodeDecodeError) else ""
        raise InputError(f"{path} cannot be read as a CSV table: {' '.join(str(error).split())}{hint}") from error
    if options.get("dtype") is str:
        table = table.fillna("")
    if missing := [column for column in columns if column not in table.columns]:
        raise InputError(f"{path} has no column {', '.join(missing)}: it is not the table of {whose}")
    return table


def _check_rows(path: Path, complete: bool) -> None:
    """Refuse what pandas reads without a word: it shifts all columns by longer rows and cuts fields at a NUL."""
    with path.open(encoding="utf-8-sig", newline="") as file:
        rows = csv.reader(file, strict=True)
        header = next(rows, [])
        if twice := [name for name, count in Counter(header).items() if count > 1 and name]:
            raise InputError(f"{path} has the column {twice[0]!r} twice: rename one")
        for row in rows:
            if row and (len(row) > len(header) or (complete and len(row) < len(header))):
                raise InputError(
                    f"{path} has {len(row)} fields in line {rows.line_num} and {len(header)} columns: a text with a "
                    "comma must stand in quotes"
                )
            if any("\0" in field for field in row):
                raise InputError(f"{path} has a NUL in line {rows.line_num}: it is no text")


def parse_integers(path: Path, column: str, values: Iterable[Any], missing: bool = False) -> list[int | None]:
    """
    Values of a column of a table as whole numbers; missing ones as `None` where they may be.

    Raises:
        InputError: If one is not a whole number.
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
                f"{path} has {str(value)[:40]!r} in the column {column!r}, row {row + 1}: it must be a whole number"
            ) from None
        numbers.append(number)
    return numbers


def natural_key(name: str) -> tuple[tuple[int, int, str], ...]:
    """Sort key that puts `9` before `10` and is the same on every machine."""
    parts = re.split(r"([0-9]+)", name)
    return tuple((0, int(part), "") if index % 2 else (1, 0, part) for index, part in enumerate(parts) if part)


def drop_missing(values: Mapping[str, Any]) -> dict[str, Any]:
    """What is known of some values: without `None`, NaN and empty texts."""
    return {name: value for name, value in values.items() if value is not None and value == value and value != ""}
