"""Medians with confidence intervals, and the claims that a ratio allows.

No distribution is assumed: timings have long tails. Intervals cover the true value with 95 %.
"""

from __future__ import annotations

import functools
import math
import statistics
from collections.abc import Sequence
from typing import Final, Literal, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "Interval",
    "Verdict",
    "median_interval",
    "percentile_intervals",
    "ratio_interval",
    "unpaired_ratio",
    "verdict_of",
]

Verdict: TypeAlias = Literal["faster", "slower", "equal", "cannot tell"]

# The smallest difference that is called one. Where a session's weights happen to lie in memory
# moves its time by a percent or so for as long as it lives, which no number of rounds shows.
SMALLEST: Final = 0.02
# The widest interval on either side of which "equal" is still an answer.
WIDEST_EQUAL: Final = 0.05

# Rounds: the chance that all lie on one side of the median is 2 · 0.5⁶ = 3 %, of five 6 %.
FEWEST: Final = 6

_RESAMPLES: Final = 1000
# Limits of one resampling, whose work is their product (the longest protocol has 20 rounds): of
# more rounds neighbours are drawn together, and of more values every n-th is a place where an
# interval may end.
_MOST_DRAWN: Final = 64
_MOST_PLACES: Final = 5000


class Interval(NamedTuple):
    """A median (or percentile) and the ends of its 95 % interval."""

    median: float
    low: float
    high: float


def median_interval(values: Sequence[float]) -> Interval:
    """(median, low, high): the order statistics that cover the true median with 95 %.

    The number of values below the true median is binomial; the interval leaves out the most
    extreme values whose total probability is at most 5 % (none, where there are few).
    """
    ordered = sorted(values)
    left_out = _left_out(len(ordered))
    return Interval(statistics.median(ordered), ordered[left_out], ordered[-1 - left_out])


@functools.cache
def _left_out(n: int) -> int:
    """Count the values that are left out at either end: the most whose tail is at most 1/40."""
    # Terms of the binomial distribution further than this from its middle are below 1e-80 of it.
    first = max(0, n // 2 - 10 * math.isqrt(n))
    whole = math.lgamma(n + 1) - n * math.log(2)
    tail, k = 0.0, first
    while (tail := tail + math.exp(whole - math.lgamma(k + 1) - math.lgamma(n - k + 1))) <= 1 / 40:
        k += 1
    return max(0, k - 1)


def ratio_interval(above: Sequence[float], below: Sequence[float]) -> Interval:
    """Median and interval of the ratios of values that were taken side by side."""
    return median_interval([a / b for a, b in zip(above, below, strict=True)])


def percentile_intervals(
    rounds: Sequence[Sequence[float]], percents: Sequence[int]
) -> dict[int, Interval]:
    """Percentiles of all values together, with intervals from resampled rounds.

    Neighbouring calls share the machine's state, rounds hardly do: so whole rounds are drawn
    with replacement (the cluster bootstrap), from a fixed seed.

    Args:
        rounds: the values of each round; empty rounds do not count.
    """
    full = [np.asarray(r, np.float64) for r in rounds if len(r)]
    values = np.percentile(np.concatenate(full), percents)
    full = _drawn_together(full)
    # A round of thousands of calls says no more here than its quantiles do.
    thin = [r if len(r) <= 200 else np.quantile(r, np.linspace(0, 1, 201)) for r in full]
    count = len(thin)
    # How often each draw has each round, and how many values of a round are at most x: their
    # product is the distribution of each draw, without a draw ever being put together.
    drawn = np.random.default_rng(0).multinomial(count, [1 / count] * count, size=_RESAMPLES)
    places = np.unique(np.concatenate(thin))
    places = places[:: len(places) // -_MOST_PLACES][::-1]  # the last one always
    below = np.stack([np.searchsorted(np.sort(r), places, side="right") for r in thin])
    reached = drawn.astype(np.float32) @ below.astype(np.float32)  # (draws, places)
    found = {}
    for percent, value in zip(percents, map(float, values), strict=True):
        enough = reached >= np.maximum(1, reached[:, -1:] * (percent / 100) - 1e-3)
        low, high = np.percentile(places[enough.argmax(axis=1)], [2.5, 97.5])
        found[percent] = Interval(value, min(value, float(low)), max(value, float(high)))
    return found


def _drawn_together(rounds: list[NDArray[np.float64]]) -> list[NDArray[np.float64]]:
    size = -(-len(rounds) // _MOST_DRAWN)
    return [np.concatenate(rounds[i : i + size]) for i in range(0, len(rounds), size)]


def unpaired_ratio(above: Interval, below: Interval, drift: float = 0.0) -> Interval:
    """The ratio of two medians that were measured apart.

    The ends are the worst that both intervals allow (wider than 95 %), and wider still by
    `drift`, the relative change of the machine itself between the two.
    """
    slack = 1 + abs(drift)
    return Interval(
        above.median / below.median, above.low / below.high / slack, above.high / below.low * slack
    )


def verdict_of(ratio: Interval, rounds: int) -> Verdict:
    """The claim that a ratio of speeds (above 1: faster) allows.

    Faster or slower: the interval leaves out 1, and the median is at least 2 % away from it.
    Equal: neither, and the interval lies within 5 % of 1. Otherwise it cannot be told, nor from
    fewer than six rounds, whose extremes cover the median with less than 95 %.
    """
    if rounds < FEWEST:
        return "cannot tell"
    if ratio.low > 1 and ratio.median >= 1 + SMALLEST:
        return "faster"
    if ratio.high < 1 and ratio.median <= 1 - SMALLEST:
        return "slower"
    if ratio.low >= 1 - WIDEST_EQUAL and ratio.high <= 1 + WIDEST_EQUAL:
        return "equal"
    return "cannot tell"
