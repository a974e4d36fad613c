"""The direct forms that `benchmarks/s4_convolution.py` times compute what the layers of ECG-CPC compute."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from clear_hug_hf.modeling.configuration_ecg_cpc import EcgCpcConfig
from clear_hug_hf.modeling.modeling_ecg_cpc import EcgCpcModel


SCRIPT = Path(__file__).parents[1] / "benchmarks" / "s4_convolution.py"


@pytest.fixture
def script() -> Iterator[Any]:
    """The script as a module. It imports its neighbor `machine` by name."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(SCRIPT.parent))
        spec = importlib.util.spec_from_file_location("s4_convolution", SCRIPT)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        yield module


def test_when_forms_are_timed_then_their_numbers_are_those_of_the_layer(script: Any) -> None:
    torch.manual_seed(0)
    model: Any = EcgCpcModel(EcgCpcConfig.preset("tiny", hidden_size=16, kernel_length=300)).eval()
    with torch.no_grad():
        for (_, _, num_tokens), forms in script.make_cases(model.layers[0].s4, quick=False).items():
            if num_tokens <= 1200:
                first, second = (run() for run in forms.values())
                torch.testing.assert_close(first, second, atol=1e-4, rtol=1e-4)


def test_when_the_script_runs_quickly_then_a_row_is_written_for_each_form(
    script: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["s4_convolution.py", "--quick", "--output", str(tmp_path / "rows.csv")])
    threads = torch.get_num_threads()
    try:
        script.main()
    finally:
        torch.set_num_threads(threads)
    header, *rows = (tmp_path / "rows.csv").read_text().splitlines()
    assert [row.split(",")[:2] for row in rows] == [
        ["convolution", "direct"],
        ["convolution", "layer"],
        ["kernel", "recurrence"],
        ["kernel", "layer"],
    ]
    assert {"cpu", "versions", "date", "command"} < set(header.split(","))
