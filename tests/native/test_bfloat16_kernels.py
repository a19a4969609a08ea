"""Steps that read bfloat16: sums in float32, within a bound; and the same program in float32.

Values that are read are bfloat16 themselves, so that only sums are rounded on the way, and what is
written. Products of bfloat16 are added in pairs, which Arm rounds to odd: twice the error of a sum.
"""

import itertools

import numpy as np
import pytest
from rounding import attention, convolution, excess, product
from sketch import Sketch, bfloat16_bits, chosen_isas, of_bfloat16, sizes

from levit.errors import BackendUnavailableError
from levit.native.library import load_library
from levit.native.program import FLOAT32, Numbers

pytestmark = pytest.mark.native

BFLOAT16 = Numbers(dtype="bfloat16")
BYTES = Numbers(dtype="uint8", scale=0.04, zero_point=97)
ACTIVATIONS = (None, "hard_swish", "silu", "gelu")
HALF_UNIT = 2.0**-8  # of a bfloat16's last place, at most, as a part of the value
ENDS = [
    *itertools.product(ACTIVATIONS, (None,), (FLOAT32, BFLOAT16), (None,)),
    ("hard_swish", None, FLOAT32, BFLOAT16),
    (None, None, BFLOAT16, FLOAT32),
    *itertools.product((None,), ("another", "target"), (FLOAT32,), (None, BFLOAT16, BYTES)),
]


def drawn(rng, *shape):
    """Normal values, each a bfloat16."""
    return of_bfloat16(bfloat16_bits(rng.standard_normal(shape, np.float32)))


def stored(value, bound, numbers):
    """(value, bound) as a buffer of these numbers shows them."""
    if numbers.dtype == "bfloat16":
        return value, bound + HALF_UNIT * (np.abs(value) + bound)
    if numbers.dtype == "uint8":
        value = np.clip(value / numbers.scale, -numbers.zero_point, 255 - numbers.zero_point)
        return value, bound / numbers.scale + 0.5001
    return value, bound


class Row:
    """Linear layers of one source of `rows` tokens, each with its float64 answer."""

    def __init__(self, rng, rows, batch=1, depths=range(1, 41)):
        self.rng, self.depths = rng, depths
        self.sketch = Sketch.of_tokens((1, rows), max(depths))
        self.tokens = drawn(rng, batch, rows, max(depths))
        self.sources, self.expected = {}, []

    def source(self, depth):
        if depth not in self.sources:
            picked = self.sketch.linear(0, np.eye(depth, max(self.depths)))
            self.sources[depth] = self.sketch.convert(picked, BFLOAT16)
            self.show(self.sources[depth], self.tokens[..., :depth], 0.0, f"picked {depth}")
        return self.sources[depth]

    def show(self, buffer, value, bound, name):
        self.sketch.show(buffer)
        self.expected.append((name, stored(value, bound, self.sketch.numbers(buffer))))

    def layer(self, depth, columns, end, has_bias=True):
        activation, residual, numbers, copy = end
        rng, x, source = self.rng, self.tokens[..., :depth], self.source(depth)
        weight, bias = drawn(rng, columns, depth), rng.standard_normal(columns, np.float32)
        bias = bias if has_bias else None
        others, added, more = {}, None, 0
        if residual is not None:
            first = drawn(rng, columns, depth)
            others["residual"] = self.sketch.linear(source, bfloat16_bits(first))
            others["target"] = others["residual"] if residual == "target" else None
            added, more = product(x, first)
        value, bound = product(x, weight, bias, activation, added)
        target = self.sketch.linear(
            source, bfloat16_bits(weight), bias, activation, numbers=numbers, copy=copy, **others
        )
        last = self.sketch.last()
        name = f"depth {depth}, columns {columns}, {end}"
        self.show(target, value, 2 * (bound + more), name)
        if copy is not None:
            self.show(last, value, 2 * (bound + more), f"the copy of {name}")

    def check(self, isa, threads=1):
        found = self.sketch.run(self.sketch.pictures(self.tokens), isa, threads)
        for values, (name, (value, bound)) in zip(found, self.expected, strict=True):
            off = excess(values, value, bound)
            assert off < 1, f"{off:.2g} of the bound: {name}"


def _isas():
    """Instruction sets with products of bfloat16, and one where float32 takes their place."""
    try:
        library, isas = load_library(), chosen_isas()
    except BackendUnavailableError:
        return ("none",)
    without = [name for name in isas if not library.multiplies(name, "bfloat16")]
    return [name for name in isas if name not in without] + without[:1]


@pytest.fixture(params=_isas())
def isa(request):
    """Each of them in turn."""
    return request.param


@pytest.mark.parametrize("batch", [1, 2])
def test_linear_of_all_rows_and_columns(isa, rng, batch):
    for rows in (*range(1, 16), 29):
        row = Row(rng, rows, batch)
        for columns, (i, end) in itertools.product(sizes(70), enumerate(ENDS)):
            if (columns + i) % 17 == rows % 17:
                depth = 1 + (7 * columns + 3 * i + rows) % 40
                row.layer(depth, columns, end, has_bias=columns % 3 > 0)
        row.check(isa)


def test_linear_of_large_depths(isa, rng):
    for depth, rows, columns in ((128, 49, 97), (333, 16, 384), (1025, 225, 48)):
        row = Row(rng, rows, depths=[depth])
        row.layer(depth, columns, ("hard_swish", None, BFLOAT16, None))
        row.check(isa)


@pytest.mark.parametrize("activation", ["hard_swish", "silu"])
def test_conv(isa, rng, activation):
    """Convolve an image of floats or pixels to a grid and on; odd numbers of channels too."""
    for channels, columns, (height, width) in itertools.product(
        (1, 2, 3, 4, 5, 17), (1, 5, 16, 33), ((4, 8), (12, 20))
    ):
        batch = drawn(rng, 2, channels, height, width)
        first, second = drawn(rng, columns, channels, 3, 3), drawn(rng, 24, columns, 3, 3)
        bias = rng.standard_normal(columns, np.float32)
        sketch = Sketch(channels, height, width, numbers=BFLOAT16)
        grid = sketch.conv(
            None, bfloat16_bits(first), bias, activation, to_grid=True, numbers=BFLOAT16
        )
        sketch.output(sketch.conv(grid, bfloat16_bits(second)))
        value, bound = convolution(batch.transpose(0, 2, 3, 1), first, bias, activation)
        value, bound = stored(value, 2 * bound, BFLOAT16)
        shape = (2, height // 2, width // 2, columns)
        expected, own = convolution(value.reshape(shape), second)
        spread, _ = convolution(bound.reshape(shape), np.abs(second))
        (found,) = sketch.run(batch, isa)
        assert excess(found, expected, spread + 2 * own) < 1, (channels, columns, height, width)


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_conv_of_pixels(isa, rng, channels):
    for height, width in ((2, 2), (6, 30), (4, 34)):
        pixels = rng.integers(0, 256, (2, height, width, channels), np.uint8)
        scale, shift = (2.0**-7,) * channels, (-1.0,) * channels  # whose results are bfloat16
        sketch = Sketch(
            channels, height, width, dtype="uint8", scale=scale, shift=shift, numbers=BFLOAT16
        )
        weight = drawn(rng, 17, channels, 3, 3)
        sketch.output(sketch.conv(None, bfloat16_bits(weight)))
        value, bound = convolution(pixels * 2.0**-7 - 1, weight)
        (found,) = sketch.run(pixels, isa)
        assert excess(found, value, 2 * bound) < 1, (height, width)


@pytest.mark.parametrize("first", [1, 24, 47])
def test_attention(isa, rng, first):
    """Any number of keys and width; shares are off by what their powers are rounded to."""
    widths = (8, 16, 24, 32, 40, 64, 5)
    some = [keys for keys in sizes(70) if first <= keys < first + 23]
    for keys in (*some, 196 + first):
        heads, width, depth = 1 + keys % 3, widths[keys % 7], widths[keys % 5]
        sketch = Sketch.of_tokens((1, keys), heads * (2 * depth + width))
        tokens = drawn(rng, 2, keys, heads * (2 * depth + width))
        parts = np.split(np.eye(tokens.shape[-1]), np.cumsum([heads * depth] * 2))
        source = sketch.convert(0, BFLOAT16)
        q, k, v = sketch.project(
            source, heads, [(bfloat16_bits(part), None) for part in parts], numbers=BFLOAT16
        )
        table = rng.standard_normal((heads, keys, keys), np.float32) if keys % 3 else None
        activation, numbers = ACTIVATIONS[keys % 4], (FLOAT32, BFLOAT16)[keys % 2]
        sketch.show(sketch.attention(q, k, v, heads, table, activation, numbers=numbers))
        (found,) = sketch.run(sketch.pictures(tokens), isa)
        q, k, v = (tokens @ part.T for part in parts)
        for head in range(heads):
            each = (slice(None), slice(None), slice(head * depth, (head + 1) * depth))
            mine = (slice(None), slice(None), slice(head * width, (head + 1) * width))
            bias = 0 if table is None else table[head]
            value, bound = attention(q[each], k[each], v[mine], bias, activation)
            # Of each power half a unit, and a ten-thousandth of its formula, twice.
            _, of_shares = attention(q[each], k[each], np.abs(v[mine]), bias)
            size = np.abs(attention(q[each], k[each], np.abs(v[mine]), bias)[0])
            bound = 2 * bound + 1.6 * (of_shares + (2 * HALF_UNIT + 3e-4) * size)
            assert excess(found[mine], *stored(value, bound, numbers)) < 1, (keys, head)


def test_padding_is_a_number(isa, rng):
    """Keep old bits out of the half of a word that an odd number of columns leaves over."""
    for columns, heads in ((1, 1), (5, 1), (15, 3), (33, 3)):
        sketch = Sketch.of_tokens((1, 6), columns)
        tokens = drawn(rng, 2, 6, columns)
        one = bfloat16_bits(np.eye(columns))
        sketch.show(sketch.convert(0, BFLOAT16))
        sketch.show(sketch.mean(0, numbers=BFLOAT16))
        source = sketch.convert(0, BFLOAT16)
        (q,) = sketch.project(source, heads, [(one, None)], numbers=BFLOAT16)
        sketch.show(sketch.attention(q, q, q, heads, numbers=BFLOAT16))
        sketch.show(sketch.convert(sketch.attention(q, q, q, heads), BFLOAT16))
        found = sketch.run(sketch.pictures(tokens), isa)
        for values in found:
            assert np.isfinite(values).all(), columns


@pytest.mark.parametrize("threads", [2, 3, 4])
def test_the_same_on_any_number_of_threads(isa, rng, threads):
    for rows in (1, 49, 113):
        row = Row(rng, rows, depths=[20])
        for columns, end in itertools.product((33, 64, 200), ENDS[::3]):
            row.layer(20, columns, end)
        batch = row.sketch.pictures(row.tokens)
        one, others = row.sketch.run(batch, isa), row.sketch.run(batch, isa, threads)
        for first, second in zip(one, others, strict=True):
            np.testing.assert_array_equal(first, second)


def test_images_of_no_numbers(isa, rng):
    """Give NaN for a picture of NaN, and the right answer for the picture beside it."""
    sketch = Sketch(3, 4, 18, numbers=BFLOAT16)
    sketch.output(sketch.conv(None, bfloat16_bits(rng.standard_normal((24, 3, 3, 3)))))
    batch = drawn(rng, 3, 3, 4, 18)
    (expected,) = sketch.run(batch, isa)
    for value in (np.nan, np.inf, -np.inf):
        spoiled = batch.copy()
        spoiled[1] = value
        (found,) = sketch.run(spoiled, isa)
        assert np.isnan(found[1]).any()
        np.testing.assert_array_equal(found[::2], expected[::2])
