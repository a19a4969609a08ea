"""Files that are written whole or not at all: beside their place first, then moved there.

::

    with whole_file(path) as file:             # raises OSError
        file.write(contents)
    write_whole("report.html", contents)       # for a path that a user named: raises ConfigError
"""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from levit.errors import ConfigError

__all__ = ["check_writable", "whole_file", "write_whole"]


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """Open a new file that takes the place of `path` when the block ends well; a link stays one.

    The old file stays until all of the new one is on the disk. Where the block raises, or the
    process is interrupted, the new file goes.

    Raises:
        OSError: the disk refuses, or there is another thing than a file, such as a device, which
            one who may do so would replace.
    """
    path = _place(path)
    staging = _beside(path)
    try:
        with staging.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        staging.replace(path)
    finally:
        with contextlib.suppress(OSError):
            staging.unlink()


def write_whole(path: Path | str, contents: bytes) -> None:
    """Write `contents` as a `whole_file` at a path that a user named; a link there stays one.

    Raises:
        ConfigError: the folder is missing, or `path` is no plain file, or the disk refuses.
    """
    target = _checked(Path(path))
    try:
        with whole_file(target) as file:
            file.write(contents)
    except OSError as error:
        raise _refusal(path, error) from error


def check_writable(path: Path | str) -> None:
    """Raise now the error that `write_whole` would raise after minutes of work."""
    staging = _beside(_checked(Path(path)))
    try:
        staging.open("xb").close()
        staging.unlink()
    except OSError as error:
        raise _refusal(path, error) from error


def _checked(path: Path) -> Path:
    try:
        # Through symbolic links, so that a link stays one.
        target = Path(os.path.realpath(path))
        if not os.path.isdir(target.parent):
            raise ConfigError(
                f"{path}: the folder {target.parent} does not exist; create it, or choose "
                f"another path"
            )
        kind = target.lstat().st_mode
        if not stat.S_ISREG(kind):
            what = "a folder" if stat.S_ISDIR(kind) else "no plain file"
            raise ConfigError(f"{path}: is {what}; choose another path")
    except FileNotFoundError:
        pass  # as it should be
    except OSError as error:
        raise _refusal(path, error) from error
    except ValueError as error:  # a NUL in the name
        raise ConfigError(f"{path}: is no file name; choose another path") from error
    return target


def _place(path: Path) -> Path:
    target = Path(os.path.realpath(path))
    with contextlib.suppress(FileNotFoundError):
        if not stat.S_ISREG(target.lstat().st_mode):
            raise OSError(f"{path}: is no plain file")
    return target


def _beside(target: Path) -> Path:
    return target.with_name(f".levit-{os.getpid()}-{secrets.token_hex(6)}.tmp")


def _refusal(path: Path | str, error: OSError) -> ConfigError:
    reason = os.strerror(error.errno) if error.errno else str(error)
    return ConfigError(f"{path}: cannot be written ({reason}); choose another path")
