"""What is compared with timm: its evaluation transform on `image.convert("RGB")`, as its own
dataset (`timm.data.ImageDataset`) converts before the transform; here `load_image` converts."""

import io
import json
import math
from dataclasses import replace

import numpy as np
import pytest
from drawn_pictures import MODES, encoded, picture, tensor_of
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from levit.errors import ConfigError, InputError
from levit.export.flavours import timm_spec
from levit.pictures.preprocess import (
    INTERPOLATIONS,
    PreprocessSpec,
    normalize,
    to_pixels,
)


def timm_tensor(image, spec):
    from timm.data import create_transform

    transform = create_transform(
        input_size=(3, *spec.image_size),
        is_training=False,
        interpolation=spec.interpolation,
        mean=spec.mean,
        std=spec.std,
        crop_pct=spec.crop_pct,
        crop_mode=spec.crop_mode,
    )
    return transform(image.convert("RGB")).numpy()


def assert_same_as_timm(image, spec):
    expected = timm_tensor(image, spec)
    found = tensor_of(image, spec)
    assert found.dtype == np.float32
    assert found.shape == (3, *spec.image_size)
    assert np.array_equal(found, expected)


# ------------------------------------------------------------------ against timm

SIZES = (
    (1, 1),
    (1, 7),
    (2, 3),
    (17, 64),
    (64, 64),
    (96, 96),
    (101, 67),
    (224, 224),
    (247, 249),
    (248, 331),
    (255, 256),
    (333, 250),
    (500, 375),
    (640, 427),
)
CROPS = (1.0, 0.875, 0.9, 0.95)


@pytest.mark.peers
@pytest.mark.parametrize("mode", MODES)
def test_every_mode_equals_timm(mode):
    for size in ((123, 77), (64, 200), (33, 33)):
        spec = PreprocessSpec(image_size=(64, 64), grey16="clip")
        assert_same_as_timm(picture(mode, size), spec)


@pytest.mark.peers
@pytest.mark.parametrize("crop_pct", CROPS)
@pytest.mark.parametrize("size", SIZES, ids="{0[0]}x{0[1]}".format)
def test_every_size_equals_timm(size, crop_pct):
    for interpolation in ("bicubic", "bilinear"):
        spec = PreprocessSpec(image_size=(224, 224), crop_pct=crop_pct, interpolation=interpolation)
        assert_same_as_timm(picture("RGB", size), spec)


@pytest.mark.peers
@pytest.mark.parametrize("crop_mode", ["center", "squash"])
@pytest.mark.parametrize("target", [(64, 96), (96, 64), (97, 61), (31, 224), (64, 64), (63, 65)])
def test_every_target_and_crop_mode_equals_timm(target, crop_mode):
    for size in ((100, 50), (50, 100), (75, 75), (13, 201), (96, 64)):
        for crop_pct in CROPS:
            spec = PreprocessSpec(image_size=target, crop_pct=crop_pct, crop_mode=crop_mode)
            assert_same_as_timm(picture("RGB", size), spec)


@pytest.mark.peers
@pytest.mark.parametrize("interpolation", ["nearest", "box", "hamming", "lanczos"])
def test_every_other_filter_equals_timm(interpolation):
    # timm names fewer filters than Pillow; the rest goes through torchvision as timm would.
    from torchvision import transforms
    from torchvision.transforms import InterpolationMode

    spec = PreprocessSpec(image_size=(64, 64), interpolation=interpolation)
    image = picture("RGB", (150, 99))
    resize = transforms.Compose(
        [transforms.Resize(71, InterpolationMode(interpolation)), transforms.CenterCrop(64)]
    )
    assert np.array_equal(to_pixels(image, spec), np.asarray(resize(image)))


@pytest.mark.peers
@pytest.mark.parametrize("margin", range(8))
def test_crop_offset_rounds_as_timm_for_every_margin(margin):
    # crop_pct that makes the resized edge 64 + margin; half margins round to even.
    spec = PreprocessSpec(image_size=(64, 64), crop_pct=64 / (64 + margin + 0.5))
    assert math.floor(64 / spec.crop_pct) == 64 + margin
    for size in ((64 + margin, 64 + margin), (200, 64 + margin + 3)):
        assert_same_as_timm(picture("RGB", size), spec)


@pytest.mark.peers
@settings(max_examples=120, deadline=None)
@given(
    size=st.tuples(st.integers(1, 300), st.integers(1, 300)),
    target=st.one_of(
        st.integers(1, 128).map(lambda n: (n, n)),
        st.tuples(st.integers(1, 128), st.integers(1, 128)),
    ),
    crop_pct=st.one_of(st.sampled_from(CROPS), st.floats(0.3, 1.0)),
    crop_mode=st.sampled_from(["center", "squash"]),
    interpolation=st.sampled_from(["bicubic", "bilinear"]),
)
def test_any_size_and_spec_equals_timm(size, target, crop_pct, crop_mode, interpolation):
    if size[0] > 40 * size[1] or size[1] > 40 * size[0]:
        size = (size[0], size[0])
    spec = PreprocessSpec(
        image_size=target, crop_pct=crop_pct, crop_mode=crop_mode, interpolation=interpolation
    )
    assert_same_as_timm(picture("RGB", size), spec)


@pytest.mark.peers
@pytest.mark.parametrize("format_name", ["PNG", "JPEG", "BMP", "WEBP", "GIF", "TIFF"])
def test_every_file_format_equals_timm(format_name):
    data = encoded(picture("RGB", (131, 90)), format_name)
    spec = PreprocessSpec(image_size=(64, 64))
    expected = timm_tensor(Image.open(io.BytesIO(data)), spec)
    assert np.array_equal(tensor_of(data, spec), expected)


@pytest.mark.peers
@pytest.mark.parametrize("model", ["levit_128s", "levit_conv_256", "levit_384"])
def test_spec_of_a_published_model_equals_timms_data_config(model):
    import timm
    from timm.data import resolve_data_config

    net = timm.create_model(model)
    config = resolve_data_config({}, model=net)
    spec = timm_spec(config["input_size"][-2:], net.pretrained_cfg)
    for name in ("interpolation", "crop_pct", "crop_mode"):
        assert getattr(spec, name) == config[name]
    assert (spec.mean, spec.std) == (tuple(config["mean"]), tuple(config["std"]))


@pytest.mark.peers
@pytest.mark.parametrize(
    ("mean", "std"),
    [
        ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
        ((0.1, 0.0, 0.9), (1.0, 0.003, 7.0)),
    ],
)
def test_normalize_equals_torch_on_every_byte(mean, std):
    import torch
    from torchvision import transforms

    pixels = np.arange(256, dtype=np.uint8).repeat(3).reshape(16, 16, 3)
    spec = PreprocessSpec(image_size=(16, 16), mean=mean, std=std)
    torchs = transforms.Compose(
        [transforms.ToTensor(), transforms.Normalize(torch.tensor(mean), torch.tensor(std))]
    )
    assert np.array_equal(normalize(pixels, spec), torchs(Image.fromarray(pixels)).numpy())


# ------------------------------------------------------------------ properties


@settings(max_examples=150, deadline=None)
@given(
    width=st.integers(1, 400),
    height=st.integers(1, 400),
    target=st.tuples(st.integers(1, 100), st.integers(1, 100)),
    crop_pct=st.floats(0.3, 1.0),
    crop_mode=st.sampled_from(["center", "squash"]),
    interpolation=st.sampled_from(sorted(INTERPOLATIONS)),
)
def test_pixels_have_the_shape_and_type_that_the_spec_says(
    width, height, target, crop_pct, crop_mode, interpolation
):
    # Longer and thinner ones are refused, which has its own test.
    width, height = min(width, 30 * height), min(height, 30 * width)
    spec = PreprocessSpec(
        image_size=target, crop_pct=crop_pct, crop_mode=crop_mode, interpolation=interpolation
    )
    image = Image.new("RGB", (width, height), (10, 200, 30))
    pixels = to_pixels(image, spec)
    assert pixels.shape == (*target, 3)
    assert pixels.dtype == np.uint8
    # One colour stays that colour under every filter, wherever the crop falls: this fails
    # when a crop reaches over the border of the resized image.
    assert (pixels == (10, 200, 30)).all()


@given(seed=st.integers(0, 2**32 - 1), count=st.integers(0, 3))
@settings(max_examples=25, deadline=None)
def test_normalize_of_a_batch_is_that_of_its_images(seed, count):
    pixels = np.random.default_rng(seed).integers(0, 256, (count, 5, 7, 3), dtype=np.uint8)
    spec = PreprocessSpec(image_size=(5, 7))
    batch = normalize(pixels, spec)
    assert batch.shape == (count, 3, 5, 7)
    assert batch.dtype == np.float32
    assert batch.flags.c_contiguous
    for tensor, one in zip(batch, pixels, strict=True):
        assert np.array_equal(tensor, normalize(one, spec))


def test_normalize_leaves_the_pixels_alone():
    pixels = np.full((4, 4, 3), 7, np.uint8)
    normalize(pixels, PreprocessSpec(image_size=(4, 4)))
    assert (pixels == 7).all()


def test_long_and_thin_images_are_refused_before_they_eat_the_memory():
    spec = PreprocessSpec(image_size=(224, 224))
    with pytest.raises(InputError, match="too long and thin"):
        to_pixels(Image.new("RGB", (20_000, 1)), spec)
    squashed = to_pixels(Image.new("RGB", (20_000, 1)), replace(spec, crop_mode="squash"))
    assert squashed.shape == (224, 224, 3)


# ------------------------------------------------------------------ the spec


@pytest.mark.parametrize(
    "change",
    [
        {"flavour": "keras"},
        {"interpolation": "cubic"},
        {"crop_mode": "border"},
        {"crop_pct": 0.0},
        {"crop_pct": 1.01},
        {"crop_pct": math.nan},
        {"mean": (0.5,) * 2},
        {"mean": (), "std": ()},
        {"std": (0.5, 0.0, 0.5)},
        {"std": (0.5, -1.0, 0.5)},
        {"mean": (math.nan, 0.5, 0.5)},
        {"mean": (math.inf, 0.5, 0.5)},
        {"image_size": (0, 8)},
        {"image_size": (8, 8, 8)},
    ],
    ids=str,
)
def test_specs_that_cannot_be_are_config_errors(change):
    with pytest.raises(ConfigError):
        replace(PreprocessSpec(image_size=(8, 8)), **change)


@settings(max_examples=60)
@given(
    st.builds(
        PreprocessSpec,
        image_size=st.tuples(st.integers(1, 9999), st.integers(1, 9999)),
        crop_pct=st.floats(0.05, 1.0),
        crop_mode=st.sampled_from(["center", "squash"]),
        interpolation=st.sampled_from(sorted(INTERPOLATIONS)),
        mean=st.tuples(*[st.floats(-9, 9)] * 3),
        std=st.tuples(*[st.floats(1e-3, 9)] * 3),
    )
)
def test_spec_survives_json(spec):
    assert PreprocessSpec.from_dict(json.loads(json.dumps(spec.to_dict()))) == spec


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=6,
)


@settings(max_examples=200)
@given(
    key=st.sampled_from(sorted(PreprocessSpec(image_size=(8, 8)).to_dict())),
    value=JSON | st.just(10**400) | st.lists(st.just(10**400) | st.floats(), max_size=3),
)
def test_any_value_in_a_spec_is_taken_or_a_config_error(key, value):
    values = {**PreprocessSpec(image_size=(8, 8)).to_dict(), key: value}
    try:
        PreprocessSpec.from_dict(values)
    except ConfigError as error:
        assert "\n" not in str(error)  # noqa: PT017


@pytest.mark.parametrize(
    "values",
    [
        {"image_size": "88"},
        {"image_size": [8.9, 8]},
        {"image_size": [True, 8]},
        {"image_size": {"8": 1, "9": 2}},
        {"resize_size": "88"},
        {"crop_pct": True},
        {"crop_pct": "0.9"},
        {"mean": "000"},
        {"std": "224"},
        {"std": [True, True, True]},
        {"mean": ["0.5", "0.5", "0.5"]},
        {"mean": {"0": "r", "1": "g", "2": "b"}},
        {"flavour": ["timm"]},
        {"crop_mode": None},
        {"rescale_factor": "1"},
    ],
    ids=str,
)
def test_values_of_a_spec_are_not_bent_until_they_fit(values):
    """The string "224" as std would be 2, 2 and 4, and the logits wrong without a word."""
    with pytest.raises(ConfigError, match="preprocessing is not as it should be: TypeError"):
        PreprocessSpec.from_dict({"image_size": [8, 8], **values})


def test_unknown_keys_of_a_spec_are_named():
    with pytest.raises(ConfigError, match=r"crop_percent.*known: background, crop_mode"):
        PreprocessSpec.from_dict({"image_size": [8, 8], "crop_percent": 0.9})
