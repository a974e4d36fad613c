"""Configuration of the HeartLang models (Jin et al., ICLR 2025)."""

from collections.abc import Mapping
from dataclasses import field
from typing import Any, ClassVar

from transformers import AutoConfig

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
    STANDARD_LEAD_NAMES,
    EcgConfig,
    at_most,
    short,
    strict_config,
    transformer_sizes,
)


SHARED_FIELDS = (
    "vocab_size",
    "num_beats",
    "beat_length",
    "num_lead_embeddings",
    "num_time_embeddings",
    "lead_names",
    "sampling_rate",
)
"""Fields in which an encoder and the tokenizer whose codes it predicts must agree."""


@strict_config
class HeartLangConfig(EcgConfig):
    r"""
    Configuration of [`HeartLangModel`], [`HeartLangForPreTraining`], [`HeartLangForSequenceClassification`] and
    [`HeartLangTokenizerModel`]. The defaults correspond to the released encoder of HeartLang (Jin et al., "Reading
    Your Heart: Learning ECG Words and Sentences via Pre-training ECG Language Model", ICLR 2025, arXiv 2502.10707).

    Args:
        num_beats (`int`, *optional*, defaults to 256):
            Beats of all leads together that a recording has room for. Its position embeddings belong to this number,
            so that the model reads exactly as many beats, of which the last ones may be padding.
        beat_length (`int`, *optional*, defaults to 96):
            Samples per beat.
        hidden_size, num_hidden_layers, num_attention_heads, intermediate_size (`int`, *optional*, default to 768, 12,
            8 and 1024):
            Hidden size, number of layers, number of attention heads and feed-forward size of the encoder.
        head_dim (`int`, *optional*, defaults to 64):
            Size of each attention head. All heads together have fewer features than `hidden_size` in the released
            encoder.
        hidden_act (`str`, *optional*, defaults to `"gelu"`):
            Activation function of the feed-forward layers.
        qkv_bias (`bool`, *optional*, defaults to `False`):
            Whether queries, keys and values have a bias.
        hidden_dropout_prob (`float`, *optional*, defaults to 0.1):
            Dropout probability after the attention, and inside and after the feed-forward layers.
        attention_probs_dropout_prob (`float`, *optional*, defaults to 0.1):
            Dropout probability of the attention weights.
        initializer_range (`float`, *optional*, defaults to 0.02):
            Standard deviation of the normal initialization of weights, tokens and position embeddings.
        num_lead_embeddings (`int`, *optional*, defaults to 16):
            Rows of the lead embedding. Row 0 belongs to padding, row `l + 1` to lead `l`.
        num_time_embeddings (`int`, *optional*, defaults to 16):
            Rows of the time embedding. Row 0 belongs to padding, row `s + 1` to second `s` of the recording, which
            must therefore be shorter than the number of rows [s].
        vocab_size (`int`, *optional*, defaults to 8192):
            Number of codes of the tokenizer, which are the targets of pre-training.
        mask_ratio (`float`, *optional*, defaults to 0.5):
            Fraction of the beats of a recording that pre-training masks.
        released_pretraining (`bool`, *optional*, defaults to `False`):
            Whether pre-training follows the released code in three choices that this package makes differently.
            Padding counts as beats: it is masked and its codes are predicted, and the tokenizer is trained to
            reconstruct it. The convolution that embeds beats shows masked beats to their neighbors. And codes are
            computed without the leads and times with which the tokenizer was trained. Converted weights have it.
        tokenizer_config (`HeartLangConfig` or `dict`, *optional*):
            Config of the tokenizer that is part of [`HeartLangForPreTraining`] and computes the codes. Without it,
            codes are an input.
        code_dim (`int`, *optional*, defaults to 128):
            Size of the codes of [`HeartLangTokenizerModel`].
        decoder_num_hidden_layers (`int`, *optional*, defaults to 2):
            Number of layers of the decoder of [`HeartLangTokenizerModel`], which has the other sizes of its encoder.
        lead_names (`list[str]`, *optional*, defaults to the twelve standard leads):
            Names of the leads, in the order of their rows of the lead embedding.
        sampling_rate, layer_norm_eps, head_type, num_pooling_heads, classifier_dropout, problem_type,
        label_thresholds,
        label_calibration:
            See [`EcgConfig`].

    Example:

    ```python
    >>> from clear_hug_hf import HeartLangConfig, HeartLangModel

    >>> model = HeartLangModel(HeartLangConfig.preset("tiny"))
    ```
    """

    model_type: ClassVar[str] = "heartlang"
    auto_classes: ClassVar[dict[str, str]] = {
        "AutoModel": "HeartLangModel",
        "AutoModelForPreTraining": "HeartLangForPreTraining",
        "AutoModelForSequenceClassification": "HeartLangForSequenceClassification",
        "AutoModelForAudioTokenization": "HeartLangTokenizerModel",
    }
    presets: ClassVar[dict[str, dict[str, Any]]] = {
        # For demonstrations and tests.
        "tiny": transformer_sizes(width=96, layers=3, heads=4, inner=128)
        | {"head_dim": 16, "vocab_size": 512, "code_dim": 32, "decoder_num_hidden_layers": 1},
        # The released sizes: of the encoder, and of the tokenizer.
        "base": {},
        "tokenizer": transformer_sizes(width=768, layers=4, heads=2, inner=2048),
    }

    # transformers propagates the attention implementation to it.
    sub_configs: ClassVar[dict[str, Any]] = {"tokenizer_config": AutoConfig}

    # The model reads ids of leads, not their names.
    lead_names: list[str] | tuple[str, ...] = field(default=STANDARD_LEAD_NAMES, metadata=ENCODER_SAME_FEATURES)
    num_beats: int = field(default=256, metadata=ENCODER | COUNT | at_most(MAX_TOKENS))
    beat_length: int = field(default=96, metadata=ENCODER | COUNT | at_most(MAX_SAMPLES))

    hidden_size: int = field(default=768, metadata=ENCODER | COUNT)
    num_hidden_layers: int = field(default=12, metadata=ENCODER | LAYERS)
    num_attention_heads: int = field(default=8, metadata=ENCODER | COUNT)
    head_dim: int = field(default=64, metadata=ENCODER | COUNT)
    intermediate_size: int = field(default=1024, metadata=ENCODER | COUNT)
    hidden_act: str = field(default="gelu", metadata=ENCODER | ACTIVATION)
    qkv_bias: bool = field(default=False, metadata=ENCODER)
    hidden_dropout_prob: float | int = field(default=0.1, metadata=ENCODER_SAME_FEATURES | RATE)
    attention_probs_dropout_prob: float | int = field(default=0.1, metadata=ENCODER_SAME_FEATURES | RATE)
    initializer_range: float = field(default=0.02, metadata=ENCODER_SAME_FEATURES | POSITIVE)
    num_lead_embeddings: int = field(default=16, metadata=ENCODER | COUNT)
    num_time_embeddings: int = field(default=16, metadata=ENCODER | COUNT)

    vocab_size: int = field(default=8192, metadata=PRETRAINING | COUNT)
    mask_ratio: float = field(default=0.5, metadata=PRETRAINING | RATE)
    released_pretraining: bool = field(default=False, metadata=PRETRAINING)
    # `__post_init__` converts a dictionary to a config.
    tokenizer_config: Any = field(default=None, metadata=PRETRAINING)
    code_dim: int = field(default=128, metadata=PRETRAINING | COUNT)
    decoder_num_hidden_layers: int = field(default=2, metadata=PRETRAINING | LAYERS)

    def __post_init__(self, **kwargs: Any) -> None:
        self.tokenizer_config = self._make_tokenizer_config(self.tokenizer_config)
        super().__post_init__(**kwargs)

    def _make_tokenizer_config(self, config: Any) -> Any:
        if isinstance(config, Mapping) and config.get("model_type", self.model_type) == self.model_type:
            # The class defines `model_type`, and its code is in this folder whatever `auto_map` says.
            config = type(self)(
                **{key: value for key, value in config.items() if key not in ("model_type", "auto_map")}
            )
        if config is not None and (not isinstance(config, HeartLangConfig) or config.tokenizer_config is not None):
            raise ValueError("tokenizer_config must be the config of a HeartLang tokenizer, or a dictionary of it.")
        return config

    def to_dict(self) -> dict[str, Any]:
        """As [`EcgConfig.to_dict`]; `tokenizer_config` is omitted if there is none."""
        return {name: value for name, value in super().to_dict().items() if name != "tokenizer_config" or value}

    def validate_architecture(self) -> None:
        """See [`EcgConfig.validate_architecture`]."""
        super().validate_architecture()
        for name in SHARED_FIELDS if self.tokenizer_config is not None else ():
            expected, actual = getattr(self, name), getattr(self.tokenizer_config, name)
            if actual != expected:
                raise ValueError(
                    f"the tokenizer has {name}={short(actual)} and the model {short(expected)}: they must be equal."
                )
        if self.num_lead_embeddings <= self.num_leads:
            raise ValueError(
                f"num_lead_embeddings must be greater than the number of leads ({self.num_leads}), got "
                f"{self.num_lead_embeddings}: lead l uses row l + 1."
            )
        tables = self.num_beats + self.num_lead_embeddings + self.num_time_embeddings
        # The convolution has three rows for each sample or feature of a code; codes are rows of head and codebook.
        rows = 2 * tables + 3 * (self.beat_length + self.code_dim) + 2 * self.vocab_size
        self._check_transformers(("",), rows)


__all__ = ["HeartLangConfig"]
