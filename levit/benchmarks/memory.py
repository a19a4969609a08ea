"""How much memory is left for one more network."""

from __future__ import annotations

from pathlib import Path

__all__ = ["available_memory"]

_MEMINFO = Path("/proc/meminfo")
_CGROUP = Path("/sys/fs/cgroup")


def available_memory() -> float | None:
    """The free fraction of this machine's memory, or of this container's if that is less.

    None where the system tells neither.
    """
    found = [share for share in (_machine(), _container()) if share is not None]
    return min(found, default=None)


def _machine() -> float | None:
    try:
        lines = _MEMINFO.read_text().splitlines()
        cells = (line.partition(":") for line in lines)
        kilobytes = {name: int(rest.split()[0]) for name, _, rest in cells}
        return kilobytes["MemAvailable"] / kilobytes["MemTotal"]
    except (OSError, ValueError, KeyError, IndexError, ZeroDivisionError):
        return None


def _container() -> float | None:
    """By its cgroup (v2, as a container sees its own)."""
    try:
        most = int((_CGROUP / "memory.max").read_text())
        used = int((_CGROUP / "memory.current").read_text())
        # Pages of files are given back when somebody needs them.
        stat = dict(line.split() for line in (_CGROUP / "memory.stat").read_text().splitlines())
        return 1 - (used - int(stat.get("inactive_file", 0))) / most
    except (OSError, ValueError, ZeroDivisionError):  # "max": no limit
        return None
