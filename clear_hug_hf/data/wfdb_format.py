"""
Reading WFDB records: the header by hand, the samples straight from the file where that is possible.

Nearly every published 12-lead set stores 16-bit samples in one file (format 16, also inside MATLAB v4 `.mat` files at
an offset of 24 bytes). Those are one `numpy.fromfile` away, several times faster than through `wfdb`, and headers
that `wfdb` refuses (the Georgia records of the PhysioNet Challenge carry a file suffix in their name field) can be
read. Everything else goes to `wfdb`. Both ways give the same numbers; a test compares them on real recordings.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ..processing.errors import InputError


_DEFAULT_GAIN = (
    200.0  # ADC units per mV, where a header gives none (WFDB header format, section "signal specification")
)
_INVALID_16 = -32768  # the sample value that format 16 reserves for "no value"
_FORMAT = re.compile(r"^(?P<format>\d+)(?:x(?P<frame>\d+))?(?::(?P<skew>\d+))?(?:\+(?P<offset>\d+))?$")
_GAIN = re.compile(r"^(?P<gain>[-+0-9.eE]+)(?:\((?P<baseline>-?\d+)\))?(?:/(?P<unit>\S+))?$")


@dataclass
class SignalSpecification:
    """One signal line of a header."""

    file_name: str
    format: str
    samples_per_frame: int
    skew: int
    byte_offset: int
    gain: float
    baseline: int
    unit: str
    name: str


@dataclass
class Header:
    """A WFDB header: rate [Hz], samples per signal (`None` where the header does not say), signals, comment lines."""

    path: Path
    sampling_rate: float
    num_samples: int | None
    signals: list[SignalSpecification]
    comments: list[str] = field(default_factory=list)


def read_header(path: Path) -> Header:
    """
    Parse a WFDB header file.

    Args:
        path (`Path`): The `.hea` file.

    Raises:
        FileNotFoundError: If there is no such file.
        InputError: If it is not a WFDB header, describes fewer leads than it promises, or states no usable rate.
    """
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except FileNotFoundError:
        raise FileNotFoundError(f"{path} does not exist: check the path of the record") from None
    comments = [line.lstrip("# ").rstrip() for line in lines if line.startswith("#")]
    content = [line.split() for line in lines if line.strip() and not line.startswith("#")]
    if not content or len(content[0]) < 2 or not re.fullmatch(r"\d+", content[0][1]):
        raise InputError(f"{path} is not a WFDB header: its first line must give a name and the number of leads")
    if "/" in content[0][0]:
        raise InputError(f"{path} is a multi-segment record: convert it to a single segment first")

    record_line, signal_lines = content[0], content[1:]
    promised = int(record_line[1])
    if promised == 0:
        raise InputError(f"{path} promises no leads: there is no signal to read")
    if len(signal_lines) < promised:
        raise InputError(f"{path} promises {promised} leads but describes {len(signal_lines)}: the header is damaged")
    if len(record_line) < 3:
        raise InputError(f"{path} states no sampling rate: add it to the header's first line, it is never assumed")
    rate_text = record_line[2].split("/")[0].split("(")[0]
    try:
        rate = float(rate_text)
    except ValueError:
        rate = math.nan
    if not math.isfinite(rate) or rate <= 0:
        raise InputError(f"{path} states the sampling rate {rate_text!r}: it must be a positive number [Hz]")
    num_samples = None
    if len(record_line) > 3:
        if not re.fullmatch(r"\d+", record_line[3]):
            raise InputError(f"{path} states {record_line[3]!r} samples per lead: it must be a whole number")
        num_samples = int(record_line[3]) or None
    return Header(path, rate, num_samples, [_parse_signal(path, line) for line in signal_lines[:promised]], comments)


def _parse_signal(path: Path, fields: list[str]) -> SignalSpecification:
    layout = _FORMAT.match(fields[1]) if len(fields) > 1 else None
    scale = _GAIN.match(fields[2]) if len(fields) > 2 else None
    if layout is None or (len(fields) > 2 and scale is None):
        raise InputError(f"{path} has a signal line that cannot be read: {' '.join(fields)!r}")
    adc_zero = int(fields[4]) if len(fields) > 4 else 0
    gain, baseline, unit = _DEFAULT_GAIN, adc_zero, "mV"
    if scale is not None:
        try:
            gain = float(scale["gain"]) or _DEFAULT_GAIN
        except ValueError:
            raise InputError(f"{path} has a signal line without a usable gain: {' '.join(fields)!r}") from None
        baseline = int(scale["baseline"]) if scale["baseline"] else adc_zero
        unit = scale["unit"] or "mV"
    return SignalSpecification(
        file_name=fields[0],
        format=layout["format"],
        samples_per_frame=int(layout["frame"] or 1),
        skew=int(layout["skew"] or 0),
        byte_offset=int(layout["offset"] or 0),
        gain=gain,
        baseline=baseline,
        unit=unit,
        name=" ".join(fields[8:]),
    )


def read_samples(header: Header) -> np.ndarray:
    """
    The samples of a record in the header's physical units.

    Args:
        header ([`Header`]): As [`read_header`] gives it; the signal files are looked for beside the header.

    Returns:
        `np.ndarray` of shape `(num_leads, num_samples)`, float32; samples marked as missing are NaN.

    Raises:
        InputError: If a signal file is missing or shorter than the header promises, or cannot be read.
    """
    for name in sorted({signal.file_name for signal in header.signals}):
        if not (header.path.parent / name).is_file():
            raise InputError(f"{header.path} refers to {name}, which is not beside it: copy both files together")
    if _is_plain_16_bit(header.signals):
        return _read_16_bit(header)
    return _read_with_wfdb(header)


def _is_plain_16_bit(signals: list[SignalSpecification]) -> bool:
    first = signals[0]
    return all(
        signal.format == "16"
        and signal.samples_per_frame == 1
        and signal.skew == 0
        and (signal.file_name, signal.byte_offset) == (first.file_name, first.byte_offset)
        for signal in signals
    )


def _read_16_bit(header: Header) -> np.ndarray:
    num_leads = len(header.signals)
    path = header.path.parent / header.signals[0].file_name
    available = (path.stat().st_size - header.signals[0].byte_offset) // (2 * num_leads)
    num_samples = available if header.num_samples is None else header.num_samples
    if available < num_samples or num_samples <= 0:
        raise InputError(
            f"{path} holds {max(available, 0)} samples per lead where the header promises {header.num_samples}: "
            "the file is truncated, or the header describes other leads"
        )
    digital = np.fromfile(path, dtype="<i2", count=num_samples * num_leads, offset=header.signals[0].byte_offset)
    digital = np.ascontiguousarray(digital.reshape(num_samples, num_leads).T)
    # A 16-bit number and its baseline are exact in float32, so one rounding is left: the same as float64 rounded once.
    baseline = np.array([signal.baseline for signal in header.signals], dtype=np.float32)[:, None]
    gain = np.array([signal.gain for signal in header.signals], dtype=np.float64)[:, None]
    physical = digital.astype(np.float32)
    physical -= baseline
    if (gain == gain.astype(np.float32)).all():
        physical /= gain.astype(np.float32)
    else:
        physical = (physical / gain).astype(np.float32)
    invalid = digital == _INVALID_16
    if invalid.any():
        physical[invalid] = np.nan
    return physical


def _read_with_wfdb(header: Header) -> np.ndarray:
    import wfdb

    record_name = str(header.path.with_suffix(""))
    try:
        record = wfdb.rdrecord(record_name)
    except Exception as error:  # wfdb raises many kinds, down to IndexError, for files that are damaged
        raise InputError(f"{header.path} cannot be read: {str(error).rstrip('.')}") from error
    if record.p_signal is None or record.p_signal.shape[1] != len(header.signals):
        raise InputError(f"{header.path} does not give one signal per lead: convert it to a single-rate record")
    return np.ascontiguousarray(record.p_signal.T, dtype=np.float32)
