"""Embeddings of recordings as a Parquet table, for search, clustering, or classifiers of other libraries."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from tqdm.auto import tqdm
from transformers import PreTrainedModel

from ..data.model_files import extractor_settings
from ..data.records import RecordReference, Rejected
from ..processing.errors import InputError
from ..processing.feature_extraction_ecg import EcgFeatureExtractor
from ..utils.files import RunFolder, atomic_file, check_same, check_writable
from .digests import weights_digest
from .records import RecordEmbedding, embed_records


RECORDS_PER_PART = 256
_REJECTED, _IDENTITY = b"rejected", b"clear_hug_hf"


def write_embeddings(
    model: PreTrainedModel,
    feature_extractor: EcgFeatureExtractor,
    references: Sequence[RecordReference],
    output: str | Path,
    *,
    per_lead: bool = False,
    batch_size: int = 1,
    overwrite: bool = False,
    progress: bool = False,
) -> tuple[int, list[Rejected]]:
    """
    Write embeddings of records to a Parquet table, atomically. If the process is killed, the same call resumes.

    Args:
        model, feature_extractor, per_lead, batch_size: As in [`embed_records`].
        references (`Sequence[RecordReference]`): The records. A record longer than the model's window gives one row
            per window.
        output (`str` or `Path`): The table, with the columns `record_id`, `patient_id`, `start` and `end` [s] and
            `embedding`, a list of numbers. With `per_lead`, `embedding` is a list of lists, one for each of the
            model's `lead_names` (also in the table's metadata), NaN for missing leads. An existing table of the same
            records, model and settings is replaced; anything else is refused.
        overwrite (`bool`, *optional*, defaults to `False`): Whether to replace any existing file.
        progress (`bool`, *optional*, defaults to `False`): Whether to show a progress bar.

    Returns:
        `tuple[int, list[Rejected]]`: The number of rows, and the records that could not be used, with reasons.

    Raises:
        InputError: If no record can be used, if the output contains a different table, or if unfinished parts of a
            different call lie beside it.
    """
    output = Path(output)
    parts = check_writable(output.with_name(f".{output.name}.parts"))
    records = json.dumps(
        [
            [str(reference.path), reference.record_id, *([reference.description] if reference.description else [])]
            for reference in references
        ]
    )
    identity = {
        "encoder": weights_digest(model.base_model),
        "feature_extractor": extractor_settings(feature_extractor),
        "per_lead": per_lead,
        "lead_names": list(model.config.lead_names),
        "version": version("clear-hug-hf"),
        "records": hashlib.sha256(records.encode()).hexdigest(),
    }
    if not overwrite:
        _check_replaceable(output, identity)
    remedy = "finish that one, delete the folder, or choose another output"
    run_folder = RunFolder(parts, "identity.json", "table", remedy)
    if run_folder.open(identity) is None:
        run_folder.claim(identity)

    schema = _schema(model.config, per_lead).with_metadata({_IDENTITY: json.dumps(identity)})
    starts = range(0, len(references), RECORDS_PER_PART)
    paths = [parts / f"{number:06d}.parquet" for number in range(len(starts))]
    with tqdm(total=len(references), desc="embed", unit="rec", disable=not progress) as bar:
        for path, start in zip(paths, starts, strict=True):
            batch = references[start : start + RECORDS_PER_PART]
            if path.is_file():
                bar.update(len(batch))
                continue
            embeddings: list[tuple[RecordReference, RecordEmbedding]] = []
            failed: list[Rejected] = []
            results = embed_records(model, feature_extractor, batch, per_lead=per_lead, batch_size=batch_size)
            for reference, result in zip(batch, results, strict=True):
                if isinstance(result, Rejected):
                    failed.append(result)
                else:
                    embeddings.append((reference, result))
                bar.update()
            table = _table(embeddings, schema)
            with atomic_file(path) as partial:
                pq.write_table(table.replace_schema_metadata({_REJECTED: json.dumps(failed)}), partial)
    rejected = [Rejected(*entry) for path in paths for entry in json.loads(pq.read_schema(path).metadata[_REJECTED])]
    num_rows = sum(pq.read_metadata(path).num_rows for path in paths)
    if not num_rows:
        shutil.rmtree(parts)
        first = f": {rejected[0].record_id}: {rejected[0].reason}" if rejected else ""
        raise InputError(f"none of the {len(references)} record(s) can be used{first}")
    # Only one part is in memory at a time.
    with atomic_file(output) as partial, pq.ParquetWriter(partial, schema) as writer:
        for path in paths:
            table = pq.read_table(path)
            if table.num_rows:
                writer.write_table(table.replace_schema_metadata(schema.metadata))
    shutil.rmtree(parts)
    return num_rows, rejected


def _check_replaceable(output: Path, identity: dict[str, Any]) -> None:
    """Refuse to replace anything but a table of the same records, model and settings."""
    if not output.exists():
        return
    try:
        saved = json.loads((pq.read_schema(output).metadata or {})[_IDENTITY])
    except (pa.ArrowException, OSError, KeyError, ValueError):
        raise InputError(f"{output} contains data that `embed` did not write: choose another output") from None
    check_same(output, "table", saved, identity, "choose another output, or use --overwrite")


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


def _table(embeddings: Sequence[tuple[RecordReference, RecordEmbedding]], schema: pa.Schema) -> pa.Table:
    """A table with one row per window."""
    if not embeddings:
        return schema.empty_table()
    vectors = np.concatenate([embedding.vectors for _, embedding in embeddings])
    values: pa.Array = pa.array(vectors.reshape(-1), type=pa.float32())
    for size in reversed(vectors.shape[1:]):
        values = pa.FixedSizeListArray.from_arrays(values, size)
    places = [place for _, embedding in embeddings for place in embedding.places]
    references = [reference for reference, embedding in embeddings for _ in embedding.places]
    columns = [
        pa.array([reference.record_id for reference in references], type=pa.string()),
        pa.array([reference.patient_id for reference in references], type=pa.string()),
        pa.array([round(place.start, 3) for place in places]),
        pa.array([round(place.end, 3) for place in places]),
        values.cast(schema.field("embedding").type),
    ]
    return pa.Table.from_arrays(columns, schema=schema)
