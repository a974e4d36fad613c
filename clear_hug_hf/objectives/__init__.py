"""
Pre-training objectives: those of the systems, and those of this room, one file per family, which share the encoders of
all systems that read recordings.

To add objectives from your own package, define an entry point in the group `clear_hug_hf.objectives` that refers to a
tuple of [`Objective`]s.
"""

from __future__ import annotations

from functools import cache
from importlib import import_module
from importlib.metadata import entry_points
from pkgutil import iter_modules

from ..processing.errors import InputError
from ..systems import DEFAULT_SYSTEM, SYSTEMS, Objective, System


GROUP = "clear_hug_hf.objectives"


@cache
def shared_objectives() -> dict[str, Objective]:
    """
    Objectives that belong to no system, by name.

    Raises:
        ImportError: If two objectives have the same name.
    """
    declared = [import_module(f"{__name__}.{module.name}").OBJECTIVES for module in iter_modules(__path__)]
    declared += [place.load() for place in entry_points(group=GROUP)]
    objectives: dict[str, Objective] = {}
    for objective in (objective for family in declared for objective in family):
        if objective.name in objectives:
            raise ImportError(f"two objectives are named {objective.name!r}: uninstall the package of one of them")
        objectives[objective.name] = objective
    return objectives


def objectives_of(system: System) -> dict[str, Objective]:
    """
    Objectives with which a system can be pre-trained, by name, the default first: its own; for encoders of recordings
    those shared objectives whose default backbone it is; and the other shared ones.
    """
    own = {objective.name: objective for objective in system.objectives}
    if system.reads_pages:
        return own
    shared = sorted(shared_objectives().values(), key=lambda objective: objective.backbone != system.name)
    return {**own, **{objective.name: objective for objective in shared}}


def default_objective(system: System) -> Objective | None:
    """The objective of a system if none is named: its own, or a shared one whose default backbone it is."""
    first = next(iter(objectives_of(system).values()), None)
    return first if first in system.objectives or (first is not None and first.backbone == system.name) else None


def objective_names() -> tuple[str, ...]:
    """Names of all objectives, those of the systems first."""
    own = [objective.name for system in SYSTEMS.values() for objective in system.objectives]
    return tuple(dict.fromkeys([*own, *shared_objectives()]))


def systems_with_default_objective() -> tuple[str, ...]:
    """Names of the systems that can be pre-trained without naming an objective."""
    return tuple(name for name, system in SYSTEMS.items() if default_objective(system) is not None)


def backbone_names() -> tuple[str, ...]:
    """Names of the systems that can be pre-trained."""
    return tuple(name for name, system in SYSTEMS.items() if objectives_of(system))


def find_objective(name: str | None = None, system: str | None = None) -> tuple[str, Objective]:
    """
    The system and the objective that names mean.

    Args:
        name (`str`, *optional*): Name of the objective (default: that of the system).
        system (`str`, *optional*): Name of the system (default: the backbone of the objective, or without a name the
            default system).

    Raises:
        InputError: If the system cannot be pre-trained with the objective, or an objective must be named.
    """
    if system is None:
        if name is None:
            system = DEFAULT_SYSTEM
        elif name in (shared := shared_objectives()):
            system = shared[name].backbone
        else:
            owners = (owner for owner, declared in SYSTEMS.items() if name in objectives_of(declared))
            system = next(owners, DEFAULT_SYSTEM)
    declaration = SYSTEMS[system]
    possible = objectives_of(declaration)
    objective = default_objective(declaration) if name is None else possible.get(name)
    if objective is None:
        choices = f"choose from {', '.join(possible)}" if possible else "convert its released weights"
        if name is None:
            raise InputError(f"{system} has no pre-training objective of its own: {choices}")
        raise InputError(f"{system} cannot be pre-trained with the objective {name!r}: {choices}")
    return system, objective


__all__ = [
    "GROUP",
    "backbone_names",
    "default_objective",
    "find_objective",
    "objective_names",
    "objectives_of",
    "shared_objectives",
    "systems_with_default_objective",
]
