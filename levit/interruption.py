"""Signals that have asked this process to stop, for whoever could mistake one for an error.

Python raises an interruption wherever it happens to be. In the middle of loading a module in C++,
that becomes an ImportError, which looks like a package that is missing. Code that goes on after
an error asks here first.
"""

from __future__ import annotations

from typing import Final

__all__ = ["RECEIVED", "raise_if_interrupted"]

# Numbers of the signals, in the order they came; written by the command line's handlers.
RECEIVED: Final[list[int]] = []

_SIGINT: Final = 2


def raise_if_interrupted() -> None:
    """Raise what the signal should have raised: KeyboardInterrupt, or SystemExit for SIGTERM."""
    if not RECEIVED:
        return
    if RECEIVED[0] == _SIGINT:
        raise KeyboardInterrupt
    raise SystemExit(128 + RECEIVED[0])
