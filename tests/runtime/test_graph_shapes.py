"""Shapes that the scans compute: those that NumPy and ONNX Runtime find."""

import numpy as np
import onnxruntime
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import helper
from onnx_files import ints, network, node, written

from levit.runtime.graphs import shapes
from levit.runtime.graphs.budget import MOST_FIXED, MOST_LIVE, Budget
from levit.runtime.graphs.onnx_graph import check_graph
from levit.runtime.graphs.shapes import BATCH, NO_END, Tensor
from levit.runtime.graphs.wire import read, signed

sizes = st.integers(1, 6)
axes = st.integers(-2, 5)
any_shape = st.lists(sizes, min_size=1, max_size=4).map(tuple)
small = st.integers(-2, 7)


def refuses(function, *arguments, **options):
    try:
        return function(*arguments, **options)
    except ValueError:
        return None


@given(any_shape, any_shape)
def test_elementwise(a, b):
    found = refuses(shapes.broadcast, a, b)
    if found is not None:
        assert (np.zeros(a) + np.zeros(b)).shape == found == a
    elif len(a) == len(b):
        assert any(n not in (1, m) for m, n in zip(a, b, strict=True))


@given(any_shape, any_shape)
def test_products(a, b):
    found = refuses(shapes.product, a, b)
    if found is not None:
        assert (np.zeros(a) @ np.zeros(b)).shape == found


@given(any_shape, st.lists(st.integers(-2, 40), min_size=1, max_size=5).map(tuple))
def test_reshaping(x, target):
    found = refuses(shapes.reshaped, x, target)
    if found is not None:
        sizes = [x[i] if n == 0 else n for i, n in enumerate(target)]
        assert np.zeros(x).reshape(sizes).shape == found


@given(st.data(), st.lists(sizes, min_size=1, max_size=4))
def test_reshaping_to_what_fits_is_taken(data, x):
    """Try every shape with as many elements, in each spelling."""
    count = int(np.prod(x))
    first = data.draw(st.sampled_from([n for n in range(1, count + 1) if count % n == 0]))
    for target in ((first, count // first), (-1, count // first), (first, -1), tuple(x)):
        assert shapes.reshaped(tuple(x), target)[0] in (first, x[0])


@given(any_shape, st.lists(axes, min_size=1, max_size=5).map(tuple))
def test_permutations(x, order):
    found = refuses(shapes.transposed, x, order)
    if found is not None:
        assert np.zeros(x).transpose(order).shape == found


@given(
    any_shape,
    st.lists(st.tuples(small, small | st.just(NO_END), axes, small), min_size=0, max_size=3),
    st.booleans(),
)
def test_slices(x, parts, with_steps):
    starts, ends, places, steps = (tuple(p[i] for p in parts) for i in range(4))
    found = refuses(shapes.sliced, x, starts, ends, places, steps if with_steps else None)
    if found is not None:
        index = [slice(None)] * len(x)
        for start, end, axis, step in parts:
            index[axis] = slice(start, end, step if with_steps else 1)
        assert np.zeros(x)[tuple(index)].shape == found


@given(any_shape, st.lists(small, min_size=0, max_size=4), st.lists(small, min_size=0, max_size=4))
def test_padding(x, before, after):
    found = refuses(shapes.padded, x, tuple(before), tuple(after))
    if found is not None:
        pairs = list(zip(before, after, strict=True))
        assert np.pad(np.zeros(x), pairs).shape == found


@given(any_shape, st.lists(axes, min_size=1, max_size=3).map(tuple), st.booleans())
def test_means(x, places, keep):
    found = refuses(shapes.averaged, x, places, keep=keep)
    if found is not None:
        assert np.zeros(x).mean(axis=places, keepdims=keep).shape == found


@given(st.data())
def test_convolutions_are_those_of_onnx_runtime(data):
    side = data.draw(st.tuples(st.integers(1, 20), st.integers(1, 20)))
    kernel, stride, pad = (data.draw(st.integers(0, 5)) for _ in range(3))
    if kernel == 0:
        return
    found = refuses(
        shapes.convolved, (2, 3, *side), (4, 3, kernel, kernel), (stride, stride), [pad] * 4
    )
    if found is None:
        return
    weight = np.ones((4, 3, kernel, kernel), np.float32)
    model = network(
        [node("Conv", ["image", "w"], kernel_shape=[kernel] * 2, strides=[stride] * 2,
              pads=[pad] * 4)],
        [("w", weight)], image=(2, 3, *side), output=found,
    )  # fmt: skip
    session = onnxruntime.InferenceSession(model.SerializeToString())
    (y,) = session.run(None, {"image": np.ones((2, 3, *side), np.float32)})
    assert y.shape == found


@given(any_shape, st.lists(st.integers(-1, 12), min_size=1, max_size=4).map(tuple), sizes)
def test_the_prime_stands_for_every_batch(x, target, count):
    """A shape of (N, …) is taken for all N or for none that the scan would let through."""
    found = refuses(shapes.reshaped, (BATCH, *x), target)
    if found is None or any(n >= BATCH for n in found[1:]) or found[0] % BATCH:
        return
    expected = (found[0] // BATCH * count, *found[1:])
    assert shapes.reshaped((count, *x), target) == expected


def test_elements_are_those_of_one_picture():
    assert shapes.elements((BATCH * 4, 3)) == 12
    assert shapes.elements((4, 3)) == 12
    assert shapes.elements(()) == 1
    # More than the prime, and no batch.
    assert shapes.elements((2**31, 2**31, 2**31)) == 2**93


def test_a_budget_counts_what_lives_and_what_is_made_of_weights():
    image = Tensor("float32", (BATCH, 3, 8, 8))
    half = Tensor("float32", (BATCH, MOST_LIVE // 2))
    budget = Budget(2, {"image": 0, "a": 2, "b": 9, "c": 9})
    budget.start("image", image)
    budget.add(0, "a", Tensor("float32", (BATCH, MOST_LIVE // 2)), ("image",))
    budget.add(2, "b", Tensor("float32", (BATCH, 8)), ("a",))
    budget.add(3, "c", half, ())
    with pytest.raises(ValueError, match="at once"):
        budget.add(4, "d", half, ())
    scalar = Tensor("float32", (), fixed=True)
    for place in range(MOST_FIXED * 2):
        budget.add(5, f"e{place}", scalar, ())
    with pytest.raises(ValueError, match="more of the weights"):
        budget.add(5, "f", scalar, ())


# ---------------------------------------------------------------------------- the encoding


@given(st.binary(max_size=40))
def test_any_bytes_are_read_or_refused(data):
    fields = {0x08: ("a", 3), 0x12: ("b", 3), 0x1D: ("c", 1)}
    try:
        found = list(read(data, 0, len(data), fields))
    except ValueError:
        return
    assert [name for name, _, _ in found] == sorted(name for name, _, _ in found)


@given(st.integers(-(2**63), 2**63 - 1))
def test_numbers_are_those_of_protobuf(number):
    data = helper.make_attribute("a", number).SerializeToString(deterministic=True)
    fields = {1 << 3 | 2: ("name", 1), 3 << 3: ("i", 1), 20 << 3: ("type", 1)}
    values = {name: value for name, value, _ in read(data, 0, len(data), fields)}
    assert signed(values["i"]) == number


@pytest.mark.parametrize("cut", [1, 2, 3, 9, 40])
def test_a_file_that_ends_early(cut):
    data = written(network([node("Reshape", ["image", "s"])], [("s", ints(0, 3, 8, 8))]))
    check_graph(data)
    with pytest.raises(ValueError, match=r"damaged|has no|field"):
        check_graph(data[:-cut])
