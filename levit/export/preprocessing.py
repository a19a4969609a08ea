"""The preprocessing of an artifact: from the options, the checkpoint and its files, or defaults."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from levit.errors import ConfigError
from levit.export.channels import checked_mode, choose_image_mode, with_image_mode
from levit.export.flavours import FLAVOURS
from levit.export.options import ExportOptions
from levit.export.preprocess_files import is_of_transformers, processor_of, spec_from_json
from levit.export.processor_class import with_class
from levit.export.sources import Source
from levit.models.hints import Hints
from levit.models.json_files import read_config
from levit.pictures.preprocess import PreprocessSpec

__all__ = ["FIELDS", "choose_preprocess", "settings_for"]

# Flavour → the field of `Hints` that holds the settings of its library; facebookresearch has its
# own in code.
FIELDS: Final[Mapping[str, str]] = {
    "timm": "pretrained_cfg",
    "transformers": "preprocessor_config",
    "mmpretrain": "data_preprocessor",
}


def choose_preprocess(
    options: ExportOptions, source: Source
) -> tuple[PreprocessSpec | None, tuple[str, ...]]:
    """Choose the preprocessing spec, and say what had to be assumed, in words.

    ::

        spec, assumed = choose_preprocess(options, load_source(options))

    Returns:
        None in place of a spec where the model takes tensors only.

    Raises:
        ConfigError: an unknown flavour, a bad file, or an override out of range.
    """
    config, hints = source.model.config, source.hints
    stated_mode = options.image_mode or hints.transform.get("image_mode")
    with _stated_by("--image-mode" if options.image_mode else hints.origin("transform")):
        mode = choose_image_mode(stated_mode, config.in_channels)
    if mode is None:
        _refuse_flags(options, config.in_channels)
        return None, ()
    name = None if options.preprocess is None else str(options.preprocess)
    flags = _flags(options)
    statistics: Mapping[str, Any] = flags
    if name is None or name in FLAVOURS:
        spec, assumed = _checkpoints_own(source, name, flags)
        if spec.flavour == source.keymap.source:
            statistics = {**_statistics(hints.transform), **flags}
    elif name.endswith(".json"):
        spec, assumed = _from_file(name, source)
        if options.image_mode is None and spec.image_mode != "RGB":
            mode = stated_mode = checked_mode(spec.image_mode, config.in_channels)
    else:
        raise ConfigError(
            f"unknown preprocessing {name!r}: name a flavour ({', '.join(FLAVOURS)}) or a "
            f".json file"
        )
    spec = _changed(spec, flags)
    defaulted: tuple[str, ...] = ()
    if stated_mode is None and mode != spec.image_mode:
        defaulted = (f"image mode {mode}: the model has {config.in_channels} channel",)
    spec, averaged = with_image_mode(spec, mode, statistics.get("mean"), statistics.get("std"))
    beside = settings_for(source.keymap.source, hints)[1]
    # The defaults of a processor of transformers are those of the class that its file names.
    if name is None and (not beside or source.keymap.source == "timm"):
        there = {key for key, value in beside.items() if value is not None}
        assumed = (*assumed, *_defaults_in_words(spec, {*there, *hints.transform, *flags}))
    return spec, (*assumed, *defaulted, *averaged)


def settings_for(flavour: str, hints: Hints) -> tuple[str, Mapping[str, Any]]:
    """(what they are called, settings) beside the checkpoint that `flavour`'s library wrote."""
    field = FIELDS.get(flavour)
    if field is None:
        return flavour, {}
    origin = hints.origins.get(field)
    names = {
        "timm": "pretrained_cfg",
        "transformers": origin or "preprocessor_config.json",
        "mmpretrain": "data_preprocessor" + (f" of {origin}" if origin else ""),
    }
    return names[flavour], getattr(hints, field)


def _flags(options: ExportOptions) -> dict[str, Any]:
    """List the settings that the options state."""
    stated: dict[str, Any] = {
        "mean": None if options.mean is None else tuple(map(float, options.mean)),
        "std": None if options.std is None else tuple(map(float, options.std)),
        "crop_pct": options.crop_pct,
        "interpolation": options.interpolation,
        "grey16": options.grey16,
        "background": options.background,
    }
    return {name: value for name, value in stated.items() if value is not None}


def _refuse_flags(options: ExportOptions, channels: int) -> None:
    """Raise `ConfigError` where a model that takes tensors only is to have a preprocessing."""
    if options.preprocess is None and not _flags(options):
        return
    rgba = ", or say that they are pictures with --image-mode RGBA" if channels == 4 else ""
    raise ConfigError(
        f"a model of {channels} channels takes tensors, not images: leave out the preprocessing"
        f"{rgba}"
    )


def _checkpoints_own(
    source: Source, name: str | None, flags: Mapping[str, Any]
) -> tuple[PreprocessSpec, tuple[str, ...]]:
    """Read what the checkpoint and its files state, in a flavour of this name or its own."""
    flavour = name or source.keymap.source
    origin, beside = settings_for(flavour, source.hints)
    assumed: tuple[str, ...] = ()
    if flavour == "transformers" and beside:
        beside, assumed = with_class(beside, source.hints, origin)
    size = source.trained_size  # for which all of it is meant
    with _stated_by(origin, "; correct it, or pass another with --preprocess"):
        trained = replace(source.model.config, image_size=size)
        defaults = source.model.family.preprocessing(trained, flavour)
        spec = FLAVOURS[flavour](size, beside or defaults)
    if flavour == source.keymap.source:
        stated = {key: v for key, v in source.hints.transform.items() if key not in flags}
        with _stated_by(
            source.hints.origin("transform"),
            "; correct it, or pass --mean, --std, --crop-pct or --interpolation",
        ):
            spec = _transformed(spec, stated)
    return _scaled(spec, source.model.config.image_size), assumed


def _from_file(name: str, source: Source) -> tuple[PreprocessSpec, tuple[str, ...]]:
    """Read the file that the user names."""
    values: Mapping[str, Any] = read_config(Path(name))
    assumed: tuple[str, ...] = ()
    if is_of_transformers(values):
        values, assumed = with_class(processor_of(values), source.hints, name)
    with _stated_by(name):
        return spec_from_json(values, source.model.config.image_size), assumed


def _statistics(transform: Mapping[str, Any]) -> dict[str, Any]:
    """Take the mean and deviation that a training stated; one value is for any number of channels.

    Where a file states one value and no channels, it was read as that of three colours.
    """
    stated = {name: transform[name] for name in ("mean", "std") if name in transform}
    return {
        name: values[:1] if len(set(values)) == 1 else values for name, values in stated.items()
    }


def _changed(spec: PreprocessSpec, changes: Mapping[str, Any]) -> PreprocessSpec:
    """Change the resizing; the statistics of each channel follow when the image mode is known."""
    apart = ("mean", "std", "image_mode")
    changes = {name: value for name, value in changes.items() if name not in apart}
    if "crop_pct" in changes:
        changes["resize_size"] = None  # one or the other
    return replace(spec, **changes)


def _transformed(spec: PreprocessSpec, stated: Mapping[str, Any]) -> PreprocessSpec:
    """Change a spec as the training stated its transform."""
    changes = dict(stated)
    if spec.flavour == "original" and spec.crop_pct is None:
        changes.pop("crop_pct", None)  # which it does not look at, for small pictures
    if "resize_size" in changes and "crop_pct" not in changes:
        usual = math.floor(max(spec.image_size) / (spec.crop_pct or 1))
        if changes["resize_size"] == (usual, usual):
            del changes["resize_size"]
        else:
            spec = replace(spec, crop_pct=None)
    return _changed(spec, changes)


def _scaled(spec: PreprocessSpec, size: tuple[int, int]) -> PreprocessSpec:
    """Scale a spec to pictures of another size: what is cut off stays the same part."""
    if spec.image_size == size:
        return spec
    resized = spec.resize_size
    if resized is not None:
        pairs = zip(resized, size, spec.image_size, strict=True)
        resized = tuple(side * new // old for side, new, old in pairs)  # type: ignore[assignment]
    return replace(spec, image_size=size, resize_size=resized)


def _defaults_in_words(spec: PreprocessSpec, stated: Collection[str]) -> tuple[str, ...]:
    """Write the flavour's defaults that nothing has replaced."""
    words = {
        "interpolation": spec.interpolation,
        "crop_pct": spec.resizing,
        "mean": f"mean {_numbers(spec.mean)}",
        "std": f"std {_numbers(spec.std)}",
    }
    replaced = {"crop_pct" if name == "resize_size" else name for name in stated}
    left = [text for name, text in words.items() if name not in replaced]
    return (f"preprocessing: the defaults of {spec.flavour} ({', '.join(left)})",) if left else ()


def _numbers(values: tuple[float, ...]) -> str:
    return "/".join(f"{value:g}" for value in values)


@contextmanager
def _stated_by(name: str, advice: str = "") -> Iterator[None]:
    """Name the place that states a setting in errors about it."""
    try:
        yield
    except ConfigError as error:
        raise ConfigError(f"{name}: {error}{advice}") from error
