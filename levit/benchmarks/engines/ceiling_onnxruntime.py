"""The matrix product in ONNX Runtime: MatMul in float32, MatMulInteger in int8.

Its left operand in int8 is unsigned: with a signed one it was 19 times slower (onnxruntime 1.30
on x86), which is no ceiling.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from levit.benchmarks.engines import Job, Runner
from levit.benchmarks.engines.ceiling import ROWS, SIDE, operands, require_product, verified

__all__ = ["open_runner"]

PRECISIONS: Final = ("fp32", "int8")


def open_runner(job: Job) -> Runner:
    """A runner that ignores its argument and returns `ROWS` of the product as float32."""
    import onnxruntime

    require_product(job, PRECISIONS)
    left, _ = operands(job.precision)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = job.threads
    options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        _model(job.precision), options, providers=["CPUExecutionProvider"]
    )
    # Both ends are bound once: a new output of 4 MiB a call would be page faults, not products.
    product = np.empty((SIDE, SIDE), np.int32 if job.precision == "int8" else np.float32)
    binding = session.io_binding()
    binding.bind_cpu_input("left", left)
    binding.bind_output("product", "cpu", 0, product.dtype, product.shape, product.ctypes.data)

    def run(_: NDArray[Any]) -> NDArray[Any]:
        session.run_with_iobinding(binding)
        return product[ROWS].astype(np.float32)

    return verified(run, job)


def _model(precision: str) -> bytes:
    """The graph: one node, whose right operand is an initializer."""
    from onnx import TensorProto, helper, numpy_helper

    kinds = {
        "fp32": ("MatMul", TensorProto.FLOAT, TensorProto.FLOAT),
        "int8": ("MatMulInteger", TensorProto.UINT8, TensorProto.INT32),
    }
    operator, given, made = kinds[precision]
    graph = helper.make_graph(
        [helper.make_node(operator, ["left", "right"], ["product"])],
        "ceiling",
        [helper.make_tensor_value_info("left", given, (SIDE, SIDE))],
        [helper.make_tensor_value_info("product", made, (SIDE, SIDE))],
        [numpy_helper.from_array(operands(precision).right, "right")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return bytes(model.SerializeToString())
