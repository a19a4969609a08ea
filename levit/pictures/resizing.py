"""Decoded picture → pixels of the crop, or the network's numbers.

The compiled library does it where its resizing is that of the Pillow that is installed, bit for
bit: Pillow's releases differ in the order of both axes, and the next one may differ in anything, so
that the library is tried on a few small pictures first. Elsewhere, and for the modes ``I;16`` and
``RGBA``, Pillow does it.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import cache
from typing import Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image, __version__

from levit.errors import LevitError
from levit.native.pixels import Crop, Pixels, Resizer, pixels_of_array
from levit.pictures.blocks import copied_to_one_block
from levit.pictures.modes import image_from_array
from levit.pictures.preprocess import (
    INTERPOLATIONS,
    PreprocessSpec,
    normalize,
    placement,
    to_pixels,
    value_tables,
)

__all__ = [
    "Frame",
    "Picture",
    "fill_row",
    "resizer_in_words",
]


class Frame:
    """A picture in an array that has been checked, taken as it lies.

    Attributes:
        array: as the mode in :data:`~levit.pictures.modes.MODES` has it.
        mode: the image mode.
        channels: the order of its colours, ``rgb`` or ``bgr``.
    """

    def __init__(self, array: NDArray[Any], mode: str, channels: str) -> None:
        self.array = array
        self.mode = mode
        self.channels = channels

    @property
    def size(self) -> tuple[int, int]:
        """(width, height)."""
        return self.array.shape[1], self.array.shape[0]

    def as_image(self) -> Image.Image:
        """Copy it into a Pillow image."""
        return image_from_array(self.array, self.mode, self.channels)


Picture: TypeAlias = "Image.Image | Frame"
Size: TypeAlias = tuple[int, int]
# (size of a picture, size that it is resized to) → whether its rows are resized before its columns.
Order: TypeAlias = Callable[[Size, Size], bool]

_NATIVE_MODES: Final = ("RGB", "L")


def fill_row(picture: Picture, spec: PreprocessSpec, row: NDArray[Any]) -> None:
    """Fill a row of a batch, (H, W, C) uint8 or (C, H, W) float32, from a decoded picture.

    Raises:
        InputError: the picture cannot be resized so, as `levit.pictures.preprocess.placement` says.
    """
    own = _own() if spec.image_mode in _NATIVE_MODES else None
    if own is None:
        image = picture.as_image() if isinstance(picture, Frame) else picture
        pixels = to_pixels(image, spec)
        row[...] = pixels if row.dtype == np.uint8 else normalize(pixels, spec)
        return
    resizer, order = own
    if row.dtype == np.uint8:
        _resize(resizer, order, picture, spec, row)
        return
    pixels = np.empty((*spec.image_size, spec.channels), np.uint8)
    _resize(resizer, order, picture, spec, pixels)
    resizer.normalize(pixels, value_tables(spec), row)


def _resize(
    resizer: Resizer,
    order: Order,
    picture: Picture,
    spec: PreprocessSpec,
    out: NDArray[np.uint8],
) -> None:
    """Resize and crop a picture into (H, W, C), contiguous."""
    place = placement(picture.size, spec)
    resized = (place.width, place.height)
    height, width = spec.image_size
    crop = Crop(
        interpolation=spec.interpolation,
        resized=resized,
        left=place.left,
        top=place.top,
        size=(width, height),
        rows_first=order(picture.size, resized),
    )
    resizer.resize(_pixels(picture), crop, out)


def resizer_in_words() -> str:
    """Say who resizes pictures of 8 bits here, and why, for people.

    ::

        resizer_in_words()    # "levit, as Pillow 13.0.0 does"
    """
    version = __version__
    if _own() is not None:
        return f"levit, as Pillow {version} does"
    if _resizer() is None:
        return f"Pillow {version}, without levit's native library"
    return f"Pillow {version}, which resizes otherwise than levit's native library"


# ------------------------------------------------------------------ pixels where they lie


def _pixels(picture: Picture) -> Pixels:
    if isinstance(picture, Frame):
        return pixels_of_array(picture.array, reversed=picture.channels == "bgr")
    if picture.mode == "RGB" and (found := _lent(picture) or _lent(copied_to_one_block(picture))):
        return found
    return pixels_of_array(np.asarray(picture))


class _ArrowArray(ctypes.Structure):
    """``struct ArrowArray``; see https://arrow.apache.org/docs/format/CDataInterface.html."""


_ArrowArray._fields_ = [
    *[(name, ctypes.c_int64) for name in ("length", "null_count", "offset")],
    *[(name, ctypes.c_int64) for name in ("n_buffers", "n_children")],
    ("buffers", ctypes.POINTER(ctypes.c_void_p)),
    ("children", ctypes.POINTER(ctypes.POINTER(_ArrowArray))),
]

_capsule_pointer: Final = ctypes.pythonapi.PyCapsule_GetPointer
_capsule_pointer.restype = ctypes.c_void_p
_capsule_pointer.argtypes = [ctypes.py_object, ctypes.c_char_p]


def _lent(image: Image.Image | None) -> Pixels | None:
    """Borrow a Pillow image's memory, four bytes a pixel, if it lies in one piece.

    Pillow lends it since 11.2, in Arrow's format: a list of four bytes for each pixel.
    """
    lend = getattr(image, "__arrow_c_array__", None)
    if image is None or lend is None:
        return None
    try:
        _, capsule = lend()
    except ValueError:  # in several blocks, as large ones are
        return None
    pointer = _capsule_pointer(capsule, b"arrow_array")
    found = ctypes.cast(pointer, ctypes.POINTER(_ArrowArray)).contents
    width, height = image.size
    values = found.children[0].contents
    if found.length != width * height or values.length != 4 * width * height:
        return None
    return Pixels(
        address=values.buffers[1],
        width=width,
        height=height,
        pitch=4 * width,
        pixel=4,
        owner=capsule,
    )


# ------------------------------------------------------------------ this Pillow's arithmetic


def _columns_first(source: Size, resized: Size) -> bool:
    """Pillow up to 12."""
    return False


def _rows_first_of_tall_ones(source: Size, resized: Size) -> bool:
    """Pillow 13: rows first where more than twice as many of them go as columns."""
    rows = source[1] - resized[1]
    return rows > 0 and rows > 2 * (source[0] - resized[0])


# (width, height) before and after: larger, smaller, wide, tall, an axis kept.
_TRIALS: Final = (
    ((9, 7), (14, 11)),
    ((23, 16), (11, 9)),
    ((31, 8), (5, 8)),
    ((9, 90), (7, 12)),
    ((12, 41), (15, 13)),
)


@cache
def _own() -> tuple[Resizer, Order] | None:
    """Give the library's resizer with the order of axes in which it does what this Pillow does."""
    resizer = _resizer()
    if resizer is None:
        return None
    for order in (_rows_first_of_tall_ones, _columns_first):
        if all(
            _is_equal(resizer, order, *sizes, name) for sizes in _TRIALS for name in INTERPOLATIONS
        ):
            return resizer, order
    return None


@cache
def _resizer() -> Resizer | None:
    try:
        return Resizer()
    except LevitError:
        return None


def _is_equal(
    resizer: Resizer, order: Order, source: Size, resized: Size, interpolation: str
) -> bool:
    count = source[0] * source[1] * 3
    noise = (np.arange(count, dtype=np.uint32) * np.uint32(2_654_435_761)) >> np.uint32(24)
    image = Image.fromarray(noise.astype(np.uint8).reshape(source[1], source[0], 3))
    size = resized[::-1]
    spec = PreprocessSpec(
        image_size=size,
        crop_pct=None,
        resize_size=size,
        crop_mode="squash",
        interpolation=interpolation,
    )
    found = np.empty((*size, 3), np.uint8)
    _resize(resizer, order, image, spec, found)
    return np.array_equal(found, to_pixels(image, spec))
