"""A small CLEAR-HUG and beats to feed it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from small_systems import SMALL_SYSTEMS, Batch, make_beats

from clear_hug_hf import ClearHugConfig


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def small_config() -> Callable[..., ClearHugConfig]:
    return lambda **overrides: SMALL_SYSTEMS["clear_hug"].config(**{"num_labels": 5, **overrides})


@pytest.fixture(scope="session")
def make_batch() -> Callable[..., Batch]:
    """See `small_systems.make_beats`."""
    return make_beats
