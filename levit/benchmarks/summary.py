"""Figures of a record: speeds, latencies, ratios and fractions, computed on reading.

Everything is a plain function of a `Record`. Rounds that are empty (a run was interrupted, a
process gave nothing) do not count; where no round is left, there is no figure either: None.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, NamedTuple

from levit.benchmarks.engines import ENGINES
from levit.benchmarks.intervals import (
    Interval,
    Verdict,
    ratio_interval,
    verdict_of,
)
from levit.benchmarks.measured import (
    cpu_ms,
    images_per_second,
    latency_ms,
    paper_images_per_second,
    peak_mb,
    rate,
    rates,
    setting,
    stages_ms,
    start_s,
    time_over_cpu,
)
from levit.benchmarks.protocols import END_TO_END
from levit.benchmarks.record import REGISTERS, Contender, Measurement, Record

__all__ = [
    "SEARCHED",
    "Comparison",
    "Summary",
    "ceilings",
    "comparable",
    "comparisons",
    "headline_rates",
    "ok",
    "over_best_peers",
    "register_peaks",
    "summaries",
]

# Protocols in which somebody waits for a call.
_SINGLE: Final = ("latency", "end-to-end")
# Settings that a protocol finds instead of taking: `throughput` is the best of batch × streams.
SEARCHED: Final[Mapping[str, frozenset[str]]] = {
    "throughput": frozenset({"batch", "streams"}),
    "end-to-end-many": frozenset({"batch"}),  # what the engine's line takes
}
# Runtimes that peers use too. An engine of ours on another has no peer of its own runtime.
_SHARED_RUNTIMES: Final = frozenset(e.runtime for e in ENGINES.values() if e.kind == "peer")
# Quantity that a protocol compares, less of which is better; speed if it is not here.
_QUANTITIES: Final = {
    "latency": "latency",
    "end-to-end": "latency",
    "cold-start": "start",
    "memory": "memory",
}


@dataclass(frozen=True, kw_only=True)
class Summary:
    """One measurement in figures: None or empty where its protocol does not measure one.

    Attributes:
        contender: the model and its engine.
        measurement: the raw values.
        images_per_s: median over rounds of images of a call · calls ÷ elapsed.
        paper_images_per_s: the paper's figure, batch ÷ mean time of all calls.
        latency_ms: by percent (50, 90, 99), of one call.
        stages_ms: median of each stage of ``end-to-end``, and the rest of ``latency_ms``.
        cpu_ms: CPU time of an image, of all threads together, under ``end-to-end-many``.
        time_over_cpu: the time of an image on all threads over that: 1 where none of them waits.
        start_s: from the start of a process to its first prediction.
        peak_mb: largest resident memory, in 10^6 bytes.
        gflop_per_s: 2 · multiply-accumulates, per second.
        ceiling_fraction: ÷ this machine's matrix products at that precision and threads.
        register_fraction: ÷ its register peak, likewise.
    """

    contender: Contender
    measurement: Measurement
    images_per_s: Interval | None = None
    paper_images_per_s: float | None = None
    latency_ms: Mapping[int, Interval] = field(default_factory=dict)
    stages_ms: Mapping[str, float] = field(default_factory=dict)
    cpu_ms: Interval | None = None
    time_over_cpu: Interval | None = None
    start_s: Interval | None = None
    peak_mb: Interval | None = None
    gflop_per_s: Interval | None = None
    ceiling_fraction: float | None = None
    register_fraction: float | None = None

    @property
    def rounds(self) -> int:
        """Number of rounds that measured something; 0 for a contender that failed."""
        return sum(
            1 for r in self.measurement.rounds if r.values and self.measurement.status == "ok"
        )


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Ours beside a peer on the same model, protocol and settings.

    Attributes:
        ours, peer: the contenders.
        protocol: of both measurements.
        settings: of both, or of ours where a search found others.
        quantity: ``speed``, ``latency``, ``start`` or ``memory``.
        ratio: above 1 ours is better: median over pairs of neighbouring rounds.
        verdict: the claim that the ratio allows; for ``memory`` read "faster" as "smaller".
        pairs: number of rounds that both have.
        is_best_peer: the peer is the best of those of the same precision.
    """

    ours: Contender
    peer: Contender
    protocol: str
    settings: Mapping[str, Any]
    quantity: str
    ratio: Interval
    verdict: Verdict
    pairs: int
    is_best_peer: bool = False

    @property
    def is_judged(self) -> bool:
        """True for the peers that ``--fail-under`` is about: the same precision and runtime.

        Where no peer can have ours' runtime, the best peer is.
        """
        return comparable(self.ours, self.peer) and (
            self.ours.runtime == self.peer.runtime or self.is_best_peer
        )


def _gflops(contender: Contender, measurement: Measurement) -> Interval | None:
    rate = images_per_second(measurement)
    # End to end not only the network is timed.
    if rate is None or contender.macs is None or measurement.protocol in END_TO_END:
        return None
    per_image = 2 * contender.macs / 1e9
    return Interval(*(per_image * value for value in rate))


# ------------------------------------------------------------------------- a whole record


def summaries(record: Record) -> tuple[Summary, ...]:
    """Every measurement of the record in figures, in the record's order."""
    tops, peaks = ceilings(record), register_peaks(record)
    return tuple(_summary(c, m, tops, peaks) for c, m in _measured(record))


def ceilings(record: Record) -> dict[tuple[str, int], float]:
    """Best measured matrix products in GFLOP/s, by (precision, threads)."""
    return _tops(record, lambda contender: contender.model != REGISTERS)


def register_peaks(record: Record) -> dict[tuple[str, int], float]:
    """Multiply-adds in registers alone in GFLOP/s, by (precision, threads)."""
    return _tops(record, lambda contender: contender.model == REGISTERS)


def _tops(record: Record, wanted: Callable[[Contender], bool]) -> dict[tuple[str, int], float]:
    best: dict[tuple[str, int], float] = {}
    for contender, measurement in _measured(record):
        if contender.kind != "ceiling" or measurement.status != "ok" or not wanted(contender):
            continue
        if (speed := _gflops(contender, measurement)) is not None:
            key = (contender.precision, setting(measurement, "threads"))
            best[key] = max(speed.median, best.get(key, 0.0))
    return best


def headline_rates(record: Record, protocol: str) -> list[tuple[Contender, tuple[float, ...]]]:
    """Every contender of a protocol with its images/s round by round, for the headline."""
    return [
        (contender, tuple(found))
        for contender, measurement in _measured(record)
        if measurement.protocol == protocol
        and measurement.status == "ok"
        and contender.kind != "ceiling"
        and (found := rates(measurement))
    ]


def ok(items: Iterable[Summary], protocol: str) -> list[Summary]:
    """Summaries of one protocol that have a round at least, without the ceilings."""
    return [
        s
        for s in items
        if s.measurement.protocol == protocol and s.rounds and s.contender.kind != "ceiling"
    ]


def _measured(record: Record) -> Iterator[tuple[Contender, Measurement]]:
    contenders = {c.name: c for c in record.contenders}
    for measurement in record.measurements:
        yield contenders[measurement.contender], measurement


def _summary(
    contender: Contender,
    measurement: Measurement,
    tops: Mapping[tuple[str, int], float],
    peaks: Mapping[tuple[str, int], float],
) -> Summary:
    if measurement.status != "ok":
        return Summary(contender=contender, measurement=measurement)
    is_model = contender.kind != "ceiling"
    speed = _gflops(contender, measurement)
    case = (contender.precision, setting(measurement, "threads"))
    top, peak = tops.get(case), peaks.get(case)
    return Summary(
        contender=contender,
        measurement=measurement,
        images_per_s=images_per_second(measurement) if is_model else None,
        paper_images_per_s=paper_images_per_second(measurement) if is_model else None,
        latency_ms=latency_ms(measurement) if measurement.protocol in _SINGLE else {},
        stages_ms=stages_ms(measurement),
        cpu_ms=cpu_ms(measurement),
        time_over_cpu=time_over_cpu(measurement),
        start_s=start_s(measurement),
        peak_mb=peak_mb(measurement),
        gflop_per_s=speed,
        ceiling_fraction=speed.median / top if speed is not None and top else None,
        register_fraction=speed.median / peak if speed is not None and peak else None,
    )


# ------------------------------------------------------------------------------------ ratios


def comparisons(record: Record) -> tuple[Comparison, ...]:
    """Each of ours against each peer of its model, and against ours before it, round by round.

    Settings are equal, except where a protocol searches for them.
    """
    by_case: dict[tuple[str, str, str], list[_Entry]] = {}
    for contender, measurement in _measured(record):
        if measurement.status == "ok" and contender.kind != "ceiling":
            case = (contender.model, measurement.protocol, _asked_for(measurement))
            entry = _Entry(contender, measurement, _by_round(measurement))
            by_case.setdefault(case, []).append(entry)
    found: list[Comparison] = []
    for same in by_case.values():
        ours = [entry for entry in same if entry.contender.kind == "ours"]
        # The engine of our own is set beside our others, wherever it was named.
        ours.sort(key=lambda entry: entry.contender.runtime not in _SHARED_RUNTIMES)
        peers = [entry for entry in same if entry.contender.kind == "peer"]
        for number, one in enumerate(ours):
            # A model that entered twice, or two artifacts of one: each beside those before it.
            beside = [_compare(one, other) for other in (*peers, *ours[:number])]
            found += _with_best_peer([c for c in beside if c is not None])
    return tuple(found)


def over_best_peers(found: Iterable[Comparison]) -> list[Comparison]:
    """Comparisons of ours with the best peer of the same model, protocol, settings, precision."""
    return [comparison for comparison in found if comparison.is_best_peer]


def comparable(ours: Contender, peer: Contender) -> bool:
    """Tell whether a peer is one that ours is judged by, or can be if it is the best."""
    shared = ours.runtime in _SHARED_RUNTIMES
    return ((ours.kind, peer.kind, ours.precision) == ("ours", "peer", peer.precision)) and (
        ours.runtime == peer.runtime or not shared
    )


def _with_best_peer(beside: list[Comparison]) -> list[Comparison]:
    """Mark the peer that ours leads by the least, which is the best one."""
    peers = [c for c in beside if c.peer.kind == "peer" and c.peer.precision == c.ours.precision]
    best = min(peers, key=lambda c: c.ratio.median, default=None)
    return [replace(c, is_best_peer=True) if c is best else c for c in beside]


def _asked_for(measurement: Measurement) -> str:
    found = SEARCHED.get(measurement.protocol, frozenset())
    if measurement.settings.get("device") == "gpu":
        found |= {"batch"}  # the paper's, or a part of it where that does not fit
    return repr(sorted((k, v) for k, v in measurement.settings.items() if k not in found))


def _compare(ours: _Entry, peer: _Entry) -> Comparison | None:
    quantity = _quantity(ours.measurement)
    # An interrupted run has more rounds of the one than of the other.
    pairs = [(a, b) for a, b in zip(ours.by_round, peer.by_round, strict=False) if a and b]
    if not pairs:
        return None
    mine, theirs = zip(*pairs, strict=True)
    ratio = ratio_interval(*((mine, theirs) if quantity == "speed" else (theirs, mine)))
    return Comparison(
        ours=ours.contender,
        peer=peer.contender,
        protocol=ours.measurement.protocol,
        settings=ours.measurement.settings,
        quantity=quantity,
        ratio=ratio,
        verdict=verdict_of(ratio, len(pairs)),
        pairs=len(pairs),
    )


class _Entry(NamedTuple):
    """A measurement to compare, with its quantity round by round, computed once for all pairs."""

    contender: Contender
    measurement: Measurement
    by_round: Sequence[float | None]


def _quantity(measurement: Measurement) -> str:
    return _QUANTITIES.get(measurement.protocol, "speed")


def _by_round(measurement: Measurement) -> Sequence[float | None]:
    if (quantity := _quantity(measurement)) == "speed":
        return [rate(measurement, r) for r in measurement.rounds]
    typical = max if quantity == "memory" else statistics.median
    return [float(typical(r.values)) if r.values else None for r in measurement.rounds]
