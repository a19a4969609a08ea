import numpy as np
import onnxruntime
import pytest

from levit import Predictor
from levit.benchmarks.engines import ENGINES, Job
from levit.benchmarks.engines.levit_onnx_cuda import open_runner, runner_of
from levit.errors import BackendUnavailableError
from levit.runtime.gpus import first_gpu
from levit.runtime.sessions.ort_binding import BoundSession


@pytest.fixture
def predictor(tiny_artifact):
    with Predictor(tiny_artifact) as predictor:
        yield predictor


@pytest.fixture
def batch_of(rng, predictor):
    shape = predictor.manifest.inputs[0].shape[1:]
    return lambda count: rng.standard_normal((count, *shape), np.float32)


@pytest.fixture
def run(tiny_artifact, predictor):
    session = onnxruntime.InferenceSession(
        str(tiny_artifact / "model.onnx"), providers=["CPUExecutionProvider"]
    )
    return runner_of(BoundSession(session, "cpu"), predictor.manifest.inputs[0].name)


def test_answers_are_the_predictors(run, predictor, batch_of):
    for count in (3, 3, 1, 4, 3):
        batch = batch_of(count)
        expected = predictor.forward(batch)["logits"]
        for _ in range(2):
            np.testing.assert_allclose(run(batch), expected, rtol=1e-4, atol=1e-5)


def test_a_batch_stays_on_the_device_between_calls(run, batch_of):
    """What is timed is the network, as in the paper, and not the copy."""
    first, second = batch_of(2), batch_of(2)
    before = run(first)
    first[:] = 0  # not seen: the array is the same one
    np.testing.assert_array_equal(run(first), before)
    assert np.abs(run(second) - before).max() > 0
    assert np.abs(run(first) - before).max() > 0


@pytest.mark.skipif(first_gpu() is not None, reason="a GPU is here")
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
    with pytest.raises(BackendUnavailableError, match="no NVIDIA driver"):
        open_runner(job)


def test_it_is_offered_for_the_gpu_alone():
    assert ENGINES["levit-onnx-cuda"].devices == ("gpu",)
    assert ENGINES["levit-onnx-cuda"].kind == "ours"
