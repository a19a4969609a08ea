"""Forms of vision transformers: real networks of timm and transformers, saved and exported.

Every weight is random, so that a form that is read as another shows.
"""

import json
from dataclasses import replace

import numpy as np
import pytest
from parity import relative_error, run_artifact
from safetensors.numpy import save_file

from levit import Predictor
from levit.errors import CheckpointError, ConfigError, LevitError
from levit.export import ExportOptions, export
from levit.export.flavours import timm_spec
from levit.export.passes import EXACT, run_passes
from levit.export.sources import load_source
from levit.models.checkpoint import Checkpoint, StrictWeights
from levit.models.hints import Hints, hints_from_config
from levit.models.ops import NumpyOps
from levit.models.pictures import smooth_pictures, standardized
from levit.models.recognition import recognise
from levit.models.registry import FAMILIES
from levit.models.transformer.config import TransformerConfig
from levit.pictures.preprocess import IMAGENET_MEAN

pytestmark = pytest.mark.peers

REFERENCE = 1e-10
SLIM = dict(img_size=64, num_classes=7, embed_dim=48, depth=2, num_heads=3)
# Name of timm's, and arguments beside those of `SLIM`.
FORMS = {
    "token": ("vit_tiny_patch16_224", {}),
    "average": ("vit_tiny_patch16_224", dict(global_pool="avg")),
    "average_of_normed": ("vit_tiny_patch16_224", dict(global_pool="avg", fc_norm=False)),
    "deit3": ("deit3_small_patch16_224", {}),
    "gap": ("vit_medium_patch16_gap_256", {}),
    "reg1_gap": ("vit_wee_patch16_reg1_gap_256", {}),
    "reg4_gap": ("vit_so150m_patch16_reg4_gap_256", {}),
    "dinov2": ("vit_small_patch14_dinov2", dict(patch_size=16)),
    "reg4_dinov2": ("vit_small_patch14_reg4_dinov2", dict(patch_size=16)),
    "pre_norm": ("vit_tiny_patch16_224", dict(pre_norm=True)),
    "no_bias": ("vit_tiny_patch16_224", dict(proj_bias=False, qkv_bias=False)),
    "final_norm": ("vit_tiny_patch16_224", dict(final_norm=False)),
    "wide": ("vit_tiny_patch16_224", dict(img_size=(32, 128))),
}
SMALL_NAME = "vit_small_other"  # of no variant


def randomised(network):
    import torch

    torch.manual_seed(0)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if name.endswith("gamma") or (parameter.ndim == 1 and name.endswith("weight")):
                parameter.uniform_(0.5, 1.5)
            elif parameter.ndim > 1 and "token" not in name and "pos" not in name:
                parameter.normal_(0, parameter[0].numel() ** -0.5)
            else:
                parameter.normal_(0, 0.3)
    return network.eval()


def of_timm(form, **changes):
    import timm

    name, arguments = FORMS[form]
    return randomised(timm.create_model(name, **{**SLIM, **arguments, **changes}))


def state_of(network):
    return {key: value.numpy().copy() for key, value in network.state_dict().items()}


def pictures_for(network, rng, count=2):
    return standardized(smooth_pictures(rng, count, network.patch_embed.img_size))


def answer(network, x):
    import torch

    with torch.no_grad():
        value = network.double()(torch.from_numpy(x).double())
        network.float()
    return getattr(value, "logits", value).numpy()


@pytest.fixture
def folder(tmp_path):
    """(state, config beside it) → a folder of weights."""

    def write(state, beside=None):
        path = tmp_path / "weights"
        path.mkdir(exist_ok=True)
        save_file(state, path / "model.safetensors")
        (path / "config.json").unlink(missing_ok=True)
        if beside is not None:
            (path / "config.json").write_text(json.dumps(beside))
        return path

    return write


def hub_config(form, network):
    """The config.json that timm's ``save_for_hf`` writes, with the arguments that were given."""
    _, arguments = FORMS[form]
    given = {key: value for key, value in {**SLIM, **arguments}.items() if key != "num_classes"}
    # As the variants have them by their functions, which a name of its own does not state.
    given |= {"no_embed_class": network.no_embed_class, "class_token": network.has_class_token}
    return {
        "architecture": SMALL_NAME,
        "num_classes": network.num_classes,
        "num_features": network.num_features,
        "global_pool": network.global_pool,
        "model_args": given,
    }


# Of a name that is in no table: epsilon and activation are timm's defaults.
DEFAULTS = ("LayerNorm epsilon", "activation")


def surprises(source):
    """Everything that was assumed but the defaults of a network that no table has."""
    return tuple(said for said in source.assumed if not said.startswith(DEFAULTS))


def assert_reads(source, network, x):
    """The reference is the network, as trained and folded."""
    expected = answer(network, x)
    assert np.ptp(expected, axis=0).max() > 0.02 * np.abs(expected).max(), "a deaf network"
    found = source.model.forward(NumpyOps(), x.astype(np.float64))["logits"]
    assert relative_error(found, expected) <= REFERENCE
    folded = run_passes(source.model)[-1].model.forward(NumpyOps(), x.astype(np.float64))["logits"]
    assert relative_error(folded, found) <= EXACT


@pytest.mark.parametrize("form", FORMS)
def test_a_saved_network_of_every_form_is_timms(folder, rng, form):
    network = of_timm(form)
    path = folder(state_of(network), hub_config(form, network))
    source = load_source(ExportOptions(checkpoint=path))
    assert surprises(source) == ()
    assert_reads(source, network, pictures_for(network, rng))


def test_words_decide_between_forwards_of_the_same_tensors(folder, rng):
    """Another pooling was 0.22 of the largest logit away, without a word."""
    network = of_timm("average_of_normed")
    x = pictures_for(network, rng)
    state = state_of(network)
    values = {"architecture": SMALL_NAME, "model_args": {"num_heads": 3}}
    path = folder(state, values)
    source = load_source(ExportOptions(checkpoint=path))
    assert source.model.config.pool == "token"
    assert surprises(source)[0] == (
        "pooling: the class token, as no file says otherwise (an average over the patches has the "
        "same tensors)"
    )
    wrong = source.model.forward(NumpyOps(), x.astype(np.float64))["logits"]
    assert relative_error(wrong, answer(network, x)) > 0.05
    source = load_source(ExportOptions(checkpoint=folder(state, {**values, "global_pool": "avg"})))
    assert not any("pooling" in said for said in source.assumed)
    assert_reads(source, network, x)


def test_a_square_is_assumed_aloud(folder, rng):
    network = of_timm("token", img_size=(16, 64))
    state = state_of(network)
    values = {"architecture": SMALL_NAME, "global_pool": "token", "model_args": {"num_heads": 3}}
    source = load_source(ExportOptions(checkpoint=folder(state, values)))
    assert surprises(source) == ("image size 32x32: a square (16x64 has the same tokens)",)
    values["model_args"]["img_size"] = [16, 64]
    source = load_source(ExportOptions(checkpoint=folder(state, values)))
    assert surprises(source) == ()
    assert_reads(source, network, pictures_for(network, rng))


def test_nothing_is_assumed_of_a_model_that_is_named(folder):
    import timm

    network = timm.create_model("vit_tiny_patch16_224", num_classes=3)
    path = folder(state_of(network))
    named = load_source(ExportOptions(model="vit_tiny_patch16_224", checkpoint=path))
    assert named.assumed == ()
    assert named.model.config.image_size == (224, 224)
    beside = {"architecture": "vit_tiny_patch16_224"}
    assert load_source(ExportOptions(checkpoint=folder(state_of(network), beside))).assumed == ()


def test_positions_that_fit_two_readings_are_asked_for(folder, rng):
    """Nine are those of 3x3 patches, or of 2x2 patches, a class token and four registers."""
    network = of_timm("token", img_size=32, reg_tokens=4)
    state = state_of(network)
    values = {"architecture": SMALL_NAME, "global_pool": "token", "model_args": {"num_heads": 3}}
    with pytest.raises(ConfigError, match=r'--config .\{"no_embed_class": true\}'):
        load_source(ExportOptions(checkpoint=folder(state, values)))
    for said in ({"no_embed_class": False}, {"img_size": 32}):
        arguments = {**values["model_args"], **said}
        path = folder(state, {**values, "model_args": arguments})
        source = load_source(ExportOptions(checkpoint=path))
        assert_reads(source, network, pictures_for(network, rng))
    values["model_args"]["no_embed_class"] = True
    config = load_source(ExportOptions(checkpoint=folder(state, values))).model.config
    assert (config.image_size, config.token_positions) == ((48, 48), False)


def test_a_norm_before_the_blocks_without_a_name_is_asked_for(folder, rng):
    import functools

    import torch

    network = of_timm("pre_norm", norm_layer=functools.partial(torch.nn.LayerNorm, eps=1e-5))
    hints = Hints(arguments={"num_heads": 3})
    with pytest.raises(ConfigError, match=r"is of a CLIP model .* or of another"):
        inferred(state_of(network), hints)
    beside = {"architecture": "vit_medium_patch16_clip_224", "model_args": {"num_heads": 3}}
    source = load_source(ExportOptions(checkpoint=folder(state_of(network), beside)))
    assert source.model.config.norm_eps == 1e-5
    assert_reads(source, network, pictures_for(network, rng))
    beside = {"architecture": SMALL_NAME, "model_args": {"num_heads": 3, "norm_eps": 1e-5}}
    source = load_source(ExportOptions(checkpoint=folder(state_of(network), beside)))
    assert_reads(source, network, pictures_for(network, rng))


# ---------------------------------------------------------------------------- DeiT III


@pytest.mark.parametrize("key", ["model", None])
def test_deit_three_as_its_authors_save_it(tmp_path, rng, key):
    import torch

    network = of_timm("deit3", img_size=64, embed_dim=384, num_heads=6, depth=12)
    state = {
        name.replace("ls1.gamma", "gamma_1").replace("ls2.gamma", "gamma_2"): value
        for name, value in network.state_dict().items()
    }
    path = tmp_path / "deit_3.pth"
    torch.save({key: state} if key else state, path)
    source = load_source(ExportOptions(checkpoint=path))
    assert source.origin["format"] == "original"
    assert source.variant == "deit3_small_patch16_224"
    assert not any("size" in said for said in source.assumed)
    assert any("no rotary embeddings" in said for said in source.assumed)
    assert_reads(source, network, pictures_for(network, rng))


def test_a_training_checkpoint_of_ones_own_may_have_any_form(tmp_path, rng):
    """Under the key that facebookresearch/deit uses, too."""
    import torch

    network = of_timm("deit3", embed_dim=384, num_heads=6, depth=12)
    path = tmp_path / "checkpoint.pth"
    torch.save({"model": network.state_dict()}, path)
    source = load_source(
        ExportOptions(model="deit3_small_patch16_224", checkpoint=path, image_size=64)
    )
    assert source.assumed == ()
    assert_reads(source, network, pictures_for(network, rng))


# ---------------------------------------------------------------------------- transformers


def vit_with_pooler(**changes):
    import torch
    import transformers

    config = transformers.ViTConfig(
        image_size=64, hidden_size=48, num_hidden_layers=2, num_attention_heads=3,
        intermediate_size=96, num_labels=7, **changes,
    )  # fmt: skip

    class WithPooler(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.vit = transformers.ViTModel(config)
            self.classifier = torch.nn.Linear(48, 7)

        def forward(self, x):
            return self.classifier(self.vit(x).pooler_output)

    return config, randomised(WithPooler())


def test_a_name_of_timms_does_not_state_transformers_epsilon(folder):
    import transformers

    config = transformers.ViTConfig(
        image_size=32, hidden_size=192, num_attention_heads=3, intermediate_size=768
    )
    state = state_of(transformers.ViTForImageClassification(config))
    options = ExportOptions(model="vit_tiny_patch16_224", checkpoint=folder(state), image_size=32)
    source = load_source(options)
    assert source.model.config.norm_eps == 1e-12
    assert any("epsilon 1e-12" in said for said in source.assumed)


def test_a_pooler_beside_a_classifier_is_refused(folder, rng):
    """It was read as the class token's classifier, 1.04 of the largest logit away."""
    import transformers

    config, network = vit_with_pooler()
    state = state_of(network)
    words = "pooler and a classifier: no class of transformers has both"
    for beside in (None, {"model_type": "vit", "hidden_size": 48, "num_attention_heads": 3,
                          "num_hidden_layers": 2, "intermediate_size": 96,
                          "num_labels": 7}):  # fmt: skip
        with pytest.raises(ConfigError, match=words) as caught:
            load_source(ExportOptions(checkpoint=folder(state, beside)))
        assert "\n" not in str(caught.value)
    # Of a class that it is of, transformers itself leaves the pooler out.
    beside = {**config.to_dict(), "architectures": ["ViTForImageClassification"]}
    source = load_source(ExportOptions(checkpoint=folder(state, beside)))
    theirs = transformers.ViTForImageClassification(config).eval()
    theirs.load_state_dict(network.state_dict(), strict=False)
    x = standardized(smooth_pictures(rng, 2, (64, 64)))
    found = source.model.forward(NumpyOps(), x.astype(np.float64))["logits"]
    assert relative_error(found, answer(theirs, x)) <= REFERENCE


# ---------------------------------------------------------------------------- artifacts

PRECISE = ["deit3", "average", "average_of_normed", "reg1_gap", "reg4_dinov2"]


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Pictures to calibrate with."""
    from PIL import Image

    path = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(7)
    pixels = smooth_pictures(rng, 24, (64, 64))
    for number, picture in enumerate(np.asarray(pixels)):
        Image.fromarray(picture).save(path / f"{number}.png")
    return path


@pytest.mark.parametrize(
    ("target", "precision", "limit"),
    [("onnx", "fp32", 1e-5), ("openvino", "fp32", 1e-5), ("onnx", "fp16", 1e-2),
     ("openvino", "fp16", 5e-2), ("onnx", "int8", 0.5), ("openvino", "int8", 0.5)],
)  # fmt: skip
@pytest.mark.parametrize("form", PRECISE)
def test_an_artifact_answers_as_timm(folder, photos, tmp_path, rng, form, target, precision, limit):
    network = of_timm(form)
    options = ExportOptions(
        checkpoint=folder(state_of(network), hub_config(form, network)),
        target=target,
        precision=precision,
        calibration=photos if precision == "int8" else None,
        output=tmp_path / "out",
        force=precision == "int8",
    )
    artifact = export(options)
    x = pictures_for(network, rng).astype(np.float32)
    with Predictor(artifact.path) as predictor:
        found = predictor.forward(x)["logits"]
    expected = answer(network, x)
    assert relative_error(found, expected) <= limit
    if precision == "int8":
        # Nearer to the picture's own answer than to the other's.
        assert relative_error(found, expected[::-1]) > 2 * relative_error(found, expected)


@pytest.mark.parametrize("form", ["average", "reg4_dinov2", "gap"])
def test_every_output_has_timms_meaning(folder, tmp_path, rng, form):
    import torch

    network = of_timm(form)
    path = folder(state_of(network), hub_config(form, network))
    outputs = ("logits", "embedding", "features")
    artifact = export(ExportOptions(checkpoint=path, outputs=outputs, output=tmp_path / "out"))
    x = pictures_for(network, rng).astype(np.float32)
    exact = network.double()
    with torch.no_grad():
        features = exact.forward_features(torch.from_numpy(x).double())
        embedding = exact.forward_head(features, pre_logits=True)
    found = run_artifact(artifact, x)
    assert relative_error(found["features"], features.numpy()) <= 1e-5
    assert relative_error(found["embedding"], embedding.numpy()) <= 1e-5


@pytest.mark.parametrize("form", ["average", "deit3", "reg4_gap", "reg4_dinov2"])
def test_verify_source_builds_the_network_and_says_it(folder, tmp_path, form):
    network = of_timm(form)
    path = folder(state_of(network), hub_config(form, network))
    artifact = export(ExportOptions(checkpoint=path, verify="source", output=tmp_path / "out"))
    said = artifact.manifest.verification["source_library"]
    assert said["network"] == "timm.models.vision_transformer.VisionTransformer"
    assert said["arguments"]["global_pool"] == network.global_pool
    assert said["arguments"]["reg_tokens"] == network.num_reg_tokens
    assert said["max_relative_error"] <= 1e-11


@pytest.mark.parametrize("form", ["deit3", "reg4_gap", "reg4_dinov2", "average"])
@pytest.mark.parametrize("size", [(96, 96), (48, 80)])
def test_another_image_size_is_timms(folder, rng, form, size):
    network = of_timm(form)
    path = folder(state_of(network), hub_config(form, network))
    source = load_source(ExportOptions(checkpoint=path, image_size=size))
    network.set_input_size(img_size=size)
    x = standardized(smooth_pictures(rng, 2, size)).astype(np.float64)
    found = source.model.forward(NumpyOps(), x)["logits"]
    # timm resamples in float32.
    assert relative_error(found, answer(network, x)) <= 1e-5


@pytest.mark.parametrize(
    ("name", "size", "expected"),
    [
        ("vit_small_patch14_dinov2", 224, (IMAGENET_MEAN, 1.0, "center")),
        ("vit_wee_patch16_reg1_gap_256", 224, ((0.5, 0.5, 0.5), 0.95, "center")),
        ("vit_medium_patch16_gap_384", 384, ((0.5, 0.5, 0.5), 0.95, "squash")),
        ("vit_tiny_patch16_224", 320, ((0.5, 0.5, 0.5), 0.9, "center")),
    ],
)
def test_preprocessing_is_the_variants_at_another_size_too(name, size, expected):
    family = FAMILIES["vit"]
    config = replace(family.variants[name].config, image_size=(size, size))
    spec = timm_spec(config.image_size, family.preprocessing(config, "timm"))
    assert (spec.mean, spec.crop_pct, spec.crop_mode) == expected


def test_a_manifest_from_before_these_forms_is_read():
    config = TransformerConfig(
        image_size=(64, 64), patch_size=16, width=48, depth=2, heads=3, mlp_width=96
    )
    new = ("class_token", "registers", "token_positions", "pre_norm", "layer_scale", "proj_bias",
           "pool", "final_norm", "fc_norm")  # fmt: skip
    old = {key: value for key, value in config.to_dict().items() if key not in new}
    assert TransformerConfig.from_dict(old) == config


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (dict(pool="max"), "unknown pooling 'max'"),
        (dict(class_token=False), "needs a class token"),
        (dict(fc_norm=True, final_norm=False), "final norm"),
        (dict(distilled=True, registers=1), "distillation token"),
        (dict(distilled=True, pool="avg"), "distillation token"),
        (dict(local_depth=1, layer_scale=True), "local blocks"),
        (dict(registers=-1), "must be positive"),
        (dict(registers=10**6), "over the limit"),
        (dict(registers=1.5), "whole numbers"),
    ],
    ids=str,
)
def test_configs_of_no_network_are_refused(changes, words):
    values = dict(image_size=(64, 64), patch_size=16, width=48, depth=2, heads=3, mlp_width=96)
    with pytest.raises(ConfigError, match=words):
        TransformerConfig(**{**values, **changes})


# ---------------------------------------------------------------------------- what is refused

REFUSED = {
    "vit_base_r50_s16_224": "a hybrid (convolutional) stem",
    "vit_base_mci_224": "a hybrid (convolutional) stem",
    "vit_base_patch16_siglip_224": "attention pooling (global_pool='map')",
    "vit_giant_patch14_dinov2": "a gated MLP (SwiGLU)",
    "vit_small_patch16_18x2_224": "parallel blocks",
    "vit_base_patch16_xp_224": "parallel blocks",
    "vit_dlittle_patch16_reg1_gap_256": "differential attention",
    "vit_base_patch16_rope_mixed_224": "rotary embeddings",
    "vit_base_patch16_rope_224": "rotary embeddings",
    "samvit_base_patch16": "relative position biases",
    "beit_base_patch16_224": "relative position biases",
    "beit3_base_patch16_224": "a norm inside the attention",
    "cait_xxs24_224": "talking heads",
    "hiera_tiny_224": "blocks of several widths",
    "test_vit4": "norms without biases (RMSNorm)",
    "aimv2_large_patch14_224": "a norm in the patch embedding",
}


def shapes_of(make):
    import torch

    with torch.device("meta"):
        state = make().state_dict()
    return {name: np.broadcast_to(np.float32(1), value.shape) for name, value in state.items()}


def inferred(tensors, hints=None, family="vit"):
    """The config of tensors, all of which it uses."""
    checkpoint = Checkpoint(tensors=tensors, hints=hints or Hints(), origin={"file": "x"})
    checkpoint, family, keymap = recognise(checkpoint, FAMILIES[family])
    config, assumed = family.infer(checkpoint.shapes, keymap, checkpoint.hints)
    weights = StrictWeights(checkpoint.tensors)
    family.build(config, keymap, weights)
    weights.finish("x", keymap.ignores)
    return config, assumed


@pytest.mark.parametrize(("name", "words"), REFUSED.items())
def test_a_feature_that_is_not_built_is_named(name, words):
    import timm

    with pytest.raises(CheckpointError) as caught:
        inferred(shapes_of(lambda: timm.create_model(name)))
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (dict(qk_norm=True), "normalised queries and keys (qk_norm)"),
        (dict(scale_mlp_norm=True), "a norm inside the MLP (scale_mlp_norm)"),
        (dict(global_pool="map"), "attention pooling (global_pool='map')"),
        (dict(norm_layer="rmsnorm"), "norms without biases (RMSNorm)"),
        (dict(pos_embed="none"), "rotary embeddings, or without positions"),
    ],
    ids=str,
)
def test_an_argument_that_is_not_built_is_named(arguments, words):
    import timm

    with pytest.raises(CheckpointError) as caught:
        inferred(shapes_of(lambda: timm.create_model("vit_tiny_patch16_224", **arguments)))
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("vit_base_patch16_rpn_224", "residual post-norm blocks"),
        ("vit_small_patch16_rope_ape_224", "rotary embeddings"),
        ("vit_base_patch16_clip_quickgelu_224", "the activation quick_gelu"),
        ("vit_base_patch16_siglip_gap_224", "siglip_gap_224' cannot be told from its weights"),
    ],
)
def test_a_name_refuses_what_tensors_do_not_show(name, words):
    import timm

    hints = hints_from_config({"architecture": name}, "config.json")
    with pytest.raises(LevitError) as caught:
        inferred(shapes_of(lambda: timm.create_model(name)), hints)
    assert words in str(caught.value)
    assert "not a checkpoint" not in str(caught.value)


@pytest.mark.nightly
@pytest.mark.parametrize("pattern", ["vit_*", "deit*", "flexivit*", "eva*", "beit*", "test_vit*"])
def test_no_named_network_of_timm_is_read_as_another(pattern):
    """Heads, epsilon, activation, pooling and image size are the module's, or it is refused."""
    import timm
    import torch
    from timm.models import create_model

    for name in timm.list_models(pattern):
        with torch.device("meta"):
            module = create_model(name)
        values = {"architecture": name, "global_pool": module.global_pool}
        try:
            config, _ = inferred(
                shapes_of(lambda name=name: create_model(name)),
                hints_from_config(values, "config.json"),
                "deit" if name.startswith("deit") else "vit",
            )
        except LevitError:
            continue
        block = module.blocks[-1]
        norms = {m.eps for m in module.modules() if isinstance(getattr(m, "eps", None), float)}
        assert type(block).__name__ == "Block", name
        assert (block.attn.num_heads, norms) == (config.heads, {config.norm_eps}), name
        assert type(block.mlp.act).__name__ == "GELU", name
        assert module.global_pool == config.pool, name
        assert tuple(module.patch_embed.img_size) == config.image_size, name
