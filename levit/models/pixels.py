"""Normalisation inside the network, for artifacts that take uint8 pixels."""

from __future__ import annotations

from typing import Any

import numpy as np

from levit.models.ops import Ops

__all__ = ["normalize_pixels"]


def normalize_pixels(
    ops: Ops, x: Any, statistics: tuple[tuple[float, ...], tuple[float, ...]], *, folded: bool
) -> Any:
    """(B, H, W, C) uint8 → (B, C, H, W) float, ``(x/255 - mean) / std``.

    Args:
        statistics: (mean, std) per channel, on 0..1.
        folded: the first convolution holds ``1 / (255·std)``, so that only ``x - 255·mean``
            is left. The subtraction stays in front of the convolution, whose zero padding
            stands for the mean: its border is exact as it is. A mean of zero says that a
            convolution without padding holds that too.
    """
    mean, std = (np.asarray(values, np.float64).reshape(-1, 1, 1) for values in statistics)
    x = ops.transpose(x, (0, 3, 1, 2))  # while it is uint8: a quarter of the bytes
    # In float16, 1/(255·std) and what it folds into have too few digits left.
    with ops.full_precision():
        x = ops.cast(x)
        if folded and not mean.any():
            return x
        x = ops.add(x, ops.constant(-255 * mean, "negative_mean"))
        if folded:
            return x
        return ops.multiply(x, ops.constant(1 / (255 * std), "reciprocal_std"))
