"""Configuration of the CLEAR-HUG models."""

from dataclasses import field
from typing import Any, ClassVar, Literal

from .configuration_ecg import (
    ACTIVATION,
    CLASSIFIER,
    COUNT,
    ENCODER,
    ENCODER_SAME_FEATURES,
    LAYERS,
    MAX_SAMPLES,
    MAX_TOKENS,
    POSITIVE,
    PRETRAINING,
    RATE,
    SAME_NUMBERS,
    AttentionForm,
    EcgConfig,
    at_most,
    must,
    sizes,
    strict_config,
)


STANDARD_LEAD_GROUPS = (
    ("I", "II", "III"),
    ("aVR", "aVL", "aVF"),
    ("V1", "V2", "V3", "V4", "V5", "V6"),
)
"""The paper's three views of the heart: bipolar limb leads, augmented limb leads, precordial leads."""


@strict_config
class ClearHugConfig(EcgConfig):
    r"""
    Configuration of [`ClearHugModel`], [`ClearHugForPreTraining`] and [`ClearHugForSequenceClassification`]. The
    defaults are the base size of the paper ("Tracing the Heart's Pathways", arXiv 2512.24002).

    Args:
        sampling_rate (`int`, *optional*, defaults to 100):
            Rate at which the beats were cut [Hz].
        lead_names (`list[str]`, *optional*, defaults to the twelve standard leads):
            The leads the model has a summary token for, in the order of `input_values`.
        lead_groups (`list[list[str]]`, *optional*):
            Groups of leads that the `"hug"` and `"single_level"` heads summarize; every lead belongs to exactly one.
            By default the paper's three groups, as far as `lead_names` has them.
        num_beats (`int`, *optional*, defaults to 15):
            Most beats per lead; a batch may hold fewer.
        beat_length (`int`, *optional*, defaults to 96):
            Samples per beat.
        hidden_size, num_hidden_layers, num_attention_heads, intermediate_size (`int`, *optional*, default to 768, 12,
            8 and 1024):
            Width, layers, attention heads and width of the feed-forward layers of the encoder.
        decoder_hidden_size, decoder_num_hidden_layers, decoder_num_attention_heads, decoder_intermediate_size (`int`,
            *optional*, default to 512, 4, 16 and 1024):
            The same of the decoder, which only pre-training uses.
        hidden_act (`str`, *optional*, defaults to `"relu"`):
            Activation of the feed-forward layers.
        hidden_dropout_prob (`float`, *optional*, defaults to 0.1):
            Dropout after the attention, and inside and after the feed-forward layers.
        attention_probs_dropout_prob (`float`, *optional*, defaults to 0.1):
            Dropout of the attention weights.
        initializer_range (`float`, *optional*, defaults to 0.02):
            Standard deviation of the normal distribution that weights, tokens and positions start from.
        beat_norm_eps (`float`, *optional*, defaults to 1e-6):
            Added to the variance when a beat is normalized by its own mean and unbiased variance.
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
            `"linear"` embeds every beat by itself; `"conv"` mixes each with its two neighbors as the released code
            does.
        use_beat_features (`bool`, *optional*, defaults to `False`):
            Whether a beat's token also holds its scale within its lead and the RR intervals around it
            (`beat_features`), which its normalization loses. Not in the paper.
        mask_ratio (`float`, *optional*, defaults to 0.8):
            Share of the beats of a recording that pre-training hides.
        view_guidance (`bool`, *optional*, defaults to `True`):
            Whether a hidden beat may attend to the summary token of its lead in the decoder.
        conduction_guidance (`bool`, *optional*, defaults to `True`):
            Whether a hidden beat may attend to the same beat in the other leads in the decoder.
        full_attention (`bool`, *optional*, defaults to `False`):
            The masked-autoencoder baseline of the paper's Table 2: everything attends to everything in encoder and
            decoder.
        attention_form (`str`, *optional*, defaults to `"auto"`):
            How the decoder computes its attention; the numbers are the same. `"dense"` scores every pair and masks
            most, `"sparse"` computes only lead by lead and beat by beat (and among the visible beats with
            `decoder_visible_attention="all"`), and `"auto"` does that on a CPU, where it was measured to pay.
        head_type (`str`, *optional*, defaults to `"hug"`):
            How the classifier summarizes the leads (the paper's Table 3): `"hug"`, `"mean"`, `"weighted"` or
            `"single_level"`.
        layer_norm_eps, classifier_dropout, problem_type, label_thresholds:
            As in [`EcgConfig`].

    Example:

    ```python
    >>> from clear_hug_hf import ClearHugConfig, ClearHugForPreTraining

    >>> config = ClearHugConfig.preset("tiny", mask_ratio=0.75)
    >>> model = ClearHugForPreTraining(config)
    ```"""

    model_type: ClassVar[str] = "clear_hug"
    keys_to_ignore_at_inference: ClassVar[list[str]] = ["group_states", "hidden_states", "attentions"]
    auto_classes: ClassVar[dict[str, str]] = {
        "AutoModel": "ClearHugModel",
        "AutoModelForPreTraining": "ClearHugForPreTraining",
        "AutoModelForSequenceClassification": "ClearHugForSequenceClassification",
    }
    presets: ClassVar[dict[str, dict[str, Any]]] = {
        # For demonstrations and tests: learns on two CPU cores within minutes.
        "tiny": sizes(width=128, layers=4, heads=4, inner=256)
        | sizes("decoder_", width=96, layers=2, heads=4, inner=192),
        # Of the shipped weights: about twenty minutes on a CPU core for a few thousand recordings.
        "small": sizes(width=192, layers=6, heads=6, inner=384)
        | sizes("decoder_", width=128, layers=2, heads=4, inner=256),
        # The released sizes.
        "base": {},
        "large": sizes(width=1024, layers=24, heads=16, inner=1024)
        | sizes("decoder_", width=1024, layers=24, heads=16, inner=1024),
    }

    lead_groups: list[list[str]] | None = field(default=None, metadata=CLASSIFIER)
    num_beats: int = field(default=15, metadata=ENCODER | COUNT)
    beat_length: int = field(
        default=96,
        metadata=ENCODER | must("be at least 2 to have a variance", lambda value: value >= 2) | at_most(MAX_SAMPLES),
    )

    hidden_size: int = field(default=768, metadata=ENCODER | COUNT)
    num_hidden_layers: int = field(default=12, metadata=ENCODER | LAYERS)
    num_attention_heads: int = field(default=8, metadata=ENCODER | COUNT)
    intermediate_size: int = field(default=1024, metadata=ENCODER | COUNT)
    decoder_hidden_size: int = field(default=512, metadata=PRETRAINING | COUNT)
    decoder_num_hidden_layers: int = field(default=4, metadata=PRETRAINING | LAYERS)
    decoder_num_attention_heads: int = field(default=16, metadata=PRETRAINING | COUNT)
    decoder_intermediate_size: int = field(default=1024, metadata=PRETRAINING | COUNT)
    hidden_act: str = field(default="relu", metadata=ENCODER | ACTIVATION)
    hidden_dropout_prob: float | int = field(default=0.1, metadata=ENCODER_SAME_FEATURES | RATE)
    attention_probs_dropout_prob: float | int = field(default=0.1, metadata=ENCODER_SAME_FEATURES | RATE)
    initializer_range: float = field(default=0.02, metadata=ENCODER_SAME_FEATURES | POSITIVE)
    beat_norm_eps: float = field(default=1e-6, metadata=ENCODER | POSITIVE)
    num_lead_embeddings: int = field(default=16, metadata=ENCODER | COUNT)
    num_time_embeddings: int = field(default=16, metadata=ENCODER | COUNT)

    # Parity with released weights: "reference_bias" adds 1 to the scores of keys that a lead's summary token was meant
    # not to see, in windows that overlook the summary tokens' own columns, because the released mask is a float.
    cls_attention: Literal["lead", "full", "reference_bias"] = field(default="lead", metadata=ENCODER)
    # Parity with released weights: "conv" is a circular convolution over neighboring beats before any is hidden, so
    # that visible beats contain their hidden neighbors.
    beat_embedding: Literal["linear", "conv"] = field(default="linear", metadata=ENCODER)
    use_beat_features: bool = field(default=False, metadata=ENCODER)

    mask_ratio: float = field(
        default=0.8, metadata=PRETRAINING | must("lie between 0 and 1", lambda value: 0 < value < 1)
    )
    view_guidance: bool = field(default=True, metadata=PRETRAINING)
    conduction_guidance: bool = field(default=True, metadata=PRETRAINING)
    full_attention: bool = field(default=False, metadata=ENCODER)
    # Parity with released weights: in "all" a visible beat sees the visible beats of every lead.
    decoder_visible_attention: Literal["lead", "all"] = field(default="lead", metadata=PRETRAINING)
    attention_form: AttentionForm = field(default="auto", metadata=PRETRAINING | SAME_NUMBERS)

    head_type: Literal["hug", "mean", "weighted", "single_level"] = field(  # type: ignore[assignment]
        default="hug", metadata=CLASSIFIER
    )

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

    def validate_architecture(self) -> None:
        """As in [`EcgConfig`]."""
        super().validate_architecture()
        most = MAX_TOKENS // self.num_leads
        if self.num_beats > most:
            raise ValueError(f"num_beats must be at most {most}, got {self.num_beats}.")
        rows = self.beat_length + self.num_lead_embeddings + self.num_time_embeddings
        self._check_transformers(("", "decoder_"), rows)
        if self.num_lead_embeddings <= self.num_leads:
            raise ValueError(
                f"num_lead_embeddings={self.num_lead_embeddings} has too few rows for {self.num_leads} leads: lead l "
                "uses row l + 1."
            )
        if self.full_attention and not (self.view_guidance and self.conduction_guidance):
            raise ValueError(
                "full_attention lets every token attend to every token: it cannot be combined with "
                "view_guidance=False or conduction_guidance=False."
            )
        if self.full_attention and self.cls_attention == "reference_bias":
            raise ValueError("full_attention cannot be combined with cls_attention='reference_bias'.")
        self.lead_group_indices()


__all__ = ["ClearHugConfig"]
