"""
ST-MEM models (Na et al., "Guiding Masked Representation Learning to Capture Spatio-Temporal Relationship of
Electrocardiogram", ICLR 2024, arXiv 2402.09450).

Each lead is a sequence of patches between two separators, and has an embedding of its own; all tokens of all leads
attend to each other. Pre-training masks most patches of every lead independently, and a decoder reconstructs them lead
by lead.

Shapes: `B` recordings, `L` leads, `T` samples per lead, `N` patches per lead (at most `config.num_patches`), `V`
visible patches per lead, `P` samples per patch, `D` hidden size. Tokens are in lead-major order, `N + 2` per lead:
separator, patches, separator.
"""

from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F
from transformers import initialization as init
from transformers.processing_utils import Unpack
from transformers.utils import ModelOutput, TransformersKwargs
from transformers.utils.generic import can_return_tuple, merge_with_config_defaults
from transformers.utils.output_capturing import capture_outputs

from .configuration_st_mem import StMemConfig
from .modeling_ecg import (
    EcgAttention,
    EcgClassifierOutput,
    EcgForSequenceClassification,
    EcgModelOutput,
    EcgPreTrainedModel,
    PreNormLayer,
    check_shape,
    masked_loss_mean,
    masked_mean,
    presence_mask,
    register_constants,
    seeded_bits,
    seeded_counters,
    sincos_positions,
    to_autocast_dtype,
    validate_kwargs,
)


MAX_SEED = 2**62
DECODER_NORM_EPS = 1e-6
"""Epsilon of the layer normalization behind the decoder."""
TARGET_EPS = 1e-6
"""Added to the variance of a patch when targets are standardized."""


@dataclass
class StMemForPreTrainingOutput(ModelOutput):
    """
    Output of [`StMemForPreTraining`].

    Args:
        loss (`torch.FloatTensor` of shape `()`):
            Mean squared error of the masked patches that exist, each standardized.
        prediction (`torch.FloatTensor` of shape `(batch_size, num_leads, num_patches, patch_size)`):
            Predicted patches, standardized.
        bool_masked_pos (`torch.BoolTensor` of shape `(batch_size, num_leads, num_patches)`):
            True for masked patches.
        hidden_states, attentions (`tuple(torch.FloatTensor)`, *optional*):
            States and attention weights of the encoder, of visible patches and separators, see [`EcgModelOutput`].
        loss_weight (`torch.FloatTensor` of shape `()`):
            Number of patches that `loss` averages, by which micro-batches of one step are weighted.
    """

    loss: torch.Tensor | None = None
    prediction: torch.Tensor | None = None
    bool_masked_pos: torch.Tensor | None = None
    hidden_states: tuple[torch.Tensor, ...] | None = None
    attentions: tuple[torch.Tensor, ...] | None = None
    loss_weight: torch.Tensor | None = None


def check_recordings(input_values: torch.Tensor, config: StMemConfig) -> tuple[int, int, int]:
    """Check that recordings `(B, L, T)` consist of whole patches of all leads; return `(B, L, N)`."""
    if (
        input_values.ndim != 3
        or input_values.shape[1] != config.num_leads
        or not 1 <= input_values.shape[2] <= config.num_samples
        or input_values.shape[2] % config.patch_size
    ):
        raise ValueError(
            f"input_values must have shape (batch_size, {config.num_leads} leads, a multiple of {config.patch_size} "
            f"samples up to {config.num_samples}), got {tuple(input_values.shape)}: use the feature extractor of the "
            "model."
        )
    return input_values.shape[0], input_values.shape[1], input_values.shape[2] // config.patch_size


def present_patches(
    shape: tuple[int, int, int],
    attention_mask: torch.Tensor | None,
    lead_mask: torch.Tensor | None,
    device: torch.device,
) -> torch.Tensor | None:
    """[`presence_mask`] `(B, L, N)` of patches, or `None` if there are no masks."""
    if attention_mask is None and lead_mask is None:
        return None
    if attention_mask is not None:
        check_shape("attention_mask", attention_mask, (shape[0], shape[2]))
    return presence_mask(shape, attention_mask, lead_mask, device)


def make_positions(num_patches: int, width: int) -> torch.Tensor:
    """
    Fixed position embeddings `(num_patches + 2, width)` of the patches of a lead. Those of the separators, at the
    ends, are zero. Always on the CPU, since it is also called during loading.
    """
    return F.pad(sincos_positions(torch.arange(num_patches, device="cpu"), width), (0, 0, 1, 1)).float()


def gather_patches(states: torch.Tensor, indices: torch.Tensor) -> torch.Tensor:
    """Select the patches `indices` `(B, L, V)` of states `(B, L, N)` or `(B, L, N, X)`."""
    if states.ndim == 4:
        indices = indices[..., None].expand(-1, -1, -1, states.shape[3])
    return states.gather(2, indices)


class StMemPositions(nn.Module):
    """Position embeddings of the patches and separators of a lead, fixed or learned."""

    weight: torch.Tensor

    def __init__(self, config: StMemConfig, width: int):
        super().__init__()
        self.config = config
        self.width = width
        if config.learned_positions:
            self.weight = nn.Parameter(torch.zeros(config.num_patches + 2, width))
        else:
            register_constants(self)

    def make_constants(self) -> dict[str, torch.Tensor]:
        """Sinusoidal positions `(config.num_patches + 2, width)`, which also initialize learned ones."""
        return {"weight": make_positions(self.config.num_patches, self.width)}

    def forward(self, num_patches: int, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Positions of the left separator `(width,)`, of the patches `(N, width)`, and of the right separator."""
        # The right separator keeps its position however short the recording is, as released.
        weight = self.weight.to(dtype)
        return weight[0], weight[1 : 1 + num_patches], weight[-1]


class StMemEmbeddings(nn.Module):
    """Embeds patches, and puts each lead between two separators."""

    def __init__(self, config: StMemConfig):
        super().__init__()
        self.config = config
        self.patch_norm = nn.LayerNorm(config.patch_size, eps=config.layer_norm_eps)
        self.patch_projection = nn.Linear(config.patch_size, config.hidden_size)
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.positions = StMemPositions(config, config.hidden_size)
        self.separator = nn.Parameter(torch.zeros(config.hidden_size))
        self.lead_embeddings = nn.Parameter(torch.zeros(config.num_leads, config.hidden_size))

    def embed_patches(self, input_values: torch.Tensor) -> torch.Tensor:
        """Embed the patches of recordings `(B, L, T)`, without positions and leads: `(B, L, N, D)`."""
        patches = input_values.unflatten(2, (-1, self.config.patch_size)).to(self.patch_projection.weight.dtype)
        return self.norm(self.patch_projection(self.patch_norm(patches)))

    def forward(self, input_values: torch.Tensor, kept_patches: torch.Tensor | None) -> torch.Tensor:
        """
        Embed recordings.

        Args:
            input_values (`torch.Tensor` of shape `(B, L, T)`):
                Recordings.
            kept_patches (`torch.LongTensor` of shape `(B, L, V)`, *optional*):
                Patches to embed, of each lead; all by default.

        Returns:
            `torch.Tensor` of shape `(B, L, V + 2, D)`.
        """
        tokens = self.embed_patches(input_values)
        left, positions, right = self.positions(tokens.shape[2], tokens.dtype)
        tokens = tokens + positions
        if kept_patches is not None:
            tokens = gather_patches(tokens, kept_patches)
        separators = [
            (self.separator + position).to(tokens.dtype).expand(*tokens.shape[:2], 1, -1) for position in (left, right)
        ]
        tokens = torch.cat((separators[0], tokens, separators[1]), dim=2)
        return tokens + self.lead_embeddings[:, None].to(tokens.dtype)


class StMemDecoder(nn.Module):
    """Reconstructs the patches of a lead from the states of its visible patches and separators."""

    def __init__(self, config: StMemConfig):
        super().__init__()
        width = config.decoder_hidden_size
        self.embed = nn.Linear(config.hidden_size, width)
        self.mask_token = nn.Parameter(torch.zeros(width))
        self.positions = StMemPositions(config, width)
        self.layers = nn.ModuleList(
            PreNormLayer(config, width, config.decoder_num_attention_heads, config.decoder_intermediate_size)
            for _ in range(config.decoder_num_hidden_layers)
        )
        self.norm = nn.LayerNorm(width, eps=DECODER_NORM_EPS)
        self.prediction = nn.Linear(width, config.patch_size)

    def forward(
        self,
        states: torch.Tensor,
        kept_patches: torch.Tensor,
        present: torch.Tensor | None,
        num_patches: int,
        **kwargs: Unpack[TransformersKwargs],
    ) -> torch.Tensor:
        """
        Predict all patches.

        Args:
            states (`torch.Tensor` of shape `(B, L, V + 2, D)`):
                Normalized states of the encoder.
            kept_patches (`torch.LongTensor` of shape `(B, L, V)`):
                Visible patches of each lead.
            present (`torch.BoolTensor` of shape `(B, L, N)`, *optional*):
                True for patches that exist; all by default.
            num_patches (`int`):
                Number of patches `N`.

        Returns:
            `torch.Tensor` of shape `(B, L, N, P)`.
        """
        tokens = self.embed(states)
        patches = self.mask_token.to(tokens.dtype).expand(*tokens.shape[:2], num_patches, -1)
        places = kept_patches[..., None].expand(-1, -1, -1, tokens.shape[3])
        patches = patches.scatter(2, places, tokens[:, :, 1:-1])
        tokens = torch.cat((tokens[:, :, :1], patches, tokens[:, :, -1:]), dim=2)
        left, positions, right = self.positions(num_patches, tokens.dtype)
        tokens = tokens + torch.cat((left[None], positions, right[None]))
        tokens = tokens.flatten(0, 1)
        mask = None
        if present is not None:
            # Separators are always attended to, so that no row is empty.
            mask = F.pad(present.flatten(0, 1), (1, 1), value=True)[:, None, None, :]
            mask = mask.expand(-1, 1, tokens.shape[1], -1)
        for layer in self.layers:
            tokens = layer(tokens, mask, **kwargs)
        return self.prediction(self.norm(tokens[:, 1:-1])).unflatten(0, states.shape[:2])


class StMemPreTrainedModel(EcgPreTrainedModel):
    """Base class of the ST-MEM models."""

    config: StMemConfig
    base_model_prefix = "st_mem"
    _no_split_modules = ["StMemEmbeddings", "PreNormLayer"]  # noqa: RUF012
    _can_compile_fullgraph = True
    _can_record_outputs = {"hidden_states": PreNormLayer, "attentions": EcgAttention}  # noqa: RUF012

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        std = self.config.initializer_range
        if isinstance(module, StMemEmbeddings):
            init.normal_(module.separator, std=std)
            init.normal_(module.lead_embeddings, std=std)
        elif isinstance(module, StMemDecoder):
            init.normal_(module.mask_token, std=std)


class StMemModel(StMemPreTrainedModel):
    """
    ST-MEM encoder: maps the patches of all leads to one state per patch, per lead and per recording.

    In its [`EcgModelOutput`], `last_hidden_state` contains, lead by lead, a separator, the patches, and a separator.
    They are not normalized: as released, the layer normalization follows the mean. `pooler_output` is the normalized
    mean over all patches that exist. `lead_states` are the means over the patches of each lead, with the normalization
    of the mean over all leads, so that their own mean is `pooler_output`. Missing leads are left out with their
    embeddings and separators.

    Example:

    ```python
    >>> import torch
    >>> from clear_hug_hf import StMemConfig, StMemModel

    >>> model = StMemModel(StMemConfig.preset("tiny")).eval()
    >>> model(torch.randn(2, 12, 2250)).pooler_output.shape
    torch.Size([2, 96])
    ```
    """

    _keys_to_ignore_on_load_unexpected = [r"^decoder\.", r"^head\.", r"^classifier\."]  # noqa: RUF012

    def __init__(self, config: StMemConfig):
        super().__init__(config)
        self.embeddings = StMemEmbeddings(config)
        self.layers = nn.ModuleList(
            PreNormLayer(config, config.hidden_size, config.num_attention_heads, config.intermediate_size)
            for _ in range(config.num_hidden_layers)
        )
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.embeddings.patch_projection

    def _normalize_leads(self, lead_states: torch.Tensor, mean: torch.Tensor) -> torch.Tensor:
        """
        Apply the layer normalization to states of leads `(B, L, D)`, with the variance of their mean `(B, D)`: a
        linear map of them, so that their mean becomes the normalized mean.
        """
        weight, bias = self.norm.weight, self.norm.bias
        states = lead_states.float()
        scale = (mean.float().var(dim=1, correction=0) + self.norm.eps).rsqrt()[:, None, None]
        centered = (states - states.mean(dim=2, keepdim=True)) * scale
        return (centered * weight + bias).to(lead_states.dtype)

    @merge_with_config_defaults
    @capture_outputs
    def forward(
        self,
        input_values: torch.Tensor,
        lead_mask: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        kept_patches: torch.Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> EcgModelOutput:
        r"""
        Args:
            input_values (`torch.Tensor` of shape `(batch_size, num_leads, num_samples)`):
                Standardized recordings from the feature extractor. There may be fewer samples than
                `config.num_samples`.
            lead_mask (`torch.Tensor` of shape `(batch_size, num_leads)`, *optional*):
                True for leads that are present; all by default. No other token attends to those of missing leads.
            attention_mask (`torch.Tensor` of shape `(batch_size, num_patches)`, *optional*):
                True for patches that the recording covers; all by default. Others are left out like missing leads.
            kept_patches (`torch.LongTensor` of shape `(batch_size, num_leads, V)`, *optional*):
                Patches of each lead to process; all by default.

        Raises:
            `ValueError`: if an input has the wrong shape.
        """
        kwargs = validate_kwargs(kwargs)  # type: ignore[assignment]
        shape = check_recordings(input_values, self.config)
        present = present_patches(shape, attention_mask, lead_mask, input_values.device)
        if kept_patches is not None:
            check_shape("kept_patches", kept_patches, (*shape[:2], None))
        tokens = self.embeddings(input_values, kept_patches)
        token_mask = pairs = None
        if present is not None:
            # A lead is present with its separators if any of its patches is.
            has_lead = present.any(dim=2, keepdim=True)
            present = present if kept_patches is None else gather_patches(present, kept_patches)
            token_mask = torch.cat((has_lead, present, has_lead), dim=2).flatten(1)
            # Missing tokens attend to themselves, too, so that no row is empty.
            diagonal = torch.eye(token_mask.shape[1], dtype=torch.bool, device=tokens.device)
            pairs = (token_mask[:, None, :] | diagonal)[:, None]
        hidden_states = to_autocast_dtype(tokens.flatten(1, 2))
        for layer in self.layers:
            hidden_states = layer(hidden_states, pairs, **kwargs)

        states = hidden_states.unflatten(1, tokens.shape[1:3])[:, :, 1:-1]
        if present is None:
            present_leads = torch.ones(shape[:2], dtype=torch.bool, device=states.device)
            means = states.mean(dim=2)
        else:
            present_leads = present.any(dim=2)
            means = masked_mean(states.flatten(0, 1), present.flatten(0, 1)).unflatten(0, shape[:2])
        mean = masked_mean(means, present_leads)
        return EcgModelOutput(
            last_hidden_state=hidden_states,
            pooler_output=self.norm(mean),
            lead_states=self._normalize_leads(means, mean),
            present_leads=present_leads,
            token_mask=token_mask,
        )


class StMemForPreTraining(StMemPreTrainedModel):
    """
    ST-MEM pre-training: the encoder reads a quarter of the patches of every lead, and a decoder reconstructs the
    others, lead by lead, each standardized.

    In training mode the masks are drawn in every call, from `seeds` if given; in evaluation mode they are fixed.
    """

    mask_counters: torch.Tensor

    def __init__(self, config: StMemConfig):
        super().__init__(config)
        self.st_mem = StMemModel(config)
        self.decoder = StMemDecoder(config)
        register_constants(self)
        self.post_init()

    def make_constants(self) -> dict[str, torch.Tensor]:
        """Counters `(L, N)` of the patches, from which masks are drawn."""
        return {"mask_counters": seeded_counters(self.config.num_leads, self.config.num_patches)}

    def _draw_noise(
        self, shape: tuple[int, int, int], seeds: torch.Tensor | None, device: torch.device
    ) -> torch.Tensor:
        if seeds is not None:
            check_shape("seeds", seeds, (shape[0],))
            seeds = seeds.to(device)
        elif self.training:
            seeds = torch.randint(MAX_SEED, (shape[0],), device=device)
        else:
            seeds = torch.zeros(shape[0], dtype=torch.long, device=device)
        return seeded_bits(seeds[:, None, None], self.mask_counters[:, : shape[2]])

    @can_return_tuple
    def forward(
        self,
        input_values: torch.Tensor,
        lead_mask: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        noise: torch.Tensor | None = None,
        seeds: torch.Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> StMemForPreTrainingOutput:
        r"""
        Args:
            input_values, lead_mask, attention_mask:
                See [`StMemModel.forward`]. Missing leads and patches are not reconstructed.
            noise (`torch.Tensor` of shape `(batch_size, num_leads, num_patches)`, *optional*):
                Order of the patches of each lead: those with the smallest noise stay visible.
            seeds (`torch.LongTensor` of shape `(batch_size,)`, *optional*):
                Seed of each recording, which determines its mask independently of device and batch, also in evaluation
                mode.

        Raises:
            `ValueError`: if an input has the wrong shape, or there are too few patches to keep one visible.
        """
        kwargs = validate_kwargs(kwargs)  # type: ignore[assignment]
        shape = check_recordings(input_values, self.config)
        num_patches = shape[2]
        num_visible = int(num_patches * (1 - self.config.mask_ratio))
        if not num_visible:
            raise ValueError(
                f"mask_ratio={self.config.mask_ratio} leaves none of {num_patches} patches per lead visible: pass "
                "longer recordings."
            )
        if noise is None:
            noise = self._draw_noise(shape, seeds, input_values.device)
        check_shape("noise", noise, shape)
        kept_patches = noise.argsort(dim=2)[:, :, :num_visible]
        masked = torch.ones(shape, dtype=torch.bool, device=input_values.device).scatter(2, kept_patches, False)

        outputs = self.st_mem(
            input_values, lead_mask=lead_mask, attention_mask=attention_mask, kept_patches=kept_patches, **kwargs
        )
        states = self.st_mem.norm(outputs.last_hidden_state).unflatten(1, (shape[1], num_visible + 2))
        present = present_patches(shape, attention_mask, lead_mask, input_values.device)
        prediction = self.decoder(states, kept_patches, present, num_patches, **kwargs)

        target = input_values.unflatten(2, (-1, self.config.patch_size)).float()
        deviation = (target.var(dim=3, keepdim=True) + TARGET_EPS).sqrt()
        target = (target - target.mean(dim=3, keepdim=True)) / deviation
        errors = (prediction.float() - target).square().mean(dim=3)
        counted = masked if present is None else masked & present
        return StMemForPreTrainingOutput(
            loss=masked_loss_mean(errors, counted),
            prediction=prediction,
            bool_masked_pos=masked,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
            loss_weight=counted.sum().float(),
        )


class StMemForSequenceClassification(StMemPreTrainedModel, EcgForSequenceClassification):
    """
    ST-MEM encoder with a linear classifier on the normalized mean of its patches, or on attention pooling of all
    tokens (`config.head_type`).

    Example:

    ```python
    >>> import torch
    >>> from clear_hug_hf import StMemConfig, StMemForSequenceClassification

    >>> config = StMemConfig.preset("tiny", id2label={0: "NORM", 1: "MI"}, label2id={"NORM": 0, "MI": 1})
    >>> model = StMemForSequenceClassification(config).eval()
    >>> model(torch.randn(2, 12, 2250)).logits.sigmoid().shape
    torch.Size([2, 2])
    ```
    """

    st_mem: StMemModel
    encoder_class = StMemModel

    @can_return_tuple
    def forward(
        self,
        input_values: torch.Tensor,
        lead_mask: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        rhythm: torch.Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> EcgClassifierOutput:
        """Classify recordings. See [`StMemModel.forward`] for the inputs and [`classify`] for labels and rhythm."""
        outputs = self.st_mem(input_values, lead_mask=lead_mask, attention_mask=attention_mask, **kwargs)
        return self.classify(outputs, labels, rhythm, **kwargs)


__all__ = [
    "StMemForPreTraining",
    "StMemForPreTrainingOutput",
    "StMemForSequenceClassification",
    "StMemModel",
    "StMemPreTrainedModel",
]
