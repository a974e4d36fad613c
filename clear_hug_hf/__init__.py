"""
ECG foundation models for Hugging Face Transformers.

Importing this package registers its models with the Auto classes and its task with the pipelines, so that neither
`AutoModel.from_pretrained(folder)` nor `pipeline("ecg-classification", model=folder)` needs `trust_remote_code`. It
imports none of the large libraries: registration waits for the import of transformers, and the public names below are
imported when they are first used.
"""

from importlib import import_module

from . import registration
from .objectives import shared_objectives
from .processing.lazy_names import lazy_names
from .systems import SYSTEMS


__version__ = "0.1.0"

# Public names by module; the classes of systems and objectives are public, too.
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
for _public_names in (declared.public_names for room in (SYSTEMS, shared_objectives()) for declared in room.values()):
    _MODULES |= _public_names
    # The rooms show these classes, too: `from clear_hug_hf.modeling import ...`.
    for _name, _module in _public_names.items():
        if _module.startswith("."):
            _room = import_module(_module.rpartition(".")[0], __name__)
            vars(_room).setdefault("_MODULES", {})[_name] = __name__ + _module
            _room.__getattr__, _room.__dir__ = lazy_names(_room.__name__, vars(_room)["_MODULES"])  # type: ignore

__all__ = sorted(_MODULES)
__getattr__, __dir__ = lazy_names(__name__, _MODULES)

registration.install()
