"""
HeartLang models (Jin et al., "Reading Your Heart: Learning ECG Words and Sentences via Pre-training ECG Language
Model", ICLR 2025, arXiv 2502.10707).

A recording is a sentence of beats: all beats of the first lead, then those of the second, and so on, and padding up to
a fixed number. A tokenizer (VQ-HBR in the paper) learns a vocabulary of beats by vector quantization, and the encoder
learns to predict the codes of masked beats.

Shapes: `B` recordings, `N` beats of all leads with padding (`config.num_beats`), `P` samples per beat, `D` hidden
size, `C` features of a code (`config.code_dim`), `V` codes (`config.vocab_size`).
"""

import os
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import distributed, nn
from torch.nn import functional as F
from transformers import AutoConfig
from transformers import initialization as init
from transformers.processing_utils import Unpack
from transformers.utils import ModelOutput, TransformersKwargs
from transformers.utils.generic import can_return_tuple, merge_with_config_defaults
from transformers.utils.output_capturing import capture_outputs

from .configuration_heartlang import HeartLangConfig
from .modeling_ecg import (
    IGNORED_LABEL,
    EcgAttention,
    EcgClassifierOutput,
    EcgForSequenceClassification,
    EcgModelOutput,
    EcgPreTrainedModel,
    PreNormLayer,
    check_shape,
    masked_loss_mean,
    register_constants,
    seeded_bits,
    seeded_counters,
    to_autocast_dtype,
    validate_kwargs,
)


MAX_SEED = 2**62
LAST = torch.iinfo(torch.int64).max
"""Rank of what is chosen last."""
CODEBOOK_DECAY = 0.99
"""Weight of the former codes when a step moves them."""
KMEANS_ITERATIONS = 10
KMEANS_FEATURES = 16
"""Features per code from which k-means starts a codebook."""
CHUNK = 8192
"""Features whose distances k-means computes at a time."""


@dataclass
class HeartLangForPreTrainingOutput(ModelOutput):
    """
    Output of [`HeartLangForPreTraining`].

    Args:
        loss (`torch.FloatTensor` of shape `()`, *optional*, returned with `codes` or a tokenizer):
            Cross-entropy of the codes of the masked beats.
        logits (`torch.FloatTensor` of shape `(batch_size, num_beats, vocab_size)`):
            Scores of the codes of every beat.
        bool_masked_pos (`torch.BoolTensor` of shape `(batch_size, num_beats)`):
            True for masked beats.
        hidden_states, attentions (`tuple(torch.FloatTensor)`, *optional*):
            See [`EcgModelOutput`].
        loss_weight (`torch.FloatTensor` of shape `()`, *optional*, returned with `loss`):
            Number of masked beats that `loss` averages, by which micro-batches of one step are weighted.
        accuracy (`torch.FloatTensor` of shape `()`, *optional*, returned with `loss`):
            Fraction of these beats whose code has the highest score.
    """

    loss: torch.Tensor | None = None
    logits: torch.Tensor | None = None
    bool_masked_pos: torch.Tensor | None = None
    hidden_states: tuple[torch.Tensor, ...] | None = None
    attentions: tuple[torch.Tensor, ...] | None = None
    loss_weight: torch.Tensor | None = None
    accuracy: torch.Tensor | None = None


@dataclass
class HeartLangTokenizerOutput(ModelOutput):
    """
    Output of [`HeartLangTokenizerModel`].

    Args:
        loss (`torch.FloatTensor` of shape `()`):
            Mean squared error of the reconstruction plus `commitment_loss`.
        reconstruction (`torch.FloatTensor` of shape `(batch_size, num_beats, beat_length)`):
            Beats reconstructed from their codes.
        codes (`torch.LongTensor` of shape `(batch_size, num_beats)`):
            Code of every beat, padding included.
        quantized (`torch.FloatTensor` of shape `(batch_size, num_beats, code_dim)`):
            Vectors of the codes.
        commitment_loss (`torch.FloatTensor` of shape `()`):
            Mean squared difference between the features of the beats and the vectors of their codes.
        loss_weight (`torch.FloatTensor` of shape `()`):
            Number of beats that `loss` averages, by which micro-batches of one step are weighted.
        perplexity (`torch.FloatTensor` of shape `()`):
            Exponential of the entropy of the codes of these beats: the number of codes in use, if all were used
            equally.
    """

    loss: torch.Tensor | None = None
    reconstruction: torch.Tensor | None = None
    codes: torch.Tensor | None = None
    quantized: torch.Tensor | None = None
    commitment_loss: torch.Tensor | None = None
    loss_weight: torch.Tensor | None = None
    perplexity: torch.Tensor | None = None


def check_beats(input_values: torch.Tensor, config: HeartLangConfig) -> None:
    """Check that the beats have the shape `(batch_size, config.num_beats, config.beat_length)`."""
    check_shape("input_values", input_values, (None, config.num_beats, config.beat_length))


def find_beats(input_values: torch.Tensor, lead_ids: torch.Tensor | None, config: HeartLangConfig) -> torch.Tensor:
    """
    True `(B, N)` for what pre-training counts as beats: all that belong to a lead, or without `lead_ids` all that are
    not zero; padding as well with `config.released_pretraining`.
    """
    if lead_ids is not None:
        check_shape("lead_ids", lead_ids, tuple(input_values.shape[:2]))
    if config.released_pretraining:
        return torch.ones(input_values.shape[:2], dtype=torch.bool, device=input_values.device)
    return (input_values != 0).any(dim=2) if lead_ids is None else lead_ids > 0


def sum_by_code(codes: torch.Tensor, features: torch.Tensor, num_codes: int) -> torch.Tensor:
    """Sum `(V, C)` of the features `(X, C)` of each code `(X,)`, in the same order every time on every device."""
    is_code = codes[:, None] == torch.arange(num_codes, device=codes.device)
    return is_code.to(features.dtype).T @ features


def without_autocast(device: torch.device) -> AbstractContextManager:
    """Context manager that disables autocast. The meta device has none."""
    return nullcontext() if device.type == "meta" else torch.autocast(device.type, enabled=False)


class HeartLangEmbeddings(nn.Module):
    """Embeds beats, or vectors of codes, of `num_features` values each."""

    def __init__(self, config: HeartLangConfig, num_features: int):
        super().__init__()
        width = config.hidden_size
        # Mixes each beat with the one before and the one after it, and the last beat with the first, as released.
        self.beat_projection = nn.Conv1d(num_features, width, 3, padding=1, padding_mode="circular", bias=False)
        self.cls_token = nn.Parameter(torch.zeros(width))
        self.position_embeddings = nn.Parameter(torch.zeros(1, 1 + config.num_beats, width))
        self.lead_embeddings = nn.Embedding(config.num_lead_embeddings, width)
        self.time_embeddings = nn.Embedding(config.num_time_embeddings, width)

    def project(self, beats: torch.Tensor) -> torch.Tensor:
        """Project beats `(B, N, num_features)` to `(B, N, D)`."""
        beats = beats.to(self.beat_projection.weight.dtype)
        return self.beat_projection(beats.transpose(1, 2)).transpose(1, 2)

    def forward(
        self, tokens: torch.Tensor, lead_ids: torch.Tensor | None, time_ids: torch.Tensor | None
    ) -> torch.Tensor:
        """Add leads, times and positions to projected beats `(B, N, D)`, behind the class token: `(B, 1 + N, D)`."""
        for name, ids, table in (
            ("lead_ids", lead_ids, self.lead_embeddings),
            ("time_ids", time_ids, self.time_embeddings),
        ):
            if ids is not None:
                check_shape(name, ids, tuple(tokens.shape[:2]))
                tokens = tokens + table(ids.long())
        class_token = self.cls_token.to(tokens.dtype).expand(len(tokens), 1, -1)
        return torch.cat((class_token, tokens), dim=1) + self.position_embeddings


def make_layers(config: HeartLangConfig, num_layers: int) -> nn.ModuleList:
    """Pre-norm layers. Every token attends to all tokens, padding included, as released."""
    return nn.ModuleList(
        PreNormLayer(config, config.hidden_size, config.num_attention_heads, config.intermediate_size)
        for _ in range(num_layers)
    )


class HeartLangTower(nn.Module):
    """Encoder or decoder of the tokenizer: maps beats or codes `(B, N, num_features)` to states `(B, N, D)`."""

    def __init__(self, config: HeartLangConfig, num_features: int, num_layers: int):
        super().__init__()
        self.embeddings = HeartLangEmbeddings(config, num_features)
        self.layers = make_layers(config, num_layers)
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    def forward(
        self,
        values: torch.Tensor,
        lead_ids: torch.Tensor | None,
        time_ids: torch.Tensor | None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> torch.Tensor:
        hidden_states = to_autocast_dtype(self.embeddings(self.embeddings.project(values), lead_ids, time_ids))
        for layer in self.layers:
            hidden_states = layer(hidden_states, **kwargs)
        return self.norm(hidden_states)[:, 1:]


class HeartLangCodebook(nn.Module):
    """
    Vectors of the codes, of unit length. They do not learn by gradients: after each training step, every code that the
    step used moves toward the mean of its features, as an exponential moving average (van den Oord et al., "Neural
    Discrete Representation Learning", NeurIPS 2017), and returns to unit length.

    A new codebook is empty: all zeros. The first step fills it by spherical k-means of its features. Codes that are
    not used keep their vectors, as in the released code, which fills the codebook before the first step instead, in
    each process by itself.
    """

    weight: nn.Parameter
    counts: torch.Tensor
    sums: torch.Tensor

    def __init__(self, config: HeartLangConfig):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(config.vocab_size, config.code_dim), requires_grad=False)
        # Until a step ends, the codebook may be empty, and features are kept with a random rank.
        self.may_be_empty = True
        self.sample: tuple[torch.Tensor, torch.Tensor] | None = None
        register_constants(self)

    def make_constants(self) -> dict[str, torch.Tensor]:
        """Uses `(V,)` of the codes in a step, and sums `(V, C)` of the features that used them; zero between steps."""
        return {
            "counts": torch.zeros(len(self.weight), device="cpu"),
            "sums": torch.zeros(*self.weight.shape, device="cpu"),
        }

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Index `(B, N)` of the nearest code of each feature vector `(B, N, C)`."""
        weight = self.weight.to(features.dtype)
        return (weight.square().sum(dim=1) - 2 * features @ weight.T).argmin(dim=2)

    def count(self, codes: torch.Tensor, counted: torch.Tensor) -> torch.Tensor:
        """Uses `(V,)` of the codes `(B, N)` where `counted` is True."""
        return torch.zeros_like(self.counts).index_add_(0, codes.flatten(), counted.flatten().to(self.counts.dtype))

    @torch.no_grad()
    def observe(
        self,
        features: torch.Tensor,
        codes: torch.Tensor,
        counted: torch.Tensor,
        counts: torch.Tensor,
        seeds: torch.Tensor | None,
    ) -> None:
        """
        Note a part of a step.

        Args:
            features (`torch.Tensor` of shape `(B, N, C)`):
                Features of beats.
            codes (`torch.LongTensor` of shape `(B, N)`):
                Their codes.
            counted (`torch.BoolTensor` of shape `(B, N)`):
                False for what is ignored.
            counts (`torch.Tensor` of shape `(V,)`):
                See [`count`].
            seeds (`torch.LongTensor` of shape `(B,)`, *optional*):
                Seeds from which features are chosen for k-means; drawn by default.
        """
        features = features.to(self.sums.dtype)
        with without_autocast(features.device):
            masked = features.masked_fill(~counted[..., None], 0.0)
            self.sums += sum_by_code(codes.flatten(), masked.flatten(0, 1), len(self.weight))
        self.counts += counts
        if self.may_be_empty:
            if seeds is None:
                seeds = torch.randint(MAX_SEED, codes.shape[:1], device=codes.device)
            counters = seeded_counters(codes.shape[1], device=codes.device)
            ranks = seeded_bits(seeds.to(codes.device)[:, None], counters).masked_fill(~counted, LAST)
            self.sample = self._choose([self.sample, (ranks.flatten(), features.flatten(0, 1))])

    def _choose(
        self, samples: Sequence[tuple[torch.Tensor, torch.Tensor] | None]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The features with the lowest ranks, in their order, of several samples."""
        ranks, features = (torch.cat(parts) for parts in zip(*filter(None, samples), strict=True))
        kept = ranks.topk(min(len(ranks), KMEANS_FEATURES * len(self.weight)), largest=False, sorted=True)
        return kept.values, features[kept.indices]

    @torch.no_grad()
    def update(self) -> None:
        """Move the codes by the step that was observed. All processes call this, and add up their parts of it."""
        in_parallel = distributed.is_available() and distributed.is_initialized()
        if in_parallel:
            for total in (self.counts, self.sums):
                distributed.all_reduce(total)
        # A sharded weight is gathered, and distributed again.
        stored: Any = self.weight
        weight: torch.Tensor = stored.full_tensor() if hasattr(stored, "full_tensor") else stored
        if self.may_be_empty and not weight.any():
            weight = self._start(in_parallel)
            self.may_be_empty = not weight.any()  # as after a step without beats
        else:
            self.may_be_empty = False
            moved = F.normalize(weight.lerp(F.normalize(self.sums, dim=1).to(weight.dtype), 1 - CODEBOOK_DECAY), dim=1)
            weight = torch.where(self.counts[:, None] > 0, moved, weight)
        self.sample = None
        for total in (self.counts, self.sums):
            total.zero_()
        if hasattr(stored, "full_tensor"):
            from torch.distributed.tensor import distribute_tensor

            weight = distribute_tensor(weight, stored.device_mesh, stored.placements)
        stored.copy_(weight)

    def _start(self, in_parallel: bool) -> torch.Tensor:
        """Spherical k-means of a sample of the features, from those of the lowest ranks: `(V, C)`."""
        assert self.sample is not None
        samples: list[Any] = [self.sample]
        if in_parallel:
            gathered = []
            for part in self.sample:
                copies = [torch.empty_like(part) for _ in range(distributed.get_world_size())]
                distributed.all_gather(copies, part)
                gathered.append(copies)
            samples = list(zip(*gathered, strict=True))
        ranks, features = self._choose(samples)
        features = features[ranks < LAST]
        centers = torch.zeros_like(self.sums)
        if not len(features):
            return centers
        # Of equal centers, only the first is used.
        centers = features[torch.arange(len(centers), device=features.device) % len(features)]
        for _ in range(KMEANS_ITERATIONS):
            sums = torch.zeros_like(centers)
            for part in features.split(CHUNK):
                sums += sum_by_code((part @ centers.T).argmax(dim=1), part, len(centers))
            used = sums.any(dim=1, keepdim=True)
            centers = torch.where(used, F.normalize(sums, dim=1), centers)
        return centers


class HeartLangPreTrainedModel(EcgPreTrainedModel):
    """Base class of the HeartLang models."""

    config: HeartLangConfig
    base_model_prefix = "heartlang"
    _no_split_modules = ["HeartLangEmbeddings", "PreNormLayer"]  # noqa: RUF012
    _can_compile_fullgraph = True
    _can_record_outputs = {"hidden_states": PreNormLayer, "attentions": EcgAttention}  # noqa: RUF012

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        std = self.config.initializer_range
        if isinstance(module, HeartLangEmbeddings):
            init.normal_(module.cls_token, std=std)
            init.normal_(module.position_embeddings, std=std)
        elif isinstance(module, HeartLangCodebook):
            init.zeros_(module.weight)
        elif isinstance(module, HeartLangForPreTraining):
            init.normal_(module.mask_token, std=std)


class HeartLangModel(HeartLangPreTrainedModel):
    """
    HeartLang encoder: maps the beats of all leads to one state per beat and one class token.

    In its [`EcgModelOutput`], `last_hidden_state` contains the class token followed by the beats. `pooler_output` is
    the class token. The leads share it, so that `lead_states` has one entry for all of them.

    Example:

    ```python
    >>> import torch
    >>> from clear_hug_hf import HeartLangConfig, HeartLangModel

    >>> model = HeartLangModel(HeartLangConfig.preset("tiny")).eval()
    >>> model(torch.randn(2, 256, 96)).pooler_output.shape
    torch.Size([2, 96])
    ```
    """

    _keys_to_ignore_on_load_unexpected = [  # noqa: RUF012
        r"^mask_token$",
        r"^code_head\.",
        r"^tokenizer\.",
        r"^head\.",
        r"^classifier\.",
    ]

    def __init__(self, config: HeartLangConfig):
        super().__init__(config)
        self.embeddings = HeartLangEmbeddings(config, config.beat_length)
        self.layers = make_layers(config, config.num_hidden_layers)
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.embeddings.beat_projection

    @merge_with_config_defaults
    @capture_outputs
    def forward(
        self,
        input_values: torch.Tensor,
        lead_ids: torch.Tensor | None = None,
        time_ids: torch.Tensor | None = None,
        beat_embeddings: torch.Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> EcgModelOutput:
        r"""
        Args:
            input_values (`torch.Tensor` of shape `(batch_size, num_beats, beat_length)`):
                Beats of all leads from the feature extractor, lead by lead, and zeros behind the last one. Zeros are
                attended to, as they were in pre-training.
            lead_ids (`torch.LongTensor` of shape `(batch_size, num_beats)`, *optional*):
                Index of the lead of each beat plus one, 0 for padding. Without it, no lead embeddings are added.
            time_ids (`torch.LongTensor` of shape `(batch_size, num_beats)`, *optional*):
                One-based second of the recording that contains each beat, 0 for padding. Without it, no time
                embeddings are added.
            beat_embeddings (`torch.Tensor` of shape `(batch_size, num_beats, hidden_size)`, *optional*):
                Used instead of the projected beats, see [`HeartLangEmbeddings.project`].

        Raises:
            `ValueError`: if an input has the wrong shape.
        """
        kwargs = validate_kwargs(kwargs)  # type: ignore[assignment]
        check_beats(input_values, self.config)
        if beat_embeddings is None:
            beat_embeddings = self.embeddings.project(input_values)
        check_shape("beat_embeddings", beat_embeddings, (*input_values.shape[:2], self.config.hidden_size))
        hidden_states = to_autocast_dtype(self.embeddings(beat_embeddings, lead_ids, time_ids))
        for layer in self.layers:
            hidden_states = layer(hidden_states, **kwargs)
        hidden_states = self.norm(hidden_states)
        lead_states = hidden_states[:, :1]
        # The class token is always present.
        token_mask = None if lead_ids is None else F.pad(lead_ids > 0, (1, 0), value=True)
        return EcgModelOutput(
            last_hidden_state=hidden_states,
            pooler_output=lead_states[:, 0],
            lead_states=lead_states,
            present_leads=torch.ones(lead_states.shape[:2], dtype=torch.bool, device=lead_states.device),
            token_mask=token_mask,
        )


class HeartLangForPreTraining(HeartLangPreTrainedModel):
    """
    HeartLang encoder with a linear head that predicts the codes of masked beats.

    The codes are those of a frozen [`HeartLangTokenizerModel`], which is part of the model if the config has a
    `tokenizer_config` (see [`from_tokenizer`]), or an input. In training mode the mask is drawn in every call, from
    `seeds` if given; in evaluation mode it is fixed.

    Half of the beats of every recording (`config.mask_ratio`) is masked, and nothing is left of them. Pre-training in
    the released code differs in three ways, which `config.released_pretraining` selects: padding is masked and its
    codes are predicted, too; the convolution that embeds beats still shows masked ones to their neighbors; and the
    tokenizer computes the codes without `lead_ids` and `time_ids`, although it was trained with both.
    """

    # Logged by the training loop in addition to the loss.
    monitors = ("accuracy",)

    mask_counters: torch.Tensor

    def __init__(self, config: HeartLangConfig):
        super().__init__(config)
        self.heartlang = HeartLangModel(config)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, config.hidden_size))
        self.code_head = nn.Linear(config.hidden_size, config.vocab_size)
        self.tokenizer = None if config.tokenizer_config is None else HeartLangTokenizerModel(config.tokenizer_config)
        register_constants(self)
        self.post_init()
        self.train(self.training)

    @classmethod
    def from_tokenizer(cls, config: HeartLangConfig, tokenizer: str | os.PathLike[str]) -> "HeartLangForPreTraining":
        """
        Build a randomly initialized model with a trained tokenizer.

        Args:
            config ([`HeartLangConfig`]):
                Configuration of the encoder. Its `vocab_size` becomes that of the tokenizer.
            tokenizer (`str` or `os.PathLike`):
                Name or folder of a [`HeartLangTokenizerModel`].

        Raises:
            `ValueError`: if there is no trained tokenizer, or it reads other beats than the encoder.
        """
        problem = f"{tokenizer} does not contain a trained tokenizer of HeartLang."
        if not isinstance(AutoConfig.from_pretrained(tokenizer), HeartLangConfig):
            raise ValueError(problem)
        loading: Any = HeartLangTokenizerModel.from_pretrained(tokenizer, output_loading_info=True)
        loaded, report = loading
        if report["missing_keys"] or not loaded.codebook.weight.any():
            raise ValueError(problem)
        fields = {name: value for name, value in config.to_dict().items() if name != "model_type"}
        codes = {"tokenizer_config": loaded.config, "vocab_size": loaded.config.vocab_size}
        model = cls(type(config)(**{**fields, **codes}))
        assert model.tokenizer is not None
        model.tokenizer.load_state_dict(loaded.state_dict())
        return model

    def train(self, mode: bool = True) -> "HeartLangForPreTraining":
        """Set the training mode. The tokenizer stays in evaluation mode, and no gradient is computed for it."""
        super().train(mode)
        if self.tokenizer is not None:
            self.tokenizer.requires_grad_(False).eval()  # loading sets `requires_grad` of all parameters
        return self

    def make_constants(self) -> dict[str, torch.Tensor]:
        """Counters `(N,)` of the beats, from which masks are drawn."""
        return {"mask_counters": seeded_counters(self.config.num_beats)}

    def _draw_mask(self, is_beat: torch.Tensor, seeds: torch.Tensor | None) -> torch.Tensor:
        batch_size, device = len(is_beat), is_beat.device
        if seeds is not None:
            check_shape("seeds", seeds, (batch_size,))
            seeds = seeds.to(device)
        elif self.training:
            seeds = torch.randint(MAX_SEED, (batch_size,), device=device)
        else:
            seeds = torch.zeros(batch_size, dtype=torch.long, device=device)
        order = seeded_bits(seeds[:, None], self.mask_counters).masked_fill(~is_beat, LAST).argsort(dim=1)
        num_masked = (self.config.mask_ratio * is_beat.sum(dim=1, keepdim=True)).long().clamp(min=1)
        return (order.argsort(dim=1) < num_masked) & is_beat

    @can_return_tuple
    def forward(
        self,
        input_values: torch.Tensor,
        lead_ids: torch.Tensor | None = None,
        time_ids: torch.Tensor | None = None,
        bool_masked_pos: torch.Tensor | None = None,
        codes: torch.Tensor | None = None,
        seeds: torch.Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> HeartLangForPreTrainingOutput:
        r"""
        Args:
            input_values, lead_ids, time_ids:
                See [`HeartLangModel.forward`].
            bool_masked_pos (`torch.BoolTensor` of shape `(batch_size, num_beats)`, *optional*):
                Beats to mask.
            codes (`torch.LongTensor` of shape `(batch_size, num_beats)`, *optional*):
                Codes to predict, -100 where unknown; by default those of the tokenizer, if there is one.
            seeds (`torch.LongTensor` of shape `(batch_size,)`, *optional*):
                Seed of each recording, which determines its mask independently of device and batch, also in evaluation
                mode.

        Raises:
            `ValueError`: if an input has the wrong shape.
        """
        kwargs = validate_kwargs(kwargs)  # type: ignore[assignment]
        check_beats(input_values, self.config)
        shape = tuple(input_values.shape[:2])
        if bool_masked_pos is None:
            bool_masked_pos = self._draw_mask(find_beats(input_values, lead_ids, self.config), seeds)
        check_shape("bool_masked_pos", bool_masked_pos, shape)
        bool_masked_pos = bool_masked_pos.bool()
        released = self.config.released_pretraining
        visible = input_values if released else input_values.masked_fill(bool_masked_pos[..., None], 0.0)
        embeddings = self.heartlang.embeddings.project(visible)
        embeddings = torch.where(bool_masked_pos[..., None], self.mask_token.to(embeddings.dtype), embeddings)
        outputs = self.heartlang(
            input_values, lead_ids=lead_ids, time_ids=time_ids, beat_embeddings=embeddings, **kwargs
        )
        logits = self.code_head(outputs.last_hidden_state[:, 1:])
        if codes is None and self.tokenizer is not None:
            with torch.no_grad():
                ids = (None, None) if released else (lead_ids, time_ids)
                _, codes = self.tokenizer.tokenize(input_values, *ids)
        loss = loss_weight = accuracy = None
        if codes is not None:
            check_shape("codes", codes, shape)
            counted = bool_masked_pos & (codes != IGNORED_LABEL)
            losses = F.cross_entropy(
                logits.float().flatten(0, 1),
                codes.long().flatten(),
                reduction="none",
                ignore_index=IGNORED_LABEL,
            )
            loss, loss_weight = masked_loss_mean(losses.view(shape), counted), counted.sum().float()
            accuracy = masked_loss_mean((logits.argmax(dim=2) == codes).float(), counted)
        return HeartLangForPreTrainingOutput(
            loss=loss,
            logits=logits,
            bool_masked_pos=bool_masked_pos,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
            loss_weight=loss_weight,
            accuracy=accuracy,
        )


class HeartLangForSequenceClassification(HeartLangPreTrainedModel, EcgForSequenceClassification):
    """
    HeartLang encoder with a linear classifier on the class token.

    Example:

    ```python
    >>> import torch
    >>> from clear_hug_hf import HeartLangConfig, HeartLangForSequenceClassification

    >>> config = HeartLangConfig.preset("tiny", id2label={0: "NORM", 1: "MI"}, label2id={"NORM": 0, "MI": 1})
    >>> model = HeartLangForSequenceClassification(config).eval()
    >>> model(torch.randn(2, 256, 96)).logits.sigmoid().shape
    torch.Size([2, 2])
    ```
    """

    heartlang: HeartLangModel
    encoder_class = HeartLangModel

    @can_return_tuple
    def forward(
        self,
        input_values: torch.Tensor,
        lead_ids: torch.Tensor | None = None,
        time_ids: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        rhythm: torch.Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> EcgClassifierOutput:
        """Classify recordings. See [`HeartLangModel.forward`] for inputs and [`classify`] for labels and rhythm."""
        outputs = self.heartlang(input_values, lead_ids=lead_ids, time_ids=time_ids, **kwargs)
        return self.classify(outputs, labels, rhythm, **kwargs)


class HeartLangTokenizerModel(HeartLangPreTrainedModel):
    """
    The tokenizer of HeartLang (VQ-HBR in the paper): an encoder, a codebook, and a decoder that reconstructs the beats
    from their codes. The sizes of its config are those of its encoder; the decoder differs in its number of layers.
    Autocast does not apply to the encoder, so that the codes are the same with and without it.

    The loss is the mean squared error of the beats, plus that of their features to the vectors of their codes. Padding
    is not counted, unlike in the released code, unless `config.released_pretraining` is set. The codes are moved by
    [`after_optimizer_step`], see [`HeartLangCodebook`].

    Example:

    ```python
    >>> import torch
    >>> from clear_hug_hf import HeartLangConfig, HeartLangTokenizerModel

    >>> tokenizer = HeartLangTokenizerModel(HeartLangConfig.preset("tiny")).eval()
    >>> tokenizer(torch.randn(2, 256, 96)).codes.shape
    torch.Size([2, 256])
    ```
    """

    # Logged by the training loop in addition to the loss.
    monitors = ("perplexity",)

    def __init__(self, config: HeartLangConfig):
        super().__init__(config)
        width = config.hidden_size
        self.encoder = HeartLangTower(config, config.beat_length, config.num_hidden_layers)
        self.encoder_projection = nn.Sequential(nn.Linear(width, width), nn.Tanh(), nn.Linear(width, config.code_dim))
        self.codebook = HeartLangCodebook(config)
        self.decoder = HeartLangTower(config, config.code_dim, config.decoder_num_hidden_layers)
        self.decoder_projection = nn.Sequential(
            nn.Linear(width, width), nn.Tanh(), nn.Linear(width, config.beat_length)
        )
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.encoder.embeddings.beat_projection

    def train(self, mode: bool = True) -> "HeartLangTokenizerModel":
        """Set the training mode. No gradient is computed for the codebook."""
        super().train(mode)
        self.codebook.requires_grad_(False)  # loading sets `requires_grad` of all parameters
        return self

    def tokenize(
        self,
        input_values: torch.Tensor,
        lead_ids: torch.Tensor | None = None,
        time_ids: torch.Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """
        Features `(batch_size, num_beats, code_dim)` of beats, of unit length, and their codes `(batch_size,
        num_beats)`. See [`HeartLangModel.forward`] for the inputs.
        """
        with without_autocast(input_values.device):
            states = self.encoder(input_values, lead_ids, time_ids, **kwargs)
            # Padding is attended to, but all of it has the same code.
            is_padding = (input_values == 0).all(dim=2, keepdim=True)
            features = F.normalize(self.encoder_projection(states.masked_fill(is_padding, 0.0)), dim=2)
            if not self.config.released_pretraining:
                # Before training it has no length, so that its gradient would be huge.
                features = torch.where(is_padding, features.detach(), features)
            return features, self.codebook(features)

    @can_return_tuple
    def forward(
        self,
        input_values: torch.Tensor,
        lead_ids: torch.Tensor | None = None,
        time_ids: torch.Tensor | None = None,
        seeds: torch.Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> HeartLangTokenizerOutput:
        r"""
        Args:
            input_values, lead_ids, time_ids:
                See [`HeartLangModel.forward`].
            seeds (`torch.LongTensor` of shape `(batch_size,)`, *optional*):
                Seed of each recording, which determines the features from which training starts the codebook,
                independently of device and batch.

        Raises:
            `ValueError`: if an input has the wrong shape.
        """
        kwargs = validate_kwargs(kwargs)  # type: ignore[assignment]
        check_beats(input_values, self.config)
        if seeds is not None:
            check_shape("seeds", seeds, (len(input_values),))
        counted = find_beats(input_values, lead_ids, self.config)
        features, codes = self.tokenize(input_values, lead_ids, time_ids, **kwargs)
        counts = self.codebook.count(codes, counted)
        shares = counts / counts.sum().clamp(min=1)
        quantized = F.embedding(codes, self.codebook.weight).to(features.dtype)
        if self.training:
            self.codebook.observe(features, codes, counted, counts, seeds)
        # Gradients pass the quantization unchanged (van den Oord et al., 2017).
        passed = features + (quantized - features).detach()
        reconstruction = self.decoder_projection(self.decoder(passed, lead_ids, time_ids, **kwargs))
        errors, commitments = (
            (values.float() - targets.float()).square().mean(dim=2)
            for values, targets in ((reconstruction, input_values), (features, quantized))
        )
        commitment_loss = masked_loss_mean(commitments, counted)
        return HeartLangTokenizerOutput(
            loss=masked_loss_mean(errors, counted) + commitment_loss,
            reconstruction=reconstruction,
            codes=codes,
            quantized=quantized,
            commitment_loss=commitment_loss,
            loss_weight=counted.sum().float(),
            perplexity=torch.special.entr(shares).sum().exp(),
        )

    def after_optimizer_step(self, progress: float) -> None:
        """Move the codes, see [`HeartLangCodebook`]. The training loop calls this after each step."""
        self.codebook.update()


__all__ = [
    "HeartLangForPreTraining",
    "HeartLangForPreTrainingOutput",
    "HeartLangForSequenceClassification",
    "HeartLangModel",
    "HeartLangPreTrainedModel",
    "HeartLangTokenizerModel",
    "HeartLangTokenizerOutput",
]
