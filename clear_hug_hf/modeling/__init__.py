"""
The networks, as they are published to the Hub.

The files of this folder are published beside the weights and import nothing of the rest of the package.
"""

from .configuration_clear_hug import ClearHugConfig
from .modeling_clear_hug import (
    ClearHugClassifierOutput,
    ClearHugForPreTraining,
    ClearHugForPreTrainingOutput,
    ClearHugForSequenceClassification,
    ClearHugModel,
    ClearHugModelOutput,
    ClearHugPreTrainedModel,
)


__all__ = [
    "ClearHugClassifierOutput",
    "ClearHugConfig",
    "ClearHugForPreTraining",
    "ClearHugForPreTrainingOutput",
    "ClearHugForSequenceClassification",
    "ClearHugModel",
    "ClearHugModelOutput",
    "ClearHugPreTrainedModel",
]
