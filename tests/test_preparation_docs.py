"""What the guide to preparation shows works, from top to bottom."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from clear_hug_hf.cli import main
from clear_hug_hf.data.records import Recording


GUIDE = Path(__file__).resolve().parents[1] / "docs" / "preparation.md"
BLOCKS = re.findall(r"```(python|bash)\n(.*?)```", GUIDE.read_text(encoding="utf-8"), re.DOTALL)


def test_when_the_guide_is_followed_then_every_step_works(
    make_recordings: Callable[..., list[Recording]],
    write_record: Callable[[Path, Recording], Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    rows = []
    for index, recording in enumerate(make_recordings(20, per_patient=2)):
        path = f"records/{index:04d}"
        write_record(tmp_path / path, replace(recording, labels=None))
        rows.append({"path": path, "patient_id": recording.patient_id, "fast": int(index // 2 % 2 == 0)})
    pd.DataFrame(rows).to_csv("ward.csv", index=False)
    names = {"__name__": "__main__"}
    for number, (language, text) in enumerate(BLOCKS):
        if language == "python":
            exec(compile(text, f"docs/preparation.md, block {number}", "exec"), names)
            continue
        for line in text.splitlines():
            words = shlex.split(line)
            assert words[0] == "clear-hug"
            assert main(words[1:]) == 0, line
    assert (tmp_path / "recording.png").is_file()
    assert (tmp_path / "prepared" / "center" / "manifest.json").is_file()
