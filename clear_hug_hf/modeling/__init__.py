"""
The networks, as they are published to the Hub.

The files of this folder are published beside the weights and import nothing of the rest of the package.
"""

from .configuration_clear_hug import ClearHugConfig
from .configuration_ecg_jepa import EcgJepaConfig
from .configuration_ecg_scan import EcgScanConfig
from .modeling_clear_hug import (
    ClearHugClassifierOutput,
    ClearHugForPreTraining,
    ClearHugForPreTrainingOutput,
    ClearHugForSequenceClassification,
    ClearHugModel,
    ClearHugModelOutput,
    ClearHugPreTrainedModel,
)
from .modeling_ecg_jepa import (
    EcgJepaForPreTraining,
    EcgJepaForSequenceClassification,
    EcgJepaForTokenClassification,
    EcgJepaModel,
    EcgJepaPreTrainedModel,
)
from .modeling_ecg_scan import (
    EcgScanForImageClassification,
    EcgScanForPreTraining,
    EcgScanModel,
    EcgScanPreTrainedModel,
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
    "EcgJepaConfig",
    "EcgJepaForPreTraining",
    "EcgJepaForSequenceClassification",
    "EcgJepaForTokenClassification",
    "EcgJepaModel",
    "EcgJepaPreTrainedModel",
    "EcgScanConfig",
    "EcgScanForImageClassification",
    "EcgScanForPreTraining",
    "EcgScanModel",
    "EcgScanPreTrainedModel",
]
