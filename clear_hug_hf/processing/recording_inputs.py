"""
A recording in whatever form it comes, or a picture of one, to windows: what every prediction and embedding reads, so
that one file gives the same numbers everywhere.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from transformers.feature_extraction_utils import BatchFeature

from .errors import InputError
from .leads import STANDARD_LEADS
from .signal_report import SignalReport


ACCEPTED = (
    'the path of a WFDB record, a dict with "waveform", "sampling_rate", "lead_names" and "unit", an array of shape '
    "(leads, samples), an object with these four as attributes, a wfdb.Record, a table with a column of numbers for "
    "each lead, a row of a prepared dataset, or several of these as a list, an iterator, a dataset, or a table with a "
    "column `path`"
)
PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".gif", ".webp", ".pdf")
"""What names of pictures end with; a PDF is refused with the way out."""

_FIELDS = ("waveform", "sampling_rate", "lead_names", "unit")
_ROW_COLUMNS = ("signal", "signal_scale", "r_peaks", "lead_mask", "sampling_rate", "lead_names", "unit")


class WindowPlace(NamedTuple):
    """
    What one row of the model's inputs covers of a recording.

    Args:
        window (`int`): Which of the stretches that are as long as the model's window; one with more beats than the
            model holds gives several rows.
        start, end (`float`): From where to where it reaches [s].
    """

    window: int
    start: float
    end: float


class StoredWindow(NamedTuple):
    """
    The recording of a row of a prepared dataset, as `cut` takes it.

    Args:
        signal (`np.ndarray` of shape `(12, num_samples)`): Cleaned leads, float32 [the row's `unit`].
        r_peaks (`np.ndarray`): Its ascending peaks [samples], int64.
        lead_mask (`np.ndarray` of shape `(12,)`): True where a lead is present.
    """

    signal: np.ndarray
    r_peaks: np.ndarray
    lead_mask: np.ndarray


class RecordingWindows(NamedTuple):
    """
    One recording as a model reads it.

    Args:
        features ([`BatchFeature`]): The model's inputs as tensors of torch, one row per window.
        places (`list[WindowPlace]`): Of each row.
        skipped (`list[tuple[float, float]]`): Start and end [s] of stretches that cannot be read.
        report ([`SignalReport`], *optional*): What else is known about the recording; nothing of a picture.
        name (`str`): What it is called, empty where it says no name.
        page ([`FoundPage`], *optional*): The page of a picture.
    """

    features: BatchFeature
    places: list[WindowPlace]
    skipped: list[tuple[float, float]]
    report: SignalReport | None
    name: str
    page: Any = None

    def batches(self, size: int = 1) -> Iterator[dict[str, Any]]:
        """The model's inputs of at most `size` windows at a time, in order."""
        for start in range(0, len(self.places), size):
            yield {name: tensor[start : start + size] for name, tensor in self.features.items()}


def read_windows(
    extractor: Any, inputs: Any, windows: str | None, on_no_beats: str | None, all_beats: bool | None, **stated: Any
) -> RecordingWindows:
    """
    The windows of one recording, see [`EcgFeatureExtractor.read_windows`].

    Args:
        extractor ([`EcgFeatureExtractor`]): The model's.
        inputs, windows, on_no_beats, all_beats: As there.
        stated: `sampling_rate`, `lead_names` and `unit` of a recording that does not say them itself.
    """
    if is_picture(inputs):
        return _read_page(extractor, inputs)
    if isinstance(inputs, Mapping) and "signal" in inputs and "waveform" not in inputs:
        return _cut_row(extractor, inputs, windows or "all", on_no_beats, all_beats)
    recording, name = _as_recording(extractor, inputs)
    recording |= {field: value for field, value in stated.items() if recording.get(field) is None}
    try:
        features = extractor(
            _checked_waveform(recording),
            **{field: recording[field] for field in stated},
            windows=windows or "all",
            on_no_beats=on_no_beats,
            all_beats=all_beats,
            return_windows=True,
            return_reports=True,
            return_tensors="pt",
        )
    except ValueError as error:
        if name:
            error.args = (f"{name}: {error}",)
        raise
    rate = float(recording["sampling_rate"])
    window_ids, starts, ends = (
        features.pop(field).tolist() for field in ("window_ids", "window_starts", "window_ends")
    )
    features.pop("recording_ids")
    skipped = [(start, end) for _, start, end in features.pop("skipped_windows").tolist()]
    (report,) = features.pop("reports")
    places = [
        WindowPlace(window, start / rate, end / rate)
        for window, start, end in zip(window_ids, starts, ends, strict=True)
    ]
    return RecordingWindows(features, places, skipped, report, name)


def is_recording(inputs: Any) -> bool:
    """Whether this is one recording or picture, or nothing that can be read, but not several recordings."""
    one = isinstance(inputs, (str, bytes, bytearray, os.PathLike, Mapping, np.ndarray)) or is_picture(inputs)
    one = one or hasattr(inputs, "detach") or all(hasattr(inputs, field) for field in _FIELDS) or _is_table(inputs)
    many = isinstance(inputs, Iterable) or (hasattr(inputs, "__getitem__") and hasattr(inputs, "__len__"))
    return one or not many


def is_picture(inputs: Any) -> bool:
    """Whether this is the path of a picture, pixels, or a picture of Pillow."""
    if isinstance(inputs, (str, os.PathLike)):
        return Path(inputs).suffix.lower() in PICTURE_SUFFIXES
    if isinstance(inputs, np.ndarray) or hasattr(inputs, "detach"):
        return inputs.ndim == 3 and inputs.shape[-1] in (3, 4)
    return hasattr(inputs, "convert") and hasattr(inputs, "getexif")  # as PIL.Image has


def read_row(row: Mapping[str, Any]) -> StoredWindow:
    """
    The recording of a row of a prepared dataset: its 16-bit samples times the scale of their lead.

    Args:
        row (`Mapping`): With the columns `signal`, `signal_scale`, `r_peaks` and `lead_mask`.

    Returns:
        [`StoredWindow`]

    Raises:
        InputError: If the row holds values that no preparation writes.
    """
    try:
        signal = np.asarray(row["signal"], dtype=np.float32)
        scale = np.asarray(row["signal_scale"], dtype=np.float32)
        peaks = np.asarray(row["r_peaks"], dtype=np.int64)
    except (TypeError, ValueError):
        fault = "its leads have different lengths, or values are missing"
    else:
        mask = np.asarray(row["lead_mask"])
        if signal.ndim != 2 or not signal.size or not scale.shape == mask.shape == signal.shape[:1]:
            fault = f"its signal has the shape {signal.shape}, and its scales {scale.shape}"
        elif not (np.isfinite(scale) & (scale > 0)).all():
            fault = "a scale is not positive"
        elif peaks.size and (peaks[0] < 0 or peaks[-1] >= signal.shape[1] or (peaks[1:] <= peaks[:-1]).any()):
            fault = "its R peaks do not ascend inside the signal"
        else:
            return StoredWindow(signal * scale[:, None], peaks, mask)
    name = f"row {row['record_id']}" if "record_id" in row else "a row"
    raise InputError(f"{name} of the dataset cannot be read: {fault}; prepare the recordings again")


def _cut_row(
    extractor: Any, row: Mapping[str, Any], windows: str, on_no_beats: str | None, all_beats: bool | None
) -> RecordingWindows:
    if missing := [name for name in _ROW_COLUMNS if row.get(name) is None]:
        raise InputError(f'a row with "signal" has no {missing[0]!r}: give a row as `clear_hug_hf.prepare` makes it')
    if np.ndim(row["sampling_rate"]):
        raise InputError(
            "a slice of a dataset is a dict of columns, not recordings: give the dataset, or `dataset.select(...)`"
        )
    rate = float(row["sampling_rate"])
    # The column is stored with 32 bits.
    if np.float32(rate) != np.float32(extractor.sampling_rate):
        raise InputError(
            f"the row was prepared at {rate:g} Hz and the model works at {extractor.sampling_rate:g} Hz: prepare the "
            "dataset with the model's feature extractor"
        )
    signal, r_peaks, lead_mask = read_row(row)
    if len(signal) != len(STANDARD_LEADS):
        raise InputError(f"the row has {len(signal)} leads: give one of {len(STANDARD_LEADS)}, as `prepare` makes it")
    if not r_peaks.size and (on_no_beats or extractor.on_no_beats) == "raise":
        raise InputError('the row holds no beat: leave it out, or mark such rows with `on_no_beats="mask"`')
    cut = [signal], [r_peaks], [lead_mask]
    if windows == "all" if all_beats is None else all_beats:
        features, parts = extractor.cut_all(*cut)
        read = [r_peaks[(r_peaks >= part.start) & (r_peaks < part.stop)] for part in parts]
        places = [WindowPlace(0, part.start / rate, part.stop / rate) for part in parts]
    else:
        features, read = extractor.cut(*cut), [extractor.read_peaks(r_peaks)]
        places = [WindowPlace(0, 0.0, signal.shape[1] / rate)]
    report = extractor.describe(
        signal[lead_mask],
        rate,
        [name for name, present in zip(row["lead_names"], lead_mask, strict=True) if present],
        row["unit"],
        lead_mask,
        None if extractor.detector == "regular" else r_peaks,
        read,
        windows=windows,
    )
    name = str(row.get("record_id") or "")
    return RecordingWindows(BatchFeature(features, tensor_type="pt"), places, [], report, name)


def _read_page(extractor: Any, picture: Any) -> RecordingWindows:
    """Inputs of the model from a picture of a page, which counts as one window."""
    name = str(picture) if isinstance(picture, (str, os.PathLike)) else "the picture"
    processor = getattr(extractor, "image_processor", None)
    if processor is None:
        raise InputError(
            f"{name} is a picture, and {type(extractor).__name__} reads recordings: use a model that reads pages, or "
            "give the samples"
        )
    try:
        features = processor(picture, return_tensors="pt", return_pages=True)
    except ValueError as error:
        if name not in str(error):
            error.args = (f"{name}: {error}",)
        raise
    (page,) = features.pop("pages")
    return RecordingWindows(features, [WindowPlace(0, 0.0, float(extractor.window_seconds))], [], None, name, page)


def _as_recording(extractor: Any, inputs: Any) -> tuple[dict[str, Any], str]:
    """What is known of a recording, and what to call it in an error."""
    if isinstance(inputs, (str, os.PathLike)):
        recording = extractor.read_record(Path(inputs))
        return {field: recording[field] for field in _FIELDS}, str(inputs)
    if isinstance(inputs, Mapping):
        if inputs.get("waveform") is None:
            keys = ", ".join(map(repr, inputs)) or "nothing"
            raise InputError(f'a dict that holds {keys} and no "waveform" is no recording: give {ACCEPTED}')
        return {field: inputs.get(field) for field in _FIELDS}, ""
    if isinstance(inputs, np.ndarray) or hasattr(inputs, "detach"):
        return {"waveform": inputs}, ""
    if _is_table(inputs):
        return _samples_of(inputs), ""
    if hasattr(inputs, "record_name") and hasattr(inputs, "sig_name"):  # of wfdb
        return _of_wfdb(inputs), str(inputs.record_name or "")
    if all(hasattr(inputs, field) for field in _FIELDS):
        return {field: getattr(inputs, field) for field in _FIELDS}, str(getattr(inputs, "record_id", None) or "")
    raise InputError(f"{type(inputs).__name__} is no recording: give {ACCEPTED}")


def _is_table(inputs: Any) -> bool:
    """Whether this is a `DataFrame`, of pandas or another library."""
    return hasattr(inputs, "columns") and hasattr(inputs, "to_numpy")


def _samples_of(table: Any) -> dict[str, Any]:
    """A table of samples as a recording; columns without names of their own say no lead names."""
    names = list(table.columns)
    waveform = table.to_numpy().T
    if not names or waveform.dtype.kind not in "iuf":
        raise InputError(
            "a table of one recording holds numbers only, one column per lead, and a table of several has a column "
            f"`path`; this one has {', '.join(map(str, names)) or 'no columns'}"
        )
    return {"waveform": waveform, "lead_names": names if _are_strings(names) else None}


def _of_wfdb(record: Any) -> dict[str, Any]:
    """What a `wfdb.Record` holds: its physical samples, or the digital ones in the header's units."""
    samples = getattr(record, "p_signal", None)
    needed = ("d_signal", "adc_gain", "baseline", "fmt")
    if samples is None and all(getattr(record, name, None) is not None for name in needed):
        samples = record.dac()
    if samples is None:
        raise InputError(
            f"the wfdb record {record.record_name or ''} holds no samples of one rate for all leads: read it with "
            "`wfdb.rdrecord(path)`, whose defaults give them"
        )
    return {
        "waveform": np.ascontiguousarray(samples.T, dtype=np.float32),
        "sampling_rate": record.fs,
        "lead_names": record.sig_name,
        "unit": record.units,
    }


def _checked_waveform(recording: Mapping[str, Any]) -> np.ndarray:
    """The samples as an array; whatever else the feature extractor would stumble over is refused."""
    waveform = recording["waveform"]
    if hasattr(waveform, "detach"):
        waveform = waveform.detach().cpu().float().numpy()
    try:
        waveform = np.asarray(waveform)
    except ValueError:
        raise InputError(
            "the rows of the waveform are of different lengths: pass one of shape (leads, samples)"
        ) from None
    if waveform.ndim != 2:
        raise InputError(
            f"the waveform has {waveform.ndim} dimension(s): pass one of shape (leads, samples), or a list of them"
        )
    names, unit = recording["lead_names"], recording["unit"]
    if np.ndim(recording["sampling_rate"]):
        raise InputError("sampling_rate must be one number [Hz]")
    if names is not None and not _are_strings(names):
        raise InputError("lead_names must be a list of names, one for each row of the waveform")
    if unit is not None and not isinstance(unit, str) and not _are_strings(unit):
        raise InputError("unit must be one of mV, uV, V and NU, or a list of these with one for each row")
    return waveform


def _are_strings(values: Any) -> bool:
    if isinstance(values, str) or not isinstance(values, (Sequence, np.ndarray)):
        return False
    return all(isinstance(value, str) for value in values)
