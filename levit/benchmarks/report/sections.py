"""A page: the document, its sections, and the boxes in them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, TypeAlias

from levit.benchmarks.report.markup import Markup, tag
from levit.benchmarks.report.style import STYLE

__all__ = ["Section", "cards", "document", "section"]

# Nothing may be loaded and nothing run, whatever a name in the record says.
_POLICY: Final = "default-src 'none'; style-src 'unsafe-inline'"

# Key of its place on the page, title, contents.
Section: TypeAlias = tuple[str, str, Markup]


def document(title: str, *body: str, style: str = "") -> str:
    """Make a page; `style` is what it needs beside the style of all."""
    page = tag(
        "html",
        {"lang": "en"},
        tag(
            "head",
            {},
            tag("meta", {"charset": "utf-8"}),
            tag("meta", {"http-equiv": "Content-Security-Policy", "content": _POLICY}),
            tag("meta", {"name": "viewport", "content": "width=device-width, initial-scale=1"}),
            tag("meta", {"name": "color-scheme", "content": "light dark"}),
            tag("title", {}, title),
            tag("style", {}, Markup(STYLE + style)),
        ),
        tag("body", {}, *body),
    )
    return f"<!doctype html>\n{page}\n"


def section(key: str, title: str, said: str, *children: str) -> Section:
    """Make a section with a heading and a line of introduction."""
    heading = tag("h2", {"id": f"{key}-heading"}, title)
    intro = tag("p", {"class": "note"}, said)
    attributes = {"id": key, "aria-labelledby": f"{key}-heading", "class": "long"}
    return key, title, tag("section", attributes, heading, intro, *children)


def cards(charts: Sequence[str], classes: str = "cards") -> Markup:
    """Lay boxes beside and below each other."""
    return tag("div", {"class": classes}, *charts)
