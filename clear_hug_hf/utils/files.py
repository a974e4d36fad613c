"""
Atomic writes, checks that protect a user's files, and folders that belong to one run.

Files and folders are written under a hidden temporary name beside their destination, flushed to disk and then renamed.
If the process is killed, the destination has either the old content or the new one. The next run in the same folder
removes temporary files that a killed process left behind.
"""

from __future__ import annotations

import csv
import errno
import hashlib
import json
import os
import re
import secrets
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from ..processing.errors import InputError, import_library


_LEFTOVER = re.compile(r"\.(?P<name>.+)\.[0-9a-f]{8}\.(?P<kind>partial|replaced)(\.\w+)?")
_DATA_LOSS = (errno.ENOSPC, errno.EDQUOT, errno.EIO)
_DIGEST = re.compile(r"[0-9a-f]{40,}")
_RECORD_SUFFIXES = (".hea", ".dat", ".mat")


# ----------------------------------------------------------------------------------------------------------- writing


@contextmanager
def atomic_file(path: str | Path) -> Iterator[Path]:
    """
    Write a file atomically: write to the path that is yielded, and it is renamed to `path` at the end of the block.

    Args:
        path (`str` or `Path`): Replaced if it exists, and left alone if the block raises. Its folder is created.

    Yields:
        `Path`: A temporary path in the same folder, with the same suffix.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = _beside(path, f"partial{path.suffix}")
    try:
        yield partial
        put_in_place(partial, path)
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def atomic_folder(folder: str | Path) -> Iterator[Path]:
    """
    Write a folder atomically: write into the folder that is yielded, and it is renamed at the end of the block.

    Args:
        folder (`str` or `Path`): Replaced if it exists, and left alone if the block raises.

    Yields:
        `Path`: An empty temporary folder beside it.
    """
    folder = Path(folder)
    partial = _beside(folder, "partial")
    partial.mkdir(parents=True)
    try:
        yield partial
        # Some libraries write weights that only their owner can read.
        for path in (partial, *partial.rglob("*")):
            path.chmod(0o755 if path.is_dir() else 0o644)
        put_in_place(partial, folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def put_in_place(partial: Path, path: Path) -> None:
    """Flush a finished temporary file or folder to disk and rename it to `path`, which is replaced if it exists."""
    for written in (*(partial.rglob("*") if partial.is_dir() else ()), partial):
        _flush(written)
    if not partial.is_dir():
        partial.replace(path)
    elif path.exists():
        replaced = _beside(path, "replaced")
        path.rename(replaced)
        partial.rename(path)
        shutil.rmtree(replaced)
    else:
        partial.rename(path)
    _flush(path.parent)


def remove_leftovers(folder: str | Path) -> None:
    """
    Remove temporary files of killed processes from a folder, but not from its subfolders, where other processes may be
    writing. A folder whose replacement was interrupted is restored.
    """
    for leftover in [*Path(folder).glob(".*")]:
        if (match := _LEFTOVER.fullmatch(leftover.name)) is None:
            continue
        original = leftover.with_name(match["name"])
        if match["kind"] == "replaced" and leftover.exists() and not original.exists():
            leftover.rename(original)
        elif leftover.is_dir():
            shutil.rmtree(leftover, ignore_errors=True)
        else:
            leftover.unlink(missing_ok=True)


def write_text(path: str | Path, text: str) -> None:
    """Write a text file atomically."""
    with atomic_file(path) as partial:
        partial.write_text(text, encoding="utf-8")


def write_json(path: str | Path, content: Any) -> None:
    """Write an indented JSON file atomically."""
    write_text(path, json.dumps(content, indent=2) + "\n")


def write_csv(path: str | Path, rows: Sequence[Mapping[str, Any]], columns: Sequence[str] | None = None) -> None:
    """Write a CSV table atomically; `columns` defaults to those of the first row."""
    with atomic_file(path) as partial, partial.open("w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, list(rows[0]) if columns is None else columns, lineterminator="\n")
        table.writeheader()
        table.writerows(rows)


def _beside(path: Path, kind: str) -> Path:
    """A unique temporary name, so that processes that write the same file do not collide."""
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}.{kind}")


def _flush(path: Path) -> None:
    """Flush a file or folder to disk if the file system supports it; raises only if content would be lost."""
    try:
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
    except OSError as error:
        if error.errno in _DATA_LOSS:
            raise


# ----------------------------------------------------------------------------------------------------------- digests


def file_digest(path: Path) -> str:
    """SHA-256 hex digest of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def folder_digests(folder: Path) -> dict[str, str]:
    """SHA-256 hex digest of each file in a folder by its relative POSIX path, sorted."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): file_digest(path) for path in files}


# ------------------------------------------------------------------------------------------------------------ guards


def check_writable(
    folder: str | Path, own: Sequence[str] | None = None, inputs: Iterable[str | Path | None] = ()
) -> Path:
    """
    Check, before any work, that an output folder can be written and that no other files would be mixed in or lost.

    Args:
        folder (`str` or `Path`): The output folder.
        own (`Sequence[str]`, *optional*): Files or folders of which every earlier run of the same kind leaves at
            least one. A folder with other contents and none of these is refused. By default any contents are accepted.
        inputs (`Iterable[str | Path | None]`, *optional*): Input paths. The output folder must not be or contain any
            of them.

    Raises:
        InputError: If the path is a file, its nearest existing folder is not writable, or it contains other files.
    """
    folder = Path(folder)
    existing = folder
    while not os.path.lexists(existing):
        existing = existing.parent
    if not existing.is_dir():
        raise InputError(f"{existing} is a file: choose another folder")
    if not os.access(existing, os.W_OK):
        raise InputError(f"{existing} is not writable: choose another folder")
    for path in inputs:
        if path is not None and folder.resolve() in (Path(path).resolve(), *Path(path).resolve().parents):
            raise InputError(f"the output folder {folder} is or contains the input {path}: choose another folder")
    if own is not None and folder.is_dir() and not any((folder / name).exists() for name in own):
        others = sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))
        if others:
            if not own:
                raise InputError(f"{folder} already contains {others[0]}: choose an empty folder, or use --overwrite")
            raise InputError(
                f"{folder} contains {others[0]}, which no earlier run of this kind wrote: choose a new or empty folder"
            )
    return folder


def check_file(
    path: Path | None, overwrite: bool = False, inputs: Iterable[Path | None] = (), suffixes: Sequence[str] = ()
) -> None:
    """
    Check, before any work, that an output file can be written.

    Args:
        path (`Path`, *optional*): The output file; `None` passes.
        overwrite (`bool`, *optional*, defaults to `False`): Whether the file may exist.
        inputs (`Iterable[Path | None]`, *optional*): Input paths. Even with `overwrite`, the output must not be one of
            them or one of the files of an input record, nor lie in an input folder.
        suffixes (`Sequence[str]`, *optional*): Allowed file extensions; any by default.

    Raises:
        InputError: If the file cannot be written, has another extension, exists, or is an input.
    """
    if path is None:
        return
    if path.is_dir():
        raise InputError(f"{path} is a folder: name a file")
    if suffixes and path.suffix.lower() not in suffixes:
        raise InputError(f"{path} must have the extension {' or '.join(suffixes)}: rename the output file")
    check_writable(path.parent)
    if not os.path.lexists(path):
        return
    for input_path in inputs:
        if input_path is not None and _is_part_of(path, input_path):
            raise InputError(f"the output {path} is or lies in the input {input_path}: choose another output")
    if not overwrite:
        raise InputError(f"{path} already exists: choose another name, or replace it with --overwrite")


def _is_part_of(path: Path, input_path: Path) -> bool:
    if os.path.isdir(input_path):
        folder = input_path.resolve()
        return folder in path.resolve().parents or folder in path.absolute().parents
    # A WFDB record may be named by any of its files, or by their common stem.
    stems = (input_path.name, input_path.stem)
    files = (input_path, *(input_path.with_name(f"{stem}{suffix}") for stem in stems for suffix in _RECORD_SUFFIXES))
    return os.path.exists(path) and any(os.path.exists(file) and os.path.samefile(path, file) for file in files)


def check_picture_folder(
    folder: Path | None, names: Sequence[str] | None = None, overwrite: bool = False, inputs: Iterable[Path] = ()
) -> None:
    """
    Check, before any work, that pictures can be drawn and written to a folder. Without `overwrite` none of the files
    `names` may exist, or, if the names are not known yet, no file at all. The folder must not contain an input.
    """
    if folder is None:
        return
    import_library("matplotlib.figure", "drawing pictures")
    check_writable(folder, own=None if overwrite or names is not None else ())
    for name in names or ():
        check_file(folder / name, overwrite=overwrite)
    if inside := [path for path in inputs if os.path.isfile(path) and path.resolve().parent == folder.resolve()]:
        raise InputError(f"the input {inside[0]} lies in {folder}: choose another folder for the pictures")


# ------------------------------------------------------------------------------------------------ folders with owners


class Difference(NamedTuple):
    """A setting with its saved and its current value, `None` if missing."""

    name: str
    saved: Any
    current: Any

    def __str__(self) -> str:
        if all(isinstance(value, str) and _DIGEST.fullmatch(value) for value in (self.saved, self.current)):
            return f"mismatch in {self.name}"
        return f"{self.name} was {self.saved!r} and is now {self.current!r}"


def first_difference(saved: Any, current: Any, name: str = "") -> Difference | None:
    """
    The first setting in which two nested dictionaries differ.

    Args:
        saved, current: JSON-like values.
        name (`str`, *optional*): Name of the root, for the name of the setting.
    """
    if isinstance(saved, dict) and isinstance(current, dict):
        prefix = f"{name}: " if name else ""
        keys = {**saved, **current}
        differences = (first_difference(saved.get(key), current.get(key), f"{prefix}{key}") for key in keys)
        return next(filter(None, differences), None)
    return None if saved == current else Difference(name, saved, current)


def check_same(
    path: Path,
    kind: str,
    saved: Any,
    current: Any,
    remedy: str,
    name: str = "",
    words: Mapping[str, str] | None = None,
) -> None:
    """
    Raise an [`InputError`] with the first difference and the remedy if a file or folder was written with other
    settings; arguments as in [`first_difference`] and [`RunFolder`].
    """
    if (difference := first_difference(saved, _to_json(current), name)) is not None:
        reason = (words or {}).get(difference.name, difference)
        raise InputError(f"{path} contains a different {kind} ({reason}): {remedy}")


def read_state(path: Path, remedy: str) -> dict[str, Any] | None:
    """The object in a JSON file, or `None` if there is no file; raises an [`InputError`] if the file is damaged."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except ValueError:
        content = None
    if not isinstance(content, dict):
        raise InputError(f"{path} is damaged: {remedy}")
    return content


class RunFolder:
    """
    A folder that belongs to one run: the same run may resume in it, and any other run is refused.

    Args:
        folder (`Path`): The folder.
        mark (`str`): Name of the JSON file that identifies the run.
        kind (`str`): Kind of run, such as "fine-tuning run", for error messages.
        remedy (`str`): What to do about an error, for error messages.
        foreign (`Sequence[str]`, *optional*): Files and folders that the run would replace. Without the mark, the
            folder is refused if it contains any of them.
        written (`re.Pattern`, *optional*): Names of all files that such a run writes. Other files are refused.
        words (`Mapping[str, str]`, *optional*): Messages for settings whose values mean nothing to users.
    """

    def __init__(
        self,
        folder: Path,
        mark: str,
        kind: str,
        remedy: str,
        foreign: Sequence[str] = (),
        written: re.Pattern[str] | None = None,
        words: Mapping[str, str] | None = None,
    ):
        self.folder, self.mark = folder, folder / mark
        self.kind, self.remedy, self.foreign, self.written, self.words = kind, remedy, foreign, written, words or {}

    def open(self, identity: Mapping[str, Any], restart: bool = False) -> dict[str, Any] | None:
        """
        Check that the folder may be used by a run, without writing anything.

        Args:
            identity (`Mapping[str, Any]`): Settings in which two runs must agree to be the same, JSON-like. Error
                messages show their keys. Other fields of the mark are ignored.
            restart (`bool`, *optional*, defaults to `False`): Whether to start over regardless of the mark.

        Returns:
            `dict`: The content of the mark if the run resumes, `None` if it starts.

        Raises:
            InputError: If the folder contains a different run, files that no such run wrote, or a damaged mark.
        """
        if not self.mark.is_file() and (lost := [name for name in self.foreign if (self.folder / name).exists()]):
            raise InputError(
                f"{self.folder} contains {lost[0]}, which no {self.kind} wrote and which would be overwritten: choose "
                "another folder"
            )
        names = sorted(path.name for path in self.folder.iterdir()) if self.written and self.folder.is_dir() else ()
        if others := [name for name in names if self.written and not self.written.fullmatch(name)]:
            raise InputError(
                f"{self.folder} contains {others[0]}, which no {self.kind} wrote: move it, or choose another folder"
            )
        saved = None if restart else read_state(self.mark, self.remedy)
        if saved is not None:
            self.check_same({name: saved.get(name) for name in identity}, identity)
        return saved

    def check_same(self, saved: Any, current: Any, name: str = "") -> None:
        """Raise an [`InputError`] with the first difference if the settings, or the part called `name`, differ."""
        check_same(self.folder, self.kind, saved, current, self.remedy, name, self.words)

    def claim(self, identity: Mapping[str, Any]) -> None:
        """Write the mark and remove leftovers of killed processes; called by a single process."""
        remove_leftovers(self.folder)
        write_json(self.mark, _to_json(identity))


def _to_json(content: Any) -> Any:
    """Settings after a round trip through JSON."""
    return json.loads(json.dumps(content, default=str))
