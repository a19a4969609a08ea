"""Reference of an int8 artifact in plain NumPy, whose answers its golden cases hold."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import numpy as np
from numpy.typing import DTypeLike

from levit.export.grids import LayerGrids, PixelGrid, Quantization
from levit.models.ops import Array, NumpyOps, Ops

__all__ = ["QuantizedOps"]

# Of a row's most probable key.
_LARGEST: Final = np.float32(255)


class QuantizedOps(NumpyOps):
    """`NumpyOps` that round to the grids of a description.

    Weights are on theirs already: `levit.export.quantization.weights` has rounded the model's.
    """

    def __init__(self, quantization: Quantization, dtype: DTypeLike = np.float64) -> None:
        super().__init__(dtype)
        self._layers = quantization.layers
        self._attentions = quantization.attentions

    def linear(self, x: Array, weight: Array, bias: Array | None) -> Array:
        grids = self._layers.get(self.path)
        if grids is None:
            return super().linear(x, weight, bias)
        return _result(grids, super().linear(grids.input.nearest(x), weight, bias))

    def conv(self, x: Array, weight: Array, bias: Array | None, stride: int, padding: int) -> Array:
        grids = self._layers.get(self.path)
        if grids is None:
            return super().conv(x, weight, bias, stride, padding)
        rounded = grids.input.nearest(x)
        if isinstance(grids.input, PixelGrid) and padding:
            rounded, padding = grids.input.padded(rounded, padding), 0
        return _result(grids, super().conv(rounded, weight, bias, stride, padding))

    def attend(
        self,
        q: Array,
        k: Array,
        v: Array,
        *,
        scale: float | None = None,
        bias: Callable[[Ops], Array] | None = None,
    ) -> Array:
        grids = self._attentions.get(self.path)
        if grids is None:
            return super().attend(q, k, v, scale=scale, bias=bias)
        table = np.float32(0) if bias is None else grids.table(bias(self))
        centred = k - grids.key_offset.reshape(k.shape[2:])  # (B, N, H, Dk)
        scores = _sums(
            _integers(q, grids.queries[:, None]).transpose(0, 2, 1, 3),  # (B, H, Nq, Dk)
            _integers(centred, grids.keys[:, None]).transpose(0, 2, 3, 1),  # (B, H, Dk, N)
        )
        scores = scores * grids.factors(scale)[:, None, None] + table
        p = _probabilities(scores)
        steps, offset = (part.reshape(v.shape[2:]) for part in (grids.values, grids.value_offset))
        y = _sums(p, _integers(v - offset, steps).transpose(0, 2, 1, 3))  # (B, H, Nq, Dv)
        y = y * (1 / p.sum(axis=-1, keepdims=True, dtype=np.float32)) * steps[:, None]
        y = y + offset[:, None]
        result: Array = y.transpose(0, 2, 1, 3).astype(self.dtype)
        return result

    def softmax(self, x: Array) -> Array:
        if self.path in self._attentions:
            raise ValueError(f"{self.path}: attention over channels first has no form of integers")
        return super().softmax(x)


def _integers(x: Array, scale: Array) -> Array:
    """int8 in float64, in which sums of products are exact."""
    result: Array = np.clip(np.rint(x / scale), -128, 127).astype(np.float64)
    return result


def _sums(a: Array, b: Array) -> Array:
    """Products of matrices of integers, as float32: rounded once."""
    result: Array = (a.astype(np.float64) @ np.ascontiguousarray(b)).astype(np.float32)
    return result


def _probabilities(scores: Array) -> Array:
    """Scores to base 2 → integers up to 255, which each row's largest score has; float32."""
    below = (scores - scores.max(axis=-1, keepdims=True)).astype(np.float64)
    result: Array = np.rint(_LARGEST * np.exp2(below).astype(np.float32))
    return result


def _result(grids: LayerGrids, y: Array) -> Array:
    return y if grids.output is None else grids.output.nearest(y)
