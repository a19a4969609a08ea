"""``model.safetensors``: named float32 arrays and texts, written and read without the library.

Eight bytes of length, a header of JSON, then the arrays one after another. Of what the format
allows, levit writes one dtype, and the arrays begin at a multiple of 64 bytes. Source:
huggingface.co/docs/safetensors, "Format".
"""

from __future__ import annotations

import io
import json
import math
import os
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from levit.errors import ArtifactError, CorruptArtifactError
from levit.json_values import listed, shown, table, text, whole

__all__ = ["Payload", "open_payload", "unique", "write_payload"]

_METADATA: Final = "__metadata__"
_ALIGNMENT: Final = 64
_ITEM: Final = 4
# A program of a thousand blocks has half of it; the format's own limit is a half-minute of parsing.
_LONGEST_HEADER: Final = 2**24
_MOST_BYTES: Final = 2**40


def write_payload(
    path: Path, arrays: Mapping[str, NDArray[Any]], metadata: Mapping[str, str]
) -> None:
    """Write arrays, cast once to float32, and texts; the same bytes for the same contents."""
    header: dict[str, Any] = {_METADATA: dict(sorted(metadata.items()))}
    end = 0
    for name in sorted(arrays):
        begin, end = end, end + _ITEM * arrays[name].size
        header[name] = {
            "dtype": "F32",
            "shape": list(arrays[name].shape),
            "data_offsets": [begin, end],
        }
    words = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    words += b" " * (-(8 + len(words)) % _ALIGNMENT)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(words)) + words)
        for name in sorted(arrays):
            # One at a time: a second copy of all weights is never needed.
            file.write(np.ascontiguousarray(arrays[name], "<f4").data)


class Payload:
    """An open file of arrays, which are read one at a time.

    ::

        with open_payload(path) as payload:
            weight = payload.read("head.weight")

    Attributes:
        path: of the file.
        metadata: texts by name.
        shapes: of the arrays, by name.
    """

    def __init__(
        self,
        path: Path,
        file: io.BufferedReader,
        metadata: Mapping[str, str],
        places: Mapping[str, tuple[int, tuple[int, ...]]],
    ) -> None:
        self.path = path
        self.metadata = metadata
        self.shapes = {name: shape for name, (_, shape) in places.items()}
        self._file = file
        self._places = places

    def __enter__(self) -> Payload:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def read(self, name: str) -> NDArray[np.float32]:
        """Read one array into memory of its own.

        Raises:
            CorruptArtifactError: the file has become shorter.
            ArtifactError: it cannot be read.
        """
        at, shape = self._places[name]
        array = np.empty(shape, "<f4")
        try:
            self._file.seek(at)
            got = self._file.readinto(array.reshape(-1).view(np.uint8).data)
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
    try:
        metadata, places = _read_header(file)
    except OSError as error:
        file.close()
        raise _unreadable(path, error) from error
    except (TypeError, ValueError, RecursionError) as error:
        file.close()
        raise CorruptArtifactError(
            f"{path}: not a .safetensors file that levit has written ({error}); export again"
        ) from error
    return Payload(path, file, metadata, places)


def _unreadable(path: Path, error: OSError) -> ArtifactError:
    return ArtifactError(f"{path}: cannot be read ({error.strerror or error})")


def _read_header(
    file: io.BufferedReader,
) -> tuple[dict[str, str], dict[str, tuple[int, tuple[int, ...]]]]:
    """(texts by name, (position in the file, shape) of each array by name)."""
    size = os.fstat(file.fileno()).st_size
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
    header = dict(table(json.loads(words.decode(), object_pairs_hook=unique), "header"))
    metadata = {name: text(value, name) for name, value in table(header.pop(_METADATA, {})).items()}
    return metadata, _places(header, 8 + length, size)


def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Build a JSON object whose names are unique: readers differ in which of two they take."""
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name stands twice in an object")
    return found


def _places(
    header: Mapping[str, Any], begin: int, size: int
) -> dict[str, tuple[int, tuple[int, ...]]]:
    """Positions and shapes of arrays that fill the rest of the file, one after another."""
    spans = {}
    for name, entry in header.items():
        if set(table(entry, name)) != {"dtype", "shape", "data_offsets"}:
            raise ValueError(f"array {shown(name)} has missing or unknown fields")
        if entry["dtype"] != "F32":
            raise ValueError(f"array {shown(name)} is of type {shown(entry['dtype'])}, not F32")
        shape = tuple(whole(n, name, least=0, most=2**31) for n in listed(entry["shape"], name))
        first, last = (
            whole(n, name, least=0, most=_MOST_BYTES)
            for n in _pair(listed(entry["data_offsets"], name))
        )
        if len(shape) > 8 or last - first != _ITEM * math.prod(shape):
            raise ValueError(f"array {shown(name)} has {last - first} bytes for {shown(shape)}")
        spans[name] = (first, last, shape)
    end = 0
    for name, (first, last, _) in sorted(spans.items(), key=lambda item: item[1][:2]):
        if first != end:
            raise ValueError(f"array {shown(name)} begins at byte {first}, not at {end}")
        end = last
    if begin + end != size:
        raise ValueError(f"its arrays end at byte {begin + end}, and the file at {size}")
    return {name: (begin + first, shape) for name, (first, _, shape) in spans.items()}


def _pair(values: Any) -> tuple[Any, Any]:
    if len(values) != 2:
        raise ValueError(f"expected two offsets, not {shown(values)}")
    return values[0], values[1]
