"""Whatever kills a process, a file or folder is the old one or the new one, and no other file is lost."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

from clear_hug_hf.processing.errors import InputError
from clear_hug_hf.utils import files
from clear_hug_hf.utils.files import (
    RunFolder,
    atomic_file,
    atomic_folder,
    check_file,
    check_picture_folder,
    check_writable,
)


IDENTITY = {"the recipe": {"epochs": 2, "betas": (0.9, 0.98)}, "the recordings": "a" * 64}


def _content(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): path.read_text() for path in sorted(folder.rglob("*")) if path.is_file()}


def _write_file(path: Path, text: str) -> None:
    with atomic_file(path) as partial:
        partial.write_text(text)


def _write_folder(path: Path, text: str) -> None:
    with atomic_folder(path) as partial:
        (partial / "weights.bin").write_text(text)


@pytest.fixture(params=[_write_file, _write_folder], ids=["file", "folder"])
def write(request: pytest.FixtureRequest) -> Callable[[Path, str], None]:
    return request.param


# ----------------------------------------------------------------------------------------------------------- writing


def test_when_something_is_written_then_it_is_whole_and_nothing_else_is_there(
    tmp_path: Path, write: Callable[[Path, str], None]
) -> None:
    for text in ("first", "second"):
        write(tmp_path / "new" / "out.npy", text)
        assert list(_content(tmp_path).values()) == [text]
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["out.npy"]


def test_when_a_file_is_written_then_what_is_handed_out_has_its_ending(tmp_path: Path) -> None:
    with atomic_file(tmp_path / "page.png") as partial:
        assert (partial.parent, partial.suffix) == (tmp_path, ".png")
        partial.write_bytes(b"drawn")
        assert not (tmp_path / "page.png").exists()


@pytest.mark.parametrize("error", [OSError("no space"), KeyboardInterrupt(), SystemExit()], ids=type)
def test_when_writing_fails_in_the_middle_then_the_old_content_stays(tmp_path: Path, error: BaseException) -> None:
    _write_file(tmp_path / "table.csv", "old")
    _write_folder(tmp_path / "model", "old")
    before = _content(tmp_path)

    def failing(partial: Path) -> None:
        partial.write_text("ha")
        raise error

    with pytest.raises(type(error)), atomic_file(tmp_path / "table.csv") as partial:
        failing(partial)
    with pytest.raises(type(error)), atomic_folder(tmp_path / "model") as partial:
        failing(partial / "weights.bin")
    assert _content(tmp_path) == before


@pytest.mark.parametrize(("code", "left"), [(errno.ENOSPC, "old"), (errno.EINVAL, "new")], ids=["full", "unable"])
def test_when_the_disk_cannot_flush_then_the_old_content_stays_only_where_the_new_is_lost(
    tmp_path: Path, write: Callable[[Path, str], None], monkeypatch: pytest.MonkeyPatch, code: int, left: str
) -> None:
    def fail(_: int) -> None:
        raise OSError(code, os.strerror(code))

    write(tmp_path / "out", "old")
    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="space") if left == "old" else nullcontext():
        write(tmp_path / "out", "new")
    assert list(_content(tmp_path).values()) == [left]


def test_when_two_write_the_same_then_each_has_a_name_of_its_own(tmp_path: Path) -> None:
    with atomic_file(tmp_path / "shard") as first, atomic_file(tmp_path / "shard") as second:
        first.write_text("one")
        second.write_text("two")
    assert _content(tmp_path) == {"shard": "one"}


def test_when_a_folder_is_written_then_others_may_read_it(tmp_path: Path) -> None:
    with atomic_folder(tmp_path / "model") as partial:
        (partial / "part").mkdir(mode=0o700)
        (partial / "part" / "weights.bin").touch(mode=0o600)
    modes = [path.stat().st_mode & 0o777 for path in (tmp_path / "model", *sorted((tmp_path / "model").rglob("*")))]
    assert modes == [0o755, 0o755, 0o644]


def test_when_a_kill_left_things_then_they_go_and_what_was_being_replaced_gets_its_name_back(tmp_path: Path) -> None:
    def killed(path: Path, *, between: bool) -> None:
        """What is there if the process is killed before, or between, the two renamings of a folder."""
        with pytest.MonkeyPatch.context() as patch:
            renamed: list[Path] = []
            rename = Path.rename

            def once(self: Path, target: Path) -> Path:
                if len(renamed) == between:
                    raise SystemExit
                renamed.append(self)
                return rename(self, target)

            patch.setattr(Path, "rename", once)
            patch.setattr(files.shutil, "rmtree", lambda *_, **__: None)
            with pytest.raises(SystemExit):
                _write_folder(path, "new")

    for name, between in (("model", True), ("best", False)):
        _write_folder(tmp_path / "run" / name, "old")
        killed(tmp_path / "run" / name, between=between)
    (tmp_path / "run" / ".log.csv.0123abcd.partial.csv").write_text("ha")
    (tmp_path / "run" / ".notes").write_text("mine")
    assert not (tmp_path / "run" / "model").exists()
    files.remove_leftovers(tmp_path / "run")
    files.remove_leftovers(tmp_path / "absent")
    assert _content(tmp_path / "run") == {".notes": "mine", "best/weights.bin": "old", "model/weights.bin": "old"}


def test_when_a_replaced_folder_was_not_removed_yet_then_the_new_one_stays(tmp_path: Path) -> None:
    _write_folder(tmp_path / "model", "new")
    (tmp_path / ".model.0123abcd.replaced").mkdir()
    # What lies in a leftover goes with it.
    (tmp_path / ".best.0123abcd.partial" / ".inner.0123abcd.replaced").mkdir(parents=True)
    files.remove_leftovers(tmp_path)
    assert _content(tmp_path) == {"model/weights.bin": "new"}


def test_when_tables_and_json_are_written_then_they_are_as_people_read_them(tmp_path: Path) -> None:
    files.write_json(tmp_path / "facts.json", {"a": [1, None]})
    files.write_csv(tmp_path / "rows.csv", [{"name": 'the "first", one', "value": 0.5}, {"name": "x", "value": None}])
    files.write_csv(tmp_path / "empty.csv", [], ["name", "value"])
    assert (tmp_path / "facts.json").read_bytes() == b'{\n  "a": [\n    1,\n    null\n  ]\n}\n'
    assert (tmp_path / "rows.csv").read_bytes() == b'name,value\n"the ""first"", one",0.5\nx,\n'
    assert (tmp_path / "empty.csv").read_bytes() == b"name,value\n"


def test_when_digests_are_taken_then_they_are_those_of_sha256sum(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    for name in ("b/c", "a"):
        (tmp_path / name).write_text(name)
    expected = {name: hashlib.sha256(name.encode()).hexdigest() for name in ("a", "b/c")}
    assert list(files.folder_digests(tmp_path).items()) == list(expected.items())


# ------------------------------------------------------------------------------------------------------------ guards


def test_when_a_folder_cannot_be_written_then_it_is_refused_and_nothing_is_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "nowhere").symlink_to(tmp_path / "absent")
    for name in ("file", "file/run", "nowhere"):
        with pytest.raises(InputError, match=r"(file|nowhere) is a file: choose another folder"):
            check_writable(tmp_path / name)
    assert check_writable(tmp_path / "new" / "run") == tmp_path / "new" / "run"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "nowhere"]


def test_when_a_folder_is_read_only_then_it_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Root may write anywhere.
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    for path in (tmp_path, tmp_path / "run"):
        with pytest.raises(InputError, match="not writable"):
            check_writable(path)
    with pytest.raises(InputError, match="not writable"):
        check_file(tmp_path / "out.csv")


def test_when_a_folder_holds_what_is_read_then_it_is_refused_under_any_name(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "data")
    read = tmp_path / "data" / "table.csv"
    for folder in (tmp_path, tmp_path / "data", tmp_path / "link"):
        with pytest.raises(InputError, match="is or contains the input"):
            check_writable(folder, inputs=[None, read])
    check_writable(tmp_path / "data" / "run", inputs=[read])


def test_when_a_folder_holds_something_else_then_it_is_refused(tmp_path: Path) -> None:
    (tmp_path / ".hidden").touch()
    check_writable(tmp_path, own=["run.json"])
    (tmp_path / "thesis.txt").touch()
    check_writable(tmp_path)
    with pytest.raises(InputError, match=r"contains thesis\.txt, which no earlier run of this kind wrote"):
        check_writable(tmp_path, own=["run.json"])
    with pytest.raises(InputError, match=r"already contains thesis\.txt: .*--overwrite"):
        check_writable(tmp_path, own=())
    (tmp_path / "run.json").touch()
    check_writable(tmp_path, own=["run.json"])


def test_when_a_file_cannot_be_written_then_it_is_refused(tmp_path: Path) -> None:
    (tmp_path / "there.csv").write_text("mine")
    (tmp_path / "dangling.csv").symlink_to(tmp_path / "absent")
    check_file(None)
    check_file(tmp_path / "new" / "table.csv", suffixes=[".csv"])
    for path, more, message in (
        (tmp_path, {}, "is a folder: name a file"),
        (tmp_path / "table.png", {"suffixes": [".csv", ".tsv"]}, r"must have the extension \.csv or \.tsv"),
        (tmp_path / "there.csv" / "below.csv", {}, "is a file"),
        (tmp_path / "there.csv", {}, "already exists: .*--overwrite"),
        (tmp_path / "dangling.csv", {}, "already exists"),
    ):
        with pytest.raises(InputError, match=message):
            check_file(path, **more)
    check_file(tmp_path / "there.csv", overwrite=True)
    assert (tmp_path / "there.csv").read_text() == "mine"


@pytest.mark.parametrize(
    ("output", "read"),
    [
        ("in/data.csv", "in/data.csv"),
        ("in/data.csv", "in"),
        ("in/data.csv", "folder"),
        ("link.csv", "in/data.csv"),
        ("hard.csv", "in/data.csv"),
        ("in/link.csv", "in"),
        ("in/patient.dat", "in/patient"),
        ("in/patient.dat", "in/patient.hea"),
    ],
)
def test_when_a_file_is_read_then_it_is_never_overwritten(tmp_path: Path, output: str, read: str) -> None:
    (tmp_path / "in").mkdir()
    for name in ("data.csv", "patient.dat", "patient.hea"):
        (tmp_path / "in" / name).write_text("mine")
    (tmp_path / "outside.csv").touch()
    (tmp_path / "in" / "link.csv").symlink_to(tmp_path / "outside.csv")
    (tmp_path / "link.csv").symlink_to(tmp_path / "in" / "data.csv")
    (tmp_path / "hard.csv").hardlink_to(tmp_path / "in" / "data.csv")
    (tmp_path / "folder").symlink_to(tmp_path / "in")
    with pytest.raises(InputError, match="is or lies in the input"):
        check_file(tmp_path / output, overwrite=True, inputs=[None, tmp_path / read])
    check_file(tmp_path / "outside.csv", overwrite=True, inputs=[tmp_path / read])


def test_when_pictures_would_be_lost_or_lie_among_what_is_read_then_their_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "roc.png").touch()
    check_picture_folder(None)
    check_picture_folder(tmp_path / "new")
    check_picture_folder(tmp_path, names=["other.png"])
    check_picture_folder(tmp_path, overwrite=True)
    with pytest.raises(InputError, match=r"already contains roc\.png"):
        check_picture_folder(tmp_path)
    with pytest.raises(InputError, match=r"roc\.png already exists"):
        check_picture_folder(tmp_path, names=["roc.png"])
    with pytest.raises(InputError, match="lies in"):
        check_picture_folder(tmp_path, overwrite=True, inputs=[tmp_path / "roc.png"])


# ------------------------------------------------------------------------------------------------ folders with owners


def _run(folder: Path) -> RunFolder:
    return RunFolder(folder, "run.json", "run", "choose another folder, or --restart", foreign=["model"])


def test_when_the_same_work_comes_again_then_it_goes_on_with_what_the_mark_records(tmp_path: Path) -> None:
    assert _run(tmp_path / "run").open(IDENTITY) is None
    assert not (tmp_path / "run").exists()
    _run(tmp_path / "run").claim({**IDENTITY, "finished": True})
    before = _content(tmp_path)
    found = _run(tmp_path / "run").open(IDENTITY)
    assert found == json.loads(json.dumps({**IDENTITY, "finished": True}))
    assert _content(tmp_path) == before


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"the recipe": {"epochs": 3, "betas": [0.9, 0.98]}}, "the recipe: epochs was 2 and is now 3"),
        ({"the recipe": {"epochs": 2}}, "the recipe: betas was [0.9, 0.98] and is now None"),
        ({"the recordings": "b" * 64}, "mismatch in the recordings"),
        ({"processes": 2}, "processes was None and is now 2"),
    ],
)
def test_when_other_work_comes_then_the_first_difference_is_reported_and_nothing_changes(
    tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    _run(tmp_path).claim(IDENTITY)
    before = _content(tmp_path)
    with pytest.raises(InputError) as caught:
        _run(tmp_path).open({**IDENTITY, **change})
    assert str(caught.value) == f"{tmp_path} contains a different run ({message}): choose another folder, or --restart"
    assert _run(tmp_path).open({**IDENTITY, **change}, restart=True) is None
    assert _content(tmp_path) == before
    _run(tmp_path).claim({**IDENTITY, **change})
    assert _run(tmp_path).open({**IDENTITY, **change}) is not None


def test_when_a_folder_holds_what_would_be_lost_and_no_mark_then_even_a_restart_is_refused(tmp_path: Path) -> None:
    _write_folder(tmp_path / "model", "mine")
    for restart in (False, True):
        with pytest.raises(InputError, match="contains model, which no run wrote and which would be overwritten"):
            _run(tmp_path).open(IDENTITY, restart)
    _run(tmp_path).claim(IDENTITY)
    assert _run(tmp_path).open(IDENTITY) is not None


@pytest.mark.parametrize("text", ["", "{", "[]", "null"])
def test_when_a_mark_is_damaged_then_it_is_refused_and_a_restart_goes(tmp_path: Path, text: str) -> None:
    (tmp_path / "run.json").write_text(text)
    with pytest.raises(InputError, match=r"run\.json is damaged: choose another folder, or --restart"):
        _run(tmp_path).open(IDENTITY)
    assert _content(tmp_path) == {"run.json": text}
    assert _run(tmp_path).open(IDENTITY, restart=True) is None


def test_when_work_takes_its_folder_then_what_kills_left_there_goes(tmp_path: Path) -> None:
    (tmp_path / ".model.0123abcd.partial").mkdir()
    _run(tmp_path).claim(IDENTITY)
    assert [path.name for path in tmp_path.iterdir()] == ["run.json"]


def test_when_values_mean_nothing_to_users_then_words_replace_them(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path, "plan.json", "preparation", "delete it", words={"a: b": "its records are others"})
    with pytest.raises(InputError, match=r"contains a different preparation \(its records are others\): delete it"):
        folder.check_same({"a": {"b": 1}}, {"a": {"b": 2}})
    with pytest.raises(InputError, match=r"\(the model 'x' was 1 and is now 2\)"):
        folder.check_same(1, 2, "the model 'x'")


def test_when_a_folder_is_replaced_whole_then_files_of_others_in_it_are_refused(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "out", "run.json", "export", "delete it", written=re.compile(r"run\.json|\w+\.py"))
    assert folder.open(IDENTITY) is None
    folder.claim(IDENTITY)
    (tmp_path / "out" / "model.py").touch()
    assert folder.open(IDENTITY) is not None
    (tmp_path / "out" / "thesis.txt").write_text("mine")
    with pytest.raises(InputError, match=r"contains thesis\.txt, which no export wrote: move it"):
        folder.open(IDENTITY)
