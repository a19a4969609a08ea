"""Exceptions that decoders and files raise about a picture; all others are about something else."""

from __future__ import annotations

import struct
import zlib
from typing import Final

from PIL import Image

__all__ = ["is_of_a_decoder"]

# Pillow's decoders let through what their parsers meet in a damaged file: of these classes, by
# hundreds of thousands of damaged files of every format (scripts/fuzz.py). So do files of callers.
_PARSING: Final = (
    *(OSError, SyntaxError, ValueError, TypeError, LookupError, ArithmeticError, EOFError),
    *(AttributeError, RuntimeError, AssertionError, BufferError, struct.error, zlib.error),
    *(Image.DecompressionBombError, Warning),  # Pillow's warnings, where they are made errors
)
# Modules of files within others, by name: they need not be imported for it.
_WITHIN: Final = frozenset({"_lzma", "lzma", "tarfile", "zipfile"})


def is_of_a_decoder(error: Exception) -> bool:
    """Tell whether a decoder, or the file that it reads, may have raised `error` about the picture.

    A time limit, say, may raise its own in the middle of one, and is nothing that a picture does.
    Formats that the application has registered with Pillow may have classes of their own.
    """
    if isinstance(error, _PARSING):
        return True
    module = type(error).__module__
    packages = {opener.__module__.partition(".")[0] for opener, _ in list(Image.OPEN.values())}
    return module in _WITHIN or module.partition(".")[0] in packages
