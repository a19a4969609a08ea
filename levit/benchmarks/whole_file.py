"""A file that is written whole or not at all: beside its place first, then moved there."""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
from pathlib import Path

from levit.errors import ConfigError

__all__ = ["check_writable", "write_whole"]


def write_whole(path: Path | str, contents: bytes) -> None:
    """Put `contents` at `path`; what stood there stays until all of the new is on the disk.

    Raises:
        ConfigError: the folder is missing, or `path` is no plain file, or the disk refuses.
    """
    target = _checked(Path(path))
    staging = _beside(target)
    try:
        with staging.open("xb") as file:
            file.write(contents)
            file.flush()
            os.fsync(file.fileno())
        staging.replace(target)
    except OSError as error:
        raise _refusal(path, error) from error
    finally:
        with contextlib.suppress(OSError):
            staging.unlink()


def check_writable(path: Path | str) -> None:
    """Raise now what `write_whole` would raise after minutes of measuring."""
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


def _beside(target: Path) -> Path:
    return target.with_name(f".levit-{os.getpid()}-{secrets.token_hex(6)}.tmp")


def _refusal(path: Path | str, error: OSError) -> ConfigError:
    reason = os.strerror(error.errno) if error.errno else str(error)
    return ConfigError(f"{path}: cannot be written ({reason}); choose another path")
