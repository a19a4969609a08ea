"""The form that every reader of this package translates into."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from levit.json_values import listed, number
from levit.models.hints import Hints

__all__ = ["Statement", "colours", "image_size"]


@dataclass(frozen=True, kw_only=True)
class Statement:
    """Statements of one place in a checkpoint.

    Attributes:
        values: as in a ``config.json``, for `hints_from_config`.
        transform, data_preprocessor, class_map: as in `Hints`.
        notes: what could not be read, in words.
    """

    values: Mapping[str, Any] = field(default_factory=dict)
    transform: Mapping[str, Any] = field(default_factory=dict)
    data_preprocessor: Mapping[str, Any] = field(default_factory=dict)
    class_map: str | None = None
    notes: tuple[str, ...] = ()

    def added_to(self, hints: Hints) -> Hints:
        """Return the hints of `values` with all the rest."""
        return replace(
            hints,
            transform=self.transform,
            data_preprocessor=self.data_preprocessor,
            class_map=self.class_map,
        )


def colours(value: Any, name: str, channels: int) -> tuple[float, ...]:
    """Read numbers for each channel; one of them is for all, as in timm.

    Raises:
        TypeError, ValueError: they are no numbers, or not as many as channels.
    """
    entries = [value] if isinstance(value, (int, float)) else listed(value, name)
    numbers = tuple(number(entry, name) for entry in entries)
    numbers = numbers * channels if len(numbers) == 1 else numbers
    if len(numbers) != channels:
        raise ValueError(f"{name}: {len(numbers)} values for {channels} channels")
    return numbers


def image_size(value: Any, name: str) -> tuple[int | None, Any]:
    """Split an input size into (channels, image size): N, [H, W], or timm's [C, H, W].

    Raises:
        TypeError: it is no list of two or three.
    """
    if isinstance(value, int):
        return None, value
    sides = listed(value, name)
    if len(sides) == 3:
        return sides[0], list(sides[1:])
    if len(sides) != 2:
        raise TypeError(f"{name}: expected one, two or three numbers")
    return None, list(sides)
