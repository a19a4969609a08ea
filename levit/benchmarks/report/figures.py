"""Numbers as people read them: three significant digits, intervals, axis ticks."""

from __future__ import annotations

import math
from typing import Final

from levit.benchmarks.intervals import Interval

__all__ = ["figure", "interval_text", "linear_ticks", "log_ticks", "percent_text", "plain_tick"]

_MINUS: Final = "−"


def figure(value: float | None) -> str:
    """`value` with three significant digits, all digits before the point: 12880, 131, 0.0123."""
    if value is None or not math.isfinite(value):
        return "–"
    if value == 0:
        return "0"
    digits = max(0, 2 - math.floor(math.log10(abs(value))))
    text = f"{value:.{digits}f}"
    # 9.996 has three digits as 10.0, not as 10.00.
    if digits and len(text.lstrip("-0.").replace(".", "")) > 3:
        text = f"{value:.{digits - 1}f}"
    if abs(value) < 1e-4:
        text = f"{value:.2e}"
    return text.replace("-", _MINUS) if value < 0 else text


def interval_text(interval: Interval | None) -> str:
    """``131 [129, 134]``."""
    if interval is None:
        return "–"
    return f"{figure(interval.median)} [{figure(interval.low)}, {figure(interval.high)}]"


def percent_text(fraction: float | None) -> str:
    """``87 %``; under ten, with one decimal."""
    if fraction is None:
        return "–"
    percent = 100 * fraction
    return f"{percent:.1f} %" if abs(percent) < 9.95 else f"{percent:.0f} %"


def log_ticks(low: float, high: float) -> list[float]:
    """Powers of ten, where these are few others between them too, all within [low, high]."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for steps in ((1,), (1, 3), (1, 2, 5)):
        ticks = [s * 10.0**d for d in decades for s in steps if low <= s * 10.0**d <= high]
        if len(ticks) >= 4:
            return ticks
    if len(ticks) == 3:
        return ticks
    # Much less than a decade: round values serve better.
    return [t for t in linear_ticks(low, high, 5) if t > 0]


def linear_ticks(low: float, high: float, most: int = 7) -> list[float]:
    """Round values within [low, high], at most `most`."""
    span = (high - low) or 1.0
    unit = 10.0 ** math.floor(math.log10(span / most))
    step = next(unit * m for m in (1, 2, 5, 10, 20) if span / (unit * m) <= most - 1)
    first = math.ceil(low / step - 1e-9)
    return [i * step for i in range(first, math.floor(high / step + 1e-9) + 1)]


def plain_tick(value: float) -> str:
    """A tick's label without needless zeros: 0.5, 20, 3000."""
    return f"{value:.10g}" if value < 1e6 else f"{value:.0e}".replace("e+0", "e")
