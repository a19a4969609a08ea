"""One image → one row of what the network takes."""

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

from levit.artifact import TensorSpec
from levit.errors import InputError
from levit.pictures.preprocess import PreprocessSpec, normalize, resized_size, to_pixels
from levit.pictures.reading import ImageLike, file_contents, image_name, load_image

__all__ = ["Preparation"]

# How much larger than what it is resized to a draft is at least. Scaled decoding is a box filter:
# at 1.0 the resized pictures were 32 to 40 dB from those of whole ones, at 1.4 they are 41 to 47
# (means of 1.3 and 0.6 grey levels), and photos of 4000x3000 still come at 1/8 for 224 and 256.
DRAFT_MARGIN: Final = 1.4


@dataclass(frozen=True)
class _Loaded:
    """A frame of an animation that has been decoded already."""

    image: Image.Image
    name: str = "the image"


@dataclass(frozen=True, kw_only=True)
class Preparation:
    """What is done to every image; it may be called from many threads at once.

    Attributes:
        spec: the model's preprocessing.
        takes: the artifact's input.
        exif: turn pictures as their EXIF orientation says.
        draft: decode large JPEGs at a fraction of their size.
    """

    spec: PreprocessSpec
    takes: TensorSpec
    exif: bool = False
    draft: bool = False
    # Pillow's decoders are not safe to use from two threads: the same picture may be given twice.
    _locks: tuple[threading.Lock, ...] = field(
        default_factory=lambda: tuple(threading.Lock() for _ in range(31)), repr=False
    )

    def allocate(self, count: int) -> NDArray[Any]:
        """A batch to be filled: (count, 3, H, W) float32 or (count, H, W, 3) uint8."""
        height, width = self.spec.image_size
        if self.takes.dtype == "uint8":
            return np.empty((count, height, width, 3), np.uint8)
        return np.empty((count, 3, height, width), np.float32)

    def receive(self, image: ImageLike) -> Any:
        """What of an image cannot wait until a thread gets to it.

        A file may be closed, and an animation be at its next frame, when the next image is
        read from the iterable.

        Raises:
            InputError: the file or the frame cannot be read.
        """
        if isinstance(image, Image.Image):
            if getattr(image, "is_animated", False):
                return _Loaded(load_image(image, exif=self.exif))
            return image
        if isinstance(image, (str, bytes, os.PathLike, np.ndarray)) or not hasattr(image, "read"):
            return image
        return file_contents(image)

    def prepare(self, image: Any, row: NDArray[Any]) -> None:
        """Decode, resize, crop and normalise an image (as received) into a row of a batch.

        Raises:
            InputError: it cannot be read.
        """
        loaded = self._load(image)
        try:
            pixels = to_pixels(loaded, self.spec)
        except InputError as error:
            raise InputError(f"{image_name(image)}: {error}") from error
        row[...] = pixels if self.takes.dtype == "uint8" else normalize(pixels, self.spec)

    def _load(self, image: Any) -> Image.Image:
        if isinstance(image, _Loaded):
            return image.image
        if isinstance(image, Image.Image):
            with self._locks[id(image) // 16 % len(self._locks)]:
                return load_image(image, exif=self.exif)
        draft = partial(_draft_size, spec=self.spec) if self.draft else None
        return load_image(image, exif=self.exif, draft=draft)


def _draft_size(size: tuple[int, int], spec: PreprocessSpec) -> tuple[int, int]:
    width, height = resized_size(size, spec)
    return math.ceil(width * DRAFT_MARGIN), math.ceil(height * DRAFT_MARGIN)
