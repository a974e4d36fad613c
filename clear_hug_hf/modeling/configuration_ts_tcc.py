"""Configuration of temporal and contextual contrasting on any encoder with states in order of time."""

from dataclasses import field
from typing import Any, ClassVar

from .configuration_ecg import (
    ACTIVATION,
    COUNT,
    LAYERS,
    LOSS_WEIGHT,
    MAX_TOKENS,
    POSITIVE,
    PRETRAINING,
    RATE,
    at_most,
    check_num_parameters,
    estimate_num_parameters,
    strict_config,
)
from .configuration_objective import ObjectiveConfig


@strict_config
class TsTccConfig(ObjectiveConfig):
    r"""
    Configuration of [`TsTccForPreTraining`]. The defaults correspond to the paper (Eldele et al., "Time-Series
    Representation Learning via Temporal and Contextual Contrasting", IJCAI 2021, arXiv 2106.14112).

    Args:
        backbone_config (`EcgConfig` or `dict`):
            See [`ObjectiveConfig`].
        num_times (`int`, *optional*, defaults to 32):
            Number of times that states are averaged to. A backbone must return at least as many. The paper has up to
            127, where a time is a few samples.
        prediction_ratio (`float`, *optional*, defaults to 0.4):
            Fraction of the times that a context predicts.
        context_hidden_size, context_num_hidden_layers, context_num_attention_heads, context_intermediate_size (`int`,
            *optional*, default to 64, 4, 4 and 64):
            Hidden size, number of layers, number of attention heads and feed-forward size of the transformer that
            computes contexts.
        hidden_act (`str`, *optional*, defaults to `"relu"`):
            Activation function of its feed-forward layers.
        hidden_dropout_prob (`float`, *optional*, defaults to 0.1):
            Dropout probability after its attention, and inside and after its feed-forward layers.
        projection_sizes (`list[int]`, *optional*, defaults to `[64, 32]`):
            Sizes of the layers that project contexts to be compared between the views.
        temperature (`float`, *optional*, defaults to 0.2):
            Divisor of the cosine similarities of projected contexts.
        temporal_weight, contextual_weight (`float`, *optional*, default to 1.0 and 0.7):
            Weights of the two losses.
        layer_norm_eps (`float`, *optional*, defaults to 1e-5):
            Epsilon of the layer normalizations.
        initializer_range (`float`, *optional*, defaults to 0.1):
            Standard deviation of the normal initialization of all weights besides those of the backbone; about that of
            the released code. With 0.02, hundreds of steps pass before the temporal loss falls.
    """

    model_type: ClassVar[str] = "ts_tcc"

    num_times: int = field(default=32, metadata=PRETRAINING | COUNT | at_most(MAX_TOKENS))
    prediction_ratio: float = field(default=0.4, metadata=PRETRAINING | POSITIVE | RATE)
    context_hidden_size: int = field(default=64, metadata=PRETRAINING | COUNT)
    context_num_hidden_layers: int = field(default=4, metadata=PRETRAINING | LAYERS)
    context_num_attention_heads: int = field(default=4, metadata=PRETRAINING | COUNT)
    context_intermediate_size: int = field(default=64, metadata=PRETRAINING | COUNT)
    hidden_act: str = field(default="relu", metadata=PRETRAINING | ACTIVATION)
    hidden_dropout_prob: float | int = field(default=0.1, metadata=PRETRAINING | RATE)
    projection_sizes: list[int] | tuple[int, ...] = field(default=(64, 32), metadata=PRETRAINING)
    temperature: float | int = field(default=0.2, metadata=PRETRAINING | POSITIVE)
    temporal_weight: float | int = field(default=1.0, metadata=PRETRAINING | LOSS_WEIGHT)
    contextual_weight: float | int = field(default=0.7, metadata=PRETRAINING | LOSS_WEIGHT)
    layer_norm_eps: float = field(default=1e-5, metadata=PRETRAINING | POSITIVE)
    initializer_range: float = field(default=0.1, metadata=PRETRAINING | POSITIVE)

    def __post_init__(self, **kwargs: Any) -> None:
        self.projection_sizes = list(self.projection_sizes)
        super().__post_init__(**kwargs)

    @property
    def num_predictions(self) -> int:
        """`int`: Number of times that a context predicts."""
        # By rounding, decimal fractions of a whole number may be just below another.
        return int(self.prediction_ratio * self.num_times + 1e-9)

    def validate_architecture(self) -> None:
        """See [`EcgConfig.validate_architecture`]."""
        super().validate_architecture()
        width, heads = self.context_hidden_size, self.context_num_attention_heads
        if width % heads:
            raise ValueError(f"context_hidden_size={width} must be divisible by context_num_attention_heads={heads}.")
        if not self.num_predictions:
            raise ValueError(
                f"prediction_ratio={self.prediction_ratio} of num_times={self.num_times} is less than one time: "
                "increase one of them."
            )
        sizes = self.projection_sizes
        if not sizes or min(sizes) < 1:
            raise ValueError(f"projection_sizes must be positive, one per layer, got {sizes}.")
        rows = (1 + self.num_predictions) * self.hidden_size + max(sizes) * (1 + len(sizes))
        layers, inner = self.context_num_hidden_layers, self.context_intermediate_size
        check_num_parameters(estimate_num_parameters(width, layers, inner, rows))


__all__ = ["TsTccConfig"]
