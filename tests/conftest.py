"""Fixtures that several rooms share."""

from __future__ import annotations

import functools
import gc
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from small_systems import FINETUNING, PRETRAINING, SMALL_SYSTEMS
from strangers import ABSENT, run_script

from clear_hug_hf import STANDARD_LEADS, ClearHugConfig, ClearHugFeatureExtractor, ClearHugForPreTraining, Recording
from clear_hug_hf.cli import main
from clear_hug_hf.training import features
from clear_hug_hf.training.folders import save_model_folder
from clear_hug_hf.training.provenance import describe_pretraining


SHARED = Path(__file__).resolve().parents[2] / "shared"
LONGEST_FIRST = (
    "test_pretraining_processes.py",
    "test_command_line.py",
    "test_notebooks.py",
    "test_cli.py",
    "test_models.py",
    "test_shipped_weights.py",
    "test_benchmark.py",
    "test_finetuning.py",
    "test_pretraining.py",
    "test_readme.py",
    "test_ecg_jepa.py",
    "test_sharding.py",
    "test_hub_connection.py",
    "test_walks.py",
    "test_export.py",
    "test_simulation.py",
    "test_add_a_system.py",
)
"""Files of more than ten seconds. They start first, so that no process is left alone with one of them at the end."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    ranks = {name: rank for rank, name in enumerate(LONGEST_FIRST)}
    items.sort(key=lambda item: ranks.get(item.path.name, len(ranks)))


@pytest.fixture(scope="session", autouse=True)
def _own_datasets_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What `datasets` and frozen encoders leave in caches while the tests run goes away with them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(features, "HF_HOME", tmp_path_factory.mktemp("features-cache"))
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("datasets-cache"))
        yield


@pytest.fixture(scope="module", autouse=True)
def _frozen_libraries() -> None:
    """Every training run collects garbage, and need not look through all that libraries have made before."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def shared() -> Path:
    """Folder of real recordings and parity numbers beside the checkout; tests that need it skip where it is absent."""
    if not SHARED.is_dir():
        pytest.skip(f"the shared recordings are not beside this checkout ({SHARED.name}/ not found)")
    return SHARED


def _make_recordings(num_patients: int, per_patient: int = 1, sampling_rate: float = 100.0) -> list[Recording]:
    """
    Ten-second recordings made of pulses, in no time: every other patient's heart is fast and has large P waves, every
    third one's T waves are inverted. Each lead has QRS complexes of its own height, and noise.
    """
    recordings = []
    for patient in range(num_patients):
        rng = np.random.default_rng([7, patient])
        fast, inverted = patient % 2 == 0, patient % 3 == 0
        for index in range(per_patient):
            seconds = np.arange(round(10 * sampling_rate)) / sampling_rate
            interval = rng.uniform(0.5, 0.6) if fast else rng.uniform(0.85, 1.1)
            since = (seconds - rng.uniform(0.3, 0.5)) % interval
            since = np.where(since > interval / 2, since - interval, since)
            t_wave = np.exp(-0.5 * ((since - 0.22) / 0.04) ** 2) * (-1 if inverted else 1)
            p_wave = np.exp(-0.5 * ((since + 0.16) / 0.03) ** 2) * fast
            qrs = np.exp(-0.5 * (since / 0.012) ** 2) * rng.uniform(0.5, 1.5, (12, 1))
            shape = qrs + 0.3 * t_wave + 0.3 * p_wave
            recordings.append(
                Recording(
                    waveform=(shape + rng.normal(0.0, 0.01, shape.shape)).astype(np.float32),
                    sampling_rate=sampling_rate,
                    lead_names=list(STANDARD_LEADS),
                    unit="mV",
                    record_id=f"{patient}-{index}",
                    patient_id=f"p{patient}",
                    labels={"fast": float(fast), "inverted": float(inverted)},
                    split=("train", "train", "validation", "train", "train", "test")[patient // 6 % 6],
                )
            )
    return recordings


@pytest.fixture(scope="session")
def make_recordings() -> Callable[..., list[Recording]]:
    """Factory of synthetic recordings: `make_recordings(num_patients, per_patient=1, sampling_rate=100.0)`."""
    return _make_recordings


def _write_record(path: Path, recording: Recording) -> Path:
    """Write a recording as WFDB format 16; the path has no extension. Returns the header's."""
    path.parent.mkdir(parents=True, exist_ok=True)
    digital = np.rint(recording.waveform.T * 1000).astype("<i2")
    digital.tofile(path.with_name(path.name + ".dat"))
    lines = [f"{path.name} {digital.shape[1]} {recording.sampling_rate:g} {digital.shape[0]}"]
    lines += [f"{path.name}.dat 16 1000/{recording.unit} 16 0 0 0 0 {name}" for name in recording.lead_names]
    header = path.with_name(path.name + ".hea")
    header.write_text("\n".join(lines) + "\n")
    return header


@pytest.fixture(scope="session")
def write_record() -> Callable[[Path, Recording], Path]:
    """Writer of WFDB records: `write_record(path_without_extension, recording)` gives the header's path."""
    return _write_record


@pytest.fixture(scope="session")
def write_records() -> Callable[..., list[Recording]]:
    """Writes synthetic recordings as WFDB records: `write_records(folder, "a", "b/c", sampling_rate=100.0)`."""

    def write(folder: Path, *names: str, **how: Any) -> list[Recording]:
        recordings = _make_recordings(len(names), **how)
        for recording, name in zip(recordings, names, strict=True):
            _write_record(folder / name, recording)
        return recordings

    return write


@pytest.fixture(scope="session")
def ptbxl_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder laid out as PTB-XL with 72 synthetic recordings in folds 1 to 10: fast hearts MI, inverted T STTC."""
    folder = tmp_path_factory.mktemp("ptb-xl")
    rows = []
    for index, recording in enumerate(_make_recordings(72)):
        name = f"records100/00000/{index:05d}_lr"
        _write_record(folder / name, recording)
        codes = {"SR": 0.0}
        codes |= {"IMI": 100.0} if (recording.labels or {})["fast"] else {"NORM": 100.0}
        codes |= {"NDT": 50.0} if (recording.labels or {})["inverted"] else {}
        fold = {"train": 1 + index % 8, "validation": 9, "test": 10}[str(recording.split)]
        rows.append(f'{index},{index}.0,60.0,0,"{codes}",{fold},{name}')
    table = "ecg_id,patient_id,age,sex,scp_codes,strat_fold,filename_lr\n" + "\n".join(rows) + "\n"
    (folder / "ptbxl_database.csv").write_text(table)
    (folder / "scp_statements.csv").write_text(
        ",description,diagnostic,form,rhythm,diagnostic_class\n"
        "NORM,normal,1.0,,,NORM\nIMI,infarction,1.0,,,MI\nNDT,T abnormalities,1.0,1.0,,STTC\nSR,sinus,,,1.0,\n"
    )
    return folder


@pytest.fixture(scope="session")
def make_house(ptbxl_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """
    Everything that the command line makes for a system, by its name, once for all tests: `data` (PTB-XL prepared),
    `pretrained` (a randomly initialized encoder if the system cannot be pre-trained), `finetuned`, and for a system
    that learns from another encoder, `teacher`.
    """

    @functools.cache
    def make(name: str) -> Path:
        folder = tmp_path_factory.mktemp(name)
        small = SMALL_SYSTEMS[name]
        _run("prepare", ptbxl_folder, "--labels", "ptbxl_super", "--system", name, "--output-dir", folder / "data")
        if small.objective is not None and small.objective.teacher_objective:
            command = ["pretrain", "--data", folder / "data", *small.teacher_words, *PRETRAINING]
            _run(*command, "--output-dir", folder / "teacher")
        elif small.system.teachers:
            _save_teacher(folder / "teacher")
        if small.objective is not None:
            command = ["pretrain", "--data", folder / "data", *small.words(folder), *PRETRAINING]
            _run(*command, "--output-dir", folder / "pretrained")
        else:
            torch.manual_seed(0)
            encoder = small.encoder(small.system.config(**small.options))
            save_model_folder(folder / "pretrained" / "model", encoder, small.system.feature_extractor())
        command = ["finetune", "--data", folder / "data", "--model", folder / "pretrained", *FINETUNING]
        _run(*command, "--output-dir", folder / "finetuned")
        return folder

    return make


def _save_teacher(folder: Path) -> None:
    """An encoder of signals that was not trained, with a record of recordings that it would have learnt from."""
    torch.manual_seed(0)
    small = {"hidden_size": 32, "num_hidden_layers": 1, "intermediate_size": 32, "decoder_num_hidden_layers": 1}
    teacher = ClearHugForPreTraining(ClearHugConfig.preset("tiny", **small))
    save_model_folder(folder, teacher, ClearHugFeatureExtractor())
    source = {"title": "CinC 2011", "license": "ODC-By 1.0", "citation": "Silva et al.", "sets": {}}
    facts = describe_pretraining(teacher, [{"epoch": 7, "validation_loss": None}], {"num_train_epochs": 7}, [source])
    (folder / "pretraining.json").write_text(json.dumps(facts))


def _status(*words: object) -> int:
    return main([str(word) for word in words])


def _run(*words: object) -> None:
    assert _status(*words) == 0


@pytest.fixture(scope="session")
def status() -> Callable[..., int]:
    """Runs a command and gives its exit status: `status("predict", record, "--model", folder)`."""
    return _status


@pytest.fixture(scope="session")
def run() -> Callable[..., None]:
    """Runs a command that must succeed."""
    return _run


@pytest.fixture
def printed_by(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Runs a command that must succeed, and gives what it printed: `printed_by("predict", record, "--json", ...)`."""

    def run(*words: object) -> str:
        capsys.readouterr()
        _run(*words)
        return capsys.readouterr().out

    return run


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Runs a command that must be refused, and returns the one sentence on stderr that explains why."""

    def refuse(*words: object) -> str:
        capsys.readouterr()
        assert _status(*words) == 2
        *before, last = capsys.readouterr().err.splitlines()
        assert last.startswith("clear-hug: error: ")
        # Nothing but progress bars may come before.
        assert all(any(unit in line for unit in ("it/s", "rec/s", "batch/s")) for line in before if line)
        return last.removeprefix("clear-hug: error: ")

    return refuse


@pytest.fixture(scope="session")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., None]:
    """Runs a script where the package is not installed: `stranger(script, *arguments)`."""

    def run(script: str, *arguments: object) -> None:
        folder = tmp_path_factory.mktemp("stranger")
        own = {"HF_HOME": str(folder / "home"), "HF_MODULES_CACHE": str(folder / "modules"), "HF_HUB_OFFLINE": "1"}
        run_script(folder, ABSENT + script, *arguments, environment={**os.environ, **own})

    return run


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Numbers are equal bit by bit to those of another process only where both sum in the same order."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
