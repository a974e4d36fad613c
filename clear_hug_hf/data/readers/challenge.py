"""PhysioNet/CinC Challenges 2020 and 2021: WFDB records with diagnoses in header comments."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ...processing.errors import InputError
from ..records import Recording, RecordReference, find_records, read_record
from .base import Excluded, RecordSource, drop_missing


DATABASES = {
    "A": "CPSC2018",
    "Q": "CPSC-Extra",
    "I": "INCART",
    "S": "PTB",
    "HR": "PTB-XL",
    "E": "Georgia",
    "JS": "Chapman-Shaoxing-Ningbo",
}
"""Database of a recording by the first letters of its name."""

_NAME = re.compile(r"([A-Z]+)\d+")
_COMMENT = re.compile(r"^#?\s*(?P<key>\w+)\s*:\s*(?P<value>.*?)\s*$")
_UNKNOWN = ("", "unknown", "nan", "-1")


def database_of(record_id: str) -> str | None:
    """The database of a Challenge recording, or `None` for other names."""
    match = _NAME.fullmatch(record_id)
    return None if match is None else DATABASES.get(match[1])


def read_comments(lines: Iterable[str]) -> dict[str, Any]:
    """
    Read age [years], sex and diagnosis codes from the comment lines of a header.

    Args:
        lines (`Iterable[str]`): Lines such as `#Age: 74`; others are ignored.

    Returns:
        `dict`: `age` (`float`), `sex` (`"female"` or `"male"`) and `codes` (`list[str]`), if present.
    """
    comments: dict[str, Any] = {}
    for line in lines:
        match = _COMMENT.match(line)
        if match is None:
            continue
        key, value = match["key"].lower(), match["value"]
        if key == "dx":
            comments["codes"] = [code.strip() for code in value.split(",") if code.strip()]
        elif value.lower() in _UNKNOWN:
            continue
        elif key == "age" and re.fullmatch(r"[0-9]{1,3}(\.[0-9]+)?", value):
            comments["age"] = float(value)
        elif key == "sex" and value[0].lower() in "fm":
            comments["sex"] = "female" if value[0].lower() == "f" else "male"
    return comments


@dataclass(frozen=True)
class ChallengeReference(RecordReference):
    """A record with age, sex and diagnoses in header comments."""

    def load(self) -> Recording:
        recording = read_record(self.path)
        return replace(recording, metadata=recording.metadata | read_comments(recording.metadata["comments"]))


class ChallengeSource(RecordSource):
    """
    Recordings in the layout of the Challenges: a header with `#Age`, `#Sex` and `#Dx` and a `.mat` file each, in one
    folder or nested (`g1`, `g2`, ... or `WFDBRecords/01/010`).

    CPSC2018, CPSC-Extra, Chapman-Shaoxing-Ningbo and Georgia are published in this layout. Patients are unknown, so
    random splits treat every recording as a different patient. With a label set, all headers are read at once.

    Args:
        path (`str` or `Path`): The folder.
        label_set (`str`, *optional*): `"cpsc9"`, `"csn"` or `"csn_published"`.
        keep_unlabeled (`bool`, *optional*, defaults to `False`): As [`RecordSource`].
        databases (`Iterable[str]`, *optional*): Names of the [`DATABASES`] to read. Defaults to those of the label
            set, or all.

    Raises:
        InputError: If the folder contains no such records.
    """

    kind = "challenge"
    title = "PhysioNet/CinC Challenge 2020/2021"
    license = "CC BY 4.0"
    citation = (
        "Perez Alday et al., Classification of 12-lead ECGs: the PhysioNet/Computing in Cardiology Challenge 2020, "
        "Physiol Meas 41, 124003 (2020); Reyna et al., Will two do?, Comput Cardiol (2021)"
    )

    def __init__(
        self,
        path: str | Path,
        label_set: str | None = None,
        keep_unlabeled: bool = False,
        databases: Iterable[str] | None = None,
    ):
        super().__init__(path, label_set, keep_unlabeled)
        selected = None if databases is None else sorted(set(databases))
        if selected is not None and (unknown := sorted(set(selected).difference(DATABASES.values()))):
            raise InputError(f"unknown database {unknown[0]!r}: choose from {', '.join(DATABASES.values())}")
        if selected is None and self.label_set is not None:
            selected = sorted(self.label_set.databases)
        self.settings["databases"] = selected
        self._records: list[tuple[Path, tuple[str, ...]]] = []
        for header in find_records(path):
            if header.suffix != ".hea":
                self.excluded.append(Excluded(header.name, "it is not a record of the Challenge"))
                continue
            codes: list[str] = []
            if selected is not None and database_of(header.stem) not in selected:
                self.excluded.append(Excluded(header.stem, f"it is not part of {' or '.join(selected)}"))
                continue
            if self.label_set is not None:
                try:
                    comments = read_comments(header.read_text(encoding="utf-8", errors="replace").splitlines())
                except OSError as error:
                    self.excluded.append(Excluded(header.stem, f"{header} cannot be read: {error.strerror}"))
                    continue
                if "codes" not in comments:
                    self.excluded.append(Excluded(header.stem, f"{header} has no #Dx line"))
                    continue
                codes = comments["codes"]
                if self.is_excluded(header.stem, codes):
                    continue
            self._records.append((header, tuple(codes)))
        self.set_record_ids([header.stem for header, _ in self._records])

    def reference(self, index: int) -> RecordReference:
        header, codes = self._records[index]
        return ChallengeReference(
            path=header,
            record_id=header.stem,
            labels=self.labels_of(codes),
            metadata=drop_missing({"database": database_of(header.stem)}),
        )
