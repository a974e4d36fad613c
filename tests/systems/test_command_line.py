"""Every system takes every verb, from recordings to a published folder that is read without the package."""

from __future__ import annotations

import functools
import itertools
import json
import math
import os
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch
from huggingface_hub import ModelCard
from PIL import Image
from safetensors.torch import load_file
from small_systems import FINETUNING, PRETRAINABLE, PRETRAINING, SMALL_SYSTEMS, SmallSystem
from strangers import ABSENT, run_script
from transformers import AutoFeatureExtractor, AutoModel, pipeline
from transformers.models.auto.image_processing_auto import AutoImageProcessor

from clear_hug_hf import load_prepared, read_record
from clear_hug_hf.data.model_files import load_feature_extractor
from clear_hug_hf.data.preparation import prepare
from clear_hug_hf.evaluation.predictions import predict
from clear_hug_hf.inference.pipeline_ecg_classification import EcgClassificationPipeline
from clear_hug_hf.inference.records import predict_records
from clear_hug_hf.objectives import objectives_of
from clear_hug_hf.processing import RHYTHM_FEATURES, InputError, rhythm_features
from clear_hug_hf.systems import Objective, load
from clear_hug_hf.training.folders import (
    find_model_folder,
    load_classifier,
    load_for_finetuning,
    save_model_folder,
)
from clear_hug_hf.training.recipes import Recipe


LABELS = ["NORM", "MI", "STTC"]
Run = Callable[..., None]
Refused = Callable[..., str]
Capture = pytest.CaptureFixture[str]


RUNS = [(name, "pretrained") for name in PRETRAINABLE]
RUNS += [(name, "teacher") for name in PRETRAINABLE if SMALL_SYSTEMS[name].objective.teacher_objective]
each_run = pytest.mark.parametrize(("small", "folder"), RUNS, indirect=["small"])


def _own_objective(small: SmallSystem, folder: str) -> Objective:
    """The objective of a run in the house of a system."""
    name = small.objective.name if folder == "pretrained" else small.objective.teacher_objective
    return objectives_of(small.system)[name]


@pytest.fixture(params=SMALL_SYSTEMS)
def small(request: pytest.FixtureRequest) -> SmallSystem:
    return SMALL_SYSTEMS[request.param]


@pytest.fixture
def house(small: SmallSystem, make_house: Callable[[str], Path]) -> Path:
    return make_house(small.name)


@pytest.fixture
def record(ptbxl_folder: Path) -> Path:
    """A slow heart, whose beats fit into one window."""
    return ptbxl_folder / "records100/00000/00003_lr"


# Preparation and pre-training


def test_when_recordings_are_prepared_then_rows_are_as_the_system_reads_them_and_the_next_step_is_named(
    small: SmallSystem, house: Path, ptbxl_folder: Path, run: Run, capsys: Capture
) -> None:
    sets, extractor = load_prepared(house / "data")
    assert {name: len(rows) for name, rows in sets.items()} == {"train": 48, "validation": 12, "test": 12}
    assert type(extractor) is small.system.feature_extractor
    row = sets["train"].with_format("numpy")[0]
    assert row["signal"].shape[0] == 12
    assert float(row["sampling_rate"]) == extractor.sampling_rate
    run("prepare", ptbxl_folder, "--labels", "ptbxl_super", "--system", small.name, "--output-dir", house / "data")
    printed = capsys.readouterr().out
    assert "no recording was read" in printed
    option = "" if small.system.is_default else f" --system {small.name}"
    verb = rf"pretrain{option}( --(\w+-encoder|tokenizer) \w+)?" if small.objective else r"finetune --model \w+"
    assert re.search(rf"next: clear-hug {verb} --data {house / 'data'} --output", printed)


@each_run
def test_when_a_model_is_pretrained_then_the_folder_holds_model_logs_and_pictures(
    small: SmallSystem, folder: str, house: Path
) -> None:
    objective, output = _own_objective(small, folder), house / folder
    logged = small.logged if folder == "pretrained" else small.teacher_logged
    steps = pd.read_csv(output / "pretraining_steps.csv")
    assert list(steps) == ["step", "epoch", "loss", "gradient_norm", "learning_rate", *logged]
    assert steps["step"].tolist() == list(range(1, 7))
    assert np.isfinite(steps).all(axis=None)
    epochs = pd.read_csv(output / "pretraining_log.csv")
    assert epochs["epoch"].tolist() == [1, 2]
    assert epochs["validation_loss"].notna().all()
    for name in logged:
        assert epochs[name].tolist() == pytest.approx(steps.groupby("epoch")[name].mean().tolist())
    facts = json.loads((output / "pretraining.json").read_text())
    assert (facts["system"], facts["objective"], set(facts["model"])) == (
        small.name,
        objective.name,
        set(small.options),
    )
    pictures = {"recording", "pretraining_loss"} | ({"reconstruction"} if objective.picture else set())
    pictures |= {"views"} if any(objective.views) else set()
    found = list((output / "pictures").iterdir())
    assert {path.stem for path in found} == pictures
    for path in found:
        with Image.open(path) as image:
            assert image.width > 400


def _stopping(forward: Callable[..., Any], stop_at: int) -> Callable[..., Any]:
    """The forward pass of a model, until it is interrupted in this step of training."""
    steps = itertools.count(1)

    @functools.wraps(forward)
    def stopping(self: Any, *args: Any, **kwargs: Any) -> Any:
        if self.training and next(steps) == stop_at:
            raise KeyboardInterrupt
        return forward(self, *args, **kwargs)

    return stopping


@each_run
def test_when_a_run_is_killed_twice_then_the_same_command_ends_with_the_same_weights(
    small: SmallSystem,
    folder: str,
    house: Path,
    run: Run,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    status: Callable[..., int],
) -> None:
    """Also of parts that no gradient moves; and what is drawn at random is drawn again."""
    model_class = load(_own_objective(small, folder).model)
    words = small.words(house) if folder == "pretrained" else small.teacher_words
    command = ["pretrain", "--data", house / "data", *words, *PRETRAINING, "--save-steps", 4]
    command += ["--output-dir", tmp_path / "run"]
    # Before there is a checkpoint, and after it.
    for stop_at, kept in ((3, []), (6, ["step-00000004"])):
        with monkeypatch.context() as patched:
            patched.setattr(model_class, "forward", _stopping(model_class.forward, stop_at))
            assert status(*command) == 130
        assert sorted(path.name for path in (tmp_path / "run").glob("checkpoints/step-*"))[-1:] == kept
        assert not (tmp_path / "run" / "model").exists() or kept
    run(*command)
    for name in ("pretraining_steps.csv", "model/model.safetensors"):
        assert (tmp_path / "run" / name).read_bytes() == (house / folder / name).read_bytes(), name


TAUGHT = [name for name, folder in RUNS if folder == "teacher"]


@pytest.mark.parametrize("small", TAUGHT, indirect=True)
def test_when_an_objective_needs_the_model_of_another_then_each_step_names_the_next_and_what_is_missing(
    small: SmallSystem, house: Path, run: Run, refused: Refused, tmp_path: Path, capsys: Capture
) -> None:
    objective, option = small.objective, f"--{small.objective.teachers[0]}"
    command = ["pretrain", "--data", house / "data", "--output-dir", tmp_path / "out", "--objective", objective.name]
    said = refused(*command)
    assert f"set {option} to the folder of one" in said
    assert f"`clear-hug pretrain --objective {objective.teacher_objective}` on the same recordings" in said
    assert "leave tokenizer out" in refused(*command, "--objective", objective.teacher_objective, option, "any")
    assert "the model folder any does not exist" in refused(*command, option, "any")
    assert "does not contain a trained" in refused(*command, option, house / "finetuned")
    assert not (tmp_path / "out").exists()

    # It is finished; what it prints at its end is the same.
    run("pretrain", "--data", house / "data", *small.teacher_words, *PRETRAINING, "--output-dir", house / "teacher")
    following = f"--objective {objective.name} {option} {house / 'teacher'} --data {house / 'data'}"
    assert f"next: clear-hug pretrain {following} --output-dir" in capsys.readouterr().out
    assert "contains no complete encoder" in refused(
        "finetune", "--data", house / "data", "--model", house / "teacher"
    )

    facts = json.loads((house / "pretrained" / "pretraining.json").read_text())
    assert facts[option[2:]]["objective"] == objective.teacher_objective
    for folder, words in (
        ("teacher", f"{small.system.title} {option[2:]} of 12-lead ECGs"),
        ("pretrained", f"{option[2:].capitalize()}: {small.system.title}, pre-trained without labels for 2 epochs"),
    ):
        run(
            "publish",
            house / folder,
            "your-name/any",
            "--license",
            "cc-by-4.0",
            "--dry-run",
            tmp_path / "cards" / folder,
        )
        assert words in (tmp_path / "cards" / folder / "README.md").read_text()

    # A stream is taught, too, and other settings are noticed.
    folder = tmp_path / "teacher"
    shutil.copytree(house / "teacher" / "model", folder)
    path = folder / "preprocessor_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "bandpass_high": 30.0}))
    words = ["--num-train-epochs", 1, "--train-batch-size", 16, "--disable-tqdm"]
    run(*command, "--streaming", option, folder, *small.words(house)[2:-2], *words)
    printed = capsys.readouterr().out
    assert f"prepared with other settings than those of the {option[2:]} (bandpass_high)" in printed
    saved, teacher = (load_file(one / "model.safetensors") for one in (tmp_path / "out" / "model", folder))
    assert all(saved[f"{option[2:]}.{name}"].equal(tensor) for name, tensor in teacher.items())


WITH_TEACHER = [name for name in PRETRAINABLE if SMALL_SYSTEMS[name].objective.teachers]


@pytest.mark.parametrize("small", WITH_TEACHER, indirect=True)
def test_when_a_run_is_resumed_with_another_teacher_then_it_is_refused(
    small: SmallSystem, house: Path, tmp_path: Path, refused: Refused
) -> None:
    shutil.copytree(house / "teacher", tmp_path / "teacher")
    weights = find_model_folder(tmp_path / "teacher") / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\1")
    command = ["pretrain", "--data", house / "data", *small.words(tmp_path), *PRETRAINING]
    message = refused(*command, "--output-dir", house / "pretrained")
    assert "contains a different run (mismatch in the recipe: teacher (sha256))" in message


EXTRACTORS = {name: small.system.classes["AutoFeatureExtractor"] for name, small in SMALL_SYSTEMS.items()}
# Each system with the next one that has another feature extractor, and those that share one.
OTHERS = [
    (name, next(other for other in [*names[place:], *names] if EXTRACTORS[other] != EXTRACTORS[name]))
    for names in [[*SMALL_SYSTEMS]]
    for place, name in enumerate(names)
]
SHARING = [(name, other) for name, other in itertools.pairwise(SMALL_SYSTEMS) if EXTRACTORS[name] == EXTRACTORS[other]]


@pytest.mark.parametrize(("name", "other"), OTHERS)
def test_when_recordings_were_prepared_for_another_system_then_one_sentence_says_so(
    name: str, other: str, make_house: Callable[[str], Path], refused: Refused, tmp_path: Path
) -> None:
    small, house, data = SMALL_SYSTEMS[name], make_house(name), make_house(other) / "data"
    to = ["--output-dir", tmp_path / "out"]
    start = f"the recordings were prepared for another system than {name}: prepare them with"
    if small.objective is not None:
        command = ["pretrain", "--data", data, *small.words(house), *to]
        assert refused(*command) == f"{start} `clear-hug prepare --system {name}`"
    extractors = [SMALL_SYSTEMS[one].system.feature_extractor.__name__ for one in (other, name)]
    said = f"{data} was prepared for another system, with {extractors[0]}, but the model requires {extractors[1]}"
    assert refused("finetune", "--data", data, "--model", house / "pretrained", *to).startswith(said)
    assert refused("evaluate", "--data", data, "--model", house / "finetuned").startswith(said)
    command = ["benchmark", "--tasks", data, "--models", f"one={house / 'pretrained'}", *to]
    assert refused(*command).startswith(f"model one: {said}")
    if small.objective is not None and not small.objective.teachers:
        assert refused("demo", "--system", name, "--data", data, *to).startswith(start)
    command = ["prepare", data, "--model", house / "pretrained", "--system", name]
    assert "leave out one of them" in refused(*command, *to)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("name", "other"), SHARING)
def test_when_recordings_were_prepared_for_a_system_with_the_same_extractor_then_they_serve(
    name: str, other: str, make_house: Callable[[str], Path], run: Run, tmp_path: Path
) -> None:
    house, data = make_house(name), make_house(other) / "data"
    for index, folder in enumerate((house / "data", data)):
        command = ["evaluate", "--model", house / "finetuned", "--data", folder]
        run(*command, "--output", tmp_path / f"{index}.json")
    own, shared = (json.loads((tmp_path / f"{index}.json").read_text()) for index in range(2))
    assert shared["macro_auroc"] == own["macro_auroc"]
    extractor = load_feature_extractor(data)
    assert Recipe(system=name).make_feature_extractor(extractor) is extractor


# Fine-tuning and evaluation


def test_when_a_model_is_finetuned_then_metrics_stand_beside_the_control_and_evaluation_finds_them_again(
    small: SmallSystem, house: Path, run: Run, tmp_path: Path, capsys: Capture
) -> None:
    metrics = json.loads((house / "finetuned" / "metrics.json").read_text())
    sets = {split: one["recordings"] for split, one in metrics["data"]["sets"].items()}
    assert sets == {"train": 48, "validation": 12, "test": 12}
    assert metrics["labels"] == LABELS
    assert metrics["head"] == next(iter(small.system.heads))
    if small.objective is not None:
        assert metrics["encoder"]["pretraining.json"]["system"] == small.name
    for split in ("validation", "test"):
        of_model, of_control = metrics["pretrained"][split], metrics["random_initialization"][split]
        assert of_model["excluded_labels"] == of_control["excluded_labels"] == []
        assert list(of_model["per_label"]) == LABELS
        difference = metrics["macro_auroc_difference"][split]["value"]
        assert difference == pytest.approx(of_model["macro_auroc"]["value"] - of_control["macro_auroc"]["value"])
    assert {path.stem for path in (house / "finetuned" / "pictures").iterdir()} >= {"prediction", "recording", "roc"}

    command = ["evaluate", "--data", house / "data", "--model", house / "finetuned", "--output", tmp_path / "m.json"]
    run(*command)
    evaluated = json.loads((tmp_path / "m.json").read_text())
    assert evaluated["split"] == "test"
    assert evaluated["macro_auroc"] == pytest.approx(metrics["pretrained"]["test"]["macro_auroc"])
    printed = capsys.readouterr().out
    assert "12 test recordings of 12 patients" in printed
    for metric in ("AUROC", "average precision", "F1", "calibration error"):
        assert f"macro {metric} " in printed


def test_when_seeds_are_equal_then_two_finetunings_are_and_a_finished_one_trains_nothing(
    house: Path, run: Run, tmp_path: Path, capsys: Capture
) -> None:
    command = ["finetune", "--data", house / "data", "--model", house / "pretrained", *FINETUNING]
    run(*command, "--no-control", "--output-dir", tmp_path / "again")
    ours, again = house / "finetuned", tmp_path / "again"
    first = (ours / "metrics.json").read_text()
    assert json.loads((again / "metrics.json").read_text())["pretrained"] == json.loads(first)["pretrained"]
    weights = "model/model.safetensors"
    assert (again / weights).read_bytes() == (ours / weights).read_bytes()
    # A run is known by the weights that it starts from: those of the control are the same, too.
    capsys.readouterr()
    run(*command, "--output-dir", ours)
    assert capsys.readouterr().out.count("already holds this run: nothing was trained") == 2
    assert (ours / "metrics.json").read_text() == first
    # The control has thresholds of its own.
    thresholds = [
        json.loads((ours / name / "config.json").read_text())["label_thresholds"]
        for name in ("model", "control/model")
    ]
    assert thresholds[0] != thresholds[1]


def test_when_the_head_pools_tokens_then_a_frozen_encoder_is_finetuned_and_predicts(
    small: SmallSystem, house: Path, record: Path, run: Run, tmp_path: Path, capsys: Capture
) -> None:
    few = ["--num-train-epochs", 1, "--per-device-train-batch-size", 16, "--no-use-feature-cache", "--no-control"]
    folder, data = tmp_path / "attentive", ["--data", house / "data", "--model", house / "pretrained"]
    run("finetune", *data, "--head-type", "attention", *few, "--output-dir", folder)
    assert json.loads((folder / "metrics.json").read_text())["head"] == "attention"
    weights = load_file(folder / "model" / "model.safetensors")
    before = load_file(house / "pretrained" / "model" / "model.safetensors")
    encoder = small.classifier.base_model_prefix
    for name, tensor in weights.items():
        if name.startswith(f"{encoder}."):
            assert tensor.equal(before.get(name, before.get(name.removeprefix(f"{encoder}."), torch.empty(0)))), name
    capsys.readouterr()
    run("predict", record, "--model", folder, "--json")
    assert sorted(json.loads(capsys.readouterr().out)["probabilities"]) == sorted(LABELS)


def test_when_a_head_of_another_system_is_asked_for_then_one_sentence_names_those_there_are(
    small: SmallSystem, house: Path, refused: Refused, tmp_path: Path
) -> None:
    heads, all_heads = small.system.heads, [head for one in SMALL_SYSTEMS.values() for head in one.system.heads]
    foreign = next((head for head in all_heads if head not in heads), None)
    if foreign is None:
        pytest.skip("has the heads of all systems")
    said = f"{small.name} has no head '{foreign}': head_type must be one of {', '.join(heads)}, got '{foreign}'."
    to = ["--output-dir", tmp_path / "out"]
    command = ["finetune", "--data", tmp_path / "not looked at", "--model", house / "pretrained", *to]
    assert refused(*command, "--head-type", foreign) == said
    command = ["benchmark", "--tasks", house / "data", "--models", f"one={house / 'pretrained'}", *to]
    assert refused(*command, "--heads", "mean", foreign) == f"model one: {said}"
    assert not (tmp_path / "out").exists()


# Recordings


def test_when_records_are_predicted_then_each_has_its_labels(
    house: Path, ptbxl_folder: Path, run: Run, tmp_path: Path, capsys: Capture
) -> None:
    records = sorted((ptbxl_folder / "records100/00000").glob("0000*_lr.hea"))
    capsys.readouterr()
    run("predict", *records, "--model", house / "finetuned", "--json")
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    thresholds = json.loads((house / "finetuned" / "model" / "config.json").read_text())["label_thresholds"]
    assert [line["record"] for line in lines] == [str(one.with_suffix("")) for one in records]
    for line in lines:
        for one in (line, *line["windows"]):
            assert sorted(one["probabilities"]) == sorted(LABELS)
            positive = {name for name, score in one["probabilities"].items() if score >= thresholds[name]}
            assert set(one["predicted_positive"]) == positive
        assert (line["start"], line["end"]) == (line["windows"][0]["start"], line["windows"][-1]["end"]) == (0, 10)
    run("predict", *records, "--model", house / "finetuned", "--output", tmp_path / "table.csv")
    table = pd.read_csv(tmp_path / "table.csv", float_precision="round_trip")
    assert table[LABELS].to_dict("records") == [line["probabilities"] for line in lines]


def test_when_records_are_embedded_then_vectors_are_the_means_of_the_leads_that_are_there(
    house: Path, record: Path, run: Run, tmp_path: Path
) -> None:
    run("embed", f"{record}.hea", "--model", house / "pretrained", "--output", tmp_path / "vectors.parquet")
    windows = pq.read_table(tmp_path / "vectors.parquet").select(["embedding", "end"]).to_pandas()
    model = AutoModel.from_pretrained(house / "pretrained" / "model").eval()
    extractor = AutoFeatureExtractor.from_pretrained(house / "pretrained" / "model")
    crops = getattr(extractor, "num_crops", math.ceil(10 / extractor.window_seconds))
    assert (len(windows), windows["end"].iloc[-1]) == (crops, 10)
    with torch.no_grad():
        output = model(**extractor(**read_record(record).as_inputs(), windows="all", return_tensors="pt"))
    vectors = torch.tensor(np.stack(windows["embedding"]))
    torch.testing.assert_close(vectors, output.lead_states.mean(dim=1), atol=1e-4, rtol=0)


def _rhythmic(house: Path, folder: Path) -> tuple[Any, Any]:
    """A classifier of the pretrained encoder that reads the rhythm, saved in a folder, and its feature extractor."""
    torch.manual_seed(0)
    model, extractor = load_for_finetuning(house / "pretrained", LABELS, rhythm_features=RHYTHM_FEATURES)
    with torch.no_grad():
        model.rhythm_classifier.weight.normal_()
    save_model_folder(folder, model, extractor)
    return load_classifier(folder)


def test_when_a_classifier_reads_the_rhythm_then_every_way_in_gives_it(
    small: SmallSystem, house: Path, record: Path, run: Run, tmp_path: Path, capsys: Capture
) -> None:
    model, extractor = _rhythmic(house, tmp_path / "model")
    recording = read_record(record)
    row = prepare([recording], extractor, progress=False).dataset
    inputs = extractor(**recording.as_inputs(), return_tensors="pt")
    expected = rhythm_features(row["r_peaks"], [len(row[0]["signal"][0])], extractor.sampling_rate)
    np.testing.assert_array_equal(inputs["rhythm"][:1], expected[:1])
    with torch.no_grad():
        of_extractor = model(**inputs).logits.sigmoid().mean(dim=0)
    # Rows are stored with 16 bits.
    np.testing.assert_allclose(predict(model, row, extractor).by_recording().probabilities[0], of_extractor, atol=0.01)
    (of_records,) = predict_records(model, extractor, [recording], windows=extractor.windows)
    np.testing.assert_allclose(of_records.probabilities, of_extractor, atol=1e-5)
    pipe = pipeline("ecg-classification", model=str(tmp_path / "model"), device="cpu")
    scores = {one["label"]: one["score"] for one in pipe(f"{record}.hea", windows=extractor.windows)}
    assert [scores[name] for name in LABELS] == pytest.approx(of_extractor.tolist(), abs=1e-5)
    run("embed", f"{record}.hea", "--model", tmp_path / "model", "--output", tmp_path / "vectors.parquet")
    if small.system.reads_pages:
        run("render", record, tmp_path / "page.png")
        with pytest.raises(InputError, match="also reads rhythm features, which only recordings have"):
            pipe(str(tmp_path / "page.png"))


# Publication


def _numbers(content: Any) -> Iterator[float]:
    """All numbers of a JSON content, also those in its texts."""
    if isinstance(content, dict):
        yield from _numbers([*content, *content.values()])
    elif isinstance(content, list):
        for value in content:
            yield from _numbers(value)
    elif isinstance(content, str):
        yield from map(float, re.findall(r"\d+(?:\.\d+)?", content))
    elif isinstance(content, int | float):
        yield float(content)


@pytest.fixture(scope="module")
def staged(make_house: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory, run: Run) -> Path:
    """What publication of every system's encoder and classifier would send."""
    folder = tmp_path_factory.mktemp("staged")
    for name in SMALL_SYSTEMS:
        for kind, source in (("encoder", "pretrained"), ("classifier", "finetuned")):
            command = ["publish", make_house(name) / source, "your-name/ecg-demo", "--license", "cc-by-4.0"]
            run(*command, "--dry-run", folder / name / kind)
    return folder


def test_when_published_then_the_card_names_the_system_and_its_numbers_are_in_its_files(
    small: SmallSystem, staged: Path, house: Path
) -> None:
    folder = staged / small.name / "classifier"
    card, content = ModelCard.load(folder / "README.md"), (folder / "README.md").read_text()
    assert {"ecg", small.name.replace("_", "-"), "custom_code", "ecg-classification"} <= set(card.data.tags)
    assert small.system.description in card.text
    assert small.system.paper in card.text
    known = {abs(number) for path in folder.glob("*.json") for number in _numbers(json.loads(path.read_text()))}
    results = card.text.split("## Results")[1].split("## Training")[0]
    results += content.split("model-index:")[1].split("---")[0]
    # Not results: the level of the intervals.
    stated = re.findall(r"(?<![\w.])\d+(?:\.\d+)?", results.replace("95%", "").replace("interval_95", ""))
    assert len(stated) > 40
    for text in stated:
        step = 10.0 ** -len(text.partition(".")[2])
        assert any(abs(number - float(text)) <= 0.5001 * step for number in known), text
    # No path of this machine is told.
    for path in (staged / small.name).rglob("*"):
        if path.is_file() and path.suffix != ".safetensors":
            assert not any(str(place) in path.read_text() for place in (house, staged)), path

    if small.objective is None:
        return
    card = ModelCard.load(staged / small.name / "encoder" / "README.md")
    log = json.loads((staged / small.name / "encoder" / "pretraining.json").read_text())["result"]
    for words in (
        small.objective.parts,
        small.objective.title,
        small.objective.loss_title,
        f"| validation recordings | {log['validation_loss']:.4f} |",
    ):
        assert words in card.text, words


STRANGER = """
import json
from pathlib import Path

import torch
import transformers
import wfdb
from safetensors.torch import save_file
from transformers.models.auto.image_processing_auto import AutoImageProcessor

torch.set_num_threads(1)
record, page, results = sys.argv[2:]
read = wfdb.rdrecord(record)
for folder in sorted(Path(sys.argv[1]).iterdir()):
    classifier = str(folder / "classifier")
    pipe = transformers.pipeline("ecg-classification", model=classifier, trust_remote_code=True, device="cpu")
    extractor = transformers.AutoFeatureExtractor.from_pretrained(classifier, trust_remote_code=True)
    model = transformers.AutoModel.from_pretrained(folder / "encoder", trust_remote_code=True).eval()
    parts, scores = [pipe, pipe.model, pipe.feature_extractor, extractor, model], {"record": pipe(record + ".hea")}
    inputs = extractor(
        read.p_signal.T, sampling_rate=read.fs, lead_names=read.sig_name, unit=read.units, return_tensors="pt"
    )
    with torch.no_grad():
        outputs = {**inputs, "lead_states": model(**inputs).lead_states, "logits": pipe.model(**inputs).logits}
    if "pixel_values" in inputs:
        processor = AutoImageProcessor.from_pretrained(classifier, trust_remote_code=True)
        outputs["page"], scores["page"] = processor(page, return_tensors="pt")["pixel_values"], pipe(page)
        parts.append(processor)
    for part in parts:
        assert type(part).__module__.startswith("transformers_modules."), type(part)
    save_file({name: one.contiguous() for name, one in outputs.items()}, f"{results}/{folder.name}.safetensors")
    Path(results, f"{folder.name}.json").write_text(json.dumps(scores))
assert "clear_hug_hf" not in sys.modules
"""


@pytest.fixture(scope="module")
def among_strangers(
    staged: Path,
    ptbxl_folder: Path,
    tmp_path_factory: pytest.TempPathFactory,
    run: Run,
    stranger: Callable[..., None],
) -> Path:
    """What the published folders of all systems give without the package, for a record and for `page.png` of it."""
    folder, record = tmp_path_factory.mktemp("strangers"), ptbxl_folder / "records100/00000/00003_lr"
    run("render", record, folder / "page.png")
    stranger(STRANGER, staged, record, folder / "page.png", folder)
    return folder


@pytest.mark.usefixtures("one_thread")
def test_when_the_package_is_absent_then_a_published_folder_gives_the_same_numbers(
    small: SmallSystem, staged: Path, record: Path, among_strangers: Path
) -> None:
    folder = staged / small.name
    pipe = pipeline("ecg-classification", model=str(folder / "classifier"), device="cpu")
    inputs = AutoFeatureExtractor.from_pretrained(folder / "classifier")(
        **read_record(record).as_inputs(), return_tensors="pt"
    )
    with torch.no_grad():
        states = AutoModel.from_pretrained(folder / "encoder").eval()(**inputs).lead_states
        ours = {**inputs, "lead_states": states, "logits": pipe.model(**inputs).logits}
    scores, page = {"record": pipe(f"{record}.hea")}, among_strangers / "page.png"
    if small.system.reads_pages:
        processor = AutoImageProcessor.from_pretrained(folder / "classifier")
        ours["page"], scores["page"] = processor(page, return_tensors="pt")["pixel_values"], pipe(page)
    theirs = load_file(among_strangers / f"{small.name}.safetensors")
    assert theirs.keys() == ours.keys()
    for name, tensor in ours.items():
        torch.testing.assert_close(theirs[name], tensor, atol=1e-6 if small.has_towers else 0, rtol=0, msg=name)
    found = json.loads((among_strangers / f"{small.name}.json").read_text())
    for kind, expected in scores.items():
        assert [one["label"] for one in found[kind]] == [one["label"] for one in expected]
        tolerance = 1e-6 if small.has_towers else 0
        assert [one["score"] for one in found[kind]] == pytest.approx(
            [one["score"] for one in expected], abs=tolerance, rel=0
        )


RHYTHMIC_STRANGER = """
import transformers

pipe = transformers.pipeline("ecg-classification", model=sys.argv[1], trust_remote_code=True, device="cpu")
print([one["score"] for one in pipe(sys.argv[2])])
assert "clear_hug_hf" not in sys.modules
"""


@pytest.mark.parametrize("small", ["clear_hug", "ecg_s4"], indirect=True)
def test_when_the_package_is_absent_then_a_published_classifier_reads_the_rhythm(
    small: SmallSystem, house: Path, record: Path, tmp_path: Path
) -> None:
    model, extractor = _rhythmic(house, tmp_path / "model")
    EcgClassificationPipeline(model=model, feature_extractor=extractor).save_pretrained(tmp_path / "published")
    own = {"HF_HOME": str(tmp_path / "home"), "HF_MODULES_CACHE": str(tmp_path / "modules"), "HF_HUB_OFFLINE": "1"}
    script = ABSENT + RHYTHMIC_STRANGER
    run_script(tmp_path, script, tmp_path / "published", f"{record}.hea", environment={**os.environ, **own})
    found = json.loads((tmp_path / "printed.txt").read_text().splitlines()[-1])
    pipe = EcgClassificationPipeline(model=model, feature_extractor=extractor)
    assert found == pytest.approx([one["score"] for one in pipe(f"{record}.hea")], abs=1e-6)


def test_when_the_package_is_there_then_a_run_loads_as_the_systems_own_classes(
    small: SmallSystem, house: Path
) -> None:
    model, extractor = load_classifier(house / "finetuned")
    assert type(model) is small.classifier
    assert type(extractor) is small.system.feature_extractor
    assert list(model.config.id2label.values()) == LABELS
