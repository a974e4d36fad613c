"""What the verbs do for ECG-JEPA alone; what they do for every system stands in `test_command_line.py`."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pandas as pd
import pytest
import torch
from huggingface_hub import ModelCard
from released import Released
from safetensors.torch import save_file
from small_systems import SMALL_SYSTEMS
from transformers import (
    AutoFeatureExtractor,
    AutoModel,
    AutoModelForPreTraining,
    AutoModelForSequenceClassification,
    set_seed,
)

from clear_hug_hf import (
    STANDARD_LEADS,
    ClearHugFeatureExtractor,
    EcgJepaConfig,
    EcgJepaFeatureExtractor,
    EcgJepaForPreTraining,
    EcgJepaForSequenceClassification,
    EcgJepaForTokenClassification,
    Recording,
    load_prepared,
    prepare,
    read_record,
)
from clear_hug_hf.data.collator import EcgCollator
from clear_hug_hf.inference.classifier_outputs import label_scores
from clear_hug_hf.inference.records import embed_records
from clear_hug_hf.processing import InputError
from clear_hug_hf.training.features import encode
from clear_hug_hf.training.finetuning import FinetuningArguments, HeadOnly, finetune
from clear_hug_hf.training.folders import save_model_folder
from clear_hug_hf.training.pretraining import PretrainingArguments, check_compatible, pretrain


Capture = pytest.CaptureFixture[str]
Printed = Callable[..., str]
MakeRecordings = Callable[..., list[Recording]]
WriteRecord = Callable[[Path, Recording], Path]
SMALL = SMALL_SYSTEMS["ecg_jepa"].options
CLASSES = {0: "none", 1: "P", 2: "QRS", 3: "T"}
LEADS = ["I", "II", "V1", "V2", "V3", "V4", "V5", "V6"]
REPO = "your-name/ecg-jepa-demo"


Run = Callable[..., None]
Refused = Callable[..., str]


@pytest.fixture(scope="module")
def house(make_house: Callable[[str], Path]) -> Path:
    return make_house("ecg_jepa")


@pytest.fixture(scope="module")
def clear(make_house: Callable[[str], Path]) -> Path:
    return make_house("clear_hug")


@pytest.fixture(scope="module")
def sets(house: Path) -> dict[str, datasets.Dataset]:
    return load_prepared(house / "data")[0]


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


def test_when_prepared_for_ecg_jepa_then_signals_are_as_it_reads_them(
    house: Path, ptbxl_folder: Path, sets: dict[str, datasets.Dataset]
) -> None:
    row = sets["train"].with_format("numpy")[0]
    assert (row["signal"].shape, float(row["sampling_rate"])) == ((12, 2500), 250.0)
    recording = read_record(ptbxl_folder / f"records100/00000/{int(row['record_id']):05d}_lr")
    found = EcgCollator(load_prepared(house / "data")[1])([row])["input_values"]
    expected = EcgJepaFeatureExtractor()(**recording.as_inputs(), return_tensors="pt")["input_values"]
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)


# ------------------------------------------------------------------------------------------------------- pre-training


def test_when_pretrained_then_nothing_collapsed_and_the_teacher_came_along(house: Path) -> None:
    steps = pd.read_csv(house / "pretrained" / "pretraining_steps.csv")
    assert (steps["pooled_std"] > 1e-3).all()
    model = AutoModelForPreTraining.from_pretrained(house / "pretrained" / "model")
    student, teacher = model.ecg_jepa.state_dict(), model.teacher.state_dict()
    moved = {name: (teacher[name] - student[name]).abs().max().item() for name in student}
    assert 0 < max(moved.values()) < 0.1


def _new_model(**overrides: Any) -> EcgJepaForPreTraining:
    set_seed(0)
    return EcgJepaForPreTraining(EcgJepaConfig.preset("tiny", **{**SMALL, "drop_path_rate": 0.0, **overrides}))


def _recipe(**overrides: Any) -> PretrainingArguments:
    return PretrainingArguments(
        **{"num_train_epochs": 2, "train_batch_size": 4, "learning_rate": 2e-3, "disable_tqdm": True, **overrides}
    )


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
            _new_model(),
            odd,
            EcgJepaFeatureExtractor(),
            arguments=_recipe(train_batch_size=9, num_train_epochs=3, **fields),
        )
        for fields in (
            {},
            {"per_device_train_batch_size": 4},
            {"per_device_train_batch_size": 1},
            {"gradient_checkpointing": True},
        )
    ]
    for one in runs[1:]:
        for first, second in zip(runs[0].steps, one.steps, strict=True):
            assert second["loss"] == pytest.approx(first["loss"], abs=1e-5)
            assert second["gradient_norm"] == pytest.approx(first["gradient_norm"], abs=1e-5)
        for first, second in zip(runs[0].model.parameters(), one.model.parameters(), strict=True):
            torch.testing.assert_close(second, first, atol=1e-4, rtol=1e-3)
    other = pretrain(_new_model(), odd, EcgJepaFeatureExtractor(), arguments=_recipe(train_batch_size=9, seed=1))
    assert other.steps[0]["loss"] != pytest.approx(runs[0].steps[0]["loss"], abs=1e-5)


def test_when_the_model_reads_other_leads_and_patches_then_the_recordings_are_cut_so(
    house: Path, tmp_path: Path, run: Run, refused: Refused
) -> None:
    command = ["pretrain", "--data", house / "data", *SMALL_SYSTEMS["ecg_jepa"].words(house), "--num-train-epochs", 1]
    command += ["--train-batch-size", 16, "--disable-tqdm"]
    change = ["--config-overrides", "patch_size=25", "--config-overrides", "lead_names=[V5, II]"]
    run(*command, "--output-dir", tmp_path / "run", *change)
    extractor = AutoFeatureExtractor.from_pretrained(tmp_path / "run" / "model")
    assert (extractor.patch_size, extractor.lead_names, extractor.num_patches) == (25, ["V5", "II"], 100)
    arguments = ["--output-dir", tmp_path / "tuned", "--num-train-epochs", 1, "--no-control", "--no-use-feature-cache"]
    run("finetune", "--data", house / "data", "--model", tmp_path / "run", *arguments)

    said = refused(*command, "--output-dir", tmp_path / "half", "--config-overrides", "num_samples=1250")
    assert "the feature extractor has num_samples 2500 and the model 1250" in said
    with pytest.raises(InputError, match="has patch_size 50 and the model 25"):
        check_compatible(EcgJepaConfig(patch_size=25), EcgJepaFeatureExtractor())
    # Also where nothing says how recordings were prepared.
    with pytest.raises(InputError, match=r"has sampling_rate 100\.0 and the model 250"):
        check_compatible(EcgJepaConfig(), ClearHugFeatureExtractor())
    assert not (tmp_path / "half").exists()


# --------------------------------------------------------------------------------------------------------- classifier


def _classifier() -> EcgJepaForSequenceClassification:
    set_seed(0)
    labels = {"id2label": {0: "fast", 1: "inverted"}, "label2id": {"fast": 0, "inverted": 1}}
    return EcgJepaForSequenceClassification(EcgJepaConfig.preset("tiny", **{**SMALL, "drop_path_rate": 0.0, **labels}))


@pytest.fixture(scope="module")
def validation(make_recordings: MakeRecordings) -> datasets.Dataset:
    """Recordings of other patients."""
    return prepare(make_recordings(24)[12:], EcgJepaFeatureExtractor(), ("fast", "inverted"), progress=False).dataset


def test_when_adapters_are_trained_then_they_are_merged_into_all_projections(
    odd: datasets.Dataset, validation: datasets.Dataset, tmp_path: Path
) -> None:
    pytest.importorskip("peft")
    model = _classifier()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    arguments = FinetuningArguments(
        method="lora", lora_rank=2, num_train_epochs=3, per_device_train_batch_size=4, disable_tqdm=True
    )
    finetune(model, odd, validation, EcgJepaFeatureExtractor(), tmp_path, arguments)
    assert model.state_dict().keys() == before.keys()
    moved = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}
    projections = {name for name in before if name.endswith(tuple(f"{one}_proj.weight" for one in "qkvo"))}
    assert moved == {"classifier.weight", "classifier.bias"} | projections
    for name in projections:
        assert torch.linalg.matrix_rank(model.state_dict()[name] - before[name], rtol=1e-3) == 2
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_when_features_are_computed_once_then_the_head_reads_the_leads_that_are_there(odd: datasets.Dataset) -> None:
    model, collator = _classifier().eval(), EcgCollator(EcgJepaFeatureExtractor(), label_names=("fast", "inverted"))
    encoded = encode(model, odd, collator, batch_size=4)
    assert encoded.columns["present"].sum(dim=1)[[4, 6]].tolist() == [7, 2]
    with torch.no_grad():
        expected = model(**collator(list(odd)))
        output = HeadOnly(model)(**encoded.columns)
    torch.testing.assert_close(output["logits"], expected.logits, atol=1e-5, rtol=0)
    torch.testing.assert_close(output["loss"], expected.loss)


def test_when_benchmarked_then_the_heads_are_those_that_every_model_has_and_all_share_the_control(
    house: Path, tmp_path: Path, run: Run
) -> None:
    other = _new_model(mask_type="random", loss_type="l1", predictor_hidden_size=32)
    save_model_folder(tmp_path / "random", other, EcgJepaFeatureExtractor())
    models = [f"blocks={house / 'pretrained'}", f"times={tmp_path / 'random'}"]
    command = ["benchmark", "--tasks", f"ptb-xl={house / 'data'}", "--models", *models, "--protocols", "probe", "knn"]
    command += ["--fractions", 1, "--seeds", 0, "--probe-epochs", 2, "--no-use-feature-cache"]
    run(*command, "--output-dir", tmp_path / "benchmark")
    rows = pd.read_csv(tmp_path / "benchmark" / "results.csv", dtype={"head": str})
    found = set(zip(rows["model"], rows["protocol"], rows["head"].fillna(""), strict=True))
    assert found == {
        (model, *how) for model in ("blocks", "times", "random") for how in (("probe", "mean"), ("knn", ""))
    }
    table = (tmp_path / "benchmark" / "table.md").read_text()
    ahead = table.split("Difference from the same encoder randomly initialized")[1]
    for model in ("blocks", "times"):
        assert f"| {model}, probe, mean |" in ahead
    assert "no control" not in table


def test_when_systems_are_mixed_in_a_benchmark_then_each_reads_its_own_preparation_of_the_same_rows(
    house: Path, tmp_path: Path, run: Run, refused: Refused, clear: Path
) -> None:
    models = [f"jepa={house / 'pretrained'}", f"clear={clear / 'pretrained'}"]
    command = ["benchmark", "--fractions", 0.5, "--seeds", 0, "--protocols", "knn", "--no-use-feature-cache"]
    both = ["--tasks", f"super={house / 'data'}", f"super={clear / 'data'}"]
    run(*command, *both, "--models", *models, "--output-dir", tmp_path / "mixed")
    mixed = pd.read_csv(tmp_path / "mixed" / "results.csv").set_index("model")
    controls = {"jepa": "random (ecg_jepa)", "clear": "random (clear_hug)"}
    assert len({*mixed["num_test"]}) == len({*mixed["num_train"]}) == 1
    # Each model gets the numbers that it gets alone.
    for model, folder in zip(models, (house, clear), strict=True):
        name = model.partition("=")[0]
        alone = ["--tasks", f"super={folder / 'data'}", "--models", model]
        run(*command, *alone, "--output-dir", tmp_path / name)
        expected = pd.read_csv(tmp_path / name / "results.csv").set_index("model")
        assert mixed.loc[name, "macro_auroc"] == expected.loc[name, "macro_auroc"]
        assert mixed.loc[controls[name], "macro_auroc"] == expected.loc["random", "macro_auroc"]
    assert len(mixed) == 4
    # Each is compared with the random weights of its own form.
    ahead = (tmp_path / "mixed" / "table.md").read_text().split("Difference from the same encoder randomly")[1]
    for name in ("jepa", "clear"):
        difference = 100 * (mixed["macro_auroc"][name] - mixed["macro_auroc"][controls[name]])
        assert f"| {name}, knn | {difference:.1f} (" in ahead
    said = refused(*command, *both[:2], "--models", *models, "--output-dir", tmp_path / "refused")
    assert said.startswith(f"model clear: {house / 'data'} was prepared for another system")
    assert said.endswith("for models of several systems, list a folder for each: super=DIR super=DIR")
    assert not (tmp_path / "refused").exists()


# --------------------------------------------------------------------------------------------------------- recordings


def test_when_leads_or_seconds_are_missing_then_what_is_there_is_read_as_if_it_were_all(
    house: Path, odd_recordings: list[Recording], write_record: WriteRecord, tmp_path: Path, printed_by: Printed
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
        told = json.loads(printed_by("predict", header, "--model", house / "finetuned", "--json"))
        inputs = extractor(**read_record(header).as_inputs(), return_tensors="pt")["input_values"]
        rows = torch.tensor(model.config.lead_indices(leads))
        with torch.no_grad():
            logits = model(inputs[:, rows, :samples], lead_indices=rows).logits
        (probabilities,) = label_scores(model.config, logits.numpy())
        expected = dict(zip(model.config.id2label.values(), probabilities.tolist(), strict=True))
        assert told["probabilities"] == pytest.approx(expected, abs=2e-5), recording.record_id

    (found,) = embed_records(model, extractor, [without_v2], per_lead=True)
    assert np.isnan(found.vectors[0]).all(axis=1).tolist() == [name == "V2" for name in LEADS]


def test_when_no_lead_of_the_model_is_there_then_one_sentence_says_so(
    house: Path, odd_recordings: list[Recording], write_record: WriteRecord, tmp_path: Path, refused: Refused
) -> None:
    header = write_record(tmp_path / "augmented", _with_leads(odd_recordings[0], ["aVR", "aVL"]))
    said = refused("predict", header, "--model", house / "finetuned")
    assert said.endswith(
        "the recording must contain at least one lead of the model (I, II, V1, V2, V3, V4, V5, V6), got aVR, aVL"
    )


# ------------------------------------------------------------------------------------------------------------ the Hub


def test_when_published_then_the_card_tells_of_this_system_alone(house: Path, tmp_path: Path, run: Run) -> None:
    for source in ("finetuned", "pretrained"):
        run("publish", house / source, REPO, "--dry-run", tmp_path / source, "--license", "cc-by-4.0")
    card = ModelCard.load(tmp_path / "finetuned" / "README.md")
    for words in (
        "that predicts 3 labels from 12-lead ECGs, using a linear head on the mean of all leads.",
        "PTB-XL, a large publicly available electrocardiography dataset",
        "**Pre-training** without labels: ECG-JEPA",
        "resampled to 250 Hz with 8 leads (I, II, V1, V2, V3, V4, V5, V6) and divided into patches of 50 samples",
    ):
        assert words in card.text, words
    for words in ("CLEAR", "HUG head", "beats", "R peaks", "band-pass", "2410.13867"):
        assert words not in card.text, words
    card = ModelCard.load(tmp_path / "pretrained" / "README.md")
    for words in (
        "An ECG-JEPA (Kim, with cross-pattern attention) encoder of 12-lead ECGs with the teacher and the predictor",
        "`AutoModelForPreTraining` also loads the teacher and the predictor.",
    ):
        assert words in card.text, words
    assert "decoder" not in card.text


def test_when_a_classifier_of_samples_is_published_then_its_card_does_not_take_it_for_another_model(
    tmp_path: Path, ptbxl_folder: Path, run: Run, refused: Refused
) -> None:
    names = {"id2label": CLASSES, "label2id": {name: place for place, name in CLASSES.items()}}
    model = EcgJepaForTokenClassification(EcgJepaConfig.preset("tiny", **SMALL, **names))
    save_model_folder(tmp_path / "waves", model, EcgJepaFeatureExtractor())
    run("publish", tmp_path / "waves", REPO, "--dry-run", tmp_path / "staged", "--license", "mit")
    card = ModelCard.load(tmp_path / "staged" / "README.md")
    assert "that classifies every sample of every lead of a 12-lead ECG: none, P, QRS, T." in card.text
    assert "model = AutoModelForTokenClassification.from_pretrained" in card.text
    assert card.data.pipeline_tag is None
    record = ptbxl_folder / "records100/00000/00001_lr"
    said = refused("predict", record, "--model", tmp_path / "waves")
    assert "contains a classifier of samples (EcgJepaForTokenClassification), not of recordings" in said


# --------------------------------------------------------------------------------------------------------- conversion


@pytest.fixture(scope="module")
def released(shared: Path) -> Released:
    return Released(shared / "parity" / "official_ecg_jepa_small.safetensors")


def test_when_released_weights_are_converted_then_the_folder_gives_the_released_numbers_and_says_what_it_is(
    released: Released, house: Path, tmp_path: Path, run: Run, refused: Refused, printed_by: Printed
) -> None:
    tensors, encoder = released.tensors, released.part("encoder")
    torch.save({"encoder": encoder, "epoch": 1}, tmp_path / "multiblock_epoch1.pth")
    command = ["convert", "ecg-jepa", tmp_path / "multiblock_epoch1.pth", tmp_path / "converted"]
    assert "is not a released size: pass --num-attention-heads" in refused(*command)
    heads = ["--num-attention-heads", 4]
    assert f"M parameters, {len(encoder)} tensors, all of which are used" in printed_by(*command, *heads)
    model = AutoModel.from_pretrained(tmp_path / "converted").eval()
    with torch.no_grad():
        released.check("representation", model(tensors["input.signals"]).pooler_output)

    facts = json.loads((tmp_path / "converted" / "conversion.json").read_text())
    assert (facts["system"], facts["file"]) == ("ecg-jepa", "multiblock_epoch1.pth")
    card = ModelCard.load(tmp_path / "converted" / "README.md")
    for words in (
        "The released pre-trained ECG-JEPA encoder `multiblock_epoch1.pth`",
        f"(SHA-256 `{facts['sha256']}`)",
        f"{len(encoder)} tensors, all of which are used. The number of attention heads, ",
        "arXiv 2410.08559",
        "Their repository has the MIT license but does not mention the weights",
        "Their results were not reproduced.",
    ):
        assert words in card.text, words
    # Recordings that were resampled otherwise than its weights' are not taken for its own.
    data = ["finetune", "--data", house / "data", "--model", tmp_path / "converted", "--output-dir", tmp_path / "out"]
    assert "--model`" in refused(*data)

    whole = {key: one for key, one in tensors.items() if not key.startswith(("input.", "expected."))}
    save_file(whole, tmp_path / "whole.safetensors")
    command = ["convert", "ecg-jepa", tmp_path / "whole.safetensors", tmp_path / "whole", *heads]
    assert "pass --predictor-num-attention-heads" in refused(*command)
    run(*command, "--predictor-num-attention-heads", 4)
    pretraining = AutoModelForPreTraining.from_pretrained(tmp_path / "whole").eval()
    with torch.no_grad():
        output = pretraining(tensors["input.signals"], bool_masked_pos=tensors["input.time_mask"])
        released.check("loss", output.loss)


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
    system: str, option: list[str], tmp_path: Path, refused: Refused
) -> None:
    said = refused("convert", system, tmp_path / "not looked at.pth", tmp_path / "out", *option)
    assert said == f"{system} has no option {option[0]}: leave it out"
