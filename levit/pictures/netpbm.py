"""PPM and PGM that Pillow decodes pixel by pixel: of odd depths, and written as text."""

from __future__ import annotations

from typing import Any, BinaryIO

import numpy as np
from PIL import Image

from levit.errors import InputError

__all__ = ["check_plain", "decode_netpbm", "is_plain"]

# Bytes of a number with the space around it, of five digits; people write tables.
_MOST_A_SAMPLE = 16
_MORE = 2**16


def is_plain(image: Image.Image) -> bool:
    """Tell if a picture that is not decoded yet is a PPM, PGM or PBM of text."""
    tiles: Any = getattr(image, "tile", None)
    return bool(tiles) and tiles[0][0] == "ppm_plain"


def check_plain(image: Image.Image, file: BinaryIO, name: str) -> None:
    """Check the pixels of a PPM, PGM or PBM that is text, of a checked size.

    Raises:
        InputError: it has comments among them, of which each takes Pillow as long as the file is
            large; or much that is no pixel.
    """
    tiles: Any = getattr(image, "tile", None)
    _, _, offset, _ = tiles[0]
    most = image.width * image.height * len(image.getbands()) * _MOST_A_SAMPLE + _MORE
    file.seek(offset)
    data = file.read(most + 1)
    if len(data) > most or b"#" in data:
        raise InputError(
            f"{name}: a PPM of text with comments or more than its pixels; save it as PNG"
        )


def decode_netpbm(image: Image.Image, file: Any, name: str) -> Image.Image | None:
    """Decode the pixels of a PPM or PGM whose white is no power of two, as Pillow's ``ppm`` does.

    Args:
        image: the picture as it was opened, of a checked size.

    Returns:
        A Pillow image of mode L, RGB or I (on 0..65535); None for pictures that are none of these.

    Raises:
        InputError: the file ends early.
    """
    tiles: Any = getattr(image, "tile", None) or ()
    if len(tiles) != 1 or tiles[0][0] != "ppm":
        return None
    _, _, offset, (_, white) = tiles[0]
    depth = np.dtype("u1" if white < 256 else ">u2")
    shape = (image.height, image.width, len(image.getbands()))
    count = int(np.prod(shape)) * depth.itemsize
    file.seek(offset)
    data = file.read(count)
    if len(data) < count:
        raise InputError(f"{name}: damaged or truncated image (its pixels end early)")
    full, target = (65535, np.int32) if image.mode == "I" else (255, np.uint8)
    levels = np.arange(256**depth.itemsize)
    table = np.minimum(full, np.rint(levels / white * full)).astype(target)
    pixels = table[np.frombuffer(data, depth)].reshape(shape)
    return Image.fromarray(pixels[..., 0] if shape[2] == 1 else pixels)
