"""Settings as each library writes them → :class:`~levit.preprocess.PreprocessSpec`.

=============  ==========================================================================
flavour        what it reads
=============  ==========================================================================
timm           ``pretrained_cfg``
transformers   ``preprocessor_config.json`` of a LevitImageProcessor, LevitFeatureExtractor
mmpretrain     ``data_preprocessor`` of a config
original       nothing: facebookresearch/LeViT keeps its transform in code
=============  ==========================================================================
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, Final, TypeAlias

from PIL import Image

from levit.errors import ConfigError
from levit.preprocess import IMAGENET_MEAN, IMAGENET_STD, MAX_SIDE, RULES, PreprocessSpec

__all__ = [
    "FLAVOURS",
    "mmpretrain_spec",
    "original_spec",
    "spec_from_json",
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
    """Timm's evaluation transform for a LeViT, from its defaults and a ``pretrained_cfg``.

    Its LeViTs crop 0.9; what a ``pretrained_cfg`` leaves out is 0.875, as for any model.

    Source: ``timm.data.resolve_data_config`` and ``transforms_imagenet_eval``.
    """
    stated = {name: value for name, value in _stated(pretrained_cfg).items() if name in _TIMM}
    if pretrained_cfg:
        stated.setdefault("crop_pct", _TIMM_CROP_PCT)
    return PreprocessSpec.from_dict({"flavour": "timm", "image_size": image_size, **stated})


def original_spec(image_size: tuple[int, int], settings: Settings | None = None) -> PreprocessSpec:
    """``build_transform`` of facebookresearch/LeViT, which does not resize up to 32 pixels.

    Raises:
        ConfigError: there are settings.
    """
    if settings:
        raise ConfigError(f"facebookresearch/LeViT has no setting {next(iter(settings))!r}")
    crop_pct = RULES["original"].crop_pct if max(image_size) > 32 else None
    return PreprocessSpec(flavour="original", image_size=image_size, crop_pct=crop_pct)


def mmpretrain_spec(
    image_size: tuple[int, int], data_preprocessor: Settings | None = None
) -> PreprocessSpec:
    """The test pipeline of mmpretrain's LeViT configs, with a ``data_preprocessor``.

    Args:
        image_size: (height, width) of the model.
        data_preprocessor: of a config; its `mean` and `std` are on 0..255. Empty for ImageNet's.

    Raises:
        ConfigError: the model takes BGR, or a value is not what it should be.
    """
    stated = _stated(data_preprocessor)
    normalisation: dict[str, Any] = {}
    if stated:
        if stated.get("to_rgb") is not True:
            raise ConfigError("to_rgb is not true: a model that takes BGR is not supported")
        # Without a mean, mmpretrain leaves pixels on 0..255.
        mean = _colours(stated, "mean", _ZEROS)
        std = _colours(stated, "std", _ONES)
        normalisation = _on_unit_scale("mmpretrain", mean, std, 1.0)
    return PreprocessSpec(
        flavour="mmpretrain",
        image_size=image_size,
        crop_pct=RULES["mmpretrain"].crop_pct,
        **normalisation,
    )


# ---------------------------------------------------------------------------- transformers

# The first is the name today; transformers 5 runs it on torchvision unless told to use Pillow.
_PROCESSORS: Final = (
    "LevitImageProcessor",
    "LevitImageProcessorPil",
    "LevitImageProcessorFast",
    "LevitFeatureExtractor",
)


def transformers_spec(
    image_size: tuple[int, int], preprocessor: Settings | None = None
) -> PreprocessSpec:
    """``LevitImageProcessorPil`` of transformers, from a ``preprocessor_config.json``.

    Source: ``transformers/models/levit/image_processing_pil_levit.py`` and its base class.

    Args:
        image_size: (height, width) of the model.
        preprocessor: the file's contents. Empty for the class's defaults, scaled to `image_size`.

    Raises:
        ConfigError: it is of another class, contradicts the model's image size, or asks for
            what a spec cannot say.
    """
    stated = _stated(preprocessor)
    if not stated:
        crop_pct = RULES["transformers"].crop_pct
        return PreprocessSpec(flavour="transformers", image_size=image_size, crop_pct=crop_pct)
    kind = stated.get("image_processor_type", stated.get("feature_extractor_type", _PROCESSORS[0]))
    if kind not in _PROCESSORS:
        raise ConfigError(f"preprocessing of {kind!r} is not known, only of {_PROCESSORS[0]}")
    if _truth(stated, "do_convert_rgb", False):
        raise ConfigError("do_convert_rgb, which lays transparency on white, is not supported")
    if _truth(stated, "do_pad", False) and "pad_size" in stated:
        raise ConfigError("do_pad with a pad_size is not supported")
    factor = 1.0
    if _truth(stated, "do_rescale"):
        factor = _number(stated.get("rescale_factor", 1 / 255), "rescale_factor")
    mean, std = _ZEROS, _ONES
    if _truth(stated, "do_normalize"):
        mean = _colours(stated, "image_mean", IMAGENET_MEAN)
        std = _colours(stated, "image_std", IMAGENET_STD)
    return PreprocessSpec(
        flavour="transformers",
        image_size=image_size,
        interpolation=_filter(stated),
        **_resizing(stated, image_size),
        **_on_unit_scale("transformers", mean, std, factor),
    )


def _resizing(stated: Settings, image_size: tuple[int, int]) -> dict[str, Any]:
    """`crop_pct`, `resize_size` and `crop_mode` of a spec."""
    exact = edge = None
    if _truth(stated, "do_resize"):
        exact, edge = _resized(stated)
    wanted = "{}x{}".format(*image_size)
    if _truth(stated, "do_center_crop"):
        crop = _cropped(stated)
        if crop != image_size:
            raise ConfigError(
                f"crop_size {crop[0]}x{crop[1]} is not the model's image size {wanted}"
            )
    elif exact != image_size:
        raise ConfigError(f"without do_center_crop images do not all become {wanted}, the model's")
    if exact is not None:
        return {"crop_pct": None, "resize_size": exact, "crop_mode": "squash"}
    if edge is None:
        return {"crop_pct": None}
    if edge == max(image_size):
        return {"crop_pct": RULES["transformers"].crop_pct}
    resized = int((256 / 224) * edge)
    return {"crop_pct": None, "resize_size": (resized, resized)}


def _resized(stated: Settings) -> tuple[tuple[int, int] | None, int | None]:
    """(height, width) to resize to exactly, or the ``shortest_edge``."""
    size = stated.get("size", {"shortest_edge": 224})
    if isinstance(size, Mapping):
        sides = _stated(size)
        # LeViT's class looks at no longest_edge.
        if set(sides) in ({"shortest_edge"}, {"shortest_edge", "longest_edge"}):
            return None, _whole(sides["shortest_edge"], "size")
        return _height_width(sides, "size"), None
    if isinstance(size, (list, tuple)) or _truth(stated, "default_to_square", False):
        return _height_width(size, "size"), None
    return None, _whole(size, "size")


def _cropped(stated: Settings) -> tuple[int, int]:
    """(height, width) of the crop."""
    crop = stated.get("crop_size")
    if crop is None:
        # LevitFeatureExtractor had one number for both; the class that followed it crops 224.
        old = "feature_extractor_type" in stated and "image_processor_type" not in stated
        crop = stated.get("size", 224) if old else 224
    return _height_width(crop, "crop_size")


def _filter(stated: Settings) -> str:
    code = stated.get("resample", Image.Resampling.BICUBIC.value)
    try:
        return Image.Resampling(_whole(code, "resample", least=0)).name.lower()
    except ValueError:
        raise ConfigError(f"resample {code} is none of Pillow's filters, 0 to 5") from None


# ---------------------------------------------------------------------------- values


def _stated(settings: Settings | None) -> dict[str, Any]:
    """Without what is null, which in all of these libraries means the default."""
    return {name: value for name, value in (settings or {}).items() if value is not None}


def _truth(stated: Settings, name: str, default: bool = True) -> bool:
    value = stated.get(name, default)
    if not isinstance(value, bool):
        raise ConfigError(f"{name} is true or false, not {value!r}")
    return value


def _whole(value: Any, name: str, least: int = 1) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= MAX_SIDE:
        raise ConfigError(
            f"{name}: expected a whole number from {least} to {MAX_SIDE}, not {value!r}"
        )
    return value


def _number(value: Any, name: str) -> float:
    try:
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise TypeError
        number = float(value)
    except (TypeError, OverflowError):
        number = math.nan
    if not math.isfinite(number):
        raise ConfigError(f"{name}: expected a number, not {value!r}")
    return number


def _height_width(value: Any, name: str) -> tuple[int, int]:
    """One number for both, [height, width], or an object that names them."""
    if isinstance(value, Mapping):
        sides = _stated(value)
        if set(sides) != {"height", "width"}:
            raise ConfigError(f"{name} has height and width, not {', '.join(sides) or 'nothing'}")
        value = [sides["height"], sides["width"]]
    elif not isinstance(value, (list, tuple)):
        value = [value, value]
    if len(value) != 2:
        raise ConfigError(f"{name}: expected height and width, not {value!r}")
    return _whole(value[0], name), _whole(value[1], name)


def _colours(stated: Settings, name: str, default: tuple[float, ...]) -> tuple[float, ...]:
    value = stated.get(name, default)
    values = value if isinstance(value, (list, tuple)) else [value] * 3
    if len(values) != 3:
        raise ConfigError(f"{name} has three values, one per colour, not {len(values)}")
    return tuple(_number(one, name) for one in values)


def _on_unit_scale(
    flavour: str, mean: tuple[float, ...], std: tuple[float, ...], factor: float
) -> dict[str, Any]:
    """`mean`, `std` and `rescale_factor` of a spec, for pixels that are multiplied by `factor`."""
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

# Keys that only files of these libraries have.
_OF_TRANSFORMERS: Final = {
    "image_processor_type",
    "feature_extractor_type",
    "image_mean",
    "image_std",
    "do_resize",
    "do_center_crop",
    "do_rescale",
    "do_normalize",
    "size",
    "crop_size",
    "resample",
}
_OF_TIMM: Final = {"architecture", "input_size", "fixed_input_size", "first_conv", "hf_hub_id"}


def spec_from_json(values: Settings, image_size: tuple[int, int]) -> PreprocessSpec:
    """A spec from any of the files that people have, told apart by their keys.

    Args:
        values: a spec of ours; transformers' ``preprocessor_config.json`` or
            ``processor_config.json``; timm's ``config.json`` or a ``pretrained_cfg``; or a
            ``data_preprocessor`` of mmpretrain.
        image_size: (height, width) of the model.

    Raises:
        ConfigError: a value is not as it should be, or contradicts `image_size`.
    """
    if isinstance(values.get("pretrained_cfg"), Mapping):
        return timm_spec(image_size, values["pretrained_cfg"])
    if isinstance(values.get("image_processor"), Mapping):
        values = values["image_processor"]
    if _OF_TRANSFORMERS & set(values):
        return transformers_spec(image_size, values)
    if _OF_TIMM & set(values):
        return timm_spec(image_size, values)
    if "to_rgb" in values:
        return mmpretrain_spec(image_size, values)
    spec = PreprocessSpec.from_dict({"image_size": image_size, **values})
    if spec.image_size != image_size:
        raise ConfigError(f"image_size {spec.image_size} is not the model's {image_size}")
    return spec
