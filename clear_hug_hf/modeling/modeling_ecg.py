"""
What the networks of all systems share: checks of inputs, random numbers and positions, attention and layers, outputs,
losses, and what makes them models of transformers.

Shapes: `B` recordings, `L` leads, `S` tokens, `D` the width.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

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
from .fast_forms import AttentionPattern, drop


IGNORED_LABEL = -100
"""Class of a recording or a sample that is unknown."""
TEXT_INPUTS = ("input_ids", "attention_mask", "inputs_embeds", "token_type_ids")
"""Inputs of language models, which wrappers such as peft pass to every model."""
_FLAGS = frozenset((*TransformersKwargs.__annotations__, "return_dict", "use_cache"))


# ----------------------------------------------------------------------------------------------------------- outputs


@dataclass
class EcgModelOutput(ModelOutput):
    """
    Output of an encoder of recordings.

    Args:
        last_hidden_state (`torch.FloatTensor` of shape `(batch_size, sequence_length, hidden_size)`):
            State of every token, in the order that the model describes. What stands at missing leads and times has no
            meaning.
        pooler_output (`torch.FloatTensor` of shape `(batch_size, hidden_size)`):
            The representation of the recording: the mean over what exists.
        lead_states (`torch.FloatTensor` of shape `(batch_size, num_leads, hidden_size)`):
            State of every lead.
        hidden_states (`tuple(torch.FloatTensor)`, *optional*, with `output_hidden_states=True`):
            The embeddings and the output of every layer, each of the shape of `last_hidden_state`; the last is
            `last_hidden_state` itself.
        attentions (`tuple(torch.FloatTensor)`, *optional*, with `output_attentions=True` and eager attention):
            Attention weights of every layer, each of shape `(batch_size, num_heads, sequence, sequence)`.
        present_leads (`torch.BoolTensor` of shape `(batch_size, num_leads)`):
            True for leads that were recorded and hold something: those whose states have a meaning.
    """

    last_hidden_state: torch.Tensor | None = None
    pooler_output: torch.Tensor | None = None
    lead_states: torch.Tensor | None = None
    hidden_states: tuple[torch.Tensor, ...] | None = None
    attentions: tuple[torch.Tensor, ...] | None = None
    present_leads: torch.Tensor | None = None


@dataclass
class EcgClassifierOutput(ModelOutput):
    """
    Output of a classifier.

    Args:
        loss (`torch.FloatTensor` of shape `()`, *optional*, with `labels`):
            [`classification_loss`], or [`sample_classification_loss`] of classifiers of samples.
        logits (`torch.FloatTensor` of shape `(batch_size, num_labels)` or `(batch_size, num_leads, T, num_labels)`):
            Scores before the sigmoid (multi-label) or softmax (single label), or the values of a regression: of the
            recording, or of every sample of every lead.
        group_states (`torch.FloatTensor` of shape `(batch_size, num_groups, hidden_size)`, *optional*):
            States of groups of leads, of heads that make them.
        hidden_states, attentions (`tuple(torch.FloatTensor)`, *optional*):
            Of the encoder, as in [`EcgModelOutput`].
    """

    loss: torch.Tensor | None = None
    logits: torch.Tensor | None = None
    group_states: torch.Tensor | None = None
    hidden_states: tuple[torch.Tensor, ...] | None = None
    attentions: tuple[torch.Tensor, ...] | None = None


# ------------------------------------------------------------------------------------------------------------ inputs


def expect_shape(name: str, tensor: torch.Tensor, *shapes: tuple[int | None, ...]) -> None:
    """
    Refuse a tensor that has none of these shapes; `None` stands for any length.

    Raises:
        `ValueError`: naming the tensor, the shapes that fit, and its own.
    """
    found = tuple(tensor.shape)
    for shape in shapes:
        if len(found) == len(shape) and all(one in (None, got) for one, got in zip(shape, found, strict=True)):
            return
    expected = " or ".join(str(shape).replace("None", "any") for shape in shapes)
    raise ValueError(f"{name} must have shape {expected}, got {found}.")


def find_present(
    shape: tuple[int, ...],
    attention_mask: torch.Tensor | None,
    lead_mask: torch.Tensor | None,
    device: torch.device,
) -> torch.Tensor:
    """
    Which beats or patches of the shape `(B, L, N)` exist: by an `attention_mask` `(B, N)` or `(B, L, N)` and a
    `lead_mask` `(B, L)`, by default all.

    Raises:
        `ValueError`: if a mask has another shape.
    """
    batch_size, num_leads, num_tokens = shape
    present = torch.ones(shape, dtype=torch.bool, device=device)
    if attention_mask is not None:
        expect_shape("attention_mask", attention_mask, (batch_size, num_tokens), shape)
        present = present & (attention_mask if attention_mask.ndim == 3 else attention_mask[:, None, :]).bool()
    if lead_mask is not None:
        expect_shape("lead_mask", lead_mask, (batch_size, num_leads))
        present = present & lead_mask[:, :, None].bool()
    return present


def further_arguments(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """
    What a model's `forward` was given beside its own inputs, without the inputs of texts: peft passes these, as
    `None`, to models of the tasks `SEQ_CLS` and `FEATURE_EXTRACTION`.

    Raises:
        `ValueError`: if one of texts is not `None`.
        `TypeError`: if one is neither, such as a misspelled mask, which would be left out in silence.
    """
    for name in arguments:
        if name in TEXT_INPUTS:
            if arguments[name] is not None:
                raise ValueError(f"{name} belongs to texts, which are not read here: leave it out.")
        elif name not in _FLAGS:
            raise TypeError(f"the model has no input {name!r}: its `forward` names those that it reads.")
    return {name: value for name, value in arguments.items() if name not in TEXT_INPUTS}


# --------------------------------------------------------------------------------------- random numbers and positions


def seeded_bits(seeds: torch.Tensor, counters: torch.Tensor) -> torch.Tensor:
    """
    64 random bits for each seed and counter that depend on nothing else: the same on every device, in any batch, for
    any number of processes (SplitMix64, the generator of Steele, Lea and Flood, OOPSLA 2014). Seeds are any whole
    numbers, counters those of [`seeded_counters`]; their shapes broadcast.
    """
    # Whole numbers of 64 bits wrap around when they are multiplied; the constants are those of the paper, signed.
    state = seeds + counters
    state = (state ^ (state >> 30 & 0x3FFFFFFFF)) * -4658895280553007687
    state = (state ^ (state >> 27 & 0x1FFFFFFFFF)) * -7723592293110705685
    return state ^ (state >> 31 & 0x1FFFFFFFF)


def seeded_counters(*shape: int) -> torch.Tensor:
    """Multiples of SplitMix64's step, from the first on. On the CPU whatever the default device: loading calls it."""
    return (torch.arange(1, torch.Size(shape).numel() + 1, device="cpu") * -7046029254386353131).view(shape)


def sincos_positions(positions: torch.Tensor, width: int) -> torch.Tensor:
    """
    Sines, then cosines, of positions `(X,)` at `width / 2` frequencies from 1 down to nearly 1 / 10000: `(X, width)`,
    in float64 and on the device of the positions.
    """
    exponents = torch.arange(width // 2, dtype=torch.float64, device=positions.device) / (width // 2)
    angles = positions.to(torch.float64)[:, None] * 10_000.0**-exponents
    return torch.cat((angles.sin(), angles.cos()), dim=1)


def register_constants(module: Any) -> None:
    """
    Give a module the buffers that its `make_constants()` computes from the config, by name. They are not saved:
    [`EcgPreTrainedModel`] computes them again when a model is loaded, which is built without numbers. Hence they are
    made on the CPU whatever the default device.
    """
    for name, value in module.make_constants().items():
        module.register_buffer(name, value, persistent=False)


# ----------------------------------------------------------------------------------------------- attention and layers


def to_autocast_dtype(states: torch.Tensor) -> torch.Tensor:
    """
    Under autocast, states in its dtype. Layers that pass them on like this save a cast, forth and back, at every
    linear map, and half of the memory traffic between the maps.
    """
    device_type = states.device.type
    if not (torch.amp.is_autocast_available(device_type) and torch.is_autocast_enabled(device_type)):
        return states
    return states.to(torch.get_autocast_dtype(device_type))


class Dropout(nn.Dropout):
    """Dropout as [`drop`] does it."""

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        return drop(states, self.p, self.training)


def drop_path(states: torch.Tensor, rate: float, training: bool) -> torch.Tensor:
    """Stochastic depth: zero for some of the sequences `(B, S, D)`, the others scaled up to keep the mean."""
    if not training or not rate:
        return states
    kept = torch.rand((states.shape[0], 1, 1), device=states.device) >= rate
    return states * (kept.to(states.dtype) / (1.0 - rate))


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
    Attention that returns its weights. A boolean mask is True where attention is allowed, a float one is added. As all
    attention functions it drops weights wherever `dropout` is not zero: [`EcgAttention`] gives it in training only.
    """
    scores = torch.matmul(query, key.transpose(2, 3)) * scaling
    if attention_mask is not None:
        if attention_mask.dtype == torch.bool:
            scores = scores.masked_fill(~attention_mask, torch.finfo(scores.dtype).min)
        else:
            scores = scores + attention_mask
    weights = F.softmax(scores, dim=-1, dtype=torch.float32).to(query.dtype)
    output = torch.matmul(drop(weights, dropout, training=dropout > 0), value)
    return output.transpose(1, 2).contiguous(), weights


class EcgAttention(nn.Module):
    """
    Multi-head attention of tokens to themselves or to others, through the attention interface of transformers or by an
    [`AttentionPattern`].

    Args:
        config (`PreTrainedConfig`):
            May have `qkv_bias` (by default True) and `attention_probs_dropout_prob` (by default 0).
        hidden_size (`int`):
            Width of the tokens.
        num_heads (`int`):
            Divides it.
    """

    def __init__(self, config: PreTrainedConfig, hidden_size: int, num_heads: int):
        super().__init__()
        self.config = config
        self.head_dim = hidden_size // num_heads
        self.scaling = self.head_dim**-0.5
        self.attention_dropout = getattr(config, "attention_probs_dropout_prob", 0.0)
        self.is_causal = False
        bias = getattr(config, "qkv_bias", True)
        self.q_proj = nn.Linear(hidden_size, hidden_size, bias=bias)
        self.k_proj = nn.Linear(hidden_size, hidden_size, bias=bias)
        self.v_proj = nn.Linear(hidden_size, hidden_size, bias=bias)
        self.o_proj = nn.Linear(hidden_size, hidden_size)

    def forward(
        self,
        hidden_states: torch.Tensor,
        attention_mask: torch.Tensor | AttentionPattern | None = None,
        key_value_states: torch.Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """
        States `(B, S, D)` of tokens `(B, S, D)`, and weights `(B, H, S, S')` where the attention gives them. The
        tokens attend to `key_value_states` `(B, S', D)`, by default to themselves, as far as the mask `(1 or B, 1, S,
        S')` allows: True where it does, or to be added to the scores.
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
        return self.o_proj(output.reshape(hidden_states.shape)), weights

    def attend(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        attention_mask: torch.Tensor | None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Queries, keys and values `(B, H, S, D / H)` to states `(B, S, H, D / H)` and weights."""
        if attention_mask is not None and attention_mask.is_floating_point():
            attention_mask = attention_mask.to(query.dtype)  # autocast may have lowered the query
        dropout = self.attention_dropout if self.training else 0.0
        attention: Callable = ALL_ATTENTION_FUNCTIONS.get_interface(
            self.config._attn_implementation, eager_attention_forward
        )
        if dropout and query.device.type == "cpu" and not torch.compiler.is_compiling():
            attention = eager_attention_forward  # with dropout, torch's SDPA is slower than this on a CPU
        return attention(self, query, key, value, attention_mask, dropout=dropout, scaling=self.scaling, **kwargs)


class PostNormLayer(GradientCheckpointingLayer):
    """
    A transformer layer that normalizes sums.

    Args:
        config (`PreTrainedConfig`):
            Has `layer_norm_eps`, `hidden_act` and `hidden_dropout_prob`; see also [`EcgAttention`].
        hidden_size, num_heads, intermediate_size (`int`):
            Of this layer.
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
        # On some devices autocast lets norms answer in float32.
        hidden_states = self.attention_norm(hidden_states + self.dropout(attended)).to(hidden_states.dtype)
        expanded = self.dropout(self.activation(self.fc1(hidden_states)))
        return self.feed_forward_norm(hidden_states + self.dropout(self.fc2(expanded))).to(hidden_states.dtype)


class PreNormLayer(GradientCheckpointingLayer):
    """
    A transformer layer that normalizes what its parts read.

    Args:
        config (`PreTrainedConfig`):
            Has `layer_norm_eps` and `hidden_act`; see also [`EcgAttention`].
        hidden_size, num_heads, intermediate_size (`int`):
            Of this layer.
        drop_path_rate (`float`, *optional*, defaults to 0.0):
            Share of the recordings that skip each part in training.
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

    def forward(
        self,
        hidden_states: torch.Tensor,
        attention_mask: torch.Tensor | AttentionPattern | None = None,
        positions: torch.Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> torch.Tensor:
        """`positions` `(1 or B, S, D)` are added to the states `(B, S, D)` before anything else."""
        if positions is not None:
            hidden_states = hidden_states + positions
        attended, _ = self.attention(self.attention_norm(hidden_states), attention_mask, **kwargs)
        hidden_states = hidden_states + drop_path(attended, self.drop_path_rate, self.training)
        expanded = self.fc2(self.activation(self.fc1(self.feed_forward_norm(hidden_states))))
        return hidden_states + drop_path(expanded, self.drop_path_rate, self.training)


# ------------------------------------------------------------------------------------------------------------- losses


def infer_problem_type(config: PreTrainedConfig, labels: torch.Tensor) -> str:
    """
    What a classifier learns whose config does not say it, by the rules of transformers: one label is a value
    (`"regression"`), class numbers are one class per recording (`"single_label_classification"`), and anything else is
    independent labels (`"multi_label_classification"`).

    Two things that transformers would get wrong are independent labels here: one label that has a name, or Booleans,
    which is a diagnosis; and whole numbers of shape `(batch_size, num_labels)`.
    """
    names = list((config.id2label or {}).values())
    if len(names) == 1:
        is_value = names == ["LABEL_0"] and labels.dtype != torch.bool
        return "regression" if is_value else "multi_label_classification"
    of_classes = labels.ndim == 1 and not labels.is_floating_point()
    return "single_label_classification" if of_classes else "multi_label_classification"


def known_mean(losses: torch.Tensor, known: torch.Tensor) -> torch.Tensor:
    """Mean of the losses that are known; zero, with a gradient, where none is."""
    return losses.masked_fill(~known, 0.0).sum() / known.sum().clamp(min=1)


def known_binary_cross_entropy(
    logits: torch.Tensor, labels: torch.Tensor, positive_weights: torch.Tensor | None = None
) -> torch.Tensor:
    """
    Binary cross-entropy of independent labels, averaged over those that are known; zero where none is. Scores and
    labels, 1, 0, or NaN where unknown, are `(batch_size, num_labels)`; a recording with a label counts as often as
    `positive_weights` `(num_labels,)` say.
    """
    losses = F.binary_cross_entropy_with_logits(
        logits, labels.nan_to_num(0.0), reduction="none", pos_weight=positive_weights
    )
    return known_mean(losses, ~labels.isnan())


def classification_loss(
    labels: torch.Tensor, logits: torch.Tensor, config: PreTrainedConfig, **kwargs: object
) -> torch.Tensor:
    """
    The loss that `config.problem_type` names: binary cross-entropy of independent labels, where NaN means that a label
    is unknown and counts for nothing; cross-entropy of one class, where -100 means unknown; or mean squared error,
    where NaN means unknown. Zero where nothing is known.

    Args:
        labels (`torch.Tensor`):
            `(batch_size, num_labels)` for several labels and for regression, class numbers `(batch_size,)` for one.
        logits (`torch.FloatTensor` of shape `(batch_size, num_labels)`):
            Scores.
        config ([`PreTrainedConfig`]):
            Holds `problem_type`. Where it is `None` it is set to what [`infer_problem_type`] says, so that a saved
            model tells what its scores are.

    Raises:
        `ValueError`: if the labels have another shape, independent labels do not lie between 0 and 1, or class numbers
            are not whole. On a GPU the range is asserted on the device, which does not wait for it.
    """
    if config.problem_type is None:
        config.problem_type = infer_problem_type(config, labels)  # type: ignore[assignment]
    logits = logits.float()
    if config.problem_type == "single_label_classification":
        expect_shape("labels", labels, (logits.shape[0],))
        if labels.is_floating_point():
            raise ValueError(
                "labels are class numbers with problem_type='single_label_classification' and must be whole numbers, "
                f"got {labels.dtype}: pass labels.long(), or set another problem_type."
            )
        labels = labels.to(logits.device).long()
        losses = F.cross_entropy(logits, labels, reduction="none", ignore_index=IGNORED_LABEL)
        return known_mean(losses, labels != IGNORED_LABEL)

    if config.problem_type == "regression":
        if logits.shape[1] == 1 and labels.ndim == 1:
            labels = labels[:, None]
        expect_shape("labels", labels, tuple(logits.shape))
        labels = labels.to(logits)
        return known_mean(F.mse_loss(logits, labels.nan_to_num(0.0), reduction="none"), ~labels.isnan())

    expect_shape("labels", labels, tuple(logits.shape))
    _expect_shares(labels)
    return known_binary_cross_entropy(logits, labels.to(logits))


def _expect_shares(labels: torch.Tensor) -> None:
    fit = (((labels >= 0) & (labels <= 1)) | labels.isnan()).all()
    message = (
        "labels must lie between 0 and 1, or be NaN, with problem_type='multi_label_classification': set "
        "problem_type='regression' for values such as an age, or 'single_label_classification' for class numbers."
    )
    # Not every kind of device can assert without waiting for it.
    fit = fit if fit.device.type in ("cpu", "cuda", "meta") else fit.cpu()
    try:
        torch._assert_async(fit, message)
    except RuntimeError as error:
        raise ValueError(message) from error


def sample_classification_loss(
    labels: torch.Tensor, logits: torch.Tensor, config: PreTrainedConfig, **kwargs: object
) -> torch.Tensor:
    """
    Cross-entropy of the class of every sample, of class numbers `(batch_size, num_leads, T)`, -100 where unknown, and
    scores `(batch_size, num_leads, T, num_labels)`; zero where none is known.
    """
    losses = F.cross_entropy(
        logits.float().flatten(0, 2), labels.flatten(), reduction="none", ignore_index=IGNORED_LABEL
    )
    return known_mean(losses, labels.flatten() != IGNORED_LABEL)


# ------------------------------------------------------------------------------------------------------------- models


def masked_mean(states: torch.Tensor, present: torch.Tensor) -> torch.Tensor:
    """
    The mean `(B, D)` of those of the states `(B, X, D)` that are True, or 1, in `present` `(B, X)`, such as those of
    the leads that were recorded; zero where there is none.
    """
    weights = present[..., None].to(states.dtype)
    return (states * weights).sum(dim=1) / weights.sum(dim=1).clamp(min=1)


class EcgHead(nn.Module):
    """
    Makes one feature of a recording of the states of its leads. A subclass has

        forward(lead_states (B, L, D), present_leads (B, L)) -> feature (B, D), states of groups (B, G, D) or None
    """

    def __init__(self, config: Any):
        super().__init__()
        self.config = config


class MeanHead(EcgHead):
    """The mean of the states of the leads that are there."""

    def forward(
        self, lead_states: torch.Tensor, present_leads: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        return masked_mean(lead_states, present_leads), None


class EcgPreTrainedModel(PreTrainedModel):
    """What all models share: checks of the config, initialization, loading and saving."""

    config: EcgConfig
    main_input_name = "input_values"
    input_modalities: Any = "time"
    supports_gradient_checkpointing = True
    # Trainer would otherwise take the loss for one that is divided by num_items_in_batch.
    accepts_loss_kwargs = False
    _supports_sdpa = True
    _supports_attention_backend = True
    # Neither flash nor flex attention: they take no boolean mask of pairs.

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        # Saved folders hold the code of what the config names for an Auto class.
        for auto_class, name in getattr(cls.config_class, "auto_classes", {}).items():
            if name == cls.__name__:
                cls._auto_class = auto_class

    def __init__(self, config: EcgConfig):
        super().__init__(config)
        config.validate_architecture()  # fields may have been set since the config was made

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        make_constants: Callable[[], dict[str, torch.Tensor]] | None = getattr(module, "make_constants", None)
        for name, value in (make_constants() if make_constants else {}).items():
            init.copy_(getattr(module, name), value)


class EcgForSequenceClassification(EcgPreTrainedModel):
    """
    An encoder with a head that makes one feature of the states of its leads, then a linear classifier. A subclass
    inherits from its system's pre-trained model, too, and states its inputs in `forward`. Of what it was saved with,
    it ignores what its encoder names in `_keys_to_ignore_on_load_unexpected`.

    Args:
        config (`PreTrainedConfig`):
            Has `head_type`, `classifier_dropout`, labels and `problem_type`.
    """

    encoder_class: ClassVar[Callable[..., PreTrainedModel]]
    head_classes: ClassVar[dict[str, type[EcgHead]]] = {"mean": MeanHead}
    dropout_class: ClassVar[type[nn.Dropout]] = nn.Dropout

    def __init__(self, config: Any):
        super().__init__(config)
        self.num_labels = len(config.id2label or {})
        setattr(self, self.base_model_prefix, type(self).encoder_class(config))
        self.head = self.head_classes[config.head_type](config)
        self.dropout = self.dropout_class(config.classifier_dropout)
        self.classifier = nn.Linear(config.hidden_size, self.num_labels)
        self.loss_function = classification_loss
        self.post_init()

    def classify(
        self, outputs: Any, labels: torch.Tensor | None = None, **kwargs: Unpack[TransformersKwargs]
    ) -> EcgClassifierOutput:
        """
        Scores of recordings, and their loss where there are labels.

        Args:
            outputs ([`EcgModelOutput`]):
                Of the encoder.
            labels (`torch.Tensor` of shape `(batch_size, num_labels)` or `(batch_size,)`, *optional*):
                0 or 1 per label, NaN where unknown (`"multi_label_classification"`); class numbers, -100 where unknown
                (`"single_label_classification"`); or values, NaN where unknown (`"regression"`).

        Raises:
            `ValueError`: if the labels do not fit the problem type.
        """
        feature, group_states = self.head(outputs.lead_states, outputs.present_leads)
        logits = self.classifier(self.dropout(feature))
        return EcgClassifierOutput(
            loss=None if labels is None else self.loss_function(labels, logits, self.config, **kwargs),
            logits=logits,
            group_states=group_states,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
        )


__all__ = [
    "IGNORED_LABEL",
    "TEXT_INPUTS",
    "EcgClassifierOutput",
    "EcgForSequenceClassification",
    "EcgHead",
    "EcgModelOutput",
    "EcgPreTrainedModel",
    "MeanHead",
    "classification_loss",
    "infer_problem_type",
    "known_binary_cross_entropy",
    "known_mean",
    "masked_mean",
]
