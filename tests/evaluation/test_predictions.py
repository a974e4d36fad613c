"""Predictions keep rows and labels in order, and the groups' contributions add up to the logits."""

from __future__ import annotations

from collections.abc import Callable

import datasets
import numpy as np
import pytest
import torch

from clear_hug_hf.data.collator import BeatCollator
from clear_hug_hf.data.preparation import prepare
from clear_hug_hf.data.records import Recording
from clear_hug_hf.evaluation.predictions import (
    Predictions,
    contributions_by_label,
    group_contributions,
    group_names,
    predict,
)
from clear_hug_hf.modeling import ClearHugConfig, ClearHugForSequenceClassification
from clear_hug_hf.processing import ClearHugFeatureExtractor, InputError


def _model(labels: tuple[str, ...], **overrides: object) -> ClearHugForSequenceClassification:
    torch.manual_seed(0)
    config = ClearHugConfig.preset(
        "tiny",
        num_hidden_layers=1,
        id2label=dict(enumerate(labels)),
        label2id={label: index for index, label in enumerate(labels)},
        **overrides,
    )
    model = ClearHugForSequenceClassification(config).eval()
    torch.nn.init.normal_(model.classifier.bias)
    return model


@pytest.fixture(scope="module")
def dataset(make_recordings: Callable[..., list[Recording]]) -> datasets.Dataset:
    return prepare(make_recordings(7), ClearHugFeatureExtractor(), ("fast", "inverted"), progress=False).dataset


def test_when_a_dataset_is_predicted_then_rows_and_labels_are_in_order(dataset: datasets.Dataset) -> None:
    extractor = ClearHugFeatureExtractor()
    model = _model(("inverted", "other", "fast"))
    found = predict(model, dataset, extractor, batch_size=3)
    assert found.record_ids == dataset["record_id"]
    assert found.label_names == ["inverted", "other", "fast"]
    with torch.no_grad():
        alone = model(**BeatCollator(extractor, label_names=())([dataset[4]])).logits.sigmoid()[0].numpy()
    np.testing.assert_allclose(found.probabilities[4], alone, atol=1e-6)
    assert found.labels is not None
    np.testing.assert_array_equal(found.labels[:3], [[1, np.nan, 1], [0, np.nan, 0], [0, np.nan, 1]])


def test_when_contributions_are_summed_then_they_are_the_logits() -> None:
    model = _model(("a", "b"))
    beats = torch.randn(3, 12, 5, 96)
    # A recording without the chest leads has only the first two groups and what follows from them.
    lead_mask = torch.ones(3, 12, dtype=torch.bool)
    lead_mask[1, 6:] = False
    with torch.no_grad():
        output = model(beats, lead_mask=lead_mask)
    contributions = group_contributions(model, output.group_states)
    torch.testing.assert_close(contributions.sum(dim=1) + model.classifier.bias, output.logits)
    assert (contributions[1, 2] == 0).all()


def test_when_groups_are_named_then_they_follow_the_heads_order() -> None:
    assert group_names(ClearHugConfig.preset("tiny")) == [
        "I/II/III",
        "aVR/aVL/aVF",
        "V1-V6",
        "I/II/III + aVR/aVL/aVF",
        "aVR/aVL/aVF + V1-V6",
        "I/II/III + V1-V6",
        "all leads",
    ]


def test_when_contributions_are_compared_by_label_then_it_is_with_minus_without() -> None:
    contributions = np.arange(4 * 7 * 1, dtype=float).reshape(4, 7, 1)
    found = Predictions(
        ["a"], list("wxyz"), [None] * 4, np.zeros((4, 1)), np.array([[1.0], [0.0], [1.0], [np.nan]]), contributions
    )
    np.testing.assert_allclose(
        contributions_by_label(found)[0], (contributions[0] + contributions[2])[:, 0] / 2 - contributions[1, :, 0]
    )
    found.contributions = None
    with pytest.raises(InputError, match="HUG head"):
        contributions_by_label(found)


def test_when_the_model_lacks_a_label_then_it_is_refused(dataset: datasets.Dataset) -> None:
    with pytest.raises(InputError, match="label 'inverted' and the model does not: it knows fast"):
        predict(_model(("fast", "slow")), dataset, ClearHugFeatureExtractor())


def test_when_there_is_nothing_to_predict_then_it_is_refused(dataset: datasets.Dataset) -> None:
    with pytest.raises(InputError, match="no recordings"):
        predict(_model(("fast", "inverted")), dataset.select([]), ClearHugFeatureExtractor())


def test_when_one_label_excludes_the_others_then_probabilities_sum_to_one(dataset: datasets.Dataset) -> None:
    model = _model(("fast", "inverted"), problem_type="single_label_classification", head_type="mean")
    found = predict(model, dataset, ClearHugFeatureExtractor())
    np.testing.assert_allclose(found.probabilities.sum(axis=1), 1.0, atol=1e-6)
    assert found.contributions is None
