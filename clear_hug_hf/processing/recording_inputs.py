"""
Conversion of recordings in any supported form, and of images of pages, to model inputs. All predictions and embeddings
use it, so that the result does not depend on the interface.
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
from .recording_files import find_format
from .signal_report import SignalReport


SUPPORTED_INPUTS = (
    'the path of a recording, a dict with "waveform", "sampling_rate", "lead_names" and "unit", an object with '
    "these attributes, an array of shape (leads, samples), a wfdb.Record, a table with a numeric column per lead, a "
    "row of a prepared dataset, or several of these as a list, an iterator, a dataset, or a table with a column `path`"
)
PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".gif", ".webp", ".pdf")
"""Extensions of image files."""

_FIELDS = ("waveform", "sampling_rate", "lead_names", "unit")
_ROW_COLUMNS = ("signal", "signal_scale", "r_peaks", "lead_mask", "sampling_rate", "lead_names", "unit")


class WindowPlace(NamedTuple):
    """
    Part of a recording that one row of the model inputs covers.

    Args:
        window (`int`): Index of the window. A window with more beats than the model accepts results in several rows.
        start, end (`float`): Start and end [s].
    """

    window: int
    start: float
    end: float


class StoredWindow(NamedTuple):
    """
    Recording of a row of a prepared dataset, in the form that `cut` expects.

    Args:
        signal (`np.ndarray` of shape `(12, num_samples)`): Cleaned leads, float32 [`unit` of the row].
        r_peaks (`np.ndarray`): R peaks in ascending order [samples], int64.
        lead_mask (`np.ndarray` of shape `(12,)`): True for leads that are present.
    """

    signal: np.ndarray
    r_peaks: np.ndarray
    lead_mask: np.ndarray


class RecordingWindows(NamedTuple):
    """
    Model inputs of one recording.

    Args:
        features ([`BatchFeature`]): Model inputs as PyTorch tensors, one row per window.
        places (`list[WindowPlace]`): Part of the recording that each row covers.
        skipped (`list[tuple[float, float]]`): Start and end of skipped windows [s].
        report ([`SignalReport`], *optional*): Report on the recording; `None` for images.
        name (`str`): Name of the recording, empty if unknown.
        page ([`FoundPage`], *optional*): Page of an image.
    """

    features: BatchFeature
    places: list[WindowPlace]
    skipped: list[tuple[float, float]]
    report: SignalReport | None
    name: str
    page: Any = None

    def batches(self, size: int = 1) -> Iterator[dict[str, Any]]:
        """Yield the model inputs in batches of at most `size` windows."""
        for start in range(0, len(self.places), size):
            yield {name: tensor[start : start + size] for name, tensor in self.features.items()}


def read_windows(
    extractor: Any, inputs: Any, windows: str | None, on_no_beats: str | None, all_beats: bool | None, **metadata: Any
) -> RecordingWindows:
    """
    Convert one recording to model inputs, see [`EcgFeatureExtractor.read_windows`].

    Args:
        extractor ([`EcgFeatureExtractor`]): Feature extractor of the model.
        inputs, windows, on_no_beats, all_beats: See [`EcgFeatureExtractor.read_windows`].
        metadata: `sampling_rate`, `lead_names` and `unit` of recordings that do not contain them.
    """
    if is_picture(inputs):
        return _read_page(extractor, inputs)
    if isinstance(inputs, Mapping) and "signal" in inputs and "waveform" not in inputs:
        return _cut_row(extractor, inputs, windows or "all", on_no_beats, all_beats)
    recording, name = _as_recording(extractor, inputs)
    recording |= {field: value for field, value in metadata.items() if recording.get(field) is None}
    try:
        features = extractor(
            _validate_waveform(recording),
            **{field: recording[field] for field in metadata},
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
    """Whether the input is a single recording or image, or unsupported, rather than several recordings."""
    is_single = isinstance(inputs, (str, bytes, bytearray, os.PathLike, Mapping, np.ndarray)) or is_picture(inputs)
    is_single = is_single or hasattr(inputs, "detach") or _is_table(inputs)
    is_single = is_single or all(hasattr(inputs, field) for field in _FIELDS)
    is_iterable = isinstance(inputs, Iterable) or (hasattr(inputs, "__getitem__") and hasattr(inputs, "__len__"))
    return is_single or not is_iterable


def is_picture(inputs: Any) -> bool:
    """Whether the input is the path of an image, an array of pixels, or a `PIL.Image.Image`."""
    if isinstance(inputs, (str, os.PathLike)):
        return Path(inputs).suffix.lower() in PICTURE_SUFFIXES and find_format(inputs) is None
    if isinstance(inputs, np.ndarray) or hasattr(inputs, "detach"):
        return inputs.ndim == 3 and inputs.shape[-1] in (3, 4)
    return hasattr(inputs, "convert") and hasattr(inputs, "getexif")  # `PIL.Image.Image`


def read_row(row: Mapping[str, Any]) -> StoredWindow:
    """
    Decode a row of a prepared dataset by multiplying the 16-bit samples by the scale of each lead.

    Args:
        row (`Mapping`): Row with the columns `signal`, `signal_scale`, `r_peaks` and `lead_mask`.

    Returns:
        [`StoredWindow`]

    Raises:
        InputError: If the row is invalid.
    """
    try:
        signal = np.asarray(row["signal"], dtype=np.float32)
        scale = np.asarray(row["signal_scale"], dtype=np.float32)
        peaks = np.asarray(row["r_peaks"], dtype=np.int64)
    except (TypeError, ValueError):
        problem = "its leads have different lengths, or values are missing"
    else:
        mask = np.asarray(row["lead_mask"])
        if signal.ndim != 2 or not signal.size or not scale.shape == mask.shape == signal.shape[:1]:
            problem = f"its signal has the shape {signal.shape}, and its scales {scale.shape}"
        elif not (np.isfinite(scale) & (scale > 0)).all():
            problem = "a scale is not positive"
        elif peaks.size and (peaks[0] < 0 or peaks[-1] >= signal.shape[1] or (peaks[1:] <= peaks[:-1]).any()):
            problem = "its R peaks are not in ascending order within the signal"
        else:
            return StoredWindow(signal * scale[:, None], peaks, mask)
    name = f"row {row['record_id']}" if "record_id" in row else "a row"
    raise InputError(f"{name} of the dataset is invalid: {problem}; prepare the recordings again")


def _cut_row(
    extractor: Any, row: Mapping[str, Any], windows: str, on_no_beats: str | None, all_beats: bool | None
) -> RecordingWindows:
    if missing := [name for name in _ROW_COLUMNS if row.get(name) is None]:
        raise InputError(f"the row lacks the column {missing[0]!r}: pass a row of a prepared dataset")
    if np.ndim(row["sampling_rate"]):
        raise InputError(
            "a slice of a dataset is a dict of columns, not of recordings: pass the dataset or `dataset.select(...)`"
        )
    rate = float(row["sampling_rate"])
    # The column is stored as float32.
    if np.float32(rate) != np.float32(extractor.sampling_rate):
        raise InputError(
            f"the row was prepared at {rate:g} Hz and the model expects {extractor.sampling_rate:g} Hz: prepare the "
            "dataset with the feature extractor of the model"
        )
    signal, r_peaks, lead_mask = read_row(row)
    if len(signal) != len(STANDARD_LEADS):
        raise InputError(f"the row must have {len(STANDARD_LEADS)} leads, got {len(signal)}")
    if not r_peaks.size and (on_no_beats or extractor.on_no_beats) == "raise":
        raise InputError('the row contains no beats: remove it, or set on_no_beats="mask"')
    if all_beats is None:
        all_beats = windows == "all"
    features, parts = extractor.make_inputs([signal], [r_peaks], [lead_mask], all_beats=all_beats)
    if all_beats:
        read_peaks = [r_peaks[(r_peaks >= part.start) & (r_peaks < part.stop)] for part in parts]
        places = [WindowPlace(0, part.start / rate, part.stop / rate) for part in parts]
    else:
        read_peaks = [extractor.read_peaks(r_peaks)]
        places = [WindowPlace(0, 0.0, signal.shape[1] / rate)]
    report = extractor.describe(
        signal[lead_mask],
        rate,
        [name for name, present in zip(row["lead_names"], lead_mask, strict=True) if present],
        row["unit"],
        lead_mask,
        None if extractor.detector == "regular" else r_peaks,
        read_peaks,
        windows=windows,
    )
    name = str(row.get("record_id") or "")
    return RecordingWindows(BatchFeature(features, tensor_type="pt"), places, [], report, name)


def _read_page(extractor: Any, image: Any) -> RecordingWindows:
    """Convert an image of a page to model inputs. It counts as one window."""
    name = str(image) if isinstance(image, (str, os.PathLike)) else "the image"
    processor = getattr(extractor, "image_processor", None)
    if processor is None:
        raise InputError(
            f"{name} is an image, but {type(extractor).__name__} requires recordings: use a model that reads pages, "
            "or pass the samples"
        )
    if extractor.rhythm_features:
        raise InputError(
            f"{name} is an image, but the classifier also reads rhythm features, which only recordings have: pass "
            "the samples, or fine-tune without rhythm features"
        )
    try:
        features = processor(image, return_tensors="pt", return_pages=True)
    except ValueError as error:
        if name not in str(error):
            error.args = (f"{name}: {error}",)
        raise
    (page,) = features.pop("pages")
    return RecordingWindows(features, [WindowPlace(0, 0.0, float(extractor.window_seconds))], [], None, name, page)


def _as_recording(extractor: Any, inputs: Any) -> tuple[dict[str, Any], str]:
    """Waveform and metadata of a recording, and its name for errors."""
    if isinstance(inputs, (str, os.PathLike)):
        recording = extractor.read_record(Path(inputs))
        return {field: recording[field] for field in _FIELDS}, str(inputs)
    if isinstance(inputs, Mapping):
        if inputs.get("waveform") is None:
            keys = ", ".join(map(repr, inputs)) or "nothing"
            raise InputError(f'a recording must contain "waveform", got a dict with {keys}: pass {SUPPORTED_INPUTS}')
        return {field: inputs.get(field) for field in _FIELDS}, ""
    if isinstance(inputs, np.ndarray) or hasattr(inputs, "detach"):
        return {"waveform": inputs}, ""
    if _is_table(inputs):
        return _from_table(inputs), ""
    if hasattr(inputs, "record_name") and hasattr(inputs, "sig_name"):  # `wfdb.Record`
        return _from_wfdb(inputs), str(inputs.record_name or "")
    if all(hasattr(inputs, field) for field in _FIELDS):
        return {field: getattr(inputs, field) for field in _FIELDS}, str(getattr(inputs, "record_id", None) or "")
    raise InputError(f"{type(inputs).__name__} is not a supported recording: pass {SUPPORTED_INPUTS}")


def _is_table(inputs: Any) -> bool:
    """Whether the input is a `DataFrame` of pandas or another library."""
    return hasattr(inputs, "columns") and hasattr(inputs, "to_numpy")


def _from_table(table: Any) -> dict[str, Any]:
    """Convert a table of samples to a recording. The lead names are the column names if these are strings."""
    names = list(table.columns)
    waveform = table.to_numpy().T
    if not names or waveform.dtype.kind not in "iuf":
        raise InputError(
            "a table must have a numeric column for each lead of one recording, or a column `path` of several "
            f"recordings, got {', '.join(map(str, names)) or 'no columns'}"
        )
    return {"waveform": waveform, "lead_names": names if _are_strings(names) else None}


def _from_wfdb(record: Any) -> dict[str, Any]:
    """Convert a `wfdb.Record` with physical or digital samples to a recording."""
    samples = getattr(record, "p_signal", None)
    required = ("d_signal", "adc_gain", "baseline", "fmt")
    if samples is None and all(getattr(record, name, None) is not None for name in required):
        samples = record.dac()
    if samples is None:
        raise InputError(
            f"the wfdb record {record.record_name or ''} contains no samples at a common sampling rate: read it with "
            "`wfdb.rdrecord(path)`"
        )
    return {
        "waveform": np.ascontiguousarray(samples.T, dtype=np.float32),
        "sampling_rate": record.fs,
        "lead_names": record.sig_name,
        "unit": record.units,
    }


def _validate_waveform(recording: Mapping[str, Any]) -> np.ndarray:
    """Convert the samples to an array, and validate the metadata."""
    waveform = recording["waveform"]
    if hasattr(waveform, "detach"):
        waveform = waveform.detach().cpu().float().numpy()
    try:
        waveform = np.asarray(waveform)
    except ValueError:
        raise InputError("the waveform must have shape (leads, samples), got rows of different lengths") from None
    if waveform.ndim != 2:
        raise InputError(
            f"the waveform must have shape (leads, samples), got {waveform.ndim} dimension(s): pass several "
            "recordings as a list"
        )
    names, unit = recording["lead_names"], recording["unit"]
    if np.ndim(recording["sampling_rate"]):
        raise InputError("sampling_rate must be one number [Hz]")
    if names is not None and not _are_strings(names):
        raise InputError("lead_names must be a list with one name for each row of the waveform")
    if unit is not None and not isinstance(unit, str) and not _are_strings(unit):
        raise InputError("unit must be mV, uV, V or NU, or a list of these with one for each row of the waveform")
    return waveform


def _are_strings(values: Any) -> bool:
    if isinstance(values, str) or not isinstance(values, (Sequence, np.ndarray)):
        return False
    return all(isinstance(value, str) for value in values)
