"""
Recordings and batches of each optimizer step.

The order of the recordings, their assignment to processes, and the seed of each recording, which determines its masked
beats, depend on nothing but the seed of the run and the step. A run can therefore resume at any step with any number
of processes.
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
# Epoch (from 0) and position of a recording in the dataset or stream.
_Position = tuple[int, int]


class StepBatches(NamedTuple):
    """
    Batches of one process in one optimizer step.

    Args:
        record_ids (`list[list[str]]`): Recordings of each batch.
        batches (`list[dict[str, torch.Tensor]]`): Inputs of the model.
    """

    record_ids: list[list[str]]
    batches: list[dict[str, torch.Tensor]]


class StepPlan(NamedTuple):
    """
    Division of a dataset into optimizer steps.

    Args:
        num_recordings (`int`): Recordings per epoch.
        batch_size (`int`): Recordings per step, over all processes.
        epochs (`int`): Number of epochs.
        seed (`int`): Seed of the order and of the seeds of recordings.
        process, num_processes (`int`, *optional*, default to 0 and 1): Index of this process, and number of processes.
    """

    num_recordings: int
    batch_size: int
    epochs: int
    seed: int
    process: int = 0
    num_processes: int = 1

    @property
    def steps_per_epoch(self) -> int:
        """`int`: Full steps per epoch; remaining recordings are skipped, other ones in each epoch."""
        return self.num_recordings // self.batch_size

    @property
    def num_steps(self) -> int:
        """`int`: Total number of steps."""
        return self.epochs * self.steps_per_epoch

    def of_process(self, recordings: Any) -> Any:
        """The recordings of one step that this process computes."""
        return recordings[self.process :: self.num_processes]

    def order(self, epoch: int) -> np.ndarray:
        """The order of the recordings in an epoch (from 0), `(num_recordings,)`."""
        return np.random.default_rng([self.seed, epoch]).permutation(self.num_recordings)

    def positions(self, first_step: int) -> Iterator[list[_Position]]:
        """Positions of this process's recordings for each step from `first_step` on."""
        if not self.steps_per_epoch:
            return
        for epoch in range(first_step // self.steps_per_epoch, self.epochs):
            order = self.order(epoch)
            start = max(first_step - epoch * self.steps_per_epoch, 0)
            for step in range(start, self.steps_per_epoch):
                indices = order[step * self.batch_size : (step + 1) * self.batch_size]
                yield [(epoch, int(index)) for index in self.of_process(indices)]


def recording_seeds(seed: int, positions: Sequence[_Position]) -> np.ndarray:
    """
    A seed for each recording in each epoch, by applying [`seeded_bits`] three times.

    Args:
        seed (`int`): Seed of the run.
        positions (`Sequence[tuple[int, int]]`): Epoch and position of each recording.

    Returns:
        `np.ndarray` of shape `(len(positions),)`, int64.
    """
    state, counter = torch.full((len(positions),), seed, device="cpu"), seeded_counters(1)
    for column in torch.as_tensor(positions, dtype=torch.int64, device="cpu").reshape(-1, 2).T:
        state = seeded_bits(state, counter) ^ column
    return seeded_bits(state, counter).numpy()


class StepCollator:
    """
    Collates the recordings of one step into batches of similar length, which need little padding. The gradient of the
    step does not depend on how recordings are grouped.

    Args:
        collator (`Callable`): Collates rows into one batch. Rows are sorted by its method `length(row)`, if it has
            one; if its attribute `takes_seeds` is true, it also receives the seeds of the recordings.
        micro_batch_size (`int`): Maximum number of recordings per batch.
        seed (`int`): Seed of the run.
        with_seeds (`bool`): Whether the model takes `seeds`.
    """

    def __init__(self, collator: Collator, micro_batch_size: int, seed: int, with_seeds: bool):
        self.collator = collator
        self.micro_batch_size = micro_batch_size
        self.seed = seed
        self.with_seeds = with_seeds

    def __call__(self, positioned_rows: Sequence[tuple[_Position, Row]]) -> StepBatches:
        """Collate the rows of a step, each with its position."""
        seeds = recording_seeds(self.seed, [position for position, _ in positioned_rows])
        order = list(range(len(positioned_rows)))
        length = getattr(self.collator, "length", None)
        if length is not None:
            order.sort(key=lambda index: length(positioned_rows[index][1]))
        step = StepBatches([], [])
        # Batches of equal size, so that the last is not much smaller.
        for indices in np.array_split(order, -(-len(order) // self.micro_batch_size)):
            rows = [positioned_rows[index][1] for index in indices]
            collator_seeds = (seeds[indices],) if getattr(self.collator, "takes_seeds", False) else ()
            batch = self.collator(rows, *collator_seeds)
            if self.with_seeds:
                batch["seeds"] = torch.from_numpy(seeds[indices])
            step.record_ids.append([str(row.get("record_id", "?")) for row in rows])
            step.batches.append(batch)
        return step


class _PositionedRows(Dataset):
    """Rows of a map-style dataset by epoch and index, each returned with these."""

    def __init__(self, dataset: datasets.Dataset):
        self.dataset = dataset

    def __getitems__(self, positions: list[_Position]) -> list[tuple[_Position, Row]]:
        rows = self.dataset.__getitems__([index for _, index in positions])
        return list(zip(positions, rows, strict=True))


class _StreamedSteps(IterableDataset):
    """
    The batches of every step of a stream. Every process reads the entire stream and uses its part of each step, so
    that the steps do not depend on the number of processes.
    """

    def __init__(
        self,
        dataset: datasets.IterableDataset,
        plan: StepPlan,
        first_step: int,
        shuffle_buffer_size: int,
        collate: StepCollator,
    ):
        # Shuffles with its own buffer: that of `datasets` gives another order in worker processes.
        self.dataset = dataset.shuffle(seed=plan.seed, buffer_size=1) if shuffle_buffer_size > 1 else dataset
        self.shuffle_buffer_size = shuffle_buffer_size
        self.plan = plan
        self.first_step = first_step
        self.collate = collate

    def __iter__(self) -> Iterator[StepBatches]:
        plan = self.plan
        for epoch in range(self.first_step // plan.steps_per_epoch, plan.epochs):
            self.dataset.set_epoch(epoch)
            start = max(self.first_step - epoch * plan.steps_per_epoch, 0) * plan.batch_size
            generator = np.random.default_rng([plan.seed, epoch])
            rows = islice(_shuffled(self.dataset, self.shuffle_buffer_size, generator), start, None)
            for first in range(start, plan.steps_per_epoch * plan.batch_size, plan.batch_size):
                step_rows = [((epoch, index), row) for index, row in enumerate(islice(rows, plan.batch_size), first)]
                if len(step_rows) < plan.batch_size:
                    raise InputError(
                        f"the stream ended after {first + len(step_rows)} of {plan.num_recordings} recordings: set "
                        "recordings_per_epoch to the number of recordings in the stream"
                    )
                yield self.collate(plan.of_process(step_rows))


def _shuffled(rows: Iterable[Row], size: int, generator: np.random.Generator) -> Iterator[Row]:
    """Shuffle rows with a buffer of `size` rows."""
    buffer: list[Row] = []
    for row in rows:
        if len(buffer) < size:
            buffer.append(row)
        else:
            index = int(generator.integers(size))
            yield buffer[index]
            buffer[index] = row
    for index in generator.permutation(len(buffer)):
        yield buffer[index]


def step_loader(
    dataset: datasets.Dataset | datasets.IterableDataset,
    plan: StepPlan,
    collate: StepCollator,
    first_step: int = 0,
    num_workers: int = 0,
    shuffle_buffer_size: int = 10_000,
) -> DataLoader:
    """
    A loader of the batches of every step from `first_step` on. It spans all epochs, so that workers also prefetch the
    first batches of an epoch, and can be iterated once.

    Args:
        dataset (`datasets.Dataset` or `datasets.IterableDataset`): Prepared recordings.
        plan ([`StepPlan`]): Division of the recordings into steps.
        collate ([`StepCollator`]): Collates the batches of a step.
        first_step (`int`, *optional*, defaults to 0): First step. A stream is read up to it; a map-style dataset is
            not.
        num_workers (`int`, *optional*, defaults to 0): Number of worker processes; a stream uses at most one.
        shuffle_buffer_size (`int`, *optional*, defaults to 10000): Size of the shuffle buffer of a stream.
    """
    pinned = torch.cuda.is_available()
    if isinstance(dataset, datasets.IterableDataset):
        steps = _StreamedSteps(dataset.with_format("numpy"), plan, first_step, shuffle_buffer_size, collate)
        return DataLoader(steps, batch_size=None, num_workers=min(num_workers, 1), pin_memory=pinned)
    return DataLoader(
        _PositionedRows(dataset.with_format("numpy")),
        batch_sampler=plan.positions(first_step),
        collate_fn=collate,
        num_workers=num_workers,
        pin_memory=pinned,
    )


def validation_loader(
    dataset: datasets.Dataset,
    collator: Collator,
    batch_size: int,
    process: int,
    num_processes: int,
    *,
    drop_last: bool,
    num_workers: int,
) -> DataLoader:
    """
    A loader of one process's part of a dataset, in order.

    Args:
        dataset (`datasets.Dataset`): Prepared recordings.
        collator (`Callable`): Collates rows into one batch.
        batch_size (`int`): Recordings per batch.
        process, num_processes (`int`): Index of this process, and number of processes.
        drop_last (`bool`): Whether to drop the last recordings so that all processes have equally many.
        num_workers (`int`): Number of worker processes.
    """
    num_rows = len(dataset) // num_processes * num_processes if drop_last else len(dataset)
    rows = range(process, num_rows, num_processes)
    return DataLoader(
        dataset.with_format("numpy"),
        batch_sampler=[list(rows[start : start + batch_size]) for start in range(0, len(rows), batch_size)],
        collate_fn=collator,
        num_workers=num_workers,
        pin_memory=torch.cuda.is_available(),
    )
