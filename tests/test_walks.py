"""CONTRIBUTING.md lists the files that calls pass as they pass them."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path


ROOT = Path(__file__).resolve().parents[1]


def test_when_calls_are_followed_then_they_pass_the_files_that_contributing_lists() -> None:
    command = [sys.executable, ROOT / "benchmarks" / "walks.py"]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    passed = dict(re.findall(r"From (.+?): \d+ files\n((?:    .+\n)+)", printed))
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    listed = re.findall(r"\*\*From ([^`]+?)\*\*, (\d+) files.*?```text\n(.*?)```", text, re.DOTALL)
    assert {name: files.split() for name, files in passed.items()} == {
        name: re.findall(r"[\w/]+\.py", files) for name, _, files in listed
    }
    assert [len(files.split()) for files in passed.values()] == [int(count) for _, count, _ in listed]
