"""Accuracy against latency in one picture: every network on its best engine, by precision."""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Final

from PIL import Image

from levit.benchmarks.architectures import ARCHITECTURES, OTHER, architecture, architecture_title
from levit.benchmarks.headline import best_engines
from levit.benchmarks.intervals import Interval
from levit.benchmarks.record import Contender, Record
from levit.benchmarks.report.figures import log_ticks, plain_tick
from levit.benchmarks.report.png import (
    ACCENT,
    COLOURS,
    GRID,
    INK,
    MARKERS,
    SOFT,
    quiet,
    require_matplotlib,
    shown,
)
from levit.benchmarks.report.series import short_name
from levit.benchmarks.summary import headline_rates, ok, summaries
from levit.errors import ConfigError
from levit.whole_file import write_whole

__all__ = ["to_figure", "write_figure"]

_INCHES: Final = (4.1, 4.3)
_DOTS: Final = 100
# Flat colours and grey edges of letters need no more, and the file becomes a third.
_PALETTE: Final = 64
_LEGEND_COLUMNS: Final = 8

# A network on its best engine, with the median milliseconds of a call.
_Point = tuple[Contender, Interval]


def write_figure(record: Record, path: Path | str) -> None:
    """Write `to_figure` at `path`.

    Raises:
        ConfigError: the path cannot be written, or no latency of a network of known accuracy was
            measured.
        BackendUnavailableError: matplotlib is missing.
    """
    write_whole(path, to_figure(record))


def to_figure(record: Record) -> bytes:
    """A PNG with a panel for each precision: up is more accurate, left is faster."""
    require_matplotlib()
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    panels = _panels(record)
    if not panels:
        raise ConfigError(
            "the figure needs the latency of a network whose accuracy is published; measure with "
            "--headline, or add --protocol latency"
        )
    width = max(2, len(panels)) * _INCHES[0]
    layout = ConstrainedLayoutEngine(w_pad=0.08, h_pad=0.08)
    page = Figure(figsize=(width, _INCHES[1]), layout=layout, dpi=_DOTS)
    FigureCanvasAgg(page)
    all_axes = page.subplots(1, len(panels), sharex=True, sharey=True, squeeze=False)[0]
    for axes, (precision, points) in zip(all_axes, panels.items(), strict=True):
        _draw_panel(axes, precision, points)
    all_axes[0].set_ylabel("published ImageNet-1k top-1, %", color=SOFT, fontsize=10)
    _draw_ticks(all_axes[0])
    _draw_legend(page, all_axes, _caption(record))
    drawn = io.BytesIO()
    page.savefig(drawn, format="png", dpi=_DOTS)
    written = io.BytesIO()
    with Image.open(drawn) as image:
        flat = image.convert("RGB").quantize(_PALETTE, dither=Image.Dither.NONE)
        flat.save(written, "PNG", optimize=True)
    return written.getvalue()


def _panels(record: Record) -> dict[str, list[_Point]]:
    """Precision → its networks of known accuracy, each on its best engine."""
    medians = {s.contender.name: s.latency_ms.get(50) for s in ok(summaries(record), "latency")}
    found: dict[str, list[_Point]] = {}
    for precision, models in best_engines(headline_rates(record, "latency")).items():
        points = [
            (contender, median)
            for contender, _ in models.values()
            if contender.top1 is not None and (median := medians.get(contender.name)) is not None
        ]
        if points:
            found[precision] = points
    return found


def _draw_panel(axes: Any, precision: str, points: Sequence[_Point]) -> None:
    axes.set_title(shown(precision), fontsize=12, color=INK, loc="left", weight="bold")
    by_key: dict[str, list[_Point]] = {}
    for point in points:
        by_key.setdefault(architecture(point[0].model), []).append(point)
    # LeViT last, on top.
    for key in [*(k for k, _, _ in ARCHITECTURES[::-1]), OTHER[0]]:
        if key in by_key and key != "levit":
            _draw_curve(axes, key, by_key[key])
    if levit := by_key.get("levit"):
        _draw_curve(axes, "levit", levit)
        engines = ", ".join(dict.fromkeys(c.title for c, _ in levit))
        axes.set_title(shown(f"LeViT: {engines}"), fontsize=9, color=ACCENT, loc="right")
    axes.set_xscale("log")
    quiet(axes)
    axes.tick_params(labelsize=10)
    axes.grid(visible=True, color=GRID, linewidth=0.8)


def _draw_legend(page: Any, all_axes: Sequence[Any], caption: str) -> None:
    """One legend below all panels, in the order of `ARCHITECTURES`, and what the axes say."""
    found = {line.get_label(): line for axes in all_axes for line in axes.get_lines()}
    titles = [title for _, title, _ in (*ARCHITECTURES, OTHER) if title in found]
    page.legend(
        [found[title] for title in titles],
        titles,
        title=caption,
        title_fontproperties={"size": 10},
        loc="outside lower center",
        ncols=_LEGEND_COLUMNS if len(all_axes) > 2 else _LEGEND_COLUMNS // 2,
        columnspacing=1.4,
        handletextpad=0.5,
        fontsize=9.5,
        frameon=False,
        labelcolor=INK,
    ).get_title().set_color(SOFT)


def _draw_curve(axes: Any, key: str, points: Iterable[_Point]) -> None:
    ours = key == "levit"
    colour = ACCENT if ours else COLOURS[key]
    ordered = sorted(points, key=lambda p: (p[0].top1, p[1].median))
    axes.plot(
        [ms.median for _, ms in ordered],
        [contender.top1 for contender, _ in ordered],
        color=colour,
        marker=MARKERS[key],
        markerfacecolor=colour if ours else "white",
        markersize=7 if ours else 6,
        linewidth=2.6 if ours else 1.3,
        label=architecture_title(key),
        zorder=3 if ours else 2,
    )
    if ours:
        from matplotlib.patheffects import withStroke

        for contender, ms in ordered:
            axes.annotate(
                shown(short_name(contender.model)), (ms.median, contender.top1),
                xytext=(-7, 3), textcoords="offset points", ha="right",
                fontsize=9, color=colour, zorder=4,
                path_effects=[withStroke(linewidth=2.5, foreground="white")],
            )  # fmt: skip


def _draw_ticks(axes: Any) -> None:
    low, high = axes.get_xlim()
    axes.set_xlim(low / 1.25, high)  # room for the names of the fastest
    ticks = log_ticks(low / 1.25, high)
    axes.set_xticks(ticks, [plain_tick(t) for t in ticks])
    axes.set_xticks([], minor=True)


def _caption(record: Record) -> str:
    """``milliseconds for one image, 2 threads, CPU name; …``."""
    settings = next(m.settings for m in record.measurements if m.protocol == "latency")
    batch, threads = settings.get("batch", 1), settings.get("threads", 1)
    cpu = (record.machine.get("cpu") or {}).get("model") or "unknown CPU"
    images = "one image" if batch == 1 else f"{batch} images"
    count = "one thread" if threads == 1 else f"{threads} threads"
    return shown(
        f"ms for {images} (log scale), {count}, {cpu}; each network on its fastest engine at that "
        f"precision or a more exact one"
    )
