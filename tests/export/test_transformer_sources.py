"""Checkpoints of DeiT, ConViT and ViT: whose they are, and what is refused in one line."""

import functools
import json
import math
from dataclasses import replace

import numpy as np
import pytest
from safetensors.numpy import save_file

from levit.errors import CheckpointError, ConfigError, LevitError
from levit.export import ExportOptions, export
from levit.export.preprocessing import choose_preprocess
from levit.export.settings import choose_labels
from levit.export.sources import load_source
from levit.models.levit.config import levit_config
from levit.models.ops import NumpyOps
from levit.models.random_weights import flatten, random_model
from levit.models.registry import FAMILIES
from levit.models.transformer.config import TransformerConfig

DISTILLED = dict(distilled=True, distilled_head=True)
# Of the real tiny models but for depth and classes, which a test of names needs.
TINY = dict(width=192, heads=3, mlp_width=768, depth=12, num_classes=5, image_size=(32, 32))


def config_of(**changes):
    values = dict(
        image_size=(64, 64), patch_size=16, num_classes=7, width=128, depth=2, heads=2,
        mlp_width=96,
    )  # fmt: skip
    return TransformerConfig(**{**values, **changes})


CONVIT = dict(local_depth=1, qkv_bias=False)


def keymap_of(family, source, config, *, modules=False, prefix=None):
    """The family's names of a source, for this config."""
    for keymap in FAMILIES[family].keymaps:
        if keymap.source != source or keymap.distilled not in (None, config.distilled):
            continue
        if len(keymap.heads) < config.classifier_heads:
            continue
        if source == "transformers":
            if keymap.requires and not config.distilled_head:
                continue
            if (keymap.block.startswith("layers") is not modules) or (
                bool(keymap.prefix) is not (bool(config.num_classes) if prefix is None else prefix)
            ):
                continue
        return keymap
    raise AssertionError((family, source))


@functools.cache
def drawn(family, config, seed):
    """Nobody writes into it."""
    return random_model(FAMILIES[family], config, seed)


@pytest.fixture
def save(tmp_path, seed):
    """(family, config, …) → a folder with model.safetensors and what stands beside it."""

    def write(family, config, beside=None, *, source="timm", change=dict, **names):
        model = drawn(family, config, seed)
        state = flatten(model, keymap_of(family, source, config, **names))
        folder = tmp_path / "weights"
        folder.mkdir(exist_ok=True)
        save_file(dict(change(state)), folder / "model.safetensors")
        if beside is not None:
            (folder / "config.json").write_text(json.dumps(beside))
        return folder

    return write


def load(folder, **options):
    return load_source(ExportOptions(checkpoint=folder, **options))


@pytest.fixture
def refused(tmp_path):
    """(folder, words, options) → asserts one clear line, and that nothing is written."""

    def check(folder, *words, kind=LevitError, **options):
        before = sorted(tmp_path.iterdir())
        with pytest.raises(kind) as caught:
            export(ExportOptions(checkpoint=folder, output=tmp_path / "out", **options))
        message = str(caught.value)
        assert "\n" not in message
        assert all(word in message for word in words), message
        assert sorted(tmp_path.iterdir()) == before

    return check


def timm_says(name, **arguments):
    return {"architecture": name, "model_args": arguments}


# ---------------------------------------------------------------------------- whose it is


@pytest.mark.parametrize(
    ("family", "config", "beside"),
    [
        ("deit", config_of(), timm_says("deit_custom", num_heads=2)),
        ("vit", config_of(), timm_says("vit_custom", num_heads=2)),
        ("deit", config_of(**DISTILLED), timm_says("deit_other_distilled", num_heads=2)),
        ("deit", config_of(distilled=True, num_classes=0), timm_says("deit_bare", num_heads=2)),
        ("convit", config_of(**CONVIT), None),
        ("convit", config_of(**CONVIT), timm_says("convit_custom", num_heads=2)),
    ],
)
def test_timms_file_is_the_family_that_it_names(save, family, config, beside):
    source = load(save(family, config, beside))
    assert source.model.family.name == family
    assert source.model.config == config
    assert source.keymap.source == source.origin["format"] == "timm"
    assert source.variant == (f"{family}_custom" if beside is None else beside["architecture"])


@pytest.mark.parametrize("kind", ["deit", "vit"])
@pytest.mark.parametrize("how", ["model", "architecture", "repository"])
def test_a_name_or_a_config_tells_a_deit_from_a_vit(save, kind, how):
    name = f"{kind}_tiny_patch16_224"
    beside = timm_says(name) if how == "architecture" else None
    if how == "repository":
        beside = timm_says(f"timm/{name}")
    folder = save(kind, config_of(**TINY), beside)
    options = dict(model=name, image_size=32) if how == "model" else {}
    source = load(folder, **options)
    assert source.model.family.name == kind
    assert source.variant == name
    assert source.model.config.image_size == (32, 32)


def test_a_plain_checkpoint_without_a_name_is_refused(save, refused):
    folder = save("deit", config_of(**TINY))
    refused(
        folder, "its tensors are those of a DeiT or a ViT: the same network with another "
        "preprocessing; say which with --model deit or --model vit", kind=ConfigError,
    )  # fmt: skip


def test_a_name_of_neither_does_not_tell_them_apart(save, refused):
    refused(save("deit", config_of(), timm_says("my_net", num_heads=2)), "say which with --model")


def test_a_deit_and_a_vit_of_the_same_weights_differ_in_preprocessing_alone(save):
    folder = save("deit", config_of(**TINY))
    specs, models = [], []
    for name in ("deit_tiny_patch16_224", "vit_tiny_patch16_224"):
        options = ExportOptions(model=name, checkpoint=folder, image_size=32)
        source = load_source(options)
        specs.append(choose_preprocess(options, source)[0])
        models.append(source.model)
    assert models[0].config == models[1].config
    assert specs[0].mean == pytest.approx((0.485, 0.456, 0.406))
    assert specs[1].mean == (0.5, 0.5, 0.5)
    x = np.random.default_rng(0).standard_normal((1, 3, 32, 32))
    values = [model.forward(NumpyOps(), x)["logits"] for model in models]
    assert np.array_equal(*values)


@pytest.mark.parametrize("name", ["deit_tiny_patch16_224", "convit_tiny", "levit_128s"])
def test_a_vit_under_another_familys_name_is_refused(save, refused, name, levit):
    folder = save("vit", config_of(**dict(TINY, depth=3)), timm_says("vit_x", num_heads=3))
    refused(folder, f"is not a {name}", kind=CheckpointError, model=name, image_size=32)


def test_a_deit_under_a_levits_name_is_refused(save, refused):
    folder = save("deit", config_of(**dict(TINY, **DISTILLED)))
    refused(
        folder, "is not a levit_128s: its tensors are those of a DeiT; say --model deit",
        kind=CheckpointError, model="levit_128s",
    )  # fmt: skip


def test_a_levit_under_a_deits_name_is_refused(tmp_path, refused, levit, seed):
    config = levit_config(
        widths=(32, 48, 64), key_dim=16, heads=(2, 3, 4), depths=(1, 1, 1), num_classes=5,
        image_size=(96, 96),
    )  # fmt: skip
    state = flatten(random_model(levit, config, seed), levit.keymaps[0])
    folder = tmp_path / "weights"
    folder.mkdir()
    save_file(state, folder / "model.safetensors")
    refused(
        folder, "is not a deit_tiny_patch16_224", "a LeViT",
        kind=CheckpointError, model="deit_tiny_patch16_224", image_size=96,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("named", "found"),
    [
        ("deit_tiny_distilled_patch16_224", "deit_tiny_patch16_224"),
        ("deit_small_patch16_224", "deit_tiny_patch16_224"),
    ],
)
def test_another_deit_under_a_deits_name_is_refused(save, refused, named, found):
    folder = save("deit", config_of(**TINY))
    refused(folder, f"is not a {named}", f"those of {found}", model=named, image_size=32)


def test_a_distilled_deit_under_a_plain_ones_name_is_refused(save, refused):
    folder = save("deit", config_of(**dict(TINY, **DISTILLED)))
    refused(
        folder, "is not a deit_tiny_patch16_224", "those of deit_tiny_distilled_patch16_224",
        model="deit_tiny_patch16_224", image_size=32,
    )  # fmt: skip


@pytest.mark.parametrize("prefix", ["model.", "module.", "net.encoder.", "module.model."])
@pytest.mark.parametrize(
    ("family", "changes"), [("deit", DISTILLED), ("convit", CONVIT), ("vit", {})]
)
def test_the_name_of_a_wrapper_is_taken_off(save, prefix, family, changes):
    def wrap(state):
        return {prefix + name: value for name, value in state.items()}

    config = config_of(**changes)
    beside = timm_says(f"{family}_x", num_heads=2)
    source = load(save(family, config, beside, change=wrap))
    assert source.model.config == config
    assert source.model.family.name == family


def test_a_wrapper_around_more_than_the_model_is_not_taken_off(save, refused):
    def wrap(state):
        return {f"model.{k}": v for k, v in state.items()} | {"teacher.w": np.zeros(3, np.float32)}

    folder = save("deit", config_of(**DISTILLED), change=wrap)
    refused(folder, "a DeiT of timm under 'model.' beside 1 other", "teacher.w")


# ---------------------------------------------------------------------------- the original code


@pytest.mark.peers
@pytest.mark.parametrize(
    ("family", "model", "config"),
    [
        ("deit", "deit_tiny_patch16_224", config_of(**TINY)),
        ("deit", "deit_tiny_distilled_patch16_224", config_of(**dict(TINY, **DISTILLED))),
        (
            "convit",
            "convit_tiny",
            config_of(**dict(TINY, heads=4, local_depth=10, qkv_bias=False)),
        ),
    ],
)
def test_a_training_checkpoint_is_the_originals(tmp_path, seed, family, model, config):
    import torch

    state = flatten(drawn(family, config, seed), FAMILIES[family].keymaps[0])
    path = tmp_path / "checkpoint.pth"
    tensors = {key: torch.from_numpy(value) for key, value in state.items()}
    torch.save({"model": tensors, "epoch": 299}, path)
    options = ExportOptions(model=model, checkpoint=path, image_size=32)
    source = load_source(options)
    assert source.keymap.source == source.origin["format"] == "original"
    assert source.model.config == config
    spec, _ = choose_preprocess(options, source)
    assert spec.flavour == "original"
    # The same tensors, not under that key, are timm's.
    torch.save(tensors, path)
    assert load_source(options).keymap.source == "timm"


@pytest.mark.peers
def test_the_originals_own_weights_are_taken_before_their_average(tmp_path, seed):
    import torch

    config = config_of(**dict(TINY, **DISTILLED))
    state = flatten(random_model(FAMILIES["deit"], config, seed), FAMILIES["deit"].keymaps[0])
    tensors = {key: torch.from_numpy(value) for key, value in state.items()}
    zeros = {key: torch.zeros_like(value) for key, value in tensors.items()}
    path = tmp_path / "checkpoint.pth"
    torch.save({"model": tensors, "model_ema": zeros}, path)
    source = load_source(ExportOptions(checkpoint=path))
    assert source.origin["key"] == "model"
    assert source.keymap.source == "original"
    assert source.assumed[:2] == (
        "weights: model, which the main.py of facebookresearch evaluates",
        "not taken: model_ema",
    )


# ---------------------------------------------------------------------------- heads


def without(*names):
    return lambda state: {k: v for k, v in state.items() if not k.startswith(names)}


def test_a_distillation_token_without_its_head_is_refused(save, refused):
    folder = save(
        "deit",
        config_of(**DISTILLED),
        timm_says("deit_x", num_heads=2),
        change=without("head_dist"),
    )
    refused(folder, "dist_token", "head_dist.weight", "is the file complete", kind=CheckpointError)


def test_a_distillation_head_without_its_token_is_refused(save, refused):
    folder = save(
        "deit",
        config_of(**DISTILLED),
        timm_says("deit_x", num_heads=2),
        change=without("dist_token"),
    )
    refused(folder, "head_dist.weight", "no distillation token (dist_token)", kind=CheckpointError)


@pytest.mark.parametrize(
    "gone", ["norm.", "blocks.1.mlp.fc2", "pos_embed", "blocks.0.attn.proj.bias"]
)
def test_a_missing_tensor_is_named(save, refused, gone):
    config = config_of(**DISTILLED)
    folder = save("deit", config, timm_says("deit_x", num_heads=2), change=without(gone))
    if gone == "pos_embed":
        refused(folder, "no tensor 'pos_embed'", kind=CheckpointError)
    else:
        refused(folder, "missing", gone.rstrip("."), kind=CheckpointError)


def test_a_tensor_too_many_is_named(save, refused):
    folder = save(
        "deit",
        config_of(**DISTILLED),
        timm_says("deit_x", num_heads=2),
        change=lambda state: {**state, "blocks.0.extra": np.ones(128, np.float32)},
    )
    refused(folder, "not used by this model", "blocks.0.extra", kind=CheckpointError)


def test_a_layer_scale_of_one_block_alone_is_an_incomplete_file(save, refused):
    folder = save(
        "deit",
        config_of(),
        timm_says("deit_x", num_heads=2),
        change=lambda state: {**state, "blocks.0.ls1.gamma": np.ones(128, np.float32)},
    )
    refused(folder, "3 missing", "blocks.0.ls2.gamma, blocks.1.ls1.gamma", kind=CheckpointError)


def test_a_block_with_gates_behind_one_without_is_refused(save, refused):
    def swap(state):
        gated = {k: v for k, v in state.items() if k.startswith("blocks.0.")}
        plain = {k: v for k, v in state.items() if k.startswith("blocks.1.")}
        rest = {k: v for k, v in state.items() if k not in gated and k not in plain}
        second = {k.replace("blocks.0.", "blocks.2."): v for k, v in gated.items()}
        return {**rest, **gated, **plain, **second}

    refused(save("convit", config_of(**CONVIT), change=swap), "come first in a ConViT")


@pytest.mark.parametrize("heads", [2, 4, 8])
def test_gates_tell_the_heads_of_a_convit(save, heads):
    config = config_of(heads=heads, **CONVIT)
    assert load(save("convit", config)).model.config == config


def test_gates_that_a_config_contradicts_are_refused(save, refused):
    folder = save("convit", config_of(heads=4, **CONVIT), {"model_args": {"num_heads": 2}})
    refused(folder, "says 2 heads, the weights have 4", "correct that", kind=ConfigError)


@pytest.mark.parametrize("family", ["deit", "vit"])
def test_heads_that_nothing_tells_are_asked_for(save, refused, tmp_path, family):
    config = config_of(width=40)
    folder = save(family, config, timm_says(f"{family}_x"))
    refused(
        folder, "the number of attention heads is not in the shapes (a width of 40): say the one "
        """of the training, such as --config '{"num_heads": 1}' where a head has 40 channels""",
        kind=ConfigError,
    )  # fmt: skip
    said = tmp_path / "heads.json"
    said.write_text('{"num_heads": 2}')
    source = load(folder, config=said)
    assert source.model.config == config
    said.write_text('{"num_heads": 3}')
    refused(folder, "3 heads do not divide a width of 40", config=said)


def test_the_heads_of_a_variant_of_these_shapes_are_its(save):
    source = load(save("deit", config_of(**dict(TINY, **DISTILLED))))
    assert source.model.config.heads == 3
    assert source.variant == "deit_tiny_distilled_patch16_224"


# ---------------------------------------------------------------------------- image size


NAME = "deit_tiny_patch16_224"


@pytest.mark.slow
def test_another_size_than_the_names_is_refused_without_a_word(save, refused):
    folder = save("deit", config_of(**dict(TINY, image_size=(256, 256))))
    refused(
        folder, "was trained at 256x256 pixels and deit_tiny_patch16_224 takes 224x224",
        "--image-size 256x256 to keep its size", "--image-size 224x224 to have it resized",
        kind=ConfigError, model=NAME,
    )  # fmt: skip


def test_the_size_that_is_said_is_kept_or_made(save, tmp_path):
    folder = save("deit", config_of(**dict(TINY, image_size=(64, 64))))
    kept = load(folder, model=NAME, image_size=64)
    assert kept.model.config.image_size == (64, 64)
    assert "resized" not in kept.origin
    resized = load(folder, model=NAME, image_size=96)
    assert resized.model.config.image_size == (96, 96)
    assert resized.origin["resized"]["from"] == [64, 64]
    assert any("resized from 64x64 to 96x96" in word for word in resized.assumed)
    assert resized.trained_size == (64, 64)


@pytest.mark.parametrize(
    ("family", "changes", "size"),
    [("deit", DISTILLED, (96, 96)), ("vit", {}, (48, 80)), ("convit", CONVIT, (32, 32))],
)
def test_the_manifest_says_that_a_model_was_resized(save, tmp_path, family, changes, size):
    folder = save(family, config_of(**changes), timm_says(f"{family}_x", num_heads=2))
    artifact = export(ExportOptions(checkpoint=folder, image_size=size, output=tmp_path / "out"))
    said = artifact.manifest.source["resized"]
    assert (said["from"], said["to"]) == ([64, 64], list(size))
    assert said["how"][0] == "position embeddings: bicubic, antialiased, as timm"
    assert len(said["how"]) == 1 + (family == "convit")
    assert artifact.manifest.config["image_size"] == list(size)
    assert artifact.manifest.inputs[0].shape[2:] == size
    assert artifact.manifest.verification["status"] == "passed"
    assert artifact.manifest.preprocess.image_size == size


def test_a_size_in_the_config_other_than_the_weights_is_refused(save, refused):
    folder = save(
        "deit", config_of(**DISTILLED), timm_says("deit_x", num_heads=2, img_size=[96, 96])
    )
    refused(folder, "trained at 64x64 pixels (16 patches), not at 96x96", kind=ConfigError)


@pytest.mark.parametrize("size", [(8, 64), (65, 64), (15, 15), (100, 96)])
@pytest.mark.parametrize(
    ("family", "changes"), [("deit", DISTILLED), ("convit", CONVIT), ("vit", {})]
)
def test_a_size_that_does_not_divide_into_patches_is_refused(save, refused, family, changes, size):
    folder = save(family, config_of(**changes), timm_says(f"{family}_x", num_heads=2))
    near = "x".join(str(max(1, side // 16) * 16) for side in size)
    refused(
        folder, "does not divide into patches of 16 pixels", near, kind=ConfigError, image_size=size
    )


@pytest.mark.parametrize(("stated", "asked"), [(64, (32, 128)), ([32, 128], (64, 64))])
def test_the_stated_size_is_resized_though_another_has_as_many_patches(save, stated, asked):
    config = config_of(image_size=(64, 64), **DISTILLED)
    folder = save("deit", config, timm_says("deit_x", num_heads=2, img_size=stated))
    source = load(folder, image_size=asked)
    trained = (stated, stated) if isinstance(stated, int) else tuple(stated)
    assert (source.trained_size, source.model.config.image_size) == (trained, asked)


def test_a_size_that_only_the_user_states_is_assumed_aloud(save):
    folder = save("deit", config_of(image_size=(64, 64), **DISTILLED), timm_says("d", num_heads=2))
    source = load(folder, model="deit", image_size=(32, 128))
    assert source.trained_size == (32, 128)
    (said,) = [word for word in source.assumed if "image size" in word]
    assert said == (
        "image size of the training 32x128, as asked for (64x64 has the same tokens; --config "
        "'{\"img_size\": 64}' has the model resized from it)"
    )
    resized = load(folder, model="deit", image_size=(32, 128), config={"img_size": 64})
    assert resized.trained_size == (64, 64)


def test_patches_that_make_no_square_are_asked_for(save, refused):
    config = config_of(image_size=(32, 48), **DISTILLED)
    folder = save("deit", config, timm_says("deit_x", num_heads=2))
    refused(folder, "fit several image sizes: 16x96 or 32x48", "--image-size", kind=ConfigError)
    assert load(folder, image_size=(32, 48)).model.config == config
    folder = save("deit", config, timm_says("deit_x", num_heads=2, img_size=[32, 48]))
    assert load(folder).model.config == config
    assert "resized" not in load(folder).origin


def test_a_square_number_of_patches_is_a_square(save):
    folder = save("deit", config_of(**DISTILLED), timm_says("deit_x", num_heads=2))
    assert load(folder).model.config.image_size == (64, 64)


def test_sizes_of_other_than_square_patches_are_refused(save, refused):
    def flatter(state):
        return {**state, "patch_embed.proj.weight": np.zeros((128, 3, 16, 8), np.float32)}

    folder = save("deit", config_of(**DISTILLED), timm_says("d", num_heads=2), change=flatter)
    refused(folder, "patches of 16x8 pixels are not supported", kind=CheckpointError)


# ---------------------------------------------------------------------------- what timm can be told


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ({"global_pool": "max"}, "global_pool is 'max' (max pooling), which is not supported"),
        ({"global_pool": "avgmax"}, "(the mean of average and max pooling)"),
        ({"global_pool": "map"}, "global_pool is 'map' (attention pooling)"),
        ({"global_pool": ""}, "global_pool is '' (no pooling)"),
        ({"pool_include_prefix": True}, "pool_include_prefix is True, which is not supported"),
        ({"pos_embed": "none"}, "pos_embed is 'none', which is not supported"),
        ({"qk_norm": True}, "qk_norm is True, which is not supported"),
        ({"act_layer": "relu"}, "relu"),
        ({"class_token": False}, "class_token False, the weights have True"),
        ({"reg_tokens": 4}, "registers 4, the weights have 0"),
        ({"pre_norm": True}, "pre_norm True, the weights have False"),
        ({"init_values": 1e-5}, "layer_scale True, the weights have False"),
        ({"fc_norm": True}, "fc_norm True, the weights have False"),
        ({"proj_bias": False}, "proj_bias False, the weights have True"),
        ({"no_embed_class": True}, "fit several image sizes: 16x272 or 272x16"),
    ],
    ids=str,
)
def test_another_network_by_timms_arguments_is_refused(save, refused, said, words):
    folder = save("vit", config_of(), timm_says("vit_x", num_heads=2, **said))
    refused(folder, words, kind=ConfigError)


@pytest.mark.parametrize(
    ("said", "word"),
    [
        ({"embed_dim": 64}, "width 64, the weights have 128"),
        ({"depth": 12}, "depth 12, the weights have 2"),
        ({"patch_size": 8}, "patch_size 8, the weights have 16"),
        ({"mlp_ratio": 2, "embed_dim": 128}, "mlp_width 256, the weights have 96"),
        ({"qkv_bias": False}, "qkv_bias False, the weights have True"),
        ({"depth": 2.5}, "expected a whole number"),
        ({"num_heads": "two"}, "expected a whole number"),
        ({"num_classes": 3}, "7 classes, config.json says 3"),
        ({"in_chans": 1}, "3 input channels, config.json says 1"),
    ],
    ids=str,
)
def test_arguments_that_contradict_the_weights_are_refused(save, refused, said, word):
    folder = save("vit", config_of(), timm_says("vit_x", **{"num_heads": 2, **said}))
    refused(folder, word, kind=ConfigError)


def test_epsilon_and_activation_are_the_configs(save):
    beside = timm_says("vit_x", num_heads=2, norm_eps=1e-5, act_layer="silu")
    config = load(save("vit", config_of(), beside)).model.config
    assert (config.norm_eps, config.activation) == (1e-5, "silu")


# ---------------------------------------------------------------------------- transformers


def transformers_says(config, **changes):
    kind = "deit" if config.distilled else "vit"
    name = "DeiT" if config.distilled else "ViT"
    head = "ForImageClassification" if config.num_classes else "Model"
    said = {
        "model_type": kind,
        "architectures": [name + head + "WithTeacher" * config.distilled_head],
        "hidden_size": config.width,
        "num_hidden_layers": config.depth,
        "num_attention_heads": config.heads,
        "intermediate_size": config.mlp_width,
        "hidden_act": config.activation,
        "layer_norm_eps": config.norm_eps,
        "image_size": config.image_size[0],
        "patch_size": config.patch_size,
        "num_channels": config.in_channels,
        "qkv_bias": config.qkv_bias,
        "id2label": {str(i): f"class {i}" for i in range(config.num_classes)},
    }
    return {k: v for k, v in {**said, **changes}.items() if v is not None}


HUGGING = {
    "vit": ("vit", config_of(norm_eps=1e-12)),
    "teacher": ("deit", config_of(norm_eps=1e-12, **DISTILLED)),
    "class_token": ("deit", config_of(norm_eps=1e-12, distilled=True)),
    "vit_backbone": ("vit", config_of(norm_eps=1e-12, num_classes=0, pooler_width=128)),
    "deit_backbone": ("deit", config_of(norm_eps=1e-12, num_classes=0, distilled=True)),
}


@pytest.fixture
def save_hugging(save):
    def write(kind, *, change=dict, modules=False, **said):
        family, config = HUGGING[kind]
        beside = transformers_says(config, **said)
        return save(
            family, config, beside, source="transformers", change=change, modules=modules
        ), config

    return write


@pytest.mark.parametrize("modules", [False, True], ids=["old_names", "new_names"])
@pytest.mark.parametrize("kind", HUGGING)
def test_a_folder_of_transformers_is_read_with_its_config(save_hugging, kind, modules):
    folder, config = save_hugging(kind, modules=modules)
    options = ExportOptions(checkpoint=folder)
    source = load_source(options)
    assert source.model.config == config
    assert source.keymap.source == "transformers"
    assert source.model.family.name == HUGGING[kind][0]
    assert not any("epsilon" in word for word in source.assumed)
    if config.num_classes:
        labels, assumed = choose_labels(options, source)
        assert labels == tuple(f"class {i}" for i in range(7))
        assert assumed == ()


@pytest.mark.parametrize("modules", [False, True], ids=["old_names", "new_names"])
def test_the_names_of_files_and_of_modules_hold_the_same(save_hugging, modules):
    folder, config = save_hugging("teacher", modules=modules)
    from safetensors.numpy import load_file

    names = set(load_file(folder / "model.safetensors"))
    old, new = (
        "deit.encoder.layer.0.attention.attention.query.weight",
        "deit.layers.0.attention.q_proj.weight",
    )
    assert (old in names, new in names) == (not modules, modules)
    x = np.random.default_rng(1).standard_normal((1, 3, *config.image_size))
    expected = load(save_hugging("teacher", modules=not modules)[0]).model.forward(NumpyOps(), x)
    found = load(save_hugging("teacher", modules=modules)[0]).model.forward(NumpyOps(), x)
    assert np.array_equal(found["logits"], expected["logits"])


def test_a_bare_file_of_transformers_says_what_it_assumes(save):
    config = config_of(**dict(TINY, norm_eps=1e-12))
    source = load(save("vit", config, source="transformers"))
    assert source.model.config == config
    assert source.assumed == (
        """LayerNorm epsilon 1e-12: the default of transformers (another: --config """
        """'{"norm_eps": 1e-5}')""",
        """activation gelu: the default of transformers (another: --config """
        """'{"act_layer": "silu"}')""",
        "image size 32x32: a square (16x64 has the same tokens)",
    )


@pytest.mark.parametrize(
    ("kind", "said", "word"),
    [
        ("vit", {"hidden_size": 192}, "width 192, the weights have 128"),
        ("vit", {"num_hidden_layers": 12}, "depth 12, the weights have 2"),
        ("vit", {"intermediate_size": 128}, "mlp_width 128, the weights have 96"),
        ("vit", {"patch_size": 8}, "patch_size 8, the weights have 16"),
        ("vit", {"qkv_bias": False}, "qkv_bias False"),
        ("vit", {"num_attention_heads": 3}, "3 heads do not divide a width of 128"),
        ("vit", {"image_size": 224}, "trained at 64x64 pixels (16 patches), not at 224x224"),
        ("vit", {"num_channels": 1}, "3 input channels, config.json says 1"),
        ("vit", {"num_labels": 3, "id2label": None}, "7 classes, config.json says 3"),
        ("vit", {"id2label": {"0": "cat", "1": "dog"}}, "7 classes, config.json says 2"),
        ("vit", {"model_type": "beit"}, "is of a 'beit', which this release does not"),
        ("teacher", {"model_type": "vit_mae"}, "is of a 'vit_mae', which this release"),
        ("teacher", {"model_type": "levit"}, "is of a 'levit', its weights are a DeiT's"),
        ("vit", {"hidden_act": "relu"}, "unknown activation 'relu'"),
        ("vit", {"layer_norm_eps": "small"}, "expected a number"),
        ("vit", {"layer_norm_eps": 0}, "epsilon must be positive"),
        ("vit", {"model_type": None}, "no 'model_type'"),
        ("teacher", {"architectures": ["DeiTForImageClassification"]}, "classifier heads"),
        ("class_token", {"architectures": ["DeiTForImageClassificationWithTeacher"]},
         "1 classifier heads, config.json says 2"),
        ("teacher", {"architectures": ["DeiTModel"]}, "2 classifier heads, config.json says 0"),
    ],
)  # fmt: skip
def test_a_config_that_contradicts_its_weights_is_refused(save_hugging, refused, kind, said, word):
    load(save_hugging(kind)[0])
    refused(save_hugging(kind, **said)[0], word, kind=ConfigError)


def test_a_teachers_class_without_its_head_is_refused(save_hugging, refused):
    folder, _ = save_hugging("teacher", change=without("distillation_classifier"))
    refused(folder, "no distillation head (distillation_classifier.weight)", kind=CheckpointError)


def test_the_processor_is_the_familys_where_a_file_names_none(save_hugging):
    flavours = {}
    for kind in ("vit", "teacher"):
        folder, _ = save_hugging(kind)
        options = ExportOptions(checkpoint=folder)
        flavours[kind] = choose_preprocess(options, load_source(options))[0]
    assert {spec.flavour for spec in flavours.values()} == {"transformers"}
    assert flavours["vit"].mean == (0.5, 0.5, 0.5)
    assert flavours["vit"] != flavours["teacher"]


def test_a_processor_beside_the_weights_is_read(save_hugging):
    folder, _ = save_hugging("vit")
    (folder / "preprocessor_config.json").write_text(
        json.dumps(
            {
                "image_processor_type": "ViTImageProcessor",
                "size": {"height": 64, "width": 64},
                "image_mean": [0.1, 0.2, 0.3],
                "image_std": [0.4, 0.5, 0.6],
            }
        )
    )
    options = ExportOptions(checkpoint=folder)
    spec, assumed = choose_preprocess(options, load_source(options))
    assert spec.mean == (0.1, 0.2, 0.3)
    assert spec.std == (0.4, 0.5, 0.6)
    assert assumed == ()


@pytest.mark.parametrize("prefix", ["model.", "module."])
def test_a_wrapped_file_of_transformers_is_read(save_hugging, prefix):
    folder, config = save_hugging(
        "teacher", change=lambda state: {prefix + k: v for k, v in state.items()}
    )
    assert load(folder).model.config == config


@pytest.mark.parametrize("kind", ["vit", "teacher"])
def test_a_resized_model_of_transformers_says_so(save_hugging, kind, tmp_path):
    folder, _ = save_hugging(kind)
    artifact = export(ExportOptions(checkpoint=folder, image_size=96, output=tmp_path / "out"))
    assert artifact.manifest.source["resized"]["to"] == [96, 96]


# ---------------------------------------------------------------------------- the whole way


@pytest.mark.parametrize(
    ("family", "changes", "outputs"),
    [
        ("deit", DISTILLED, ("logits", "logits_head", "logits_dist")),
        ("deit", dict(distilled=True, num_classes=0), ("embedding", "features")),
        ("convit", CONVIT, ("logits", "embedding", "features")),
        ("vit", dict(in_channels=1), ("embedding", "logits")),
    ],
)
def test_an_export_gives_the_outputs_that_are_asked_for(save, tmp_path, family, changes, outputs):
    folder = save(family, config_of(**changes), timm_says(f"{family}_x", num_heads=2))
    artifact = export(ExportOptions(checkpoint=folder, outputs=outputs, output=tmp_path / "out"))
    assert [output.name for output in artifact.manifest.outputs] == list(outputs)
    assert artifact.manifest.family == family
    assert artifact.manifest.variant == f"{family}_x"
    assert artifact.manifest.verification["status"] == "passed"


@pytest.mark.parametrize("output", ["logits_head", "pooled", "features_dist"])
def test_an_output_that_the_model_does_not_have_is_refused(save, refused, output):
    folder = save("vit", config_of(), timm_says("vit_x", num_heads=2))
    refused(
        folder, f"no output {output!r}; it has logits, embedding, features",
        kind=ConfigError, outputs=("logits", output),
    )  # fmt: skip


def test_nan_in_a_tensor_is_named(save, refused):
    def spoil(state):
        return {k: v * np.nan if k == "cls_token" else v for k, v in state.items()}

    folder = save("vit", config_of(), timm_says("vit_x", num_heads=2), change=spoil)
    refused(folder, "NaN or infinite values in cls_token", kind=CheckpointError)


def test_a_checkpoint_of_too_many_tokens_is_refused(save, refused):
    def grow(state):
        return {**state, "pos_embed": np.zeros((1, 2 + 97 * 97, 128), np.float32)}

    folder = save("deit", config_of(**DISTILLED), timm_says("d", num_heads=2), change=grow)
    refused(folder, "9,409 tokens, over the limit")


def test_half_precision_tensors_are_widened(save):
    folder = save(
        "vit", config_of(), timm_says("vit_x", num_heads=2),
        change=lambda state: {k: v.astype(np.float16) for k, v in state.items()},
    )  # fmt: skip
    assert load(folder).model.params.norm.weight.dtype == np.float32


@pytest.mark.peers
@pytest.mark.parametrize(
    ("family", "changes"),
    [("deit", {}), ("deit", DISTILLED), ("convit", CONVIT), ("vit", {}), ("vit", TINY)],
)
def test_verify_source_compares_with_timm(save, tmp_path, family, changes):
    config = config_of(**changes)
    folder = save(family, config, timm_says(f"{family}_x", num_heads=config.heads))
    artifact = export(ExportOptions(checkpoint=folder, output=tmp_path / "out", verify="source"))
    said = artifact.manifest.verification["source_library"]
    assert said["library"] == "timm"
    assert said["max_relative_error"] <= 1e-11


@pytest.mark.peers
@pytest.mark.parametrize("kind", HUGGING)
def test_verify_source_compares_with_transformers(save_hugging, tmp_path, kind):
    folder, config = save_hugging(kind)
    outputs = ("logits",) if config.num_classes else ("features",)
    artifact = export(
        ExportOptions(checkpoint=folder, output=tmp_path / "out", verify="source", outputs=outputs)
    )
    said = artifact.manifest.verification["source_library"]
    assert said["library"] == "transformers"
    assert said["max_relative_error"] <= 1e-11


@pytest.mark.parametrize(
    ("name", "pixels", "classes"),
    [("deit_tiny_patch16_224", 32, 4), ("convit_tiny", 32, 4), ("vit_tiny_patch16_224", 48, 0)],
)
def test_random_weights_of_a_variant_take_a_size_and_classes(tmp_path, name, pixels, classes):
    said = tmp_path / "c.json"
    said.write_text(json.dumps({"num_classes": classes}))
    options = ExportOptions(model=name, random_weights=0, image_size=pixels, config=said)
    config = load_source(options).model.config
    family = next(f for f in FAMILIES.values() if name in f.variants)
    expected = replace(
        family.variants[name].config, image_size=(pixels, pixels), num_classes=classes
    )
    assert config == expected
    assert math.prod(config.grid) == (pixels // 16) ** 2
