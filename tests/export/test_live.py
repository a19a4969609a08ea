"""A network in memory, of timm or transformers, compiled as if it had been saved."""

import copy
import functools
import importlib
from types import SimpleNamespace

import numpy as np
import pytest
from parity import relative_error, run_artifact

from levit.errors import CheckpointError, ConfigError, LevitError
from levit.export import ExportOptions, export
from levit.export.live import read_module
from levit.export.preprocessing import choose_preprocess
from levit.export.sources import load_source
from levit.models.levit.config import levit_config
from levit.models.levit.networks import timm_arguments
from levit.models.ops import NumpyOps
from levit.models.pictures import smooth_pictures, standardized
from levit.models.random_weights import flatten, random_model
from levit.models.registry import FAMILIES
from levit.models.transformer.config import TransformerConfig

pytestmark = pytest.mark.peers

REFERENCE = 1e-10
DEPLOYED = 1e-5

SLIM = dict(depth=2, embed_dim=48)
TIMM = {
    "deit_tiny_patch16_224": "deit",
    "deit_tiny_distilled_patch16_224": "deit",
    "convit_tiny": "convit",
    "vit_tiny_patch16_224": "vit",
}


@functools.cache
def drawn(family, config, seed):
    """Nobody writes into it."""
    return random_model(FAMILIES[family], config, seed)


def filled(network, family, config, seed, source):
    """The network with weights on which a comparison means something."""
    import torch

    model = drawn(family, config, seed)
    shapes = {key: tuple(value.shape) for key, value in network.state_dict().items()}
    keymap = next(k for k in FAMILIES[family].keymaps if k.source == source and k.matches(shapes))
    state = {key: torch.from_numpy(value) for key, value in flatten(model, keymap).items()}
    loaded = network.load_state_dict(state, strict=False)
    assert loaded.unexpected_keys == []
    assert all("num_batches_tracked" in key for key in loaded.missing_keys)
    return network.eval()


def timm_config(name, **changes):
    convit = dict(width=96, mlp_width=384, heads=2, local_depth=1, qkv_bias=False)
    values = dict(
        image_size=(64, 64), patch_size=16, num_classes=7, width=96, depth=2, heads=2,
        mlp_width=384, distilled="distilled" in name, distilled_head="distilled" in name,
    )  # fmt: skip
    return TransformerConfig(**{**values, **(convit if "convit" in name else {}), **changes})


@pytest.fixture
def of_timm(seed):
    """(name) → timm's network of two narrow blocks, by create_model."""

    def make(name, overlay=None, **arguments):
        import timm

        config = timm_config(name)
        # Narrower than what is called so.
        overlay = {"architecture": f"{TIMM[name]}_narrow", **(overlay or {})}
        own = dict(embed_dim=96, depth=2, num_heads=2)
        if name == "convit_tiny":
            own |= dict(embed_dim=48, local_up_to_layer=1)
        network = timm.create_model(
            name,
            pretrained=False,
            pretrained_cfg_overlay=overlay,
            num_classes=7,
            img_size=64,
            **{**own, **arguments},
        )
        return filled(network, TIMM[name], config, seed, "timm"), config

    return make


@pytest.fixture
def of_transformers(seed):
    """(class, changes of the config) → transformers' network."""

    def make(name, **said):
        transformers = importlib.import_module("transformers")
        kind = "DeiT" if name.startswith("DeiT") else "ViT"
        arguments = dict(
            image_size=64, hidden_size=96, num_hidden_layers=2, num_attention_heads=2,
            intermediate_size=192, id2label={i: f"class {i}" for i in range(7)},
            label2id={f"class {i}": i for i in range(7)},
        )  # fmt: skip
        network = getattr(transformers, name)(
            getattr(transformers, f"{kind}Config")(**{**arguments, **said})
        )
        headless = name.endswith("Model")
        config = TransformerConfig(
            image_size=(64, 64), patch_size=16, num_classes=0 if headless else 7, width=96,
            depth=2, heads=2, mlp_width=192, norm_eps=said.get("layer_norm_eps", 1e-12),
            distilled=kind == "DeiT", distilled_head=name.endswith("Teacher"),
            pooler_width=96 if headless else 0, activation=said.get("hidden_act", "gelu"),
        )  # fmt: skip
        return filled(network, kind.lower(), config, seed, "transformers"), config

    return make


@pytest.fixture
def tensors(rng):
    return standardized(smooth_pictures(rng, 2, (64, 64)))


def answer(network, x):
    import torch

    with torch.no_grad():
        exact = copy.deepcopy(network).eval().float().double()
        return exact(torch.from_numpy(x).double())


def assert_exports(network, x, expected, folder, limit=DEPLOYED, **options):
    """The artifact and the reference give what the network gives."""
    outputs = tuple(expected)
    settings = ExportOptions(outputs=outputs, output=folder, **options)
    source = load_source(settings, network)
    reference = source.model.with_plan(outputs=outputs).forward(NumpyOps(), x.astype(np.float64))
    artifact = export(settings, model=network)
    deployed = run_artifact(artifact, x)
    for name, value in expected.items():
        value = value.numpy()
        assert np.ptp(value, axis=0).max() > 0.02 * np.abs(value).max(), "a deaf network"
        assert relative_error(reference[name], value) <= REFERENCE
        assert relative_error(deployed[name], value) <= limit
    assert artifact.manifest.verification["status"] == "passed"
    return artifact


# ---------------------------------------------------------------------------- timm


@pytest.mark.parametrize("name", TIMM)
def test_a_network_of_timm_is_exported(of_timm, tensors, tmp_path, name):
    network, config = of_timm(name)
    expected = {"logits": answer(network, tensors)}
    artifact = assert_exports(network, tensors, expected, tmp_path / "out")
    assert artifact.manifest.family == TIMM[name]
    assert load_source(ExportOptions(), network).model.config == config
    assert artifact.manifest.source["format"] == "timm"
    assert artifact.manifest.source["module"].startswith("timm.models.")


def test_a_levit_of_timm_is_exported(tmp_path, seed, rng):
    from timm.models.levit import LevitDistilled

    config = levit_config(
        widths=(32, 48, 64), key_dim=16, heads=(2, 3, 4), depths=(1, 1, 1), num_classes=7,
        image_size=(96, 96),
    )  # fmt: skip
    network = filled(LevitDistilled(**timm_arguments(config)), "levit", config, seed, "timm")
    x = standardized(smooth_pictures(rng, 2, (96, 96)))
    artifact = assert_exports(
        network, x, {"logits": answer(network, x)}, tmp_path / "out", image_size=96
    )
    assert artifact.manifest.family == "levit"


def test_a_levit_by_create_model_has_its_name_and_preprocessing(seed):
    import timm

    network = timm.create_model("levit_128s", pretrained=False, num_classes=7)
    source = load_source(ExportOptions(), network)
    assert source.variant == "levit_128s"
    assert source.model.config.num_classes == 7
    assert choose_preprocess(ExportOptions(), source)[0].crop_pct == 0.9


@pytest.mark.parametrize("name", TIMM)
def test_preprocessing_is_the_networks(of_timm, name):
    import timm.data

    network, _ = of_timm(name)
    spec, assumed = choose_preprocess(ExportOptions(), load_source(ExportOptions(), network))
    theirs = timm.data.resolve_model_data_config(network)
    assert spec.flavour == "timm"
    assert spec.mean == theirs["mean"]
    assert spec.std == theirs["std"]
    assert spec.crop_pct == theirs["crop_pct"]
    assert spec.interpolation == theirs["interpolation"]
    assert spec.image_size == (64, 64)
    assert assumed == ()


def test_a_changed_mean_is_read(of_timm, tmp_path):
    network, _ = of_timm("vit_tiny_patch16_224", dict(mean=(0.1, 0.2, 0.3)))
    artifact = export(ExportOptions(output=tmp_path / "out"), model=network)
    assert artifact.manifest.preprocess.mean == (0.1, 0.2, 0.3)
    network.pretrained_cfg["mean"] = (0.4, 0.2, 0.3)
    artifact = export(ExportOptions(output=tmp_path / "other"), model=network)
    assert artifact.manifest.preprocess.mean == (0.4, 0.2, 0.3)


@pytest.mark.parametrize("name", ["deit_tiny_distilled_patch16_224", "convit_tiny"])
def test_other_outputs_and_pixels_are_exported(of_timm, tensors, tmp_path, name):
    import torch

    network, _ = of_timm(name)
    exact = copy.deepcopy(network).double()
    with torch.no_grad():
        features = exact.forward_features(torch.from_numpy(tensors).double())
        embedding = exact.forward_head(features, pre_logits=True)
    expected = {"features": features, "embedding": embedding}
    assert_exports(network, tensors, expected, tmp_path / "out")
    artifact = export(ExportOptions(output=tmp_path / "pixels", input="uint8"), model=network)
    assert artifact.manifest.inputs[0].dtype == "uint8"


def test_an_epsilon_that_was_given_is_read(of_timm, tensors, tmp_path):
    import torch

    network, _ = of_timm(
        "vit_tiny_patch16_224", norm_layer=functools.partial(torch.nn.LayerNorm, eps=0.01)
    )
    assert_exports(network, tensors, {"logits": answer(network, tensors)}, tmp_path / "out")
    assert load_source(ExportOptions(), network).model.config.norm_eps == 0.01


def test_an_activation_that_was_given_is_read(of_timm, tensors, tmp_path):
    network, _ = of_timm("vit_tiny_patch16_224", act_layer="silu")
    assert_exports(network, tensors, {"logits": answer(network, tensors)}, tmp_path / "out")
    assert load_source(ExportOptions(), network).model.config.activation == "silu"


def test_a_size_that_is_not_square_is_read(seed, tmp_path, rng):
    import timm

    config = timm_config("deit_tiny_distilled_patch16_224", image_size=(32, 96))
    network = timm.create_model(
        "deit_tiny_distilled_patch16_224", num_classes=7, img_size=(32, 96), embed_dim=96, depth=2,
        num_heads=2, pretrained_cfg_overlay=dict(architecture="deit_narrow"),
    )  # fmt: skip
    filled(network, "deit", config, seed, "timm")
    x = standardized(smooth_pictures(rng, 2, (32, 96)))
    assert_exports(network, x, {"logits": answer(network, x)}, tmp_path / "out")


def test_a_live_network_is_resized(of_timm, tmp_path):
    network, _ = of_timm("deit_tiny_distilled_patch16_224")
    artifact = export(ExportOptions(output=tmp_path / "out", image_size=96), model=network)
    assert artifact.manifest.source["resized"]["from"] == [64, 64]
    assert artifact.manifest.inputs[0].shape[2:] == (96, 96)


def test_the_class_itself_without_a_name_needs_one(seed, tmp_path):
    from timm.models.vision_transformer import VisionTransformer

    config = timm_config("vit")
    network = VisionTransformer(img_size=64, num_classes=7, embed_dim=96, depth=2, num_heads=2)
    filled(network, "vit", config, seed, "timm")
    with pytest.raises(ConfigError, match="say which with --model"):
        export(ExportOptions(output=tmp_path / "out"), model=network)
    assert not (tmp_path / "out").exists()


def test_a_name_that_is_said_must_be_the_networks(of_timm, tmp_path):
    network, _ = of_timm("deit_tiny_distilled_patch16_224")
    with pytest.raises(CheckpointError, match="is not a levit_128s"):
        export(ExportOptions(output=tmp_path / "out", model="levit_128s"), model=network)
    assert not (tmp_path / "out").exists()


def test_what_is_exported_by_file_is_what_is_exported_live(of_timm, tensors, tmp_path):
    from safetensors.torch import save_file

    network, config = of_timm("convit_tiny")
    save_file(network.state_dict(), tmp_path / "model.safetensors")
    live = load_source(ExportOptions(), network)
    saved = load_source(ExportOptions(checkpoint=tmp_path / "model.safetensors"))
    assert live.model.config == saved.model.config == config
    found, expected = (s.model.forward(NumpyOps(), tensors)["logits"] for s in (live, saved))
    assert np.array_equal(found, expected)


# ---------------------------------------------------------------------------- transformers


@pytest.mark.parametrize(
    "name",
    ["DeiTForImageClassification", "DeiTForImageClassificationWithTeacher",
     "ViTForImageClassification"],
)  # fmt: skip
@pytest.mark.parametrize("eps", [1e-12, 0.01])
def test_a_network_of_transformers_is_exported(of_transformers, tensors, tmp_path, name, eps):
    network, config = of_transformers(name, layer_norm_eps=eps)
    found = answer(network, tensors)
    expected = {"logits": found.logits}
    if name.endswith("Teacher"):
        expected |= {"logits_head": found.cls_logits, "logits_dist": found.distillation_logits}
    artifact = assert_exports(network, tensors, expected, tmp_path / "out")
    assert artifact.manifest.source["format"] == "transformers"
    assert artifact.manifest.source["module"].endswith(name)
    assert load_source(ExportOptions(), network).model.config == config
    assert list(artifact.labels()) == [f"class {i}" for i in range(7)]
    assert artifact.manifest.preprocess.flavour == "transformers"


@pytest.mark.parametrize("name", ["DeiTModel", "ViTModel"])
def test_a_backbone_of_transformers_is_exported(of_transformers, tensors, tmp_path, name):
    network, _ = of_transformers(name)
    found = answer(network, tensors)
    expected = {"features": found.last_hidden_state, "pooled": found.pooler_output}
    assert_exports(network, tensors, expected, tmp_path / "out")


def test_transformers_activation_is_read(of_transformers, tensors, tmp_path):
    network, _ = of_transformers("ViTForImageClassification", hidden_act="silu")
    assert_exports(network, tensors, {"logits": answer(network, tensors).logits}, tmp_path / "out")


@pytest.mark.parametrize("act", ["gelu_new", "relu", "quick_gelu"])
def test_an_activation_of_transformers_that_is_not_built_is_refused(tmp_path, act):
    from transformers import ViTConfig, ViTForImageClassification

    config = ViTConfig(
        image_size=64, hidden_size=96, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=192, hidden_act=act,
    )  # fmt: skip
    with pytest.raises(ConfigError, match=f"unknown activation '{act}'"):
        export(ExportOptions(output=tmp_path / "out"), model=ViTForImageClassification(config))
    assert not (tmp_path / "out").exists()


# ---------------------------------------------------------------------------- kinds of modules


@pytest.mark.parametrize("name", ["deit_tiny_distilled_patch16_224", "convit_tiny"])
@pytest.mark.parametrize("kind", ["half", "bfloat16", "double"])
def test_another_floating_type_is_widened(of_timm, tensors, tmp_path, name, kind):
    network, config = of_timm(name)
    network = getattr(network, kind)()
    source = load_source(ExportOptions(), network)
    assert source.model.config == config
    expected = {"logits": answer(network, tensors)}
    assert_exports(network, tensors, expected, tmp_path / "out")


@pytest.mark.parametrize("kind", ["half", "bfloat16"])
def test_a_half_network_of_transformers_is_widened(of_transformers, tensors, tmp_path, kind):
    network, _ = of_transformers("DeiTForImageClassificationWithTeacher")
    network = getattr(network, kind)()
    assert_exports(network, tensors, {"logits": answer(network, tensors).logits}, tmp_path / "out")


def wrapped_by_data_parallel(network):
    import torch

    return torch.nn.DataParallel(network)


def wrapped_by_compile(network):
    import torch

    return torch.compile(network)


def wrapped_by_both(network):
    return wrapped_by_compile(wrapped_by_data_parallel(network))


@pytest.mark.parametrize("wrap", [wrapped_by_data_parallel, wrapped_by_compile, wrapped_by_both])
@pytest.mark.parametrize("library", ["timm", "transformers"])
def test_a_wrapper_is_looked_through(of_timm, of_transformers, wrap, library):
    if library == "timm":
        network, config = of_timm("deit_tiny_patch16_224")
    else:
        network, config = of_transformers("ViTForImageClassification")
    source = load_source(ExportOptions(), wrap(network))
    assert source.model.config == config
    assert source.keymap.source == library
    assert source.origin["module"].startswith(library)


def test_a_wrapped_network_gives_its_outputs(of_timm, tensors, tmp_path):
    network, _ = of_timm("convit_tiny")
    expected = {"logits": answer(network, tensors)}
    assert_exports(wrapped_by_data_parallel(network), tensors, expected, tmp_path / "out")


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("half", [False, True])
def test_the_network_is_not_changed(of_timm, tmp_path, training, half):
    import torch

    network, _ = of_timm("deit_tiny_distilled_patch16_224")
    network = (network.half() if half else network).train(training)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    kept = dict(network.pretrained_cfg)
    flags = [module.training for module in network.modules()]
    export(ExportOptions(output=tmp_path / "out", image_size=96), model=network)
    after = network.state_dict()
    assert list(after) == list(before)
    for key, value in before.items():
        assert after[key].dtype is value.dtype
        assert torch.equal(after[key], value), key
    assert [module.training for module in network.modules()] == flags
    assert dict(network.pretrained_cfg) == kept
    assert all(parameter.requires_grad for parameter in network.parameters())


@pytest.mark.parametrize("name", ["deit_tiny_distilled_patch16_224", "convit_tiny"])
def test_the_published_name_of_a_network_is_kept(name):
    import timm

    network = timm.create_model(name, pretrained=False, num_classes=5)
    source = load_source(ExportOptions(), network)
    assert source.variant == name
    assert source.model.config.num_classes == 5
    assert source.model.config.image_size == (224, 224)


# ---------------------------------------------------------------------------- what is refused


@pytest.mark.parametrize("thing", ["deit", 3, SimpleNamespace(), {"head.weight": 1}, object, []])
def test_what_is_no_module_is_refused(thing, tmp_path):
    with pytest.raises(ConfigError, match=r"torch\.nn\.Module of timm, transformers") as caught:
        export(ExportOptions(output=tmp_path / "out"), model=thing)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_the_class_of_a_module_is_refused():
    from timm.models.vision_transformer import VisionTransformer

    with pytest.raises(ConfigError, match=r"is a torch\.nn\.Module"):
        read_module(VisionTransformer)


@pytest.mark.parametrize("more", [dict(checkpoint="x.safetensors"), dict(random_weights=0)])
def test_weights_of_two_sources_are_refused(of_timm, tmp_path, more):
    network, _ = of_timm("vit_tiny_patch16_224")
    with pytest.raises(ConfigError, match="a live model has its weights"):
        export(ExportOptions(output=tmp_path / "out", **more), model=network)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("library", ["timm", "transformers"])
def test_a_network_on_the_meta_device_is_refused(library, tmp_path):
    import timm
    import torch

    with torch.device("meta"):
        if library == "timm":
            network = timm.create_model("vit_tiny_patch16_224", img_size=64, **SLIM)
        else:
            transformers = importlib.import_module("transformers")
            config = transformers.ViTConfig(hidden_size=96, num_hidden_layers=2,
                                            num_attention_heads=2)  # fmt: skip
            network = transformers.ViTForImageClassification(config)
    with pytest.raises(CheckpointError, match="meta device and has no weights") as caught:
        export(ExportOptions(output=tmp_path / "out"), model=network)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


FORMS = [
    ("vit_tiny_patch16_224", dict(global_pool="avg", fc_norm=False)),
    ("vit_tiny_patch16_224", dict(global_pool="avg")),
    ("vit_tiny_patch16_224", dict(fc_norm=True)),
    ("vit_tiny_patch16_224", dict(class_token=False, global_pool="avg")),
    ("vit_tiny_patch16_224", dict(reg_tokens=2)),
    ("vit_tiny_patch16_224", dict(reg_tokens=4, class_token=False, global_pool="avg")),
    # Positions of 9 patches, or of 4 patches and 5 tokens.
    ("vit_tiny_patch16_224", dict(reg_tokens=4, no_embed_class=True, img_size=48)),
    ("vit_tiny_patch16_224", dict(reg_tokens=4, img_size=32)),
    ("vit_tiny_patch16_224", dict(init_values=1e-5)),
    ("vit_tiny_patch16_224", dict(pre_norm=True)),
    ("vit_tiny_patch16_224", dict(no_embed_class=True)),
    ("vit_tiny_patch16_224", dict(final_norm=False)),
    ("vit_tiny_patch16_224", dict(proj_bias=False)),
    ("vit_tiny_patch16_224", dict(qkv_bias=False, dynamic_img_size=True)),
    ("vit_tiny_patch16_224", dict(img_size=(16, 64))),
    ("deit_tiny_patch16_224", dict(global_pool="avg", fc_norm=False)),
    ("deit3_small_patch16_224", {}),
    ("deit_tiny_distilled_patch16_224", dict(init_values=1e-5)),
    ("convit_tiny", dict(global_pool="avg")),
]


def randomised(network):
    """Every weight of its own, those of norms and layer scales around one."""
    import torch

    torch.manual_seed(0)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if name.endswith(("gamma", "norm.weight", "norm1.weight", "norm2.weight")):
                parameter.uniform_(0.5, 1.5)
            elif parameter.ndim > 1 and "token" not in name and "pos_embed" not in name:
                parameter.normal_(0, parameter[0].numel() ** -0.5)
            else:
                parameter.normal_(0, 0.3)
    return network.eval()


@pytest.mark.parametrize(("name", "arguments"), FORMS, ids=str)
def test_every_form_of_a_vit_is_exported(tmp_path, rng, name, arguments):
    import timm

    own = dict(embed_dim=48, num_heads=3)
    if name == "convit_tiny":
        own = dict(embed_dim=16, num_heads=3, local_up_to_layer=1)
    values = {"img_size": 64, "num_classes": 7, "depth": 2, **own, **arguments}
    network = randomised(timm.create_model(name, **values))
    size = (
        values["img_size"] if isinstance(values["img_size"], tuple) else (values["img_size"],) * 2
    )
    x = standardized(smooth_pictures(rng, 2, size))
    artifact = assert_exports(network, x, {"logits": answer(network, x)}, tmp_path / "out")
    assert not [said for said in artifact.manifest.assumed if "pooling" in said or "size" in said]


@pytest.mark.parametrize("act", ["relu", "gelu_tanh", "quick_gelu"])
def test_an_activation_that_is_not_built_is_refused(tmp_path, act):
    import timm

    network = timm.create_model("vit_tiny_patch16_224", img_size=64, **SLIM, act_layer=act)
    with pytest.raises(ConfigError, match="unknown activation") as caught:
        export(ExportOptions(output=tmp_path / "out"), model=network)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "arguments",
    [
        dict(global_pool="max"),
        dict(global_pool="map"),
        dict(global_pool="avg", fc_norm=False, pool_include_prefix=True),
        dict(qk_norm=True),
        dict(pos_embed="none"),
        dict(patch_size=(8, 16)),
    ],
    ids=str,
)
def test_another_vit_is_refused_in_one_line(tmp_path, arguments):
    import timm

    network = timm.create_model("vit_tiny_patch16_224", img_size=64, **SLIM, **arguments)
    with pytest.raises(LevitError) as caught:
        export(ExportOptions(output=tmp_path / "out"), model=network)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["resnet18", "swin_tiny_patch4_window7_224"])
def test_a_network_of_another_architecture_is_refused(tmp_path, name):
    import timm

    own = dict(depths=(1, 1, 1, 1)) if name.startswith("swin") else {}
    with pytest.raises(CheckpointError, match="not a checkpoint that this release knows"):
        export(ExportOptions(output=tmp_path / "out"), model=timm.create_model(name, **own))
    assert not (tmp_path / "out").exists()


def test_weights_that_are_not_finite_are_refused(of_timm, tmp_path):
    import torch

    network, _ = of_timm("vit_tiny_patch16_224")
    with torch.no_grad():
        network.norm.weight[3] = float("nan")
    with pytest.raises(CheckpointError, match=r"NaN or infinite values in norm\.weight"):
        export(ExportOptions(output=tmp_path / "out"), model=network)
    assert not (tmp_path / "out").exists()


# ---------------------------------------------------------------------------- other functions


def other_functions():
    import functools

    import torch
    from timm.models.deit import VisionTransformerDistilled
    from timm.models.vision_transformer import ResPostBlock, VisionTransformer

    sizes = dict(img_size=64, num_classes=7, embed_dim=192, depth=12, num_heads=3)
    wide = functools.partial(torch.nn.LayerNorm, eps=0.1)
    return {
        "activation": lambda: VisionTransformer(**sizes, act_layer="relu"),
        "pooling": lambda: VisionTransformer(**sizes, global_pool="avg", fc_norm=False),
        "epsilon": lambda: VisionTransformer(**sizes, norm_layer=wide),
        "heads": lambda: VisionTransformer(**{**sizes, "num_heads": 6}),
        "block": lambda: VisionTransformer(**sizes, block_fn=ResPostBlock),
        "distilled": lambda: VisionTransformerDistilled(**sizes, act_layer="relu"),
    }


@pytest.mark.parametrize(
    "what", ["activation", "pooling", "epsilon", "heads", "block", "distilled"]
)
def test_a_module_that_is_another_function_under_the_same_names_is_refused(what, tmp_path):
    import torch

    torch.manual_seed(0)
    module = other_functions()[what]()
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.ndim > 1:
                parameter.normal_(0, parameter[0].numel() ** -0.5)
    name = f"deit_tiny{'_distilled' * (what == 'distilled')}_patch16_224"
    with pytest.raises(ConfigError, match=r"another function than the DeiT.*differ by"):
        export(ExportOptions(model=name, image_size=64, output=tmp_path / "a"), model=module.eval())
    assert list(tmp_path.iterdir()) == []


def test_a_network_of_its_own_widths_keeps_no_variants_name(tmp_path):
    import timm

    module = timm.create_model("deit_tiny_patch16_224", img_size=64, num_classes=7, depth=2)
    artifact = export(ExportOptions(output=tmp_path / "a"), model=module.eval())
    assert artifact.manifest.variant == "deit_custom"


def test_a_levits_attention_has_its_own_activation():
    import timm

    own = dict(img_size=64, act_layer="gelu", attn_act_layer="silu", num_classes=5)
    network = randomised(timm.create_model("levit_128s", **own))
    source = load_source(ExportOptions(image_size=64), network)  # which compares their answers
    config = source.model.config
    assert (config.activation, config.attention_activation) == ("gelu", "silu")
