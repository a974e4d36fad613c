"""Metrics equal scikit-learn's, intervals are those of a bootstrap over patients, and nothing is averaged silently."""

from __future__ import annotations

import json
from functools import partial

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, f1_score, roc_auc_score

from clear_hug_hf.evaluation.metrics import (
    CALIBRATION_BINS,
    METRICS,
    bootstrap_interval,
    choose_thresholds,
    evaluate_predictions,
    macro_auroc,
    macro_auroc_interval,
    macro_auroc_samples,
    patient_weights,
    weighted_auroc,
    weighted_average_precision,
    weighted_calibration_error,
    weighted_f1,
)
from clear_hug_hf.processing import InputError


def _f1(labels: np.ndarray, scores: np.ndarray) -> float:
    return float(f1_score(labels, scores >= 0.4))


def _calibration_error(labels: np.ndarray, scores: np.ndarray) -> float:
    """As Naeini et al. define it, bin by bin; a score on an edge belongs to the upper bin, and 1 to the last."""
    error = 0.0
    for index in range(CALIBRATION_BINS):
        last = index == CALIBRATION_BINS - 1
        low, high = index / CALIBRATION_BINS, (index + 1) / CALIBRATION_BINS
        inside = [low <= score and (score < high or last) for score in scores]
        if any(inside):
            error += abs(scores[inside].mean() - labels[inside].mean()) * sum(inside) / len(scores)
    return error


@pytest.fixture
def case() -> tuple[np.ndarray, np.ndarray]:
    """Labels and rounded, hence often tied, probabilities of 300 recordings."""
    rng = np.random.default_rng(0)
    labels = (rng.random((300, 4)) < [0.5, 0.2, 0.1, 0.03]).astype(float)
    return labels, np.round(0.7 * rng.random((300, 4)) + 0.2 * labels, 2)


def test_when_predictions_are_evaluated_then_metrics_are_those_of_known_labels_with_both_classes(
    case: tuple[np.ndarray, np.ndarray],
) -> None:
    labels, probabilities = np.concatenate([case[0], np.zeros((300, 1)), np.ones((300, 1))], axis=1), case[1]
    labels[::5, 0] = np.nan
    probabilities = np.concatenate([probabilities, probabilities[:, :2]], axis=1)
    thresholds = [0.3, 0.4, 0.5, 0.6, 0.5, 0.5]
    result = evaluate_predictions(labels, probabilities, list("abcdef"), num_samples=100, thresholds=thresholds)
    counted = evaluate_predictions(labels, probabilities, list("abcdef"), num_samples=0, thresholds=thresholds)
    expected: dict[str, list[float]] = {name: [] for name in METRICS}
    for column, name in enumerate("abcd"):
        entry, known = counted["per_label"][name], ~np.isnan(labels[:, column])
        truth, scores = labels[known, column], probabilities[known, column]
        expected["auroc"].append(roc_auc_score(truth, scores))
        expected["average_precision"].append(average_precision_score(truth, scores))
        expected["f1"].append(f1_score(truth, scores >= thresholds[column]))
        expected["calibration_error"].append(_calibration_error(truth, scores))
        assert (entry["threshold"], entry["num_positive"]) == (thresholds[column], truth.sum())
        for metric, values in expected.items():
            assert entry[metric] == {"value": pytest.approx(values[-1]), "low": None, "high": None}
            assert result["per_label"][name][metric]["low"] < result["per_label"][name][metric]["high"]
    for metric, values in expected.items():
        assert counted[f"macro_{metric}"] == {"value": pytest.approx(np.mean(values)), "low": None, "high": None}
    assert macro_auroc(labels, probabilities) == pytest.approx(np.mean(expected["auroc"]))
    assert counted["excluded_labels"] == ["e", "f"]
    assert [counted["per_label"][name]["auroc"] for name in "ef"] == [None, None]
    json.dumps(result, allow_nan=False)
    by_default = evaluate_predictions(labels, probabilities, list("abcdef"), num_samples=0)
    assert {entry["threshold"] for entry in by_default["per_label"].values()} == {0.5}


def test_when_classes_are_missing_then_no_metric_or_interval_is_made_up() -> None:
    zeros, halves = np.zeros((5, 2)), np.full((5, 2), 0.5)
    result = evaluate_predictions(zeros, halves, ["a", "b"])
    assert (result["macro_auroc"], result["excluded_labels"]) == (None, ["a", "b"])
    assert np.isnan(macro_auroc(zeros, halves))
    none = macro_auroc_interval(zeros, [halves])
    assert np.isnan(none.pop("value"))
    assert none == {"low": None, "high": None}
    # Most samples of four patients lack a class.
    few = {"value": 1.0, "low": None, "high": None}
    assert evaluate_predictions(np.eye(4), np.eye(4), list("abcd"), list("wxyz"))["macro_auroc"] == few
    assert macro_auroc_interval(np.eye(4), [np.eye(4)], patient_ids=list("wxyz")) == few


@pytest.mark.parametrize(
    ("metric", "reference"),
    [
        (weighted_auroc, roc_auc_score),
        (weighted_average_precision, average_precision_score),
        (partial(weighted_f1, threshold=0.4), _f1),
        (weighted_calibration_error, _calibration_error),
    ],
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
    scores = (rng.random((60, 1)) + 0.5 * labels) / 1.5
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
    # The logistic function keeps the order of what is normal.
    scores = 1 / (1 + np.exp(-rng.normal(labels, 1.0)))
    result = evaluate_predictions(labels, scores, ["a"], num_samples=2000)["macro_auroc"]
    area = result["value"]
    # Hanley and McNeil, Radiology 1982, equation 2.
    q1, q2 = area / (2 - area), 2 * area**2 / (1 + area)
    error = np.sqrt((area * (1 - area) + 499 * (q1 - area**2) + 499 * (q2 - area**2)) / 500**2)
    assert result["high"] - result["low"] == pytest.approx(2 * 1.96 * error, rel=0.1)
    assert result["low"] < area < result["high"]


def test_when_two_models_are_compared_then_the_interval_is_paired(case: tuple[np.ndarray, np.ndarray]) -> None:
    labels, probabilities = case
    same = macro_auroc_interval(labels, [probabilities], [probabilities])
    assert same == {"value": 0.0, "low": 0.0, "high": 0.0}
    worse = probabilities + np.random.default_rng(1).normal(0, 0.05, probabilities.shape)
    result = macro_auroc_interval(labels, [probabilities], [worse])
    assert result["value"] == pytest.approx(macro_auroc(labels, probabilities) - macro_auroc(labels, worse))
    alone = evaluate_predictions(labels, probabilities, list("abcd"))["macro_auroc"]
    assert result["high"] - result["low"] < 0.7 * (alone["high"] - alone["low"])


def test_when_there_are_several_runs_then_the_interval_is_that_of_their_mean(
    case: tuple[np.ndarray, np.ndarray],
) -> None:
    labels, probabilities = case
    labels = labels.copy()
    labels[::7, 2] = np.nan
    patients = [str(index // 3) for index in range(len(labels))]
    rng = np.random.default_rng(1)
    runs = [probabilities + rng.normal(0, scale, probabilities.shape) for scale in (0.01, 0.1, 0.3)]
    samples = macro_auroc_samples(labels, runs, patients, 50, seed=4)
    # Each sample by itself: the recordings repeated as often as their patient was drawn.
    weights = np.concatenate([np.ones((1, len(labels)), dtype=np.int64), patient_weights(patients, 50, seed=4)])
    expected = [
        np.mean([macro_auroc(np.repeat(labels, row, axis=0), np.repeat(run, row, axis=0)) for run in runs])
        for row in weights[:6]
    ]
    np.testing.assert_allclose(samples[:6], expected)
    assert samples.shape == (51,)

    result = macro_auroc_interval(labels, runs, patient_ids=patients, num_samples=50, seed=4, confidence=0.8)
    low, high = np.quantile(samples[1:], [0.1, 0.9])
    assert result == pytest.approx({"value": samples[0], "low": low, "high": high})
    assert bootstrap_interval(samples, 0.8) == result


def test_when_one_run_is_given_then_its_interval_is_the_evaluations(case: tuple[np.ndarray, np.ndarray]) -> None:
    labels, probabilities = case
    alone = evaluate_predictions(labels, probabilities, list("abcd"), num_samples=300, seed=2)["macro_auroc"]
    assert macro_auroc_interval(labels, [probabilities], num_samples=300, seed=2) == pytest.approx(alone)


def test_when_nothing_is_found_then_f1_is_zero_and_with_one_class_there_is_none() -> None:
    labels, scores = np.array([1.0, 0.0, 0.0]), np.array([0.1, 0.2, 0.3])
    weights = np.array([[1, 1, 1], [0, 1, 1], [1, 0, 0]])
    np.testing.assert_array_equal(weighted_f1(labels, scores, weights), [0.0, np.nan, np.nan])
    np.testing.assert_array_equal(weighted_f1(labels, scores, weights, threshold=0.1), [0.5, np.nan, np.nan])
    # Probabilities may be wrong where no recording, or every recording, has the label.
    np.testing.assert_allclose(weighted_calibration_error(labels, scores, weights), [1.4 / 3, 0.25, 0.9])


def test_when_probabilities_are_certain_then_calibration_is_the_share_of_errors() -> None:
    labels, scores = np.array([1.0, 0.0, 0.0, 1.0]), np.array([1.0, 1.0, 0.0, 1.0])
    # The four weights are those of hits, of one false alarm among three alarms, and of a right "no".
    assert weighted_calibration_error(labels, scores, np.ones((1, 4)))[0] == pytest.approx(0.25)


@pytest.mark.parametrize(("offset", "truth"), [(0.0, 0.0), (0.5, 0.0850), (1.5, 0.2600)])
def test_when_probabilities_are_off_by_a_known_error_then_the_interval_covers_it_and_holds_its_value(
    offset: float, truth: float
) -> None:
    """Normal logits, shifted by `offset`; the truth is what two million recordings have."""
    rng = np.random.default_rng(7)
    found, counted = [], []
    for run in range(40):
        logits = rng.normal(np.log(0.3 / 0.7), 1.5, 183)
        labels = (rng.random(183) < 1 / (1 + np.exp(-logits))).astype(float)[:, None]
        probabilities = 1 / (1 + np.exp(-logits - offset))[:, None]
        result = evaluate_predictions(labels, probabilities, ["a"], num_samples=200, seed=run)
        found.append(result["per_label"]["a"]["calibration_error"])
        # One label is its own mean.
        assert result["macro_calibration_error"] == found[-1]
        counted.append(weighted_calibration_error(labels[:, 0], probabilities[:, 0], np.ones((1, 183)))[0])
    assert all(0 <= one["low"] <= one["value"] <= one["high"] for one in found)
    assert np.mean([one["low"] <= truth <= one["high"] for one in found]) >= 0.9
    off, off_as_counted = (abs(np.mean(values) - truth) for values in ([one["value"] for one in found], counted))
    assert off < max(0.7 * off_as_counted, 0.02)


def test_when_probabilities_are_calibrated_then_the_error_is_near_zero_and_its_interval_includes_zero() -> None:
    rng = np.random.default_rng(11)
    errors, raw = [], []
    for run in range(40):
        probabilities = rng.beta(0.5, 3, (183, 3))
        labels = (rng.random((183, 3)) < probabilities).astype(float)
        result = evaluate_predictions(labels, probabilities, list("abc"), num_samples=200, seed=run)
        errors += [
            result["macro_calibration_error"],
            *(entry["calibration_error"] for entry in result["per_label"].values()),
        ]
        raw.append(weighted_calibration_error(labels[:, 0], probabilities[:, 0], np.ones((1, 183)))[0])
    assert np.mean([error["low"] == 0 for error in errors]) >= 0.9
    assert np.mean([error["value"] == 0 for error in errors]) >= 0.25
    assert np.mean([error["value"] for error in errors]) < 0.4 * np.mean(raw)
    assert all(error["low"] <= error["value"] < error["high"] for error in errors)


@pytest.mark.parametrize("seed", range(5))
def test_when_labels_are_few_then_every_interval_holds_its_value(seed: int) -> None:
    rng = np.random.default_rng(seed)
    labels = (rng.random((60, 6)) < [0.03, 0.05, 0.1, 0.3, 0.5, 0.9]).astype(float)
    probabilities = np.clip(np.round(rng.beta(0.5, 2, (60, 6)) + 0.3 * labels, 2), 0, 1)
    patients = [str(index // 2) for index in range(60)]
    result = evaluate_predictions(labels, probabilities, list("abcdef"), patients, num_samples=100)
    metrics = [entry[name] for entry in (*result["per_label"].values(),) for name in METRICS]
    intervals = [one for one in (*metrics, *(result[f"macro_{name}"] for name in METRICS)) if one and one["low"]]
    assert len(intervals) > 12
    assert all(one["low"] <= one["value"] <= one["high"] for one in intervals)


@pytest.mark.parametrize("seed", range(4))
def test_when_thresholds_are_chosen_then_no_other_cut_has_a_better_f1(seed: int) -> None:
    rng = np.random.default_rng(seed)
    labels = (rng.random((60, 3)) < [0.5, 0.1, 0.9]).astype(float)
    probabilities = np.round(np.clip(0.6 * rng.random((60, 3)) + 0.3 * labels, 0, 1), (seed % 3) + 1)
    labels[rng.random(labels.shape) < 0.1] = np.nan
    for column, chosen in enumerate(choose_thresholds(labels, probabilities)):
        known = ~np.isnan(labels[:, column])
        truth, scores = labels[known, column], probabilities[known, column]
        cuts = {float(cut): f1_score(truth, scores >= cut) for cut in np.unique(scores)}
        assert chosen is not None
        assert f1_score(truth, scores >= chosen) == pytest.approx(max(cuts.values()))
        # Of equally good cuts the lowest: what is found is what reaches it.
        lowest = min(cut for cut, value in cuts.items() if value > max(cuts.values()) - 1e-12)
        np.testing.assert_array_equal(scores >= chosen, scores >= lowest)


def test_when_a_label_has_one_class_or_is_unknown_then_it_has_no_threshold() -> None:
    labels = np.array([[1.0, 0.0, np.nan, 1.0], [1.0, 0.0, np.nan, np.nan], [1.0, 0.0, np.nan, 0.0]])
    probabilities = np.array([[0.2, 0.2, 0.2, 0.8], [0.4, 0.4, 0.4, 1.0], [0.6, 0.6, 0.6, 0.2]])
    assert choose_thresholds(labels, probabilities) == [None, None, None, pytest.approx(0.5)]


def test_when_probabilities_differ_in_the_last_digit_then_the_same_recordings_are_found(
    case: tuple[np.ndarray, np.ndarray],
) -> None:
    labels, probabilities = case
    rng = np.random.default_rng(5)
    nearly = np.clip(probabilities + rng.uniform(-1e-7, 1e-7, probabilities.shape), 0, 1)
    for threshold, column in zip(choose_thresholds(labels, probabilities), range(4), strict=True):
        found = probabilities[:, column] >= threshold
        np.testing.assert_array_equal(found, nearly[:, column] >= threshold)


@pytest.mark.parametrize(
    ("labels", "probabilities", "thresholds", "message"),
    [
        (np.eye(4), np.eye(4), [0.5, 0.5], "2 thresholds for 4 labels"),
        (np.eye(4), np.eye(4)[:, :3], None, "do not match"),
        (np.empty((0, 4)), np.empty((0, 4)), None, "no recordings"),
        (np.eye(4), 3 * np.eye(4), None, "probabilities from 0 to 1, not logits"),
        (np.eye(4), np.eye(4) - 0.5, None, "probabilities from 0 to 1, not logits"),
        (np.eye(4), np.where(np.arange(16).reshape(4, 4) == 9, np.nan, 0.5), None, r"1 recording.* row 2"),
        (
            np.where(np.arange(16).reshape(4, 4) == 9, 61.5, 0),
            np.eye(4),
            None,
            "the label 'b' has values other than 1",
        ),
    ],
)
def test_when_predictions_make_no_sense_then_they_are_refused(labels, probabilities, thresholds, message) -> None:
    with pytest.raises(InputError, match=message):
        evaluate_predictions(labels, probabilities, list("abcd"), thresholds=thresholds)
