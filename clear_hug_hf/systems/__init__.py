"""
Registry of systems: those of this package, one file each, and those of installed packages. No other file names one.

To add a system from your own package, define an entry point in the group `clear_hug_hf.systems` whose name is that of
the system and whose value refers to its [`System`].
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cached_property
from importlib.metadata import EntryPoint, entry_points
from pkgutil import iter_modules
from typing import Any

from .base import Converter, ConverterOption, Objective, ReleasedWeights, System, load


GROUP = "clear_hug_hf.systems"


class _Systems(Mapping[str, System]):
    """Declarations by name, imported on first use."""

    @cached_property
    def _places(self) -> dict[str, EntryPoint]:
        modules = (module.name for module in iter_modules(__path__) if module.name != "base")
        places = {name: EntryPoint(name, f"{__name__}.{name}:SYSTEM", GROUP) for name in modules}
        for installed in entry_points(group=GROUP):
            if (place := places.setdefault(installed.name, installed)).value != installed.value:
                raise ImportError(
                    f"two packages provide the system {installed.name!r} ({place.value} and {installed.value}): "
                    "uninstall one of them"
                )
        return places

    def __getitem__(self, name: str) -> System:
        place = self._places[name]
        try:
            system = place.load()
        except Exception as error:  # modules of other packages may raise anything
            raise ImportError(
                f"the system {name!r} cannot be imported from {place.value} ({type(error).__name__}: {error}): "
                "fix or uninstall the package that provides it"
            ) from error
        if not isinstance(system, System) or system.name != name:
            raise ImportError(f"the entry point {name!r} is not a System of that name: fix {place.value}")
        return system

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)


SYSTEMS: Mapping[str, System] = _Systems()
"""All systems by name: those of this package, then those of installed packages."""
DEFAULT_SYSTEM = next(name for name, system in SYSTEMS.items() if system.is_default)
"""The one that is meant where none is named."""


def system_of(instance: Any) -> System:
    """
    The system of a config, model, feature extractor or image processor; of a feature extractor that several systems
    share, the first one.

    Raises:
        KeyError: If it belongs to no system.
    """
    name = str(getattr(getattr(instance, "config", instance), "model_type", ""))
    if name in SYSTEMS:
        return SYSTEMS[name]
    for system in SYSTEMS.values():
        if any(base.__name__ in system.public_names for base in type(instance).__mro__):
            return system
    raise KeyError(f"{type(instance).__name__} belongs to no system: choose from {', '.join(SYSTEMS)}")


def head_types() -> tuple[str, ...]:
    """The head types of the classifiers of all systems."""
    return tuple(dict.fromkeys(head for system in SYSTEMS.values() for head in system.heads))


__all__ = [
    "DEFAULT_SYSTEM",
    "GROUP",
    "SYSTEMS",
    "Converter",
    "ConverterOption",
    "Objective",
    "ReleasedWeights",
    "System",
    "head_types",
    "load",
    "system_of",
]
