"""The operations in the form that ONNX Runtime runs fastest on a CPU."""

from __future__ import annotations

import numpy as np

from levit.export.onnx_ops import OnnxOps, Value
from levit.export.quantization.grid import LayerGrids
from levit.models.ops import Array

__all__ = ["OnnxruntimeOps"]


class OnnxruntimeOps(OnnxOps):
    """As `OnnxOps`, but for Linears over tokens, and the biases of integer layers."""

    def _product(
        self, x: Value, weight: Array, bias: Array | None, grids: LayerGrids | None
    ) -> Value:
        """(B, N, I) → (B, N, O) as one Gemm over all tokens, which takes the bias into it.

        A product of more than two axes is as many products as there are images, and its bias a
        pass of its own. Measured in docs/decisions.md.
        """
        if len(x.shape) != 3:
            return super()._product(x, weight, bias, grids)
        tokens, width = x.shape[0] * x.shape[1], x.shape[2]
        flat = self._emit("Reshape", [x, self._integers([-1, width], "shape")], (tokens, width))
        inputs = [self._input(flat, grids), self._kernel(weight, grids, transposed=True)]
        if bias is not None:
            inputs.append(self._offset(bias, grids))
        product = self._emit("Gemm", inputs, (tokens, len(weight)))
        shape = self._integers([-1, x.shape[1], len(weight)], "shape")
        return self._emit("Reshape", [product, shape], (*x.shape[:2], len(weight)))

    def _offset(self, bias: Array, grids: LayerGrids | None) -> Value:
        """In int32 at the scale of the products: what its integer kernels take into them."""
        if grids is None:
            return super()._offset(bias, grids)
        scale = grids.bias_scale
        integers = np.rint(bias / scale.astype(np.float64)).astype(np.int32)
        return self._integer_weight(integers, scale, "bias", axis=0)
