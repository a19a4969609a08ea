"""Ops that emit ONNX nodes: the graph is the product, so every node is chosen here.

Values are names with the shape that they have for one image (the batch axis counts as 1).
A dynamic batch needs no Shape or Gather: every Reshape keeps its batch axis with 0.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import onnx
from onnx import TensorProto, helper

from levit.errors import ExportError
from levit.models.counting import ShapeOps
from levit.models.ops import Array, Scopes

__all__ = ["OnnxOps", "Value"]

_ELEM_TYPES: Final = {
    "float32": TensorProto.FLOAT,
    "int64": TensorProto.INT64,
    "uint8": TensorProto.UINT8,
}


@dataclass(frozen=True)
class Value:
    """A tensor of the graph: its name, and its shape for a batch of one."""

    name: str
    shape: tuple[int, ...]


class OnnxOps(Scopes):
    """Collects ``nodes`` and ``initializers`` as a model is applied to it."""

    def __init__(self, opset: int) -> None:
        super().__init__()
        self.opset = opset
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: dict[str, onnx.TensorProto] = {}
        self._shapes = ShapeOps()
        self._taken: dict[str, int] = {}

    # ------------------------------------------------------------------ nodes and constants

    def _unique(self, name: str) -> str:
        count = self._taken.get(name, 0)
        self._taken[name] = count + 1
        return f"{name}_{count}" if count else name

    def _emit(
        self, op_type: str, inputs: Sequence[str], shape: tuple[int, ...], **attributes: Any
    ) -> Value:
        name = self._unique(f"{self.path}/{op_type}")
        self.nodes.append(helper.make_node(op_type, list(inputs), [name], name=name, **attributes))
        return Value(name, shape)

    def _initializer(self, name: str, array: Array) -> str:
        array = np.ascontiguousarray(array)
        if array.dtype.byteorder == ">":
            array = array.astype(array.dtype.newbyteorder("<"))
        self.initializers[name] = TensorProto(
            name=name,
            data_type=_ELEM_TYPES[array.dtype.name],
            dims=array.shape,
            raw_data=array.tobytes(),
        )
        return name

    def _weight(self, array: Array, name: str) -> str:
        # The one cast: everything before it was float64.
        with np.errstate(over="ignore"):
            single = array.astype(np.float32)
        if not np.isfinite(single).all():
            raise ExportError(f"{self.path}.{name}: values leave the range of float32")
        return self._initializer(self._unique(f"{self.path}.{name}"), single)

    def _integers(self, values: Sequence[int], purpose: str) -> str:
        # By content: the same few shapes stand in every block.
        name = f"{purpose}.{'_'.join(map(str, values))}"
        if name not in self.initializers:
            self._initializer(name, np.asarray(values, np.int64))
        return name

    # ------------------------------------------------------------------ the operations

    def constant(self, value: Array, name: str) -> Value:
        return Value(self._weight(np.asarray(value), name), np.shape(value))

    def take(self, table: Array, index: Array, name: str) -> Value:
        source, places = self._weight(table, name), self._integers_table(index, "index")
        return self._emit("Gather", [source, places], (len(table), *index.shape), axis=1)

    def _integers_table(self, index: Array, name: str) -> str:
        return self._initializer(self._unique(f"{self.path}.{name}"), index.astype(np.int64))

    def linear(self, x: Value, weight: Array, bias: Array | None) -> Value:
        shape = self._shapes.linear(x.shape, weight, bias)
        if len(x.shape) == 2:
            inputs = [x.name, self._weight(weight, "weight")]
            if bias is not None:
                inputs.append(self._weight(bias, "bias"))
            return self._emit("Gemm", inputs, shape, transB=1)
        product = self._emit("MatMul", [x.name, self._weight(weight.T, "weight")], shape)
        return product if bias is None else self.add(product, self.constant(bias, "bias"))

    def conv(self, x: Value, weight: Array, bias: Array | None, stride: int, padding: int) -> Value:
        inputs = [x.name, self._weight(weight, "weight")]
        if bias is not None:
            inputs.append(self._weight(bias, "bias"))
        return self._emit(
            "Conv",
            inputs,
            self._shapes.conv(x.shape, weight, bias, stride, padding),
            kernel_shape=list(weight.shape[2:]),
            strides=[stride, stride],
            pads=[padding] * 4,
        )

    def batch_norm(
        self, x: Value, scale: Array, shift: Array, mean: Array, var: Array, eps: float, axis: int
    ) -> Value:
        if axis == 1 and len(x.shape) in (2, 4):
            parts = {"scale": scale, "shift": shift, "mean": mean, "var": var}
            names = [self._weight(array, f"norm.{name}") for name, array in parts.items()]
            return self._emit("BatchNormalization", [x.name, *names], x.shape, epsilon=eps)
        # ONNX normalises along axis 1 only; along the last it is an affine map.
        factor = scale / np.sqrt(var.astype(np.float64) + eps)
        scaled = self.multiply(x, self.constant(factor, "norm.factor"))
        return self.add(scaled, self.constant(shift - mean * factor, "norm.offset"))

    def matmul(self, a: Value, b: Value) -> Value:
        return self._emit("MatMul", [a.name, b.name], self._shapes.matmul(a.shape, b.shape))

    def add(self, a: Value, b: Value) -> Value:
        return self._emit("Add", [a.name, b.name], self._shapes.add(a.shape, b.shape))

    def multiply(self, a: Value, b: Value) -> Value:
        return self._emit("Mul", [a.name, b.name], self._shapes.multiply(a.shape, b.shape))

    def softmax(self, x: Value) -> Value:
        return self._emit("Softmax", [x.name], x.shape, axis=-1)

    def hard_swish(self, x: Value) -> Value:
        return self._emit("HardSwish", [x.name], x.shape)

    def silu(self, x: Value) -> Value:
        return self.multiply(x, self._emit("Sigmoid", [x.name], x.shape))

    def reshape(self, x: Value, shape: Sequence[int]) -> Value:
        result = self._shapes.reshape(x.shape, shape)
        if result == x.shape:
            return x
        return self._emit("Reshape", [x.name, self._integers(shape, "shape")], result)

    def transpose(self, x: Value, axes: Sequence[int]) -> Value:
        return self._emit(
            "Transpose", [x.name], self._shapes.transpose(x.shape, axes), perm=list(axes)
        )

    def subsample(self, x: Value, axes: Sequence[int], stride: int) -> Value:
        count = len(axes)
        inputs = [
            x.name,
            self._integers([0] * count, "starts"),
            self._integers([np.iinfo(np.int64).max] * count, "ends"),
            self._integers(axes, "axes"),
            self._integers([stride] * count, "steps"),
        ]
        return self._emit("Slice", inputs, self._shapes.subsample(x.shape, axes, stride))

    def mean(self, x: Value, axes: tuple[int, ...]) -> Value:
        shape = self._shapes.mean(x.shape, axes)
        if len(x.shape) == 4 and axes == (2, 3):
            pooled = self._emit("GlobalAveragePool", [x.name], (*x.shape[:2], 1, 1))
            return self.reshape(pooled, (0, math.prod(shape[1:])))
        if self.opset >= 18:
            inputs = [x.name, self._integers(axes, "axes")]
            return self._emit("ReduceMean", inputs, shape, keepdims=0)
        return self._emit("ReduceMean", [x.name], shape, axes=list(axes), keepdims=0)

    def cast(self, x: Value) -> Value:
        return self._emit("Cast", [x.name], x.shape, to=TensorProto.FLOAT)
