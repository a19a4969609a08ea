"""Charts of one row an engine: bars, distributions, stacked stages; and the noise over time."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from levit.benchmarks.intervals import Interval
from levit.benchmarks.report.figures import figure, linear_ticks, log_ticks, plain_tick
from levit.benchmarks.report.markup import Attributes, Markup, fitted, tag, text_width, words

__all__ = ["Row", "bars", "distributions", "noise_plot", "stacks"]

WIDTH: Final = 360
_FONT: Final = 12.0
_ROW: Final = 37
_BAR: Final = 11
_RIGHT: Final = WIDTH - 2
# Of the style sheet.
STAGE_COLOURS: Final = 4


@dataclass(frozen=True, kw_only=True)
class Row:
    """One engine: its name, its value, and what there is of a distribution or of stages.

    Attributes:
        label: the engine.
        ours: drawn in the accent.
        value: median and interval, in the chart's unit.
        percentiles: by percent, in the chart's unit.
        parts: by stage, in the chart's unit.
        missing: why there is no value.
    """

    label: str
    ours: bool
    value: Interval | None = None
    percentiles: Mapping[int, float] = field(default_factory=dict)
    parts: Mapping[str, float] = field(default_factory=dict)
    missing: str = ""


def bars(title: str, rows: Sequence[Row], unit: str, key: str, full: float = 0.0) -> Markup:
    """Horizontal bars from zero with the interval as a whisker; `full`: the axis' least end."""
    values = {id(r): figure(r.value.median) for r in rows if r.value}
    right = _RIGHT - _room(values.values())
    end = max([r.value.high for r in rows if r.value] + [full]) or 1.0

    def x(value: float) -> float:
        return right * value / end

    drawn = []
    for index, row in enumerate(rows):
        y = index * _ROW + 18
        if row.value is None:
            drawn.append(_row(row, index, [], "", row.missing))
            continue
        whisker = f"M{x(row.value.low):.2f} {y + _BAR / 2}H{x(row.value.high):.2f}"
        for edge in row.value[1:]:
            whisker += f"M{x(edge):.2f} {y + 2}V{y + _BAR - 2}"
        marks = [
            tag(
                "rect",
                {"class": "bar", "x": 0, "y": y, "width": x(row.value.median), "height": _BAR},
            ),
            tag("path", {"class": "whisker", "d": whisker}),
        ]
        said = f"[{figure(row.value.low)}, {figure(row.value.high)}] {unit}"
        drawn.append(_row(row, index, marks, values[id(row)], said))
    axis = _axis(x, linear_ticks(0, end, 5), len(rows), unit, right)
    return _chart(title, rows, [*axis, *drawn], f"{unit} by engine, with 95 % intervals", key)


def distributions(title: str, rows: Sequence[Row], unit: str, key: str) -> Markup:
    """From the fastest percent of calls to the slowest, logarithmic; p50, p90, p99 marked."""
    texts = {id(r): " · ".join(figure(r.percentiles[p]) for p in (50, 90, 99)) for r in rows}
    right = _RIGHT - _room(texts.values())
    found = [v for r in rows for v in r.percentiles.values()]
    low, high = min(found) / 1.06, max(found) * 1.06

    def x(value: float) -> float:
        return right * math.log(value / low) / math.log(high / low)

    drawn = []
    for index, row in enumerate(rows):
        y, p = index * _ROW + 18 + _BAR / 2, row.percentiles
        wide = max(1.5, x(p[75]) - x(p[25]))
        box: Attributes = {"class": "box", "x": x(p[25]), "y": y - 5, "width": wide, "height": 10}
        marks = [
            tag("path", {"class": "range", "d": f"M{x(p[1]):.2f} {y}H{x(p[99]):.2f}"}),
            tag("rect", box),
            tag("path", {"class": "p50", "d": f"M{x(p[50]):.2f} {y - 7}v14"}),
            tag("circle", {"class": "p90", "cx": x(p[90]), "cy": y, "r": 3}),
            tag("path", {"class": "p99", "d": _diamond(x(p[99]), y)}),
        ]
        said = f"p50 · p90 · p99 in {unit}: {texts[id(row)]}"
        drawn.append(_row(row, index, marks, texts[id(row)], said))
    axis = _axis(x, log_ticks(low, high), len(rows), f"{unit}, logarithmic", right)
    return _chart(title, rows, [*axis, *drawn], "latency of single calls by engine", key)


def stacks(title: str, rows: Sequence[Row], unit: str, key: str) -> Markup:
    """Horizontal bars of stages one after another; the sum beside.

    A stage of less than nothing, which is noise, has no length.
    """
    totals = {id(r): sum(r.parts.values()) for r in rows}
    right = _RIGHT - _room([figure(t) for t in totals.values()])
    end = max(sum(max(0.0, v) for v in r.parts.values()) for r in rows) or 1.0
    names = list(dict.fromkeys(name for r in rows for name in r.parts))

    def x(value: float) -> float:
        return right * value / end

    drawn = []
    for index, row in enumerate(rows):
        y, left, marks = index * _ROW + 18, 0.0, []
        for name, value in row.parts.items():
            piece: Attributes = {
                "class": f"stage s{names.index(name) % STAGE_COLOURS}",
                "x": x(left),
                "y": y,
                "width": x(max(0.0, value)),
                "height": _BAR,
            }
            said = tag("title", {}, f"{name}: {figure(value)} {unit}")
            marks.append(tag("rect", piece, said))
            left += max(0.0, value)
        said_all = ", ".join(f"{n} {figure(v)} {unit}" for n, v in row.parts.items())
        drawn.append(_row(row, index, marks, figure(totals[id(row)]), said_all))
    axis = _axis(x, linear_ticks(0, end, 5), len(rows), unit, right)
    return _chart(title, rows, [*axis, *drawn], f"{unit} of each stage by engine", key)


def noise_plot(calibration_ns: Sequence[float], key: str) -> Markup:
    """The calibration kernel's time over the run, in percent of its median."""
    middle = statistics.median(calibration_ns)
    changes = [100 * (v / middle - 1) for v in calibration_ns]
    reach = max(5.0, *(abs(c) for c in changes)) * 1.1
    left, right, top, bottom, width, height = 52.0, 550.0, 10.0, 128.0, 560, 168
    count = max(1, len(changes) - 1)

    def y(change: float) -> float:
        return top + (reach - change) / (2 * reach) * (bottom - top)

    parts = []
    for tick in linear_ticks(-reach, reach, 5):
        classes = "grid zero" if abs(tick) < 1e-9 else "grid"
        parts.append(tag("path", {"class": classes, "d": f"M{left} {y(tick):.2f}H{right}"}))
        shown = "0" if abs(tick) < 1e-9 else f"{tick:+.10g}".replace("-", "−")
        parts.append(words(shown, left - 7, y(tick) + 4, "tick", "end"))
    # Thousands of rounds are more than pixels.
    step = max(1, len(changes) // 1200)
    for index, change in list(enumerate(changes))[::step]:
        x = left + (right - left) * index / count
        parts.append(tag("circle", {"class": "dot", "cx": x, "cy": y(change), "r": 1.8}))
    for text, x, anchor in (("1", left, "start"), (str(len(changes)), right, "end")):
        parts.append(words(text, x, bottom + 16, "tick", anchor))
    middle_x = (left + right) / 2
    parts.append(
        words("calibrations, in the order of the run", middle_x, height - 8, "axis", "middle")
    )
    turn = f"translate(12 {(top + bottom) / 2}) rotate(-90)"
    parts.append(tag("g", {"transform": turn}, words("change, %", 0, 0, "axis", "middle")))
    worst = max(changes, key=abs)
    said = f"Median {figure(middle / 1e6)} ms; the largest change is {worst:+.1f} %."
    return _svg(width, height, "The calibration kernel over the run", said, key, parts, "noise")


# ------------------------------------------------------------------------------------- pieces


def _room(texts: Iterable[str]) -> float:
    return 10 + max((text_width(t, _FONT) for t in texts), default=0.0)


def _diamond(x: float, y: float) -> str:
    return f"M{x:.2f} {y - 4.5}l4.5 4.5l-4.5 4.5l-4.5 -4.5Z"


def _row(row: Row, index: int, marks: Sequence[str], value: str, said: str) -> Markup:
    y = index * _ROW
    parts = [
        tag("title", {}, f"{row.label}: {said}"),
        words(fitted(row.label, _FONT, WIDTH - 4), 0, y + 12, "label"),
        *marks,
    ]
    if value:
        parts.append(words(value, _RIGHT, y + 28, "value", "end"))
    elif not marks:
        parts.append(words(fitted(row.missing, _FONT, WIDTH - 4), 0, y + 28, "missing"))
    return tag("g", {"class": f"row{' ours' if row.ours else ''}"}, *parts)


def _axis(
    x: Callable[[float], float], ticks: Sequence[float], rows: int, unit: str, right: float
) -> list[Markup]:
    bottom = rows * _ROW + 2
    found, taken = [], -math.inf
    for tick in ticks:
        text = plain_tick(tick)
        place, half = x(tick), text_width(text, 11) / 2
        found.append(tag("path", {"class": "grid", "d": f"M{place:.2f} 16V{bottom}"}))
        centre = min(max(place, half), WIDTH - half)
        if centre - half < taken + 4:
            continue
        taken = centre + half
        found.append(words(text, centre, bottom + 14, "tick", "middle"))
    found.append(words(unit, right / 2, bottom + 31, "axis", "middle"))
    return found


def _chart(title: str, rows: Sequence[Row], parts: Sequence[str], what: str, key: str) -> Markup:
    height = len(rows) * _ROW + 38
    said = "; ".join(
        f"{r.label}: {figure(r.value.median) if r.value else r.missing or 'see the table'}"
        for r in rows
    )
    svg = _svg(WIDTH, height, f"{title}: {what}", said, key, parts, "rows")
    return tag("figure", {"class": "card"}, tag("figcaption", {}, tag("h3", {}, title)), svg)


def _svg(
    width: int, height: int, title: str, said: str, key: str, parts: Sequence[str], kind: str
) -> Markup:
    attributes = {
        "viewBox": f"0 0 {width} {height}",
        "role": "img",
        "aria-labelledby": f"{key}-t {key}-d",
        "class": f"plot {kind}",
    }
    heading = tag("title", {"id": f"{key}-t"}, title)
    return tag("svg", attributes, heading, tag("desc", {"id": f"{key}-d"}, said), *parts)
