"""Every ONNX operator that `levit export` writes, with its attributes and what it makes.

Source: onnx/docs/Operators.md, for opsets 14 to 22.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from levit.runtime.graphs.operators import (
    Attributes,
    Operator,
    Test,
    checked_types,
    elementwise,
    one_of,
    reshape,
    same,
)
from levit.runtime.graphs.shapes import (
    FLOATS,
    INTEGERS,
    Shape,
    Tensor,
    averaged,
    convolved,
    numbers_of,
    padded,
    product,
    sliced,
    transposed,
)

__all__ = ["DTYPES", "OPERATORS", "OPSETS"]

DTYPES: Final = {
    1: "float32", 2: "uint8", 3: "int8", 6: "int32", 7: "int64", 10: "float16", 16: "bfloat16",
}  # fmt: skip
OPSETS: Final = range(14, 23)


def _float(x: Any) -> bool:
    return isinstance(x, float) and 0 < x < 1


def _integers(count: int) -> Test:
    return lambda x: isinstance(x, tuple) and len(x) == count


def _cast(inputs: Sequence[Tensor], attributes: Attributes) -> Tensor:
    (x,) = inputs
    if x.dtype not in FLOATS | {"uint8"}:
        raise ValueError(f"reads {x.dtype}")
    return Tensor(DTYPES[attributes["to"]], x.shape)


def _conv(inputs: Sequence[Tensor], attributes: Attributes) -> Tensor:
    x, weight, *bias = (value.shape for value in inputs)
    shape = convolved(x, weight, attributes["strides"], attributes["pads"])
    if attributes["kernel_shape"] != weight[2:]:
        raise ValueError(f"has a kernel of {attributes['kernel_shape']}, and one of {weight[2:]}")
    _check_list(bias, weight[0])
    return Tensor(checked_types(inputs), shape, depth=weight[1] * weight[2] * weight[3])


def _gemm(inputs: Sequence[Tensor], attributes: Attributes) -> Tensor:
    x, weight, *bias = (value.shape for value in inputs)
    shape = product(x, weight[::-1] if "transB" in attributes else weight)
    if len(shape) != 2:
        raise ValueError(f"has {len(shape)} axes")
    _check_list(bias, shape[1])
    return Tensor(checked_types(inputs), shape, depth=x[1])


def _matmul(inputs: Sequence[Tensor], attributes: Attributes) -> Tensor:
    a, b = inputs
    return Tensor(checked_types(inputs), product(a.shape, b.shape), depth=a.shape[-1])


def _layer_norm(inputs: Sequence[Tensor], attributes: Attributes) -> Tensor:
    x, *lists = (value.shape for value in inputs)
    _check_list(lists, x[-1] if x else 0)
    return Tensor(checked_types(inputs), x)


def _check_list(lists: Sequence[Shape], count: int) -> None:
    """Raise ValueError unless each has one number for each channel."""
    for shape in lists:
        if shape != (count,):
            raise ValueError(f"reads {shape} where ({count},) is meant")


def _global_average(inputs: Sequence[Tensor], attributes: Attributes) -> Tensor:
    return Tensor(checked_types(inputs), averaged(inputs[0].shape, (2, 3), keep=True))


def _reduce_mean(inputs: Sequence[Tensor], attributes: Attributes) -> Tensor:
    x, *axes = inputs
    if len(axes) == ("axes" in attributes):
        raise ValueError("must have its axes once")
    places = numbers_of(axes[0]) if axes else attributes["axes"]
    return Tensor(checked_types([x]), averaged(x.shape, places, keep=False))


def _slice(inputs: Sequence[Tensor], attributes: Attributes) -> Tensor:
    x = inputs[0]
    starts, ends, axes, *steps = map(numbers_of, inputs[1:])
    shape = sliced(x.shape, starts, ends, axes, steps[0] if steps else None)
    return Tensor(checked_types([x]), shape)


def _pad(inputs: Sequence[Tensor], attributes: Attributes) -> Tensor:
    x, pads = inputs[0], numbers_of(inputs[1])
    half = len(pads) // 2
    return Tensor(checked_types([x]), padded(x.shape, pads[:half], pads[half:]))


def _transpose(inputs: Sequence[Tensor], attributes: Attributes) -> Tensor:
    (x,) = inputs
    if x.dtype != "uint8":  # pixels
        checked_types(inputs)
    return Tensor(x.dtype, transposed(x.shape, attributes["perm"]))


def _quantize(inputs: Sequence[Tensor], attributes: Attributes) -> Tensor:
    x, scale, zero = inputs
    checked_types([x, scale])
    if zero.dtype not in INTEGERS or (scale.shape, zero.shape) != ((1,), (1,)):
        raise ValueError(f"has {scale.shape} scales, and zero points of {zero.dtype}")
    return Tensor(zero.dtype, x.shape)


def _dequantize(inputs: Sequence[Tensor], attributes: Attributes) -> Tensor:
    x, scale, zero = inputs
    axis = attributes.get("axis")
    wanted = (1,) if axis is None else (x.shape[axis] if axis < len(x.shape) else 0,)
    if x.dtype not in INTEGERS | {"int32"} or zero.dtype != x.dtype:
        raise ValueError(f"reads {x.dtype}, and zero points of {zero.dtype}")
    if scale.shape != wanted or zero.shape != wanted or (axis is None) == x.fixed:
        raise ValueError(f"has {scale.shape} scales and {zero.shape} zero points for {x.shape}")
    return Tensor(checked_types([scale]), x.shape)


_UNARY: Final = Operator(inputs=(1,), make=same)
_BINARY: Final = Operator(inputs=(2,), make=elementwise, moving=2)
_LAST: Final = {"axis": one_of(-1)}

OPERATORS: Final[Mapping[str, Operator]] = {
    "Add": _BINARY,
    "Cast": Operator(inputs=(1,), make=_cast, needs={"to": one_of(1, 10, 16)}),
    "Conv": Operator(
        inputs=(2, 3),
        make=_conv,
        needs={"kernel_shape": _integers(2), "pads": _integers(4), "strides": _integers(2)},
    ),
    "DequantizeLinear": Operator(
        inputs=(3,), make=_dequantize, may={"axis": one_of(0, 1)}, of_weights=True
    ),
    "Div": _BINARY,
    "Erf": _UNARY,
    "Gemm": Operator(inputs=(2, 3), make=_gemm, may={"transB": one_of(1)}),
    "GlobalAveragePool": Operator(inputs=(1,), make=_global_average),
    "HardSigmoid": Operator(inputs=(1,), make=same, needs={"alpha": _float, "beta": one_of(0.5)}),
    "HardSwish": _UNARY,
    "LayerNormalization": Operator(
        inputs=(2, 3), make=_layer_norm, needs={**_LAST, "epsilon": _float}
    ),
    "MatMul": Operator(inputs=(2,), make=_matmul, moving=2),
    "Mul": _BINARY,
    "Pad": Operator(inputs=(2,), make=_pad),
    "QuantizeLinear": Operator(inputs=(3,), make=_quantize),
    "ReduceMean": Operator(
        inputs=(1, 2), make=_reduce_mean, needs={"keepdims": one_of(0)}, may={"axes": _integers(1)}
    ),
    "Reshape": Operator(inputs=(2,), make=reshape),
    "Sigmoid": _UNARY,
    "Slice": Operator(inputs=(4, 5), make=_slice),
    "Softmax": Operator(inputs=(1,), make=same, needs=_LAST),
    "Tanh": _UNARY,
    "Transpose": Operator(inputs=(1,), make=_transpose, needs={"perm": lambda x: True}),
}
