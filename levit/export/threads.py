"""Work for several CPUs: NumPy lets go of the interpreter while it computes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Final, TypeVar

from levit.runtime.cpus import available_cpus

__all__ = ["in_threads"]

# Each holds the memory of an evaluation of a network.
_MOST: Final = 8

T = TypeVar("T")
U = TypeVar("U")


def in_threads(function: Callable[[T], U], items: Iterable[T]) -> Iterator[U]:
    """Apply `function` to all items, some at a time, and give the results in their order.

    Each is computed by itself, so that results do not depend on the number of CPUs. The command
    line gives BLAS one thread (docs/decisions.md); these are the others.
    """
    with ThreadPoolExecutor(min(_MOST, available_cpus())) as pool:
        yield from pool.map(function, items)
