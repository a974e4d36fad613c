"""Cross-validated fine-tuning predicts every recording by a model that never saw its patient, and resumes exactly."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from small_models import LABELS, make_model

from clear_hug_hf import ClearHugFeatureExtractor, ClearHugForSequenceClassification
from clear_hug_hf.data.collator import EcgCollator
from clear_hug_hf.data.splits import patient_keys
from clear_hug_hf.evaluation.metrics import choose_thresholds, macro_auroc
from clear_hug_hf.evaluation.predictions import predict
from clear_hug_hf.evaluation.protocol import STRENGTHS, fit_logistic, logistic_scores
from clear_hug_hf.processing import InputError
from clear_hug_hf.training import finetuning
from clear_hug_hf.training.cross_validation import (
    CrossValidated,
    OutOfFold,
    finetune_in_folds,
    release,
    split_folds,
)
from clear_hug_hf.training.features import encode, known_labels, linear_features
from clear_hug_hf.training.finetuning import Choice, FinetuningArguments, finetune, make_optimizer
from clear_hug_hf.training.folders import load_classifier


EXTRACTOR = ClearHugFeatureExtractor()
Crossed = Callable[..., CrossValidated]


@pytest.fixture(scope="module")
def recordings(make_rows: Callable[[int], datasets.Dataset]) -> datasets.Dataset:
    """Recordings of 30 patients, in an order of their own."""
    rows = make_rows(36)
    return rows.select(np.random.default_rng(0).permutation(36)[:30])


def _model(head: str = "hug") -> ClearHugForSequenceClassification:
    return make_model(ClearHugForSequenceClassification, id2label=dict(enumerate(LABELS)), head_type=head)


@pytest.fixture
def cross(recordings: datasets.Dataset) -> Crossed:
    """Cross-validates a small model in three folds, with fields of the recipe."""

    def run(folder: Path | None = None, num_folds: int = 3, restart: bool = False, **recipe: Any) -> CrossValidated:
        settings = {"num_train_epochs": 4, "per_device_train_batch_size": 8, "disable_tqdm": True, **recipe}
        arguments = FinetuningArguments(**settings)
        make = functools.partial(_model, "mean" if arguments.method == "logistic" else "hug")
        return finetune_in_folds(make, recordings, EXTRACTOR, folder, arguments, num_folds, restart=restart)

    return run


@pytest.mark.parametrize("method", ["frozen", "full"])
def test_when_a_recipe_is_cross_validated_then_no_recording_is_predicted_by_a_model_of_its_patient(
    method: str, cross: Crossed, recordings: datasets.Dataset, tmp_path: Path
) -> None:
    crossed = cross(tmp_path, method=method, num_train_epochs=2)
    out = crossed.out_of_fold
    assert out.predictions.record_ids == list(recordings["record_id"])
    keys = np.array(patient_keys(recordings["record_id"], recordings["patient_id"]))
    for fold, rows in enumerate(split_folds(recordings, 3)):
        assert np.flatnonzero(out.folds == fold).tolist() == rows["test"].tolist()
        parts = [set(keys[rows[split]]) for split in ("train", "validation", "test")]
        assert sum(map(len, parts)) == len(set.union(*parts)) == 30
        model, _ = load_classifier(tmp_path / "folds" / str(fold + 1))
        found = predict(model, recordings.select(rows["test"]), EXTRACTOR)
        assert np.array_equal(out.predictions.probabilities[rows["test"]], found.probabilities)
        assert found.labels is not None
        assert out.macro_aurocs[fold] == macro_auroc(found.labels, found.probabilities)
    assert crossed.choice.epoch == crossed.result.best_epoch == sorted(crossed.by_fold)[1]
    assert [row["epoch"] for row in crossed.result.history] == list(range(1, crossed.choice.epoch + 1))
    loaded, _ = load_classifier(tmp_path)
    assert out.predictions.labels is not None
    chosen = choose_thresholds(out.predictions.labels, out.predictions.probabilities)
    assert list(loaded.config.label_thresholds.values()) == chosen
    for name, tensor in loaded.state_dict().items():
        assert tensor.equal(crossed.result.model.state_dict()[name])

    read = OutOfFold.load(tmp_path / "out_of_fold.csv")
    for name in ("record_ids", "patient_ids", "label_names"):
        assert getattr(read.predictions, name) == getattr(out.predictions, name)
    for saved, written in (
        (read.predictions.probabilities, out.predictions.probabilities),
        (read.predictions.labels, out.predictions.labels),
        (read.folds, out.folds),
    ):
        assert np.array_equal(saved, written)
    np.testing.assert_allclose(1 / (1 + np.exp(-read.logits)), read.predictions.probabilities, atol=1e-6)
    (tmp_path / "out_of_fold.csv").write_text("record_id,fold\n1,one\n")
    with pytest.raises(InputError, match="is not a table of out-of-fold probabilities"):
        OutOfFold.load(tmp_path / "out_of_fold.csv")


def _check_solution(folder: Path, features: np.ndarray, labels: np.ndarray, strength: float) -> None:
    classifier = load_classifier(folder)[0].classifier
    weights, biases = fit_logistic(features, labels, strength)
    np.testing.assert_allclose(classifier.weight.detach(), weights, rtol=1e-5, atol=1e-8)
    np.testing.assert_allclose(classifier.bias.detach(), biases, rtol=1e-5)


def test_when_a_logistic_regression_is_cross_validated_then_no_fold_chooses_its_own_strength(
    cross: Crossed, recordings: datasets.Dataset, tmp_path: Path
) -> None:
    crossed = cross(tmp_path, method="logistic")
    encoded = encode(_model("mean"), recordings, EcgCollator(EXTRACTOR, label_names=LABELS))
    features, labels = linear_features(encoded), known_labels(encoded)

    def best_strength(trained: np.ndarray) -> float:
        """The best in three folds of these recordings alone."""
        scores = []
        for rows in split_folds(recordings.select(trained), 3):
            test = trained[rows["test"]]
            others = np.setdiff1d(trained, test)
            probabilities = logistic_scores(features[others], labels[others], features[test])
            scores.append([macro_auroc(labels[test], probabilities(strength)[0]) for strength in STRENGTHS])
        return STRENGTHS[np.argmax(np.mean(scores, axis=0))]

    for fold, rows in enumerate(split_folds(recordings, 3)):
        others = np.setdiff1d(np.arange(30), rows["test"])
        assert crossed.by_fold[fold] == best_strength(others)
        _check_solution(tmp_path / "folds" / str(fold + 1), features[others], labels[others], crossed.by_fold[fold])
    assert crossed.result.strength == best_strength(np.arange(30))
    _check_solution(tmp_path, features, labels, crossed.result.strength)
    again = cross(tmp_path, method="logistic")
    assert again.result.finished_before
    assert np.array_equal(again.out_of_fold.logits, crossed.out_of_fold.logits)


def test_when_a_run_is_killed_in_a_fold_then_the_same_call_goes_on_there_to_the_same_bits(
    cross: Crossed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(folder: str) -> CrossValidated:
        return cross(tmp_path / folder, num_folds=2, num_train_epochs=2)

    steps: list[int] = []
    step = finetuning.FinetuningTrainer.training_step

    def stop(at: int | None) -> None:
        def counted(self: Any, *args: Any, **kwargs: Any) -> Any:
            steps.append(len(steps))
            if len(steps) == at:
                raise KeyboardInterrupt
            return step(self, *args, **kwargs)

        steps.clear()
        monkeypatch.setattr(finetuning.FinetuningTrainer, "training_step", counted)

    whole = run("whole")
    epochs = whole.choice.epoch
    # Two steps an epoch and four on all recordings: in the second epoch of the second fold, and in the last epoch.
    for stop_at in (4 + 3, 2 + 4 * epochs):
        stop(stop_at)
        with pytest.raises(KeyboardInterrupt):
            run("killed")
        assert not (tmp_path / "killed" / "model").exists()
    stop(None)
    resumed = run("killed")
    assert len(steps) == 4, "of the last epoch"
    assert resumed.result.history == whole.result.history
    assert len(resumed.result.history) == epochs
    for name in ("out_of_fold.csv", "finetuning.json", "model/model.safetensors", "folds/2/model/model.safetensors"):
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name
    again = run("killed")
    assert len(steps) == 4
    assert again.result.finished_before
    assert np.array_equal(again.out_of_fold.logits, whole.out_of_fold.logits)


def test_when_a_folder_holds_another_run_then_it_is_kept_unless_restarted(cross: Crossed, tmp_path: Path) -> None:
    cross(tmp_path, num_train_epochs=1)
    with pytest.raises(InputError, match=r"different cross-validated run \(the number of folds was 3 and is now 2\)"):
        cross(tmp_path, num_folds=2, num_train_epochs=1)
    with pytest.raises(InputError, match="contains a cross-validated run: continue it with --folds"):
        release(tmp_path, restart=False)
    assert (tmp_path / "folds" / "3").is_dir()
    assert cross(tmp_path, num_folds=2, num_train_epochs=1, restart=True).by_fold == [1, 1]
    assert sorted(path.name for path in (tmp_path / "folds").iterdir()) == ["1", "2"]
    release(tmp_path, restart=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["finetuning.json", "finetuning_log.csv", "model"]
    with pytest.raises(InputError, match=r"contains finetuning\.json, which no cross-validated run wrote"):
        cross(tmp_path, num_train_epochs=1)
    with pytest.raises(InputError, match="num_folds is 31 for 30"):
        cross(None, num_folds=31)


def test_when_training_ends_early_by_choice_then_it_is_the_beginning_of_the_longer_run(
    recordings: datasets.Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    rates: list[float] = []

    def watched(*arguments: Any) -> torch.optim.Optimizer:
        optimizer = make_optimizer(*arguments)
        optimizer.register_step_pre_hook(lambda *_: rates.append(optimizer.param_groups[0]["lr"]))
        return optimizer

    monkeypatch.setattr(finetuning, "make_optimizer", watched)
    arguments = FinetuningArguments(num_train_epochs=5, per_device_train_batch_size=8, disable_tqdm=True)
    train, other = recordings.select(range(20)), recordings.select(range(20, 30))
    whole = finetune(_model(), train, other, EXTRACTOR, None, arguments)
    expected, rates[:] = list(rates), []
    short = finetune(_model(), train, None, EXTRACTOR, None, arguments, choice=Choice({"fast": 0.25}, epoch=2))
    assert rates == expected[:6]
    assert [row["train_loss"] for row in short.history] == [row["train_loss"] for row in whole.history[:2]]
    assert short.model.config.label_thresholds == {"fast": 0.25}
