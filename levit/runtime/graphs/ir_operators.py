"""Every operation of OpenVINO's IR that `levit export` writes, with its attributes and result.

Source: docs.openvino.ai, "Available Operation Sets".
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Final

from levit.runtime.graphs.operators import (
    Attributes,
    Operator,
    checked_types,
    elementwise,
    one_of,
    reshape,
    same,
)
from levit.runtime.graphs.shapes import (
    FLOATS,
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

__all__ = ["DTYPES", "OPERATIONS"]

# As an attribute spells it; a port has it in capitals, and other names for floats.
DTYPES: Final = {
    "f32": "float32", "f16": "float16", "bf16": "bfloat16", "u8": "uint8", "i8": "int8",
    "i64": "int64",
}  # fmt: skip

_FLAG: Final = one_of("true", "false")
_PAIR: Final = re.compile(r"\d{1,4}, \d{1,4}").fullmatch
_SMALL: Final = re.compile(r"[1-9]\.?\d{0,20}e-\d{1,2}").fullmatch  # a float between 0 and 1


def _pair(text: str) -> Shape:
    return tuple(map(int, text.split(", ")))


def _convert(inputs: Sequence[Tensor], attributes: Attributes) -> Tensor:
    (x,) = inputs
    made = DTYPES[attributes["destination_type"]]
    stored = FLOATS | {"int8"} if x.fixed else {"uint8"}
    # Pixels, weights and integers become numbers; numbers become integers of a grid.
    if (made == "float32") != (x.dtype in stored) or (made == "uint8" and x.dtype != "float32"):
        raise ValueError(f"makes {made} of {x.dtype}")
    return Tensor(made, x.shape)


def _convolution(inputs: Sequence[Tensor], attributes: Attributes) -> Tensor:
    x, weight = inputs
    strides = _pair(attributes["strides"])
    pads = _pair(attributes["pads_begin"]) + _pair(attributes["pads_end"])
    shape = convolved(x.shape, weight.shape, strides, pads)
    _, channels, height, width = weight.shape
    return Tensor(checked_types(inputs), shape, depth=channels * height * width)


def _matmul(inputs: Sequence[Tensor], attributes: Attributes) -> Tensor:
    a, b = inputs
    shape = b.shape
    if attributes["transpose_b"] == "true":
        if len(shape) != 2:
            raise ValueError(f"transposes {len(shape)} axes")
        shape = shape[::-1]
    return Tensor(checked_types(inputs), product(a.shape, shape), depth=a.shape[-1])


def _normalize(inputs: Sequence[Tensor], attributes: Attributes) -> Tensor:
    x, axes = inputs
    if numbers_of(axes) != (-1,) or not x.shape:
        raise ValueError(f"normalises axes {numbers_of(axes)}")
    return Tensor(checked_types([x]), x.shape)


def _to_grid(inputs: Sequence[Tensor], attributes: Attributes) -> Tensor:
    x, *ends = inputs
    if any(end.shape not in ((), (1,)) for end in ends):
        raise ValueError("has more than one range")
    return Tensor(checked_types(inputs), x.shape)


def _mean(inputs: Sequence[Tensor], attributes: Attributes) -> Tensor:
    x, axes = inputs
    keep = attributes["keep_dims"] == "true"
    return Tensor(checked_types([x]), averaged(x.shape, numbers_of(axes), keep=keep))


def _slice(inputs: Sequence[Tensor], attributes: Attributes) -> Tensor:
    x = inputs[0]
    starts, ends, steps, axes = (numbers_of(value) for value in inputs[1:])
    return Tensor(checked_types([x]), sliced(x.shape, starts, ends, axes, steps))


def _pad(inputs: Sequence[Tensor], attributes: Attributes) -> Tensor:
    x, before, after, value = inputs
    if value.shape != ():
        raise ValueError(f"pads with {value.shape} values")
    shape = padded(x.shape, numbers_of(before), numbers_of(after))
    return Tensor(checked_types([x, value]), shape)


def _transpose(inputs: Sequence[Tensor], attributes: Attributes) -> Tensor:
    x, order = inputs
    if x.dtype != "uint8":  # pixels
        checked_types([x])
    return Tensor(x.dtype, transposed(x.shape, numbers_of(order)))


_NUMPY: Final = {"auto_broadcast": one_of("numpy")}

# Beside Parameter, Result and Const.
OPERATIONS: Final[Mapping[str, Operator]] = {
    "Add": Operator(inputs=(2,), make=elementwise, needs=_NUMPY, moving=2),
    "Convert": Operator(
        inputs=(1,),
        make=_convert,
        needs={"destination_type": one_of("f32", "u8")},
        of_weights=True,
    ),
    "Convolution": Operator(
        inputs=(2,),
        make=_convolution,
        needs={
            "strides": _PAIR,
            "dilations": one_of("1, 1"),
            "pads_begin": _PAIR,
            "pads_end": _PAIR,
            "auto_pad": one_of("explicit"),
        },
    ),
    "Divide": Operator(
        inputs=(2,), make=elementwise, needs={**_NUMPY, "m_pythondiv": one_of("true")}
    ),
    "Erf": Operator(inputs=(1,), make=same),
    "FakeQuantize": Operator(inputs=(5,), make=_to_grid, needs={**_NUMPY, "levels": one_of("256")}),
    "HSwish": Operator(version="opset4", inputs=(1,), make=same),
    "MVN": Operator(
        version="opset6",
        inputs=(2,),
        make=_normalize,
        needs={
            "eps": _SMALL,
            "normalize_variance": one_of("true"),
            "eps_mode": one_of("INSIDE_SQRT"),
        },
    ),
    "MatMul": Operator(
        inputs=(2,),
        make=_matmul,
        needs={"transpose_a": one_of("false"), "transpose_b": _FLAG},
        moving=2,
    ),
    "Multiply": Operator(inputs=(2,), make=elementwise, needs=_NUMPY, moving=2, of_weights=True),
    "Pad": Operator(
        version="opset12", inputs=(4,), make=_pad, needs={"pad_mode": one_of("constant")}
    ),
    "ReduceMean": Operator(inputs=(2,), make=_mean, needs={"keep_dims": _FLAG}),
    "Reshape": Operator(inputs=(2,), make=reshape, needs={"special_zero": one_of("true")}),
    "Sigmoid": Operator(inputs=(1,), make=same),
    "Slice": Operator(version="opset8", inputs=(5,), make=_slice),
    "SoftMax": Operator(version="opset8", inputs=(1,), make=same, needs={"axis": one_of("-1")}),
    "Subtract": Operator(inputs=(2,), make=elementwise, needs=_NUMPY),
    "Tanh": Operator(inputs=(1,), make=same),
    "Transpose": Operator(inputs=(2,), make=_transpose),
}
