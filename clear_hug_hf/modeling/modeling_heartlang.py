"""
HeartLang models (Jin et al., "Reading Your Heart: Learning ECG Words and Sentences via Pre-training ECG Language
Model", ICLR 2025, arXiv 2502.10707).

A recording is a sentence of beats: all beats of the first lead, then those of the second, and so on, and padding up to
a fixed number. A tokenizer (VQ-HBR in the paper) learns a vocabulary of beats by vector quantization, and the encoder
learns to predict the codes of masked beats.

Shapes: `B` recordings, `N` beats of all leads with padding (`config.num_beats`), `P` samples per beat, `D` hidden
size, `C` features of a code (`config.code_dim`), `V` codes (`config.vocab_size`).
"""

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F
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


@dataclass
class HeartLangForPreTrainingOutput(ModelOutput):
    """
    Output of [`HeartLangForPreTraining`].

    Args:
        loss (`torch.FloatTensor` of shape `()`, *optional*, returned when `codes` is provided):
            Cross-entropy of the codes of the masked beats.
        logits (`torch.FloatTensor` of shape `(batch_size, num_beats, vocab_size)`):
            Scores of the codes of every beat.
        bool_masked_pos (`torch.BoolTensor` of shape `(batch_size, num_beats)`):
            True for masked beats.
        hidden_states, attentions (`tuple(torch.FloatTensor)`, *optional*):
            See [`EcgModelOutput`].
        loss_weight (`torch.FloatTensor` of shape `()`, *optional*, returned when `codes` is provided):
            Number of masked beats that `loss` averages, by which micro-batches of one step are weighted.
    """

    loss: torch.Tensor | None = None
    logits: torch.Tensor | None = None
    bool_masked_pos: torch.Tensor | None = None
    hidden_states: tuple[torch.Tensor, ...] | None = None
    attentions: tuple[torch.Tensor, ...] | None = None
    loss_weight: torch.Tensor | None = None


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
            Mean squared distance between the features of the beats and the vectors of their codes.
        loss_weight (`torch.FloatTensor` of shape `()`):
            Number of beats that `loss` averages, by which micro-batches of one step are weighted.
    """

    loss: torch.Tensor | None = None
    reconstruction: torch.Tensor | None = None
    codes: torch.Tensor | None = None
    quantized: torch.Tensor | None = None
    commitment_loss: torch.Tensor | None = None
    loss_weight: torch.Tensor | None = None


def check_beats(input_values: torch.Tensor, config: HeartLangConfig) -> None:
    """Check that the beats have the shape `(batch_size, config.num_beats, config.beat_length)`."""
    check_shape("input_values", input_values, (None, config.num_beats, config.beat_length))


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
    Vectors of the codes, of unit length. They do not learn by gradients. In the paper, exponential moving averages
    move them towards the features of the beats, which this package does not implement.
    """

    def __init__(self, config: HeartLangConfig):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(config.vocab_size, config.code_dim), requires_grad=False)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Index `(B, N)` of the nearest code of each feature vector `(B, N, C)`."""
        weight = self.weight.to(features.dtype)
        return (weight.square().sum(dim=1) - 2 * features @ weight.T).argmin(dim=2)


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
            init.normal_(module.weight)
            init.copy_(module.weight, F.normalize(module.weight, dim=1))
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

    _keys_to_ignore_on_load_unexpected = [r"^mask_token$", r"^code_head\.", r"^head\.", r"^classifier\."]  # noqa: RUF012

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
    HeartLang encoder with a linear head that predicts the codes of masked beats, which [`HeartLangTokenizerModel`]
    computes. The released code computes them without `lead_ids` and `time_ids`, although the tokenizer was trained
    with both.

    Half of the `num_beats` of every recording (`config.mask_ratio`) is masked, padding included. In training mode the
    mask is drawn in every call, from `seeds` if given; in evaluation mode it is fixed.
    """

    mask_counters: torch.Tensor

    def __init__(self, config: HeartLangConfig):
        super().__init__(config)
        self.heartlang = HeartLangModel(config)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, config.hidden_size))
        self.code_head = nn.Linear(config.hidden_size, config.vocab_size)
        register_constants(self)
        self.post_init()

    def make_constants(self) -> dict[str, torch.Tensor]:
        """Counters `(N,)` of the beats, from which masks are drawn."""
        return {"mask_counters": seeded_counters(self.config.num_beats)}

    def _draw_mask(self, batch_size: int, seeds: torch.Tensor | None, device: torch.device) -> torch.Tensor:
        if seeds is not None:
            check_shape("seeds", seeds, (batch_size,))
            seeds = seeds.to(device)
        elif self.training:
            seeds = torch.randint(MAX_SEED, (batch_size,), device=device)
        else:
            seeds = torch.zeros(batch_size, dtype=torch.long, device=device)
        ranks = seeded_bits(seeds[:, None], self.mask_counters).argsort(dim=1).argsort(dim=1)
        return ranks < max(1, int(self.config.mask_ratio * self.config.num_beats))

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
                Codes to predict, -100 where unknown.
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
            bool_masked_pos = self._draw_mask(shape[0], seeds, input_values.device)
        check_shape("bool_masked_pos", bool_masked_pos, shape)
        bool_masked_pos = bool_masked_pos.bool()
        embeddings = self.heartlang.embeddings.project(input_values)
        embeddings = torch.where(bool_masked_pos[..., None], self.mask_token.to(embeddings.dtype), embeddings)
        outputs = self.heartlang(
            input_values, lead_ids=lead_ids, time_ids=time_ids, beat_embeddings=embeddings, **kwargs
        )
        logits = self.code_head(outputs.last_hidden_state[:, 1:])
        loss = loss_weight = None
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
        return HeartLangForPreTrainingOutput(
            loss=loss,
            logits=logits,
            bool_masked_pos=bool_masked_pos,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
            loss_weight=loss_weight,
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
        **kwargs: Unpack[TransformersKwargs],
    ) -> EcgClassifierOutput:
        """Classify recordings. See [`HeartLangModel.forward`] for the inputs and [`classify`] for the labels."""
        outputs = self.heartlang(input_values, lead_ids=lead_ids, time_ids=time_ids, **kwargs)
        return self.classify(outputs, labels, **kwargs)


class HeartLangTokenizerModel(HeartLangPreTrainedModel):
    """
    The tokenizer of HeartLang (VQ-HBR in the paper): an encoder, a codebook, and a decoder that reconstructs the beats
    from their codes. The sizes of its config are those of its encoder; the decoder differs in its number of layers.
    Autocast does not apply to the encoder, so that the codes are the same with and without it.

    Example:

    ```python
    >>> import torch
    >>> from clear_hug_hf import HeartLangConfig, HeartLangTokenizerModel

    >>> tokenizer = HeartLangTokenizerModel(HeartLangConfig.preset("tiny")).eval()
    >>> tokenizer(torch.randn(2, 256, 96)).codes.shape
    torch.Size([2, 256])
    ```
    """

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

    @can_return_tuple
    def forward(
        self,
        input_values: torch.Tensor,
        lead_ids: torch.Tensor | None = None,
        time_ids: torch.Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> HeartLangTokenizerOutput:
        r"""
        Args:
            input_values, lead_ids, time_ids:
                See [`HeartLangModel.forward`].

        Raises:
            `ValueError`: if an input has the wrong shape.
        """
        kwargs = validate_kwargs(kwargs)  # type: ignore[assignment]
        check_beats(input_values, self.config)
        with without_autocast(input_values.device):
            states = self.encoder(input_values, lead_ids, time_ids, **kwargs)
            # Padding is attended to, but all of it has the same code.
            states = states.masked_fill((input_values == 0).all(dim=2, keepdim=True), 0.0)
            features = F.normalize(self.encoder_projection(states), dim=2)
            codes = self.codebook(features)
        quantized = F.embedding(codes, self.codebook.weight).to(features.dtype)
        commitment_loss = F.mse_loss(features.float(), quantized.float())
        # Gradients pass the quantization unchanged (van den Oord et al., 2017).
        passed = features + (quantized - features).detach()
        reconstruction = self.decoder_projection(self.decoder(passed, lead_ids, time_ids, **kwargs))
        return HeartLangTokenizerOutput(
            loss=F.mse_loss(reconstruction.float(), input_values.float()) + commitment_loss,
            reconstruction=reconstruction,
            codes=codes,
            quantized=quantized,
            commitment_loss=commitment_loss,
            loss_weight=torch.tensor(float(codes.numel()), device=codes.device),
        )


__all__ = [
    "HeartLangForPreTraining",
    "HeartLangForPreTrainingOutput",
    "HeartLangForSequenceClassification",
    "HeartLangModel",
    "HeartLangPreTrainedModel",
    "HeartLangTokenizerModel",
    "HeartLangTokenizerOutput",
]
