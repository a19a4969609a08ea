"""A file's first bytes → the decoder of Pillow's that opens it, or an error of one line.

Pillow's decoders are called here one by one instead of through ``Image.open``, for three reasons.
Its list holds formats that no service should take from strangers (EPS starts Ghostscript) or
that any bytes may pass for (TGA). Its pixel limit is a process-wide setting that belongs to the
application, and it warns where we refuse. And a JPEG's EXIF block is read for a resolution that
nobody asks for here, with a warning where it is damaged.
"""

from __future__ import annotations

import importlib
import inspect
import struct
from collections.abc import Callable, Iterator, Mapping
from typing import Any, BinaryIO, Final, TypeAlias

from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile

from levit.errors import InputError, brief
from levit.faults import raise_handlers
from levit.pictures.blocks import one_block
from levit.pictures.checks import over_limit
from levit.pictures.decoder_errors import is_of_a_decoder
from levit.pictures.hints import foreign_name, is_heif

__all__ = ["FORMATS", "PREFIX", "identify", "image_endings", "may_be_image", "read_some"]

# Formats in the order in which they are tried, and Pillow's module for each. A new one needs a
# signature in its first bytes and its size in its header: TGA has no signature, and ICO and ICNS
# say nothing of the pictures inside. Formats that the application has registered itself, as
# pillow-heif does, are tried after these.
FORMATS: Final[Mapping[str, str]] = {
    "JPEG": "JpegImagePlugin",
    "PNG": "PngImagePlugin",
    "WEBP": "WebPImagePlugin",
    "GIF": "GifImagePlugin",
    "BMP": "BmpImagePlugin",
    "TIFF": "TiffImagePlugin",
    "PPM": "PpmImagePlugin",
    "AVIF": "AvifImagePlugin",
    "JPEG2000": "Jpeg2KImagePlugin",
}

# Bytes from a file's start that tell its format.
PREFIX: Final = 16

_Opener: TypeAlias = Callable[[BinaryIO, str], Image.Image]
_Accepts: TypeAlias = Callable[[bytes], Any]


class _Jpeg(JpegImageFile):
    """Pillow's JPEG without its resolution, whose damage is no reason for a warning or an error."""

    _opened = False

    def __init__(self, file: BinaryIO, filename: str) -> None:
        super().__init__(file, filename)
        self._opened = True

    def load_prepare(self) -> None:
        # `_im` is None before memory is there; Pillow below 11 has no such name.
        if getattr(self, "_im", None) is None:
            block = one_block(self.mode, self.size)
            if block is not None:
                self.im = block
        super().load_prepare()

    def getexif(self) -> Image.Exif:
        if not self._opened:
            raise KeyError("resolution")  # as if there were none
        return super().getexif()


def image_endings() -> frozenset[str]:
    """List the file name endings, with the dot, of the formats that are read."""
    known = {name for name in FORMATS if _opener(name) is not None}
    foreign = {name for name, _ in _foreign_openers()}
    return frozenset(ending for ending, name in Image.EXTENSION.items() if name in known | foreign)


def may_be_image(prefix: bytes) -> bool:
    """Tell whether a file that begins so has a decoder."""
    return any(_accepted(accepts, prefix) for _, accepts in _openers())


def identify(file: Any, name: str) -> Image.Image:
    """Open the file with the first decoder that takes it; only its header is read."""
    prefix = read_some(file, PREFIX, name)
    if not prefix:
        raise InputError(f"{name}: not an image, it is empty")
    _check_heif(file, prefix, name)
    cause: Exception | None = None
    for opener, accepts in _openers():
        if not _accepted(accepts, prefix):
            continue
        try:
            file.seek(0)
            return opener(file, "")
        except InputError:
            raise
        except (SyntaxError, IndexError, TypeError, struct.error) as error:
            raise_handlers(error)
            cause = error  # what a decoder says to what is none of its files
        except Image.DecompressionBombError as error:
            raise InputError(f"{name}: its pixels {over_limit()}") from error
        except MemoryError as error:
            raise InputError(f"{name}: needs more memory than there is") from error
        except Exception as error:
            if not is_of_a_decoder(error):
                raise
            raise InputError(f"{name}: cannot be opened as an image ({brief(error)})") from error
    detail = brief(cause) if cause is not None and str(cause) else ""
    if cause is None and (other := _other_format(prefix)):
        detail = f"it looks like {other}"
    raise InputError(
        f"{name}: not an image that is read here{detail and f' ({detail})'}; "
        f"read are {', '.join(FORMATS)}"
    ) from cause


def _check_heif(file: BinaryIO, prefix: bytes, name: str) -> None:
    if prefix[4:8] != b"ftyp" or not is_heif(prefix + read_some(file, 48, name)):
        return
    if not any(_accepted(accepts, prefix) for _, (_, accepts) in _foreign_openers()):
        raise InputError(
            f"{name}: HEIC is read with a plugin of Pillow's: pip install pillow-heif, and call "
            f"pillow_heif.register_heif_opener(); or convert it to JPEG"
        )


def _accepted(accepts: _Accepts | None, prefix: bytes) -> bool:
    try:
        verdict = accepts is None or accepts(prefix)
    except Exception as error:
        if not is_of_a_decoder(error):
            raise
        raise_handlers(error)
        return False  # the prefix is too short for it
    # A string says why this Pillow cannot read a format that it knows.
    return bool(verdict) and not isinstance(verdict, str)


def _openers() -> Iterator[tuple[_Opener, _Accepts | None]]:
    for name in FORMATS:
        if (found := _opener(name)) is not None:
            yield found
    for _, found in _foreign_openers():
        yield found


def _opener(name: str) -> tuple[_Opener, _Accepts | None] | None:
    """Find Pillow's decoder of a format; None where this Pillow has none."""
    if name not in Image.OPEN:
        try:
            importlib.import_module(f"PIL.{FORMATS[name]}")
        except ImportError:
            return None
    entry = Image.OPEN.get(name)
    if entry is None:
        return None
    opener, accepts = entry
    return (_Jpeg if name == "JPEG" else opener), accepts


def _foreign_openers() -> list[tuple[str, tuple[_Opener, _Accepts | None]]]:
    """List the formats that the application has registered with Pillow, and answers for."""
    return [
        (name, entry)
        for name, entry in list(Image.OPEN.items())
        if entry[0].__module__.partition(".")[0] != "PIL"
    ]


def _other_format(prefix: bytes) -> str:
    """Name the format of a file that is not read here, by its first bytes alone."""
    if name := foreign_name(prefix):
        return name
    Image.init()
    for name, (_, accepts) in list(Image.OPEN.items()):
        if accepts is not None and _accepted(accepts, prefix):
            # TGA has no signature; one in true colours begins as a cursor file without cursors.
            return "TGA" if name == "CUR" and prefix[4:6] == b"\0\0" else name
    return ""


def read_some(file: BinaryIO, count: int, name: str) -> bytes:
    """Read up to so many bytes.

    Raises:
        InputError: the file cannot be read, or gives something else than bytes.
    """
    try:
        data: Any = file.read(count)
    except Exception as error:
        if not is_of_a_decoder(error):
            raise
        raise InputError(f"{name}: cannot be read ({brief(error)})") from error
    if isinstance(data, (bytearray, memoryview)):
        return bytes(data)
    if not isinstance(data, bytes):
        if inspect.iscoroutine(data):
            data.close()
            raise InputError(f"{name}: is read asynchronously; pass the bytes that it gives")
        if data is None:
            raise InputError(f"{name}: has no bytes yet; read it first, and pass bytes")
        raise InputError(f"{name}: is open as text; open it with mode 'rb'")
    return data
