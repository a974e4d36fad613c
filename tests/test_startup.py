"""The import of the package: without large libraries, and registered with transformers in whatever order."""

from __future__ import annotations

import importlib
import importlib.util
import pickle
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import transformers
from strangers import run_script

import clear_hug_hf
from clear_hug_hf import processing, registration
from clear_hug_hf.inference import pipeline_ecg_classification
from clear_hug_hf.systems import DEFAULT_SYSTEM, SYSTEMS


ROOT = Path(__file__).resolve().parents[1]
LARGE = ("accelerate", "datasets", "huggingface_hub", "numpy", "pandas", "scipy", "torch", "transformers")
# What the command line needs for its help texts.
LIGHT = (
    "clear_hug_hf.data.label_sets",
    "clear_hug_hf.data.readers",
    "clear_hug_hf.hub",
    "clear_hug_hf.modeling",
    "clear_hug_hf.processing.errors",
    "clear_hug_hf.systems",
    "clear_hug_hf.utils.files",
)
CHECK = f"""
import sys
sys.path.insert(0, {str(ROOT)!r})

def check():
    from clear_hug_hf.systems import SYSTEMS, load
    import transformers
    from transformers.models.auto.feature_extraction_auto import FEATURE_EXTRACTOR_MAPPING
    from transformers.models.auto.image_processing_auto import IMAGE_PROCESSOR_MAPPING
    from transformers.models.auto.processing_auto import PROCESSOR_MAPPING

    for name, system in SYSTEMS.items():
        assert type(transformers.AutoConfig.for_model(name)) is system.config
        assert FEATURE_EXTRACTOR_MAPPING[system.config] is system.feature_extractor
        assert system.config in PROCESSOR_MAPPING
        assert (system.config in IMAGE_PROCESSOR_MAPPING) is system.reads_pages
        for auto_class, reference in system.auto_classes.items():
            if auto_class.startswith("AutoModel"):
                assert getattr(transformers, auto_class)._model_mapping[system.config] is load(reference)
    folder = {str(ROOT / "model_cards" / "clear-hug-small-ptbxl-super")!r}
    classify = transformers.pipeline("ecg-classification", model=folder)
    assert type(classify).__module__.startswith("clear_hug_hf.")
    assert type(classify.model).__module__.startswith("clear_hug_hf.")

"""
ORDERS = {
    "the package first": """
        import clear_hug_hf
        check()
    """,
    "transformers first": """
        from transformers import AutoConfig, AutoFeatureExtractor, AutoModel, AutoProcessor, pipeline
        import clear_hug_hf
        check()
    """,
    "models while the modules that ours need are half executed": """
        import clear_hug_hf
        from transformers import BertModel
        check()
    """,
    "a module of the package that asks for Auto classes": """
        import clear_hug_hf.modeling.configuration_ecg_scan
        check()
    """,
    "a pickle of the package": """
        import pickle
        with open("config.pickle", "rb") as file:
            config = pickle.load(file)
        from transformers import AutoModel
        assert type(AutoModel.from_config(config)).__module__.startswith("clear_hug_hf.")
        check()
    """,
    "modules of transformers twice": """
        import importlib
        import clear_hug_hf
        import transformers.models.auto.configuration_auto as module
        importlib.reload(module)
        assert set(clear_hug_hf.systems.SYSTEMS) <= set(module.CONFIG_MAPPING)
        importlib.reload(clear_hug_hf)
    """,
    "several threads": """
        from concurrent.futures import ThreadPoolExecutor
        import transformers
        import clear_hug_hf
        from clear_hug_hf.systems import SYSTEMS

        def use(name):
            if name == "pipeline":
                return "ecg-classification" in transformers.pipelines.PIPELINE_REGISTRY.get_supported_tasks()
            auto_class = getattr(transformers, name)
            known = [system for system, one in SYSTEMS.items() if {"AutoConfig", name} <= one.auto_classes.keys()]
            configs = [transformers.AutoConfig.for_model(system) for system in known]
            return name == "AutoConfig" or all(type(one) in auto_class._model_mapping for one in configs)

        with ThreadPoolExecutor(4) as threads:
            assert all(threads.map(use, ["pipeline", "AutoModel", "AutoConfig", "AutoModelForPreTraining"]))
        check()
    """,
}


@pytest.mark.parametrize("module", ["clear_hug_hf", *LIGHT])
def test_when_a_module_for_help_texts_is_imported_then_no_large_library_is(module: str) -> None:
    code = f"import sys, {module}; print(*sorted(set({LARGE}) & sys.modules.keys()))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, check=True, timeout=60, capture_output=True, text=True
    )
    assert not done.stdout.split()


@pytest.mark.parametrize("order", ORDERS)
def test_when_the_package_is_imported_in_any_order_then_transformers_knows_its_classes(
    tmp_path: Path, order: str
) -> None:
    small = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    (tmp_path / "config.pickle").write_bytes(pickle.dumps(SYSTEMS[DEFAULT_SYSTEM].config(**small)))
    lines = ORDERS[order].splitlines()
    run_script(tmp_path, CHECK + "\n".join(line.removeprefix(" " * 8) for line in lines))


def test_when_public_names_are_asked_for_then_all_are_there() -> None:
    for package in (clear_hug_hf, processing):
        assert set(package.__all__) <= set(dir(package))
        assert all(getattr(package, name) is not None for name in package.__all__)
        with pytest.raises(AttributeError, match=f"module '{package.__name__}' has no attribute 'nothing'"):
            _ = package.nothing
    assert clear_hug_hf.training.folders.load_classifier is clear_hug_hf.load_classifier, "modules are attributes"


def test_when_a_class_of_a_plugin_cannot_be_imported_then_the_error_names_the_system(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    system = SYSTEMS[DEFAULT_SYSTEM]
    broken = replace(system, name="odd", classes={**system.classes, "AutoModel": "no_such_module:Model"})
    monkeypatch.setattr(registration, "SYSTEMS", {"odd": broken})
    with pytest.raises(ImportError, match=r"the system 'odd' cannot be registered with AutoModel \(ModuleNotFound"):
        registration._register("AutoModel", transformers.AutoModel)


def test_when_transformers_keeps_classes_in_another_way_then_they_are_registered_at_once() -> None:
    registered: dict[object, object] = {}

    class AutoModel:
        @staticmethod
        def register(config: object, model: object, exist_ok: bool) -> None:
            registered[config] = model

    registration._register_later("AutoModel", AutoModel)
    assert registered == {system.config: system.model("AutoModel") for system in SYSTEMS.values()}


def test_when_the_task_is_registered_then_its_name_is_that_of_the_pipeline() -> None:
    assert registration.TASK == pipeline_ecg_classification.TASK
    assert clear_hug_hf.EcgClassificationPipeline._registered_impl.keys() == {registration.TASK}


def test_when_a_module_is_found_before_it_is_imported_then_its_loader_is_whole() -> None:
    found = importlib.util.find_spec("clear_hug_hf.cli.__main__")
    assert found is not None
    assert found.loader is not None
    assert found.loader.get_code(found.name).co_filename == found.origin, "`python -m` takes the code from it"
    assert isinstance(transformers.models.auto.configuration_auto.__loader__, importlib.machinery.SourceFileLoader)
