"""The siamese objectives: one model, whose settings are those of five papers."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from clear_hug_hf import EcgJepaConfig
from clear_hug_hf.modeling.configuration_siamese import SiameseConfig
from clear_hug_hf.modeling.modeling_siamese import SiameseForPreTraining
from clear_hug_hf.training.pretraining import decay_groups


BACKBONE = {
    **{"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16},
    **{"num_samples": 120, "patch_size": 20, "initializer_range": 0.2},
}
MOMENTUM = {"target": "momentum", "ema_start": 0.5, "prediction_sizes": [8, 8]}


def _make(**fields: Any) -> SiameseForPreTraining:
    torch.manual_seed(0)
    sizes = {"projection_sizes": [None, 8], "temperature": 0.5, **fields}
    return SiameseForPreTraining(SiameseConfig(backbone_config=EcgJepaConfig(**BACKBONE), **sizes)).train()


def _views(count: int = 6, seed: int = 0) -> torch.Tensor:
    """Two similar views of each recording `(2, count, 8, 120)`."""
    generator = torch.Generator().manual_seed(seed)
    shared = torch.randn(count, 8, 120, generator=generator)
    return shared + 0.5 * torch.randn(2, count, 8, 120, generator=generator)


def _loss(model: SiameseForPreTraining, views: torch.Tensor, **inputs: Any) -> torch.Tensor:
    loss = model(views.flatten(0, 1), **inputs).loss
    assert loss is not None
    return loss


FORMS: dict[str, dict[str, Any]] = {
    "shared": {},
    "patients": {"contrast": "info_nce", "same_patient": "positive", "projection_norms": ["layer", "none"]},
    "without others of the patient": {"same_patient": "excluded"},
    "detached": {"target": "detached", "contrast": "cosine", "prediction_sizes": [4, 8]},
    "momentum": {**MOMENTUM, "contrast": "info_nce", "loss_scale": 0.4},
}


@pytest.mark.parametrize("form", list(FORMS))
def test_when_views_are_swapped_or_recordings_permuted_then_nothing_changes(form: str) -> None:
    model, views, groups = _make(**FORMS[form]), _views(), torch.tensor([3, 1, 3, 2, 1, 5])
    order = torch.tensor([4, 2, 0, 5, 1, 3])
    expected = _loss(model, views, groups=groups)
    torch.testing.assert_close(_loss(model, views.flip(0), groups=groups), expected)
    torch.testing.assert_close(_loss(model, views[:, order], groups=groups[order]), expected)
    assert not torch.allclose(_loss(model, torch.stack((views[0], views[1, order])), groups=groups), expected)


def test_when_masks_are_passed_then_each_view_gets_its_own() -> None:
    model, views = _make(projection_norms=["none", "none"]), _views(3)
    lead_mask = torch.ones(6, 8, dtype=torch.bool)
    lead_mask[4, 6:] = False  # of the second view of the second recording
    plain, masked = (model(views.flatten(0, 1), **inputs) for inputs in ({}, {"lead_mask": lead_mask}))
    changed = (plain.projections - masked.projections).abs().amax(dim=2) > 1e-4
    assert changed.nonzero().tolist() == [[1, 1]]


@pytest.mark.parametrize("form", ["detached", "momentum"])
def test_when_targets_are_fixed_then_no_gradient_reaches_them(form: str) -> None:
    model = _make(**{**FORMS[form], "contrast": "cosine", "prediction_sizes": None, "loss_scale": 1.0})
    views = _views()
    _loss(model, views).backward()
    fixed = {name: parameter.grad for name, parameter in model.named_parameters()}
    shared = _make(contrast="cosine")
    shared.load_state_dict(model.state_dict(), strict=False)
    _loss(shared, views).backward()
    for name, parameter in shared.named_parameters():
        # The cosine is symmetric: either vector gets half of the gradient. A new momentum network is the student.
        torch.testing.assert_close(2 * fixed[name], parameter.grad, atol=1e-5, rtol=1e-3)
    assert all(grad is None for name, grad in fixed.items() if name.startswith("momentum_"))


def test_when_steps_are_taken_then_the_momentum_network_follows_by_the_formula() -> None:
    model = _make(**MOMENTUM)
    pairs = model.momentum_pairs()
    expected = [parameter.clone() for teacher, _ in pairs for parameter in teacher.parameters()]
    students = [parameter for _, student in pairs for parameter in student.parameters()]
    assert all(old.equal(new) for old, new in zip(expected, students, strict=True))
    for step in range(1, 4):
        with torch.no_grad():
            for parameter in students:
                parameter.add_(0.1 * step)
        model.after_optimizer_step(step / 3)
        momentum = 1 - 0.5 * (math.cos(math.pi * step / 3) + 1) / 2
        expected = [momentum * old + (1 - momentum) * new for old, new in zip(expected, students, strict=True)]
    teachers = [parameter for teacher, _ in pairs for parameter in teacher.parameters()]
    torch.testing.assert_close(teachers, expected)


def test_when_there_is_a_momentum_network_then_it_is_not_optimized_and_only_its_batch_statistics_train() -> None:
    model = _make(**MOMENTUM)
    groups = decay_groups(model, 0.1)
    optimized = {id(parameter) for group in groups for parameter in group["params"]}
    names = {name for name, parameter in model.named_parameters() if id(parameter) not in optimized}
    assert names == {name for name, _ in model.named_parameters() if name.startswith("momentum_")}
    assert {name for name, module in model.momentum_projector.named_modules() if module.training} == {
        "norms.0",
        "norms.1",
    }
    assert not any(module.training for module in model.momentum_backbone.modules())
    assert not any(module.training for module in model.eval().modules())


def test_when_the_encoder_is_constant_then_its_output_shows_it_and_else_it_does_not() -> None:
    views = _views()
    output = _make()(views.flatten(0, 1))
    assert output.pooled_std > 0.1
    assert 1 < output.effective_rank < 11
    assert output.loss_weight == 6
    output = _make()(torch.zeros_like(views.flatten(0, 1)))
    assert output.pooled_std < 1e-5
    assert _make(projection_norms=["none", "none"])(views[[0, 0]].flatten(0, 1)).top1 == 1


def test_when_recordings_cannot_be_compared_then_it_is_refused() -> None:
    with pytest.raises(ValueError, match="two views of each recording"):
        _make()(torch.zeros(3, 8, 120))
    with pytest.raises(ValueError, match="requires the groups"):
        _loss(_make(same_patient="positive"), _views())


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"projection_sizes": []}, "at least one size"),
        ({"projection_sizes": [None, 0]}, "at least one size"),
        ({"projection_norms": ["batch"]}, "for each of 2 layers"),
        ({"projection_norms": ["batch", "group"]}, "must be one of none, batch"),
        ({"prediction_sizes": [4, 9]}, "must end with the size of projections, 8"),
        ({"prediction_norms": ["none"]}, "requires prediction_sizes"),
        ({"projection_sizes": [100_000, 100_000], "target": "detached"}, "at most 2e"),
        ({"ema_start": 0.9, "ema_end": 0.8}, "ascending order"),
        ({"contrast": "triplet"}, "contrast must be one of nt_xent, info_nce, cosine"),
        ({"temperature": 0}, "temperature must be positive"),
    ],
)
def test_when_a_setting_makes_no_sense_then_it_is_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        _make(**fields)


def test_when_a_config_is_saved_then_it_is_loaded_as_it_was() -> None:
    config = _make(**MOMENTUM, prediction_norms=["layer", "none"]).config
    assert SiameseConfig.from_dict(config.to_dict()).to_dict() == config.to_dict()
