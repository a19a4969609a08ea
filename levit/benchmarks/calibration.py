"""The pictures that every quantizer of a run is calibrated with."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from levit.models.pictures import smooth_pictures, standardized

__all__ = ["BATCH", "BATCHES", "calibration_batches"]

# NNCF's default is 300 items: speed does not depend on them. By default it takes the mean of the
# largest value of each item, which cuts off the stronger half of single smooth pictures: levit_128s
# was up to 0.65 of its largest logit off, with four in a batch 0.36. With more, EfficientNet loses
# while LeViT still gains.
BATCHES: Final = 16
BATCH: Final = 4


def calibration_batches(seed: int, image_size: tuple[int, int]) -> list[NDArray[np.float32]]:
    """`BATCHES` batches of `BATCH` smooth pictures, (4, 3, H, W) each; the same for one seed."""
    rng = np.random.default_rng([seed, 1])
    return [standardized(smooth_pictures(rng, BATCH, image_size)) for _ in range(BATCHES)]
