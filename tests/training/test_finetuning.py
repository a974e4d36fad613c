"""Fine-tuning trains the right parts, keeps the best epoch, and refuses what would give a wrong number."""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import datasets
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from small_models import LABELS, make_model
from torch import nn
from transformers import AutoModelForSequenceClassification, TrainerCallback

from clear_hug_hf import ClearHugFeatureExtractor, ClearHugForSequenceClassification
from clear_hug_hf.data import augmentation
from clear_hug_hf.data.collator import EcgCollator
from clear_hug_hf.data.preparation import prepare
from clear_hug_hf.data.records import Recording
from clear_hug_hf.evaluation.metrics import choose_thresholds, macro_auroc
from clear_hug_hf.evaluation.predictions import predict
from clear_hug_hf.evaluation.protocol import STRENGTHS
from clear_hug_hf.modeling.modeling_clear_hug import ClearHugPreTrainedModel
from clear_hug_hf.modeling.modeling_ecg import EcgForSequenceClassification, EcgModelOutput
from clear_hug_hf.processing import RHYTHM_FEATURES, InputError
from clear_hug_hf.training import finetuning, processes
from clear_hug_hf.training.features import encode, known_labels, linear_features
from clear_hug_hf.training.finetuning import (
    FinetuningArguments,
    HeadOnly,
    finetune,
    make_optimizer,
    parameter_depths,
    positive_weights,
)
from clear_hug_hf.training.folders import load_classifier, load_for_finetuning, save_model_folder
from clear_hug_hf.training.pretraining import check_compatible


def _model(**overrides: Any) -> ClearHugForSequenceClassification:
    labels = {"id2label": dict(enumerate(LABELS)), "label2id": {name: index for index, name in enumerate(LABELS)}}
    return make_model(ClearHugForSequenceClassification, **{**labels, **overrides})


def _recipe(**overrides: Any) -> FinetuningArguments:
    return FinetuningArguments(
        **{"num_train_epochs": 8, "per_device_train_batch_size": 8, "disable_tqdm": True, **overrides}
    )


@pytest.fixture(scope="module")
def sets(make_rows: Callable[[int], datasets.Dataset]) -> tuple[datasets.Dataset, datasets.Dataset]:
    """Recordings of 24 patients for training and of 6 for validation."""
    rows = make_rows(36)
    train, validation = (np.flatnonzero(np.array(rows["split"]) == split) for split in ("train", "validation"))
    return rows.select(train), rows.select(validation)


Sets = tuple[datasets.Dataset, datasets.Dataset]


def _finetune(
    sets: Sets,
    folder: Path | None = None,
    model: Any = None,
    restart: bool = False,
    cache_dir: Any = None,
    **recipe: Any,
) -> Any:
    """Train a new model, or the given one; what else is given are fields of the recipe."""
    extractor, arguments = ClearHugFeatureExtractor(), _recipe(**recipe)
    return finetune(model or _model(), *sets, extractor, folder, arguments, restart=restart, cache_dir=cache_dir)


def test_when_the_encoder_is_frozen_then_only_the_head_learns(sets: Sets, tmp_path: Path) -> None:
    model = _model()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    result = _finetune(sets, tmp_path, model)
    assert result.model is model
    for name, tensor in model.state_dict().items():
        assert torch.equal(before[name], tensor) == name.startswith("clear_hug."), name
    assert all(parameter.requires_grad for parameter in model.parameters())

    scores = [row["validation_macro_auroc"] for row in result.history]
    ranks = [(round(row["validation_macro_auroc"], 6), -row["validation_loss"]) for row in result.history]
    assert result.best_epoch == 1 + ranks.index(max(ranks))
    found = predict(model, sets[1], ClearHugFeatureExtractor())
    assert found.labels is not None
    assert macro_auroc(found.labels, found.probabilities) == pytest.approx(max(scores))

    loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path / "model")
    assert loaded.config.id2label == {0: "fast", 1: "inverted"}
    chosen = choose_thresholds(found.labels, found.probabilities)
    assert [loaded.config.label_thresholds[name] for name in LABELS] == pytest.approx(chosen)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["finetuning.json", "finetuning_log.csv", "model"]
    for name, tensor in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor)


def test_when_a_calibrated_classifier_is_trained_on_then_its_calibration_and_familiarity_are_removed(
    sets: Sets, tmp_path: Path
) -> None:
    calibration = {name: [0.5, 4.0] for name in LABELS}
    model = _model(label_calibration=calibration, familiarity={"num_rows": 12, "pooled_rank": 1})
    result = _finetune(sets, tmp_path, model, num_train_epochs=1)
    assert result.model.config.label_calibration is None
    found = predict(result.model, sets[1], ClearHugFeatureExtractor())
    assert found.labels is not None
    chosen = choose_thresholds(found.labels, found.probabilities)
    assert [model.config.label_thresholds[name] for name in LABELS] == pytest.approx(chosen)
    assert not any("familiarity" in name for name in model.state_dict())
    saved = AutoModelForSequenceClassification.from_pretrained(tmp_path / "model")
    assert (saved.familiarity, saved.config.familiarity, saved.config.label_calibration) == (None, None, None)


@pytest.mark.parametrize("names", [(), RHYTHM_FEATURES])
def test_when_features_are_computed_once_then_the_logits_are_the_models(sets: Sets, names: tuple[str, ...]) -> None:
    model = _model(rhythm_features=names).eval()
    if names:
        nn.init.normal_(model.rhythm_classifier.weight)
    collator = EcgCollator(ClearHugFeatureExtractor(rhythm_features=names), label_names=LABELS)
    encoded = encode(model, sets[1], collator, batch_size=4)
    batch = collator([sets[1][index] for index in range(len(sets[1]))])
    with torch.no_grad():
        expected = model(**batch)
        output = HeadOnly(model)(**encoded.columns)
    torch.testing.assert_close(output["logits"], expected.logits, atol=1e-5, rtol=0)
    torch.testing.assert_close(output["loss"], expected.loss)


def test_when_the_whole_model_is_trained_then_the_encoder_learns_too(sets: Sets) -> None:
    model = _model()
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    recipe = _recipe(method="full", num_train_epochs=3)
    assert recipe.head_learning_rate == 1e-3
    _finetune(sets, model=model, method="full", num_train_epochs=3)
    moved = {name: not torch.equal(parameter, before[name]) for name, parameter in model.named_parameters()}
    assert all(moved.values()), [name for name, it_did in moved.items() if not it_did]


@pytest.mark.parametrize(
    "recipe",
    [{}, {"precompute": False}, {"method": "full"}, {"method": "lora"}],
    ids=["frozen", "each", "full", "lora"],
)
def test_when_a_classifier_reads_the_rhythm_then_every_method_trains_it_and_it_tells_fast_hearts(
    sets: Sets, recipe: dict[str, Any], tmp_path: Path
) -> None:
    if recipe.get("method") == "lora":
        pytest.importorskip("peft")
    model, extractor = _model(rhythm_features=["log_rate"]), ClearHugFeatureExtractor(rhythm_features=["log_rate"])
    finetune(model, *sets, extractor, tmp_path, _recipe(num_train_epochs=4, **recipe))
    fast = LABELS.index("fast")
    assert model.rhythm_classifier.weight[fast] > 0
    # From the rhythm alone, and from what was saved.
    loaded, saved = load_classifier(tmp_path / "model")
    assert (loaded.config.rhythm_features, saved.rhythm_features) == (["log_rate"], ["log_rate"])
    with torch.no_grad():
        loaded.classifier.weight.zero_()
    found = predict(loaded, sets[1], saved)
    assert found.labels is not None
    assert macro_auroc(found.labels[:, [fast]], found.probabilities[:, [fast]]) == 1
    with pytest.raises(InputError, match=r"rhythm features was \['log_rate'\] and is now None"):
        finetune(_model(), *sets, ClearHugFeatureExtractor(), tmp_path, _recipe(num_train_epochs=4, **recipe))


def test_when_only_one_of_model_and_extractor_has_rhythm_features_then_it_is_refused(sets: Sets) -> None:
    for model, names in ((_model(rhythm_features=["log_rate"]), []), (_model(), ["log_rate"])):
        with pytest.raises(InputError, match="the feature extractor has rhythm_features"):
            finetune(model, *sets, ClearHugFeatureExtractor(rhythm_features=names), None, _recipe())


def test_when_a_new_head_is_put_on_a_classifier_that_reads_the_rhythm_then_it_reads_it_only_if_asked(
    tmp_path: Path,
) -> None:
    extractor = ClearHugFeatureExtractor(rhythm_features=RHYTHM_FEATURES)
    save_model_folder(tmp_path, _model(rhythm_features=RHYTHM_FEATURES), extractor)
    for names in ([], ["log_rate"]):
        model, extractor = load_for_finetuning(tmp_path, ["a"], **({"rhythm_features": names} if names else {}))
        assert model.config.rhythm_features == extractor.rhythm_features == names
        assert (model.rhythm_classifier is None) == (not names)


def test_when_nothing_gets_better_then_training_stops(sets: Sets) -> None:
    result = _finetune(sets, num_train_epochs=200, early_stopping_patience=2)
    assert len(result.history) == result.best_epoch + 2


def test_when_patients_are_on_both_sides_then_it_is_refused(sets: Sets, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"24 patient.* split by patient"):
        _finetune((sets[0], sets[0]), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_when_labels_do_not_fit_the_model_then_they_are_named(
    sets: Sets, make_recordings: Callable[..., list[Recording]]
) -> None:
    extractor = ClearHugFeatureExtractor()
    more = prepare(make_recordings(4), extractor, (*LABELS, "paced"), progress=False).dataset
    with pytest.raises(InputError, match="training recordings have the label 'paced', but the model does not"):
        _finetune((more, sets[1]))
    unlabeled = prepare(make_recordings(4), extractor, progress=False).dataset
    with pytest.raises(InputError, match="the model has the label 'fast', but the training recordings do not"):
        _finetune((unlabeled, sets[1]))


def test_when_labels_are_numbers_to_be_predicted_then_they_are_refused(
    make_recordings: Callable[..., list[Recording]], tmp_path: Path
) -> None:
    recordings = make_recordings(4)
    for recording in recordings:
        recording.labels = dict.fromkeys(LABELS, 63.5)
    numbers = prepare(recordings, ClearHugFeatureExtractor(), LABELS, progress=False).dataset
    with pytest.raises(InputError, match=r"value 63\.5 for the label .* labels must be 1 or 0"):
        _finetune((numbers, numbers), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_when_there_is_nothing_to_learn_or_choose_by_then_it_is_refused(sets: Sets) -> None:
    with pytest.raises(InputError, match="no validation recordings"):
        _finetune((sets[0], sets[1].select([])))
    with pytest.raises(InputError, match="so the epoch cannot be chosen"):
        _finetune((sets[0], sets[1].select([0])))
    with pytest.raises(InputError, match="multi-label"):
        _finetune(sets, model=_model(problem_type="regression"))
    with pytest.raises(InputError, match="epochs is 0"):
        FinetuningArguments(num_train_epochs=0)


# ------------------------------------------------------------------------------------------------------------ methods


def test_when_features_are_kept_then_the_probe_is_that_of_an_encoder_that_runs_every_epoch(
    sets: Sets, tmp_path: Path
) -> None:
    runs = [
        _finetune(sets, cache_dir=cache, num_train_epochs=3, **how)
        for how, cache in (({"precompute": False}, None), ({}, None), ({}, tmp_path), ({}, tmp_path))
    ]
    assert len(list(tmp_path.glob("*.safetensors"))) == 2
    slow = runs[0].model.state_dict()
    for run in runs[1:]:
        assert run.best_epoch == runs[0].best_epoch
        for name, tensor in run.model.state_dict().items():
            torch.testing.assert_close(tensor, slow[name], atol=1e-5, rtol=0)


def test_when_the_head_reads_tokens_then_a_frozen_encoder_reads_every_batch(sets: Sets, tmp_path: Path) -> None:
    model = _model(head_type="attention")
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    result = _finetune(sets, tmp_path / "run", model, cache_dir=tmp_path / "cache", num_train_epochs=3)
    for name, tensor in model.state_dict().items():
        assert torch.equal(before[name], tensor) == name.startswith("clear_hug."), name
    assert not (tmp_path / "cache").exists(), "features of leads do not serve it"
    found = predict(model, sets[1], ClearHugFeatureExtractor())
    assert found.labels is not None
    best = result.history[result.best_epoch - 1]["validation_macro_auroc"]
    assert macro_auroc(found.labels, found.probabilities) == pytest.approx(best)
    assert load_classifier(tmp_path / "run")[0].head.query.equal(model.head.query)


def test_when_lora_trains_then_the_merged_model_needs_no_peft(sets: Sets, tmp_path: Path) -> None:
    pytest.importorskip("peft")
    model = _model()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    _finetune(sets, tmp_path, model, method="lora", num_train_epochs=2, lora_rank=2)
    assert model.state_dict().keys() == before.keys()
    assert all(parameter.requires_grad for parameter in model.parameters())
    for name, tensor in model.state_dict().items():
        change = tensor - before[name]
        if name.startswith("clear_hug.") and name.endswith(("q_proj.weight", "k_proj.weight", "o_proj.weight")):
            assert torch.linalg.matrix_rank(change, rtol=1e-3) == 2, name
        elif name.startswith("clear_hug.") and "v_proj.weight" not in name:
            assert torch.equal(tensor, before[name]), name
    loaded, _ = load_classifier(tmp_path)
    inputs = EcgCollator(ClearHugFeatureExtractor(), label_names=LABELS)([sets[1][0], sets[1][1]])
    with torch.no_grad():
        torch.testing.assert_close(loaded(**inputs).logits, model(**inputs).logits)


def test_when_peft_is_absent_then_lora_explains_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"pip install 'clear-hug-hf\[lora\]'"):
        _recipe(method="lora")


def test_when_rates_decay_by_layer_then_each_layer_has_its_own() -> None:
    model = _model(num_hidden_layers=3)
    recipe = _recipe(method="full", encoder_learning_rate=1.0, head_learning_rate=8.0, layer_decay=0.5)
    rate_of = {
        id(parameter): group["lr"]
        for group in make_optimizer(model, recipe).param_groups
        for parameter in group["params"]
    }
    for name, parameter in model.named_parameters():
        inside = name.removeprefix("clear_hug.")
        wanted = 8.0
        if inside != name:
            wanted = {"embeddings": 0.125, "layers.0": 0.25, "layers.1": 0.5, "layers.2": 1.0, "norm": 1.0}[
                ".".join(inside.split(".")[:2]) if inside.startswith("layers") else inside.split(".")[0]
            ]
        assert rate_of[id(parameter)] == pytest.approx(wanted), name
    depths = parameter_depths(_model(num_hidden_layers=12).base_model)
    assert (depths["layers.11.fc1.weight"], depths["layers.1.fc1.weight"], depths["embeddings.cls_token"]) == (
        0,
        10,
        12,
    )
    frozen = make_optimizer(model, _recipe()).param_groups
    trained = {id(parameter) for group in frozen for parameter in group["params"]}
    assert trained == {id(parameter) for part in (model.head, model.classifier) for parameter in part.parameters()}


class _Stages(ClearHugPreTrainedModel):
    """A convolutional encoder of beats: a stem, stages of one or two convolutions each, and perhaps a linear map."""

    linear = False

    def __init__(self, config: Any):
        super().__init__(config)
        width = config.hidden_size
        self.stem = nn.Conv1d(config.beat_length, width, 1)
        self.stages = nn.ModuleList(
            nn.ModuleDict({"layers": nn.ModuleList(nn.Conv1d(width, width, 1) for _ in range(count))})
            for count in (1, 2)
        )
        self.mixer = nn.Linear(width, width) if self.linear else nn.Identity()
        self.post_init()

    def forward(self, input_values: torch.Tensor, **_: Any) -> EcgModelOutput:
        states = self.stem(input_values.flatten(1, 2).transpose(1, 2))
        for stage in self.stages:
            for layer in stage["layers"]:
                states = states + layer(states.relu())
        states = self.mixer(states.transpose(1, 2))
        pooled, present = states.mean(dim=1), torch.ones(len(states), 1, dtype=torch.bool)
        return EcgModelOutput(states, pooled, pooled[:, None], present_leads=present)


class _Mixer(_Stages):
    linear = True

    def depth_groups(self) -> list[list[str]]:
        return [["stem.weight"], ["stages.0", "stages.1.layers.0"], ["stages.1.layers.1", "mixer"]]


class _StagesClassifier(ClearHugPreTrainedModel, EcgForSequenceClassification):
    encoder_class = _Stages

    def forward(self, input_values: torch.Tensor, labels: torch.Tensor | None = None, **_: Any) -> Any:
        return self.classify(self.clear_hug(input_values), labels)


class _MixerClassifier(_StagesClassifier):
    encoder_class = _Mixer


def _convolutional(model_class: Any) -> Any:
    labels = {"id2label": dict(enumerate(LABELS)), "label2id": {name: index for index, name in enumerate(LABELS)}}
    return make_model(model_class, head_type="mean", **labels)


@pytest.mark.parametrize(
    ("model_class", "expected"),
    [
        (_StagesClassifier, {"stem": 2, "stages.0.layers.0": 1, "stages.1.layers.0": 0, "stages.1.layers.1": 0}),
        (
            _MixerClassifier,
            {"stem": 2, "stages.0.layers.0": 1, "stages.1.layers.0": 1, "stages.1.layers.1": 0, "mixer": 0},
        ),
    ],
)
def test_when_an_encoder_has_stages_or_groups_of_its_own_then_rates_decay_by_them(
    model_class: Any, expected: dict[str, int]
) -> None:
    model = _convolutional(model_class)
    depths = parameter_depths(model.base_model)
    assert {name.rpartition(".")[0]: depth for name, depth in depths.items()} == expected
    recipe = _recipe(method="full", encoder_learning_rate=1.0, head_learning_rate=8.0, layer_decay=0.5)
    names = {id(parameter): name for name, parameter in model.base_model.named_parameters()}
    for group in make_optimizer(model, recipe).param_groups:
        for parameter in group["params"]:
            depth = depths.get(names.get(id(parameter), ""))
            assert group["lr"] == (8.0 if depth is None else 0.5**depth)


def test_when_an_encoder_has_no_attention_then_lora_updates_its_linear_maps(sets: Sets) -> None:
    pytest.importorskip("peft")
    model = _convolutional(_MixerClassifier)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    _finetune(sets, None, model, method="lora", num_train_epochs=1, lora_rank=2)
    moved = {name for name, tensor in model.state_dict().items() if not tensor.equal(before[name])}
    assert moved == {"clear_hug.mixer.weight", "classifier.weight", "classifier.bias"}


def test_when_an_encoder_has_no_linear_maps_then_lora_is_refused_before_any_work(sets: Sets, tmp_path: Path) -> None:
    pytest.importorskip("peft")
    with pytest.raises(
        InputError,
        match=r'^LoRA updates linear maps, but the encoder of _StagesClassifier has none: use the method "frozen" or '
        r'"full"$',
    ):
        _finetune(sets, tmp_path / "run", _convolutional(_StagesClassifier), method="lora")
    assert not (tmp_path / "run").exists()


def test_when_classes_are_weighted_then_the_loss_is_that_of_repeated_recordings(sets: Sets) -> None:
    labels = torch.tensor([[1.0, 0.0], [0.0, 0.0], [0.0, float("nan")], [0.0, 0.0], [0.0, 0.0]])
    torch.testing.assert_close(positive_weights(labels), torch.tensor([4.0, 1.0]))
    assert positive_weights(torch.eye(1000))[0] == 100.0
    model = _model()
    logits = torch.randn(5, 2)
    recipe = _recipe(class_weights="balanced")
    with finetuning._class_weights(model, HeadOnly(model), labels, recipe):
        weighted = model.loss_function(labels, logits, model.config)
    first = F.binary_cross_entropy_with_logits(
        torch.cat([logits[:1, 0].repeat(4), logits[1:, 0]]), torch.tensor([1.0] * 4 + [0.0] * 4), reduction="sum"
    )
    known = torch.tensor([0, 1, 3, 4])
    second = F.binary_cross_entropy_with_logits(logits[known, 1], labels[known, 1], reduction="sum")
    torch.testing.assert_close(weighted, (first + second) / 9)
    # Afterwards the model has its own loss again.
    assert model.loss_function(labels, logits, model.config) != weighted

    plain = _finetune(sets, num_train_epochs=1)
    balanced = _finetune(sets, num_train_epochs=1, class_weights="balanced")
    assert not torch.equal(plain.model.classifier.weight, balanced.model.classifier.weight)


# ---------------------------------------------------------------------------------------------------------- regression


def _logistic_model(**overrides: Any) -> ClearHugForSequenceClassification:
    return _model(head_type="mean", **overrides)


@pytest.mark.parametrize("names", [[], ["log_rate", RHYTHM_FEATURES[-1]]])
def test_when_a_logistic_regression_is_fitted_then_the_folder_has_the_logits_of_scikit_learn(
    names: list[str], sets: Sets, tmp_path: Path
) -> None:
    unknown = sets[0].map(lambda row, index: {"labels": row["labels"] | ({"fast": None} if index < 3 else {})}, True)
    model, extractor = _logistic_model(rhythm_features=names), ClearHugFeatureExtractor(rhythm_features=names)
    before = {name: tensor.clone() for name, tensor in model.base_model.state_dict().items()}
    result = finetune(model, unknown, sets[1], extractor, tmp_path, _recipe(method="logistic"))
    assert all(tensor.equal(before[name]) for name, tensor in model.base_model.state_dict().items())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["finetuning.json", "finetuning_log.csv", "model"]

    loaded, extractor = load_classifier(tmp_path)
    collator = EcgCollator(extractor, label_names=LABELS)
    encoded = [encode(loaded, rows, collator) for rows in (unknown, sets[1])]
    features, labels = ([reads(part) for part in encoded] for reads in (linear_features, known_labels))
    with torch.no_grad():
        logits = loaded(**{name: part for name, part in collator(list(sets[1])).items() if name != "labels"}).logits
    assert result.strength in STRENGTHS
    scaler = StandardScaler().fit(features[0].astype(np.float64))
    for column, truth in enumerate(labels[0].T):
        known = ~np.isnan(truth)
        regression = LogisticRegression(C=result.strength, tol=1e-10, max_iter=10_000)
        regression.fit(scaler.transform(features[0].astype(np.float64))[known], truth[known] > 0.5)
        expected = regression.decision_function(scaler.transform(features[1].astype(np.float64)))
        np.testing.assert_allclose(logits[:, column], expected, atol=1e-5)
    best = max(result.history, key=lambda row: row["validation_macro_auroc"])
    assert best["strength"] == result.strength
    assert best["validation_macro_auroc"] == pytest.approx(macro_auroc(labels[1], logits.numpy()))
    assert features[0].shape[1] == model.config.hidden_size + len(names)
    model = _logistic_model(rhythm_features=names)
    again = finetune(model, unknown, sets[1], extractor, tmp_path, _recipe(method="logistic", num_train_epochs=3))
    assert (again.finished_before, again.strength, again.history) == (True, result.strength, result.history)


def test_when_a_label_has_one_class_then_its_regression_is_a_constant(sets: Sets) -> None:
    rows = [index for index, row in enumerate(sets[0]["labels"]) if not row["inverted"]]
    model = _finetune(
        (sets[0].select(rows), sets[1]), model=_logistic_model(), method="logistic", allow_absent_labels=True
    ).model
    assert not model.classifier.weight[1].any()
    assert model.classifier.bias[1].item() == pytest.approx(-np.log(2 * len(rows) + 1))


def test_when_another_head_or_class_weights_are_asked_for_then_there_is_no_regression(sets: Sets) -> None:
    with pytest.raises(InputError, match="is solved for the head mean, but the model's is hug"):
        _finetune(sets, method="logistic")
    with pytest.raises(InputError, match="has no class weights"):
        _recipe(method="logistic", class_weights="balanced")


# ------------------------------------------------------------------------------------------------------------- resume


class _Kill(TrainerCallback):
    """Stops a run in the middle of an epoch, as a kill would."""

    def __init__(self, step: int):
        self.step = step

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == self.step:
            raise KeyboardInterrupt


def _killed_at(step: int, monkeypatch: pytest.MonkeyPatch, sets: Sets, folder: Path, **recipe: Any) -> None:
    with monkeypatch.context() as patch:
        trainer = finetuning.FinetuningTrainer
        patch.setattr(
            finetuning,
            "FinetuningTrainer",
            lambda callbacks, **kwargs: trainer(callbacks=[*callbacks, _Kill(step)], **kwargs),
        )
        with pytest.raises(KeyboardInterrupt):
            _finetune(sets, folder, **recipe)


@pytest.mark.parametrize("method", ["frozen", "full", "lora"])
def test_when_a_run_is_killed_then_the_same_call_goes_on_to_the_same_weights(
    method: str, sets: Sets, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = {"method": method, "num_train_epochs": 4}
    if method == "lora":
        pytest.importorskip("peft")
    whole = _finetune(sets, tmp_path / "whole", **recipe)
    _killed_at(8, monkeypatch, sets, tmp_path / "killed", **recipe)  # three steps an epoch
    assert not (tmp_path / "killed" / "model").exists()
    (tmp_path / "killed").rename(tmp_path / "moved")
    _killed_at(11, monkeypatch, sets, tmp_path / "moved", **recipe)
    (tmp_path / "moved").rename(tmp_path / "killed")
    # What a kill in the middle of a checkpoint leaves.
    (tmp_path / "killed" / "checkpoints" / "checkpoint-12").mkdir()
    with monkeypatch.context() as patch:
        patch.setattr(finetuning.FinetuningTrainer, "_load_best_model", Mock(side_effect=KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            _finetune(sets, tmp_path / "killed", **recipe)
    # No checkpoint follows that would tell where the best one is now.
    killed = (tmp_path / "killed").rename(tmp_path / "moved again")
    resumed = _finetune(sets, killed, **recipe)
    assert resumed.history == whole.history
    assert resumed.best_epoch == whole.best_epoch
    for name, tensor in resumed.model.state_dict().items():
        assert torch.equal(tensor, whole.model.state_dict()[name]), name
    assert sorted(path.name for path in killed.iterdir()) == [
        "finetuning.json",
        "finetuning_log.csv",
        "model",
    ]


def test_when_a_run_is_finished_then_the_same_call_trains_nothing(
    sets: Sets, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = _finetune(sets, tmp_path, num_train_epochs=2)
    assert not first.finished_before
    with monkeypatch.context() as patch:
        patch.setattr(finetuning, "train_with_trainer", None)
        again = _finetune(sets, tmp_path, num_train_epochs=2)
    assert again.finished_before
    assert again.history == first.history
    assert torch.equal(again.model.classifier.weight, first.model.classifier.weight)
    (tmp_path / "model" / "model.safetensors").unlink()
    with pytest.raises(
        InputError, match="already holds this run, but its model is missing or damaged: start over with --restart"
    ):
        _finetune(sets, tmp_path, num_train_epochs=2)
    anew = _finetune(sets, tmp_path, num_train_epochs=3, restart=True)
    assert len(anew.history) == 3


def test_when_a_model_is_trained_then_only_thresholds_and_problem_type_are_new_in_the_config(sets: Sets) -> None:
    for method in ("frozen", "full"):
        model = _model()
        before = model.config.to_dict()
        _finetune(sets, model=model, num_train_epochs=1, method=method)
        after = model.config.to_dict()
        assert set(after.pop("label_thresholds")) == set(LABELS)
        assert after.pop("problem_type") == "multi_label_classification"
        for name in ("label_thresholds", "problem_type"):
            before.pop(name)
        assert after == before


def test_when_a_folder_holds_another_run_then_it_explains_what_differs(sets: Sets, tmp_path: Path) -> None:
    _finetune(sets, tmp_path, num_train_epochs=1)
    before = (tmp_path / "model" / "model.safetensors").read_bytes()
    with pytest.raises(
        InputError, match=r"contains a different fine-tuning run \(the recipe: num_train_epochs was 1 and is now 2\)"
    ):
        _finetune(sets, tmp_path, num_train_epochs=2)
    with pytest.raises(InputError, match="mismatch in the training recordings"):
        _finetune((sets[0].select(range(20)), sets[1]), tmp_path, num_train_epochs=1)
    other = _model()
    with torch.no_grad():
        other.clear_hug.norm.weight[0] += 1e-3
    with pytest.raises(InputError, match="mismatch in the model: encoder"):
        _finetune(sets, tmp_path, other, num_train_epochs=1)
    assert (tmp_path / "model" / "model.safetensors").read_bytes() == before


def test_when_one_bit_of_a_checkpoint_flips_then_the_run_does_not_go_on_from_it_but_from_it_as_it_was(
    sets: Sets, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _killed_at(8, monkeypatch, sets, tmp_path, num_train_epochs=3)
    newest = tmp_path / "checkpoints" / "checkpoint-6"
    # What a kill leaves while Trainer removes an older checkpoint.
    shutil.copytree(newest, newest.with_name("checkpoint-1"))
    (newest.with_name("checkpoint-1") / "model.safetensors").unlink()
    content = (newest / "model.safetensors").read_bytes()
    (newest / "model.safetensors").write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(InputError, match=r"checkpoint-6/model\.safetensors was changed.*--restart"):
        _finetune(sets, tmp_path, num_train_epochs=3)
    (newest / "model.safetensors").write_bytes(content)
    assert len(_finetune(sets, tmp_path, num_train_epochs=3).history) == 3


def test_when_it_computes_in_bfloat16_then_weights_stay_in_float32_and_a_cpu_is_enough(sets: Sets) -> None:
    found = _finetune(sets, method="full", num_train_epochs=1, bf16=True)
    assert {one.dtype for one in found.model.parameters()} == {torch.float32}
    plain = _finetune(sets, method="full", num_train_epochs=1)
    losses = [one.history[0]["validation_loss"] for one in (found, plain)]
    assert losses[0] != losses[1]
    assert losses[0] == pytest.approx(losses[1], rel=0.02)


def test_when_processes_are_not_connected_then_none_of_them_trains(
    sets: Sets, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    # As on a machine with a GPU, where Accelerate needs no option.
    monkeypatch.setattr(processes, "launched_on_cpus", lambda: False)
    with pytest.raises(InputError, match="2 processes were launched, but 1 are connected"):
        _finetune(sets, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_when_a_process_sees_several_devices_then_it_trains_on_one_with_the_batch_that_was_asked_for(
    sets: Sets, monkeypatch: pytest.MonkeyPatch
) -> None:
    class OnFourDevices(finetuning.TrainingArguments):  # type: ignore[misc]
        def __post_init__(self) -> None:
            super().__post_init__()
            self._n_gpu = 4

    seen: list[tuple[int, int]] = []

    def watched(self: Any, *args: Any, **kwargs: Any) -> None:
        seen.append((self.args.n_gpu, self._train_batch_size))
        raise KeyboardInterrupt

    monkeypatch.setattr(finetuning, "TrainingArguments", OnFourDevices)
    monkeypatch.setattr(finetuning.FinetuningTrainer, "train", watched)
    with pytest.raises(KeyboardInterrupt):
        _finetune(sets, num_train_epochs=1)
    assert seen == [(1, _recipe().per_device_train_batch_size)]


def test_when_devices_are_idle_then_a_message_explains_how_to_use_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: 4)
    assert processes.unused_devices("start {count}") == "one of 4 devices is used: start 4"
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert processes.unused_devices("start {count}") is None
    monkeypatch.delenv("WORLD_SIZE")
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: 1)
    assert processes.unused_devices("start {count}") is None


# ---------------------------------------------------------------------------------------------------------- bad input


def test_when_a_label_is_absent_from_training_then_it_is_named(sets: Sets) -> None:
    rows = [index for index, row in enumerate(sets[0]["labels"]) if not row["inverted"]]
    with pytest.raises(InputError, match=r"the label\(s\) inverted cannot be learned.* `--labels fast`"):
        _finetune((sets[0].select(rows), sets[1]))
    assert _finetune((sets[0].select(rows), sets[1]), num_train_epochs=1, allow_absent_labels=True).history


def test_when_rate_or_leads_are_not_the_models_then_both_are_named(sets: Sets) -> None:
    with pytest.raises(InputError, match=r"has sampling_rate 100\.0 and the model 250"):
        _finetune(sets, model=_model(sampling_rate=250))
    six = ["I", "II", "III", "V1", "V3", "V5"]
    with pytest.raises(InputError, match=r"returns 12 leads \(.*\), but the model reads 6 \(I, II"):
        _finetune(sets, model=_model(lead_names=six))
    other = ClearHugFeatureExtractor(sampling_rate=250)
    with pytest.raises(InputError, match="prepared at 100 Hz, but the model reads 250 Hz"):
        check_compatible(_model(sampling_rate=250).config, other, sets[0])


def test_when_outputs_are_nan_then_training_stops_with_an_error(sets: Sets, tmp_path: Path) -> None:
    model = _model()
    with torch.no_grad():
        model.classifier.weight[0, 0] = np.nan
    with pytest.raises(InputError, match="outputs are NaN or infinite: lower the learning rate"):
        _finetune(sets, tmp_path / "run", model)
    assert not (tmp_path / "run" / "model").exists()


@pytest.mark.parametrize(("lowest", "end"), [(None, 0.0), (1e-4, 1e-4)])
def test_when_a_lowest_rate_is_set_then_the_cosine_ends_there(
    sets: Sets, lowest: float | None, end: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    rates: list[float] = []

    def watched(*arguments: Any) -> torch.optim.Optimizer:
        optimizer = make_optimizer(*arguments)
        optimizer.register_step_pre_hook(lambda *_: rates.append(optimizer.param_groups[0]["lr"]))
        return optimizer

    monkeypatch.setattr(finetuning, "make_optimizer", watched)
    _finetune(sets, min_learning_rate=lowest, early_stopping_patience=8)
    steps, warmup = len(rates), int(0.1 * len(rates))
    by_hand = [
        end + (5e-3 - end) * (1 + np.cos(np.pi * step / (steps - warmup))) / 2 for step in range(steps - warmup)
    ]
    assert rates[warmup:] == pytest.approx(by_hand)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("method", "freeze", "method is 'freeze': choose from frozen, full, lora, logistic"),
        ("class_weights", "auto", "choose from none, balanced"),
        ("layer_decay", 1.5, "must be at most 1"),
        ("per_device_train_batch_size", 0, "per_device_train_batch_size is 0: it must be greater than 0"),
        ("augmentation", 1.0, "a frozen encoder reads each recording once"),
        ("head_learning_rate", -1.0, "must be greater than 0"),
        ("min_learning_rate", 5e-3, "it must be below head_learning_rate, 0.005"),
    ],
)
def test_when_a_field_of_the_recipe_is_wrong_then_it_is_named(field: str, value: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        FinetuningArguments(**{field: value})


def test_when_training_recordings_are_augmented_then_they_change_and_validation_ones_do_not(
    sets: Sets, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    change = augmentation.augment_recording

    def watch(signal: np.ndarray, *rest: Any) -> Any:
        seen.append(signal.shape[1])
        return change(signal, *rest)

    monkeypatch.setattr(augmentation, "augment_recording", watch)
    result = _finetune(sets, method="full", num_train_epochs=2, augmentation=1.0)
    assert len(seen) == 2 * len(sets[0])
    plain = _finetune(sets, method="full", num_train_epochs=2)
    again = _finetune(sets, method="full", num_train_epochs=2, augmentation=1.0)
    weights = [one.model.classifier.weight for one in (result, plain, again)]
    assert not torch.equal(weights[0], weights[1])
    assert torch.equal(weights[0], weights[2])
