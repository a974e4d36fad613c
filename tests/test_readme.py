"""What the README shows works: its Python runs, its commands parse, its tables are those of the CSV files."""

from __future__ import annotations

import importlib.util
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from transformers import set_seed

from clear_hug_hf import (
    ClearHugConfig,
    ClearHugFeatureExtractor,
    ClearHugForPreTraining,
    ClearHugForSequenceClassification,
)
from clear_hug_hf.cli import main
from clear_hug_hf.data.records import Recording


REPOSITORY = Path(__file__).resolve().parents[1]
README = (REPOSITORY / "README.md").read_text(encoding="utf-8")
GUIDE = (REPOSITORY / "docs" / "pretraining.md").read_text(encoding="utf-8")
FINETUNING = (REPOSITORY / "docs" / "finetuning.md").read_text(encoding="utf-8")
PUBLISHING = (REPOSITORY / "docs" / "publishing.md").read_text(encoding="utf-8")
ECG_JEPA = (REPOSITORY / "docs" / "ecg_jepa.md").read_text(encoding="utf-8")
ECG_SCAN = (REPOSITORY / "docs" / "ecg_scan.md").read_text(encoding="utf-8")
PAGES = (README, GUIDE, FINETUNING, PUBLISHING, ECG_JEPA, ECG_SCAN)
PYTHON = [
    code
    for page in (README, PUBLISHING, ECG_JEPA, ECG_SCAN)
    for code in re.findall(r"```python\n(.*?)```", page, re.DOTALL)
]
COMMANDS = [
    shlex.split(line, comments=True)
    for page in PAGES
    for block in re.findall(r"```bash\n(.*?)```", page, re.DOTALL)
    for line in block.splitlines()
]


@pytest.fixture(scope="module")
def workplace(
    tmp_path_factory: pytest.TempPathFactory,
    make_recordings: Callable[..., list[Recording]],
    write_record: Callable[[Path, Recording], Path],
) -> Path:
    """A folder with what the README's examples name: records, a table of them, untrained models."""
    folder = tmp_path_factory.mktemp("readme")
    (folder / "model_cards").symlink_to(REPOSITORY / "model_cards")
    set_seed(0)
    config = ClearHugConfig.preset("tiny", num_hidden_layers=1, id2label={0: "NORM", 1: "MI"})
    for path, model_class in (
        ("demo/model", ClearHugForSequenceClassification),
        ("demo/pretrained/model", ClearHugForPreTraining),
    ):
        model_class(config).save_pretrained(folder / path)
        ClearHugFeatureExtractor().save_pretrained(folder / path)

    table = ["path,patient_id,stemi,lbbb"]
    for number, recording in enumerate(make_recordings(40)):
        labels = recording.labels or {}
        write_record(folder / "ward" / f"{number:04d}", recording)
        table.append(f"ward/{number:04d},p{number},{labels['fast']:g},{labels['inverted']:g}")
    write_record(folder / "path" / "to" / "record", make_recordings(1)[0])
    (folder / "ward.csv").write_text("\n".join(table) + "\n")
    return folder


@pytest.mark.parametrize("number", range(len(PYTHON)))
def test_when_python_of_the_readme_runs_then_it_works(
    number: int, workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(workplace)
    if "onnxruntime" in PYTHON[number]:
        pytest.importorskip("onnxscript")
        pytest.importorskip("onnxruntime")
        assert main(["export", "demo", "--output", "exported"]) == 0
    exec(
        compile(PYTHON[number], f"Python block {number} of README and docs", "exec"),
        {},
    )


def test_when_python_of_the_guide_to_finetuning_runs_then_it_works(
    workplace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(workplace)
    adapter, metric = re.findall(r"```python\n(.*?)```", FINETUNING, re.DOTALL)
    if importlib.util.find_spec("peft") is not None:
        exec(compile(adapter, "docs/finetuning.md", "exec"), {})
    capsys.readouterr()
    exec(compile(metric, "docs/finetuning.md", "exec"), {})
    assert capsys.readouterr().out == "1.0\n"


def test_when_commands_of_the_readme_are_given_one_by_one_then_a_table_becomes_model_and_numbers(
    workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(workplace)
    commands = [words for words in COMMANDS if "runs/ward" in words]
    assert [words[1] for words in commands] == ["finetune", "predict", "evaluate"]
    for words in commands:
        assert main(words[1:]) == 0
    assert len((workplace / "predictions.csv").read_text().splitlines()) == 41


def test_when_python_of_the_guide_to_pretraining_runs_then_it_works(
    ptbxl_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["prepare", str(ptbxl_folder), "--labels", "ptbxl_super", "--output", "prepared/ptb-xl"]) == 0
    (code,) = re.findall(r"```python\n(.*?)```", GUIDE, re.DOTALL)
    exec(compile(code, "docs/pretraining.md", "exec"), {})
    assert sorted(path.name for path in (tmp_path / "runs" / "mine").iterdir()) == [
        "best",
        "checkpoints",
        "model",
        "pretraining_log.csv",
        "pretraining_steps.csv",
    ]


@pytest.mark.parametrize("words", [c for c in COMMANDS if c[0] in ("clear-hug", "accelerate")], ids=" ".join)
def test_when_a_command_of_the_readme_or_guide_is_given_then_its_options_exist(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "scripts").symlink_to(REPOSITORY / "scripts")
    monkeypatch.chdir(tmp_path)
    if words[0] == "accelerate":
        position = next(index for index, word in enumerate(words) if word.endswith(".py"))
        assert all((REPOSITORY / word).is_file() for word in words if word.startswith("scripts/"))
        words = ["clear-hug", Path(words[position]).stem, *words[position + 1 :]]
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    # Neither the data nor the models are here: what parses is refused with a sentence, not by argparse's usage.
    assert main(words[1:]) == 2
    assert "clear-hug: error:" in capsys.readouterr().err


def test_when_the_readme_names_a_target_then_make_has_it() -> None:
    makefile = (REPOSITORY / "Makefile").read_text(encoding="utf-8")
    for target in {words[1] for words in COMMANDS if words[0] == "make"}:
        assert re.search(rf"^{target}:", makefile, re.MULTILINE)


def test_when_a_table_of_the_readme_is_checked_then_it_is_that_of_the_csv() -> None:
    command = [sys.executable, str(REPOSITORY / "benchmarks" / "readme_tables.py"), "--check"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
