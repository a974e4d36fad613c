"""
The ECG-Scan models: representations of pictures of ECGs ("Learning ECG Image Representations via Dual
Physiological-Aware Alignments", Pham et al., arXiv 2604.01526).

**An implementation of the published idea.** Of the paper only the abstract could be read, and no code was found: pages
are aligned with signals and texts by contrast, and the 12 leads are rebuilt from the page under soft constraints that
leads obey ([READ] in the abstract). Where the paper is silent, these are our choices; [`EcgScanConfig`] says for each
field which it is. No number of the paper is claimed.

Shapes: `B` pages, `L` leads (12), `T` samples of the reconstruction, `N` tokens of the vision tower, `D` their width,
`E` the width of the shared space.
"""

import copy
import inspect
import math
from dataclasses import dataclass
from typing import Any, Self

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
    gramian_contrastive_loss,
    pairwise_contrastive_loss,
    reconstruction_loss,
    same_texts,
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


# As in the config, imported by name: a saved folder holds only the files that are imported from the first one on.
SIGNAL_MODELS: dict[str, Any] = {one.base_model_prefix: one for one in (ClearHugModel, EcgJepaModel)}
MAX_LOG_SCALE = math.log(100.0)
"""Temperatures stay above 0.01, as CLIP's."""
LOG_SCALES = ("pairwise_log_scale", "volume_log_scale")
"""Learned temperatures, of shape `(1,)`: FSDP takes no parameters of shape `()`, as which they were saved before."""


@dataclass
class EcgScanModelOutput(ModelOutput):
    """
    Output of [`EcgScanModel`].

    Args:
        image_embeds (`torch.FloatTensor` of shape `(batch_size, projection_dim)`, *optional*):
            Pages in the shared space, of unit length.
        signal_embeds (`torch.FloatTensor` of shape `(batch_size, projection_dim)`, *optional*):
            Signals in the shared space, of unit length.
        text_embeds (`torch.FloatTensor` of shape `(num_texts, projection_dim)`, *optional*):
            Texts in the shared space, of unit length.
        logits_per_image (`torch.FloatTensor` of shape `(batch_size, num_texts)`, *optional*):
            Cosines of pages and texts over the pairwise temperature; `logits_per_text` is its transpose.
        logits_per_text (`torch.FloatTensor` of shape `(num_texts, batch_size)`, *optional*)
        pooler_output (`torch.FloatTensor` of shape `(batch_size, hidden_size)`, *optional*):
            What the vision tower makes of a page, before the shared space: the feature that classifiers read.
        image_states (`torch.FloatTensor` of shape `(batch_size, num_tokens, hidden_size)`, *optional*):
            The tower's tokens, of a convolutional one the places of its last map row by row.
        lead_states (`torch.FloatTensor` of shape `(batch_size, 1, hidden_size)`, *optional*):
            `pooler_output` under the name by which heads find their input in every model of this package: a page has
            one state for all leads.
        present_leads (`torch.BoolTensor` of shape `(batch_size, 1)`, *optional*):
            True, beside it.
        hidden_states, attentions (`tuple(torch.FloatTensor)`, *optional*):
            Of the vision tower, where they are asked for and it has them.
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


@dataclass
class EcgScanForPreTrainingOutput(ModelOutput):
    """
    Output of [`EcgScanForPreTraining`].

    Args:
        loss (`torch.FloatTensor` of shape `()`, *optional*):
            The weighted sum of those of the next four that the batch has what is needed for.
        loss_volume, loss_pairwise, loss_reconstruction, loss_lead (`torch.FloatTensor` of shape `()`):
            The terms before their weights; 0 where the batch lacks what they need. Those of reconstruction and leads
            are [`reconstruction_loss`] and [`soft_lead_loss`] [mV^2] over the square of `config.huber_delta` [mV].
        top1 (`torch.FloatTensor` of shape `()`):
            Share of the pages whose own signal is the nearest of the batch by cosine: 1 over the batch size by chance.
        duplicate_texts (`torch.FloatTensor` of shape `()`):
            Pairs of different recordings with one text, which are no negatives, as a share of all pairs.
        reconstruction (`torch.FloatTensor` of shape `(batch_size, num_leads, num_samples)`):
            The leads as the page shows them, and what it does not show [mV].
        image_embeds, signal_embeds, text_embeds, pooler_output:
            As [`EcgScanModelOutput`].
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
    Sines and cosines of the rows and columns of a map, `(height * width, size)`: half of the features for each.
    """
    # A GPU computes them itself: it would be waited for to copy them there. Others may lack double precision.
    device = device if device.type == "cuda" else torch.device("cpu")
    rows = torch.arange(height, device=device).repeat_interleave(width)
    columns = torch.arange(width, device=device).repeat(height)
    return torch.cat((sincos_positions(rows, size // 2), sincos_positions(columns, size // 2)), dim=1).float()


class EcgScanDecoderLayer(GradientCheckpointingLayer):
    """A pre-norm layer: queries look at each other, then at the page, then each is transformed by itself."""

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
    Draws the 12 leads from the tokens of a page: one learned query for each lead and stretch of time.

    It reads all tokens: one vector of a page cannot hold 12,000 samples [CHOICE].
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
        The leads `(B, L, T)` [mV] from the vision tower's tokens `(B, N, D)`. `grid` are the rows and columns of the
        last of them, whose places are added; those before have none.
        """
        tokens = self.embed(tokens)
        if grid is not None:
            places = plane_positions(*grid, tokens.shape[2], tokens.device).to(tokens)
            tokens = tokens + F.pad(places, (0, 0, tokens.shape[1] - len(places), 0))
        tokens = self.token_norm(tokens)
        queries = (self.lead_queries + self.time_queries).flatten(0, 1)
        queries = queries.to(tokens.dtype).expand(len(tokens), -1, -1)
        for layer in self.layers:
            queries = layer(queries, tokens, **kwargs)
        samples = self.samples(self.norm(queries))
        return samples.view(len(tokens), self.config.num_leads, self.config.num_samples)


# ------------------------------------------------------------------------------------------------------------ models


class EcgScanPreTrainedModel(EcgPreTrainedModel):
    """What the ECG-Scan models share."""

    config: EcgScanConfig
    base_model_prefix = "ecg_scan"
    main_input_name = "pixel_values"
    input_modalities = ("image", "text")
    _no_split_modules = ["EcgScanDecoderLayer"]  # noqa: RUF012
    # The decoder's queries attend without any mask.
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
            # Queries must differ from the start, or all attend alike.
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
        A new model whose towers are pre-trained: the other parts start at random.

        Args:
            config ([`EcgScanConfig`]):
                Everything but the configs of the towers that are named here, which replace its own.
            vision (`str`, *optional*):
                Name or folder of a vision backbone of transformers; of a model with several towers, such as CLIP, the
                one for images.
            signal (`str`, *optional*):
                Folder of a model of signals of this package.
            text (`str`, *optional*):
                Name or folder of a text encoder of transformers.

        Raises:
            `ValueError`: if a tower cannot be one, or its folder lacks weights.
        """
        towers: dict[str, PreTrainedModel] = {}
        if vision is not None:
            found = AutoConfig.from_pretrained(vision)
            found = getattr(found, "vision_config", found)
            towers["vision_model"] = _whole(AutoModel, vision, config=found)
        if signal is not None:
            found = AutoConfig.from_pretrained(signal)
            if found.model_type not in SIGNAL_MODELS:
                raise ValueError(f"{signal} holds a {found.model_type}: name one of {', '.join(SIGNAL_MODELS)}.")
            towers["signal_model"] = _whole(SIGNAL_MODELS[found.model_type], signal)
        if text is not None:
            towers["text_model"] = _whole(AutoModelForTextEncoding, text)
        fields = config.to_dict()
        for name, tower in towers.items():
            fields[name.replace("_model", "_config")] = tower.config
        model = cls(type(config)(**{key: value for key, value in fields.items() if key != "model_type"}))
        base = model.base_model
        for name, tower in towers.items():
            missing, _ = getattr(base, name).load_state_dict(tower.state_dict(), strict=False)
            if missing:
                raise ValueError(f"the {name} lacks {missing[0]} and {len(missing) - 1} other weights.")
        return model


class _AsVector(ConversionOps):
    """What `from_pretrained` does with temperatures, whichever shape they were saved in."""

    def convert(self, input_dict: dict[str, Any], *args: Any, **kwargs: Any) -> dict[str, Any]:
        return {name: (one[0] if isinstance(one, list) else one).reshape(1) for name, one in input_dict.items()}

    @property
    def reverse_op(self) -> ConversionOps:
        return self


register_checkpoint_conversion_mapping(
    EcgScanConfig.model_type, [WeightConverter(name, name, [_AsVector()]) for name in LOG_SCALES], overwrite=True
)


def _whole(auto_class: Any, name: str, **kwargs: Any) -> PreTrainedModel:
    model, info = auto_class.from_pretrained(name, output_loading_info=True, **kwargs)
    # Pooling layers of encoders are often not in their files, and are not read here.
    if lost := [key for key in info["missing_keys"] if not key.startswith("pooler.")]:
        raise ValueError(f"{name} holds no whole {type(model).__name__}: it lacks {lost[0]} and {len(lost) - 1} more.")
    return model


def _without_pooler(auto_class: Any, config: PreTrainedConfig) -> PreTrainedModel:
    """An encoder without the layer that pools its states, if it has one: what is not read would get no gradient."""
    try:
        return auto_class.from_config(config, add_pooling_layer=False)
    except TypeError:
        return auto_class.from_config(config)


class EcgScanModel(EcgScanPreTrainedModel):
    """
    Pages, signals and texts in one space: a vision tower, a signal teacher and a text encoder with a linear head each.

    A config without teachers gives the vision tower alone.

    Example:

    ```python
    >>> import torch
    >>> from clear_hug_hf import EcgScanConfig, EcgScanModel

    >>> model = EcgScanModel(EcgScanConfig.preset("tiny")).eval()
    >>> model.get_image_features(torch.zeros(2, 3, 192, 256)).shape
    torch.Size([2, 128])
    ```"""

    _keys_to_ignore_on_load_unexpected = [  # noqa: RUF012
        r"^decoder\.",
        r"^volume_log_scale$",
        r"^classifier\.",
        # Of a config without teachers.
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
        self._unread_parameters = [] if config.freeze_vision else self._find_unread()
        self.train(self.training)

    def _find_unread(self) -> list[str]:
        """
        Parameters of the vision tower that neither the pooled feature nor the tokens depend on, such as the norm of
        CLIP's class token where tokens are pooled: processes that train together wait for every gradient.
        """
        # A pass without data, which costs no memory and draws no random numbers.
        given = {
            name: torch.empty_like(one, device="meta").requires_grad_(one.is_floating_point())
            for name, one in (*self.named_parameters(), *self.named_buffers())
            if name.startswith(("vision_model.", "image_projection."))
        }
        names = [name for name, _ in self.vision_model.named_parameters()]
        pixels = torch.empty((1, 3, *self.config.image_size), device="meta")
        self.vision_model.eval()
        try:
            with torch.enable_grad():
                output = torch.func.functional_call(self, given, (pixels,), {"return_dict": True})
                read = (output.pooler_output.sum() + output.image_states.sum()).float()
                wanted = [given[f"vision_model.{name}"] for name in names]
                gradients = torch.autograd.grad(read, wanted, allow_unused=True)
        except (RuntimeError, ValueError):
            return []  # a tower that needs data, or that does not fit its config: what it computes will tell
        finally:
            self.vision_model.train()
        return [name for name, gradient in zip(names, gradients, strict=True) if gradient is None]

    def train(self, mode: bool = True) -> "EcgScanModel":
        """
        As for any module, but frozen towers stay as they are, in evaluation mode and without gradients, and so do
        parameters that nothing depends on.
        """
        super().train(mode)
        # Also after loading, which makes every parameter one that is trained.
        for name in ("vision", "signal", "text"):
            tower = getattr(self, f"{name}_model")
            if tower is not None and getattr(self.config, f"freeze_{name}"):
                tower.requires_grad_(False).eval()
        for name in self._unread_parameters:
            self.vision_model.get_parameter(name).requires_grad_(False)
        return self

    def get_input_embeddings(self) -> nn.Module:
        try:
            return self.vision_model.get_input_embeddings()
        except NotImplementedError:  # convolutional towers of transformers name none
            return next(one for one in self.vision_model.modules() if isinstance(one, nn.Conv2d))

    def _see(
        self, pixel_values: torch.Tensor, **kwargs: Unpack[TransformersKwargs]
    ) -> tuple[torch.Tensor, torch.Tensor, tuple[int, int] | None, Any]:
        """Pooled feature, tokens, their rows and columns, and all that the tower gives."""
        config = self.config
        kwargs = validate_kwargs(kwargs)  # type: ignore[assignment]
        check_shape("pixel_values", pixel_values, (None, 3, *config.image_size))
        vision: Any = config.vision_config
        of_tower = getattr(vision, "image_size", None)
        of_tower = [of_tower, of_tower] if isinstance(of_tower, int) else of_tower
        known = inspect.signature(self.vision_model.forward).parameters
        if of_tower is not None and list(of_tower) != list(config.image_size) and "interpolate_pos_encoding" in known:
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
                raise ValueError(f"{type(self.vision_model).__name__} pools nothing: set image_pooling to 'mean'.")
            feature = feature.flatten(1)
        else:
            feature = states[:, 0] if config.image_pooling == "first" else states.mean(dim=1)
        return feature, states, grid, outputs

    def encode_signals(self, **inputs: torch.Tensor) -> torch.Tensor:
        """
        What the signal teacher makes of recordings, before the shared space: the mean of its states of the leads that
        are there, `(B, signal_embed_dim)`. The inputs are those that the teacher's own feature extractor gives.

        Raises:
            `ValueError`: if the model holds no signal teacher.
        """
        if self.signal_model is None:
            raise ValueError("the model holds no signal encoder: build it with signal_config, or give signal_embeds.")
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.config.freeze_signal):
            outputs = self.signal_model(**inputs)
        return masked_mean(outputs.lead_states, outputs.present_leads)

    def encode_texts(self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None) -> torch.Tensor:
        """
        What the text encoder makes of tokens `(B, S)`, before the shared space, `(B, text_embed_dim)`. Padding, 0 in
        the `attention_mask` `(B, S)`, changes nothing; by default there is none.

        Raises:
            `ValueError`: if the model holds no text encoder.
        """
        if self.text_model is None:
            raise ValueError("the model holds no text encoder: build it with text_config, or give text_embeds.")
        attention_mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.config.freeze_text):
            states = self.text_model(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        if self.config.text_pooling == "first":
            return states[:, 0]
        return masked_mean(states, attention_mask)

    def _project(self, which: str, states: torch.Tensor) -> torch.Tensor:
        projection = getattr(self, f"{which}_projection")
        if projection is None:
            raise ValueError(f"the model has no head for {which}s: its config names no teacher for them.")
        return F.normalize(projection(states).float(), dim=1)

    def get_image_features(self, pixel_values: torch.Tensor, **kwargs: Unpack[TransformersKwargs]) -> torch.Tensor:
        """
        Pages `(B, 3, height, width)`, as [`EcgScanImageProcessor`] gives them, in the shared space, of unit length
        `(B, projection_dim)`.
        """
        return self._project("image", self._see(pixel_values, **kwargs)[0])

    def get_signal_features(self, **inputs: torch.Tensor) -> torch.Tensor:
        """
        Signals in the shared space, of unit length `(B, projection_dim)`; arguments as [`encode_signals`].
        """
        return self._project("signal", self.encode_signals(**inputs))

    def get_text_features(self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None) -> torch.Tensor:
        """
        Texts in the shared space, of unit length `(B, projection_dim)`; arguments as [`encode_texts`].
        """
        return self._project("text", self.encode_texts(input_ids, attention_mask))

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
                Pages, as [`EcgScanImageProcessor`] gives them.
            input_ids, attention_mask (`torch.Tensor` of shape `(num_texts, sequence_length)`, *optional*):
                Texts.
            signal_inputs (`dict[str, torch.Tensor]`, *optional*):
                Signals, as the teacher's feature extractor gives them.
            signal_embeds (`torch.FloatTensor` of shape `(batch_size, signal_embed_dim)`, *optional*):
                What a teacher made of signals before ([`encode_signals`]), in place of `signal_inputs`.
            text_embeds (`torch.FloatTensor` of shape `(num_texts, text_embed_dim)`, *optional*):
                The same of texts, in place of `input_ids`.

        Raises:
            `ValueError`: if nothing is given, a shape does not fit, or there is no tower for it.
        """
        found: dict[str, Any] = {}
        if pixel_values is not None:
            feature, states, _, outputs = self._see(pixel_values, **kwargs)
            found |= {"pooler_output": feature, "image_states": states, "lead_states": feature[:, None]}
            found["present_leads"] = torch.ones((len(feature), 1), dtype=torch.bool, device=feature.device)
            found |= {name: getattr(outputs, name, None) for name in ("hidden_states", "attentions")}
            if self.image_projection is not None:
                found["image_embeds"] = self._project("image", feature)
        if signal_embeds is None and signal_inputs is not None:
            signal_embeds = self.encode_signals(**signal_inputs)
        if text_embeds is None and input_ids is not None:
            text_embeds = self.encode_texts(input_ids, attention_mask)
        if signal_embeds is not None:
            check_shape("signal_embeds", signal_embeds, (None, self.config.signal_embed_dim))
            found["signal_embeds"] = self._project("signal", signal_embeds)
        if text_embeds is not None:
            check_shape("text_embeds", text_embeds, (None, self.config.text_embed_dim))
            found["text_embeds"] = self._project("text", text_embeds)
        if not found:
            raise ValueError("nothing was given: give pixel_values, texts or signals.")
        if "image_embeds" in found and "text_embeds" in found:
            assert self.pairwise_log_scale is not None
            scale = self.pairwise_log_scale.float().clamp(max=MAX_LOG_SCALE).exp()
            found["logits_per_image"] = found["image_embeds"] @ found["text_embeds"].T * scale
            found["logits_per_text"] = found["logits_per_image"].T
        return EcgScanModelOutput(**found)


class EcgScanForPreTraining(EcgScanPreTrainedModel):
    """
    ECG-Scan's two alignments: pages with signals and texts by contrast, and the 12 leads rebuilt from the page's
    tokens under soft constraints.

    Contrasts compare the recordings of one batch: what a process computes at once, not the whole step. Rows without a
    text take part in the pairwise contrast with signals and in the reconstruction. The config names a signal teacher,
    texts, or their widths.
    """

    # The training loop logs them beside the loss.
    monitors = ("loss_volume", "loss_pairwise", "loss_reconstruction", "loss_lead", "top1", "duplicate_texts")

    def __init__(self, config: EcgScanConfig):
        super().__init__(config)
        if config.signal_embed_dim is None and config.text_embed_dim is None:
            raise ValueError("there is nothing to align pages with: set signal_config, text_config or their widths.")
        self.ecg_scan = EcgScanModel(config)
        self.decoder = EcgScanDecoder(config)
        self.volume_log_scale = nn.Parameter(torch.full((1,), -math.log(config.temperature_init)))
        self.post_init()
        self.train(self.training)

    def train(self, mode: bool = True) -> "EcgScanForPreTraining":
        """As for any module, but the temperature of volumes is frozen in a model without signals or without texts."""
        super().train(mode)
        if self.config.signal_embed_dim is None or self.config.text_embed_dim is None:
            self.volume_log_scale.requires_grad_(False)
        return self

    def reconstruct(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """
        The 12 leads of pages `(B, 3, height, width)`, as [`EcgScanImageProcessor`] gives them: `(B, 12, num_samples)`
        at `config.sampling_rate` [mV].
        """
        _, states, grid, _ = self.ecg_scan._see(pixel_values)
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
                The recordings that they show [mV]; without them nothing is learned about the reconstruction.
            drawn_mask (`torch.BoolTensor` of shape `(batch_size, 12, num_samples)`, *optional*):
                Samples that the page shows; by default all.
            signal_mask (`torch.BoolTensor` of shape `(batch_size, 12, num_samples)`, *optional*):
                Samples that were recorded; by default all.
            identity_mask (`torch.BoolTensor` of shape `(batch_size,)`, *optional*):
                Recordings whose own limb leads obey the identities; by default all.
            signal_embeds, signal_inputs, text_embeds, input_ids, attention_mask:
                As [`EcgScanModel`], one signal and one text for each page.
            text_mask (`torch.BoolTensor` of shape `(batch_size,)`, *optional*):
                Recordings that have a text; by default all.
            text_ids (`torch.LongTensor` of shape `(batch_size,)`, *optional*):
                The same number for identical texts: these are no negatives of each other. By default all differ.

        Raises:
            `ValueError`: if a shape does not fit, or there is neither signal nor text nor waveform.
        """
        config, base = self.config, self.ecg_scan
        partners = (signal_embeds, signal_inputs, text_embeds, input_ids)
        if waveforms is None and all(one is None for one in partners):
            raise ValueError("there is nothing to learn from: give signals, texts or waveforms beside the pages.")
        if input_ids is not None and text_ids is not None and text_embeds is None:
            text_embeds = self._encode_each_text_once(input_ids, attention_mask, text_ids)
        feature, states, grid, _ = base._see(pixel_values, **kwargs)
        image = base._project("image", feature)
        signal, text = self._find_partners(
            len(image),
            input_ids=input_ids,
            attention_mask=attention_mask,
            signal_inputs=signal_inputs,
            signal_embeds=signal_embeds,
            text_embeds=text_embeds,
        )

        terms = self._contrast(image, signal, text, text_mask, text_ids)
        reconstruction = self.decoder(states, grid, **kwargs)
        terms |= self._compare(reconstruction, waveforms, drawn_mask, signal_mask, identity_mask)
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

    def _encode_each_text_once(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None, text_ids: torch.Tensor
    ) -> torch.Tensor:
        """Many recordings share a text."""
        numbers, again = torch.unique(text_ids, return_inverse=True)
        rows = torch.arange(len(again), device=again.device)
        first = torch.full_like(numbers, len(again)).scatter_reduce(0, again, rows, "amin")
        attention_mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        return self.ecg_scan.encode_texts(input_ids[first], attention_mask[first])[again]

    def _find_partners(self, num_pages: int, **inputs: Any) -> tuple[torch.Tensor | None, torch.Tensor | None]:
        """Signals and texts in the shared space, as far as there are any."""
        if all(one is None for one in inputs.values()):
            return None, None
        others = self.ecg_scan(**inputs)
        for name, one in (("signal_embeds", others.signal_embeds), ("text_embeds", others.text_embeds)):
            if one is not None and len(one) != num_pages:
                raise ValueError(f"{name} must be one for each of the {num_pages} pages, got {len(one)}.")
        return others.signal_embeds, others.text_embeds

    # No value is looked at from here on: the device would be waited for.

    def _contrast(
        self,
        image: torch.Tensor,
        signal: torch.Tensor | None,
        text: torch.Tensor | None,
        text_mask: torch.Tensor | None,
        text_ids: torch.Tensor | None,
    ) -> dict[str, torch.Tensor]:
        """The alignment with signals and texts: its terms before their weights, and what is watched of it."""
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
            chosen = torch.ones(len(text), dtype=torch.bool, device=text.device) if text_mask is None else text_mask
            duplicates = None
            if text_ids is not None:
                duplicates, terms["duplicate_texts"] = same_texts(text_ids, chosen)
            pairwise.append(pairwise_contrastive_loss(image, text, scale, duplicates, smoothing, chosen))
            count = (count + chosen.any()).clamp(min=1)
            if signal is not None:
                scale = self.volume_log_scale.clamp(max=MAX_LOG_SCALE)
                normalize = self.config.normalize_volume
                terms["loss_volume"] = gramian_contrastive_loss(
                    image, signal, text, scale, duplicates, smoothing, normalize, chosen
                )
        if pairwise:
            terms["loss_pairwise"] = torch.stack(pairwise).sum() / count
        return terms

    def _compare(
        self,
        reconstruction: torch.Tensor,
        waveforms: torch.Tensor | None,
        drawn_mask: torch.Tensor | None,
        signal_mask: torch.Tensor | None,
        identity_mask: torch.Tensor | None,
    ) -> dict[str, torch.Tensor]:
        """The terms of the reconstruction before their weights."""
        config, shape = self.config, tuple(reconstruction.shape)
        if waveforms is None:
            # As where nothing was recorded: processes that train together wait for every gradient.
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
        # In units of the square of huber_delta: in mV^2 both would vanish beside the contrasts.
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
    The vision tower with a linear classifier of the page, which reads its pooled feature. It holds no teachers.

    Example:

    ```python
    >>> import torch
    >>> from clear_hug_hf import EcgScanConfig, EcgScanForImageClassification

    >>> config = EcgScanConfig.preset("tiny", id2label={0: "NORM", 1: "MI"}, label2id={"NORM": 0, "MI": 1})
    >>> model = EcgScanForImageClassification(config).eval()
    >>> model(torch.zeros(2, 3, 192, 256)).logits.sigmoid().shape
    torch.Size([2, 2])
    ```"""

    ecg_scan: EcgScanModel
    encoder_class = EcgScanModel

    def __init__(self, config: EcgScanConfig):
        config = copy.deepcopy(config)
        config.signal_config = config.text_config = config.signal_embed_dim = config.text_embed_dim = None
        super().__init__(config)

    @can_return_tuple
    def forward(
        self, pixel_values: torch.Tensor, labels: torch.Tensor | None = None, **kwargs: Unpack[TransformersKwargs]
    ) -> EcgClassifierOutput:
        """Scores of pages: inputs as for [`EcgScanModel.forward`], labels as for [`classify`]."""
        return self.classify(self.ecg_scan(pixel_values, **kwargs), labels, **kwargs)


__all__ = [
    "EcgScanForImageClassification",
    "EcgScanForPreTraining",
    "EcgScanForPreTrainingOutput",
    "EcgScanModel",
    "EcgScanModelOutput",
    "EcgScanPreTrainedModel",
]
