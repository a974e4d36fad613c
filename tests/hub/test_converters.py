"""A state dict that is not what a converter expects is refused in one sentence, whatever the system."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from released import clear_tensors, jepa_tensors

from clear_hug_hf.hub.convert_clear_hug import convert_clear_hug_state_dict
from clear_hug_hf.hub.convert_ecg_jepa import convert_ecg_jepa_state_dict
from clear_hug_hf.processing import InputError
from clear_hug_hf.systems import Converter, ConverterOption
from clear_hug_hf.workflows.convert import option_fields


CONVERTERS = {
    "clear_hug": (convert_clear_hug_state_dict, clear_tensors),
    "ecg_jepa": (convert_ecg_jepa_state_dict, jepa_tensors),
    "whole ecg_jepa": (convert_ecg_jepa_state_dict, partial(jepa_tensors, predictor_width=384)),
}
CLEAR, JEPA = "not that of a CLEAR pre-trained model: it", "not that of a pre-trained ECG-JEPA encoder: it"
CLEAR_LAYER, JEPA_LAYER = "encoder_transformer.layers.0", "encoder_blocks.blocks.0"


@pytest.mark.parametrize(
    ("system", "key", "shape", "message"),
    [
        ("clear_hug", "mask_token", None, f"{CLEAR} lacks mask_token;"),
        ("clear_hug", "norm_layer.bias", None, f"{CLEAR} lacks norm_layer.bias;"),
        ("clear_hug", "decoder_transformer.layers.0.self_attn.in_proj_bias", None, f"{CLEAR} lacks decoder_transf"),
        ("clear_hug", "moe.level9.weight", (1,), r"it has the unexpected moe\.level9\.weight"),
        (
            *("clear_hug", "decoder_pred.weight", (50, 512)),
            r"are inconsistent: decoder\.prediction\.weight is \(50, 512\) instead of \(96, 512\)",
        ),
        ("clear_hug", "pos_embed", (1, 190, 768), "same number of beats"),
        ("clear_hug", "pos_embed", (1, 12, 768), "same number of beats"),
        ("clear_hug", "cls_token", (768,), r"cls_token has the shape \(768,\) instead of 2 nonempty dimension"),
        ("clear_hug", "cls_token", (0, 768), r"cls_token has the shape \(0, 768\)"),
        ("clear_hug", "cls_token", (8, 768), "8 leads instead of the 12"),
        ("clear_hug", f"{CLEAR_LAYER}.self_attn.in_proj_bias", (2300,), "cannot be split into queries, keys"),
        ("clear_hug", "mask_token", (), r"mask_token has the shape \(\)"),
        ("ecg_jepa", "W_P.bias", None, rf"{JEPA} lacks W_P\.bias;"),
        ("ecg_jepa", f"{JEPA_LAYER}.attn.qkv.weight", None, rf"{JEPA} lacks {JEPA_LAYER}\.attn\.qkv\.weight;"),
        ("ecg_jepa", "norm.weight", None, rf"{JEPA} lacks norm\.weight;"),
        ("ecg_jepa", f"{JEPA_LAYER}.attn.qkv.bias", (2304,), r"it has the unexpected \S+\.attn\.qkv\.bias"),
        ("ecg_jepa", "norm.bias", (767,), r"are inconsistent: norm\.bias is \(767,\) instead of \(768,\)"),
        ("ecg_jepa", "pos_embed", (400,), r"pos_embed has the shape \(400,\) instead of 2 nonempty dimension"),
        ("ecg_jepa", "pos_embed", None, r"pos_embed: it is from the author's later branch.*RoPE"),
        ("whole ecg_jepa", "encoder.pos_embed", None, r"pos_embed: it is from the author's later branch.*RoPE"),
        ("whole ecg_jepa", "predictor.mask_token", None, r"ECG-JEPA model: it lacks predictor\.mask_token;"),
        ("ecg_jepa", f"{JEPA_LAYER}.attn.qkv.weight", (2303, 768), "cannot be split into queries, keys"),
    ],
)
def test_when_a_tensor_is_missing_left_over_or_of_another_shape_then_it_is_named(
    system: str, key: str, shape: tuple[int, ...] | None, message: str
) -> None:
    convert, make_tensors = CONVERTERS[system]
    tensors = make_tensors()
    if shape is None:
        del tensors[key]
    else:
        tensors[key] = torch.zeros(shape)
    if shape == (8, 768):
        tensors["pos_embed"] = torch.zeros(1, 128, 768)
    with pytest.raises(InputError, match=message):
        convert(tensors)


def test_when_a_layer_is_missing_in_the_middle_then_it_is_noticed() -> None:
    tensors = clear_tensors()
    third = {key.replace("layers.0", "layers.2"): one for key, one in tensors.items() if key.startswith("encoder_tr")}
    with pytest.raises(InputError, match=r"it lacks encoder_transformer\.layers\.1\.self_attn\.in_proj_weight"):
        convert_clear_hug_state_dict(tensors | third)


def test_when_it_is_another_network_then_the_first_keys_of_both_sides_are_named() -> None:
    other = {f"features.{index}.weight": torch.zeros(3) for index in range(8)}
    with pytest.raises(InputError) as caught:
        convert_clear_hug_state_dict(other)
    others = len(clear_tensors()) - 5
    assert str(caught.value) == (
        "the state dict is not that of a CLEAR pre-trained model: it lacks cls_token, pos_embed, "
        f"token_embed.tokenConv.weight, spa_embed.embed.weight, tem_embed.embed.weight and {others} more, and it "
        "has the unexpected features.0.weight, features.1.weight, features.2.weight, features.3.weight, "
        "features.4.weight and 3 more; check that the file is the right one and complete"
    )


@pytest.mark.parametrize(
    ("system", "widths", "heads"),
    [("clear_hug", (768, 512), (8, 16)), ("clear_hug", (1024, 1024), (16, 16)), ("ecg_jepa", (768, 384), (16, 12))],
)
def test_when_sizes_are_released_ones_then_heads_are_known(
    system: str, widths: tuple[int, int], heads: tuple[int, int]
) -> None:
    convert, make_tensors = CONVERTERS[system]
    config = convert(make_tensors(*widths)).config
    second = "decoder" if system == "clear_hug" else "predictor"
    assert (config.num_attention_heads, getattr(config, f"{second}_num_attention_heads")) == heads


@pytest.mark.parametrize(
    ("system", "widths", "heads", "message"),
    [
        ("clear_hug", (64, 512), None, "width 64 is not a released size: pass num_attention_heads"),
        ("clear_hug", (768, 48), None, "width 48 is not a released size: pass decoder_num_attention_heads"),
        ("clear_hug", (768, 512), 7, "hidden_size=768 must be divisible by num_attention_heads=7"),
        ("clear_hug", (768, 512), "many", "'num_attention_heads' expected int"),
        ("ecg_jepa", (64, None), None, "width 64 is not a released size: pass num_attention_heads"),
        ("ecg_jepa", (768, 48), None, "width 48 is not a released size: pass predictor_num_attention_heads"),
        ("ecg_jepa", (64, None), 7, "hidden_size=64 must be divisible by num_attention_heads=7"),
    ],
)
def test_when_heads_cannot_be_known_or_do_not_fit_then_one_sentence_reports_it(
    system: str, widths: tuple[int, Any], heads: Any, message: str
) -> None:
    convert, make_tensors = CONVERTERS[system]
    with pytest.raises(InputError, match=message) as caught:
        convert(make_tensors(*widths), num_attention_heads=heads)
    assert "\n" not in str(caught.value)


def test_when_systems_declare_one_option_then_its_help_explains_it_for_each() -> None:
    first, second = ConverterOption(help="of the encoder"), ConverterOption(help="of both towers")
    converters = {
        name: Converter(function="", reads="", example="", options=options)
        for name, options in {"a": {"heads": first}, "b": {"heads": second}, "c": {"heads": first}}.items()
    }
    ((name, _, made),) = option_fields(converters)
    assert (name, made.metadata["help"]) == ("heads", "a, c: of the encoder; b: of both towers")
    del converters["b"]
    assert option_fields(converters)[0][2].metadata["help"] == "of the encoder"
