"""Configuration of pre-training by comparing two views of each recording."""

from collections.abc import Sequence
from dataclasses import field
from itertools import pairwise
from reprlib import repr as short
from typing import Any, ClassVar, Literal, get_args

from .configuration_ecg import (
    MAX_LAYERS,
    POSITIVE,
    PRETRAINING,
    check_momentum,
    check_num_parameters,
    strict_config,
)
from .configuration_objective import ObjectiveConfig
from .contrasts import MlpNorm


@strict_config
class SiameseConfig(ObjectiveConfig):
    r"""
    Configuration of [`SiameseForPreTraining`], whose fields tell SimCLR, MoCo v3, BYOL, SimSiam and CLOCS apart. The
    defaults are those of SimCLR.

    Args:
        backbone_config (`EcgConfig` or `dict`):
            See [`ObjectiveConfig`].
        projection_sizes (`list[int | None]`, *optional*, defaults to `[None, 128]`):
            Output size of each layer of the projector; `None` is the width of the backbone.
        projection_norms (`list[str]`, *optional*, defaults to `["batch", "batch"]`):
            Normalization after each layer of the projector: `"none"`, `"batch"`, `"batch_without_scale"` (which learns
            neither scale nor shift) or `"layer"`. ReLU follows all layers but the last.
        prediction_sizes (`list[int | None]`, *optional*):
            Output size of each layer of the predictor, the last of which is that of the projector. By default there is
            no predictor, and projections are compared with each other.
        prediction_norms (`list[str]`, *optional*):
            Normalization after each layer of the predictor. By default `"batch"`, but `"none"` after the last one.
        target (`str`, *optional*, defaults to `"shared"`):
            What a view is compared with: the projection of the other view (`"shared"`), the same without gradient
            (`"detached"`), or the other view's projection by a moving average of the network (`"momentum"`).
        contrast (`str`, *optional*, defaults to `"nt_xent"`):
            `"nt_xent"`, `"info_nce"` or `"cosine"`, see the functions [`nt_xent`], [`info_nce`] and
            [`negative_cosine`].
        temperature (`float`, *optional*, defaults to 0.1):
            Divisor of the cosine similarities in contrasts with negatives.
        loss_scale (`float`, *optional*, defaults to 1.0):
            Factor of the loss.
        ema_start, ema_end (`float`, *optional*, default to 0.996 and 1.0):
            Momentum of the moving average at the start and at the end of training, with half a cosine in between.
        same_patient (`str`, *optional*, defaults to `"negative"`):
            Role of other recordings of the same patient in contrasts with negatives, by the `groups` of a batch:
            `"negative"`, `"excluded"` (neither positive nor negative) or `"positive"`.

    Raises:
        `ValueError`: if a value is out of range or fields contradict each other.
    """

    model_type: ClassVar[str] = "ecg_siamese"

    projection_sizes: list[int | None] | tuple[int | None, ...] = field(default=(None, 128), metadata=PRETRAINING)
    projection_norms: list[str] | tuple[str, ...] = field(default=("batch", "batch"), metadata=PRETRAINING)
    prediction_sizes: list[int | None] | tuple[int | None, ...] | None = field(default=None, metadata=PRETRAINING)
    prediction_norms: list[str] | tuple[str, ...] | None = field(default=None, metadata=PRETRAINING)
    target: Literal["shared", "detached", "momentum"] = field(default="shared", metadata=PRETRAINING)
    contrast: Literal["nt_xent", "info_nce", "cosine"] = field(default="nt_xent", metadata=PRETRAINING)
    temperature: float | int = field(default=0.1, metadata=PRETRAINING | POSITIVE)
    loss_scale: float | int = field(default=1.0, metadata=PRETRAINING | POSITIVE)
    ema_start: float | int = field(default=0.996, metadata=PRETRAINING)
    ema_end: float | int = field(default=1.0, metadata=PRETRAINING)
    same_patient: Literal["negative", "excluded", "positive"] = field(default="negative", metadata=PRETRAINING)

    def __post_init__(self, **kwargs: Any) -> None:
        if self.prediction_sizes is not None and self.prediction_norms is None:
            self.prediction_norms = ["batch"] * (len(self.prediction_sizes) - 1) + ["none"]
        for name in ("projection_sizes", "projection_norms", "prediction_sizes", "prediction_norms"):
            value = getattr(self, name)
            setattr(self, name, value if value is None else list(value))
        super().__post_init__(**kwargs)

    @property
    def projection_widths(self) -> list[int]:
        """`list[int]`: `projection_sizes`, with the width of the backbone."""
        return [size or self.hidden_size for size in self.projection_sizes]

    @property
    def prediction_widths(self) -> list[int]:
        """`list[int]`: `prediction_sizes`, with the width of the backbone; empty without a predictor."""
        return [size or self.hidden_size for size in self.prediction_sizes or ()]

    def validate_architecture(self) -> None:
        """See [`EcgConfig.validate_architecture`]."""
        super().validate_architecture()
        _check_layers("projection", self.projection_sizes, self.projection_norms)
        if self.prediction_sizes is not None:
            _check_layers("prediction", self.prediction_sizes, self.prediction_norms or ())
            if self.prediction_widths[-1] != self.projection_widths[-1]:
                raise ValueError(
                    f"prediction_sizes={self.prediction_sizes} must end with the size of projections, "
                    f"{self.projection_widths[-1]}."
                )
        elif self.prediction_norms is not None:
            raise ValueError(f"prediction_norms={self.prediction_norms} requires prediction_sizes.")
        widths = [self.hidden_size, *self.projection_widths, *self.prediction_widths]
        check_num_parameters(sum(before * after for before, after in pairwise(widths)))
        check_momentum(self.ema_start, self.ema_end)


def _check_layers(name: str, sizes: Sequence[int | None], norms: Sequence[str]) -> None:
    if not sizes or any(size is not None and size < 1 for size in sizes):
        raise ValueError(f"{name}_sizes must have at least one size, and sizes of at least 1, got {short(sizes)}.")
    if len(sizes) > MAX_LAYERS:
        raise ValueError(f"{name}_sizes must have at most {MAX_LAYERS} layers, got {len(sizes)}.")
    if len(norms) != len(sizes) or any(norm not in get_args(MlpNorm) for norm in norms):
        raise ValueError(
            f"{name}_norms must be one of {', '.join(get_args(MlpNorm))} for each of {len(sizes)} layers, got "
            f"{short(norms)}."
        )


__all__ = ["SiameseConfig"]
