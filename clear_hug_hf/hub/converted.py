"""Converted checkpoints as model folders, each with what it was made of and a card that says so."""

from __future__ import annotations

import re
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from ..inference.pipeline_ecg_classification import EcgClassificationPipeline
from ..processing import InputError
from ..training.folders import CARD, CONVERSION, FOOTER
from ..utils.files import RunFolder, atomic_folder, check_writable, file_digest, write_json


# What a conversion writes.
_OF_CONVERSION = re.compile(
    r"(conversion|config|preprocessor_config)\.json|README\.md|model(-\d+-of-\d+)?\.safetensors(\.index\.json)?|\w+\.py"
)


def check_replaceable(folder: str | Path, path: Path) -> Path:
    """
    Refuse, before any work, a folder that cannot be written, or with anything that no conversion of the checkpoint
    `path` put there.

    Raises:
        InputError: If that is so.
    """
    folder = check_writable(folder, [CONVERSION], [path])
    remedy = "choose another folder, or delete it"
    before = RunFolder(folder, CONVERSION, "conversion", remedy, written=_OF_CONVERSION)
    before.open({"sha256": file_digest(path)} if path.is_file() else {})
    if (folder / CARD).is_file() and FOOTER not in (folder / CARD).read_text(encoding="utf-8"):
        raise InputError(f"{folder} holds a {CARD} that no conversion wrote: move it away, or choose another folder")
    return folder


def save_converted(
    path: Path, folder: Path, model: Any, feature_extractor: Any, auto_class: str, facts: Mapping[str, Any]
) -> dict[str, Any]:
    """
    Write a converted model whole: weights, config, code, preprocessing, the pipeline of a classifier,
    `conversion.json` and a card.

    Args:
        path (`Path`): The released file.
        folder (`Path`): As [`check_replaceable`] gave it.
        model ([`PreTrainedModel`]): With the file's weights.
        feature_extractor: Nearest to how the weights' recordings were prepared.
        auto_class (`str`): Auto class that loads the model with all its weights.
        facts (`Mapping`): `system`, `kind`, `num_tensors`, `size`, `license_note`, and what else is to be known.

    Returns:
        `dict`: What stands in `conversion.json`.
    """
    # Cards bring heavier libraries, which only those who make one need.
    from .model_card import RECORDING_CLASSIFIERS, make_card

    conversion: dict[str, Any] = {
        **facts,
        "file": path.name,
        "sha256": file_digest(path),
        "num_parameters": sum(parameter.numel() for parameter in model.parameters()),
        "num_attention_heads": model.config.num_attention_heads,
        "versions": {name: version(name) for name in ("clear-hug-hf", "torch", "transformers", "safetensors")},
    }
    number = conversion["num_parameters"]
    card = make_card(
        folder.name, model.config, auto_class, feature_extractor, {CONVERSION: conversion}, num_parameters=number
    ).card
    with atomic_folder(folder) as partial:
        if auto_class in RECORDING_CLASSIFIERS:
            EcgClassificationPipeline(model=model, feature_extractor=feature_extractor).save_pretrained(partial)
        else:
            model.save_pretrained(partial)
            feature_extractor.save_pretrained(partial)
        (partial / CARD).write_text(str(card), encoding="utf-8")
        write_json(partial / CONVERSION, conversion)
    return conversion
