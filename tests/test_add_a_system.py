"""The page on adding a system, executed: its files as an installed package, its commands, and what is published."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

from clear_hug_hf import Recording


ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "add_a_system.md").read_text(encoding="utf-8")
FILES = dict(re.findall(r'```python title="(\S+)"\n(.*?)```', PAGE, re.DOTALL))
COMMANDS = re.findall(r"^clear-hug (.*)$", PAGE, re.MULTILINE)
PYTHON = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
TOML = tomllib.loads(re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL)[0])


def test_when_a_stranger_adds_a_system_then_every_verb_takes_it(
    tmp_path: Path,
    make_recordings: Callable[..., list[Recording]],
    write_record: Callable[[Path, Recording], Path],
) -> None:
    own = {Path(name).name: code for name, code in FILES.items() if not name.endswith("__init__.py")}
    assert len(own) == 3
    assert sum(len(code.splitlines()) for code in own.values()) < 120
    site = _install(tmp_path / "site")
    table = ["path,patient_id,stemi"]
    for number, recording in enumerate(make_recordings(40)):
        write_record(tmp_path / "ward" / f"{number:04d}", recording)
        table.append(f"ward/{number:04d},p{number},{(recording.labels or {})['fast']:g}")
    (tmp_path / "ward.csv").write_text("\n".join(table) + "\n")
    commands = [f"assert main(shlex.split({command!r})) == 0, {command!r}" for command in COMMANDS]
    code = ["import shlex, toy_ecg", "from clear_hug_hf.cli import main", *commands, *PYTHON]
    printed = _run(code, tmp_path, site)
    assert (tmp_path / "runs" / "pretrained" / "pictures" / "pretraining_loss.png").is_file()
    card = (tmp_path / "staged" / "README.md").read_text()
    assert "A Toy classifier with" in card
    assert "**Pre-training** without labels: Toy, tiny size, 3 epochs" in card
    published = {path.name for path in (tmp_path / "staged").glob("*.py")}
    assert published >= own.keys()
    # The same where only this package is installed, with the code in the folder.
    bare = [code.replace('"staged"', '"staged", trust_remote_code=True') for code in PYTHON]
    assert _run(bare, tmp_path).splitlines()[-1] == printed.splitlines()[-1]


def _run(code: list[str], folder: Path, *sites: Path) -> str:
    """What lines of Python print in a process of their own."""
    paths = os.pathsep.join(map(str, (*sites, ROOT)))
    done = subprocess.run(
        [sys.executable, "-c", "\n".join(code)],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": paths, "HF_HOME": str(folder / "cache")},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def _install(site: Path) -> Path:
    """The package of the page as pip leaves it."""
    project = TOML["project"]
    for name, code in FILES.items():
        (site / name).parent.mkdir(parents=True, exist_ok=True)
        (site / name).write_text(code)
    info = site / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n")
    groups = project["entry-points"]
    lines = [
        line for group, names in groups.items() for line in (f"[{group}]", *(f"{k} = {v}" for k, v in names.items()))
    ]
    (info / "entry_points.txt").write_text("\n".join(lines) + "\n")
    return site
