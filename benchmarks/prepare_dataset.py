"""
Cost of a whole preparation, WFDB records in and Parquet shards out, beside the paper's pipeline; and its memory.

Speed: records of one folder, one process and one thread, passes of both pipelines in turn, the fastest of each counts.
The baseline is `as_released` of `preparation.py`: it makes the same beats from the same records and writes nothing.
"other" is what lies between: labels, windows, quantisation, tables.

Memory: the largest resident size, over time, of the main process and of the largest worker (with and without the pages
that it shares with the server that it is forked from), and of all together (shared pages once), for few and for many
records drawn from all given folders (repeated if they have fewer).

    python benchmarks/prepare_dataset.py
    python benchmarks/prepare_dataset.py --speed ../shared/data/ptb --no-memory
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow.parquet as pq
from machine import REPOSITORY, describe_machine, write_csv
from preparation import as_released
from threadpoolctl import threadpool_limits

from clear_hug_hf import ClearHugFeatureExtractor, find_records
from clear_hug_hf.data import preparation, sharding
from clear_hug_hf.data.readers import RecordSource
from clear_hug_hf.data.records import RecordReference
from clear_hug_hf.data.sharding import prepare_shards


DATA = REPOSITORY.parent / "shared" / "data"
SHARD_SIZE = 100


class ListedRecords(RecordSource):
    """WFDB records by path; the same one may come several times."""

    kind = "listed"

    def __init__(self, folder: Path, paths: list[Path]):
        super().__init__(folder)
        self.paths = paths

    def __len__(self) -> int:
        return len(self.paths)

    def reference(self, index: int) -> RecordReference:
        """The record at a place of the list, under a name of its own."""
        return RecordReference(self.paths[index], f"{index}", split="train")


def timed(function: Callable[..., Any], part: str, clock: dict[str, float]) -> Callable[..., Any]:
    """A function whose time is added to a part."""

    def run(*arguments: Any, **options: Any) -> Any:
        start = time.perf_counter()
        try:
            return function(*arguments, **options)
        finally:
            clock[part] += time.perf_counter() - start

    return run


def ours(paths: list[Path], clock: dict[str, float]) -> int:
    """The package's preparation. Returns the number of beats found."""
    extractor = ClearHugFeatureExtractor()
    output = Path(tempfile.mkdtemp()) / "prepared"
    replaced: list[tuple[Any, str, str]] = [
        (RecordReference, "read", "read"),
        (ClearHugFeatureExtractor, "clean", "clean"),
        (ClearHugFeatureExtractor, "detect", "detect"),
        (preparation, "measure_quality", "quality"),
        (pq.ParquetWriter, "write_table", "write"),
        (sharding.hashlib, "file_digest", "write"),
        (sharding.os, "fsync", "write"),
    ]
    originals = [(owner, name, getattr(owner, name)) for owner, name, _ in replaced]
    try:
        for owner, name, part in replaced:
            setattr(owner, name, timed(getattr(owner, name), part, clock))
        start = time.perf_counter()
        outcome = prepare_shards(
            ListedRecords(paths[0].parent, paths), output, extractor, split_fractions={"train": 1.0}, progress=False
        )
        total = time.perf_counter() - start
    finally:
        for owner, name, original in originals:
            setattr(owner, name, original)
    clock["other"] = total - sum(clock.values())
    assert outcome.manifest is not None
    beats = sum(
        int(np.minimum(pq.read_table(output / shard["file"], columns=["num_beats"])["num_beats"], 15).sum())
        for shard in outcome.manifest["shards"]
    )
    shutil.rmtree(output.parent)
    return beats


def released(paths: list[Path], clock: dict[str, float]) -> int:
    """The baseline on one thread."""
    with threadpool_limits(limits=1):
        return as_released(paths, clock)


def measure_speed(folders: list[Path], limit: int, repeats: int) -> list[dict[str, Any]]:
    """Rows of the speed table."""
    rows = []
    machine = describe_machine("scipy", "pyarrow", "wfdb", "clear-hug-hf")
    for folder in folders:
        paths = list(islice(cycle(find_records(folder)), limit))
        passes: dict[str, list[tuple[dict[str, float], int]]] = defaultdict(list)
        for _ in range(repeats):
            for name, pipeline in (("clear_hug_hf", ours), ("as released", released)):
                clock: dict[str, float] = defaultdict(float)
                beats = pipeline(paths, clock)
                passes[name].append((clock, beats))
        for name, measured in passes.items():
            clock, beats = min(measured, key=lambda timing: sum(timing[0].values()))
            total = sum(clock.values())
            for part, seconds in [*clock.items(), ("total", total)]:
                rows.append(
                    {
                        "source": folder.name,
                        "pipeline": name,
                        "part": part,
                        "ms_per_record": round(1000 * seconds / len(paths), 4),
                        "share": round(seconds / total, 3),
                        "records_per_s": round(len(paths) / seconds, 1),
                        "records": len(paths),
                        "beats": beats,
                        **machine,
                    }
                )
    return rows


def measure_memory(folders: list[Path], sizes: list[int], num_proc: int) -> list[dict[str, Any]]:
    """Rows of the memory table; every size is prepared in a process of its own."""
    rows = []
    for size in sizes:
        with tempfile.TemporaryDirectory() as temporary:
            command = [sys.executable, __file__, "--prepare", str(size), "--processes", str(num_proc)]
            command += ["--output", temporary, "--memory", *map(str, folders)]
            start = time.perf_counter()
            running = subprocess.Popen(command)
            peaks: dict[str, float] = defaultdict(float)
            while running.poll() is None:
                sample_memory(psutil.Process(running.pid), peaks)
                time.sleep(0.02)
            if running.returncode:
                raise SystemExit(f"the preparation of {size} records failed")
        rows.append(
            {
                "records": size,
                "processes": num_proc,
                "main_mib": round(peaks["main"] / 2**20, 1),
                "largest_worker_mib": round(peaks["worker"] / 2**20, 1),
                "largest_worker_unshared_mib": round(peaks["own"] / 2**20, 1),
                "all_mib": round(peaks["all"] / 2**20, 1),
                "seconds": round(time.perf_counter() - start, 1),
                **describe_machine("pyarrow", "torch", "clear-hug-hf"),
            }
        )
    return rows


def sample_memory(process: psutil.Process, peaks: dict[str, float]) -> None:
    """Raise the peaks to what a process, the servers that it started and their workers hold now."""
    try:
        main = process.memory_full_info()
        servers = process.children()
        workers = [worker.memory_full_info() for server in servers for worker in server.children()]
        together = sum(memory.pss for memory in (main, *workers, *(server.memory_full_info() for server in servers)))
    except psutil.NoSuchProcess:  # it ended while it was looked at
        return
    peaks["main"] = max(peaks["main"], main.rss)
    peaks["worker"] = max(peaks["worker"], *(worker.rss for worker in workers), 0)
    peaks["own"] = max(peaks["own"], *(worker.uss for worker in workers), 0)
    peaks["all"] = max(peaks["all"], together)


def prepare_some(folders: list[Path], size: int, num_proc: int, output: Path) -> None:
    """Prepare a number of records of all folders, in an order that mixes them."""
    paths = [path for folder in folders for path in find_records(folder)]
    drawn = np.random.default_rng(0).permutation(len(paths))
    paths = [paths[drawn[index % len(drawn)]] for index in range(size)]
    prepare_shards(
        ListedRecords(folders[0], paths),
        output,
        ClearHugFeatureExtractor(),
        num_proc=num_proc,
        shard_size=SHARD_SIZE,
        progress=False,
    )


def main() -> None:
    """Measure and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    speed = [DATA / name for name in ("ludb", "cinc2011", "ptbxl")]
    memory = [*speed, DATA / "challenge"]
    parser.add_argument("--speed", type=Path, nargs="+", default=speed, metavar="DIR", help="folders of records")
    parser.add_argument("--limit", type=int, default=400, help="records of each folder (default: 400)")
    parser.add_argument("--repeats", type=int, default=5, help="passes; the fastest counts (default: 5)")
    parser.add_argument("--memory", type=Path, nargs="+", default=memory, metavar="DIR", help="folders of records")
    parser.add_argument("--sizes", type=int, nargs="+", default=[500, 3000], help="records (default: 500 3000)")
    parser.add_argument("--processes", type=int, default=2, help="of the memory measurement (default: 2)")
    parser.add_argument("--no-memory", action="store_true", help="measure speed only")
    parser.add_argument("--prepare", type=int, help=argparse.SUPPRESS)
    parser.add_argument(
        "--output", type=Path, default=REPOSITORY / "benchmarks" / "results", help="folder of the CSVs"
    )
    arguments = parser.parse_args()
    if arguments.prepare:
        prepare_some(arguments.memory, arguments.prepare, arguments.processes, arguments.output)
        return

    rows = measure_speed(arguments.speed, arguments.limit, arguments.repeats)
    print(f"{'source':10s}{'pipeline':14s}{'part':9s}{'ms/record':>10s}{'share':>8s}")
    for row in rows:
        print(
            f"{row['source']:10s}{row['pipeline']:14s}{row['part']:9s}{row['ms_per_record']:10.3f}{row['share']:8.1%}"
        )
    write_csv(arguments.output / "prepare_dataset.csv", rows)
    if not arguments.no_memory:
        rows = measure_memory(arguments.memory, arguments.sizes, arguments.processes)
        for row in rows:
            own = row["largest_worker_unshared_mib"]
            print(
                f"{row['records']} records: main {row['main_mib']} MiB, largest worker "
                f"{row['largest_worker_mib']} MiB ({own} its own), all {row['all_mib']} MiB"
            )
        write_csv(arguments.output / "prepare_dataset_memory.csv", rows)
    print(f"written: {arguments.output}")


if __name__ == "__main__":
    main()
