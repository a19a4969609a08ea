"""The ceilings: one fixed matrix product in each of the libraries at hand.

A network's engine cannot do more multiply-accumulates a second than a large, plain product in
the best of the libraries does, at the same precision and number of threads. That best is the
machine's ceiling; each contender is also told as a fraction of it.

The right operand is a constant, as a layer's weights are: a library may pack it once. Integer
operands are small enough (127 · 64 · 2 < 2¹⁵) that no kernel for CPUs without VNNI saturates
between its two steps, so that every correct int8 product is the same number.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from levit.benchmarks.engines import Job, Runner
from levit.errors import BackendUnavailableError
from levit.relative_error import relative_error
from levit.runtime.openvino_module import import_openvino, openvino_core

__all__ = ["IN_ONNXRUNTIME", "IN_OPENVINO", "IN_TORCH", "MACS", "SIDE"]

# Chosen from 768, 1024, 1536 and 2048 with all three runtimes on a Zen 5 core: from 1024 on
# nothing gains, and above it the int8 operands of ONNX Runtime leave the caches (up to 14 % less).
# One product takes 2 to 9 ms on a core. With many cores (over about 16) it is too small to be
# their ceiling.
SIDE: Final = 1024
MACS: Final = SIDE**3

# The rows of its product that a runner returns. Converting all of it to float32 would cost a
# tenth of a product in bfloat16.
ROWS: Final = slice(None, None, SIDE // 8)

# Largest difference over the largest value: float32 sums of 1024 products, 8 significant bits,
# and integers.
_ERRORS: Final[Mapping[str, float]] = {"fp32": 5e-6, "bf16": 1e-2, "int8": 0.0}


def operands(precision: str) -> tuple[NDArray[Any], NDArray[Any]]:
    """Left and right operand, (SIDE, SIDE) each, the same in every run.

    Returns:
        float32 normals (for ``bf16`` too: rounding them is the engine's); for ``int8`` a left
        of 0…127 as uint8, a right of −64…63 as int8.
    """
    rng = np.random.default_rng(0)
    shape = (SIDE, SIDE)
    if precision == "int8":
        return rng.integers(0, 128, shape, np.uint8), rng.integers(-64, 64, shape, np.int8)
    return rng.standard_normal(shape, np.float32), rng.standard_normal(shape, np.float32)


def reference(precision: str) -> NDArray[np.float64]:
    """(8, SIDE): the rows of the product that a runner returns, in float64."""
    left, right = operands(precision)
    product: NDArray[np.float64] = left[ROWS].astype(np.float64) @ right.astype(np.float64)
    return product


@dataclass(frozen=True)
class Ceiling:
    """The product in one library: a runner that ignores its argument and returns `ROWS` of it."""

    open_product: Callable[[Job], Runner]

    def open_runner(self, job: Job) -> Runner:
        """Open the product and check it: a wrong one would raise everybody's ceiling.

        Raises:
            BackendUnavailableError: the product is wrong, or this CPU does not compute at the
                job's precision.
        """
        run = self.open_product(job)
        error = relative_error(run(np.empty(0)), reference(job.precision))
        if not error <= _ERRORS[job.precision]:
            raise BackendUnavailableError(
                f"its product is off by {error:.1e} at {job.precision}: leave this ceiling out"
            )
        return run


# ------------------------------------------------------------------------------ ONNX Runtime


def _open_onnxruntime(job: Job) -> Runner:
    import onnxruntime

    left, _ = operands(job.precision)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = job.threads
    options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        onnx_product(job.precision), options, providers=["CPUExecutionProvider"]
    )
    # Both ends are bound once: a new output of 4 MiB a call would be page faults, not products.
    product = np.empty((SIDE, SIDE), np.int32 if job.precision == "int8" else np.float32)
    binding = session.io_binding()
    binding.bind_cpu_input("left", left)
    binding.bind_output("product", "cpu", 0, product.dtype, product.shape, product.ctypes.data)

    def run(_: NDArray[Any]) -> NDArray[Any]:
        session.run_with_iobinding(binding)
        return product[ROWS].astype(np.float32)

    return run


def onnx_product(precision: str) -> bytes:
    """The ONNX graph: one node, whose right operand is an initializer.

    The left operand in int8 is unsigned: with a signed one it was 19 times slower (onnxruntime
    1.30 on x86), which is no ceiling.
    """
    from onnx import TensorProto, helper, numpy_helper

    operator, given, made = ("MatMul", TensorProto.FLOAT, TensorProto.FLOAT)
    if precision == "int8":
        operator, given, made = ("MatMulInteger", TensorProto.UINT8, TensorProto.INT32)
    graph = helper.make_graph(
        [helper.make_node(operator, ["left", "right"], ["product"])],
        "ceiling",
        [helper.make_tensor_value_info("left", given, (SIDE, SIDE))],
        [helper.make_tensor_value_info("product", made, (SIDE, SIDE))],
        [numpy_helper.from_array(operands(precision)[1], "right")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return bytes(model.SerializeToString())


# ---------------------------------------------------------------------------------- OpenVINO

# precision → names that the executed product's may have, and the end of its kernel's name.
_EXECUTED: Final = {
    "fp32": (("f32",), "f32"),
    "bf16": (("bf16",), "bf16"),
    "int8": (("u8", "i8"), "i8"),
}


def _open_openvino(job: Job) -> Runner:
    """float32, bfloat16 by the inference precision, int8 quantized.

    OpenVINO falls back without a word: without AVX-512 BF16 or AMX the hint ``bf16`` runs in
    float32, and uint8 activations that do not come from a FakeQuantize meet int8 weights in a
    float32 kernel, whose precision then still reads ``i8``. So the executed graph is asked for
    its kernel.
    """
    openvino = import_openvino()
    settings = {
        "INFERENCE_NUM_THREADS": job.threads,
        "NUM_STREAMS": 1,
        "INFERENCE_PRECISION_HINT": "bf16" if job.precision == "bf16" else "f32",
    }
    compiled = openvino_core().compile_model(openvino_product(job.precision), "CPU", settings)
    precision, kernel = executed_kernel(compiled)
    allowed, ending = _EXECUTED[job.precision]
    if precision not in allowed or not kernel.lower().endswith(ending):
        raise BackendUnavailableError(
            f"OpenVINO multiplies in {precision} ({kernel}) on this CPU, not in {job.precision}: "
            "leave this ceiling out"
        )
    request = compiled.create_infer_request()
    left = operands(job.precision)[0].astype(np.float32)
    request.set_input_tensor(openvino.Tensor(left))

    def run(_: NDArray[Any]) -> NDArray[Any]:
        request.infer()
        return np.array(request.get_output_tensor().data[ROWS], np.float32)

    return run


def executed_kernel(compiled: Any) -> tuple[str, str]:
    """(precision, kernel) of the only product in a compiled model, as OpenVINO names them."""
    for node in compiled.get_runtime_model().get_ordered_ops():
        told = node.get_rt_info()
        if told["layerType"].astype(str) in ("FullyConnected", "MatMul"):
            return told["runtimePrecision"].astype(str), told["primitiveType"].astype(str)
    return "an unknown precision", "no product in the executed graph"


def openvino_product(precision: str) -> Any:
    """OpenVINO's graph: float32 (SIDE, SIDE) × the constant right operand → float32."""
    openvino = import_openvino()
    from openvino import opset13 as ops

    # The transposed weights of a Linear need no turning.
    right = np.ascontiguousarray(operands(precision)[1].T)
    given = ops.parameter(right.shape, np.float32, name="left")
    left: Any = given
    weights: Any = ops.constant(right)
    if precision == "int8":
        low, high = (ops.constant(np.float32(end)) for end in (0, 255))
        left = ops.fake_quantize(given, low, high, low, high, 256)  # a scale of 1: exact
        scale = ops.constant(np.ones((len(right), 1), np.float32))
        weights = ops.multiply(ops.convert(weights, np.float32), scale)
    return openvino.Model([ops.matmul(left, weights, False, True)], [given], "ceiling")


# ----------------------------------------------------------------------------------- PyTorch


def _open_torch(job: Job) -> Runner:
    """`mm` in float32 and bfloat16, `_int_mm` in int8; sets the threads of the whole process."""
    import torch

    torch.set_num_threads(job.threads)
    # The left operand's 0…127 fit int8, which is the type that _int_mm takes.
    kind = {"fp32": torch.float32, "bf16": torch.bfloat16, "int8": torch.int8}[job.precision]
    left, right = (torch.from_numpy(factor).to(kind) for factor in operands(job.precision))
    multiply = torch._int_mm if job.precision == "int8" else torch.mm
    product = torch.empty(SIDE, SIDE, dtype=torch.int32 if job.precision == "int8" else kind)

    def run(_: NDArray[Any]) -> NDArray[Any]:
        with torch.inference_mode():
            multiply(left, right, out=product)
            rows: NDArray[np.float32] = product[ROWS].to(torch.float32).numpy()
        return rows

    return run


IN_ONNXRUNTIME: Final = Ceiling(_open_onnxruntime)
IN_OPENVINO: Final = Ceiling(_open_openvino)
IN_TORCH: Final = Ceiling(_open_torch)
