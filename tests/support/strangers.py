"""Scripts of someone else: in processes of their own, whose libraries read no other environment than theirs."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from forked import Forked


# These read the environment while they are imported, which happened before this process received its own.
FRESH = """
import os
import sys

for name in list(sys.modules):
    if name.partition(".")[0] in ("accelerate", "huggingface_hub", "peft", "transformers"):
        del sys.modules[name]
os.chdir(os.path.dirname(__file__))
"""
ABSENT = """
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "clear_hug_hf":
            raise ImportError("clear_hug_hf is not installed here")


sys.meta_path.insert(0, Refuse())
"""


def run_script(folder: Path, script: str, *arguments: object, environment: Mapping[str, str] = os.environ) -> None:
    """Run a script that must succeed in a folder, which gets the script and what it prints."""
    path = folder / "script.py"
    path.write_text(FRESH + script)
    with Forked(path, *arguments, printed=folder / "printed.txt", environment=environment) as process:
        assert process.wait() == 0, process.printed.read_text()
