"""A file that a decoder may read only so often.

Pillow reads headers in Python: a call for every segment, chunk, tag, box or byte of a comment.
A file of many small parts keeps the interpreter busy for minutes, and every other thread waits.
Not each format's parts are counted here but the calls, which all of them have in common.
"""

from __future__ import annotations

import os
from typing import Any, Final

from levit.errors import InputError

__all__ = ["MAX_BYTES", "MAX_CODED_BYTES", "MAX_METADATA_BYTES", "MAX_READS", "Metered", "metered"]

# As many pixels as are allowed, uncompressed, four channels of 16 bits.
MAX_BYTES: Final = 2**30
# Formats whose decoders read the whole file into memory: lossless, all 89 megapixels of colours.
MAX_CODED_BYTES: Final = 2**28

# Bytes of a header. Profiles of colour have up to 4 MiB, depth maps and second pictures that
# cameras put into XMP up to 10.
MAX_METADATA_BYTES: Final = 2**24
# Calls while a header is read, three for a chunk or a tag: most pictures take less than 100, a
# TIFF of 300 tags or a GIF with 50 KiB of XMP, in blocks of 255 bytes, several hundreds.
MAX_READS: Final = 4_000

# Pixels come in pieces too: strips of a TIFF, chunks of a PNG, which libpng makes of 8 KiB. Three
# calls for each of them, and as many small ones as a picture has rows.
_MOST_DECODING_READS: Final = 50_000
_BYTES_A_READ: Final = 1024

_CHUNK: Final = 2**20

# Formats whose pixels stand behind their header, by their first bytes; others are read whole when
# they are opened, or have their header anywhere.
_HEADER_FIRST: Final = (
    b"\xff\xd8",
    b"\x89PNG",
    b"GIF8",
    b"BM",
    *(b"P%d" % n for n in range(1, 7)),
    b"\0\0\0\x0cjP",
    b"\xff\x4f\xff\x51",
)
_TIFF: Final = (b"II", b"MM")


class Metered:
    """A binary file as a decoder sees it, from its beginning.

    ::

        file = metered(open("cat.jpg", "rb"), "cat.jpg")
        Image.open(file)       # InputError where the header has too many parts
        file.begin_decoding()

    Attributes:
        prefix: first bytes of the file.
    """

    def __init__(self, file: Any, name: str, prefix: bytes, size: int, most_bytes: int) -> None:
        self._file = file
        self._name = name
        self._size = size
        self.prefix = prefix
        self._reads_left = MAX_READS
        self._bytes_left = most_bytes

    def begin_decoding(self) -> None:
        """Allow what pixels take, in place of what a header does."""
        self._reads_left = _MOST_DECODING_READS + self._size // _BYTES_A_READ
        self._bytes_left = 2**62  # the strips of a TIFF are read with much that is behind them

    def read(self, count: int | None = -1) -> bytes:
        """Read as the file does.

        Raises:
            InputError: too often, or too much.
        """
        data: bytes = self._file.read(-1 if count is None else count)
        self._reads_left -= 1
        self._bytes_left -= len(data)
        if self._reads_left < 0:
            raise InputError(f"{self._name}: is in too many small parts; save it anew")
        if self._bytes_left < 0:
            raise InputError(
                f"{self._name}: has more than {MAX_METADATA_BYTES // 2**20} MiB of metadata; "
                f"save it anew without"
            )
        return data

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Seek as the file does."""
        at: int = self._file.seek(offset, whence)
        return at

    def __getattr__(self, name: str) -> Any:
        # Decoders ask for what not every file has: fileno, getvalue, tell.
        return getattr(self._file, name)


def metered(file: Any, name: str) -> Metered:
    """Measure a file that can seek, and limit what is read of it.

    Raises:
        InputError: it is larger than any picture.
    """
    size = file.seek(0, os.SEEK_END)
    size = file.tell() if size is None else size  # files of callers may not say
    file.seek(0)
    prefix = file.read(16)
    file.seek(0)
    if not isinstance(prefix, bytes):
        return Metered(file, name, b"", size, MAX_BYTES)  # a text, as the reader will say
    first = prefix.startswith(_HEADER_FIRST)
    most = MAX_BYTES if first or prefix.startswith(_TIFF) else MAX_CODED_BYTES
    if size > most:
        raise InputError(f"{name}: has more than {most // 2**20} MiB")
    # Nothing needs all bytes of a file twice in order to be opened.
    return Metered(file, name, prefix, size, MAX_METADATA_BYTES if first else size + _CHUNK)
