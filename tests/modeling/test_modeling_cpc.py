"""Contrastive predictive coding: its loss against a plain loop, and that no recording depends on another."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from clear_hug_hf import EcgCpcConfig, EcgFounderConfig, EcgS4Config
from clear_hug_hf.modeling.configuration_cpc import CpcConfig
from clear_hug_hf.modeling.losses_cpc import contrast_future_tokens, draw_negatives
from clear_hug_hf.modeling.modeling_cpc import CpcForPreTraining


SIZES = {"hidden_size": 16, "num_hidden_layers": 2, "kernel_length": 60, "hidden_dropout_prob": 0.0}
small_backbone = partial(EcgS4Config, **SIZES)
BACKBONES = {
    "diagonal": small_backbone(),
    "nplr": small_backbone(kernel_type="nplr", stem_norm="batch"),
    "released": EcgCpcConfig(**SIZES),
}
LENGTHS = torch.tensor([60, 40, 9, 3])


def make_model(backbone: Any = BACKBONES["diagonal"]) -> CpcForPreTraining:
    torch.manual_seed(0)
    model = CpcForPreTraining(CpcConfig(backbone_config=backbone, num_negatives=8, initializer_range=0.2))
    return model.train()


def make_batch(backbone: Any = BACKBONES["diagonal"]) -> dict[str, torch.Tensor]:
    """Recordings of 60, 40, 9 and 3 tokens; the last one ends before the first prediction."""
    every = 2 if isinstance(backbone, EcgCpcConfig) else 1  # which reads a mask of tokens
    present = torch.arange(120) < 2 * LENGTHS[:, None]
    signals = torch.randn(4, 12, 120, generator=torch.Generator().manual_seed(1))
    return {
        "input_values": signals * present[:, None],
        "attention_mask": present[:, ::every],
        "seeds": torch.tensor([5, -7, 5, 0]),
    }


def gradients(model: CpcForPreTraining, *parts: slice) -> dict[str, torch.Tensor]:
    """Gradients of the losses of parts of the batch, weighted as the training loop does."""
    model.zero_grad()
    outputs = [model(**{name: values[part] for name, values in make_batch().items()}) for part in parts]
    total = sum(output.loss_weight for output in outputs)
    for output in outputs:
        (output.loss * output.loss_weight / total).backward()
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters()}


@pytest.mark.parametrize("backbone", BACKBONES.values(), ids=BACKBONES)
def test_when_the_loss_is_computed_then_it_is_the_mean_cross_entropy_of_the_true_tokens(backbone: Any) -> None:
    model, batch = make_model(backbone), make_batch(backbone)
    with torch.no_grad():
        output = model(**batch)
        features = model.backbone(batch["input_values"], batch["attention_mask"]).extract_features
    losses, hits = [], []
    for row, length in enumerate(LENGTHS.tolist()):
        for place in range(length - 6):
            candidates = torch.cat((torch.tensor([place + 6]), output.negatives[row, place]))
            scores = features[row, candidates] @ output.prediction[row, place]
            losses.append(F.cross_entropy(scores, torch.tensor(0)).item())
            hits.append(float(scores.argmax() == 0))
    assert output.loss_weight == len(losses) == 54 + 34 + 3
    assert output.loss.item() == pytest.approx(sum(losses) / len(losses), rel=1e-5)
    assert output.accuracy.item() == pytest.approx(sum(hits) / len(hits))


def test_when_features_are_all_equal_then_no_prediction_is_a_hit() -> None:
    """A collapsed encoder must not look like a perfect one."""
    same = torch.ones(2, 20, 4)
    losses, _, hits, _ = contrast_future_tokens(same, same, steps=3, num_negatives=7)
    torch.testing.assert_close(losses, torch.full((2, 17), 8.0).log())
    assert not hits.any()


def test_when_negatives_are_drawn_then_they_are_all_recorded_tokens_but_the_true_one() -> None:
    lengths, seeds, true = torch.tensor([30, 12]), torch.tensor([3, 4]), torch.arange(2, 30)
    negatives = draw_negatives(seeds, lengths, true, 1000)
    assert negatives.ne(true[:, None]).all()
    for row, length in enumerate(lengths.tolist()):
        for place in range(length - 2):
            assert {*negatives[row, place].tolist()} == {*range(length)} - {place + 2}
    assert draw_negatives(seeds[1:], lengths[1:], true, 1000).equal(negatives[1:])
    assert not draw_negatives(seeds + 1, lengths, true, 1000).equal(negatives)


def test_when_a_recording_is_in_another_batch_then_its_loss_is_the_same() -> None:
    model, batch = make_model(), make_batch()
    with torch.no_grad():
        alone = [model(**{name: values[row : row + 1] for name, values in batch.items()}) for row in range(4)]
        # Without the other recordings and without padding.
        short = model(batch["input_values"][1:2, :, :80], seeds=batch["seeds"][1:2])
        together = model(**batch)
    torch.testing.assert_close(short.loss, alone[1].loss)
    assert alone[3].loss == alone[3].loss_weight == 0
    expected = sum(output.loss * output.loss_weight for output in alone) / together.loss_weight
    torch.testing.assert_close(together.loss, expected)


@pytest.mark.parametrize("cuts", [(1,), (1, 3), (1, 2, 3)], ids=str)
def test_when_a_batch_is_divided_then_the_gradient_is_the_same(cuts: tuple[int, ...]) -> None:
    model = make_model()
    parts = [slice(*ends) for ends in zip((0, *cuts), (*cuts, 4), strict=True)]
    expected = gradients(model, slice(None))
    assert all(gradient.abs().sum() > 0 for gradient in expected.values())
    for name, gradient in gradients(model, *parts).items():
        torch.testing.assert_close(gradient, expected[name], atol=1e-6, rtol=1e-4, msg=name)


@pytest.mark.parametrize("backbone", [small_backbone(bidirectional=True), EcgFounderConfig.preset("tiny")])
def test_when_a_backbone_has_no_causal_states_then_it_is_refused(backbone: Any) -> None:
    with pytest.raises(ValueError, match=rf"{type(backbone).__name__[:-6]}Model has no such states"):
        CpcForPreTraining(CpcConfig(backbone_config=backbone))


def test_when_recordings_are_too_short_for_a_prediction_then_they_are_refused() -> None:
    model, batch = make_model(), make_batch()
    model.config.prediction_steps = 60
    with pytest.raises(ValueError, match="prediction_steps=60 must be less than the 60 tokens"):
        model(**batch)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"prediction_steps": 0}, "prediction_steps must be at least 1"),
        ({"num_negatives": 10**6}, "num_negatives must be at most 65536"),
    ],
)
def test_when_a_setting_is_out_of_range_then_one_sentence_refuses_it(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CpcConfig(backbone_config=small_backbone(), **fields)
