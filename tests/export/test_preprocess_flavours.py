"""The flavours beside timm's, against the real libraries: the same float32, value for value.

Each gets the picture in RGB: transformers takes no other mode, torchvision's transforms follow a
loader that converts, and mmpretrain's own decoder gives three channels.
"""

import json
import math
import warnings
from dataclasses import replace
from importlib import import_module

import numpy as np
import pytest
from drawn_pictures import MODES, encoded, picture, tensor_of
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from levit.errors import ConfigError, InputError
from levit.export.flavours import FLAVOURS, mmpretrain_spec, original_spec, transformers_spec
from levit.pictures.preprocess import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    INTERPOLATIONS,
    RULES,
    PreprocessSpec,
    normalize,
    to_pixels,
)
from levit.pictures.reading import load_image

# Tiny, portrait, landscape, square; long and thin; at, above and below every edge that matters.
SIZES = (
    (1, 1),
    (1, 7),
    (7, 1),
    (2, 3),
    (17, 64),
    (33, 1000),
    (1000, 33),
    (101, 67),
    (224, 224),
    (247, 249),
    (255, 256),
    (256, 256),
    (333, 250),
    (375, 500),
    (500, 375),
    (640, 427),
)
EVERY_PICTURE = [(size, mode) for size in SIZES for mode in MODES]
assert len(EVERY_PICTURE) >= 150

sides = st.tuples(st.integers(1, 300), st.integers(1, 300)).map(
    lambda size: (min(size[0], 30 * size[1]), min(size[1], 30 * size[0]))
)


def assert_equal(found, expected, shape):
    assert (found.dtype, expected.dtype) == (np.float32, np.float32)
    assert found.shape == expected.shape == (3, *shape)
    assert np.array_equal(found, expected)


# ------------------------------------------------------------------ transformers


KINDS = ("Levit", "DeiT", "ViT")


def processor_class(kind):
    name = kind.lower()
    module = import_module(f"transformers.models.{name}.image_processing_pil_{name}")
    return getattr(module, f"{kind}ImageProcessorPil")


def processed(image, processor):
    values = processor(image.convert("RGB"), return_tensors="np")["pixel_values"][0]
    return values.astype(np.float32)  # uint8 where nothing is rescaled or normalised


def transformers_tensor(image, kind="Levit", **config):
    return processed(image, processor_class(kind)(**config))


def named(kind, **config):
    return {"image_processor_type": f"{kind}ImageProcessor", **config}


@pytest.mark.peers
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("kind", KINDS)
def test_transformers_defaults_on_every_size_and_mode(kind, mode):
    spec = replace(transformers_spec((224, 224), named(kind)), grey16="clip")
    for size in SIZES:
        image = picture(mode, size)
        assert_equal(tensor_of(image, spec), transformers_tensor(image, kind), (224, 224))


@pytest.mark.peers
@pytest.mark.parametrize("margin", range(8))
@pytest.mark.parametrize(
    ("kind", "edge", "squash"),
    [
        ("Levit", {"shortest_edge": 56}, False),
        ("DeiT", {"shortest_edge": 64}, False),
        ("DeiT", {"height": 64, "width": 64}, True),
        ("ViT", {"height": 64, "width": 64}, True),
    ],
)
def test_transformers_crop_offset_for_every_margin(kind, edge, squash, margin):
    crop = 64 - margin
    config = {
        "size": edge,
        "crop_size": {"height": crop, "width": crop},
        "do_center_crop": True,
    }
    spec = transformers_spec((crop, crop), named(kind, **config))
    assert spec.resize_size == (64, 64)
    assert spec.crop_mode == ("squash" if squash else "center")
    for size in [(64, 64), (64, 80), (80, 64), *((200 + n, 150) for n in range(4))]:
        image = picture("RGB", size)
        expected = transformers_tensor(image, kind, **config)
        assert_equal(tensor_of(image, spec), expected, (crop, crop))


@pytest.mark.peers
@pytest.mark.parametrize("edge", [20, 40, 41, 42])
@pytest.mark.parametrize(
    ("kind", "exact"), [("Levit", False), ("DeiT", False), ("DeiT", True), ("ViT", True)]
)
def test_transformers_pads_what_is_smaller_than_the_crop(kind, exact, edge):
    config = {
        "size": {"height": edge, "width": edge + 23} if exact else {"shortest_edge": edge},
        "crop_size": {"height": 61, "width": 64},
        "do_center_crop": True,
    }
    for size in [(64, 64), (31, 90), (90, 31), (5, 100)]:
        image = picture("RGB", size)
        found = tensor_of(image, transformers_spec((61, 64), named(kind, **config)))
        assert_equal(found, transformers_tensor(image, kind, **config), (61, 64))


edges = st.integers(8, 120)
switch = st.sampled_from([True, False, None])
processors = st.fixed_dictionaries(
    {"crop_size": st.fixed_dictionaries({"height": edges, "width": edges})},
    optional={
        "size": st.one_of(
            edges,
            st.lists(edges, min_size=2, max_size=2),
            st.fixed_dictionaries({"shortest_edge": edges}),
            st.fixed_dictionaries({"shortest_edge": edges, "longest_edge": st.just(400)}),
            st.fixed_dictionaries({"height": edges, "width": edges}),
        ),
        "default_to_square": switch,
        "do_resize": switch,
        "do_rescale": switch,
        "do_normalize": switch,
        "resample": st.integers(0, 5),
        "rescale_factor": st.sampled_from([1 / 255, 1 / 127.5, 0.0039, 1.0, 1 / 256]),
        "image_mean": st.one_of(st.just(0.5), st.lists(st.floats(0, 1), min_size=3, max_size=3)),
        "image_std": st.one_of(st.just(0.5), st.lists(st.floats(0.1, 1), min_size=3, max_size=3)),
    },
)


@pytest.mark.peers
@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=150, deadline=None)
@given(size=sides, config=processors)
def test_transformers_with_any_settings(kind, size, config):
    crop = (config["crop_size"]["height"], config["crop_size"]["width"])
    image = picture("RGB", size)
    if kind == "ViT":
        config = {**config, "do_center_crop": True}
    file = named(kind, **config)
    if kind != "Levit" and config.get("do_resize", True) and "longest_edge" in str(config):
        with pytest.raises(ConfigError, match="longest_edge"):
            transformers_spec(crop, file)
        return
    spec = transformers_spec(crop, file)
    assert_equal(tensor_of(image, spec), transformers_tensor(image, kind, **config), crop)


@pytest.mark.peers
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("off", [False, None])
@settings(max_examples=40, deadline=None)
@given(size=sides, height=edges, width=edges)
def test_transformers_without_a_crop_takes_exact_sizes(kind, off, size, height, width):
    config = {"size": {"height": height, "width": width}, "do_center_crop": off}
    image = picture("RGB", size)
    found = tensor_of(image, transformers_spec((height, width), named(kind, **config)))
    assert_equal(found, transformers_tensor(image, kind, **config), (height, width))


@pytest.mark.peers
@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=60, deadline=None)
@given(size=sides, height=edges, width=edges)
def test_transformers_defaults_at_another_size_are_a_processor_of_that_size(
    kind, size, height, width
):
    image = picture("RGB", size)
    own = {
        "Levit": {"shortest_edge": max(height, width)},
        "DeiT": {"height": int(256 / 224 * height), "width": int(256 / 224 * width)},
        "ViT": {"height": height, "width": width},
    }
    crop = {"height": height, "width": width}
    expected = transformers_tensor(image, kind, size=own[kind], crop_size=crop)
    found = tensor_of(image, transformers_spec((height, width), named(kind)))
    assert_equal(found, expected, (height, width))


# As they stand on the hub under these names, and as releases of transformers save them.
HUB = {
    "facebook/deit-base-distilled-patch16-224": {
        "crop_size": 224,
        "do_center_crop": True,
        "do_normalize": True,
        "do_resize": True,
        "feature_extractor_type": "DeiTFeatureExtractor",
        "image_mean": [0.485, 0.456, 0.406],
        "image_std": [0.229, 0.224, 0.225],
        "resample": 3,
        "size": 256,
    },
    "a DeiT for 384x384 of transformers 4.1x": {
        "crop_size": 384,
        "do_center_crop": True,
        "do_normalize": True,
        "do_resize": True,
        "feature_extractor_type": "DeiTFeatureExtractor",
        "image_mean": [0.485, 0.456, 0.406],
        "image_std": [0.229, 0.224, 0.225],
        "resample": 3,
        "size": 438,
    },
    "google/vit-base-patch16-224": {
        "do_normalize": True,
        "do_resize": True,
        "feature_extractor_type": "ViTFeatureExtractor",
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5],
        "size": 224,
    },
    "a ViT of transformers 4.3x": {
        "do_normalize": True,
        "do_rescale": True,
        "do_resize": True,
        "image_mean": [0.5, 0.5, 0.5],
        "image_processor_type": "ViTImageProcessor",
        "image_std": [0.5, 0.5, 0.5],
        "resample": 2,
        "rescale_factor": 0.00392156862745098,
        "size": {"height": 384, "width": 384},
    },
    "a ViT of transformers 4.5x": {
        "crop_size": None,
        "data_format": "channels_first",
        "default_to_square": True,
        "device": None,
        "do_center_crop": None,
        "do_convert_rgb": None,
        "do_normalize": True,
        "do_rescale": True,
        "do_resize": True,
        "image_mean": [0.5, 0.5, 0.5],
        "image_processor_type": "ViTImageProcessorFast",
        "image_std": [0.5, 0.5, 0.5],
        "input_data_format": None,
        "resample": 3,
        "rescale_factor": 0.00392156862745098,
        "return_tensors": None,
        "size": {"height": 224, "width": 224},
    },
    "a DeiT of transformers 4.5x": {
        "crop_size": {"height": 224, "width": 224},
        "default_to_square": True,
        "do_center_crop": True,
        "do_convert_rgb": None,
        "do_normalize": True,
        "do_rescale": True,
        "do_resize": True,
        "image_mean": [0.5, 0.5, 0.5],
        "image_processor_type": "DeiTImageProcessorFast",
        "image_std": [0.5, 0.5, 0.5],
        "resample": 3,
        "rescale_factor": 0.00392156862745098,
        "size": {"height": 256, "width": 256},
    },
}


@pytest.mark.peers
@pytest.mark.parametrize("name", HUB)
def test_files_of_the_hub_mean_what_transformers_makes_of_them(name, tmp_path):
    from transformers import AutoImageProcessor

    (tmp_path / "preprocessor_config.json").write_text(json.dumps(HUB[name]))
    processor = AutoImageProcessor.from_pretrained(tmp_path, backend="pil")
    assert type(processor).__name__.endswith("ImageProcessorPil")
    sizes = [HUB[name]["size"], HUB[name].get("crop_size")]
    edge = 384 if any("384" in str(size) for size in sizes) else 224
    spec = transformers_spec((edge, edge), HUB[name])
    for size in SIZES:
        image = picture("RGB", size)
        assert_equal(tensor_of(image, spec), processed(image, processor), (edge, edge))


# ------------------------------------------------------------------ facebookresearch/LeViT


def original_tensor(image, edge):
    """`build_transform(is_train=False)` of facebookresearch/LeViT, datasets.py."""
    from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
    from torchvision import transforms

    steps = []
    if edge > 32:
        steps.append(transforms.Resize(int((256 / 224) * edge), interpolation=3))
        steps.append(transforms.CenterCrop(edge))
    steps.append(transforms.ToTensor())
    steps.append(transforms.Normalize(IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD))
    return transforms.Compose(steps)(image.convert("RGB")).numpy()


@pytest.mark.peers
@pytest.mark.parametrize("mode", MODES)
def test_original_on_every_size_and_mode(mode):
    spec = replace(original_spec((224, 224)), grey16="clip")
    for size in SIZES:
        image = picture(mode, size)
        assert_equal(tensor_of(image, spec), original_tensor(image, 224), (224, 224))


@pytest.mark.peers
@settings(max_examples=150, deadline=None)
@given(size=sides, edge=st.integers(33, 200))
def test_original_at_any_size(size, edge):
    image = picture("RGB", size)
    spec = original_spec((edge, edge))
    assert_equal(tensor_of(image, spec), original_tensor(image, edge), (edge, edge))


@pytest.mark.peers
def test_original_crop_offset_for_every_margin():
    margins = set()
    for edge in range(33, 65):
        margins.add((math.floor(edge / 0.875) - edge) % 4)
        for size in [
            (64, 64),
            *((90 + n, 64) for n in range(4)),
            *((64, 90 + n) for n in range(4)),
        ]:
            image = picture("RGB", size)
            found = tensor_of(image, original_spec((edge, edge)))
            assert_equal(found, original_tensor(image, edge), (edge, edge))
    assert margins == {0, 1, 2, 3}


@pytest.mark.peers
def test_original_does_not_resize_what_is_as_small_as_cifar():
    image = picture("RGB", (32, 32))
    spec = original_spec((32, 32))
    assert spec.resizing == "not resized"
    assert_equal(tensor_of(image, spec), original_tensor(image, 32), (32, 32))


# ------------------------------------------------------------------ mmpretrain


@pytest.fixture(scope="module")
def mmpretrain():
    """The real library: transforms, and the module that normalises.

    A machine without the system's libGL, which OpenCV links and pip cannot bring, is a skip.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            from mmpretrain.datasets import transforms
            from mmpretrain.models.utils import ClsDataPreprocessor
        except ImportError as error:
            pytest.skip(f"OpenCV does not load here: {error}")

    class Library:
        load = staticmethod(transforms.LoadImageFromFile())

        @staticmethod
        def tensor(bgr, *, edge, crop, interpolation="bicubic", **preprocessor):
            """What stands in configs/_base_/datasets/imagenet_bs64_swin_224.py, which its
            LeViT configs inherit, after the image is loaded. bgr: (H, W, 3) uint8."""
            results = {"img": bgr}
            for step in (
                transforms.ResizeEdge(
                    scale=edge, edge="short", backend="pillow", interpolation=interpolation
                ),
                transforms.CenterCrop(crop_size=crop),
                transforms.PackInputs(),
            ):
                results = step(results)
            module = ClsDataPreprocessor(
                **{
                    "mean": [123.675, 116.28, 103.53],
                    "std": [58.395, 57.12, 57.375],
                    "to_rgb": True,
                    **preprocessor,
                }
            )
            return module({"inputs": [results["inputs"]]})["inputs"][0].numpy()

        def of_image(self, image, **options):
            return self.tensor(np.asarray(image.convert("RGB"))[..., ::-1].copy(), **options)

    return Library()


@pytest.mark.peers
@pytest.mark.parametrize("mode", MODES)
def test_mmpretrain_on_every_size_and_mode(mmpretrain, mode):
    spec = replace(mmpretrain_spec((224, 224)), grey16="clip")
    for size in SIZES:
        image = picture(mode, size)
        expected = mmpretrain.of_image(image, edge=256, crop=224)
        assert_equal(tensor_of(image, spec), expected, (224, 224))


@pytest.mark.peers
@pytest.mark.parametrize("margin", range(8))
def test_mmpretrain_crop_offset_for_every_margin(mmpretrain, margin):
    crop = 64 - margin
    spec = replace(mmpretrain_spec((crop, crop)), crop_pct=None, resize_size=(64, 64))
    for size in [(64, 64), (64, 80), (80, 64), *((200 + n, 150) for n in range(4))]:
        image = picture("RGB", size)
        expected = mmpretrain.of_image(image, edge=64, crop=crop)
        assert_equal(tensor_of(image, spec), expected, (crop, crop))


@pytest.mark.peers
@settings(max_examples=120, deadline=None)
@given(size=sides, edge=st.integers(8, 160), interpolation=st.sampled_from(sorted(INTERPOLATIONS)))
def test_mmpretrain_at_any_size(mmpretrain, size, edge, interpolation):
    image = picture("RGB", size)
    spec = replace(mmpretrain_spec((edge, edge)), interpolation=interpolation)
    expected = mmpretrain.of_image(
        image, edge=math.floor(edge / 0.875), crop=edge, interpolation=interpolation
    )
    assert_equal(tensor_of(image, spec), expected, (edge, edge))


@pytest.mark.peers
@settings(max_examples=60, deadline=None)
@given(
    mean=st.lists(st.floats(0, 255), min_size=3, max_size=3),
    std=st.lists(st.floats(1, 255), min_size=3, max_size=3),
)
def test_mmpretrain_with_any_normalisation(mmpretrain, mean, std):
    image = picture("RGB", (40, 30))
    spec = mmpretrain_spec((24, 24), {"mean": mean, "std": std, "to_rgb": True, "num_classes": 7})
    expected = mmpretrain.of_image(image, edge=27, crop=24, mean=mean, std=std)
    assert_equal(tensor_of(image, spec), expected, (24, 24))


@pytest.mark.peers
@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("format_name", ["JPEG", "PNG", "BMP", "WEBP"])
def test_mmpretrain_from_the_file_on(mmpretrain, tmp_path, mode, format_name):
    # cv2, which it decodes with, and Pillow read these alike.
    data = encoded(picture(mode, (301, 233)), format_name)
    path = tmp_path / f"picture.{format_name.lower()}"
    path.write_bytes(data)
    bgr = mmpretrain.load({"img_path": str(path)})["img"]
    expected = mmpretrain.tensor(bgr, edge=256, crop=224)
    assert_equal(tensor_of(data, mmpretrain_spec((224, 224))), expected, (224, 224))


@pytest.mark.peers
@pytest.mark.parametrize("orientation", range(1, 9))
def test_mmpretrain_turns_pictures_as_exif_true_does(mmpretrain, tmp_path, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / "picture.jpeg"
    path.write_bytes(encoded(picture("RGB", (120, 90)), "JPEG", exif=exif))
    bgr = mmpretrain.load({"img_path": str(path)})["img"]
    assert np.array_equal(bgr[..., ::-1], np.asarray(load_image(path, exif=True)))


# ------------------------------------------------------------------ without the libraries


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_what_is_left_out_of_a_spec_is_the_flavours_default(flavour):
    spec = PreprocessSpec.from_dict({"flavour": flavour, "image_size": [224, 224]})
    assert spec == FLAVOURS[flavour]((224, 224), {})
    assert spec.crop_pct == (0.9 if flavour == "timm" else 0.875)
    assert (spec.mean, spec.std) == (IMAGENET_MEAN, IMAGENET_STD)


def test_the_ratio_of_transformers_and_the_original_is_crop_pct_for_every_edge():
    for edge in range(1, 20_000):
        assert math.floor(edge / 0.875) == int((256 / 224) * edge)


def test_flavours_differ_where_their_crops_round_apart():
    # A margin of 3 modulo 4: 1.5 is rounded to 2 by torchvision and mmcv, down by transformers.
    image = picture("RGB", (67, 67))
    spec = PreprocessSpec(image_size=(64, 64), crop_pct=None, resize_size=(67, 67))
    pixels = {name: to_pixels(image, replace(spec, flavour=name)) for name in RULES}
    whole = np.asarray(image)
    assert np.array_equal(pixels["transformers"], whole[1:65, 1:65])
    for name in ("timm", "mmpretrain", "original"):
        assert np.array_equal(pixels[name], whole[2:66, 2:66])


def test_flavours_differ_in_how_they_round_and_agree_to_the_last_bit_but_one():
    pixels = np.arange(256, dtype=np.uint8).repeat(3).reshape(16, 16, 3)
    spec = PreprocessSpec(image_size=(16, 16))
    exact = (np.moveaxis(pixels, -1, 0) / 255 - np.array(spec.mean)[:, None, None]) / np.array(
        spec.std
    )[:, None, None]
    tensors = {name: normalize(pixels, replace(spec, flavour=name)) for name in RULES}
    for tensor in tensors.values():
        np.testing.assert_allclose(tensor, exact, rtol=0, atol=5e-7)
    assert np.array_equal(tensors["timm"], tensors["original"])
    assert np.array_equal(tensors["timm"], tensors["transformers"])
    assert not np.array_equal(tensors["timm"], tensors["mmpretrain"])
    # On 0..255, the mean and deviation that mmpretrain's configs state, in float32.
    mean, std = (
        np.float32(values)[:, None, None]
        for values in ([123.675, 116.28, 103.53], [58.395, 57.12, 57.375])
    )
    stated = (np.moveaxis(pixels, -1, 0).astype(np.float32) - mean) / std
    assert np.array_equal(tensors["mmpretrain"], stated)


@pytest.mark.parametrize("flavour", RULES)
@pytest.mark.parametrize("size", [(1, 1), (40, 30), (30, 40), (64, 64), (3, 80)])
def test_exact_sizes_squash_and_crop(flavour, size):
    # What DeiT's processor does: 256x256 whatever the shape, then the crop.
    image = picture("RGB", size)
    spec = PreprocessSpec(
        flavour=flavour,
        image_size=(48, 40),
        crop_pct=None,
        resize_size=(56, 48),
        crop_mode="squash",
    )
    resized = np.asarray(image.resize((48, 56), Image.Resampling.BICUBIC))
    assert np.array_equal(to_pixels(image, spec), resized[4:52, 4:44])


def test_an_image_that_is_not_resized_is_cropped_or_padded():
    spec = PreprocessSpec(flavour="transformers", image_size=(20, 20), crop_pct=None)
    image = picture("RGB", (31, 13))
    expected = np.zeros((20, 20, 3), np.uint8)
    expected[4:17] = np.asarray(image)[:, 5:25]
    assert np.array_equal(to_pixels(image, spec), expected)
    with pytest.raises(InputError, match=r"31x13 pixels .* mmpretrain does not pad"):
        to_pixels(image, replace(spec, flavour="mmpretrain"))


def test_tall_images_are_refused_before_pillow_widens_them():
    spec = PreprocessSpec(image_size=(224, 224), crop_mode="squash")
    with pytest.raises(InputError, match="too long and thin"):
        to_pixels(Image.new("RGB", (1, 500_000)), spec)
    assert to_pixels(Image.new("RGB", (1, 5_000)), spec).shape == (224, 224, 3)


@settings(max_examples=100, deadline=None)
@given(
    size=sides,
    flavour=st.sampled_from(sorted(RULES)),
    target=st.tuples(edges, edges),
    crop_pct=st.floats(0.3, 1.0),
    crop_mode=st.sampled_from(["center", "squash"]),
)
def test_every_flavour_fills_the_crop(size, flavour, target, crop_pct, crop_mode):
    spec = PreprocessSpec(
        flavour=flavour, image_size=target, crop_pct=crop_pct, crop_mode=crop_mode
    )
    pixels = to_pixels(Image.new("RGB", size, (10, 200, 30)), spec)
    assert pixels.shape == (*target, 3)
    assert (pixels == (10, 200, 30)).all()


@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_a_spec_of_any_flavour_survives_json(data):
    flavour = data.draw(st.sampled_from(sorted(RULES)))
    crop_pct = data.draw(st.none() | st.floats(0.05, 1.0))
    side = st.integers(1, 9999)
    resize = data.draw(st.none() | side) if crop_pct is None else None
    spec = PreprocessSpec(
        flavour=flavour,
        image_size=data.draw(st.tuples(side, side)),
        crop_pct=crop_pct,
        resize_size=None if resize is None else (resize, resize),
        rescale_factor=data.draw(st.none() | st.floats(1e-6, 1e6)),
    )
    assert PreprocessSpec.from_dict(json.loads(json.dumps(spec.to_dict()))) == spec


def test_a_spec_of_release_0_1_is_read():
    values = {
        "flavour": "timm",
        "image_size": [96, 96],
        "crop_pct": 1.0,
        "crop_mode": "center",
        "interpolation": "bicubic",
        "mean": [0.5, 0.5, 0.5],
        "std": [0.5, 0.5, 0.5],
    }
    spec = PreprocessSpec.from_dict(values)
    assert (spec.resize_size, spec.rescale_factor) == (None, None)
    assert {key: list(v) if isinstance(v, tuple) else v for key, v in spec.to_dict().items()} == {
        **values,
        "resize_size": None,
        "rescale_factor": None,
    }


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"crop_pct": 0.9, "resize_size": (9, 9)}, "say the same"),
        ({"resize_size": (9, 12), "flavour": "mmpretrain"}, "resizes one edge"),
        ({"resize_size": (0, 9)}, "resize_size"),
        ({"resize_size": (9, 9, 9)}, "resize_size"),
        ({"resize_size": (70_000, 9)}, "resize_size"),
        ({"image_size": (10**400, 8)}, "image_size"),
        ({"rescale_factor": 0.0}, "rescale_factor"),
        ({"rescale_factor": math.nan}, "rescale_factor"),
    ],
    ids=str,
)
def test_specs_that_contradict_themselves(change, message):
    with pytest.raises(ConfigError, match=message):
        replace(PreprocessSpec(image_size=(8, 8), crop_pct=None), **change)


def test_timm_takes_a_resize_size_that_is_not_square():
    spec = PreprocessSpec(image_size=(8, 8), crop_pct=None, resize_size=(9, 12))
    assert to_pixels(Image.new("RGB", (40, 30)), spec).shape == (8, 8, 3)
