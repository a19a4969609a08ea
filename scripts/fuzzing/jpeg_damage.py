"""Hypothesis strategies of JPEG files whose segments are put together otherwise."""

from __future__ import annotations

import struct
from typing import Any

from hypothesis import strategies as st

from fuzzing.damage import damaged, few

__all__ = ["damaged_jpeg"]

# A frame and a scan, for a reader who does not know where the segment around them ends.
_FAKE = b"\xff\xc0\0\x0b\x08\0\x30\0\x40\1\1\x11\0\xff\xda\0\x08\1\1\0\0\x3f\0"

_BARE = (0x00, 0x01, 0x02, *range(0xD0, 0xD8))

_odd = st.one_of(
    st.sampled_from((1, 2, 31, 32, 33, 300)).map(lambda count: b"\xff" * count),
    st.sampled_from(_BARE).map(lambda marker: bytes([0xFF, marker])),
    st.binary(min_size=1, max_size=8),
    st.builds(
        lambda marker, body: struct.pack(">BBH", 0xFF, marker, len(body) + 2) + body,
        st.sampled_from((0xDC, 0xDD, 0xE0, 0xE1, 0xED, 0xEE, 0xFE)),
        st.just(_FAKE) | st.binary(max_size=60) | st.just(b"Exif\0\0" + _FAKE),
    ),
    st.builds(
        lambda marker, length: struct.pack(">BBH", 0xFF, marker, length),
        st.sampled_from((0xE5, 0xFE, 0xC4, 0xDB)),
        st.integers(0, 2) | st.integers(0, 400),
    ),
)


@st.composite
def damaged_jpeg(draw: Any, data: bytes) -> bytes:
    """Draw a JPEG with parts removed, repeated or damaged, and odd bytes between them."""
    parts = _parts(data)
    for _ in range(draw(few)):
        at = draw(st.integers(0, len(parts) - 1))
        kind = draw(st.sampled_from(("odd", "odd", "odd", "repeat", "remove", "damage")))
        if kind == "odd":
            parts.insert(max(1, at), draw(_odd))
        elif kind == "repeat":
            parts.insert(draw(st.integers(0, len(parts))), parts[at])
        elif kind == "damage":
            parts[at] = draw(damaged(parts[at]))
        elif len(parts) > 1:
            del parts[at]
    return b"".join(parts)


def _parts(data: bytes) -> list[bytes]:
    """Cut a JPEG as Pillow writes it before each of its markers."""
    parts, at = [data[:2]], 2
    while at + 4 <= len(data):
        end = at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")
        if data[at + 1] == 0xDA:
            while end + 1 < len(data) and (
                data[end] != 0xFF or data[end + 1] in (0, *range(0xD0, 0xD8))
            ):
                end += 1
        parts.append(data[at:end])
        at = end
    return [part for part in (*parts, data[at:]) if part]
