"""Steps, buffers and arrays of a program, as a walk over a model collects them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from levit.models.layers import Linear as LinearLayer
from levit.models.ops import Array
from levit.native.payload import dtype_of
from levit.native.placement import place
from levit.native.program import (
    ArraySpec,
    Buffer,
    Input,
    Linear,
    Part,
    Program,
    Project,
    Step,
    padded,
)

__all__ = ["Builder", "Lowered", "specs_of"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Lowered:
    """A program and its arrays, in float64 or as they were read.

    Attributes:
        factors: by which a layer's weights and bias have been multiplied, by the weights' name,
            where that is not 1.
    """

    program: Program
    arrays: Mapping[str, Array]
    factors: Mapping[str, float] = field(default_factory=dict)


class Builder:
    """Collects a program.

    Attributes:
        stage: of the steps that are added from here on.
    """

    def __init__(self) -> None:
        self.stage = 0
        self._buffers: list[Buffer] = []
        self._steps: list[Step] = []
        self._arrays: dict[str, Array] = {}
        self._factors: dict[str, float] = {}

    def tokens(self, rows: int, columns: int) -> int:
        """The number of a new buffer of tokens."""
        return self._buffer(Buffer(rows=rows, columns=columns, stride=padded(columns), offset=0))

    def grid(self, height: int, width: int, channels: int) -> int:
        """The number of a new buffer of an image between convolutions."""
        rows = (height + 1) * (width + 1)
        return self._buffer(
            Buffer(rows=rows, columns=channels, stride=channels, offset=0, grid=(height, width))
        )

    def _buffer(self, buffer: Buffer) -> int:
        self._buffers.append(buffer)
        return len(self._buffers) - 1

    def rows(self, buffer: int) -> int:
        """Number of tokens in a buffer."""
        return self._buffers[buffer].rows

    def columns(self, buffer: int) -> int:
        """Number of channels in a buffer."""
        return self._buffers[buffer].columns

    def array(self, name: str, value: Array) -> str:
        """Keep an array under its name, which is returned."""
        self._arrays[name] = value
        return name

    def weights(self, name: str, layer: LinearLayer, factor: float = 1.0) -> tuple[str, str | None]:
        """(name of its weight, name of its bias or None) of a layer without norms.

        Args:
            factor: of all that it gives.
        """
        layer = layer.fold()
        weight = self.array(f"{name}.weight", _times(layer.weight, factor))
        if factor != 1:
            self._factors[weight] = factor
        if layer.bias is None:
            return weight, None
        return weight, self.array(f"{name}.bias", _times(layer.bias, factor))

    def add(self, step: Step) -> None:
        """Append a step."""
        self._steps.append(step)

    def linear(
        self,
        name: str,
        layer: LinearLayer,
        source: int,
        *,
        into: int | None = None,
        activation: str | None = None,
    ) -> int:
        """Apply a layer token by token; the number of the result's buffer.

        Args:
            into: number of a buffer to which the result is added in place; None for a new one.
        """
        target = self.tokens(self.rows(source), len(layer.weight)) if into is None else into
        weight, bias = self.weights(name, layer)
        self.add(
            Linear(
                name=name,
                stage=self.stage,
                source=source,
                target=target,
                weight=weight,
                bias=bias,
                activation=activation,
                residual=into,
            )
        )
        return target

    def project(self, name: str, source: int, heads: int, parts: Sequence[Part]) -> int:
        """Apply several layers at once; the number of their results' buffer."""
        columns = sum(heads * padded(part.width) for part in parts)
        target = self.tokens(self.rows(source), columns)
        self.add(
            Project(
                name=name,
                stage=self.stage,
                source=source,
                target=target,
                heads=heads,
                parts=tuple(parts),
            )
        )
        return target

    def finish(self, source: Input) -> Lowered:
        """The program, with every buffer in its place."""
        program = Program(
            input=source,
            buffers=place(self._buffers, self._steps),
            steps=tuple(self._steps),
            arrays=specs_of(self._arrays),
        )
        return Lowered(program=program, arrays=self._arrays, factors=self._factors)


def specs_of(arrays: Mapping[str, Array]) -> dict[str, ArraySpec]:
    """The dtype as which each array is written, and its shape."""
    return {
        name: ArraySpec(dtype=dtype_of(array), shape=tuple(map(int, array.shape)))
        for name, array in arrays.items()
    }


def _times(array: Array, factor: float) -> Array:
    return array if factor == 1 else array.astype(np.float64) * factor
