"""The plain forms that `benchmarks/ecg_jepa_speed.py` times compute what the models compute."""

from __future__ import annotations

import csv
import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import set_seed

from clear_hug_hf import EcgJepaConfig, EcgJepaForPreTraining
from clear_hug_hf.modeling.fast_ops import CrossPattern
from clear_hug_hf.modeling.modeling_ecg import eager_attention_forward
from clear_hug_hf.modeling.modeling_ecg_jepa import cross_pattern


BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"
LEADS, TIMES = 8, 10


@pytest.fixture(scope="module")
def speed() -> Iterator[Any]:
    """The script as a module. It imports its neighbor `machine` by name."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(BENCHMARKS))
        spec = importlib.util.spec_from_file_location("ecg_jepa_speed", BENCHMARKS / "ecg_jepa_speed.py")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        patch.setitem(sys.modules, spec.name, module)  # where its dataclasses look for their types
        spec.loader.exec_module(module)
        yield module


@pytest.fixture
def model() -> EcgJepaForPreTraining:
    """A teacher that is not its student, and weights that make attention uneven."""
    set_seed(0)
    config = EcgJepaConfig.preset("tiny", num_samples=50 * TIMES, initializer_range=0.1)
    model = EcgJepaForPreTraining(config).train()
    with torch.no_grad():
        for weight in model.teacher.parameters():
            weight.add_(0.02 * torch.randn_like(weight))
    return model


@pytest.fixture
def recordings() -> torch.Tensor:
    return torch.randn(3, LEADS, 50 * TIMES, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def hidden() -> torch.Tensor:
    hidden = torch.zeros(TIMES, dtype=torch.bool)
    hidden[[0, 3, 4, 9]] = True
    return hidden


@pytest.mark.parametrize("shape", [(8, 10), (3, 7), (1, 4), (4, 1)])
def test_when_the_mask_is_written_in_slices_then_it_is_the_cross_pattern(speed: Any, shape: tuple[int, int]) -> None:
    tokens = shape[0] * shape[1]
    assert speed.written_mask(*shape).bool().equal(cross_pattern(*shape).reshape(tokens, tokens))


def test_when_attention_is_plain_then_it_is_that_of_all_other_forms(speed: Any) -> None:
    generator = torch.Generator().manual_seed(0)
    given = [torch.randn(2, 4, LEADS * TIMES, 12, generator=generator) for _ in range(3)]
    allowed = cross_pattern(LEADS, TIMES).reshape(1, 1, LEADS * TIMES, LEADS * TIMES)
    plain, weights = speed.plain_attention_forward(None, *given, speed.written_mask(LEADS, TIMES), 0.5)
    eager, expected = eager_attention_forward(None, *given, allowed, 0.5)
    torch.testing.assert_close(plain, eager, atol=1e-5, rtol=0)
    torch.testing.assert_close(weights, expected, atol=1e-5, rtol=0)
    factorised = CrossPattern(LEADS).attend(SimpleNamespace(scaling=0.5), *given)
    torch.testing.assert_close(plain, factorised, atol=1e-5, rtol=0)


@pytest.mark.parametrize("attention_form", ["dense", "sparse"])
def test_when_the_encoder_is_plain_then_its_states_are_those_of_the_model(
    speed: Any, model: EcgJepaForPreTraining, recordings: torch.Tensor, hidden: torch.Tensor, attention_form: str
) -> None:
    encoder, visible = model.ecg_jepa, (~hidden).nonzero()[:, 0]
    whole = encoder(recordings, attention_form=attention_form).last_hidden_state
    part = encoder(recordings, kept_times=visible, attention_form=attention_form).last_hidden_state
    model.set_attn_implementation("plain")
    torch.testing.assert_close(speed.plain_encoder(encoder, recordings), whole, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(speed.plain_encoder(encoder, recordings, ~hidden), part, atol=1e-5, rtol=1e-5)


def test_when_a_step_is_plain_then_loss_and_gradients_are_those_of_the_model(
    speed: Any, model: EcgJepaForPreTraining, recordings: torch.Tensor, hidden: torch.Tensor
) -> None:
    loss = model(recordings, bool_masked_pos=hidden).loss
    loss.backward()
    expected = {name: one.grad.clone() for name, one in model.named_parameters() if one.grad is not None}
    model.zero_grad()
    model.set_attn_implementation("plain")
    plain = speed.plain_loss(model, recordings, hidden)
    plain.backward()
    torch.testing.assert_close(plain, loss, atol=1e-6, rtol=1e-6)
    found = {name: one.grad for name, one in model.named_parameters() if one.grad is not None}
    assert found.keys() == expected.keys()
    for name, gradient in found.items():
        torch.testing.assert_close(gradient, expected[name], atol=1e-6, rtol=1e-4, msg=name)


def test_when_the_teacher_follows_tensor_by_tensor_then_it_comes_as_far(
    speed: Any, model: EcgJepaForPreTraining
) -> None:
    before = {name: one.clone() for name, one in model.teacher.state_dict().items()}
    model.after_optimizer_step(0.5)
    together = {name: one.clone() for name, one in model.teacher.state_dict().items()}
    model.teacher.load_state_dict(before)
    speed.plain_follow(model.teacher, model.ecg_jepa, 0.99)  # half way from 0.98 to 1
    for name, one in model.teacher.state_dict().items():
        torch.testing.assert_close(one, together[name], atol=1e-7, rtol=1e-6)
    assert not together["norm.weight"].equal(before["norm.weight"])


def test_when_forms_differ_then_they_are_not_timed(speed: Any, model: EcgJepaForPreTraining) -> None:
    forms = {
        "plain": speed.Form(lambda: (torch.tensor([1.0, 2.0]),)),
        "wrong": speed.Form(lambda: (torch.tensor([1.0, 2.001]),)),
    }
    with pytest.raises(AssertionError, match="something, wrong"):
        speed.check_forms(speed.Case("something", 1, 1, forms), model)


def test_when_run_quickly_then_every_case_is_timed(
    speed: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output, threads = tmp_path / "speed.csv", torch.get_num_threads()
    command = ["ecg_jepa_speed.py", "--quick", "--batch-size", "2", "--output", str(output)]
    monkeypatch.setattr(sys, "argv", command)
    try:
        speed.main()
    finally:
        torch.set_num_threads(threads)
    with output.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert {row["form"] for row in rows if row["what"] == "pre-training step"} == {"plain", "factorised", "auto"}
    for row in rows:
        assert 0 < float(row["fastest"]) <= float(row["seconds"]) <= float(row["slowest"])
        # Kept is what a backward pass needs, where there is one.
        assert bool(row["saved_mib"]) == ("backward" in row["what"] or "step" in row["what"])
