"""
Beat detectors on the recordings that cardiologists marked: how many beats they find, how exactly, how fast.

The LUDB records are resampled to 100 Hz (`scipy.signal.resample_poly`), handed raw to every detector in this process
and compared with the marks of lead II: a beat counts as found within 150 ms, and only what lies
between the first and the last mark counts. A record is right if no beat is missed and none is invented.

The rows marked "as recorded" are the comparison. The other rows repeat it on recordings altered in the way their name
says (seeded).

    OMP_NUM_THREADS=1 python benchmarks/beat_detectors.py
    OMP_NUM_THREADS=1 python benchmarks/beat_detectors.py --ludb ../shared/data/ludb --repeats 10 --output table.csv
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import neurokit2
import numpy as np
import wfdb
from machine import REPOSITORY, describe_machine, write_csv
from scipy.signal import resample_poly

from clear_hug_hf.evaluation.beats import match_beats
from clear_hug_hf.processing import STANDARD_LEADS, detect_r_peaks


RATE = 100
TOLERANCE_MS = 150.0
Detector = Callable[[np.ndarray], list[np.ndarray]]


def read_ludb(folder: Path) -> tuple[np.ndarray, np.ndarray, list[np.ndarray]]:
    """Signals at their own 500 Hz and at 100 Hz (records, 12, samples) [mV] and the QRS marks of lead II [ms]."""
    headers = sorted((folder / "data").glob("*.hea"), key=lambda path: int(path.stem))
    if not headers:
        raise SystemExit(f"no LUDB records in {folder / 'data'}: give the folder that holds data/1.hea with --ludb")
    signals, marks = [], []
    for header in headers:
        record = wfdb.rdrecord(str(header.with_suffix("")))
        names = [name.lower() for name in record.sig_name]
        signals.append(record.p_signal.T[[names.index(lead.lower()) for lead in STANDARD_LEADS]])
        annotation = wfdb.rdann(str(header.with_suffix("")), "ii")
        peaks = [sample for sample, symbol in zip(annotation.sample, annotation.symbol, strict=True) if symbol == "N"]
        marks.append(np.array(peaks) * 1000.0 / record.fs)
    original = np.stack(signals)
    return original, resample_poly(original, 1, 5, axis=-1), marks


def alterations(original: np.ndarray, signals: np.ndarray, marks: list[np.ndarray]) -> dict[str, np.ndarray]:
    """Copies of the recordings at 100 Hz, each altered in one way."""
    generator = np.random.default_rng(0)
    altered: dict[str, np.ndarray] = {}

    def copy(name: str) -> np.ndarray:
        altered[name] = signals.copy()
        return altered[name]

    copy("lead II inverted")[:, 1] *= -1
    altered["all leads inverted"] = -signals
    copy("6 leads flat, lead II among them")[:, 1::2] = 0.0
    deviation = signals.std(axis=-1, keepdims=True)
    noise = generator.normal(size=signals.shape) * deviation
    copy("lead II drowned in noise")[:, 1] += 20 * noise[:, 1]
    altered["noise in all leads, half the signal's deviation"] = signals + 0.5 * noise
    for millivolts in (2.0, 5.0):
        for before in (40, 160):
            paced = original.copy()
            size = millivolts * generator.uniform(0.5, 1.0, original.shape[1]) * (-1.0) ** np.arange(12)
            for recording, beats in zip(paced, marks, strict=True):
                places = np.rint((beats - before) / 2).astype(int)
                recording[:, places[places >= 0]] += size[:, None]
            altered[f"spikes of {millivolts:g} mV and 2 ms, {before} ms before each beat"] = resample_poly(
                paced, 1, 5, axis=-1
            )
    copy("NaN in lead II for 3 s")[:, 1, 300:600] = np.nan
    copy("NaN in all leads for 50 ms a second")[:, :, np.arange(signals.shape[-1]) % RATE < RATE // 20] = np.nan
    lead_ii = np.zeros_like(signals)
    lead_ii[:, 1] = signals[:, 1]
    altered["lead II only"] = lead_ii
    return altered


def detectors() -> dict[str, Detector]:
    """Every detector as a function of a batch (records, 12, samples) at 100 Hz."""

    def one_by_one(find: Callable[[np.ndarray], Any]) -> Detector:
        def run(signals: np.ndarray) -> list[np.ndarray]:
            peaks = []
            for recording in signals:
                try:
                    peaks.append(np.asarray(find(recording), dtype=np.int64))
                except (ValueError, IndexError, ZeroDivisionError):  # what the libraries raise on NaN and flat leads
                    peaks.append(np.empty(0, dtype=np.int64))
            return peaks

        return run

    def pantompkins(recording: np.ndarray) -> np.ndarray:
        cleaned = neurokit2.ecg_clean(recording[1], sampling_rate=RATE, method="pantompkins1985")
        signals_and_peaks = neurokit2.ecg_peaks(cleaned, sampling_rate=RATE, method="pantompkins1985")
        return signals_and_peaks[1]["ECG_R_Peaks"]

    detectors: dict[str, Detector] = {
        "multilead, batch": lambda signals: detect_r_peaks(signals, RATE),
        "multilead, one by one": one_by_one(lambda recording: detect_r_peaks(recording, RATE)[0]),
        "xqrs (wfdb), lead II": one_by_one(lambda recording: detect_r_peaks(recording, RATE, detector="xqrs")[0]),
        "neurokit, lead II": one_by_one(lambda recording: detect_r_peaks(recording, RATE, detector="neurokit")[0]),
        "neurokit pantompkins, lead II": one_by_one(pantompkins),
    }
    try:
        import sleepecg
    except ImportError:
        print("sleepecg is not installed, its row is left out: pip install sleepecg")
    else:
        detectors["sleepecg, lead II"] = one_by_one(lambda recording: sleepecg.detect_heartbeats(recording[1], RATE))
    return detectors


def score(detector: Detector, signals: np.ndarray, marks: list[np.ndarray], repeats: int) -> dict[str, Any]:
    """Scores and the fastest of `repeats` passes."""
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        peaks = detector(signals)
        seconds.append(time.perf_counter() - start)
    pairs = extra = missed = right = 0
    errors = []
    for detected, beats in zip(peaks, marks, strict=True):
        new_pairs, new_extra, new_missed, new_errors = match_beats(detected * 1000.0 / RATE, beats, TOLERANCE_MS)
        pairs, extra, missed = pairs + new_pairs, extra + new_extra, missed + new_missed
        right += new_extra == new_missed == 0
        errors.append(new_errors)
    absolute = np.abs(np.concatenate(errors))
    return {
        "f1": round(2 * pairs / (2 * pairs + extra + missed), 5),
        "sensitivity": round(pairs / (pairs + missed), 5),
        "ppv": round(pairs / max(pairs + extra, 1), 5),
        "records_right": right,
        "records": len(marks),
        "median_abs_error_ms": round(float(np.median(absolute)), 1) if absolute.size else "",
        "errors_above_50_ms": int((absolute > 50).sum()),
        "ms_per_record": round(1000 * min(seconds) / len(marks), 4),
    }


def main() -> None:
    """Score every detector and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--ludb",
        type=Path,
        default=REPOSITORY.parent / "shared" / "data" / "ludb",
        help="folder of LUDB, with data/*.hea (default: ../shared/data/ludb beside the repository)",
    )
    parser.add_argument("--repeats", type=int, default=10, help="passes of our detector; the fastest counts")
    parser.add_argument("--output", type=Path, default=REPOSITORY / "benchmarks" / "results" / "beat_detectors.csv")
    arguments = parser.parse_args()

    original, signals, marks = read_ludb(arguments.ludb)
    table = [
        (name, "as recorded", detector, signals, arguments.repeats if name.startswith("multilead") else 2)
        for name, detector in detectors().items()
    ]
    for alteration, altered in alterations(original, signals, marks).items():
        table += [
            (name, alteration, detector, altered, 1)
            for name, detector in detectors().items()
            if name != "multilead, one by one"
        ]
    machine = describe_machine("scipy", "wfdb", "neurokit2", "sleepecg")
    machine["threads"] = os.environ.get("OMP_NUM_THREADS", "all")
    rows: list[dict[str, Any]] = []
    print(f"{'detector':31s}{'F1':>8s}{'sens.':>8s}{'PPV':>8s}{'right':>7s}{'|error|':>9s}{'ms/record':>11s}")
    shown = ""
    for name, condition, detector, recordings, repeats in table:
        if condition != shown:
            print(f"-- {condition}")
            shown = condition
        row = score(detector, recordings, marks, repeats)
        rows.append({"detector": name, "recordings": condition, **row, **machine})
        print(
            f"{name:31s}{row['f1']:8.4f}{row['sensitivity']:8.4f}{row['ppv']:8.4f}{row['records_right']:7d}"
            f"{row['median_abs_error_ms']!s:>9s}{row['ms_per_record']:11.3f}"
        )
    write_csv(arguments.output, rows)
    print(f"written: {arguments.output}")


if __name__ == "__main__":
    main()
