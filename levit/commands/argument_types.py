"""Values of the command line: types of arguments, and the flag that most commands share."""

from __future__ import annotations

import argparse

__all__ = [
    "add_json_flag",
    "batch",
    "count",
    "names",
    "numbers",
    "positive",
    "ratio",
    "seconds",
    "seed",
    "size",
]


def add_json_flag(parser: argparse.ArgumentParser) -> None:
    """Add ``--json``."""
    parser.add_argument("--json", action="store_true", help="print one JSON document")


def _whole(text: str, least: int) -> int:
    try:
        number = int(text)
    except ValueError:
        number = least - 1
    if number < least:
        raise argparse.ArgumentTypeError(f"expected a whole number of at least {least}, not {text}")
    return number


def positive(text: str) -> int:
    """Read a whole number from 1 on."""
    return _whole(text, 1)


def count(text: str) -> int:
    """Read a whole number from 0 on."""
    return _whole(text, 0)


def seed(text: str) -> int:
    """Read a whole number from 0 on."""
    return _whole(text, 0)


def size(text: str) -> tuple[int, int]:
    """Read ``N`` or ``HEIGHTxWIDTH`` as (height, width)."""
    parts = text.lower().split("x")
    if len(parts) > 2:
        raise argparse.ArgumentTypeError(f"expected N or HEIGHTxWIDTH, not {text}")
    return positive(parts[0]), positive(parts[-1])


def batch(text: str) -> int | tuple[int, int, int]:
    """Read ``N``, or ``MIN:OPT:MAX`` in rising order."""
    parts = [positive(part) for part in text.split(":")]
    if len(parts) == 1:
        return parts[0]
    if len(parts) != 3 or not parts[0] <= parts[1] <= parts[2]:
        raise argparse.ArgumentTypeError(f"expected N or MIN:OPT:MAX in rising order, not {text}")
    return parts[0], parts[1], parts[2]


def names(text: str) -> tuple[str, ...]:
    """Read names between commas."""
    return tuple(part.strip() for part in text.split(",") if part.strip())


def _above_zero(text: str, what: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0 < number < float("inf"):
        raise argparse.ArgumentTypeError(f"expected {what} above 0, not {text}")
    return number


def seconds(text: str) -> float:
    """Read a length of time above 0."""
    return _above_zero(text, "a number of seconds")


def ratio(text: str) -> float:
    """Read a ratio above 0."""
    return _above_zero(text, "a ratio")


def numbers(text: str) -> tuple[float, ...]:
    """Read numbers between commas."""
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected numbers with commas, not {text}") from None
