"""Files of torch.save without PyTorch: real ones, and every way in which a tensor may lie."""

import subprocess
import sys
import textwrap
import warnings
import zipfile

import numpy as np
import pytest
from checkpoint_checks import DATA, refused, same, without_effects
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pth_writer import Call, Name, Persistent, pickled, storage, tensor, write_pth, write_zip

from levit.models.checkpoint import read_checkpoint

WEIGHTS = {"weight": np.arange(6, dtype=np.float32).reshape(2, 3)}

# Of real libraries, by scripts/make_pth_fixtures.py: file → key that holds the weights.
REAL = {
    "levit_main.pth": "model_ema",
    "timm_saver.pth.tar": "state_dict_ema",
    "timm_without_average.pth": "state_dict",
    "mmengine_runner.pth": "state_dict",
    "views.pth": None,
    "odd_neighbours.pth": "model",
    "no_checksums.pth": None,
    "newer_protocol.pth": "model",
}


# ---------------------------------------------------------------------------- real files


@pytest.mark.parametrize("name", REAL)
def test_real_files(name):
    with np.load(DATA / "expected.npz") as archive:
        expected = {
            key.removeprefix(f"{name}:"): archive[key]
            for key in archive.files
            if key.startswith(f"{name}:")
        }
    assert expected
    with without_effects():
        checkpoint = read_checkpoint(DATA / name)
    same(checkpoint.tensors, expected)
    assert all(tensor.flags.c_contiguous for tensor in checkpoint.tensors.values())
    assert checkpoint.origin.get("key") == REAL[name]


@pytest.mark.parametrize(
    ("name", "match"),
    [
        ("whole_network.pth", r"holds __main__\.Network, not tensors by name"),
        ("unusable_sparse.pth", r"weight \(a sparse tensor\)"),
        ("unusable_meta.pth", r"weight \(a meta tensor"),
        ("unusable_quantised.pth", r"weight \(a quantised tensor\)"),
        ("unusable_conjugate.pth", r"weight \(a tensor that is to be negated or conjugated\)"),
        ("unusable_float8.pth", "weight is float8_e4m3fn, which is not supported"),
    ],
)
def test_real_files_without_usable_weights(name, match):
    refused(DATA / name, match)


def test_no_pytorch_is_needed():
    code = f"""
        import sys
        for name in ("torch", "safetensors", "timm", "ml_dtypes"):
            sys.modules[name] = None
        from pathlib import Path
        from levit.models.checkpoint import read_checkpoint
        for name in {list(REAL)}:
            assert read_checkpoint(Path({str(DATA)!r}) / name).tensors
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=True)


@pytest.mark.peers
def test_torchscript_says_what_to_do(tmp_path):
    import torch

    path = tmp_path / "model.pt"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it is deprecated
        torch.jit.trace(torch.nn.Linear(2, 2), torch.ones(1, 2)).save(path)
    refused(path, "a TorchScript archive, which holds code")


def test_torchscript_is_known_by_its_constants(tmp_path):
    members = {"constants.pkl": pickled(())}
    refused(write_pth(tmp_path / "m.pt", WEIGHTS, members=members), "a TorchScript archive")


# ---------------------------------------------------------------------------- how tensors lie


@pytest.mark.parametrize("kind", ["float64", "float32", "int64", "int32", "uint8", "bool"])
def test_dtypes(tmp_path, kind):
    values = np.arange(6).reshape(2, 3).astype(kind)
    same(read_checkpoint(write_pth(tmp_path / "m.pth", {"a": values})).tensors, {"a": values})


@pytest.mark.parametrize("folder", ["archive", "model", "a b", "..", "é", "C:"])
def test_the_folder_in_the_archive_has_any_name(tmp_path, folder):
    path = write_pth(tmp_path / "m.pth", WEIGHTS, folder=folder)
    same(read_checkpoint(path).tensors, WEIGHTS)


@pytest.mark.parametrize("kind", ["float64", "float32", "float16", "int64"])
def test_big_endian(tmp_path, kind):
    values = np.arange(6).astype(kind)
    big = values.astype(values.dtype.newbyteorder(">"))
    names = {"float64": "Double", "float32": "Float", "float16": "Half", "int64": "Long"}
    tree = {"a": tensor(storage("0", 6, f"{names[kind]}Storage"), (6,), (1,))}
    members = {"byteorder": b"big"}
    path = write_pth(tmp_path / "m.pth", tree, {"0": big.tobytes()}, members=members)
    expected = values.astype(np.float32) if kind == "float16" else values
    same(read_checkpoint(path).tensors, {"a": expected})


def test_big_endian_bfloat16(tmp_path):
    values = np.array([1.5, -2.25, 3.0], np.float32)
    upper = (values.view(np.uint32) >> 16).astype(">u2")
    tree = {"a": tensor(storage("0", 3, "BFloat16Storage"), (3,), (1,))}
    members = {"byteorder": b"big"}
    path = write_pth(tmp_path / "m.pth", tree, {"0": upper.tobytes()}, members=members)
    same(read_checkpoint(path).tensors, {"a": values})


def test_another_byte_order_is_refused(tmp_path):
    path = write_pth(tmp_path / "m.pth", WEIGHTS, members={"byteorder": b"middle"})
    refused(path, "byte order")


def test_a_bool_is_any_byte_but_zero(tmp_path):
    tree = {"a": tensor(storage("0", 3, "BoolStorage"), (3,), (1,))}
    path = write_pth(tmp_path / "m.pth", tree, {"0": b"\x00\x02\xff"})
    assert read_checkpoint(path).tensors["a"].tobytes() == b"\x00\x01\x01"


def test_tensors_of_one_storage_share_memory(tmp_path):
    whole = tensor(storage("0", 6), (6,), (1,))
    tree = {"a": whole, "b": whole, "c": tensor(storage("0", 6), (2,), (1,), offset=4)}
    values = np.arange(6, dtype=np.float32)
    found = read_checkpoint(write_pth(tmp_path / "m.pth", tree, {"0": values.tobytes()})).tensors
    same(found, {"a": values, "b": values, "c": values[4:]})
    assert np.shares_memory(found["a"], found["c"])


def test_what_is_not_read_is_not_touched(tmp_path):
    # The optimizer's storage is missing, and nobody asks for it.
    tree = {"model": WEIGHTS, "optimizer": {"a": tensor(storage("gone", 6), (6,), (1,))}}
    same(read_checkpoint(write_pth(tmp_path / "m.pth", tree)).tensors, WEIGHTS)


def rebuilt(function, *arguments):
    module, _, name = function.rpartition(".")
    return Call(Name(module, name), arguments)


PLAIN = tensor(storage("0", 6), (2, 3), (3, 1))


@pytest.mark.parametrize(
    "value",
    [
        rebuilt("torch._utils._rebuild_tensor", storage("0", 6), 0, (2, 3), (3, 1)),
        rebuilt("torch._utils._rebuild_parameter", PLAIN, True, {}),
        rebuilt("torch._utils._rebuild_parameter_with_state", PLAIN, True, {}, {"a": 1}),
        rebuilt(
            "torch._tensor._rebuild_from_type_v2",
            Name("torch._utils", "_rebuild_tensor_v2"),
            Name("torch.nn.parameter", "Parameter"),
            (storage("0", 6), 0, (2, 3), (3, 1), False, {}),
            {"label": 1},
        ),
        rebuilt(
            "torch._utils._rebuild_tensor_v3",
            storage("0", 24, "UntypedStorage"), 0, (2, 3), (3, 1), False, {},
            Name("torch", "float32"),
        ),
        rebuilt(
            "torch._utils._rebuild_device_tensor_from_cpu_tensor",
            PLAIN, Name("torch", "float32"), "xla:0", False,
        ),
        tensor(storage("0", 6), rebuilt("torch.Size", (2, 3)), (3, 1)),
    ],
)  # fmt: skip
def test_ways_to_rebuild_a_tensor(tmp_path, value):
    path = write_pth(tmp_path / "m.pth", {"weight": value}, {"0": WEIGHTS["weight"].tobytes()})
    same(read_checkpoint(path).tensors, WEIGHTS)


@pytest.mark.parametrize(
    ("value", "match"),
    [
        (tensor(storage("0", 6), (7,), (1,)), "reaches beyond its storage"),
        (tensor(storage("0", 6), (6,), (2,)), "reaches beyond its storage"),
        (tensor(storage("0", 6), (6,), (1,), offset=1), "reaches beyond its storage"),
        (tensor(storage("0", 6), (), (), offset=6), "reaches beyond its storage"),
        (tensor(storage("0", 6), (1,), (1,), offset=2**47), "reaches beyond its storage"),
        (tensor(storage("0", 6), (2, 3), (2**47, 2**47)), "reaches beyond its storage"),
        (tensor(storage("0", 7), (6,), (1,)), "another length than its pickle says"),
        (tensor(storage("0", 5), (5,), (1,)), "another length than its pickle says"),
        (tensor(storage("0", 6, "DoubleStorage"), (6,), (1,)), "reaches beyond|another length"),
        (tensor(storage("1", 6), (6,), (1,)), "'archive/data/1' is missing"),
        (tensor(storage("../data.pkl", 6), (6,), (1,)), "is missing"),
        (tensor(storage("0", 6), (-1,), (1,)), "no sensible shape"),
        (tensor(storage("0", 6), (6,), (-1,), offset=5), "no sensible shape"),
        (tensor(storage("0", 6), (6,), (1,), offset=-1), "no sensible shape"),
        (tensor(storage("0", 6), (6,), ()), "no sensible shape"),
        (tensor(storage("0", 6), (2, 3), (1,)), "no sensible shape"),
        (tensor(storage("0", 6), [6], [1]), "no sensible shape"),
        (tensor(storage("0", 6), (6.0,), (1,)), "no sensible shape"),
        (tensor(storage("0", 6), ("6",), (1,)), "no sensible shape"),
        (tensor(storage("0", 6), (True,), (1,)), "no sensible shape"),
        (tensor(storage("0", 6), None, None), "no sensible shape"),
        (tensor(storage("0", 6), (1,) * 33, (1,) * 33), "no sensible shape"),
        (tensor(storage("0", 6), (2**48,), (0,)), "no sensible shape"),
        (tensor(storage("0", 6), (2**70,), (0,)), "no sensible shape"),
        (tensor(storage("0", 6), (0, 2**40, 2**40), (1, 1, 1)), "no sensible shape"),
        (tensor(storage("0", 6), (2**40,), (0,)), "larger than the file"),
        (tensor(storage("0", 6), (2**30, 2**30), (0, 0)), "larger than the file"),
        (tensor(storage("0", 6, "QInt8Storage"), (6,), (1,)), "QInt8Storage, which is not"),
        (tensor(storage("0", 6, "\x1b[31m"), (6,), (1,)), "which is not supported"),
        (tensor(storage("0", -6), (6,), (1,)), "data.pkl cannot be read"),
        (tensor(storage("0", 2**60), (6,), (1,)), "data.pkl cannot be read"),
        (tensor(Persistent(("module", Name("a", "b"))), (6,), (1,)), "data.pkl cannot be read"),
        (tensor(Persistent("storage"), (6,), (1,)), "data.pkl cannot be read"),
        (tensor(Call(Name("os", "system"), ("true",)), (6,), (1,)), "data.pkl cannot be read"),
        (tensor(None, (6,), (1,)), "data.pkl cannot be read"),
        (Call(Name("torch._utils", "_rebuild_tensor_v2"), (1, 2)), "data.pkl cannot be read"),
        (tensor(storage("0", 6), (6,), (1,), metadata={"neg": True}), "to be negated"),
        (storage("0", 6), r"weight \(storage\)"),
        (rebuilt("torch._utils._rebuild_device_tensor_from_cpu_tensor", PLAIN,
                 Name("torch", "float16"), "xla:0", False), "of another dtype"),
        (rebuilt("torch._tensor._rebuild_from_type_v2", Name("os", "system"), 0, ("true",), 0),
         r"weight \(os\.system\)"),
        (rebuilt("torch._tensor._rebuild_from_type_v2",
                 Name("torch._tensor", "_rebuild_from_type_v2"), 0, (), 0), "weight"),
        (rebuilt("torch._tensor._rebuild_from_type_v2", 1, 0, (), 0), "data.pkl cannot be read"),
        (rebuilt("torch._utils._rebuild_tensor_v3", storage("0", 24, "UntypedStorage"), 0, (6,),
                 (1,), False, {}, "float32"), "data.pkl cannot be read"),
        (rebuilt("torch._utils._rebuild_tensor_v3", storage("0", 24, "UntypedStorage"), 0, (6,),
                 (1,), False, {}, Name("torch", "float64")), "reaches beyond"),
    ],
)  # fmt: skip
def test_tensors_that_cannot_be(tmp_path, value, match):
    values = np.arange(6, dtype=np.float32)
    refused(write_pth(tmp_path / "m.pth", {"weight": value}, {"0": values.tobytes()}), match)


def test_a_small_file_does_not_become_large_by_sharing(tmp_path):
    values = np.arange(1 << 18, dtype=np.float32)
    tree = {f"a{i}": tensor(storage("0", 1 << 18), (1 << 18,), (1,)) for i in range(4)}
    path = write_pth(tmp_path / "m.pth", tree, {"0": values.tobytes()})
    assert len(read_checkpoint(path).tensors) == 4
    one = tensor(storage("0", 1 << 18), (1 << 18,), (1,))
    for tree in (
        {f"a{i}": one for i in range(10)},
        {"a": tensor(one.arguments[0], (1 << 22,), (0,))},
    ):
        path = write_pth(tmp_path / "m.pth", tree, {"0": values.tobytes()})
        refused(path, "claim to be larger than the file")


def test_numbers_that_are_not_finite_are_named_here_too(tmp_path):
    path = write_pth(tmp_path / "m.pth", {"a": np.array([1, np.nan], np.float32)})
    refused(path, "NaN or infinite values in a")


# ---------------------------------------------------------------------------- other zip files


def test_other_zip_files(tmp_path):
    np.savez(tmp_path / "m.npz", a=np.zeros(3))
    refused(tmp_path / "m.npz", "an .npz of NumPy arrays, not a checkpoint that this release reads")
    refused(write_zip(tmp_path / "a.pth", {"x/data.pkl": b"."}), r"of torch.save \(it holds")
    refused(write_zip(tmp_path / "b.pth", {"data.pkl": b"."}, folder=""), r"\(it holds data.pkl: p")
    with zipfile.ZipFile(tmp_path / "c.pth", "w") as archive:
        archive.writestr("a/data.pkl", b".")
        archive.writestr("b/data.pkl", b".")
    refused(tmp_path / "c.pth", r"\(it holds a/data.pkl, b/data.pkl: pass a")
    zipfile.ZipFile(tmp_path / "d.pth", "w").close()
    refused(tmp_path / "d.pth", "PyTorch checkpoint")


def test_a_compressed_data_pkl(tmp_path):
    path = write_pth(tmp_path / "m.pth", WEIGHTS, compression=zipfile.ZIP_DEFLATED)
    refused(path, "data.pkl' is compressed or encrypted, which PyTorch does not do")


@pytest.mark.parametrize("keep", [5, 30, 100, 0.5, 0.9, 0.99])
def test_truncated(tmp_path, keep):
    path = tmp_path / "m.pth"
    data = (DATA / "levit_main.pth").read_bytes()
    path.write_bytes(data[: keep if isinstance(keep, int) else int(len(data) * keep)])
    refused(path, "damaged or truncated .*download or save it again|PyTorch checkpoint")


def test_bytes_before_and_after(tmp_path):
    data = (DATA / "levit_main.pth").read_bytes()
    path = tmp_path / "m.pth"
    path.write_bytes(data + b"after")
    assert read_checkpoint(path).tensors
    path.write_bytes(b"before" + data)
    refused(path, "not a .safetensors file, nor a PyTorch checkpoint")


def test_members_that_climb_out(tmp_path, monkeypatch):
    inside = tmp_path / "inside"
    inside.mkdir()
    monkeypatch.chdir(inside)
    members = {"../../escaped": b"1", "data/../../../escaped": b"2"}
    path = write_pth(inside / "m.pth", WEIGHTS, members=members)
    with without_effects():
        same(read_checkpoint(path).tensors, WEIGHTS)
    assert [p.name for p in tmp_path.rglob("*")] == ["inside", "m.pth"]


# ---------------------------------------------------------------------------- PyTorch itself

SHAPES = st.lists(st.integers(0, 4), max_size=4).map(tuple)
KINDS = ["float64", "float32", "float16", "bfloat16", "int64", "int8", "uint16", "bool"]


@st.composite
def torch_tensors(draw):
    """A tensor, or a view of one: of part of it, transposed, expanded, at any offset."""
    import torch

    kind = getattr(torch, draw(st.sampled_from(KINDS)))
    shape = draw(SHAPES)
    base = torch.arange(np.prod(shape, dtype=int)).reshape(shape).to(kind)
    for _ in range(draw(st.integers(0, 3))):
        change = draw(st.sampled_from(["transpose", "narrow", "expand", "step", "parameter"]))
        if change == "expand":
            base = base.unsqueeze(0).expand(draw(st.integers(1, 3)), *base.shape)
        elif change == "parameter" and base.is_floating_point():
            base = torch.nn.Parameter(base)
        elif base.ndim:
            axis = draw(st.integers(0, base.ndim - 1))
            if change == "transpose":
                base = base.transpose(0, axis)
            elif change == "narrow":
                start = draw(st.integers(0, base.shape[axis]))
                base = base.narrow(axis, start, base.shape[axis] - start)
            else:
                base = base[:: draw(st.integers(1, 3))]
    return base


neighbours = st.recursive(
    st.none() | st.integers() | st.text() | st.binary() | torch_tensors(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.tuples(inner, inner)
        | st.dictionaries(st.text() | st.integers(), inner, max_size=3)
        | st.sets(st.integers(), max_size=3)
    ),
    max_leaves=6,
)


@pytest.mark.peers
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    state=st.dictionaries(st.from_regex(r"[a-l]{1,6}\.[a-z]{1,6}", fullmatch=True), torch_tensors(),
                          min_size=1, max_size=5),
    beside=st.dictionaries(st.text(), neighbours, max_size=3),
    key=st.sampled_from([None, "model", "state_dict", "model_ema", "state_dict_ema"]),
    protocol=st.sampled_from([2, 3, 4, 5]),
)  # fmt: skip
def test_whatever_torch_saves_comes_out_bit_for_bit(tmp_path, state, beside, key, protocol):
    import torch

    path = tmp_path / "m.pth"
    for known in ("model", "state_dict", "model_ema", "state_dict_ema"):
        beside.pop(known, None)
    saved = state if key is None else {**beside, key: state}
    torch.save(saved, path, pickle_protocol=protocol)
    theirs = torch.load(path, weights_only=False)
    theirs = theirs if key is None else theirs[key]
    halves = (torch.float16, torch.bfloat16)
    same(
        read_checkpoint(path).tensors,
        {
            name: (value.float() if value.dtype in halves else value).detach().numpy()
            for name, value in theirs.items()
        },
    )


@pytest.mark.peers
def test_a_real_optimizer_costs_no_memory(tmp_path):
    import tracemalloc

    import torch

    network = torch.nn.Linear(500, 500)
    optimizer = torch.optim.AdamW(network.parameters())
    network(torch.ones(1, 500)).sum().backward()
    optimizer.step()
    path = tmp_path / "m.pth"
    torch.save({"model": network.state_dict(), "optimizer": optimizer.state_dict()}, path)
    read_checkpoint(path)
    tracemalloc.start()
    checkpoint = read_checkpoint(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    needed = sum(tensor.nbytes for tensor in checkpoint.tensors.values())
    assert path.stat().st_size > 2.9 * needed
    assert peak < 1.5 * needed
