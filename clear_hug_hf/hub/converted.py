"""Save converted checkpoints as model folders with a record of the conversion and a model card."""

from __future__ import annotations

import re
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from ..inference.pipeline_ecg_classification import EcgClassificationPipeline
from ..processing import InputError
from ..systems import SYSTEMS
from ..training.folders import CARD, CONVERSION, FOOTER
from ..utils.files import RunFolder, atomic_folder, check_writable, file_digest, write_json
from .checkpoints import checkpoint_digest, open_checkpoint


# Files that a conversion writes.
_OUTPUT_FILES = re.compile(
    r"(conversion|config|preprocessor_config)\.json|README\.md|model(-\d+-of-\d+)?\.safetensors(\.index\.json)?|\w+\.py"
)


def check_replaceable(folder: str | Path, path: Path) -> Path:
    """
    Check, before any work, that a folder can be written and contains nothing but an earlier conversion of the
    checkpoint `path`.

    Raises:
        InputError: If it is not writable or contains other files.
    """
    folder = check_writable(folder, [CONVERSION], [path])
    remedy = "choose another folder, or delete it"
    run_folder = RunFolder(folder, CONVERSION, "conversion", remedy, written=_OUTPUT_FILES)
    run_folder.open({"sha256": checkpoint_digest(path)} if path.is_file() else {})
    if (folder / CARD).is_file() and FOOTER not in (folder / CARD).read_text(encoding="utf-8"):
        raise InputError(f"{folder} contains a {CARD} that no conversion wrote: move it, or choose another folder")
    return folder


def save_converted(
    path: Path, folder: Path, model: Any, feature_extractor: Any, auto_class: str, facts: Mapping[str, Any]
) -> dict[str, Any]:
    """
    Save a converted model atomically: weights, config, code, preprocessing, the pipeline of a classifier,
    `conversion.json` and a card.

    Args:
        path (`Path`): The released file.
        folder (`Path`): Output folder, as [`check_replaceable`] returned it.
        model ([`PreTrainedModel`]): The converted model.
        feature_extractor: Closest equivalent of the original preprocessing.
        auto_class (`str`): Auto class that loads all weights.
        facts (`Mapping`): `system`, `kind`, `num_tensors`, `size` and other fields of `conversion.json`; if tensors
            are not used, `unused_tensors` with their names by reason; `license_note` if it is not that of the system's
            released weights.

    Returns:
        `dict`: Content of `conversion.json`.
    """
    # Cards need heavy libraries.
    from .model_card import RECORDING_CLASSIFIERS, make_card

    converter = SYSTEMS[model.config.model_type].converter
    weights = converter.weights if converter is not None else None
    if weights is not None:
        stated = {} if weights.hub_license is None else {"hub_license": weights.hub_license}
        facts = {"license_note": weights.license_note, **stated, **facts}
    if (num_attention_heads := getattr(model.config, "num_attention_heads", None)) is not None:
        facts = {**facts, "num_attention_heads": num_attention_heads}
    with open_checkpoint(path) as (checkpoint, name):
        source = {"file": name, "sha256": file_digest(checkpoint)}
    conversion: dict[str, Any] = {
        **facts,
        **source,
        "num_parameters": sum(parameter.numel() for parameter in model.parameters()),
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
