import json

import pytest

from levit.errors import ConfigError
from levit.models.hints import Hints, hints_from_config
from levit.models.json_files import read_config

TIMM = {
    "architecture": "levit_128s",
    "num_classes": 1000,
    "num_features": 384,
    "pretrained_cfg": {
        "input_size": [3, 224, 224],
        "crop_pct": 0.9,
        "interpolation": "bicubic",
        "mean": [0.485, 0.456, 0.406],
        "std": [0.229, 0.224, 0.225],
        "classifier": ["head.linear", "head_dist.linear"],
    },
}


def test_timms_config_is_read():
    hints = hints_from_config(TIMM, "config.json")
    assert hints == Hints(
        input_size=(224, 224),
        architecture="levit_128s",
        num_classes=1000,
        pretrained_cfg=TIMM["pretrained_cfg"],
        arguments=TIMM,
    ).said_in("config.json")
    assert hints.origins["num_classes"] == hints.argument_origins["num_classes"] == "config.json"
    assert "label_names" not in hints.origins


def test_the_single_dict_that_timm_wrote_before_it_had_a_pretrained_cfg():
    """As timm's ``_parse_model_cfg`` splits it."""
    cfg = {"input_size": [3, 224, 224], "mean": [0.5, 0.5, 0.5], "crop_pct": 0.95}
    old = {"architecture": "levit_128s", "num_classes": 2, "labels": ["a", "b"], **cfg}
    hints = hints_from_config(old, "c")
    assert hints.pretrained_cfg == cfg
    assert (hints.input_size, hints.num_classes, hints.label_names) == ((224, 224), 2, ("a", "b"))
    assert hints_from_config({**old, "pretrained_cfg": {}}, "c").pretrained_cfg == {}


def test_an_empty_config_says_nothing():
    assert hints_from_config({}, "c") == Hints()


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"img_size": 96}, (96, 96)),
        ({"img_size": [64, 96]}, (64, 96)),
        ({"model_args": {"img_size": 128}}, (128, 128)),
        ({"img_size": 96, "model_args": {"img_size": 128}}, (128, 128)),
        ({"model_args": {"img_size": 128}, **TIMM}, (128, 128)),
        ({"img_size": None, **TIMM}, None),
    ],
)
def test_where_the_image_size_stands(values, expected):
    assert hints_from_config(values, "c").image_size == expected


@pytest.mark.parametrize(
    ("value", "expected"), [([1, 64, 96], (64, 96)), ([3, 224, 224], (224, 224)), (None, None)]
)
def test_the_input_size_is_no_more_than_a_tie_breaker(value, expected):
    hints = hints_from_config({"pretrained_cfg": {"input_size": value}}, "c")
    assert (hints.image_size, hints.input_size) == (None, expected)


@pytest.mark.parametrize(
    ("said", "name"),
    [("hard_swish", "hard_swish"), ("hardswish", "hard_swish"), ("silu", "silu"),
     ("swish", "silu")],
)  # fmt: skip
def test_activations_have_more_than_one_name(said, name):
    hints = hints_from_config({"act_layer": said, "attn_act_layer": said}, "c")
    assert (hints.activation, hints.attention_activation) == (name, name)


def test_labels_stand_in_the_config():
    assert hints_from_config({"label_names": ["a", "b"]}, "c").label_names == ("a", "b")
    cfg = {"pretrained_cfg": {"label_names": ["a", "b"]}}
    assert hints_from_config(cfg, "c").label_names == ("a", "b")
    assert hints_from_config({"label_names": ["x"], **cfg}, "c").label_names == ("x",)
    by_index = {str(i): chr(ord("a") + i) for i in (10, 0, 3, 1, 2, 9, 4, 8, 5, 6, 7)}
    assert hints_from_config({"label_names": by_index}, "c").label_names == tuple("abcdefghijk")


@pytest.mark.parametrize(
    "values",
    [
        {"img_size": "large"},
        {"img_size": [1, 2, 3]},
        {"img_size": {"height": 96}},
        {"pretrained_cfg": 3},
        {"pretrained_cfg": {"input_size": 224}},
        {"pretrained_cfg": {"input_size": [3, 224]}},
        {"model_args": [1]},
        {"num_classes": "many"},
        {"label_names": "abc"},
        {"label_names": {"first": "a"}},
        {"label_names": {"1": "a", "2": "b"}},
        {"label_names": [None, None]},
        {"img_size": "96"},
        {"img_size": True},
        {"img_size": [96.9, 96]},
        {"in_chans": True},
        {"num_classes": 4.9},
        {"num_classes": float("inf")},
        {"img_size": [64, float("inf")]},
        {"use_pool": True},
        {"model_args": {"down_op": "pool"}},
        {"act_layer": "relu"},
        {"architecture": 3},
    ],
    ids=str,
)
def test_what_is_not_as_it_should_be_is_an_error_that_names_the_file(values):
    with pytest.raises(ConfigError, match=r"folder/config\.json") as caught:
        hints_from_config(values, "folder/config.json")
    assert "\n" not in str(caught.value)


def test_a_config_file_is_read(tmp_path):
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"name": "Hündin"}, ensure_ascii=False), encoding="utf-8")
    assert read_config(path) == {"name": "Hündin"}


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"", "JSON"), (b"{", "JSON"), (b"[]", "no JSON object"), (b"\xff\xfe", "JSON"),
     (b"[" * 100_000, "JSON")],
    ids=["empty", "cut", "list", "binary", "deep"],
)  # fmt: skip
def test_a_file_that_is_no_json_object(tmp_path, content, message):
    path = tmp_path / "config.json"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=message) as caught:
        read_config(path)
    assert str(path) in str(caught.value)


def test_a_missing_file_and_a_folder(tmp_path):
    with pytest.raises(ConfigError, match="no such file"):
        read_config(tmp_path / "config.json")
    with pytest.raises(ConfigError, match="cannot be read"):
        read_config(tmp_path)


def test_config_of_transformers_that_has_lost_its_model_type_is_not_taken_for_timms():
    # Its class names and sizes would not be looked at.
    values = {"architectures": ["LevitForImageClassification"], "id2label": {"0": "cat"}}
    with pytest.raises(ConfigError, match=r"no 'model_type'"):
        hints_from_config(values, "config.json")
