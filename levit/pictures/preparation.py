"""Picture → tensor: decode, resize, crop and normalise, for one picture or for many threads.

::

    row = to_tensor("cat.jpg", spec, "float32")                    # (3, H, W)

    preparation = Preparation(spec=spec, dtype="float32")
    pipeline = Pipeline(preparation, batch=8, workers=2)           # levit.pictures.pipeline
"""

from __future__ import annotations

import math
import os
import threading
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from levit.errors import InputError
from levit.pictures.limits import MAX_PIXELS
from levit.pictures.preprocess import PreprocessSpec, check_resize, resized_size
from levit.pictures.reading import (
    ImageLike,
    checked_array,
    file_contents,
    image_name,
    load_image,
)
from levit.pictures.resizing import Frame, Picture, fill_row

__all__ = ["Preparation", "to_tensor"]

# Least ratio of a draft to the size that it is resized to. Scaled decoding is a box filter: at 1.0
# the resized pictures were 32 to 40 dB from those of whole ones, at 1.4 they are 41 to 47 (means
# of 1.3 and 0.6 grey levels), and photos of 4000x3000 still come at 1/8 for 224 and 256.
DRAFT_MARGIN: Final = 1.4

# Of an array of as many pixels as there may be, with four channels.
_MOST_NUMBERS: Final = 4 * MAX_PIXELS


def to_tensor(
    image: ImageLike,
    spec: PreprocessSpec,
    dtype: str,
    *,
    channels: str = "rgb",
    exif: bool = False,
    draft: bool = False,
) -> NDArray[Any]:
    """Turn a picture into one row of a batch.

    ::

        batch = np.stack([to_tensor(path, spec, "float32") for path in paths])

    Args:
        image: a path, encoded bytes, a binary file, a Pillow image or an array, such as
            (H, W, 3) uint8.
        spec: the model's preprocessing.
        dtype: ``float32`` for normalised numbers, ``uint8`` for pixels, which ``I;16`` has none of.
        channels: order of an array's colours, ``rgb`` or ``bgr``.
        exif: turn the picture as its EXIF orientation says.
        draft: decode a large JPEG at a fraction of its size.

    Returns:
        (C, H, W) float32 or (H, W, C) uint8, C by the spec's image mode.

    Raises:
        InputError: the picture cannot be read or resized; the message names it.
    """
    preparation = Preparation(spec=spec, dtype=dtype, channels=channels, exif=exif, draft=draft)
    batch = preparation.allocate(1)
    preparation.prepare(image, batch[0])
    row: NDArray[Any] = batch[0]
    return row


@dataclass(frozen=True)
class _Loaded:
    """A frame of an animation that has been decoded already."""

    image: Image.Image


@dataclass(frozen=True, kw_only=True)
class Preparation:
    """The preparation of every image of a model; it may be called from many threads at once.

    Attributes:
        spec: the model's preprocessing.
        dtype: ``float32`` or ``uint8``, the type of the network's input.
        channels: order of an array's colours, ``rgb`` or ``bgr``.
        exif: turn pictures as their EXIF orientation says.
        draft: decode large JPEGs at a fraction of their size.
    """

    spec: PreprocessSpec
    dtype: str
    channels: str = "rgb"
    exif: bool = False
    draft: bool = False
    # Pillow's decoders are not safe to use from two threads: the same picture may be given twice.
    _locks: tuple[threading.Lock, ...] = field(
        default_factory=lambda: tuple(threading.Lock() for _ in range(31)), repr=False
    )

    def allocate(self, count: int) -> NDArray[Any]:
        """Make an empty batch: (count, C, H, W) float32 or (count, H, W, C) uint8."""
        channels, size = self.spec.channels, self.spec.image_size
        shape = (*size, channels) if self.dtype == "uint8" else (channels, *size)
        return np.empty((count, *shape), self.dtype)

    def receive(self, image: ImageLike, *, lent: bool = True) -> Any:
        """Read the part of an image that cannot wait until a thread gets to it.

        A file may be closed, and an animation be at its next frame, when the next image is
        read from the iterable; and an array or a picture be filled with the next one.

        Args:
            lent: code of the caller runs before the next image comes, and may change this one.

        Raises:
            InputError: the file or the frame cannot be read.
        """
        if isinstance(image, Image.Image):
            if lent or getattr(image, "is_animated", False):
                return _Loaded(self._loaded(image))
            return image
        if isinstance(image, np.ndarray):
            # One that is too large, and perhaps a view of few bytes, is refused where it is read.
            return np.array(image) if lent and image.size <= _MOST_NUMBERS else image
        if isinstance(image, (bytearray, memoryview)):
            return bytes(image) if lent and _is_there(image) else image
        if isinstance(image, (str, bytes, os.PathLike)) or not hasattr(image, "read"):
            return image
        return file_contents(image)

    def prepare(self, image: Any, row: NDArray[Any]) -> None:
        """Fill a row of a batch from an image as `receive` has returned it.

        Raises:
            InputError: it cannot be read.
        """
        self.fill(self.load(image), image_name(image), row)

    def load(self, image: Any) -> Picture:
        """Decode an image as `receive` has returned it, and convert it to the spec's mode.

        Raises:
            InputError: it cannot be read.
        """
        if isinstance(image, _Loaded):
            return image.image
        if isinstance(image, np.ndarray):
            mode = self.spec.image_mode
            return Frame(checked_array(image, mode, self.channels), mode, self.channels)
        if isinstance(image, Image.Image):
            with self._locks[id(image) // 16 % len(self._locks)]:
                return self._loaded(image, borrow=True)
        return self._loaded(image)

    def fill(self, picture: Picture, name: str, row: NDArray[Any]) -> None:
        """Fill a row of a batch from a decoded picture.

        Args:
            name: the picture's, for errors.

        Raises:
            InputError: it cannot be resized so.
        """
        try:
            fill_row(picture, self.spec, row)
        except InputError as error:
            raise InputError(f"{name}: {error}") from error

    def _loaded(self, image: ImageLike, *, borrow: bool = False) -> Image.Image:
        spec = self.spec
        return load_image(
            image,
            mode=spec.image_mode,
            grey16=spec.grey16,
            background=spec.background,
            exif=self.exif,
            draft=partial(_draft_size, spec=spec) if self.draft else None,
            check=partial(check_resize, spec=spec),
            borrow=borrow,
        )


def _is_there(image: bytearray | memoryview) -> bool:
    """Tell whether bytes can be copied; of a view that was released, its reader says so."""
    try:
        len(image)
    except ValueError:
        return False
    return True


def _draft_size(size: tuple[int, int], spec: PreprocessSpec) -> tuple[int, int]:
    width, height = resized_size(size, spec)
    return math.ceil(width * DRAFT_MARGIN), math.ceil(height * DRAFT_MARGIN)
