"""Configuration of the ECG-CPC models (Al-Masud et al., 2025)."""

from collections.abc import Sequence
from dataclasses import field
from typing import Any, ClassVar

from .configuration_ecg import (
    COUNT,
    ENCODER,
    ENCODER_SAME_FEATURES,
    LAYERS,
    MAX_TOKENS,
    POSITIVE,
    PRETRAINING,
    RATE,
    SAMPLING_RATE,
    EcgConfig,
    at_most,
    check_num_parameters,
    strict_config,
    valid_if,
)


MAX_STATE_SIZE = 1_024
MAX_KERNEL_SUMS = 100_000_000
"""Maximum number of terms from which the kernel of a layer is computed, channels x states x length; each takes 32
bytes of memory. The released size has 5 million."""
EVEN = valid_if("must be even and at least 2", lambda value: value >= 2 and value % 2 == 0)


@strict_config
class EcgCpcConfig(EcgConfig):
    r"""
    Configuration of [`EcgCpcModel`], [`EcgCpcForPreTraining`] and [`EcgCpcForSequenceClassification`]. The defaults
    correspond to the released size of ECG-CPC (Al-Masud et al., 2025, arXiv 2509.25095).

    Args:
        sampling_rate (`int`, *optional*, defaults to 240):
            Sampling rate of the signal [Hz].
        lead_names (`list[str]`, *optional*, defaults to the twelve standard leads):
            Names of the leads, in the order of `input_values`.
        hidden_size (`int`, *optional*, defaults to 512):
            Channels of convolutions and S4 layers.
        num_convolutions (`int`, *optional*, defaults to 4):
            Number of convolutions; all but the first one have a kernel of a single sample.
        conv_kernel_size, conv_stride (`int`, *optional*, default to 3 and 2):
            Kernel length [samples], which is odd, and stride of the first convolution. A recording of `T` samples has
            `ceil(T / conv_stride)` tokens.
        batch_norm_eps (`float`, *optional*, defaults to 1e-5):
            Epsilon of the batch normalization behind each convolution.
        use_batch_statistics (`bool`, *optional*, defaults to `False`):
            Whether training normalizes by the mean and variance of the batch and updates the stored ones, as the
            authors' pre-training does. Otherwise the stored ones are used in training, too, so that gradients do not
            depend on the batch.
        num_hidden_layers (`int`, *optional*, defaults to 4):
            Number of S4 layers.
        state_size (`int`, *optional*, defaults to 8):
            States of the linear system of each channel; they are pairs of conjugate complex numbers.
        kernel_length (`int`, *optional*, defaults to 1200):
            Number of tokens for which the output weights of the linear systems are stored: 10 s. It belongs to the
            weights and limits nothing; recordings may have any length.
        hidden_dropout_prob (`float`, *optional*, defaults to 0.2):
            Dropout probability in each S4 layer. The same channels are dropped at all times.
        step_range (`list[float]`, *optional*, defaults to 0.001 and 0.1):
            Lowest and highest step of the linear systems [time constants per token] in a randomly initialized model.
        initializer_range (`float`, *optional*, defaults to 0.02):
            Standard deviation of the normal initialization of linear layers.
        prediction_steps (`int`, *optional*, defaults to 14):
            Pre-training predicts the output of the convolutions so many tokens ahead.
        num_negatives (`int`, *optional*, defaults to 128):
            Number of other tokens of the recording from which pre-training tells the true one apart.
        layer_norm_eps, head_type, num_pooling_heads, classifier_dropout, problem_type, label_thresholds:
            See [`EcgConfig`].

    Example:

    ```python
    >>> from clear_hug_hf.modeling.configuration_ecg_cpc import EcgCpcConfig
    >>> from clear_hug_hf.modeling.modeling_ecg_cpc import EcgCpcModel

    >>> model = EcgCpcModel(EcgCpcConfig.preset("tiny"))
    ```
    """

    model_type: ClassVar[str] = "ecg_cpc"
    auto_classes: ClassVar[dict[str, str]] = {
        "AutoModel": "EcgCpcModel",
        "AutoModelForPreTraining": "EcgCpcForPreTraining",
        "AutoModelForSequenceClassification": "EcgCpcForSequenceClassification",
    }
    presets: ClassVar[dict[str, dict[str, Any]]] = {
        # For demonstrations and tests.
        "tiny": {"hidden_size": 64, "num_hidden_layers": 2, "kernel_length": 300, "num_negatives": 16},
        # The released size.
        "base": {},
    }

    sampling_rate: int = field(default=240, metadata=ENCODER_SAME_FEATURES | SAMPLING_RATE)

    hidden_size: int = field(default=512, metadata=ENCODER | COUNT)
    num_convolutions: int = field(default=4, metadata=ENCODER | LAYERS)
    conv_kernel_size: int = field(
        default=3, metadata=ENCODER | at_most(1_000) | valid_if("must be odd", lambda value: value > 0 and value % 2)
    )
    conv_stride: int = field(default=2, metadata=ENCODER | COUNT | at_most(1_000))
    batch_norm_eps: float = field(default=1e-5, metadata=ENCODER | POSITIVE)
    use_batch_statistics: bool = field(default=False, metadata=ENCODER_SAME_FEATURES)

    num_hidden_layers: int = field(default=4, metadata=ENCODER | LAYERS)
    state_size: int = field(default=8, metadata=ENCODER | EVEN | at_most(MAX_STATE_SIZE))
    kernel_length: int = field(default=1200, metadata=ENCODER | EVEN | at_most(MAX_TOKENS))
    hidden_dropout_prob: float | int = field(default=0.2, metadata=ENCODER_SAME_FEATURES | RATE)
    step_range: list[float] | tuple[float, ...] = field(default=(0.001, 0.1), metadata=ENCODER_SAME_FEATURES)
    initializer_range: float = field(default=0.02, metadata=ENCODER_SAME_FEATURES | POSITIVE)

    prediction_steps: int = field(default=14, metadata=PRETRAINING | COUNT | at_most(MAX_TOKENS))
    num_negatives: int = field(default=128, metadata=PRETRAINING | COUNT | at_most(MAX_TOKENS))

    def __post_init__(self, **kwargs: Any) -> None:
        if isinstance(self.step_range, Sequence):
            self.step_range = list(self.step_range)
        super().__post_init__(**kwargs)

    def validate_architecture(self) -> None:
        """See [`EcgConfig.validate_architecture`]."""
        super().validate_architecture()
        width = self.hidden_size
        check_num_parameters(
            width * self.num_leads * self.conv_kernel_size
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


__all__ = ["EcgCpcConfig"]
