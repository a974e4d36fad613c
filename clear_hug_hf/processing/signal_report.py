"""
Report on a recording: heart rate and variability, missing, flat and clipped leads, amplitude, and warnings.

Signal quality is measured on the original samples, before repair, filtering and derivation of leads; the rhythm is
computed from the R peaks of the entire recording. `benchmarks/signal_report.py` measures how often each warning
occurs.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np

from .errors import InputError
from .leads import STANDARD_LEADS, lead_and_sign
from .signal_cleaning import MILLIVOLTS_PER_UNIT, canonical_unit


CLIPPED_SECONDS = 0.02
"""A lead is clipped where it stays at its maximum or minimum for at least this duration [s] and three samples."""
PLAUSIBLE_MILLIVOLTS = (0.1, 10.0)
"""Plausible typical range of the largest lead within 2 s [mV]: a QRS complex and some baseline wander."""
ACCEPTED_MILLIVOLTS = (0.01, 100.0)
"""Accepted typical range of the largest lead [mV]. Outside of it, the unit or the gain is wrong."""

GAP_SECONDS = 0.5
"""Minimum duration of a gap in which no lead changes [s]. Heart signals do not stay constant for this long."""

_BLOCK_SECONDS = 2.0  # contains a beat at 30/min or more
_MAX_CLIPPED_FRACTION = 0.01  # of the samples of a lead
_MAX_NAN_FRACTION = 0.01  # of all samples
_PLAUSIBLE_RATE = (25.0, 250.0)  # [1/min]
# Models are trained on the standard duration of 10 s. On the first 5 s, the AUROC of two shipped models drops by less
# than 0.01, on the first second by 0.07 and 0.12 (benchmarks/results/signal_report.csv).
_SHORT_SECONDS, _FEW_BEATS = 5.0, 3

# Bradycardia is below 60/min and tachycardia above 100/min. With a margin of 5/min, the heart rate contradicts these
# labels of PTB-XL, Chapman-Shaoxing-Ningbo, CODE-15% and the PhysioNet Challenges (lower case), or SNOMED codes.
_BRADYCARDIA = frozenset(["sbrad", "sb", "brady", "bradycardia", "sinus bradycardia", "426177001", "426627000"])
_TACHYCARDIA = frozenset(["stach", "st", "tachy", "tachycardia", "sinus tachycardia", "427084000"])
_HIGHEST_OF_BRADYCARDIA, _LOWEST_OF_TACHYCARDIA = 65.0, 95.0


class Quality(NamedTuple):
    """
    Signal quality of the standard leads of an original recording.

    Args:
        flat_leads (`list[str]`): Recorded leads without variation, in standard order.
        clipped_leads (`list[str]`): Leads with more than 1 % clipped samples, in standard order.
        nan_share (`float`): Fraction of samples that are NaN or Inf.
        clipped_share (`float`): Fraction of samples that are clipped.
        ranges (`dict[str, float]`): Typical range of each lead within 2 s [mV]; empty for unit `NU`.
        units (`list[str]`): Distinct units of the leads.
        seconds (`float`): Duration [s].
        gaps (`list[tuple[float, float]]`): Start and end of gaps without signal [s], see [`find_gaps`].
    """

    flat_leads: list[str]
    clipped_leads: list[str]
    nan_share: float
    clipped_share: float
    ranges: dict[str, float]
    units: list[str]
    seconds: float
    gaps: list[tuple[float, float]]


class SkippedWindow(NamedTuple):
    """
    Window that was skipped.

    Args:
        start, stop (`float`): Start and end [s].
        flat (`bool`): True if it contains no signal, False if no beats were detected.
    """

    start: float
    stop: float
    flat: bool


@dataclass(frozen=True)
class SignalReport:
    """
    Report on the rhythm and signal quality of a recording. RR intervals that overlap gaps or skipped windows are
    ignored.

    Args:
        seconds (`float`): Duration [s].
        heart_rate (`float`, *optional*): Heart rate from the mean RR interval [1/min]; `None` without RR intervals.
        sdnn_ms (`float`, *optional*): Standard deviation of the RR intervals of all beats [ms]. `None`, like the next
            two, without two successive RR intervals.
        rmssd_ms (`float`, *optional*): Root mean square of successive differences of RR intervals [ms].
        irregularity (`float`, *optional*): Ratio of `rmssd_ms` and the mean RR interval: about 0.03 at rest, above 0.1
            in most cases of atrial fibrillation (Dash et al., Ann. Biomed. Eng. 37, 2009).
        beats_found (`int`, *optional*): Number of detected beats; `None` without beat detection.
        beats_read (`int`, *optional*): Number of detected beats that the model reads.
        missing_leads (`list[str]`): Leads of the model that are masked because they are missing, flat or NaN.
        flat_leads, clipped_leads, nan_share, clipped_share: See [`Quality`].
        amplitude_mv (`float`, *optional*): Typical range of the largest lead within 2 s [mV]; `None` for unit `NU`.
        warnings (`list[str]`): Warnings, one sentence each.
        window_rates (`list[float | None]`): Heart rate of each row of the model inputs [1/min].
    """

    seconds: float
    heart_rate: float | None
    sdnn_ms: float | None
    rmssd_ms: float | None
    irregularity: float | None
    beats_found: int | None
    beats_read: int | None
    missing_leads: list[str]
    flat_leads: list[str]
    clipped_leads: list[str]
    nan_share: float
    clipped_share: float
    amplitude_mv: float | None
    warnings: list[str]
    window_rates: list[float | None]

    def to_dict(self) -> dict[str, Any]:
        """JSON-serializable report on the entire recording, rounded to meaningful digits."""
        values = asdict(self)
        del values["window_rates"]
        return {
            name: round(value, _DIGITS.get(name, 4)) if isinstance(value, float) else value
            for name, value in values.items()
        }

    def summary(self) -> str:
        """One-line summary: heart rate, variability, beats, and missing, flat or clipped leads."""
        parts = [] if self.heart_rate is None else [f"{self.heart_rate:.0f}/min"]
        if self.sdnn_ms is not None and self.rmssd_ms is not None and self.irregularity is not None:
            parts += [
                f"SDNN {self.sdnn_ms:.0f} ms",
                f"RMSSD {self.rmssd_ms:.0f} ms ({self.irregularity:.0%} of the RR interval)",
            ]
        if self.beats_found is not None:
            parts.append(f"{self.beats_read} of {self.beats_found} beats read")
        leads = [
            f"leads {issue}: {', '.join(names)}"
            for issue, names in (
                ("missing", self.missing_leads),
                ("flat", self.flat_leads),
                ("clipped", self.clipped_leads),
            )
            if names
        ]
        return "; ".join([", ".join(parts) or f"{self.seconds:g} s", *leads])

    def contradiction(self, label: str, window: int | None = None) -> str | None:
        """
        Explain in a sentence if the heart rate contradicts a label of bradycardia or tachycardia, or return `None`.

        Args:
            label (`str`): Name of the label in PTB-XL, Chapman-Shaoxing-Ningbo, CODE-15% or the PhysioNet Challenges.
            window (`int`, *optional*): Row of the model inputs; by default, the label refers to the entire recording.
        """
        rate = self.heart_rate if window is None else self.window_rates[window]
        name = str(label).strip().lower()
        if rate is None:
            return None
        if name in _BRADYCARDIA and rate > _HIGHEST_OF_BRADYCARDIA:
            return f"the heart rate of {rate:.0f}/min contradicts {label}: bradycardia is below 60/min"
        if name in _TACHYCARDIA and rate < _LOWEST_OF_TACHYCARDIA:
            return f"the heart rate of {rate:.0f}/min contradicts {label}: tachycardia is above 100/min"
        return None


_DIGITS = {"seconds": 3, "heart_rate": 1, "sdnn_ms": 1, "rmssd_ms": 1, "irregularity": 3, "amplitude_mv": 3}


def measure_quality(
    waveform: np.ndarray, sampling_rate: float, lead_names: Sequence[str], unit: str | Sequence[str]
) -> Quality:
    """
    Measure the signal quality of a recording.

    Args:
        waveform (`np.ndarray` of shape `(num_leads, num_samples)`): Original recording.
        sampling_rate (`float`): Sampling rate [Hz].
        lead_names (`Sequence[str]`): Name of each row, see [`lead_and_sign`].
        unit (`str` or `Sequence[str]`): Unit of all rows or of each.
    """
    names = [lead_and_sign(name)[0] for name in lead_names]
    units = [canonical_unit(lead_unit) for lead_unit in ([unit] * len(names) if isinstance(unit, str) else unit)]
    waveform = np.asarray(waveform)
    if None in names:
        is_standard = [name is not None for name in names]
        waveform = waveform[is_standard]
        units = [lead_unit for lead_unit, standard in zip(units, is_standard, strict=True) if standard]
    leads = [name for name in names if name is not None]
    highest, lowest, num_finite = _extremes(waveform)
    flat = highest <= lowest  # includes leads without finite samples
    shortest = max(3, math.ceil(CLIPPED_SECONDS * sampling_rate))
    limits = [np.where(flat, np.nan, limit) for limit in (highest, lowest)]
    clipped = np.sum([_count_runs(waveform, limit, shortest) for limit in limits], axis=0)
    ranges = {}
    if "NU" not in units:
        spans = typical_ranges(waveform, sampling_rate) * [MILLIVOLTS_PER_UNIT[lead_unit] for lead_unit in units]
        ranges = {name: float(span) for name, span in zip(leads, spans, strict=True)}
    num_samples = waveform.shape[1]
    return Quality(
        flat_leads=_in_order(name for name, is_flat in zip(leads, flat, strict=True) if is_flat),
        clipped_leads=_in_order(
            name for name, count in zip(leads, clipped, strict=True) if count > _MAX_CLIPPED_FRACTION * num_samples
        ),
        nan_share=1.0 - num_finite / max(1, waveform.size),
        clipped_share=int(clipped.sum()) / max(1, waveform.size),
        ranges=ranges,
        units=list(dict.fromkeys(units)),
        seconds=num_samples / sampling_rate,
        gaps=find_gaps(find_blank_samples(waveform, sampling_rate), sampling_rate),
    )


def find_blank_samples(waveform: np.ndarray, sampling_rate: float) -> np.ndarray:
    """
    Find samples without signal, for example with disconnected electrodes: all leads are NaN or Inf, or none changes
    for [`GAP_SECONDS`].

    Args:
        waveform (`np.ndarray` of shape `(num_leads, num_samples)`): Original recording.
        sampling_rate (`float`): Sampling rate [Hz].

    Returns:
        `np.ndarray` of shape `(num_samples,)`, bool.
    """
    waveform = np.asarray(waveform)
    changed, recorded = np.zeros((2, waveform.shape[-1]), dtype=bool)
    for lead in waveform:  # lead by lead, to save memory on long recordings
        finite = np.isfinite(lead)
        changed[1:] |= (lead[1:] != lead[:-1]) & finite[1:] & finite[:-1]
        recorded |= finite
    blank = ~recorded
    for start, stop in _find_runs(~changed, GAP_SECONDS * sampling_rate):
        blank[start:stop] = True
    return blank


def find_gaps(blank: np.ndarray, sampling_rate: float) -> list[tuple[float, float]]:
    """Start and end [s] of gaps of at least [`GAP_SECONDS`] in the output of [`find_blank_samples`]."""
    runs = _find_runs(blank, GAP_SECONDS * sampling_rate)
    return [(start / sampling_rate, stop / sampling_rate) for start, stop in runs]


def _find_runs(mask: np.ndarray, shortest: float) -> list[tuple[int, int]]:
    """Start and end of each run of True samples of at least the given length."""
    edges = np.flatnonzero(np.diff(mask.astype(np.int8), prepend=0, append=0)).reshape(-1, 2)
    return [(start, stop) for start, stop in edges.tolist() if stop - start >= shortest]


def describe_skipped(skipped: Sequence[SkippedWindow]) -> list[str]:
    """Describe skipped windows, in one sentence for each reason."""
    sentences = []
    for flat, reason in ((True, "every lead is flat or missing"), (False, "no beats were detected")):
        spans = ", ".join(f"{window.start:g}-{window.stop:g} s" for window in skipped if window.flat == flat)
        if spans:
            sentences.append(f"{spans} skipped: {reason}")
    return sentences


def describe_signal(
    quality: Quality,
    lead_mask: np.ndarray,
    r_peaks: np.ndarray | None = None,
    sampling_rate: float = 100.0,
    read_peaks: Sequence[np.ndarray] | None = None,
    lead_names: Sequence[str] = STANDARD_LEADS,
    skipped: Sequence[SkippedWindow] = (),
    windows: str = "all",
) -> SignalReport:
    """
    Create the report on a recording.

    Args:
        quality ([`Quality`]): Signal quality of the original recording.
        lead_mask (`np.ndarray` of shape `(12,)`): True for leads that are present after cleaning, including derived
            ones.
        r_peaks (`np.ndarray`, *optional*): R peaks of the entire recording in ascending order [samples]. Without them,
            the report does not include the rhythm.
        sampling_rate (`float`, *optional*, defaults to `100.0`): Sampling rate of the peaks [Hz].
        read_peaks (`Sequence[np.ndarray]`, *optional*): R peaks that the model reads, for each row of its inputs; all
            in one row by default.
        lead_names (`Sequence[str]`, *optional*, defaults to the 12 standard leads): Leads that the model reads.
        skipped (`Sequence[SkippedWindow]`, *optional*): Skipped windows.
        windows (`str`, *optional*, defaults to `"all"`): Windows that the model reads, see [`EcgFeatureExtractor`].
    """
    is_present = dict(zip(STANDARD_LEADS, np.asarray(lead_mask, dtype=bool).tolist(), strict=True))
    missing, present = ([name for name in lead_names if is_present[name] == state] for state in (False, True))
    peaks = np.empty(0) if r_peaks is None else np.asarray(r_peaks)
    count = None if r_peaks is None else len(peaks)
    rows = [peaks] if read_peaks is None else read_peaks
    gaps = [*quality.gaps, *((window.start, window.stop) for window in skipped)]
    intervals = _rr_intervals(peaks, sampling_rate, gaps)
    differences = np.diff(intervals)
    differences = differences[np.isfinite(differences)]
    known = intervals[np.isfinite(intervals)]
    sdnn = float(known.std(ddof=1)) if differences.size else None
    rmssd = float(np.sqrt(np.mean(differences**2))) if differences.size else None
    report = SignalReport(
        seconds=quality.seconds,
        heart_rate=_mean_rate(intervals),
        sdnn_ms=sdnn,
        rmssd_ms=rmssd,
        irregularity=None if rmssd is None else rmssd / float(known.mean()),
        beats_found=count,
        beats_read=None if count is None else len(np.unique(np.concatenate(rows))),
        missing_leads=missing,
        flat_leads=quality.flat_leads,
        clipped_leads=quality.clipped_leads,
        nan_share=quality.nan_share,
        clipped_share=quality.clipped_share,
        amplitude_mv=max(quality.ranges.values(), default=None),
        warnings=describe_skipped(skipped),
        window_rates=[_mean_rate(_rr_intervals(row, sampling_rate, gaps)) if count else None for row in rows],
    )
    report.warnings.extend(_warnings(report, quality, present, windows))
    return report


def _rr_intervals(r_peaks: np.ndarray, sampling_rate: float, gaps: Sequence[tuple[float, float]]) -> np.ndarray:
    """RR intervals [ms], NaN where they overlap a gap [s]."""
    times = np.asarray(r_peaks) / sampling_rate
    intervals = np.diff(r_peaks) / sampling_rate * 1000.0
    for start, stop in gaps:
        intervals[(times[:-1] < stop) & (times[1:] > start)] = np.nan
    return intervals


def _mean_rate(intervals: np.ndarray) -> float | None:
    """Heart rate [1/min] from the mean of the finite RR intervals [ms]."""
    known = intervals[np.isfinite(intervals)]
    return 60000.0 / float(known.mean()) if known.size else None


def typical_ranges(signals: np.ndarray, sampling_rate: float) -> np.ndarray:
    """
    Typical range of each lead: the median of the difference of maximum and minimum over all blocks of 2 s in which the
    lead varies. It is robust to offsets and to artifacts in less than half of the blocks.

    Args:
        signals (`np.ndarray` of shape `(num_leads, num_samples)`): Leads. Samples that are not finite are ignored.
        sampling_rate (`float`): Sampling rate [Hz].

    Returns:
        `np.ndarray` of shape `(num_leads,)` in the unit of the leads, 0 for a constant lead.
    """
    block = min(round(_BLOCK_SECONDS * sampling_rate), signals.shape[1])
    num_blocks = signals.shape[1] // block
    blocks = signals[:, : num_blocks * block].reshape(len(signals), num_blocks, block)
    highest, lowest, _ = _extremes(blocks)
    spans = np.maximum(highest.astype(np.float64) - lowest, 0.0)
    return np.array([np.median(lead[lead > 0]) if (lead > 0).any() else 0.0 for lead in spans])


def _extremes(signals: np.ndarray) -> tuple[np.ndarray, np.ndarray, int]:
    """Maximum and minimum of the finite samples along the last axis, infinite if there are none, and their number."""
    highest, lowest = signals.max(axis=-1), signals.min(axis=-1)
    if np.isfinite([highest, lowest]).all():
        return highest, lowest, signals.size
    finite = np.isfinite(signals)
    highest = np.where(finite, signals, -np.inf).max(axis=-1)
    return highest, np.where(finite, signals, np.inf).min(axis=-1), int(np.count_nonzero(finite))


def check_amplitude(
    signals: np.ndarray,
    sampling_rate: float,
    units: Sequence[str],
    accepted: tuple[float, float] = ACCEPTED_MILLIVOLTS,
) -> None:
    """
    Check the amplitude of a recording, which depends on the correct unit and gain.

    Args:
        signals (`np.ndarray` of shape `(num_leads, num_samples)`): Recorded leads before repair [mV].
        sampling_rate (`float`): Sampling rate [Hz].
        units (`Sequence[str]`): Original units of the leads.
        accepted (`tuple[float, float]`, *optional*, defaults to [`ACCEPTED_MILLIVOLTS`]): Accepted range [mV].

    Raises:
        InputError: If all leads are constant, or the typical range of the largest lead within 2 s is not accepted.
    """
    largest = float(typical_ranges(signals, sampling_rate).max())
    if largest == 0.0:
        raise InputError("the recording contains no signal: every lead is flat or missing")
    if not accepted[0] <= largest <= accepted[1]:
        raise InputError(_describe_amplitude(largest, units))


def _describe_amplitude(largest: float, units: Sequence[str], leads: Sequence[str] = ()) -> str:
    lowest, highest = PLAUSIBLE_MILLIVOLTS
    distinct = list(dict.fromkeys(units))
    candidates = []
    if len(distinct) == 1:
        value = largest / MILLIVOLTS_PER_UNIT[distinct[0]]
        candidates = [
            unit
            for unit, millivolts in MILLIVOLTS_PER_UNIT.items()
            if unit not in ("NU", distinct[0]) and lowest <= value * millivolts <= highest
        ]
    if candidates:
        remedy = f"the unit is probably {' or '.join(candidates)} instead of {distinct[0]}"
    else:
        remedy = "check the unit and the gain (NU is the unit of normalized samples)"
    subject = f"lead(s) {', '.join(leads)} span up to" if leads else "the largest lead spans"
    return f"{subject} {largest:.3g} mV within 2 s, but a QRS complex spans {lowest:g} to {highest:g} mV: {remedy}"


def _warnings(report: SignalReport, quality: Quality, present: Sequence[str], windows: str) -> Iterator[str]:
    """Warnings, one sentence each; `present` are the leads of the model that are not missing."""
    num_read, num_beats, rate, missing = report.beats_read, report.beats_found, report.heart_rate, report.missing_leads
    if windows != "all" and num_read is not None and num_beats is not None and num_read < num_beats:
        yield f"only {num_read} of {num_beats} beats are read: use windows='all'"
    if num_beats == 0:
        yield f"no beats were detected in {report.seconds:.3g} s: check leads and electrodes"
    elif report.seconds < _SHORT_SECONDS or (num_beats is not None and num_beats < _FEW_BEATS):
        beats = "" if num_beats is None else f" with {num_beats} beat(s)"
        yield (
            f"the recording is short ({report.seconds:.3g} s{beats}): predictions from less than {_SHORT_SECONDS:g} s "
            f"or {_FEW_BEATS} beats are unreliable, so record 10 s"
        )
    if rate is not None and not _PLAUSIBLE_RATE[0] <= rate <= _PLAUSIBLE_RATE[1]:
        yield f"a heart rate of {rate:.0f}/min is implausible: check the sampling rate and the detected beats"
    if missing:
        # If most leads are missing, list the remaining ones.
        rest = ", ".join(present) if len(present) < len(missing) else "the others"
        names = [f"{name} (flat)" if name in report.flat_leads else name for name in missing]
        yield (
            f"{len(missing)} of {len(missing) + len(present)} leads are missing and masked: {', '.join(names)}; "
            f"predictions are based on {rest} only"
        )
    if report.clipped_leads:
        yield (
            f"lead(s) {', '.join(report.clipped_leads)} are clipped: they stay at their maximum or minimum for more "
            f"than {_MAX_CLIPPED_FRACTION:.0%} of the time, so check the input range of the recorder"
        )
    if report.nan_share > _MAX_NAN_FRACTION:
        yield f"{report.nan_share:.1%} of the samples are NaN or Inf: they were repaired or skipped"
    lowest, highest = PLAUSIBLE_MILLIVOLTS
    if report.amplitude_mv and not lowest <= report.amplitude_mv <= highest:
        too_high = _in_order(name for name, span in quality.ranges.items() if span > highest)
        yield _describe_amplitude(report.amplitude_mv, quality.units, too_high)


def _in_order(names: Any) -> list[str]:
    return sorted(names, key=STANDARD_LEADS.index)


def _count_runs(waveform: np.ndarray, values: np.ndarray, shortest: int) -> np.ndarray:
    """Number of samples of each lead in runs of at least `shortest` samples that equal the value of the lead."""
    indices = np.flatnonzero(waveform == values[:, None])
    rows = indices // max(1, waveform.shape[1])
    indices += rows  # separates the last sample of a lead from the first sample of the next
    counts = np.zeros(len(waveform), dtype=np.int64)
    if (indices[shortest - 1 :] - indices[: 1 - shortest] >= shortest).all():
        return counts  # nearly always
    starts = np.flatnonzero(np.diff(indices, prepend=-2) != 1)
    lengths = np.diff(starts, append=len(indices))
    long = lengths >= shortest
    np.add.at(counts, rows[starts[long]], lengths[long])
    return counts
