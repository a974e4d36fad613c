"""
Files and folders that are whole or not there, guards of what a user has, and folders that belong to a piece of work.

What is written gets its name when the disk holds all of it: whatever kills the process, under the name is the old
content or the new one. What a kill left half written lies beside under a hidden name, which the owner of the folder
removes.
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
_LOST = (errno.ENOSPC, errno.EDQUOT, errno.EIO)
_DIGEST = re.compile(r"[0-9a-f]{40,}")
_OF_RECORDS = (".hea", ".dat", ".mat")


# ----------------------------------------------------------------------------------------------------------- writing


@contextmanager
def atomic_file(path: str | Path) -> Iterator[Path]:
    """
    A path to write a file to, by whatever writes files; it gets its name when all is written.

    Args:
        path (`str` or `Path`): Replaced if it exists; its folder is made. Nothing happens to it where the block fails.

    Yields:
        `Path`: Beside it, with the same ending.
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
    A folder to write to that gets its name when all is written: under it there is never half of one.

    Args:
        folder (`str` or `Path`): Replaced if it exists. Nothing happens to it where the block fails.

    Yields:
        `Path`: An empty folder beside it.
    """
    folder = Path(folder)
    partial = _beside(folder, "partial")
    partial.mkdir(parents=True)
    try:
        yield partial
        # Some libraries write weights for their owner's eyes only.
        for path in (partial, *partial.rglob("*")):
            path.chmod(0o755 if path.is_dir() else 0o644)
        put_in_place(partial, folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def put_in_place(partial: Path, path: Path) -> None:
    """Give a file or folder that is written its name, when the disk holds it; what had the name is replaced."""
    for one in (*(partial.rglob("*") if partial.is_dir() else ()), partial):
        _flush(one)
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
    Remove what kills left half written in a folder, but not below: others may be writing there. What was just being
    replaced gets its name back.
    """
    for left in [*Path(folder).glob(".*")]:
        if (match := _LEFTOVER.fullmatch(left.name)) is None:
            continue
        whole = left.with_name(match["name"])
        if match["kind"] == "replaced" and left.exists() and not whole.exists():
            left.rename(whole)
        elif left.is_dir():
            shutil.rmtree(left, ignore_errors=True)
        else:
            left.unlink(missing_ok=True)


def write_text(path: str | Path, text: str) -> None:
    """Write a text file whole."""
    with atomic_file(path) as partial:
        partial.write_text(text, encoding="utf-8")


def write_json(path: str | Path, content: Any) -> None:
    """Write a JSON file whole, as a person can read it."""
    write_text(path, json.dumps(content, indent=2) + "\n")


def write_csv(path: str | Path, rows: Sequence[Mapping[str, Any]], columns: Sequence[str] | None = None) -> None:
    """Write a CSV table whole; its `columns` are by default those of the first row."""
    with atomic_file(path) as partial, partial.open("w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, list(rows[0]) if columns is None else columns, lineterminator="\n")
        table.writeheader()
        table.writerows(rows)


def _beside(path: Path, kind: str) -> Path:
    """A name of its own, so that two processes that write the same do not meet."""
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}.{kind}")


def _flush(path: Path) -> None:
    """Have the disk hold a file or folder, as far as the file system can; fails only where content is lost."""
    try:
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
    except OSError as error:
        if error.errno in _LOST:
            raise


# ----------------------------------------------------------------------------------------------------------- digests


def file_digest(path: Path) -> str:
    """SHA-256 of a file, hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def folder_digests(folder: Path) -> dict[str, str]:
    """SHA-256 of each file in a folder by its path there, as POSIX spells it, sorted."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): file_digest(path) for path in files}


# ------------------------------------------------------------------------------------------------------------ guards


def check_writable(
    folder: str | Path, own: Sequence[str] | None = None, inputs: Iterable[str | Path | None] = ()
) -> Path:
    """
    Refuse, before any work, a folder that cannot be written, or whose contents would be mixed with others or lost.

    Args:
        folder (`str` or `Path`): The folder to write to.
        own (`Sequence[str]`, *optional*): Files or folders of which every earlier run of the same kind leaves at
            least one: a folder with other contents and none of these is refused. By default the contents do not
            matter.
        inputs (`Iterable[str | Path | None]`, *optional*): What is read: the folder must not be, or hold, any of it.

    Raises:
        InputError: If the path is a file, its nearest existing folder cannot be written, or it holds something else.
    """
    folder = Path(folder)
    existing = folder
    while not os.path.lexists(existing):
        existing = existing.parent
    if not existing.is_dir():
        raise InputError(f"{existing} is a file: choose another folder")
    if not os.access(existing, os.W_OK):
        raise InputError(f"{existing} cannot be written: choose another folder")
    for one in inputs:
        if one is not None and folder.resolve() in (Path(one).resolve(), *Path(one).resolve().parents):
            raise InputError(f"{folder} is, or holds, what is read ({one}): choose another folder")
    if own is not None and folder.is_dir() and not any((folder / name).exists() for name in own):
        others = sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))
        if others:
            if not own:
                raise InputError(f"{folder} holds {others[0]} already: choose an empty folder, or give --overwrite")
            raise InputError(
                f"{folder} holds {others[0]}, which no earlier run of this kind wrote: choose a new or an empty folder"
            )
    return folder


def check_file(
    path: Path | None, overwrite: bool = False, inputs: Iterable[Path | None] = (), suffixes: Sequence[str] = ()
) -> None:
    """
    Refuse, before any work, a file that cannot be written, has another ending than one of `suffixes`, or exists: with
    `overwrite` only if it is one of the `inputs`, under whatever name, a signal file of a record among them, or lies
    in a folder among them.
    """
    if path is None:
        return
    if path.is_dir():
        raise InputError(f"{path} is a folder: name a file")
    if suffixes and path.suffix.lower() not in suffixes:
        raise InputError(f"{path} has another ending than what is written: call it {', '.join(suffixes)}")
    check_writable(path.parent)
    if not os.path.lexists(path):
        return
    for one in inputs:
        if one is not None and _is_read(path, one):
            raise InputError(f"{path} is, or lies in, what is read ({one}): choose another output")
    if not overwrite:
        raise InputError(f"{path} is there already: choose another name, or replace it with --overwrite")


def _is_read(path: Path, read: Path) -> bool:
    if os.path.isdir(read):
        return read.resolve() in path.resolve().parents or read.resolve() in path.absolute().parents
    # A record is named by any of its files, or by none.
    names = (read, *(read.with_name(f"{stem}{suffix}") for stem in (read.name, read.stem) for suffix in _OF_RECORDS))
    return any(os.path.exists(one) and os.path.samefile(path, one) for one in names if os.path.exists(path))


def check_picture_folder(
    folder: Path | None, names: Sequence[str] | None = None, overwrite: bool = False, inputs: Iterable[Path] = ()
) -> None:
    """
    Refuse, before any work, a folder for pictures that cannot be drawn or written, or in which some exist: those of
    `names`, or any file where the names are not known yet. With `overwrite` it may hold files, but none of the inputs.
    """
    if folder is None:
        return
    import_library("matplotlib.figure", "drawing pictures")
    check_writable(folder, own=None if overwrite or names is not None else ())
    for name in names or ():
        check_file(folder / name, overwrite=overwrite)
    if read := [one for one in inputs if os.path.isfile(one) and one.resolve().parent == folder.resolve()]:
        raise InputError(f"{read[0]} is read and lies in {folder}: choose another folder for pictures")


# ------------------------------------------------------------------------------------------------ folders with owners


class Difference(NamedTuple):
    """A setting and its value on both sides, `None` where it is absent."""

    name: str
    there: Any
    now: Any

    def __str__(self) -> str:
        if all(isinstance(value, str) and _DIGEST.fullmatch(value) for value in (self.there, self.now)):
            return f"not the same: {self.name}"
        return f"{self.name} was {self.there!r} and is {self.now!r} now"


def first_difference(there: Any, now: Any, name: str = "") -> Difference | None:
    """
    The first setting in which two nested dictionaries differ.

    Args:
        there, now: The descriptions, as JSON has them.
        name (`str`, *optional*): Of the whole.
    """
    if isinstance(there, dict) and isinstance(now, dict):
        before = f"{name}: " if name else ""
        found = (first_difference(there.get(key), now.get(key), f"{before}{key}") for key in {**there, **now})
        return next(filter(None, found), None)
    return None if there == now else Difference(name, there, now)


def check_same(
    path: Path, work: str, there: Any, now: Any, remedy: str, name: str = "", words: Mapping[str, str] | None = None
) -> None:
    """
    Refuse a file or folder that holds other `work` than what is asked for `now`, with the first difference and the
    `remedy`; arguments otherwise as in [`first_difference`] and [`RunFolder`].
    """
    if (found := first_difference(there, _plain(now), name)) is not None:
        raise InputError(f"{path} holds another {work} ({(words or {}).get(found.name, found)}): {remedy}")


def read_state(path: Path, remedy: str) -> dict[str, Any] | None:
    """The object in a JSON file, `None` without one; an [`InputError`] with what to do if the file is damaged."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise InputError(f"{path} is damaged: {remedy}")
    return found


class RunFolder:
    """
    A folder that belongs to one piece of work: the same work goes on in it, and any other is refused.

    Args:
        folder (`Path`): The folder.
        mark (`str`): Name of the file in it that says, as JSON, whose it is.
        work (`str`): The work in words, as "fine-tuning run", for errors.
        remedy (`str`): What errors tell users to do.
        foreign (`Sequence[str]`, *optional*): Files and folders that this work would replace: without the mark they
            are not its own.
        written (`re.Pattern`, *optional*): Names of all that such work writes; other files are refused.
        words (`Mapping[str, str]`, *optional*): What errors say of settings whose values tell users nothing.
    """

    def __init__(
        self,
        folder: Path,
        mark: str,
        work: str,
        remedy: str,
        foreign: Sequence[str] = (),
        written: re.Pattern[str] | None = None,
        words: Mapping[str, str] | None = None,
    ):
        self.folder, self.mark = folder, folder / mark
        self.work, self.remedy, self.foreign, self.written, self.words = work, remedy, foreign, written, words or {}

    def open(self, identity: Mapping[str, Any], restart: bool = False) -> dict[str, Any] | None:
        """
        Refuse the folder of other work; nothing is written.

        Args:
            identity (`Mapping[str, Any]`): What two pieces of work must share to be the same, as JSON has it; its keys
                are words for users. What else the mark says does not matter.
            restart (`bool`, *optional*, defaults to `False`): Whether the work starts anew whatever the mark says.

        Returns:
            `dict`: What the mark says, where the work goes on; `None` where it starts.

        Raises:
            InputError: If the folder holds other work, with the first difference; or files that no such work wrote, or
                a damaged mark.
        """
        if not self.mark.is_file() and (found := [name for name in self.foreign if (self.folder / name).exists()]):
            raise InputError(
                f"{self.folder} holds {found[0]}, which no {self.work} wrote and which would be lost: choose another "
                "folder"
            )
        names = sorted(path.name for path in self.folder.iterdir()) if self.written and self.folder.is_dir() else ()
        if others := [name for name in names if self.written and not self.written.fullmatch(name)]:
            raise InputError(
                f"{self.folder} holds {others[0]}, which no {self.work} wrote: move it away, or choose another folder"
            )
        before = None if restart else read_state(self.mark, self.remedy)
        if before is not None:
            self.check_same({name: before.get(name) for name in identity}, identity)
        return before

    def check_same(self, there: Any, now: Any, name: str = "") -> None:
        """Refuse work that was described otherwise, or the part of it that has a `name`, with the first difference."""
        check_same(self.folder, self.work, there, now, self.remedy, name, self.words)

    def claim(self, identity: Mapping[str, Any]) -> None:
        """Write down whose the folder is from now on, and remove what kills left; one process calls this."""
        remove_leftovers(self.folder)
        write_json(self.mark, _plain(identity))


def _plain(content: Any) -> Any:
    """Settings as JSON gives them back."""
    return json.loads(json.dumps(content, default=str))
