"""Configuration of the HuBERT-ECG models (Coppola et al., 2024)."""

import math
from dataclasses import field
from typing import Any, ClassVar

from .configuration_ecg import (
    ACTIVATION,
    COUNT,
    ENCODER,
    ENCODER_SAME_FEATURES,
    LAYERS,
    MAX_SAMPLES,
    MAX_TOKENS,
    POSITIVE,
    PRETRAINING,
    RATE,
    SAMPLING_RATE,
    STANDARD_LEAD_NAMES,
    EcgConfig,
    at_most,
    check_num_parameters,
    strict_config,
    transformer_sizes,
    valid_if,
)


MAX_CONVOLUTIONS = 32

SIZES = valid_if(
    f"must contain 1 to {MAX_CONVOLUTIONS} sizes of at least 1",
    lambda sizes: 1 <= len(sizes) <= MAX_CONVOLUTIONS and all(size >= 1 for size in sizes),
)


@strict_config
class HubertEcgConfig(EcgConfig):
    r"""
    Configuration of [`HubertEcgModel`], [`HubertEcgForPreTraining`] and [`HubertEcgForSequenceClassification`]. The
    defaults are the base size of HuBERT-ECG (Coppola et al., 2024), which is HuBERT (Hsu et al., 2021) on the leads
    of a recording end to end. Fields have the names of transformers' `HubertConfig`.

    Args:
        sampling_rate (`int`, *optional*, defaults to 500):
            Sampling rate of the signal before decimation [Hz].
        num_samples (`int`, *optional*, defaults to 2500):
            Window length of the feature extractor [samples of a lead before decimation]. The network reads windows of
            any length.
        decimation (`int`, *optional*, defaults to 5):
            Factor by which the leads, end to end, are decimated: the network reads 100 values of each lead per second.
        conv_dim, conv_kernel, conv_stride (`list[int]`, *optional*, default to five times 512, to 10, 3, 3, 2, 2 and
            to 4, 2, 2, 2, 2):
            Channels, kernel size and stride of each convolution that turns values into tokens.
        hidden_size, num_hidden_layers, num_attention_heads, intermediate_size (`int`, *optional*, default to 768, 12,
            12 and 3072):
            Hidden size, number of layers, number of attention heads and feed-forward size.
        hidden_act (`str`, *optional*, defaults to `"gelu"`):
            Activation function of the feed-forward layers.
        num_conv_pos_embeddings, num_conv_pos_embedding_groups (`int`, *optional*, default to 128 and 16):
            Kernel size [tokens] and groups of the convolution that encodes positions.
        hidden_dropout_prob, attention_probs_dropout_prob (`float`, *optional*, default to 0.0):
            Dropout probabilities of hidden states and attention weights.
        initializer_range (`float`, *optional*, defaults to 0.02):
            Standard deviation of the normal initialization of the layers.
        vocab_sizes (`list[int]`, *optional*, defaults to 500):
            Number of codes in each codebook of pre-training.
        classifier_proj_size (`int`, *optional*, defaults to 256):
            Size in which states and codes are compared.
        logits_temperature (`float`, *optional*, defaults to 0.1):
            Temperature of their cosine similarities.
        mask_time_prob (`float`, *optional*, defaults to 0.65):
            Sum of the lengths of the masked spans, as a fraction of the tokens. Spans may overlap.
        mask_time_length (`int`, *optional*, defaults to 10):
            Length of a masked span [tokens].
        lead_names, layer_norm_eps, head_type, classifier_dropout, problem_type, label_thresholds,
        label_calibration:
            See [`EcgConfig`].

    Numbers of attention heads of the small and the large preset are choices of this package.

    Example:

    ```python
    >>> from clear_hug_hf.modeling.configuration_hubert_ecg import HubertEcgConfig
    >>> from clear_hug_hf.modeling.modeling_hubert_ecg import HubertEcgModel

    >>> model = HubertEcgModel(HubertEcgConfig.preset("tiny"))
    ```
    """

    model_type: ClassVar[str] = "hubert_ecg"
    auto_classes: ClassVar[dict[str, str]] = {
        "AutoModel": "HubertEcgModel",
        "AutoModelForPreTraining": "HubertEcgForPreTraining",
        "AutoModelForSequenceClassification": "HubertEcgForSequenceClassification",
    }
    presets: ClassVar[dict[str, dict[str, Any]]] = {
        # For demonstrations and tests.
        "tiny": transformer_sizes(width=64, layers=2, heads=4, inner=128)
        | {"conv_dim": [32] * 5, "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 4}
        | {"vocab_sizes": [20], "classifier_proj_size": 16},
        # The released sizes.
        "small": transformer_sizes(width=512, layers=8, heads=8, inner=2048),
        "base": {},
        "large": transformer_sizes(width=960, layers=16, heads=16, inner=3840),
    }

    # The network reads the values of any leads.
    lead_names: list[str] | tuple[str, ...] = field(default=STANDARD_LEAD_NAMES, metadata=ENCODER_SAME_FEATURES)
    sampling_rate: int = field(default=500, metadata=ENCODER_SAME_FEATURES | SAMPLING_RATE)
    num_samples: int = field(default=2500, metadata=ENCODER_SAME_FEATURES | COUNT | at_most(MAX_SAMPLES))
    decimation: int = field(default=5, metadata=ENCODER_SAME_FEATURES | COUNT)

    conv_dim: list[int] | tuple[int, ...] = field(default=(512,) * 5, metadata=ENCODER | SIZES)
    conv_kernel: list[int] | tuple[int, ...] = field(default=(10, 3, 3, 2, 2), metadata=ENCODER | SIZES)
    conv_stride: list[int] | tuple[int, ...] = field(default=(4, 2, 2, 2, 2), metadata=ENCODER | SIZES)
    hidden_size: int = field(default=768, metadata=ENCODER | COUNT)
    num_hidden_layers: int = field(default=12, metadata=ENCODER | LAYERS)
    num_attention_heads: int = field(default=12, metadata=ENCODER | COUNT)
    intermediate_size: int = field(default=3072, metadata=ENCODER | COUNT)
    hidden_act: str = field(default="gelu", metadata=ENCODER | ACTIVATION)
    num_conv_pos_embeddings: int = field(default=128, metadata=ENCODER | COUNT | at_most(MAX_TOKENS))
    num_conv_pos_embedding_groups: int = field(default=16, metadata=ENCODER | COUNT)
    hidden_dropout_prob: float | int = field(default=0.0, metadata=ENCODER_SAME_FEATURES | RATE)
    attention_probs_dropout_prob: float | int = field(default=0.0, metadata=ENCODER_SAME_FEATURES | RATE)
    initializer_range: float = field(default=0.02, metadata=ENCODER_SAME_FEATURES | POSITIVE)

    vocab_sizes: list[int] | tuple[int, ...] = field(default=(500,), metadata=PRETRAINING | SIZES)
    classifier_proj_size: int = field(default=256, metadata=PRETRAINING | COUNT)
    logits_temperature: float = field(default=0.1, metadata=PRETRAINING | POSITIVE)
    mask_time_prob: float = field(default=0.65, metadata=PRETRAINING | RATE)
    mask_time_length: int = field(default=10, metadata=PRETRAINING | COUNT)

    def __post_init__(self, **kwargs: Any) -> None:
        self.conv_dim, self.conv_kernel, self.conv_stride, self.vocab_sizes = (
            list(sizes) for sizes in (self.conv_dim, self.conv_kernel, self.conv_stride, self.vocab_sizes)
        )
        super().__post_init__(**kwargs)

    # What transformers' layers call these fields, and what they leave open that HuBERT-ECG does not.

    @property
    def hidden_dropout(self) -> float:
        """`float`: `hidden_dropout_prob`."""
        return self.hidden_dropout_prob

    @property
    def attention_dropout(self) -> float:
        """`float`: `attention_probs_dropout_prob`."""
        return self.attention_probs_dropout_prob

    @property
    def activation_dropout(self) -> float:
        """`float`: Dropout probability within feed-forward layers, which have none."""
        return 0.0

    @property
    def feat_proj_dropout(self) -> float:
        """`float`: Dropout probability of the projected tokens, `hidden_dropout_prob`."""
        return self.hidden_dropout_prob

    @property
    def feat_proj_layer_norm(self) -> bool:
        """`bool`: Tokens are normalized before they are projected."""
        return True

    @property
    def feat_extract_activation(self) -> str:
        """`str`: Activation function of the convolutions."""
        return "gelu"

    def count_tokens(self, num_values: Any) -> Any:
        """Number of tokens of so many values (`int` or `torch.LongTensor`); at most 0 for too few."""
        for kernel, stride in zip(self.conv_kernel, self.conv_stride, strict=True):
            num_values = (num_values - kernel) // stride + 1
        return num_values

    def validate_architecture(self) -> None:
        """See [`EcgConfig.validate_architecture`]."""
        super().validate_architecture()
        if not len(self.conv_dim) == len(self.conv_kernel) == len(self.conv_stride):
            raise ValueError(
                "conv_dim, conv_kernel and conv_stride must have one entry for each convolution, got "
                f"{len(self.conv_dim)}, {len(self.conv_kernel)} and {len(self.conv_stride)}."
            )
        tokens = self.count_tokens(math.ceil(self.num_leads * self.num_samples / self.decimation))
        if not 1 <= tokens <= MAX_TOKENS:
            raise ValueError(
                f"num_samples={self.num_samples} with decimation={self.decimation}, conv_kernel={self.conv_kernel} "
                f"and conv_stride={self.conv_stride} results in {max(tokens, 0)} tokens, but 1 to {MAX_TOKENS} are "
                "allowed."
            )
        if self.hidden_size % self.num_conv_pos_embedding_groups:
            raise ValueError(
                f"hidden_size={self.hidden_size} must be divisible by "
                f"num_conv_pos_embedding_groups={self.num_conv_pos_embedding_groups}."
            )
        positions = self.hidden_size // self.num_conv_pos_embedding_groups * self.num_conv_pos_embeddings
        codebooks = len(self.vocab_sizes) * self.classifier_proj_size
        self._check_transformers(("",), positions + self.conv_dim[-1] + codebooks)
        channels = [1, *self.conv_dim[:-1]]
        check_num_parameters(
            self._count_familiarity()
            + sum(math.prod(sizes) for sizes in zip(channels, self.conv_kernel, self.conv_dim, strict=True))
            + sum(self.vocab_sizes) * self.classifier_proj_size
        )


__all__ = ["HubertEcgConfig"]
