"""Hypothesis strategies of damaged IRs: their text in places, and the integers beside it."""

from __future__ import annotations

import re
import struct
from typing import Any, Final

from hypothesis import strategies as st

from fuzzing.damage import damaged, few
from fuzzing.graph_damage import NUMBERS
from levit.runtime.graphs.ir_operators import OPERATIONS

__all__ = ["damaged_ir", "packed", "unpacked"]

# Parts of the text that a change may be about: numbers, whole attributes, layers, edges.
_PLACES: Final = (
    rb"(?<=<dim>)-?\d+(?=</dim>)",
    rb'(?<=shape=")[^"]*(?=")',
    rb'(?<=strides=")[^"]*(?=")',
    rb'(?<=pads_begin=")[^"]*(?=")',
    rb'(?<=offset=")[^"]*(?=")',
    rb'(?<=size=")[^"]*(?=")',
    rb'(?<=-layer=")\d+(?=")',
    rb'(?<=-port=")\d+(?=")',
    rb'(?<=type=")\w+(?=")',
    rb'(?<=version=")\w+(?=")',
    rb'(?<= id=")\d+(?=")',
    rb'(?<=transpose_b=")\w+(?=")',
    rb'(?<=keep_dims=")\w+(?=")',
    rb"\s*<edge [^>]*/>",
    rb"\s*<data [^>]*/>",
    rb"\s*<layer .*?</layer>",
    rb"\s*<port .*?</port>",
)
_WORDS: Final = (
    b"", b"0", b"1", b"-1", b"2", b"3, 3", b"0, 0", b"?", b"f32", b"f16", b"u8", b"i8", b"i64",
    b"string", b"true", b"false", b"FP32", b"opset1", b"opset13", b"9" * 400, b"999999999999",
    *(name.encode() for name in OPERATIONS), b"Loop", b"Result", b"Parameter", b"Const",
)  # fmt: skip


def packed(text: bytes, weights: bytes) -> bytes:
    """One input of two files."""
    return struct.pack("<I", len(text)) + text + weights


def unpacked(data: bytes) -> tuple[bytes, bytes]:
    """The two files of an input, whatever its bytes are."""
    (length,) = struct.unpack("<I", data[:4].ljust(4, b"\0"))
    return data[4 : 4 + length], data[4 + length :]


def _text(draw: Any, text: bytes) -> bytes:
    found = list(re.finditer(draw(st.sampled_from(_PLACES)), text, re.DOTALL))
    if not found:
        return text
    match = found[draw(st.integers(0, len(found) - 1))]
    other = found[draw(st.integers(0, len(found) - 1))]
    old = match[0]
    new: bytes = draw(st.sampled_from((b"", old * 2, other[0], *_WORDS)))
    if old.lstrip(b"-").isdigit() and draw(st.booleans()):
        new = b"%d" % (int(old) + draw(st.sampled_from((-1, 1, 2, 64))))
    # The same change wherever the same stands, so that ports and values still agree.
    if draw(st.booleans()):
        return text.replace(b">" + old + b"<", b">" + new + b"<")
    return text[: match.start()] + new + text[match.end() :]


@st.composite
def damaged_ir(draw: Any, data: bytes) -> bytes:
    """Draw an IR with some places of its text changed, or integers of its weights."""
    text, weights = unpacked(data)
    for _ in range(draw(few)):
        kind = draw(st.integers(0, 9))
        if kind == 0:
            text = draw(damaged(text))
        elif kind < 4:
            places = re.findall(
                rb'element_type="i64" shape="\d+" offset="(\d+)" size="(\d+)"', text
            )
            if places:
                offset, size = map(int, draw(st.sampled_from(places)))
                at = offset + 8 * draw(st.integers(0, max(0, size // 8 - 1)))
                if at + 8 <= len(weights):
                    value = struct.pack("<q", draw(st.sampled_from(NUMBERS)))
                    weights = weights[:at] + value + weights[at + 8 :]
        else:
            text = _text(draw, text)
    return packed(text, weights)
