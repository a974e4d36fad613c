"""Reader for the XML of GE CardioSoft and CASE, whose root is `CardiologyXML`."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np

from .errors import InputError, import_library


def read_cardiosoft(path: Path) -> dict[str, Any]:
    """
    Read the 10 s at rest (`StripData`) of a CardioSoft file.

    Args:
        path (`Path`): The file.

    Returns:
        `dict`: `waveform` `(num_leads, num_samples)` float32 [mV], `sampling_rate` [Hz], `lead_names`, the
        `identifier` of the patient, and `stated`, what the file states of patient and recording.

    Raises:
        InputError: If the file is damaged, declares entities, or has no or several strips, or if the sampling rate or
            the resolution is missing.
        ImportError: If `defusedxml` is not installed.
    """
    element_tree = import_library("defusedxml.ElementTree", f"reading {path}")
    try:
        root = element_tree.fromstring(path.read_bytes())
    except ValueError:  # a declaration of entities, which may expand without end or read other files
        raise InputError(f"{path} declares XML entities, which are not read: export it again") from None
    except Exception as error:  # of the parser
        raise InputError(f"{path} is not valid XML: it is damaged or truncated") from error
    strips = root.findall("StripData")
    if len(strips) != 1:
        reason = f"contains {len(strips)} recordings" if strips else "contains no StripData, the recording at rest"
        raise InputError(f"{path} {reason}: export one recording at rest")
    strip = strips[0]
    resolution = strip.find("Resolution")
    if resolution is None or resolution.get("units") != "uVperLsb":
        raise InputError(f"{path} states no resolution in uVperLsb: its samples cannot be converted to mV")
    step, rate = (_number(path, strip.findtext(name), name) for name in ("Resolution", "SampleRate"))
    leads = strip.findall("WaveformData")
    try:
        texts = [(lead.text or "").replace(",", " ").split() for lead in leads]
        rows = [np.array([int(sample) for sample in samples], dtype=np.int64) for samples in texts]
    except (ValueError, OverflowError):
        raise InputError(f"{path} contains a sample that is not an integer of 64 bits: it is damaged") from None
    stated_size = strip.findtext("ChannelSampleCountTotal")
    sizes = {len(row) for row in rows}
    if stated_size is not None:
        sizes.add(int(_number(path, stated_size, "ChannelSampleCountTotal")))
    if len(sizes) != 1 or 0 in sizes:
        raise InputError(f"{path} has leads of {sorted(sizes)} samples: it is damaged or truncated")
    age, date = root.find("PatientInfo/Age"), root.find("ObservationDateTime")
    parts = [] if date is None else [date.findtext(name) or "" for name in _TIME]
    filters = {"lowpass": root.findtext(".//FilterSetting/LowPass")}
    return {
        "waveform": (np.array(rows, dtype=np.float64) * (step / 1000)).astype(np.float32),
        "sampling_rate": rate,
        "lead_names": [lead.get("lead") or "" for lead in leads],
        "identifier": root.findtext("PatientInfo/PID") or "",
        "stated": {
            "recording_date": "{}-{:0>2}-{:0>2}T{:0>2}:{:0>2}:{:0>2}".format(*parts) if all(parts) and parts else None,
            "age": int(age.text) if age is not None and age.get("units") == "years" and _is_count(age.text) else None,
            "sex": {"MALE": "male", "FEMALE": "female"}.get(root.findtext("PatientInfo/Gender") or ""),
            "filters": {name: float(text) for name, text in filters.items() if _is_count(text)} or None,
            "microvolts_per_step": step,
        },
    }


_TIME = ("Year", "Month", "Day", "Hour", "Minute", "Second")


def _is_count(text: str | None) -> bool:
    return text is not None and text.isascii() and text.isdigit() and len(text) < 10  # none here is larger


def _number(path: Path, text: str | None, name: str) -> float:
    try:
        number = float(text or "nan")
    except ValueError:
        number = math.nan
    if not (math.isfinite(number) and number > 0):
        raise InputError(f"{path} states no {name} that is a positive number")
    return number
