"""A step's recordings follow from the seed and the step alone, for any number of processes and from any step on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import datasets
import numpy as np
import pytest
import torch

from clear_hug_hf import ClearHugFeatureExtractor
from clear_hug_hf.data.collator import EcgCollator
from clear_hug_hf.processing import InputError
from clear_hug_hf.training.batches import (
    StepBatches,
    StepCollator,
    StepPlan,
    recording_seeds,
    step_loader,
    validation_loader,
)


@pytest.fixture(scope="module")
def dataset(dataset: datasets.Dataset) -> datasets.Dataset:
    return dataset.select_columns([*EcgCollator(ClearHugFeatureExtractor(), ()).columns, "record_id"])


def _collator(micro_batch_size: int = 100, with_seeds: bool = True) -> StepCollator:
    return StepCollator(EcgCollator(ClearHugFeatureExtractor(), ()), micro_batch_size, seed=3, with_seeds=with_seeds)


def _ids(steps: Sequence[StepBatches]) -> list[list[str]]:
    return [sorted(record for batch in step.record_ids for record in batch) for step in steps]


def _shuffled(dataset: datasets.Dataset, streamed: bool) -> Any:
    return dataset.to_iterable_dataset(num_shards=3) if streamed else dataset


def test_when_an_epoch_is_planned_then_no_recording_comes_twice_and_every_epoch_has_its_order() -> None:
    plan = StepPlan(num_recordings=23, batch_size=5, epochs=3, seed=0)
    steps = list(plan.positions(0))
    assert plan.num_steps == len(steps) == 12
    epochs = [[index for step in steps[4 * epoch : 4 * epoch + 4] for _, index in step] for epoch in range(3)]
    for number, epoch in enumerate(epochs):
        assert len(set(epoch)) == 20
        assert all(place[0] == number for step in steps[4 * number : 4 * number + 4] for place in step)
    assert epochs[0] != epochs[1] != epochs[2]
    # What one epoch leaves out takes its turn in another.
    assert len(set().union(*epochs)) == 23


@pytest.mark.parametrize("first", [0, 3, 4, 11, 12])
def test_when_a_plan_starts_later_then_it_is_the_tail_of_the_whole(first: int) -> None:
    plan = StepPlan(23, 5, 3, seed=1)
    assert list(plan.positions(first)) == list(plan.positions(0))[first:]


def test_when_processes_share_a_step_then_each_recording_is_in_one_share() -> None:
    whole = list(StepPlan(40, 12, 2, seed=1).positions(0))
    shares = [list(StepPlan(40, 12, 2, 1, process, 3).positions(0)) for process in range(3)]
    for step, *parts in zip(whole, *shares, strict=True):
        assert [len(part) for part in parts] == [4, 4, 4]
        assert sorted(place for part in parts for place in part) == sorted(step)


def test_when_recordings_get_seeds_then_all_differ_and_follow_from_run_epoch_and_place() -> None:
    places = [(epoch, index) for epoch in range(20) for index in range(500)]
    seeds = recording_seeds(5, places)
    assert seeds.dtype == np.int64
    assert len(set(seeds.tolist())) == len(places)
    assert recording_seeds(5, places[77:79]).tolist() == seeds[77:79].tolist()
    assert not set(seeds.tolist()) & set(recording_seeds(6, places).tolist())
    bits = np.unpackbits(seeds.view(np.uint8))
    assert bits.mean() == pytest.approx(0.5, abs=0.005)


def test_when_a_step_is_split_then_rows_of_similar_length_stay_together_with_their_seeds(
    dataset: datasets.Dataset,
) -> None:
    rows = [dict(row) for row in dataset.with_format("numpy")]
    placed = [((4, index), row) for index, row in enumerate(rows)]
    seed_of = dict(zip((row["record_id"] for row in rows), recording_seeds(3, [p for p, _ in placed]), strict=True))
    step = _collator(4)(placed)
    assert [len(ids) for ids in step.record_ids] == [4, 4, 4, 3, 3]
    assert _ids([step]) == [sorted(seed_of)]
    widths = [batch["input_values"].shape[2] for batch in step.batches]
    assert widths == sorted(widths)
    assert widths[0] < widths[-1]
    for ids, batch in zip(step.record_ids, step.batches, strict=True):
        assert batch["seeds"].tolist() == [seed_of[record] for record in ids]
        by_hand = EcgCollator(ClearHugFeatureExtractor(), ())(
            [rows[[r["record_id"] for r in rows].index(i)] for i in ids]
        )
        assert torch.equal(batch["input_values"], by_hand["input_values"])
    assert "seeds" not in _collator(4, with_seeds=False)(placed).batches[0]


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("streamed", [False, True])
def test_when_a_loader_starts_later_then_it_gives_the_tail_of_the_whole(
    dataset: datasets.Dataset, streamed: bool, num_workers: int
) -> None:
    plan = StepPlan(18, 4, 2, seed=2)
    whole = list(step_loader(_shuffled(dataset, streamed), plan, _collator(), shuffle_buffer_size=8))
    assert len(whole) == plan.num_steps == 8
    for first in (3, 4, 5):
        tail = list(
            step_loader(
                _shuffled(dataset, streamed), plan, _collator(), first, num_workers=num_workers, shuffle_buffer_size=8
            )
        )
        assert [step.record_ids for step in tail] == [step.record_ids for step in whole[first:]]
        for step, expected in zip(tail, whole[first:], strict=True):
            for batch, other in zip(step.batches, expected.batches, strict=True):
                assert all(torch.equal(batch[name], other[name]) for name in other)


@pytest.mark.parametrize("streamed", [False, True])
def test_when_processes_load_then_together_they_have_each_step(dataset: datasets.Dataset, streamed: bool) -> None:
    def load(process: int, processes: int) -> list[StepBatches]:
        plan = StepPlan(18, 6, 2, 2, process, processes)
        return list(step_loader(_shuffled(dataset, streamed), plan, _collator(), shuffle_buffer_size=8))

    shares = [_ids(load(process, 2)) for process in range(2)]
    assert [sorted(a + b) for a, b in zip(*shares, strict=True)] == _ids(load(0, 1))
    assert [len(ids) for ids in shares[0]] == [3] * 6


def test_when_a_stream_is_shuffled_then_epochs_differ_and_an_epoch_holds_everything_once(
    dataset: datasets.Dataset,
) -> None:
    plan = StepPlan(18, 6, 2, seed=2)
    ids = _ids(list(step_loader(_shuffled(dataset, True), plan, _collator(), shuffle_buffer_size=18)))
    for epoch in (ids[:3], ids[3:]):
        assert sorted(record for step in epoch for record in step) == sorted(dataset["record_id"])
    assert ids[:3] != ids[3:]


def test_when_a_stream_ends_early_then_it_reports_after_how_many(dataset: datasets.Dataset) -> None:
    plan = StepPlan(24, 6, 1, seed=2)
    with pytest.raises(InputError, match=r"ended after 18 of 24 recordings.*recordings_per_epoch"):
        list(step_loader(_shuffled(dataset, True), plan, _collator()))


@pytest.mark.parametrize(("equal", "sizes"), [(False, [6, 6, 5]), (True, [5, 5, 5])])
def test_when_a_dataset_is_shared_then_nothing_is_lost_unless_shares_must_be_equal(
    dataset: datasets.Dataset, equal: bool, sizes: list[int]
) -> None:
    collator = EcgCollator(ClearHugFeatureExtractor(), ())
    shares = [
        list(validation_loader(dataset.select(range(17)), collator, 4, process, 3, drop_last=equal, num_workers=0))
        for process in range(3)
    ]
    assert [sum(len(batch["lead_mask"]) for batch in share) for share in shares] == sizes
