"""Names of PyTorch's wrappers at any depth, made by the real wrappers where they can be."""

import json
import re

import numpy as np
import pytest
import real_networks
from checkpoint_checks import refused
from pth_writer import write_pth

from levit.errors import CheckpointError
from levit.export import ExportOptions
from levit.export.sources import load_source
from levit.models.checkpoint import Checkpoint
from levit.models.containers.wrappers import clean_names, rewriting_in
from levit.models.random_weights import flatten
from levit.models.recognition import recognise
from levit.models.registry import FAMILIES

NETWORKS = ("levit", "vit", "transformers_levit")


def load(path, name, **options):
    if name == "vit":  # which says neither its heads nor that it is no DeiT
        stated = json.dumps({"num_heads": 3, "architecture": "vit_x"})
        path.with_name("config.json").write_text(stated)
        return load_source(ExportOptions(checkpoint=path, **options))
    return load_source(ExportOptions(checkpoint=path, image_size=64, **options))


def blocks_of(network):
    """(parent, name, block) of every block, at whatever depth."""
    kinds = ("LevitBlock", "LevitDownsample", "Block", "LevitResidualLayer", "LevitSubsample")
    for parent in list(network.modules()):
        for name, child in list(parent.named_children()):
            if type(child).__name__ in kinds:
                yield parent, name, child


def wrap_blocks(network, wrapper):
    for parent, name, block in list(blocks_of(network)):
        setattr(parent, name, wrapper(block))


def compiled(module):
    import torch

    return torch.compile(module)


def checkpointed(module):
    from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper

    return checkpoint_wrapper(module)


def offloaded(module):
    from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import offload_wrapper

    return offload_wrapper(module)


def data_parallel(module):
    import torch

    return torch.nn.DataParallel(module)


WRAPPERS = (compiled, checkpointed, offloaded, data_parallel)


def save(network, path, rename=lambda name: name):
    import torch

    torch.save({rename(name): value for name, value in network.state_dict().items()}, path)
    return path


@pytest.mark.peers
@pytest.mark.parametrize("wrapper", WRAPPERS, ids=lambda w: w.__name__)
@pytest.mark.parametrize("name", NETWORKS)
def test_wrapped_blocks_are_the_same_network(tmp_path, name, wrapper):
    network = getattr(real_networks, name)()
    plain = getattr(real_networks, name)()
    wrap_blocks(network, wrapper)
    if wrapper is checkpointed:  # whose own state_dict takes its name out
        names = {n for n, _ in network.named_parameters()}
        assert any("_checkpoint_wrapped_module" in n for n in names)
    path = save(network, tmp_path / "model.pth")
    real_networks.assert_answers(load(path, name), plain)


# Those that need a process group, or another library, by the names that they give.
PLACES = [
    ("", "_fsdp_wrapped_module"),
    ("_fsdp_wrapped_module.", "_fsdp_wrapped_module._checkpoint_wrapped_module"),
    ("module.", "_fpw_module"),
    ("", "module"),
    ("model.module.", "module.module"),
    ("_forward_module.model.", "_orig_mod.module"),
]


@pytest.mark.peers
@pytest.mark.parametrize(("front", "component"), PLACES)
@pytest.mark.parametrize("name", NETWORKS)
def test_wrappers_at_every_block_and_in_front(tmp_path, name, front, component):
    network = getattr(real_networks, name)()
    blocks = re.compile(
        r"((?:^|\.)(?:stages\.\d+\.blocks\.\d+|stages\.\d+\.downsample|blocks\.\d+"
        r"|stages\.\d+\.layers\.\d+)\.)"
    )
    path = save(
        network, tmp_path / "model.pth", lambda n: front + blocks.sub(rf"\g<1>{component}.", n)
    )
    real_networks.assert_answers(load(path, name), network)


@pytest.mark.peers
def test_the_backbone_alone_may_be_wrapped(tmp_path):
    network = real_networks.transformers_levit()
    path = save(network, tmp_path / "m.pth", lambda n: n.replace("levit.", "levit.module."))
    real_networks.assert_answers(load(path, "transformers_levit"), network)


@pytest.mark.peers
def test_the_manifest_names_the_prefix_without_wrappers(tmp_path):
    path = save(real_networks.levit(), tmp_path / "m.pth", lambda n: f"model.module.{n}")
    assert load(path, "levit").origin["prefix"] == "model."


@pytest.mark.parametrize("keymap", FAMILIES["levit"].keymaps, ids=lambda k: k.source)
def test_what_a_format_itself_calls_module_stays(keymap, make_small):
    model = make_small("conv" if keymap.conv else "tiny")
    tensors = flatten(model, keymap)
    found, _, matched = recognise(Checkpoint(tensors=tensors, origin={"file": "m"}))
    assert found.tensors.keys() == tensors.keys()
    assert matched.source == keymap.source
    own = any(".module." in name for name in tensors)
    assert bool(keymap.own_modules) == own == (keymap.source == "transformers")


def test_names_of_wrappers_go_at_any_depth():
    names = {
        "a._orig_mod.b": "a.b",
        "module._forward_module.c": "c",
        "d._fsdp_wrapped_module._checkpoint_wrapped_module.e": "d.e",
        "_module.f": "f",
        "g._orig_module.h": "g._orig_module.h",
    }
    assert list(clean_names(dict.fromkeys(names, 1), "m")) == list(names.values())


def test_two_names_that_wrappers_alone_tell_apart_are_an_error(tmp_path, make_small):
    with pytest.raises(CheckpointError, match=r"m: holds a\.b with and without a prefix"):
        clean_names({"a.b": 1, "a._orig_mod.b": 2}, "m")
    model = make_small("tiny")
    tensors = flatten(model, model.family.keymaps[0])
    name = "stages.0.blocks.0.attn.qkv.linear.weight"
    twice = {**tensors, name.replace(".attn", ".module.attn"): tensors[name]}
    path = write_pth(tmp_path / "m.pth", twice)
    with pytest.raises(CheckpointError, match=f"holds {name} with and without 'module.'"):
        load_source(ExportOptions(checkpoint=path, image_size=96))


REWRITTEN = {
    "flat": ("_fsdp_wrapped_module._flat_param", "flattened by FSDP: save a full state dict"),
    "parametrized": (
        "head.linear.parametrizations.weight.original0",
        r"parametrized .* call torch\.nn\.utils\.parametrize\.remove_parametrizations",
    ),
    "weight norm": ("head.linear.weight_g", "under weight norm: call torch.nn.utils.remove_weight"),
    "pruned": ("head.linear.weight_mask", r"pruned: call torch\.nn\.utils\.prune\.remove"),
    "prepared": (
        "stem.conv1.linear.weight_fake_quant.scale",
        "quantised by PyTorch, or prepared for it: pass the checkpoint as it was trained",
    ),
    "bitsandbytes": (
        "head.linear.weight.absmax",
        "quantised by bitsandbytes: pass the checkpoint as it was trained",
    ),
    # optimum-quanto 0.2.7
    "quanto": (
        "head.linear.weight._data",
        "quantised by optimum-quanto: pass the checkpoint as it was trained",
    ),
    # Names of peft 0.21: IA3, and the tuning of norms with a new classifier.
    "ia3": (
        "stages.0.blocks.0.attn.qkv.ia3_l.default",
        r"inside an adapter of peft: call merge_and_unload\(\) before saving",
    ),
    "new head": (
        "head.modules_to_save.default.linear.weight",
        r"inside an adapter of peft: call merge_and_unload\(\) before saving",
    ),
    "spectral": ("head.linear.weight_u", "under spectral norm: call"),
}


@pytest.mark.parametrize(("name", "words"), REWRITTEN.values(), ids=REWRITTEN)
def test_rewritten_weights_are_named(tmp_path, make_small, name, words):
    model = make_small("tiny")
    tensors = {**flatten(model, model.family.keymaps[0]), name: np.ones(3, np.float32)}
    if name.endswith("_flat_param"):
        tensors = {name: np.ones(3, np.float32)}
    path = write_pth(tmp_path / "m.pth", tensors)
    with pytest.raises(CheckpointError, match=f"its .*{re.escape(name.split('.')[-1])} is {words}"):
        load_source(ExportOptions(checkpoint=path, image_size=96))


@pytest.mark.peers
def test_rewritings_of_pytorch_itself():
    import torch
    from torch.nn.utils import parametrizations, prune, spectral_norm

    def layer():
        return torch.nn.Linear(3, 3)

    for module, words in (
        (parametrizations.weight_norm(layer()), "parametrized"),
        (spectral_norm(layer()), "spectral norm"),
        (prune.random_unstructured(layer(), "weight", 0.5), "pruned"),
    ):
        assert words in rewriting_in(module.state_dict())
    assert rewriting_in(layer().state_dict()) is None


def test_a_flat_parameter_beside_others_is_no_foreign_network(tmp_path):
    path = write_pth(tmp_path / "m.pth", {"_flat_param": np.ones(3, np.float32)})
    with pytest.raises(CheckpointError, match=r"not a checkpoint that this .*FSDP"):
        load_source(ExportOptions(checkpoint=path))
    assert refused(write_pth(tmp_path / "n.pth", {}), "holds no tensors")
