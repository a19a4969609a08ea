"""JSON files: one parser and typed getters, which all readers share.

`parsed` takes documents whose meaning all readers of JSON agree on, in time in proportion to their
length. A getter takes a value as it is: "224" is no list of three digits, true is no 1, and 224.7
no 224. It takes the value and the name of its field for the message. All raise ``TypeError`` for
another type and ``ValueError`` for whatever else is wrong; the reader of a file makes its own error
of these.

::

    values = table(parsed(text), "config")
    whole(values["depth"], "depth", least=1)
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

__all__ = [
    "flag",
    "listed",
    "number",
    "number_pair",
    "parsed",
    "printable_json",
    "shown",
    "table",
    "text",
    "whole",
]

_SHOWN = 80
# A float ends at 309 digits: every whole number that is let in can be computed with. Real files
# have 20 (a seed of 64 bits).
_MOST_DIGITS = 300
# Configs, manifests, programs and records are nested 8 deep at most. Far below Python's limit of
# 1000, at which whatever walks or writes the values later would fail.
_DEEPEST = 64


def parsed(text: str, *, finite: bool = True) -> Any:
    """Parse a JSON document, such as ``parsed('{"depth": 4}')``.

    Args:
        finite: refuse the words ``NaN`` and ``Infinity``, which JSON does not have and Python's
            own writer may write.

    Raises:
        ValueError: it is no JSON (`json.JSONDecodeError`, with the place), an object has a name
            twice, a number is beyond a float's range, or it is nested more than 64 deep.
    """
    try:
        values = json.loads(
            text,
            object_pairs_hook=_unique,
            parse_int=_whole_number,
            parse_float=_finite,
            parse_constant=_finite if finite else None,
        )
    except RecursionError as error:
        raise ValueError(f"it is nested more than {_DEEPEST} deep") from error
    _require_flat(values)
    return values


def printable_json(text: str) -> str:
    """Write the characters of JSON that move a terminal's cursor, turn its text round or are none.

    They become the escapes of JSON, so that the document says the same: U+009B begins a terminal's
    commands, U+202E shows a name backwards, and half characters have no UTF-8.
    """
    # Outside of strings, where no escapes may stand, JSON has spaces and line breaks alone.
    return "\n".join(
        line
        if line.isprintable()
        else "".join(c if c.isprintable() else json.dumps(c)[1:-1] for c in line)
        for line in text.split("\n")
    )


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Build a JSON object whose names are unique: readers differ in which of two they take."""
    found = dict(pairs)
    if len(found) != len(pairs):
        seen: set[str] = set()
        for name, _ in pairs:
            if name in seen:
                raise ValueError(f"{shown(name)} stands twice in one object")
            seen.add(name)
    return found


def _whole_number(text: str) -> int:
    if len(text) > _MOST_DIGITS:  # of 5000, Python's own refusal speaks of its settings
        raise ValueError(f"{text[:20]}… is a number of {len(text)} digits")
    return int(text)


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text[:40]} is no finite number")
    return value


def _require_flat(values: Any) -> None:
    """Go down level by level, without recursion: parsing alone reaches Python's limit late."""
    level: list[Any] = [[values]]
    for _ in range(_DEEPEST + 1):
        level = [
            inner
            for outer in level
            for inner in (outer.values() if isinstance(outer, dict) else outer)
            if isinstance(inner, (dict, list))
        ]
        if not level:
            return
    raise ValueError(f"it is nested more than {_DEEPEST} deep")


def shown(value: object) -> str:
    """Write a value as a message shows it: shortened, whatever it is."""
    try:
        # A long text is cut before it is written.
        line = repr(value[: _SHOWN + 1] if isinstance(value, str) else value)
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
