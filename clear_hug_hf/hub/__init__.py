"""What brings weights in and takes models out: converters from released checkpoints."""

from .checkpoints import load_state_dict
from .convert_clear_hug import (
    convert_clear_hug_checkpoint,
    convert_clear_hug_state_dict,
    convert_to_folder,
    released_feature_extractor,
)


__all__ = [
    "convert_clear_hug_checkpoint",
    "convert_clear_hug_state_dict",
    "convert_to_folder",
    "load_state_dict",
    "released_feature_extractor",
]
