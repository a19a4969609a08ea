"""Settings as the libraries write them: what is read, what is refused, and in what words.

That the specs are right is shown where they are applied, in test_preprocess_flavours.py.
"""

import json
import math

import numpy as np
import pytest
from drawn_pictures import picture, tensor_of
from hypothesis import given, settings
from hypothesis import strategies as st
from test_preprocess_flavours import HUB, KINDS, processor_class

from levit.errors import ConfigError
from levit.export.flavours import (
    FLAVOURS,
    mmpretrain_spec,
    original_spec,
    timm_spec,
    transformers_spec,
)
from levit.export.preprocess_files import spec_from_json
from levit.pictures.preprocess import IMAGENET_MEAN, IMAGENET_STD, RULES, PreprocessSpec

# As save_pretrained of transformers 4.2x, and of 4.5x with the fast class, wrote them.
OLD_FILE = {
    "do_center_crop": True,
    "do_normalize": True,
    "do_resize": True,
    "feature_extractor_type": "LevitFeatureExtractor",
    "image_mean": [0.485, 0.456, 0.406],
    "image_std": [0.229, 0.224, 0.225],
    "resample": 3,
    "size": 224,
}
NEW_FILE = {
    "crop_size": {"height": 224, "width": 224},
    "data_format": "channels_first",
    "default_to_square": False,
    "device": None,
    "disable_grouping": None,
    "do_center_crop": True,
    "do_convert_rgb": None,
    "do_normalize": True,
    "do_pad": None,
    "do_rescale": True,
    "do_resize": True,
    "image_mean": [0.485, 0.456, 0.406],
    "image_processor_type": "LevitImageProcessorFast",
    "image_std": [0.229, 0.224, 0.225],
    "input_data_format": None,
    "resample": 3,
    "rescale_factor": 0.00392156862745098,
    "return_tensors": None,
    "size": {"shortest_edge": 224},
}
PRETRAINED_CFG = {
    "url": "",
    "hf_hub_id": "timm/",
    "architecture": "levit_128s",
    "num_classes": 1000,
    "input_size": [3, 224, 224],
    "pool_size": None,
    "crop_pct": 0.95,
    "interpolation": "bilinear",
    "mean": [0.5, 0.4, 0.3],
    "std": [0.2, 0.3, 0.4],
    "fixed_input_size": True,
    "first_conv": "stem.conv1.linear",
}


def test_every_flavour_has_its_rules_and_its_reader():
    assert list(FLAVOURS) == list(RULES) == ["timm", "transformers", "mmpretrain", "original"]


@pytest.mark.parametrize("flavour", FLAVOURS)
@pytest.mark.parametrize("nothing", [None, {}], ids=["none", "empty"])
def test_nothing_beside_means_the_library_s_defaults(flavour, nothing):
    spec = FLAVOURS[flavour]((224, 224), nothing)
    assert (spec.flavour, spec.image_size, spec.crop_mode) == (flavour, (224, 224), "center")
    assert (spec.mean, spec.std, spec.rescale_factor) == (IMAGENET_MEAN, IMAGENET_STD, None)
    edge = {"timm": 248}.get(flavour, 256)
    assert math.floor(224 / spec.crop_pct) == edge


# ------------------------------------------------------------------ transformers


@pytest.mark.parametrize("file", [OLD_FILE, NEW_FILE], ids=["old", "new"])
def test_files_as_transformers_wrote_them_are_the_defaults(file):
    assert transformers_spec((224, 224), file) == transformers_spec((224, 224))


def test_one_size_of_an_old_file_is_that_of_the_crop_too():
    spec = transformers_spec((384, 384), {**OLD_FILE, "size": 384})
    assert spec == transformers_spec((384, 384))


@pytest.mark.parametrize(
    ("settings_", "expected"),
    [
        ({"size": 192}, {"resize_size": (219, 219), "crop_pct": None}),
        ({"size": {"shortest_edge": 192}}, {"resize_size": (219, 219), "crop_pct": None}),
        (
            {"size": {"height": 256, "width": 240}},
            {"resize_size": (256, 240), "crop_pct": None, "crop_mode": "squash"},
        ),
        ({"size": [256, 240]}, {"resize_size": (256, 240), "crop_mode": "squash"}),
        ({"size": 256, "default_to_square": True}, {"resize_size": (256, 256)}),
        ({"do_resize": False}, {"resize_size": None, "crop_pct": None}),
        (
            {"do_center_crop": False, "size": {"height": 224, "width": 224}, "crop_size": 99},
            {"resize_size": (224, 224), "crop_mode": "squash"},
        ),
        ({"resample": 2}, {"interpolation": "bilinear"}),
        ({"resample": 0}, {"interpolation": "nearest"}),
        ({"image_mean": 0.5, "image_std": [0.1, 0.2, 0.3]}, {"mean": (0.5,) * 3}),
        ({"do_normalize": False}, {"mean": (0.0,) * 3, "std": (1.0,) * 3}),
        (
            {"rescale_factor": 1 / 127.5},
            {"rescale_factor": 1 / 127.5, "mean": (0.2425, 0.228, 0.203)},
        ),
        ({"do_rescale": False}, {"rescale_factor": 1.0}),
        ({"size": None, "image_mean": None}, {"crop_pct": 0.875, "mean": IMAGENET_MEAN}),
    ],
    ids=str,
)
def test_settings_of_transformers(settings_, expected):
    spec = transformers_spec((224, 224), {"crop_size": 224, **settings_})
    assert {name: getattr(spec, name) for name in expected} == expected


LEVIT = {"mean": IMAGENET_MEAN, "std": IMAGENET_STD, "interpolation": "bicubic"}
HALF = {"mean": (0.5,) * 3, "std": (0.5,) * 3, "crop_pct": None, "crop_mode": "squash"}
DEIT = {**HALF, "interpolation": "bicubic"}
VIT = {**HALF, "interpolation": "bilinear"}


@pytest.mark.parametrize(
    "ending", ["ImageProcessor", "ImageProcessorPil", "ImageProcessorFast", "FeatureExtractor"]
)
@pytest.mark.parametrize(
    ("start", "image_size", "expected"),
    [
        ("Levit", (224, 224), {**LEVIT, "crop_pct": 0.875, "resize_size": None}),
        ("Levit", (96, 64), {**LEVIT, "crop_pct": 0.875, "resize_size": None}),
        ("DeiT", (224, 224), {**DEIT, "resize_size": (256, 256)}),
        ("DeiT", (384, 384), {**DEIT, "resize_size": (438, 438)}),
        ("DeiT", (96, 64), {**DEIT, "resize_size": (109, 73)}),
        ("DeiT", (1, 1), {**DEIT, "resize_size": (1, 1)}),
        ("ViT", (224, 224), {**VIT, "resize_size": (224, 224)}),
        ("ViT", (384, 384), {**VIT, "resize_size": (384, 384)}),
        ("ViT", (96, 65), {**VIT, "resize_size": (96, 65)}),
    ],
    ids=str,
)
def test_a_class_alone_means_its_defaults_at_the_model_s_size(start, ending, image_size, expected):
    key = "feature_extractor_type" if ending == "FeatureExtractor" else "image_processor_type"
    file = {key: start + ending}
    spec = transformers_spec(image_size, file)
    assert {name: getattr(spec, name) for name in expected} == expected
    assert (spec.image_size, spec.rescale_factor) == (image_size, None)
    assert spec_from_json(file, image_size) == spec
    assert spec_from_json({"image_processor": {**file, "size": None}}, image_size) == spec


@pytest.mark.parametrize(
    ("file", "expected"),
    [
        (
            {"image_processor_type": "DeiTImageProcessor", "do_normalize": True},
            {**DEIT, "resize_size": (256, 256)},
        ),
        (
            # Only LeViT's extractor had one number for both.
            {"feature_extractor_type": "DeiTFeatureExtractor", "size": 300},
            {**DEIT, "resize_size": (300, 300)},
        ),
        (
            {"image_processor_type": "DeiTImageProcessor", "size": {"shortest_edge": 248}},
            {"crop_pct": None, "crop_mode": "center", "resize_size": (248, 248)},
        ),
        (
            {"image_processor_type": "DeiTImageProcessor", "size": {"shortest_edge": 256}},
            {"crop_pct": 0.875, "crop_mode": "center", "resize_size": None},
        ),
        (
            {
                "image_processor_type": "DeiTImageProcessor",
                "size": 248,
                "default_to_square": None,
            },
            {"crop_pct": None, "crop_mode": "center", "resize_size": (248, 248)},
        ),
        (
            {"image_processor_type": "DeiTImageProcessor", "do_center_crop": None, "size": 224},
            {**DEIT, "resize_size": (224, 224)},
        ),
        (
            {"image_processor_type": "ViTImageProcessor", "do_center_crop": None, "resample": 3},
            {**VIT, "interpolation": "bicubic", "resize_size": (224, 224)},
        ),
        (
            {
                "image_processor_type": "ViTImageProcessor",
                "do_center_crop": True,
                "crop_size": 224,
                "size": 240,
            },
            {**VIT, "resize_size": (240, 240)},
        ),
        (
            # As AutoImageProcessor chooses.
            {
                "image_processor_type": "ViTImageProcessor",
                "feature_extractor_type": "LevitFeatureExtractor",
            },
            {**VIT, "resize_size": (224, 224)},
        ),
    ],
    ids=str,
)
def test_what_a_file_leaves_out_is_its_class_s(file, expected):
    spec = transformers_spec((224, 224), file)
    assert {name: getattr(spec, name) for name in expected} == expected


def test_what_a_file_leaves_out_is_not_scaled():
    file = {"image_processor_type": "DeiTImageProcessor", "resample": 3}
    with pytest.raises(ConfigError, match="crop_size 224x224 is not the model's image size"):
        transformers_spec((384, 384), file)
    file["image_processor_type"] = "ViTImageProcessor"
    with pytest.raises(ConfigError, match=r"^size 224x224 is not the model's image size"):
        transformers_spec((384, 384), file)


@pytest.mark.parametrize("name", ["do_rescale", "do_normalize"])
def test_a_null_switch_is_off(name):
    off = transformers_spec((224, 224), {**NEW_FILE, name: False})
    assert transformers_spec((224, 224), {**NEW_FILE, name: None}) == off
    assert off != transformers_spec((224, 224), NEW_FILE)


VIT_TYPE = {"image_processor_type": "ViTImageProcessor"}
DEIT_TYPE = {"image_processor_type": "DeiTImageProcessor"}
ALL_KNOWN = "only of LevitImageProcessor, DeiTImageProcessor, ViTImageProcessor$"


@pytest.mark.parametrize(
    ("settings_", "message"),
    [
        ({"image_processor_type": "BeitImageProcessor"}, f"'BeitImageProcessor' .*{ALL_KNOWN}"),
        ({"image_processor_type": "DeiT"}, "is not known"),
        ({"image_processor_type": "ViTImageProcessorPilFast"}, "is not known"),
        ({"image_processor_type": "ViT\nImageProcessor"}, "is not known"),
        ({"image_processor_type": ["a"]}, "is not known"),
        ({"feature_extractor_type": "BeitFeatureExtractor"}, "is not known"),
        ({**DEIT_TYPE, "size": {"shortest_edge": 256, "longest_edge": 400}}, "longest_edge"),
        ({**DEIT_TYPE, "do_center_crop": False}, "size 256x256 is not the model's"),
        ({**DEIT_TYPE, "crop_size": 192}, "crop_size 192x192 is not the model's image size"),
        ({**VIT_TYPE, "do_center_crop": True}, "do_center_crop without a crop_size"),
        ({**VIT_TYPE, "size": {"shortest_edge": 224}}, "without do_center_crop"),
        ({**VIT_TYPE, "size": 224, "default_to_square": False}, "without do_center_crop"),
        ({**VIT_TYPE, "size": 256}, "size 256x256 is not the model's image size 224x224"),
        ({**VIT_TYPE, "do_resize": None}, "without do_center_crop"),
        ({"crop_size": 192}, "crop_size 192x192 is not the model's image size 224x224"),
        ({"crop_size": {"shortest_edge": 224}}, "height and width, not shortest_edge"),
        ({"crop_size": {}}, "height and width, not nothing"),
        ({"crop_size": [224]}, "expected height and width"),
        ({"do_center_crop": False}, "without do_center_crop"),
        ({"do_center_crop": False, "do_resize": False}, "without do_center_crop"),
        ({"size": {"longest_edge": 224}}, "height and width, not longest_edge"),
        ({"size": {"max_height": 9, "max_width": 9}}, "height and width"),
        ({"size": 0}, "whole number from 1"),
        ({"size": True}, "whole number"),
        ({"size": "224"}, "whole number"),
        ({"size": 224.5}, "whole number"),
        ({"resample": 17}, "none of Pillow's filters"),
        ({"resample": "bicubic"}, "whole number"),
        ({"do_resize": "yes"}, "true or false"),
        ({"do_convert_rgb": True}, "do_convert_rgb"),
        ({"do_pad": True, "pad_size": {"height": 256, "width": 256}}, "do_pad"),
        ({"image_mean": [0.5, 0.5]}, "one value per channel, 1, 3 or 4, not 2"),
        ({"image_mean": "red"}, "expected a number"),
        ({"image_mean": [0.5, 0.5, 10**400]}, "expected a number"),
        ({"image_mean": [123.675, 116.28, 103.53]}, r"on pixels scaled to 0\.\.1"),
        ({"image_std": 0}, "positive"),
        ({"rescale_factor": 0}, "must be positive"),
        ({"rescale_factor": math.inf}, "expected a number"),
    ],
    ids=str,
)
def test_what_transformers_files_say_and_a_spec_cannot(settings_, message):
    with pytest.raises(ConfigError, match=message) as caught:
        transformers_spec((224, 224), settings_)
    assert "\n" not in str(caught.value)


def test_padding_to_nothing_is_no_padding():
    assert transformers_spec((224, 224), {"do_pad": True}) == transformers_spec((224, 224))


@pytest.mark.peers
@pytest.mark.parametrize("changes", [{}, {"size": {"height": 60, "width": 50}, "resample": 0}])
@pytest.mark.parametrize("kind", KINDS)
def test_a_file_that_transformers_saves_is_read_as_it_reads_it(tmp_path, kind, changes):
    crop = {"height": 48, "width": 48}
    processor_class(kind)(crop_size=crop, do_center_crop=True, **changes).save_pretrained(tmp_path)
    again = processor_class(kind).from_pretrained(tmp_path)
    saved = json.loads((tmp_path / "preprocessor_config.json").read_text())
    spec = transformers_spec((48, 48), saved)
    assert spec_from_json(saved, (48, 48)) == spec
    image = picture("RGB", (90, 70))
    expected = again(image, return_tensors="np")["pixel_values"][0]
    assert np.array_equal(tensor_of(image, spec), expected)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["shortest_edge", "height", "width", "x"]), inner, max_size=3
        )
    ),
    max_leaves=6,
)


KEYS = sorted(
    {"to_rgb", "pad_size", *NEW_FILE, *PRETRAINED_CFG}
    | set(PreprocessSpec(image_size=(8, 8)).to_dict())
)


BASES = [{}, NEW_FILE, OLD_FILE, PRETRAINED_CFG, {"to_rgb": True}, VIT_TYPE, DEIT_TYPE]


@settings(max_examples=400, deadline=None)
@given(
    key=st.sampled_from(
        sorted(
            {
                *NEW_FILE,
                *PRETRAINED_CFG,
                *PreprocessSpec(image_size=(8, 8)).to_dict(),
                "to_rgb",
                "pad_size",
            }
        )
    ),
    value=JSON | st.just(10**400),
    base=st.sampled_from([*BASES, *HUB.values()]),
)
def test_any_value_in_any_file_is_taken_or_a_config_error(key, value, base):
    try:
        spec = spec_from_json({**base, key: value}, (224, 224))
    except ConfigError as error:
        assert "\n" not in str(error)  # noqa: PT017
    else:
        assert spec.image_size == (224, 224)


# ------------------------------------------------------------------ timm, mmpretrain, original


def test_timm_reads_a_pretrained_cfg():
    spec = timm_spec((96, 96), PRETRAINED_CFG)
    assert (spec.crop_pct, spec.interpolation, spec.crop_mode) == (0.95, "bilinear", "center")
    assert (spec.mean, spec.std) == ((0.5, 0.4, 0.3), (0.2, 0.3, 0.4))


@pytest.mark.peers
@pytest.mark.parametrize("left_out", [*PRETRAINED_CFG, None])
def test_timm_says_what_a_pretrained_cfg_leaves_out(left_out):
    from timm.data import resolve_data_config

    stated = {key: value for key, value in PRETRAINED_CFG.items() if key != left_out}
    theirs = resolve_data_config({}, pretrained_cfg=stated)
    ours = timm_spec((224, 224), stated)
    assert (ours.crop_pct, ours.crop_mode) == (theirs["crop_pct"], theirs["crop_mode"])
    assert ours.interpolation == theirs["interpolation"]
    assert (ours.mean, ours.std) == (tuple(theirs["mean"]), tuple(theirs["std"]))


def test_mmpretrain_reads_a_data_preprocessor_on_0_to_255():
    stated = {"mean": [123.675, 116.28, 103.53], "std": [58.395, 57.12, 57.375], "to_rgb": True}
    spec = mmpretrain_spec((224, 224), {**stated, "num_classes": 1000})
    np.testing.assert_allclose((spec.mean, spec.std), (IMAGENET_MEAN, IMAGENET_STD), rtol=1e-15)
    raw = mmpretrain_spec((224, 224), {"to_rgb": True})
    assert (raw.mean, raw.std) == ((0.0,) * 3, (1 / 255,) * 3)


@pytest.mark.parametrize(
    ("stated", "message"),
    [
        ({"mean": [1, 2, 3], "std": [1, 2, 3]}, "BGR"),
        ({"to_rgb": False}, "BGR"),
        ({"to_rgb": True, "mean": [1, 2], "std": [1, 2]}, "1, 3 or 4, not 2"),
        ({"to_rgb": True, "mean": [1, 2, 3], "std": [0, 1, 1]}, "positive"),
    ],
    ids=str,
)
def test_what_mmpretrain_may_say_and_a_spec_cannot(stated, message):
    with pytest.raises(ConfigError, match=message):
        mmpretrain_spec((224, 224), stated)


def test_the_original_has_no_settings():
    with pytest.raises(ConfigError, match="no setting 'mean'"):
        original_spec((224, 224), {"mean": 1})
    assert original_spec((33, 33)).crop_pct == 0.875
    assert original_spec((32, 32)).crop_pct is None


# ------------------------------------------------------------------ files told apart


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({}, PreprocessSpec(image_size=(224, 224))),
        ({"flavour": "original"}, original_spec((224, 224))),
        ({"flavour": "transformers", "crop_pct": None}, None),
        (OLD_FILE, transformers_spec((224, 224))),
        (NEW_FILE, transformers_spec((224, 224))),
        ({"image_processor": NEW_FILE}, transformers_spec((224, 224))),
        ({"size": 224}, transformers_spec((224, 224))),
        (VIT_TYPE, transformers_spec((224, 224), VIT_TYPE)),
        (PRETRAINED_CFG, timm_spec((224, 224), PRETRAINED_CFG)),
        (
            {"architecture": "levit_128s", "pretrained_cfg": PRETRAINED_CFG},
            timm_spec((224, 224), PRETRAINED_CFG),
        ),
        ({"to_rgb": True, "mean": 0, "std": 255}, None),
    ],
    ids=lambda values: ", ".join(list(values)[:2]) if isinstance(values, dict) else "",
)
def test_files_are_told_apart_by_their_keys(values, expected):
    spec = spec_from_json(values, (224, 224))
    if expected is not None:
        assert spec == expected
    assert spec.image_size == (224, 224)


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_a_spec_of_ours_is_read_back(flavour):
    spec = FLAVOURS[flavour]((96, 64), {})
    assert spec_from_json(json.loads(json.dumps(spec.to_dict())), (96, 64)) == spec
    with pytest.raises(ConfigError, match=r"\(96, 64\) is not the model's \(64, 96\)"):
        spec_from_json(spec.to_dict(), (64, 96))


def test_the_config_of_a_model_is_not_its_preprocessing():
    config = {"model_type": "levit", "image_size": 224, "hidden_sizes": [128, 256, 384]}
    with pytest.raises(ConfigError, match="unknown preprocessing keys hidden_sizes, model_type"):
        spec_from_json(config, (224, 224))
