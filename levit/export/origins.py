"""Origins of the settings of an export: the file or the flag that states each, or none."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from levit.export.options import ExportOptions
from levit.export.preprocessing import FIELDS, settings_for
from levit.export.sources import Source
from levit.models.registry import canonical
from levit.pictures.preprocess import PreprocessSpec

__all__ = ["origins_of"]

_SHAPES: Final = "the shapes of the weights"
_NOWHERE: Final = "assumed"
_COMMON: Final = "the default"

# Setting → the option that decides it, and the field of `Hints` that states it.
_OF_MODEL: Final[Mapping[str, tuple[str, str]]] = {
    "model": ("model", "architecture"),
    "image_size": ("image_size", "image_size"),
    "in_channels": ("", "in_channels"),
    "num_classes": ("", "num_classes"),
}
# Settings that have an origin only where somebody states them → names in files.
_OF_ARGUMENTS: Final[Mapping[str, tuple[str, ...]]] = {
    "activation": ("act_layer", "hidden_act"),
    "heads": ("num_heads", "num_attention_heads"),
    "norm_eps": ("norm_eps", "layer_norm_eps"),
    "pool": ("global_pool",),
}
# Settings of the pictures → names in files, of timm or mmpretrain and of transformers.
_OF_PICTURES: Final[Mapping[str, tuple[str, ...]]] = {
    "mean": ("mean", "image_mean"),
    "std": ("std", "image_std"),
    "interpolation": ("interpolation", "resample"),
    "crop_pct": ("crop_pct", "resize_size", "size"),
}


def origins_of(
    options: ExportOptions, source: Source, spec: PreprocessSpec | None
) -> dict[str, str]:
    """Find the place that states each setting.

    ::

        origins_of(options, load_source(options), spec)["mean"]  # "args in model_best.pth.tar"

    Returns:
        By setting, a file such as ``config.json``, a flag such as ``--mean``, ``the shapes of the
        weights``, ``the defaults of timm``, or ``assumed``.
    """
    hints, found = source.hints, {}
    for name, (option, field) in _OF_MODEL.items():
        flagged = option and getattr(options, option) is not None
        found[name] = _flag(option) if flagged else hints.origins.get(field, _SHAPES)
    if options.model is None and canonical(hints.architecture or "") != source.variant:
        found["model"] = _SHAPES
    if any(text.startswith("image size") for text in source.assumed):
        found["image_size"] = _NOWHERE
    for name, keys in _OF_ARGUMENTS.items():
        for key in keys:
            if key in hints.argument_origins:
                found[name] = hints.argument_origins[key]
    if source.model.config.num_classes:
        unsaid = hints.origins.get("label_names", _NOWHERE)
        found["labels"] = unsaid if options.labels is None else _flag("labels")
        unsaid = _NOWHERE if source.model.config.num_classes == 1 else _COMMON
        unsaid = hints.origins.get("scores", unsaid)
        found["scores"] = unsaid if options.scores is None else _flag("scores")
    if spec is not None:
        found |= {name: _of_picture(name, options, source, spec) for name in _OF_PICTURES}
    return found


def _of_picture(name: str, options: ExportOptions, source: Source, spec: PreprocessSpec) -> str:
    hints, keys = source.hints, set(_OF_PICTURES[name])
    if getattr(options, name) is not None:
        return _flag(name)
    if options.preprocess is not None and str(options.preprocess).endswith(".json"):
        return f"{_flag('preprocess')} {options.preprocess}"
    if spec.flavour == source.keymap.source and keys & set(hints.transform):
        return hints.origin("transform")
    settings = settings_for(spec.flavour, hints)[1]
    if any(settings.get(key) is not None for key in keys):
        return hints.origin(FIELDS[spec.flavour])
    return f"the defaults of {spec.flavour}"


def _flag(option: str) -> str:
    return "--" + option.replace("_", "-")
