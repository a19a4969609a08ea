"""Files from before PyTorch's zip format: read as data, within the limits of the zip form."""

import io
import pickle
import subprocess
import sys
import tarfile
import warnings

import numpy as np
import pytest
from checkpoint_checks import DATA, refused, same
from pth_writer import Call, Name, Persistent, pickled, tensor

from levit.models.checkpoint import read_checkpoint

LEGACY = DATA / "legacy.pth"
HEAD = b"".join(
    pickle.dumps(value, 2)
    for value in (0x1950A86A20F9469CFC6C, 1001, {"protocol_version": 1001, "little_endian": True})
)


def stored(key, length, kind="FloatStorage", view=None):
    return Persistent(("storage", Name("torch", kind), key, "cpu", length, view))


def written(path, tree, storages=None, keys=None):
    """(path, tree, {key: array}) → the path of a file as PyTorch 1.5 makes them."""
    storages = storages or {}
    data = HEAD + (tree if isinstance(tree, bytes) else pickled(tree))
    data += pickle.dumps(sorted(storages) if keys is None else keys, 2)
    for key in sorted(storages):
        data += len(storages[key]).to_bytes(8, "little") + storages[key].tobytes()
    path.write_bytes(data)
    return path


VALUES = np.arange(6, dtype=np.float32)


def test_they_are_read_without_pytorch():
    with np.load(DATA / "expected.npz") as archive:
        start = f"{LEGACY.name}:"
        expected = {k.removeprefix(start): archive[k] for k in archive.files if k.startswith(start)}
    assert expected
    checkpoint = read_checkpoint(LEGACY)
    same(checkpoint.tensors, expected)
    assert checkpoint.origin["key"] == "model"
    code = (
        "import sys; from pathlib import Path\n"
        "from levit.models.checkpoint import read_checkpoint\n"
        f"read_checkpoint(Path({str(LEGACY)!r}))\n"
        f"read_checkpoint(Path({str(DATA / 'levit_main.pth')!r}))\n"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.peers
def test_half_types_and_views(tmp_path):
    import torch

    base = torch.arange(6.0).reshape(2, 3) / 7
    state = {"a": base.half(), "b": base.bfloat16(), "c": base.t(), "d": torch.nn.Parameter(base)}
    state |= {"e": base[:, 1:], "f": base > 0.5, "g": torch.arange(3), "h": base[0, 0], "i": base}
    path = tmp_path / "m.pth"
    torch.save(state, path, _use_new_zipfile_serialization=False)
    expected = {
        k: (v.detach().float() if v.is_floating_point() else v).contiguous().numpy()
        for k, v in state.items()
    }
    same(read_checkpoint(path).tensors, expected)


@pytest.mark.peers
def test_a_whole_network_is_refused_with_its_class(tmp_path):
    import torch

    path = tmp_path / "m.pth"
    torch.save(torch.nn.Linear(2, 2), path, _use_new_zipfile_serialization=False)
    refused(path, r"holds torch\.nn\.modules\.linear\.Linear, not tensors by name")


def test_what_stands_beside_the_weights_is_read():
    # PyTorch's own restricted loader refuses the class; here it is a name.
    assert read_checkpoint(DATA / "legacy_namespace.pth").tensors


@pytest.mark.parametrize("keep", [20, 100, 500, -1])
def test_truncated(tmp_path, keep):
    path = tmp_path / "m.pth"
    path.write_bytes(LEGACY.read_bytes()[:keep])
    refused(path, "download or save it again")


@pytest.mark.peers
def test_sparse_and_quantised_are_named(tmp_path):
    import torch

    path = tmp_path / "m.pth"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # quantised tensors are deprecated
        quantised = torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8)
        for kind, value in (("sparse", torch.eye(2).to_sparse()), ("quantised", quantised)):
            torch.save({"w": value}, path, _use_new_zipfile_serialization=False)
            refused(path, rf"w \(a {kind} tensor\)")


def test_a_tensor_that_is_larger_than_the_file(tmp_path):
    tree = {"w": tensor(stored("0", 1), (2_000_000_000,), (0,))}
    refused(written(tmp_path / "a.pth", tree, {"0": VALUES[:1]}), "claim to be larger than")
    # Each may be shared, and all of them together be too much.
    one = tensor(stored("0", 6), (60_000,), (0,))
    tree = {f"w{i}": one for i in range(50)}
    refused(written(tmp_path / "b.pth", tree, {"0": VALUES}), "claim to be larger than the file")


@pytest.mark.parametrize(
    ("tree", "storages", "keys", "match"),
    [
        ({"w": tensor(stored("0", 7), (6,), (1,))}, {"0": VALUES}, None, "ends before its stor"),
        ({"w": tensor(stored("0", 5), (5,), (1,))}, {"0": VALUES}, None, "of another length"),
        ({"w": tensor(stored("0", 6), (7,), (1,))}, {"0": VALUES}, None, "beyond its storage"),
        ({"w": tensor(stored("0", 6), (6,), (1,))}, {}, None, "a storage is missing"),
        ({"w": tensor(stored("0", 1 << 40), (6,), (1,))}, {"0": VALUES}, None, "ends before"),
        ({"w": tensor(stored("0", 6), (6,), (1,))}, {"0": VALUES}, ["0", "0"], "names, or one tw"),
        ({"w": tensor(stored("0", 6), (6,), (1,))}, {"0": VALUES}, [0], "names, or one twice"),
        ({"w": tensor(stored("0", 6), (6,), (1,))}, {"0": VALUES}, "0", "list of storages is no"),
        ({"w": tensor(stored("0", 6), (6,), (1,))}, {"1": VALUES}, None, "that no tensor names"),
        ({"w": tensor(stored("0", 6, "NoStorage"), (6,), (1,))}, {"0": VALUES}, None, "names"),
        (
            {"w": tensor(stored("0", 6, view=("1", 0, 3)), (3,), (1,))},
            {"0": VALUES},
            None,
            "a view of a storage",
        ),
    ],
)
def test_storages_that_cannot_be(tmp_path, tree, storages, keys, match):
    refused(written(tmp_path / "m.pth", tree, storages, keys), match)


def test_pickles_are_data(tmp_path):
    flag = tmp_path / "flag"
    attack = Call(Name("posix", "system"), (f"touch {flag}",))
    tree = {"model": {"w": tensor(stored("0", 6), (2, 3), (3, 1))}, "x": attack}
    same(
        read_checkpoint(written(tmp_path / "m.pth", tree, {"0": VALUES})).tensors,
        {"w": VALUES.reshape(2, 3)},
    )
    assert not flag.exists()


def test_pickles_longer_than_the_part_that_is_read_first(tmp_path):
    text = "x" * (5 << 20)
    tree = {"model": {"w": tensor(stored("0", 6), (6,), (1,))}, "text": text}
    same(read_checkpoint(written(tmp_path / "m.pth", tree, {"0": VALUES})).tensors, {"w": VALUES})


@pytest.mark.parametrize("version", [1000, "1001", None])
def test_another_version(tmp_path, version):
    path = tmp_path / "m.pth"
    head = pickle.dumps(0x1950A86A20F9469CFC6C, 2) + pickle.dumps(version, 2)
    path.write_bytes(head + b"".join(pickle.dumps(value, 2) for value in ({}, {}, [])))
    refused(path, "of another version")


def test_tar_files_are_refused(tmp_path):
    path = tmp_path / "m.tar"
    with tarfile.open(path, "w") as archive:
        for name in ("sys_info", "pickle", "tensors", "storages"):
            member = tarfile.TarInfo(f"./{name}")
            archive.addfile(member, io.BytesIO())
    refused(path, "a tar file, as the first versions of PyTorch wrote")
