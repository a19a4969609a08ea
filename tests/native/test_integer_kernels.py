"""Steps that read bytes, which give the bits of the interpreter on every instruction set."""

import itertools

import numpy as np
import pytest
from sketch import Sketch, sizes

from levit.native.interpreter import interpret
from levit.native.library import load_library
from levit.native.program import FLOAT32, Numbers

pytestmark = pytest.mark.native

BFLOAT16 = Numbers(dtype="bfloat16")
ZERO_POINTS = (0, 1, 128, 255)
# The integers of tokens are the bytes themselves, above their zero point.
WHOLE = {zero: Numbers(dtype="uint8", scale=1.0, zero_point=zero) for zero in ZERO_POINTS}
SIGNED = WHOLE[128]
RESULT = Numbers(dtype="uint8", scale=0.037, zero_point=101)
OTHER = Numbers(dtype="uint8", scale=0.3, zero_point=0)

# (activation, residual, numbers of the target, of its copy): in registers and not.
ENDS = [
    *itertools.product((None, "hard_swish"), (None,), (FLOAT32, RESULT, BFLOAT16), (None,)),
    *itertools.product((None, "hard_swish"), (None,), (FLOAT32,), (RESULT, BFLOAT16)),
    (None, None, RESULT, OTHER),
    ("hard_swish", None, BFLOAT16, RESULT),
    *itertools.product(("gelu",), (None,), (FLOAT32, RESULT), (None,)),
    *itertools.product((None,), ("another", "target"), (FLOAT32,), (None, RESULT, BFLOAT16)),
]


def weights(rng, columns, depth):
    """(int8 weights, int32 bias, scales) whose results are of some units."""
    weight = rng.integers(-127, 128, (columns, depth), np.int8)
    bias = rng.integers(-20_000, 20_000, columns, np.int32)
    return weight, bias, rng.uniform(0.5, 2, columns).astype(np.float32) / (depth**0.5 * 8000)


class ByteRow:
    """Linear layers of one source of `rows` tokens, in bytes with every zero point."""

    def __init__(self, rng, rows, batch=1, depths=range(1, 41)):
        self.rng, self.depths = rng, depths
        self.sketch = Sketch.of_tokens((1, rows), max(depths))
        # Beyond both ends of every grid now and then.
        self.tokens = rng.integers(-300, 301, (batch, rows, max(depths))).astype(np.float32)
        self.sources = {}

    def source(self, depth):
        if depth not in self.sources:
            picked = self.sketch.linear(0, np.eye(depth, max(self.depths)))
            self.sources[depth] = self.sketch.convert(picked, WHOLE[ZERO_POINTS[depth % 4]])
            self.sketch.show(self.sources[depth])
        return self.sources[depth]

    def layer(self, depth, columns, end, has_bias=True):
        activation, residual, numbers, copy = end
        source = self.source(depth)
        weight, bias, scale = weights(self.rng, columns, depth)
        others = {}
        if residual is not None:
            first = weights(self.rng, columns, depth)
            others["residual"] = self.sketch.linear(source, *first[:2], scale=first[2])
            others["target"] = others["residual"] if residual == "target" else None
        target = self.sketch.linear(
            source, weight, bias if has_bias else None, activation,
            scale=scale, numbers=numbers, copy=copy, **others,
        )  # fmt: skip
        copied = self.sketch.last()
        self.sketch.show(target)
        if copy is not None:
            self.sketch.show(copied)

    def check(self, threads=(1,)):
        self.sketch.check(self.sketch.pictures(self.tokens), threads)


@pytest.mark.parametrize("rows", [*range(1, 16), 29])
def test_linear_of_all_rows_and_columns(rng, rows):
    """Tile heights, whole panels, half ones and tails, with each end."""
    row = ByteRow(rng, rows)
    for columns, (i, end) in itertools.product(sizes(70), enumerate(ENDS)):
        if (columns + i) % 9 == rows % 9:
            depth = 1 + (7 * columns + 3 * i + rows) % 40
            row.layer(depth, columns, end, has_bias=columns % 3 > 0)
    row.check()


@pytest.mark.parametrize("depth", [128, 333, 1025])
def test_linear_of_large_depths(rng, depth):
    for rows, columns in ((1, 1000), (49, 97), (225, 48)):
        sketch = Sketch.of_tokens((1, rows), 8)
        tokens = rng.integers(-128, 128, (1, rows, 8)).astype(np.float32)
        source = sketch.convert(0, SIGNED)
        weight, bias, scale = weights(rng, depth, 8)
        source = sketch.linear(source, weight, bias, scale=100 * scale, numbers=SIGNED)
        weight, bias, scale = weights(rng, columns, depth)
        for numbers in (FLOAT32, RESULT):
            sketch.show(
                sketch.linear(source, weight, bias, "hard_swish", scale=scale, numbers=numbers)
            )
        sketch.check(sketch.pictures(tokens))


@pytest.mark.parametrize("zero", ZERO_POINTS)
@pytest.mark.parametrize("weight", [127, -127, -128])
def test_the_largest_sums(zero, weight):
    """No product of two saturates, nor do two of them: neighbours are of one sign."""
    for depth in (4, 31, 1024):
        sketch = Sketch.of_tokens((1, 4), 1)
        bytes_ = np.array([0, 255, zero, 254], np.float32).reshape(1, 4, 1) - zero
        wide = sketch.convert(sketch.linear(0, np.ones((depth, 1))), WHOLE[zero])
        weights_ = np.full((33, depth), weight, np.int8)
        mixed = weights_ * np.where(np.arange(depth) % 4 < 2, 1, -1).astype(np.int8)
        for each in (weights_, mixed):
            target = sketch.linear(wide, each)
            sketch.output(target)
        batch = sketch.pictures(bytes_)
        sketch.check(batch)
        exact = bytes_.astype(np.float64) * depth * weight
        found = sketch.run(batch, load_library().isas[0])[0]
        np.testing.assert_array_equal(found, np.float32(exact).repeat(33, axis=2))


@pytest.mark.parametrize("activation", ["silu", "gelu"])
def test_activations_that_are_formulas(every_isa, rng, activation):
    """The same bits everywhere, and bytes at most a step from those of the nearest float32."""
    sketch = Sketch.of_tokens((1, 49), 24)
    tokens = rng.integers(-128, 128, (2, 49, 24)).astype(np.float32)
    source = sketch.convert(0, SIGNED)
    ends = list(itertools.product((16, 40, 33), (FLOAT32, RESULT, SIGNED)))
    for columns, numbers in ends:
        weight, bias, scale = weights(rng, columns, 24)
        sketch.show(
            sketch.linear(source, weight, bias, activation, scale=3 * scale, numbers=numbers)
        )
    batch = sketch.pictures(tokens)
    found, others = (sketch.run(batch, isa) for isa in (every_isa, load_library().isas[-1]))
    program, arrays = sketch.build()
    nearest = interpret(program, arrays, batch, np.float32).values()
    for (_, numbers), x, y, z in zip(ends, found, others, nearest, strict=True):
        np.testing.assert_array_equal(x, y)
        assert np.abs(x - z).max() <= (2e-6 if numbers == FLOAT32 else 1)


def test_unrounded_sums_are_rounded_to_even():
    """Sums halfway between two bytes, or two float32, or two bfloat16."""
    sketch = Sketch.of_tokens((1, 256), 1)
    tokens = (np.arange(256, dtype=np.float32) - 128).reshape(1, 256, 1)
    source = sketch.convert(0, SIGNED)
    one, half = np.ones((1, 1), np.int8), np.full(1, 0.5)
    for numbers in (SIGNED, BFLOAT16):
        sketch.show(sketch.linear(source, one, None, scale=half, numbers=numbers))
    many, bias = np.full((1, 1), 127, np.int8), np.full(1, 2**25 + 1, np.int32)
    sketch.show(sketch.linear(source, many, bias))
    sketch.show(sketch.linear(source, many, bias, numbers=BFLOAT16))
    sketch.check(sketch.pictures(tokens))


CONVS = [  # channels in, channels out, height, width
    *[(i, o, 4, 6) for i, o in itertools.product((1, 2, 3, 4, 5, 8), (1, 3, 8, 16, 33))],
    *[(3, 16, height, width) for height, width in ((2, 2), (6, 30), (34, 34), (2, 62))],
    (16, 33, 4, 8), (24, 40, 10, 2), (31, 24, 6, 6), (32, 64, 4, 12), (33, 17, 6, 34),
]  # fmt: skip


def of_taps(rng, columns, channels):
    weight, bias, scale = weights(rng, columns, 9 * channels)
    return weight.reshape(columns, channels, 3, 3), bias, scale


@pytest.mark.parametrize("zero", ZERO_POINTS)
def test_conv_of_a_grid(rng, zero):
    """Its border is the zero point; channels are filled up to whole words."""
    for number, (channels, columns, height, width) in enumerate(CONVS):
        activation, _, numbers, copy = ENDS[number % 12]
        sketch = Sketch(channels, 2 * height, 2 * width)
        copied = np.zeros((channels, channels, 3, 3), np.float32)
        copied[:, :, 1, 1] = np.eye(channels)
        grid = sketch.conv(None, copied, to_grid=True, numbers=WHOLE[zero])
        weight, bias, scale = of_taps(rng, columns, channels)
        target = sketch.conv(
            grid, weight, bias if number % 3 else None, activation,
            scale=scale, numbers=numbers, copy=copy,
        )  # fmt: skip
        last = sketch.last()
        sketch.show(target)
        if copy is not None:
            sketch.show(last)
        batch = rng.integers(-300, 301, (2, channels, 2 * height, 2 * width)).astype(np.float32)
        sketch.check(batch, name=f"{channels, columns, height, width}")


def test_conv_to_a_grid_and_its_copy(rng):
    """Every pixel and both borders, which the windows of a second convolution show."""
    for columns, (height, width) in itertools.product((1, 3, 16, 33), ((4, 4), (8, 12), (28, 20))):
        sketch = Sketch(4, height, width, numbers=SIGNED)
        weight, bias, scale = of_taps(rng, columns, 4)
        grid = sketch.conv(
            None, weight, bias, "hard_swish", to_grid=True, scale=scale, numbers=RESULT, copy=OTHER
        )
        taps = np.zeros((9, columns, columns, 3, 3), np.int8)
        for tap in range(9):
            taps[tap, :, :, tap // 3, tap % 3] = np.eye(columns)
        for number in (grid, sketch.last()):
            shown = sketch.conv(number, taps.reshape(-1, columns, 3, 3))
            # Lies where the grid was, and makes its border anything but zeros.
            sketch.output(sketch.linear(shown, np.eye(9 * columns)))
        batch = rng.normal(0, 60, (2, 4, height, width)).astype(np.float32)
        sketch.check(batch)


def of_input(rng, kind, channels, height, width):
    """(a program without steps, its batch): an input that is read in bytes, of each kind."""
    pixels = rng.integers(0, 256, (3, height, width, channels), np.uint8)
    scale, shift = rng.uniform(0.01, 0.02, channels), rng.uniform(-2, -1, channels)
    numbers = Numbers(dtype="uint8", scale=0.0187, zero_point=117)
    if kind == "float32":
        batch = np.float32(pixels * scale + shift).transpose(0, 3, 1, 2)
        return Sketch(channels, height, width, numbers=numbers), np.ascontiguousarray(batch)
    form = dict(numbers=numbers)
    if kind == "raw":
        form = dict(numbers=WHOLE[0], border=tuple(map(int, rng.integers(0, 256, channels))))
    scale, shift = (tuple(map(float, np.float32(x))) for x in (scale, shift))
    return Sketch(channels, height, width, dtype="uint8", scale=scale, shift=shift, **form), pixels


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("kind", ["float32", "uint8", "raw"])
def test_conv_of_the_input(rng, channels, kind):
    sizes = ((2, 2), (4, 6), (6, 16), (4, 18), (34, 30), (2, 66))
    for (height, width), (columns, end) in itertools.product(
        sizes, ((16, ENDS[4]), (33, ENDS[0]), (7, ENDS[1]))
    ):
        sketch, batch = of_input(rng, kind, channels, height, width)
        weight, bias, scale = of_taps(rng, columns, channels)
        sketch.show(sketch.conv(None, weight, bias, end[0], scale=scale, numbers=end[2]))
        sketch.check(batch, name=f"{height, width, columns}")


def test_images_of_no_numbers(rng):
    """What is no number becomes byte 0, and what is infinite the end of the grid."""
    for channels, width in ((3, 34), (4, 6), (1, 2)):
        sketch = Sketch(channels, 4, width, numbers=RESULT)
        weight, bias, scale = of_taps(rng, 24, channels)
        sketch.show(sketch.conv(None, weight, bias, "hard_swish", scale=scale, numbers=RESULT))
        for value in (np.nan, -np.nan, np.inf, -np.inf, 3e38, -3e38):
            batch = rng.standard_normal((2, channels, 4, width), np.float32)
            batch[0], batch[1, 0, 1] = value, value
            sketch.check(batch, name=str(value))


@pytest.mark.parametrize("step", [1, 2, 3])
def test_subsample(rng, step):
    for grid, columns in (((1, 1), 1), ((7, 5), 17), ((14, 14), 48)):
        sketch = Sketch.of_tokens(grid, columns)
        tokens = rng.normal(0, 3, (3, grid[0] * grid[1], columns)).astype(np.float32)
        for numbers in (FLOAT32, RESULT, BFLOAT16):
            sketch.show(sketch.subsample(0, grid, step, numbers=numbers))
        for numbers in (RESULT, BFLOAT16):  # in numbers that they have already
            sketch.show(sketch.subsample(sketch.convert(0, numbers), grid, step, numbers=numbers))
        sketch.check(sketch.pictures(tokens))


def test_mean(rng):
    for rows, columns in itertools.product((1, 3, 16, 49), (1, 15, 17, 70)):
        sketch = Sketch.of_tokens((1, rows), columns)
        tokens = rng.normal(0, 3, (3, rows, columns)).astype(np.float32)
        for numbers in (FLOAT32, RESULT, BFLOAT16):
            sketch.show(sketch.mean(0, numbers=numbers))
        sketch.check(sketch.pictures(tokens))


def test_threads_divide_rows_and_columns(rng):
    """Tiles by rows, by columns and by both, of one image and of more."""
    for rows in (1, 16, 49, 113):
        row = ByteRow(rng, rows, depths=[20])
        for columns, (i, end) in itertools.product((1, 33, 64, 200), enumerate(ENDS)):
            if (columns + i) % 3 == 0:
                row.layer(20, columns, end)
        row.check((1, 2, 3, 4))
