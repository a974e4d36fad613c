"""
ECG-Scan models: representations of ECG images (Pham et al., "Learning ECG Image Representations via Dual
Physiological-Aware Alignments", 2026, arXiv 2604.01526).

**This is an independent implementation of the published idea.** Only the abstract of the paper was available, and no
code. As described there, pages are aligned with signals and texts by contrastive learning, and the 12 leads are
reconstructed from the page under soft lead constraints. All other choices are ours; [`EcgScanConfig`] marks them. The
results of the paper are not claimed.

Shapes: `B` pages, `L` leads (12), `T` samples of the reconstruction, `N` tokens of the vision tower, `D` their hidden
size, `E` dimension of the shared space.
"""

import copy
import inspect
import math
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import torch
from torch import nn
from torch.nn import functional as F
from transformers import AutoConfig, AutoModel, AutoModelForTextEncoding, PreTrainedConfig, PreTrainedModel
from transformers import initialization as init
from transformers.conversion_mapping import register_checkpoint_conversion_mapping
from transformers.core_model_loading import ConversionOps, WeightConverter
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.processing_utils import Unpack
from transformers.utils import ModelOutput, TransformersKwargs
from transformers.utils.generic import can_return_tuple

from .configuration_ecg_scan import EcgScanConfig
from .losses_ecg_scan import (
    find_duplicate_texts,
    gramian_contrastive_loss,
    pairwise_contrastive_loss,
    reconstruction_loss,
    soft_lead_loss,
)
from .modeling_clear_hug import ClearHugModel
from .modeling_ecg import (
    EcgAttention,
    EcgClassifierOutput,
    EcgForSequenceClassification,
    EcgPreTrainedModel,
    check_shape,
    masked_mean,
    sincos_positions,
    validate_kwargs,
)
from .modeling_ecg_jepa import EcgJepaModel


# Imported explicitly, as in the config: saved folders contain only files that are reachable through relative imports.
SIGNAL_MODELS: dict[str, Any] = {model.base_model_prefix: model for model in (ClearHugModel, EcgJepaModel)}
MAX_LOG_SCALE = math.log(100.0)
"""Upper limit of the learned log scales: temperatures are at least 0.01, as in CLIP (Radford et al., 2021)."""
LOG_SCALES = ("pairwise_log_scale", "volume_log_scale")
"""Learned log scales. Their shape is `(1,)`, since FSDP does not support scalars, which older checkpoints contain."""


@dataclass
class EcgScanModelOutput(ModelOutput):
    """
    Output of [`EcgScanModel`].

    Args:
        image_embeds (`torch.FloatTensor` of shape `(batch_size, projection_dim)`, *optional*):
            L2-normalized embeddings of the pages.
        signal_embeds (`torch.FloatTensor` of shape `(batch_size, projection_dim)`, *optional*):
            L2-normalized embeddings of the signals.
        text_embeds (`torch.FloatTensor` of shape `(num_texts, projection_dim)`, *optional*):
            L2-normalized embeddings of the texts.
        logits_per_image (`torch.FloatTensor` of shape `(batch_size, num_texts)`, *optional*):
            Cosine similarities of pages and texts, divided by the pairwise temperature.
        logits_per_text (`torch.FloatTensor` of shape `(num_texts, batch_size)`, *optional*):
            Transpose of `logits_per_image`.
        pooler_output (`torch.FloatTensor` of shape `(batch_size, hidden_size)`, *optional*):
            Pooled feature of the page before projection, which classifiers use.
        image_states (`torch.FloatTensor` of shape `(batch_size, num_tokens, hidden_size)`, *optional*):
            Tokens of the vision tower, or the row-major cells of the last feature map of a convolutional one.
        lead_states (`torch.FloatTensor` of shape `(batch_size, 1, hidden_size)`, *optional*):
            `pooler_output` in the form that heads expect: a page has one state for all leads.
        present_leads (`torch.BoolTensor` of shape `(batch_size, 1)`, *optional*):
            Always True, see `lead_states`.
        hidden_states, attentions (`tuple(torch.FloatTensor)`, *optional*):
            Outputs of the vision tower, if requested and available.
    """

    image_embeds: torch.Tensor | None = None
    signal_embeds: torch.Tensor | None = None
    text_embeds: torch.Tensor | None = None
    logits_per_image: torch.Tensor | None = None
    logits_per_text: torch.Tensor | None = None
    pooler_output: torch.Tensor | None = None
    image_states: torch.Tensor | None = None
    lead_states: torch.Tensor | None = None
    present_leads: torch.Tensor | None = None
    hidden_states: tuple[torch.Tensor, ...] | None = None
    attentions: tuple[torch.Tensor, ...] | None = None

    token_mask: ClassVar[None] = None  # a page has all of its tokens

    @property
    def last_hidden_state(self) -> torch.Tensor | None:
        """`image_states` by the name that heads expect."""
        return self.image_states


@dataclass
class EcgScanForPreTrainingOutput(ModelOutput):
    """
    Output of [`EcgScanForPreTraining`].

    Args:
        loss (`torch.FloatTensor` of shape `()`, *optional*):
            Weighted sum of the next four terms.
        loss_volume, loss_pairwise, loss_reconstruction, loss_lead (`torch.FloatTensor` of shape `()`):
            Unweighted terms; 0 if the batch does not contain the required inputs. The last two are
            [`reconstruction_loss`] and [`soft_lead_loss`] [mV^2] divided by `config.huber_delta ** 2`.
        top1 (`torch.FloatTensor` of shape `()`):
            Fraction of pages whose own signal has the highest cosine similarity in the batch.
        duplicate_texts (`torch.FloatTensor` of shape `()`):
            Fraction of pairs of different recordings that have the same text and are not used as negatives.
        reconstruction (`torch.FloatTensor` of shape `(batch_size, num_leads, num_samples)`):
            Reconstructed leads [mV], including samples that are not visible on the page.
        image_embeds, signal_embeds, text_embeds, pooler_output:
            See [`EcgScanModelOutput`].
    """

    loss: torch.Tensor | None = None
    loss_volume: torch.Tensor | None = None
    loss_pairwise: torch.Tensor | None = None
    loss_reconstruction: torch.Tensor | None = None
    loss_lead: torch.Tensor | None = None
    top1: torch.Tensor | None = None
    duplicate_texts: torch.Tensor | None = None
    reconstruction: torch.Tensor | None = None
    image_embeds: torch.Tensor | None = None
    signal_embeds: torch.Tensor | None = None
    text_embeds: torch.Tensor | None = None
    pooler_output: torch.Tensor | None = None


# ----------------------------------------------------------------------------------------------------------- decoder


def plane_positions(height: int, width: int, size: int, device: torch.device) -> torch.Tensor:
    """
    Sinusoidal position embeddings `(height * width, size)` of a feature map; one half encodes rows, the other columns.
    """
    # Computed on the GPU to avoid a synchronizing copy. Other devices may not support double precision.
    device = device if device.type == "cuda" else torch.device("cpu")
    rows = torch.arange(height, device=device).repeat_interleave(width)
    columns = torch.arange(width, device=device).repeat(height)
    return torch.cat((sincos_positions(rows, size // 2), sincos_positions(columns, size // 2)), dim=1).float()


class EcgScanDecoderLayer(GradientCheckpointingLayer):
    """Pre-norm decoder layer: self-attention of the queries, cross-attention to the page, feed-forward network."""

    def __init__(self, config: EcgScanConfig):
        super().__init__()
        width, num_heads, eps = config.decoder_hidden_size, config.decoder_num_attention_heads, config.layer_norm_eps
        self.self_attention_norm = nn.LayerNorm(width, eps=eps)
        self.self_attention = EcgAttention(config, width, num_heads)
        self.cross_attention_norm = nn.LayerNorm(width, eps=eps)
        self.cross_attention = EcgAttention(config, width, num_heads)
        self.feed_forward_norm = nn.LayerNorm(width, eps=eps)
        self.fc1 = nn.Linear(width, config.decoder_intermediate_size)
        self.fc2 = nn.Linear(config.decoder_intermediate_size, width)

    def forward(
        self, queries: torch.Tensor, tokens: torch.Tensor, **kwargs: Unpack[TransformersKwargs]
    ) -> torch.Tensor:
        normed = self.self_attention_norm(queries)
        queries = queries + self.self_attention(normed, **kwargs)[0]
        normed = self.cross_attention_norm(queries)
        queries = queries + self.cross_attention(normed, key_value_states=tokens, **kwargs)[0]
        return queries + self.fc2(F.gelu(self.fc1(self.feed_forward_norm(queries))))


class EcgScanDecoder(nn.Module):
    """
    Reconstructs the 12 leads from all tokens of a page, with one learned query per lead and time segment.
    """

    def __init__(self, config: EcgScanConfig):
        super().__init__()
        self.config = config
        width = config.decoder_hidden_size
        self.embed = nn.Linear(config.hidden_size, width)
        self.token_norm = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.lead_queries = nn.Parameter(torch.zeros(config.num_leads, 1, width))
        self.time_queries = nn.Parameter(torch.zeros(1, config.num_queries, width))
        self.layers = nn.ModuleList(EcgScanDecoderLayer(config) for _ in range(config.decoder_num_hidden_layers))
        self.norm = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.samples = nn.Linear(width, config.decoder_query_samples)

    def forward(
        self, tokens: torch.Tensor, grid: tuple[int, int] | None, **kwargs: Unpack[TransformersKwargs]
    ) -> torch.Tensor:
        """
        Reconstruct leads `(B, L, T)` [mV] from the tokens `(B, N, D)` of the vision tower. Position embeddings of a
        `grid` (rows and columns) are added to the last tokens; preceding ones, such as a class token, have none.
        """
        tokens = self.embed(tokens)
        if grid is not None:
            positions = plane_positions(*grid, tokens.shape[2], tokens.device).to(tokens)
            tokens = tokens + F.pad(positions, (0, 0, tokens.shape[1] - len(positions), 0))
        tokens = self.token_norm(tokens)
        queries = (self.lead_queries + self.time_queries).flatten(0, 1)
        queries = queries.to(tokens.dtype).expand(len(tokens), -1, -1)
        for layer in self.layers:
            queries = layer(queries, tokens, **kwargs)
        samples = self.samples(self.norm(queries))
        return samples.view(len(tokens), self.config.num_leads, self.config.num_samples)


# ------------------------------------------------------------------------------------------------------------ models


class EcgScanPreTrainedModel(EcgPreTrainedModel):
    """Base class of the ECG-Scan models."""

    config: EcgScanConfig
    base_model_prefix = "ecg_scan"
    main_input_name = "pixel_values"
    input_modalities = ("image", "text")
    _no_split_modules = ["EcgScanDecoderLayer"]  # noqa: RUF012
    # The decoder uses no attention masks.
    _supports_flash_attn = True
    _supports_flex_attn = True

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any) -> None:
        for name in LOG_SCALES:
            saved = state_dict.get(prefix + name)
            if saved is not None:
                state_dict[prefix + name] = saved.reshape(1)
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        std = self.config.initializer_range
        if isinstance(module, EcgScanDecoder):
            # Queries must differ initially; otherwise they all attend to the same tokens.
            init.normal_(module.lead_queries, std=0.5)
            init.normal_(module.time_queries, std=0.5)
            init.normal_(module.samples.weight, std=std)
        elif isinstance(module, EcgScanModel):
            if module.pairwise_log_scale is not None:
                init.constant_(module.pairwise_log_scale, -math.log(self.config.temperature_init))
        elif isinstance(module, EcgScanForPreTraining):
            init.constant_(module.volume_log_scale, -math.log(self.config.temperature_init))

    @classmethod
    def from_towers(
        cls,
        config: EcgScanConfig,
        vision: str | None = None,
        signal: str | None = None,
        text: str | None = None,
    ) -> Self:
        """
        Create a model with pre-trained towers. All other weights are randomly initialized.

        Args:
            config ([`EcgScanConfig`]):
                Configuration. The configs of the given towers replace its own.
            vision (`str`, *optional*):
                Name or folder of a vision backbone of transformers, or of a model that contains one, such as CLIP.
            signal (`str`, *optional*):
                Name or folder of a signal model of this package.
            text (`str`, *optional*):
                Name or folder of a text encoder of transformers.

        Raises:
            `ValueError`: if a tower is of an unsupported type or weights are missing.
        """
        towers: dict[str, PreTrainedModel] = {}
        if vision is not None:
            tower_config = AutoConfig.from_pretrained(vision)
            tower_config = getattr(tower_config, "vision_config", tower_config)
            towers["vision_model"] = _load_complete(AutoModel, vision, config=tower_config)
        if signal is not None:
            model_type = AutoConfig.from_pretrained(signal).model_type
            if model_type not in SIGNAL_MODELS:
                raise ValueError(
                    f"{signal} has the model_type {model_type!r}: choose one of {', '.join(SIGNAL_MODELS)}."
                )
            towers["signal_model"] = _load_complete(SIGNAL_MODELS[model_type], signal)
        if text is not None:
            towers["text_model"] = _load_complete(AutoModelForTextEncoding, text)
        fields = config.to_dict()
        for name, tower in towers.items():
            fields[name.replace("_model", "_config")] = tower.config
        model = cls(type(config)(**{key: value for key, value in fields.items() if key != "model_type"}))
        base = model.base_model
        for name, tower in towers.items():
            missing, _ = getattr(base, name).load_state_dict(tower.state_dict(), strict=False)
            if missing:
                raise ValueError(f"weights of {name} are missing: {missing[0]} and {len(missing) - 1} others.")
        return model


class _AsVector(ConversionOps):
    """Loads log scales that were saved as scalars or vectors."""

    def convert(self, input_dict: dict[str, Any], *args: Any, **kwargs: Any) -> dict[str, Any]:
        return {
            name: (value[0] if isinstance(value, list) else value).reshape(1) for name, value in input_dict.items()
        }

    @property
    def reverse_op(self) -> ConversionOps:
        return self


register_checkpoint_conversion_mapping(
    EcgScanConfig.model_type, [WeightConverter(name, name, [_AsVector()]) for name in LOG_SCALES], overwrite=True
)


def _load_complete(auto_class: Any, name: str, **kwargs: Any) -> PreTrainedModel:
    model, info = auto_class.from_pretrained(name, output_loading_info=True, **kwargs)
    # Checkpoints of encoders often lack the pooler, which is not used here.
    if missing := [key for key in info["missing_keys"] if not key.startswith("pooler.")]:
        raise ValueError(
            f"{name} is not a complete {type(model).__name__}: {missing[0]} and {len(missing) - 1} other weights are "
            "missing."
        )
    return model


def _without_pooler(auto_class: Any, config: PreTrainedConfig) -> PreTrainedModel:
    """Create an encoder without pooling layer if possible, since an unused layer would receive no gradient."""
    try:
        return auto_class.from_config(config, add_pooling_layer=False)
    except TypeError:
        return auto_class.from_config(config)


class EcgScanModel(EcgScanPreTrainedModel):
    """
    Vision tower, signal teacher and text encoder, each with a linear projection to a shared embedding space.

    With a config without teachers, the model consists of the vision tower only.

    Example:

    ```python
    >>> import torch
    >>> from clear_hug_hf import EcgScanConfig, EcgScanModel

    >>> model = EcgScanModel(EcgScanConfig.preset("tiny")).eval()
    >>> model.get_image_features(torch.zeros(2, 3, 192, 256)).shape
    torch.Size([2, 128])
    ```
    """

    _keys_to_ignore_on_load_unexpected = [  # noqa: RUF012
        r"^decoder\.",
        r"^volume_log_scale$",
        r"^head\.",
        r"^classifier\.",
        # Unused with a config without teachers.
        r"(signal|text)_model\.",
        r"(image|signal|text)_projection\.",
        r"pairwise_log_scale$",
    ]

    def __init__(self, config: EcgScanConfig):
        super().__init__(config)
        width = config.projection_dim
        pooled = config.image_pooling == "pooler"
        self.vision_model = (
            AutoModel.from_config(config.vision_config) if pooled else _without_pooler(AutoModel, config.vision_config)
        )
        self.signal_model = None
        if config.signal_config is not None:
            self.signal_model = SIGNAL_MODELS[config.signal_config.model_type](config.signal_config)
        self.text_model = None
        if config.text_config is not None:
            self.text_model = _without_pooler(AutoModelForTextEncoding, config.text_config)
        self.signal_projection = self.text_projection = self.image_projection = self.pairwise_log_scale = None
        if config.signal_embed_dim is not None:
            self.signal_projection = nn.Linear(config.signal_embed_dim, width)
        if config.text_embed_dim is not None:
            self.text_projection = nn.Linear(config.text_embed_dim, width)
        if self.signal_projection is not None or self.text_projection is not None:
            self.image_projection = nn.Linear(config.hidden_size, width)
            self.pairwise_log_scale = nn.Parameter(torch.full((1,), -math.log(config.temperature_init)))
        self.post_init()
        self._unused_parameters = [] if config.freeze_vision else self._find_unused_parameters()
        self.train(self.training)

    def _find_unused_parameters(self) -> list[str]:
        """
        Find parameters of the vision tower that affect neither pooled feature nor tokens, for example the norm of
        CLIP's class token with mean pooling. In distributed training, every trainable parameter must get a gradient.
        """
        # A forward pass on the meta device needs no memory and draws no random numbers.
        tensors = {
            name: torch.empty_like(tensor, device="meta").requires_grad_(tensor.is_floating_point())
            for name, tensor in (*self.named_parameters(), *self.named_buffers())
            if name.startswith(("vision_model.", "image_projection."))
        }
        names = [name for name, _ in self.vision_model.named_parameters()]
        pixels = torch.empty((1, 3, *self.config.image_size), device="meta")
        self.vision_model.eval()
        try:
            with torch.enable_grad():
                output = torch.func.functional_call(self, tensors, (pixels,), {"return_dict": True})
                total = (output.pooler_output.sum() + output.image_states.sum()).float()
                parameters = [tensors[f"vision_model.{name}"] for name in names]
                gradients = torch.autograd.grad(total, parameters, allow_unused=True)
        except (RuntimeError, ValueError):
            return []  # the tower depends on data or does not match its config, which `forward` will report
        finally:
            self.vision_model.train()
        return [name for name, gradient in zip(names, gradients, strict=True) if gradient is None]

    def train(self, mode: bool = True) -> "EcgScanModel":
        """
        Set the training mode. Frozen towers stay in evaluation mode and, like unused parameters, without gradients.
        """
        super().train(mode)
        # Repeated here because loading sets `requires_grad` of all parameters.
        for name in ("vision", "signal", "text"):
            tower = getattr(self, f"{name}_model")
            if tower is not None and getattr(self.config, f"freeze_{name}"):
                tower.requires_grad_(False).eval()
        for name in self._unused_parameters:
            self.vision_model.get_parameter(name).requires_grad_(False)
        return self

    def get_input_embeddings(self) -> nn.Module:
        try:
            return self.vision_model.get_input_embeddings()
        except NotImplementedError:  # not defined by convolutional models of transformers
            return next(module for module in self.vision_model.modules() if isinstance(module, nn.Conv2d))

    def encode_pages(
        self, pixel_values: torch.Tensor, **kwargs: Unpack[TransformersKwargs]
    ) -> tuple[torch.Tensor, torch.Tensor, tuple[int, int] | None, Any]:
        """Encode pages to pooled features, tokens, the token grid (rows and columns), and the output of the tower."""
        config = self.config
        kwargs = validate_kwargs(kwargs)  # type: ignore[assignment]
        check_shape("pixel_values", pixel_values, (None, 3, *config.image_size))
        vision: Any = config.vision_config
        tower_size = getattr(vision, "image_size", None)
        tower_size = [tower_size, tower_size] if isinstance(tower_size, int) else tower_size
        arguments = inspect.signature(self.vision_model.forward).parameters
        resized = tower_size is not None and list(tower_size) != list(config.image_size)
        if resized and "interpolate_pos_encoding" in arguments:
            kwargs["interpolate_pos_encoding"] = True  # type: ignore[typeddict-unknown-key]
        with torch.set_grad_enabled(torch.is_grad_enabled() and not config.freeze_vision):
            outputs = self.vision_model(pixel_values, **kwargs)
        states = outputs.last_hidden_state
        grid: tuple[int, int] | None = None
        if states.ndim == 4:
            grid = (states.shape[2], states.shape[3])
            states = states.flatten(2).transpose(1, 2)
        elif isinstance(patch := getattr(vision, "patch_size", None), int):
            rows, columns = (side // patch for side in config.image_size)
            grid = (rows, columns) if rows * columns <= states.shape[1] else None
        if config.image_pooling == "pooler":
            feature = getattr(outputs, "pooler_output", None)
            if feature is None:
                raise ValueError(f"{type(self.vision_model).__name__} has no pooler: set image_pooling='mean'.")
            feature = feature.flatten(1)
        else:
            feature = states[:, 0] if config.image_pooling == "first" else states.mean(dim=1)
        return feature, states, grid, outputs

    def encode_signals(self, **inputs: torch.Tensor) -> torch.Tensor:
        """
        Encode recordings, prepared by the feature extractor of the teacher, with the signal teacher: the mean of the
        states of the present leads `(B, signal_embed_dim)`, before projection.

        Raises:
            `ValueError`: if the model has no signal teacher.
        """
        if self.signal_model is None:
            raise ValueError("the model has no signal encoder: set signal_config, or pass signal_embeds.")
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.config.freeze_signal):
            outputs = self.signal_model(**inputs)
        return masked_mean(outputs.lead_states, outputs.present_leads)

    def encode_texts(self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None) -> torch.Tensor:
        """
        Encode token ids `(B, S)` with the text encoder: pooled states `(B, text_embed_dim)`, before projection. The
        `attention_mask` `(B, S)` is 0 for padding.

        Raises:
            `ValueError`: if the model has no text encoder.
        """
        if self.text_model is None:
            raise ValueError("the model has no text encoder: set text_config, or pass text_embeds.")
        attention_mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.config.freeze_text):
            states = self.text_model(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        if self.config.text_pooling == "first":
            return states[:, 0]
        return masked_mean(states, attention_mask)

    def project(self, modality: str, states: torch.Tensor) -> torch.Tensor:
        """L2-normalized projections of pooled states; `modality` is `"image"`, `"signal"` or `"text"`."""
        projection = getattr(self, f"{modality}_projection")
        if projection is None:
            raise ValueError(f"the model has no {modality} projection because its config defines no teacher for it.")
        return F.normalize(projection(states).float(), dim=1)

    def get_image_features(self, pixel_values: torch.Tensor, **kwargs: Unpack[TransformersKwargs]) -> torch.Tensor:
        """
        L2-normalized embeddings `(B, projection_dim)` of pages `(B, 3, height, width)` from [`EcgScanImageProcessor`].
        """
        return self.project("image", self.encode_pages(pixel_values, **kwargs)[0])

    def get_signal_features(self, **inputs: torch.Tensor) -> torch.Tensor:
        """
        L2-normalized embeddings `(B, projection_dim)` of signals, see [`encode_signals`].
        """
        return self.project("signal", self.encode_signals(**inputs))

    def get_text_features(self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None) -> torch.Tensor:
        """
        L2-normalized embeddings `(B, projection_dim)` of texts, see [`encode_texts`].
        """
        return self.project("text", self.encode_texts(input_ids, attention_mask))

    @can_return_tuple
    def forward(
        self,
        pixel_values: torch.Tensor | None = None,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        signal_inputs: dict[str, torch.Tensor] | None = None,
        signal_embeds: torch.Tensor | None = None,
        text_embeds: torch.Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> EcgScanModelOutput:
        r"""
        Args:
            pixel_values (`torch.FloatTensor` of shape `(batch_size, 3, height, width)`, *optional*):
                Pages from [`EcgScanImageProcessor`].
            input_ids, attention_mask (`torch.Tensor` of shape `(num_texts, sequence_length)`, *optional*):
                Tokenized texts.
            signal_inputs (`dict[str, torch.Tensor]`, *optional*):
                Recordings, prepared by the feature extractor of the teacher.
            signal_embeds (`torch.FloatTensor` of shape `(batch_size, signal_embed_dim)`, *optional*):
                Precomputed outputs of [`encode_signals`], instead of `signal_inputs`.
            text_embeds (`torch.FloatTensor` of shape `(num_texts, text_embed_dim)`, *optional*):
                Precomputed outputs of [`encode_texts`], instead of `input_ids`.

        Raises:
            `ValueError`: if all inputs are missing, an input has the wrong shape, or the model has no tower for it.
        """
        results: dict[str, Any] = {}
        if pixel_values is not None:
            feature, states, _, outputs = self.encode_pages(pixel_values, **kwargs)
            results |= {"pooler_output": feature, "image_states": states, "lead_states": feature[:, None]}
            results["present_leads"] = torch.ones((len(feature), 1), dtype=torch.bool, device=feature.device)
            results |= {name: getattr(outputs, name, None) for name in ("hidden_states", "attentions")}
            if self.image_projection is not None:
                results["image_embeds"] = self.project("image", feature)
        if signal_embeds is None and signal_inputs is not None:
            signal_embeds = self.encode_signals(**signal_inputs)
        if text_embeds is None and input_ids is not None:
            text_embeds = self.encode_texts(input_ids, attention_mask)
        if signal_embeds is not None:
            check_shape("signal_embeds", signal_embeds, (None, self.config.signal_embed_dim))
            results["signal_embeds"] = self.project("signal", signal_embeds)
        if text_embeds is not None:
            check_shape("text_embeds", text_embeds, (None, self.config.text_embed_dim))
            results["text_embeds"] = self.project("text", text_embeds)
        if not results:
            raise ValueError("no inputs were passed: pass pixel_values, texts or signals.")
        if "image_embeds" in results and "text_embeds" in results:
            assert self.pairwise_log_scale is not None
            scale = self.pairwise_log_scale.float().clamp(max=MAX_LOG_SCALE).exp()
            results["logits_per_image"] = results["image_embeds"] @ results["text_embeds"].T * scale
            results["logits_per_text"] = results["logits_per_image"].T
        return EcgScanModelOutput(**results)


class EcgScanForPreTraining(EcgScanPreTrainedModel):
    """
    ECG-Scan pre-training: contrastive alignment of pages with signals and texts, and reconstruction of the 12 leads
    from the page under soft lead constraints.

    The contrastive losses compare the recordings of one micro-batch. Recordings without a text contribute to the
    pairwise loss with signals and to the reconstruction. The config must define a signal teacher, a text encoder, or
    the size of their embeddings.
    """

    # Logged by the training loop in addition to the loss.
    monitors = ("loss_volume", "loss_pairwise", "loss_reconstruction", "loss_lead", "top1", "duplicate_texts")

    def __init__(self, config: EcgScanConfig):
        super().__init__(config)
        if config.signal_embed_dim is None and config.text_embed_dim is None:
            raise ValueError(
                "the config defines neither signals nor texts to align pages with: set signal_config, text_config, "
                "signal_embed_dim or text_embed_dim."
            )
        self.ecg_scan = EcgScanModel(config)
        self.decoder = EcgScanDecoder(config)
        self.volume_log_scale = nn.Parameter(torch.full((1,), -math.log(config.temperature_init)))
        self.post_init()
        self.train(self.training)

    def train(self, mode: bool = True) -> "EcgScanForPreTraining":
        """Set the training mode. The log scale of the volume is frozen in models without signals or texts."""
        super().train(mode)
        if self.config.signal_embed_dim is None or self.config.text_embed_dim is None:
            self.volume_log_scale.requires_grad_(False)
        return self

    def reconstruct(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """
        Reconstruct the leads `(B, 12, num_samples)` [mV] at `config.sampling_rate` from pages `(B, 3, height, width)`
        that were prepared by [`EcgScanImageProcessor`].
        """
        _, states, grid, _ = self.ecg_scan.encode_pages(pixel_values)
        return self.decoder(states, grid)

    @can_return_tuple
    def forward(
        self,
        pixel_values: torch.Tensor,
        waveforms: torch.Tensor | None = None,
        drawn_mask: torch.Tensor | None = None,
        signal_mask: torch.Tensor | None = None,
        identity_mask: torch.Tensor | None = None,
        signal_embeds: torch.Tensor | None = None,
        signal_inputs: dict[str, torch.Tensor] | None = None,
        text_embeds: torch.Tensor | None = None,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        text_mask: torch.Tensor | None = None,
        text_ids: torch.Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> EcgScanForPreTrainingOutput:
        r"""
        Args:
            pixel_values (`torch.FloatTensor` of shape `(batch_size, 3, height, width)`):
                Pages.
            waveforms (`torch.FloatTensor` of shape `(batch_size, 12, num_samples)`, *optional*):
                Recordings shown on the pages [mV], the targets of the reconstruction.
            drawn_mask (`torch.BoolTensor` of shape `(batch_size, 12, num_samples)`, *optional*):
                True for samples that are visible on the page; all by default.
            signal_mask (`torch.BoolTensor` of shape `(batch_size, 12, num_samples)`, *optional*):
                True for samples that were recorded; all by default.
            identity_mask (`torch.BoolTensor` of shape `(batch_size,)`, *optional*):
                True for recordings whose limb leads satisfy the identities; all by default.
            signal_embeds, signal_inputs, text_embeds, input_ids, attention_mask:
                See [`EcgScanModel.forward`]. One signal and one text per page.
            text_mask (`torch.BoolTensor` of shape `(batch_size,)`, *optional*):
                True for recordings that have a text; all by default.
            text_ids (`torch.LongTensor` of shape `(batch_size,)`, *optional*):
                Equal for identical texts, which are not used as negatives of each other. All different by default.

        Raises:
            `ValueError`: if an input has the wrong shape, or signals, texts and waveforms are all missing.
        """
        config, base = self.config, self.ecg_scan
        alignment_inputs = (signal_embeds, signal_inputs, text_embeds, input_ids)
        if waveforms is None and all(value is None for value in alignment_inputs):
            raise ValueError("no training targets were passed: pass signals, texts or waveforms with the pages.")
        if input_ids is not None and text_ids is not None and text_embeds is None:
            text_embeds = self._encode_unique_texts(input_ids, attention_mask, text_ids)
        feature, states, grid, _ = base.encode_pages(pixel_values, **kwargs)
        image = base.project("image", feature)
        signal, text = self._embed_signals_and_texts(
            len(image),
            input_ids=input_ids,
            attention_mask=attention_mask,
            signal_inputs=signal_inputs,
            signal_embeds=signal_embeds,
            text_embeds=text_embeds,
        )

        terms = self._contrastive_terms(image, signal, text, text_mask, text_ids)
        reconstruction = self.decoder(states, grid, **kwargs)
        terms |= self._reconstruction_terms(reconstruction, waveforms, drawn_mask, signal_mask, identity_mask)
        loss = (
            config.volume_weight * terms["loss_volume"]
            + config.pairwise_weight * terms["loss_pairwise"]
            + config.reconstruction_weight * terms["loss_reconstruction"]
            + config.lead_weight * terms["loss_lead"]
        )
        return EcgScanForPreTrainingOutput(
            loss=loss,
            **{name: term.detach() for name, term in terms.items()},
            reconstruction=reconstruction,
            image_embeds=image,
            signal_embeds=signal,
            text_embeds=text,
            pooler_output=feature,
        )

    def _encode_unique_texts(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None, text_ids: torch.Tensor
    ) -> torch.Tensor:
        """Encode every distinct text once, since many recordings have the same."""
        unique_ids, inverse = torch.unique(text_ids, return_inverse=True)
        rows = torch.arange(len(inverse), device=inverse.device)
        first = torch.full_like(unique_ids, len(inverse)).scatter_reduce(0, inverse, rows, "amin")
        attention_mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        return self.ecg_scan.encode_texts(input_ids[first], attention_mask[first])[inverse]

    def _embed_signals_and_texts(
        self, num_pages: int, **inputs: Any
    ) -> tuple[torch.Tensor | None, torch.Tensor | None]:
        """L2-normalized embeddings of signals and texts, if given."""
        if all(value is None for value in inputs.values()):
            return None, None
        outputs = self.ecg_scan(**inputs)
        for name in ("signal_embeds", "text_embeds"):
            embeds = outputs.get(name)
            if embeds is not None and len(embeds) != num_pages:
                raise ValueError(f"{name} must have one row for each of the {num_pages} pages, got {len(embeds)}.")
        return outputs.signal_embeds, outputs.text_embeds

    # The methods below avoid reading values from the device, which would synchronize.

    def _contrastive_terms(
        self,
        image: torch.Tensor,
        signal: torch.Tensor | None,
        text: torch.Tensor | None,
        text_mask: torch.Tensor | None,
        text_ids: torch.Tensor | None,
    ) -> dict[str, torch.Tensor]:
        """Unweighted contrastive losses and metrics."""
        smoothing = float(self.config.label_smoothing)
        assert self.ecg_scan.pairwise_log_scale is not None
        scale = self.ecg_scan.pairwise_log_scale.clamp(max=MAX_LOG_SCALE)
        terms = dict.fromkeys(("loss_volume", "loss_pairwise", "top1", "duplicate_texts"), image.new_zeros(()))
        pairwise: list[torch.Tensor] = []
        count: int | torch.Tensor = 0
        if signal is not None:
            pairwise.append(pairwise_contrastive_loss(image, signal, scale, None, smoothing))
            count = 1
            nearest = (image.detach() @ signal.detach().T).argmax(dim=1)
            terms["top1"] = (nearest == torch.arange(len(nearest), device=nearest.device)).float().mean()
        if text is not None:
            has_text = torch.ones(len(text), dtype=torch.bool, device=text.device) if text_mask is None else text_mask
            duplicates = None
            if text_ids is not None:
                duplicates, terms["duplicate_texts"] = find_duplicate_texts(text_ids, has_text)
            pairwise.append(pairwise_contrastive_loss(image, text, scale, duplicates, smoothing, has_text))
            count = (count + has_text.any()).clamp(min=1)
            if signal is not None:
                scale = self.volume_log_scale.clamp(max=MAX_LOG_SCALE)
                normalize = self.config.normalize_volume
                terms["loss_volume"] = gramian_contrastive_loss(
                    image, signal, text, scale, duplicates, smoothing, normalize, has_text
                )
        if pairwise:
            terms["loss_pairwise"] = torch.stack(pairwise).sum() / count
        return terms

    def _reconstruction_terms(
        self,
        reconstruction: torch.Tensor,
        waveforms: torch.Tensor | None,
        drawn_mask: torch.Tensor | None,
        signal_mask: torch.Tensor | None,
        identity_mask: torch.Tensor | None,
    ) -> dict[str, torch.Tensor]:
        """Unweighted reconstruction losses."""
        config, shape = self.config, tuple(reconstruction.shape)
        if waveforms is None:
            # In distributed training, every trainable parameter must get a gradient, even if it is zero.
            waveforms = torch.zeros_like(reconstruction)
            signal_mask = torch.zeros_like(reconstruction, dtype=torch.bool)
            identity_mask = signal_mask[:, 0, 0]
        check_shape("waveforms", waveforms, shape)
        weights = torch.ones_like(reconstruction, dtype=torch.float32)
        if drawn_mask is not None:
            check_shape("drawn_mask", drawn_mask, shape)
            weights = torch.where(drawn_mask, 1.0, float(config.unseen_weight))
        if signal_mask is not None:
            check_shape("signal_mask", signal_mask, shape)
            weights = weights * signal_mask
        # Expressed in units of `huber_delta ** 2`, since both would be negligible in mV^2.
        delta = float(config.huber_delta)
        terms = {
            "loss_reconstruction": reconstruction_loss(reconstruction, waveforms, weights, delta) / delta**2,
            "loss_lead": weights.new_zeros(()),
        }
        if list(config.lead_names[:6]) == ["I", "II", "III", "aVR", "aVL", "aVF"]:
            terms["loss_lead"] = soft_lead_loss(reconstruction, identity_mask) / delta**2
        return terms


class EcgScanForImageClassification(EcgScanPreTrainedModel, EcgForSequenceClassification):
    """
    Vision tower with a linear classifier on the pooled feature of the page, or on attention pooling of its tokens
    (`config.head_type`). It contains no teachers.

    Example:

    ```python
    >>> import torch
    >>> from clear_hug_hf import EcgScanConfig, EcgScanForImageClassification

    >>> config = EcgScanConfig.preset("tiny", id2label={0: "NORM", 1: "MI"}, label2id={"NORM": 0, "MI": 1})
    >>> model = EcgScanForImageClassification(config).eval()
    >>> model(torch.zeros(2, 3, 192, 256)).logits.sigmoid().shape
    torch.Size([2, 2])
    ```
    """

    ecg_scan: EcgScanModel
    encoder_class = EcgScanModel

    def __init__(self, config: EcgScanConfig):
        config = copy.deepcopy(config)
        config.signal_config = config.text_config = config.signal_embed_dim = config.text_embed_dim = None
        super().__init__(config)

    @can_return_tuple
    def forward(
        self,
        pixel_values: torch.Tensor,
        labels: torch.Tensor | None = None,
        rhythm: torch.Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> EcgClassifierOutput:
        """Classify pages. See [`EcgScanModel.forward`] for the inputs and [`classify`] for labels and rhythm."""
        return self.classify(self.ecg_scan(pixel_values, **kwargs), labels, rhythm, **kwargs)


__all__ = [
    "EcgScanForImageClassification",
    "EcgScanForPreTraining",
    "EcgScanForPreTrainingOutput",
    "EcgScanModel",
    "EcgScanModelOutput",
    "EcgScanPreTrainedModel",
]
