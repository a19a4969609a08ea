"""Damage to zip archives, and to the NumPy arrays in a ``.npz``."""

from __future__ import annotations

import io
import pickle
import random
import struct
import zipfile
from collections.abc import Sequence
from typing import Any

import numpy as np

from fuzzing.mutations import mutate_bytes, times

__all__ = ["Member", "mutate_npz", "mutate_zip", "read_members", "write_members"]

# (name, contents)
Member = tuple[str, bytes]


def read_members(data: bytes) -> list[Member]:
    """The members of an archive in its order."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return [(info.filename, archive.read(info)) for info in archive.infolist()]


def write_members(members: Sequence[Member], method: int = zipfile.ZIP_STORED) -> bytes:
    """An archive of `members`, which may have a name twice."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", method) as archive:
        for name, contents in members:
            info = zipfile.ZipInfo(name or "-", (1980, 1, 1, 0, 0, 0))
            info.compress_type = method
            # writestr warns of a name that is there already; that is what is wanted here.
            archive.NameToInfo.pop(info.filename, None)
            archive.writestr(info, contents)
    return out.getvalue()


# Where the fields of the headers lie: (signature, offset, width).
_FIELDS = tuple(
    [(b"PK\3\4", offset, 2) for offset in (4, 6, 8, 26, 28)]
    + [(b"PK\3\4", offset, 4) for offset in (14, 18, 22)]
    + [(b"PK\1\2", offset, 2) for offset in (4, 6, 8, 10, 28, 30, 32, 34, 36)]
    + [(b"PK\1\2", offset, 4) for offset in (16, 20, 24, 38, 42)]
    + [(b"PK\5\6", offset, 2) for offset in (4, 6, 8, 10, 20)]
    + [(b"PK\5\6", offset, 4) for offset in (12, 16)]
)
_NAMES = ("../x", "/x", "a\\b", "x" * 300, "\0", "", "archive/data.pkl", "byteorder", "é", "x/")


def mutate_zip(rng: random.Random, data: bytes) -> bytes:
    """Members removed, repeated, renamed, compressed; fields of the headers set; plain damage."""
    kind = rng.randrange(6)
    if kind == 0:
        return mutate_bytes(rng, data)
    if kind <= 2:
        changed = bytearray(data)
        for _ in range(times(rng)):
            _set_field(rng, changed)
        return bytes(changed)
    try:
        members = read_members(data)
    except Exception:  # zipfile lets through what it meets
        return mutate_bytes(rng, data)
    for _ in range(times(rng, 3)):
        if not members:
            break
        i = rng.randrange(len(members))
        name, contents = members[i]
        what = rng.randrange(6)
        if what == 0:
            del members[i]
        elif what == 1:
            members.insert(rng.randrange(len(members) + 1), (name, mutate_bytes(rng, contents)))
        elif what == 2:
            members[i] = (rng.choice((name + "x", name.upper(), *_NAMES)), contents)
        elif what == 3:
            other = rng.choice(members)
            members[i] = (name, other[1])
        else:
            members[i] = (name, mutate_bytes(rng, contents))
    method = rng.choice((zipfile.ZIP_STORED,) * 4 + (zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA))
    return write_members(members, method)


def _set_field(rng: random.Random, data: bytearray) -> None:
    signature, offset, width = rng.choice(_FIELDS)
    starts = []
    at = data.find(signature)
    while at >= 0 and len(starts) < 1000:
        starts.append(at)
        at = data.find(signature, at + 1)
    if not starts:
        return
    start = rng.choice(starts) + offset
    if start + width > len(data):
        return
    value = int.from_bytes(data[start : start + width], "little")
    limit = 1 << (8 * width)
    value = rng.choice((0, 1, value + 1, value - 1, limit - 1, limit // 2, rng.randrange(limit)))
    data[start : start + width] = (value % limit).to_bytes(width, "little")


class _Marked:
    """Pickles as a call, which must never be made."""

    def __reduce__(self) -> tuple[Any, ...]:
        return exec, ("raise SystemExit('a pickle was executed')",)


def _array(array: Any) -> bytes:
    out = io.BytesIO()
    np.lib.format.write_array(out, array, allow_pickle=True)
    return out.getvalue()


def mutate_npz(rng: random.Random, data: bytes) -> bytes:
    """Arrays of other types, shapes and values; pickles; headers that lie; damage to the zip."""
    if rng.random() < 0.3:
        return mutate_zip(rng, data)
    try:
        members = read_members(data)
    except Exception:  # zipfile lets through what it meets
        return mutate_bytes(rng, data)
    for _ in range(times(rng, 3)):
        if not members:
            break
        i = rng.randrange(len(members))
        name, contents = members[i]
        kind = rng.randrange(9)
        if kind == 0:
            del members[i]
        elif kind == 1:
            members.append((rng.choice((*_NAMES, "image/3.npy", "output/extra.npy")), contents))
        elif kind == 2:
            members[i] = (name, rng.choice(members)[1])
        elif kind == 3:
            members[i] = (name, _array(np.array([_Marked()], object)))
        elif kind == 4:
            members[i] = (name, pickle.dumps(_Marked()))
        elif kind <= 6:
            members[i] = (name, _lying(rng, contents))
        else:
            members[i] = (name, _changed(rng, contents))
    return write_members(members, rng.choice((zipfile.ZIP_STORED,) * 9 + (zipfile.ZIP_DEFLATED,)))


_SHAPES = (
    "()", "(0,)", "(-1,)", "(1, 1)", "(10**12,)", "(999999999999,)", "(1" + ", 1" * 40 + ")", "[3]",
    "(0, 3, 32, 48)", "(True,)", "(1.0,)", "'x'", "(9223372036854775807, 2)",
)  # fmt: skip
_DTYPES = (
    "'<f8'", "'>f4'", "'|O'", "'<U4'", "'|V4'", "'<c8'", "'|b1'", "'<M8[s]'", "'<i8'", "''", "None",
    "[('a', '<f4')]", "'|S99999999'", "'<f2'", "'|u1'", "'<f16'", "'q' * 99",
)  # fmt: skip


def _lying(rng: random.Random, contents: bytes) -> bytes:
    """A ``.npy`` whose header says something else than its data."""
    if len(contents) < 12 or not contents.startswith(b"\x93NUMPY"):
        return mutate_bytes(rng, contents)
    (length,) = struct.unpack_from("<H", contents, 8)
    header, body = contents[10 : 10 + length], contents[10 + length :]
    text = header.decode("latin-1")
    kind = rng.randrange(4)
    if kind == 0:
        start, end = text.find("("), text.find(")")
        text = text[:start] + rng.choice(_SHAPES) + text[end + 1 :]
    elif kind == 1:
        start = text.find("'descr': ") + 9
        text = text[:start] + rng.choice(_DTYPES) + text[text.find(",", start) :]
    elif kind == 2:
        text = text.replace("False", "True")
    else:
        text = mutate_bytes(rng, header).decode("latin-1")
    header = text.encode("latin-1")[:60000]
    return contents[:8] + struct.pack("<H", len(header)) + header + body


def _changed(rng: random.Random, contents: bytes) -> bytes:
    """An honest ``.npy`` with other values."""
    try:
        array = np.load(io.BytesIO(contents), allow_pickle=False)
    except Exception:  # NumPy's, and those of Python's own parser
        return mutate_bytes(rng, contents)
    kind = rng.randrange(7)
    if kind == 0:
        array = array[..., None]
    elif kind == 1:
        array = array[: rng.randrange(len(array) + 1)] if array.ndim else array
    elif kind == 2:
        array = array.astype(rng.choice(("f8", ">f4", "i4", "u1", "c8", "U3", "f2")))
    elif kind == 3 and array.dtype.kind == "f" and array.size:
        array = array.copy()
        array.flat[rng.randrange(array.size)] = rng.choice((np.nan, np.inf, -np.inf, 3e38, 1e-45))
    elif kind == 4 and array.size:
        array = array.copy()
        array.flat[rng.randrange(array.size)] += 1
    elif kind == 5:
        array = array.T
    else:
        array = array.reshape(-1)[::-1].reshape(array.shape)
    return _array(array)
