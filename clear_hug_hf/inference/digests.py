"""Digests of weights, settings and data: names of what an encoder makes of recordings."""

from __future__ import annotations

import hashlib
import json
from dataclasses import fields
from typing import TYPE_CHECKING, Any

import torch
from transformers import PreTrainedConfig


if TYPE_CHECKING:
    import datasets


# Changed whenever the same weights and recordings give other features.
_VERSION = "1"
# Columns of a prepared dataset on which features depend.
_READ = ("sampling_rate", "signal", "signal_scale", "lead_mask", "r_peaks")
# Labels, dtype, version: fields that say nothing about what a model computes.
_OF_EVERY_CONFIG = frozenset(one.name for one in fields(PreTrainedConfig))


def weights_digest(model: Any) -> str:
    """Hexadecimal digest of a model's weights and of those settings that change what it computes."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        tensor = tensor.detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy())
    return digest_of(digest.hexdigest(), settings_digest(model.config))


def settings_digest(config: PreTrainedConfig) -> str:
    """
    Hexadecimal digest of those fields of a config that change what an encoder computes, as their metadata say. Fields
    of a config inside (a tower of transformers) all count, except for what every config of transformers has.
    """
    return digest_of(_encoder_settings(config))


def _encoder_settings(config: PreTrainedConfig) -> dict[str, Any]:
    found: dict[str, Any] = {"model_type": config.model_type}
    for one in fields(config):
        if one.name not in _OF_EVERY_CONFIG and one.metadata.get("changes_features", True):
            value = getattr(config, one.name)
            found[one.name] = _encoder_settings(value) if isinstance(value, PreTrainedConfig) else value
    return found


def dataset_digest(dataset: datasets.Dataset) -> str:
    """Hexadecimal digest of what a model reads of a prepared dataset: signals, leads and peaks, in their order."""
    import pyarrow as pa
    import pyarrow.compute as pc

    digest = hashlib.sha256()
    for batch in dataset.select_columns(list(_READ)).with_format("arrow").iter(batch_size=500):
        for name in _READ:
            column = batch[name].combine_chunks()
            digest.update(f"{name} {len(column)}\n".encode())
            # Values and lengths, not buffers: what lies between and behind the rows is not theirs.
            while isinstance(column, pa.ListArray | pa.LargeListArray | pa.FixedSizeListArray):
                digest.update(pc.list_value_length(column).to_numpy(zero_copy_only=False).tobytes())
                column = column.flatten()
            digest.update(column.to_numpy(zero_copy_only=False).tobytes())
    return digest.hexdigest()


def digest_of(*parts: Any) -> str:
    """Hexadecimal digest of anything that JSON can hold."""
    text = json.dumps([_VERSION, *parts], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:40]
