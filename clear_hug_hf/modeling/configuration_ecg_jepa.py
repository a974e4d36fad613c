"""Configuration of the ECG-JEPA models (Kim, CroPA)."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import field
from pathlib import Path
from typing import Any, ClassVar, Self

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig

from .config_limits import (
    MAX_SAMPLES,
    MAX_SAMPLING_RATE,
    MAX_TOKENS,
    align_labels,
    check_activation,
    check_at_most,
    check_common_fields,
    check_weights,
)
from .configuration_parts import CLASSIFIER, ENCODER, ENCODER_SAME_FEATURES, PRETRAINING, PROBLEM_TYPES


ECG_JEPA_LEAD_NAMES = ("I", "II", "V1", "V2", "V3", "V4", "V5", "V6")
"""The eight independent leads in the order of the released weights; the other four follow from I and II."""

ATTENTION_PATTERNS = ("cropa", "full")
ATTENTION_FORMS = ("auto", "dense", "factorised")
POSITION_INJECTIONS = ("every_layer", "first_layer")
MASK_RATIOS = {"multi_block": (0.175, 0.225), "random": (0.6, 0.7)}
"""Kinds of masks, and the range from which the released weights' share of hidden times was drawn: of each block, or of
all."""
MAX_MASK_BLOCKS = 1_000
LOSS_TYPES = ("smooth_l1", "l1", "mse")
HEAD_TYPES = ("mean",)

# Every folder that a model is saved to names all five classes, whichever of them was saved.
AUTO_MAP = {
    "AutoConfig": "configuration_ecg_jepa.EcgJepaConfig",
    "AutoModel": "modeling_ecg_jepa.EcgJepaModel",
    "AutoModelForPreTraining": "modeling_ecg_jepa.EcgJepaForPreTraining",
    "AutoModelForSequenceClassification": "modeling_ecg_jepa.EcgJepaForSequenceClassification",
    "AutoModelForTokenClassification": "modeling_ecg_jepa.EcgJepaForTokenClassification",
}

PRESETS: dict[str, dict[str, Any]] = {
    # For demonstrations and tests: learns on two CPU cores within minutes.
    "tiny": {
        "hidden_size": 128,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "intermediate_size": 512,
        "predictor_hidden_size": 64,
        "predictor_num_hidden_layers": 2,
        "predictor_num_attention_heads": 4,
        "predictor_intermediate_size": 256,
        # Runs of this size have a few hundred steps: a slower teacher would stay where it began, and signals would not
        # outgrow the positions.
        "ema_start": 0.98,
        "patch_initializer_range": 0.5,
    },
    # The released sizes.
    "base": {},
}


@strict
class EcgJepaConfig(PreTrainedConfig):
    r"""
    Configuration of [`EcgJepaModel`], [`EcgJepaForPreTraining`], [`EcgJepaForSequenceClassification`] and
    [`EcgJepaForTokenClassification`]. The defaults are the base size of the paper ("Learning General Representation of
    12-Lead Electrocardiogram with a Joint-Embedding Predictive Architecture", Kim, arXiv 2410.08559). Another model of
    this name (Weimann and Conrad, arXiv 2410.13867) is not meant.

    Args:
        sampling_rate (`int`, *optional*, defaults to 250):
            Rate of the signal [Hz].
        lead_names (`list[str]`, *optional*, defaults to I, II and V1 to V6):
            The leads, in the order of `input_values`. A recording may have only some of them.
        num_samples (`int`, *optional*, defaults to 2500):
            Length of the window that the model sees at once [samples]; a recording may be shorter.
        patch_size (`int`, *optional*, defaults to 50):
            Samples of one patch, that is of one token of one lead; divides `num_samples`.
        hidden_size (`int`, *optional*, defaults to 768):
            Width of the encoder; a multiple of 4, since the positions are sines and cosines of time and lead.
        num_hidden_layers (`int`, *optional*, defaults to 12):
            Layers of the encoder.
        num_attention_heads (`int`, *optional*, defaults to 16):
            Attention heads of the encoder.
        intermediate_size (`int`, *optional*, defaults to 3072):
            Width of the encoder's feed-forward layers.
        hidden_act (`str`, *optional*, defaults to `"gelu"`):
            Activation of the feed-forward layers.
        qkv_bias (`bool`, *optional*, defaults to `False`):
            Whether queries, keys and values have a bias.
        layer_norm_eps (`float`, *optional*, defaults to 1e-5):
            Added to the variance in layer normalisations.
        drop_path_rate (`float`, *optional*, defaults to 0.0):
            Stochastic depth: how often the last layer is left out in training; earlier layers proportionally less. The
            released weights were pre-trained with 0.1 and used with 0.
        initializer_range (`float`, *optional*, defaults to 0.02):
            Standard deviation of the normal distribution that weights start from. Those that write to the residual
            stream in layer `l` start from it divided by `sqrt(2 l)`.
        patch_initializer_range (`float`, *optional*):
            Of the patch projection's weights; by default `initializer_range`, as released. Signals then weigh little
            beside the positions, which every layer adds, until the projection has grown: those in mV less still than
            the ones of unit deviation with which a run of a few hundred steps was seen to collapse. The `"tiny"`
            preset begins larger.
        attention_pattern (`str`, *optional*, defaults to `"cropa"`):
            What a patch may attend to: `"cropa"` the patches of its own lead and of its own time (cross-pattern
            attention), `"full"` all.
        attention_form (`str`, *optional*, defaults to `"auto"`):
            How cross-pattern attention is computed; the numbers are the same up to rounding. `"dense"` scores every
            pair and masks most, `"factorised"` computes only rows (leads) and columns (times) and gives no attention
            weights. `"auto"` is `"factorised"` where no gradients are computed and `"dense"` elsewhere, for its
            memory; with eager attention it is always `"dense"`.
        position_injection (`str`, *optional*, defaults to `"every_layer"`):
            Whether the positions are added at the input of every layer, as in the released weights, or only of the
            first (`"first_layer"`); in the encoder and in the predictor.
        predictor_hidden_size (`int`, *optional*, defaults to 384):
            Width of the predictor, which only pre-training uses; a multiple of 4.
        predictor_num_hidden_layers (`int`, *optional*, defaults to 6):
            Layers of the predictor.
        predictor_num_attention_heads (`int`, *optional*, defaults to 12):
            Attention heads of the predictor.
        predictor_intermediate_size (`int`, *optional*, defaults to 1536):
            Width of the predictor's feed-forward layers.
        mask_type (`str`, *optional*, defaults to `"multi_block"`):
            How pre-training chooses the times to hide, in all leads alike: `"multi_block"` some blocks that may
            overlap, `"random"` single times.
        mask_ratio (`list[float]`, *optional*):
            Lowest and highest share of the times that a block (`"multi_block"`) or the whole mask (`"random"`) hides;
            by default that of the released weights: 0.175 to 0.225, or 0.6 to 0.7.
        num_mask_blocks (`int`, *optional*, defaults to 4):
            Blocks of a `"multi_block"` mask.
        released_block_starts (`bool`, *optional*, defaults to `False`):
            Draw the starts of blocks as the released code does, which never hides the last time.
        loss_type (`str`, *optional*, defaults to `"smooth_l1"`):
            Distance between prediction and target: `"smooth_l1"` as in the released code, `"l1"` as in the paper's
            text, or `"mse"`.
        ema_start (`float`, *optional*, defaults to 0.996):
            Share of itself that the teacher keeps in the first step of pre-training.
        ema_end (`float`, *optional*, defaults to 1.0):
            That share in the last step; linear between.
        teacher_drop_path (`bool`, *optional*, defaults to `False`):
            Whether stochastic depth also acts on the teacher, as in the released code.
        head_type (`str`, *optional*, defaults to `"mean"`):
            Head of the classifier: only `"mean"`, over the leads that are there.
        classifier_dropout (`float`, *optional*, defaults to 0.0):
            Dropout of what the classifiers read.
        problem_type (`str`, *optional*):
            What the classifier learns, which decides its loss: `"multi_label_classification"`, labels that are
            independent of each other, since a recording may have several diagnoses; `"single_label_classification"`,
            one class; or `"regression"`, values. By default the first labels decide: class numbers are one class, a
            single label without a name (`num_labels=1`) is a value, anything else is independent labels.
        label_thresholds (`dict[str, float]`, *optional*):
            From which probability on a label counts as found, for labels by name: chosen on validation recordings by
            fine-tuning. A label that is not in it has 0.5.

    Raises:
        `ValueError`: if fields contradict each other or a value is out of range.

    Example:

    ```python
    >>> from clear_hug_hf.modeling.configuration_ecg_jepa import EcgJepaConfig
    >>> from clear_hug_hf.modeling.modeling_ecg_jepa import EcgJepaForPreTraining

    >>> config = EcgJepaConfig.preset("tiny", mask_type="random")
    >>> model = EcgJepaForPreTraining(config)
    ```"""

    model_type: ClassVar[str] = "ecg_jepa"
    # Of the outputs, what Trainer does not collect: predictions are the logits alone.
    keys_to_ignore_at_inference: ClassVar[list[str]] = ["hidden_states", "attentions"]

    sampling_rate: int = field(default=250, metadata=ENCODER_SAME_FEATURES)
    lead_names: list[str] | tuple[str, ...] = field(
        default_factory=lambda: list(ECG_JEPA_LEAD_NAMES), metadata=ENCODER
    )
    num_samples: int = field(default=2500, metadata=ENCODER)
    patch_size: int = field(default=50, metadata=ENCODER)

    hidden_size: int = field(default=768, metadata=ENCODER)
    num_hidden_layers: int = field(default=12, metadata=ENCODER)
    num_attention_heads: int = field(default=16, metadata=ENCODER)
    intermediate_size: int = field(default=3072, metadata=ENCODER)
    hidden_act: str = field(default="gelu", metadata=ENCODER)
    qkv_bias: bool = field(default=False, metadata=ENCODER)
    layer_norm_eps: float = field(default=1e-5, metadata=ENCODER)
    drop_path_rate: float | int = field(default=0.0, metadata=ENCODER_SAME_FEATURES)
    initializer_range: float = field(default=0.02, metadata=ENCODER_SAME_FEATURES)
    patch_initializer_range: float | None = field(default=None, metadata=ENCODER_SAME_FEATURES)

    attention_pattern: str = field(default="cropa", metadata=ENCODER)
    attention_form: str = field(default="auto", metadata=ENCODER_SAME_FEATURES)
    position_injection: str = field(default="every_layer", metadata=ENCODER)

    predictor_hidden_size: int = field(default=384, metadata=PRETRAINING)
    predictor_num_hidden_layers: int = field(default=6, metadata=PRETRAINING)
    predictor_num_attention_heads: int = field(default=12, metadata=PRETRAINING)
    predictor_intermediate_size: int = field(default=1536, metadata=PRETRAINING)

    mask_type: str = field(default="multi_block", metadata=PRETRAINING)
    mask_ratio: list[float | int] | tuple[float | int, ...] | None = field(default=None, metadata=PRETRAINING)
    num_mask_blocks: int = field(default=4, metadata=PRETRAINING)
    # Parity with released weights: an off-by-one leaves the last possible start of a block out.
    released_block_starts: bool = field(default=False, metadata=PRETRAINING)
    loss_type: str = field(default="smooth_l1", metadata=PRETRAINING)
    ema_start: float | int = field(default=0.996, metadata=PRETRAINING)
    ema_end: float | int = field(default=1.0, metadata=PRETRAINING)
    # Parity with released weights: their training put the teacher into training mode along with the student.
    teacher_drop_path: bool = field(default=False, metadata=PRETRAINING)

    head_type: str = field(default="mean", metadata=CLASSIFIER)
    classifier_dropout: float | int = field(default=0.0, metadata=CLASSIFIER)
    # A plain string: a wrong value is refused below as any other.
    problem_type: str | None = field(default=None, metadata=CLASSIFIER)  # type: ignore[assignment]
    label_thresholds: dict[str, float] | None = field(default=None, metadata=CLASSIFIER)

    def __post_init__(self, **kwargs: Any) -> None:
        check_common_fields(self, kwargs)
        self.lead_names = list(self.lead_names)
        if self.mask_ratio is not None:
            self.mask_ratio = list(self.mask_ratio)
        kwargs["auto_map"] = {**AUTO_MAP, **(kwargs.get("auto_map") or {})}
        super().__post_init__(**kwargs)
        self.validate_ecg_jepa()

    @classmethod
    def preset(cls, name: str, **overrides: Any) -> Self:
        """
        A configuration of a named size.

        Args:
            name (`str`):
                `"tiny"` for demonstrations, `"base"` for the size of the released weights.
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
    def num_patches(self) -> int:
        """`int`: Patches of one lead in a whole window."""
        return self.num_samples // self.patch_size

    @property
    def mask_range(self) -> tuple[float, float]:
        """`tuple[float, float]`: Lowest and highest share that a block, or a random mask, hides."""
        low, high = MASK_RATIOS[self.mask_type] if self.mask_ratio is None else self.mask_ratio
        return float(low), float(high)

    def lead_indices(self, lead_names: Sequence[str]) -> list[int]:
        """
        Places of some leads in `lead_names`, as the models' `lead_indices`.

        Raises:
            `ValueError`: if a lead is not the model's, or named twice.
        """
        unknown = [name for name in lead_names if name not in self.lead_names]
        if unknown or len(set(lead_names)) != len(lead_names):
            raise ValueError(
                f"{list(lead_names)} must name leads of the model, each once: choose from "
                f"{', '.join(self.lead_names)}."
            )
        return [list(self.lead_names).index(name) for name in lead_names]

    def validate_ecg_jepa(self) -> None:
        """Refuse values that no model can be built from. Also called when a model is built and when it is saved."""
        sizes = (
            "sampling_rate",
            "num_samples",
            "patch_size",
            "hidden_size",
            "num_hidden_layers",
            "num_attention_heads",
            "intermediate_size",
            "predictor_hidden_size",
            "predictor_num_hidden_layers",
            "predictor_num_attention_heads",
            "predictor_intermediate_size",
            "num_mask_blocks",
        )
        for name in sizes:
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}.")
        if self.num_samples % self.patch_size:
            raise ValueError(
                f"patch_size={self.patch_size} does not divide num_samples={self.num_samples}: the window must be a "
                "whole number of patches."
            )
        check_at_most(self, MAX_SAMPLING_RATE, ("sampling_rate",))
        check_at_most(self, MAX_SAMPLES, ("num_samples",))
        check_at_most(self, MAX_MASK_BLOCKS, ("num_mask_blocks",))
        if self.num_leads * self.num_patches > MAX_TOKENS:
            raise ValueError(
                f"num_samples={self.num_samples} in patches of patch_size={self.patch_size} gives "
                f"{self.num_leads * self.num_patches} tokens, and a recording may have {MAX_TOKENS}."
            )
        check_activation("hidden_act", self.hidden_act)
        check_weights(self, ("", "predictor_"), self.patch_size + self.num_leads * self.num_patches)
        for prefix in ("", "predictor_"):
            width, heads = getattr(self, f"{prefix}hidden_size"), getattr(self, f"{prefix}num_attention_heads")
            if width % heads:
                raise ValueError(
                    f"{prefix}hidden_size={width} is not a multiple of {prefix}num_attention_heads={heads}."
                )
            if width % 4:
                raise ValueError(f"{prefix}hidden_size={width} is not a multiple of 4, as the positions need it.")
        for name in ("drop_path_rate", "classifier_dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 0 and below 1, got {getattr(self, name)}.")
        if self.patch_initializer_range is None:
            self.patch_initializer_range = self.initializer_range
        for name in ("initializer_range", "patch_initializer_range", "layer_norm_eps"):
            if not 0 < getattr(self, name) < float("inf"):
                raise ValueError(f"{name} must be positive and finite, got {getattr(self, name)}.")
        if not self.lead_names or len(set(self.lead_names)) != len(self.lead_names):
            raise ValueError(f"lead_names must name at least one lead and each only once, got {self.lead_names}.")
        choices: tuple[tuple[str, Sequence[str]], ...] = (
            ("attention_pattern", ATTENTION_PATTERNS),
            ("attention_form", ATTENTION_FORMS),
            ("position_injection", POSITION_INJECTIONS),
            ("mask_type", tuple(MASK_RATIOS)),
            ("loss_type", LOSS_TYPES),
            ("head_type", HEAD_TYPES),
        )
        for name, allowed in choices:
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} must be one of {', '.join(allowed)}, got {getattr(self, name)!r}.")
        if self.problem_type not in (None, *PROBLEM_TYPES):
            raise ValueError(f"problem_type must be one of {', '.join(PROBLEM_TYPES)}, got {self.problem_type!r}.")
        if self.attention_pattern == "full" and self.attention_form == "factorised":
            raise ValueError("attention_form='factorised' computes attention_pattern='cropa' only: choose 'auto'.")
        if self.mask_ratio is not None and not (
            len(self.mask_ratio) == 2 and 0 < self.mask_ratio[0] <= self.mask_ratio[1] < 1
        ):
            raise ValueError(
                f"mask_ratio must be a lowest and a highest share between 0 and 1, got {self.mask_ratio}."
            )
        if not 0 <= self.ema_start <= self.ema_end <= 1:
            raise ValueError(
                f"ema_start={self.ema_start} and ema_end={self.ema_end} must lie between 0 and 1, in this order."
            )
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


def _file_of(pipeline: Mapping[str, Any], folder: str | os.PathLike[str]) -> Path:
    """Where a folder would hold the code of an entry of `custom_pipelines`."""
    return Path(folder) / f"{pipeline['impl'].split('.')[0]}.py"


EcgJepaConfig.register_for_auto_class()

__all__ = ["EcgJepaConfig"]
