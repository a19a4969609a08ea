"""``model.safetensors``: named arrays and texts, written and read without the library.

Eight bytes of length, a header of JSON, then the arrays one after another. Of what the format
allows, levit writes four dtypes, and the arrays begin at a multiple of 64 bytes. Source:
huggingface.co/docs/safetensors, "Format".
"""

from __future__ import annotations

import json
import math
import os
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO, Final

import numpy as np
from numpy.typing import NDArray

from levit.errors import ArtifactError, CorruptArtifactError
from levit.json_values import listed, parsed, shown, table, text, whole
from levit.native.program import ArraySpec

__all__ = ["Payload", "dtype_of", "open_payload", "read_payload", "write_payload"]

_METADATA: Final = "__metadata__"
_ALIGNMENT: Final = 64
# (name in the file, dtype in NumPy, which has no bfloat16: its bits) of each dtype.
_DTYPES: Final = {
    "float32": ("F32", "<f4"),
    "bfloat16": ("BF16", "<u2"),
    "int8": ("I8", "i1"),
    "int32": ("I32", "<i4"),
}
_NAMES: Final = {code: name for name, (code, _) in _DTYPES.items()}
# A program of a thousand blocks has half of it; the format's own limit is a half-minute of parsing.
_LONGEST_HEADER: Final = 2**24
_MOST_BYTES: Final = 2**40


def write_payload(
    path: Path, arrays: Mapping[str, NDArray[Any]], metadata: Mapping[str, str]
) -> None:
    """Write arrays and texts; the same bytes for the same contents.

    Args:
        arrays: of float64 or float32, written as float32; of uint16, the bits of bfloat16; of int8
            or int32. The largest numbers stand first: each array begins at a multiple of its size.
    """
    names = sorted(arrays, key=lambda name: (-_item(dtype_of(arrays[name])), name))
    header: dict[str, Any] = {_METADATA: dict(sorted(metadata.items()))}
    end = 0
    for name in names:
        dtype = dtype_of(arrays[name])
        begin, end = end, end + _item(dtype) * arrays[name].size
        header[name] = {
            "dtype": _DTYPES[dtype][0],
            "shape": list(arrays[name].shape),
            "data_offsets": [begin, end],
        }
    words = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    words += b" " * (-(8 + len(words)) % _ALIGNMENT)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(words)) + words)
        for name in names:
            # One at a time: a second copy of all weights is never needed.
            kind = _DTYPES[dtype_of(arrays[name])][1]
            file.write(np.ascontiguousarray(arrays[name], kind).data)


def dtype_of(array: NDArray[Any]) -> str:
    """The dtype as which an array is written: ``float32`` of any float."""
    if array.dtype == np.uint16:
        return "bfloat16"
    return array.dtype.name if array.dtype in (np.int8, np.int32) else "float32"


def _item(dtype: str) -> int:
    return np.dtype(_DTYPES[dtype][1]).itemsize


class Payload:
    """An open file of arrays, which are read one at a time.

    ::

        with open_payload(path) as payload:
            weight = payload.read("head.weight")

    Attributes:
        path: of the file.
        metadata: texts by name.
        specs: dtype and shape of each array, by name.
    """

    def __init__(
        self,
        path: Path,
        file: BinaryIO,
        metadata: Mapping[str, str],
        places: Mapping[str, tuple[int, ArraySpec]],
    ) -> None:
        self.path = path
        self.metadata = metadata
        self.specs = {name: spec for name, (_, spec) in places.items()}
        self._file = file
        self._places = places

    def __enter__(self) -> Payload:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def read(self, name: str) -> NDArray[Any]:
        """Read one array into memory of its own; of bfloat16 its bits, as uint16.

        Raises:
            CorruptArtifactError: the file has become shorter.
            ArtifactError: it cannot be read.
        """
        at, spec = self._places[name]
        array = np.empty(spec.shape, _DTYPES[spec.dtype][1])
        try:
            self._file.seek(at)
            memory = array.reshape(-1).view(np.uint8).data
            got = self._file.readinto(memory)  # type: ignore[attr-defined]
        except OSError as error:
            raise _unreadable(self.path, error) from error
        if got != array.nbytes:
            raise CorruptArtifactError(
                f"{self.path}: array {shown(name)} is cut short; copy or export it again"
            )
        return array


def open_payload(path: Path) -> Payload:
    """Open a file of arrays and read its header; the arrays are left where they are.

    Raises:
        CorruptArtifactError: it is no such file, or holds what levit does not write.
        ArtifactError: it cannot be read.
    """
    try:
        file = path.open("rb")
    except OSError as error:
        raise _unreadable(path, error) from error
    return read_payload(path, file)


def read_payload(path: Path, file: BinaryIO) -> Payload:
    """Read the header of an opened file of arrays, which is closed with what this returns.

    Args:
        path: for messages.
        file: seekable, at its beginning.

    Raises:
        CorruptArtifactError, ArtifactError: as of `open_payload`.
    """
    try:
        metadata, places = _read_header(file)
    except OSError as error:
        file.close()
        raise _unreadable(path, error) from error
    except (TypeError, ValueError) as error:
        file.close()
        raise CorruptArtifactError(
            f"{path}: not a .safetensors file that levit has written ({error}); export again"
        ) from error
    return Payload(path, file, metadata, places)


def _unreadable(path: Path, error: OSError) -> ArtifactError:
    return ArtifactError(f"{path}: cannot be read ({error.strerror or error})")


def _read_header(
    file: BinaryIO,
) -> tuple[dict[str, str], dict[str, tuple[int, ArraySpec]]]:
    """(texts by name, (position in the file, dtype and shape) of each array by name)."""
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    begin = file.read(8)
    if len(begin) < 8:
        raise ValueError("it is too short")
    (length,) = struct.unpack("<Q", begin)
    if length > size - 8:
        raise ValueError(f"it states a header of {length} bytes, and has {size} in all")
    if length > _LONGEST_HEADER:
        raise ValueError(f"a header of {length} bytes is beyond any program's")
    words = file.read(length)
    if len(words) < length:
        raise ValueError("it is cut short")
    header = dict(table(parsed(words.decode()), "header"))
    metadata = {name: text(value, name) for name, value in table(header.pop(_METADATA, {})).items()}
    return metadata, _places(header, 8 + length, size)


def _places(header: Mapping[str, Any], begin: int, size: int) -> dict[str, tuple[int, ArraySpec]]:
    """Positions, dtypes and shapes of arrays that fill the rest of the file, one after another."""
    spans = {}
    for name, entry in header.items():
        if set(table(entry, name)) != {"dtype", "shape", "data_offsets"}:
            raise ValueError(f"array {shown(name)} has missing or unknown fields")
        dtype = _NAMES.get(text(entry["dtype"], name))
        if dtype is None:
            raise ValueError(
                f"array {shown(name)} is of type {shown(entry['dtype'])}, none of "
                f"{', '.join(_NAMES)}"
            )
        shape = tuple(whole(n, name, least=0, most=2**31) for n in listed(entry["shape"], name))
        first, last = (
            whole(n, name, least=0, most=_MOST_BYTES)
            for n in _pair(listed(entry["data_offsets"], name))
        )
        if len(shape) > 8 or last - first != _item(dtype) * math.prod(shape):
            raise ValueError(f"array {shown(name)} has {last - first} bytes for {shown(shape)}")
        spans[name] = (first, last, ArraySpec(dtype=dtype, shape=shape))
    end = 0
    for name, (first, last, _) in sorted(spans.items(), key=lambda item: item[1][:2]):
        if first != end:
            raise ValueError(f"array {shown(name)} begins at byte {first}, not at {end}")
        end = last
    if begin + end != size:
        raise ValueError(f"its arrays end at byte {begin + end}, and the file at {size}")
    return {name: (begin + first, spec) for name, (first, _, spec) in spans.items()}


def _pair(values: Any) -> tuple[Any, Any]:
    if len(values) != 2:
        raise ValueError(f"expected two offsets, not {shown(values)}")
    return values[0], values[1]
