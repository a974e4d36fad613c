"""
ECG foundation models for Hugging Face Transformers.

Importing this package registers its models with the Auto classes and its task with the pipelines, so that neither
`AutoModel.from_pretrained(folder)` nor `pipeline("ecg-classification", model=folder)` needs `trust_remote_code`. The
public names below are imported when they are first used.
"""

from importlib import import_module
from typing import Any

import transformers
from transformers.pipelines import PIPELINE_REGISTRY

from .inference.pipeline_ecg_classification import MODEL_CLASSES, TASK, EcgClassificationPipeline
from .processing.errors import import_library
from .systems import SYSTEMS, System, load


__version__ = "0.1.0"

# Public names by module; the systems' classes are public, too.
_NAMES = {
    ".data.collator": ("EcgCollator",),
    ".data.preparation": ("prepare",),
    ".data.prepared": ("load_prepared",),
    ".data.readers": ("open_source",),
    ".data.records": ("Recording", "find_records", "read_record"),
    ".data.sharding": ("prepare_shards",),
    ".evaluation.metrics": ("evaluate_predictions",),
    ".evaluation.predictions": ("predict",),
    ".inference.pipeline_ecg_classification": ("EcgClassificationPipeline",),
    ".processing.ecg_paper": ("draw_page", "render_page"),
    ".processing.errors": ("InputError",),
    ".processing.leads": ("STANDARD_LEADS",),
    ".training.finetuning": ("FinetuningArguments", "finetune"),
    ".training.folders": ("load_classifier", "load_for_finetuning", "shipped_model"),
}
_MODULES = {name: module for module, names in _NAMES.items() for name in names}
for _system in SYSTEMS.values():
    _MODULES |= _system.public_names

__all__ = sorted(_MODULES)


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return getattr(import_library(_MODULES[name], f"clear_hug_hf.{name}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def _register(system: System) -> None:
    """Make a system's classes what the Auto classes find by its config."""
    classes = {name: load(reference) for name, reference in system.auto_classes.items()}
    classes["AutoProcessor"] = classes.get("AutoImageProcessor", classes["AutoFeatureExtractor"])
    config = classes.pop("AutoConfig")
    transformers.AutoConfig.register(system.name, config, exist_ok=True)
    for name, one in classes.items():
        register = getattr(transformers, name).register
        if name == "AutoImageProcessor":
            register(config, slow_image_processor_class=one, exist_ok=True)
        else:
            register(config, one, exist_ok=True)
    # The rooms show the classes of their systems, too: `from clear_hug_hf.modeling import ...`.
    for name, module in system.public_names.items():
        if module.startswith("."):
            room = import_module(module.rpartition(".")[0], __name__)
            setattr(room, name, getattr(import_module(module, __name__), name))


for _system in SYSTEMS.values():
    _register(_system)

PIPELINE_REGISTRY.supported_tasks.pop(TASK, None)  # what an earlier import left would be warned of
# "audio" is the kind of task that comes closest: transformers knows no other signals.
PIPELINE_REGISTRY.register_pipeline(
    TASK,
    pipeline_class=EcgClassificationPipeline,
    pt_model=MODEL_CLASSES,  # type: ignore[arg-type]
    type="audio",
)
