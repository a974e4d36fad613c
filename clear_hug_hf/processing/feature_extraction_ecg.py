"""
What every feature extractor of this package does before its model's own step: recordings in, clean leads and windows
out.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, ClassVar, NamedTuple

import numpy as np
from transformers.feature_extraction_utils import BatchFeature, FeatureExtractionMixin
from transformers.utils import TensorType, logging

from .beat_detection import DETECTORS, MINIMUM_RATE, detect_r_peaks
from .beats import pad_peaks
from .errors import InputError
from .leads import STANDARD_LEADS, arrange_leads, is_flat
from .recording_inputs import RecordingWindows, is_recording, read_windows
from .setting_checks import (
    MAX_SAMPLING_RATE,
    MAX_SECONDS,
    MAX_WINDOW_SAMPLES,
    Configurable,
    Flag,
    check_choice,
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
    Skipped,
    check_amplitude,
    describe_signal,
    describe_skipped,
    find_gaps,
    find_no_signal,
    measure_quality,
)
from .wfdb_format import read_record


logger = logging.get_logger(__name__)

WINDOWS = ("first", "center", "all")
ON_NO_BEATS = ("raise", "mask")
MAX_BANDPASS_ORDER = 20


@dataclass(frozen=True)
class Window:
    """
    A part of a cleaned recording that the model sees at once.

    Args:
        start (`int`): Where it begins [samples of the cleaned recording].
        signal (`np.ndarray` of shape `(12, num_samples)`): Its signal, shorter than a window if the recording is.
        r_peaks (`np.ndarray`): Its peaks [samples from `start`].
    """

    start: int
    signal: np.ndarray
    r_peaks: np.ndarray


class Part(NamedTuple):
    """
    What one row of the model's inputs covers of a window.

    Args:
        window (`int`): Which of the windows.
        start, stop (`int`): From where to where [samples of the window].
    """

    window: int
    start: int
    stop: int


class EcgFeatureExtractor(Configurable, FeatureExtractionMixin):
    """
    Base of the feature extractors: finds the 12 leads by name, repairs, resamples, filters, searches R peaks and takes
    windows. A subclass says in [`cut`] what its model reads of a window, and which defaults differ.

    Every number that changes the result is a setting: a class attribute with its default, an argument, and a field of
    `preprocessor_config.json`. [`__init__`] says what each means; each can be overridden for one call.
    """

    # Pipelines of transformers collate `input_values` with this. All windows have one shape, so that it never shows.
    padding_value: ClassVar[float] = 0.0
    # Whether `cut` needs R peaks: else they are searched only where they are asked for.
    reads_beats: ClassVar[bool] = False
    # Settings that are fields of the model's config, too, and that act after signals and beats are stored.
    model_settings: ClassVar[tuple[str, ...]] = ()

    sampling_rate: Annotated[float, partial(check_number, low=MINIMUM_RATE, high=MAX_SAMPLING_RATE)] = 100.0
    window_seconds: float = 10.0
    # Not `window`: transformers leaves a field of that name out of the saved file.
    windows: Annotated[str, partial(check_choice, known=WINDOWS)] = "first"
    stride_seconds: Annotated[
        float | None, partial(check_number, low=1 / MAX_SAMPLING_RATE, high=MAX_SECONDS, optional=True)
    ] = None
    detector: Annotated[str, partial(check_choice, known=DETECTORS)] = "multilead"
    on_no_beats: Annotated[str, partial(check_choice, known=ON_NO_BEATS)] = "mask"
    do_repair: Flag = True
    max_non_finite: Annotated[float, partial(check_number, low=0, high=1)] = 0.2
    do_derive_leads: Flag = True
    do_resample: Flag = True
    do_bandpass: Flag = False
    bandpass_low: float = 0.67
    bandpass_high: Annotated[float, partial(check_number, low=1e-3, high=MAX_SAMPLING_RATE)] = 40.0
    bandpass_order: Annotated[int, partial(check_number, low=1, high=MAX_BANDPASS_ORDER, whole=True)] = 5
    do_rescale: Flag = False
    rescale_limit: Annotated[float, partial(check_number, low=1e-6, high=1e6)] = 3.0
    do_mask_flat_leads: Flag = True
    min_seconds: Annotated[float, partial(check_number, low=0, high=MAX_SECONDS)] = 1.0

    def __init__(self, **kwargs: Any):
        """
        Args:
            sampling_rate (`float`): Rate that the model works at [Hz].
            window_seconds (`float`): Length of the window that the model sees at once [s].
            windows (`str`): Part of a longer recording that is used: `"first"`, `"center"`, or `"all"` for every
                window `stride_seconds` apart (the last one moved back so that it ends with the recording).
            stride_seconds (`float`, *optional*): Step between windows with `windows="all"` [s]; `window_seconds` by
                default.
            detector (`str`): Name of the R-peak detector (see `detect_r_peaks`). For a model that reads no beats they
                are searched where a data set is prepared, with `return_r_peaks`, and with `on_no_beats="raise"`.
            on_no_beats (`str`): What happens to a window without any beat: `"raise"` an error, or `"mask"`, which
                keeps it. Beats are never invented.
            do_repair (`bool`): Repair NaN and Inf from their neighbors; else refuse them.
            max_non_finite (`float`): Share of NaN and Inf samples up to which a lead is repaired; a lead with more
                counts as missing. A window is left out if all leads are missing, or none changes for 0.5 s, in a
                larger share of it.
            do_derive_leads (`bool`): Compute absent III, aVR, aVL and aVF from I and II (never for unit `NU`, where
                the identities do not hold).
            do_resample (`bool`): Resample other rates; else refuse them.
            do_bandpass (`bool`): Band-pass between `bandpass_low` and `bandpass_high`.
            bandpass_low (`float`): Lower corner [Hz].
            bandpass_high (`float`): Upper corner [Hz].
            bandpass_order (`int`): Order of the Butterworth filter, run in both directions.
            do_rescale (`bool`): Scale each recording to `[-rescale_limit, rescale_limit]`.
            rescale_limit (`float`): Half of the range after scaling.
            do_mask_flat_leads (`bool`): Count a lead without any variation (an electrode that fell off) as missing.
            min_seconds (`float`): Shortest accepted recording [s].
            kwargs: Settings of the subclass.

        Raises:
            InputError: If a setting has a value that it cannot have; the message says which are allowed.
        """
        super().__init__(**kwargs)

    def check_settings(self) -> None:
        """Refuse settings that do not fit together."""
        self.sampling_rate = float(self.sampling_rate)
        half = self.sampling_rate / 2
        check_number(
            "window_seconds", self.window_seconds, 1 / self.sampling_rate, MAX_WINDOW_SAMPLES / self.sampling_rate
        )
        check_number("bandpass_low", self.bandpass_low, 1e-3, half)
        if self.do_bandpass and self.bandpass_low >= self.bandpass_high:
            raise InputError(
                f"bandpass_low is {self.bandpass_low} Hz: it must be below bandpass_high ({self.bandpass_high} Hz)"
            )
        if self.do_bandpass and self.bandpass_high >= half:
            raise InputError(
                f"bandpass_high is {self.bandpass_high} Hz: it must be below half the sampling rate ({half} Hz)"
            )

    @property
    def lead_names(self) -> Sequence[str]:
        """Names of the leads in the order of every output."""
        return STANDARD_LEADS

    @staticmethod
    def read_record(path: str | os.PathLike[str]) -> dict[str, Any]:
        """A WFDB record from its files, see [`~wfdb_format.read_record`]."""
        return read_record(path)

    @staticmethod
    def is_recording(inputs: Any) -> bool:
        """Whether this is one recording as [`read_windows`] takes it, not several."""
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
        One recording as the model reads it, in whatever form it comes.

        Args:
            inputs: The path of a WFDB record, a dict or an object with `waveform` `(num_leads, num_samples)`,
                `sampling_rate`, `lead_names` and `unit`, an array or tensor of samples, a `wfdb.Record`, a
                `DataFrame` with a column of numbers per lead, a row of a prepared dataset; or a picture of a page, if
                the extractor has an `image_processor`.
            windows (`str`, *optional*, defaults to `"all"`): As in [`split`].
            on_no_beats (`str`, *optional*): Overrides the configuration for this call.
            all_beats (`bool`, *optional*): As in [`__call__`].
            sampling_rate, lead_names, unit (*optional*): Of a recording that does not say them itself.

        Returns:
            [`RecordingWindows`]: The model's inputs, one row per window, with their places in the recording.

        Raises:
            FileNotFoundError: If there is no record at a path.
            InputError: If the recording cannot be used; the message says which, why, and what to do.
            ImportError: If a record is in a format that only the package `wfdb` reads, and it is not installed.
        """
        stated = {"sampling_rate": sampling_rate, "lead_names": lead_names, "unit": unit}
        return read_windows(self, inputs, windows, on_no_beats, all_beats, **stated)

    @property
    def window_samples(self) -> int:
        """Length of one window [samples at `sampling_rate`]."""
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
        Prepare one recording or several for the model.

        Args:
            waveforms (`np.ndarray` or `Sequence[np.ndarray]`):
                One recording of shape `(num_leads, num_samples)`, an array of several `(num_recordings, num_leads,
                num_samples)`, or a list of recordings of any lengths.
            sampling_rate (`float` or `Sequence[float]`): Rate of the recordings [Hz], one for all or one each.
                Required.
            lead_names (`Sequence[str]` or `Sequence[Sequence[str]]`):
                Name of each row, one list for all recordings or one list each. Required.
            unit (`str`, `Sequence[str]` or `Sequence[Sequence[str]]`):
                `"mV"`, `"uV"`, `"V"` or `"NU"`: one for all, one per recording, or a list per recording with one per
                row (for a single recording a list of strings is one per row). Required.
            r_peaks (`np.ndarray` or `Sequence[np.ndarray]`, *optional*):
                Known R peaks [samples of the recording at its own rate], ascending; no beats are searched then.
            return_r_peaks (`bool`, *optional*, defaults to `False`):
                Add `r_peaks` `(num_windows, max_peaks)`: all peaks of each window, also those that the model does not
                see (with `windows="all"` it sees them all) [samples at the model's rate, from the window's start],
                padded with -1.
            return_windows (`bool`, *optional*, defaults to `False`):
                Add `recording_ids` `(num_windows,)`, the place of each window's recording in the input;
                `window_starts` and `window_ends` `(num_windows,)` [samples of that recording at its own rate,
                rounded]; `window_ids` `(num_windows,)`, which of the windows of [`split`] each row is of; and
                `skipped_windows` `(num_skipped, 3)` float64, the recording, start and end [s] of each window that was
                left out, of which there is then no warning.
            return_tensors (`str` or [`~utils.TensorType`], *optional*): `"pt"` or `"np"`.
            return_reports (`bool`, *optional*, defaults to `False`):
                Add `reports`, a [`SignalReport`] of each recording: heart rate, beats read, leads, what is
                implausible. Beats are then searched for every model.
            all_beats (`bool`, *optional*): Whether a window with more beats than the model holds gives several rows,
                as is needed to predict; by default only with `windows="all"`.
            overrides: Settings for this call, such as `windows="all"` or `detector="xqrs"`; `None` leaves one as it
                is.

        Returns:
            [`BatchFeature`]: The model's inputs as [`cut`] makes them, one row per window, or as [`cut_all`] does; one
            window per recording unless `windows="all"`. Then windows that cannot be read ([`find_windows`]) are left
            out with a warning.

        Raises:
            InputError: If a recording cannot be used; the message says which, why, and what to do.
        """
        extractor = self.replace(**overrides)
        if all_beats is None:
            all_beats = extractor.windows == "all"
        recordings, single = _as_recordings(waveforms)
        count = len(recordings)
        rates = _one_each(
            sampling_rate, count, "sampling_rate", scalar=not isinstance(sampling_rate, (list, tuple, np.ndarray))
        )
        names = _one_each(lead_names, count, "lead_names", scalar=lead_names is None or not _is_nested(lead_names))
        per_row = single and unit is not None and not isinstance(unit, str) and not _is_nested(unit)
        units = _one_each(unit, count, "unit", scalar=unit is None or isinstance(unit, str) or per_row)

        signals, lead_masks = [], []
        for index, one in enumerate(zip(recordings, rates, names, units, strict=True)):
            with _Naming(index, count):
                signal, lead_mask = extractor.clean(*one)
            signals.append(signal)
            lead_masks.append(lead_mask)
        rates = [float(rate) for rate in rates]  # each was checked
        stated = list(zip(recordings, rates, names, units, strict=True))

        if r_peaks is None:
            wanted = return_r_peaks or return_reports or extractor.reads_beats or extractor.on_no_beats == "raise"
            none = [np.empty(0, dtype=np.int64)] * count
            peaks: list[np.ndarray] = extractor.detect(signals, lead_masks) if wanted else none
        else:
            given: list[Any] = [r_peaks] if single else list(r_peaks)
            if len(given) != count:
                raise InputError(
                    f"r_peaks holds {len(given)} lists for {count} recordings: give one list per recording"
                )
            peaks = []
            for index in range(count):
                with _Naming(index, count):
                    peaks.append(extractor._known_peaks(given[index], recordings[index].shape[-1], rates[index]))

        found: list[Window] = []
        window_ids: list[int] = []
        recording_ids: list[int] = []
        skipped: list[list[Skipped]] = []
        for index, signal in enumerate(signals):
            blank = find_no_signal(recordings[index], rates[index]) if extractor.do_mask_flat_leads else None
            if blank is not None and r_peaks is None:
                peaks[index] = extractor.drop_peaks(peaks[index], find_gaps(blank, rates[index]))
            with _Naming(index, count) as naming:
                usable, left_out = extractor.find_windows(signal, peaks[index], blank)
                for reason in [] if return_windows else describe_skipped(left_out):
                    logger.warning("%s%s", naming.prefix, reason)
            found += usable.values()
            window_ids += usable
            recording_ids += [index] * len(usable)
            skipped.append(left_out)

        windows_of = [window.signal for window in found], [window.r_peaks for window in found]
        masks = [lead_masks[index] for index in recording_ids]
        if all_beats:
            features, parts = extractor.cut_all(*windows_of, masks)
        else:
            features = extractor.cut(*windows_of, masks)
            parts = [Part(row, 0, signal.shape[-1]) for row, signal in enumerate(windows_of[0])]
        inside = [
            peaks_of[(peaks_of >= part.start) & (peaks_of < part.stop)] - part.start
            for part, peaks_of in ((part, found[part.window].r_peaks) for part in parts)
        ]
        of = [recording_ids[part.window] for part in parts]
        if return_r_peaks:
            features["r_peaks"] = pad_peaks(inside)
        if return_windows:
            ratios = np.array([rates[index] / extractor.sampling_rate for index in of])
            lengths = np.array([recordings[index].shape[-1] for index in of])
            starts = np.array([found[part.window].start for part in parts])
            features["recording_ids"] = np.array(of, dtype=np.int64)
            features["window_ids"] = np.array([window_ids[part.window] for part in parts], dtype=np.int64)
            for name, edges in (
                ("window_starts", [part.start for part in parts]),
                ("window_ends", [part.stop for part in parts]),
            ):
                features[name] = np.minimum(np.rint((starts + edges) * ratios).astype(np.int64), lengths)
            features["skipped_windows"] = np.array(
                [(index, one.start, one.stop) for index, left_out in enumerate(skipped) for one in left_out],
                dtype=np.float64,
            ).reshape(-1, 3)
        batch = BatchFeature(features, tensor_type=return_tensors)
        if return_reports:
            reads: list[list[np.ndarray]] = [[] for _ in range(count)]
            for index, part, beats in zip(of, parts, inside, strict=True):
                seen = beats if all_beats else extractor.read_peaks(beats)
                reads[index].append(found[part.window].start + part.start + seen)
            batch["reports"] = [
                extractor.describe(
                    *stated[index],
                    lead_masks[index],
                    peaks[index] if r_peaks is not None or extractor.detector != "regular" else None,
                    reads[index],
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
        One recording as 12 clean leads at the model's rate, whole length.

        Args:
            waveform (`np.ndarray` of shape `(num_leads, num_samples)`): The recording.
            sampling_rate (`float`): Its rate [Hz], at least 50.
            lead_names (`Sequence[str]`): Name of each row.
            unit (`str` or `Sequence[str]`): Unit of all rows or of each.
            overrides: Settings for this call.

        Returns:
            `tuple[np.ndarray, np.ndarray]`: The leads `(12, num_samples at the model's rate)` float32 [mV, or no unit
            for `NU`] and a boolean mask `(12,)`, true where a lead is present; missing leads are rows of zeros.

        Raises:
            InputError: If the recording cannot be used.
        """
        return self.replace(**overrides)._clean(waveform, sampling_rate, lead_names, unit)

    def _clean(
        self,
        waveform: np.ndarray,
        sampling_rate: float | None,
        lead_names: Sequence[str] | None,
        unit: str | Sequence[str] | None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """As [`clean`], with the settings as they are: what a subclass adds to it."""
        rate = _checked_rate(sampling_rate)
        signal, names, units = check_waveform(waveform, lead_names, unit)
        if signal.shape[1] < self.min_seconds * rate:
            raise InputError(
                f"the recording lasts {signal.shape[1] / rate:g} s at {rate:g} Hz, less than {self.min_seconds:g} s: "
                "use a longer one, or check the sampling rate"
            )

        scales = np.array([MILLIVOLTS_PER_UNIT[unit] for unit in units], dtype=np.float32)
        if (scales != 1.0).any():
            signal = signal * scales[:, None]
        signal, present = arrange_leads(signal, names, derive=self.do_derive_leads and "NU" not in units)

        recorded_signal = signal
        finite = np.isfinite(signal)
        if not finite.all():
            if not self.do_repair:
                raise InputError("the recording holds NaN or Inf samples: repair them, or set `do_repair=True`")
            # Where nothing was recorded at all the lead is not to blame: windows of that are left out.
            recorded = finite[present].any(axis=0)
            present = usable_leads(present, finite[:, recorded] if recorded.any() else finite, self.max_non_finite)
            signal = repair_non_finite(np.where(present[:, None], signal, 0.0))

        if self.do_mask_flat_leads:
            present = present & ~is_flat(signal)
            if not present.any():
                raise InputError("all leads are flat: the file holds no signal")

        if "NU" not in units:
            check_amplitude(recorded_signal[present], rate, units)

        if rate != self.sampling_rate:
            if not self.do_resample:
                raise InputError(
                    f"the recording is sampled at {rate:g} Hz and the model works at {self.sampling_rate:g} Hz: "
                    "resample it, or set `do_resample=True`"
                )
            signal = self._resample(signal, rate)
        if self.do_bandpass:
            signal = bandpass(signal, self.sampling_rate, self.bandpass_low, self.bandpass_high, self.bandpass_order)
        if self.do_rescale:
            signal = np.array(signal)
            signal[present] = rescale(signal[present], self.rescale_limit)
        return np.where(present[:, None], signal, np.float32(0.0)), present

    def detect(self, signals: Sequence[np.ndarray], lead_masks: Sequence[np.ndarray]) -> list[np.ndarray]:
        """
        R peaks of cleaned recordings; those of one length are searched together.

        Args:
            signals (`Sequence[np.ndarray]`): Recordings `(12, num_samples)` as [`clean`] gives them.
            lead_masks (`Sequence[np.ndarray]`): Their lead masks `(12,)`.

        Returns:
            `list[np.ndarray]`: Ascending peaks of each recording [samples at the model's rate], int64.
        """
        by_length: dict[int, list[int]] = {}
        for index, signal in enumerate(signals):
            by_length.setdefault(signal.shape[-1], []).append(index)
        peaks: list[np.ndarray] = [np.empty(0, dtype=np.int64)] * len(signals)
        for members in by_length.values():
            found = detect_r_peaks(
                np.stack([signals[index] for index in members]),
                sampling_rate=self.sampling_rate,
                detector=self.detector,
                lead_names=STANDARD_LEADS,
                lead_mask=np.stack([lead_masks[index] for index in members]),
            )
            for index, recording_peaks in zip(members, found, strict=True):
                peaks[index] = recording_peaks
        return peaks

    def split(self, signal: np.ndarray, r_peaks: np.ndarray) -> list[Window]:
        """
        The windows of a cleaned recording that the model shall see.

        Args:
            signal (`np.ndarray` of shape `(12, num_samples)`): As [`clean`] gives it.
            r_peaks (`np.ndarray`): Its ascending peaks [samples].

        Returns:
            `list[Window]`: At least one, in order.
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
        found = []
        for start in starts:
            stop = start + self.window_samples
            inside = r_peaks[(r_peaks >= start) & (r_peaks < stop)] - start
            found.append(Window(start, signal[:, start:stop], inside))
        return found

    def read_peaks(self, r_peaks: np.ndarray) -> np.ndarray:
        """Those of a window's peaks whose beats [`cut`] reads: all, if the model reads samples."""
        return r_peaks

    def describe(
        self,
        waveform: np.ndarray,
        sampling_rate: float,
        lead_names: Sequence[str],
        unit: str | Sequence[str],
        lead_mask: np.ndarray,
        r_peaks: np.ndarray | None,
        read: Sequence[np.ndarray],
        **as_describe_signal: Any,
    ) -> SignalReport:
        """
        What is known about a recording beside the model's inputs.

        Args:
            waveform, sampling_rate, lead_names, unit: The recording as it came, see [`clean`].
            lead_mask, r_peaks, read, as_describe_signal: Of what was cleaned and cut of it, as [`describe_signal`]
                takes them.
        """
        quality = measure_quality(waveform, sampling_rate, lead_names, unit)
        model = self.sampling_rate, read, self.lead_names
        return describe_signal(quality, lead_mask, r_peaks, *model, **as_describe_signal)

    def drop_peaks(self, r_peaks: np.ndarray, gaps: Sequence[tuple[float, float]]) -> np.ndarray:
        """Peaks [samples] that do not lie in stretches without signal [s]: detectors find some in noise of filters."""
        times = r_peaks / self.sampling_rate
        hidden = np.zeros(times.shape, dtype=bool)
        for start, stop in gaps:
            hidden |= (times >= start) & (times < stop)
        return r_peaks[~hidden]

    def find_windows(
        self, signal: np.ndarray, r_peaks: np.ndarray, blank: np.ndarray | None = None
    ) -> tuple[dict[int, Window], list[Skipped]]:
        """
        The windows of [`split`] that can be read: not those without any beat where `on_no_beats="raise"`, nor those
        of which more than `max_non_finite` hold no signal: every lead is missing, or none changes (electrodes off).

        Args:
            signal, r_peaks: As in [`split`].
            blank (`np.ndarray`, *optional*): Where the recording held no signal before it was cleaned, see
                [`find_no_signal`]; without it flat windows are read as any other.

        Returns:
            `tuple[dict[int, Window], list[Skipped]]`: The windows by their place in what [`split`] gives, at least
            one, and those that cannot be read.

        Raises:
            InputError: If no window can be read.
        """
        usable: dict[int, Window] = {}
        skipped: list[Skipped] = []
        for number, window in enumerate(self.split(signal, r_peaks)):
            stop = window.start + window.signal.shape[-1]
            beatless = self.on_no_beats == "raise" and not window.r_peaks.size
            # Windows without beats that are asked for with "mask" may be flat, too.
            is_blank = False
            if blank is not None and (self.on_no_beats == "raise" or not self.reads_beats):
                ratio = len(blank) / signal.shape[-1]
                inside = blank[math.ceil(window.start * ratio) + 1 : math.floor(stop * ratio)]
                is_blank = bool(inside.all() or inside.mean() > self.max_non_finite)
            if beatless or is_blank:
                skipped.append(Skipped(window.start / self.sampling_rate, stop / self.sampling_rate, is_blank))
            else:
                usable[number] = window
        if not usable:
            span = f"between {skipped[0].start:g} s and {skipped[-1].stop:g} s"
            if all(one.flat for one in skipped):
                raise InputError(f"every lead is flat or missing {span}: the recording holds no signal there")
            raise InputError(
                f"no beat was found {span}: check the leads and the unit, pass known peaks with `r_peaks=`, or mark "
                'such windows with `on_no_beats="mask"`'
            )
        return usable, skipped

    def cut(
        self, signals: Sequence[np.ndarray], r_peaks: Sequence[np.ndarray], lead_masks: Sequence[np.ndarray]
    ) -> dict[str, np.ndarray]:
        """
        What the model reads of windows of clean signal.

        Args:
            signals (`Sequence[np.ndarray]`): Windows `(12, num_samples)` at the model's rate, of any lengths.
            r_peaks (`Sequence[np.ndarray]`): Ascending peaks of each window [samples].
            lead_masks (`Sequence[np.ndarray]`): Lead masks `(12,)`.

        Returns:
            `dict[str, np.ndarray]`: The model's inputs, one row per window.
        """
        raise NotImplementedError

    def cut_all(
        self, signals: Sequence[np.ndarray], r_peaks: Sequence[np.ndarray], lead_masks: Sequence[np.ndarray]
    ) -> tuple[dict[str, np.ndarray], list[Part]]:
        """
        As [`cut`], but nothing is left out: what is too much for the model at once gives several rows.

        Args:
            signals, r_peaks, lead_masks: As in [`cut`].

        Returns:
            `tuple[dict[str, np.ndarray], list[Part]]`: The model's inputs and what each row covers, in order. A model
            that does not read beats gets one row per window.
        """
        whole = [Part(row, 0, signal.shape[-1]) for row, signal in enumerate(signals)]
        return self.cut(signals, r_peaks, lead_masks), whole

    def trim(self, features: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """
        A batch without what none of its windows has.

        Args:
            features (`dict[str, np.ndarray]`): As [`cut`] gives them.

        Returns:
            `dict[str, np.ndarray]`: The same, narrower where that changes nothing but the time it takes.
        """
        return features

    def row_length(self, row: Mapping[str, Any]) -> int:
        """How much the model reads of a row of a prepared dataset: rows of like length make batches that trim well."""
        return 0

    def _resample(self, signal: np.ndarray, rate: float) -> np.ndarray:
        """Leads of a finite recording at the model's rate."""
        return resample(signal, rate, self.sampling_rate)

    def _known_peaks(self, r_peaks: np.ndarray, num_samples: int, rate: float) -> np.ndarray:
        given = np.asarray(r_peaks)
        if given.ndim != 1 or (given.size and not np.issubdtype(given.dtype, np.integer)):
            raise InputError("r_peaks must be whole sample numbers in one dimension per recording")
        given = given.astype(np.int64)
        if given.size and (given[0] < 0 or given[-1] >= num_samples or (np.diff(given) <= 0).any()):
            raise InputError(
                f"r_peaks must ascend and lie between 0 and {num_samples - 1} "
                "[samples of the recording at its own rate]"
            )
        peaks = np.rint(given * self.sampling_rate / rate).astype(np.int64)
        return np.minimum(peaks, math.ceil(num_samples * self.sampling_rate / rate) - 1)


class _Naming:
    """Says in an error which recording of a batch it is about."""

    def __init__(self, index: int, count: int):
        self.prefix = f"recording {index}: " if count > 1 else ""

    def __enter__(self) -> _Naming:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: Any) -> None:
        if isinstance(error, InputError) and self.prefix:
            raise InputError(f"{self.prefix}{error}") from None


def _as_recordings(waveforms: Any) -> tuple[list[np.ndarray], bool]:
    """The recordings of a call, and whether it was one alone."""
    if isinstance(waveforms, np.ndarray) or hasattr(waveforms, "detach"):
        array = np.asarray(waveforms)
        if array.ndim == 3:
            return list(array), False
        return [array], True
    if isinstance(waveforms, Sequence) and len(waveforms) and np.ndim(waveforms[0]) == 2:
        return [np.asarray(waveform) for waveform in waveforms], False
    if isinstance(waveforms, Sequence) and len(waveforms) == 0:
        raise InputError("no recording was given: pass at least one")
    return [np.asarray(waveforms)], True


def _is_nested(value: Any) -> bool:
    return len(value) > 0 and not isinstance(value[0], str)


def _one_each(value: Any, count: int, name: str, scalar: bool) -> list[Any]:
    if scalar:
        return [value] * count
    values = list(value)
    if len(values) != count:
        raise InputError(f"{name} holds {len(values)} entries for {count} recordings: give one for all or one each")
    return values


def _checked_rate(sampling_rate: Any) -> float:
    if sampling_rate is None:
        raise InputError("the sampling rate is missing: pass `sampling_rate=` [Hz], it is never assumed")
    try:
        rate = float(sampling_rate)
    except (TypeError, ValueError):
        raise InputError(f"the sampling rate {sampling_rate!r} is not a number: pass it in Hz") from None
    if not math.isfinite(rate) or rate < MINIMUM_RATE:
        raise InputError(
            f"the sampling rate is {rate:g} Hz: at least {MINIMUM_RATE:g} Hz are needed to see a QRS complex"
        )
    return rate
