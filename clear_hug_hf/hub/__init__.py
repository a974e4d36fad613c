"""What brings weights in and takes models out: converters from released checkpoints."""

from .checkpoints import load_state_dict
from .convert_clear_hug import (
    convert_clear_hug_checkpoint,
    convert_clear_hug_state_dict,
    convert_to_folder,
    released_feature_extractor,
)
from .convert_ecg_jepa import (
    convert_ecg_jepa_checkpoint,
    convert_ecg_jepa_state_dict,
    convert_ecg_jepa_to_folder,
    released_ecg_jepa_feature_extractor,
)


__all__ = [
    "convert_clear_hug_checkpoint",
    "convert_clear_hug_state_dict",
    "convert_ecg_jepa_checkpoint",
    "convert_ecg_jepa_state_dict",
    "convert_ecg_jepa_to_folder",
    "convert_to_folder",
    "load_state_dict",
    "released_ecg_jepa_feature_extractor",
    "released_feature_extractor",
]
