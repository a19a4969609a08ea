"""Which part of a saved object is taken, held against timm's own loader."""

from collections import OrderedDict

import numpy as np
import pytest
from checkpoint_checks import refused, same
from pth_writer import Call, Name, write_pth

from levit.errors import CheckpointError
from levit.models.checkpoint import read_checkpoint
from levit.models.containers.budget import Budget
from levit.models.containers.listing import listing
from levit.models.containers.state_dict import weight_sets
from levit.models.containers.wrappers import clean_names
from levit.models.selection import select


def weights(value):
    return {"weight": np.full(3, value, np.float32)}


def choose(saved):
    sets = weight_sets(
        saved, lambda value: isinstance(value, np.ndarray), "m.pth", Budget("m.pth", 0)
    )
    return select(sets, None, "m.pth")


@pytest.mark.parametrize(
    ("keys", "key"),
    [
        ((), None),
        (("model",), "model"),
        (("state_dict",), "state_dict"),
        (("model", "state_dict"), "state_dict"),
        (("model", "model_ema"), "model_ema"),
        (("state_dict", "state_dict_ema"), "state_dict_ema"),
        (("state_dict", "model", "model_ema", "state_dict_ema"), "state_dict_ema"),
        (("state_dict", "ema_state_dict"), "state_dict"),
        (("model", "optimizer", "epoch"), "model"),
        (("epoch", "model_state_dict", "optimizer_state_dict"), "model_state_dict"),
        (("model_state_dict", "model_ema"), "model_ema"),
    ],
)
def test_averaged_weights_come_first(tmp_path, keys, key):
    saved = {name: weights(i) for i, name in enumerate(keys)} if keys else weights(0)
    checkpoint = read_checkpoint(write_pth(tmp_path / "m.pth", saved))
    same(checkpoint.tensors, weights(keys.index(key) if key else 0))
    assert checkpoint.origin.get("key") == key
    assert ("key" in checkpoint.origin) == (key is not None)


@pytest.mark.peers
@pytest.mark.parametrize("averaged", ["none", "None", "state_dict_ema", "model_ema"])
@pytest.mark.parametrize("plain", ["state_dict", "model", "both"])
@pytest.mark.parametrize(
    "prefix", ["", "module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module.",
               "_orig_mod.module._orig_mod.", "module.module."]
)  # fmt: skip
def test_as_timm_takes_it(tmp_path, averaged, plain, prefix):
    import torch
    from timm.models._helpers import load_state_dict

    keys = ("state_dict", "model") if plain == "both" else (plain,)
    saved = {key: OrderedDict({f"{prefix}{key}.weight": torch.ones(2)}) for key in keys}
    if averaged == "None":
        saved |= {"state_dict_ema": None, "model_ema": None}
    elif averaged != "none":
        saved[averaged] = {f"{prefix}{averaged}.weight": torch.ones(2)}
    path = tmp_path / "m.pth"
    torch.save(saved, path)
    assert set(read_checkpoint(path).tensors) == set(load_state_dict(path))


def test_prefixes_go_from_safetensors_too(tmp_path):
    from safetensors.numpy import save_file

    save_file({"module._orig_mod.weight": np.zeros(3)}, tmp_path / "m.safetensors")
    assert list(read_checkpoint(tmp_path).tensors) == ["weight"]


def test_a_prefix_must_be_at_the_start():
    names = {"stem.module.weight": 1, "modules.weight": 2, "_orig_module.weight": 3}
    assert clean_names(names, "m") == names


def test_a_name_with_and_without_a_prefix_is_an_error():
    with pytest.raises(CheckpointError, match="m: holds a with and without a prefix"):
        clean_names({"a": 1, "module.a": 2}, "m")


def test_metadata_among_the_tensors_is_left_out():
    assert choose({"a": np.ones(1), "_metadata": {"": {"version": 1}}}).names == ["a"]


@pytest.mark.parametrize(
    ("saved", "match"),
    [
        (3, "holds int, not tensors by name; save model.state_dict()"),
        (None, "holds None, not"),
        ([np.ones(1)], "holds list, not"),
        (np.ones(1), "holds a tensor, not"),
        ({}, "holds no tensors by name; save"),
        ({"net": {"a": 3}, "epoch": 3}, r"by name but net \(dict\), epoch \(int\)"),
        ({"a": np.ones(1), "b.c": 3}, r"other things than tensors: b\.c \(int\); take them out"),
        ({"a": np.ones(1), "b": [3]}, r"other things than tensors: b \(list\)"),
        ({"a": np.ones(1), "x._extra_state": {}}, r"tensors: x\._extra_state \(dict\)"),
        ({"a": np.ones(1), 3: np.ones(1)}, r"a key \(a tensor\)"),
        ({"model": {"a": np.ones(1), "b": [3]}}, r"under 'model': b \(list\)"),
        (
            {"a": {"x": np.ones(1)}, "b": {"x": np.ones(1)}},
            r"several sets .*\(a, b\), none",
        ),
        ({"model": {"net": {}}}, r"under 'model': net \(dict\)"),
        ({"model": [1], "state_dict_ema": None}, "holds list under 'model', not tensors"),
        ({"a\nb": 3}, r"by name but 'a\\nb \(int\)'"),
    ],
)
def test_what_is_no_state_dict(saved, match):
    with pytest.raises(CheckpointError, match=match) as caught:
        choose(saved)
    assert str(caught.value).isprintable()


def test_a_network_is_named(tmp_path):
    network = Call(Name("timm.models.levit", "Levit"), (), {"training": False})
    for saved, where in ((network, ""), ({"model": network}, " under 'model'")):
        path = write_pth(tmp_path / "m.pth", saved)
        refused(path, f"holds timm.models.levit.Levit{where}, not tensors by name")


def test_numpy_arrays_among_the_tensors_are_named(tmp_path):
    array = Call(Name("numpy._core.multiarray", "_reconstruct"), (Name("numpy", "ndarray"),))
    path = write_pth(tmp_path / "m.pth", {**weights(1), "x": array})
    refused(path, r"other things than tensors: x \(a NumPy array\)")


def test_a_tensor_may_be_called_model():
    found = choose({"model": np.ones(1), "state_dict": np.ones(1), "a": np.ones(1)})
    assert (set(found.names), found.weights.key) == ({"model", "state_dict", "a"}, None)


def test_an_empty_state_dict_holds_no_tensors(tmp_path):
    refused(write_pth(tmp_path / "m.pth", {}), "holds no tensors")
    saved = {"model": weights(1), "model_ema": {}}
    refused(write_pth(tmp_path / "m.pth", saved), "holds no tensors under 'model_ema'")


def test_a_list_of_names_is_one_line():
    assert listing(["a", "b\n"]) == "a, 'b\\n'"
    assert listing([f"{i}" for i in range(14)]).endswith("11 and 2 more")
    assert len(listing(["x" * 10_000])) < 110
