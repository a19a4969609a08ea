"""Statements of checkpoints about themselves: translated, compared, and refused in one line."""

import time

import pytest

from levit.errors import ConfigError
from levit.models.hints import Hints, hints_from_config
from levit.models.hints_merging import agreed, overruled, without_conflicts
from levit.models.stated import hints_from_file
from levit.models.stated.mmengine import read_assignments


def read(**said):
    return hints_from_file(said, "a.pth")[0]


# ---------------------------------------------------------------------------- args


def test_the_arguments_of_timms_training():
    hints = read(
        args={
            "model": "vit_tiny_patch16_224.augreg_in21k", "num_classes": 3, "gp": "avg",
            "in_chans": None, "img_size": 96, "input_size": None, "mean": [0.5], "std": None,
            "crop_pct": 1.0, "interpolation": "", "class_map": "names.txt", "lr": 1e-3,
            "model_kwargs": {"fc_norm": False, "depth": 2},
        },
        arch="vit_tiny_patch16_224.augreg_in21k",
    )  # fmt: skip
    assert (hints.architecture, hints.num_classes) == ("vit_tiny_patch16_224", 3)
    assert (hints.image_size, hints.in_channels) == ((96, 96), None)
    assert hints.transform == {"mean": (0.5,) * 3, "crop_pct": 1.0}
    assert hints.class_map == "names.txt"
    assert hints.arguments["model_args" if "model_args" in hints.arguments else "global_pool"]
    merged = {**hints.arguments, **hints.arguments.get("model_args", {})}
    assert (merged["global_pool"], merged["fc_norm"], merged["depth"]) == ("avg", False, 2)
    assert set(hints.origins.values()) == {"args in a.pth"}
    assert hints.conflicts == {}


@pytest.mark.parametrize(
    ("args", "size", "channels"),
    [
        ({"input_size": 384}, (384, 384), None),  # DeiT's
        ({"input_size": [1, 96, 64], "img_size": 224}, (96, 64), 1),
        ({"input_size": [1, 96, 64], "in_chans": 3}, (96, 64), 3),
        ({"img_size": [96, 64]}, (96, 64), None),
        ({"img_size": 256, "model_kwargs": {"img_size": 96}}, (96, 96), None),
        ({"img_size": 256, "model_kwargs": {"dynamic_img_size": True}}, None, None),
    ],
    ids=str,
)
def test_the_image_size_of_a_training(args, size, channels):
    hints = read(args=args)
    assert (hints.image_size, hints.in_channels) == (size, channels)


def test_an_argument_without_a_value_says_nothing():
    nothing = dict.fromkeys(("model", "mean", "std", "gp", "img_size", "num_classes"))
    assert read(args={**nothing, "interpolation": "", "crop_pct": 0, "class_map": ""}) == Hints()


def test_one_mean_is_for_every_channel():
    assert read(args={"mean": 0.5, "in_chans": 1}).transform == {"mean": (0.5,)}
    assert read(args={"mean": [0.5], "in_chans": 4}).transform == {"mean": (0.5,) * 4}


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"args": {"mean": [0.5, 0.4]}}, "args in a.pth: mean: 2 values for 3 channels"),
        ({"args": {"mean": "half"}}, "args in a.pth: mean: expected a list, not 'half'"),
        ({"args": {"num_classes": "3"}},
         "args in a.pth: num_classes: expected a whole number, not '3'"),
        ({"args": {"img_size": "96"}},
         "args in a.pth: img_size: expected a whole number, not '96'"),
        ({"args": {"input_size": [3, 96]}}, None),
        ({"args": {"model": 3}}, "args in a.pth: model: expected a string, not 3"),
        ({"args": {"gp": 3}}, "args in a.pth: gp: expected a string, not 3"),
        ({"args": {"model_kwargs": 3}}, "args in a.pth: model_kwargs: expected an object, not 3"),
        ({"args": {"input_img_mode": "YCbCr"}},
         "args in a.pth: input_img_mode 'YCbCr': only RGB, RGBA and L are supported"),
        ({"hyper_parameters": {"classes": ["a", "b"], "class_to_idx": {"a": 1, "b": 0}}},
         "hyper_parameters in a.pth: classes ['a', 'b'] and class_to_idx ['b', 'a'] contradict"),
        ({"hyper_parameters": {"num_classes": 2.5}},
         "hyper_parameters in a.pth: num_classes: expected a whole number"),
        ({"meta": {"dataset_meta": 3}}, "meta in a.pth: dataset_meta: expected an object, not 3"),
        ({"meta": {"dataset_meta": {"classes": [3]}}},
         "meta in a.pth: classes: expected a string, not 3"),
        ({"num_classes": -1}, "a.pth: num_classes: expected a whole number of at least 0, not -1"),
    ],
    ids=str,
)  # fmt: skip
def test_a_value_of_another_type_is_one_line(said, message):
    if message is None:
        assert read(**said).image_size == (3, 96)
        return
    with pytest.raises(ConfigError) as caught:
        read(**said)
    assert str(caught.value).startswith(message)
    assert str(caught.value).endswith("; where it means something else, save the weights alone: "
                                      "torch.save(model.state_dict(), …)")  # fmt: skip
    assert str(caught.value).isprintable()


# ---------------------------------------------------------------------------- people's own


@pytest.mark.parametrize(
    "names",
    [
        {"classes": ["cat", "dog"]},
        {"class_names": ("cat", "dog")},
        {"class_to_idx": {"dog": 1, "cat": 0}},
        {"idx_to_class": {1: "dog", 0: "cat"}},
        {"id2label": {"0": "cat", "1": "dog"}},
        {"classes": 2, "label_names": ["cat", "dog"]},
    ],
    ids=str,
)
@pytest.mark.parametrize("place", ["hyper_parameters", "hparams", "config", None])
def test_class_names_under_everybodys_keys(place, names):
    said = names if place is None else {place: names}
    hints = read(**said)
    assert hints.label_names == ("cat", "dog")
    assert hints.origins == {"label_names": f"{place} in a.pth" if place else "a.pth",
                             "arguments": f"{place} in a.pth" if place else "a.pth"}  # fmt: skip


def test_the_settings_of_lightning():
    hints = read(
        hyper_parameters={
            "model_name": "timm/levit_128s.fb_dist_in1k", "num_classes": 2, "img_size": 96,
            "lr": 1e-3, "mean": [0.5, 0.5, 0.5], "model": {"no": "name"}, "backbone": "resnet50",
        }
    )  # fmt: skip
    assert (hints.architecture, hints.num_classes) == ("levit_128s", 2)
    assert (hints.image_size, hints.transform) == ((96, 96), {"mean": (0.5,) * 3})


@pytest.mark.parametrize(
    "said",
    [
        {"arch": "visiontransformer"},  # the name of a class of timm, which train.py writes
        {"arch": "levit"},
        {"arch": "resnet50"},
        {"model_name": 3, "classes": 10, "class_to_idx": {"a": 1, "b": 2}},
        {"classes": [0, 1], "id2label": {"0": None}},
        {"global_pool": True, "fc_norm": 1, "act_layer": None, "model_args": "--gp avg"},
        {"args": ["--lr", "0.1"], "config": "configs/levit.yaml", "hparams": None},
    ],
    ids=str,
)
def test_what_may_mean_something_else_says_nothing(said):
    assert read(**said) == Hints()


def test_a_config_of_transformers_in_the_file():
    hints = read(config={"model_type": "vit", "num_labels": 3, "image_size": 96})
    assert (hints.model_type, hints.num_classes, hints.image_size) == ("vit", 3, (96, 96))


# ---------------------------------------------------------------------------- mmengine

CONFIG = """
data_preprocessor = dict(
    mean=[123.675, 116.28, 103.53], num_classes=10, std=[58.395, 57.12, 57.375], to_rgb=True)
model = dict(
    backbone=dict(arch='128s', drop_path_rate=-0.1, type='LeViT'),
    head=dict({'num_classes': 3, 'in channels': 384}, type='LeViTClsHead'))
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(backend='pillow', edge='short', interpolation='bilinear', scale=110, type='ResizeEdge'),
    dict(crop_size=96, type='CenterCrop'),
    dict(type='PackInputs'),
]
val_dataloader = dict(batch_size=64, dataset=dict(pipeline=[dict(type='Odd')]))
test_dataloader = dict(dataset=dict(pipeline=[
    dict(type='LoadImageFromFile'),
    dict(backend='pillow', edge='short', interpolation='bicubic', scale=111, type='ResizeEdge'),
    dict(crop_size=96, type='CenterCrop'),
    dict(type='PackInputs'),
]))
"""


def test_the_config_of_mmengine():
    said = {"meta": {"cfg": CONFIG, "dataset_meta": {"classes": ("a", "b", "c")}}}
    hints, notes = hints_from_file(said, "a.pth")
    assert hints.label_names == ("a", "b", "c")
    assert (hints.num_classes, notes) == (3, ())
    assert hints.data_preprocessor == {
        "mean": [123.675, 116.28, 103.53], "std": [58.395, 57.12, 57.375], "to_rgb": True,
    }  # fmt: skip
    assert hints.transform == {"resize_size": (111, 111), "interpolation": "bicubic"}


@pytest.mark.parametrize(
    ("config", "note"),
    [
        ("import os", "line 1 is no assignment"),
        ("a = __import__('os').system('touch x')", "line 1 is no plain value"),
        ("a = 1\nb = [open('x')]", "line 2 is no plain value"),
        ("a = f'{1}'", "line 1 is no plain value"),
        ("a = 10 ** 10 ** 10", "line 1 is no plain value"),
        ("a = dict(**b)", "line 1 is no plain value"),
        ("a.b = 1", "line 1 is no assignment"),
        ("a, b = 1, 2", "line 1 is no assignment"),
        ("a = -'x'", "line 1 is no plain value"),
        ("a = {[]: 1}", "a key is no text"),
        ("a = (", "line 1 is not Python"),
        ("a = '\0'", "not Python"),
        ("(" * 100, "too long or too deep"),
        ("x" * 2_000_000, "too long or too deep"),
        ("a = " + "-" * 200_000 + "1", None),
        ("a = 1" + "+1" * 200_000, None),
        ("a = " + "not " * 100_000 + "1", None),
        ("a = b" + ".c" * 200_000, None),
    ],
    ids=lambda value: str(value)[:40],
)
def test_a_config_that_is_no_plain_assignments_is_a_note(config, note):
    began = time.monotonic()
    hints, notes = hints_from_file({"meta": {"cfg": config, "CLASSES": ["a"]}}, "a.pth")
    assert time.monotonic() - began < 20
    assert hints.label_names == ("a",)
    assert len(notes) == 1
    expected = "meta in a.pth: the config could not be read as plain assignments ("
    assert notes[0].startswith(expected + (note or ""))
    assert notes[0].isprintable()


def test_assignments_are_values():
    found = read_assignments(
        "a = [1, -2, 2.5, 'x', None, True]\nb = (1,)\nc = dict(d={'e f': 1}, g=inf, h=-inf)\n"
        "i = 'two ' 'parts'\nj = dict()\nk = '\\d'"
    )
    assert found["a"] == [1, -2, 2.5, "x", None, True]
    assert found["c"] == {"d": {"e f": 1}, "g": float("inf"), "h": -float("inf")}
    assert (found["b"], found["i"], found["j"], found["k"]) == ((1,), "two parts", {}, "\\d")


@pytest.mark.parametrize(
    ("pipeline", "word"),
    [
        ("[dict(type='Resize')]", "a test_pipeline of ['Resize'] is not known"),
        ("[dict(type='LoadImageFromFile'), dict(scale=256, type='ResizeEdge'), "
         "dict(type='CenterCrop'), dict(type='PackInputs')]", "by 'cv2' is not known"),
    ],
)  # fmt: skip
def test_a_pipeline_of_another_kind_is_a_note(pipeline, word):
    _, (note,) = hints_from_file({"meta": {"cfg": f"test_pipeline = {pipeline}"}}, "a.pth")
    assert word in note
    assert "assumed" in note


# ---------------------------------------------------------------------------- several places

BESIDE = {
    "architecture": "levit_128s",
    "num_classes": 3,
    "label_names": ["a", "b", "c"],
    "pretrained_cfg": {"mean": [0.5, 0.5, 0.5], "crop_pct": 0.9, "input_size": [3, 224, 224]},
    "model_args": {"num_heads": 3, "act_layer": "silu"},
}


def both(**args):
    own = read(args=args, arch=args.get("model", "levit"))
    return agreed(own, hints_from_config(BESIDE, "folder/config.json", "config.json"))


def test_what_two_places_agree_on_has_one_origin_each():
    hints = both(model="LeViT-128S", num_classes=3, mean=[0.5], img_size=96)
    assert hints.conflicts == {}
    assert hints.label_names == ("a", "b", "c")
    assert hints.activation == "silu"
    assert hints.origins["label_names"] == hints.origins["activation"] == "config.json"
    assert hints.origins["image_size"] == hints.origins["num_classes"] == "args in a.pth"
    assert hints.arguments_from == "config.json and args in a.pth"
    assert hints.argument_origins["num_heads"] == "config.json"
    # timm's pretrained_cfg keeps the size of the weights that the training began with.
    assert (hints.image_size, hints.input_size) == ((96, 96), (224, 224))


@pytest.mark.parametrize(
    ("args", "name", "line"),
    [
        ({"num_classes": 5}, "num_classes",
         "args in a.pth says num_classes 5, config.json says 3: say which with --config FILE.json"),
        ({"mean": [0.4]}, "mean", "args in a.pth says mean (0.4, 0.4, 0.4), config.json says "
         "[0.5, 0.5, 0.5]: say which with --mean"),
        ({"crop_pct": 1.0}, "crop_pct",
         "args in a.pth says crop_pct 1.0, config.json says 0.9: say which with --crop-pct"),
        ({"model": "levit_256"}, "architecture", "args in a.pth says architecture 'levit_256', "
         "config.json says 'levit_128s': say which with --model"),
        ({"model_kwargs": {"num_heads": 4}, "lr": 1}, "num_heads",
         "args in a.pth says num_heads 4, config.json says 3: say which with --config FILE.json"),
    ],
    ids=str,
)  # fmt: skip
def test_a_contradiction_names_both_places_and_values(args, name, line):
    hints = both(**args)
    assert hints.conflicts == {name: line}
    assert without_conflicts(hints, {name}).conflicts == {}


@pytest.mark.parametrize(
    ("values", "args"),
    [
        ({"num_classes": 3}, {"num_classes": 5}),
        ({"num_heads": 4}, {"model_kwargs": {"num_heads": 4}}),
        ({"model_args": {"num_heads": 4}}, {"model_kwargs": {"num_heads": 4}}),
        ({"pretrained_cfg": {"mean": [0.4] * 3}}, {"mean": [0.4]}),
    ],
    ids=str,
)
def test_the_users_config_decides_a_contradiction(values, args):
    hints = both(**args)
    assert hints.conflicts
    hints = overruled(hints, hints_from_config(values, "--config x.json"))
    assert hints.conflicts == {}


def test_the_processor_of_transformers_is_compared_too():
    beside = Hints(preprocessor_config={"image_mean": 0.5, "image_std": [0.2] * 3})
    found = agreed(read(mean=[0.5] * 3, std=[0.3] * 3), beside.said_in("preprocessor_config.json"))
    assert found.conflicts == {
        "std": "a.pth says std (0.3, 0.3, 0.3), preprocessor_config.json says [0.2, 0.2, 0.2]: "
        "say which with --std"
    }


def test_the_users_config_overrules_key_by_key():
    hints = both(gp="avg", mean=[0.5], std=[0.2])
    by = hints_from_config(
        {"num_heads": 6, "num_classes": 7, "pretrained_cfg": {"mean": [0.1] * 3}}, "--config x.json"
    )
    found = overruled(hints, by)
    assert (found.arguments["num_heads"], found.arguments["global_pool"]) == (6, "avg")
    assert (found.num_classes, found.origins["num_classes"]) == (7, "--config x.json")
    assert found.label_names == ("a", "b", "c")
    assert found.argument_origins["num_heads"] == "--config x.json"
    assert found.argument_origins["global_pool"] == "args in a.pth"
    assert found.transform == {"std": (0.2,) * 3}
    assert found.pretrained_cfg["mean"] == [0.1] * 3


def test_a_config_of_transformers_replaces_the_arguments_of_timm():
    by = hints_from_config({"model_type": "vit", "num_attention_heads": 6}, "--config x.json")
    assert overruled(both(), by).arguments == {"model_type": "vit", "num_attention_heads": 6}
