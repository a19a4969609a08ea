"""Pictures in the compiled library: resized and cropped as Pillow does it, and normalised."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from levit.errors import ResourceError
from levit.native.abi import FILTERS, CCrop, CPicture
from levit.native.library import load_library

__all__ = ["Crop", "Pixels", "Resizer", "pixels_of_array"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Pixels:
    """Rows of pixels in memory.

    Attributes:
        address: of the first pixel.
        width, height: in pixels.
        pitch: bytes from row to row.
        pixel: bytes of a pixel: 4 of RGB with one that is not read, 3 of RGB, 1 of grey.
        reversed: True where blue comes first, of three bytes.
        owner: keeps the memory.
    """

    address: int
    width: int
    height: int
    pitch: int
    pixel: int
    reversed: bool = False
    owner: Any = None


@dataclass(frozen=True, kw_only=True)
class Crop:
    """A resized picture's crop, in pixels; where it reaches beyond the picture it is black.

    Attributes:
        interpolation: one of :data:`~levit.native.abi.FILTERS`.
        resized: (width, height) of the whole picture.
        left, top: of the crop.
        size: (width, height) of the crop.
        rows_first: the order in which the axes are resized; they are rounded in between.
    """

    interpolation: str
    resized: tuple[int, int]
    left: int
    top: int
    size: tuple[int, int]
    rows_first: bool


def pixels_of_array(array: NDArray[np.uint8], *, reversed: bool = False) -> Pixels:
    """View an (H, W, 3), (H, W, 1) or (H, W) array, whose pixels follow each other in a row.

    An array whose pixels do not is copied first.
    """
    if array.ndim == 2:
        array = array[:, :, None]
    height, width, channels = array.shape
    row, column, channel = array.strides
    if (column, channel) != (channels, 1) or row < width * channels:
        array = np.ascontiguousarray(array)
        row = array.strides[0]
    return Pixels(
        address=array.ctypes.data,
        width=width,
        height=height,
        pitch=row,
        pixel=channels,
        reversed=reversed,
        owner=array,
    )


class Resizer:
    """Resizing and normalising by the compiled library, for any number of threads.

    ::

        resizer = Resizer()
        resizer.resize(pixels_of_array(array), crop, out)

    Args:
        isa: an instruction set of the library; None for `Library.chosen_isa`.

    Raises:
        BackendUnavailableError: there is no library, or it does not load.
        ConfigError: the environment names an instruction set that is not here.
    """

    def __init__(self, isa: str | None = None) -> None:
        library = load_library()
        self._functions = library.functions
        self._isa = library.number(isa or library.chosen_isa())

    def resize(self, pixels: Pixels, crop: Crop, out: NDArray[np.uint8]) -> None:
        """Resize and crop a picture, bit for bit as Pillow does.

        Args:
            pixels: of a size that has been checked: both are at least 1.
            out: (H, W, C) uint8 of the crop's size, contiguous.

        Raises:
            ResourceError: there is no memory for it.
        """
        picture = CPicture(
            pixels.address,
            *(pixels.width, pixels.height, pixels.pitch, pixels.pixel, pixels.reversed),
        )
        kept = CCrop(
            FILTERS.index(crop.interpolation),
            *crop.resized,
            *(crop.left, crop.top, *crop.size, crop.rows_first),
        )
        status = self._functions.levit_resize(
            self._isa, ctypes.byref(picture), ctypes.byref(kept), out.ctypes.data
        )
        if status:
            raise ResourceError("there is not enough memory to resize a picture: free some")

    def normalize(
        self, pixels: NDArray[np.uint8], tables: NDArray[np.float32], out: NDArray[np.float32]
    ) -> None:
        """Turn (H, W, C) pixels into (C, H, W) numbers, by a table of 256 for each channel.

        All three arrays are contiguous; `tables` is (C, 256), and C is 1, 3 or 4.
        """
        height, width, channels = pixels.shape
        self._functions.levit_planes(
            self._isa,
            pixels.ctypes.data,
            height * width,
            channels,
            tables.ctypes.data,
            out.ctypes.data,
        )
