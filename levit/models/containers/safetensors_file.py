"""Files of ``.safetensors``, read without the library: a header of JSON, then plain numbers.

::

    8 bytes   length of the header, little-endian
    header    {"name": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}, …}
    data      of the tensors, one after the other without a gap, in the order of their offsets

The header is checked against the file's length before anything is allocated, and each tensor is
read and widened by itself. The library takes the whole file and then a copy of it, and what it
raises where memory lacks is no ``Exception``.

Source: the format's description in the README of safetensors.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO, Final

import numpy as np

from levit.errors import CheckpointError, brief
from levit.json_values import parsed
from levit.models.containers.listing import listing
from levit.models.containers.memory import refuse_what_memory_lacks
from levit.models.containers.torch_tensors import widened_bfloat16
from levit.models.ops import Array

__all__ = ["SafetensorsFile", "is_safetensors"]

_LENGTH_BYTES: Final = 8
# DeiT-B's is 20 KB; one line a tensor is 100 bytes, so this is for 160,000 tensors. The library
# takes six times as many, whose names Python would need gigabytes for.
_LONGEST_HEADER_BYTES: Final = 16 << 20
# Only tells a length from other bytes.
_LONGEST_PLAUSIBLE: Final = 1 << 48
_METADATA: Final = "__metadata__"
_MOST_AXES: Final = 32  # NumPy 1's limit
# NumPy's names of dtypes; BF16 is widened when it is read.
_DTYPES: Final = {
    **{"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2", "BOOL": "u1"},
    **{"I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "i1"},
    **{"U64": "<u8", "U32": "<u4", "U16": "<u2", "U8": "u1"},
}


def is_safetensors(head: bytes) -> bool:
    """Tell such a file by its first bytes."""
    length = int.from_bytes(head[:_LENGTH_BYTES], "little")
    return head[_LENGTH_BYTES : _LENGTH_BYTES + 1] == b"{" and 2 <= length < _LONGEST_PLAUSIBLE


@dataclass(frozen=True, slots=True)
class _Entry:
    """A tensor of the header: its dtype's name there, its shape, and its place in the data."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int


class SafetensorsFile:
    """An opened file.

    Args:
        stream: a binary file, open for reading; it stays the caller's to close.
        file: its name, for messages.

    Attributes:
        entries: tensors by name, in alphabetical order; nothing of them is read yet.

    Raises:
        CheckpointError: truncated, damaged, or of another format.
    """

    def __init__(self, stream: BinaryIO, file: str) -> None:
        self._stream = stream
        self._file = file
        size = stream.seek(0, os.SEEK_END)
        stream.seek(0)
        length = int.from_bytes(stream.read(_LENGTH_BYTES), "little")
        self._data_at = _LENGTH_BYTES + length
        if self._data_at > size:
            raise self._unreadable("it ends before its header does")
        if length > _LONGEST_HEADER_BYTES:
            raise self._unreadable(f"a header of {length:,} bytes")
        entries = self._entries(stream.read(length))
        self._refuse_gaps(entries, size - self._data_at)
        self.entries = {name: entries[name] for name in sorted(entries)}

    def arrays(self, names: Sequence[str]) -> dict[str, Array]:
        """Read these tensors: F16 and BF16 as float32, all others as they are.

        Raises:
            CheckpointError: one is of a dtype that NumPy lacks, or memory lacks.
        """
        for name in names:
            if self.entries[name].dtype not in _DTYPES:
                raise CheckpointError(
                    f"{self._file}: {listing([name])} is {listing([self.entries[name].dtype])}, "
                    f"which is not supported; save it as float32"
                )
        needed = sum(
            (entry.end - entry.start) * (2 if entry.dtype in ("F16", "BF16") else 1)
            for entry in map(self.entries.__getitem__, names)
        )
        refuse_what_memory_lacks(self._file, needed)
        return {name: self._array(self.entries[name]) for name in names}

    def _array(self, entry: _Entry) -> Array:
        flat = np.empty(math.prod(entry.shape), _DTYPES[entry.dtype])
        self._stream.seek(self._data_at + entry.start)
        if self._stream.readinto(flat.view(np.uint8).data) != flat.nbytes:  # type: ignore[attr-defined]
            raise self._unreadable("it ends while it is read")
        if entry.dtype == "BF16":
            flat = widened_bfloat16(flat)
        elif entry.dtype == "F16":
            flat = flat.astype(np.float32)
        elif entry.dtype == "BOOL":
            flat = flat != 0  # any byte but 0 is true
        return flat.reshape(entry.shape)

    def _entries(self, header: bytes) -> dict[str, _Entry]:
        try:
            values = parsed(header.decode())
            return {
                name: _entry(name, value) for name, value in values.items() if name != _METADATA
            }
        except (ValueError, AttributeError) as error:
            raise self._unreadable(brief(error)) from error

    def _refuse_gaps(self, entries: dict[str, _Entry], size: int) -> None:
        """Refuse what is not one tensor after the other: each byte belongs to one."""
        at = 0
        for name, entry in sorted(entries.items(), key=lambda item: (item[1].start, item[1].end)):
            if entry.start != at:
                raise self._unreadable(f"{listing([name])} is not where the one before it ends")
            at = entry.end
        if at != size:
            raise self._unreadable(f"its header says {at:,} bytes of data, and it has {size:,}")

    def _unreadable(self, what: str) -> CheckpointError:
        return CheckpointError(
            f"{self._file}: cannot be read as .safetensors ({what}); it may be truncated: "
            f"download or save it again"
        )


def _entry(name: str, value: Any) -> _Entry:
    """Check one entry of the header.

    Raises:
        ValueError: it is none.
    """
    if type(value) is not dict or set(value) != {"dtype", "shape", "data_offsets"}:
        raise ValueError(f"{listing([name])} is no tensor")
    dtype, shape, offsets = value["dtype"], value["shape"], value["data_offsets"]
    numbers_only = all(
        type(numbers) is list and all(type(n) is int and n >= 0 for n in numbers)
        for numbers in (shape, offsets)
    )
    if not numbers_only or len(offsets) != 2 or len(shape) > _MOST_AXES or type(dtype) is not str:
        raise ValueError(f"{listing([name])} has no sensible shape")
    start, end = offsets
    kind = _DTYPES.get(dtype)
    if kind is not None and math.prod(shape) * np.dtype(kind).itemsize != end - start:
        raise ValueError(f"{listing([name])} is of another size than its shape says")
    if end < start or math.prod(n or 1 for n in shape) >= _LONGEST_PLAUSIBLE:
        raise ValueError(f"{listing([name])} has no sensible shape")
    return _Entry(dtype, tuple(shape), start, end)
