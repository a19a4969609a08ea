"""HTML and SVG in which text cannot become markup: every child is escaped unless it is markup.

Nor can a name turn round the text beside it (U+202E), or end the page where a reader of its source
stands (U+009B): such characters are written as escapes that one sees.
"""

from __future__ import annotations

import html
from collections.abc import Mapping
from typing import Final

from levit.errors import printable

__all__ = ["Attributes", "Markup", "fitted", "marker", "swatch", "tag", "text_width", "words"]

Attributes = Mapping[str, str | float | int]

_VOID: Final = frozenset({"meta", "br", "link"})

# Of the widest of the usual sans-serif fonts (DejaVu Sans), in ems; others need less.
_NARROW: Final = frozenset("iljtfrI.,:;'|()[] ·/-")
_WIDE: Final = frozenset("mwMW→@%–…")


class Markup(str):
    """Text that is markup already."""

    __slots__ = ()


def tag(name: str, attributes: Attributes | None = None, *children: str) -> Markup:
    """An element; numbers lose needless digits, text is escaped, `Markup` stays as it is."""
    inner = "".join(
        c if isinstance(c, Markup) else html.escape(printable(c), quote=False) for c in children
    )
    words = [
        f' {key}="{html.escape(_shown(value), quote=True)}"'
        for key, value in (attributes or {}).items()
    ]
    opening = f"<{name}{''.join(words)}>"
    return Markup(opening if name in _VOID else f"{opening}{inner}</{name}>")


def words(text: str, x: float, y: float, classes: str, anchor: str = "start") -> Markup:
    """A text of SVG at (x, y), its baseline."""
    return tag("text", {"class": classes, "x": x, "y": y, "text-anchor": anchor}, text)


def _shown(value: str | float | int) -> str:
    if isinstance(value, float):
        return f"{value:.2f}".rstrip("0").rstrip(".")
    return printable(str(value))


def text_width(text: str, size: float) -> float:
    """At most how wide `text` is at a font size in pixels."""
    ems = sum(0.4 if c in _NARROW else 1.0 if c in _WIDE else 0.66 for c in text)
    return ems * size


def fitted(text: str, size: float, width: float) -> str:
    """`text`, or as much of its beginning as fits, an ellipsis, and a short last part."""
    if text_width(text, size) <= width:
        return text
    # An engine's precision stands at the end, and tells it from its neighbours.
    most = int(width / (0.4 * size)) + 12
    if len(text) > 2 * most:  # no more can fit
        text = text[:most] + text[-most:]
    head, dot, tail = text.rpartition(" · ")
    ending = f"…{dot}{tail}" if len(tail) <= 8 else "…"
    kept = head if len(tail) <= 8 else text
    while kept and text_width(kept + ending, size) > width:
        kept = kept[:-1]
    return kept.rstrip() + ending


# ------------------------------------------------------------------------------------ markers

# Corners of the markers of architectures, in radii, clockwise on the screen.
_CORNERS: Final[Mapping[str, tuple[tuple[float, float], ...]]] = {
    "mobilenetv4": ((-1.1, 0), (0.8, -1.1), (0.8, 1.1)),  # a triangle that points to the left
    "fastvit": ((1.1, 0), (-0.8, 1.1), (-0.8, -1.1)),  # and one to the right
    "repvit": ((0, -1.15), (1.1, -0.35), (0.7, 0.95), (-0.7, 0.95), (-1.1, -0.35)),
    "efficientvit": ((-0.6, -1), (0.6, -1), (1.15, 0), (0.6, 1), (-0.6, 1), (-1.15, 0)),
    "efficientvit-m": ((0, -1.15), (1, -0.6), (1, 0.6), (0, 1.15), (-1, 0.6), (-1, -0.6)),
    "hgnetv2": (  # a plus
        *((-0.4, -1.15), (0.4, -1.15), (0.4, -0.4), (1.15, -0.4), (1.15, 0.4), (0.4, 0.4)),
        *((0.4, 1.15), (-0.4, 1.15), (-0.4, 0.4), (-1.15, 0.4), (-1.15, -0.4), (-0.4, -0.4)),
    ),
}


def marker(shape: str, x: float, y: float, size: float) -> str:
    """Path data of a marker, so that colour is never the only difference."""
    r = size
    if shape == "levit":  # a circle
        return f"M{x - r:.2f} {y:.2f}a{r} {r} 0 1 0 {2 * r} 0a{r} {r} 0 1 0 {-2 * r} 0Z"
    if shape == "efficientnet":  # a square
        s = r * 0.9
        return f"M{x - s:.2f} {y - s:.2f}h{2 * s:.2f}v{2 * s:.2f}h{-2 * s:.2f}Z"
    if shape == "deit":  # a triangle
        s = r * 1.15
        return f"M{x:.2f} {y - s:.2f}L{x + s:.2f} {y + s * 0.75:.2f}H{x - s:.2f}Z"
    if shape == "convit":  # the same on its head
        s = r * 1.15
        return f"M{x:.2f} {y + s:.2f}L{x + s:.2f} {y - s * 0.75:.2f}H{x - s:.2f}Z"
    s = r * 1.25  # a diamond for resnet
    if shape == "resnet":
        return f"M{x:.2f} {y - s:.2f}l{s:.2f} {s:.2f}l{-s:.2f} {s:.2f}l{-s:.2f} {-s:.2f}Z"
    if corners := _CORNERS.get(shape):
        return "M" + "L".join(f"{x + r * dx:.2f} {y + r * dy:.2f}" for dx, dy in corners) + "Z"
    return f"M{x - r:.2f} {y - r:.2f}l{2 * r} {2 * r}m0 {-2 * r}l{-2 * r} {2 * r}"


DASHES: Final = ("none", "6 3", "2 3", "9 3 2 3")


def swatch(shape: str, classes: str, dash: int) -> Markup:
    """A piece of a curve with its marker, for a legend."""
    line = tag("path", {"class": "line", "d": "M1 7H31", "stroke-dasharray": _dash(dash)})
    mark = tag("path", {"class": "mark", "d": marker(shape, 16, 7, 4)})
    attributes = {"class": "swatch", "viewBox": "0 0 32 14", "aria-hidden": "true"}
    return tag("svg", attributes, tag("g", {"class": classes}, line, mark))


def _dash(index: int) -> str:
    return DASHES[index % len(DASHES)]
