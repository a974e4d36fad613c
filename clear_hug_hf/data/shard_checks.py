"""
Whether the shards of a prepared folder are what was prepared: bytes, columns and values.

A shard is checked once, when its folder is first used: that is noted in the cache of `datasets`, beside the copies
that rows are read from afterwards, until the file's size or date changes. A copy of the folder is another folder, and
is checked itself. The samples are not decoded here, which would take ten times as long as their digest: whether a
signal is whole is seen where rows become batches.
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
# Columns without which nothing can be read; the others tell about the recordings.
_NEEDED = ("record_id", "sampling_rate", "unit", "lead_names", "signal", "signal_scale", "lead_mask", "r_peaks")
_REMEDY = "copy the folder again, or prepare it anew"


def check_shards(folder: Path, manifest: Mapping[str, Any], rate: float) -> None:
    """
    Check every shard of a prepared folder that was not checked before.

    Args:
        folder (`Path`): The prepared folder.
        manifest (`Mapping[str, Any]`): Its manifest, as `read_manifest` gives it.
        rate (`float`): That of its signals [Hz].

    Raises:
        InputError: If a shard is missing, is not what the manifest says, lacks a column, or holds values that
            `clear-hug prepare` never writes; the message names the file.
    """
    shards = [(folder / shard["file"], shard) for shard in manifest["shards"]]
    for path, shard in shards:
        if not path.is_file() or path.stat().st_size != shard["size"]:
            raise InputError(f"{path} is missing or damaged: {_REMEDY}")
    new = [(path, shard, note) for path, shard in shards if not (note := _note(path, shard["sha256"])).exists()]
    # Digests and decoding leave Python to other threads.
    with ThreadPoolExecutor(min(8, cpu_count() or 1)) as pool:
        done = pool.map(lambda one: _check_shard(one[0], one[1], manifest.get("source") or {}, rate), new)
        # The bar shows only where it takes long.
        shown = tqdm(done, desc="check", total=len(new), unit="file", delay=5, disable=None)
        for (_, _, note), _ in zip(new, shown, strict=True):
            with suppress(OSError):  # a cache that cannot be written only costs time
                note.parent.mkdir(parents=True, exist_ok=True)
                note.touch()


def _note(path: Path, digest: str) -> Path:
    """The file that says that a shard was checked as it is now."""
    stat = path.stat()
    state = f"{path.resolve()} {stat.st_size} {stat.st_mtime_ns} {digest}"
    return Path(datasets.config.HF_DATASETS_CACHE) / _CHECKED / hashlib.sha256(state.encode()).hexdigest()


def _check_shard(path: Path, shard: Mapping[str, Any], source: Mapping[str, Any], rate: float) -> None:
    if file_digest(path) != shard["sha256"]:
        raise InputError(f"{path} is damaged: its SHA-256 is not that of what was prepared; {_REMEDY}")
    names, regression = source.get("label_names") or [], source.get("problem_type") == "regression"
    try:
        with pq.ParquetFile(path) as content:
            fault = _schema_fault(content.schema_arrow, names)
            if content.metadata.num_rows != shard["rows"]:
                fault = f"it has {content.metadata.num_rows} rows and not {shard['rows']}"
            small = [name for name in content.schema_arrow.names if name != "signal"]
            if fault is None:
                fault = _values_fault(content.read(small), rate, names, regression)
    except (OSError, pa.ArrowException) as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"{path} is no whole Parquet file ({reason}): {_REMEDY}") from error
    if fault:
        raise InputError(f"{path} is not what `clear-hug prepare` writes: {fault}; {_REMEDY}")


def _schema_fault(schema: pa.Schema, label_names: list[str]) -> str | None:
    for field in dataset_features(label_names).arrow_schema:
        if field.name not in schema.names:
            # `report` is newer than the format.
            if field.name != "report":
                return f"it has no column {field.name}"
        elif schema.field(field.name).type != field.type:
            return f"the column {field.name} holds {schema.field(field.name).type} and not {field.type}"
    return None


def _values_fault(table: pa.Table, rate: float, label_names: list[str], regression: bool) -> str | None:
    """What is wrong with the values of some rows, if anything is."""
    if not table.num_rows:
        return None
    columns = {name: table[name].combine_chunks() for name in table.column_names}
    for name in (name for name in _NEEDED if name in columns):
        if _nulls(columns[name]):
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
        return "r_peaks do not ascend from the start of the signal"
    for label in columns["labels"].flatten() if label_names else ():
        values = label.to_numpy(zero_copy_only=False)
        known = values[~np.isnan(values)]
        if regression and not np.isfinite(known).all():
            return "a label is infinite"
        if not regression and (wrong := known[~np.isin(known, (0, 1))]).size:
            return f"a label is {wrong[0]:g}, not 1 or 0"
    return None


def _nulls(values: pa.Array) -> bool:
    """Whether a value is missing, at any depth."""
    if values.null_count:
        return True
    return pa.types.is_nested(values.type) and _nulls(values.flatten())
