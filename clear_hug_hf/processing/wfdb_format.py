"""
Reading WFDB records: the header by hand, the samples straight from the file where that is possible.

Nearly every published 12-lead set stores 16-bit samples in one file (format 16, also inside MATLAB v4 `.mat` files at
an offset of 24 bytes). Those are one `numpy.fromfile` away, several times faster than through `wfdb`, and headers
that `wfdb` refuses (the Georgia records of the PhysioNet Challenge carry a file suffix in their name field) can be
read. Everything else goes to `wfdb`. Both ways give the same numbers; a test compares them on real recordings.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from .errors import InputError, import_library


# What a record may be called by, beside its bare name: its header, its signals, its annotations' usual neighbors.
_RECORD_SUFFIXES = (".hea", ".dat", ".mat")
# ADC units per mV, where a header gives none (WFDB header format, section "signal specification").
_DEFAULT_GAIN = 200.0
_INVALID_16 = -32768  # the sample value that format 16 reserves for "no value"
_EXACT = 2**23  # a sample of 16 bits minus a smaller baseline is exact in float32
_USUAL_GAINS = (1e-6, 1e12)

# Only what `wfdb` reads in the same way: digits of other scripts, `1_000`, `5e1` Hz and `1E3/mV` mean something else
# to it.
_WHOLE, _SIGNED = r"[0-9]{1,15}", r"-?[0-9]{1,10}"
_RATE = re.compile(rf"(?P<rate>{_WHOLE}(?:\.[0-9]*)?|\.[0-9]+)(?:[/(].*)?")
_SIGNAL = re.compile(
    rf"""
    (?P<file_name>[^\s\x00-\x1f]+)
    [ \t]+ (?P<format>[0-9]{{1,3}})(?:x(?P<frame>{_WHOLE}))?(?::(?P<skew>{_WHOLE}))?(?:\+(?P<offset>{_WHOLE}))?
    (?:[ \t]+ (?P<gain>-?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:e[-+]?[0-9]+)?)
           (?:\((?P<baseline>{_SIGNED})\))?(?:/(?P<unit>[\w^?%/-]+))?
    (?:[ \t]+ (?P<resolution>{_WHOLE})
    (?:[ \t]+ (?P<zero>{_SIGNED})
    (?:[ \t]+ (?P<first>{_SIGNED})
    (?:[ \t]+ (?P<checksum>{_SIGNED})
    (?:[ \t]+ (?P<block>{_WHOLE})
    (?:[ \t]+ (?P<name>\S[^\x00-\x1f]*)
    )?)?)?)?)?)?)?""",
    re.VERBOSE,
)
# Bits of a sample in a signal file by format; FLAC compresses, at most so far.
_BITS: dict[str, float] = {"8": 8, "80": 8, "310": 10, "311": 10, "212": 12, "16": 16, "61": 16, "160": 16}
_BITS |= {"24": 24, "32": 32, "508": 0.01, "516": 0.01, "524": 0.01}


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
    checksum: int | None = None


@dataclass
class Header:
    """A WFDB header: rate [Hz], samples per signal (`None` where the header does not say), signals, comment lines."""

    path: Path
    sampling_rate: float
    num_samples: int | None
    signals: list[SignalSpecification]
    comments: list[str] = field(default_factory=list)


def read_record(path: str | os.PathLike[str]) -> dict[str, Any]:
    """
    Read a WFDB record: a header with `.dat` or `.mat` files beside it, in any format.

    Args:
        path (`str` or `Path`): The record with or without an extension (`.hea`, `.dat` or `.mat`).

    Returns:
        `dict`: `waveform` `(num_leads, num_samples)` float32, all leads in the units of the header, NaN where a sample
        is marked as missing; `sampling_rate` [Hz]; `lead_names`; `unit`, one string where all leads share it, else a
        list; `record_id`; and `metadata` with the `path` and the comment lines (`comments`) of the header.

    Raises:
        FileNotFoundError: If there is no header file.
        InputError: If the header or a signal file is damaged, missing or truncated, or no rate is stated.
        ImportError: If the samples are in a format that only the package `wfdb` reads, and it is not installed.
    """
    if os.path.isdir(path):
        raise InputError(f"{path} is a folder: name one record in it, or give a list of its records")
    header = read_header(existing_header(Path(path)))
    waveform = read_samples(header)
    units = [signal.unit for signal in header.signals]
    return {
        "waveform": waveform,
        "sampling_rate": header.sampling_rate,
        "lead_names": [signal.name for signal in header.signals],
        "unit": units[0] if len(set(units)) == 1 else units,
        "record_id": header.path.stem,
        "metadata": {"path": str(header.path), "comments": header.comments},
    }


def header_path(path: str | os.PathLike[str]) -> Path:
    """The header file of a record that is named by its header, by a signal file, or without an extension."""
    path = Path(path)
    if path.suffix.lower() in _RECORD_SUFFIXES:
        return path.with_suffix(".hea")
    return Path(f"{path}.hea")


def existing_header(path: Path) -> Path:
    """As [`header_path`], of a record that must be there: see [`read_record`] for the errors."""
    header = header_path(path)
    # `os.path` takes names that no file can have for absent ones, `Path` has errors for them.
    if os.path.isfile(header):
        return header
    if os.path.isfile(path) and path.suffix.lower() not in _RECORD_SUFFIXES:
        raise InputError(
            f"{path} is not in a format that can be read: records are WFDB (a .hea header with a .dat or .mat file "
            "beside it); convert it first"
        )
    raise FileNotFoundError(f"{header} does not exist: check the path of the record")


def read_header(path: Path) -> Header:
    """
    Parse a WFDB header file.

    Args:
        path (`Path`): The `.hea` file.

    Raises:
        FileNotFoundError: If there is no such file.
        InputError: If it is not a WFDB header, describes other leads than it promises, names a file in
            another folder, or states no usable rate.
    """
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        raise FileNotFoundError(f"{path} does not exist: check the path of the record") from None
    except (OSError, ValueError) as error:  # a folder, a name with a NUL or too many letters, no permission
        raise InputError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}") from error
    lines = [line.strip() for line in text.split("\n")]
    comments = [line.lstrip("# ") for line in lines if line.startswith("#")]
    content = [line for line in lines if line and not line.startswith("#")]
    record_line = re.split(r"[ \t]+", content[0]) if content else []
    if len(record_line) < 2 or not re.fullmatch(r"[0-9]{1,6}", record_line[1]):
        raise InputError(f"{path} is not a WFDB header: its first line must give a name and the number of leads")
    if "/" in record_line[0]:
        raise InputError(f"{path} is a multi-segment record: convert it to a single segment first")

    signal_lines, promised = content[1:], int(record_line[1])
    if promised == 0:
        raise InputError(f"{path} promises no leads: there is no signal to read")
    if len(signal_lines) != promised:
        raise InputError(f"{path} promises {promised} leads but describes {len(signal_lines)}: the header is damaged")
    if len(record_line) < 3:
        raise InputError(f"{path} states no sampling rate: add it to the header's first line, it is never assumed")
    rate = _RATE.fullmatch(record_line[2])
    if rate is None or not float(rate["rate"]) > 0:
        raise InputError(
            f"{path} states the sampling rate {record_line[2].split('/')[0]!r}: it must be a positive number [Hz]"
        )
    num_samples = None
    if len(record_line) > 3:
        if not re.fullmatch(_WHOLE, record_line[3]):
            raise InputError(f"{path} states {record_line[3]!r} samples per lead: it must be a whole number")
        num_samples = int(record_line[3]) or None
    return Header(
        path, float(rate["rate"]), num_samples, [_parse_signal(path, line) for line in signal_lines], comments
    )


def _parse_signal(path: Path, line: str) -> SignalSpecification:
    found = _SIGNAL.fullmatch(line)
    if found is None:
        raise InputError(f"{path} has a signal line that cannot be read: {line[:200]!r}")
    name = found["file_name"]
    if "/" in name or "\\" in name:
        raise InputError(
            f"{path} names the signal file {name[:200]!r}: a header may only name files in its own folder"
        )
    gain = float(found["gain"] or 0) or _DEFAULT_GAIN
    if not _USUAL_GAINS[0] <= abs(gain) <= _USUAL_GAINS[1]:
        raise InputError(f"{path} states the gain {found['gain']!r}, which no recorder has: the header is damaged")
    return SignalSpecification(
        file_name=name,
        format=found["format"],
        samples_per_frame=int(found["frame"] or 1),
        skew=int(found["skew"] or 0),
        byte_offset=int(found["offset"] or 0),
        gain=gain,
        baseline=int(found["baseline"] or found["zero"] or 0),
        unit=found["unit"] or "mV",
        name=found["name"] or "",
        checksum=None if found["checksum"] is None else int(found["checksum"]),
    )


def read_samples(header: Header) -> np.ndarray:
    """
    The samples of a record in the header's physical units.

    Args:
        header ([`Header`]): As [`read_header`] gives it; the signal files are looked for beside the header.

    Returns:
        `np.ndarray` of shape `(num_leads, num_samples)`, float32; samples marked as missing are NaN.

    Raises:
        InputError: If a signal file is missing or shorter than the header promises, cannot be read, or holds other
            samples than those whose checksum the header states.
    """
    for name in sorted({signal.file_name for signal in header.signals}):
        if not os.path.isfile(header.path.parent / name):
            raise InputError(f"{header.path} refers to {name[:200]}, which is not beside it: copy both files together")
    try:
        return _read_16_bit(header) if _is_plain_16_bit(header.signals) else _read_with_wfdb(header)
    except OSError as error:
        raise InputError(f"the signals of {header.path} cannot be read: {error.strerror or error}") from error


def _check_sums(header: Header, sums: np.ndarray) -> None:
    """
    Compare the sums of all samples with the header's checksums, modulo 65536 (WFDB header format, section "signal
    specification").
    """
    stated = [signal.checksum for signal in header.signals]
    # Writers that compute none write zeros; a length that is not stated does not say which samples were summed.
    if header.num_samples is None or not any(stated):
        return
    for signal, checksum, found in zip(header.signals, stated, sums.tolist(), strict=True):
        if checksum is not None and (checksum - found) % 65536:
            raise InputError(
                f"{header.path} states another checksum for lead {signal.name} than its samples have: they were "
                "damaged or changed after it was written. Copy the record again; if you changed the samples yourself, "
                "write the header anew, or 0 for every checksum"
            )


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
    _check_sums(header, digital.sum(axis=1, dtype=np.int16))  # wraps at 16 bits, as the checksum does
    baseline = np.array([signal.baseline for signal in header.signals], dtype=np.float64)[:, None]
    gain = np.array([signal.gain for signal in header.signals], dtype=np.float64)[:, None]
    # Where baseline and gain are exact in float32, one rounding is left: the same as float64 rounded once.
    if (np.abs(baseline) < _EXACT).all() and (gain == gain.astype(np.float32)).all():
        physical = digital.astype(np.float32)
        physical -= baseline.astype(np.float32)
        physical /= gain.astype(np.float32)
    else:
        physical = ((digital - baseline) / gain).astype(np.float32)
    invalid = digital == _INVALID_16
    if invalid.any():
        physical[invalid] = np.nan
    return physical


def _read_with_wfdb(header: Header) -> np.ndarray:
    wfdb = import_library("wfdb", f"the format of {header.path}")
    _check_size(header)
    try:
        record = wfdb.rdrecord(str(header.path.with_suffix("")), physical=False)
        if record.d_signal is None or record.d_signal.shape[1] != len(header.signals):
            raise InputError(f"{header.path} does not give one signal per lead: convert it to a single-rate record")
        if all(signal.samples_per_frame == 1 and signal.skew == 0 for signal in header.signals):
            _check_sums(header, record.d_signal.sum(axis=0))
        record.dac(inplace=True)
    except InputError:
        raise
    except Exception as error:  # wfdb raises many kinds, down to IndexError, for files that are damaged
        raise InputError(f"{header.path} cannot be read: {str(error).rstrip('.')}") from error
    return np.ascontiguousarray(record.p_signal.T, dtype=np.float32)


def _check_size(header: Header) -> None:
    """Refuse a header that describes more samples than its files can hold: wfdb would make room for all of them."""
    for name in sorted({signal.file_name for signal in header.signals}):
        signals = [signal for signal in header.signals if signal.file_name == name]
        if unknown := [signal.format for signal in signals if signal.format not in _BITS]:
            raise InputError(f"{header.path} stores signals in the format {unknown[0]}, which is none of WFDB's")
        if any(signal.skew > (header.num_samples or 0) for signal in signals):
            raise InputError(f"{header.path} shifts a signal by more than its length: the header is damaged")
        size = (header.path.parent / name).stat().st_size - signals[0].byte_offset
        frames = 1 if header.num_samples is None else header.num_samples
        bits = sum(signal.samples_per_frame * _BITS[signal.format] for signal in signals)
        if not signals or bits * frames > 8 * (size + 4):
            raise InputError(
                f"{header.path.parent / name} holds {max(size, 0)} bytes, fewer than the header promises: the file is "
                "truncated, or the header describes other leads"
            )
