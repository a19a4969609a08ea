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
    values: dict[int | None, Array] = {}  # (B, rows, columns), or (B, h, w, C) of a grid
    outputs = {}
    x = batch.astype(dtype) if program.input.dtype == "uint8" else batch.transpose(0, 2, 3, 1)
    if program.input.scale is not None and program.input.shift is not None:
        x = x * np.asarray(program.input.scale, dtype) + np.asarray(program.input.shift, dtype)
    values[None] = x.astype(dtype)  # (B, H, W, C)
    for s in program.steps:
        match s:
            case p.Conv():
                taps, x = (
                    weights[s.weight],
                    np.pad(values[s.source], ((0, 0), (1, 1), (1, 1), (0, 0))),
                )
                h, w = x.shape[1] - 2, x.shape[2] - 2
                y = sum(
                    x[:, i : i + h : 2, j : j + w : 2] @ taps[:, :, i, j].T
                    for i in range(3)
                    for j in range(3)
                )
                y = ACTIVATIONS[s.activation](y + weights[s.bias])  # (B, h/2, w/2, O)
                on_grid = program.buffers[s.target].grid is not None
                values[s.target] = y if on_grid else y.reshape(len(y), -1, y.shape[-1])
            case p.Linear():
                y = ACTIVATIONS[s.activation](
                    values[s.source] @ weights[s.weight].T + weights[s.bias]
                )
                values[s.target] = y if s.residual is None else y + values[s.residual]
            case p.Project():
                values[s.target] = np.concatenate(
                    [_part(values[s.source], weights, part, s.heads) for part in s.parts], axis=-1
                )
            case p.Attention():
                q, k, v = (_heads(values, v, s.heads) for v in (s.queries, s.keys, s.values))
                scores = q @ k.swapaxes(-1, -2) + weights[s.table]  # (B, H, Nq, N)
                powers = np.exp2(scores - scores.max(axis=-1, keepdims=True))
                y = powers / powers.sum(axis=-1, keepdims=True) @ v  # (B, H, Nq, Dv)
                y = y.swapaxes(1, 2)
                values[s.target] = ACTIVATIONS[s.activation](y.reshape(*y.shape[:2], -1))
            case p.Subsample():
                x = values[s.source]
                y = x.reshape(len(x), *s.grid, -1)[:, :: s.step, :: s.step]
                values[s.target] = y.reshape(len(x), -1, x.shape[-1])
            case p.Mean():
                values[s.target] = values[s.source].mean(axis=1, keepdims=True)
            case p.Output():
                y = values[s.source].swapaxes(1, 2) if s.transposed else values[s.source]
                outputs[s.name] = y.reshape(-1, *s.shape)
    return outputs


def _part(x: Array, weights: Mapping[str | None, Array], part: p.Part, heads: int) -> Array:
    """One part of a projection, each head filled up with zeros: (B, N, H · padded)."""
    y = x @ weights[part.weight].T + weights[part.bias]
    y = y.reshape(*x.shape[:2], heads, part.width)
    y = np.pad(y, ((0, 0), (0, 0), (0, 0), (0, p.padded(part.width) - part.width)))
    return y.reshape(*x.shape[:2], -1)


def _heads(values: Mapping[int | None, Array], view: p.View, heads: int) -> Array:
    """(B, N, columns) → (B, H, N, width)."""
    x, stride = values[view.buffer], p.padded(view.width)
    x = x[..., view.column : view.column + heads * stride]
    return x.reshape(*x.shape[:2], heads, stride)[..., : view.width].swapaxes(1, 2)
