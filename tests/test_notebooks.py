"""The notebooks run on what `make demo` writes or on real recordings, and what is committed is fit to be read."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import create_autospec

import datasets
import matplotlib
import matplotlib.pyplot as plt
import nbformat
import pytest
from IPython.core.displayhook import DisplayHook
from IPython.core.displaypub import CapturingDisplayPublisher
from IPython.core.interactiveshell import InteractiveShell
from nbclient import NotebookClient
from traitlets import Type
from traitlets.config import Config
from transformers.utils import logging

from clear_hug_hf.cli import main
from clear_hug_hf.data import simulation
from clear_hug_hf.data.records import Recording


NOTEBOOKS = sorted((Path(__file__).resolve().parents[1] / "notebooks").glob("*.ipynb"))
FOLDER = "CLEAR_HUG_RECORDINGS"
MOST_CELLS, MOST_BYTES = 14, 600_000
MACHINE_PATHS = re.compile(r"/(?:tmp|home|work|root)\b")

each_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


@pytest.fixture(scope="module")
def simulator(make_recordings: Callable[..., list[Recording]]) -> Callable[..., list[Recording]]:
    """
    Stands for `simulate_recordings`, which would take most of the time and which the kernel's notebook runs: pulses
    with labels and splits as the simulator gives them. Four patients make one split.
    """

    def simulate(num_patients: int, recordings_per_patient: int = 1, **_: Any) -> list[Recording]:
        recordings = make_recordings(num_patients, recordings_per_patient, 250.0)
        return [_as_simulated(one, row // recordings_per_patient) for row, one in enumerate(recordings)]

    return create_autospec(simulation.simulate_recordings, side_effect=simulate)


def _as_simulated(recording: Recording, patient: int) -> Recording:
    known = recording.labels or {}
    labels = dict.fromkeys(simulation.SIMULATED_LABELS, 0.0)
    labels["sinus tachycardia" if known["fast"] else "sinus rhythm"] = 1.0
    labels["T wave inversion"] = known["inverted"]
    return replace(recording, labels=labels, split=("train", "train", "validation", "test")[patient // 4])


@pytest.fixture(scope="module")
def clone(simulator: Callable[..., list[Recording]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the notebooks and a small `demo` beside them, as `make demo` leaves a clone."""
    folder = tmp_path_factory.mktemp("clone")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(simulation, "simulate_recordings", simulator)
        assert main(["demo", "--output", str(folder / "demo"), "--patients", "16", "--epochs", "1"]) == 0
    shutil.copytree(NOTEBOOKS[0].parent, folder / "notebooks")
    return folder


def _outputs(notebook: Any) -> list[Any]:
    return [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]


def _has_picture(outputs: list[Any]) -> bool:
    return any("image/png" in output.get("data", {}) for output in outputs)


def test_when_notebooks_are_listed_then_all_three_are_there() -> None:
    assert [path.name[:3] for path in NOTEBOOKS] == ["01_", "02_", "03_"]


class _KeptResults(DisplayHook):
    """Keeps what cells end with among what they draw, as front ends do."""

    def write_format_data(self, format_dict: dict[str, Any], md_dict: dict[str, Any] | None = None) -> None:
        self.shell.display_pub.publish(format_dict, md_dict)


class _Shell(InteractiveShell):
    """Runs cells in this process and keeps what they show."""

    displayhook_class = Type(_KeptResults)
    display_pub_class = Type(CapturingDisplayPublisher)

    def enable_gui(self, gui: str | None = None) -> None:
        """No pictures are shown in windows."""


def _run_here(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What the notebook shows, run in its folder by this process, which has imported everything already."""
    monkeypatch.chdir(path.parent)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    backend, verbosity = matplotlib.get_backend(), logging.get_verbosity()
    shell = _Shell.instance(config=Config(HistoryManager=Config(enabled=False)))
    try:
        with plt.rc_context():
            for cell in nbformat.read(path, as_version=4).cells:
                if cell.cell_type == "code":
                    # Two epochs show as well as more that training works and is drawn.
                    source = re.sub(r"epochs=\d+", "epochs=2", cell.source)
                    shell.run_cell(source, store_history=True).raise_error()
        return shell.display_pub.outputs
    finally:
        # The other tests of this process find it as it was.
        shell.enable_matplotlib(backend)
        shell.reset(new_session=False)
        shell.restore_sys_module_state()
        _Shell.clear_instance()
        logging.set_verbosity(verbosity)
        logging.enable_progress_bar()
        datasets.enable_progress_bars()


def _run_in_a_kernel(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What the notebook shows, run in its folder by a kernel as Jupyter starts one."""
    # The kernel gets these: no download, no more threads than the other tests' share, nothing left in the user's home.
    for name, value in {
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
        "HF_HOME": str(tmp_path / "hf"),
        "IPYTHONDIR": str(tmp_path / "ipython"),
        "JUPYTER_RUNTIME_DIR": str(tmp_path / "runtime"),
    }.items():
        monkeypatch.setenv(name, value)
    notebook = nbformat.read(path, as_version=4)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    client = NotebookClient(
        notebook, timeout=None, kernel_name="python3", resources={"metadata": {"path": str(path.parent)}}
    )
    client.execute()  # raises what a cell raises
    assert all(cell.execution_count for cell in notebook.cells if cell.cell_type == "code")
    return _outputs(notebook)


@each_notebook
def test_when_a_notebook_runs_beside_a_demo_then_no_cell_fails_and_it_draws(
    path: Path,
    clone: Path,
    simulator: Callable[..., list[Recording]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv(FOLDER, raising=False)
    monkeypatch.setattr(simulation, "simulate_recordings", simulator)
    run = _run_in_a_kernel if path == NOTEBOOKS[0] else _run_here
    assert _has_picture(run(clone / "notebooks" / path.name, tmp_path, monkeypatch))


@each_notebook
def test_when_a_folder_of_recordings_is_named_then_a_notebook_reads_it_with_shipped_weights(
    path: Path, ptbxl_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a demo beside it, so that nothing but the folder and the shipped weights can be read."""
    (tmp_path / "notebooks").mkdir()
    shutil.copy(path, tmp_path / "notebooks")
    (tmp_path / "model_cards").symlink_to(path.parents[1] / "model_cards")
    monkeypatch.setenv(FOLDER, str(ptbxl_folder))
    outputs = _run_here(tmp_path / "notebooks" / path.name, tmp_path, monkeypatch)
    assert _has_picture(outputs)
    assert "simulated" not in json.dumps([output["data"].get("text/plain") for output in outputs])


@each_notebook
def test_when_a_notebook_is_committed_then_it_is_short_and_its_outputs_are_those_of_a_whole_run(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert len(notebook.cells) <= MOST_CELLS
    assert '"../demo/' in code[0].source
    assert f'os.environ.get("{FOLDER}")' in code[0].source
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    assert {output.output_type for output in _outputs(notebook)} <= {"display_data", "execute_result", "stream"}
    assert not [output.text for output in _outputs(notebook) if output.get("name") == "stderr"]
    assert _has_picture(_outputs(notebook))
    assert path.stat().st_size < MOST_BYTES


@each_notebook
def test_when_a_notebook_is_committed_then_nothing_in_it_tells_of_the_machine(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    assert not [cell.metadata for cell in notebook.cells if "execution" in cell.metadata]
    assert notebook.metadata.kernelspec.name == "python3"
    for output in _outputs(notebook):
        # Letters of a picture may spell anything.
        output.get("data", {}).pop("image/png", None)
    assert not MACHINE_PATHS.findall(json.dumps(notebook))
