"""What is installed: the core suffices for inference, extras are named where they are needed, and metadata agree."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from PIL import Image

import clear_hug_hf
from clear_hug_hf.cli import VERBS
from clear_hug_hf.data.records import Recording
from clear_hug_hf.processing import errors


REPOSITORY = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
# Modules that are not called as what is installed.
MODULES = {"huggingface_hub": "huggingface-hub", "yaml": "pyyaml"}
MODEL = "clear-hug-small-ptbxl-super"
INFERENCE = {
    "predict": ["predict", "record", "--model", MODEL],
    "json": ["predict", "record", "--model", MODEL, "--json"],
    "csv": ["predict", "record", "--model", MODEL, "--output", "predictions.csv"],
}
NEEDING = {
    "embed": (["embed", "record", "--model", MODEL, "--output", "new.parquet"], "pyarrow", "embed"),
    "prepare": (["prepare", ".", "--output-dir", "new"], "datasets", "train"),
    "pretrain": (["pretrain", "--data", ".", "--output-dir", "new"], "accelerate", "train"),
    "finetune": (["finetune", "--data", ".", "--model", MODEL, "--output-dir", "new"], "datasets", "train"),
    "evaluate": (["evaluate", "--data", ".", "--model", MODEL, "--output", "new.json"], "datasets", "train"),
    "benchmark": (["benchmark", "--tasks", ".", "--models", MODEL, "--output-dir", "new"], "datasets", "train"),
    "demo": (["demo", "--output-dir", "new"], "neurokit2", "beats"),
    "export": (["export", MODEL, "--output-dir", "new"], "onnx", "export"),
    "render": (["render", "record", "new.png"], "opencv-python-headless", "pages"),
    "pictures": (["predict", "record", "--model", MODEL, "--pictures", "new"], "matplotlib", "plots"),
    "table": (["predict", "table.csv", "--model", MODEL], "pandas", "train"),
    "file": (["predict", "muse.bin", "--model", MODEL], "ecgdatakit", "formats"),
    "page": (["predict", "page.png", "--model", "ecg-scan-tiny-ptbxl-super"], "pillow", "pages"),
    "publish": (["publish", MODEL, "me/mine", "--dry-run", "new"], "jinja2", "train"),
}
IN_PYTHON = {
    "finetune in Python": ("from clear_hug_hf import finetune", "accelerate|datasets", "train"),
    "simulation": (
        "from clear_hug_hf.data.simulation import simulate_recordings; simulate_recordings(1, num_workers=1)",
        "neurokit2",
        "beats",
    ),
    "detector": (
        "import numpy; from clear_hug_hf.processing import detect_r_peaks\n"
        "detect_r_peaks(numpy.random.default_rng(0).normal(size=(12, 1000)), 100, detector='neurokit')",
        "neurokit2",
        "beats",
    ),
    "page in Python": (
        "import numpy; from clear_hug_hf import draw_page; draw_page(numpy.zeros((12, 1000)), 100)",
        "opencv-python-headless",
        "pages",
    ),
    "table in Python": ("from clear_hug_hf import open_source; open_source('csv', 'table.csv')", "pandas", "train"),
}
LOGITS = f"""
import clear_hug_hf
from transformers import AutoFeatureExtractor, AutoModelForSequenceClassification
folder = clear_hug_hf.shipped_model("{MODEL}")
extractor = AutoFeatureExtractor.from_pretrained(folder)
recording = clear_hug_hf.read_record("record")
inputs = extractor(**recording.as_inputs(), return_tensors="pt")
result = AutoModelForSequenceClassification.from_pretrained(folder)(**inputs).logits.tolist()
"""
PIPELINE = f"""
import clear_hug_hf
from transformers import pipeline
result = pipeline("ecg-classification", model=str(clear_hug_hf.shipped_model("{MODEL}")))("record", top_k=None)
"""


@pytest.fixture(scope="module")
def folder(
    tmp_path_factory: pytest.TempPathFactory,
    make_recordings: Callable[..., list[Recording]],
    write_record: Callable[[Path, Recording], Path],
) -> Path:
    """A folder with a record, a picture and a table."""
    folder = tmp_path_factory.mktemp("core")
    write_record(folder / "record", make_recordings(1)[0])
    Image.new("RGB", (400, 300), "white").save(folder / "page.png")
    (folder / "table.csv").write_text("path\nrecord\n")
    (folder / "muse.bin").write_text("<?xml version='1.0'?><RestingECG/>")
    return folder


@pytest.fixture(scope="module")
def core(folder: Path) -> dict[str, Any]:
    """What a process does in which no optional library is installed."""
    request = folder / "request.json"
    verbs = INFERENCE | {f"{verb} --help": [verb, "--help"] for verb in VERBS}
    verbs |= {name: words for name, (words, _, _) in NEEDING.items()}
    python = {"logits": LOGITS, "pipeline": PIPELINE} | {name: code for name, (code, _, _) in IN_PYTHON.items()}
    blocked = [name for name, (_, extra) in errors.OPTIONAL_LIBRARIES.items() if extra is not None]
    request.write_text(json.dumps({"blocked": blocked, "verbs": verbs, "python": python}))
    script = REPOSITORY / "tests" / "support" / "core_only.py"
    subprocess.run([sys.executable, str(script), str(request)], cwd=folder, check=True)
    return json.loads(request.with_suffix(".answer").read_text())


def test_when_only_the_core_is_installed_then_recordings_are_predicted(folder: Path, core: dict[str, Any]) -> None:
    for name in INFERENCE:
        assert core[name]["value"] == 0, core[name]
    assert re.search(r"%  NORM$", core["predict"]["out"], re.MULTILINE)
    assert set(json.loads(core["json"]["out"])["probabilities"]) == {"NORM", "MI", "STTC", "CD", "HYP"}
    assert len((folder / "predictions.csv").read_text().splitlines()) == 2
    assert not core["imported"], "nothing else was imported"
    for verb in VERBS:
        assert core[f"{verb} --help"]["value"] == 0, core[f"{verb} --help"]


def test_when_only_the_core_is_installed_then_python_gives_the_same_bits(
    folder: Path, core: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    for name, code in (("logits", LOGITS), ("pipeline", PIPELINE)):
        assert core[name]["value"] is None, core[name]
        scope: dict[str, Any] = {}
        exec(code, scope)
        assert core[name]["result"] == scope["result"]


@pytest.mark.parametrize("name", NEEDING)
def test_when_a_verb_needs_an_extra_then_one_sentence_names_it(name: str, folder: Path, core: dict[str, Any]) -> None:
    _, package, extra = NEEDING[name]
    assert core[name]["value"] == 2, core[name]
    sentence = rf".* needs ({package}), which is not installed: pip install 'clear-hug-hf\[{extra}\]'"
    assert re.fullmatch(f"clear-hug: error: {sentence}\n", core[name]["err"]), core[name]
    assert not list(folder.glob("*new*")), "nothing is written"


@pytest.mark.parametrize("name", IN_PYTHON)
def test_when_a_function_needs_an_extra_then_its_error_names_it(name: str, core: dict[str, Any]) -> None:
    _, package, extra = IN_PYTHON[name]
    sentence = rf"ImportError: .* needs ({package}), which is not installed: pip install 'clear-hug-hf\[{extra}\]'"
    assert re.fullmatch(sentence, str(core[name]["value"])), core[name]


def _names(requirements: list[str]) -> set[str]:
    return {Requirement(one).name.lower() for one in requirements} - {PROJECT["name"]}


def test_when_a_library_is_imported_then_it_is_declared() -> None:
    declared = _names(PROJECT["dependencies"]) | {package for package, _ in errors.OPTIONAL_LIBRARIES.values()}
    package = Path(clear_hug_hf.__file__).parent
    for path in package.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and not node.level:
                names = [str(node.module)]
            for library in {name.partition(".")[0] for name in names} - sys.stdlib_module_names - {package.name}:
                installed, _ = errors.OPTIONAL_LIBRARIES.get(library, (MODULES.get(library, library), None))
                assert installed in declared, f"{path.relative_to(package)} imports {library}"


def test_when_an_extra_is_named_then_it_brings_the_library() -> None:
    extras = {name: _names(members) for name, members in PROJECT["optional-dependencies"].items()}
    for package, extra in errors.OPTIONAL_LIBRARIES.values():
        assert package in (_names(PROJECT["dependencies"]) if extra is None else extras[extra])
    (everything,) = PROJECT["optional-dependencies"]["all"]
    assert Requirement(everything).extras == extras.keys() - {"all", "baselines", "benchmarks", "dev", "docs"}


def test_when_a_published_copy_lacks_a_library_then_its_message_names_the_library() -> None:
    copy = ModuleType("transformers_modules.errors")
    exec(Path(errors.__file__).read_text(encoding="utf-8"), copy.__dict__)
    assert copy.missing_library("cv2", "a page").endswith("not installed: pip install opencv-python-headless")
    assert errors.missing_library("no_such_library", "a page") is None


def test_when_the_version_is_asked_then_all_places_agree() -> None:
    citation = yaml.safe_load((REPOSITORY / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == clear_hug_hf.__version__
    assert PROJECT["dynamic"] == ["version"]
