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
from levit.models.levit.infer import infer_config
from levit.models.levit.keymap import KEYMAPS
from levit.models.registry import FAMILIES

LEVIT = FAMILIES["levit"]
DATA = Path(__file__).parent.parent / "data"


class Recorder:
    """Notes what a build asks for: the shapes of a checkpoint without its numbers."""

    def __init__(self):
        self.shapes = {}
        self.constants = {}

    def tensor(self, key, shape):
        assert key not in self.shapes, f"{key} is asked for twice"
        self.shapes[key] = shape
        return np.broadcast_to(np.float32(1), shape)

    def constant(self, key, value):
        assert key not in self.constants, f"{key} is asked for twice"
        self.constants[key] = value


def keymap_of(config, source="timm"):
    """The whole model's, where a source has another for the backbone alone."""
    return next(k for k in KEYMAPS if k.conv == config.conv and k.source == source)


def recorded(config, keymap):
    recorder = Recorder()
    LEVIT.build(config, keymap, recorder)
    return recorder


def shapes_of(config, source="timm"):
    return recorded(config, keymap_of(config, source)).shapes


def infer(config, source="timm", **hints):
    return infer_config(shapes_of(config, source), keymap_of(config, source), Hints(**hints))


# ---------------------------------------------------------------------------- names


@pytest.mark.parametrize(
    ("file", "source", "name", "changes"),
    [
        ("timm_levit_128s", "timm", "levit_128s", {}),
        ("timm_levit_conv_128s", "timm", "levit_conv_128s", {}),
        ("facebookresearch_LeViT_128S", "original", "levit_128s", {}),
        ("mmpretrain_levit_128s", "mmpretrain", "levit_128s", {}),
        ("transformers_levit_128S", "transformers", "levit_128s", {"distilled": False}),
        ("transformers_levit_128S_with_teacher", "transformers", "levit_128s", {}),
    ],
)
def test_names_and_shapes_are_the_sources(file, source, name, changes):
    lines = (DATA / f"{file}.tsv").read_text().splitlines()
    theirs = {key: shape for key, shape, _ in (line.split("\t") for line in lines)}
    config = replace(LEVIT.variants[name].config, **changes)
    keymap = keymap_of(config, source)
    ours = recorded(config, keymap)
    indices = {key for key in theirs if key.endswith("attention_bias_idxs")}
    ignored = {key for key in theirs if keymap.ignores(key)}
    assert {key: "x".join(map(str, shape)) for key, shape in ours.shapes.items()} == {
        key: shape for key, shape in theirs.items() if key not in ignored | indices
    }
    assert all(key.endswith("num_batches_tracked") for key in ignored)
    for key in indices:
        assert "x".join(map(str, ours.constants[key].shape)) == theirs[key]
    parsed = {key: tuple(map(int, s.split("x"))) for key, s in theirs.items() if s != "scalar"}
    assert [k for k in KEYMAPS if k.matches(parsed)] == [keymap]
    assert infer_config(parsed, keymap, Hints())[0] == config


@pytest.mark.parametrize("keymap", KEYMAPS, ids=lambda k: f"{k.source}-{k.prefix}{k.conv}")
@pytest.mark.parametrize("depths", [(2, 3, 4), (0, 1, 0), (1,), (0, 0, 2), (3, 0)])
def test_every_source_counts_its_blocks_and_gives_the_config_back(keymap, depths):
    config = levit_config(
        widths=(32, 48, 64)[: len(depths)],
        key_dim=16,
        heads=(2, 3, 4)[: len(depths)],
        depths=depths,
        image_size=(96, 96),
        num_classes=7,
        distilled=True,
        conv=keymap.conv,
    )
    shapes = recorded(config, keymap).shapes
    assert [k for k in KEYMAPS if k.matches(shapes)] == [keymap]
    found, _ = infer_config(shapes, keymap, Hints(image_size=(96, 96)))
    assert found == config


@pytest.mark.parametrize("name", LEVIT.variants)
def test_only_its_own_keymap_matches(name):
    config = LEVIT.variants[name].config
    matching = [keymap for keymap in KEYMAPS if keymap.matches(shapes_of(config))]
    assert matching == [keymap_of(config)]


FOREIGN = {
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
        ("stages.0.blocks.0.attn.attention_bias_idxs", False),
        ("stages.0.blocks.0.attn.attention_biases", False),
        ("head.bn.running_var", False),
        ("num_batches_tracked", False),
    ],
)
def test_what_carries_nothing_is_ignored(key, ignored):
    assert {keymap.ignores(key) for keymap in KEYMAPS} == {ignored}


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
    silu = LEVIT.variants["levit_512"].config
    assert infer(silu)[0].activation == "silu"
    # Their code knows hard_swish only, whatever timm's variant of these widths has.
    for source in ("transformers", "original", "mmpretrain"):
        assert infer(silu, source)[0].activation == "hard_swish"


# Squares come first.
CANDIDATES = ["256x256", "128x512", "512x128", "64x1024", "1024x64"]


@pytest.mark.parametrize("name", ["original", "mmpretrain", "transformers"])
def test_a_size_is_square_where_the_source_has_no_other(name):
    config = replace(LEVIT.variants["levit_128s"].config, image_size=(256, 256))
    assert infer(config, name)[0].image_size == (256, 256)


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
        infer(config, image_size=(384, 384), origins={"image_size": "config.json"})


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
    with pytest.raises(CheckpointError, match="stage 1 does not begin with a downsampling block"):
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


def test_stored_indices_must_be_the_grids():
    config = replace(TINY, image_size=(96, 96))
    keymap = keymap_of(config, "original")
    recorder = recorded(config, keymap)
    stored = {name: np.zeros(shape, np.float32) for name, shape in recorder.shapes.items()}
    stored |= {name: value.copy() for name, value in recorder.constants.items()}
    weights = StrictWeights(stored)
    LEVIT.build(config, keymap, weights)
    weights.finish("a.pth", keymap.ignores)
    other = "blocks.2.attention_bias_idxs"
    stored[other][0, 1] += 1
    weights = StrictWeights(stored)
    LEVIT.build(config, keymap, weights)
    with pytest.raises(CheckpointError, match=f"other indices than this model's: {other}$"):
        weights.finish("a.pth", keymap.ignores)


def read(shapes, tensors):
    config, _ = infer_config(shapes, KEYMAPS[0], Hints(image_size=(64, 96)))
    weights = StrictWeights(tensors)
    LEVIT.build(config, KEYMAPS[0], weights)
    weights.finish("model.safetensors", KEYMAPS[0].ignores)
