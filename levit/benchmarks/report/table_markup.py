"""Tables as HTML: each in a box of its own that scrolls, so that the page never does."""

from __future__ import annotations

from typing import Final

from levit.benchmarks.report.markup import Attributes, Markup, tag
from levit.benchmarks.report.tables import Table

__all__ = ["folded", "table_box"]

_CLASSES: Final = {"faster": "better", "smaller": "better", "slower": "worse", "larger": "worse"}

# Characters from which on a cell may break into lines.
_LONG: Final = 44


def folded(table: Table) -> Markup:
    """`table` behind its title, which opens it: a page of all numbers has a hundred screens."""
    said = f"{table.title}: all {len(table.rows)} rows"
    return tag("details", {}, tag("summary", {}, said), table_box(table))


def table_box(table: Table, narrow: bool = False) -> Markup:
    """`table` with its caption; `narrow`: cells may break anywhere instead of scrolling."""
    note = [tag("span", {"class": "note"}, table.note)] if table.note else []
    # A model is the heading of its rows: half of the width that a column of its own takes.
    models = [row[0] for row in table.rows]
    grouped = table.columns[0].title == "model" and len(set(models)) < len(models)
    first = 1 if grouped else 0
    heads = [
        tag("th", {"scope": "col", "class": "n" if c.numeric else "t"}, c.title)
        for c in table.columns[first:]
    ]
    rows: list[Markup] = []
    previous = None
    for index, row in enumerate(table.rows):
        if grouped and row[0] != previous:
            previous = row[0]
            wide: Attributes = {"scope": "rowgroup", "colspan": len(heads)}
            rows.append(tag("tr", {"class": "group"}, tag("th", wide, row[0])))
        cells = [tag("th", {"scope": "row"}, row[first])]
        for column, cell in zip(table.columns[first + 1 :], row[first + 1 :], strict=True):
            kind = "n" if column.numeric else "long" if len(cell) > _LONG else "t"
            kind = f"{kind} {_CLASSES.get(cell, '')}".rstrip()
            cells.append(tag("td", {"class": kind}, cell))
        rows.append(tag("tr", {"class": "ours"} if index in table.ours else {}, *cells))
    body = tag(
        "table",
        {"class": "narrow"} if narrow else {},
        tag("caption", {}, table.title, *note),
        tag("thead", {}, tag("tr", {}, *heads)),
        tag("tbody", {}, *rows),
    )
    # Reached by the keyboard, since it scrolls.
    box: Attributes = {
        "class": "scroll",
        "tabindex": 0,
        "role": "region",
        "aria-label": table.title,
    }
    return tag("div", box, body)
