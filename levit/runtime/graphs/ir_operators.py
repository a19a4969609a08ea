"""Every operation of OpenVINO's IR that `levit export` writes, with its attributes and result.

Source: docs.openvino.ai, "Available Operation Sets".
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, TypeAlias

from levit.runtime.graphs.budget import checked_types
from levit.runtime.graphs.shapes import (
    FLOATS,
    Shape,
    Tensor,
    averaged,
    broadcast,
    convolved,
    numbers_of,
    padded,
    product,
    reshaped,
    sliced,
    transposed,
)

__all__ = ["DTYPES", "OPERATIONS", "Operation"]

# As an attribute spells it; a port has it in capitals, and other names for floats.
DTYPES: Final = {
    "f32": "float32", "f16": "float16", "bf16": "bfloat16", "u8": "uint8", "i8": "int8",
    "i64": "int64",
}  # fmt: skip

_Attributes: TypeAlias = Mapping[str, str]
_Make: TypeAlias = Callable[[Sequence[Tensor], _Attributes], Tensor]

_FLAG: Final = "true|false"
_SMALL: Final = r"[1-9]\.?\d{0,20}e-\d{1,2}"  # a float between 0 and 1
_PAIR: Final = r"\d{1,4}, \d{1,4}"


@dataclass(frozen=True, kw_only=True)
class Operation:
    """One operation.

    Attributes:
        version: its operation set.
        inputs: how many it has.
        make: the value that it makes; raises ValueError with the end of a sentence.
        attributes: all that it has, each with the pattern of its text.
        moving: how many of its inputs, from the first, may depend on the network's input.
        of_weights: all of them may be weights.
    """

    version: str
    inputs: int
    make: _Make
    attributes: Mapping[str, str] = field(default_factory=dict)
    moving: int = 1
    of_weights: bool = False

    def check(self, version: str, found: _Attributes) -> None:
        """Raise ValueError where the version or an attribute is another."""
        if version != self.version:
            raise ValueError(f"is of {version!r}")
        if found.keys() != self.attributes.keys():
            odd = sorted(found.keys() ^ self.attributes.keys())
            raise ValueError(f"has more or fewer attributes than {odd[0]!r}")
        for name, pattern in self.attributes.items():
            if not re.fullmatch(pattern, found[name]):
                raise ValueError(f"has {name} {found[name]!r}")


def _pair(text: str) -> Shape:
    return tuple(map(int, text.split(", ")))


def _same(inputs: Sequence[Tensor], attributes: _Attributes) -> Tensor:
    return Tensor(checked_types(inputs), inputs[0].shape)


def _elementwise(inputs: Sequence[Tensor], attributes: _Attributes) -> Tensor:
    return Tensor(checked_types(inputs), broadcast(inputs[0].shape, inputs[1].shape))


def _convert(inputs: Sequence[Tensor], attributes: _Attributes) -> Tensor:
    (x,) = inputs
    made = DTYPES[attributes["destination_type"]]
    stored = FLOATS | {"int8"} if x.fixed else {"uint8"}
    # Pixels, weights and integers become numbers; numbers become integers of a grid.
    if (made == "float32") != (x.dtype in stored) or (made == "uint8" and x.dtype != "float32"):
        raise ValueError(f"makes {made} of {x.dtype}")
    return Tensor(made, x.shape)


def _convolution(inputs: Sequence[Tensor], attributes: _Attributes) -> Tensor:
    x, weight = inputs
    strides = _pair(attributes["strides"])
    pads = _pair(attributes["pads_begin"]) + _pair(attributes["pads_end"])
    shape = convolved(x.shape, weight.shape, strides, pads)
    _, channels, height, width = weight.shape
    return Tensor(checked_types(inputs), shape, depth=channels * height * width)


def _matmul(inputs: Sequence[Tensor], attributes: _Attributes) -> Tensor:
    a, b = inputs
    shape = b.shape
    if attributes["transpose_b"] == "true":
        if len(shape) != 2:
            raise ValueError(f"transposes {len(shape)} axes")
        shape = shape[::-1]
    return Tensor(checked_types(inputs), product(a.shape, shape), depth=a.shape[-1])


def _normalize(inputs: Sequence[Tensor], attributes: _Attributes) -> Tensor:
    x, axes = inputs
    if numbers_of(axes) != (-1,) or not x.shape:
        raise ValueError(f"normalises axes {numbers_of(axes)}")
    return Tensor(checked_types([x]), x.shape)


def _to_grid(inputs: Sequence[Tensor], attributes: _Attributes) -> Tensor:
    x, *ends = inputs
    if any(end.shape not in ((), (1,)) for end in ends):
        raise ValueError("has more than one range")
    return Tensor(checked_types(inputs), x.shape)


def _mean(inputs: Sequence[Tensor], attributes: _Attributes) -> Tensor:
    x, axes = inputs
    keep = attributes["keep_dims"] == "true"
    return Tensor(checked_types([x]), averaged(x.shape, numbers_of(axes), keep=keep))


def _reshape(inputs: Sequence[Tensor], attributes: _Attributes) -> Tensor:
    x, shape = inputs
    return Tensor(checked_types([x]), reshaped(x.shape, numbers_of(shape)))


def _slice(inputs: Sequence[Tensor], attributes: _Attributes) -> Tensor:
    x = inputs[0]
    starts, ends, steps, axes = (numbers_of(value) for value in inputs[1:])
    return Tensor(checked_types([x]), sliced(x.shape, starts, ends, axes, steps))


def _pad(inputs: Sequence[Tensor], attributes: _Attributes) -> Tensor:
    x, before, after, value = inputs
    if value.shape != ():
        raise ValueError(f"pads with {value.shape} values")
    shape = padded(x.shape, numbers_of(before), numbers_of(after))
    return Tensor(checked_types([x, value]), shape)


def _transpose(inputs: Sequence[Tensor], attributes: _Attributes) -> Tensor:
    x, order = inputs
    if x.dtype != "uint8":  # pixels
        checked_types([x])
    return Tensor(x.dtype, transposed(x.shape, numbers_of(order)))


def _unary(version: str) -> Operation:
    return Operation(version=version, inputs=1, make=_same)


_NUMPY: Final = {"auto_broadcast": "numpy"}
_BINARY: Final = Operation(
    version="opset1", inputs=2, make=_elementwise, attributes=_NUMPY, moving=2
)

# Beside Parameter, Result and Const.
OPERATIONS: Final[Mapping[str, Operation]] = {
    "Add": _BINARY,
    "Convert": Operation(
        version="opset1",
        inputs=1,
        make=_convert,
        attributes={"destination_type": "f32|u8"},
        of_weights=True,
    ),
    "Convolution": Operation(
        version="opset1",
        inputs=2,
        make=_convolution,
        attributes={
            "strides": _PAIR,
            "dilations": "1, 1",
            "pads_begin": _PAIR,
            "pads_end": _PAIR,
            "auto_pad": "explicit",
        },
    ),
    "Divide": Operation(
        version="opset1",
        inputs=2,
        make=_elementwise,
        attributes={**_NUMPY, "m_pythondiv": "true"},
    ),
    "Erf": _unary("opset1"),
    "FakeQuantize": Operation(
        version="opset1", inputs=5, make=_to_grid, attributes={**_NUMPY, "levels": "256"}
    ),
    "HSwish": _unary("opset4"),
    "MVN": Operation(
        version="opset6",
        inputs=2,
        make=_normalize,
        attributes={"eps": _SMALL, "normalize_variance": "true", "eps_mode": "INSIDE_SQRT"},
    ),
    "MatMul": Operation(
        version="opset1",
        inputs=2,
        make=_matmul,
        attributes={"transpose_a": "false", "transpose_b": _FLAG},
        moving=2,
    ),
    "Multiply": Operation(
        version="opset1",
        inputs=2,
        make=_elementwise,
        attributes=_NUMPY,
        moving=2,
        of_weights=True,
    ),
    "Pad": Operation(version="opset12", inputs=4, make=_pad, attributes={"pad_mode": "constant"}),
    "ReduceMean": Operation(
        version="opset1", inputs=2, make=_mean, attributes={"keep_dims": _FLAG}
    ),
    "Reshape": Operation(
        version="opset1", inputs=2, make=_reshape, attributes={"special_zero": "true"}
    ),
    "Sigmoid": _unary("opset1"),
    "Slice": Operation(version="opset8", inputs=5, make=_slice),
    "SoftMax": Operation(version="opset8", inputs=1, make=_same, attributes={"axis": "-1"}),
    "Subtract": Operation(version="opset1", inputs=2, make=_elementwise, attributes=_NUMPY),
    "Tanh": _unary("opset1"),
    "Transpose": Operation(version="opset1", inputs=2, make=_transpose),
}
