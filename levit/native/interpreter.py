"""Meaning of each step, in NumPy and on the values alone: no offsets, no strides, no borders.

The kernels are tested against it, and it against the models.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, Final

import numpy as np
from numpy.typing import DTypeLike, NDArray

from levit.native import program as p

__all__ = ["ACTIVATIONS", "interpret"]

Array = NDArray[Any]


def _gelu(x: Array) -> Array:
    from scipy.special import erf

    y: Array = x * (1 + erf(x / math.sqrt(2))) / 2
    return y


ACTIVATIONS: Final[Mapping[str | None, Callable[[Array], Array]]] = {
    None: lambda x: x,
    "hard_swish": lambda x: x * np.clip(x + 3, 0, 6) / 6,
    "silu": lambda x: x * np.exp(-np.logaddexp(0, -x)),
    "gelu": _gelu,
}


def interpret(
    program: p.Program, arrays: Mapping[str, Array], batch: Array, dtype: DTypeLike = np.float64
) -> dict[str, Array]:
    """Run a program: (B, C, H, W) float32, or (B, H, W, C) uint8 → outputs by name."""
    weights: dict[str | None, Array] = {None: np.zeros((), dtype)}  # no bias, no table
    weights |= {name: np.asarray(array, dtype) for name, array in arrays.items()}
    values: dict[int | None, Array] = {None: _input(program.input, batch, dtype)}
    outputs: dict[str, Array] = {}
    for step in program.steps:
        if isinstance(step, p.Output):
            y = values[step.source].swapaxes(1, 2) if step.transposed else values[step.source]
            outputs[step.name] = y.reshape(-1, *step.shape)
            continue
        activate = ACTIVATIONS[getattr(step, "activation", None)]
        match step:
            case p.Conv():
                y = activate(
                    _convolved(values[step.source], weights[step.weight]) + weights[step.bias]
                )
                if program.buffers[step.target].grid is None:
                    y = y.reshape(len(y), -1, y.shape[-1])  # (B, h · w, O)
            case p.Linear():
                y = activate(values[step.source] @ weights[step.weight].T + weights[step.bias])
                y = y if step.residual is None else y + values[step.residual]
            case p.Project():
                x = values[step.source]
                y = np.concatenate([_part(x, weights, part, step.heads) for part in step.parts], -1)
            case p.Attention():
                views = (step.queries, step.keys, step.values)
                q, k, v = (_of_heads(values[view.buffer], view, step.heads) for view in views)
                scores = q @ k.swapaxes(-1, -2) + weights[step.table]  # (B, H, Nq, N)
                powers = np.exp2(scores - scores.max(-1, keepdims=True))
                y = powers / powers.sum(-1, keepdims=True) @ v  # (B, H, Nq, Dv)
                y = activate(y.swapaxes(1, 2).reshape(len(y), y.shape[2], -1))
            case p.Subsample():
                x = values[step.source]
                y = x.reshape(len(x), *step.grid, -1)[:, :: step.step, :: step.step]
                y = y.reshape(len(x), -1, x.shape[-1])
            case p.Mean():
                y = values[step.source].mean(1, keepdims=True)
        values[step.target] = y  # (B, rows, columns), or (B, h, w, columns) of a grid
    return outputs


def _input(source: p.Input, batch: Array, dtype: DTypeLike) -> Array:
    """(B, H, W, C), normalised."""
    x = batch.astype(dtype)
    if source.dtype == "float32":
        return x.transpose(0, 2, 3, 1)
    y: Array = x * np.asarray(source.scale, dtype) + np.asarray(source.shift, dtype)
    return y


def _convolved(x: Array, weight: Array) -> Array:
    """3×3, stride 2, a border of zeros: (B, h, w, I) → (B, h/2, w/2, O)."""
    height, width = x.shape[1:3]
    x = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    taps = [(i, j) for i in range(3) for j in range(3)]
    rows = [x[:, i : i + height : 2, j : j + width : 2] @ weight[:, :, i, j].T for i, j in taps]
    y: Array = np.sum(rows, axis=0)
    return y


def _part(x: Array, weights: Mapping[str | None, Array], part: p.Part, heads: int) -> Array:
    """One part of a projection, each head filled up with zeros: (B, N, H · padded)."""
    y = (x @ weights[part.weight].T + weights[part.bias]).reshape(*x.shape[:2], heads, -1)
    y = np.pad(y, ((0, 0), (0, 0), (0, 0), (0, p.padded(part.width) - part.width)))
    return y.reshape(*x.shape[:2], -1)


def _of_heads(x: Array, view: p.View, heads: int) -> Array:
    """(B, N, columns) → (B, H, N, width)."""
    x = x[..., view.column : view.column + heads * p.padded(view.width)]
    return x.reshape(*x.shape[:2], heads, -1)[..., : view.width].swapaxes(1, 2)
