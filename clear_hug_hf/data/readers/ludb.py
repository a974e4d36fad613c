"""LUDB: two hundred recordings whose waves cardiologists marked, with a table of what they saw."""

from __future__ import annotations

import re
from pathlib import Path

from ..records import RecordReference
from .base import RecordSource, known, natural_key, read_table


TABLE = "ludb.csv"


class LudbSource(RecordSource):
    """
    LUDB: `ludb.csv` beside `data/1.hea`, `data/2.hea`, ...; the table's texts come as `metadata`.

    Every recording is another patient's. There is no label set.

    Args:
        path (`str` or `Path`): The folder with the table.
        label_set (`str`, *optional*): There is none for this source.
        keep_unlabelled (`bool`, *optional*, defaults to `False`): Without effect here.

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

    def __init__(self, path: str | Path, label_set: str | None = None, keep_unlabelled: bool = False):
        super().__init__(path, label_set, keep_unlabelled)
        table = read_table(self.path / TABLE, ("ID",), "LUDB", dtype=str, keep_default_na=False)
        self._rows = {row["ID"].strip(): row for row in table.to_dict("records")}
        headers = (self.path / "data").glob("*.hea")
        self._names = sorted((header.stem for header in headers), key=natural_key)
        self.require_records(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def reference(self, index: int) -> RecordReference:
        name = self._names[index]
        # Several findings of one kind stand on lines of their own inside a cell.
        texts = {
            re.sub(r"\W+", "_", str(column).strip().lower()): "; ".join(cell.split("\n")).strip("; ")
            for column, cell in self._rows.get(name, {}).items()
            if column != "ID"
        }
        return RecordReference(
            self.path / "data" / f"{name}.hea", record_id=name, patient_id=name, metadata=known(texts)
        )
