"""Metrics equal scikit-learn's, intervals are those of a bootstrap over patients, and nothing is averaged silently."""

from __future__ import annotations

import json

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score

from clear_hug_hf.evaluation.metrics import (
    evaluate_predictions,
    macro_auroc,
    macro_auroc_difference,
    patient_weights,
    weighted_auroc,
    weighted_average_precision,
)
from clear_hug_hf.processing import InputError


@pytest.fixture
def case() -> tuple[np.ndarray, np.ndarray]:
    """Labels and rounded, hence often tied, probabilities of 300 recordings."""
    rng = np.random.default_rng(0)
    labels = (rng.random((300, 4)) < [0.5, 0.2, 0.1, 0.03]).astype(float)
    return labels, np.round(0.7 * rng.random((300, 4)) + 0.2 * labels, 2)


def test_when_scores_are_tied_then_metrics_equal_sklearn(case: tuple[np.ndarray, np.ndarray]) -> None:
    labels, probabilities = case
    result = evaluate_predictions(labels, probabilities, list("abcd"), num_samples=0)
    assert result["macro_auroc"]["value"] == pytest.approx(roc_auc_score(labels, probabilities))
    assert result["macro_average_precision"]["value"] == pytest.approx(average_precision_score(labels, probabilities))
    for column, name in enumerate("abcd"):
        entry = result["per_label"][name]
        assert entry["auroc"]["value"] == pytest.approx(roc_auc_score(labels[:, column], probabilities[:, column]))
        assert entry["num_positive"] == labels[:, column].sum()
    assert result["macro_auroc"]["low"] is None


@pytest.mark.parametrize(
    ("metric", "reference"),
    [(weighted_auroc, roc_auc_score), (weighted_average_precision, average_precision_score)],
)
def test_when_recordings_weigh_differently_then_metrics_equal_those_of_the_repeated_sample(
    case: tuple[np.ndarray, np.ndarray], metric, reference
) -> None:
    labels, scores = case[0][:, 1], case[1][:, 1]
    weights = np.random.default_rng(1).integers(0, 4, (5, 300))
    expected = [reference(np.repeat(labels, row), np.repeat(scores, row)) for row in weights]
    np.testing.assert_allclose(metric(labels, scores, weights), expected)


def test_when_patients_are_resampled_then_their_recordings_move_together() -> None:
    patients = ["a", "a", "b", None, None, "b"]
    weights = patient_weights(patients, 400, seed=3)
    assert (weights[:, 0] == weights[:, 1]).all()
    assert (weights[:, 2] == weights[:, 5]).all()
    assert (weights[:, 3] != weights[:, 4]).any()
    # Four patients are drawn, of whom each is expected once.
    assert (weights[:, [0, 2, 3, 4]].sum(axis=1) == 4).all()
    np.testing.assert_allclose(weights.mean(axis=0), 1.0, atol=0.2)


def test_when_patients_repeat_then_the_interval_is_that_of_the_patients() -> None:
    rng = np.random.default_rng(0)
    labels = (rng.random((60, 1)) < 0.5).astype(float)
    scores = rng.random((60, 1)) + 0.5 * labels
    alone = evaluate_predictions(labels, scores, ["a"], [str(index) for index in range(60)])
    tenfold = evaluate_predictions(
        np.repeat(labels, 10, axis=0), np.repeat(scores, 10, axis=0), ["a"], [str(index // 10) for index in range(600)]
    )
    naive = evaluate_predictions(np.repeat(labels, 10, axis=0), np.repeat(scores, 10, axis=0), ["a"])
    widths = [result["macro_auroc"]["high"] - result["macro_auroc"]["low"] for result in (alone, tenfold, naive)]
    assert widths[1] == pytest.approx(widths[0], rel=0.15)
    assert widths[2] < 0.5 * widths[1]


def test_when_the_normal_theory_is_known_then_the_interval_agrees() -> None:
    rng = np.random.default_rng(4)
    labels = np.repeat([0.0, 1.0], 500)[:, None]
    scores = rng.normal(labels, 1.0)
    result = evaluate_predictions(labels, scores, ["a"], num_samples=2000)["macro_auroc"]
    area = result["value"]
    # Hanley and McNeil, Radiology 1982, equation 2.
    q1, q2 = area / (2 - area), 2 * area**2 / (1 + area)
    error = np.sqrt((area * (1 - area) + 499 * (q1 - area**2) + 499 * (q2 - area**2)) / 500**2)
    assert result["high"] - result["low"] == pytest.approx(2 * 1.96 * error, rel=0.1)
    assert result["low"] < area < result["high"]


def test_when_a_label_has_one_class_then_it_is_named_and_left_out(case: tuple[np.ndarray, np.ndarray]) -> None:
    labels, probabilities = case
    labels = labels.copy()
    labels[:, 1], labels[:, 2] = 0.0, 1.0
    result = evaluate_predictions(labels, probabilities, list("abcd"), num_samples=50)
    assert result["left_out"] == ["b", "c"]
    assert result["per_label"]["b"]["auroc"] is None
    kept = [0, 3]
    assert result["macro_auroc"]["value"] == pytest.approx(roc_auc_score(labels[:, kept], probabilities[:, kept]))
    assert macro_auroc(labels, probabilities) == pytest.approx(result["macro_auroc"]["value"])
    json.dumps(result, allow_nan=False)


def test_when_no_label_has_both_classes_then_there_is_no_metric() -> None:
    result = evaluate_predictions(np.zeros((5, 2)), np.full((5, 2), 0.5), ["a", "b"])
    assert result["macro_auroc"] is None
    assert result["left_out"] == ["a", "b"]
    assert np.isnan(macro_auroc(np.zeros((5, 2)), np.full((5, 2), 0.5)))


def test_when_most_samples_lack_a_class_then_no_interval_is_made_up() -> None:
    labels = np.eye(4)
    result = evaluate_predictions(labels, labels, list("abcd"), list("wxyz"))
    assert result["macro_auroc"] == {"value": 1.0, "low": None, "high": None}


def test_when_labels_are_unknown_then_they_count_for_nothing(case: tuple[np.ndarray, np.ndarray]) -> None:
    labels, probabilities = case[0].copy(), case[1]
    labels[::3, 0] = np.nan
    known = ~np.isnan(labels[:, 0])
    result = evaluate_predictions(labels, probabilities, list("abcd"), num_samples=20)
    expected = roc_auc_score(labels[known, 0], probabilities[known, 0])
    assert result["per_label"]["a"]["auroc"]["value"] == pytest.approx(expected)


def test_when_a_probability_is_not_finite_then_it_is_refused(case: tuple[np.ndarray, np.ndarray]) -> None:
    probabilities = case[1].copy()
    probabilities[7, 2] = np.nan
    with pytest.raises(InputError, match=r"1 recording.* row 7"):
        evaluate_predictions(case[0], probabilities, list("abcd"))


def test_when_shapes_differ_then_they_are_refused(case: tuple[np.ndarray, np.ndarray]) -> None:
    with pytest.raises(InputError, match="do not belong together"):
        evaluate_predictions(case[0], case[1][:, :3], list("abcd"))
    with pytest.raises(InputError, match="no recordings"):
        evaluate_predictions(np.empty((0, 1)), np.empty((0, 1)), ["a"])


def test_when_two_models_are_compared_then_the_interval_is_paired(case: tuple[np.ndarray, np.ndarray]) -> None:
    labels, probabilities = case
    same = macro_auroc_difference(labels, probabilities, probabilities)
    assert same == {"value": 0.0, "low": 0.0, "high": 0.0}
    worse = probabilities + np.random.default_rng(1).normal(0, 0.05, probabilities.shape)
    result = macro_auroc_difference(labels, probabilities, worse)
    assert result["value"] == pytest.approx(macro_auroc(labels, probabilities) - macro_auroc(labels, worse))
    alone = evaluate_predictions(labels, probabilities, list("abcd"))["macro_auroc"]
    assert result["high"] - result["low"] < 0.7 * (alone["high"] - alone["low"])


def test_when_a_label_is_a_number_to_be_predicted_then_it_is_refused_by_name() -> None:
    labels = np.array([[1.0, 61.5], [0.0, 72.0]])
    with pytest.raises(InputError, match="the label 'rate' has values other than 1 and 0"):
        evaluate_predictions(labels, np.full((2, 2), 0.5), ["af", "rate"])
