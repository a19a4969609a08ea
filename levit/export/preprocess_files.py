"""Files of preprocessing, ours and those of the libraries, told apart by their keys."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from levit.errors import ConfigError
from levit.export.flavours import Settings, mmpretrain_spec, timm_spec, transformers_spec
from levit.pictures.preprocess import PreprocessSpec

__all__ = ["is_of_transformers", "processor_of", "spec_from_json"]

# Keys that only files of these libraries have.
_OF_TRANSFORMERS: Final = {
    "image_processor_type", "feature_extractor_type", "image_mean", "image_std", "do_resize",
    "do_center_crop", "do_rescale", "do_normalize", "size", "crop_size", "resample",
}  # fmt: skip
_OF_TIMM: Final = {"architecture", "input_size", "fixed_input_size", "first_conv", "hf_hub_id"}


def processor_of(values: Settings) -> Settings:
    """Take the image processor's part of a ``processor_config.json``, or `values` themselves."""
    inner = values.get("image_processor")
    return inner if isinstance(inner, Mapping) else values


def is_of_transformers(values: Settings) -> bool:
    """Tell a file of transformers' image processors by its keys."""
    if isinstance(values.get("pretrained_cfg"), Mapping):
        return False
    return bool(_OF_TRANSFORMERS & set(processor_of(values)))


def spec_from_json(values: Settings, image_size: tuple[int, int]) -> PreprocessSpec:
    """Read a spec from any of the files that people have, told apart by their keys.

    ::

        spec_from_json({"image_processor_type": "ViTImageProcessor"}, (224, 224))

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
    if is_of_transformers(values):
        return transformers_spec(image_size, processor_of(values))
    if _OF_TIMM & set(values):
        return timm_spec(image_size, values)
    if "to_rgb" in values:
        return mmpretrain_spec(image_size, values)
    spec = PreprocessSpec.from_dict({"image_size": image_size, **values})
    if spec.image_size != image_size:
        raise ConfigError(f"image_size {spec.image_size} is not the model's {image_size}")
    return spec
