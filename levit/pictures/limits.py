"""Work that an image's size does not show, found in its headers before anything is decoded.

A JPEG may send the same coefficients in any number of scans: in a progressive one a scan of a
hundred bytes passes over every block of the picture, so that a megabyte keeps a CPU busy for
minutes. A TIFF may be cut into tiles, each larger than the picture and decoded whole.
"""

from __future__ import annotations

import os
import re
import struct
from collections.abc import Iterator
from typing import BinaryIO, Final

__all__ = ["MAX_PIXELS", "MAX_SCANS", "count_scans", "tile_sizes"]

# A decompression bomb is refused from its header, before a pixel is decoded. Pillow's own
# limit is a process-wide setting that belongs to the application, so it is left alone.
MAX_PIXELS: Final = 89_478_485

# Encoders write ten or so; those who fuzz libjpeg have its tools stop at 500.
MAX_SCANS: Final = 100

_CHUNK: Final = 2**20
_SCAN: Final = 0xDA
_BASELINE: Final = 0xC0
# Frames of other kinds: progressive, lossless, arithmetic. Between them DHT, JPG and DAC.
_FRAMES: Final = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}


def count_scans(file: BinaryIO) -> int:
    """Count the scans of a JPEG that are decoded; those of its thumbnails may count among them.

    Where the first one has all components of a baseline picture, as in most photos, it is the
    only one, and nothing behind it is looked at.
    """
    if _in_one_scan(file):
        return 1
    file.seek(0)
    count, last = 0, b""
    while count <= MAX_SCANS and (chunk := file.read(_CHUNK)):
        # In coded data no such two bytes stand, so there is nothing to be parsed.
        count += len(re.findall(b"\xff\xda", last + chunk))
        last = b"\xff" if chunk.endswith(b"\xff") else b""
    return count


def _in_one_scan(file: BinaryIO) -> bool:
    """Tell whether the first scan is surely the only one; no where a segment is damaged."""
    file.seek(2)
    components = 0
    while len(head := file.read(4)) == 4 and head[0] == 0xFF:
        marker, length = head[1], int.from_bytes(head[2:], "big")
        if marker == _SCAN:
            return components > 0 and file.read(1) == bytes([components])
        if marker in _FRAMES:
            frame = file.read(6)
            if components or marker > _BASELINE + 1 or len(frame) < 6:
                return False
            components, length = frame[5], length - 6
        file.seek(length - 2, os.SEEK_CUR)
    return False


_TILE_WIDTH, _TILE_LENGTH = 322, 323
# Formats of an entry's number by its type: BYTE, SHORT, LONG, LONG8, and the signed ones.
_NUMBERS: Final = {1: "B", 3: "H", 4: "I", 16: "Q", 6: "b", 8: "h", 9: "i", 17: "q"}


def tile_sizes(file: BinaryIO) -> Iterator[int]:
    """Read the widths and heights of tiles in the first directory of a TIFF, one after the other.

    Pillow's own reading is not asked: where an entry stands twice, it takes the last and libtiff
    the first.

    Source: TIFF 6.0, section 2; BigTIFF has other widths and nothing else.
    """
    file.seek(0)
    head = file.read(16)
    order = "<" if head[:2] == b"II" else ">"
    big = head[2:4] in (b"\x2b\0", b"\0\x2b")
    try:
        (offset,) = struct.unpack_from(order + "Q" if big else order + "I", head, 8 if big else 4)
        file.seek(offset)
        form = struct.Struct(order + ("Q" if big else "H"))
        (count,) = form.unpack(file.read(form.size))
        entry = struct.Struct(order + ("HHQ8s" if big else "HHI4s"))
        for _ in range(count):
            tag, kind, _, value = entry.unpack(file.read(entry.size))
            if tag in (_TILE_WIDTH, _TILE_LENGTH) and kind in _NUMBERS:
                number = struct.Struct(order + _NUMBERS[kind])
                if number.size <= len(value):
                    yield int(number.unpack_from(value)[0])
    except (struct.error, OverflowError, ValueError):
        return  # ends early: the decoder will find so too
