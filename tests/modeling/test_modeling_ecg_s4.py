"""S4 models: kernels against the recurrence, and what follows from causality and from their normalization."""

from __future__ import annotations

import copy
from functools import partial
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from clear_hug_hf.modeling.configuration_ecg_cpc import EcgCpcConfig
from clear_hug_hf.modeling.configuration_ecg_s4 import EcgS4Config
from clear_hug_hf.modeling.modeling_ecg_s4 import DiagonalKernel, EcgS4Model
from clear_hug_hf.training.pretraining import decay_groups


small_config = partial(EcgS4Config, hidden_size=16, num_hidden_layers=2, state_size=8, kernel_length=60)
BIDIRECTIONAL = {"bidirectional": True}
FORMS: dict[str, dict[str, Any]] = {
    "diagonal": {},
    "batch": {"stem_norm": "batch"},
    "nplr": {"kernel_type": "nplr"},
    "bidirectional": BIDIRECTIONAL,
}
each_form = pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)


def make_model(**fields: Any) -> EcgS4Model:
    torch.manual_seed(0)
    return EcgS4Model(small_config(**fields)).eval()


def make_kernel(dtype: torch.dtype = torch.float32) -> DiagonalKernel:
    """A kernel whose parameters are away from how they start."""
    torch.manual_seed(0)
    kernel = DiagonalKernel(small_config())
    kernel.initialize()
    for parameter in kernel.parameters():
        parameter.data = (parameter.data + 0.1 * torch.randn_like(parameter)).to(dtype)
    return kernel


# Kernels


def recurrence(kernel: DiagonalKernel, num_tokens: int) -> torch.Tensor:
    """The kernels `(D, num_tokens)` in float64, step by step, with pairs of states as two real ones."""
    decay, frequency = kernel.log_decay.double().exp(), kernel.frequency.double()
    # The last column is the input, which is constant during a step.
    system = torch.zeros((*decay.shape, 3, 3), dtype=torch.float64)
    system[..., 0, 0] = system[..., 1, 1] = -decay
    system[..., 0, 1], system[..., 1, 0] = -frequency, frequency
    system[..., 0, 2] = 1
    step = torch.linalg.matrix_exp(kernel.log_step.double().exp()[:, None, None, None] * system)
    states, values = step[..., :2, 2], []
    outputs = kernel.output_weights.double() * torch.tensor([2.0, -2.0], dtype=torch.float64)
    for _ in range(num_tokens):
        values.append((outputs * states).sum(dim=(1, 2)))
        states = (step[..., :2, :2] @ states[..., None])[..., 0]
    return torch.stack(values, dim=1)


@pytest.mark.parametrize("num_tokens", [1, 2, 500])
def test_when_a_diagonal_kernel_is_computed_then_it_is_that_of_the_recurrence(num_tokens: int) -> None:
    with torch.no_grad():
        exact = make_kernel(torch.float64)
        expected = recurrence(exact, num_tokens)
        torch.testing.assert_close(exact(num_tokens), expected, atol=1e-9, rtol=1e-9)
        single = make_kernel()
        values = single(num_tokens)
        assert values.dtype == torch.float32
        scale = expected.abs().max().item()
        torch.testing.assert_close(values.double(), recurrence(single, num_tokens), atol=2e-6 * scale, rtol=0)


@each_form
@pytest.mark.parametrize("num_tokens", [1, 2, 31, 60])
@pytest.mark.parametrize("exported", [False, True])
def test_when_states_are_convolved_then_it_is_the_sum_over_times(
    form: dict[str, Any], num_tokens: int, exported: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.compiler, "is_exporting", lambda: exported)
    layer: Any = make_model(**form).layers[0].s4
    states = torch.randn(2, num_tokens, 16)
    with torch.no_grad():
        kernel = layer.kernel(num_tokens).float()
        reverse = layer.reverse_kernel(num_tokens).float() if layer.reverse_kernel is not None else 0 * kernel
        actual = layer.convolve(states)
    expected = torch.zeros_like(states)
    for time in range(num_tokens):
        for other in range(num_tokens):
            weights = kernel[:, time - other] if other <= time else reverse[:, other - time]
            expected[:, time] += weights * states[:, other]
    torch.testing.assert_close(actual, expected, atol=2e-5, rtol=1e-4)


def test_when_a_model_is_new_then_its_systems_are_those_of_s4d() -> None:
    torch.manual_seed(0)
    model = EcgS4Model(small_config(hidden_size=64, step_range=[0.01, 0.1]))
    kernel: Any = model.layers[1].s4.kernel
    assert kernel.log_decay.exp().allclose(torch.tensor(0.5))
    assert kernel.frequency[5].allclose(torch.pi * torch.arange(4.0))
    steps = kernel.log_step.exp()
    assert steps.min() >= 0.01
    assert steps.max() <= 0.1
    assert steps.min() < 0.02 < 0.05 < steps.max()
    assert kernel.output_weights.square().sum(dim=2).mean().item() == pytest.approx(1.0, abs=0.2)
    assert not kernel.log_step.equal(model.layers[0].s4.kernel.log_step)
    # S4 trains its systems without weight decay.
    decayed, others = decay_groups(model, 0.1)
    systems = {id(parameter) for layer in model.layers for parameter in layer.s4.kernel.parameters()}
    assert len(systems) == 8
    assert systems <= {id(parameter) for parameter in others["params"]}
    assert len(decayed["params"]) == 4 + 2


@pytest.mark.parametrize("name", ["log_decay", "frequency", "output_weights", "log_step"])
def test_when_a_parameter_of_a_kernel_changes_then_the_states_do(name: str) -> None:
    model, inputs = make_model(), torch.randn(1, 12, 100)
    with torch.no_grad():
        before = model(inputs).last_hidden_state
        assert model(inputs).last_hidden_state.equal(before)
        getattr(model.layers[0].s4.kernel, name).mul_(1.5)
        after = model(inputs).last_hidden_state
        assert not after.equal(before)
        assert after.equal(copy.deepcopy(model)(inputs).last_hidden_state)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_when_precision_is_half_then_kernels_stay_in_float32(dtype: torch.dtype) -> None:
    model, inputs = make_model(**BIDIRECTIONAL), torch.randn(2, 12, 90)
    layer: Any = model.layers[0].s4
    states = torch.randn(2, 45, 16)
    with torch.no_grad():
        kernel, convolved = layer.kernel(45), layer.convolve(states)
        with torch.autocast("cpu", dtype=dtype):
            assert layer.kernel(45).equal(kernel)
            assert layer.convolve(states).equal(convolved)
        expected = model(inputs).last_hidden_state
        half = copy.deepcopy(model).to(dtype)
        for name, parameter in half.named_parameters():
            assert parameter.dtype == (torch.float32 if "kernel." in name else dtype), name
        actual = half(inputs).last_hidden_state
    assert actual.dtype == dtype
    torch.testing.assert_close(actual.float(), expected, atol=0.15, rtol=0.05)


# Time, batch and amplitude


@pytest.mark.parametrize("form", [FORMS["diagonal"], FORMS["nplr"]], ids=["diagonal", "nplr"])
def test_when_samples_change_then_no_earlier_state_does(form: dict[str, Any]) -> None:
    model, first, start = make_model(**form), torch.randn(1, 12, 160), 81
    second = first.clone()
    second[..., start:] += 1
    with torch.no_grad():
        change = (model(first).last_hidden_state - model(second).last_hidden_state).abs().amax(dim=2)[0]
    assert model.has_causal_states
    assert change[: start // 2].max().item() < 1e-5
    assert change[start // 2 :].min().item() > 1e-3


def test_when_a_model_is_bidirectional_then_states_depend_on_later_samples() -> None:
    model, first = make_model(**BIDIRECTIONAL), torch.randn(1, 12, 160)
    second = first.clone()
    second[..., 81:] += 1
    with torch.no_grad():
        change = (model(first).last_hidden_state - model(second).last_hidden_state).abs().amax(dim=2)[0]
    assert not model.has_causal_states
    assert change[30:].min().item() > 1e-3


@each_form
@pytest.mark.parametrize("num_samples", [1, 99, 251])
def test_when_recordings_have_any_length_then_padding_and_batches_change_nothing(
    form: dict[str, Any], num_samples: int
) -> None:
    model = make_model(**form)
    recordings = [torch.randn(12, num_samples), torch.randn(12, 251)]
    padded = torch.stack([F.pad(entry, (0, 251 - entry.shape[1])) for entry in recordings])
    attention_mask = torch.arange(251) < torch.tensor([[num_samples], [251]])
    lengths = torch.tensor([-(-num_samples // 2), 126])
    with torch.no_grad():
        together = model(padded, attention_mask)
        for row, recording in enumerate(recordings):
            alone = model(recording[None])
            states = together.last_hidden_state[row, : lengths[row]]
            torch.testing.assert_close(states, alone.last_hidden_state[0], atol=2e-5, rtol=0)
            torch.testing.assert_close(together.pooler_output[row], alone.pooler_output[0], atol=2e-5, rtol=0)


@each_form
def test_when_a_signal_is_amplified_then_a_new_model_sees_it(form: dict[str, Any]) -> None:
    model, inputs = make_model(**form), torch.randn(1, 12, 100)
    with torch.no_grad():
        first, second = (model(scale * inputs).extract_features for scale in (1, 3))
    assert (first - second).abs().mean() > 0.1


# Bad input


@pytest.mark.parametrize(
    ("config_class", "fields", "message"),
    [
        (EcgS4Config, {"kernel_type": "dense"}, "kernel_type must be one of diagonal, nplr, got 'dense'"),
        (EcgS4Config, {"stem_norm": "group"}, "stem_norm must be one of layer, batch"),
        (EcgS4Config, {"use_batch_statistics": True}, "use_batch_statistics requires stem_norm='batch'"),
        (EcgCpcConfig, {"kernel_type": "diagonal"}, "kernel_type is fixed in the released network"),
    ],
)
def test_when_a_config_contradicts_itself_then_one_sentence_refuses_it(
    config_class: type[EcgS4Config], fields: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        config_class(**fields)
