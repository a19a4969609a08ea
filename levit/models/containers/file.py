"""Reading one file into tensors by name. Its first bytes decide the format, not its suffix."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any, BinaryIO, Final

import numpy as np

from levit.errors import CheckpointError, brief
from levit.models.containers.contents import Contents
from levit.models.containers.foreign import foreign_file, foreign_tar
from levit.models.containers.listing import listing
from levit.models.containers.said import Said, stated_values
from levit.models.containers.state_dict import (
    Choose,
    Selection,
    WeightSet,
    take_only,
    weight_sets,
)
from levit.models.containers.torch_legacy import (
    is_legacy_pickle,
    is_legacy_tar,
    read_legacy,
    refuse_tar,
)
from levit.models.containers.torch_zip import StoredTensor, TorchZip, widened_bfloat16
from levit.models.ops import Array

__all__ = ["begins_as_json", "read_file", "written"]

_HEAD_BYTES: Final = 512
# The safetensors library stops at 100 MB; this bound only tells a length from other bytes.
_LONGEST_HEADER: Final = 1 << 48
# Names of .safetensors for dtypes that NumPy has.
_DTYPES: Final = {
    **{"F64": "<f8", "F32": "<f4", "F16": "<f2", "BOOL": "?"},
    **{"I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "i1"},
    **{"U64": "<u8", "U32": "<u4", "U16": "<u2", "U8": "u1"},
}


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
    origin: dict[str, Any] = {"file": written(file), "sha256": digest, "size_bytes": size}
    if selection.weights.key is not None:
        origin["key"] = selection.weights.key
    if selection.choices:
        origin["weights"] = selection.taken
    # Half precision as float32, which holds it exactly.
    halves = {name for name, tensor in tensors.items() if tensor.dtype == np.float16}
    widened = {n: t.astype(np.float32) if n in halves else t for n, t in tensors.items()}
    return Contents(
        tensors=widened,
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
    return not _is_safetensors(head) and head.lstrip()[:1] == b"{"


def _is_safetensors(head: bytes) -> bool:
    return head[8:9] == b"{" and 2 <= int.from_bytes(head[:8], "little") < _LONGEST_HEADER


def _tensors(
    file: Path, stream: BinaryIO, wanted: str | None, choose: Choose
) -> tuple[dict[str, Array], Selection, Said]:
    """(tensors by name, which of the file's they are, what stands beside them)."""
    head = stream.read(_HEAD_BYTES)
    if not head:
        raise CheckpointError(f"{file}: the file is empty; download or save it again")
    # First: the length that it begins with may look like the start of something else.
    if _is_safetensors(head):
        tensors = _read_safetensors(file, stream)
        selection = choose([WeightSet(entries=tensors)], wanted, str(file))
        return {name: tensors[name] for name in selection.names}, selection, Said()
    if head[:4] == b"PK\x03\x04":
        return _read_torch_zip(file, stream, wanted, choose)
    if is_legacy_pickle(head):
        return read_legacy(file, wanted, choose)
    if is_legacy_tar(head):
        words = foreign_tar(head)
        raise refuse_tar(file) if words is None else CheckpointError(f"{file}: {words}")
    raise CheckpointError(f"{file}: {foreign_file(stream, head)}")


def _read_torch_zip(
    file: Path, stream: BinaryIO, wanted: str | None, choose: Choose
) -> tuple[dict[str, Array], Selection, Said]:
    archive = TorchZip(stream, str(file))
    sets = weight_sets(archive.tree, lambda value: isinstance(value, StoredTensor), str(file))
    selection = choose(sets, wanted, str(file))
    entries = selection.weights.entries
    tensors = {name: archive.array(name, entries[name]) for name in selection.names}
    return tensors, selection, stated_values(archive.tree, str(file))


def _read_safetensors(file: Path, stream: BinaryIO) -> dict[str, Array]:
    try:
        from safetensors import deserialize
    except ImportError as error:
        raise CheckpointError(
            "reading a checkpoint needs safetensors: pip install 'levit[export]'"
        ) from error
    stream.seek(0)
    try:
        entries = deserialize(stream.read())  # type: ignore[no-untyped-call]
    except Exception as error:  # its own errors, which share no base
        raise CheckpointError(
            f"{file}: cannot be read as .safetensors ({brief(error)}); it may be truncated: "
            f"download or save it again"
        ) from error
    tensors: dict[str, Array] = {}
    for name, entry in sorted(entries, key=lambda item: item[0]):
        kind, data = entry["dtype"], entry["data"]
        if kind == "BF16":
            flat = widened_bfloat16(np.frombuffer(data, "<u2"))
        elif kind in _DTYPES:
            flat = np.frombuffer(data, _DTYPES[kind])
        else:
            raise CheckpointError(
                f"{file}: {listing([name])} is {listing([kind])}, which is not supported; save it "
                f"as float32"
            )
        tensors[name] = flat.reshape(entry["shape"])
    return tensors
