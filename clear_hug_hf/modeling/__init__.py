"""
The networks, as they are published to the Hub.

The files of this folder are published beside the weights and import nothing of the rest of the package.
"""

from .configuration_clear_hug import ClearHugConfig
from .configuration_ecg_jepa import EcgJepaConfig
from .configuration_ecg_scan import EcgScanConfig
from .modeling_clear_hug import (
    ClearHugForPreTraining,
    ClearHugForPreTrainingOutput,
    ClearHugForSequenceClassification,
    ClearHugModel,
    ClearHugPreTrainedModel,
)
from .modeling_ecg import EcgClassifierOutput, EcgModelOutput
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
    "ClearHugConfig",
    "ClearHugForPreTraining",
    "ClearHugForPreTrainingOutput",
    "ClearHugForSequenceClassification",
    "ClearHugModel",
    "ClearHugPreTrainedModel",
    "EcgClassifierOutput",
    "EcgJepaConfig",
    "EcgJepaForPreTraining",
    "EcgJepaForSequenceClassification",
    "EcgJepaForTokenClassification",
    "EcgJepaModel",
    "EcgJepaPreTrainedModel",
    "EcgModelOutput",
    "EcgScanConfig",
    "EcgScanForImageClassification",
    "EcgScanForPreTraining",
    "EcgScanModel",
    "EcgScanPreTrainedModel",
]
