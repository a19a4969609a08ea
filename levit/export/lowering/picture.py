"""The input of a program."""

from __future__ import annotations

from levit.export.interface import input_spec
from levit.models.model import Model
from levit.native.program import Input

__all__ = ["input_of"]


def input_of(model: Model) -> Input:
    """The batch that a model takes, and the normalisation that is left to do of uint8 pixels."""
    spec = input_spec(model, None)
    scale: tuple[float, ...] | None = None
    shift: tuple[float, ...] | None = None
    if model.plan.pixels is not None:
        # (x/255 - mean) / std, or what is left of it: x - 255·mean.
        mean, std = model.plan.pixels
        scale = tuple(1.0 if model.plan.pixels_folded else 1 / (255 * s) for s in std)
        shift = tuple(-255 * m * s for m, s in zip(mean, scale, strict=True))
    height, width = model.config.image_size
    return Input(
        name=spec.name,
        dtype=spec.dtype,
        channels=model.config.in_channels,
        height=height,
        width=width,
        scale=scale,
        shift=shift,
    )
