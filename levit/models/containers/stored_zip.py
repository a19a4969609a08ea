"""Members of a zip archive that holds them as they are: the container of PyTorch's ``.pth``.

Python's `zipfile` reads what others write: it inflates, and it makes an object of every entry
that a file claims. Here a member is a range of the file and nothing else: compressed and
encrypted ones, overlapping ones and two of one name are refused, so that all members together
are no longer than the file. Names are keys of a dict; nothing is ever written to a disk.

Format: PKWARE's APPNOTE.TXT, sections 4.3.7 (local header), 4.3.12 (central directory), 4.3.14
to 4.3.16 (its end, and ZIP64's), 4.5.3 (ZIP64's extra field).
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import BinaryIO, Final

import numpy as np
from numpy.typing import NDArray

from levit.errors import CheckpointError

__all__ = ["StoredZip"]

# A training checkpoint has one member a tensor, a few thousand.
_MOST_MEMBERS: Final = 100_000
_LONGEST_COMMENT: Final = 0xFFFF

_LOCAL: Final = struct.Struct("<4s5H3L2H")
_ENTRY: Final = struct.Struct("<4s6H3L5H2L")
_END: Final = struct.Struct("<4s4H2LH")
_END_64: Final = struct.Struct("<4sQ2H2L4Q")
_END_64_LOCATOR: Final = struct.Struct("<4sLQL")


@dataclass(frozen=True, slots=True)
class _Member:
    """What the central directory says: where the local header is, and sizes in bytes."""

    header: int
    name_size: int
    size: int
    crc: int
    stored: bool


class StoredZip:
    """The members of an opened archive.

    Args:
        stream: a binary file, open for reading; it stays the caller's to close.
        file: its name, for messages.

    Raises:
        CheckpointError: truncated, damaged, or not what PyTorch writes.
    """

    def __init__(self, stream: BinaryIO, file: str) -> None:
        self._stream = stream
        self._file = file
        self.size_bytes = stream.seek(0, os.SEEK_END)
        try:
            self._members = self._read_directory()
        except (struct.error, IndexError) as error:
            raise self._damaged("its list of members is cut") from error
        self._refuse_overlaps()

    @property
    def names(self) -> tuple[str, ...]:
        """Every member's name, in the file's order."""
        return tuple(self._members)

    def read(self, name: str) -> NDArray[np.uint8]:
        """The bytes of one member, in memory of their own.

        Raises:
            CheckpointError: there is no such member, it is compressed or encrypted, or its
                checksum is wrong.
        """
        member = self._members.get(name)
        if member is None:
            raise self._damaged(f"{_shown(name)} is missing")
        if not member.stored:
            raise CheckpointError(
                f"{self._file}: {_shown(name)} is compressed or encrypted, which PyTorch does not "
                f"do; save the checkpoint again with torch.save"
            )
        local = _LOCAL.unpack(self._at(member.header, _LOCAL.size))
        start = member.header + _LOCAL.size + local[9] + local[10]
        if local[0] != b"PK\x03\x04" or start + member.size > self.size_bytes:
            raise self._damaged(f"{_shown(name)} is not where the list says")
        data = np.empty(member.size, np.uint8)
        self._fill(data.data, start)
        # PyTorch writes 0 where it was told to leave checksums out.
        if member.crc and zlib.crc32(data.data) != member.crc:
            raise self._damaged(f"the checksum of {_shown(name)} is wrong")
        return data

    def _read_directory(self) -> Mapping[str, _Member]:
        count, size, offset, end = self._find_directory()
        if offset + size > end or count * _ENTRY.size > size:
            raise self._damaged("its list of members is not where its end says")
        if count > _MOST_MEMBERS:
            raise CheckpointError(
                f"{self._file}: a zip file of {count:,} members is no checkpoint (at most "
                f"{_MOST_MEMBERS:,})"
            )
        directory = self._at(offset, size)
        members: dict[str, _Member] = {}
        at = 0
        for _ in range(count):
            entry = _ENTRY.unpack_from(directory, at)
            signature, flags, method, crc = entry[0], entry[3], entry[4], entry[7]
            name_size, extra_size, comment_size = entry[10:13]
            if signature != b"PK\x01\x02":
                raise self._damaged("its list of members is damaged")
            at += _ENTRY.size
            raw, extra = directory[at : at + name_size], directory[at + name_size :][:extra_size]
            at += name_size + extra_size + comment_size
            packed, full, header = _sizes(entry[8], entry[9], entry[16], extra)
            name = raw.decode("utf-8", "backslashreplace")
            if name in members:
                raise self._damaged(f"{_shown(name)} is in it twice")
            stored = method == 0 and packed == full and not flags & 0x2041
            members[name] = _Member(header, name_size, packed, crc, stored)
        return members

    def _find_directory(self) -> tuple[int, int, int, int]:
        """(members, size, offset, end) of the central directory."""
        tail_at = max(0, self.size_bytes - _END.size - _LONGEST_COMMENT)
        tail = self._at(tail_at, self.size_bytes - tail_at)
        found = tail.rfind(b"PK\x05\x06")
        if found < 0:
            raise self._damaged("the end is missing")
        end = tail_at + found
        *_, count, size, offset, _ = _END.unpack_from(tail, found)
        locator_at = end - _END_64_LOCATOR.size
        if locator_at >= 0:
            locator = _END_64_LOCATOR.unpack(self._at(locator_at, _END_64_LOCATOR.size))
            if locator[0] == b"PK\x06\x07":
                end = locator[2]
                record = _END_64.unpack(self._at(end, _END_64.size))
                if record[0] != b"PK\x06\x06":
                    raise self._damaged("the end of its list of members is damaged")
                count, size, offset = record[7:10]
        return count, size, offset, end

    def _refuse_overlaps(self) -> None:
        end = 0
        for name, member in sorted(self._members.items(), key=lambda item: item[1].header):
            if member.header < end:
                raise self._damaged(f"{_shown(name)} overlaps another member")
            end = member.header + _LOCAL.size + member.name_size + member.size
        if end > self.size_bytes:
            raise self._damaged("its members are longer than the file")

    def _at(self, offset: int, size: int) -> bytes:
        if offset + size > self.size_bytes:
            raise self._damaged("its parts are not where they are said to be")
        data = bytearray(size)
        self._fill(memoryview(data), offset)
        return bytes(data)

    def _fill(self, memory: memoryview, offset: int) -> None:
        self._stream.seek(offset)
        done = 0
        while done < len(memory):
            count = self._stream.readinto(memory[done:])  # type: ignore[attr-defined]
            if not count:
                raise self._damaged("it ends while it is read")
            done += count

    def _damaged(self, what: str) -> CheckpointError:
        return CheckpointError(
            f"{self._file}: damaged or truncated ({what}); download or save it again"
        )


def _sizes(packed: int, full: int, header: int, extra: bytes) -> tuple[int, int, int]:
    """(packed size, full size, offset of the header), from ZIP64's field where they are there."""
    values = [full, packed, header]  # in the field's order
    while len(extra) >= 4:
        kind, size = struct.unpack_from("<HH", extra)
        if kind == 1:
            wide = [i for i, value in enumerate(values) if value == 0xFFFFFFFF]
            for at, i in enumerate(wide):
                (values[i],) = struct.unpack_from("<Q", extra[: 4 + size], 4 + 8 * at)
            break
        extra = extra[4 + size :]
    return values[1], values[0], values[2]


def _shown(name: str) -> str:
    return ascii(name if len(name) <= 80 else f"{name[:80]}…")
