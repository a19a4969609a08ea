"""Progress of an export, as it is told to whoever started it."""

from __future__ import annotations

from typing import Protocol

__all__ = ["Progress", "silent"]


class Progress(Protocol):
    """A callable that is told each step.

    ::

        def show(step, done=0, total=0):
            print(f"{step} {done}/{total}" if total else step)

        export(options, progress=show)
    """

    def __call__(self, step: str, done: int = 0, total: int = 0) -> object:
        """Show a step.

        Args:
            step: name of the step that begins or goes on.
            done, total: how far it is, where it can be counted; else 0.
        """
        ...


def silent(step: str, done: int = 0, total: int = 0) -> None:
    """Show nothing."""
