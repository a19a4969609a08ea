"""Protocol buffers without a schema: enough to take a message apart, damage it, and write it."""

from __future__ import annotations

import random
from collections.abc import Sequence

from fuzzing.mutations import mutate_bytes, times

__all__ = ["Field", "mutate_message", "parse", "varint", "write"]

# (number, wire type, value): an int for types 0, bytes for 1, 2 and 5.
Field = tuple[int, int, "int | bytes"]

_INTERESTING = (0, 1, 2, 3, 4, 7, 11, 16, 127, 128, 255, 65536, 2**31 - 1, 2**31, 2**32 - 1,
                2**40, 2**62, 2**63 - 1, 2**63, 2**64 - 1)  # fmt: skip
_WIDTHS = {1: 8, 5: 4}


def varint(number: int) -> bytes:
    """Base 128, lowest group first."""
    number %= 1 << 64
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def _read_varint(data: bytes, at: int) -> tuple[int, int]:
    number = shift = 0
    while True:
        byte = data[at]
        number |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return number, at
        if shift > 63:
            raise ValueError("a varint is too long")


def parse(data: bytes) -> list[Field] | None:
    """The fields of a message in their order; None where `data` is no message."""
    fields: list[Field] = []
    at = 0
    try:
        while at < len(data):
            key, at = _read_varint(data, at)
            number, wire = key >> 3, key & 7
            if wire == 0:
                value, at = _read_varint(data, at)
                fields.append((number, wire, value))
                continue
            if wire == 2:
                length, at = _read_varint(data, at)
            elif wire in _WIDTHS:
                length = _WIDTHS[wire]
            else:
                return None
            if number == 0 or at + length > len(data):
                return None
            fields.append((number, wire, data[at : at + length]))
            at += length
    except (IndexError, ValueError):
        return None
    return fields


def write(fields: Sequence[Field]) -> bytes:
    """The reverse of `parse`."""
    out = bytearray()
    for number, wire, value in fields:
        out += varint(number << 3 | wire)
        if isinstance(value, int):
            out += varint(value)
        else:
            out += (varint(len(value)) if wire == 2 else b"") + value
    return bytes(out)


def mutate_message(
    rng: random.Random, data: bytes, others: Sequence[bytes], names: Sequence[bytes]
) -> bytes:
    """Damage one to six fields, each found by walking down from the outermost message.

    Args:
        others: messages from which fields may be taken.
        names: strings that mean something where this kind of message is read.
    """
    for _ in range(times(rng, 6)):
        data = _mutate_inside(rng, data, others, names, depth=0)
    return data


def _mutate_inside(
    rng: random.Random, data: bytes, others: Sequence[bytes], names: Sequence[bytes], depth: int
) -> bytes:
    fields = parse(data) if len(data) > 1 else None
    if not fields:
        return _mutate_leaf(rng, data, names)
    i = rng.randrange(len(fields))
    if depth == 0:  # the graph is one of a dozen fields, and holds all that matters
        i = max(range(len(fields)), key=lambda k: len(_bytes(fields[k])))
        i = i if rng.random() < 0.9 else rng.randrange(len(fields))
    number, wire, value = fields[i]
    if isinstance(value, bytes) and wire == 2 and rng.random() < (0.95 if depth == 0 else 0.7):
        fields[i] = (number, wire, _mutate_inside(rng, value, others, names, depth + 1))
        return write(fields)
    kind = rng.randrange(9)
    if kind == 0:
        del fields[i]
    elif kind == 1:
        fields.insert(rng.randrange(len(fields) + 1), fields[i])
    elif kind == 2:
        j = rng.randrange(len(fields))
        fields[i], fields[j] = fields[j], fields[i]
    elif kind == 3:
        fields[i] = (max(1, number + rng.choice((-2, -1, 1, 2, 10))), wire, value)
    elif kind == 4 and others:
        donor = parse(rng.choice(others)) or fields
        fields.insert(rng.randrange(len(fields) + 1), rng.choice(donor))
    elif kind == 5:
        fields.append((rng.randint(1, 30), 0, rng.choice(_INTERESTING)))
    elif kind == 6:
        fields.append((rng.randint(1, 30), 2, rng.choice(names)))
    elif isinstance(value, int):
        near = value + rng.choice((-1, 1, 2))
        fields[i] = (number, 0, rng.choice((near, *rng.sample(_INTERESTING, 3))))
    else:
        fields[i] = (number, wire, _mutate_leaf(rng, value, names))
    return write(fields)


def _mutate_leaf(rng: random.Random, data: bytes, names: Sequence[bytes]) -> bytes:
    kind = rng.randrange(4)
    if kind == 0 and len(data) < 200:
        return rng.choice(names)
    if kind == 1 and len(data) % 8 == 0 and 0 < len(data) <= 64:  # packed int64: axes, shapes
        at = 8 * rng.randrange(len(data) // 8)
        number = rng.choice(_INTERESTING) % (1 << 64)
        return data[:at] + number.to_bytes(8, "little") + data[at + 8 :]
    return mutate_bytes(rng, data)


def _bytes(field: Field) -> bytes:
    return field[2] if isinstance(field[2], bytes) else b""
