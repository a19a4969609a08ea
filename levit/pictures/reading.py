"""Path, bytes, file, array or Pillow image → a Pillow image, or an error of one line."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Mapping
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
    reading_of,
    without_metadata,
)
from levit.pictures.conversion import Conversion
from levit.pictures.decoder_errors import is_of_a_decoder
from levit.pictures.decoders import PREFIX, identify, may_be_image, read_some
from levit.pictures.hints import (
    check_synchronous,
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
    "MAX_BYTES",
    "MAX_PIXELS",
    "ImageLike",
    "checked_array",
    "file_contents",
    "image_name",
    "load_image",
]

ImageLike: TypeAlias = "str | os.PathLike[str] | bytes | BinaryIO | Image.Image | NDArray[Any]"
Size: TypeAlias = tuple[int, int]

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


def load_image(
    image: ImageLike,
    *,
    mode: str = "RGB",
    grey16: str | None = None,
    background: str | None = None,
    channels: str = "rgb",
    exif: bool = False,
    draft: Callable[[Size], Size] | None = None,
    check: Callable[[Size], None] | None = None,
    borrow: bool = False,
) -> Image.Image:
    """Open an image.

    ::

        load_image("cat.jpg").size    # (width, height)

    Of an animation it is the first frame; without RGBA and a background transparency is dropped:
    all as Pillow's ``convert(mode)`` and so every home library does. What it would destroy, grey
    of 16 bits and pictures that are in their opacity alone, is an error unless the caller says how.

    Args:
        image: a path, encoded bytes, a binary file object, a Pillow image, or an array as
            :data:`~levit.pictures.modes.MODES` describes it, such as (H, W, 3) uint8.
        mode: the image mode that the model takes.
        grey16, background: as in :class:`~levit.pictures.conversion.Conversion`.
        channels: order of an array's colours, ``rgb`` or ``bgr``.
        exif: turn the picture as its EXIF orientation says. timm does not, and so
            neither is it the default here.
        draft: maps the (width, height) of a picture to the size that it will be resized to.
            With it, a JPEG is decoded at the smallest of 1/8, 1/4, 1/2 and 1/1 of its size that
            is at least that large. Pillow images of the caller are never drafted.
        check: raises `InputError` where a picture of a (width, height) is not to be decoded. With
            `exif` one that passes either way round is.
        borrow: give a Pillow image of the caller's back as it is where nothing in it has to
            change, for a caller who only reads it; by default it is copied.

    Returns:
        A Pillow image in `mode`; for ``I;16`` in mode F, on 0..65535.

    Raises:
        InputError: the file is missing, is no image in one of
            :data:`~levit.pictures.decoders.FORMATS`, or is truncated; the array has another rank,
            type or layout; the picture exceeds 89 megapixels, or the limit of an application that
            set Pillow's to less.
    """
    name = image_name(image)
    to = Conversion(mode=mode, grey16=grey16, background=background)
    if isinstance(image, np.ndarray):
        return image_from_array(checked_array(image, mode, channels), mode, channels)
    if isinstance(image, Image.Image):
        check_size(image.size, name)
        check_opened(image, name)
        _check_before(image.size, name, check, exif)
        return _decode(image, name, to, exif=exif, own=borrow)
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


def checked_array(array: NDArray[Any], mode: str, channels: str) -> NDArray[Any]:
    """Return an array that is a picture in a mode, of no more pixels than there may be.

    Raises:
        InputError: it is none, or too large.
    """
    name = image_name(array)
    check_array(array, mode, name, channels)
    check_size((array.shape[1], array.shape[0]), name)
    return array


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
        image = identify(jpeg, name)
        check_size(image.size, name)
    else:
        image = identify(limited, name)
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
    while chunk := read_some(source, _CHUNK, name):
        contents.write(chunk)
        if unknown and contents.tell() >= PREFIX:
            prefix = contents.getbuffer()[:PREFIX].tobytes()
            unknown = not may_be_image(prefix)
            if unknown:
                break  # no image, however much may come; the error will say which
        if contents.tell() > MAX_BYTES:
            raise InputError(f"{name}: has more than {MAX_BYTES // 2**20} MiB")
    contents.seek(0)
    contents.name = name
    return contents


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
        turn = _UPRIGHT.get(_orientation(image, name)) if exif else None
        if turn is not None:
            image = image.transpose(turn)
        if own and to.keeps(image):
            return image
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


def _orientation(image: Image.Image, name: str) -> Any:
    """Read the EXIF orientation; a damaged block may say anything, so that no guess is right."""
    try:
        return image.getexif().get(_ORIENTATION, 1)
    except Exception as error:
        if not is_of_a_decoder(error):
            raise
        raise InputError(
            f"{name}: its EXIF data is damaged, and so nothing says which way up it is "
            f"({brief(error)}); pass exif=False to take the pixels as they lie"
        ) from error
