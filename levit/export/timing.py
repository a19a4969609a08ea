"""Artifacts timed in turns, so that what the machine does beside it hits all alike."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

__all__ = ["time_in_turns"]

# Of one contender in one round: enough calls for a median, few enough that rounds are many.
_TURN_S: Final = 0.25
_ROUNDS: Final = 9
_WARM_UP: Final = 4

Call = Callable[[], object]


def time_in_turns(calls: Sequence[Call], seed: int = 0) -> NDArray[Any]:
    """(rounds, contenders) seconds: the median call of each turn, the order drawn anew.

    Ratios are to be taken inside rounds.
    """
    for call in calls:
        for _ in range(_WARM_UP):
            call()
    order = np.random.default_rng(seed)
    seconds = np.empty((_ROUNDS, len(calls)))
    for round_ in range(_ROUNDS):
        for i in order.permutation(len(calls)):
            seconds[round_, i] = _turn(calls[i])
    return seconds


def _turn(call: Call) -> float:
    call()  # threads of the one before go to sleep meanwhile
    taken: list[float] = []
    end = time.perf_counter() + _TURN_S
    while not taken or time.perf_counter() < end:
        start = time.perf_counter()
        call()
        taken.append(time.perf_counter() - start)
    return statistics.median(taken)
