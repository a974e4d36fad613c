"""ECG-JEPA lives in the same house as CLEAR-HUG: every verb takes it, and none mixes the two up."""

from __future__ import annotations

import dataclasses
import inspect
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch
from huggingface_hub import ModelCard
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import (
    AutoFeatureExtractor,
    AutoModel,
    AutoModelForPreTraining,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    pipeline,
    set_seed,
)

from clear_hug_hf import (
    STANDARD_LEADS,
    ClearHugConfig,
    ClearHugFeatureExtractor,
    ClearHugForPreTraining,
    EcgJepaConfig,
    EcgJepaFeatureExtractor,
    EcgJepaForPreTraining,
    EcgJepaForSequenceClassification,
    EcgJepaForTokenClassification,
    EcgJepaModel,
    Recording,
    load_prepared,
    prepare,
    read_record,
)
from clear_hug_hf.cli import main
from clear_hug_hf.data.collator import EcgCollator
from clear_hug_hf.inference.digests import settings_digest
from clear_hug_hf.inference.records import embed_records
from clear_hug_hf.processing import InputError
from clear_hug_hf.training.features import encode
from clear_hug_hf.training.finetuning import FinetuningArguments, HeadOnly, check_fits, finetune
from clear_hug_hf.training.folders import save_model_folder
from clear_hug_hf.training.pretraining import PretrainingArguments, pretrain


Capture = pytest.CaptureFixture[str]
MakeRecordings = Callable[..., list[Recording]]
WriteRecord = Callable[[Path, Recording], Path]
SMALL: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "predictor_hidden_size": 16,
    "predictor_num_hidden_layers": 1,
    "predictor_num_attention_heads": 2,
    "predictor_intermediate_size": 16,
}
OPTIONS = [word for name, value in SMALL.items() for word in ("--model-option", f"{name}={value}")]
QUIET = ["--no-progress", "--trackers"]
CLASSES = {0: "none", 1: "P", 2: "QRS", 3: "T"}
LEADS = ["I", "II", "V1", "V2", "V3", "V4", "V5", "V6"]
REPO = "your-name/ecg-jepa-demo"


def _run(*words: object) -> None:
    assert main([str(word) for word in words]) == 0


def _refused(capsys: Capture, *words: object) -> str:
    """The one sentence on stderr of a command that is refused; nothing but progress bars may come before."""
    capsys.readouterr()
    assert main([str(word) for word in words]) == 2
    *before, last = capsys.readouterr().err.splitlines()
    assert last.startswith("clear-hug: error: ")
    assert all("it/s" in line or "rec/s" in line or "batch/s" in line for line in before if line)
    return last.removeprefix("clear-hug: error: ")


@pytest.fixture(scope="module")
def house(ptbxl_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """PTB-XL prepared for both systems, a pre-trained and a fine-tuned ECG-JEPA, and a CLEAR that was not trained."""
    folder = tmp_path_factory.mktemp("house")
    for system in ("ecg_jepa", "clear_hug"):
        _run("prepare", ptbxl_folder, "--labels", "ptbxl_super", "--system", system, "--output", folder / system)
    command = ["pretrain", "--system", "ecg_jepa", "--data", folder / "ecg_jepa", "--output", folder / "pretrained"]
    _run(*command, "--epochs", 2, "--batch-size", 16, *QUIET, *OPTIONS)
    command = ["finetune", "--data", folder / "ecg_jepa", "--model", folder / "pretrained"]
    _run(*command, "--output", folder / "finetuned", "--epochs", 4, "--no-feature-cache")
    small = {"hidden_size": 32, "num_hidden_layers": 1, "intermediate_size": 32, "decoder_num_hidden_layers": 1}
    clear = ClearHugForPreTraining(ClearHugConfig.preset("tiny", **small))
    save_model_folder(folder / "clear", clear, ClearHugFeatureExtractor())
    return folder


@pytest.fixture(scope="module")
def sets(house: Path) -> dict[str, datasets.Dataset]:
    return load_prepared(house / "ecg_jepa")[0]


@pytest.fixture(scope="module")
def odd_recordings(make_recordings: MakeRecordings) -> list[Recording]:
    """Nine recordings: whole ones, one of 4 s, one without V2, one without any precordial lead."""
    recordings = make_recordings(9)
    recordings[1] = dataclasses.replace(recordings[1], waveform=recordings[1].waveform[:, :400])
    recordings[4] = _with_leads(recordings[4], [name for name in STANDARD_LEADS if name != "V2"])
    recordings[6] = _with_leads(recordings[6], ["II", "I"])
    return recordings


def _with_leads(recording: Recording, names: list[str]) -> Recording:
    rows = [list(recording.lead_names).index(name) for name in names]
    return dataclasses.replace(recording, waveform=recording.waveform[rows], lead_names=names)


@pytest.fixture(scope="module")
def odd(odd_recordings: list[Recording]) -> datasets.Dataset:
    return prepare(odd_recordings, EcgJepaFeatureExtractor(), ("fast", "inverted"), progress=False).dataset


# -------------------------------------------------------------------------------------------------------- preparation


def test_when_prepared_for_ecg_jepa_then_signals_are_as_it_reads_them_and_the_next_step_is_named(
    house: Path, ptbxl_folder: Path, sets: dict[str, datasets.Dataset], capsys: Capture
) -> None:
    row = sets["train"].with_format("numpy")[0]
    assert (row["signal"].shape, float(row["sampling_rate"])) == ((12, 2500), 250.0)
    recording = read_record(ptbxl_folder / f"records100/00000/{int(row['record_id']):05d}_lr")
    found = EcgCollator(load_prepared(house / "ecg_jepa")[1])([row])["input_values"]
    expected = EcgJepaFeatureExtractor()(**recording.as_inputs(), return_tensors="pt")["input_values"]
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)

    command = ["prepare", ptbxl_folder, "--labels", "ptbxl_super", "--system"]
    for system, option in (("ecg_jepa", " --system ecg_jepa"), ("clear_hug", "")):
        _run(*command, system, "--output", house / system)
        printed = capsys.readouterr().out
        assert "no recording was read" in printed
        assert f"next: clear-hug pretrain{option} --data {house / system} --output" in printed


def test_when_a_model_and_a_system_both_say_how_to_clean_then_one_is_asked_for(
    house: Path, ptbxl_folder: Path, capsys: Capture, tmp_path: Path
) -> None:
    command = ["prepare", ptbxl_folder, "--model", house / "pretrained", "--system", "ecg_jepa"]
    assert "give one of them" in _refused(capsys, *command, "--output", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_when_recordings_were_prepared_for_the_other_system_then_one_sentence_says_so(
    house: Path, capsys: Capture, tmp_path: Path
) -> None:
    of_jepa, of_clear = house / "ecg_jepa", house / "clear_hug"
    to = ["--output", tmp_path / "out"]
    for command, system in (
        (["pretrain", "--data", of_jepa, *to], "clear_hug"),
        (["pretrain", "--system", "ecg_jepa", "--data", of_clear, *to], "ecg_jepa"),
        (["demo", "--system", "ecg_jepa", "--data", of_clear, *to], "ecg_jepa"),
    ):
        said = f"the recordings were prepared for another system than {system}: prepare them with"
        assert _refused(capsys, *command) == f"{said} `clear-hug prepare --system {system}`"
    other = f"{of_clear} was prepared for another system, by ClearHugFeatureExtractor, and the model needs EcgJepa"
    mine = f"{of_jepa} was prepared for another system, by EcgJepaFeatureExtractor, and the model needs ClearHug"
    finetuned, pretrained, clear = house / "finetuned", house / "pretrained", house / "clear"
    assert _refused(capsys, "finetune", "--data", of_clear, "--model", pretrained, *to).startswith(other)
    assert _refused(capsys, "finetune", "--data", of_jepa, "--model", clear, *to).startswith(mine)
    assert _refused(capsys, "evaluate", "--data", of_clear, "--model", finetuned).startswith(other)
    command = ["benchmark", "--tasks", of_jepa, "--models", f"jepa={pretrained}", f"clear={clear}", *to]
    assert _refused(capsys, *command).startswith(f"model clear: {mine}")
    # Also where nothing says how recordings were prepared.
    with pytest.raises(InputError, match="has sampling_rate 100 Hz and the model 250 Hz"):
        check_fits(EcgJepaConfig(), ClearHugFeatureExtractor())
    assert not (tmp_path / "out").exists()


# ------------------------------------------------------------------------------------------------------- pre-training


def test_when_pretrained_then_both_logs_watch_for_a_collapse(house: Path) -> None:
    steps = pd.read_csv(house / "pretrained" / "pretraining_steps.csv")
    assert list(steps) == ["step", "epoch", "loss", "gradient_norm", "learning_rate", "pooled_std"]
    assert steps["step"].tolist() == [1, 2, 3, 4, 5, 6]
    assert (steps["pooled_std"] > 1e-3).all()
    epochs = pd.read_csv(house / "pretrained" / "pretraining_log.csv")
    assert epochs["pooled_std"].tolist() == pytest.approx(steps.groupby("epoch")["pooled_std"].mean().tolist())
    assert epochs["validation_loss"].notna().all()
    facts = json.loads((house / "pretrained" / "pretraining.json").read_text())
    assert (facts["system"], facts["model"]) == ("ecg_jepa", SMALL)
    pictures = sorted(path.name for path in (house / "pretrained" / "pictures").iterdir())
    assert pictures == ["pretraining_loss.png", "recording.png"]  # nothing is rebuilt that could be drawn
    model = AutoModelForPreTraining.from_pretrained(house / "pretrained" / "model")
    student, teacher = model.ecg_jepa.state_dict(), model.teacher.state_dict()
    moved = {name: (teacher[name] - student[name]).abs().max().item() for name in student}
    assert 0 < max(moved.values()) < 0.1


def _new_model(stop_at: int | None = None, **overrides: Any) -> EcgJepaForPreTraining:
    """A model with stochastic depth; one that is to stop is interrupted in that step, as a run is that is killed."""

    class Stopping(EcgJepaForPreTraining):
        calls = 0

        def forward(self, **kwargs: Any) -> Any:
            if self.training:
                self.calls += 1
                if self.calls == stop_at:
                    raise KeyboardInterrupt
            return super().forward(**kwargs)

        forward.__signature__ = inspect.signature(EcgJepaForPreTraining.forward)  # type: ignore[attr-defined]

    Stopping.__name__ = "EcgJepaForPreTraining"
    set_seed(0)
    config = EcgJepaConfig.preset("tiny", **{**SMALL, "drop_path_rate": 0.2, **overrides})
    return EcgJepaForPreTraining(config) if stop_at is None else Stopping(config)


def _recipe(**overrides: Any) -> PretrainingArguments:
    return PretrainingArguments(
        **{"epochs": 2, "batch_size": 4, "learning_rate": 2e-3, "progress": False, **overrides}
    )


@pytest.mark.parametrize("stop_at", [4, 6])
def test_when_a_run_is_killed_then_the_same_call_ends_with_the_same_weights_teacher_included(
    sets: dict[str, datasets.Dataset], tmp_path: Path, stop_at: int
) -> None:
    rows, extractor, recipe = sets["train"].select(range(12)), EcgJepaFeatureExtractor(), _recipe(checkpoint_every=2)
    whole = pretrain(_new_model(), rows, extractor, tmp_path / "whole", sets["validation"], recipe)
    with pytest.raises(KeyboardInterrupt):
        pretrain(_new_model(stop_at), rows, extractor, tmp_path / "cut", sets["validation"], recipe)
    other = _new_model()
    with torch.no_grad():
        for parameter in other.parameters():  # the new process starts from anywhere
            parameter.add_(1.0)
    resumed = pretrain(other, rows, extractor, tmp_path / "cut", sets["validation"], recipe)
    assert resumed.resumed_from == {4: 3, 6: 4}[stop_at]
    assert resumed.steps == whole.steps
    assert [row["pooled_std"] for row in resumed.history] == [row["pooled_std"] for row in whole.history]
    expected = whole.model.state_dict()
    assert any(name.startswith("teacher.") for name in expected)
    for name, tensor in resumed.model.state_dict().items():
        assert torch.equal(tensor, expected[name]), name
    for folder in ("whole", "cut"):
        saved = load_file(tmp_path / folder / "model" / "model.safetensors")
        assert all(torch.equal(tensor, expected[name]) for name, tensor in saved.items())


def test_when_trained_then_the_teacher_is_the_moving_average_of_all_steps(sets: dict[str, datasets.Dataset]) -> None:
    students: list[dict[str, torch.Tensor]] = []

    class Watched(EcgJepaForPreTraining):
        def after_optimizer_step(self, progress: float) -> None:
            students.append({name: tensor.clone() for name, tensor in self.ecg_jepa.state_dict().items()})
            super().after_optimizer_step(progress)

    set_seed(0)
    model = Watched(EcgJepaConfig.preset("tiny", **SMALL, ema_start=0.5, ema_end=0.9))
    expected = {name: tensor.clone() for name, tensor in model.teacher.state_dict().items()}
    result = pretrain(model, sets["train"].select(range(8)), EcgJepaFeatureExtractor(), arguments=_recipe())
    assert len(students) == 4
    for step, student in enumerate(students, start=1):
        kept = 0.5 + 0.4 * step / 4
        expected = {name: kept * old + (1 - kept) * student[name] for name, old in expected.items()}
    for name, tensor in result.model.teacher.state_dict().items():
        torch.testing.assert_close(tensor, expected[name], atol=1e-6, rtol=0)


def test_when_a_step_is_computed_in_parts_then_it_is_the_same_step(odd: datasets.Dataset) -> None:
    runs = [
        pretrain(
            _new_model(drop_path_rate=0.0),
            odd,
            EcgJepaFeatureExtractor(),
            arguments=_recipe(batch_size=9, epochs=3, **fields),
        )
        for fields in ({}, {"micro_batch_size": 4}, {"micro_batch_size": 1}, {"gradient_checkpointing": True})
    ]
    for run in runs[1:]:
        for first, second in zip(runs[0].steps, run.steps, strict=True):
            assert second["loss"] == pytest.approx(first["loss"], abs=1e-5)
            assert second["gradient_norm"] == pytest.approx(first["gradient_norm"], abs=1e-5)
        for first, second in zip(runs[0].model.parameters(), run.model.parameters(), strict=True):
            torch.testing.assert_close(second, first, atol=1e-4, rtol=1e-3)
    other = pretrain(
        _new_model(drop_path_rate=0.0), odd, EcgJepaFeatureExtractor(), arguments=_recipe(batch_size=9, seed=1)
    )
    assert other.steps[0]["loss"] != pytest.approx(runs[0].steps[0]["loss"], abs=1e-5)


def test_when_the_model_reads_other_leads_and_patches_then_the_recordings_are_cut_so(
    house: Path, tmp_path: Path, capsys: Capture
) -> None:
    command = ["pretrain", "--system", "ecg_jepa", "--data", house / "ecg_jepa", "--epochs", 1, "--batch-size", 16]
    command += [*QUIET, *OPTIONS]
    change = ["--model-option", "patch_size=25", "--model-option", "lead_names=[V5, II]"]
    _run(*command, "--output", tmp_path / "run", *change)
    extractor = AutoFeatureExtractor.from_pretrained(tmp_path / "run" / "model")
    assert (extractor.patch_size, extractor.lead_names, extractor.num_patches) == (25, ["V5", "II"], 100)
    arguments = ["--output", tmp_path / "tuned", "--epochs", 1, "--no-control", "--no-feature-cache"]
    _run("finetune", "--data", house / "ecg_jepa", "--model", tmp_path / "run", *arguments)

    said = _refused(capsys, *command, "--output", tmp_path / "half", "--model-option", "num_samples=1250")
    assert "the feature extractor has num_samples 2500 and the model 1250" in said
    with pytest.raises(InputError, match="has patch_size 50 and the model 25"):
        check_fits(EcgJepaConfig(patch_size=25), EcgJepaFeatureExtractor())
    assert not (tmp_path / "half").exists()


# --------------------------------------------------------------------------------------------------------- classifier


def _classifier(**overrides: Any) -> EcgJepaForSequenceClassification:
    set_seed(0)
    labels = {"id2label": {0: "fast", 1: "inverted"}, "label2id": {"fast": 0, "inverted": 1}}
    return EcgJepaForSequenceClassification(EcgJepaConfig.preset("tiny", **{**SMALL, **labels, **overrides}))


@pytest.fixture(scope="module")
def labelled(make_recordings: MakeRecordings, odd: datasets.Dataset) -> tuple[datasets.Dataset, datasets.Dataset]:
    """Training recordings, odd ones among them, and validation recordings."""
    recordings = make_recordings(24)[9:]
    others = prepare(recordings, EcgJepaFeatureExtractor(), ("fast", "inverted"), progress=False).dataset
    train = datasets.concatenate_datasets([odd, others.select(range(3))])
    return train, others.select(range(3, 15))


def _tuning(**overrides: Any) -> FinetuningArguments:
    return FinetuningArguments(**{"epochs": 3, "batch_size": 4, "progress": False, **overrides})


@pytest.mark.parametrize("method", ["frozen", "full", "lora"])
def test_when_finetuned_then_the_right_parts_learn_and_the_folder_gives_the_same_numbers(
    labelled: tuple[datasets.Dataset, datasets.Dataset], tmp_path: Path, method: str
) -> None:
    if method == "lora":
        pytest.importorskip("peft")
    model = _classifier()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    finetune(model, *labelled, EcgJepaFeatureExtractor(), tmp_path, _tuning(method=method, lora_rank=2))
    assert model.state_dict().keys() == before.keys()
    moved = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}
    head = {"classifier.weight", "classifier.bias"}
    if method == "lora":
        projections = {f"{name}_proj.weight" for name in "qkvo"}
        assert moved - head == {name for name in before if any(name.endswith(one) for one in projections)}
        for name in moved - head:
            assert torch.linalg.matrix_rank(model.state_dict()[name] - before[name], rtol=1e-3) == 2
    else:
        assert moved == (head if method == "frozen" else set(before))
    assert all(parameter.requires_grad for parameter in model.parameters())

    loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path / "model")
    inputs = EcgCollator(EcgJepaFeatureExtractor(), label_names=())(list(labelled[0].select(range(9))))
    with torch.no_grad():
        assert torch.equal(loaded(**inputs).logits, model(**inputs).logits)
    assert set(loaded.config.label_thresholds) == {"fast", "inverted"}


def test_when_features_are_kept_then_the_probe_is_that_of_an_encoder_that_runs_every_epoch(
    labelled: tuple[datasets.Dataset, datasets.Dataset], tmp_path: Path
) -> None:
    extractor = EcgJepaFeatureExtractor()
    runs = [
        finetune(_classifier(), *labelled, extractor, arguments=_tuning(precompute=precompute), cache_dir=cache)
        for precompute, cache in ((False, None), (True, tmp_path), (True, tmp_path))
    ]
    assert len(list(tmp_path.glob("*.safetensors"))) == 2
    for run in runs[1:]:
        assert run.best_epoch == runs[0].best_epoch
        for first, second in zip(runs[0].history, run.history, strict=True):
            assert second == pytest.approx(first, abs=1e-5)
        for name, tensor in run.model.state_dict().items():
            torch.testing.assert_close(tensor, runs[0].model.state_dict()[name], atol=1e-5, rtol=0)

    model, collator = _classifier().eval(), EcgCollator(extractor, label_names=("fast", "inverted"))
    encoded = encode(model, labelled[0], collator, batch_size=4)
    assert encoded.columns["present"].sum(dim=1)[[4, 6]].tolist() == [7, 2]
    with torch.no_grad():
        expected = model(**collator(list(labelled[0])))
        output = HeadOnly(model)(**encoded.columns)
    torch.testing.assert_close(output["logits"], expected.logits, atol=1e-5, rtol=0)
    torch.testing.assert_close(output["loss"], expected.loss)


def test_when_only_pretraining_differs_then_the_encoder_is_of_the_same_form() -> None:
    same = settings_digest(EcgJepaConfig())
    for change in (
        {"mask_type": "random", "num_mask_blocks": 3, "released_block_starts": True},
        {"predictor_hidden_size": 192, "loss_type": "l1", "initializer_range": 0.1},
        {"ema_start": 0.9, "ema_end": 0.95, "teacher_drop_path": True},
        {"attention_form": "dense", "id2label": {0: "MI"}, "head_type": "mean"},
    ):
        assert settings_digest(EcgJepaConfig(**change)) == same, change
    for change in ({"attention_pattern": "full"}, {"position_injection": "first_layer"}, {"patch_size": 25}):
        assert settings_digest(EcgJepaConfig(**change)) != same, change


def test_when_finetuned_by_the_verb_then_evaluation_gives_its_numbers(
    house: Path, tmp_path: Path, capsys: Capture
) -> None:
    _run("evaluate", "--data", house / "ecg_jepa", "--model", house / "finetuned", "--output", tmp_path / "m.json")
    metrics = json.loads((house / "finetuned" / "metrics.json").read_text())
    evaluated = json.loads((tmp_path / "m.json").read_text())
    assert (metrics["head"], metrics["labels"]) == ("mean", ["NORM", "MI", "STTC"])
    assert evaluated["macro_auroc"] == pytest.approx(metrics["pretrained"]["test"]["macro_auroc"])
    assert metrics["encoder"]["pretraining.json"]["system"] == "ecg_jepa"
    # There are no groups of leads to draw, and no decoder.
    pictures = sorted(path.name for path in (house / "finetuned" / "pictures").iterdir())
    assert pictures == ["prediction.png", "recording.png", "roc.png"]


def test_when_a_head_of_clear_hug_is_asked_for_then_one_sentence_refuses_it(
    house: Path, tmp_path: Path, capsys: Capture
) -> None:
    said = "ecg_jepa has no head 'hug': head_type must be one of mean, got 'hug'."
    to = ["--output", tmp_path / "out"]
    command = ["finetune", "--data", tmp_path / "not looked at", "--model", house / "pretrained", *to]
    assert _refused(capsys, *command, "--head", "hug") == said
    command = ["benchmark", "--tasks", house / "ecg_jepa", "--models", f"jepa={house / 'pretrained'}", *to]
    assert _refused(capsys, *command, "--heads", "mean", "hug") == f"model jepa: {said}"
    assert not (tmp_path / "out").exists()


def test_when_benchmarked_then_the_heads_are_those_that_every_model_has_and_all_share_the_control(
    house: Path, tmp_path: Path
) -> None:
    other = _new_model(drop_path_rate=0.0, mask_type="random", loss_type="l1", predictor_hidden_size=32)
    save_model_folder(tmp_path / "random", other, EcgJepaFeatureExtractor())
    models = [f"blocks={house / 'pretrained'}", f"times={tmp_path / 'random'}"]
    command = [
        "benchmark",
        "--tasks",
        f"ptb-xl={house / 'ecg_jepa'}",
        "--models",
        *models,
        "--protocols",
        "probe",
        "knn",
    ]
    command += ["--fractions", 100, "--seeds", 0, "--probe-epochs", 2, "--no-feature-cache"]
    _run(*command, "--output", tmp_path / "benchmark")
    rows = pd.read_csv(tmp_path / "benchmark" / "results.csv", dtype={"head": str})
    found = set(zip(rows["model"], rows["protocol"], rows["head"].fillna(""), strict=True))
    assert found == {
        (model, *how) for model in ("blocks", "times", "random") for how in (("probe", "mean"), ("knn", ""))
    }
    table = (tmp_path / "benchmark" / "table.md").read_text()
    ahead = table.split("Ahead of the same encoder without its weights")[1]
    for model in ("blocks", "times"):
        assert f"| {model}, probe, mean |" in ahead
    assert "of another form" not in table


def test_when_systems_are_mixed_in_a_benchmark_then_each_reads_its_own_preparation_of_the_same_rows(
    house: Path, tmp_path: Path, capsys: Capture
) -> None:
    models = [f"jepa={house / 'pretrained'}", f"clear={house / 'clear'}"]
    how = ["--fractions", 50, "--seeds", 0, "--protocols", "knn", "probe", "--probe-epochs", 2, "--no-feature-cache"]
    command = ["benchmark", *how, "--heads", "mean"]
    both = ["--tasks", f"super={house / 'ecg_jepa'}", f"super={house / 'clear_hug'}"]
    _run(*command, *both, "--models", *models, "--output", tmp_path / "mixed")
    mixed = pd.read_csv(tmp_path / "mixed" / "results.csv").set_index(["model", "protocol"])
    assert len({*mixed["num_test"]}) == len({*mixed["num_train"]}) == 1
    # Each model gets the numbers that it gets alone.
    for model, folder in zip(models, ("ecg_jepa", "clear_hug"), strict=True):
        name = model.partition("=")[0]
        alone = ["--tasks", f"super={house / folder}", "--models", model, "--no-control"]
        _run(*command, *alone, "--output", tmp_path / name)
        expected = pd.read_csv(tmp_path / name / "results.csv").set_index(["model", "protocol"])
        for cell in ((name, "knn"), (name, "probe")):
            assert mixed.loc[cell, "macro_auroc"] == expected.loc[cell, "macro_auroc"]
    assert "clear: no control, since its encoder is of another form" in (tmp_path / "mixed" / "table.md").read_text()
    said = _refused(capsys, *command, *both[:2], "--models", *models, "--output", tmp_path / "refused")
    assert said.startswith(f"model clear: {house / 'ecg_jepa'} was prepared for another system")
    assert said.endswith("a task for models of several systems names a folder for each, super=DIR super=DIR")
    assert not (tmp_path / "refused").exists()


# --------------------------------------------------------------------------------------------------------- recordings


def _probabilities(capsys: Capture, model: Path, *records: Path) -> list[dict[str, float]]:
    capsys.readouterr()
    _run("predict", *records, "--model", model, "--json")
    return [json.loads(line)["windows"][0]["probabilities"] for line in capsys.readouterr().out.splitlines()]


def test_when_leads_or_seconds_are_missing_then_what_is_there_is_read_as_if_it_were_all(
    house: Path, odd_recordings: list[Recording], write_record: WriteRecord, tmp_path: Path, capsys: Capture
) -> None:
    model = AutoModelForSequenceClassification.from_pretrained(house / "finetuned" / "model")
    extractor = AutoFeatureExtractor.from_pretrained(house / "finetuned" / "model")
    short, without_v2, limbs = (odd_recordings[index] for index in (1, 4, 6))
    for recording, leads, samples in (
        (short, LEADS, 1000),
        (without_v2, [name for name in LEADS if name != "V2"], 2500),
        (limbs, ["I", "II"], 2500),
    ):
        header = write_record(tmp_path / recording.record_id, recording)
        found = _probabilities(capsys, house / "finetuned", header)[0]
        inputs = extractor(**read_record(header).as_inputs(), return_tensors="pt")["input_values"]
        rows = torch.tensor(model.config.lead_indices(leads))
        with torch.no_grad():
            logits = model(inputs[:, rows, :samples], lead_indices=rows).logits[0]
        expected = dict(zip(model.config.id2label.values(), logits.sigmoid().tolist(), strict=True))
        assert found == pytest.approx(expected, abs=2e-5), recording.record_id

    (found,) = embed_records(model, extractor, [without_v2], per_lead=True)
    assert np.isnan(found.vectors[0]).all(axis=1).tolist() == [name == "V2" for name in LEADS]


def test_when_no_lead_of_the_model_is_there_then_one_sentence_says_so(
    house: Path, odd_recordings: list[Recording], write_record: WriteRecord, tmp_path: Path, capsys: Capture
) -> None:
    header = write_record(tmp_path / "augmented", _with_leads(odd_recordings[0], ["aVR", "aVL"]))
    said = _refused(capsys, "predict", header, "--model", house / "finetuned")
    assert said.endswith(
        "the recording has lead(s) aVR, aVL and the model reads I, II, V1, V2, V3, V4, V5, V6: at least one of these "
        "is needed"
    )


def test_when_the_rate_differs_then_the_representation_does_not(house: Path) -> None:
    model = AutoModel.from_pretrained(house / "pretrained" / "model").eval()
    vectors = {}
    for heart in (0.62, 0.93):
        for rate in (500.0, 250.0, 100.0):
            seconds = np.arange(round(10 * rate)) / rate
            since = (seconds - 0.4 + heart / 2) % heart - heart / 2
            wave = np.exp(-0.5 * (since / 0.02) ** 2) + 0.3 * np.exp(-0.5 * ((since - 0.22) / 0.04) ** 2)
            waveform = np.linspace(-1.0, 1.5, 12)[:, None] * wave
            known = {"sampling_rate": rate, "lead_names": STANDARD_LEADS, "unit": "mV"}
            inputs = EcgJepaFeatureExtractor()(waveform, **known, return_tensors="pt")
            with torch.no_grad():
                vectors[heart, rate] = model(**inputs).pooler_output[0]
    between = (vectors[0.62, 250.0] - vectors[0.93, 250.0]).norm()
    for heart in (0.62, 0.93):
        for rate in (500.0, 100.0):
            assert (vectors[heart, rate] - vectors[heart, 250.0]).norm() < 0.05 * between, (heart, rate)


def test_when_records_are_embedded_then_the_vectors_are_the_pooled_outputs(
    house: Path, odd_recordings: list[Recording], write_record: WriteRecord, tmp_path: Path
) -> None:
    headers = [write_record(tmp_path / "ward" / one.record_id, one) for one in odd_recordings]
    _run("embed", tmp_path / "ward", "--model", house / "pretrained", "--output", tmp_path / "vectors.parquet")
    table = pq.read_table(tmp_path / "vectors.parquet").to_pydict()
    model = AutoModel.from_pretrained(house / "pretrained" / "model").eval()
    extractor = AutoFeatureExtractor.from_pretrained(house / "pretrained" / "model")
    for header, name, end, vector in zip(
        sorted(headers), table["record_id"], table["end"], table["embedding"], strict=True
    ):
        recording = read_record(header)
        assert name == str(header.with_suffix(""))
        assert end == pytest.approx(recording.waveform.shape[1] / recording.sampling_rate)
        with torch.no_grad():
            expected = model(**extractor(**recording.as_inputs(), return_tensors="pt")).pooler_output[0]
        torch.testing.assert_close(torch.tensor(vector), expected, atol=1e-4, rtol=0)


# ------------------------------------------------------------------------------------------------------------ the Hub


@pytest.fixture(scope="module")
def staged(house: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("staged") / "classifier"
    _run("publish", house / "finetuned", REPO, "--dry-run", folder, "--license", "cc-by-4.0")
    return folder


@pytest.fixture(scope="module")
def sample_classifier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a classifier of samples."""
    set_seed(0)
    names = {"id2label": CLASSES, "label2id": {name: place for place, name in CLASSES.items()}}
    model = EcgJepaForTokenClassification(EcgJepaConfig.preset("tiny", **SMALL, **names))
    folder = tmp_path_factory.mktemp("models") / "waves"
    save_model_folder(folder, model, EcgJepaFeatureExtractor())
    return folder


def _numbers(content: Any) -> Iterator[float]:
    """All numbers of a JSON content, also those in its texts."""
    if isinstance(content, dict):
        for name, value in content.items():
            yield from _numbers(name)
            yield from _numbers(value)
    elif isinstance(content, list):
        for value in content:
            yield from _numbers(value)
    elif isinstance(content, str):
        yield from map(float, re.findall(r"\d+(?:\.\d+)?", content))
    elif isinstance(content, int | float):
        yield float(content)


def test_when_published_then_the_card_names_system_and_paper_and_its_numbers_are_in_its_files(
    staged: Path, house: Path, tmp_path: Path
) -> None:
    card = ModelCard.load(staged / "README.md")
    assert {"ecg", "ecg-jepa", "custom_code", "ecg-classification"} <= set(card.data.tags)
    for words in (
        "ECG-JEPA (Kim, with cross-pattern attention) (",
        "that names 3 labels of a 12-lead ECG, by a linear head on the mean of all leads.",
        "Joint-Embedding Predictive Architecture, [arXiv 2410.08559](https://arxiv.org/abs/2410.08559)",
        "PTB-XL, a large publicly available electrocardiography dataset",
        "**Pre-training** without labels: ECG-JEPA",
        "becomes 8 leads (I, II, V1, V2, V3, V4, V5, V6) at 250 Hz, read in windows of 10 s, in patches of 50 samples",
    ):
        assert words in card.text, words
    for words in ("CLEAR", "HUG head", "beats", "R peaks", "band-pass", "2410.13867"):
        assert words not in card.text, words

    files = [json.loads(path.read_text()) for path in staged.glob("*.json")]
    known = {abs(number) for number in _numbers(files)}
    content = (staged / "README.md").read_text()
    results = card.text.split("## Results")[1].split("## What it reads")[0]
    results += content.split("model-index:")[1].split("---")[0]
    stated = re.findall(r"(?<![\w.])\d+(?:\.\d+)?", results.replace("95 %", "").replace("interval_95", ""))
    assert len(stated) > 40
    for text in stated:
        step = 10.0 ** -len(text.partition(".")[2])
        assert any(abs(number - float(text)) <= 0.5001 * step for number in known), text

    _run("publish", house / "pretrained", REPO, "--dry-run", tmp_path / "encoder", "--license", "cc-by-4.0")
    card = ModelCard.load(tmp_path / "encoder" / "README.md")
    log = json.loads((tmp_path / "encoder" / "pretraining.json").read_text())["result"]
    for words in (
        "An ECG-JEPA (Kim, with cross-pattern attention) encoder of 12-lead ECGs, with the teacher and the predictor",
        "`AutoModelForPreTraining` loads the teacher and the predictor, too.",
        "Loss of the teacher's states at hidden times",
        f"| validation recordings | {log['validation_loss']:.4f} |",
    ):
        assert words in card.text, words
    assert "decoder" not in card.text


def test_when_a_classifier_of_samples_is_published_then_its_card_does_not_take_it_for_another_model(
    sample_classifier: Path, tmp_path: Path, house: Path, capsys: Capture, ptbxl_folder: Path
) -> None:
    _run("publish", sample_classifier, REPO, "--dry-run", tmp_path / "staged", "--license", "mit")
    card = ModelCard.load(tmp_path / "staged" / "README.md")
    assert "that names every sample of every lead of a 12-lead ECG as one of: none, P, QRS, T." in card.text
    assert "model = AutoModelForTokenClassification.from_pretrained" in card.text
    assert card.data.pipeline_tag is None
    record = ptbxl_folder / "records100/00000/00001_lr"
    said = _refused(capsys, "predict", record, "--model", sample_classifier)
    assert "holds a classifier of samples (EcgJepaForTokenClassification), not of recordings" in said


STRANGER = """
import sys


class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "clear_hug_hf":
            raise ImportError("clear_hug_hf is not installed here")


sys.meta_path.insert(0, Refuse())

import json

import torch
import transformers
import wfdb
from safetensors.torch import save_file

torch.set_num_threads(1)
classifier, waves, record, scores, tensors = sys.argv[1:]
pipe = transformers.pipeline("ecg-classification", model=classifier, trust_remote_code=True, device="cpu")
with open(scores, "w") as file:
    json.dump(pipe(record), file)
read = wfdb.rdrecord(record.removesuffix(".hea"))
extractor = transformers.AutoFeatureExtractor.from_pretrained(classifier, trust_remote_code=True)
inputs = extractor(
    read.p_signal.T, sampling_rate=read.fs, lead_names=read.sig_name, unit=read.units, return_tensors="pt"
)
outputs = {"inputs": inputs["input_values"]}
for auto_class, folder, name in (
    ("AutoModel", classifier, "pooler_output"),
    ("AutoModelForSequenceClassification", classifier, "logits"),
    ("AutoModelForTokenClassification", waves, "logits"),
):
    model = getattr(transformers, auto_class).from_pretrained(folder, trust_remote_code=True).eval()
    with torch.no_grad():
        outputs[auto_class] = model(**inputs)[name].clone()
    assert type(model).__module__.startswith("transformers_modules."), type(model)
for part in (extractor, pipe, pipe.model, pipe.feature_extractor):
    assert type(part).__module__.startswith("transformers_modules."), type(part)
assert "clear_hug_hf" not in sys.modules
save_file(outputs, tensors)
"""


def test_when_the_package_is_absent_then_published_folders_give_the_same_numbers(
    staged: Path, sample_classifier: Path, ptbxl_folder: Path, tmp_path: Path
) -> None:
    record = ptbxl_folder / "records100/00000/00003_lr.hea"
    (tmp_path / "stranger.py").write_text(STRANGER)
    arguments = [staged, sample_classifier, record, tmp_path / "scores.json", tmp_path / "outputs.safetensors"]
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    environment |= {"HF_HOME": str(tmp_path / "home"), "HF_MODULES_CACHE": str(tmp_path / "modules")}
    environment |= {"HF_HUB_OFFLINE": "1"}
    result = subprocess.run(
        [sys.executable, "stranger.py", *map(str, arguments)],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    theirs = load_file(tmp_path / "outputs.safetensors")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        scores = pipeline("ecg-classification", model=str(staged), device="cpu")(record)
        extractor = AutoFeatureExtractor.from_pretrained(staged)
        inputs = extractor(**read_record(record).as_inputs(), return_tensors="pt")
        models = {
            "AutoModel": (AutoModel, staged, EcgJepaModel, "pooler_output"),
            "AutoModelForSequenceClassification": (
                AutoModelForSequenceClassification,
                staged,
                EcgJepaForSequenceClassification,
                "logits",
            ),
            "AutoModelForTokenClassification": (
                AutoModelForTokenClassification,
                sample_classifier,
                EcgJepaForTokenClassification,
                "logits",
            ),
        }
        ours = {"inputs": inputs["input_values"]}
        for name, (auto_class, folder, own_class, field) in models.items():
            model = auto_class.from_pretrained(folder).eval()
            assert type(model) is own_class
            with torch.no_grad():
                ours[name] = model(**inputs)[field]
    finally:
        torch.set_num_threads(threads)
    assert json.loads((tmp_path / "scores.json").read_text()) == scores
    assert theirs.keys() == ours.keys()
    for name, tensor in ours.items():
        assert torch.equal(theirs[name], tensor), name
    assert ours["AutoModelForTokenClassification"].shape == (1, 8, 2500, 4)


# --------------------------------------------------------------------------------------------------------- conversion


@pytest.fixture(scope="module")
def released(shared: Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Tensors of the released layers at a small size, their inputs and outputs; and what is said of them."""
    with safe_open(shared / "parity" / "official_ecg_jepa_small.safetensors", "pt") as file:
        return {key: file.get_tensor(key) for key in file.keys()}, file.metadata()  # noqa: SIM118


def test_when_released_weights_are_converted_then_the_folder_gives_the_released_numbers_and_says_what_it_is(
    released: tuple[dict[str, torch.Tensor], dict[str, str]], house: Path, tmp_path: Path, capsys: Capture
) -> None:
    tensors, metadata = released
    encoder = {key.removeprefix("encoder."): one for key, one in tensors.items() if key.startswith("encoder.")}
    torch.save({"encoder": encoder, "epoch": 1}, tmp_path / "multiblock_epoch1.pth")
    command = ["convert", "ecg-jepa", tmp_path / "multiblock_epoch1.pth", tmp_path / "converted"]
    assert "is not a released size: give --num-attention-heads" in _refused(capsys, *command)
    heads = ["--num-attention-heads", metadata["encoder_heads"]]
    _run(*command, *heads)
    assert f"pre-trained ECG-JEPA encoder: {len(encoder)} tensors" in capsys.readouterr().out
    model = AutoModel.from_pretrained(tmp_path / "converted").eval()
    with torch.no_grad():
        found = model(tensors["input.signals"]).pooler_output
    torch.testing.assert_close(found, tensors["expected.representation"], atol=1e-5, rtol=0)

    facts = json.loads((tmp_path / "converted" / "conversion.json").read_text())
    assert (facts["system"], facts["file"]) == ("ecg-jepa", "multiblock_epoch1.pth")
    card = ModelCard.load(tmp_path / "converted" / "README.md")
    for words in (
        "The released pre-trained ECG-JEPA encoder `multiblock_epoch1.pth`",
        f"(SHA-256 `{facts['sha256']}`)",
        f"{len(encoder)} tensors, all of them used. The number of attention heads, {facts['num_attention_heads']}, is",
        "arXiv 2410.08559",
        "Their repository is under the MIT licence and says nothing of the weights",
        "their results have not been measured again",
    ):
        assert words in card.text, words
    # Recordings that were resampled otherwise than its weights' are not taken for its own.
    data = ["finetune", "--data", house / "ecg_jepa", "--model", tmp_path / "converted", "--output", tmp_path / "out"]
    assert "--model`" in _refused(capsys, *data)

    whole = {key: one for key, one in tensors.items() if not key.startswith(("input.", "expected."))}
    save_file(whole, tmp_path / "whole.safetensors")
    command = ["convert", "ecg-jepa", tmp_path / "whole.safetensors", tmp_path / "whole", *heads]
    assert "give --predictor-num-attention-heads" in _refused(capsys, *command)
    _run(*command, "--predictor-num-attention-heads", metadata["predictor_heads"])
    pretraining = AutoModelForPreTraining.from_pretrained(tmp_path / "whole").eval()
    with torch.no_grad():
        loss = pretraining(tensors["input.signals"], bool_masked_pos=tensors["input.time_mask"]).loss
    torch.testing.assert_close(loss, tensors["expected.loss"].reshape(()), atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("system", "option"),
    [
        ("ecg-jepa", ["--labels", "MI", "NORM"]),
        ("ecg-jepa", ["--cls-attention", "lead"]),
        ("ecg-jepa", ["--decoder-num-attention-heads", "4"]),
        ("clear-hug", ["--predictor-num-attention-heads", "4"]),
    ],
)
def test_when_an_option_of_the_other_system_is_given_then_it_is_refused(
    system: str, option: list[str], tmp_path: Path, capsys: Capture
) -> None:
    said = _refused(capsys, "convert", system, tmp_path / "not looked at.pth", tmp_path / "out", *option)
    assert said == f"{system} takes no {option[0]}: leave it out"
