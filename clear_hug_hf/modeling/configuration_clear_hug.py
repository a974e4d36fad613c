"""Configuration of the CLEAR-HUG models."""

import os
from collections.abc import Mapping
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


STANDARD_LEAD_NAMES = ("I", "II", "III", "aVR", "aVL", "aVF", "V1", "V2", "V3", "V4", "V5", "V6")
"""The twelve standard leads in the order of the released weights."""

STANDARD_LEAD_GROUPS = (
    ("I", "II", "III"),
    ("aVR", "aVL", "aVF"),
    ("V1", "V2", "V3", "V4", "V5", "V6"),
)
"""The paper's three views of the heart: bipolar limb leads, augmented limb leads, precordial leads."""

CLS_ATTENTION_RULES = ("lead", "full", "reference_bias")
DECODER_VISIBLE_ATTENTION_RULES = ("lead", "all")
DECODER_ATTENTION_FORMS = ("auto", "dense", "pieces")
BEAT_EMBEDDINGS = ("linear", "conv")
HEAD_TYPES = ("hug", "mean", "weighted", "single_level")

# Every folder that a model is saved to names all four classes, whichever of them was saved.
AUTO_MAP = {
    "AutoConfig": "configuration_clear_hug.ClearHugConfig",
    "AutoModel": "modeling_clear_hug.ClearHugModel",
    "AutoModelForPreTraining": "modeling_clear_hug.ClearHugForPreTraining",
    "AutoModelForSequenceClassification": "modeling_clear_hug.ClearHugForSequenceClassification",
}

PRESETS: dict[str, dict[str, Any]] = {
    # For demonstrations and tests: learns on two CPU cores within minutes.
    "tiny": {
        "hidden_size": 128,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "intermediate_size": 256,
        "decoder_hidden_size": 96,
        "decoder_num_hidden_layers": 2,
        "decoder_num_attention_heads": 4,
        "decoder_intermediate_size": 192,
    },
    # Of the shipped weights: about twenty minutes on a CPU core for a few thousand recordings.
    "small": {
        "hidden_size": 192,
        "num_hidden_layers": 6,
        "num_attention_heads": 6,
        "intermediate_size": 384,
        "decoder_hidden_size": 128,
        "decoder_num_hidden_layers": 2,
        "decoder_num_attention_heads": 4,
        "decoder_intermediate_size": 256,
    },
    # The released sizes.
    "base": {},
    "large": {
        "hidden_size": 1024,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "intermediate_size": 1024,
        "decoder_hidden_size": 1024,
        "decoder_num_hidden_layers": 24,
        "decoder_num_attention_heads": 16,
        "decoder_intermediate_size": 1024,
    },
}


@strict
class ClearHugConfig(PreTrainedConfig):
    r"""
    Configuration of [`ClearHugModel`], [`ClearHugForPreTraining`] and [`ClearHugForSequenceClassification`]. The
    defaults are the base size of the paper ("Tracing the Heart's Pathways", arXiv 2512.24002).

    Args:
        sampling_rate (`int`, *optional*, defaults to 100):
            Rate at which the beats were cut [Hz].
        lead_names (`list[str]`, *optional*, defaults to the twelve standard leads):
            The leads the model has a summary token for, in the order of `input_values`.
        lead_groups (`list[list[str]]`, *optional*):
            Groups of leads that the `"hug"` and `"single_level"` heads summarise; every lead belongs to exactly one.
            By default the paper's three groups, as far as `lead_names` has them.
        num_beats (`int`, *optional*, defaults to 15):
            Most beats per lead; a batch may hold fewer.
        beat_length (`int`, *optional*, defaults to 96):
            Samples per beat.
        hidden_size (`int`, *optional*, defaults to 768):
            Width of the encoder.
        num_hidden_layers (`int`, *optional*, defaults to 12):
            Layers of the encoder.
        num_attention_heads (`int`, *optional*, defaults to 8):
            Attention heads of the encoder.
        intermediate_size (`int`, *optional*, defaults to 1024):
            Width of the encoder's feed-forward layers.
        decoder_hidden_size (`int`, *optional*, defaults to 512):
            Width of the decoder, which only pre-training uses.
        decoder_num_hidden_layers (`int`, *optional*, defaults to 4):
            Layers of the decoder.
        decoder_num_attention_heads (`int`, *optional*, defaults to 16):
            Attention heads of the decoder.
        decoder_intermediate_size (`int`, *optional*, defaults to 1024):
            Width of the decoder's feed-forward layers.
        hidden_act (`str`, *optional*, defaults to `"relu"`):
            Activation of the feed-forward layers.
        hidden_dropout_prob (`float`, *optional*, defaults to 0.1):
            Dropout after the attention, and inside and after the feed-forward layers.
        attention_probs_dropout_prob (`float`, *optional*, defaults to 0.1):
            Dropout of the attention weights.
        classifier_dropout (`float`, *optional*, defaults to 0.0):
            Dropout of the feature that the classifier reads.
        initializer_range (`float`, *optional*, defaults to 0.02):
            Standard deviation of the normal distribution that weights, tokens and positions start from.
        layer_norm_eps (`float`, *optional*, defaults to 1e-5):
            Added to the variance in layer normalisations.
        beat_norm_eps (`float`, *optional*, defaults to 1e-6):
            Added to the variance when a beat is normalised by its own mean and unbiased variance.
        num_lead_embeddings (`int`, *optional*, defaults to 16):
            Rows of the lead embedding. Lead `l` uses row `l + 1`.
        num_time_embeddings (`int`, *optional*, defaults to 16):
            Rows of the time embedding. Row 0 is a beat of unknown time, row `s + 1` a beat in second `s` of the
            recording; later beats use the last row.
        cls_attention (`str`, *optional*, defaults to `"lead"`):
            What the summary token of a lead may attend to: `"lead"` itself and the beats of its lead (the paper's
            rule), `"full"` everything, `"reference_bias"` everything with the bias of the released code.
        decoder_visible_attention (`str`, *optional*, defaults to `"lead"`):
            What a visible beat may attend to in the decoder, beside the summary token of its lead: `"lead"` the beats
            of its lead (the paper's equation 5), `"all"` the visible beats of all leads, as the released code does.
        beat_embedding (`str`, *optional*, defaults to `"linear"`):
            `"linear"` embeds every beat by itself; `"conv"` mixes each with its two neighbours as the released code
            does.
        use_beat_features (`bool`, *optional*, defaults to `False`):
            Whether a beat's token also holds its scale within its lead and the RR intervals around it
            (`beat_features`), which its normalisation loses. Not in the paper.
        mask_ratio (`float`, *optional*, defaults to 0.8):
            Share of the beats of a recording that pre-training hides.
        view_guidance (`bool`, *optional*, defaults to `True`):
            Whether a hidden beat may attend to the summary token of its lead in the decoder.
        conduction_guidance (`bool`, *optional*, defaults to `True`):
            Whether a hidden beat may attend to the same beat in the other leads in the decoder.
        full_attention (`bool`, *optional*, defaults to `False`):
            The masked-autoencoder baseline of the paper's Table 2: everything attends to everything in encoder and
            decoder.
        decoder_attention_form (`str`, *optional*, defaults to `"auto"`):
            How the decoder computes its sparse attention; the numbers are the same. `"dense"` scores every pair and
            masks most, `"pieces"` computes only lead by lead and beat by beat (and among the visible beats with
            `decoder_visible_attention="all"`), and `"auto"` does that on a CPU, where it was measured to pay.
        head_type (`str`, *optional*, defaults to `"hug"`):
            How the classifier summarises the leads (the paper's Table 3): `"hug"`, `"mean"`, `"weighted"` or
            `"single_level"`.
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
    >>> from clear_hug_hf import ClearHugConfig, ClearHugForPreTraining

    >>> config = ClearHugConfig.preset("tiny", mask_ratio=0.75)
    >>> model = ClearHugForPreTraining(config)
    ```"""

    model_type: ClassVar[str] = "clear_hug"
    # Of the outputs, what Trainer does not collect: predictions are the logits alone.
    keys_to_ignore_at_inference: ClassVar[list[str]] = ["group_states", "hidden_states", "attentions"]

    sampling_rate: int = field(default=100, metadata=ENCODER_SAME_FEATURES)
    lead_names: list[str] | tuple[str, ...] = field(
        default_factory=lambda: list(STANDARD_LEAD_NAMES), metadata=ENCODER
    )
    lead_groups: list[list[str]] | None = field(default=None, metadata=CLASSIFIER)
    num_beats: int = field(default=15, metadata=ENCODER)
    beat_length: int = field(default=96, metadata=ENCODER)

    hidden_size: int = field(default=768, metadata=ENCODER)
    num_hidden_layers: int = field(default=12, metadata=ENCODER)
    num_attention_heads: int = field(default=8, metadata=ENCODER)
    intermediate_size: int = field(default=1024, metadata=ENCODER)
    decoder_hidden_size: int = field(default=512, metadata=PRETRAINING)
    decoder_num_hidden_layers: int = field(default=4, metadata=PRETRAINING)
    decoder_num_attention_heads: int = field(default=16, metadata=PRETRAINING)
    decoder_intermediate_size: int = field(default=1024, metadata=PRETRAINING)
    hidden_act: str = field(default="relu", metadata=ENCODER)
    hidden_dropout_prob: float | int = field(default=0.1, metadata=ENCODER_SAME_FEATURES)
    attention_probs_dropout_prob: float | int = field(default=0.1, metadata=ENCODER_SAME_FEATURES)
    classifier_dropout: float | int = field(default=0.0, metadata=CLASSIFIER)
    initializer_range: float = field(default=0.02, metadata=ENCODER_SAME_FEATURES)
    layer_norm_eps: float = field(default=1e-5, metadata=ENCODER)
    beat_norm_eps: float = field(default=1e-6, metadata=ENCODER)
    num_lead_embeddings: int = field(default=16, metadata=ENCODER)
    num_time_embeddings: int = field(default=16, metadata=ENCODER)

    # Parity with released weights: "reference_bias" adds 1 to the scores of keys that a lead's summary token was meant
    # not to see, in windows that overlook the summary tokens' own columns, because the released mask is a float.
    cls_attention: str = field(default="lead", metadata=ENCODER)
    # Parity with released weights: "conv" is a circular convolution over neighbouring beats before any is hidden, so
    # that visible beats contain their hidden neighbours.
    beat_embedding: str = field(default="linear", metadata=ENCODER)
    use_beat_features: bool = field(default=False, metadata=ENCODER)

    mask_ratio: float = field(default=0.8, metadata=PRETRAINING)
    view_guidance: bool = field(default=True, metadata=PRETRAINING)
    conduction_guidance: bool = field(default=True, metadata=PRETRAINING)
    full_attention: bool = field(default=False, metadata=ENCODER)
    # Parity with released weights: in "all" a visible beat sees the visible beats of every lead.
    decoder_visible_attention: str = field(default="lead", metadata=PRETRAINING)
    decoder_attention_form: str = field(default="auto", metadata=PRETRAINING)

    head_type: str = field(default="hug", metadata=CLASSIFIER)
    # A plain string: a wrong value is refused below as any other.
    problem_type: str | None = field(default=None, metadata=CLASSIFIER)  # type: ignore[assignment]
    label_thresholds: dict[str, float] | None = field(default=None, metadata=CLASSIFIER)

    def __post_init__(self, **kwargs: Any) -> None:
        check_common_fields(self, kwargs)
        self.lead_names = list(self.lead_names)
        kwargs["auto_map"] = {**AUTO_MAP, **(kwargs.get("auto_map") or {})}
        super().__post_init__(**kwargs)
        self.validate_clear_hug()

    @classmethod
    def preset(cls, name: str, **overrides: Any) -> Self:
        """
        A configuration of a named size.

        Args:
            name (`str`):
                `"tiny"` for demonstrations, `"small"` for that of the shipped weights, `"base"` or `"large"` for the
                sizes of the paper.
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

    def lead_group_indices(self) -> list[list[int]]:
        """
        The lead groups as positions in `lead_names`.

        Raises:
            `ValueError`: if the groups do not hold every lead exactly once.
        """
        if self.lead_groups is not None:
            groups = [list(group) for group in self.lead_groups]
        else:
            groups = [[name for name in group if name in self.lead_names] for group in STANDARD_LEAD_GROUPS]
            groups = [group for group in groups if group]
        members = [name for group in groups for name in group]
        if sorted(members) != sorted(self.lead_names) or not all(groups):
            raise ValueError(
                f"The lead groups {groups} do not hold each of the leads {list(self.lead_names)} exactly once: "
                "set lead_groups so that they do."
            )
        positions = {name: index for index, name in enumerate(self.lead_names)}
        return [[positions[name] for name in group] for group in groups]

    def validate_clear_hug(self) -> None:
        """Refuse values that no model can be built from. Also called when a model is built and when it is saved."""
        sizes = (
            "sampling_rate",
            "num_beats",
            "hidden_size",
            "num_hidden_layers",
            "num_attention_heads",
            "intermediate_size",
            "decoder_hidden_size",
            "decoder_num_hidden_layers",
            "decoder_num_attention_heads",
            "decoder_intermediate_size",
        )
        for name in sizes:
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}.")
        if self.beat_length < 2:
            raise ValueError(f"beat_length must be at least 2 to have a variance, got {self.beat_length}.")
        check_at_most(self, MAX_SAMPLING_RATE, ("sampling_rate",))
        check_at_most(self, MAX_SAMPLES, ("beat_length",))
        check_at_most(self, MAX_TOKENS // max(self.num_leads, 1), ("num_beats",))
        check_activation("hidden_act", self.hidden_act)
        check_weights(self, ("", "decoder_"), self.beat_length + self.num_lead_embeddings + self.num_time_embeddings)
        for prefix in ("", "decoder_"):
            width, heads = getattr(self, f"{prefix}hidden_size"), getattr(self, f"{prefix}num_attention_heads")
            if width % heads:
                raise ValueError(
                    f"{prefix}hidden_size={width} is not a multiple of {prefix}num_attention_heads={heads}."
                )
        for name in ("hidden_dropout_prob", "attention_probs_dropout_prob", "classifier_dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 0 and below 1, got {getattr(self, name)}.")
        for name in ("initializer_range", "layer_norm_eps", "beat_norm_eps"):
            if not 0 < getattr(self, name) < float("inf"):
                raise ValueError(f"{name} must be positive and finite, got {getattr(self, name)}.")
        if not 0 < self.mask_ratio < 1:
            raise ValueError(f"mask_ratio must lie between 0 and 1, got {self.mask_ratio}.")
        if not self.lead_names or len(set(self.lead_names)) != len(self.lead_names):
            raise ValueError(f"lead_names must name at least one lead and each only once, got {self.lead_names}.")
        if self.num_lead_embeddings <= self.num_leads:
            raise ValueError(
                f"num_lead_embeddings={self.num_lead_embeddings} has too few rows for {self.num_leads} leads: lead l "
                "uses row l + 1."
            )
        if self.num_time_embeddings < 1:
            raise ValueError(f"num_time_embeddings must be at least 1, got {self.num_time_embeddings}.")
        choices: tuple[tuple[str, tuple[str, ...]], ...] = (
            ("cls_attention", CLS_ATTENTION_RULES),
            ("decoder_visible_attention", DECODER_VISIBLE_ATTENTION_RULES),
            ("beat_embedding", BEAT_EMBEDDINGS),
            ("decoder_attention_form", DECODER_ATTENTION_FORMS),
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
        if self.full_attention and not (self.view_guidance and self.conduction_guidance):
            raise ValueError(
                "full_attention lets every token attend to every token: it cannot be combined with "
                "view_guidance=False or conduction_guidance=False."
            )
        if self.full_attention and self.cls_attention == "reference_bias":
            raise ValueError("full_attention cannot be combined with cls_attention='reference_bias'.")
        self.lead_group_indices()

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


ClearHugConfig.register_for_auto_class()

__all__ = ["ClearHugConfig"]
