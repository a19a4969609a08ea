"""Noise of the machine: a fixed piece of work timed between rounds, and the system's counters.

The work does not depend on the contenders. It gets slower by another process, a hypervisor that
gives the CPU to someone else, or a clock that sinks, and the counters say which of these it was.
`NoiseLog` keeps raw values; verdicts are made on reading.

A sample takes about 22 ms of a quiet CPU and should be taken while no contender runs (threads that
still spin after their last call count as noise where there are as many as CPUs).
"""

from __future__ import annotations

import functools
import os
import statistics
import time
from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from levit.benchmarks import system

__all__ = ["NoiseLog", "Quietness", "calibrate", "counters", "drift", "quietness"]

Quietness: TypeAlias = Literal["quiet", "noisy", "very noisy"]

# Half of the kernel's time each on a Zen 5 core: a multiplication and an addition over 32 KiB,
# which stay in the nearest caches, and copies of 32 MiB, which do not fit them.
_CALLS: Final = 2000
_COPIES: Final = 2
_PER_SAMPLE: Final = 3


@functools.cache
def _buffers() -> tuple[NDArray[np.float32], ...]:
    """(near, result, far, copy), written once: every page is there before the first timing."""
    near = np.linspace(-1, 1, 8 << 10, dtype=np.float32)
    far = np.ones(8 << 20, np.float32)
    return near, np.ones_like(near), far, far.copy()


def calibrate() -> int:
    """Return the nanoseconds of the fixed work, some 7 ms: element by element, so in one thread."""
    near, result, far, copy = _buffers()
    start = time.perf_counter_ns()
    for _ in range(_CALLS):
        np.multiply(near, near, out=result)
        np.add(result, near, out=result)
    for _ in range(_COPIES):
        np.copyto(copy, far)
    return time.perf_counter_ns() - start


def counters() -> dict[str, float | None]:
    """Read the system's counters since it started; None where it does not tell.

    CPU seconds of all processes (``busy_s``), given by the hypervisor to others (``steal_s``), and
    of this process and all that it has started (``ours_s``); the load average over one minute; how
    often our cgroup's quota has stopped us, and the CPU lowered its clock for heat.
    """
    busy_s, steal_s = system.cpu_seconds()
    return {
        "busy_s": busy_s,
        "steal_s": steal_s,
        "ours_s": system.our_seconds(),
        "load": (system.load_averages() or (None,))[0],
        "throttled": system.throttled(),
        "overheated": system.overheated(),
    }


class NoiseLog:
    """Samples of one run, for `Record.noise`."""

    def __init__(self) -> None:
        calibrate()  # makes the buffers, and wakes the clock
        self._start = time.monotonic()
        self._samples: list[dict[str, Any]] = []

    def sample(self) -> None:
        """Time the work three times, and read the counters."""
        kernel_ns = [calibrate() for _ in range(_PER_SAMPLE)]
        at_s = time.monotonic() - self._start
        self._samples.append({"at_s": at_s, "kernel_ns": kernel_ns, **counters()})

    def to_dict(self) -> dict[str, Any]:
        """``cpus`` (online, which the counters' seconds are of) and ``samples``: raw values.

        Each sample has ``at_s`` (seconds since the log began), ``kernel_ns`` and the fields of
        `counters`.
        """
        return {"cpus": os.cpu_count() or 1, "samples": list(self._samples)}


# (noisy, very noisy) above these.
#
# How much longer the slowest tenth of the calibrations takes than the fastest tenth. On a shared
# virtual machine with 2 CPUs: 0.20 in the only window in which nobody else ran, 0.6 to 0.7 beside
# an eighth of the CPUs in use by others. It does not grow for ever: where others take all they
# can get, every calibration is slow, and half of 156 windows of 13 samples were below 0.92 (the
# least 0.44). So it tells quiet from noisy, and OTHERS tells how noisy.
SPREAD: Final = (0.35, 1.0)
# CPUs that other processes used, in CPUs and not as a share of all: a product over all threads
# waits for the one that had to share its CPU. There, 0.2 CPUs of others made an interval of one
# thread 2 % wide, which is the smallest difference that is told at all; one CPU made a product
# over both threads three times slower, round after round, with an interval as narrow as before.
OTHERS: Final = (0.1, 0.5)
# Share of the time that the hypervisor took: half of the smallest difference that is told, and
# the widest interval that may still be called equal (`levit.benchmarks.intervals`).
STEAL: Final = (0.01, 0.05)
# Fewer samples than this say nothing about tenths.
FEWEST: Final = 4

_VERDICTS: Final[tuple[Quietness, ...]] = ("quiet", "noisy", "very noisy")


def quietness(noise: Mapping[str, Any]) -> tuple[Quietness, list[str]]:
    """(verdict, reasons) on a run's `NoiseLog.to_dict`; no reasons where it was quiet.

    The worst single reason decides. A run without enough samples to tell is noisy.
    """
    samples = noise.get("samples", ())
    if len(samples) < FEWEST:
        return "noisy", [f"only {len(samples)} calibrations were taken, too few to tell"]
    busy_s, ours_s, steal_s, wall_s = (
        _increase(samples, name) for name in ("busy_s", "ours_s", "steal_s", "at_s")
    )
    others = steal = None
    if wall_s and busy_s is not None and ours_s is not None:
        others = (busy_s - ours_s) / wall_s
    if wall_s and steal_s is not None:
        steal = steal_s / (wall_s * noise.get("cpus", 1))
    level, reasons = 0, []
    low, high = np.percentile([ns for sample in samples for ns in sample["kernel_ns"]], [10, 90])
    for value, limits, text in (
        (
            high / low - 1,
            SPREAD,
            "the slowest tenth of the calibrations took {:.0%} longer than the fastest",
        ),
        (others, OTHERS, "other processes used {:.2f} CPUs"),
        (steal, STEAL, "the hypervisor took {:.1%} of the CPUs' time"),
    ):
        if value is not None and value > limits[0]:
            level = max(level, 2 if value > limits[1] else 1)
            reasons.append(text.format(value))
    for name, text in (
        ("throttled", "the container's CPU quota stopped the run {:.0f} times"),
        ("overheated", "the CPU lowered its clock for heat {:.0f} times"),
    ):
        if count := _increase(samples, name):
            level = max(level, 1)
            reasons.append(text.format(count))
    return _VERDICTS[level], reasons


def _increase(samples: Sequence[Mapping[str, Any]], name: str) -> float | None:
    """Return last value − first value of the samples that have it; None for fewer than two."""
    values = [value for sample in samples if (value := sample.get(name)) is not None]
    return float(values[-1] - values[0]) if len(values) > 1 else None


def drift(noise_a: Mapping[str, Any], noise_b: Mapping[str, Any]) -> float:
    """Return the drift of the machine from a to b: 0.03 is 3 % slower.

    By the medians of each sample's best calibration; 0 where one of the two has no sample. The
    kernel runs in NumPy: another NumPy may show as a drift.
    """
    a, b = ([min(s["kernel_ns"]) for s in n.get("samples", ())] for n in (noise_a, noise_b))
    return statistics.median(b) / statistics.median(a) - 1 if a and b else 0.0
