"""Values from JSON files, taken as they are: typed getters that all readers of JSON share.

"224" is no list of three digits, true is no 1, and 224.7 no 224. Every getter takes the value and
the name of its field for the message, and raises ``TypeError`` for another type and ``ValueError``
for a value out of range; the reader of a file makes its own error of these.

::

    whole(values["depth"], "depth", least=1)
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["flag", "listed", "number", "number_pair", "shown", "table", "text", "whole"]

_SHOWN = 80


def shown(value: object) -> str:
    """Write a value as a message shows it: shortened, whatever it is."""
    try:
        line = repr(value)
    except (ValueError, RecursionError):  # more digits than Python writes, or too deep
        kind = type(value).__name__
        return f"{'an' if kind == 'int' else 'a'} {kind} that cannot be shown"
    return line if len(line) <= _SHOWN else f"{line[:_SHOWN]}…"


def whole(value: Any, name: str = "", *, least: int | None = None, most: int | None = None) -> int:
    """Take an integer: no truth value, no fraction, no text."""
    limits = "" if most is None else f" from {least or 0} to {most}"
    if type(value) is not int:
        raise TypeError(_message(name, f"a whole number{limits}", value))
    if (least is not None and value < least) or (most is not None and value > most):
        expected = f"a whole number{limits}" if limits else f"a whole number of at least {least}"
        raise ValueError(_message(name, expected, value))
    return value


def number(value: Any, name: str = "", *, finite: bool = True) -> float:
    """Take an integer or a float that is a float, and finite unless told otherwise."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(_message(name, "a number", value))
    try:
        result = float(value)
    except OverflowError as error:
        raise ValueError(_message(name, "a number", value)) from error
    if finite and not math.isfinite(result):
        raise ValueError(_message(name, "a number", value))
    return result


def text(value: Any, name: str = "") -> str:
    """Take a string."""
    if not isinstance(value, str):
        raise TypeError(_message(name, "a string", value))
    return value


def flag(value: Any, name: str = "") -> bool:
    """Take true or false."""
    if not isinstance(value, bool):
        raise TypeError(_message(name, "true or false", value))
    return value


def listed(value: Any, name: str = "") -> Sequence[Any]:
    """Take a list: no string, no object."""
    if not isinstance(value, (list, tuple)):
        raise TypeError(_message(name, "a list", value))
    return value


def table(value: Any, name: str = "") -> Mapping[str, Any]:
    """Take an object of names and values."""
    if not isinstance(value, Mapping):
        raise TypeError(_message(name, "an object", value))
    return value


def number_pair(value: Any, name: str = "", *, least: int | None = None) -> tuple[int, int]:
    """Take two integers, such as [height, width]."""
    pair = listed(value, name)
    if len(pair) != 2:
        raise ValueError(_message(name, "two whole numbers", value))
    return whole(pair[0], name, least=least), whole(pair[1], name, least=least)


def _message(name: str, expected: str, value: object) -> str:
    before = f"{name}: " if name else ""
    return f"{before}expected {expected}, not {shown(value)}"
