"""Reader of protobuf's encoding that takes what a writer of ONNX files writes, and nothing else.

Libraries skip fields that they do not know, take the last of several where one is meant, and join
halves of messages. A scan must read a file as its backend does, so it takes only files that all
readers read alike: known fields, in order, of the right type, and no more of them than may be.

Source: protobuf.dev/programming-guides/encoding.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final, TypeAlias

__all__ = ["Buffer", "Fields", "mapped", "read", "signed"]

Buffer: TypeAlias = "bytes | memoryview"

# Fields of a message by their key (number << 3 | type): (name, most of them).
Fields: TypeAlias = Mapping[int, tuple[str, int]]

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_MOST_BITS: Final = 70  # of ten bytes


def mapped(path: Path) -> memoryview:
    """Map a file's contents, for as long as somebody holds them.

    Raises:
        OSError: it cannot be read.
        ValueError: it is empty.
    """
    with path.open("rb") as file:
        if not os.fstat(file.fileno()).st_size:
            raise ValueError(f"it is empty: {path.name}")
        return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))


def read(
    data: Buffer, at: int, end: int, fields: Fields, absent: Mapping[int, str] | None = None
) -> Iterator[tuple[str, int, int]]:
    """Read the fields of a message: (name, start, end), or (name, number, where it ends).

    Args:
        absent: names of fields, by number, that others write.

    Raises:
        ValueError: the message is damaged, or has what `fields` does not know.
    """
    last, left, name = 0, 0, ""
    while at < end:
        key = data[at]
        start = at + 1
        if key >= 0x80:
            key, start = _varint(data, at, end)
        if key != last:
            if key not in fields:
                raise ValueError(_unknown(key, at, absent or {}))
            if key < last:
                raise ValueError(f"it has its field {fields[key][0]!r} near byte {at} too late")
            name, left = fields[key]
            last = key
        left -= 1
        if left < 0:
            raise ValueError(f"it has too many fields {name!r} near byte {at}")
        if key & 7 == _FIXED32:
            at = start + 4
        else:
            value = data[start] if start < end else 0x80
            at = start + 1
            if value >= 0x80:
                value, at = _varint(data, start, end)
            if key & 7 == _BYTES:
                start, at = at, at + value
            else:
                start = value
        if at > end:
            raise ValueError(f"damaged near byte {end}")
        yield name, start, at


def signed(number: int) -> int:
    """Turn a varint into the int64 that it stands for."""
    return number - (1 << 64) if number >> 63 else number


def _unknown(key: int, at: int, absent: Mapping[int, str]) -> str:
    number = key >> 3
    if key & 7 not in (_VARINT, _FIXED64, _BYTES, _FIXED32):
        return f"damaged near byte {at}"
    return f"it has {absent.get(number) or f'field {number} of type {key & 7}'} near byte {at}"


def _varint(data: Buffer, start: int, end: int) -> tuple[int, int]:
    """Read a varint: (number, where it ends)."""
    number = 0
    shift, at = 0, start
    while at < end and shift < _MOST_BITS:
        byte = data[at]
        at += 1
        number |= (byte & 0x7F) << shift
        if byte < 0x80:
            if number >> 64:
                break
            return number, at
        shift += 7
    raise ValueError(f"damaged near byte {start}")
