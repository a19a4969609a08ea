"""TensorRT's measurements of its kernels, kept between builds.

One file for each version and GPU architecture, in ``${XDG_CACHE_HOME:-~/.cache}/levit``. It makes
later builds several times shorter; without it they come to the same engine.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

from levit.errors import ArtifactError
from levit.whole_file import whole_file

__all__ = ["TimingCache"]


@dataclass(frozen=True)
class TimingCache:
    """The cache of one module, version and architecture.

    Args:
        module, version, architecture: what measured, and on what.
    """

    module: str
    version: str
    architecture: str

    @property
    def path(self) -> Path:
        """Path of the cache file."""
        root = os.environ.get("XDG_CACHE_HOME")
        base = Path(root) if root else Path.home() / ".cache"
        return base / "levit" / f"{self.module}-{self.version}-{self.architecture}.timing"

    def read(self) -> bytes:
        """The measurements of earlier builds; empty before the first.

        Raises:
            ArtifactError: it cannot be read, or could not be written afterwards.
        """
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            # Before a build of minutes: whether its measurements can be kept.
            with tempfile.TemporaryFile(dir=self.path.parent):
                pass
            with contextlib.suppress(FileNotFoundError):
                return self.path.read_bytes()
        except (OSError, RuntimeError) as error:  # RuntimeError: no home
            raise self._unwritable(error) from error
        return b""

    def write(self, data: bytes) -> None:
        """Replace it, whole; of two builds at once the later one stays.

        Raises:
            ArtifactError: it cannot be written.
        """
        try:
            with whole_file(self.path) as file:
                file.write(data)
        except OSError as error:
            raise self._unwritable(error) from error

    def _unwritable(self, error: Exception) -> ArtifactError:
        reason = getattr(error, "strerror", None) or error
        return ArtifactError(
            f"{self.path}: TensorRT's timing cache cannot be kept ({reason}); set XDG_CACHE_HOME "
            f"to a folder that can be written"
        )
