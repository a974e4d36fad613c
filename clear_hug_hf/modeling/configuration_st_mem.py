"""Configuration of the ST-MEM models (Na et al., ICLR 2024)."""

from dataclasses import field
from typing import Any, ClassVar

from .configuration_ecg import (
    ACTIVATION,
    COUNT,
    ENCODER,
    ENCODER_SAME_FEATURES,
    LAYERS,
    MAX_SAMPLES,
    POSITIVE,
    PRETRAINING,
    RATE,
    SAMPLING_RATE,
    EcgConfig,
    at_most,
    strict_config,
    transformer_sizes,
)


@strict_config
class StMemConfig(EcgConfig):
    r"""
    Configuration of [`StMemModel`], [`StMemForPreTraining`] and [`StMemForSequenceClassification`]. The defaults
    correspond to the released size of ST-MEM (Na et al., "Guiding Masked Representation Learning to Capture
    Spatio-Temporal Relationship of Electrocardiogram", ICLR 2024, arXiv 2402.09450).

    Args:
        sampling_rate (`int`, *optional*, defaults to 250):
            Sampling rate of the signal [Hz].
        lead_names (`list[str]`, *optional*, defaults to the twelve standard leads):
            Names of the leads, in the order of `input_values`. A recording may contain a subset.
        num_samples (`int`, *optional*, defaults to 2250):
            Window length [samples]; a recording may be shorter.
        patch_size (`int`, *optional*, defaults to 75):
            Samples per patch. Each patch of a lead is one token. Must divide `num_samples`.
        hidden_size, num_hidden_layers, num_attention_heads, intermediate_size (`int`, *optional*, default to 768, 12,
            12 and 3072):
            Hidden size, number of layers, number of attention heads and feed-forward size of the encoder. The hidden
            size must be even for the sinusoidal positions.
        head_dim (`int`, *optional*, defaults to 64):
            Size of each attention head of encoder and decoder.
        hidden_act (`str`, *optional*, defaults to `"gelu"`):
            Activation function of the feed-forward layers.
        hidden_dropout_prob (`float`, *optional*, defaults to 0.0):
            Dropout probability after the attention, and inside and after the feed-forward layers.
        attention_probs_dropout_prob (`float`, *optional*, defaults to 0.0):
            Dropout probability of the attention weights.
        initializer_range (`float`, *optional*, defaults to 0.02):
            Standard deviation of the normal initialization of weights and embeddings.
        learned_positions (`bool`, *optional*, defaults to `False`):
            Whether the position embeddings are parameters, initialized with the sinusoidal ones. Those of the
            pre-trained weights are fixed; fine-tuning as released may have changed them.
        decoder_hidden_size, decoder_num_hidden_layers, decoder_num_attention_heads, decoder_intermediate_size (`int`,
            *optional*, default to 256, 4, 4 and 1024):
            The same sizes of the decoder, which is used in pre-training only.
        mask_ratio (`float`, *optional*, defaults to 0.75):
            Fraction of the patches of each lead that pre-training masks.
        layer_norm_eps, head_type, num_pooling_heads, classifier_dropout, problem_type, label_thresholds,
        label_calibration:
            See [`EcgConfig`].

    Example:

    ```python
    >>> from clear_hug_hf import StMemConfig, StMemModel

    >>> model = StMemModel(StMemConfig.preset("tiny"))
    ```
    """

    model_type: ClassVar[str] = "st_mem"
    auto_classes: ClassVar[dict[str, str]] = {
        "AutoModel": "StMemModel",
        "AutoModelForPreTraining": "StMemForPreTraining",
        "AutoModelForSequenceClassification": "StMemForSequenceClassification",
    }
    presets: ClassVar[dict[str, dict[str, Any]]] = {
        # For demonstrations and tests.
        "tiny": transformer_sizes(width=96, layers=3, heads=4, inner=192)
        | transformer_sizes("decoder_", width=64, layers=1, heads=2, inner=128)
        | {"head_dim": 24},
        # The released sizes.
        "base": {},
    }

    sampling_rate: int = field(default=250, metadata=ENCODER_SAME_FEATURES | SAMPLING_RATE)
    num_samples: int = field(default=2250, metadata=ENCODER | COUNT | at_most(MAX_SAMPLES))
    patch_size: int = field(default=75, metadata=ENCODER | COUNT)

    hidden_size: int = field(default=768, metadata=ENCODER | COUNT)
    num_hidden_layers: int = field(default=12, metadata=ENCODER | LAYERS)
    num_attention_heads: int = field(default=12, metadata=ENCODER | COUNT)
    head_dim: int = field(default=64, metadata=ENCODER | COUNT)
    intermediate_size: int = field(default=3072, metadata=ENCODER | COUNT)
    hidden_act: str = field(default="gelu", metadata=ENCODER | ACTIVATION)
    hidden_dropout_prob: float | int = field(default=0.0, metadata=ENCODER_SAME_FEATURES | RATE)
    attention_probs_dropout_prob: float | int = field(default=0.0, metadata=ENCODER_SAME_FEATURES | RATE)
    initializer_range: float = field(default=0.02, metadata=ENCODER_SAME_FEATURES | POSITIVE)
    learned_positions: bool = field(default=False, metadata=ENCODER)

    decoder_hidden_size: int = field(default=256, metadata=PRETRAINING | COUNT)
    decoder_num_hidden_layers: int = field(default=4, metadata=PRETRAINING | LAYERS)
    decoder_num_attention_heads: int = field(default=4, metadata=PRETRAINING | COUNT)
    decoder_intermediate_size: int = field(default=1024, metadata=PRETRAINING | COUNT)
    mask_ratio: float = field(default=0.75, metadata=PRETRAINING | RATE)

    @property
    def num_patches(self) -> int:
        """`int`: Number of patches per lead in a full window."""
        return self.num_samples // self.patch_size

    @property
    def decoder_head_dim(self) -> int:
        """`int`: Size of each attention head of the decoder."""
        return self.head_dim

    def validate_architecture(self) -> None:
        """See [`EcgConfig.validate_architecture`]."""
        super().validate_architecture()
        self._count_patches(self.num_samples, "patch_size")
        rows = self.num_leads + 2 * (self.num_patches + 2) + 3 * self.patch_size
        self._check_transformers(("", "decoder_"), rows, multiple_of=2)


__all__ = ["StMemConfig"]
