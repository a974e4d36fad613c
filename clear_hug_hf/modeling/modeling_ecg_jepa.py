"""
ECG-JEPA models (Kim, "Learning General Representation of 12-Lead Electrocardiogram with a Joint-Embedding Predictive
Architecture", 2024, arXiv 2410.08559).

Pre-training masks the same time steps in all leads. A student encodes the visible patches, and a predictor predicts,
lead by lead, the states that a teacher computes for the masked patches from the full recording. The teacher is the
exponential moving average of the student. Patches attend only to patches of their own lead and of their own time step:
cross-pattern attention (CroPA).

Shapes: `B` recordings, `L` leads, `T` samples per lead, `P` time steps, that is patches per lead (at most
`config.num_patches`), `N = L * P` tokens in lead-major order, `V` visible and `M` masked time steps, `D` hidden size.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import get_args

import torch
from torch import nn
from torch.nn import functional as F
from transformers import initialization as init
from transformers.processing_utils import Unpack
from transformers.utils import ModelOutput, TransformersKwargs
from transformers.utils.generic import can_return_tuple, merge_with_config_defaults
from transformers.utils.output_capturing import capture_outputs

from .configuration_ecg import AttentionForm
from .configuration_ecg_jepa import EcgJepaConfig
from .fast_ops import CrossPattern
from .modeling_ecg import (
    IGNORED_LABEL,
    EcgAttention,
    EcgClassifierOutput,
    EcgForSequenceClassification,
    EcgModelOutput,
    EcgPreTrainedModel,
    MomentumTeacher,
    PreNormLayer,
    check_shape,
    presence_mask,
    register_constants,
    sample_classification_loss,
    seeded_bits,
    seeded_counters,
    sincos_positions,
    validate_kwargs,
)


TARGET_NORM_EPS = 1e-5
"""Epsilon of the layer normalization of the targets."""


@dataclass
class EcgJepaForPreTrainingOutput(ModelOutput):
    """
    Output of [`EcgJepaForPreTraining`].

    Args:
        loss (`torch.FloatTensor` of shape `()`):
            Distance (`config.loss_type`) between prediction and target, averaged over features and over all masked
            patches that exist.
        prediction (`torch.FloatTensor` of shape `(batch_size, num_leads, num_masked, hidden_size)`):
            Predicted states of the masked patches.
        target (`torch.FloatTensor` of shape `(batch_size, num_leads, num_masked, hidden_size)`):
            States of the teacher, normalized over the features.
        bool_masked_pos (`torch.BoolTensor` of shape `(batch_size, num_leads, num_patches)`):
            True for masked patches that contribute to the loss.
        pooled_std (`torch.FloatTensor` of shape `()`):
            Standard deviation of the student's pooled output over the batch, averaged over features. A value near zero
            indicates representation collapse.
        hidden_states, attentions (`tuple(torch.FloatTensor)`, *optional*):
            See [`EcgModelOutput`]: of the visible patches in the student.
        loss_weight (`torch.FloatTensor` of shape `()`):
            Number of patches that `loss` averages, by which micro-batches of one step are weighted.
    """

    loss: torch.Tensor | None = None
    prediction: torch.Tensor | None = None
    target: torch.Tensor | None = None
    bool_masked_pos: torch.Tensor | None = None
    pooled_std: torch.Tensor | None = None
    hidden_states: tuple[torch.Tensor, ...] | None = None
    attentions: tuple[torch.Tensor, ...] | None = None
    loss_weight: torch.Tensor | None = None


def check_recordings(
    input_values: torch.Tensor, config: EcgJepaConfig, lead_indices: torch.Tensor | None = None
) -> tuple[int, int]:
    """
    Check that recordings `(B, L, T)` consist of whole patches of the leads `lead_indices` `(L,)` of the model, all by
    default, and return their number of leads and of time steps.
    """
    if lead_indices is not None and (lead_indices.ndim != 1 or not 1 <= len(lead_indices) <= config.num_leads):
        raise ValueError(
            f"lead_indices must be one-dimensional with 1 to {config.num_leads} entries, got shape "
            f"{tuple(lead_indices.shape)}."
        )
    num_leads = config.num_leads if lead_indices is None else len(lead_indices)
    if (
        input_values.ndim != 3
        or input_values.shape[1] != num_leads
        or not 1 <= input_values.shape[2] <= config.num_samples
        or input_values.shape[2] % config.patch_size
    ):
        raise ValueError(
            f"input_values must have shape (batch_size, {num_leads} leads, a multiple of {config.patch_size} samples "
            f"up to {config.num_samples}), got {tuple(input_values.shape)}: use the feature extractor of the model, "
            "and pass lead_indices for a subset of the leads."
        )
    return num_leads, input_values.shape[2] // config.patch_size


def are_compiled(layers: nn.ModuleList) -> bool:
    """Whether the layers are compiled, individually or as part of a larger graph."""
    compiled = any(getattr(layer, "_compiled_call_impl", None) is not None for layer in layers)
    return compiled or torch.compiler.is_compiling()


def drop_full_mask(mask: torch.Tensor | None, inspect: bool = True) -> torch.Tensor | None:
    """
    Return `None` instead of a mask that is all True, since computation without masks is faster. Masks on a GPU are not
    inspected, which would synchronize, nor with `inspect=False` for compiled layers, which would be recompiled.
    """
    if mask is None or (inspect and mask.device.type == "cpu" and bool(mask.all())):
        return None
    return mask.bool()


def valid_patch_mask(
    shape: tuple[int, int, int],
    lead_mask: torch.Tensor | None,
    attention_mask: torch.Tensor | None,
    device: torch.device,
    inspect: bool = True,
) -> torch.Tensor | None:
    """[`presence_mask`] of patches, or `None` if it is known to be all True; `inspect` as in [`drop_full_mask`]."""
    if attention_mask is not None:
        check_shape("attention_mask", attention_mask, (shape[0], shape[2]))
    valid = presence_mask(shape, attention_mask, lead_mask, device)
    if drop_full_mask(lead_mask, inspect) is None and drop_full_mask(attention_mask, inspect) is None:
        return None
    return valid


def gather_times(states: torch.Tensor, times: torch.Tensor) -> torch.Tensor:
    """
    Select time steps of every lead.

    Args:
        states (`torch.Tensor` of shape `(1 or B, L, P)` or `(1 or B, L, P, X)`):
            Values of the patches.
        times (`torch.LongTensor` of shape `(1 or B, V)`):
            Time steps to select, for all recordings or for each.

    Returns:
        `torch.Tensor` of shape `(B, L, V)` or `(B, L, V, X)`.
    """
    if times.shape[0] == 1:
        return states.index_select(2, times[0])
    index = times[:, None, :].expand(-1, states.shape[1], -1)
    if states.ndim == 4:
        index = index[..., None].expand(-1, -1, -1, states.shape[3])
    return states.expand(times.shape[0], *states.shape[1:]).gather(2, index)


def grid_positions(num_leads: int, num_times: int, width: int) -> torch.Tensor:
    """
    Fixed position embeddings `(L, P, width)` of a grid of patches: the first half of the features encodes the time
    step, the second half the lead. Always on the CPU, since it is also called during loading.
    """
    times = sincos_positions(torch.arange(num_times, device="cpu"), width // 2)
    leads = sincos_positions(torch.arange(num_leads, device="cpu"), width // 2)
    times = times.expand(num_leads, -1, -1)
    return torch.cat((times, leads[:, None].expand(-1, num_times, -1)), dim=2).float()


def cross_pattern(num_leads: int, num_times: int) -> torch.Tensor:
    """
    Mask `(L, P, L, P)` of cross-pattern attention (Kim, 2024), True for pairs of patches of the same lead or time
    step. Always on the CPU, since it is also called during loading.
    """
    leads = torch.eye(num_leads, dtype=torch.bool, device="cpu")
    times = torch.eye(num_times, dtype=torch.bool, device="cpu")
    return leads[:, None, :, None] | times[None, :, None, :]


def seeded_uniforms(seed: int, count: int) -> list[float]:
    """Uniform random numbers in [0, 1), computed by [`seeded_bits`]."""
    signed = (seed + 2**63) % 2**64 - 2**63
    bits = seeded_bits(torch.tensor(signed, device="cpu"), seeded_counters(count))
    return ((bits >> 11 & 0x1FFFFFFFFFFFFF).double() / 2**53).tolist()


def num_mask_draws(config: EcgJepaConfig, num_times: int) -> int:
    """Number of uniform random numbers that [`draw_time_mask`] requires."""
    return 1 + num_times if config.mask_type == "random" else 2 * config.num_mask_blocks


def draw_time_mask(config: EcgJepaConfig, num_times: int, uniforms: Sequence[float]) -> list[bool]:
    """
    Draw a random or multi-block mask of time steps (Kim, 2024). At least one time step is masked and one is visible.

    Args:
        config ([`EcgJepaConfig`]):
            Its masking fields are used.
        num_times (`int`):
            Number of time steps.
        uniforms (`Sequence[float]`):
            [`num_mask_draws`] uniform random numbers in [0, 1).

    Returns:
        `list[bool]`: True for masked time steps.

    Raises:
        `ValueError`: if there are fewer than two time steps.
    """
    if num_times < 2:
        raise ValueError(f"masking requires at least 2 patches per lead, got {num_times}.")
    low, high = config.mask_range
    if config.mask_type == "random":
        count = min(max(int(num_times * (low + (high - low) * uniforms[0])), 1), num_times - 1)
        order = sorted(range(num_times), key=uniforms[1:].__getitem__)
        masked = set(order[:count])
    else:
        masked = set()
        for length_draw, start_draw in zip(uniforms[::2], uniforms[1::2], strict=True):
            length = max(int(num_times * (low + (high - low) * length_draw)), 1)
            num_starts = num_times - length + (not config.released_block_starts)
            start = int(num_starts * start_draw)
            masked.update(range(start, start + length))
        if len(masked) == num_times:
            masked.remove(0)
    return [time in masked for time in range(num_times)]


class EcgJepaEmbeddings(nn.Module):
    """Patch embeddings and fixed position embeddings."""

    positions: torch.Tensor

    def __init__(self, config: EcgJepaConfig):
        super().__init__()
        self.config = config
        self.patch_projection = nn.Linear(config.patch_size, config.hidden_size)
        register_constants(self)

    def make_constants(self) -> dict[str, torch.Tensor]:
        """Position embeddings `(config.num_leads, config.num_patches, D)`."""
        config = self.config
        return {"positions": grid_positions(config.num_leads, config.num_patches, config.hidden_size)}

    def forward(
        self,
        input_values: torch.Tensor,
        valid: torch.Tensor | None,
        lead_indices: torch.Tensor | None,
        kept_times: torch.Tensor | None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """
        Embed recordings.

        Args:
            input_values (`torch.Tensor` of shape `(B, L, T)`):
                Recordings.
            valid (`torch.BoolTensor` of shape `(B, L, P)`, *optional*):
                True for patches that exist; all by default. The samples of other patches are ignored.
            lead_indices (`torch.LongTensor` of shape `(L,)`, *optional*):
                Indices of the leads; all by default.
            kept_times (`torch.LongTensor` of shape `(1 or B, V)`, *optional*):
                Time steps to embed; all by default.

        Returns:
            `tuple[torch.Tensor, torch.Tensor]`: Patch embeddings `(B, L * V, D)` and position embeddings
            `(1 or B, L * V, D)`.
        """
        patches = input_values.unflatten(2, (-1, self.config.patch_size))
        positions = self.positions[:, : patches.shape[2]]
        if lead_indices is not None:
            positions = positions[lead_indices]
        positions = positions[None]
        if valid is not None:
            patches = patches.masked_fill(~valid[..., None], 0.0)
        if kept_times is not None:
            patches, positions = gather_times(patches, kept_times), gather_times(positions, kept_times)
        # The weights may have been cast without the buffers.
        dtype = self.patch_projection.weight.dtype
        tokens = self.patch_projection(patches.to(dtype))
        return tokens.flatten(1, 2), positions.flatten(1, 2).to(dtype)


def make_layers(
    config: EcgJepaConfig, hidden_size: int, num_heads: int, intermediate_size: int, num_layers: int
) -> nn.ModuleList:
    """Pre-norm layers with a stochastic depth rate that increases with depth."""
    layers = nn.ModuleList()
    for index in range(num_layers):
        rate = config.drop_path_rate * index / max(num_layers - 1, 1)
        layer = PreNormLayer(config, hidden_size, num_heads, intermediate_size, rate)
        # Projections onto the residual stream are scaled down with depth, since their outputs accumulate.
        for linear in (layer.attention.o_proj, layer.fc2):
            linear.initializer_scale = (2 * (index + 1)) ** -0.5
        layers.append(layer)
    return layers


def run_layers(
    layers: nn.ModuleList,
    hidden_states: torch.Tensor,
    positions: torch.Tensor,
    attention_mask: torch.Tensor | CrossPattern | None,
    config: EcgJepaConfig,
    **kwargs: Unpack[TransformersKwargs],
) -> torch.Tensor:
    """
    Apply layers to states `(B, N, D)`, adding the positions `(1 or B, N, D)` in every layer or in the first one only.
    """
    for index, layer in enumerate(layers):
        injected = positions if index == 0 or config.position_injection == "every_layer" else None
        hidden_states = layer(hidden_states, attention_mask, injected, **kwargs)
    return hidden_states


class EcgJepaPredictor(nn.Module):
    """Predicts the teacher's states of masked patches from the student's states of visible ones, lead by lead."""

    positions: torch.Tensor

    def __init__(self, config: EcgJepaConfig):
        super().__init__()
        self.config = config
        width = config.predictor_hidden_size
        self.embed = nn.Linear(config.hidden_size, width)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, width))
        self.layers = make_layers(
            config,
            width,
            config.predictor_num_attention_heads,
            config.predictor_intermediate_size,
            config.predictor_num_hidden_layers,
        )
        self.norm = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.prediction = nn.Linear(width, config.hidden_size)
        register_constants(self)

    def make_constants(self) -> dict[str, torch.Tensor]:
        """Position embeddings `(config.num_patches, width)`, which do not depend on the lead."""
        return {"positions": grid_positions(1, self.config.num_patches, self.config.predictor_hidden_size)[0]}

    def forward(
        self,
        states: torch.Tensor,
        visible: torch.Tensor,
        masked: torch.Tensor,
        valid: torch.Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> torch.Tensor:
        """
        Predict the states of masked patches.

        Args:
            states (`torch.Tensor` of shape `(B, L, V, D)`):
                States of the visible patches from the student.
            visible, masked (`torch.LongTensor` of shape `(1 or B, V)` and `(1 or B, M)`):
                Visible and masked time steps.
            valid (`torch.BoolTensor` of shape `(B, L, P)`, *optional*):
                True for patches that exist; all by default.

        Returns:
            `torch.Tensor` of shape `(B, L, M, D)`.
        """
        batch_size, num_leads, num_visible, _ = states.shape
        times = torch.cat((visible, masked), dim=1)
        tokens = self.embed(states).flatten(0, 1)
        mask_tokens = self.mask_token.to(tokens.dtype).expand(tokens.shape[0], masked.shape[1], -1)
        tokens = torch.cat((tokens, mask_tokens), dim=1)
        positions = self.positions[times].to(self.embed.weight.dtype)
        if len(times) > 1:
            positions = positions.repeat_interleave(num_leads, dim=0)
        attention_mask = None
        if valid is not None:
            diagonal = torch.eye(times.shape[1], dtype=torch.bool, device=times.device)
            attention_mask = (gather_times(valid, times).flatten(0, 1)[:, None, :] | diagonal)[:, None]
        tokens = run_layers(self.layers, tokens, positions, attention_mask, self.config, **kwargs)
        prediction = self.prediction(self.norm(tokens[:, num_visible:]))
        return prediction.unflatten(0, (batch_size, num_leads))


class EcgJepaPreTrainedModel(EcgPreTrainedModel):
    """Base class of the ECG-JEPA models."""

    config: EcgJepaConfig
    base_model_prefix = "ecg_jepa"
    _no_split_modules = ["EcgJepaEmbeddings", "PreNormLayer"]  # noqa: RUF012
    _can_record_outputs = {"hidden_states": PreNormLayer, "attentions": EcgAttention}  # noqa: RUF012

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        std = self.config.initializer_range
        scale = getattr(module, "initializer_scale", None)
        if isinstance(module, nn.Linear) and scale is not None:
            init.normal_(module.weight, std=std * scale)
        elif isinstance(module, EcgJepaEmbeddings):
            init.normal_(module.patch_projection.weight, std=self.config.patch_initializer_range or std)
        elif isinstance(module, EcgJepaPredictor):
            init.normal_(module.mask_token, std=std)


class EcgJepaModel(EcgJepaPreTrainedModel):
    """
    ECG-JEPA encoder: maps the patches of all leads to one state per patch, per lead and per recording.

    In its [`EcgModelOutput`], `last_hidden_state` contains the patches in lead-major order (or the `kept_times` of
    every lead), `lead_states` are its means over the patches of each lead, zero for missing leads, and `pooler_output`
    is the mean over all patches that exist. The first entry of `hidden_states` does not include positions.

    Example:

    ```python
    >>> import torch
    >>> from clear_hug_hf import EcgJepaConfig, EcgJepaModel

    >>> model = EcgJepaModel(EcgJepaConfig.preset("tiny")).eval()
    >>> model(torch.randn(2, 8, 2500)).pooler_output.shape
    torch.Size([2, 128])
    >>> two_leads = torch.tensor(model.config.lead_indices(["II", "V1"]))
    >>> model(torch.randn(2, 2, 2500), lead_indices=two_leads).lead_states.shape
    torch.Size([2, 2, 128])
    ```
    """

    _keys_to_ignore_on_load_unexpected = [r"^teacher\.", r"^predictor\.", r"^head\.", r"^classifier\."]  # noqa: RUF012
    cross_pattern: torch.Tensor

    def __init__(self, config: EcgJepaConfig):
        super().__init__(config)
        self.embeddings = EcgJepaEmbeddings(config)
        self.layers = make_layers(
            config,
            config.hidden_size,
            config.num_attention_heads,
            config.intermediate_size,
            config.num_hidden_layers,
        )
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        register_constants(self)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.embeddings.patch_projection

    def make_constants(self) -> dict[str, torch.Tensor]:
        """Attention mask `(config.num_leads, config.num_patches, config.num_leads, config.num_patches)`."""
        return {"cross_pattern": cross_pattern(self.config.num_leads, self.config.num_patches)}

    def _attention_mask(
        self, num_leads: int, num_times: int, valid: torch.Tensor | None, attention_form: str | None
    ) -> torch.Tensor | CrossPattern | None:
        """
        Attention mask `(1 or B, 1, N, N)`, True where attention is allowed, or [`CrossPattern`]. Missing patches are
        attended to only by themselves, so that no row is empty.
        """
        form = self.config.attention_form if attention_form is None else attention_form
        if form not in (forms := get_args(AttentionForm)):
            raise ValueError(f"attention_form must be one of {', '.join(forms)}, got {form!r}.")
        is_cropa = self.config.attention_pattern == "cropa"
        if form == "sparse" and not is_cropa:
            raise ValueError("attention_form='sparse' requires attention_pattern='cropa': use 'auto' instead.")
        # Decided here rather than in the layers, since gradient checkpointing must recompute them identically.
        without_gradients = not torch.is_grad_enabled() and self.config._attn_implementation != "eager"
        if is_cropa and (form == "sparse" or (form == "auto" and without_gradients)):
            return CrossPattern(num_leads, valid)
        mask = None
        if is_cropa:
            # The visible patches form a grid as well. The mask depends only on its size.
            mask = self.cross_pattern[:num_leads, :num_times, :num_leads, :num_times]
            mask = mask.reshape(1, 1, num_leads * num_times, num_leads * num_times)
        if valid is not None:
            keys = valid.flatten(1)[:, None, None, :]
            diagonal = torch.eye(num_leads * num_times, dtype=torch.bool, device=valid.device)
            mask = (keys if mask is None else mask & keys) | diagonal
        return mask

    @merge_with_config_defaults
    @capture_outputs
    def forward(
        self,
        input_values: torch.Tensor,
        lead_mask: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        lead_indices: torch.Tensor | None = None,
        kept_times: torch.Tensor | None = None,
        attention_form: str | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> EcgModelOutput:
        r"""
        Args:
            input_values (`torch.Tensor` of shape `(batch_size, num_leads, num_samples)`):
                Unfiltered, unnormalized recordings [mV]. There may be fewer samples than `config.num_samples`.
            lead_mask (`torch.Tensor` of shape `(batch_size, num_leads)`, *optional*):
                True for leads that are present; all by default.
            attention_mask (`torch.Tensor` of shape `(batch_size, num_patches)`, *optional*):
                True for time steps that the recording covers; all by default. Missing patches are attended to by no
                other patch and excluded from all means.
            lead_indices (`torch.LongTensor` of shape `(num_leads,)`, *optional*):
                Indices in `config.lead_names` of the rows of `input_values`, if all recordings have the same subset of
                leads; all by default. Equivalent to a `lead_mask` but faster.
            kept_times (`torch.LongTensor` of shape `(V,)` or `(batch_size, V)`, *optional*):
                Time steps to process; all by default. Others are ignored.
            attention_form (`str`, *optional*):
                Overrides `config.attention_form`.

        Raises:
            `ValueError`: if an input has the wrong shape.
        """
        kwargs = validate_kwargs(kwargs)  # type: ignore[assignment]
        num_leads, num_times = check_recordings(input_values, self.config, lead_indices)
        shape = (len(input_values), num_leads, num_times)
        valid = valid_patch_mask(shape, lead_mask, attention_mask, input_values.device, not are_compiled(self.layers))
        if kept_times is not None and kept_times.ndim == 1:
            kept_times = kept_times[None]
        hidden_states, positions = self.embeddings(input_values, valid, lead_indices, kept_times)
        if kept_times is not None:
            num_times = kept_times.shape[1]
            valid = None if valid is None else gather_times(valid, kept_times)

        pattern = self._attention_mask(num_leads, num_times, valid, attention_form)
        hidden_states = run_layers(self.layers, hidden_states, positions, pattern, self.config, **kwargs)
        hidden_states = self.norm(hidden_states)
        states = hidden_states.unflatten(1, (num_leads, num_times))
        if valid is None:
            lead_states = states.mean(dim=2)
            pooled = lead_states.mean(dim=1)
            present = torch.ones(lead_states.shape[:2], dtype=torch.bool, device=states.device)
        else:
            sums = (states * valid[..., None]).sum(dim=2)
            counts = valid.sum(dim=2)[..., None]
            lead_states = sums / counts.clamp(min=1)
            pooled = sums.sum(dim=1) / counts.sum(dim=1).clamp(min=1)
            present = valid.any(dim=2)
        return EcgModelOutput(
            last_hidden_state=hidden_states,
            pooler_output=pooled,
            lead_states=lead_states,
            present_leads=present,
            token_mask=None if valid is None else valid.flatten(1),
        )


class EcgJepaForPreTraining(EcgJepaPreTrainedModel, MomentumTeacher):
    """
    ECG-JEPA pre-training: student, teacher and predictor.

    All leads and recordings of a batch share one mask of time steps. In training mode it is drawn in every call, from
    `seed` or `generator` if given. In evaluation mode it is fixed, so that results are reproducible and do not depend
    on the other recordings of the batch. For a shorter recording the mask is scaled to its length.

    The teacher is initialized with the student's weights and updated only by [`after_optimizer_step`], which the
    training loop calls.
    """

    # Logged by the training loop in addition to the loss.
    monitors = ("pooled_std",)

    def __init__(self, config: EcgJepaConfig):
        super().__init__(config)
        self.ecg_jepa = EcgJepaModel(config)
        self.teacher = EcgJepaModel(config)
        self.predictor = EcgJepaPredictor(config)
        self.post_init()
        self.train(self.training)

    def momentum_pairs(self) -> list[tuple[nn.Module, nn.Module]]:
        return [(self.teacher, self.ecg_jepa)]

    def momentum_at(self, progress: float) -> float:
        """
        Decay of the teacher, linear from `ema_start` to `ema_end` (Kim, 2024). After step `k` of `K`, counted from 0,
        the training loop passes `(k + 1) / K`, whereas the released code uses `k / K`: the decays differ by
        `(ema_end - ema_start) / K`.
        """
        return self.config.ema_start + (self.config.ema_end - self.config.ema_start) * progress

    def train(self, mode: bool = True) -> "EcgJepaForPreTraining":
        """Set the training mode. The teacher stays in evaluation mode unless `config.teacher_drop_path` is set."""
        super().train(mode)
        if not self.config.teacher_drop_path:
            self.teacher.eval()
        return self

    def _draw_mask(self, num_times: int, seed: int | None, generator: torch.Generator | None) -> list[bool]:
        count = num_mask_draws(self.config, num_times)
        if seed is not None:
            uniforms = seeded_uniforms(seed, count)
        elif generator is None and not self.training:
            uniforms = seeded_uniforms(0, count)
        else:
            # Drawn on the CPU: sequence lengths depend on the mask, and reading it from the device would synchronize.
            device = torch.device("cpu") if generator is None else generator.device
            uniforms = torch.rand(count, generator=generator, device=device, dtype=torch.float64).tolist()
        return draw_time_mask(self.config, num_times, uniforms)

    def _choose_times(
        self,
        num_times: int,
        attention_mask: torch.Tensor | None,
        bool_masked_pos: torch.Tensor | None,
        seed: int | None,
        generator: torch.Generator | None,
        device: torch.device,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """
        Select visible `(1 or B, V)` and masked `(1 or B, M)` time steps. Both are padded with missing time steps of
        shorter recordings.
        """
        if bool_masked_pos is not None:
            mask = bool_masked_pos.bool()
            counts = mask.reshape(-1, num_times).sum(dim=1).tolist()
            if len(set(counts)) > 1 or not 0 < counts[0] < num_times:
                raise ValueError(
                    "bool_masked_pos must mask the same number of time steps in every recording, at least one but not "
                    f"all of the {num_times}, got {sorted(set(counts))}."
                )
            group = mask.reshape(-1, num_times).to(device=device, dtype=torch.uint8)
            num_masked = counts[0]
        else:
            drawn = self._draw_mask(num_times, seed, generator)
            num_masked = sum(drawn)
            mask = torch.tensor([drawn]).to(device, non_blocking=True)
            group = mask.to(torch.uint8)
            if attention_mask is not None:
                # The r-th of n time steps takes the mask at the same relative position. The mapping is injective, so
                # that neither group becomes larger than in the mask.
                ranks = attention_mask.cumsum(dim=1) - 1
                count = attention_mask.sum(dim=1, keepdim=True).clamp(min=1)
                positions = ((2 * ranks + 1) * num_times // (2 * count)).clamp(0, num_times - 1)
                masked = mask[0][positions]
                group = torch.where(attention_mask, 2 * masked.to(torch.uint8), 1)  # missing ones are in between
        order = group.argsort(dim=1, stable=True)
        return order[:, : num_times - num_masked], order[:, num_times - num_masked :]

    @can_return_tuple
    def forward(
        self,
        input_values: torch.Tensor,
        lead_mask: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        lead_indices: torch.Tensor | None = None,
        bool_masked_pos: torch.Tensor | None = None,
        seed: int | None = None,
        generator: torch.Generator | None = None,
        attention_form: str | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> EcgJepaForPreTrainingOutput:
        r"""
        Args:
            input_values, lead_mask, attention_mask, lead_indices, attention_form:
                See [`EcgJepaModel.forward`]. Missing leads and times are not predicted.
            bool_masked_pos (`torch.BoolTensor` of shape `(num_patches,)` or `(batch_size, num_patches)`, *optional*):
                Time steps to mask, the same number in each recording.
            seed (`int`, *optional*):
                Seed of the mask, which determines it independently of the device, also in evaluation mode.
            generator (`torch.Generator`, *optional*):
                Generator to draw the mask from, also in evaluation mode.

        Raises:
            `ValueError`: if an input has the wrong shape, or nothing or everything is masked.
        """
        kwargs = validate_kwargs(kwargs)  # type: ignore[assignment]
        num_leads, num_times = check_recordings(input_values, self.config, lead_indices)
        batch_size, device = input_values.shape[0], input_values.device
        inspect = not are_compiled(self.ecg_jepa.layers)
        valid = valid_patch_mask((batch_size, num_leads, num_times), lead_mask, attention_mask, device, inspect)
        if bool_masked_pos is not None:
            check_shape("bool_masked_pos", bool_masked_pos, (num_times,), (batch_size, num_times))
        visible, masked = self._choose_times(
            num_times, drop_full_mask(attention_mask, inspect), bool_masked_pos, seed, generator, device
        )

        masks = {"lead_mask": lead_mask, "attention_mask": attention_mask, "lead_indices": lead_indices}
        outputs = self.ecg_jepa(input_values, **masks, kept_times=visible, attention_form=attention_form, **kwargs)
        states = outputs.last_hidden_state.unflatten(1, (num_leads, -1))
        prediction = self.predictor(states, visible, masked, valid, **kwargs)

        with torch.no_grad():
            flags = {**kwargs, "output_hidden_states": False, "output_attentions": False}
            target = self.teacher(input_values, **masks, attention_form=attention_form, **flags).last_hidden_state
            target = gather_times(target.unflatten(1, (num_leads, num_times)), masked).float()
            target = F.layer_norm(target, target.shape[-1:], eps=TARGET_NORM_EPS)

        distance = {"smooth_l1": F.smooth_l1_loss, "l1": F.l1_loss, "mse": F.mse_loss}[self.config.loss_type]
        errors = distance(prediction.float(), target, reduction="none").mean(dim=3)
        counted = torch.ones(errors.shape, dtype=torch.bool, device=device)
        if valid is not None:
            # Nothing can be predicted for a lead without visible patches.
            counted = gather_times(valid, masked) & gather_times(valid, visible).any(dim=2, keepdim=True)
        loss_weight = counted.sum().float()
        loss = (errors * counted).sum() / loss_weight.clamp(min=1)
        bool_masked_pos = torch.zeros((batch_size, num_leads, num_times), dtype=torch.bool, device=device)
        bool_masked_pos.scatter_(2, masked[:, None].expand(batch_size, num_leads, -1), counted)
        return EcgJepaForPreTrainingOutput(
            loss=loss,
            prediction=prediction,
            target=target,
            bool_masked_pos=bool_masked_pos,
            pooled_std=outputs.pooler_output.detach().float().std(dim=0, correction=0).mean(),
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
            loss_weight=loss_weight,
        )


class EcgJepaForSequenceClassification(EcgJepaPreTrainedModel, EcgForSequenceClassification):
    """
    ECG-JEPA encoder with a linear classifier of the recording on the mean of its lead states, or on attention pooling
    of its patches (`config.head_type`).

    Example:

    ```python
    >>> import torch
    >>> from clear_hug_hf import EcgJepaConfig, EcgJepaForSequenceClassification

    >>> config = EcgJepaConfig.preset("tiny", id2label={0: "NORM", 1: "MI"}, label2id={"NORM": 0, "MI": 1})
    >>> model = EcgJepaForSequenceClassification(config).eval()
    >>> model(torch.randn(2, 8, 2500)).logits.sigmoid().shape
    torch.Size([2, 2])
    ```
    """

    ecg_jepa: EcgJepaModel
    encoder_class = EcgJepaModel

    @can_return_tuple
    def forward(
        self,
        input_values: torch.Tensor,
        lead_mask: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        lead_indices: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        rhythm: torch.Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> EcgClassifierOutput:
        """Classify recordings. See [`EcgJepaModel.forward`] for the inputs and [`classify`] for labels and rhythm."""
        outputs = self.ecg_jepa(
            input_values, lead_mask=lead_mask, attention_mask=attention_mask, lead_indices=lead_indices, **kwargs
        )
        return self.classify(outputs, labels, rhythm, **kwargs)


class EcgJepaForTokenClassification(EcgJepaPreTrainedModel):
    """
    ECG-JEPA encoder with a linear classifier of every sample of every lead, for example its wave. The state of a patch
    is mapped to the scores of all its samples.

    Example:

    ```python
    >>> import torch
    >>> from clear_hug_hf import EcgJepaConfig, EcgJepaForTokenClassification

    >>> waves = {0: "none", 1: "P", 2: "QRS", 3: "T"}
    >>> model = EcgJepaForTokenClassification(EcgJepaConfig.preset("tiny", id2label=waves)).eval()
    >>> model(torch.randn(2, 8, 2500)).logits.argmax(dim=-1).shape
    torch.Size([2, 8, 2500])
    ```
    """

    def __init__(self, config: EcgJepaConfig):
        super().__init__(config)
        self.num_labels = len(config.id2label or {})
        self.ecg_jepa = EcgJepaModel(config)
        self.dropout = nn.Dropout(config.classifier_dropout)
        self.classifier = nn.Linear(config.hidden_size, config.patch_size * self.num_labels)
        self.loss_function = sample_classification_loss
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_values: torch.Tensor,
        lead_mask: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        lead_indices: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> EcgClassifierOutput:
        r"""
        Args:
            input_values, lead_mask, attention_mask, lead_indices:
                See [`EcgJepaModel.forward`].
            labels (`torch.LongTensor` of shape `(batch_size, num_samples)` or `(batch_size, num_leads, num_samples)`,
                *optional*):
                Class index of every sample, for all leads or for each; -100 where unknown. Samples of missing leads
                and times are ignored.

        Raises:
            `ValueError`: if an input has the wrong shape.
        """
        outputs: EcgModelOutput = self.ecg_jepa(
            input_values, lead_mask=lead_mask, attention_mask=attention_mask, lead_indices=lead_indices, **kwargs
        )
        batch_size, num_leads, num_samples = input_values.shape
        # The scores of a patch are ordered by sample, then by class.
        logits = self.classifier(self.dropout(outputs.last_hidden_state))
        logits = logits.view(batch_size, num_leads, num_samples, self.num_labels)
        loss = None
        if labels is not None:
            check_shape("labels", labels, (batch_size, num_samples), (batch_size, num_leads, num_samples))
            labels = (labels if labels.ndim == 3 else labels[:, None]).to(logits.device).long()
            labels = labels.expand(-1, num_leads, -1)
            patches = (batch_size, num_leads, num_samples // self.config.patch_size)
            valid = valid_patch_mask(patches, lead_mask, attention_mask, input_values.device)
            if valid is not None:
                labels = labels.masked_fill(~valid.repeat_interleave(self.config.patch_size, dim=2), IGNORED_LABEL)
            loss = self.loss_function(labels, logits, self.config, **kwargs)
        return EcgClassifierOutput(
            loss=loss, logits=logits, hidden_states=outputs.hidden_states, attentions=outputs.attentions
        )


__all__ = [
    "EcgJepaForPreTraining",
    "EcgJepaForPreTrainingOutput",
    "EcgJepaForSequenceClassification",
    "EcgJepaForTokenClassification",
    "EcgJepaModel",
    "EcgJepaPreTrainedModel",
]
