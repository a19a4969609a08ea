"""Obstacles: the reason why something cannot be used here, and the remedy."""

from __future__ import annotations

from dataclasses import dataclass

from levit.errors import BackendUnavailableError

__all__ = ["Obstacle"]


@dataclass(frozen=True, kw_only=True)
class Obstacle:
    """Reason why a backend or device cannot be used here.

    Attributes:
        reason: a few words, for a table: ``no NVIDIA driver``.
        remedy: the exact command where there is one, else advice.
    """

    reason: str
    remedy: str

    def error(self, what: str) -> BackendUnavailableError:
        """Make the error of a caller who asked for `what`."""
        return BackendUnavailableError(f"{what}: {self.reason}: {self.remedy}")
