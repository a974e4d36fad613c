"""Inputs of language models, which wrappers such as peft pass to every model."""

from collections.abc import Mapping
from typing import Any


TEXT_INPUTS = ("input_ids", "attention_mask", "inputs_embeds", "token_type_ids")


def without_text_inputs(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """
    Further arguments of a model that reads recordings or pages, without those of texts: peft passes these, as `None`,
    to models of the tasks `SEQ_CLS` and `FEATURE_EXTRACTION`.

    Args:
        arguments (`Mapping[str, Any]`):
            By name.

    Raises:
        `ValueError`: if one of texts is not `None`.
    """
    for name in TEXT_INPUTS:
        if arguments.get(name) is not None:
            raise ValueError(f"{name} belongs to texts, which are not read here: leave it out.")
    return {name: value for name, value in arguments.items() if name not in TEXT_INPUTS}


__all__ = ["TEXT_INPUTS", "without_text_inputs"]
