"""Prepared folders, to train and evaluate on: memory-mapped datasets, and whether they fit a model."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import datasets

from ..processing.errors import InputError
from ..processing.feature_extraction_ecg import EcgFeatureExtractor
from .model_files import EXTRACTOR, extractor_settings, load_feature_extractor, read_json
from .shard_checks import check_shards
from .sharding import MANIFEST, WORK


# What the manifest says of each shard, at least.
_SHARD = {"file": str, "split": str, "size": int, "rows": int, "sha256": str}
_SHARD_NAME = re.compile(r"data/[\w.-]+\.parquet")
# Settings that act after the signal and the peaks are stored, or only choose which windows are: a model may differ in
# these from the dataset.
_NOT_STORED = frozenset(
    (
        *("num_beats", "beat_length", "patch_size", "lead_names", "windows", "stride_seconds", "on_no_beats"),
        # Beats are cut, and pages drawn, as they are read.
        "use_beat_features",
        *("layout", "image_size", "image_mean", "image_std", "do_find_page"),
    )
)


# What a new classifier takes over from the recordings that it is trained on, whatever its encoder had: the paper
# scales CPSC2018 and CSN, and reads five seconds of CPSC2018, with an encoder that was pre-trained without either.
_TAKEN_OVER = ("do_rescale", "rescale_limit", "window_seconds")


def is_prepared(folder: str | Path) -> bool:
    """Whether a folder is the output of `clear-hug prepare`, finished or not."""
    folder = Path(folder)
    return (folder / WORK).is_dir() or all((folder / name).is_file() for name in (MANIFEST, EXTRACTOR))


def load_prepared(
    folder: str | Path, streamed: Collection[str] = ()
) -> tuple[dict[str, datasets.Dataset], EcgFeatureExtractor]:
    """
    The datasets of a prepared folder by split, and the feature extractor that they were prepared with.

    Args:
        folder (`str` or `Path`): What `clear-hug prepare` wrote.
        streamed (`Collection[str]`, *optional*): Splits that become `datasets.IterableDataset`s, which read the files
            as they are used. The others are copied into the cache of `datasets` first, from where any row can be read
            at once.

    Every file is read once in full when a folder is first loaded, and its digest held against the manifest.

    Raises:
        InputError: If the preparation is not finished, or a file is missing, damaged, or holds what the preparation
            never writes; the message names it.
    """
    folder = Path(folder)
    manifest = read_manifest(folder)
    extractor = load_feature_extractor(folder)
    settings = extractor_settings(extractor)
    for name, value in manifest["feature_extractor"].items():
        if settings.get(name, value) != value:
            raise InputError(
                f"{folder / EXTRACTOR} is damaged: its {name} is {settings[name]!r}, and the signals were prepared "
                f"with {value!r}; copy the folder again, or prepare it anew"
            )
    check_shards(folder, manifest, extractor.sampling_rate)
    files: dict[str, list[str]] = {}
    for shard in manifest["shards"]:
        if shard["rows"]:
            files.setdefault(shard["split"], []).append(str(folder / shard["file"]))
    loaded: dict[str, datasets.Dataset] = {}
    for streaming in (False, True):
        some = {split: paths for split, paths in files.items() if (split in streamed) == streaming}
        if some:
            loaded.update(datasets.load_dataset("parquet", data_files=some, streaming=streaming))
    return {split: loaded[split] for split in files}, extractor


def count_prepared(folder: str | Path) -> dict[str, int]:
    """Rows of each split of a prepared folder; errors as in [`load_prepared`]."""
    counts: dict[str, int] = {}
    for shard in read_manifest(folder)["shards"]:
        counts[shard["split"]] = counts.get(shard["split"], 0) + shard["rows"]
    return counts


def check_prepared_for(folder: str | Path, feature_extractor: EcgFeatureExtractor) -> None:
    """
    Refuse a prepared folder whose signals or beats a model's own feature extractor would have made otherwise.

    Args:
        folder (`str` or `Path`): The prepared folder.
        feature_extractor ([`EcgFeatureExtractor`]): The model's.

    Raises:
        InputError: If it was prepared for another system, or a setting differs; or as in [`load_prepared`].
    """
    prepared, wanted = read_manifest(folder)["feature_extractor"], extractor_settings(feature_extractor)
    its_own = load_feature_extractor(folder)
    if type(its_own).__name__ != type(feature_extractor).__name__:
        raise InputError(
            f"{folder} was prepared for another system, by {type(its_own).__name__}, and the model needs "
            f"{type(feature_extractor).__name__}: prepare the recordings again with `clear-hug prepare --model`"
        )
    for name in sorted({*prepared, *wanted} - _NOT_STORED):
        if prepared.get(name) != wanted.get(name):
            raise InputError(
                f"{folder} was prepared with {name}={prepared.get(name)!r} and the model needs "
                f"{name}={wanted.get(name)!r}: prepare the recordings again with `clear-hug prepare --model`"
            )


def check_independent_labels(folder: str | Path) -> None:
    """
    Refuse to train on a prepared folder whose labels are the classes of one column: a recording has one of them, and
    the recipes train labels that are independent of each other.

    Args:
        folder (`str` or `Path`): The prepared folder.

    Raises:
        InputError: If its labels are classes; or as in [`load_prepared`].
    """
    source = read_manifest(folder).get("source") or {}
    if source.get("problem_type") == "single_label_classification":
        columns = (source.get("settings") or {}).get("label_columns") or ["labels"]
        raise InputError(
            f"the labels of {folder} are the classes of one column, {columns[0]!r}, and training one class of several "
            "is not supported yet: make a column of 1 and 0 for each class, and prepare the table again"
        )


def match_prepared(folder: str | Path, feature_extractor: EcgFeatureExtractor) -> EcgFeatureExtractor:
    """
    The feature extractor of a classifier that is to be trained on a prepared folder: the encoder's, but it scales as
    the folder's does and, for a model that reads beats, has its window where that is shorter.

    Args:
        folder (`str` or `Path`): The prepared folder.
        feature_extractor ([`EcgFeatureExtractor`]): The encoder's.

    Raises:
        InputError: As in [`check_prepared_for`], if another setting differs.
    """
    prepared, wanted = read_manifest(folder)["feature_extractor"], extractor_settings(feature_extractor)
    taken = {name: prepared[name] for name in _TAKEN_OVER if name in prepared and name in wanted}
    # Beats of a shorter window are fewer; patches and pages of one are others.
    if "num_beats" not in wanted or taken.get("window_seconds", 0.0) > wanted["window_seconds"]:
        taken.pop("window_seconds", None)
    adopted = type(feature_extractor)(**{**wanted, **taken})
    check_prepared_for(folder, adopted)
    return adopted


def select_labels(dataset: datasets.Dataset, label_names: Sequence[str] | None) -> datasets.Dataset:
    """A prepared dataset with these of its labels only, in this order; without labels for `None`."""
    has = list((dataset.features or {}).get("labels") or ())
    if has == list(label_names or ()):
        return dataset
    bare = dataset.remove_columns("labels")
    if not label_names:
        return bare
    labels = [{name: row[name] for name in label_names} for row in dataset["labels"]]
    feature = {name: datasets.Value("float32") for name in label_names}
    return bare.add_column("labels", labels, feature=feature)


def read_manifest(folder: str | Path) -> dict[str, Any]:
    """The manifest of a prepared folder; errors as in [`load_prepared`]."""
    folder = Path(folder)
    path = folder / MANIFEST
    if not path.is_file():
        raise InputError(f"{folder} is not prepared to the end: start the same `clear-hug prepare` again, it resumes")
    manifest = read_json(path)
    if not isinstance(manifest.get("shards"), list) or not isinstance(manifest.get("feature_extractor"), dict):
        raise InputError(f"{path} is not a manifest of `clear-hug prepare`: name the folder that it wrote")
    source = manifest.get("source")
    names = source.get("label_names") if isinstance(source, dict) else []
    fits = _is_or_absent(source, dict) and _is_or_absent((source or {}).get("settings"), dict)
    fits = fits and _is_or_absent(names, list) and all(isinstance(name, str) for name in names or ())
    if not fits or not all(_is_shard(shard) for shard in manifest["shards"]):
        raise InputError(f"{path} is damaged: copy the folder again, or prepare it anew")
    return manifest


def _is_shard(entry: Any) -> bool:
    """Whether an entry of the manifest names a file in this folder, and what there is to know about it."""
    fits = isinstance(entry, dict) and all(type(entry.get(name)) is kind for name, kind in _SHARD.items())
    return fits and entry["rows"] >= 0 and _SHARD_NAME.fullmatch(entry["file"]) is not None


def _is_or_absent(value: Any, kind: type) -> bool:
    return value is None or isinstance(value, kind)
