"""The class of transformers' image processor that a preprocessing file means.

Source: ``AutoImageProcessor.from_pretrained`` of transformers 5.24. The file's
``image_processor_type`` names it, else its ``feature_extractor_type``; else the model's
config.json: its ``image_processor_type``, or the class of its ``model_type``
(``IMAGE_PROCESSOR_MAPPING_NAMES``). Where neither does, transformers raises. Code of somebody's own
(``auto_map``) is not loaded without consent there, and never here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from levit.errors import ConfigError
from levit.export.flavours import TYPES
from levit.models.hints import Hints

__all__ = ["with_class"]

_OF_MODEL_TYPE: Final[Mapping[str, str]] = {
    "levit": "LevitImageProcessor",
    "deit": "DeiTImageProcessor",
    "vit": "ViTImageProcessor",
}


def with_class(
    settings: Mapping[str, Any], hints: Hints, name: str
) -> tuple[Mapping[str, Any], tuple[str, ...]]:
    """Add the class to settings that name none.

    ::

        with_class({"size": 224}, hints, "preprocessor_config.json")

    Args:
        settings: of a ``preprocessor_config.json``.
        hints: of the model, whose config.json decides.
        name: of the file, for messages.

    Returns:
        The settings, and what was assumed, in words.

    Raises:
        ConfigError: nothing names a class.
    """
    if any(settings.get(key) is not None for key in TYPES):
        return settings, ()
    config = hints.arguments or {}
    kind = config.get("image_processor_type") or _OF_MODEL_TYPE.get(hints.model_type or "")
    if kind is None:
        raise ConfigError(
            f"{name}: names no image processor, and no config.json says the model's type; add "
            f'"image_processor_type", such as "{_OF_MODEL_TYPE["vit"]}"'
        )
    origin = hints.origin("model_type")
    return {**settings, TYPES[0]: kind}, (
        f"preprocessing: {kind}, the class of the model in {origin}, because {name} names none",
    )
