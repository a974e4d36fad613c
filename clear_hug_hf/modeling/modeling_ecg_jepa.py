"""
The ECG-JEPA models ("Learning General Representation of 12-Lead Electrocardiogram with a Joint-Embedding Predictive
Architecture", Kim, arXiv 2410.08559).

Pre-training hides the same times in all leads. A student encodes what is left, and a predictor guesses from it, lead
by lead, what a teacher, the student's moving average, makes of the hidden patches when it sees all. Patches attend
only to those of their own lead and of their own time: cross-pattern attention (CroPA).

Shapes: `B` recordings, `L` leads, `T` samples per lead, `P` times, that is patches per lead (at most
`config.num_patches`), `N = L * P` tokens in lead-major order, `V` visible and `M` hidden times, `D` the width.
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
"""Added to the variance when the teacher's states become targets."""


@dataclass
class EcgJepaForPreTrainingOutput(ModelOutput):
    """
    Output of [`EcgJepaForPreTraining`].

    Args:
        loss (`torch.FloatTensor` of shape `()`):
            Distance (`config.loss_type`) between prediction and target: the mean over the features of a patch, then
            over all hidden patches that exist.
        prediction (`torch.FloatTensor` of shape `(batch_size, num_leads, num_hidden, hidden_size)`):
            What the predictor makes of the hidden patches.
        target (`torch.FloatTensor` of shape `(batch_size, num_leads, num_hidden, hidden_size)`):
            What the teacher makes of them, each normalized over its features.
        bool_masked_pos (`torch.BoolTensor` of shape `(batch_size, num_leads, num_patches)`):
            The hidden patches that count in the loss.
        pooled_std (`torch.FloatTensor` of shape `()`):
            Standard deviation of the student's pooled output over the batch, averaged over the features. Near zero,
            all recordings look alike to it: the training has collapsed.
        hidden_states, attentions (`tuple(torch.FloatTensor)`, *optional*):
            Of the student, as in [`EcgModelOutput`]: the visible patches.
        loss_weight (`torch.FloatTensor` of shape `()`):
            How many patches `loss` is the mean of: batches that make up one step are weighted by it.
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
    The numbers of leads and of times of recordings `(B, L, T)`, which hold the model's leads of `lead_indices` `(L,)`,
    by default all. Refuses others than whole patches of these leads.
    """
    if lead_indices is not None and (lead_indices.ndim != 1 or not 1 <= len(lead_indices) <= config.num_leads):
        raise ValueError(
            f"lead_indices must name 1 to {config.num_leads} leads in one dimension, got shape "
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
            f"up to {config.num_samples}), got {tuple(input_values.shape)}: prepare the recording with the model's "
            "feature extractor, and name its leads by lead_indices if it has only some."
        )
    return num_leads, input_values.shape[2] // config.patch_size


def are_compiled(layers: nn.ModuleList) -> bool:
    """Whether the layers run compiled, by themselves or as a part of what is being compiled."""
    compiled = any(getattr(layer, "_compiled_call_impl", None) is not None for layer in layers)
    return compiled or torch.compiler.is_compiling()


def unless_full(mask: torch.Tensor | None, may_look: bool = True) -> torch.Tensor | None:
    """
    A mask, or `None` where it is seen to leave nothing out: work without masks is faster. On a GPU looking would wait
    for it, and compiled layers (`may_look=False`) would be compiled again for what they do not get.
    """
    if mask is None or (may_look and mask.device.type == "cpu" and bool(mask.all())):
        return None
    return mask.bool()


def find_real_patches(
    shape: tuple[int, int, int],
    lead_mask: torch.Tensor | None,
    attention_mask: torch.Tensor | None,
    device: torch.device,
    may_look: bool = True,
) -> torch.Tensor | None:
    """[`presence_mask`] of patches, or `None` where all are known to exist; `may_look` as in [`unless_full`]."""
    if attention_mask is not None:
        check_shape("attention_mask", attention_mask, (shape[0], shape[2]))
    real = presence_mask(shape, attention_mask, lead_mask, device)
    if unless_full(lead_mask, may_look) is None and unless_full(attention_mask, may_look) is None:
        return None
    return real


def at_times(states: torch.Tensor, times: torch.Tensor) -> torch.Tensor:
    """
    Some `times` `(1 or B, V)` of every lead, the same for all recordings or for each its own, of something per patch
    `(1 or B, L, P)` or `(1 or B, L, P, X)`: `(B, L, V)` or `(B, L, V, X)`.
    """
    if times.shape[0] == 1:
        return states.index_select(2, times[0])
    index = times[:, None, :].expand(-1, states.shape[1], -1)
    if states.ndim == 4:
        index = index[..., None].expand(-1, -1, -1, states.shape[3])
    return states.expand(times.shape[0], *states.shape[1:]).gather(2, index)


def grid_positions(num_leads: int, num_times: int, width: int) -> torch.Tensor:
    """
    Fixed positions of a grid of patches: the first half of the features tells the time, the second the lead.

    Returns:
        `torch.FloatTensor` of shape `(L, P, width)`. On the CPU whatever the default device: also loading calls it.
    """
    times = sincos_positions(torch.arange(num_times, device="cpu"), width // 2)
    leads = sincos_positions(torch.arange(num_leads, device="cpu"), width // 2)
    times = times.expand(num_leads, -1, -1)
    return torch.cat((times, leads[:, None].expand(-1, num_times, -1)), dim=2).float()


def cross_pattern(num_leads: int, num_times: int) -> torch.Tensor:
    """
    Who may attend to whom in cross-pattern attention: patches of one lead, and patches of one time.

    Returns:
        `torch.BoolTensor` of shape `(L, P, L, P)`. On the CPU whatever the default device: also loading calls it.
    """
    leads = torch.eye(num_leads, dtype=torch.bool, device="cpu")
    times = torch.eye(num_times, dtype=torch.bool, device="cpu")
    return leads[:, None, :, None] | times[None, :, None, :]


def seeded_uniforms(seed: int, count: int) -> list[float]:
    """As many uniform numbers from 0 to below 1 as asked for, by [`seeded_bits`] of a seed and the first counters."""
    signed = (seed + 2**63) % 2**64 - 2**63
    bits = seeded_bits(torch.tensor(signed, device="cpu"), seeded_counters(count))
    return ((bits >> 11 & 0x1FFFFFFFFFFFFF).double() / 2**53).tolist()


def num_mask_draws(config: EcgJepaConfig, num_times: int) -> int:
    """How many uniform numbers [`draw_time_mask`] turns into a mask."""
    return 1 + num_times if config.mask_type == "random" else 2 * config.num_mask_blocks


def draw_time_mask(config: EcgJepaConfig, num_times: int, uniforms: Sequence[float]) -> list[bool]:
    """
    Which times to hide (the paper's section on masking), True where one is hidden. At least one is hidden and one
    stays visible. Of `uniforms`, numbers from 0 to below 1, there are as many as [`num_mask_draws`] says.

    Raises:
        `ValueError`: if there are fewer than two times.
    """
    if num_times < 2:
        raise ValueError(f"pre-training hides some patches and shows others: {num_times} per lead is too few.")
    low, high = config.mask_range
    if config.mask_type == "random":
        count = min(max(int(num_times * (low + (high - low) * uniforms[0])), 1), num_times - 1)
        order = sorted(range(num_times), key=uniforms[1:].__getitem__)
        hidden = set(order[:count])
    else:
        hidden = set()
        for size, place in zip(uniforms[::2], uniforms[1::2], strict=True):
            length = max(int(num_times * (low + (high - low) * size)), 1)
            num_starts = num_times - length + (not config.released_block_starts)
            start = int(num_starts * place)
            hidden.update(range(start, start + length))
        if len(hidden) == num_times:
            hidden.remove(0)
    return [time in hidden for time in range(num_times)]


class EcgJepaEmbeddings(nn.Module):
    """Embeds patches; knows their fixed positions."""

    positions: torch.Tensor

    def __init__(self, config: EcgJepaConfig):
        super().__init__()
        self.config = config
        self.patch_projection = nn.Linear(config.patch_size, config.hidden_size)
        register_constants(self)

    def make_constants(self) -> dict[str, torch.Tensor]:
        """Positions `(config.num_leads, config.num_patches, D)`."""
        config = self.config
        return {"positions": grid_positions(config.num_leads, config.num_patches, config.hidden_size)}

    def forward(
        self,
        input_values: torch.Tensor,
        real: torch.Tensor | None,
        lead_indices: torch.Tensor | None,
        kept_times: torch.Tensor | None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """
        Embeddings `(B, L * V, D)` and positions `(1 or B, L * V, D)` of recordings `(B, L, T)`: of the `kept_times`
        `(1 or B, V)`, by default all, and for the leads of `lead_indices` `(L,)`. Samples of patches that do not
        exist, by `real` `(B, L, P)`, are not read.
        """
        patches = input_values.unflatten(2, (-1, self.config.patch_size))
        positions = self.positions[:, : patches.shape[2]]
        if lead_indices is not None:
            positions = positions[lead_indices]
        positions = positions[None]
        if real is not None:
            patches = patches.masked_fill(~real[..., None], 0.0)
        if kept_times is not None:
            patches, positions = at_times(patches, kept_times), at_times(positions, kept_times)
        # Of the weights' type, also where these were rounded and the constants were not.
        dtype = self.patch_projection.weight.dtype
        tokens = self.patch_projection(patches.to(dtype))
        return tokens.flatten(1, 2), positions.flatten(1, 2).to(dtype)


def make_layers(
    config: EcgJepaConfig, hidden_size: int, num_heads: int, intermediate_size: int, number: int
) -> nn.ModuleList:
    """Pre-norm layers of which deeper ones are skipped more often in training."""
    layers = nn.ModuleList()
    for index in range(number):
        rate = config.drop_path_rate * index / max(number - 1, 1)
        layer = PreNormLayer(config, hidden_size, num_heads, intermediate_size, rate)
        # What these write adds up in the residual stream: deeper ones start smaller.
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
    """States `(B, N, D)` through layers that get the positions `(1 or B, N, D)`: all of them, or the first only."""
    for index, layer in enumerate(layers):
        given = positions if index == 0 or config.position_injection == "every_layer" else None
        hidden_states = layer(hidden_states, attention_mask, given, **kwargs)
    return hidden_states


class EcgJepaPredictor(nn.Module):
    """Guesses the teacher's states of hidden patches from the student's of visible ones, each lead by itself."""

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
        """Positions `(config.num_patches, width)`: those of a grid of one lead, whichever lead it is."""
        return {"positions": grid_positions(1, self.config.num_patches, self.config.predictor_hidden_size)[0]}

    def forward(
        self,
        states: torch.Tensor,
        visible: torch.Tensor,
        hidden: torch.Tensor,
        real: torch.Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> torch.Tensor:
        """
        What stands at the `hidden` times `(1 or B, M)`, as `(B, L, M, D)`, guessed from the student's states `(B, L,
        V, D)` of the `visible` ones `(1 or B, V)`. Patches exist by `real` `(B, L, P)`, by default all.
        """
        batch_size, num_leads, num_visible, _ = states.shape
        times = torch.cat((visible, hidden), dim=1)
        tokens = self.embed(states).flatten(0, 1)
        mask_tokens = self.mask_token.to(tokens.dtype).expand(tokens.shape[0], hidden.shape[1], -1)
        tokens = torch.cat((tokens, mask_tokens), dim=1)
        positions = self.positions[times].to(self.embed.weight.dtype)
        if len(times) > 1:
            positions = positions.repeat_interleave(num_leads, dim=0)
        attention_mask = None
        if real is not None:
            itself = torch.eye(times.shape[1], dtype=torch.bool, device=times.device)
            attention_mask = (at_times(real, times).flatten(0, 1)[:, None, :] | itself)[:, None]
        tokens = run_layers(self.layers, tokens, positions, attention_mask, self.config, **kwargs)
        prediction = self.prediction(self.norm(tokens[:, num_visible:]))
        return prediction.unflatten(0, (batch_size, num_leads))


class EcgJepaPreTrainedModel(EcgPreTrainedModel):
    """What the ECG-JEPA models share."""

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
    The ECG-JEPA encoder: patches of all leads to a state per patch, per lead and per recording.

    The `last_hidden_state` of its [`EcgModelOutput`] holds every patch in lead-major order (or the `kept_times` of
    every lead); `lead_states` are its means over the patches of each lead, zero for a lead that is missing, and
    `pooler_output` is the mean over all patches that exist. The first of `hidden_states` is without positions.

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
    ```"""

    _keys_to_ignore_on_load_unexpected = [r"^teacher\.", r"^predictor\.", r"^classifier\."]  # noqa: RUF012
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
        """The mask `(config.num_leads, config.num_patches, config.num_leads, config.num_patches)`."""
        return {"cross_pattern": cross_pattern(self.config.num_leads, self.config.num_patches)}

    def _attention_mask(
        self, num_leads: int, num_times: int, real: torch.Tensor | None, attention_form: str | None
    ) -> torch.Tensor | CrossPattern | None:
        """
        What the layers are told of who attends to whom: a mask `(1 or B, 1, N, N)`, True where attention is allowed,
        or a [`CrossPattern`]. Missing patches are seen by nobody but themselves, so that no row is empty.
        """
        form = self.config.attention_form if attention_form is None else attention_form
        if form not in (forms := get_args(AttentionForm)):
            raise ValueError(f"attention_form must be one of {', '.join(forms)}, got {form!r}.")
        crossing = self.config.attention_pattern == "cropa"
        if form == "sparse" and not crossing:
            raise ValueError("attention_form='sparse' computes attention_pattern='cropa' only: choose 'auto'.")
        # Decided here and not in the layers: one that is computed anew for its gradient must do what it did before.
        without_gradients = not torch.is_grad_enabled() and self.config._attn_implementation != "eager"
        if crossing and (form == "sparse" or (form == "auto" and without_gradients)):
            return CrossPattern(num_leads, real)
        mask = None
        if crossing:
            # The visible patches are a grid, too: which leads and times it is made of makes no difference.
            mask = self.cross_pattern[:num_leads, :num_times, :num_leads, :num_times]
            mask = mask.reshape(1, 1, num_leads * num_times, num_leads * num_times)
        if real is not None:
            keys = real.flatten(1)[:, None, None, :]
            itself = torch.eye(num_leads * num_times, dtype=torch.bool, device=real.device)
            mask = (keys if mask is None else mask & keys) | itself
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
                Recordings [mV], neither filtered nor normalized. There may be fewer samples than `config.num_samples`.
            lead_mask (`torch.Tensor` of shape `(batch_size, num_leads)`, *optional*):
                True where a lead was recorded; by default everywhere.
            attention_mask (`torch.Tensor` of shape `(batch_size, num_patches)`, *optional*):
                True where the recording lasts; by default everywhere. What is missing is seen by no other patch and
                left out of all means.
            lead_indices (`torch.LongTensor` of shape `(num_leads,)`, *optional*):
                Places in `config.lead_names` of the leads that the rows of `input_values` are, where all recordings
                have only some: faster than a `lead_mask`, with the same result. By default all.
            kept_times (`torch.LongTensor` of shape `(V,)` or `(batch_size, V)`, *optional*):
                Times to compute, the others are not read; by default all.
            attention_form (`str`, *optional*):
                As in the config, for this call.

        Raises:
            `ValueError`: if a shape does not fit the model.
        """
        kwargs = validate_kwargs(kwargs)  # type: ignore[assignment]
        num_leads, num_times = check_recordings(input_values, self.config, lead_indices)
        shape = (len(input_values), num_leads, num_times)
        real = find_real_patches(shape, lead_mask, attention_mask, input_values.device, not are_compiled(self.layers))
        if kept_times is not None and kept_times.ndim == 1:
            kept_times = kept_times[None]
        hidden_states, positions = self.embeddings(input_values, real, lead_indices, kept_times)
        if kept_times is not None:
            num_times = kept_times.shape[1]
            real = None if real is None else at_times(real, kept_times)

        pattern = self._attention_mask(num_leads, num_times, real, attention_form)
        hidden_states = run_layers(self.layers, hidden_states, positions, pattern, self.config, **kwargs)
        hidden_states = self.norm(hidden_states)
        states = hidden_states.unflatten(1, (num_leads, num_times))
        if real is None:
            lead_states = states.mean(dim=2)
            pooled = lead_states.mean(dim=1)
            present = torch.ones(lead_states.shape[:2], dtype=torch.bool, device=states.device)
        else:
            sums = (states * real[..., None]).sum(dim=2)
            counts = real.sum(dim=2)[..., None]
            lead_states = sums / counts.clamp(min=1)
            pooled = sums.sum(dim=1) / counts.sum(dim=1).clamp(min=1)
            present = real.any(dim=2)
        return EcgModelOutput(
            last_hidden_state=hidden_states, pooler_output=pooled, lead_states=lead_states, present_leads=present
        )


class EcgJepaForPreTraining(EcgJepaPreTrainedModel):
    """
    ECG-JEPA: a student, its teacher, and a predictor of what the teacher sees and the student does not.

    One mask of times holds for all leads and all recordings of a batch. In training it is drawn anew every time, from
    `seed` or `generator` if there is one; in evaluation it is the same in every call, so that two evaluations can be
    compared and a recording does not depend on those beside it. The times of a recording that is shorter than the
    others are hidden as the same mask hides them when it is shrunk to them.

    The teacher begins as the student and follows it by [`after_optimizer_step`], which the training loop calls. It
    needs no gradients, and is not trained otherwise.
    """

    # The training loop logs it beside the loss.
    monitors = ("pooled_std",)

    def __init__(self, config: EcgJepaConfig):
        super().__init__(config)
        self.ecg_jepa = EcgJepaModel(config)
        self.teacher = EcgJepaModel(config)
        self.predictor = EcgJepaPredictor(config)
        self.post_init()
        self.train(self.training)

    def initialize_weights(self) -> None:
        """Initialize what was not loaded; a teacher that was not is the student."""
        super().initialize_weights()
        with torch.no_grad():
            for old, new in zip(self.teacher.parameters(), self.ecg_jepa.parameters(), strict=True):
                init.copy_(old, new)

    def train(self, mode: bool = True) -> "EcgJepaForPreTraining":
        """As for any module, but the teacher stays in evaluation mode unless `config.teacher_drop_path`."""
        super().train(mode)
        self.teacher.requires_grad_(False)  # also after loading, which makes every parameter one that is trained
        if not self.config.teacher_drop_path:
            self.teacher.eval()
        return self

    @torch.no_grad()
    def after_optimizer_step(self, progress: float) -> None:
        """
        Move the teacher toward the student (the paper's moving average). After step `k` of `K`, counted from 0, the
        training loop passes `(k + 1) / K`, and the released code takes `k / K`: the momenta differ by
        `(ema_end - ema_start) / K`.

        Args:
            progress (`float`):
                Share of the steps done, from 0 to 1: the teacher keeps `ema_start` of itself at first and `ema_end` at
                last.
        """
        kept = self.config.ema_start + (self.config.ema_end - self.config.ema_start) * progress
        torch._foreach_lerp_(list(self.teacher.parameters()), list(self.ecg_jepa.parameters()), 1.0 - kept)

    def _draw_mask(self, num_times: int, seed: int | None, generator: torch.Generator | None) -> list[bool]:
        count = num_mask_draws(self.config, num_times)
        if seed is not None:
            uniforms = seeded_uniforms(seed, count)
        elif generator is None and not self.training:
            uniforms = seeded_uniforms(0, count)
        else:
            # Here and not on the device: lengths follow from the mask, and reading it there would wait.
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
        Times that are visible `(1 or B, V)` and hidden `(1 or B, M)`. Where recordings lack times, these fill up
        either and mean nothing.
        """
        if bool_masked_pos is not None:
            mask = bool_masked_pos.bool()
            counts = mask.reshape(-1, num_times).sum(dim=1).tolist()
            if len(set(counts)) > 1 or not 0 < counts[0] < num_times:
                raise ValueError(
                    "bool_masked_pos must hide equally many times in every recording, at least one and not all, got "
                    f"{sorted(set(counts))} of {num_times}."
                )
            group = mask.reshape(-1, num_times).to(device=device, dtype=torch.uint8)
            num_hidden = counts[0]
        else:
            drawn = self._draw_mask(num_times, seed, generator)
            num_hidden = sum(drawn)
            mask = torch.tensor([drawn]).to(device, non_blocking=True)
            group = mask.to(torch.uint8)
            if attention_mask is not None:
                # The r-th of n times is hidden as the time of the mask that stands at the same share of it. Different
                # times stand at different ones, so that neither group outgrows the mask's.
                ranks = attention_mask.cumsum(dim=1) - 1
                count = attention_mask.sum(dim=1, keepdim=True).clamp(min=1)
                places = ((2 * ranks + 1) * num_times // (2 * count)).clamp(0, num_times - 1)
                hidden = mask[0][places]
                group = torch.where(attention_mask, 2 * hidden.to(torch.uint8), 1)  # those that lack stand between
        order = group.argsort(dim=1, stable=True)
        return order[:, : num_times - num_hidden], order[:, num_times - num_hidden :]

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
                Exactly these times are hidden, equally many in each recording.
            seed (`int`, *optional*):
                Decides the mask, whatever the device, also in evaluation: batches of one seed have one mask.
            generator (`torch.Generator`, *optional*):
                Draws the mask, also in evaluation.

        Raises:
            `ValueError`: if a shape does not fit the model, or the mask hides nothing or everything.
        """
        kwargs = validate_kwargs(kwargs)  # type: ignore[assignment]
        num_leads, num_times = check_recordings(input_values, self.config, lead_indices)
        batch_size, device = input_values.shape[0], input_values.device
        may_look = not are_compiled(self.ecg_jepa.layers)
        real = find_real_patches((batch_size, num_leads, num_times), lead_mask, attention_mask, device, may_look)
        if bool_masked_pos is not None:
            check_shape("bool_masked_pos", bool_masked_pos, (num_times,), (batch_size, num_times))
        visible, hidden = self._choose_times(
            num_times, unless_full(attention_mask, may_look), bool_masked_pos, seed, generator, device
        )

        given = {"lead_mask": lead_mask, "attention_mask": attention_mask, "lead_indices": lead_indices}
        outputs = self.ecg_jepa(input_values, **given, kept_times=visible, attention_form=attention_form, **kwargs)
        states = outputs.last_hidden_state.unflatten(1, (num_leads, -1))
        prediction = self.predictor(states, visible, hidden, real, **kwargs)

        with torch.no_grad():
            quiet = {**kwargs, "output_hidden_states": False, "output_attentions": False}
            seen = self.teacher(input_values, **given, attention_form=attention_form, **quiet).last_hidden_state
            target = at_times(seen.unflatten(1, (num_leads, num_times)), hidden).float()
            target = F.layer_norm(target, target.shape[-1:], eps=TARGET_NORM_EPS)

        distance = {"smooth_l1": F.smooth_l1_loss, "l1": F.l1_loss, "mse": F.mse_loss}[self.config.loss_type]
        errors = distance(prediction.float(), target, reduction="none").mean(dim=3)
        counted = torch.ones(errors.shape, dtype=torch.bool, device=device)
        if real is not None:
            # Of a lead that shows nothing, nothing can be predicted.
            counted = at_times(real, hidden) & at_times(real, visible).any(dim=2, keepdim=True)
        loss_weight = counted.sum().float()
        loss = (errors * counted).sum() / loss_weight.clamp(min=1)
        bool_masked_pos = torch.zeros((batch_size, num_leads, num_times), dtype=torch.bool, device=device)
        bool_masked_pos.scatter_(2, hidden[:, None].expand(batch_size, num_leads, -1), counted)
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
    The encoder with a linear classifier of the recording, which reads the mean over its patches.

    Example:

    ```python
    >>> import torch
    >>> from clear_hug_hf import EcgJepaConfig, EcgJepaForSequenceClassification

    >>> config = EcgJepaConfig.preset("tiny", id2label={0: "NORM", 1: "MI"}, label2id={"NORM": 0, "MI": 1})
    >>> model = EcgJepaForSequenceClassification(config).eval()
    >>> model(torch.randn(2, 8, 2500)).logits.sigmoid().shape
    torch.Size([2, 2])
    ```"""

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
        **kwargs: Unpack[TransformersKwargs],
    ) -> EcgClassifierOutput:
        """Scores of recordings: inputs as for [`EcgJepaModel.forward`], labels as for [`classify`]."""
        outputs = self.ecg_jepa(
            input_values, lead_mask=lead_mask, attention_mask=attention_mask, lead_indices=lead_indices, **kwargs
        )
        return self.classify(outputs, labels, **kwargs)


class EcgJepaForTokenClassification(EcgJepaPreTrainedModel):
    """
    The encoder with a linear classifier of every sample of every lead, such as its wave: each patch's state gives the
    scores of all its samples.

    Example:

    ```python
    >>> import torch
    >>> from clear_hug_hf import EcgJepaConfig, EcgJepaForTokenClassification

    >>> waves = {0: "none", 1: "P", 2: "QRS", 3: "T"}
    >>> model = EcgJepaForTokenClassification(EcgJepaConfig.preset("tiny", id2label=waves)).eval()
    >>> model(torch.randn(2, 8, 2500)).logits.argmax(dim=-1).shape
    torch.Size([2, 8, 2500])
    ```"""

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
                *optional*): Class of every sample, in all leads alike or in each; -100 where it is unknown. Samples of
                missing leads and times do not count.

        Raises:
            `ValueError`: if a shape does not fit the model.
        """
        outputs: EcgModelOutput = self.ecg_jepa(
            input_values, lead_mask=lead_mask, attention_mask=attention_mask, lead_indices=lead_indices, **kwargs
        )
        batch_size, num_leads, num_samples = input_values.shape
        # Of a patch's scores, the classes of its first sample come first.
        logits = self.classifier(self.dropout(outputs.last_hidden_state))
        logits = logits.view(batch_size, num_leads, num_samples, self.num_labels)
        loss = None
        if labels is not None:
            check_shape("labels", labels, (batch_size, num_samples), (batch_size, num_leads, num_samples))
            labels = (labels if labels.ndim == 3 else labels[:, None]).to(logits.device).long()
            labels = labels.expand(-1, num_leads, -1)
            patches = (batch_size, num_leads, num_samples // self.config.patch_size)
            real = find_real_patches(patches, lead_mask, attention_mask, input_values.device)
            if real is not None:
                labels = labels.masked_fill(~real.repeat_interleave(self.config.patch_size, dim=2), IGNORED_LABEL)
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
