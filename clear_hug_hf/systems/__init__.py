"""
The systems of this package, one file each, and those of installed packages. No other file names one.

A package of your own adds a system by an entry point of the group `clear_hug_hf.systems`, whose name is the system's
and whose value the place of its [`System`].
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cached_property
from importlib.metadata import EntryPoint, entry_points
from pkgutil import iter_modules
from typing import Any

from .base import Converter, ConverterOption, Objective, System, load


GROUP = "clear_hug_hf.systems"


class _Systems(Mapping[str, System]):
    """Declarations by name, each imported when it is first asked for."""

    @cached_property
    def _places(self) -> dict[str, EntryPoint]:
        own = (one.name for one in iter_modules(__path__) if one.name != "base")
        places = {name: EntryPoint(name, f"{__name__}.{name}:SYSTEM", GROUP) for name in own}
        for found in entry_points(group=GROUP):
            if places.setdefault(found.name, found).value != found.value:
                raise ImportError(
                    f"two packages bring the system {found.name!r} ({places[found.name].value} and {found.value}): "
                    "uninstall one of them"
                )
        return places

    def __getitem__(self, name: str) -> System:
        place = self._places[name]
        try:
            system = place.load()
        except Exception as error:  # whatever a module of another package raises when it is imported
            raise ImportError(
                f"the system {name!r} cannot be imported from {place.value} ({type(error).__name__}: {error}): "
                "mend or uninstall the package that brings it"
            ) from error
        if not isinstance(system, System) or system.name != name:
            raise ImportError(f"the entry point {name!r} is no System of that name: mend {place.value}")
        return system

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)


SYSTEMS: Mapping[str, System] = _Systems()
"""Every system by name: those of this folder, then those of installed packages."""
DEFAULT_SYSTEM = next(name for name, system in SYSTEMS.items() if system.is_default)
"""The one that is meant where none is named."""


def system_of(one: Any) -> System:
    """
    The system of a config, model, feature extractor or image processor.

    Raises:
        KeyError: If it is of none.
    """
    name = str(getattr(getattr(one, "config", one), "model_type", ""))
    if name in SYSTEMS:
        return SYSTEMS[name]
    for system in SYSTEMS.values():
        if any(base.__name__ in system.public_names for base in type(one).__mro__):
            return system
    raise KeyError(f"{type(one).__name__} is of no system: choose from {', '.join(SYSTEMS)}")


def head_types() -> tuple[str, ...]:
    """The heads of all systems' classifiers."""
    return tuple(dict.fromkeys(head for system in SYSTEMS.values() for head in system.heads))


__all__ = [
    "DEFAULT_SYSTEM",
    "GROUP",
    "SYSTEMS",
    "Converter",
    "ConverterOption",
    "Objective",
    "System",
    "head_types",
    "load",
    "system_of",
]
