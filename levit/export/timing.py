"""Contenders timed in turns, so that a machine that slows down meanwhile slows all of them.

Ratios are to be taken inside rounds: the turns of one round lie side by side.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final, TypeVar

import numpy as np
from numpy.typing import NDArray

__all__ = ["call_times_ns", "in_turns", "time_in_turns"]

# Of one contender in one round: enough calls for a median, few enough that rounds are many.
_TURN_S: Final = 0.25
_ROUNDS: Final = 9
_WARM_UP: Final = 4
# Far more calls than say anything new; without an end, one that does nothing fills the memory.
_MOST_CALLS: Final = 100_000

Call = Callable[[], object]
Contender = TypeVar("Contender")


def in_turns(
    contenders: Sequence[Contender], rounds: int, rng: np.random.Generator
) -> Iterator[tuple[int, Contender]]:
    """Yield (round, contender): every contender once a round, in an order drawn anew.

    Example::

        for number, name in in_turns(("before", "after"), 9, np.random.default_rng(0)):
            seconds[name].append(measure(name))
    """
    for number in range(rounds):
        order = list(contenders)
        rng.shuffle(order)
        for contender in order:
            yield number, contender


def call_times_ns(call: Call, seconds: float, *, handicap: float = 0.0) -> tuple[int, list[int]]:
    """(nanoseconds of the whole turn, of each call): calls until `seconds` have passed.

    There is at least one call, and at most a hundred thousand.

    Args:
        handicap: a fraction by which each call is made to last longer: a check of the benchmark
            enters one contender with it and expects the verdict "slower".
    """
    clock = time.perf_counter_ns
    values: list[int] = []
    start = clock()
    deadline = start + int(seconds * 1e9)
    while True:
        before = clock()
        call()
        after = clock()
        if handicap:
            until = after + int((after - before) * handicap)
            while after < until:
                after = clock()
        values.append(after - before)
        if after >= deadline or len(values) == _MOST_CALLS:
            return after - start, values


def time_in_turns(calls: Sequence[Call], seed: int = 0) -> NDArray[Any]:
    """Return the seconds of the median call of each turn, (rounds, contenders).

    Example::

        seconds = time_in_turns([lambda: old.forward(batch), lambda: new.forward(batch)])
        speedup = np.median(seconds[:, 0] / seconds[:, 1])
    """
    for call in calls:
        for _ in range(_WARM_UP):
            call()
    seconds = np.empty((_ROUNDS, len(calls)))
    for number, i in in_turns(range(len(calls)), _ROUNDS, np.random.default_rng(seed)):
        calls[i]()  # threads of the one before go to sleep meanwhile
        _, values_ns = call_times_ns(calls[i], _TURN_S)
        seconds[number, i] = statistics.median(values_ns) / 1e9
    return seconds
