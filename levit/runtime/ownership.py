"""Objects of backends that only the process that made them releases.

In a forked child the threads of its parent are not there, and destructors wait for them for ever.
A hook at fork would not do: servers such as uWSGI fork in C, and Python's hooks are not called.
So that whose process it is, is asked where an object is released.
"""

from __future__ import annotations

import ctypes
import os
import weakref
from collections.abc import Callable
from typing import Any, TypeAlias

__all__ = ["Release", "keep", "owned"]

Release: TypeAlias = Callable[[], Any]


def owned(owner: Any, *objects: Any) -> Release:
    """Hold `objects` until `owner` is gone, the process ends or the result is called.

    Another process than this one then keeps them for ever.

    Args:
        owner: may hold them too, but must let go of them before it calls the result.
    """
    return weakref.finalize(owner, _let_go, os.getpid(), objects)


def _let_go(pid: int, objects: tuple[Any, ...]) -> None:
    if os.getpid() != pid:
        for held in objects:
            keep(held)


def keep(held: Any) -> None:
    """Take a reference that nobody gives back: it keeps the destructor from running."""
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(held))
