"""
Settings of feature extractors and their validation. A `preprocessor_config.json` may be damaged or untrusted. Every
value is validated when an extractor is created, so that a bad one cannot exhaust memory or fail later.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Collection
from numbers import Integral, Real
from reprlib import repr as short
from typing import Annotated, Any, ClassVar, Self, get_origin

from .errors import InputError
from .leads import STANDARD_LEADS


MAX_SAMPLING_RATE = 10_000.0
"""Maximum sampling rate of a model [Hz]."""
MAX_WINDOW_SAMPLES = 1_000_000
"""Maximum length of a window, or of all its beats, per lead [samples]. An hour at 250 Hz has 900,000."""
MAX_SECONDS = 1e6
"""Maximum duration [s], 11 days."""


def check_number(
    name: str, value: Any, low: float, high: float, *, integer: bool = False, optional: bool = False
) -> None:
    """
    Check that a setting is a finite number within a range.

    Args:
        name (`str`): Name of the setting.
        value: Value of the setting.
        low, high (`float`): Minimum and maximum.
        integer (`bool`, *optional*, defaults to `False`): Whether the number must be an integer.
        optional (`bool`, *optional*, defaults to `False`): Whether `None` is allowed.

    Raises:
        InputError: If the value is invalid.
    """
    if optional and value is None:
        return
    number_type: Any = Integral if integer else Real
    if isinstance(value, bool) or not isinstance(value, number_type) or not low <= value <= high:
        kind = "an integer" if integer else "a number"
        raise InputError(f"{name} must be {kind} between {low:.10g} and {high:.10g}, got {short(value)}")


def check_flag(name: str, value: Any) -> None:
    """Check that a setting is boolean, see [`check_number`] for errors."""
    # NumPy booleans have no common base class with `bool`.
    if type(value).__name__ not in ("bool", "bool_"):
        raise InputError(f"{name} must be true or false, got {short(value)}")


def check_choice(name: str, value: Any, choices: Collection[str]) -> None:
    """Check that a setting is one of the choices, see [`check_number`] for errors."""
    if not isinstance(value, str) or value not in choices:
        raise InputError(f"{name} must be one of {', '.join(map(repr, choices))}, got {short(value)}")


def check_list(name: str, value: Any, kind: type, length: int | None = None) -> None:
    """Check that a setting is a list of strings (`str`), integers or numbers, see [`check_number`] for errors."""
    plural = {str: "names", int: "integers", float: "numbers"}[kind]
    item_type = {str: str, int: Integral, float: Real}[kind]
    is_valid = isinstance(value, list | tuple) and (length is None or len(value) == length)
    if not is_valid or not all(
        isinstance(item, item_type) and not isinstance(item, bool) and (kind is str or abs(item) < 1e9)
        for item in value
    ):
        count = "a list of" if length is None else f"{length}"
        raise InputError(f"{name} must be {count} {plural}, got {short(value)}")


def check_lead_names(name: str, value: Any) -> None:
    """Check that a setting is a list of distinct standard leads, see [`check_number`] for errors."""
    check_list(name, value, str)
    if not value or len(set(value)) != len(value):
        raise InputError(f"{name} must contain at least one lead and no duplicates, got {list(value)}")
    if unknown := [lead for lead in value if lead not in STANDARD_LEADS]:
        raise InputError(f"unknown lead {unknown[0]!r} in {name}: choose from {', '.join(STANDARD_LEADS)}")


Flag = Annotated[bool, check_flag]
"""Type of boolean settings."""


class Configurable:
    """
    Mixin for classes with settings. Every annotated class attribute of the class and its bases that is not a
    `ClassVar` is a setting, and its value is the default. An annotation `Annotated[type, check]` validates the setting
    by calling `check` with its name and value; [`check_settings`] validates combinations of settings.

    Args:
        kwargs: Settings, and other entries of a saved file, which are preserved.

    Raises:
        InputError: If a setting is invalid, or another entry would shadow a method or property.
    """

    # Checks of each setting.
    _checks: ClassVar[dict[str, tuple[Callable[[str, Any], None], ...]]] = {}

    def __init_subclass__(cls, **kwargs: Any):
        super().__init_subclass__(**kwargs)
        hints = inspect.get_annotations(cls, eval_str=True)
        own = {name: hint for name, hint in hints.items() if get_origin(hint) is not ClassVar}
        cls._checks = {**cls._checks, **{name: getattr(hint, "__metadata__", ()) for name, hint in own.items()}}

    def __init__(self, **kwargs: Any):
        other_entries = {name: value for name, value in kwargs.items() if name not in type(self)._checks}
        for name in other_entries:
            attribute = getattr(type(self), name, None)
            if callable(attribute) or isinstance(attribute, property):
                raise InputError(f"{name} is not a setting of {type(self).__name__}: remove it")
        super().__init__(**other_entries)
        self._set({name: kwargs.get(name, getattr(type(self), name)) for name in type(self)._checks})

    def replace(self, **changes: Any) -> Self:
        """
        Shallow copy with different settings.

        Args:
            changes: Settings by name; `None` keeps the current value.

        Raises:
            InputError: If a setting is invalid.
            TypeError: If a setting does not exist.
        """
        if unknown := [name for name in changes if name not in type(self)._checks]:
            choices = ", ".join(sorted(type(self)._checks))
            raise TypeError(f"{type(self).__name__} has no setting {unknown[0]!r}: choose from {choices}")
        changes = {name: value for name, value in changes.items() if value is not None}
        if not changes:
            return self
        other = copy.copy(self)
        other._set(changes)
        return other

    def check_settings(self) -> None:
        """Validate combinations of settings, and convert settings to the form in which they are saved."""

    def _set(self, values: dict[str, Any]) -> None:
        for name, value in values.items():
            for check in type(self)._checks[name]:
                check(name, value)
            setattr(self, name, value)
        self.check_settings()
