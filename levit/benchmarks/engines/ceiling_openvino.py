"""The matrix product in OpenVINO: float32, bfloat16 by the inference precision, int8 quantised.

OpenVINO falls back without a word: without AVX-512 BF16 or AMX the hint ``bf16`` runs in float32,
and uint8 activations that do not come from a FakeQuantize meet int8 weights in a float32 kernel,
whose precision then still reads ``i8``. So the executed graph is asked for its kernel.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from levit.benchmarks.engines import Job, Runner
from levit.benchmarks.engines.ceiling import ROWS, operands, require_product, verified
from levit.errors import BackendUnavailableError
from levit.runtime.openvino_module import import_openvino, openvino_core

__all__ = ["executed_kernel", "open_runner"]

# precision → what the executed product's may be called, and the end of its kernel's name.
_EXECUTED: Final = {
    "fp32": (("f32",), "f32"),
    "bf16": (("bf16",), "bf16"),
    "int8": (("u8", "i8"), "i8"),
}
PRECISIONS: Final = tuple(_EXECUTED)


def open_runner(job: Job) -> Runner:
    """A runner that ignores its argument and returns `ROWS` of the product as float32.

    Raises:
        BackendUnavailableError: this CPU does not compute at the job's precision.
    """
    openvino = import_openvino()
    require_product(job, PRECISIONS)
    settings = {
        "INFERENCE_NUM_THREADS": job.threads,
        "NUM_STREAMS": 1,
        "INFERENCE_PRECISION_HINT": "bf16" if job.precision == "bf16" else "f32",
    }
    compiled = openvino_core().compile_model(_model(job.precision), "CPU", settings)
    precision, kernel = executed_kernel(compiled)
    allowed, ending = _EXECUTED[job.precision]
    if precision not in allowed or not kernel.lower().endswith(ending):
        raise BackendUnavailableError(
            f"OpenVINO multiplies in {precision} ({kernel}) on this CPU, not in {job.precision}: "
            "leave this ceiling out"
        )
    request = compiled.create_infer_request()
    left = operands(job.precision).left.astype(np.float32)
    request.set_input_tensor(openvino.Tensor(left))

    def run(_: NDArray[Any]) -> NDArray[Any]:
        request.infer()
        return np.array(request.get_output_tensor().data[ROWS], np.float32)

    return verified(run, job)


def executed_kernel(compiled: Any) -> tuple[str, str]:
    """(precision, kernel) of the only product in a compiled model, as OpenVINO names them."""
    for node in compiled.get_runtime_model().get_ordered_ops():
        told = node.get_rt_info()
        if told["layerType"].astype(str) in ("FullyConnected", "MatMul"):
            return told["runtimePrecision"].astype(str), told["primitiveType"].astype(str)
    return "an unknown precision", "no product in the executed graph"


def _model(precision: str) -> Any:
    """float32 (SIDE, SIDE) × the constant right operand → float32."""
    openvino = import_openvino()
    from openvino import opset13 as ops

    # The transposed weights of a Linear are what needs no turning.
    right = np.ascontiguousarray(operands(precision).right.T)
    given = ops.parameter(right.shape, np.float32, name="left")
    left: Any = given
    weights: Any = ops.constant(right)
    if precision == "int8":
        low, high = (ops.constant(np.float32(end)) for end in (0, 255))
        left = ops.fake_quantize(given, low, high, low, high, 256)  # a scale of 1: exact
        scale = ops.constant(np.ones((len(right), 1), np.float32))
        weights = ops.multiply(ops.convert(weights, np.float32), scale)
    return openvino.Model([ops.matmul(left, weights, False, True)], [given], "ceiling")
