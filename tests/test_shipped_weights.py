"""The weights under `model_cards/`: they load, they agree with their cards, and they can be published."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from transformers import AutoFeatureExtractor, AutoModel, AutoModelForSequenceClassification, AutoProcessor, pipeline

from clear_hug_hf import load_prepared, render_page
from clear_hug_hf.cli import main
from clear_hug_hf.data.label_sets import LABEL_SETS
from clear_hug_hf.data.model_files import load_config, load_feature_extractor
from clear_hug_hf.data.readers import open_source
from clear_hug_hf.data.simulation import simulate_recordings
from clear_hug_hf.evaluation.metrics import macro_auroc
from clear_hug_hf.evaluation.predictions import predict
from clear_hug_hf.hub.model_card import read_card
from clear_hug_hf.hub.publishing import stage
from clear_hug_hf.training.folders import classifier_class, load_classifier, load_model
from clear_hug_hf.utils.arguments import ArgumentParser


MODEL_CARDS = Path(__file__).resolve().parents[1] / "model_cards"
FOLDERS = sorted(path.parent for path in MODEL_CARDS.glob("*/config.json"))
CLASSIFIERS = [folder for folder in FOLDERS if "ptbxl" in folder.name]
READERS_OF_SIGNALS = [folder for folder in CLASSIFIERS if "scan" not in folder.name]
READERS_OF_PAGES = [folder for folder in CLASSIFIERS if "scan" in folder.name]
SUPERCLASSES = MODEL_CARDS / "clear-hug-small-ptbxl-super"


def _name(folder: Path) -> str:
    return folder.name


def test_when_the_shipped_set_is_counted_then_it_is_what_was_promised_and_small() -> None:
    heads = {f"clear-hug-small-ptbxl-{one}" for one in ("super", "sub", "form", "rhythm")}
    others = {f"{encoder}{head}" for encoder in ("ecg-jepa-tiny", "ecg-scan-tiny") for head in ("", "-ptbxl-super")}
    assert {"clear-hug-small", *heads, *others} == {folder.name for folder in FOLDERS}
    assert sum(path.stat().st_size for folder in FOLDERS for path in folder.rglob("*") if path.is_file()) < 60e6


@pytest.mark.parametrize("folder", FOLDERS, ids=_name)
def test_when_a_shipped_folder_is_loaded_then_it_is_whole_and_half_as_large(folder: Path) -> None:
    model, _, _ = load_model(folder)
    assert {one.dtype for one in model.parameters()} == {torch.float32}
    with safe_open(folder / "model.safetensors", framework="pt") as stored:
        kinds = {stored.get_slice(name).get_dtype() for name in stored.keys()}  # noqa: SIM118 (no mapping)
    assert "F16" in kinds
    assert "F32" not in kinds
    assert AutoModel.from_pretrained(folder).config.model_type == model.config.model_type


@pytest.mark.parametrize("folder", FOLDERS, ids=_name)
def test_when_a_processor_is_asked_for_then_it_comes_without_asking_for_code(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    monkeypatch.setattr("builtins.input", lambda *words: asked.append("yes") or "n")
    found = AutoProcessor.from_pretrained(folder)
    saved = json.loads((folder / "preprocessor_config.json").read_text())
    # A model of pages reads what its image processor makes of them.
    assert type(found).__name__ == saved.get("image_processor_type", saved["feature_extractor_type"])
    assert not asked


@pytest.mark.parametrize("folder", FOLDERS, ids=_name)
def test_when_a_shipped_card_is_read_then_it_states_licence_recordings_and_results(folder: Path) -> None:
    card = read_card(folder / "README.md")
    assert card.data.to_dict()["license"] == "cc-by-4.0"
    for words in ("PTB-XL", "CC BY 4.0", "Not a medical device"):
        assert words in card.content
    if folder in CLASSIFIERS:
        metrics = json.loads((folder / "metrics.json").read_text())
        found = metrics["pretrained"]["validation"]["macro_auroc"]
        control = metrics["random_initialization"]["validation"]["macro_auroc"]
        for one in (found, control):
            assert f"{one['value']:.3f}" in card.content
        assert found["low"] < found["value"] < found["high"]


def _intervals(content: Any) -> Iterator[tuple[float, float, float]]:
    """Low end, value and high end of every interval in a JSON file."""
    if isinstance(content, list):
        content = dict(enumerate(content))
    if isinstance(content, dict):
        if content.get("low") is not None:
            yield content["low"], content["value"], content["high"]
        for one in content.values():
            yield from _intervals(one)


@pytest.mark.parametrize("folder", CLASSIFIERS, ids=_name)
def test_when_an_interval_is_shipped_then_it_holds_its_value(folder: Path) -> None:
    metrics = json.loads((folder / "metrics.json").read_text())
    found = list(_intervals(metrics))
    card = read_card(folder / "README.md")
    for one in card.data.eval_results:
        low, high = one.metric_args["interval_95"]
        found.append((low, one.metric_value, high))
    number = r"([+-]?\d+\.\d+)"
    stated = re.findall(rf"{number} \({number} to {number}\)", card.content)
    found += [(float(low), float(value), float(high)) for value, low, high in stated]
    # Four metrics of two runs in the file, of one by label in the card; of a label that few have there is no interval.
    assert len(found) > 8 * len(metrics["labels"]) + 12
    assert [one for one in found if not one[0] <= one[1] <= one[2]] == []
    assert not list(folder.glob(".eval_results/*")), "these hold intervals, too: read them here"


@pytest.fixture(scope="module")
def given() -> dict[str, Any]:
    """A recording as extractors and pipelines take it."""
    one = simulate_recordings(1, seed=0)[0]
    about = {"sampling_rate": one.sampling_rate, "lead_names": list(one.lead_names), "unit": one.unit}
    return {"waveform": one.waveform, **about}


def _inputs(extractor: Any, given: dict[str, Any]) -> Any:
    about = {name: value for name, value in given.items() if name != "waveform"}
    return extractor(given["waveform"], **about, return_tensors="pt")


@pytest.mark.parametrize("folder", [one for one in FOLDERS if one not in CLASSIFIERS], ids=_name)
def test_when_a_shipped_encoder_learns_one_value_then_it_is_regression(folder: Path, given: dict[str, Any]) -> None:
    torch.manual_seed(0)
    model = classifier_class(load_config(folder)).from_pretrained(folder, num_labels=1)
    model(**_inputs(load_feature_extractor(folder), given), labels=torch.tensor([[63.0]]))
    assert model.config.problem_type == "regression"


def test_when_numbers_are_of_recordings_that_chose_the_models_then_every_table_reports_it_in_its_header() -> None:
    readme = (MODEL_CARDS.parent / "README.md").read_text()
    table = readme.split("<!-- shipped_weights -->")[1].split("<!-- end of shipped_weights -->")[0]
    header = table.split("|\n")[0]
    assert "AUROC, fold 9 (optimistic)" in header
    assert "random weights (optimistic)" in header
    assert "Optimistic: fold 9 was also used to choose epochs and thresholds." in table
    for folder in CLASSIFIERS:
        results = (folder / "README.md").read_text().split("## Results")[1].split("## Training")[0]
        headers = [before for before, line in pairwise(results.splitlines()) if line.startswith("|---")]
        assert len(headers) == 2
        assert all(
            "(optimistic: epoch and thresholds were selected on these recordings)" in header for header in headers
        )


@pytest.mark.parametrize("folder", READERS_OF_SIGNALS, ids=_name)
def test_when_a_shipped_classifier_labels_a_recording_then_every_way_gives_the_same(
    folder: Path, given: dict[str, Any]
) -> None:
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    with torch.no_grad():
        logits = model(**_inputs(AutoFeatureExtractor.from_pretrained(folder), given)).logits
    by_hand = logits.sigmoid()[0].numpy()
    found = pipeline("ecg-classification", model=str(folder), device="cpu")(given, top_k=None)
    by_pipeline = {one["label"]: one["score"] for one in found}
    assert np.allclose([by_pipeline[name] for name in model.config.id2label.values()], by_hand, atol=1e-5)
    assert ((by_hand > 0) & (by_hand < 1)).all()


@pytest.mark.parametrize("folder", READERS_OF_PAGES, ids=_name)
def test_when_a_shipped_reader_of_pages_sees_one_then_it_predicts_what_it_predicts_for_the_recording(
    folder: Path, given: dict[str, Any]
) -> None:
    page = Image.fromarray(render_page(*given.values(), image_size=(680, 880)).image)
    ecg = pipeline("ecg-classification", model=str(folder), device="cpu")
    of_page = {one["label"]: one["score"] for one in ecg(page, top_k=None)}
    theirs = pipeline("image-classification", model=str(folder), device="cpu", top_k=None)
    assert {one["label"]: pytest.approx(one["score"], abs=1e-5) for one in theirs(page)} == of_page
    of_signal = {one["label"]: one["score"] for one in ecg(given, top_k=None)}
    # A page of another size, looked for in a picture, is not the page that is drawn for the model.
    assert of_signal == pytest.approx(of_page, abs=0.2)


@pytest.fixture(scope="module")
def fold_nine(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[Path], datasets.Dataset]:
    """Fold 9 as a classifier reads it, prepared once for all that read alike, with no labels."""
    prepared: dict[str, datasets.Dataset] = {}

    def prepare(folder: Path) -> datasets.Dataset:
        settings = (folder / "preprocessor_config.json").read_text()
        if settings not in prepared:
            output = tmp_path_factory.mktemp("fold-nine") / "prepared"
            command = [
                "prepare",
                str(shared / "data" / "ptbxl"),
                "--model",
                str(folder),
                "--reader-options",
                "folds=[9]",
            ]
            assert main([*command, "--output-dir", str(output)]) == 0
            prepared[settings] = load_prepared(output)[0]["validation"]
        return prepared[settings]

    return prepare


@pytest.mark.parametrize("folder", CLASSIFIERS, ids=_name)
def test_when_fold_nine_is_predicted_again_then_the_card_was_right(
    folder: Path, shared: Path, fold_nine: Callable[[Path], datasets.Dataset]
) -> None:
    model, extractor = load_classifier(folder)
    label_set = f"ptbxl_{folder.name.rsplit('-', 1)[1]}"
    source = open_source(None, shared / "data" / "ptbxl", label_set=label_set, folds=[9])
    known = {reference.record_id: reference.labels or {} for reference in source}
    rows = fold_nine(folder)
    found = predict(
        model, rows.select([row for row, name in enumerate(rows["record_id"]) if name in known]), extractor
    )
    labels = [[known[record][name] for name in found.label_names] for record in found.record_ids]
    stated = json.loads((folder / "metrics.json").read_text())["pretrained"]["validation"]["macro_auroc"]["value"]
    assert macro_auroc(np.array(labels), found.probabilities) == pytest.approx(stated, abs=2e-3)


def test_when_labels_are_rare_then_the_shipped_classifiers_leave_them_out_by_name() -> None:
    for task in ("sub", "form", "rhythm"):
        folder = MODEL_CARDS / f"clear-hug-small-ptbxl-{task}"
        metrics = json.loads((folder / "metrics.json").read_text())
        excluded_labels = metrics["data"]["excluded_labels"]
        assert excluded_labels["fewer_than"] == 10
        assert sorted([*excluded_labels["labels"], *metrics["labels"]]) == sorted(LABEL_SETS[f"ptbxl_{task}"].names)
        card = (folder / "README.md").read_text()
        assert all(name in card for name in excluded_labels["labels"])


def test_when_a_shipped_folder_is_published_then_weights_are_the_same_and_code_is_added(tmp_path: Path) -> None:
    staged = stage(SUPERCLASSES, tmp_path / "staged", "you/copy", license="cc-by-4.0", dtype="float16")
    assert "modeling_clear_hug.py" in staged.files
    ours = (SUPERCLASSES / "model.safetensors").read_bytes()
    assert (tmp_path / "staged" / "model.safetensors").read_bytes() == ours


# --------------------------------------------------------------------------------------------------- measured again


def test_when_shipped_classifiers_are_measured_again_then_cards_follow_and_weights_stay(
    ptbxl_folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "ptbxl").symlink_to(ptbxl_folder)
    script = MODEL_CARDS.parent / "scripts" / "cards.py"
    spec = importlib.util.spec_from_file_location("cards", script)
    assert spec is not None
    assert spec.loader is not None
    cards = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(cards)

    prepared, folder = str(tmp_path / "prepared"), tmp_path / "cards" / "tiny"
    options = [
        "--labels",
        "ptbxl_super",
        "--reader-options",
        "folds=[1, 2, 3, 4, 5, 6, 7, 8, 9]",
        "--output-dir",
        prepared,
    ]
    assert main(["prepare", str(ptbxl_folder), *options]) == 0
    run = [
        "--model",
        str(MODEL_CARDS / "clear-hug-small"),
        "--output-dir",
        str(tmp_path / "run"),
        "--num-train-epochs",
        "1",
    ]
    assert (
        main(["finetune", "--data", prepared, *run, "--labels", "NORM", "MI", "STTC", "--no-use-feature-cache"]) == 0
    )
    stage(tmp_path / "run", folder, "clear-hug-hf/tiny", license="cc-by-4.0", dtype="float16")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    metrics = json.loads(before["metrics.json"])
    damaged = json.loads(before["metrics.json"])
    damaged["pretrained"]["validation"] = damaged["random_initialization"]["validation"] = {}
    (folder / "metrics.json").write_text(json.dumps(damaged))

    assert cards.main([str(tmp_path), "tiny", "--cards", str(folder.parent), "--runs", str(tmp_path / "again")]) == 0
    after = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert {name for name in before if before[name] != after[name]} <= {"metrics.json", "config.json", "README.md"}
    configs = [json.loads(one["config.json"]) for one in (before, after)]
    thresholds = [one.pop("label_thresholds") for one in configs]
    assert configs[0] == configs[1]
    assert thresholds[0] == pytest.approx(thresholds[1], abs=5e-3)
    again = json.loads(after["metrics.json"])
    # The control is trained again to the same bits; the model was rounded since.
    assert again["random_initialization"] == metrics["random_initialization"]
    for name in ("macro_auroc", "macro_calibration_error"):
        value = metrics["pretrained"]["validation"][name]["value"]
        assert again["pretrained"]["validation"][name]["value"] == pytest.approx(value, abs=5e-3)
    assert again["environment"] == metrics["environment"]
    card = after["README.md"].decode()
    assert f"measured with the stored weights on {again['measured']['environment']['date']}" in card
    assert f"{again['pretrained']['validation']['macro_auroc']['value']:.3f}" in card


# ---------------------------------------------------------------------------------------------------- trained again

RECORDER = """#!/usr/bin/env bash
printf '%s\\0' "$@" >> "$COMMANDS"; printf '\\n' >> "$COMMANDS"
while [[ $# -gt 0 ]]; do [[ $1 != --output-dir ]] || mkdir -p "$2"; shift; done
"""


def _weights(folder: Path, *words: str) -> tuple[subprocess.CompletedProcess[str], list[list[str]]]:
    """What `scripts/weights.sh` does and prints, and the commands that it gives, of which none is carried out."""
    recorder, commands = folder / "bin" / "clear-hug", folder / "commands"
    recorder.parent.mkdir(exist_ok=True)
    recorder.write_text(RECORDER)
    recorder.chmod(0o755)
    commands.write_text("")
    done = subprocess.run(
        [MODEL_CARDS.parent / "scripts" / "weights.sh", *words],
        cwd=folder,
        env={**os.environ, "PATH": f"{recorder.parent}:{os.environ['PATH']}", "COMMANDS": str(commands)},
        capture_output=True,
        text=True,
    )
    return done, [line.split("\0")[:-1] for line in commands.read_text().splitlines()]


def test_when_all_weights_are_trained_again_then_every_command_is_one_and_encoders_are_trained_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    done, commands = _weights(tmp_path, "recordings")
    assert (done.returncode, done.stderr) == (0, "")
    staged = {Path(words[words.index("--dry-run") + 1]) for words in commands if words[0] == "publish"}
    # Beside the shipped ones: `publish` would refuse to replace those in a fresh checkout, after hours of training.
    assert staged == {Path("runs/weights/staged") / folder.name for folder in FOLDERS}
    assert sum(words[0] == "pretrain" for words in commands) == 3
    monkeypatch.chdir(tmp_path)
    for words in commands:
        # All options fit their verb; without recordings and models, the command is refused.
        ArgumentParser(importlib.import_module(f"clear_hug_hf.cli.{words[0]}").ARGUMENTS).parse(words[1:])
        assert main(words) == 2
        assert "clear-hug: error:" in capsys.readouterr().err


def test_when_weights_of_another_name_are_asked_for_then_the_names_are_reported(tmp_path: Path) -> None:
    done, commands = _weights(tmp_path, "recordings", "clear-hug-huge")
    assert (done.returncode, commands) == (2, [])
    assert "there are no weights called clear-hug-huge: choose from clear-hug-small" in done.stderr
    assert _weights(tmp_path)[0].returncode == 2
    assert "names: clear-hug-small" in _weights(tmp_path, "--help")[0].stdout
