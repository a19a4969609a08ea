"""Protocols of measuring; docs/benchmarking.md describes them for users."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Final, Literal

__all__ = ["END_TO_END", "OVERVIEW", "PROTOCOLS", "Protocol", "chosen_protocols", "schedule"]


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """One way to measure.

    Attributes:
        kind: ``tensor`` times the network alone, ``image`` the way from JPEG bytes to a class,
            ``images`` that of many at once, ``process`` whole processes.
        batch: images of a call on a CPU; 0 where the best is searched for.
        images: pictures of a call, which takes them in batches; 0 where it is one batch.
        any_batch: True where a user may ask for another.
        threads: 1, or 0 for all that the process may use.
        seconds: of timed work for each contender, in all rounds together.
        warmup_s: of work before that, which does not count.
        rounds: turns of each contender; of ``process``, processes.
    """

    kind: Literal["tensor", "image", "images", "process"]
    rounds: int
    batch: int = 1
    images: int = 0
    threads: int = 0
    seconds: float = 0
    warmup_s: float = 0
    any_batch: bool = False


END_TO_END: Final = ("end-to-end", "end-to-end-many")

PROTOCOLS: Final[Mapping[str, Protocol]] = {
    # facebookresearch/LeViT speed_test.py: T0 = 10 s of warm-up, then batches until T1 = 60 s
    # have accumulated; one thread, batch 16; on a GPU the batches of published.py.
    "paper": Protocol(kind="tensor", batch=16, threads=1, seconds=60, warmup_s=10, rounds=12),
    # Batch 1, or --batch, all threads: p50, p90, p99.
    "latency": Protocol(kind="tensor", any_batch=True, seconds=20, warmup_s=2, rounds=20),
    # The best of batch × streams, all threads.
    "throughput": Protocol(kind="tensor", batch=0, seconds=20, warmup_s=1, rounds=10),
    # JPEG bytes in, top-1 out, one picture at a time; decode, resize and network beside it.
    "end-to-end": Protocol(kind="image", seconds=20, warmup_s=1, rounds=10),
    # Many pictures with all threads. So many that the line is full for most of a call; in batches
    # of 16, or what the engine's own line takes.
    "end-to-end-many": Protocol(
        kind="images", batch=16, images=128, seconds=20, warmup_s=1, rounds=10
    ),
    # Process start to first prediction, fresh processes.
    "cold-start": Protocol(kind="process", rounds=9),
    # Peak resident memory of a fresh process that makes one prediction.
    "memory": Protocol(kind="process", rounds=6),
}

# Protocols of `levit bench` with nothing else, and the share of the time of each.
OVERVIEW: Final[Mapping[str, float]] = {"paper": 0.7, "latency": 0.3}

_OVERVIEW_S: Final = 135.0
_QUICK_S: Final = 18.0
_QUICK_ROUNDS: Final = 6  # the fewest whose extremes cover the median with 95 %
_LEAST_S: Final = 0.5


def chosen_protocols(names: Iterable[str]) -> tuple[str, ...]:
    """Return the protocols behind the names that a user gives: ``end-to-end`` is two."""
    found = (END_TO_END if name == END_TO_END[0] else (name,) for name in names)
    return tuple(dict.fromkeys(itertools.chain.from_iterable(found)))


def schedule(
    name: str,
    contenders: int,
    *,
    chosen: bool,
    quick: bool,
    seconds: float | None,
    rounds: int | None,
    protocols: int,
    batch: int | None = None,
) -> Protocol:
    """Return a protocol with the lengths that it has in this run.

    Args:
        contenders: their number.
        chosen: True for a protocol that was asked for by name: it gets its full length.
        quick: True where all is to end within a minute.
        seconds, rounds: lengths of the user's choice.
        protocols: their number, among which a quick run divides its time.
        batch: images of a call, where the protocol takes any.

    Example::

        schedule("paper", 5, chosen=True, quick=False, seconds=6, rounds=None, protocols=1)
    """
    protocol = PROTOCOLS[name]
    if batch is not None and protocol.any_batch:
        protocol = replace(protocol, batch=batch)
    if protocol.kind == "process":
        return replace(protocol, rounds=rounds or (3 if quick else protocol.rounds))
    full = protocol.seconds
    if seconds is not None:
        length = seconds
    elif chosen and not quick:
        length = full
    else:
        share = 1 / protocols if chosen else OVERVIEW.get(name, 1 / protocols)
        together = (_QUICK_S if quick else _OVERVIEW_S) * share
        length = min(full, max(_LEAST_S, together / contenders))
    return replace(
        protocol,
        seconds=length,
        # The same share of the whole as in the protocol.
        warmup_s=protocol.warmup_s * min(1.0, length / full),
        rounds=rounds or (_QUICK_ROUNDS if quick else protocol.rounds),
    )
