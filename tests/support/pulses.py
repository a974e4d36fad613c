"""A synthetic recording whose beats are known, and its description."""

from __future__ import annotations

from typing import Any

import numpy as np


LEADS = ("I", "II", "III", "aVR", "aVL", "aVF", "V1", "V2", "V3", "V4", "V5", "V6")
RATE = 500.0


def make_pulses(seconds: float = 10.0, rate: float = RATE, heart_rate: float = 72.0) -> np.ndarray:
    """Twelve leads [mV] with a narrow spike for each QRS, the first at 0.4 s, obeying the limb-lead identities."""
    time = np.arange(round(seconds * rate)) / rate
    peaks = np.arange(0.4, seconds - 0.2, 60.0 / heart_rate)
    qrs = np.exp(-0.5 * ((time[:, None] - peaks) / 0.012) ** 2).sum(axis=1)
    t_wave = 0.2 * np.exp(-0.5 * ((time[:, None] - peaks - 0.25) / 0.04) ** 2).sum(axis=1)
    one, two = 0.7 * qrs + t_wave, 1.1 * qrs + t_wave
    limb = [one, two, two - one, -(one + two) / 2, one - two / 2, two - one / 2]
    chest = [gain * qrs + 0.5 * t_wave for gain in (-0.6, -0.3, 0.4, 1.2, 1.3, 0.9)]
    return np.stack([*limb, *chest])


def known(**others: Any) -> dict[str, Any]:
    """The arguments of a feature extractor for the recording, replaced by `others` where set."""
    return {"sampling_rate": RATE, "lead_names": LEADS, "unit": "mV", **others}
