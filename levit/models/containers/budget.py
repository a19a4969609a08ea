"""Memory and work that reading one file of a stranger's may cost, in bytes.

A pickle can name a megabyte once and use it in a thousand places, so that steps say nothing about
cost. Whoever makes an object, joins or compares text, or copies a tuple on behalf of a file says
here how many bytes that is, before doing it.
"""

from __future__ import annotations

from typing import Final

from levit.errors import CheckpointError

__all__ = ["LONGEST_PICKLE_BYTES", "Budget"]

# LeViT-384 with its optimizer and averages has one of 0.5 MB, mmengine's with all its losses ten.
LONGEST_PICKLE_BYTES: Final = 128 << 20

# LeViT-384 with its optimizer and averages, 42,000 operations, keeps 6 MB in objects and touches
# 3 MB of names. The least leaves ten times that; a pickle of small numbers grows by 64 bytes a
# byte; the most is 21,843 names of classes and lists of three million numbers at once.
_LEAST_KEPT_BYTES: Final = 64 << 20
_KEPT_A_BYTE: Final = 64
_MOST_KEPT_BYTES: Final = 384 << 20
# A second of copying and comparing at the worst.
_MOST_TOUCHED_BYTES: Final = 512 << 20


class Budget:
    """Bytes that a file has left to spend.

    Example::

        budget = Budget("model.pth", pickle_bytes=50_000)
        budget.keep(len(name))

    Args:
        file: its name, for messages.
        pickle_bytes: length of the part of it that says what to make.
    """

    __slots__ = ("_file", "_kept_left", "_touched_left")

    def __init__(self, file: str, pickle_bytes: int) -> None:
        self._file = file
        allowed = _LEAST_KEPT_BYTES + _KEPT_A_BYTE * pickle_bytes
        self._kept_left = min(allowed, _MOST_KEPT_BYTES)
        self._touched_left = _MOST_TOUCHED_BYTES

    def keep(self, count: int) -> None:
        """Spend memory: `count` bytes that stay until the file is read.

        Raises:
            CheckpointError: the file has spent it all.
        """
        self._kept_left -= count
        if self._kept_left < 0:
            raise self._spent("takes more memory")

    def touch(self, count: int) -> None:
        """Spend work: `count` bytes copied, joined, hashed or compared.

        Raises:
            CheckpointError: the file has spent it all.
        """
        self._touched_left -= count
        if self._touched_left < 0:
            raise self._spent("takes more work")

    def _spent(self, what: str) -> CheckpointError:
        return CheckpointError(
            f"{self._file}: what it says beside its numbers {what} than any training writes; save "
            f"the weights alone: torch.save(model.state_dict(), …)"
        )
