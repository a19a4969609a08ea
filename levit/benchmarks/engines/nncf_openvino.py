"""timm → torch.onnx.export → ``nncf.quantize`` as it comes → OpenVINO int8.

What NNCF leaves in floating point runs in the precision that OpenVINO chooses (bfloat16 where
the CPU has it).
"""

from __future__ import annotations

from dataclasses import replace

from levit.benchmarks.engines import ImageRunner, Job, Runner, naive_openvino, pillow_images

__all__ = ["open_image_runner", "open_runner", "script"]

_FILE = "naive-int8.xml"


def open_runner(job: Job) -> Runner:
    return naive_openvino.runner_of(naive_openvino.compile_file(job, job.files / _FILE, {}))


def open_image_runner(job: Job) -> ImageRunner:
    job = replace(job, batch=1)
    return pillow_images.image_runner(open_runner(job), job)


def script(job: Job) -> str:
    return naive_openvino.script_of(job, job.files / _FILE, {})
