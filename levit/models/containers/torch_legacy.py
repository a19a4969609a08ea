"""Files of ``torch.save`` from before PyTorch 1.6, read without PyTorch: pickles, then storages.

::

    pickles   a magic number, the version of the format, facts about the machine, the saved object,
              keys of storages as a list of text
    storages  in the order of that list: the number of elements in 8 bytes, then the elements

Everything is little-endian, whatever the machine. The pickles are read as data
(`restricted_pickle`) and tensors as views of storages (`torch_tensors`), within the same limits as
those of a zip file. What the first versions wrote, a tar file, is not read.

Source: torch/serialization.py (`_legacy_save`, `_legacy_load`).
"""

from __future__ import annotations

import os
from pathlib import Path
from pickle import UnpicklingError
from typing import BinaryIO, Final

import numpy as np
from numpy.typing import NDArray

from levit.errors import CheckpointError, brief
from levit.models.containers.budget import LONGEST_PICKLE_BYTES, Budget
from levit.models.containers.restricted_pickle import read_pickle
from levit.models.containers.torch_tensors import (
    CONSTRUCTORS,
    Storage,
    TensorReader,
    TorchFile,
    storage_of,
)

__all__ = ["LegacyFile", "is_legacy_pickle", "is_legacy_tar", "refuse_tar"]

# pickle.dumps(0x1950a86a20f9469cfc6c) but for its second byte, the protocol.
_MAGIC: Final = b"\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
_VERSION: Final = 1001
_LENGTH_BYTES: Final = 8
# Read first, and a larger part where that is not all of the pickles: they say nowhere where they
# end, and what follows them may be gigabytes.
_FIRST_PART_BYTES: Final = 4 << 20
_MOST_STORAGES: Final = 100_000


def is_legacy_pickle(head: bytes) -> bool:
    """Tell a file of PyTorch before 1.6 by its first bytes."""
    return head[:1] == b"\x80" and head[2 : 2 + len(_MAGIC)] == _MAGIC


def is_legacy_tar(head: bytes) -> bool:
    """Tell a tar file by its first bytes."""
    return head[257:262] == b"ustar"


def refuse_tar(file: Path) -> CheckpointError:
    """Make the error for a tar file."""
    return CheckpointError(
        f"{file}: a tar file, as the first versions of PyTorch wrote, which cannot be read "
        f"safely; where you trust the file, convert it: "
        f"torch.save(torch.load(old, weights_only=False), new)"
    )


class LegacyFile(TorchFile):
    """An opened file of pickles and storages.

    Args:
        stream: a binary file, open for reading; it stays the caller's to close.
        file: its name, for messages.

    Raises:
        CheckpointError: truncated or damaged.
    """

    def __init__(self, stream: BinaryIO, file: str) -> None:
        self._stream = stream
        self._file = file
        self._size_bytes = stream.seek(0, os.SEEK_END)
        self._known: dict[str, Storage] = {}
        keys, at = self._read_pickles()
        self._places = self._find_storages(keys, at)
        self.tensors = TensorReader(file, self._size_bytes, self._read)

    def _read_pickles(self) -> tuple[object, int]:
        """Read the pickles: (keys of storages, where the first begins)."""
        most = min(self._size_bytes, LONGEST_PICKLE_BYTES)
        part = min(most, _FIRST_PART_BYTES)
        while True:
            self._stream.seek(0)
            data = self._stream.read(part)
            self.budget = Budget(self._file, len(data))
            self._known.clear()
            try:
                return self._parsed(data)
            except UnpicklingError as error:
                if part == most:
                    raise CheckpointError(
                        f"{self._file}: its pickles, in PyTorch's format from before 1.6, cannot "
                        f"be read ({brief(error)}); download or save it again"
                    ) from error
            part = min(most, 4 * part)

    def _parsed(self, data: bytes) -> tuple[object, int]:
        found: list[object] = []
        at = 0
        for _ in range(5):
            value, at = read_pickle(
                data,
                constructors=CONSTRUCTORS,
                persistent=self._persistent,
                budget=self.budget,
                start=at,
            )
            found.append(value)
        _, version, _, self.tree, keys = found
        if version != _VERSION:
            raise UnpicklingError("of another version")
        return keys, at

    def _persistent(self, identity: object) -> object:
        match identity:
            case ("module", kind, _, _):  # a class of a network, with its source code
                return kind
            case ("storage", _, _, _, _, view) if view is not None:
                raise UnpicklingError("a view of a storage, of the first versions of PyTorch")
        storage = storage_of(identity)
        first = self._known.setdefault(storage.key, storage)
        return storage if first.length == storage.length else first

    def _find_storages(self, keys: object, at: int) -> dict[str, int]:
        """Find where the elements of each storage begin."""
        places: dict[str, int] = {}
        if type(keys) is not list or len(keys) > _MOST_STORAGES:
            raise self._damaged("its list of storages is none, or too long")
        for key in keys:
            storage = self._known.get(key) if type(key) is str else None
            if storage is None or storage.size_bytes is None or key in places:
                raise self._damaged("it has a storage that no tensor names, or one twice")
            places[key] = at + _LENGTH_BYTES
            at = places[key] + storage.size_bytes
            if at > self._size_bytes:
                raise self._damaged("it ends before its storages do")
            self._stream.seek(places[key] - _LENGTH_BYTES)
            if int.from_bytes(self._stream.read(_LENGTH_BYTES), "little") != storage.length:
                raise self._damaged("a storage is of another length than its pickle says")
        return places

    def _read(self, storage: Storage) -> NDArray[np.uint8]:
        place, size = self._places.get(storage.key), storage.size_bytes
        if place is None or size is None or place + size > self._size_bytes:
            raise self._damaged("a storage is missing")
        self._stream.seek(place)
        data = np.empty(size, np.uint8)
        if self._stream.readinto(data.data) != size:  # type: ignore[attr-defined]
            raise self._damaged("it ends while it is read")
        return data

    def _damaged(self, what: str) -> CheckpointError:
        return CheckpointError(f"{self._file}: damaged ({what}); download or save it again")
