"""Prints of ``levit bench``: one table a protocol, the headline, the machine's quietness."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any, Final

from levit.benchmarks.compare import RunComparison
from levit.benchmarks.record import Record
from levit.benchmarks.report import Context, gathered
from levit.benchmarks.report.accuracy_tables import best_engine_table, headline_table
from levit.benchmarks.report.figures import figure
from levit.benchmarks.report.tables import (
    Table,
    best_peer_table,
    protocol_tables,
    ratio_tables,
    refused_table,
)
from levit.benchmarks.summary import (
    Summary,
    ceilings,
    comparisons,
    register_peaks,
    summaries,
)
from levit.commands.output import print_line, print_table

__all__ = ["print_comparison", "print_one_table", "print_record", "record_json"]


def print_record(record: Record) -> None:
    """Print every table of a run."""
    context = gathered(record)
    items = summaries(record)
    found = comparisons(record)
    tables = [*protocol_tables(items, context).values(), *ratio_tables(found)]
    others = (
        best_peer_table(found),
        headline_table(context),
        best_engine_table(context),
        refused_table(items),
    )
    tables += [table for table in others if table]
    for table in tables:
        print_one_table(table)
    for name, what, tops in (
        ("ceiling", "the best matrix product", ceilings(record)),
        ("register peak", "multiply-adds in registers alone", register_peaks(record)),
    ):
        for (precision, threads), top in sorted(tops.items()):
            count = "1 thread" if threads == 1 else f"{threads} threads"
            print_line(f"{name}, {precision}, {count}: {top:.0f} GFLOP/s ({what})")
    because = f": {'; '.join(context.reasons)}" if context.reasons else ""
    print_line(f"the machine was {context.quietness}{because}")


def print_one_table(table: Table) -> None:
    """Print the columns of a table that hold anything, and an empty line."""
    print_line(table.title + (f" ({table.note})" if table.note else ""))
    header = [column.title for column in table.columns]
    rows = [list(row) for row in table.rows]
    used = [i for i in range(len(header)) if any(row[i] not in ("", "–") for row in rows)]
    right = [table.columns[i].numeric for i in used]
    print_table([[row[i] for i in used] for row in rows], [header[i] for i in used], right)
    print_line()


# ---------------------------------------------------------------------------- two runs


_SMALLER: Final = {"faster": "smaller", "slower": "larger"}


def print_comparison(comparison: RunComparison) -> None:
    """Print a line for each change, and the measurements that only one run has."""
    rows = [
        [
            change.contender,
            change.protocol,
            figure(change.before.median),
            figure(change.after.median),
            change.quantity,
            f"{change.ratio.median:.3f}",
            f"[{change.ratio.low:.3f}, {change.ratio.high:.3f}]",
            _SMALLER.get(change.verdict, change.verdict)
            if change.quantity == "MB"
            else change.verdict,
        ]
        for change in comparison.changes
    ]
    header = "contender,protocol,before,after,unit,better by,at least 95 %,verdict"
    print_table(rows, header.split(","))
    print_line()
    print_line(
        f"the machine itself changed by {comparison.drift:+.1%}, by which intervals are wider"
    )
    for line in comparison.circumstances:
        print_line(line)
    for which, names in (("first", comparison.only_before), ("second", comparison.only_after)):
        for name in names:
            print_line(f"only in the {which}: {name}")


def record_json(record: Record) -> dict[str, Any]:
    """Return the values of the tables; the raw ones are in the record's file."""
    context = gathered(record)
    return {
        "status": record.status,
        "quietness": {"verdict": context.quietness, "reasons": list(context.reasons)},
        "published_on": context.published_title,
        "measurements": [_summary_json(s, context) for s in summaries(record)],
        "comparisons": [asdict(race) for race in comparisons(record)],
        "headline": [asdict(row) for row in context.headline],
        "best_engines": [asdict(row) for row in context.best],
    }


def _summary_json(summary: Summary, context: Context) -> dict[str, Any]:
    m = summary.measurement
    published = context.published.get(summary.contender.model)
    return {
        "contender": asdict(summary.contender),
        "protocol": m.protocol,
        "settings": dict(m.settings),
        "status": m.status,
        "reason": m.reason,
        "error": m.error,
        "images_per_s": summary.images_per_s,
        "paper_images_per_s": summary.paper_images_per_s,
        "published": None if published is None else asdict(published),
        "latency_ms": {f"p{percent}": value for percent, value in summary.latency_ms.items()},
        "stages_ms": dict(summary.stages_ms),
        "cpu_ms": summary.cpu_ms,
        "time_over_cpu": summary.time_over_cpu,
        "start_s": summary.start_s,
        "peak_mb": summary.peak_mb,
        "gflop_per_s": summary.gflop_per_s,
        "ceiling_fraction": summary.ceiling_fraction,
        "register_fraction": summary.register_fraction,
    }
