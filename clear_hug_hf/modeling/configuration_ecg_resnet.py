"""Configuration of one-dimensional residual networks."""

from dataclasses import field
from typing import Any, ClassVar, Literal

from .configuration_ecg import (
    ACTIVATION,
    COUNT,
    ENCODER,
    MAX_LAYERS,
    POSITIVE,
    EcgConfig,
    at_most,
    check_num_parameters,
    strict_config,
    valid_if,
)


MAX_CHANNELS = 100_000
BOTTLENECK_REDUCTION = 4
"""Channels of the output of a bottleneck block for each channel inside it."""


@strict_config
class EcgResNetConfig(EcgConfig):
    r"""
    Configuration of [`EcgResNetModel`] and [`EcgResNetForSequenceClassification`]: a residual network (He et al.,
    "Deep Residual Learning for Image Recognition", CVPR 2016) over time, with the leads as input channels. The default
    is the network of 18 layers and 3.85 million parameters that MERL (Liu et al., "Zero-Shot ECG Classification with
    Multimodal Learning and Test-time Clinical Knowledge Enhancement", ICML 2024) pre-trains.

    Args:
        sampling_rate (`int`, *optional*, defaults to 100):
            Sampling rate of the recordings [Hz]. MERL reads 500 Hz.
        lead_names (`list[str]`, *optional*, defaults to the twelve standard leads):
            Names of the leads, in the order of `input_values`.
        embedding_size (`int`, *optional*, defaults to 64):
            Channels of the first convolution, which has a stride of 2. No pooling follows it.
        stem_kernel_size (`int`, *optional*, defaults to 7):
            Kernel size of the first convolution [samples], which is odd.
        hidden_sizes (`list[int]`, *optional*, defaults to `[64, 128, 256, 512]`):
            Channels of each stage. The last one is the size of the representation.
        depths (`list[int]`, *optional*, defaults to `[2, 2, 2, 2]`):
            Number of blocks of each stage.
        layer_type (`str`, *optional*, defaults to `"basic"`):
            `"basic"` blocks have two convolutions of kernel size 3; `"bottleneck"` blocks have one of kernel size 3
            between two of kernel size 1, on a quarter of the channels.
        downsample_in_first_stage (`bool`, *optional*, defaults to `False`):
            Whether the first stage halves the number of time steps, too, as all others do in their first block.
        hidden_act (`str`, *optional*, defaults to `"relu"`):
            Activation function.
        batch_norm_eps (`float`, *optional*, defaults to 1e-5):
            Epsilon of the batch normalizations.
        head_type, num_pooling_heads, classifier_dropout, problem_type, label_thresholds,
        label_calibration:
            See [`EcgConfig`].

    Example:

    ```python
    >>> from clear_hug_hf import EcgResNetConfig, EcgResNetModel

    >>> model = EcgResNetModel(EcgResNetConfig.preset("tiny"))
    ```
    """

    model_type: ClassVar[str] = "ecg_resnet"
    auto_classes: ClassVar[dict[str, str]] = {
        "AutoModel": "EcgResNetModel",
        "AutoModelForSequenceClassification": "EcgResNetForSequenceClassification",
    }
    presets: ClassVar[dict[str, dict[str, Any]]] = {
        # Trains on one CPU core within minutes.
        "tiny": {"embedding_size": 32, "hidden_sizes": [32, 64, 128, 256]},
        # The size of MERL's.
        "base": {},
    }

    embedding_size: int = field(default=64, metadata=ENCODER | COUNT | at_most(MAX_CHANNELS))
    stem_kernel_size: int = field(
        default=7, metadata=ENCODER | at_most(1_000) | valid_if("must be odd", lambda value: value > 0 and value % 2)
    )
    hidden_sizes: list[int] | tuple[int, ...] = field(default=(64, 128, 256, 512), metadata=ENCODER)
    depths: list[int] | tuple[int, ...] = field(default=(2, 2, 2, 2), metadata=ENCODER)
    layer_type: Literal["basic", "bottleneck"] = field(default="basic", metadata=ENCODER)
    downsample_in_first_stage: bool = field(default=False, metadata=ENCODER)
    hidden_act: str = field(default="relu", metadata=ENCODER | ACTIVATION)
    batch_norm_eps: float = field(default=1e-5, metadata=ENCODER | POSITIVE)

    def __post_init__(self, **kwargs: Any) -> None:
        self.hidden_sizes = list(self.hidden_sizes)
        self.depths = list(self.depths)
        super().__post_init__(**kwargs)

    @property
    def hidden_size(self) -> int:
        """`int`: Size of the representation, the channels of the last stage."""
        return self.hidden_sizes[-1]

    @property
    def num_hidden_layers(self) -> int:
        """`int`: Number of stages."""
        return len(self.hidden_sizes)

    @property
    def strides(self) -> list[int]:
        """`list[int]`: Stride of each stage."""
        return [2 if index or self.downsample_in_first_stage else 1 for index in range(self.num_hidden_layers)]

    def validate_architecture(self) -> None:
        """See [`EcgConfig.validate_architecture`]."""
        super().validate_architecture()
        widths, depths = self.hidden_sizes, self.depths
        if not widths or len(widths) != len(depths) or min(*widths, *depths) < 1:
            raise ValueError(
                f"hidden_sizes and depths must have one positive number per stage, got {widths} and {depths}."
            )
        if sum(depths) > MAX_LAYERS or max(widths) > MAX_CHANNELS:
            raise ValueError(
                f"the model may have at most {MAX_LAYERS} blocks and {MAX_CHANNELS} channels, got {sum(depths)} and "
                f"{max(widths)}."
            )
        if self.layer_type == "bottleneck" and any(width % BOTTLENECK_REDUCTION for width in widths):
            raise ValueError(
                f"hidden_sizes of bottleneck blocks must be divisible by {BOTTLENECK_REDUCTION}, got {widths}."
            )
        check_num_parameters(
            self._count_familiarity()
            + self.num_leads * self.embedding_size * self.stem_kernel_size
            + sum(6 * width * width * depth for width, depth in zip(widths, depths, strict=True))
        )


__all__ = ["EcgResNetConfig"]
