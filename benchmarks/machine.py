"""What every benchmark writes beside its numbers: machine, versions, date, command."""

from __future__ import annotations

import csv
import datetime
import os
import platform
import shlex
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any


REPOSITORY = Path(__file__).resolve().parents[1]


def describe_machine(*packages: str) -> dict[str, str]:
    """Columns that say where a row was measured: CPU, cores, versions of Python and `packages`, date, command."""
    cpu = platform.processor() or platform.machine()
    cpu_info = Path("/proc/cpuinfo")
    if cpu_info.is_file():
        for line in cpu_info.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                cpu = line.split(":", 1)[1].strip()
                break
    versions = {"python": platform.python_version()}
    for package in ("numpy", *packages):
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = "absent"
    return {
        "cpu": cpu,
        "cores": str(os.cpu_count()),
        "versions": " ".join(f"{name}={number}" for name, number in versions.items()),
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "command": shlex.join(["python", "benchmarks/" + Path(sys.argv[0]).name, *sys.argv[1:]]),
    }


def write_csv(path: Path, rows: list[dict[str, Any]]) -> None:
    """Write rows that share their keys to a CSV file, replacing it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
