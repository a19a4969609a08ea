"""timm → torch.onnx.export → ONNX Runtime, session options as they come but for the threads."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from levit.benchmarks.engines import ImageRunner, Job, Runner, pillow_images

__all__ = ["open_image_runner", "open_runner", "script"]


def open_runner(job: Job) -> Runner:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = job.threads
    options.log_severity_level = 3
    # As an export with this batch; the graph's own is dynamic.
    options.add_free_dimension_override_by_name("batch", job.batch)
    session = onnxruntime.InferenceSession(
        str(job.files / "naive.onnx"), options, providers=["CPUExecutionProvider"]
    )
    name = session.get_inputs()[0].name

    def run(x: NDArray[np.float32]) -> NDArray[np.float32]:
        answer: NDArray[np.float32] = session.run(None, {name: x})[0]
        return answer

    return run


def open_image_runner(job: Job) -> ImageRunner:
    job = replace(job, batch=1)
    return pillow_images.image_runner(open_runner(job), job)


def script(job: Job) -> str:
    load = (
        "import onnxruntime\n\n"
        "options = onnxruntime.SessionOptions()\n"
        f"options.intra_op_num_threads = {job.threads}\n"
        f"session = onnxruntime.InferenceSession({str(job.files / 'naive.onnx')!r}, options)\n"
    )
    return pillow_images.script(
        job, load, "session.run(None, {session.get_inputs()[0].name: x})[0]"
    )
