"""Released CLEAR-HUG weights as models of this package."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from ..modeling import (
    ClearHugConfig,
    ClearHugForPreTraining,
    ClearHugForSequenceClassification,
    ClearHugPreTrainedModel,
)


# Head counts leave no trace in the shapes: those of the released sizes, by width.
ENCODER_HEADS = {768: 8, 1024: 16}
DECODER_HEADS = {512: 16, 1024: 16}

ENCODER_KEYS = {
    "cls_token": "embeddings.cls_token",
    "pos_embed": "embeddings.position_embeddings",
    "token_embed.tokenConv.weight": "embeddings.beat_projection.projection.weight",
    "spa_embed.embed.weight": "embeddings.lead_embeddings.weight",
    "tem_embed.embed.weight": "embeddings.time_embeddings.weight",
    "norm_layer.weight": "norm.weight",
    "norm_layer.bias": "norm.bias",
}
DECODER_KEYS = {
    "mask_token": "decoder.mask_token",
    "decoder_pos_embed": "decoder.position_embeddings",
    "decoder_embed.weight": "decoder.embed.weight",
    "decoder_embed.bias": "decoder.embed.bias",
    "decoder_norm.weight": "decoder.norm.weight",
    "decoder_norm.bias": "decoder.norm.bias",
    "decoder_pred.weight": "decoder.prediction.weight",
    "decoder_pred.bias": "decoder.prediction.bias",
}
CLASSIFIER_KEYS = {"mlp_head.weight": "classifier.weight", "mlp_head.bias": "classifier.bias"}
LAYER_KEYS = {
    "self_attn.out_proj": "attention.o_proj",
    "norm1": "attention_norm",
    "ff.0": "fc1",
    "ff.3": "fc2",
    "norm2": "feed_forward_norm",
}
HUG_KEYS = {
    **{f"moe.level1_experts.{index}.net.0": f"head.group_maps.{index}" for index in range(3)},
    **{f"moe.level2_experts.{index}.net.0": f"head.pair_maps.{index}" for index in range(3)},
    "moe.level3_expert.net.0": "head.all_maps.0",
}


class _Reader:
    """Hands out the tensors of a state dict once each and remembers what is left."""

    def __init__(self, state_dict: Mapping[str, torch.Tensor]):
        self.left = dict(state_dict)
        self.missing: list[str] = []

    def take(self, key: str) -> torch.Tensor | None:
        if key not in self.left:
            self.missing.append(key)
        return self.left.pop(key, None)

    def has(self, prefix: str) -> bool:
        return any(key.startswith(prefix) for key in self.left)

    def count_layers(self, prefix: str) -> int:
        return len({key[len(prefix) :].split(".")[0] for key in self.left if key.startswith(prefix)})

    def shape(self, key: str) -> tuple[int, ...]:
        if key not in self.left:
            raise ValueError(f"This is no CLEAR-HUG state dict: it has no {key!r}.")
        return tuple(self.left[key].shape)

    def check_done(self) -> None:
        if self.missing:
            raise ValueError(f"The state dict lacks {', '.join(sorted(self.missing))}: is the file complete?")
        if self.left:
            raise ValueError(f"The state dict holds keys that no CLEAR-HUG model has: {', '.join(sorted(self.left))}.")


def _num_heads(width: int, given: int | None, known: dict[int, int], argument: str) -> int:
    if given is not None:
        return given
    if width not in known:
        raise ValueError(
            f"The number of attention heads cannot be read from a state dict, and width {width} is not a released "
            f"size: pass {argument}."
        )
    return known[width]


def _take_layers(reader: _Reader, prefix: str, target: str, num_layers: int) -> dict[str, torch.Tensor | None]:
    tensors: dict[str, torch.Tensor | None] = {}
    for index in range(num_layers):
        for suffix in ("weight", "bias"):
            for old, new in LAYER_KEYS.items():
                tensors[f"{target}.{index}.{new}.{suffix}"] = reader.take(f"{prefix}{index}.{old}.{suffix}")
            fused = reader.take(f"{prefix}{index}.self_attn.in_proj_{suffix}")
            parts = (None, None, None) if fused is None else fused.chunk(3)
            for name, part in zip("qkv", parts, strict=True):
                tensors[f"{target}.{index}.attention.{name}_proj.{suffix}"] = part
    return tensors


def convert_clear_hug_state_dict(
    state_dict: Mapping[str, torch.Tensor],
    *,
    num_attention_heads: int | None = None,
    decoder_num_attention_heads: int | None = None,
    cls_attention: str = "reference_bias",
    **config_overrides: Any,
) -> ClearHugPreTrainedModel:
    """
    A model with released weights. What the file holds is read from its keys: a pre-trained model, or an encoder with a
    linear classifier or with HUG; sizes are read from the shapes.

    Args:
        state_dict (`Mapping[str, torch.Tensor]`):
            The released tensors, see [`load_clear_hug_state_dict`].
        num_attention_heads (`int`, *optional*):
            Heads of the encoder. They leave no trace in the shapes: needed unless the width is 768 or 1024.
        decoder_num_attention_heads (`int`, *optional*):
            Heads of the decoder; needed for a pre-trained model unless its decoder's width is 512 or 1024.
        cls_attention (`str`, *optional*, defaults to `"reference_bias"`):
            How the summary tokens attend in the encoder: as the released code runs, or `"lead"` as the paper says.
        config_overrides:
            Further fields of [`ClearHugConfig`], such as `id2label` or `problem_type`.

    Returns:
        [`ClearHugForPreTraining`] or [`ClearHugForSequenceClassification`] with head `"mean"` or `"hug"`, in
        evaluation mode. Its `config.beat_embedding` is `"conv"`, as in the released code.

    Raises:
        `ValueError`: if keys are missing or left over, sizes contradict each other, or a number of heads is unknown.

    Source: the released code's modules; the tensors' names are all that was taken from them.
    """
    finetuned = any(key.startswith("backbone.") for key in state_dict)
    prefix = "backbone." if finetuned else ""
    reader = _Reader(state_dict)
    layers, decoder_layers = f"{prefix}encoder_transformer.layers.", "decoder_transformer.layers."

    num_leads, width = reader.shape(f"{prefix}cls_token")
    _, beat_length, _ = reader.shape(f"{prefix}token_embed.tokenConv.weight")
    num_beats, rest = divmod(reader.shape(f"{prefix}pos_embed")[1] - num_leads, num_leads)
    if rest:
        raise ValueError(f"{prefix}pos_embed does not hold a whole number of beats for each of the {num_leads} leads.")
    sizes: dict[str, Any] = {
        "num_beats": num_beats,
        "beat_length": beat_length,
        "hidden_size": width,
        "num_hidden_layers": reader.count_layers(layers),
        "num_attention_heads": _num_heads(width, num_attention_heads, ENCODER_HEADS, "num_attention_heads"),
        "intermediate_size": reader.shape(f"{layers}0.ff.0.weight")[0],
        "num_lead_embeddings": reader.shape(f"{prefix}spa_embed.embed.weight")[0],
        "num_time_embeddings": reader.shape(f"{prefix}tem_embed.embed.weight")[0],
        "beat_embedding": "conv",
        "cls_attention": cls_attention,
    }
    if num_leads != 12 and "lead_names" not in config_overrides:
        raise ValueError(f"The state dict has {num_leads} leads instead of the twelve standard ones: pass lead_names.")

    tensors: dict[str, torch.Tensor | None] = {}
    model_class: type[ClearHugPreTrainedModel]
    if finetuned:
        model_class = ClearHugForSequenceClassification
        has_hug = reader.has(f"{prefix}moe.")
        sizes["head_type"] = "hug" if has_hug else "mean"
        if "id2label" not in config_overrides:
            sizes["num_labels"] = reader.shape("mlp_head.weight")[0]
        for old, new in CLASSIFIER_KEYS.items():
            tensors[new] = reader.take(old)
        for old, new in HUG_KEYS.items() if has_hug else ():
            for suffix in ("weight", "bias"):
                tensors[f"{new}.{suffix}"] = reader.take(f"{prefix}{old}.{suffix}")
    else:
        model_class = ClearHugForPreTraining
        decoder_width = reader.shape("decoder_embed.weight")[0]
        sizes["decoder_hidden_size"] = decoder_width
        sizes["decoder_num_hidden_layers"] = reader.count_layers(decoder_layers)
        sizes["decoder_num_attention_heads"] = _num_heads(
            decoder_width, decoder_num_attention_heads, DECODER_HEADS, "decoder_num_attention_heads"
        )
        sizes["decoder_intermediate_size"] = reader.shape(f"{decoder_layers}0.ff.0.weight")[0]
        for old, new in DECODER_KEYS.items():
            tensors[new] = reader.take(old)
        tensors.update(_take_layers(reader, decoder_layers, "decoder.layers", sizes["decoder_num_hidden_layers"]))
    for old, new in ENCODER_KEYS.items():
        tensors[f"clear_hug.{new}"] = reader.take(f"{prefix}{old}")
    tensors.update(_take_layers(reader, layers, "clear_hug.layers", sizes["num_hidden_layers"]))
    reader.check_done()

    model = model_class(ClearHugConfig(**{**sizes, **config_overrides}))
    expected = model.state_dict()
    found = {key: tensor for key, tensor in tensors.items() if tensor is not None}
    misfits = [
        f"{key} is {tuple(tensor.shape)} and not {tuple(expected[key].shape)}"
        for key, tensor in found.items()
        if tensor.shape != expected[key].shape
    ]
    if misfits:
        raise ValueError(f"The shapes of the tensors do not fit together: {', '.join(misfits)}.")
    model.load_state_dict(found)
    return model.eval()


def load_clear_hug_state_dict(path: str | Path) -> dict[str, torch.Tensor]:
    """
    The tensors of a released file, read without running code from it.

    Args:
        path (`str` or `Path`):
            A `.pth` file with `{"model": state_dict, ...}` or a plain state dict, or a `.safetensors` file.

    Raises:
        `FileNotFoundError`: if there is no such file.
        `ValueError`: if the file holds no state dict.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"There is no file {path}.")
    if path.suffix == ".safetensors":
        return load_file(path)
    checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    state_dict = checkpoint.get("model", checkpoint) if isinstance(checkpoint, dict) else None
    if not isinstance(state_dict, dict) or not all(isinstance(value, torch.Tensor) for value in state_dict.values()):
        raise ValueError(f"{path} holds no state dict, neither by itself nor under 'model'.")
    return dict(state_dict)


def convert_clear_hug_checkpoint(path: str | Path, **kwargs: Any) -> ClearHugPreTrainedModel:
    """
    A model with the weights of a released file.

    Args:
        path (`str` or `Path`):
            See [`load_clear_hug_state_dict`].
        kwargs:
            See [`convert_clear_hug_state_dict`].

    Example:

    ```python
    >>> model = convert_clear_hug_checkpoint("checkpoint-99.pth")  # doctest: +SKIP
    >>> model.save_pretrained("clear-base")  # doctest: +SKIP
    ```"""
    return convert_clear_hug_state_dict(load_clear_hug_state_dict(path), **kwargs)


__all__ = ["convert_clear_hug_checkpoint", "convert_clear_hug_state_dict", "load_clear_hug_state_dict"]
