"""Layers scaled and moved behind norms: the steps that several passes are made of."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, TypeVar

import numpy as np

from levit.models.layers import Affine, LayerNorm, Linear
from levit.models.model import Model
from levit.models.ops import Array

__all__ = ["bare", "behind", "has_affine", "scaled_columns", "scaled_rows", "with_params"]

_Affine = TypeVar("_Affine", bound=Affine)
_Linear = TypeVar("_Linear", bound=Linear)


def with_params(model: Model, params: Any, count: int) -> tuple[Model, int]:
    """The result of a pass: the model with `params`, or the one it was given where none fired."""
    return (replace(model, params=params), count) if count else (model, 0)


def scaled_rows(layer: _Affine, factor: Array | float) -> _Affine:
    """The layer whose results are times `factor` (O,), in float64."""
    factors = np.broadcast_to(np.asarray(factor, np.float64), len(layer.weight))
    shape = (-1,) + (1,) * (layer.weight.ndim - 1)
    bias = None if layer.bias is None else layer.bias * factors
    return replace(layer, weight=layer.weight * factors.reshape(shape), bias=bias)


def scaled_columns(layer: _Affine, factor: Array | float) -> _Affine:
    """The layer on an input that is ``1 / factor`` (I,) of what it was, in float64."""
    factors = np.broadcast_to(np.asarray(factor, np.float64), layer.weight.shape[1])
    shape = (1, -1) + (1,) * (layer.weight.ndim - 2)
    return replace(layer, weight=layer.weight * factors.reshape(shape))


def has_affine(*norms: LayerNorm) -> bool:
    """Return True if each norm has a scale and shift to fold."""
    return all(norm.weight is not None and norm.bias is not None for norm in norms)


def bare(norm: LayerNorm) -> LayerNorm:
    """The norm without its scale and shift."""
    return replace(norm, weight=None, bias=None)


def behind(norm: LayerNorm, linear: _Linear) -> _Linear:
    """The Linear that reads the norm without its scale and shift."""
    assert norm.weight is not None
    assert norm.bias is not None
    weight = linear.weight.astype(np.float64)
    bias = weight @ norm.bias
    bias = bias if linear.bias is None else bias + linear.bias
    return replace(linear, weight=weight * norm.weight, bias=bias)
