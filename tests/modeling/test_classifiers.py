"""What the classifiers of all systems owe to transformers alike: losses, Trainer, peft."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch.nn import functional as F
from transformers import PreTrainedModel

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
_VIT = {"model_type": "vit", **_TINY, "image_size": 32, "patch_size": 16}


def _scan_config(**fields: Any) -> EcgScanConfig:
    return EcgScanConfig.preset("tiny", **{"vision_config": _VIT, "image_size": [32, 48], **fields})


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
    "ecg_scan": System(_scan_config, EcgScanForImageClassification, EcgScanModel, "pixel_values", (3, 32, 48)),
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
