"""Shapes that each step needs: of the buffers that it reads and writes, and of its arrays."""

from __future__ import annotations

import math
from typing import Final

from levit.json_values import shown
from levit.native.program import (
    FLOAT32,
    SIGNED_BYTES,
    ArraySpec,
    Attention,
    Buffer,
    Conv,
    LayerNorm,
    Linear,
    Mean,
    Output,
    Part,
    Patches,
    Program,
    Project,
    Rows,
    Stack,
    Step,
    Subsample,
    View,
    padded,
)

__all__ = ["StepShapes", "require"]

_MOST_HEADS: Final = 4096
_MOST_PARTS: Final = 16
_MOST_AXES: Final = 8
# Of an epsilon: a normal float32, so that nothing is divided by 0.
_SMALLEST: Final = 2.0**-126
_LARGEST: Final = 1.0
_ACTIVATIONS: Final = (None, "hard_swish", "silu", "gelu", "tanh")
# (weights, bias) by the numbers of what they meet.
_WEIGHTS: Final = {
    "float32": ("float32", "float32"),
    "bfloat16": ("bfloat16", "float32"),
    "uint8": ("int8", "int32"),
}
# Bytes of queries, keys and values are signed ones plus this.
_SIGNED: Final = SIGNED_BYTES.zero_point


def require(condition: bool, words: str) -> None:
    """Raise ``ValueError`` with these words unless the condition holds."""
    if not condition:
        raise ValueError(words)


class StepShapes:
    """Checks steps one after another, in a program whose buffers are sound each by itself.

    Attributes:
        outputs: names so far.
        arrays_read: names so far.
    """

    def __init__(self, program: Program) -> None:
        self.outputs: set[str] = set()
        self.arrays_read: set[str] = set()
        self._program = program
        # By buffer: what the last Project has left there, (column, width, heads) of each part.
        self._projected: dict[int, set[tuple[int, int, int]]] = {}
        # Their values lie in blocks of columns, over all images: only an attention finds them.
        self._in_blocks = {step.target for step in program.steps if isinstance(step, Project)}

    def check(self, number: int, step: Step) -> None:
        """Check one step, whose buffers exist; raises ``ValueError``."""
        if isinstance(step, Output):
            self._output(step)
            return
        self._projected.pop(step.target, None)
        copy = getattr(step, "copy", None)
        if copy is not None:
            self._copy(copy, self._program.buffers[step.target])
        match step:
            case Conv():
                self._conv(number, step)
            case Linear():
                self._linear(step)
            case Project():
                self._project(step)
            case Attention():
                self._attention(step)
            case Subsample():
                self._subsample(step)
            case Mean():
                source = self._floats(step.source)
                require(step.first < source.rows, f"no row {step.first} of {source.rows}")
                self._holds(step.target, 1, source.columns)
            case Patches():
                self._patches(number, step)
            case LayerNorm():
                self._layer_norm(step)
            case Stack():
                self._stack(step)
            case Rows():
                self._rows(step)

    def _tokens(self, number: int, in_blocks: bool = False) -> Buffer:
        """The buffer of this number, of tokens."""
        buffer = self._program.buffers[number]
        require(buffer.grid is None, f"buffer {number} holds a grid")
        require((number in self._in_blocks) == in_blocks, f"buffer {number} is for attention alone")
        return buffer

    def _holds(self, number: int, rows: int, columns: int, in_blocks: bool = False) -> None:
        """Require a buffer of so many tokens and channels."""
        buffer = self._tokens(number, in_blocks)
        require(
            (buffer.rows, buffer.columns) == (rows, columns),
            f"buffer {number} has {buffer.rows} x {buffer.columns} values, not {rows} x {columns}",
        )

    def _floats(self, number: int) -> Buffer:
        """The buffer of this number, of float32 tokens."""
        buffer = self._tokens(number)
        require(buffer.numbers.dtype == "float32", f"buffer {number} holds no float32")
        return buffer

    def _copy(self, number: int, target: Buffer) -> None:
        """Require a buffer for the same values in other numbers."""
        copy = self._program.buffers[number]
        require(number not in self._in_blocks, f"buffer {number} is for attention alone")
        require(
            (copy.rows, copy.columns, copy.grid) == (target.rows, target.columns, target.grid),
            f"buffer {number} holds no copy of {target.rows} x {target.columns} values",
        )

    def _array(self, name: str | None, *shape: int, dtype: str = "float32") -> None:
        """Require an array of this dtype and shape, where there is one."""
        if name is None:
            return
        require(name in self._program.arrays, f"there is no array {shown(name)}")
        found, expected = self._program.arrays[name], ArraySpec(dtype=dtype, shape=shape)
        require(found == expected, f"array {shown(name)} is {found}, not {expected}")
        self.arrays_read.add(name)

    def _weights(self, layer: Conv | Linear | Part, dtype: str, *shape: int) -> None:
        """Require the arrays of a layer that reads numbers of this dtype."""
        weight, bias = _WEIGHTS[dtype]
        self._array(layer.weight, *shape, dtype=weight)
        self._array(layer.bias, shape[0], dtype=bias)
        require((layer.scale is not None) == (dtype == "uint8"), "integers and a scale go together")
        self._array(layer.scale, shape[0])

    def _conv(self, number: int, step: Conv) -> None:
        # Only the first step finds the picture in memory, and it does.
        require((step.source is None) == (number == 0), "only the first step reads the input")
        if step.source is None:
            source = self._program.input
            height, width, channels = source.height, source.width, source.channels
            dtype = source.numbers.dtype
        else:
            grid = self._program.buffers[step.source].grid
            require(grid is not None, f"buffer {step.source} holds no grid")
            assert grid is not None
            (height, width), channels = grid, self._program.buffers[step.source].columns
            dtype = self._program.buffers[step.source].numbers.dtype
        require(height % 2 == width % 2 == 0, f"a grid of {height}x{width}, which is odd")
        target, halves = self._program.buffers[step.target], (height // 2, width // 2)
        if target.grid is None:
            self._holds(step.target, math.prod(halves), target.columns)
        else:
            require(target.grid == halves, f"a grid of {target.grid}, not {halves}")
        self._weights(step, dtype, target.columns, channels, 3, 3)
        _check_activation(step.activation)

    def _linear(self, step: Linear) -> None:
        source, target = self._tokens(step.source), self._tokens(step.target)
        self._holds(step.target, source.rows, target.columns)
        if step.residual is not None:
            self._holds(step.residual, target.rows, target.columns)
            require(step.activation is None, "an activation and a residual at once")
            self._floats(step.target)
            self._floats(step.residual)
        self._weights(step, source.numbers.dtype, target.columns, source.columns)
        _check_activation(step.activation)

    def _project(self, step: Project) -> None:
        source = self._tokens(step.source)
        _check_heads(step.heads)
        require(1 <= len(step.parts) <= _MOST_PARTS, f"{len(step.parts)} parts")
        parts, column = set(), 0
        for part in step.parts:
            require(part.width >= 1, "a part without columns")
            self._weights(part, source.numbers.dtype, step.heads * part.width, source.columns)
            parts.add((column, part.width, step.heads))
            column += step.heads * padded(part.width)
        self._holds(step.target, source.rows, column, in_blocks=True)
        self._projected[step.target] = parts

    def _attention(self, step: Attention) -> None:
        _check_heads(step.heads)
        queries, keys, values = (
            self._view(view, step.heads) for view in (step.queries, step.keys, step.values)
        )
        require(step.queries.width == step.keys.width, "queries and keys of different widths")
        require(keys.rows == values.rows, "keys and values of different tokens")
        self._holds(step.target, queries.rows, step.heads * step.values.width)
        for table in (step.table, step.positions):
            self._array(table, step.heads, queries.rows, keys.rows)
        require(step.rest is None or step.positions is not None, "a rest without positions")
        self._array(step.rest, step.heads)
        numbers = [buffer.numbers for buffer in (queries, keys, values)]
        require(len({n.dtype for n in numbers}) == 1, "queries, keys and values of several dtypes")
        integers = numbers[0].dtype == "uint8"
        signed = all(n.zero_point == _SIGNED for n in numbers)
        require(signed or not integers, f"bytes whose zero point is not {_SIGNED}")
        for name in (step.score_scale, step.value_scale):
            require((name is not None) == integers, "integers and their scales go together")
        require(step.positions is None or not integers, "positions beside integers")
        self._array(step.score_scale, step.heads)
        self._array(step.value_scale, step.heads * step.values.width)
        require(integers or step.value_offset is None, "an offset of values that are no bytes")
        self._array(step.value_offset, step.heads * step.values.width)
        _check_activation(step.activation)

    def _view(self, view: View, heads: int) -> Buffer:
        """The buffer of a view, which a Project has filled with just that."""
        require(
            (view.column, view.width, heads) in self._projected.get(view.buffer, ()),
            f"buffer {view.buffer} has no part of {heads} heads of {view.width} columns at column "
            f"{view.column}",
        )
        return self._program.buffers[view.buffer]

    def _subsample(self, step: Subsample) -> None:
        source, (height, width) = self._tokens(step.source), step.grid
        require(
            min(height, width) >= 1 and source.rows == height * width,
            f"{source.rows} tokens are no grid of {shown(step.grid)}",
        )
        require(step.step >= 1, f"a step of {step.step}")
        rows = -(-height // step.step) * -(-width // step.step)
        self._holds(step.target, rows, source.columns)
        target = self._program.buffers[step.target]
        require(
            source.numbers in (FLOAT32, target.numbers),
            f"buffer {step.source} holds other numbers than buffer {step.target}",
        )

    def _patches(self, number: int, step: Patches) -> None:
        # As of a convolution: only the first step finds the picture in memory.
        require(number == 0, "only the first step reads the input")
        source, size = self._program.input, step.size
        require(source.numbers == FLOAT32, "patches of pixels in other numbers than float32")
        require(
            size >= 1 and source.height % size == source.width % size == 0,
            f"{source.height}x{source.width} pixels in squares of {size}",
        )
        squares = (source.height // size) * (source.width // size)
        self._holds(step.target, step.first + squares, source.channels * size * size)

    def _layer_norm(self, step: LayerNorm) -> None:
        source = self._floats(step.source)
        self._holds(step.target, source.rows, source.columns)
        require(_SMALLEST <= step.eps <= _LARGEST, f"an epsilon of {step.eps}")
        require((step.weight is None) == (step.bias is None), "a weight without a bias, or one")
        self._array(step.weight, source.columns)
        self._array(step.bias, source.columns)

    def _stack(self, step: Stack) -> None:
        target = self._floats(step.target)
        below = 0
        if step.source is not None:
            source = self._floats(step.source)
            below = source.rows
            require(source.columns == target.columns, f"{source.columns} columns on others")
        require(below < target.rows, f"no row above {below}")
        self._array(step.rows, target.rows - below, target.columns)

    def _rows(self, step: Rows) -> None:
        source, target = self._tokens(step.source), self._tokens(step.target)
        require(
            step.together >= 1 and step.first + target.rows * step.together <= source.rows,
            f"{target.rows} times {step.together} rows from {step.first}, of {source.rows}",
        )
        self._holds(step.target, target.rows, step.together * source.columns)
        require(
            source.numbers in (FLOAT32, target.numbers),
            f"buffer {step.source} holds other numbers than buffer {step.target}",
        )

    def _output(self, step: Output) -> None:
        source = self._floats(step.source)
        require(step.name not in self.outputs, "there is another output of that name")
        require(
            len(step.shape) <= _MOST_AXES and math.prod(step.shape) == source.rows * source.columns,
            f"{source.rows} x {source.columns} values are not of shape {shown(step.shape)}",
        )
        self.outputs.add(step.name)


def _check_heads(heads: int) -> None:
    require(1 <= heads <= _MOST_HEADS, f"{heads} heads")


def _check_activation(name: str | None) -> None:
    require(name in _ACTIVATIONS, f"there is no activation {shown(name)}")
