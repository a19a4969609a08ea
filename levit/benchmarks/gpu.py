"""Clocks, power and limits of the GPU of a run: the runtime finds it, nvidia-smi is asked.

Written from nvidia-smi's documented output; it has not been run on hardware yet.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Mapping, Sequence
from typing import Any, Final

from levit.errors import BackendUnavailableError, brief
from levit.runtime.gpus import Gpu, look_for_gpu
from levit.runtime.obstacle import Obstacle

__all__ = ["gpu_fingerprint", "require_gpu", "sample"]

# Our name → nvidia-smi's (``nvidia-smi --help-query-gpu``).
_SAMPLE: Final[Mapping[str, str]] = {
    "sm_mhz": "clocks.sm",
    "memory_mhz": "clocks.mem",
    "temperature_c": "temperature.gpu",
    "power_w": "power.draw",
    "utilization_percent": "utilization.gpu",
}
_NUMBERS: Final[Mapping[str, str]] = {
    "memory_mib": "memory.total",
    "highest_sm_mhz": "clocks.max.sm",
    "highest_memory_mhz": "clocks.max.mem",
    "power_limit_w": "power.limit",
    "count": "count",
}
_WORDS: Final[Mapping[str, str]] = {
    "name": "name",
    "driver": "driver_version",
    "compute_capability": "compute_cap",
    "persistence_mode": "persistence_mode",
}

_TIMEOUT_S: Final = 20


def require_gpu() -> Gpu:
    """Return the GPU that CUDA takes first; which libraries can use it is theirs to say.

    Raises:
        BackendUnavailableError: no driver, or no GPU.
    """
    found = look_for_gpu()
    if isinstance(found, Obstacle):
        raise BackendUnavailableError(
            f"no NVIDIA GPU here ({found.reason}): {found.remedy}, or use --device cpu"
        )
    return found


def sample() -> dict[str, float | None]:
    """Clocks in MHz, °C, W and percent of that GPU now, or None; raises as `require_gpu`."""
    cells = _query([*_SAMPLE.values()])
    return dict(zip(_SAMPLE, map(number, cells), strict=True))


def gpu_fingerprint() -> dict[str, Any]:
    """Name, driver, memory in MiB, limits in MHz and W, count, or None; raises as `require_gpu`."""
    cells = _query([*_WORDS.values(), *_NUMBERS.values()])
    # [N/A], [Not Supported], [Unknown Error] and the like.
    words = [None if cell.startswith("[") or cell in ("", "N/A") else cell for cell in cells]
    numbers = map(number, cells[len(_WORDS) :])
    return dict(zip(_WORDS, words, strict=False)) | dict(zip(_NUMBERS, numbers, strict=True))


def number(cell: str) -> float | None:
    """A cell's number, with a unit or without; None where there is none."""
    try:
        return float(cell.split()[0])
    except (ValueError, IndexError):
        return None


def _query(fields: Sequence[str]) -> list[str]:
    """The cells of ``--format=csv,noheader,nounits``, of the GPU that CUDA takes first."""
    place = require_gpu().pci_bus_id
    command = shutil.which("nvidia-smi")
    if command is None:
        raise BackendUnavailableError(
            "the GPU's clocks are not told (there is no nvidia-smi): install NVIDIA's driver, "
            "or use --device cpu"
        )
    words = [f"--query-gpu={','.join(fields)}", "--format=csv,noheader,nounits", f"--id={place}"]
    try:
        done = subprocess.run(
            [command, *words], capture_output=True, text=True, errors="replace", timeout=_TIMEOUT_S
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise BackendUnavailableError(
            f"nvidia-smi cannot be asked ({brief(error)}): check the driver, or use --device cpu"
        ) from error
    # Its complaints about the driver go to stdout.
    said = f"{done.stdout} {done.stderr}".split()
    if done.returncode or not done.stdout.strip() or said[:2] == ["No", "devices"]:
        raise BackendUnavailableError(
            f"no NVIDIA GPU answers ({' '.join(said)[:160] or 'nvidia-smi says nothing'}): "
            "check the driver, or use --device cpu"
        )
    cells = [cell.strip() for cell in done.stdout.strip().splitlines()[0].split(",")]
    if len(cells) != len(fields):
        raise BackendUnavailableError(
            f"nvidia-smi answers {done.stdout.strip()[:80]!r}, not {len(fields)} values: check "
            "that it works"
        )
    return cells
