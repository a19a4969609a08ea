"""Signals that have asked this process to stop, for whoever could mistake one for an error.

Python raises an interruption wherever it happens to be. In the middle of loading a module in C++,
that becomes an ImportError, which looks like a package that is missing. Code that goes on after
an error asks here first.
"""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any, Final

__all__ = ["RECEIVED", "deferred", "raise_if_interrupted"]

# Numbers of the signals, in the order they came; written by the command line's handlers.
RECEIVED: Final[list[int]] = []


def raise_if_interrupted() -> None:
    """Raise what the signal should have raised: KeyboardInterrupt, or SystemExit for SIGTERM."""
    if not RECEIVED:
        return
    if RECEIVED[0] == signal.SIGINT:
        raise KeyboardInterrupt
    raise SystemExit(128 + RECEIVED[0])


@contextlib.contextmanager
def deferred() -> Iterator[None]:
    """Let what is inside end; what interrupts it meanwhile is raised after it.

    For the moment between starting a process and having its number: nobody could end it. Python
    runs handlers in the main thread, so that elsewhere there is nothing to do.
    """
    came: list[int] = []
    handlers: dict[int, Callable[..., Any]] = {}
    try:
        if threading.current_thread() is threading.main_thread():
            for kind in (signal.SIGINT, signal.SIGTERM):
                handler = signal.getsignal(kind)
                if callable(handler):  # what is ignored stays so, in the process started too
                    handlers[kind] = handler
                    signal.signal(kind, lambda number, _: came.append(number))
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        for number in came:
            signal.raise_signal(number)
