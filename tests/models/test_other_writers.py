"""Checkpoints of libraries around the four sources; docs/checkpoints.md lists the outcomes."""

import json
from collections import OrderedDict

import numpy as np
import pytest
import real_networks
from pth_writer import Call, Name, write_pth

from levit.errors import CheckpointError, ConfigError
from levit.export import ExportOptions
from levit.export.sources import load_source
from levit.models.ops import NumpyOps
from levit.relative_error import relative_error

pytestmark = pytest.mark.peers

VIT = {"img_size": 32, "embed_dim": 48, "depth": 2, "num_heads": 3}
LEVIT = {
    **{"img_size": 64, "embed_dim": [32, 48, 48], "key_dim": 16, "num_heads": [2, 3, 3]},
    **{"depth": [1, 1, 1], "mlp_ratio": 2},
}
HUGGING = {
    **{"hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 3},
    **{"intermediate_size": 96, "image_size": 32, "patch_size": 16, "num_labels": 5},
}


def load(path, **options):
    return load_source(ExportOptions(checkpoint=path, **options))


# ---------------------------------------------------------------------------- timm


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("vit_tiny_patch16_224", VIT),
        ("vit_tiny_patch16_224", {**VIT, "global_pool": "avg"}),
        ("levit_128s", LEVIT),
        ("levit_conv_128s", LEVIT),
    ],
)
def test_transformers_wrapper_around_timm(tmp_path, name, arguments):
    from transformers import TimmWrapperConfig, TimmWrapperForImageClassification

    config = TimmWrapperConfig(
        architecture=name, model_args=arguments, num_labels=5,
        problem_type="multi_label_classification",
    )  # fmt: skip
    network = real_networks.randomised(TimmWrapperForImageClassification(config), 1)
    network.save_pretrained(tmp_path)
    source = load(tmp_path)
    assert source.hints.scores == "sigmoid"
    real_networks.assert_answers(source, network.timm_model)


@pytest.mark.parametrize(
    ("name", "arguments"), [("vit_tiny_patch16_224", VIT), ("levit_128s", LEVIT)]
)
def test_a_folder_for_the_hub_of_timm(tmp_path, name, arguments):
    import timm
    from timm.models import save_for_hf

    network = timm.create_model(name, num_classes=5, **arguments)
    real_networks.randomised(network, 2)
    save_for_hf(network, str(tmp_path), model_args=arguments)
    source = load(tmp_path)
    assert not [text for text in source.assumed if text.startswith("image size")]
    real_networks.assert_answers(source, network)


# ---------------------------------------------------------------------------- transformers


@pytest.mark.parametrize("name", ["ViTMSN", "DPT", "Beit", "Yolos", "IJepa", "Dinov2"])
def test_other_classes_of_transformers_are_named_first(tmp_path, name):
    import transformers

    size = {"image_size": [32, 32]} if name == "Yolos" else {}
    config = getattr(transformers, f"{name}Config")(**{**HUGGING, **size})
    getattr(transformers, f"{name}Model")(config).save_pretrained(tmp_path)
    with pytest.raises(ConfigError) as caught:
        load(tmp_path)
    assert str(caught.value) == (
        f"config.json beside model.safetensors is of a {config.model_type!r}, which this release "
        f"does not read (it reads deit, levit, vit); if its network is one of these, correct the "
        f"model_type"
    )


def test_a_corrected_model_type_keeps_the_rest_of_the_config(tmp_path):
    import torch
    from transformers import ViTMSNConfig, ViTMSNModel

    config = ViTMSNConfig(**HUGGING, layer_norm_eps=0.01)
    network = real_networks.randomised(ViTMSNModel(config), 4)
    network.save_pretrained(tmp_path)
    stated = json.loads((tmp_path / "config.json").read_text())
    stated |= {"model_type": "vit", "architectures": ["ViTModel"]}
    (tmp_path / "config.json").write_text(json.dumps(stated))
    pictures = np.random.default_rng(0).normal(size=(2, 3, 32, 32))
    with torch.no_grad():
        expected = network.double()(torch.from_numpy(pictures)).last_hidden_state.numpy()
    model = load(tmp_path).model.with_plan(outputs=("features",))
    assert relative_error(model.forward(NumpyOps(), pictures)["features"], expected) < 1e-12


@pytest.mark.parametrize(("name", "prefix"), [("DeiT", "deit"), ("ViT", "vit")])
def test_the_backbone_of_masked_pretraining(tmp_path, name, prefix):
    import torch
    import transformers

    config = getattr(transformers, f"{name}Config")(**HUGGING)
    network = getattr(transformers, f"{name}ForMaskedImageModeling")(config)
    real_networks.randomised(network, 5).save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match=r"not used by this model: decoder\.0\.bias"):
        load(tmp_path)
    source = load(tmp_path, weights=prefix)
    assert f"left out: 1 tensor ({prefix}.embeddings.mask_token)" in source.assumed
    pictures = np.random.default_rng(0).normal(size=(2, 3, 32, 32))
    with torch.no_grad():
        backbone = getattr(network, prefix).double()
        expected = backbone(torch.from_numpy(pictures)).last_hidden_state.numpy()
    model = source.model.with_plan(outputs=("features",))
    assert relative_error(model.forward(NumpyOps(), pictures)["features"], expected) < 1e-12


# ---------------------------------------------------------------------------- tensors of tensors

SHARDED = (
    r"its head\.weight is a part of a tensor \(DTensor of FSDP2\): save a full state dict "
    r"\(torch\.distributed\.checkpoint\.state_dict\.get_model_state_dict with "
    r"full_state_dict=True\)$"
)
QUANTISED = r"its head\.weight is quantised by torchao: pass the checkpoint as it was trained$"


# Classes as torch 2.14, torch 2.4 and torchao 0.18 write them.
@pytest.mark.parametrize(
    ("kind", "words"),
    [
        (Name("torch.distributed.tensor", "DTensor"), SHARDED),
        (Name("torch.distributed._tensor.api", "DTensor"), SHARDED),
        (Name("torchao.quantization", "Int8Tensor"), QUANTISED),
        (Name("mine", "Tensor"), r"other things than tensors.*: head\.weight \(mine\.Tensor\)"),
    ],
    ids=lambda value: getattr(value, "module", None),
)
def test_tensors_that_are_made_of_others(tmp_path, kind, words):
    wrapper = Name("torch._utils", "_rebuild_wrapper_subclass")
    rebuilt = Call(Name("torch._tensor", "_rebuild_from_type_v2"), (wrapper, kind, (kind,), None))
    saved = {"head.weight": rebuilt, "head.bias": np.ones(3, np.float32)}
    under_net = {"net": saved, "optim": {"exp_avg": np.ones(3, np.float32)}}
    for whole in (saved, under_net, {"model": saved, "epoch": 3}):
        path = write_pth(tmp_path / "m.pth", whole)
        with pytest.raises(CheckpointError, match=words):
            load(path)


def test_what_fully_shard_leaves_in_a_state_dict(tmp_path):
    import torch
    from torch import distributed

    if not distributed.is_available():
        pytest.skip("this PyTorch has no torch.distributed")
    fsdp = pytest.importorskip("torch.distributed.fsdp")
    if not hasattr(fsdp, "fully_shard"):
        pytest.skip("this PyTorch has no fully_shard")
    from torch.distributed.device_mesh import init_device_mesh

    network = torch.nn.Sequential(OrderedDict(head=torch.nn.Linear(3, 3)))
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    try:
        fsdp.fully_shard(network, mesh=init_device_mesh("cpu", (1,)))
        torch.save(network.state_dict(), tmp_path / "m.pth")
    finally:
        distributed.destroy_process_group()
    with pytest.raises(CheckpointError, match=SHARDED):
        load(tmp_path / "m.pth")
