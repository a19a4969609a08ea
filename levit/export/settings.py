"""Outputs, preprocessing and labels of an artifact: from the options, the source, or defaults."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from importlib import resources
from pathlib import Path, PurePath
from typing import Any, Final

from levit.errors import ConfigError
from levit.export.channels import checked_mode, choose_image_mode, with_image_mode
from levit.export.flavours import FLAVOURS, is_of_transformers, processor_of, spec_from_json
from levit.export.labels import read_labels
from levit.export.options import ExportOptions
from levit.export.processor_class import with_class
from levit.export.sources import Source
from levit.json_values import shown
from levit.models.hints import Hints, read_config
from levit.models.model import Model
from levit.pictures.preprocess import PreprocessSpec

__all__ = ["choose_labels", "choose_outputs", "choose_preprocess", "settings_for"]

_FILE: Final = "preprocessor_config.json"


def choose_outputs(options: ExportOptions, model: Model) -> tuple[str, ...]:
    """The outputs that the options name, or the model's first.

    Raises:
        ConfigError: the model has no such output, or one is named twice.
    """
    possible = model.family.outputs(model.config)
    if options.outputs is None:
        return possible[:1]
    outputs = tuple(options.outputs)
    odd = [name for name in outputs if name not in possible]
    if odd:
        raise ConfigError(
            f"this model has no output {', '.join(map(repr, odd))}; it has {', '.join(possible)}"
        )
    if not outputs or len(set(outputs)) != len(outputs):
        raise ConfigError("outputs must be named once each, and at least one")
    return outputs


def choose_preprocess(
    options: ExportOptions, source: Source
) -> tuple[PreprocessSpec | None, tuple[str, ...]]:
    """The preprocessing spec, and what had to be assumed, in words.

    Raises:
        ConfigError: an unknown flavour, a bad file, or an override out of range.
    """
    config, hints = source.model.config, source.hints
    stated_mode = options.image_mode or hints.transform.get("image_mode")
    with _said_by("--image-mode" if options.image_mode else hints.origin("transform")):
        mode = choose_image_mode(stated_mode, config.in_channels)
    if mode is None:
        said = (options.preprocess, options.mean, options.std, options.crop_pct)
        if any(value is not None for value in (*said, options.interpolation)):
            rgba = ", or say that they are pictures with --image-mode RGBA"
            raise ConfigError(
                f"a model of {config.in_channels} channels takes tensors, not images: leave out "
                f"the preprocessing{rgba if config.in_channels == 4 else ''}"
            )
        return None, ()
    name = None if options.preprocess is None else str(options.preprocess)
    assumed: tuple[str, ...] = ()
    flags = _flags(options)
    mean, std = options.mean, options.std
    if name is None or name in FLAVOURS:
        spec, assumed = _checkpoints_own(source, name, flags)
        if spec.flavour == source.keymap.source:
            mean, std = (flags.get(key, hints.transform.get(key)) for key in ("mean", "std"))
    elif name.endswith(".json"):
        values: Mapping[str, Any] = read_config(Path(name))
        if is_of_transformers(values):
            values, assumed = with_class(processor_of(values), source.hints, name)
        with _said_by(name):
            spec = spec_from_json(values, config.image_size)
        if options.image_mode is None and spec.image_mode != "RGB":
            mode = stated_mode = checked_mode(spec.image_mode, config.in_channels)
    else:
        raise ConfigError(
            f"unknown preprocessing {name!r}: name a flavour ({', '.join(FLAVOURS)}) or a "
            f".json file"
        )
    changes = {key: value for key, value in flags.items() if key not in ("mean", "std")}
    if "crop_pct" in changes:
        changes["resize_size"] = None  # one or the other
    spec = replace(spec, **changes)
    grey: tuple[str, ...] = ()
    if stated_mode is None and mode != spec.image_mode:
        grey = (f"image mode {mode}: the model has {config.in_channels} channel",)
    spec, averaged = with_image_mode(spec, mode, mean, std)
    defaulted = name is None and not settings_for(source.keymap.source, hints)[1]
    if defaulted:
        stated = {**hints.transform, **flags}
        if "resize_size" in stated:
            stated["crop_pct"] = None
        assumed = (*assumed, *_assumed(spec, stated))
    return spec, (*assumed, *grey, *averaged)


def _flags(options: ExportOptions) -> dict[str, Any]:
    """Settings that the options state."""
    said: dict[str, Any] = {
        "mean": None if options.mean is None else tuple(map(float, options.mean)),
        "std": None if options.std is None else tuple(map(float, options.std)),
        "crop_pct": options.crop_pct,
        "interpolation": options.interpolation,
    }
    return {name: value for name, value in said.items() if value is not None}


def _checkpoints_own(
    source: Source, name: str | None, flags: Mapping[str, Any]
) -> tuple[PreprocessSpec, tuple[str, ...]]:
    """What the checkpoint and the files beside it say, in a flavour of this name or its own."""
    flavour = name or source.keymap.source
    origin, beside = settings_for(flavour, source.hints)
    assumed: tuple[str, ...] = ()
    if flavour == "transformers" and beside:
        beside, assumed = with_class(beside, source.hints, origin)
    size = source.trained_size  # for which all of it is meant
    with _said_by(origin, "; correct it, or pass another with --preprocess"):
        trained = replace(source.model.config, image_size=size)
        defaults = source.model.family.preprocessing(trained, flavour)
        spec = FLAVOURS[flavour](size, beside or defaults)
    if flavour == source.keymap.source:
        said = {key: v for key, v in source.hints.transform.items() if key not in flags}
        with _said_by(
            source.hints.origin("transform"),
            "; correct it, or pass --mean, --std, --crop-pct or --interpolation",
        ):
            spec = _transformed(spec, said)
    return _scaled(spec, source.model.config.image_size), assumed


def _transformed(spec: PreprocessSpec, said: Mapping[str, Any]) -> PreprocessSpec:
    """The same with what the training said of its transform."""
    # Those of each channel follow when the image mode is known.
    apart = ("mean", "std", "image_mode")
    changes = {name: value for name, value in said.items() if name not in apart}
    if spec.flavour == "original" and spec.crop_pct is None:
        changes.pop("crop_pct", None)  # which it does not look at, for small pictures
    if "crop_pct" in changes:
        changes["resize_size"] = None
    elif "resize_size" in changes:
        usual = math.floor(max(spec.image_size) / (spec.crop_pct or 1))
        if changes["resize_size"] == (usual, usual):
            del changes["resize_size"]
        else:
            changes["crop_pct"] = None
    return replace(spec, **changes)


def _scaled(spec: PreprocessSpec, size: tuple[int, int]) -> PreprocessSpec:
    """The same for pictures of another size: what is cut off stays the same part."""
    if spec.image_size == size:
        return spec
    resized = spec.resize_size
    if resized is not None:
        pairs = zip(resized, size, spec.image_size, strict=True)
        resized = tuple(side * new // old for side, new, old in pairs)  # type: ignore[assignment]
    return replace(spec, image_size=size, resize_size=resized)


def _assumed(spec: PreprocessSpec, said: Collection[str]) -> tuple[str, ...]:
    """The flavour's defaults that the options have not replaced, in words."""
    words = {
        "interpolation": spec.interpolation,
        "crop_pct": spec.resizing,
        "mean": f"mean {_numbers(spec.mean)}",
        "std": f"std {_numbers(spec.std)}",
    }
    left = [text for name, text in words.items() if name not in said]
    return (f"preprocessing: the defaults of {spec.flavour} ({', '.join(left)})",) if left else ()


def settings_for(flavour: str, hints: Hints) -> tuple[str, Mapping[str, Any]]:
    """(what they are called, settings) beside the checkpoint that `flavour`'s library wrote."""
    if flavour == "timm":
        return "pretrained_cfg", hints.pretrained_cfg
    if flavour == "transformers":
        return hints.origins.get("preprocessor_config", _FILE), hints.preprocessor_config
    if flavour == "mmpretrain":
        origin = hints.origins.get("data_preprocessor")
        name = "data_preprocessor" + (f" of {origin}" if origin else "")
        return name, hints.data_preprocessor
    return flavour, {}  # facebookresearch keeps them in code


@contextmanager
def _said_by(name: str, advice: str = "") -> Iterator[None]:
    try:
        yield
    except ConfigError as error:
        raise ConfigError(f"{name}: {error}{advice}") from error


def _numbers(values: tuple[float, ...]) -> str:
    return "/".join(f"{value:g}" for value in values)


def choose_labels(
    options: ExportOptions, source: Source
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Class names, and what had to be assumed, in words.

    They are those given, those beside the checkpoint, ImageNet's where there are 1000 classes,
    or the indices.

    Raises:
        ConfigError: there is not exactly one for each class; one logit may have two, of the class
            below a half and of the one above.
    """
    classes = source.model.config.num_classes
    if options.labels is None:
        labels = source.hints.label_names
        origin = f"the class names in {source.hints.origin('label_names')}"
        if not classes:
            return (), ()
        class_map = source.hints.class_map
        if labels is None and classes == 1000 and class_map is None:
            return imagenet_labels(), ("labels: ImageNet-1k's, because there are 1000 classes",)
        if labels is None:
            text = "labels: the indices of the classes"
            if class_map is not None:
                text += f"; the training's names are in {shown(PurePath(class_map).name)}"
            return tuple(map(str, range(classes))), (text,)
    elif isinstance(options.labels, (list, tuple)):
        labels, origin = tuple(map(str, options.labels)), "labels"
    else:
        origin = str(options.labels)
        labels = read_labels(Path(origin))
    if len(labels) != classes and (classes, len(labels)) != (1, 2):
        raise ConfigError(f"{origin}: {len(labels)} names for {classes} classes")
    if any(not label or set(label) & set("\n\r\0") or not _is_utf8(label) for label in labels):
        raise ConfigError(f"{origin}: a name is empty, holds a line break, or is no text")
    return labels, ()


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def imagenet_labels() -> tuple[str, ...]:
    """The 1000 classes of ILSVRC 2012 in the order of their WordNet numbers: all their lemmas."""
    text = (resources.files("levit") / "data" / "imagenet_1k.txt").read_text(encoding="utf-8")
    return tuple(text.splitlines())
