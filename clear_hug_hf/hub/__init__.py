"""What brings weights in and takes models out: converters from released checkpoints."""

from .convert_clear_hug import (
    convert_clear_hug_checkpoint,
    convert_clear_hug_state_dict,
    load_clear_hug_state_dict,
)


__all__ = ["convert_clear_hug_checkpoint", "convert_clear_hug_state_dict", "load_clear_hug_state_dict"]
