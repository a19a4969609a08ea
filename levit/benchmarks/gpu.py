"""The NVIDIA GPU of this machine, as its driver's nvidia-smi tells it.

Written from nvidia-smi's documented output; it has not been run on hardware yet.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from typing import Any, Final

from levit.errors import BackendUnavailableError, brief

__all__ = ["gpu_fingerprint", "require_driver", "sample"]

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
}
_WORDS: Final[Mapping[str, str]] = {
    "name": "name",
    "driver": "driver_version",
    "compute_capability": "compute_cap",
    "persistence_mode": "persistence_mode",
}

_TIMEOUT_S: Final = 20


def require_driver() -> None:
    """Make sure that there is an NVIDIA GPU; which libraries can use it is theirs to say.

    Raises:
        BackendUnavailableError: no driver, or no GPU.
    """
    _query(["name"])


def sample() -> dict[str, float | None]:
    """The first GPU now: clocks in MHz, °C, W and percent; None for what it does not tell.

    Raises:
        BackendUnavailableError: no driver or no GPU.
    """
    return numbers(list(_SAMPLE), _query(list(_SAMPLE.values())))


def gpu_fingerprint() -> dict[str, Any]:
    """Name, driver, memory in MiB, limits of clocks in MHz and of power in W; how many GPUs.

    Raises:
        BackendUnavailableError: no driver or no GPU.
    """
    fields = [*_WORDS.values(), *_NUMBERS.values()]
    text = _query(fields)
    cells = first_gpu(text, len(fields))
    words = {name: word(cell) for name, cell in zip(_WORDS, cells, strict=False)}
    numerals = {
        name: number(cell) for name, cell in zip(_NUMBERS, cells[len(_WORDS) :], strict=True)
    }
    return {**words, **numerals, "count": len(text.strip().splitlines())}


def numbers(names: Sequence[str], text: str) -> dict[str, float | None]:
    """The first GPU's cells of nvidia-smi's CSV as numbers, by our names."""
    cells = first_gpu(text, len(names))
    return {name: number(cell) for name, cell in zip(names, cells, strict=True)}


def first_gpu(text: str, count: int) -> list[str]:
    """The cells of the first line of ``--format=csv,noheader,nounits``.

    Raises:
        BackendUnavailableError: the line is missing or has not `count` cells.
    """
    lines = text.strip().splitlines()
    cells = [cell.strip() for cell in lines[0].split(",")] if lines else []
    if len(cells) != count:
        raise BackendUnavailableError(
            f"nvidia-smi answers {text.strip()[:80]!r}, not {count} values: check that it works"
        )
    return cells


def word(cell: str) -> str | None:
    """A cell's text; None for ``[N/A]``, ``[Not Supported]``, ``[Unknown Error]`` and the like."""
    return None if cell.startswith("[") or cell in ("", "N/A") else cell


def number(cell: str) -> float | None:
    """A cell's number, with a unit or without; None where there is none."""
    try:
        return float(cell.split()[0])
    except (ValueError, IndexError):
        return None


def _chosen(visible: str) -> list[str]:
    """nvidia-smi's option for the GPU that CUDA calls its first, if that was chosen by name.

    A number is CUDA's own, which counts as nvidia-smi does only where CUDA_DEVICE_ORDER says
    PCI_BUS_ID: then it is taken too.
    """
    first = visible.split(",")[0].strip()
    by_bus = os.environ.get("CUDA_DEVICE_ORDER") == "PCI_BUS_ID"
    if first.startswith("GPU-") or (first.isdecimal() and by_bus):
        return [f"--id={first}"]
    return []


def _query(fields: Sequence[str]) -> str:
    command = shutil.which("nvidia-smi")
    if command is None:
        raise BackendUnavailableError(
            "no NVIDIA GPU here (there is no nvidia-smi): install NVIDIA's driver, "
            "or use --device cpu"
        )
    try:
        done = subprocess.run(
            [
                command,
                f"--query-gpu={','.join(fields)}",
                "--format=csv,noheader,nounits",
                *_chosen(os.environ.get("CUDA_VISIBLE_DEVICES", "")),
            ],
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_TIMEOUT_S,
            check=False,
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
    return done.stdout
