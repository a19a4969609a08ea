"""Outputs and labels of an artifact: from the options, the source, or defaults."""

from __future__ import annotations

from importlib import resources
from pathlib import Path, PurePath

from levit.errors import ConfigError
from levit.export.labels import read_labels
from levit.export.options import ExportOptions
from levit.export.sources import Source
from levit.json_values import shown
from levit.models.model import Model

__all__ = ["choose_labels", "choose_outputs", "imagenet_labels"]


def choose_outputs(options: ExportOptions, model: Model) -> tuple[str, ...]:
    """Take the outputs that the options name, or the model's first.

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


def choose_labels(
    options: ExportOptions, source: Source
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Choose the class names, and say what had to be assumed, in words.

    They are those given, those beside the checkpoint, ImageNet's where there are 1000 classes,
    or the indices.

    ::

        labels, assumed = choose_labels(options, load_source(options))

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
    """Read the 1000 classes of ILSVRC 2012, by WordNet number: all lemmas of each."""
    text = (resources.files("levit") / "data" / "imagenet_1k.txt").read_text(encoding="utf-8")
    return tuple(text.splitlines())
