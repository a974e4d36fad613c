"""Configuration of the ECG-FM models (McKeen et al., JAMIA Open 2025)."""

import math
from dataclasses import field
from typing import Any, ClassVar, Literal

from .configuration_ecg import (
    ACTIVATION,
    CLASSIFIER,
    COUNT,
    ENCODER,
    ENCODER_SAME_FEATURES,
    LAYERS,
    LOSS_WEIGHT,
    MAX_SAMPLES,
    MAX_TOKENS,
    POSITIVE,
    PRETRAINING,
    RATE,
    SAMPLING_RATE,
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
class EcgFmConfig(EcgConfig):
    r"""
    Configuration of [`EcgFmModel`], [`EcgFmForPreTraining`] and [`EcgFmForSequenceClassification`]. The defaults are
    the released size of ECG-FM (McKeen et al., JAMIA Open 2025), which is wav2vec 2.0 (Baevski et al., 2020) with
    twelve leads as the channels of its first convolution. Fields have the names of transformers' `Wav2Vec2Config`.

    Args:
        sampling_rate (`int`, *optional*, defaults to 500):
            Sampling rate of the signal [Hz].
        num_samples (`int`, *optional*, defaults to 2500):
            Window length of the feature extractor [samples]. The network reads recordings of any length.
        conv_dim, conv_kernel, conv_stride (`list[int]`, *optional*, default to four times 256, 2 and 2):
            Channels, kernel size and stride of each convolution that turns samples into tokens.
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
        num_codevector_groups, num_codevectors_per_group (`int`, *optional*, default to 2 and 320):
            Codebooks of the quantizer, and code vectors in each.
        codevector_dim (`int`, *optional*, defaults to 256):
            Total size of the code vectors of all groups.
        proj_codevector_dim (`int`, *optional*, defaults to 256):
            Size in which predictions and quantized tokens are compared.
        mask_time_prob (`float`, *optional*, defaults to 0.65):
            Sum of the lengths of the masked spans, as a fraction of the tokens. Spans may overlap.
        mask_time_length (`int`, *optional*, defaults to 10):
            Length of a masked span [tokens].
        num_negatives (`int`, *optional*, defaults to 100):
            Number of other masked tokens of the recording from which a masked token is told apart.
        contrastive_logits_temperature (`float`, *optional*, defaults to 0.1):
            Temperature of the cosine similarities.
        gumbel_temperature (`float`, *optional*, defaults to 2.0):
            Temperature with which the quantizer samples codes in training. The released weights were pre-trained with
            2 at first, times 0.999995 after each step, and at least 0.5.
        diversity_loss_weight (`float`, *optional*, defaults to 0.1):
            Weight of the unused fraction of the codebooks in the loss.
        features_penalty_weight (`float`, *optional*, defaults to 10.0):
            Weight of the mean squared output of the convolutions in the loss.
        window_aggregation (`dict[str, str]`, *optional*):
            How the scores of several windows are combined into those of the recording, by label name: `"mean"`, as for
            labels without an entry, or `"max"`.
        lead_names, layer_norm_eps, head_type, classifier_dropout, problem_type, label_thresholds,
        label_calibration:
            See [`EcgConfig`].

    Example:

    ```python
    >>> from clear_hug_hf.modeling.configuration_ecg_fm import EcgFmConfig
    >>> from clear_hug_hf.modeling.modeling_ecg_fm import EcgFmModel

    >>> model = EcgFmModel(EcgFmConfig.preset("tiny"))
    ```
    """

    model_type: ClassVar[str] = "ecg_fm"
    auto_classes: ClassVar[dict[str, str]] = {
        "AutoModel": "EcgFmModel",
        "AutoModelForPreTraining": "EcgFmForPreTraining",
        "AutoModelForSequenceClassification": "EcgFmForSequenceClassification",
    }
    presets: ClassVar[dict[str, dict[str, Any]]] = {
        # For demonstrations and tests.
        "tiny": transformer_sizes(width=64, layers=2, heads=4, inner=128)
        | {"conv_dim": [32] * 4, "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 4}
        | {"num_codevectors_per_group": 20, "codevector_dim": 16, "proj_codevector_dim": 16, "num_negatives": 10},
        # The released size.
        "base": {},
    }

    sampling_rate: int = field(default=500, metadata=ENCODER_SAME_FEATURES | SAMPLING_RATE)
    num_samples: int = field(default=2500, metadata=ENCODER_SAME_FEATURES | COUNT | at_most(MAX_SAMPLES))

    conv_dim: list[int] | tuple[int, ...] = field(default=(256,) * 4, metadata=ENCODER | SIZES)
    conv_kernel: list[int] | tuple[int, ...] = field(default=(2,) * 4, metadata=ENCODER | SIZES)
    conv_stride: list[int] | tuple[int, ...] = field(default=(2,) * 4, metadata=ENCODER | SIZES)
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

    num_codevector_groups: int = field(default=2, metadata=PRETRAINING | COUNT)
    num_codevectors_per_group: int = field(default=320, metadata=PRETRAINING | COUNT)
    codevector_dim: int = field(default=256, metadata=PRETRAINING | COUNT)
    proj_codevector_dim: int = field(default=256, metadata=PRETRAINING | COUNT)
    mask_time_prob: float = field(default=0.65, metadata=PRETRAINING | RATE)
    mask_time_length: int = field(default=10, metadata=PRETRAINING | COUNT)
    num_negatives: int = field(default=100, metadata=PRETRAINING | COUNT | at_most(MAX_TOKENS))
    contrastive_logits_temperature: float = field(default=0.1, metadata=PRETRAINING | POSITIVE)
    gumbel_temperature: float | int = field(default=2.0, metadata=PRETRAINING | POSITIVE)
    diversity_loss_weight: float | int = field(default=0.1, metadata=PRETRAINING | LOSS_WEIGHT)
    features_penalty_weight: float | int = field(default=10.0, metadata=PRETRAINING | LOSS_WEIGHT)

    window_aggregation: dict[str, Literal["mean", "max"]] | None = field(default=None, metadata=CLASSIFIER)

    def __post_init__(self, **kwargs: Any) -> None:
        self.conv_dim, self.conv_kernel, self.conv_stride = (
            list(sizes) for sizes in (self.conv_dim, self.conv_kernel, self.conv_stride)
        )
        super().__post_init__(**kwargs)

    # What transformers' layers call these fields, and what they leave open that ECG-FM does not.

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
    def feat_extract_activation(self) -> str:
        """`str`: Activation function of the convolutions."""
        return "gelu"

    def count_tokens(self, num_samples: Any) -> Any:
        """Number of tokens of so many samples (`int` or `torch.LongTensor`); at most 0 for too few."""
        for kernel, stride in zip(self.conv_kernel, self.conv_stride, strict=True):
            num_samples = (num_samples - kernel) // stride + 1
        return num_samples

    def validate_architecture(self) -> None:
        """See [`EcgConfig.validate_architecture`]."""
        super().validate_architecture()
        if not len(self.conv_dim) == len(self.conv_kernel) == len(self.conv_stride):
            raise ValueError(
                "conv_dim, conv_kernel and conv_stride must have one entry for each convolution, got "
                f"{len(self.conv_dim)}, {len(self.conv_kernel)} and {len(self.conv_stride)}."
            )
        tokens = self.count_tokens(self.num_samples)
        if not 1 <= tokens <= MAX_TOKENS:
            raise ValueError(
                f"num_samples={self.num_samples} with conv_kernel={self.conv_kernel} and conv_stride="
                f"{self.conv_stride} results in {max(tokens, 0)} tokens, but 1 to {MAX_TOKENS} are allowed."
            )
        for name, parts in (
            ("hidden_size", "num_conv_pos_embedding_groups"),
            ("codevector_dim", "num_codevector_groups"),
        ):
            if getattr(self, name) % getattr(self, parts):
                raise ValueError(f"{name}={getattr(self, name)} must be divisible by {parts}={getattr(self, parts)}.")
        positions = self.hidden_size // self.num_conv_pos_embedding_groups * self.num_conv_pos_embeddings
        self._check_transformers(("",), positions + self.conv_dim[-1] + self.proj_codevector_dim)
        channels = [self.num_leads, *self.conv_dim[:-1]]
        codes = self.num_codevector_groups * self.num_codevectors_per_group
        check_num_parameters(
            self._count_familiarity()
            + sum(math.prod(sizes) for sizes in zip(channels, self.conv_kernel, self.conv_dim, strict=True))
            + codes * (self.conv_dim[-1] + self.codevector_dim)
            + self.codevector_dim * self.proj_codevector_dim
        )


__all__ = ["EcgFmConfig"]
