"""Runs as users start them: killed and started again, and on two processes instead of one."""

from __future__ import annotations

import csv
import json
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import datasets
import numpy as np
import pytest
import several_processes
import torch
import yaml
from forked import Forked
from safetensors.torch import load_file
from small_models import NO_DROPOUT, SMALL

from clear_hug_hf import EcgScanForPreTraining, Recording
from clear_hug_hf.cli import main
from clear_hug_hf.data.pages import SIGNAL_EMBEDS
from clear_hug_hf.data.preparation import prepare
from clear_hug_hf.data.texts import add_text_column
from clear_hug_hf.training import pretraining


SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"
ENVIRONMENT = {**os.environ, "ACCELERATE_USE_CPU": "true", "CUDA_VISIBLE_DEVICES": ""}
# Its processes are forked as well, and are killed with it.
TORCHRUN = (Path(sys.executable).with_name("torchrun"), "--standalone", "--nproc_per_node", "2")
TORCHRUN += ("--run-path", "--start-method", "fork")
NUM_STEPS = 60


def _start(data: Path, output: Path, launcher: tuple[object, ...] = ()) -> Forked:
    recipe = ["--num-train-epochs", "10", "--train-batch-size", "8", "--save-steps", "5"]
    fields = {**SMALL, **NO_DROPOUT}.items()
    options = [word for name, value in fields for word in ("--config-overrides", f"{name}={value}")]
    words = [*launcher, SCRIPTS / "pretrain.py", "--data", data, "--output-dir", output, *recipe, *options]
    return Forked(*words, printed=output.with_suffix(".txt"), environment=ENVIRONMENT)


def _wait(script: Forked) -> None:
    with script:
        assert script.wait() == 0, script.printed.read_text()[-3000:]


def _saved(output: Path) -> int:
    return max((int(path.name[5:]) for path in (output / "checkpoints").glob("step-*")), default=0)


def _kill_after(script: Forked, output: Path, step: int) -> None:
    """Kill a run without a warning once it has a checkpoint of this step or a later one."""
    with script:
        while _saved(output) < step:
            assert script.poll() is None, script.printed.read_text()[-3000:]
            time.sleep(0.002)
        script.kill()
        assert script.wait() == -signal.SIGKILL
    assert step <= _saved(output) < NUM_STEPS


def _steps(output: Path) -> list[dict[str, float]]:
    with (output / "pretraining_steps.csv").open() as file:
        return [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]


@pytest.fixture(scope="module")
def data(ptbxl_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("prepared") / "ptbxl"
    assert main(["prepare", str(ptbxl_folder), "--output-dir", str(folder)]) == 0
    return folder


@pytest.fixture(scope="module")
def whole(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a process trained that was not killed."""
    output = tmp_path_factory.mktemp("run") / "whole"
    _wait(_start(data, output))
    assert len(_steps(output)) == NUM_STEPS
    return output


def test_when_a_run_is_killed_twice_then_it_ends_with_the_weights_of_one_that_was_not(
    data: Path, whole: Path, tmp_path: Path
) -> None:
    output = tmp_path / "killed"
    for step in (5, 25):
        _kill_after(_start(data, output), output, step)
    _wait(_start(data, output))
    for name in ("model", "best"):
        first, second = (load_file(run / name / "model.safetensors") for run in (whole, output))
        assert list(first) == list(second)
        assert all(first[key].equal(second[key]) for key in first)
    assert (whole / "pretraining_steps.csv").read_text() == (output / "pretraining_steps.csv").read_text()


def test_when_two_processes_are_killed_and_one_goes_on_then_the_loss_curve_is_that_of_one(
    data: Path, whole: Path, tmp_path: Path
) -> None:
    output = tmp_path / "killed"
    _kill_after(_start(data, output, launcher=TORCHRUN), output, 20)
    _wait(_start(data, output))
    expected, found = _steps(whole), _steps(output)
    assert expected[-1]["loss"] < 0.8 * expected[0]["loss"]
    assert len(found) == len(expected)
    for name in ("loss", "gradient_norm"):
        assert [row[name] for row in found] == pytest.approx([row[name] for row in expected], abs=1e-5)
    with (whole / "pretraining_log.csv").open() as first, (output / "pretraining_log.csv").open() as second:
        for row, other in zip(csv.DictReader(first), csv.DictReader(second), strict=True):
            assert float(other["validation_loss"]) == pytest.approx(float(row["validation_loss"]), abs=1e-5)


# Two processes train all of these one after the other: starting them takes longer.
RUNS = (
    "ecg_scan-clip-no-ddp",
    "ecg_scan-resnet-no-ddp",
    "heartlang-tokenizer-no-ddp",
    "heartlang-tokenizer-no-fsdp",
    "heartlang-encoder-no-fsdp",
    "clear_hug-shared-no-ddp",
    "clear_hug-momentum-no-ddp",
    "clear_hug-momentum-no-fsdp",
    "clear_hug-clip-no-fsdp",
    "ecg_jepa-clip-no-fsdp",
    "ecg_scan-clip-no-fsdp",
    "ecg_jepa-clip-bf16-fsdp",
    "ecg_scan-resnet-bf16-fsdp",
)


@pytest.fixture(scope="module")
def prepared(make_recordings: Callable[..., list[Recording]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve recordings for each system; those for pages have texts and what a teacher made of them."""
    folder = tmp_path_factory.mktemp("prepared")
    for system, extractor in several_processes.EXTRACTORS.items():
        dataset = prepare(make_recordings(12), extractor, progress=False).dataset
        if system == "ecg_scan":
            embeds = np.random.default_rng(0).normal(size=(len(dataset), 32)).astype(np.float32)
            feature = datasets.List(datasets.Value("float32"), length=32)
            dataset = add_text_column(dataset).add_column(SIGNAL_EMBEDS, list(embeds), feature=feature)
        dataset.save_to_disk(str(folder / system))
    return folder


@pytest.fixture(scope="module")
def trained(prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, Any]]]:
    """Where two processes saved their runs, and what each of them reports about them."""
    output = tmp_path_factory.mktemp("trained")
    launch = yaml.safe_load((SCRIPTS / "launch" / "fsdp.yaml").read_text())["fsdp_config"]
    # As launchers set them.
    environment = {**ENVIRONMENT, **{name.upper(): str(value) for name, value in launch.items()}}
    words = (*TORCHRUN, several_processes.__file__, prepared, output, *RUNS)
    _wait(Forked(*words, printed=output / "printed.txt", environment=environment))
    return output, [json.loads((output / f"rank{rank}.json").read_text()) for rank in "01"]


class _AsTwoProcesses(pretraining.StepCollator):
    """One process with the batches that two would have: ECG-Scan contrasts the recordings of a batch."""

    def __call__(self, placed: Any) -> Any:
        return super().__call__([*placed[0::2], *placed[1::2]])


@pytest.mark.parametrize("name", [run for run in RUNS if "resnet-no" not in run])
def test_when_two_processes_share_data_or_weights_then_the_loss_curve_is_that_of_one(
    name: str, trained: tuple[Path, list[dict[str, Any]]], prepared: Path
) -> None:
    system, tower, precision, _ = name.split("-")
    with patch.object(pretraining, "StepCollator", _AsTwoProcesses):
        expected = several_processes.train(prepared, system, tower, precision).steps
    for found in trained[1]:
        for column in ("loss", "gradient_norm"):
            # In single precision sums are rounded in another order, and each step passes the difference on. Rounded to
            # the eight bits of bfloat16, an element is off by a two-hundredth; their means are by less.
            tolerance = {"rel": 1e-4} if precision == "no" else {"rel": 2e-2}
            assert [row[column] for row in found[name]["steps"]] == pytest.approx(
                [row[column] for row in expected], **tolerance
            ), column


def test_when_two_processes_train_a_tokenizer_then_both_have_the_codes_of_one(
    trained: tuple[Path, list[dict[str, Any]]], prepared: Path
) -> None:
    expected = several_processes.train(prepared, "heartlang", "tokenizer", "no").model.codebook.weight
    first, second = (found["heartlang-tokenizer-no-ddp"]["codes"] for found in trained[1])
    assert first == second
    torch.testing.assert_close(torch.tensor(first), expected.detach(), atol=1e-5, rtol=0)


def test_when_two_processes_have_seen_other_pages_then_both_evaluate_with_the_same_batch_statistics(
    trained: tuple[Path, list[dict[str, Any]]], prepared: Path
) -> None:
    output, (first, second) = trained
    name = "ecg_scan-resnet-no-ddp"
    statistics = first[name]["batch_statistics"]
    assert statistics
    assert statistics == second[name]["batch_statistics"]
    saved = load_file(output / name / "model" / "model.safetensors")
    for key, values in statistics.items():
        torch.testing.assert_close(saved[key], torch.tensor(values), rtol=0, atol=0)
    # What was logged is what the saved model gives: each process had every other one of the four pages.
    model = EcgScanForPreTraining.from_pretrained(output / name / "model").eval()
    rows = datasets.load_from_disk(str(prepared / "ecg_scan")).with_format("numpy")
    collate = several_processes.make_collator("ecg_scan")
    with torch.no_grad():
        losses = [model(**collate([rows[index] for index in pair])).loss.item() for pair in ((0, 2), (1, 3))]
    assert first[name]["validation_loss"] == pytest.approx(sum(losses) / 2, rel=1e-5)


def test_when_two_processes_encode_then_each_reads_half_and_both_have_all(
    trained: tuple[Path, list[dict[str, Any]]], prepared: Path, tmp_path: Path
) -> None:
    output, found = trained
    expected = torch.tensor(several_processes.encode_all(prepared, tmp_path, lambda *given: None))
    for one in found:
        assert one["read"] == 6
        # Beside other recordings there is other padding.
        torch.testing.assert_close(torch.tensor(one["features"]), expected, atol=1e-5, rtol=1e-4)
    assert len(list((output / "features").iterdir())) == 1
    kept = several_processes.encode_all(prepared, output / "features", lambda *given: pytest.fail("encoded again"))
    torch.testing.assert_close(torch.tensor(kept), expected, atol=1e-5, rtol=1e-4)
