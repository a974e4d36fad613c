"""A small CLEAR-HUG and beats to feed it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from clear_hug_hf import ClearHugConfig


SMALL = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "decoder_hidden_size": 24,
    "decoder_num_hidden_layers": 2,
    "decoder_num_attention_heads": 2,
    "decoder_intermediate_size": 40,
    "num_labels": 5,
    # Larger than the default, so that what must differ differs visibly.
    "initializer_range": 0.2,
}


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def small_config() -> Callable[..., ClearHugConfig]:
    def build(**overrides: Any) -> ClearHugConfig:
        return ClearHugConfig(**{**SMALL, **overrides})

    return build


@pytest.fixture(scope="session")
def make_batch() -> Callable[..., dict[str, torch.Tensor]]:
    """Two recordings: one of `num_beats` beats in twelve leads, one with fewer beats that lacks V5 and V6."""

    def build(num_beats: int = 15, real_beats: tuple[int, ...] = (15, 9), seed: int = 1) -> dict[str, torch.Tensor]:
        generator = torch.Generator().manual_seed(seed)
        batch_size = len(real_beats)
        input_values = torch.randn((batch_size, 12, 15, 96), generator=generator)[:, :, :num_beats].clone()
        attention_mask = torch.arange(num_beats) < torch.tensor(real_beats)[:, None]
        time_ids = torch.randint(1, 11, (batch_size, 15), generator=generator).sort(dim=1).values[:, :num_beats]
        lead_mask = torch.ones(batch_size, 12, dtype=torch.bool)
        lead_mask[1:, 10:] = False
        input_values *= attention_mask[:, None, :, None] & lead_mask[:, :, None, None]
        return {
            "input_values": input_values,
            "attention_mask": attention_mask,
            "time_ids": time_ids * attention_mask,
            "lead_mask": lead_mask,
        }

    return build
