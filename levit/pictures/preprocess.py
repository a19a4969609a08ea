"""Image → tensor: one frozen spec, applied exactly as the model's home library does.

The arithmetic is the deployed model's, value for value: Pillow decodes and resizes,
the crop rounds as the source library rounds, and normalisation rounds to float32 where
the source does. Costs of getting this wrong are measured in points of top-1 (timm#2463,
YOLOs-CPP#145).

A checkpoint's own files are read into it by :mod:`levit.export.flavours`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from levit.errors import ConfigError, InputError
from levit.json_values import listed, number, number_pair, text
from levit.pictures.limits import MAX_PIXELS
from levit.pictures.modes import MODES, check_conversion

if TYPE_CHECKING:
    from PIL import Image  # takes 20 ms, which those who bring tensors need not spend

__all__ = [
    "IMAGENET_MEAN",
    "IMAGENET_STD",
    "INTERPOLATIONS",
    "MAX_SIDE",
    "RULES",
    "Placement",
    "PreprocessSpec",
    "Rules",
    "check_resize",
    "normalize",
    "placement",
    "resized_size",
    "to_pixels",
    "value_tables",
]

IMAGENET_MEAN: Final = (0.485, 0.456, 0.406)
IMAGENET_STD: Final = (0.229, 0.224, 0.225)

MAX_SIDE: Final = 65_535

# Filters of Pillow, in small letters.
INTERPOLATIONS: Final = ("nearest", "bilinear", "bicubic", "box", "hamming", "lanczos")

# Pixels on each side that they weigh, as a double each, at the smaller of two sizes (Pillow's
# ``Resample.c``); nearest has no table.
_SUPPORT: Final[Mapping[str, float]] = {
    **{"nearest": 0.0, "box": 0.5, "bilinear": 1.0},
    **{"hamming": 1.0, "bicubic": 2.0, "lanczos": 3.0},
}
_PIXEL_BYTES: Final = 4


def _half_to_even(resized: int, crop: int) -> int:
    """Place the crop as torchvision and mmcv do; negative where zeros are padded."""
    return round((resized - crop) / 2.0) if resized >= crop else -((crop - resized) // 2)


def _floor(resized: int, crop: int) -> int:
    """Place the crop as transformers does: half a pixel goes the other way, in padding too."""
    return (resized - crop) // 2


@dataclass(frozen=True, kw_only=True)
class Rules:
    """Conventions of a library that differ from the others'.

    Attributes:
        crop_pct: where nothing states it.
        single_edge: the library knows one number for the resized short edge, so a crop that is
            not square takes it from its longer side. timm fits the resized image around the crop.
        offset: (resized edge, cropped edge) → where the crop begins.
        pads: images smaller than the crop get a black border; mmpretrain leaves them small.
        rescale_factor: factor of a pixel before the mean is subtracted.
    """

    crop_pct: float
    single_edge: bool = True
    offset: Callable[[int, int], int] = _half_to_even
    pads: bool = True
    rescale_factor: float = 1 / 255


# 0.875 is 224/256: floor(n / 0.875) is the int((256 / 224) * n) of transformers and of
# facebookresearch/LeViT for every n (tested).
RULES: Final[Mapping[str, Rules]] = {
    "timm": Rules(crop_pct=0.9, single_edge=False),
    "transformers": Rules(crop_pct=0.875, offset=_floor),
    "mmpretrain": Rules(crop_pct=0.875, pads=False, rescale_factor=1.0),
    "original": Rules(crop_pct=0.875),
}


@dataclass(frozen=True, kw_only=True)
class PreprocessSpec:
    """Preprocessing of a model: resize, crop and normalise.

    ::

        spec = PreprocessSpec(flavour="timm", image_size=(224, 224), crop_pct=0.9)

    Attributes:
        flavour: the library whose arithmetic this is: ``timm``, ``transformers``,
            ``mmpretrain``, ``original``.
        image_size: (height, width) of the tensor, in pixels.
        crop_pct: the crop as a fraction of the resized image, which is
            ``floor(image_size / crop_pct)``.
        resize_size: (height, width) in pixels, in place of `crop_pct`. With neither, the
            image is cropped as it is.
        crop_mode: ``center`` keeps the aspect ratio (the short edge is resized to fit),
            ``squash`` does not.
        interpolation: a Pillow filter, by name.
        mean, std: per channel, on pixels scaled to 0..1, in every flavour.
        rescale_factor: factor of pixels in the source before it subtracts the mean; None
            for the flavour's own (1/255, and 1 in mmpretrain). It decides where float32 rounds
            and nothing else: `mean` and `std` stand on 0..1 whatever it is.
        image_mode: the channels that the model sees, by Pillow's name: ``L`` (grey), ``I;16``
            (grey of 16 bits, whose 65535 is 1), ``RGB`` or ``RGBA``.
        grey16: grey pictures of 16 bits for a mode of 8: ``scale`` them by their upper eight, or
            ``clip`` them at 255, as the home libraries do; None refuses them.
        background: colour behind what is not opaque, by name or as ``#rrggbb``, for ``L`` and
            ``RGB``; with None opacity is dropped, and a picture that has nothing else refused.
    """

    flavour: str = "timm"
    image_size: tuple[int, int]
    crop_pct: float | None = 0.9
    resize_size: tuple[int, int] | None = None
    crop_mode: str = "center"
    interpolation: str = "bicubic"
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    rescale_factor: float | None = None
    image_mode: str = "RGB"
    grey16: str | None = None
    background: str | None = None

    def __post_init__(self) -> None:
        if self.flavour not in RULES:
            raise ConfigError(
                f"unknown preprocessing flavour {self.flavour!r}; known: {', '.join(RULES)}"
            )
        if self.interpolation not in INTERPOLATIONS:
            raise ConfigError(
                f"unknown interpolation {self.interpolation!r}; known: {', '.join(INTERPOLATIONS)}"
            )
        if self.crop_mode not in ("center", "squash"):
            raise ConfigError(f"unknown crop_mode {self.crop_mode!r}; known: center, squash")
        if self.image_mode not in MODES:
            raise ConfigError(f"unknown image_mode {self.image_mode!r}; known: {', '.join(MODES)}")
        check_conversion(self.image_mode, self.grey16, self.background)
        self._check_sizes()
        if len(self.mean) != len(self.std) or not self.mean:
            raise ConfigError("mean and std must have one value per channel each")
        # On pixels scaled to 0..1 (a mean of 123.675 belongs to 0..255: divide it by 255).
        if not all(-10 <= value <= 10 for value in self.mean):
            raise ConfigError(f"mean is on pixels scaled to 0..1, so not {self.mean}")
        if not all(1e-4 <= value <= 10 for value in self.std):
            raise ConfigError(f"std is on pixels scaled to 0..1 and positive, so not {self.std}")
        factor = self.rescale_factor
        if factor is not None and not 1e-6 <= factor <= 1e6:
            raise ConfigError(f"rescale_factor must lie in 1e-6..1e6, not {factor:g}")

    def _check_sizes(self) -> None:
        for name in ("image_size", "resize_size"):
            size = getattr(self, name)
            if size is not None and (len(size) != 2 or not all(1 <= n <= MAX_SIDE for n in size)):
                raise ConfigError(f"{name} must be two numbers from 1 to {MAX_SIDE}, not {size}")
        if self.crop_pct is not None and not 0.05 <= self.crop_pct <= 1.0:
            raise ConfigError(f"crop_pct must lie in 0.05..1, not {self.crop_pct:g}")
        if self.resize_size is None:
            return
        if self.crop_pct is not None:
            raise ConfigError("crop_pct and resize_size say the same: give one of them")
        height, width = self.resize_size
        if self.crop_mode == "center" and height != width and RULES[self.flavour].single_edge:
            raise ConfigError(
                f"{self.flavour} resizes one edge: resize_size {height}x{width} needs two equal "
                f"numbers, or crop_mode squash"
            )

    @property
    def channels(self) -> int:
        """Channels of the tensor."""
        return MODES[self.image_mode].channels

    @property
    def white(self) -> int:
        """The largest value of a pixel, which stands for 1 in `mean` and `std`."""
        return MODES[self.image_mode].white

    @property
    def resizing(self) -> str:
        """The resizing in words, for people."""
        if self.resize_size is not None:
            return "resize_size {}x{}".format(*self.resize_size)
        return "not resized" if self.crop_pct is None else f"crop_pct {self.crop_pct:g}"

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready dictionary; ``image_mode`` is in it where it is not RGB.

        So the file of an RGB model is what it was before there were other modes, and a release
        that knows no other refuses the rest. So it is with ``grey16`` and ``background``.
        """
        values = asdict(self)
        for name, usual in (("image_mode", "RGB"), ("grey16", None), ("background", None)):
            if values[name] == usual:
                del values[name]
        return values

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> PreprocessSpec:
        """Read the dictionary of :meth:`to_dict`; missing keys get the flavour's defaults.

        Raises:
            ConfigError: a key is unknown, or a value is of the wrong type or range.
        """
        known = {f.name for f in fields(cls)}
        unknown = sorted(set(values) - known)
        if unknown:
            raise ConfigError(
                f"unknown preprocessing keys {', '.join(unknown)}; "
                f"known: {', '.join(sorted(known))}"
            )
        try:
            flavour = text(values.get("flavour", "timm"), "flavour")
            size = values.get("resize_size")
            default = RULES[flavour].crop_pct if flavour in RULES and size is None else None
            crop_pct = values.get("crop_pct", default)
            factor = values.get("rescale_factor")
            return cls(
                flavour=flavour,
                image_size=number_pair(values["image_size"], "image_size"),
                crop_pct=None if crop_pct is None else number(crop_pct, "crop_pct"),
                resize_size=None if size is None else number_pair(size, "resize_size"),
                crop_mode=text(values.get("crop_mode", "center"), "crop_mode"),
                interpolation=text(values.get("interpolation", "bicubic"), "interpolation"),
                mean=tuple(number(n, "mean") for n in listed(values.get("mean", IMAGENET_MEAN))),
                std=tuple(number(n, "std") for n in listed(values.get("std", IMAGENET_STD))),
                rescale_factor=None if factor is None else number(factor, "rescale_factor"),
                image_mode=text(values.get("image_mode", "RGB"), "image_mode"),
                grey16=_text_or_none(values, "grey16"),
                background=_text_or_none(values, "background"),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise ConfigError(f"preprocessing is not as it should be: {error!r}") from error


def _text_or_none(values: Mapping[str, Any], name: str) -> str | None:
    return None if values.get(name) is None else text(values[name], name)


class Placement(NamedTuple):
    """A resized picture, and where its crop begins: below 0 where a border is added.

    Attributes:
        width, height: of the whole resized picture.
        left, top: of the crop, whose size is the spec's.
    """

    width: int
    height: int
    left: int
    top: int


@lru_cache(maxsize=1024)
def placement(size: tuple[int, int], spec: PreprocessSpec) -> Placement:
    """Compute how a picture of a (width, height) is resized and cropped.

    Raises:
        InputError: the picture is so long and thin that resizing its short edge would
            make it exceed 89 megapixels; or it is smaller than the crop where the flavour
            does not pad.
    """
    check_resize(size, spec)
    width, height = resized_size(size, spec)
    crop_height, crop_width = spec.image_size
    rules = RULES[spec.flavour]
    if not rules.pads and (height < crop_height or width < crop_width):
        raise InputError(
            f"an image of {size[0]}x{size[1]} pixels gives {width}x{height}, less than "
            f"the crop of {crop_width}x{crop_height}, and {spec.flavour} does not pad"
        )
    top, left = rules.offset(height, crop_height), rules.offset(width, crop_width)
    return Placement(width, height, left, top)


def to_pixels(image: Image.Image, spec: PreprocessSpec) -> NDArray[Any]:
    """Resize and crop with Pillow, which `levit.pictures.resizing` does faster where it can.

    Args:
        image: a Pillow image in the spec's mode; for ``I;16`` in mode F, on 0..65535.

    Returns:
        (H, W, C) uint8; for ``I;16`` float32, which a sharp filter takes a little beyond 0..65535.

    Raises:
        InputError: as :func:`placement`.
    """
    from PIL import Image

    width, height, left, top = placement(image.size, spec)
    crop_height, crop_width = spec.image_size
    # Resizing whole and cropping afterwards: which axis Pillow resizes first, rounding in
    # between, depends on its release and on the shape of what it is given.
    resample = Image.Resampling[spec.interpolation.upper()]
    resized = image.resize((width, height), resample=resample)
    cropped = resized.crop((left, top, left + crop_width, top + crop_height))
    pixels = np.asarray(cropped)
    return pixels.reshape(crop_height, crop_width, spec.channels)


@lru_cache(maxsize=1024)
def check_resize(size: tuple[int, int], spec: PreprocessSpec) -> None:
    """Check the memory that resizing takes, from a picture's (width, height) alone.

    Raises:
        InputError: the picture is so long and thin that what is between its two sizes, or the
            table of the filter's weights, would exceed 89 megapixels of four bytes.
    """
    width, height = resized_size(size, spec)
    # Pillow resizes one axis after the other: in between, the old height may still stand.
    between = width * max(height, size[1]) * _PIXEL_BYTES
    support = _SUPPORT[spec.interpolation]
    weights = sum(
        8 * new * (2 * math.ceil(support * max(1.0, old / new)) + 1)
        for old, new in zip(size, (width, height), strict=True)
        if support and old != new
    )
    if max(between, weights) > MAX_PIXELS * _PIXEL_BYTES:
        raise InputError(
            f"an image of {size[0]}x{size[1]} pixels is too long and thin to resize to "
            f"{width}x{height}; crop it first"
        )


def resized_size(size: tuple[int, int], spec: PreprocessSpec) -> tuple[int, int]:
    """Compute (width, height) after resizing; `size` is Pillow's (width, height)."""
    target = _target(spec)
    if target is None:
        return size
    width, height = size
    target_height, target_width = target
    if spec.crop_mode == "squash":
        return target_width, target_height
    if target_height == target_width:
        # torchvision's Resize, and everybody's: the long edge is truncated.
        short, long = min(width, height), max(width, height)
        new_long = max(1, int(target_height * long / short))
        return (target_height, new_long) if width <= height else (new_long, target_height)
    # timm's ResizeKeepRatio, for targets that are not square.
    ratio = min(height / target_height, width / target_width)
    return max(1, round(width / ratio)), max(1, round(height / ratio))


def _target(spec: PreprocessSpec) -> tuple[int, int] | None:
    """Compute (height, width) to resize to; one edge of it counts where the ratio is kept."""
    if spec.resize_size is not None or spec.crop_pct is None:
        return spec.resize_size
    height, width = (math.floor(n / spec.crop_pct) for n in spec.image_size)
    if spec.crop_mode == "center" and RULES[spec.flavour].single_edge:
        return max(height, width), max(height, width)
    return height, width


def normalize(pixels: NDArray[Any], spec: PreprocessSpec) -> NDArray[np.float32]:
    """``(pixels / 255 - mean) / std``, rounded where the flavour rounds.

    That is: float32(pixels · f), minus float32(255 f · mean), over float32(255 f · std), where
    f is the rescale factor: 1/255, or 1 in mmpretrain, which normalises on 0..255. Pixels of 16
    bits are on 0..65535, and f is that over 257.

    Args:
        pixels: (H, W, C) or (N, H, W, C), as :func:`to_pixels` gives them.

    Returns:
        (C, H, W) or (N, C, H, W) float32, contiguous.
    """
    factor = spec.rescale_factor or RULES[spec.flavour].rescale_factor
    mean, std = (
        np.asarray([value * (255 * factor) for value in values], np.float32)[:, None, None]
        for values in (spec.mean, spec.std)
    )
    channels_first = np.moveaxis(pixels, -1, -3)
    tensor = np.empty(channels_first.shape, np.float32)
    if factor == 1 / 255:
        # PyTorch's division in float32. It equals the product below for each of the 256 bytes.
        np.divide(channels_first, np.float32(spec.white), out=tensor, dtype=np.float32)
    else:
        by = factor * (255 / spec.white)
        np.multiply(channels_first, by, out=tensor, dtype=np.float64, casting="same_kind")
    tensor -= mean
    tensor /= std
    return tensor


@lru_cache(maxsize=32)
def value_tables(spec: PreprocessSpec) -> NDArray[np.float32]:
    """Compute what each byte of each channel becomes: (C, 256) float32, read-only.

    It is made by :func:`normalize` itself, so that every flavour rounds as it does.
    """
    values = np.repeat(np.arange(256, dtype=np.uint8)[None, :, None], spec.channels, axis=2)
    tables = normalize(values, spec).reshape(spec.channels, 256)
    tables.flags.writeable = False
    return tables
