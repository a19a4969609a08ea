"""Work that an image's size does not show, found in its headers before anything is decoded.

A JPEG may send the same coefficients in any number of scans: in a progressive one a scan of a
hundred bytes passes over every block of the picture, so that a megabyte keeps a CPU busy for
minutes. A TIFF may be cut into tiles, each larger than the picture and decoded whole. And some
decoders of Pillow's are written in Python, 100 times as slow as others, while all threads wait.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import BinaryIO, Final

__all__ = [
    "FEW_BYTES",
    "FEW_SEGMENTS",
    "MAX_HEAD_BYTES",
    "MAX_ODD_BYTES",
    "MAX_PIXELS",
    "MAX_PYTHON_PIXELS",
    "MAX_SCANNED_PIXELS",
    "MAX_SCANS",
    "MAX_SEGMENTS",
    "tile_sizes",
]

# A decompression bomb is refused from its header, before a pixel is decoded. Pillow's own
# limit is a process-wide setting that belongs to the application, so it is left alone.
MAX_PIXELS: Final = 89_478_485

# Encoders write ten or so; those who fuzz libjpeg have its tools stop at 500.
MAX_SCANS: Final = 100
# Scans times pixels: 16 scans of the largest picture, 100 of one of 14 megapixels. They take as
# long as decoding six of the largest in one scan.
MAX_SCANNED_PIXELS: Final = 16 * MAX_PIXELS
# Segments of photos: up to 100 or so; 160 for each 10 MiB of a depth map.
MAX_SEGMENTS: Final = 5_000
# Tables, Exif and XMP, of which a photo has one segment of up to 64 KiB each. What else is in its
# metadata is stepped over, however much it is.
MAX_HEAD_BYTES: Final = 2**22
# Bytes between segments, and fill bytes in scans: none, but in files that were mended.
MAX_ODD_BYTES: Final = 2**16

# Metadata that is not worth a detour.
FEW_BYTES: Final = 2**16
FEW_SEGMENTS: Final = 500

# Pixels of decoders in Python, of which a few thousand take a millisecond: icons, test cards.
MAX_PYTHON_PIXELS: Final = 2**18


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
