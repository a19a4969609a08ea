"""The operations in the form in which TensorRT's parser takes them."""

from __future__ import annotations

from collections.abc import Sequence

from levit.export.onnx_ops import OnnxOps, Value

__all__ = ["TensorrtOps"]


class TensorrtOps(OnnxOps):
    """As `OnnxOps`, but for what TensorRT 11 and RTX 1.7 refuse."""

    def hard_swish(self, x: Value) -> Value:
        """X · HardSigmoid(x): of the operator itself, the parser takes no bfloat16.

        In float32 and float16 it makes the same two layers of either.
        """
        gate = self._emit("HardSigmoid", [x], x.shape, alpha=1 / 6, beta=0.5)
        return self.multiply(x, gate)

    def transpose(self, x: Value, axes: Sequence[int]) -> Value:
        """Pixels become numbers first: to TensorRT, uint8 is a type of inputs and of casts."""
        if x.dtype != "uint8":
            return super().transpose(x, axes)
        with self.full_precision():
            return super().transpose(super().cast(x), axes)

    def cast(self, x: Value) -> Value:
        """As above: they already are."""
        return super().cast(x) if x.dtype == "uint8" else x
