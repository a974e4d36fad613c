"""Digests of weights, settings and data, which identify the features that an encoder computes from recordings."""

from __future__ import annotations

import hashlib
import json
from dataclasses import fields
from typing import TYPE_CHECKING, Any

import torch
from transformers import PreTrainedConfig


if TYPE_CHECKING:
    import datasets


# Increment when the same weights and recordings give different features.
_VERSION = "1"
# Columns of a prepared dataset on which features depend.
_INPUT_COLUMNS = ("sampling_rate", "signal", "signal_scale", "lead_mask", "r_peaks")
# Labels, dtype, version: fields that do not change what a model computes.
_COMMON_FIELDS = frozenset(field.name for field in fields(PreTrainedConfig))


def weights_digest(model: Any) -> str:
    """Hex digest of a model's weights and of the settings that change what it computes."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        tensor = tensor.detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy())
    return digest_of(digest.hexdigest(), settings_digest(model.config))


def settings_digest(config: PreTrainedConfig) -> str:
    """
    Hex digest of the config fields that change what an encoder computes, according to their metadata. All fields of a
    nested transformers config count, except those that every config has.
    """
    return digest_of(_encoder_settings(config))


def _encoder_settings(config: PreTrainedConfig) -> dict[str, Any]:
    settings: dict[str, Any] = {"model_type": config.model_type}
    for field in fields(config):
        if field.name not in _COMMON_FIELDS and field.metadata.get("changes_features", True):
            value = getattr(config, field.name)
            settings[field.name] = _encoder_settings(value) if isinstance(value, PreTrainedConfig) else value
    return settings


def dataset_digest(dataset: datasets.Dataset) -> str:
    """Hex digest of the model inputs in a prepared dataset: signals, leads and peaks, in order."""
    import pyarrow as pa
    import pyarrow.compute as pc

    digest = hashlib.sha256()
    for batch in dataset.select_columns(list(_INPUT_COLUMNS)).with_format("arrow").iter(batch_size=500):
        for name in _INPUT_COLUMNS:
            column = batch[name].combine_chunks()
            digest.update(f"{name} {len(column)}\n".encode())
            # Hash values and lengths: Arrow buffers may contain bytes that belong to no row.
            while isinstance(column, pa.ListArray | pa.LargeListArray | pa.FixedSizeListArray):
                digest.update(pc.list_value_length(column).to_numpy(zero_copy_only=False).tobytes())
                column = column.flatten()
            digest.update(column.to_numpy(zero_copy_only=False).tobytes())
    return digest.hexdigest()


def digest_of(*parts: Any) -> str:
    """Hex digest of JSON-like values."""
    text = json.dumps([_VERSION, *parts], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:40]
