"""Hypothesis strategies of damaged PNG files whose lengths and checksums fit again."""

from __future__ import annotations

import struct
import zlib
from typing import Any

from hypothesis import strategies as st

from fuzzing.damage import damaged, few

__all__ = ["damaged_png"]

_SIGNATURE = b"\x89PNG\r\n\x1a\n"


@st.composite
def damaged_png(draw: Any, data: bytes) -> bytes:
    """Draw a PNG with chunks removed, repeated, or with other contents."""
    chunks = []
    at = len(_SIGNATURE)
    while at + 12 <= len(data):
        (length,) = struct.unpack_from(">I", data, at)
        chunks.append((data[at + 4 : at + 8], data[at + 8 : at + 8 + length]))
        at += 12 + length
    for _ in range(draw(few)):
        if not chunks:
            break
        i = draw(st.integers(0, len(chunks) - 1))
        name, body = chunks[i]
        kind = draw(st.sampled_from(("remove", "repeat", "compressed", "bytes", "bytes", "bytes")))
        if kind == "remove":
            del chunks[i]
        elif kind == "repeat":
            chunks.insert(draw(st.integers(0, len(chunks))), (name, body))
        elif kind == "compressed" and name in (b"IDAT", b"fdAT", b"zTXt", b"iCCP"):
            chunks[i] = (name, draw(_recompressed(name, body)))
        else:
            chunks[i] = (name, draw(damaged(body)))
    out = bytearray(_SIGNATURE)
    for name, body in chunks:
        out += struct.pack(">I", len(body)) + name + body
        out += struct.pack(">I", zlib.crc32(name + body))
    return bytes(out)


@st.composite
def _recompressed(draw: Any, name: bytes, body: bytes) -> bytes:
    """The compressed part of a chunk with other contents: damaged, too long, or too short."""
    head = body[:4] if name == b"fdAT" else b""
    if name in (b"zTXt", b"iCCP"):
        head = body[: body.find(b"\0") + 2]
    try:
        plain = zlib.decompress(body[len(head) :])
    except zlib.error:
        return draw(damaged(body))
    kind = draw(st.sampled_from(("damaged", "long", "short")))
    changed = {"long": bytes(2 << 20), "short": plain[: len(plain) // 2]}.get(kind)
    return head + zlib.compress(draw(damaged(plain)) if changed is None else changed, 1)
