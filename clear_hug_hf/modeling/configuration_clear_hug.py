"""Configuration of the CLEAR-HUG models."""

from dataclasses import field
from typing import Any, ClassVar, Literal

from .configuration_ecg import (
    ACTIVATION,
    CLASSIFIER,
    COUNT,
    ENCODER,
    ENCODER_SAME_FEATURES,
    EXECUTION_ONLY,
    LAYERS,
    MAX_SAMPLES,
    MAX_TOKENS,
    POSITIVE,
    PRETRAINING,
    RATE,
    AttentionForm,
    EcgConfig,
    at_most,
    strict_config,
    transformer_sizes,
    valid_if,
)


STANDARD_LEAD_GROUPS = (
    ("I", "II", "III"),
    ("aVR", "aVL", "aVF"),
    ("V1", "V2", "V3", "V4", "V5", "V6"),
)
"""Lead groups of the HUG head (Pan et al., 2026): bipolar limb leads, augmented limb leads and precordial leads."""


@strict_config
class ClearHugConfig(EcgConfig):
    r"""
    Configuration of [`ClearHugModel`], [`ClearHugForPreTraining`] and [`ClearHugForSequenceClassification`]. The
    defaults correspond to the base size of CLEAR-HUG (Pan et al., AAAI 2026, arXiv 2512.24002).

    Args:
        sampling_rate (`int`, *optional*, defaults to 100):
            Sampling rate of the beats [Hz].
        lead_names (`list[str]`, *optional*, defaults to the twelve standard leads):
            Names of the leads, in the order of `input_values`. Each has a summary token.
        lead_groups (`list[list[str]]`, *optional*):
            Groups of leads that the `"hug"` and `"single_level"` heads pool. Every lead must be in exactly one group.
            Defaults to the paper's three groups, restricted to `lead_names`.
        num_beats (`int`, *optional*, defaults to 15):
            Maximum number of beats per lead; a batch may contain fewer.
        beat_length (`int`, *optional*, defaults to 96):
            Samples per beat.
        hidden_size, num_hidden_layers, num_attention_heads, intermediate_size (`int`, *optional*, default to 768, 12,
            8 and 1024):
            Hidden size, number of layers, number of attention heads and feed-forward size of the encoder.
        decoder_hidden_size, decoder_num_hidden_layers, decoder_num_attention_heads, decoder_intermediate_size (`int`,
            *optional*, default to 512, 4, 16 and 1024):
            The same sizes of the decoder, which is used in pre-training only.
        hidden_act (`str`, *optional*, defaults to `"relu"`):
            Activation function of the feed-forward layers.
        hidden_dropout_prob (`float`, *optional*, defaults to 0.1):
            Dropout probability after the attention, and inside and after the feed-forward layers.
        attention_probs_dropout_prob (`float`, *optional*, defaults to 0.1):
            Dropout probability of the attention weights.
        initializer_range (`float`, *optional*, defaults to 0.02):
            Standard deviation of the normal initialization of weights, tokens and position embeddings.
        beat_norm_eps (`float`, *optional*, defaults to 1e-6):
            Added to the variance when a beat is normalized by its own mean and unbiased variance.
        num_lead_embeddings (`int`, *optional*, defaults to 16):
            Rows of the lead embedding. Lead `l` uses row `l + 1`.
        num_time_embeddings (`int`, *optional*, defaults to 16):
            Rows of the time embedding. Row 0 represents a beat at an unknown time, row `s + 1` a beat in second `s` of
            the recording; later beats share the last row.
        cls_attention (`str`, *optional*, defaults to `"lead"`):
            Attention of the summary token of a lead: `"lead"` to itself and the beats of its lead (Pan et al., 2026),
            `"full"` to all tokens, `"reference_bias"` to all tokens with the additive bias of the released code.
        decoder_visible_attention (`str`, *optional*, defaults to `"lead"`):
            Attention of a visible beat in the decoder, in addition to the summary token of its lead: `"lead"` to the
            beats of its lead (Pan et al., 2026, Eq. 5), `"all"` to the visible beats of all leads, as in the released
            code.
        beat_embedding (`str`, *optional*, defaults to `"linear"`):
            `"linear"` embeds each beat independently; `"conv"` mixes each beat with its two neighbors, as in the
            released code.
        use_beat_features (`bool`, *optional*, defaults to `False`):
            Whether to add `beat_features` to the beat embeddings: the scale of a beat within its lead and the adjacent
            RR intervals, which normalization removes. Not part of the paper.
        mask_ratio (`float`, *optional*, defaults to 0.8):
            Fraction of the beats of a recording that are masked in pre-training.
        view_guidance (`bool`, *optional*, defaults to `True`):
            Whether a masked beat attends to the summary token of its lead in the decoder.
        conduction_guidance (`bool`, *optional*, defaults to `True`):
            Whether a masked beat attends to the same beat of the other leads in the decoder.
        full_attention (`bool`, *optional*, defaults to `False`):
            Use full attention in encoder and decoder: the masked-autoencoder baseline of Pan et al. (2026), Table 2.
        attention_form (`str`, *optional*, defaults to `"auto"`):
            Implementation of the decoder's attention; the result is the same. `"dense"` masks the full score matrix,
            `"sparse"` computes attention within leads and within beats (and among visible beats with
            `decoder_visible_attention="all"`), and `"auto"` selects `"sparse"` on a CPU, where it is faster.
        head_type (`str`, *optional*, defaults to `"hug"`):
            Head that pools the lead states (Pan et al., 2026, Table 3), `"hug"`, `"mean"`, `"weighted"` or
            `"single_level"`; or `"attention"`, see [`EcgConfig`].
        layer_norm_eps, num_pooling_heads, classifier_dropout, problem_type, label_thresholds,
        label_calibration:
            See [`EcgConfig`].

    Example:

    ```python
    >>> from clear_hug_hf import ClearHugConfig, ClearHugForPreTraining

    >>> config = ClearHugConfig.preset("tiny", mask_ratio=0.75)
    >>> model = ClearHugForPreTraining(config)
    ```
    """

    model_type: ClassVar[str] = "clear_hug"
    keys_to_ignore_at_inference: ClassVar[list[str]] = ["group_states", "hidden_states", "attentions", "distance"]
    auto_classes: ClassVar[dict[str, str]] = {
        "AutoModel": "ClearHugModel",
        "AutoModelForPreTraining": "ClearHugForPreTraining",
        "AutoModelForSequenceClassification": "ClearHugForSequenceClassification",
    }
    presets: ClassVar[dict[str, dict[str, Any]]] = {
        # For demonstrations and tests: trains on two CPU cores within minutes.
        "tiny": transformer_sizes(width=128, layers=4, heads=4, inner=256)
        | transformer_sizes("decoder_", width=96, layers=2, heads=4, inner=192),
        # The shipped weights: about 20 minutes on one CPU core for a few thousand recordings.
        "small": transformer_sizes(width=192, layers=6, heads=6, inner=384)
        | transformer_sizes("decoder_", width=128, layers=2, heads=4, inner=256),
        # The released sizes.
        "base": {},
        "large": transformer_sizes(width=1024, layers=24, heads=16, inner=1024)
        | transformer_sizes("decoder_", width=1024, layers=24, heads=16, inner=1024),
    }

    lead_groups: list[list[str]] | None = field(default=None, metadata=CLASSIFIER)
    num_beats: int = field(default=15, metadata=ENCODER | COUNT)
    beat_length: int = field(
        default=96,
        metadata=ENCODER
        | valid_if("must be at least 2 to have a variance", lambda value: value >= 2)
        | at_most(MAX_SAMPLES),
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

    # Parity with released weights: their attention mask is a float tensor, so that "reference_bias" adds 1 to the
    # scores that were meant to be masked, at columns that ignore the offset of the summary tokens.
    cls_attention: Literal["lead", "full", "reference_bias"] = field(default="lead", metadata=ENCODER)
    # Parity with released weights: "conv" is a circular convolution over neighboring beats before masking, so that
    # visible beats leak their masked neighbors.
    beat_embedding: Literal["linear", "conv"] = field(default="linear", metadata=ENCODER)
    use_beat_features: bool = field(default=False, metadata=ENCODER)

    mask_ratio: float = field(
        default=0.8, metadata=PRETRAINING | valid_if("must be between 0 and 1", lambda value: 0 < value < 1)
    )
    view_guidance: bool = field(default=True, metadata=PRETRAINING)
    conduction_guidance: bool = field(default=True, metadata=PRETRAINING)
    full_attention: bool = field(default=False, metadata=ENCODER)
    # Parity with released weights: with "all" a visible beat attends to the visible beats of every lead.
    decoder_visible_attention: Literal["lead", "all"] = field(default="lead", metadata=PRETRAINING)
    attention_form: AttentionForm = field(default="auto", metadata=PRETRAINING | EXECUTION_ONLY)

    head_type: Literal["hug", "mean", "weighted", "single_level", "attention"] = field(  # type: ignore[assignment]
        default="hug", metadata=CLASSIFIER
    )

    def lead_group_indices(self) -> list[list[int]]:
        """
        Lead groups as indices into `lead_names`.

        Raises:
            `ValueError`: if a lead is missing from the groups or in more than one of them.
        """
        if self.lead_groups is not None:
            groups = [list(group) for group in self.lead_groups]
        else:
            groups = [[name for name in group if name in self.lead_names] for group in STANDARD_LEAD_GROUPS]
            groups = [group for group in groups if group]
        grouped = [name for group in groups for name in group]
        if sorted(grouped) != sorted(self.lead_names) or not all(groups):
            raise ValueError(
                f"lead_groups must contain each of the leads {list(self.lead_names)} exactly once and no empty group, "
                f"got {groups}."
            )
        positions = {name: index for index, name in enumerate(self.lead_names)}
        return [[positions[name] for name in group] for group in groups]

    def validate_architecture(self) -> None:
        """See [`EcgConfig.validate_architecture`]."""
        super().validate_architecture()
        max_beats = MAX_TOKENS // self.num_leads
        if self.num_beats > max_beats:
            raise ValueError(f"num_beats must be at most {max_beats}, got {self.num_beats}.")
        rows = self.beat_length + self.num_lead_embeddings + self.num_time_embeddings
        self._check_transformers(("", "decoder_"), rows)
        if self.num_lead_embeddings <= self.num_leads:
            raise ValueError(
                f"num_lead_embeddings must be greater than the number of leads ({self.num_leads}), got "
                f"{self.num_lead_embeddings}: lead l uses row l + 1."
            )
        if self.full_attention and not (self.view_guidance and self.conduction_guidance):
            raise ValueError(
                "full_attention=True cannot be combined with view_guidance=False or conduction_guidance=False."
            )
        if self.full_attention and self.cls_attention == "reference_bias":
            raise ValueError("full_attention=True cannot be combined with cls_attention='reference_bias'.")
        self.lead_group_indices()


__all__ = ["ClearHugConfig"]
