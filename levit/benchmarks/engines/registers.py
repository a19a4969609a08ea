"""The register peak: multiplications and additions that wait for no memory at all.

A matrix product is a ceiling that a library has reached; this one nobody can pass. Its work is
that of the product beside it, so that records hold both in the same terms.
"""

from __future__ import annotations

import statistics
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from levit.benchmarks.engines import Job
from levit.benchmarks.engines.ceiling import MACS
from levit.errors import BackendUnavailableError
from levit.native.library import load_library

__all__ = ["open_turn", "peak_of"]

_WINDOW_S: Final = 0.001
_DTYPES: Final = {"fp32": "float32", "bf16": "bfloat16", "int8": "uint8"}


def open_turn(job: Job) -> Callable[[float], int]:
    """Return a turn: seconds of measuring → nanoseconds of `MACS` multiply-adds on all threads.

    Raises:
        BackendUnavailableError: the library does not load, or the CPU has no such products.
    """
    library, dtype = load_library(), _DTYPES[job.precision]
    if not library.multiplies(library.chosen_isa(), dtype):
        raise BackendUnavailableError(f"{library.chosen_isa()} has no products of {dtype}")
    return lambda seconds: round(2 * MACS / peak_of(job.threads, seconds, dtype) * 1e9)


def peak_of(threads: int, seconds: float, dtype: str = "float32") -> float:
    """Measure FLOP/s in registers, of all threads at once: clocks drop where all CPUs work.

    The median of windows shorter than a turn of the scheduler: other work falls into few of them.

    Args:
        dtype: of the numbers that are multiplied.
    """
    library = load_library()
    isa = library.chosen_isa()
    windows = max(1, round(seconds / _WINDOW_S))
    barrier = threading.Barrier(threads)

    def one(_: int) -> list[float]:
        found = []
        for _ in range(windows):
            barrier.wait()
            found.append(library.peak(isa, seconds / windows, dtype))
        return found

    with ThreadPoolExecutor(threads) as pool:
        together = zip(*pool.map(one, range(threads)), strict=True)
        return statistics.median(map(sum, together))
