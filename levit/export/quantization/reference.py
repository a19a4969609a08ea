"""Reference of an int8 artifact in plain NumPy, whose answers its golden cases hold."""

from __future__ import annotations

import numpy as np
from numpy.typing import DTypeLike

from levit.export.grids import LayerGrids, Quantization
from levit.models.ops import Array, NumpyOps

__all__ = ["QuantizedOps"]


class QuantizedOps(NumpyOps):
    """`NumpyOps` that round to the grids of a description.

    Weights are on theirs already: `levit.export.quantization.weights` has rounded the model's.
    """

    def __init__(self, quantization: Quantization, dtype: DTypeLike = np.float64) -> None:
        super().__init__(dtype)
        self._layers = quantization.layers

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
        return _result(grids, super().conv(rounded, weight, bias, stride, padding))


def _result(grids: LayerGrids, y: Array) -> Array:
    return y if grids.output is None else grids.output.nearest(y)
