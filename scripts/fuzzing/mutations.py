"""Damage to bytes, from a ``random.Random``: the same numbers, the same damage."""

from __future__ import annotations

import random
import struct
import zlib
from collections.abc import Callable, Sequence

__all__ = ["mutate_bytes", "mutate_png", "times"]

# At the borders of the types that formats keep their sizes and offsets in.
_INTERESTING = (
    0, 1, 2, 3, 7, 8, 15, 16, 31, 32, 63, 64, 127, 128, 129, 255, 256, 257, 1023, 1024, 4095, 4096,
    32767, 32768, 32769, 65534, 65535, 65536, 2**24, 2**31 - 1, 2**31, 2**31 + 1, 2**32 - 2,
    2**32 - 1, 2**63 - 1, 2**63, 2**64 - 1,
)  # fmt: skip
_FORMATS = ("B", "<H", ">H", "<I", ">I", "<Q", ">Q")
_LONGEST = 4 << 20


def times(rng: random.Random, most: int = 8) -> int:
    """How many mutations to stack: mostly one or two."""
    count = 1
    while count < most and rng.random() < 0.5:
        count += 1
    return count


def mutate_bytes(rng: random.Random, data: bytes, others: Sequence[bytes] = ()) -> bytes:
    """One to eight kinds of damage, one after the other.

    Args:
        others: seeds from which pieces may be spliced in.
    """
    changed = bytearray(data)
    for _ in range(times(rng)):
        kind = rng.randrange(len(_KINDS) + bool(others))
        if kind == len(_KINDS):
            _splice(rng, changed, rng.choice(others))
        else:
            _KINDS[kind](rng, changed)
    return bytes(changed[:_LONGEST])


def _position(rng: random.Random, length: int) -> int:
    """Anywhere, but mostly near the ends, where formats keep their structure."""
    where = rng.random()
    reach = min(length, rng.choice((16, 64, 512)))
    if where < 0.45:
        return rng.randrange(reach)
    if where < 0.6:
        return length - 1 - rng.randrange(reach)
    return rng.randrange(length)


def _flip_bit(rng: random.Random, data: bytearray) -> None:
    if data:
        data[_position(rng, len(data))] ^= 1 << rng.randrange(8)


def _set_byte(rng: random.Random, data: bytearray) -> None:
    if data:
        data[_position(rng, len(data))] = rng.choice((0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)))


def _set_number(rng: random.Random, data: bytearray) -> None:
    form = rng.choice(_FORMATS)
    width = struct.calcsize(form)
    if len(data) < width:
        return
    start = min(_position(rng, len(data)), len(data) - width)
    if rng.random() < 0.3:  # a little more or less than it is
        (number,) = struct.unpack_from(form, data, start)
        number += rng.choice((-16, -2, -1, 1, 2, 16))
    else:
        number = rng.choice(_INTERESTING)
    struct.pack_into(form, data, start, number % (1 << (8 * width)))


def _delete(rng: random.Random, data: bytearray) -> None:
    if data:
        start = _position(rng, len(data))
        del data[start : start + _length(rng, len(data))]


def _duplicate(rng: random.Random, data: bytearray) -> None:
    if data:
        start = _position(rng, len(data))
        piece = data[start : start + _length(rng, len(data))]
        at = _position(rng, len(data))
        data[at:at] = piece * rng.choice((1, 1, 1, 2, 5))


def _insert(rng: random.Random, data: bytearray) -> None:
    at = _position(rng, len(data)) if data else 0
    length = _length(rng, 64)
    data[at:at] = rng.choice((bytes(length), b"\xff" * length, rng.randbytes(length)))


def _overwrite(rng: random.Random, data: bytearray) -> None:
    if data:
        start = _position(rng, len(data))
        length = min(_length(rng, 64), len(data) - start)
        data[start : start + length] = rng.randbytes(length)


def _truncate(rng: random.Random, data: bytearray) -> None:
    if data:
        del data[rng.randrange(len(data)) :]


def _swap(rng: random.Random, data: bytearray) -> None:
    if len(data) < 2:
        return
    length = min(_length(rng, len(data)), len(data) // 2)
    first = rng.randrange(len(data) - 2 * length + 1)
    second = rng.randrange(first + length, len(data) - length + 1)
    one, other = data[first : first + length], data[second : second + length]
    data[first : first + length], data[second : second + length] = other, one


def _splice(rng: random.Random, data: bytearray, other: bytes) -> None:
    if not other:
        return
    start = _position(rng, len(other))
    piece = other[start : start + _length(rng, len(other))]
    at = _position(rng, len(data)) if data else 0
    data[at : at + rng.choice((0, len(piece)))] = piece


def _length(rng: random.Random, most: int) -> int:
    return max(1, min(rng.choice((1, 2, 4, 8, 16, 64, 256, rng.randint(1, max(1, most)))), most))


_KINDS: Sequence[Callable[[random.Random, bytearray], None]] = (
    _flip_bit,
    _set_byte,
    _set_number,
    _set_number,
    _delete,
    _duplicate,
    _insert,
    _overwrite,
    _truncate,
    _swap,
)

_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"


def mutate_png(rng: random.Random, data: bytes) -> bytes:
    """Damage inside the chunks of a PNG, whose lengths and checksums are made to fit again."""
    chunks = []
    at = len(_PNG_SIGNATURE)
    while at + 12 <= len(data):
        (length,) = struct.unpack_from(">I", data, at)
        chunks.append((data[at + 4 : at + 8], data[at + 8 : at + 8 + length]))
        at += 12 + length
    if not chunks:
        return mutate_bytes(rng, data)
    for _ in range(times(rng, 3)):
        i = rng.randrange(len(chunks))
        name, body = chunks[i]
        kind = rng.randrange(6)
        if kind == 0:
            del chunks[i]
        elif kind == 1:
            chunks.insert(rng.randrange(len(chunks) + 1), (name, body))
        elif kind == 2 and name in (b"IDAT", b"fdAT", b"zTXt", b"iCCP"):
            chunks[i] = (name, _recompressed(rng, name, body))
        else:
            chunks[i] = (name, mutate_bytes(rng, body))
        if not chunks:
            break
    out = bytearray(_PNG_SIGNATURE)
    for name, body in chunks:
        out += struct.pack(">I", len(body)) + name + body
        out += struct.pack(">I", zlib.crc32(name + body))
    return bytes(out)


def _recompressed(rng: random.Random, name: bytes, body: bytes) -> bytes:
    """The compressed part of a chunk with other contents: damaged, too long, or too short."""
    head = body[:4] if name == b"fdAT" else b""
    if name in (b"zTXt", b"iCCP"):
        head = body[: body.find(b"\0") + 2]
    try:
        plain = zlib.decompress(body[len(head) :])
    except zlib.error:
        return mutate_bytes(rng, body)
    changed = rng.choice((mutate_bytes(rng, plain), bytes(2 << 20), plain[: len(plain) // 2]))
    return head + zlib.compress(changed, 1)
