import numpy as np
import onnxruntime
import pytest

from levit import Predictor
from levit.benchmarks.engines import ENGINES, Job
from levit.benchmarks.engines.levit_onnx_cuda import BoundSession, open_runner, require_first
from levit.errors import BackendUnavailableError, InputError


@pytest.fixture
def session(tiny_artifact):
    return onnxruntime.InferenceSession(
        str(tiny_artifact / "model.onnx"), providers=["CPUExecutionProvider"]
    )


@pytest.fixture
def predictor(tiny_artifact):
    with Predictor(tiny_artifact) as predictor:
        yield predictor


@pytest.fixture
def batch_of(rng, predictor):
    shape = predictor.manifest.inputs[0].shape[1:]
    return lambda count: rng.standard_normal((count, *shape), np.float32)


def test_bound_buffers_give_the_predictors_answers(session, predictor, batch_of):
    bound = BoundSession(session, "cpu")
    # A second batch of the same size goes through the same buffers, one of another size does not.
    for count in (3, 3, 1, 4, 3):
        batch = batch_of(count)
        expected = predictor.forward(batch)["logits"]
        for _ in range(2):
            answer = bound.run(batch)
            assert answer.shape == expected.shape
            np.testing.assert_allclose(answer, expected, rtol=1e-4, atol=1e-5)


def test_a_batch_stays_on_the_device_between_calls(session, batch_of):
    """What is timed is the network, as in the paper, and not the copy."""
    bound = BoundSession(session, "cpu")
    first, second = batch_of(2), batch_of(2)
    before = bound.run(first).copy()
    uploaded = bound._given.data_ptr()
    first[:] = 0  # not seen: the array is the same one
    np.testing.assert_array_equal(bound.run(first), before)
    assert np.abs(bound.run(second) - before).max() > 0
    assert bound._given.data_ptr() == uploaded
    assert np.abs(bound.run(first) - before).max() > 0


def test_a_batch_that_is_not_contiguous(session, batch_of):
    bound = BoundSession(session, "cpu")
    batch = batch_of(2)
    straight = bound.run(batch).copy()
    np.testing.assert_array_equal(bound.run(np.asfortranarray(batch)), straight)


def test_an_answer_is_not_overwritten_by_the_next(session, batch_of):
    bound = BoundSession(session, "cpu")
    answer = bound.run(batch_of(1))
    kept = answer.copy()
    bound.run(batch_of(1))
    np.testing.assert_array_equal(answer, kept)


def test_a_batch_of_another_type_is_refused(session, batch_of):
    with pytest.raises(InputError, match=r"tensor\(float\), the batch is float64"):
        BoundSession(session, "cpu").run(batch_of(1).astype(np.float64))


def test_a_session_without_cuda_is_refused(session):
    with pytest.raises(BackendUnavailableError, match="CPUExecutionProvider, without CUDA"):
        require_first(session.get_providers(), "CUDAExecutionProvider")
    # Second is not first: onnxruntime runs nodes in the first provider that has them.
    with pytest.raises(BackendUnavailableError):
        require_first(["CPUExecutionProvider", "CUDAExecutionProvider"], "CUDAExecutionProvider")
    require_first(["CUDAExecutionProvider", "CPUExecutionProvider"], "CUDAExecutionProvider")


@pytest.mark.skipif(
    "CUDAExecutionProvider" in onnxruntime.get_available_providers(), reason="CUDA is here"
)
def test_without_a_gpu_it_does_not_run_on_the_cpu(tmp_path, tiny_artifact):
    (tmp_path / "artifact").symlink_to(tiny_artifact)
    job = Job(
        model="levit_digits",
        precision="fp32",
        batch=1,
        threads=1,
        device="gpu",
        image_size=(32, 32),
        files=tmp_path,
    )
    with pytest.raises(BackendUnavailableError, match="GPU"):
        open_runner(job)


def test_it_is_offered_for_the_gpu_alone():
    assert ENGINES["levit-onnx-cuda"].devices == ("gpu",)
    assert ENGINES["levit-onnx-cuda"].kind == "ours"
