"""Operators of ONNX and of OpenVINO's IR: one entry of their tables, and what both have.

Every function that makes a value raises ValueError with the end of a sentence about the operator.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from levit.runtime.graphs.shapes import FLOATS, Tensor, broadcast, numbers_of, reshaped

__all__ = [
    "Attributes",
    "Operator",
    "Test",
    "checked_types",
    "elementwise",
    "one_of",
    "reshape",
    "same",
]

Attributes: TypeAlias = Mapping[str, Any]
Make: TypeAlias = Callable[[Sequence[Tensor], Attributes], Tensor]
Test: TypeAlias = Callable[[Any], object]


@dataclass(frozen=True, kw_only=True)
class Operator:
    """One operator.

    Attributes:
        inputs: numbers of inputs that it may have.
        make: function from the values that it reads, and its attributes, to the one that it makes.
        needs: attributes that it has, each with a test of its value.
        may: attributes that it may have.
        moving: how many of its inputs, from the first, may depend on the network's input.
        of_weights: all of them may be weights.
        version: its operation set, in OpenVINO.
    """

    inputs: tuple[int, ...]
    make: Make
    needs: Mapping[str, Test] = field(default_factory=dict)
    may: Mapping[str, Test] = field(default_factory=dict)
    moving: int = 1
    of_weights: bool = False
    version: str = "opset1"

    def apply(self, reads: Sequence[Tensor], attributes: Attributes) -> Tensor:
        """Make the value of one node.

        Raises:
            ValueError: levit writes no such node.
        """
        if len(reads) not in self.inputs:
            raise ValueError(f"has {len(reads)} inputs")
        for name, test in self.needs.items():
            if name not in attributes or not test(attributes[name]):
                raise ValueError(f"has {name} {attributes.get(name)!r}")
        for name, value in attributes.items():
            if name not in self.needs and not (name in self.may and self.may[name](value)):
                raise ValueError(f"has {name} {value!r}")
        if not all(value.fixed for value in reads[self.moving :]):
            raise ValueError("computes what is a weight in levit's networks")
        fixed = reads[0].fixed
        if fixed and not (self.of_weights and all(value.fixed for value in reads)):
            raise ValueError("computes with weights alone")
        made = self.make(reads, attributes)
        return made._replace(fixed=True) if fixed else made


def one_of(*values: object) -> Test:
    """Make a test for one of these values, of the same type: 1 is not 1.0."""
    return lambda x: any(type(x) is type(value) and x == value for value in values)


def checked_types(inputs: Sequence[Tensor]) -> str:
    """Return the one float type that all inputs have."""
    dtype = inputs[0].dtype
    if dtype not in FLOATS or any(x.dtype != dtype for x in inputs):
        raise ValueError(f"reads {', '.join(x.dtype for x in inputs)}")
    return dtype


def same(inputs: Sequence[Tensor], attributes: Attributes) -> Tensor:
    """Make a value like the first, as an activation does."""
    return Tensor(checked_types(inputs), inputs[0].shape)


def elementwise(inputs: Sequence[Tensor], attributes: Attributes) -> Tensor:
    """Combine two values, the second repeated over the first."""
    return Tensor(checked_types(inputs), broadcast(inputs[0].shape, inputs[1].shape))


def reshape(inputs: Sequence[Tensor], attributes: Attributes) -> Tensor:
    """Give the first value the shape that the second, a stored list, states."""
    x, shape = inputs
    return Tensor(checked_types([x]), reshaped(x.shape, numbers_of(shape)))
