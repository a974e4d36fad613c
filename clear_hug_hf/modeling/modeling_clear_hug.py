"""
The CLEAR-HUG models ("Tracing the Heart's Pathways: ECG Representation Learning from a Cardiac Conduction
Perspective", AAAI 2026, arXiv 2512.24002).

CLEAR hides most beats of a recording and rebuilds each from the same beat in the other leads (conduction) and from the
summary of its own lead (view). HUG reads the summaries of the leads group by group for a diagnosis.

Shapes: `B` recordings, `L` leads, `N` beats per lead (at most `config.num_beats`), `P` samples per beat, `T = L * N`
beats in all in lead-major order, `K` beats that the encoder computes, `D` the width.
"""

from dataclasses import dataclass
from itertools import chain, combinations
from typing import TypeVar

import torch
from torch import nn
from torch.nn import functional as F
from transformers import initialization as init
from transformers.processing_utils import Unpack
from transformers.utils import ModelOutput, TransformersKwargs
from transformers.utils.generic import can_return_tuple, merge_with_config_defaults
from transformers.utils.output_capturing import capture_outputs

from .configuration_clear_hug import ClearHugConfig
from .fast_forms import LeadBeatPattern
from .modeling_ecg import (
    Dropout,
    EcgAttention,
    EcgClassifierOutput,
    EcgForSequenceClassification,
    EcgHead,
    EcgModelOutput,
    EcgPreTrainedModel,
    MeanHead,
    PostNormLayer,
    expect_shape,
    find_present,
    further_arguments,
    masked_mean,
    register_constants,
    seeded_bits,
    seeded_counters,
    to_autocast_dtype,
)


NUM_BEAT_FEATURES = 3  # Scale, RR interval before, RR interval after.


Count = TypeVar("Count", int, torch.Tensor)


@dataclass
class ClearHugForPreTrainingOutput(ModelOutput):
    """
    Output of [`ClearHugForPreTraining`].

    Args:
        loss (`torch.FloatTensor` of shape `()`):
            Mean squared error of the hidden beats: over the samples of a beat, then over all hidden beats.
        reconstruction (`torch.FloatTensor` of shape `(batch_size, num_leads, num_beats, beat_length)`):
            The decoder's beats [normalized units of `target`]. Only hidden beats are trained to be right.
        bool_masked_pos (`torch.BoolTensor` of shape `(batch_size, num_leads, num_beats)`):
            The beats that were hidden. Missing beats are not.
        target (`torch.FloatTensor` of shape `(batch_size, num_leads, num_beats, beat_length)`):
            Every beat normalized by its own mean and variance; zero where there is none.
        hidden_states, attentions (`tuple(torch.FloatTensor)`, *optional*):
            Of the encoder, as in [`EcgModelOutput`]: the summary tokens, then the visible beats.
        loss_weight (`torch.FloatTensor` of shape `()`):
            How many hidden beats `loss` is the mean of: batches that make up one step are weighted by it.
    """

    loss: torch.Tensor | None = None
    reconstruction: torch.Tensor | None = None
    bool_masked_pos: torch.Tensor | None = None
    target: torch.Tensor | None = None
    hidden_states: tuple[torch.Tensor, ...] | None = None
    attentions: tuple[torch.Tensor, ...] | None = None
    loss_weight: torch.Tensor | None = None


def check_beats(input_values: torch.Tensor, config: ClearHugConfig) -> None:
    """Refuse beats whose shape is not `(batch_size, num_leads, at most num_beats, beat_length)`."""
    if (
        input_values.ndim != 4
        or input_values.shape[1] != config.num_leads
        or not 1 <= input_values.shape[2] <= config.num_beats
        or input_values.shape[3] != config.beat_length
    ):
        raise ValueError(
            f"input_values must have shape (batch_size, {config.num_leads} leads, 1 to {config.num_beats} beats, "
            f"{config.beat_length} samples), got {tuple(input_values.shape)}: cut the recording with the model's "
            "feature extractor."
        )


def normalize_beats(input_values: torch.Tensor, real_beats: torch.Tensor, eps: float) -> torch.Tensor:
    """
    Every beat of `(B, L, N, P)` by its own mean and unbiased variance, to which `eps` is added: standard deviations,
    in float32. Those that do not exist, by `real_beats` `(B, L, N)`, become zero, whatever stood there.
    """
    beats = input_values.float().masked_fill(~real_beats[..., None], 0.0)
    variance, mean = torch.var_mean(beats, dim=-1, keepdim=True)
    return (beats - mean) * torch.rsqrt(variance + eps)


def encoder_attention_mask(
    config: ClearHugConfig, real_leads: torch.Tensor, real_slots: torch.Tensor, positions: torch.Tensor
) -> torch.Tensor:
    """
    What may attend to what in the encoder. The summary token of a lead sees itself and the beats of its lead; a beat
    sees every beat and every summary token (the paper restricts only the summary tokens here). Missing leads and
    beats, by `real_leads` `(B, L)` and `real_slots` `(B, K)`, are seen by nobody but themselves, so that no row is
    empty.

    The beats stand at `positions` `(1 or B, K)`, `lead * config.num_beats + beat`. The mask is `(B, 1, L + K, L + K)`,
    True where attention is allowed; with `cls_attention="reference_bias"` it is to be added to the scores.
    """
    num_leads, length = config.num_leads, config.num_leads + positions.shape[1]
    leads = torch.arange(num_leads, device=positions.device)
    keys = torch.cat((real_leads, real_slots), dim=1)[:, None, :]
    itself = torch.eye(length, dtype=torch.bool, device=positions.device)
    if config.full_attention or config.cls_attention != "lead":
        allowed = (keys | itself)[:, None]
    else:
        lead_of = torch.cat((leads.expand(positions.shape[0], -1), positions // config.num_beats), dim=1)
        summary_rows = lead_of[:, None, :] == leads[:, None]
        beat_rows = summary_rows.new_ones((1, 1, 1)).expand(summary_rows.shape[0], length - num_leads, length)
        allowed = ((torch.cat((summary_rows, beat_rows), dim=1) & keys) | itself)[:, None]
    if config.cls_attention != "reference_bias":
        return allowed

    # The released code's columns count the summary tokens, but the windows it gives to them do not.
    columns = torch.cat((leads.expand(positions.shape[0], -1), positions + num_leads), dim=1)
    outside = columns[:, None, :] // config.num_beats != leads[:, None]
    bias = F.pad(outside.float(), (0, 0, 0, length - num_leads))[:, None]
    return bias.masked_fill(~allowed, torch.finfo(bias.dtype).min)


def decoder_attention_mask(config: ClearHugConfig, real_beats: torch.Tensor, visible: torch.Tensor) -> torch.Tensor:
    """
    What may attend to what in the decoder (the paper's equations 4 and 5), as `(B, 1, L + T, L + T)`, True where
    attention is allowed. The summary token of a lead sees itself and the beats of its lead; a hidden beat sees the
    same beat in all leads (conduction) and the summary of its lead (view); a visible beat sees the beats and the
    summary of its lead, or with `decoder_visible_attention="all"` the visible beats of all leads and the summary of
    its own. Missing leads and beats are seen only by themselves. `real_beats` and `visible` are `(B, L, N)`.
    """
    batch_size, num_leads, num_beats = real_beats.shape
    length = num_leads + num_leads * num_beats
    device = real_beats.device
    itself = torch.eye(length, dtype=torch.bool, device=device)
    keys = torch.cat((real_beats.any(dim=2), real_beats.flatten(1)), dim=1)[:, None, :]
    if config.full_attention:
        return (keys | itself)[:, None]

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
        of_visible = visible[:, None, :]
    else:
        of_visible = beats[:, None] // num_beats == beats // num_beats
    to_beats = torch.where(visible[:, :, None], of_visible, same_beat)
    beat_rows = torch.cat((to_summaries, to_beats), dim=2)

    summary_rows = torch.cat((itself[:num_leads, :num_leads], own_lead.T), dim=1)
    if config.cls_attention == "full":
        summary_rows = torch.ones_like(summary_rows)
    rows = torch.cat((summary_rows.expand(batch_size, -1, -1), beat_rows), dim=1)
    return ((rows & keys) | itself)[:, None]


def count_visible(num_real: Count, mask_ratio: float) -> Count:
    """
    How many of `num_real` beats stay visible: the nearest whole number to their share, halves up. Whole-number
    arithmetic gives Python numbers and tensors the same answer, so that the slots always suffice.
    """
    per_myriad = round((1.0 - mask_ratio) * 10_000)
    return (num_real * per_myriad + 5_000) // 10_000


def seeded_noise(seeds: torch.Tensor, counters: torch.Tensor) -> torch.Tensor:
    """
    Uniform noise for the beats `(L, N)` of recordings, from 0 to below 1 in steps of 2 ** -24: by [`seeded_bits`] of
    their seeds `(B,)`, and with a counter for each beat.
    """
    return (seeded_bits(seeds[:, None, None], counters) >> 40 & 0xFFFFFF).float() / 0x1000000


class ClearHugBeatProjection(nn.Module):
    """Embeds normalized beats `(B, L, N, P)` as `(B, L, N, D)`."""

    def __init__(self, config: ClearHugConfig):
        super().__init__()
        self.num_beats = config.num_beats
        self.is_conv = config.beat_embedding == "conv"
        # Without a bias: positions, leads and times bring their own.
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
        # The released convolution runs through the beats of all leads as one circle of full length.
        _, num_leads, num_beats, _ = beats.shape
        beats = F.pad(beats, (0, 0, 0, self.num_beats - num_beats)).flatten(1, 2)
        embeddings = self.projection(beats.transpose(1, 2)).transpose(1, 2)
        return embeddings.unflatten(1, (num_leads, self.num_beats))[:, :, :num_beats]


class ClearHugEmbeddings(nn.Module):
    """Turns normalized beats into tokens that know their lead, their time and their position."""

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
        Summary tokens `(B, L, D)` and beats `(B, L, N, D)` of normalized beats `(B, L, N, P)`, which lie in the
        seconds `time_ids` `(B, N)` or `(B, L, N)` counted from 1, and of their scales and RR intervals `(B, L, N, 3)`.
        """
        batch_size, num_leads, num_beats, _ = beats.shape
        if time_ids is None:
            time_ids = torch.zeros((batch_size, num_beats), dtype=torch.long, device=beats.device)
        expect_shape("time_ids", time_ids, (batch_size, num_beats), (batch_size, num_leads, num_beats))
        time_ids = time_ids.long().clamp(0, self.config.num_time_embeddings - 1)
        times = self.time_embeddings(time_ids if time_ids.ndim == 3 else time_ids[:, None, :])

        positions = self.position_embeddings[0]
        beat_positions = positions[num_leads:].unflatten(0, (num_leads, self.config.num_beats))[:, :num_beats]
        leads = self.lead_embeddings.weight[1 : num_leads + 1, None]
        tokens = self.beat_projection(beats) + times + (beat_positions + leads)
        if self.feature_projection is not None:
            if beat_features is None:
                raise ValueError(
                    "the model reads beat_features, the scale and the RR intervals of each beat: cut the recording "
                    "with the model's feature extractor, which has use_beat_features=True."
                )
            expect_shape("beat_features", beat_features, (*beats.shape[:3], NUM_BEAT_FEATURES))
            tokens = tokens + self.feature_projection(beat_features.to(self.feature_projection.weight.dtype))
        elif beat_features is not None:
            raise ValueError("the model reads no beat_features: use a feature extractor without use_beat_features.")
        return (self.cls_token + positions[:num_leads]).expand(batch_size, -1, -1), tokens


def decoder_pattern(
    config: ClearHugConfig,
    real_beats: torch.Tensor,
    visible: torch.Tensor,
    kept_beats: torch.Tensor,
    slots: torch.Tensor,
) -> LeadBeatPattern:
    """
    What [`decoder_attention_mask`] allows, as a [`LeadBeatPattern`]: not where every token attends to every token. The
    encoder computed the `kept_beats` `(B, K)`, `lead * num_beats + beat`, all visible ones among them; `slots` `(B,
    T)` say where among them each beat stands.
    """
    _, num_leads, num_beats = real_beats.shape
    device = real_beats.device
    own = torch.eye(num_leads, dtype=torch.bool, device=device)
    real_leads = real_beats.any(dim=2)

    leads = F.pad(real_beats.flatten(0, 1), (1, 0), value=True)[:, None, None, :]

    by_beat = real_beats.transpose(1, 2).flatten(0, 1)[:, None, :]
    if not config.conduction_guidance:
        by_beat = torch.zeros_like(by_beat)
    views = own & (real_leads[:, None, :] if config.view_guidance else torch.zeros_like(real_leads)[:, None, :])
    views = views[:, None].expand(-1, num_beats, -1, -1).flatten(0, 1)
    columns = torch.cat((by_beat | own, views), dim=2)[:, None]

    seen = None
    if config.decoder_visible_attention == "all":
        seen_keys = visible.flatten(1).gather(1, kept_beats)[:, None, :]
        itself = torch.eye(kept_beats.shape[1], dtype=torch.bool, device=device)
        lead_ids = torch.arange(num_leads, device=device)
        seen_views = (kept_beats[:, :, None] // num_beats == lead_ids) & real_leads[:, None, :]
        seen = torch.cat((seen_keys | itself, seen_views), dim=2)[:, None]
    return LeadBeatPattern(leads, columns, visible, seen, kept_beats, slots)


class ClearHugDecoder(nn.Module):
    """Rebuilds every beat from what the encoder made of the visible ones."""

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
        """Whether the attention is computed as a [`LeadBeatPattern`]. Only the paper's own rules are one."""
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
        real_beats: torch.Tensor,
        **kwargs: Unpack[TransformersKwargs],
    ) -> torch.Tensor:
        """
        Beats `(B, L, N, P)` from the encoder's states `memory` `(B, L + K, D)` of the summary tokens and the
        `kept_beats` `(B, K)`, `lead * num_beats + beat`. `slots` `(B, T)` say where among those each beat stands, and
        mean nothing for hidden ones. All but the `visible` `(B, L, N)` start as the mask token; `real_beats` `(B, L,
        N)` exist.
        """
        _, num_leads, num_beats = real_beats.shape
        memory = self.embed(memory)
        summaries, seen = memory[:, :num_leads], memory[:, num_leads:]
        seen = seen.gather(1, slots[:, :, None].expand(-1, -1, seen.shape[2]))
        beats = torch.where(visible.flatten(1)[:, :, None], seen, self.mask_token.to(seen.dtype))

        positions = self.position_embeddings[0]
        beat_positions = positions[num_leads:].unflatten(0, (num_leads, self.config.num_beats))[:, :num_beats]
        positions = torch.cat((positions[:num_leads], beat_positions.flatten(0, 1)))
        hidden_states = to_autocast_dtype(torch.cat((summaries, beats), dim=1) + positions)
        attention_mask: torch.Tensor | LeadBeatPattern
        if self._is_sparse(hidden_states.device):
            attention_mask = decoder_pattern(self.config, real_beats, visible, kept_beats, slots)
        else:
            attention_mask = decoder_attention_mask(self.config, real_beats, visible)
        for layer in self.layers:
            hidden_states = layer(hidden_states, attention_mask, **kwargs)
        reconstruction = self.prediction(self.norm(hidden_states[:, num_leads:]))
        return reconstruction.unflatten(1, (num_leads, num_beats))


def average_members(
    states: torch.Tensor, present: torch.Tensor, members: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """
    Means over the members of groups that a recording has: of states `(B, M, D)` of which those in `present` `(B, M)`
    exist, with 1 in `members` `(G, M)` where one belongs to a group. Returns the means `(B, G, D)`, zero for groups
    without members, and which groups have any `(B, G)`.
    """
    weights = members.to(states.dtype) * present[:, None, :]
    counts = weights.sum(dim=2, keepdim=True)
    return weights @ states / counts.clamp(min=1), counts.squeeze(2) > 0


def map_each(maps: nn.ModuleList, states: torch.Tensor, present: torch.Tensor) -> torch.Tensor:
    """Each of the `(B, G, D)` states through its own map; zero where `present` of shape `(B, G)` is False."""
    mapped = torch.stack([layer(state) for layer, state in zip(maps, states.unbind(1), strict=True)], dim=1)
    return mapped * present[:, :, None]


def membership(groups: list[list[int]], count: int) -> torch.Tensor:
    """Groups of the numbers below `count` as `(G, count)`, 1 where a number belongs to a group."""
    members = torch.zeros((len(groups), count), device="cpu")
    for row, group in enumerate(groups):
        members[row, group] = 1.0
    return members


class ClearHugWeightedHead(EcgHead):
    """A mean of the lead states weighted by a softmax of learned scores."""

    def __init__(self, config: ClearHugConfig):
        super().__init__(config)
        self.score = nn.Linear(config.hidden_size, 1)

    def forward(self, lead_states: torch.Tensor, present: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        scores = self.score(lead_states).squeeze(2).float()
        weights = scores.masked_fill(~present, torch.finfo(scores.dtype).min).softmax(dim=1) * present
        return (weights[:, None, :].to(lead_states.dtype) @ lead_states).squeeze(1), None


class ClearHugSingleLevelHead(EcgHead):
    """Every combination of lead groups through a map of its own, side by side."""

    members: torch.Tensor

    def __init__(self, config: ClearHugConfig):
        super().__init__(config)
        register_constants(self)
        self.maps = nn.ModuleList(nn.Linear(config.hidden_size, config.hidden_size) for _ in self.members)

    def make_constants(self) -> dict[str, torch.Tensor]:
        """The leads of each combination `(G, L)`."""
        groups = self.config.lead_group_indices()
        chosen = [c for size in range(1, len(groups) + 1) for c in combinations(groups, size)]
        return {"members": membership([list(chain(*combination)) for combination in chosen], self.config.num_leads)}

    def forward(self, lead_states: torch.Tensor, present: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        # The mean over the leads of an affine map is the map of their mean.
        means, some = average_members(lead_states, present, self.members)
        states = map_each(self.maps, means, some)
        return states.sum(dim=1) / some.sum(dim=1, keepdim=True).clamp(min=1), None


class ClearHugHierarchicalHead(EcgHead):
    """
    HUG: the leads of each group, then pairs of groups, then all together, each through a map of its own; the feature
    is the mean of them all. A group without leads in a recording is left out of every mean.

    Its states of groups are G1, G2, G3, the pairs (G1, G2), (G2, G3), (G1, G3), and all together, `(B, 7, D)`: the
    paper's Figure 5. They are zero where a recording has none of the leads.
    """

    members: torch.Tensor
    pair_members: torch.Tensor

    def __init__(self, config: ClearHugConfig):
        super().__init__(config)
        width, num_groups = config.hidden_size, len(config.lead_group_indices())
        if num_groups < 2:
            raise ValueError(
                "head_type='hug' pairs groups of leads and the leads make only one group: set lead_groups to two or "
                "more groups, or head_type='mean'."
            )
        register_constants(self)
        self.group_maps = nn.ModuleList(nn.Linear(width, width) for _ in range(num_groups))
        self.pair_maps = nn.ModuleList(nn.Linear(width, width) for _ in self.pair_members)
        self.all_maps = nn.ModuleList([nn.Linear(width, width)])

    def make_constants(self) -> dict[str, torch.Tensor]:
        """
        The leads of each group `(G, L)`, and the groups of each pair `(pairs, G)`: neighbors first, as in the
        released weights (1, 2), (2, 3), (1, 3).
        """
        groups = self.config.lead_group_indices()
        pairs = sorted(combinations(range(len(groups)), 2), key=lambda pair: (pair[1] - pair[0], pair))
        return {
            "members": membership(groups, self.config.num_leads),
            "pair_members": membership([list(pair) for pair in pairs], len(groups)),
        }

    def forward(self, lead_states: torch.Tensor, present: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        groups, some_group = average_members(lead_states, present, self.members)
        groups = map_each(self.group_maps, groups, some_group)
        pairs, some_pair = average_members(groups, some_group, self.pair_members)
        pairs = map_each(self.pair_maps, pairs, some_pair)
        everything, some = average_members(pairs, some_pair, torch.ones_like(pairs[0, None, :, 0]))
        everything = map_each(self.all_maps, everything, some)

        states = torch.cat((groups, pairs, everything), dim=1)
        count = torch.cat((some_group, some_pair, some), dim=1).sum(dim=1, keepdim=True)
        return states.sum(dim=1) / count.clamp(min=1), states


class ClearHugPreTrainedModel(EcgPreTrainedModel):
    """What the CLEAR-HUG models share."""

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
    The CLEAR encoder: beats of all leads to a state per beat and a summary per lead.

    The `last_hidden_state` of its [`EcgModelOutput`] holds the summary token of every lead, then every beat in
    lead-major order (or the `kept_beats`); `lead_states` are the summary tokens, and `pooler_output` is the mean of
    those of the leads that are there.

    Example:

    ```python
    >>> import torch
    >>> from clear_hug_hf import ClearHugConfig, ClearHugModel

    >>> model = ClearHugModel(ClearHugConfig.preset("tiny")).eval()
    >>> model(torch.randn(2, 12, 10, 96)).lead_states.shape
    torch.Size([2, 12, 128])
    ```"""

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
                Beats as the feature extractor cuts them [any unit]; each is normalized by itself here. There may be
                fewer beats than `config.num_beats`.
            attention_mask (`torch.Tensor` of shape `(batch_size, [num_leads,] num_beats)`, *optional*):
                True where a beat exists; by default everywhere.
            time_ids (`torch.Tensor` of shape `(batch_size, [num_leads,] num_beats)`, *optional*):
                Second of the recording in which a beat lies, counted from 1; 0, the default, where it is unknown.
            lead_mask (`torch.Tensor` of shape `(batch_size, num_leads)`, *optional*):
                True where a lead was recorded; by default everywhere.
            beat_features (`torch.Tensor` of shape `(batch_size, num_leads, num_beats, 3)`, *optional*):
                Scale and RR intervals of each beat; needed with `config.use_beat_features`, and refused without.
            kept_beats (`torch.LongTensor` of shape `(batch_size, K)`, *optional*):
                The beats to compute, as `lead * num_beats + beat` in terms of `input_values`; by default all.
            kept_mask (`torch.BoolTensor` of shape `(batch_size, K)`, *optional*):
                True where `kept_beats` means a beat and not a filler.

        Raises:
            `ValueError`: if a shape does not fit the model.
        """
        kwargs = further_arguments(kwargs)  # type: ignore[assignment]
        check_beats(input_values, self.config)
        num_leads, num_beats = input_values.shape[1:3]
        real_beats = find_present(input_values.shape[:3], attention_mask, lead_mask, input_values.device)
        beats = normalize_beats(input_values, real_beats, self.config.beat_norm_eps)
        summaries, tokens = self.embeddings(beats, time_ids, beat_features)

        tokens, real_slots = tokens.flatten(1, 2), real_beats.flatten(1)
        slots = torch.arange(tokens.shape[1], device=tokens.device)[None]
        if kept_beats is not None:
            slots = kept_beats
            tokens = tokens.gather(1, slots[:, :, None].expand(-1, -1, tokens.shape[2]))
            real_slots = real_slots.gather(1, slots)
            if kept_mask is not None:
                real_slots = real_slots & kept_mask
        positions = slots // num_beats * self.config.num_beats + slots % num_beats

        present = real_beats.any(dim=2)
        attention_mask = encoder_attention_mask(self.config, present, real_slots, positions)
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
        )


class ClearHugForPreTraining(ClearHugPreTrainedModel):
    """
    CLEAR: the encoder with a decoder that rebuilds hidden beats.

    Each recording hides `config.mask_ratio` of its own beats. In training they are drawn anew every time, from
    `seeds` or `generator` if there are any; in evaluation they are the same for every recording and every call, so
    that two evaluations can be compared and a recording does not depend on those beside it.
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
        """The fixed order of shape `(L, config.num_beats)` in which evaluation hides beats, and counters of beats."""
        shape = (self.config.num_leads, self.config.num_beats)
        generator = torch.Generator("cpu").manual_seed(0)
        order = torch.randperm(shape[0] * shape[1], generator=generator, device="cpu").view(shape)
        return {"evaluation_order": order, "noise_counters": seeded_counters(*shape)}

    def _draw_noise(
        self, real_beats: torch.Tensor, seeds: torch.Tensor | None, generator: torch.Generator | None
    ) -> torch.Tensor:
        """Noise of shape `(B, L, N)`, the same for the same beats however many missing ones follow."""
        batch_size, num_leads, num_beats = real_beats.shape
        if seeds is not None:
            expect_shape("seeds", seeds, (batch_size,))
            return seeded_noise(seeds.to(real_beats.device), self.noise_counters[:, :num_beats])
        if generator is None and not self.training:
            return self.evaluation_order[:, :num_beats].expand(batch_size, -1, -1)
        shape = (batch_size, num_leads, self.config.num_beats)
        device = real_beats.device if generator is None else generator.device
        return torch.rand(shape, generator=generator, device=device)[:, :, :num_beats].to(real_beats.device)

    def _choose_visible(
        self,
        real_beats: torch.Tensor,
        noise: torch.Tensor | None,
        bool_masked_pos: torch.Tensor | None,
        seeds: torch.Tensor | None,
        generator: torch.Generator | None,
    ) -> tuple[torch.Tensor, torch.Tensor, int]:
        """
        An order of the beats `(B, T)` in which the visible ones come first, how many those are `(B,)`, and how many
        slots hold them in every recording. The slots follow from shapes alone: counting would wait for the device.
        """
        num_beats = real_beats.shape[1] * real_beats.shape[2]
        num_real = real_beats.flatten(1).sum(dim=1)
        if bool_masked_pos is not None:
            expect_shape("bool_masked_pos", bool_masked_pos, tuple(real_beats.shape))
            visible = real_beats & ~bool_masked_pos.bool()
            order = (~visible).flatten(1).to(torch.uint8).argsort(dim=1, stable=True)
            return order, visible.flatten(1).sum(dim=1), num_beats

        if noise is None:
            noise = self._draw_noise(real_beats, seeds, generator)
        expect_shape("noise", noise, tuple(real_beats.shape))
        noise = noise.float().masked_fill(~real_beats, torch.inf)
        order = noise.flatten(1).argsort(dim=1, stable=True)
        # At least one beat stays visible, as far as there is one.
        num_visible = count_visible(num_real, self.config.mask_ratio).clamp(min=1).minimum(num_real)
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
                See [`ClearHugModel.forward`]. Missing beats are neither hidden nor rebuilt.
            noise (`torch.Tensor` of shape `(batch_size, num_leads, num_beats)`, *optional*):
                The beats with the lowest noise stay visible.
            bool_masked_pos (`torch.BoolTensor` of shape `(batch_size, num_leads, num_beats)`, *optional*):
                Exactly these beats are hidden, in place of a share of `config.mask_ratio`. Slower than `noise`: the
                encoder keeps room for every beat.
            seeds (`torch.LongTensor` of shape `(batch_size,)`, *optional*):
                A recording's seed decides which of its beats are hidden, whatever the device and the batch, also in
                evaluation.
            generator (`torch.Generator`, *optional*):
                Draws the hidden beats, also in evaluation.

        Raises:
            `ValueError`: if a shape does not fit the model.
        """
        kwargs = further_arguments(kwargs)  # type: ignore[assignment]
        check_beats(input_values, self.config)
        real_beats = find_present(input_values.shape[:3], attention_mask, lead_mask, input_values.device)
        order, num_visible, num_slots = self._choose_visible(real_beats, noise, bool_masked_pos, seeds, generator)
        ranks = torch.arange(order.shape[1], device=order.device).expand_as(order)
        slots = torch.empty_like(order).scatter(1, order, ranks)
        visible = (slots < num_visible[:, None]).view_as(real_beats)
        bool_masked_pos = real_beats & ~visible
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
            real_beats,
            **kwargs,
        )

        target = normalize_beats(input_values, real_beats, self.config.beat_norm_eps)
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
    The encoder with a head that reads the summaries of the leads for a diagnosis: HUG or one of the paper's simpler
    heads (`config.head_type`), then a linear classifier.

    Example:

    ```python
    >>> import torch
    >>> from clear_hug_hf import ClearHugConfig, ClearHugForSequenceClassification

    >>> config = ClearHugConfig.preset("tiny", id2label={0: "NORM", 1: "MI"}, label2id={"NORM": 0, "MI": 1})
    >>> model = ClearHugForSequenceClassification(config).eval()
    >>> model(torch.randn(2, 12, 10, 96)).logits.sigmoid().shape
    torch.Size([2, 2])
    ```"""

    clear_hug: ClearHugModel
    encoder_class = ClearHugModel
    head_classes = {  # noqa: RUF012
        "hug": ClearHugHierarchicalHead,
        "mean": MeanHead,  # "averaged" in the paper's Table 3
        "weighted": ClearHugWeightedHead,
        "single_level": ClearHugSingleLevelHead,
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
        **kwargs: Unpack[TransformersKwargs],
    ) -> EcgClassifierOutput:
        """Scores of recordings: inputs as for [`ClearHugModel.forward`], labels as for [`classify`]."""
        outputs = self.clear_hug(
            input_values,
            attention_mask=attention_mask,
            time_ids=time_ids,
            lead_mask=lead_mask,
            beat_features=beat_features,
            **kwargs,
        )
        return self.classify(outputs, labels, **kwargs)


__all__ = [
    "ClearHugForPreTraining",
    "ClearHugForPreTrainingOutput",
    "ClearHugForSequenceClassification",
    "ClearHugModel",
    "ClearHugPreTrainedModel",
]
