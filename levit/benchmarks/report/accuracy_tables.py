"""Tables of LeViT beside other architectures at equal published accuracy."""

from __future__ import annotations

from levit.benchmarks.report.context import Context, HeadlineRow
from levit.benchmarks.report.figures import interval_text
from levit.benchmarks.report.tables import Column, Table

__all__ = ["best_engine_table", "headline_table"]


def headline_table(context: Context) -> Table | None:
    """LeViT ÷ another architecture at equal published accuracy, by engine."""
    if not context.headline:
        return None
    rows = tuple(
        (
            row.engine,
            row.over,
            f"{row.top1:.1f}",
            row.model or "interpolated",
            interval_text(row.ratio),
            row.note,
        )
        for row in context.headline
    )
    columns = (
        Column(title="engine", numeric=False),
        Column(title="LeViT over", numeric=False),
        Column(title="at top-1, %"),
        Column(title="LeViT", numeric=False),
        Column(title="times as fast"),
        Column(title="note", numeric=False),
    )
    return Table(title="At every accuracy that both reach", columns=columns, rows=rows)


def best_engine_table(context: Context) -> Table | None:
    """LeViT ÷ every other architecture at equal published accuracy, each on its best engine.

    A row for each protocol, precision and architecture, a column for each LeViT.
    """
    found: dict[tuple[str, str, str, str], dict[str, HeadlineRow]] = {}
    accuracies: dict[str, float] = {}
    for row in context.best:
        if row.model:  # both curves interpolated says no more
            case = (row.measured, row.engine, row.over, row.note)
            found.setdefault(case, {})[row.model] = row
            accuracies[row.model] = row.top1
    if not found:
        return None
    models = sorted(accuracies, key=lambda model: (accuracies[model], model))
    titles = [f"{model}, {accuracies[model]:.1f} %" for model in models]
    return Table(
        title="LeViT at equal accuracy, each network on its best engine",
        columns=(
            *(Column(title=t, numeric=False) for t in ("measured", "precision", "LeViT over")),
            *(Column(title=title) for title in titles),
            Column(title="engines", numeric=False),
        ),
        rows=tuple(
            (
                *case[:3],
                *(interval_text(by[m].ratio if m in by else None) for m in models),
                case[3],
            )
            for case, by in found.items()
        ),
        note="times as fast as the other architecture, interpolated at each LeViT's published "
        "top-1; below 1 LeViT is slower; a network's best engine is the fastest at that precision "
        "or a more exact one",
    )
