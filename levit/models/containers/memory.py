"""Memory that this machine has left, asked before a file's tensors are read into it."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Final

from levit.errors import CheckpointError

__all__ = ["available_bytes", "refuse_what_memory_lacks"]

_MEMINFO: Final = Path("/proc/meminfo")
_CGROUP: Final = Path("/sys/fs/cgroup")
# Below it nobody needs to ask: DeiT-B is 350 MB, LeViT-384 160.
_NEVER_ASKED_BYTES: Final = 64 << 20


def refuse_what_memory_lacks(file: str, needed_bytes: int) -> None:
    """Raise where tensors of so many bytes cannot be in memory.

    Linux hands out memory that it does not have, and ends the process when it is written to.

    Raises:
        CheckpointError: the machine or its container has less left.
    """
    if needed_bytes <= _NEVER_ASKED_BYTES:
        return
    left = available_bytes()
    if left is not None and needed_bytes > left:
        raise CheckpointError(
            f"{file}: its tensors need {needed_bytes / 1e9:,.1f} GB of memory, and "
            f"{left / 1e9:,.1f} GB are left; use a machine with more, or save the weights alone"
        )


def available_bytes() -> int | None:
    """Return bytes that this process can still be given; None where the system does not say."""
    found = []
    with contextlib.suppress(OSError, ValueError, IndexError, KeyError):
        lines = (line.split() for line in _MEMINFO.read_text().splitlines())
        sizes = {line[0]: int(line[1]) << 10 for line in lines}
        found.append(sizes["MemAvailable:"] + sizes.get("SwapFree:", 0))
    with contextlib.suppress(OSError, ValueError, IndexError):  # no container, or no limit
        most = int((_CGROUP / "memory.max").read_text())
        used = int((_CGROUP / "memory.current").read_text())
        pages = (line.split() for line in (_CGROUP / "memory.stat").read_text().splitlines())
        # Pages of files are given back when somebody needs them.
        given_back = next((int(n) for name, n in pages if name == "inactive_file"), 0)
        found.append(most - used + given_back)
    return min(found, default=None)
