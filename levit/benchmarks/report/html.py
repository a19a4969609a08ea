"""The page: one file without network, scripts or fonts of its own."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from levit.benchmarks.intervals import Interval
from levit.benchmarks.measured import STAGES
from levit.benchmarks.record import Record
from levit.benchmarks.report.accuracy_plot import axes_of, panel_figure
from levit.benchmarks.report.context import Context
from levit.benchmarks.report.gathered import gathered
from levit.benchmarks.report.markup import Markup, tag
from levit.benchmarks.report.model_charts import bar_charts, distribution_charts, stage_charts
from levit.benchmarks.report.row_charts import noise_plot
from levit.benchmarks.report.sections import Section, cards, document, section
from levit.benchmarks.report.series import panels
from levit.benchmarks.report.table_markup import folded, table_box
from levit.benchmarks.report.tables import (
    Table,
    command_line,
    gpu_table,
    machine_table,
    one_batch,
    protocol_tables,
    ratio_tables,
    refused_table,
)
from levit.benchmarks.report.tiles import (
    best_engine_section,
    best_peer_section,
    headline_section,
)
from levit.benchmarks.summary import (
    Summary,
    comparisons,
    ok,
    summaries,
)
from levit.whole_file import write_whole

__all__ = ["to_html", "write_html"]


def write_html(record: Record, path: Path | str, context: Context | None = None) -> None:
    """Write `to_html` at `path`.

    Raises:
        ConfigError: the path cannot be written.
    """
    write_whole(path, to_html(record, context).encode("utf-8", "replace"))


def to_html(record: Record, context: Context | None = None) -> str:
    """The whole report; the same text for the same record and context (default: `gathered`)."""
    context = context or gathered(record)
    items = summaries(record)
    tables = protocol_tables(items, context)
    sections = [
        section
        for section in (
            headline_section(context),
            best_engine_section(context),
            best_peer_section(record),
            _accuracy(items, context, tables.get("paper")),
            *_row_sections(items, tables),
            _ratios(record),
            _refused(items),
            _machine(record, context),
            _again(record),
        )
        if section is not None
    ]
    title = f"LeViT benchmark, {_machine_name(record)}"
    links = [tag("li", {}, tag("a", {"href": f"#{key}"}, name)) for key, name, _ in sections]
    return document(
        title,
        _header(record, context),
        tag("nav", {"aria-label": "Contents"}, tag("ul", {}, *links)),
        tag("main", {}, *(body for _, _, body in sections)),
        tag(
            "footer",
            {},
            "Medians over interleaved rounds; whiskers and brackets are 95 % intervals "
            "without an assumed distribution. Every raw value stands in the JSON file from "
            "which this page was made.",
        ),
    )


# ------------------------------------------------------------------------------------ the top


def _machine_name(record: Record) -> str:
    for group, key in (("gpu", "name"), ("cpu", "model")):
        name = (record.machine.get(group) or {}).get(key)
        if name:
            return str(name)
    return "unknown machine"


def _moment(created: str) -> str:
    """``2026-11-20 12:00 UTC`` of ISO 8601 in UTC; anything else as it is."""
    found = re.fullmatch(r"(\d{4}-\d\d-\d\d)T(\d\d:\d\d)[\d:.]*(Z|\+00:00)", created)
    return f"{found[1]} {found[2]} UTC" if found else created


def _header(record: Record, context: Context) -> Markup:
    cpu = record.machine.get("cpu") or {}
    facts: list[tuple[str, str]] = [("", f"measured {_moment(record.created)}")]
    if device := record.settings.get("device"):
        facts.append(("", f"device {device}"))
    if (usable := cpu.get("usable")) is not None:
        facts.append(("", f"{usable} CPUs usable"))
    if version := (record.machine.get("versions") or {}).get("levit"):
        facts.append(("", f"levit {version}"))
    if context.quietness:
        classes = "" if context.quietness == "quiet" else "warn"
        facts.append((classes, f"machine {context.quietness}"))
    if record.status == "interrupted":
        facts.append(("warn", "interrupted: fewer rounds than asked for"))
    return tag(
        "header",
        {},
        tag("p", {"class": "kicker"}, "LeViT benchmark"),
        tag("h1", {}, _machine_name(record)),
        tag(
            "p",
            {"class": "lead"},
            "LeViT as this project deploys it, beside what one would use instead: the same "
            "machine, the same run, contenders in turns.",
        ),
        tag("ul", {"class": "facts"}, *(tag("li", {"class": c}, text) for c, text in facts)),
    )


# -------------------------------------------------------------------------------- the figures


def _accuracy(items: Sequence[Summary], context: Context, table: Table | None) -> Section | None:
    found = panels(items, context)
    if table is None:
        return None
    charts: list[str] = []
    if found:
        axes = axes_of(found)
        charts = [
            panel_figure(panel, [p for p in found if p is not panel], axes, f"accuracy-{i}")
            for i, panel in enumerate(found)
        ]
    said = (
        "The paper's figure, a panel for each engine, all on the same axes: up is more accurate, "
        "right is faster."
    )
    if len(found) > 1 and any(c.ours for panel in found for c in panel.curves):
        said += " The faint line in the other panels is ours."
    return section(
        "accuracy",
        "Accuracy against speed",
        said,
        cards(charts, "cards wide"),
        cards(bar_charts(items, "paper", "images/s", lambda s: s.images_per_s, "speed")),
        table_box(table),
    )


def _row_sections(items: Sequence[Summary], tables: dict[str, Table]) -> list[Section | None]:
    latency = distribution_charts(items)
    stage_key = tag(
        "ul",
        {"class": "legend"},
        *(
            tag("li", {}, tag("span", {"class": f"key s{i}"}), name)
            for i, name in enumerate(STAGES)
        ),
    )

    def made(
        protocol: str, title: str, said: str, charts: Sequence[str], *more: str
    ) -> Section | None:
        table = tables.get(protocol)
        if table is None:
            return None
        return section(protocol, title, said, *more, cards(charts), folded(table))

    return [
        made(
            "latency",
            "Latency",
            f"{_at_a_time(items)} at a time. Of all calls: line from p1 to p99, box from p25 to "
            "p75, a bar at p50, a ring at p90, a diamond at p99. Left is faster.",
            latency,
        ),
        made(
            "throughput",
            "Throughput",
            "The best of several batch sizes and streams. Each model has a scale of its own.",
            bar_charts(items, "throughput", "images/s", lambda s: s.images_per_s, "through"),
        ),
        made(
            "end-to-end",
            "From JPEG bytes to an answer",
            "One image: the median call, and what of it is decoding, resizing, the network and the "
            "rest. Stages are timed in calls between those that count.",
            stage_charts(items),
            stage_key,
        ),
        made(
            "end-to-end-many",
            "From many JPEGs to answers",
            "Many images with all threads, as each engine's user would write it. The table has the "
            "CPU time of an image beside the time that it takes.",
            bar_charts(items, "end-to-end-many", "images/s", lambda s: s.images_per_s, "many"),
        ),
        made(
            "cold-start",
            "Cold start",
            "From the start of a process to its first prediction.",
            bar_charts(items, "cold-start", "s", lambda s: s.start_s, "start"),
        ),
        made(
            "memory",
            "Memory",
            "Peak resident memory of a fresh process, 1 MB = 10⁶ bytes.",
            bar_charts(items, "memory", "MB", lambda s: s.peak_mb, "memory"),
        ),
        _ceiling(items),
    ]


def _at_a_time(items: Sequence[Summary]) -> str:
    batch = one_batch([s.measurement.settings for s in ok(items, "latency")])
    return {1: "One image", None: "One call"}.get(batch, f"{batch} images")


def _ceiling(items: Sequence[Summary]) -> Section | None:
    def percent(item: Summary) -> Interval | None:
        fraction = item.ceiling_fraction
        return None if fraction is None else Interval(*(100 * fraction,) * 3)

    charts = bar_charts(items, "paper", "% of the ceiling", percent, "ceiling", 100.0)
    if not charts:
        return None
    return section(
        "ceiling",
        "How near to the machine's ceiling",
        "Arithmetic per second over that of the fastest plain matrix product measured here at "
        "the same precision and threads.",
        cards(charts),
    )


# ------------------------------------------------------------------------------------ the rest


def _ratios(record: Record) -> Section | None:
    tables = ratio_tables(comparisons(record))
    if not tables:
        return None
    return section(
        "ratios",
        "Ours beside its peers",
        "Paired by round. Faster or slower is said where the interval leaves out 1 and the "
        "median is at least 2 % away; equal where the interval lies within 5 %.",
        table_box(tables[0]),
        *(folded(table) for table in tables[1:]),
    )


def _refused(items: Sequence[Summary]) -> Section | None:
    table = refused_table(items)
    if table is None:
        return None
    return section(
        "refused",
        "Not measured",
        "What failed, was skipped, or answers differently from the reference: correctness comes "
        "before speed.",
        table_box(table),
    )


def _machine(record: Record, context: Context) -> Section:
    parts: list[str] = []
    if context.quietness:
        reasons = "; ".join(context.reasons)
        said = f"The machine was {context.quietness}" + (f": {reasons}." if reasons else ".")
        parts.append(tag("p", {}, said))
    if len(context.calibration_ns) > 1:
        caption = tag("figcaption", {}, tag("h3", {}, "A calibration kernel between the rounds"))
        plot = noise_plot(context.calibration_ns, "noise")
        parts.append(tag("figure", {"class": "card single"}, caption, plot))
    if gpu := gpu_table(record):
        parts.append(table_box(gpu))
    parts.append(table_box(machine_table(record), narrow=True))
    return section("machine", "The machine", "What the run was measured on.", *parts)


def _again(record: Record) -> Section:
    versions = record.machine.get("versions") or {}
    shown = ", ".join(f"{name} {v}" for name, v in versions.items() if v)
    revision = record.machine.get("revision") or {}
    commit = revision.get("commit") if isinstance(revision, dict) else revision
    said = [f"Versions: {shown}." if shown else "", f"Revision {commit}." if commit else ""]
    return section(
        "again",
        "Measure it again",
        "The command of this run:",
        tag("pre", {}, command_line(record)),
        tag("p", {}, " ".join(filter(None, said))),
        tag(
            "p",
            {},
            "Two runs on one machine: ",
            tag("code", {}, "levit bench compare A.json B.json"),
        ),
    )
