"""Classifiers that a user put in place of a model's own, with the real libraries in float64."""

import contextlib
import json
import warnings
from collections import OrderedDict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

from levit.errors import CheckpointError, LevitError
from levit.export import ExportOptions, export
from levit.export.passes import PASSES, prove, run_passes
from levit.export.sources import load_source
from levit.models.heads import read_heads, with_plain_heads
from levit.models.ops import NumpyOps
from levit.models.registry import FAMILIES

torch = pytest.importorskip("torch")
nn = torch.nn

pytestmark = pytest.mark.peers

REFERENCE = 1e-10
CLASSES = 5
WIDTHS = {"levit": 64, "vit": 48, "deit": 48, "convit": 48}
LEVIT = dict(
    img_size=64, embed_dim=(32, 48, 64), key_dim=16, num_heads=(2, 3, 4), depth=(1, 1, 1),
    num_classes=9,
)  # fmt: skip
VIT = dict(img_size=32, patch_size=16, embed_dim=48, depth=2, num_heads=3, num_classes=9)


def randomised(network, seed=0):
    """Every weight and statistic, so that nothing hides behind zeros."""
    generator = torch.Generator().manual_seed(seed)
    network.double().eval()
    for name, tensor in network.state_dict().items():
        if tensor.is_floating_point():
            drawn = torch.randn(tensor.shape, generator=generator, dtype=tensor.dtype)
            if name.endswith("running_var"):
                tensor.copy_(drawn.abs() + 0.5)
            elif tensor.ndim > 1 and "bias" not in name:
                tensor.copy_(drawn / np.sqrt(tensor[0].numel()))
            else:
                tensor.copy_(1 + drawn * 0.2 if "weight" in name else drawn * 0.2)
    return network


def timm_network(kind, **changes):
    if kind == "levit":
        from timm.models.levit import Levit, LevitDistilled

        distilled = changes.pop("distilled", False)
        return (LevitDistilled if distilled else Levit)(**LEVIT, **changes)
    if kind == "convit":
        from timm.models.convit import ConVit

        return ConVit(**{**VIT, "embed_dim": 16, "local_up_to_layer": 1})
    if kind == "deit":
        from timm.models.deit import VisionTransformerDistilled

        return VisionTransformerDistilled(**VIT)
    from timm.models.vision_transformer import VisionTransformer

    return VisionTransformer(**VIT)


def transformers_network(kind, teacher=False):
    import transformers

    if kind == "levit":
        config = transformers.LevitConfig(
            image_size=64, hidden_sizes=[32, 48, 64], key_dim=[16] * 3, num_labels=9,
            num_attention_heads=[2, 3, 4], depths=[1, 1, 1],
        )  # fmt: skip
        name = "LevitForImageClassification" + "WithTeacher" * teacher
        return getattr(transformers, name)(config)
    arguments = dict(
        image_size=32, hidden_size=48, num_hidden_layers=2, num_attention_heads=3,
        intermediate_size=96, num_labels=9,
    )  # fmt: skip
    if kind == "vit":
        return transformers.ViTForImageClassification(transformers.ViTConfig(**arguments))
    name = "DeiTForImageClassification" + "WithTeacher" * teacher
    return getattr(transformers, name)(transformers.DeiTConfig(**arguments))


def linear(width):
    return nn.Linear(width, CLASSES)


def dropout_linear(width):
    return nn.Sequential(nn.Dropout(0.3), nn.Linear(width, CLASSES))


def nested(width):
    return nn.ModuleDict({"fc": nn.Sequential(nn.Dropout(0.1), nn.Linear(width, CLASSES))})


def no_bias(width):
    return nn.Linear(width, CLASSES, bias=False)


def no_bias_sequential(width):
    return nn.Sequential(nn.Dropout(0.3), nn.Linear(width, CLASSES, bias=False))


def linear_by_name(width):
    return nn.Sequential(OrderedDict(drop=nn.Dropout(0.3), linear=nn.Linear(width, CLASSES)))


def norm_linear(width):
    return nn.Sequential(nn.BatchNorm1d(width), nn.Dropout(0.3), nn.Linear(width, CLASSES))


def probe(width):
    return nn.Sequential(nn.BatchNorm1d(width, affine=False), nn.Linear(width, CLASSES))


# The last has the name of a LeViT's own Linear, behind a norm.
HEADS = {f.__name__: f for f in (
    linear, dropout_linear, nested, no_bias, no_bias_sequential, norm_linear, probe,
    linear_by_name,
)}  # fmt: skip


def cases(*networks):
    """(kind, names, head) of all heads, but for LeViT's own name."""
    return [
        pytest.param(kind, names, head, id=f"{kind}-{len(names)}-{head}")
        for kind, names in networks
        for head in HEADS
        if (kind, head) != ("levit", "linear_by_name")
    ]


class Nested(nn.Module):
    def __init__(self, layers):
        super().__init__()
        self.fc = layers["fc"]

    def forward(self, x):
        return self.fc(x)


def replace_heads(network, make, width, *names):
    for name in names:
        made = make(width)
        setattr(network, name, Nested(made) if isinstance(made, nn.ModuleDict) else made)
    return randomised(network)


def save(network, folder, beside=None):
    folder.mkdir()
    state = {name: tensor.numpy().copy() for name, tensor in network.state_dict().items()}
    save_file(state, folder / "model.safetensors")
    if beside:
        (folder / "config.json").write_text(json.dumps(beside))
    return folder


def answers(network, size, seed=1):
    x = torch.randn(
        3, 3, size, size, generator=torch.Generator().manual_seed(seed), dtype=torch.double
    )
    network.train().eval()  # transformers' LeViT keeps gathered biases until then
    with torch.no_grad():
        answer = network(x)
    return x.numpy(), (answer.logits if hasattr(answer, "logits") else answer).numpy()


def check(source, x, expected):
    """Equal to the library, and every pass exact."""
    found = source.model.forward(NumpyOps(), x)["logits"]
    assert np.ptp(expected, axis=0).max() > 0.02 * np.abs(expected).max(), "deaf"
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() <= REFERENCE * np.abs(expected).max()
    folded = run_passes(source.model, PASSES)
    prove("passes", {"logits": found}, folded[-1].model, x)
    return {applied.name: applied.count for applied in folded}


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "weights"


# ---------------------------------------------------------------------------- the same function


@pytest.mark.parametrize(
    ("kind", "names", "head"),
    cases(
        ("levit", ["head"]),
        ("levit", ["head", "head_dist"]),
        ("vit", ["head"]),
        ("deit", ["head", "head_dist"]),
        ("convit", ["head"]),
    ),
)
def test_timms_networks_with_another_head(folder, kind, names, head):
    changes = {"distilled": len(names) > 1} if kind == "levit" else {}
    network = replace_heads(timm_network(kind, **changes), HEADS[head], WIDTHS[kind], *names)
    x, expected = answers(network, 64 if kind == "levit" else 32)
    size = 64 if kind == "levit" else 32
    said = {"num_heads": 3} if kind in ("vit", "deit") else None
    source = load_source(ExportOptions(
        checkpoint=save(network, folder), image_size=size, config=said,
        model=None if kind in ("levit", "convit") else kind,
    ))  # fmt: skip
    counts = check(source, x, expected)
    if len(names) > 1:
        assert counts["merge_heads"] == 1
    told = [text for text in source.assumed if text.startswith("classifier")]
    assert len(told) == (0 if head == "linear" else len(names)), told


@pytest.mark.parametrize("head", ["linear", "dropout_linear", "norm_linear"])
def test_timms_conv_twin_with_another_head(folder, head):
    network = replace_heads(timm_network("levit", use_conv=True), HEADS[head], 64, "head")
    x, expected = answers(network, 64)
    check(load_source(ExportOptions(checkpoint=save(network, folder), image_size=64)), x, expected)


@pytest.mark.parametrize(
    ("kind", "names", "head"),
    cases(
        ("levit", ["classifier"]),
        ("levit", ["classifier", "classifier_distill"]),
        ("vit", ["classifier"]),
        ("deit", ["classifier"]),
        ("deit", ["cls_classifier", "distillation_classifier"]),
    ),
)
def test_transformers_networks_with_another_head(folder, kind, names, head):
    network = replace_heads(
        transformers_network(kind, teacher=len(names) > 1), HEADS[head], WIDTHS[kind], *names
    )
    x, expected = answers(network, 64 if kind == "levit" else 32)
    said = None if kind == "levit" else {"num_attention_heads": 3}
    source = load_source(ExportOptions(checkpoint=save(network, folder), config=said))
    check(source, x, expected)


def test_the_originals_names(folder):
    """Original names of the same network: its own code is no package."""
    from levit.models.levit.keymap import KEYMAPS
    from levit.models.random_weights import flatten

    network = replace_heads(timm_network("levit"), linear, 64, "head")
    x, expected = answers(network, 64)
    source = load_source(ExportOptions(checkpoint=save(network, folder), image_size=64))
    original = next(k for k in KEYMAPS if k.source == "original" and not k.conv)
    state = flatten(source.model, original)
    assert {"head.weight", "head.bias"} <= set(state)
    save_file(state, folder / "model.safetensors")
    source = load_source(ExportOptions(checkpoint=folder))
    assert source.keymap is original
    check(source, x, expected)


@pytest.mark.parametrize("head", ["linear", "dropout_linear"])
def test_mmpretrains_linear_head(folder, monkeypatch, head):
    """``ImageClassifier`` of LeViT with ``LinearClsHead``, built by mmpretrain itself."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from mmpretrain.models import ImageClassifier, LeViT
    arch = dict(
        embed_dims=[32, 48, 64], num_heads=[2, 3, 4], depths=[1, 1, 1], key_dims=[16, 16, 16]
    )
    monkeypatch.setitem(LeViT.arch_zoo, "small", arch)
    network = ImageClassifier(
        backbone=dict(type="LeViT", arch="small", img_size=64),
        neck=dict(type="GlobalAveragePooling"),
        head=dict(type="LinearClsHead", num_classes=CLASSES, in_channels=64),
    )
    network.head.fc = HEADS[head](64)
    randomised(network).train().eval()  # it keeps gathered biases until then
    x = torch.randn(2, 3, 64, 64, dtype=torch.double)
    with torch.no_grad():
        expected = network.head(network.neck(network.backbone(x)))
    source = load_source(ExportOptions(checkpoint=save(network, folder)))
    assert source.keymap.source == "mmpretrain"
    check(source, x.numpy(), expected.numpy())


# ---------------------------------------------------------------------------- deployed


@pytest.mark.parametrize("kind", ["levit", "vit"])
@pytest.mark.parametrize(
    ("target", "precision"), [("onnx", "fp32"), ("openvino", "fp32"), ("onnx", "int8")]
)
def test_deployed(folder, tmp_path, kind, target, precision):
    make, width = (linear if kind == "levit" else norm_linear), WIDTHS[kind]
    network = replace_heads(timm_network(kind), make, width, "head")
    size = 64 if kind == "levit" else 32
    pictures = np.random.default_rng(0).standard_normal((16, 3, size, size)).astype(np.float32)
    np.savez(tmp_path / "pictures.npz", images=pictures)
    int8 = dict(calibration=tmp_path / "pictures.npz", force=True) if precision == "int8" else {}
    artifact = export(ExportOptions(
        checkpoint=save(network, folder), output=tmp_path / "out", target=target,
        precision=precision, image_size=size, verify="host" if int8 else "source",
        **(dict(model="vit", config={"num_heads": 3}) if kind == "vit" else {}), **int8,
    ))  # fmt: skip
    verification = artifact.manifest.verification
    if not int8:
        assert verification["status"] == "passed"
        assert verification["source_library"]["max_relative_error"] < REFERENCE
    assert verification["max_relative_error"] < (0.2 if int8 else 1e-5)


@pytest.mark.parametrize("kind", ["levit", "vit", "deit"])
@pytest.mark.parametrize("head", ["linear", "dropout_linear", "norm_linear"])
def test_a_live_network(tmp_path, kind, head):
    names = ["head", "head_dist"] if kind == "deit" else ["head"]
    network = replace_heads(timm_network(kind), HEADS[head], WIDTHS[kind], *names).float()
    options = ExportOptions(
        output=tmp_path / "out", image_size=64 if kind == "levit" else 32,
        **({} if kind == "levit" else dict(model=kind, config={"num_heads": 3})),
    )  # fmt: skip
    artifact = export(options, model=network)
    assert artifact.manifest.verification["status"] == "passed"
    assert not any(text.startswith("classifier") for text in artifact.manifest.assumed)


# ---------------------------------------------------------------------------- refused


def mlp(width):
    return nn.Sequential(nn.Linear(width, 32), nn.ReLU(), nn.Linear(32, CLASSES))


def layernorm_linear(width):
    return nn.Sequential(nn.LayerNorm(width), nn.Linear(width, CLASSES))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (mlp, "its classifier head is 2 Linears (head.0, head.2), such as an MLP"),
        (layernorm_linear, "a Linear and a norm that is no BatchNorm (head.0, head.1)"),
    ],
)
@pytest.mark.parametrize("kind", ["levit", "vit", "convit"])
def test_an_mlp_is_refused_and_its_embedding_is_exported(folder, tmp_path, kind, make, words):
    network = replace_heads(timm_network(kind), make, WIDTHS[kind], "head")
    size = 64 if kind == "levit" else 32
    said = {"num_heads": 3} if kind == "vit" else {}  # a LeViT's tables show its own
    options = dict(
        checkpoint=save(network, folder, {"num_classes": CLASSES, **said}),
        image_size=size, model="vit" if kind == "vit" else None,
    )  # fmt: skip
    with pytest.raises(CheckpointError) as caught:
        load_source(ExportOptions(**options))
    message = str(caught.value)
    assert words in message
    assert "\n" not in message
    assert """--config '{"num_classes": 0}'""" in message
    source = load_source(ExportOptions(**options, config='{"num_classes": 0}'))
    assert "classifier head: left out, as --config says" in source.assumed
    x, expected = answers(network, size)
    model = source.model
    assert model.plan.outputs == ("embedding",)
    embedding = torch.from_numpy(model.forward(NumpyOps(), x)["embedding"])
    with torch.no_grad():
        found = network.head(embedding).numpy()
    assert np.abs(found - expected).max() <= REFERENCE * np.abs(expected).max()


@pytest.mark.parametrize("source", ["timm", "transformers"])
def test_a_distillation_head_that_was_left_is_named(folder, source):
    if source == "timm":
        network, names = timm_network("levit", distilled=True), ("head", "head_dist")
    else:
        network = transformers_network("levit", teacher=True)
        names = ("classifier", "classifier_distill")
    replace_heads(network, linear, 64, names[0])
    options = dict(checkpoint=save(network, folder), image_size=64)
    with pytest.raises(CheckpointError) as caught:
        load_source(ExportOptions(**options))
    assert f"({names[0]} has 5 and {names[1]} has 9 classes)" in str(caught.value)
    assert """--config '{"distilled": false}'""" in str(caught.value)
    alone = load_source(ExportOptions(**options, config={"distilled": False}))
    assert alone.model.config.num_classes == CLASSES
    assert f"classifier {names[1]}: left out, as --config says" in alone.assumed


def test_a_levits_own_classifier_without_its_norm_is_damaged(folder):
    network = replace_heads(timm_network("levit"), linear_by_name, 64, "head")
    with pytest.raises(CheckpointError, match=r"4 missing: head\.bn\.weight"):
        load_source(ExportOptions(checkpoint=save(network, folder), image_size=64))


def test_a_deit_cannot_leave_its_distillation_head(folder):
    network = replace_heads(timm_network("deit"), linear, 48, "head")
    with pytest.raises(CheckpointError) as caught:
        load_source(ExportOptions(checkpoint=save(network, folder), config={"num_heads": 3}))
    assert str(caught.value).endswith("whose mean the network gives: replace both before training")


def test_labels_of_the_old_classifier_are_no_dead_end(folder):
    network = replace_heads(transformers_network("vit"), linear, 48, "classifier")
    beside = network.config.to_dict() | {"architectures": ["ViTForImageClassification"]}
    options = dict(checkpoint=save(network, folder, beside))
    with pytest.raises(LevitError, match=r'--config .\{"num_classes": 5\}'):
        load_source(ExportOptions(**options))
    assert (
        load_source(ExportOptions(**options, config={"num_classes": 5})).hints.label_names is None
    )


@pytest.mark.parametrize("kind", ["levit", "vit"])
def test_a_live_network_without_its_mlp(tmp_path, kind):
    network = replace_heads(timm_network(kind), mlp, WIDTHS[kind], "head").float()
    options = ExportOptions(
        output=tmp_path / "out", image_size=64 if kind == "levit" else 32,
        **({} if kind == "levit" else dict(model=kind, config={"num_heads": 3})),
    )  # fmt: skip
    with pytest.raises(CheckpointError, match=r"put torch.nn.Identity\(\) in its place"):
        export(options, model=network)
    network.head = nn.Identity()
    assert [output.name for output in export(options, model=network).manifest.outputs] == [
        "embedding"
    ]


LEAVES = st.sampled_from(["weight", "bias", "running_mean", "running_var", "other"])
NAMES = st.builds(
    "{}.{}{}".format, st.sampled_from(["head", "head_dist"]),
    st.sampled_from(["", "0.", "1.", "bn.", "linear.", "fc.1."]), LEAVES,
)  # fmt: skip


@given(
    changes=st.dictionaries(
        NAMES, st.lists(st.integers(0, 3) | st.just(48), max_size=3).map(tuple), max_size=5
    ),
    kind=st.sampled_from(["levit", "vit"]),
)
@settings(max_examples=300)
def test_odd_tensors_under_a_head_are_an_error_of_ours_or_used(changes, kind):
    keymap = FAMILIES[kind].keymaps[0]
    tensors = {name: np.ones(shape, np.float32) for name, shape in changes.items()}
    found = tensors
    with contextlib.suppress(CheckpointError):
        found, _ = with_plain_heads(tensors, keymap, "odd.pth")
        read_heads({name: tensor.shape for name, tensor in found.items()}, keymap)
    # A tensor is never dropped: each is used under some name, or left for the reader of all.
    assert len(found) >= len(tensors)
