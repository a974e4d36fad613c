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
    check_num_weights,
    count_weights,
    must,
    sizes,
    strict_config,
)
from .configuration_ecg_jepa import EcgJepaConfig


# Encoders of signals that may be teachers. Imported here by name: a saved folder holds, and transformers loads, only
# the files that are imported from the first one on.
SIGNAL_CONFIGS: dict[str, type[EcgConfig]] = {one.model_type: one for one in (ClearHugConfig, EcgJepaConfig)}
MAX_SIDE = 4096
"""Greatest height and width of a page [px]."""

# What widths and depths are called in configs of transformers.
_WIDTHS = ("hidden_size", "hidden_sizes", "embed_dim", "embed_dims", "d_model", "dim", "embedding_size")
_DEPTHS = ("num_hidden_layers", "num_layers", "n_layer", "depths", "depth")
_INNER = ("intermediate_size", "intermediate_sizes", "d_ff", "ffn_dim", "mlp_dim")
_POSITIONS = ("max_position_embeddings", "n_positions")
_ROWS = ("vocab_size", "type_vocab_size")
# Rotary positions are computed: no table holds them.
_ROTARY = ("rope_parameters", "rope_theta")
_LARGEST_NUMBER = 2**24

# A text encoder that reads bytes (ByT5's tokenizer, which needs no vocabulary file).
_TINY_TEXT = sizes(width=64, layers=2, heads=4, inner=128) | {
    "model_type": "bert",
    "vocab_size": 384,
    "max_position_embeddings": 256,
    "type_vocab_size": 1,
    "pad_token_id": 0,
}
_CLIP_LARGE = sizes(width=1024, layers=24, heads=16, inner=4096) | {
    "model_type": "clip_vision_model",
    "patch_size": 14,
    "image_size": 336,
    "projection_dim": 768,
}
_CLIP_BASE = sizes(width=768, layers=12, heads=12, inner=3072) | {
    "model_type": "clip_vision_model",
    "patch_size": 16,
    "image_size": 224,
    "projection_dim": 512,
}


@strict_config
class EcgScanConfig(EcgConfig):
    r"""
    Configuration of [`EcgScanModel`], [`EcgScanForPreTraining`] and [`EcgScanForImageClassification`]: an
    implementation of the published idea of ECG-Scan ("Learning ECG Image Representations via Dual Physiological-Aware
    Alignments", Pham et al., arXiv 2604.01526). Of the paper only the abstract could be read, and no code was found;
    where it is silent, these are our choices. Each field says which: [READ] in the abstract or the authors' model
    card, [INFER] from them, [CHOICE] ours.

    Args:
        vision_config (`dict` or [`PreTrainedConfig`], *optional*):
            Config of any vision backbone of transformers, with its `model_type`. By default CLIP ViT-L/14 at 336 px
            [INFER from the released card's processor]; initial weights are [CHOICE].
        signal_config (`dict`, [`ClearHugConfig`] or [`EcgJepaConfig`], *optional*):
            Config of the signal teacher: an encoder of this package [CHOICE; the authors' is probably D-BETA]. Without
            it the model holds no signal encoder, and reads `signal_embeds`.
        text_config (`dict` or [`PreTrainedConfig`], *optional*):
            Config of any text encoder of transformers [CHOICE; the authors' is probably flan-t5]. Without it the model
            reads `text_embeds`, or no texts.
        signal_embed_dim, text_embed_dim (`int`, *optional*):
            Width of the embeddings of signals and texts; follows from the towers where they are there.
        lead_names (`list[str]`, *optional*, defaults to the 12 leads):
            Leads of the reconstruction.
        sampling_rate (`int`, *optional*, defaults to 100):
            Rate of the reconstruction [Hz] [CHOICE: a page of 336 px carries about 30 px per second].
        num_samples (`int`, *optional*, defaults to 1000):
            Length of the reconstruction [samples].
        image_size (`list[int]`, *optional*, defaults to `[336, 336]`):
            Height and width of the pages that the model reads [px]; a page is resized straight to it, never cropped.
        image_pooling (`str`, *optional*, defaults to `"pooler"`):
            What stands for a page: the tower's own `"pooler"` (of CLIP the normalized class token, of convolutions the
            mean) [CHOICE], its `"first"` token, or the `"mean"` of its tokens.
        text_pooling (`str`, *optional*, defaults to `"mean"`):
            What stands for a text: the `"mean"` of its tokens or its `"first"`; padding counts in neither [CHOICE].
        projection_dim (`int`, *optional*, defaults to 512):
            Width of the shared space [CHOICE: that of GRAM].
        freeze_vision (`bool`, *optional*, defaults to `False`):
            Whether the vision tower stays as it is; its heads are trained.
        freeze_signal (`bool`, *optional*, defaults to `True`):
            Whether the signal teacher stays as it is [INFER: "gold-standard"]. Its head is trained: with strictly
            frozen embeddings recordings whose signal and text agree look close to every page, in the plain volume.
        freeze_text (`bool`, *optional*, defaults to `False`):
            Whether the text encoder stays as it is. A small one that was never pre-trained must learn [CHOICE].
        decoder_hidden_size, decoder_num_hidden_layers, decoder_num_attention_heads, decoder_intermediate_size (`int`,
            *optional*, default to 384, 4, 6 and 1536): Of the decoder that draws the 12 leads from the page's tokens
            [CHOICE].
        decoder_query_samples (`int`, *optional*, defaults to 40):
            Samples that one query of the decoder gives [CHOICE: 0.4 s]; divides `num_samples`.
        layer_norm_eps (`float`, *optional*, defaults to 1e-5):
            Added to the variance in the decoder's layer normalizations.
        initializer_range (`float`, *optional*, defaults to 0.02):
            Standard deviation of the normal distribution that heads and decoder start from.
        volume_weight (`float`, *optional*, defaults to 1.0):
            Weight of the Gramian volume contrast [READ in a third party's summary; weight CHOICE].
        pairwise_weight (`float`, *optional*, defaults to 1.0):
            Weight of the pairwise contrast of page and signal, and of page and text [CHOICE: the volume does not know
            a vector from its opposite, so that cosines mean nothing without it].
        reconstruction_weight (`float`, *optional*, defaults to 1.0):
            Weight of the reconstruction of the 12 leads, Huber's loss [mV^2] over the square of `huber_delta` [READ:
            there is one; form and weight CHOICE].
        lead_weight (`float`, *optional*, defaults to 0.1):
            Weight of the soft lead constraint, the mean square of its residuals [mV^2] over the square of
            `huber_delta` [READ: there is one; form and weight CHOICE].
        normalize_volume (`bool`, *optional*, defaults to `False`):
            Divide the volume by the area that signal and text span, which no page can change [CHOICE].
        huber_delta (`float`, *optional*, defaults to 0.1):
            Error above which the reconstruction's loss grows linearly [mV], and the unit of reconstruction and lead
            constraint: in mV^2 both would vanish beside the contrasts. At 0.1 a weight of 1 is 100 per mV^2, so that
            another value weighs both terms anew [CHOICE].
        unseen_weight (`float`, *optional*, defaults to 0.25):
            Weight of samples that the page does not show, beside 1 for the others [CHOICE].
        label_smoothing (`float`, *optional*, defaults to 0.1):
            Of both contrasts [CHOICE: that of GRAM].
        temperature_init (`float`, *optional*, defaults to 0.07):
            Where the learned temperatures begin [CHOICE: that of GRAM].
        head_type, classifier_dropout, problem_type, label_thresholds:
            As in [`EcgConfig`]; the head reads the page's pooled feature.

    Example:

    ```python
    >>> from clear_hug_hf.modeling.configuration_ecg_scan import EcgScanConfig
    >>> from clear_hug_hf.modeling.modeling_ecg_scan import EcgScanModel

    >>> model = EcgScanModel(EcgScanConfig.preset("tiny"))
    ```"""

    model_type: ClassVar[str] = "ecg_scan"
    auto_classes: ClassVar[dict[str, str]] = {
        "AutoModel": "EcgScanModel",
        "AutoModelForPreTraining": "EcgScanForPreTraining",
        "AutoModelForImageClassification": "EcgScanForImageClassification",
    }
    presets: ClassVar[dict[str, dict[str, Any]]] = {
        # For demonstrations and tests: learns on two CPU cores within minutes. A small ResNet, since convolutions
        # learn from a thousand pages what a vision transformer does not.
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
            **sizes("decoder_", width=128, layers=2, heads=4, inner=256),
        },
        "base": {"vision_config": _CLIP_BASE, "text_config": _TINY_TEXT, "image_size": [224, 224]},
        # The tower whose processor the released model names (CLIP ViT-L/14 at 336 px).
        "large": {"image_size": [336, 336]},
    }
    # Of transformers: through these, how attention is computed reaches the towers.
    sub_configs: ClassVar[dict[str, Any]] = dict.fromkeys(
        ("vision_config", "signal_config", "text_config"), AutoConfig
    )

    # Dictionaries become configs below.
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
        default=0.25, metadata=PRETRAINING | must("lie between 0 and 1", lambda value: 0 <= value <= 1)
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
        """`int`: Queries of the decoder for one lead."""
        return self.num_samples // self.decoder_query_samples

    @property
    def hidden_size(self) -> int:
        """`int`: Width of the vision tower's tokens."""
        vision = self.vision_config
        sizes = getattr(vision, "hidden_sizes", None)
        return int(sizes[-1] if sizes else getattr(vision, "hidden_size", 0))

    @property
    def num_hidden_layers(self) -> int:
        """`int`: Layers of the vision tower, or stages of a convolutional one."""
        vision = self.vision_config
        depths = getattr(vision, "depths", None)
        return len(depths) if depths else int(getattr(vision, "num_hidden_layers", 0))

    def validate_architecture(self) -> None:
        """As in [`EcgConfig`]."""
        super().validate_architecture()
        for name in ("vision_config", "text_config"):
            if getattr(self, name) is not None:
                _check_tower(name, getattr(self, name).to_dict(), type(getattr(self, name)))
        if not self.hidden_size or not self.num_hidden_layers:
            raise ValueError(
                f"vision_config is a {self.vision_config.model_type}, which names no width and depth of tokens of an "
                "image: choose a vision backbone."
            )
        embedded = self.hidden_size + (self.signal_embed_dim or 0) + (self.text_embed_dim or 0)
        check_num_weights(self.projection_dim * embedded)
        rows = self.hidden_size + self.decoder_query_samples + self.num_leads
        self._check_transformers(("decoder_",), rows, multiple_of=4)
        self._check_pieces(self.num_samples, "decoder_query_samples")
        if len(self.image_size) != 2 or not all(32 <= side <= MAX_SIDE for side in self.image_size):
            raise ValueError(
                f"image_size must be height and width of at least 32 px and at most {MAX_SIDE} px, got "
                f"{list(self.image_size)}."
            )


def _tower_config(name: str, given: Any) -> PreTrainedConfig:
    if isinstance(given, PreTrainedConfig):
        return given
    model_type = _model_type(name, given)
    if model_type not in CONFIG_MAPPING:
        raise ValueError(f"{name} has the model_type {model_type!r}: name a model of transformers.")
    _check_tower(name, given, CONFIG_MAPPING[model_type])
    try:
        return CONFIG_MAPPING[model_type](**{key: value for key, value in given.items() if key != "model_type"})
    except Exception as error:  # each config of transformers has errors of its own
        raise ValueError(f"{name} is no config of a {model_type}: {' '.join(str(error).split())}") from error


def _model_type(name: str, given: Any) -> str:
    model_type = given.get("model_type") if isinstance(given, Mapping) else None
    if not isinstance(model_type, str):
        raise ValueError(f"{name} must be a config or a dictionary with a model_type, got {short(given)}.")
    return model_type


def _signal_config(given: Any) -> PreTrainedConfig | None:
    if given is None:
        return None
    model_type = given.model_type if isinstance(given, PreTrainedConfig) else _model_type("signal_config", given)
    if model_type not in SIGNAL_CONFIGS:
        raise ValueError(
            f"signal_config has the model_type {model_type!r}: choose one of {', '.join(map(repr, SIGNAL_CONFIGS))}."
        )
    if not isinstance(given, PreTrainedConfig):
        # `model_type` is the class's; so is where its own code lies, which is this folder.
        kept = {key: value for key, value in given.items() if key not in ("model_type", "auto_map")}
        return SIGNAL_CONFIGS[model_type](**kept)
    return given


def _check_tower(name: str, settings: Mapping[str, Any], config_class: type) -> None:
    """
    Refuse a config of transformers, of the field `name`, that asks for what no memory holds, as far as usual names of
    fields tell. Its class tells whether positions are rotary.
    """
    for key, value in settings.items():
        if any(abs(number) > _LARGEST_NUMBER for number in _whole_numbers(value)):
            raise ValueError(f"{name}.{key} must be at most {_LARGEST_NUMBER}, got {short(value)}.")
    depth = max(sum(_whole_numbers(settings.get(key))) for key in _DEPTHS)
    if depth > MAX_LAYERS:
        raise ValueError(f"{name} has {depth} layers, and a tower may have {MAX_LAYERS}.")
    rotary = any(hasattr(config_class, key) for key in _ROTARY)
    width, inner, rows = (
        max((number for key in keys for number in _whole_numbers(settings.get(key))), default=0)
        for keys in (_WIDTHS, _INNER, _ROWS if rotary else _ROWS + _POSITIONS)
    )
    check_num_weights(count_weights(width, depth, inner or width, rows))


def _whole_numbers(value: Any) -> Iterator[int]:
    """The whole numbers in a value, however deep."""
    if isinstance(value, Mapping | list | tuple):
        for one in value.values() if isinstance(value, Mapping) else value:
            yield from _whole_numbers(one)
    elif isinstance(value, int) and not isinstance(value, bool):
        yield value


__all__ = ["EcgScanConfig"]
