"""OpenVINO's IR, for its CPU plugin."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from levit.artifact import OPENVINO_FILE
from levit.errors import ExportError, brief
from levit.export.grids import Quantization
from levit.export.onnx.openvino_ops import OpenvinoOps
from levit.export.onnx.ops import weight_name
from levit.export.precision import PRECISIONS, Precision, rounded
from levit.export.targets.graph import GraphForm, versions_of
from levit.export.targets.target import Order, Target, Way, Written
from levit.models.model import Model
from levit.runtime.backends import BACKENDS
from levit.runtime.cpus import cpu_features, cpu_precisions
from levit.runtime.openvino_file import METADATA
from levit.runtime.openvino_module import import_openvino, openvino_core

__all__ = ["OPENVINO", "prepare_openvino", "write_openvino"]

# Its graph is fp32, with smaller constants: see `write_openvino`.
_FORM: Final = GraphForm(dialect=OpenvinoOps, typed=False)

# OpenVINO's own names, with a number that goes on for as long as the process.
_GENERATED: Final = re.compile(r"[A-Z]\w*_\d+")
# Scalars and the like gain nothing, and may be read by operations that want them as they are.
_SMALLEST: Final = 16


def _require(precision: str) -> None:
    """Raise `BackendUnavailableError` where OpenVINO is missing."""
    obstacle = BACKENDS["openvino"].obstacle("cpu")
    if obstacle is not None:
        raise obstacle.error("target 'openvino'")


def prepare_openvino(model: Model, precision: str) -> Model:
    """Products over tokens, (B, N, C).

    OpenVINO computes in channels-last layouts, where a token is one piece of memory: the products
    take bias and HardSwish into them, and scores, bias table, softmax, product and HardSwish of
    each attention become one kernel. Measured in docs/decisions.md.
    """
    return model.with_plan(channels_first=False)


def write_openvino(order: Order) -> Written:
    """Write ``model.xml`` and ``model.bin``.

    The weights are stored in the artifact's precision. The precision of the arithmetic is chosen
    when OpenVINO loads them, because its own choice depends on the machine.
    """
    openvino = import_openvino()
    from openvino import passes

    proto = _FORM.emit(order)
    try:
        model = openvino_core().read_model(proto.SerializeToString(deterministic=True))
        # Shapes are left, with which ONNX's Gemm and Conv biases are read.
        folding = passes.Manager()
        folding.register_pass(passes.ConstantFolding())
        folding.run_passes(model)
        if order.quantization is not None:
            _to_integers(openvino, model, order.quantization)
        elif order.floats != "fp32":
            _compress(openvino, model, PRECISIONS[order.floats], order.islands)
        for entry in proto.metadata_props:
            model.set_rt_info(entry.value, METADATA[entry.key])
        _name(model)
        openvino.save_model(model, order.folder / OPENVINO_FILE, compress_to_fp16=False)
    except RuntimeError as error:
        raise ExportError(
            f"OpenVINO {openvino.__version__} cannot write this network ({brief(error)})"
        ) from error
    return Written(toolchain=versions_of("openvino"))


def _ways(model: Model, precision: str) -> Sequence[Way]:
    if precision == "bf16" and not cpu_precisions(cpu_features())["bf16"]:
        return ()
    if precision == "int8" or not model.family.has_grid:
        return (Way(),)
    return (Way(), Way(form="channels first", prepare=_over_the_grid))


def _over_the_grid(model: Model, precision: str) -> Model:
    return model.with_plan(channels_first=True)


def _name(model: Any) -> None:
    """Give nodes without a name of ours one that is the same in every process."""
    for number, node in enumerate(model.get_ordered_ops()):
        if _GENERATED.fullmatch(node.get_friendly_name()):
            node.set_friendly_name(f"{node.get_type_name()}.{number}")


def _to_integers(openvino: Any, model: Any, quantization: Quantization) -> None:
    """Replace the weights of integer layers by int8, a Convert and their scales."""
    from openvino import opset13

    weights = {weight_name(path): grids for path, grids in quantization.layers.items()}
    for constant in model.get_ops():
        grids = weights.get(constant.get_friendly_name())
        if grids is None or constant.get_type_name() != "Constant":
            continue
        name, values = constant.get_friendly_name(), constant.data
        # Linears over tokens have their transpose, (I, O).
        transposed = values.ndim == 2 and not _reads_rows(constant)
        axis = 1 if transposed else 0
        scale = grids.weight_scale.reshape([-1 if i == axis else 1 for i in range(values.ndim)])
        readers = list(constant.output(0).get_target_inputs())
        integers = np.rint(values / scale).astype(np.int8)
        small = opset13.constant(integers, openvino.Type.i8)
        small.set_friendly_name(f"{name}/int8")
        whole = opset13.convert(small, "f32")
        whole.set_friendly_name(f"{name}/float32")
        factors = opset13.constant(scale.astype(np.float32))
        factors.set_friendly_name(f"{name}/scale")
        product = opset13.multiply(whole, factors)
        product.set_friendly_name(name)
        for reader in readers:
            reader.replace_source_output(product.output(0))


def _reads_rows(constant: Any) -> bool:
    """True where the product that reads a matrix transposes it: rows are output channels."""
    (reader,) = constant.output(0).get_target_inputs()
    return bool(reader.get_node().get_attributes().get("transpose_b", False))


def _compress(openvino: Any, model: Any, precision: Precision, islands: Collection[str]) -> None:
    """Replace float32 constants by smaller ones and a Convert, which is folded at loading.

    Args:
        islands: names of those that stay float32, beside those that leave the precision's range.
    """
    from openvino import opset13

    for constant in model.get_ops():
        if constant.get_type_name() != "Constant":
            continue
        if constant.get_element_type() != openvino.Type.f32:
            continue
        values = constant.data
        if values.size < _SMALLEST:
            continue
        name = constant.get_friendly_name()
        if name in islands or np.abs(values).max() > precision.largest:
            continue
        readers = list(constant.output(0).get_target_inputs())
        small = openvino.op.Constant(_tensor(openvino, values, precision.dtype))
        small.set_friendly_name(f"{name}/{precision.dtype}")
        whole = opset13.convert(small, "f32")
        whole.set_friendly_name(name)
        for reader in readers:
            reader.replace_source_output(whole.output(0))


def _tensor(openvino: Any, values: NDArray[np.float32], dtype: str) -> Any:
    """A tensor of the smaller type that holds its own memory."""
    kinds = {"float16": openvino.Type.f16, "bfloat16": openvino.Type.bf16}
    tensor = openvino.Tensor(kinds[dtype], openvino.Shape(values.shape))
    # NumPy knows no bfloat16: OpenVINO shows its bits as another type of two bytes.
    tensor.data.view(np.uint16)[...] = rounded(values, dtype).view(np.uint16)
    return tensor


OPENVINO: Final = Target(
    format="openvino",
    payload=OPENVINO_FILE,
    precisions=("fp32", "fp16", "bf16", "int8"),
    distribution="openvino",
    min_version="2025.0",
    prepare=prepare_openvino,
    write=write_openvino,
    require=_require,
    ways=_ways,
)
