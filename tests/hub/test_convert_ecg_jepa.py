"""Released ECG-JEPA weights give the released numbers, and a file that is not one of them is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from released import Released, jepa_tensors
from scipy import signal as scipy_signal

from clear_hug_hf import STANDARD_LEADS
from clear_hug_hf.hub.convert_ecg_jepa import (
    convert_ecg_jepa_checkpoint,
    convert_ecg_jepa_state_dict,
    released_ecg_jepa_feature_extractor,
)
from clear_hug_hf.modeling.configuration_ecg_jepa import EcgJepaConfig
from clear_hug_hf.modeling.modeling_ecg_jepa import EcgJepaForPreTraining, EcgJepaModel, grid_positions
from clear_hug_hf.processing import InputError


FORMS = pytest.mark.parametrize(
    ("implementation", "form"), [("eager", "dense"), ("sdpa", "dense"), ("sdpa", "sparse")]
)


@pytest.fixture(scope="module")
def released(shared: Path) -> Released:
    return Released(shared / "parity" / "official_ecg_jepa_small.safetensors")


def _convert_whole(released: Released) -> EcgJepaForPreTraining:
    whole = {key: one for key, one in released.tensors.items() if not key.startswith(("input.", "expected."))}
    return convert_ecg_jepa_state_dict(whole, num_attention_heads=4, predictor_num_attention_heads=4)


@FORMS
def test_when_the_encoder_is_converted_then_states_agree(released, tmp_path, implementation, form):
    torch.save({"encoder": released.part("encoder"), "epoch": 99}, tmp_path / "multiblock_epoch100.pth")
    model = convert_ecg_jepa_checkpoint(tmp_path / "multiblock_epoch100.pth", num_attention_heads=4)
    assert isinstance(model, EcgJepaModel)
    assert not model.training
    model.set_attn_implementation(implementation)
    with torch.no_grad():
        output = model(released.tensors["input.signals"], attention_form=form)
    released.check("last_hidden_state", output.last_hidden_state)
    released.check("representation", output.pooler_output)


@FORMS
def test_when_the_whole_model_is_converted_then_the_loss_agrees(released, implementation, form):
    model = _convert_whole(released)
    assert isinstance(model, EcgJepaForPreTraining)
    model.set_attn_implementation(implementation)
    signals, hidden = released.tensors["input.signals"], released.tensors["input.time_mask"]
    with torch.no_grad():
        for mask in (hidden, hidden.expand(len(signals), -1)):
            released.check("loss", model(signals, bool_masked_pos=mask, attention_form=form).loss)
        released.check("representation", model.ecg_jepa(signals, attention_form=form).pooler_output)
    assert not any(parameter.requires_grad for parameter in model.teacher.parameters())


def test_when_anything_of_the_recipe_is_left_out_then_the_numbers_do_not_agree(released):
    expected = released.tensors["expected.representation"]
    for change in ({"attention_pattern": "full"}, {"position_injection": "first_layer"}, {"hidden_act": "relu"}):
        model = convert_ecg_jepa_state_dict(released.part("encoder"), num_attention_heads=4, **change)
        with torch.no_grad():
            gap = (model(released.tensors["input.signals"]).pooler_output - expected).abs().max()
        assert gap > 1e-3, change


def test_when_weights_are_converted_then_sizes_come_from_the_shapes(released):
    config, metadata = _convert_whole(released).config, released.metadata
    assert config.hidden_size == int(metadata["encoder_embed_dim"])
    assert config.num_hidden_layers == int(metadata["encoder_depth"])
    assert config.predictor_hidden_size == int(metadata["predictor_embed_dim"])
    assert config.predictor_num_hidden_layers == int(metadata["predictor_depth"])
    assert config.intermediate_size == 4 * config.hidden_size
    assert config.predictor_intermediate_size == 4 * config.predictor_hidden_size
    assert (config.num_samples, config.patch_size, config.num_leads) == (2500, 50, 8)


@pytest.mark.parametrize("part", ["encoder", "target_encoder", "predictor"])
def test_when_positions_are_others_then_they_are_not_replaced_silently(part):
    tensors = jepa_tensors(768, 384)
    positions = tensors[f"{part}.pos_embed"].clone()
    positions[3, 5] += 1e-6
    tensors[f"{part}.pos_embed"] = positions
    with pytest.raises(
        InputError, match=rf"^{part}\.pos_embed is not the fixed position table of [18] lead\(s\) and 50 times"
    ):
        convert_ecg_jepa_state_dict(tensors)


def test_when_the_leads_are_others_then_they_must_be_named():
    tensors = jepa_tensors()
    tensors["pos_embed"] = grid_positions(12, 50, 768).flatten(0, 1)
    with pytest.raises(InputError, match="pass lead_names"):
        convert_ecg_jepa_state_dict(tensors)
    model = convert_ecg_jepa_state_dict(tensors, lead_names=list(STANDARD_LEADS))
    assert (model.config.num_leads, model.config.num_patches) == (12, 50)
    tensors["pos_embed"] = grid_positions(1, 50, 768)[0]
    with pytest.raises(InputError, match="has 50 positions, which is not a multiple of 8 leads"):
        convert_ecg_jepa_state_dict(tensors)


def test_when_recordings_are_prepared_as_released_then_they_are_resampled_by_a_transform_alone():
    extractor = released_ecg_jepa_feature_extractor()
    waveform = np.random.default_rng(0).normal(size=(12, 5000))
    waveform[7] = 0.2  # a flat lead stays one
    features = extractor(waveform, sampling_rate=500.0, lead_names=STANDARD_LEADS, unit="mV")
    expected = scipy_signal.resample(waveform[[0, 1, 6, 7, 8, 9, 10, 11]], 2500, axis=1)
    np.testing.assert_allclose(features["input_values"][0], expected, atol=1e-6)
    assert features["lead_mask"].all()
    small = released_ecg_jepa_feature_extractor(EcgJepaConfig(lead_names=["II"], num_samples=1250, patch_size=25))
    assert (small.lead_names, small.window_seconds, small.num_patches) == (["II"], 5.0, 50)
