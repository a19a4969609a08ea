"""Arguments that people get wrong in the same way everywhere."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any, Final

import numpy as np

from levit.errors import ConfigError, InputError
from levit.pictures.reading import ImageLike

__all__ = [
    "MAX_THREADS",
    "as_images",
    "check_choice",
    "check_path",
    "check_threads",
    "is_count",
]

MAX_THREADS: Final = 1024


def is_count(value: object, least: int) -> bool:
    """Whether `value` is a whole number (NumPy's count, booleans do not) of at least `least`."""
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        return False
    return int(value) >= least


def check_choice(name: str, value: object, choices: tuple[str, str]) -> None:
    """Raise `ConfigError` unless `value` is one of two words."""
    if value not in choices:
        one, other = choices
        raise ConfigError(f"{name} must be {one!r} or {other!r}, not {value!r}")


def check_threads(name: str, value: Any, least: int, default: str) -> None:
    """Raise `ConfigError` unless `value` is a number of threads, or None, which means `default`."""
    if value is not None and not (is_count(value, least) and int(value) <= MAX_THREADS):
        raise ConfigError(
            f"{name} must be a whole number from {least} to {MAX_THREADS}, or None for {default}, "
            f"not {value!r}"
        )


def check_path(value: object, what: str) -> None:
    """Raise `ConfigError`, which begins with `what`, unless `value` is a path."""
    if not isinstance(value, (str, os.PathLike)) or not os.fspath(value):
        raise ConfigError(f"{what} {value!r}")


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
