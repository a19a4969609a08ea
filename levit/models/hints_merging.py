"""Hints of several places about one model: merged where they agree, or one above the other."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from levit.json_values import shown
from levit.models.hints import (
    Hints,
    argument_names,
    bare_name,
    is_transformers_config,
    model_arguments,
)

__all__ = ["agreed", "overruled", "without_conflicts"]

# Settings of the transform that timm's pretrained_cfg states too.
_TRANSFORM: Final = ("mean", "std", "crop_pct", "crop_mode", "interpolation")
# Size of the pictures of the weights that training began with: it may be another than the model's.
_NEVER_COMPARED: Final = ("input_size", "arguments")
# Of transformers' processors.
_PROCESSOR: Final = {"mean": "image_mean", "std": "image_std"}
# Names among the arguments that are fields of `Hints` too.
_READ_AS_FIELDS: Final = (
    *("img_size", "in_chans", "num_classes", "act_layer", "attn_act_layer"),
    *("architecture", "label_names", "labels", "pretrained_cfg", "model_args", "problem_type"),
)
_FLAGS: Final = {
    **{"label_names": "--labels", "architecture": "--model", "scores": "--scores"},
    **{"image_size": "--image-size", "mean": "--mean", "std": "--std", "crop_pct": "--crop-pct"},
    **{"interpolation": "--interpolation"},
}


def agreed(one: Hints, other: Hints) -> Hints:
    """Take the answers of two places of equal rank, such as a file and the config beside it.

    ::

        hints = agreed(hints_from_file(said, "a.pth")[0], hints_from_config(values, "config.json"))

    Returns:
        All answers of both, with their origins. Where they contradict each other, the first's, and
        a line among `Hints.conflicts`.
    """
    conflicts = {**one.conflicts, **other.conflicts}
    for name, first, second in _both(one, other):
        if _plain(name, first.value) != _plain(name, second.value):
            conflicts[name] = _conflict(name, first, second)
    merged = {**other.stated, **one.stated}
    for name in one.stated.keys() & other.stated.keys():
        if isinstance(merged[name], Mapping):
            merged[name] = {**getattr(other, name), **merged[name]}
    if one.arguments and other.arguments:
        merged["arguments"] = _merged_arguments(other.arguments, one.arguments)
    return replace(
        Hints(),
        **merged,
        origins={**other.origins, **one.origins},
        argument_origins={**other.argument_origins, **one.argument_origins},
        conflicts=conflicts,
    )


@dataclass(frozen=True, kw_only=True)
class _Answer:
    """A value, and the place that states it."""

    value: Any
    origin: str


def _both(one: Hints, other: Hints) -> Iterator[tuple[str, _Answer, _Answer]]:
    """(setting, of one, of the other) wherever both state it."""
    first, second = _settings(one), _settings(other)
    for name in first:
        if name in second:
            yield name, first[name], second[name]


def _settings(hints: Hints) -> dict[str, _Answer]:
    """Every setting that can be compared."""
    found = {
        name: _Answer(value=value, origin=hints.origin(name))
        for name, value in hints.stated.items()
        if name not in _NEVER_COMPARED and not isinstance(value, Mapping)
    }
    for field in ("preprocessor_config", "pretrained_cfg", "transform"):  # the last overrules
        for name in _TRANSFORM:
            key = _PROCESSOR.get(name, "") if field == "preprocessor_config" else name
            value = getattr(hints, field).get(key)
            if value is not None:
                found[name] = _Answer(value=value, origin=hints.origin(field))
    if hints.model_type is None:  # transformers' have names of their own
        for name, value in model_arguments(hints.arguments or {}).items():
            if name not in (*_READ_AS_FIELDS, *_TRANSFORM):
                origin = hints.argument_origins.get(name, hints.arguments_from)
                found.setdefault(name, _Answer(value=value, origin=origin))
    return found


def overruled(hints: Hints, by: Hints) -> Hints:
    """Take the answers of `by`, and those of `hints` to what it leaves open.

    ::

        hints = overruled(hints, hints_from_config(values, "--config model.json"))
    """
    stated = dict(by.stated)
    if hints.arguments and by.arguments:
        stated["arguments"] = _merged_arguments(hints.arguments, by.arguments)
    # A pretrained_cfg that the user gives stands above what the training was told.
    kept = {name: v for name, v in hints.transform.items() if name not in by.pretrained_cfg}
    conflicts = {
        name: line
        for name, line in hints.conflicts.items()
        if name not in {*by.stated, *by.pretrained_cfg, *argument_names(by.arguments or {})}
    }
    arguments = dict(hints.argument_origins)
    if by.model_type is not None:  # its arguments replace all others
        arguments = {}
    merged = replace(hints, transform=kept, conflicts=conflicts)
    return replace(
        merged,
        **stated,
        origins={**hints.origins, **by.origins},
        argument_origins={**arguments, **by.argument_origins},
    )


def without_conflicts(hints: Hints, names: set[str]) -> Hints:
    """Drop the conflicts about settings that flags decide."""
    left = {name: line for name, line in hints.conflicts.items() if name not in names}
    return replace(hints, conflicts=left)


def _merged_arguments(base: Mapping[str, Any], over: Mapping[str, Any]) -> Mapping[str, Any]:
    """Merge the arguments of two configs of timm; transformers' have names of their own."""
    if is_transformers_config(over):
        return over
    if is_transformers_config(base):
        return {**base, **over}
    merged = {**model_arguments(base), **model_arguments(over)}
    merged.pop("model_args", None)
    return merged


def _plain(name: str, value: Any) -> Any:
    """The form in which two places can be compared."""
    if name == "architecture":
        return bare_name(str(value))
    if isinstance(value, (list, tuple)):
        return tuple(value)
    if name in _PROCESSOR and isinstance(value, (int, float)):
        return (value,) * 3
    return value


def _conflict(name: str, first: _Answer, second: _Answer) -> str:
    flag = _FLAGS.get(name, "--config FILE.json")
    return (
        f"{first.origin} says {name} {shown(first.value)}, {second.origin} says "
        f"{shown(second.value)}: say which with {flag}"
    )
