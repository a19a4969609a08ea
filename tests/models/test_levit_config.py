import json
import re
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from levit.errors import CheckpointError, ConfigError
from levit.models.counting import count
from levit.models.hints import Hints
from levit.models.levit import FAMILY
from levit.models.levit.arguments import config_from_arguments
from levit.models.levit.config import (
    VARIANTS,
    LevitConfig,
    grids_of_shapes,
    levit_config,
    same_architecture,
)
from levit.models.levit.infer import infer_config
from levit.models.random_weights import flatten, random_model

TINY = dict(widths=(32, 48, 64), key_dim=16, heads=(2, 3, 4), depths=(2, 1, 1))
ARGUMENTS = dict(embed_dim=[32, 48, 64], key_dim=16, num_heads=[2, 3, 4], depth=[2, 1, 1])


@pytest.mark.parametrize(
    ("size", "grids"),
    [
        ((224, 224), ((14, 14), (7, 7), (4, 4))),
        ((96, 96), ((6, 6), (3, 3), (2, 2))),
        ((64, 96), ((4, 6), (2, 3), (1, 2))),
        ((16, 16), ((1, 1), (1, 1), (1, 1))),
        ((80, 112), ((5, 7), (3, 4), (2, 2))),
    ],
)
def test_grids_halve_upwards(size, grids):
    config = levit_config(**TINY, image_size=size)
    assert config.grids == grids
    assert FAMILY.output_layout(config, "features") == ("NLC", (grids[-1][0] * grids[-1][1], 64))
    conv = replace(config, conv=True)
    assert FAMILY.output_layout(conv, "features") == ("NCHW", (64, *grids[-1]))


def test_a_stem_of_three_convolutions_has_stride_8():
    config = levit_config(**TINY, image_size=(40, 56), stem_convs=3)
    assert config.stem_stride == 8
    assert config.stem_widths == (8, 16, 32)
    assert config.grids[0] == (5, 7)


@pytest.mark.parametrize("size", [(225, 224), (224, 230), (100, 100), (4, 16), (0, 16), (-16, 16)])
@pytest.mark.parametrize("stem_convs", [3, 4])
def test_a_size_that_does_not_fit_names_sizes_that_do(size, stem_convs):
    stride = 2**stem_convs
    with pytest.raises(ConfigError, match=f"multiples of {stride}") as caught:
        levit_config(**TINY, image_size=size, stem_convs=stem_convs)
    message = str(caught.value)
    assert f"{size[0]}x{size[1]}" in message
    near = re.findall(r"(\d+)x(\d+)", message.split("such as")[1])
    assert len(near) == 2
    for height, width in near:
        levit_config(**TINY, image_size=(int(height), int(width)), stem_convs=stem_convs)


@pytest.mark.parametrize("name", ["relu", "", "HardSwish"])
def test_unknown_activations_are_refused(name):
    with pytest.raises(ConfigError, match="known: hard_swish, silu"):
        levit_config(**TINY, activation=name)
    with pytest.raises(ConfigError, match="known: hard_swish, silu"):
        replace(levit_config(**TINY), attention_activation=name)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(depths=(2, 10**9, 1)), "blocks in all stages"),
        (dict(depths=(1000, 1000, 1000)), "blocks in all stages"),
        (dict(heads=(2, 10**8, 4)), "weights is over the limit"),
        (dict(num_classes=10**9), "weights is over the limit"),
        (dict(in_channels=10**9), "weights is over the limit"),
        (dict(widths=(2**40, 2**40, 2**40)), "weights is over the limit"),
        (dict(image_size=(2**40, 16)), "tokens, over the limit"),
        (dict(image_size=(1552, 1536)), "tokens, over the limit"),
    ],
)
def test_sizes_far_beyond_use_are_refused_before_anything_is_made(changes, message):
    with pytest.raises(ConfigError, match=message):
        levit_config(**{**TINY, **changes})


@pytest.mark.parametrize("name", list(VARIANTS))
def test_every_variant_is_counted_rightly_and_has_room(name):
    config = VARIANTS[name].config
    matrices = config._weights()
    assert matrices == pytest.approx(count(FAMILY, config).parameters, rel=0.05)
    replace(config, image_size=(1024, 1024) if config.stem_stride == 16 else (512, 512))


def test_a_config_without_stages_or_with_a_broken_stem_is_refused():
    config = levit_config(**TINY)
    with pytest.raises(ConfigError, match="at least one stage"):
        replace(config, stages=())
    with pytest.raises(ConfigError, match="blocks of some size"):
        replace(config, stages=(replace(config.stages[0], block=None), *config.stages[1:]))
    with pytest.raises(ConfigError, match="every stage of a LeViT but the first"):
        replace(config, stages=config.stages[1:])
    with pytest.raises(ConfigError, match="last width"):
        replace(config, stem_widths=(4, 8, 16, 31))


def test_the_dictionary_is_json():
    config = levit_config(**TINY)
    values = json.loads(json.dumps(config.to_dict()))
    assert values["image_size"] == [224, 224]
    assert values["stages"][1]["downsample"] == {
        "heads": 2, "key_dim": 16, "value_dim": 64, "mlp_width": 96
    }  # fmt: skip


# ---------------------------------------------------------------------------- outputs


@pytest.mark.parametrize(
    ("changes", "outputs"),
    [
        ({}, ("logits", "embedding", "features", "logits_head", "logits_dist")),
        ({"distilled": False}, ("logits", "embedding", "features")),
        ({"num_classes": 0}, ("embedding", "features")),
        ({"num_classes": 0, "distilled": False}, ("embedding", "features")),
    ],
)
def test_outputs_follow_from_the_heads(changes, outputs):
    assert FAMILY.outputs(levit_config(**TINY, **changes)) == outputs


def test_an_unknown_output_names_those_there_are():
    with pytest.raises(ConfigError, match="it has logits, embedding, features"):
        FAMILY.output_layout(levit_config(**TINY), "pooled")


# ---------------------------------------------------------------------------- grids from counts


@given(st.integers(1, 20), st.integers(1, 20), st.lists(st.booleans(), min_size=0, max_size=3))
@settings(max_examples=100, deadline=None)
def test_the_true_grid_is_among_those_found(height, width, halves):
    downsamples = [False, *halves]
    tokens, h, w = [], height, width
    for halved in downsamples:
        if halved:
            h, w = -(-h // 2), -(-w // 2)
        tokens.append(h * w)
    found = grids_of_shapes(tokens, downsamples)
    assert (height, width) in found
    assert all(h * w == tokens[0] for h, w in found)
    assert len(set(found)) == len(found)
    # The nearest to a square comes first.
    ratios = [max(h / w, w / h) for h, w in found]
    assert ratios == sorted(ratios)


@pytest.mark.parametrize("size", [(1552, 1536), (16, 16 * 9217), (2**62, 2**62)])
def test_images_whose_tables_fill_the_memory_are_refused(size):
    with pytest.raises(ConfigError, match=r"makes [\d,]+ tokens, over the limit of 9,216"):
        levit_config(**TINY, image_size=size)
    levit_config(**TINY, image_size=(1536, 1536))


@pytest.mark.parametrize("tokens", [9217, 2**40])
def test_a_checkpoint_of_too_many_tokens_is_refused_before_anything_is_made_of_it(tokens):
    keymap = FAMILY.keymaps[0]
    model = random_model(FAMILY, levit_config(**TINY), 1)
    shapes = {key: value.shape for key, value in flatten(model, keymap).items()}
    for key, (heads, *_) in shapes.items():
        if key.endswith("attention_biases"):
            shapes[key] = (heads, tokens)
    with pytest.raises(CheckpointError, match=f"{tokens:,} tokens, over the limit"):
        infer_config(shapes, keymap, Hints())


def test_counts_that_no_grid_has_give_none():
    assert grids_of_shapes([36, 7], [False, True]) == []


# ---------------------------------------------------------------------------- timm's arguments


def test_timms_arguments_make_the_same_config():
    assert config_from_arguments(ARGUMENTS, "c") == levit_config(**TINY)


@pytest.mark.parametrize("nested", [False, True])
def test_every_argument_counts(nested):
    said = dict(
        ARGUMENTS, img_size=[80, 112], in_chans=1, num_classes=7, attn_ratio=1, mlp_ratio=3,
        stem_type="s8", act_layer="silu", distilled=False, use_conv=True,
    )  # fmt: skip
    found = config_from_arguments({"model_args": said} if nested else said, "c")
    assert found == levit_config(
        **TINY, image_size=(80, 112), in_channels=1, num_classes=7, attention_ratio=1, mlp_ratio=3,
        stem_convs=3, activation="silu", distilled=False, conv=True,
    )  # fmt: skip


@pytest.mark.parametrize(
    "changes",
    [
        {"embed_dim": None},
        {"embed_dim": "wide"},
        {"key_dim": "x"},
        {"num_heads": [2]},
        {"depth": [1, 1]},
        {"img_size": [1, 2, 3]},
        {"img_size": "224"},
        {"stem_type": "s4"},
        {"act_layer": "relu"},
        {"key_dim": 0},
    ],
    ids=str,
)
def test_arguments_of_no_levit_are_an_error_that_names_the_file(changes):
    with pytest.raises(ConfigError) as caught:
        config_from_arguments({**ARGUMENTS, **changes}, "my.json")
    assert "my.json" in str(caught.value) or "relu" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "changes",
    [
        {"key_dim": -16},
        {"key_dim": 64},  # a downsampling block without heads
        {"embed_dim": [4, 48, 64]},  # a stem convolution without channels
        {"num_heads": [0, 3, 4]},
        {"depth": [2, -1, 1]},
        {"attn_ratio": 0},
        {"mlp_ratio": -2},
        {"in_chans": 0},
        {"num_classes": -1},
    ],
    ids=str,
)
def test_numbers_below_one_are_refused(changes):
    with pytest.raises(ConfigError, match="must be positive"):
        config_from_arguments({**ARGUMENTS, **changes}, "my.json")


@pytest.mark.parametrize("name", ARGUMENTS)
def test_a_missing_argument_is_named(name):
    arguments = {key: value for key, value in ARGUMENTS.items() if key != name}
    with pytest.raises(ConfigError, match=name):
        config_from_arguments(arguments, "my.json")


@pytest.mark.parametrize("changes", [{"use_pool": True}, {"down_op": "pool"}])
def test_the_pooling_subsample_is_refused_by_name(changes):
    with pytest.raises(ConfigError, match="use_pool"):
        config_from_arguments({**ARGUMENTS, **changes}, "my.json")


# ---------------------------------------------------------------------------- same architecture


@pytest.mark.parametrize(
    "changes",
    [
        dict(num_classes=3), dict(distilled=False), dict(in_channels=1),
        dict(image_size=(96, 64)), dict(activation="silu", attention_activation="silu"),
    ],
    ids=str,
)  # fmt: skip
def test_fine_tuning_does_not_change_the_architecture(changes):
    config = levit_config(**TINY)
    assert same_architecture(config, replace(config, **changes))


@pytest.mark.parametrize(
    "other",
    [
        levit_config(**TINY, stem_convs=3),
        levit_config(**TINY, conv=True),
        levit_config(**TINY, mlp_ratio=3.0),
        levit_config(**{**TINY, "depths": (2, 1, 2)}),
        levit_config(**{**TINY, "heads": (2, 3, 5)}),
    ],
)
def test_another_shape_is_another_architecture(other):
    assert not same_architecture(levit_config(**TINY), other)


def test_the_variants_are_all_different():
    configs = [variant.config for variant in FAMILY.variants.values()]
    for i, one in enumerate(configs):
        assert [j for j, other in enumerate(configs) if same_architecture(one, other)] == [i]


def test_a_config_of_an_older_release_has_its_own_heads():
    config = levit_config(widths=(32, 48), key_dim=16, heads=(2, 3), depths=(1, 1))
    values = config.to_dict()
    assert (values.pop("head_norm"), values.pop("head_dist_norm")) == (True, True)
    assert LevitConfig.from_dict(values) == config
    assert not LevitConfig.from_dict({**values, "head_norm": False}).head_norm
    with pytest.raises(ConfigError, match="head_norm"):
        LevitConfig.from_dict({**values, "head_norm": 1})
