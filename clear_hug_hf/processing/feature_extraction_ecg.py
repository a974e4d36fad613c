"""
Base feature extractor: reading, cleaning and windowing of recordings.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, ClassVar, NamedTuple, Self

import numpy as np
from transformers.feature_extraction_utils import BatchFeature, FeatureExtractionMixin
from transformers.utils import TensorType, logging

from .beat_detection import DETECTORS, MINIMUM_RATE, detect_r_peaks
from .beats import pad_peaks
from .errors import InputError
from .leads import STANDARD_LEADS, arrange_leads, is_flat
from .recording_files import read_recording
from .recording_inputs import RecordingWindows, is_recording, read_windows
from .rhythm import RHYTHM_FEATURES, rhythm_features
from .setting_checks import (
    MAX_SAMPLING_RATE,
    MAX_SECONDS,
    MAX_WINDOW_SAMPLES,
    Configurable,
    Flag,
    check_choice,
    check_list,
    check_number,
)
from .signal_cleaning import (
    MILLIVOLTS_PER_UNIT,
    bandpass,
    check_waveform,
    repair_non_finite,
    resample,
    rescale,
    usable_leads,
)
from .signal_report import (
    SignalReport,
    SkippedWindow,
    check_amplitude,
    describe_signal,
    describe_skipped,
    find_blank_samples,
    find_gaps,
    measure_quality,
)


logger = logging.get_logger(__name__)

WINDOWS = ("first", "center", "all")
ON_NO_BEATS = ("raise", "mask")
MAX_BANDPASS_ORDER = 20


def check_rhythm_features(name: str, value: Any) -> None:
    """Check that a setting is a list of distinct rhythm features, see [`check_number`] for errors."""
    check_list(name, value, str)
    if len(set(value)) != len(value):
        raise InputError(f"{name} must not contain duplicates, got {list(value)}")
    if unknown := [feature for feature in value if feature not in RHYTHM_FEATURES]:
        raise InputError(f"unknown rhythm feature {unknown[0]!r}: choose from {', '.join(RHYTHM_FEATURES)}")


@dataclass(frozen=True)
class Window:
    """
    Window of a cleaned recording.

    Args:
        start (`int`): Start of the window [samples of the cleaned recording].
        signal (`np.ndarray` of shape `(12, num_samples)`): Signal, which is shorter for short recordings.
        r_peaks (`np.ndarray`): R peaks [samples from `start`].
    """

    start: int
    signal: np.ndarray
    r_peaks: np.ndarray


class Part(NamedTuple):
    """
    Part of a window that one row of the model inputs covers.

    Args:
        window (`int`): Index of the window.
        start, stop (`int`): Start and end [samples of the window].
    """

    window: int
    start: int
    stop: int


class EcgFeatureExtractor(Configurable, FeatureExtractionMixin):
    """
    Base class of the feature extractors: arranges the 12 leads by name, repairs, resamples and filters them, detects R
    peaks and selects windows. Subclasses implement [`cut`], which converts windows to model inputs.

    Every parameter that affects the result is a setting: a class attribute with its default value, an argument, and a
    field of `preprocessor_config.json`. Settings are documented in [`__init__`] and can be overridden for one call.
    """

    # Required by the collation of transformers pipelines, but unused, since all windows have the same shape.
    padding_value: ClassVar[float] = 0.0
    # Whether `cut` requires R peaks. Otherwise they are detected on request only.
    reads_beats: ClassVar[bool] = False
    # What becomes of missing leads, for model cards.
    missing_leads: ClassVar[str] = "masked"
    # Settings that are also fields of the model config and are applied after signals and beats have been stored.
    model_settings: ClassVar[tuple[str, ...]] = ()

    sampling_rate: Annotated[float, partial(check_number, low=MINIMUM_RATE, high=MAX_SAMPLING_RATE)] = 100.0
    window_seconds: float = 10.0
    # Not `window`, which transformers does not save.
    windows: Annotated[str, partial(check_choice, choices=WINDOWS)] = "first"
    stride_seconds: Annotated[
        float | None, partial(check_number, low=1 / MAX_SAMPLING_RATE, high=MAX_SECONDS, optional=True)
    ] = None
    detector: Annotated[str, partial(check_choice, choices=DETECTORS)] = "multilead"
    on_no_beats: Annotated[str, partial(check_choice, choices=ON_NO_BEATS)] = "mask"
    do_repair: Flag = True
    max_non_finite: Annotated[float, partial(check_number, low=0, high=1)] = 0.2
    do_derive_leads: Flag = True
    do_resample: Flag = True
    do_bandpass: Flag = False
    bandpass_low: float = 0.67
    bandpass_high: Annotated[float, partial(check_number, low=1e-3, high=MAX_SAMPLING_RATE)] = 40.0
    bandpass_order: Annotated[int, partial(check_number, low=1, high=MAX_BANDPASS_ORDER, integer=True)] = 5
    do_rescale: Flag = False
    rescale_limit: Annotated[float, partial(check_number, low=1e-6, high=1e6)] = 3.0
    do_mask_flat_leads: Flag = True
    min_seconds: Annotated[float, partial(check_number, low=0, high=MAX_SECONDS)] = 1.0
    rhythm_features: Annotated[list[str] | tuple[str, ...], check_rhythm_features] = ()

    def __init__(self, **kwargs: Any):
        """
        Args:
            sampling_rate (`float`): Sampling rate of the model [Hz].
            window_seconds (`float`): Window length of the model [s].
            windows (`str`): Windows of a long recording to use: the `"first"` one, the `"center"` one, or `"all"`
                windows at intervals of `stride_seconds`, of which the last one ends with the recording.
            stride_seconds (`float`, *optional*): Interval between windows with `windows="all"` [s]; `window_seconds`
                by default.
            detector (`str`): Name of the R-peak detector (see `detect_r_peaks`). For models that do not read beats, it
                is used to prepare datasets, with `return_r_peaks`, and with `on_no_beats="raise"`.
            on_no_beats (`str`): Whether to `"raise"` an error for a window without beats or to keep and `"mask"` it.
            do_repair (`bool`): Replace NaN and Inf using nearby samples. Otherwise they raise an error.
            max_non_finite (`float`): Maximum fraction of NaN and Inf samples of a lead; others are treated as missing.
                Also the maximum fraction of a window without signal (all leads missing, or constant for 0.5 s);
                others are skipped.
            do_derive_leads (`bool`): Derive missing limb leads III, aVR, aVL and aVF from I and II, except in
                normalized units (`NU`), for which the identities do not hold.
            do_resample (`bool`): Resample recordings with other sampling rates. Otherwise they raise an error.
            do_bandpass (`bool`): Apply a band-pass filter.
            bandpass_low (`float`): Lower cutoff frequency [Hz].
            bandpass_high (`float`): Upper cutoff frequency [Hz].
            bandpass_order (`int`): Order of the Butterworth filter, which is applied forward and backward.
            do_rescale (`bool`): Rescale each recording to `[-rescale_limit, rescale_limit]`.
            rescale_limit (`float`): Half of the range after rescaling.
            do_mask_flat_leads (`bool`): Treat leads without variation as missing, as after an electrode has come off.
            min_seconds (`float`): Minimum duration of a recording [s].
            rhythm_features (`list[str]`): Names of rhythm features, see [`~rhythm.rhythm_features`]; by default none.
                They are returned as `rhythm` for classifiers whose config names them. Not part of the papers.
            kwargs: Settings of the subclass.

        Raises:
            InputError: If a setting is invalid.
        """
        super().__init__(**kwargs)

    def check_settings(self) -> None:
        """See [`Configurable.check_settings`]."""
        self.sampling_rate = float(self.sampling_rate)
        self.rhythm_features = list(self.rhythm_features)
        if self.rhythm_features and self.detector == "regular":
            raise InputError('rhythm_features require a detector of beats, which "regular" is not')
        half = self.sampling_rate / 2
        check_number(
            "window_seconds", self.window_seconds, 1 / self.sampling_rate, MAX_WINDOW_SAMPLES / self.sampling_rate
        )
        check_number("bandpass_low", self.bandpass_low, 1e-3, half)
        if self.do_bandpass and self.bandpass_low >= self.bandpass_high:
            raise InputError(
                f"bandpass_low must be below bandpass_high ({self.bandpass_high} Hz), got {self.bandpass_low} Hz"
            )
        if self.do_bandpass and self.bandpass_high >= half:
            raise InputError(
                f"bandpass_high must be below half the sampling rate ({half} Hz), got {self.bandpass_high} Hz"
            )

    def to_dict(self) -> dict[str, Any]:
        """Serialize to a dictionary; `rhythm_features` are omitted if there are none."""
        return {name: value for name, value in super().to_dict().items() if name != "rhythm_features" or value}

    @property
    def lead_names(self) -> Sequence[str]:
        """Names of the leads in the order of the outputs."""
        return STANDARD_LEADS

    @staticmethod
    def read_record(path: str | os.PathLike[str]) -> dict[str, Any]:
        """Read a recording in any supported format, see [`~recording_files.read_recording`]."""
        return read_recording(path)

    @staticmethod
    def is_recording(inputs: Any) -> bool:
        """Whether the input is a single recording, see [`read_windows`]."""
        return is_recording(inputs)

    def read_windows(
        self,
        inputs: Any,
        *,
        windows: str | None = None,
        on_no_beats: str | None = None,
        all_beats: bool | None = None,
        sampling_rate: float | None = None,
        lead_names: Sequence[str] | None = None,
        unit: str | Sequence[str] | None = None,
    ) -> RecordingWindows:
        """
        Convert one recording in any supported form to model inputs.

        Args:
            inputs: Path of a WFDB record or of a file in another format, see [`~recording_files.read_recording`]; dict
                or object with `waveform` `(num_leads, num_samples)`, `sampling_rate`, `lead_names` and `unit`; array
                or tensor of samples; `wfdb.Record`; `DataFrame` with a numeric column per lead; row of a prepared
                dataset; or image of a page, if the extractor has an `image_processor`.
            windows (`str`, *optional*, defaults to `"all"`): Overrides the setting for this call.
            on_no_beats (`str`, *optional*): Overrides the setting for this call.
            all_beats (`bool`, *optional*): See [`__call__`].
            sampling_rate, lead_names, unit (*optional*): Metadata of recordings that do not contain it.

        Returns:
            [`RecordingWindows`]: Model inputs, one row per window, and the position of each row in the recording.

        Raises:
            FileNotFoundError: If the record does not exist.
            InputError: If the recording is invalid.
            ImportError: If the library that reads the format of the file is not installed.
        """
        metadata = {"sampling_rate": sampling_rate, "lead_names": lead_names, "unit": unit}
        return read_windows(self, inputs, windows, on_no_beats, all_beats, **metadata)

    @property
    def needs_beats(self) -> bool:
        """Whether model inputs depend on R peaks."""
        return self.reads_beats or bool(self.rhythm_features)

    @property
    def keeps_unit(self) -> bool:
        """Whether recordings in known units are in mV after [`clean`]; otherwise they are in normalized units."""
        return not self.do_rescale

    @property
    def window_samples(self) -> int:
        """Window length [samples at `sampling_rate`]."""
        return round(self.window_seconds * self.sampling_rate)

    def __call__(
        self,
        waveforms: np.ndarray | Sequence[np.ndarray],
        sampling_rate: float | Sequence[float] | None = None,
        lead_names: Sequence[str] | Sequence[Sequence[str]] | None = None,
        unit: str | Sequence[str] | Sequence[Sequence[str]] | None = None,
        r_peaks: np.ndarray | Sequence[np.ndarray] | None = None,
        return_r_peaks: bool = False,
        return_windows: bool = False,
        return_tensors: str | TensorType | None = None,
        *,
        return_reports: bool = False,
        all_beats: bool | None = None,
        **overrides: Any,
    ) -> BatchFeature:
        """
        Convert one or more recordings to model inputs.

        Args:
            waveforms (`np.ndarray` or `Sequence[np.ndarray]`):
                One recording `(num_leads, num_samples)`, an array `(num_recordings, num_leads, num_samples)`, or a
                list of recordings of any length.
            sampling_rate (`float` or `Sequence[float]`): Sampling rate of all recordings or of each [Hz]. Required.
            lead_names (`Sequence[str]` or `Sequence[Sequence[str]]`):
                Names of the rows, for all recordings or for each. Required.
            unit (`str`, `Sequence[str]` or `Sequence[Sequence[str]]`):
                `"mV"`, `"uV"`, `"V"` or `"NU"`: for all recordings, for each recording, or for each row of each
                recording (a list of strings refers to the rows if there is a single recording). Required.
            r_peaks (`np.ndarray` or `Sequence[np.ndarray]`, *optional*):
                Known R peaks in ascending order [samples at the sampling rate of the recording], instead of detection.
            return_r_peaks (`bool`, *optional*, defaults to `False`):
                Add `r_peaks` `(num_windows, max_peaks)`: all R peaks of each window, including those that the model
                does not read [samples at the sampling rate of the model, from the start of the window], padded with
                -1.
            return_windows (`bool`, *optional*, defaults to `False`):
                Add `recording_ids` `(num_windows,)`, the index of the recording of each window; `window_starts` and
                `window_ends` `(num_windows,)` [samples at the sampling rate of the recording]; `window_ids`
                `(num_windows,)`, the index of each window in [`split`]; and `skipped_windows` `(num_skipped, 3)`
                float64, recording index, start and end [s] of each skipped window, instead of a warning.
            return_tensors (`str` or [`~utils.TensorType`], *optional*): `"pt"` or `"np"`.
            return_reports (`bool`, *optional*, defaults to `False`):
                Add `reports`, the [`SignalReport`] of each recording, which requires beat detection.
            all_beats (`bool`, *optional*): Whether a window with more beats than the model accepts results in several
                rows; by default only with `windows="all"`.
            overrides: Settings for this call, such as `windows="all"` or `detector="xqrs"`; `None` keeps the current
                value.

        Returns:
            [`BatchFeature`]: Model inputs, see [`make_inputs`]: one window per recording unless
            `windows="all"`, in which case invalid windows ([`find_windows`]) are skipped with a warning.

        Raises:
            InputError: If a recording is invalid.
        """
        extractor = self.replace(**overrides)
        if all_beats is None:
            all_beats = extractor.windows == "all"
        recordings, single = _as_recordings(waveforms)
        count = len(recordings)
        rates = _broadcast(
            sampling_rate, count, "sampling_rate", scalar=not isinstance(sampling_rate, (list, tuple, np.ndarray))
        )
        names = _broadcast(lead_names, count, "lead_names", scalar=lead_names is None or not _is_nested(lead_names))
        per_row = single and unit is not None and not isinstance(unit, str) and not _is_nested(unit)
        units = _broadcast(unit, count, "unit", scalar=unit is None or isinstance(unit, str) or per_row)

        signals, lead_masks = [], []
        for index, arguments in enumerate(zip(recordings, rates, names, units, strict=True)):
            with _ErrorPrefix(index, count):
                signal, lead_mask = extractor.clean(*arguments)
            signals.append(signal)
            lead_masks.append(lead_mask)
        rates = [float(rate) for rate in rates]  # validated by `clean`
        originals = list(zip(recordings, rates, names, units, strict=True))

        if r_peaks is None:
            detects = return_r_peaks or return_reports or extractor.needs_beats or extractor.on_no_beats == "raise"
            none = [np.empty(0, dtype=np.int64)] * count
            peaks: list[np.ndarray] = extractor.detect(signals, lead_masks) if detects else none
        else:
            known_peaks: list[Any] = [r_peaks] if single else list(r_peaks)
            if len(known_peaks) != count:
                raise InputError(
                    f"r_peaks must have one list for each of the {count} recordings, got {len(known_peaks)}"
                )
            peaks = []
            for index in range(count):
                with _ErrorPrefix(index, count):
                    num_samples = recordings[index].shape[-1]
                    peaks.append(extractor._convert_peaks(known_peaks[index], num_samples, rates[index]))

        windows: list[Window] = []
        window_ids: list[int] = []
        recording_ids: list[int] = []
        skipped: list[list[SkippedWindow]] = []
        for index, signal in enumerate(signals):
            blank = find_blank_samples(recordings[index], rates[index]) if extractor.do_mask_flat_leads else None
            if blank is not None and r_peaks is None:
                peaks[index] = extractor.drop_peaks(peaks[index], find_gaps(blank, rates[index]))
            with _ErrorPrefix(index, count) as context:
                valid_windows, skipped_windows = extractor.find_windows(signal, peaks[index], blank)
                for reason in [] if return_windows else describe_skipped(skipped_windows):
                    logger.warning("%s%s", context.prefix, reason)
            windows += valid_windows.values()
            window_ids += valid_windows
            recording_ids += [index] * len(valid_windows)
            skipped.append(skipped_windows)

        window_inputs = [window.signal for window in windows], [window.r_peaks for window in windows]
        masks = [lead_masks[index] for index in recording_ids]
        features, parts = extractor.make_inputs(*window_inputs, masks, all_beats=all_beats)
        part_peaks = [
            window_peaks[(window_peaks >= part.start) & (window_peaks < part.stop)] - part.start
            for part, window_peaks in ((part, windows[part.window].r_peaks) for part in parts)
        ]
        row_ids = [recording_ids[part.window] for part in parts]
        if return_r_peaks:
            features["r_peaks"] = pad_peaks(part_peaks)
        if return_windows:
            ratios = np.array([rates[index] / extractor.sampling_rate for index in row_ids])
            lengths = np.array([recordings[index].shape[-1] for index in row_ids])
            starts = np.array([windows[part.window].start for part in parts])
            features["recording_ids"] = np.array(row_ids, dtype=np.int64)
            features["window_ids"] = np.array([window_ids[part.window] for part in parts], dtype=np.int64)
            for name, edges in (
                ("window_starts", [part.start for part in parts]),
                ("window_ends", [part.stop for part in parts]),
            ):
                features[name] = np.minimum(np.rint((starts + edges) * ratios).astype(np.int64), lengths)
            features["skipped_windows"] = np.array(
                [(index, window.start, window.stop) for index, group in enumerate(skipped) for window in group],
                dtype=np.float64,
            ).reshape(-1, 3)
        batch = BatchFeature(features, tensor_type=return_tensors)
        if return_reports:
            read_peaks: list[list[np.ndarray]] = [[] for _ in range(count)]
            for index, part, beats in zip(row_ids, parts, part_peaks, strict=True):
                beats = beats if all_beats else extractor.read_peaks(beats)
                read_peaks[index].append(windows[part.window].start + part.start + beats)
            batch["reports"] = [
                extractor.describe(
                    *originals[index],
                    lead_masks[index],
                    peaks[index] if r_peaks is not None or extractor.detector != "regular" else None,
                    read_peaks[index],
                    skipped=skipped[index],
                    windows=extractor.windows,
                )
                for index in range(count)
            ]
        return batch

    def clean(
        self,
        waveform: np.ndarray,
        sampling_rate: float | None = None,
        lead_names: Sequence[str] | None = None,
        unit: str | Sequence[str] | None = None,
        **overrides: Any,
    ) -> tuple[np.ndarray, np.ndarray]:
        """
        Clean a recording: 12 leads at the sampling rate of the model, in full length.

        Args:
            waveform (`np.ndarray` of shape `(num_leads, num_samples)`): Recording.
            sampling_rate (`float`): Sampling rate [Hz], at least 50.
            lead_names (`Sequence[str]`): Name of each row.
            unit (`str` or `Sequence[str]`): Unit of all rows or of each.
            overrides: Settings for this call.

        Returns:
            `tuple[np.ndarray, np.ndarray]`: Leads `(12, num_samples)` float32 [mV, or normalized units for `NU`], zero
            for missing leads, and a boolean mask `(12,)`, True for leads that are present.

        Raises:
            InputError: If the recording is invalid.
        """
        return self.replace(**overrides)._clean(waveform, sampling_rate, lead_names, unit)

    def _clean(
        self,
        waveform: np.ndarray,
        sampling_rate: float | None,
        lead_names: Sequence[str] | None,
        unit: str | Sequence[str] | None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Implementation of [`clean`] for the current settings, which subclasses extend."""
        rate = _parse_rate(sampling_rate)
        signal, names, units = check_waveform(waveform, lead_names, unit)
        if signal.shape[1] < self.min_seconds * rate:
            raise InputError(
                f"the recording must be at least {self.min_seconds:g} s long, got {signal.shape[1] / rate:g} s at "
                f"{rate:g} Hz: use a longer one, or correct the sampling rate"
            )

        scales = np.array([MILLIVOLTS_PER_UNIT[unit] for unit in units], dtype=np.float32)
        if (scales != 1.0).any():
            signal = signal * scales[:, None]
        signal, present = arrange_leads(signal, names, derive=self.do_derive_leads and "NU" not in units)

        recorded_signal = signal
        finite = np.isfinite(signal)
        if not finite.all():
            if not self.do_repair:
                raise InputError("the recording contains NaN or Inf: repair it, or set do_repair=True")
            # Samples that are missing in all leads do not count against a lead; their windows are skipped instead.
            recorded = finite[present].any(axis=0)
            present = usable_leads(present, finite[:, recorded] if recorded.any() else finite, self.max_non_finite)
            signal = self._repair(np.where(present[:, None], signal, 0.0))

        if self.do_mask_flat_leads:
            present = present & ~is_flat(signal)
            if not present.any():
                raise InputError("the recording contains no signal: all leads are flat")

        if "NU" not in units:
            check_amplitude(recorded_signal[present], rate, units)

        if rate != self.sampling_rate and not self.do_resample:
            raise InputError(
                f"the sampling rate of the recording ({rate:g} Hz) differs from that of the model "
                f"({self.sampling_rate:g} Hz): resample it, or set do_resample=True"
            )
        signal = self._transform(signal, present, rate)
        return np.where(present[:, None], signal, np.float32(0.0)), present

    def detect(self, signals: Sequence[np.ndarray], lead_masks: Sequence[np.ndarray]) -> list[np.ndarray]:
        """
        Detect the R peaks of cleaned recordings, in batches of equal length.

        Args:
            signals (`Sequence[np.ndarray]`): Recordings `(12, num_samples)` from [`clean`].
            lead_masks (`Sequence[np.ndarray]`): Lead masks `(12,)`.

        Returns:
            `list[np.ndarray]`: R peaks of each recording in ascending order [samples at the sampling rate of the
            model], int64.
        """
        by_length: dict[int, list[int]] = {}
        for index, signal in enumerate(signals):
            by_length.setdefault(signal.shape[-1], []).append(index)
        peaks: list[np.ndarray] = [np.empty(0, dtype=np.int64)] * len(signals)
        for indices in by_length.values():
            batch_peaks = detect_r_peaks(
                np.stack([signals[index] for index in indices]),
                sampling_rate=self.sampling_rate,
                detector=self.detector,
                lead_names=STANDARD_LEADS,
                lead_mask=np.stack([lead_masks[index] for index in indices]),
            )
            for index, recording_peaks in zip(indices, batch_peaks, strict=True):
                peaks[index] = recording_peaks
        return peaks

    def split(self, signal: np.ndarray, r_peaks: np.ndarray) -> list[Window]:
        """
        Split a cleaned recording into windows.

        Args:
            signal (`np.ndarray` of shape `(12, num_samples)`): Recording from [`clean`].
            r_peaks (`np.ndarray`): R peaks in ascending order [samples].

        Returns:
            `list[Window]`: One or more windows in order.
        """
        slack = signal.shape[-1] - self.window_samples
        if slack <= 0 or self.windows == "first":
            starts = [0]
        elif self.windows == "center":
            starts = [slack // 2]
        else:
            stride = max(1, round((self.stride_seconds or self.window_seconds) * self.sampling_rate))
            starts = list(range(0, slack + 1, stride))
            if starts[-1] < slack:
                starts.append(slack)
        windows = []
        for start in starts:
            stop = start + self.window_samples
            window_peaks = r_peaks[(r_peaks >= start) & (r_peaks < stop)] - start
            windows.append(Window(start, signal[:, start:stop], window_peaks))
        return windows

    def read_peaks(self, r_peaks: np.ndarray) -> np.ndarray:
        """R peaks of a window whose beats [`cut`] passes to the model; all if the model does not read beats."""
        return r_peaks

    def describe(
        self,
        waveform: np.ndarray,
        sampling_rate: float,
        lead_names: Sequence[str],
        unit: str | Sequence[str],
        lead_mask: np.ndarray,
        r_peaks: np.ndarray | None,
        read_peaks: Sequence[np.ndarray],
        **kwargs: Any,
    ) -> SignalReport:
        """
        Report the quality and rhythm of a recording.

        Args:
            waveform, sampling_rate, lead_names, unit: Original recording, see [`clean`].
            lead_mask, r_peaks, read_peaks, kwargs: See [`describe_signal`].
        """
        quality = measure_quality(waveform, sampling_rate, lead_names, unit)
        return describe_signal(quality, lead_mask, r_peaks, self.sampling_rate, read_peaks, self.lead_names, **kwargs)

    def drop_peaks(self, r_peaks: np.ndarray, gaps: Sequence[tuple[float, float]]) -> np.ndarray:
        """Drop R peaks [samples] within gaps without signal [s], where detectors respond to filter artifacts."""
        times = r_peaks / self.sampling_rate
        in_gap = np.zeros(times.shape, dtype=bool)
        for start, stop in gaps:
            in_gap |= (times >= start) & (times < stop)
        return r_peaks[~in_gap]

    def find_windows(
        self, signal: np.ndarray, r_peaks: np.ndarray, blank: np.ndarray | None = None
    ) -> tuple[dict[int, Window], list[SkippedWindow]]:
        """
        Select the valid windows of [`split`]. Windows without beats are skipped if `on_no_beats="raise"`, and so are
        windows of which more than a fraction `max_non_finite` contains no signal.

        Args:
            signal, r_peaks: See [`split`].
            blank (`np.ndarray`, *optional*): Samples of the original recording without signal, see
                [`find_blank_samples`]; without it, windows are not checked for signal.

        Returns:
            `tuple[dict[int, Window], list[SkippedWindow]]`: Valid windows by their index in [`split`], at least one,
            and the skipped ones.

        Raises:
            InputError: If no window is valid.
        """
        valid_windows: dict[int, Window] = {}
        skipped: list[SkippedWindow] = []
        for index, window in enumerate(self.split(signal, r_peaks)):
            stop = window.start + window.signal.shape[-1]
            has_no_beats = self.on_no_beats == "raise" and not window.r_peaks.size
            # With "mask", windows without beats are kept even if they are flat.
            is_blank = False
            if blank is not None and (self.on_no_beats == "raise" or not self.reads_beats):
                ratio = len(blank) / signal.shape[-1]
                window_blank = blank[math.ceil(window.start * ratio) + 1 : math.floor(stop * ratio)]
                is_blank = bool(window_blank.all() or window_blank.mean() > self.max_non_finite)
            if has_no_beats or is_blank:
                skipped.append(SkippedWindow(window.start / self.sampling_rate, stop / self.sampling_rate, is_blank))
            else:
                valid_windows[index] = window
        if not valid_windows:
            span = f"between {skipped[0].start:g} s and {skipped[-1].stop:g} s"
            if all(window.flat for window in skipped):
                raise InputError(f"the recording contains no signal {span}: every lead is flat or missing")
            raise InputError(
                f"no beats were detected {span}: check leads and unit, pass known R peaks as r_peaks, or set "
                'on_no_beats="mask"'
            )
        return valid_windows, skipped

    def cut(
        self, signals: Sequence[np.ndarray], r_peaks: Sequence[np.ndarray], lead_masks: Sequence[np.ndarray]
    ) -> dict[str, np.ndarray]:
        """
        Convert windows of a cleaned signal to model inputs.

        Args:
            signals (`Sequence[np.ndarray]`): Windows `(12, num_samples)` at the sampling rate of the model.
            r_peaks (`Sequence[np.ndarray]`): R peaks of each window in ascending order [samples].
            lead_masks (`Sequence[np.ndarray]`): Lead masks `(12,)`.

        Returns:
            `dict[str, np.ndarray]`: Model inputs, one row per window.
        """
        raise NotImplementedError

    def make_inputs(
        self,
        signals: Sequence[np.ndarray],
        r_peaks: Sequence[np.ndarray],
        lead_masks: Sequence[np.ndarray],
        *,
        all_beats: bool = False,
        **options: Any,
    ) -> tuple[dict[str, np.ndarray], list[Part]]:
        """
        All model inputs of windows: those of [`cut`] or [`cut_all`] and, with `rhythm_features`, the rhythm.

        The rhythm is that of all R peaks of a window, of which a model may read only the first. Rows that divide a
        window with many beats have the rhythm of the entire window.

        Args:
            signals, r_peaks, lead_masks: See [`cut`].
            all_beats (`bool`, *optional*, defaults to `False`): Whether a window that exceeds the capacity of the
                model results in several rows, see [`cut_all`].
            options: Keyword arguments for the `cut` of a subclass.

        Returns:
            `tuple[dict[str, np.ndarray], list[Part]]`: Model inputs, with `rhythm` `(num_rows, num_features)` float32
            if there are `rhythm_features`, and the part of the window that each row covers.
        """
        if all_beats:
            features, parts = self.cut_all(signals, r_peaks, lead_masks)
        else:
            features = self.cut(signals, r_peaks, lead_masks, **options)
            parts = [Part(row, 0, signal.shape[-1]) for row, signal in enumerate(signals)]
        if self.rhythm_features:
            lengths = [signal.shape[-1] for signal in signals]
            rhythm = rhythm_features(r_peaks, lengths, self.sampling_rate, self.rhythm_features)
            features["rhythm"] = rhythm[[part.window for part in parts]]
        return features, parts

    def normalize_window(self, signal: np.ndarray, lead_mask: np.ndarray) -> np.ndarray:
        """
        Scale a window as the first step of [`cut`] does, if scales are a step of their own. Changes of the scale of a
        lead that the model should see come after it; [`without_normalization`] then cuts the window.

        Args:
            signal (`np.ndarray` of shape `(12, num_samples)`): Window at the sampling rate of the model.
            lead_mask (`np.ndarray` of shape `(12,)`): True for leads that are present.

        Returns:
            `np.ndarray` of shape `(12, num_samples)`.
        """
        return signal

    @property
    def without_normalization(self) -> Self:
        """This extractor for windows that [`normalize_window`] has scaled."""
        return self

    def cut_all(
        self, signals: Sequence[np.ndarray], r_peaks: Sequence[np.ndarray], lead_masks: Sequence[np.ndarray]
    ) -> tuple[dict[str, np.ndarray], list[Part]]:
        """
        Like [`cut`], but a window that exceeds the capacity of the model results in several rows.

        Args:
            signals, r_peaks, lead_masks: See [`cut`].

        Returns:
            `tuple[dict[str, np.ndarray], list[Part]]`: Model inputs, and the part of the window that each row covers.
        """
        parts = [Part(row, 0, signal.shape[-1]) for row, signal in enumerate(signals)]
        return self.cut(signals, r_peaks, lead_masks), parts

    def trim(self, features: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """
        Trim padding that all windows of a batch have in common.

        Args:
            features (`dict[str, np.ndarray]`): Model inputs from [`cut`].

        Returns:
            `dict[str, np.ndarray]`: Equivalent inputs, which may be smaller.
        """
        return features

    def row_length(self, row: Mapping[str, Any]) -> int:
        """Length of the model input of a row of a prepared dataset, by which batches are grouped for [`trim`]."""
        return 0

    def _repair(self, signal: np.ndarray) -> np.ndarray:
        """Replace the NaN and Inf samples of the leads `(12, num_samples)`."""
        return repair_non_finite(signal)

    def _transform(self, signal: np.ndarray, present: np.ndarray, rate: float) -> np.ndarray:
        """
        Resample, filter and rescale finite leads `(12, num_samples)` at `rate` [Hz], of which `present` `(12,)` are
        recorded. Subclasses with other steps, or another order, replace it.
        """
        if rate != self.sampling_rate:
            signal = self._resample(signal, rate)
        if self.do_bandpass:
            signal = bandpass(signal, self.sampling_rate, self.bandpass_low, self.bandpass_high, self.bandpass_order)
        if self.do_rescale:
            signal = np.array(signal)
            signal[present] = rescale(signal[present], self.rescale_limit)
        return signal

    def _lead_rows(self) -> list[int]:
        """Rows of the leads that the model reads, among the 12 standard leads."""
        return [STANDARD_LEADS.index(name) for name in self.lead_names]

    def _require_leads(self, present: np.ndarray) -> None:
        """
        Check that a recording has every lead of a model that was not trained with missing leads.

        Raises:
            InputError: If a lead is missing.
        """
        if missing := [self.lead_names[index] for index, row in enumerate(self._lead_rows()) if not present[row]]:
            raise InputError(
                f"lead {', '.join(missing)} is missing or flat, but this model was trained on complete recordings "
                "only: use another model, or set do_mask_flat_leads=False for leads that are recorded but flat"
            )

    def _require_any_lead(self, present: np.ndarray) -> None:
        """
        Check that a recording has a lead of the model, which may read only some of the 12.

        Raises:
            InputError: If it has none.
        """
        if not present[self._lead_rows()].any():
            recorded = ", ".join(name for name, is_present in zip(STANDARD_LEADS, present, strict=True) if is_present)
            raise InputError(
                f"the recording must contain at least one lead of the model ({', '.join(self.lead_names)}), got "
                f"{recorded}"
            )

    def _resample(self, signal: np.ndarray, rate: float) -> np.ndarray:
        """Resample finite leads to the sampling rate of the model."""
        return resample(signal, rate, self.sampling_rate)

    def _convert_peaks(self, r_peaks: np.ndarray, num_samples: int, rate: float) -> np.ndarray:
        """Validate known R peaks and convert them to the sampling rate of the model."""
        peaks = np.asarray(r_peaks)
        if peaks.ndim != 1 or (peaks.size and not np.issubdtype(peaks.dtype, np.integer)):
            raise InputError("r_peaks must be a one-dimensional array of integers for each recording")
        peaks = peaks.astype(np.int64)
        if peaks.size and (peaks[0] < 0 or peaks[-1] >= num_samples or (np.diff(peaks) <= 0).any()):
            raise InputError(
                f"r_peaks must be in ascending order and between 0 and {num_samples - 1} [samples at the sampling "
                "rate of the recording]"
            )
        peaks = np.rint(peaks * self.sampling_rate / rate).astype(np.int64)
        return np.minimum(peaks, math.ceil(num_samples * self.sampling_rate / rate) - 1)


class _ErrorPrefix:
    """Context manager that adds the index of the recording in a batch to error messages."""

    def __init__(self, index: int, count: int):
        self.prefix = f"recording {index}: " if count > 1 else ""

    def __enter__(self) -> _ErrorPrefix:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: Any) -> None:
        if isinstance(error, InputError) and self.prefix:
            raise InputError(f"{self.prefix}{error}") from None


def _as_recordings(waveforms: Any) -> tuple[list[np.ndarray], bool]:
    """List of recordings, and whether a single one was passed."""
    if isinstance(waveforms, np.ndarray) or hasattr(waveforms, "detach"):
        array = np.asarray(waveforms)
        if array.ndim == 3:
            return list(array), False
        return [array], True
    if isinstance(waveforms, Sequence) and len(waveforms) and np.ndim(waveforms[0]) == 2:
        return [np.asarray(waveform) for waveform in waveforms], False
    if isinstance(waveforms, Sequence) and len(waveforms) == 0:
        raise InputError("no recording was passed: pass at least one")
    return [np.asarray(waveforms)], True


def _is_nested(value: Any) -> bool:
    return len(value) > 0 and not isinstance(value[0], str)


def _broadcast(value: Any, count: int, name: str, scalar: bool) -> list[Any]:
    if scalar:
        return [value] * count
    values = list(value)
    if len(values) != count:
        raise InputError(f"{name} must have one entry for each of the {count} recordings, got {len(values)}")
    return values


def _parse_rate(sampling_rate: Any) -> float:
    if sampling_rate is None:
        raise InputError("sampling_rate is required: pass it in Hz")
    try:
        rate = float(sampling_rate)
    except (TypeError, ValueError):
        raise InputError(f"sampling_rate must be a number [Hz], got {sampling_rate!r}") from None
    if not math.isfinite(rate) or rate < MINIMUM_RATE:
        raise InputError(
            f"sampling_rate must be at least {MINIMUM_RATE:g} Hz to represent a QRS complex, got {rate:g} Hz"
        )
    return rate
