"""The grid of what layers read: of the range that costs their results least."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np

from levit.export.quantization.grid import Grid, Scheme, fit_grid
from levit.models.ops import Array

__all__ = ["choose_input_grid"]

_ROWS: Final = 1024
_SHARES: Final = (1.0, 0.95, 0.9, 0.85, 0.8, 0.75, 0.7, 0.6, 0.5, 0.4, 0.3)


def choose_input_grid(
    low: float, high: float, rows: Array, weights: Sequence[Array], scheme: Scheme
) -> Grid:
    """From `low` to `high`, or less where what is cut off costs less than a finer grid gains.

    The cost is that of the results: ``Σ |W·(x - x')|²`` over sampled rows and all readers.

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

    best = fit_grid(low, high, scheme)
    least = cost(best)
    chosen = [1.0, 1.0]
    for side in (1, 0):
        for share in _SHARES[1:]:
            tried = list(chosen)
            tried[side] = share
            grid = fit_grid(low * tried[0], high * tried[1], scheme)
            if (found := cost(grid)) < least:
                least, best, chosen = found, grid, tried
    return best
