"""The resizing that is chosen: the library's where it is Pillow's own, else Pillow."""

import ctypes
import io
import itertools

import numpy as np
import pytest
from PIL import Image

from levit.errors import InputError
from levit.pictures import resizing
from levit.pictures.preprocess import (
    INTERPOLATIONS,
    RULES,
    PreprocessSpec,
    normalize,
    to_pixels,
    value_tables,
)
from levit.pictures.reading import load_image
from levit.pictures.resizing import Frame, fill_row, resizer_in_words


def noise(rng, width, height, channels=3):
    return rng.integers(0, 256, (height, width, channels), np.uint8)


def rows_of(picture, spec):
    height, width = spec.image_size
    pixels = np.full((height, width, spec.channels), 9, np.uint8)
    numbers = np.full((spec.channels, height, width), np.nan, np.float32)
    fill_row(picture, spec, pixels)
    fill_row(picture, spec, numbers)
    return pixels, numbers


def require_equal(picture, image, spec):
    expected = to_pixels(image, spec)
    pixels, numbers = rows_of(picture, spec)
    assert np.array_equal(pixels, expected)
    assert np.array_equal(numbers, normalize(expected, spec))


@pytest.fixture
def by_pillow(monkeypatch):
    monkeypatch.setattr(resizing, "_own", lambda: None)


SPECS = [
    dict(flavour=flavour, image_size=size, interpolation=name, crop_mode=mode)
    for flavour, size, (name, mode) in itertools.product(
        RULES,
        [(64, 64), (48, 80)],
        [("bicubic", "center"), ("lanczos", "squash"), ("nearest", "center")],
    )
]


@pytest.mark.parametrize("values", SPECS)
def test_every_flavour_gets_pillows_pixels_and_its_own_numbers(rng, values):
    spec = PreprocessSpec(**values, rescale_factor=None if values["crop_mode"] == "center" else 0.5)
    for width, height in ((300, 200), (64, 300), (97, 90), (130, 131)):
        array = noise(rng, width, height)
        image = Image.fromarray(array)
        require_equal(image, image, spec)
        require_equal(Frame(array, "RGB", "rgb"), image, spec)
        require_equal(Frame(array[..., ::-1], "RGB", "bgr"), image, spec)


@pytest.mark.parametrize("name", INTERPOLATIONS)
@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "I;16"])
def test_every_mode(rng, name, mode):
    channels = {"L": 1, "RGB": 3, "RGBA": 4, "I;16": 1}[mode]
    spec = PreprocessSpec(
        image_size=(32, 40),
        interpolation=name,
        image_mode=mode,
        mean=(0.4,) * channels,
        std=(0.2,) * channels,
    )
    array = noise(rng, 90, 70, channels)
    if mode == "I;16":
        image = load_image(array.astype(np.uint16) * 257, mode=mode)
        found = np.empty((1, 32, 40), np.float32)
        fill_row(image, spec, found)
        assert np.array_equal(found, normalize(to_pixels(image, spec), spec))
        return
    image = Image.fromarray(array if channels > 1 else array[..., 0])
    require_equal(image, image, spec)
    require_equal(Frame(array, mode, "rgb"), image, spec)


def test_pillow_alone_gives_the_same(rng, by_pillow):
    spec = PreprocessSpec(image_size=(50, 60))
    array = noise(rng, 120, 90)
    require_equal(Frame(array[..., ::-1], "RGB", "bgr"), Image.fromarray(array), spec)
    require_equal(Image.fromarray(array), Image.fromarray(array), spec)


@pytest.mark.parametrize("size", [(3_000, 1_800), (2_100, 2_500)])
def test_a_picture_in_several_pieces_of_memory(rng, size):
    # 16 MiB, of four bytes a pixel, are a piece of Pillow's.
    image = Image.fromarray(noise(rng, 300, 200)).resize(size, Image.Resampling.BICUBIC)
    spec = PreprocessSpec(image_size=(64, 64))
    require_equal(image, image, spec)
    data = io.BytesIO()
    image.save(data, "JPEG", quality=60)
    ours = load_image(data.getvalue())
    require_equal(ours, Image.open(io.BytesIO(data.getvalue())).convert("RGB"), spec)


@pytest.mark.skipif(
    not hasattr(Image.Image, "__arrow_c_array__"), reason="Pillow lends its memory since 11.2"
)
@pytest.mark.parametrize("size", [(40, 30), (500, 375), (3_000, 1_800)])
@pytest.mark.parametrize("source", ["JPEG", "PNG", "image"])
def test_pixels_are_read_where_the_decoder_left_them(rng, size, source):
    image = Image.fromarray(noise(rng, 300, 200)).resize(size)
    if source != "image":
        data = io.BytesIO()
        image.save(data, source)
        image = load_image(data.getvalue())
    found = resizing._pixels(image)
    assert (found.width, found.height, found.pixel) == (*size, 4)  # bytes as Pillow has them
    if size[0] < 3_000 or source == "JPEG":  # no copy has been made
        assert resizing._lent(image).address == found.address
    memory = (ctypes.c_uint8 * (found.pitch * found.height)).from_address(found.address)
    pixels = np.frombuffer(memory, np.uint8).reshape(found.height, found.width, 4)
    assert np.array_equal(pixels[..., :3], np.asarray(image))


def test_a_release_without_these_functions_of_pillow(rng, monkeypatch):
    array = noise(rng, 120, 90)
    spec = PreprocessSpec(image_size=(50, 60))
    monkeypatch.setattr(resizing, "copied_to_one_block", lambda image: None)
    monkeypatch.setattr(resizing, "_lent", lambda image: None)
    require_equal(Image.fromarray(array), Image.fromarray(array), spec)


@pytest.mark.native
def test_the_library_is_used_where_it_does_what_this_pillow_does():
    assert resizer_in_words() == f"levit, as Pillow {resizing.__version__} does"


@pytest.mark.native
def test_a_pillow_that_resizes_otherwise_does_it_itself(monkeypatch):
    resize = Image.Image.resize

    def brighter(image, size, resample):
        return resize(image, size, resample).point(lambda value: min(255, value + 1))

    monkeypatch.setattr(Image.Image, "resize", brighter)
    resizing._own.cache_clear()
    try:
        assert resizing._own() is None
        assert "which resizes otherwise" in resizer_in_words()
    finally:
        resizing._own.cache_clear()


@pytest.mark.native
@pytest.mark.parametrize("order", ["_columns_first", "_rows_first_of_tall_ones"])
def test_the_order_of_axes_is_found(monkeypatch, order):
    # Each release's order, by two calls of one axis each.
    resize = Image.Image.resize

    def by_order(image, size, resample):
        first = (size[0], image.height)
        if getattr(resizing, order)(image.size, size):
            first = (image.width, size[1])
        return resize(resize(image, first, resample), size, resample)

    monkeypatch.setattr(Image.Image, "resize", by_order)
    resizing._own.cache_clear()
    try:
        assert resizing._own()[1] is getattr(resizing, order)
    finally:
        resizing._own.cache_clear()


def test_without_a_library_the_words_say_so(monkeypatch):
    monkeypatch.setattr(resizing, "_own", lambda: None)
    monkeypatch.setattr(resizing, "_resizer", lambda: None)
    assert resizer_in_words().endswith("without levit's native library")


def test_what_is_too_long_and_thin_is_refused(rng):
    spec = PreprocessSpec(image_size=(64, 64))
    with pytest.raises(InputError, match="too long and thin"):
        rows_of(Frame(np.zeros((1, 65_535, 3), np.uint8), "RGB", "rgb"), spec)


@pytest.mark.parametrize("flavour", RULES)
@pytest.mark.parametrize("factor", [None, 1 / 127.5, 0.01])
def test_tables_are_the_numbers_of_every_byte(rng, flavour, factor):
    spec = PreprocessSpec(flavour=flavour, image_size=(16, 16), rescale_factor=factor)
    pixels = noise(rng, 256, 3)
    tables = value_tables(spec)
    expected = normalize(pixels, spec)
    assert np.array_equal(np.stack([tables[c][pixels[..., c]] for c in range(3)]), expected)
    assert not tables.flags.writeable
