"""A folder that is written whole or not at all: staged beside its place, then swapped in."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import platform
import secrets
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

from levit.artifact import foreign_files, is_artifact
from levit.errors import ArtifactError
from levit.interruption import raise_if_interrupted

__all__ = ["check_destination", "staged_folder"]

# Tries to make parents, which other exports may remove as they fail; each takes microseconds.
_TRIES = 100


@contextlib.contextmanager
def staged_folder(destination: Path, *, force: bool) -> Iterator[Path]:
    """Make a temporary folder that takes the place of `destination` when the block ends well.

    It lies beside the destination, so that the swap is a rename. When the block raises,
    or the process is interrupted, the folder goes and the destination is as it was.

    Raises:
        ArtifactError: the destination exists and `force` is not given, or it exists and is
            no artifact, or the disk refuses.
    """
    destination = _absolute(destination)
    check_destination(destination, force=force)
    created: list[Path] = []
    staging: Path | None = None
    try:
        staging = _make_staging(destination, created)
        yield staging
        _sync_tree(staging)
        # An interruption that fell into a callback was swallowed there.
        raise_if_interrupted()
        check_destination(destination, force=force)
        _swap_in(staging, destination, force=force)
        created = []
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else str(error)
        hint = (
            "free some space or choose another --output"
            if error.errno in (errno.ENOSPC, errno.EDQUOT)
            else "choose another --output"
        )
        raise ArtifactError(f"{destination}: cannot be written ({reason}); {hint}") from error
    finally:
        if staging is not None:
            shutil.rmtree(staging, ignore_errors=True)
        for folder in reversed(created):
            with contextlib.suppress(OSError):
                folder.rmdir()


def _absolute(destination: Path) -> Path:
    try:
        return Path(os.path.abspath(destination))
    except FileNotFoundError as error:
        raise ArtifactError(
            f"{destination}: the current folder has been deleted; change to one that is there, or "
            f"give --output an absolute path"
        ) from error


def check_destination(destination: Path, *, force: bool) -> None:
    """Raise `ArtifactError` unless an artifact may be written at `destination`."""
    if not os.path.lexists(destination):
        return
    here = Path(os.path.realpath(os.curdir))
    if Path(os.path.realpath(destination)) in (here, *here.parents):
        raise ArtifactError(
            f"{destination}: the current folder lies in it, and would be gone; export from "
            f"elsewhere, or choose another --output"
        )
    if not force:
        raise ArtifactError(
            f"{destination}: already exists; pass --force to replace it, or choose another --output"
        )
    if destination.is_symlink() or not is_artifact(destination):
        raise ArtifactError(
            f"{destination}: exists and is not an artifact, so --force does not replace it; "
            f"choose another --output"
        )
    if others := foreign_files(destination):
        raise ArtifactError(
            f"{destination}: holds {', '.join(others[:3])} beside the artifact, which --force "
            f"would delete; move that first, or choose another --output"
        )


def _make_staging(destination: Path, created: list[Path]) -> Path:
    """Make a folder beside the destination, and parents that lack, which `created` then lists.

    Another export may make the same parents meanwhile, or remove its own because it failed.
    """
    name = f"{_prefix(destination)}{os.getpid()}-{secrets.token_hex(6)}"
    for _ in range(_TRIES):
        _make_parents(destination.parent, created)
        with contextlib.suppress(FileNotFoundError):
            _remove_leftovers(destination)
            (destination.parent / name).mkdir()
            return destination.parent / name
    raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(destination.parent))


def _make_parents(folder: Path, created: list[Path]) -> None:
    missing = []
    while not folder.exists():
        missing.append(folder)
        folder = folder.parent
    for path in reversed(missing):
        try:
            path.mkdir()
        except FileExistsError:
            if not path.is_dir():  # a file, or a link to nowhere
                raise
        except FileNotFoundError:  # gone again: the next try makes it
            return
        else:
            created.append(path)


def _remove_leftovers(destination: Path) -> None:
    """Remove the leftovers of killed exports beside the destination."""
    prefix = _prefix(destination)
    for path in destination.parent.iterdir():
        if not path.name.startswith(prefix):
            continue
        owner = path.name.removeprefix(prefix).split("-", 1)[0]
        # A retired artifact (see _swap_in) is somebody's only copy: it stays.
        if path.suffix != ".old" and owner.isdecimal() and not _is_alive(int(owner)):
            shutil.rmtree(path, ignore_errors=True)


def _prefix(destination: Path) -> str:
    """Name the beginning of staging folders: process numbers mean something on one host only."""
    host = "".join(c for c in platform.node() if c.isalnum())
    return f".{destination.name}.{host}."


def _is_alive(pid: int) -> bool:
    if os.name == "nt":
        return True  # there, os.kill does not ask, it kills
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


def _sync_tree(folder: Path) -> None:
    for path in folder.iterdir():
        with path.open("r+b") as file:
            os.fsync(file.fileno())
    if os.name != "nt":  # where a folder cannot be opened
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _swap_in(staging: Path, destination: Path, *, force: bool) -> None:
    if not destination.exists():
        try:
            staging.rename(destination)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
            # Another export was quicker: what holds for any artifact that is there holds for its.
            check_destination(destination, force=force)
            _swap_in(staging, destination, force=force)
    elif not _exchange(staging, destination):
        # Two renames where the system cannot exchange: the old artifact is whole at
        # every moment, beside the destination if not at it.
        retired = staging.with_name(f"{staging.name}.old")
        destination.rename(retired)
        try:
            staging.rename(destination)
        except OSError:
            retired.rename(destination)
            raise
        shutil.rmtree(retired, ignore_errors=True)


def _exchange(one: Path, other: Path) -> bool:
    """Swap two folders atomically (Linux renameat2); False where that cannot be done."""
    if not sys.platform.startswith("linux"):
        return False
    at_cwd, exchange = -100, 2
    try:
        renameat2 = ctypes.CDLL(None, use_errno=True).renameat2
    except (OSError, AttributeError):
        return False
    result: int = renameat2(at_cwd, os.fsencode(one), at_cwd, os.fsencode(other), exchange)
    return result == 0
