"""Work that an image's size does not show, found in its headers before anything is decoded.

A JPEG may send the same coefficients in any number of scans: in a progressive one a scan of a
hundred bytes passes over every block of the picture, so that a megabyte keeps a CPU busy for
minutes. A TIFF may be cut into tiles, each larger than the picture and decoded whole. And some
decoders of Pillow's are written in Python, 100 times as slow as others, while all threads wait.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator
from typing import BinaryIO, Final

from PIL import Image

from levit.errors import InputError
from levit.pictures.jpeg_markers import Outline, Spliced, read_outline, splice

__all__ = [
    "MAX_PIXELS",
    "MAX_SCANS",
    "check_jpeg",
    "check_python_decoder",
    "tile_sizes",
    "without_metadata",
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
_FEW_BYTES: Final = 2**16
_FEW_SEGMENTS: Final = 500

# Pixels of decoders in Python, of which a few thousand take a millisecond: icons, test cards.
MAX_PYTHON_PIXELS: Final = 2**18


def check_jpeg(file: BinaryIO, name: str) -> Outline:
    """Check the work of decoding a JPEG, from where the file stands.

    Raises:
        InputError: it is too much.
    """
    outline = read_outline(
        file, most_scans=MAX_SCANS, most_segments=MAX_SEGMENTS, most_odd=MAX_ODD_BYTES
    )
    head_bytes = (outline.scan_at or 0) - outline.other_bytes
    if head_bytes > MAX_HEAD_BYTES or outline.odd_bytes > MAX_ODD_BYTES:
        raise InputError(f"{name}: a JPEG of too many tables, Exif or fill bytes; save it anew")
    if outline.scans > MAX_SCANS:
        raise InputError(f"{name}: a JPEG of more than {MAX_SCANS} scans; save it anew")
    if outline.segments > MAX_SEGMENTS:
        raise InputError(f"{name}: a JPEG of more than {MAX_SEGMENTS:,} segments; save it anew")
    if outline.scans > 1 and outline.scans * outline.width * outline.height > MAX_SCANNED_PIXELS:
        raise InputError(
            f"{name}: a JPEG of {outline.width}x{outline.height} pixels in {outline.scans} scans; "
            f"save it anew"
        )
    return outline


def without_metadata(file: BinaryIO, outline: Outline) -> BinaryIO | Spliced:
    """Return the file of a JPEG as a decoder should see it, at its beginning."""
    much = outline.other_bytes > _FEW_BYTES or len(outline.others) > _FEW_SEGMENTS
    if much and outline.scan_at is not None:
        return splice(file, outline)
    file.seek(0)
    return file


def check_python_decoder(image: Image.Image, name: str) -> None:
    """Raise `InputError` where a picture of some size has a decoder of Pillow's in Python."""
    tiles = getattr(image, "tile", None) or ()
    slow = [tile[0] for tile in tiles if _in_python(tile[0])]
    if slow and math.prod(image.size) > MAX_PYTHON_PIXELS:
        raise InputError(
            f"{name}: {image.width}x{image.height} pixels in an encoding that is slow to decode "
            f"({slow[0]}); save it anew, uncompressed or as PNG"
        )


def _in_python(codec: str) -> bool:
    decoder = Image.DECODERS.get(codec)
    # An application answers for its own.
    return decoder is not None and decoder.__module__.partition(".")[0] == "PIL"


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
