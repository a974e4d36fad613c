"""What all models share, against numbers of others."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors import safe_open
from torch.nn import functional as F

from clear_hug_hf.modeling.modeling_ecg import AttentionHead, EcgModelOutput


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
def test_when_the_attention_head_has_released_weights_then_logits_are_the_released_ones(
    shared: Path, implementation: str
) -> None:
    """The head of a published benchmark, whose output projection gives the classes."""
    with safe_open(shared / "parity" / "official_ecg_cpc_small.safetensors", "pt") as file:
        num_heads = json.loads(file.metadata()["query_head"])["heads"]
        prefix = "query_head.head."
        names = [name for name in file.keys() if name.startswith(prefix)]  # noqa: SIM118
        weights = {name.removeprefix(prefix): file.get_tensor(name) for name in names}
        tokens = file.get_tensor("expected.last_hidden_state_random")
        expected = file.get_tensor("expected.query_head_logits_random")
    projection = weights.pop("c_proj.weight")
    fields = {"hidden_size": tokens.shape[2], "num_pooling_heads": num_heads, "_attn_implementation": implementation}
    head = AttentionHead(SimpleNamespace(**fields))
    head.load_state_dict(weights)
    with torch.no_grad():
        feature, _ = head(EcgModelOutput(last_hidden_state=tokens))
    torch.testing.assert_close(F.linear(feature, projection), expected, atol=2e-6, rtol=1e-5)
