"""The seam between the runtime and a backend: one method."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from numpy.typing import NDArray

__all__ = ["Session", "SessionOptions"]


@dataclass(frozen=True, kw_only=True)
class SessionOptions:
    """What a caller may choose about a session.

    Attributes:
        device: ``cpu`` or ``gpu``.
        threads: CPU threads of the backend.
    """

    device: str = "cpu"
    threads: int = 1


class Session(Protocol):
    """A loaded network. ``run`` may be called from many threads at once."""

    def run(self, feeds: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Inputs by name → outputs by name, one batch."""
        ...

    def close(self) -> None:
        """Give back what the backend holds."""
        ...
