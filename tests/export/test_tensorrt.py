"""Engines, built for real by TensorRT-RTX, which needs no GPU for that."""

import hashlib
import importlib
import json
import os
import signal
import sys
import threading
import types
from dataclasses import replace

import numpy as np
import onnx
import onnxruntime
import pytest
import scaled
from safetensors.numpy import save_file

from levit import __version__
from levit.artifact import open_artifact
from levit.benchmarks.lineup import SIZES
from levit.cli import main
from levit.errors import (
    ArtifactError,
    BackendUnavailableError,
    ConfigError,
    ExportError,
    VerificationError,
)
from levit.export import ExportOptions, export
from levit.export.onnx.graph import emit_onnx
from levit.export.onnx.tensorrt_ops import TensorrtOps
from levit.export.passes import run_passes
from levit.export.targets import TARGETS, find_target
from levit.export.targets.engine import EngineSettings, build_engine
from levit.export.targets.tensorrt import RTX
from levit.export.targets.timing_cache import TimingCache
from levit.export.verify import TOLERANCES, Tolerance
from levit.export.write import write
from levit.models.random_weights import flatten
from levit.runtime.cuda import host_system
from levit.runtime.gpus import Gpu
from levit.runtime.obstacle import Obstacle

PRECISIONS = ("fp32", "fp16", "bf16")

ARGUMENTS = dict(
    embed_dim=[32, 48], key_dim=16, num_heads=[2, 3], depth=[1, 1], img_size=[64, 48],
    num_classes=4, architecture="my_levit",
)  # fmt: skip

ADA = Gpu(
    name="NVIDIA Imaginary",
    compute_capability=(8, 9),
    memory_bytes=2**34,
    cuda_version=(13, 0),
    driver_version=None,
)
NO_GPU = Obstacle(reason="no NVIDIA driver", remedy="install one")


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    """Work in an empty folder, on a machine without a GPU."""
    monkeypatch.chdir(tmp_path)
    look_finds(monkeypatch, NO_GPU)
    return tmp_path


def look_finds(monkeypatch, found):
    monkeypatch.setattr("levit.runtime.tensorrt_modules.look_for_gpu", lambda: found)


@pytest.fixture
def small_export(tmp_path, seed):
    """(changes) → the artifact of a small network with weights that this run has drawn."""
    config = tmp_path / "config.json"
    config.write_text(json.dumps(ARGUMENTS))

    def make(**changes):
        settings = {"random_weights": seed, "config": config, "output": tmp_path / "out"}
        return export(ExportOptions(**{**settings, "target": "trt-rtx", **changes}))

    return make


@pytest.fixture
def graph(make_small):
    """(change) → the bytes of a small network's graph, after `change` to it."""

    def make(change=lambda proto: None):
        proto = emit_onnx(
            run_passes(make_small("tiny"))[-1].model, name="tiny", dialect=TensorrtOps
        )
        change(proto)
        return proto.SerializeToString()

    return make


def rtx():
    return importlib.import_module("tensorrt_rtx_bindings")


def one_line(caught):
    message = str(caught.value)
    assert message
    assert "\n" not in message
    return message


def nothing_is_left(folder):
    return sorted(path.name for path in folder.iterdir()) == ["config.json"]


# ---------------------------------------------------------------------------- what is written


@pytest.mark.trt_rtx
@pytest.mark.parametrize("precision", PRECISIONS)
def test_an_engine_travels_with_its_graph_and_says_what_it_needs(precision, here):
    artifact = export(
        ExportOptions(model="levit_digits", target="trt-rtx", precision=precision, batch=(1, 2, 4))
    )
    manifest = artifact.manifest
    assert artifact.path.name == f"levit_digits-trt-rtx-{precision}"
    assert sorted(manifest.files) == ["golden.npz", "labels.txt", "model.engine", "model.onnx"]
    assert (manifest.target, manifest.format) == ("trt-rtx", "tensorrt-rtx")
    assert manifest.payload == "model.engine"
    assert artifact.payload.stat().st_size > 2**20
    graph = (artifact.path / "model.onnx").read_bytes()
    assert manifest.requirements == {
        "backend": "tensorrt-rtx-cu13-bindings",
        "backend_version": f"=={rtx().__version__}",
        "cpu_features": [],
        "gpu_architecture": "sm_80+",
        "compatibility": [],
        "profile": {"min": 1, "opt": 2, "max": 4},
        "onnx_sha256": hashlib.sha256(graph).hexdigest(),
        "os": host_system(),
    }
    assert manifest.toolchain["tensorrt_rtx_bindings"] == rtx().__version__
    assert manifest.toolchain["levit"] == __version__
    verification = manifest.verification
    assert verification["status"] == "unverified"
    assert verification["unverified_because"] == "no NVIDIA driver: install one"
    assert verification["tolerance"] == TOLERANCES[precision].value
    assert verification["max_relative_error"] is None
    assert verification["cpu_class"] is None
    assert "gpu_class" not in verification
    if precision != "fp32":
        assert 0 < verification["fp32_max_relative_error"] <= 1e-5
    if precision == "bf16":  # which ONNX Runtime does not have on the CPU
        assert "graph" not in verification
    else:
        checked = verification["graph"]
        assert checked["precision"] == precision
        assert checked["tolerance"] == TOLERANCES[precision].value
        assert 0 < checked["max_relative_error"] <= checked["tolerance"]
        assert checked["top1_agreement"] == 1.0
    types_of_weights = {t.data_type for t in onnx.load_from_string(graph).graph.initializer}
    expected = {"fp32": 1, "fp16": 10, "bf16": 16}[precision]
    assert types_of_weights - {onnx.TensorProto.INT64} == {expected}
    assert not any(pass_["name"] == "keep_float32" for pass_ in manifest.passes)


@pytest.mark.trt_rtx
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("changes", [{"batch": 3}, {"input": "uint8"}], ids=["static", "pixels"])
def test_random_networks_are_built_too(precision, changes, small_export):
    manifest = small_export(precision=precision, **changes).manifest
    verification = manifest.verification
    if precision != "fp32":
        assert verification["fp32_max_relative_error"] < 1e-4
    assert ("graph" in verification) == (precision != "bf16")
    assert manifest.batch.static == ("batch" in changes)


@pytest.mark.trt_rtx
def test_the_graph_computes_what_the_onnx_target_computes(small_export, here, seed):
    engine = small_export(input="uint8")
    other = small_export(input="uint8", target="onnx", output=here / "other")
    pixels = np.random.default_rng(seed).integers(0, 256, (2, 64, 48, 3), np.uint8)
    found, expected = (
        onnxruntime.InferenceSession(
            str(artifact.path / "model.onnx"), providers=["CPUExecutionProvider"]
        ).run(None, {"pixels": pixels})[0]
        for artifact in (engine, other)
    )
    assert np.abs(found - expected).max() <= 1e-4 * np.abs(expected).max()
    ops = {node.op_type for node in onnx.load(engine.path / "model.onnx").graph.node}
    assert "HardSwish" not in ops
    assert "HardSigmoid" in ops


@pytest.mark.trt_rtx
def test_an_island_is_kept_in_float32_under_the_same_names(make_small):
    model = run_passes(make_small("tiny"))[-1].model
    names = {n.name for n in emit_onnx(model, name="tiny", precision="fp16").graph.node}
    island = next(n for n in names if n.endswith("/HardSwish"))
    proto = emit_onnx(
        model,
        name="tiny",
        precision="fp16",
        islands=frozenset({island}),
        dialect=TensorrtOps,
    )
    inferred = onnx.shape_inference.infer_shapes(proto, strict_mode=True)
    dtypes = {value.name: value.type.tensor_type.elem_type for value in inferred.graph.value_info}
    assert dtypes[island] == dtypes[f"{island}.gate"] == onnx.TensorProto.FLOAT
    others = [n for n in dtypes if n.endswith("/HardSwish") and n != island]
    assert others
    assert {dtypes[n] for n in others} == {onnx.TensorProto.FLOAT16}
    build_engine(rtx(), proto.SerializeToString(), EngineSettings(profile=(1, 2, 4)))


@pytest.mark.trt_rtx
def test_values_beyond_float16_are_kept_in_float32(make_small, tmp_path):
    model = scaled.scaled_logits(scaled.scaled_stream(make_small("tiny"), 1e5), 1e6)
    keymap = next(k for k in model.family.keymaps if k.conv == model.config.conv)
    (tmp_path / "weights").mkdir()
    path = tmp_path / "weights" / "model.safetensors"
    save_file(flatten(model, keymap), path)
    manifest = export(
        ExportOptions(
            checkpoint=path,
            target="trt-rtx",
            precision="fp16",
            image_size=96,
            output=tmp_path / "x",
        )
    ).manifest
    passes = {entry["name"]: entry for entry in manifest.passes}
    assert passes["keep_float32"]["values"]
    graph = manifest.verification["graph"]
    assert graph["max_relative_error"] <= TOLERANCES["fp16"].value


@pytest.mark.trt_rtx
def test_named_architectures_are_compiled_for_and_required(small_export):
    requirements = small_export(gpu_architectures="sm_89, sm_120").manifest.requirements
    assert requirements["gpu_architecture"] == "sm_89,sm_120"
    assert requirements["compatibility"] == ["architectures"]


@pytest.mark.trt_rtx
def test_verify_none_checks_nothing(small_export):
    verification = small_export(verify="none").manifest.verification
    assert verification["status"] == "unverified"
    assert "graph" not in verification


@pytest.mark.trt_rtx
def test_the_command_says_what_has_not_run(here, capsys):
    assert main(["export", "--model", "levit_digits", "--target", "trt-rtx"]) == 0
    out, err = capsys.readouterr()
    assert out == "levit_digits-trt-rtx-fp32: unverified\n"
    assert "note: the engine has not run here (no NVIDIA driver: install one); its graph has" in err
    assert "of the largest value from the reference" in err


@pytest.mark.slow
@pytest.mark.trt_rtx
def test_all_sizes_are_built(prepared, here):
    """Each size at fp16, and one of them in every type, which is no matter of a network's width."""
    # scripts/time_engine_builds.py says how long it takes.
    for precision in PRECISIONS if prepared.options.model == SIZES[0] else ("fp16",):
        options = replace(
            prepared.options,
            target="trt-rtx",
            precision=precision,
            verify="none",
            output=here / precision,
        )
        artifact = write(prepared, find_target("trt-rtx", precision), options)
        assert artifact.manifest.batch.max == 64


# ---------------------------------------------------------------------------- what is refused


@pytest.mark.trt_rtx
@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"precision": "int4"}, ExportError, "no precision 'int4' in this release; it has: fp32"),
        ({"batch": (4, 2, 8)}, ConfigError, r"rises from MIN to OPT to MAX, unlike \(4, 2, 8\)"),
        ({"version_compatible": True}, ConfigError, "version_compatible is for target 'trt'"),
        ({"hardware_compatible": True}, ConfigError, "hardware_compatible is for target 'trt'"),
        ({"hardware_compatible": 1, "target": "trt"}, ConfigError, "True or False, not 1"),
        ({"gpu_architectures": "sm_80", "target": "onnx"}, ConfigError, "for target 'trt-rtx'"),
        ({"gpu_architectures": 80}, ConfigError, "gpu_architectures is a list of names"),
        ({"gpu_architectures": "sm_42"}, ExportError, "does not compile for 'sm_42'; it has: sm_"),
        ({"gpu_architectures": "sm80"}, ExportError, "does not compile for 'sm80'"),
        ({"gpu_architectures": ""}, ExportError, "does not compile for ''"),
        # What the builder itself says: of Turing, that it has no products in float32.
        ({"gpu_architectures": "sm_75"}, ExportError, "cannot build the engine: .*Turing"),
    ],
)
def test_what_cannot_be_built_is_one_line_and_writes_nothing(
    settings, error, message, small_export, here
):
    with pytest.raises(error, match=message) as caught:
        small_export(**settings)
    one_line(caught)
    assert nothing_is_left(here)


def test_min_above_opt_is_a_usage_error(capsys):
    command = "export --model levit_digits --target trt-rtx --batch 8:4:64"
    with pytest.raises(SystemExit) as caught:
        main(command.split())
    assert caught.value.code == 2
    assert "MIN:OPT:MAX in rising order, not 8:4:64" in capsys.readouterr().err


@pytest.mark.trt_rtx
def test_the_parser_names_the_node_that_it_refuses(graph):
    def change(proto):
        node = next(n for n in proto.graph.node if n.op_type == "Softmax")
        node.op_type = "Frobnicate"

    with pytest.raises(ExportError, match=r"Frobnicate 'stages.0.blocks.0.attn/Softmax'") as caught:
        build_engine(rtx(), graph(change), EngineSettings(profile=(1, 1, 1)))
    assert "INVALID_NODE" in one_line(caught)


@pytest.mark.trt_rtx
def test_what_is_no_graph_is_one_line():
    with pytest.raises(ExportError, match="MODEL_DESERIALIZE_FAILED") as caught:
        build_engine(rtx(), b"no graph", EngineSettings(profile=(1, 1, 1)))
    one_line(caught)


@pytest.mark.trt_rtx
def test_a_graph_out_of_tolerance_is_not_written(small_export, here, monkeypatch):
    monkeypatch.setitem(TOLERANCES, "fp32", Tolerance(1e-12, "for a test"))
    with pytest.raises(VerificationError, match="the graph that the engine was built from") as c:
        small_export()
    one_line(c)
    assert nothing_is_left(here)
    assert small_export(force=True).manifest.verification["status"] == "forced"


@pytest.mark.parametrize(
    ("target", "module", "extra"),
    [("trt", "tensorrt", "tensorrt"), ("trt-rtx", "tensorrt_rtx_bindings", "trt-rtx")],
)
def test_what_is_missing_is_said_with_its_install_line(target, module, extra, monkeypatch, here):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(BackendUnavailableError, match="is not installed") as caught:
        export(ExportOptions(model="levit_digits", target=target))
    assert one_line(caught).endswith(f"pip install 'levit[{extra}]'")
    assert list(here.iterdir()) == []


def test_tensorrt_without_a_gpu_says_so_before_any_work(monkeypatch, here):
    # The module is asked for nothing.
    monkeypatch.setitem(sys.modules, "tensorrt", types.ModuleType("tensorrt"))
    with pytest.raises(BackendUnavailableError, match="TensorRT needs a GPU") as caught:
        export(ExportOptions(model="levit_digits", target="trt"))
    assert "no NVIDIA driver" in one_line(caught)
    assert list(here.iterdir()) == []


# ---------------------------------------------------------------------------- while it is built


@pytest.mark.trt_rtx
def test_phases_are_told(graph):
    told = []
    build_engine(rtx(), graph(), EngineSettings(profile=(1, 2, 4)), told.append)
    assert "building the engine: building engine" in told
    assert len(told) > 5


@pytest.mark.trt_rtx
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_build_in_good_order(number, small_export, here, monkeypatch):
    class StoppedError(Exception):
        pass

    def stop(received, frame):
        raise StoppedError(received)

    before = signal.signal(number, stop)
    try:
        with pytest.raises(StoppedError):
            export(
                ExportOptions(model="levit_digits", target="trt-rtx"),
                progress=lambda step: (
                    step.startswith("building the engine:") and os.kill(os.getpid(), number)
                ),
            )
        assert signal.getsignal(number) is stop
    finally:
        signal.signal(number, before)
    assert nothing_is_left(here)


@pytest.mark.trt_rtx
def test_what_progress_raises_comes_through(graph):
    def fail(step):
        raise ValueError(step)

    with pytest.raises(ValueError, match="engine: building engine"):
        build_engine(rtx(), graph(), EngineSettings(profile=(1, 2, 4)), fail)


@pytest.mark.trt_rtx
def test_it_builds_in_other_threads_too(graph):
    data, built = graph(), []

    def work():
        built.append(build_engine(rtx(), data, EngineSettings(profile=(1, 2, 4)))[0])

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert len(built[0]) > 10_000


# ---------------------------------------------------------------------------- timing caches


@pytest.fixture
def timing(monkeypatch, here):
    """RTX as if it were TensorRT: on a GPU, with a timing cache (which RTX leaves empty)."""
    look_finds(monkeypatch, ADA)
    monkeypatch.setenv("XDG_CACHE_HOME", str(here / "cache"))
    builder = replace(RTX, ahead_of_time=False)
    target = replace(TARGETS["trt-rtx"], write=builder.write, require=builder.require)
    monkeypatch.setitem(TARGETS, "trt-rtx", replace(target, unrunnable=lambda: "for a test"))
    return here / "cache" / "levit"


@pytest.mark.trt_rtx
@pytest.mark.filterwarnings("ignore:.*Timing cache operations:DeprecationWarning")
def test_what_was_timed_is_kept_by_version_and_architecture(timing, small_export, monkeypatch):
    requirements = small_export().manifest.requirements
    assert requirements["gpu_architecture"] == "sm_89"
    (file,) = timing.iterdir()
    assert file.name == f"tensorrt_rtx_bindings-{rtx().__version__}-sm_89.timing"
    kept = file.read_bytes()
    assert kept
    given = []
    monkeypatch.setattr(
        "levit.export.targets.tensorrt.build_engine",
        lambda trt, graph, settings, progress: (
            given.append(settings.timing_cache),
            build_engine(trt, graph, settings, progress),
        )[1],
    )
    small_export(force=True)
    assert given == [kept]
    assert len(list(timing.iterdir())) == 1
    # A damaged one costs its measurements and nothing else.
    file.write_bytes(b"damaged" * 50)
    small_export(force=True)
    assert file.read_bytes() == kept


@pytest.mark.trt_rtx
def test_a_timing_cache_that_cannot_be_written_is_one_line(timing, small_export, here):
    timing.parent.mkdir()
    timing.write_text("a file where the folder should be")
    with pytest.raises(ArtifactError, match=r"timing cache cannot be kept.*XDG_CACHE_HOME") as c:
        small_export()
    one_line(c)
    assert not (here / "out").exists()


@pytest.mark.trt_rtx
def test_rtx_has_no_timing_cache(small_export, here, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(here / "config.json" / "no folder"))
    assert open_artifact(small_export().path)


def test_a_cache_is_replaced_whole(monkeypatch, here):
    monkeypatch.setenv("XDG_CACHE_HOME", str(here))
    cache = TimingCache("tensorrt", "11.4.0.106", "sm_90")
    assert cache.read() == b""
    cache.write(b"first")
    cache.write(b"second")
    assert cache.read() == b"second"
    assert TimingCache("tensorrt", "11.4.0.106", "sm_80").read() == b""
    assert [path.name for path in cache.path.parent.iterdir()] == [cache.path.name]

    def fail(self, target):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pathlib.Path.replace", fail)
    with pytest.raises(ArtifactError, match="No space left on device"):
        cache.write(b"third")
    assert cache.read() == b"second"
    assert [path.name for path in cache.path.parent.iterdir()] == [cache.path.name]
