"""The tables as GitHub's Markdown, for docs/results.md."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from levit.benchmarks.record import Record
from levit.benchmarks.report.accuracy_tables import best_engine_table, headline_table
from levit.benchmarks.report.context import Context
from levit.benchmarks.report.gathered import gathered
from levit.benchmarks.report.tables import (
    Table,
    best_peer_table,
    command_line,
    machine_table,
    protocol_tables,
    ratio_tables,
    refused_table,
)
from levit.benchmarks.summary import comparisons, summaries
from levit.errors import printable
from levit.whole_file import write_whole

__all__ = ["to_markdown", "write_markdown"]

# Underscores within a word and brackets that no link follows mean nothing, and are all over names
# and intervals.
_SPECIAL = re.compile(r"([\\`*<>#|~$&!]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])|(?<=\])[(\[:])")


def write_markdown(record: Record, path: Path | str, context: Context | None = None) -> None:
    """Write `to_markdown` at `path`.

    Raises:
        ConfigError: the path cannot be written.
    """
    write_whole(path, to_markdown(record, context).encode("utf-8", "replace"))


def to_markdown(
    record: Record, context: Context | None = None, *, level: int = 2, machine: bool = True
) -> str:
    """All tables under headings of `level` and the one below it, the machine first.

    Args:
        machine: whether its table is there: once a page is enough.
    """
    heading = "#" * level
    context = context or gathered(record)
    items = summaries(record)
    parts = [
        f"Measured on {_escaped(record.created)} by `{_code(command_line(record))}`"
        + (", interrupted before its end." if record.status == "interrupted" else "."),
        "Numbers are medians over interleaved rounds; in brackets their 95 % intervals.",
    ]
    if context.quietness:
        reasons = "; ".join(context.reasons)
        said = f"The machine was {context.quietness}" + (f": {reasons}" if reasons else "")
        parts.append(_escaped(said) + ".")
    if machine:
        parts += _section(heading, machine_table(record))
    if headline := headline_table(context):
        parts += _section(heading, headline)
    if architectures := best_engine_table(context):
        parts += _section(heading, architectures)
    for table in protocol_tables(items, context).values():
        parts += _section(heading, table)
    found = comparisons(record)
    if best := best_peer_table(found):
        parts += _section(heading, best)
    if ratios := ratio_tables(found):
        parts.append(f"{heading} Ours beside its peers")
        for table in ratios:
            parts += _section(f"{heading}#", table)
    if refused := refused_table(items):
        parts += _section(heading, refused)
    return "\n\n".join(parts) + "\n"


def _section(level: str, table: Table) -> list[str]:
    note = [_escaped(table.note) + "."] if table.note else []
    return [f"{level} {_escaped(table.title)}", *note, _table(table)]


def _table(table: Table) -> str:
    lines = [
        _line([_escaped(c.title) for c in table.columns]),
        "|" + "|".join("---:" if c.numeric else "---" for c in table.columns) + "|",
    ]
    for index, row in enumerate(table.rows):
        cells = [_escaped(cell) for cell in row]
        if index in table.ours:
            cells[1] = f"**{cells[1]}**"
        lines.append(_line(cells))
    return "\n".join(lines)


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _escaped(text: str) -> str:
    """`text` on one line, such that none of it is markup or moves what stands beside it."""
    return _SPECIAL.sub(r"\\\1", printable(" ".join(text.split())))


def _code(text: str) -> str:
    return printable(" ".join(text.split())).replace("`", "'")
