"""The tables of a report as rows of text, for the page and for Markdown alike."""

from __future__ import annotations

import shlex
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from levit.benchmarks.measured import STAGES
from levit.benchmarks.record import Record
from levit.benchmarks.report.context import Context
from levit.benchmarks.report.figures import figure, interval_text, percent_text
from levit.benchmarks.report.series import by_model, engine_label, model_order
from levit.benchmarks.summary import Comparison, Summary, ok, over_best_peers

__all__ = [
    "Column",
    "Table",
    "best_peer_table",
    "case_text",
    "command_line",
    "gpu_table",
    "machine_table",
    "one_batch",
    "protocol_tables",
    "ratio_tables",
    "refused_table",
]

_TITLES: Final = {
    "paper": "Images per second, the paper's protocol",
    "latency": "Latency",
    "throughput": "Throughput, best of batch × streams",
    "end-to-end": "End to end, one image: JPEG bytes to top-1",
    "end-to-end-many": "End to end, many images: JPEG bytes to top-1",
    "cold-start": "Cold start to the first prediction",
    "memory": "Peak resident memory",
}
_QUANTITIES: Final = {
    "speed": "images/s",
    "latency": "median latency",
    "start": "start to first prediction",
    "memory": "peak memory",
}
# What a verdict on speed means where less is better and nothing is fast.
_SMALLER: Final = {"faster": "smaller", "slower": "larger"}


@dataclass(frozen=True, kw_only=True)
class Column:
    """A column: its heading, and whether it holds numbers (set flush right)."""

    title: str
    numeric: bool = True


@dataclass(frozen=True, kw_only=True)
class Table:
    """Rows of text; `ours` are the indices of rows to set off."""

    title: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[str, ...], ...]
    ours: frozenset[int] = frozenset()
    note: str = ""


def protocol_tables(items: Sequence[Summary], context: Context) -> dict[str, Table]:
    """A table for each protocol that has been measured."""
    found = {}
    for protocol, (columns, cells) in _protocols(context, items).items():
        rows: list[tuple[str, ...]] = []
        where = f"published: {context.published_title}" if "published" in str(columns) else ""
        ours = set()
        for model, group in by_model(items, protocol):
            for item in group:
                if item.contender.kind == "ours":
                    ours.add(len(rows))
                rows.append((model, engine_label(item.contender), *cells(item)))
        if rows:
            found[protocol] = Table(
                title=_title(protocol, [s.measurement.settings for s in ok(items, protocol)]),
                columns=(
                    Column(title="model", numeric=False),
                    Column(title="engine", numeric=False),
                    *(Column(title=c) for c in columns),
                ),
                rows=tuple(rows),
                ours=frozenset(ours),
                note="; ".join(filter(None, (_settings_note(ok(items, protocol)), where))),
            )
    return found


def one_batch(settings: Sequence[Mapping[str, Any]]) -> int | None:
    """Images of a call, where that is one number."""
    found = {int(values.get("batch", 1)) for values in settings}
    return found.pop() if len(found) == 1 else None


def _title(protocol: str, settings: Sequence[Mapping[str, Any]]) -> str:
    batch = one_batch(settings) if protocol == "latency" else None
    return _TITLES[protocol] + (f" of {batch} images" if (batch or 1) > 1 else "")


def _protocols(
    context: Context, items: Sequence[Summary]
) -> dict[str, tuple[tuple[str, ...], Any]]:
    titles: tuple[str, ...] = ("of ceiling",)
    if any(s.register_fraction is not None for s in items):
        titles += ("of register peak",)

    def fractions(s: Summary) -> tuple[str, ...]:
        found = (s.ceiling_fraction, s.register_fraction)
        return tuple(percent_text(fraction) for fraction in found[: len(titles)])

    paper_columns: tuple[str, ...] = ("top-1, %", "images/s", "batch ÷ mean time")
    if context.published:
        paper_columns += ("published, images/s",)
    paper_columns += ("GFLOP/s", *titles, "error")

    def paper(s: Summary) -> tuple[str, ...]:
        cells = [_top1(s), interval_text(s.images_per_s), figure(s.paper_images_per_s)]
        if context.published:
            known = context.published.get(s.contender.model)
            cells.append(figure(known.images_per_s) if known else "–")
        cells.append(figure(s.gflop_per_s.median) if s.gflop_per_s else "–")
        return (*cells, *fractions(s), _error(s))

    return {
        "paper": (paper_columns, paper),
        "latency": (
            ("p50, ms", "p90, ms", "p99, ms", *titles, "error"),
            lambda s: (
                *(interval_text(s.latency_ms.get(p)) for p in (50, 90, 99)),
                *fractions(s),
                _error(s),
            ),
        ),
        "throughput": (
            ("images/s", "batch", "streams", *titles, "error"),
            lambda s: (
                interval_text(s.images_per_s),
                str(s.measurement.settings.get("batch", "–")),
                str(s.measurement.settings.get("streams", "–")),
                *fractions(s),
                _error(s),
            ),
        ),
        "end-to-end": (
            ("p50, ms", *(f"{stage}, ms" for stage in STAGES), "p99, ms"),
            lambda s: (
                interval_text(s.latency_ms.get(50)),
                *(figure(s.stages_ms.get(stage)) for stage in STAGES),
                interval_text(s.latency_ms.get(99)),
            ),
        ),
        "end-to-end-many": (
            ("images/s", "ms/image", "CPU, ms/image", "time × threads ÷ CPU", "batch"),
            lambda s: (
                interval_text(s.images_per_s),
                figure(1e3 / s.images_per_s.median if s.images_per_s else None),
                interval_text(s.cpu_ms),
                interval_text(s.time_over_cpu),
                str(s.measurement.settings.get("batch", "–")),
            ),
        ),
        "cold-start": (("seconds",), lambda s: (interval_text(s.start_s),)),
        "memory": (("MB",), lambda s: (interval_text(s.peak_mb),)),
    }


def _top1(item: Summary) -> str:
    return "–" if item.contender.top1 is None else f"{item.contender.top1:.1f}"


def _error(item: Summary) -> str:
    error = item.measurement.error
    return "–" if error is None else f"{error:.1e}"


def _settings_note(items: Sequence[Summary]) -> str:
    """Settings that all measurements have in common."""
    first = items[0].measurement.settings
    same = {
        key: value
        for key, value in first.items()
        if all(s.measurement.settings.get(key) == value for s in items)
    }
    rounds = sorted({len(s.measurement.rounds) for s in items})
    said = [
        f"{key} {figure(value) if isinstance(value, float) else value}"
        for key, value in same.items()
        if key != "rounds"  # those that were asked for; an interrupted run has fewer
    ]
    said.append(f"rounds {rounds[0]}" + (f" to {rounds[-1]}" if len(rounds) > 1 else ""))
    return ", ".join(said)


def ratio_tables(found: Sequence[Comparison]) -> list[Table]:
    """Ours beside each peer of the same model, a table for each protocol."""
    tables = []
    for protocol in _TITLES:
        chosen = [c for c in found if c.protocol == protocol]
        if not chosen:
            continue
        order = model_order(c.ours for c in chosen)
        chosen.sort(key=lambda c: order.index(c.ours.model))
        rows = tuple(
            (
                c.ours.model,
                engine_label(c.ours),
                engine_label(c.peer),
                interval_text(c.ratio),
                _SMALLER.get(c.verdict, c.verdict) if c.quantity == "memory" else c.verdict,
            )
            for c in chosen
        )
        quantity = _QUANTITIES[chosen[0].quantity]
        tables.append(
            Table(
                title=_title(protocol, [c.settings for c in chosen]),
                columns=(
                    Column(title="model", numeric=False),
                    Column(title="ours", numeric=False),
                    Column(title="peer", numeric=False),
                    Column(title="ratio"),
                    Column(title="ours is", numeric=False),
                ),
                rows=rows,
                note=f"{quantity}; above 1 ours is better; ratios of neighbouring rounds",
            )
        )
    return tables


def best_peer_table(found: Sequence[Comparison]) -> Table | None:
    """Ours over the best peer at the same precision, of all models and protocols."""
    chosen = over_best_peers(found)
    if not chosen:
        return None
    models = model_order(c.ours for c in chosen)
    protocols = list(_TITLES)
    chosen.sort(key=lambda c: (protocols.index(c.protocol), models.index(c.ours.model)))
    rows = tuple(
        (
            case_text(c.protocol, c.settings),
            c.ours.model,
            engine_label(c.ours),
            engine_label(c.peer),
            interval_text(c.ratio),
            _SMALLER.get(c.verdict, c.verdict) if c.quantity == "memory" else c.verdict,
        )
        for c in chosen
    )
    return Table(
        title="Ours over the best peer",
        columns=(
            Column(title="measured", numeric=False),
            Column(title="model", numeric=False),
            Column(title="ours", numeric=False),
            Column(title="best peer", numeric=False),
            Column(title="ratio"),
            Column(title="ours is", numeric=False),
        ),
        rows=rows,
        note="best of those measured at the same precision; above 1 ours is better",
    )


def case_text(protocol: str, settings: Mapping[str, Any]) -> str:
    """``latency, batch 1, 2 threads``: the protocol, and what of its settings stands for it."""
    parts = [protocol]
    if protocol in ("paper", "latency"):
        parts.append(f"batch {settings.get('batch', 1)}")
    threads = settings.get("threads", 1)
    parts.append(f"{threads} thread" + ("" if threads == 1 else "s"))
    return ", ".join(parts)


def refused_table(items: Sequence[Summary]) -> Table | None:
    """Measurements that were not taken, and why."""
    # What fails once usually fails under every protocol: one line.
    where: dict[tuple[str, str, str, str], list[str]] = {}
    case: tuple[str, str, str, str]
    for s in items:
        if s.measurement.status != "ok":
            reason = s.measurement.reason or "no reason given"
            case = (s.contender.model, engine_label(s.contender), s.measurement.status, reason)
            where.setdefault(case, []).append(s.measurement.protocol)
        elif not any(r.values for r in s.measurement.rounds):
            reason = "the run ended before its turn"
            case = (s.contender.model, engine_label(s.contender), "not reached", reason)
            where.setdefault(case, []).append(s.measurement.protocol)
    rows = tuple(
        (model, engine, status, reason, ", ".join(protocols))
        for (model, engine, status, reason), protocols in where.items()
    )
    titles = ("model", "engine", "status", "reason", "protocols")
    columns = tuple(Column(title=t, numeric=False) for t in titles)
    return Table(title="Not measured", columns=columns, rows=rows) if rows else None


def machine_table(record: Record) -> Table:
    """The machine's fingerprint, one line a value."""
    rows = tuple(_flat(record.machine, ""))
    columns = (Column(title="what", numeric=False), Column(title="value", numeric=False))
    return Table(title="The machine", columns=columns, rows=rows)


def _flat(values: Mapping[str, Any], beginning: str) -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    for key, value in values.items():
        name = f"{beginning}{key}".replace("_", " ")
        if isinstance(value, Mapping):
            found += _flat(value, f"{name}: ")
        elif isinstance(value, Sequence) and not isinstance(value, str):
            found.append((name, " ".join(map(_cell, value)) or "–"))
        elif key.endswith("_bytes") and isinstance(value, int):
            found.append((name.removesuffix(" bytes"), f"{figure(value / 1e9)} GB"))
        else:
            found.append((name, _cell(value)))
    return found


def _cell(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}"
    return "–" if value is None or value == "" else str(value)


def gpu_table(record: Record) -> Table | None:
    """Clocks and temperatures of the GPU over the run; None on a CPU."""
    rows = []
    for name in dict.fromkeys(key for sample in record.gpu_samples for key in sample):
        values = [sample.get(name) for sample in record.gpu_samples]
        numbers = [v for v in values if isinstance(v, int | float) and not isinstance(v, bool)]
        if numbers:
            shown = (min(numbers), statistics.median(numbers), max(numbers))
            rows.append((name.replace("_", " "), *map(figure, shown)))
    titles = ("what", "least", "median", "most")
    columns = tuple(Column(title=t, numeric=t != "what") for t in titles)
    return (
        Table(title="The GPU between rounds", columns=columns, rows=tuple(rows)) if rows else None
    )


def command_line(record: Record) -> str:
    """The command that makes this record again."""
    return shlex.join(record.command)
