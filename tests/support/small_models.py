"""The small CLEAR-HUG that the tests of training train."""

from __future__ import annotations

from typing import Any

from transformers import set_seed

from clear_hug_hf import ClearHugConfig, ClearHugForPreTraining


LABELS = ("fast", "inverted")
ENCODER = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
DECODER = {f"decoder_{name}": size for name, size in ENCODER.items()}
SMALL = {**ENCODER, **DECODER}
NO_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}


def make_model(model_class: type = ClearHugForPreTraining, seed: int = 0, **fields: Any) -> Any:
    """A new model, the same for the same seed."""
    set_seed(seed)
    return model_class(ClearHugConfig.preset("tiny", **{**SMALL, **fields}))
