"""Signals that ask this process to stop: noted, asked for, and put off.

Python raises an interruption wherever it happens to be. In the middle of loading a module in C++,
that becomes an ImportError, which looks like a package that is missing. Code that goes on after
an error asks here first.
"""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from typing import Any, Final

__all__ = ["RECEIVED", "deferred", "raise_if_interrupted"]

# Numbers of the signals, in the order they came; written by the command line's handlers.
RECEIVED: Final[list[int]] = []


def raise_if_interrupted() -> None:
    """Raise what a signal stands for: KeyboardInterrupt, or SystemExit for SIGTERM."""
    if not RECEIVED:
        return
    if RECEIVED[0] == signal.SIGINT:
        raise KeyboardInterrupt
    raise SystemExit(128 + RECEIVED[0])


@contextlib.contextmanager
def deferred() -> Iterator[list[int]]:
    """Let the block end; raise what has interrupted it meanwhile afterwards.

    ::

        with deferred() as noted:
            process = subprocess.Popen(command)    # nobody could end it without its number

    Python runs handlers in the main thread: elsewhere there is nothing to do.

    Yields:
        The numbers of the signals so far, for a block that looks whether to stop early.
    """
    noted: list[int] = []
    handlers: dict[int, Any] = {}
    try:
        if threading.current_thread() is threading.main_thread():
            for kind in (signal.SIGINT, signal.SIGTERM):
                handler = signal.getsignal(kind)
                if handler is not signal.SIG_IGN:  # which the processes started inherit
                    # None stands for a handler that was not set from Python.
                    handlers[kind] = signal.SIG_DFL if handler is None else handler
                    signal.signal(kind, lambda number, _: noted.append(number))
        yield noted
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        for number in noted:
            signal.raise_signal(number)
