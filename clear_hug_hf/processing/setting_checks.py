"""
Settings of feature extractors and their checks. A `preprocessor_config.json` may be damaged, or anyone's: each value
is checked when an extractor is made, so that none of them takes memory or fails later.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Collection
from numbers import Integral, Real
from reprlib import repr as short
from typing import Annotated, Any, ClassVar, Self, get_origin

from .errors import InputError


MAX_SAMPLING_RATE = 10_000.0
"""Highest rate that a model may work at [Hz]."""
MAX_WINDOW_SAMPLES = 1_000_000
"""Longest window, or all beats of one, in one lead [samples]: an hour at 250 Hz has 900 000."""
MAX_SECONDS = 1e6
"""Longest duration [s], 11 days."""


def check_number(
    name: str, value: Any, low: float, high: float, *, whole: bool = False, optional: bool = False
) -> None:
    """
    Refuse a setting that is not a finite number in a range.

    Args:
        name (`str`): Of the setting.
        value: What it was set to.
        low, high (`float`): Least and greatest value that is allowed.
        whole (`bool`, *optional*, defaults to `False`): Whether it must be a whole number.
        optional (`bool`, *optional*, defaults to `False`): Whether `None` is allowed.

    Raises:
        InputError: If it is something else; the message names the setting, the value and what is allowed.
    """
    if optional and value is None:
        return
    kind: Any = Integral if whole else Real
    if isinstance(value, bool) or not isinstance(value, kind) or not low <= value <= high:
        numbers = "a whole number" if whole else "a number"
        raise InputError(f"{name} is {short(value)}: give {numbers} from {low:.10g} to {high:.10g}")


def check_flag(name: str, value: Any) -> None:
    """Refuse a setting that is neither true nor false; errors as in [`check_number`]."""
    # numpy's booleans have no common base with Python's.
    if type(value).__name__ not in ("bool", "bool_"):
        raise InputError(f"{name} is {short(value)}: give true or false")


def check_choice(name: str, value: Any, known: Collection[str]) -> None:
    """Refuse a setting that is not one of the known ones; errors as in [`check_number`]."""
    if not isinstance(value, str) or value not in known:
        raise InputError(f"{name} is {short(value)}: choose one of {', '.join(map(repr, known))}")


def check_list(name: str, value: Any, kind: type, length: int | None = None) -> None:
    """Refuse a setting that is not a list of strings (`str`) or finite numbers; errors as in [`check_number`]."""
    kinds = {str: "names", int: "whole numbers", float: "numbers"}
    wanted = {str: str, int: Integral, float: Real}[kind]
    fits = isinstance(value, list | tuple) and (length is None or len(value) == length)
    if not fits or not all(
        isinstance(one, wanted) and not isinstance(one, bool) and (kind is str or abs(one) < 1e9) for one in value
    ):
        count = "a list of" if length is None else f"{length}"
        raise InputError(f"{name} is {short(value)}: give {count} {kinds[kind]}")


Flag = Annotated[bool, check_flag]
"""A setting that is true or false."""


class Configurable:
    """
    What has settings: each annotated class attribute that is no `ClassVar`, of the class and of its bases, is one, and
    its value there is the default. What must hold of a value alone is in the annotation, `Annotated[type, check]`,
    where `check` is called with the name and the value; what must hold of several together is in [`check_settings`].

    Args:
        kwargs: Settings that differ from their defaults, and what else a saved file holds, which is kept as it is.

    Raises:
        InputError: If a setting has a value that it cannot have, or something else would hide what the class does; the
            message says which, and what is allowed.
    """

    # Of each setting, what its value is checked by.
    _checks: ClassVar[dict[str, tuple[Callable[[str, Any], None], ...]]] = {}

    def __init_subclass__(cls, **kwargs: Any):
        super().__init_subclass__(**kwargs)
        hints = inspect.get_annotations(cls, eval_str=True)
        own = {name: hint for name, hint in hints.items() if get_origin(hint) is not ClassVar}
        cls._checks = {**cls._checks, **{name: getattr(hint, "__metadata__", ()) for name, hint in own.items()}}

    def __init__(self, **kwargs: Any):
        others = {name: value for name, value in kwargs.items() if name not in type(self)._checks}
        for name in others:
            taken = getattr(type(self), name, None)
            if callable(taken) or isinstance(taken, property):
                raise InputError(f"{name} is no setting of {type(self).__name__}: leave it out")
        super().__init__(**others)
        self._set({name: kwargs.get(name, getattr(type(self), name)) for name in type(self)._checks})

    def replace(self, **changes: Any) -> Self:
        """
        A light copy with other settings.

        Args:
            changes: Settings by name; `None` leaves one as it is.

        Raises:
            InputError: If a setting cannot have its value.
            TypeError: If there is no such setting.
        """
        if unknown := [name for name in changes if name not in type(self)._checks]:
            known = ", ".join(sorted(type(self)._checks))
            raise TypeError(f"{type(self).__name__} has no setting {unknown[0]!r}: choose from {known}")
        changes = {name: value for name, value in changes.items() if value is not None}
        if not changes:
            return self
        other = copy.copy(self)
        other._set(changes)
        return other

    def check_settings(self) -> None:
        """Refuse settings that do not fit together, and bring the others to the form in which they are saved."""

    def _set(self, values: dict[str, Any]) -> None:
        for name, value in values.items():
            for check in type(self)._checks[name]:
                check(name, value)
            setattr(self, name, value)
        self.check_settings()
