"""The paper's figure: accuracy against images/s, a panel for each engine."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from levit.benchmarks.architectures import architecture_title
from levit.benchmarks.report.figures import figure, linear_ticks, log_ticks, plain_tick
from levit.benchmarks.report.labels import Box, Placer
from levit.benchmarks.report.markup import DASHES, Markup, marker, swatch, tag, words
from levit.benchmarks.report.series import Curve, Panel, legend_text

__all__ = ["Axes", "axes_of", "curve_label", "panel_figure"]

WIDTH: Final = 380
HEIGHT: Final = 320
_FONT: Final = 12.0
_PLOT: Final = Box(46, 10, WIDTH - 10, HEIGHT - 46)
_MARK: Final = 4.5
# Characters of an engine's name beside a curve.
_LONGEST: Final = 16


@dataclass(frozen=True, kw_only=True)
class Axes:
    """The ranges that all panels share: images/s (logarithmic) and percent."""

    slow: float
    fast: float
    low: float
    high: float

    def x(self, speed: float) -> float:
        """Pixels from the left."""
        part = math.log(speed / self.slow) / math.log(self.fast / self.slow)
        return _PLOT.left + part * (_PLOT.right - _PLOT.left)

    def y(self, top1: float) -> float:
        """Pixels from the top."""
        part = (top1 - self.low) / (self.high - self.low)
        return _PLOT.bottom - part * (_PLOT.bottom - _PLOT.top)


def axes_of(panels: Iterable[Panel]) -> Axes:
    """Ranges that hold every point, with some air."""
    points = [p for panel in panels for curve in panel.curves for p in curve.points]
    speeds = [v for p in points for v in (p.speed.low, p.speed.high)]
    top1 = [p.top1 for p in points]
    return Axes(
        slow=min(speeds) / 1.35,
        fast=max(speeds) * 1.35,
        low=math.floor(min(top1) - 0.7),
        high=math.ceil(max(top1) + 0.7),
    )


def curve_label(curve: Curve, panel: Panel) -> str:
    """A curve's name beside it: its engine too where its panel has the architecture twice."""
    name = architecture_title(curve.architecture)
    if len(curve.points) == 1:
        label = curve.points[0].label
        name = f"{name}-{label}" if label.isdigit() else f"{name} {label}"
    if curve.ours:
        return f"{name} (ours)"
    alike = [c for c in panel.curves if c.architecture == curve.architecture]
    if len(alike) < 2:
        return name
    parts = [part.strip() for part in curve.engine.split("→")[0].split(",")]
    engine = parts[1] if parts[0] == "timm" and len(parts) > 1 else parts[0]
    return f"{name} ({engine})" if len(engine) <= _LONGEST else name


def panel_figure(panel: Panel, others: Sequence[Panel], axes: Axes, key: str) -> Markup:
    """One panel with its legend; our curves of `others` lie faintly behind."""
    ghosts = [
        tag("path", {"class": "ghost", "d": _path(curve, axes)})
        for other in others
        for curve in other.curves
        if curve.ours and len(curve.points) > 1
    ]
    # Ours last, on top.
    drawn = [_curve(c, axes) for c in sorted(panel.curves, key=lambda c: c.ours)]
    svg = tag(
        "svg",
        {
            "viewBox": f"0 0 {WIDTH} {HEIGHT}",
            "role": "img",
            "aria-labelledby": f"{key}-t {key}-d",
            "class": "plot accuracy",
        },
        tag("title", {"id": f"{key}-t"}, f"Accuracy against images/s, {panel.title}"),
        tag("desc", {"id": f"{key}-d"}, _description(panel)),
        *_grid(axes),
        *ghosts,
        *drawn,
        *_labels(panel, axes),
    )
    legend = tag(
        "ul",
        {"class": "legend"},
        *(
            tag(
                "li", {}, swatch(c.architecture, _classes(c), c.engine_index), legend_text(c, panel)
            )
            for c in panel.curves
        ),
    )
    caption = tag("figcaption", {}, tag("h3", {}, panel.title))
    return tag("figure", {"class": "card"}, caption, svg, legend)


def _classes(curve: Curve) -> str:
    return f"curve a-{curve.architecture}{' ours' if curve.ours else ''}"


def _description(panel: Panel) -> str:
    parts = []
    for curve in panel.curves:
        points = ", ".join(
            f"{p.model} {figure(p.top1)} % at {figure(p.speed.median)}" for p in curve.points
        )
        parts.append(f"{curve.title}: {points} images/s.")
    return " ".join(parts)


def _grid(axes: Axes) -> list[Markup]:
    found = []
    for speed in log_ticks(axes.slow, axes.fast):
        x = axes.x(speed)
        found.append(tag("path", {"class": "grid", "d": f"M{x:.2f} {_PLOT.top}V{_PLOT.bottom}"}))
        found.append(words(plain_tick(speed), x, _PLOT.bottom + 16, "tick", "middle"))
    for top1 in linear_ticks(axes.low, axes.high):
        y = axes.y(top1)
        found.append(tag("path", {"class": "grid", "d": f"M{_PLOT.left} {y:.2f}H{_PLOT.right}"}))
        found.append(words(plain_tick(top1), _PLOT.left - 7, y + 4, "tick", "end"))
    middle = (_PLOT.left + _PLOT.right) / 2
    found.append(words("images/s, logarithmic", middle, HEIGHT - 8, "axis", "middle"))
    middle = (_PLOT.top + _PLOT.bottom) / 2
    turned = words("published ImageNet-1k top-1, %", 0, 0, "axis", "middle")
    found.append(tag("g", {"transform": f"translate(12 {middle}) rotate(-90)"}, turned))
    return found


def _path(curve: Curve, axes: Axes) -> str:
    ends = [f"{axes.x(p.speed.median):.2f} {axes.y(p.top1):.2f}" for p in curve.points]
    return "M" + "L".join(ends)


def _curve(curve: Curve, axes: Axes) -> Markup:
    parts = []
    if len(curve.points) > 1:
        dash = DASHES[curve.engine_index % len(DASHES)]
        parts.append(
            tag("path", {"class": "line", "d": _path(curve, axes), "stroke-dasharray": dash})
        )
    for point in curve.points:
        x, y = axes.x(point.speed.median), axes.y(point.top1)
        left, right = axes.x(point.speed.low), axes.x(point.speed.high)
        said = (
            f"{point.model}, {curve.engine}: {figure(point.speed.median)} "
            f"images/s [{figure(point.speed.low)}, {figure(point.speed.high)}], "
            f"top-1 {figure(point.top1)} %"
        )
        parts.append(
            tag(
                "g",
                {},
                tag("title", {}, said),
                tag("path", {"class": "whisker", "d": f"M{left:.2f} {y:.2f}H{right:.2f}"}),
                tag("path", {"class": "mark", "d": marker(curve.architecture, x, y, _MARK)}),
            )
        )
    return tag("g", {"class": _classes(curve)}, *parts)


def _labels(panel: Panel, axes: Axes) -> list[Markup]:
    """Names of the curves, then of their models where there is room."""
    placer = Placer(frame=_PLOT, marks=[], lines=[], size=_FONT)
    for curve in panel.curves:
        ends = [(axes.x(p.speed.median), axes.y(p.top1)) for p in curve.points]
        for point in curve.points:
            y, left, right = axes.y(point.top1), *map(axes.x, point.speed[1:])
            placer.lines += [(left + 5 * i, y) for i in range(int((right - left) / 5) + 1)]
        placer.marks += [Box(x - 5, y - 5, x + 5, y + 5) for x, y in ends]
        for (x0, y0), (x1, y1) in itertools.pairwise(ends):
            steps = max(2, int(math.hypot(x1 - x0, y1 - y0) / 5))
            placer.lines += [
                (x0 + (x1 - x0) * i / steps, y0 + (y1 - y0) * i / steps) for i in range(steps + 1)
            ]
    found = []
    for curve in sorted(panel.curves, key=lambda c: not c.ours):
        # At the fast end, else at the slow one: no other architecture is there.
        for point in (curve.points[-1], curve.points[0]):
            x, y = axes.x(point.speed.median), axes.y(point.top1)
            if label := placer.place(curve_label(curve, panel), x, y, False):
                classes = f"name a-{curve.architecture}{' ours' if curve.ours else ''}"
                if label.leader:
                    d = f"M{x:.2f} {y:.2f}L{label.leader[0]:.2f} {label.leader[1]:.2f}"
                    found.append(tag("path", {"class": "leader", "d": d}))
                found.append(words(curve_label(curve, panel), label.x, label.y, classes, "start"))
                break
    named: set[str] = set()
    several = [c for c in panel.curves if len(c.points) > 1]
    for curve in sorted(several, key=lambda c: not c.ours):
        for point in curve.points:
            x, y = axes.x(point.speed.median), axes.y(point.top1)
            if point.model not in named and (near := placer.place(point.label, x, y, True)):
                named.add(point.model)
                found.append(words(point.label, near.x, near.y, "model", "start"))
    return found
