"""Smooth random pictures: inputs that make a network answer differently to each."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from levit.models.ops import Array

__all__ = ["smooth_pictures", "standardized"]


def smooth_pictures(
    rng: np.random.Generator,
    count: int,
    size: tuple[int, int],
    channels: int = 3,
    white: int = 255,
) -> NDArray[Any]:
    """Colour gradients at several scales, every picture with its own tint and contrast.

    White noise averages to the same nothing under every filter; these do not.

    Args:
        size: (height, width).
        white: the largest value: 255, or 65535.

    Returns:
        (count, height, width, channels) uint8, or uint16 where `white` is more than 255.
    """
    pictures = np.empty((count, *size, channels))
    for picture in pictures:
        tint = rng.uniform(0.15, 0.85, channels)
        picture[:] = tint
        for cells in (2, 4, 9):
            contrast = rng.uniform(0.05, 0.3)
            coarse = rng.standard_normal((cells, cells, channels))
            picture += contrast * _stretched(coarse, size)
    return np.round(np.clip(pictures, 0, 1) * white).astype(np.min_scalar_type(white))


def standardized(pictures: NDArray[np.uint8]) -> NDArray[np.float32]:
    """(N, H, W, C) uint8 → (N, C, H, W) float32 of mean about 0 and deviation about 1."""
    tensors: NDArray[np.float32] = (pictures.astype(np.float32) - np.float32(127.5)) / np.float32(
        64
    )
    return np.ascontiguousarray(np.moveaxis(tensors, -1, 1))


def _stretched(coarse: Array, size: tuple[int, int]) -> Array:
    """Interpolate a (cells, cells, C) grid to `size` with smooth (cosine) steps."""
    for axis, length in enumerate(size):
        cells = coarse.shape[axis]
        position = np.linspace(0, cells - 1, length)
        left = np.minimum(position.astype(int), cells - 2)
        step = (1 - np.cos(np.pi * (position - left))) / 2
        shape = [1] * coarse.ndim
        shape[axis] = length
        step = step.reshape(shape)
        coarse = coarse.take(left, axis) * (1 - step) + coarse.take(left + 1, axis) * step
    return coarse
