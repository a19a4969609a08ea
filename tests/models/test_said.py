"""Values beside the weights of a PyTorch file come out as plain Python, and nothing is made."""

import argparse
import pickle
import types
from pathlib import PurePosixPath

import numpy as np
import pytest
from checkpoint_checks import DATA, without_effects

from levit.errors import CheckpointError
from levit.models.containers.budget import Budget
from levit.models.containers.file import read_file
from levit.models.containers.restricted_pickle import Inert, read_pickle
from levit.models.containers.said import Said, stated_values
from levit.models.selection import select


def said(args, protocol=2):
    """`args` as it is after a pickle; torch.save writes protocol 2."""
    data = pickle.dumps({"args": args}, protocol)
    budget = Budget("a.pth", len(data))
    tree, _ = read_pickle(data, constructors={}, persistent=lambda identity: None, budget=budget)
    return stated_values(tree, "a.pth").values.get("args")


@pytest.mark.parametrize("protocol", [2, 4, 5])
@pytest.mark.parametrize("kind", [argparse.Namespace, types.SimpleNamespace])
def test_the_attributes_of_a_namespace_are_a_dict(kind, protocol):
    values = {"mean": [0.5], "betas": (0.9, 0.999), "out": "/runs", "lr": None, "ema": True}
    found = said(kind(**values, more=kind(nested=kind(depth=2))), protocol)
    assert found == {**values, "more": {"nested": {"depth": 2}}}


@pytest.mark.parametrize("protocol", [2, 5])
@pytest.mark.parametrize(
    "value",
    [np.float64(0.1), np.float32(0.5), np.float16(0.25), np.int64(-7), np.uint8(200), np.bool_(1)],
    ids=repr,
)
def test_a_number_of_numpy_is_a_number(value, protocol):
    found = said({"value": value}, protocol)["value"]
    assert found == value.item()
    assert type(found) is type(value.item())


@pytest.mark.parametrize("protocol", [2, 5])
def test_a_path_is_its_text(protocol):
    assert said({"to": PurePosixPath("/a/b"), "and": PurePosixPath("c")}, protocol) == {
        "to": "/a/b", "and": "c",
    }  # fmt: skip


class Settings(dict):
    """As EasyDict, AttributeDict and CfgNode are: a dict of a class of somebody's."""


def test_a_kind_of_dict_is_a_dict():
    assert said(Settings(a=1, b=Settings(c=2))) == {"a": 1, "b": {"c": 2}}


def omega(value):
    """A node as ``OmegaConf.create`` of omegaconf 2.4 pickles it: its state is all there is."""
    kind, content = "nodes.AnyNode", {"_val": value}
    if isinstance(value, dict):
        kind = "dictconfig.DictConfig"
        content = {"_content": {key: omega(entry) for key, entry in value.items()}}
    elif isinstance(value, list):
        kind, content = "listconfig.ListConfig", {"_content": [omega(entry) for entry in value]}
    return Inert(f"omegaconf.{kind}", state={"_metadata": None, "_parent": None, **content})


def test_the_containers_of_omegaconf():
    values = {"num_classes": 3, "mean": [0.5, 0.25], "more": {"lr": None}}
    tree = omega({**values, "reference": "${num_classes}", "missing": "???"})
    assert stated_values({"hyper_parameters": tree}, "a.pth").values["hyper_parameters"] == values


def test_a_setting_that_is_no_plain_data_is_told_aloud():
    tensor = Inert("torch._utils._rebuild_sparse_tensor")
    kwargs = {"act_layer": tensor, "norm_layer": tensor}
    args = {"mean": tensor, "std": [tensor] * 3, "device": tensor, "model_kwargs": kwargs}
    found = stated_values({"args": args, "classes": tensor, "optimizer": tensor}, "a.pth")
    assert found.values == {"args": {"model_kwargs": {}}}
    assert found.notes == tuple(
        f"{name}, stated beside the weights, is a tensor or an object and is not read"
        for name in ("act_layer of args", "mean of args", "std of args", "classes")
    )


def test_what_has_no_plain_form_is_left_out_and_its_neighbours_are_not():
    args = {"class": argparse.Namespace, "array": np.zeros(2), "list": [1, {2}], "left": 3}
    assert said(args) == {"class": "Namespace", "left": 3}
    assert said({"large": 2**64, "left": 2**64 - 1}) == {"left": 2**64 - 1}
    assert stated_values(["no", "dict"], "a.pth") == Said()
    assert stated_values({"epoch": 3, "optimizer": {}}, "a.pth") == Said()


def nested(depth):
    value = 1
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize(
    "value",
    [nested(40), [0] * 300_000, ["x" * 10_000] * 2_000],
    ids=["deep", "long", "much text"],
)
def test_what_no_training_writes_is_refused(value):
    with pytest.raises(CheckpointError, match=r"^a\.pth: 'args' beside the weights is deeper or"):
        stated_values({"args": value}, "a.pth")


def test_what_holds_itself_is_refused():
    loop = {}
    loop["loop"] = loop
    with pytest.raises(CheckpointError, match="deeper"):
        stated_values({"meta": loop}, "a.pth")
    twice = Inert("argparse.Namespace")
    twice.state = {"itself": twice}
    with pytest.raises(CheckpointError, match="deeper"):
        stated_values({"args": twice}, "a.pth")
    # Shared a billion times over, though a few bytes.
    wide = [1] * 10
    for _ in range(9):
        wide = [wide] * 10
    with pytest.raises(CheckpointError, match="larger"):
        stated_values({"args": wide}, "a.pth")


@pytest.mark.parametrize(
    "value",
    [
        Inert("argparse.Namespace"),
        Inert("argparse.Namespace", state=(1, 2)),
        Inert("pathlib.PosixPath", (1,)),
        Inert("numpy.core.multiarray.scalar"),
        Inert("numpy.core.multiarray.scalar", (Inert("numpy.dtype", ("f8",)), b"1234")),
        Inert("numpy.core.multiarray.scalar", (Inert("numpy.dtype", ("O8",)), b"12345678")),
        Inert("numpy.core.multiarray.scalar",
              (Inert("numpy.dtype", ("f8",)), Inert("_codecs.encode", ("\u0394" * 8, "latin1")))),
        Inert("os.system", ("touch x",), state={"a": 1}),
    ],
    ids=lambda value: value.name,
)  # fmt: skip
def test_what_is_malformed_is_left_out(value):
    assert stated_values({"args": {"odd": value, "left": 1}}, "a.pth").values["args"] in (
        {"left": 1},
        {"odd": {}, "left": 1},
    )


def test_averages_without_names_are_told_of():
    # torch_ema 0.3 and EMAModel of diffusers.
    ema = {"decay": 0.9, "num_updates": 3, "shadow_params": [Inert("a tensor")]}
    assert stated_values({"model": {}, "ema": ema}, "a.pth").notes == (
        "ema.shadow_params: averaged weights, which are not read, as they have no names",
    )
    for odd in ([], (), None, 3, "text", Inert("a tensor")):
        assert stated_values({"ema": {"shadow_params": odd}}, "a.pth").notes == ()


def test_what_real_files_say():
    with without_effects():
        for name in ("levit_main.pth", "timm_saver.pth.tar"):
            args = read_file(DATA / name, None, select).said["args"]
            assert (args["model"], args["betas"]) == ("LeViT_128S", (0.9, 0.999))
        meta = read_file(DATA / "mmengine_runner.pth", None, select).said["meta"]
    assert (meta["epoch"], meta["path"], meta["cfg"]) == (3, "a", "\n")
