"""Exceptions that are not about the input, found behind errors that say they are.

Code that reads pictures and runs networks catches what libraries raise and says what was wrong
with the input. Two kinds of exception get caught with these: those of a signal's handler, such as
a time limit's, which raises wherever Python happens to be; and those of a machine that has no more
memory, threads or open files to give. So errors are looked into where they leave levit.
"""

from __future__ import annotations

import contextlib
import errno
import inspect
import re
from collections.abc import Iterator
from itertools import pairwise
from traceback import walk_tb
from types import FrameType
from typing import Final

from levit.errors import LevitError, ResourceError, brief

__all__ = ["attributed", "attributing", "from_handler", "raise_handlers"]

_LIMITS: Final = {
    errno.ENOMEM: "memory",
    errno.EMFILE: "open files",
    errno.ENFILE: "open files",
}

_REMEDIES: Final = {
    "memory": "with smaller pictures, batches or models",
    "threads": "with fewer threads",
    "open files": "raise the limit of open files (ulimit -n)",
}

_OF_PYTHONS_THREADS: Final = ("can't start new thread", "can't allocate lock")

# Messages of libraries that have no class for it: ONNX Runtime, OpenVINO, CUDA, Pillow, Python.
_NO_THREADS: Final = re.compile(
    r"can't start new thread|can't allocate lock|pthread_create|resource temporarily unavailable",
    re.IGNORECASE,
)
_NO_MEMORY: Final = re.compile(
    r"out of memory|cannot allocate memory|failed to allocate|bad[_ ]alloc(?!\w)", re.IGNORECASE
)


@contextlib.contextmanager
def attributing() -> Iterator[None]:
    """Raise in place of the block's exception the one that it should be, as `attributed` says."""
    try:
        yield
    except Exception as error:
        other = attributed(error)
        try:
            if other is error:
                raise
            raise other from other.__cause__
        finally:
            del other  # its traceback holds this frame


def attributed(error: Exception) -> Exception:
    """Find the exception to raise in place of `error`: that of a handler, a shortage's, or itself.

    Exceptions of others than levit and Python's memory are left alone.
    """
    handlers = from_handler(error)
    if handlers is not None:
        _cut(error, handlers)
        return handlers
    ours = isinstance(error, (LevitError, MemoryError)) or str(error) in _OF_PYTHONS_THREADS
    lacking = _lacking(error) if ours and not isinstance(error, ResourceError) else ""
    if not lacking:
        return error
    shortage = ResourceError(
        f"the system gives no more {lacking} ({brief(error)}): try again later, or "
        f"{_REMEDIES[lacking]}"
    )
    shortage.__cause__ = error
    return shortage


def from_handler(error: BaseException) -> Exception | None:
    """Find the exception of a signal's handler that `error` is or was made of; None if none is."""
    for link in _causes(error):
        if isinstance(link, Exception) and _passed_a_handler(link):
            return link
    return None


def raise_handlers(error: Exception) -> None:
    """Raise the exception of a signal's handler if `error` is one or was made of one.

    For code that goes on after an error: one that is raised, `attributing` looks at.
    """
    if from_handler(error) is not None:
        raise attributed(error)


def _causes(error: BaseException) -> Iterator[BaseException]:
    """List an exception and its causes; a context may be an older one, which is none."""
    seen: set[int] = set()
    link: BaseException | None = error
    while link is not None and id(link) not in seen:
        seen.add(id(link))
        yield link
        link = link.__cause__


def _cut(error: BaseException, cause: BaseException) -> None:
    """Let go of a cause, which is about to get `error` for its context: a circle of the two."""
    link = error
    while link is not cause and link.__cause__ is not None:
        following = link.__cause__
        link.__cause__ = link.__context__ = None
        link = following


def _passed_a_handler(error: Exception) -> bool:
    frames = [frame for frame, _ in walk_tb(error.__traceback__)]
    return any(_received(inner, outer) for outer, inner in pairwise(frames))


def _received(frame: FrameType, interrupted: FrameType) -> bool:
    """Tell whether a function was called with its caller's frame, as a signal's handler alone is.

    Its name would not do: a handler may have been replaced by the time it has raised.
    """
    names, rest, _, values = inspect.getargvalues(frame)
    received = [values.get(name) for name in names]
    if rest and isinstance(more := values.get(rest), tuple):
        received += more
    return any(value is interrupted for value in received)


def _lacking(error: BaseException) -> str:
    """Name what the machine had no more of; empty if the exception is about something else."""
    for link in _causes(error):
        if isinstance(link, MemoryError):
            return "memory"
        if isinstance(link, OSError) and link.errno is not None:
            if link.errno in _LIMITS:
                return _LIMITS[link.errno]
        elif not isinstance(link, LevitError):
            text = str(link)
            if _NO_THREADS.search(text):
                return "threads"
            if _NO_MEMORY.search(text):
                return "memory"
    return ""
