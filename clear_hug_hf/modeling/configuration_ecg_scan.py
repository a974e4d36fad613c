"""Configuration of the ECG-Scan models."""

import os
from collections.abc import Mapping
from dataclasses import field
from pathlib import Path
from reprlib import repr as short
from typing import Any, ClassVar, Self

from huggingface_hub.dataclasses import strict
from transformers import CONFIG_MAPPING, AutoConfig, PreTrainedConfig

from .config_limits import (
    MAX_SAMPLES,
    MAX_SAMPLING_RATE,
    MAX_TOKENS,
    align_labels,
    check_at_most,
    check_common_fields,
    check_num_weights,
    check_tower,
    check_weights,
)
from .configuration_clear_hug import ClearHugConfig
from .configuration_ecg_jepa import EcgJepaConfig
from .configuration_parts import CLASSIFIER, ENCODER, ENCODER_SAME_FEATURES, PRETRAINING, PROBLEM_TYPES


ECG_SCAN_LEAD_NAMES = ("I", "II", "III", "aVR", "aVL", "aVF", "V1", "V2", "V3", "V4", "V5", "V6")
"""The 12 leads that a page shows, in the order of the reconstruction."""

SIGNAL_CONFIGS = {"clear_hug": ClearHugConfig, "ecg_jepa": EcgJepaConfig}
IMAGE_POOLINGS = ("pooler", "first", "mean")
TEXT_POOLINGS = ("mean", "first")
HEAD_TYPES = ("mean",)
MAX_SIDE = 4096
"""Greatest height and width of a page [px]."""

# Every folder that a model is saved to names all classes, whichever of them was saved.
AUTO_MAP = {
    "AutoConfig": "configuration_ecg_scan.EcgScanConfig",
    "AutoModel": "modeling_ecg_scan.EcgScanModel",
    "AutoModelForPreTraining": "modeling_ecg_scan.EcgScanForPreTraining",
    "AutoModelForImageClassification": "modeling_ecg_scan.EcgScanForImageClassification",
}

# A text encoder that reads bytes (ByT5's tokenizer, which needs no vocabulary file).
_TINY_TEXT: dict[str, Any] = {
    "model_type": "bert",
    "vocab_size": 384,
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 128,
    "max_position_embeddings": 256,
    "type_vocab_size": 1,
    "pad_token_id": 0,
}
_CLIP_LARGE: dict[str, Any] = {
    "model_type": "clip_vision_model",
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "patch_size": 14,
    "image_size": 336,
    "projection_dim": 768,
}
_CLIP_BASE: dict[str, Any] = {
    "model_type": "clip_vision_model",
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "patch_size": 16,
    "image_size": 224,
    "projection_dim": 512,
}

PRESETS: dict[str, dict[str, Any]] = {
    # For demonstrations and tests: learns on two CPU cores within minutes. A small ResNet, since convolutions learn
    # from a thousand pages what a vision transformer does not.
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
        "decoder_hidden_size": 128,
        "decoder_num_hidden_layers": 2,
        "decoder_num_attention_heads": 4,
        "decoder_intermediate_size": 256,
        "decoder_query_samples": 100,
    },
    "base": {"vision_config": _CLIP_BASE, "text_config": _TINY_TEXT, "image_size": [224, 224]},
    # The tower whose processor the released model names (CLIP ViT-L/14 at 336 px).
    "large": {},
}


@strict
class EcgScanConfig(PreTrainedConfig):
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
            What stands for a page: the tower's own `"pooler"` (of CLIP the normalised class token, of convolutions the
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
            Added to the variance in the decoder's layer normalisations.
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
        head_type (`str`, *optional*, defaults to `"mean"`):
            Head of the classifier: only `"mean"`, which is the page's pooled feature.
        classifier_dropout (`float`, *optional*, defaults to 0.0):
            Dropout of what the classifier reads.
        problem_type (`str`, *optional*):
            What the classifier learns, which decides its loss: `"multi_label_classification"`, labels that are
            independent of each other, since a recording may have several diagnoses; `"single_label_classification"`,
            one class; or `"regression"`, values. By default the first labels decide: class numbers are one class, a
            single label without a name (`num_labels=1`) is a value, anything else is independent labels.
        label_thresholds (`dict[str, float]`, *optional*):
            From which probability on a label counts as found; 0.5 for a label that is not in it.

    Raises:
        `ValueError`: if fields contradict each other or a value is out of range.

    Example:

    ```python
    >>> from clear_hug_hf.modeling.configuration_ecg_scan import EcgScanConfig
    >>> from clear_hug_hf.modeling.modeling_ecg_scan import EcgScanModel

    >>> model = EcgScanModel(EcgScanConfig.preset("tiny"))
    ```"""

    model_type: ClassVar[str] = "ecg_scan"
    # Of the outputs, what Trainer does not collect: predictions are the logits alone.
    keys_to_ignore_at_inference: ClassVar[list[str]] = ["hidden_states", "attentions"]
    # Of transformers: through these, how attention is computed reaches the towers.
    sub_configs: ClassVar[dict[str, Any]] = {
        "vision_config": AutoConfig,
        "signal_config": AutoConfig,
        "text_config": AutoConfig,
    }

    # Dictionaries become configs below.
    vision_config: Any = field(default=None, metadata=ENCODER)
    signal_config: Any = field(default=None, metadata=PRETRAINING)
    text_config: Any = field(default=None, metadata=PRETRAINING)
    signal_embed_dim: int | None = field(default=None, metadata=PRETRAINING)
    text_embed_dim: int | None = field(default=None, metadata=PRETRAINING)

    lead_names: list[str] | tuple[str, ...] = field(
        default_factory=lambda: list(ECG_SCAN_LEAD_NAMES), metadata=PRETRAINING
    )
    sampling_rate: int = field(default=100, metadata=PRETRAINING)
    num_samples: int = field(default=1000, metadata=PRETRAINING)
    image_size: list[int] | tuple[int, ...] = field(default=(336, 336), metadata=ENCODER)

    image_pooling: str = field(default="pooler", metadata=ENCODER)
    text_pooling: str = field(default="mean", metadata=PRETRAINING)
    projection_dim: int = field(default=512, metadata=PRETRAINING)
    freeze_vision: bool = field(default=False, metadata=ENCODER_SAME_FEATURES)
    freeze_signal: bool = field(default=True, metadata=PRETRAINING)
    freeze_text: bool = field(default=False, metadata=PRETRAINING)

    decoder_hidden_size: int = field(default=384, metadata=PRETRAINING)
    decoder_num_hidden_layers: int = field(default=4, metadata=PRETRAINING)
    decoder_num_attention_heads: int = field(default=6, metadata=PRETRAINING)
    decoder_intermediate_size: int = field(default=1536, metadata=PRETRAINING)
    decoder_query_samples: int = field(default=40, metadata=PRETRAINING)
    layer_norm_eps: float = field(default=1e-5, metadata=PRETRAINING)
    initializer_range: float = field(default=0.02, metadata=PRETRAINING)

    volume_weight: float | int = field(default=1.0, metadata=PRETRAINING)
    pairwise_weight: float | int = field(default=1.0, metadata=PRETRAINING)
    reconstruction_weight: float | int = field(default=1.0, metadata=PRETRAINING)
    lead_weight: float | int = field(default=0.1, metadata=PRETRAINING)
    normalize_volume: bool = field(default=False, metadata=PRETRAINING)
    huber_delta: float | int = field(default=0.1, metadata=PRETRAINING)
    unseen_weight: float | int = field(default=0.25, metadata=PRETRAINING)
    label_smoothing: float | int = field(default=0.1, metadata=PRETRAINING)
    temperature_init: float | int = field(default=0.07, metadata=PRETRAINING)

    head_type: str = field(default="mean", metadata=CLASSIFIER)
    classifier_dropout: float | int = field(default=0.0, metadata=CLASSIFIER)
    # A plain string: a wrong value is refused below as any other.
    problem_type: str | None = field(default=None, metadata=CLASSIFIER)  # type: ignore[assignment]
    label_thresholds: dict[str, float] | None = field(default=None, metadata=CLASSIFIER)

    def __post_init__(self, **kwargs: Any) -> None:
        check_common_fields(self, kwargs)
        self.vision_config = _tower_config("vision_config", self.vision_config or _CLIP_LARGE)
        self.signal_config = _signal_config(self.signal_config)
        self.text_config = None if self.text_config is None else _tower_config("text_config", self.text_config)
        self.lead_names, self.image_size = list(self.lead_names), list(self.image_size)
        if self.signal_config is not None:
            self.signal_embed_dim = self.signal_config.hidden_size
        if self.text_config is not None:
            text = self.text_config
            self.text_embed_dim = getattr(text, "hidden_size", None) or getattr(text, "d_model", None)
        kwargs["auto_map"] = {**AUTO_MAP, **(kwargs.get("auto_map") or {})}
        super().__post_init__(**kwargs)
        self.validate_ecg_scan()

    @classmethod
    def preset(cls, name: str, **overrides: Any) -> Self:
        """
        A configuration of a named size.

        Args:
            name (`str`):
                `"tiny"` for demonstrations, `"base"` with CLIP's ViT-B/16 tower, `"large"` with ViT-L/14 at 336 px.
            overrides:
                Fields that differ from the preset.

        Raises:
            `ValueError`: if there is no such preset.
        """
        if name not in PRESETS:
            raise ValueError(f"There is no preset {name!r}: choose one of {', '.join(PRESETS)}.")
        return cls(**{**PRESETS[name], **overrides})

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        """
        Build from a dictionary, as [`PreTrainedConfig.from_dict`] does; `from_pretrained` and `AutoConfig` come here.

        The installed class leaves `custom_pipelines` out: `pipeline` would refuse such a config unless it may run the
        file in the folder, and the task that the file brings is registered where the package is installed.
        """
        if not cls.__module__.startswith("transformers_modules"):
            config_dict = {name: value for name, value in config_dict.items() if name != "custom_pipelines"}
        return super().from_dict(config_dict, **kwargs)

    @property
    def num_leads(self) -> int:
        """`int`: Number of leads."""
        return len(self.lead_names)

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

    def validate_ecg_scan(self) -> None:
        """Refuse values that no model can be built from. Also called when a model is built and when it is saved."""
        sizes: tuple[str, ...] = ("sampling_rate", "num_samples", "projection_dim", "decoder_hidden_size")
        sizes += ("decoder_num_hidden_layers", "decoder_num_attention_heads", "decoder_intermediate_size")
        sizes += ("decoder_query_samples",)
        for name in sizes:
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}.")
        for name in ("signal_embed_dim", "text_embed_dim"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}.")
        check_at_most(self, MAX_SAMPLING_RATE, ("sampling_rate",))
        check_at_most(self, MAX_SAMPLES, ("num_samples",))
        for name in ("vision_config", "text_config"):
            if getattr(self, name) is not None:
                check_tower(name, getattr(self, name).to_dict(), type(getattr(self, name)))
        if not self.hidden_size or not self.num_hidden_layers:
            raise ValueError(
                f"vision_config is a {self.vision_config.model_type}, which names no width and depth of tokens of an "
                "image: choose a vision backbone."
            )
        embedded = self.hidden_size + (self.signal_embed_dim or 0) + (self.text_embed_dim or 0)
        check_num_weights(self.projection_dim * embedded)
        check_weights(self, ("decoder_",), self.hidden_size + self.decoder_query_samples + self.num_leads)
        if self.num_samples % self.decoder_query_samples:
            raise ValueError(
                f"decoder_query_samples={self.decoder_query_samples} does not divide num_samples={self.num_samples}: "
                "the reconstruction must be a whole number of queries."
            )
        if self.num_leads * self.num_queries > MAX_TOKENS:
            raise ValueError(
                f"num_samples={self.num_samples} with decoder_query_samples={self.decoder_query_samples} gives "
                f"{self.num_leads * self.num_queries} queries, and the decoder may have {MAX_TOKENS}."
            )
        if self.decoder_hidden_size % self.decoder_num_attention_heads:
            raise ValueError(
                f"decoder_hidden_size={self.decoder_hidden_size} is not a multiple of "
                f"decoder_num_attention_heads={self.decoder_num_attention_heads}."
            )
        if self.decoder_hidden_size % 4:
            raise ValueError(
                f"decoder_hidden_size={self.decoder_hidden_size} is not a multiple of 4, as the positions need it."
            )
        if len(self.image_size) != 2 or not all(32 <= side <= MAX_SIDE for side in self.image_size):
            raise ValueError(
                f"image_size must be height and width of at least 32 px and at most {MAX_SIDE} px, got "
                f"{list(self.image_size)}."
            )
        if not self.lead_names or len(set(self.lead_names)) != len(self.lead_names):
            raise ValueError(f"lead_names must name at least one lead and each only once, got {self.lead_names}.")
        for name in ("volume_weight", "pairwise_weight", "reconstruction_weight", "lead_weight"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise ValueError(f"{name} must not be negative and must be finite, got {getattr(self, name)}.")
        for name in ("huber_delta", "temperature_init", "layer_norm_eps", "initializer_range"):
            if not 0 < getattr(self, name) < float("inf"):
                raise ValueError(f"{name} must be positive and finite, got {getattr(self, name)}.")
        if not 0 <= self.unseen_weight <= 1:
            raise ValueError(f"unseen_weight must lie between 0 and 1, got {self.unseen_weight}.")
        for name in ("classifier_dropout", "label_smoothing"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 0 and below 1, got {getattr(self, name)}.")
        choices: tuple[tuple[str, tuple[str, ...]], ...] = (
            ("image_pooling", IMAGE_POOLINGS),
            ("text_pooling", TEXT_POOLINGS),
            ("head_type", HEAD_TYPES),
        )
        for name, allowed in choices:
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} must be one of {', '.join(allowed)}, got {getattr(self, name)!r}.")
        if self.problem_type not in (None, *PROBLEM_TYPES):
            raise ValueError(f"problem_type must be one of {', '.join(PROBLEM_TYPES)}, got {self.problem_type!r}.")
        for name, threshold in (self.label_thresholds or {}).items():
            if not 0 <= threshold <= 1:
                raise ValueError(f"label_thresholds must lie between 0 and 1, got {threshold} for {name!r}.")

    def save_pretrained(
        self, save_directory: str | os.PathLike[str], push_to_hub: bool = False, **kwargs: Any
    ) -> None:
        """
        Save to a folder, as [`PreTrainedConfig.save_pretrained`] does.

        A pipeline is named only in a folder that holds its file: the pipeline puts it there before it saves the model.
        """
        # A config that came from a Hub repository points to the code there; the saved folder holds its own.
        self.auto_map = dict(AUTO_MAP)
        align_labels(self)
        pipelines: Mapping[str, Any] | None = vars(self).pop("custom_pipelines", None)
        try:
            if pipelines and all(_file_of(one, save_directory).is_file() for one in pipelines.values()):
                self.custom_pipelines = pipelines
            super().save_pretrained(save_directory, push_to_hub=push_to_hub, **kwargs)
        finally:
            if pipelines is not None:
                self.custom_pipelines = pipelines


def _tower_config(name: str, given: Any) -> PreTrainedConfig:
    if isinstance(given, PreTrainedConfig):
        return given
    model_type = _model_type(name, given)
    if model_type not in CONFIG_MAPPING:
        raise ValueError(f"{name} has the model_type {model_type!r}: name a model of transformers.")
    check_tower(name, given, CONFIG_MAPPING[model_type])
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


def _file_of(pipeline: Mapping[str, Any], folder: str | os.PathLike[str]) -> Path:
    """Where a folder would hold the code of an entry of `custom_pipelines`."""
    return Path(folder) / f"{pipeline['impl'].split('.')[0]}.py"


EcgScanConfig.register_for_auto_class()

__all__ = ["EcgScanConfig"]
