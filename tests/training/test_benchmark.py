"""A benchmark runs each cell once, goes on where it stopped with the same numbers, and never mixes what differs."""

from __future__ import annotations

import csv
import json
import re
import shutil
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from small_models import LABELS, make_model

from clear_hug_hf import (
    ClearHugFeatureExtractor,
    EcgJepaFeatureExtractor,
    EcgResNetConfig,
    EcgResNetModel,
    EcgWaveformFeatureExtractor,
)
from clear_hug_hf.cli import main
from clear_hug_hf.data.collator import EcgCollator
from clear_hug_hf.data.readers import open_source
from clear_hug_hf.data.records import Recording
from clear_hug_hf.data.sharding import prepare_shards
from clear_hug_hf.data.splits import patient_keys
from clear_hug_hf.evaluation.metrics import (
    METRICS,
    choose_thresholds,
    evaluate_predictions,
    macro_auroc,
    macro_auroc_samples,
)
from clear_hug_hf.evaluation.predictions import predict
from clear_hug_hf.evaluation.protocol import PENALTIES, Published, random_subset, stratified_subset
from clear_hug_hf.inference.digests import weights_digest
from clear_hug_hf.processing import InputError
from clear_hug_hf.training import benchmark, reference
from clear_hug_hf.training.benchmark import (
    BenchmarkArguments,
    Cell,
    Task,
    load_folds,
    load_task,
    run_benchmark,
)
from clear_hug_hf.training.features import dataset_labels, encode
from clear_hug_hf.training.finetuning import HeadOnly
from clear_hug_hf.training.folders import load_for_finetuning, save_model_folder


SHORT = {"probe_epochs": 2, "finetune_epochs": 1, "reference_epochs": 1}


def _arguments(**overrides: Any) -> BenchmarkArguments:
    small = {"protocols": ("knn", "probe"), "fractions": (0.25, 1.0), "seeds": (0, 1), "bootstrap_samples": 50}
    return BenchmarkArguments(**{**small, **SHORT, **overrides})


def _run(tasks: list[Task], models: Mapping[str, Path | None], folder: Path, **arguments: Any) -> list[dict[str, Any]]:
    """Rows of a benchmark; what else is given are its arguments."""
    return run_benchmark(tasks, dict(models), folder, _arguments(**arguments), progress=False)


def _save_model(folder: Path, seed: int, **overrides: Any) -> Path:
    save_model_folder(folder, make_model(seed=seed, **overrides), ClearHugFeatureExtractor())
    return folder


@pytest.fixture(scope="module", autouse=True)
def _narrow_reference() -> Iterator[None]:
    """The supervised network is as small as the models."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reference, "ResNet1d", partial(reference.ResNet1d, widths=(4, 4, 4, 4)))
        yield


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _save_model(tmp_path_factory.mktemp("models") / "tiny", 5)


@pytest.fixture(scope="module")
def other_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _save_model(tmp_path_factory.mktemp("models") / "other", 1)


@pytest.fixture(scope="module")
def ptbxl(ptbxl_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """PTB-XL prepared with its superclasses, of which hypertrophy and conduction disturbance do not occur."""
    folder = tmp_path_factory.mktemp("benchmark") / "prepared"
    command = [
        "prepare",
        str(ptbxl_folder),
        "--labels",
        "ptbxl_super",
        "--output-dir",
        str(folder),
        "--shard-size",
        "20",
    ]
    assert main(command) == 0
    return folder


@pytest.fixture
def make_folder(
    make_recordings: Callable[..., list[Recording]],
    write_record: Callable[[Path, Recording], Path],
    tmp_path: Path,
) -> Callable[..., Path]:
    """
    Maker of prepared folders: `make_folder(num_patients, splits, labels)`, with a split or none by patient; or, with
    `windows`, of two windows of each recording and no patients.
    """

    def make(
        num_patients: int,
        splits: Callable[[int], str] = lambda patient: "train",
        labels: Iterable[str] = LABELS,
        windows: bool = False,
    ) -> Path:
        rows = []
        for recording in make_recordings(num_patients, per_patient=2):
            waveform = np.concatenate([recording.waveform] * (1 + windows), axis=1)
            write_record(
                tmp_path / "records" / recording.record_id, replace(recording, waveform=waveform, labels=None)
            )
            patient = int(str(recording.patient_id)[1:])
            known = {name: f"{value:g}" for name, value in (recording.labels or {}).items()}
            # Two patients of all have it.
            known["rare"] = str(int(patient in (1, 3)))
            rows.append(
                {"path": f"records/{recording.record_id}"}
                | ({} if windows else {"patient_id": recording.patient_id})
                | {"split": splits(patient)}
                | {name: known[name] for name in labels}
            )
        with (tmp_path / "table.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
        source = open_source("csv", tmp_path / "table.csv", label_columns=list(labels))
        extractor = ClearHugFeatureExtractor(windows="all" if windows else "first")
        prepare_shards(source, tmp_path / "prepared", extractor, shard_size=16, progress=False)
        return tmp_path / "prepared"

    return make


@pytest.fixture(scope="module")
def task(ptbxl: Path) -> Task:
    return load_task("super", ptbxl)


@pytest.fixture(scope="module")
def models(model: Path) -> dict[str, Path | None]:
    return {"tiny": model, "random": None, "resnet": None}


@pytest.fixture(scope="module")
def finished(
    task: Task, models: dict[str, Path | None], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, list[dict[str, Any]]]:
    """Folder and rows of a benchmark that was not interrupted."""
    folder = tmp_path_factory.mktemp("finished")
    return folder, _run([task], models, folder)


Finished = tuple[Path, list[dict[str, Any]]]


@pytest.fixture
def copied(finished: Finished, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished[0], tmp_path / "copied"))


def _read_csv(folder: Path) -> list[dict[str, str]]:
    with (folder / "results.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def _key(row: dict[str, Any]) -> tuple[str, ...]:
    return tuple(str(row[name]) for name in ("task", "fraction", "seed", "model", "protocol", "head"))


def _numbers(rows: list[dict[str, Any]]) -> dict[tuple[str, ...], dict[str, str]]:
    """What must be the same whenever and wherever the cells were run."""
    free = ("seconds", "date", "versions", "machine")
    return {_key(row): {name: str(value) for name, value in row.items() if name not in free} for row in rows}


def _count_runs(monkeypatch: pytest.MonkeyPatch, stop_after: int | None = None) -> list[Cell]:
    """Cells that are run from now on, of which one is interrupted in the middle."""
    cells: list[Cell] = []
    train = benchmark._Runner._train

    def counted(runner: Any, cell: Cell, *rest: Any) -> Any:
        if len(cells) == stop_after:
            raise KeyboardInterrupt
        found = train(runner, cell, *rest)
        cells.append(cell)
        return found

    monkeypatch.setattr(benchmark._Runner, "_train", counted)
    return cells


def _run_without_training(monkeypatch: pytest.MonkeyPatch, *arguments: Any, **options: Any) -> list[dict[str, Any]]:
    """Rows of a benchmark whose models are not trained but guess."""

    def guess(runner: Any, cell: Cell, task: Task, rows: np.ndarray) -> tuple[int, np.ndarray, np.ndarray]:
        shapes = [task.truth(split).shape for split in ("validation", "test")]
        return 1, *(np.random.default_rng(0).random(shape) for shape in shapes)

    monkeypatch.setattr(benchmark._Runner, "_train", guess)
    return run_benchmark(*arguments, progress=False, **options)


def _table(text: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line[:1] == "|"]


# -------------------------------------------------------------------------------------------------------------- tasks


def test_when_a_task_is_loaded_then_labels_of_one_class_are_left_out_and_named(ptbxl: Path) -> None:
    task = load_task("super", ptbxl)
    assert task.name == "super"
    assert task.label_names == ["NORM", "MI", "STTC"]
    assert {split: len(dataset) for split, dataset in task.sets.items()} == {"train": 48, "validation": 12, "test": 12}
    assert all(list(dataset.features["labels"]) == task.label_names for dataset in task.sets.values())
    assert task.notes == ["left out, with fewer than 1 training or test recordings of a class: HYP, CD"]
    assert task.published is None
    some = load_task("super", ptbxl, ["STTC", "NORM"])
    assert some.label_names == ["STTC", "NORM"]
    assert some.notes == []


def test_when_a_label_has_few_recordings_then_it_is_left_out(ptbxl: Path) -> None:
    everything = load_task("super", ptbxl)
    counts = {
        name: min(
            int(min((dataset_labels(everything.sets[split], [name]) == value).sum() for value in (0, 1)))
            for split in ("train", "test")
        )
        for name in everything.label_names
    }
    fewest, most = min(counts.values()), max(counts.values())
    assert fewest < most
    at_edge = load_task("super", ptbxl, min_positives=fewest)
    assert at_edge.label_names == everything.label_names
    fewer = load_task("super", ptbxl, min_positives=fewest + 1)
    assert fewer.label_names == [name for name in everything.label_names if counts[name] > fewest]
    left_out = [name for name in ("HYP", "NORM", "MI", "CD", "STTC") if name not in fewer.label_names]
    assert fewer.notes == [
        f"left out, with fewer than {fewest + 1} training or test recordings of a class: {', '.join(left_out)}"
    ]
    with pytest.raises(InputError, match=rf"no label of .* has {most + 1} recordings of each class"):
        load_task("super", ptbxl, min_positives=most + 1)


def test_when_a_label_is_unknown_or_there_are_none_then_it_is_refused(
    ptbxl: Path, ptbxl_folder: Path, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=r"no label 'AF' in .*: choose from HYP, NORM, MI, CD, STTC"):
        load_task("super", ptbxl, ["MI", "AF"])
    bare = tmp_path / "bare"
    assert main(["prepare", str(ptbxl_folder), "--output-dir", str(bare)]) == 0
    with pytest.raises(InputError, match=r"no labels in .*: prepare it with `clear-hug prepare --labels`"):
        load_task("bare", bare)


def test_when_there_is_no_test_split_then_validation_is_tested_and_other_training_patients_choose(
    make_folder: Callable[..., Path],
) -> None:
    folder = make_folder(30, lambda patient: "validation" if patient % 5 == 0 else "train")
    task = load_task("own", folder)
    assert set(task.sets) == {"train", "validation", "test"}
    patients = {split: {*dataset["patient_id"]} for split, dataset in task.sets.items()}
    assert patients["test"] == {f"p{patient}" for patient in range(0, 30, 5)}
    assert not patients["train"] & patients["validation"]
    assert patients["train"] | patients["validation"] == {f"p{patient}" for patient in range(30) if patient % 5}
    # A tenth of 48 recordings, by whole patients of two.
    assert len(task.sets["validation"]) == 6
    assert len(task.sets["train"]) == 42
    assert task.notes == [
        "there are no test recordings: the validation recordings are tested",
        "the epoch is chosen on 6 training recordings of other patients",
    ]
    again = load_task("own", folder)
    assert again.sets["validation"]["record_id"] == task.sets["validation"]["record_id"]


def test_when_there_is_no_validation_split_then_training_patients_choose(make_folder: Callable[..., Path]) -> None:
    folder = make_folder(20, lambda patient: "test" if patient % 5 == 0 else "train", (*LABELS, "rare"))
    task = load_task("own", folder)
    patients = {split: {*dataset["patient_id"]} for split, dataset in task.sets.items()}
    assert patients["test"] == {f"p{patient}" for patient in range(0, 20, 5)}
    assert not patients["train"] & patients["validation"]
    assert not (patients["train"] | patients["validation"]) & patients["test"]
    assert task.label_names == list(LABELS)
    assert task.notes == [
        "the epoch is chosen on 4 training recordings of other patients",
        "left out, with fewer than 1 training or test recordings of a class: rare",
    ]


def test_when_there_is_nothing_to_test_then_it_is_refused(make_folder: Callable[..., Path]) -> None:
    with pytest.raises(InputError, match="no test recordings: prepare it with splits"):
        load_task("own", make_folder(4))


# ---------------------------------------------------------------------------------------------------------------- runs


def test_when_a_benchmark_is_finished_then_every_cell_is_there(finished: Finished) -> None:
    folder, rows = finished
    expected = {
        ("super", fraction, seed, model, *how)
        for fraction in ("0.25", "1")
        for seed in ("0", "1")
        for model, hows in {
            "tiny": [("knn", ""), ("probe", "mean"), ("probe", "hug")],
            "random": [("knn", ""), ("probe", "mean"), ("probe", "hug")],
            "resnet": [("supervised", "")],
        }.items()
        for how in hows
    }
    assert {_key(row) for row in rows} == expected
    assert len(rows) == len(expected)
    assert _read_csv(folder) == [{name: str(value) for name, value in row.items()} for row in rows]
    names = {path.name for path in (folder / "cells").iterdir()}
    assert len(names) == 2 * len(rows)
    assert {"super__25pc__seed1__tiny__probe__hug.json", "super__100pc__seed0__resnet__supervised.npy"} <= names


def test_when_a_cell_is_finished_then_its_row_and_probabilities_agree(finished: Finished, task: Task) -> None:
    folder, rows = finished
    truth = dataset_labels(task.sets["test"], task.label_names).numpy().astype(float)
    for row in rows:
        fraction, seed = float(row["fraction"]), int(row["seed"])
        name = Cell(row["task"], fraction, seed, row["model"], row["protocol"], row["head"]).name
        result = json.loads((folder / "cells" / f"{name}.json").read_text())
        probabilities = np.load(folder / "cells" / f"{name}.npy")
        assert probabilities.shape == (12, 3)
        drawn = random_subset(task.sets["train"]["record_id"], fraction, seed)
        assert (row["num_train"], row["num_validation"], row["num_test"]) == (len(drawn), 12, 12)
        for metric in METRICS:
            found = result["metrics"][f"macro_{metric}"]
            assert row[f"macro_{metric}"] == f"{found['value']:.5f}"
            for part in ("low", "high"):
                text = row[f"macro_{metric}_{part}"]
                assert text == ("" if found[part] is None else f"{found[part]:.5f}")
        if row["protocol"] == "probe":
            thresholds = [result["metrics"]["per_label"][label]["threshold"] for label in task.label_names]
            patients = task.sets["test"]["patient_id"]
            again = evaluate_predictions(
                truth, probabilities, task.label_names, patients, num_samples=50, thresholds=thresholds
            )
            assert result["metrics"] == json.loads(json.dumps(again))
        else:
            assert macro_auroc(truth, probabilities) == pytest.approx(result["metrics"]["macro_auroc"]["value"])


@pytest.mark.parametrize("draw", ["plain", "stratified"])
def test_when_a_cell_is_run_then_its_seed_draws_the_recordings_and_validation_chooses_the_thresholds(
    task: Task, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, draw: str
) -> None:
    truth = dataset_labels(task.sets["validation"], task.label_names).numpy().astype(float)
    rng = np.random.default_rng(0)
    on_validation, on_test = rng.random(truth.shape), rng.random((12, 3))
    drawn: dict[tuple[float, int], list[int]] = {}

    def train(runner: Any, cell: Cell, task: Task, rows: np.ndarray) -> tuple[int, np.ndarray, np.ndarray]:
        drawn[cell.fraction, cell.seed] = rows.tolist()
        return 7, on_validation, on_test

    monkeypatch.setattr(benchmark._Runner, "_train", train)
    _run([task], {"tiny": model}, tmp_path, protocols=("knn",), draw=draw)
    labels, train = dataset_labels(task.sets["train"], task.label_names).numpy(), task.sets["train"]
    patients = patient_keys(train["record_id"], train["patient_id"])
    by_hand = {
        "plain": lambda fraction, seed: random_subset(train["record_id"], fraction, seed),
        "stratified": lambda fraction, seed: stratified_subset(labels, patients, fraction, seed),
    }[draw]
    assert drawn == {(fraction, seed): by_hand(fraction, seed).tolist() for fraction in (0.25, 1.0) for seed in (0, 1)}
    assert drawn[0.25, 0] != drawn[0.25, 1]
    result = json.loads((tmp_path / "cells" / "super__25pc__seed0__tiny__knn.json").read_text())
    chosen = [result["metrics"]["per_label"][label]["threshold"] for label in task.label_names]
    assert chosen == choose_thresholds(truth, on_validation)
    assert result["chosen"] == 7


def test_when_the_table_is_written_then_it_has_the_papers_layout_and_the_controls(finished: Finished) -> None:
    folder, rows = finished
    text = (folder / "table.md").read_text()
    lines = _table(text)
    heads = [index for index, line in enumerate(lines) if line[0] == "method"]
    assert all(lines[index] == ["method", "super 25%", "super 100%"] for index in heads)
    parts = [
        {line[0]: [float(cell.split()[0]) for cell in line[1:]] for line in lines[first + 2 : last]}
        for first, last in zip(heads, [*heads[1:], None], strict=True)
    ]
    assert "Difference from the same encoder randomly initialized" in text
    assert "Difference from the supervised ResNet" in text

    scores: dict[str, dict[str, list[float]]] = {}
    for row in rows:
        method = ", ".join(filter(None, (row["model"], row["protocol"], row["head"])))
        scores.setdefault(method, {}).setdefault(row["fraction"], []).append(100 * float(row["macro_auroc"]))
    mean = {method: np.array([np.mean(values[one]) for one in ("0.25", "1")]) for method, values in scores.items()}
    expected = [
        mean,
        {method: mean[method] - mean[method.replace("tiny", "random")] for method in mean if "tiny" in method},
        {method: mean[method] - mean["resnet, supervised"] for method in mean if "resnet" not in method},
    ]
    for part, numbers in zip(parts, expected, strict=True):
        assert part.keys() == numbers.keys()
        for method in part:
            assert part[method] == pytest.approx(numbers[method], abs=0.06), method
    assert "- super: left out, with fewer than 1 training or test recordings of a class: HYP, CD." in text
    assert "- super: the paper's numbers are omitted, since its recordings differ." in text
    assert "(paper)" not in text


def test_when_seeds_differ_then_heads_do_and_an_encoder_with_all_recordings_does_not(finished: Finished) -> None:
    cells = finished[0] / "cells"
    for how in ("tiny__probe__mean", "random__probe__mean", "resnet__supervised"):
        for fraction in ("25pc", "100pc"):
            first, second = (np.load(cells / f"super__{fraction}__seed{seed}__{how}.npy") for seed in (0, 1))
            assert not np.array_equal(first, second), how
    # All training recordings and the same encoder: there is nothing to draw.
    first, second = (np.load(cells / f"super__100pc__seed{seed}__tiny__knn.npy") for seed in (0, 1))
    np.testing.assert_array_equal(first, second)


def test_when_encoders_are_random_then_each_seed_has_its_own(
    task: Task, models: dict[str, Path | None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    used: list[str] = []

    def noted(encoder: Any, *rest: Any, **options: Any) -> Any:
        used.append(weights_digest(encoder.base_model))
        return encode(encoder, *rest, **options)

    monkeypatch.setattr(benchmark, "encode", noted)
    _run([task], {"tiny": models["tiny"], "random": None}, tmp_path, protocols=("knn",), bootstrap_samples=0)
    # One encoder of the model and one of each seed; each reads three splits once, for all fractions.
    assert sorted(Counter(used).values()) == [3, 3, 3]
    known = load_for_finetuning(str(models["tiny"]), task.label_names)[0]
    assert weights_digest(known.base_model) in used


def test_when_a_finished_benchmark_is_started_again_then_nothing_is_run(
    task: Task,
    models: dict[str, Path | None],
    finished: Finished,
    copied: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before = {path.name: path.read_bytes() for path in copied.rglob("*") if path.is_file()}

    def refuse(*arguments: object) -> None:
        raise AssertionError("a finished cell was run")

    monkeypatch.setattr(benchmark._Runner, "run", refuse)
    assert _run([task], models, copied) == finished[1]
    assert {path.name: path.read_bytes() for path in copied.rglob("*") if path.is_file()} == before
    # Fewer cells are asked for: only those are shown, the others stay.
    few: dict[str, Any] = {"seeds": (1,), "protocols": ("probe",), "heads": ("hug",)}
    rows = _run([task], {"tiny": models["tiny"]}, copied, **few)
    assert [_key(row) for row in rows] == [("super", one, "1", "tiny", "probe", "hug") for one in ("0.25", "1")]
    assert len(list((copied / "cells").iterdir())) == 2 * len(finished[1])


def test_when_a_benchmark_is_interrupted_then_it_goes_on_and_ends_with_the_same_numbers(
    task: Task,
    models: dict[str, Path | None],
    finished: Finished,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    few: dict[str, Any] = {"fractions": (0.25,), "heads": ("mean",)}
    with monkeypatch.context() as patch:
        before = _count_runs(patch, stop_after=3)
        with pytest.raises(KeyboardInterrupt):
            _run([task], models, tmp_path, **few)
    assert len(before) == 3
    after = _count_runs(monkeypatch)
    rows = _run([task], models, tmp_path, **few)
    assert len({*before, *after}) == len(before) + len(after) == len(rows) == 10
    expected = {key: row for key, row in _numbers(finished[1]).items() if key[1] == "0.25" and key[5] != "hug"}
    assert _numbers(rows) == expected
    assert _numbers(_read_csv(tmp_path)) == expected
    for path in (tmp_path / "cells").glob("*.npy"):
        np.testing.assert_array_equal(np.load(path), np.load(finished[0] / "cells" / path.name))
    assert not list(tmp_path.rglob(".*"))


def test_when_cells_are_damaged_then_only_those_are_run_again(
    task: Task, models: dict[str, Path | None], finished: Finished, copied: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def path(cell: Cell, suffix: str) -> Path:
        return copied / "cells" / f"{cell.name}{suffix}"

    broken = [
        Cell("super", fraction, seed, model, "knn")
        for fraction in (0.25, 1.0)
        for seed in (0, 1)
        for model in ("tiny", "random")
    ][:6]
    cut, empty, no_json, no_npy, cut_npy, other_json = broken
    path(cut, ".json").write_text(path(cut, ".json").read_text()[:-20])
    path(empty, ".json").write_bytes(b"")
    path(no_json, ".json").unlink()
    path(no_npy, ".npy").unlink()
    path(cut_npy, ".npy").write_bytes(path(cut_npy, ".npy").read_bytes()[:-8])
    path(other_json, ".json").write_text("{}\n")
    cells = _count_runs(monkeypatch)
    rows = _run([task], models, copied)
    assert {*cells} == {*broken}
    assert len(cells) == 6
    assert _numbers(rows) == _numbers(finished[1])
    for cell in broken:
        np.testing.assert_array_equal(np.load(path(cell, ".npy")), np.load(finished[0] / "cells" / f"{cell.name}.npy"))


def test_when_weights_recordings_or_recipe_differ_then_the_folder_is_refused_by_name(
    task: Task, model: Path, other_model: Path, ptbxl: Path, copied: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = (copied / "benchmark.json").read_text()
    cells = _count_runs(monkeypatch)
    fewer = replace(task, sets={**task.sets, "test": task.sets["test"].select(range(11))})
    for given, weights, changed, message in (
        (task, other_model, {}, r"mismatch in the model 'tiny'\): choose another output folder"),
        (load_task("super", ptbxl, ["MI"]), model, {}, r"contains a different benchmark .*the task 'super': labels"),
        (fewer, model, {}, "the task 'super': recordings: test was"),
        (task, model, {"probe_epochs": 3}, "the recipe 'probe': num_train_epochs was"),
        (task, model, {"draw": "stratified"}, "the draw 'of shares' was"),
    ):
        with pytest.raises(InputError, match=message):
            _run([given], {"tiny": weights}, copied, seeds=(0,), **changed)
    assert cells == []
    assert (copied / "benchmark.json").read_text() == before
    # Another name is no contradiction, and what was there stays known.
    _run([task], {"other": other_model}, copied, seeds=(0,), protocols=("knn",))
    assert {cell.model for cell in cells} == {"other"}
    assert set(json.loads((copied / "benchmark.json").read_text())["models"]) == {"tiny", "random", "other"}


def test_when_recordings_were_rejected_then_the_papers_numbers_are_found_by_what_the_source_has_and_it_is_reported(
    ptbxl: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = benchmark.read_manifest(ptbxl)
    manifest["splits"]["train"]["records"] += 2
    asked: list[dict[str, int]] = []
    paper = Published("PTB-XL Super", (50, 12, 12), {})

    def find(names: list[str], sizes: dict[str, int]) -> Published:
        asked.append(sizes)
        return paper

    monkeypatch.setattr(benchmark, "read_manifest", lambda folder: manifest)
    monkeypatch.setattr(benchmark, "published_for", find)
    task = load_task("super", ptbxl)
    kept = len(task.sets["train"])
    assert asked == [{"train": kept + 2, "validation": 12, "test": 12}]
    assert task.published is paper
    assert (
        f"of their {kept + 2} for train {kept}, 12 for validation 12, 12 for test 12 could be used" in task.notes[-1]
    )


def test_when_recordings_have_several_windows_and_no_patients_then_each_is_drawn_split_and_counted_whole(
    make_folder: Callable[..., Path], model: Path, tmp_path: Path
) -> None:
    task = load_task("ward", make_folder(18, lambda patient: "train" if patient < 12 else "test", windows=True))
    assert {split: len(rows) for split, rows in task.sets.items()} == {"train": 42, "validation": 6, "test": 24}
    for rows in task.sets.values():
        # No recording is on two sides, or has lost a window.
        assert {*Counter(rows["record_id"]).values()} == {2}
    for draw in ("plain", "stratified"):
        few: dict[str, Any] = {"protocols": ("knn",), "fractions": (0.5,), "seeds": (0,)}
        (row,) = _run([task], {"tiny": model}, tmp_path / draw, **few, draw=draw)
        assert (row["num_validation"], row["num_test"]) == (3, 12)
        assert row["num_train"] in (10, 11)
        (path,) = (tmp_path / draw / "cells").glob("*.json")
        metrics = json.loads(path.read_text())["metrics"]
        assert (metrics["num_recordings"], metrics["num_patients"]) == (12, 12)
        assert np.load(path.with_suffix(".npy")).shape == (12, 2)


def test_when_a_folder_is_older_than_the_choice_of_a_draw_then_its_shares_are_stratified(
    task: Task, model: Path, copied: Path
) -> None:
    run = json.loads((copied / "benchmark.json").read_text())
    del run["draws"]
    (copied / "benchmark.json").write_text(json.dumps(run))
    few: dict[str, Any] = {"protocols": ("knn",), "seeds": (0,)}
    with pytest.raises(InputError, match="the draw 'of shares' was"):
        _run([task], {"tiny": model}, copied, **few)
    _run([task], {"tiny": model}, copied, **few, draw="stratified")
    assert "sampled by patient such that each label keeps its prevalence" in (copied / "table.md").read_text()


def test_when_nothing_is_asked_for_then_a_probe_is_trained_as_in_the_paper() -> None:
    arguments = BenchmarkArguments()
    probe = arguments.recipes["probe"]
    # Pan et al., 2025: batch 256, 5e-3 after 10 of 100 epochs, then a cosine to 1e-5; plain shares of the recordings.
    assert (probe.per_device_train_batch_size, probe.num_train_epochs) == (256, 100)
    assert (probe.warmup_ratio, probe.weight_decay) == (0.1, 0.05)
    assert (probe.head_learning_rate, probe.min_learning_rate) == (5e-3, 1e-5)
    repeated = BenchmarkArguments(seeds=[1, 0, 1], fractions=[1.0, 1.0], heads=["mean", "mean"])
    assert (repeated.seeds, repeated.fractions, repeated.heads) == ([1, 0], [1.0], ["mean"])
    assert (arguments.draw, arguments.fractions) == ("plain", [0.01, 0.1, 1.0])
    assert replace(arguments, probe_epochs=3).recipes["probe"].num_train_epochs == 3


def test_when_seeds_fractions_heads_or_tasks_are_added_then_only_the_new_cells_are_run(
    task: Task,
    ptbxl: Path,
    models: dict[str, Path | None],
    finished: Finished,
    copied: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    few = {name: models[name] for name in ("tiny", "random")}
    more: dict[str, Any] = {"fractions": (0.25, 0.5, 1.0), "seeds": (0, 1, 2), "protocols": ("knn",)}
    cells = _count_runs(monkeypatch)
    rows = _run([task], few, copied, **more)
    old = {(fraction, seed) for fraction in (0.25, 1.0) for seed in (0, 1)}
    everything = {(fraction, seed) for fraction in more["fractions"] for seed in more["seeds"]}
    for name in few:
        assert {(cell.fraction, cell.seed) for cell in cells if cell.model == name} == everything - old
    before = _numbers(finished[1])
    after = _numbers(rows)
    assert len(after) == 18
    assert all(after[key] == before[key] for key in after if key in before)
    # Another task first, with another number of labels: the encoder without weights is still the same one.
    cells.clear()
    infarction = load_task("infarction", ptbxl, ["MI"])
    _run([infarction, task], few, copied, protocols=("knn",), fractions=(1.0,), seeds=(0,))
    assert {(cell.task, cell.model) for cell in cells} == {("infarction", "tiny"), ("infarction", "random")}
    head = _table((copied / "table.md").read_text())[0]
    assert head == ["method", "infarction 100%", "super 100%"]


def test_when_names_differ_only_in_signs_then_their_cells_are_not_mixed() -> None:
    names = ("a b", "a_b", "a/b")
    cells = [Cell(task, 1.0, 0, model, "knn").name for task in names for model in names]
    assert len({*cells}) == 9


def test_when_a_fraction_lacks_a_class_then_it_is_reported_once_by_name(
    task: Task, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    labels = dataset_labels(task.sets["train"], task.label_names).numpy()
    messages: list[str] = []
    arguments = _arguments(protocols=("knn",), fractions=(0.05, 1.0), bootstrap_samples=0)
    both: dict[str, Path | None] = {"one": model, "other": model}
    rows = _run_without_training(monkeypatch, [task], both, tmp_path, arguments, say=messages.append)
    notes = (tmp_path / "table.md").read_text()
    expected, absent = [], {}
    for seed in (0, 1):
        drawn = labels[random_subset(task.sets["train"]["record_id"], 0.05, seed)]
        absent[str(seed)] = [
            name for name, column in zip(task.label_names, drawn.T, strict=True) if len({*column.tolist()}) < 2
        ]
        if absent[str(seed)]:
            expected.append(f"super, 5%, seed {seed}: ")
            (text,) = [message for message in messages if message.startswith(expected[-1])]
            assert text.endswith(", ".join(absent[str(seed)]))
            assert f"- {text}.\n" in notes + "\n"
    assert expected, "the draws of this test lack a class"
    assert len(messages) == len(expected)
    for row in rows:
        wanted = absent[str(row["seed"])] if row["fraction"] == "0.05" else []
        assert row["absent_in_training"] == " ".join(wanted)


def test_when_patients_are_tested_that_were_trained_on_then_it_is_refused(
    task: Task, model: Path, tmp_path: Path
) -> None:
    patient = task.sets["train"]["patient_id"][0]
    for split in ("train", "validation"):
        leaking = replace(task, sets={**task.sets, "test": task.sets[split].select([0, 1])})
        with pytest.raises(InputError, match=rf"super: 2 patient\(s\) are in both the {split} and test recordings"):
            _run([leaking], {"tiny": model}, tmp_path / "out")
    shared = replace(task, sets={**task.sets, "validation": task.sets["train"].select([0])})
    with pytest.raises(InputError, match=rf"in both the training and validation recordings, such as {patient}"):
        _run([shared], {"tiny": model}, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_when_features_are_computed_then_the_encoder_is_on_the_device_of_the_process(
    task: Task, models: dict[str, Path | None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def watched(encoder: Any, *args: Any, **kwargs: Any) -> None:
        seen.append(encoder.device)
        raise KeyboardInterrupt

    seen: list[Any] = []
    monkeypatch.setattr(benchmark, "PartialState", lambda: SimpleNamespace(device=torch.device("meta")))
    monkeypatch.setattr(benchmark, "encode", watched)
    with pytest.raises(KeyboardInterrupt):
        _run([task], models, tmp_path)
    assert seen == [torch.device("meta")]


def test_when_a_launcher_starts_several_then_it_is_refused(
    task: Task, models: dict[str, Path | None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(InputError, match="2 processes were launched, but a benchmark runs in one"):
        _run([task], models, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_when_a_model_or_a_choice_does_not_fit_then_it_is_refused_before_any_work(task: Task, tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match="'random' randomly initializes the encoders of the models: add a model folder"
    ):
        _run([task], {"random": None}, tmp_path / "out")
    folder = tmp_path / "filtered"
    save_model_folder(folder, make_model(), ClearHugFeatureExtractor(bandpass_low=0.5))
    with pytest.raises(InputError, match=r"bandpass_low=.*, but the model requires bandpass_low=0\.5"):
        _run([task], {"tiny": folder}, tmp_path / "out")
    with pytest.raises(InputError, match="protocols is 'linear': choose from knn, logistic, probe, finetune, lora"):
        _arguments(protocols=("linear",))
    for fraction in (0.0, 1.5, float("nan")):
        with pytest.raises(InputError, match=r"fractions is .*: (it must be greater|give fractions)"):
            _arguments(fractions=(fraction,))
    assert not (tmp_path / "out").exists()


def test_when_lora_has_nothing_to_update_then_no_cell_is_run(
    task: Task, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("peft")
    monkeypatch.setattr(benchmark, "adapted_modules", Mock(side_effect=InputError("LoRA updates linear maps")))
    with pytest.raises(InputError, match=r"^model tiny: LoRA updates linear maps"):
        _run([task], {"tiny": model}, tmp_path / "out", protocols=("knn", "lora"))
    assert not (tmp_path / "out" / "cells").exists()


def test_when_the_whole_model_is_trained_then_cells_of_each_way_differ_and_features_are_kept_for_probes(
    task: Task, model: Path, tmp_path: Path
) -> None:
    few: dict[str, Any] = {
        "heads": ("mean",),
        "fractions": (0.25,),
        "seeds": (0,),
        "bootstrap_samples": 0,
        "finetune_epochs": 2,
    }
    arguments = _arguments(protocols=("probe", "finetune", "lora"), **few)
    cache = tmp_path / "cache"
    rows = run_benchmark([task], {"tiny": model}, tmp_path / "out", arguments, cache_dir=cache, progress=False)
    assert [row["protocol"] for row in rows] == ["probe", "finetune", "lora"]
    cells = tmp_path / "out" / "cells"
    found = [np.load(cells / f"super__25pc__seed0__tiny__{row['protocol']}__mean.npy") for row in rows]
    assert not np.allclose(found[0], found[1])
    assert not np.allclose(found[1], found[2])
    # Epochs are chosen on the first beats of the validation recordings, and predictions read all.
    assert len(list(cache.iterdir())) == 4
    # The folder of the model is as it was.
    again = tmp_path / "again"
    _run([task], {"tiny": model}, again, protocols=("finetune",), **few)
    name = "super__25pc__seed0__tiny__finetune__mean.npy"
    np.testing.assert_array_equal(np.load(again / "cells" / name), found[1])


def test_when_a_head_reads_tokens_then_its_probe_is_a_finetuning_of_the_head(
    task: Task, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    heads, few = ("mean", "attention"), {"fractions": (0.25,), "seeds": (0,), "bootstrap_samples": 0}
    arguments, cache = _arguments(heads=heads, protocols=("probe",), **few), tmp_path / "cache"
    rows = run_benchmark([task], {"tiny": model}, tmp_path / "out", arguments, cache_dir=cache, progress=False)
    assert [row["head"] for row in rows] == list(heads)
    cells = tmp_path / "out" / "cells"
    found = [np.load(cells / f"super__25pc__seed0__tiny__probe__{head}.npy") for head in heads]
    assert not np.allclose(*found)
    # Epochs are chosen on the first beats of the validation recordings, and predictions read all.
    assert len(list(cache.iterdir())) == 4
    # Tokens that are kept in memory give what encoding in every epoch gives.
    monkeypatch.setattr(benchmark, "_TOKEN_BYTES", 0)
    _run([task], {"tiny": model}, tmp_path / "again", **{**few, "heads": heads[1:], "protocols": ("probe",)})
    again = np.load(tmp_path / "again" / "cells" / "super__25pc__seed0__tiny__probe__attention.npy")
    np.testing.assert_allclose(found[1], again, atol=1e-5)


@pytest.mark.parametrize("head", ["mean", "attention"])
def test_when_recordings_have_more_beats_than_the_model_reads_then_cells_are_of_all_as_predictions(
    head: str, task: Task, model: Path
) -> None:
    extractor = ClearHugFeatureExtractor(num_beats=4)
    classifier = load_for_finetuning(str(model), task.label_names, head_type=head)[0]
    assert min(len(peaks) for peaks in task.sets["test"]["r_peaks"]) > 4
    collator = EcgCollator(extractor, label_names=task.label_names, all_beats=True)
    encoded = encode(classifier, task.sets["test"], collator, batch_size=5, tokens=True)
    expected = predict(classifier, task.sets["test"], extractor).probabilities
    np.testing.assert_allclose(benchmark._probabilities(HeadOnly(classifier), encoded), expected, atol=1e-5)


def test_when_encoders_have_several_forms_then_each_is_set_against_the_control_of_its_own(
    task: Task, model: Path, other_model: Path, tmp_path: Path
) -> None:
    deep = _save_model(tmp_path / "deep", 0, hidden_size=64)
    models: dict[str, Path | None] = {"tiny": model, "other": other_model, "deep": deep, "random": None}
    few: dict[str, Any] = {"fractions": (1.0,), "seeds": (0,), "protocols": ("knn",)}
    rows = {row["model"]: row for row in _run([task], models, tmp_path / "all", **few)}
    small, large = (name for name in rows if name.startswith("random"))
    assert list(rows) == ["tiny", "other", "deep", small, large]
    sizes = [int(re.fullmatch(r"random \(clear_hug ([\d,]+)\)", name)[1].replace(",", "")) for name in (small, large)]
    assert sizes[0] < sizes[1]
    text = (tmp_path / "all" / "table.md").read_text()
    ahead = {line[0]: line[1] for line in _table(text.split("Difference from the same encoder randomly init")[1])}
    for name, control in (("tiny", small), ("other", small), ("deep", large)):
        difference = 100 * (float(rows[name]["macro_auroc"]) - float(rows[control]["macro_auroc"]))
        assert float(ahead[f"{name}, knn"].split()[0]) == pytest.approx(difference, abs=0.06)
    assert f"{small}, knn" not in ahead
    # Each control is what it is alone, under the name that it has there.
    for folder, control in ((model, small), (deep, large)):
        alone = _run([task], {"model": folder, "random": None}, tmp_path / control, **few)
        assert [row["model"] for row in alone] == ["model", "random"]
        assert alone[1]["macro_auroc"] == rows[control]["macro_auroc"]
        probabilities = [
            np.load(tmp_path / where / "cells" / (Cell("super", 1.0, 0, name, "knn").name + ".npy"))
            for where, name in ((control, "random"), ("all", control))
        ]
        np.testing.assert_array_equal(*probabilities)


# ---------------------------------------------------------------------------------------------------- cross-validation


@pytest.fixture
def folds(make_folder: Callable[..., Path]) -> list[Task]:
    folder = make_folder(36, lambda patient: "test" if patient % 5 == 0 else "train", (*LABELS, "rare"))
    return load_folds("ward", folder, 3)


def test_when_a_task_is_cross_validated_then_every_patient_is_tested_once_by_models_of_others(
    folds: list[Task],
) -> None:
    patients = [{split: {*rows["patient_id"]} for split, rows in task.sets.items()} for task in folds]
    everybody = {f"p{patient}" for patient in range(36)}
    for parts in patients:
        assert parts["train"] | parts["validation"] | parts["test"] == everybody
        assert sum(map(len, parts.values())) == 36
        assert all(parts.values())
    assert sum(len(parts["test"]) for parts in patients) == 36
    # The two patients with a rare label cannot be in the training and test recordings of all folds.
    assert [(task.name, task.fold, task.label_names) for task in folds] == [
        ("ward", n, list(LABELS)) for n in range(3)
    ]
    assert folds[0].notes == [
        "left out, with fewer than 1 training or test recordings of a fold of a class: rare",
        "cross-validated by patient in 3 folds of 72 recordings",
    ]


def test_when_folds_are_run_then_each_has_its_model_and_cells_and_the_table_pools_them(
    folds: list[Task], model: Path, other_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for fold, source in enumerate((model, other_model, model)):
        (tmp_path / f"mine-{fold}").symlink_to(source)
    models: dict[str, Path | None] = {"mine": tmp_path / "mine-{fold}", "same": model}
    few: dict[str, Any] = {"protocols": ("logistic",), "seeds": (0,), "fractions": (0.5,)}
    with monkeypatch.context() as patch:
        before = _count_runs(patch, stop_after=3)
        with pytest.raises(KeyboardInterrupt):
            _run(folds, models, tmp_path / "out", **few)
    after = _count_runs(monkeypatch)
    rows = _run(folds, models, tmp_path / "out", **few)
    assert len({*before, *after}) == len(before) + len(after) == 6
    assert [(row["fold"], row["model"]) for row in rows] == [(n, name) for n in range(3) for name in ("mine", "same")]
    cells = tmp_path / "out" / "cells"
    runs = {
        name: [[np.load(cells / f"ward__fold{n}__50pc__seed0__{name}__logistic.npy")] for n in range(3)]
        for name in ("mine", "same")
    }
    assert [np.array_equal(*pair) for pair in zip(*runs.values(), strict=True)] == [True, False, True]
    lines = {line[0]: line[1] for line in _table((tmp_path / "out" / "table.md").read_text().split("Difference")[0])}
    by_fold = [
        macro_auroc_samples(task.truth("test"), fold_runs, task.patient_ids("test"), 50, seed=n)
        for n, (task, fold_runs) in enumerate(zip(folds, runs["mine"], strict=True))
    ]
    low, high = np.percentile(100 * np.nanmean(by_fold, axis=0)[1:], [2.5, 97.5])
    shown = [float(number) for number in re.findall(r"[\d.]+", lines["mine, logistic"])]
    assert shown == pytest.approx([100 * np.mean([samples[0] for samples in by_fold]), low, high], abs=0.1)
    (tmp_path / "mine-1").unlink()
    (tmp_path / "mine-1").symlink_to(model)
    with pytest.raises(InputError, match="the model 'mine, fold 1'"):
        _run(folds, models, tmp_path / "out", **few)


def test_when_a_model_is_of_a_fold_but_there_are_none_then_it_is_refused(task: Task, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"mine-{fold} is the folder of a fold: cross-validate with --folds"):
        _run([task], {"mine": tmp_path / "mine-{fold}"}, tmp_path / "out")


# ------------------------------------------------------------------------------------------------- other ways to train


def test_when_only_a_form_is_named_then_it_is_trained_from_scratch_without_any_model(
    ptbxl: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["benchmark", "--tasks", f"super={ptbxl}", "--output-dir", str(tmp_path), "--no-use-feature-cache"]
    few = ["--fractions", "0.5", "--seeds", "0", "--bootstrap-samples", "0", "--scratch-epochs", "1"]
    assert main([*command, "--supervised", "clear_hug", "--protocols", "logistic", *few]) == 0
    rows = [(row["model"], row["protocol"], row["head"]) for row in _read_csv(tmp_path)]
    assert rows == [("random", "logistic", ""), ("supervised (clear_hug)", "scratch", "mean")]
    assert "| supervised (clear_hug), scratch, mean |" in (tmp_path / "table.md").read_text()
    for options, message in (
        ([], "there is nothing to test: set --models, --supervised, --resnet or --minirocket"),
        (["--supervised", "clear_hg"], "there is no system 'clear_hg': did you mean 'clear_hug'?"),
        (["--supervised", "clear_hug:huge"], "clear_hug has no size 'huge': choose from tiny, small, base, large"),
        (["--supervised", "ecg_jepa"], "super is not prepared for ecg_jepa"),
    ):
        capsys.readouterr()
        assert main([*command, *few, *options]) == 2
        assert message in capsys.readouterr().err


def test_when_scratch_has_more_epochs_then_only_its_recipe_differs(
    task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    models: Any = {"supervised (mine)": make_model().config, "random": None}
    few: dict[str, Any] = {"fractions": (1.0,), "seeds": (0,), "protocols": ("knn",)}
    _run_without_training(monkeypatch, [task], models, tmp_path, _arguments(**few))
    with pytest.raises(InputError, match="the recipe 'scratch': num_train_epochs was"):
        _run([task], models, tmp_path, scratch_epochs=3, **few)
    # Without the form there is no such recipe.
    assert len(_run([task], {"resnet": None}, tmp_path, scratch_epochs=3, **few)) == 1


def test_when_aeon_is_absent_then_minirocket_names_its_extra(
    ptbxl: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "aeon", None)
    assert main(["benchmark", "--tasks", str(ptbxl), "--minirocket", "--output-dir", str(tmp_path / "out")]) != 0
    message = "MiniRocket needs aeon, which is not installed: pip install 'clear-hug-hf[baselines]'"
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_when_minirocket_is_trained_then_it_is_a_row_without_a_head(task: Task, tmp_path: Path) -> None:
    pytest.importorskip("aeon", reason="MiniRocket needs aeon, which allows no current NumPy")
    (row,) = _run([task], {"minirocket": None}, tmp_path, fractions=(1.0,), seeds=(0,), bootstrap_samples=0)
    assert (row["model"], row["protocol"], row["chosen"] in PENALTIES) == ("minirocket", "supervised", True)
    assert float(row["macro_auroc"]) > 0.8


def test_when_a_task_is_prepared_for_two_systems_then_the_rows_of_both_are_used(
    make_folder: Callable[..., Path], tmp_path: Path
) -> None:
    first = make_folder(10, lambda patient: ("train", "val", "test")[patient % 3])
    lines = (tmp_path / "table.csv").read_text().splitlines()

    def prepare_again(name: str, rows: list[str], **options: Any) -> Path:
        (tmp_path / f"{name}.csv").write_text("\n".join([lines[0], *rows]) + "\n")
        source = open_source("csv", tmp_path / f"{name}.csv", label_columns=list(LABELS))
        prepare_shards(source, tmp_path / name, EcgJepaFeatureExtractor(), progress=False)
        return tmp_path / name

    # In another order, and without one of the twenty recordings.
    task = load_task("both", [first, prepare_again("fewer", lines[:1:-1])])
    (other,) = task.others
    assert task.feature_extractor.sampling_rate != other.feature_extractor.sampling_rate
    for split in ("train", "validation", "test"):
        assert task.sets[split]["record_id"] == other.sets[split]["record_id"]
        np.testing.assert_array_equal(task.truth(split), other.truth(split))
    assert sum(map(len, task.sets.values())) == 19
    assert "1 rows that are not in all 2 folders were left out" in task.notes
    for fold, crossed in enumerate(load_folds("both", [first, tmp_path / "fewer"], 2)):
        (other,) = crossed.others
        assert crossed.key == other.key == ("both", fold)
        for split in ("train", "validation", "test"):
            assert crossed.sets[split]["record_id"] == other.sets[split]["record_id"]
    swapped = [
        line.replace(",train,", ",TEST,").replace(",test,", ",train,").replace("TEST", "test") for line in lines
    ]
    for name, rows in (
        ("splits", swapped[1:]),
        ("labels", [f"{line[:-1]}{1 - int(line[-1])}" for line in lines[1:]]),
    ):
        with pytest.raises(
            InputError, match="differ in splits, patients or labels: the folders of a task must contain the same"
        ):
            load_task("both", [first, prepare_again(name, rows)])
    renamed = [line.replace("records/", f"{tmp_path}/records/") for line in lines[1:]]
    with pytest.raises(InputError, match="share no recording"):
        load_task("both", [first, prepare_again("others", renamed)])


def test_when_a_model_scales_windows_otherwise_than_the_folder_then_it_reads_them_at_its_own_scale(
    make_folder: Callable[..., Path], tmp_path: Path
) -> None:
    make_folder(6, lambda patient: ("train", "val", "test")[patient % 3])
    source = open_source("csv", tmp_path / "table.csv", label_columns=list(LABELS))
    prepare_shards(source, tmp_path / "waves", EcgWaveformFeatureExtractor(normalize="none"), progress=False)
    config = EcgResNetConfig(embedding_size=8, hidden_sizes=[8], depths=[1])
    save_model_folder(tmp_path / "model", EcgResNetModel(config), EcgWaveformFeatureExtractor(normalize="recording"))
    task = load_task("waves", [tmp_path / "waves"])
    assert benchmark._prepared_for(task, tmp_path / "model").feature_extractor.normalize == "recording"
    assert benchmark._prepared_for(task, config).feature_extractor.normalize == "none"
