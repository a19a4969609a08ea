import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from levit.errors import CheckpointError, ConfigError, LevitError
from levit.models.checkpoint import StrictWeights
from levit.models.hints import Hints
from levit.models.levit.config import levit_config
from levit.models.levit.keymap import KEYMAPS, infer_config
from levit.models.registry import FAMILIES

LEVIT = FAMILIES["levit"]
DATA = Path(__file__).parent.parent / "data"


class Recorder:
    """Notes what a build asks for: the shapes of a checkpoint without its numbers."""

    def __init__(self):
        self.shapes = {}

    def tensor(self, key, shape):
        assert key not in self.shapes, f"{key} is asked for twice"
        self.shapes[key] = shape
        return np.broadcast_to(np.float32(1), shape)


def keymap_of(config):
    return next(keymap for keymap in KEYMAPS if keymap.conv == config.conv)


def shapes_of(config):
    recorder = Recorder()
    LEVIT.build(config, keymap_of(config), recorder)
    return recorder.shapes


def infer(config, **hints):
    return infer_config(shapes_of(config), keymap_of(config), Hints(**hints))


# ---------------------------------------------------------------------------- names


@pytest.mark.parametrize("name", ["levit_128s", "levit_conv_128s"])
def test_names_and_shapes_are_timms(name):
    lines = (DATA / f"timm_{name}.tsv").read_text().splitlines()
    timm = {key: (shape, kind) for key, shape, kind in (line.split("\t") for line in lines)}
    config = LEVIT.variants[name].config
    keymap = keymap_of(config)
    ours = {key: "x".join(map(str, shape)) for key, shape in shapes_of(config).items()}
    assert ours == {key: shape for key, (shape, _) in timm.items() if not keymap.ignores(key)}
    ignored = {key for key in timm if keymap.ignores(key)}
    assert all(key.endswith("num_batches_tracked") for key in ignored)
    assert len(ours) + len(ignored) == len(timm)


@pytest.mark.parametrize("name", LEVIT.variants)
def test_only_its_own_keymap_matches(name):
    config = LEVIT.variants[name].config
    matching = [keymap for keymap in KEYMAPS if keymap.matches(shapes_of(config))]
    assert matching == [keymap_of(config)]


FOREIGN = {
    "transformers": {
        "levit.patch_embeddings.embedding_layer_1.convolution.weight": (16, 3, 3, 3),
        "levit.encoder.stages.0.layers.0.module.queries_keys_values.linear.weight": (256, 128),
    },
    "facebookresearch": {
        "patch_embed.0.c.weight": (16, 3, 3, 3),
        "blocks.0.m.qkv.c.weight": (256, 128),
    },
    "mmpretrain": {
        "backbone.patch_embed.patch_embed.0.conv.weight": (16, 3, 3, 3),
        "backbone.stages.0.0.block.qkv.linear.weight": (256, 128),
    },
    "convit": {"cls_token": (1, 1, 192), "patch_embed.proj.weight": (192, 3, 16, 16)},
    "deit": {"dist_token": (1, 1, 192), "blocks.0.attn.qkv.weight": (576, 192)},
    "a stem and nothing else": {"stem.conv1.linear.weight": (16, 3, 3, 3)},
    "a stem of another rank": {
        "stem.conv1.linear.weight": (16, 27),
        "stages.0.blocks.0.attn.qkv.linear.weight": (256, 128),
    },
}


@pytest.mark.parametrize("shapes", FOREIGN.values(), ids=FOREIGN)
def test_foreign_names_match_no_keymap(shapes):
    assert not any(keymap.matches(shapes) for keymap in KEYMAPS)


@pytest.mark.parametrize(
    ("key", "ignored"),
    [
        ("stem.conv1.bn.num_batches_tracked", True),
        ("stages.0.blocks.0.attn.attention_bias_idxs", True),
        ("stages.1.downsample.attn_downsample.attention_bias_idxs", True),
        ("stages.0.blocks.0.attn.attention_biases", False),
        ("head.bn.running_var", False),
        ("num_batches_tracked", False),
    ],
)
def test_what_carries_nothing_is_ignored(key, ignored):
    assert [keymap.ignores(key) for keymap in KEYMAPS] == [ignored, ignored]


# ---------------------------------------------------------------------------- shapes → config


@pytest.mark.parametrize("name", LEVIT.variants)
def test_shapes_of_a_variant_give_its_config_back(name):
    config = LEVIT.variants[name].config
    found, assumed = infer(config)
    assert found == config
    # 28x28 tokens could be others too; 14x14 could not.
    sizes = [text for text in assumed if "image size" in text]
    assert len(sizes) == (config.stem_stride == 8)


@pytest.mark.parametrize("name", ["levit_128s", "levit_conv_192", "levit_512"])
@pytest.mark.parametrize("changes", [
    dict(num_classes=10), dict(num_classes=0, distilled=False), dict(distilled=False),
    dict(in_channels=1), dict(in_channels=5, num_classes=2),
])  # fmt: skip
def test_fine_tuned_variants_are_told_from_their_shapes(name, changes):
    config = replace(LEVIT.variants[name].config, **changes)
    found, assumed = infer(config)
    assert found == config
    assert assumed == []


@pytest.mark.parametrize(
    "name", ["tiny", "wide", "one_stage", "conv", "conv_wide", "plain", "one_channel"]
)
def test_small_configs_are_told_with_their_size(name, small_configs):
    config = small_configs[name]
    found, assumed = infer(config, image_size=config.image_size)
    assert found == config
    assert assumed == ["activation hard_swish: the paper's (no config says otherwise)"]


def test_activations_come_from_a_hint_or_the_variant(small_configs):
    config = small_configs["silu_stride_8"]
    assert infer(config, image_size=(40, 56))[0].activation == "hard_swish"
    found, assumed = infer(config, image_size=(40, 56), activation="silu")
    assert found == config
    assert assumed == []
    mixed, _ = infer(config, image_size=(40, 56), attention_activation="silu")
    assert (mixed.activation, mixed.attention_activation) == ("hard_swish", "silu")
    assert infer(LEVIT.variants["levit_512"].config)[0].activation == "silu"


# Squares come first.
CANDIDATES = ["256x256", "128x512", "512x128", "64x1024", "1024x64"]


@pytest.mark.parametrize("name", ["levit_128s", "levit_conv_256"])
def test_an_ambiguous_size_lists_the_candidates_and_the_flag(name):
    config = replace(LEVIT.variants[name].config, image_size=(256, 256))
    with pytest.raises(ConfigError, match="--image-size") as caught:
        infer(config)
    message = str(caught.value)
    assert "\n" not in message
    assert re.findall(r"\d+x\d+", message.split(":")[1]) == CANDIDATES


@pytest.mark.parametrize("size", [(256, 256), (128, 512), (512, 128), (64, 1024), (1024, 64)])
def test_a_hint_decides_between_the_candidates(size):
    config = replace(LEVIT.variants["levit_128s"].config, image_size=size)
    with pytest.raises(ConfigError):
        infer(config)
    assert infer(config, image_size=size)[0] == config


def test_a_hint_that_the_shapes_contradict_is_an_error():
    config = LEVIT.variants["levit_128s"].config
    with pytest.raises(
        ConfigError, match=r"trained at 224x224 pixels, not 384x384 as config\.json says"
    ):
        infer(config, image_size=(384, 384), image_size_from="config.json")


@given(
    height=st.integers(1, 12),
    width=st.integers(1, 12),
    depths=st.lists(st.integers(0, 2), min_size=1, max_size=4),
    heads=st.integers(1, 4),
    key_dim=st.sampled_from([4, 8, 16]),
    attention_ratio=st.sampled_from([1.0, 2.0, 4.0]),
    mlp_ratio=st.sampled_from([1.0, 2.0, 3.0]),
    stem_convs=st.integers(3, 5),
    classes=st.integers(0, 5),
    channels=st.integers(1, 6),
    conv=st.booleans(),
    distilled=st.booleans(),
)
@settings(max_examples=60, deadline=None)
def test_any_config_comes_back_from_its_shapes_and_size(
    height, width, depths, heads, key_dim, attention_ratio, mlp_ratio, stem_convs, classes,
    channels, conv, distilled,
):  # fmt: skip
    depths = [max(1, depths[0]), *depths[1:]]
    config = levit_config(
        widths=[32 + 32 * i for i in range(len(depths))],
        key_dim=key_dim,
        heads=[heads] * len(depths),
        depths=depths,
        image_size=(height * 2**stem_convs, width * 2**stem_convs),
        in_channels=channels,
        num_classes=classes,
        attention_ratio=attention_ratio,
        mlp_ratio=mlp_ratio,
        stem_convs=stem_convs,
        distilled=distilled and classes > 0,
        conv=conv,
    )
    found, _ = infer(config, image_size=config.image_size)
    assert found == config


# ---------------------------------------------------------------------------- damaged shapes


@pytest.mark.parametrize(
    ("key", "shape", "message"),
    [
        ("stages.0.blocks.0.attn.attention_biases", (32,), "an attention bias table is"),
        ("stages.0.blocks.0.attn.qkv.linear.weight", (127, 32), "do not divide among 2 heads"),
        ("stages.0.blocks.0.attn.proj.ln.linear.weight", (32,), "is no Linear"),
        ("stages.0.blocks.0.attn.attention_biases", (2, 35), "35 tokens in its blocks and 36"),
        ("stages.2.blocks.0.attn.attention_biases", (4, 7), "no image size gives the token counts"),
    ],
)
def test_odd_shapes_are_named(small_configs, key, shape, message):
    shapes = {**shapes_of(small_configs["tiny"]), key: shape}
    with pytest.raises(CheckpointError, match=message):
        infer_config(shapes, KEYMAPS[0], Hints())


@pytest.mark.parametrize(
    "key",
    [
        "stages.0.blocks.0.attn.attention_biases",
        "stages.1.downsample.attn_downsample.q.ln.linear.weight",
        "stages.0.blocks.0.mlp.ln1.linear.weight",
    ],
)
def test_a_missing_tensor_that_tells_the_config_is_named(small_configs, key):
    shapes = shapes_of(small_configs["tiny"])
    del shapes[key]
    with pytest.raises(CheckpointError, match="is the file complete") as caught:
        infer_config(shapes, KEYMAPS[0], Hints())
    assert repr(key) in str(caught.value)


def test_a_missing_downsampling_block_is_no_levit(small_configs):
    shapes = {
        key: shape
        for key, shape in shapes_of(small_configs["tiny"]).items()
        if not key.startswith("stages.1.downsample")
    }
    with pytest.raises(CheckpointError, match="does not begin with a downsampling block"):
        infer_config(shapes, KEYMAPS[0], Hints())


def test_a_stem_without_stages_is_said():
    with pytest.raises(CheckpointError, match="no stages"):
        infer_config({"stem.conv1.linear.weight": (16, 3, 3, 3)}, KEYMAPS[0], Hints())


TINY = levit_config(
    widths=(32, 48), key_dim=16, heads=(2, 3), depths=(1, 1), image_size=(64, 96), num_classes=3
)
TINY_SHAPES = shapes_of(TINY)


@given(
    key=st.sampled_from(sorted(TINY_SHAPES)),
    shape=st.none() | st.lists(st.integers(0, 70), max_size=5).map(tuple),
)
@settings(max_examples=300, deadline=None)
def test_one_wrong_tensor_is_an_error_of_ours_and_never_a_model(key, shape):
    shapes = dict(TINY_SHAPES)
    if shape is None:
        del shapes[key]
    elif shape == shapes[key]:
        return
    else:
        shapes[key] = shape
    tensors = {name: np.zeros(found, np.float32) for name, found in shapes.items()}
    with pytest.raises(LevitError) as caught:
        read(shapes, tensors)
    assert "\n" not in str(caught.value)


def read(shapes, tensors):
    config, _ = infer_config(shapes, KEYMAPS[0], Hints(image_size=(64, 96)))
    weights = StrictWeights(tensors)
    LEVIT.build(config, KEYMAPS[0], weights)
    weights.finish("model.safetensors", KEYMAPS[0].ignores)
