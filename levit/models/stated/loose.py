"""Settings under the names that people give them: Lightning's ``hyper_parameters``, and entries
beside ``state_dict`` in the files of everybody's own training scripts.

Nobody defines these names, so only those are read that mean one thing, and a value that another
meaning would have is passed over.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

from levit.json_values import shown, whole
from levit.models.hints import bare_name
from levit.models.stated.statement import Statement, colours, image_size

__all__ = ["read_loose"]

_CLASSES: Final = ("num_classes", "n_classes", "nb_classes", "num_labels")
_CHANNELS: Final = ("in_chans", "in_channels", "num_channels")
_SIZES: Final = ("img_size", "image_size")
_MODELS: Final = ("arch", "architecture", "model_name", "model", "backbone")
_NAMES: Final = ("class_names", "classes", "label_names")
_BY_INDEX: Final = ("id2label", "idx_to_class")
_BY_NAME: Final = ("class_to_idx", "label2id")
# Arguments of timm's models by which two networks differ under the same tensors.
_OF_TIMM: Final = {
    **{"global_pool": str, "act_layer": str, "attn_act_layer": str},
    **{"fc_norm": bool, "no_embed_class": bool},
}
_TABLES: Final = ("model_kwargs", "model_args")
# A family and more: timm's `arch` without arguments is the name of a class, such as "levit".
_MODEL_NAME: Final = re.compile(r"(.*/)?(levit|deit3?|convit|vit)[-_]\w.*", re.IGNORECASE)


def read_loose(values: Mapping[str, Any]) -> Statement:
    """Translate a dict of settings.

    ::

        read_loose({"num_classes": 2, "class_to_idx": {"cat": 0, "dog": 1}, "lr": 1e-3})

    Raises:
        TypeError, ValueError: a number of classes, a size or a mean is not what it should be.
    """
    found: dict[str, Any] = {}
    arguments: dict[str, Any] = {
        key: values[key] for key, kind in _OF_TIMM.items() if isinstance(values.get(key), kind)
    }
    for key in _TABLES:
        if isinstance(values.get(key), Mapping):
            arguments |= values[key]
    for key in _first(values, _CLASSES):
        found["num_classes"] = whole(values[key], key, least=0)
    for key in _first(values, _CHANNELS):
        arguments.setdefault("in_chans", whole(values[key], key, least=1))
    for key in _first(values, _SIZES):
        channels, size = image_size(values[key], key)
        arguments.setdefault("img_size", size)
        if channels is not None:
            arguments.setdefault("in_chans", channels)
    for key in _MODELS:
        name = values.get(key)
        if isinstance(name, str) and _MODEL_NAME.fullmatch(name):
            found["architecture"] = bare_name(name)
            break
    names = _class_names(values)
    if names is not None:
        found["label_names"] = names
    if arguments:
        found["model_args"] = arguments
    channels = arguments.get("in_chans", 3)
    transform = {
        key: colours(values[key], key, channels)
        for key in ("mean", "std")
        if values.get(key) is not None
    }
    return Statement(values=found, transform=transform)


def _first(values: Mapping[str, Any], keys: tuple[str, ...]) -> list[str]:
    """The first of these keys that states something, if any does."""
    return [key for key in keys if values.get(key) is not None][:1]


def _class_names(values: Mapping[str, Any]) -> list[str] | None:
    """Class names in order, from lists of them and tables in either direction.

    Raises:
        ValueError: two of them differ.
    """
    found = dict(_names_by_key(values))
    (first, names), *others = found.items() if found else [("", None)]
    for key, other in others:
        if other != names:
            raise ValueError(
                f"{first} {shown(names)} and {key} {shown(other)} contradict each other"
            )
    return names


def _names_by_key(values: Mapping[str, Any]) -> Iterator[tuple[str, list[str]]]:
    """(key, class names in order) wherever they stand."""
    for key in _NAMES:
        names = values.get(key)
        if isinstance(names, (list, tuple)) and names and all(isinstance(n, str) for n in names):
            yield key, list(names)
    for key in (*_BY_INDEX, *_BY_NAME):
        table = values.get(key)
        if not isinstance(table, Mapping) or not table:
            continue
        pairs = table.items() if key in _BY_INDEX else ((i, name) for name, i in table.items())
        by_index = {str(index): name for index, name in pairs}
        names = [by_index.get(str(index)) for index in range(len(table))]
        if all(isinstance(name, str) for name in names):
            yield key, names
