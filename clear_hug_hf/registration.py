"""
Registration of all systems with the Auto classes and pipelines of transformers, without importing either.

Importing transformers takes seconds, and it has no entry points for plugins. So a finder on `sys.meta_path` looks at
the modules of transformers right after their execution. Where one defines an Auto class or the registry of pipelines,
the classes of the systems are registered as soon as something looks one up. Any earlier would be circular: they need
modules of transformers that may be half executed.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

from .systems import SYSTEMS, load


TASK = "ecg-classification"
_PIPELINES, _PIPELINE = "PIPELINE_REGISTRY", "EcgClassificationPipeline"
# Where an Auto class keeps what is registered with it; those of models have an attribute for it.
_MAPPINGS = {
    "AutoConfig": "CONFIG_MAPPING",
    "AutoFeatureExtractor": "FEATURE_EXTRACTOR_MAPPING",
    "AutoImageProcessor": "IMAGE_PROCESSOR_MAPPING",
    "AutoProcessor": "PROCESSOR_MAPPING",
}


def install() -> None:
    """Register with what transformers has imported so far, and from now on with what it imports."""
    # If this package is imported anew, the finder of the former one would register its classes beside these.
    sys.meta_path[:] = [finder for finder in sys.meta_path if type(finder).__module__ != __name__]
    finder = _Finder()
    sys.meta_path.insert(0, finder)
    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] == "transformers":
            finder.look_at(module)


class _Thread(threading.local):
    """The modules that one thread executes, from the outermost to the innermost, of the packages that matter."""

    def __init__(self) -> None:
        self.executes: list[str] = []

    @contextmanager
    def executing(self, name: str) -> Iterator[None]:
        self.executes.append(name)
        try:
            yield
        finally:
            self.executes.pop()


_THREAD = _Thread()


class _Finder(MetaPathFinder):
    """Finds modules as the other finders do, and looks at those of transformers when they have been executed."""

    def __init__(self) -> None:
        self.packages = {"transformers", str(__package__)}  # and those that bring systems
        self.names = {"AutoProcessor", _PIPELINES, _PIPELINE}
        for system in SYSTEMS.values():
            self.packages |= {module.partition(".")[0] for module in system.public_names.values()}
            self.names |= system.auto_classes.keys()
        self.seen: dict[str, Any] = {}

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname.partition(".")[0] in self.packages:
            for finder in sys.meta_path:
                find_spec = None if finder is self else getattr(finder, "find_spec", None)
                if find_spec is not None and (spec := find_spec(fullname, path, target)) is not None:
                    if spec.loader is not None:
                        spec.loader = _Loader(spec.loader, self)
                    return spec
        return None

    def look_at(self, module: ModuleType) -> None:
        """Prepare the registration with what a module defines."""
        for name in self.names & vars(module).keys():
            definition = vars(module)[name]
            if self.seen.get(name) is definition:
                continue
            self.seen[name] = definition
            if name == _PIPELINES:
                definition.supported_tasks[TASK] = _Task(definition)
            elif name == _PIPELINE:
                _ = self.seen[_PIPELINES].supported_tasks[TASK]["impl"]  # the class may be used without the task
            else:
                _register_later(name, definition)


class _Loader:
    """The loader of a module, except that it looks at the module after the execution."""

    def __init__(self, loader: Any, finder: _Finder) -> None:
        self._loader, self._finder = loader, finder

    def exec_module(self, module: ModuleType) -> None:
        if module.__spec__ is not None:
            module.__spec__.loader = module.__loader__ = self._loader
        with _THREAD.executing(module.__name__.partition(".")[0]):
            self._loader.exec_module(module)
        self._finder.look_at(module)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)


def _register_later(name: str, auto_class: Any) -> None:
    """Register with an Auto class when something first looks at what is registered with it."""
    if "_backends" in vars(auto_class):  # a placeholder: the class requires a library that is not installed
        return
    places = {**vars(sys.modules[auto_class.__module__]), **vars(auto_class)}
    mapping: Any = places.get(_MAPPINGS.get(name, "_model_mapping"))
    if "_extra_content" not in getattr(mapping, "__dict__", ()):  # another version of transformers
        _register(name, auto_class)
        return
    kind, content = type(mapping), vars(mapping)["_extra_content"]

    def registered(self: Any) -> Any:
        # Modules of transformers do not look for classes of others, and while they are executed, ours may need them.
        if "transformers" not in _THREAD.executes:
            try:
                with _THREAD.executing("transformers"):
                    _register(name, auto_class)
                self.__class__ = kind
            except ImportError:
                if not _THREAD.executes:
                    raise
        return content

    mapping.__class__ = type(kind.__name__, (kind,), {"_extra_content": property(registered)})


def _register(name: str, auto_class: Any) -> None:
    """Make the class of each system what an Auto class finds by its config."""
    for system in SYSTEMS.values():
        references = system.auto_classes
        references["AutoProcessor"] = references.get("AutoImageProcessor", references["AutoFeatureExtractor"])
        if name not in references:
            continue
        try:
            config, system_class = system.config, load(references[name])
        except Exception as error:  # whatever a module of another package raises when it is imported
            raise ImportError(
                f"the system {system.name!r} cannot be registered with {name} ({type(error).__name__}: {error})"
            ) from error
        if name == "AutoConfig":
            auto_class.register(system.name, config, exist_ok=True)
        elif name == "AutoImageProcessor":
            auto_class.register(config, slow_image_processor_class=system_class, exist_ok=True)
        else:
            auto_class.register(config, system_class, exist_ok=True)


class _Task(dict[str, Any]):
    """The task in the registry of pipelines, registered when its pipeline is first asked for."""

    def __init__(self, registry: Any):
        # "audio" is the kind of task that comes closest: transformers knows no other signals.
        super().__init__(type="audio")
        self.registry = registry

    def __missing__(self, key: str) -> Any:
        from .inference.pipeline_ecg_classification import MODEL_CLASSES, EcgClassificationPipeline

        self.registry.supported_tasks.pop(TASK, None)  # a task that is already registered causes a warning
        self.registry.register_pipeline(
            TASK, pipeline_class=EcgClassificationPipeline, pt_model=MODEL_CLASSES, type=self["type"]
        )
        self.update(self.registry.supported_tasks[TASK])
        return {**self}[key]
