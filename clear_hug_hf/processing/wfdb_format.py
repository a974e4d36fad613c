"""
Reader for WFDB records.

Nearly all published 12-lead datasets store 16-bit samples in a single file (format 16, also in MATLAB v4 `.mat` files
at an offset of 24 bytes). These are read with `numpy.fromfile`, which is several times faster than `wfdb` and supports
headers that `wfdb` rejects, such as those of the Georgia records of the PhysioNet Challenge. Other formats are read by
`wfdb`, with the same result.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from .errors import InputError, import_library


# Extensions that are accepted in the path of a record.
_RECORD_SUFFIXES = (".hea", ".dat", ".mat")
# Default gain [ADC units per mV] (WFDB header format, "signal specification").
_DEFAULT_GAIN = 200.0
_INVALID_16 = -32768  # value of missing samples in format 16
_EXACT = 2**23  # the difference of a 16-bit sample and a smaller baseline is exact in float32
_VALID_GAINS = (1e-6, 1e12)

# Restricted to numbers that `wfdb` interprets in the same way, unlike non-ASCII digits, `1_000`, `5e1` Hz or `1E3/mV`.
_INTEGER, _SIGNED = r"[0-9]{1,15}", r"-?[0-9]{1,10}"
_RATE = re.compile(rf"(?P<rate>{_INTEGER}(?:\.[0-9]*)?|\.[0-9]+)(?:[/(].*)?")
_SIGNAL = re.compile(
    rf"""
    (?P<file_name>[^\s\x00-\x1f]+)
    [ \t]+ (?P<format>[0-9]{{1,3}})(?:x(?P<frame>{_INTEGER}))?(?::(?P<skew>{_INTEGER}))?(?:\+(?P<offset>{_INTEGER}))?
    (?:[ \t]+ (?P<gain>-?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:e[-+]?[0-9]+)?)
           (?:\((?P<baseline>{_SIGNED})\))?(?:/(?P<unit>[\w^?%/-]+))?
    (?:[ \t]+ (?P<resolution>{_INTEGER})
    (?:[ \t]+ (?P<zero>{_SIGNED})
    (?:[ \t]+ (?P<first>{_SIGNED})
    (?:[ \t]+ (?P<checksum>{_SIGNED})
    (?:[ \t]+ (?P<block>{_INTEGER})
    (?:[ \t]+ (?P<name>\S[^\x00-\x1f]*)
    )?)?)?)?)?)?)?""",
    re.VERBOSE,
)
# Bits per sample by format. For FLAC, a lower bound.
_BITS: dict[str, float] = {"8": 8, "80": 8, "310": 10, "311": 10, "212": 12, "16": 16, "61": 16, "160": 16}
_BITS |= {"24": 24, "32": 32, "508": 0.01, "516": 0.01, "524": 0.01}


@dataclass
class SignalSpecification:
    """Signal line of a header."""

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
    """WFDB header: sampling rate [Hz], samples per signal (`None` if unspecified), signals and comments."""

    path: Path
    sampling_rate: float
    num_samples: int | None
    signals: list[SignalSpecification]
    comments: list[str] = field(default_factory=list)


def read_record(path: str | os.PathLike[str]) -> dict[str, Any]:
    """
    Read a WFDB record.

    Args:
        path (`str` or `Path`): Path of the record with or without an extension (`.hea`, `.dat` or `.mat`).

    Returns:
        `dict`: `waveform` `(num_leads, num_samples)` float32 in the units of the header, NaN for missing samples;
        `sampling_rate` [Hz]; `lead_names`; `unit`, a string if it is the same for all leads, otherwise a list;
        `record_id`; and `metadata` with the `path` and `comments` of the header.

    Raises:
        FileNotFoundError: If the header does not exist.
        InputError: If the header or a signal file is damaged, missing or truncated.
        ImportError: If the format requires `wfdb`, which is not installed.
    """
    if os.path.isdir(path):
        raise InputError(f"{path} is a folder: pass one record in it, or a list of its records")
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
    """Path of the header of a record, from the path of the header, of a signal file, or without extension."""
    path = Path(path)
    if path.suffix.lower() in _RECORD_SUFFIXES:
        return path.with_suffix(".hea")
    return Path(f"{path}.hea")


def existing_header(path: Path) -> Path:
    """Like [`header_path`] for a record that must exist, see [`read_record`] for errors."""
    header = header_path(path)
    # Unlike `Path.is_file`, `os.path.isfile` does not raise errors for invalid names.
    if os.path.isfile(header):
        return header
    if os.path.isfile(path) and path.suffix.lower() not in _RECORD_SUFFIXES:
        if not os.path.getsize(path):
            raise InputError(f"{path} is empty: copy it again")
        raise InputError(
            f"{path} is not in a supported format: convert it to WFDB, a .hea header and a .dat or .mat file"
        )
    raise FileNotFoundError(f"{header} does not exist: check the path of the record")


def read_header(path: Path) -> Header:
    """
    Parse a WFDB header file.

    Args:
        path (`Path`): Path of the `.hea` file.

    Raises:
        FileNotFoundError: If the file does not exist.
        InputError: If it is not a valid WFDB header.
    """
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        raise FileNotFoundError(f"{path} does not exist: check the path of the record") from None
    except (OSError, ValueError) as error:  # for example a folder, an invalid name or no permission
        raise InputError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}") from error
    lines = [line.strip() for line in text.split("\n")]
    comments = [line.lstrip("# ") for line in lines if line.startswith("#")]
    content = [line for line in lines if line and not line.startswith("#")]
    record_line = re.split(r"[ \t]+", content[0]) if content else []
    if len(record_line) < 2 or not re.fullmatch(r"[0-9]{1,6}", record_line[1]):
        raise InputError(f"{path} is not a WFDB header: its first line must contain a name and the number of leads")
    if "/" in record_line[0]:
        raise InputError(f"{path} is a multi-segment record: convert it to a single segment")

    signal_lines, num_leads = content[1:], int(record_line[1])
    if num_leads == 0:
        raise InputError(f"{path} declares no leads: there is no signal to read")
    if len(signal_lines) != num_leads:
        raise InputError(f"{path} declares {num_leads} leads but describes {len(signal_lines)}: the header is damaged")
    if len(record_line) < 3:
        raise InputError(f"{path} contains no sampling rate: add it to the first line of the header")
    rate = _RATE.fullmatch(record_line[2])
    if rate is None or not float(rate["rate"]) > 0:
        raise InputError(
            f"the sampling rate in {path} must be a positive number [Hz], got {record_line[2].split('/')[0]!r}"
        )
    num_samples = None
    if len(record_line) > 3:
        if not re.fullmatch(_INTEGER, record_line[3]):
            raise InputError(f"the number of samples in {path} must be an integer, got {record_line[3]!r}")
        num_samples = int(record_line[3]) or None
    return Header(
        path, float(rate["rate"]), num_samples, [_parse_signal(path, line) for line in signal_lines], comments
    )


def _parse_signal(path: Path, line: str) -> SignalSpecification:
    match = _SIGNAL.fullmatch(line)
    if match is None:
        raise InputError(f"{path} contains an invalid signal line: {line[:200]!r}")
    name = match["file_name"]
    if "/" in name or "\\" in name:
        raise InputError(f"{path} refers to the signal file {name[:200]!r}: it must be in the folder of the header")
    gain = float(match["gain"] or 0) or _DEFAULT_GAIN
    if not _VALID_GAINS[0] <= abs(gain) <= _VALID_GAINS[1]:
        raise InputError(f"{path} contains the implausible gain {match['gain']!r}: the header is damaged")
    return SignalSpecification(
        file_name=name,
        format=match["format"],
        samples_per_frame=int(match["frame"] or 1),
        skew=int(match["skew"] or 0),
        byte_offset=int(match["offset"] or 0),
        gain=gain,
        baseline=int(match["baseline"] or match["zero"] or 0),
        unit=match["unit"] or "mV",
        name=match["name"] or "",
        checksum=None if match["checksum"] is None else int(match["checksum"]),
    )


def read_samples(header: Header) -> np.ndarray:
    """
    Read the samples of a record in physical units.

    Args:
        header ([`Header`]): Header from [`read_header`]. The signal files must be in the same folder.

    Returns:
        `np.ndarray` of shape `(num_leads, num_samples)`, float32, NaN for missing samples.

    Raises:
        InputError: If a signal file is missing, truncated or unreadable, or does not match its checksum.
    """
    for name in sorted({signal.file_name for signal in header.signals}):
        if not os.path.isfile(header.path.parent / name):
            raise InputError(f"{header.path} refers to {name[:200]}, which is missing: copy it to the same folder")
    try:
        return _read_16_bit(header) if _is_plain_16_bit(header.signals) else _read_with_wfdb(header)
    except OSError as error:
        raise InputError(f"the signals of {header.path} cannot be read: {error.strerror or error}") from error


def _check_sums(header: Header, sums: np.ndarray) -> None:
    """
    Compare the sums of all samples with the checksums of the header, modulo 65536 (WFDB header format, "signal
    specification").
    """
    checksums = [signal.checksum for signal in header.signals]
    # Some writers set all checksums to zero. Without a length, it is unknown which samples they cover.
    if header.num_samples is None or not any(checksums):
        return
    for signal, checksum, actual in zip(header.signals, checksums, sums.tolist(), strict=True):
        if checksum is not None and (checksum - actual) % 65536:
            raise InputError(
                f"the samples of lead {signal.name} do not match the checksum in {header.path}: copy the record "
                "again, or, if you changed the samples, update the header or set every checksum to 0"
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
            f"{path} contains {max(available, 0)} samples per lead but the header declares {header.num_samples}: "
            "the file is truncated, or the header belongs to another file"
        )
    digital = np.fromfile(path, dtype="<i2", count=num_samples * num_leads, offset=header.signals[0].byte_offset)
    digital = np.ascontiguousarray(digital.reshape(num_samples, num_leads).T)
    _check_sums(header, digital.sum(axis=1, dtype=np.int16))  # wraps around at 16 bits like the checksum
    baseline = np.array([signal.baseline for signal in header.signals], dtype=np.float64)[:, None]
    gain = np.array([signal.gain for signal in header.signals], dtype=np.float64)[:, None]
    # If baseline and gain are exact in float32, only the division rounds, and the result equals that of float64.
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
            raise InputError(f"{header.path} has more than one sampling rate: convert it to a single-rate record")
        if all(signal.samples_per_frame == 1 and signal.skew == 0 for signal in header.signals):
            _check_sums(header, record.d_signal.sum(axis=0))
        record.dac(inplace=True)
    except InputError:
        raise
    except Exception as error:  # wfdb raises various errors for damaged files, including IndexError
        raise InputError(f"{header.path} cannot be read: {str(error).rstrip('.')}") from error
    return np.ascontiguousarray(record.p_signal.T, dtype=np.float32)


def _check_size(header: Header) -> None:
    """Check that the files are large enough for the header, since wfdb would allocate memory for all samples."""
    for name in sorted({signal.file_name for signal in header.signals}):
        signals = [signal for signal in header.signals if signal.file_name == name]
        if unknown := [signal.format for signal in signals if signal.format not in _BITS]:
            raise InputError(f"{header.path} contains the unknown signal format {unknown[0]}: the header is damaged")
        if any(signal.skew > (header.num_samples or 0) for signal in signals):
            raise InputError(f"{header.path} contains a skew that exceeds the signal length: the header is damaged")
        size = (header.path.parent / name).stat().st_size - signals[0].byte_offset
        frames = 1 if header.num_samples is None else header.num_samples
        bits = sum(signal.samples_per_frame * _BITS[signal.format] for signal in signals)
        if not signals or bits * frames > 8 * (size + 4):
            raise InputError(
                f"{header.path.parent / name} contains {max(size, 0)} bytes, fewer than the header declares: the file "
                "is truncated, or the header belongs to another file"
            )
