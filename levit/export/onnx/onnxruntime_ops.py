"""The operations in the form that ONNX Runtime runs fastest on a CPU."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Final, TypeGuard

import numpy as np

from levit.export.grids import LayerGrids, Quantization
from levit.export.onnx.ops import Layer, OnnxOps, Value
from levit.models.ops import Array

__all__ = ["OnnxruntimeOps"]

# Of tokens one by one: the same on all tokens of all images in one row after the other.
_BY_TOKEN: Final = frozenset(
    {"Add", "Mul", "Div", "Erf", "Sigmoid", "Tanh", "HardSigmoid", "HardSwish"}
    | {"LayerNormalization"}
)


class OnnxruntimeOps(OnnxOps):
    """`OnnxOps` with Linears over tokens as one Gemm, and int32 biases of integer layers.

    A Linear over (B, N, I) is one Gemm over (B·N, I), which takes the bias into it: a product of
    more than two axes is as many products as there are images, and its bias a pass of its own.
    Measured in docs/decisions.md. What is done to tokens one by one between two Linears is done in
    that shape too; the Reshape back is written only where somebody reads it.
    """

    def __init__(
        self,
        opset: int,
        precision: str = "fp32",
        islands: frozenset[str] = frozenset(),
        quantization: Quantization | None = None,
    ) -> None:
        super().__init__(opset, precision, islands, quantization)
        # Values (B, N, C) by name, as (B·N, C).
        self._flat: dict[str, Value] = {}
        # Of those, the ones that nobody has read yet, with their shape.
        self._unwritten: dict[str, tuple[int, ...]] = {}
        self._integer_products: set[str] = set()

    # ------------------------------------------------------------------ shapes

    def _emit(
        self,
        op_type: str,
        inputs: Sequence[Value | str],
        shape: tuple[int, ...],
        **attributes: Any,
    ) -> Value:
        if op_type not in _BY_TOKEN or not self._is_of_rows(inputs, shape):
            return super()._emit(op_type, inputs, shape, **attributes)
        rows = [x if x.array is not None else self._flattened(x) for x in inputs]
        flat = (shape[0] * shape[1], shape[2])
        return self._tokens(super()._emit(op_type, rows, flat, **attributes), shape)

    def _is_of_rows(
        self, inputs: Sequence[Value | str], shape: tuple[int, ...]
    ) -> TypeGuard[Sequence[Value]]:
        """Return True if all have a form (B·N, C), and one has no other yet."""
        return any(isinstance(x, Value) and x.name in self._unwritten for x in inputs) and all(
            isinstance(x, Value)
            and (x.shape == shape if x.array is None else x.shape in ((), (1,), shape[-1:]))
            for x in inputs
        )

    def _tokens(self, flat: Value, shape: tuple[int, ...]) -> Value:
        """(B·N, C) → (B, N, C), which is written when it is read."""
        name = self._unique(f"{self.path}/Reshape")
        self._share_island(name, flat.name)
        self.scopes[name] = self.path
        self._flat[name] = flat
        self._unwritten[name] = shape
        return Value(name, shape, flat.dtype)

    def _flattened(self, x: Value) -> Value:
        """(B, N, C) → (B·N, C), once."""
        if x.name not in self._flat:
            shape = (x.shape[0] * x.shape[1], x.shape[2])
            flat = self._emit("Reshape", [x, self._integers([-1, x.shape[2]], "shape")], shape)
            self._share_island(flat.name, x.name)
            self._flat[x.name] = flat
        return self._flat[x.name]

    def _share_island(self, name: str, *plain: str) -> None:
        """Keep a value in float32 where one is kept that stands for it in the plain graph."""
        if not self._islands.isdisjoint(plain):
            self._islands |= {name}

    def _read(self, x: Value, dtype: str) -> str:
        shape = self._unwritten.pop(x.name, None)
        if shape is not None:
            flat = self._flat[x.name]
            sizes = self._integers([-1, *shape[1:]], "shape")
            self._node("Reshape", [flat.name, sizes], x.name)
            self.values.append(Value(x.name, shape, flat.dtype))
        return super()._read(x, dtype)

    def reshape(self, x: Value, shape: Sequence[int]) -> Value:
        """Reshape tokens that are rows still at once."""
        if x.name not in self._unwritten:
            return super().reshape(x, shape)
        result = self._shapes.reshape(x.shape, shape)
        if result == x.shape:
            return x
        sizes = self._integers([-1, *result[1:]], "shape")
        return self._emit("Reshape", [self._flat[x.name], sizes], result)

    # ------------------------------------------------------------------ layers

    def linear(self, x: Value, weight: Array, bias: Array | None) -> Value:
        if len(x.shape) != 3:
            return super().linear(x, weight, bias)
        grids = self._quantized.get(self.path)
        self._share_island(f"{self.path}/Gemm", f"{self.path}/MatMul", f"{self.path}/Add")
        rows = self._flattened(x)
        inputs = [self._input(rows, grids), self._kernel(weight, grids, transposed=True)]
        if bias is not None:
            inputs.append(self._offset(bias, grids))
        y = self._emit("Gemm", inputs, (math.prod(x.shape[:2]), len(weight)))
        if grids is not None:
            self._integer_products.add(y.name)
        self.layers[self.path] = Layer(input=rows, output=y)
        return self._tokens(self._result(y, grids), (*x.shape[:2], len(weight)))

    def _input(self, x: Value, grids: LayerGrids | None) -> Value:
        """Quantize an integer product behind a Reshape.

        ONNX Runtime takes one that is quantized as it comes, and read by others too, for one whose
        result is to be integers, and then computes it in floating point.
        """
        if grids is not None and x.name in self._integer_products:
            x = self._emit("Reshape", [x, self._integers([-1, *x.shape[1:]], "shape")], x.shape)
        return super()._input(x, grids)

    def _offset(self, bias: Array, grids: LayerGrids | None) -> Value:
        """Write the bias in int32 at the scale of the products, as integer kernels add it."""
        if grids is None:
            return super()._offset(bias, grids)
        scale = grids.bias_scale
        integers = np.rint(bias / scale.astype(np.float64)).astype(np.int32)
        return self._integer_weight(integers, scale, "bias", axis=0)
