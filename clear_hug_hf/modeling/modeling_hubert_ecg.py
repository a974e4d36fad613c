"""
HuBERT-ECG models (Coppola et al., "HuBERT-ECG as a self-supervised foundation model for broad and scalable cardiac
applications", medRxiv 2024).

HuBERT-ECG is HuBERT (Hsu et al., 2021), made of the layers of transformers' Hubert: it reads the leads of a recording
end to end as a single signal. Convolutions turn values into tokens, a grouped convolution encodes their positions, and
post-norm layers mix them. Pre-training masks spans of tokens and predicts their codes.

Shapes: `B` recordings, `T` values of all leads, `S` tokens, `D` hidden size, `V` codes of a codebook, `P` size in
which states and codes are compared.
"""

import math
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F
from transformers import initialization as init
from transformers.models.hubert.modeling_hubert import (
    HubertAttention,
    HubertEncoderLayer,
    HubertFeatureProjection,
    HubertPositionalConvEmbedding,
)
from transformers.processing_utils import Unpack
from transformers.utils import ModelOutput, TransformersKwargs
from transformers.utils.generic import can_return_tuple, merge_with_config_defaults
from transformers.utils.output_capturing import capture_outputs

from .configuration_hubert_ecg import HubertEcgConfig
from .modeling_ecg import (
    EcgClassifierOutput,
    EcgForSequenceClassification,
    EcgModelOutput,
    EcgPreTrainedModel,
    check_shape,
    draw_spans,
    masked_loss_mean,
    masked_mean,
    seeded_counters,
    validate_kwargs,
)


@dataclass
class HubertEcgForPreTrainingOutput(ModelOutput):
    """
    Output of [`HubertEcgForPreTraining`].

    Args:
        loss (`torch.FloatTensor` of shape `()`, *optional*, returned when `codes` are passed):
            Mean cross-entropy of the codes of masked tokens, averaged over the codebooks.
        loss_weight (`torch.FloatTensor` of shape `()`, *optional*, returned when `codes` are passed):
            Number of masked tokens.
        logits (`torch.FloatTensor` of shape `(batch_size, sequence_length, sum(vocab_sizes))`):
            Cosine similarity of every token to every code, divided by the temperature; codebooks side by side.
        bool_masked_pos (`torch.BoolTensor` of shape `(batch_size, sequence_length)`):
            True for masked tokens.
        hidden_states, attentions (`tuple(torch.FloatTensor)`, *optional*):
            See [`EcgModelOutput`].
    """

    loss: torch.Tensor | None = None
    loss_weight: torch.Tensor | None = None
    logits: torch.Tensor | None = None
    bool_masked_pos: torch.Tensor | None = None
    hidden_states: tuple[torch.Tensor, ...] | None = None
    attentions: tuple[torch.Tensor, ...] | None = None


class HubertEcgFeatureEncoder(nn.Module):
    """Convolutions of a single signal, without bias. Each channel of the first one is normalized."""

    def __init__(self, config: HubertEcgConfig):
        super().__init__()
        sizes = zip([1, *config.conv_dim[:-1]], config.conv_dim, config.conv_kernel, config.conv_stride, strict=True)
        self.convolutions = nn.ModuleList(nn.Conv1d(*size, bias=False) for size in sizes)
        self.norm = nn.GroupNorm(config.conv_dim[0], config.conv_dim[0])

    def forward(self, input_values: torch.Tensor) -> torch.Tensor:
        """Map values `(B, T)` to tokens `(B, S, C)` with the channels of the last convolution."""
        features = F.gelu(self.norm(self.convolutions[0](input_values[:, None])))
        for convolution in self.convolutions[1:]:
            features = F.gelu(convolution(features))
        return features.transpose(1, 2)


class HubertEcgPreTrainedModel(EcgPreTrainedModel):
    """Base class of the HuBERT-ECG models."""

    config: HubertEcgConfig
    base_model_prefix = "hubert_ecg"
    _no_split_modules = ["HubertEncoderLayer"]  # noqa: RUF012
    _can_record_outputs = {"hidden_states": HubertEncoderLayer, "attentions": HubertAttention}  # noqa: RUF012

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, nn.Conv1d) and nn.utils.parametrize.is_parametrized(module):
            # The kernel of positions is a direction times the norm of each of its time steps.
            norm, direction = (module.get_parameter(f"parametrizations.weight.original{index}") for index in (0, 1))
            init.normal_(direction, std=2 / math.sqrt(module.kernel_size[0] * module.in_channels))
            init.copy_(norm, direction.norm(dim=(0, 1), keepdim=True))
        elif isinstance(module, nn.Conv1d):
            init.kaiming_normal_(module.weight)
        elif isinstance(module, HubertEcgForPreTraining):
            init.uniform_(module.mask_embedding)


class HubertEcgModel(HubertEcgPreTrainedModel):
    """
    HuBERT-ECG encoder: maps the values of all leads, end to end, to one state per token and per recording.

    In its [`EcgModelOutput`], `last_hidden_state` is the output of the last layer, and `pooler_output` its mean over
    all tokens that are not padding. Tokens mix leads, so that `lead_states` contains this vector only.

    Example:

    ```python
    >>> import torch
    >>> from clear_hug_hf import HubertEcgConfig, HubertEcgModel

    >>> model = HubertEcgModel(HubertEcgConfig.preset("tiny")).eval()
    >>> output = model(torch.randn(2, 12 * 500))
    >>> output.last_hidden_state.shape, output.pooler_output.shape
    (torch.Size([2, 93, 64]), torch.Size([2, 64]))
    ```
    """

    _keys_to_ignore_on_load_unexpected = [  # noqa: RUF012
        r"^(mask_embedding|final_proj\.|label_embedding\.|classifier\.|head\.)"
    ]

    def __init__(self, config: HubertEcgConfig):
        super().__init__(config)
        self.feature_encoder = HubertEcgFeatureEncoder(config)
        self.feature_projection = HubertFeatureProjection(config)
        self.pos_conv_embed = HubertPositionalConvEmbedding(config)
        self.layer_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)
        self.layers = nn.ModuleList(HubertEncoderLayer(config) for _ in range(config.num_hidden_layers))
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.feature_encoder.convolutions[0]

    def depth_groups(self) -> list[list[str]]:
        """Each layer above all that comes before them, norms too."""
        return [[], *([f"layers.{index}"] for index in range(self.config.num_hidden_layers))]

    def token_mask(self, attention_mask: torch.Tensor) -> torch.Tensor:
        """Map a mask of values `(B, T)` to the mask of the tokens `(B, S)`: as many as its number of valid values."""
        num_tokens = self.config.count_tokens(attention_mask.shape[1])
        lengths = self.config.count_tokens(attention_mask.long().sum(dim=1))
        return torch.arange(num_tokens, device=attention_mask.device) < lengths[:, None]

    @merge_with_config_defaults
    @capture_outputs
    def forward(
        self,
        input_values: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        bool_masked_pos: torch.Tensor | None = None,
        mask_embedding: torch.Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> EcgModelOutput:
        r"""
        Args:
            input_values (`torch.Tensor` of shape `(batch_size, num_values)`):
                Leads end to end, each scaled, and decimated. There may be any number of values.
            attention_mask (`torch.Tensor` of shape `(batch_size, num_values)`, *optional*):
                True for values of the recording, False for padding; all True by default. As released, only the
                *number* of valid values counts: so many values at the start are read, and the tokens of the others are
                neither attended to nor pooled. Padding at the end of every lead therefore hides the last leads.
            bool_masked_pos (`torch.Tensor` of shape `(batch_size, sequence_length)`, *optional*):
                True for tokens to replace by `mask_embedding`; none by default.
            mask_embedding (`torch.Tensor` of shape `(hidden_size,)`, *optional*, defaults to zeros):
                What the tokens of `bool_masked_pos` are replaced by.

        Raises:
            `ValueError`: if an input has the wrong shape.
        """
        kwargs = validate_kwargs(kwargs)  # type: ignore[assignment]
        token_mask = self._check_inputs(input_values, attention_mask)
        states = self.feature_projection(self.feature_encoder(input_values.to(self.layer_norm.weight.dtype)))
        if bool_masked_pos is not None:
            check_shape("bool_masked_pos", bool_masked_pos, tuple(states.shape[:2]))
            masked = torch.zeros_like(states[0, 0]) if mask_embedding is None else mask_embedding.to(states.dtype)
            states = torch.where(bool_masked_pos[..., None].bool(), masked, states)
        layer_mask = None
        if token_mask is not None:
            states = states.masked_fill(~token_mask[..., None], 0.0)
            layer_mask = torch.zeros(token_mask.shape, dtype=states.dtype, device=states.device)
            layer_mask = layer_mask.masked_fill(~token_mask, torch.finfo(states.dtype).min)[:, None, None]
        states = self.dropout(self.layer_norm(states + self.pos_conv_embed(states)))
        for layer in self.layers:
            states = layer(states, attention_mask=layer_mask, **kwargs)

        pooled = states.mean(dim=1) if token_mask is None else masked_mean(states, token_mask)
        return EcgModelOutput(
            last_hidden_state=states,
            pooler_output=pooled,
            lead_states=pooled[:, None],
            present_leads=torch.ones((len(pooled), 1), dtype=torch.bool, device=pooled.device),
            token_mask=token_mask,
        )

    def _check_inputs(self, input_values: torch.Tensor, attention_mask: torch.Tensor | None) -> torch.Tensor | None:
        """Check the shapes of the inputs, and return the mask of tokens if there is one of values."""
        check_shape("input_values", input_values, (None, None))
        if self.config.count_tokens(input_values.shape[1]) < 1:
            raise ValueError(
                "input_values must have shape (batch_size, num_values) with values for at least one token, got "
                f"{tuple(input_values.shape)}."
            )
        if attention_mask is None:
            return None
        if attention_mask.shape != input_values.shape:
            raise ValueError(
                "input_values must have shape (batch_size, num_values), and attention_mask must have shape "
                f"(batch_size, num_values), got {tuple(input_values.shape)} and {tuple(attention_mask.shape)}."
            )
        return self.token_mask(attention_mask)


class HubertEcgForPreTraining(HubertEcgPreTrainedModel):
    """
    HuBERT-ECG with the parts of its pre-training: the embedding of masked tokens, and for each codebook, a projection
    of the states and the embeddings of the codes.

    Masks are drawn with the seed 0 in evaluation mode unless `seeds` are passed, and anew in every call in training
    mode.
    """

    def __init__(self, config: HubertEcgConfig):
        super().__init__(config)
        self.hubert_ecg = HubertEcgModel(config)
        self.mask_embedding = nn.Parameter(torch.empty(config.hidden_size))
        size = config.classifier_proj_size
        self.final_proj = nn.ModuleList(nn.Linear(config.hidden_size, size) for _ in config.vocab_sizes)
        self.label_embedding = nn.ModuleList(nn.Embedding(count, size) for count in config.vocab_sizes)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_values: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        bool_masked_pos: torch.Tensor | None = None,
        codes: torch.Tensor | None = None,
        seeds: torch.Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> HubertEcgForPreTrainingOutput:
        r"""
        Args:
            input_values, attention_mask:
                See [`HubertEcgModel.forward`].
            bool_masked_pos (`torch.Tensor` of shape `(batch_size, sequence_length)`, *optional*):
                True for masked tokens; drawn by default.
            codes (`torch.LongTensor` of shape `(batch_size, sequence_length, num_codebooks)`, *optional*):
                Code of every token in each codebook, for the loss.
            seeds (`torch.LongTensor` of shape `(batch_size,)`, *optional*):
                Seed of each recording for the mask.

        Raises:
            `ValueError`: if an input has the wrong shape.
        """
        config, batch_size, device = self.config, len(input_values), input_values.device
        token_mask = self.hubert_ecg._check_inputs(input_values, attention_mask)
        num_tokens = config.count_tokens(input_values.shape[1])
        if token_mask is None:
            token_mask = torch.ones((batch_size, num_tokens), dtype=torch.bool, device=device)
        if seeds is not None:
            check_shape("seeds", seeds, (batch_size,))
            seeds = seeds.to(device)
        elif self.training:
            seeds = torch.randint(2**62, (batch_size,), device=device)
        else:
            seeds = torch.zeros(batch_size, dtype=torch.long, device=device)
        if bool_masked_pos is None:
            counters = seeded_counters(1 + num_tokens, device=device)
            bool_masked_pos = draw_spans(seeds, counters, token_mask, config.mask_time_prob, config.mask_time_length)
        check_shape("bool_masked_pos", bool_masked_pos, (batch_size, num_tokens))
        bool_masked_pos = bool_masked_pos.bool() & token_mask

        outputs = self.hubert_ecg(input_values, attention_mask, bool_masked_pos, self.mask_embedding, **kwargs)
        code_logits = [
            F.normalize(projection(outputs.last_hidden_state).float(), dim=2)
            @ F.normalize(embeddings.float(), dim=1).T
            / config.logits_temperature
            for projection, embeddings in zip(self.final_proj, self.label_embedding.parameters(), strict=True)
        ]
        loss = loss_weight = None
        if codes is not None:
            check_shape("codes", codes, (batch_size, num_tokens, len(code_logits)))
            losses = [
                F.cross_entropy(scores.transpose(1, 2), codes[..., index], reduction="none")
                for index, scores in enumerate(code_logits)
            ]
            loss = masked_loss_mean(torch.stack(losses).mean(dim=0), bool_masked_pos)
            loss_weight = bool_masked_pos.sum().float()
        return HubertEcgForPreTrainingOutput(
            loss=loss,
            loss_weight=loss_weight,
            logits=torch.cat(code_logits, dim=2).to(outputs.last_hidden_state.dtype),
            bool_masked_pos=bool_masked_pos,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
        )


class HubertEcgForSequenceClassification(HubertEcgPreTrainedModel, EcgForSequenceClassification):
    """
    HuBERT-ECG encoder with a linear classifier of the recording on the mean of its tokens, as released, or on
    attention pooling of its tokens (`config.head_type`).

    Example:

    ```python
    >>> import torch
    >>> from clear_hug_hf import HubertEcgConfig, HubertEcgForSequenceClassification

    >>> config = HubertEcgConfig.preset("tiny", id2label={0: "NORM", 1: "MI"}, label2id={"NORM": 0, "MI": 1})
    >>> model = HubertEcgForSequenceClassification(config).eval()
    >>> model(torch.randn(2, 12 * 500)).logits.sigmoid().shape
    torch.Size([2, 2])
    ```
    """

    hubert_ecg: HubertEcgModel
    encoder_class = HubertEcgModel
    _keys_to_ignore_on_load_unexpected = [r"^(mask_embedding|final_proj\.|label_embedding\.)"]  # noqa: RUF012

    @can_return_tuple
    def forward(
        self,
        input_values: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        rhythm: torch.Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> EcgClassifierOutput:
        """Classify recordings. See [`HubertEcgModel.forward`] for inputs and [`classify`] for labels and rhythm."""
        outputs = self.hubert_ecg(input_values, attention_mask, **kwargs)
        return self.classify(outputs, labels, rhythm, **kwargs)


__all__ = [
    "HubertEcgForPreTraining",
    "HubertEcgForPreTrainingOutput",
    "HubertEcgForSequenceClassification",
    "HubertEcgModel",
    "HubertEcgPreTrainedModel",
]
