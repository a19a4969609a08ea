"""The top of the page: ratios in large type."""

from __future__ import annotations

from levit.benchmarks.intervals import Interval
from levit.benchmarks.record import Record
from levit.benchmarks.report.accuracy_tables import best_engine_table, headline_table
from levit.benchmarks.report.context import Context
from levit.benchmarks.report.figures import figure
from levit.benchmarks.report.markup import Markup, tag
from levit.benchmarks.report.sections import Section, cards, section
from levit.benchmarks.report.series import engine_label
from levit.benchmarks.report.table_markup import folded, table_box
from levit.benchmarks.report.tables import (
    best_peer_table,
    case_text,
)
from levit.benchmarks.summary import Comparison, comparisons, over_best_peers

__all__ = ["best_engine_section", "best_peer_section", "headline_section"]


def headline_section(context: Context) -> Section | None:
    """LeViT over another architecture at equal published accuracy."""
    table = headline_table(context)
    if table is None or not any(row.ratio for row in context.headline):
        return None
    tiles = []
    at_reference = [row for row in context.headline if not row.model] or context.headline
    for row in at_reference:
        if row.ratio is not None:
            said = f"{row.over} at {row.top1:.1f} % top-1"
            tiles.append(_tile(row.engine, row.ratio, said))
    return section(
        "headline",
        "LeViT at equal accuracy",
        "Images per second of LeViT over those of another architecture on the same engine, at "
        "the same published top-1, interpolated on the curves below. Above 1 LeViT leads.",
        cards(tiles, "tiles"),
        table_box(table),
    )


def best_engine_section(context: Context) -> Section | None:
    """LeViT over every other architecture, each network on its best engine."""
    table = best_engine_table(context)
    if table is None:
        return None
    return section(
        "architectures",
        "LeViT beside other architectures",
        "Speed of LeViT over that of other architectures at the same published top-1, "
        "interpolated between their sizes, each network on the engine that runs it fastest at "
        "that precision or a more exact one. Below 1 LeViT is slower.",
        table_box(table),
    )


def best_peer_section(record: Record) -> Section | None:
    """Each engine of ours over the best of the others."""
    found = over_best_peers(comparisons(record))
    table = best_peer_table(found)
    if table is None:
        return None
    # Of several of ours the one that leads by most, in each case.
    leads: dict[tuple[str, str, str], Comparison] = {}
    for one in found:
        case = (one.protocol, one.ours.model, one.ours.precision)
        if case not in leads or one.ratio.median > leads[case].ratio.median:
            leads[case] = one
    tiles = [
        _tile(
            f"{one.ours.model}, {engine_label(one.ours)}",
            one.ratio,
            f"over {engine_label(one.peer)}; {case_text(one.protocol, one.settings)}",
        )
        for one in leads.values()
        if one.protocol in ("paper", "latency") and one.ours.model.startswith("levit")
    ]
    return section(
        "best-peers",
        "Ours over the best peer",
        "Each engine of ours over the best alternative that was measured beside it, on the same "
        "model at the same precision, threads and batch. Above 1 ours is better.",
        cards(tiles, "tiles"),
        folded(table),
    )


def _tile(title: str, ratio: Interval, said: str) -> Markup:
    """A ratio in large type, in the accent where its whole interval is above 1."""
    return tag(
        "div",
        {"class": "tile lead-on" if ratio.low > 1 else "tile"},
        tag("p", {"class": "engine"}, title),
        tag("div", {"class": "big"}, f"{figure(ratio.median)} ×"),
        tag("p", {}, f"{said}; 95 %: {figure(ratio.low)} to {figure(ratio.high)}"),
    )
