"""Configuration of the ECG-Scan models."""

from collections.abc import Iterator, Mapping
from dataclasses import field
from reprlib import repr as short
from typing import Any, ClassVar, Literal

from transformers import CONFIG_MAPPING, AutoConfig, PreTrainedConfig

from .configuration_clear_hug import ClearHugConfig
from .configuration_ecg import (
    COUNT,
    ENCODER,
    ENCODER_SAME_FEATURES,
    LAYERS,
    LOSS_WEIGHT,
    MAX_LAYERS,
    MAX_SAMPLES,
    POSITIVE,
    PRETRAINING,
    RATE,
    SAMPLING_RATE,
    STANDARD_LEAD_NAMES,
    EcgConfig,
    at_most,
    check_num_parameters,
    estimate_num_parameters,
    strict_config,
    transformer_sizes,
    valid_if,
)
from .configuration_ecg_jepa import EcgJepaConfig


# Signal encoders that can be teachers. They are imported explicitly because transformers saves and loads only files
# that are reachable through relative imports.
SIGNAL_CONFIGS: dict[str, type[EcgConfig]] = {config.model_type: config for config in (ClearHugConfig, EcgJepaConfig)}
MAX_SIDE = 4096
"""Maximum height and width of a page [px]."""

# Common names of size fields in the configs of transformers.
_WIDTHS = ("hidden_size", "hidden_sizes", "embed_dim", "embed_dims", "d_model", "dim", "embedding_size")
_DEPTHS = ("num_hidden_layers", "num_layers", "n_layer", "depths", "depth")
_INNER = ("intermediate_size", "intermediate_sizes", "d_ff", "ffn_dim", "mlp_dim")
_POSITIONS = ("max_position_embeddings", "n_positions")
_ROWS = ("vocab_size", "type_vocab_size")
# Rotary position embeddings have no table.
_ROTARY = ("rope_parameters", "rope_theta")
_MAX_INTEGER = 2**24

# Byte-level text encoder, for the tokenizer of ByT5, which needs no vocabulary file.
_TINY_TEXT = transformer_sizes(width=64, layers=2, heads=4, inner=128) | {
    "model_type": "bert",
    "vocab_size": 384,
    "max_position_embeddings": 256,
    "type_vocab_size": 1,
    "pad_token_id": 0,
}
_CLIP_LARGE = transformer_sizes(width=1024, layers=24, heads=16, inner=4096) | {
    "model_type": "clip_vision_model",
    "patch_size": 14,
    "image_size": 336,
    "projection_dim": 768,
}
_CLIP_BASE = transformer_sizes(width=768, layers=12, heads=12, inner=3072) | {
    "model_type": "clip_vision_model",
    "patch_size": 16,
    "image_size": 224,
    "projection_dim": 512,
}


@strict_config
class EcgScanConfig(EcgConfig):
    r"""
    Configuration of [`EcgScanModel`], [`EcgScanForPreTraining`] and [`EcgScanForImageClassification`]: an independent
    implementation of the idea of ECG-Scan (Pham et al., 2026, arXiv 2604.01526). Only the abstract of the paper and
    the authors' model card were available, and no code. Fields marked [paper] follow the abstract or the model card,
    fields marked [inferred] are inferred from them, and all other defaults are our choice.

    Args:
        vision_config (`dict` or [`PreTrainedConfig`], *optional*):
            Config of any vision backbone of transformers, with its `model_type`. Defaults to CLIP ViT-L/14 at 336 px
            [inferred from the processor of the released model].
        signal_config (`dict`, [`ClearHugConfig`] or [`EcgJepaConfig`], *optional*):
            Config of the signal teacher, an encoder of this package (the authors' teacher is probably D-BETA). Without
            it the model has no signal encoder and accepts `signal_embeds` instead.
        text_config (`dict` or [`PreTrainedConfig`], *optional*):
            Config of any text encoder of transformers (the authors' encoder is probably Flan-T5). Without it the model
            has no text encoder and accepts `text_embeds` instead.
        signal_embed_dim, text_embed_dim (`int`, *optional*):
            Size of the signal and text embeddings before projection; set automatically if the encoder is part of the
            model.
        lead_names (`list[str]`, *optional*, defaults to the 12 leads):
            Leads of the reconstruction.
        sampling_rate (`int`, *optional*, defaults to 100):
            Sampling rate of the reconstruction [Hz]. A page of 336 px shows about 30 px per second.
        num_samples (`int`, *optional*, defaults to 1000):
            Length of the reconstruction [samples].
        image_size (`list[int]`, *optional*, defaults to `[336, 336]`):
            Height and width of the input pages [px]. Pages are resized without cropping.
        image_pooling (`str`, *optional*, defaults to `"pooler"`):
            Pooling of the page: `"pooler"` for the pooler of the vision tower (the normalized class token of CLIP, the
            mean of convolutional towers), `"first"` for its first token, or `"mean"` for the mean of its tokens.
        text_pooling (`str`, *optional*, defaults to `"mean"`):
            Pooling of the text: `"mean"` of its tokens without padding, or its `"first"` token.
        projection_dim (`int`, *optional*, defaults to 512):
            Size of the shared embedding space, as in GRAM (Cicchetti et al., 2024).
        freeze_vision (`bool`, *optional*, defaults to `False`):
            Whether to freeze the vision tower. Its projection and the decoder are trained.
        freeze_signal (`bool`, *optional*, defaults to `True`):
            Whether to freeze the signal teacher [inferred from "gold-standard"]. Its projection is trained: with fixed
            embeddings, recordings whose signal and text agree would have a small volume with every page.
        freeze_text (`bool`, *optional*, defaults to `False`):
            Whether to freeze the text encoder. A randomly initialized one must be trained.
        decoder_hidden_size, decoder_num_hidden_layers, decoder_num_attention_heads, decoder_intermediate_size (`int`,
            *optional*, default to 384, 4, 6 and 1536):
            Hidden size, number of layers, number of attention heads and feed-forward size of the decoder that
            reconstructs the 12 leads from the page tokens.
        decoder_query_samples (`int`, *optional*, defaults to 40):
            Samples per decoder query (0.4 s). Must divide `num_samples`.
        layer_norm_eps (`float`, *optional*, defaults to 1e-5):
            Epsilon of the decoder's layer normalizations.
        initializer_range (`float`, *optional*, defaults to 0.02):
            Standard deviation of the normal initialization of projections and decoder.
        volume_weight (`float`, *optional*, defaults to 1.0):
            Weight of the Gramian volume contrastive loss [paper].
        pairwise_weight (`float`, *optional*, defaults to 1.0):
            Weight of the pairwise contrastive losses of page and signal, and of page and text. The volume does not
            change if a vector is negated, so that cosine similarities are meaningless without this term.
        reconstruction_weight (`float`, *optional*, defaults to 1.0):
            Weight of the reconstruction loss of the 12 leads [paper]: the Huber loss [mV^2] divided by
            `huber_delta ** 2`.
        lead_weight (`float`, *optional*, defaults to 0.1):
            Weight of the soft lead constraint [paper]: the mean squared residual [mV^2] divided by `huber_delta ** 2`.
        normalize_volume (`bool`, *optional*, defaults to `False`):
            Divide the volume by the area spanned by signal and text, which does not depend on the page.
        huber_delta (`float`, *optional*, defaults to 0.1):
            Threshold between the quadratic and the linear part of the Huber loss [mV], and the unit of reconstruction
            loss and lead constraint: in mV^2 both would be negligible compared with the contrastive losses. Changing
            it rescales both terms.
        unseen_weight (`float`, *optional*, defaults to 0.25):
            Reconstruction weight of samples that are not visible on the page; visible ones have weight 1.
        label_smoothing (`float`, *optional*, defaults to 0.1):
            Label smoothing of the contrastive losses, as in GRAM.
        temperature_init (`float`, *optional*, defaults to 0.07):
            Initial value of the learned temperatures, as in GRAM.
        head_type, num_pooling_heads, classifier_dropout, problem_type, label_thresholds,
        label_calibration:
            See [`EcgConfig`]. The head reads the pooled feature of the page.

    Example:

    ```python
    >>> from clear_hug_hf.modeling.configuration_ecg_scan import EcgScanConfig
    >>> from clear_hug_hf.modeling.modeling_ecg_scan import EcgScanModel

    >>> model = EcgScanModel(EcgScanConfig.preset("tiny"))
    ```
    """

    model_type: ClassVar[str] = "ecg_scan"
    auto_classes: ClassVar[dict[str, str]] = {
        "AutoModel": "EcgScanModel",
        "AutoModelForPreTraining": "EcgScanForPreTraining",
        "AutoModelForImageClassification": "EcgScanForImageClassification",
    }
    presets: ClassVar[dict[str, dict[str, Any]]] = {
        # For demonstrations and tests: trains on two CPU cores within minutes. A small ResNet, because a vision
        # transformer does not learn from a thousand pages.
        "tiny": {
            "vision_config": {
                "model_type": "resnet",
                "embedding_size": 32,
                "hidden_sizes": [32, 64, 128, 256],
                "depths": [1, 1, 1, 1],
                "layer_type": "basic",
            },
            "text_config": _TINY_TEXT,
            "image_size": [192, 256],
            "projection_dim": 128,
            "decoder_query_samples": 100,
            **transformer_sizes("decoder_", width=128, layers=2, heads=4, inner=256),
        },
        "base": {"vision_config": _CLIP_BASE, "text_config": _TINY_TEXT, "image_size": [224, 224]},
        # CLIP ViT-L/14 at 336 px, as in the processor of the released model.
        "large": {"image_size": [336, 336]},
    }
    # transformers propagates the attention implementation to these.
    sub_configs: ClassVar[dict[str, Any]] = dict.fromkeys(
        ("vision_config", "signal_config", "text_config"), AutoConfig
    )

    # `__post_init__` converts dictionaries to configs.
    vision_config: Any = field(default=None, metadata=ENCODER)
    signal_config: Any = field(default=None, metadata=PRETRAINING)
    text_config: Any = field(default=None, metadata=PRETRAINING)
    signal_embed_dim: int | None = field(default=None, metadata=PRETRAINING | COUNT)
    text_embed_dim: int | None = field(default=None, metadata=PRETRAINING | COUNT)

    lead_names: list[str] | tuple[str, ...] = field(default=STANDARD_LEAD_NAMES, metadata=PRETRAINING)
    sampling_rate: int = field(default=100, metadata=PRETRAINING | SAMPLING_RATE)
    num_samples: int = field(default=1000, metadata=PRETRAINING | COUNT | at_most(MAX_SAMPLES))
    image_size: list[int] | tuple[int, ...] = field(default=(336, 336), metadata=ENCODER)

    image_pooling: Literal["pooler", "first", "mean"] = field(default="pooler", metadata=ENCODER)
    text_pooling: Literal["mean", "first"] = field(default="mean", metadata=PRETRAINING)
    projection_dim: int = field(default=512, metadata=PRETRAINING | COUNT)
    freeze_vision: bool = field(default=False, metadata=ENCODER_SAME_FEATURES)
    freeze_signal: bool = field(default=True, metadata=PRETRAINING)
    freeze_text: bool = field(default=False, metadata=PRETRAINING)

    decoder_hidden_size: int = field(default=384, metadata=PRETRAINING | COUNT)
    decoder_num_hidden_layers: int = field(default=4, metadata=PRETRAINING | LAYERS)
    decoder_num_attention_heads: int = field(default=6, metadata=PRETRAINING | COUNT)
    decoder_intermediate_size: int = field(default=1536, metadata=PRETRAINING | COUNT)
    decoder_query_samples: int = field(default=40, metadata=PRETRAINING | COUNT)
    layer_norm_eps: float = field(default=1e-5, metadata=PRETRAINING | POSITIVE)
    initializer_range: float = field(default=0.02, metadata=PRETRAINING | POSITIVE)

    volume_weight: float | int = field(default=1.0, metadata=PRETRAINING | LOSS_WEIGHT)
    pairwise_weight: float | int = field(default=1.0, metadata=PRETRAINING | LOSS_WEIGHT)
    reconstruction_weight: float | int = field(default=1.0, metadata=PRETRAINING | LOSS_WEIGHT)
    lead_weight: float | int = field(default=0.1, metadata=PRETRAINING | LOSS_WEIGHT)
    normalize_volume: bool = field(default=False, metadata=PRETRAINING)
    huber_delta: float | int = field(default=0.1, metadata=PRETRAINING | POSITIVE)
    unseen_weight: float | int = field(
        default=0.25, metadata=PRETRAINING | valid_if("must be between 0 and 1", lambda value: 0 <= value <= 1)
    )
    label_smoothing: float | int = field(default=0.1, metadata=PRETRAINING | RATE)
    temperature_init: float | int = field(default=0.07, metadata=PRETRAINING | POSITIVE)

    def __post_init__(self, **kwargs: Any) -> None:
        self.vision_config = _tower_config("vision_config", self.vision_config or _CLIP_LARGE)
        self.signal_config = _signal_config(self.signal_config)
        self.text_config = None if self.text_config is None else _tower_config("text_config", self.text_config)
        self.image_size = list(self.image_size)
        if self.signal_config is not None:
            self.signal_embed_dim = self.signal_config.hidden_size
        if self.text_config is not None:
            text = self.text_config
            self.text_embed_dim = getattr(text, "hidden_size", None) or getattr(text, "d_model", None)
        super().__post_init__(**kwargs)

    @property
    def num_queries(self) -> int:
        """`int`: Number of decoder queries per lead."""
        return self.num_samples // self.decoder_query_samples

    @property
    def hidden_size(self) -> int:
        """`int`: Hidden size of the vision tower."""
        vision = self.vision_config
        stage_sizes = getattr(vision, "hidden_sizes", None)
        return int(stage_sizes[-1] if stage_sizes else getattr(vision, "hidden_size", 0))

    @property
    def num_hidden_layers(self) -> int:
        """`int`: Number of layers of the vision tower, or of stages if it is convolutional."""
        vision = self.vision_config
        depths = getattr(vision, "depths", None)
        return len(depths) if depths else int(getattr(vision, "num_hidden_layers", 0))

    def validate_architecture(self) -> None:
        """See [`EcgConfig.validate_architecture`]."""
        super().validate_architecture()
        for name in ("vision_config", "text_config"):
            if getattr(self, name) is not None:
                _check_tower(name, getattr(self, name).to_dict(), type(getattr(self, name)))
        if not self.hidden_size or not self.num_hidden_layers:
            raise ValueError(
                f"vision_config is of type {self.vision_config.model_type!r}, which defines no hidden size and number "
                "of layers: use a vision backbone."
            )
        embed_dims = self.hidden_size + (self.signal_embed_dim or 0) + (self.text_embed_dim or 0)
        check_num_parameters(self.projection_dim * embed_dims + self._count_familiarity())
        rows = self.hidden_size + self.decoder_query_samples + self.num_leads
        self._check_transformers(("decoder_",), rows, multiple_of=4)
        self._count_patches(self.num_samples, "decoder_query_samples")
        if len(self.image_size) != 2 or not all(32 <= side <= MAX_SIDE for side in self.image_size):
            raise ValueError(
                f"image_size must be a height and a width between 32 and {MAX_SIDE} px, got {list(self.image_size)}."
            )


def _tower_config(name: str, config: Any) -> PreTrainedConfig:
    if isinstance(config, PreTrainedConfig):
        return config
    model_type = _model_type(name, config)
    if model_type not in CONFIG_MAPPING:
        raise ValueError(f"{name} has the unknown model_type {model_type!r}: use a model type of transformers.")
    _check_tower(name, config, CONFIG_MAPPING[model_type])
    try:
        return CONFIG_MAPPING[model_type](**{key: value for key, value in config.items() if key != "model_type"})
    except Exception as error:  # configs of transformers raise various errors
        raise ValueError(f"{name} is not a valid {model_type} config: {' '.join(str(error).split())}") from error


def _model_type(name: str, config: Any) -> str:
    model_type = config.get("model_type") if isinstance(config, Mapping) else None
    if not isinstance(model_type, str):
        raise ValueError(f"{name} must be a config or a dictionary with a model_type, got {short(config)}.")
    return model_type


def _signal_config(config: Any) -> PreTrainedConfig | None:
    if config is None:
        return None
    model_type = config.model_type if isinstance(config, PreTrainedConfig) else _model_type("signal_config", config)
    if model_type not in SIGNAL_CONFIGS:
        raise ValueError(
            f"signal_config has the model_type {model_type!r}: choose one of {', '.join(map(repr, SIGNAL_CONFIGS))}."
        )
    if not isinstance(config, PreTrainedConfig):
        # The class defines `model_type`, and its code is in this folder whatever `auto_map` says.
        fields = {key: value for key, value in config.items() if key not in ("model_type", "auto_map")}
        return SIGNAL_CONFIGS[model_type](**fields)
    return config


def _check_tower(name: str, settings: Mapping[str, Any], config_class: type) -> None:
    """
    Reject a transformers config in the field `name` that describes a model too large for memory, judging by common
    names of size fields. `config_class` determines whether position embeddings are rotary.
    """
    for key, value in settings.items():
        if any(abs(number) > _MAX_INTEGER for number in _integers(value)):
            raise ValueError(f"{name}.{key} must be at most {_MAX_INTEGER}, got {short(value)}.")
    depth = max(sum(_integers(settings.get(key))) for key in _DEPTHS)
    if depth > MAX_LAYERS:
        raise ValueError(f"{name} must have at most {MAX_LAYERS} layers, got {depth}.")
    rotary = any(hasattr(config_class, key) for key in _ROTARY)
    width, inner, rows = (
        max((number for key in keys for number in _integers(settings.get(key))), default=0)
        for keys in (_WIDTHS, _INNER, _ROWS if rotary else _ROWS + _POSITIONS)
    )
    check_num_parameters(estimate_num_parameters(width, depth, inner or width, rows))


def _integers(value: Any) -> Iterator[int]:
    """Yield all integers in a nested value."""
    if isinstance(value, Mapping | list | tuple):
        for item in value.values() if isinstance(value, Mapping) else value:
            yield from _integers(item)
    elif isinstance(value, int) and not isinstance(value, bool):
        yield value


__all__ = ["EcgScanConfig"]
