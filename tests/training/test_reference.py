"""The supervised reference reads signals as they are meant, ignores unknown labels, and learns what is easy."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import datasets
import numpy as np
import pytest
import torch
from small_models import LABELS
from transformers import set_seed

from clear_hug_hf.evaluation.metrics import macro_auroc
from clear_hug_hf.training import reference
from clear_hug_hf.training.features import EncodedDataset
from clear_hug_hf.training.finetuning import FinetuningArguments
from clear_hug_hf.training.reference import (
    REFERENCE,
    ResNet1d,
    predict_reference,
    signal_dataset,
    train_reference,
)


@pytest.fixture(scope="module")
def dataset(make_rows: Callable[[int], datasets.Dataset]) -> datasets.Dataset:
    return make_rows(48)


@pytest.fixture(scope="module")
def sets(dataset: datasets.Dataset) -> tuple[EncodedDataset, EncodedDataset, EncodedDataset]:
    signals = signal_dataset(dataset, LABELS, 300)
    return signals.select(range(24)), signals.select(range(24, 36)), signals.select(range(36, 48))


Sets = tuple[EncodedDataset, EncodedDataset, EncodedDataset]


def _recipe(epochs: int, **overrides: object) -> FinetuningArguments:
    return FinetuningArguments(
        **{
            **REFERENCE,
            "num_train_epochs": epochs,
            "per_device_train_batch_size": 8,
            "early_stopping_patience": epochs,
            "disable_tqdm": True,
            **overrides,
        }
    )


@pytest.mark.parametrize(("num_leads", "num_samples"), [(12, 1000), (12, 37), (3, 250)])
def test_when_signals_are_read_then_there_is_a_logit_per_label(num_leads: int, num_samples: int) -> None:
    network = ResNet1d(5, num_leads).eval()
    output = network(torch.randn(2, num_leads, num_samples))
    assert set(output) == {"logits"}
    assert output["logits"].shape == (2, 5)
    assert output["logits"].isfinite().all()


def test_when_layers_are_counted_then_there_are_eighteen() -> None:
    convolutions = [one for one in ResNet1d(1).modules() if isinstance(one, torch.nn.Conv1d)]
    # The three that only fit a block's input to its output do not count; the classifier is the eighteenth.
    assert sum(one.kernel_size[0] > 1 for one in convolutions) == 17


def test_when_labels_are_unknown_then_they_count_for_nothing_in_the_loss() -> None:
    set_seed(0)
    network, signal = ResNet1d(2, widths=(4, 4, 4, 4)).eval(), torch.randn(3, 12, 100)
    labels = torch.tensor([[1.0, torch.nan], [0.0, 1.0], [torch.nan, torch.nan]])
    output = network(signal, labels)
    known = ~labels.isnan()
    expected = torch.nn.functional.binary_cross_entropy_with_logits(output["logits"][known], labels[known])
    torch.testing.assert_close(output["loss"], expected)
    output["loss"].backward()
    gradients = [parameter.grad for parameter in network.parameters()]
    assert all(gradient is not None and gradient.isfinite().all() for gradient in gradients)
    nothing = network(signal, torch.full((3, 2), torch.nan))["loss"]
    assert nothing == 0


@pytest.mark.parametrize("length", [400, 1000, 1200])
def test_when_recordings_become_signals_then_each_lead_is_standardised_and_cut_or_ends_with_zeros(
    dataset: datasets.Dataset, length: int
) -> None:
    signals = signal_dataset(dataset, LABELS, length).columns["signal"]
    original = np.asarray(dataset["signal"], dtype=np.float64)[:, :, :length]
    expected = (original - original.mean(axis=2, keepdims=True)) / original.std(axis=2, keepdims=True)
    assert signals.shape == (48, 12, length)
    np.testing.assert_allclose(signals[:, :, :1000].numpy(), expected, atol=1e-4)
    assert (signals[:, :, 1000:] == 0).all()


def test_when_a_lead_is_flat_then_it_stays_zero_and_labels_keep_their_order(dataset: datasets.Dataset) -> None:
    rows = dataset.select(range(3)).to_list()
    rows[0]["signal"][4] = [17] * 1000
    rows[1]["signal"][5] = [0] * 1000
    rows[2]["labels"]["fast"] = None
    flat = datasets.Dataset.from_list(rows, features=dataset.features)
    found = signal_dataset(flat, ("inverted", "fast"), 1000)
    signal = found.columns["signal"]
    assert (signal[0, 4] == 0).all()
    assert (signal[1, 5] == 0).all()
    assert signal.isfinite().all()
    expected = torch.tensor([[1.0, 1.0], [0.0, 0.0], [0.0, torch.nan]])
    torch.testing.assert_close(found.columns["labels"], expected, equal_nan=True)


def test_when_the_reference_is_trained_then_it_learns_what_is_easy(sets: Sets) -> None:
    arguments = _recipe(8)
    network, best, history = train_reference(sets[0], sets[1], arguments)
    assert not network.training
    assert [row["epoch"] for row in history] == list(range(1, 9))
    assert history[-1]["train_loss"] < 0.7 * history[0]["train_loss"]
    ranks = [row["choice"] for row in history]
    assert best == 1 + ranks.index(max(ranks))
    # What is left is the best epoch, not the last.
    labels = [one.columns["labels"].numpy().astype(float) for one in sets]
    on_validation = macro_auroc(labels[1], predict_reference(network, sets[1]))
    assert on_validation == pytest.approx(history[best - 1]["validation_macro_auroc"])
    assert macro_auroc(labels[2], predict_reference(network, sets[2])) > 0.85


def test_when_seeds_are_equal_then_references_are_and_otherwise_not(
    sets: Sets, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reference, "ResNet1d", partial(ResNet1d, widths=(4, 4, 4, 4)))
    few = (sets[0].select(range(8)), sets[1])
    runs = [train_reference(*few, _recipe(2, seed=seed)) for seed in (0, 0, 1)]
    assert runs[0][2] == runs[1][2]
    assert runs[0][2] != runs[2][2]
    first, again, other = (predict_reference(network, sets[2]) for network, _, _ in runs)
    np.testing.assert_array_equal(first, again)
    assert not np.allclose(first, other)


def test_when_recordings_are_predicted_then_the_batch_does_not_matter(sets: Sets) -> None:
    set_seed(0)
    network = ResNet1d(2).eval()
    found = predict_reference(network, sets[2], batch_size=5)
    assert found.shape == (12, 2)
    with torch.no_grad():
        alone = network(sets[2].columns["signal"][[9]])["logits"].sigmoid()
    np.testing.assert_allclose(found[9], alone[0].numpy(), atol=1e-5)
    assert found.min() >= 0
    assert found.max() <= 1
