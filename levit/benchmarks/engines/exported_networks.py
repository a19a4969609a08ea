"""timm → torch.onnx.export → ONNX Runtime or OpenVINO, which is most people's way.

As it comes, OpenVINO chooses the precision of its arithmetic by the machine: bfloat16 where the
CPU has instructions for it, float32 elsewhere. Asked for ``fp32`` it is told to; asked for
``bf16`` it is told nothing, and has to have chosen that; ``int8`` is the network that
``nncf.quantize`` makes as it comes, the rest of which runs in the precision that OpenVINO chooses.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from levit.benchmarks.engines import Job, Runner, pillow_preprocessing, timm_networks
from levit.benchmarks.engines.peer import Peer, data_config
from levit.benchmarks.engines.pillow_preprocessing import preprocessed
from levit.errors import BackendUnavailableError, ConfigError
from levit.runtime.openvino_module import openvino_core

__all__ = ["ONNXRUNTIME", "OPENVINO", "TIMM_ONNXRUNTIME", "compiled_openvino"]

_PRECISIONS: Final = {"f32": "fp32", "bf16": "bf16", "f16": "fp16"}


def _open_onnxruntime(job: Job) -> Runner:
    """A session whose options are the defaults but for the threads and the batch."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = job.threads
    options.log_severity_level = 3
    # The graph's batch is dynamic: fixed, it is as an export with this batch.
    options.add_free_dimension_override_by_name("batch", job.batch)
    session = onnxruntime.InferenceSession(
        str(job.files / "naive.onnx"), options, providers=["CPUExecutionProvider"]
    )
    name = session.get_inputs()[0].name

    def run(x: NDArray[np.float32]) -> NDArray[np.float32]:
        answer: NDArray[np.float32] = session.run(None, {name: x})[0]
        return answer

    return run


def _open_openvino(job: Job) -> Runner:
    """A request on the prepared network, used again for every batch.

    Raises:
        BackendUnavailableError: OpenVINO as it comes does not compute in the job's precision here.
    """
    compiled = compiled_openvino(job)
    found = compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name()
    found = _PRECISIONS.get(found, found)
    if job.precision not in (found, "int8"):
        raise BackendUnavailableError(
            f"OpenVINO as it comes computes in {found} on this machine, not in {job.precision}; "
            f"see naive-openvino for fp32"
        )
    request = compiled.create_infer_request()

    def run(x: NDArray[np.float32]) -> NDArray[np.float32]:
        request.infer({0: x}, share_inputs=True, share_outputs=True)
        # The request writes its next answer to the same place.
        answer: NDArray[np.float32] = request.get_output_tensor(0).data.copy()
        return answer

    return run


def compiled_openvino(job: Job) -> Any:
    """The prepared network compiled for a job's batch and threads, on one stream."""
    core = openvino_core()
    model = core.read_model(_openvino_file(job))
    model.reshape([job.batch, 3, *job.image_size])
    return core.compile_model(model, "CPU", _openvino_hints(job))


def _openvino_file(job: Job) -> Path:
    return job.files / ("naive-int8.xml" if job.precision == "int8" else "naive.xml")


def _openvino_hints(job: Job) -> dict[str, Any]:
    told = {"INFERENCE_PRECISION_HINT": "f32"} if job.precision == "fp32" else {}
    return told | {"INFERENCE_NUM_THREADS": job.threads, "NUM_STREAMS": 1}


def _open_transform(job: Job) -> Callable[[Image.Image], NDArray[Any]]:
    arguments = _preprocessing(job)
    return lambda image: preprocessed(image, *arguments)


def _preprocessing(job: Job) -> tuple[int, float, tuple[float, ...], tuple[float, ...]]:
    """(size, crop_pct, mean, std) for `preprocessed`."""
    config = data_config(job)
    square = job.image_size[0] == job.image_size[1]
    if not (square and config["interpolation"] == "bicubic" and config["crop_mode"] == "center"):
        raise ConfigError(f"{job.model}: this engine prepares square bicubic centre crops only")
    return job.image_size[0], config["crop_pct"], config["mean"], config["std"]


def _onnxruntime_script(job: Job) -> str:
    return _script(job, _load_onnxruntime(job), _RUN_ONNXRUNTIME)


def _timm_onnxruntime_script(job: Job) -> str:
    return f"""\
import sys

from PIL import Image
from timm.data import create_transform

{_load_onnxruntime(job)}
transform = create_transform(**{data_config(job)!r})
x = transform(Image.open(sys.argv[1]).convert("RGB"))[None].numpy()
print({_RUN_ONNXRUNTIME}[0].argmax())
"""


def _load_onnxruntime(job: Job) -> str:
    return f"""\
import onnxruntime

options = onnxruntime.SessionOptions()
options.intra_op_num_threads = {job.threads}
session = onnxruntime.InferenceSession({str(job.files / "naive.onnx")!r}, options)
"""


_RUN_ONNXRUNTIME: Final = "session.run(None, {session.get_inputs()[0].name: x})[0]"


def _openvino_script(job: Job) -> str:
    load = f"""\
# Else it would report its import over the network.
sys.modules["openvino_telemetry"] = None
import openvino

hints = {_openvino_hints(job)!r}
network = openvino.Core().compile_model({str(_openvino_file(job))!r}, "CPU", hints)
"""
    return _script(job, load, "network(x)[0]")


def _script(job: Job, load: str, call: str) -> str:
    """The source of a process that classifies one JPEG.

    Args:
        load: lines that make the network ready.
        call: expression that turns ``x`` into logits, (1, classes).
    """
    return f"""\
{inspect.getsource(pillow_preprocessing)}

import sys

{load}
image = Image.open(sys.argv[1]).convert("RGB")
x = preprocessed(image, *{_preprocessing(job)!r})
print({call}[0].argmax())
"""


ONNXRUNTIME: Final = Peer(
    open_runner=_open_onnxruntime, open_transform=_open_transform, script=_onnxruntime_script
)
TIMM_ONNXRUNTIME: Final = Peer(
    open_runner=_open_onnxruntime,
    open_transform=timm_networks.open_transform,
    script=_timm_onnxruntime_script,
)
OPENVINO: Final = Peer(
    open_runner=_open_openvino, open_transform=_open_transform, script=_openvino_script
)
