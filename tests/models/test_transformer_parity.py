"""DeiT, ConViT and ViT in NumPy against the networks of timm and transformers, in float64."""

import copy
import shutil
from dataclasses import replace

import numpy as np
import onnxruntime
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

from levit.errors import ExportError
from levit.export import ExportOptions, export
from levit.export.flavours import timm_spec
from levit.export.verify_source import make_network
from levit.models.layers import transform
from levit.models.ops import NumpyOps
from levit.models.pictures import smooth_pictures, standardized
from levit.models.random_weights import flatten, random_model
from levit.models.registry import FAMILIES
from levit.models.transformer.config import TransformerConfig
from levit.models.transformer.layers import PositionAttention

pytestmark = pytest.mark.peers

REFERENCE = 1e-10  # two float64 evaluations
DEPLOYED = 1e-5  # float32, of the largest value

KINDS = {
    "deit": ("deit", {}),
    "distilled": ("deit", dict(distilled=True, distilled_head=True)),
    "convit": ("convit", dict(local_depth=2, qkv_bias=False)),
    "vit": ("vit", {}),
    "deit3": ("deit", dict(layer_scale=True, token_positions=False)),
    "average": ("vit", dict(pool="avg", fc_norm=True)),
    "average_of_normed": ("vit", dict(pool="avg")),
    "gap": ("vit", dict(class_token=False, pool="avg", layer_scale=True, qkv_bias=False)),
    "reg_gap": (
        "vit",
        dict(class_token=False, registers=3, pool="avg", token_positions=False, fc_norm=True,
             layer_scale=True),
    ),
    "registers": ("vit", dict(registers=2)),
    "dinov2": ("vit", dict(registers=4, token_positions=False, layer_scale=True)),
    "pre_norm": ("vit", dict(pre_norm=True, proj_bias=False)),
    "token_fc_norm": ("vit", dict(fc_norm=True)),
    "no_norm": ("vit", dict(final_norm=False, registers=2, token_positions=False)),
    "convit_average": ("convit", dict(local_depth=2, qkv_bias=False, pool="avg")),
}  # fmt: skip
SHAPES = {
    "base": {},
    "patch_8": dict(patch_size=8, image_size=(40, 40)),
    "one_channel": dict(in_channels=1),
    "eps": dict(norm_eps=0.03),
    "bias": dict(qkv_bias=True),
}


def config_of(kind, **changes):
    family, own = KINDS[kind]
    values = dict(
        image_size=(64, 64), patch_size=16, num_classes=7, width=48, depth=3, heads=3, mlp_width=192
    )
    return FAMILIES[family], TransformerConfig(**{**values, **own, **changes})


def inputs(config, seed, count=2):
    rng = np.random.default_rng(seed)
    pictures = smooth_pictures(rng, count, config.image_size, config.in_channels)
    return standardized(pictures).astype(np.float64)


def peer_of(model, source, wanted=None):
    """The source library's network with the weights of `model`, in float64."""
    import torch

    wanted = wanted or model.family.networks[source](model.config)
    network = make_network(wanted).eval().double()
    shapes = {key: tuple(value.shape) for key, value in network.state_dict().items()}
    keymap = next(k for k in model.family.keymaps if k.source == source and k.matches(shapes))
    state = {key: torch.from_numpy(value) for key, value in flatten(model, keymap).items()}
    loaded = network.load_state_dict(state, strict=False)
    assert loaded.unexpected_keys == []
    assert loaded.missing_keys == []
    return network


def timm_outputs(network, x):
    import torch

    with torch.no_grad():
        features = network.forward_features(torch.from_numpy(x))
        values = {
            "features": features,
            "embedding": network.forward_head(features, pre_logits=True),
            "logits": network(torch.from_numpy(x)),
        }
    return {name: value.numpy() for name, value in values.items()}


def transformers_outputs(network, x):
    import torch

    names = {
        "logits": "logits",
        "cls_logits": "logits_head",
        "distillation_logits": "logits_dist",
        "last_hidden_state": "features",
        "pooler_output": "pooled",
    }
    with torch.no_grad():
        answer = network(torch.from_numpy(x))
    found = {names[key]: value.numpy() for key, value in answer.items() if key in names}
    if "logits" in found:
        base = getattr(network, network.base_model_prefix)
        with torch.no_grad():
            found["features"] = base(torch.from_numpy(x)).last_hidden_state.numpy()
    return found


def relative_error(found, expected):
    assert found.shape == expected.shape
    return float(np.abs(found - expected).max() / np.abs(expected).max())


def assert_same(model, expected, x, limit=REFERENCE):
    found = model.with_plan(outputs=tuple(expected)).forward(NumpyOps(), x)
    for name, value in expected.items():
        assert np.ptp(value, axis=0).max() > 0.02 * np.abs(value).max(), f"deaf: {name}"
        error = relative_error(found[name], value)
        assert error <= limit, f"{name} off by {error:.1e}"


def assert_timm_agrees(model, x):
    expected = timm_outputs(peer_of(model, "timm"), x)
    if not model.config.num_classes:
        del expected["logits"]
    assert_same(model, expected, x)


# ---------------------------------------------------------------------------- timm


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kind", KINDS)
def test_every_output_is_timms(kind, shape, seed):
    changes = dict(SHAPES[shape])
    if "qkv_bias" in changes:  # not as the family has it
        changes["qkv_bias"] = not KINDS[kind][1].get("qkv_bias", True)
    family, config = config_of(kind, **changes)
    assert_timm_agrees(random_model(family, config, seed), inputs(config, seed))


@pytest.mark.parametrize("kind", ["deit", "distilled", "vit"])
@pytest.mark.parametrize("size", [(32, 96), (80, 48)])
def test_images_that_are_not_square_are_timms(kind, size, seed):
    family, config = config_of(kind, image_size=size)
    assert_timm_agrees(random_model(family, config, seed), inputs(config, seed))


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "distilled"])
def test_a_headless_network_is_timms(kind, seed):
    family, config = config_of(kind, num_classes=0)
    assert_timm_agrees(random_model(family, config, seed), inputs(config, seed))


def test_a_headless_distilled_network_pools_both_tokens_as_timm(seed):
    family, config = config_of("distilled", num_classes=0, distilled_head=False)
    assert_timm_agrees(random_model(family, config, seed), inputs(config, seed))


@pytest.mark.parametrize("local_depth", [1, 2])
@pytest.mark.parametrize("positions", [False, True])
def test_a_convits_depths_and_positions_are_timms(local_depth, positions, seed):
    family, config = config_of("convit", local_depth=local_depth, positions=positions)
    assert_timm_agrees(random_model(family, config, seed), inputs(config, seed))


@pytest.mark.parametrize("gate", [30.0, -30.0, 0.0, 800.0])
def test_saturated_gates_are_timms(gate, seed):
    family, config = config_of("convit")
    model = random_model(family, config, seed)

    def saturate(_, position):
        return replace(position, gate=np.full_like(position.gate, gate))

    params, count = transform(model.params, PositionAttention, saturate)
    assert count == config.local_depth
    assert_timm_agrees(replace(model, params=params), inputs(config, seed))


@settings(max_examples=6, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    kind=st.sampled_from(list(KINDS)),
    heads=st.integers(1, 5),
    head_width=st.sampled_from([8, 12, 17]),
    depth=st.integers(3, 5),
    patch=st.sampled_from([4, 7, 16]),
    side=st.integers(2, 5),
    ratio=st.sampled_from([1, 2, 4]),
    eps=st.sampled_from([1e-12, 1e-6, 1e-3]),
)
def test_any_shape_is_timms(kind, heads, head_width, depth, patch, side, ratio, eps):
    width = heads * head_width
    family, config = config_of(
        kind, width=width, heads=heads, depth=depth, patch_size=patch, mlp_width=ratio * width,
        image_size=(side * patch, side * patch), norm_eps=eps, num_classes=11,
    )  # fmt: skip
    assert_timm_agrees(random_model(family, config, 1), inputs(config, 1))


@pytest.mark.parametrize("kind", KINDS)
def test_another_epsilon_is_another_network(kind, seed):
    family, config = config_of(kind, norm_eps=0.1)
    model = random_model(family, config, seed)
    x = inputs(config, seed)
    expected = timm_outputs(peer_of(model, "timm"), x)["logits"]
    other = replace(model, config=replace(config, norm_eps=1e-6))
    params = family.build(other.config, family.keymaps[0], _Named(model))
    found = replace(other, params=params).forward(NumpyOps(), x)["logits"]
    assert relative_error(found, expected) > 1e-4


class _Named:
    def __init__(self, model):
        self._tensors = flatten(model, model.family.keymaps[0])

    def tensor(self, key, shape):
        assert self._tensors[key].shape == shape
        return self._tensors[key]


@pytest.mark.parametrize("kind", KINDS)
def test_timms_own_names_are_built_and_flattened_without_loss(kind, seed):
    import torch

    family, config = config_of(kind)
    torch.manual_seed(seed)
    network = make_network(family.networks["timm"](config))
    state = {key: value.numpy() for key, value in network.state_dict().items()}
    params = family.build(config, family.keymaps[0], type("W", (), {"tensor": _exact(state)})())
    model = replace(random_model(family, config, seed), params=params)
    again = flatten(model, family.keymaps[0])
    assert set(again) == set(state)
    assert all(np.array_equal(again[key], value) for key, value in state.items())


def _exact(state):
    def tensor(self, key, shape):
        assert state[key].shape == shape
        return state[key]

    return tensor


@pytest.mark.parametrize(
    ("kind", "changes", "said"),
    [
        ("distilled", dict(distilled_head=False), "only head reads the class token"),
        ("deit", dict(pooler_width=16), "pooler"),
        ("deit", dict(activation="silu"), "gelu only, not silu"),
        ("convit", dict(image_size=(64, 80)), "square images only"),
        ("convit", dict(activation="silu"), "gelu only, not silu"),
    ],
)
def test_what_timm_does_not_have_is_said(kind, changes, said):
    family, config = config_of(kind, **changes)
    with pytest.raises(ExportError, match=said):
        family.networks["timm"](config)


@pytest.mark.parametrize("family", ["deit", "convit", "vit"])
def test_every_variant_has_the_shapes_of_timms_model_of_that_name(family):
    import torch
    from timm.models import create_model

    for name, variant in FAMILIES[family].variants.items():
        with torch.device("meta"):
            network = create_model(name, pretrained=False)
        theirs = {key: tuple(value.shape) for key, value in network.state_dict().items()}
        numbers = _Shapes()
        FAMILIES[family].build(variant.config, FAMILIES[family].keymaps[0], numbers)
        assert numbers.shapes == theirs, name


@pytest.mark.parametrize("family", ["deit", "convit", "vit"])
def test_every_variant_is_timms_model_of_that_name(family):
    """Facts that the weights do not show, the preprocessing, and the weights that it stands for."""
    import timm.data
    import torch
    from timm.models import create_model, get_pretrained_cfg

    for name, variant in FAMILIES[family].variants.items():
        with torch.device("meta"):
            network = create_model(name, pretrained=False)
        config, cfg = variant.config, get_pretrained_cfg(name)
        attention = network.blocks[-1].attn
        norms = {m.eps for m in network.modules() if isinstance(m, torch.nn.LayerNorm)}
        assert attention.num_heads == config.heads, name
        assert norms == {config.norm_eps}, name
        assert network.global_pool == config.pool, name
        assert getattr(network, "no_embed_class", False) is not config.token_positions, name
        assert type(network.blocks[-1].mlp.act).__name__ == "GELU", name
        assert config.num_classes == network.num_classes, name
        assert variant.hub_id == cfg.hf_hub_id.rstrip("/"), name
        theirs = timm.data.resolve_model_data_config(network)
        assert config.image_size == theirs["input_size"][1:], name
        ours = timm_spec(config.image_size, FAMILIES[family].preprocessing(config, "timm"))
        for key in ("mean", "std", "crop_pct", "crop_mode", "interpolation"):
            assert getattr(ours, key) == theirs[key], (name, key)


class _Shapes:
    def __init__(self):
        self.shapes = {}

    def tensor(self, key, shape):
        self.shapes[key] = tuple(shape)
        return np.broadcast_to(np.float32(1), shape)


# ---------------------------------------------------------------------------- transformers


@pytest.mark.parametrize("eps", [1e-12, 0.03])
@pytest.mark.parametrize(
    ("kind", "changes", "name"),
    [
        ("deit", {}, "ViTForImageClassification"),
        ("vit", {}, "ViTForImageClassification"),
        ("distilled", {}, "DeiTForImageClassificationWithTeacher"),
        ("distilled", dict(distilled_head=False), "DeiTForImageClassification"),
        ("distilled", dict(distilled_head=False, num_classes=0), "DeiTModel"),
        ("vit", dict(num_classes=0), "ViTModel"),
        ("vit", dict(num_classes=0, pooler_width=48), "ViTModel"),
        ("vit", dict(num_classes=0, pooler_width=20), "ViTModel"),
        ("distilled", dict(distilled_head=False, num_classes=0, pooler_width=48), "DeiTModel"),
    ],
)
def test_every_output_is_transformers(kind, changes, name, eps, seed):
    family, config = config_of(kind, norm_eps=eps, **changes)
    model = random_model(family, config, seed)
    network = peer_of(model, "transformers")
    assert type(network).__name__ == name
    x = inputs(config, seed)
    expected = transformers_outputs(network, x)
    wanted = {"features"} | ({"logits"} if config.num_classes else set())
    wanted |= {"pooled"} if config.pooler_width else set()
    wanted |= {"logits_head", "logits_dist"} if config.distilled_head else set()
    assert set(expected) == wanted
    assert_same(model, expected, x)


@pytest.mark.parametrize("kind", ["distilled", "vit"])
@pytest.mark.parametrize(
    "changes",
    [
        dict(image_size=(32, 80)),
        dict(activation="silu"),
        dict(qkv_bias=False),
        dict(patch_size=8),
        dict(in_channels=4),
        dict(heads=4),
    ],
    ids=str,
)
def test_other_arguments_are_transformers(kind, changes, seed):
    family, config = config_of(kind, **changes)
    model = random_model(family, config, seed)
    x = inputs(config, seed)
    assert_same(model, transformers_outputs(peer_of(model, "transformers"), x), x)


def test_a_class_token_classifier_does_not_read_the_distillation_token(seed):
    family, config = config_of("distilled", distilled_head=False)
    model = random_model(family, config, seed)
    x = inputs(config, seed)
    values = model.with_plan(outputs=("features", "embedding")).forward(NumpyOps(), x)
    assert np.array_equal(values["embedding"], values["features"][:, 0])
    both = replace(model, config=replace(config, num_classes=0))
    values = both.with_plan(outputs=("features", "embedding")).forward(NumpyOps(), x)
    assert relative_error(values["embedding"], values["features"][:, :2].mean(1)) <= 1e-15


# ---------------------------------------------------------------------------- full size

_OTHER_FORMS = ("deit3_small_patch16_224", "vit_wee_patch16_reg1_gap_256")
_FULL = [
    name
    for family in ("deit", "convit", "vit")
    for name, variant in FAMILIES[family].variants.items()
    # Those with a published accuracy, and one of each other form.
    if (variant.top1 and not name.endswith("384")) or name in _OTHER_FORMS
]


@pytest.fixture
def folder(tmp_path):
    """Emptied at once: pytest keeps its folders for three runs, and these are large."""
    yield tmp_path
    shutil.rmtree(tmp_path)


def run_fp32(artifact, x):
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(
        str(artifact.payload), options, providers=["CPUExecutionProvider"]
    )
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(None, {"image": x}), strict=True))


def family_of(name):
    return next(family for family in FAMILIES.values() if name in family.variants)


def assert_artifact_agrees(name, family, config, outputs, of_network, source, seed, folder):
    import torch

    model = random_model(family, config, seed)
    network = peer_of(model, source)
    x = inputs(config, seed).astype(np.float32)
    exact = {key: of_network(network, x.astype(np.float64))[key] for key in outputs}
    with torch.no_grad():
        single = of_network(copy.deepcopy(network).float(), x)
    shapes = {key: tuple(value.shape) for key, value in network.state_dict().items()}
    keymap = next(k for k in family.keymaps if k.source == source and k.matches(shapes))
    save_file(flatten(model, keymap), folder / "model.safetensors")
    artifact = export(
        ExportOptions(
            model=name,
            checkpoint=folder / "model.safetensors",
            outputs=outputs,
            output=folder / "artifact",
            verify="none",
        )
    )
    reference = model.with_plan(outputs=outputs).forward(NumpyOps(), x.astype(np.float64))
    deployed = run_fp32(artifact, x)
    for output in outputs:
        assert relative_error(reference[output], exact[output]) <= REFERENCE, output
        error = relative_error(deployed[output], exact[output])
        own = relative_error(single[output], exact[output])
        assert error <= max(DEPLOYED, 2 * own), (
            f"{name} {output}: artifact off by {error:.1e}, {source}'s own float32 by {own:.1e}"
        )


@pytest.mark.parametrize(
    "name",
    [  # those of 86 million weights are only wider
        pytest.param(n, marks=pytest.mark.nightly if "_base" in n else pytest.mark.slow)
        for n in _FULL
    ],
)
def test_full_size_artifacts_against_timm(name, seed, folder):
    family = family_of(name)
    config = family.variants[name].config
    outputs = ("logits", "features", "embedding")
    assert_artifact_agrees(name, family, config, outputs, timm_outputs, "timm", seed, folder)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["deit_tiny_patch16_224", "deit_tiny_distilled_patch16_224", "vit_tiny_patch16_224"]
)
def test_full_size_artifacts_against_transformers(name, seed, folder):
    family = family_of(name)
    # What a bare file of transformers is taken to have.
    config = replace(family.variants[name].config, norm_eps=1e-12)
    outputs = ("logits", "features")
    assert_artifact_agrees(
        name, family, config, outputs, transformers_outputs, "transformers", seed, folder
    )
