"""Files from before PyTorch's zip format: read by a safe PyTorch or by none."""

import io
import subprocess
import sys
import tarfile
import warnings

import numpy as np
import pytest
from checkpoint_checks import DATA, refused, same

from levit.models.checkpoint import read_checkpoint

LEGACY = DATA / "legacy.pth"


@pytest.mark.peers
def test_pytorch_reads_them():
    checkpoint = read_checkpoint(LEGACY)
    with np.load(DATA / "expected.npz") as archive:
        start = f"{LEGACY.name}:"
        expected = {k.removeprefix(start): archive[k] for k in archive.files if k.startswith(start)}
    assert expected
    same(checkpoint.tensors, expected)
    assert checkpoint.origin["key"] == "model"


@pytest.mark.peers
def test_half_types_and_views(tmp_path):
    import torch

    base = torch.arange(6.0).reshape(2, 3) / 7
    state = {"a": base.half(), "b": base.bfloat16(), "c": base.t(), "d": torch.nn.Parameter(base)}
    path = tmp_path / "m.pth"
    torch.save(state, path, _use_new_zipfile_serialization=False)
    expected = {k: v.detach().float().contiguous().numpy() for k, v in state.items()}
    same(read_checkpoint(path).tensors, expected)


@pytest.mark.peers
def test_what_pytorch_refuses_is_one_line():
    message = refused(DATA / "legacy_namespace.pth", "holds argparse.Namespace, which PyTorch does")
    assert "torch.save(torch.load(old, weights_only=False), new)" in message


@pytest.mark.peers
@pytest.mark.parametrize("keep", [20, 100, 500, -1])
def test_truncated(tmp_path, keep):
    path = tmp_path / "m.pth"
    path.write_bytes(LEGACY.read_bytes()[:keep])
    refused(path, "PyTorch cannot read it .*download or save it again")


@pytest.mark.peers
def test_sparse_and_quantised_are_named(tmp_path):
    import torch

    path = tmp_path / "m.pth"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # quantised tensors are deprecated
        quantised = torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8)
        for tensor in (torch.eye(2).to_sparse(), quantised):
            torch.save({"w": tensor}, path, _use_new_zipfile_serialization=False)
            refused(path, "w cannot be used")


@pytest.mark.peers
def test_an_older_pytorch_is_not_asked(monkeypatch):
    import torch

    for version in ("2.5.1+cu121", "1.13.0", "2.0"):
        monkeypatch.setattr(torch, "__version__", version)
        monkeypatch.setattr(torch, "load", lambda *a, **k: pytest.fail("was asked"))
        refused(LEGACY, r"PyTorch 2.6 or newer \(CVE-2025-32434\), and this is")


def test_without_pytorch_it_says_so(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    message = refused(LEGACY, "needs PyTorch 2.6 or newer: pip install 'levit")
    assert "torch.save(torch.load(" in message


def test_tar_files_are_refused(tmp_path):
    path = tmp_path / "m.tar"
    with tarfile.open(path, "w") as archive:
        for name in ("sys_info", "pickle", "tensors", "storages"):
            member = tarfile.TarInfo(f"./{name}")
            archive.addfile(member, io.BytesIO())
    refused(path, "a tar file, as the first versions of PyTorch wrote")


def test_pytorch_is_imported_for_nothing_else():
    code = (
        "import sys; from pathlib import Path\n"
        "from levit.models.checkpoint import read_checkpoint\n"
        f"read_checkpoint(Path({str(DATA / 'levit_main.pth')!r}))\n"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
