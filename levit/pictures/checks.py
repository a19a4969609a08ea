"""Refusal of pictures that would take too much, before anything is decoded."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from typing import Any, BinaryIO

from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile

from levit.errors import ConfigError, InputError, brief
from levit.json_values import shown
from levit.pictures.decoder_errors import is_of_a_decoder
from levit.pictures.jpeg_markers import Outline, read_outline, splice
from levit.pictures.limits import (
    FEW_BYTES,
    FEW_SEGMENTS,
    MAX_HEAD_BYTES,
    MAX_ODD_BYTES,
    MAX_PIXELS,
    MAX_PYTHON_PIXELS,
    MAX_SCANNED_PIXELS,
    MAX_SCANS,
    MAX_SEGMENTS,
    tile_sizes,
)
from levit.pictures.netpbm import check_plain, is_plain

__all__ = [
    "check_hidden_work",
    "check_jpeg",
    "check_opened",
    "check_size",
    "over_limit",
    "reading_of",
    "without_metadata",
]


@contextlib.contextmanager
def reading_of(name: str) -> Iterator[None]:
    """Translate what the file of a caller raises while it is read."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        if not is_of_a_decoder(error):
            raise
        raise InputError(f"{name}: cannot be read ({brief(error)})") from error


def over_limit() -> str:
    """Say that a number of pixels is too large, behind their name."""
    return f"are over the limit of {_max_pixels() / 1e6:.3g} megapixels; scale the picture down"


def _max_pixels() -> int:
    # Pillow refuses twice its setting; an application that has lowered it means it.
    limit: object = Image.MAX_IMAGE_PIXELS
    if limit is None:
        return MAX_PIXELS
    if isinstance(limit, bool) or not isinstance(limit, (int, float)) or math.isnan(limit):
        raise ConfigError(
            f"PIL.Image.MAX_IMAGE_PIXELS is to be a number or None, not {shown(limit)}"
        )
    return int(min(MAX_PIXELS, 2 * limit))


def check_size(size: tuple[int, int], name: str) -> None:
    """Raise `InputError` unless a picture has pixels, and not too many."""
    width, height = size
    if width < 1 or height < 1:
        raise InputError(f"{name}: the image is empty ({width}x{height} pixels)")
    if width * height > _max_pixels():
        raise InputError(f"{name}: {width}x{height} pixels {over_limit()}")


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
    if outline.width and outline.height:
        check_size((outline.width, outline.height), name)
    return outline


def without_metadata(file: BinaryIO, outline: Outline) -> Any:
    """Return the file of a JPEG as a decoder should see it, at its beginning."""
    much = outline.other_bytes > FEW_BYTES or len(outline.others) > FEW_SEGMENTS
    if much and outline.scan_at is not None:
        return splice(file, outline)
    file.seek(0)
    return file


def check_opened(image: Image.Image, name: str) -> None:
    """Check a picture that the caller has opened, unless it is decoded already."""
    tiles, file = getattr(image, "tile", None), getattr(image, "fp", None)
    if tiles and file is not None:
        # Of a stereo picture it may be the second, behind the first.
        at = tiles[0][2] if isinstance(image, JpegImageFile) else None
        check_hidden_work(image, file, name, at)


def check_hidden_work(
    image: Image.Image, file: BinaryIO, name: str, jpeg_at: int | None = None
) -> None:
    """Raise where decoding takes far more than the size of the picture shows."""
    _check_python_decoder(image, name)
    with reading_of(name):
        position = file.tell()
        if jpeg_at is not None:
            file.seek(jpeg_at)
            check_jpeg(file, name)
        elif image.format == "TIFF":
            tile = math.prod(sorted(tile_sizes(file))[-2:])
            if tile > _max_pixels():
                raise InputError(f"{name}: a TIFF whose tiles {over_limit()}")
        elif is_plain(image):
            check_plain(image, file, name)
        file.seek(position)


def _check_python_decoder(image: Image.Image, name: str) -> None:
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
