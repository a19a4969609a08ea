"""Our ONNX artifact on an NVIDIA GPU, in ONNX Runtime's CUDA provider.

It has not been run on hardware yet.
"""

from __future__ import annotations

from typing import Any

from numpy.typing import NDArray

from levit.artifact import open_artifact
from levit.benchmarks.engines import Job, Runner
from levit.benchmarks.engines.levit_artifact import open_image_runner, open_line
from levit.runtime.backends import SessionOptions, open_session
from levit.runtime.sessions.ort_binding import BoundSession
from levit.runtime.sessions.ort_cuda import OrtCudaSession

__all__ = ["open_image_runner", "open_line", "open_runner", "runner_of"]


def open_runner(job: Job) -> Runner:
    """Logits of a batch; the answer is in the host's memory when it returns.

    Raises:
        BackendUnavailableError: there is no GPU, or ONNX Runtime would not use it.
    """
    artifact = open_artifact(job.files / job.artifact)
    session = open_session(artifact, SessionOptions(device="gpu", threads=job.threads))
    assert isinstance(session, OrtCudaSession)
    return runner_of(session, artifact.manifest.inputs[0].name)


def runner_of(session: OrtCudaSession | BoundSession, name: str) -> Runner:
    """Time a batch that is on the GPU already, as in the paper.

    A batch is copied there when it is another array than in the call before.

    Args:
        name: the network's input.
    """
    held: NDArray[Any] | None = None

    def run(batch: NDArray[Any]) -> NDArray[Any]:
        nonlocal held
        if batch is not held:
            session.put({name: batch})
            # Held, so that no other array can come to lie at its place and pass for it.
            held = batch
        answers = session.answer()
        return answers.get("logits", next(iter(answers.values())))

    return run
