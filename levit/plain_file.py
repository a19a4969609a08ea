"""Files that are read whole: plain ones only, and no larger than their reader has use for.

::

    contents = read_plain("labels.csv", 1 << 20)    # raises OSError
"""

from __future__ import annotations

import errno
import os
import stat
from typing import BinaryIO

__all__ = ["is_lfs_pointer", "open_plain", "read_plain"]


def open_plain(path: str | os.PathLike[str], most: int | None = None) -> BinaryIO:
    """Open a plain file of at most `most` bytes for reading; links are followed.

    Raises:
        OSError: there is none, it is larger, or it is a folder, a pipe, a socket or a device,
            which one would wait for or read from without end.
        ValueError: no file can be called so.
    """
    # A pipe without a writer is opened at once, and seen to be one.
    flags = os.O_RDONLY
    for name in ("O_NONBLOCK", "O_CLOEXEC", "O_BINARY", "O_NOCTTY"):
        flags |= getattr(os, name, 0)
    handle = os.open(path, flags)
    try:
        status = os.fstat(handle)
        if stat.S_ISDIR(status.st_mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), os.fspath(path))
        if not stat.S_ISREG(status.st_mode):
            raise OSError("it is no plain file but a pipe or a device; write it to a file first")
        # A sparse file of terabytes is refused unread.
        if most is not None and status.st_size > most:
            raise _too_large(path, most)
        return os.fdopen(handle, "rb")
    except BaseException:
        os.close(handle)
        raise


def read_plain(path: str | os.PathLike[str], most: int) -> bytes:
    """Read the bytes of a plain file that has at most `most` of them.

    Raises:
        OSError, ValueError: as `open_plain`.
    """
    with open_plain(path, most) as file:
        contents = file.read(most + 1)
    if len(contents) > most:  # it grows
        raise _too_large(path, most)
    return contents


def is_lfs_pointer(contents: bytes) -> bool:
    """Tell the text that git keeps in place of a file under Git LFS, by its beginning."""
    return contents.startswith(b"version https://git-lfs")


def _too_large(path: str | os.PathLike[str], most: int) -> OSError:
    size = f"{most >> 20} MiB" if most >> 20 else f"{most} bytes"
    return OSError(errno.EFBIG, f"it is larger than {size}", os.fspath(path))
