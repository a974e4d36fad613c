"""Whatever kills a run, the newest checkpoint under its own name can be read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from torch import nn

from clear_hug_hf.processing import InputError
from clear_hug_hf.training.checkpoints import Checkpoints, check_sums


IDENTITY = {"the model": {"width": 3}, "the recipe": {"betas": (0.9, 0.98)}}


class _Run:
    def __init__(self, folder: Path, keep: int = 2):
        self.accelerator = Accelerator(cpu=True)
        model = nn.Linear(3, 3)
        self.model, self.optimizer = self.accelerator.prepare(model, torch.optim.AdamW(model.parameters()))
        self.checkpoints = Checkpoints(folder, self.accelerator, IDENTITY, keep)

    def newest(self) -> Any:
        return self.checkpoints.newest() or pytest.fail("nothing was found")

    def train(self, value: float) -> None:
        with torch.no_grad():
            self.model.weight.fill_(value)


def _names(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "checkpoints").iterdir())


@pytest.fixture
def run(tmp_path: Path) -> _Run:
    run = _Run(tmp_path)
    for step in (4, 8, 12):
        run.train(float(step))
        run.checkpoints.save(step, {"history": [step]})
    return run


def test_when_checkpoints_are_saved_then_the_newest_are_kept_and_found(run: _Run, tmp_path: Path) -> None:
    assert _names(tmp_path) == ["step-00000008", "step-00000012"]
    found = _Run(tmp_path)
    path, state = found.newest()
    assert (path.name, state["step"], state["history"]) == ("step-00000012", 12, [12])
    found.checkpoints.load(path)
    assert found.model.weight.eq(12.0).all()


def test_when_there_are_no_checkpoints_then_none_is_found(tmp_path: Path) -> None:
    assert _Run(tmp_path).checkpoints.newest() is None


@pytest.mark.parametrize(
    ("name", "kept"),
    [("model.safetensors", 0.9), ("optimizer.bin", 0), ("training_state.json", 0), ("training_state.json", 0.5)],
)
def test_when_a_file_of_the_newest_is_gone_or_cut_then_the_one_before_is_used(
    run: _Run, tmp_path: Path, name: str, kept: float
) -> None:
    path = tmp_path / "checkpoints" / "step-00000012" / name
    content = path.read_bytes()
    path.unlink()
    if kept:
        path.write_bytes(content[: int(kept * len(content))])
    path, state = _Run(tmp_path).newest()
    assert (path.name, state["step"]) == ("step-00000008", 8)


@pytest.mark.parametrize("at", ["save_state", "rename", "write_text"])
def test_when_a_run_is_killed_while_it_writes_then_the_one_before_is_used(
    run: _Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: str
) -> None:
    def killed(*_: Any, **__: Any) -> None:
        if at == "save_state":
            (tmp_path / "checkpoints" / ".partial-00000016" / "model.safetensors").write_bytes(b"half")
        raise SystemExit("killed")

    with monkeypatch.context() as patch:
        patch.setattr(run.accelerator if at == "save_state" else Path, at, killed)
        with pytest.raises(SystemExit):
            run.checkpoints.save(16, {})
    assert ".partial-00000016" in _names(tmp_path)
    after = _Run(tmp_path)
    path, _ = after.newest()
    assert path.name == "step-00000012"
    after.checkpoints.clean(restart=False)
    assert _names(tmp_path) == ["step-00000008", "step-00000012"]


def test_when_damaged_checkpoints_are_newer_then_they_do_not_push_out_the_good_one(run: _Run, tmp_path: Path) -> None:
    (tmp_path / "checkpoints" / "step-00000012" / "model.safetensors").write_bytes(b"short")
    resumed = _Run(tmp_path)
    path, _ = resumed.newest()
    resumed.checkpoints.load(path)
    resumed.checkpoints.save(10, {"history": ["resumed"]})
    assert _names(tmp_path) == ["step-00000008", "step-00000010"]
    path, state = resumed.newest()
    assert (path.name, state["history"]) == ("step-00000010", ["resumed"])


def test_when_every_checkpoint_is_damaged_then_an_error_replaces_a_start_at_zero(run: _Run, tmp_path: Path) -> None:
    for path in (tmp_path / "checkpoints").iterdir():
        (path / "model.safetensors").write_bytes(b"short")
    with pytest.raises(InputError, match=r"all checkpoints in .* are incomplete: .*--restart"):
        _Run(tmp_path).checkpoints.newest()


def test_when_a_step_is_saved_again_then_it_replaces_the_former(run: _Run, tmp_path: Path) -> None:
    run.train(5.0)
    run.checkpoints.save(12, {"history": ["again"]})
    path, state = run.newest()
    assert state["history"] == ["again"]
    run.checkpoints.load(path)
    assert run.model.weight.eq(5.0).all()


def test_when_files_have_their_size_but_cannot_be_read_then_it_explains_what_to_do(run: _Run, tmp_path: Path) -> None:
    weights = tmp_path / "checkpoints" / "step-00000012" / "model.safetensors"
    weights.write_bytes(b"\xff" * weights.stat().st_size)
    (weights.parent / "SHA256SUMS").unlink()
    path, _ = run.newest()
    with pytest.raises(InputError, match=r"step-00000012 cannot be read .*delete it to continue"):
        run.checkpoints.load(path)


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.bin", "training_state.json", "SHA256SUMS"])
def test_when_one_bit_of_a_checkpoint_flips_then_the_file_is_named(run: _Run, tmp_path: Path, name: str) -> None:
    newest = tmp_path / "checkpoints" / "step-00000012"
    content = bytearray((newest / name).read_bytes())
    place = content.index(b"12") + 1 if name == "training_state.json" else len(content) // 2
    content[place] ^= 1
    (newest / name).write_bytes(content)
    with pytest.raises(
        InputError, match=r"was changed.*delete .*step-00000012 to continue from the previous checkpoint"
    ) as error:
        _Run(tmp_path).checkpoints.newest()
    assert name == "SHA256SUMS" or name in str(error.value)


@pytest.mark.parametrize("lines", [0, 1])
def test_when_the_list_of_digests_is_cut_short_then_the_checkpoint_is_refused(
    run: _Run, tmp_path: Path, lines: int
) -> None:
    sums = tmp_path / "checkpoints" / "step-00000012" / "SHA256SUMS"
    sums.write_text("".join(sums.read_text().splitlines(keepends=True)[:lines]))
    with pytest.raises(InputError, match=r"SHA256SUMS was changed \(it has no digest of "):
        _Run(tmp_path).checkpoints.newest()


def test_when_a_file_with_a_digest_is_gone_then_it_is_called_missing(run: _Run, tmp_path: Path) -> None:
    newest = tmp_path / "checkpoints" / "step-00000012"
    (newest / ".DS_Store").touch()
    check_sums(newest, "start anew")
    (newest / "optimizer.bin").unlink()
    with pytest.raises(InputError, match=r"optimizer.bin is missing: start anew"):
        check_sums(newest, "start anew")


def test_when_a_checkpoint_is_older_than_digests_then_it_is_resumed(run: _Run, tmp_path: Path) -> None:
    (tmp_path / "checkpoints" / "step-00000012" / "SHA256SUMS").unlink()
    path, _ = _Run(tmp_path).newest()
    assert path.name == "step-00000012"


def test_when_another_run_looks_then_it_is_refused_and_restart_removes_all(run: _Run, tmp_path: Path) -> None:
    other = Checkpoints(tmp_path, run.accelerator, {**IDENTITY, "the model": {"width": 4}}, 2)
    with pytest.raises(InputError, match=r"the model: width was 3 and is now 4.*--restart"):
        other.newest()
    other.clean(restart=True)
    assert other.newest() is None


def test_when_the_state_is_read_then_it_is_plain_json(run: _Run, tmp_path: Path) -> None:
    state = json.loads((tmp_path / "checkpoints" / "step-00000012" / "training_state.json").read_text())
    assert state["identity"] == {"the model": {"width": 3}, "the recipe": {"betas": [0.9, 0.98]}}
    assert {"model.safetensors", "optimizer.bin"} <= set(state["files"])
