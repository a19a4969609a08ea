"""Context that a report gives beside the record itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from levit.benchmarks.intervals import Interval

__all__ = ["Context", "HeadlineRow", "PublishedSpeed"]


@dataclass(frozen=True, kw_only=True)
class PublishedSpeed:
    """One line of the paper's own table: images/s on its machine, top-1 in percent."""

    images_per_s: float
    top1: float | None = None


@dataclass(frozen=True, kw_only=True)
class HeadlineRow:
    """Ratio of LeViT's speed to that of another architecture at equal published accuracy.

    Attributes:
        engine: through which engine LeViT ran.
        measured: under which protocol, in which setting; empty for the paper's.
        over: the other architecture, and its engine where that is another.
        top1: the accuracy in percent at which they are compared.
        model: the LeViT of that accuracy; empty where both curves are interpolated, which is
            the paper's headline and stands in large type.
        ratio: above 1 LeViT is faster; None where there is nothing to compare.
        note: one line, such as why there is no ratio.
    """

    engine: str
    measured: str = ""
    over: str = "EfficientNet"
    top1: float
    model: str = ""
    ratio: Interval | None
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class Context:
    """Beside a record.

    Attributes:
        published: of each model the paper's own figure for this kind of device.
        published_title: the paper's machine, such as ``Xeon Gold 6138, one thread``.
        headline: the ratios at the top of the page.
        best: the ratios of every architecture, each network on its best engine.
        quietness: one word or two on how quiet the machine was; empty if nobody looked.
        reasons: why.
        calibration_ns: the calibration kernel's time before each round.
    """

    published: Mapping[str, PublishedSpeed] = field(default_factory=dict)
    published_title: str = "the paper's machine"
    headline: tuple[HeadlineRow, ...] = ()
    best: tuple[HeadlineRow, ...] = ()
    quietness: str = ""
    reasons: tuple[str, ...] = ()
    calibration_ns: tuple[float, ...] = ()
