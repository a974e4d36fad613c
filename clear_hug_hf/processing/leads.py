"""
Lead names and identities of the 12-lead ECG.

Recordings come with their leads in any order, in any case and with a few naming habits (`AVR`, `aVR`, `avr`, `DII`,
`Lead II`, and `-aVR` for an inverted lead). Everything after this file sees the 12 standard leads, in one order and
with their standard signs, found by name.
"""

from __future__ import annotations

import re
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

# A minus before the lead inverts it: "-aVR", "Lead -aVR". A hyphen after the prefix only joins: "ECG-II", "ECG - II".
_MINUS = "[-\u2212\u2013]"  # hyphen, minus sign and en dash
_LEAD_NAME = re.compile(
    rf"(?P<before>{_MINUS} *)?(?:(?:LEAD|ECG)(?: *- +|-)? *){{0,2}}(?P<within>{_MINUS})?(?P<lead>[A-Z0-9]+)"
)

IDENTITY_TOLERANCE = 0.1
"""Limb leads obey Einthoven's and Goldberger's identities where what is left of them is below this share of the leads,
both as root mean squares."""

# Einthoven (1912) and Goldberger (1942): every limb lead as (weight of I, weight of II).
_FROM_I_AND_II = {"III": (-1.0, 1.0), "aVR": (-0.5, -0.5), "aVL": (1.0, -0.5), "aVF": (-0.5, 1.0)}


def lead_and_sign(name: str) -> tuple[str | None, int]:
    """
    Standard spelling of a lead's name, and whether the lead is inverted.

    Args:
        name (`str`): The name as a file gives it, in any case, with or without a leading "lead" or "ecg"; with a minus
            in front for an inverted lead: Cabrera's order has `-aVR`.

    Returns:
        `tuple[str | None, int]`: One of [`STANDARD_LEADS`], or `None` for a known lead that is not one of the 12
        (Frank's, posterior and right-sided leads); and the sign that its samples are to be multiplied by: -1 for an
        inverted lead, else 1.

    Raises:
        InputError: If the name is unknown.
    """
    match = _LEAD_NAME.fullmatch(str(name).upper().replace("_", " ").strip())
    if match and not (match["before"] and match["within"]):
        sign = -1 if match["before"] or match["within"] else 1
        if match["lead"] in _CANONICAL:
            return _CANONICAL[match["lead"]], sign
        if match["lead"] in _EXTRA_LEADS:
            return None, sign
    raise InputError(
        f"unknown lead name {name!r}: rename it to one of {', '.join(STANDARD_LEADS)}, or leave that row out"
    )


def limb_lead(lead: str, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """
    III, aVR, aVL or aVF of leads I and II (Einthoven: III = II - I; Goldberger: aVR = -(I + II) / 2, aVL = I - II / 2,
    aVF = II - I / 2).

    Args:
        lead (`str`): Which one.
        first, second (`np.ndarray`): Leads I and II in one unit.
    """
    weight_first, weight_second = _FROM_I_AND_II[lead]
    return weight_first * first + weight_second * second


def obeys_identities(signal: np.ndarray) -> bool:
    """
    Whether the limb leads of a recording follow from I and II ([`limb_lead`]) within [`IDENTITY_TOLERANCE`].

    Args:
        signal (`np.ndarray` of shape `(12, num_samples)`): Leads in standard order.
    """
    limb = signal[:6].astype(np.float64)
    residuals = limb[2:] - np.stack([limb_lead(name, limb[0], limb[1]) for name in STANDARD_LEADS[2:6]])
    level = float(np.sqrt(np.mean(np.square(signal[:6], dtype=np.float64))))
    return level > 0 and float(np.sqrt(np.mean(residuals**2))) < IDENTITY_TOLERANCE * level


def is_flat(leads: np.ndarray) -> np.ndarray:
    """
    Which leads do not vary, as after an electrode fell off.

    Args:
        leads (`np.ndarray` of shape `(..., num_samples)`): Leads; NaN and Inf do not count as variation.

    Returns:
        `np.ndarray` of shape `(...)`: True where all finite samples are equal, or none is finite.
    """
    finite = np.isfinite(leads)
    if not finite.all():
        leads = np.where(finite, leads, np.nan)
    return ~(np.fmax.reduce(leads, axis=-1) > np.fmin.reduce(leads, axis=-1))


def arrange_leads(
    waveform: np.ndarray, lead_names: Sequence[str], derive: bool = True
) -> tuple[np.ndarray, np.ndarray]:
    """
    Put the leads of one recording in the standard order.

    An inverted lead such as `-aVR` gets its standard sign. III, aVR, aVL and aVF are computed from I and II
    ([`limb_lead`]) when they are absent, unless I or II is flat: what an electrode that fell off gives is no lead. Any
    other missing lead stays a row of zeros that the mask marks as missing. Extra leads are left out.

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
    signs: dict[str, int] = {}
    for row, name in enumerate(lead_names):
        lead, sign = lead_and_sign(name)
        if lead is None:
            continue
        if lead in rows:
            raise InputError(f"lead {lead} appears twice among {list(lead_names)}: keep one of the two rows")
        rows[lead], signs[lead] = row, sign
    if not rows:
        raise InputError(f"none of the 12 standard leads is among {list(lead_names)}: at least one is needed")

    in_order = list(rows.values()) == list(range(12)) and tuple(rows) == STANDARD_LEADS and len(waveform) == 12
    if in_order and min(signs.values()) > 0:
        return waveform, np.ones(12, dtype=bool)

    derive = derive and "I" in rows and "II" in rows and not is_flat(waveform[[rows["I"], rows["II"]]]).any()
    arranged = np.zeros((12, waveform.shape[1]), dtype=waveform.dtype)
    present = np.zeros(12, dtype=bool)
    for index, lead in enumerate(STANDARD_LEADS):
        if lead in rows:
            arranged[index] = waveform[rows[lead]] if signs[lead] > 0 else -waveform[rows[lead]]
            present[index] = True
        elif derive and lead in _FROM_I_AND_II:
            arranged[index] = limb_lead(lead, arranged[0], arranged[1])
            present[index] = True
    return arranged, present
