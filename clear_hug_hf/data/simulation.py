"""
Simulated, labeled 12-lead recordings for demonstrations and tests without data.

The leads come from NeuroKit2's dynamical model (McSharry et al., 2003; `neurokit2.ecg_simulate` with
`method="multileads"`). Each patient has a rhythm and a heart rate, and every third patient has inverted T waves, in
any rhythm. Widths, amplitudes and electrode noise vary between patients and recordings.
"""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np

from ..processing.errors import InputError, import_library
from .records import Recording


SIMULATED_LABELS = (
    "sinus bradycardia",
    "sinus rhythm",
    "sinus tachycardia",
    "irregular rhythm",
    "T wave inversion",
)
"""Labels of simulated recordings: one of the four rhythms, and T wave inversion in a third of each."""

SAMPLING_RATE = 250
SECONDS = 10.0

# Range of the heart rate [1/min] and of its relative standard deviation over patients, per rhythm.
_RHYTHMS: dict[str, tuple[tuple[float, float], tuple[float, float]]] = {
    "sinus bradycardia": ((42.0, 57.0), (0.01, 0.05)),
    "sinus rhythm": ((62.0, 96.0), (0.01, 0.05)),
    "sinus tachycardia": ((103.0, 140.0), (0.01, 0.04)),
    "irregular rhythm": ((65.0, 115.0), (0.16, 0.24)),
}
# The simulator integrates a power of two of seconds, so that 15 s cost the same as 10 s. Recordings of a patient are
# cut from them, after the transient of the first beat.
_SIMULATED_SECONDS = 15
_FIRST_START = 0.5
# Splits of every five patients with one rhythm.
_SPLITS = ("train", "validation", "train", "test", "train")
# Angles [degrees], amplitudes and widths [rad] of P, Q, R, S and T in the model.
_ANGLES = np.array([-70.0, -15.0, 0.0, 15.0, 100.0])
_AMPLITUDES = np.array([1.2, -5.0, 30.0, -7.5, 0.75])
_WIDTHS = np.array([0.25, 0.1, 0.1, 0.1, 0.4])


def simulate_recordings(
    num_patients: int = 80, recordings_per_patient: int = 3, seed: int = 0, num_workers: int = 1
) -> list[Recording]:
    """
    Simulate labeled recordings of 10 s at 250 Hz.

    Recordings of one patient are overlapping parts of one simulation, with different gain, drift and noise. The same
    seed gives the same recordings for any number of workers, and the first patients do not depend on the number of
    patients.

    Args:
        num_patients (`int`, *optional*, defaults to 80): Number of patients, with alternating rhythms.
        recordings_per_patient (`int`, *optional*, defaults to 3): Number of recordings per patient.
        seed (`int`, *optional*, defaults to 0): Random seed.
        num_workers (`int`, *optional*, defaults to 1): Number of processes.

    Returns:
        `list[Recording]`: Recordings with the labels [`SIMULATED_LABELS`], a `patient_id`, and a `split` by patient:
        of every five patients with one rhythm, three are for training, one for validation and one for testing.

    Raises:
        ImportError: If neurokit2 is not installed.
        InputError: If a number is less than 1.
    """
    if num_patients < 1 or recordings_per_patient < 1:
        raise InputError("num_patients and recordings_per_patient must be at least 1")
    _import_neurokit2()  # before processes are started
    joblib = import_library("joblib", "simulating recordings")
    simulate = joblib.delayed(_simulate_patient)
    patients = joblib.Parallel(n_jobs=num_workers)(
        simulate(patient, recordings_per_patient, seed) for patient in range(num_patients)
    )
    return [recording for recordings in patients for recording in recordings]


def _import_neurokit2() -> Any:
    return import_library("neurokit2", "simulating recordings")


def _simulate_patient(patient: int, count: int, seed: int) -> list[Recording]:
    rng = np.random.default_rng([seed, patient])
    rhythm = SIMULATED_LABELS[patient % len(_RHYTHMS)]
    rates, deviations = _RHYTHMS[rhythm]
    heart_rate = rng.uniform(*rates)
    amplitudes = _AMPLITUDES * rng.uniform(0.8, 1.25, 5)
    labels = [rhythm]
    if rhythm == "irregular rhythm":
        amplitudes[0] = 0.0  # no P wave without coordinated atrial contraction
    turn = patient // len(_RHYTHMS)
    if (turn + patient) % 3 == 0:
        amplitudes[4] *= -1.0
        labels.append(SIMULATED_LABELS[-1])
    leads = _simulate_leads(
        heart_rate=heart_rate,
        heart_rate_std=heart_rate * rng.uniform(*deviations),
        random_state=int(rng.integers(2**31)),
        ti=_ANGLES * rng.uniform(0.95, 1.05, 5),
        ai=amplitudes,
        bi=_WIDTHS * rng.uniform(0.9, 1.15, 5),
    )
    waveform = leads.to_numpy(dtype=np.float64).T
    length = round(SECONDS * SAMPLING_RATE)
    starts = np.linspace(_FIRST_START, _SIMULATED_SECONDS - SECONDS, count) if count > 1 else np.array([_FIRST_START])
    return [
        Recording(
            waveform=_add_artifacts(waveform[:, first : first + length], rng),
            sampling_rate=float(SAMPLING_RATE),
            lead_names=list(leads.columns),
            unit="mV",
            record_id=f"simulated-{patient:04d}-{index}",
            patient_id=f"patient-{patient:04d}",
            labels={name: float(name in labels) for name in SIMULATED_LABELS},
            split=_SPLITS[turn % len(_SPLITS)],
            metadata={"heart_rate": float(heart_rate)},
        )
        for index, first in enumerate(np.rint(starts * SAMPLING_RATE).astype(int))
    ]


def _simulate_leads(**settings: Any) -> Any:
    neurokit2 = _import_neurokit2()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return neurokit2.ecg_simulate(
            duration=_SIMULATED_SECONDS,
            sampling_rate=SAMPLING_RATE,
            method="multileads",
            noise=0,
            lfhfratio=0.2,
            **settings,
        )


def _add_artifacts(waveform: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Add what an electrocardiograph adds: gain and noise per electrode, baseline drift with breathing, mains hum."""
    num_leads, num_samples = waveform.shape
    seconds = np.arange(num_samples) / SAMPLING_RATE
    gain = rng.uniform(0.6, 1.2, (num_leads, 1))
    drift = rng.uniform(0.0, 0.15, (num_leads, 1)) * np.sin(
        2 * np.pi * (rng.uniform(0.15, 0.35) * seconds + rng.random((num_leads, 1)))
    )
    hum = rng.uniform(0.0, 0.03) * np.sin(2 * np.pi * 50.0 * seconds)
    noise = rng.normal(0.0, rng.uniform(0.01, 0.06, (num_leads, 1)), (num_leads, num_samples))
    return (gain * waveform + drift + hum + noise).astype(np.float32)
