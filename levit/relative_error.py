"""The one measure of how far answers are from a reference: by the largest value of the latter."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["errors_of", "relative_error"]


def errors_of(found: NDArray[Any], expected: NDArray[Any]) -> tuple[float, float]:
    """Measure the largest difference, relative to the largest value and as it is.

    Computed in float64. A NaN or an infinity anywhere makes both infinite: no comparison would
    show it. Where `expected` is all zeros, the relative error is the absolute one.

    Args:
        found, expected: arrays of one shape.

    Returns:
        (max|found - expected| / max|expected|, max|found - expected|)
    """
    with np.errstate(invalid="ignore", over="ignore"):  # inf - inf, and NaN that signal
        difference = np.abs(np.asarray(found, np.float64) - np.asarray(expected, np.float64))
    worst = float(np.max(difference, initial=0.0))
    if not np.isfinite(worst):
        return np.inf, np.inf
    scale = float(np.max(np.abs(expected), initial=0.0))
    return worst / scale if scale > 0 else worst, worst


def relative_error(found: NDArray[Any], expected: NDArray[Any]) -> float:
    """Measure max|found - expected| / max|expected|, as `errors_of` does.

    ::

        relative_error(np.array([1.0, 2.5]), np.array([1.0, 2.0]))    # 0.25
    """
    return errors_of(found, expected)[0]
