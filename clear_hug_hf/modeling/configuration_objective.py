"""Base configuration of pre-training objectives that share the encoders of all systems."""

from collections.abc import Mapping
from dataclasses import field
from typing import Any, ClassVar

from transformers import CONFIG_MAPPING, AutoConfig, PreTrainedConfig

from .configuration_ecg import PRETRAINING, EcgConfig, check_fields, strict_config


@strict_config
class ObjectiveConfig(PreTrainedConfig):
    r"""
    Base class of the configs of pre-training objectives. A subclass is decorated with [`strict_config`], sets
    `model_type` and adds its fields, whose metadata define the accepted values as in [`EcgConfig`].

    Args:
        backbone_config (`EcgConfig` or `dict`):
            Config of the encoder to pre-train; a dictionary has its `model_type`.

    Raises:
        `ValueError`: if a value is out of range, or the backbone is not an encoder of recordings.
    """

    # transformers propagates the attention implementation to the backbone.
    sub_configs: ClassVar[dict[str, Any]] = {"backbone_config": AutoConfig}
    has_no_defaults_at_init: ClassVar[bool] = True  # there is no default backbone

    # `__post_init__` converts a dictionary to a config.
    backbone_config: Any = field(default=None, metadata=PRETRAINING)

    def __post_init__(self, **kwargs: Any) -> None:
        if isinstance(self.backbone_config, Mapping):
            settings = dict(self.backbone_config)
            model_type = settings.pop("model_type", None)
            if not isinstance(model_type, str) or model_type not in CONFIG_MAPPING:
                raise ValueError(f"backbone_config has the unknown model_type {model_type!r}.")
            settings.pop("auto_map", None)  # the installed class is used
            self.backbone_config = CONFIG_MAPPING[model_type](**settings)
        super().__post_init__(**kwargs)

    @property
    def hidden_size(self) -> int:
        """`int`: Width of the pooled vector of the backbone."""
        return int(self.backbone_config.hidden_size)

    def validate_architecture(self) -> None:
        """See [`EcgConfig.validate_architecture`]."""
        super().validate_architecture()
        # Encoders of pages have the size of a picture.
        if not isinstance(self.backbone_config, EcgConfig) or "image_size" in vars(self.backbone_config):
            raise ValueError(
                f"backbone_config must be the config of an encoder of recordings, got "
                f"{type(self.backbone_config).__name__}."
            )
        check_fields(self)


__all__ = ["ObjectiveConfig"]
