"""Shapes that each step needs: of the buffers that it reads and writes, and of its arrays."""

from __future__ import annotations

import math
from typing import Final

from levit.json_values import shown
from levit.native.program import (
    Attention,
    Buffer,
    Conv,
    Linear,
    Mean,
    Output,
    Program,
    Project,
    Step,
    Subsample,
    View,
    padded,
)

__all__ = ["StepShapes", "require"]

_MOST_HEADS: Final = 4096
_MOST_PARTS: Final = 16
_MOST_AXES: Final = 8
_ACTIVATIONS: Final = (None, "hard_swish", "silu", "gelu")


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
                self._holds(step.target, 1, self._tokens(step.source).columns)

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

    def _array(self, name: str | None, *shape: int) -> None:
        """Require an array of this shape, where there is one."""
        if name is None:
            return
        found = self._program.arrays.get(name)
        require(found == shape, f"array {shown(name)} has shape {shown(found)}, not {shape}")
        self.arrays_read.add(name)

    def _conv(self, number: int, step: Conv) -> None:
        # Only the first step finds the picture in memory, and it does.
        require((step.source is None) == (number == 0), "only the first step reads the input")
        if step.source is None:
            source = self._program.input
            height, width, channels = source.height, source.width, source.channels
        else:
            grid = self._program.buffers[step.source].grid
            require(grid is not None, f"buffer {step.source} holds no grid")
            assert grid is not None
            (height, width), channels = grid, self._program.buffers[step.source].columns
        require(height % 2 == width % 2 == 0, f"a grid of {height}x{width}, which is odd")
        target, halves = self._program.buffers[step.target], (height // 2, width // 2)
        if target.grid is None:
            self._holds(step.target, math.prod(halves), target.columns)
        else:
            require(target.grid == halves, f"a grid of {target.grid}, not {halves}")
        self._array(step.weight, target.columns, channels, 3, 3)
        self._array(step.bias, target.columns)
        _check_activation(step.activation)

    def _linear(self, step: Linear) -> None:
        source, target = self._tokens(step.source), self._tokens(step.target)
        self._holds(step.target, source.rows, target.columns)
        if step.residual is not None:
            self._holds(step.residual, target.rows, target.columns)
            require(step.activation is None, "an activation and a residual at once")
        self._array(step.weight, target.columns, source.columns)
        self._array(step.bias, target.columns)
        _check_activation(step.activation)

    def _project(self, step: Project) -> None:
        source = self._tokens(step.source)
        _check_heads(step.heads)
        require(1 <= len(step.parts) <= _MOST_PARTS, f"{len(step.parts)} parts")
        parts, column = set(), 0
        for part in step.parts:
            require(part.width >= 1, "a part without columns")
            self._array(part.weight, step.heads * part.width, source.columns)
            self._array(part.bias, step.heads * part.width)
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
        self._array(step.table, step.heads, queries.rows, keys.rows)
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

    def _output(self, step: Output) -> None:
        source = self._tokens(step.source)
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
