"""Image modes: the channels that a model sees of a picture.

=========  ==========================================================================
mode       pixels
=========  ==========================================================================
``L``      grey, 8 bits
``I;16``   grey, 16 bits, as float32 on 0..65535 so that resizing rounds nothing
``RGB``    colours, 8 bits each
``RGBA``   colours and opacity, 8 bits each
=========  ==========================================================================

The names are Pillow's, and pictures of other modes are converted as its ``Image.convert`` does.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from levit.errors import ConfigError, InputError

if TYPE_CHECKING:
    from PIL import Image  # takes 20 ms, which those who bring tensors need not spend

__all__ = [
    "CHANNEL_ORDERS",
    "GREY16",
    "MODES",
    "Mode",
    "check_array",
    "check_conversion",
    "convert_image",
    "default_mode",
    "image_from_array",
]


@dataclass(frozen=True, kw_only=True)
class Mode:
    """An image mode.

    Attributes:
        channels: of the network's input.
        white: the largest value of a pixel.
        array: the arrays that are taken as pictures, in words.
        dtype: their type.
    """

    channels: int
    array: str
    white: int = 255
    dtype: str = "uint8"


MODES: Final[Mapping[str, Mode]] = {
    "L": Mode(channels=1, array="(H, W) or (H, W, 1) uint8"),
    "I;16": Mode(channels=1, array="(H, W) or (H, W, 1) uint16", white=65_535, dtype="uint16"),
    "RGB": Mode(channels=3, array="(H, W, 3) uint8"),
    "RGBA": Mode(channels=4, array="(H, W, 4) uint8, opacity last"),
}

# Of arrays of colours: Pillow's, and OpenCV's, whose opacity comes last too.
CHANNEL_ORDERS: Final = ("rgb", "bgr")

# To eight bits: the upper ones of 16, or those up to 255.
GREY16: Final = ("scale", "clip")

_COLOUR: Final = re.compile(r"[a-z]{3,20}|#[0-9a-f]{6}", re.ASCII)

# Four channels may be anything; timm's scripts take grey for one and colours for three.
_DEFAULTS: Final[Mapping[int, str]] = {1: "L", 3: "RGB"}

# An 8-bit picture among those of 16 bits: 255 becomes 65535.
_EIGHT_TO_SIXTEEN: Final = 257


def default_mode(channels: int) -> str | None:
    """Name the mode of models of `channels` where nothing else does; None for tensors only.

    ::

        default_mode(1)    # "L"

    Source: ``input_img_mode`` in timm's ``train.py`` and ``validate.py``.
    """
    return _DEFAULTS.get(channels)


def check_conversion(mode: str, grey16: str | None, background: str | None) -> None:
    """Raise `ConfigError` unless pictures can be converted to `mode` so."""
    if grey16 is not None:
        if grey16 not in GREY16:
            raise ConfigError(f"unknown grey16 {grey16!r}; known: {', '.join(GREY16)}")
        if mode == "I;16":
            raise ConfigError("image mode I;16 keeps grey of 16 bits as it is: leave out grey16")
    if background is not None:
        if not _is_colour(background):
            raise ConfigError(
                f"background must be the name of a colour, or #rrggbb, not {background!r}"
            )
        if mode not in ("L", "RGB"):
            raise ConfigError(f"image mode {mode} has no background: leave it out")


def _is_colour(text: object) -> bool:
    if not isinstance(text, str) or not _COLOUR.fullmatch(text):
        return False
    from PIL import ImageColor

    return text.startswith("#") or text in ImageColor.colormap


def convert_image(image: Image.Image, mode: str, name: str) -> Image.Image:
    """Convert a decoded picture to a mode; always a copy.

    Args:
        mode: a name of :data:`MODES`.
        name: the picture's, for errors.

    Returns:
        A Pillow image in that mode; for ``I;16`` in mode F, on 0..65535.

    Raises:
        InputError: for ``I;16`` the picture has values that are no 16-bit ones.
        ValueError: Pillow converts no such pictures.
    """
    if mode == "I;16":
        return _sixteen_bits(image, name)
    if mode != "RGBA" and isinstance(image.info.get("transparency"), bytes):
        # Only RGBA has a use for it, and Pillow would warn of that.
        image = image.copy()
        del image.info["transparency"]
    return image.convert(mode)


def _sixteen_bits(image: Image.Image, name: str) -> Image.Image:
    from PIL import Image

    if image.mode == "F":
        raise InputError(f"{name}: a picture of fractions has no known white; save it with 16 bits")
    if not image.mode.startswith("I"):
        grey = np.asarray(convert_image(image, "L", name), np.float32)
        return Image.fromarray(grey * np.float32(_EIGHT_TO_SIXTEEN))
    values = np.asarray(image)  # mode I, of 32 bits, is what Pillow makes of a 16-bit PGM
    if values.min() < 0 or values.max() > MODES["I;16"].white:
        raise InputError(
            f"{name}: has values from {values.min()} to {values.max()}, not from 0 to 65535; "
            f"save it with 16 bits"
        )
    return Image.fromarray(values.astype(np.float32))


def check_array(array: NDArray[Any], mode: str, name: str, channels: str = "rgb") -> None:
    """Raise `InputError` unless an array is a picture in a mode.

    Args:
        channels: one of :data:`CHANNEL_ORDERS`.
    """
    wanted = MODES[mode]
    grey = array.ndim == 2 and wanted.channels == 1
    deep = array.ndim == 3 and array.shape[2] == wanted.channels
    # Files of scientific cameras are big-endian.
    if not (grey or deep) or array.dtype.newbyteorder("=") != np.dtype(wanted.dtype):
        raise InputError(
            f"an image array must be {wanted.array}, not {array.shape} {array.dtype}"
            f"{_hint(array, wanted, channels)}"
        )
    if 0 in array.shape:
        raise InputError(f"{name} is empty: {array.shape}")


# Views of an array as `Image.fromarray` takes it, by its channels; 0 for an array of two axes.
_VIEWS: Final[Mapping[str, Mapping[int, str]]] = {
    "rgb": {0: "array", 1: "array[..., 0]", 3: "array", 4: "array"},
    "bgr": {0: "array", 1: "array[..., 0]", 3: "array[..., ::-1]", 4: "array[..., [2, 1, 0, 3]]"},
}


def _hint(array: NDArray[Any], wanted: Mode, channels: str) -> str:
    """Say what would make a picture of an array that is none."""
    if array.ndim == 3 and array.shape[0] == wanted.channels != array.shape[2]:
        return "; this one looks channels-first: transpose(1, 2, 0)"
    if array.ndim == 4:
        return "; pass a batch as a list of images, or its tensor to forward()"
    depth = array.shape[2] if array.ndim == 3 else 0
    if array.ndim not in (2, 3) or depth not in _VIEWS[channels]:
        return ""
    # Pillow has grey of 16 bits, and no colours.
    known = array.dtype == np.uint8 or (array.dtype == np.uint16 and depth <= 1)
    if max(depth, 1) == wanted.channels or not known:
        return f"; scale it to 0..{wanted.white} and round"
    view = _VIEWS[channels][depth]
    return f"; pass Image.fromarray({view}) of Pillow, which is converted"


def image_from_array(array: NDArray[Any], mode: str, channels: str = "rgb") -> Image.Image:
    """Make a Pillow image of an array that :func:`check_array` has passed.

    Args:
        channels: one of :data:`CHANNEL_ORDERS`; grey has none.
    """
    from PIL import Image

    if channels == "bgr" and MODES[mode].channels > 1:
        array = array[..., [2, 1, 0, 3][: MODES[mode].channels]]
    if MODES[mode].channels == 1:
        array = array.reshape(array.shape[:2])
    if mode == "I;16":
        array = array.astype(np.float32)
    return Image.fromarray(np.ascontiguousarray(array))
