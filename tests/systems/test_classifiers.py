"""What the classifiers of all systems owe to transformers alike: losses, Trainer, peft."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from small_systems import SMALL_SYSTEMS, Batch, SmallSystem
from torch.nn import functional as F
from torch.utils.data import Dataset
from transformers import EvalPrediction, PreTrainedModel, Trainer, TrainingArguments

from clear_hug_hf.modeling.modeling_ecg import EcgModelOutput
from clear_hug_hf.training.finetuning import parameter_depths


class Kind(NamedTuple):
    """A system, and the settings that make its form."""

    system: SmallSystem
    fields: dict[str, Any]

    def config(self, **fields: Any) -> Any:
        return self.system.config(**{**self.fields, **fields})

    def classifier(self, **fields: Any) -> PreTrainedModel:
        return self.system.classifier(self.config(**fields))

    def batch(self, size: int = 4) -> Batch:
        return self.system.bare_inputs(size)


KINDS = {name: Kind(system, {}) for name, system in SMALL_SYSTEMS.items()}
# Towers differ in how their layers are called.
KINDS |= {
    f"{name}-{form}": Kind(system, fields)
    for name, system in SMALL_SYSTEMS.items()
    if system.has_towers
    for form, fields in system.forms.items()
}
KINDS |= {f"{name}-attention": Kind(system, {"head_type": "attention"}) for name, system in SMALL_SYSTEMS.items()}


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> Kind:
    torch.manual_seed(0)
    return KINDS[request.param]


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
    kind: Kind, fields: dict[str, Any], labels: torch.Tensor, expected: str, tmp_path: Path
) -> None:
    model = kind.classifier(**fields).eval()
    output = model(**kind.batch(), labels=labels)
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
def test_when_values_reach_a_loss_of_labels_then_a_sentence_refuses_them(kind: Kind, fields: dict[str, Any]) -> None:
    model = kind.classifier(**{"num_labels": 1, **fields})
    with pytest.raises(
        ValueError, match=r"labels must be between 0 and 1.* problem_type='regression' for continuous values"
    ):
        model(**kind.batch(), labels=AGES)


def test_when_a_folder_states_its_problem_type_then_a_single_new_label_keeps_it(kind: Kind, tmp_path: Path) -> None:
    kind.system.encoder(kind.config(problem_type="multi_label_classification")).save_pretrained(tmp_path)
    model = kind.system.classifier.from_pretrained(tmp_path, num_labels=1).eval()
    labels = torch.tensor([[1.0], [0.0], [1.0], [0.0]])
    output = model(**kind.batch(), labels=labels)
    torch.testing.assert_close(output.loss, F.binary_cross_entropy_with_logits(output.logits, labels))


def test_when_class_numbers_are_not_whole_then_a_sentence_refuses_them(kind: Kind) -> None:
    model = kind.classifier(num_labels=3, problem_type="single_label_classification")
    with pytest.raises(
        ValueError, match=r"must be integer class indices .* got torch.float32: convert them with labels.long\(\)"
    ):
        model(**kind.batch(), labels=torch.tensor([0.0, 2.7, 1.0, 1.0]))


@pytest.mark.parametrize(
    ("problem_type", "labels"),
    [
        ("multi_label_classification", torch.full((4, 5), torch.nan)),
        ("regression", torch.full((4, 5), torch.nan)),
        ("single_label_classification", torch.full((4,), -100)),
    ],
)
def test_when_no_label_is_known_then_the_loss_is_zero_with_a_gradient(
    kind: Kind, problem_type: str, labels: torch.Tensor
) -> None:
    model = kind.classifier(num_labels=5, problem_type=problem_type)
    loss = model(**kind.batch(), labels=labels).loss
    assert loss == 0
    loss.backward()
    assert all(one.grad.eq(0).all() for one in model.classifier.parameters())


@pytest.mark.parametrize(
    ("problem_type", "labels"),
    [
        ("multi_label_classification", torch.zeros(4)),
        ("multi_label_classification", torch.zeros(4, 4)),
        ("single_label_classification", torch.zeros(4, 5)),
        ("regression", torch.zeros(4)),
    ],
)
def test_when_labels_have_another_shape_then_they_are_refused(
    kind: Kind, problem_type: str, labels: torch.Tensor
) -> None:
    with pytest.raises(ValueError, match="labels must have shape"):
        kind.classifier(num_labels=5, problem_type=problem_type)(**kind.batch(), labels=labels)


def test_when_a_loss_function_is_assigned_then_it_is_used(kind: Kind) -> None:
    model = kind.classifier(num_labels=5)
    model.loss_function = lambda labels, logits, config, **kwargs: logits.new_tensor(42.0)
    assert model(**kind.batch(), labels=torch.zeros(4, 5)).loss == 42


def _attentive(system: SmallSystem, **fields: Any) -> tuple[Any, Batch, Any]:
    """A classifier with attention pooling, a batch whose second recording lacks something, and its encoding."""
    torch.manual_seed(0)
    model = system.classifier(system.config(head_type="attention", num_labels=3, **fields)).eval()
    with torch.no_grad():
        for parameter in model.head.parameters():
            parameter.normal_()  # so that attention is far from uniform
    batch = system.inputs(system.classifier)
    return model, batch, model.base_model(**batch)


@pytest.mark.parametrize("system", SMALL_SYSTEMS.values(), ids=SMALL_SYSTEMS)
def test_when_a_head_pools_by_attention_then_a_query_reads_the_tokens_that_are_there(system: SmallSystem) -> None:
    model, batch, encoded = _attentive(system)
    head, tokens = model.head, encoded.last_hidden_state
    mask = torch.ones(tokens.shape[:2], dtype=torch.bool) if encoded.token_mask is None else encoded.token_mask
    features = []
    for states, present in zip(tokens, mask, strict=True):
        states = states[present]
        parts = []
        for first in range(0, model.config.hidden_size, head.head_dim):
            rows = slice(first, first + head.head_dim)
            query, key, value = (
                F.linear(given, projection.weight[rows])
                for given, projection in ((head.query[0], head.q_proj), (states, head.k_proj), (states, head.v_proj))
            )
            parts.append((query @ key.T / head.head_dim**0.5).softmax(dim=1) @ value)
        features.append(torch.cat(parts, dim=1)[0])
    expected = model.classifier(torch.stack(features))
    for implementation in ("sdpa", "eager"):
        model.set_attn_implementation(implementation)
        torch.testing.assert_close(model(**batch).logits, expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("system", SMALL_SYSTEMS.values(), ids=SMALL_SYSTEMS)
@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
def test_when_tokens_are_missing_then_attention_pooling_is_that_without_them(
    system: SmallSystem, implementation: str
) -> None:
    model, batch, encoded = _attentive(system)
    model.set_attn_implementation(implementation)
    if encoded.token_mask is None:
        assert "lead_mask" not in batch or encoded.lead_states.shape[1] == 1
        encoded = EcgModelOutput(last_hidden_state=encoded.last_hidden_state)
        encoded.token_mask = torch.ones(encoded.last_hidden_state.shape[:2], dtype=torch.bool)
        encoded.token_mask[1, ::2] = False
    mask = encoded.token_mask
    assert mask[0].any()
    assert not mask[1].all()
    expected, groups = model.head(encoded)
    assert groups is None
    encoded.last_hidden_state = torch.where(mask[..., None], encoded.last_hidden_state, 100.0)
    torch.testing.assert_close(model.head(encoded)[0], expected, atol=1e-6, rtol=1e-6)
    # Of a recording of which nothing is there.
    encoded.token_mask = mask & torch.tensor([[True], [False]])
    feature = model.head(encoded)[0]
    torch.testing.assert_close(feature[0], expected[0], atol=1e-6, rtol=1e-6)
    assert feature[1].eq(0).all()
    gradients = torch.autograd.grad(feature.sum(), list(model.head.parameters()))
    assert all(one.isfinite().all() for one in gradients)


@pytest.mark.parametrize("system", SMALL_SYSTEMS.values(), ids=SMALL_SYSTEMS)
def test_when_an_attention_head_is_saved_then_its_heads_are_too_and_its_encoder_loads_alone(
    system: SmallSystem, tmp_path: Path
) -> None:
    width = system.config().hidden_size
    model, batch, _ = _attentive(system, num_pooling_heads=width // 8)
    assert model.head.head_dim == 8
    assert _attentive(system)[0].head.head_dim == width // 16
    model.save_pretrained(tmp_path)
    again, report = system.classifier.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(report.values())
    torch.testing.assert_close(again.eval()(**batch).logits, model(**batch).logits)
    _, report = system.encoder.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(report.values())
    # A new one on a bare encoder is drawn at random.
    model.base_model.save_pretrained(tmp_path / "encoder")
    fresh, report = system.classifier.from_pretrained(
        tmp_path / "encoder", head_type="attention", num_labels=3, output_loading_info=True
    )
    assert "head.query" in report["missing_keys"]
    assert fresh.head.query.isfinite().all()
    assert 0 < fresh.head.query.std() < 1


@pytest.mark.parametrize("system", SMALL_SYSTEMS.values(), ids=SMALL_SYSTEMS)
def test_when_rates_decay_then_each_group_of_an_encoder_has_parameters_and_the_input_is_in_the_first(
    system: SmallSystem,
) -> None:
    encoder = system.classifier(system.config(num_labels=3)).base_model
    depths = parameter_depths(encoder)
    assert {*depths.values()} == {*range(len(encoder.depth_groups()))}
    inputs = {id(parameter) for parameter in encoder.get_input_embeddings().parameters()}
    names = [name for name, parameter in encoder.named_parameters() if id(parameter) in inputs]
    assert names
    assert {depths[name] for name in names} == {max(depths.values())}


class Rows(Dataset):
    """Recordings with labels, one at a time, as a Trainer reads them."""

    def __init__(self, kind: Kind, labels: torch.Tensor):
        self.rows = [
            {name: one, "labels": label}
            for name, values in kind.batch(len(labels)).items()
            for one, label in zip(values, labels, strict=True)
        ]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return self.rows[index]


def _trainer(model: Any, rows: Rows, folder: Path, seen: list[EvalPrediction], **options: Any) -> Trainer:
    def compute_metrics(prediction: EvalPrediction) -> dict[str, float]:
        seen.append(prediction)
        return {"accuracy": float((prediction.predictions.argmax(axis=1) == prediction.label_ids).mean())}

    options = {"max_steps": 2, "per_device_train_batch_size": 4, "per_device_eval_batch_size": 4, **options}
    quiet = {"save_strategy": "no", "report_to": "none", "disable_tqdm": True, "use_cpu": True}
    arguments = TrainingArguments(folder, **options, **quiet)
    return Trainer(model, arguments, train_dataset=rows, eval_dataset=rows, compute_metrics=compute_metrics)


def test_when_a_trainer_computes_metrics_then_predictions_are_the_logits_even_beside_states(
    kind: Kind, tmp_path: Path
) -> None:
    rows, seen = Rows(kind, torch.tensor([0, 2, 1, 1, 0, 2])), []
    trainer = _trainer(kind.classifier(num_labels=3, output_hidden_states=True), rows, tmp_path, seen)
    trainer.train()
    assert 0 <= trainer.evaluate()["eval_accuracy"] <= 1
    assert isinstance(seen[0].predictions, np.ndarray)
    assert seen[0].predictions.shape == (6, 3)
    assert trainer.predict(rows).predictions.shape == (6, 3)


def test_when_a_trainer_accumulates_gradients_then_they_are_those_of_the_whole_batch(
    kind: Kind, tmp_path: Path
) -> None:
    if kind.system.batch_norms:
        pytest.skip("normalizes each part of a batch by itself")
    still = {
        name: 0.0 for name in ("hidden_dropout_prob", "attention_probs_dropout_prob") if hasattr(kind.config(), name)
    }
    model, rows = kind.classifier(num_labels=3, **still), Rows(kind, torch.tensor([0, 2, 1, 1]))
    logs = []
    for size, steps in ((4, 1), (1, 4)):
        options = {"per_device_train_batch_size": size, "gradient_accumulation_steps": steps, "logging_steps": 1}
        trainer = _trainer(copy.deepcopy(model), rows, tmp_path, [], max_steps=1, **options)
        trainer.train()
        logs.append(trainer.state.log_history[0])
    for name in ("loss", "grad_norm"):
        assert logs[1][name] == pytest.approx(logs[0][name], rel=1e-3)


@pytest.mark.parametrize("task", ["SEQ_CLS", "FEATURE_EXTRACTION", None])
def test_when_peft_adapts_a_classifier_then_it_trains_and_what_is_saved_gives_the_same(
    kind: Kind, tmp_path: Path, task: str | None
) -> None:
    peft = pytest.importorskip("peft")
    kind.classifier(num_labels=3).save_pretrained(tmp_path / "base")
    model = kind.system.classifier.from_pretrained(tmp_path / "base")
    targets, saved = [*kind.system.lora_modules], ["head", *kind.system.batch_norms]
    adapted = peft.get_peft_model(
        model, peft.LoraConfig(task_type=task, r=2, target_modules=targets, modules_to_save=saved)
    )
    rows, seen = Rows(kind, torch.tensor([0, 2, 1, 1, 0, 2])), []
    before = {name: one.clone() for name, one in adapted.named_parameters() if one.requires_grad}
    trainer = _trainer(adapted, rows, tmp_path / "trainer", seen)
    trainer.train()
    expected = trainer.predict(rows).predictions
    assert any(not adapted.get_parameter(name).equal(one) for name, one in before.items() if "lora_B" in name)
    adapted.save_pretrained(tmp_path / "adapter")
    again = peft.PeftModel.from_pretrained(
        kind.system.classifier.from_pretrained(tmp_path / "base"), tmp_path / "adapter"
    ).eval()
    with torch.no_grad():
        np.testing.assert_allclose(again(**kind.batch(6)).logits.numpy(), expected, atol=1e-5)


@pytest.mark.parametrize("task", ["FEATURE_EXTRACTION", None])
def test_when_peft_adapts_an_encoder_then_its_states_come_out(kind: Kind, task: str | None) -> None:
    peft = pytest.importorskip("peft")
    encoder = kind.system.encoder(kind.config())
    adapted = peft.get_peft_model(
        encoder, peft.LoraConfig(task_type=task, r=2, target_modules=[*kind.system.lora_modules[:1]])
    )
    adapted(**kind.batch()).lead_states.sum().backward()
    untouched = {name for name, one in adapted.named_parameters() if one.requires_grad and one.grad is None}
    # What does not see recordings or pages has no part in it.
    assert not [name for name in untouched if "text_model" not in name and "signal_model" not in name]


def test_when_something_of_texts_is_given_then_it_is_refused(kind: Kind) -> None:
    with pytest.raises(
        ValueError, match="inputs_embeds is a text input, which this model does not support: remove it"
    ):
        kind.system.encoder(kind.config())(**kind.batch(), inputs_embeds=torch.zeros(4, 2, 16))


@pytest.mark.parametrize("system", SMALL_SYSTEMS.values(), ids=SMALL_SYSTEMS)
def test_when_a_classifier_reads_the_rhythm_then_its_logits_are_added_to_those_of_the_head(
    system: SmallSystem, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    names, rhythm = ["log_rate", "log_rmssd"], torch.randn(2, 2)
    model = system.classifier(system.config(num_labels=3, rhythm_features=names)).eval()
    plain = system.classifier(system.config(num_labels=3)).eval()
    assert {*model.state_dict()} - {*plain.state_dict()} == {"rhythm_classifier.weight"}
    assert "rhythm_features" not in plain.config.to_dict()
    plain.load_state_dict(model.state_dict(), strict=False)
    batch = system.inputs(system.classifier)
    with torch.no_grad():
        of_head = plain(**batch).logits
        assert model(**batch, rhythm=rhythm).logits.equal(of_head)  # before training
        model.rhythm_classifier.weight.normal_()
        expected = of_head + rhythm @ model.rhythm_classifier.weight.T
    torch.testing.assert_close(model(**batch, rhythm=rhythm).logits, expected)
    model.save_pretrained(tmp_path)
    loaded, report = system.classifier.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(report.values())
    assert loaded.config.rhythm_features == names
    torch.testing.assert_close(loaded.eval()(**batch, rhythm=rhythm).logits, expected)
    # The encoder reads what the same feature extractor returns.
    states = system.encoder.from_pretrained(tmp_path).eval()(**batch, rhythm=rhythm).lead_states
    assert states.equal(loaded.base_model(**batch).lead_states)
    for wrong, message in (
        ({}, r"rhythm is required because config\.rhythm_features of the model is set"),
        ({"rhythm": rhythm[:, :1]}, r"rhythm must have shape \(2, 2\), got \(2, 1\)"),
    ):
        with pytest.raises(ValueError, match=message):
            model(**batch, **wrong)
    with pytest.raises(ValueError, match=r"rhythm was passed, but config\.rhythm_features of the model is empty"):
        plain(**batch, rhythm=rhythm)
