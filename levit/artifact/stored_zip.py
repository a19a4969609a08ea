"""Zip archives that hold their members uncompressed: PyTorch's ``.pth`` and NumPy's ``.npz``.

`zipfile` reads the list of members. It believes more than is safe to believe of a stranger's
file: it inflates members of any size, lets them overlap or share a name, passes over bytes before
the archive, and does not compare the list with the counts and offsets at the end. All of that is
refused here. A member is a range of the file, so all members together are no longer than the
file. Names are keys of a dict; nothing is ever written to a disk.

Format: PKWARE's APPNOTE.TXT, sections 4.3.7 (local header), 4.3.12 (list of members), 4.3.14 to
4.3.16 (end of the archive, and ZIP64's).
"""

from __future__ import annotations

import os
import struct
import zipfile
import zlib
from collections.abc import Iterable
from typing import BinaryIO, Final

import numpy as np
from numpy.typing import NDArray

__all__ = ["CompressedMemberError", "StoredZip"]

# A training checkpoint has one member a tensor, a few thousand of 100 bytes each. zipfile makes
# an object of 600 bytes of each, so this bounds memory to 200 MB.
_LONGEST_LIST_BYTES: Final = 16 << 20
_LONGEST_COMMENT_BYTES: Final = 0xFFFF
_ENCRYPTED: Final = 0x2041  # in any of three ways

_LOCAL: Final = struct.Struct("<4s5H3L2H")
_END: Final = struct.Struct("<4s4H2LH")
_END_64: Final = struct.Struct("<4sQ2H2L4Q")
_END_64_LOCATOR: Final = struct.Struct("<4sLQL")


class CompressedMemberError(ValueError):
    """A member is compressed or encrypted."""


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
        count, offset = self._read_end()
        try:
            archive = zipfile.ZipFile(stream)
        except Exception as error:  # zipfile's, struct's and those of text share no base
            raise ValueError("its list of members is damaged") from error
        members = archive.infolist()
        # zipfile finds the list from the end backwards, and takes what comes first for a prefix.
        if (len(members), archive.start_dir) != (count, offset):
            raise ValueError("its list of members is not where, or as long as, its end says")
        self._members: dict[str, zipfile.ZipInfo] = {}
        for member in members:
            name = _name(member)
            if name in self._members:
                raise ValueError(f"{_shown(name)} is in it twice, and two members have one name")
            self._members[name] = member
        self._refuse_overlaps(members)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of all members, in the file's order."""
        return tuple(self._members)

    def read(self, name: str) -> NDArray[np.uint8]:
        """Bytes of one member, in memory of their own.

        Raises:
            CompressedMemberError: it is compressed or encrypted.
            ValueError: there is no such member, or its checksum is wrong.
        """
        member = self._members.get(name)
        if member is None:
            raise ValueError(f"{_shown(name)} is missing")
        size = member.file_size
        plain = member.compress_type == zipfile.ZIP_STORED and member.compress_size == size
        if not plain or member.flag_bits & _ENCRYPTED:
            raise CompressedMemberError(f"{_shown(name)} is compressed or encrypted")
        signature, *_, name_size, extra_size = _LOCAL.unpack(
            self._at(member.header_offset, _LOCAL.size)
        )
        start = member.header_offset + _LOCAL.size + name_size + extra_size
        if signature != b"PK\x03\x04" or start + size > self.size_bytes:
            raise ValueError(f"{_shown(name)} is not where the list says")
        data = np.empty(size, np.uint8)
        self._fill(data.data, start)
        # PyTorch writes 0 where it was told to leave checksums out.
        if member.CRC and zlib.crc32(data.data) != member.CRC:
            raise ValueError(f"the checksum of {_shown(name)} is wrong")
        return data

    def _read_end(self) -> tuple[int, int]:
        """Read how many members there are, and where their list begins, from the end."""
        longest = _END_64_LOCATOR.size + _END.size + _LONGEST_COMMENT_BYTES
        tail_at = max(0, self.size_bytes - longest)
        tail = self._at(tail_at, self.size_bytes - tail_at)
        found = tail.rfind(b"PK\x05\x06")
        if found < 0 or found + _END.size > len(tail):
            raise ValueError("the end is missing")
        count, size, offset = _END.unpack_from(tail, found)[4:7]
        locator = tail[max(0, found - _END_64_LOCATOR.size) : found]
        if locator[:4] == b"PK\x06\x07":
            # zipfile looks for it right before the locator, wherever that says it is.
            end = _END_64_LOCATOR.unpack(locator)[2]
            signature, *_, count, size, offset = _END_64.unpack(self._at(end, _END_64.size))
            fits = end == tail_at + found - _END_64_LOCATOR.size - _END_64.size
            if signature != b"PK\x06\x06" or not fits:
                raise ValueError("the end of its list of members is damaged")
        if offset + size > self.size_bytes:
            raise ValueError("its list of members is not where its end says")
        if size > _LONGEST_LIST_BYTES:
            raise ValueError(f"its list of members is longer than {_LONGEST_LIST_BYTES:,} bytes")
        return count, offset

    def _refuse_overlaps(self, members: Iterable[zipfile.ZipInfo]) -> None:
        end = 0
        for member in sorted(members, key=lambda member: member.header_offset):
            if member.header_offset < end:
                raise ValueError(f"{_shown(_name(member))} overlaps another member")
            end = member.header_offset + _LOCAL.size + len(_raw_name(member)) + member.compress_size
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


def _name(member: zipfile.ZipInfo) -> str:
    return _raw_name(member).decode("utf-8", "backslashreplace")


def _raw_name(member: zipfile.ZipInfo) -> bytes:
    """A name as the file spells it: zipfile cuts names at zeros, and decodes them in two ways."""
    said_to_be_utf_8 = member.flag_bits & 0x800
    return member.orig_filename.encode("utf-8" if said_to_be_utf_8 else "cp437")


def _shown(name: str) -> str:
    return ascii(name if len(name) <= 80 else f"{name[:80]}…")
