"""In what two descriptions of a piece of work differ, for errors that refuse to mix the two."""

from __future__ import annotations

from typing import Any, NamedTuple


class Difference(NamedTuple):
    """A setting and its value on both sides, `None` where it is absent."""

    name: str
    there: Any
    now: Any


def first_difference(there: Any, now: Any, name: str = "", joint: str = ".") -> Difference | None:
    """
    The first setting in which two nested dictionaries differ.

    Args:
        there, now: The descriptions, as JSON has them.
        name (`str`, *optional*): Of the whole.
        joint (`str`, *optional*, defaults to `"."`): Stands between the names of nested settings.
    """
    if isinstance(there, dict) and isinstance(now, dict):
        for key in {**there, **now}:
            found = first_difference(there.get(key), now.get(key), f"{name}{joint}{key}" if name else key, joint)
            if found is not None:
                return found
        return None
    return None if there == now else Difference(name, there, now)
