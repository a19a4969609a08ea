"""Where labels go, so that none covers another, a marker or, if possible, a line."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from levit.benchmarks.report.markup import text_width

__all__ = ["Box", "Label", "Placer"]

_DIRECTIONS: Final = (
    *((1.0, 0.0), (-1.0, 0.0), (0.0, -1.0), (0.0, 1.0)),
    *((1.0, -1.0), (-1.0, -1.0), (1.0, 1.0), (-1.0, 1.0)),
    *((1.0, -0.5), (-1.0, -0.5), (1.0, 0.5), (-1.0, 0.5)),
)
_DISTANCES: Final = (8.0, 13.0, 20.0, 28.0, 38.0, 50.0)
# From where on a label is left out: the legend has the curve too.
_TOO_BAD: Final = 110.0
_TOO_BAD_NEAR: Final = 60.0


class Box(NamedTuple):
    """A rectangle in pixels."""

    left: float
    top: float
    right: float
    bottom: float

    def meets(self, other: Box) -> bool:
        """True where the two overlap."""
        return (
            self.left < other.right
            and other.left < self.right
            and self.top < other.bottom
            and other.top < self.bottom
        )


class Label(NamedTuple):
    """A text's left end on its baseline, and where a thin line to its point begins, if needed."""

    x: float
    y: float
    leader: tuple[float, float] | None


@dataclass
class Placer:
    """Puts labels into a frame, one after another; the first ones choose.

    Attributes:
        frame: labels stay within.
        marks: what no label may cover.
        lines: points along the curves, which labels avoid.
        size: of the font in pixels.
    """

    frame: Box
    marks: list[Box]
    lines: list[tuple[float, float]]
    size: float
    taken: list[Box] = field(default_factory=list)

    def place(self, text: str, x: float, y: float, near: bool) -> Label | None:
        """The best free place beside (x, y); None where there is none. `near`: no leaders."""
        width, height = text_width(text, self.size), self.size * 1.15
        best: tuple[float, Box, float] | None = None
        for distance in _DISTANCES[: 2 if near else None]:
            for order, (dx, dy) in enumerate(_DIRECTIONS):
                box = _beside(x + dx * distance, y + dy * distance, width, height, dx, dy)
                cost = self._cost(box)
                if cost is None:
                    continue
                cost += distance * 0.6 + order * 0.8
                if best is None or cost < best[0]:
                    best = (cost, box, distance)
        if best is None or best[0] > (_TOO_BAD_NEAR if near else _TOO_BAD):
            return None
        _, box, distance = best
        self.taken.append(box)
        middle = (min(max(x, box.left), box.right), (box.top + box.bottom) / 2)
        return Label(box.left, box.bottom - 0.27 * height, middle if distance > 18 else None)

    def _cost(self, box: Box) -> float | None:
        frame = self.frame
        if box.left < frame.left or box.right > frame.right:
            return None
        if box.top < frame.top or box.bottom > frame.bottom:
            return None
        if any(box.meets(other) for other in (*self.taken, *self.marks)):
            return None
        return 24.0 * _inside(box, self.lines)


def _inside(box: Box, points: Sequence[tuple[float, float]]) -> int:
    return sum(box.left <= x <= box.right and box.top <= y <= box.bottom for x, y in points)


def _beside(x: float, y: float, width: float, height: float, dx: float, dy: float) -> Box:
    left = x if dx > 0 else x - width if dx < 0 else x - width / 2
    top = y if dy > 0 else y - height if dy < 0 else y - height / 2
    return Box(left, top, left + width, top + height)
