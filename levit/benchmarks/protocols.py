"""What is measured, and how; docs/benchmarking.md says the same for users."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final, Literal

__all__ = ["OVERVIEW", "PROTOCOLS", "Protocol", "schedule"]


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """One way to measure.

    Attributes:
        summary: one line, for people.
        kind: ``tensor`` times the network alone, ``images`` the way from JPEG bytes to a class,
            ``process`` whole processes.
        batch: images of a call on a CPU; 0 where the best is searched for.
        any_batch: whether another may be asked for.
        threads: 1, or 0 for all that the process may use.
        seconds: of timed work for each contender, in all rounds together.
        warmup_s: of work before that, which does not count.
        rounds: turns of each contender; of ``process``, processes.
    """

    summary: str
    kind: Literal["tensor", "images", "process"]
    batch: int
    threads: int
    seconds: float
    warmup_s: float
    rounds: int
    any_batch: bool = False


PROTOCOLS: Final[Mapping[str, Protocol]] = {
    # facebookresearch/LeViT speed_test.py: T0 = 10 s of warm-up, then batches until T1 = 60 s
    # have accumulated; one thread, batch 16; on a GPU the batches of published.py.
    "paper": Protocol(
        summary="as the LeViT paper: one thread, batch 16 (GPU: fp16, batch 2048)",
        kind="tensor",
        batch=16,
        threads=1,
        seconds=60,
        warmup_s=10,
        rounds=12,
    ),
    "latency": Protocol(
        summary="batch 1, or --batch, all threads: p50, p90, p99",
        kind="tensor",
        batch=1,
        any_batch=True,
        threads=0,
        seconds=20,
        warmup_s=2,
        rounds=20,
    ),
    "throughput": Protocol(
        summary="the best of batch × streams, all threads",
        kind="tensor",
        batch=0,
        threads=0,
        seconds=20,
        warmup_s=1,
        rounds=10,
    ),
    "end-to-end": Protocol(
        summary="JPEG bytes in, top-1 out; decode, resize, infer apart",
        kind="images",
        batch=1,
        threads=0,
        seconds=20,
        warmup_s=1,
        rounds=10,
    ),
    "cold-start": Protocol(
        summary="process start to first prediction, fresh processes",
        kind="process",
        batch=1,
        threads=0,
        seconds=0,
        warmup_s=0,
        rounds=9,
    ),
    "memory": Protocol(
        summary="peak resident memory of a fresh process that makes one prediction",
        kind="process",
        batch=1,
        threads=0,
        seconds=0,
        warmup_s=0,
        rounds=6,
    ),
}

# `levit bench` with nothing else, and what share of the time each gets.
OVERVIEW: Final[Mapping[str, float]] = {"paper": 0.7, "latency": 0.3}

_OVERVIEW_S: Final = 135.0
_QUICK_S: Final = 18.0
_QUICK_ROUNDS: Final = 6  # the fewest whose extremes cover the median with 95 %
_LEAST_S: Final = 0.5


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
    """How long a protocol measures in this run.

    Args:
        contenders: how many take part.
        chosen: whether the protocol was asked for by name, which gives it its full length.
        quick: whether all is to end within a minute.
        seconds, rounds: what was asked for instead.
        protocols: of the run, among which a quick run divides its time.
        batch: images of a call, where the protocol takes any.
    """
    protocol = PROTOCOLS[name]
    if batch is not None and protocol.any_batch:
        protocol = replace(protocol, batch=batch)
    full = protocol.seconds
    if protocol.kind == "process":
        few = rounds or (3 if quick else protocol.rounds)
        return replace(protocol, rounds=few)
    share = OVERVIEW.get(name, 1 / protocols) if not chosen else 1 / protocols
    if seconds is not None:
        length = seconds
    elif quick:
        length = _QUICK_S * share / contenders
    elif chosen:
        length = full
    else:
        length = _OVERVIEW_S * share / contenders
    length = min(full, max(_LEAST_S, length)) if seconds is None else length
    return replace(
        protocol,
        seconds=length,
        # The same share of the whole as in the protocol.
        warmup_s=protocol.warmup_s * min(1.0, length / full),
        rounds=rounds or (_QUICK_ROUNDS if quick else protocol.rounds),
    )
