"""Counters of the operating system, most of them read by psutil (extra `bench`).

A function returns None where the system does not tell, or where psutil is not installed: timing an
artifact needs nothing but the runtime.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from levit.runtime.cpus import cpu_cgroups

__all__ = [
    "cpu_seconds",
    "free_memory",
    "load_averages",
    "our_seconds",
    "overheated",
    "physical_cores",
    "read_text",
    "throttled",
    "total_memory_bytes",
]

_SYS = Path("/sys")

Told = TypeVar("Told")


def cpu_seconds() -> tuple[float | None, float | None]:
    """(busy, stolen by the hypervisor) seconds of all CPUs together since the system started."""
    times = _asked(lambda psutil: psutil.cpu_times())
    if times is None:
        return None, None
    busy = ("user", "nice", "system", "irq", "softirq")  # user and nice hold the guests' time
    return sum(getattr(times, name, 0.0) for name in busy), getattr(times, "steal", None)


def our_seconds() -> float | None:
    """CPU seconds of this process, of children that have ended, and of all descendants."""

    def read(psutil: Any) -> float:
        seconds = sum(os.times()[:4])
        for process in psutil.Process().children(recursive=True):
            with contextlib.suppress(psutil.Error):  # it has just ended
                seconds += sum(process.cpu_times()[:4])
        return float(seconds)

    return _asked(read)


def physical_cores() -> int | None:
    """Cores of this machine: threads that are siblings count once."""
    return _asked(lambda psutil: psutil.cpu_count(logical=False))


def total_memory_bytes() -> int | None:
    """Memory of this machine."""
    return _asked(lambda psutil: int(psutil.virtual_memory().total))


def free_memory() -> float | None:
    """Available fraction of this machine's memory, or of this container's if that is less."""
    machine = _asked(lambda psutil: psutil.virtual_memory())
    shares = [] if machine is None or not machine.total else [machine.available / machine.total]
    with contextlib.suppress(OSError, ValueError, ZeroDivisionError):  # no container, or no limit
        cgroup = _SYS / "fs/cgroup"  # v2, as a container sees its own
        most = int((cgroup / "memory.max").read_text())
        used = int((cgroup / "memory.current").read_text())
        # Pages of files are given back when somebody needs them.
        stat = dict(line.split() for line in (cgroup / "memory.stat").read_text().splitlines())
        shares.append(1 - (used - int(stat.get("inactive_file", 0))) / most)
    return min(shares, default=None)


def load_averages() -> list[float] | None:
    """Averages over 1, 5 and 15 minutes of how many processes wanted a CPU."""
    try:
        return list(os.getloadavg())
    except (AttributeError, OSError):
        return None


def throttled() -> int | None:
    """Stops of this process by its CPU quota, as the nearest cgroup with such a counter has it."""
    for folder in cpu_cgroups():
        for line in (read_text(folder / "cpu.stat") or "").splitlines():
            name, _, value = line.partition(" ")
            if name == "nr_throttled" and value.isdecimal():
                return int(value)
    return None


def overheated() -> int | None:
    """Times that a CPU has lowered its clock for heat."""
    pattern = "cpu[0-9]*/thermal_throttle/core_throttle_count"
    texts = (read_text(path) for path in (_SYS / "devices/system/cpu").glob(pattern))
    counts = [int(text) for text in texts if text and text.isdecimal()]
    return sum(counts) if counts else None


def read_text(path: Path) -> str | None:
    """Return a file's text without the white space around it; None for one that has none."""
    try:
        return path.read_text(errors="replace").strip() or None
    except OSError:
        return None


def _asked(read: Callable[[Any], Told]) -> Told | None:
    try:
        import psutil
    except ImportError:
        return None
    try:
        return read(psutil)
    # As psutil fails where files of the system are missing or odd.
    except (psutil.Error, OSError, ValueError, LookupError, AttributeError, NotImplementedError):
        return None
