"""Steps, buffers and arrays of a program, as a walk over a model collects them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from levit.models.layers import LayerNorm as LayerNormLayer
from levit.models.layers import Linear as LinearLayer
from levit.models.model import Model
from levit.models.ops import Array
from levit.native.payload import dtype_of
from levit.native.placement import place
from levit.native.program import (
    ArraySpec,
    Buffer,
    Input,
    LayerNorm,
    Linear,
    Mean,
    Output,
    Part,
    Program,
    Project,
    Rows,
    Stack,
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

    def part(self, name: str, layer: LinearLayer, heads: int, factor: float = 1.0) -> Part:
        """A layer that is computed together with others; `factor` as of `weights`."""
        weight, bias = self.weights(name, layer, factor)
        return Part(weight=weight, bias=bias, width=len(layer.weight) // heads)

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

    def norm(self, name: str, layer: LayerNormLayer | None, source: int) -> int:
        """Normalise tokens; the number of the result's buffer, `source` where there is no layer."""
        if layer is None:
            return source
        weight, bias = layer.weight, layer.bias
        target = self.tokens(self.rows(source), self.columns(source))
        self.add(
            LayerNorm(
                name=name,
                stage=self.stage,
                source=source,
                target=target,
                eps=layer.eps,
                weight=None if weight is None else self.array(f"{name}.weight", weight),
                bias=None if bias is None else self.array(f"{name}.bias", bias),
            )
        )
        return target

    def stack(self, name: str, rows: Array, source: int | None = None) -> int:
        """Rows on top of those of a buffer, if there is one; the number of the result's."""
        below = 0 if source is None else self.rows(source)
        target = self.tokens(len(rows) + below, rows.shape[1])
        array = self.array(f"{name}.rows", rows)
        self.add(Stack(name=name, stage=self.stage, rows=array, source=source, target=target))
        return target

    def pick(self, name: str, source: int, count: int, *, first: int = 0, together: int = 1) -> int:
        """Take some tokens, from the `first`; the number of their buffer.

        Args:
            count: of rows in it.
            together: tokens side by side in each.
        """
        target = self.tokens(count, together * self.columns(source))
        self.add(
            Rows(
                name=name,
                stage=self.stage,
                source=source,
                target=target,
                first=first,
                together=together,
            )
        )
        return target

    def mean(self, name: str, source: int, first: int = 0) -> int:
        """Average tokens from the `first`; the number of the result's buffer, of one row."""
        target = self.tokens(1, self.columns(source))
        self.add(Mean(name=name, stage=self.stage, source=source, target=target, first=first))
        return target

    def outputs(self, model: Model, sources: Mapping[str, int]) -> None:
        """Give the outputs of the model's plan, in its order, from the buffers of these names."""
        for name in model.plan.outputs:
            layout, shape = model.family.output_layout(model.config, name)
            self.add(
                Output(
                    name=name,
                    stage=self.stage,
                    source=sources[name],
                    transposed=layout == "NCHW",
                    shape=shape,
                )
            )

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
