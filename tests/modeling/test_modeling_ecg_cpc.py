"""ECG-CPC: the released layers, its kernels against the recurrence, and what follows from causality."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from released import Released
from torch.nn import functional as F

from clear_hug_hf.hub.convert_ecg_cpc import convert_ecg_cpc_state_dict
from clear_hug_hf.modeling import modeling_ecg_s4
from clear_hug_hf.modeling.configuration_ecg_cpc import EcgCpcConfig
from clear_hug_hf.modeling.modeling_ecg_cpc import (
    EcgCpcForPreTraining,
    EcgCpcForSequenceClassification,
    EcgCpcModel,
)
from clear_hug_hf.modeling.modeling_ecg_s4 import NplrKernel, fast_length, legendre_system
from clear_hug_hf.training.finetuning import parameter_depths


small_config = partial(EcgCpcConfig, hidden_size=16, num_hidden_layers=2, kernel_length=60, num_negatives=8)
TOLERANCE = 5e-5


@pytest.fixture
def model() -> EcgCpcModel:
    torch.manual_seed(0)
    model = EcgCpcModel(small_config()).eval()
    with torch.no_grad():
        for convolution in model.convolutions:
            convolution.norm.running_mean.normal_()
            convolution.norm.running_var.uniform_(0.5, 2)
    return model


@pytest.fixture(scope="module")
def released(shared: Path) -> Released:
    return Released(shared / "parity" / "official_ecg_cpc_small.safetensors")


@pytest.fixture(scope="module")
def converted(released: Released) -> EcgCpcForPreTraining:
    return convert_ecg_cpc_state_dict(released.part("model"), num_negatives=16)


# Parity


@pytest.mark.parametrize("case", ["random", "mv500", "nu100", "shorter", "longer"])
def test_when_weights_are_released_then_states_are_those_of_the_released_layers(
    released: Released, converted: EcgCpcForPreTraining, case: str
) -> None:
    inputs = released.tensors[f"input.values_{case}"]
    for _ in range(2):  # a kernel of another length leaves no trace
        with torch.no_grad():
            output = converted(inputs, output_hidden_states=True)
            states = converted.ecg_cpc(inputs)
        actual = {
            "last_hidden_state": output.hidden_states[-1],
            "predicted": output.prediction,
            "pooled": states.pooler_output,
            "encoded": states.extract_features,
            "layer0": output.hidden_states[1],
            "layer1": output.hidden_states[2],
        }
        names = [name for name in actual if f"expected.{name}_{case}" in released.tensors]
        assert "last_hidden_state" in names
        for name in names:
            released.check(f"{name}_{case}", actual[name], TOLERANCE)


@pytest.mark.parametrize("index", [0, 1])
def test_when_weights_are_released_then_kernels_and_layers_are_the_released_ones(
    released: Released, converted: EcgCpcForPreTraining, index: int
) -> None:
    layer = converted.ecg_cpc.layers[index].s4
    with torch.no_grad():
        released.check(f"kernel_layer{index}", layer.kernel(300).float(), TOLERANCE)
        before = released.tensors["expected.layer0_random" if index else "expected.encoded_random"]
        released.check(f"s4_out{index}_random", layer(before), TOLERANCE)
        if not index:
            kernel: Any = layer.kernel
            outputs = kernel._complex("output_weights")
            doubled = outputs + kernel._times_power(outputs, kernel._power(300))
            released.check("C_doubled_layer0", torch.view_as_real(doubled).float(), 1e-4)


def test_when_negatives_are_given_then_loss_and_accuracy_are_the_released_ones(
    released: Released, converted: EcgCpcForPreTraining
) -> None:
    drawn = released.tensors["input.negative_draws"].transpose(0, 1)
    negatives = drawn + (drawn >= torch.arange(14, 300)[:, None])
    with torch.no_grad():
        output = converted(released.tensors["input.values_random"], negatives=negatives)
    torch.testing.assert_close(output.loss, released.tensors["expected.loss"], rtol=1e-6, atol=0)
    released.check("accuracy", output.accuracy, 1e-6)


# Kernels


def recurrence(kernel: NplrKernel, num_tokens: int, num_solved: int) -> torch.Tensor:
    """The kernels `(D, num_tokens)` step by step, from output weights that are stored for `num_solved` tokens."""
    eigenvalues, left, right, inputs, outputs = (
        torch.cat((pairs, pairs.conj()), dim=1)
        for pairs in (
            torch.view_as_complex(getattr(kernel, name).detach().double())
            for name in ("eigenvalues", "left", "right", "input_weights", "output_weights")
        )
    )
    step = kernel.log_step.double().exp()[:, None, None]
    matrix = torch.diag_embed(eigenvalues) - left[:, :, None] * right[:, None]
    identity = torch.eye(matrix.shape[1], dtype=matrix.dtype)
    backward = torch.linalg.inv(identity - step / 2 * matrix)
    state_matrix = backward @ (identity + step / 2 * matrix)
    outputs = outputs[:, None] @ torch.linalg.inv(identity - torch.linalg.matrix_power(state_matrix, num_solved))
    states = backward @ (step * inputs[..., None])
    values = []
    for _ in range(num_tokens):
        values.append((outputs @ states)[:, 0, 0].real)
        states = state_matrix @ states
    return torch.stack(values, dim=1)


@pytest.mark.parametrize("num_tokens", [1, 7, 59, 60, 61, 200])
@pytest.mark.parametrize("state_size", [2, 8])
def test_when_a_kernel_has_any_length_then_it_is_that_of_the_recurrence(num_tokens: int, state_size: int) -> None:
    torch.manual_seed(1)
    kernel: Any = EcgCpcModel(small_config(state_size=state_size)).layers[0].s4.kernel
    expected = recurrence(kernel, num_tokens, 60)
    for _ in range(2):  # it keeps no state
        torch.testing.assert_close(kernel(num_tokens).detach(), expected, atol=1e-9, rtol=1e-9)


def test_when_states_are_convolved_then_they_are_those_of_the_recurrence(model: EcgCpcModel) -> None:
    layer: Any = model.layers[0].s4
    states = torch.randn(2, 90, 16)
    kernel = recurrence(layer.kernel, 90, 60).float()
    expected = torch.stack(
        [sum(kernel[:, back] * states[:, time - back] for back in range(time + 1)) for time in range(90)], dim=1
    )
    with torch.no_grad():
        torch.testing.assert_close(layer.convolve(states), expected, atol=1e-4, rtol=1e-4)


def test_when_a_model_is_new_then_its_systems_are_those_of_the_legendre_measure(model: EcgCpcModel) -> None:
    frequencies = [19.8574, 5.3542, 1.9578, 0.4275]
    kernel: Any = model.layers[0].s4.kernel
    torch.testing.assert_close(kernel.eigenvalues[3, :, 0], torch.full((4,), -0.5))
    torch.testing.assert_close(kernel.eigenvalues[3, :, 1], torch.tensor(frequencies), atol=1e-4, rtol=0)
    # Back in the original basis it is the matrix of the formula.
    system = legendre_system(4)
    eigenvalues, left, right = (
        torch.cat((system[name], system[name].conj())) for name in ("eigenvalues", "left", "right")
    )
    matrix = torch.diag(eigenvalues) - left[:, None] * right
    weights = torch.arange(1.0, 16, 2, dtype=torch.float64).sqrt()
    formula = -(weights[:, None] * weights).tril(-1) - torch.diag(torch.arange(1.0, 9, dtype=torch.float64))
    for power in range(1, 9):
        traces = [torch.linalg.matrix_power(one, power).trace().real for one in (matrix, formula)]
        torch.testing.assert_close(*traces)
    steps = kernel.log_step.exp()
    torch.testing.assert_close(steps[[0, -1]], torch.tensor([0.001, 0.1]))
    torch.testing.assert_close(steps[1:] / steps[:-1], torch.full((15,), 100 ** (1 / 15)))


def test_when_in_evaluation_then_the_kernel_is_computed_once_until_weights_change(
    model: EcgCpcModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []
    compute = NplrKernel.forward
    monkeypatch.setattr(NplrKernel, "forward", lambda self, count: (calls.append(count), compute(self, count))[1])

    inputs = torch.randn(1, 12, 100)

    def run(num_samples: int = 100) -> tuple[torch.Tensor, int]:
        calls.clear()
        with torch.no_grad():
            return model(inputs[..., :num_samples]).last_hidden_state, len(calls)

    first, count = run()
    assert count == 2
    for _ in range(2):
        again, count = run()
        assert count == 0
        assert again.equal(first)
    # Several lengths are kept, but not all that there ever were.
    monkeypatch.setattr(modeling_ecg_s4, "MAX_KEPT_NUMBERS", 16 * (51 + 31 + 15))
    assert [run(number)[1] for number in (60, 100, 60, 30, 100, 100, 60)] == [2, 0, 0, 2, 2, 0, 2]
    assert run()[0].equal(first)
    # The latest is kept in any case.
    monkeypatch.setattr(modeling_ecg_s4, "MAX_KEPT_NUMBERS", 0)
    assert [run(number)[1] for number in (40, 40, 20, 20, 40)] == [2, 0, 2, 0, 2]
    kernel: Any = model.layers[0].s4.kernel
    changes: list[Callable[[], Any]] = [
        lambda: kernel.output_weights.mul_(1.5),
        lambda: model.load_state_dict({name: tensor / 2 for name, tensor in model.state_dict().items()}),
        lambda: setattr(kernel, "output_weights", torch.nn.Parameter(kernel.output_weights * 3)),
        lambda: setattr(kernel.output_weights, "data", kernel.output_weights * 2),
        lambda: model.train().eval(),
    ]
    for change in changes:
        with torch.no_grad():
            change()
        changed, count = run()
        assert count >= 1
        with torch.no_grad():
            assert changed.equal(copy.deepcopy(model)(inputs).last_hidden_state)


def test_when_gradients_are_computed_then_each_call_has_its_own_kernel(model: EcgCpcModel) -> None:
    inputs = torch.randn(1, 12, 60)
    for _ in range(2):
        model(inputs).pooler_output.square().sum().backward()
    assert model.layers[0].s4.kernel.output_weights.grad.abs().sum() > 0


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_when_a_model_is_in_half_precision_then_its_systems_stay_in_float32(
    tmp_path: Path, model: EcgCpcModel, dtype: torch.dtype
) -> None:
    exact = {name: tensor.clone() for name, tensor in model.state_dict().items() if ".kernel." in name}
    assert len(exact) == 12
    inputs = torch.randn(2, 12, 90)
    with torch.no_grad():
        expected = model(inputs).last_hidden_state

    def check(other: EcgCpcModel) -> None:
        for name, tensor in other.state_dict().items():
            assert tensor.dtype in (torch.int64, torch.float32 if name in exact else dtype), name
            assert name not in exact or tensor.equal(exact[name])
        with torch.no_grad():
            states = other(inputs).last_hidden_state
        assert states.dtype == dtype
        torch.testing.assert_close(states.float(), expected, atol=0.15, rtol=0.05)

    check(copy.deepcopy(model).to(dtype))
    model.save_pretrained(tmp_path / "exact")
    loaded = EcgCpcModel.from_pretrained(tmp_path / "exact", dtype=dtype)
    check(loaded)
    loaded.save_pretrained(tmp_path / "half")
    check(EcgCpcModel.from_pretrained(tmp_path / "half"))


# Time and batch


@pytest.mark.parametrize("start", [1, 40, 41, 80])
def test_when_samples_change_then_no_earlier_token_does(model: EcgCpcModel, start: int) -> None:
    first = torch.randn(1, 12, 160)
    second = first.clone()
    second[..., start:] += 1
    with torch.no_grad():
        change = (model(first).last_hidden_state - model(second).last_hidden_state).abs().amax(dim=2)[0]
    token = start // 2
    assert change[:token].max().item() < 1e-5 if token else True
    assert change[token:].min() > 1e-3


@pytest.mark.parametrize("num_samples", [1, 2, 99, 100, 241])
def test_when_recordings_have_any_length_then_padding_and_batches_change_nothing(
    model: EcgCpcModel, num_samples: int
) -> None:
    recordings = [torch.randn(12, num_samples), torch.randn(12, 250)]
    padded = torch.stack([F.pad(entry, (0, 250 - entry.shape[1])) for entry in recordings])
    lengths = torch.tensor([-(-num_samples // 2), 125])
    attention_mask = torch.arange(125) < lengths[:, None]
    with torch.no_grad():
        together = model(padded, attention_mask)
        for row, recording in enumerate(recordings):
            alone = model(recording[None])
            assert alone.last_hidden_state.shape[1] == lengths[row]
            torch.testing.assert_close(
                together.last_hidden_state[row, : lengths[row]], alone.last_hidden_state[0], atol=2e-5, rtol=0
            )
            torch.testing.assert_close(together.pooler_output[row], alone.pooler_output[0], atol=2e-5, rtol=0)
    assert together.lead_states.equal(together.pooler_output[:, None])


def test_when_training_then_stored_statistics_are_used_unless_those_of_the_batch_are_asked_for() -> None:
    torch.manual_seed(0)
    inputs = torch.randn(4, 12, 60)
    model = EcgCpcModel(small_config(hidden_dropout_prob=0.0))
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    model.train()
    states = model(inputs).last_hidden_state
    assert states.equal(model.eval()(inputs).last_hidden_state)
    assert all(buffer.equal(before[name]) for name, buffer in model.named_buffers())
    released = EcgCpcModel(small_config(hidden_dropout_prob=0.0, use_batch_statistics=True)).train()
    features = released(inputs).extract_features
    norm: Any = released.convolutions[0].norm
    assert norm.num_batches_tracked == 1
    assert features.mean(dim=(0, 1)).std() < 0.3


def test_when_channels_are_dropped_then_they_are_dropped_at_all_times() -> None:
    dropout: Any = EcgCpcModel(small_config(hidden_dropout_prob=0.5)).layers[0].dropout.train()
    dropped = dropout(torch.ones(8, 5, 100))
    assert dropped.eq(dropped[:, :1]).all()
    assert sorted(dropped.unique().tolist()) == [0.0, 2.0]
    assert 0.4 < dropped.eq(0).float().mean() < 0.6


# Pre-training


def make_pretraining_model() -> EcgCpcForPreTraining:
    torch.manual_seed(0)
    return EcgCpcForPreTraining(small_config()).eval()


def test_when_negatives_are_drawn_then_seeds_decide_and_the_true_token_is_never_one() -> None:
    model, inputs = make_pretraining_model(), torch.randn(3, 12, 120)
    attention_mask = torch.arange(60) < torch.tensor([60, 40, 14])[:, None]
    seeds = torch.tensor([5, -7, 5])
    output = model(inputs, attention_mask, seeds=seeds)
    negatives = output.negatives
    assert negatives.shape == (3, 46, 8)
    assert negatives.equal(model(inputs, attention_mask, seeds=seeds).negatives)
    assert model(inputs[1:2], attention_mask[1:2], seeds=seeds[1:2]).negatives.equal(negatives[1:2])
    true = torch.arange(14, 60)[:, None]
    for row, length in enumerate((60, 40)):
        counted = negatives[row, : length - 14]
        assert counted.ne(true[: length - 14]).all()
        assert counted.unique().tolist() == list(range(length))
    # A recording that ends before the first true token has no loss.
    whole = model(inputs[:2], attention_mask[:2], seeds=seeds[:2])
    torch.testing.assert_close(output.loss * 3, whole.loss * 2)
    assert output.loss_weight == 3
    short = model(torch.randn(1, 12, 20))
    assert short.loss == 0
    short.loss.backward()


def test_when_the_loss_is_computed_then_it_is_the_cross_entropy_of_the_true_token() -> None:
    model, inputs = make_pretraining_model(), torch.randn(2, 12, 60)
    with torch.no_grad():
        output = model(inputs)
        features = model.ecg_cpc(inputs).extract_features
    loss, hits = 0.0, 0
    for row in range(2):
        for place in range(16):
            candidates = torch.cat((torch.tensor([place + 14]), output.negatives[row, place]))
            scores = features[row, candidates] @ output.prediction[row, place]
            loss += F.cross_entropy(scores, torch.tensor(0)).item() / 2
            hits += int(scores.argmax() == 0)
    assert output.loss.item() == pytest.approx(loss, rel=1e-5)
    assert output.accuracy.item() == pytest.approx(hits / 32)


# Bad input


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"state_size": 7}, "state_size must be even and at least 2, got 7"),
        ({"kernel_length": 1201}, "kernel_length must be even"),
        ({"kernel_length": 10**9}, "kernel_length must be at most 65536"),
        ({"kernel_length": 65536, "state_size": 1024}, "result in kernels of .* terms, but at most"),
        ({"hidden_size": 10**6}, "parameters"),
        ({"conv_kernel_size": 4}, "conv_kernel_size must be odd, got 4"),
        ({"step_range": [0.1, 0.001]}, "step_range must be a lowest and a highest positive step"),
        ({"hidden_dropout_prob": 1.0}, "hidden_dropout_prob must be at least 0 and below 1"),
    ],
)
def test_when_a_config_is_damaged_then_one_sentence_refuses_it(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        EcgCpcConfig(**fields)


def test_when_inputs_do_not_fit_then_they_are_refused_by_their_names() -> None:
    model, inputs = make_pretraining_model(), torch.randn(2, 12, 60)
    for name, value in (
        ("input_values", inputs[:, :8]),
        ("attention_mask", torch.ones(2, 60)),
        ("negatives", torch.zeros(2, 16, 7, dtype=torch.long)),
        ("seeds", torch.zeros(3, dtype=torch.long)),
    ):
        with pytest.raises(ValueError, match=f"{name} must have shape"):
            model(**{"input_values": inputs, name: value})
    with pytest.raises(TypeError, match="has no input 'lead_mask'"):
        EcgCpcForSequenceClassification(small_config())(inputs, lead_mask=None)


def test_when_a_transform_is_padded_then_its_length_is_even_and_has_small_factors() -> None:
    assert [fast_length(count) for count in (1, 2, 7, 241, 599, 2399)] == [2, 2, 8, 250, 600, 2400]


def test_when_rates_decay_then_convolutions_have_one_and_s4_layers_another(model: EcgCpcModel) -> None:
    depths = parameter_depths(model)
    assert {name.split(".")[0]: depth for name, depth in depths.items()} == {"convolutions": 1, "layers": 0}
    assert {*depths.values()} == {0, 1}
