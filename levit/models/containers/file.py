"""Reading one file into tensors by name. Its first bytes decide the format, not its suffix."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any, BinaryIO, Final

from levit.errors import CheckpointError
from levit.models.containers.contents import Contents
from levit.models.containers.foreign import foreign_file, foreign_tar
from levit.models.containers.safetensors_file import SafetensorsFile, is_safetensors
from levit.models.containers.said import Said, stated_values
from levit.models.containers.state_dict import (
    Choose,
    Selection,
    WeightSet,
    take_only,
    weight_sets,
)
from levit.models.containers.torch_legacy import (
    LegacyFile,
    is_legacy_pickle,
    is_legacy_tar,
    refuse_tar,
)
from levit.models.containers.torch_tensors import StoredTensor, TorchFile
from levit.models.containers.torch_zip import TorchZip
from levit.models.ops import Array

__all__ = ["begins_as_json", "read_file", "written"]

_HEAD_BYTES: Final = 512


def read_file(file: Path, wanted: str | None = None, choose: Choose = take_only) -> Contents:
    """Read a ``.safetensors`` or a PyTorch file, whatever it is called.

    Example::

        read_file(Path("model.safetensors")).tensors

    Args:
        wanted: key of the weights to take, where the file holds several sets.
        choose: chooses among the sets; only what it takes is read.

    Raises:
        CheckpointError: it cannot be opened, is neither, or is damaged.
    """
    try:
        with file.open("rb") as stream:
            tensors, selection, said = _tensors(file, stream, wanted, choose)
            stream.seek(0)
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
            size = stream.seek(0, os.SEEK_END)
    except OSError as error:
        raise CheckpointError(f"{file}: cannot be read ({error.strerror})") from error
    except MemoryError as error:
        raise CheckpointError(
            f"{file}: this process has not enough memory left to read it; give it more, or save "
            f"the weights alone"
        ) from error
    origin: dict[str, Any] = {"file": written(file), "sha256": digest, "size_bytes": size}
    if selection.weights.key is not None:
        origin["key"] = selection.weights.key
    if selection.choices:
        origin["weights"] = selection.taken
    return Contents(
        tensors=tensors,
        origin=origin,
        said=said.values,
        choices=selection.choices,
        notes=(*selection.notes, *said.notes),
    )


def written(file: Path) -> str:
    """Name of a file as text. The manifest is UTF-8, so bytes that are not are escaped."""
    return os.fsencode(file.name).decode("utf-8", "backslashreplace")


def begins_as_json(file: Path) -> bool:
    """Tell a JSON object, such as a list of shards or a config, by the first bytes of a file.

    Raises:
        CheckpointError: it cannot be opened.
    """
    try:
        with file.open("rb") as stream:
            head = stream.read(_HEAD_BYTES)
    except OSError as error:
        raise CheckpointError(f"{file}: cannot be read ({error.strerror})") from error
    return not is_safetensors(head) and head.lstrip()[:1] == b"{"


def _tensors(
    file: Path, stream: BinaryIO, wanted: str | None, choose: Choose
) -> tuple[dict[str, Array], Selection, Said]:
    """Read tensors by name, which of the file's they are, and what stands beside them."""
    head = stream.read(_HEAD_BYTES)
    if not head:
        raise CheckpointError(f"{file}: the file is empty; download or save it again")
    # First: the length that it begins with may look like the start of something else.
    if is_safetensors(head):
        weights = SafetensorsFile(stream, str(file))
        selection = choose([WeightSet(entries=weights.entries)], wanted, str(file))
        return weights.arrays(selection.names), selection, Said()
    if head[:4] == b"PK\x03\x04":
        return _read_torch(TorchZip(stream, str(file)), wanted, choose, str(file))
    if is_legacy_pickle(head):
        return _read_torch(LegacyFile(stream, str(file)), wanted, choose, str(file))
    if is_legacy_tar(head):
        words = foreign_tar(head)
        raise refuse_tar(file) if words is None else CheckpointError(f"{file}: {words}")
    raise CheckpointError(f"{file}: {foreign_file(stream, head)}")


def _read_torch(
    saved: TorchFile, wanted: str | None, choose: Choose, file: str
) -> tuple[dict[str, Array], Selection, Said]:
    sets = weight_sets(
        saved.tree, lambda value: isinstance(value, StoredTensor), file, saved.budget
    )
    selection = choose(sets, wanted, file)
    arrays = saved.tensors.arrays(selection.weights.entries, selection.names)
    return arrays, selection, stated_values(saved.tree, file)
