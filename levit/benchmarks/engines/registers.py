"""The register peak: multiplications and additions that wait for no memory at all.

A matrix product is a ceiling that a library has reached; this one nobody can pass. Its work is
that of the product beside it, so that records hold both in the same terms.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from levit.benchmarks.engines import Job
from levit.benchmarks.engines.ceiling import MACS
from levit.native.library import load_library

__all__ = ["open_turn"]


def open_turn(job: Job) -> Callable[[float], int]:
    """Return a turn of all threads at once, since clocks drop where all CPUs work.

    Returns:
        Seconds of measuring → nanoseconds of `MACS` multiply-adds at the rate of all threads.

    Raises:
        BackendUnavailableError: the library does not load.
    """
    library = load_library()
    isa = library.chosen_isa()
    threads = ThreadPoolExecutor(job.threads)

    def turn(seconds: float) -> int:
        barrier = threading.Barrier(job.threads)

        def one(_: int) -> float:
            barrier.wait()
            return library.peak(isa, seconds)

        return round(2 * MACS / sum(threads.map(one, range(job.threads))) * 1e9)

    return turn
