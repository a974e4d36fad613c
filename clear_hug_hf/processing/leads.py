"""
Lead names and identities of the 12-lead ECG.

Recordings come with their leads in any order, in any case and with a few naming habits (`AVR`, `aVR`, `avr`, `DII`,
`Lead II`). Everything after this file sees the 12 standard leads, in one order, found by name.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .errors import InputError


STANDARD_LEADS: tuple[str, ...] = ("I", "II", "III", "aVR", "aVL", "aVF", "V1", "V2", "V3", "V4", "V5", "V6")
"""The 12 standard leads in the order in which every array of this package holds them."""

# Leads that real 12-lead files carry beside the standard ones: Frank's orthogonal leads, posterior and right-sided
# leads.
_EXTRA_LEADS = frozenset(["VX", "VY", "VZ", "X", "Y", "Z", "V7", "V8", "V9", "V1R", "V2R", "V3R", "V4R", "V5R", "V6R"])

_CANONICAL = {name.upper(): name for name in STANDARD_LEADS}
# Portuguese and Spanish files (CODE-15%) write the limb leads with a D for "derivation".
_CANONICAL |= {"DI": "I", "DII": "II", "DIII": "III"}

# Einthoven (1912) and Goldberger (1942): every limb lead as (weight of I, weight of II).
_FROM_I_AND_II = {"III": (-1.0, 1.0), "aVR": (-0.5, -0.5), "aVL": (1.0, -0.5), "aVF": (-0.5, 1.0)}


def canonical_lead_name(name: str) -> str | None:
    """
    Standard spelling of a lead's name.

    Args:
        name (`str`): The name as a file gives it, in any case, with or without a leading "lead" or "ecg".

    Returns:
        `str` or `None`: One of [`STANDARD_LEADS`], or `None` for a known lead that is not one of the 12 (Frank's,
        posterior and right-sided leads).

    Raises:
        InputError: If nobody knows the name.
    """
    key = str(name).strip().upper().replace("_", " ").replace("-", " ")
    for prefix in ("LEAD", "ECG"):
        key = key.removeprefix(prefix).strip()
    if key in _CANONICAL:
        return _CANONICAL[key]
    if key in _EXTRA_LEADS:
        return None
    raise InputError(
        f"unknown lead name {name!r}: rename it to one of {', '.join(STANDARD_LEADS)}, or leave that row out"
    )


def arrange_leads(
    waveform: np.ndarray, lead_names: Sequence[str], derive: bool = True
) -> tuple[np.ndarray, np.ndarray]:
    """
    Put the leads of one recording in the standard order.

    III, aVR, aVL and aVF follow from I and II (Einthoven, Goldberger) when they are absent. Any other missing lead
    stays a row of zeros that the mask marks as missing. Extra leads are left out.

    Args:
        waveform (`np.ndarray` of shape `(num_leads, num_samples)`): The recording, all leads in one unit.
        lead_names (`Sequence[str]`): One name per row.
        derive (`bool`, *optional*, defaults to `True`):
            Whether absent limb leads are computed. Must be off where leads were scaled one by one, since the
            identities do not hold there.

    Returns:
        `tuple[np.ndarray, np.ndarray]`: The leads of shape `(12, num_samples)` and a boolean mask of shape `(12,)`,
        true where the lead is present.

    Raises:
        InputError: If a name is unknown or appears twice, or if none of the 12 leads is there.
    """
    rows: dict[str, int] = {}
    for row, name in enumerate(lead_names):
        lead = canonical_lead_name(name)
        if lead is None:
            continue
        if lead in rows:
            raise InputError(f"lead {lead} appears twice among {list(lead_names)}: keep one of the two rows")
        rows[lead] = row
    if not rows:
        raise InputError(f"none of the 12 standard leads is among {list(lead_names)}: at least one is needed")

    if list(rows.values()) == list(range(12)) and tuple(rows) == STANDARD_LEADS and len(waveform) == 12:
        return waveform, np.ones(12, dtype=bool)

    arranged = np.zeros((12, waveform.shape[1]), dtype=waveform.dtype)
    present = np.zeros(12, dtype=bool)
    for index, lead in enumerate(STANDARD_LEADS):
        if lead in rows:
            arranged[index] = waveform[rows[lead]]
            present[index] = True
        elif derive and lead in _FROM_I_AND_II and "I" in rows and "II" in rows:
            weight_i, weight_ii = _FROM_I_AND_II[lead]
            arranged[index] = weight_i * waveform[rows["I"]] + weight_ii * waveform[rows["II"]]
            present[index] = True
    return arranged, present
