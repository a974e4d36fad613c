"""
CLEAR-HUG models (Pan et al., "Tracing the Heart's Pathways: ECG Representation Learning from a Cardiac Conduction
Perspective", AAAI 2026, arXiv 2512.24002).

CLEAR masks most beats of a recording and reconstructs each from the same beat in the other leads (conduction guidance)
and from the summary token of its own lead (view guidance). The HUG head pools the summary tokens hierarchically, by
groups of leads, for diagnosis.

Shapes: `B` recordings, `L` leads, `N` beats per lead (at most `config.num_beats`), `P` samples per beat, `T = L * N`
beats of all leads in lead-major order, `K` beats that the encoder processes, `D` hidden size.
"""

from dataclasses import dataclass
from itertools import chain, combinations
from typing import Any, TypeVar

import torch
from torch import nn
from torch.nn import functional as F
from transformers import initialization as init
from transformers.processing_utils import Unpack
from transformers.utils import ModelOutput, TransformersKwargs
from transformers.utils.generic import can_return_tuple, merge_with_config_defaults
from transformers.utils.output_capturing import capture_outputs

from .configuration_clear_hug import ClearHugConfig
from .fast_ops import LeadBeatPattern
from .modeling_ecg import (
    AttentionHead,
    Dropout,
    EcgAttention,
    EcgClassifierOutput,
    EcgForSequenceClassification,
    EcgHead,
    EcgModelOutput,
    EcgPreTrainedModel,
    MeanHead,
    PostNormLayer,
    check_shape,
    masked_mean,
    presence_mask,
    register_constants,
    seeded_bits,
    seeded_counters,
    to_autocast_dtype,
    validate_kwargs,
)


NUM_BEAT_FEATURES = 3  # scale, preceding RR interval, following RR interval


Count = TypeVar("Count", int, torch.Tensor)


@dataclass
class ClearHugForPreTrainingOutput(ModelOutput):
    """
    Output of [`ClearHugForPreTraining`].

    Args:
        loss (`torch.FloatTensor` of shape `()`):
            Mean squared error of the masked beats, averaged over the samples of each beat and over all masked beats.
        reconstruction (`torch.FloatTensor` of shape `(batch_size, num_leads, num_beats, beat_length)`):
            Reconstructed beats, normalized like `target`. Only masked beats contribute to the loss.
        bool_masked_pos (`torch.BoolTensor` of shape `(batch_size, num_leads, num_beats)`):
            True for masked beats. Missing beats are never masked.
        target (`torch.FloatTensor` of shape `(batch_size, num_leads, num_beats, beat_length)`):
            Beats normalized by their own mean and variance; zero for missing beats.
        hidden_states, attentions (`tuple(torch.FloatTensor)`, *optional*):
            See [`EcgModelOutput`]: of the summary tokens followed by the visible beats.
        loss_weight (`torch.FloatTensor` of shape `()`):
            Number of masked beats that `loss` averages, by which micro-batches of one step are weighted.
    """

    loss: torch.Tensor | None = None
    reconstruction: torch.Tensor | None = None
    bool_masked_pos: torch.Tensor | None = None
    target: torch.Tensor | None = None
    hidden_states: tuple[torch.Tensor, ...] | None = None
    attentions: tuple[torch.Tensor, ...] | None = None
    loss_weight: torch.Tensor | None = None


def check_beats(input_values: torch.Tensor, config: ClearHugConfig) -> None:
    """Check that the shape of the beats is `(batch_size, num_leads, at most num_beats, beat_length)`."""
    if (
        input_values.ndim != 4
        or input_values.shape[1] != config.num_leads
        or not 1 <= input_values.shape[2] <= config.num_beats
        or input_values.shape[3] != config.beat_length
    ):
        raise ValueError(
            f"input_values must have shape (batch_size, {config.num_leads} leads, 1 to {config.num_beats} beats, "
            f"{config.beat_length} samples), got {tuple(input_values.shape)}: use the feature extractor of the model."
        )


def normalize_beats(input_values: torch.Tensor, valid_beats: torch.Tensor, eps: float) -> torch.Tensor:
    """
    Normalize every beat of `(B, L, N, P)` by its own mean and unbiased variance plus `eps`, in float32. Beats that are
    False in `valid_beats` `(B, L, N)` become zero.
    """
    beats = input_values.float().masked_fill(~valid_beats[..., None], 0.0)
    variance, mean = torch.var_mean(beats, dim=-1, keepdim=True)
    return (beats - mean) * torch.rsqrt(variance + eps)


def encoder_attention_mask(
    config: ClearHugConfig, valid_leads: torch.Tensor, valid_slots: torch.Tensor, positions: torch.Tensor
) -> torch.Tensor:
    """
    Attention mask of the encoder. The summary token of a lead attends to itself and the beats of its lead. A beat
    attends to all beats and summary tokens: Pan et al. (2026) restrict only the summary tokens in the encoder. Missing
    leads and beats attend, and are attended to, only by themselves, so that no row is empty.

    Args:
        config ([`ClearHugConfig`]):
            Its fields `cls_attention` and `full_attention` select the pattern.
        valid_leads (`torch.BoolTensor` of shape `(B, L)`):
            True for leads that are present.
        valid_slots (`torch.BoolTensor` of shape `(B, K)`):
            True for beats that are present.
        positions (`torch.LongTensor` of shape `(1 or B, K)`):
            Indices of the beats, `lead * config.num_beats + beat`.

    Returns:
        `torch.Tensor` of shape `(B, 1, L + K, L + K)`: True where attention is allowed, or, with
        `cls_attention="reference_bias"`, a float mask.
    """
    num_leads, length = config.num_leads, config.num_leads + positions.shape[1]
    leads = torch.arange(num_leads, device=positions.device)
    keys = torch.cat((valid_leads, valid_slots), dim=1)[:, None, :]
    diagonal = torch.eye(length, dtype=torch.bool, device=positions.device)
    if config.full_attention or config.cls_attention != "lead":
        allowed = (keys | diagonal)[:, None]
    else:
        lead_of = torch.cat((leads.expand(positions.shape[0], -1), positions // config.num_beats), dim=1)
        summary_rows = lead_of[:, None, :] == leads[:, None]
        beat_rows = summary_rows.new_ones((1, 1, 1)).expand(summary_rows.shape[0], length - num_leads, length)
        allowed = ((torch.cat((summary_rows, beat_rows), dim=1) & keys) | diagonal)[:, None]
    if config.cls_attention != "reference_bias":
        return allowed

    # In the released code, columns include the summary tokens, but the windows of the leads ignore this offset.
    columns = torch.cat((leads.expand(positions.shape[0], -1), positions + num_leads), dim=1)
    outside = columns[:, None, :] // config.num_beats != leads[:, None]
    bias = F.pad(outside.float(), (0, 0, 0, length - num_leads))[:, None]
    return bias.masked_fill(~allowed, torch.finfo(bias.dtype).min)


def decoder_attention_mask(config: ClearHugConfig, valid_beats: torch.Tensor, visible: torch.Tensor) -> torch.Tensor:
    """
    Attention mask of the decoder (Pan et al., 2026, Eqs. 4 and 5). The summary token of a lead attends to itself and
    the beats of its lead. A masked beat attends to the same beat of all leads (conduction guidance) and the summary
    token of its lead (view guidance). A visible beat attends to the summary token and the beats of its lead, or, with
    `decoder_visible_attention="all"`, to the visible beats of all leads instead. Missing leads and beats are attended
    to only by themselves.

    Args:
        config ([`ClearHugConfig`]):
            Selects the pattern.
        valid_beats, visible (`torch.BoolTensor` of shape `(B, L, N)`):
            True for beats that are present, and for those that are visible.

    Returns:
        `torch.BoolTensor` of shape `(B, 1, L + T, L + T)`: True where attention is allowed.
    """
    batch_size, num_leads, num_beats = valid_beats.shape
    length = num_leads + num_leads * num_beats
    device = valid_beats.device
    diagonal = torch.eye(length, dtype=torch.bool, device=device)
    keys = torch.cat((valid_beats.any(dim=2), valid_beats.flatten(1)), dim=1)[:, None, :]
    if config.full_attention:
        return (keys | diagonal)[:, None]

    beats = torch.arange(num_leads * num_beats, device=device)
    own_lead = beats[:, None] // num_beats == torch.arange(num_leads, device=device)
    same_beat = beats[:, None] % num_beats == beats % num_beats
    visible = visible.flatten(1)
    if not config.conduction_guidance:
        same_beat = torch.zeros_like(same_beat)
    to_summaries = own_lead.expand(batch_size, -1, -1)
    if not config.view_guidance:
        to_summaries = to_summaries & visible[:, :, None]
    if config.decoder_visible_attention == "all":
        visible_rows = visible[:, None, :]
    else:
        visible_rows = beats[:, None] // num_beats == beats // num_beats
    to_beats = torch.where(visible[:, :, None], visible_rows, same_beat)
    beat_rows = torch.cat((to_summaries, to_beats), dim=2)

    summary_rows = torch.cat((diagonal[:num_leads, :num_leads], own_lead.T), dim=1)
    if config.cls_attention == "full":
        summary_rows = torch.ones_like(summary_rows)
    rows = torch.cat((summary_rows.expand(batch_size, -1, -1), beat_rows), dim=1)
    return ((rows & keys) | diagonal)[:, None]


def count_visible(num_valid: Count, mask_ratio: float) -> Count:
    """
    Number of visible beats out of `num_valid`, rounded half up. Integer arithmetic yields the same result for Python
    integers and tensors, so that the number of slots is always sufficient.
    """
    per_myriad = round((1.0 - mask_ratio) * 10_000)
    return (num_valid * per_myriad + 5_000) // 10_000


def seeded_noise(seeds: torch.Tensor, counters: torch.Tensor) -> torch.Tensor:
    """
    Uniform noise `(B, L, N)` in [0, 1) in steps of 2 ** -24, computed by [`seeded_bits`] from the seeds `(B,)` of the
    recordings and the counters `(L, N)` of the beats.
    """
    return (seeded_bits(seeds[:, None, None], counters) >> 40 & 0xFFFFFF).float() / 0x1000000


class ClearHugBeatProjection(nn.Module):
    """Projects normalized beats `(B, L, N, P)` to embeddings `(B, L, N, D)`."""

    def __init__(self, config: ClearHugConfig):
        super().__init__()
        self.num_beats = config.num_beats
        self.is_conv = config.beat_embedding == "conv"
        # No bias: the embeddings of position, lead and time already act as one.
        self.projection: nn.Linear | nn.Conv1d
        if self.is_conv:
            self.projection = nn.Conv1d(
                config.beat_length, config.hidden_size, 3, padding=1, padding_mode="circular", bias=False
            )
        else:
            self.projection = nn.Linear(config.beat_length, config.hidden_size, bias=False)

    def forward(self, beats: torch.Tensor) -> torch.Tensor:
        beats = beats.to(self.projection.weight.dtype)
        if not self.is_conv:
            return self.projection(beats)
        # The released circular convolution runs over the concatenated beats of all leads at full length.
        _, num_leads, num_beats, _ = beats.shape
        beats = F.pad(beats, (0, 0, 0, self.num_beats - num_beats)).flatten(1, 2)
        embeddings = self.projection(beats.transpose(1, 2)).transpose(1, 2)
        return embeddings.unflatten(1, (num_leads, self.num_beats))[:, :, :num_beats]


class ClearHugEmbeddings(nn.Module):
    """Embeds normalized beats and adds embeddings of lead, time and position."""

    def __init__(self, config: ClearHugConfig):
        super().__init__()
        self.config = config
        num_positions = config.num_leads * (1 + config.num_beats)
        self.beat_projection = ClearHugBeatProjection(config)
        self.cls_token = nn.Parameter(torch.zeros(config.num_leads, config.hidden_size))
        self.position_embeddings = nn.Parameter(torch.zeros(1, num_positions, config.hidden_size))
        self.lead_embeddings = nn.Embedding(config.num_lead_embeddings, config.hidden_size)
        self.time_embeddings = nn.Embedding(config.num_time_embeddings, config.hidden_size)
        self.feature_projection = (
            nn.Linear(NUM_BEAT_FEATURES, config.hidden_size, bias=False) if config.use_beat_features else None
        )

    def forward(
        self, beats: torch.Tensor, time_ids: torch.Tensor | None, beat_features: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """
        Embed beats.

        Args:
            beats (`torch.Tensor` of shape `(B, L, N, P)`):
                Normalized beats.
            time_ids (`torch.LongTensor` of shape `(B, N)` or `(B, L, N)`, *optional*):
                One-based second of the recording that contains each beat, 0 if unknown.
            beat_features (`torch.Tensor` of shape `(B, L, N, 3)`, *optional*):
                Scale and RR intervals of each beat.

        Returns:
            `tuple[torch.Tensor, torch.Tensor]`: Summary tokens `(B, L, D)` and beat embeddings `(B, L, N, D)`.

        Raises:
            `ValueError`: if a shape is wrong, or `beat_features` are missing or unexpected.
        """
        batch_size, num_leads, num_beats, _ = beats.shape
        if time_ids is None:
            time_ids = torch.zeros((batch_size, num_beats), dtype=torch.long, device=beats.device)
        check_shape("time_ids", time_ids, (batch_size, num_beats), (batch_size, num_leads, num_beats))
        time_ids = time_ids.long().clamp(0, self.config.num_time_embeddings - 1)
        times = self.time_embeddings(time_ids if time_ids.ndim == 3 else time_ids[:, None, :])

        positions = self.position_embeddings[0]
        beat_positions = positions[num_leads:].unflatten(0, (num_leads, self.config.num_beats))[:, :num_beats]
        leads = self.lead_embeddings.weight[1 : num_leads + 1, None]
        tokens = self.beat_projection(beats) + times + (beat_positions + leads)
        if self.feature_projection is not None:
            if beat_features is None:
                raise ValueError(
                    "beat_features are required because the model was configured with use_beat_features=True: use "
                    "the feature extractor of the model."
                )
            check_shape("beat_features", beat_features, (*beats.shape[:3], NUM_BEAT_FEATURES))
            tokens = tokens + self.feature_projection(beat_features.to(self.feature_projection.weight.dtype))
        elif beat_features is not None:
            raise ValueError(
                "beat_features were passed, but the model was configured with use_beat_features=False: use the "
                "feature extractor of the model."
            )
        return (self.cls_token + positions[:num_leads]).expand(batch_size, -1, -1), tokens


def decoder_pattern(
    config: ClearHugConfig,
    valid_beats: torch.Tensor,
    visible: torch.Tensor,
    kept_beats: torch.Tensor,
    slots: torch.Tensor,
) -> LeadBeatPattern:
    """
    Equivalent of [`decoder_attention_mask`] as a [`LeadBeatPattern`], except for full attention.

    Args:
        config ([`ClearHugConfig`]):
            Selects the pattern.
        valid_beats, visible (`torch.BoolTensor` of shape `(B, L, N)`):
            True for beats that are present, and for those that are visible.
        kept_beats (`torch.LongTensor` of shape `(B, K)`):
            Indices of the beats that the encoder processed, `lead * num_beats + beat`; they include all visible ones.
        slots (`torch.LongTensor` of shape `(B, T)`):
            Position of each beat in `kept_beats`.
    """
    _, num_leads, num_beats = valid_beats.shape
    device = valid_beats.device
    same_lead = torch.eye(num_leads, dtype=torch.bool, device=device)
    valid_leads = valid_beats.any(dim=2)

    lead_mask = F.pad(valid_beats.flatten(0, 1), (1, 0), value=True)[:, None, None, :]

    conduction = valid_beats.transpose(1, 2).flatten(0, 1)[:, None, :]
    if not config.conduction_guidance:
        conduction = torch.zeros_like(conduction)
    view = valid_leads[:, None, :] if config.view_guidance else torch.zeros_like(valid_leads)[:, None, :]
    view = (same_lead & view)[:, None].expand(-1, num_beats, -1, -1).flatten(0, 1)
    beat_mask = torch.cat((conduction | same_lead, view), dim=2)[:, None]

    visible_mask = None
    if config.decoder_visible_attention == "all":
        keys = visible.flatten(1).gather(1, kept_beats)[:, None, :]
        diagonal = torch.eye(kept_beats.shape[1], dtype=torch.bool, device=device)
        lead_ids = torch.arange(num_leads, device=device)
        summaries = (kept_beats[:, :, None] // num_beats == lead_ids) & valid_leads[:, None, :]
        visible_mask = torch.cat((keys | diagonal, summaries), dim=2)[:, None]
    return LeadBeatPattern(lead_mask, beat_mask, visible, visible_mask, kept_beats, slots)


class ClearHugDecoder(nn.Module):
    """Reconstructs all beats from the encoder states of the visible ones."""

    def __init__(self, config: ClearHugConfig):
        super().__init__()
        self.config = config
        width = config.decoder_hidden_size
        num_positions = config.num_leads * (1 + config.num_beats)
        self.embed = nn.Linear(config.hidden_size, width)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, width))
        self.position_embeddings = nn.Parameter(torch.zeros(1, num_positions, width))
        self.layers = nn.ModuleList(
            PostNormLayer(config, width, config.decoder_num_attention_heads, config.decoder_intermediate_size)
            for _ in range(config.decoder_num_hidden_layers)
        )
        self.norm = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.prediction = nn.Linear(width, config.beat_length)

    def _is_sparse(self, device: torch.device) -> bool:
        """Whether attention is computed by a [`LeadBeatPattern`], which does not support full attention."""
        if self.config.full_attention or self.config.cls_attention == "full":
            return False
        form = self.config.attention_form
        return form == "sparse" or (form == "auto" and device.type == "cpu")

    def forward(
        self,
        memory: torch.Tensor,
        kept_beats: torch.Tensor,
        slots: torch.Tensor,
        visible: torch.Tensor,
        valid_beats: torch.Tensor,
        **kwargs: Unpack[TransformersKwargs],
    ) -> torch.Tensor:
        """
        Reconstruct beats.

        Args:
            memory (`torch.Tensor` of shape `(B, L + K, D)`):
                Encoder states of the summary tokens and the `kept_beats`.
            kept_beats (`torch.LongTensor` of shape `(B, K)`):
                Indices of the beats that the encoder processed, `lead * num_beats + beat`.
            slots (`torch.LongTensor` of shape `(B, T)`):
                Position of each beat in `kept_beats`; undefined for masked beats.
            visible, valid_beats (`torch.BoolTensor` of shape `(B, L, N)`):
                True for beats that are visible, and for those that are present. All but the visible ones are replaced
                by the mask token.

        Returns:
            `torch.Tensor` of shape `(B, L, N, P)`.
        """
        _, num_leads, num_beats = valid_beats.shape
        memory = self.embed(memory)
        summaries, kept = memory[:, :num_leads], memory[:, num_leads:]
        kept = kept.gather(1, slots[:, :, None].expand(-1, -1, kept.shape[2]))
        beats = torch.where(visible.flatten(1)[:, :, None], kept, self.mask_token.to(kept.dtype))

        positions = self.position_embeddings[0]
        beat_positions = positions[num_leads:].unflatten(0, (num_leads, self.config.num_beats))[:, :num_beats]
        positions = torch.cat((positions[:num_leads], beat_positions.flatten(0, 1)))
        hidden_states = to_autocast_dtype(torch.cat((summaries, beats), dim=1) + positions)
        attention_mask: torch.Tensor | LeadBeatPattern
        if self._is_sparse(hidden_states.device):
            attention_mask = decoder_pattern(self.config, valid_beats, visible, kept_beats, slots)
        else:
            attention_mask = decoder_attention_mask(self.config, valid_beats, visible)
        for layer in self.layers:
            hidden_states = layer(hidden_states, attention_mask, **kwargs)
        reconstruction = self.prediction(self.norm(hidden_states[:, num_leads:]))
        return reconstruction.unflatten(1, (num_leads, num_beats))


def group_means(
    states: torch.Tensor, present: torch.Tensor, membership: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """
    Mean state of each group.

    Args:
        states (`torch.Tensor` of shape `(B, M, D)`):
            States of the elements.
        present (`torch.BoolTensor` of shape `(B, M)`):
            True for elements that are present; others are ignored.
        membership (`torch.Tensor` of shape `(G, M)`):
            1 where an element belongs to a group, see [`membership_matrix`].

    Returns:
        `tuple[torch.Tensor, torch.Tensor]`: Means `(B, G, D)`, zero for empty groups, and a mask `(B, G)`, True for
        groups that are not empty.
    """
    weights = membership.to(states.dtype) * present[:, None, :]
    counts = weights.sum(dim=2, keepdim=True)
    return weights @ states / counts.clamp(min=1), counts.squeeze(2) > 0


def apply_maps(maps: nn.ModuleList, states: torch.Tensor, present: torch.Tensor) -> torch.Tensor:
    """Apply the g-th map to the g-th of the states `(B, G, D)`; zero where `present` `(B, G)` is False."""
    mapped = torch.stack([layer(state) for layer, state in zip(maps, states.unbind(1), strict=True)], dim=1)
    return mapped * present[:, :, None]


def membership_matrix(groups: list[list[int]], count: int) -> torch.Tensor:
    """Indicator matrix `(G, count)` of groups of indices below `count`."""
    matrix = torch.zeros((len(groups), count), device="cpu")
    for row, group in enumerate(groups):
        matrix[row, group] = 1.0
    return matrix


class ClearHugWeightedHead(EcgHead):
    """Weighted mean of the lead states with softmax weights (Pan et al., 2026, Table 3)."""

    def __init__(self, config: ClearHugConfig):
        super().__init__(config)
        self.score = nn.Linear(config.hidden_size, 1)

    def forward(self, outputs: Any) -> tuple[torch.Tensor, torch.Tensor | None]:
        lead_states, present = outputs.lead_states, outputs.present_leads
        scores = self.score(lead_states).squeeze(2).float()
        weights = scores.masked_fill(~present, torch.finfo(scores.dtype).min).softmax(dim=1) * present
        return (weights[:, None, :].to(lead_states.dtype) @ lead_states).squeeze(1), None


class ClearHugSingleLevelHead(EcgHead):
    """Mean of the mapped states of all combinations of lead groups (Pan et al., 2026, Table 3)."""

    lead_membership: torch.Tensor

    def __init__(self, config: ClearHugConfig):
        super().__init__(config)
        register_constants(self)
        self.maps = nn.ModuleList(nn.Linear(config.hidden_size, config.hidden_size) for _ in self.lead_membership)

    def make_constants(self) -> dict[str, torch.Tensor]:
        """Membership `(G, L)` of the leads in each combination of groups."""
        groups = self.config.lead_group_indices()
        selections = [selection for size in range(1, len(groups) + 1) for selection in combinations(groups, size)]
        combined = [list(chain(*selection)) for selection in selections]
        return {"lead_membership": membership_matrix(combined, self.config.num_leads)}

    def forward(self, outputs: Any) -> tuple[torch.Tensor, torch.Tensor | None]:
        # Averaging commutes with an affine map.
        means, nonempty = group_means(outputs.lead_states, outputs.present_leads, self.lead_membership)
        states = apply_maps(self.maps, means, nonempty)
        return states.sum(dim=1) / nonempty.sum(dim=1, keepdim=True).clamp(min=1), None


class ClearHugHierarchicalHead(EcgHead):
    """
    Hierarchical lead-unified group head (HUG, Pan et al., 2026). It maps and averages the leads of each group, then
    each pair of groups, then all pairs; the feature is the mean of all these states. Groups without leads in a
    recording are excluded from every mean.

    Its group states `(B, 7, D)` are those of G1, G2, G3, of the pairs (G1, G2), (G2, G3), (G1, G3), and of all groups
    (Pan et al., 2026, Fig. 5). They are zero if a recording has none of the leads.
    """

    lead_membership: torch.Tensor
    pair_membership: torch.Tensor

    def __init__(self, config: ClearHugConfig):
        super().__init__(config)
        width, num_groups = config.hidden_size, len(config.lead_group_indices())
        if num_groups < 2:
            raise ValueError(
                "head_type='hug' requires at least two lead groups: set lead_groups, or use head_type='mean' instead."
            )
        register_constants(self)
        self.group_maps = nn.ModuleList(nn.Linear(width, width) for _ in range(num_groups))
        self.pair_maps = nn.ModuleList(nn.Linear(width, width) for _ in self.pair_membership)
        self.all_maps = nn.ModuleList([nn.Linear(width, width)])

    def make_constants(self) -> dict[str, torch.Tensor]:
        """
        Membership `(G, L)` of the leads in each group, and `(num_pairs, G)` of the groups in each pair: adjacent
        groups first, as in the released weights, that is (1, 2), (2, 3), (1, 3).
        """
        groups = self.config.lead_group_indices()
        pairs = sorted(combinations(range(len(groups)), 2), key=lambda pair: (pair[1] - pair[0], pair))
        return {
            "lead_membership": membership_matrix(groups, self.config.num_leads),
            "pair_membership": membership_matrix([list(pair) for pair in pairs], len(groups)),
        }

    def forward(self, outputs: Any) -> tuple[torch.Tensor, torch.Tensor | None]:
        groups, has_group = group_means(outputs.lead_states, outputs.present_leads, self.lead_membership)
        groups = apply_maps(self.group_maps, groups, has_group)
        pairs, has_pair = group_means(groups, has_group, self.pair_membership)
        pairs = apply_maps(self.pair_maps, pairs, has_pair)
        union, has_any = group_means(pairs, has_pair, torch.ones_like(pairs[0, None, :, 0]))
        union = apply_maps(self.all_maps, union, has_any)

        states = torch.cat((groups, pairs, union), dim=1)
        count = torch.cat((has_group, has_pair, has_any), dim=1).sum(dim=1, keepdim=True)
        return states.sum(dim=1) / count.clamp(min=1), states


class ClearHugPreTrainedModel(EcgPreTrainedModel):
    """Base class of the CLEAR-HUG models."""

    config: ClearHugConfig
    base_model_prefix = "clear_hug"
    _no_split_modules = ["ClearHugEmbeddings", "PostNormLayer"]  # noqa: RUF012
    _can_compile_fullgraph = True
    _can_record_outputs = {"hidden_states": PostNormLayer, "attentions": EcgAttention}  # noqa: RUF012

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        std = self.config.initializer_range
        if isinstance(module, ClearHugEmbeddings):
            init.normal_(module.cls_token, std=std)
            init.normal_(module.position_embeddings, std=std)
        elif isinstance(module, ClearHugDecoder):
            init.normal_(module.mask_token, std=std)
            init.normal_(module.position_embeddings, std=std)


class ClearHugModel(ClearHugPreTrainedModel):
    """
    CLEAR encoder: maps the beats of all leads to one state per beat and one summary token per lead.

    In its [`EcgModelOutput`], `last_hidden_state` contains the summary tokens of all leads followed by the beats in
    lead-major order (or the `kept_beats`), `lead_states` are the summary tokens, and `pooler_output` is their mean
    over the present leads.

    Example:

    ```python
    >>> import torch
    >>> from clear_hug_hf import ClearHugConfig, ClearHugModel

    >>> model = ClearHugModel(ClearHugConfig.preset("tiny")).eval()
    >>> model(torch.randn(2, 12, 10, 96)).lead_states.shape
    torch.Size([2, 12, 128])
    ```
    """

    _keys_to_ignore_on_load_unexpected = [r"^decoder\.", r"^head\.", r"^classifier\."]  # noqa: RUF012

    def __init__(self, config: ClearHugConfig):
        super().__init__(config)
        self.embeddings = ClearHugEmbeddings(config)
        self.layers = nn.ModuleList(
            PostNormLayer(config, config.hidden_size, config.num_attention_heads, config.intermediate_size)
            for _ in range(config.num_hidden_layers)
        )
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.embeddings.beat_projection

    @merge_with_config_defaults
    @capture_outputs
    def forward(
        self,
        input_values: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        time_ids: torch.Tensor | None = None,
        lead_mask: torch.Tensor | None = None,
        beat_features: torch.Tensor | None = None,
        kept_beats: torch.Tensor | None = None,
        kept_mask: torch.Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> EcgModelOutput:
        r"""
        Args:
            input_values (`torch.Tensor` of shape `(batch_size, num_leads, num_beats, beat_length)`):
                Beats from the feature extractor, in any unit: the model normalizes each beat. There may be fewer than
                `config.num_beats`.
            attention_mask (`torch.Tensor` of shape `(batch_size, [num_leads,] num_beats)`, *optional*):
                True for beats that are present; all by default.
            time_ids (`torch.Tensor` of shape `(batch_size, [num_leads,] num_beats)`, *optional*):
                One-based second of the recording that contains each beat; 0, the default, if unknown.
            lead_mask (`torch.Tensor` of shape `(batch_size, num_leads)`, *optional*):
                True for leads that are present; all by default.
            beat_features (`torch.Tensor` of shape `(batch_size, num_leads, num_beats, 3)`, *optional*):
                Scale and RR intervals of each beat. Required if and only if `config.use_beat_features` is set.
            kept_beats (`torch.LongTensor` of shape `(batch_size, K)`, *optional*):
                Indices of the beats to process, `lead * num_beats + beat` for the `num_beats` of `input_values`; all
                by default.
            kept_mask (`torch.BoolTensor` of shape `(batch_size, K)`, *optional*):
                False for entries of `kept_beats` that are padding.

        Raises:
            `ValueError`: if an input has the wrong shape.
        """
        kwargs = validate_kwargs(kwargs)  # type: ignore[assignment]
        check_beats(input_values, self.config)
        num_leads, num_beats = input_values.shape[1:3]
        valid_beats = presence_mask(input_values.shape[:3], attention_mask, lead_mask, input_values.device)
        beats = normalize_beats(input_values, valid_beats, self.config.beat_norm_eps)
        summaries, tokens = self.embeddings(beats, time_ids, beat_features)

        tokens, valid_slots = tokens.flatten(1, 2), valid_beats.flatten(1)
        slots = torch.arange(tokens.shape[1], device=tokens.device)[None]
        if kept_beats is not None:
            slots = kept_beats
            tokens = tokens.gather(1, slots[:, :, None].expand(-1, -1, tokens.shape[2]))
            valid_slots = valid_slots.gather(1, slots)
            if kept_mask is not None:
                valid_slots = valid_slots & kept_mask
        positions = slots // num_beats * self.config.num_beats + slots % num_beats

        present = valid_beats.any(dim=2)
        attention_mask = encoder_attention_mask(self.config, present, valid_slots, positions)
        hidden_states = to_autocast_dtype(torch.cat((summaries.to(tokens.dtype), tokens), dim=1))
        for layer in self.layers:
            hidden_states = layer(hidden_states, attention_mask, **kwargs)
        hidden_states = self.norm(hidden_states)
        lead_states = hidden_states[:, :num_leads]
        return EcgModelOutput(
            last_hidden_state=hidden_states,
            pooler_output=masked_mean(lead_states, present),
            lead_states=lead_states,
            present_leads=present,
            token_mask=torch.cat((present, valid_slots), dim=1),
        )


class ClearHugForPreTraining(ClearHugPreTrainedModel):
    """
    CLEAR pre-training: the encoder with a decoder that reconstructs masked beats.

    A fraction `config.mask_ratio` of the beats of each recording is masked. In training mode the mask is drawn in
    every call, from `seeds` or `generator` if given. In evaluation mode it is fixed, so that results are reproducible
    and do not depend on the other recordings of the batch.
    """

    evaluation_order: torch.Tensor
    noise_counters: torch.Tensor

    def __init__(self, config: ClearHugConfig):
        super().__init__(config)
        self.clear_hug = ClearHugModel(config)
        self.decoder = ClearHugDecoder(config)
        register_constants(self)
        self.post_init()

    def make_constants(self) -> dict[str, torch.Tensor]:
        """Fixed masking order of evaluation and counters of the beats, both of shape `(L, config.num_beats)`."""
        shape = (self.config.num_leads, self.config.num_beats)
        generator = torch.Generator("cpu").manual_seed(0)
        order = torch.randperm(shape[0] * shape[1], generator=generator, device="cpu").view(shape)
        return {"evaluation_order": order, "noise_counters": seeded_counters(*shape)}

    def _draw_noise(
        self, valid_beats: torch.Tensor, seeds: torch.Tensor | None, generator: torch.Generator | None
    ) -> torch.Tensor:
        """Noise `(B, L, N)`. It does not depend on the amount of padding."""
        batch_size, num_leads, num_beats = valid_beats.shape
        if seeds is not None:
            check_shape("seeds", seeds, (batch_size,))
            return seeded_noise(seeds.to(valid_beats.device), self.noise_counters[:, :num_beats])
        if generator is None and not self.training:
            return self.evaluation_order[:, :num_beats].expand(batch_size, -1, -1)
        shape = (batch_size, num_leads, self.config.num_beats)
        device = valid_beats.device if generator is None else generator.device
        return torch.rand(shape, generator=generator, device=device)[:, :, :num_beats].to(valid_beats.device)

    def _choose_visible(
        self,
        valid_beats: torch.Tensor,
        noise: torch.Tensor | None,
        bool_masked_pos: torch.Tensor | None,
        seeds: torch.Tensor | None,
        generator: torch.Generator | None,
    ) -> tuple[torch.Tensor, torch.Tensor, int]:
        """
        Order of the beats `(B, T)` with the visible ones first, their number `(B,)`, and the number of slots that
        suffices for every recording. It depends only on shapes, to avoid a device synchronization.
        """
        num_beats = valid_beats.shape[1] * valid_beats.shape[2]
        num_valid = valid_beats.flatten(1).sum(dim=1)
        if bool_masked_pos is not None:
            check_shape("bool_masked_pos", bool_masked_pos, tuple(valid_beats.shape))
            visible = valid_beats & ~bool_masked_pos.bool()
            order = (~visible).flatten(1).to(torch.uint8).argsort(dim=1, stable=True)
            return order, visible.flatten(1).sum(dim=1), num_beats

        if noise is None:
            noise = self._draw_noise(valid_beats, seeds, generator)
        check_shape("noise", noise, tuple(valid_beats.shape))
        noise = noise.float().masked_fill(~valid_beats, torch.inf)
        order = noise.flatten(1).argsort(dim=1, stable=True)
        # Keep at least one beat visible if there is any.
        num_visible = count_visible(num_valid, self.config.mask_ratio).clamp(min=1).minimum(num_valid)
        return order, num_visible, max(count_visible(num_beats, self.config.mask_ratio), 1)

    @can_return_tuple
    def forward(
        self,
        input_values: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        time_ids: torch.Tensor | None = None,
        lead_mask: torch.Tensor | None = None,
        beat_features: torch.Tensor | None = None,
        noise: torch.Tensor | None = None,
        bool_masked_pos: torch.Tensor | None = None,
        seeds: torch.Tensor | None = None,
        generator: torch.Generator | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> ClearHugForPreTrainingOutput:
        r"""
        Args:
            input_values, attention_mask, time_ids, lead_mask, beat_features:
                See [`ClearHugModel.forward`]. Missing beats are neither masked nor reconstructed.
            noise (`torch.Tensor` of shape `(batch_size, num_leads, num_beats)`, *optional*):
                Noise that determines the mask: the beats with the lowest values remain visible.
            bool_masked_pos (`torch.BoolTensor` of shape `(batch_size, num_leads, num_beats)`, *optional*):
                Beats to mask, instead of a fraction `config.mask_ratio`. Slower than `noise`, because the encoder
                reserves a slot for every beat.
            seeds (`torch.LongTensor` of shape `(batch_size,)`, *optional*):
                Seed of each recording, which determines its mask independently of device and batch, also in evaluation
                mode.
            generator (`torch.Generator`, *optional*):
                Generator to draw the mask from, also in evaluation mode.

        Raises:
            `ValueError`: if an input has the wrong shape.
        """
        kwargs = validate_kwargs(kwargs)  # type: ignore[assignment]
        check_beats(input_values, self.config)
        valid_beats = presence_mask(input_values.shape[:3], attention_mask, lead_mask, input_values.device)
        order, num_visible, num_slots = self._choose_visible(valid_beats, noise, bool_masked_pos, seeds, generator)
        ranks = torch.arange(order.shape[1], device=order.device).expand_as(order)
        slots = torch.empty_like(order).scatter(1, order, ranks)
        visible = (slots < num_visible[:, None]).view_as(valid_beats)
        bool_masked_pos = valid_beats & ~visible
        kept_beats = order[:, :num_slots]

        outputs: EcgModelOutput = self.clear_hug(
            input_values,
            attention_mask=attention_mask,
            time_ids=time_ids,
            lead_mask=lead_mask,
            beat_features=beat_features,
            kept_beats=kept_beats,
            kept_mask=ranks[:, :num_slots] < num_visible[:, None],
            **kwargs,
        )
        reconstruction = self.decoder(
            outputs.last_hidden_state,
            kept_beats,
            slots.clamp(max=num_slots - 1),
            visible,
            valid_beats,
            **kwargs,
        )

        target = normalize_beats(input_values, valid_beats, self.config.beat_norm_eps)
        errors = (reconstruction.float() - target).square().mean(dim=3)
        loss_weight = bool_masked_pos.sum().float()
        loss = (errors * bool_masked_pos).sum() / loss_weight.clamp(min=1)
        return ClearHugForPreTrainingOutput(
            loss=loss,
            reconstruction=reconstruction,
            bool_masked_pos=bool_masked_pos,
            target=target,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
            loss_weight=loss_weight,
        )


class ClearHugForSequenceClassification(ClearHugPreTrainedModel, EcgForSequenceClassification):
    """
    CLEAR encoder with a head that pools the summary tokens of the leads, HUG or another one (`config.head_type`), and
    a linear classifier.

    Example:

    ```python
    >>> import torch
    >>> from clear_hug_hf import ClearHugConfig, ClearHugForSequenceClassification

    >>> config = ClearHugConfig.preset("tiny", id2label={0: "NORM", 1: "MI"}, label2id={"NORM": 0, "MI": 1})
    >>> model = ClearHugForSequenceClassification(config).eval()
    >>> model(torch.randn(2, 12, 10, 96)).logits.sigmoid().shape
    torch.Size([2, 2])
    ```
    """

    clear_hug: ClearHugModel
    encoder_class = ClearHugModel
    head_classes = {  # noqa: RUF012
        "hug": ClearHugHierarchicalHead,
        "mean": MeanHead,  # "averaged" in Pan et al. (2026), Table 3
        "weighted": ClearHugWeightedHead,
        "single_level": ClearHugSingleLevelHead,
        "attention": AttentionHead,  # also pools the beats
    }
    dropout_class = Dropout

    @can_return_tuple
    def forward(
        self,
        input_values: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        time_ids: torch.Tensor | None = None,
        lead_mask: torch.Tensor | None = None,
        beat_features: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        rhythm: torch.Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> EcgClassifierOutput:
        """Classify recordings. See [`ClearHugModel.forward`] for inputs and [`classify`] for labels and rhythm."""
        outputs = self.clear_hug(
            input_values,
            attention_mask=attention_mask,
            time_ids=time_ids,
            lead_mask=lead_mask,
            beat_features=beat_features,
            **kwargs,
        )
        return self.classify(outputs, labels, rhythm, **kwargs)


__all__ = [
    "ClearHugForPreTraining",
    "ClearHugForPreTrainingOutput",
    "ClearHugForSequenceClassification",
    "ClearHugModel",
    "ClearHugPreTrainedModel",
]
