"""Whether a backend is new enough for an artifact."""

from __future__ import annotations

from levit.artifact import Artifact
from levit.errors import BackendUnavailableError

__all__ = ["numbers_of", "require_version"]


def require_version(artifact: Artifact, backend: str, present: str, install: str) -> None:
    """Raise where the artifact asks for a newer backend than there is.

    Args:
        backend: its name.
        present: its version here.
        install: the command that brings a newer one.

    Raises:
        BackendUnavailableError: it is too old; says which is needed.
    """
    needed = str(artifact.manifest.requirements.get("backend_version", "")).removeprefix(">=")
    if numbers_of(present) < numbers_of(needed):
        raise BackendUnavailableError(
            f"{artifact.path.name} needs {backend} {needed} or newer, here is {present}: {install}"
        )


def numbers_of(version: str) -> tuple[int, ...]:
    """The first two numbers of a version."""
    return tuple(int(part) for part in version.split(".")[:2] if part.isdecimal())
