"""Files of ``torch.save``, read without PyTorch: zip archives of one pickle and raw storages.

::

    archive/data.pkl      the saved object; a tensor in it is a call of torch._utils._rebuild_…
    archive/data/0 …      the storages, uncompressed
    archive/byteorder     b"little" or b"big"; older files have none

The pickle is read as data (`restricted_pickle`), the archive as ranges of the file (`StoredZip`)
and tensors as views of storages (`torch_tensors`), so nothing that a file says is executed,
imported or written to a disk.

Source: torch/serialization.py (`_save`, `_load`).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pickle import UnpicklingError
from typing import BinaryIO, Final

import numpy as np
from numpy.typing import NDArray

from levit.artifact.stored_zip import CompressedMemberError, StoredZip
from levit.errors import CheckpointError, brief
from levit.models.containers.budget import LONGEST_PICKLE_BYTES, Budget
from levit.models.containers.foreign import foreign_zip
from levit.models.containers.restricted_pickle import read_pickle
from levit.models.containers.torch_tensors import (
    CONSTRUCTORS,
    TensorReader,
    TorchFile,
    storage_of,
)

__all__ = ["TorchZip", "zip_errors"]

# A training checkpoint has one member a tensor, a few thousand.
_MOST_MEMBERS: Final = 100_000


@contextmanager
def zip_errors(file: str) -> Iterator[None]:
    """Translate errors of `StoredZip` into those of a checkpoint, which name `file`."""
    try:
        yield
    except CompressedMemberError as error:
        raise CheckpointError(
            f"{file}: {error}, which PyTorch does not do; save the checkpoint again with torch.save"
        ) from error
    except ValueError as error:
        raise CheckpointError(
            f"{file}: damaged or truncated ({error}); download or save it again"
        ) from error


class TorchZip(TorchFile):
    """An opened ``.pth``.

    Args:
        stream: a binary file, open for reading; it stays the caller's to close.
        file: its name, for messages.

    Raises:
        CheckpointError: truncated, damaged, TorchScript, or not from PyTorch.
    """

    def __init__(self, stream: BinaryIO, file: str) -> None:
        self._file = file
        with zip_errors(file):
            self._archive = StoredZip(stream)
        count = len(self._archive.names)
        if count > _MOST_MEMBERS:
            raise CheckpointError(
                f"{file}: a zip file of {count:,} members is no checkpoint (at most "
                f"{_MOST_MEMBERS:,})"
            )
        self._folder = self._find_folder()
        self.tensors = TensorReader(
            file,
            self._archive.size_bytes,
            lambda storage: self._read(f"data/{storage.key}"),
            big_endian=self._read_byte_order(),
        )
        length = self._archive.size_of(f"{self._folder}/data.pkl")
        if length > LONGEST_PICKLE_BYTES:
            raise CheckpointError(
                f"{file}: its data.pkl has {length:,} bytes (at most {LONGEST_PICKLE_BYTES:,}); "
                f"save the weights alone: torch.save(model.state_dict(), …)"
            )
        data = self._read("data.pkl").tobytes()
        self.budget = Budget(file, length)
        try:
            self.tree, _ = read_pickle(
                data, constructors=CONSTRUCTORS, persistent=storage_of, budget=self.budget
            )
        except UnpicklingError as error:
            raise CheckpointError(
                f"{file}: its data.pkl cannot be read ({brief(error)}); download it again, or save "
                f"it again with torch.save({{'model': model.state_dict()}}, …)"
            ) from error

    def _read(self, name: str) -> NDArray[np.uint8]:
        with zip_errors(self._file):
            return self._archive.read(f"{self._folder}/{name}")

    def _find_folder(self) -> str:
        names = self._archive.names
        folders = [n.removesuffix("/data.pkl") for n in names if n.endswith("/data.pkl")]
        folders = [folder for folder in folders if "/" not in folder]
        if len(folders) != 1:
            raise CheckpointError(f"{self._file}: {foreign_zip(names)}")
        if f"{folders[0]}/constants.pkl" in names:
            raise CheckpointError(
                f"{self._file}: a TorchScript archive, which holds code; load it with "
                f"torch.jit.load and save its weights: torch.save(model.state_dict(), …)"
            )
        return folders[0]

    def _read_byte_order(self) -> bool:
        if f"{self._folder}/byteorder" not in self._archive.names:
            return False
        order = self._read("byteorder").tobytes()
        if order not in (b"little", b"big"):
            raise CheckpointError(f"{self._file}: its byte order is neither little nor big")
        return order == b"big"
