"""Residual networks over time: the size of MERL's, lengths and padding, and statistics of batches."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from clear_hug_hf.modeling.configuration_ecg_resnet import EcgResNetConfig
from clear_hug_hf.modeling.modeling_ecg_resnet import EcgResNetForSequenceClassification, EcgResNetModel
from clear_hug_hf.training.pretraining import decay_groups


SMALL: dict[str, Any] = {"embedding_size": 8, "hidden_sizes": [8, 16, 24], "depths": [2, 1, 1]}


def _model(**fields: Any) -> EcgResNetModel:
    """A network whose running statistics are those of a batch."""
    torch.manual_seed(0)
    model = EcgResNetModel(EcgResNetConfig(**{**SMALL, **fields})).train()
    with torch.no_grad():
        model(torch.randn(4, 12, 333))
    return model.eval()


def _signals(count: int = 2, num_samples: int = 240) -> torch.Tensor:
    return torch.randn((count, 12, num_samples), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(("preset", "count", "width"), [("base", 3_848_832, 512), ("tiny", 965_952, 256)])
def test_when_a_preset_is_built_then_its_size_is_that_of_its_description(preset: str, count: int, width: int) -> None:
    with torch.device("meta"):
        model = EcgResNetModel(EcgResNetConfig.preset(preset))
        output = model(torch.empty(2, 12, 1000), output_hidden_states=True)
    assert model.num_parameters() == count
    widths = [model.config.embedding_size, *model.config.hidden_sizes]
    lengths = [500, 500, 250, 125, 63]
    assert [tuple(states.shape) for states in output.hidden_states] == [
        (2, length, channels) for length, channels in zip(lengths, widths, strict=True)
    ]
    assert output.last_hidden_state.shape == (2, 63, width)
    assert output.lead_states.shape == (2, 1, width)


def test_when_the_default_is_computed_step_by_step_then_it_is_an_18_layer_resnet() -> None:
    model = _model(depths=[2, 2, 2])
    weights = model.state_dict()

    def convolve(name: str, states: torch.Tensor, kernel: int, stride: int) -> torch.Tensor:
        assert weights[f"{name}.conv.weight"].shape[2] == kernel
        states = F.conv1d(states, weights[f"{name}.conv.weight"], stride=stride, padding=kernel // 2)
        norm = [weights[f"{name}.norm.{part}"] for part in ("running_mean", "running_var", "weight", "bias")]
        return F.batch_norm(states, *norm)

    states = convolve("stem", _signals(), 7, 2).relu()
    for stage in range(3):
        for block in range(2):
            name, stride = f"stages.{stage}.blocks.{block}", 2 if stage and not block else 1
            shortcut = convolve(f"{name}.shortcut", states, 1, stride) if stage and not block else states
            states = convolve(f"{name}.convolutions.0", states, 3, stride).relu()
            states = (convolve(f"{name}.convolutions.1", states, 3, 1) + shortcut).relu()
    output = model(_signals())
    torch.testing.assert_close(output.last_hidden_state, states.transpose(1, 2))
    torch.testing.assert_close(output.pooler_output, states.mean(dim=2))


@pytest.mark.parametrize("layer_type", ["basic", "bottleneck"])
@pytest.mark.parametrize("recorded", [1, 17, 100, 239, 240])
def test_when_a_recording_is_padded_then_it_gives_the_same_as_without(layer_type: str, recorded: int) -> None:
    model, signals = _model(layer_type=layer_type, downsample_in_first_stage=layer_type == "bottleneck"), _signals()
    mask = torch.arange(240) < torch.tensor([[recorded], [240]])
    output = model(signals, mask)  # what lies behind the mask is never read
    alone = model(signals[:1, :, :recorded])
    length = alone.last_hidden_state.shape[1]
    assert output.token_mask.sum(dim=1).tolist() == [length, output.last_hidden_state.shape[1]]
    torch.testing.assert_close(output.last_hidden_state[:1, :length], alone.last_hidden_state)
    torch.testing.assert_close(output.pooler_output[:1], alone.pooler_output)
    assert not output.last_hidden_state[0, length:].any()


def test_when_leads_are_missing_then_they_are_zero() -> None:
    model, signals = _model(), _signals()
    lead_mask = torch.ones(2, 12, dtype=torch.bool)
    lead_mask[1, 3:9] = False
    zeroed = signals * lead_mask[:, :, None]
    torch.testing.assert_close(model(signals, lead_mask=lead_mask).pooler_output, model(zeroed).pooler_output)
    assert model(signals, lead_mask=lead_mask.zero_()).present_leads.tolist() == [[False], [False]]


def test_when_evaluated_then_a_recording_does_not_depend_on_the_batch_and_when_trained_it_does() -> None:
    model, signals = _model(), _signals(3)
    together = model(signals).pooler_output
    torch.testing.assert_close(model(signals).pooler_output, together, rtol=0, atol=0)
    torch.testing.assert_close(torch.cat([model(one[None]).pooler_output for one in signals]), together)
    model.train()
    assert not torch.allclose(model(signals[:2]).pooler_output, model(signals).pooler_output[:2], atol=1e-3)


def test_when_activations_are_checkpointed_then_a_batch_counts_once_in_the_running_statistics() -> None:
    buffers = []
    for checkpointed in (False, True):
        model = _model().train()
        if checkpointed:
            model.gradient_checkpointing_enable()
        model(_signals()).pooler_output.sum().backward()
        buffers.append(dict(model.named_buffers()))
    for name, buffer in buffers[0].items():
        assert buffer.equal(buffers[1][name]), name


def test_when_a_folder_is_saved_then_running_statistics_travel_with_it(tmp_path: Path) -> None:
    model = _model()
    model.save_pretrained(tmp_path)
    loaded = EcgResNetForSequenceClassification.from_pretrained(tmp_path, num_labels=2)
    buffers = dict(model.named_buffers())
    assert buffers["stem.norm.running_mean"].abs().min() > 0
    assert all(buffer.equal(loaded.get_buffer(f"ecg_resnet.{name}")) for name, buffer in buffers.items())


def test_when_learning_rates_decrease_by_depth_then_stages_are_the_steps_and_norms_do_not_decay() -> None:
    model = _model()
    assert model.depth_groups() == [["stem"], ["stages.0"], ["stages.1"], ["stages.2"]]
    undecayed = {id(one) for group in decay_groups(model, 0.1) if not group["weight_decay"] for one in group["params"]}
    assert undecayed == {id(one) for name, one in model.named_parameters() if ".norm." in name}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"depths": [1, 1]}, r"one positive number per stage, got \[8, 16, 24\] and \[1, 1\]"),
        ({"hidden_sizes": [8, 0, 24]}, "one positive number per stage"),
        ({"hidden_sizes": [8, 18, 24], "layer_type": "bottleneck"}, "must be divisible by 4"),
        ({"depths": [1, 1, 1001]}, "at most 1000 blocks"),
        ({"hidden_sizes": [8, 16, 100_000], "depths": [1, 1, 9]}, "about 5.4e"),
        ({"stem_kernel_size": 8}, "stem_kernel_size must be odd, got 8"),
        ({"hidden_act": "rleu"}, "hidden_act must be one of"),
    ],
)
def test_when_sizes_make_no_network_then_they_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        EcgResNetConfig(**{**SMALL, **fields})
