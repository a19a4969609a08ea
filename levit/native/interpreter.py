"""Meaning of each step, in NumPy and on the values alone: no offsets, no strides, no borders.

The kernels are tested against it, and it against the models. What reads float32 or bfloat16 is
computed in a dtype of the caller's choice, and kernels are so far from it as sums in another order
are. What reads bytes means one thing to the last bit: `levit.native.integers`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, Final

import numpy as np
from numpy.typing import DTypeLike, NDArray

from levit.native import integers
from levit.native import program as p
from levit.native.lifetimes import targets

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
    "tanh": np.tanh,
}


def interpret(
    program: p.Program, arrays: Mapping[str, Array], batch: Array, dtype: DTypeLike = np.float64
) -> dict[str, Array]:
    """Run a program: (B, C, H, W) float32, or (B, H, W, C) uint8 → outputs by name.

    Args:
        arrays: of bfloat16 the bits, as uint16.
        dtype: of the arithmetic on floats, whichever they are, and of the outputs.
    """
    weights = _Weights(arrays, dtype)
    values: dict[int | None, Array] = {None: _input(program.input, batch, dtype)}
    outputs: dict[str, Array] = {}
    for step in program.steps:
        if isinstance(step, p.Output):
            y = values[step.source].swapaxes(1, 2) if step.transposed else values[step.source]
            outputs[step.name] = y.reshape(-1, *step.shape)
            continue
        match step:
            case p.Conv():
                numbers, border = _outside(program, step.source)
                x = _windows(values[step.source], border)
                y = _activated(weights.product(x, numbers, step), numbers, step.activation)
                if program.buffers[step.target].grid is None:
                    y = y.reshape(len(y), -1, y.shape[-1])  # (B, h · w, O)
            case p.Linear():
                numbers = program.buffers[step.source].numbers
                base = None if step.residual is None else values[step.residual]
                y = weights.product(values[step.source], numbers, step, base)
                y = _activated(y, numbers, step.activation)
            case p.Project():
                numbers = program.buffers[step.source].numbers
                x = values[step.source]
                parts = [(weights.product(x, numbers, part), part.width) for part in step.parts]
                y = np.concatenate([_in_blocks(*part, step.heads) for part in parts], -1)
            case p.Attention():
                numbers = program.buffers[step.queries.buffer].numbers
                views = (step.queries, step.keys, step.values)
                q, k, v = (_of_heads(values[view.buffer], view, step.heads) for view in views)
                y = weights.attention(q, k, v, numbers, step)  # (B, H, Nq, Dv)
                y = y.swapaxes(1, 2).reshape(len(y), y.shape[2], -1)
                y = _activated(y, numbers, step.activation)
            case p.Subsample():
                x = values[step.source]
                y = x.reshape(len(x), *step.grid, -1)[:, :: step.step, :: step.step]
                y = y.reshape(len(x), -1, x.shape[-1])
            case p.Mean():
                x = values[step.source][:, step.first :]
                # One row after another, and no division.
                share = x.dtype.type(1) / x.dtype.type(x.shape[1])
                y = x.cumsum(1, dtype=x.dtype)[:, -1:] * share
            case p.Patches():
                y = _patches(program.input, step, values[None])
            case p.LayerNorm():
                y = weights.norm(values[step.source], step)
            case p.Stack():
                below = None if step.source is None else values[step.source]
                y = weights.stack(step.rows, len(batch), below)
            case p.Rows():
                rows, columns = program.buffers[step.target].rows, values[step.source].shape[2]
                x = values[step.source][:, step.first : step.first + rows * step.together]
                y = x.reshape(len(x), rows, step.together * columns)
        for target in targets(step):  # (B, rows, columns), or (B, h, w, columns) of a grid
            values[target] = _stored(y, program.buffers[target].numbers, dtype)
    return outputs


class _Weights:
    """Products with a program's arrays."""

    def __init__(self, arrays: Mapping[str, Array], dtype: DTypeLike) -> None:
        self._arrays = arrays
        self._dtype = dtype

    def product(
        self,
        x: Array,
        numbers: p.Numbers,
        layer: p.Conv | p.Linear | p.Part,
        base: Array | None = None,
    ) -> Array:
        """``x @ weight.T + bias``, and `base` where there is one: (…, I) → (…, O)."""
        weight = self._arrays[layer.weight]
        if weight.ndim == 4:  # a convolution's, as `_windows` has them
            weight = weight.transpose(0, 2, 3, 1).reshape(len(weight), -1)
        if layer.scale is not None:
            bias = None if layer.bias is None else self._arrays[layer.bias]
            scale = self._arrays[layer.scale]
            return integers.product(x, numbers.zero_point, weight, bias, scale, base)
        y: Array = x @ _floats(weight, self._dtype).T + self._optional(layer.bias)
        return y if base is None else y + base

    def attention(
        self, q: Array, k: Array, v: Array, numbers: p.Numbers, step: p.Attention
    ) -> Array:
        """Softmax to base 2 of ``q @ k.T + table``, times v: (B, H, …) → (B, H, Nq, Dv)."""
        if step.score_scale is not None and step.value_scale is not None:
            scales = self._arrays[step.score_scale], self._arrays[step.value_scale]
            table = self._optional(step.table).astype(np.float32)
            offset = self._optional(step.value_offset).astype(np.float32)
            return integers.attention(q, k, v, scales, table, offset)
        scores = q @ k.swapaxes(-1, -2) + self._optional(step.table)  # (B, H, Nq, N)
        powers = np.exp2(scores - scores.max(-1, keepdims=True))
        total = powers.sum(-1, keepdims=True)
        if step.positions is None:
            y: Array = _stored(powers, numbers, self._dtype) @ v / total
            return y
        rest = 1 if step.rest is None else self._optional(step.rest)[:, None, None]
        mixed = powers / total * rest + self._optional(step.positions)
        y = _stored(mixed, numbers, self._dtype) @ v
        return y

    def norm(self, x: Array, step: p.LayerNorm) -> Array:
        """LayerNorm of (B, N, C)."""
        centred = x - x.mean(-1, keepdims=True)
        y: Array = centred / np.sqrt(np.square(centred).mean(-1, keepdims=True) + step.eps)
        if step.weight is not None:
            y = y * self._optional(step.weight) + self._optional(step.bias)
        return y

    def stack(self, rows: str, batch: int, below: Array | None) -> Array:
        """Rows of an array on top of (B, N, C), or of nothing."""
        above = self._optional(rows)
        y = np.broadcast_to(above, (batch, *above.shape))
        return y if below is None else np.concatenate([y, below], axis=1)

    def _optional(self, name: str | None) -> Array:
        return (
            np.zeros((), self._dtype) if name is None else _floats(self._arrays[name], self._dtype)
        )


def _floats(array: Array, dtype: DTypeLike) -> Array:
    if array.dtype == np.uint16:
        array = (array.astype(np.uint32) << 16).view(np.float32)
    return np.asarray(array, dtype)


def _activated(y: Array, numbers: p.Numbers, name: str | None) -> Array:
    if numbers.dtype != "uint8" or name is None:
        return ACTIVATIONS[name](y)
    if name in ("hard_swish", "gelu"):
        return integers.hard_swish(y) if name == "hard_swish" else integers.gelu(y)
    return ACTIVATIONS[name](y.astype(np.float64)).astype(np.float32)


def _stored(y: Array, numbers: p.Numbers, dtype: DTypeLike) -> Array:
    """Values as a buffer of these numbers keeps them: uint8, or floats."""
    if numbers.dtype == "uint8":
        return y if y.dtype == np.uint8 else integers.to_bytes(y, numbers)
    if numbers.dtype == "bfloat16":
        y = _nearest_bfloat16(y.astype(np.float32))
    return y.astype(dtype)


def _nearest_bfloat16(x: Array) -> Array:
    bits = x.view(np.uint32)
    rounded = (bits + 0x7FFF + (bits >> 16 & 1)) & 0xFFFF0000
    return np.where(np.isnan(x), x, rounded.astype(np.uint32).view(np.float32))


def _input(source: p.Input, batch: Array, dtype: DTypeLike) -> Array:
    """(B, H, W, C), normalised, in the numbers of the first step."""
    if source.border is not None:
        return batch
    kind = np.float32 if source.numbers.dtype == "uint8" else dtype
    x = batch.astype(kind)
    if source.dtype == "float32":
        x = x.transpose(0, 2, 3, 1)
    else:
        x = x * np.asarray(source.scale, kind) + np.asarray(source.shift, kind)
    return _stored(x, source.numbers, dtype)


def _outside(program: p.Program, source: int | None) -> tuple[p.Numbers, Any]:
    """Numbers that a convolution reads, and what is 0 in them, or for each channel."""
    numbers = (program.input if source is None else program.buffers[source]).numbers
    border = program.input.border if source is None else None
    return numbers, numbers.zero_point if border is None else border


def _windows(x: Array, border: Any) -> Array:
    """Windows of 3×3, every second one: (B, h, w, C) → (B, h/2, w/2, 9 · C)."""
    batch, height, width, channels = x.shape
    framed = np.full((batch, height + 1, width + 1, channels), border, x.dtype)
    framed[:, 1:, 1:] = x
    taps = [(i, j) for i in range(3) for j in range(3)]
    return np.concatenate([framed[:, i : i + height : 2, j : j + width : 2] for i, j in taps], -1)


def _patches(source: p.Input, step: p.Patches, x: Array) -> Array:
    """(B, H, W, C) → (B, first + squares, values of a square)."""
    size, (batch, height, width, channels) = step.size, x.shape
    x = x.reshape(batch, height // size, size, width // size, size, channels)
    axes = (0, 1, 3, 5, 2, 4) if source.dtype == "float32" else (0, 1, 3, 2, 4, 5)
    x = x.transpose(axes).reshape(batch, -1, channels * size * size)
    return np.pad(x, ((0, 0), (step.first, 0), (0, 0)))


def _in_blocks(y: Array, width: int, heads: int) -> Array:
    """One part of a projection, each head filled up with zeros: (B, N, H · padded)."""
    by_head = y.reshape(*y.shape[:2], heads, width)
    filled = np.pad(by_head, ((0, 0), (0, 0), (0, 0), (0, p.padded(width) - width)))
    return filled.reshape(*y.shape[:2], -1)


def _of_heads(x: Array, view: p.View, heads: int) -> Array:
    """(B, N, columns) → (B, H, N, width)."""
    x = x[..., view.column : view.column + heads * p.padded(view.width)]
    return x.reshape(*x.shape[:2], heads, -1)[..., : view.width].swapaxes(1, 2)
