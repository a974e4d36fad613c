"""Training in several processes: connection, division of work, and synchronization of batch statistics."""

from __future__ import annotations

import os
from collections.abc import Sequence

import torch
from accelerate import PartialState
from accelerate.utils import gather_object, reduce
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from ..processing.errors import InputError


def connect_processes() -> None:
    """
    Connect launched processes, also on CPUs. Call this before anything else initializes Accelerate.

    Raises:
        InputError: If the processes remain unconnected, since each would train alone in the same folder.
    """
    if launched_on_cpus() and PartialState().num_processes == 1:
        # A library may have initialized the state before, without `cpu=True`.
        PartialState._reset_state()
        PartialState(cpu=True)
    check_connected(PartialState().num_processes)


def check_connected(num_processes: int) -> None:
    """Raise `InputError` if not all launched processes are among the `num_processes` connected ones."""
    launched = _launched()
    if num_processes != launched:
        raise InputError(
            f"{launched} processes were launched, but {num_processes} are connected: the others would overwrite its "
            "files; launch them with `accelerate launch` or torchrun"
        )


def launched_on_cpus() -> bool:
    """Whether several processes were launched without a GPU, which Accelerate only connects with `cpu=True`."""
    return _launched() > 1 and not torch.accelerator.is_available()


def _launched() -> int:
    return int(os.environ.get("WORLD_SIZE", "1"))


def refuse_launcher(what: str) -> None:
    """Raise `InputError` if several processes were launched for `what`, which runs in one."""
    if _launched() > 1:
        raise InputError(
            f"{_launched()} processes were launched, but {what} runs in one: start it without a launcher, and run "
            "others on other devices with CUDA_VISIBLE_DEVICES and their own output folders"
        )


def unused_devices(how: str) -> str | None:
    """
    A message if this process, started without a launcher, leaves devices unused.

    Args:
        how (`str`): How to use all devices; `{count}` is replaced by their number.

    Returns:
        `str`, *optional*: The message; `None` if no device is unused.
    """
    count = torch.accelerator.device_count()
    if count < 2 or _launched() > 1:
        return None
    return f"one of {count} devices is used: {how.format(count=count)}"


def process_rows(rows: Sequence[int]) -> Sequence[int]:
    """The rows that this process computes; [`gather_rows`] gathers the results."""
    state = PartialState()
    return rows[state.process_index :: state.num_processes]


def gather_rows(batches: Sequence[torch.Tensor]) -> torch.Tensor:
    """
    Gather results for the rows of all processes as one tensor, in every process.

    Args:
        batches (`Sequence[torch.Tensor]`): Results for this process's [`process_rows`], in order, on the CPU.

    Returns:
        `torch.Tensor`: Results for all rows, in order.
    """
    parts = [torch.cat(list(part)) for part in gather_object([batches]) if len(part)]
    if len(parts) == 1:
        return parts[0]
    gathered = parts[0].new_empty((sum(map(len, parts)), *parts[0].shape[1:]))
    for process, part in enumerate(parts):
        gathered[process :: PartialState().num_processes] = part
    return gathered


@torch.no_grad()
def average_batch_statistics(model: nn.Module) -> None:
    """
    Average the running statistics of batch normalizations over all processes, so that all evaluate alike.

    Training does not read running statistics, and averaging is linear, so it may happen at any step.
    """
    if PartialState().num_processes == 1:
        return
    for module in model.modules():
        if isinstance(module, _BatchNorm) and module.running_mean is not None and module.running_var is not None:
            for statistics in (module.running_mean, module.running_var):
                statistics.copy_(reduce(statistics, "mean"))
