"""
CRT models (Zhang et al., "Self-Supervised Time Series Representation Learning via Cross Reconstruction Transformer",
IEEE TNNLS 2023, arXiv 2205.09928).

A recording is read in three domains: its samples, and the magnitude and phase of its spectrum. A patch of all leads in
one domain is one token. Pre-training drops patches, the same ones of magnitude and phase; the encoder reads only the
others, and a decoder reconstructs all patches of all domains, so that it must infer each domain from the others.

Differences from the paper and the released code:

- The spectrum is computed by the model. Magnitudes are logarithmic and each domain is standardized unless the config
  selects the raw form. The phase is an angle from -pi to pi, and zero where the magnitude is negligible, whereas the
  arctangent of the paper is undefined there.
- By default the patch encoders normalize each patch by itself (`config.patch_norm`).
- Each recording has its own dropped patches, where the released code draws them once per batch.
- All patches are predicted from the states of the decoder. In the released code, visible ones are predicted from those
  of the encoder.
- Missing leads and the time behind the end of a recording are zero and are not reconstructed. Patches of that time are
  not read.
- Positions, domain embeddings and learned tokens start as small as the weights, where the released ones start with
  unit variance. In fine-tuning, the released code adds domain embeddings along the batch; here the encoder is the same
  in pre-training and fine-tuning. There is no dropout of the tokens in either.

Shapes: `B` recordings, `L` leads, `T` samples per lead, `P` samples or frequencies per patch, `N` patches in time and
as many in magnitude and phase together, `V` visible patches, `D` hidden size. Tokens are in the order: class token and
patches of time, class token and patches of magnitude, class token and patches of phase.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from transformers import initialization as init
from transformers.processing_utils import Unpack
from transformers.utils import ModelOutput, TransformersKwargs
from transformers.utils.generic import can_return_tuple, merge_with_config_defaults
from transformers.utils.output_capturing import capture_outputs

from .configuration_crt import CrtConfig
from .modeling_ecg import (
    EcgAttention,
    EcgClassifierOutput,
    EcgForSequenceClassification,
    EcgModelOutput,
    EcgPreTrainedModel,
    PreNormLayer,
    check_shape,
    presence_mask,
    register_constants,
    seeded_bits,
    seeded_counters,
    to_autocast_dtype,
    validate_kwargs,
)


NUM_DOMAINS = 3
"""Time, magnitude and phase."""
MAX_SEED = 2**62
NEGLIGIBLE = 1e-3
"""
Magnitude, relative to the largest one of the recording, below which the phase is that of noise or of rounding errors.
"""
STANDARDIZATION_EPS = 1e-6
"""Added to the variance of a domain when it is standardized."""


@dataclass
class CrtModelOutput(EcgModelOutput):
    """
    Output of [`CrtModel`].

    Args:
        extract_features (`torch.FloatTensor` of shape `(batch_size, num_visible, hidden_size)`):
            Tokens of the patches from the patch encoders, without positions.
        last_hidden_state, pooler_output, lead_states, hidden_states, attentions, present_leads, token_mask:
            See [`EcgModelOutput`].
    """

    extract_features: torch.Tensor | None = None


@dataclass
class CrtForPreTrainingOutput(ModelOutput):
    """
    Output of [`CrtForPreTraining`].

    Args:
        loss (`torch.FloatTensor` of shape `()`):
            Mean over the recordings of the reconstruction error and the weighted instance discrimination loss.
        prediction (`torch.FloatTensor` of shape `(batch_size, num_patches, num_leads, patch_size)`):
            Predicted patches of time, magnitude and phase.
        bool_masked_pos (`torch.BoolTensor` of shape `(batch_size, num_patches)`):
            True for dropped patches.
        reconstruction_loss, discrimination_loss (`torch.FloatTensor` of shape `()`):
            The two losses before weighting: the mean squared error of all patches that were recorded, dropped ones and
            others, and [`discrimination_loss`].
        hidden_states, attentions (`tuple(torch.FloatTensor)`, *optional*):
            States and attention weights of the encoder, of visible patches and class tokens, see [`EcgModelOutput`].
        loss_weight (`torch.FloatTensor` of shape `()`):
            Number of recordings, by which the losses of parts of a batch are weighted.
    """

    loss: torch.Tensor | None = None
    prediction: torch.Tensor | None = None
    bool_masked_pos: torch.Tensor | None = None
    reconstruction_loss: torch.Tensor | None = None
    discrimination_loss: torch.Tensor | None = None
    hidden_states: tuple[torch.Tensor, ...] | None = None
    attentions: tuple[torch.Tensor, ...] | None = None
    loss_weight: torch.Tensor | None = None


def fourier_transform(signals: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Real and imaginary part of the discrete Fourier transform of signals `(..., T)`, each `(..., T / 2 or more)`."""
    if torch.compiler.is_exporting():
        return matrix_fourier_transform(signals)
    parts = torch.view_as_real(torch.fft.rfft(signals))
    return parts[..., 0], parts[..., 1]


def matrix_fourier_transform(signals: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """
    Real and imaginary part of the discrete Fourier transform of signals `(..., T)`, each `(..., T)`, by two products
    with small matrices (Cooley and Tukey, 1965): exported models run where Fourier transforms are missing or inexact.
    """
    length = signals.shape[-1]
    rows = max(divisor for divisor in range(1, math.isqrt(length) + 1) if length % divisor == 0)
    columns = length // rows

    def waves(first: int, second: int, period: int) -> tuple[torch.Tensor, torch.Tensor]:
        numbers = [torch.arange(count, device=signals.device) for count in (first, second)]
        # Products are reduced as integers: large angles would be inexact.
        angles = (numbers[0][:, None] * numbers[1] % period).to(signals.dtype) * (2 * math.pi / period)
        return angles.cos(), -angles.sin()

    # Sample `columns a + b` and frequency `c + rows d`: first the sum over `a`, then that over `b`.
    samples = signals.unflatten(-1, (rows, columns))
    real, imaginary = (wave @ samples for wave in waves(rows, rows, rows))
    for (cosine, sine), multiply in (
        (waves(rows, columns, length), torch.mul),
        (waves(columns, columns, columns), torch.matmul),
    ):
        real, imaginary = (
            multiply(real, cosine) - multiply(imaginary, sine),
            multiply(real, sine) + multiply(imaginary, cosine),
        )
    return real.transpose(-1, -2).flatten(-2), imaginary.transpose(-1, -2).flatten(-2)


def spectrum(signals: torch.Tensor, magnitude_scale: str = "log") -> tuple[torch.Tensor, torch.Tensor]:
    """
    Magnitude and phase of the first half of the discrete Fourier transform, without the Nyquist frequency.

    Args:
        signals (`torch.FloatTensor` of shape `(B, L, T)`):
            Recordings.
        magnitude_scale (`str`, *optional*, defaults to `"log"`):
            `"log"` for the logarithm of one plus the magnitude, or `"raw"` for the magnitude.

    Returns:
        `tuple[torch.FloatTensor, torch.FloatTensor]`: Magnitude and phase [rad], each `(B, L, T / 2)`.
    """
    real, imaginary = (part[..., : signals.shape[-1] // 2] for part in fourier_transform(signals))
    imaginary = F.pad(imaginary[..., 1:], (1, 0))  # that of the mean is zero, not what rounding leaves
    magnitude = (real.square() + imaginary.square()).sqrt()
    negligible = magnitude <= NEGLIGIBLE * magnitude.amax(dim=(1, 2), keepdim=True)
    phase = torch.atan2(imaginary, real).masked_fill(negligible, 0.0)
    return magnitude.log1p() if magnitude_scale == "log" else magnitude, phase


def standardize(values: torch.Tensor, present: torch.Tensor) -> torch.Tensor:
    """
    Standardize values `(B, L, X)` of each recording where the mask `present` `(B, L, X or 1)` is True, all leads
    together; others are set to zero.
    """
    weights = present.to(values.dtype).expand_as(values)
    count = weights.sum(dim=(1, 2), keepdim=True).clamp(min=1)
    centered = (values - (values * weights).sum(dim=(1, 2), keepdim=True) / count) * weights
    variance = centered.square().sum(dim=(1, 2), keepdim=True) / count
    return centered * (variance + STANDARDIZATION_EPS).rsqrt()


def discrimination_loss(
    tokens: torch.Tensor, states: torch.Tensor, present: torch.Tensor | None = None
) -> torch.Tensor:
    """
    Instance discrimination of Zhang et al.: the logarithm of the sum of the exponentiated cosine similarities of each
    patch's token before the encoder to all other patches' states behind it, which pushes patches of a recording apart.

    Args:
        tokens, states (`torch.FloatTensor` of shape `(B, V, D)`):
            Projected tokens before the encoder, and states behind it.
        present (`torch.BoolTensor` of shape `(B, V)`, *optional*):
            True for patches with signal. Others do not count.

    Returns:
        `torch.FloatTensor` of shape `(B,)`.
    """
    cosines = F.normalize(tokens.float(), dim=2) @ F.normalize(states.float(), dim=2).transpose(1, 2)
    left_out = torch.eye(cosines.shape[1], dtype=torch.bool, device=cosines.device)
    if present is not None:
        left_out = left_out | ~(present[:, :, None] & present[:, None])
    return cosines.masked_fill(left_out, float("-inf")).flatten(1).logsumexp(dim=1)


def split_domains(tokens: torch.Tensor, counts: Sequence[int]) -> Sequence[torch.Tensor]:
    """Split tokens `(B, S, ...)` into those of time, magnitude and phase: a class token and `counts` patches each."""
    return tokens.split([1 + count for count in counts], dim=1)


def gather_rows(values: torch.Tensor, indices: torch.Tensor) -> torch.Tensor:
    """Select the rows `indices` `(B, V)` of values `(B, N, ...)`."""
    places = indices.view(*indices.shape, *(1,) * (values.ndim - 2)).expand(-1, -1, *values.shape[2:])
    return values.gather(1, places)


def recorded_samples(
    input_values: torch.Tensor,
    lead_mask: torch.Tensor | None,
    attention_mask: torch.Tensor | None,
    config: CrtConfig,
) -> torch.Tensor:
    """Check the shapes of recordings and masks, and return a mask `(B, L, T)` of the samples that were recorded."""
    if input_values.ndim != 3 or input_values.shape[1:] != (config.num_leads, config.num_samples):
        raise ValueError(
            f"input_values must have shape (batch_size, {config.num_leads} leads, {config.num_samples} samples), got "
            f"{tuple(input_values.shape)}: use the feature extractor of the model."
        )
    return presence_mask(tuple(input_values.shape), attention_mask, lead_mask, input_values.device)


def present_tokens(recorded: torch.Tensor, config: CrtConfig, kept_time: torch.Tensor | None) -> torch.Tensor:
    """
    Mask `(B, S)` of all tokens except patches of time without a sample in the mask `recorded` `(B, L, T)`. With
    `kept_time` `(B, V')`, only these patches of time, and as many of the spectrum, have tokens.
    """
    present = recorded.any(dim=1).unflatten(1, (-1, config.patch_size)).any(dim=2)
    others = config.num_patches[1]
    if kept_time is not None:
        others = others - (present.shape[1] - kept_time.shape[1]) // 2
        present = present.gather(1, kept_time)
    return F.pad(F.pad(present, (1, 0), value=True), (0, 2 * (1 + others)), value=True)


def pair_mask(token_mask: torch.Tensor | None) -> torch.Tensor | None:
    """Attention mask `(B, 1, S, S)` in which all tokens attend to those of the mask `(B, S)`."""
    return None if token_mask is None else token_mask[:, None, None, :].expand(-1, 1, token_mask.shape[1], -1)


class CrtPatchBlock(nn.Module):
    """
    Residual block of two convolutions. With `patch_norm="group"`, shortcuts are not normalized, since the amplitude of
    a patch would be lost; with `"batch"`, they are, as released.
    """

    def __init__(self, config: CrtConfig, in_channels: int, out_channels: int, stride: int):
        super().__init__()
        self.conv1 = nn.Conv1d(in_channels, out_channels, 3, stride=stride, padding=1, bias=False)
        self.norm1 = make_norm(config, out_channels)
        self.conv2 = nn.Conv1d(out_channels, out_channels, 3, padding=1, bias=False)
        self.norm2 = make_norm(config, out_channels)
        self.shortcut: nn.Module = nn.Identity()
        if stride > 1 or in_channels != out_channels:
            convolution = nn.Conv1d(in_channels, out_channels, 1, stride=stride, bias=False)
            self.shortcut = nn.Sequential(convolution, make_norm(config, out_channels, is_branch=False))

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        """Map states `(X, C, S)` to `(X, C', ceil(S / stride))`."""
        branch = self.norm2(self.conv2(F.relu(self.norm1(self.conv1(states)))))
        return F.relu(branch + self.shortcut(states))


def make_norm(config: CrtConfig, channels: int, is_branch: bool = True) -> nn.Module:
    """Normalization of a residual branch, or of the path beside it, in a patch encoder."""
    if config.patch_norm == "batch":
        return nn.BatchNorm1d(channels)
    return nn.GroupNorm(1, channels) if is_branch else nn.Identity()


class CrtPatchEncoder(nn.Module):
    """Encodes patches of one domain, all leads together, by a small residual network and the mean over the patch."""

    def __init__(self, config: CrtConfig):
        super().__init__()
        channels = config.stage_channels
        self.stem = nn.Conv1d(config.num_leads, channels[0], 3, stride=2, padding=1, bias=False)
        self.norm = make_norm(config, channels[0], is_branch=False)
        blocks: list[nn.Module] = []
        for index, width in enumerate(channels):
            for depth in range(config.stage_depth):
                is_first = index > 0 and depth == 0
                blocks.append(CrtPatchBlock(config, channels[index - is_first], width, 2 if is_first else 1))
        self.blocks = nn.ModuleList(blocks)

    def forward(self, patches: torch.Tensor) -> torch.Tensor:
        """Map patches `(B, V, L, P)` to tokens `(B, V, D)`."""
        states = F.relu(self.norm(self.stem(patches.flatten(0, 1))))
        states = F.max_pool1d(states, 3, stride=2, padding=1)
        for block in self.blocks:
            states = block(states)
        return states.mean(dim=2).unflatten(0, patches.shape[:2])


class CrtEmbeddings(nn.Module):
    """Tokens of the patches of all domains, each behind the class token of its domain."""

    def __init__(self, config: CrtConfig):
        super().__init__()
        self.config = config
        self.patch_encoders = nn.ModuleList(CrtPatchEncoder(config) for _ in range(NUM_DOMAINS))
        self.class_tokens = nn.Parameter(torch.zeros(NUM_DOMAINS, config.hidden_size))
        self.domain_embeddings = nn.Parameter(torch.zeros(NUM_DOMAINS, config.hidden_size))
        self.position_embeddings = nn.Parameter(torch.zeros(NUM_DOMAINS + sum(config.num_patches), config.hidden_size))

    @torch.no_grad()
    def split_patches(self, input_values: torch.Tensor, recorded: torch.Tensor) -> list[torch.Tensor]:
        """
        Split recordings `(B, L, T)` into patches of time, magnitude and phase, each `(B, N, L, P)` in float32. Samples
        are read where the mask `recorded` `(B, L, T)` is True.
        """
        signals = input_values.float().masked_fill(~recorded, 0.0)
        domains = [signals, *spectrum(signals, self.config.magnitude_scale)]
        if self.config.standardize_domains:
            leads = recorded.any(dim=2, keepdim=True)
            masks = (recorded, leads, leads)
            domains = [standardize(values, mask) for values, mask in zip(domains, masks, strict=True)]
        return [self.to_patches(values) for values in domains]

    def to_patches(self, values: torch.Tensor) -> torch.Tensor:
        """Rearrange values `(B, L, X)` of one domain to patches `(B, X / P, L, P)`."""
        return values.unflatten(2, (-1, self.config.patch_size)).transpose(1, 2)

    def forward(
        self, domains: list[torch.Tensor], kept_patches: tuple[torch.Tensor, torch.Tensor] | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """
        Embed patches.

        Args:
            domains (`list[torch.Tensor]`):
                Patches of time, magnitude and phase.
            kept_patches (`tuple[torch.LongTensor, torch.LongTensor]`, *optional*):
                Patches to embed, of time `(B, V')` and of the spectrum `(B, V'')`; all by default.

        Returns:
            `tuple[torch.Tensor, torch.Tensor]`: Tokens of patches and class tokens `(B, V + 3, D)`, and those of the
            patches without positions `(B, V, D)`.
        """
        positions = split_domains(self.position_embeddings[None], self.config.num_patches)
        dtype = self.class_tokens.dtype
        tokens, features = [], []
        for index, (patches, encoder) in enumerate(zip(domains, self.patch_encoders, strict=True)):
            class_position = positions[index][:, :1]
            patch_positions = positions[index][:, 1:].expand(len(patches), -1, -1)
            if kept_patches is not None:
                kept = kept_patches[min(index, 1)]
                patches, patch_positions = gather_rows(patches, kept), gather_rows(patch_positions, kept)
            embedded = encoder(patches.to(dtype))
            features.append(embedded)
            class_token = (self.class_tokens[index] + class_position).expand(len(patches), 1, -1)
            tokens.append(
                torch.cat((class_token.to(embedded.dtype), embedded + patch_positions.to(embedded.dtype)), dim=1)
                + self.domain_embeddings[index].to(embedded.dtype)
            )
        return torch.cat(tokens, dim=1), torch.cat(features, dim=1)


class CrtDecoder(nn.Module):
    """Reconstructs all patches from the states of the visible ones and of the class tokens."""

    def __init__(self, config: CrtConfig):
        super().__init__()
        self.config = config
        width = config.hidden_size
        self.mask_tokens = nn.Parameter(torch.zeros(NUM_DOMAINS, width))
        self.position_embeddings = nn.Parameter(torch.zeros(NUM_DOMAINS + sum(config.num_patches), width))
        layers = [
            PreNormLayer(config, width, config.num_attention_heads, config.intermediate_size)
            for _ in range(config.decoder_num_hidden_layers)
        ]
        for layer in layers:
            layer.dropout.p = 0.0  # as released; the encoder has that of the config
        self.layers = nn.ModuleList(layers)
        self.predictions = nn.ModuleList(
            nn.Linear(width, config.num_leads * config.patch_size) for _ in range(NUM_DOMAINS)
        )

    def forward(
        self,
        states: torch.Tensor,
        places: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> torch.Tensor:
        """
        Predict all patches.

        Args:
            states (`torch.Tensor` of shape `(B, V + 3, D)`):
                States of the encoder.
            places (`torch.LongTensor` of shape `(B, V + 3)`):
                Places of these states among all tokens.
            attention_mask (`torch.BoolTensor` of shape `(B, 1, S, S)`, *optional*):
                True for pairs of tokens `S` that attend to each other; all by default.

        Returns:
            `torch.Tensor` of shape `(B, 2 N, L, P)`.
        """
        counts = self.config.num_patches
        masks = torch.cat([token.expand(1 + count, -1) for token, count in zip(self.mask_tokens, counts, strict=True)])
        tokens = (masks + self.position_embeddings).to(states.dtype).expand(len(states), -1, -1)
        tokens = tokens.scatter(1, places[..., None].expand_as(states), states)
        for layer in self.layers:
            tokens = layer(tokens, attention_mask, **kwargs)
        domains = split_domains(tokens, counts)
        predicted = [head(domain[:, 1:]) for head, domain in zip(self.predictions, domains, strict=True)]
        return torch.cat(predicted, dim=1).unflatten(2, (self.config.num_leads, self.config.patch_size))


class CrtPreTrainedModel(EcgPreTrainedModel):
    """Base class of the CRT models."""

    config: CrtConfig
    base_model_prefix = "crt"
    _no_split_modules = ["CrtEmbeddings", "PreNormLayer"]  # noqa: RUF012
    _can_compile_fullgraph = True
    _can_record_outputs = {"hidden_states": PreNormLayer, "attentions": EcgAttention}  # noqa: RUF012

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        std = self.config.initializer_range
        if isinstance(module, nn.Conv1d):
            init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(module, CrtEmbeddings):
            for parameter in (module.class_tokens, module.domain_embeddings, module.position_embeddings):
                init.normal_(parameter, std=std)
        elif isinstance(module, CrtDecoder):
            for parameter in (module.mask_tokens, module.position_embeddings):
                init.normal_(parameter, std=std)


class CrtModel(CrtPreTrainedModel):
    """
    CRT encoder: maps the patches of time, magnitude and phase to one state each, and to one per recording.

    In its [`CrtModelOutput`], `pooler_output` is the mean of the three class tokens, and `lead_states` `(B, 1, D)`
    contains it for all leads together. There is no normalization behind the last layer, as released.

    Example:

    ```python
    >>> import torch
    >>> from clear_hug_hf import CrtConfig, CrtModel

    >>> model = CrtModel(CrtConfig.preset("tiny")).eval()
    >>> model(torch.randn(2, 12, 1000)).pooler_output.shape
    torch.Size([2, 64])
    ```
    """

    _keys_to_ignore_on_load_unexpected = [  # noqa: RUF012
        r"^decoder\.",
        r"^(token|state)_projection\.",
        r"^num_dropped$",
        r"^head\.",
        r"^classifier\.",
    ]

    def __init__(self, config: CrtConfig):
        super().__init__(config)
        self.embeddings = CrtEmbeddings(config)
        self.layers = nn.ModuleList(
            PreNormLayer(config, config.hidden_size, config.num_attention_heads, config.intermediate_size)
            for _ in range(config.num_hidden_layers)
        )
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.embeddings.patch_encoders

    @merge_with_config_defaults
    @capture_outputs
    def forward(
        self,
        input_values: torch.Tensor,
        lead_mask: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        kept_patches: tuple[torch.Tensor, torch.Tensor] | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> CrtModelOutput:
        r"""
        Args:
            input_values (`torch.Tensor` of shape `(batch_size, num_leads, num_samples)`):
                Recordings from the feature extractor, of `config.num_samples` samples.
            lead_mask (`torch.Tensor` of shape `(batch_size, num_leads)`, *optional*):
                True for leads that are present; all by default. Missing leads are read as zeros, whatever their
                samples.
            attention_mask (`torch.Tensor` of shape `(batch_size, num_samples)`, *optional*):
                True for samples that were recorded; all by default. Others are read as zeros by the spectrum, and
                patches of time that contain only such samples are left out.
            kept_patches (`tuple[torch.LongTensor, torch.LongTensor]`, *optional*):
                Patches to process, of time `(batch_size, V')`, and of magnitude and phase `(batch_size, V'')`; all by
                default. The spectrum is that of the whole recording.

        Raises:
            `ValueError`: if an input has the wrong shape.
        """
        kwargs = validate_kwargs(kwargs)  # type: ignore[assignment]
        recorded = recorded_samples(input_values, lead_mask, attention_mask, self.config)
        tokens, features = self.embeddings(self.embeddings.split_patches(input_values, recorded), kept_patches)
        token_mask = None
        if attention_mask is not None:
            token_mask = present_tokens(recorded, self.config, None if kept_patches is None else kept_patches[0])
        pairs = pair_mask(token_mask)
        hidden_states = to_autocast_dtype(tokens)
        for layer in self.layers:
            hidden_states = layer(hidden_states, pairs, **kwargs)
        counts: Sequence[int] = self.config.num_patches
        if kept_patches is not None:
            counts = tuple(kept_patches[index].shape[1] for index in (0, 1, 1))
        class_states = [states[:, 0] for states in split_domains(hidden_states, counts)]
        pooled = torch.stack(class_states, dim=1).mean(dim=1)
        return CrtModelOutput(
            last_hidden_state=hidden_states,
            pooler_output=pooled,
            lead_states=pooled[:, None],
            present_leads=recorded.flatten(1).any(dim=1, keepdim=True),
            token_mask=token_mask,
            extract_features=features,
        )


class CrtForPreTraining(CrtPreTrainedModel):
    """
    CRT pre-training: drop patches of time, and the same ones of magnitude and phase, and reconstruct all of them.

    The dropped fraction grows with the finished fraction of the training, see `config.drop_ratio`; in evaluation mode
    it is the highest one, so that losses are comparable over the training. In training mode patches are drawn in every
    call, from `seeds` if given; in evaluation mode they are fixed.
    """

    monitors = ("reconstruction_loss", "discrimination_loss")
    patch_counters: torch.Tensor
    num_dropped: torch.Tensor

    def __init__(self, config: CrtConfig):
        super().__init__(config)
        self.crt = CrtModel(config)
        self.decoder = CrtDecoder(config)
        self.token_projection = nn.Linear(config.hidden_size, config.hidden_size)
        self.state_projection = nn.Linear(config.hidden_size, config.hidden_size)
        register_constants(self)
        # Part of checkpoints, from which a resumed run continues with the same number. The copy on the host determines
        # the shapes, since reading a device would wait for it.
        self._num_dropped = config.num_dropped(0)
        self.register_buffer("num_dropped", torch.tensor(self._num_dropped))
        self.post_init()

    def make_constants(self) -> dict[str, torch.Tensor]:
        """Counters of the patches of time and spectrum, from which dropped ones are drawn."""
        return {"patch_counters": seeded_counters(sum(self.config.num_patches[:2]))}

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, CrtForPreTraining):
            init.constant_(module.num_dropped, self.config.num_dropped(0))

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *args: Any) -> None:
        super()._load_from_state_dict(state_dict, prefix, *args)
        if f"{prefix}num_dropped" in state_dict:
            self._num_dropped = int(self.num_dropped)

    @torch.no_grad()
    def after_optimizer_step(self, progress: float) -> None:
        """
        Update the number of dropped patches.

        Args:
            progress (`float`):
                Completed fraction of the training steps, from 0 to 1.
        """
        self._num_dropped = self.config.num_dropped(progress)
        self.num_dropped.fill_(self._num_dropped)

    def _draw_patches(
        self, batch_size: int, seeds: torch.Tensor | None, device: torch.device
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Draw the patches to keep, of time `(B, V')` and of magnitude and phase `(B, V'')`, in ascending order."""
        if seeds is not None:
            check_shape("seeds", seeds, (batch_size,))
            seeds = seeds.to(device)
        elif self.training:
            seeds = torch.randint(MAX_SEED, (batch_size,), device=device)
        else:
            seeds = torch.zeros(batch_size, dtype=torch.long, device=device)
        noise = seeded_bits(seeds[:, None], self.patch_counters)
        num_dropped = self._num_dropped if self.training else self.config.num_dropped(1)
        time, frequencies = noise.split(self.config.num_patches[:2], dim=1)
        kept_time = time.argsort(dim=1)[:, 2 * num_dropped :].sort(dim=1).values
        return kept_time, frequencies.argsort(dim=1)[:, num_dropped:].sort(dim=1).values

    @can_return_tuple
    def forward(
        self,
        input_values: torch.Tensor,
        lead_mask: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        seeds: torch.Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> CrtForPreTrainingOutput:
        r"""
        Args:
            input_values, lead_mask, attention_mask:
                See [`CrtModel.forward`]. What was not recorded is not reconstructed.
            seeds (`torch.LongTensor` of shape `(batch_size,)`, *optional*):
                Seed of each recording, which determines its dropped patches independently of device and batch, also in
                evaluation mode.

        Raises:
            `ValueError`: if an input has the wrong shape.
        """
        kwargs = validate_kwargs(kwargs)  # type: ignore[assignment]
        recorded = recorded_samples(input_values, lead_mask, attention_mask, self.config)
        batch_size, device = len(input_values), input_values.device
        num_time, num_frequencies, _ = self.config.num_patches
        kept = self._draw_patches(batch_size, seeds, device)
        masks = {"lead_mask": lead_mask, "attention_mask": attention_mask}
        outputs = self.crt(input_values, **masks, kept_patches=kept, **kwargs)

        # Places among all tokens: in each domain, the class token and the visible patches.
        places, first = [], 0
        for count, patches in zip(self.config.num_patches, (kept[0], kept[1], kept[1]), strict=True):
            places += [torch.full((batch_size, 1), first, device=device), first + 1 + patches]
            first += 1 + count
        pairs = None if attention_mask is None else pair_mask(present_tokens(recorded, self.config, None))
        prediction = self.decoder(outputs.last_hidden_state, torch.cat(places, dim=1), pairs, **kwargs)
        embeddings = self.crt.embeddings
        target = torch.cat(embeddings.split_patches(input_values, recorded), dim=1)
        leads = recorded.any(dim=2, keepdim=True).expand_as(recorded)
        known = torch.cat((embeddings.to_patches(recorded), embeddings.to_patches(leads)), dim=1).float()
        errors = (prediction.float() - target).square() * known
        reconstruction = (errors.sum(dim=(1, 2, 3)) / known.sum(dim=(1, 2, 3)).clamp(min=1)).mean()

        counts = [kept[index].shape[1] for index in (0, 1, 1)]
        domains = split_domains(outputs.last_hidden_state, counts)
        states = self.state_projection(torch.cat([states[:, 1:] for states in domains], dim=1))
        tokens = self.token_projection(outputs.extract_features)
        masks_by_domain = split_domains(present_tokens(recorded, self.config, kept[0]), counts)
        present = torch.cat([mask[:, 1:] for mask in masks_by_domain], dim=1)
        discrimination = discrimination_loss(tokens, states, present).mean()
        masked = torch.ones(batch_size, num_time + num_frequencies, dtype=torch.bool, device=device)
        masked = masked.scatter(1, torch.cat((kept[0], num_time + kept[1]), dim=1), False)
        return CrtForPreTrainingOutput(
            loss=reconstruction + self.config.discrimination_weight * discrimination,
            prediction=prediction,
            bool_masked_pos=torch.cat((masked, masked[:, num_time:]), dim=1),
            reconstruction_loss=reconstruction,
            discrimination_loss=discrimination,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
            loss_weight=torch.full_like(reconstruction, batch_size),
        )


class CrtForSequenceClassification(CrtPreTrainedModel, EcgForSequenceClassification):
    """
    CRT encoder with a linear classifier on the mean of its class tokens, or on attention pooling of all tokens
    (`config.head_type`).

    Example:

    ```python
    >>> import torch
    >>> from clear_hug_hf import CrtConfig, CrtForSequenceClassification

    >>> config = CrtConfig.preset("tiny", id2label={0: "NORM", 1: "MI"}, label2id={"NORM": 0, "MI": 1})
    >>> model = CrtForSequenceClassification(config).eval()
    >>> model(torch.randn(2, 12, 1000)).logits.sigmoid().shape
    torch.Size([2, 2])
    ```
    """

    crt: CrtModel
    encoder_class = CrtModel

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
        """Classify recordings. See [`CrtModel.forward`] for the inputs and [`classify`] for labels and rhythm."""
        outputs = self.crt(input_values, lead_mask=lead_mask, attention_mask=attention_mask, **kwargs)
        return self.classify(outputs, labels, rhythm, **kwargs)


__all__ = [
    "CrtForPreTraining",
    "CrtForPreTrainingOutput",
    "CrtForSequenceClassification",
    "CrtModel",
    "CrtModelOutput",
    "CrtPreTrainedModel",
]
