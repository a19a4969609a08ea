"""Settings as each library writes them → :class:`~levit.pictures.preprocess.PreprocessSpec`.

=============  ==========================================================================
flavour        source of its settings
=============  ==========================================================================
timm           ``pretrained_cfg``
transformers   ``preprocessor_config.json`` of an image processor of LeViT, DeiT or ViT
mmpretrain     ``data_preprocessor`` of a config
original       nothing: facebookresearch/LeViT keeps its transform in code
=============  ==========================================================================
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from PIL import Image

from levit.errors import ConfigError
from levit.json_values import flag, number, shown, whole
from levit.pictures.preprocess import IMAGENET_MEAN, IMAGENET_STD, MAX_SIDE, RULES, PreprocessSpec

__all__ = [
    "FLAVOURS",
    "TYPES",
    "Settings",
    "mmpretrain_spec",
    "original_spec",
    "timm_spec",
    "transformers_spec",
]

Settings: TypeAlias = Mapping[str, Any]

_ZEROS: Final[tuple[float, ...]] = (0.0, 0.0, 0.0)
_ONES: Final[tuple[float, ...]] = (1.0, 1.0, 1.0)

_TIMM_CROP_PCT: Final = 0.875  # timm.data.constants.DEFAULT_CROP_PCT
_TIMM: Final = ("crop_pct", "crop_mode", "interpolation", "mean", "std")


def timm_spec(
    image_size: tuple[int, int], pretrained_cfg: Settings | None = None
) -> PreprocessSpec:
    """Read timm's evaluation transform for a LeViT from its defaults and a ``pretrained_cfg``.

    Its LeViTs crop 0.9; a ``pretrained_cfg`` without a crop means 0.875, as for any model.

    Source: ``timm.data.resolve_data_config`` and ``transforms_imagenet_eval``.
    """
    stated = {name: value for name, value in _stated(pretrained_cfg).items() if name in _TIMM}
    if pretrained_cfg:
        stated.setdefault("crop_pct", _TIMM_CROP_PCT)
    return PreprocessSpec.from_dict({"flavour": "timm", "image_size": image_size, **stated})


def original_spec(image_size: tuple[int, int], settings: Settings | None = None) -> PreprocessSpec:
    """Give ``build_transform`` of facebookresearch/LeViT, which does not resize up to 32 pixels.

    Raises:
        ConfigError: there are settings.
    """
    if settings:
        raise ConfigError(f"facebookresearch/LeViT has no setting {next(iter(settings))!r}")
    crop_pct = RULES["original"].crop_pct if max(image_size) > 32 else None
    return PreprocessSpec(flavour="original", image_size=image_size, crop_pct=crop_pct)


@contextlib.contextmanager
def _config_errors() -> Iterator[None]:
    try:
        yield
    except (TypeError, ValueError) as error:  # of a getter of levit.json_values
        raise ConfigError(str(error)) from error


@_config_errors()
def mmpretrain_spec(
    image_size: tuple[int, int], data_preprocessor: Settings | None = None
) -> PreprocessSpec:
    """Read the test pipeline of mmpretrain's LeViT configs, with a ``data_preprocessor``.

    Args:
        image_size: (height, width) of the model.
        data_preprocessor: settings of a config, `mean` and `std` on 0..255; empty for ImageNet's.

    Raises:
        ConfigError: the model takes BGR, or a value is not what it should be.
    """
    stated = _stated(data_preprocessor)
    normalisation: dict[str, Any] = {}
    if stated:
        # Without a mean, mmpretrain leaves pixels on 0..255.
        mean = _colours(stated.get("mean", _ZEROS), "mean")
        if stated.get("to_rgb") is not True and len(mean) != 1:  # grey has no order
            raise ConfigError("to_rgb is not true: a model that takes BGR is not supported")
        std = _colours(stated.get("std", _ONES), "std")
        normalisation = _on_unit_scale("mmpretrain", mean, std, 1.0)
    return PreprocessSpec(
        flavour="mmpretrain",
        image_size=image_size,
        crop_pct=RULES["mmpretrain"].crop_pct,
        **normalisation,
    )


@dataclass(frozen=True, kw_only=True)
class _Processor:
    """An image processor of transformers.

    Attributes:
        defaults: its class attributes, which stand where a file says nothing.
        edge: ``shortest_edge`` → the length that the short edge is resized to.
        caps: true where it looks at a ``longest_edge`` beside the ``shortest_edge``.
        one_size: its old feature extractor had one number, ``size``, for the crop too. The
            class that followed it crops its default whatever `size` says.
    """

    defaults: Settings
    edge: Callable[[int], int] = int
    caps: bool = True
    one_size: bool = False


# In the words of a file. Defaults of every class, but for the entries below.
_BASE: Final[Settings] = {
    "do_convert_rgb": False,
    "do_resize": True,
    "default_to_square": True,
    "resample": Image.Resampling.BICUBIC.value,
    "do_center_crop": True,
    "crop_size": {"height": 224, "width": 224},
    "do_rescale": True,
    "rescale_factor": 1 / 255,
    "do_normalize": True,
    "image_mean": 0.5,
    "image_std": 0.5,
    "do_pad": False,
}
_SIDE: Final = 224  # the image size that the sizes among the defaults are for

_PROCESSORS: Final[Mapping[str, _Processor]] = {
    "Levit": _Processor(
        defaults={
            **_BASE,
            "size": {"shortest_edge": 224},
            "default_to_square": False,
            "image_mean": IMAGENET_MEAN,
            "image_std": IMAGENET_STD,
        },
        edge=lambda edge: int((256 / 224) * edge),
        caps=False,
        one_size=True,
    ),
    "DeiT": _Processor(defaults={**_BASE, "size": {"height": 256, "width": 256}}),
    "ViT": _Processor(
        defaults={
            **_BASE,
            "size": {"height": 224, "width": 224},
            "resample": Image.Resampling.BILINEAR.value,
            "do_center_crop": False,
            "crop_size": None,
        }
    ),
}

# The first is the name today; transformers 5 runs it on torchvision unless told to use Pillow.
_ENDINGS: Final = ("ImageProcessor", "ImageProcessorPil", "ImageProcessorFast", "FeatureExtractor")
_BY_NAME: Final[Mapping[str, _Processor]] = {
    start + ending: processor for start, processor in _PROCESSORS.items() for ending in _ENDINGS
}
TYPES: Final = ("image_processor_type", "feature_extractor_type")  # the first overrules


@_config_errors()
def transformers_spec(
    image_size: tuple[int, int], preprocessor: Settings | None = None
) -> PreprocessSpec:
    """Read the settings of transformers' Pillow class of a LeViT, DeiT or ViT.

    Source: ``transformers/models/{levit,deit,vit}/image_processing_pil_*.py`` and their base
    class.

    Args:
        image_size: (height, width) of the model.
        preprocessor: the contents of a ``preprocessor_config.json``; it is LevitImageProcessor's
            where it names no class. With nothing in it, or nothing but the name of a class, the
            class's defaults, which are for 224x224, scaled to `image_size`: each side that is
            resized to becomes ``floor(side * image side / 224)``, and the crop `image_size`.

    Raises:
        ConfigError: it is of another class, contradicts the model's image size, or asks for
            what a spec cannot say.
    """
    processor = _processor(_stated(preprocessor))
    stated = _completed(preprocessor or {}, processor, image_size)
    if flag(stated["do_convert_rgb"], "do_convert_rgb"):
        raise ConfigError("do_convert_rgb, which lays transparency on white, is not supported")
    if flag(stated["do_pad"], "do_pad") and "pad_size" in stated:
        raise ConfigError("do_pad with a pad_size is not supported")
    factor = 1.0
    if flag(stated["do_rescale"], "do_rescale"):
        factor = number(stated["rescale_factor"], "rescale_factor")
    mean, std = _ZEROS, _ONES
    if flag(stated["do_normalize"], "do_normalize"):
        mean = _colours(stated["image_mean"], "image_mean")
        std = _colours(stated["image_std"], "image_std")
    return PreprocessSpec(
        flavour="transformers",
        image_size=image_size,
        interpolation=_filter(stated["resample"]),
        **_resizing(stated, processor, image_size),
        **_on_unit_scale("transformers", mean, std, factor),
    )


def _processor(stated: Settings) -> _Processor:
    kind = next((stated[name] for name in TYPES if name in stated), "LevitImageProcessor")
    if not isinstance(kind, str) or kind not in _BY_NAME:
        known = ", ".join(start + _ENDINGS[0] for start in _PROCESSORS)
        raise ConfigError(f"preprocessing of {shown(kind)} is not known, only of {known}")
    return _BY_NAME[kind]


def _completed(
    file: Settings, processor: _Processor, image_size: tuple[int, int]
) -> dict[str, Any]:
    """Complete the settings of `file` with the defaults of its class."""
    stated = _stated(file)
    # A null switch is off, to transformers too, also where the class has it on.
    for name, default in processor.defaults.items():
        if default is True and name in file:
            stated.setdefault(name, False)
    if set(stated) <= set(TYPES):
        return {**processor.defaults, **_scaled(processor, image_size)}
    old = "feature_extractor_type" in stated and "image_processor_type" not in stated
    if old and processor.one_size and "size" in stated:
        stated.setdefault("crop_size", stated["size"])
    return {**processor.defaults, **stated}


def _scaled(processor: _Processor, image_size: tuple[int, int]) -> dict[str, Any]:
    """Scale `size` and `crop_size` of a class to another image size than its own."""
    height, width = image_size
    sides = {"height": height, "width": width, "shortest_edge": max(image_size)}
    size = processor.defaults["size"]
    return {
        "size": {name: own * sides[name] // _SIDE for name, own in size.items()},
        "crop_size": image_size,
    }


def _resizing(
    stated: Settings, processor: _Processor, image_size: tuple[int, int]
) -> dict[str, Any]:
    """Derive `crop_pct`, `resize_size` and `crop_mode` of a spec."""
    exact = edge = None
    if flag(stated["do_resize"], "do_resize"):
        exact, edge = _resized(stated, processor)
    origin, final = "size", exact
    if flag(stated["do_center_crop"], "do_center_crop"):
        origin, final = "crop_size", _cropped(stated)
    wanted = "{}x{}".format(*image_size)
    if final is None:
        raise ConfigError(f"without do_center_crop images do not all become {wanted}, the model's")
    if final != image_size:
        raise ConfigError(f"{origin} {final[0]}x{final[1]} is not the model's image size {wanted}")
    if exact is not None:
        return {"crop_pct": None, "resize_size": exact, "crop_mode": "squash"}
    if edge is None:
        return {"crop_pct": None}
    crop_pct = RULES["transformers"].crop_pct
    if edge == math.floor(max(image_size) / crop_pct):
        return {"crop_pct": crop_pct}
    return {"crop_pct": None, "resize_size": (edge, edge)}


def _resized(stated: Settings, processor: _Processor) -> tuple[tuple[int, int] | None, int | None]:
    """Read (height, width) to resize to exactly, or the length of the short edge."""
    size = stated["size"]
    if isinstance(size, Mapping):
        sides = _stated(size)
        if set(sides) == {"shortest_edge", "longest_edge"}:
            if processor.caps:
                raise ConfigError("size with a longest_edge, which caps, is not supported")
            del sides["longest_edge"]
        if set(sides) != {"shortest_edge"}:
            return _height_width(sides, "size"), None
        size = sides["shortest_edge"]
    elif isinstance(size, (list, tuple)) or flag(stated["default_to_square"], "default_to_square"):
        return _height_width(size, "size"), None
    return None, processor.edge(whole(size, "size", least=1, most=MAX_SIDE))


def _cropped(stated: Settings) -> tuple[int, int]:
    """Read (height, width) of the crop."""
    if stated["crop_size"] is None:
        raise ConfigError("do_center_crop without a crop_size")
    return _height_width(stated["crop_size"], "crop_size")


def _filter(code: Any) -> str:
    try:
        return Image.Resampling(whole(code, "resample")).name.lower()
    except ValueError:
        raise ConfigError(f"resample {shown(code)} is none of Pillow's filters, 0 to 5") from None


def _stated(settings: Settings | None) -> dict[str, Any]:
    """Drop null values, which say nothing in any of these libraries."""
    return {name: value for name, value in (settings or {}).items() if value is not None}


def _height_width(value: Any, name: str) -> tuple[int, int]:
    """Read one number for both, [height, width], or an object that names them."""
    if isinstance(value, Mapping):
        sides = _stated(value)
        if set(sides) != {"height", "width"}:
            raise ConfigError(f"{name} has height and width, not {', '.join(sides) or 'nothing'}")
        value = [sides["height"], sides["width"]]
    elif not isinstance(value, (list, tuple)):
        value = [value, value]
    if len(value) != 2:
        raise ConfigError(f"{name}: expected height and width, not {shown(value)}")
    height, width = (whole(side, name, least=1, most=MAX_SIDE) for side in value)
    return height, width


def _colours(value: Any, name: str) -> tuple[float, ...]:
    values = value if isinstance(value, (list, tuple)) else [value] * 3
    # Those of grey and RGBA pictures too; `levit.export.channels` compares with the model.
    if len(values) not in (1, 3, 4):
        raise ConfigError(f"{name} has one value per channel, 1, 3 or 4, not {len(values)}")
    return tuple(number(one, name) for one in values)


def _on_unit_scale(
    flavour: str, mean: tuple[float, ...], std: tuple[float, ...], factor: float
) -> dict[str, Any]:
    """Derive `mean`, `std` and `rescale_factor` of a spec from pixels multiplied by `factor`."""
    if factor <= 0:
        raise ConfigError(f"rescale_factor must be positive, not {factor:g}")
    scale = 255 * factor
    return {
        "mean": tuple(value / scale for value in mean),
        "std": tuple(value / scale for value in std),
        "rescale_factor": None if factor == RULES[flavour].rescale_factor else factor,
    }


# One line per flavour: its function from (image_size, settings found beside the checkpoint).
FLAVOURS: Final[Mapping[str, Callable[[tuple[int, int], Settings | None], PreprocessSpec]]] = {
    "timm": timm_spec,
    "transformers": transformers_spec,
    "mmpretrain": mmpretrain_spec,
    "original": original_spec,
}
