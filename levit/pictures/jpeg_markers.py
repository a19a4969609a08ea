"""Markers of a JPEG as libjpeg reads them: the frame, and the scans that will be decoded.

Nothing else may be asked, least of all Pillow: where two readers differ, a file can show one of
them a small picture and have the other decode a large one. And Pillow gets to see no mass of
metadata but what turns a picture upright: it would read and parse all of it in Python.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from typing import BinaryIO, Final

__all__ = ["Outline", "Spliced", "read_outline", "splice"]

_CHUNK: Final = 2**16

_SOI, _EOI, _SOS = 0xD8, 0xD9, 0xDA
# Frames: sequential, progressive, lossless, arithmetic. Between them DHT, JPG and DAC.
_FRAMES: Final = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
# Baseline and extended: the only ones that libjpeg may read in one scan as it goes.
_SEQUENTIAL: Final = frozenset({0xC0, 0xC1})

# Comments and applications' data, which libjpeg steps over but for those of JFIF and Adobe.
_OTHERS: Final = frozenset({*range(0xE1, 0xEE), 0xEF, 0xFE})
# Those that may say how a picture is turned.
_UPRIGHT: Final = (b"Exif\0\0", b"http://ns.adobe.com/xap/1.0/\0")
_LONGEST: Final = max(map(len, _UPRIGHT))

# A marker that has a meaning, or a long run of fill bytes, over which `re` steps faster so. Bytes
# before a marker, fill bytes, and markers without a segment (restarts, TEM) are passed over, as
# in coded data: there, too, the next marker is the first 0xFF that no 0 follows.
_EVENT: Final = re.compile(rb"\xff(?:[\xc0-\xcf\xd8-\xfe]|\xff{31}\xff*)")


@dataclass(kw_only=True)
class Outline:
    """Outline of a JPEG.

    Attributes:
        width, height: of its frame; 0 where it has none.
        scans: passes over the picture.
        segments: markers, those of scans among them.
        scan_at: where the first scan begins, from where the JPEG does; None where it has none.
        others: (from, to) of comments and applications' data before that.
        odd_bytes: bytes before the first scan that are in no segment, and fill bytes behind it.
    """

    width: int = 0
    height: int = 0
    scans: int = 0
    segments: int = 0
    scan_at: int | None = None
    others: list[tuple[int, int]] = field(default_factory=list)
    odd_bytes: int = 0

    @property
    def other_bytes(self) -> int:
        """Bytes of comments and applications' data."""
        return sum(end - start for start, end in self.others)


def read_outline(file: BinaryIO, *, most_scans: int, most_segments: int, most_odd: int) -> Outline:
    """Read the markers from where the file stands, as far as libjpeg would.

    Where the first scan has all components of a sequential picture, as in most photos, it is the
    only one, and nothing behind it is looked at. The reading also ends at the first number that
    is over its limit.

    Source: ``next_marker``, ``read_markers`` and ``skip_variable`` in libjpeg's ``jdmarker.c``.
    """
    found = Outline()
    bytes_ = _Bytes(file)
    if bytes_.take(2) != b"\xff\xd8":
        return found
    frame = components = 0
    while found.odd_bytes <= most_odd:
        before = bytes_.position
        marker, fill = bytes_.next_marker(most_odd)
        found.odd_bytes += fill if found.scans else bytes_.position - 2 - before
        found.segments += 1
        if marker in (None, _SOI, _EOI):  # libjpeg takes no second beginning
            break
        start = bytes_.position - 2
        rest = max(0, int.from_bytes(bytes_.take(2), "big") - 2)  # 0 and 1 skip nothing
        if marker in _FRAMES:
            body = bytes_.take(min(6, rest))
            rest -= len(body)
            if frame or len(body) < 6:
                break  # libjpeg takes no second frame
            frame, components = marker, body[5]
            found.height, found.width = (body[1] << 8) + body[2], (body[3] << 8) + body[4]
        elif marker == _SOS:
            body = bytes_.take(min(1, rest))
            rest -= len(body)
            if not frame or not body:
                break
            found.scans += 1
            if found.scans == 1:
                found.scan_at = start
                if frame in _SEQUENTIAL and body[0] == components:
                    break
        elif marker in _OTHERS and not found.scans:
            body = bytes_.take(min(rest, _LONGEST))
            rest -= len(body)
            if not body.startswith(_UPRIGHT):
                found.others.append((start, bytes_.position + rest))
        if found.scans > most_scans or found.segments > most_segments:
            break
        bytes_.skip(rest)
    return found


class _Bytes:
    """Bytes of a file from where it stands, in chunks."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._data = file.read(_CHUNK)
        self._at = 0
        self._base = 0

    @property
    def position(self) -> int:
        """Bytes from where the file stood."""
        return self._base + self._at

    def next_marker(self, most: int) -> tuple[int | None, int]:
        """Find the next marker that has a meaning.

        Returns:
            The marker, None at the end or behind more than `most` bytes of fill; and the bytes in
            long runs of 0xFF before it.
        """
        fill = 0
        while fill <= most:
            event = _EVENT.search(self._data, self._at)
            if event is None:
                # The last byte may be half of a marker.
                end = len(self._data)
                self._at = max(self._at, end - 1 if self._data.endswith(b"\xff") else end)
                if not self._more():
                    break
                continue
            start, end = event.span()
            if end - start == 2:
                self._at = end
                return self._data[end - 1], fill
            self._at = end - 1  # the last of them may begin a marker
            fill += end - 1 - start
        return None, fill

    def take(self, count: int) -> bytes:
        """Read so many bytes, or those that there are."""
        while len(self._data) - self._at < count and self._more():
            pass
        taken = self._data[self._at : self._at + count]
        self._at += len(taken)
        return taken

    def skip(self, count: int) -> None:
        """Pass over so many bytes."""
        self._at += count
        behind = self._at - len(self._data)
        if behind > 0:
            self._file.seek(behind, os.SEEK_CUR)
            self._base += self._at
            self._data, self._at = b"", 0

    def _more(self) -> bool:
        more = self._file.read(_CHUNK)
        self._base += self._at
        self._data, self._at = self._data[self._at :] + more, 0
        return bool(more)


def splice(file: BinaryIO, outline: Outline) -> Spliced:
    """Make a JPEG, at the beginning of its file, into one without its `others`."""
    kept, at = [], 0
    for start, end in [*outline.others, (outline.scan_at or 0, 0)]:
        file.seek(at)
        kept.append(file.read(start - at))
        at = end
    return Spliced(b"".join(kept), file, outline.scan_at or 0)


class Spliced:
    """A file whose beginning is another one.

    Args:
        head: bytes that stand in place of the file's first ones.
        behind: position in the file where it goes on.
    """

    def __init__(self, head: bytes, file: BinaryIO, behind: int) -> None:
        self._head = head
        self._file = file
        self._shift = behind - len(head)
        self._at = 0

    def read(self, count: int = -1) -> bytes:
        """Read `count` bytes, or all."""
        if 0 <= count <= len(self._head) - self._at:
            data = self._head[self._at : self._at + count]
        else:
            data = self._head[self._at :]
            self._file.seek(self._at + len(data) + self._shift)
            data += self._file.read(count - len(data) if count >= 0 else -1)
        self._at += len(data)
        return data

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Seek, from the end too."""
        if whence == os.SEEK_CUR:
            offset += self._at
        elif whence == os.SEEK_END:
            self._file.seek(offset, os.SEEK_END)
            offset = self._file.tell() - self._shift
        self._at = offset
        return offset

    def tell(self) -> int:
        """Return the position."""
        return self._at
