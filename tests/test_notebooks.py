"""The demo; the notebooks, which run on what it writes or on real recordings; and what is committed of them."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import datasets
import matplotlib
import matplotlib.pyplot as plt
import nbformat
import numpy as np
import pandas as pd
import pytest
from IPython.core.displayhook import DisplayHook
from IPython.core.displaypub import CapturingDisplayPublisher
from IPython.core.interactiveshell import InteractiveShell
from nbclient import NotebookClient
from traitlets import Type
from traitlets.config import Config
from transformers.utils import logging

from clear_hug_hf import STANDARD_LEADS
from clear_hug_hf.cli import main
from clear_hug_hf.data import simulation
from clear_hug_hf.data.records import Recording
from clear_hug_hf.training import folders
from clear_hug_hf.training.folders import shipped_models


NOTEBOOKS = sorted((Path(__file__).resolve().parents[1] / "notebooks").glob("*.ipynb"))
FOLDER = "CLEAR_HUG_RECORDINGS"
MOST_CELLS, MOST_BYTES = 14, 600_000
MACHINE_PATHS = re.compile(r"/(?:tmp|home|work|root)\b")

each_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


@pytest.fixture(scope="module")
def quick_simulation() -> Iterator[None]:
    """Pulses in place of the dynamical model, which has tests of its own and would take most of the time."""

    def simulate_leads(heart_rate: float, ai: np.ndarray, **_: Any) -> pd.DataFrame:
        seconds = np.arange(15 * simulation.SAMPLING_RATE) / simulation.SAMPLING_RATE
        since = seconds % (60 / heart_rate) - 0.3
        shape = np.exp(-0.5 * (since / 0.012) ** 2) + np.sign(ai[4]) * 0.3 * np.exp(-0.5 * ((since - 0.2) / 0.04) ** 2)
        return pd.DataFrame(dict.fromkeys(STANDARD_LEADS, shape))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(simulation, "_simulate_leads", simulate_leads)
        patch.setattr(os, "cpu_count", lambda: 1)  # other processes would not know
        yield


@pytest.fixture(scope="module")
def simulated_demo(quick_simulation: None, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The output folder of a small demo without data, and what was printed."""
    output, printed = tmp_path_factory.mktemp("clone") / "demo", io.StringIO()
    with contextlib.redirect_stdout(printed):
        assert main(["demo", "--output-dir", str(output), "--num-patients", "16", "--num-train-epochs", "1"]) == 0
    return output, printed.getvalue()


@pytest.fixture(scope="module")
def clone(simulated_demo: tuple[Path, str]) -> Path:
    """A folder with the notebooks and a small `demo` beside them, as `make demo` leaves a clone."""
    folder = simulated_demo[0].parent
    shutil.copytree(NOTEBOOKS[0].parent, folder / "notebooks")
    return folder


def test_when_the_demo_runs_then_everything_is_there(simulated_demo: tuple[Path, str]) -> None:
    output, printed = simulated_demo
    assert "randomly initialized" in printed
    assert f"clear-hug predict YOUR_RECORD.hea --model {output}" in printed
    metrics = json.loads((output / "metrics.json").read_text())
    assert metrics["data"]["title"] == "Simulated recordings of clear_hug_hf"
    assert metrics["data"]["sets"] == {
        "train": {"recordings": 24, "patients": 8},
        "validation": {"recordings": 12, "patients": 4},
        "test": {"recordings": 12, "patients": 4},
    }
    pretraining = json.loads((output / "pretrained" / "pretraining.json").read_text())
    assert metrics["encoder"]["pretraining.json"] == pretraining
    assert (output / "model" / "model.safetensors").is_file()
    assert (output / "pretrained" / "model" / "model.safetensors").is_file()
    assert (output / "pictures" / "group_activations.png").is_file()


def test_when_recordings_are_simulated_then_the_shipped_classifiers_do_not_see_them(
    simulated_demo: tuple[Path, str],
) -> None:
    output, printed = simulated_demo
    shipped = {*shipped_models()}
    assert shipped
    assert not shipped & {path.stem for path in (output / "pictures").iterdir()}
    assert not [name for name in shipped if name in printed]
    assert "only predict real recordings: clear-hug demo --data FOLDER" in printed


def test_when_the_demo_reads_records_without_labels_then_it_pretrains_and_shows_the_shipped_weights(
    tmp_path: Path,
    make_recordings: Callable[..., list[Recording]],
    write_record: Callable[[Path, Recording], Path],
    monkeypatch: pytest.MonkeyPatch,
    printed_by: Callable[..., str],
) -> None:
    name = "clear-hug-small-ptbxl-super"
    (tmp_path / "shipped").mkdir()
    (tmp_path / "shipped" / name).symlink_to(folders.SHIPPED / name)
    monkeypatch.setattr(folders, "SHIPPED", tmp_path / "shipped")
    ward, output = tmp_path / "ward", tmp_path / "run"
    for recording in make_recordings(10):
        write_record(ward / recording.record_id, recording)
    printed = printed_by("demo", "--data", ward, "--output-dir", output, "--num-train-epochs", "1")
    assert f"{name} on test recording " in printed
    assert (output / "pictures" / f"{name}.png").is_file()
    data = json.loads((output / "pretrained" / "pretraining.json").read_text())["data"][0]
    assert {split: one["recordings"] for split, one in data["sets"].items()} == {
        "train": 7,
        "validation": 1,
        "test": 2,
    }
    assert f"{ward} has no labels, so nothing was fine-tuned" in printed
    assert f"clear-hug prepare {ward} --labels" in printed
    assert not (output / "metrics.json").exists()


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
                    source = re.sub(r"num_train_epochs=\d+", "num_train_epochs=2", cell.source)
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
    path: Path, clone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(FOLDER, raising=False)
    assert _has_picture(_run_here(clone / "notebooks" / path.name, tmp_path, monkeypatch))


@each_notebook
def test_when_a_folder_of_recordings_is_named_then_a_notebook_reads_it_with_shipped_weights(
    path: Path, ptbxl_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a demo beside it, so that nothing but the folder and the shipped weights can be read."""
    (tmp_path / "notebooks").mkdir()
    shutil.copy(path, tmp_path / "notebooks")
    (tmp_path / "model_cards").symlink_to(path.parents[1] / "model_cards")
    monkeypatch.setenv(FOLDER, str(ptbxl_folder))
    run = _run_in_a_kernel if path == NOTEBOOKS[0] else _run_here
    outputs = run(tmp_path / "notebooks" / path.name, tmp_path, monkeypatch)
    assert _has_picture(outputs)
    assert "simulated" not in json.dumps([output.get("data", {}).get("text/plain") for output in outputs])


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
def test_when_a_notebook_is_committed_then_nothing_in_it_reveals_the_machine(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    assert not [cell.metadata for cell in notebook.cells if "execution" in cell.metadata]
    assert notebook.metadata.kernelspec.name == "python3"
    for output in _outputs(notebook):
        # Letters of a picture may spell anything.
        output.get("data", {}).pop("image/png", None)
    assert not MACHINE_PATHS.findall(json.dumps(notebook))
