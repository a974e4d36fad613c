"""Augmented recordings are still recordings of the same heart, and follow from their seeds alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import datasets
import numpy as np
import pytest
import torch

from clear_hug_hf import ClearHugFeatureExtractor
from clear_hug_hf.data.augmentation import AugmentingCollator, augment_recording
from clear_hug_hf.data.collator import EcgCollator
from clear_hug_hf.data.preparation import prepare
from clear_hug_hf.data.records import Recording
from clear_hug_hf.processing import InputError
from clear_hug_hf.training.recipes import Recipe, read_recipe


PEAKS = np.arange(60, 1000, 90)


@pytest.fixture(scope="module")
def dataset(make_recordings: Callable[..., list[Recording]]) -> datasets.Dataset:
    return prepare(make_recordings(2, sampling_rate=500.0), ClearHugFeatureExtractor(), (), progress=False).dataset


@pytest.fixture
def signal() -> np.ndarray:
    rng = np.random.default_rng(0)
    signal = rng.normal(0, 0.05, (12, 1000))
    signal[:, PEAKS] += np.linspace(1, 2, 12)[:, None]
    return signal.astype(np.float32)


def _changed(signal: np.ndarray, seed: int, strength: float = 1.0, leads: int = 12) -> Any:
    present = np.arange(12) < leads
    return augment_recording(signal, PEAKS, present, np.random.default_rng(seed), 100.0, strength)


def test_when_the_strength_is_0_then_nothing_changes(signal: np.ndarray) -> None:
    changed, peaks, leads = _changed(signal, 0, 0.0)
    np.testing.assert_allclose(changed, signal, atol=1e-6)
    assert peaks.tolist() == PEAKS.tolist()
    assert leads.all()


@pytest.mark.parametrize("strength", [0.5, 1.0, 2.0])
def test_when_a_recording_is_changed_then_its_beats_stay_at_their_peaks(signal: np.ndarray, strength: float) -> None:
    for seed in range(20):
        changed, peaks, leads = _changed(signal, seed, strength)
        assert len(peaks) >= 1
        assert peaks.min() >= 0
        assert peaks.max() < changed.shape[1]
        assert np.isin(np.diff(peaks), 90).all(), "waves are not stretched"
        assert changed.shape[1] >= (1 - min(0.4 * strength, 0.8)) * 1000 - 1
        assert 2 * leads.sum() >= 12
        assert not changed[~leads].any()
        # No lead is turned over: the beats still stand out upwards.
        level = np.median(changed[leads], axis=1)
        assert (changed[leads][:, peaks].mean(axis=1) > level).all()


def test_when_amplitudes_breathe_then_all_leads_breathe_together() -> None:
    flat = np.tile(np.array([[1.0], [3.0]]), (1, 1000))  # No deviation, so that no baseline wanders.
    changed, _, _ = augment_recording(flat, PEAKS, np.ones(2, dtype=bool), np.random.default_rng(3))
    kept = changed[changed.any(axis=1)]
    np.testing.assert_allclose(kept / kept[:, :1], np.tile(kept[:1] / kept[0, 0], (len(kept), 1)), rtol=1e-5)
    assert 0.6 < kept[0].min() < kept[0].max() < 1.4 * 3


def test_when_leads_were_missing_then_they_stay_so_and_half_of_the_others_remain(signal: np.ndarray) -> None:
    for seed in range(30):
        _, _, leads = _changed(signal, seed, 2.0, leads=2)
        assert not leads[2:].any()
        assert leads[:2].any()


def test_when_a_model_needs_all_leads_then_none_is_dropped(signal: np.ndarray) -> None:
    masks = [
        augment_recording(signal, PEAKS, np.ones(12, bool), np.random.default_rng(seed), 100.0, 2.0, drops_leads)[2]
        for drops_leads in (False, True)
        for seed in range(20)
    ]
    assert all(mask.all() for mask in masks[:20])
    assert not all(mask.all() for mask in masks[20:])


def test_when_seeds_are_given_then_rows_are_the_same_in_any_batch_and_without_them_as_they_are(
    dataset: datasets.Dataset,
) -> None:
    extractor, rows = ClearHugFeatureExtractor(use_beat_features=True), [dataset[0], dataset[1]]
    collator = AugmentingCollator(extractor)
    both = collator(rows, np.array([5, -6]))
    alone = collator(rows[1:], np.array([-6]))
    width = alone["input_values"].shape[2]
    for name in ("input_values", "beat_features"):
        assert torch.equal(both[name][1, :, :width], alone[name][0]), name
    plain = EcgCollator(extractor, ())(rows)
    assert not torch.equal(both["input_values"], plain["input_values"])
    assert all(torch.equal(collator(rows)[name], plain[name]) for name in plain)


@pytest.mark.parametrize("strength", [-0.1, 2.5, float("nan")])
def test_when_the_strength_makes_no_sense_then_it_is_refused(strength: float) -> None:
    with pytest.raises(InputError, match="augmentation is"):
        AugmentingCollator(ClearHugFeatureExtractor(), augmentation=strength)


def test_when_a_recipe_augments_then_its_batches_do_and_by_default_only_those_of_pages() -> None:
    make: Callable[..., Any] = lambda **values: read_recipe(**values)  # noqa: E731
    assert make().make_collator(None, ClearHugFeatureExtractor()) is None
    collator = make(augmentation=0.5).make_collator(None, ClearHugFeatureExtractor())
    assert isinstance(collator, AugmentingCollator)
    assert collator.augmentation == 0.5
    assert make(system="ecg_scan").augmentation == 1.0


def test_when_an_objective_has_a_collator_of_its_own_then_it_is_asked_without_augmentation_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    recipe = read_recipe()
    changed = replace(recipe.pretraining_objective, collator="functools:partial")
    monkeypatch.setattr(Recipe, "pretraining_objective", changed)
    extractor = ClearHugFeatureExtractor()
    collator = recipe.make_collator(None, extractor)
    assert (collator.func, collator.keywords) == (extractor, {"augmentation": 0.0})
