"""Recordings to vectors: a table for search, clustering, or a classifier of any other library."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from tqdm.auto import tqdm
from transformers import PreTrainedModel

from ..data.collator import EcgCollator
from ..data.preparation import Rejected, prepare
from ..data.records import RecordReference
from ..data.sharding import extractor_settings
from ..processing.errors import InputError
from ..utils.files import Difference, check_writable, first_difference, write_text
from .features import encode, weights_digest


RECORDS_PER_PART = 256
_IDENTITY = "identity.json"
_REJECTED, _ABOUT = b"rejected", b"clear_hug_hf"


def embed(
    model: PreTrainedModel,
    dataset: datasets.Dataset,
    feature_extractor: Any,
    *,
    per_lead: bool = False,
    batch_size: int = 64,
    progress: bool = False,
) -> np.ndarray:
    """
    A vector for each row of a prepared dataset: the mean over its windows where the model does not hold all beats.

    Args:
        model ([`PreTrainedModel`]): Any of this package; its encoder is used, on the device that it is on.
        dataset ([`datasets.Dataset`]): As `prepare` makes it.
        feature_extractor: The model's.
        per_lead (`bool`, *optional*, defaults to `False`): Whether each lead gets a vector, instead of their mean.
        batch_size (`int`, *optional*, defaults to `64`): Rows at a time.
        progress (`bool`, *optional*, defaults to `False`): Whether to show a progress bar.

    Returns:
        `np.ndarray` of shape `(num_rows, hidden_size)`, float32: the mean of the summary states of the leads that are
        there, which is what the `"mean"` head classifies; or `(num_rows, num_leads, hidden_size)`, NaN for leads that
        are not there.
    """
    if not len(dataset):
        raise InputError("there are no recordings to embed")
    collator = EcgCollator(feature_extractor, label_names=(), all_beats=True)
    columns = encode(model, dataset, collator, batch_size, progress).columns
    states, present = columns["lead_states"].numpy(), columns["present"].numpy()
    if per_lead and states.shape[1] != len(model.config.lead_names):
        raise InputError(f"{model.config.model_type} has one vector for all leads of a page: leave out --per-lead")
    by_lead = np.where(present[:, :, None], states, np.float32("nan"))
    if per_lead:
        return by_lead
    # A window in which no lead has a beat has no mean.
    count = present.sum(axis=1)[:, None]
    summed = np.where(present[:, :, None], states, np.float32(0)).sum(axis=1)
    return np.divide(summed, count, out=np.full_like(summed, np.nan), where=count > 0)


def embed_records(
    references: Sequence[RecordReference],
    model: PreTrainedModel,
    feature_extractor: Any,
    output: str | Path,
    *,
    per_lead: bool = False,
    batch_size: int = 64,
    overwrite: bool = False,
    progress: bool = False,
) -> tuple[int, list[Rejected]]:
    """
    Vectors of records on disk as a Parquet table, whole or not at all; killed, the same call goes on with the records
    that are missing.

    Args:
        references (`Sequence[RecordReference]`): The records. A record longer than the model's window gives a row per
            window.
        model, feature_extractor, per_lead, batch_size, progress: As in [`embed`].
        output (`str` or `Path`): Gets the columns `record_id`, `patient_id`, `start` and `end` [s] and `embedding`, a
            list of numbers; with `per_lead` a list of lists, one for each of the model's `lead_names`, which are also
            in the table's metadata, NaN for leads that are not there. A table of the same records, model and settings
            is made anew, anything else is refused.
        overwrite (`bool`, *optional*, defaults to `False`): Whether another table is replaced, too.

    Returns:
        `tuple[int, list[Rejected]]`: Number of rows, and the records that could not be used, with reasons.

    Raises:
        InputError: If no record can be used, or there is another table, or beside the output are parts of another
            call.
    """
    output = Path(output)
    parts = check_writable(output.with_name(f".{output.name}.parts"))
    about = {
        "encoder": weights_digest(model.base_model),
        "feature_extractor": extractor_settings(feature_extractor),
        "per_lead": per_lead,
        "lead_names": list(model.config.lead_names),
        "version": version("clear-hug-hf"),
    }
    listed = hashlib.sha256(json.dumps([[str(one.path), one.record_id] for one in references]).encode()).hexdigest()
    about = json.loads(json.dumps({**about, "records": listed}))
    if not overwrite:
        _check_replaceable(output, about)
    _take(parts, about)

    schema = _schema(model.config, per_lead).with_metadata({_ABOUT: json.dumps(about)})
    starts = range(0, len(references), RECORDS_PER_PART)
    with tqdm(total=len(references), desc="embed", unit="rec", disable=not progress) as bar:
        for number, start in enumerate(starts):
            batch = references[start : start + RECORDS_PER_PART]
            path = parts / f"{number:06d}.parquet"
            if not path.is_file():
                dataset, failed = prepare(batch, feature_extractor, windows="all", progress=False)
                table = _table(model, dataset, feature_extractor, schema, per_lead, batch_size)
                _write(table.replace_schema_metadata({_REJECTED: json.dumps(failed)}), path)
            bar.update(len(batch))
    paths = [parts / f"{number:06d}.parquet" for number in range(len(starts))]
    rejected = [Rejected(*one) for path in paths for one in json.loads(pq.read_schema(path).metadata[_REJECTED])]
    num_rows = sum(pq.read_metadata(path).num_rows for path in paths)
    if not num_rows:
        shutil.rmtree(parts)
        first = f": {rejected[0].record_id}: {rejected[0].reason}" if rejected else ""
        raise InputError(f"none of the {len(references)} record(s) can be used{first}")
    _join(paths, output, schema)
    shutil.rmtree(parts)
    return num_rows, rejected


def _check_replaceable(output: Path, about: dict[str, Any]) -> None:
    """Refuse to replace anything but a table of the same records, model and settings."""
    if not output.exists():
        return
    try:
        known = json.loads((pq.read_schema(output).metadata or {})[_ABOUT])
    except (pa.ArrowException, OSError, KeyError, ValueError):
        raise InputError(f"{output} holds something that `embed` did not write: choose another output") from None
    if (found := first_difference(known, about)) is not None:
        raise InputError(f"{output} holds a table {_in_words(found)}: choose another output, or give --overwrite")


def _in_words(found: Difference) -> str:
    if found.name in ("encoder", "records"):
        return "of another model" if found.name == "encoder" else "of other records"
    return f"made with another {found.name} ({found.there!r}, now {found.now!r})"


def _schema(config: Any, per_lead: bool) -> pa.Schema:
    vector = pa.list_(pa.float32(), config.hidden_size)
    return pa.schema(
        [
            ("record_id", pa.string()),
            ("patient_id", pa.string()),
            ("start", pa.float64()),
            ("end", pa.float64()),
            ("embedding", pa.list_(vector, len(config.lead_names)) if per_lead else vector),
        ]
    )


def _take(parts: Path, identity: dict[str, Any]) -> None:
    """Take the folder of parts, new or of the same call."""
    path = parts / _IDENTITY
    if path.is_file():
        try:
            before = json.loads(path.read_text(encoding="utf-8"))
        except ValueError:
            before = None
        if (found := first_difference(before, identity)) is not None:
            raise InputError(
                f"{parts} holds parts of a table {_in_words(found)}: finish that one, delete the folder, or choose "
                "another output"
            )
        return
    write_text(path, json.dumps(identity, indent=2) + "\n")


def _table(
    model: PreTrainedModel,
    dataset: datasets.Dataset,
    feature_extractor: Any,
    schema: pa.Schema,
    per_lead: bool,
    batch_size: int,
) -> pa.Table:
    if not len(dataset):
        return schema.empty_table()
    vectors = embed(model, dataset, feature_extractor, per_lead=per_lead, batch_size=batch_size)
    starts = np.asarray(dataset["window_start"], dtype=np.float64)
    lengths = np.array([len(row[0]) for row in dataset["signal"]]) / np.asarray(dataset["sampling_rate"])
    values: pa.Array = pa.array(vectors.reshape(-1), type=pa.float32())
    for size in reversed(vectors.shape[1:]):
        values = pa.FixedSizeListArray.from_arrays(values, size)
    columns = [
        pa.array(dataset["record_id"], type=pa.string()),
        pa.array(dataset["patient_id"], type=pa.string()),
        pa.array(starts.round(3)),
        pa.array((starts + lengths).round(3)),
        values.cast(schema.field("embedding").type),
    ]
    return pa.Table.from_arrays(columns, schema=schema)


def _write(table: pa.Table, path: Path) -> None:
    partial = path.with_name(f".{path.name}.partial")
    pq.write_table(table, partial)
    partial.replace(path)


def _join(paths: Sequence[Path], output: Path, schema: pa.Schema) -> None:
    """One file of all parts; no more than one part is in memory."""
    partial = output.with_name(f".{output.name}.partial")
    with pq.ParquetWriter(partial, schema) as writer:
        for table in _tables(paths, schema):
            writer.write_table(table)
    partial.replace(output)


def _tables(paths: Sequence[Path], schema: pa.Schema) -> Iterator[pa.Table]:
    for path in paths:
        table = pq.read_table(path)
        if table.num_rows:
            yield table.replace_schema_metadata(schema.metadata)
