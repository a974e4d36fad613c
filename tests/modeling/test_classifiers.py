"""What the classifiers of all systems owe to transformers alike: losses, Trainer, peft."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from torch.utils.data import Dataset
from transformers import EvalPrediction, PreTrainedModel, Trainer, TrainingArguments

from clear_hug_hf.modeling import (
    ClearHugConfig,
    ClearHugForSequenceClassification,
    ClearHugModel,
    EcgJepaConfig,
    EcgJepaForSequenceClassification,
    EcgJepaModel,
    EcgScanConfig,
    EcgScanForImageClassification,
    EcgScanModel,
)


class System(NamedTuple):
    """A system small: how to make its config, its classes, and the name and shape of its input."""

    config: Callable[..., Any]
    classifier: type[PreTrainedModel]
    encoder: type[PreTrainedModel]
    input_name: str
    input_shape: tuple[int, ...]

    def batch(self, size: int = 4) -> dict[str, torch.Tensor]:
        return {self.input_name: torch.randn(size, *self.input_shape)}


_TINY = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}


def _scan(model_type: str) -> System:
    tower = {"model_type": model_type, **_TINY, "image_size": 32, "patch_size": 16}

    def config(**fields: Any) -> EcgScanConfig:
        return EcgScanConfig.preset("tiny", vision_config=tower, image_size=[32, 48], **fields)

    return System(config, EcgScanForImageClassification, EcgScanModel, "pixel_values", (3, 32, 48))


SYSTEMS = {
    "clear_hug": System(
        lambda **fields: ClearHugConfig.preset("tiny", **{**_TINY, **fields}),
        ClearHugForSequenceClassification,
        ClearHugModel,
        "input_values",
        (12, 3, 96),
    ),
    "ecg_jepa": System(
        lambda **fields: EcgJepaConfig.preset("tiny", **{**_TINY, **fields}),
        EcgJepaForSequenceClassification,
        EcgJepaModel,
        "input_values",
        (8, 150),
    ),
    "ecg_scan": _scan("vit"),
    "ecg_scan_clip": _scan("clip_vision_model"),
}


@pytest.fixture(params=SYSTEMS)
def system(request: pytest.FixtureRequest) -> System:
    return SYSTEMS[request.param]


AGES = torch.tensor([[63.0], [41.0], [78.0], [torch.nan]])


@pytest.mark.parametrize(
    ("fields", "labels", "expected"),
    [
        ({"num_labels": 1}, AGES, "regression"),
        ({"num_labels": 1}, AGES[:, 0], "regression"),
        ({"num_labels": 1}, torch.tensor([63, 41, 78, 50]), "regression"),
        ({"num_labels": 1}, torch.tensor([[True], [False], [True], [False]]), "multi_label_classification"),
        ({"id2label": {0: "stemi"}}, torch.tensor([[1.0], [0.0], [1.0], [0.0]]), "multi_label_classification"),
        ({"num_labels": 3}, torch.tensor([0, 2, 1, -100]), "single_label_classification"),
        ({"num_labels": 3}, torch.tensor([[0.0, 1.0, torch.nan]] * 4), "multi_label_classification"),
        ({"num_labels": 3}, torch.tensor([[0, 1, 1]] * 4), "multi_label_classification"),
        ({"num_labels": 2, "problem_type": "regression"}, torch.ones(4, 2), "regression"),
    ],
)
def test_when_the_problem_type_is_not_said_then_the_first_labels_decide(
    system: System, fields: dict[str, Any], labels: torch.Tensor, expected: str, tmp_path: Path
) -> None:
    model = system.classifier(system.config(**fields)).eval()
    output = model(**system.batch(), labels=labels)
    assert model.config.problem_type == expected
    if expected == "single_label_classification":
        wanted = F.cross_entropy(output.logits[:3], labels[:3])
    else:
        truth = labels.view(output.logits.shape).float()
        known = ~truth.isnan()
        loss = F.mse_loss if expected == "regression" else F.binary_cross_entropy_with_logits
        wanted = loss(output.logits[known], truth[known])
    torch.testing.assert_close(output.loss, wanted)
    # A saved model says what its scores are.
    model.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["problem_type"] == expected


@pytest.mark.parametrize("fields", [{"problem_type": "multi_label_classification"}, {"id2label": {0: "age"}}])
def test_when_values_reach_a_loss_of_labels_then_a_sentence_refuses_them(
    system: System, fields: dict[str, Any]
) -> None:
    model = system.classifier(system.config(**{"num_labels": 1, **fields}))
    with pytest.raises(ValueError, match=r"labels must lie between 0 and 1.* problem_type='regression' for values"):
        model(**system.batch(), labels=AGES)


def test_when_a_folder_states_its_problem_type_then_a_single_new_label_keeps_it(
    system: System, tmp_path: Path
) -> None:
    system.encoder(system.config(problem_type="multi_label_classification")).save_pretrained(tmp_path)
    model = system.classifier.from_pretrained(tmp_path, num_labels=1).eval()
    labels = torch.tensor([[1.0], [0.0], [1.0], [0.0]])
    output = model(**system.batch(), labels=labels)
    torch.testing.assert_close(output.loss, F.binary_cross_entropy_with_logits(output.logits, labels))


def test_when_class_numbers_are_not_whole_then_a_sentence_refuses_them(system: System) -> None:
    model = system.classifier(system.config(num_labels=3, problem_type="single_label_classification"))
    with pytest.raises(ValueError, match=r"must be whole numbers, got torch.float32: pass labels.long\(\)"):
        model(**system.batch(), labels=torch.tensor([0.0, 2.7, 1.0, 1.0]))


class Rows(Dataset):
    """Recordings with labels, one at a time, as a Trainer reads them."""

    def __init__(self, system: System, labels: torch.Tensor):
        self.rows = [
            {system.input_name: one, "labels": label}
            for one, label in zip(system.batch(len(labels))[system.input_name], labels, strict=True)
        ]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return self.rows[index]


def _trainer(model: Any, rows: Rows, folder: Path, seen: list[EvalPrediction]) -> Trainer:
    def compute_metrics(prediction: EvalPrediction) -> dict[str, float]:
        seen.append(prediction)
        return {"accuracy": float((prediction.predictions.argmax(axis=1) == prediction.label_ids).mean())}

    arguments = TrainingArguments(
        folder,
        max_steps=2,
        per_device_train_batch_size=4,
        per_device_eval_batch_size=4,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        use_cpu=True,
    )
    return Trainer(model, arguments, train_dataset=rows, eval_dataset=rows, compute_metrics=compute_metrics)


@pytest.mark.parametrize("fields", [{}, {"output_hidden_states": True}], ids=["plain", "states"])
def test_when_a_trainer_computes_metrics_then_predictions_are_the_logits(
    system: System, tmp_path: Path, fields: dict[str, Any]
) -> None:
    rows, seen = Rows(system, torch.tensor([0, 2, 1, 1, 0, 2])), []
    trainer = _trainer(system.classifier(system.config(num_labels=3, **fields)), rows, tmp_path, seen)
    trainer.train()
    assert 0 <= trainer.evaluate()["eval_accuracy"] <= 1
    assert isinstance(seen[0].predictions, np.ndarray)
    assert seen[0].predictions.shape == (6, 3)
    assert trainer.predict(rows).predictions.shape == (6, 3)


@pytest.mark.parametrize("task", ["SEQ_CLS", "FEATURE_EXTRACTION", None])
def test_when_peft_adapts_a_classifier_then_it_trains_and_what_is_saved_gives_the_same(
    system: System, tmp_path: Path, task: str | None
) -> None:
    peft = pytest.importorskip("peft")
    system.classifier(system.config(num_labels=3)).save_pretrained(tmp_path / "base")
    model = system.classifier.from_pretrained(tmp_path / "base")
    adapted = peft.get_peft_model(
        model, peft.LoraConfig(task_type=task, r=2, target_modules=["q_proj", "v_proj"], modules_to_save=["head"])
    )
    rows, seen = Rows(system, torch.tensor([0, 2, 1, 1, 0, 2])), []
    before = {name: one.clone() for name, one in adapted.named_parameters() if one.requires_grad}
    trainer = _trainer(adapted, rows, tmp_path / "trainer", seen)
    trainer.train()
    expected = trainer.predict(rows).predictions
    assert any(not adapted.get_parameter(name).equal(one) for name, one in before.items() if "lora_B" in name)
    adapted.save_pretrained(tmp_path / "adapter")
    again = peft.PeftModel.from_pretrained(
        system.classifier.from_pretrained(tmp_path / "base"), tmp_path / "adapter"
    ).eval()
    batch = {system.input_name: torch.stack([row[system.input_name] for row in rows.rows])}
    with torch.no_grad():
        np.testing.assert_allclose(again(**batch).logits.numpy(), expected, atol=1e-5)


@pytest.mark.parametrize("task", ["FEATURE_EXTRACTION", None])
def test_when_peft_adapts_an_encoder_then_its_states_come_out(system: System, task: str | None) -> None:
    peft = pytest.importorskip("peft")
    encoder = system.encoder(system.config())
    adapted = peft.get_peft_model(encoder, peft.LoraConfig(task_type=task, r=2, target_modules=["q_proj"]))
    adapted(**system.batch()).lead_states.sum().backward()
    assert all(one.grad is not None for one in adapted.parameters() if one.requires_grad)


def test_when_something_of_texts_is_given_then_it_is_refused(system: System) -> None:
    with pytest.raises(ValueError, match="inputs_embeds belongs to texts, which are not read here: leave it out"):
        system.encoder(system.config())(**system.batch(), inputs_embeds=torch.zeros(4, 2, 16))
