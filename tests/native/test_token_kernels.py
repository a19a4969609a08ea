"""Steps of vision transformers of one width: patches, norms, rows, positions in an attention."""

import itertools

import numpy as np
import pytest
from heads import of_head, parts_of
from rounding import attention, excess, layer_norm
from sketch import Sketch, bfloat16_bits

from levit.native.library import load_library
from levit.native.program import Numbers

pytestmark = pytest.mark.native

COLUMNS = (*range(1, 35), 45, 48, 63, 64, 65, 192, 200)


def normal(rng, *shape):
    return rng.standard_normal(shape, np.float32)


@pytest.mark.parametrize("affine", [False, True], ids=["bare", "affine"])
def test_layer_norm(isa, rng, affine):
    for number, columns in enumerate(COLUMNS):
        rows = 1 + 7 * number % 30
        sketch = Sketch.of_tokens((1, rows), columns)
        # Rows around a mean of their own, and of every size.
        tokens = normal(rng, 2, rows, columns) * np.exp2(rng.integers(-6, 7, (2, rows, 1)))
        tokens = (tokens + 2 * normal(rng, 2, rows, 1)).astype(np.float32)
        weight, bias = (normal(rng, columns), normal(rng, columns)) if affine else (None, None)
        sketch.output(sketch.layer_norm(0, 1e-6, weight, bias))
        (found,) = sketch.run(sketch.pictures(tokens), isa, threads=1 + number % 3)
        assert excess(found, *layer_norm(tokens, 1e-6, weight, bias)) < 1, columns


def test_layer_norm_of_equal_columns(isa):
    """What has no deviation becomes 0, by the epsilon and not by a division by 0."""
    for columns, eps in itertools.product((1, 5, 16, 40), (1e-12, 1e-5)):
        sketch = Sketch.of_tokens((1, 3), columns)
        tokens = np.broadcast_to(np.float32([[[0], [1], [-128]]]), (1, 3, columns))
        sketch.output(sketch.layer_norm(0, eps))
        (found,) = sketch.run(sketch.pictures(tokens), isa)
        np.testing.assert_array_equal(found, np.zeros_like(tokens))


SQUARES = [  # channels, size, height, width
    *[(3, size, 2 * size, 3 * size) for size in range(1, 37)],
    (1, 16, 16, 16), (2, 8, 24, 8), (4, 14, 28, 42), (5, 4, 12, 20), (3, 16, 224, 224),
]  # fmt: skip


def squares(x, size):
    """(B, C, H, W) → (B, squares, C, size, size)."""
    batch, channels, height, width = x.shape
    x = x.reshape(batch, channels, height // size, size, width // size, size)
    return x.transpose(0, 2, 4, 1, 3, 5).reshape(batch, -1, channels, size, size)


@pytest.mark.parametrize("threads", [1, 3])
def test_patches_of_floats(isa, rng, threads):
    for number, (channels, size, height, width) in enumerate(SQUARES):
        sketch, first = Sketch(channels, height, width), number % 3
        sketch.output(sketch.patches(size, first))
        batch = normal(rng, 4, channels, height, width)
        (found,) = sketch.run(batch, isa, threads)
        assert not found[:, :first].any()
        expected = squares(batch, size).reshape(4, -1, channels * size * size)
        np.testing.assert_array_equal(found[:, first:], expected)


@pytest.mark.parametrize("threads", [1, 3])
def test_patches_of_pixels(isa, rng, threads):
    for number, (channels, size, height, width) in enumerate(SQUARES):
        if channels > 4:
            continue
        first = number % 3
        scale, shift = rng.uniform(0.01, 0.02, channels), rng.uniform(-2, -1, channels)
        scale, shift = (tuple(map(float, np.float32(x))) for x in (scale, shift))
        sketch = Sketch(channels, height, width, dtype="uint8", scale=scale, shift=shift)
        sketch.output(sketch.patches(size, first))
        batch = rng.integers(0, 256, (4, height, width, channels), np.uint8)
        (found,) = sketch.run(batch, isa, threads)
        x = batch * np.array(scale) + np.array(shift)
        expected = squares(x.transpose(0, 3, 1, 2), size).transpose(0, 1, 3, 4, 2)
        assert not found[:, :first].any()
        np.testing.assert_allclose(found[:, first:], expected.reshape(4, len(found[0]) - first, -1),
                                   rtol=0, atol=2.0**-22 * 5)  # fmt: skip


@pytest.mark.parametrize("threads", [1, 3])
def test_stack(isa, rng, threads):
    for above, below, columns in itertools.product((1, 2, 5), (0, 1, 4), (1, 16, 17, 40)):
        sketch = Sketch.of_tokens((1, max(below, 1)), columns)
        tokens, rows = normal(rng, 3, max(below, 1), columns), normal(rng, above, columns)
        sketch.output(sketch.stack(rows, 0 if below else None))
        if not below:
            sketch.output(0)  # or nothing would read it
        found = sketch.run(sketch.pictures(tokens), isa, threads)[0]
        expected = np.broadcast_to(rows, (3, *rows.shape))
        if below:
            expected = np.concatenate([expected, tokens], axis=1)
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("threads", [1, 3])
def test_rows(isa, rng, threads):
    for rows, columns in itertools.product((1, 2, 5, 30), (1, 8, 16, 17, 40)):
        sketch = Sketch.of_tokens((1, rows), columns)
        tokens, expected = normal(rng, 3, rows, columns), []
        for first, together in itertools.product(range(min(rows, 4)), (1, 2, 3)):
            count = (rows - first) // together
            if not count:
                continue
            sketch.output(sketch.pick(0, count, first=first, together=together))
            taken = tokens[:, first : first + count * together]
            expected.append(taken.reshape(3, count, together * columns))
        for found, right in zip(
            sketch.run(sketch.pictures(tokens), isa, threads), expected, strict=True
        ):
            np.testing.assert_array_equal(found, right)


@pytest.mark.parametrize("table", [False, True], ids=["positions", "positions_and_table"])
def test_attention_with_positions(isa, rng, table):
    for keys in (1, 2, 15, 16, 17, 33, 49, 70, 196, 785):
        heads, widths = 1 + keys % 3, (12, 12, 20) if keys % 2 else (48, 48, 48)
        sketch = Sketch.of_tokens((1, keys), 4)
        wide = sketch.linear(0, normal(rng, heads * sum(widths), 4) / 2)
        q, k, v = parts_of(sketch, wide, heads, widths)
        positions = np.abs(normal(rng, heads, keys, keys)) / keys
        rest = None if keys % 4 == 1 else rng.uniform(0, 1, heads).astype(np.float32)
        scores = 2 * normal(rng, heads, keys, keys) if table else None
        sketch.output(wide)
        sketch.output(
            sketch.attention(q, k, v, heads, scores, "hard_swish" if keys == 49 else None,
                             positions=positions, rest=rest)
        )  # fmt: skip
        x, found = sketch.run(sketch.pictures(normal(rng, 2, keys, 4)), isa, 1 + keys % 3)
        for head in range(heads):
            q, k, v = (of_head(x, head, heads, widths, part) for part in range(3))
            value, bound = attention(
                q, k, v, scores[head] if table else None, "hard_swish" if keys == 49 else None,
                positions[head], 1.0 if rest is None else float(rest[head]),
            )  # fmt: skip
            off = excess(found[..., head * widths[2] : (head + 1) * widths[2]], value, bound)
            assert off < 1, f"{off:.2g} of the bound: {keys} keys, head {head}"


BYTES = Numbers(dtype="uint8", scale=0.013, zero_point=120)


def test_other_numbers_than_float32(isa, rng):
    """What steps around tokens write, in bytes and in bfloat16, is what they write in float32."""
    for rows, columns in itertools.product((1, 3, 16), (1, 16, 17, 40, 65)):
        for numbers in (BYTES, Numbers(dtype="bfloat16")):
            tokens = normal(rng, 2, rows, columns)
            sketch = Sketch.of_tokens((1, rows), columns)
            sources = [
                sketch.layer_norm(0, 1e-6),
                sketch.pick(0, rows),
                sketch.pick(0, 1, together=rows),
            ]
            for source in sources:
                sketch.show(sketch.convert(source, numbers))
            sketch.show(sketch.layer_norm(0, 1e-6, numbers=numbers))
            sketch.show(sketch.pick(0, rows, numbers=numbers))
            sketch.show(sketch.pick(0, 1, together=rows, numbers=numbers))
            found = sketch.run(sketch.pictures(tokens), isa, threads=2)
            for whole, own in zip(found[1:3], found[4:], strict=True):
                np.testing.assert_array_equal(whole, own)
            # Kernels of bytes do not fuse the norm's multiply-adds.
            step = 1 if numbers.dtype == "uint8" else 2.0**-7 * np.abs(found[0])
            assert (np.abs(found[3] - found[0]) <= step).all()


def test_patches_in_other_numbers(isa, rng):
    for size, first in ((4, 0), (7, 2), (16, 1)):
        for numbers in (BYTES, Numbers(dtype="bfloat16")):
            sketch = Sketch(3, 2 * size, 3 * size)
            sketch.show(sketch.convert(sketch.patches(size, first), numbers))
            (whole,) = sketch.run(batch := normal(rng, 3, 3, 2 * size, 3 * size), isa)
            sketch = Sketch(3, 2 * size, 3 * size)
            sketch.show(sketch.patches(size, first, numbers=numbers))
            (own,) = sketch.run(batch, isa, threads=2)
            np.testing.assert_array_equal(whole, own)


def test_layer_norm_in_bytes_is_the_same_everywhere(rng):
    """Sums of 16 lanes, and then of the lanes in pairs, whatever an instruction set's width."""
    isas = load_library().isas
    for columns in (1, 15, 16, 17, 40, 192, 200):
        sketch = Sketch.of_tokens((1, 9), columns)
        weight, bias = normal(rng, columns), normal(rng, columns)
        sketch.show(sketch.layer_norm(0, 1e-6, numbers=BYTES))
        sketch.show(sketch.layer_norm(0, 1e-6, weight, bias, numbers=BYTES))
        batch = sketch.pictures(normal(rng, 3, 9, columns))
        first, *others = [sketch.run(batch, isa) for isa in isas]
        for other in others:
            for one, found in zip(first, other, strict=True):
                np.testing.assert_array_equal(one, found)


@pytest.mark.parametrize("width", [12, 32, 48])
def test_positions_in_bfloat16(rng, width):
    """Weights are mixed in float32, and rounded to bfloat16 once."""
    numbers, heads = Numbers(dtype="bfloat16"), 2
    for isa, keys in itertools.product(load_library().isas, (1, 17, 49, 196)):
        sketch = Sketch.of_tokens((1, keys), 4)
        wide = sketch.convert(sketch.linear(0, normal(rng, heads * 3 * width, 4) / 2), numbers)
        eye = bfloat16_bits(np.eye(heads * 3 * width))
        parts = [(eye[i * heads * width : (i + 1) * heads * width], None) for i in range(3)]
        views = sketch.project(wide, heads, parts, numbers=numbers)
        positions = np.abs(normal(rng, heads, keys, keys)) / keys
        rest = rng.uniform(0, 1, heads).astype(np.float32)
        sketch.show(wide)
        sketch.show(sketch.attention(*views, heads, positions=positions, rest=rest))
        x, found = sketch.run(sketch.pictures(normal(rng, 2, keys, 4)), isa)
        for head in range(heads):
            q, k, v = (of_head(x, head, heads, (width,) * 3, part) for part in range(3))
            value, bound = attention(q, k, v, None, None, positions[head], float(rest[head]))
            bound = bound + 2.0**-7 * (np.abs(v).max() * (1 + positions[head].sum(-1).max()))
            assert excess(found[..., head * width : (head + 1) * width], value, bound) < 1, keys
