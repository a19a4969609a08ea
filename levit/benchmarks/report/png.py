"""The accuracy–speed figure, the bars and the stages as a picture, through matplotlib."""

from __future__ import annotations

import io
import itertools
import math
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

from levit.benchmarks.intervals import Interval
from levit.benchmarks.record import Record
from levit.benchmarks.report.context import Context
from levit.benchmarks.report.figures import figure, log_ticks, plain_tick
from levit.benchmarks.report.gathered import gathered
from levit.benchmarks.report.markup import fitted
from levit.benchmarks.report.model_charts import stage_rows
from levit.benchmarks.report.row_charts import Row
from levit.benchmarks.report.series import Curve, Panel, by_model, engine_label, legend_text, panels
from levit.benchmarks.summary import Summary, summaries
from levit.errors import BackendUnavailableError, ConfigError, printable
from levit.whole_file import write_whole

__all__ = [
    "ACCENT",
    "COLOURS",
    "GRID",
    "INK",
    "MARKERS",
    "SOFT",
    "quiet",
    "require_matplotlib",
    "shown",
    "to_png",
    "write_png",
]

INK, SOFT, GRID, ACCENT, _PEER = "#1d2126", "#59616b", "#ecebe6", "#c2410c", "#9aa5b1"
COLOURS: Final = {
    "levit": INK,
    "efficientnet": "#0069a8",
    "deit": "#00805c",
    "convit": "#7d6200",
    "resnet": "#a3467f",
    "mobilenetv4": "#6a4fb3",
    "fastvit": "#5f7a1d",
    "repvit": "#b5325a",
    "efficientvit-m": "#0f7c8a",
    "efficientvit": "#0f7c8a",
    "hgnetv2": "#7a4a21",
    "other": "#5b6876",
}
MARKERS: Final = {
    "levit": "o",
    "efficientnet": "s",
    "deit": "^",
    "convit": "v",
    "resnet": "D",
    "mobilenetv4": "<",
    "fastvit": ">",
    "repvit": "p",
    "efficientvit-m": "h",
    "efficientvit": "H",
    "hgnetv2": "P",
    "other": "X",
}
_DASHES: Final = ("-", "--", ":", "-.")
_COLUMNS: Final = 3
_INCHES: Final = (4.6, 3.9)
# A run of all models on all engines has 40. Each takes a third of a second.
_MOST_CHARTS: Final = 100
# Of the page's style sheet: decode, resize, network (of a peer), rest.
_STAGES: Final = ("#c9d1d9", "#8b98a5", "#46535f", "#d9c9a8")
# Below that, bars would be beams.
_LEAST_ROWS: Final = 5
_BAR: Final = 0.35
# Points that a title of a panel may be wide.
_TITLE: Final = 300

# Label, whether ours, images/s.
_Row = tuple[str, bool, Interval]


def require_matplotlib() -> None:
    """Raise `BackendUnavailableError` where matplotlib is missing, before anything is measured."""
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise BackendUnavailableError(
            "PNG needs matplotlib, which is not here: pip install 'levit[bench]'"
        ) from error


def write_png(record: Record, path: Path | str, context: Context | None = None) -> None:
    """Write `to_png` at `path`.

    Raises:
        ConfigError: the path cannot be written, or nothing was measured that could be drawn.
        BackendUnavailableError: matplotlib is missing.
    """
    write_whole(path, to_png(record, context))


def to_png(record: Record, context: Context | None = None) -> bytes:
    """One picture: a panel for each engine, images/s of each model by engine, and its stages."""
    require_matplotlib()
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    items = summaries(record)
    found = panels(items, context or gathered(record))
    models = _bar_rows(by_model(items, "paper") or by_model(items, "throughput"))
    charts = [
        *(partial(_draw_bars, title=title, rows=rows) for title, rows in models),
        *(partial(_draw_stages, title=title, rows=rows) for title, rows in stage_rows(items)),
        *(
            partial(_draw_bars, title=title, rows=rows, unit="images/s, many JPEGs")
            for title, rows in _bar_rows(by_model(items, "end-to-end-many"))
        ),
    ]
    count = len(found) + len(charts)
    if not count:
        raise ConfigError(
            "PNG: neither images/s nor stages were measured, so there is nothing to draw; add "
            "--protocol paper"
        )
    if count > _MOST_CHARTS:
        raise ConfigError(
            f"PNG: {count} charts are more than one picture can show ({_MOST_CHARTS}); write a "
            f"page with --report"
        )
    columns = min(_COLUMNS, max(len(found), len(charts)))
    rows = math.ceil(len(found) / columns) + math.ceil(len(charts) / columns)
    layout = ConstrainedLayoutEngine(w_pad=0.15, h_pad=0.15)
    page = Figure(figsize=(columns * _INCHES[0], rows * _INCHES[1]), layout=layout)
    FigureCanvasAgg(page)
    grid = page.add_gridspec(rows, columns)
    first = None
    for index, panel in enumerate(found):
        place = grid[index // columns, index % columns]
        axes = page.add_subplot(place, sharex=first, sharey=first)
        first = first or axes
        _draw_panel(axes, panel)
    below = math.ceil(len(found) / columns)
    # Below the rows of stages there is a legend.
    heights = [len(c.keywords["rows"]) + (c.func is _draw_stages) for c in charts]
    most = max(heights, default=0)
    for index, chart in enumerate(charts):
        chart(page.add_subplot(grid[below + index // columns, index % columns]), most)
    written = io.BytesIO()
    # Without the date and the versions, the same record gives the same bytes.
    page.savefig(written, format="png", dpi=110, metadata={"Software": None})
    return written.getvalue()


def _draw_panel(axes: Any, panel: Panel) -> None:
    axes.set_title(shown(fitted(panel.title, 10, _TITLE)), fontsize=10, color=INK, loc="left")
    for curve in sorted(panel.curves, key=lambda c: c.ours):
        _draw_curve(axes, curve, legend_text(curve, panel))
    axes.set_xscale("log")
    low, high = axes.get_xlim()
    ticks = log_ticks(low, high)
    axes.set_xticks(ticks, [plain_tick(t) for t in ticks])
    axes.set_xticks([], minor=True)
    axes.set_xlabel("images/s, logarithmic", color=SOFT, fontsize=9)
    axes.set_ylabel("published ImageNet-1k top-1, %", color=SOFT, fontsize=9)
    # Below the plot, where no curve runs.
    place = {"loc": "upper left", "bbox_to_anchor": (-0.02, -0.16)}
    axes.legend(fontsize=7, frameon=False, labelcolor=INK, **place)
    quiet(axes)
    axes.grid(visible=True, color=GRID, linewidth=0.8)


def _draw_curve(axes: Any, curve: Curve, legend: str) -> None:
    colour = ACCENT if curve.ours else COLOURS[curve.architecture]
    speeds = [p.speed.median for p in curve.points]
    whiskers = [
        [p.speed.median - p.speed.low for p in curve.points],
        [p.speed.high - p.speed.median for p in curve.points],
    ]
    axes.errorbar(
        speeds,
        [p.top1 for p in curve.points],
        xerr=whiskers,
        color=colour,
        marker=MARKERS[curve.architecture],
        markerfacecolor=colour if curve.ours else "white",
        markersize=5.5,
        linewidth=2.4 if curve.ours else 1.4,
        linestyle=_DASHES[curve.engine_index % len(_DASHES)],
        elinewidth=0.8,
        label=shown(legend),
        zorder=3 if curve.ours else 2,
    )


def _draw_bars(
    axes: Any, most: int, *, title: str, rows: Sequence[_Row], unit: str = "images/s"
) -> None:
    for place, (label, ours, speed) in enumerate(rows):
        axes.barh(place, speed.median, height=_BAR, color=ACCENT if ours else _PEER)
        axes.plot([speed.low, speed.high], [place, place], color=INK, linewidth=1)
        _name_row(axes, place, f"{label}: {figure(speed.median)}", ours=ours)
    _frame_rows(axes, title, len(rows), most, unit)


def _draw_stages(axes: Any, most: int, *, title: str, rows: Sequence[Row]) -> None:
    names = list(dict.fromkeys(name for row in rows for name in row.parts))
    colours = dict(zip(names, itertools.cycle(_STAGES), strict=False))
    for place, row in enumerate(reversed(rows)):
        left = 0.0
        for name, value in row.parts.items():
            colour = ACCENT if row.ours and name == "network" else colours[name]
            style = {"height": _BAR, "color": colour, "edgecolor": "white", "linewidth": 0.5}
            axes.barh(place, max(0.0, value), left=left, **style)
            left += max(0.0, value)
        whole = figure(sum(row.parts.values()))
        _name_row(axes, place, f"{row.label}: {whole}", ours=row.ours)
    _frame_rows(axes, title, len(rows), most, "ms of one JPEG")
    from matplotlib.patches import Patch

    keys = [Patch(color=colours[name], label=shown(name)) for name in names]
    look = {"ncols": 4, "fontsize": 8, "frameon": False, "labelcolor": INK}
    axes.legend(handles=keys, loc="lower left", bbox_to_anchor=(-0.02, -0.02), **look)


def _name_row(axes: Any, place: int, text: str, *, ours: bool) -> None:
    colour = ACCENT if ours else INK
    axes.text(0, place + 0.27, shown(text), fontsize=8, color=colour, va="bottom")


def _frame_rows(axes: Any, title: str, count: int, most: int, unit: str) -> None:
    axes.set_title(shown(fitted(title, 10, _TITLE)), fontsize=10, color=INK, loc="left")
    # As thick in every chart, from the top.
    axes.set_ylim(count - max(most, _LEAST_ROWS) - 0.6, count - 0.1)
    axes.set_yticks([])
    axes.set_xlabel(unit, color=SOFT, fontsize=9)
    quiet(axes)
    axes.spines["left"].set_visible(False)


def _bar_rows(groups: Sequence[tuple[str, list[Summary]]]) -> list[tuple[str, list[_Row]]]:
    """For each model the engines, the fastest on top; one chart of all where one engine ran."""
    charts = []
    for model, group in groups:
        rows = [
            (engine_label(s.contender), s.contender.kind == "ours", s.images_per_s)
            for s in group
            if s.images_per_s is not None
        ]
        if rows:
            charts.append((model, sorted(rows, key=lambda row: row[2].median)))
    engines = {label for _, rows in charts for label, _, _ in rows}
    if len(charts) < 2 or len(engines) != 1:
        return charts
    joined = [(model, ours, speed) for model, rows in charts for _, ours, speed in rows]
    return [(engines.pop(), joined[::-1])]


def quiet(axes: Any) -> None:
    """Leave of the axes what a reader needs."""
    axes.set_axisbelow(True)
    axes.tick_params(colors=SOFT, labelsize=8, length=0)
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color("#c9c7c0")


def shown(text: str) -> str:
    """`text` as matplotlib shows it: no formulas, and no characters that its font lacks."""
    from matplotlib.font_manager import FontProperties, findfont, get_font

    font = get_font(findfont(FontProperties()))
    text = printable(" ".join(text.split()))
    text = "".join(c if font.get_char_index(ord(c)) else "?" for c in text)
    if text.startswith("_"):  # which would keep a curve out of the legend
        text = f"\N{ZERO WIDTH SPACE}{text}" if font.get_char_index(0x200B) else f" {text}"
    return text.replace("\\", "/").replace("$", r"\$")
