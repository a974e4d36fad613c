"""Configuration of the CRT models (Zhang et al., 2023)."""

from dataclasses import field
from typing import Any, ClassVar, Literal

from .configuration_ecg import (
    ACTIVATION,
    COUNT,
    ENCODER,
    ENCODER_SAME_FEATURES,
    LAYERS,
    LOSS_WEIGHT,
    MAX_SAMPLES,
    POSITIVE,
    PRETRAINING,
    RATE,
    EcgConfig,
    at_most,
    check_num_parameters,
    estimate_num_parameters,
    strict_config,
    transformer_sizes,
)


WIDTH_DIVISOR = 8
"""The hidden size, divided by the channels in the first stage of the patch encoders; each later stage doubles them."""


@strict_config
class CrtConfig(EcgConfig):
    r"""
    Configuration of [`CrtModel`], [`CrtForPreTraining`] and [`CrtForSequenceClassification`]. The defaults correspond
    to the layers of the cross reconstruction transformer (Zhang et al., "Self-Supervised Time Series Representation
    Learning via Cross Reconstruction Transformer", IEEE TNNLS 2023, arXiv 2205.09928), which reads 5,000 samples at
    500 Hz in the paper.

    Args:
        sampling_rate (`int`, *optional*, defaults to 100):
            Sampling rate of the signal [Hz].
        lead_names (`list[str]`, *optional*, defaults to the twelve standard leads):
            Names of the leads, in the order of `input_values`. A recording may contain a subset.
        num_samples (`int`, *optional*, defaults to 1000):
            Window length [samples]: an even number of patches, at least four.
        patch_size (`int`, *optional*, defaults to 20):
            Samples, or frequencies, per patch. A patch of all leads in one domain is one token.
        magnitude_scale (`str`, *optional*, defaults to `"log"`):
            `"log"` for the logarithm of one plus the magnitude of the spectrum, or `"raw"` for the magnitude, as in
            the paper. Raw magnitudes are so large that they dominate the reconstruction error.
        standardize_domains (`bool`, *optional*, defaults to `True`):
            Whether time, magnitude and phase of a recording are each standardized over its leads, so that none
            dominates the reconstruction error. They are not in the paper.
        hidden_size, num_hidden_layers, num_attention_heads, intermediate_size (`int`, *optional*, default to 128, 6, 8
            and 128):
            Hidden size, number of layers, number of attention heads and feed-forward size of the encoder. The hidden
            size must be divisible by 8, since the patch encoders have an eighth of it as channels in their first
            stage.
        head_dim (`int`, *optional*, defaults to 64):
            Size of each attention head of encoder and decoder.
        stage_depth (`int`, *optional*, defaults to 2):
            Residual blocks in each of the four stages of the patch encoders.
        patch_norm (`str`, *optional*, defaults to `"group"`):
            Normalization in the patch encoders: `"group"` normalizes the residual branches of each patch by itself, so
            that the result for a recording does not depend on the batch, or `"batch"` for batch normalization, as
            released.
        hidden_act (`str`, *optional*, defaults to `"gelu"`):
            Activation function of the feed-forward layers.
        qkv_bias (`bool`, *optional*, defaults to `False`):
            Whether queries, keys and values have a bias.
        hidden_dropout_prob (`float`, *optional*, defaults to 0.2):
            Dropout probability after the attention, and inside and after the feed-forward layers of the encoder.
        initializer_range (`float`, *optional*, defaults to 0.02):
            Standard deviation of the normal initialization of weights, embeddings and learned tokens.
        decoder_num_hidden_layers (`int`, *optional*, defaults to 2):
            Number of layers of the decoder, which is used in pre-training only. Its other sizes are those of the
            encoder.
        drop_ratio (`list[float]`, *optional*, defaults to `[0.3, 0.8]`):
            Lowest and highest fraction of the patches that pre-training drops. The fraction is that of the finished
            training, within these limits.
        discrimination_weight (`float`, *optional*, defaults to 1e-4):
            Weight of the instance discrimination loss.
        layer_norm_eps, head_type, num_pooling_heads, classifier_dropout, problem_type, label_thresholds,
        label_calibration:
            See [`EcgConfig`].

    Example:

    ```python
    >>> from clear_hug_hf import CrtConfig, CrtModel

    >>> model = CrtModel(CrtConfig.preset("tiny"))
    ```
    """

    model_type: ClassVar[str] = "crt"
    auto_classes: ClassVar[dict[str, str]] = {
        "AutoModel": "CrtModel",
        "AutoModelForPreTraining": "CrtForPreTraining",
        "AutoModelForSequenceClassification": "CrtForSequenceClassification",
    }
    presets: ClassVar[dict[str, dict[str, Any]]] = {
        # For demonstrations and tests.
        "tiny": transformer_sizes(width=64, layers=3, heads=4, inner=128)
        | {"head_dim": 16, "stage_depth": 1, "decoder_num_hidden_layers": 1},
        # The layers of the paper.
        "base": {},
    }

    num_samples: int = field(default=1000, metadata=ENCODER | COUNT | at_most(MAX_SAMPLES))
    patch_size: int = field(default=20, metadata=ENCODER | COUNT)
    magnitude_scale: Literal["log", "raw"] = field(default="log", metadata=ENCODER)
    standardize_domains: bool = field(default=True, metadata=ENCODER)

    hidden_size: int = field(default=128, metadata=ENCODER | COUNT)
    num_hidden_layers: int = field(default=6, metadata=ENCODER | LAYERS)
    num_attention_heads: int = field(default=8, metadata=ENCODER | COUNT)
    head_dim: int = field(default=64, metadata=ENCODER | COUNT)
    intermediate_size: int = field(default=128, metadata=ENCODER | COUNT)
    stage_depth: int = field(default=2, metadata=ENCODER | LAYERS)
    patch_norm: Literal["group", "batch"] = field(default="group", metadata=ENCODER)
    hidden_act: str = field(default="gelu", metadata=ENCODER | ACTIVATION)
    qkv_bias: bool = field(default=False, metadata=ENCODER)
    hidden_dropout_prob: float | int = field(default=0.2, metadata=ENCODER_SAME_FEATURES | RATE)
    initializer_range: float = field(default=0.02, metadata=ENCODER_SAME_FEATURES | POSITIVE)

    decoder_num_hidden_layers: int = field(default=2, metadata=PRETRAINING | LAYERS)
    drop_ratio: list[float | int] | tuple[float | int, ...] = field(default=(0.3, 0.8), metadata=PRETRAINING)
    discrimination_weight: float | int = field(default=1e-4, metadata=PRETRAINING | LOSS_WEIGHT)

    def __post_init__(self, **kwargs: Any) -> None:
        self.drop_ratio = list(self.drop_ratio)
        super().__post_init__(**kwargs)

    @property
    def num_patches(self) -> tuple[int, int, int]:
        """`tuple[int, int, int]`: Number of patches in time, magnitude and phase."""
        half = self.num_samples // self.patch_size // 2
        return 2 * half, half, half

    @property
    def stage_channels(self) -> tuple[int, ...]:
        """`tuple[int, ...]`: Channels of each stage of the patch encoders."""
        return tuple(self.hidden_size * factor // WIDTH_DIVISOR for factor in (1, 2, 4, 8))

    def num_dropped(self, progress: float) -> int:
        """
        Number of frequency patches to drop, at least one and not all, and half the number of time patches.

        Args:
            progress (`float`): Finished fraction of the training, from 0 to 1.
        """
        low, high = self.drop_ratio
        # By rounding, decimal fractions of a whole number may be just below another.
        return max(1, int(self.num_patches[1] * min(max(progress, low), high) + 1e-9))

    def validate_architecture(self) -> None:
        """See [`EcgConfig.validate_architecture`]."""
        super().validate_architecture()
        self._count_patches(self.num_samples, "patch_size")
        if self.num_samples % (2 * self.patch_size) or self.num_patches[1] < 2:
            raise ValueError(
                f"num_samples={self.num_samples} must be an even number of patches and at least four, since the "
                f"spectrum has half as many, but patch_size={self.patch_size}."
            )
        if self.hidden_size % WIDTH_DIVISOR:
            raise ValueError(
                f"hidden_size={self.hidden_size} must be divisible by {WIDTH_DIVISOR} for the patch encoders."
            )
        ratios = self.drop_ratio
        if len(ratios) != 2 or not 0 < ratios[0] <= ratios[1] < 1:
            raise ValueError(f"drop_ratio must be a lowest and a highest fraction between 0 and 1, got {ratios}.")
        self._check_transformers(("",), 2 * sum(self.num_patches) + 6 * self.num_leads * self.patch_size)
        inner = self.num_attention_heads * self.head_dim
        count = estimate_num_parameters(
            self.hidden_size, self.decoder_num_hidden_layers, self.intermediate_size, 0, inner
        )
        # Two convolutions of kernel 3 per block, for each of the three domains.
        check_num_parameters(
            self._count_familiarity()
            + count
            + sum(3 * 2 * self.stage_depth * 3 * width**2 for width in self.stage_channels)
        )


__all__ = ["CrtConfig"]
