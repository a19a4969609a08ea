"""Hypothesis strategies of damaged zip archives, and of the NumPy arrays in a ``.npz``."""

from __future__ import annotations

import io
import pickle
import struct
import zipfile
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from hypothesis import strategies as st

from fuzzing.damage import damaged, few, one_of, packed_numbers

__all__ = ["Member", "damaged_npz", "damaged_zip", "read_members", "write_members"]

# (name, contents)
Member = tuple[str, bytes]


def read_members(data: bytes) -> list[Member]:
    """Read the members of an archive, in its order."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return [(info.filename, archive.read(info)) for info in archive.infolist()]


def write_members(members: Sequence[Member], method: int = zipfile.ZIP_STORED) -> bytes:
    """Write an archive of `members`, which may have a name twice."""
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
_NAMES = ("../x", "/x", "a\\b", "x" * 300, "\0", "", "archive/data.pkl", "byteorder", "é", "x/",
          "image/3.npy", "output/extra.npy")  # fmt: skip
_methods = st.sampled_from((zipfile.ZIP_STORED,) * 6 + (zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA))


@st.composite
def _other_fields(draw: Any, data: bytes) -> bytes:
    """Fields of the headers set to other numbers."""
    changed = bytearray(data)
    for _ in range(draw(few)):
        signature, offset, width = draw(st.sampled_from(_FIELDS))
        parts = bytes(changed).split(signature)
        if len(parts) > 1:
            k = draw(st.integers(1, len(parts) - 1))
            start = sum(map(len, parts[:k])) + (k - 1) * len(signature) + offset
            changed[start : start + width] = draw(packed_numbers({2: "<H", 4: "<I"}[width]))
    return bytes(changed)


@st.composite
def _other_members(
    draw: Any, data: bytes, contents_of: Callable[[bytes], st.SearchStrategy[bytes]]
) -> bytes:
    """Members removed, repeated, renamed, exchanged, compressed, or with other contents."""
    try:
        members = read_members(data)
    except Exception:  # zipfile lets through what it meets
        return draw(damaged(data))
    for _ in range(draw(few)):
        if not members:
            break
        i = draw(st.integers(0, len(members) - 1))
        name, contents = members[i]
        kind = draw(st.sampled_from(("remove", "repeat", "rename", "copy") + ("contents",) * 6))
        if kind == "remove":
            del members[i]
        elif kind == "repeat":
            members.insert(i, (name, draw(damaged(contents))))
        elif kind == "rename":
            members[i] = (draw(st.sampled_from((name + "x", name.upper(), *_NAMES))), contents)
        elif kind == "copy":
            members[i] = (name, draw(one_of(members))[1])
        else:
            members[i] = (name, draw(contents_of(contents)))
    return write_members(members, draw(_methods))


def damaged_zip(data: bytes) -> st.SearchStrategy[bytes]:
    """Archives with other members, other headers, or other bytes."""
    return damaged(data) | _other_fields(data) | _other_members(data, damaged)


def damaged_npz(data: bytes) -> st.SearchStrategy[bytes]:
    """Archives with other arrays in them, and those of `damaged_zip`."""
    return (
        damaged_zip(data) | _other_members(data, _other_array) | _other_members(data, _other_array)
    )


class _Marked:
    """Pickles as a call, which must never be made."""

    def __reduce__(self) -> tuple[Any, ...]:
        return exec, ("raise SystemExit('a pickle was executed')",)


def _array(array: Any) -> bytes:
    out = io.BytesIO()
    np.lib.format.write_array(out, array, allow_pickle=True)
    return out.getvalue()


_MARKED = (_array(np.array([_Marked()], object)), pickle.dumps(_Marked()))
_SHAPES = (
    "()", "(0,)", "(-1,)", "(1, 1)", "(10**12,)", "(999999999999,)", "(1" + ", 1" * 40 + ")", "[3]",
    "(0, 3, 32, 48)", "(True,)", "(1.0,)", "'x'", "(9223372036854775807, 2)",
)  # fmt: skip
_DTYPES = (
    "'<f8'", "'>f4'", "'|O'", "'<U4'", "'|V4'", "'<c8'", "'|b1'", "'<M8[s]'", "'<i8'", "''", "None",
    "[('a', '<f4')]", "'|S99999999'", "'<f2'", "'|u1'", "'<f16'", "'q' * 99",
)  # fmt: skip


def _other_array(contents: bytes) -> st.SearchStrategy[bytes]:
    return one_of(_MARKED) | _lying(contents) | _changed(contents) | _changed(contents)


@st.composite
def _lying(draw: Any, contents: bytes) -> bytes:
    """A ``.npy`` whose header says something else than its data."""
    if len(contents) < 12 or not contents.startswith(b"\x93NUMPY"):
        return draw(damaged(contents))
    (length,) = struct.unpack_from("<H", contents, 8)
    header, body = contents[10 : 10 + length], contents[10 + length :]
    text = header.decode("latin-1")
    kind = draw(st.sampled_from(("shape", "dtype", "order", "bytes")))
    if kind == "shape":
        start, end = text.find("("), text.find(")")
        text = text[:start] + draw(st.sampled_from(_SHAPES)) + text[end + 1 :]
    elif kind == "dtype":
        start = text.find("'descr': ") + 9
        text = text[:start] + draw(st.sampled_from(_DTYPES)) + text[text.find(",", start) :]
    elif kind == "order":
        text = text.replace("False", "True")
    else:
        text = draw(damaged(header)).decode("latin-1")
    header = text.encode("latin-1")[:60000]
    return contents[:8] + struct.pack("<H", len(header)) + header + body


@st.composite
def _changed(draw: Any, contents: bytes) -> bytes:
    """An honest ``.npy`` with other values, of another type, or of another shape."""
    try:
        array = np.load(io.BytesIO(contents), allow_pickle=False)
    except Exception:  # NumPy's, and those of Python's own parser
        return draw(damaged(contents))
    kind = draw(st.sampled_from(("axis", "cut", "type", "value", "value", "turn", "reverse")))
    if kind == "axis":
        array = array[..., None]
    elif kind == "cut" and array.ndim:
        array = array[: draw(st.integers(0, len(array)))]
    elif kind == "type":
        array = array.astype(draw(st.sampled_from(("f8", ">f4", "i4", "u1", "c8", "U3", "f2"))))
    elif kind == "value" and array.size:
        array = array.copy()
        value = array.flat[draw(st.integers(0, array.size - 1))] + 1
        if array.dtype.kind == "f":
            value = draw(st.sampled_from((value, np.nan, np.inf, -np.inf, 3e38, 1e-45)))
        array.flat[draw(st.integers(0, array.size - 1))] = value
    elif kind == "turn":
        array = array.T
    else:
        array = array.reshape(-1)[::-1].reshape(array.shape)
    return _array(array)
