"""TS-TCC: contexts know no later times, and both contrasts are those of plain loops."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from clear_hug_hf import EcgFounderConfig, EcgJepaConfig
from clear_hug_hf.modeling.configuration_ts_tcc import TsTccConfig
from clear_hug_hf.modeling.modeling_ecg import EcgModelOutput
from clear_hug_hf.modeling.modeling_ts_tcc import TsTccForPreTraining, average_times, future_contrast


BACKBONE = EcgFounderConfig(stem_channels=8, stage_channels=[8, 16], stage_depths=[1, 1], group_size=4)
SIZES = {"num_times": 10, "context_hidden_size": 16, "context_num_hidden_layers": 2, "context_intermediate_size": 16}


def _make(**fields: Any) -> TsTccForPreTraining:
    torch.manual_seed(0)
    config = TsTccConfig(backbone_config=BACKBONE, **{**SIZES, "hidden_dropout_prob": 0.0, **fields})
    return TsTccForPreTraining(config)


def _views(count: int = 4, noise: float = 0.3) -> torch.Tensor:
    """Two similar views of simulated beats of different rates and forms, `(2 * count, 12, 200)`."""
    generator = torch.Generator().manual_seed(0)
    time = torch.arange(200)
    rates, phases = (
        15 + 40 * torch.rand(count, 1, 1, generator=generator),
        torch.rand(count, 1, 1, generator=generator),
    )
    beats = torch.cos(2 * math.pi * (time / rates + phases)).clamp(min=0) ** 4
    shared = beats * torch.randn(count, 12, 1, generator=generator)
    return torch.cat([shared + noise * torch.randn(count, 12, 200, generator=generator) for _ in range(2)])


# Contexts


@torch.no_grad()
def test_when_later_times_change_then_a_context_does_not() -> None:
    model = _make(initializer_range=0.3).eval()
    states = torch.randn(3, 10, 16)
    last = torch.tensor([[0], [4], [9]])
    visible = torch.arange(10) <= last
    contexts = model.context(states, visible)
    hidden = torch.where(visible[..., None], states, 100.0)
    torch.testing.assert_close(model.context(hidden, visible), contexts)
    assert (model.context(states, torch.arange(10) <= last + 1) - contexts).abs().amax(dim=1)[:2].min() > 1e-3
    # As if there were nothing else.
    torch.testing.assert_close(model.context(states[1:2, :5], visible[1:2, :5]), contexts[1:2])


def test_when_last_times_are_drawn_then_by_seed_and_so_that_all_predictions_exist() -> None:
    model, present = _make().train(), torch.ones(400, 10, dtype=torch.bool)
    times = model._draw_times(present, torch.arange(400))
    # Six times for contexts, four for predictions.
    for view in (0, 1):
        assert times[:, view].unique().tolist() == [0, 1, 2, 3, 4, 5]
    assert not times[:, 0].equal(times[:, 1])
    assert model._draw_times(present[:5], torch.arange(395, 400)).equal(times[395:])
    short = torch.arange(10).expand(400, -1) < 7
    assert model._draw_times(short, torch.arange(400)).unique().tolist() == [0, 1, 2]
    assert model.eval()._draw_times(present, None).unique().tolist() == [3]


def test_when_states_are_averaged_then_parts_without_signal_do_not_count() -> None:
    states = torch.randn(2, 40, 6)
    mask = torch.arange(40).expand(2, -1) < torch.tensor([[40], [22]])
    averaged, present = average_times(EcgModelOutput(last_hidden_state=states, token_mask=mask), 10)
    assert present.sum(dim=1).tolist() == [10, 6]
    for row, last in ((0, 40), (1, 22)):
        for time in range(int(present[row].sum())):
            mean = states[row, 4 * time : min(4 * time + 4, last)].mean(dim=0)
            torch.testing.assert_close(averaged[row, time], mean / mean.norm())


# Losses


def _future_loop(predictions: torch.Tensor, futures: torch.Tensor, present: torch.Tensor) -> float:
    losses = []
    for row in range(len(predictions)):
        for step in range(predictions.shape[1]):
            if present[row, step]:
                scores = {
                    other: float(predictions[row, step] @ futures[other, step])
                    for other in range(len(futures))
                    if present[other, step]
                }
                losses.append(math.log(sum(map(math.exp, scores.values()))) - scores[row])
    return sum(losses) / len(losses)


def test_when_futures_are_contrasted_then_the_loss_is_that_of_plain_loops_also_in_parts() -> None:
    generator = torch.Generator().manual_seed(0)
    predictions, futures = (torch.randn(4, 3, 5, generator=generator) for _ in range(2))
    present = torch.ones(4, 3, dtype=torch.bool)
    present[1, 1:] = False
    loss, accuracy = future_contrast(predictions, futures, present)
    assert loss.item() == pytest.approx(_future_loop(predictions, futures, present), rel=1e-5)
    assert future_contrast(100 * futures, futures, present)[1] == 1 > accuracy
    halves = [future_contrast(predictions[first : first + 2], futures, present, first)[0] for first in (0, 2)]
    torch.testing.assert_close((4 * halves[0] + 6 * halves[1]) / 10, loss)


@torch.no_grad()
def test_when_a_loss_is_computed_then_it_is_that_of_plain_loops() -> None:
    model, views, seeds = _make(initializer_range=0.3).eval(), _views(), torch.arange(4)
    output = model(views, seeds=seeds)
    states = [average_times(model.backbone(part), 10)[0] for part in views.chunk(2)]
    times = model._draw_times(torch.ones(4, 10, dtype=torch.bool), seeds)
    temporal, projections = 0.0, []
    for view in (0, 1):
        contexts = torch.cat([model.context(states[view][i : i + 1], _until(times[i, view])) for i in range(4)])
        futures = torch.stack([states[1 - view][i, times[i, view] + 1 : times[i, view] + 5] for i in range(4)])
        predictions = model.predictions(contexts).view(4, 4, 16)
        temporal += _future_loop(predictions, futures, torch.ones(4, 4, dtype=torch.bool))
        projections.append(model.projector(contexts))
    assert output.temporal_loss.item() == pytest.approx(temporal, rel=1e-4)
    vectors = torch.nn.functional.normalize(torch.cat(projections), dim=1)
    contextual = []
    for row in range(8):
        scores = [math.exp(float(vectors[row] @ vectors[other]) / 0.2) for other in range(8)]
        contextual.append(math.log((sum(scores) - scores[row]) / scores[(row + 4) % 8]))
    assert output.contextual_loss.item() == pytest.approx(sum(contextual) / 8, rel=1e-4)
    assert output.loss.item() == pytest.approx(temporal + 0.7 * sum(contextual) / 8, rel=1e-4)
    assert output.loss_weight == 4


def _until(time: torch.Tensor) -> torch.Tensor:
    return (torch.arange(10) <= time)[None]


def test_when_recordings_are_permuted_with_their_seeds_then_the_loss_is_the_same() -> None:
    model, views, seeds, order = _make().train(), _views(), torch.arange(4), torch.tensor([2, 0, 3, 1])
    expected = model(views, seeds=seeds).loss
    permuted = views.view(2, 4, 12, 200)[:, order].flatten(0, 1)
    torch.testing.assert_close(model(permuted, seeds=seeds[order]).loss, expected)
    assert not torch.allclose(model(torch.cat((views[:4], permuted[4:])), seeds=seeds).loss, expected)


def test_when_training_then_every_weight_gets_a_gradient() -> None:
    model = _make().train()
    model(_views(), seeds=torch.arange(4)).loss.backward()
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in model.parameters())


# Refusals


def test_when_the_backbone_has_no_state_for_each_time_then_it_is_refused() -> None:
    config = TsTccConfig(backbone_config=EcgJepaConfig.preset("tiny"))
    with pytest.raises(ValueError, match="requires an encoder with one state for each time"):
        TsTccForPreTraining(config)


def test_when_a_batch_does_not_fit_then_it_is_refused() -> None:
    model = _make()
    with pytest.raises(ValueError, match="two views of each recording"):
        model(_views()[:3])
    with pytest.raises(ValueError, match="num_times=10 exceeds the 5 times that the backbone returns"):
        model(_views()[..., :40])


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"context_num_attention_heads": 3}, "context_hidden_size=16 must be divisible by"),
        ({"prediction_ratio": 0.05}, "less than one time"),
        ({"prediction_ratio": 1.0}, "prediction_ratio must be"),
        ({"projection_sizes": [8, 0]}, "projection_sizes must be positive"),
        ({"temperature": 0.0}, "temperature must be positive"),
    ],
)
def test_when_a_config_is_impossible_then_it_is_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        _make(**fields)
