"""Whatever names an image → a Pillow image in RGB, or one line that says why not."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import Any, BinaryIO, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from levit.errors import InputError, brief

__all__ = ["MAX_PIXELS", "ImageLike", "load_image"]

ImageLike: TypeAlias = "str | os.PathLike[str] | bytes | BinaryIO | Image.Image | NDArray[np.uint8]"

# A decompression bomb is refused from its header, before a pixel is decoded. Pillow's own
# limit is a process-wide setting that belongs to the application, so it is left alone.
MAX_PIXELS: Final = 89_478_485


def load_image(image: ImageLike, *, exif: bool = False) -> Image.Image:
    """Open whatever names an image.

    Args:
        image: a path, encoded bytes, a binary file object, a Pillow image, or an
            (H, W, 3) uint8 array in RGB order.
        exif: turn the picture as its EXIF orientation says. timm does not, and so
            neither is it the default here.

    Returns:
        A Pillow image in mode RGB.

    Raises:
        InputError: the file is missing, is no image, or is truncated; the array has
            another rank, type or layout; the picture exceeds 89 megapixels.
    """
    if isinstance(image, np.ndarray):
        return _from_array(image)
    if isinstance(image, Image.Image):
        return _decode(image, "the image", exif)
    source: Any
    if isinstance(image, (bytes, bytearray, memoryview)):
        name, source = "the image bytes", io.BytesIO(image)
    elif isinstance(image, (str, os.PathLike)):
        name, source = str(image), Path(image)
    elif hasattr(image, "read"):
        name, source = str(getattr(image, "name", "the image file")), image
    else:
        raise InputError(
            f"an image is a path, bytes, a binary file, a PIL image or an (H, W, 3) uint8 "
            f"array, not {type(image).__name__}"
        )
    try:
        opened = Image.open(source)
    except FileNotFoundError as error:
        raise InputError(f"{name}: no such file") from error
    except IsADirectoryError as error:
        raise InputError(f"{name}: is a folder, not an image") from error
    except UnidentifiedImageError as error:
        raise InputError(f"{name}: not an image in a format that Pillow reads") from error
    except Exception as error:  # plug-ins of Pillow and files of callers raise what they like
        raise InputError(f"{name}: cannot be opened as an image ({brief(error)})") from error
    with opened:
        return _decode(opened, name, exif)


def _decode(image: Image.Image, name: str, exif: bool) -> Image.Image:
    width, height = image.size
    if width < 1 or height < 1:
        raise InputError(f"{name}: the image is empty ({width}x{height} pixels)")
    if width * height > MAX_PIXELS:
        raise InputError(
            f"{name}: {width}x{height} pixels are over the limit of {MAX_PIXELS // 10**6} "
            f"megapixels; scale the picture down first"
        )
    try:
        if exif:
            from PIL import ImageOps  # a tenth of the cold start, for the few who ask

            image = ImageOps.exif_transpose(image)
        # A copy even when the mode is right: the caller's image and file stay the caller's.
        return image.convert("RGB")
    except Exception as error:
        raise InputError(f"{name}: damaged or truncated image ({brief(error)})") from error


def _from_array(array: NDArray[Any]) -> Image.Image:
    if array.ndim != 3 or array.shape[2] != 3 or array.dtype != np.uint8:
        hint = ""
        if array.ndim == 3 and array.shape[0] == 3 and array.shape[2] != 3:
            hint = "; this one looks channels-first: transpose(1, 2, 0)"
        elif array.ndim == 3 and array.shape[2] == 3:
            hint = "; scale it to 0..255 and round"
        elif array.ndim == 4:
            hint = "; pass a batch as a list of images, or its tensor to forward()"
        raise InputError(
            f"an image array must be (H, W, 3) uint8 in RGB order, "
            f"not {array.shape} {array.dtype}{hint}"
        )
    if 0 in array.shape:
        raise InputError(f"the image array is empty: {array.shape}")
    if array.shape[0] * array.shape[1] > MAX_PIXELS:
        raise InputError(f"the image array is over the limit of {MAX_PIXELS // 10**6} megapixels")
    return Image.fromarray(np.ascontiguousarray(array))
