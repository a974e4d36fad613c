"""Batches are what the feature extractor gives for the recordings themselves."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import datasets
import pytest
import torch

from clear_hug_hf import ClearHugFeatureExtractor
from clear_hug_hf.data.collator import EcgCollator
from clear_hug_hf.data.preparation import prepare
from clear_hug_hf.data.records import Recording
from clear_hug_hf.processing import InputError


@pytest.fixture(scope="module")
def dataset(make_recordings: Callable[..., list[Recording]]) -> datasets.Dataset:
    recordings = make_recordings(4, sampling_rate=500.0)
    return prepare(recordings, ClearHugFeatureExtractor(), ("fast", "inverted"), progress=False).dataset


def test_when_a_batch_is_trimmed_then_only_missing_beats_go(dataset: datasets.Dataset) -> None:
    extractor = ClearHugFeatureExtractor()
    slow = [dataset[1], dataset[3]]
    whole, trimmed = EcgCollator(extractor, trim=False)(slow), EcgCollator(extractor)(slow)
    width = int(whole["attention_mask"].sum(dim=1).max())
    assert width < 15
    assert torch.equal(trimmed["input_values"], whole["input_values"][:, :, :width])
    for name in ("attention_mask", "time_ids"):
        assert torch.equal(trimmed[name], whole[name][:, :width])
    assert not whole["attention_mask"][:, width:].any()


def test_when_labels_are_named_then_they_come_in_that_order_or_not_at_all(dataset: datasets.Dataset) -> None:
    extractor, rows = ClearHugFeatureExtractor(), [dataset[0], dataset[2]]
    labels = EcgCollator(extractor, label_names=["inverted", "fast"])(rows)["labels"]
    assert labels.tolist() == [[1.0, 1.0], [0.0, 1.0]]
    assert "labels" not in EcgCollator(extractor, label_names=())(rows)
    with pytest.raises(InputError, match="no label 'MI'"):
        EcgCollator(extractor, label_names=["MI"])(rows)


def test_when_the_rate_is_not_the_models_then_the_batch_is_refused(dataset: datasets.Dataset) -> None:
    row: dict[str, Any] = {**dataset[0], "sampling_rate": 250.0}
    with pytest.raises(InputError, match="prepared at 250 Hz and the model expects 100 Hz"):
        EcgCollator(ClearHugFeatureExtractor())([row])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"signal_scale": [float("nan")] * 12}, "a scale is not positive"),
        ({"signal_scale": [1.0] * 11}, r"its scales \(11,\)"),
        ({"r_peaks": [50, 40]}, "its R peaks are not in ascending order within the signal"),
        ({"r_peaks": [-1, 40]}, "its R peaks are not in ascending order within the signal"),
        ({"r_peaks": [50, 10**6]}, "its R peaks are not in ascending order within the signal"),
        ({"r_peaks": None}, "values are missing"),
        ({"signal": [[1, 2], *[[1]] * 11]}, "its leads have different lengths"),
        ({"signal": [[]] * 12}, r"its signal has the shape \(12, 0\)"),
    ],
)
def test_when_a_row_holds_what_no_preparation_writes_then_it_is_named(
    dataset: datasets.Dataset, change: dict, message: str
) -> None:
    row = {**dataset[0], **change}
    with pytest.raises(InputError, match=rf"row {row['record_id']} of the dataset is invalid: .*{message}"):
        EcgCollator(ClearHugFeatureExtractor())([dataset[1], row])
