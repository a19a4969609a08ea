"""A folder as one input: what differs from a base folder, with seals for the hashes.

In a manifest, ``"@sha256:NAME@"`` and ``"@size:NAME@"`` stand for the hash and the size of the
file as it lies there, ``"@sha256-base:NAME@"`` for what it was before. So a stored input fits
whatever base the release at hand exports.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

__all__ = ["Entry", "pack", "seal", "unpack", "write_folder"]

# The contents of a file; the target of a link; None where a file of the base is missing; or ()
# where a folder stands in its place.
Entry = bytes | str | None | tuple[()]


def pack(base: str, entries: Mapping[str, Entry]) -> bytes:
    """The name of a base and what differs from it, as JSON."""
    values: dict[str, Any] = {}
    for name, entry in sorted(entries.items()):
        if isinstance(entry, bytes):
            values[name] = {"file": base64.b64encode(entry).decode("ascii")}
        elif isinstance(entry, str):
            values[name] = {"link": entry}
        else:
            values[name] = None if entry is None else {"folder": True}
    return json.dumps({"base": base, "entries": values}).encode("ascii")


def unpack(data: bytes) -> tuple[str, dict[str, Entry]]:
    """The reverse of `pack`. ``ValueError`` where `data` is no such thing."""
    values = json.loads(data)
    if not isinstance(values, dict) or set(values) != {"base", "entries"}:
        raise ValueError("not a folder")
    entries: dict[str, Entry] = {}
    for name, value in values["entries"].items():
        if not isinstance(value, dict):
            entries[name] = None
        elif "file" in value:
            entries[name] = base64.b64decode(value["file"])
        else:
            entries[name] = value.get("link", ())
    return values["base"], entries


def write_folder(folder: Path, base: Path, entries: Mapping[str, Entry]) -> None:
    """Lay out `base` with `entries` in place of its files."""
    folder.mkdir()
    for path in base.iterdir():
        if path.name not in entries:
            shutil.copyfile(path, folder / path.name)
    for name, entry in entries.items():
        if name != os.path.basename(name) or name in ("", ".", ".."):
            continue  # an input stays in its folder
        with contextlib.suppress(OSError, ValueError):  # a name that no file can have
            _write(folder / name, entry)


def _write(path: Path, entry: Entry) -> None:
    if isinstance(entry, bytes):
        path.write_bytes(entry)
    elif isinstance(entry, str):
        path.symlink_to(entry)
    elif entry is not None:
        path.mkdir()


_SEAL = re.compile(rb'"@(sha256|size)(-base)?:([A-Za-z0-9_.]+)@"')


def seal(text: bytes, folder: Path, base: Path) -> bytes:
    """`text` with hashes and sizes in the place of their seals."""

    def fill(match: re.Match[bytes]) -> bytes:
        what, before, name = match.groups()
        path = (base if before else folder) / name.decode()
        data = path.read_bytes() if path.is_file() else b""
        if what == b"size":
            return str(len(data)).encode()
        return b'"' + hashlib.sha256(data).hexdigest().encode() + b'"'

    return _SEAL.sub(fill, text)
