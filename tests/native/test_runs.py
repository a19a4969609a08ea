"""Whole programs: any batch on any number of threads, and nothing left to the next run."""

import ctypes
import itertools
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from sketch import SANITIZED, Sketch, bfloat16_bits

from levit.native.engine import Engine
from levit.native.interpreter import interpret
from levit.native.program import FLOAT32, Numbers

pytestmark = pytest.mark.native

# Numbers of images about the sizes of groups (1, 2, 4, 8) and of whole chunks.
BATCHES = (*range(10), 15, 16, 17, 24, 31, 32, 33)
FEW_BATCHES = (0, 1, 2, 3, 5, 8, 9, 17, 33)

PIXELS = ((0.4, 0.5, 0.6), (0.2, 0.25, 0.3))


@pytest.fixture
def opened(lowered, small_configs, draw):
    """(name, pixels) → what opens engines of a small model, what it gives by float64, pictures."""

    def make(name, pixels=None, count=33):
        outputs = ("embedding", "features")
        if small_configs[name].num_classes:
            outputs = ("logits", *outputs)
        made = lowered(name, outputs, pixels)
        arrays = {key: np.ascontiguousarray(a, np.float32) for key, a in made.arrays.items()}
        batch = draw(small_configs[name], count)[pixels is None]

        def open_engine(isa, threads=1):
            return Engine(made.program, arrays.__getitem__, threads=threads, isa=isa)

        return open_engine, interpret(made.program, arrays, batch), batch

    return make


def batches(isa):
    """Every number of images on quick kernels: how images are divided asks none of them."""
    if SANITIZED:
        return FEW_BATCHES
    return BATCHES if isa == "portable" else range(34)


def same(found, expected, rows=slice(None)):
    for name, values in expected.items():
        np.testing.assert_array_equal(found[name], values[rows], err_msg=name)


@pytest.mark.parametrize("pixels", [None, PIXELS], ids=["float32", "uint8"])
@pytest.mark.parametrize("name", ["tiny", "wide", "conv", "one_stage", "silu_stride_8"])
def test_every_batch_on_every_number_of_threads(opened, isa, name, pixels):
    """An image's answer has the same bits wherever in a batch it stands: sums have one order."""
    open_engine, exact, batch = opened(name, pixels)
    one = open_engine(isa)
    answers = [one.run(batch[i : i + 1]) for i in range(len(batch))]
    expected = {key: np.concatenate([a[key] for a in answers]) for key in answers[0]}
    for key, values in exact.items():
        error = np.abs(expected[key] - values).max() / np.abs(values).max()
        assert error < 1e-5, f"{key} is {error:.1e} off"
    for threads in (1, 2, 3, 5) if SANITIZED else range(1, 6):
        engine = open_engine(isa, threads)
        for images in batches(isa):
            same(engine.run(batch[:images]), expected, slice(images))


@pytest.mark.parametrize("threads", [1, 2, 4])
def test_groups_of_images(isa, rng, threads):
    """Stages whose groups are of 1, 2, 4 and 8 images hand tokens on, the last of them in part."""
    sketch = Sketch.of_tokens((16, 16), 24)
    x = 0
    for grid, step in (((16, 16), 2), ((8, 8), 2), ((4, 4), 2), ((2, 2), 2)):
        weight = rng.standard_normal((24, 24), np.float32) / 5
        bias = rng.standard_normal(24, np.float32)
        hidden = sketch.linear(x, weight, bias, "hard_swish")
        x = sketch.linear(hidden, weight, bias, residual=x)
        sketch.output(x)
        sketch.stage += 1
        x = sketch.subsample(x, grid, step)
        sketch.output(x)
    program, arrays = sketch.build()
    batch = sketch.pictures(rng.standard_normal((33, 256, 24), np.float32))
    exact = interpret(program, arrays, batch)
    engine = Engine(program, arrays.__getitem__, threads=threads, isa=isa)
    for images in batches(isa):
        for name, values in engine.run(batch[:images]).items():
            np.testing.assert_allclose(values, exact[name][:images], atol=2e-5, rtol=0)


@pytest.mark.parametrize("name", ["tiny", "conv", "five_channels"])
def test_an_image_of_nan_changes_no_other(opened, isa, name):
    """Neither beside it in the batch nor after it in the memory that the next run takes."""
    open_engine, _, batch = opened(name, count=9)
    expected = open_engine(isa).run(batch)
    for threads, value in itertools.product((1, 2, 3), (np.nan, np.inf)):
        engine = open_engine(isa, threads)
        for images, wrong in itertools.product((9, 2, 1, 5), (0, 4, 8)):
            if wrong < images:
                spoiled = batch[:images].copy()
                spoiled[wrong] = value
                found = engine.run(spoiled)
                others = np.arange(images) != wrong
                for key, values in expected.items():
                    assert np.isnan(found[key][wrong]).any()
                    np.testing.assert_array_equal(found[key][others], values[:images][others])
            same(engine.run(batch[:images]), expected, slice(images))


def test_no_memory_is_read_before_it_is_written(opened, isa):
    """Answers of a program do not depend on the batch before, of whatever size it was."""
    open_engine, _, batch = opened("tiny", count=33)
    expected = open_engine(isa).run(batch)
    for threads in (1, 3):
        engine = open_engine(isa, threads)
        for images in (33, 1, 8, 2, 33, 16, 3):
            spoiled = np.full_like(batch[:images], np.nan)
            assert all(np.isnan(values).any() for values in engine.run(spoiled).values())
            same(engine.run(batch[:images]), expected, slice(images))


@pytest.mark.parametrize("threads", [1, 2])
def test_callers_floating_point_state_stays(isa, threads):
    """Denormals are 0 inside, and to NumPy what they were; the direction of rounding stays too."""
    sketch = Sketch.of_tokens((1, 4), 1)
    sketch.output(sketch.linear(0, np.full((1, 1), 0.5)))
    batch = sketch.pictures(np.full((3, 4, 1), 1e-38, np.float32))
    denormal, half = np.full(64, 1e-38, np.float32), np.float32(0.5)
    expected = denormal * half
    assert (expected > 0).all()
    engine = sketch.open(isa, threads)
    for images in (1, 3):
        (found,) = engine.run(batch[:images]).values()
        assert (found == 0).all()
        np.testing.assert_array_equal(denormal * half, expected)
    system, third = ctypes.CDLL(None), np.full(64, 1 / 3, np.float32)
    before, answers = system.fegetround(), set()
    for direction in (0, 0x400, 0x800, 0xC00, 0x400000, 0x800000, 0xC00000):  # x86-64's, aarch64's
        if system.fesetround(direction):
            continue
        expected = third * third
        engine.run(batch)
        found = third * third
        system.fesetround(before)
        np.testing.assert_array_equal(found, expected)
        answers.add(float(expected[0]))
    assert len(answers) == 2


# ------------------------------------------------------------------ pixels in place of planes

FIRST = {
    "float32": FLOAT32,
    "bfloat16": Numbers(dtype="bfloat16"),
    "uint8": Numbers(dtype="uint8", scale=0.02, zero_point=117),
    "patches": FLOAT32,
}


def first_step(rng, kind, channels, size):
    """A program of one step, which reads an image in some numbers."""
    sketch = Sketch(channels, *size, numbers=FIRST[kind])
    if kind == "patches":
        sketch.output(sketch.patches(2, 1))
        return sketch
    weight, scale = rng.standard_normal((17, channels, 3, 3)).astype(np.float32), None
    if kind == "bfloat16":
        weight = bfloat16_bits(weight)
    if kind == "uint8":
        weight, scale = rng.integers(-127, 128, weight.shape, np.int8), np.full(17, 0.001)
    sketch.output(sketch.conv(None, weight, scale=scale))
    return sketch


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("kind", FIRST)
def test_pixels_by_tables_are_planes_of_their_numbers(rng, every_isa, channels, kind):
    tables = rng.standard_normal((channels, 256)).astype(np.float32)
    for size, threads in itertools.product(((2, 2), (4, 6), (34, 30), (2, 66)), (1, 3)):
        pixels = rng.integers(0, 256, (5, *size, channels), np.uint8)
        planes = np.stack([tables[c][pixels[..., c]] for c in range(channels)], axis=1)
        engine = first_step(rng, kind, channels, size).open(every_isa, threads)
        engine.set_tables(tables)
        expected = engine.run(planes)
        same(engine.run(pixels, pixels=True), expected)
        same(engine.run(pixels, pixels=True, alone=True), expected)


def test_threads_that_compute_alone_disturb_none(opened, isa):
    open_engine, _, batch = opened("tiny", count=17)
    engine, expected = open_engine(isa, 2), open_engine(isa).run(batch)

    def use(number):
        for _ in range(5):
            same(engine.run(batch, alone=number > 0), expected)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(use, range(4)))
