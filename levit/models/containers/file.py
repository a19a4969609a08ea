"""One file → tensors by name. What the file begins with decides the format, not its suffix."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any, BinaryIO, Final

import numpy as np

from levit.errors import CheckpointError, brief
from levit.models.containers.state_dict import choose_state_dict, listing
from levit.models.containers.torch_legacy import (
    is_legacy_pickle,
    is_legacy_tar,
    read_legacy,
    refuse_tar,
)
from levit.models.containers.torch_zip import StoredTensor, TorchZip
from levit.models.ops import Array

__all__ = ["begins_as_json", "read_file", "written"]

_HEAD_BYTES: Final = 512
# The safetensors library stops at 100 MB; this only tells a length from other bytes.
_LONGEST_HEADER: Final = 1 << 48
# As .safetensors calls them.
_DTYPES: Final = frozenset(
    ("F64", "F32", "F16", "BF16", "I64", "I32", "I16", "I8", "U64", "U32", "U16", "U8", "BOOL")
)


def read_file(file: Path) -> tuple[dict[str, Array], dict[str, Any]]:
    """Read a ``.safetensors`` or a PyTorch file, whatever it is called.

    Returns:
        (tensors by name as the file spells it, half types widened to float32; origin: ``file``,
        ``sha256``, ``size_bytes``, and ``key`` if they stood under one in a ``.pth``).

    Raises:
        CheckpointError: it cannot be opened, is neither, or is damaged.
    """
    try:
        with file.open("rb") as stream:
            tensors, key = _tensors(file, stream)
            stream.seek(0)
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
            size = stream.seek(0, os.SEEK_END)
    except OSError as error:
        raise CheckpointError(f"{file}: cannot be read ({error.strerror})") from error
    origin: dict[str, Any] = {"file": written(file), "sha256": digest, "size_bytes": size}
    if key is not None:
        origin["key"] = key
    return {name: _widened(tensor) for name, tensor in tensors.items()}, origin


def written(file: Path) -> str:
    """A file's name as text: what of its bytes is no UTF-8 is escaped, for the manifest is."""
    return os.fsencode(file.name).decode("utf-8", "backslashreplace")


def begins_as_json(file: Path) -> bool:
    """Whether a file begins as a JSON object does: a list of shards, or somebody's config.

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


def _tensors(file: Path, stream: BinaryIO) -> tuple[dict[str, Array], str | None]:
    head = stream.read(_HEAD_BYTES)
    if not head:
        raise CheckpointError(f"{file}: the file is empty; download or save it again")
    # First: the length that it begins with may look like the start of something else.
    if _is_safetensors(head):
        return _read_safetensors(file), None
    if head[:4] == b"PK\x03\x04":
        return _read_torch_zip(file, stream)
    if is_legacy_pickle(head):
        return read_legacy(file)
    if is_legacy_tar(head):
        raise refuse_tar(file)
    raise CheckpointError(f"{file}: {_foreign(head)}")


def _read_torch_zip(file: Path, stream: BinaryIO) -> tuple[dict[str, Array], str | None]:
    archive = TorchZip(stream, str(file))
    entries, key = choose_state_dict(
        archive.tree, lambda value: isinstance(value, StoredTensor), str(file)
    )
    tensors = {
        name: archive.array(name, value)
        for name, value in entries.items()
        if isinstance(value, StoredTensor)  # all are: for the type checker
    }
    return tensors, key


def _foreign(head: bytes) -> str:
    if head.startswith(b"version https://git-lfs"):
        return (
            "not a .safetensors file but Git LFS's pointer to one; fetch the file itself: git lfs "
            "pull"
        )
    if head.startswith(b"\x80"):
        return (
            "a pickle, but not one of torch.save, and reading those is not safe; save the "
            "weights with torch.save or as .safetensors"
        )
    return "not a .safetensors file, nor a PyTorch checkpoint; download or save it again"


def _read_safetensors(file: Path) -> dict[str, Array]:
    try:
        from safetensors import safe_open
    except ImportError as error:
        raise CheckpointError(
            "reading a checkpoint needs safetensors: pip install 'levit[export]'"
        ) from error
    try:
        with safe_open(str(file), framework="numpy") as archive:
            # The dtypes first: NumPy lacks some, and then says that it has no such attribute.
            kinds = {n: str(archive.get_slice(n).get_dtype()) for n in archive.keys()}  # noqa: SIM118
            odd = {name: kind for name, kind in kinds.items() if kind not in _DTYPES}
            if not odd:
                return {name: archive.get_tensor(name) for name in kinds}
    except Exception as error:  # its own errors, and the system's
        raise CheckpointError(
            f"{file}: cannot be read as .safetensors ({brief(error)}); it may be truncated: "
            f"download or save it again"
        ) from error
    name, kind = next(iter(odd.items()))
    raise CheckpointError(
        f"{file}: {listing([name])} is {listing([kind])}, which is not supported; save it as "
        f"float32"
    )


def _widened(tensor: Array) -> Array:
    """Half-precision floats as float32, which holds them exactly."""
    narrow = tensor.dtype == np.float16 or tensor.dtype.name in ("bfloat16",)
    return tensor.astype(np.float32) if narrow else tensor
