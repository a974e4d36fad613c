"""Released weights: those of the released layers at a small size, and state dicts of zeros with the released keys."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import safe_open

from clear_hug_hf.hub.convert_ecg_founder import SIZE_FIELDS
from clear_hug_hf.modeling.configuration_ecg_founder import EcgFounderConfig
from clear_hug_hf.modeling.modeling_ecg_founder import EcgFounderForSequenceClassification
from clear_hug_hf.modeling.modeling_ecg_jepa import grid_positions


StateDict = dict[str, torch.Tensor]


class Released:
    """The released layers at a small size with random weights: state dicts, inputs, and what they compute."""

    def __init__(self, path: Path):
        with safe_open(path, "pt") as file:
            self.metadata = file.metadata()
            self.tensors: StateDict = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118

    def part(self, name: str) -> StateDict:
        """The tensors under a name."""
        return {
            key.removeprefix(f"{name}."): tensor for key, tensor in self.tensors.items() if key.startswith(f"{name}.")
        }

    def check(self, name: str, actual: torch.Tensor, atol: float = 1e-5) -> None:
        expected = self.tensors[f"expected.{name}"]
        torch.testing.assert_close(actual.reshape(expected.shape), expected, atol=atol, rtol=0)


def _layer(name: str, size: int, *inputs: int) -> StateDict:
    """Weight and bias of a linear layer, or without inputs, of a norm."""
    return {f"{name}.weight": torch.zeros(size, *inputs), f"{name}.bias": torch.zeros(size)}


def clear_tensors(width: int = 768, decoder_width: int = 512) -> StateDict:
    """A pre-trained CLEAR with one narrow layer each in encoder and decoder."""
    tensors = {
        "cls_token": torch.zeros(12, width),
        "pos_embed": torch.zeros(1, 192, width),
        "mask_token": torch.zeros(1, 1, decoder_width),
        "decoder_pos_embed": torch.zeros(1, 192, decoder_width),
        "token_embed.tokenConv.weight": torch.zeros(width, 96, 3),
        "spa_embed.embed.weight": torch.zeros(16, width),
        "tem_embed.embed.weight": torch.zeros(16, width),
        **_layer("norm_layer", width),
        **_layer("decoder_embed", decoder_width, width),
        **_layer("decoder_norm", decoder_width),
        **_layer("decoder_pred", 96, decoder_width),
    }
    for stack, size in (("encoder_transformer", width), ("decoder_transformer", decoder_width)):
        layer = f"{stack}.layers.0"
        tensors |= {
            f"{layer}.self_attn.in_proj_weight": torch.zeros(3 * size, size),
            f"{layer}.self_attn.in_proj_bias": torch.zeros(3 * size),
            **_layer(f"{layer}.self_attn.out_proj", size, size),
            **_layer(f"{layer}.ff.0", 8, size),
            **_layer(f"{layer}.ff.3", size, 8),
            **_layer(f"{layer}.norm1", size),
            **_layer(f"{layer}.norm2", size),
        }
    return tensors


def jepa_tensors(width: int = 768, predictor_width: int | None = None) -> StateDict:
    """An encoder of ECG-JEPA with one narrow layer, or where the predictor has a width, the whole model."""

    def block(stack: str, size: int) -> StateDict:
        layer = f"{stack}.blocks.0"
        return {
            f"{layer}.attn.qkv.weight": torch.zeros(3 * size, size),
            **_layer(f"{layer}.attn.proj", size, size),
            **_layer(f"{layer}.mlp.fc1", 8, size),
            **_layer(f"{layer}.mlp.fc2", size, 8),
            **_layer(f"{layer}.norm1", size),
            **_layer(f"{layer}.norm2", size),
        }

    encoder = {
        "pos_embed": grid_positions(8, 50, width).flatten(0, 1),
        **block("encoder_blocks", width),
        **_layer("norm", width),
        **_layer("W_P", width, 50),
    }
    if predictor_width is None:
        return encoder
    predictor = {
        "pos_embed": grid_positions(1, 50, predictor_width)[0],
        "mask_token": torch.zeros(1, 1, predictor_width),
        **block("predictor_blocks", predictor_width),
        **_layer("predictor_embed", predictor_width, width),
        **_layer("predictor_norm", predictor_width),
        **_layer("predictor_proj", width, predictor_width),
    }
    parts = {"encoder": encoder, "target_encoder": encoder, "predictor": predictor}
    return {f"{name}.{key}": value for name, part in parts.items() for key, value in part.items()}


def founder_tensors(config: EcgFounderConfig, num_labels: int = 150) -> dict[str, torch.Tensor]:
    """Random tensors with the released names, for the network of a config."""
    fields = {name: getattr(config, name) for name in (*SIZE_FIELDS, "kernel_size", "lead_names")}
    with torch.device("meta"):
        model = EcgFounderForSequenceClassification(EcgFounderConfig(num_labels=num_labels, **fields))
    tensors = {}
    for key, tensor in model.state_dict().items():
        name = key.removeprefix("ecg_founder.").replace("stages.", "stage_list.").replace(".blocks.", ".block_list.")
        name = name.replace("stem.", "first_conv.conv.").replace("classifier.", "dense.")
        for number in (1, 2, 3):
            name = name.replace(f"conv{number}.", f"conv{number}.conv.")
        name = name.replace("squeeze", "se_fc1").replace("excite", "se_fc2")
        tensors[name] = torch.full(tensor.shape, 0.01)
    blocks = [name.removesuffix("conv1.conv.weight") for name in tensors if name.endswith("conv1.conv.weight")]
    for norm in ("first_bn", *(f"{block}bn{number}" for block in blocks for number in (1, 2, 3))):
        tensors |= {f"{norm}.{kind}": torch.ones(3) for kind in ("weight", "bias", "running_mean", "running_var")}
        tensors[f"{norm}.num_batches_tracked"] = torch.tensor(7)
    return tensors
