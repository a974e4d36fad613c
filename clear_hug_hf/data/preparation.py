"""Prepare recordings as dataset rows: clean the signal, detect beats, and store samples as 16-bit integers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import datasets
import numpy as np
import pyarrow as pa
from datasets.table import InMemoryTable
from tqdm.auto import tqdm
from transformers.utils import logging

from ..processing.errors import InputError
from ..processing.feature_extraction_ecg import EcgFeatureExtractor
from ..processing.leads import STANDARD_LEADS
from ..processing.signal_cleaning import canonical_unit
from ..processing.signal_report import Quality, describe_skipped, find_blank_samples, measure_quality
from .records import Recording, RecordReference, Rejected, describe_error


logger = logging.get_logger(__name__)

_INT16_MAX = 32767
# Beats are detected in batches of at most this many recordings, or this many samples per lead [at the model's rate],
# to bound memory.
_BATCH_RECORDS, _BATCH_SAMPLES = 64, 1_000_000
_TABLE_ROWS = 1000


class Prepared(NamedTuple):
    """Result of [`prepare`]: the dataset, and the recordings that could not be used."""

    dataset: datasets.Dataset
    rejected: list[Rejected]


class _Cleaned(NamedTuple):
    record: Recording | RecordReference
    patient_id: str | None
    unit: str
    signal: np.ndarray
    lead_mask: np.ndarray
    blank: np.ndarray | None
    quality: Quality


def dataset_features(label_names: Sequence[str] | None = None) -> datasets.Features:
    """
    Columns of a prepared dataset.

    Args:
        label_names (`Sequence[str]`, *optional*): Label names; without them there is no `labels` column.

    Returns:
        [`datasets.Features`]:

        - `record_id`, `patient_id`, `split`: strings, the last two null if unknown.
        - `window_start` (`float32`): Start of the row in its recording [s].
        - `sampling_rate` (`float32`): Sampling rate of `signal` [Hz].
        - `unit` (`string`): Unit of the signal: `mV`, or `NU` for normalized recordings.
        - `lead_names` (`string`, 12): Names of the leads, in the order of the next three columns.
        - `signal` (`int16`, 12 x samples) and `signal_scale` (`float32`, 12): cleaned leads; their product is in
          `unit`.
        - `lead_mask` (`bool`, 12): Whether each lead is present; missing leads are zeros.
        - `r_peaks` (`int32`): R peaks of all beats [samples from the start of the row], and `num_beats` (`int32`).
        - `flat_leads`, `nan_share`, `clipped_share`: Quality of the original recording, see [`Quality`].
        - `report` (`string`): Text report of the recording; null if there is none.
        - `labels`: one `float32` per label name: 1 or 0, or a regression target; NaN if unknown.
    """
    features: dict[str, Any] = {
        "record_id": datasets.Value("string"),
        "patient_id": datasets.Value("string"),
        "split": datasets.Value("string"),
        "window_start": datasets.Value("float32"),
        "sampling_rate": datasets.Value("float32"),
        "unit": datasets.Value("string"),
        "lead_names": datasets.List(datasets.Value("string"), length=12),
        "signal": datasets.List(datasets.List(datasets.Value("int16")), length=12),
        "signal_scale": datasets.List(datasets.Value("float32"), length=12),
        "lead_mask": datasets.List(datasets.Value("bool"), length=12),
        "r_peaks": datasets.List(datasets.Value("int32")),
        "num_beats": datasets.Value("int32"),
        "flat_leads": datasets.List(datasets.Value("string")),
        "nan_share": datasets.Value("float32"),
        "clipped_share": datasets.Value("float32"),
        "report": datasets.Value("string"),
    }
    if label_names:
        features["labels"] = {name: datasets.Value("float32") for name in label_names}
    return datasets.Features(features)


def prepare(
    records: Iterable[Recording | RecordReference],
    feature_extractor: EcgFeatureExtractor,
    label_names: Sequence[str] | None = None,
    *,
    progress: bool = True,
) -> Prepared:
    """
    Prepare recordings in memory: read and clean them, and detect their beats. [`prepare_shards`] writes any number of
    recordings to disk.

    Args:
        records (`Iterable[Recording | RecordReference]`): The recordings; references are read one at a time.
        feature_extractor ([`EcgFeatureExtractor`]): Cleans recordings and detects beats; the model must use the same
            one. Unreadable windows are skipped with a warning, see [`EcgFeatureExtractor.find_windows`].
        label_names (`Sequence[str]`, *optional*): Label columns; unlabeled recordings have NaN in all of them. Without
            names the dataset has no labels.
        progress (`bool`, *optional*, defaults to `True`): Whether to show a progress bar on stderr.

    Returns:
        [`Prepared`]: The dataset (columns as in [`dataset_features`]), and the recordings that could not be used, with
        reasons. Every recording is in exactly one of the two.

    Raises:
        InputError: If a recording has a label that is not in `label_names`.
    """
    features = dataset_features(label_names)
    rejected: list[Rejected] = []
    with tqdm(records, desc="prepare", unit="rec", disable=not progress) as counted:
        tables = list(prepare_tables(counted, feature_extractor, label_names, rejected))
    table = pa.concat_tables(tables) if tables else features.arrow_schema.empty_table()
    return Prepared(datasets.Dataset(InMemoryTable(table), datasets.DatasetInfo(features=features)), rejected)


def prepare_tables(
    records: Iterable[Recording | RecordReference],
    feature_extractor: EcgFeatureExtractor,
    label_names: Sequence[str] | None,
    rejected: list[Rejected],
) -> Iterator[pa.Table]:
    """
    Prepare recordings as a stream of small tables.

    Args:
        records, feature_extractor, label_names: As in [`prepare`].
        rejected (`list[Rejected]`): Recordings that cannot be used are appended here.

    Yields:
        `pyarrow.Table`: Non-empty tables with the columns of [`dataset_features`], in the order of the recordings.

    Raises:
        InputError: As in [`prepare`].
    """
    schema = dataset_features(label_names).arrow_schema
    for batch in _cleaned_batches(records, feature_extractor, label_names, rejected):
        rows: list[dict[str, Any]] = []
        for cleaned, peaks in zip(batch, _detect(batch, feature_extractor), strict=True):
            if isinstance(peaks, Exception):
                rejected.append(Rejected(cleaned.record.record_id, describe_error(peaks)))
                continue
            try:
                rows += _rows(cleaned, peaks, feature_extractor, label_names)
            except InputError as error:
                rejected.append(Rejected(cleaned.record.record_id, describe_error(error)))
        for start in range(0, len(rows), _TABLE_ROWS):
            yield _table(rows[start : start + _TABLE_ROWS], schema)


def _cleaned_batches(
    records: Iterable[Recording | RecordReference],
    extractor: EcgFeatureExtractor,
    label_names: Sequence[str] | None,
    rejected: list[Rejected],
) -> Iterator[list[_Cleaned]]:
    batch: list[_Cleaned] = []
    samples = 0
    for record in records:
        if label_names and (unknown := sorted(set(record.labels or ()).difference(label_names))):
            raise InputError(
                f"recording {record.record_id} has the label {unknown[0]!r}, which is not one of "
                f"{', '.join(label_names)}: name all labels of the recordings"
            )
        try:
            recording = record.read()
            description = recording.waveform, recording.sampling_rate, recording.lead_names, recording.unit
            signal, lead_mask = extractor.clean(*description)
            units = [recording.unit] if isinstance(recording.unit, str) else recording.unit
            # The extractor converts every other unit to mV, unless it scales the recordings.
            unit = "NU" if not extractor.keeps_unit or "NU" in map(canonical_unit, units) else "mV"
            blank = find_blank_samples(*description[:2]) if extractor.do_mask_flat_leads else None
            quality = measure_quality(*description)
            batch.append(_Cleaned(record, recording.patient_id, unit, signal, lead_mask, blank, quality))
        except Exception as error:  # an unusable file must not stop the others
            rejected.append(Rejected(record.record_id, describe_error(error)))
            continue
        samples += signal.shape[1]
        if len(batch) == _BATCH_RECORDS or samples >= _BATCH_SAMPLES:
            yield batch
            batch, samples = [], 0
    if batch:
        yield batch


def _detect(batch: list[_Cleaned], extractor: EcgFeatureExtractor) -> list[np.ndarray | Exception]:
    """R peaks of each recording, or the error of the detector."""
    try:
        return [*extractor.detect([cleaned.signal for cleaned in batch], [cleaned.lead_mask for cleaned in batch])]
    except Exception as error:  # detectors of other libraries fail in many ways on single recordings
        if len(batch) == 1:
            return [error]
        return [result for cleaned in batch for result in _detect([cleaned], extractor)]


def _rows(
    cleaned: _Cleaned,
    peaks: np.ndarray,
    extractor: EcgFeatureExtractor,
    label_names: Sequence[str] | None,
) -> Iterator[dict[str, Any]]:
    if cleaned.blank is not None:
        peaks = extractor.drop_peaks(peaks, cleaned.quality.gaps)
    parts, skipped = extractor.find_windows(cleaned.signal, peaks, cleaned.blank)
    for reason in describe_skipped(skipped):
        logger.warning("%s: %s", cleaned.record.record_id, reason)
    for part in parts.values():
        scale = np.maximum(np.abs(part.signal).max(axis=1), np.finfo(np.float32).tiny * _INT16_MAX) / _INT16_MAX
        row = {
            "record_id": cleaned.record.record_id,
            "patient_id": cleaned.patient_id,
            "split": cleaned.record.split,
            "window_start": part.start / extractor.sampling_rate,
            "sampling_rate": extractor.sampling_rate,
            "unit": cleaned.unit,
            "lead_names": STANDARD_LEADS,
            "signal": np.rint(part.signal / scale[:, None]).astype(np.int16),
            "signal_scale": scale.astype(np.float32),
            "lead_mask": cleaned.lead_mask,
            "r_peaks": part.r_peaks.astype(np.int32),
            "num_beats": part.r_peaks.size,
            "flat_leads": cleaned.quality.flat_leads,
            "nan_share": cleaned.quality.nan_share,
            "clipped_share": cleaned.quality.clipped_share,
            "report": cleaned.record.metadata.get("report"),
        }
        if label_names:
            labels = cleaned.record.labels or {}
            row["labels"] = {name: labels.get(name, float("nan")) for name in label_names}
        yield row


def _table(rows: list[dict[str, Any]], schema: pa.Schema) -> pa.Table:
    """Rows as one table. Samples are converted as arrays: converting them one by one would dominate the run time."""
    lengths = np.repeat([row["signal"].shape[1] for row in rows], 12)
    samples = pa.ListArray.from_arrays(
        pa.array(np.concatenate([[0], np.cumsum(lengths)]), type=pa.int32()),
        pa.array(np.concatenate([row["signal"].reshape(-1) for row in rows])),
    )
    columns = {"signal": pa.FixedSizeListArray.from_arrays(samples, 12)}
    for field in schema:
        if field.name not in columns:
            columns[field.name] = pa.array([row[field.name] for row in rows], type=field.type)
    return pa.Table.from_arrays([columns[name] for name in schema.names], schema=schema)
