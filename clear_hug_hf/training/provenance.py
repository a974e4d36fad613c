"""
Facts that a run records, from which its model card is generated: recordings and their license, recipe, results and
versions.
"""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from ..data.readers.base import RecordSource
from ..data.splits import patient_keys
from ..utils.files import read_state
from .folders import CALIBRATION, CONVERSION, METRICS, PRETRAINING


SOURCE_SPLITS, RANDOM_SPLITS = "official", "random by patient"

_REMEDY = "repeat the run, or remove the file and its numbers from the card"
_PACKAGES = ("clear-hug-hf", "torch", "transformers", "accelerate", "datasets", "numpy", "scipy")


def describe_environment() -> dict[str, Any]:
    """Date, versions and type of device of a computation, without the name of the machine."""
    versions = {}
    for package in _PACKAGES:
        with suppress(PackageNotFoundError):
            versions[package] = version(package)
    if torch.cuda.is_available():
        device = torch.cuda.get_device_name()
    else:
        device = f"CPU ({platform.machine()}), threads: {torch.get_num_threads()}"
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "device": device,
        "python": platform.python_version(),
        "versions": versions,
    }


def describe_source(
    path: str | Path | None, source: RecordSource | None = None, splits: str | None = None
) -> dict[str, Any]:
    """
    Describe the source of recordings.

    Args:
        path (`str` or `Path`, *optional*): A prepared folder, a folder of records or a table, of which only the name
            is recorded; `None` for simulated recordings.
        source ([`RecordSource`], *optional*): The reader, if the recordings are not prepared.
        splits (`str`, *optional*): How patients were split, if known; a prepared folder records it itself.

    Returns:
        `dict`: `name`, `title`, `license`, `citation`, `label_set` and `splits`; `None` if unknown.
    """
    from ..data.prepared import (
        is_prepared,
        read_manifest,
    )  # imports libraries that publishing and exporting do not need

    known: dict[str, Any] = dict.fromkeys(("name", "title", "license", "citation", "label_set", "splits"))
    if path is None:
        title = "Simulated recordings of clear_hug_hf"
        return known | {"name": "simulated", "title": title, "splits": RANDOM_SPLITS}
    known |= {"name": Path(path).name, "splits": splits}
    if source is not None:
        known |= {name: getattr(source, name) for name in ("title", "license", "citation")}
        known["label_set"] = source.settings.get("label_set")
    elif is_prepared(path):
        manifest = read_manifest(path)
        prepared_source = manifest.get("source", {})
        known |= {name: prepared_source.get(name) for name in ("title", "license", "citation")}
        settings = prepared_source.get("settings", {})
        known["label_set"] = settings.get("label_set")
        if known["title"] == settings.get("kind"):
            # The title of unknown records and tables is only their kind; the name of the folder says more.
            known["title"] = None
        known["splits"] = SOURCE_SPLITS if manifest.get("random_splits") is None else RANDOM_SPLITS
    return known


def count_sets(sets: Mapping[str, Any]) -> dict[str, dict[str, int]]:
    """
    Count recordings and patients of each split of prepared datasets. A recording without a patient counts as one.
    Streams are omitted, since counting would read them.
    """
    counts = {}
    for split, dataset in sets.items():
        if not hasattr(dataset, "__len__"):
            continue
        patients = {*patient_keys(dataset["record_id"], dataset["patient_id"])}
        counts[split] = {"recordings": len({*dataset["record_id"]}), "patients": len(patients)}
    return counts


def describe_pretraining(
    model: Any,
    history: Sequence[Mapping[str, Any]],
    recipe: Mapping[str, Any],
    data: Sequence[Mapping[str, Any]],
    *,
    objective: str | None = None,
    size: str | None = None,
    options: Mapping[str, Any] | None = None,
    objective_options: Mapping[str, Any] | None = None,
    augmentation: float | None = None,
    views: Sequence[Sequence[str]] | None = None,
    initialized_from: Mapping[str, Any] | None = None,
    signal_teacher: str | Path | None = None,
    tokenizer: str | Path | None = None,
) -> dict[str, Any]:
    """
    The content of [`PRETRAINING`] in the folder of a run.

    Args:
        model ([`PreTrainedModel`]): The pre-trained model.
        history (`Sequence[Mapping]`): A row per epoch, as in `PretrainingResult`.
        recipe (`Mapping`): Settings of the run, from `PretrainingArguments`.
        data (`Sequence[Mapping]`): For each source, the result of [`describe_source`] with that of [`count_sets`] as
            `sets`.
        objective (`str`, *optional*): Name of the objective (default: that of the system).
        size (`str`, *optional*): Preset of the encoder's config.
        options (`Mapping`, *optional*): Fields of the encoder's config that override the preset.
        objective_options (`Mapping`, *optional*): Fields that override those of a shared objective.
        augmentation (`float`, *optional*): Strength of the augmentation.
        views (`Sequence[Sequence[str]]`, *optional*): Changes that made the first and the second view of a recording.
        initialized_from (`Mapping`, *optional*): The same facts of the run whose model this run started from.
        signal_teacher (`str` or `Path`, *optional*): Folder of the encoder that pages were aligned with.
        tokenizer (`str` or `Path`, *optional*): Folder of the tokenizer whose codes the model predicted.
    """
    saved = getattr(model, "published", model)
    is_ranked = getattr(model, "ranks_by_loss", True)
    validated = [row for row in history if row["validation_loss"] is not None and is_ranked]
    teachers = {"signal_teacher": signal_teacher, "tokenizer": tokenizer}
    return {
        "system": saved.config.model_type,
        **({} if objective is None else {"objective": objective}),
        "size": size,
        "model": dict(options or {}),
        **({"objective_options": dict(objective_options)} if objective_options else {}),
        "num_parameters": saved.num_parameters(),
        "data": list(data),
        "recipe": {
            **recipe,
            **({} if augmentation is None else {"augmentation": augmentation}),
            **({} if views is None else {"views": [list(names) for names in views]}),
        },
        "result": history[-1],
        "best": min(validated, key=lambda row: row["validation_loss"], default=None),
        "initialized_from": initialized_from,
        **{name: find_facts(folder).get(PRETRAINING) for name, folder in teachers.items() if folder is not None},
        "environment": describe_environment(),
    }


def find_facts(folder: str | Path) -> dict[str, dict[str, Any]]:
    """
    Facts that the run of a model recorded.

    Args:
        folder (`str` or `Path`): A model folder. Files in it take precedence over those of the run's output folder.

    Returns:
        `dict`: Contents by file name, of those of [`METRICS`], [`PRETRAINING`], [`CONVERSION`] and
            [`CALIBRATION`] that exist.

    Raises:
        InputError: If one of them is damaged.
    """
    folder = Path(folder)
    folders = [folder, folder.parent] if folder.name in ("model", "best") else [folder]
    facts: dict[str, dict[str, Any]] = {}
    for name in (METRICS, PRETRAINING, CONVERSION, CALIBRATION):
        for parent in folders:
            if name not in facts and (content := read_state(parent / name, _REMEDY)) is not None:
                facts[name] = content
    # `best` holds the model of the best epoch, not of the last.
    if folder.name == "best" and facts.get(PRETRAINING, {}).get("best"):
        facts[PRETRAINING] |= {"result": facts[PRETRAINING]["best"], "chosen": "best"}
    return facts


def describe_encoder(folder: str | Path) -> dict[str, Any]:
    """Facts about the training of the encoder in a model folder; errors as in [`find_facts`]."""
    facts = find_facts(folder)
    facts.pop(CALIBRATION, None)
    finetuned = facts.pop(METRICS, None)
    if finetuned is None:
        return dict(facts)
    return {**finetuned.get("encoder", {}), **facts, "finetuned_on": finetuned.get("data")}
