"""Configuration of the S4 encoder: convolutions and structured state space layers."""

from collections.abc import Sequence
from dataclasses import field
from typing import Any, ClassVar, Literal

from .configuration_ecg import (
    COUNT,
    ENCODER,
    ENCODER_SAME_FEATURES,
    LAYERS,
    MAX_TOKENS,
    POSITIVE,
    RATE,
    EcgConfig,
    at_most,
    check_num_parameters,
    strict_config,
    valid_if,
)


MAX_STATE_SIZE = 1_024
MAX_KERNEL_SUMS = 100_000_000
"""Maximum number of terms from which the kernel of a layer is computed, channels x states x length; each takes 32
bytes of memory. The released size of ECG-CPC has 5 million."""
EVEN = valid_if("must be even and at least 2", lambda value: value >= 2 and value % 2 == 0)


@strict_config
class EcgS4Config(EcgConfig):
    r"""
    Configuration of [`EcgS4Model`] and [`EcgS4ForSequenceClassification`]: the network of ECG-CPC (Al-Masud, Lopez
    Alcaraz and Strodthoff, 2025, arXiv 2509.25095) for new models. It differs from the published network in its
    defaults: diagonal state spaces, layer normalization in the convolutions, 16 states and 100 Hz.

    Args:
        sampling_rate (`int`, *optional*, defaults to 100):
            Sampling rate of the signal [Hz].
        lead_names (`list[str]`, *optional*, defaults to the twelve standard leads):
            Names of the leads, in the order of `input_values`.
        hidden_size (`int`, *optional*, defaults to 512):
            Channels of convolutions and S4 layers.
        num_convolutions (`int`, *optional*, defaults to 4):
            Number of convolutions; all but the first one have a kernel of a single sample.
        conv_kernel_size, conv_stride (`int`, *optional*, default to 3 and 2):
            Kernel length [samples], which is odd, and stride of the first convolution. A recording of `T` samples has
            `ceil(T / conv_stride)` tokens; by default, a token every 20 ms.
        stem_norm (`str`, *optional*, defaults to `"layer"`):
            Normalization behind each convolution. `"layer"` normalizes the channels of a token, so that the states of
            a recording never depend on other recordings or on padding, and any division of a batch gives the same
            gradient; its convolutions have biases, without which a token would not depend on the amplitude. `"batch"`
            is that of the published network.
        batch_norm_eps (`float`, *optional*, defaults to 1e-5):
            Epsilon of batch normalization.
        use_batch_statistics (`bool`, *optional*, defaults to `False`):
            Whether batch normalization uses the mean and variance of the batch in training and updates the stored
            ones, as the authors' pre-training does. Otherwise the stored ones are used in training, too, so that
            gradients do not depend on the batch.
        num_hidden_layers (`int`, *optional*, defaults to 4):
            Number of S4 layers.
        kernel_type (`str`, *optional*, defaults to `"diagonal"`):
            Linear system of each channel: `"diagonal"` (S4D; Gu, Gupta, Goel and Ré, 2022), or `"nplr"`, the normal
            plus low-rank form of S4 (Gu, Goel and Ré, 2022), of which only the output weights are trained.
        state_size (`int`, *optional*, defaults to 16):
            States of the linear system of each channel; they are pairs of conjugate complex numbers.
        kernel_length (`int`, *optional*, defaults to 1200):
            Number of tokens for which the output weights of `"nplr"` systems are stored. It belongs to the weights and
            limits nothing; recordings may have any length.
        bidirectional (`bool`, *optional*, defaults to `False`):
            Whether states also depend on later tokens, by a second linear system of each channel in reversed time.
            Otherwise they are causal.
        hidden_dropout_prob (`float`, *optional*, defaults to 0.2):
            Dropout probability in each S4 layer. The same channels are dropped at all times.
        step_range (`list[float]`, *optional*, defaults to 0.001 and 0.1):
            Lowest and highest step of the linear systems [time constants per token] in a randomly initialized model.
        initializer_range (`float`, *optional*, defaults to 0.02):
            Standard deviation of the normal initialization of linear layers.
        layer_norm_eps, head_type, num_pooling_heads, classifier_dropout, problem_type, label_thresholds,
        label_calibration:
            See [`EcgConfig`].

    Example:

    ```python
    >>> from clear_hug_hf.modeling.configuration_ecg_s4 import EcgS4Config
    >>> from clear_hug_hf.modeling.modeling_ecg_s4 import EcgS4Model

    >>> model = EcgS4Model(EcgS4Config.preset("tiny"))
    ```
    """

    model_type: ClassVar[str] = "ecg_s4"
    auto_classes: ClassVar[dict[str, str]] = {
        "AutoModel": "EcgS4Model",
        "AutoModelForSequenceClassification": "EcgS4ForSequenceClassification",
    }
    presets: ClassVar[dict[str, dict[str, Any]]] = {
        # Trains on one CPU core within minutes.
        "tiny": {"hidden_size": 128},
        "small": {"hidden_size": 192},
        # The size of ECG-CPC.
        "base": {},
    }

    hidden_size: int = field(default=512, metadata=ENCODER | COUNT)
    num_convolutions: int = field(default=4, metadata=ENCODER | LAYERS)
    conv_kernel_size: int = field(
        default=3, metadata=ENCODER | at_most(1_000) | valid_if("must be odd", lambda value: value > 0 and value % 2)
    )
    conv_stride: int = field(default=2, metadata=ENCODER | COUNT | at_most(1_000))
    stem_norm: Literal["layer", "batch"] = field(default="layer", metadata=ENCODER)
    batch_norm_eps: float = field(default=1e-5, metadata=ENCODER | POSITIVE)
    use_batch_statistics: bool = field(default=False, metadata=ENCODER_SAME_FEATURES)

    num_hidden_layers: int = field(default=4, metadata=ENCODER | LAYERS)
    kernel_type: Literal["diagonal", "nplr"] = field(default="diagonal", metadata=ENCODER)
    state_size: int = field(default=16, metadata=ENCODER | EVEN | at_most(MAX_STATE_SIZE))
    kernel_length: int = field(default=1200, metadata=ENCODER | EVEN | at_most(MAX_TOKENS))
    bidirectional: bool = field(default=False, metadata=ENCODER)
    hidden_dropout_prob: float | int = field(default=0.2, metadata=ENCODER_SAME_FEATURES | RATE)
    step_range: list[float] | tuple[float, ...] = field(default=(0.001, 0.1), metadata=ENCODER_SAME_FEATURES)
    initializer_range: float = field(default=0.02, metadata=ENCODER_SAME_FEATURES | POSITIVE)

    def __post_init__(self, **kwargs: Any) -> None:
        if isinstance(self.step_range, Sequence):
            self.step_range = list(self.step_range)
        super().__post_init__(**kwargs)

    def validate_architecture(self) -> None:
        """See [`EcgConfig.validate_architecture`]."""
        super().validate_architecture()
        width = self.hidden_size
        check_num_parameters(
            self._count_familiarity()
            + width * self.num_leads * self.conv_kernel_size
            + width * width * (self.num_convolutions - 1)
            + width * (2 * width + 4 * self.state_size) * self.num_hidden_layers
        )
        sums = width * self.state_size * self.kernel_length
        if sums > MAX_KERNEL_SUMS:
            raise ValueError(
                f"hidden_size={width}, state_size={self.state_size} and kernel_length={self.kernel_length} result in "
                f"kernels of {sums:.2g} terms, but at most {MAX_KERNEL_SUMS:.2g} are allowed: reduce one of them."
            )
        if not (len(self.step_range) == 2 and 0 < self.step_range[0] <= self.step_range[1] < float("inf")):
            raise ValueError(f"step_range must be a lowest and a highest positive step, got {self.step_range}.")
        if self.use_batch_statistics and self.stem_norm != "batch":
            raise ValueError("use_batch_statistics requires stem_norm='batch'.")


__all__ = ["EcgS4Config"]
