"""Hypothesis strategies of damaged bytes."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any, TypeVar

from hypothesis import strategies as st

__all__ = ["NUMBERS", "damaged", "few", "one_of", "packed_numbers"]

T = TypeVar("T")

# Borders of the types in which formats keep sizes and offsets, and their neighbours.
_BITS = (0, 1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 15, 16, 24, 31, 32, 40, 47, 48, 62, 63, 64)
NUMBERS = tuple(sorted({(1 << bits) + step for bits in _BITS for step in (-1, 0, 1)}))
_FORMATS = ("B", "<H", ">H", "<I", ">I", "<Q", ">Q")
_LONGEST = 4 << 20

# Number of changes to one input: mostly one or two.
few = st.sampled_from((1, 1, 1, 1, 1, 1, 2, 2, 2, 3, 4, 8))


def one_of(values: Sequence[T]) -> st.SearchStrategy[T]:
    """One of these values, as `sampled_from`, which would write large ones into its name."""
    return st.integers(0, len(values) - 1).map(lambda index: values[index])


def packed_numbers(form: str) -> st.SearchStrategy[bytes]:
    """Integers as `struct` packs them in this format, mostly at the borders of types."""
    limit = 1 << 8 * struct.calcsize(form)
    numbers = st.sampled_from([n % limit for n in NUMBERS]) | st.integers(0, limit - 1)
    return numbers.map(lambda number: struct.pack(form, number))


def _positions(length: int) -> st.SearchStrategy[int]:
    """Positions anywhere, but mostly near the ends, where formats keep their structure."""
    near = min(length, 64)
    return st.one_of(
        st.integers(0, near),
        st.integers(0, min(length, 512)),
        st.integers(length - near, length),
        st.integers(0, length),
    )


@st.composite
def damaged(draw: Any, data: bytes, others: Sequence[bytes] = ()) -> bytes:
    """Draw `data` with one piece or more removed, overwritten, repeated or put in.

    Args:
        others: seeds from which pieces may be spliced in.
    """
    changed = bytearray(data)
    for _ in range(draw(few)):
        start = draw(_positions(len(changed)))
        length = draw(st.sampled_from((1, 1, 2, 4, 8, 16, 64, 256, len(changed))))
        kind = draw(st.sampled_from(("bits", "number", "number", "bytes", "fill", "move", "cut")))
        if kind == "bits":
            for at in range(start, min(start + 1, len(changed))):
                changed[at] ^= draw(st.integers(1, 255))
            continue
        if kind == "number":
            piece = draw(st.sampled_from(_FORMATS).flatmap(packed_numbers))
            length = len(piece)
        elif kind == "bytes":
            piece = draw(st.binary(max_size=64))
        elif kind == "fill":
            piece = draw(st.sampled_from((b"\0", b"\xff"))) * min(length, 64)
        elif kind == "move":
            donor = draw(one_of([bytes(changed), *others]))
            begin = draw(_positions(len(donor)))
            piece = donor[begin : begin + length] * draw(st.sampled_from((1, 1, 1, 2, 5)))
        else:
            piece = b""
        stop = start + (draw(st.sampled_from((0, length))) if piece else length)
        changed[start:stop] = piece
    return bytes(changed[:_LONGEST])
