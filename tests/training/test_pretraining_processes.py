"""Runs as users start them: killed and started again, and on two processes instead of one."""

from __future__ import annotations

import contextlib
import csv
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from clear_hug_hf.cli import main


SMALL = {
    "clear_hug": [
        "hidden_size=32",
        "num_hidden_layers=1",
        "num_attention_heads=2",
        "intermediate_size=32",
        "decoder_hidden_size=32",
        "decoder_num_hidden_layers=1",
        "decoder_num_attention_heads=2",
        "decoder_intermediate_size=32",
    ],
    "ecg_jepa": [
        "hidden_size=32",
        "num_hidden_layers=1",
        "num_attention_heads=2",
        "intermediate_size=32",
        "predictor_hidden_size=16",
        "predictor_num_hidden_layers=1",
        "predictor_num_attention_heads=2",
        "predictor_intermediate_size=16",
    ],
}
STEADY = ["hidden_dropout_prob=0.0", "attention_probs_dropout_prob=0.0"]
SCRIPT = str(Path(__file__).resolve().parents[2] / "scripts" / "pretrain.py")


def _command(
    data: Path, output: Path, epochs: int, *fields: str, processes: int = 1, system: str = "clear_hug"
) -> list[str]:
    launcher = [sys.executable]
    if processes > 1:
        launcher += ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
    options = [word for field in (*SMALL[system], *fields) for word in ("--model-option", field)]
    recipe = [
        "--system",
        system,
        "--epochs",
        str(epochs),
        "--batch-size",
        "8",
        "--checkpoint-every",
        "10",
        "--trackers",
    ]
    return [*launcher, SCRIPT, "--data", str(data), "--output", str(output), *recipe, *options]


ENVIRONMENT = {**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}


def _run(command: list[str]) -> None:
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]


@contextlib.contextmanager
def _running(command: list[str]) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(
        command, env=ENVIRONMENT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _kill_after(command: list[str], output: Path, step: int) -> None:
    """Start a run, and kill it without a warning once it has a checkpoint of this step or a later one."""
    with _running(command) as process:
        while not any(int(path.name[5:]) >= step for path in (output / "checkpoints").glob("step-*")):
            assert process.poll() is None, "the run ended before it could be killed"
            time.sleep(0.002)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        assert process.returncode == -signal.SIGKILL


def _newest(output: Path) -> int:
    return max(int(path.name[5:]) for path in (output / "checkpoints").glob("step-*"))


def _steps(output: Path) -> list[dict[str, float]]:
    with (output / "pretraining_steps.csv").open() as file:
        return [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]


def test_when_a_run_is_killed_twice_then_it_ends_with_the_weights_of_one_that_was_not(
    ptbxl_folder: Path, tmp_path: Path
) -> None:
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    _run(_command(ptbxl_folder, whole, 40))
    command = _command(ptbxl_folder, cut, 40)
    for step in (10, 100):
        _kill_after(command, cut, step)
        assert step <= _newest(cut) < 240
    _run(command)
    for name in ("model", "best"):
        first, second = (load_file(run / name / "model.safetensors") for run in (whole, cut))
        assert list(first) == list(second)
        assert all(first[key].equal(second[key]) for key in first)
    assert (whole / "pretraining_steps.csv").read_text() == (cut / "pretraining_steps.csv").read_text()
    assert len(_steps(cut)) == 240


def test_when_two_processes_train_then_the_loss_curve_is_that_of_one_also_after_a_kill(
    ptbxl_folder: Path, tmp_path: Path
) -> None:
    one, two, cut = tmp_path / "one", tmp_path / "two", tmp_path / "cut"
    _run(_command(ptbxl_folder, one, 20, *STEADY))
    _run(_command(ptbxl_folder, two, 20, *STEADY, processes=2))
    # Two processes are killed, and one goes on.
    _kill_after(_command(ptbxl_folder, cut, 20, *STEADY, processes=2), cut, 20)
    assert _newest(cut) < 120
    _run(_command(ptbxl_folder, cut, 20, *STEADY))
    expected = _steps(one)
    assert expected[-1]["loss"] < 0.8 * expected[0]["loss"]
    for output in (two, cut):
        found = _steps(output)
        assert len(found) == len(expected) == 120
        for name in ("loss", "gradient_norm"):
            assert [row[name] for row in found] == pytest.approx([row[name] for row in expected], abs=1e-5)
    with (one / "pretraining_log.csv").open() as first, (two / "pretraining_log.csv").open() as second:
        for row, other in zip(csv.DictReader(first), csv.DictReader(second), strict=True):
            assert float(other["validation_loss"]) == pytest.approx(float(row["validation_loss"]), abs=1e-5)


def test_when_two_processes_train_ecg_jepa_then_one_mask_holds_for_all_of_a_step(
    ptbxl_folder: Path, tmp_path: Path
) -> None:
    assert main(["prepare", str(ptbxl_folder), "--system", "ecg_jepa", "--output", str(tmp_path / "data")]) == 0
    found = []
    for processes in (1, 2):
        output = tmp_path / str(processes)
        _run(_command(tmp_path / "data", output, 2, processes=processes, system="ecg_jepa"))
        found.append((_steps(output), load_file(output / "model" / "model.safetensors")))
    (expected, of_one), (steps, of_two) = found
    assert len(steps) == len(expected) == 12
    for name in ("loss", "gradient_norm"):
        assert [row[name] for row in steps] == pytest.approx([row[name] for row in expected], abs=1e-5)
    for name, tensor in of_one.items():
        torch.testing.assert_close(of_two[name], tensor, atol=1e-4, rtol=1e-3)
