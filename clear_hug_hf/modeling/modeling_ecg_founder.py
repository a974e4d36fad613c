"""
ECGFounder models (Li et al., "An Electrocardiogram Foundation Model Built on over 10 Million Recordings", NEJM AI
2025), a residual convolutional network (Net1D of Hong et al., 2020) with squeeze-and-excitation (Hu et al., 2018).

Shapes: `B` recordings, `L` leads, `T` samples per lead, `S` time steps, `C` channels, `D` hidden size.
"""

import math
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from transformers import initialization as init
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.processing_utils import Unpack
from transformers.utils import TransformersKwargs
from transformers.utils.generic import can_return_tuple

from .configuration_ecg_founder import EcgFounderConfig
from .modeling_ecg import (
    EcgClassifierOutput,
    EcgForSequenceClassification,
    EcgModelOutput,
    EcgPreTrainedModel,
    check_shape,
    validate_kwargs,
)


class SameConv1d(nn.Conv1d):
    """
    Convolution with `ceil(T / stride)` outputs. Zeros are added on both sides; if their number is odd, one more
    behind the signal.
    """

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        stride, kernel = self.stride[0], self.kernel_size[0]
        length = states.shape[-1]
        padding = max(0, (-(-length // stride) - 1) * stride + kernel - length)
        return super().forward(F.pad(states, (padding // 2, padding - padding // 2)))


class EcgFounderBlock(GradientCheckpointingLayer):
    """
    Residual block: a bottleneck of three convolutions, squeeze-and-excitation, and a shortcut, which is max-pooled and
    padded with zero channels where the shape changes. There is no normalization.

    Args:
        config ([`EcgFounderConfig`]):
            Its fields `kernel_size`, `group_size` and `bottleneck_ratio` are used.
        in_channels, out_channels (`int`):
            Channels of input and output.
        stride (`int`):
            Stride of the convolution over time, 1 or 2.
        is_first (`bool`):
            Whether it is the first block of the network, whose input has already been activated.
    """

    def __init__(self, config: EcgFounderConfig, in_channels: int, out_channels: int, stride: int, is_first: bool):
        super().__init__()
        inner = config.bottleneck_channels(out_channels)
        groups = out_channels // config.group_size
        self.stride = stride
        self.is_first = is_first
        self.channel_padding = ((out_channels - in_channels) // 2, -(-(out_channels - in_channels) // 2))
        self.conv1 = SameConv1d(in_channels, inner, 1)
        self.conv2 = SameConv1d(inner, inner, config.kernel_size, stride=stride, groups=groups)
        self.conv3 = SameConv1d(inner, out_channels, 1)
        self.squeeze = nn.Linear(out_channels, max(1, out_channels // 2))
        self.excite = nn.Linear(max(1, out_channels // 2), out_channels)

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        """Map states `(B, C, S)` to `(B, C', ceil(S / stride))`."""
        shortcut = states
        states = self.conv1(states if self.is_first else F.silu(states))
        states = self.conv3(F.silu(self.conv2(F.silu(states))))
        gates = self.excite(F.silu(self.squeeze(states.mean(dim=2)))).sigmoid()
        if self.stride == 2:
            # The added zero is part of the last pair of an odd number of time steps.
            shortcut = F.max_pool1d(F.pad(shortcut, (0, 1)), 2)
        before, behind = self.channel_padding
        return states * gates[:, :, None] + F.pad(shortcut, (0, 0, before, behind))


class EcgFounderStage(nn.Module):
    """Blocks of the same number of channels. The first one halves the number of time steps."""

    def __init__(self, config: EcgFounderConfig, index: int):
        super().__init__()
        width = config.stage_channels[index]
        before = config.stage_channels[index - 1] if index else config.stem_channels
        self.blocks = nn.ModuleList(
            EcgFounderBlock(config, width if depth else before, width, 1 if depth else 2, not index and not depth)
            for depth in range(config.stage_depths[index])
        )

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        for block in self.blocks:
            states = block(states)
        return states


class EcgFounderPreTrainedModel(EcgPreTrainedModel):
    """Base class of the ECGFounder models."""

    config: EcgFounderConfig
    base_model_prefix = "ecg_founder"
    _no_split_modules = ["EcgFounderBlock"]  # noqa: RUF012

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, nn.Conv1d | nn.Linear):
            # Without normalization, signals would vanish behind weights of a fixed standard deviation.
            init.kaiming_uniform_(module.weight, a=math.sqrt(5))


class EcgFounderModel(EcgFounderPreTrainedModel):
    """
    ECGFounder encoder: maps the leads together to states over time and one state of the recording.

    In its [`EcgModelOutput`], `last_hidden_state` `(B, S, D)` is the output of the last stage (20 time steps of 0.5 s
    for ten seconds in the released size), `pooler_output` is its mean over time, and `lead_states` `(B, 1, D)`
    contains the latter for all leads together. `hidden_states` are the outputs of stem and stages, each `(B, S, C)`.

    Example:

    ```python
    >>> import torch
    >>> from clear_hug_hf import EcgFounderConfig, EcgFounderModel

    >>> model = EcgFounderModel(EcgFounderConfig.preset("tiny")).eval()
    >>> model(torch.randn(2, 12, 5000)).pooler_output.shape
    torch.Size([2, 64])
    ```
    """

    has_time_states = True
    _keys_to_ignore_on_load_unexpected = [r"^head\.", r"^classifier\."]  # noqa: RUF012

    def __init__(self, config: EcgFounderConfig):
        super().__init__(config)
        self.stem = SameConv1d(config.num_leads, config.stem_channels, config.kernel_size, stride=2)
        self.stages = nn.ModuleList(EcgFounderStage(config, index) for index in range(len(config.stage_channels)))
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.stem

    @can_return_tuple
    def forward(
        self,
        input_values: torch.Tensor,
        **kwargs: Unpack[TransformersKwargs],
    ) -> EcgModelOutput:
        r"""
        Args:
            input_values (`torch.Tensor` of shape `(batch_size, num_leads, num_samples)`):
                Normalized recordings of any length, see [`EcgFounderFeatureExtractor`].

        Raises:
            `ValueError`: if the input has the wrong shape.
        """
        kwargs = validate_kwargs(kwargs)  # type: ignore[assignment]
        check_shape("input_values", input_values, (None, self.config.num_leads, None))
        states = F.silu(self.stem(input_values.to(self.stem.weight.dtype))).transpose(1, 2)
        all_states: tuple[torch.Tensor, ...] = (states,)
        for stage in self.stages:
            states = stage(states.transpose(1, 2)).transpose(1, 2)
            all_states = (*all_states, states)
        pooler_output = states.mean(dim=1)
        keeps_states: Any = kwargs.get("output_hidden_states")
        if keeps_states is None:
            keeps_states = self.config.output_hidden_states
        return EcgModelOutput(
            last_hidden_state=states,
            pooler_output=pooler_output,
            lead_states=pooler_output[:, None],
            hidden_states=all_states if keeps_states else None,
            present_leads=torch.ones(len(states), 1, dtype=torch.bool, device=states.device),
        )


class EcgFounderForSequenceClassification(EcgFounderPreTrainedModel, EcgForSequenceClassification):
    """
    ECGFounder encoder with a linear classifier of the recording.

    Example:

    ```python
    >>> import torch
    >>> from clear_hug_hf import EcgFounderConfig, EcgFounderForSequenceClassification

    >>> config = EcgFounderConfig.preset("tiny", id2label={0: "NORM", 1: "MI"})
    >>> model = EcgFounderForSequenceClassification(config).eval()
    >>> model(torch.randn(2, 12, 5000)).logits.sigmoid().shape
    torch.Size([2, 2])
    ```
    """

    ecg_founder: EcgFounderModel
    encoder_class = EcgFounderModel

    @can_return_tuple
    def forward(
        self,
        input_values: torch.Tensor,
        labels: torch.Tensor | None = None,
        rhythm: torch.Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> EcgClassifierOutput:
        """Classify recordings. See [`EcgFounderModel.forward`] for inputs and [`classify`] for labels and rhythm."""
        return self.classify(self.ecg_founder(input_values, **kwargs), labels, rhythm, **kwargs)


__all__ = ["EcgFounderForSequenceClassification", "EcgFounderModel", "EcgFounderPreTrainedModel"]
