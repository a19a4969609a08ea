"""Grey, 16-bit and RGBA pictures: the tensors of timm and torchvision, value for value."""

import io
import re

import numpy as np
import pytest
from drawn_pictures import MODES as KINDS
from drawn_pictures import encoded, picture, tensor_of
from PIL import Image

from levit.errors import ConfigError, InputError
from levit.pictures.modes import MODES, default_mode
from levit.pictures.preparation import Preparation, to_tensor
from levit.pictures.preprocess import PreprocessSpec, normalize, to_pixels
from levit.pictures.reading import load_image

SIZES = ((7, 1), (33, 300), (101, 67), (64, 64), (71, 72), (375, 250))
STATISTICS = {
    "L": ((0.449,), (0.226,)),
    "I;16": ((0.3,), (0.2,)),
    "RGB": ((0.5, 0.4, 0.3), (0.2, 0.3, 0.4)),
    "RGBA": ((0.5, 0.4, 0.3, 0.9), (0.2, 0.3, 0.4, 0.1)),
}


def spec_of(mode, **changes):
    mean, std = STATISTICS[mode]
    if mode != "I;16":
        changes = {"grey16": "clip", **changes}  # as timm has it
    return PreprocessSpec(
        **{"image_size": (64, 64), "image_mode": mode, "mean": mean, "std": std, **changes}
    )


def deep(size, seed=0):
    """Noise over all of 16 bits, as an array (H, W) uint16."""
    return np.random.default_rng([seed, *size]).integers(0, 65536, size[::-1]).astype(np.uint16)


def timm_tensor(image, spec):
    from timm.data import create_transform

    transform = create_transform(
        (spec.channels, *spec.image_size),
        is_training=False,
        mean=spec.mean,
        std=spec.std,
        crop_pct=spec.crop_pct,
        crop_mode=spec.crop_mode,
        interpolation=spec.interpolation,
    )
    return transform(image.convert(spec.image_mode)).numpy()


@pytest.mark.peers
@pytest.mark.parametrize(
    "changes", [{}, {"crop_mode": "squash"}, {"image_size": (48, 80)}], ids=str
)
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear", "nearest"])
@pytest.mark.parametrize("mode", ["L", "RGBA"])
def test_every_picture_is_what_timm_makes_of_it(mode, interpolation, changes):
    spec = spec_of(mode, interpolation=interpolation, **changes)
    for size in SIZES:
        for kind in KINDS:
            image = picture(kind, size)
            found = tensor_of(image, spec)
            assert found.shape == (spec.channels, *spec.image_size)
            assert np.array_equal(found, timm_tensor(image, spec)), (size, kind)


@pytest.mark.peers
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear", "nearest"])
def test_sixteen_bits_are_what_torchvision_makes_of_fractions(interpolation):
    import torch
    from torchvision import transforms

    spec = spec_of("I;16", interpolation=interpolation)
    transform = transforms.Compose(
        [
            transforms.Resize(71, transforms.InterpolationMode(interpolation)),
            transforms.CenterCrop(64),
            transforms.ToTensor(),
            transforms.Lambda(lambda x: x / 65535),
            transforms.Normalize(torch.tensor(spec.mean), torch.tensor(spec.std)),
        ]
    )
    for size in SIZES:
        array = deep(size)
        fractions = Image.fromarray(array.astype(np.float32))
        expected = transform(fractions).numpy()
        assert np.array_equal(tensor_of(array, spec), expected)
        assert np.array_equal(tensor_of(Image.fromarray(array), spec), expected)


# ---------------------------------------------------------------------------- 16 bits


def in_file(array, form):
    if form == "I;16B":
        image = Image.frombytes(form, array.shape[::-1], array.astype(">u2").tobytes())
        return encoded(image, "TIFF")
    return encoded(Image.fromarray(array), form)


@pytest.mark.parametrize("form", ["PNG", "TIFF", "I;16B", "PPM", "JPEG2000"])
def test_every_file_of_sixteen_bits_keeps_them(form):
    array = deep((50, 40))
    image = load_image(in_file(array, form), mode="I;16")
    assert image.mode == "F"
    assert np.array_equal(np.asarray(image), array)


def test_eight_bits_among_sixteen_keep_their_brightness():
    spec = spec_of("I;16", image_size=(40, 40), crop_pct=1.0)
    grey = picture("L", (40, 40))
    expected = np.asarray(grey, np.float32) / np.float32(255)
    pixels = to_pixels(load_image(encoded(grey), mode="I;16"), spec)[..., 0]
    np.testing.assert_allclose(pixels / 65535, expected, rtol=1e-6)
    colours = picture("RGB", (40, 40))
    expected = np.asarray(colours.convert("L"), np.float32) * 257
    assert np.array_equal(np.asarray(load_image(encoded(colours), mode="I;16")), expected)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (Image.new("F", (4, 4)), "no known white"),
        (Image.new("I", (4, 4), 65536), "from 65536 to 65536, not from 0 to 65535"),
        (Image.new("I", (4, 4), -1), "from -1 to -1, not from 0"),
    ],
    ids=["fractions", "too large", "negative"],
)
def test_pictures_that_have_not_sixteen_bits_are_refused(image, message):
    buffer = io.BytesIO()
    image.save(buffer, "TIFF")
    for source in (image, buffer.getvalue()):
        with pytest.raises(InputError, match=message) as caught:
            load_image(source, mode="I;16")
        assert "\n" not in str(caught.value)
    assert load_image(image, mode="L", grey16="clip").mode == "L"  # as Pillow clips it


@pytest.mark.parametrize("flavour", ["timm", "transformers", "mmpretrain", "original"])
def test_white_of_any_depth_is_one(flavour):
    for mode in MODES:
        spec = spec_of(mode, flavour=flavour, image_size=(8, 8), crop_pct=1.0)
        white = np.full((8, 8, spec.channels), spec.white, MODES[mode].dtype)
        expected = (1 - np.array(spec.mean)) / np.array(spec.std)
        found = normalize(white, spec)
        np.testing.assert_allclose(found[:, 3, 3], expected, rtol=1e-5)


# ---------------------------------------------------------------------------- arrays


@pytest.mark.parametrize(
    ("mode", "array"),
    [
        ("L", np.zeros((8, 6), np.uint8)),
        ("L", np.zeros((8, 6, 1), np.uint8)),
        ("I;16", np.zeros((8, 6), np.uint16)),
        ("I;16", np.zeros((8, 6, 1), ">u2")[::-1]),
        ("RGBA", np.zeros((8, 6, 4), np.uint8)),
    ],
)
def test_arrays_of_each_mode(mode, array):
    array = array.astype(array.dtype)
    array[2, 3] = 77
    row = tensor_of(array, spec_of(mode, image_size=(8, 6), crop_pct=1.0))
    by_file = Image.fromarray(np.squeeze(array).astype(array.dtype.newbyteorder("=")))
    expected = tensor_of(encoded(by_file), spec_of(mode, image_size=(8, 6), crop_pct=1.0))
    assert row.std() > 0
    assert np.array_equal(row, expected)


@pytest.mark.parametrize(("mode", "order"), [("RGB", [2, 1, 0]), ("RGBA", [2, 1, 0, 3])])
def test_arrays_of_opencv(mode, order):
    pixels = np.random.default_rng(5).integers(0, 256, (8, 6, len(order)), np.uint8)
    found = load_image(pixels, mode=mode, channels="bgr")
    assert np.array_equal(np.asarray(found), pixels[..., order])


def test_grey_has_no_order_of_channels():
    grey = np.arange(48, dtype=np.uint8).reshape(8, 6)
    assert np.array_equal(np.asarray(load_image(grey, mode="L", channels="bgr")), grey)


@pytest.mark.parametrize(
    ("mode", "array", "message"),
    [
        ("L", np.zeros((8, 6, 3), np.uint8), r"\(H, W\) or \(H, W, 1\) uint8, not \(8, 6, 3\)"),
        ("L", np.zeros((8, 6), np.float32), r"scale it to 0\.\.255 and round"),
        ("L", np.zeros((1, 8, 6), np.uint8), r"transpose\(1, 2, 0\)"),
        ("L", np.zeros((8,), np.uint8), r"not \(8,\) uint8"),
        ("L", np.zeros((0, 6), np.uint8), "is empty"),
        ("L", np.zeros((2, 8, 6, 1), np.uint8), "a list of images"),
        ("I;16", np.zeros((8, 6), np.uint8), r"uint16, not \(8, 6\) uint8; scale it to 0\.\.65535"),
        ("RGB", np.zeros((8, 6), np.uint8), r"\(H, W, 3\) uint8, not \(8, 6\)"),
        ("RGB", np.zeros((8, 6, 4), np.uint8), r"Image\.fromarray\(array\)"),
        ("RGBA", np.zeros((8, 6, 3), np.uint8), r"\(H, W, 4\) uint8, opacity last"),
    ],
)
def test_arrays_of_another_mode_are_refused(mode, array, message):
    with pytest.raises(InputError, match=message):
        load_image(array, mode=mode)


# ---------------------------------------------------------------------------- conversions


def test_opacity_is_kept_where_the_model_sees_it():
    colours = picture("RGB", (20, 20))
    added = np.asarray(load_image(encoded(colours), mode="RGBA"))
    assert (added[..., 3] == 255).all()
    assert np.array_equal(added[..., :3], np.asarray(colours))
    clear = picture("P", (20, 20))
    # A palette whose entries are more or less opaque.
    data = encoded(clear, transparency=bytes(range(64)))
    expected = np.asarray(Image.open(io.BytesIO(data)).convert("RGBA"))
    assert len(np.unique(expected[..., 3])) > 2
    assert np.array_equal(np.asarray(load_image(data, mode="RGBA")), expected)
    assert load_image(data, mode="L").mode == "L"  # and without Pillow's warning


@pytest.mark.parametrize("mode", MODES)
def test_exif_draft_and_animations_in_every_mode(mode):
    spec = spec_of(mode)
    exif = Image.Exif()
    exif[0x0112] = 6
    image = picture("L" if mode == "L" else "RGB", (640, 480))
    data = encoded(image, "JPEG", quality=95, exif=exif)
    turned = to_tensor(data, spec, "float32", exif=True)
    upright = Image.open(io.BytesIO(data)).transpose(Image.Transpose.ROTATE_270)
    assert np.array_equal(turned, tensor_of(upright, spec))
    whole, drafted = tensor_of(data, spec), to_tensor(data, spec, "float32", draft=True)
    assert 0 < np.abs(whole - drafted).mean() * min(spec.std) < 0.02
    frames = [picture("L", (80, 70), seed) for seed in (0, 1)]
    buffer = io.BytesIO()
    frames[0].save(buffer, "GIF", save_all=True, append_images=frames[1:])
    moving = Image.open(buffer)
    preparation = Preparation(spec=spec, dtype="float32")
    received = preparation.receive(moving)
    moving.seek(1)
    row = preparation.allocate(1)
    preparation.prepare(received, row[0])
    assert np.array_equal(row[0], tensor_of(buffer.getvalue(), spec))


@pytest.mark.parametrize("mode", MODES)
def test_a_picture_of_the_callers_stays_as_it_is(mode):
    image = Image.new(
        mode, (12, 9), 7 if MODES[mode].channels == 1 else (7,) * MODES[mode].channels
    )
    loaded = load_image(image, mode=mode)
    loaded.paste(0 if MODES[mode].channels == 1 else (0,) * MODES[mode].channels, (0, 0, 12, 9))
    assert np.asarray(image).min() == 7


# ---------------------------------------------------------------------------- the spec


def test_an_rgb_spec_is_written_as_before_there_were_modes():
    assert "image_mode" not in spec_of("RGB", grey16=None).to_dict()
    assert list(spec_of("L", grey16=None).to_dict())[-1] == "image_mode"
    for mode in MODES:
        spec = spec_of(mode)
        assert PreprocessSpec.from_dict(spec.to_dict()) == spec


@pytest.mark.parametrize("value", ["CMYK", "l", "", 3, None, ["L"]])
def test_no_other_mode_is_known(value):
    values = {**spec_of("L").to_dict(), "image_mode": value}
    with pytest.raises(ConfigError):
        PreprocessSpec.from_dict(values)


def test_the_mode_by_the_number_of_channels():
    assert [default_mode(count) for count in range(1, 6)] == ["L", None, "RGB", None, None]


SHAPES = [(8, 6), (8, 6, 1), (8, 6, 3), (8, 6, 4)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32", "bool", "int64"])
@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA"])
@pytest.mark.parametrize("channels", ["rgb", "bgr"])
def test_what_an_error_of_an_array_says_helps(rng, shape, dtype, mode, channels):
    """Who does as it says has a picture, with the colours that the array has."""
    array = rng.integers(0, 200, shape).astype(dtype)
    try:
        found = load_image(array, mode=mode, channels=channels)
    except InputError as error:
        (hint,) = re.findall(r"; (pass Image\.fromarray\(.*\)|scale it to 0\.\.255)", str(error))
        if hint.startswith("scale"):
            assert dtype != "uint8"
            return
        image = eval(hint.removeprefix("pass "), {"Image": Image, "array": array})
        found = load_image(image, mode=mode, grey16="scale" if dtype == "uint16" else None)
        grey = array.squeeze() if dtype == "uint8" else array.squeeze() >> 8
    else:
        grey = array
    colours = np.asarray(found.convert("RGB"))
    if len(shape) == 3 and shape[2] >= 3:
        order = [2, 1, 0] if channels == "bgr" else [0, 1, 2]
        expected = np.asarray(Image.fromarray(array[..., order].astype(np.uint8)).convert(mode))
        assert np.array_equal(np.asarray(found)[..., :3], expected[..., :3])
    else:
        assert np.array_equal(colours[..., 0], np.squeeze(grey))
