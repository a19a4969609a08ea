"""Which rows each model's charts have, and in what order."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from levit.benchmarks.intervals import Interval
from levit.benchmarks.report.markup import Markup
from levit.benchmarks.report.row_charts import Row, bars, distributions, stacks
from levit.benchmarks.report.series import by_model, engine_label
from levit.benchmarks.summary import Summary

__all__ = ["bar_charts", "distribution_charts", "stage_charts", "stage_rows"]

_Group = tuple[str, list[Summary]]
_Rows = tuple[str, list[Row]]


def bar_charts(
    items: Sequence[Summary],
    protocol: str,
    unit: str,
    value: Callable[[Summary], Interval | None],
    key: str,
    full: float = 0.0,
) -> list[Markup]:
    """Bars of `value` for each model: all under ``paper``, elsewhere those that ours run too."""
    charts: list[_Rows] = []
    groups = by_model(items, protocol)
    for model, group in groups if protocol == "paper" else _with_ours(groups):
        found = [(s, known) for s in group if (known := value(s)) is not None]
        # The best first: most images, least seconds and bytes.
        found.sort(key=lambda pair: pair[1].median, reverse=unit not in ("s", "MB"))
        rows = [Row(label=_label(s), ours=_ours(s), value=known) for s, known in found]
        if found:
            charts.append((model, rows + _missing(items, protocol, model)))
    return [
        bars(title, rows, unit, f"{key}-{index}", full)
        for index, (title, rows) in enumerate(_joined(charts))
    ]


def _with_ours(groups: list[_Group]) -> list[_Group]:
    """The models that this is about, where they are there; tables have the others too."""
    return [group for group in groups if any(map(_ours, group[1]))] or groups


def _joined(charts: list[_Rows]) -> list[_Rows]:
    """One chart of all models where only one engine has run them, else the charts."""
    engines = {row.label for _, rows in charts for row in rows}
    if len(engines) != 1 or len(charts) < 2:
        return charts
    rows = [replace(row, label=model) for model, rows in charts for row in rows]
    return [(engines.pop(), rows)]


def _missing(items: Sequence[Summary], protocol: str, model: str) -> list[Row]:
    return [
        Row(
            label=_label(s),
            ours=_ours(s),
            missing=f"{s.measurement.status}: {s.measurement.reason}",
        )
        for s in items
        if s.measurement.protocol == protocol
        and s.contender.model == model
        and s.measurement.status != "ok"
    ]


def distribution_charts(items: Sequence[Summary]) -> list[Markup]:
    """The calls of ``latency`` for each model that ours run too."""
    charts: list[_Rows] = []
    for model, group in _with_ours(by_model(items, "latency")):
        rows = []
        for item in sorted((s for s in group if s.latency_ms), key=lambda s: s.latency_ms[50]):
            calls = [v for r in item.measurement.rounds for v in r.values]
            cuts = np.percentile(np.asarray(calls, np.float64) / 1e6, [1, 25, 50, 75, 90, 99])
            percentiles = dict(zip((1, 25, 50, 75, 90, 99), map(float, cuts), strict=True))
            value = item.latency_ms[50]
            rows.append(
                Row(label=_label(item), ours=_ours(item), value=value, percentiles=percentiles)
            )
        if rows:
            charts.append((model, rows))
    return [
        distributions(title, rows, "ms", f"latency-{index}")
        for index, (title, rows) in enumerate(_joined(charts))
    ]


def stage_charts(items: Sequence[Summary]) -> list[Markup]:
    """The stages of ``end-to-end`` for each model that ours run too."""
    return [
        stacks(title, rows, "ms", f"stages-{index}")
        for index, (title, rows) in enumerate(stage_rows(items))
    ]


def stage_rows(items: Sequence[Summary]) -> list[tuple[str, list[Row]]]:
    """Title and rows of each chart of stages, the fastest first."""
    charts: list[_Rows] = []
    for model, group in _with_ours(by_model(items, "end-to-end")):
        chosen = [s for s in group if s.stages_ms]
        chosen.sort(key=lambda s: sum(s.stages_ms.values()))
        rows = [Row(label=_label(s), ours=_ours(s), parts=s.stages_ms) for s in chosen]
        if rows:
            charts.append((model, rows))
    return _joined(charts)


def _label(item: Summary) -> str:
    return engine_label(item.contender)


def _ours(item: Summary) -> bool:
    return item.contender.kind == "ours"
