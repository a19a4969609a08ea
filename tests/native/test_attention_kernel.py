"""Projections and attention: any number of keys, heads and widths; powers of two by themselves."""

import itertools

import numpy as np
import pytest
from heads import of_head, parts_of
from rounding import UNIT, attention, excess, product
from sketch import SANITIZED, Sketch, sizes

pytestmark = pytest.mark.native

WIDTHS = (8, 12, 16, 20, 24, 32, 40, 64)  # of a head
ACTIVATIONS = (None, "hard_swish", "silu", "gelu")


def normal(rng, *shape):
    return rng.standard_normal(shape, np.float32)


def check_attention(
    isa, rng, keys, heads, key_width, value_width, *,
    table=True, activation=None, batch=2, step=1, threads=1,
):  # fmt: skip
    """Queries are every `step`-th token, by a projection of their own."""
    widths = (key_width, key_width, value_width)
    sketch = Sketch.of_tokens((1, keys), 4)
    wide = sketch.linear(0, normal(rng, heads * sum(widths), 4) / 2)
    q, k, v = parts_of(sketch, wide, heads, widths)
    if step > 1:
        q = parts_of(sketch, sketch.subsample(wide, (1, keys), step), heads, widths)[0]
    queries = -(-keys // step)
    scores = 2 * normal(rng, heads, queries, keys) if table else None
    sketch.output(wide)
    sketch.output(sketch.attention(q, k, v, heads, scores, activation))
    x, found = sketch.run(sketch.pictures(normal(rng, batch, keys, 4)), isa, threads)
    for head in range(heads):
        q, k, v = (of_head(x, head, heads, widths, part) for part in range(3))
        bias = scores[head] if table else None
        value, bound = attention(q[:, ::step], k, v, bias, activation)
        off = excess(found[..., head * value_width : (head + 1) * value_width], value, bound)
        assert off < 1, f"{off:.2g} of the bound: {keys} keys, head {head}, {widths}, {activation}"


def test_every_number_of_keys(isa, rng):
    for keys in (*sizes(70), 196, 197, 577, 785):
        heads, number = 1 + keys % 4, keys % 7
        check_attention(
            isa, rng, keys, heads, WIDTHS[number], WIDTHS[-number], table=keys % 3 > 0,
            activation=ACTIVATIONS[keys % 4], step=1 + keys % 2,
        )  # fmt: skip


def test_every_width_of_keys_and_values(isa, rng):
    for number, (key, value) in enumerate(itertools.product((*WIDTHS, 1, 17), repeat=2)):
        for keys in (1, 16, 49) if not SANITIZED else ((1, 16, 49)[number % 3],):
            check_attention(
                isa, rng, keys, 1 + number % 3, key, value, table=number % 4 > 0,
                activation=ACTIVATIONS[number % 4],
            )  # fmt: skip


def test_every_number_of_queries(isa, rng):
    """Every height of a tile, with whole panels of values, half ones, and tails."""
    for queries, (value, activation) in itertools.product(
        range(1, 31), zip((8, 16, 32, 40), ACTIVATIONS, strict=True)
    ):
        check_attention(isa, rng, 3 * queries - 2, 2, 16, value, activation=activation, step=3)


@pytest.mark.parametrize("threads", [2, 3, 4, 5, 16])
def test_threads_divide_heads_and_queries(isa, rng, threads):
    for keys, heads in itertools.product((1, 65) if SANITIZED else (1, 16, 49, 65), (1, 2, 3, 12)):
        for batch in (1, threads + 1):
            check_attention(isa, rng, keys, heads, 16, 24, batch=batch, threads=threads)


def test_heads_of_deit(isa, rng):
    for keys, heads in ((197, 3), (198, 6), (577, 12)):
        check_attention(isa, rng, keys, heads, 64, 64, table=False, batch=1, threads=2)


def test_projections(isa, rng):
    """Values themselves: each query looks at its own token and at no other."""
    for rows, depth in itertools.product((1, 3, 14, 16, 29), (1, 16, 17, 40)):
        for heads, width in ((1, 8), (2, 24), (3, 17), (5, 32)):
            weight, bias = normal(rng, heads * width, depth), normal(rng, heads * width)
            sketch = Sketch.of_tokens((1, rows), depth)
            tokens = normal(rng, 3, rows, depth)
            nothing = (np.zeros((heads, depth)), None)
            views = sketch.project(0, heads, [(weight, bias), nothing, (weight, None)])
            table = np.where(np.eye(rows) > 0, 0, -1e4)[None].repeat(heads, 0)
            for values in (views[0], views[2]):
                sketch.output(sketch.attention(views[1], views[1], values, heads, table))
            with_bias, without = sketch.run(sketch.pictures(tokens), isa)
            assert excess(with_bias, *product(tokens, weight, bias)) < 1, (rows, depth, width)
            assert excess(without, *product(tokens, weight)) < 1, (rows, depth, width)


def two_keys(isa, scores):
    """Shares of two keys where the first has these scores and the second has 0: (queries, 2)."""
    count = len(scores) + len(scores) % 2
    sketch = Sketch.of_tokens((1, count), 2)
    tokens = np.zeros((1, count, 2), np.float32)
    tokens[0, 0, 0] = tokens[0, count // 2, 1] = 1
    (queries,) = sketch.project(0, 1, [(np.zeros((1, 2)), None)])
    pair = sketch.subsample(0, (1, count), count // 2)
    keys, values = sketch.project(pair, 1, [(np.zeros((1, 2)), None), (np.eye(2), None)])
    table = np.zeros((1, count, 2), np.float32)
    table[0, : len(scores), 0] = scores
    sketch.output(sketch.attention(queries, keys, values, 1, table))
    (found,) = sketch.run(sketch.pictures(tokens), isa)
    return found[0, : len(scores)]


def test_powers_of_two_are_at_most_two_units_off(isa, rng):
    """The larger power of two keys is 1: the ratio of their shares is the other, rounded once."""
    whole = np.arange(-126, 0, dtype=np.float32)
    halves = whole + np.float32(0.5)
    near = [np.nextafter(x, np.float32(to)) for x in (whole, halves) for to in (-200, 1)]
    drawn = rng.uniform(-126, 0, 100_000).astype(np.float32)
    small = -np.exp2(rng.uniform(-30, 0, 20_000)).astype(np.float32)
    scores = np.clip(np.concatenate([whole, halves, *near, drawn, small]), -126, 0)
    exact = np.exp2(scores.astype(np.float64))
    for sign, order in ((1, slice(None)), (-1, slice(None, None, -1))):
        power, one = two_keys(isa, sign * scores).astype(np.float64).T[order]
        unit = np.spacing(exact.astype(np.float32)).astype(np.float64)
        # The ratio is of two floats, the smaller of which was rounded once more than the power.
        error = np.abs(power / one - exact) - UNIT * exact
        worst = (error / unit).argmax()
        assert error[worst] <= 2 * unit[worst], f"2^{scores[worst]}: {(error / unit).max():.2f}"


def test_scores_that_differ_beyond_reason(isa):
    scores = np.array([127, 128, 200, 1e4, 1e30, 3e38], np.float32)
    for sign in (1, -1):
        found = two_keys(isa, sign * scores)[:, ::sign]
        np.testing.assert_allclose(found, [[1, 0]] * len(scores), atol=2.0**-125, rtol=0)


@pytest.mark.parametrize("keys", [1, 5, 16, 49])
@pytest.mark.parametrize("size", [0.0, 80.0, -80.0, 1e4, -1e4, -3e38, 3e38])
def test_all_scores_alike_and_large(isa, rng, size, keys):
    """Every token is looked at as much as every other, however large the scores are."""
    sketch = Sketch.of_tokens((1, keys), 8)
    tokens = normal(rng, 2, keys, 8)
    nothing = (np.zeros((1, 8)), None)
    queries, values = sketch.project(0, 1, [nothing, (np.eye(8), None)])
    table = np.full((1, keys, keys), size)
    sketch.output(sketch.attention(queries, queries, values, 1, table))
    (found,) = sketch.run(sketch.pictures(tokens), isa)
    zeros = np.zeros((2, keys, 1))
    value, bound = attention(zeros, zeros, tokens, np.zeros((keys, keys)))
    assert excess(found, value, bound) < 1


@pytest.mark.parametrize("size", [80.0, 1e4, -1e30])
def test_large_scores_of_some_keys(isa, rng, size):
    for keys in (2, 16, 33, 49):
        sketch = Sketch.of_tokens((1, keys), 8)
        tokens = normal(rng, 2, keys, 8)
        queries, values = sketch.project(0, 1, [(np.zeros((1, 8)), None), (np.eye(8), None)])
        some = (rng.random((1, keys, keys)) < 0.5) & (np.eye(keys) == 0)
        table = np.where(some, size, 0).astype(np.float32)
        sketch.output(sketch.attention(queries, queries, values, 1, table))
        (found,) = sketch.run(sketch.pictures(tokens), isa)
        zeros = np.zeros((2, keys, 1))
        # A sum with a large score rounds nothing here: products are 0.
        value, bound = attention(zeros, zeros, tokens, table[0] - table[0].max(-1, keepdims=True))
        assert excess(found, value, bound) < 1, keys
