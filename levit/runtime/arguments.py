"""Arguments that people get wrong in the same way everywhere."""

from __future__ import annotations

import os
from collections.abc import Iterable

import numpy as np

from levit.errors import InputError
from levit.images import ImageLike

__all__ = ["as_images", "is_count"]


def is_count(value: object, least: int) -> bool:
    """Whether `value` is a whole number (NumPy's count, booleans do not) of at least `least`."""
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        return False
    return int(value) >= least


def as_images(images: Iterable[ImageLike]) -> Iterable[ImageLike]:
    """Guard against one image where images are expected: a path would be read by letters.

    Raises:
        InputError: it is one image, or nothing that can be iterated over.
    """
    single = isinstance(images, (str, bytes, bytearray, memoryview, os.PathLike))
    single = single or hasattr(images, "read")
    single = single or (isinstance(images, np.ndarray) and images.ndim == 3)
    if single or not isinstance(images, Iterable):
        raise InputError(
            f"expected images (a list or another iterable), not one {type(images).__name__}: "
            f"pass [image], or call the predictor itself"
        )
    return images
