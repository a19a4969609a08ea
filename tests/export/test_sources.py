"""Which model the options name: twins, empty stages, names, labels, and what is refused."""

import json
from dataclasses import replace

import numpy as np
import pytest
from safetensors.numpy import save_file

from levit.errors import CheckpointError, ConfigError, ExportError, VerificationError
from levit.export import ExportOptions, export
from levit.export.preprocessing import choose_preprocess
from levit.export.settings import choose_labels, imagenet_labels
from levit.export.sources import load_source
from levit.models.levit.arguments import config_from_arguments
from levit.models.levit.config import levit_config
from levit.models.ops import NumpyOps
from levit.models.random_weights import flatten, random_model
from levit.models.registry import FAMILIES, find_variant

LEVIT = FAMILIES["levit"]


@pytest.fixture
def save(tmp_path, seed):
    """(config, config.json beside it, changes of tensors) → (folder, model)."""

    def write(config, beside=None, change=lambda state: state):
        model = random_model(LEVIT, config, seed)
        keymap = next(k for k in LEVIT.keymaps if k.conv == config.conv)
        folder = tmp_path / "weights"
        folder.mkdir(exist_ok=True)
        save_file(change(flatten(model, keymap)), folder / "model.safetensors")
        if beside is not None:
            (folder / "config.json").write_text(json.dumps(beside))
        return folder, model

    return write


def variant(name, **changes):
    return replace(find_variant(name)[2].config, **changes)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("file", "name", "layout"),
    [
        ("levit_128s", "levit_conv_128s", "NCHW"),
        ("levit_conv_128s", "levit_128s", "NLC"),
        ("levit_conv_128s", None, "NCHW"),
    ],
)
def test_the_name_decides_the_form_of_a_twin(save, tmp_path, draw, file, name, layout):
    folder, model = save(variant(file, image_size=(48, 64), num_classes=5))
    options = ExportOptions(
        model=name,
        checkpoint=folder,
        image_size=(48, 64),
        outputs=("features",),
        output=tmp_path / "out",
    )
    artifact = export(options)
    assert artifact.manifest.variant == (name or file)
    assert artifact.manifest.outputs[0].layout == layout
    _, x = draw(model.config)
    mine = load_source(options).model.with_plan(outputs=("features",))
    found = mine.forward(NumpyOps(), x)["features"]
    theirs = model.with_plan(outputs=("features",)).forward(NumpyOps(), x)["features"]
    if found.ndim != theirs.ndim:
        found, theirs = (f if f.ndim == 3 else f.reshape(2, 384, -1).transpose(0, 2, 1)
                         for f in (found, theirs))  # fmt: skip
    assert np.abs(found - theirs).max() <= 1e-12 * np.abs(theirs).max()


@pytest.mark.parametrize("name", ["levit_digits", "levit_256"])
def test_another_architecture_under_a_name_is_refused(save, name):
    folder, _ = save(variant("levit_128s", image_size=(64, 64)))
    with pytest.raises(
        CheckpointError, match=f"is not a {name}: its shapes are those of levit_128"
    ):
        load_source(ExportOptions(model=name, checkpoint=folder, image_size=64))


def three_stages(depths):
    return levit_config(
        widths=(32, 48, 64), key_dim=16, heads=(2, 3, 4), depths=depths, num_classes=6,
        image_size=(96, 96),
    )  # fmt: skip


@pytest.mark.parametrize("depths", [(0, 1, 1), (0, 0, 1), (1, 0, 1)])
def test_stages_without_blocks(save, tmp_path, depths):
    config = three_stages(depths)
    folder, _ = save(config)
    options = ExportOptions(checkpoint=folder, image_size=96, output=tmp_path / "out")
    assert load_source(options).model.config == config
    assert export(options).manifest.verification["status"] == "passed"


@pytest.mark.peers
@pytest.mark.parametrize("depths", [(0, 1, 1), (1, 0, 1)])
def test_timm_agrees_on_stages_without_blocks(save, tmp_path, depths):
    config = three_stages(depths)
    folder, _ = save(config)
    artifact = export(
        ExportOptions(checkpoint=folder, image_size=96, output=tmp_path / "out", verify="source")
    )
    assert artifact.manifest.verification["source_library"]["max_relative_error"] < 1e-10


@pytest.mark.peers
def test_what_timm_cannot_build_is_one_line(save, tmp_path):
    config = levit_config(
        widths=(32, 48), key_dim=16, heads=(2, 3), depths=(1, 1), stem_convs=2, image_size=(32, 32),
        num_classes=3,
    )  # fmt: skip
    folder, _ = save(config)
    options = ExportOptions(checkpoint=folder, image_size=32, output=tmp_path / "out")
    export(options)
    with pytest.raises(ExportError, match="timm has no LeViT with 2 stem convolutions"):
        export(replace(options, output=tmp_path / "other", verify="source"))
    assert not (tmp_path / "other").exists()


def test_the_input_size_of_training_breaks_ties_only(save):
    config = levit_config(
        widths=(32, 48), key_dim=16, heads=(2, 3), depths=(1, 1), image_size=(64, 64), num_classes=3
    )
    folder, _ = save(config, {"pretrained_cfg": {"input_size": [3, 224, 224]}})
    with pytest.raises(ConfigError, match="say which with --image-size 64x64 or "):
        load_source(ExportOptions(checkpoint=folder))
    folder, _ = save(config, {"pretrained_cfg": {"input_size": [3, 64, 64]}})
    assert load_source(ExportOptions(checkpoint=folder)).model.config.image_size == (64, 64)


def test_a_stated_size_is_resized_though_another_has_as_many_tokens(save):
    config = levit_config(
        widths=(32, 48), key_dim=16, heads=(2, 3), depths=(1, 1), image_size=(64, 64), num_classes=3
    )
    asked = (32, 128)  # also 16 tokens and then 4
    folder, _ = save(config)
    source = load_source(ExportOptions(checkpoint=folder, image_size=asked))
    assert source.trained_size == asked
    assert any("as asked for (64x64 has the same tokens" in word for word in source.assumed)
    folder, _ = save(config, {"img_size": 64})
    source = load_source(ExportOptions(checkpoint=folder, image_size=asked))
    assert (source.trained_size, source.model.config.image_size) == ((64, 64), asked)


def test_the_pooling_subsample_is_refused_by_name(save, small_configs):
    folder, _ = save(small_configs["tiny"], {"model_args": {"use_pool": True}})
    with pytest.raises(ConfigError, match="use_pool"):
        load_source(ExportOptions(checkpoint=folder))


@pytest.mark.parametrize("name", ["/etc/x", "..", "a b", "", "x" * 100])
def test_a_name_from_a_file_is_no_path(save, small_configs, name):
    folder, _ = save(small_configs["tiny"], {"architecture": name, "img_size": 96})
    source = load_source(ExportOptions(checkpoint=folder))
    assert source.variant in ("levit_custom", "x")


@pytest.mark.parametrize("said", ["levit_256", "levit_digits"])
def test_a_config_that_names_another_variant_is_refused(save, small_configs, said):
    config = replace(small_configs["tiny"], num_classes=9)
    folder, _ = save(config, {"architecture": said, "img_size": 96})
    with pytest.raises(CheckpointError, match=f"says {said}, the weights are those of another"):
        load_source(ExportOptions(checkpoint=folder))


def test_random_weights_take_every_word_of_a_config(tmp_path):
    path = tmp_path / "c.json"
    path.write_text(json.dumps({"act_layer": "silu", "in_chans": 1, "num_classes": 4}))
    options = ExportOptions(model="levit_128s", random_weights=0, config=path, image_size=64)
    config = load_source(options).model.config
    assert (config.activation, config.attention_activation) == ("silu", "silu")
    assert (config.in_channels, config.num_classes, config.image_size) == (1, 4, (64, 64))


@pytest.mark.parametrize(
    ("said", "fields"),
    [
        ({"norm_eps": 1e-3, "num_heads": 6}, {"norm_eps": 1e-3, "heads": 6}),
        ({"hidden_act": "silu", "num_hidden_layers": 3}, {"activation": "silu", "depth": 3}),
        ({"model_args": {"global_pool": "avg"}}, {"pool": "avg", "fc_norm": True}),
        ({"reg_tokens": 4, "init_values": 1e-5}, {"registers": 4, "layer_scale": True}),
        ({"embed_dim": 96}, {"width": 96, "mlp_width": 384}),
    ],
    ids=str,
)
def test_random_weights_of_a_name_take_a_part_of_its_arguments(said, fields):
    options = ExportOptions(
        model="vit_tiny_patch16_224", random_weights=0, config=said, image_size=32
    )
    source = load_source(options)
    assert source.model.config == replace(
        variant("vit_tiny_patch16_224", image_size=(32, 32)), **fields
    )
    same = set(fields) <= {"norm_eps", "activation", "pool", "fc_norm"}
    assert source.variant == ("vit_tiny_patch16_224" if same else "vit_custom")


@pytest.mark.parametrize("said", [{"num_heads": [4, 6, 8]}, {"norm_eps": 1e-3}], ids=str)
def test_a_part_of_levits_arguments_is_no_network(said):
    (key,) = said
    with pytest.raises(ConfigError, match=f"--config states {key} of a LeViT: state all of"):
        load_source(ExportOptions(model="levit_128s", random_weights=0, config=said))


@pytest.mark.parametrize(
    ("said", "line"),
    [
        ({"num_heads": [2, 3, 5]},
         "--config says num_heads [2, 3, 5], the weights have [2, 3, 4]: correct that, or"),
        ({"depth": 9}, "--config says depth 9, the weights have ["),
        ({"norm_eps": 1e-3}, "--config: norm_eps is no argument of a LeViT: leave it out"),
        ({"global_pool": "max"}, "--config: global_pool is 'max', and only 'avg' is supported"),
    ],
    ids=str,
)  # fmt: skip
def test_a_part_of_levits_arguments_is_compared_with_the_weights(save, small_configs, said, line):
    folder, _ = save(small_configs["tiny"])
    with pytest.raises(ConfigError) as caught:
        load_source(ExportOptions(checkpoint=folder, config=said, image_size=96))
    assert line in str(caught.value)
    load_source(ExportOptions(checkpoint=folder, config={"num_heads": [2, 3, 4]}, image_size=96))


def test_timms_arguments_in_all_their_forms():
    arguments = dict(
        embed_dim=[32, 48], key_dim=16, num_heads=2, depth=(1, 2), attn_ratio=(2, 4),
        mlp_ratio=[2, 3], act_layer="hardswish", attn_act_layer="silu",
    )  # fmt: skip
    config = config_from_arguments(arguments, "c")
    assert [stage.block.heads for stage in config.stages] == [2, 2]
    assert [stage.block.value_dim for stage in config.stages] == [32, 64]
    assert [stage.block.mlp_width for stage in config.stages] == [64, 144]
    assert (config.activation, config.attention_activation) == ("hard_swish", "silu")
    with pytest.raises(ConfigError, match="depth has 3 entries for 2 stages"):
        config_from_arguments({**arguments, "depth": (1, 1, 1)}, "c")


def test_random_weights_under_a_name_have_its_widths(tmp_path):
    path = tmp_path / "c.json"
    path.write_text(json.dumps(dict(embed_dim=[32, 48], key_dim=16, num_heads=2, depth=1)))
    with pytest.raises(ConfigError, match="widths of another model than levit_128s"):
        load_source(ExportOptions(model="levit_128s", random_weights=0, config=path))


@pytest.mark.parametrize(
    "changes",
    [
        {"depth": [9, 9, 9]},
        {"key_dim": 8},
        {"embed_dim": [128, 256, 384], "num_heads": [4, 6, 8]},
        {"in_chans": 1},
        {"model_args": {"num_classes": 7}},
    ],
    ids=str,
)
def test_a_config_that_contradicts_the_weights_is_refused(save, small_configs, changes):
    stated = dict(
        embed_dim=[32, 48, 64], key_dim=16, num_heads=[2, 3, 4], depth=[2, 1, 1], img_size=96,
        num_classes=10,
    )  # fmt: skip
    folder, _ = save(small_configs["tiny"], stated)
    assert load_source(ExportOptions(checkpoint=folder)).variant == "levit_custom"
    folder, _ = save(small_configs["tiny"], {**stated, **changes})
    with pytest.raises(ConfigError, match="correct that"):
        load_source(ExportOptions(checkpoint=folder))


@pytest.mark.parametrize("keymap", LEVIT.keymaps, ids=lambda k: f"{k.source}-{k.prefix}{k.conv}")
@pytest.mark.parametrize("prefix", ["", "model.", "net.encoder."])
def test_the_name_of_a_wrapper_is_taken_off(tmp_path, make_small, keymap, prefix):
    model = make_small("conv" if keymap.conv else "tiny")
    bare = not keymap.prefix and keymap.source in ("transformers", "mmpretrain")
    if bare:  # a backbone has no heads
        model = make_small("headless")
    state = {prefix + name: value for name, value in flatten(model, keymap).items()}
    save_file(state, tmp_path / "model.safetensors")
    source = load_source(ExportOptions(checkpoint=tmp_path, image_size=96))
    assert replace(source.model.config, distilled=True) == replace(
        model.config, distilled=True, image_size=(96, 96)
    )
    assert source.keymap.source == keymap.source
    assert source.origin.get("prefix", "") in ("", prefix)


def test_a_wrapper_around_more_than_the_model_is_not_taken_off(save, small_configs):
    def wrap(state):
        return {f"model.{k}": v for k, v in state.items()} | {
            "teacher.weight": np.zeros(3, np.float32)
        }

    folder, _ = save(small_configs["tiny"], change=wrap)
    with pytest.raises(
        CheckpointError, match=r"a LeViT of timm under 'model\.' beside 1 other .*teacher\.weight"
    ):
        load_source(ExportOptions(checkpoint=folder, image_size=96))


@pytest.mark.parametrize(
    "changes",
    [{"key_dim": 8.9}, {"num_heads": [2.7, 3]}, {"depth": [1, True]}, {"distilled": "no"},
     {"depth": [1, 10**8]}, {"num_classes": 4.9}, {"embed_dim": ["32", 48]}],
    ids=str,
)  # fmt: skip
def test_arguments_of_another_kind_are_refused(changes):
    arguments = dict(embed_dim=[32, 48], key_dim=16, num_heads=2, depth=1)
    config_from_arguments(arguments, "c")
    with pytest.raises(ConfigError):
        config_from_arguments({**arguments, **changes}, "c")


# ---------------------------------------------------------------------------- labels


def test_a_thousand_classes_without_names_are_imagenets(save):
    folder, _ = save(variant("levit_128s", image_size=(64, 64)))
    options = ExportOptions(checkpoint=folder, image_size=64)
    labels, assumed = choose_labels(options, load_source(options))
    assert labels == imagenet_labels()
    assert len(labels) == 1000
    assert (labels[0], labels[281]) == ("tench, Tinca tinca", "tabby, tabby cat")
    assert "ImageNet" in assumed[0]


@pytest.mark.peers
def test_imagenets_names_are_in_timms_order():
    from timm.data import ImageNetInfo

    info = ImageNetInfo()
    lemmas = [info.label_name_to_description(n, detailed=False) for n in info.label_names()]
    assert tuple(lemmas) == imagenet_labels()


def test_other_classes_without_names_are_numbers_and_say_so(save, small_configs):
    folder, _ = save(small_configs["tiny"])
    options = ExportOptions(checkpoint=folder, image_size=96)
    labels, assumed = choose_labels(options, load_source(options))
    assert labels == tuple("0123456789")
    assert assumed == ("labels: the indices of the classes",)


@pytest.mark.parametrize(
    "changes", [{"preprocess": "timm"}, {"mean": (0, 0, 0)}, {"crop_pct": 0.9}], ids=str
)
def test_preprocessing_of_a_model_that_takes_no_images_is_refused(save, small_configs, changes):
    folder, _ = save(small_configs["five_channels"])
    options = ExportOptions(checkpoint=folder, image_size=(80, 64), **changes)
    with pytest.raises(ConfigError, match="5 channels takes tensors"):
        choose_preprocess(options, load_source(options))


# ---------------------------------------------------------------------------- numbers


def test_outputs_that_are_not_finite_are_refused_even_by_force(save, small_configs, tmp_path):
    def enlarge(state):
        # Large, and finite in float32; what comes out is not.
        return {
            k: v * np.float32(3e18) if k.endswith("bn.weight") and "stem" in k else v
            for k, v in state.items()
        }

    folder, _ = save(small_configs["tiny"], change=enlarge)
    options = ExportOptions(checkpoint=folder, image_size=96, output=tmp_path / "out", force=True)
    with np.errstate(all="ignore"), pytest.raises((VerificationError, ExportError), match="range"):
        export(options)
    assert not (tmp_path / "out").exists()


def test_a_weight_that_float32_cannot_hold_is_named(save, small_configs, tmp_path):
    folder, _ = save(
        small_configs["tiny"],
        change=lambda state: {k: v.astype(np.float64) for k, v in state.items()},
    )

    def grow(state):
        return {
            k: v.astype(np.float64) * (1e200 if k == "head.linear.weight" else 1)
            for k, v in state.items()
        }

    folder, _ = save(small_configs["tiny"], change=grow)
    options = ExportOptions(checkpoint=folder, image_size=96, output=tmp_path / "out", force=True)
    with pytest.raises(ExportError, match=r"head.weight: values leave the range of float32"):
        export(options)


def test_a_network_that_is_deaf_to_its_input_says_so(save, small_configs, tmp_path, capsys):
    from levit.cli import main

    def silence(state):
        return {k: v * 0 if k in _HEADS else v for k, v in state.items()}

    folder, _ = save(small_configs["tiny"], change=silence)
    command = ["export", "--checkpoint", str(folder), "--image-size", "96"]
    assert main([*command, "--output", str(tmp_path / "out")]) == 0
    assert "hardly depend on the picture" in capsys.readouterr().err


_HEADS = ("head.linear.weight", "head_dist.linear.weight")
