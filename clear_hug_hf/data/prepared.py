"""Load prepared folders as memory-mapped datasets, and check that they match a model."""

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


# Required fields of each shard in the manifest.
_SHARD = {"file": str, "split": str, "size": int, "rows": int, "sha256": str}
_SHARD_NAME = re.compile(r"data/[\w.-]+\.parquet")
# Settings that take effect after signals and peaks are stored, or that only select windows: the model and the dataset
# may differ in them.
_NOT_STORED = frozenset(
    (
        *("num_beats", "beat_length", "patch_size", "lead_names", "windows", "stride_seconds", "on_no_beats"),
        # Beats are cut, pages drawn and windows normalized when rows are collated.
        *("use_beat_features", "rhythm_features", "num_time_embeddings", "on_lost_beats"),
        *("layout", "image_size", "image_mean", "image_std", "do_find_page", "normalize"),
    )
)


# Settings that a new classifier adopts from its training data instead of its encoder: Pan et al. (2026) rescale
# CPSC2018 and CSN, and read five seconds of CPSC2018, with an encoder that was pre-trained without either. Other
# authors scale each data set in its own way, too.
_ADOPTED_SETTINGS = ("do_rescale", "rescale_limit", "window_seconds", "scaling", "signal_mean", "signal_std")


def is_prepared(folder: str | Path) -> bool:
    """Whether a folder is the output of `clear-hug prepare`, finished or not."""
    folder = Path(folder)
    return (folder / WORK).is_dir() or all((folder / name).is_file() for name in (MANIFEST, EXTRACTOR))


def load_prepared(
    folder: str | Path, streamed: Collection[str] = ()
) -> tuple[dict[str, datasets.Dataset], EcgFeatureExtractor]:
    """
    Load the datasets of a prepared folder by split, and the feature extractor that they were prepared with.

    Every file is read once in full when a folder is first loaded, to compare its digest with the manifest.

    Args:
        folder (`str` or `Path`): Output folder of `clear-hug prepare`.
        streamed (`Collection[str]`, *optional*): Splits to load as `datasets.IterableDataset`s, which read the files
            on the fly. The others are first copied into the cache of `datasets`, for random access.

    Raises:
        InputError: If the preparation is unfinished, or a file is missing, damaged or has invalid contents.
    """
    folder = Path(folder)
    manifest = read_manifest(folder)
    extractor = load_feature_extractor(folder)
    settings = extractor_settings(extractor)
    for name, value in manifest["feature_extractor"].items():
        if settings.get(name, value) != value:
            raise InputError(
                f"{folder / EXTRACTOR} is damaged: {name} is {settings[name]!r}, but the signals were prepared with "
                f"{value!r}; copy the folder again, or repeat the preparation"
            )
    check_shards(folder, manifest, extractor.sampling_rate)
    files: dict[str, list[str]] = {}
    for shard in manifest["shards"]:
        if shard["rows"]:
            files.setdefault(shard["split"], []).append(str(folder / shard["file"]))
    loaded: dict[str, datasets.Dataset] = {}
    for streaming in (False, True):
        data_files = {split: paths for split, paths in files.items() if (split in streamed) == streaming}
        if data_files:
            loaded.update(datasets.load_dataset("parquet", data_files=data_files, streaming=streaming))
    return {split: loaded[split] for split in files}, extractor


def count_prepared(folder: str | Path) -> dict[str, int]:
    """Number of rows in each split of a prepared folder; raises as [`load_prepared`]."""
    counts: dict[str, int] = {}
    for shard in read_manifest(folder)["shards"]:
        counts[shard["split"]] = counts.get(shard["split"], 0) + shard["rows"]
    return counts


def check_prepared_for(folder: str | Path, feature_extractor: EcgFeatureExtractor) -> None:
    """
    Check that the signals and beats of a prepared folder are those that a model's feature extractor would compute.

    Args:
        folder (`str` or `Path`): The prepared folder.
        feature_extractor ([`EcgFeatureExtractor`]): Feature extractor of the model.

    Raises:
        InputError: If it was prepared for another system or with other settings; or as in [`load_prepared`].
    """
    prepared, required = read_manifest(folder)["feature_extractor"], extractor_settings(feature_extractor)
    extractor = load_feature_extractor(folder)
    if type(extractor).__name__ != type(feature_extractor).__name__:
        raise InputError(
            f"{folder} was prepared for another system, with {type(extractor).__name__}, but the model requires "
            f"{type(feature_extractor).__name__}: prepare the recordings again with `clear-hug prepare --model`"
        )
    for name in sorted({*prepared, *required} - _NOT_STORED):
        if prepared.get(name) != required.get(name):
            raise InputError(
                f"{folder} was prepared with {name}={prepared.get(name)!r}, but the model requires "
                f"{name}={required.get(name)!r}: prepare the recordings again with `clear-hug prepare --model`"
            )


def check_independent_labels(folder: str | Path) -> None:
    """
    Check that the labels of a prepared folder are independent of each other, as training requires, and not the
    mutually exclusive classes of one column.

    Args:
        folder (`str` or `Path`): The prepared folder.

    Raises:
        InputError: If the labels are mutually exclusive classes; or as in [`load_prepared`].
    """
    source = read_manifest(folder).get("source") or {}
    if source.get("problem_type") == "single_label_classification":
        columns = (source.get("settings") or {}).get("label_columns") or ["labels"]
        raise InputError(
            f"the labels of {folder} are the classes of one column, {columns[0]!r}, and single-label training is not "
            "supported yet: add a column of 1 and 0 for each class, and prepare the table again"
        )


def match_prepared(folder: str | Path, feature_extractor: EcgFeatureExtractor) -> EcgFeatureExtractor:
    """
    The feature extractor of a classifier to be trained on a prepared folder: that of the encoder, with the scaling of
    the folder and, for models that read beats, the window of the folder if it is shorter.

    Args:
        folder (`str` or `Path`): The prepared folder.
        feature_extractor ([`EcgFeatureExtractor`]): Feature extractor of the encoder.

    Raises:
        InputError: If another setting differs, as in [`check_prepared_for`].
    """
    prepared, settings = read_manifest(folder)["feature_extractor"], extractor_settings(feature_extractor)
    adopted = {name: prepared[name] for name in _ADOPTED_SETTINGS if name in prepared and name in settings}
    # A shorter window only has fewer beats, but different patches and pages.
    if "num_beats" not in settings or adopted.get("window_seconds", 0.0) > settings["window_seconds"]:
        adopted.pop("window_seconds", None)
    matched = type(feature_extractor)(**{**settings, **adopted})
    check_prepared_for(folder, matched)
    return matched


def select_labels(dataset: datasets.Dataset, label_names: Sequence[str] | None) -> datasets.Dataset:
    """A prepared dataset with only these labels, in this order; `None` removes all labels."""
    current = list((dataset.features or {}).get("labels") or ())
    if current == list(label_names or ()):
        return dataset
    unlabeled = dataset.remove_columns("labels")
    if not label_names:
        return unlabeled
    labels = [{name: row[name] for name in label_names} for row in dataset["labels"]]
    feature = {name: datasets.Value("float32") for name in label_names}
    return unlabeled.add_column("labels", labels, feature=feature)


def read_manifest(folder: str | Path) -> dict[str, Any]:
    """The manifest of a prepared folder; raises as [`load_prepared`]."""
    folder = Path(folder)
    path = folder / MANIFEST
    if not path.is_file():
        raise InputError(f"{folder} is not fully prepared: run the same `clear-hug prepare` again to resume")
    manifest = read_json(path)
    if not isinstance(manifest.get("shards"), list) or not isinstance(manifest.get("feature_extractor"), dict):
        raise InputError(f"{path} is not a manifest of `clear-hug prepare`: name the folder that it wrote")
    source = manifest.get("source")
    names = source.get("label_names") if isinstance(source, dict) else []
    is_valid = _is_optional(source, dict) and _is_optional((source or {}).get("settings"), dict)
    is_valid = is_valid and _is_optional(names, list) and all(isinstance(name, str) for name in names or ())
    if not is_valid or not all(_is_shard(shard) for shard in manifest["shards"]):
        raise InputError(f"{path} is damaged: copy the folder again, or repeat the preparation")
    return manifest


def _is_shard(entry: Any) -> bool:
    """Whether an entry of the manifest describes a file in its folder."""
    is_valid = isinstance(entry, dict) and all(type(entry.get(name)) is kind for name, kind in _SHARD.items())
    return is_valid and entry["rows"] >= 0 and _SHARD_NAME.fullmatch(entry["file"]) is not None


def _is_optional(value: Any, kind: type) -> bool:
    return value is None or isinstance(value, kind)
