"""The operations in the form that ONNX Runtime runs fastest on a CPU."""

from __future__ import annotations

from levit.export.onnx_ops import OnnxOps, Value
from levit.models.ops import Array

__all__ = ["OnnxruntimeOps"]


class OnnxruntimeOps(OnnxOps):
    """As `OnnxOps`, but for Linears over tokens."""

    def linear(self, x: Value, weight: Array, bias: Array | None) -> Value:
        """(B, N, I) → (B, N, O) as one Gemm over all tokens, which takes the bias into it.

        A product of more than two axes is as many products as there are images, and its bias a
        pass of its own. Measured in docs/decisions.md.
        """
        if len(x.shape) != 3:
            return super().linear(x, weight, bias)
        tokens, width = x.shape[0] * x.shape[1], x.shape[2]
        flat = self._emit("Reshape", [x, self._integers([-1, width], "shape")], (tokens, width))
        inputs = [flat, self._weight(weight.T, "weight")]
        if bias is not None:
            inputs.append(self._weight(bias, "bias"))
        product = self._emit("Gemm", inputs, (tokens, len(weight)))
        shape = self._integers([-1, x.shape[1], len(weight)], "shape")
        return self._emit("Reshape", [product, shape], (*x.shape[:2], len(weight)))
