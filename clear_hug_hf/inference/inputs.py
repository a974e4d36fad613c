"""Find the records and the pictures of pages that paths on the command line refer to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..data.readers import guess_kind, open_source
from ..data.records import RecordReference, Rejected, describe_error, find_records, record_name, walk_records
from ..processing.errors import InputError
from ..processing.recording_files import find_format
from ..processing.recording_inputs import is_picture


def find_pictures(path: Path) -> list[Path]:
    """The picture at a path, or the sorted pictures of a folder without records."""
    if path.is_dir():
        # Only files that are recordings count, not those named like one, such as the XML beside a picture. The search
        # stops at the first: there may be many.
        if any(file.suffix == ".hea" or find_format(file) is not None for file in walk_records(path)):
            return []
        return sorted(file for file in path.rglob("*") if is_picture(file))
    return [path] if is_picture(path) else []


def list_records(
    paths: Sequence[Path], description: Mapping[str, Any] | None = None
) -> tuple[list[RecordReference], list[Rejected]]:
    """
    The unique records at paths, in folders and in CSV tables; and the paths without any record.

    Args:
        paths (`Sequence[Path]`): The paths.
        description (`dict`, *optional*): Sampling rate, lead names and unit of files that do not state them.
    """
    described = {name: value for name, value in (description or {}).items() if value is not None}
    references: list[RecordReference] = []
    rejected: list[Rejected] = []
    for path in paths:
        try:
            if path.suffix.lower() == ".csv" and guess_kind(path) == "csv":
                table = open_source("csv", path, check_files=False, **described)
                references += [table.reference(index) for index in range(len(table))]
            else:
                references += [
                    RecordReference(file, record_name(file), description=described)
                    for file in find_records(path, arrays="sampling_rate" in described)
                ]
        except (InputError, FileNotFoundError) as error:
            rejected.append(Rejected(str(path), describe_error(error)))
    # A record may be named by itself and by its folder.
    unique: dict[Path, RecordReference] = {}
    for reference in references:
        unique.setdefault(reference.path.resolve(), reference)
    return list(unique.values()), rejected
