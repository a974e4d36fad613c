"""
Which recordings an optimiser step trains on, and their batches.

Everything follows from the seed and the number of the step: the order, the share of each process, and the seed of each
recording, from which its hidden beats are drawn. So a run can go on from any step with any number of processes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, NamedTuple

import datasets
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset

from ..modeling.modeling_ecg import seeded_bits, seeded_counters
from ..processing.errors import InputError


Row = Mapping[str, Any]
Collator = Callable[..., dict[str, torch.Tensor]]
# Where a recording stands: epoch from 0, and position in the dataset (in its stream, if it is one).
_Place = tuple[int, int]


class StepBatches(NamedTuple):
    """
    What one process computes in one optimiser step.

    Args:
        record_ids (`list[list[str]]`): The recordings of each batch.
        batches (`list[dict[str, torch.Tensor]]`): Inputs of the model; together the share of this process.
    """

    record_ids: list[list[str]]
    batches: list[dict[str, torch.Tensor]]


class StepPlan(NamedTuple):
    """
    How a dataset is cut into optimiser steps.

    Args:
        num_recordings (`int`): Recordings of one epoch.
        batch_size (`int`): Recordings of one step, over all processes.
        epochs (`int`): Passes over the recordings.
        seed (`int`): Of the order and of the recordings' own seeds.
        process, num_processes (`int`): Which share of every step is this process's.
    """

    num_recordings: int
    batch_size: int
    epochs: int
    seed: int
    process: int = 0
    num_processes: int = 1

    @property
    def steps_per_epoch(self) -> int:
        """`int`: Whole steps of an epoch; what is left over takes its turn in another epoch's order."""
        return self.num_recordings // self.batch_size

    @property
    def num_steps(self) -> int:
        """`int`: Steps of the run."""
        return self.epochs * self.steps_per_epoch

    def share(self, recordings: Any) -> Any:
        """The part of one step's recordings that is this process's."""
        return recordings[self.process :: self.num_processes]

    def order(self, epoch: int) -> np.ndarray:
        """The order of the recordings in an epoch, counted from 0: `(num_recordings,)`."""
        return np.random.default_rng([self.seed, epoch]).permutation(self.num_recordings)

    def places(self, first_step: int) -> Iterator[list[_Place]]:
        """This process's recordings of every step from `first_step` on."""
        if not self.steps_per_epoch:
            return
        for epoch in range(first_step // self.steps_per_epoch, self.epochs):
            order = self.order(epoch)
            begin = max(first_step - epoch * self.steps_per_epoch, 0)
            for step in range(begin, self.steps_per_epoch):
                chosen = order[step * self.batch_size : (step + 1) * self.batch_size]
                yield [(epoch, int(index)) for index in self.share(chosen)]


def recording_seeds(seed: int, places: Sequence[_Place]) -> np.ndarray:
    """
    A seed for each recording in each epoch ([`seeded_bits`], three times over).

    Args:
        seed (`int`): Of the run.
        places (`Sequence[tuple[int, int]]`): Epoch and position of each recording.

    Returns:
        `np.ndarray` of shape `(len(places),)`, int64.
    """
    state, counter = torch.full((len(places),), seed, device="cpu"), seeded_counters(1)
    for column in torch.as_tensor(places, dtype=torch.int64, device="cpu").reshape(-1, 2).T:
        state = seeded_bits(state, counter) ^ column
    return seeded_bits(state, counter).numpy()


class StepCollator:
    """
    Recordings of one step to batches. Recordings of like length stand together, so that short ones are not padded to
    the longest of all; the gradient is that of the whole step, whatever stands beside what.

    Args:
        collator (`Callable`): Makes one batch of rows. If it has a method `length(row)`, rows are sorted by it; if its
            `takes_seeds` is true, it gets the seeds of the recordings, too.
        micro_batch_size (`int`): Most recordings of one batch.
        seed (`int`): Of the run.
        with_seeds (`bool`): Whether the model takes `seeds`.
    """

    def __init__(self, collator: Collator, micro_batch_size: int, seed: int, with_seeds: bool):
        self.collator = collator
        self.micro_batch_size = micro_batch_size
        self.seed = seed
        self.with_seeds = with_seeds

    def __call__(self, placed: Sequence[tuple[_Place, Row]]) -> StepBatches:
        """Collate the rows of a step with their places."""
        seeds = recording_seeds(self.seed, [place for place, _ in placed])
        order = list(range(len(placed)))
        length = getattr(self.collator, "length", None)
        if length is not None:
            order.sort(key=lambda index: length(placed[index][1]))
        step = StepBatches([], [])
        # Parts of equal size, so that the last is no leftover.
        for part in np.array_split(order, -(-len(order) // self.micro_batch_size)):
            rows = [placed[index][1] for index in part]
            given = (seeds[part],) if getattr(self.collator, "takes_seeds", False) else ()
            batch = self.collator(rows, *given)
            if self.with_seeds:
                batch["seeds"] = torch.from_numpy(seeds[part])
            step.record_ids.append([str(row.get("record_id", "?")) for row in rows])
            step.batches.append(batch)
        return step


class _PlacedRows(Dataset):
    """Rows of a map-style dataset by epoch and index; the epoch only passes through."""

    def __init__(self, dataset: datasets.Dataset):
        self.dataset = dataset

    def __getitems__(self, places: list[_Place]) -> list[tuple[_Place, Row]]:
        rows = self.dataset.__getitems__([index for _, index in places])
        return list(zip(places, rows, strict=True))


class _StreamedSteps(IterableDataset):
    """
    The batches of every step of a stream. Every process reads the whole stream and keeps its share: only so are the
    steps the same for any number of processes.
    """

    def __init__(
        self,
        dataset: datasets.IterableDataset,
        plan: StepPlan,
        first_step: int,
        shuffle_buffer: int,
        collate: StepCollator,
    ):
        # The buffer is our own: that of `datasets` draws otherwise in a worker process than in the main one.
        self.dataset = dataset.shuffle(seed=plan.seed, buffer_size=1) if shuffle_buffer > 1 else dataset
        self.shuffle_buffer = shuffle_buffer
        self.plan = plan
        self.first_step = first_step
        self.collate = collate

    def __iter__(self) -> Iterator[StepBatches]:
        plan = self.plan
        for epoch in range(self.first_step // plan.steps_per_epoch, plan.epochs):
            self.dataset.set_epoch(epoch)
            begin = max(self.first_step - epoch * plan.steps_per_epoch, 0) * plan.batch_size
            generator = np.random.default_rng([plan.seed, epoch])
            rows = islice(_shuffled(self.dataset, self.shuffle_buffer, generator), begin, None)
            for first in range(begin, plan.steps_per_epoch * plan.batch_size, plan.batch_size):
                placed = [((epoch, first + number), row) for number, row in enumerate(islice(rows, plan.batch_size))]
                if len(placed) < plan.batch_size:
                    raise InputError(
                        f"the stream ended after {first + len(placed)} recordings, and an epoch was to have "
                        f"{plan.num_recordings}: set recordings_per_epoch to what the stream holds"
                    )
                yield self.collate(plan.share(placed))


def _shuffled(rows: Iterable[Row], size: int, generator: np.random.Generator) -> Iterator[Row]:
    """Rows in an order that is drawn among `size` of them at a time."""
    buffer: list[Row] = []
    for row in rows:
        if len(buffer) < size:
            buffer.append(row)
        else:
            drawn = int(generator.integers(size))
            yield buffer[drawn]
            buffer[drawn] = row
    for drawn in generator.permutation(len(buffer)):
        yield buffer[drawn]


def step_loader(
    dataset: datasets.Dataset | datasets.IterableDataset,
    plan: StepPlan,
    collate: StepCollator,
    first_step: int = 0,
    num_workers: int = 0,
    shuffle_buffer: int = 10_000,
) -> DataLoader:
    """
    The batches of every step from one on, over all epochs, so that no epoch waits for its first batch. They can be
    read once.

    Args:
        dataset (`datasets.Dataset` or `datasets.IterableDataset`): Rows as `prepare` makes them.
        plan ([`StepPlan`]): Cuts them into steps.
        collate ([`StepCollator`]): Makes the batches.
        first_step (`int`, *optional*, defaults to 0): A map-style dataset goes there at once; a stream is read up to
            there.
        num_workers (`int`, *optional*, defaults to 0): Processes that make batches; a stream uses one at most.
        shuffle_buffer (`int`, *optional*, defaults to 10000): Recordings among which a stream is shuffled.
    """
    pinned = torch.cuda.is_available()
    if isinstance(dataset, datasets.IterableDataset):
        steps = _StreamedSteps(dataset.with_format("numpy"), plan, first_step, shuffle_buffer, collate)
        return DataLoader(steps, batch_size=None, num_workers=min(num_workers, 1), pin_memory=pinned)
    return DataLoader(
        _PlacedRows(dataset.with_format("numpy")),
        batch_sampler=plan.places(first_step),
        collate_fn=collate,
        num_workers=num_workers,
        pin_memory=pinned,
    )


def share_loader(
    dataset: datasets.Dataset,
    collator: Collator,
    batch_size: int,
    process: int,
    num_processes: int,
    *,
    equal: bool,
    num_workers: int,
) -> DataLoader:
    """
    One process's share of a dataset, in its order.

    Args:
        dataset, collator, num_workers: As in [`step_loader`].
        batch_size (`int`): Recordings of a batch.
        process, num_processes (`int`): Which share, of how many.
        equal (`bool`): Whether all shares must be of one size; what does not divide is left out.
    """
    last = len(dataset) // num_processes * num_processes if equal else len(dataset)
    share = range(process, last, num_processes)
    return DataLoader(
        dataset.with_format("numpy"),
        batch_sampler=[list(share[start : start + batch_size]) for start in range(0, len(share), batch_size)],
        collate_fn=collator,
        num_workers=num_workers,
        pin_memory=torch.cuda.is_available(),
    )
