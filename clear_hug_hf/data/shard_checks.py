"""
Integrity checks of the shards in a prepared folder: digests, columns and values.

A shard is checked once, when its folder is first used. The result is recorded in the cache of `datasets` until the
size or modification time of the file changes; a copy of the folder is checked again. Samples are not decoded, which
would take ten times as long as the digest: the collator checks signals.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from os import cpu_count
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from tqdm.auto import tqdm

from ..processing.errors import InputError
from ..utils.files import file_digest
from .preparation import dataset_features


_CHECKED = "clear-hug-checked"
# Columns that must not have missing values; the others are metadata.
_REQUIRED = ("record_id", "sampling_rate", "unit", "lead_names", "signal", "signal_scale", "lead_mask", "r_peaks")
_REMEDY = "copy the folder again, or repeat the preparation"


def check_shards(folder: Path, manifest: Mapping[str, Any], rate: float) -> None:
    """
    Check every shard of a prepared folder that has not been checked before.

    Args:
        folder (`Path`): The prepared folder.
        manifest (`Mapping[str, Any]`): Its manifest, as `read_manifest` returns it.
        rate (`float`): Sampling rate of its signals [Hz].

    Raises:
        InputError: If a shard is missing, does not match the manifest, lacks a column or has an invalid value.
    """
    shards = [(folder / shard["file"], shard) for shard in manifest["shards"]]
    for path, shard in shards:
        if not path.is_file() or path.stat().st_size != shard["size"]:
            raise InputError(f"{path} is missing or damaged: {_REMEDY}")
    new = [(path, shard, marker) for path, shard in shards if not (marker := _marker(path, shard["sha256"])).exists()]
    # Digests and decoding release the GIL.
    with ThreadPoolExecutor(min(8, cpu_count() or 1)) as pool:
        checks = pool.map(lambda item: _check_shard(item[0], item[1], manifest.get("source") or {}, rate), new)
        # The progress bar appears only after five seconds.
        progress = tqdm(checks, desc="check", total=len(new), unit="file", delay=5, disable=None)
        for (_, _, marker), _ in zip(new, progress, strict=True):
            with suppress(OSError):  # without a writable cache the check is repeated
                marker.parent.mkdir(parents=True, exist_ok=True)
                marker.touch()


def _marker(path: Path, digest: str) -> Path:
    """The file that records that a shard was checked in its current state."""
    stat = path.stat()
    state = f"{path.resolve()} {stat.st_size} {stat.st_mtime_ns} {digest}"
    return Path(datasets.config.HF_DATASETS_CACHE) / _CHECKED / hashlib.sha256(state.encode()).hexdigest()


def _check_shard(path: Path, shard: Mapping[str, Any], source: Mapping[str, Any], rate: float) -> None:
    if file_digest(path) != shard["sha256"]:
        raise InputError(f"{path} is damaged: its SHA-256 is not that of the manifest; {_REMEDY}")
    names, regression = source.get("label_names") or [], source.get("problem_type") == "regression"
    try:
        with pq.ParquetFile(path) as content:
            fault = _schema_fault(content.schema_arrow, names)
            if content.metadata.num_rows != shard["rows"]:
                fault = f"it has {content.metadata.num_rows} rows instead of {shard['rows']}"
            columns = [name for name in content.schema_arrow.names if name != "signal"]
            if fault is None:
                fault = _values_fault(content.read(columns), rate, names, regression)
    except (OSError, pa.ArrowException) as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"{path} is not a complete Parquet file ({reason}): {_REMEDY}") from error
    if fault:
        raise InputError(f"{path} was not written by `clear-hug prepare`: {fault}; {_REMEDY}")


def _schema_fault(schema: pa.Schema, label_names: list[str]) -> str | None:
    for field in dataset_features(label_names).arrow_schema:
        if field.name not in schema.names:
            # Older shards have no `report`.
            if field.name != "report":
                return f"it has no column {field.name}"
        elif schema.field(field.name).type != field.type:
            return f"the column {field.name} has the type {schema.field(field.name).type} instead of {field.type}"
    return None


def _values_fault(table: pa.Table, rate: float, label_names: list[str], regression: bool) -> str | None:
    """The first invalid value, if there is one."""
    if not table.num_rows:
        return None
    columns = {name: table[name].combine_chunks() for name in table.column_names}
    for name in (name for name in _REQUIRED if name in columns):
        if _has_nulls(columns[name]):
            return f"values of {name} are missing"
    if not (columns["sampling_rate"].to_numpy() == np.float32(rate)).all():
        return f"sampling_rate is not {rate:g} Hz in every row"
    scales = columns["signal_scale"].flatten().to_numpy()
    if not (np.isfinite(scales) & (scales > 0)).all():
        return "signal_scale is not positive in every lead"
    counts = np.diff(columns["r_peaks"].offsets.to_numpy())
    peaks = columns["r_peaks"].flatten().to_numpy()
    rows = np.repeat(np.arange(len(counts)), counts)
    same = rows[1:] == rows[:-1]
    if (peaks < 0).any() or (np.diff(peaks)[same] <= 0).any():
        return "r_peaks are negative or not ascending"
    for label in columns["labels"].flatten() if label_names else ():
        values = label.to_numpy(zero_copy_only=False)
        known = values[~np.isnan(values)]
        if regression and not np.isfinite(known).all():
            return "a label is infinite"
        if not regression and (invalid := known[~np.isin(known, (0, 1))]).size:
            return f"a label is {invalid[0]:g}, not 1 or 0"
    return None


def _has_nulls(values: pa.Array) -> bool:
    """Whether a value is missing at any nesting depth."""
    if values.null_count:
        return True
    return pa.types.is_nested(values.type) and _has_nulls(values.flatten())
