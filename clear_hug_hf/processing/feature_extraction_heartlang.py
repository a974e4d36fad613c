"""Feature extractor of HeartLang."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Annotated, ClassVar

import numpy as np
from scipy import signal as scipy_signal
from transformers.utils import logging

from .beats import cut_beats, group_beats, pad_peaks
from .errors import InputError
from .feature_extraction_ecg import EcgFeatureExtractor, Part
from .leads import STANDARD_LEADS
from .setting_checks import MAX_WINDOW_SAMPLES, check_choice, check_number
from .signal_cleaning import canonical_unit, rescale


logger = logging.get_logger(__name__)

SCALINGS = ("millivolt", "standard", "min_max")
DETECTION_LEADS = ("first", "all")
ON_LOST_BEATS = ("warn", "raise", "ignore")

_NEIGHBORS = 6  # samples on each side that are used for repair


class HeartLangFeatureExtractor(EcgFeatureExtractor):
    """
    Converts recordings to sentences of beats for [`HeartLangModel`] (Jin et al., ICLR 2025).

    The 12 leads are arranged by name, repaired, resampled to 100 Hz by a Fourier transform, and filtered from 0.67 to
    40 Hz; they stay in mV. XQRS of `wfdb` detects the R peaks in lead I, and each lead is cut into beats as in
    `cut_beats`. The beats of lead I come first, then those of lead II, and so on. Missing leads are left out; the
    others keep their ids. A window without peaks raises an error, or, with `on_no_beats="mask"`, becomes all zeros, as
    in the released code.

    The authors prepare each data set in another way, and the model was pre-trained with the first:

    - MIMIC-IV-ECG: `scaling="millivolt"` with the filter, the default;
    - PTB-XL: `scaling="standard"`, which does not filter. They subtract the mean and divide by the standard deviation
      of all leads and samples of the training recordings, which they do not publish: pass those of yours as
      `signal_mean` and `signal_std`, or recordings in normalized units (`NU`), which stay as they are;
    - CSN: `scaling="min_max"` with the filter;
    - CPSC2018: `scaling="min_max"` without filter (`do_bandpass=False`), after replacing all but the first 5 s by 5 s
      of zeros, which this extractor leaves to the caller.

    The model has room for `num_beats` beats of all leads together: for 21 beats of 12 leads. In a window with more of
    them (from about 132 per minute in 10 s), the last leads are lost, as in the released code, with a warning that
    names them. With `windows="all"`, which predictions use, such a window results in several inputs of consecutive
    beats instead, with all leads.

    Args:
        scaling (`str`): `"millivolt"` does not scale; `"standard"` subtracts `signal_mean` and divides by
            `signal_std`, without filter; `"min_max"` maps the lowest and highest sample of the recording, before
            resampling, to plus and minus `rescale_limit`.
        signal_mean (`float`): Mean of the training recordings [mV], for `scaling="standard"`.
        signal_std (`float`, *optional*): Standard deviation of the training recordings [mV], for `scaling="standard"`.
            Required unless recordings are in normalized units.
        detection_leads (`str`): Leads that the detector reads: the `"first"` one that is present, as released, or
            `"all"`.
        on_lost_beats (`str`): Whether to `"warn"` about beats for which the model has no room, to `"raise"` an error
            or to `"ignore"` them.
        num_beats (`int`): Beats of all leads together that the model reads.
        beat_length (`int`): Window length of a beat [samples at `sampling_rate`].
        num_time_embeddings (`int`): Rows of the time embedding of the model: one for padding, and one for each second
            of a window, which limits its length.
        kwargs: See [`EcgFeatureExtractor`].
    """

    model_input_names: ClassVar[list[str]] = ["input_values", "lead_ids", "time_ids"]
    reads_beats: ClassVar[bool] = True
    missing_leads: ClassVar[str] = "left out"
    model_settings: ClassVar[tuple[str, ...]] = ("num_beats", "beat_length", "num_time_embeddings")

    detector = "xqrs"
    on_no_beats = "raise"
    do_bandpass = True
    scaling: Annotated[str, partial(check_choice, choices=SCALINGS)] = "millivolt"
    signal_mean: Annotated[float, partial(check_number, low=-1e6, high=1e6)] = 0.0
    signal_std: Annotated[float | None, partial(check_number, low=1e-6, high=1e6, optional=True)] = None
    detection_leads: Annotated[str, partial(check_choice, choices=DETECTION_LEADS)] = "first"
    on_lost_beats: Annotated[str, partial(check_choice, choices=ON_LOST_BEATS)] = "warn"
    num_beats: Annotated[
        int, partial(check_number, low=len(STANDARD_LEADS), high=MAX_WINDOW_SAMPLES, integer=True)
    ] = 256
    beat_length: Annotated[int, partial(check_number, low=2, high=MAX_WINDOW_SAMPLES, integer=True)] = 96
    num_time_embeddings: Annotated[int, partial(check_number, low=2, high=MAX_WINDOW_SAMPLES, integer=True)] = 16

    def check_settings(self) -> None:
        """See [`EcgFeatureExtractor.check_settings`]."""
        super().check_settings()
        if self.num_beats * self.beat_length > MAX_WINDOW_SAMPLES:
            raise InputError(
                f"num_beats={self.num_beats} times beat_length={self.beat_length} must be at most "
                f"{MAX_WINDOW_SAMPLES}: reduce one of them"
            )
        if self.window_seconds > self.num_time_embeddings - 1:
            raise InputError(
                f"window_seconds must be at most {self.num_time_embeddings - 1}, got {self.window_seconds:g}: the "
                f"model has {self.num_time_embeddings} time embeddings, one for padding and one for each second; use "
                'shorter windows, and windows="all" for long recordings'
            )

    @property
    def keeps_unit(self) -> bool:
        """See [`EcgFeatureExtractor.keeps_unit`]."""
        return super().keeps_unit and self.scaling == "millivolt"

    def _clean(
        self,
        waveform: np.ndarray,
        sampling_rate: float | None,
        lead_names: Sequence[str] | None,
        unit: str | Sequence[str] | None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """See [`EcgFeatureExtractor.clean`]. Also standardizes, with `scaling="standard"`."""
        signal, present = super()._clean(waveform, sampling_rate, lead_names, unit)
        units = {canonical_unit(name) for name in ([unit] if isinstance(unit, str) else unit or ())}
        if self.scaling == "millivolt" and "NU" in units:
            logger.warning_once(
                'recordings in normalized units (NU) have another scale than the mV that scaling="millivolt" means: '
                'set scaling="standard" or "min_max"'
            )
        if self.scaling == "standard" and units != {"NU"}:
            if self.signal_std is None or "NU" in units:
                raise InputError(
                    'scaling="standard" needs the mean and the standard deviation of the training recordings: set '
                    "signal_mean and signal_std [mV], or pass recordings with all leads in normalized units (NU)"
                )
            signal = np.where(present[:, None], (signal - np.float32(self.signal_mean)) / self.signal_std, 0.0)
        return signal.astype(np.float32, copy=False), present

    def _repair(self, signal: np.ndarray) -> np.ndarray:
        """
        Replace each NaN and Inf, from left to right, by the mean of the finite samples among the six on either side,
        of which the left ones may have been replaced before, or by zero if there are none.
        """
        finite = np.isfinite(signal)
        signal = np.where(finite, signal, np.nan).astype(np.float64)
        for lead, sample in np.argwhere(~finite):
            around = signal[lead, max(sample - _NEIGHBORS, 0) : sample + _NEIGHBORS + 1]
            around = around[~np.isnan(around)]
            signal[lead, sample] = around.mean() if around.size else 0.0
        return signal.astype(np.float32)

    def _transform(self, signal: np.ndarray, present: np.ndarray, rate: float) -> np.ndarray:
        """See [`EcgFeatureExtractor._transform`]. In float64, as released."""
        signal = signal.astype(np.float64)
        if self.scaling == "min_max":
            signal[present] = rescale(signal[present], self.rescale_limit)
        if rate != self.sampling_rate:
            signal = scipy_signal.resample(signal, int(signal.shape[-1] * self.sampling_rate / rate), axis=-1)
        if self.do_bandpass and self.scaling != "standard":
            # Not in second-order sections, and with the padding of this form, as released.
            numerator, denominator = scipy_signal.butter(
                self.bandpass_order,
                (self.bandpass_low, self.bandpass_high),
                btype="bandpass",
                fs=self.sampling_rate,
            )
            pad = min(3 * max(len(numerator), len(denominator)), signal.shape[-1] - 1)
            signal = scipy_signal.filtfilt(numerator, denominator, signal, axis=-1, padlen=pad)
        if self.do_rescale:
            signal[present] = rescale(signal[present], self.rescale_limit)
        return signal.astype(np.float32)

    def detect(self, signals: Sequence[np.ndarray], lead_masks: Sequence[np.ndarray]) -> list[np.ndarray]:
        """See [`EcgFeatureExtractor.detect`]. Only in the first lead that is present, by default."""
        if self.detection_leads == "first":
            lead_masks = [mask & (np.cumsum(mask) == 1) for mask in np.asarray(lead_masks, dtype=bool)]
        return super().detect(signals, lead_masks)

    def cut(
        self, signals: Sequence[np.ndarray], r_peaks: Sequence[np.ndarray], lead_masks: Sequence[np.ndarray]
    ) -> dict[str, np.ndarray]:
        """
        Cut windows of a cleaned signal into beats.

        Args:
            signals, r_peaks, lead_masks: See [`EcgFeatureExtractor.cut`].

        Returns:
            `dict[str, np.ndarray]`: `input_values` `(num_windows, num_beats, beat_length)` float32, the beats of all
            leads, lead by lead, and zeros behind them; `lead_ids` and `time_ids` `(num_windows, num_beats)` int64, the
            index of the lead and the second of each beat, both plus one, and 0 behind the last beat.

        Raises:
            InputError: If beats are lost and `on_lost_beats="raise"`, or a window has more seconds than the model has
                time embeddings.
        """
        every = [np.arange(len(peaks)) for peaks in r_peaks]
        return self._pack(signals, r_peaks, lead_masks, list(enumerate(every)))

    def cut_all(
        self, signals: Sequence[np.ndarray], r_peaks: Sequence[np.ndarray], lead_masks: Sequence[np.ndarray]
    ) -> tuple[dict[str, np.ndarray], list[Part]]:
        """
        Like [`cut`], but without losing leads: a window with too many beats results in several rows of consecutive
        beats, of nearly equal size, each with all leads. Times of the beats refer to the entire window.

        Args:
            signals, r_peaks, lead_masks: See [`EcgFeatureExtractor.cut`].

        Returns:
            `tuple[dict[str, np.ndarray], list[Part]]`: Model inputs, and the part of the window that each row covers.
            Parts are separated midway between two beats.
        """
        rows: list[tuple[int, np.ndarray]] = []
        parts: list[Part] = []
        for window, (signal, peaks, mask) in enumerate(zip(signals, r_peaks, lead_masks, strict=True)):
            beats_per_lead = self.num_beats // max(1, int(np.sum(mask)))
            for beats, start, stop in group_beats(peaks, signal.shape[-1], beats_per_lead):
                rows.append((window, beats))
                parts.append(Part(window, start, stop))
        return self._pack(signals, r_peaks, lead_masks, rows), parts

    def _pack(
        self,
        signals: Sequence[np.ndarray],
        r_peaks: Sequence[np.ndarray],
        lead_masks: Sequence[np.ndarray],
        rows: Sequence[tuple[int, np.ndarray]],
    ) -> dict[str, np.ndarray]:
        """Model inputs of rows, each of which is a window and the indices of its beats."""
        lengths = np.array([signal.shape[-1] for signal in signals])
        batch = np.zeros((len(signals), len(STANDARD_LEADS), int(lengths.max())), dtype=np.float32)
        for padded, signal in zip(batch, signals, strict=True):
            padded[:, : signal.shape[-1]] = signal
        peaks = pad_peaks(r_peaks)
        beats, _, _ = cut_beats(batch, peaks, peaks.shape[1], self.beat_length, self.sampling_rate, lengths)
        seconds = peaks // int(self.sampling_rate) + 1
        if seconds.max() >= self.num_time_embeddings:
            raise InputError(
                f"a window has beats in second {int(seconds.max())}, and the model has time embeddings for "
                f"{self.num_time_embeddings - 1} s: use shorter windows"
            )

        shape = (len(rows), self.num_beats)
        input_values = np.zeros((*shape, self.beat_length), dtype=np.float32)
        lead_ids, time_ids = np.zeros(shape, dtype=np.int64), np.zeros(shape, dtype=np.int64)
        lost: dict[str, None] = {}
        most_beats = 0
        for row, (window, indices) in enumerate(rows):
            leads = np.flatnonzero(lead_masks[window])
            sentence = beats[window][leads][:, indices].reshape(-1, self.beat_length)[: self.num_beats]
            input_values[row, : len(sentence)] = sentence
            words = np.repeat(leads + 1, len(indices))
            lead_ids[row, : len(sentence)] = words[: self.num_beats]
            time_ids[row, : len(sentence)] = np.tile(seconds[window, indices], len(leads))[: self.num_beats]
            if len(words) > self.num_beats:
                lost |= dict.fromkeys(STANDARD_LEADS[word - 1] for word in words[self.num_beats :])
                most_beats = max(most_beats, len(words))
        if lost:
            self._report_lost(sorted(lost, key=STANDARD_LEADS.index), most_beats)
        return {"input_values": input_values, "lead_ids": lead_ids, "time_ids": time_ids}

    def _report_lost(self, leads: Sequence[str], most_beats: int) -> None:
        problem = (
            f"a window has {most_beats} beats in all leads together, and the model reads {self.num_beats}: beats of "
            f"{', '.join(leads)} are lost"
        )
        remedy = 'set windows="all" to read them as further inputs'
        if self.on_lost_beats == "raise":
            raise InputError(f'{problem}; {remedy}, or on_lost_beats="warn" to leave them out')
        if self.on_lost_beats == "warn":
            logger.warning("%s; %s", problem, remedy)

    def read_peaks(self, r_peaks: np.ndarray) -> np.ndarray:
        """The first `num_beats` of a window's peaks. Of the last leads, fewer may be read."""
        return r_peaks[: self.num_beats]


HeartLangFeatureExtractor.register_for_auto_class()
