from types import SimpleNamespace

import numpy as np
import pytest
from transformers import PreTrainedConfig

from clear_hug_hf.evaluation.calibration import MIN_COUNT, calibrate, calibrated, fit_calibration, remove_calibration
from clear_hug_hf.evaluation.predictions import Predictions
from clear_hug_hf.inference.classifier_outputs import calibrate_logits, label_scores


def _predictions(
    num_recordings: int, scales: list[float], offsets: list[float], prevalence_logits: list[float], seed: int = 0
) -> Predictions:
    """Predictions whose true logits are `scales * logits + offsets`."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(prevalence_logits, 1.5, (num_recordings, len(scales)))
    truth = 1 / (1 + np.exp(-(logits * scales + offsets)))
    names, ids = [f"l{index}" for index in range(len(scales))], [str(index) for index in range(num_recordings)]
    labels = (rng.random(logits.shape) < truth).astype(float)
    return Predictions(names, ids, list(ids), (1 / (1 + np.exp(-logits))).astype(np.float32), labels)


def test_when_labels_are_miscalibrated_differently_then_each_scale_and_offset_is_recovered() -> None:
    predictions = _predictions(3000, [0.5, 1.5, 1.0], [0.8, 0.0, -0.8], [0.0, 0.0, 0.0])
    fit = fit_calibration(predictions)
    assert fit.method == "labels"
    assert fit.calibration is not None
    expected = {"l0": [0.5, 0.8], "l1": [1.5, 0.0], "l2": [1.0, -0.8]}
    for name, pair in expected.items():
        assert fit.calibration[name] == pytest.approx(pair, abs=0.15)
    assert fit.log_loss["labels"] < fit.log_loss["temperature"] < fit.log_loss["none"]


def test_when_all_logits_are_too_large_then_few_positives_get_the_shared_temperature() -> None:
    predictions = _predictions(400, [0.4, 0.4, 0.4], [0.0, 0.0, 0.0], [0.0, 0.0, 0.0])
    assert predictions.labels is not None
    predictions.labels[:, 2] = 0.0
    predictions.labels[: MIN_COUNT - 1, 2] = 1.0
    fit = fit_calibration(predictions, ("labels",))
    assert fit.calibration is not None
    scale, offset = fit.calibration["l2"]
    assert offset == 0.0
    assert scale < 1.0
    assert fit.calibration["l0"] != fit.calibration["l1"]
    shared = fit_calibration(predictions, ("temperature",)).calibration
    assert shared is not None
    assert scale == shared["l2"][0]


@pytest.mark.parametrize("seed", range(3))
def test_when_one_more_label_is_rare_then_its_calibration_is_not_wild(seed: int) -> None:
    predictions = _predictions(200, [1.0, 1.0], [0.0, 0.0], [0.0, -4.0], seed)
    assert predictions.labels is not None
    # The first recordings have the label whatever the model predicts.
    predictions.labels[:MIN_COUNT, 1] = 1.0
    fit = fit_calibration(predictions, ("labels",))
    assert fit.calibration is not None
    assert 0.2 < fit.calibration["l1"][0] < 2.0
    assert abs(fit.calibration["l1"][1]) < 1.5


def test_when_probabilities_are_calibrated_then_nothing_much_changes_and_unknown_labels_do_not_count() -> None:
    predictions = _predictions(1500, [1.0, 1.0], [0.0, 0.0], [0.0, -1.0])
    assert predictions.labels is not None
    predictions.labels[::2, 0] = np.nan
    fit = fit_calibration(predictions)
    changed = calibrated(predictions, fit.calibration).probabilities
    assert np.abs(changed - predictions.probabilities).max() < 0.05
    few = Predictions(["a"], list("wxyz"), list("wxyz"), np.full((4, 1), 0.3, np.float32), np.eye(4)[:, :1])
    assert fit_calibration(few).calibration is None


def test_when_a_label_has_one_class_then_its_old_threshold_accepts_the_same_recordings_as_before() -> None:
    predictions = _predictions(400, [0.4, 0.4], [0.0, 0.0], [0.0, 0.0])
    assert predictions.labels is not None
    predictions.labels[:, 1] = 0.0
    config = PreTrainedConfig(id2label={0: "l0", 1: "l1"}, problem_type="multi_label_classification")
    config.label_calibration, config.label_thresholds = {"l1": [2.0, 1.0]}, {"l0": 0.01, "l1": 0.37}
    before = calibrated(predictions, config.label_calibration).probabilities[:, 1] >= 0.37
    remove_calibration(config)
    assert config.label_calibration is None
    fit = calibrate(SimpleNamespace(config=config), predictions)
    assert fit.method != "none"
    assert config.label_thresholds["l0"] > 0.1
    after = calibrated(predictions, config.label_calibration).probabilities[:, 1] >= config.label_thresholds["l1"]
    np.testing.assert_array_equal(after, before)
    assert 0 < before.mean() < 1


def test_when_a_config_has_a_calibration_then_only_sigmoids_apply_it_by_name() -> None:
    config = PreTrainedConfig(id2label={0: "a", 1: "b"}, problem_type="multi_label_classification")
    logits = np.array([[0.3, -2.0], [4.0, 1.0]], dtype=np.float32)
    assert calibrate_logits(config, logits) is logits
    config.label_calibration = {"b": [0.5, 1.0]}
    expected = 1 / (1 + np.exp(-np.stack([logits[:, 0], 0.5 * logits[:, 1] + 1.0], axis=1)))
    scores = label_scores(config, logits)
    assert scores.dtype == np.float32
    np.testing.assert_allclose(scores, expected, rtol=1e-6)
    np.testing.assert_array_equal(label_scores(config, logits, "none"), logits)
