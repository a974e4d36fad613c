"""
Building blocks shared by all models: outputs, input validation, seeded random numbers, position embeddings, attention,
layers, losses and base classes.

Shapes: `B` recordings, `L` leads, `S` tokens, `D` hidden size.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import torch
from torch import nn
from torch.nn import functional as F
from transformers import PreTrainedConfig, PreTrainedModel
from transformers import initialization as init
from transformers.activations import ACT2FN
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.processing_utils import Unpack
from transformers.utils import ModelOutput, TransformersKwargs

from .configuration_ecg import EcgConfig
from .fast_ops import AttentionPattern, fast_dropout


IGNORED_LABEL = -100
"""Class index of a recording or sample whose class is unknown."""
TEXT_INPUTS = ("input_ids", "attention_mask", "inputs_embeds", "token_type_ids")
"""Inputs of language models, which wrappers such as PEFT pass to every model."""
_FLAGS = frozenset((*TransformersKwargs.__annotations__, "return_dict", "use_cache"))


# ----------------------------------------------------------------------------------------------------------- outputs


@dataclass
class EcgModelOutput(ModelOutput):
    """
    Output of an ECG encoder.

    Args:
        last_hidden_state (`torch.FloatTensor` of shape `(batch_size, sequence_length, hidden_size)`):
            Hidden state of every token, in the order documented by the model. Undefined at missing leads and times.
        pooler_output (`torch.FloatTensor` of shape `(batch_size, hidden_size)`):
            Representation of the recording: the mean over all tokens or leads that are present.
        lead_states (`torch.FloatTensor` of shape `(batch_size, num_leads, hidden_size)`):
            Representation of every lead. Encoders that mix the leads return a single one, `pooler_output`.
        hidden_states (`tuple(torch.FloatTensor)`, *optional*, returned when `output_hidden_states=True`):
            Embeddings and output of every layer, each of the shape of `last_hidden_state`, which is the last entry.
        attentions (`tuple(torch.FloatTensor)`, *optional*, returned when `output_attentions=True` with eager
            attention): Attention weights of every layer, each of shape `(batch_size, num_heads, sequence_length,
            sequence_length)`.
        present_leads (`torch.BoolTensor` of shape `(batch_size, num_leads)`):
            True for leads that were recorded and contain tokens. The states of other leads are undefined.
        token_mask (`torch.BoolTensor` of shape `(batch_size, sequence_length)`, *optional*):
            True for tokens of leads and times that were recorded; `None` if all were.
    """

    last_hidden_state: torch.Tensor | None = None
    pooler_output: torch.Tensor | None = None
    lead_states: torch.Tensor | None = None
    hidden_states: tuple[torch.Tensor, ...] | None = None
    attentions: tuple[torch.Tensor, ...] | None = None
    present_leads: torch.Tensor | None = None
    token_mask: torch.Tensor | None = None


@dataclass
class EcgClassifierOutput(ModelOutput):
    """
    Output of an ECG classifier.

    Args:
        loss (`torch.FloatTensor` of shape `()`, *optional*, returned when `labels` is provided):
            [`classification_loss`], or [`sample_classification_loss`] of per-sample classifiers.
        logits (`torch.FloatTensor` of shape `(batch_size, num_labels)` or `(batch_size, num_leads, T, num_labels)`):
            Scores before the sigmoid (multi-label) or softmax (single-label), or regression values, of the recording
            or of every sample of every lead.
        group_states (`torch.FloatTensor` of shape `(batch_size, num_groups, hidden_size)`, *optional*):
            Representation of every lead group, if the head computes them.
        hidden_states, attentions (`tuple(torch.FloatTensor)`, *optional*):
            See [`EcgModelOutput`].
        distance (`torch.FloatTensor` of shape `(batch_size,)`, *optional*):
            Distance from the training recordings, if `config.familiarity` is set, see [`Familiarity`].
    """

    loss: torch.Tensor | None = None
    logits: torch.Tensor | None = None
    group_states: torch.Tensor | None = None
    hidden_states: tuple[torch.Tensor, ...] | None = None
    attentions: tuple[torch.Tensor, ...] | None = None
    distance: torch.Tensor | None = None


# ------------------------------------------------------------------------------------------------------------ inputs


def check_shape(name: str, tensor: torch.Tensor, *shapes: tuple[int | None, ...]) -> None:
    """
    Check that a tensor has one of the given shapes, in which `None` matches any length.

    Raises:
        `ValueError`: if it does not.
    """
    actual = tuple(tensor.shape)
    for shape in shapes:
        if len(actual) == len(shape) and all(size in (None, got) for size, got in zip(shape, actual, strict=True)):
            return
    expected = " or ".join(str(shape).replace("None", "any") for shape in shapes)
    raise ValueError(f"{name} must have shape {expected}, got {actual}.")


def presence_mask(
    shape: tuple[int, ...],
    attention_mask: torch.Tensor | None,
    lead_mask: torch.Tensor | None,
    device: torch.device,
) -> torch.Tensor:
    """
    Combine an `attention_mask` `(B, N)` or `(B, L, N)` and a `lead_mask` `(B, L)` to a mask of the beats or patches
    that are present, of the given shape `(B, L, N)`. A mask that is `None` counts as all True.

    Raises:
        `ValueError`: if a mask has the wrong shape.
    """
    batch_size, num_leads, num_tokens = shape
    present = torch.ones(shape, dtype=torch.bool, device=device)
    if attention_mask is not None:
        check_shape("attention_mask", attention_mask, (batch_size, num_tokens), shape)
        present = present & (attention_mask if attention_mask.ndim == 3 else attention_mask[:, None, :]).bool()
    if lead_mask is not None:
        check_shape("lead_mask", lead_mask, (batch_size, num_leads))
        present = present & lead_mask[:, :, None].bool()
    return present


def validate_kwargs(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """
    Validate the keyword arguments of `forward` that are not inputs of the model, and drop those that encoders do not
    read: `rhythm`, which is an input of classifiers only, and text inputs, which PEFT passes as `None` to models of
    the tasks `SEQ_CLS` and `FEATURE_EXTRACTION`.

    Raises:
        `ValueError`: if a text input is not `None`.
        `TypeError`: if an argument is unknown, for example a misspelled mask, which would be ignored otherwise.
    """
    for name in arguments:
        if name in TEXT_INPUTS:
            if arguments[name] is not None:
                raise ValueError(f"{name} is a text input, which this model does not support: remove it.")
        elif name not in _FLAGS and name != "rhythm":
            raise TypeError(f"the model has no input {name!r}: see the signature of its `forward`.")
    return {name: value for name, value in arguments.items() if name not in (*TEXT_INPUTS, "rhythm")}


# --------------------------------------------------------------------------------------- random numbers and positions


def seeded_bits(seeds: torch.Tensor, counters: torch.Tensor) -> torch.Tensor:
    """
    Compute 64 random bits from each pair of seed and counter with SplitMix64 (Steele, Lea and Flood, OOPSLA 2014).
    They do not depend on the device, the batch or the number of processes. Seeds are arbitrary integers, counters are
    those of [`seeded_counters`], and their shapes are broadcast.
    """
    # Integer multiplication wraps around at 64 bits. The constants are those of the paper as signed integers.
    state = seeds + counters
    state = (state ^ (state >> 30 & 0x3FFFFFFFF)) * -4658895280553007687
    state = (state ^ (state >> 27 & 0x1FFFFFFFFF)) * -7723592293110705685
    return state ^ (state >> 31 & 0x1FFFFFFFF)


def seeded_counters(*shape: int, device: torch.device | str = "cpu") -> torch.Tensor:
    """
    Multiples of the SplitMix64 increment, starting with 1. By default on the CPU whatever the default device, since it
    is also called during loading.
    """
    return (torch.arange(1, torch.Size(shape).numel() + 1, device=device) * -7046029254386353131).view(shape)


def seeded_fractions(seeds: torch.Tensor, counters: torch.Tensor) -> torch.Tensor:
    """Uniform random numbers between 0 and 1, both exclusive, computed by [`seeded_bits`]."""
    return ((seeded_bits(seeds, counters) >> 40 & 0xFFFFFF).float() + 0.5) / 0x1000000


def draw_spans(
    seeds: torch.Tensor, counters: torch.Tensor, valid: torch.Tensor, probability: float, length: int
) -> torch.Tensor:
    """
    Draw a mask of spans that may overlap (Baevski et al., 2020, Section 3.1).

    Args:
        seeds (`torch.LongTensor` of shape `(B,)`):
            Seed of each recording.
        counters (`torch.LongTensor` of shape `(1 + S,)`):
            See [`seeded_counters`].
        valid (`torch.BoolTensor` of shape `(B, S)`):
            True for tokens of the recording, which come first.
        probability (`float`):
            Sum of the lengths of the spans, as a fraction of the valid tokens; rounded up or down at random.
        length (`int`):
            Length of a span [tokens]. Recordings with fewer tokens are not masked.

    Returns:
        `torch.BoolTensor` of shape `(B, S)`: True for masked tokens.
    """
    num_valid = valid.sum(dim=1, keepdim=True)
    fractions = seeded_fractions(seeds[:, None], counters)
    num_spans = (probability * num_valid / length + fractions[:, :1]).floor()
    can_start = torch.arange(valid.shape[1], device=valid.device) <= num_valid - length
    order = fractions[:, 1:].masked_fill(~can_start, 2.0).argsort(dim=1, stable=True)
    starts = (order.argsort(dim=1) < num_spans) & can_start
    # A token is masked if one of the last `length` tokens starts a span.
    started = F.pad(starts.long().cumsum(dim=1), (length, 0))
    return started[:, length:] > started[:, :-length]


def sincos_positions(positions: torch.Tensor, width: int) -> torch.Tensor:
    """
    Sinusoidal embeddings `(X, width)` of positions `(X,)` in float64: `width / 2` sines, then as many cosines, at
    frequencies from 1 down to nearly 1 / 10000 (Vaswani et al., 2017).
    """
    exponents = torch.arange(width // 2, dtype=torch.float64, device=positions.device) / (width // 2)
    angles = positions.to(torch.float64)[:, None] * 10_000.0**-exponents
    return torch.cat((angles.sin(), angles.cos()), dim=1)


def register_constants(module: Any) -> None:
    """
    Register the tensors that `module.make_constants()` computes from the config as non-persistent buffers. Since
    models are loaded on the meta device, [`EcgPreTrainedModel`] computes them again then; they are created on the CPU
    whatever the default device.
    """
    for name, value in module.make_constants().items():
        module.register_buffer(name, value, persistent=False)


# ----------------------------------------------------------------------------------------------- attention and layers


def to_autocast_dtype(states: torch.Tensor) -> torch.Tensor:
    """
    Cast states to the autocast dtype if autocast is enabled. This avoids a cast back and forth at every linear layer
    and halves the memory traffic in between.
    """
    device_type = states.device.type
    # The meta device has no autocast, and torch.compile cannot trace `is_autocast_available` before torch 2.12.
    if device_type == "meta" or not torch.is_autocast_enabled(device_type):
        return states
    return states.to(torch.get_autocast_dtype(device_type))


class Dropout(nn.Dropout):
    """Dropout module based on [`fast_dropout`]."""

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        return fast_dropout(states, self.p, self.training)


def drop_path(states: torch.Tensor, rate: float, training: bool) -> torch.Tensor:
    """Stochastic depth (Huang et al., 2016): zero random sequences of `(B, S, D)` and rescale the others."""
    if not training or not rate:
        return states
    keep = torch.rand((states.shape[0], 1, 1), device=states.device) >= rate
    return states * (keep.to(states.dtype) / (1.0 - rate))


def eager_attention_forward(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    **kwargs: Unpack[TransformersKwargs],
) -> tuple[torch.Tensor, torch.Tensor]:
    """
    Attention that returns its weights. A boolean mask is True where attention is allowed; a float mask is added to the
    scores. Like every attention function of transformers, it applies `dropout` whether or not the module is training.
    """
    scores = torch.matmul(query, key.transpose(2, 3)) * scaling
    if attention_mask is not None:
        if attention_mask.dtype == torch.bool:
            scores = scores.masked_fill(~attention_mask, torch.finfo(scores.dtype).min)
        else:
            scores = scores + attention_mask
    weights = F.softmax(scores, dim=-1, dtype=torch.float32).to(query.dtype)
    output = torch.matmul(fast_dropout(weights, dropout, training=dropout > 0), value)
    return output.transpose(1, 2).contiguous(), weights


class EcgAttention(nn.Module):
    """
    Multi-head self- or cross-attention, computed by the attention interface of transformers or an
    [`AttentionPattern`].

    Args:
        config (`PreTrainedConfig`):
            Its optional fields `qkv_bias` (default `True`), `head_dim` (default `hidden_size / num_heads`) and
            `attention_probs_dropout_prob` (default 0) are used.
        hidden_size (`int`):
            Size of the hidden states.
        num_heads (`int`):
            Number of attention heads. Must divide `hidden_size` unless the config has a `head_dim`.
    """

    def __init__(self, config: PreTrainedConfig, hidden_size: int, num_heads: int):
        super().__init__()
        self.config = config
        self.head_dim = getattr(config, "head_dim", None) or hidden_size // num_heads
        self.scaling = self.head_dim**-0.5
        self.attention_dropout = getattr(config, "attention_probs_dropout_prob", 0.0)
        self.is_causal = False
        bias, inner_size = getattr(config, "qkv_bias", True), num_heads * self.head_dim
        self.q_proj = nn.Linear(hidden_size, inner_size, bias=bias)
        self.k_proj = nn.Linear(hidden_size, inner_size, bias=bias)
        self.v_proj = nn.Linear(hidden_size, inner_size, bias=bias)
        self.o_proj = nn.Linear(inner_size, hidden_size)

    def forward(
        self,
        hidden_states: torch.Tensor,
        attention_mask: torch.Tensor | AttentionPattern | None = None,
        key_value_states: torch.Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """
        Compute attention.

        Args:
            hidden_states (`torch.Tensor` of shape `(B, S, D)`):
                States of the queries.
            attention_mask (`torch.Tensor` of shape `(1 or B, 1, S, S')` or [`AttentionPattern`], *optional*):
                True where attention is allowed, or a float mask that is added to the scores.
            key_value_states (`torch.Tensor` of shape `(B, S', D)`, *optional*, defaults to `hidden_states`):
                States of keys and values.

        Returns:
            `tuple[torch.Tensor, torch.Tensor | None]`: States `(B, S, D)`, and attention weights `(B, H, S, S')` if
            the attention implementation returns them.
        """
        tokens = hidden_states if key_value_states is None else key_value_states
        query, key, value = (
            states.view(*states.shape[:-1], -1, self.head_dim).transpose(1, 2)
            for states in (self.q_proj(hidden_states), self.k_proj(tokens), self.v_proj(tokens))
        )
        weights = None
        if attention_mask is None or isinstance(attention_mask, torch.Tensor):
            output, weights = self.attend(query, key, value, attention_mask, **kwargs)
        else:
            output = attention_mask.attend(self, query, key, value, **kwargs)
        return self.o_proj(output.flatten(2)), weights

    def attend(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        attention_mask: torch.Tensor | None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Compute states `(B, S, H, head_dim)` and weights from queries, keys and values `(B, H, S, head_dim)`."""
        if attention_mask is not None and attention_mask.is_floating_point():
            attention_mask = attention_mask.to(query.dtype)  # autocast may have changed the dtype of the query
        dropout = self.attention_dropout if self.training else 0.0
        attention: Callable = ALL_ATTENTION_FUNCTIONS.get_interface(
            self.config._attn_implementation, eager_attention_forward
        )
        if dropout and query.device.type == "cpu" and not torch.compiler.is_compiling():
            attention = eager_attention_forward  # faster than SDPA with dropout on a CPU
        return attention(self, query, key, value, attention_mask, dropout=dropout, scaling=self.scaling, **kwargs)


class PostNormLayer(GradientCheckpointingLayer):
    """
    Transformer layer with normalization after the residual connections (post-norm).

    Args:
        config (`PreTrainedConfig`):
            Its fields `layer_norm_eps`, `hidden_act` and `hidden_dropout_prob` are used, see also [`EcgAttention`].
        hidden_size, num_heads, intermediate_size (`int`):
            Sizes of this layer.
    """

    def __init__(self, config: Any, hidden_size: int, num_heads: int, intermediate_size: int):
        super().__init__()
        self.attention = EcgAttention(config, hidden_size, num_heads)
        self.attention_norm = nn.LayerNorm(hidden_size, eps=config.layer_norm_eps)
        self.fc1 = nn.Linear(hidden_size, intermediate_size)
        self.activation = ACT2FN[config.hidden_act]
        self.fc2 = nn.Linear(intermediate_size, hidden_size)
        self.feed_forward_norm = nn.LayerNorm(hidden_size, eps=config.layer_norm_eps)
        self.dropout = Dropout(config.hidden_dropout_prob)

    def forward(
        self,
        hidden_states: torch.Tensor,
        attention_mask: torch.Tensor | AttentionPattern | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> torch.Tensor:
        attended, _ = self.attention(hidden_states, attention_mask, **kwargs)
        # On some devices, layer normalization returns float32 under autocast.
        hidden_states = self.attention_norm(hidden_states + self.dropout(attended)).to(hidden_states.dtype)
        expanded = self.dropout(self.activation(self.fc1(hidden_states)))
        return self.feed_forward_norm(hidden_states + self.dropout(self.fc2(expanded))).to(hidden_states.dtype)


class PreNormLayer(GradientCheckpointingLayer):
    """
    Transformer layer with normalization before attention and feed-forward network (pre-norm).

    Args:
        config (`PreTrainedConfig`):
            Its fields `layer_norm_eps`, `hidden_act` and, if it has one, `hidden_dropout_prob` are used, see also
            [`EcgAttention`].
        hidden_size, num_heads, intermediate_size (`int`):
            Sizes of this layer.
        drop_path_rate (`float`, *optional*, defaults to 0.0):
            Stochastic depth rate of attention and feed-forward network.
    """

    def __init__(
        self, config: Any, hidden_size: int, num_heads: int, intermediate_size: int, drop_path_rate: float = 0.0
    ):
        super().__init__()
        self.drop_path_rate = drop_path_rate
        self.attention_norm = nn.LayerNorm(hidden_size, eps=config.layer_norm_eps)
        self.attention = EcgAttention(config, hidden_size, num_heads)
        self.feed_forward_norm = nn.LayerNorm(hidden_size, eps=config.layer_norm_eps)
        self.fc1 = nn.Linear(hidden_size, intermediate_size)
        self.activation = ACT2FN[config.hidden_act]
        self.fc2 = nn.Linear(intermediate_size, hidden_size)
        self.dropout = Dropout(getattr(config, "hidden_dropout_prob", 0.0))

    def forward(
        self,
        hidden_states: torch.Tensor,
        attention_mask: torch.Tensor | AttentionPattern | None = None,
        positions: torch.Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> torch.Tensor:
        """`positions` `(1 or B, S, D)` are added to the input states `(B, S, D)`."""
        if positions is not None:
            hidden_states = hidden_states + positions
        attended, _ = self.attention(self.attention_norm(hidden_states), attention_mask, **kwargs)
        hidden_states = hidden_states + drop_path(self.dropout(attended), self.drop_path_rate, self.training)
        expanded = self.fc2(self.dropout(self.activation(self.fc1(self.feed_forward_norm(hidden_states)))))
        return hidden_states + drop_path(self.dropout(expanded), self.drop_path_rate, self.training)


# ------------------------------------------------------------------------------------------------------------- losses


def infer_problem_type(config: PreTrainedConfig, labels: torch.Tensor) -> str:
    """
    Infer the problem type from the labels, as transformers does: a single label means `"regression"`, integer class
    indices mean `"single_label_classification"`, and anything else means `"multi_label_classification"`.

    Unlike in transformers, a single label that has a name or is boolean, which is a diagnosis, and integer labels of
    shape `(batch_size, num_labels)` mean `"multi_label_classification"`.
    """
    names = list((config.id2label or {}).values())
    if len(names) == 1:
        is_regression = names == ["LABEL_0"] and labels.dtype != torch.bool
        return "regression" if is_regression else "multi_label_classification"
    has_class_indices = labels.ndim == 1 and not labels.is_floating_point()
    return "single_label_classification" if has_class_indices else "multi_label_classification"


def masked_loss_mean(losses: torch.Tensor, known: torch.Tensor) -> torch.Tensor:
    """Mean of the losses where `known` is True, or a differentiable zero if it is False everywhere."""
    return losses.masked_fill(~known, 0.0).sum() / known.sum().clamp(min=1)


def masked_binary_cross_entropy(
    logits: torch.Tensor, labels: torch.Tensor, positive_weights: torch.Tensor | None = None
) -> torch.Tensor:
    """
    Mean binary cross-entropy of the known labels, or zero if there are none.

    Args:
        logits (`torch.FloatTensor` of shape `(batch_size, num_labels)`):
            Scores before the sigmoid.
        labels (`torch.FloatTensor` of shape `(batch_size, num_labels)`):
            Targets from 0 to 1, NaN where unknown.
        positive_weights (`torch.FloatTensor` of shape `(num_labels,)`, *optional*):
            Weight of the positives of each label.
    """
    losses = F.binary_cross_entropy_with_logits(
        logits, labels.nan_to_num(0.0), reduction="none", pos_weight=positive_weights
    )
    return masked_loss_mean(losses, ~labels.isnan())


def classification_loss(
    labels: torch.Tensor, logits: torch.Tensor, config: PreTrainedConfig, **kwargs: object
) -> torch.Tensor:
    """
    Loss for `config.problem_type`: binary cross-entropy (multi-label), cross-entropy (single-label) or mean squared
    error (regression). Unknown labels are ignored; the loss is zero if all are unknown.

    Args:
        labels (`torch.Tensor`):
            Multi-label targets or regression values `(batch_size, num_labels)`, NaN where unknown; or class indices
            `(batch_size,)`, -100 where unknown.
        logits (`torch.FloatTensor` of shape `(batch_size, num_labels)`):
            Scores.
        config ([`PreTrainedConfig`]):
            Its `problem_type` selects the loss. If it is `None` it is set by [`infer_problem_type`], so that it is
            saved with the model.

    Raises:
        `ValueError`: if the labels have the wrong shape or dtype, or multi-label targets are not between 0 and 1. On a
            GPU the range is asserted on the device, without synchronization.
    """
    if config.problem_type is None:
        config.problem_type = infer_problem_type(config, labels)  # type: ignore[assignment]
    logits = logits.float()
    if config.problem_type == "single_label_classification":
        check_shape("labels", labels, (logits.shape[0],))
        if labels.is_floating_point():
            raise ValueError(
                "labels must be integer class indices with problem_type='single_label_classification', got "
                f"{labels.dtype}: convert them with labels.long() or set another problem_type."
            )
        labels = labels.to(logits.device).long()
        losses = F.cross_entropy(logits, labels, reduction="none", ignore_index=IGNORED_LABEL)
        return masked_loss_mean(losses, labels != IGNORED_LABEL)

    if config.problem_type == "regression":
        if logits.shape[1] == 1 and labels.ndim == 1:
            labels = labels[:, None]
        check_shape("labels", labels, tuple(logits.shape))
        labels = labels.to(logits)
        return masked_loss_mean(F.mse_loss(logits, labels.nan_to_num(0.0), reduction="none"), ~labels.isnan())

    check_shape("labels", labels, tuple(logits.shape))
    _check_probabilities(labels)
    return masked_binary_cross_entropy(logits, labels.to(logits))


def _check_probabilities(labels: torch.Tensor) -> None:
    valid = (((labels >= 0) & (labels <= 1)) | labels.isnan()).all()
    message = (
        "labels must be between 0 and 1 or NaN with problem_type='multi_label_classification': set "
        "problem_type='regression' for continuous values or 'single_label_classification' for class indices."
    )
    # Only some devices support asynchronous assertions.
    valid = valid if valid.device.type in ("cpu", "cuda", "meta") else valid.cpu()
    try:
        torch._assert_async(valid, message)
    except RuntimeError as error:
        raise ValueError(message) from error


def sample_classification_loss(
    labels: torch.Tensor, logits: torch.Tensor, config: PreTrainedConfig, **kwargs: object
) -> torch.Tensor:
    """
    Mean cross-entropy of the samples whose class is known, or zero if there are none.

    Args:
        labels (`torch.LongTensor` of shape `(batch_size, num_leads, T)`):
            Class indices, -100 where unknown.
        logits (`torch.FloatTensor` of shape `(batch_size, num_leads, T, num_labels)`):
            Scores.
    """
    losses = F.cross_entropy(
        logits.float().flatten(0, 2), labels.flatten(), reduction="none", ignore_index=IGNORED_LABEL
    )
    return masked_loss_mean(losses, labels.flatten() != IGNORED_LABEL)


# ------------------------------------------------------------------------------------------------------------- models


def masked_mean(states: torch.Tensor, present: torch.Tensor) -> torch.Tensor:
    """
    Mean `(B, D)` of the states `(B, X, D)` where the mask `present` `(B, X)` is True or 1; zero if it is nowhere.
    """
    weights = present[..., None].to(states.dtype)
    return (states * weights).sum(dim=1) / weights.sum(dim=1).clamp(min=1)


class EcgHead(nn.Module):
    """
    Base class of heads, which pool the states of an encoder to one feature vector per recording.

    Subclasses define `forward`, which maps an [`EcgModelOutput`] to a feature `(B, D)` and to group states `(B, G, D)`
    or `None`. A head that reads more than `lead_states` and `present_leads` sets `reads_tokens`: on a frozen encoder,
    only these two are computed in advance.
    """

    reads_tokens: ClassVar[bool] = False

    def __init__(self, config: Any):
        super().__init__()
        self.config = config


class MeanHead(EcgHead):
    """Mean of the states of the present leads."""

    def forward(self, outputs: Any) -> tuple[torch.Tensor, torch.Tensor | None]:
        return masked_mean(outputs.lead_states, outputs.present_leads), None


class AttentionHead(EcgHead):
    """
    Multi-head attention of a single learned query to all present tokens (pooling by multi-head attention, Lee et al.,
    "Set Transformer", ICML 2019), without biases. The linear classifier is its output projection. The feature is zero
    if a recording has no token.

    Args:
        config (`PreTrainedConfig`):
            Its fields `hidden_size` and `num_pooling_heads` are used.
    """

    reads_tokens = True

    def __init__(self, config: Any):
        super().__init__(config)
        width = config.hidden_size
        # By default as many heads as divide the width, at most 16.
        num_heads = config.num_pooling_heads or max(count for count in range(1, 17) if width % count == 0)
        self.head_dim = width // num_heads
        self.scaling = self.head_dim**-0.5
        self.is_causal = False
        self.query = nn.Parameter(torch.zeros(1, 1, width))
        self.q_proj = nn.Linear(width, width, bias=False)
        self.k_proj = nn.Linear(width, width, bias=False)
        self.v_proj = nn.Linear(width, width, bias=False)

    def forward(self, outputs: Any) -> tuple[torch.Tensor, torch.Tensor | None]:
        tokens = outputs.last_hidden_state
        query, key, value = (
            states.unflatten(2, (-1, self.head_dim)).transpose(1, 2)
            for states in (
                self.q_proj(self.query).expand(len(tokens), -1, -1),
                self.k_proj(tokens),
                self.v_proj(tokens),
            )
        )
        mask = any_present = None
        if outputs.token_mask is not None:
            any_present = outputs.token_mask.any(dim=1, keepdim=True)
            # Without any token, attend to all, since the softmax of an empty row is not a number.
            mask = (outputs.token_mask | ~any_present)[:, None, None, :]
        attention: Callable = ALL_ATTENTION_FUNCTIONS.get_interface(
            self.config._attn_implementation, eager_attention_forward
        )
        pooled, _ = attention(self, query, key, value, mask, dropout=0.0, scaling=self.scaling)
        feature = pooled.flatten(1)
        return feature if any_present is None else feature * any_present, None


class RhythmClassifier(nn.Module):
    """
    Linear map from rhythm features to logits, without bias. An extension of the papers.

    It starts with zeros, so that a new classifier has the logits of its head alone. It is no `nn.Linear`, which
    systems initialize in their own ways.

    Args:
        config (`PreTrainedConfig`):
            Its fields `rhythm_features` and `id2label` are used.
    """

    def __init__(self, config: Any):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(len(config.id2label or {}), len(config.rhythm_features)))

    def forward(self, rhythm: torch.Tensor) -> torch.Tensor:
        """Logits `(batch_size, num_labels)` of rhythm features `(batch_size, num_features)`."""
        return F.linear(rhythm.to(self.weight.dtype), self.weight)


class Familiarity(nn.Module):
    """
    Distance of a recording from the training recordings of a classifier, an extension of the papers.

    It is a Mahalanobis distance in the features of the encoder (Lee et al., A simple unified framework for detecting
    out-of-distribution samples and adversarial attacks, 2018), but of all recordings together instead of a class, and
    with a covariance of low rank and one variance in all other directions (Tipping and Bishop, Probabilistic principal
    component analysis, 1999). The larger distance of two features counts: that of the mean over leads, and that of the
    states of all leads, where missing leads count as average. The unit is the threshold: only recordings with a
    distance above 1 are unlike the training recordings. All values are buffers, and probabilities do not depend on
    them.

    Args:
        config (`PreTrainedConfig`):
            Its fields `familiarity` and `hidden_size` are used.
    """

    def __init__(self, config: Any):
        super().__init__()
        sizes = {"pooled": config.hidden_size, "leads": int(config.familiarity["num_rows"]) * config.hidden_size}
        self.parts = [name for name in sizes if f"{name}_rank" in config.familiarity]
        for name in self.parts:
            rank = int(config.familiarity[f"{name}_rank"])
            self.register_buffer(f"{name}_mean", torch.zeros(sizes[name]))
            self.register_buffer(f"{name}_components", torch.zeros(rank, sizes[name]))
            self.register_buffer(f"{name}_scales", torch.zeros(rank + 1))

    def forward(self, outputs: Any) -> torch.Tensor:
        """Distance `(batch_size,)` of the [`EcgModelOutput`] of the encoder."""
        states, present = outputs.lead_states.float(), outputs.present_leads.bool()
        distances = []
        for name in self.parts:
            mean, components, scales = (
                getattr(self, f"{name}_{kind}").float() for kind in ("mean", "components", "scales")
            )
            if name == "pooled":
                centered = masked_mean(states, present) - mean
            else:
                centered = ((states - mean.view(states.shape[1:])) * present[..., None]).flatten(1)
            scores = centered @ components.T
            remaining = (centered.square().sum(dim=1) - scores.square().sum(dim=1)).clamp(min=0)
            inside = (scores * scales[:-1]).square().sum(dim=1)
            distances.append((inside + remaining * scales[-1].square()).sqrt())
        return torch.stack(distances).amax(dim=0)


def add_rhythm(
    logits: torch.Tensor, rhythm_classifier: RhythmClassifier | None, rhythm: torch.Tensor | None
) -> torch.Tensor:
    """
    Add the logits of the rhythm to those of a head.

    Args:
        logits (`torch.FloatTensor` of shape `(batch_size, num_labels)`):
            Logits of the head.
        rhythm_classifier ([`RhythmClassifier`], *optional*):
            Part of classifiers whose `config.rhythm_features` is set.
        rhythm (`torch.FloatTensor` of shape `(batch_size, num_features)`, *optional*):
            Rhythm features. Required if and only if there is a `rhythm_classifier`.

    Raises:
        `ValueError`: if the shape is wrong, or `rhythm` is missing or unexpected.
    """
    if rhythm_classifier is None:
        if rhythm is not None:
            raise ValueError(
                "rhythm was passed, but config.rhythm_features of the model is empty: use the feature extractor "
                "saved with the model."
            )
        return logits
    if rhythm is None:
        raise ValueError(
            "rhythm is required because config.rhythm_features of the model is set: use the feature extractor saved "
            "with the model, which returns it for recordings."
        )
    check_shape("rhythm", rhythm, (logits.shape[0], rhythm_classifier.weight.shape[1]))
    return logits + rhythm_classifier(rhythm)


class EcgPreTrainedModel(PreTrainedModel):
    """Base class of all models: validation of the config, initialization, loading and saving."""

    config: EcgConfig
    has_time_states: ClassVar[bool] = False
    """Whether `last_hidden_state` has one state of all leads for each time, in order of time."""
    main_input_name = "input_values"
    input_modalities: Any = "time"
    supports_gradient_checkpointing = True
    # Otherwise Trainer would assume that the loss is normalized by `num_items_in_batch`.
    accepts_loss_kwargs = False
    _supports_sdpa = True
    _supports_attention_backend = True
    # Flash and flex attention are not supported: they accept no boolean mask of pairs.

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        # Folders are saved with the code of the classes that the config lists.
        for auto_class, name in getattr(cls.config_class, "auto_classes", {}).items():
            if name == cls.__name__:
                cls._auto_class = auto_class

    def __init__(self, config: EcgConfig):
        super().__init__(config)
        config.validate_architecture()  # fields may have been changed since the config was created

    def depth_groups(self) -> list[list[str]]:
        """
        Parameters of an encoder by depth, for learning rates that decrease from the output to the input: groups of
        names of parameters, or of modules that contain them, the input first. Parameters that no group names belong to
        the first one.

        By default, parameters of `layers.i`, or of `stages.i` of convolutional towers, are in group `i + 1`, and final
        norms in the last group. An encoder with other parts overrides it.
        """
        numbers: dict[str, int] = {}
        for name, _ in self.named_parameters():
            # Stages of convolutional towers contain layers.
            match = re.search(r"(?:^|\.)stages\.(\d+)\.", name) or re.search(r"(?:^|\.)layers?\.(\d+)\.", name)
            if match:
                numbers[name] = int(match.group(1)) + 1
        last = max([getattr(self.config, "num_hidden_layers", 0), *numbers.values()])
        groups: list[list[str]] = [[] for _ in range(last + 1)]
        for name, _ in self.named_parameters():
            is_final_norm = re.search(r"(?:^|\.)(?:final_|layer_?|post_?layer)?norm\.\w+$", name)
            groups[numbers.get(name, last if is_final_norm else 0)].append(name)
        return groups

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, RhythmClassifier):
            init.zeros_(module.weight)
        if isinstance(module, AttentionHead):
            init.normal_(module.query, std=getattr(self.config, "initializer_range", 0.02))
        make_constants: Callable[[], dict[str, torch.Tensor]] | None = getattr(module, "make_constants", None)
        for name, value in (make_constants() if make_constants else {}).items():
            init.copy_(getattr(module, name), value)


class MomentumTeacher(EcgPreTrainedModel):
    """
    Base class of pre-training models with teachers: copies of some of their modules, which are initialized with the
    weights of their students and then follow these as exponential moving averages.

    Subclasses define `momentum_pairs` and, if the momentum is not constant, `momentum_at`.
    """

    def momentum_pairs(self) -> list[tuple[nn.Module, nn.Module]]:
        """Each teacher and its student, which have the same modules."""
        raise NotImplementedError

    def momentum_at(self, progress: float) -> float:
        """Fraction of a teacher that remains after a step, at a finished fraction of the training steps."""
        raise NotImplementedError

    def initialize_weights(self) -> None:
        """Initialize weights that were not loaded. Teachers are initialized with the weights of their students."""
        super().initialize_weights()
        with torch.no_grad():
            for pair in self.momentum_pairs():
                teacher, student = (module.state_dict(keep_vars=True).values() for module in pair)
                for copy, original in zip(teacher, student, strict=True):
                    init.copy_(copy, original)

    def train(self, mode: bool = True) -> Self:
        """Set the training mode. Teachers never have gradients."""
        super().train(mode)
        for teacher, _ in self.momentum_pairs():
            teacher.requires_grad_(False)  # loading sets `requires_grad` of all parameters
        return self

    @torch.no_grad()
    def after_optimizer_step(self, progress: float) -> None:
        """
        Update the teachers.

        Args:
            progress (`float`):
                Completed fraction of the training steps, from 0 to 1.
        """
        for teacher, student in self.momentum_pairs():
            torch._foreach_lerp_(
                list(teacher.parameters()), list(student.parameters()), 1.0 - self.momentum_at(progress)
            )


class EcgForSequenceClassification(EcgPreTrainedModel):
    """
    Encoder with a pooling head and a linear classifier. Subclasses also inherit from the pre-trained base class of
    their system and define `forward`.

    With `config.rhythm_features`, which is an extension of the papers, a second linear map reads the rhythm of the
    recording, and the logits of both are added.

    Args:
        config (`PreTrainedConfig`):
            Its fields `head_type`, `classifier_dropout`, `rhythm_features`, `id2label` and `problem_type` are used,
            see also [`AttentionHead`].
    """

    encoder_class: ClassVar[Callable[..., PreTrainedModel]]
    head_classes: ClassVar[dict[str, type[EcgHead]]] = {"mean": MeanHead, "attention": AttentionHead}
    dropout_class: ClassVar[type[nn.Dropout]] = nn.Dropout

    def __init__(self, config: Any):
        super().__init__(config)
        self.num_labels = len(config.id2label or {})
        setattr(self, self.base_model_prefix, type(self).encoder_class(config))
        self.head = self.head_classes[config.head_type](config)
        self.dropout = self.dropout_class(config.classifier_dropout)
        self.classifier = nn.Linear(config.hidden_size, self.num_labels)
        self.rhythm_classifier = RhythmClassifier(config) if config.rhythm_features else None
        self.familiarity = Familiarity(config) if config.familiarity else None
        self.loss_function = classification_loss
        self.post_init()

    def classify(
        self,
        outputs: Any,
        labels: torch.Tensor | None = None,
        rhythm: torch.Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> EcgClassifierOutput:
        """
        Compute logits and, if labels are given, the loss.

        Args:
            outputs ([`EcgModelOutput`]):
                Output of the encoder.
            labels (`torch.Tensor` of shape `(batch_size, num_labels)` or `(batch_size,)`, *optional*):
                Targets from 0 to 1, NaN where unknown (`"multi_label_classification"`); class indices, -100 where
                unknown (`"single_label_classification"`); or values, NaN where unknown (`"regression"`).
            rhythm (`torch.FloatTensor` of shape `(batch_size, num_features)`, *optional*):
                Rhythm features of the feature extractor. Required if and only if `config.rhythm_features` is set.

        Raises:
            `ValueError`: if the labels do not match the problem type, or `rhythm` is missing or unexpected.
        """
        feature, group_states = self.head(outputs)
        logits = add_rhythm(self.classifier(self.dropout(feature)), self.rhythm_classifier, rhythm)
        return EcgClassifierOutput(
            loss=None if labels is None else self.loss_function(labels, logits, self.config, **kwargs),
            logits=logits,
            group_states=group_states,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
            distance=None if self.familiarity is None else self.familiarity(outputs),
        )


__all__ = [
    "IGNORED_LABEL",
    "TEXT_INPUTS",
    "AttentionHead",
    "EcgClassifierOutput",
    "EcgForSequenceClassification",
    "EcgHead",
    "EcgModelOutput",
    "EcgPreTrainedModel",
    "Familiarity",
    "MeanHead",
    "MomentumTeacher",
    "RhythmClassifier",
    "classification_loss",
    "infer_problem_type",
    "masked_binary_cross_entropy",
    "masked_loss_mean",
    "masked_mean",
]
