"""The operations in the form that OpenVINO's reader leaves as it is."""

from __future__ import annotations

import numpy as np

from levit.export.grids import LayerGrids
from levit.export.onnx.ops import OnnxOps, Value
from levit.models.ops import Array

__all__ = ["OpenvinoOps"]


class OpenvinoOps(OnnxOps):
    """`OnnxOps` with float weights of integer layers, and zero points of Linears in their bias."""

    def linear(self, x: Value, weight: Array, bias: Array | None) -> Value:
        """Emit a Linear whose bias holds the zero point of its integer input.

        OpenVINO takes it from every product otherwise, before the scale, which is not one with the
        product then: three passes over what a Linear makes in place of one. Measured in
        docs/decisions.md. (A convolution's border is zeros, of which its bias knows nothing.)
        """
        grids = self._quantized.get(self.path)
        if grids is not None and grids.input.zero_point:
            more = grids.input.zero_point * grids.input.scale * weight.sum(axis=1, dtype=np.float64)
            bias = -more if bias is None else bias - more
        return super().linear(x, weight, bias)

    def _linear_input(self, x: Value, grids: LayerGrids | None) -> Value:
        return x if grids is None else self._on_grid(x, grids.input, from_zero=True)

    def _kernel(
        self, weight: Array, grids: LayerGrids | None, *, transposed: bool = False
    ) -> Value:
        """Emit weights in floating point, on their grid: they become integers after reading.

        OpenVINO reads a DequantizeLinear of weights as a tree of shape arithmetic, and what folds
        that folds the weights too.
        """
        return super()._kernel(weight, None, transposed=transposed)
