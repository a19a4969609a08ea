"""What ``levit bench`` prints: one table a protocol, the headline, the machine's quietness."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from levit.benchmarks.compare import Comparison
from levit.benchmarks.headline import Headline, headlines
from levit.benchmarks.intervals import Interval
from levit.benchmarks.noise import quietness
from levit.benchmarks.protocols import PROTOCOLS
from levit.benchmarks.published import MACHINES, PUBLISHED
from levit.benchmarks.record import Record
from levit.benchmarks.summary import Comparison as Race
from levit.benchmarks.summary import Summary, comparisons, headline_rates, summaries
from levit.commands.output import print_table, printable

__all__ = ["comparison_json", "print_comparison", "print_record", "record_json"]


def print_record(record: Record) -> None:
    """Every table of a run."""
    rows = summaries(record)
    races = comparisons(record)
    used = dict.fromkeys(m.protocol for m in record.measurements)
    for number, protocol in enumerate(used):
        if number:
            print()
        print(f"{protocol}: {PROTOCOLS[protocol].summary}")
        here = [s for s in rows if s.measurement.protocol == protocol]
        _print_protocol(protocol, here, [r for r in races if r.protocol == protocol])
        _print_failures(here)
    for protocol in used:
        _print_headlines(protocol, headlines(headline_rates(record, protocol)))
    verdict, reasons = quietness(record.noise)
    print(f"\nthe machine was {verdict}" + (f": {'; '.join(reasons)}" if reasons else ""))


def _print_protocol(protocol: str, rows: Sequence[Summary], races: Sequence[Race]) -> None:
    shown = [
        s for s in rows if s.measurement.status == "ok" and s.contender.kind != "ceiling"
        and s.measurement.rounds
    ]
    if not shown:
        print("nothing was measured")
        return
    columns = _COLUMNS[protocol]
    lines = [
        [s.contender.model, s.contender.title, s.contender.precision, *(c(s) for c in columns.values())]
        for s in shown
    ]
    header = ["model", "engine", "precision", *columns]
    if races:
        header.append("ours over it")
        for line, summary in zip(lines, shown, strict=True):
            line.append(_race(summary, races))
    used = [i for i in range(len(header)) if i < 3 or any(line[i] for line in lines)]
    print_table([[line[i] for i in used] for line in lines], [header[i] for i in used])
    for (precision, threads), top in sorted(_tops(rows).items()):
        print(f"ceiling {precision}, {threads} threads: {top:.0f} GFLOP/s (matrix product)")


def _tops(rows: Sequence[Summary]) -> dict[tuple[str, int], float]:
    best: dict[tuple[str, int], float] = {}
    for s in rows:
        if s.contender.kind == "ceiling" and s.gflop_per_s is not None:
            key = s.contender.precision, int(s.measurement.settings["threads"])
            best[key] = max(best.get(key, 0.0), s.gflop_per_s.median)
    return best


def _race(summary: Summary, races: Sequence[Race]) -> str:
    """Our best over this peer: ratio, interval, verdict."""
    mine = [r for r in races if r.peer.name == summary.contender.name]
    if not mine:
        return ""
    best = max(mine, key=lambda race: race.ratio.median)
    ratio = best.ratio
    return f"{ratio.median:.2f} [{ratio.low:.2f}, {ratio.high:.2f}] {best.verdict}"


def _print_failures(rows: Sequence[Summary]) -> None:
    for s in rows:
        if s.measurement.status != "ok" and s.contender.kind != "ceiling":
            print(
                printable(f"{s.measurement.status}: {s.contender.name}: {s.measurement.reason}")
            )


def _print_headlines(protocol: str, found: Sequence[Headline]) -> None:
    rows = [
        [
            headline.levit,
            headline.efficientnet,
            headline.precision,
            f"{lead.top1:.1f}",
            lead.model or "interpolated",
            f"{lead.ratio.median:.2f}",
            f"[{lead.ratio.low:.2f}, {lead.ratio.high:.2f}]",
        ]
        for headline in found
        for lead in headline.leads
    ]
    if rows:
        print(f"\nLeViT ÷ EfficientNet at equal published top-1, {protocol}")
        print_table(
            rows, ["LeViT by", "EfficientNet by", "precision", "top-1 %", "model", "ratio", "95 %"]
        )


# ---------------------------------------------------------------------------- columns


def _number(value: float) -> str:
    """Three significant digits, or all before the point."""
    if value >= 100:
        return f"{value:.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def _median(interval: Interval | None) -> str:
    return "" if interval is None else _number(interval.median)


def _ends(interval: Interval | None) -> str:
    if interval is None:
        return ""
    return f"[{_number(interval.low)}, {_number(interval.high)}]"


def _xeon(summary: Summary) -> str:
    published = PUBLISHED.get(summary.contender.model)
    on_cpu = summary.measurement.settings.get("device") == "cpu"
    value = None if published is None else published.xeon if on_cpu else published.v100
    return "" if value is None else f"{value:.1f}"


def _ceiling(summary: Summary) -> str:
    fraction = summary.ceiling_fraction
    return "" if fraction is None else f"{fraction:.2f}"


def _percentile(percent: int) -> Any:
    return lambda s: _median(s.latency_ms.get(percent))


def _stage(name: str) -> Any:
    return lambda s: "" if name not in s.stages_ms else f"{s.stages_ms[name]:.2f}"


def _setting(name: str) -> Any:
    return lambda s: str(s.measurement.settings.get(name, ""))


_SPEED: Mapping[str, Any] = {
    "images/s": lambda s: _median(s.images_per_s),
    "95 %": lambda s: _ends(s.images_per_s),
}
_LATENCY: Mapping[str, Any] = {
    "p50 ms": _percentile(50),
    "95 %": lambda s: _ends(s.latency_ms.get(50)),
    "p90 ms": _percentile(90),
    "p99 ms": _percentile(99),
}
_COLUMNS: Mapping[str, Mapping[str, Any]] = {
    "paper": {**_SPEED, "paper's": _xeon, "of ceiling": _ceiling},
    "latency": {**_LATENCY, "of ceiling": _ceiling},
    "throughput": {
        **_SPEED,
        "batch": _setting("batch"),
        "streams": _setting("streams"),
        "of ceiling": _ceiling,
    },
    "end-to-end": {
        **_LATENCY,
        "decode": _stage("decode"),
        "resize": _stage("resize"),
        "infer": _stage("infer"),
    },
    "cold-start": {"s": lambda s: _median(s.start_s), "95 %": lambda s: _ends(s.start_s)},
    "memory": {"MB": lambda s: _median(s.peak_mb), "95 %": lambda s: _ends(s.peak_mb)},
}


# ---------------------------------------------------------------------------- two runs


def print_comparison(comparison: Comparison) -> None:
    """One line a change, and what could not be compared."""
    print_table(
        [
            [
                change.contender,
                change.protocol,
                _number(change.before.median),
                _number(change.after.median),
                change.quantity,
                f"{change.ratio.median:.3f}",
                f"[{change.ratio.low:.3f}, {change.ratio.high:.3f}]",
                change.verdict,
            ]
            for change in comparison.changes
        ],
        ["contender", "protocol", "before", "after", "unit", "better by", "at least 95 %", "verdict"],
    )
    print(f"\nthe machine itself changed by {comparison.drift:+.1%}, by which intervals are wider")
    for line in comparison.circumstances:
        print(printable(line))
    for which, names in (("first", comparison.only_before), ("second", comparison.only_after)):
        for name in names:
            print(printable(f"only in the {which}: {name}"))


def comparison_json(comparison: Comparison) -> dict[str, Any]:
    """The comparison as plain values."""
    return asdict(comparison)


def record_json(record: Record) -> dict[str, Any]:
    """What the tables say, as plain values; the raw ones are in the record's file."""
    verdict, reasons = quietness(record.noise)
    return {
        "status": record.status,
        "quietness": {"verdict": verdict, "reasons": list(reasons)},
        "published_on": dict(MACHINES),
        "measurements": [_summary_json(s) for s in summaries(record)],
        "comparisons": [asdict(race) for race in comparisons(record)],
        "headlines": [
            {"protocol": protocol, **asdict(headline)}
            for protocol in dict.fromkeys(m.protocol for m in record.measurements)
            for headline in headlines(headline_rates(record, protocol))
        ],
    }


def _summary_json(summary: Summary) -> dict[str, Any]:
    m = summary.measurement
    published = PUBLISHED.get(summary.contender.model)
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
        "start_s": summary.start_s,
        "peak_mb": summary.peak_mb,
        "gflop_per_s": summary.gflop_per_s,
        "ceiling_fraction": summary.ceiling_fraction,
    }
