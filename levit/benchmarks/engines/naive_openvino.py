"""timm → torch.onnx.export → OpenVINO: in float32, and as it comes.

As it comes, OpenVINO chooses the precision of its arithmetic by the machine: bfloat16 where the
CPU has instructions for it, float32 elsewhere. So one module is two engines: asked for ``fp32``
it is told to, asked for ``bf16`` it is told nothing, and has to have chosen that.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from levit.benchmarks.engines import ImageRunner, Job, Runner, pillow_images
from levit.errors import BackendUnavailableError
from levit.runtime.openvino_module import openvino_core

__all__ = ["open_image_runner", "open_runner", "script"]

_NAMES: Final = {"f32": "fp32", "bf16": "bf16", "f16": "fp16"}


def open_runner(job: Job) -> Runner:
    """A request on the prepared network with its batch fixed.

    Raises:
        BackendUnavailableError: OpenVINO as it comes does not compute in `job.precision` here.
    """
    compiled = compile_file(job, job.files / "naive.xml", _hints(job))
    found = _name(compiled.get_property("INFERENCE_PRECISION_HINT"))
    if found != job.precision:
        raise BackendUnavailableError(
            f"OpenVINO as it comes computes in {found} on this machine, not in {job.precision}; "
            f"see naive-openvino for fp32"
        )
    return runner_of(compiled)


def compile_file(job: Job, path: Path, hints: dict[str, Any]) -> Any:
    """The network at `path` for `job`'s batch and threads, on one stream."""
    core = openvino_core()
    model = core.read_model(path)
    model.reshape([job.batch, 3, *job.image_size])
    return core.compile_model(model, "CPU", hints | _threads(job))


def runner_of(compiled: Any) -> Runner:
    """Batches through one request that is used again."""
    request = compiled.create_infer_request()

    def run(x: NDArray[np.float32]) -> NDArray[np.float32]:
        request.infer({0: x}, share_inputs=True, share_outputs=True)
        # The request writes its next answer to the same place.
        answer: NDArray[np.float32] = request.get_output_tensor(0).data.copy()
        return answer

    return run


def open_image_runner(job: Job) -> ImageRunner:
    job = replace(job, batch=1)
    return pillow_images.image_runner(open_runner(job), job)


def script(job: Job) -> str:
    return script_of(job, job.files / "naive.xml", _hints(job))


def script_of(job: Job, path: Path, hints: dict[str, Any]) -> str:
    """As `script`, of the network at `path`."""
    load = (
        "# Else it would report its import over the network.\n"
        'sys.modules["openvino_telemetry"] = None\n'
        "import openvino\n\n"
        f"hints = {hints | _threads(job)!r}\n"
        f'network = openvino.Core().compile_model({str(path)!r}, "CPU", hints)\n'
    )
    return pillow_images.script(job, load, "network(x)[0]")


def _hints(job: Job) -> dict[str, Any]:
    return {"INFERENCE_PRECISION_HINT": "f32"} if job.precision == "fp32" else {}


def _threads(job: Job) -> dict[str, Any]:
    return {"INFERENCE_NUM_THREADS": job.threads, "NUM_STREAMS": 1}


def _name(precision: Any) -> str:
    name: str = precision.get_type_name()
    return _NAMES.get(name, name)
