import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from levit.models.counting import ShapeOps
from levit.models.ops import NumpyOps, Scopes

OPS = NumpyOps()
EXAMPLES = settings(max_examples=40, deadline=None)

seeds = st.integers(0, 2**32 - 1)
small = st.integers(1, 5)


def normal(seed, *shape):
    return np.random.default_rng(seed).standard_normal(shape)


def slow_conv(x, weight, bias, stride, padding):
    batch, _, height, width = x.shape
    out, channels, kernel_h, kernel_w = weight.shape
    rows = (height + 2 * padding - kernel_h) // stride + 1
    columns = (width + 2 * padding - kernel_w) // stride + 1
    y = np.zeros((batch, out, rows, columns))
    for b, o, i, j in np.ndindex(*y.shape):
        total = 0.0 if bias is None else bias[o]
        for c, u, v in np.ndindex(channels, kernel_h, kernel_w):
            row, column = i * stride + u - padding, j * stride + v - padding
            if 0 <= row < height and 0 <= column < width:
                total += weight[o, c, u, v] * x[b, c, row, column]
        y[b, o, i, j] = total
    return y


@given(
    seeds, st.integers(1, 2), small, st.integers(1, 9), st.integers(1, 9), small,
    st.sampled_from([1, 3]), st.integers(1, 3), st.integers(0, 2), st.booleans(),
)  # fmt: skip
@EXAMPLES
def test_conv_is_the_sum_over_the_window(
    seed, batch, channels, height, width, out, kernel, stride, padding, has_bias
):
    if min(height, width) + 2 * padding < kernel:
        return
    x = normal(seed, batch, channels, height, width)
    weight = normal(seed + 1, out, channels, kernel, kernel)
    bias = normal(seed + 2, out) if has_bias else None
    found = OPS.conv(x, weight, bias, stride, padding)
    np.testing.assert_allclose(found, slow_conv(x, weight, bias, stride, padding), atol=1e-12)


@given(seeds, st.lists(small, min_size=1, max_size=3), small, small, st.booleans())
@EXAMPLES
def test_linear_is_a_product_over_the_last_axis(seed, lead, inputs, outputs, has_bias):
    x, weight = normal(seed, *lead, inputs), normal(seed + 1, outputs, inputs)
    bias = normal(seed + 2, outputs) if has_bias else None
    found = OPS.linear(x, weight, bias)
    assert found.shape == (*lead, outputs)
    for place in np.ndindex(*lead):
        for o in range(outputs):
            expected = sum(x[place][i] * weight[o, i] for i in range(inputs))
            expected += 0 if bias is None else bias[o]
            assert found[place][o] == pytest.approx(expected, abs=1e-12)


@given(seeds, small, small, small, st.sampled_from([1, -1, 0]))
@EXAMPLES
def test_batch_norm_normalises_along_its_axis(seed, a, b, c, axis):
    x = normal(seed, a, b, c)
    length = x.shape[axis]
    scale, shift, mean = (normal(seed + i, length) for i in (1, 2, 3))
    var = normal(seed + 4, length) ** 2
    found = OPS.batch_norm(x, scale, shift, mean, var, 1e-5, axis)
    for place in np.ndindex(*x.shape):
        i = place[axis]
        expected = (x[place] - mean[i]) / math.sqrt(var[i] + 1e-5) * scale[i] + shift[i]
        assert found[place] == pytest.approx(expected, rel=1e-12, abs=1e-12)


@given(seeds, st.lists(small, min_size=1, max_size=3), st.sampled_from([1.0, 50.0, 2000.0]))
@EXAMPLES
def test_softmax_sums_to_one_and_never_overflows(seed, shape, size):
    x = normal(seed, *shape) * size
    found = OPS.softmax(x)
    assert np.isfinite(found).all()
    np.testing.assert_allclose(found.sum(-1), 1, rtol=1e-14)
    for place in np.ndindex(*shape):
        row = x[place[:-1]]
        expected = 1 / math.fsum(math.exp(min(other - x[place], 700)) for other in row)
        assert found[place] == pytest.approx(expected, rel=1e-10, abs=1e-280)
    np.testing.assert_allclose(OPS.softmax(x + 3), found, rtol=1e-9)


@pytest.mark.parametrize(
    ("x", "y"), [(-4, 0), (-3, 0), (-1.5, -0.375), (0, 0), (1, 4 / 6), (3, 3), (7, 7)]
)
def test_hard_swish_at_its_corners(x, y):
    assert OPS.hard_swish(np.array([float(x)]))[0] == pytest.approx(y, abs=1e-15)


@given(st.floats(-1e4, 1e4))
@EXAMPLES
def test_silu_is_x_times_sigmoid(x):
    expected = x / (1 + math.exp(-x)) if x > -700 else 0.0
    with np.errstate(over="raise", under="ignore"):
        assert OPS.silu(np.array([x]))[0] == pytest.approx(expected, rel=1e-12, abs=1e-290)


@given(seeds, small, small, small, small, small)
@EXAMPLES
def test_matmul_is_batched(seed, batch, heads, n, k, m):
    a, b = normal(seed, batch, heads, n, k), normal(seed + 1, batch, heads, k, m)
    found = OPS.matmul(a, b)
    for i, h, r, c in np.ndindex(*found.shape):
        assert found[i, h, r, c] == pytest.approx(
            sum(a[i, h, r, j] * b[i, h, j, c] for j in range(k)), abs=1e-12
        )


def test_add_and_multiply_broadcast_from_the_right():
    a, b = normal(0, 2, 3, 4), normal(1, 3, 1)
    for i, j, k in np.ndindex(2, 3, 4):
        assert OPS.add(a, b)[i, j, k] == a[i, j, k] + b[j, 0]
        assert OPS.multiply(a, b)[i, j, k] == a[i, j, k] * b[j, 0]


@pytest.mark.parametrize(
    ("shape", "wanted", "result"),
    [
        ((2, 3, 4), (0, -1), (2, 12)),
        ((2, 3, 4), (0, 0, -1, 2), (2, 3, 2, 2)),
        ((2, 12), (0, 3, -1, 2), (2, 3, 2, 2)),
        ((5, 6, 2, 2), (0, 0, -1), (5, 6, 4)),
        ((2, 3, 4), (0, 4, 3), (2, 4, 3)),
    ],
)
def test_reshape_reads_0_and_minus_1_as_onnx_does(shape, wanted, result):
    x = np.arange(math.prod(shape)).reshape(shape)
    found = OPS.reshape(x, wanted)
    assert found.shape == result == ShapeOps().reshape(shape, wanted)
    assert np.array_equal(found.ravel(), x.ravel())


def test_transpose_moves_axes():
    x = normal(0, 2, 3, 4, 5)
    found = OPS.transpose(x, (0, 2, 3, 1))
    assert found.flags.c_contiguous
    assert found[1, 3, 4, 2] == x[1, 2, 3, 4]


@given(seeds, st.integers(1, 9), st.integers(1, 9), st.integers(1, 3))
@EXAMPLES
def test_subsample_takes_every_nth_from_the_first(seed, height, width, stride):
    x = normal(seed, 2, height, width, 3)
    found = OPS.subsample(x, (1, 2), stride)
    rows, columns = range(0, height, stride), range(0, width, stride)
    assert found.shape == (2, len(rows), len(columns), 3)
    for i, row in enumerate(rows):
        for j, column in enumerate(columns):
            assert np.array_equal(found[:, i, j], x[:, row, column])


def test_mean_drops_its_axes():
    x = normal(0, 2, 3, 4, 5)
    found = OPS.mean(x, (2, 3))
    assert found.shape == (2, 3)
    assert found[1, 2] == pytest.approx(sum(x[1, 2].ravel()) / 20)


def test_take_reads_a_table_by_index():
    table, index = normal(0, 3, 6), np.array([[0, 5], [2, 2]])
    found = OPS.take(table, index, "bias")
    assert found.shape == (3, 2, 2)
    assert found[1, 0, 1] == table[1, 5]


@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_the_type_is_the_references_whatever_the_weights_are(kind):
    ops = NumpyOps(kind)
    x = ops.cast(np.arange(12, dtype=np.uint8).reshape(2, 6))
    assert x.dtype == kind
    weight, bias = np.ones((3, 6), np.float64), np.ones(3, np.float32)
    assert ops.linear(x, weight, bias).dtype == kind
    image = x.reshape(1, 2, 2, 3)
    assert ops.conv(image, np.ones((4, 2, 3, 3)), np.ones(4), 2, 1).dtype == kind
    assert ops.conv(image, np.ones((4, 2, 1, 1)), np.ones(4), 2, 0).dtype == kind
    four = [np.ones(6)] * 4
    assert ops.batch_norm(x, *four, 1e-5, -1).dtype == kind
    assert ops.constant(np.ones(3), "c").dtype == kind
    assert ops.take(np.ones((2, 3)), np.zeros((2, 2), int), "t").dtype == kind
    for function in (ops.softmax, ops.hard_swish, ops.silu):
        assert function(x).dtype == kind


def test_pixels_are_cast_exactly():
    values = np.arange(256, dtype=np.uint8)
    assert np.array_equal(OPS.cast(values), np.arange(256.0))


def test_scopes_nest_and_end_with_an_error_too():
    scopes = Scopes()
    assert scopes.path == ""
    with scopes.scope("a"):
        with scopes.scope("b"):
            assert scopes.path == "a.b"
        with pytest.raises(ZeroDivisionError), scopes.scope("c"):
            raise ZeroDivisionError
        assert scopes.path == "a"
    assert scopes.path == ""


# ---------------------------------------------------------------------------- against PyTorch


@pytest.mark.peers
def test_torch_agrees_on_every_operation(rng):
    import torch
    from torch.nn import functional

    def torch_of(*arrays):
        return [torch.from_numpy(array) for array in arrays]

    x = rng.standard_normal((2, 5, 9, 7))
    weight, bias = rng.standard_normal((4, 5, 3, 3)), rng.standard_normal(4)
    four = [*rng.standard_normal((3, 5)), rng.uniform(0.1, 2, 5)]
    scale, shift, mean, var = torch_of(*four)
    (t,) = torch_of(x)
    pairs = [
        (OPS.conv(x, weight, bias, 2, 1), functional.conv2d(t, *torch_of(weight, bias), 2, 1)),
        (OPS.batch_norm(x, *four, 1e-5, 1), functional.batch_norm(t, mean, var, scale, shift)),
        (OPS.softmax(x), t.softmax(-1)),
        (OPS.hard_swish(4 * x), functional.hardswish(4 * t)),
        (OPS.silu(9 * x), functional.silu(9 * t)),
        (OPS.matmul(x, x.transpose(0, 1, 3, 2)), t @ t.transpose(2, 3)),
        (OPS.mean(x, (2, 3)), t.mean((2, 3))),
        (OPS.transpose(x, (0, 2, 3, 1)), t.permute(0, 2, 3, 1)),
    ]
    matrix, offset = rng.standard_normal((3, 7)), rng.standard_normal(3)
    pairs.append((OPS.linear(x, matrix, offset), functional.linear(t, *torch_of(matrix, offset))))
    for found, expected in pairs:
        np.testing.assert_allclose(found, expected.numpy(), rtol=1e-12, atol=1e-12)


# ---------------------------------------------------------------------------- shapes


@pytest.mark.parametrize("channels_first", [False, True])
def test_shapes_are_what_numpy_computes(small, channels_first):
    model = small.with_plan(
        channels_first=channels_first, outputs=small.family.outputs(small.config)
    )
    shape = (2, model.config.in_channels, *model.config.image_size)
    shapes = model.forward(ShapeOps(), shape)
    values = model.forward(NumpyOps(np.float32), np.zeros(shape, np.float32))
    assert shapes == {name: value.shape for name, value in values.items()}
