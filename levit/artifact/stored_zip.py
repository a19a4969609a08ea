"""Zip archives that hold their members uncompressed: PyTorch's ``.pth`` and NumPy's ``.npz``.

`zipfile` believes more than is safe to believe of a stranger's file: it inflates members of any
size, lets them overlap or share a name, passes over bytes before the archive, takes quadratic time
for extra fields, and does not compare the list with the counts and offsets at the end. All of that
is refused here. A member is a range of the file, so all members together are no longer than the
file. Names are keys of a dict; nothing is ever written to a disk.

Format: PKWARE's APPNOTE.TXT, sections 4.3.7 (local header), 4.3.12 (list of members), 4.3.14 to
4.3.16 (end of the archive, and ZIP64's).
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import BinaryIO, Final

import numpy as np
from numpy.typing import NDArray

from levit.json_values import shown

__all__ = ["CompressedMemberError", "StoredZip"]

# A training checkpoint has one member a tensor, a few thousand of 100 bytes each. An object of 300
# bytes is made of each, so this bounds memory to 100 MB.
_LONGEST_LIST_BYTES: Final = 16 << 20
_LONGEST_COMMENT_BYTES: Final = 0xFFFF
_ENCRYPTED: Final = 0x2041  # in any of three ways
# ZIP64's sizes, and three or four for times and owners: PyTorch writes one.
_MOST_EXTRA_FIELDS: Final = 16
_IN_EXTRA_FIELD: Final = 0xFFFFFFFF

_LOCAL: Final = struct.Struct("<4s5H3L2H")
_ENTRY: Final = struct.Struct("<4s6H3L5H2L")
_END: Final = struct.Struct("<4s4H2LH")
_END_64: Final = struct.Struct("<4sQ2H2L4Q")
_END_64_LOCATOR: Final = struct.Struct("<4sLQL")


class CompressedMemberError(ValueError):
    """A member is compressed or encrypted."""


@dataclass(frozen=True, slots=True)
class _Member:
    """One entry of the list of members; `raw_name` as the file spells it."""

    raw_name: bytes
    flags: int
    method: int
    checksum: int
    compressed_size: int
    size: int
    header_offset: int

    @property
    def name(self) -> str:
        return self.raw_name.decode("utf-8", "backslashreplace")

    @property
    def is_stored(self) -> bool:
        plain = self.method == 0 and self.compressed_size == self.size
        return plain and not self.flags & _ENCRYPTED


class StoredZip:
    """Members of an opened archive.

    Example::

        with open("model.pth", "rb") as stream:
            archive = StoredZip(stream)
            archive.names, archive.read("archive/data.pkl")

    Args:
        stream: a binary file, open for reading; it stays the caller's to close.

    Raises:
        ValueError: truncated or damaged; the message is a part of a line.
    """

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self.size_bytes = stream.seek(0, os.SEEK_END)
        count, size, offset = self._read_end()
        members = list(_members(self._at(offset, size)))
        if len(members) != count:
            raise ValueError("its list of members is not as long as its end says")
        self._members: dict[str, _Member] = {}
        for member in members:
            if member.name in self._members:
                raise ValueError(
                    f"{shown(member.name)} is in it twice, and two members have one name"
                )
            self._members[member.name] = member
        self._refuse_overlaps(members)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of all members, in the file's order."""
        return tuple(self._members)

    def size_of(self, name: str) -> int:
        """Length of one member in bytes, as the list says.

        Raises:
            ValueError: there is no such member.
        """
        return self._member(name).size

    def _member(self, name: str) -> _Member:
        member = self._members.get(name)
        if member is None:
            raise ValueError(f"{shown(name)} is missing")
        return member

    def read(self, name: str) -> NDArray[np.uint8]:
        """Bytes of one member, in memory of their own.

        Raises:
            CompressedMemberError: it is compressed or encrypted.
            ValueError: there is no such member, or its checksum is wrong.
        """
        member = self._member(name)
        size = member.size
        if not member.is_stored:
            raise CompressedMemberError(f"{shown(name)} is compressed or encrypted")
        signature, *_, name_size, extra_size = _LOCAL.unpack(
            self._at(member.header_offset, _LOCAL.size)
        )
        start = member.header_offset + _LOCAL.size + name_size + extra_size
        if signature != b"PK\x03\x04" or start + size > self.size_bytes:
            raise ValueError(f"{shown(name)} is not where the list says")
        data = np.empty(size, np.uint8)
        self._fill(data.data, start)
        # PyTorch writes 0 where it was told to leave checksums out.
        if member.checksum and zlib.crc32(data.data) != member.checksum:
            raise ValueError(f"the checksum of {shown(name)} is wrong")
        return data

    def _read_end(self) -> tuple[int, int, int]:
        """Read how many members there are, and the length and place of their list."""
        longest = _END_64_LOCATOR.size + _END.size + _LONGEST_COMMENT_BYTES
        tail_at = max(0, self.size_bytes - longest)
        tail = self._at(tail_at, self.size_bytes - tail_at)
        found = tail.rfind(b"PK\x05\x06")
        if found < 0 or found + _END.size > len(tail):
            raise ValueError("the end is missing")
        count, size, offset = _END.unpack_from(tail, found)[4:7]
        list_end = tail_at + found
        locator = tail[max(0, found - _END_64_LOCATOR.size) : found]
        if locator[:4] == b"PK\x06\x07":
            # zipfile looks for it right before the locator, wherever that says it is: it must be
            # both.
            end = _END_64_LOCATOR.unpack(locator)[2]
            signature, *_, count, size, offset = _END_64.unpack(self._at(end, _END_64.size))
            fits = end == tail_at + found - _END_64_LOCATOR.size - _END_64.size
            if signature != b"PK\x06\x06" or not fits:
                raise ValueError("the end of its list of members is damaged")
            list_end = end
        if offset + size != list_end:
            raise ValueError("its list of members is not where its end says")
        if size > _LONGEST_LIST_BYTES:
            raise ValueError(f"its list of members is longer than {_LONGEST_LIST_BYTES:,} bytes")
        return count, size, offset

    def _refuse_overlaps(self, members: Iterable[_Member]) -> None:
        end = 0
        for member in sorted(members, key=lambda member: member.header_offset):
            if member.header_offset < end:
                raise ValueError(f"{shown(member.name)} overlaps another member")
            end = member.header_offset + _LOCAL.size + len(member.raw_name) + member.compressed_size
        if end > self.size_bytes:
            raise ValueError("its members are longer than the file")

    def _at(self, offset: int, size: int) -> bytes:
        if offset + size > self.size_bytes:
            raise ValueError("its parts are not where they are said to be")
        data = bytearray(size)
        self._fill(memoryview(data), offset)
        return bytes(data)

    def _fill(self, memory: memoryview, offset: int) -> None:
        self._stream.seek(offset)
        done = 0
        while done < len(memory):
            count = self._stream.readinto(memory[done:])  # type: ignore[attr-defined]
            if not count:
                raise ValueError("it ends while it is read")
            done += count


def _members(entries: bytes) -> Iterator[_Member]:
    """Read the list of members.

    Raises:
        ValueError: it is damaged.
    """
    at = 0
    while at < len(entries):
        if len(entries) - at < _ENTRY.size:
            raise ValueError("its list of members is damaged")
        (
            signature, _, _, flags, method, _, _, checksum, compressed_size, size,
            name_size, extra_size, comment_size, _, _, _, header_offset,
        ) = _ENTRY.unpack_from(entries, at)  # fmt: skip
        at += _ENTRY.size
        extra_at = at + name_size
        end = extra_at + extra_size + comment_size
        if signature != b"PK\x01\x02" or end > len(entries):
            raise ValueError("its list of members is damaged")
        sizes = [size, compressed_size, header_offset]
        _take_long_sizes(sizes, entries[extra_at : extra_at + extra_size])
        yield _Member(
            raw_name=entries[at:extra_at],
            flags=flags,
            method=method,
            checksum=checksum,
            compressed_size=sizes[1],
            size=sizes[0],
            header_offset=sizes[2],
        )
        at = end


def _take_long_sizes(sizes: list[int], extra: bytes) -> None:
    """Replace sizes that are longer than 32 bits by those of ZIP64's extra field, in its order.

    Raises:
        ValueError: the extra fields are damaged, or more than an archive has.
    """
    at = 0
    for _ in range(_MOST_EXTRA_FIELDS):
        if len(extra) - at < 4:
            return  # less than a field: padding, as some writers leave
        kind, length = struct.unpack_from("<2H", extra, at)
        field = extra[at + 4 : at + 4 + length]
        if len(field) != length:
            raise ValueError("an extra field in its list of members is damaged")
        if kind == 1:
            for i, size in enumerate(sizes):
                if size == _IN_EXTRA_FIELD:
                    if len(field) < 8:
                        raise ValueError("a size in its list of members is missing")
                    sizes[i], field = int.from_bytes(field[:8], "little"), field[8:]
            return
        at += 4 + length
    if len(extra) - at >= 4:
        raise ValueError(f"more than {_MOST_EXTRA_FIELDS} extra fields in its list of members")
