"""
Readers of published datasets, folders of recordings and CSV tables, with a common interface.

```python
source = open_source("ptbxl", "data/ptb-xl", label_set="ptbxl_super")
for reference in source:
    recording = reference.read()
```
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...processing.errors import InputError
from ...processing.lazy_names import lazy_names
from .csv_contract import CSV_CONTRACT


if TYPE_CHECKING:
    from .base import RecordSource

_MODULES = {
    "PtbXlSource": ".ptbxl",
    "ChallengeSource": ".challenge",
    "Cpsc2018Source": ".cpsc2018",
    "MimicIvEcgSource": ".mimic_iv_ecg",
    "Code15Source": ".code15",
    "LudbSource": ".ludb",
    "WfdbFolderSource": ".wfdb_folder",
    "CsvSource": ".csv_labels",
    "Excluded": ".base",
    "RecordSource": ".base",
}
_KINDS = {
    "ptbxl": "PtbXlSource",
    "challenge": "ChallengeSource",
    "cpsc2018": "Cpsc2018Source",
    "mimic_iv_ecg": "MimicIvEcgSource",
    "code15": "Code15Source",
    "ludb": "LudbSource",
    "wfdb": "WfdbFolderSource",
    "csv": "CsvSource",
}
__getattr__, __dir__ = lazy_names(__name__, _MODULES)


class _Readers(Mapping[str, "type[RecordSource]"]):
    """Reader classes by kind, imported on first use, so that the command line can list the kinds quickly."""

    def __getitem__(self, kind: str) -> type[RecordSource]:
        return __getattr__(_KINDS[kind])

    def __iter__(self) -> Iterator[str]:
        return iter(_KINDS)

    def __len__(self) -> int:
        return len(_KINDS)


READERS: Mapping[str, type[RecordSource]] = _Readers()
"""Reader classes by kind of source."""


def open_source(kind: str | None, path: str | Path, **options: Any) -> RecordSource:
    """
    Open recordings on disk.

    Args:
        kind (`str`, *optional*): One of [`READERS`]; `None` detects it with [`guess_kind`].
        path (`str` or `Path`): The folder or, for some kinds, file.
        **options: Options of the reader.

    Returns:
        [`RecordSource`]: References to the recordings.

    Raises:
        FileNotFoundError: If the path does not exist.
        InputError: If the kind or an option is unknown, or the reader cannot use the recordings.
    """
    kind = guess_kind(path) if kind is None else kind
    if kind not in READERS:
        raise InputError(f"unknown reader {kind!r}: choose from {', '.join(READERS)}")
    reader = READERS[kind]
    if unknown := sorted(set(options).difference(reader_options(kind))):
        raise InputError(f"{kind} has no option {unknown[0]!r}: choose from {', '.join(reader_options(kind))}")
    return reader(path, **options)


def reader_options(kind: str) -> list[str]:
    """Names of the options of a reader."""
    return [name for name in inspect.signature(READERS[kind]).parameters if name != "path"]


def guess_kind(path: str | Path) -> str:
    """
    Detect the kind of source at a path.

    Args:
        path (`str` or `Path`): A folder, a CSV table or a recording.

    Returns:
        `str`: One of [`READERS`].

    Raises:
        FileNotFoundError: If the path does not exist.
        InputError: If no known kind of recordings is found.
    """
    from ...processing.recording_files import find_format
    from ..records import walk_records
    from . import code15, cpsc2018, ludb, mimic_iv_ecg, ptbxl
    from .challenge import read_comments

    path = Path(path)
    if path.suffix.lower() == ".csv" and path.is_file():
        return "wfdb" if find_format(path) == "CSV" else "csv"
    if not path.is_dir():
        if path.is_file() or path.with_name(f"{path.name}.hea").is_file():
            return "wfdb"
        raise FileNotFoundError(f"{path} does not exist: check the path")
    for module, kind in ((ptbxl, "ptbxl"), (mimic_iv_ecg, "mimic_iv_ecg"), (code15, "code15"), (ludb, "ludb")):
        if (path / module.TABLE).is_file():
            return kind
    header = _first_header(path)
    if header is not None:
        lines = header.read_text(encoding="utf-8", errors="replace").splitlines()
        stated = read_comments(line for line in lines if line.startswith("#"))
        return "challenge" if "codes" in stated else "wfdb"
    if cpsc2018.find_tables(path):
        return "cpsc2018"
    if any(True for _ in walk_records(path, arrays=True)):
        return "wfdb"
    raise InputError(
        f"{path} contains no recordings: neither .hea files nor one of the tables {ptbxl.TABLE}, "
        f"{mimic_iv_ecg.TABLE}, {code15.TABLE}, {ludb.TABLE} and {cpsc2018.TABLE} of the known datasets; to use a CSV "
        "table of your own, name the table itself"
    )


def _first_header(folder: Path) -> Path | None:
    """The first header below a folder; the search stops there, as published datasets have hundreds of thousands."""
    for parent, folders, files in os.walk(folder):
        folders.sort()
        if headers := [name for name in files if name.endswith(".hea")]:
            return Path(parent) / min(headers)
    return None


__all__ = ["CSV_CONTRACT", "READERS", *_MODULES, "guess_kind", "open_source", "reader_options"]
