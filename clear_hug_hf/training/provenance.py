"""
What a run writes down about itself, so that a model card can be made from its files alone: which recordings, of whom,
under which licence, with which recipe and versions.
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
from .folders import CONVERSION, METRICS, PRETRAINING


SOURCE_SPLITS, RANDOM_SPLITS = "official", "random by patient"

_REMEDY = "make the run again, or take the file away and do without its numbers"
_PACKAGES = ("clear-hug-hf", "torch", "transformers", "accelerate", "datasets", "numpy", "scipy")


def describe_environment() -> dict[str, Any]:
    """When, with which versions and on what kind of device something is computed; nothing that names the machine."""
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
    What is known about where recordings came from.

    Args:
        path (`str` or `Path`, *optional*): What the user named: a prepared folder, a folder of records or a table;
            `None` for simulated recordings. Only its name is written down, since a path tells of a machine.
        source ([`RecordSource`], *optional*): The reader, where the recordings were read from their source.
        splits (`str`, *optional*): How patients were divided, where that is known; a prepared folder tells it itself.

    Returns:
        `dict`: `name`, `title`, `license`, `citation`, `label_set`, `splits` (how patients were divided); `None` where
        unknown.
    """
    from ..data.prepared import is_prepared, read_manifest  # needs what publishing and exporting do without

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
        kept = manifest.get("source", {})
        known |= {name: kept.get(name) for name in ("title", "license", "citation")}
        settings = kept.get("settings", {})
        known["label_set"] = settings.get("label_set")
        if known["title"] == settings.get("kind"):
            # Records and tables of the user's own have no title: the folder's name tells more.
            known["title"] = None
        known["splits"] = SOURCE_SPLITS if manifest.get("random_splits") is None else RANDOM_SPLITS
    return known


def count_sets(sets: Mapping[str, Any]) -> dict[str, dict[str, int]]:
    """
    Recordings and patients of each split of prepared datasets; a recording without a patient counts as one of its own.
    Streams, which would have to be read for that, are left out.
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
    size: str | None = None,
    options: Mapping[str, Any] | None = None,
    augmentation: float | None = None,
    before: Mapping[str, Any] | None = None,
    signal_teacher: str | Path | None = None,
) -> dict[str, Any]:
    """
    What is written to [`PRETRAINING`] in the folder of a run.

    Args:
        model ([`PreTrainedModel`]): What was pre-trained.
        history (`Sequence[Mapping]`): A row per epoch, as `pretrain` gives them.
        recipe (`Mapping`): Settings of the run, as those of `PretrainingArguments`.
        data (`Sequence[Mapping]`): For each source what [`describe_source`] gives, and [`count_sets`] as `sets`.
        size (`str`, *optional*): Preset of the model's config.
        options (`Mapping`, *optional*): Fields of the config that differ from the preset.
        augmentation (`float`, *optional*): How much recordings were changed.
        before (`Mapping`, *optional*): The same of an earlier run whose model this one went on with.
        signal_teacher (`str` or `Path`, *optional*): Folder of the encoder that pages were aligned with.
    """
    held_out = [row for row in history if row["validation_loss"] is not None]
    return {
        "system": model.config.model_type,
        "size": size,
        "model": dict(options or {}),
        "num_parameters": model.num_parameters(),
        "data": list(data),
        "recipe": {**recipe, **({} if augmentation is None else {"augmentation": augmentation})},
        "result": history[-1],
        "best": min(held_out, key=lambda row: row["validation_loss"], default=None),
        "initialized_from": before,
        **({} if signal_teacher is None else {"signal_teacher": find_facts(signal_teacher).get(PRETRAINING)}),
        "environment": describe_environment(),
    }


def find_facts(folder: str | Path) -> dict[str, dict[str, Any]]:
    """
    What the run that made a model wrote about it.

    Args:
        folder (`str` or `Path`): A model folder. Its own files count, then those of the run that it is the output of.

    Returns:
        `dict`: Contents by file name: [`METRICS`], [`PRETRAINING`], [`CONVERSION`], as far as they are there.

    Raises:
        InputError: If one of them is damaged.
    """
    folder = Path(folder)
    places = [folder]
    if folder.name in ("model", "best"):
        places.append(folder.parent)
    found: dict[str, dict[str, Any]] = {}
    for name in (METRICS, PRETRAINING, CONVERSION):
        contents = (read_state(place / name, _REMEDY) for place in places)
        if (content := next((one for one in contents if one is not None), None)) is not None:
            found[name] = content
    # The best epoch's model is not that of the last.
    if folder.name == "best" and found.get(PRETRAINING, {}).get("best"):
        found[PRETRAINING] |= {"result": found[PRETRAINING]["best"], "chosen": "best"}
    return found


def describe_encoder(folder: str | Path) -> dict[str, Any]:
    """What is known of how the encoder in a model folder was made; errors as in [`find_facts`]."""
    facts = find_facts(folder)
    finetuned = facts.pop(METRICS, None)
    if finetuned is None:
        return dict(facts)
    return {**finetuned.get("encoder", {}), **facts, "finetuned_on": finetuned.get("data")}
