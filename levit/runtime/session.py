"""The seam between the runtime and a backend: one method."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from numpy.typing import NDArray

__all__ = ["Session", "SessionOptions"]


@dataclass(frozen=True, kw_only=True)
class SessionOptions:
    """Options of a session.

    Attributes:
        device: ``cpu`` or ``gpu``.
        threads: CPU threads of the backend.
        mode: ``latency`` answers one batch as soon as it can; ``throughput`` has several under
            way at once, where the backend knows how.
        cache: a folder for networks that a backend would otherwise compile at every opening;
            None for none.
        allow_host_code: load engines that carry code for the CPU beside that for the GPU.
    """

    device: str = "cpu"
    threads: int = 1
    mode: str = "latency"
    cache: Path | None = None
    allow_host_code: bool = False


class Session(Protocol):
    """A loaded network. ``run`` may be called from many threads at once."""

    @property
    def machine_class(self) -> str:
        """Class that kernels are chosen by here: `cpu_class`, or a GPU's; empty if unknown.

        On a class that an artifact has not seen, it proves itself before it answers.
        """
        ...

    def run(self, feeds: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Run one batch: inputs by name → outputs by name."""
        ...

    def close(self) -> None:
        """Release what the backend holds."""
        ...
