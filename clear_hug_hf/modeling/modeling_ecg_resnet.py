"""
One-dimensional residual networks (ResNet; He et al., "Deep Residual Learning for Image Recognition", CVPR 2016) in the
form that MERL pre-trains (Liu et al., "Zero-Shot ECG Classification with Multimodal Learning and Test-time Clinical
Knowledge Enhancement", ICML 2024): the first convolution is not followed by pooling.

Shapes: `B` recordings, `L` leads, `T` samples per lead, `S` time steps, `C` channels, `D` hidden size.
"""

from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from transformers import initialization as init
from transformers.activations import ACT2FN
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.processing_utils import Unpack
from transformers.utils import TransformersKwargs
from transformers.utils.generic import can_return_tuple

from .configuration_ecg_resnet import BOTTLENECK_REDUCTION, EcgResNetConfig
from .modeling_ecg import (
    EcgClassifierOutput,
    EcgForSequenceClassification,
    EcgModelOutput,
    EcgPreTrainedModel,
    check_shape,
    masked_mean,
    validate_kwargs,
)


class EcgResNetBatchNorm(nn.BatchNorm1d):
    """
    Batch normalization whose running statistics include each batch once: gradient checkpointing computes activations
    a second time during the backward pass.
    """

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        if self.training and not torch.compiler.is_compiling() and torch._C._current_graph_task_id() != -1:
            assert self.running_mean is not None
            assert self.running_var is not None
            statistics = self.running_mean.clone(), self.running_var.clone()
            return F.batch_norm(states, *statistics, self.weight, self.bias, training=True, eps=self.eps)
        return super().forward(states)


class EcgResNetConvolution(nn.Module):
    """Convolution without bias, with `ceil(S / stride)` outputs, and batch normalization."""

    def __init__(self, config: EcgResNetConfig, in_channels: int, out_channels: int, kernel_size: int, stride: int):
        super().__init__()
        self.stride = stride
        self.conv = nn.Conv1d(in_channels, out_channels, kernel_size, stride, kernel_size // 2, bias=False)
        self.norm = EcgResNetBatchNorm(out_channels, eps=config.batch_norm_eps)

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        """Map states `(B, C, S)` to `(B, C', ceil(S / stride))`."""
        normalized: torch.Tensor = self.norm(self.conv(states))
        return normalized


class EcgResNetBlock(GradientCheckpointingLayer):
    """
    Residual block: two convolutions, or three in a bottleneck, and a shortcut, which is a convolution of kernel size 1
    where the shape changes.

    Args:
        config ([`EcgResNetConfig`]):
            Its fields `layer_type`, `hidden_act` and `batch_norm_eps` are used.
        in_channels, out_channels (`int`):
            Channels of input and output.
        stride (`int`):
            Stride over time, 1 or 2.
    """

    def __init__(self, config: EcgResNetConfig, in_channels: int, out_channels: int, stride: int):
        super().__init__()
        inner = out_channels // BOTTLENECK_REDUCTION
        # Output channels, kernel size and stride of each convolution.
        shapes = {
            "basic": [(out_channels, 3, stride), (out_channels, 3, 1)],
            "bottleneck": [(inner, 1, 1), (inner, 3, stride), (out_channels, 1, 1)],
        }[config.layer_type]
        widths = [in_channels, *(width for width, _, _ in shapes)]
        self.convolutions = nn.ModuleList(
            EcgResNetConvolution(config, before, *shape) for before, shape in zip(widths, shapes, strict=False)
        )
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or in_channels != out_channels:
            self.shortcut = EcgResNetConvolution(config, in_channels, out_channels, 1, stride)
        self.activation = ACT2FN[config.hidden_act]

    def forward(self, states: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        """
        Map states `(B, C, S)` to `(B, C', ceil(S / stride))`.

        Args:
            states (`torch.Tensor` of shape `(B, C, S)`):
                Input, zero where padded.
            mask (`torch.BoolTensor` of shape `(B, 1, S)`, *optional*):
                True for time steps that were recorded.
        """
        shortcut = self.shortcut(states)
        for index, convolution in enumerate(self.convolutions):
            states = convolution(states)
            if index == len(self.convolutions) - 1:
                states = states + shortcut
            if mask is not None:
                mask = mask[..., :: convolution.stride]
            states = _zero_padding(self.activation(states), mask)
        return states


class EcgResNetStage(nn.Module):
    """Blocks of the same number of channels, the first of which may halve the number of time steps."""

    def __init__(self, config: EcgResNetConfig, index: int):
        super().__init__()
        width = config.hidden_sizes[index]
        before = config.hidden_sizes[index - 1] if index else config.embedding_size
        self.stride = config.strides[index]
        self.blocks = nn.ModuleList(
            EcgResNetBlock(config, width if depth else before, width, 1 if depth else self.stride)
            for depth in range(config.depths[index])
        )

    def forward(
        self, states: torch.Tensor, mask: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Map states `(B, C, S)` and their mask `(B, 1, S)` to those behind the stage."""
        for index, block in enumerate(self.blocks):
            states = block(states, mask)
            if mask is not None and not index:
                mask = mask[..., :: self.stride]
        return states, mask


def _zero_padding(states: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    """States `(B, C, S)` that are zero where a mask `(B, 1, S)` is False, like the zeros around a recording."""
    return states if mask is None else states.masked_fill(~mask, 0.0)


class EcgResNetPreTrainedModel(EcgPreTrainedModel):
    """Base class of the one-dimensional residual networks."""

    config: EcgResNetConfig
    base_model_prefix = "ecg_resnet"
    _no_split_modules = ["EcgResNetBlock"]  # noqa: RUF012

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, nn.Conv1d):
            # He et al., "Delving Deep into Rectifiers", ICCV 2015, backward case, as in common ResNets.
            init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")


class EcgResNetModel(EcgResNetPreTrainedModel):
    """
    One-dimensional residual network: maps the leads together to states over time and their mean.

    In its [`EcgModelOutput`], `last_hidden_state` `(B, S, D)` is the output of the last stage in order of time, by
    default with a state for every 16 samples; `pooler_output` is its mean over time, and `lead_states` `(B, 1, D)`
    contains it for all leads together. `hidden_states` are the outputs of the first convolution and of each stage,
    each `(B, S, C)`. In evaluation mode, a recording that is padded with zeros gives the same as without padding.

    Batch normalization:

    - In training mode, the states of a recording depend on the other recordings of the forward pass and on their
      padding. Running statistics, which evaluation mode reads, are in the state dict, and so in every checkpoint.
    - In several processes, each normalizes its own recordings, and training averages the running statistics of all
      processes before they are read. A step therefore gives the same weights only if it is divided among as many
      processes in the same way; where an objective compares the recordings of a batch, they are not divided further.

    Example:

    ```python
    >>> import torch
    >>> from clear_hug_hf import EcgResNetConfig, EcgResNetModel

    >>> model = EcgResNetModel(EcgResNetConfig.preset("tiny")).eval()
    >>> model(torch.randn(2, 12, 1000)).last_hidden_state.shape
    torch.Size([2, 63, 256])
    ```
    """

    has_time_states = True
    _keys_to_ignore_on_load_unexpected = [r"^head\.", r"^classifier\."]  # noqa: RUF012

    def __init__(self, config: EcgResNetConfig):
        super().__init__(config)
        self.stem = EcgResNetConvolution(config, config.num_leads, config.embedding_size, config.stem_kernel_size, 2)
        self.activation = ACT2FN[config.hidden_act]
        self.stages = nn.ModuleList(EcgResNetStage(config, index) for index in range(config.num_hidden_layers))
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.stem.conv

    def depth_groups(self) -> list[list[str]]:
        """The first convolution with its normalization, and each stage."""
        return [["stem"], *([f"stages.{index}"] for index in range(len(self.stages)))]

    @can_return_tuple
    def forward(
        self,
        input_values: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        lead_mask: torch.Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> EcgModelOutput:
        r"""
        Args:
            input_values (`torch.Tensor` of shape `(batch_size, num_leads, num_samples)`):
                Recordings of any length, see [`EcgWaveformFeatureExtractor`].
            attention_mask (`torch.Tensor` of shape `(batch_size, num_samples)`, *optional*):
                1 or True for samples that were recorded. Others, at the end of short recordings, count as zero and
                not in `pooler_output`, which averages the states whose central sample was recorded.
            lead_mask (`torch.Tensor` of shape `(batch_size, num_leads)`, *optional*):
                1 or True for leads that are present. Others count as zero.

        Raises:
            `ValueError`: if an input has the wrong shape.
        """
        kwargs = validate_kwargs(kwargs)  # type: ignore[assignment]
        check_shape("input_values", input_values, (None, self.config.num_leads, None))
        batch_size, num_leads, num_samples = input_values.shape
        states, mask = input_values.to(self.stem.conv.weight.dtype), None
        present_leads = torch.ones(batch_size, 1, dtype=torch.bool, device=states.device)
        if lead_mask is not None:
            check_shape("lead_mask", lead_mask, (batch_size, num_leads))
            states = states.masked_fill(~lead_mask.bool()[:, :, None], 0.0)
            present_leads = lead_mask.bool().any(dim=1, keepdim=True)
        if attention_mask is not None:
            check_shape("attention_mask", attention_mask, (batch_size, num_samples))
            mask = attention_mask.bool()[:, None]
            states = _zero_padding(states, mask)
            mask = mask[..., :: self.stem.stride]
        states = _zero_padding(self.activation(self.stem(states)), mask)
        all_states: tuple[torch.Tensor, ...] = (states.transpose(1, 2),)
        for stage in self.stages:
            # Each output is transposed and back, so that its gradient passes through what is returned.
            states, mask = stage(all_states[-1].transpose(1, 2), mask)
            all_states = (*all_states, states.transpose(1, 2))
        states, token_mask = all_states[-1], None if mask is None else mask[:, 0]
        pooler_output = states.mean(dim=1) if token_mask is None else masked_mean(states, token_mask)
        keeps_states: Any = kwargs.get("output_hidden_states")
        if keeps_states is None:
            keeps_states = self.config.output_hidden_states
        return EcgModelOutput(
            last_hidden_state=states,
            pooler_output=pooler_output,
            lead_states=pooler_output[:, None],
            hidden_states=all_states if keeps_states else None,
            present_leads=present_leads,
            token_mask=token_mask,
        )


class EcgResNetForSequenceClassification(EcgResNetPreTrainedModel, EcgForSequenceClassification):
    """
    One-dimensional residual network with a linear classifier of the recording.

    Example:

    ```python
    >>> import torch
    >>> from clear_hug_hf import EcgResNetConfig, EcgResNetForSequenceClassification

    >>> config = EcgResNetConfig.preset("tiny", id2label={0: "NORM", 1: "MI"})
    >>> model = EcgResNetForSequenceClassification(config).eval()
    >>> model(torch.randn(2, 12, 1000)).logits.sigmoid().shape
    torch.Size([2, 2])
    ```
    """

    ecg_resnet: EcgResNetModel
    encoder_class = EcgResNetModel

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
        """Classify recordings. See [`EcgResNetModel.forward`] for inputs and [`classify`] for labels and rhythm."""
        return self.classify(
            self.ecg_resnet(input_values, attention_mask, lead_mask, **kwargs), labels, rhythm, **kwargs
        )


__all__ = ["EcgResNetForSequenceClassification", "EcgResNetModel", "EcgResNetPreTrainedModel"]
