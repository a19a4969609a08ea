"""The grid of what layers read: of the range that costs their results least."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np

from levit.export.grids import Grid, PixelGrid, Scheme, fit_grid
from levit.models.ops import Array

__all__ = ["HEADROOM", "ChosenGrid", "Rule", "choose_input_grid", "without_range"]

# By which the ends of a range were chosen.
Rule = Literal["min-max", "percentile", "least error", "pixels"]

_ROWS: Final = 512
_PERCENTILES: Final = (99.99, 99.9)
_SHARES: Final = (0.7, 0.5, 0.35, 0.25, 0.175, 0.125)
# Beyond the extremes of the calibration.
HEADROOM: Final = 1.15
# Of the cost, that a smaller range may have at most to be taken.
_WORTH: Final = 0.25
_PROJECTIONS: Final = 64
_SEED: Final = 20210407


@dataclass(frozen=True, kw_only=True)
class ChosenGrid:
    """A grid, and by which rule its range was taken."""

    grid: Grid
    rule: Rule


def choose_input_grid(
    low: float, high: float, rows: Array, weights: Sequence[Array], scheme: Scheme
) -> ChosenGrid:
    """Choose a range: `low` to `high` and some more, or less where that is much better.

    Other pictures reach further than those of the calibration, and what is cut off of them costs
    more than a coarser grid (docs/quantization.md). Only where a range is that of a few outliers,
    less of it is taken, whichever is the best of two percentiles and of shares of either end: where
    it quarters the cost, ``Σ |W·(x - x')|²`` over sampled rows and all readers.

    Args:
        rows: (n, K) of the value.
        weights: (O, K) of every layer that reads it.
    """
    sample = rows[:: max(1, len(rows) // _ROWS)].astype(np.float32)
    results = _projected(weights)

    def cost(grid: Grid) -> float:
        return float(np.square((grid.nearest(sample) - sample) @ results).sum(dtype=np.float64))

    low, high = HEADROOM * low, HEADROOM * high
    best = ChosenGrid(grid=fit_grid(low, high, scheme), rule="min-max")
    least = _WORTH * cost(best.grid)
    for ends in _percentiles(sample):
        grid = fit_grid(*ends, scheme)
        if (found := cost(grid)) < least:
            least, best = found, ChosenGrid(grid=grid, rule="percentile")
    # What a coarser grid costs falls with its range, what is cut off rises ever faster: where the
    # sum has begun to rise, it goes on rising.
    chosen = [1.0, 1.0]
    for side in (1, 0):
        before = np.inf
        for share in _SHARES:
            tried = list(chosen)
            tried[side] = share
            grid = fit_grid(low * tried[0], high * tried[1], scheme)
            found = cost(grid)
            if found < least:
                least, best = found, ChosenGrid(grid=grid, rule="least error")
                chosen = tried
            if found > before:
                break
            before = found
    return best


def without_range(grid: PixelGrid) -> ChosenGrid:
    """A grid that needs no range."""
    return ChosenGrid(grid=grid, rule="pixels")


def _percentiles(sample: Array) -> Iterator[tuple[float, float]]:
    """The ends between which all but a few values lie, half of those few beyond either."""
    beyond = (100 - np.array(_PERCENTILES)) / 2
    ends = np.percentile(sample, (beyond, 100 - beyond))  # sorted once
    for low, high in ends.T:
        yield float(low), float(high)


def _projected(weights: Sequence[Array]) -> Array:
    """(K, 64) float32 P with ``|e·P|² ≈ |W·e|²``.

    Sums of all readers with random signs, whose squares are on average those of the results
    (Johnson and Lindenstrauss): as many products as there are outputs would cost minutes.
    """
    readers = np.concatenate(weights)
    rng = np.random.default_rng(_SEED)
    signs = rng.choice(np.array((-1.0, 1.0)), (_PROJECTIONS, len(readers)))
    result: Array = (signs @ readers / np.sqrt(_PROJECTIONS)).T.astype(np.float32)
    return result
