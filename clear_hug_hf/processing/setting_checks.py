"""
Checks of the settings of feature extractors. A `preprocessor_config.json` may be damaged, or anyone's: each value is
checked when an extractor is made, so that none of them takes memory or fails later.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from numbers import Integral, Real
from reprlib import repr as short
from typing import Any

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


def check_other_settings(owner: type, settings: Mapping[str, Any]) -> None:
    """Refuse settings that no one reads and whose names would hide what a class does."""
    for name in settings:
        taken = getattr(owner, name, None)
        if callable(taken) or isinstance(taken, property):
            raise InputError(f"{name} is no setting of {owner.__name__}: leave it out")
