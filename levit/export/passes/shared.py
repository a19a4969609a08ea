"""What the passes share: plain Linears, scaled and behind norms."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from levit.models.layers import LayerNorm, Linear
from levit.models.model import Model

__all__ = ["bare", "behind", "is_affine", "is_plain", "scaled", "with_params"]


def with_params(model: Model, params: Any, count: int) -> tuple[Model, int]:
    """What a pass returns: the model with `params`, or where none fired the one it was given."""
    return (replace(model, params=params), count) if count else (model, 0)


def is_plain(linear: Linear) -> bool:
    """Whether no norm stands before or behind it."""
    return linear.norm is None and linear.norm_before is None


def scaled(linear: Linear, factor: float) -> Linear:
    """The Linear times a number, in float64."""
    bias = None if linear.bias is None else linear.bias.astype(np.float64) * factor
    return replace(linear, weight=linear.weight.astype(np.float64) * factor, bias=bias)


def is_affine(*norms: LayerNorm) -> bool:
    """Whether there is something to fold in each."""
    return all(norm.weight is not None and norm.bias is not None for norm in norms)


def bare(norm: LayerNorm) -> LayerNorm:
    """The norm without its scale and shift."""
    return replace(norm, weight=None, bias=None)


def behind(norm: LayerNorm, linear: Linear) -> Linear:
    """The Linear that reads the norm without its scale and shift."""
    assert norm.weight is not None
    assert norm.bias is not None
    weight = linear.weight.astype(np.float64)
    bias = weight @ norm.bias
    return Linear(weight * norm.weight, bias if linear.bias is None else bias + linear.bias)
