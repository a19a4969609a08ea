"""Small programs for the kernels' own tests: steps on given arrays, each value there to be seen."""

import os

import numpy as np

from levit.native.check import check
from levit.native.engine import Engine
from levit.native.interpreter import interpret
from levit.native.library import load_library
from levit.native.payload import dtype_of
from levit.native.placement import place
from levit.native.program import (
    FLOAT32,
    ArraySpec,
    Attention,
    Buffer,
    Conv,
    Input,
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
    Subsample,
    View,
    padded,
)
from levit.native.widening import widened

# With a sanitizer a test takes five to ten times as long.
SANITIZED = bool(os.environ.get("LEVIT_SANITIZED"))


def sizes(last):
    """Numbers from 1 on; for a sanitizer those at the ends of vectors, where memory is missed."""
    return [n for n in range(1, last + 1) if not SANITIZED or n % 8 in (0, 1, 7)]


def chosen_isas():
    """Instruction sets that tests run: all that this CPU has, or those in LEVIT_TEST_ISAS."""
    isas, wanted = load_library().isas, os.environ.get("LEVIT_TEST_ISAS", "").split()
    assert set(wanted) <= set(isas), f"LEVIT_TEST_ISAS={wanted}, and there are {isas}"
    return tuple(name for name in isas if name in wanted or not wanted)


def bfloat16_bits(values):
    """The bits of the nearest bfloat16s."""
    bits = np.asarray(values, np.float32).view(np.uint32)
    return ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype(np.uint16)


def of_bfloat16(bits):
    return (bits.astype(np.uint32) << 16).view(np.float32)


class Sketch:
    """A program in the making; buffers lie where the compiler would put them.

    Attributes:
        stage: of the steps that come next.
    """

    def __init__(
        self, channels, height, width, *, dtype="float32", scale=None, shift=None,
        numbers=FLOAT32, border=None,
    ):  # fmt: skip
        self.input = Input(
            name="image", dtype=dtype, channels=channels, height=height, width=width,
            scale=scale, shift=shift, numbers=numbers, border=border,
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
        name, values = f"array.{len(self._arrays)}", np.asarray(values)
        kept = values.dtype in (np.int8, np.int32, np.uint16)
        self._arrays[name] = np.ascontiguousarray(values, None if kept else np.float32)
        return name

    def _arrays_of(self, weight, bias, scale=None):
        """Weights in the form that their source asks for; integers with a scale for each column."""
        if np.asarray(weight).dtype == np.int8 and scale is None:
            scale = np.ones(len(weight))
        named = (self._array(values) for values in (weight, bias, scale))
        return dict(zip(("weight", "bias", "scale"), named, strict=True))

    def _buffer(self, rows, columns, grid=None, numbers=FLOAT32):
        stride = numbers.grid_stride(columns) if grid else padded(columns)
        self._buffers.append(
            Buffer(rows=rows, columns=columns, stride=stride, offset=0, grid=grid, numbers=numbers)
        )
        return len(self._buffers) - 1

    def _like(self, number, numbers):
        """A buffer like another in other numbers; None for None."""
        if numbers is None:
            return None
        buffer = self._buffers[number]
        return self._buffer(buffer.rows, buffer.columns, buffer.grid, numbers)

    def _add(self, kind, **values):
        name = f"step.{len(self._steps)}"
        self._steps.append(kind(name=name, stage=self.stage, **values))
        return values.get("target")

    def rows(self, number):
        return self._buffers[number].rows

    def numbers(self, number):
        return self._buffers[number].numbers

    def conv(
        self, source, weight, bias=None, activation=None, *,
        to_grid=False, scale=None, numbers=FLOAT32, copy=None,
    ):  # fmt: skip
        """Numbers of `copy`: the buffer of the copy is the next."""
        height, width = (
            (self.input.height, self.input.width) if source is None else self._buffers[source].grid
        )
        height, width = height // 2, width // 2
        target = (
            self._buffer((height + 1) * (width + 1), len(weight), (height, width), numbers)
            if to_grid
            else self._buffer(height * width, len(weight), None, numbers)
        )
        return self._add(
            Conv, source=source, target=target, activation=activation,
            copy=self._like(target, copy), **self._arrays_of(weight, bias, scale),
        )  # fmt: skip

    def linear(
        self, source, weight, bias=None, activation=None, *,
        residual=None, target=None, scale=None, numbers=FLOAT32, copy=None,
    ):  # fmt: skip
        """Numbers of `copy`: the buffer of the copy is the last that is made."""
        if target is None:
            target = self._buffer(self.rows(source), len(weight), None, numbers)
        return self._add(
            Linear, source=source, target=target, activation=activation, residual=residual,
            copy=self._like(target, copy), **self._arrays_of(weight, bias, scale),
        )  # fmt: skip

    def last(self):
        """The number of the buffer that was made last."""
        return len(self._buffers) - 1

    def project(self, source, heads, parts, *, numbers=FLOAT32):
        """Parts are (weight, bias) or (weight, bias, scale); returns the view of each."""
        named, views, column = [], [], 0
        for part in parts:
            width = len(part[0]) // heads
            named.append(Part(width=width, **self._arrays_of(*part)))
            views.append((column, width))
            column += heads * padded(width)
        target = self._buffer(self.rows(source), column, None, numbers)
        self._add(Project, source=source, target=target, heads=heads, parts=tuple(named))
        return [View(buffer=target, column=first, width=width) for first, width in views]

    def attention(
        self, queries, keys, values, heads, table=None, activation=None, *,
        scales=(None, None, None), positions=None, rest=None, numbers=FLOAT32,
    ):  # fmt: skip
        """Scales are of the scores and the values, and the values' offset; of bytes only."""
        target = self._buffer(self.rows(queries.buffer), heads * values.width, None, numbers)
        return self._add(
            Attention, queries=queries, keys=keys, values=values, target=target, heads=heads,
            table=self._array(table), activation=activation,
            score_scale=self._array(scales[0]), value_scale=self._array(scales[1]),
            value_offset=self._array(scales[2]),
            positions=self._array(positions), rest=self._array(rest),
        )  # fmt: skip

    def subsample(self, source, grid, step, *, numbers=FLOAT32):
        rows = -(-grid[0] // step) * -(-grid[1] // step)
        target = self._buffer(rows, self._buffers[source].columns, None, numbers)
        return self._add(Subsample, source=source, target=target, grid=grid, step=step)

    def convert(self, source, numbers):
        """All tokens in other numbers."""
        return self.subsample(source, (1, self.rows(source)), 1, numbers=numbers)

    def mean(self, source, first=0, *, numbers=FLOAT32):
        target = self._buffer(1, self._buffers[source].columns, None, numbers)
        return self._add(Mean, source=source, target=target, first=first)

    def show(self, source):
        """Show tokens in any numbers, by a product that rounds nothing where they are not float32.

        Bytes are shown as they are above their zero point.
        """
        dtype, columns = self.numbers(source).dtype, self._buffers[source].columns
        if dtype == "float32":
            return self.output(source)
        eye = np.eye(columns)
        one = eye.astype(np.int8) if dtype == "uint8" else bfloat16_bits(eye)
        return self.output(self.linear(source, one))

    def patches(self, size, first=0, *, numbers=FLOAT32):
        source = self.input
        squares = (source.height // size) * (source.width // size)
        target = self._buffer(first + squares, source.channels * size * size, None, numbers)
        return self._add(Patches, target=target, size=size, first=first)

    def layer_norm(self, source, eps, weight=None, bias=None, *, numbers=FLOAT32):
        target = self._buffer(self.rows(source), self._buffers[source].columns, None, numbers)
        weight, bias = self._array(weight), self._array(bias)
        return self._add(LayerNorm, source=source, target=target, eps=eps, weight=weight, bias=bias)

    def stack(self, rows, source=None):
        below = 0 if source is None else self.rows(source)
        target = self._buffer(len(rows) + below, rows.shape[1])
        return self._add(Stack, rows=self._array(rows), source=source, target=target)

    def pick(self, source, count, *, first=0, together=1, numbers=FLOAT32):
        target = self._buffer(count, together * self._buffers[source].columns, None, numbers)
        return self._add(Rows, source=source, target=target, first=first, together=together)

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

    def check(self, batch, threads=(1,), name=""):
        """Require the bits of `interpret` on every instruction set and number of threads."""
        program, arrays = self.build()
        library = load_library()
        expected = {}
        for isa in chosen_isas():
            kept = library.multiplies(isa, "bfloat16")
            if kept not in expected:
                form = program if kept else widened(program)
                expected[kept] = list(interpret(form, arrays, batch, np.float32).values())
            for count in threads:
                found = self._outputs(program, arrays, batch, isa, count)
                for number, values in enumerate(found):
                    what = f"{name} output {number}, {isa}, {count} threads"
                    np.testing.assert_array_equal(values, expected[kept][number], err_msg=what)

    def run(self, batch, isa, threads=1):
        """Outputs in their order, (B, …) each, from memory that a batch of NaN has been through."""
        return self._outputs(*self.build(), batch, isa, threads)

    @staticmethod
    def _outputs(program, arrays, batch, isa, threads):
        engine = Engine(program, arrays.__getitem__, threads=threads, isa=isa)
        if batch.dtype == np.float32:
            engine.run(np.full(batch.shape, np.nan, np.float32))
        return list(engine.run(np.ascontiguousarray(batch)).values())
