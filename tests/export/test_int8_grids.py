"""Grids of integers, weights rounded onto them, and biases that make up for it."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from levit.export.grids import Grid, LayerGrids, Quantization, Scheme, fit_grid
from levit.export.quantization.inputs import choose_input_grid
from levit.export.quantization.weights import correct_bias, round_weight

SCHEMES = {
    "unsigned": Scheme(),
    "signed": Scheme(signed=True),
    "seven": Scheme(weight_bits=7),
    "half": Scheme(signed=True, half=True),
}
finite = st.floats(-1e6, 1e6, allow_nan=False)


@given(low=finite, high=finite, signed=st.booleans())
def test_a_grid_has_zero_exactly_and_covers_its_range(low, high, signed):
    low, high = min(low, high), max(low, high)
    grid = fit_grid(low, high, Scheme(signed=signed))
    assert grid.nearest(np.zeros(3)).tolist() == [0, 0, 0]
    assert np.float32(grid.scale) == grid.scale > 0
    least, largest = grid.bounds
    assert least <= grid.zero_point <= largest
    for end in (min(low, 0.0), max(high, 0.0)):
        # A zero point that is rounded moves the grid by half a step.
        assert abs(grid.nearest(np.array([end]))[0] - end) <= grid.scale * 1.001


@given(value=st.floats(-3, 5))
def test_what_lies_inside_is_off_by_half_a_step(value):
    grid = fit_grid(-3, 5, Scheme())
    found = grid.nearest(np.array([value]))[0]
    assert abs(found - value) <= grid.scale * (1.01 if value < -2.98 or value > 4.98 else 0.5001)


def test_what_lies_outside_saturates():
    grid = Grid(scale=0.5, zero_point=10, signed=False)
    assert grid.nearest(np.array([-100.0, 1e9])).tolist() == [-5.0, 122.5]
    signed = Grid(scale=0.5, zero_point=0, signed=True)
    assert signed.nearest(np.array([-100.0, 100.0])).tolist() == [-64.0, 63.5]


def test_a_range_of_nothing_gives_nothing_back():
    for scheme in SCHEMES.values():
        assert fit_grid(0, 0, scheme).nearest(np.zeros(2)).tolist() == [0, 0]


def test_the_input_keeps_its_type():
    assert fit_grid(-1, 1, Scheme()).nearest(np.ones(2, np.float32)).dtype == np.float32


@pytest.mark.parametrize("name", list(SCHEMES))
def test_rounded_weights_are_whole_multiples_of_a_float32(rng, name):
    scheme = SCHEMES[name]
    weight = rng.standard_normal((24, 40)) * rng.uniform(0.01, 10, (24, 1))
    rounded, scale = round_weight(weight, rng.standard_normal((200, 40)), scheme)
    assert scale.dtype == np.float32
    integers = rounded / scale[:, None].astype(np.float64)
    assert np.abs(integers - np.rint(integers)).max() < 1e-9
    assert np.abs(integers).max() <= scheme.largest_weight
    grids = LayerGrids(input=fit_grid(0, 1, scheme), weight_scale=scale)
    stored = grids.integers(rounded)
    assert stored.dtype == np.int8
    np.testing.assert_allclose(stored * scale[:, None].astype(np.float64), rounded, atol=0)


def test_rounding_looks_at_what_the_weights_are_multiplied_by(rng):
    """Inputs that go together: what one column loses, another can make up for."""
    mixing = rng.standard_normal((6, 48))
    rows = rng.standard_normal((2000, 6)) @ mixing + 0.05 * rng.standard_normal((2000, 48))
    weight = rng.standard_normal((32, 48))
    rounded, _ = round_weight(weight, rows, Scheme(weight_bits=4))
    step = np.abs(weight).max(axis=1, keepdims=True) / 7
    nearest = np.rint(weight / step) * step
    noise, plain = (np.square(rows @ (w - weight).T).sum() for w in (rounded, nearest))
    assert noise < plain / 2


def test_compensation_is_that_of_the_equation(rng):
    """OBQ's, column by column, in float64 and with the inverse itself."""
    rows = rng.standard_normal((600, 5)) @ rng.standard_normal((5, 150))
    rows += 0.1 * rng.standard_normal(rows.shape)
    weight = rng.standard_normal((20, 150))
    rounded, scale = round_weight(weight, rows.astype(np.float32), Scheme())
    hessian = rows.T @ rows / len(rows)
    damped = hessian + np.eye(150) * np.diag(hessian).mean() * 0.01
    step, left = scale.astype(np.float64), weight.copy()
    todo = list(np.argsort(-np.diag(hessian), kind="stable"))
    while todo:
        inverse = np.linalg.inv(damped[np.ix_(todo, todo)])
        at, *others = todo
        nearest = np.clip(np.rint(left[:, at] / step), -127, 127) * step
        lost = (left[:, at] - nearest) / inverse[0, 0]
        left[:, others] -= lost[:, None] * inverse[0, 1:]
        left[:, at] = nearest
        todo = others
    # Rows are float32: here and there a weight in the middle of two goes to the other.
    assert np.mean(np.abs(rounded - left) > 1e-9 * np.abs(left).max()) < 0.01
    exact = rows @ weight.T
    noise = [np.square(rows @ one.T - exact).sum() for one in (rounded, left)]
    assert noise[0] == pytest.approx(noise[1], rel=0.02)


def test_scales_are_those_of_the_type_around_them(rng):
    half = Scheme(signed=True, half=True)
    for low, high in ((-3.3, 1), (0, 1e-9), (-1e9, 1e9)):
        scale = fit_grid(low, high, half).scale
        assert scale == float(np.float16(scale)) > 0
    weight = rng.standard_normal((24, 40)) * 10.0 ** rng.uniform(-9, 4, (24, 1))
    rounded, scale = round_weight(weight, rng.standard_normal((200, 40)), half)
    assert (scale.astype(np.float16) == scale).all()
    assert (scale > 0).all()
    usual = scale > 2.0**-14
    error = np.abs(rounded - weight).max(axis=1) / np.abs(weight).max(axis=1)
    assert usual.any()
    assert error[usual].max() < 0.05


def test_a_channel_of_zeros_stays_one(rng):
    weight = rng.standard_normal((4, 8))
    weight[2] = 0
    rounded, scale = round_weight(weight, rng.standard_normal((50, 8)), Scheme())
    assert (rounded[2] == 0).all()
    assert (scale > 0).all()


def test_columns_whose_input_is_zero_do_no_harm(rng):
    rows = rng.standard_normal((50, 8))
    rows[:, [1, 5]] = 0
    rounded, _ = round_weight(rng.standard_normal((4, 8)), rows, Scheme())
    assert np.isfinite(rounded).all()
    assert np.isfinite(round_weight(rng.standard_normal((4, 8)), rows * 0, Scheme())[0]).all()


def test_a_corrected_bias_keeps_every_mean(rng):
    rows = rng.standard_normal((500, 12)) + 1
    weight = rng.standard_normal((5, 12))
    rounded_rows = fit_grid(-2, 3, Scheme()).nearest(rows)
    rounded, _ = round_weight(weight, rounded_rows, Scheme(weight_bits=4))
    bias = correct_bias(weight, None, rounded, rows, rounded_rows)
    before, after = (rows @ weight.T).mean(axis=0), (rounded_rows @ rounded.T + bias).mean(axis=0)
    np.testing.assert_allclose(after, before, atol=1e-12)
    shifted = correct_bias(weight, np.arange(5.0), rounded, rows, rounded_rows)
    np.testing.assert_allclose(shifted - bias, np.arange(5.0), atol=1e-12)


def test_a_range_is_all_there_is_and_some_more(rng):
    """What is rare but there stays: other pictures reach further, not less far."""
    rows = rng.standard_normal((4096, 16))
    weights = [rng.standard_normal((8, 16)), rng.standard_normal((3, 16))]
    chosen = choose_input_grid(rows.min(), rows.max(), rows, weights, Scheme())
    assert chosen.rule == "min-max"
    low, high = 1.15 * rows.min(), 1.15 * rows.max()
    assert chosen.grid == fit_grid(low, high, Scheme())


def test_a_range_gives_up_what_no_sample_has(rng):
    """One picture of thousands has had a value thirty times as large."""
    rows = rng.uniform(-1, 1, (4096, 16))
    weights = [rng.standard_normal((8, 16))]
    for low, high in ((-1, 30), (-30, 1), (-30, 30)):
        chosen = choose_input_grid(low, high, rows, weights, Scheme())
        assert chosen.rule != "min-max"
        assert chosen.grid.scale < fit_grid(low, high, Scheme()).scale / 8
        # And nothing of what there is, is cut off by much.
        assert np.abs(chosen.grid.nearest(rows) - rows).max() < 0.1


def test_a_range_whose_ends_are_a_few_values_is_a_percentile(rng):
    rows = rng.uniform(-1, 1, (4096, 16))
    chosen = choose_input_grid(-40, 40, rows, [rng.standard_normal((8, 16))], Scheme())
    assert chosen.rule == "percentile"
    assert 1.9 < 255 * chosen.grid.scale < 2.1


def test_a_description_can_be_taken_apart():
    grids = LayerGrids(input=fit_grid(0, 1, Scheme()), weight_scale=np.ones(2, np.float32))
    whole = Quantization(scheme=Scheme(), layers={"a": grids, "b": grids})
    assert list(whole.without(["a"]).layers) == ["b"]
    assert list(whole.only(["a", "c"]).layers) == ["a"]
    assert whole.to_dict()["layers"] == ["a", "b"]
    assert whole.to_dict()["ranges"] == {"min-max": 2}
