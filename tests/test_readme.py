"""README and docs: their Python runs, their commands parse, their tables are those of the CSV files."""

from __future__ import annotations

import importlib
import importlib.util
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from released import founder_tensors
from transformers import set_seed

import clear_hug_hf
from clear_hug_hf import (
    ClearHugConfig,
    ClearHugFeatureExtractor,
    ClearHugForPreTraining,
    ClearHugForSequenceClassification,
    EcgFounderConfig,
)
from clear_hug_hf.cli import main
from clear_hug_hf.data.records import Recording
from clear_hug_hf.hub.convert_ecg_founder import convert_ecg_founder_to_folder


REPOSITORY = Path(__file__).resolve().parents[1]
# Tests of their own execute these pages from top to bottom.
EXECUTED_ELSEWHERE = {"add_a_system.md", "preparation.md"}
PAGES = {
    path.name: path.read_text(encoding="utf-8")
    for path in (REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").glob("*.md")))
    if path.name not in EXECUTED_ELSEWHERE
}
BLOCKS = {name: re.findall(r"```python\n(.*?)```", page, re.DOTALL) for name, page in PAGES.items()}
# The Python of these pages has tests with more to set up or to check.
SPECIAL = {"finetuning.md", "pretraining.md"}
PYTHON = [
    pytest.param(code, id=f"{name}-{number}")
    for name, blocks in BLOCKS.items()
    if name not in SPECIAL
    for number, code in enumerate(blocks)
]
COMMANDS = [
    shlex.split(line, comments=True)
    for page in PAGES.values()
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

    torch.save(founder_tensors(EcgFounderConfig.preset("tiny")), folder / "released.pth")
    convert_ecg_founder_to_folder(folder / "released.pth", folder / "converted" / "ecg-founder")

    table = ["path,patient_id,stemi,lbbb"]
    for number, recording in enumerate(make_recordings(40)):
        labels = recording.labels or {}
        write_record(folder / "ward" / f"{number:04d}", recording)
        table.append(f"ward/{number:04d},p{number},{labels['fast']:g},{labels['inverted']:g}")
    write_record(folder / "path" / "to" / "record", make_recordings(1)[0])
    (folder / "ward.csv").write_text("\n".join(table) + "\n")
    return folder


@pytest.mark.parametrize("code", PYTHON)
def test_when_python_of_a_page_runs_then_it_works(code: str, workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(workplace)
    if "onnxruntime" in code:
        pytest.importorskip("onnxscript")
        pytest.importorskip("onnxruntime")
        assert main(["export", "demo", "--output-dir", "exported"]) == 0
    if '"embeddings.parquet"' in code:
        command = next(words for words in COMMANDS if "embeddings.parquet" in words)
        assert main([word.replace("folder", "record") for word in command[1:]]) == 0
    exec(compile(code, "a Python block of README and docs", "exec"), {})


def test_when_python_of_the_guide_to_finetuning_runs_then_it_works(
    workplace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(workplace)
    adapter, metric = BLOCKS["finetuning.md"]
    if importlib.util.find_spec("peft") is not None:
        exec(compile(adapter, "docs/finetuning.md", "exec"), {})
    capsys.readouterr()
    exec(compile(metric, "docs/finetuning.md", "exec"), {})
    assert capsys.readouterr().out == "1.0\n"


def test_when_commands_of_the_quickstart_run_one_by_one_then_a_table_becomes_model_and_numbers(
    workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(workplace)
    quickstart = re.findall(r"^clear-hug .*runs/ward .*$", PAGES["quickstart.md"], re.MULTILINE)
    commands = [shlex.split(line, comments=True) for line in quickstart]
    assert [words[1] for words in commands] == ["finetune", "predict", "evaluate"]
    for words in commands:
        assert main(words[1:]) == 0
    assert len((workplace / "predictions.csv").read_text().splitlines()) == 41


def test_when_python_of_the_guide_to_pretraining_runs_then_it_works(
    ptbxl_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["prepare", str(ptbxl_folder), "--labels", "ptbxl_super", "--output-dir", "prepared/ptb-xl"]) == 0
    (code,) = BLOCKS["pretraining.md"]
    exec(compile(code, "docs/pretraining.md", "exec"), {})
    assert sorted(path.name for path in (tmp_path / "runs" / "mine").iterdir()) == [
        "best",
        "checkpoints",
        "model",
        "pretraining_log.csv",
        "pretraining_steps.csv",
    ]


@pytest.mark.parametrize("words", [c for c in COMMANDS if c[0] in ("clear-hug", "accelerate")], ids=" ".join)
def test_when_a_page_shows_a_command_then_its_options_exist(
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


def test_when_a_page_names_a_target_then_make_has_it() -> None:
    makefile = (REPOSITORY / "Makefile").read_text(encoding="utf-8")
    for target in {words[1] for words in COMMANDS if words[0] == "make"}:
        assert re.search(rf"^{target}:", makefile, re.MULTILINE)


def test_when_the_python_reference_is_built_then_it_has_every_public_name() -> None:
    documented = re.findall(r"^::: (\S+)$", PAGES["api.md"], re.MULTILINE)
    for path in documented:
        module, _, name = path.rpartition(".")
        assert hasattr(importlib.import_module(module), name), path
    assert {path.rpartition(".")[2] for path in documented} >= set(clear_hug_hf.__all__)


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md", "model_cards/README.md"])
def test_when_a_page_outside_the_site_has_links_then_their_files_exist(page: str) -> None:
    text = (REPOSITORY / page).read_text(encoding="utf-8")
    targets = re.findall(r"\]\(([^)#\s]+)|^\[[\w-]+\]: (\S+)$", text, re.MULTILINE)
    paths = [path for path in ("".join(pair) for pair in targets) if "://" not in path]
    assert [path for path in paths if not (REPOSITORY / page).parent.joinpath(path).exists()] == []


def test_when_a_page_is_written_then_the_site_has_it() -> None:
    navigation = (REPOSITORY / "mkdocs.yml").read_text(encoding="utf-8")
    assert {page.name for page in (REPOSITORY / "docs").glob("*.md")} == set(
        re.findall(r"(\w+\.md)$", navigation, re.M)
    )


def test_when_tables_are_checked_then_they_are_those_of_the_csv_files() -> None:
    command = [sys.executable, str(REPOSITORY / "benchmarks" / "readme_tables.py"), "--check"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
