"""Predictions keep rows and labels in order, and the groups' contributions add up to the logits."""

from __future__ import annotations

from collections.abc import Callable

import datasets
import numpy as np
import pytest
import torch

from clear_hug_hf import ClearHugConfig, ClearHugFeatureExtractor, ClearHugForSequenceClassification
from clear_hug_hf.data.collator import EcgCollator
from clear_hug_hf.data.label_sets import LABEL_MAPS, LABEL_SETS
from clear_hug_hf.data.preparation import prepare
from clear_hug_hf.data.records import Recording
from clear_hug_hf.evaluation.metrics import macro_auroc
from clear_hug_hf.evaluation.predictions import (
    LabeledPredictions,
    Predictions,
    auroc_drop,
    contributions_by_label,
    map_predictions,
    predict,
)
from clear_hug_hf.inference.classifier_outputs import group_contributions, group_names, model_thresholds
from clear_hug_hf.processing import InputError


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
    rows = EcgCollator(extractor, label_names=(), all_beats=True)([dataset[4]])
    # Its 18 beats are more than the model holds.
    assert rows.pop("rows").tolist() == [0, 0]
    with torch.no_grad():
        alone = model(**rows).logits.sigmoid().mean(dim=0).numpy()
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
    limb, augmented, chest = "I/II/III", "aVR/aVL/aVF", "V1-V6"
    pairs = [f"{limb} + {augmented}", f"{augmented} + {chest}", f"{limb} + {chest}"]
    assert group_names(ClearHugConfig.preset("tiny")) == [limb, augmented, chest, *pairs, "all leads"]


def test_when_recordings_have_several_windows_then_each_counts_once_with_their_mean() -> None:
    found = Predictions(
        label_names=["a", "b"],
        record_ids=["w", "x", "w", "x", "w"],
        patient_ids=[None, "p", None, "p", None],
        probabilities=np.array([[0.1, 0.2], [0.5, 0.5], [0.4, 0.2], [0.7, 0.1], [0.7, 0.2]], dtype=np.float32),
        labels=np.array([[1.0, np.nan], [0.0, 1.0], [1.0, np.nan], [0.0, 1.0], [1.0, np.nan]]),
        contributions=np.arange(5 * 7 * 2, dtype=np.float32).reshape(5, 7, 2),
    )
    together = found.by_recording()
    assert (together.record_ids, together.patient_ids) == (["w", "x"], [None, "p"])
    np.testing.assert_allclose(together.probabilities, [[0.4, 0.2], [0.6, 0.3]], rtol=1e-6)
    np.testing.assert_array_equal(together.labels, [[1.0, np.nan], [0.0, 1.0]])
    np.testing.assert_allclose(together.contributions[1], found.contributions[[1, 3]].mean(axis=0))
    assert together.by_recording().probabilities is together.probabilities


def test_when_a_model_states_how_windows_are_combined_then_each_label_has_its_own_way() -> None:
    found = Predictions(
        label_names=["AF", "PVC"],
        record_ids=["a", "b", "a"],
        patient_ids=["p", "q", "p"],
        probabilities=np.array([[0.2, 0.1], [0.5, 0.6], [0.4, 0.9]], dtype=np.float32),
        aggregate=["mean", "max"],
    )
    together = found.by_recording()
    np.testing.assert_allclose(together.probabilities, [[0.3, 0.9], [0.5, 0.6]], rtol=1e-6)
    assert together.probabilities.dtype == np.float32


def test_when_contributions_are_compared_by_label_then_it_is_with_minus_without() -> None:
    contributions = np.arange(4 * 7 * 1, dtype=float).reshape(4, 7, 1)
    found = Predictions(
        ["a"], list("wxyz"), [None] * 4, np.zeros((4, 1)), np.array([[1.0], [0.0], [1.0], [np.nan]]), contributions
    )
    np.testing.assert_allclose(
        contributions_by_label(found)[0], (contributions[0] + contributions[2])[:, 0] / 2 - contributions[1, :, 0]
    )
    found.contributions = None
    with pytest.raises(InputError, match="whose head reads lead groups"):
        contributions_by_label(found)


def test_when_a_dataset_cannot_be_predicted_then_it_is_refused(dataset: datasets.Dataset) -> None:
    with pytest.raises(InputError, match="label 'inverted', which the model lacks: its labels are fast"):
        predict(_model(("fast", "slow")), dataset, ClearHugFeatureExtractor())
    with pytest.raises(InputError, match="no recordings"):
        predict(_model(("fast", "inverted")), dataset.select([]), ClearHugFeatureExtractor())


def test_when_one_label_excludes_the_others_then_probabilities_sum_to_one(dataset: datasets.Dataset) -> None:
    model = _model(("fast", "inverted"), problem_type="single_label_classification", head_type="mean")
    found = predict(model, dataset, ClearHugFeatureExtractor())
    np.testing.assert_allclose(found.probabilities.sum(axis=1), 1.0, atol=1e-6)
    assert found.contributions is None


def test_when_a_model_has_thresholds_then_they_are_in_the_order_of_its_labels() -> None:
    config = ClearHugConfig.preset("tiny", id2label={0: "b", 1: "a", 2: "c"}, label2id={"b": 0, "a": 1, "c": 2})
    assert model_thresholds(config) == [0.5, 0.5, 0.5]
    config.label_thresholds = {"a": 0.25, "c": 0.75}
    assert model_thresholds(config) == [0.5, 0.25, 0.75]


MAPPING = {"block": ("left", "right"), "fast": ("fast",)}
FOUND = Predictions(
    label_names=["fast", "left", "right"],
    record_ids=list("wxyz"),
    patient_ids=["p", "p", None, "q"],
    probabilities=np.array([[0.1, 0.2, 0.3], [0.9, 0.8, 0.7], [0.5, 0.1, 0.6], [0.4, 0.4, 0.4]]),
)


def test_when_labels_are_joined_then_one_is_found_where_any_member_is() -> None:
    truth = np.array([[0.0, 1.0], [1.0, 0.0], [np.nan, 0.0], [0.0, np.nan]])
    mapped = map_predictions(FOUND, truth, ["fast", "block"], [0.5, 0.4, 0.3], MAPPING, split="test")
    assert mapped.label_names == ["block", "fast"]
    # A label by itself keeps its probability and threshold.
    np.testing.assert_array_equal(mapped.probabilities[:, 1], FOUND.probabilities[:, 0])
    assert mapped.thresholds == [0.5, 0.5]
    for row, members in zip(mapped.probabilities[:, 0], FOUND.probabilities[:, 1:], strict=True):
        assert (row >= 0.5) == (members >= [0.4, 0.3]).any()
        stretched = [
            0.5 * p / t if p < t else 0.5 + 0.5 * (p - t) / (1 - t) for p, t in zip(members, (0.4, 0.3), strict=True)
        ]
        assert row == pytest.approx(max(stretched))
    np.testing.assert_array_equal(mapped.labels, truth[:, ::-1])
    assert mapped.patient_ids == FOUND.patient_ids
    assert mapped.split == "test"


def test_when_the_truth_is_the_models_then_any_member_is_enough_and_unknown_stays_unknown() -> None:
    known = [[0.0, 0.0, 0.0], [1.0, 0.0, 1.0], [0.0, 1.0, np.nan], [np.nan, 0.0, np.nan]]
    mapped = map_predictions(FOUND, np.array(known), FOUND.label_names, [0.5] * 3, MAPPING, of_model=True)
    np.testing.assert_array_equal(mapped.labels, [[0, 0], [1, 1], [1, 0], [np.nan, np.nan]])


@pytest.mark.parametrize("name", sorted({"ptbxl-cpsc9", "ptbxl-csn", *LABEL_MAPS}))
def test_when_a_map_is_given_by_name_then_all_its_labels_exist(name: str) -> None:
    mapping = LABEL_MAPS[name]
    assert set(mapping) <= set(LABEL_SETS[name.removeprefix("ptbxl-")].names)
    members = [member for several in mapping.values() for member in several]
    assert set(members) <= set(LABEL_SETS["ptbxl_all"].names)
    # No statement means two labels of a source.
    assert len(members) == len(set(members))
    assert all(mapping.values())


def _evaluated(labels: np.ndarray, names: str, seed: int, strength: float = 0.3) -> LabeledPredictions:
    rng = np.random.default_rng(seed)
    scores = np.clip((1 - strength) * rng.random(labels.shape) + strength * np.nan_to_num(labels), 0, 1)
    patients = [f"p{index // 2}" for index in range(len(labels))]
    return LabeledPredictions(list(names), labels, scores, patients, [0.5] * len(names), "test")


def test_when_auroc_is_lost_then_it_is_the_difference_over_the_labels_of_both() -> None:
    rng = np.random.default_rng(0)
    labels = [(rng.random((count, 4)) < 0.4).astype(float) for count in (240, 160)]
    own, other = _evaluated(labels[0], "abcd", 1, 0.5), _evaluated(labels[1], "dcbe", 2, 0.2)
    # b has one class in the model's source, c in the other; a and e are only in one of them.
    own.labels[:, 1], other.labels[:, 1] = 0.0, 1.0
    own.labels[::9, 3] = np.nan
    result = auroc_drop(other, own, num_samples=300)
    assert result["labels"] == ["d"]
    here = macro_auroc(own.labels[:, [3]], own.probabilities[:, [3]])
    there = macro_auroc(other.labels[:, [0]], other.probabilities[:, [0]])
    assert result["own"]["value"] == pytest.approx(here)
    assert result["other"]["value"] == pytest.approx(there)
    assert result["lost"]["value"] == pytest.approx(here - there)
    assert result["per_label"] == {"d": {"own": pytest.approx(here), "other": pytest.approx(there)}}
    assert result["lost"]["low"] < result["lost"]["value"] < result["lost"]["high"]
    # Two independent sources are less certain together than each alone.
    width = {side: result[side]["high"] - result[side]["low"] for side in ("own", "other", "lost")}
    assert width["lost"] > max(width["own"], width["other"])
    assert width["lost"] == pytest.approx(np.hypot(width["own"], width["other"]), rel=0.15)


def test_when_sources_are_the_same_then_nothing_is_lost_up_to_the_interval() -> None:
    labels = (np.random.default_rng(0).random((300, 3)) < 0.4).astype(float)
    one = _evaluated(labels, "abc", 1)
    result = auroc_drop(one, one, num_samples=300)
    assert result["labels"] == ["a", "b", "c"]
    assert result["lost"]["value"] == 0
    assert result["lost"]["low"] < 0 < result["lost"]["high"]
    assert auroc_drop(one, one, num_samples=300) == result


def test_when_sources_share_no_label_with_both_classes_then_nothing_is_compared() -> None:
    labels = np.eye(4)[:, :1]
    result = auroc_drop(_evaluated(labels, "a", 1), _evaluated(labels, "b", 1))
    assert result == {"labels": [], "per_label": {}}
