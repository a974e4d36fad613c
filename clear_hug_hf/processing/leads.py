"""
Names and identities of the leads of the 12-lead ECG.

Recordings contain their leads in any order and under different names (`AVR`, `aVR`, `avr`, `DII`, `Lead II`, or `-aVR`
for an inverted lead). This module maps them by name to the 12 standard leads in a fixed order with their standard
signs.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from .errors import InputError


STANDARD_LEADS: tuple[str, ...] = ("I", "II", "III", "aVR", "aVL", "aVF", "V1", "V2", "V3", "V4", "V5", "V6")
"""The 12 standard leads in the order that all arrays of this package use."""

# Additional leads of 12-lead recordings: Frank's orthogonal leads, posterior and right-sided leads.
_EXTRA_LEADS = frozenset([*"XYZ", "VX", "VY", "VZ", "V7", "V8", "V9", *(f"V{number}R" for number in range(1, 10))])

_CANONICAL = {name.upper(): name for name in STANDARD_LEADS}
# Portuguese and Spanish names (CODE-15%) start with D for "derivation".
_CANONICAL |= {"DI": "I", "DII": "II", "DIII": "III"}

# A minus sign in front of the lead inverts it ("-aVR", "Lead -aVR"); a hyphen after a prefix does not ("ECG-II").
_MINUS = "[-\u2212\u2013]"  # hyphen, minus sign and en dash
_LEAD_NAME = re.compile(
    rf"(?P<before>{_MINUS} *)?(?:(?:LEAD|ECG)(?: *- +|-)? *){{0,2}}(?P<within>{_MINUS})?(?P<lead>[A-Z0-9]+)"
)

IDENTITY_TOLERANCE = 0.1
"""Maximum ratio of the root mean squares of the residuals of Einthoven's and Goldberger's identities and of the limb
leads at which a recording satisfies them."""

# Einthoven (1912) and Goldberger (1942): limb leads as (weight of I, weight of II).
_FROM_I_AND_II = {"III": (-1.0, 1.0), "aVR": (-0.5, -0.5), "aVL": (1.0, -0.5), "aVF": (-0.5, 1.0)}


def lead_and_sign(name: str) -> tuple[str | None, int]:
    """
    Standard name and sign of a lead.

    Args:
        name (`str`): Name of the lead in any case, optionally with a prefix such as "lead" or "ecg", and with a minus
            sign for an inverted lead, such as `-aVR` in Cabrera's order.

    Returns:
        `tuple[str | None, int]`: One of [`STANDARD_LEADS`], or `None` for additional leads (Frank's, posterior and
        right-sided leads), and -1 for an inverted lead or 1 otherwise.

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
        f"unknown lead name {name!r}: rename it to one of {', '.join(STANDARD_LEADS)}, or remove this lead"
    )


def derive_limb_lead(lead: str, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """
    Compute lead III, aVR, aVL or aVF from leads I and II (Einthoven: III = II - I; Goldberger: aVR = -(I + II) / 2,
    aVL = I - II / 2, aVF = II - I / 2).

    Args:
        lead (`str`): Lead to compute.
        first, second (`np.ndarray`): Leads I and II in the same unit.
    """
    weight_first, weight_second = _FROM_I_AND_II[lead]
    return weight_first * first + weight_second * second


def satisfies_identities(signal: np.ndarray) -> bool:
    """
    Whether the limb leads can be derived from I and II ([`derive_limb_lead`]) within [`IDENTITY_TOLERANCE`].

    Args:
        signal (`np.ndarray` of shape `(12, num_samples)`): Leads in standard order.
    """
    limb = signal[:6].astype(np.float64)
    residuals = limb[2:] - np.stack([derive_limb_lead(name, limb[0], limb[1]) for name in STANDARD_LEADS[2:6]])
    level = float(np.sqrt(np.mean(np.square(signal[:6], dtype=np.float64))))
    return level > 0 and float(np.sqrt(np.mean(residuals**2))) < IDENTITY_TOLERANCE * level


def is_flat(leads: np.ndarray) -> np.ndarray:
    """
    Detect leads without any variation, for example after an electrode has come off.

    Args:
        leads (`np.ndarray` of shape `(..., num_samples)`): Leads. NaN and Inf are ignored.

    Returns:
        `np.ndarray` of shape `(...)`: True for leads whose finite samples are all equal, or that have none.
    """
    finite = np.isfinite(leads)
    if not finite.all():
        leads = np.where(finite, leads, np.nan)
    return ~(np.fmax.reduce(leads, axis=-1) > np.fmin.reduce(leads, axis=-1))


def arrange_leads(
    waveform: np.ndarray, lead_names: Sequence[str], derive: bool = True
) -> tuple[np.ndarray, np.ndarray]:
    """
    Arrange the leads of a recording in the standard order.

    Inverted leads such as `-aVR` are negated. Missing limb leads III, aVR, aVL and aVF are derived from I and II
    ([`derive_limb_lead`]) unless one of these is flat. Other missing leads are zero. Additional leads are dropped.

    Args:
        waveform (`np.ndarray` of shape `(num_leads, num_samples)`): Recording with all leads in the same unit.
        lead_names (`Sequence[str]`): Name of each row.
        derive (`bool`, *optional*, defaults to `True`):
            Whether to derive missing limb leads. Must be `False` for leads that were scaled individually.

    Returns:
        `tuple[np.ndarray, np.ndarray]`: Leads `(12, num_samples)` and a boolean mask `(12,)`, True for leads that are
        present.

    Raises:
        InputError: If a name is unknown or duplicated, or the recording contains none of the 12 leads.
    """
    rows: dict[str, int] = {}
    signs: dict[str, int] = {}
    for row, name in enumerate(lead_names):
        lead, sign = lead_and_sign(name)
        if lead is None:
            continue
        if lead in rows:
            raise InputError(f"lead {lead} is duplicated in {list(lead_names)}: keep only one of them")
        rows[lead], signs[lead] = row, sign
    if not rows:
        raise InputError(f"lead_names must contain at least one of the 12 standard leads, got {list(lead_names)}")

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
            arranged[index] = derive_limb_lead(lead, arranged[0], arranged[1])
            present[index] = True
    return arranged, present
