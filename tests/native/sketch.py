"""Small programs for the kernels' own tests: steps on given arrays, each value there to be seen."""

import numpy as np

from levit.native.check import check
from levit.native.engine import Engine
from levit.native.payload import dtype_of
from levit.native.placement import place
from levit.native.program import (
    ArraySpec,
    Attention,
    Buffer,
    Conv,
    Input,
    Linear,
    Mean,
    Output,
    Part,
    Program,
    Project,
    Subsample,
    View,
    padded,
)


class Sketch:
    """A program in the making; buffers lie where the compiler would put them.

    Attributes:
        stage: of the steps that come next.
    """

    def __init__(self, channels, height, width, *, dtype="float32", scale=None, shift=None):
        self.input = Input(
            name="image", dtype=dtype, channels=channels, height=height, width=width,
            scale=scale, shift=shift,
        )  # fmt: skip
        self.stage = 0
        self._buffers, self._steps, self._arrays = [], [], {}

    @classmethod
    def of_tokens(cls, grid, columns):
        """A program whose buffer 0 holds tokens as they are given to `pictures`."""
        sketch = cls(columns, 2 * grid[0], 2 * grid[1])
        weight = np.zeros((columns, columns, 3, 3), np.float32)
        weight[:, :, 1, 1] = np.eye(columns)
        sketch.conv(None, weight)
        return sketch

    def pictures(self, tokens):
        """(B, tokens, columns) → the batch whose convolution by `of_tokens` gives just these."""
        source = self.input
        batch = np.zeros((len(tokens), source.channels, source.height, source.width), np.float32)
        grid = batch[:, :, ::2, ::2]
        grid[:] = tokens.swapaxes(1, 2).reshape(grid.shape)
        return batch

    def _array(self, values):
        if values is None:
            return None
        name = f"array.{len(self._arrays)}"
        self._arrays[name] = np.ascontiguousarray(values, np.float32)
        return name

    def _buffer(self, rows, columns, grid=None):
        stride = columns if grid else padded(columns)
        self._buffers.append(Buffer(rows=rows, columns=columns, stride=stride, offset=0, grid=grid))
        return len(self._buffers) - 1

    def _add(self, kind, **values):
        name = f"step.{len(self._steps)}"
        self._steps.append(kind(name=name, stage=self.stage, **values))
        return values.get("target")

    def rows(self, number):
        return self._buffers[number].rows

    def conv(self, source, weight, bias=None, activation=None, *, to_grid=False):
        height, width = (
            (self.input.height, self.input.width) if source is None else self._buffers[source].grid
        )
        height, width = height // 2, width // 2
        target = (
            self._buffer((height + 1) * (width + 1), len(weight), (height, width))
            if to_grid
            else self._buffer(height * width, len(weight))
        )
        weight, bias = self._array(weight), self._array(bias)
        return self._add(
            Conv, source=source, target=target, weight=weight, bias=bias, activation=activation
        )

    def linear(self, source, weight, bias=None, activation=None, *, residual=None, target=None):
        if target is None:
            target = self._buffer(self.rows(source), len(weight))
        weight, bias = self._array(weight), self._array(bias)
        return self._add(
            Linear, source=source, target=target, weight=weight, bias=bias, activation=activation,
            residual=residual,
        )  # fmt: skip

    def project(self, source, heads, parts):
        """Parts are (weight, bias); returns the view of each."""
        named, views, column = [], [], 0
        for weight, bias in parts:
            width = len(weight) // heads
            named.append(Part(weight=self._array(weight), bias=self._array(bias), width=width))
            views.append((column, width))
            column += heads * padded(width)
        target = self._buffer(self.rows(source), column)
        self._add(Project, source=source, target=target, heads=heads, parts=tuple(named))
        return [View(buffer=target, column=first, width=width) for first, width in views]

    def attention(self, queries, keys, values, heads, table=None, activation=None):
        target = self._buffer(self.rows(queries.buffer), heads * values.width)
        return self._add(
            Attention, queries=queries, keys=keys, values=values, target=target, heads=heads,
            table=self._array(table), activation=activation,
        )  # fmt: skip

    def subsample(self, source, grid, step):
        rows = -(-grid[0] // step) * -(-grid[1] // step)
        target = self._buffer(rows, self._buffers[source].columns)
        return self._add(Subsample, source=source, target=target, grid=grid, step=step)

    def mean(self, source):
        return self._add(Mean, source=source, target=self._buffer(1, self._buffers[source].columns))

    def output(self, source, *, transposed=False):
        """Show a buffer; returns the number of the output."""
        buffer = self._buffers[source]
        shape = (buffer.rows, buffer.columns)
        number = sum(isinstance(step, Output) for step in self._steps)
        self._add_output(str(number), source, transposed, shape[::-1] if transposed else shape)
        return number

    def _add_output(self, name, source, transposed, shape):
        self._steps.append(
            Output(name=name, stage=self.stage, source=source, transposed=transposed, shape=shape)
        )

    def build(self):
        """The program, which `check` has passed, and its arrays."""
        arrays = self._arrays
        program = Program(
            input=self.input,
            buffers=place(self._buffers, self._steps),
            steps=tuple(self._steps),
            arrays={
                name: ArraySpec(dtype=dtype_of(array), shape=array.shape)
                for name, array in arrays.items()
            },
        )
        check(program, program.arrays)
        return program, arrays

    def open(self, isa, threads=1):
        program, arrays = self.build()
        return Engine(program, arrays.__getitem__, threads=threads, isa=isa)

    def run(self, batch, isa, threads=1):
        """Outputs in their order, (B, …) each, from memory that a batch of NaN has been through."""
        engine = self.open(isa, threads)
        if batch.dtype == np.float32:
            engine.run(np.full(batch.shape, np.nan, np.float32))
        return list(engine.run(np.ascontiguousarray(batch)).values())
