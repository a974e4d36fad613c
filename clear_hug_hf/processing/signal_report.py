"""
What a recording says about itself: heart rate, variability, leads, clipping, amplitude, and what is implausible.

The samples are measured as they were recorded, before anything is repaired, filtered or derived; the rhythm comes from
the R peaks of the whole recording. `benchmarks/signal_report.py` counts on real recordings how often each warning is
given.
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
"""A lead that rests at its own highest or lowest value for this long [s], and for three samples, is clipped there."""
PLAUSIBLE_MILLIVOLTS = (0.1, 10.0)
"""What the largest lead usually spans within two seconds [mV]: a QRS complex, and some drift of the baseline."""
ACCEPTED_MILLIVOLTS = (0.01, 100.0)
"""Outside of this range the unit or the gain is wrong, and the recording is refused [mV]."""

GAP_SECONDS = 0.5
"""Where no lead changes for this long [s] nothing was recorded: coarse samples of a heart do not rest so long."""

_BLOCK_SECONDS = 2.0  # Holds a beat from 30/min on.
_CLIPPED_SHARE = 0.01  # Of one lead's samples.
_NAN_SHARE = 0.01  # Of all samples.
_PLAUSIBLE_RATE = (25.0, 250.0)  # [1/min]
# The standard recording, which models are trained on, lasts 10 s. Of its first 5 s two shipped models lose less than
# 0.01 of their AUROC, of its first second 0.07 and 0.12 (benchmarks/results/signal_report.csv).
_SHORT_SECONDS, _FEW_BEATS = 5.0, 3

# Bradycardia is below 60/min and tachycardia above 100/min; 5/min beyond them a rate contradicts the label. Lower case
# names of PTB-XL, Chapman-Shaoxing-Ningbo, CODE-15% and the PhysioNet Challenges, and the SNOMED codes of the latter.
_BRADYCARDIA = frozenset(["sbrad", "sb", "brady", "bradycardia", "sinus bradycardia", "426177001", "426627000"])
_TACHYCARDIA = frozenset(["stach", "st", "tachy", "tachycardia", "sinus tachycardia", "427084000"])
_HIGHEST_OF_BRADYCARDIA, _LOWEST_OF_TACHYCARDIA = 65.0, 95.0


class Quality(NamedTuple):
    """
    Quality of one recording, whole length, as it was recorded; leads beyond the 12 standard ones do not count.

    Args:
        flat_leads (`list[str]`): Leads that were recorded and do not vary, in the standard order and spelling.
        clipped_leads (`list[str]`): Leads of which more than 1 % of the samples are clipped.
        nan_share (`float`): Share of the samples that are NaN or Inf.
        clipped_share (`float`): Share of the samples that are clipped.
        ranges (`dict[str, float]`): What each lead usually spans within two seconds [mV]; empty for unit `NU`.
        units (`list[str]`): The units that were stated, each once.
        seconds (`float`): Duration [s].
        gaps (`list[tuple[float, float]]`): Start and end [s] of the stretches without signal, see [`find_gaps`].
    """

    flat_leads: list[str]
    clipped_leads: list[str]
    nan_share: float
    clipped_share: float
    ranges: dict[str, float]
    units: list[str]
    seconds: float
    gaps: list[tuple[float, float]]


class Skipped(NamedTuple):
    """
    A window that was left out.

    Args:
        start, stop (`float`): From where to where [s].
        flat (`bool`): Whether it holds no signal; else no beat was found in it.
    """

    start: float
    stop: float
    flat: bool


@dataclass(frozen=True)
class SignalReport:
    """
    What is known about a recording beside a model's labels. RR intervals that span a stretch without signal, or a
    window that was left out, do not count.

    Args:
        seconds (`float`): Duration [s].
        heart_rate (`float`, *optional*): From the mean RR interval [1/min]; `None` without one.
        sdnn_ms (`float`, *optional*): Standard deviation of the RR intervals [ms], of all beats, whatever their
            origin; `None` without two successive intervals, as the next two.
        rmssd_ms (`float`, *optional*): Root mean square of the differences of successive RR intervals [ms].
        irregularity (`float`, *optional*): `rmssd_ms` over the mean RR interval: about 0.03 at rest, above 0.1 in
            most atrial fibrillation (Dash et al., Ann. Biomed. Eng. 37, 2009).
        beats_found (`int`, *optional*): Beats of the whole recording; `None` where none were searched.
        beats_read (`int`, *optional*): Those of them that lie in what the model read.
        missing_leads (`list[str]`): Leads that the model reads and that are masked: not recorded, flat, or NaN.
        flat_leads, clipped_leads, nan_share, clipped_share: See [`Quality`].
        amplitude_mv (`float`, *optional*): What the largest lead usually spans within two seconds [mV]; `None` for
            unit `NU`, which has no amplitude.
        warnings (`list[str]`): What is implausible, a sentence each.
        window_rates (`list[float | None]`): Heart rate of each row of the model's inputs [1/min].
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
        """The report of the whole recording as plain values for JSON, rounded to what can be known."""
        values = asdict(self)
        del values["window_rates"]
        return {
            name: round(value, _DIGITS.get(name, 4)) if isinstance(value, float) else value
            for name, value in values.items()
        }

    def summary(self) -> str:
        """One line: rate, variability, beats, and leads that are missing, flat or clipped."""
        parts = [] if self.heart_rate is None else [f"{self.heart_rate:.0f}/min"]
        if self.sdnn_ms is not None and self.rmssd_ms is not None and self.irregularity is not None:
            parts += [
                f"SDNN {self.sdnn_ms:.0f} ms",
                f"RMSSD {self.rmssd_ms:.0f} ms ({self.irregularity:.0%} of the RR interval)",
            ]
        if self.beats_found is not None:
            parts.append(f"{self.beats_read} of {self.beats_found} beats read")
        leads = [
            f"leads {what}: {', '.join(names)}"
            for what, names in (
                ("missing", self.missing_leads),
                ("flat", self.flat_leads),
                ("clipped", self.clipped_leads),
            )
            if names
        ]
        return "; ".join([", ".join(parts) or f"{self.seconds:g} s", *leads])

    def contradiction(self, label: str, window: int | None = None) -> str | None:
        """
        A sentence where the heart rate contradicts a label of bradycardia or tachycardia, else `None`.

        Args:
            label (`str`): Its name: of PTB-XL, Chapman-Shaoxing-Ningbo, CODE-15% or the PhysioNet Challenges.
            window (`int`, *optional*): Which row of the model's inputs the label is of, if not of the recording.
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
    Measure the samples of a recording.

    Args:
        waveform (`np.ndarray` of shape `(num_leads, num_samples)`): The recording as it came.
        sampling_rate (`float`): Its rate [Hz].
        lead_names (`Sequence[str]`): Name of each row, as [`lead_and_sign`] reads them.
        unit (`str` or `Sequence[str]`): Unit of all rows or of each.
    """
    names = [lead_and_sign(name)[0] for name in lead_names]
    units = [canonical_unit(one) for one in ([unit] * len(names) if isinstance(unit, str) else unit)]
    waveform = np.asarray(waveform)
    if None in names:
        standard = [name is not None for name in names]
        waveform = waveform[standard]
        units = [one for one, kept in zip(units, standard, strict=True) if kept]
    leads = [name for name in names if name is not None]
    highest, lowest, num_finite = _extremes(waveform)
    flat = highest <= lowest  # also a lead without one finite sample
    shortest = max(3, math.ceil(CLIPPED_SECONDS * sampling_rate))
    limits = [np.where(flat, np.nan, limit) for limit in (highest, lowest)]
    clipped = np.sum([_count_runs(waveform, limit, shortest) for limit in limits], axis=0)
    ranges = {}
    if "NU" not in units:
        spans = usual_ranges(waveform, sampling_rate) * [MILLIVOLTS_PER_UNIT[one] for one in units]
        ranges = {name: float(span) for name, span in zip(leads, spans, strict=True)}
    num_samples = waveform.shape[1]
    return Quality(
        flat_leads=_in_order(name for name, one in zip(leads, flat, strict=True) if one),
        clipped_leads=_in_order(
            name for name, count in zip(leads, clipped, strict=True) if count > _CLIPPED_SHARE * num_samples
        ),
        nan_share=1.0 - num_finite / max(1, waveform.size),
        clipped_share=int(clipped.sum()) / max(1, waveform.size),
        ranges=ranges,
        units=list(dict.fromkeys(units)),
        seconds=num_samples / sampling_rate,
        gaps=find_gaps(find_no_signal(waveform, sampling_rate), sampling_rate),
    )


def find_no_signal(waveform: np.ndarray, sampling_rate: float) -> np.ndarray:
    """
    Where a recording holds no signal (electrodes off): all leads are NaN or Inf, or none changes for
    [`GAP_SECONDS`].

    Args:
        waveform (`np.ndarray` of shape `(num_leads, num_samples)`): The recording before it is cleaned.
        sampling_rate (`float`): Its rate [Hz].

    Returns:
        `np.ndarray` of shape `(num_samples,)`, bool.
    """
    waveform = np.asarray(waveform)
    changed, recorded = np.zeros((2, waveform.shape[-1]), dtype=bool)
    for lead in waveform:  # one by one: a whole long recording would be copied
        finite = np.isfinite(lead)
        changed[1:] |= (lead[1:] != lead[:-1]) & finite[1:] & finite[:-1]
        recorded |= finite
    blank = ~recorded
    for start, stop in _find_runs(~changed, GAP_SECONDS * sampling_rate):
        blank[start:stop] = True
    return blank


def find_gaps(blank: np.ndarray, sampling_rate: float) -> list[tuple[float, float]]:
    """Start and end [s] of each stretch of [`GAP_SECONDS`] or more without signal, as [`find_no_signal`] gives it."""
    runs = _find_runs(blank, GAP_SECONDS * sampling_rate)
    return [(start / sampling_rate, stop / sampling_rate) for start, stop in runs]


def _find_runs(mask: np.ndarray, shortest: float) -> list[tuple[int, int]]:
    """Start and end of each run of true samples that is long enough."""
    edges = np.flatnonzero(np.diff(mask.astype(np.int8), prepend=0, append=0)).reshape(-1, 2)
    return [(start, stop) for start, stop in edges.tolist() if stop - start >= shortest]


def describe_skipped(skipped: Sequence[Skipped]) -> list[str]:
    """A sentence for each reason for which windows were left out."""
    found = []
    for flat, reason in ((True, "every lead is flat or missing there"), (False, "no beat was found there")):
        places = ", ".join(f"{one.start:g}-{one.stop:g} s" for one in skipped if one.flat == flat)
        if places:
            found.append(f"{places} left out: {reason}")
    return found


def describe_signal(
    quality: Quality,
    lead_mask: np.ndarray,
    r_peaks: np.ndarray | None = None,
    sampling_rate: float = 100.0,
    read: Sequence[np.ndarray] | None = None,
    lead_names: Sequence[str] = STANDARD_LEADS,
    skipped: Sequence[Skipped] = (),
    windows: str = "all",
) -> SignalReport:
    """
    Describe a recording by its samples and its beats.

    Args:
        quality ([`Quality`]): Of the recording as it came.
        lead_mask (`np.ndarray` of shape `(12,)`): True where the cleaned recording has a lead, also a derived one.
        r_peaks (`np.ndarray`, *optional*): Ascending R peaks of the whole recording [samples]; without them nothing is
            said of the rhythm.
        sampling_rate (`float`, *optional*, defaults to `100.0`): Rate of the peaks [Hz].
        read (`Sequence[np.ndarray]`, *optional*): Those of the peaks that the model reads, an array for each row of
            its inputs; all in one row by default.
        lead_names (`Sequence[str]`, *optional*, defaults to the 12 standard leads): Leads that the model reads.
        skipped (`Sequence[Skipped]`, *optional*): Windows that were left out.
        windows (`str`, *optional*, defaults to `"all"`): Which windows the model reads, see
            [`EcgFeatureExtractor`].
    """
    found = dict(zip(STANDARD_LEADS, np.asarray(lead_mask, dtype=bool).tolist(), strict=True))
    missing, present = ([name for name in lead_names if found[name] == there] for there in (False, True))
    peaks = np.empty(0) if r_peaks is None else np.asarray(r_peaks)
    count = None if r_peaks is None else len(peaks)
    rows = [peaks] if read is None else read
    gaps = [*quality.gaps, *((one.start, one.stop) for one in skipped)]
    intervals = _rr_intervals(peaks, sampling_rate, gaps)
    steps = np.diff(intervals)
    steps = steps[np.isfinite(steps)]
    known = intervals[np.isfinite(intervals)]
    sdnn = float(known.std(ddof=1)) if steps.size else None
    rmssd = float(np.sqrt(np.mean(steps**2))) if steps.size else None
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
        window_rates=[_mean_rate(_rr_intervals(one, sampling_rate, gaps)) if count else None for one in rows],
    )
    report.warnings.extend(_warnings(report, quality, present, windows))
    return report


def _rr_intervals(r_peaks: np.ndarray, sampling_rate: float, gaps: Sequence[tuple[float, float]]) -> np.ndarray:
    """Times from each beat to the next [ms]; NaN where a gap [s] between them may hide others."""
    times = np.asarray(r_peaks) / sampling_rate
    intervals = np.diff(r_peaks) / sampling_rate * 1000.0
    for start, stop in gaps:
        intervals[(times[:-1] < stop) & (times[1:] > start)] = np.nan
    return intervals


def _mean_rate(intervals: np.ndarray) -> float | None:
    """Heart rate [1/min] from the mean of the RR intervals [ms] that are known."""
    known = intervals[np.isfinite(intervals)]
    return 60000.0 / float(known.mean()) if known.size else None


def usual_ranges(signals: np.ndarray, sampling_rate: float) -> np.ndarray:
    """
    What each lead usually spans: the median, over the blocks of two seconds in which it varies, of its highest less
    its lowest sample. An offset does not matter, nor what lasts for less than half of those blocks.

    Args:
        signals (`np.ndarray` of shape `(num_leads, num_samples)`): Leads; samples that are not finite do not count.
        sampling_rate (`float`): Their rate [Hz].

    Returns:
        `np.ndarray` of shape `(num_leads,)`, in the leads' unit: 0 for a lead that varies nowhere.
    """
    block = min(round(_BLOCK_SECONDS * sampling_rate), signals.shape[1])
    num_blocks = signals.shape[1] // block
    blocks = signals[:, : num_blocks * block].reshape(len(signals), num_blocks, block)
    highest, lowest, _ = _extremes(blocks)
    spans = np.maximum(highest.astype(np.float64) - lowest, 0.0)
    return np.array([np.median(lead[lead > 0]) if (lead > 0).any() else 0.0 for lead in spans])


def _extremes(signals: np.ndarray) -> tuple[np.ndarray, np.ndarray, int]:
    """Highest and lowest finite sample along the last axis, infinite where there is none; and how many are finite."""
    highest, lowest = signals.max(axis=-1), signals.min(axis=-1)
    if np.isfinite([highest, lowest]).all():
        return highest, lowest, signals.size
    finite = np.isfinite(signals)
    highest = np.where(finite, signals, -np.inf).max(axis=-1)
    return highest, np.where(finite, signals, np.inf).min(axis=-1), int(np.count_nonzero(finite))


def check_amplitude(signals: np.ndarray, sampling_rate: float, units: Sequence[str]) -> None:
    """
    Refuse a recording whose unit or gain cannot be right.

    Args:
        signals (`np.ndarray` of shape `(num_leads, num_samples)`): The leads that were recorded [mV], before missing
            samples are filled.
        sampling_rate (`float`): Their rate [Hz].
        units (`Sequence[str]`): Units as they were stated.

    Raises:
        InputError: If no lead varies, or the largest usually spans less than 0.01 or more than 100 mV within two
            seconds; the message names the unit that would fit.
    """
    largest = float(usual_ranges(signals, sampling_rate).max())
    if largest == 0.0:
        raise InputError("every lead is flat or missing: the recording holds no signal")
    if not ACCEPTED_MILLIVOLTS[0] <= largest <= ACCEPTED_MILLIVOLTS[1]:
        raise InputError(_describe_amplitude(largest, units))


def _describe_amplitude(largest: float, units: Sequence[str], leads: Sequence[str] = ()) -> str:
    lowest, highest = PLAUSIBLE_MILLIVOLTS
    stated = list(dict.fromkeys(units))
    fitting = []
    if len(stated) == 1:
        number = largest / MILLIVOLTS_PER_UNIT[stated[0]]
        fitting = [
            unit
            for unit, millivolts in MILLIVOLTS_PER_UNIT.items()
            if unit not in ("NU", stated[0]) and lowest <= number * millivolts <= highest
        ]
    if fitting:
        remedy = f"the samples look like {' or '.join(fitting)} and were given as {stated[0]}, so correct the unit"
    else:
        remedy = "check the unit and the gain (NU is the unit of normalized samples)"
    what = f"lead(s) {', '.join(leads)} span up to" if leads else "the largest lead spans"
    return f"{what} {largest:.3g} mV within 2 s, and a QRS complex {lowest:g} to {highest:g} mV: {remedy}"


def _warnings(report: SignalReport, quality: Quality, present: Sequence[str], windows: str) -> Iterator[str]:
    """A sentence for each thing that is implausible; `present` are those leads of the model that are not missing."""
    num_read, num_beats, rate, missing = report.beats_read, report.beats_found, report.heart_rate, report.missing_leads
    if windows != "all" and num_read is not None and num_beats is not None and num_read < num_beats:
        yield f"{num_read} of {num_beats} beats are read: use windows='all'"
    if num_beats == 0:
        yield f"no beat was found in {report.seconds:.3g} s: check the leads and the electrodes"
    elif report.seconds < _SHORT_SECONDS or (num_beats is not None and num_beats < _FEW_BEATS):
        holds = "" if num_beats is None else f" and holds {num_beats} beat(s)"
        yield (
            f"the recording lasts {report.seconds:.3g} s{holds}: labels of less than {_SHORT_SECONDS:g} s or "
            f"{_FEW_BEATS} beats cannot be relied on, so record 10 s"
        )
    if rate is not None and not _PLAUSIBLE_RATE[0] <= rate <= _PLAUSIBLE_RATE[1]:
        yield f"a heart rate of {rate:.0f}/min is implausible: check the sampling rate, and the beats on a picture"
    if missing:
        # Of few leads the names are told, of many those that are left.
        rest = ", ".join(present) if len(present) < len(missing) else "the others"
        named = [f"{name} (flat)" if name in report.flat_leads else name for name in missing]
        yield (
            f"{len(missing)} of {len(missing) + len(present)} leads are missing and masked: {', '.join(named)}; "
            f"the labels rest on {rest} alone"
        )
    if report.clipped_leads:
        yield (
            f"lead(s) {', '.join(report.clipped_leads)} are clipped: they rest at their highest or lowest value for "
            f"more than {_CLIPPED_SHARE:.0%} of the time, so check the range of the recorder"
        )
    if report.nan_share > _NAN_SHARE:
        yield f"{report.nan_share:.1%} of the samples are NaN or Inf: they were filled or left out"
    lowest, highest = PLAUSIBLE_MILLIVOLTS
    if report.amplitude_mv and not lowest <= report.amplitude_mv <= highest:
        beyond = _in_order(name for name, span in quality.ranges.items() if span > highest)
        yield _describe_amplitude(report.amplitude_mv, quality.units, beyond)


def _in_order(names: Any) -> list[str]:
    return sorted(names, key=STANDARD_LEADS.index)


def _count_runs(waveform: np.ndarray, values: np.ndarray, shortest: int) -> np.ndarray:
    """Samples of each lead that equal its value together with neighbors, at least `shortest` in a row."""
    places = np.flatnonzero(waveform == values[:, None])
    rows = places // max(1, waveform.shape[1])
    places += rows  # A lead's last sample and the next lead's first are no neighbors.
    counts = np.zeros(len(waveform), dtype=np.int64)
    if (places[shortest - 1 :] - places[: 1 - shortest] >= shortest).all():
        return counts  # nearly always
    starts = np.flatnonzero(np.diff(places, prepend=-2) != 1)
    lengths = np.diff(starts, append=len(places))
    long = lengths >= shortest
    np.add.at(counts, rows[starts[long]], lengths[long])
    return counts
