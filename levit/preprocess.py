"""Image → tensor: one frozen spec, applied exactly as the model's home library does.

The arithmetic is the deployed model's, value for value: Pillow decodes and resizes,
the crop rounds as the source library rounds, and normalisation is done in float32 in
the source's order of operations. Costs of getting this wrong are measured in points of
top-1 (timm#2463, YOLOs-CPP#145).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from levit.errors import ConfigError, InputError
from levit.images import MAX_PIXELS

__all__ = [
    "FLAVOURS",
    "INTERPOLATIONS",
    "PreprocessSpec",
    "normalize",
    "timm_spec",
    "to_pixels",
]

IMAGENET_MEAN: Final = (0.485, 0.456, 0.406)
IMAGENET_STD: Final = (0.229, 0.224, 0.225)

INTERPOLATIONS: Final[Mapping[str, Image.Resampling]] = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "box": Image.Resampling.BOX,
    "hamming": Image.Resampling.HAMMING,
    "lanczos": Image.Resampling.LANCZOS,
}


@dataclass(frozen=True, kw_only=True)
class PreprocessSpec:
    """How an image becomes the tensor that a model takes.

    Attributes:
        flavour: whose pipeline this is (``timm``).
        image_size: (height, width) of the tensor, in pixels.
        crop_pct: the crop as a fraction of the resized image; the image is resized to
            ``floor(image_size / crop_pct)``.
        crop_mode: ``center`` keeps the aspect ratio (the short edge is resized to fit),
            ``squash`` does not.
        interpolation: a Pillow filter, by name.
        mean, std: per channel, on pixels scaled to 0..1.
    """

    flavour: str = "timm"
    image_size: tuple[int, int]
    crop_pct: float = 0.9
    crop_mode: str = "center"
    interpolation: str = "bicubic"
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD

    def __post_init__(self) -> None:
        if self.flavour not in FLAVOURS:
            raise ConfigError(
                f"unknown preprocessing flavour {self.flavour!r}; known: {', '.join(FLAVOURS)}"
            )
        if self.interpolation not in INTERPOLATIONS:
            raise ConfigError(
                f"unknown interpolation {self.interpolation!r}; known: {', '.join(INTERPOLATIONS)}"
            )
        if self.crop_mode not in ("center", "squash"):
            raise ConfigError(f"unknown crop_mode {self.crop_mode!r}; known: center, squash")
        if not 0.05 <= self.crop_pct <= 1.0:
            raise ConfigError(f"crop_pct must lie in 0.05..1, not {self.crop_pct:g}")
        if len(self.mean) != len(self.std) or not self.mean:
            raise ConfigError("mean and std must have one value per channel each")
        # On pixels scaled to 0..1 (a mean of 123.675 belongs to 0..255: divide it by 255).
        if not all(-10 <= value <= 10 for value in self.mean):
            raise ConfigError(f"mean is on pixels scaled to 0..1, so not {self.mean}")
        if not all(1e-4 <= value <= 10 for value in self.std):
            raise ConfigError(f"std is on pixels scaled to 0..1 and positive, so not {self.std}")
        if len(self.image_size) != 2 or any(n < 1 for n in self.image_size):
            raise ConfigError(f"image_size must be two positive numbers, not {self.image_size}")

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready dictionary."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> PreprocessSpec:
        """The reverse of :meth:`to_dict`.

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
            return cls(
                flavour=str(values.get("flavour", "timm")),
                image_size=_pair(values["image_size"]),
                crop_pct=float(values.get("crop_pct", 0.9)),
                crop_mode=str(values.get("crop_mode", "center")),
                interpolation=str(values.get("interpolation", "bicubic")),
                mean=tuple(float(v) for v in values.get("mean", IMAGENET_MEAN)),
                std=tuple(float(v) for v in values.get("std", IMAGENET_STD)),
            )
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise ConfigError(f"preprocessing is not as it should be: {error!r}") from error


def _pair(value: Any) -> tuple[int, int]:
    height, width = value
    return int(height), int(width)


def timm_spec(
    image_size: tuple[int, int], pretrained_cfg: Mapping[str, Any] | None = None
) -> PreprocessSpec:
    """Timm's evaluation transform for a LeViT, from its defaults and a ``pretrained_cfg``.

    Source: ``timm.data.resolve_data_config`` and ``transforms_imagenet_eval``.
    """
    known = ("crop_pct", "crop_mode", "interpolation", "mean", "std")
    said = {name: value for name, value in (pretrained_cfg or {}).items() if name in known}
    stated = {name: value for name, value in said.items() if value is not None}
    return PreprocessSpec.from_dict({"flavour": "timm", "image_size": image_size, **stated})


def to_pixels(image: Image.Image, spec: PreprocessSpec) -> NDArray[np.uint8]:
    """Resize and crop.

    Args:
        image: a Pillow image in mode RGB.

    Returns:
        (H, W, 3) uint8.

    Raises:
        InputError: the picture is so long and thin that resizing its short edge would
            make it exceed 89 megapixels.
    """
    size = _resized_size(image.size, spec)
    if size[0] * size[1] > MAX_PIXELS:
        raise InputError(
            f"an image of {image.width}x{image.height} pixels is too long and thin to resize to "
            f"{size[0]}x{size[1]}; crop it first"
        )
    resized = image.resize(size, resample=INTERPOLATIONS[spec.interpolation])
    width, height = resized.size
    crop_height, crop_width = spec.image_size
    # torchvision's center_crop: half to even, zeros where the image is smaller than the crop.
    top = round((height - crop_height) / 2.0)
    left = round((width - crop_width) / 2.0)
    if height < crop_height:
        top = -((crop_height - height) // 2)
    if width < crop_width:
        left = -((crop_width - width) // 2)
    cropped = resized.crop((left, top, left + crop_width, top + crop_height))
    return np.asarray(cropped, dtype=np.uint8)


def _resized_size(size: tuple[int, int], spec: PreprocessSpec) -> tuple[int, int]:
    """(width, height) after resizing; `size` is Pillow's (width, height)."""
    width, height = size
    target_height, target_width = (math.floor(n / spec.crop_pct) for n in spec.image_size)
    if spec.crop_mode == "squash":
        return target_width, target_height
    if target_height == target_width:
        # torchvision's Resize: the long edge is truncated.
        short, long = min(width, height), max(width, height)
        new_long = max(1, int(target_height * long / short))
        return (target_height, new_long) if width <= height else (new_long, target_height)
    # timm's ResizeKeepRatio, for targets that are not square.
    ratio = min(height / target_height, width / target_width)
    return max(1, round(width / ratio)), max(1, round(height / ratio))


def normalize(pixels: NDArray[np.uint8], spec: PreprocessSpec) -> NDArray[np.float32]:
    """Scale to 0..1, subtract the mean, divide by the deviation, all in float32.

    Args:
        pixels: (H, W, 3) or (N, H, W, 3) uint8.

    Returns:
        (3, H, W) or (N, 3, H, W) float32, contiguous.
    """
    mean = np.asarray(spec.mean, np.float32)[:, None, None]
    std = np.asarray(spec.std, np.float32)[:, None, None]
    channels_first = np.moveaxis(pixels, -1, -3)
    tensor: NDArray[np.float32] = np.divide(channels_first, np.float32(255), dtype=np.float32)
    tensor = np.ascontiguousarray(tensor)
    tensor -= mean
    tensor /= std
    return tensor


# One line per flavour: its function from (image_size, settings found beside the checkpoint).
FLAVOURS: Final = {"timm": timm_spec}
