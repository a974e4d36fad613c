"""Configuration of the ECG-CPC models (Al-Masud et al., 2025)."""

from dataclasses import field
from typing import Any, ClassVar, Literal

from .configuration_ecg import (
    COUNT,
    ENCODER,
    ENCODER_SAME_FEATURES,
    MAX_TOKENS,
    PRETRAINING,
    SAMPLING_RATE,
    at_most,
    strict_config,
)
from .configuration_ecg_s4 import EVEN, MAX_STATE_SIZE, EcgS4Config


@strict_config
class EcgCpcConfig(EcgS4Config):
    r"""
    Configuration of [`EcgCpcModel`], [`EcgCpcForPreTraining`] and [`EcgCpcForSequenceClassification`]. The defaults
    correspond to the released size of ECG-CPC (Al-Masud et al., 2025, arXiv 2509.25095).

    Args:
        sampling_rate (`int`, *optional*, defaults to 240):
            Sampling rate of the signal [Hz].
        lead_names (`list[str]`, *optional*, defaults to the twelve standard leads):
            Names of the leads, in the order of `input_values`.
        state_size (`int`, *optional*, defaults to 8):
            States of the linear system of each channel; they are pairs of conjugate complex numbers.
        prediction_steps (`int`, *optional*, defaults to 14):
            Pre-training predicts the output of the convolutions so many tokens ahead.
        num_negatives (`int`, *optional*, defaults to 128):
            Number of other tokens of the recording from which pre-training tells the true one apart.
        hidden_size, num_convolutions, conv_kernel_size, conv_stride, batch_norm_eps, use_batch_statistics,
            num_hidden_layers, kernel_length, hidden_dropout_prob, step_range, initializer_range:
            See [`EcgS4Config`].
        layer_norm_eps, head_type, num_pooling_heads, classifier_dropout, problem_type, label_thresholds,
        label_calibration:
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

    # What is fixed in the released network is no field, and not part of `config.json`.
    stem_norm: ClassVar[Literal["batch"]] = "batch"  # type: ignore[misc]
    kernel_type: ClassVar[Literal["nplr"]] = "nplr"  # type: ignore[misc]
    bidirectional: ClassVar[bool] = False  # type: ignore[misc]

    sampling_rate: int = field(default=240, metadata=ENCODER_SAME_FEATURES | SAMPLING_RATE)
    state_size: int = field(default=8, metadata=ENCODER | EVEN | at_most(MAX_STATE_SIZE))

    prediction_steps: int = field(default=14, metadata=PRETRAINING | COUNT | at_most(MAX_TOKENS))
    num_negatives: int = field(default=128, metadata=PRETRAINING | COUNT | at_most(MAX_TOKENS))

    def __post_init__(self, **kwargs: Any) -> None:
        for name in ("stem_norm", "kernel_type", "bidirectional"):
            if name in kwargs:
                raise ValueError(f"{name} is fixed in the released network: use EcgS4Config for others.")
        super().__post_init__(**kwargs)


__all__ = ["EcgCpcConfig"]
