"""Standard streams of a process whose caller has closed them (``2>&-``, some services)."""

from __future__ import annotations

import io
import os
import sys
from typing import Final

__all__ = ["open_standard_streams"]

# Of each descriptor: its stream, the mode, and how the null device is opened in its place. Input
# and output are opened the wrong way round, so that using them is still the error that it was, as
# in ``stdopen`` of gnulib; what is told on the side may go nowhere.
_STREAMS: Final = (
    ("stdin", "r", os.O_WRONLY),
    ("stdout", "w", os.O_RDONLY),
    ("stderr", "w", os.O_WRONLY),
)


def open_standard_streams() -> None:
    """Open those descriptors from 0 to 2 that are closed, and their streams in `sys`.

    Otherwise the next file that is opened, perhaps to be written, takes the number, and whatever
    a library has to say goes into it.
    """
    for number, (name, mode, flags) in enumerate(_STREAMS):
        try:
            os.fstat(number)
        except OSError:
            handle = os.open(os.devnull, flags)
            if handle != number:
                os.dup2(handle, number)
                os.close(handle)
        if getattr(sys, name) is None:
            raw = io.FileIO(number, mode, closefd=False)
            buffer = io.BufferedReader(raw) if mode == "r" else io.BufferedWriter(raw)
            stream = io.TextIOWrapper(buffer, errors="backslashreplace", line_buffering=number == 2)
            setattr(sys, name, stream)
