import gc
import json
import os
import pickle
import sys
import threading
from dataclasses import replace

import numpy as np
import onnx
import pytest
from fake_tensorrt import ADA, DataType, FakeCuda, FakeTensorrt, Kind, Mode, Status
from onnx import numpy_helper

from levit import Predictor
from levit.artifact import MANIFEST_FILE
from levit.cli import main
from levit.errors import (
    BackendUnavailableError,
    ConfigError,
    CorruptArtifactError,
    InputError,
    LevitError,
    VerificationError,
)
from levit.export import ExportOptions, export
from levit.runtime.obstacle import Obstacle
from levit.runtime.onnx_file import onnx_metadata

pytestmark = pytest.mark.trt_rtx

RTX = "tensorrt_rtx_bindings"


@pytest.fixture(scope="session")
def engine_artifact(make_artifact):
    return make_artifact("engine", target="trt-rtx", batch=(2, 4, 6), outputs="logits,embedding")


@pytest.fixture(scope="session")
def static_engine(make_artifact):
    return make_artifact("static-engine", target="trt-rtx", batch=3, input="uint8")


@pytest.fixture
def gpu(monkeypatch):
    """(folder, **changes) → the fake that stands for TensorRT-RTX, CUDA and a GPU."""

    def make(folder, architecture=ADA, name=RTX, **changes):
        batch = json.loads((folder / MANIFEST_FILE).read_text(encoding="utf-8"))["batch"]
        profile = changes.pop("profile", (batch["min"], batch["opt"], batch["max"]))
        fake = FakeTensorrt(name, folder / "model.onnx", profile, **changes)
        monkeypatch.setitem(sys.modules, name, fake)
        monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", fake.cuda)
        monkeypatch.setattr("levit.runtime.tensorrt_modules.look_for_gpu", lambda: architecture)
        return fake

    return make


def refused(error, folder, message, **settings):
    with pytest.raises(error, match=message) as caught:
        Predictor(folder, "gpu", **settings)
    text = str(caught.value)
    assert "\n" not in text
    return text


# ---------------------------------------------------------------------------- the fake itself


def test_the_fake_has_no_name_that_the_real_modules_lack():
    import tensorrt_rtx_bindings as trt
    from cuda.bindings import runtime

    fake = FakeTensorrt(RTX, None, (1, 1, 1))
    for name in ("Runtime", "ICudaEngine", "IExecutionContext", "ILogger", "DataType"):
        ours, theirs = getattr(fake, name), getattr(trt, name)
        assert [n for n in vars(ours) if n[0] != "_" and not hasattr(theirs, n)] == []
    assert hasattr(trt.ICudaEngine, "num_io_tensors")
    assert hasattr(trt.Runtime, "engine_host_code_allowed")
    for mode in fake.TensorIOMode:
        assert getattr(trt.TensorIOMode, mode.name).value == mode.value
    for kind in DataType:
        assert getattr(trt.DataType, kind.name).value == kind.value
    assert int(trt.ILogger.ERROR) == fake.ILogger.ERROR
    calls = [name for name in vars(FakeCuda) if name.startswith("cuda")]
    assert len(calls) > 15
    assert [name for name in calls if not hasattr(runtime, name)] == []
    for ours, theirs in ((Status, "cudaError_t"), (Kind, "cudaMemcpyKind")):
        assert [int(getattr(getattr(runtime, theirs), e.name)) for e in ours] == list(
            map(int, ours)
        )
    (mode,) = Mode
    assert int(getattr(runtime.cudaStreamCaptureMode, mode.name)) == mode
    for name in ("cudaStreamNonBlocking", "cudaHostAllocDefault"):
        assert getattr(runtime, name) == getattr(FakeCuda, name)


# ---------------------------------------------------------------------------- answers


@pytest.mark.parametrize("count", [1, 2, 5, 6, 15])
def test_any_number_of_images_gets_the_graphs_answers(
    count, engine_artifact, embedding_artifact, gpu, batch
):
    fake = gpu(engine_artifact)
    with Predictor(engine_artifact, "gpu") as predictor, Predictor(embedding_artifact) as other:
        found, expected = predictor.forward(batch(count)), other.forward(batch(count))
        assert predictor.machine_class == "cuda-sm_89"
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert np.abs(found[name] - value).max() <= 1e-5 * np.abs(value).max()
    assert fake.cuda.launches == 0


def test_a_static_batch_is_one_cuda_graph(static_engine, gpu, digit_paths):
    fake = gpu(static_engine)
    with Predictor(static_engine, "gpu") as predictor:
        assert predictor.check().passed
        assert predictor.check().tensor_error == 0
        answers = [prediction.label for prediction in predictor.predict(digit_paths[:10])]
        # Once to warm up, once to be captured; all runs are launches.
        assert fake.executions == 2
        assert fake.cuda.launches == 1 + 2 + 4
    assert answers == [str(digit) for digit in range(10)]


def test_what_cannot_be_captured_runs_without_a_graph(static_engine, gpu):
    fake = gpu(static_engine)
    fake.refuse.add("is_stream_capturable")
    with Predictor(static_engine, "gpu") as predictor:
        assert predictor.check().passed
    assert fake.cuda.launches == 0


def test_an_engine_that_has_never_run_proves_itself(engine_artifact, gpu, monkeypatch):
    fake = gpu(engine_artifact)
    with Predictor(engine_artifact, "gpu"):
        assert fake.executions > 0
    fake.executions = 0
    with Predictor(engine_artifact, "gpu", prove=False):
        assert fake.executions == 0


def test_answers_are_their_callers_own(engine_artifact, gpu, batch):
    gpu(engine_artifact)
    with Predictor(engine_artifact, "gpu") as predictor:
        first = predictor.forward(batch(3))["logits"]
        before = first.copy()
        predictor.forward(batch(4))
        assert (first == before).all()


def test_many_threads_get_their_own_answers(engine_artifact, gpu, batch):
    gpu(engine_artifact)
    inputs = [batch(count) for count in (2, 3, 4, 5)]
    with Predictor(engine_artifact, "gpu") as predictor:
        alone = [predictor.forward(x)["logits"] for x in inputs]
        wrong = []

        def work(place):
            for _ in range(5):
                found = predictor.forward(inputs[place])["logits"]
                if not np.allclose(found, alone[place], rtol=0, atol=1e-5):
                    wrong.append(place)

        threads = [threading.Thread(target=work, args=(place % 4,)) for place in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert wrong == []


# ---------------------------------------------------------------------------- where it is built


@pytest.fixture
def export_on_gpu(gpu, tmp_path):
    """(change) → levit_digits, built by RTX itself and then run by the fake, after `change`."""

    def make(change=lambda fake: None):
        def progress(step):
            if step == "verifying":
                (staging,) = tmp_path.glob(".out.*")
                values = {"batch": {"min": 2, "opt": 4, "max": 6}}
                (staging / MANIFEST_FILE).write_text(json.dumps(values), encoding="utf-8")
                change(gpu(staging))

        options = ExportOptions(
            model="levit_digits", target="trt-rtx", batch=(2, 4, 6), output=tmp_path / "out"
        )
        return export(options, progress=progress)

    return make


def test_where_there_is_a_gpu_the_engine_is_verified_on_it(export_on_gpu):
    artifact = export_on_gpu()
    verification = artifact.manifest.verification
    assert verification["status"] == "passed"
    assert verification["gpu_class"] == "cuda-sm_89"
    assert verification["cpu_class"] is None
    assert verification["max_relative_error"] <= 1e-5
    assert verification["graph"]["max_relative_error"] <= 1e-5
    assert "unverified_because" not in verification


def test_an_engine_that_computes_something_else_is_not_written(export_on_gpu, tmp_path):
    def change(fake):
        proto = onnx.load(fake.graph)
        (bias,) = (t for t in proto.graph.initializer if t.name == "head.bias")
        moved = numpy_helper.from_array(numpy_helper.to_array(bias) + 1, bias.name)
        bias.CopyFrom(moved)
        fake.graph = tmp_path / "other.onnx"
        onnx.save(proto, fake.graph)

    with pytest.raises(VerificationError, match="the artifact is off by"):
        export_on_gpu(change)
    assert not (tmp_path / "out").exists()
    assert list(tmp_path.glob(".out.*")) == []


def test_check_proves_an_engine(static_engine, gpu, capsys):
    fake = gpu(static_engine)
    assert main(["check", "--device", "gpu", "--json", str(static_engine)]) == 0
    values = json.loads(capsys.readouterr().out)
    assert values["passed"]
    assert values["backend"] == "TensorRT-RTX"
    assert fake.host_code is False


# ---------------------------------------------------------------------------- life


@pytest.mark.parametrize("static", [True, False])
def test_closing_gives_everything_back(static, static_engine, engine_artifact, gpu):
    folder = static_engine if static else engine_artifact
    fake = gpu(folder)
    predictor = Predictor(folder, "gpu")
    assert fake.cuda.memory
    assert fake.cuda.handles
    session = predictor._open_session()
    predictor.close()
    predictor.close()
    session.close()
    assert fake.cuda.memory == {}
    assert fake.cuda.handles == []
    with pytest.raises(InputError, match="closed"):
        session.run({"image": np.zeros((3, 3, 96, 96), np.float32)})


def test_a_predictor_that_is_dropped_gives_everything_back(engine_artifact, gpu):
    fake = gpu(engine_artifact)
    predictor = Predictor(engine_artifact, "gpu")
    assert fake.cuda.memory
    del predictor
    gc.collect()
    assert fake.cuda.memory == {}


def test_what_cannot_be_freed_is_said_and_the_rest_is_freed(engine_artifact, gpu):
    fake = gpu(engine_artifact)
    predictor = Predictor(engine_artifact, "gpu")
    fake.cuda.fail["cudaFree"] = Status.cudaErrorLaunchFailure
    with pytest.raises(BackendUnavailableError, match="cudaErrorLaunchFailure"):
        predictor.close()
    assert len(fake.cuda.memory) == 3  # of input and two outputs, the GPU's side
    assert fake.cuda.handles == []


def test_it_pickles_as_its_settings(engine_artifact, gpu, batch):
    gpu(engine_artifact)
    with Predictor(engine_artifact, "gpu", allow_host_code=True) as predictor:
        data = pickle.dumps(predictor)
        with pickle.loads(data) as copy:
            assert copy._settings.allow_host_code
            assert copy.forward(batch(2)).keys() == {"logits", "embedding"}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_neither_answers_nor_frees(engine_artifact, gpu, batch):
    fake = gpu(engine_artifact)
    predictor = Predictor(engine_artifact, "gpu")
    held = len(fake.cuda.memory)
    child = os.fork()
    if not child:
        status = 1
        try:
            predictor.forward(batch(2))
        except LevitError as error:
            session = predictor._open_session()
            predictor.close()
            session.close()
            del predictor, session
            gc.collect()
            status = 0 if "fork" in str(error) and len(fake.cuda.memory) == held else 2
        finally:
            os._exit(status)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    predictor.close()
    assert fake.cuda.memory == {}


# ---------------------------------------------------------------------------- what is not here


def test_the_cpu_is_no_place_for_an_engine(engine_artifact):
    with pytest.raises(BackendUnavailableError, match=r"TensorRT-RTX on 'cpu'.*use device 'gpu'"):
        Predictor(engine_artifact)


def test_no_gpu_is_said_with_what_is_needed(engine_artifact, gpu):
    none = Obstacle(reason="no NVIDIA driver", remedy="install one")
    gpu(engine_artifact, architecture=none)
    text = refused(BackendUnavailableError, engine_artifact, "no NVIDIA driver: install one$")
    assert "TensorRT-RTX" in text
    assert "sm_80+" in text


def test_another_version_names_both_and_the_rebuild(engine_artifact, gpu):
    gpu(engine_artifact, version="1.8.0.1")
    text = refused(BackendUnavailableError, engine_artifact, "here is TensorRT-RTX 1.8.0.1")
    assert "built for TensorRT-RTX 1.7.1.116" in text
    assert text.endswith(f"levit export --rebuild {engine_artifact}")


def test_another_architecture_names_both_and_the_rebuild(engine_artifact, gpu):
    turing = replace(ADA, compute_capability=(7, 5), name="NVIDIA T4")
    gpu(engine_artifact, architecture=turing)
    text = refused(BackendUnavailableError, engine_artifact, r"built for sm_80\+")
    assert "sm_75 (NVIDIA T4)" in text
    assert f"levit export --rebuild {engine_artifact}" in text


def test_all_that_differs_is_in_one_line(engine_artifact, gpu, tampered):
    def elsewhere(folder, values):
        values["requirements"] |= {"os": "windows-x86_64", "gpu_architecture": "sm_90,sm_120"}

    folder = tampered(elsewhere, engine_artifact)
    gpu(folder, version="1.8.0.1")
    text = refused(BackendUnavailableError, folder, "windows-x86_64")
    assert "sm_90 or sm_120" in text
    assert "sm_89 (NVIDIA Imaginary), linux-" in text


def as_tensorrt(*compatibility, version="11.4.0.106", architecture="sm_89"):
    def change(folder, values):
        values |= {"target": "trt", "format": "tensorrt"}
        values["requirements"] |= {
            "backend": "tensorrt",
            "backend_version": f"=={version}",
            "gpu_architecture": architecture,
            "compatibility": list(compatibility),
        }

    return change


@pytest.mark.parametrize(
    ("change", "runs"),
    [
        (as_tensorrt(), True),
        (as_tensorrt(version="11.3.0.1"), False),
        (as_tensorrt("version", version="11.3.0.1"), True),
        (as_tensorrt("version", version="11.5.0.1"), False),
        (as_tensorrt("version", version="10.13.0.1"), False),
        (as_tensorrt(architecture="sm_86"), False),
        (as_tensorrt("hardware", architecture="sm_80+"), True),
        (as_tensorrt("hardware", architecture="sm_90+"), False),
    ],
)
def test_what_an_engine_of_tensorrt_runs_on(change, runs, engine_artifact, gpu, tampered):
    folder = tampered(change, engine_artifact)
    gpu(folder, name="tensorrt", version="11.4.0.106")
    if runs:
        Predictor(folder, "gpu", allow_host_code=True).close()
    else:
        refused(BackendUnavailableError, folder, "was built for", allow_host_code=True)


def test_host_code_runs_only_where_it_is_allowed(engine_artifact, gpu, tampered):
    folder = tampered(as_tensorrt("version"), engine_artifact)
    fake = gpu(folder, name="tensorrt", version="11.4.0.106")
    refused(BackendUnavailableError, folder, "code for the CPU.*allow_host_code=True")
    assert fake.host_code is None  # it was not even loaded
    Predictor(folder, "gpu", allow_host_code=True).close()
    assert fake.host_code is True
    with pytest.raises(ConfigError, match="allow_host_code is True or False"):
        Predictor(folder, "gpu", allow_host_code="yes")


def test_an_engine_without_host_code_never_gets_the_right(engine_artifact, gpu):
    fake = gpu(engine_artifact)
    Predictor(engine_artifact, "gpu", allow_host_code=True).close()
    assert fake.host_code is False


# ---------------------------------------------------------------------------- what goes wrong


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ("Runtime", "TensorRT cannot start"),
        ("deserialize_cuda_engine", "cannot load it: Serialization assertion failed somewhere; r"),
        ("create_execution_context", "no room on NVIDIA Imaginary for a batch of 6"),
        ("set_tensor_address", "refuses memory for 'image'"),
        ("execute_async_v3", "failed to run the engine"),
    ],
)
def test_what_tensorrt_refuses_is_one_line_and_frees_all(call, message, engine_artifact, gpu):
    fake = gpu(engine_artifact)
    fake.refuse.add(call)
    refused(BackendUnavailableError, engine_artifact, message)
    gc.collect()
    assert fake.cuda.memory == {}
    assert fake.cuda.handles == []


@pytest.mark.parametrize(
    ("call", "status"),
    [
        ("cudaMalloc", Status.cudaErrorMemoryAllocation),
        ("cudaHostAlloc", Status.cudaErrorMemoryAllocation),
        ("cudaMemcpyAsync", Status.cudaErrorLaunchFailure),
        ("cudaStreamSynchronize", Status.cudaErrorLaunchFailure),
        ("cudaGraphInstantiate", Status.cudaErrorMemoryAllocation),
    ],
)
def test_what_cuda_refuses_is_one_line_and_frees_all(call, status, static_engine, gpu):
    fake = gpu(static_engine)
    fake.cuda.fail[call] = status
    refused(BackendUnavailableError, static_engine, f"the GPU failed: {status.name}")
    gc.collect()
    assert fake.cuda.memory == {}
    assert fake.cuda.handles == []


def test_a_failure_later_on_is_an_error_too(engine_artifact, gpu, batch):
    fake = gpu(engine_artifact)
    with Predictor(engine_artifact, "gpu") as predictor:
        fake.cuda.fail["cudaStreamSynchronize"] = Status.cudaErrorLaunchFailure
        with pytest.raises(BackendUnavailableError, match="cudaErrorLaunchFailure"):
            predictor.forward(batch(2))


@pytest.mark.parametrize("static", [False, True])
def test_an_interrupted_run_leaves_nothing_under_way(
    static, static_engine, engine_artifact, gpu, batch, monkeypatch
):
    """Closing would free what the GPU still works on."""
    folder = static_engine if static else engine_artifact
    fake = gpu(folder)
    waited = []

    def interrupted(*arguments):
        raise KeyboardInterrupt

    def wait(stream):
        waited.append(stream)
        return (Status.cudaSuccess,)

    with Predictor(folder, "gpu") as predictor:
        x = np.zeros((3, 96, 96, 3), np.uint8) if static else batch(2)
        monkeypatch.setattr(fake.cuda, "cudaStreamSynchronize", wait)
        call = "cudaGraphLaunch" if static else "cudaMemcpyAsync"
        monkeypatch.setattr(fake.cuda, call, interrupted)
        with pytest.raises(KeyboardInterrupt):
            predictor.forward(x)
        assert waited == [fake.cuda.stream]


def test_a_batch_that_the_profile_lacks_is_refused(engine_artifact, gpu, batch):
    gpu(engine_artifact)
    with (
        Predictor(engine_artifact, "gpu") as predictor,
        pytest.raises(InputError, match="2 to 6 images, not 7"),
    ):
        predictor._open_session().run({"image": batch(7)})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f, v: v["requirements"].pop("profile"), "requirements are damaged"),
        (lambda f, v: v["requirements"].update(gpu_architecture="ada"), "no GPU architecture"),
        (lambda f, v: v["requirements"].update(onnx_sha256="0"), "not what the engine was built"),
        (lambda f, v: v["batch"].update(max=7), "its batch is not the profile"),
        (lambda f, v: v["outputs"].pop(), "the outputs that it states are not those"),
        (lambda f, v: v["preprocess"].update(crop_pct=0.5), "the preprocessing that it states"),
    ],
)
def test_a_manifest_that_is_not_the_engines_is_refused(
    change, message, engine_artifact, gpu, tampered
):
    folder = tampered(change, engine_artifact)
    gpu(folder, profile=(2, 4, 6))
    refused(CorruptArtifactError, folder, message)


def test_an_engine_of_another_profile_is_refused(engine_artifact, gpu):
    gpu(engine_artifact, profile=(1, 4, 6))
    refused(CorruptArtifactError, engine_artifact, "profile is not the manifest's")


def test_an_engine_of_other_types_is_refused(engine_artifact, gpu):
    gpu(engine_artifact).dtype = DataType.HALF
    refused(CorruptArtifactError, engine_artifact, "the inputs and the outputs that it states")


def test_one_byte_of_the_engine_is_found_before_tensorrt_sees_it(engine_artifact, gpu, tampered):
    folder = tampered(source=engine_artifact)
    fake = gpu(folder)
    path = folder / "model.engine"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    refused(CorruptArtifactError, folder, "contents have changed")
    assert fake.host_code is None


def test_the_metadata_of_a_graph_is_read_without_onnx(engine_artifact):
    import onnx

    path = engine_artifact / "model.onnx"
    entries = {entry.key: entry.value for entry in onnx.load(path).metadata_props}
    assert entries
    assert onnx_metadata(path) == entries
