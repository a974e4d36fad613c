"""
ECG foundation models for Hugging Face Transformers.

Importing this package registers its models with the Auto classes and its task with the pipelines, so that neither
`AutoModel.from_pretrained(folder)` nor `pipeline("ecg-classification", model=folder)` needs `trust_remote_code`. The
public names below are imported when they are first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from transformers import (
    AutoConfig,
    AutoFeatureExtractor,
    AutoImageProcessor,
    AutoModel,
    AutoModelForImageClassification,
    AutoModelForPreTraining,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    AutoModelForZeroShotImageClassification,
    AutoProcessor,
)
from transformers.pipelines import PIPELINE_REGISTRY

from .inference.pipeline_ecg_classification import MODEL_CLASSES, TASK, EcgClassificationPipeline
from .modeling import (
    ClearHugConfig,
    ClearHugForPreTraining,
    ClearHugForSequenceClassification,
    ClearHugModel,
    EcgJepaConfig,
    EcgJepaForPreTraining,
    EcgJepaForSequenceClassification,
    EcgJepaForTokenClassification,
    EcgJepaModel,
    EcgScanConfig,
    EcgScanForImageClassification,
    EcgScanForPreTraining,
    EcgScanModel,
)
from .processing import (
    STANDARD_LEADS,
    ClearHugFeatureExtractor,
    EcgJepaFeatureExtractor,
    EcgScanFeatureExtractor,
    EcgScanImageProcessor,
    InputError,
    draw_page,
    render_page,
)


__version__ = "0.1.0"

AutoConfig.register(ClearHugConfig.model_type, ClearHugConfig, exist_ok=True)
AutoModel.register(ClearHugConfig, ClearHugModel, exist_ok=True)
AutoModelForPreTraining.register(ClearHugConfig, ClearHugForPreTraining, exist_ok=True)
AutoModelForSequenceClassification.register(ClearHugConfig, ClearHugForSequenceClassification, exist_ok=True)
AutoFeatureExtractor.register(ClearHugConfig, ClearHugFeatureExtractor, exist_ok=True)
AutoProcessor.register(ClearHugConfig, ClearHugFeatureExtractor, exist_ok=True)

AutoConfig.register(EcgJepaConfig.model_type, EcgJepaConfig, exist_ok=True)
AutoModel.register(EcgJepaConfig, EcgJepaModel, exist_ok=True)
AutoModelForPreTraining.register(EcgJepaConfig, EcgJepaForPreTraining, exist_ok=True)
AutoModelForSequenceClassification.register(EcgJepaConfig, EcgJepaForSequenceClassification, exist_ok=True)
AutoModelForTokenClassification.register(EcgJepaConfig, EcgJepaForTokenClassification, exist_ok=True)
AutoFeatureExtractor.register(EcgJepaConfig, EcgJepaFeatureExtractor, exist_ok=True)
AutoProcessor.register(EcgJepaConfig, EcgJepaFeatureExtractor, exist_ok=True)

AutoConfig.register(EcgScanConfig.model_type, EcgScanConfig, exist_ok=True)
AutoModel.register(EcgScanConfig, EcgScanModel, exist_ok=True)
AutoModelForPreTraining.register(EcgScanConfig, EcgScanForPreTraining, exist_ok=True)
AutoModelForImageClassification.register(EcgScanConfig, EcgScanForImageClassification, exist_ok=True)
AutoModelForZeroShotImageClassification.register(EcgScanConfig, EcgScanModel, exist_ok=True)
AutoFeatureExtractor.register(EcgScanConfig, EcgScanFeatureExtractor, exist_ok=True)
AutoImageProcessor.register(EcgScanConfig, slow_image_processor_class=EcgScanImageProcessor, exist_ok=True)
AutoProcessor.register(EcgScanConfig, EcgScanImageProcessor, exist_ok=True)


PIPELINE_REGISTRY.supported_tasks.pop(TASK, None)  # what an earlier import left would be warned of
# "audio" is the kind of task that comes closest: transformers knows no other signals.
PIPELINE_REGISTRY.register_pipeline(
    TASK,
    pipeline_class=EcgClassificationPipeline,
    pt_model=MODEL_CLASSES,  # type: ignore[arg-type]
    type="audio",
)

# Rooms that bring heavier libraries (datasets, pandas, matplotlib) are imported on first use.
_LAZY = {
    "EcgCollator": ".data.collator",
    "Recording": ".data.records",
    "find_records": ".data.records",
    "read_record": ".data.records",
    "prepare": ".data.preparation",
    "load_prepared": ".data.prepared",
    "open_source": ".data.readers",
    "prepare_shards": ".data.sharding",
    "evaluate_predictions": ".evaluation.metrics",
    "predict": ".evaluation.predictions",
    "FinetuningArguments": ".training.finetuning",
    "finetune": ".training.finetuning",
    "load_classifier": ".training.folders",
    "load_for_finetuning": ".training.folders",
}

if TYPE_CHECKING:
    from .data.collator import EcgCollator
    from .data.preparation import prepare
    from .data.prepared import load_prepared
    from .data.readers import open_source
    from .data.records import Recording, find_records, read_record
    from .data.sharding import prepare_shards
    from .evaluation.metrics import evaluate_predictions
    from .evaluation.predictions import predict
    from .training.finetuning import FinetuningArguments, finetune
    from .training.folders import load_classifier, load_for_finetuning


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(import_module(_LAZY[name], __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_LAZY})


__all__ = [
    "STANDARD_LEADS",
    "ClearHugConfig",
    "ClearHugFeatureExtractor",
    "ClearHugForPreTraining",
    "ClearHugForSequenceClassification",
    "ClearHugModel",
    "EcgClassificationPipeline",
    "EcgCollator",
    "EcgJepaConfig",
    "EcgJepaFeatureExtractor",
    "EcgJepaForPreTraining",
    "EcgJepaForSequenceClassification",
    "EcgJepaForTokenClassification",
    "EcgJepaModel",
    "EcgScanConfig",
    "EcgScanFeatureExtractor",
    "EcgScanForImageClassification",
    "EcgScanForPreTraining",
    "EcgScanImageProcessor",
    "EcgScanModel",
    "FinetuningArguments",
    "InputError",
    "Recording",
    "draw_page",
    "evaluate_predictions",
    "find_records",
    "finetune",
    "load_classifier",
    "load_for_finetuning",
    "load_prepared",
    "open_source",
    "predict",
    "prepare",
    "prepare_shards",
    "read_record",
    "render_page",
]
