"""
ECG-FM models (McKeen et al., "ECG-FM: an open electrocardiogram foundation model", JAMIA Open 2025, arXiv 2408.05178).

ECG-FM is wav2vec 2.0 (Baevski et al., 2020) with twelve leads as the channels of its first convolution: convolutions
turn samples into tokens, a grouped convolution encodes their positions, and post-norm layers, those of transformers'
Wav2Vec2, mix them. Pre-training masks spans of tokens, and predicts which of the quantized tokens of the recording
belongs there.

Shapes: `B` recordings, `L` leads, `T` samples per lead, `S` tokens, `C` channels of the last convolution, `D` hidden
size, `G` codebooks with `V` code vectors each, `P` size of the projected code vectors, `K` negatives.
"""

import math
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F
from transformers import initialization as init
from transformers.models.wav2vec2.modeling_wav2vec2 import (
    Wav2Vec2Attention,
    Wav2Vec2EncoderLayer,
    Wav2Vec2FeatureProjection,
    Wav2Vec2PositionalConvEmbedding,
)
from transformers.processing_utils import Unpack
from transformers.utils import ModelOutput, TransformersKwargs
from transformers.utils.generic import can_return_tuple, merge_with_config_defaults
from transformers.utils.output_capturing import capture_outputs

from .configuration_ecg_fm import EcgFmConfig
from .modeling_ecg import (
    EcgClassifierOutput,
    EcgForSequenceClassification,
    EcgModelOutput,
    EcgPreTrainedModel,
    check_shape,
    draw_spans,
    masked_loss_mean,
    seeded_bits,
    seeded_counters,
    seeded_fractions,
    validate_kwargs,
)


@dataclass
class EcgFmModelOutput(EcgModelOutput):
    """
    Output of [`EcgFmModel`].

    Args:
        extract_features (`torch.FloatTensor` of shape `(batch_size, sequence_length, conv_dim[-1])`):
            Output of the convolutions, before normalization.
        kwargs:
            See [`EcgModelOutput`].
    """

    extract_features: torch.Tensor | None = None


@dataclass
class EcgFmForPreTrainingOutput(ModelOutput):
    """
    Output of [`EcgFmForPreTraining`].

    Args:
        loss (`torch.FloatTensor` of shape `()`):
            `contrastive_loss`, plus the unused fraction of the codebooks and the mean square of the convolutions'
            output, with the weights of the config.
        contrastive_loss (`torch.FloatTensor` of shape `()`):
            Mean cross-entropy of the masked tokens (Baevski et al., 2020, Eq. 3).
        contrastive_logits (`torch.FloatTensor` of shape `(batch_size, sequence_length, 1 + num_negatives)`):
            Similarities of the prediction to the quantized token and to the negatives, minus infinity for negatives
            with the same codes. Meaningful for masked tokens.
        prediction, target (`torch.FloatTensor` of shape `(batch_size, sequence_length, proj_codevector_dim)`):
            Projected states, and projected quantized tokens.
        quantized (`torch.FloatTensor` of shape `(batch_size, sequence_length, codevector_dim)`):
            Code vectors of every token.
        codes (`torch.LongTensor` of shape `(batch_size, sequence_length, num_codevector_groups)`):
            Index of the code vector in each codebook.
        bool_masked_pos (`torch.BoolTensor` of shape `(batch_size, sequence_length)`):
            True for masked tokens.
        code_perplexity, prob_perplexity (`torch.FloatTensor` of shape `()`):
            Perplexity of the codes of the masked tokens, and of their probabilities, summed over the codebooks: the
            number of code vectors in use.
        features_penalty (`torch.FloatTensor` of shape `()`):
            Mean square of the convolutions' output.
        hidden_states, attentions (`tuple(torch.FloatTensor)`, *optional*):
            See [`EcgModelOutput`].
    """

    loss: torch.Tensor | None = None
    contrastive_loss: torch.Tensor | None = None
    contrastive_logits: torch.Tensor | None = None
    prediction: torch.Tensor | None = None
    target: torch.Tensor | None = None
    quantized: torch.Tensor | None = None
    codes: torch.Tensor | None = None
    bool_masked_pos: torch.Tensor | None = None
    code_perplexity: torch.Tensor | None = None
    prob_perplexity: torch.Tensor | None = None
    features_penalty: torch.Tensor | None = None
    hidden_states: tuple[torch.Tensor, ...] | None = None
    attentions: tuple[torch.Tensor, ...] | None = None


class EcgFmFeatureEncoder(nn.Module):
    """Convolutions over time without bias. The first one reads all leads, and each of its channels is normalized."""

    def __init__(self, config: EcgFmConfig):
        super().__init__()
        channels = [config.num_leads, *config.conv_dim[:-1]]
        sizes = zip(channels, config.conv_dim, config.conv_kernel, config.conv_stride, strict=True)
        self.convolutions = nn.ModuleList(nn.Conv1d(*size, bias=False) for size in sizes)
        # Over time, padding included.
        self.norm = nn.GroupNorm(config.conv_dim[0], config.conv_dim[0], eps=config.layer_norm_eps)

    def forward(self, input_values: torch.Tensor) -> torch.Tensor:
        """Map recordings `(B, L, T)` to tokens `(B, S, C)`."""
        features = F.gelu(self.norm(self.convolutions[0](input_values)))
        for convolution in self.convolutions[1:]:
            features = F.gelu(convolution(features))
        return features.transpose(1, 2)


class EcgFmPreTrainedModel(EcgPreTrainedModel):
    """Base class of the ECG-FM models."""

    config: EcgFmConfig
    base_model_prefix = "ecg_fm"
    _no_split_modules = ["Wav2Vec2EncoderLayer"]  # noqa: RUF012
    _can_record_outputs = {"hidden_states": Wav2Vec2EncoderLayer, "attentions": Wav2Vec2Attention}  # noqa: RUF012

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
        elif isinstance(module, EcgFmQuantizer):
            init.normal_(module.weight_proj.weight, std=1.0)
            init.uniform_(module.codevectors)
        elif isinstance(module, EcgFmForPreTraining):
            init.uniform_(module.mask_embedding)


class EcgFmModel(EcgFmPreTrainedModel):
    """
    ECG-FM encoder: maps the samples of all leads to one state per token and per recording.

    In its [`EcgFmModelOutput`], `last_hidden_state` is the output of the last layer, and `pooler_output` its sum over
    the valid tokens divided by the number of entries that are not zero, as released. Leads are mixed, so that
    `lead_states` contains this vector only.

    Example:

    ```python
    >>> import torch
    >>> from clear_hug_hf import EcgFmConfig, EcgFmModel

    >>> model = EcgFmModel(EcgFmConfig.preset("tiny")).eval()
    >>> output = model(torch.randn(2, 12, 2500))
    >>> output.last_hidden_state.shape, output.pooler_output.shape
    (torch.Size([2, 156, 64]), torch.Size([2, 64]))
    ```
    """

    has_time_states = True
    _keys_to_ignore_on_load_unexpected = [  # noqa: RUF012
        r"^(mask_embedding|quantizer\.|project_q\.|final_proj\.|classifier\.|head\.)"
    ]

    def __init__(self, config: EcgFmConfig):
        super().__init__(config)
        self.feature_encoder = EcgFmFeatureEncoder(config)
        self.feature_projection = Wav2Vec2FeatureProjection(config)
        self.pos_conv_embed = Wav2Vec2PositionalConvEmbedding(config)
        self.layer_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)
        self.layers = nn.ModuleList(Wav2Vec2EncoderLayer(config) for _ in range(config.num_hidden_layers))
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.feature_encoder.convolutions[0]

    def depth_groups(self) -> list[list[str]]:
        """Each layer above all that comes before them, norms too."""
        return [[], *([f"layers.{index}"] for index in range(self.config.num_hidden_layers))]

    def token_mask(self, attention_mask: torch.Tensor) -> torch.Tensor:
        """Map a mask of samples `(B, T)` to the mask of the tokens `(B, S)` that these samples determine."""
        num_tokens = self.config.count_tokens(attention_mask.shape[1])
        lengths = self.config.count_tokens(attention_mask.long().sum(dim=1))
        return torch.arange(num_tokens, device=attention_mask.device) < lengths[:, None]

    @merge_with_config_defaults
    @capture_outputs
    def forward(
        self,
        input_values: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        lead_mask: torch.Tensor | None = None,
        bool_masked_pos: torch.Tensor | None = None,
        mask_embedding: torch.Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> EcgFmModelOutput:
        r"""
        Args:
            input_values (`torch.Tensor` of shape `(batch_size, num_leads, num_samples)`):
                Recordings, each lead standardized. There may be more or fewer samples than `config.num_samples`.
            attention_mask (`torch.Tensor` of shape `(batch_size, num_samples)`, *optional*):
                True for samples of the recording, False for the padding behind it; all True by default. Padding is set
                to zero, and its tokens are neither attended to nor pooled. The first convolution is normalized over
                padding, too, so that a padded recording gives other numbers than the recording alone.
            lead_mask (`torch.Tensor` of shape `(batch_size, num_leads)`, *optional*):
                True for leads that are present; all by default. Missing leads are set to zero, like those that
                pre-training masks.
            bool_masked_pos (`torch.Tensor` of shape `(batch_size, sequence_length)`, *optional*):
                True for tokens to replace by `mask_embedding`; none by default.
            mask_embedding (`torch.Tensor` of shape `(hidden_size,)`, *optional*, defaults to zeros):
                What the tokens of `bool_masked_pos` are replaced by.

        Raises:
            `ValueError`: if an input has the wrong shape.
        """
        kwargs = validate_kwargs(kwargs)  # type: ignore[assignment]
        token_mask = self._check_inputs(input_values, attention_mask, lead_mask)
        if attention_mask is not None:
            input_values = input_values.masked_fill(~attention_mask[:, None].bool(), 0.0)
        if lead_mask is not None:
            input_values = input_values.masked_fill(~lead_mask[..., None].bool(), 0.0)

        features = self.feature_encoder(input_values.to(self.feature_encoder.norm.weight.dtype))
        states, _ = self.feature_projection(features)
        if bool_masked_pos is not None:
            check_shape("bool_masked_pos", bool_masked_pos, tuple(states.shape[:2]))
            masked = torch.zeros_like(states[0, 0]) if mask_embedding is None else mask_embedding.to(states.dtype)
            states = torch.where(bool_masked_pos[..., None].bool(), masked, states)
        # Padding is set to zero after the convolution, as released, and not before it, as in transformers' encoder.
        states = states + self.pos_conv_embed(states)
        layer_mask = None
        if token_mask is not None:
            states = states.masked_fill(~token_mask[..., None], 0.0)
            layer_mask = torch.zeros(token_mask.shape, dtype=states.dtype, device=states.device)
            layer_mask = layer_mask.masked_fill(~token_mask, torch.finfo(states.dtype).min)[:, None, None]
        states = self.dropout(self.layer_norm(states))
        for layer in self.layers:
            states = layer(states, attention_mask=layer_mask, **kwargs)

        counted = states if token_mask is None else states.masked_fill(~token_mask[..., None], 0.0)
        pooled = counted.sum(dim=1) / (counted != 0).sum(dim=1).clamp(min=1)
        return EcgFmModelOutput(
            last_hidden_state=states,
            pooler_output=pooled,
            lead_states=pooled[:, None],
            present_leads=torch.ones((len(pooled), 1), dtype=torch.bool, device=pooled.device),
            token_mask=token_mask,
            extract_features=features,
        )

    def _check_inputs(
        self, input_values: torch.Tensor, attention_mask: torch.Tensor | None, lead_mask: torch.Tensor | None
    ) -> torch.Tensor | None:
        """Check the shapes of the inputs, and return the mask of tokens if there is one of samples."""
        check_shape("input_values", input_values, (None, self.config.num_leads, None))
        batch_size, num_leads, num_samples = input_values.shape
        if self.config.count_tokens(num_samples) < 1:
            raise ValueError(
                f"input_values must have shape (batch_size, {num_leads}, num_samples) with samples for at least one "
                f"token, got {tuple(input_values.shape)}."
            )
        if lead_mask is not None:
            check_shape("lead_mask", lead_mask, (batch_size, num_leads))
        if attention_mask is None:
            return None
        if attention_mask.shape != (batch_size, num_samples):
            raise ValueError(
                f"input_values must have shape (batch_size, {num_leads}, num_samples), and attention_mask must have "
                f"shape (batch_size, num_samples), got {tuple(input_values.shape)} and {tuple(attention_mask.shape)}."
            )
        return self.token_mask(attention_mask)


class EcgFmQuantizer(nn.Module):
    """Chooses a code vector from each codebook for every token (Baevski et al., 2020, Eq. 1)."""

    def __init__(self, config: EcgFmConfig):
        super().__init__()
        self.num_groups = config.num_codevector_groups
        self.temperature = config.gumbel_temperature
        num_codes = self.num_groups * config.num_codevectors_per_group
        self.weight_proj = nn.Linear(config.conv_dim[-1], num_codes)
        self.codevectors = nn.Parameter(torch.empty(1, num_codes, config.codevector_dim // self.num_groups))

    def forward(
        self, features: torch.Tensor, noise: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """
        Quantize tokens.

        Args:
            features (`torch.Tensor` of shape `(B, S, C)`):
                Normalized output of the convolutions.
            noise (`torch.Tensor` of shape `(B, S, G, V)`, *optional*):
                Standard Gumbel noise, with which codes are sampled; without it, the most probable ones are chosen.

        Returns:
            `tuple[torch.Tensor, torch.Tensor, torch.Tensor]`: Code vectors `(B, S, codevector_dim)`, their indices
            `(B, S, G)`, and the probabilities of all codes `(B, S, G, V)`.
        """
        logits = self.weight_proj(features).unflatten(-1, (self.num_groups, -1)).float()
        scores = logits if noise is None else logits + noise
        codes = scores.argmax(dim=-1)
        chosen = F.one_hot(codes, logits.shape[-1]).to(logits.dtype)
        if noise is not None:
            # Gradients are those of the softmax (straight-through estimator).
            soft = (scores / self.temperature).softmax(dim=-1)
            chosen = chosen + soft - soft.detach()
        codebooks = self.codevectors.view(self.num_groups, -1, self.codevectors.shape[-1])
        vectors = torch.einsum("bsgv,gvd->bsgd", chosen.to(codebooks.dtype), codebooks)
        return vectors.flatten(2), codes, logits.softmax(dim=-1)


def draw_negatives(
    seeds: torch.Tensor, counters: torch.Tensor, bool_masked_pos: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """
    Draw other masked tokens of the same recording for every masked token, with replacement.

    Args:
        seeds (`torch.LongTensor` of shape `(B,)`):
            Seed of each recording.
        counters (`torch.LongTensor` of shape `(S, K)`):
            See [`seeded_counters`].
        bool_masked_pos (`torch.BoolTensor` of shape `(B, S)`):
            True for masked tokens.

    Returns:
        `tuple[torch.Tensor, torch.Tensor]`: Token indices `(B, S, K)`, and `(B, S)`, True where they are negatives,
        which is nowhere if a single token is masked.
    """
    num_masked = bool_masked_pos.sum(dim=1)[:, None, None]
    ranks = seeded_bits(seeds[:, None, None], counters).remainder((num_masked - 1).clamp(min=1))
    own_rank = bool_masked_pos.cumsum(dim=1)[..., None] - 1
    ranks = ranks + (ranks >= own_rank)  # skips the token itself
    masked_first = (~bool_masked_pos).long().argsort(dim=1, stable=True)
    tokens = masked_first.gather(1, ranks.clamp(max=masked_first.shape[1] - 1).flatten(1)).view(ranks.shape)
    return tokens, bool_masked_pos & (num_masked[..., 0] > 1)


def perplexity(probabilities: torch.Tensor, counted: torch.Tensor) -> torch.Tensor:
    """Exponential of the entropy of the mean `(G, V)` of the probabilities `(B, S, G, V)`, summed over groups."""
    weights = counted[..., None, None].to(probabilities.dtype)
    mean = (probabilities * weights).sum(dim=(0, 1)) / weights.sum().clamp(min=1)
    return (-(mean * (mean + 1e-7).log()).sum(dim=1)).exp().sum()


class EcgFmForPreTraining(EcgFmPreTrainedModel):
    """
    ECG-FM with the parts of its contrastive pre-training: the embedding of masked tokens, the quantizer, and the
    projections of states and code vectors to the size in which they are compared.

    In evaluation mode the result does not depend on chance unless `seeds` are passed: masks and negatives are drawn
    with the seed 0, and the quantizer chooses the most probable codes. In training mode, masks, negatives and codes
    are drawn anew in every call, or from `seeds`.

    The released weights were pre-trained with random masking of leads and contrastive learning between the segments of
    a recording in addition (CMSC, Kiyasseh et al., 2021), which are not part of this class.
    """

    def __init__(self, config: EcgFmConfig):
        super().__init__(config)
        self.ecg_fm = EcgFmModel(config)
        self.mask_embedding = nn.Parameter(torch.empty(config.hidden_size))
        self.quantizer = EcgFmQuantizer(config)
        self.project_q = nn.Linear(config.codevector_dim, config.proj_codevector_dim)
        self.final_proj = nn.Linear(config.hidden_size, config.proj_codevector_dim)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_values: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        lead_mask: torch.Tensor | None = None,
        bool_masked_pos: torch.Tensor | None = None,
        negative_ids: torch.Tensor | None = None,
        seeds: torch.Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> EcgFmForPreTrainingOutput:
        r"""
        Args:
            input_values, attention_mask, lead_mask:
                See [`EcgFmModel.forward`].
            bool_masked_pos (`torch.Tensor` of shape `(batch_size, sequence_length)`, *optional*):
                True for masked tokens; drawn by default.
            negative_ids (`torch.LongTensor` of shape `(batch_size, sequence_length, num_negatives)`, *optional*):
                Indices of the tokens of the same recording that are the negatives of each masked token; drawn by
                default.
            seeds (`torch.LongTensor` of shape `(batch_size,)`, *optional*):
                Seed of each recording for everything that is drawn.

        Raises:
            `ValueError`: if an input has the wrong shape.
        """
        config, batch_size = self.config, len(input_values)
        num_tokens = config.count_tokens(input_values.shape[-1])
        token_mask = self.ecg_fm._check_inputs(input_values, attention_mask, lead_mask)
        if token_mask is None:
            token_mask = torch.ones((batch_size, num_tokens), dtype=torch.bool, device=input_values.device)
        if seeds is not None:
            check_shape("seeds", seeds, (batch_size,))
            seeds = seeds.to(input_values.device)
        elif self.training:
            seeds = torch.randint(2**62, (batch_size,), device=input_values.device)
        else:
            seeds = torch.zeros(batch_size, dtype=torch.long, device=input_values.device)
        num_negatives = config.num_negatives if negative_ids is None else negative_ids.shape[-1]
        sizes = (1 + num_tokens, num_tokens * num_negatives, num_tokens * self.quantizer.weight_proj.out_features)
        for_mask, for_negatives, for_codes = seeded_counters(sum(sizes), device=seeds.device).split(sizes)

        if bool_masked_pos is None:
            bool_masked_pos = draw_spans(seeds, for_mask, token_mask, config.mask_time_prob, config.mask_time_length)
        check_shape("bool_masked_pos", bool_masked_pos, (batch_size, num_tokens))
        bool_masked_pos = bool_masked_pos.bool() & token_mask
        if negative_ids is None:
            negative_ids, counted = draw_negatives(seeds, for_negatives.view(num_tokens, -1), bool_masked_pos)
        else:
            check_shape("negative_ids", negative_ids, (batch_size, num_tokens, None))
            counted = bool_masked_pos
        noise = None
        if self.training:
            shape = (num_tokens, config.num_codevector_groups, config.num_codevectors_per_group)
            noise = -(-seeded_fractions(seeds[:, None, None, None], for_codes.view(shape)).log()).log()

        outputs = self.ecg_fm(input_values, attention_mask, lead_mask, bool_masked_pos, self.mask_embedding, **kwargs)
        features = outputs.extract_features
        quantized, codes, probabilities = self.quantizer(self.ecg_fm.feature_projection.layer_norm(features), noise)
        prediction, target = self.final_proj(outputs.last_hidden_state), self.project_q(quantized)

        # All pairs of tokens of a recording are compared, which needs less memory than a copy of every negative.
        similarity = F.normalize(prediction.float(), dim=2) @ F.normalize(target.float(), dim=2).transpose(1, 2)
        same_codes = (codes[:, :, None] == codes[:, None]).all(dim=3)
        negatives = similarity.gather(2, negative_ids).masked_fill(same_codes.gather(2, negative_ids), -torch.inf)
        positives = similarity.diagonal(dim1=1, dim2=2)[..., None]
        logits = torch.cat((positives, negatives), dim=2) / config.contrastive_logits_temperature
        losses = logits.logsumexp(dim=2) - logits[..., 0]
        contrastive_loss = masked_loss_mean(losses, counted)

        one_hot = F.one_hot(codes, config.num_codevectors_per_group).to(probabilities.dtype)
        prob_perplexity = perplexity(probabilities, bool_masked_pos)
        num_codes = config.num_codevector_groups * config.num_codevectors_per_group
        features_penalty = features.float().square().mean()
        loss = (
            contrastive_loss
            + config.diversity_loss_weight * (1 - prob_perplexity / num_codes)
            + config.features_penalty_weight * features_penalty
        )
        return EcgFmForPreTrainingOutput(
            loss=loss,
            contrastive_loss=contrastive_loss,
            contrastive_logits=logits,
            prediction=prediction,
            target=target,
            quantized=quantized,
            codes=codes,
            bool_masked_pos=bool_masked_pos,
            code_perplexity=perplexity(one_hot, bool_masked_pos).detach(),
            prob_perplexity=prob_perplexity,
            features_penalty=features_penalty,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
        )


class EcgFmForSequenceClassification(EcgFmPreTrainedModel, EcgForSequenceClassification):
    """
    ECG-FM encoder with a linear classifier of the recording on its pooled state, as released, or on attention pooling
    of its tokens (`config.head_type`).

    Example:

    ```python
    >>> import torch
    >>> from clear_hug_hf import EcgFmConfig, EcgFmForSequenceClassification

    >>> config = EcgFmConfig.preset("tiny", id2label={0: "NORM", 1: "MI"}, label2id={"NORM": 0, "MI": 1})
    >>> model = EcgFmForSequenceClassification(config).eval()
    >>> model(torch.randn(2, 12, 2500)).logits.sigmoid().shape
    torch.Size([2, 2])
    ```
    """

    ecg_fm: EcgFmModel
    encoder_class = EcgFmModel
    _keys_to_ignore_on_load_unexpected = [r"^(mask_embedding|quantizer\.|project_q\.|final_proj\.)"]  # noqa: RUF012

    @can_return_tuple
    def forward(
        self,
        input_values: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        lead_mask: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        rhythm: torch.Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> EcgClassifierOutput:
        """Classify recordings. See [`EcgFmModel.forward`] for the inputs and [`classify`] for labels and rhythm."""
        outputs = self.ecg_fm(input_values, attention_mask, lead_mask, **kwargs)
        return self.classify(outputs, labels, rhythm, **kwargs)


__all__ = [
    "EcgFmForPreTraining",
    "EcgFmForPreTrainingOutput",
    "EcgFmForSequenceClassification",
    "EcgFmModel",
    "EcgFmModelOutput",
    "EcgFmPreTrainedModel",
]
