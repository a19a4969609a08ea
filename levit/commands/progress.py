"""Progress of long work on stderr: the step, its count and how long it has taken.

On a terminal, one line that moves; in a pipe, a line for each step that takes longer than five
seconds. Nothing is guessed about the time that is left.
"""

from __future__ import annotations

import contextlib
import math
import os
import sys
import threading
import time
from collections.abc import Iterator
from types import TracebackType
from typing import Final

from levit.errors import printable

__all__ = ["Progress"]

_REDRAW_S: Final = 0.1
_TICK_S: Final = 1.0
_LONG_S: Final = 5.0  # from here on a step is told in a pipe too
_ERASE: Final = "\r\x1b[K"


class Progress:
    """Display of the step that is under way; call it with each step.

    ::

        with Progress() as progress:
            progress("calibrating", 37, 128)    # calibrating 37/128  4 s
            with progress.aside():
                print("a line of output")

    The clock is that of the step. What follows a colon in it is a detail, which may change
    without the clock starting anew: "building the engine: timing kernels". A thread keeps the
    clock moving between calls; it ends with the ``with`` statement.
    """

    def __init__(self) -> None:
        self._on_terminal = sys.stderr.isatty()
        self._text = ""
        self._step = ""
        self._begun = time.monotonic()
        self._drawn_at = -math.inf
        self._drawn = self._told = False
        self._closed = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._tick, name="levit progress", daemon=True)

    def __call__(self, step: str, done: int = 0, total: int = 0) -> None:
        """Show a step that begins or goes on.

        Args:
            step: its name, as people would say it.
            done, total: the count, where there is one.
        """
        now = time.monotonic()
        name = step.partition(":")[0]
        with self._changed:
            if name != self._step:
                self._step, self._begun, self._told = name, now, False
            self._text = f"{step} {done}/{total}" if total else step
            if self._on_terminal and now - self._drawn_at >= _REDRAW_S:
                self._draw(now)

    @contextlib.contextmanager
    def aside(self) -> Iterator[None]:
        """Make room for lines of output, which nothing is drawn into."""
        with self._changed:
            self._erase()
            yield

    def __enter__(self) -> Progress:
        with contextlib.suppress(RuntimeError):  # no thread to be had: calls alone draw
            self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        with self._changed:
            self._closed = True
            self._erase()
            self._changed.notify()
        if self._thread.is_alive():
            self._thread.join()

    def _tick(self) -> None:
        with self._changed:
            while not self._closed:
                age = time.monotonic() - self._begun
                if self._on_terminal:
                    self._changed.wait(_TICK_S - age % _TICK_S)
                else:
                    # A step that begins meanwhile is due later than this one: no need to be woken.
                    self._changed.wait(_LONG_S if self._told else max(0.0, _LONG_S - age))
                if not self._closed and self._text:
                    self._show(time.monotonic())

    def _show(self, now: float) -> None:
        if self._on_terminal:
            self._draw(now)
        elif not self._told and now - self._begun >= _LONG_S:
            self._told = True
            self._write(f"{self._line(now).lstrip()}\n")

    def _draw(self, now: float) -> None:
        self._write(f"{_ERASE}{self._line(now, _columns() - 1)}")
        self._drawn, self._drawn_at = True, now

    def _line(self, now: float, width: int = 1000) -> str:
        minutes, seconds = divmod(int(now - self._begun), 60)
        clock = f"{minutes} min {seconds} s" if minutes else f"{seconds} s"
        text, most = printable(self._text), max(1, width - len(clock) - 4)
        return f"  {text if len(text) <= most else text[: most - 1] + '…'}  {clock}"

    def _erase(self) -> None:
        if self._drawn:
            self._write(_ERASE)
            self._drawn = False

    def _write(self, text: str) -> None:
        with contextlib.suppress(OSError, ValueError):  # nobody is there to read it any more
            sys.stderr.write(text)
            sys.stderr.flush()


def _columns() -> int:
    try:
        return os.get_terminal_size(sys.stderr.fileno()).columns or 80
    except (OSError, ValueError):
        return 80
