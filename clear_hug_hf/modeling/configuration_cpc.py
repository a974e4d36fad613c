"""Configuration of contrastive predictive coding on any encoder with causal states."""

from dataclasses import field
from typing import ClassVar

from .configuration_ecg import COUNT, MAX_TOKENS, POSITIVE, PRETRAINING, at_most, strict_config
from .configuration_objective import ObjectiveConfig


@strict_config
class CpcConfig(ObjectiveConfig):
    r"""
    Configuration of [`CpcForPreTraining`].

    Args:
        backbone_config (`EcgConfig` or `dict`):
            See [`ObjectiveConfig`].
        prediction_steps (`int`, *optional*, defaults to 6):
            Pre-training predicts the features so many tokens ahead. A token is `conv_stride / sampling_rate` seconds
            of the backbone: 6 tokens of 20 ms, 120 ms in total, are 12 samples at 100 Hz as of Mehari and Strodthoff
            (2022), and about the 14 tokens of 8.3 ms, 117 ms, of Al-Masud, Lopez Alcaraz and Strodthoff (2025).
        num_negatives (`int`, *optional*, defaults to 128):
            Number of other tokens of the recording from which pre-training tells the true one apart.
        initializer_range (`float`, *optional*, defaults to 0.02):
            Standard deviation of the normal initialization of the projection.
    """

    model_type: ClassVar[str] = "cpc"

    prediction_steps: int = field(default=6, metadata=PRETRAINING | COUNT | at_most(MAX_TOKENS))
    num_negatives: int = field(default=128, metadata=PRETRAINING | COUNT | at_most(MAX_TOKENS))
    initializer_range: float = field(default=0.02, metadata=PRETRAINING | POSITIVE)


__all__ = ["CpcConfig"]
