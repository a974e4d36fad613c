"""CRT reads three domains, and its pre-training drops what it says. `tests/systems` tests what all models share."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from small_systems import SMALL_SYSTEMS

from clear_hug_hf.modeling.configuration_crt import CrtConfig
from clear_hug_hf.modeling.modeling_crt import (
    CrtForPreTraining,
    CrtModel,
    discrimination_loss,
    matrix_fourier_transform,
    spectrum,
    standardize,
)


small_config = partial(SMALL_SYSTEMS["crt"].config, num_samples=400)
CLASS_PLACES = [0, 21, 32]


def _model(**fields: Any) -> CrtForPreTraining:
    torch.manual_seed(0)
    return CrtForPreTraining(small_config(**fields))


@pytest.fixture
def recordings() -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return 0.3 + torch.randn(3, 12, 400, generator=generator).cumsum(dim=2) * 0.1


# Domains


@pytest.mark.parametrize("scale", ["log", "raw"])
def test_when_a_spectrum_is_computed_then_it_is_that_of_numpy(recordings, scale) -> None:
    recordings[1] -= 5
    magnitude, phase = spectrum(recordings.double(), scale)
    expected = np.fft.fft(recordings.double().numpy())[..., :200]
    wanted = np.log1p(np.abs(expected)) if scale == "log" else np.abs(expected)
    np.testing.assert_allclose(magnitude, wanted, atol=1e-9)
    angle = np.arctan2(expected.imag, expected.real)
    angle[np.abs(expected) <= 1e-3 * np.abs(expected).max(axis=(1, 2), keepdims=True)] = 0
    np.testing.assert_allclose(phase, angle, atol=1e-9)
    assert (angle != 0).mean() > 0.5
    assert phase[1, :, 0].eq(math.pi).all()


@pytest.mark.parametrize("length", [400, 1000, 120, 26])
def test_when_a_spectrum_is_exported_then_matrices_compute_it(length) -> None:
    signals = torch.randn(2, 3, length, generator=torch.Generator().manual_seed(0))
    expected = torch.fft.fft(signals.double())
    real, imaginary = matrix_fourier_transform(signals)
    torch.testing.assert_close(real.double(), expected.real, atol=1e-4, rtol=0)
    torch.testing.assert_close(imaginary.double(), expected.imag, atol=1e-4, rtol=0)


def test_when_a_frequency_is_absent_then_its_phase_is_zero_whatever_rounding_leaves() -> None:
    time = torch.arange(400) / 400
    signals = torch.stack([torch.zeros(400), 2 + torch.cos(2 * math.pi * (7 * time + 0.125))])[None]
    _, phase = spectrum(signals)
    assert phase[0, 0].eq(0).all()
    assert phase[0, 1, 7].item() == pytest.approx(math.pi / 4, abs=1e-4)
    assert phase[0, 1].count_nonzero() == 1


def test_when_leads_and_times_are_missing_then_domains_are_standardized_over_the_others(recordings) -> None:
    present = torch.ones(3, 12, 400, dtype=torch.bool)
    present[1, 5:] = present[2, :, 250:] = False
    values = standardize(recordings, present)
    assert values[~present].eq(0).all()
    for row, mask in zip(values, present, strict=True):
        assert row[mask].mean().item() == pytest.approx(0, abs=1e-5)
        assert row[mask].std().item() == pytest.approx(1, abs=1e-3)


def test_when_the_form_of_the_paper_is_selected_then_domains_are_the_raw_ones(recordings) -> None:
    model = _model(magnitude_scale="raw", standardize_domains=False)
    time, magnitude, phase = model.crt.embeddings.split_patches(recordings, recordings.isfinite())
    expected = torch.fft.fft(recordings)[..., :200]
    assert time[2, 3].equal(recordings[2, :, 60:80])
    torch.testing.assert_close(magnitude[2, 3], expected[2, :, 60:80].abs(), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(phase[2, 0], expected[2, :, :20].angle(), rtol=1e-3, atol=1e-3)


@torch.no_grad()
def test_when_a_patch_is_larger_then_its_token_differs_by_more_than_a_sign(recordings) -> None:
    encoder = _model().crt.embeddings.patch_encoders[0].eval()
    patches = recordings.unflatten(2, (-1, 20)).transpose(1, 2)
    tokens, larger = encoder(patches), encoder(3 * patches)
    assert ((larger - tokens).norm(dim=2) / tokens.norm(dim=2)).min() > 0.1


# Dropped patches


@pytest.mark.parametrize("patch_norm", ["group", "batch"])
@torch.no_grad()
def test_when_patches_are_dropped_then_the_encoder_sees_nothing_of_them(recordings, patch_norm) -> None:
    model = _model(patch_norm=patch_norm, hidden_dropout_prob=0.0)
    domains = model.crt.embeddings.split_patches(recordings, recordings.isfinite())
    kept = torch.tensor([[0, 3, 7, 19]] * 3), torch.tensor([[2, 9]] * 3)
    expected = model.crt.embeddings(domains, kept)
    for patches, visible in zip(domains, (kept[0], kept[1], kept[1]), strict=True):
        hidden = torch.ones(patches.shape[:2], dtype=torch.bool).scatter(1, visible, False)
        patches[hidden] = 1e3
    for one, other in zip(model.crt.embeddings(domains, kept), expected, strict=True):
        assert one.equal(other)
    domains[2][:, 9] = 0
    assert not model.crt.embeddings(domains, kept)[0].equal(expected[0])


@torch.no_grad()
def test_when_all_patches_are_kept_then_the_encoder_is_the_whole_one(recordings) -> None:
    model = _model().eval().crt
    kept = torch.arange(20).expand(3, -1), torch.arange(10).expand(3, -1)
    whole, kept_all = model(recordings), model(recordings, kept_patches=kept)
    assert kept_all.last_hidden_state.equal(whole.last_hidden_state)
    expected = whole.last_hidden_state[:, CLASS_PLACES].mean(dim=1)
    torch.testing.assert_close(whole.pooler_output, expected)
    assert whole.lead_states.equal(whole.pooler_output[:, None])


def test_when_seeds_are_passed_then_each_recording_has_its_own_patches_in_any_batch(recordings) -> None:
    model, seeds = _model().train(), torch.tensor([5, 8, 5])
    masked = model(recordings, seeds=seeds).bool_masked_pos
    assert masked[0].equal(masked[2])
    assert not masked[0].equal(masked[1])
    assert model(recordings[1:2], seeds=seeds[1:2]).bool_masked_pos.equal(masked[1:2])
    assert model.eval()(recordings, seeds=seeds).bool_masked_pos.sum(dim=1).eq(32).all()
    # The same places of magnitude and phase: 0.3 of 20 and of 10 patches.
    assert masked[:, 20:30].equal(masked[:, 30:])
    assert masked[:, :20].sum(dim=1).eq(6).all()
    assert masked[:, 20:30].sum(dim=1).eq(3).all()


def test_when_training_goes_on_then_more_is_dropped_and_a_checkpoint_continues_with_it(recordings) -> None:
    model = _model().train()
    counts = []
    for progress in (0.0, 0.29, 0.4, 0.7, 0.95, 1.0):
        model.after_optimizer_step(progress)
        counts.append(model(recordings).bool_masked_pos.sum(dim=1).unique().item() / 40)
    assert counts == [0.3, 0.3, 0.4, 0.7, 0.8, 0.8]
    model.after_optimizer_step(0.5)
    resumed = _model().train()
    resumed.load_state_dict(model.state_dict())
    assert resumed(recordings).bool_masked_pos.sum().item() == 3 * 20
    assert "num_dropped" not in model.crt.state_dict()


# Losses


@torch.no_grad()
def test_when_a_loss_is_computed_then_it_is_that_of_plain_loops(recordings) -> None:
    model = _model(discrimination_weight=0.25).eval()
    lead_mask, attention_mask = torch.ones(3, 12, dtype=torch.bool), torch.ones(3, 400, dtype=torch.bool)
    lead_mask[1, 5:] = attention_mask[2, 250:] = False
    output = model(recordings, lead_mask=lead_mask, attention_mask=attention_mask)
    recorded = lead_mask[..., None] & attention_mask[:, None]
    target = torch.cat(model.crt.embeddings.split_patches(recordings, recorded), dim=1)
    differences, errors = (output.prediction - target).tolist(), []
    for row, (num_leads, num_samples) in enumerate([(12, 400), (5, 400), (12, 250)]):
        squares = [
            differences[row][patch][lead][place] ** 2
            for patch in range(40)
            for lead in range(num_leads)
            for place in range(20)
            if patch >= 20 or 20 * patch + place < num_samples
        ]
        errors.append(sum(squares) / len(squares))
    assert output.reconstruction_loss.item() == pytest.approx(sum(errors) / 3, rel=1e-5)
    expected = output.reconstruction_loss + 0.25 * output.discrimination_loss
    torch.testing.assert_close(output.loss, expected)
    assert output.loss_weight == 3


def test_when_tokens_are_discriminated_then_the_loss_is_that_of_plain_loops() -> None:
    generator = torch.Generator().manual_seed(0)
    tokens, states = (torch.randn(2, 5, 4, generator=generator) for _ in range(2))
    for row, loss in enumerate(discrimination_loss(tokens, states)):
        total = sum(
            math.exp(torch.cosine_similarity(tokens[row, first], states[row, second], dim=0).item())
            for first in range(5)
            for second in range(5)
            if first != second
        )
        assert loss.item() == pytest.approx(math.log(total), rel=1e-5)
    present = torch.tensor([[True, True, False, True, False]] * 2)
    torch.testing.assert_close(
        discrimination_loss(tokens, states, present), discrimination_loss(tokens[:, [0, 1, 3]], states[:, [0, 1, 3]])
    )


@torch.no_grad()
def test_when_leads_are_missing_then_their_samples_are_never_read(recordings) -> None:
    model, lead_mask = _model().eval(), torch.ones(3, 12, dtype=torch.bool)
    lead_mask[:, 5:] = False
    zeros = recordings.masked_fill(~lead_mask[..., None], 0)
    garbage = recordings.masked_fill(~lead_mask[..., None], torch.nan)
    assert model(garbage, lead_mask=lead_mask).loss.equal(model(zeros, lead_mask=lead_mask).loss)
    assert model.crt(zeros, lead_mask=torch.zeros(3, 12)).present_leads.logical_not().all()


@torch.no_grad()
def test_when_a_recording_is_short_then_its_missing_patches_are_never_attended_to(recordings) -> None:
    model = _model(initializer_range=0.2).eval()
    attention_mask = torch.arange(400).expand(3, -1) < torch.tensor([[400], [250], [400]])
    output = model.crt(recordings, attention_mask=attention_mask)
    assert output.token_mask.sum(dim=1).tolist() == [43, 36, 43]
    garbage = recordings.masked_fill(~attention_mask[:, None], 9.0)
    assert model(garbage, attention_mask=attention_mask).loss.equal(
        model(recordings, attention_mask=attention_mask).loss
    )
    model.crt.embeddings.position_embeddings[14:21] = 9.0
    moved = model.crt(recordings, attention_mask=attention_mask)
    torch.testing.assert_close(moved.pooler_output[1], output.pooler_output[1])
    assert (moved.pooler_output[0] - output.pooler_output[0]).abs().max() > 1e-2


def test_when_a_decoder_predicts_then_all_its_patches_depend_on_all_visible_ones(recordings) -> None:
    model = _model().eval()
    output = model(recordings, output_hidden_states=True)
    output.hidden_states[-1].retain_grad()
    output.prediction[:, 0].sum().backward()
    assert output.hidden_states[-1].grad.abs().amax(dim=2).gt(0).all()


# Configs


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"num_samples": 420}, "num_samples=420 must be an even number of patches and at least four"),
        ({"num_samples": 40}, "num_samples=40 must be an even number of patches and at least four"),
        ({"hidden_size": 36}, "hidden_size=36 must be divisible by 8"),
        ({"drop_ratio": [0.8, 0.3]}, "drop_ratio must be a lowest and a highest fraction"),
        ({"drop_ratio": [0.5]}, "drop_ratio must be a lowest and a highest fraction"),
        ({"discrimination_weight": -1}, "discrimination_weight must be non-negative"),
    ],
)
def test_when_a_config_is_impossible_then_it_is_refused(fields, message) -> None:
    with pytest.raises(ValueError, match=message):
        small_config(**fields)


def test_when_a_preset_is_built_then_the_base_size_has_the_layers_of_the_paper() -> None:
    config = CrtConfig.preset("base", sampling_rate=500, num_samples=5000)
    assert config.num_patches == (250, 125, 125)
    assert config.stage_channels == (16, 32, 64, 128)
    assert sum(parameter.numel() for parameter in CrtModel(CrtConfig.preset("base")).parameters()) == 2_515_136
