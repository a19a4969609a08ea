"""Why something cannot be used here, and what to do about it."""

from __future__ import annotations

from dataclasses import dataclass

from levit.errors import BackendUnavailableError

__all__ = ["Obstacle"]


@dataclass(frozen=True, kw_only=True)
class Obstacle:
    """What stands between an artifact and a device.

    Attributes:
        reason: a few words, as a table has room for: ``no NVIDIA driver``.
        remedy: what to do: the exact command where there is one.
    """

    reason: str
    remedy: str

    def error(self, what: str) -> BackendUnavailableError:
        """To be raised where `what` was asked for."""
        return BackendUnavailableError(f"{what}: {self.reason}: {self.remedy}")
