"""Several processes that train one model: connected, working on shares, and with the same batch statistics."""

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
    Connect the processes that a launcher started, on a CPU too, before anything else asks for their number.

    Raises:
        InputError: If they are not connected: they would train apart in one folder.
    """
    if on_connected_cpus() and PartialState().num_processes == 1:
        # Some library may have asked before, without saying that the processes are to use the CPU.
        PartialState._reset_state()
        PartialState(cpu=True)
    check_connected(PartialState().num_processes)


def check_connected(num_processes: int) -> None:
    """Refuse processes that a launcher started and that do not know of each other; `num_processes` are connected."""
    launched = _launched()
    if num_processes != launched:
        raise InputError(
            f"{launched} processes were launched and Accelerate connects {num_processes}: they would "
            "train apart and overwrite each other; launch them with `accelerate launch` or torchrun"
        )


def on_connected_cpus() -> bool:
    """Whether several processes were launched without a GPU: Accelerate connects them only if it is told to."""
    return _launched() > 1 and not torch.accelerator.is_available()


def _launched() -> int:
    return int(os.environ.get("WORLD_SIZE", "1"))


def refuse_launcher(what: str) -> None:
    """Refuse several processes for something that runs in one, such as `a benchmark`."""
    if _launched() > 1:
        raise InputError(
            f"{_launched()} processes were launched and {what} runs in one: start it without a launcher, and on other "
            "devices start others with CUDA_VISIBLE_DEVICES and outputs of their own"
        )


def unused_devices(how: str) -> str | None:
    """
    What to say where a process without a launcher leaves devices idle: one process uses one.

    Args:
        how (`str`): What would use the others; `{count}` stands for the number of all.

    Returns:
        `str`, *optional*: A sentence; `None` where no device is idle.
    """
    count = torch.accelerator.device_count()
    if count < 2 or _launched() > 1:
        return None
    return f"one of {count} devices is used: {how.format(count=count)}"


def own_share(rows: Sequence[int]) -> Sequence[int]:
    """Those of some rows that this process computes; see [`gather_shares`]."""
    state = PartialState()
    return rows[state.process_index :: state.num_processes]


def gather_shares(batches: Sequence[torch.Tensor]) -> torch.Tensor:
    """
    What the processes computed of their shares of rows, as one tensor, the same in every process.

    Args:
        batches (`Sequence[torch.Tensor]`): Of this process's [`own_share`], in its order, on the CPU.

    Returns:
        `torch.Tensor`: A row for each of all rows, in their order.
    """
    shares = [torch.cat(list(one)) for one in gather_object([batches]) if len(one)]
    if len(shares) == 1:
        return shares[0]
    whole = shares[0].new_empty((sum(map(len, shares)), *shares[0].shape[1:]))
    for process, share in enumerate(shares):
        whole[process :: PartialState().num_processes] = share
    return whole


@torch.no_grad()
def average_batch_statistics(model: nn.Module) -> None:
    """
    Give every process the mean of what batch normalizations have seen in each, so that all evaluate alike.

    Training does not read these running means, and their mean is the same whenever it is taken: a batch counts as much
    as without it.
    """
    if PartialState().num_processes == 1:
        return
    for module in model.modules():
        if isinstance(module, _BatchNorm) and module.running_mean is not None and module.running_var is not None:
            for statistics in (module.running_mean, module.running_var):
                statistics.copy_(reduce(statistics, "mean"))
