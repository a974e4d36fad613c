"""
Install a wheel with its core dependencies alone, outside the checkout, and predict with a shipped model.

    python scripts/check_wheel.py dist/*.whl   # `make wheel` builds the wheel and checks it
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
import venv
import zipfile
from pathlib import Path


CHECKOUT = Path(__file__).resolve().parents[1]
PACKAGE, CARDS = "clear_hug_hf", "model_cards"
MODEL = "clear-hug-small-ptbxl-super"

# Pulses at 60 per minute in all leads, with noise.
WRITE_RECORD = """
import numpy
import wfdb

time = numpy.arange(5000)[:, None] / 500
heights = numpy.array([0.8, 1.2, 0.4, -1.0, 0.2, 0.8, -0.5, -0.2, 0.4, 1.0, 1.2, 1.0])
beats = sum(numpy.exp(-(((time - second - 0.5) / 0.012) ** 2)) for second in range(10))
noise = numpy.random.default_rng(0).normal(scale=0.02, size=(5000, 12))
names = ["I", "II", "III", "aVR", "aVL", "aVF", "V1", "V2", "V3", "V4", "V5", "V6"]
wfdb.wrsamp("record", fs=500, units=["mV"] * 12, sig_name=names, p_signal=beats * heights + noise, fmt=["16"] * 12)
"""
PIPELINE = f"""
import clear_hug_hf
from transformers import pipeline

assert "site-packages" in clear_hug_hf.__file__, clear_hug_hf.__file__
for label in pipeline("ecg-classification", model=str(clear_hug_hf.shipped_model("{MODEL}")))("record"):
    print(f"{{label['label']}}: {{label['score']:.3f}}")
"""


def check_files(wheel: Path) -> None:
    """Refuse a wheel that lacks a file of the package or of a shipped model, or holds others."""
    listed = subprocess.run(
        ["git", "ls-files", PACKAGE, f"{CARDS}/*/*"], cwd=CHECKOUT, check=True, capture_output=True, text=True
    ).stdout.split()
    expected = {f"{PACKAGE}/{name}" if name.startswith(CARDS) else name for name in listed} - {f"{PACKAGE}/{CARDS}"}
    with zipfile.ZipFile(wheel) as archive:
        packed = {name for name in archive.namelist() if ".dist-info/" not in name}
    if packed != expected:
        sys.exit(f"{wheel}: missing {sorted(expected - packed)}, unexpected {sorted(packed - expected)}")
    print(f"{wheel.name}: {len(packed)} files, {wheel.stat().st_size / 1e6:.1f} MB")


def main() -> None:
    """Check the wheel that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("wheel", type=Path)
    wheel = parser.parse_args().wheel.resolve()
    check_files(wheel)
    constraints = CHECKOUT / "constraints.txt"
    (torch,) = re.findall(r"^torch==.*$", constraints.read_text(encoding="utf-8"), re.MULTILINE)
    with tempfile.TemporaryDirectory() as folder:
        scripts = Path(folder) / "environment" / "bin"
        environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}

        def run(*words: str | Path, status: int = 0) -> str:
            print("$", Path(words[0]).name, *("CODE" if "\n" in str(word) else word for word in words[1:]), flush=True)
            words = (scripts / words[0], *words[1:])
            done = subprocess.run(words, cwd=folder, env=environment, text=True, capture_output=True)
            print(done.stdout, done.stderr, sep="", flush=True)
            if done.returncode != status:
                sys.exit(f"exit status {done.returncode}, where {status} was expected")
            return done.stdout + done.stderr

        def expect(pattern: str, text: str) -> None:
            if not re.search(pattern, text):
                sys.exit(f"the output does not hold {pattern!r}")

        venv.create(scripts.parent, with_pip=True)
        pip = ("pip", "--quiet", "--disable-pip-version-check")
        run(*pip, "install", torch)
        run(*pip, "install", "--constraint", constraints, wheel)
        run("pip", "list", "--disable-pip-version-check")
        environment["HF_HUB_OFFLINE"] = "1"
        expect(r"\bpredict\b", run("clear-hug", "--help"))
        run("python", "-c", WRITE_RECORD)
        expect(r"%  NORM\b", run("clear-hug", "predict", "record", "--model", MODEL))
        expect(r"NORM: 0\.\d", run("python", "-c", PIPELINE))
        refused = run("clear-hug", "embed", "record", "--model", MODEL, "--output", "vectors.parquet", status=2)
        expect(r"needs pyarrow, which is not installed: pip install 'clear-hug-hf\[embed\]'", refused)


if __name__ == "__main__":
    main()
