"""
Checkpoints of a pre-training run: whole or absent, rotated, and refused for a run that is not the same.

A checkpoint is written beside the others under a hidden name, flushed to disk, and renamed when it is whole. Whatever
kills the run, the newest folder under its own name can be read. `SHA256SUMS` in it has the digest of every file, as
`sha256sum --check` reads it.
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
        output_dir (`Path`): Folder of the run; the checkpoints are in `checkpoints/` there.
        accelerator ([`Accelerator`]): Saves and loads what it prepared: model and optimiser.
        identity (`dict`): What two runs must share to be the same, as JSON has it; the keys are words for users.
        keep (`int`): Newest checkpoints that are kept.
    """

    def __init__(self, output_dir: Path, accelerator: Accelerator, identity: dict[str, Any], keep: int):
        self.folder = output_dir / FOLDER
        self.accelerator = accelerator
        self.identity = json.loads(json.dumps(identity, default=str))
        self.keep = keep

    def newest(self) -> tuple[Path, dict[str, Any]] | None:
        """
        The newest whole checkpoint and its state.

        Raises:
            InputError: If it belongs to another run, with what differs; if a file is other than it was written; or if
                there are checkpoints and none is whole.
        """
        everything = self._all()
        for path in reversed(everything):
            state = _read(path)
            if state is None:
                continue
            check_sums(path, f"delete {path}, and the same command goes on from the one before it")
            remedy = "choose another output folder, give the settings of that run, or replace it with --restart"
            RunFolder(self.folder.parent, FOLDER, "run", remedy).check_same(state["identity"], self.identity)
            if state["sharded"] != self._sharded:
                raise InputError(
                    f"{path} was written {'with' if state['sharded'] else 'without'} FSDP: launch the run as before"
                )
            return path, state
        if everything:
            raise InputError(f"no checkpoint in {self.folder} is whole: start anew with --restart")
        return None

    @property
    def _sharded(self) -> bool:
        return self.accelerator.distributed_type == DistributedType.FSDP

    def save(self, step: int, state: dict[str, Any]) -> None:
        """
        Write a checkpoint; every process calls this.

        Args:
            step (`int`): Steps done.
            state (`dict`): What the loop must know to go on, as JSON has it.
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
        known = {"step": step, "identity": self.identity, "files": files, "sharded": self._sharded}
        (partial / _STATE).write_text(json.dumps({**known, **state}), encoding="utf-8")
        write_sums(partial)
        final = self.folder / f"{_PREFIX}{step:08d}"
        put_in_place(partial, final)
        # Later ones were damaged, or the run would have gone on from them.
        kept = [path for path in self._all() if path <= final][-self.keep :]
        for path in self._all():
            if path not in kept:
                shutil.rmtree(path, ignore_errors=True)

    def load(self, path: Path) -> None:
        """
        Put the weights and the optimiser's state of a checkpoint back; every process calls this.

        Raises:
            InputError: If the files cannot be read.
        """
        try:
            self.accelerator.load_state(str(path))
        except torch.OutOfMemoryError:
            raise
        except (OSError, RuntimeError, ValueError, KeyError, SafetensorError, pickle.UnpicklingError) as error:
            raise InputError(
                f"the checkpoint {path} cannot be read ({str(error).splitlines()[0]}): delete that folder, and the "
                "same command goes on from the one before it"
            ) from error

    def clean(self, restart: bool) -> None:
        """Remove what killed runs left half written, or everything with `restart`; the main process calls this."""
        for path in self.folder.glob("*" if restart else f"{_PARTIAL}*"):
            shutil.rmtree(path, ignore_errors=True)
        # From here on the folder is known for that of a pre-training run.
        self.folder.mkdir(parents=True, exist_ok=True)

    def _all(self) -> list[Path]:
        return sorted(self.folder.glob(f"{_PREFIX}*")) if self.folder.is_dir() else []


def write_sums(folder: Path) -> None:
    """Write the digest of every file in a folder beside them."""
    write_text(folder / _SUMS, "".join(f"{digest}  {name}\n" for name, digest in _digests(folder).items()))


def check_sums(folder: Path, remedy: str) -> None:
    """
    Refuse a checkpoint of which a file is not what was written. One without digests is of an earlier version.

    Args:
        folder (`Path`): The checkpoint.
        remedy (`str`): What the error tells users to do.

    Raises:
        InputError: If a file differs, is missing, or has no digest; the message names it.
    """
    path = folder / _SUMS
    if not path.is_file():
        return
    lines = path.read_bytes().decode(errors="replace").splitlines()
    digests = {name: digest for digest, _, name in (line.partition("  ") for line in lines)}
    found = _digests(folder)
    if unlisted := sorted(found.keys() - digests.keys()):
        raise InputError(f"{path} is not what was written (it has no digest of {unlisted[0]}): {remedy}")
    for name, digest in digests.items():
        if name not in found:
            raise InputError(f"{folder / name} is missing: {remedy}")
        if found[name] != digest:
            raise InputError(
                f"{folder / name} is not what was written (its SHA-256 differs), and would change the run without a "
                f"word: {remedy}"
            )


def _digests(folder: Path) -> dict[str, str]:
    """Digests of all files but hidden ones, which file managers add."""
    found = folder_digests(folder)
    return {name: one for name, one in found.items() if name != _SUMS and not Path(name).name.startswith(".")}


def _read(folder: Path) -> dict[str, Any] | None:
    """The state of a checkpoint, or `None` if a file is missing or of another size than it was written."""
    try:
        state: dict[str, Any] = json.loads((folder / _STATE).read_text(encoding="utf-8"))
        if any((folder / name).stat().st_size != size for name, size in state["files"].items()):
            return None
    except (OSError, ValueError, KeyError):
        return None
    return state
