"""Products, convolutions and the small steps, at every size that another tile or tail computes."""

import itertools

import numpy as np
import pytest
from rounding import SMALLEST, activated, convolution, excess, product
from sketch import Sketch, sizes

pytestmark = pytest.mark.native

# (has a bias, activation, residual): each is a loop of its own at the end of a tile.
ENDS = [
    *itertools.product((True, False), (None, "hard_swish", "silu", "gelu"), (None,)),
    *itertools.product((True, False), (None,), ("another", "target")),
]


def normal(rng, *shape):
    return rng.standard_normal(shape, np.float32)


class LinearRow:
    """Linear layers of one source of `rows` tokens, each with its float64 answer."""

    def __init__(self, rng, rows, batch=1, depths=range(1, 41)):
        self.rng, self.depths = rng, depths
        self.sketch = Sketch.of_tokens((1, rows), max(depths))
        self.tokens = normal(rng, batch, rows, max(depths))
        self.sources = {}
        self.expected = []

    def source(self, depth):
        """A buffer of the first channels, picked by a product that rounds nothing."""
        if depth not in self.sources:
            pick = np.eye(depth, max(self.depths))
            self.sources[depth] = self.sketch.linear(0, pick)
            self.show(self.sources[depth], (self.tokens[..., :depth], 0.0), f"picked {depth}")
        return self.sources[depth]

    def show(self, buffer, expected, name):
        self.sketch.output(buffer)
        self.expected.append((name, expected))

    def layer(self, depth, columns, end):
        has_bias, activation, residual = end
        rng, x = self.rng, self.tokens[..., :depth]
        weight = normal(rng, columns, depth)
        bias = normal(rng, columns) if has_bias else None
        others = {}
        if residual is not None:
            first = normal(rng, columns, depth)
            others["residual"] = self.sketch.linear(self.source(depth), first)
            others["target"] = others["residual"] if residual == "target" else None
            added, more = product(x, first)
        value, bound = product(x, weight, bias, activation, added if residual else None)
        target = self.sketch.linear(self.source(depth), weight, bias, activation, **others)
        name = f"depth {depth}, columns {columns}, {end}"
        self.show(target, (value, bound + more if residual else bound), name)

    def check(self, isa, threads=1):
        found = self.sketch.run(self.sketch.pictures(self.tokens), isa, threads)
        for values, (name, (value, bound)) in zip(found, self.expected, strict=True):
            off = excess(values, value, bound)
            assert off < 1, f"{off:.2g} of the bound: {name}"


@pytest.mark.parametrize("batch", [1, 2])
def test_linear_of_all_rows_and_columns(isa, rng, batch):
    """Tile heights, whole panels, half ones and tails, with each end.

    Five is prime to every width: of the columns with one tail, all but one or so meet each end at
    each height.
    """
    for rows in range(1, 31):
        row = LinearRow(rng, rows, batch)
        for columns, (i, end) in itertools.product(sizes(70), enumerate(ENDS)):
            if (columns + i) % 5 == rows % 5:
                row.layer(1 + (7 * columns + 3 * i + rows) % 40, columns, end)
        row.check(isa)


def test_linear_of_all_depths_and_columns(isa, rng):
    """Weights come into panels by blocks of 16 x 16 and a rest."""
    rows = [LinearRow(rng, count) for count in (1, 5, 14, 16)]
    for depth, columns in itertools.product(sizes(40), sizes(70)):
        number = depth * 70 + columns
        rows[number % 4].layer(depth, columns, ENDS[number % len(ENDS)])
    for row in rows:
        row.check(isa)


@pytest.mark.parametrize("depth", [128, 333, 1025])
def test_linear_of_large_depths(isa, rng, depth):
    for rows, columns in ((1, 1000), (16, 384), (49, 97), (113, 33), (225, 48), (577, 16)):
        sketch = Sketch.of_tokens((1, rows), 8)
        wide = sketch.linear(0, normal(rng, depth, 8))
        weight, bias = normal(rng, columns, depth), normal(rng, columns)
        numbers = [wide, sketch.linear(wide, weight, bias, "hard_swish")]
        for number in numbers:
            sketch.output(number)
        x, found = sketch.run(sketch.pictures(normal(rng, 3, rows, 8)), isa)
        assert excess(found, *product(x, weight, bias, "hard_swish")) < 1, (rows, columns)


def test_activations_everywhere(isa):
    """From -200 to 200, and beyond what float32's powers reach."""
    x = np.concatenate([np.linspace(-200, 200, 20001), np.linspace(-4, 4, 20001), [-1e30, 1e30]])
    x = x.astype(np.float32)[None, :, None]
    row = LinearRow(np.random.default_rng(0), x.shape[1], depths=[1])
    row.tokens = x
    for activation in ("hard_swish", "silu", "gelu", "tanh"):
        weight = np.ones((1, 1), np.float32)
        value, bound = activated(x.astype(np.float64), 0, activation)
        target = row.sketch.linear(0, weight, None, activation)
        row.show(target, (value, bound + SMALLEST), activation)
    row.check(isa)


CONVS = [  # channels in, channels out, height, width
    *[(i, o, 6, 10) for i, o in itertools.product((1, 3, 4, 5, 8), (1, 3, 8, 16, 24, 33, 64))],
    *[(3, 16, height, width) for height in range(2, 35, 2) for width in (2, 6, 28, 30, 34)],
    *[(3, 24, 2, width) for width in range(2, 66, 2)],
    (16, 33, 4, 8), (24, 40, 34, 2), (33, 64, 14, 12), (64, 17, 6, 34),
]  # fmt: skip


def windows(channels):
    """The weight of a convolution that gives each window as it is."""
    weight = np.zeros((9, channels, channels, 3, 3), np.float32)
    for tap in range(9):
        weight[tap, :, :, tap // 3, tap % 3] = np.eye(channels)
    return weight.reshape(-1, channels, 3, 3)


@pytest.mark.parametrize("dtype", ["float32", "uint8"])
def test_conv_of_the_input(isa, rng, dtype):
    for number, (channels, columns, height, width) in enumerate(CONVS):
        has_bias, activation, _ = ENDS[number % 8]
        if dtype == "uint8" and channels > 4:
            continue
        weight = normal(rng, columns, channels, 3, 3)
        bias = normal(rng, columns) if has_bias else None
        if dtype == "uint8":
            scale, shift = rng.uniform(0.01, 0.02, channels), rng.uniform(-2, -1, channels)
            scale, shift = (tuple(map(float, np.float32(x))) for x in (scale, shift))
            sketch = Sketch(channels, height, width, dtype=dtype, scale=scale, shift=shift)
            batch = rng.integers(0, 256, (2, height, width, channels), np.uint8)
            x = batch * np.array(scale) + np.array(shift)
            # A pixel of its own value is rounded twice before it meets the weights.
            pixels = 2.0**-23 * (batch * np.array(scale) + np.abs(shift))
        else:
            sketch = Sketch(channels, height, width)
            batch = normal(rng, 2, channels, height, width)
            x, pixels = batch.transpose(0, 2, 3, 1), None
        sketch.output(sketch.conv(None, weight, bias, activation))
        value, bound = convolution(x, weight, bias, activation)
        if pixels is not None:
            bound = bound + 1.5 * convolution(pixels, np.abs(weight))[0]
        (found,) = sketch.run(batch, isa)
        assert excess(found, value, bound) < 1, (channels, columns, height, width, activation)


def test_conv_of_a_grid(isa, rng):
    """Tokens by way of a grid, and the border of zeros that the grid begins with."""
    for number, (channels, columns, height, width) in enumerate(CONVS):
        has_bias, activation, _ = ENDS[number % 8]
        weight = normal(rng, columns, channels, 3, 3)
        bias = normal(rng, columns) if has_bias else None
        sketch = Sketch(channels, 2 * height, 2 * width)
        copied = np.zeros((channels, channels, 3, 3), np.float32)
        copied[:, :, 1, 1] = np.eye(channels)
        grid = sketch.conv(None, copied, to_grid=True)
        sketch.output(sketch.conv(grid, weight, bias, activation))
        batch = normal(rng, 2, channels, 2 * height, 2 * width)
        value, bound = convolution(
            batch[:, :, ::2, ::2].transpose(0, 2, 3, 1), weight, bias, activation
        )
        (found,) = sketch.run(batch, isa)
        assert excess(found, value, bound) < 1, (channels, columns, height, width, activation)


@pytest.mark.parametrize("columns", [1, 3, 16, 33, 40])
def test_conv_to_a_grid(isa, rng, columns):
    """Every pixel and both borders, which the windows of a second convolution show."""
    for height, width in ((2, 2), (4, 16), (6, 10), (14, 6)):
        weight, bias = normal(rng, columns, 3, 3, 3), normal(rng, columns)
        sketch = Sketch(3, 2 * height, 2 * width)
        grid = sketch.conv(None, weight, bias, "hard_swish", to_grid=True)
        shown = sketch.conv(grid, windows(columns))
        # Lies where the grid was, and makes its border anything but zeros.
        sketch.output(sketch.linear(shown, np.eye(9 * columns)))
        batch = normal(rng, 2, 3, 2 * height, 2 * width)
        value, bound = convolution(batch.transpose(0, 2, 3, 1), weight, bias, "hard_swish")
        shape = (2, height, width, columns)
        value, bound = (convolution(x.reshape(shape), windows(columns))[0] for x in (value, bound))
        (found,) = sketch.run(batch, isa)
        assert excess(found, value, bound) < 1, (height, width)


@pytest.mark.parametrize("step", [1, 2, 3, 7])
def test_subsample(isa, rng, step):
    for grid, columns in (((1, 1), 1), ((7, 5), 17), ((14, 14), 48), ((2, 9), 33)):
        sketch = Sketch.of_tokens(grid, columns)
        tokens = normal(rng, 3, grid[0] * grid[1], columns)
        sketch.output(sketch.subsample(0, grid, step))
        (found,) = sketch.run(sketch.pictures(tokens), isa)
        picked = tokens.reshape(3, *grid, columns)[:, ::step, ::step].reshape(3, -1, columns)
        np.testing.assert_array_equal(found, picked)


def test_mean(isa, rng):
    for rows, columns in itertools.product((1, 2, 3, 16, 49, 196), (1, 15, 16, 17, 33, 70)):
        sketch = Sketch.of_tokens((1, rows), columns)
        tokens = normal(rng, 3, rows, columns)
        firsts = sorted({0, rows // 2, rows - 1})
        for first in firsts:
            sketch.output(sketch.mean(0, first))
        for first, found in zip(firsts, sketch.run(sketch.pictures(tokens), isa), strict=True):
            shares = np.full((1, rows - first), np.float32(1) / (rows - first))
            value, bound = product(tokens[:, first:].swapaxes(1, 2), shares)
            off = excess(found, value.swapaxes(1, 2), bound.swapaxes(1, 2))
            assert off < 1, (rows, columns, first)


def test_outputs(isa, rng):
    for rows, columns in itertools.product((1, 2, 16, 49), (1, 15, 16, 17, 48, 70)):
        sketch = Sketch.of_tokens((1, rows), columns)
        tokens = normal(rng, 3, rows, columns)
        sketch.output(0)
        sketch.output(0, transposed=True)
        plain, transposed = sketch.run(sketch.pictures(tokens), isa)
        np.testing.assert_array_equal(plain, tokens)
        np.testing.assert_array_equal(transposed, tokens.swapaxes(1, 2))


@pytest.mark.parametrize("threads", [2, 3, 4, 5, 16])
def test_threads_divide_rows_and_columns(isa, rng, threads):
    """One image on all threads: tiles by rows, by columns, by both, and fewer than threads."""
    for rows in (1, 2, 5, 14, 16, 29, 49, 113, 196):
        row = LinearRow(rng, rows, depths=[20])
        for columns, (i, end) in itertools.product((1, 16, 33, 64, 70, 200), enumerate(ENDS)):
            if (columns + i) % 3 == 0:
                row.layer(20, columns, end)
        row.check(isa, threads)
