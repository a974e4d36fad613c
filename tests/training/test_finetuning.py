"""Fine-tuning trains the right parts, keeps the best epoch, and refuses what would give a wrong number."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pytest
import torch
from transformers import AutoModelForSequenceClassification, set_seed

from clear_hug_hf.data.collator import BeatCollator
from clear_hug_hf.data.preparation import prepare
from clear_hug_hf.data.records import Recording
from clear_hug_hf.evaluation.metrics import macro_auroc
from clear_hug_hf.evaluation.predictions import predict
from clear_hug_hf.modeling import ClearHugConfig, ClearHugForSequenceClassification
from clear_hug_hf.processing import ClearHugFeatureExtractor, InputError
from clear_hug_hf.training.finetuning import FinetuningArguments, HeadOnly, encode, finetune


LABELS = ("fast", "inverted")
SMALL = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}


def _model(**overrides: Any) -> ClearHugForSequenceClassification:
    set_seed(0)
    labels = {"id2label": dict(enumerate(LABELS)), "label2id": {name: index for index, name in enumerate(LABELS)}}
    return ClearHugForSequenceClassification(ClearHugConfig.preset("tiny", **SMALL, **labels, **overrides))


def _recipe(**overrides: Any) -> FinetuningArguments:
    return FinetuningArguments(**{"epochs": 8, "batch_size": 8, "progress": False, **overrides})


@pytest.fixture(scope="module")
def sets(make_recordings: Callable[..., list[Recording]]) -> tuple[datasets.Dataset, datasets.Dataset]:
    extractor, recordings = ClearHugFeatureExtractor(), make_recordings(36)
    train = [recording for recording in recordings if recording.split == "train"]
    validation = [recording for recording in recordings if recording.split == "validation"]
    return (
        prepare(train, extractor, LABELS, progress=False).dataset,
        prepare(validation, extractor, LABELS, progress=False).dataset,
    )


Sets = tuple[datasets.Dataset, datasets.Dataset]


def test_when_the_encoder_is_frozen_then_only_the_head_learns(sets: Sets, tmp_path: Path) -> None:
    model = _model()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    result = finetune(model, *sets, ClearHugFeatureExtractor(), tmp_path, _recipe())
    assert result.model is model
    for name, tensor in model.state_dict().items():
        assert torch.equal(before[name], tensor) == name.startswith("clear_hug."), name
    assert all(parameter.requires_grad for parameter in model.parameters())

    scores = [row["validation_macro_auroc"] for row in result.history]
    ranks = [(row["validation_macro_auroc"], -row["validation_loss"]) for row in result.history]
    assert result.best_epoch == 1 + ranks.index(max(ranks))
    found = predict(model, sets[1], ClearHugFeatureExtractor())
    assert found.labels is not None
    assert macro_auroc(found.labels, found.probabilities) == pytest.approx(max(scores))

    loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path / "model")
    assert loaded.config.id2label == {0: "fast", 1: "inverted"}
    for name, tensor in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor)


def test_when_features_are_computed_once_then_the_logits_are_the_models(sets: Sets) -> None:
    model, collator = _model().eval(), BeatCollator(ClearHugFeatureExtractor(), label_names=LABELS)
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
    recipe = _recipe(freeze_encoder=False, epochs=3)
    assert recipe.head_learning_rate == 1e-3
    finetune(model, *sets, ClearHugFeatureExtractor(), arguments=recipe)
    moved = {name: not torch.equal(parameter, before[name]) for name, parameter in model.named_parameters()}
    assert all(moved.values()), [name for name, it_did in moved.items() if not it_did]


def test_when_seeds_are_equal_then_runs_are(sets: Sets) -> None:
    runs = [finetune(_model(), *sets, ClearHugFeatureExtractor(), arguments=_recipe(epochs=3)) for _ in range(2)]
    assert runs[0].history == runs[1].history
    assert torch.equal(runs[0].model.classifier.weight, runs[1].model.classifier.weight)


def test_when_nothing_gets_better_then_training_stops(sets: Sets) -> None:
    result = finetune(_model(), *sets, ClearHugFeatureExtractor(), arguments=_recipe(epochs=200, patience=2))
    assert len(result.history) == result.best_epoch + 2


def test_when_patients_are_on_both_sides_then_it_is_refused(sets: Sets, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"24 patient.* split by patient"):
        finetune(_model(), sets[0], sets[0], ClearHugFeatureExtractor(), tmp_path / "run", _recipe())
    assert not (tmp_path / "run").exists()


def test_when_labels_do_not_fit_the_model_then_they_are_named(
    sets: Sets, make_recordings: Callable[..., list[Recording]]
) -> None:
    extractor = ClearHugFeatureExtractor()
    more = prepare(make_recordings(4), extractor, (*LABELS, "paced"), progress=False).dataset
    with pytest.raises(InputError, match="training recordings have the label 'paced' and the model does not"):
        finetune(_model(), more, sets[1], extractor, arguments=_recipe())
    unlabelled = prepare(make_recordings(4), extractor, progress=False).dataset
    with pytest.raises(InputError, match="the model has the label 'fast' and the training recordings do not"):
        finetune(_model(), unlabelled, sets[1], extractor, arguments=_recipe())


def test_when_labels_are_numbers_to_be_predicted_then_they_are_refused(
    make_recordings: Callable[..., list[Recording]], tmp_path: Path
) -> None:
    recordings = make_recordings(4)
    for recording in recordings:
        recording.labels = dict.fromkeys(LABELS, 63.5)
    numbers = prepare(recordings, ClearHugFeatureExtractor(), LABELS, progress=False).dataset
    with pytest.raises(InputError, match=r"value 63\.5 for the label .* labels that are 1 or 0"):
        finetune(_model(), numbers, numbers, ClearHugFeatureExtractor(), tmp_path / "run", _recipe())
    assert not (tmp_path / "run").exists()


def test_when_there_is_nothing_to_learn_or_choose_by_then_it_is_refused(sets: Sets) -> None:
    extractor = ClearHugFeatureExtractor()
    with pytest.raises(InputError, match="no validation recordings"):
        finetune(_model(), sets[0], sets[1].select([]), extractor, arguments=_recipe())
    with pytest.raises(InputError, match="nothing to choose by"):
        finetune(_model(), sets[0], sets[1].select([0]), extractor, arguments=_recipe())
    with pytest.raises(InputError, match="multi-label"):
        finetune(_model(problem_type="regression"), *sets, extractor, arguments=_recipe())
    with pytest.raises(InputError, match="epochs is 0"):
        FinetuningArguments(epochs=0)
