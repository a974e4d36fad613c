"""From recordings to rows: cleaned once, beats found once, samples kept as 16-bit integers."""

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
from ..processing.signal_report import Quality, describe_skipped, find_no_signal, measure_quality
from .records import Recording, RecordReference, Rejected, describe_error


logger = logging.get_logger(__name__)

_INT16_MAX = 32767
# Recordings are searched for beats together, this many or this many samples per lead [at the model's rate] at once;
# many long recordings would not fit in memory.
_BATCH_RECORDS, _BATCH_SAMPLES = 64, 1_000_000
_TABLE_ROWS = 1000


class Prepared(NamedTuple):
    """What [`prepare`] gives."""

    dataset: datasets.Dataset
    rejected: list[Rejected]


class _Cleaned(NamedTuple):
    record: Recording | RecordReference
    unit: str
    signal: np.ndarray
    lead_mask: np.ndarray
    blank: np.ndarray | None
    quality: Quality


def dataset_features(label_names: Sequence[str] | None = None) -> datasets.Features:
    """
    Columns of a prepared dataset.

    Args:
        label_names (`Sequence[str]`, *optional*): Labels; without them there is no `labels` column.

    Returns:
        [`datasets.Features`]:

        - `record_id`, `patient_id`, `split`: strings, the last two null where unknown.
        - `window_start` (`float32`): Where the row begins in its recording [s].
        - `sampling_rate` (`float32`): Rate of `signal` [Hz].
        - `unit` (`string`): Of the signal: `mV`, or `NU` for normalised recordings.
        - `lead_names` (`string`, 12): Names of the leads, in the order of the next three columns.
        - `signal` (`int16`, 12 x samples) and `signal_scale` (`float32`, 12): cleaned leads; their product is in
          `unit`.
        - `lead_mask` (`bool`, 12): Which leads the signal holds; the others are zeros.
        - `r_peaks` (`int32`): All beats of the row [samples from its start], and `num_beats` (`int32`), their number.
        - `flat_leads`, `nan_share`, `clipped_share`: The recording as it came, see [`Quality`].
        - `report` (`string`): What was written about the recording; null where nothing is known.
        - `labels`: one `float32` per label name: 1 or 0, or a value to regress; NaN where unknown.
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
    Read, clean and search recordings, into memory; [`prepare_shards`] does the same for any number of them.

    Args:
        records (`Iterable[Recording | RecordReference]`): The recordings; references are read here, one at a time.
        feature_extractor ([`EcgFeatureExtractor`]): Cleans and finds beats; the model must use the same one. Windows
            that cannot be read are left out with a warning, see [`EcgFeatureExtractor.find_windows`].
        label_names (`Sequence[str]`, *optional*): Columns of the labels. A recording that nobody labelled gets NaN in
            each. Without names the dataset has no labels.
        progress (`bool`, *optional*, defaults to `True`): Whether to show a progress bar on stderr.

    Returns:
        [`Prepared`]: The dataset (columns as in [`dataset_features`]) and the recordings that could not be used, each
        with a reason. Every recording is in exactly one of the two.

    Raises:
        InputError: If a recording has a label that is not among `label_names`: then the names are wrong, not the
            recording.
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
    The rows of recordings, in order, as small tables: what every preparation is made of.

    Args:
        records, feature_extractor, label_names: As in [`prepare`].
        rejected (`list[Rejected]`): Recordings that cannot be used are added here.

    Yields:
        `pyarrow.Table`: With the columns of [`dataset_features`], none of them empty.

    Raises:
        InputError: As in [`prepare`].
    """
    schema = dataset_features(label_names).arrow_schema
    for batch in _cleaned_batches(records, feature_extractor, label_names, rejected):
        rows: list[dict[str, Any]] = []
        for one, found in zip(batch, _detect(batch, feature_extractor), strict=True):
            if isinstance(found, Exception):
                rejected.append(Rejected(one.record.record_id, describe_error(found)))
                continue
            try:
                rows += _rows(one, found, feature_extractor, label_names)
            except InputError as error:
                rejected.append(Rejected(one.record.record_id, describe_error(error)))
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
                f"recording {record.record_id} has the label {unknown[0]!r}, which is not among "
                f"{', '.join(label_names)}: name all labels of the recordings"
            )
        try:
            recording = record.read()
            stated = recording.waveform, recording.sampling_rate, recording.lead_names, recording.unit
            signal, lead_mask = extractor.clean(*stated)
            units = [recording.unit] if isinstance(recording.unit, str) else recording.unit
            # The extractor turns every other unit into mV, unless it scales recordings to a range of their own.
            unit = "NU" if extractor.do_rescale or "NU" in map(canonical_unit, units) else "mV"
            blank = find_no_signal(*stated[:2]) if extractor.do_mask_flat_leads else None
            batch.append(_Cleaned(record, unit, signal, lead_mask, blank, measure_quality(*stated)))
        except Exception as error:  # whatever is wrong with one file, the others are prepared
            rejected.append(Rejected(record.record_id, describe_error(error)))
            continue
        samples += signal.shape[1]
        if len(batch) == _BATCH_RECORDS or samples >= _BATCH_SAMPLES:
            yield batch
            batch, samples = [], 0
    if batch:
        yield batch


def _detect(batch: list[_Cleaned], extractor: EcgFeatureExtractor) -> list[np.ndarray | Exception]:
    """Peaks of each recording, or why there are none."""
    try:
        return [*extractor.detect([one.signal for one in batch], [one.lead_mask for one in batch])]
    except Exception as error:  # detectors of other libraries fail in many ways on single recordings
        if len(batch) == 1:
            return [error]
        return [found for one in batch for found in _detect([one], extractor)]


def _rows(
    one: _Cleaned,
    peaks: np.ndarray,
    extractor: EcgFeatureExtractor,
    label_names: Sequence[str] | None,
) -> Iterator[dict[str, Any]]:
    if one.blank is not None:
        peaks = extractor.drop_peaks(peaks, one.quality.gaps)
    parts, skipped = extractor.find_windows(one.signal, peaks, one.blank)
    for reason in describe_skipped(skipped):
        logger.warning("%s: %s", one.record.record_id, reason)
    for part in parts.values():
        scale = np.maximum(np.abs(part.signal).max(axis=1), np.finfo(np.float32).tiny * _INT16_MAX) / _INT16_MAX
        row = {
            "record_id": one.record.record_id,
            "patient_id": one.record.patient_id,
            "split": one.record.split,
            "window_start": part.start / extractor.sampling_rate,
            "sampling_rate": extractor.sampling_rate,
            "unit": one.unit,
            "lead_names": STANDARD_LEADS,
            "signal": np.rint(part.signal / scale[:, None]).astype(np.int16),
            "signal_scale": scale.astype(np.float32),
            "lead_mask": one.lead_mask,
            "r_peaks": part.r_peaks.astype(np.int32),
            "num_beats": part.r_peaks.size,
            "flat_leads": one.quality.flat_leads,
            "nan_share": one.quality.nan_share,
            "clipped_share": one.quality.clipped_share,
            "report": one.record.metadata.get("report"),
        }
        if label_names:
            known = one.record.labels
            row["labels"] = {name: (known or {}).get(name, float("nan")) for name in label_names}
        yield row


def _table(rows: list[dict[str, Any]], schema: pa.Schema) -> pa.Table:
    """Rows as one table; the samples go there as arrays, one by one they would take most of the time."""
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
