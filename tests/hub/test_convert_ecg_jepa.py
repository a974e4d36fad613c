"""Released ECG-JEPA weights give the released numbers, and a file that is not one of them is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
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


class Released:
    """The released layers at a small size with random weights: state dicts, inputs, and what they compute."""

    def __init__(self, path: Path):
        with safe_open(path, "pt") as file:
            self.metadata = file.metadata()
            self.tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        self.heads = {
            "num_attention_heads": int(self.metadata["encoder_heads"]),
            "predictor_num_attention_heads": int(self.metadata["predictor_heads"]),
        }
        self.signals, self.hidden = self.tensors["input.signals"], self.tensors["input.time_mask"]
        self.whole = {key: value for key, value in self.tensors.items() if not key.startswith(("input.", "expected."))}
        self.encoder = {
            key.removeprefix("encoder."): value for key, value in self.whole.items() if key.startswith("encoder.")
        }

    def check(self, name: str, actual: torch.Tensor) -> None:
        expected = self.tensors[f"expected.{name}"]
        torch.testing.assert_close(actual.reshape(expected.shape), expected, atol=1e-5, rtol=0)


@pytest.fixture(scope="module")
def released(shared: Path) -> Released:
    return Released(shared / "parity" / "official_ecg_jepa_small.safetensors")


@FORMS
def test_when_the_encoder_is_converted_then_states_agree(released, implementation, form):
    model = convert_ecg_jepa_state_dict(released.encoder, num_attention_heads=4)
    assert isinstance(model, EcgJepaModel)
    model.set_attn_implementation(implementation)
    with torch.no_grad():
        output = model(released.signals, attention_form=form)
    released.check("last_hidden_state", output.last_hidden_state)
    released.check("representation", output.pooler_output)


@FORMS
def test_when_the_whole_model_is_converted_then_the_loss_agrees(released, implementation, form):
    model = convert_ecg_jepa_state_dict(released.whole, **released.heads)
    assert isinstance(model, EcgJepaForPreTraining)
    model.set_attn_implementation(implementation)
    each = released.hidden.expand(len(released.signals), -1)
    with torch.no_grad():
        for hidden in (released.hidden, each):
            output = model(released.signals, bool_masked_pos=hidden, attention_form=form)
            released.check("loss", output.loss)
        released.check("representation", model.ecg_jepa(released.signals, attention_form=form).pooler_output)
    assert not any(parameter.requires_grad for parameter in model.teacher.parameters())


def test_when_anything_of_the_recipe_is_left_out_then_the_numbers_do_not_agree(released):
    expected = released.tensors["expected.representation"]
    for change in ({"attention_pattern": "full"}, {"position_injection": "first_layer"}, {"hidden_act": "relu"}):
        model = convert_ecg_jepa_state_dict(released.encoder, num_attention_heads=4, **change)
        with torch.no_grad():
            gap = (model(released.signals).pooler_output - expected).abs().max()
        assert gap > 1e-3, change


def test_when_weights_are_converted_then_sizes_come_from_the_shapes(released):
    config, metadata = convert_ecg_jepa_state_dict(released.whole, **released.heads).config, released.metadata
    assert config.hidden_size == int(metadata["encoder_embed_dim"])
    assert config.num_hidden_layers == int(metadata["encoder_depth"])
    assert config.predictor_hidden_size == int(metadata["predictor_embed_dim"])
    assert config.predictor_num_hidden_layers == int(metadata["predictor_depth"])
    assert config.intermediate_size == 4 * config.hidden_size
    assert config.predictor_intermediate_size == 4 * config.predictor_hidden_size
    assert (config.num_samples, config.patch_size, config.num_leads) == (2500, 50, 8)


def test_when_a_file_is_converted_then_it_saves_and_loads_as_any_model(released, tmp_path):
    torch.save({"encoder": released.encoder, "epoch": 99}, tmp_path / "multiblock_epoch100.pth")
    torch.save(released.whole, tmp_path / "whole.pth")
    encoder = convert_ecg_jepa_checkpoint(tmp_path / "multiblock_epoch100.pth", num_attention_heads=4)
    assert not encoder.training
    encoder.save_pretrained(tmp_path / "encoder")
    loaded = EcgJepaModel.from_pretrained(tmp_path / "encoder")
    with torch.no_grad():
        released.check("representation", loaded(released.signals).pooler_output)

    convert_ecg_jepa_checkpoint(tmp_path / "whole.pth", **released.heads).save_pretrained(tmp_path / "whole")
    loaded = EcgJepaForPreTraining.from_pretrained(tmp_path / "whole")
    with torch.no_grad():
        released.check("loss", loaded(released.signals, bool_masked_pos=released.hidden).loss)


def released_tensors(width: int = 768, predictor_width: int | None = None) -> dict[str, torch.Tensor]:
    """An encoder's state dict with one narrow layer, or a whole model's."""

    def block(prefix: str, size: int) -> dict[str, tuple[int, ...]]:
        shapes: dict[str, tuple[int, ...]] = {
            f"{prefix}.0.attn.qkv.weight": (3 * size, size),
            f"{prefix}.0.attn.proj.weight": (size, size),
            f"{prefix}.0.attn.proj.bias": (size,),
            f"{prefix}.0.mlp.fc1.weight": (8, size),
            f"{prefix}.0.mlp.fc1.bias": (8,),
            f"{prefix}.0.mlp.fc2.weight": (size, 8),
            f"{prefix}.0.mlp.fc2.bias": (size,),
        }
        return shapes | {f"{prefix}.0.{norm}.{kind}": (size,) for norm in ("norm1", "norm2") for kind in PARTS}

    def tensors(shapes: dict[str, tuple[int, ...]]) -> dict[str, torch.Tensor]:
        return {key: torch.zeros(shape) for key, shape in shapes.items()}

    encoder = {"pos_embed": grid_positions(8, 50, width).flatten(0, 1)}
    encoder |= tensors(block("encoder_blocks.blocks", width))
    encoder |= tensors(
        {"norm.weight": (width,), "norm.bias": (width,), "W_P.weight": (width, 50), "W_P.bias": (width,)}
    )
    if predictor_width is None:
        return encoder
    predictor = {"pos_embed": grid_positions(1, 50, predictor_width)[0]}
    predictor |= tensors(block("predictor_blocks.blocks", predictor_width))
    predictor |= tensors(
        {
            "mask_token": (1, 1, predictor_width),
            "predictor_embed.weight": (predictor_width, width),
            "predictor_embed.bias": (predictor_width,),
            "predictor_norm.weight": (predictor_width,),
            "predictor_norm.bias": (predictor_width,),
            "predictor_proj.weight": (width, predictor_width),
            "predictor_proj.bias": (width,),
        }
    )
    parts = {"encoder": encoder, "target_encoder": encoder, "predictor": predictor}
    return {f"{name}.{key}": value for name, part in parts.items() for key, value in part.items()}


PARTS = ("weight", "bias")


def test_when_sizes_are_released_ones_then_heads_are_known():
    model = convert_ecg_jepa_state_dict(released_tensors(768, 384))
    assert model.config.num_attention_heads == 16
    assert model.config.predictor_num_attention_heads == 12


def test_when_heads_cannot_be_known_then_they_are_asked_for():
    with pytest.raises(InputError, match="width 64 is not a released size: pass num_attention_heads"):
        convert_ecg_jepa_state_dict(released_tensors(64))
    with pytest.raises(InputError, match="width 48 is not a released size: pass predictor_num_attention_heads"):
        convert_ecg_jepa_state_dict(released_tensors(768, 48))
    with pytest.raises(InputError, match="hidden_size=64 is not a multiple of num_attention_heads=7"):
        convert_ecg_jepa_state_dict(released_tensors(64), num_attention_heads=7)


@pytest.mark.parametrize("predictor_width", [None, 384])
def test_when_it_is_of_the_later_branch_then_it_says_why_it_cannot_be_converted(predictor_width, tmp_path):
    tensors = {
        key: value for key, value in released_tensors(768, predictor_width).items() if not key.endswith("pos_embed")
    }
    with pytest.raises(InputError, match=r"pos_embed: it is of the author's later branch.*RoPE"):
        convert_ecg_jepa_state_dict(tensors)


@pytest.mark.parametrize("key", ["W_P.bias", "encoder_blocks.blocks.0.attn.qkv.weight", "norm.weight"])
def test_when_a_key_is_missing_then_it_is_named(key):
    tensors = released_tensors()
    del tensors[key]
    with pytest.raises(InputError, match=f"not that of a pre-trained ECG-JEPA encoder: it lacks {key};"):
        convert_ecg_jepa_state_dict(tensors)


def test_when_keys_are_left_over_then_they_are_named():
    tensors = released_tensors() | {"encoder_blocks.blocks.0.attn.qkv.bias": torch.zeros(2304)}
    with pytest.raises(InputError, match=r"it holds encoder_blocks\.blocks\.0\.attn\.qkv\.bias, which no such model"):
        convert_ecg_jepa_state_dict(tensors)
    tensors = released_tensors(768, 384)
    del tensors["predictor.mask_token"]
    with pytest.raises(InputError, match=r"pre-trained ECG-JEPA model: it lacks predictor\.mask_token;"):
        convert_ecg_jepa_state_dict(tensors)


@pytest.mark.parametrize("part", ["encoder", "target_encoder", "predictor"])
def test_when_positions_are_others_then_they_are_not_replaced_silently(part):
    tensors = released_tensors(768, 384)
    positions = tensors[f"{part}.pos_embed"].clone()
    positions[3, 5] += 1e-6
    tensors[f"{part}.pos_embed"] = positions
    with pytest.raises(InputError, match=rf"^{part}\.pos_embed is not the fixed table of [18] lead\(s\) and 50 times"):
        convert_ecg_jepa_state_dict(tensors)


def test_when_the_leads_are_others_then_they_must_be_named():
    tensors = released_tensors()
    tensors["pos_embed"] = grid_positions(12, 50, 768).flatten(0, 1)
    with pytest.raises(InputError, match="pass lead_names"):
        convert_ecg_jepa_state_dict(tensors)
    model = convert_ecg_jepa_state_dict(tensors, lead_names=list(STANDARD_LEADS))
    assert (model.config.num_leads, model.config.num_patches) == (12, 50)
    tensors["pos_embed"] = grid_positions(1, 50, 768)[0]
    with pytest.raises(InputError, match="holds 50 positions, no whole number for each of 8 leads"):
        convert_ecg_jepa_state_dict(tensors)


@pytest.mark.parametrize(
    ("key", "shape", "message"),
    [
        ("norm.bias", (767,), r"do not fit together: norm\.bias is \(767,\) and not \(768,\)"),
        ("pos_embed", (400,), r"pos_embed is \(400,\) and not of 2 dimension"),
        ("encoder_blocks.blocks.0.attn.qkv.weight", (2303, 768), "cannot be cut into queries, keys"),
    ],
)
def test_when_shapes_contradict_each_other_then_it_is_refused(key, shape, message):
    tensors = released_tensors()
    tensors[key] = torch.zeros(shape)
    with pytest.raises(InputError, match=message):
        convert_ecg_jepa_state_dict(tensors)


def test_when_weights_are_not_finite_then_they_are_refused():
    tensors = released_tensors()
    tensors["norm.bias"] = torch.full((768,), torch.nan)
    with pytest.raises(InputError, match=r"NaN or infinite in norm\.bias"):
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
