"""Ops that emit ONNX nodes: the graph is the product, so every node is chosen here.

Values are names with the shape that they have for one image (the batch axis counts as 1).
A dynamic batch needs no Shape or Gather: every Reshape keeps its batch axis with 0.

At fp16 and bf16 a value is of that type, save for islands: a value whose name is in `islands`
(weights have names too) is float32, and so is the arithmetic of every operation that makes or
reads it. What such an operation makes is cast back where something outside of it reads it.

At int8 a layer that the description names reads its input through QuantizeLinear and
DequantizeLinear, and its weights are integers behind a DequantizeLinear: backends know the pattern
and multiply the integers.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import onnx
from onnx import TensorProto, helper

from levit.errors import ExportError
from levit.export.grids import Grid, LayerGrids, Quantization
from levit.export.precision import PRECISIONS, rounded
from levit.models.counting import ShapeOps
from levit.models.ops import Array, Ops, Scopes, attend

__all__ = ["Layer", "OnnxOps", "Value", "weight_name"]

_ELEM_TYPES: Final = {
    "float32": TensorProto.FLOAT,
    "float16": TensorProto.FLOAT16,
    "bfloat16": TensorProto.BFLOAT16,
    "int64": TensorProto.INT64,
    "uint8": TensorProto.UINT8,
    "int8": TensorProto.INT8,
    "int32": TensorProto.INT32,
}


@dataclass(frozen=True, eq=False)
class Value:
    """A tensor of the graph.

    Attributes:
        name: in the graph.
        shape: for a batch of one.
        dtype: as ONNX spells it.
        array: of a weight, in float64 or as it was read; it is written in the type of whoever
            reads it.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str = "float32"
    array: Array | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class Layer:
    """A convolution or Linear of the graph, in floating point.

    Attributes:
        kernel, stride, padding: of a convolution; 0 for a Linear over the last axis.
    """

    input: Value
    output: Value
    kernel: int = 0
    stride: int = 1
    padding: int = 0


def weight_name(path: str) -> str:
    """The name that the weights of a convolution or Linear have in every dialect's graph."""
    return f"{path}.weight"


class OnnxOps(Scopes):
    """Collects ``nodes``, ``values``, ``layers`` and ``initializers`` as a model is applied to it.

    Attributes:
        layers: by path.
        scopes: the path at which each value or weight was made.

    Args:
        opset: of the graph.
        precision: a key of `PRECISIONS`.
        islands: names of values that are float32 at any precision.
        quantization: of the layers that are int8.
    """

    def __init__(
        self,
        opset: int,
        precision: str = "fp32",
        islands: frozenset[str] = frozenset(),
        quantization: Quantization | None = None,
    ) -> None:
        super().__init__()
        self.opset = opset
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: dict[str, onnx.TensorProto] = {}
        self.values: list[Value] = []
        self.layers: dict[str, Layer] = {}
        self.scopes: dict[str, str] = {}
        self._dtype = PRECISIONS[precision].dtype
        self._islands = islands
        self._in_full = False
        self._shapes = ShapeOps()
        self._taken: dict[str, int] = {}
        self._casts: dict[tuple[str, str], str] = {}
        self._quantized = {} if quantization is None else quantization.layers
        self._rounded: dict[tuple[str, Grid, bool], Value] = {}

    @contextlib.contextmanager
    def full_precision(self) -> Iterator[None]:
        before, self._in_full = self._in_full, True
        try:
            yield
        finally:
            self._in_full = before

    def as_float32(self, x: Value) -> Value:
        """`x` for the world outside, behind a Cast if need be."""
        return Value(self._read(x, "float32"), x.shape)

    # ------------------------------------------------------------------ nodes and constants

    def _unique(self, name: str) -> str:
        count = self._taken.get(name, 0)
        self._taken[name] = count + 1
        return f"{name}_{count}" if count else name

    def _emit(
        self,
        op_type: str,
        inputs: Sequence[Value | str],
        shape: tuple[int, ...],
        **attributes: Any,
    ) -> Value:
        """A node; `inputs` are values, or the names of initializers that are no floats."""
        name = self._unique(f"{self.path}/{op_type}")
        self.scopes[name] = self.path
        values = [name, *(x.name for x in inputs if isinstance(x, Value))]
        full = self._in_full or not self._islands.isdisjoint(values)
        dtype = "float32" if full else self._dtype
        if any(x.dtype == "uint8" for x in inputs if isinstance(x, Value)):
            dtype = "uint8"  # pixels, which are moved before they are numbers
        names = [x if isinstance(x, str) else self._read(x, dtype) for x in inputs]
        self.nodes.append(helper.make_node(op_type, names, [name], name=name, **attributes))
        self.values.append(Value(name, shape, dtype))
        return self.values[-1]

    def _read(self, x: Value, dtype: str) -> str:
        """The name of `x` in `dtype`: of a weight, of itself, or of one Cast of it."""
        if x.array is not None:
            return self._weight_in(x, dtype)
        if x.dtype == dtype:
            return x.name
        if (x.name, dtype) not in self._casts:
            name = self._unique(f"{x.name}.{dtype}")
            self.nodes.append(
                helper.make_node("Cast", [x.name], [name], name=name, to=_ELEM_TYPES[dtype])
            )
            self._casts[x.name, dtype] = name
        return self._casts[x.name, dtype]

    def _initializer(self, name: str, array: Array, dtype: str) -> str:
        array = np.ascontiguousarray(array)
        if array.dtype.byteorder == ">":
            array = array.astype(array.dtype.newbyteorder("<"))
        self.initializers[name] = TensorProto(
            name=name,
            data_type=_ELEM_TYPES[dtype],
            dims=array.shape,
            raw_data=array.tobytes(),
        )
        return name

    def _weight(self, array: Array, name: str) -> Value:
        name = self._unique(f"{self.path}.{name}")
        self.scopes[name] = self.path
        return Value(name, np.shape(array), array=np.asarray(array))

    def _weight_in(self, weight: Value, dtype: str) -> str:
        # Two readers of one table seldom differ in type; where they do, it is there twice.
        found = self.initializers.get(weight.name)
        name = weight.name
        if found is not None:
            if found.data_type == _ELEM_TYPES[dtype]:
                return name
            name = f"{name}.{dtype}"
        assert weight.array is not None
        try:
            # The one cast: everything before it was float64.
            values = rounded(weight.array, dtype)
        except OverflowError:
            raise ExportError(f"{weight.name}: values leave the range of {dtype}") from None
        return self._initializer(name, values, dtype)

    def _integers(self, values: Sequence[int], purpose: str) -> str:
        # By content: the same few shapes stand in every block.
        name = f"{purpose}.{'_'.join(map(str, values))}"
        if name not in self.initializers:
            self._initializer(name, np.asarray(values, np.int64), "int64")
        return name

    # ------------------------------------------------------------------ the operations

    def constant(self, value: Array, name: str) -> Value:
        return self._weight(value, name)

    def take(self, table: Array, index: Array, name: str) -> Value:
        source, places = self._weight(table, name), self._integers_table(index, "index")
        return self._emit("Gather", [source, places], (len(table), *index.shape), axis=1)

    def _integers_table(self, index: Array, name: str) -> str:
        return self._initializer(
            self._unique(f"{self.path}.{name}"), index.astype(np.int64), "int64"
        )

    def linear(self, x: Value, weight: Array, bias: Array | None) -> Value:
        grids = self._quantized.get(self.path)
        shape = self._shapes.linear(x.shape, weight, bias)
        source = self._linear_input(x, grids)
        if len(x.shape) == 2:
            inputs = [source, self._kernel(weight, grids)]
            if bias is not None:
                inputs.append(self._offset(bias, grids))
            y = self._emit("Gemm", inputs, shape, transB=1)
        else:
            y = self._emit("MatMul", [source, self._kernel(weight, grids, transposed=True)], shape)
            y = y if bias is None else self.add(y, self.constant(bias, "bias"))
        self.layers[self.path] = Layer(input=x, output=y)
        return self._result(y, grids)

    def conv(self, x: Value, weight: Array, bias: Array | None, stride: int, padding: int) -> Value:
        grids = self._quantized.get(self.path)
        inputs = [self._input(x, grids), self._kernel(weight, grids)]
        if bias is not None:
            inputs.append(self._offset(bias, grids))
        kernel = list(weight.shape[2:])
        y = self._emit(
            "Conv",
            inputs,
            self._shapes.conv(x.shape, weight, bias, stride, padding),
            kernel_shape=kernel,
            strides=[stride, stride],
            pads=[padding] * 4,
        )
        self.layers[self.path] = Layer(
            input=x, output=y, kernel=kernel[0], stride=stride, padding=padding
        )
        return self._result(y, grids)

    # ------------------------------------------------------------------ layers of integers

    def _input(self, x: Value, grids: LayerGrids | None) -> Value:
        return x if grids is None else self._on_grid(x, grids.input)

    def _linear_input(self, x: Value, grids: LayerGrids | None) -> Value:
        return self._input(x, grids)

    def _result(self, y: Value, grids: LayerGrids | None) -> Value:
        return y if grids is None or grids.output is None else self._on_grid(y, grids.output)

    def _on_grid(self, x: Value, grid: Grid, *, from_zero: bool = False) -> Value:
        """`x` through integers and back; once, however many read it.

        Args:
            from_zero: back without the zero point, which the reader makes up for.
        """
        key = (x.name, grid, from_zero)
        if key not in self._rounded:
            name = self._unique(f"{x.name}/grid")
            kind = np.int8 if grid.signed else np.uint8
            scale = self._weight_in(
                Value(f"{name}.scale", (), array=np.asarray(grid.scale)), self._dtype
            )
            zero = self._initializer(
                f"{name}.zero_point", np.asarray(grid.zero_point, kind), kind.__name__
            )
            whole = self._read(x, self._dtype)
            self._node("QuantizeLinear", [whole, scale, zero], f"{name}.integers")
            if from_zero and grid.zero_point:
                zero = self._initializer(f"{name}.zero", np.asarray(0, kind), kind.__name__)
            self._node("DequantizeLinear", [f"{name}.integers", scale, zero], name)
            self._rounded[key] = Value(name, x.shape, self._dtype)
        return self._rounded[key]

    def _kernel(
        self, weight: Array, grids: LayerGrids | None, *, transposed: bool = False
    ) -> Value:
        """A layer's weights (O, …), or their transpose (I, O)."""
        if grids is None:
            return self._weight(weight.T if transposed else weight, "weight")
        integers = grids.integers(weight)
        return self._integer_weight(
            integers.T if transposed else integers,
            grids.weight_scale,
            "weight",
            axis=int(transposed),
        )

    def _offset(self, bias: Array, grids: LayerGrids | None) -> Value:
        """A layer's bias (O,), which is added in floating point."""
        return self._weight(bias, "bias")

    def _integer_weight(self, integers: Array, scale: Array, name: str, *, axis: int) -> Value:
        """A static tensor of integers, with a scale for each entry of `axis`."""
        name = self._unique(f"{self.path}.{name}")
        stored = self._initializer(f"{name}.integers", integers, integers.dtype.name)
        factors = self._weight_in(
            Value(f"{name}.scale", scale.shape, array=np.asarray(scale)), self._dtype
        )
        zeros = self._initializer(
            f"{name}.zero_point", np.zeros(scale.shape, integers.dtype), integers.dtype.name
        )
        self._node("DequantizeLinear", [stored, factors, zeros], name, axis=axis)
        return Value(name, integers.shape, self._dtype)

    def _node(self, op_type: str, inputs: Sequence[str], name: str, **attributes: Any) -> None:
        """A node of named inputs, whose result is none of the model's values."""
        self.nodes.append(helper.make_node(op_type, inputs, [name], name=name, **attributes))

    # ------------------------------------------------------------------ the rest

    def batch_norm(
        self, x: Value, scale: Array, shift: Array, mean: Array, var: Array, eps: float, axis: int
    ) -> Value:
        if axis == 1 and len(x.shape) in (2, 4):
            parts = {"scale": scale, "shift": shift, "mean": mean, "var": var}
            names = [self._weight(array, f"norm.{name}") for name, array in parts.items()]
            return self._emit("BatchNormalization", [x, *names], x.shape, epsilon=eps)
        # ONNX normalises along axis 1 only; along the last it is an affine map.
        factor = scale / np.sqrt(var.astype(np.float64) + eps)
        scaled = self.multiply(x, self.constant(factor, "norm.factor"))
        return self.add(scaled, self.constant(shift - mean * factor, "norm.offset"))

    def matmul(self, a: Value, b: Value) -> Value:
        return self._emit("MatMul", [a, b], self._shapes.matmul(a.shape, b.shape))

    def add(self, a: Value, b: Value) -> Value:
        return self._emit("Add", [a, b], self._shapes.add(a.shape, b.shape))

    def multiply(self, a: Value, b: Value) -> Value:
        return self._emit("Mul", [a, b], self._shapes.multiply(a.shape, b.shape))

    def softmax(self, x: Value) -> Value:
        return self._emit("Softmax", [x], x.shape, axis=-1)

    def attend(
        self,
        q: Value,
        k: Value,
        v: Value,
        *,
        scale: float | None = None,
        bias: Callable[[Ops], Value] | None = None,
    ) -> Value:
        y: Value = attend(self, q, k, v, scale=scale, bias=bias)
        return y

    def layer_norm(self, x: Value, weight: Array | None, bias: Array | None, eps: float) -> Value:
        if self.opset < 17:
            raise ExportError(f"LayerNormalization needs opset 17 or newer, not {self.opset}")
        # ONNX has none without a scale.
        scale = np.ones(x.shape[-1]) if weight is None else weight
        inputs = [x, self._weight(scale, "norm.weight")]
        if bias is not None:
            inputs.append(self._weight(bias, "norm.bias"))
        return self._emit("LayerNormalization", inputs, x.shape, axis=-1, epsilon=eps)

    def normalize_sum(self, x: Value) -> Value:
        sums = self._emit(
            "ReduceSum", [x, self._integers([-1], "axes")], (*x.shape[:-1], 1), keepdims=1
        )
        return self._emit("Div", [x, sums], x.shape)

    def gelu(self, x: Value) -> Value:
        # The operator came with opset 20. In primitive operations, in this order: ONNX Runtime
        # knows them as GELU with a quotient in front and not with a product.
        root = self.constant(np.array(np.sqrt(2)), "root")
        erf = self._emit("Erf", [self._emit("Div", [x, root], x.shape)], x.shape)
        gate = self.add(erf, self.constant(np.array(1.0), "one"))
        return self.multiply(self.multiply(x, gate), self.constant(np.array(0.5), "half"))

    def sigmoid(self, x: Value) -> Value:
        return self._emit("Sigmoid", [x], x.shape)

    def tanh(self, x: Value) -> Value:
        return self._emit("Tanh", [x], x.shape)

    def hard_swish(self, x: Value) -> Value:
        return self._emit("HardSwish", [x], x.shape)

    def silu(self, x: Value) -> Value:
        return self.multiply(x, self.sigmoid(x))

    def reshape(self, x: Value, shape: Sequence[int]) -> Value:
        result = self._shapes.reshape(x.shape, shape)
        if result == x.shape:
            return x
        return self._emit("Reshape", [x, self._integers(shape, "shape")], result)

    def transpose(self, x: Value, axes: Sequence[int]) -> Value:
        return self._emit("Transpose", [x], self._shapes.transpose(x.shape, axes), perm=list(axes))

    def subsample(self, x: Value, axes: Sequence[int], stride: int) -> Value:
        count = len(axes)
        inputs: list[Value | str] = [
            x,
            self._integers([0] * count, "starts"),
            self._integers([np.iinfo(np.int64).max] * count, "ends"),
            self._integers(axes, "axes"),
            self._integers([stride] * count, "steps"),
        ]
        return self._emit("Slice", inputs, self._shapes.subsample(x.shape, axes, stride))

    def narrow(self, x: Value, axis: int, start: int, length: int) -> Value:
        result = self._shapes.narrow(x.shape, axis, start, length)
        if result == x.shape:
            return x
        inputs: list[Value | str] = [
            x,
            self._integers([start], "starts"),
            self._integers([start + length], "ends"),
            self._integers([axis], "axes"),
        ]
        return self._emit("Slice", inputs, result)

    def prepend_zeros(self, x: Value, count: int) -> Value:
        pads = self._integers([0, count, 0, 0, 0, 0], "pads")
        return self._emit("Pad", [x, pads], self._shapes.prepend_zeros(x.shape, count))

    def mean(self, x: Value, axes: tuple[int, ...]) -> Value:
        shape = self._shapes.mean(x.shape, axes)
        if len(x.shape) == 4 and axes == (2, 3):
            pooled = self._emit("GlobalAveragePool", [x], (*x.shape[:2], 1, 1))
            return self.reshape(pooled, (0, math.prod(shape[1:])))
        if self.opset >= 18:
            places = self._integers(axes, "axes")
            return self._emit("ReduceMean", [x, places], shape, keepdims=0)
        return self._emit("ReduceMean", [x], shape, axes=list(axes), keepdims=0)

    def cast(self, x: Value) -> Value:
        name = self._unique(f"{self.path}/Cast")
        self.nodes.append(
            helper.make_node("Cast", [x.name], [name], name=name, to=TensorProto.FLOAT)
        )
        self.values.append(Value(name, x.shape))
        return self.values[-1]
