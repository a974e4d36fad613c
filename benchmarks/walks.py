"""
The files of the package that two calls pass, in order of their first function: from a recording to its logits, and
from recordings to the first loss of their pre-training. The lists of CONTRIBUTING.md are what this prints.

    python benchmarks/walks.py
"""

from __future__ import annotations

import contextlib
import inspect
import io
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import numpy as np
import torch

import clear_hug_hf
from clear_hug_hf import (
    STANDARD_LEADS,
    ClearHugConfig,
    ClearHugFeatureExtractor,
    ClearHugForSequenceClassification,
    EcgClassificationPipeline,
    registration,
)
from clear_hug_hf.cli import main
from clear_hug_hf.data.simulation import simulate_recordings
from clear_hug_hf.processing.lazy_names import lazy_names


PACKAGE = Path(clear_hug_hf.__file__).resolve().parent
IMPORTERS = {"<frozen importlib._bootstrap>", lazy_names.__code__.co_filename, registration.__file__}
"""Files of functions that import modules."""


def walk(call: Callable[[], Any]) -> list[str]:
    """
    The files of the package whose functions a call enters, in order.

    Args:
        call (`Callable`): Runs in this process and thread.
    """
    passed: dict[CodeType, None] = {}
    importing = 0

    def note(frame: FrameType, event: str, _: Any) -> None:
        nonlocal importing
        code = frame.f_code
        # Importing is not passing, with all that modules call. The body of a class is no function, either.
        if code.co_filename in IMPORTERS and event in ("call", "return"):
            importing += 1 if event == "call" else -1
        elif event == "call" and not importing and code.co_flags & inspect.CO_NEWLOCALS:
            passed.setdefault(code)

    sys.setprofile(note)
    try:
        call()
    finally:
        sys.setprofile(None)
    paths = [Path(code.co_filename) for code in passed]
    return list(dict.fromkeys(path.relative_to(PACKAGE).as_posix() for path in paths if path.is_relative_to(PACKAGE)))


def write_records(folder: Path, num_patients: int) -> list[Path]:
    """Simulated recordings, three of each patient, as WFDB records of 16 bits; their headers."""
    folder.mkdir()
    headers = []
    for recording in simulate_recordings(num_patients, recordings_per_patient=3, seed=0):
        digital = np.rint(recording.waveform.T * 1000).astype("<i2")
        name = recording.record_id.replace("/", "_")
        digital.tofile(folder / f"{name}.dat")
        lines = [f"{name} {len(STANDARD_LEADS)} {recording.sampling_rate:g} {len(digital)}"]
        lines += [f"{name}.dat 16 1000/mV 16 0 0 0 0 {lead}" for lead in recording.lead_names]
        headers.append(folder / f"{name}.hea")
        headers[-1].write_text("\n".join(lines) + "\n")
    return headers


def walks() -> dict[str, list[str]]:
    """Both walks, by what they are called."""
    torch.manual_seed(0)
    config = ClearHugConfig.preset("tiny", id2label={0: "NORM", 1: "MI"})
    classify = EcgClassificationPipeline(
        model=ClearHugForSequenceClassification(config), feature_extractor=ClearHugFeatureExtractor()
    )
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        headers = write_records(folder / "records", 2)
        prepared = ["--output-dir", str(folder / "prepared"), "--split-fractions", "1", "0", "0"]
        trained = ["--output-dir", str(folder / "run"), "--num-train-epochs", "1", "--train-batch-size", "4"]
        trained += ["--disable-tqdm"]

        def prepare_and_pretrain() -> None:
            with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
                main(["prepare", str(folder / "records"), *prepared])
                with contextlib.suppress(_Reached):
                    main(["pretrain", "--data", str(folder / "prepared"), *trained])

        paths = {"a recording to its logits": walk(lambda: classify(str(headers[0])))}
        loss = clear_hug_hf.ClearHugForPreTraining.forward
        clear_hug_hf.ClearHugForPreTraining.forward = _stop_after(loss)
        try:
            paths["recordings to the first loss"] = walk(prepare_and_pretrain)
        finally:
            clear_hug_hf.ClearHugForPreTraining.forward = loss
    return paths


class _Reached(BaseException):
    """The loss is there: what follows is another walk."""


def _stop_after(forward: Callable[..., Any]) -> Callable[..., Any]:
    def stopped(*args: Any, **kwargs: Any) -> None:
        forward(*args, **kwargs)
        raise _Reached

    stopped.__signature__ = inspect.signature(forward)  # type: ignore[attr-defined]
    return stopped


if __name__ == "__main__":
    for name, files in walks().items():
        print(f"From {name}: {len(files)} files\n" + "".join(f"    {file}\n" for file in files))
