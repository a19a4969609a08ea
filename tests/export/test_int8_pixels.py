"""The first layer in integers: pixels as they are."""

from dataclasses import replace

import numpy as np
import pytest

from levit.export.grids import LayerGrids, PixelGrid, Quantization, Scheme, fit_grid
from levit.export.passes import run_passes
from levit.export.quantization.compiler import Quantizer
from levit.export.quantization.pictures import Pictures
from levit.export.quantization.quantize import mixed
from levit.export.quantization.reference import QuantizedOps
from levit.export.quantization.sensitivity import signal_to_noise
from levit.models.layers import Affine, layers_of
from levit.models.ops import NumpyOps
from levit.models.pictures import smooth_pictures, standardized
from levit.models.random_weights import random_model
from levit.models.registry import FAMILIES
from levit.models.transformer.config import TransformerConfig

STATISTICS = ((0.41, 0.5, 0.63), (0.2, 0.25, 0.3))


def folded(model):
    # All passes: that of the input's normalisation is what pixels as integers ask for.
    return run_passes(model)[-1].model.with_plan(channels_first=False)


@pytest.fixture
def of_pixels(make_small):
    return folded(make_small("tiny").with_plan(pixels=STATISTICS))


def pixels_for(model, count, seed):
    rng = np.random.default_rng(seed)
    return smooth_pictures(rng, count, model.config.image_size, model.config.in_channels)


def first_attempt(model, x):
    quantizer = Quantizer(Pictures(origin="photos", items=x))
    return next(iter(quantizer.attempts(model, Scheme(), keep_first=False)))


# ---------------------------------------------------------------------------- grids


def test_a_border_is_the_pixel_nearest_to_the_mean(rng):
    grid = PixelGrid(offset=tuple(255 * mean for mean in STATISTICS[0]))
    assert grid.border == (105, 128, 161)  # of 104.55, 127.5 and 160.65
    x = rng.integers(0, 256, (2, 3, 4, 6)) - np.asarray(grid.offset).reshape(-1, 1, 1)
    assert grid.nearest(x) is x
    padded = grid.padded(x, 2) + np.asarray(grid.offset).reshape(-1, 1, 1)
    np.testing.assert_allclose(padded, np.rint(padded), atol=1e-9)
    np.testing.assert_array_equal(grid.padded(x, 2)[:, :, 2:-2, 2:-2], x)
    edge = np.rint(padded[:, :, :2]).astype(int)
    np.testing.assert_array_equal(edge, np.broadcast_to([[[105]], [[128]], [[161]]], edge.shape))


def test_the_offsets_share_is_what_the_layer_makes_of_it(rng):
    grid = PixelGrid(offset=(3.5, 100.25, 0.0))
    weight = rng.standard_normal((4, 3, 3, 3))
    flat = np.broadcast_to(np.array(grid.offset).reshape(-1, 1, 1), (1, 3, 3, 3))
    expected = NumpyOps().conv(flat, weight, None, 1, 0).ravel()
    np.testing.assert_allclose(grid.share(weight), expected)


def test_a_convolution_of_pixels_is_one_of_integers(rng):
    """Products of pixels and int8, an int32 bias, one scale a channel; the border is a pixel."""
    grid = PixelGrid(offset=tuple(255 * mean for mean in STATISTICS[0]))
    scale = rng.uniform(0.001, 0.01, 5).astype(np.float32)
    integers = rng.integers(-127, 128, (5, 3, 3, 3))
    offset = rng.integers(-9999, 9999, 5)
    pixels = rng.integers(0, 256, (2, 3, 8, 8))
    weight = integers * scale.astype(np.float64).reshape(-1, 1, 1, 1)
    bias = offset * scale.astype(np.float64) + grid.share(weight)
    layers = {"stem.0": LayerGrids(input=grid, weight_scale=scale)}
    ops = QuantizedOps(Quantization(scheme=Scheme(), layers=layers))
    with ops.scope("stem.0"):
        shifted = pixels - np.asarray(grid.offset).reshape(-1, 1, 1)
        found = ops.conv(shifted, weight, bias, 2, 1)
    bordered = np.stack(
        [
            np.pad(pixels[:, c], ((0, 0), (1, 1), (1, 1)), constant_values=grid.border[c])
            for c in range(3)
        ],
        axis=1,
    )
    expected = np.empty((2, 5, 4, 4))
    for i, j in np.ndindex(4, 4):
        window = bordered[:, None, :, 2 * i : 2 * i + 3, 2 * j : 2 * j + 3]
        expected[:, :, i, j] = (window * integers).sum(axis=(2, 3, 4)) + offset
    np.testing.assert_allclose(found, expected * scale.reshape(-1, 1, 1), rtol=1e-9, atol=1e-9)


# ---------------------------------------------------------------------------- models


def test_pixels_are_the_integers_of_the_first_layer(of_pixels):
    attempt = first_attempt(of_pixels, pixels_for(of_pixels, 12, 1))
    grids = attempt.quantization.layers["stem.0"]
    assert grids.input == PixelGrid(offset=tuple(255 * mean for mean in STATISTICS[0]))
    assert grids.range_rule == "pixels"
    layer = layers_of(attempt.model.params, Affine)["stem.0"]
    steps = (layer.bias - grids.input.share(layer.weight)) / grids.bias_scale.astype(np.float64)
    np.testing.assert_allclose(steps, np.rint(steps), atol=1e-6)
    assert np.abs(steps).max() > 1000


def test_pixels_cost_less_than_a_grid_that_has_to_be_found(of_pixels):
    x = pixels_for(of_pixels, 12, 1)
    attempt = first_attempt(of_pixels, x)
    others = [name for name in attempt.quantization.layers if name != "stem.0"]
    one = mixed(of_pixels, attempt.model, others)
    unseen = pixels_for(of_pixels, 8, 2)
    exact = of_pixels.forward(NumpyOps(), unseen)["logits"]
    noise = []
    for grid in (None, fit_grid(-180, 180, Scheme())):
        only = attempt.quantization.only(["stem.0"])
        if grid is not None:
            only = replace(only, layers={"stem.0": replace(only.layers["stem.0"], input=grid)})
        answers = one.forward(QuantizedOps(only), unseen)["logits"]
        noise.append(signal_to_noise(exact, answers))
    assert noise[0] > 25
    assert noise[0] > noise[1]


def test_patches_of_pixels_have_no_border(seed):
    config = TransformerConfig(
        image_size=(64, 64), patch_size=16, num_classes=10, width=48, depth=2, heads=3, mlp_width=96
    )
    model = folded(random_model(FAMILIES["deit"], config, seed).with_plan(pixels=STATISTICS))
    attempt = first_attempt(model, pixels_for(model, 10, 1))
    assert attempt.quantization.layers["embed"].input.offset == (0, 0, 0)


def test_heads_and_what_reads_no_pixels_stay_in_floating_point(make_small):
    model = folded(make_small("tiny"))
    attempt = first_attempt(model, standardized(pixels_for(model, 12, 1)))
    assert {"stem.0", "head"}.isdisjoint(attempt.quantization.layers)
