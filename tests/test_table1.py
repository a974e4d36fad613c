"""`benchmarks/table1.py` goes from recordings to the table, and continues where it stopped."""

from __future__ import annotations

import csv
import importlib.util
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from clear_hug_hf.evaluation.protocol import PAPER
from clear_hug_hf.training.benchmark import SCRATCH


SCRIPT = Path(__file__).parents[1] / "benchmarks" / "table1.py"


@pytest.fixture
def script() -> Iterator[Any]:
    """The script as a module. It imports its neighbor `machine` by name."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(SCRIPT.parent))
        spec = importlib.util.spec_from_file_location("table1", SCRIPT)
        assert spec is not None
        assert spec.loader is not None
        module = sys.modules["table1"] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        yield module
        del sys.modules["table1"]


def _arguments(output: Path, **changes: Any) -> SimpleNamespace:
    settings = {"output": output, "prepared": None, "table": SCRIPT.with_suffix(".yaml"), "rows": None, "tasks": None}
    return SimpleNamespace(
        **{**settings, "seconds": None, "epochs": None, "smoke": False, "extra": [], "worker": None, **changes}
    )


def test_when_rows_are_read_then_they_are_those_of_the_paper_and_backbones_share_recordings(
    script: Any, tmp_path: Path
) -> None:
    table = script.Table(_arguments(tmp_path))
    methods = {row.paper for row in table.all_rows if row.paper}
    assert methods == PAPER["ptbxl_super"].values.keys() - {"CLEAR-HUG"}
    for name, values in script.LABEL_SETS.items():
        assert methods <= PAPER[values].values.keys(), name
    assert len({row.slug for row in table.all_rows}) == len(table.all_rows)
    shared = {row.backbone: table.prepared_name(row.backbone) for row in table.rows}
    assert shared["ecg_s4"] == shared["crt"] == "ecg_s4"
    assert len({*shared.values()}) < len(shared)
    # A tokenizer comes before what predicts its codes, and both share the seconds.
    (staged,) = (row for row in table.rows if row.tokenizer)
    assert [stage.objective for stage in staged.stages] == [staged.tokenizer, staged.objective]


def test_when_an_objective_is_unknown_then_its_row_is_named_and_left_out(
    script: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    described = yaml.safe_load(SCRIPT.with_suffix(".yaml").read_text())
    known = next(row for row in described["rows"] if row["name"] == "CLEAR")
    odd = [{**known, "name": "Odd", "objective": "odd"}, {**known, "name": "Far", "backbone": "far"}]
    (tmp_path / "rows.yaml").write_text(yaml.safe_dump({**described, "rows": [known, *odd]}))
    table = script.Table(_arguments(tmp_path, table=tmp_path / "rows.yaml"))
    assert [row.name for row in table.rows] == ["CLEAR"]
    printed = capsys.readouterr().out
    assert re.search(r"^Odd is left out: .*'odd'", printed, re.MULTILINE)
    assert re.search(r"^Far is left out: there is no backbone 'far'", printed, re.MULTILINE)


def test_when_seconds_are_measured_then_the_epochs_are_kept_and_another_budget_is_refused(
    script: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured: list[str] = []

    def measure(table: Any, row: Any, stage: Any, fold: int, epochs: int) -> dict[str, float]:
        measured.append(stage.name)
        return {"seconds_per_epoch": 7.0}

    monkeypatch.setattr(script.Table, "_run_worker", measure)
    monkeypatch.setattr(script.Table, "sources", lambda table, backbone: {"ptbxl": 9})
    table = script.Table(_arguments(tmp_path, seconds=60.0))
    clear, staged = (next(row for row in table.rows if row.name == name) for name in ("CLEAR", "HeartLang"))
    assert [table.epochs(clear, clear), table.epochs(clear, clear)] == [8, 8]
    assert [table.epochs(staged, stage) for stage in staged.stages] == [4, 4]
    assert len(measured) == 3
    with pytest.raises(SystemExit, match=r"is of a budget of 60 s, not 90 s: choose another output folder"):
        script.Table(_arguments(tmp_path, seconds=90.0)).epochs(clear, clear)
    assert script.Table(_arguments(tmp_path, epochs=3)).epochs(clear, clear) == 3


def test_when_an_epoch_takes_no_time_then_no_budget_is_kept(
    script: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(script.Table, "_run_worker", lambda *job: {"seconds_per_epoch": -0.5})
    table = script.Table(_arguments(tmp_path))
    with pytest.raises(SystemExit, match=r"^an epoch of .* is too short to be measured: set --epochs$"):
        table.epochs(table.rows[0], table.rows[0])
    assert not [*tmp_path.rglob("budget.json")]


@pytest.mark.parametrize(
    ("change", "difference"),
    [
        ("epochs", "a budget of 3 epochs, not 4 epochs"),
        ("recipe", "a recipe with the digest [0-9a-f]{12}, not [0-9a-f]{12}"),
        ("sources", r"the recordings of ptbxl \(9\), not ptbxl \(9\), ludb \(2\)"),
        ("folds", "a number of folds of 3, not 2"),
        ("unknown", "a budget of unknown, not 3 epochs"),
    ],
)
def test_when_an_encoder_is_of_other_settings_then_the_difference_is_named(
    script: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: str, difference: str
) -> None:
    facts = {"epochs": 3, "seconds": 1.0, "peak_mb": 2.0, "loss": 0.5, "parameters": 7}
    monkeypatch.setattr(script.Table, "_run_worker", lambda *job: facts)
    sources = {"ptbxl": 9}
    monkeypatch.setattr(script.Table, "sources", lambda table, backbone: sources)
    made = script.Table(_arguments(tmp_path, rows=["CLEAR"], epochs=3))
    for fold in range(made.settings.folds):
        made.folder(made.rows[0], fold).mkdir(parents=True)
    made.pretrain()
    table = script.Table(_arguments(tmp_path, rows=["CLEAR"], epochs=4 if change == "epochs" else 3))
    if change == "recipe":
        table.rows[0].options["learning_rate"] = 0.5
    elif change == "sources":
        sources["ludb"] = 2
    elif change == "folds":
        table.settings = script.replace(table.settings, folds=2)
    elif change == "unknown":
        (table.folder(table.rows[0], 0) / "cost.json").write_text(json.dumps(facts))
    for step in (table.pretrain, lambda: table.cost(table.rows[0])):
        with pytest.raises(SystemExit, match=f"cost.json is of {difference}: choose another output folder$"):
            step()


def test_when_rows_are_chosen_then_their_tasks_have_all_preparations_that_are_there(
    script: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded: list[list[str]] = []
    monkeypatch.setattr(
        script, "load_folds", lambda name, folders, *_, **__: loaded.append([path.parts[-2] for path in folders]) or []
    )
    everything = script.Table(_arguments(tmp_path, tasks=["super"]))
    chosen = script.Table(_arguments(tmp_path, tasks=["super"], rows=["CPC"]))
    everything.load_tasks()
    chosen.load_tasks()
    assert loaded[1] == ["ecg_s4"]
    for backbone in loaded[0]:
        (tmp_path / "prepared" / backbone / "super").mkdir(parents=True)
        (tmp_path / "prepared" / backbone / "super" / script.MANIFEST).touch()
    chosen.load_tasks()
    assert loaded[2] == loaded[0] != loaded[1]


def test_when_the_user_is_wrong_then_one_sentence_names_it(
    script: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--data", "absent", "--output", str(tmp_path), "--rows", "CPC", "--steps", "benchmark"]
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), *words])

    def refuse(table: Any) -> None:
        raise script.InputError("the tasks\ndiffer")

    monkeypatch.setattr(script.Table, "benchmark", refuse)
    assert script.main() == 2
    assert capsys.readouterr().err == "error: the tasks differ\n"


@pytest.mark.parametrize(("words", "output"), [(["--estimate"], "runs/table1"), (["there", "--estimate"], "there")])
def test_when_the_shell_script_gets_an_option_second_then_it_is_no_output(
    tmp_path: Path, words: list[str], output: str
) -> None:
    (tmp_path / "python").write_text('#!/bin/sh\necho "$@"\n')
    (tmp_path / "python").chmod(0o755)
    done = subprocess.run(
        ["bash", str(SCRIPT.parents[1] / "scripts" / "table1.sh"), "sources", *words],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"},
    )
    assert done.stdout.endswith(f"--data sources/ptbxl --extra --output {output} --estimate\n")


@pytest.mark.slow
def test_when_the_table_is_made_then_all_methods_are_in_it_and_nothing_is_done_twice(
    ptbxl_folder: Path, tmp_path: Path
) -> None:
    words = [str(SCRIPT), "--data", ptbxl_folder, "--output", tmp_path, "--smoke", "--tasks", "super"]

    def run(*options: str) -> str:
        command = [sys.executable, *map(str, words), "--rows", "CPC", "CLEAR", "HeartLang", *options]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
        assert done.returncode == 0, done.stderr[-3000:]
        return done.stdout

    run()
    with (tmp_path / "table1.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    frozen = [("logistic", ""), ("probe", "attention")]
    forms = {"ecg_s4": "CPC", "clear_hug": "CLEAR", "heartlang": "HeartLang"}
    found = {(line["method"], line["protocol"], line["head"]) for line in lines}
    models = [*forms.values(), *(f"random ({form})" for form in forms)]
    tuned = {how for how in found if how[1] == "finetune"}
    assert found - tuned == {(name, *how) for name in models for how in frozen} | {
        ("supervised (ecg_s4)", SCRATCH, "mean")
    }
    assert len(tuned) == 1
    for line in lines:
        assert 0 <= float(line["value"]) <= 1
        assert bool(line["minus_random_value"]) == (
            line["method"] in forms.values() and line["protocol"] != "finetune"
        )
        assert (line["epochs"], bool(line["seconds"])) == {"HeartLang": ("1 + 1", True)}.get(
            line["method"], ("1", True) if line["method"] in forms.values() else ("", False)
        )
    text = (tmp_path / "table1.md").read_text()
    assert "| *HeartLang (paper)* | *87.52* |" in text
    assert "| *SimCLR (paper)* | *73.53* |" in text
    assert "| **ecg_s4** |" in text
    task = text.split("### Cost of pre-training")[0]
    shown = {row[0]: row for row in (line.strip("| ").split(" | ") for line in task.splitlines())}
    value = next(line for line in lines if (line["method"], line["protocol"]) == ("CPC", "logistic"))
    assert shown["CPC"][1].startswith(f"{100 * float(value['value']):.1f} (")
    assert shown["CPC"][2].startswith(f"{100 * float(value['minus_random_value']):+.1f} (")
    assert any(name.endswith(", fully fine-tuned") for name in shown)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("cost.json")}
    before |= {path: path.stat().st_mtime_ns for path in (tmp_path / "benchmark" / "cells").iterdir()}
    assert run().endswith(text + "\n")
    assert all(path.stat().st_mtime_ns == written for path, written in before.items())
    # Fewer rows are of the same tasks.
    assert "HeartLang |" not in run("--rows", "CPC", "CLEAR", "--steps", "benchmark", "table")
