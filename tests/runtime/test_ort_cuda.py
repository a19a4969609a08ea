"""What goes on around the GPU: the same buffers, bound on the CPU provider, and its refusals."""

import os
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import onnxruntime
import pytest

from levit import Predictor
from levit.artifact import open_artifact
from levit.errors import BackendUnavailableError, CorruptArtifactError, InputError
from levit.runtime.backends import SessionOptions
from levit.runtime.gpus import Gpu, first_gpu
from levit.runtime.obstacle import Obstacle
from levit.runtime.probes import cuda_libraries_obstacle, driver_obstacle
from levit.runtime.sessions import ort_binding, ort_cuda
from levit.runtime.sessions.ort_binding import BoundSession, on_device_thread, telling

CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"

without_cuda = pytest.mark.skipif(
    CUDA in onnxruntime.get_available_providers(), reason="ONNX Runtime has CUDA"
)


def bound_session(folder):
    path = str(folder / "model.onnx")
    return BoundSession(onnxruntime.InferenceSession(path, providers=[CPU]), "cpu")


@pytest.fixture
def bound(embedding_artifact):
    return bound_session(embedding_artifact)


@pytest.fixture
def expected(embedding_artifact):
    with Predictor(embedding_artifact) as predictor:
        yield predictor.forward


def test_bound_buffers_give_the_predictors_answers(bound, expected, batch):
    # A second batch of a size goes through the same buffers; more sizes than have buffers.
    for count in (3, 3, 1, 4, 2, 5, 6, 3):
        values = batch(count)
        for _ in range(2):
            answers = bound.run({"image": values})
            reference = expected(values)
            assert answers.keys() == reference.keys() == {"logits", "embedding"}
            for name, value in reference.items():
                np.testing.assert_allclose(answers[name], value, rtol=1e-4, atol=1e-5)
    assert len(bound._bindings) == ort_binding._BATCHES


def test_addresses_stay_while_a_size_is_in_use(bound, batch):
    """A CUDA graph reads and writes where it did when it was captured."""

    def addresses():
        binding = bound._bindings[2]
        return [v.data_ptr() for v in (*binding._inputs.values(), *binding._outputs.values())]

    bound.run({"image": batch(2)})
    before = addresses()
    bound.run({"image": batch(1)})
    bound.run({"image": batch(2)[::-1]})
    assert addresses() == before
    assert len(set(before)) == 3


def test_an_answer_is_not_overwritten_by_the_next(bound, batch):
    answer = bound.run({"image": batch(1)})["logits"]
    kept = answer.copy()
    bound.run({"image": -batch(1)})
    np.testing.assert_array_equal(answer, kept)


def test_a_batch_that_is_not_contiguous(bound, batch):
    straight = bound.run({"image": batch(2)})["logits"]
    strided = bound.run({"image": np.asfortranarray(batch(2))})["logits"]
    np.testing.assert_array_equal(strided, straight)


def test_pixels_are_bound_too(uint8_artifact):
    bound = bound_session(uint8_artifact)
    pixels = np.random.default_rng(0).integers(0, 256, (2, 96, 96, 3), np.uint8)
    with Predictor(uint8_artifact) as predictor:
        expected = predictor.forward(pixels)["logits"]
    np.testing.assert_allclose(bound.run({"pixels": pixels})["logits"], expected, rtol=1e-4)


def test_the_last_batch_that_was_put_answers(bound, expected, batch):
    with pytest.raises(InputError, match="no batch"):
        bound.answer()
    for count in (2, 1, 2):
        bound.put({"image": batch(count)})
        for _ in range(2):
            answer = bound.answer()["logits"]
            np.testing.assert_allclose(answer, expected(batch(count))["logits"], rtol=1e-4)


@pytest.mark.parametrize(
    ("feeds", "said"),
    [
        (lambda x: {"image": x.astype(np.float64)}, r"tensor\(float\), not .* float64"),
        (lambda x: {"image": x[:, :, 1:]}, r"not \[2, 3, 95, 96\]"),
        (lambda x: {"pixels": x}, "takes image, not pixels"),
    ],
)
def test_what_the_network_does_not_take_is_refused(bound, batch, feeds, said):
    with pytest.raises(InputError, match=said):
        bound.run(feeds(batch(2)))
    # It goes on with what it takes.
    assert bound.run({"image": batch(2)})["logits"].shape == (2, 10)


def test_a_fixed_batch_takes_no_other(static_artifact, batch):
    """A graph would be replayed over the buffers of its own batch, whatever is bound."""
    bound = bound_session(static_artifact)
    before = bound.run({"image": batch(4)})["logits"]
    for count in (3, 5):
        with pytest.raises(InputError, match=rf"\[4, 3, 96, 96\].* not \[{count}, 3, 96, 96\]"):
            bound.run({"image": batch(count)})
    np.testing.assert_array_equal(bound.run({"image": batch(4)})["logits"], before)


def test_many_threads_get_their_own_answers(bound, expected, batch):
    references = {count: expected(batch(count))["logits"] for count in range(1, 7)}

    def ask(count):
        return count, bound.run({"image": batch(count)})["logits"]

    with ThreadPoolExecutor(6) as pool:
        for count, answer in pool.map(ask, [1, 2, 3, 4, 5, 6] * 10):
            np.testing.assert_allclose(answer, references[count], rtol=1e-4, atol=1e-5)


def test_a_closed_session_answers_no_more(bound, batch):
    bound.run({"image": batch(1)})
    for _ in range(2):
        bound.close()
    with pytest.raises(InputError, match="closed"):
        bound.run({"image": batch(1)})


def test_closing_leaves_what_is_under_way(bound, expected, batch):
    """Asked before, answered before; asked after, an error; nothing in between."""
    reference = expected(batch(6))["logits"]

    def ask(_):
        try:
            return bound.run({"image": batch(6)})["logits"]
        except InputError as error:
            return str(error)

    with ThreadPoolExecutor(4) as pool:
        answers = [pool.submit(ask, i) for i in range(24)]
        answers[4].result()
        bound.close()
        for answer in (a.result() for a in answers):
            if isinstance(answer, str):
                assert answer == "the session is closed"
            else:
                np.testing.assert_allclose(answer, reference, rtol=1e-4, atol=1e-5)


def test_one_thread_drives_the_device():
    here = threading.get_ident()
    with ThreadPoolExecutor(4) as pool:
        seen = set(pool.map(lambda _: on_device_thread(threading.get_ident), range(40)))
    assert len(seen) == 1
    assert here not in seen


def test_what_the_thread_raises_is_the_callers():
    def work():
        raise InputError("no")

    with pytest.raises(InputError, match=r"^no$"):
        on_device_thread(work)
    assert on_device_thread(lambda: 1) == 1


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_a_forked_child_has_a_thread_of_its_own(bound, batch):
    bound.run({"image": batch(1)})
    child = os.fork()
    if child == 0:
        os._exit(7 if on_device_thread(lambda: 7) == 7 else 1)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 7


# ------------------------------------------------------------------ refusals


def test_a_session_without_cuda_is_refused():
    with pytest.raises(BackendUnavailableError, match="in CPUExecutionProvider, without CUDA"):
        ort_cuda.require_first([CPU])
    # Second is not first: ONNX Runtime runs nodes in the first provider that has them.
    with pytest.raises(BackendUnavailableError):
        ort_cuda.require_first([CPU, CUDA])
    ort_cuda.require_first([CUDA, CPU])


@without_cuda
def test_onnxruntime_for_the_cpu_is_refused_even_if_nothing_had_looked(tiny_artifact):
    """No fall-back: not where the probe has been passed by, either."""
    artifact = open_artifact(tiny_artifact)
    with (
        pytest.warns(UserWarning, match=CUDA),
        pytest.raises(BackendUnavailableError, match=r"cannot run all of .* on the GPU"),
    ):
        ort_cuda._open(artifact, SessionOptions(device="gpu"), str(artifact.payload))


@without_cuda
def test_a_network_that_loads_nowhere_is_not_the_gpus_fault(tampered):
    def damage(folder, values):
        data = (folder / "model.onnx").read_bytes()
        (folder / "model.onnx").write_bytes(data.replace(b"HardSwish", b"HardSwosh"))

    artifact = open_artifact(tampered(damage))
    with (
        pytest.warns(UserWarning, match=CUDA),
        pytest.raises(CorruptArtifactError, match="cannot load it"),
    ):
        ort_cuda._open(artifact, SessionOptions(device="gpu"), str(artifact.payload))


@pytest.mark.skipif(first_gpu() is not None, reason="a GPU is here")
def test_the_session_itself_asks_for_the_gpu(tiny_artifact):
    with pytest.raises(BackendUnavailableError, match=r"^the GPU: no NVIDIA driver: install"):
        ort_cuda.OrtCudaSession(open_artifact(tiny_artifact), SessionOptions(device="gpu"))


def test_a_network_that_does_not_run_is_refused(tiny_artifact):
    class Session:
        def run(self, feeds):
            assert feeds["image"].shape == (1, 3, 96, 96)
            raise InputError("ONNX Runtime refused the batch") from RuntimeError("no kernel image")

    with pytest.raises(BackendUnavailableError, match=r"\(no kernel image\): see levit doctor"):
        ort_cuda._try(open_artifact(tiny_artifact), Session())


CUDA_CALL = (
    "/onnxruntime_src/onnxruntime/core/providers/cuda/cuda_call.cc:154 std::conditional_t<THRW, "
    "void, onnxruntime::common::Status> onnxruntime::CudaCall(ERRTYPE, const char*, const char*, "
    "SUCCTYPE, const char*, const char*, int) [with ERRTYPE = cudaError; bool THRW = true; SUCCTYPE"
    " = cudaError; std::conditional_t<THRW, void, common::Status> = void] CUDA failure 100: no "
    "CUDA-capable device is detected ; GPU=-1 ; hostname=host ; file=/onnxruntime_src/a.cc ; "
    "line=310 ; expr=cudaSetDevice(info_.device_id); \n\n"
)


@pytest.mark.parametrize(
    ("said", "told"),
    [
        (CUDA_CALL, "CUDA failure 100: no CUDA-capable device is detected"),
        (
            "[ONNXRuntimeError] : 6 : RUNTIME_EXCEPTION : Non-zero status code returned while "
            "running Conv node. Name:'stem.0' Status Message: /onnxruntime_src/onnxruntime/core/"
            "framework/bfc_arena.cc:359 void* onnxruntime::BFCArena::AllocateRawInternal(size_t, "
            "bool) Failed to allocate memory for requested buffer of size 411041792\n",
            "Failed to allocate memory for requested buffer of size 411041792",
        ),
        (
            "[ONNXRuntimeError] : 1 : FAIL : Exception during initialization: /onnxruntime_src/"
            "onnxruntime/core/optimizer/transformer_memcpy.cc:253 bool onnxruntime::Transformer"
            "MemcpyImpl::IsNodeCompatibleWithProvider(const onnxruntime::Node&) const !node_"
            "provider_type.empty() was false. Provider type for GlobalAveragePool node with name "
            "'head' is not set.\n",
            "Provider type for GlobalAveragePool node with name 'head' is not set.",
        ),
        ("[ONNXRuntimeError] : 9 : NOT_IMPLEMENTED", "[ONNXRuntimeError] : 9 : NOT_IMPLEMENTED"),
    ],
)
def test_what_onnxruntime_says_for_its_users_is_told(said, told):
    assert telling(RuntimeError(said)) == told


@pytest.mark.skipif(
    CUDA in onnxruntime.get_available_providers() and first_gpu() is not None, reason="CUDA is here"
)
def test_missing_libraries_are_named(capsys):
    found = cuda_libraries_obstacle()
    assert "CUDA's libraries are missing (" in found.reason
    assert ".so" in found.reason
    assert found.remedy == "pip install 'onnxruntime-gpu[cuda,cudnn]'"
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("built_for", "served", "passes"),
    [
        ("13.0", (13, 1), True),
        ("13.1", (13, 0), True),  # a driver serves its whole major version
        ("12.8", (13, 0), True),
        ("13.0", (12, 8), False),
        ("", (12, 8), True),  # ONNX Runtime does not tell
    ],
)
def test_the_driver_must_be_new_enough(built_for, served, passes):
    gpu = Gpu(
        name="NVIDIA H200",
        compute_capability=(9, 0),
        memory_bytes=1,
        cuda_version=served,
        driver_version=None,
    )
    found = driver_obstacle(gpu, built_for)
    assert (found is None) == passes
    if not passes:
        assert isinstance(found, Obstacle)
        assert found.reason.endswith("needs CUDA 13, the driver is for CUDA 12.8")
