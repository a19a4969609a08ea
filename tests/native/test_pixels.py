"""Resizing in the library against Pillow's, bit for bit."""

import numpy as np
import pytest
from PIL import Image
from sketch import SANITIZED

from levit.native.abi import FILTERS
from levit.native.pixels import Crop, Resizer, pixels_of_array
from levit.pictures.resizing import _pixels

pytestmark = pytest.mark.native

# 2,000 for each instruction set; where every access is checked, what reaches the ends of rows.
GROUPS, CASES = (2, 30) if SANITIZED else (20, 100)


def by_axis(image, size, name, rows_first):
    """Pillow's own passes in an order of our choice: one axis, rounded, and then the other."""
    resample = Image.Resampling[name.upper()]
    if name == "nearest":
        return image.resize(size, resample)  # which copies, in one pass
    if rows_first:
        return image.resize((image.width, size[1]), resample).resize(size, resample)
    return image.resize((size[0], image.height), resample).resize(size, resample)


def resized(resizer, pixels, channels, crop):
    out = np.full((crop.size[1], crop.size[0], channels), 77, np.uint8)
    resizer.resize(pixels, crop, out)
    return out


def cropped(image, crop):
    left, top = crop.left, crop.top
    box = (left, top, left + crop.size[0], top + crop.size[1])
    return np.asarray(image.crop(box)).reshape(crop.size[1], crop.size[0], -1)


def random_size(rng, number):
    if number % 5 == 0:
        return tuple(map(int, rng.integers(1, 12, 2)))  # less than a filter's support
    width, height = map(int, rng.integers(1, 260, 2))
    return width, height * int(rng.integers(2, 8)) if number % 7 == 0 else height


def random_array(rng, size, number):
    # Black and white take sums to their ends, and beyond 255.
    if number % 3 == 0:
        return rng.integers(0, 2, (size[1], size[0], 3)).astype(np.uint8) * np.uint8(255)
    return rng.integers(0, 256, (size[1], size[0], 3), np.uint8)


def random_crop(rng, source, number):
    width, height = map(int, rng.integers(1, 200, 2))
    if number % 11 == 0:
        width = source[0]  # one axis, or none, that stays
    if number % 13 == 0:
        height = source[1]
    return Crop(
        interpolation=FILTERS[number % len(FILTERS)],
        resized=(width, height),
        left=int(rng.integers(-30, width)),
        top=int(rng.integers(-30, height)),
        size=(int(rng.integers(1, 200)), int(rng.integers(1, 200))),
        rows_first=bool(rng.integers(2)),
    )


@pytest.mark.parametrize("group", range(GROUPS))
def test_it_is_pillows_bit_for_bit(seed, pixel_isa, group):
    rng = np.random.default_rng([seed, group])
    resizer = Resizer(pixel_isa)
    for number in range(group * CASES, (group + 1) * CASES):
        source = random_size(rng, number)
        array, crop = random_array(rng, source, number), random_crop(rng, source, number)
        image, case = Image.fromarray(array), (number, source, crop)
        expected = cropped(by_axis(image, crop.resized, crop.interpolation, crop.rows_first), crop)
        reversed_ = np.ascontiguousarray(array[..., ::-1])
        for pixels in (
            _pixels(image),
            pixels_of_array(array),
            pixels_of_array(reversed_, reversed=True),
        ):
            assert np.array_equal(resized(resizer, pixels, 3, crop), expected), case
        grey = np.ascontiguousarray(array[..., 1])
        found = resized(resizer, pixels_of_array(grey), 1, crop)
        assert np.array_equal(found, expected[..., 1:2]), case


@pytest.mark.parametrize("name", FILTERS)
@pytest.mark.parametrize("rows_first", [False, True])
@pytest.mark.parametrize(
    ("source", "size"),
    [
        ((1, 1), (224, 224)),
        ((1, 300), (224, 320)),
        ((300, 1), (400, 224)),
        ((1, 2_000), (3, 7)),
        ((65_535, 3), (1_000, 4)),
        ((3, 65_535), (4, 1_000)),
        ((2, 3), (2, 3)),
    ],
)
def test_extremes(rng, pixel_isa, name, rows_first, source, size):
    image = Image.fromarray(rng.integers(0, 256, (source[1], source[0], 3), np.uint8))
    crop = Crop(
        interpolation=name,
        resized=size,
        left=(size[0] - 224) // 2,
        top=(size[1] - 224) // 2,
        size=(224, 224),
        rows_first=rows_first,
    )
    expected = cropped(by_axis(image, size, name, rows_first), crop)
    assert np.array_equal(resized(Resizer(pixel_isa), _pixels(image), 3, crop), expected)


def test_a_crop_beside_the_picture_is_black(pixel_isa):
    pixels = pixels_of_array(np.full((9, 9, 3), 200, np.uint8))
    for left, top in ((-20, 0), (0, -20), (20, 0), (0, 20)):
        crop = Crop(
            interpolation="bicubic",
            resized=(20, 20),
            left=left,
            top=top,
            size=(20, 20),
            rows_first=False,
        )
        assert not resized(Resizer(pixel_isa), pixels, 3, crop).any()


@pytest.mark.parametrize(
    "view",
    [
        lambda a: a,
        lambda a: a[::2],
        lambda a: a[5:, 7:30],
        lambda a: a[::-1],
        lambda a: a[:, ::-1],
        lambda a: a[..., ::-1],
        lambda a: a.transpose(1, 0, 2),
        lambda a: np.asfortranarray(a),
    ],
)
def test_an_array_is_read_as_it_lies(rng, pixel_isa, view):
    array = view(rng.integers(0, 256, (60, 50, 3), np.uint8))
    crop = Crop(
        interpolation="lanczos",
        resized=(33, 29),
        left=2,
        top=3,
        size=(20, 21),
        rows_first=False,
    )
    image = Image.fromarray(np.ascontiguousarray(array))
    expected = cropped(by_axis(image, (33, 29), "lanczos", False), crop)
    assert np.array_equal(resized(Resizer(pixel_isa), pixels_of_array(array), 3, crop), expected)


def test_no_array_is_copied_whose_pixels_follow_each_other(rng):
    array = rng.integers(0, 256, (60, 50, 3), np.uint8)
    for view in (array, array[10:40:3], array[:, 8:33], array[5:6]):
        assert pixels_of_array(view).address == view.ctypes.data
    assert pixels_of_array(array[:, ::2]).address != array.ctypes.data


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_numbers_by_tables(rng, pixel_isa, channels):
    pixels = rng.integers(0, 256, (31, 17, channels), np.uint8)
    tables = rng.standard_normal((channels, 256)).astype(np.float32)
    found = np.empty((channels, 31, 17), np.float32)
    Resizer(pixel_isa).normalize(pixels, tables, found)
    expected = np.stack([tables[c][pixels[..., c]] for c in range(channels)])
    assert np.array_equal(found, expected)
