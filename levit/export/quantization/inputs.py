"""The grid of what layers read: of the range that costs their results least."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np

from levit.export.quantization.grid import Grid, Scheme, fit_grid
from levit.models.ops import Array

__all__ = ["HEADROOM", "choose_input_grid"]

_ROWS: Final = 1024
_SHARES: Final = (0.7, 0.5, 0.35, 0.25, 0.175, 0.125)
# Beyond the extremes of the calibration.
HEADROOM: Final = 1.15
# Of the cost, that a smaller range may have at most to be taken.
_WORTH: Final = 0.5


def choose_input_grid(
    low: float, high: float, rows: Array, weights: Sequence[Array], scheme: Scheme
) -> Grid:
    """From `low` to `high` and some more, or much less where that is much better.

    Other pictures reach further than those of the calibration, and what is cut off of them costs
    more than a coarser grid (docs/quantization.md). Only where a range is that of a few outliers,
    less of it is taken: where it halves the cost, ``Σ |W·(x - x')|²`` over sampled rows and all
    readers.

    Args:
        rows: (n, K) of the value.
        weights: (O, K) of every layer that reads it.
    """
    sample = rows[:: max(1, len(rows) // _ROWS)].astype(np.float32)
    readers = np.concatenate(weights)
    if len(readers) > readers.shape[1]:
        # |W·e| = |R·e| of W = QR: as many products as there are columns, not rows.
        readers = np.asarray(np.linalg.qr(readers, mode="r"))
    results = readers.T.astype(np.float32)

    def cost(grid: Grid) -> float:
        return float(np.square((grid.nearest(sample) - sample) @ results).sum(dtype=np.float64))

    low, high = HEADROOM * low, HEADROOM * high
    best = fit_grid(low, high, scheme)
    least = _WORTH * cost(best)
    chosen = [1.0, 1.0]
    for side in (1, 0):
        for share in _SHARES:
            tried = list(chosen)
            tried[side] = share
            grid = fit_grid(low * tried[0], high * tried[1], scheme)
            if (found := cost(grid)) < least:
                least, best, chosen = found, grid, tried
    return best
