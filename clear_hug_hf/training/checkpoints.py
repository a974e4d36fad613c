"""
Checkpoints of a pre-training run: atomic, rotated, and only loaded by the same run.

A checkpoint is written under a hidden name, flushed to disk, and renamed when it is complete, so that a kill never
leaves a partial checkpoint under its final name. Its `SHA256SUMS` holds the digest of every file, for
`sha256sum --check`.
"""

from __future__ import annotations

import json
import pickle
import shutil
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType
from safetensors import SafetensorError

from ..processing.errors import InputError
from ..utils.files import RunFolder, folder_digests, put_in_place, write_text


FOLDER = "checkpoints"
_STATE = "training_state.json"
_SUMS = "SHA256SUMS"
_PREFIX = "step-"
_PARTIAL = ".partial-"


class Checkpoints:
    """
    The checkpoints of one run.

    Args:
        output_dir (`Path`): Folder of the run, which holds the checkpoints in `checkpoints/`.
        accelerator ([`Accelerator`]): Saves and loads the model and the optimizer that it prepared.
        identity (`dict`): JSON-serializable facts that are equal for equal runs; error messages contain the keys.
        limit (`int`): Number of checkpoints to keep.
    """

    def __init__(self, output_dir: Path, accelerator: Accelerator, identity: dict[str, Any], limit: int):
        self.folder = output_dir / FOLDER
        self.accelerator = accelerator
        self.identity = json.loads(json.dumps(identity, default=str))
        self.limit = limit

    def newest(self) -> tuple[Path, dict[str, Any]] | None:
        """
        The newest complete checkpoint and its state.

        Raises:
            InputError: If it belongs to another run (the message names the difference), a file was changed, or all
                checkpoints are incomplete.
        """
        paths = self._all()
        for path in reversed(paths):
            state = _read(path)
            if state is None:
                continue
            check_sums(path, f"delete {path} to continue from the previous checkpoint with the same command")
            remedy = "choose another output folder, use the settings of that run, or replace it with --restart"
            RunFolder(self.folder.parent, FOLDER, "run", remedy).check_same(state["identity"], self.identity)
            if state["sharded"] != self._sharded:
                raise InputError(
                    f"{path} was written {'with' if state['sharded'] else 'without'} FSDP: launch the run as before"
                )
            return path, state
        if paths:
            raise InputError(f"all checkpoints in {self.folder} are incomplete: start over with --restart")
        return None

    @property
    def _sharded(self) -> bool:
        return self.accelerator.distributed_type == DistributedType.FSDP

    def save(self, step: int, state: dict[str, Any]) -> None:
        """
        Write a checkpoint; every process calls this.

        Args:
            step (`int`): Number of finished steps.
            state (`dict`): JSON-serializable state of the loop.
        """
        main = self.accelerator.is_main_process
        partial = self.folder / f"{_PARTIAL}{step:08d}"
        if main:
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(parents=True)
        self.accelerator.wait_for_everyone()
        self.accelerator.save_state(str(partial))
        self.accelerator.wait_for_everyone()
        if not main:
            return
        files = {str(p.relative_to(partial)): p.stat().st_size for p in sorted(partial.rglob("*")) if p.is_file()}
        facts = {"step": step, "identity": self.identity, "files": files, "sharded": self._sharded}
        (partial / _STATE).write_text(json.dumps({**facts, **state}), encoding="utf-8")
        write_sums(partial)
        final = self.folder / f"{_PREFIX}{step:08d}"
        put_in_place(partial, final)
        # Later checkpoints are incomplete, since the run did not resume from them.
        newest = [path for path in self._all() if path <= final][-self.limit :]
        for path in self._all():
            if path not in newest:
                shutil.rmtree(path, ignore_errors=True)

    def load(self, path: Path) -> None:
        """
        Load the weights and the state of the optimizer; every process calls this.

        Raises:
            InputError: If the files cannot be read.
        """
        try:
            self.accelerator.load_state(str(path))
        except torch.OutOfMemoryError:
            raise
        except (OSError, RuntimeError, ValueError, KeyError, SafetensorError, pickle.UnpicklingError) as error:
            raise InputError(
                f"the checkpoint {path} cannot be read ({str(error).splitlines()[0]}): delete it to continue from the "
                "previous checkpoint with the same command"
            ) from error

    def clean(self, restart: bool) -> None:
        """Remove partial checkpoints of killed runs, or all with `restart`; the main process calls this."""
        for path in self.folder.glob("*" if restart else f"{_PARTIAL}*"):
            shutil.rmtree(path, ignore_errors=True)
        # Marks the output folder as that of a pre-training run.
        self.folder.mkdir(parents=True, exist_ok=True)

    def _all(self) -> list[Path]:
        return sorted(self.folder.glob(f"{_PREFIX}*")) if self.folder.is_dir() else []


def write_sums(folder: Path) -> None:
    """Write the digests of all files in a folder to its `SHA256SUMS`."""
    write_text(folder / _SUMS, "".join(f"{digest}  {name}\n" for name, digest in _digests(folder).items()))


def check_sums(folder: Path, remedy: str) -> None:
    """
    Check the files of a checkpoint against its digests, if it has any.

    Args:
        folder (`Path`): The checkpoint.
        remedy (`str`): Advice that ends the error message.

    Raises:
        InputError: If a file is changed, is missing, or has no digest; the message names it.
    """
    path = folder / _SUMS
    if not path.is_file():
        return
    lines = path.read_bytes().decode(errors="replace").splitlines()
    digests = {name: digest for digest, _, name in (line.partition("  ") for line in lines)}
    actual = _digests(folder)
    if unlisted := sorted(actual.keys() - digests.keys()):
        raise InputError(f"{path} was changed (it has no digest of {unlisted[0]}): {remedy}")
    for name, digest in digests.items():
        if name not in actual:
            raise InputError(f"{folder / name} is missing: {remedy}")
        if actual[name] != digest:
            raise InputError(
                f"{folder / name} was changed (its SHA-256 differs) and would silently change the run: {remedy}"
            )


def _digests(folder: Path) -> dict[str, str]:
    """Digests of all files except hidden ones, which file managers add."""
    digests = folder_digests(folder)
    return {name: digest for name, digest in digests.items() if name != _SUMS and not Path(name).name.startswith(".")}


def _read(folder: Path) -> dict[str, Any] | None:
    """The state of a checkpoint, or `None` if a file is missing or truncated."""
    try:
        state: dict[str, Any] = json.loads((folder / _STATE).read_text(encoding="utf-8"))
        if any((folder / name).stat().st_size != size for name, size in state["files"].items()):
            return None
    except (OSError, ValueError, KeyError):
        return None
    return state
