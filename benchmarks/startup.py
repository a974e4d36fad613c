"""
The time to import the package and to print the help of the command line.

    python benchmarks/startup.py
    python benchmarks/startup.py --baseline-checkout ../before   # and another checkout of the repository

Each command runs in a process of its own: one run to warm up, then `--runs` runs of all commands in turn. `import` is
the time in the import of the package alone, as `python -X importtime` reports it; `large_libraries` are those that are
imported when the command has finished. The verbs are those that `clear-hug --help` lists.

Writes `benchmarks/results/startup.csv`: medians, with the fastest and the slowest run.
"""

from __future__ import annotations

import argparse
import os
import re
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

from machine import REPOSITORY, describe_machine, write_csv


LARGE_LIBRARIES = ("accelerate", "datasets", "matplotlib", "numpy", "pandas", "scipy", "torch", "transformers")
# Of each line of `-X importtime`: the cumulative time [us], and the module with an indent of two for each level.
_IMPORT = re.compile(r"^import time: +\d+ \| +(\d+) \| ( *)([\w.]+)$", re.MULTILINE)
_VERB = re.compile(r"^ {2,4}([a-z]+)(?: |$)", re.MULTILINE)


class Command(NamedTuple):
    """What is measured: `words` follow `python`, in a checkout."""

    name: str
    words: tuple[str, ...]
    checkout: Path = REPOSITORY
    module: str = ""

    def run(self, *options: str) -> tuple[float, subprocess.CompletedProcess[str]]:
        """Seconds, and what was printed."""
        environment = {**os.environ, "PYTHONPATH": str(self.checkout)}
        command = [sys.executable, *options, *self.words]
        started = time.perf_counter()
        done = subprocess.run(command, cwd=self.checkout, env=environment, capture_output=True, text=True, check=True)
        return time.perf_counter() - started, done


def commands(checkout: Path) -> list[Command]:
    """The import of the package, and the help of all verbs, in a checkout."""
    line = ("-m", "clear_hug_hf.cli")
    overview = Command("clear-hug --help", (*line, "--help"), checkout, "clear_hug_hf")
    listed = overview.run()[1].stdout.partition("verbs:")[2].partition("\n\n")[0]
    package = Command("import clear_hug_hf", ("-c", "import clear_hug_hf"), checkout, "clear_hug_hf")
    verbs = [
        Command(f"clear-hug {verb} --help", (*line, verb, "--help"), checkout, "clear_hug_hf")
        for verb in _VERB.findall(listed)
    ]
    return [package, overview, *verbs]


def measure_imports(command: Command) -> tuple[float | None, list[str]]:
    """Seconds in the import of the command's module, and the large libraries that the command imported."""
    printed = command.run("-X", "importtime")[1].stderr
    imports = [(int(time), name) for time, _, name in _IMPORT.findall(printed)]
    libraries = sorted({name for _, name in imports} & set(LARGE_LIBRARIES))
    seconds = next((time / 1e6 for time, name in imports if name == command.module), None)
    return seconds, libraries


def commit(checkout: Path) -> str:
    """The commit of a checkout, with a plus if files have changed since."""

    def git(*words: str) -> str:
        return subprocess.run(
            ["git", "-C", checkout, *words], capture_output=True, text=True, check=True
        ).stdout.strip()

    changed = git("status", "--porcelain", "--untracked-files=no", "clear_hug_hf")
    return git("rev-parse", "--short", "HEAD") + ("+" if changed else "")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5, help="of each command (default: %(default)s)")
    parser.add_argument("--baseline-checkout", type=Path, metavar="DIR", help="measure this checkout, too")
    parser.add_argument("--output", type=Path, default=REPOSITORY / "benchmarks" / "results" / "startup.csv")
    options = parser.parse_args()

    checkouts = [REPOSITORY, *([options.baseline_checkout.resolve()] if options.baseline_checkout else [])]
    measured = [Command("pass", ("-c", "pass")), Command("import transformers", ("-c", "import transformers"))]
    measured = [command._replace(module=command.name.partition(" ")[2]) for command in measured]
    measured += [command for checkout in checkouts for command in commands(checkout)]
    imports = {command: measure_imports(command) for command in measured}  # which also warms up
    seconds: dict[Command, list[float]] = {command: [] for command in measured}
    for _ in range(options.runs):
        for command in measured:
            seconds[command].append(command.run()[0])

    machine = describe_machine("torch", "transformers", "datasets")
    commits = {checkout: commit(checkout) for checkout in checkouts}
    rows = []
    for command in measured:
        in_import, libraries = imports[command]
        rows.append(
            {
                "measured": command.name,
                "commit": commits[command.checkout] if command.module == "clear_hug_hf" else "",
                "seconds": f"{statistics.median(seconds[command]):.3f}",
                "fastest": f"{min(seconds[command]):.3f}",
                "slowest": f"{max(seconds[command]):.3f}",
                "import_seconds": "" if in_import is None else f"{in_import:.3f}",
                "large_libraries": " ".join(libraries),
                "runs": options.runs,
                **machine,
            }
        )
        print(f"{command.name:28s} {rows[-1]['commit']:10s} {rows[-1]['seconds']} s  {rows[-1]['large_libraries']}")
    write_csv(options.output, rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())
