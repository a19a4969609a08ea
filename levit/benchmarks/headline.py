"""The paper's headline, computed: LeViT ÷ EfficientNet at equal published accuracy.

The paper reads it off its figure: at 80 % top-1 LeViT is five times faster on a CPU. Here
EfficientNet's curve is drawn through its measured sizes, log images per second linear in top-1,
and each LeViT divided by it at its own accuracy; at 80.0 % both curves are. Where a curve has
no size on both sides there is no answer: nothing is extrapolated.

`headlines` compares within an engine, as the paper does. `best_headlines` compares what one would
deploy: every network on the engine that runs it fastest at that precision or at a more exact one
(EfficientNet is no faster at int8 than at bfloat16 on some CPUs, and nobody would take it), and
LeViT beside every architecture, not only EfficientNet.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from levit.benchmarks.architectures import ARCHITECTURES, architecture, architecture_title
from levit.benchmarks.intervals import Interval, median_interval
from levit.benchmarks.published import PUBLISHED, is_efficientnet
from levit.benchmarks.record import Contender
from levit.benchmarks.summary import comparable

__all__ = [
    "REFERENCE_TOP1",
    "Headline",
    "Lead",
    "best_engines",
    "best_headlines",
    "headlines",
    "leads",
]

# Where the paper states its headline.
REFERENCE_TOP1: Final = 80.0

# From the most exact.
_PRECISIONS: Final = ("fp32", "fp16", "bf16", "int8")

Rates = Mapping[str, Sequence[float]]
# Contenders of one protocol with the images per second of each round.
Measured = Iterable[tuple[Contender, Sequence[float]]]


@dataclass(frozen=True, kw_only=True)
class Lead:
    """Ratio LeViT ÷ another architecture at one accuracy.

    Attributes:
        top1: the accuracy, in percent.
        model: the LeViT of that accuracy, or None where its curve is interpolated too.
        between: the two of the other around it (the same one twice if it has that accuracy).
        ratio: of images per second; above 1 LeViT is faster.
    """

    top1: float
    model: str | None
    between: tuple[str, str]
    ratio: Interval


@dataclass(frozen=True, kw_only=True)
class Headline:
    """Leads of one engine's LeViTs over another architecture on another engine, or on the same.

    Attributes:
        precision: of both, or a less exact one than theirs.
        levit: title of the engine that runs LeViT; of several, with commas.
        other: title of the engine that runs the other architecture, likewise.
        kind: ``ours`` or ``peer``, of the LeViT engine.
        architecture: display name of the other.
        leads: by accuracy; empty where no curve reaches any.
    """

    precision: str
    levit: str
    other: str
    kind: str
    leads: tuple[Lead, ...]
    architecture: str = "EfficientNet"


def leads(levit: Rates, other: Rates) -> tuple[Lead, ...]:
    """Return every lead that the measured models allow, by accuracy; `REFERENCE_TOP1` is one.

    Args:
        levit, other: timm's name → images per second of each round; round i of all lies
            side by side, so the ratio is taken round by round. Models without published
            accuracy do not count, nor do rounds that one of the models lacks.
    """
    upper, lower = _by_accuracy(levit), _by_accuracy(other)
    places: list[tuple[float, str | None]] = [(PUBLISHED[name].top1, name) for name in upper]
    places.append((REFERENCE_TOP1, None))
    found = []
    for top1, model in sorted(places, key=lambda place: (place[0], place[1] or "")):
        ours, theirs = _around(upper, top1), _around(lower, top1)
        if ours and theirs:
            above = _interpolated(levit, ours, top1)
            below = _interpolated(other, theirs, top1)
            ratio = median_interval([a / b for a, b in zip(above, below, strict=False)])
            found.append(Lead(top1=top1, model=model, between=theirs, ratio=ratio))
    return tuple(found)


def headlines(measured: Measured) -> tuple[Headline, ...]:
    """Return the headline of every engine that ran LeViTs beside EfficientNets, ours first.

    A peer is compared with itself. Ours runs no EfficientNet, so it is compared with each peer
    that does in the same runtime at the same precision; where no peer has that runtime, in any.

    Args:
        measured: contenders of one protocol with the images per second of each round.
    """
    engines: dict[tuple[str, str], tuple[Contender, dict[str, Sequence[float]]]] = {}
    for contender, rates in measured:
        key = contender.engine, contender.precision
        engines.setdefault(key, (contender, {}))[1][contender.model] = rates
    rows = []
    for runner, own_rates in engines.values():
        levits = {name: r for name, r in own_rates.items() if name.startswith("levit_")}
        for other, other_rates in engines.values():
            bases = {name: r for name, r in other_rates.items() if is_efficientnet(name)}
            same = comparable(runner, other)
            if runner.kind == "peer":
                same = (runner.engine, runner.precision) == (other.engine, other.precision)
            if not (levits and bases and same):
                continue
            rows.append(
                Headline(
                    precision=runner.precision,
                    levit=runner.title,
                    other=other.title,
                    kind=runner.kind,
                    leads=leads(levits, bases),
                )
            )
    return tuple(sorted(rows, key=lambda row: row.kind != "ours"))


def best_engines(measured: Measured) -> dict[str, dict[str, tuple[Contender, Sequence[float]]]]:
    """Return precision → model → its fastest contender, with its rates.

    The fastest of those at that precision or at a more exact one; precisions begin with the most
    exact.
    """
    entries = list(measured)
    found: dict[str, dict[str, tuple[Contender, Sequence[float]]]] = {}
    for precision in sorted({c.precision for c, _ in entries}, key=_place):
        models = found.setdefault(precision, {})
        for contender, rates in entries:
            if not _is_as_exact(contender.precision, precision):
                continue
            known = models.get(contender.model)
            if known is None or statistics.median(rates) > statistics.median(known[1]):
                models[contender.model] = contender, rates
    return found


def _place(precision: str) -> tuple[int, str]:
    """Return a place to sort by; unknown precisions come last."""
    known = precision in _PRECISIONS
    return (_PRECISIONS.index(precision) if known else len(_PRECISIONS)), precision


def _is_as_exact(precision: str, other: str) -> bool:
    if precision in _PRECISIONS and other in _PRECISIONS:
        return _PRECISIONS.index(precision) <= _PRECISIONS.index(other)
    return precision == other


def best_headlines(measured: Measured) -> tuple[Headline, ...]:
    """Return LeViT beside every other architecture, each network on its best engine.

    By precision, then in the order of `ARCHITECTURES`; only where a lead can be computed.
    """
    rows = []
    for precision, models in best_engines(measured).items():
        by_key: dict[str, dict[str, tuple[Contender, Sequence[float]]]] = {}
        for model, one in models.items():
            by_key.setdefault(architecture(model), {})[model] = one
        levit = by_key.get("levit", {})
        for key, _, _ in ARCHITECTURES:
            other = by_key.get(key, {})
            found = leads(_rates(levit), _rates(other)) if key != "levit" else ()
            if found:
                rows.append(
                    Headline(
                        precision=precision,
                        levit=_titles(levit, precision),
                        other=_titles(other, precision),
                        kind="ours" if any(c.kind == "ours" for c, _ in levit.values()) else "peer",
                        leads=found,
                        architecture=architecture_title(key),
                    )
                )
    return tuple(rows)


def _rates(models: Mapping[str, tuple[Contender, Sequence[float]]]) -> Rates:
    return {model: rates for model, (_, rates) in models.items()}


def _titles(models: Mapping[str, tuple[Contender, Sequence[float]]], precision: str) -> str:
    """Return the engines, with their precision where that is a more exact one."""
    titles = (
        c.title if c.precision == precision else f"{c.title} at {c.precision}"
        for c, _ in models.values()
    )
    return ", ".join(dict.fromkeys(titles))


def _by_accuracy(rates: Rates) -> list[str]:
    known = [name for name, values in rates.items() if name in PUBLISHED and values]
    return sorted(known, key=lambda name: PUBLISHED[name].top1)


def _around(names: Sequence[str], top1: float) -> tuple[str, str] | None:
    """Return the models right below and above an accuracy; one twice if it is exactly there."""
    below = [name for name in names if PUBLISHED[name].top1 <= top1]
    above = [name for name in names if PUBLISHED[name].top1 >= top1]
    return (below[-1], above[0]) if below and above else None


def _interpolated(rates: Rates, around: tuple[str, str], top1: float) -> list[float]:
    """Return images per second at `top1`, round by round."""
    low, high = around
    start, end = PUBLISHED[low].top1, PUBLISHED[high].top1
    share = (top1 - start) / (end - start) if end > start else 0.0
    pairs = zip(rates[low], rates[high], strict=False)
    return [math.exp((1 - share) * math.log(a) + share * math.log(b)) for a, b in pairs]
