"""timm's preprocessing in Pillow and NumPy, as people write it beside an exported network.

Scripts of the fresh-process protocols begin with this file, so it imports nothing else.
"""

from __future__ import annotations

import math

import numpy as np
from PIL import Image


def preprocessed(
    image: Image.Image, size: int, crop_pct: float, mean: tuple[float, ...], std: tuple[float, ...]
) -> np.ndarray:
    """Resize, crop and standardize a picture as timm's eval transform: (1, 3, size, size)."""
    short = math.floor(size / crop_pct)
    width, height = image.size
    if width <= height:
        resized = (short, int(short * height / width))
    else:
        resized = (int(short * width / height), short)
    left, top = round((resized[0] - size) / 2), round((resized[1] - size) / 2)
    image = image.resize(resized, Image.Resampling.BICUBIC)
    image = image.crop((left, top, left + size, top + size))
    x: np.ndarray = np.asarray(image, np.float32) / np.float32(255)  # (size, size, 3)
    x = (x - np.array(mean, np.float32)) / np.array(std, np.float32)
    return np.ascontiguousarray(x.transpose(2, 0, 1)[None])
