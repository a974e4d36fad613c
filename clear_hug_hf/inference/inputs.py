"""Find the records and the pictures of pages that paths on the command line refer to."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ..data.readers import open_source
from ..data.records import RecordReference, Rejected, describe_error, find_records
from ..processing.errors import InputError
from ..processing.recording_inputs import is_picture


def find_pictures(path: Path) -> list[Path]:
    """The picture at a path, or the sorted pictures of a folder without records."""
    if path.is_dir():
        if any(path.rglob("*.hea")):  # stops at the first record: there may be many
            return []
        return sorted(file for file in path.rglob("*") if is_picture(file))
    return [path] if is_picture(path) else []


def list_records(paths: Sequence[Path]) -> tuple[list[RecordReference], list[Rejected]]:
    """The unique records at paths, in folders and in CSV tables; and the paths without any record."""
    references: list[RecordReference] = []
    rejected: list[Rejected] = []
    for path in paths:
        try:
            if path.suffix.lower() == ".csv":
                table = open_source("csv", path, check_files=False)
                references += [table.reference(index) for index in range(len(table))]
            else:
                references += [RecordReference(header, str(header.with_suffix(""))) for header in find_records(path)]
        except (InputError, FileNotFoundError) as error:
            rejected.append(Rejected(str(path), describe_error(error)))
    # A record may be named by itself and by its folder.
    unique: dict[Path, RecordReference] = {}
    for reference in references:
        unique.setdefault(reference.path.resolve(), reference)
    return list(unique.values()), rejected
