"""
Cost of preparing recordings for the model: read, clean, detect, cut, in ms per recording, beside the paper's pipeline.

Both pipelines run in this process on the same records, one thread each. The baseline does what the released CLEAR-HUG
preparation does with the libraries it uses: `wfdb.rdrecord`, one `scipy.signal.resample` and one zero-phase filter
per lead, `wfdb`'s XQRS on lead II, and beats cut in a Python loop over leads and peaks.

    python benchmarks/preparation.py
    python benchmarks/preparation.py --records ../shared/data/challenge --repeats 5
"""

from __future__ import annotations

import argparse
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import wfdb
from machine import REPOSITORY, describe_machine, write_csv
from scipy import signal as scipy_signal

from clear_hug_hf import ClearHugFeatureExtractor, find_records, read_record
from clear_hug_hf.processing import detect_r_peaks


def ours(paths: list[Path], clock: dict[str, float]) -> int:
    """The package's pipeline, recordings in one batch. Returns the number of real beats."""
    extractor = ClearHugFeatureExtractor()
    start = time.perf_counter()
    recordings = [read_record(path) for path in paths]
    read = time.perf_counter()
    cleaned = [
        extractor.clean(r.waveform, sampling_rate=r.sampling_rate, lead_names=r.lead_names, unit=r.unit)
        for r in recordings
    ]
    window = extractor.window_samples
    signals, lead_masks = [signal[:, :window] for signal, _ in cleaned], [mask for _, mask in cleaned]
    clean = time.perf_counter()
    peaks = extractor.detect(signals, lead_masks)
    detect = time.perf_counter()
    beats = extractor.cut(signals, peaks, lead_masks)
    cut = time.perf_counter()
    for part, seconds in zip(
        ("read", "clean", "detect", "cut"), np.diff([start, read, clean, detect, cut]), strict=True
    ):
        clock[part] += float(seconds)
    return int(beats["attention_mask"].sum())


def as_released(paths: list[Path], clock: dict[str, float]) -> int:
    """The paper's pipeline, recording by recording. Returns the number of real beats."""
    count = 0
    for path in paths:
        start = time.perf_counter()
        record = wfdb.rdrecord(str(path.with_suffix("")))
        read = time.perf_counter()
        seconds = record.p_signal.shape[0] / record.fs
        signal = scipy_signal.resample(record.p_signal.T, round(seconds * 100), axis=1)
        numerator, denominator = scipy_signal.butter(5, (0.67, 40.0), btype="bandpass", fs=100.0)
        signal = np.stack([scipy_signal.filtfilt(numerator, denominator, lead) for lead in signal])[:, :1000]
        clean = time.perf_counter()
        peaks = detect_r_peaks(signal, 100.0, detector="xqrs")[0]
        detect = time.perf_counter()
        beats = np.zeros((12, 15, 96))
        for lead in range(12):
            for beat, peak in enumerate(peaks[:15]):
                begin = max(peak - 48, 0) if beat == 0 else (peaks[beat - 1] + peak) // 2
                end = min(peak + 48, 1000) if beat == len(peaks) - 1 else (peak + peaks[beat + 1]) // 2
                if end - begin > 96:
                    begin, end = max(peak - 48, 0), min(max(peak - 48, 0) + 96, 1000)
                offset = max(48 - (peak - begin), 0)
                segment = signal[lead, begin : min(end, begin + 96 - offset)]
                beats[lead, beat, offset : offset + len(segment)] = segment
        cut = time.perf_counter()
        for part, passed in zip(
            ("read", "clean", "detect", "cut"), np.diff([start, read, clean, detect, cut]), strict=True
        ):
            clock[part] += float(passed)
        count += min(len(peaks), 15)
    return count


def main() -> None:
    """Time both pipelines and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=Path, default=REPOSITORY.parent / "shared" / "data" / "ludb")
    parser.add_argument("--limit", type=int, default=100, help="records used (default: 100)")
    parser.add_argument("--repeats", type=int, default=5, help="passes; the fastest counts (default: 5)")
    parser.add_argument("--output", type=Path, default=REPOSITORY / "benchmarks" / "results" / "preparation.csv")
    arguments = parser.parse_args()

    paths = find_records(arguments.records)[: arguments.limit]
    pipelines: dict[str, Callable[[list[Path], dict[str, float]], int]] = {
        "clear_hug_hf": ours,
        "as released": as_released,
    }
    rows: list[dict[str, Any]] = []
    for name, pipeline in pipelines.items():
        passes: list[dict[str, float]] = []
        beats = 0
        for _ in range(arguments.repeats):
            clock: dict[str, float] = defaultdict(float)
            beats = pipeline(paths, clock)
            passes.append(dict(clock))
        fastest = min(passes, key=lambda clock: sum(clock.values()))
        total = sum(fastest.values())
        for part, seconds in [*fastest.items(), ("total", total)]:
            rows.append(
                {
                    "pipeline": name,
                    "part": part,
                    "ms_per_record": round(1000 * seconds / len(paths), 4),
                    "share": round(seconds / total, 3),
                    "records": len(paths),
                    "beats": beats,
                    "source": arguments.records.name,
                    **describe_machine("scipy", "wfdb", "clear-hug-hf"),
                }
            )
    print(f"{'pipeline':14s}{'part':9s}{'ms/record':>10s}{'share':>8s}")
    for row in rows:
        print(f"{row['pipeline']:14s}{row['part']:9s}{row['ms_per_record']:10.3f}{row['share']:8.1%}")
    write_csv(arguments.output, rows)
    print(f"written: {arguments.output}")


if __name__ == "__main__":
    main()
