"""Sections of a page, and the boxes in them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

from levit.benchmarks.report.markup import Markup, tag

__all__ = ["Section", "cards", "section"]

# Key of its place on the page, title, contents.
Section: TypeAlias = tuple[str, str, Markup]


def section(key: str, title: str, said: str, *children: str) -> Section:
    """Make a section with a heading and a line of introduction."""
    heading = tag("h2", {"id": f"{key}-heading"}, title)
    intro = tag("p", {"class": "note"}, said)
    attributes = {"id": key, "aria-labelledby": f"{key}-heading", "class": "long"}
    return key, title, tag("section", attributes, heading, intro, *children)


def cards(charts: Sequence[str], classes: str = "cards") -> Markup:
    """Lay boxes beside and below each other."""
    return tag("div", {"class": classes}, *charts)
