"""Files that are read whole: plain ones only, and no larger than their reader has use for.

::

    contents = read_plain("labels.csv", 1 << 20)    # raises OSError
"""

from __future__ import annotations

import errno
import os
import stat
from typing import BinaryIO

__all__ = ["open_plain", "read_plain"]


def open_plain(path: str | os.PathLike[str]) -> BinaryIO:
    """Open a plain file for reading bytes; links are followed.

    Raises:
        OSError: there is none, or it is a folder, a pipe, a socket or a device, which one would
            wait for or read from without end.
        ValueError: no file can be called so.
    """
    # A pipe without a writer is opened at once, and seen to be one.
    flags = os.O_RDONLY
    for name in ("O_NONBLOCK", "O_CLOEXEC", "O_BINARY", "O_NOCTTY"):
        flags |= getattr(os, name, 0)
    handle = os.open(path, flags)
    try:
        kind = os.fstat(handle).st_mode
        if stat.S_ISDIR(kind):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), os.fspath(path))
        if not stat.S_ISREG(kind):
            raise OSError("it is no plain file but a pipe or a device; write it to a file first")
        return os.fdopen(handle, "rb")
    except BaseException:
        os.close(handle)
        raise


def read_plain(path: str | os.PathLike[str], most: int) -> bytes:
    """Read the bytes of a plain file that has at most `most` of them.

    Raises:
        OSError: as `open_plain`, or it is larger.
        ValueError: no file can be called so.
    """
    with open_plain(path) as file:
        # The size first: a sparse file of terabytes is refused unread.
        if os.fstat(file.fileno()).st_size <= most:
            contents = file.read(most + 1)
            if len(contents) <= most:
                return contents
    raise OSError(errno.EFBIG, f"it is larger than {_size(most)}", os.fspath(path))


def _size(count: int) -> str:
    return f"{count >> 20} MiB" if count >> 20 else f"{count} bytes"
