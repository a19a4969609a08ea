"""Values of the command line: text → a number, a size, names, …, or an error of one line.

Each function is the ``type`` of an argument of argparse and raises its ``ArgumentTypeError``.

::

    parser.add_argument("--image-size", type=size)    # "224" or "96x192"
"""

from __future__ import annotations

import argparse
from typing import Final

__all__ = [
    "batch",
    "count",
    "fraction",
    "image_mode",
    "names",
    "numbers",
    "positive",
    "ratio",
    "seconds",
    "size",
]

# Those of `levit.pictures.modes`, which takes too long to import for ``levit --help``.
_IMAGE_MODES: Final = ("L", "I;16", "RGB", "RGBA")


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


def fraction(text: str) -> float:
    """Read a number from 0 to 1."""
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if not 0 <= number <= 1:
        raise argparse.ArgumentTypeError(f"expected a number from 0 to 1, not {text}")
    return number


def numbers(text: str) -> tuple[float, ...]:
    """Read a number, or several between commas."""
    try:
        return tuple(float(part) for part in text.removesuffix(",").split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"expected numbers, not {text}; if that is the checkpoint, put it first"
        ) from None


def image_mode(text: str) -> str:
    """Read the name of an image mode."""
    if text == "I":
        raise argparse.ArgumentTypeError("the shell has cut it at the semicolon: write 'I;16'")
    if text not in _IMAGE_MODES:
        raise argparse.ArgumentTypeError(f"expected {', '.join(_IMAGE_MODES)}, not {text}")
    return text
