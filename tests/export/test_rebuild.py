import json
import shutil
import sys

import onnx
import pytest

from levit.artifact import MANIFEST_FILE, describe_files, is_artifact, open_artifact
from levit.cli import main
from levit.errors import ArtifactError, BackendUnavailableError, CorruptArtifactError, ExportError
from levit.export import ExportOptions, export
from levit.export.rebuild import rebuild
from levit.runtime.gpus import Gpu
from levit.runtime.obstacle import Obstacle
from levit.runtime.sessions.engine_fit import engine_needs

pytestmark = pytest.mark.trt_rtx

NO_GPU = Obstacle(reason="no NVIDIA driver", remedy="install one")


@pytest.fixture(scope="module", autouse=True)
def no_gpu():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("levit.runtime.tensorrt_modules.look_for_gpu", lambda: NO_GPU)
        yield


@pytest.fixture(scope="module")
def original(no_gpu, tmp_path_factory):
    folder = tmp_path_factory.mktemp("original") / "engine"
    export(
        ExportOptions(
            model="levit_digits",
            target="trt-rtx",
            batch=(1, 2, 4),
            precision="fp16",
            gpu_architectures=("sm_80", "sm_89"),
            output=folder,
        )
    )
    return folder


@pytest.fixture
def older(original, tmp_path):
    """(change) → an artifact of another TensorRT-RTX, whose manifest fits its files."""

    def make(change=lambda folder, values: None):
        folder = shutil.copytree(original, tmp_path / "older")
        (folder / "model.engine").write_bytes(b"of another version")
        values = json.loads((folder / MANIFEST_FILE).read_text(encoding="utf-8"))
        values["requirements"] |= {"backend_version": "==1.6.0.1", "os": "windows-x86_64"}
        change(folder, values)
        values["files"] = describe_files(folder)
        (folder / MANIFEST_FILE).write_text(json.dumps(values), encoding="utf-8")
        return folder

    return make


def tree(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_it_makes_the_engine_anew_and_keeps_the_rest(older, original):
    folder = older()
    before = open_artifact(folder).manifest
    artifact = rebuild(folder)
    expected = open_artifact(original).manifest
    assert artifact.path == folder
    assert artifact.manifest.requirements == expected.requirements
    assert artifact.manifest.toolchain == expected.toolchain
    assert artifact.manifest.verification == expected.verification
    for name in ("golden.npz", "labels.txt", "model.onnx"):
        assert artifact.manifest.files[name] == before.files[name]
    assert artifact.payload.stat().st_size > 2**20
    assert artifact.manifest.source == before.source
    open_artifact(folder, verify_hashes=True)
    assert [path.name for path in folder.parent.iterdir()] == ["older"]


@pytest.mark.parametrize(
    ("here", "architectures"), [("sm_89", "sm_80,sm_89"), ("sm_120", "sm_80,sm_89,sm_120")]
)
def test_the_gpu_that_is_here_is_one_that_it_is_built_for(here, architectures, older, monkeypatch):
    """The command is told to whoever has another GPU: afterwards it must run on theirs."""
    gpu = Gpu(
        name="NVIDIA Imaginary",
        compute_capability=divmod(int(here.removeprefix("sm_")), 10),
        memory_bytes=2**34,
        cuda_version=(13, 0),
        driver_version=None,
    )
    monkeypatch.setattr("levit.runtime.tensorrt_modules.look_for_gpu", lambda: gpu)
    monkeypatch.setattr(  # there is none
        "levit.export.rebuild.run_here", lambda *_, force: {"status": "passed", "tolerance": 0.03}
    )
    rebuilt = rebuild(older())
    assert rebuilt.manifest.requirements["gpu_architecture"] == architectures
    assert engine_needs(rebuilt).takes_architecture(here)


def test_it_may_go_elsewhere(older, tmp_path):
    folder = older()
    before = tree(folder)
    artifact = rebuild(folder, output=tmp_path / "newer")
    assert tree(folder) == before
    assert artifact.path == tmp_path / "newer"
    with pytest.raises(ArtifactError, match="already exists"):
        rebuild(folder, output=tmp_path / "newer")
    rebuild(folder, output=tmp_path / "newer", force=True)


def renamed(folder, values):
    path = folder / "model.onnx"
    proto = onnx.load(path)
    next(n for n in proto.graph.node if n.op_type == "Softmax").op_type = "Frobnicate"
    path.write_bytes(proto.SerializeToString())
    values["requirements"]["onnx_sha256"] = describe_files(folder)["model.onnx"]["sha256"]


def another_domain(folder, values):
    path = folder / "model.onnx"
    proto = onnx.load(path)
    proto.graph.node[0].domain = "com.example"
    path.write_bytes(proto.SerializeToString())
    values["requirements"]["onnx_sha256"] = describe_files(folder)["model.onnx"]["sha256"]


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (renamed, CorruptArtifactError, "an operator 'Frobnicate'"),
        (another_domain, CorruptArtifactError, "another domain"),
        (lambda f, v: (f / "model.onnx").unlink(), CorruptArtifactError, "requirements are dam"),
        (lambda f, v: v.update(target="onnx"), ExportError, "nothing to rebuild"),
        (lambda f, v: v.update(payload="model.onnx"), CorruptArtifactError, "its payload is"),
        (
            lambda f, v: v["requirements"].update(gpu_architecture="sm_1"),
            ExportError,
            "does not compile for 'sm_1'",
        ),
    ],
)
def test_what_cannot_be_rebuilt_stays_as_it_was(change, error, message, older):
    folder = older(change)
    before = tree(folder)
    with pytest.raises(error, match=message) as caught:
        rebuild(folder)
    assert "\n" not in str(caught.value)
    assert tree(folder) == before
    assert is_artifact(folder)
    assert [path.name for path in folder.parent.iterdir()] == ["older"]


def test_without_the_builder_it_stays_as_it_was(older, monkeypatch):
    folder = older()
    before = tree(folder)
    monkeypatch.setitem(sys.modules, "tensorrt_rtx_bindings", None)
    with pytest.raises(BackendUnavailableError, match=r"pip install 'levit\[trt-rtx\]'"):
        rebuild(folder)
    assert tree(folder) == before


def test_the_command(older, capsys):
    folder = older()
    assert main(["export", "--rebuild", str(folder)]) == 0
    out, err = capsys.readouterr()
    assert out == f"{folder}: unverified\n"
    note = err.splitlines()[-1]  # a step that takes long is told before it
    assert note.startswith("note: the engine has not run here (no NVIDIA driver")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--batch 4", "--batch cannot go with it"),
        ("--model levit_128 --precision fp32 --target trt", "--model, --target cannot go with it"),
    ],
)
def test_the_command_changes_nothing_else(flags, message, older, capsys):
    folder = older()
    before = tree(folder)
    assert main(["export", "--rebuild", str(folder), *flags.split()]) == 1
    assert message in capsys.readouterr().err
    assert tree(folder) == before


def test_weights_and_an_artifact_exclude_each_other(capsys):
    with pytest.raises(SystemExit) as caught:
        main(["export", "--rebuild", "x", "--random-weights", "1"])
    assert caught.value.code == 2
    assert "not allowed with" in capsys.readouterr().err
