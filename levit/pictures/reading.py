"""Path, bytes, file, array or Pillow image → a Pillow image, or an error of one line.

Pillow's decoders are called here one by one instead of through ``Image.open``, for three reasons.
Its list holds formats that no service should take from strangers (EPS starts Ghostscript) or
that any bytes may pass for (TGA). Its pixel limit is a process-wide setting that belongs to the
application, and it warns where we refuse. And a JPEG's EXIF block is read for a resolution that
nobody asks for here, with a warning where it is damaged.
"""

from __future__ import annotations

import importlib
import inspect
import io
import os
import struct
from collections.abc import Callable, Iterator, Mapping
from typing import Any, BinaryIO, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile

from levit.errors import InputError, brief
from levit.faults import raise_handlers
from levit.pictures.checks import (
    check_hidden_work,
    check_jpeg,
    check_opened,
    check_size,
    over_limit,
    reading_of,
    without_metadata,
)
from levit.pictures.conversion import Conversion
from levit.pictures.decoder_errors import is_of_a_decoder
from levit.pictures.hints import (
    check_synchronous,
    foreign_name,
    is_heif,
    name_of_file,
    shortened,
    text_hint,
)
from levit.pictures.limits import MAX_PIXELS
from levit.pictures.metered import MAX_BYTES, metered
from levit.pictures.modes import MODES, check_array, image_from_array
from levit.pictures.netpbm import decode_netpbm
from levit.pictures.pipes import patient
from levit.plain_file import open_plain

__all__ = [
    "FORMATS",
    "MAX_BYTES",
    "MAX_PIXELS",
    "ImageLike",
    "file_contents",
    "image_endings",
    "image_name",
    "load_image",
]

ImageLike: TypeAlias = "str | os.PathLike[str] | bytes | BinaryIO | Image.Image | NDArray[Any]"
Size: TypeAlias = tuple[int, int]

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

_PREFIX: Final = 16
_CHUNK: Final = 2**20

# EXIF orientation → what turns the picture upright.
_ORIENTATION: Final = 0x0112
_UPRIGHT: Final[Mapping[int, Image.Transpose]] = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

_Opener: TypeAlias = Callable[[BinaryIO, str], Image.Image]
_Accepts: TypeAlias = Callable[[bytes], Any]


class _Jpeg(JpegImageFile):
    """Pillow's JPEG without its resolution, whose damage is no reason for a warning or an error."""

    _opened = False

    def __init__(self, file: BinaryIO, filename: str) -> None:
        super().__init__(file, filename)
        self._opened = True

    def getexif(self) -> Image.Exif:
        if not self._opened:
            raise KeyError("resolution")  # as if there were none
        return super().getexif()


def load_image(
    image: ImageLike,
    *,
    mode: str = "RGB",
    grey16: str | None = None,
    background: str | None = None,
    exif: bool = False,
    draft: Callable[[Size], Size] | None = None,
    check: Callable[[Size], None] | None = None,
) -> Image.Image:
    """Open an image.

    ::

        load_image("cat.jpg").size    # (width, height)

    Of an animation it is the first frame; without RGBA and a background transparency is dropped:
    all as Pillow's ``convert(mode)`` and so every home library does. What it would destroy, grey
    of 16 bits and pictures that are in their opacity alone, is an error unless the caller says how.

    Args:
        image: a path, encoded bytes, a binary file object, a Pillow image, or an array as
            :data:`~levit.pictures.modes.MODES` describes it, such as (H, W, 3) uint8 in RGB order.
        mode: the image mode that the model takes.
        grey16, background: as in :class:`~levit.pictures.conversion.Conversion`.
        exif: turn the picture as its EXIF orientation says. timm does not, and so
            neither is it the default here.
        draft: maps the (width, height) of a picture to the size that it will be resized to.
            With it, a JPEG is decoded at the smallest of 1/8, 1/4, 1/2 and 1/1 of its size that
            is at least that large. Pillow images of the caller are never drafted.
        check: raises `InputError` where a picture of a (width, height) is not to be decoded. With
            `exif` one that passes either way round is.

    Returns:
        A Pillow image in `mode`; for ``I;16`` in mode F, on 0..65535.

    Raises:
        InputError: the file is missing, is no image in one of :data:`FORMATS`, or is
            truncated; the array has another rank, type or layout; the picture exceeds
            89 megapixels, or the limit of an application that set Pillow's to less.
    """
    name = image_name(image)
    to = Conversion(mode=mode, grey16=grey16, background=background)
    if isinstance(image, np.ndarray):
        check_array(image, mode, name)
        check_size((image.shape[1], image.shape[0]), name)
        return image_from_array(image, mode)
    if isinstance(image, Image.Image):
        check_size(image.size, name)
        check_opened(image, name)
        _check_before(image.size, name, check, exif)
        return _decode(image, name, to, exif=exif, own=False)
    if isinstance(image, (bytes, bytearray, memoryview)):
        return _from_file(io.BytesIO(_plain_bytes(image)), name, to, exif, draft, check)
    if isinstance(image, (str, os.PathLike)):
        with _open(os.fsdecode(image)) as file:
            return _from_file(file, name, to, exif, draft, check)
    if hasattr(image, "read"):
        check_synchronous(image, name)
        return _from_file(image, name, to, exif, draft, check)
    raise InputError(
        f"an image is a path, bytes, a binary file, a PIL image or an array, "
        f"{MODES[mode].array}, not {type(image).__name__}"
    )


def _plain_bytes(image: bytes | bytearray | memoryview) -> bytes | bytearray:
    if not isinstance(image, memoryview):
        return image
    try:
        return image.tobytes()
    except ValueError as error:
        raise InputError(f"the image bytes: cannot be read ({error})") from error


def image_name(image: ImageLike) -> str:
    """Name an image for an error: by its file's name, or by its kind."""
    if isinstance(image, (str, os.PathLike)):
        return shortened(os.fsdecode(image))
    if isinstance(image, np.ndarray):
        return "the image array"
    if isinstance(image, (bytes, bytearray, memoryview)):
        return "the image bytes"
    if isinstance(image, Image.Image):
        return "the image"
    return name_of_file(image)


def image_endings() -> frozenset[str]:
    """List the file name endings, with the dot, of the formats that are read."""
    known = {name for name in FORMATS if _opener(name) is not None}
    foreign = {name for name, _ in _foreign_openers()}
    return frozenset(ending for ending, name in Image.EXTENSION.items() if name in known | foreign)


def _open(path: str) -> BinaryIO:
    # Not by Pillow: it maps uncompressed files into memory, and one that somebody truncates
    # meanwhile ends the process.
    name = shortened(path)
    try:
        return open_plain(path)
    except IsADirectoryError as error:
        raise InputError(f"{name}: is a folder, not an image") from error
    except (OSError, ValueError) as error:
        if (hint := text_hint(path)) is not None:
            raise InputError(hint) from error
        if isinstance(error, FileNotFoundError):
            raise InputError(f"{name or repr(name)}: no such file") from error
        reason = getattr(error, "strerror", None) or brief(error)
        raise InputError(f"{name}: cannot be opened ({reason})") from error


def _from_file(
    file: BinaryIO,
    name: str,
    to: Conversion,
    exif: bool,
    draft: Callable[[Size], Size] | None,
    check: Callable[[Size], None] | None,
) -> Image.Image:
    file = _seekable(file, name)
    with reading_of(name):
        limited = metered(file, name)
    if limited.prefix.startswith(b"\xff\xd8"):
        with reading_of(name):
            jpeg = without_metadata(file, check_jpeg(file, name))
        image = _identify(jpeg, name)
        check_size(image.size, name)
    else:
        image = _identify(limited, name)
        check_size(image.size, name)
        _check_before(image.size, name, check, exif)
        limited.begin_decoding()
        image = decode_netpbm(image, limited, name) or image
        check_hidden_work(image, file, name)
    if draft is not None and isinstance(image, JpegImageFile):
        _reduce(image, draft, exif)
    _check_before(image.size, name, check, exif)
    return _decode(image, name, to, exif=exif, own=True)


def _seekable(file: BinaryIO, name: str) -> BinaryIO:
    """Rewind the file, or read it all where it is a pipe, or cannot find its end."""
    try:
        file.seek(0, os.SEEK_END)
        file.seek(0)
        return file
    except (AttributeError, OSError, TypeError, ValueError) as error:
        raise_handlers(error)
        return _contents(file, name)


def file_contents(file: BinaryIO) -> BinaryIO:
    """Read all of a binary file from its start, into memory, under the same name.

    Raises:
        InputError: it cannot be read, is open as text, or has more than :data:`MAX_BYTES`.
    """
    name = image_name(file)
    check_synchronous(file, name)
    file = _seekable(file, name)
    if not isinstance(file, io.BytesIO):
        with reading_of(name):
            metered(file, name)  # its size
    return _contents(file, name)


def _contents(file: BinaryIO, name: str) -> BinaryIO:
    contents = io.BytesIO()
    source = patient(file, name)
    unknown = True
    while chunk := _read(source, _CHUNK, name):
        contents.write(chunk)
        if unknown and contents.tell() >= _PREFIX:
            prefix = contents.getbuffer()[:_PREFIX].tobytes()
            unknown = not any(_accepted(accepts, prefix) for _, accepts in _openers())
            if unknown:
                break  # no image, however much may come; the error will say which
        if contents.tell() > MAX_BYTES:
            raise InputError(f"{name}: has more than {MAX_BYTES // 2**20} MiB")
    contents.seek(0)
    contents.name = name
    return contents


def _read(file: BinaryIO, count: int, name: str) -> bytes:
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


def _identify(file: Any, name: str) -> Image.Image:
    """Open the file with the first decoder that takes it; only its header is read."""
    prefix = _read(file, _PREFIX, name)
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
    if prefix[4:8] != b"ftyp" or not is_heif(prefix + _read(file, 48, name)):
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


def _reduce(image: JpegImageFile, draft: Callable[[Size], Size], exif: bool) -> None:
    width, height = draft(image.size)
    if exif:  # which may turn it, and so swap what is asked for
        turned_height, turned_width = draft((image.height, image.width))
        width, height = max(width, turned_width), max(height, turned_height)
    image.draft(None, (width, height))


def _check_before(size: Size, name: str, check: Callable[[Size], None] | None, exif: bool) -> None:
    """Refuse a picture by the size in its header, if it is refused whichever way it is turned."""
    if check is None:
        return
    try:
        check(size)
    except InputError as error:
        if exif:
            try:
                check(size[::-1])
            except InputError:
                pass
            else:
                return
        raise InputError(f"{name}: {error}") from error


def _decode(image: Image.Image, name: str, to: Conversion, *, exif: bool, own: bool) -> Image.Image:
    try:
        image.load()
        if exif:
            turn = _UPRIGHT.get(image.getexif().get(_ORIENTATION, 1))
            if turn is not None:
                image = image.transpose(turn)
        if own and image.mode == to.mode and isinstance(image, JpegImageFile):
            return image  # large ones are worth the copy
        # A copy even when the mode is right: the caller's image stays the caller's.
        return to.apply(image, name)
    except InputError:
        raise
    except MemoryError as error:
        raise InputError(f"{name}: decoding it needs more memory than there is") from error
    except Exception as error:
        if not is_of_a_decoder(error):
            raise
        raise InputError(f"{name}: damaged or truncated image ({brief(error)})") from error
