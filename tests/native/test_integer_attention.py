"""Attention in bytes, which gives the bits of the interpreter on every instruction set."""

import itertools

import numpy as np
import pytest
from sketch import Sketch, sizes

from levit.native.library import load_library
from levit.native.program import FLOAT32, Numbers

pytestmark = pytest.mark.native

BFLOAT16 = Numbers(dtype="bfloat16")
SIGNED = Numbers(dtype="uint8", zero_point=128)
RESULT = Numbers(dtype="uint8", scale=0.0173, zero_point=77)
WIDTHS = (8, 12, 16, 20, 24, 32, 40, 64, 1, 17)  # of a head
ENDS = list(itertools.product((None, "hard_swish"), (RESULT, FLOAT32, BFLOAT16)))


def parts_of(rng, sketch, source, heads, widths, spread=60):
    """Project 8 signed bytes a token into parts of signed bytes of this standard deviation."""
    parts = []
    for width in widths:
        weight = rng.integers(-127, 128, (heads * width, 8), np.int8)
        bias = rng.integers(-40_000, 40_000, heads * width, np.int32)
        scale = rng.uniform(0.5, 1.5, heads * width) * spread / (73 * 74 * 8**0.5)
        parts.append((weight, bias, scale))
    return sketch.project(source, heads, parts, numbers=SIGNED)


def scales_of(rng, heads, key_width, value_width, sharpness=2.0):
    """Scales of scores that are of `sharpness`, and of values, with their offset or none."""
    scores = rng.uniform(0.5, 1.5, heads) * sharpness / (60 * 60 * key_width**0.5)
    values = rng.uniform(0.5, 1.5, heads * value_width) / 60
    return scores, values, rng.normal(0, 1, heads * value_width) if heads % 2 else None


def check_attention(
    rng, keys, heads, key_width, value_width, *,
    table=True, end=ENDS[0], batch=2, step=1, threads=(1,), sharpness=2.0,
):  # fmt: skip
    """Queries are every `step`-th token, by a projection of their own."""
    activation, numbers = end
    widths = (key_width, key_width, value_width)
    sketch = Sketch.of_tokens((1, keys), 8)
    source = sketch.convert(0, SIGNED)
    q, k, v = parts_of(rng, sketch, source, heads, widths)
    if step > 1:
        few = sketch.subsample(source, (1, keys), step, numbers=SIGNED)
        q = parts_of(rng, sketch, few, heads, widths)[0]
    scores = None
    if table:
        scores = rng.normal(0, 2, (heads, -(-keys // step), keys))
    target = sketch.attention(
        q, k, v, heads, scores, activation, numbers=numbers,
        scales=scales_of(rng, heads, key_width, value_width, sharpness),
    )  # fmt: skip
    sketch.show(target)
    tokens = rng.integers(-128, 128, (batch, keys, 8)).astype(np.float32)
    name = f"{keys} keys, {heads} heads of {widths}, {activation}, {numbers.dtype}"
    sketch.check(sketch.pictures(tokens), threads, name=name)


@pytest.mark.parametrize("first", [1, 18, 35, 52])
def test_every_number_of_keys(rng, first):
    for keys in [keys for keys in sizes(70) if first <= keys < first + 17]:
        check_attention(
            rng, keys, 1 + keys % 4, WIDTHS[keys % 10], WIDTHS[-1 - keys % 7],
            table=keys % 3 > 0, end=ENDS[keys % 6], step=1 + keys % 2,
        )  # fmt: skip


@pytest.mark.parametrize("keys", [196, 197, 577, 800])
def test_many_keys(rng, keys):
    for end, sharpness in ((ENDS[0], 2), (ENDS[3], 8), (ENDS[1], 0.1)):
        check_attention(rng, keys, 3, 16, 32, end=end, batch=1, sharpness=sharpness)


def test_every_width_of_keys_and_values(rng):
    for number, (key, value) in enumerate(itertools.product(WIDTHS, repeat=2)):
        keys = (1, 16, 50)[number % 3]
        check_attention(
            rng, keys, 1 + number % 3, key, value, table=number % 4 > 0, end=ENDS[number % 6]
        )


def test_every_number_of_queries(rng):
    """Every height of a tile, with whole panels of values, half ones, and tails."""
    for queries, (value, end) in itertools.product(
        range(1, 30), zip((8, 32, 40), (ENDS[3], ENDS[0], ENDS[4]), strict=True)
    ):
        check_attention(rng, 3 * queries - 2, 2, 16, value, end=end, step=3)


def test_threads_divide_heads_and_queries(rng):
    for keys, heads, batch in itertools.product((1, 16, 49, 65), (1, 3, 12), (1, 5)):
        check_attention(rng, keys, heads, 16, 24, batch=batch, threads=(1, 2, 3, 4))


def of_scores(rng, table):
    """(a program, its batch, its values): attention whose scores are a table, a row a query."""
    keys = len(table)
    sketch = Sketch.of_tokens((1, keys), 8)
    source = sketch.convert(0, SIGNED)
    nothing, itself = (np.zeros((1, 8), np.int8), None), (np.eye(8, dtype=np.int8), None)
    (q,) = sketch.project(source, 1, [nothing], numbers=SIGNED)
    (v,) = sketch.project(source, 1, [itself], numbers=SIGNED)
    sketch.output(sketch.attention(q, q, v, 1, table[None], scales=(np.ones(1), np.ones(8), None)))
    tokens = rng.integers(-128, 128, (1, keys, 8)).astype(np.float32)
    return sketch, sketch.pictures(tokens), tokens


@pytest.mark.parametrize("size", [0.0, 1e2, -1e2, 1e4, -1e4, 65536.25, 1e6, -1e6, 3e38, -3e38])
def test_scores_that_are_large(rng, size):
    """The largest power of a row is 255, however large its score is."""
    for keys in (2, 16, 33):
        same = np.full((keys, keys), size, np.float32)
        sketch, batch, tokens = of_scores(rng, same)
        sketch.check(batch, name="all alike")
        (found,) = sketch.run(batch, load_library().isas[0])
        mean = tokens.astype(np.float64).mean(1, keepdims=True)
        np.testing.assert_allclose(found, np.broadcast_to(mean, found.shape), rtol=1e-5, atol=1e-5)
        some = np.where(rng.random((keys, keys)) < 0.5, size, 0).astype(np.float32)
        sketch, batch, _ = of_scores(rng, some + np.float32(rng.normal(0, 2, (keys, keys))))
        sketch.check(batch, name="some")


def test_powers_are_the_nearest_bytes_or_the_next(rng):
    """Of two keys of which one has power 255, the other's share tells its byte."""
    below = np.linspace(-9.5, 0, 400).astype(np.float32)
    table = np.full((400, 400), -1e4, np.float32)
    table[:, 0], table[:, 1] = 0, below
    sketch, batch, tokens = of_scores(rng, table)
    sketch.check(batch)
    (found,) = sketch.run(batch, load_library().isas[0])
    one, other = tokens[0, 0].astype(np.float64), tokens[0, 1]
    apart = np.abs(one - other).argmax()
    share = (found[0, :, apart] - one[apart]) / (other - one)[apart]
    power = 255 * share / (1 - share)
    np.testing.assert_allclose(power, np.rint(power), atol=1e-2)
    exact = 255 * np.exp2(below.astype(np.float64))
    assert np.abs(power - exact).max() < 0.5 + 0.02
