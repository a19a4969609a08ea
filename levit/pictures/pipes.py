"""Pipes of the caller's: read as bytes come, and not for ever where none do."""

from __future__ import annotations

import os
import select
import stat
from typing import Any, BinaryIO, Final

from levit.errors import InputError

__all__ = ["STALL_S", "patient"]

# Longer than a camera, a slow disk or a program that starts; shorter than a service's patience.
STALL_S: Final = 60.0


class _Pipe:
    """A pipe that gives what is there, and an error where nothing comes."""

    def __init__(self, file: Any, number: int, name: str) -> None:
        self._read = getattr(file, "read1", file.read)
        self._number = number
        self._name = name

    def read(self, count: int) -> bytes:
        """Read up to `count` bytes; none at the end.

        Raises:
            InputError: nothing has come for a while.
        """
        poll = select.poll()
        poll.register(self._number, select.POLLIN)
        if not poll.poll(STALL_S * 1000):
            raise InputError(
                f"{self._name}: nothing has come for {STALL_S:g} s; read it first, and pass bytes"
            )
        data: bytes = self._read(count)
        return data


def patient(file: BinaryIO, name: str) -> Any:
    """Return something to read from that waits for a pipe, a socket or a device only so long."""
    try:
        number = file.fileno()
        kind = os.fstat(number).st_mode
    except (AttributeError, OSError, TypeError, ValueError):
        return file  # no file of the system's
    waits = stat.S_ISFIFO(kind) or stat.S_ISSOCK(kind) or stat.S_ISCHR(kind)
    return _Pipe(file, number, name) if waits and hasattr(select, "poll") else file
