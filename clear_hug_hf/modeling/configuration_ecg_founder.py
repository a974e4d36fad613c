"""Configuration of ECGFounder."""

from dataclasses import field
from typing import Any, ClassVar

from .configuration_ecg import (
    COUNT,
    ENCODER,
    ENCODER_SAME_FEATURES,
    MAX_LAYERS,
    POSITIVE,
    SAMPLING_RATE,
    EcgConfig,
    at_most,
    check_num_parameters,
    strict_config,
)


MAX_KERNEL_SIZE = 1_000
MAX_CHANNELS = 100_000


@strict_config
class EcgFounderConfig(EcgConfig):
    r"""
    Configuration of an ECGFounder model (Li et al., "An Electrocardiogram Foundation Model Built on over 10 Million
    Recordings", NEJM AI 2025): a one-dimensional residual convolutional network with grouped convolutions and
    squeeze-and-excitation. The default is the released size (30.7 million parameters). CLEF (single-lead encoders of
    Nokia Bell Labs) uses the same network in other sizes.

    Args:
        sampling_rate (`int`, *optional*, defaults to 500):
            Sampling rate of the recordings [Hz].
        lead_names (`list[str]`, *optional*, defaults to the twelve standard leads):
            Leads that the model reads. The released model of a single lead reads lead I.
        stem_channels (`int`, *optional*, defaults to 64):
            Channels of the first convolution.
        stage_channels (`list[int]`, *optional*, defaults to `[64, 160, 160, 400, 400, 1024, 1024]`):
            Channels of each stage, in ascending order. The last one is the size of the representation.
        stage_depths (`list[int]`, *optional*, defaults to `[2, 2, 2, 3, 3, 4, 4]`):
            Number of blocks of each stage. The first block of a stage halves the number of time steps.
        kernel_size (`int`, *optional*, defaults to 16):
            Kernel size of the convolutions over time.
        group_size (`int`, *optional*, defaults to 16):
            Channels of a block per group of its grouped convolution.
        bottleneck_ratio (`float`, *optional*, defaults to 1.0):
            Channels inside a block, relative to those of its output.
        head_type, num_pooling_heads, classifier_dropout, problem_type, label_thresholds,
        label_calibration:
            See [`EcgConfig`].

    Example:

    ```python
    >>> from clear_hug_hf import EcgFounderConfig, EcgFounderModel

    >>> model = EcgFounderModel(EcgFounderConfig.preset("tiny"))
    ```
    """

    model_type: ClassVar[str] = "ecg_founder"
    auto_classes: ClassVar[dict[str, str]] = {
        "AutoModel": "EcgFounderModel",
        "AutoModelForSequenceClassification": "EcgFounderForSequenceClassification",
    }
    presets: ClassVar[dict[str, dict[str, Any]]] = {
        # For tests and demonstrations.
        "tiny": {
            "stem_channels": 16,
            "stage_channels": [16, 32, 64],
            "stage_depths": [1, 1, 1],
            "group_size": 8,
        },
        "base": {},
        "clef_small": {
            "lead_names": ["I"],
            "stem_channels": 32,
            "stage_channels": [32, 64, 64, 128, 128, 256],
            "stage_depths": [1, 1, 2, 2, 2, 2],
            "group_size": 8,
            "bottleneck_ratio": 0.5,
        },
        "clef_large": {
            "lead_names": ["I"],
            "stem_channels": 128,
            "stage_channels": [128, 256, 256, 512, 512, 1024, 1024, 2048, 2048],
            "stage_depths": [2, 3, 3, 4, 4, 5, 5, 6, 6],
            "group_size": 32,
            "bottleneck_ratio": 1.5,
        },
    }

    sampling_rate: int = field(default=500, metadata=ENCODER_SAME_FEATURES | SAMPLING_RATE)
    stem_channels: int = field(default=64, metadata=ENCODER | COUNT | at_most(MAX_CHANNELS))
    stage_channels: list[int] | tuple[int, ...] = field(default=(64, 160, 160, 400, 400, 1024, 1024), metadata=ENCODER)
    stage_depths: list[int] | tuple[int, ...] = field(default=(2, 2, 2, 3, 3, 4, 4), metadata=ENCODER)
    kernel_size: int = field(default=16, metadata=ENCODER | COUNT | at_most(MAX_KERNEL_SIZE))
    group_size: int = field(default=16, metadata=ENCODER | COUNT)
    bottleneck_ratio: float | int = field(default=1.0, metadata=ENCODER | POSITIVE)

    def __post_init__(self, **kwargs: Any) -> None:
        self.stage_channels = list(self.stage_channels)
        self.stage_depths = list(self.stage_depths)
        super().__post_init__(**kwargs)

    @property
    def hidden_size(self) -> int:
        """`int`: Size of the representation, the channels of the last stage."""
        return self.stage_channels[-1]

    @property
    def num_hidden_layers(self) -> int:
        """`int`: Number of stages."""
        return len(self.stage_channels)

    def bottleneck_channels(self, channels: int) -> int:
        """Channels inside a block of so many `channels`."""
        return int(self.bottleneck_ratio * channels)

    def validate_architecture(self) -> None:
        """See [`EcgConfig.validate_architecture`]."""
        super().validate_architecture()
        channels, depths = self.stage_channels, self.stage_depths
        if not channels or len(channels) != len(depths) or min(*channels, *depths) < 1:
            raise ValueError(
                f"stage_channels and stage_depths must have one positive number per stage, got {channels} and "
                f"{depths}."
            )
        if sum(depths) > MAX_LAYERS or max(channels) > MAX_CHANNELS:
            raise ValueError(
                f"the model may have at most {MAX_LAYERS} blocks and {MAX_CHANNELS} channels, got {sum(depths)} and "
                f"{max(channels)}."
            )
        if [self.stem_channels, *channels] != sorted([self.stem_channels, *channels]):
            raise ValueError(
                f"stem_channels and stage_channels must be in ascending order, got {self.stem_channels} and "
                f"{channels}."
            )
        count = 0.0
        for width, depth in zip(channels, depths, strict=True):
            inner, groups = self.bottleneck_channels(width), width // self.group_size
            if not groups or not inner or inner % groups:
                raise ValueError(
                    f"the {inner} channels inside a block of {width} channels must be divisible by its {groups} "
                    "groups: change group_size or bottleneck_ratio."
                )
            count += depth * (2.0 * width * inner + inner * inner / groups * self.kernel_size + width * width)
        check_num_parameters(self._count_familiarity() + int(count))


__all__ = ["EcgFounderConfig"]
