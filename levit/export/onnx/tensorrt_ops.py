"""The operations in the form in which TensorRT's parser takes them."""

from __future__ import annotations

from collections.abc import Sequence

from onnx import helper

from levit.export.onnx.ops import OnnxOps, Value

__all__ = ["TensorrtOps"]


class TensorrtOps(OnnxOps):
    """`OnnxOps` under the same names, without the operations that the parser refuses.

    Tried with that of RTX 1.7, which is TensorRT 11's own.
    """

    def hard_swish(self, x: Value) -> Value:
        """Emit x · HardSigmoid(x): the operator itself is not read in bfloat16.

        In float32 and float16 it makes the same layers of either.
        """
        result = super().hard_swish(x)
        (source,) = self.nodes.pop().input
        gate = f"{result.name}.gate"
        self.nodes += [
            helper.make_node("HardSigmoid", [source], [gate], name=gate, alpha=1 / 6, beta=0.5),
            helper.make_node("Mul", [source, gate], [result.name], name=result.name),
        ]
        return result

    def transpose(self, x: Value, axes: Sequence[int]) -> Value:
        """Cast pixels first: to TensorRT, uint8 is a type of inputs and of casts."""
        if x.dtype != "uint8":
            return super().transpose(x, axes)
        with self.full_precision():
            return super().transpose(super().cast(x), axes)

    def cast(self, x: Value) -> Value:
        """Return pixels as they are, which `transpose` has cast."""
        return super().cast(x) if x.dtype == "uint8" else x
