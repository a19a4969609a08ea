import math
from dataclasses import dataclass, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from levit.models.layers import (
    ACTIVATIONS,
    BatchNorm,
    Conv,
    Linear,
    RelativeBias,
    activate,
    layers_of,
    transform,
)
from levit.models.levit.build import relative_index
from levit.models.ops import NumpyOps

OPS = NumpyOps()
EXAMPLES = settings(max_examples=50, deadline=None)
seeds = st.integers(0, 2**32 - 1)


def norm_of(rng, width, kind=np.float32):
    scale, shift, mean = rng.normal(0, 1, (3, width)).astype(kind)
    var = rng.uniform(0.05, 3, width).astype(kind)
    return BatchNorm(scale, shift, mean, var)


def assert_same(found, expected):
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() <= 1e-12 * np.abs(expected).max()


@given(seeds, st.integers(1, 6), st.integers(1, 6), st.booleans(), st.booleans(), st.booleans())
@EXAMPLES
def test_a_folded_linear_is_the_same_map(seed, inputs, outputs, has_bias, before, after):
    rng = np.random.default_rng(seed)
    linear = Linear(
        rng.standard_normal((outputs, inputs)).astype(np.float32),
        rng.standard_normal(outputs).astype(np.float32) if has_bias else None,
        norm=norm_of(rng, outputs) if after else None,
        norm_before=norm_of(rng, inputs) if before else None,
    )
    folded = linear.fold()
    x = rng.standard_normal((3, 4, inputs))
    assert_same(folded.apply(OPS, x), linear.apply(OPS, x))
    assert folded.norm is folded.norm_before is None
    assert (folded is linear) == (not before and not after)
    if before or after:
        assert folded.weight.dtype == folded.bias.dtype == np.float64
    assert folded.fold() is folded


@given(seeds, st.integers(1, 4), st.integers(1, 5), st.booleans(), st.sampled_from([1, 2]))
@EXAMPLES
def test_a_folded_conv_is_the_same_map_up_to_the_border(seed, inputs, outputs, has_bias, stride):
    rng = np.random.default_rng(seed)
    conv = Conv(
        rng.standard_normal((outputs, inputs, 3, 3)).astype(np.float32),
        rng.standard_normal(outputs).astype(np.float32) if has_bias else None,
        stride=stride,
        norm=norm_of(rng, outputs),
    )
    folded = conv.fold()
    x = rng.standard_normal((2, inputs, 7, 6))
    assert_same(folded.apply(OPS, x), conv.apply(OPS, x))
    assert folded.norm is None
    assert (folded.stride, folded.padding) == (stride, 1)
    assert folded.fold() is folded


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("before", [False, True])
def test_pointwise_is_the_same_map_over_a_grid(rng, stride, before):
    linear = Linear(
        rng.standard_normal((5, 4)),
        rng.standard_normal(5),
        norm=norm_of(rng, 5),
        norm_before=norm_of(rng, 4) if before else None,
    )
    x = rng.standard_normal((2, 4, 7, 5))
    found = linear.apply_pointwise(OPS, x, stride)
    expected = linear.apply(OPS, np.moveaxis(x[:, :, ::stride, ::stride], 1, -1))
    assert_same(np.moveaxis(found, 1, -1), expected)


def test_the_affine_form_of_a_norm(rng):
    norm = norm_of(rng, 6)
    scale, shift = norm.affine()
    assert scale.dtype == shift.dtype == np.float64
    x = rng.standard_normal((3, 6))
    assert_same(x * scale + shift, norm.apply(OPS, x, axis=-1))


def test_the_epsilon_counts(rng):
    norm = replace(norm_of(rng, 4), var=np.zeros(4, np.float32), eps=1e-3)
    linear = Linear(rng.standard_normal((4, 4)), norm=norm)
    x = rng.standard_normal((3, 4))
    assert_same(linear.fold().apply(OPS, x), linear.apply(OPS, x))
    assert np.isfinite(linear.fold().weight).all()


def test_folding_leaves_float32_weights_alone(rng):
    linear = Linear(rng.standard_normal((4, 4)).astype(np.float32), norm=norm_of(rng, 4))
    before = linear.weight.copy()
    linear.fold()
    assert np.array_equal(linear.weight, before)
    assert linear.weight.dtype == np.float32


@pytest.mark.parametrize(
    ("grid", "stride"), [((3, 3), 1), ((3, 2), 2), ((2, 5), 2), ((1, 1), 2), ((1, 4), 1)]
)
def test_the_relative_index_is_the_distance_between_query_and_key(grid, stride):
    height, width = grid
    index = relative_index(grid, stride)
    queries = [(r, c) for r in range(0, height, stride) for c in range(0, width, stride)]
    keys = [(r, c) for r in range(height) for c in range(width)]
    assert index.shape == (len(queries), len(keys))
    for q, (row, column) in enumerate(queries):
        for k, (key_row, key_column) in enumerate(keys):
            assert index[q, k] == abs(row - key_row) * width + abs(column - key_column)


def test_a_folded_relative_bias_is_the_same_table(rng):
    bias = RelativeBias(rng.standard_normal((3, 6)), relative_index((3, 2), 2))
    folded = bias.fold()
    assert folded.index is None
    assert folded.values.shape == (3, 2, 6)
    assert np.array_equal(folded.apply(OPS), bias.apply(OPS))
    assert folded.fold() is folded


def test_activations_by_name(rng):
    x = rng.standard_normal(9) * 4
    assert ACTIVATIONS == ("hard_swish", "silu", "gelu")
    assert np.array_equal(activate(OPS, x, "hard_swish"), OPS.hard_swish(x))
    assert np.array_equal(activate(OPS, x, "silu"), OPS.silu(x))
    expected = [0.5 * v * (1 + math.erf(v / math.sqrt(2))) for v in x]
    assert np.abs(activate(OPS, x, "gelu") - expected).max() <= 1e-15
    with pytest.raises(KeyError):
        activate(OPS, x, "relu")


# ---------------------------------------------------------------------------- trees


@dataclass(frozen=True)
class Pair:
    first: object
    rest: tuple
    name: str = "pair"


def test_transform_changes_every_layer_of_a_kind_and_counts_them():
    one, two = Linear(np.ones((1, 1))), Linear(np.full((1, 1), 2.0))
    tree = Pair(one, (Conv(np.ones((1, 1, 3, 3))), (two, None)))
    new, count = transform(tree, Linear, lambda _, layer: replace(layer, weight=layer.weight * 10))
    assert count == 2
    assert new.first.weight[0, 0] == 10
    assert new.rest[1][0].weight[0, 0] == 20
    assert new.rest[0] is tree.rest[0]
    assert new.rest[1][1] is None
    assert tree.first is one


def test_transform_returns_the_tree_itself_when_nothing_changes():
    tree = Pair(Linear(np.ones((1, 1))), ())
    same, count = transform(tree, Linear, lambda _, layer: layer)
    assert count == 0
    assert same is tree


def test_layers_come_in_the_order_of_the_fields():
    layers = [Linear(np.full((1, 1), i)) for i in range(4)]
    tree = Pair(layers[0], (Pair(layers[1], (layers[2],)), layers[3]))
    assert [found.weight[0, 0] for found in layers_of(tree, Linear).values()] == [0, 1, 2, 3]
    assert layers_of(tree, Conv) == {}


def test_paths_are_made_of_fields_and_places():
    one, two, three = (Linear(np.full((1, 1), i)) for i in range(3))
    tree = Pair(one, (Pair(None, (two,)), three))
    assert layers_of(tree, Linear) == {"first": one, "rest.0.rest.0": two, "rest.1": three}
    assert list(layers_of(tree.rest, Linear, "at")) == ["at.0.rest.0", "at.1"]

    def zero(path, layer):
        return replace(layer, weight=layer.weight * 0) if path == "rest.1" else layer

    new, count = transform(tree, Linear, zero)
    assert count == 1
    assert new.rest[0] is tree.rest[0]
    assert not new.rest[1].weight.any()
