"""From recordings to a `datasets.Dataset`: cleaned once, beats found once, samples kept as 16-bit integers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, NamedTuple, TypeVar

import datasets
import numpy as np
from tqdm.auto import tqdm

from ..processing.errors import InputError
from ..processing.feature_extraction_clear_hug import ClearHugFeatureExtractor
from ..processing.signal_cleaning import canonical_unit
from .records import Recording, RecordReference


_INT16_MAX = 32767
Item = TypeVar("Item")


class Rejected(NamedTuple):
    """A recording that could not be prepared, and why."""

    record_id: str
    reason: str


class Prepared(NamedTuple):
    """What [`prepare`] gives."""

    dataset: datasets.Dataset
    rejected: list[Rejected]


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
        - `signal` (`int16`, 12 x samples) and `signal_scale` (`float32`, 12): cleaned leads in the standard order;
          their product is in `unit`: `mV`, or `NU` for normalised recordings.
        - `lead_mask` (`bool`, 12): Which leads were recorded.
        - `r_peaks` (`int32`): All beats of the row [samples from its start].
        - `labels`: one `float32` per label name, 1 or 0, NaN where unknown.
    """
    features: dict[str, Any] = {
        "record_id": datasets.Value("string"),
        "patient_id": datasets.Value("string"),
        "split": datasets.Value("string"),
        "window_start": datasets.Value("float32"),
        "sampling_rate": datasets.Value("float32"),
        "unit": datasets.Value("string"),
        "signal": datasets.List(datasets.List(datasets.Value("int16")), length=12),
        "signal_scale": datasets.List(datasets.Value("float32"), length=12),
        "lead_mask": datasets.List(datasets.Value("bool"), length=12),
        "r_peaks": datasets.List(datasets.Value("int32")),
    }
    if label_names is not None:
        features["labels"] = {name: datasets.Value("float32") for name in label_names}
    return datasets.Features(features)


def label_names_of(dataset: datasets.Dataset) -> list[str]:
    """
    Names of a prepared dataset's labels, in their order.

    Raises:
        InputError: If the dataset has no labels.
    """
    labels = dataset.features.get("labels")
    if not isinstance(labels, dict):
        raise InputError("the dataset has no labels: prepare it with `label_names=`")
    return list(labels)


def prepare(
    records: Iterable[Recording | RecordReference],
    feature_extractor: ClearHugFeatureExtractor,
    label_names: Sequence[str] | None = None,
    *,
    windows: str | None = None,
    batch_size: int = 64,
    progress: bool = True,
) -> Prepared:
    """
    Read, clean and search recordings, batch by batch.

    Args:
        records (`Iterable[Recording | RecordReference]`): The recordings; references are read here, one batch at a
            time.
        feature_extractor ([`ClearHugFeatureExtractor`]): Cleans and finds beats; the model must use the same one.
        label_names (`Sequence[str]`, *optional*): Columns of the multi-hot labels. A recording that nobody labelled
            gets NaN in each. Without names the dataset has no labels.
        windows (`str`, *optional*): What a recording longer than the extractor's window gives: one row (`"first"`,
            `"center"`) or one per window (`"all"`); the extractor's own choice by default.
        batch_size (`int`, *optional*, defaults to `64`): Recordings that are searched together.
        progress (`bool`, *optional*, defaults to `True`): Whether to show a progress bar on stderr.

    Returns:
        [`Prepared`]: The dataset (columns as in [`dataset_features`]) and the recordings that could not be used, each
        with a reason. Every recording is in exactly one of the two.

    Raises:
        InputError: If a recording has a label that is not among `label_names`: then the names are wrong, not the
            recording.
    """
    features = dataset_features(label_names)
    total = len(records) if isinstance(records, Sequence) else None
    parts: list[datasets.Dataset] = []
    rejected: list[Rejected] = []
    with tqdm(total=total, desc="prepare", unit="rec", disable=not progress) as bar:
        for batch in _batches(records, batch_size):
            rows = _prepare_batch(batch, feature_extractor, label_names, windows, rejected)
            if rows:
                columns = {name: [row[name] for row in rows] for name in features}
                parts.append(datasets.Dataset.from_dict(columns, features=features))
            bar.update(len(batch))
    if parts:
        return Prepared(datasets.concatenate_datasets(parts), rejected)
    return Prepared(datasets.Dataset.from_dict({name: [] for name in features}, features=features), rejected)


def _batches(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    iterator = iter(items)
    while batch := list(islice(iterator, size)):
        yield batch


def _prepare_batch(
    batch: Sequence[Recording | RecordReference],
    extractor: ClearHugFeatureExtractor,
    label_names: Sequence[str] | None,
    windows: str | None,
    rejected: list[Rejected],
) -> list[dict[str, Any]]:
    cleaned: list[tuple[Recording | RecordReference, str, np.ndarray, np.ndarray]] = []
    for record in batch:
        if label_names is not None and (unknown := sorted(set(record.labels or ()).difference(label_names))):
            raise InputError(
                f"recording {record.record_id} has the label {unknown[0]!r}, which is not among "
                f"{', '.join(label_names)}: name all labels of the recordings"
            )
        try:
            recording = record.read()
            signal, lead_mask = extractor.clean(
                recording.waveform,
                sampling_rate=recording.sampling_rate,
                lead_names=recording.lead_names,
                unit=recording.unit,
            )
        except Exception as error:  # whatever is wrong with one file, the others are prepared
            rejected.append(Rejected(record.record_id, describe_error(error)))
            continue
        units = [recording.unit] if isinstance(recording.unit, str) else recording.unit
        # The extractor turns every other unit into mV.
        cleaned.append((record, "NU" if "NU" in map(canonical_unit, units) else "mV", signal, lead_mask))
    if not cleaned:
        return []

    peaks = extractor.detect([signal for *_, signal, _ in cleaned], [lead_mask for *_, lead_mask in cleaned])
    rows = []
    for (record, unit, signal, lead_mask), found in zip(cleaned, peaks, strict=True):
        parts = extractor.split(signal, found, windows)
        empty = [one for one in parts if not one.r_peaks.size]
        if empty and extractor.on_no_beats == "raise":
            first = empty[0].start / extractor.sampling_rate
            last = first + empty[0].signal.shape[1] / extractor.sampling_rate
            reason = f"no beat was found between {first:g} s and {last:g} s: check the leads and the unit"
            rejected.append(Rejected(record.record_id, reason))
            continue
        for one in parts:
            scale = np.maximum(np.abs(one.signal).max(axis=1), np.finfo(np.float32).tiny * _INT16_MAX) / _INT16_MAX
            row = {
                "record_id": record.record_id,
                "patient_id": record.patient_id,
                "split": record.split,
                "window_start": one.start / extractor.sampling_rate,
                "sampling_rate": extractor.sampling_rate,
                "unit": unit,
                "signal": np.rint(one.signal / scale[:, None]).astype(np.int16),
                "signal_scale": scale.astype(np.float32),
                "lead_mask": lead_mask,
                "r_peaks": one.r_peaks.astype(np.int32),
            }
            if label_names is not None:
                known = record.labels
                row["labels"] = {name: float("nan") if known is None else float(name in known) for name in label_names}
            rows.append(row)
    return rows


def describe_error(error: Exception) -> str:
    """One sentence for an error: its own where it is meant for users, else with its kind."""
    if isinstance(error, InputError | FileNotFoundError):
        return str(error)
    return f"{type(error).__name__}: {error}".rstrip(": ")
